//! `AuditService.Disclose`: a disclosure, made while the call waits, and its bytes.
//!
//! The file is handed out only once the ledger says so: see [`crate::node`]. If the caller goes away before,
//! nothing is recorded of a file, and the file is gone.

use std::{io::Read, pin::Pin, sync::Arc};

use futures_util::Stream;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};

use super::{blocking, convert};
use crate::{
    node::{Bounds, DiscloseError, Disclosing, Node, Spool},
    proto::{
        self, DiscloseResponse, DisclosureBegun, DisclosureProgress, disclose_response::Message,
    },
    status::Fault,
};

/// The most calls at a time. Other writes wait while one begins.
pub(super) const DISCLOSURES_MAX: usize = 2;
/// The most bytes of the file in a message.
const CONTENT_BYTES_MAX: usize = 64 << 10;
/// How many messages wait for the client, at most.
const MESSAGES_AHEAD_MAX: usize = 16;
/// After how many data subjects the client hears of the progress.
const PROGRESS_STEP: u64 = 1_000;

/// The messages of a call.
pub(super) type DisclosureStream =
    Pin<Box<dyn Stream<Item = Result<DiscloseResponse, Status>> + Send>>;
type Sender = mpsc::Sender<Result<DiscloseResponse, Status>>;

pub(super) fn disclose(
    node: &Arc<Node>,
    request: &proto::DiscloseRequest,
    place: OwnedSemaphorePermit,
) -> Result<Response<DisclosureStream>, Fault> {
    let disclosing = convert::disclosing(&node.catalog().catalog, request)?;
    let (sender, messages) = mpsc::channel(MESSAGES_AHEAD_MAX);
    let node = Arc::clone(node);
    tokio::spawn(async move {
        // A client that is gone hears of no fault.
        if let Err(fault) = run(&node, disclosing, &sender).await
            && !sender.is_closed()
        {
            drop(sender.send(Err(fault.into())).await);
        }
        drop(place);
    });
    Ok(Response::new(Box::pin(ReceiverStream::new(messages))))
}

async fn run(node: &Arc<Node>, disclosing: Disclosing, sender: &Sender) -> Result<(), Fault> {
    let bounds = node.bound_disclosure(disclosing.whose.clone()).await?;
    let checkpoint = node.released_at_least(bounds.revision).await?;
    let (writer, progress) = (Arc::clone(node), sender.clone());
    let (disclosing, bounds, spool) = blocking(move || {
        let persons = bounds.persons;
        let mut tell = |done| tell_progress(&progress, done, persons);
        let spool = writer.spool_disclosure(&disclosing, &bounds, &checkpoint, &mut tell)?;
        Ok::<_, DiscloseError>((disclosing, bounds, spool))
    })
    .await?;
    if sender.is_closed() {
        return Ok(());
    }
    let index = node.record_disclosure(&disclosing, &bounds, &spool).await?;
    let begun = Message::Begun(begun(&bounds, &spool, index));
    if sender.send(Ok(message(begun))).await.is_err() {
        return Ok(());
    }
    let content = sender.clone();
    blocking(move || send_content(spool, &content)).await
}

/// Tells the client how far the file is, now and then, and answers whether the client is still there. One that
/// does not read misses some.
fn tell_progress(sender: &Sender, persons_done: u64, persons: u64) -> bool {
    if persons_done.is_multiple_of(PROGRESS_STEP) {
        let progress = DisclosureProgress { persons_done, persons };
        let _ = sender.try_send(Ok(message(Message::Progress(progress))));
    }
    !sender.is_closed()
}

fn begun(bounds: &Bounds, spool: &Spool, index: u64) -> DisclosureBegun {
    DisclosureBegun {
        revision: bounds.revision,
        persons: bounds.persons,
        asserted_links_left_out: bounds.asserted_left_out,
        file_bytes: spool.bytes,
        digest: spool.digest.to_vec(),
        index,
    }
}

fn send_content(mut spool: Spool, sender: &Sender) -> Result<(), Fault> {
    let mut left = spool.bytes;
    while left > 0 {
        let mut content = Vec::new();
        let part = left.min(CONTENT_BYTES_MAX as u64);
        let read = (&mut spool.file).take(part).read_to_end(&mut content);
        let read = read.map_err(|error| Fault::Internal(format!("a disclosure: {error}")))? as u64;
        if read != part {
            return Err(Fault::Internal("a disclosure ended early".to_owned()));
        }
        left -= read;
        if sender.blocking_send(Ok(message(Message::Content(content)))).is_err() {
            break;
        }
    }
    Ok(())
}

fn message(message: Message) -> DiscloseResponse {
    DiscloseResponse { message: Some(message) }
}
