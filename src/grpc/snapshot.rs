//! A snapshot as the beginning of a stream: one message a data subject, and one at the end.

use std::{sync::Arc, vec};

use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::blocking;
use crate::{
    messages::{snapshot_end, snapshot_subject},
    node::{Node, SnapshotReader, SnapshotSubject, Snapshotting, revision_of_token},
    proto::{self, watch_response::Message},
    status::Fault,
};

/// The snapshot at the start of a watch.
pub(super) struct Beginning {
    reader: SnapshotReader,
    page: vec::IntoIter<SnapshotSubject>,
    revision: u64,
    subjects: u64,
    drain: CancellationToken,
}

impl Beginning {
    /// A snapshot of the present state or, with a token, the rest of an earlier one.
    pub(super) async fn new(
        node: &Arc<Node>,
        snapshotting: Snapshotting,
        token: Vec<u8>,
        drain: CancellationToken,
    ) -> Result<Self, Fault> {
        let revision = match &*token {
            [] => snapshotting.revision,
            token => revision_of_token(token)?,
        };
        let (node, snapshotting) = (Arc::clone(node), Snapshotting { revision, ..snapshotting });
        let reader = blocking(move || node.snapshot(snapshotting, &token)).await?;
        Ok(Self { reader, page: Vec::new().into_iter(), revision, subjects: 0, drain })
    }

    /// The revision of the snapshot, which is the index of the first event after it.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// The next message, and whether it is the last.
    pub(super) async fn next(&mut self) -> Result<(proto::WatchResponse, bool), Status> {
        let message = loop {
            if let Some(subject) = self.page.next() {
                self.subjects += 1;
                break Message::Snapshot(snapshot_subject(&subject));
            }
            let page = tokio::select! {
                biased;
                () = self.drain.cancelled() => return Err(Fault::ShuttingDown.into()),
                page = self.reader.next_page() => page?,
            };
            if page.is_empty() {
                break Message::SnapshotEnd(snapshot_end(self.revision, self.subjects));
            }
            self.page = page.into_iter();
        };
        let is_last = matches!(message, Message::SnapshotEnd(_));
        Ok((proto::WatchResponse { message: Some(message) }, is_last))
    }
}
