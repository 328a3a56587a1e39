//! Delivers events to watchers, in ledger order, at least once.
//!
//! The writer hands each batch to the hub. The hub keeps the latest events in memory, decoded once. One
//! thread, the tailer, puts each event into the queues of the watchers whose filter it passes
//! (`fanout.rs`, `index.rs`). Each watcher reads at its own pace (`watcher.rs`): from its queue while it
//! keeps up, otherwise from memory or from the ledger (`past.rs`). A slow watcher takes memory for one
//! queue; it is never dropped and never slows others.

mod catalog;
mod fanout;
mod index;
mod past;
mod recent;
mod watcher;

use std::{
    fmt::Display,
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
    vault::Vault,
    view::View,
};
use fanout::{End, Shared};
use past::{LedgerPast, Past};

/// Maximum number of events in the queue of a watcher. A watcher takes a whole queue at once, so up to
/// twice as many may wait for its caller.
const QUEUE_MAX: usize = 256;

/// Why a watcher ended.
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

impl WatchError {
    pub(crate) fn unreadable(error: impl Display) -> Self {
        Self::Unreadable(error.to_string())
    }
}

/// Takes events from the writer and delivers them to watchers.
#[derive(Debug)]
pub struct Hub {
    shared: Arc<Shared>,
    /// The thread that puts events into queues; the hub unparks it.
    tailer: Thread,
}

impl Hub {
    /// A hub at the head of the ledger that keeps up to `recent_max` events in memory. When its thread
    /// ends, each watcher ends after it has read all events up to then.
    ///
    /// # Errors
    /// The thread cannot be started.
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
                // Otherwise the watchers would wait for ever.
                tailer.end(End::Failed);
            }
        };
        let tailer = threads.spawn("tailer", Stage::Watchers, || {}, run)?;
        Ok(Self { shared, tailer })
    }

    /// Publishes the events of the entries before `head`. Only the writer calls this, in order, after
    /// the view has applied the entries, and then [`Self::wake`].
    pub fn publish(&self, events: Vec<Arc<Event>>, head: u64) {
        self.shared.extend(events, head);
    }

    /// Has what is published brought to the watchers that wait.
    pub fn wake(&self) {
        self.tailer.unpark();
    }

    /// A watcher that starts at `start`.
    #[must_use]
    pub fn watch(&self, start: u64, filter: Filter) -> Watcher {
        Watcher::new(Arc::clone(&self.shared), start, filter)
    }

    /// The index of the first entry that is not published.
    #[must_use]
    pub fn head(&self) -> u64 {
        self.shared.head()
    }

    /// Some events from `cursor` on, and the index to continue from. The step may go a little beyond
    /// `end`. Events from the ledger are only those that may pass the filter; from memory they are all.
    /// Blocking.
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

    /// The event of the entry at an index, published or not; none if the entry has no event. It is read
    /// from the ledger. Blocking.
    ///
    /// # Errors
    /// The ledger could not be read.
    pub fn event_on_record(&self, index: u64) -> Result<Option<Arc<Event>>, WatchError> {
        let everything = Filter { kinds: EventKind::ALL.into(), ..Filter::default() };
        let gathered = self.shared.past.read(index, index.saturating_add(1), &everything)?;
        let mut events = gathered.posts.iter().map(|post| &post.event);
        Ok(events.find(|event| event.index == index).cloned())
    }
}

#[cfg(test)]
mod tests;
