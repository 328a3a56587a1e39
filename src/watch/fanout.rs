//! From the one writer to many listeners.
//!
//! The writer adds to the recent events and wakes one thread, the tailer; what it costs the writer
//! does not depend on who listens. The tailer finds the listeners of each event through the
//! [`FilterIndex`] and puts it into their queues; nobody else is woken.
//!
//! Invariants, all under the one lock of [`Fanout`]:
//! * Every event before `matched` is in the queue of each listener that it is for, or was taken from
//!   it, unless the listener was detached before or attached later.
//! * A listener is attached where its reader stands at or beyond `matched`, and hears nothing from
//!   before where the reader stands: there is no gap and nothing twice.
//! * A listener whose queue is full is detached, and told the index from which its reader must read
//!   on. So a reader that takes nothing costs its queue, and nothing else.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use super::{
    index::FilterIndex,
    past::Past,
    recent::{Gathered, Post, Recent},
};
use crate::{
    domain::Filter,
    event::Event,
    shutdown::{Shutdown, Stage},
};

/// How many events a reader takes from memory at once.
const READ_STEP: usize = 256;
/// How many events the tailer puts into queues before it lets others come and go.
const TAIL_STEP: usize = 64;

/// What the writer, the tailer and the readers share.
#[derive(Debug)]
pub(super) struct Shared {
    pub past: Arc<dyn Past>,
    recent: RwLock<Recent>,
    /// The next index of which watchers were not told.
    head: AtomicU64,
    fanout: Mutex<Fanout>,
    /// As in `fanout`, for those who need no lock.
    matched: AtomicU64,
    /// Who waits until `matched` has come to an index.
    asking: Mutex<Vec<(u64, Arc<Listener>)>>,
    shutdown: Shutdown,
    queue_max: usize,
}

/// Who listens to what.
#[derive(Debug)]
struct Fanout {
    index: FilterIndex,
    listeners: Vec<Option<Arc<Listener>>>,
    free: Vec<usize>,
    /// Every event before it was put into queues.
    matched: u64,
    /// Set once nothing more is put into queues.
    ended: Option<End>,
}

/// Where events wait for one reader.
#[derive(Debug)]
pub(super) struct Listener {
    /// It hears nothing from before this index.
    from: u64,
    filter: Arc<Filter>,
    queue: Mutex<Queue>,
    /// Told when there is something for a reader that has found nothing.
    pub wake: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    posts: VecDeque<Arc<Post>>,
    /// Whether the reader is among those who ask.
    is_asking: bool,
    /// Set once nothing more comes.
    end: Option<End>,
}

/// Why nothing more comes to a listener, once its queue is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Its queue was full: read on from this index.
    Detached(u64),
    /// The hub is closing. Everything before this index was told.
    Closing(u64),
    /// The tailer has failed.
    Failed,
}

/// A reader's place among the listeners, for as long as it is kept.
#[derive(Debug)]
pub(super) struct Seat {
    shared: Arc<Shared>,
    number: usize,
    pub listener: Arc<Listener>,
}

/// What a reader found behind its cursor.
#[derive(Debug)]
pub(super) enum Step {
    /// Events, and a seat if they come up to where the tailer is.
    Recent(Gathered, Option<Seat>),
    /// Memory does not reach back that far; the ledger does, up to this index.
    Ledger(u64),
    /// There is nothing, and nothing more will come.
    Ended(End),
}

/// What a reader found in its queue.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// Some events.
    Posts,
    /// Nothing now. Everything before this index was taken.
    Nothing(u64),
    /// Nothing more.
    Ended(End),
}

impl Shared {
    pub(super) fn new(
        past: Arc<dyn Past>,
        head: u64,
        recent_max: usize,
        queue_max: usize,
        shutdown: Shutdown,
    ) -> Self {
        let fanout = Fanout {
            index: FilterIndex::default(),
            listeners: Vec::new(),
            free: Vec::new(),
            matched: head,
            ended: None,
        };
        Self {
            past,
            recent: RwLock::new(Recent::new(head, recent_max)),
            head: AtomicU64::new(head),
            fanout: Mutex::new(fanout),
            matched: AtomicU64::new(head),
            asking: Mutex::new(Vec::new()),
            shutdown,
            queue_max: queue_max.max(1),
        }
    }

    /// The next index of which watchers were not told.
    pub(super) fn head(&self) -> u64 {
        self.head.load(Ordering::Acquire)
    }

    /// Some events from `cursor` on; none if memory does not reach back that far.
    pub(super) fn recent(&self, cursor: u64) -> Option<Gathered> {
        self.recent.read().read(cursor, READ_STEP)
    }

    /// Adds the events among the entries before `head`. The caller wakes the tailer then.
    pub(super) fn extend(&self, events: Vec<Arc<Event>>, head: u64) {
        self.recent.write().extend(events, head);
        self.head.store(head, Ordering::Release);
    }

    /// The life of the tailer. It is woken by `unpark`, and ends once it has told what was there.
    pub(super) fn tail(&self) {
        loop {
            // Asked first: what is told before closing is put into queues.
            let closing = self.shutdown.has_reached(Stage::Watchers);
            while self.tail_step() {}
            if closing {
                return self.end(End::Closing(self.matched.load(Ordering::Acquire)));
            }
            std::thread::park();
        }
    }

    /// Puts some events into queues; answers whether there are more.
    fn tail_step(&self) -> bool {
        let mut fanout = self.fanout.lock();
        let (read, end) = {
            let recent = self.recent.read();
            (recent.read(fanout.matched, TAIL_STEP), recent.end())
        };
        match read {
            Some(Gathered { posts, next }) => {
                for post in &posts {
                    fanout.put(post, self.queue_max);
                }
                fanout.matched = next;
            }
            // More came at once than memory keeps: everybody reads it from the ledger.
            None => {
                fanout.detach_all();
                fanout.matched = end;
            }
        }
        let matched = fanout.matched;
        self.matched.store(matched, Ordering::Release);
        drop(fanout);
        self.answer(matched);
        matched < end
    }

    /// Wakes who asked whether `matched` had come as far as it has.
    fn answer(&self, matched: u64) {
        self.asking.lock().retain(|(index, listener)| {
            let waits = *index > matched;
            if !waits {
                listener.queue.lock().is_asking = false;
                listener.wake.notify_one();
            }
            waits
        });
    }

    /// Wakes the listener once `matched` has come to an index.
    pub(super) fn ask(&self, index: u64, listener: &Arc<Listener>) {
        {
            let mut queue = listener.queue.lock();
            if std::mem::replace(&mut queue.is_asking, true) {
                return;
            }
        }
        self.asking.lock().push((index, Arc::clone(listener)));
        // The tailer may have come there before we asked, and not come back.
        if self.matched.load(Ordering::Acquire) >= index {
            self.answer(index);
        }
    }

    /// Ends every listener; none is let in any more.
    pub(super) fn end(&self, end: End) {
        let mut fanout = self.fanout.lock();
        fanout.ended = Some(end);
        fanout.end_all(|listener| match end {
            End::Closing(next) => End::Closing(next.max(listener.from)),
            other => other,
        });
        drop(fanout);
        self.asking.lock().clear();
    }

    /// What there is behind a cursor, for a reader that has no seat.
    pub(super) fn step(self: &Arc<Self>, cursor: u64, filter: &Arc<Filter>) -> Step {
        let mut fanout = self.fanout.lock();
        let (read, end) = {
            let recent = self.recent.read();
            (recent.read(cursor, READ_STEP), recent.end())
        };
        let Some(gathered) = read else { return Step::Ledger(end) };
        if gathered.next < fanout.matched {
            return Step::Recent(gathered, None);
        }
        match fanout.ended {
            Some(ended) if gathered.next == cursor => Step::Ended(ended),
            Some(_) => Step::Recent(gathered, None),
            None => {
                let (number, listener) = fanout.attach(gathered.next, filter);
                let seat = Seat { shared: Arc::clone(self), number, listener };
                Step::Recent(gathered, Some(seat))
            }
        }
    }

    /// How many listeners have a seat.
    #[cfg(test)]
    pub(super) fn seated(&self) -> usize {
        self.fanout.lock().listeners.iter().flatten().count()
    }
}

impl Fanout {
    fn attach(&mut self, from: u64, filter: &Arc<Filter>) -> (usize, Arc<Listener>) {
        let listener = Arc::new(Listener {
            from,
            filter: Arc::clone(filter),
            queue: Mutex::default(),
            wake: Notify::new(),
        });
        let number = self.free.pop().unwrap_or_else(|| {
            self.listeners.push(None);
            self.listeners.len() - 1
        });
        self.index.insert(number, filter);
        self.listeners[number] = Some(Arc::clone(&listener));
        (number, listener)
    }

    fn remove(&mut self, number: usize) {
        if let Some(listener) = self.listeners.get_mut(number).and_then(Option::take) {
            self.index.remove(number, &listener.filter);
            self.free.push(number);
        }
    }

    /// Puts an event into the queue of each listener that it is for.
    fn put(&mut self, post: &Arc<Post>, queue_max: usize) {
        let mut full = Vec::new();
        for number in self.index.matching(&post.event) {
            let listener = self.listeners.get(number).and_then(Option::as_ref);
            if listener.is_some_and(|listener| !listener.put(post, queue_max)) {
                full.push(number);
            }
        }
        for number in full {
            self.remove(number);
        }
    }

    fn detach_all(&mut self) {
        let matched = self.matched;
        self.end_all(|listener| End::Detached(matched.max(listener.from)));
    }

    fn end_all(&mut self, end: impl Fn(&Listener) -> End) {
        for number in 0..self.listeners.len() {
            if let Some(listener) = &self.listeners[number] {
                listener.queue.lock().end = Some(end(listener));
                listener.wake.notify_one();
                self.remove(number);
            }
        }
    }
}

impl Listener {
    /// Takes an event in; false if it has no room, and so is detached.
    fn put(&self, post: &Arc<Post>, queue_max: usize) -> bool {
        if post.event.index < self.from {
            return true;
        }
        let mut queue = self.queue.lock();
        if queue.posts.len() >= queue_max {
            // Its reader has been woken for what is in the queue, and will find this after.
            queue.end = Some(End::Detached(post.event.index));
            return false;
        }
        queue.posts.push_back(Arc::clone(post));
        let was_empty = queue.posts.len() == 1;
        drop(queue);
        if was_empty {
            self.wake.notify_one();
        }
        true
    }
}

impl Seat {
    /// Takes what is in the queue over into `posts`, which is empty.
    pub(super) fn take(&self, posts: &mut VecDeque<Arc<Post>>) -> Taken {
        // Asked first: all that lies before it was in the queue then, and is taken now.
        let matched = self.shared.matched.load(Ordering::Acquire);
        let mut queue = self.listener.queue.lock();
        if !queue.posts.is_empty() {
            std::mem::swap(posts, &mut queue.posts);
            return Taken::Posts;
        }
        match queue.end {
            Some(end) => Taken::Ended(end),
            None => Taken::Nothing(matched.max(self.listener.from)),
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut fanout = self.shared.fanout.lock();
        // A listener that was detached has lost its number, perhaps to another.
        let own = fanout.listeners.get(self.number).and_then(Option::as_ref);
        if own.is_some_and(|own| Arc::ptr_eq(own, &self.listener)) {
            fanout.remove(self.number);
        }
    }
}
