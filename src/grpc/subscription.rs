//! The calls of `consent.v1.WatchService` about durable subscriptions, but for the stream itself.

use std::sync::Arc;

use super::{blocking, convert};
use crate::{node::Node, proto, status::Fault};

/// Creates a subscription.
pub(super) async fn create(
    node: &Arc<Node>,
    request: proto::CreateSubscriptionRequest,
) -> Result<proto::CreateSubscriptionResponse, Fault> {
    let created = node.create_subscription(convert::new_subscription(request)?).await?;
    Ok(proto::CreateSubscriptionResponse {
        subscription: Some(convert::subscription(&created.subscription)),
        created: created.created,
        webhook_secret: String::new(),
        revision: node.revision(),
    })
}

/// Lists subscriptions.
pub(super) async fn list(
    node: &Arc<Node>,
    request: proto::ListSubscriptionsRequest,
) -> Result<proto::ListSubscriptionsResponse, Fault> {
    todo!("{node:?} {request:?}")
}

/// Ends a subscription.
pub(super) async fn delete(
    node: &Arc<Node>,
    request: proto::DeleteSubscriptionRequest,
) -> Result<proto::DeleteSubscriptionResponse, Fault> {
    let index =
        node.delete_subscription(convert::subscription_name(&request.name, "name")?).await?;
    Ok(proto::DeleteSubscriptionResponse { index, revision: node.revision() })
}

/// Who has heard an event.
pub(super) async fn propagation(
    node: &Arc<Node>,
    request: proto::GetPropagationRequest,
) -> Result<proto::GetPropagationResponse, Fault> {
    let own = Arc::clone(node);
    let report = blocking(move || own.propagation(request.index)).await?;
    todo!("{report:?}")
}

/// Lists dead letters.
pub(super) async fn dead_letters(
    node: &Arc<Node>,
    request: proto::ListDeadLettersRequest,
) -> Result<proto::ListDeadLettersResponse, Fault> {
    todo!("{node:?} {request:?}")
}

/// Delivers dead letters once more.
pub(super) async fn replay(
    node: &Arc<Node>,
    request: proto::ReplayDeadLettersRequest,
) -> Result<proto::ReplayDeadLettersResponse, Fault> {
    todo!("{node:?} {request:?}")
}
