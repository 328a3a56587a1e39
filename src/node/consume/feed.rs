//! The messages for one consumer: a snapshot first, if it is not acknowledged, then events.
//!
//! A read that is cancelled continues with the next call: nothing is lost, and nothing is read twice.
//! That matters because each message from a client interrupts the read.

use std::{future::poll_fn, sync::Arc, vec};

use tokio::task::spawn_blocking;
use tokio_util::sync::ReusableBoxFuture;

use super::Delivery;
use crate::{
    domain::Subscription,
    node::{Node, SnapshotReader, SnapshotSubject, Snapshotting},
    vault::Vault,
    watch::{Heard, WatchError, Watcher},
};

/// A source of messages that reads one at a time, and never ahead.
#[derive(Debug)]
pub(super) struct Feed {
    reading: ReusableBoxFuture<'static, (Source, Result<Delivery, WatchError>)>,
    /// The source while no read is in progress.
    idle: Option<Source>,
}

#[derive(Debug)]
struct Source {
    /// None once all of it was returned, or if there is none to deliver.
    snapshot: Option<SnapshotSource>,
    /// Number of data subjects of the snapshot that were returned.
    snapshot_subjects: u64,
    events: Watcher,
    subscription: Arc<Subscription>,
    shard: u32,
    /// To tell the shard of data subjects.
    vault: Arc<Vault>,
}

/// The rest of a snapshot.
#[derive(Debug)]
pub(super) enum SnapshotSource {
    /// To open it reads the ledger: the node, the snapshot, and the token to resume from.
    Unopened(Arc<Node>, Snapshotting, Vec<u8>),
    Open(SnapshotReader, vec::IntoIter<SnapshotSubject>),
}

impl Feed {
    /// The snapshot, and then the events of one shard.
    pub(super) fn new(
        snapshot: Option<SnapshotSource>,
        events: Watcher,
        (subscription, shard): (Arc<Subscription>, u32),
        vault: Arc<Vault>,
    ) -> Self {
        let source = Source { snapshot, snapshot_subjects: 0, events, subscription, shard, vault };
        Self { reading: ReusableBoxFuture::new(std::future::pending()), idle: Some(source) }
    }

    /// The next message; an event as in its first delivery. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Delivery, WatchError> {
        if let Some(source) = self.idle.take() {
            self.reading.set(source.read());
        }
        let (source, delivery) = poll_fn(|context| self.reading.poll(context)).await;
        self.idle = Some(source);
        delivery
    }
}

impl Source {
    async fn read(mut self) -> (Self, Result<Delivery, WatchError>) {
        let delivery = self.next().await;
        (self, delivery)
    }

    async fn next(&mut self) -> Result<Delivery, WatchError> {
        let spec = &self.subscription.spec;
        if let Some(snapshot) = self.snapshot.take() {
            let (subject, rest) = snapshot.next().await?;
            self.snapshot = rest;
            return Ok(match subject {
                Some(subject) => {
                    self.snapshot_subjects += 1;
                    Delivery::Snapshot(Box::new(subject))
                }
                None => Delivery::SnapshotEnd {
                    revision: spec.start_index,
                    subjects: self.snapshot_subjects,
                },
            });
        }
        loop {
            match self.events.next().await? {
                Heard::CaughtUp { next_index } => return Ok(Delivery::CaughtUp { next_index }),
                Heard::Event(post, _) => {
                    let (shard, secret) = ((self.shard, spec.shards), self.vault.ledger_secret());
                    if let Some(passing) = post.event.passing_in(&spec.filter, shard, secret) {
                        let event = Arc::clone(&post.event);
                        return Ok(Delivery::Event { event, passing, attempt: 1 });
                    }
                }
            }
        }
    }
}

impl SnapshotSource {
    /// The next data subject and the rest of the snapshot; neither at its end.
    async fn next(mut self) -> Result<(Option<SnapshotSubject>, Option<Self>), WatchError> {
        loop {
            let (mut reader, mut page) = match self {
                Self::Open(reader, page) => (reader, page),
                Self::Unopened(node, snapshotting, token) => {
                    let opening = spawn_blocking(move || node.snapshot(snapshotting, &token));
                    let reader = opening.await.map_err(WatchError::unreadable)?;
                    (reader.map_err(WatchError::unreadable)?, Vec::new().into_iter())
                }
            };
            if let Some(subject) = page.next() {
                return Ok((Some(subject), Some(Self::Open(reader, page))));
            }
            let page = reader.next_page().await.map_err(WatchError::unreadable)?;
            if page.is_empty() {
                return Ok((None, None));
            }
            self = Self::Open(reader, page.into_iter());
        }
    }
}
