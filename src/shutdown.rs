//! How a process ends: one signal that all threads and tasks read, and one owner of all threads.
//!
//! The end comes in stages, in the order of [`Stage`]. A stage is never taken back. [`Threads::end`]
//! goes through them: it announces a stage, wakes every thread, and waits for the threads that end at
//! that stage before it announces the next one. The order is this, for these reasons:
//!
//! 1. [`Stage::Draining`]: the server refuses new requests and finishes those in flight. Streams end,
//!    each with the index to resume from. Webhooks finish the tries that are on their way. Checkpoints
//!    are signed without keeping their distance, so that a request that waits for one gets it. This
//!    stage alone may last: the server waits for its tasks here, up to its drain time-out.
//! 2. [`Stage::Watchers`]: the tailer puts what was recorded into the queues of watchers and ends them.
//!    They go first because whatever is recorded later is found by resuming.
//! 3. [`Stage::Deliveries`]: the threads of deliveries end. The last receipt is written while the writer
//!    still takes jobs, so that every acknowledgement that was accepted is in the ledger.
//! 4. [`Stage::Writer`]: nothing more is let in. The writer answers what was let in before, and ends;
//!    so do the threads that give it work (expiries) or read behind it (the scrubber).
//! 5. [`Stage::Signing`]: nothing is appended any more, so the last checkpoint covers every entry.
//! 6. [`Stage::Ended`]: no thread is left. The node flushes the index, which nobody changes any more,
//!    and gives up the lock of the data directory last.
//!
//! A task of the runtime does not know stages: [`Shutdown::draining`] is the same signal as a
//! cancellation token. The index writes behind with a thread of its own, which `Index::close` ends:
//! `storage` knows nothing of nodes.

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    thread::{self, JoinHandle, Thread},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::error;

/// How far the end has come. The module explains the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Stage {
    /// Requests in flight are finished, new ones are refused.
    Draining = 1,
    /// Watchers are ended.
    Watchers,
    /// The last receipt of deliveries is written.
    Deliveries,
    /// The writer answers what was let in.
    Writer,
    /// The last checkpoint is signed.
    Signing,
    /// All threads have ended.
    Ended,
}

impl Stage {
    const ALL: [Self; 6] = [
        Self::Draining,
        Self::Watchers,
        Self::Deliveries,
        Self::Writer,
        Self::Signing,
        Self::Ended,
    ];
}

/// The signal. Clones are views of the same one.
#[derive(Debug, Clone, Default)]
pub struct Shutdown(Arc<Signal>);

#[derive(Debug, Default)]
struct Signal {
    /// The last stage that was announced; 0 before the first. Only [`Shutdown::announce`] changes it.
    stage: AtomicU8,
    draining: CancellationToken,
}

impl Shutdown {
    /// Whether a stage was announced. A thread that ends at `stage` asks this each time it wakes.
    #[must_use]
    pub fn has_reached(&self, stage: Stage) -> bool {
        self.0.stage.load(Ordering::Acquire) >= stage as u8
    }

    /// The first stage as a token, for tasks.
    #[must_use]
    pub fn draining(&self) -> CancellationToken {
        self.0.draining.clone()
    }

    /// Sleeps for a time, or until `stage` is announced, and answers whether it was. Only for threads
    /// that were started by [`Threads::spawn`], which wakes them.
    #[must_use]
    pub fn sleep(&self, time: Duration, stage: Stage) -> bool {
        let started = Instant::now();
        while !self.has_reached(stage) {
            match time.checked_sub(started.elapsed()) {
                Some(left) if !left.is_zero() => thread::park_timeout(left),
                _ => return false,
            }
        }
        true
    }

    fn announce(&self, stage: Stage) {
        self.0.stage.fetch_max(stage as u8, Ordering::AcqRel);
        self.0.draining.cancel();
    }
}

/// The threads of a node, each with the stage at which it ends.
///
/// A thread may have ended before. Dropping this ends all of them, so that a node that fails to open
/// leaves none behind.
#[derive(Debug, Default)]
pub struct Threads {
    shutdown: Shutdown,
    /// Locked while threads are waited for, so that a second call of [`Self::end`] returns only when
    /// the first has done its work.
    members: Mutex<Vec<Member>>,
}

struct Member {
    ends_at: Stage,
    wake: Box<dyn Fn() + Send>,
    handle: JoinHandle<()>,
}

impl Threads {
    /// The signal that these threads follow.
    #[must_use]
    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// Starts a thread that returns once `ends_at` was announced.
    ///
    /// At each stage the thread is unparked, and `wake` is called, which wakes it from whatever else it
    /// waits for. A `wake` that rings a condition variable takes the lock of that variable first: the
    /// thread either sees the stage before it waits, or is woken.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn spawn(
        &self,
        name: &str,
        ends_at: Stage,
        wake: impl Fn() + Send + 'static,
        run: impl FnOnce() + Send + 'static,
    ) -> io::Result<Thread> {
        let handle = thread::Builder::new().name(name.to_owned()).spawn(run)?;
        let thread = handle.thread().clone();
        self.members.lock().push(Member { ends_at, wake: Box::new(wake), handle });
        Ok(thread)
    }

    /// Announces the first stage, and returns at once.
    pub fn drain(&self) {
        self.advance(&self.members.lock(), Stage::Draining);
    }

    /// Goes through all stages. Blocking. Must not be called by one of the threads.
    pub fn end(&self) {
        let mut members = self.members.lock();
        for stage in Stage::ALL {
            self.advance(&members, stage);
            for member in members.extract_if(.., |member| member.ends_at <= stage) {
                let name = member.handle.thread().name().unwrap_or_default().to_owned();
                if member.handle.join().is_err() {
                    error!(thread = name, "a thread of the node panicked");
                }
            }
        }
    }

    fn advance(&self, members: &[Member], stage: Stage) {
        self.shutdown.announce(stage);
        for member in members {
            (member.wake)();
            member.handle.thread().unpark();
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.handle.thread().name();
        f.debug_struct("Member").field("name", &name).field("ends_at", &self.ends_at).finish()
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Condvar;

    use super::*;

    /// What threads say when they end, in the order in which they do.
    type Said = Arc<Mutex<Vec<&'static str>>>;

    const LONG: Duration = Duration::from_secs(3_600);

    fn sleeper(threads: &Threads, said: &Said, name: &'static str, ends_at: Stage) {
        let (shutdown, said) = (threads.shutdown().clone(), Arc::clone(said));
        let run = move || {
            assert!(shutdown.sleep(LONG, ends_at));
            said.lock().push(name);
        };
        threads.spawn(name, ends_at, || {}, run).unwrap();
    }

    #[test]
    fn threads_end_stage_by_stage_whatever_the_order_they_started_in() {
        let (threads, said) = (Threads::default(), Said::default());
        sleeper(&threads, &said, "signing", Stage::Signing);
        sleeper(&threads, &said, "tailer", Stage::Watchers);
        sleeper(&threads, &said, "writer", Stage::Writer);
        sleeper(&threads, &said, "receipts", Stage::Deliveries);
        assert!(!threads.shutdown().has_reached(Stage::Draining));
        threads.drain();
        assert!(threads.shutdown().draining().is_cancelled());
        assert!(!threads.shutdown().has_reached(Stage::Watchers));
        assert!(said.lock().is_empty(), "a drain ends no thread");
        threads.end();
        assert_eq!(*said.lock(), ["tailer", "receipts", "writer", "signing"]);
        assert!(threads.shutdown().has_reached(Stage::Ended));
        threads.end();
        assert_eq!(said.lock().len(), 4, "a second end finds nothing to do");
    }

    #[test]
    fn a_thread_that_waits_for_a_condition_is_woken_and_one_that_panicked_holds_up_nothing() {
        let threads = Threads::default();
        let inbox = Arc::new((Mutex::new(0), Condvar::new()));
        let (shutdown, own) = (threads.shutdown().clone(), Arc::clone(&inbox));
        let run = move || {
            let mut locked = own.0.lock();
            while !shutdown.has_reached(Stage::Deliveries) {
                own.1.wait(&mut locked);
            }
            *locked += 1;
        };
        let own = Arc::clone(&inbox);
        let wake = move || {
            drop(own.0.lock());
            own.1.notify_all();
        };
        threads.spawn("receipts", Stage::Deliveries, wake, run).unwrap();
        threads.spawn("broken", Stage::Watchers, || {}, || panic!("a test says so")).unwrap();
        drop(threads);
        assert_eq!(*inbox.0.lock(), 1);
    }

    #[test]
    fn a_sleep_lasts_its_time_unless_the_stage_comes() {
        let threads = Threads::default();
        let shutdown = threads.shutdown().clone();
        assert!(!shutdown.sleep(Duration::ZERO, Stage::Writer));
        assert!(!shutdown.sleep(Duration::from_millis(2), Stage::Writer));
        threads.end();
        assert!(shutdown.sleep(LONG, Stage::Writer));
    }
}
