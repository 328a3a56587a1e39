//! A reader of events, at its own pace.
//!
//! A watcher that is behind reads from memory, or from the ledger for older events. When it reaches the
//! tailer it takes a seat: from then on events that pass its filter come through a queue and wake it.
//! If the queue fills up, the watcher loses the seat and reads by itself again.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    WatchError,
    fanout::{End, Received, Seat, Shared, Step},
    recent::{Gathered, Post},
};
use crate::domain::Filter;

/// How often a waiting watcher reports a head that moved without an event for it.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// A reader of events, at its own pace.
#[derive(Debug)]
pub struct Watcher {
    shared: Arc<Shared>,
    filter: Arc<Filter>,
    /// Its seat in the fan-out; none while it reads by itself.
    seat: Option<Seat>,
    /// Everything before this index was returned, is in `gathered`, or did not pass the filter.
    cursor: u64,
    gathered: VecDeque<Arc<Post>>,
    /// The index of the last [`Heard::CaughtUp`]; none if an event came since.
    reached: Option<u64>,
    progress_due: Instant,
}

/// An item that a watcher returns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// An event, and the positions of the changes that pass the filter.
    Event(Arc<Post>, Vec<usize>),
    /// Everything before `next_index` was delivered or did not pass the filter.
    CaughtUp {
        /// The index to resume from.
        next_index: u64,
    },
}

/// When a watcher returns [`Heard::CaughtUp`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// Never.
    Never,
    /// When it reaches the head, and then about once a second if the head moved.
    Regularly,
    /// At once if there is no event.
    AtOnce,
}

impl Watcher {
    pub(super) fn new(shared: Arc<Shared>, start: u64, filter: Filter) -> Self {
        Self {
            shared,
            filter: Arc::new(filter),
            seat: None,
            cursor: start,
            gathered: VecDeque::new(),
            reached: None,
            progress_due: Instant::now() + PROGRESS_INTERVAL,
        }
    }

    /// The next event. [`Heard::CaughtUp`] comes once each time that the watcher reaches the head as it
    /// was at the call; and, while it waits, about once a second if the head moved without an event for
    /// it. Cancel-safe.
    ///
    /// # Errors
    /// The ledger could not be read, or the node is closing.
    pub async fn next(&mut self) -> Result<Heard, WatchError> {
        self.hear(Progress::Regularly).await
    }

    /// The next event; never [`Heard::CaughtUp`]. Cancel-safe.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub async fn next_event(&mut self) -> Result<Heard, WatchError> {
        self.hear(Progress::Never).await
    }

    /// The next event before the present head, or [`Heard::CaughtUp`] with that head or a later one.
    /// Cancel-safe.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub async fn next_or_caught_up(&mut self) -> Result<Heard, WatchError> {
        self.hear(Progress::AtOnce).await
    }

    async fn hear(&mut self, progress: Progress) -> Result<Heard, WatchError> {
        let mut head = self.shared.head();
        loop {
            if let Some(heard) = self.gathered() {
                self.reached = None;
                return Ok(heard);
            }
            let Some(seat) = &self.seat else {
                self.read_on().await?;
                head = self.shared.head();
                continue;
            };
            let reached = match seat.take(&mut self.gathered) {
                Received::Posts => continue,
                Received::Ended(End::Detached(next)) => {
                    (self.cursor, self.seat) = (next, None);
                    continue;
                }
                Received::Ended(end) => return Err(self.ended(end)),
                Received::Nothing(reached) => reached,
            };
            self.cursor = reached;
            let is_reported = self.reached.is_some_and(|reported| reported >= head);
            if progress == Progress::AtOnce || progress == Progress::Regularly && !is_reported {
                if reached >= head {
                    self.reached = Some(reached);
                    self.progress_due = Instant::now() + PROGRESS_INTERVAL;
                    return Ok(Heard::CaughtUp { next_index: reached });
                }
                self.shared.ask(head, &seat.listener);
            }
            if progress == Progress::Regularly && is_reported {
                tokio::select! {
                    biased;
                    () = seat.listener.wake.notified() => {}
                    () = tokio::time::sleep_until(self.progress_due) => {
                        self.progress_due = Instant::now() + PROGRESS_INTERVAL;
                        head = self.shared.head();
                    }
                }
            } else {
                seat.listener.wake.notified().await;
            }
        }
    }

    /// The next gathered event that passes the filter.
    fn gathered(&mut self) -> Option<Heard> {
        loop {
            let post = self.gathered.pop_front()?;
            if let Some(passing) = post.event.passing(&self.filter) {
                return Some(Heard::Event(post, passing));
            }
        }
    }

    /// Gathers events from the cursor on, and takes a seat if they reach the tailer.
    async fn read_on(&mut self) -> Result<(), WatchError> {
        // Reading from memory never waits, and perhaps no event passes: let other tasks run.
        tokio::task::coop::consume_budget().await;
        let (gathered, seat) = match self.shared.step(self.cursor, &self.filter) {
            Step::Recent(gathered, seat) => (gathered, seat),
            Step::Ledger(end) => (self.read_ledger(end).await?, None),
            Step::Ended(end) => return Err(self.ended(end)),
        };
        // After the last await, so that a cancelled call loses nothing.
        (self.gathered, self.cursor, self.seat) = (gathered.posts, gathered.next, seat);
        Ok(())
    }

    async fn read_ledger(&self, end: u64) -> Result<Gathered, WatchError> {
        let (past, filter) = (Arc::clone(&self.shared.past), Arc::clone(&self.filter));
        let cursor = self.cursor;
        tokio::task::spawn_blocking(move || past.read(cursor, end, &filter))
            .await
            .map_err(WatchError::unreadable)?
    }

    fn ended(&self, end: End) -> WatchError {
        let next_index = match end {
            End::Failed => {
                return WatchError::unreadable("the thread that delivers events has failed");
            }
            End::Closing(next) | End::Detached(next) => next.max(self.cursor),
        };
        WatchError::Closing { next_index }
    }
}
