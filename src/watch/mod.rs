//! Telling others what changed, in ledger order, at least once.
//!
//! The writer tells the hub of each batch; the hub keeps the latest events in memory, decoded once,
//! and one thread of its own puts each event into the queues of those whose filter it passes
//! (`fanout.rs`, `index.rs`). Each watcher reads at its own pace (`watcher.rs`): from its queue while
//! it keeps up, from memory or from the ledger (`past.rs`) when it does not. So a slow watcher costs
//! its queue, is never dropped, and slows nobody.

mod catalog;
mod fanout;
mod index;
mod past;
mod recent;
mod watcher;

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread::Thread,
};

pub use recent::Post;
use thiserror::Error;
pub use watcher::{Heard, Watcher};

use crate::{
    backend::LogBackend,
    domain::{EventKind, Filter},
    event::Event,
    shutdown::{Stage, Threads},
    vault::{Vault, VaultError},
    view::{View, ViewError},
};
use fanout::{End, Shared};
use past::{LedgerPast, Past};

/// How many events wait for a watcher before it must read on by itself. As many again may have been
/// taken from its queue at once, and wait to be delivered.
const QUEUE_MAX: usize = 256;

/// What a watcher is told next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// An event, and the positions of the changes that pass the filter.
    Event(Arc<Event>, Vec<usize>),
    /// Everything before `next_index` was delivered or did not pass the filter.
    CaughtUp {
        /// The index to resume from.
        next_index: u64,
    },
}

/// Why a watcher hears nothing more.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WatchError {
    /// The node is closing; resume from this index elsewhere or later.
    #[error("the node is shutting down; resume from index {next_index}")]
    Closing {
        /// The index to resume from.
        next_index: u64,
    },
    /// The ledger or the vault could not be read.
    #[error("stored state could not be read: {0}")]
    Unreadable(String),
}

impl From<VaultError> for WatchError {
    fn from(error: VaultError) -> Self {
        Self::Unreadable(error.to_string())
    }
}

impl From<ViewError> for WatchError {
    fn from(error: ViewError) -> Self {
        Self::Unreadable(error.to_string())
    }
}

/// Where the writer tells and watchers listen.
#[derive(Debug)]
pub struct Hub {
    shared: Arc<Shared>,
    /// The thread that puts events into queues, to wake it.
    tailer: Thread,
}

impl Hub {
    /// A hub at the head of the ledger that keeps up to `recent_max` events in memory. When its thread
    /// ends, all watchers end, once each has been told what was there.
    ///
    /// # Errors
    /// Its thread can not be started.
    pub fn new(
        backend: Arc<dyn LogBackend>,
        vault: Arc<Vault>,
        view: Arc<View>,
        head: u64,
        recent_max: usize,
        threads: &Threads,
    ) -> io::Result<Self> {
        let past = Arc::new(LedgerPast::new(backend, vault, view));
        Self::over(past, head, recent_max, QUEUE_MAX, threads)
    }

    fn over(
        past: Arc<dyn Past>,
        head: u64,
        recent_max: usize,
        queue_max: usize,
        threads: &Threads,
    ) -> io::Result<Self> {
        let shutdown = threads.shutdown().clone();
        let shared = Arc::new(Shared::new(past, head, recent_max, queue_max, shutdown));
        let tailer = Arc::clone(&shared);
        let run = move || {
            if catch_unwind(AssertUnwindSafe(|| tailer.tail())).is_err() {
                // Listeners must not take silence for news that there is none.
                tailer.end(End::Failed);
            }
        };
        let tailer = threads.spawn("tailer", Stage::Watchers, || {}, run)?;
        Ok(Self { shared, tailer })
    }

    /// Tells of the events among the entries before `head`. Called by the writer alone, in order,
    /// after the view has applied them.
    pub fn tell(&self, events: Vec<Arc<Event>>, head: u64) {
        self.shared.extend(events, head);
        self.tailer.unpark();
    }

    /// A watcher that starts at `start`.
    #[must_use]
    pub fn watch(&self, start: u64, filter: Filter) -> Watcher {
        Watcher::new(Arc::clone(&self.shared), start, filter)
    }

    /// The next index of which watchers were not told.
    #[must_use]
    pub fn head(&self) -> u64 {
        self.shared.head()
    }

    /// Events from `cursor` on, before `end` or a little beyond it, as many as one step reads, and the
    /// index from which to go on: from memory all that there are, from the ledger those that the
    /// filter may want. Blocking.
    ///
    /// # Errors
    /// The ledger could not be read.
    pub fn events_between(
        &self,
        cursor: u64,
        end: u64,
        filter: &Filter,
    ) -> Result<(Vec<Arc<Event>>, u64), WatchError> {
        let gathered = match self.shared.recent(cursor) {
            Some(gathered) => gathered,
            None => self.shared.past.read(cursor, end, filter)?,
        };
        let events = gathered.posts.iter().map(|post| Arc::clone(&post.event));
        Ok((events.collect(), gathered.next))
    }

    /// The event at an index, as the ledger has it, be it told or not; none if the entry is none.
    /// Blocking.
    ///
    /// # Errors
    /// The ledger could not be read.
    pub fn event_on_record(&self, index: u64) -> Result<Option<Arc<Event>>, WatchError> {
        let everything = Filter { kinds: EventKind::ALL.into(), ..Filter::default() };
        let gathered = self.shared.past.read(index, index.saturating_add(1), &everything)?;
        let own = gathered.posts.iter().find(|post| post.event.index == index);
        Ok(own.map(|post| Arc::clone(&post.event)))
    }
}

#[cfg(test)]
mod tests;
