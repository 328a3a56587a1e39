//! `consent.v1.WatchService/Consume`: a subscription's stream to its consumer.

use std::{pin::Pin, sync::Arc};

use futures_util::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use crate::{node::Node, proto, telemetry::Metrics};

/// What a consumer is sent.
pub(super) type Messages =
    Pin<Box<dyn Stream<Item = Result<proto::ConsumeResponse, Status>> + Send>>;

/// Lets a consumer in.
pub(super) async fn consume(
    node: &Arc<Node>,
    metrics: &Arc<Metrics>,
    drain: &CancellationToken,
    requests: Streaming<proto::ConsumeRequest>,
) -> Result<Messages, Status> {
    todo!("{node:?} {metrics:?} {drain:?} {requests:?}")
}
