//! Distributes events from the writer to many listeners.
//!
//! The writer adds to the recent events and wakes one thread, the tailer; its cost does not depend on
//! the number of listeners. The tailer finds the listeners of each event through the [`FilterIndex`],
//! puts the event into their queues, and wakes only them.
//!
//! Invariants, all under the one lock of [`Fanout`], with `matched` of [`Shared`]:
//! * Every event before `matched` was put into the queue of each listener that it is for, unless the
//!   listener was detached before or attached later.
//! * A reader is attached at a cursor at or beyond `matched`, and its queue gets no event before that
//!   cursor: there are no gaps and no duplicates.
//! * A listener with a full queue is detached, with the index from which its reader must continue. So a
//!   reader that takes nothing costs the memory of one queue.

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

/// Maximum number of events that a reader takes from memory at once.
const READ_STEP: usize = 256;
/// Number of events that the tailer distributes before it releases the lock for readers.
const TAIL_STEP: usize = 64;

/// The state that the writer, the tailer and the readers share.
#[derive(Debug)]
pub(super) struct Shared {
    pub past: Arc<dyn Past>,
    recent: RwLock<Recent>,
    /// The index of the first entry that is not published.
    head: AtomicU64,
    fanout: Mutex<Fanout>,
    /// Every event before it was put into queues. Only the tailer changes it, with `fanout` locked.
    matched: AtomicU64,
    /// Listeners that wait until `matched` reaches an index.
    asking: Mutex<Vec<(u64, Arc<Listener>)>>,
    shutdown: Shutdown,
    queue_max: usize,
}

/// The attached listeners and their filters.
#[derive(Debug)]
struct Fanout {
    index: FilterIndex,
    listeners: Vec<Option<Arc<Listener>>>,
    free: Vec<usize>,
    /// Set once the tailer has ended.
    ended: Option<End>,
}

/// The queue of one reader.
#[derive(Debug)]
pub(super) struct Listener {
    /// It gets no event before this index.
    from: u64,
    filter: Arc<Filter>,
    queue: Mutex<Queue>,
    /// Notified when the reader, after it found the queue empty, should look again.
    pub wake: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    posts: VecDeque<Arc<Post>>,
    /// Whether the listener is in [`Shared::asking`].
    is_asking: bool,
    /// Set once no more events come.
    end: Option<End>,
}

/// Why no more events come to a listener, once its queue is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Its queue was full: continue from this index.
    Detached(u64),
    /// The hub is closing. Every event before this index was distributed.
    Closing(u64),
    /// The tailer has failed.
    Failed,
}

/// An attached listener; dropping it detaches the listener.
#[derive(Debug)]
pub(super) struct Seat {
    shared: Arc<Shared>,
    number: usize,
    pub listener: Arc<Listener>,
}

/// The result of a read by a reader without a seat.
#[derive(Debug)]
pub(super) enum Step {
    /// Events from memory, and a seat if they reach the tailer.
    Recent(Gathered, Option<Seat>),
    /// The events are older than memory: read the ledger, up to this index.
    Ledger(u64),
    /// There are no more events, and none will come.
    Ended(End),
}

/// The result of a look into the queue.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// Some events.
    Posts,
    /// The queue is empty. Every event before this index was taken from it.
    Nothing(u64),
    /// No more events come.
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

    /// The index of the first entry that is not published.
    pub(super) fn head(&self) -> u64 {
        self.head.load(Ordering::Acquire)
    }

    /// Some events from `cursor` on; none if they are older than memory.
    pub(super) fn recent(&self, cursor: u64) -> Option<Gathered> {
        self.recent.read().read(cursor, READ_STEP)
    }

    /// Adds the events of the entries before `head`. The caller wakes the tailer afterwards.
    pub(super) fn extend(&self, events: Vec<Arc<Event>>, head: u64) {
        self.recent.write().extend(events, head);
        self.head.store(head, Ordering::Release);
    }

    /// Runs the tailer. It is woken by `unpark`; when it ends, it has distributed every published event.
    pub(super) fn tail(&self) {
        loop {
            // Read first: events published before closing are still distributed.
            let closing = self.shutdown.has_reached(Stage::Watchers);
            while self.tail_step() {}
            if closing {
                return self.end(End::Closing(self.matched.load(Ordering::Acquire)));
            }
            std::thread::park();
        }
    }

    /// Puts some events into queues. Returns whether there are more.
    fn tail_step(&self) -> bool {
        let mut fanout = self.fanout.lock();
        let mut matched = self.matched.load(Ordering::Acquire);
        let (read, end) = {
            let recent = self.recent.read();
            (recent.read(matched, TAIL_STEP), recent.end())
        };
        match read {
            Some(Gathered { posts, next }) => {
                for post in &posts {
                    fanout.put(post, self.queue_max);
                }
                matched = next;
            }
            // More events came at once than memory keeps: all readers read them from the ledger.
            None => {
                fanout.end_all(|listener| End::Detached(matched.max(listener.from)));
                matched = end;
            }
        }
        self.matched.store(matched, Ordering::Release);
        drop(fanout);
        self.answer(matched);
        matched < end
    }

    /// Wakes the listeners that wait for an index up to `matched`.
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

    /// Has the listener woken once `matched` reaches an index.
    pub(super) fn ask(&self, index: u64, listener: &Arc<Listener>) {
        {
            let mut queue = listener.queue.lock();
            if std::mem::replace(&mut queue.is_asking, true) {
                return;
            }
        }
        self.asking.lock().push((index, Arc::clone(listener)));
        // The tailer may have reached the index before the push above.
        if self.matched.load(Ordering::Acquire) >= index {
            self.answer(index);
        }
    }

    /// Ends every listener. No listener can be attached afterwards.
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

    /// Reads from a cursor on, for a reader without a seat.
    pub(super) fn step(self: &Arc<Self>, cursor: u64, filter: &Arc<Filter>) -> Step {
        let mut fanout = self.fanout.lock();
        let (read, end) = {
            let recent = self.recent.read();
            (recent.read(cursor, READ_STEP), recent.end())
        };
        let Some(gathered) = read else { return Step::Ledger(end) };
        if gathered.next < self.matched.load(Ordering::Acquire) {
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

    /// Number of attached listeners.
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

    /// Puts an event into the queue of each listener whose filter it passes.
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

    /// Detaches all listeners.
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
    /// Queues an event. Returns false if the queue is full; the listener is detached then.
    fn put(&self, post: &Arc<Post>, queue_max: usize) -> bool {
        if post.event.index < self.from {
            return true;
        }
        let mut queue = self.queue.lock();
        if queue.posts.len() >= queue_max {
            // The reader was woken for the queued events, and finds this after them.
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
    /// Moves the queued events into `posts`, which is empty.
    pub(super) fn take(&self, posts: &mut VecDeque<Arc<Post>>) -> Received {
        // Read first: every event before it is in the queue already.
        let matched = self.shared.matched.load(Ordering::Acquire);
        let mut queue = self.listener.queue.lock();
        if !queue.posts.is_empty() {
            std::mem::swap(posts, &mut queue.posts);
            return Received::Posts;
        }
        match queue.end {
            Some(end) => Received::Ended(end),
            None => Received::Nothing(matched.max(self.listener.from)),
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut fanout = self.shared.fanout.lock();
        // The number of a detached listener may belong to another listener now.
        let seated = fanout.listeners.get(self.number).and_then(Option::as_ref);
        if seated.is_some_and(|listener| Arc::ptr_eq(listener, &self.listener)) {
            fanout.remove(self.number);
        }
    }
}
