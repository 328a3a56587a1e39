//! One reader of what is told, at its own pace.
//!
//! A reader that is behind reads from memory, or from the ledger where memory does not reach back.
//! Once it has come up to the tailer it takes a seat and is woken for what passes its filter alone;
//! when it takes too little from its queue, it loses the seat and reads by itself again.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    Told, WatchError,
    fanout::{End, Seat, Shared, Step, Taken},
    recent::{Gathered, Post},
};
use crate::domain::Filter;

/// How long a watcher that waits goes without news of a head that moved.
const NEWS_INTERVAL: Duration = Duration::from_secs(1);

/// One reader of what is told, at its own pace.
#[derive(Debug)]
pub struct Watcher {
    shared: Arc<Shared>,
    filter: Arc<Filter>,
    /// Its place among the listeners; none while it reads by itself.
    seat: Option<Seat>,
    /// While it reads by itself: everything before it was delivered, gathered, or is no event.
    cursor: u64,
    gathered: VecDeque<Arc<Post>>,
    /// What it last said to have reached; none if an event came since.
    reached: Option<u64>,
    news_due: Instant,
}

/// What a watcher hears.
#[derive(Debug, Clone)]
pub enum Heard {
    /// An event, and the positions of the changes that pass the filter.
    Event(Arc<Post>, Vec<usize>),
    /// Everything before `next_index` was delivered or did not pass the filter.
    CaughtUp {
        /// The index to resume from.
        next_index: u64,
    },
}

/// What a caller waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// An event.
    Event,
    /// An event, or news of a head that moved.
    News,
    /// An event, or the answer that there is none now.
    Answer,
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
            news_due: Instant::now() + NEWS_INTERVAL,
        }
    }

    /// The next event. [`Told::CaughtUp`] comes once each time that the watcher has reached the head
    /// as it was when it was asked, and, while it waits, about once a second if the head moved on
    /// without an event for it. Cancel-safe.
    ///
    /// # Errors
    /// The ledger could not be read, or the node is closing.
    pub async fn next(&mut self) -> Result<Told, WatchError> {
        Ok(match self.hear(Wish::News).await? {
            Heard::Event(post, passing) => Told::Event(Arc::clone(&post.event), passing),
            Heard::CaughtUp { next_index } => Told::CaughtUp { next_index },
        })
    }

    /// The next event, with what its senders share. It is never [`Heard::CaughtUp`]. Cancel-safe.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub async fn next_event(&mut self) -> Result<Heard, WatchError> {
        self.hear(Wish::Event).await
    }

    /// The next event if there is one before the head as it is now, else [`Heard::CaughtUp`] with
    /// that head or a later one. Cancel-safe.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub async fn next_or_caught_up(&mut self) -> Result<Heard, WatchError> {
        self.hear(Wish::Answer).await
    }

    async fn hear(&mut self, wish: Wish) -> Result<Heard, WatchError> {
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
                Taken::Posts => continue,
                Taken::Ended(End::Detached(next)) => {
                    (self.cursor, self.seat) = (next, None);
                    continue;
                }
                Taken::Ended(end) => return Err(self.ended(end)),
                Taken::Nothing(reached) => reached,
            };
            self.cursor = reached;
            let is_told = self.reached.is_some_and(|told| told >= head);
            if wish == Wish::Answer || wish == Wish::News && !is_told {
                if reached >= head {
                    self.reached = Some(reached);
                    self.news_due = Instant::now() + NEWS_INTERVAL;
                    return Ok(Heard::CaughtUp { next_index: reached });
                }
                self.shared.ask(head, &seat.listener);
            }
            if wish == Wish::News && is_told {
                tokio::select! {
                    biased;
                    () = seat.listener.wake.notified() => {}
                    () = tokio::time::sleep_until(self.news_due) => {
                        self.news_due = Instant::now() + NEWS_INTERVAL;
                        head = self.shared.head();
                    }
                }
            } else {
                seat.listener.wake.notified().await;
            }
        }
    }

    /// The next of what was gathered that passes.
    fn gathered(&mut self) -> Option<Heard> {
        loop {
            let post = self.gathered.pop_front()?;
            if let Some(passing) = post.event.passing(&self.filter) {
                return Some(Heard::Event(post, passing));
            }
        }
    }

    /// Gathers what is behind the cursor, and takes a seat if that comes up to the tailer.
    async fn read_on(&mut self) -> Result<(), WatchError> {
        // Memory alone never makes a reader wait, and nothing in it may pass.
        tokio::task::coop::consume_budget().await;
        let (gathered, seat) = match self.shared.step(self.cursor, &self.filter) {
            Step::Recent(gathered, seat) => (gathered, seat),
            Step::Ledger(end) => (self.read_ledger(end).await?, None),
            Step::Ended(end) => return Err(self.ended(end)),
        };
        // Only now, after the last await: a call that is dropped on the way loses nothing.
        (self.gathered, self.cursor, self.seat) = (gathered.posts, gathered.next, seat);
        Ok(())
    }

    async fn read_ledger(&self, end: u64) -> Result<Gathered, WatchError> {
        let (past, filter) = (Arc::clone(&self.shared.past), Arc::clone(&self.filter));
        let cursor = self.cursor;
        tokio::task::spawn_blocking(move || past.read(cursor, end, &filter))
            .await
            .map_err(|error| WatchError::Unreadable(error.to_string()))?
    }

    fn ended(&self, end: End) -> WatchError {
        let next_index = match end {
            End::Failed => {
                return WatchError::Unreadable("the thread that tells has failed".to_owned());
            }
            End::Closing(next) | End::Detached(next) => next.max(self.cursor),
        };
        WatchError::Closing { next_index }
    }
}
