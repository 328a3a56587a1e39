//! Where a consumer's messages come from: a snapshot, if it must hear one, and then the events.
//!
//! What is read goes on where it was when the one who waits for it turns to something else and
//! comes back, as often as a client sends a message: nothing is lost, and nothing is read twice.

use std::{future::poll_fn, sync::Arc, vec};

use tokio::task::spawn_blocking;
use tokio_util::sync::ReusableBoxFuture;

use crate::{
    event::Event,
    node::{Node, SnapshotReader, SnapshotSubject, Snapshotting},
    watch::{Told, WatchError, Watcher},
};

/// What comes next.
#[derive(Debug)]
pub(super) enum Fed {
    /// A data subject of the snapshot.
    Subject(Box<SnapshotSubject>),
    /// The snapshot was told to its end.
    SnapshotEnd,
    /// An event of the shard, and the positions of the changes that pass the filter.
    Event(Arc<Event>, Vec<usize>),
    /// Nothing before this index is still to come.
    CaughtUp(u64),
}

/// A source that is read one message at a time, and never ahead.
#[derive(Debug)]
pub(super) struct Feed {
    reading: ReusableBoxFuture<'static, (Source, Result<Fed, WatchError>)>,
    /// The source, while it is not being read.
    idle: Option<Source>,
}

#[derive(Debug)]
struct Source {
    /// None once it was told, or if there is none to tell.
    snapshot: Option<Telling>,
    events: Watcher,
    shard: u32,
    shards: u32,
}

/// A snapshot on its way.
#[derive(Debug)]
enum Telling {
    /// To open it reads the ledger.
    Unopened(Arc<Node>, Snapshotting, Vec<u8>),
    Open(SnapshotReader, vec::IntoIter<SnapshotSubject>),
}

impl Feed {
    /// Events of one of so many shards.
    pub(super) fn new(events: Watcher, shard: u32, shards: u32) -> Self {
        let idle = Some(Source { snapshot: None, events, shard, shards });
        Self { reading: ReusableBoxFuture::new(std::future::pending()), idle }
    }

    /// With a snapshot first, from behind a token on.
    pub(super) fn with_snapshot(self, node: Arc<Node>, what: Snapshotting, token: Vec<u8>) -> Self {
        let snapshot = Some(Telling::Unopened(node, what, token));
        let idle = self.idle.map(|source| Source { snapshot, ..source });
        Self { idle, ..self }
    }

    /// What comes next, as soon as it is there. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Fed, WatchError> {
        if let Some(source) = self.idle.take() {
            self.reading.set(source.read());
        }
        let (source, fed) = poll_fn(|context| self.reading.poll(context)).await;
        self.idle = Some(source);
        fed
    }
}

impl Source {
    async fn read(mut self) -> (Self, Result<Fed, WatchError>) {
        let fed = self.next().await;
        (self, fed)
    }

    async fn next(&mut self) -> Result<Fed, WatchError> {
        if let Some(snapshot) = self.snapshot.take() {
            let (subject, rest) = snapshot.next().await?;
            self.snapshot = rest;
            return Ok(subject.map_or(Fed::SnapshotEnd, |own| Fed::Subject(Box::new(own))));
        }
        loop {
            match self.events.next().await? {
                Told::CaughtUp { next_index } => return Ok(Fed::CaughtUp(next_index)),
                Told::Event(event, passing) if event.is_of_shard(self.shard, self.shards) => {
                    return Ok(Fed::Event(event, passing));
                }
                Told::Event(..) => {}
            }
        }
    }
}

impl Telling {
    /// The next data subject and the rest of the snapshot; neither at its end.
    async fn next(mut self) -> Result<(Option<SnapshotSubject>, Option<Self>), WatchError> {
        let unreadable = |error: &dyn std::fmt::Display| WatchError::Unreadable(error.to_string());
        loop {
            let (mut reader, mut page) = match self {
                Self::Open(reader, page) => (reader, page),
                Self::Unopened(node, what, token) => {
                    let opening = spawn_blocking(move || node.snapshot(what, &token)).await;
                    let reader = opening.map_err(|error| unreadable(&error))?;
                    (reader.map_err(|error| unreadable(&error))?, Vec::new().into_iter())
                }
            };
            if let Some(subject) = page.next() {
                return Ok((Some(subject), Some(Self::Open(reader, page))));
            }
            let page = reader.next_page().await.map_err(|error| unreadable(&error))?;
            if page.is_empty() {
                return Ok((None, None));
            }
            self = Self::Open(reader, page.into_iter());
        }
    }
}
