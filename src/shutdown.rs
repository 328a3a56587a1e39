//! How a process ends: one signal that all threads and tasks read, and one owner that waits for each of
//! them, with a bound.
//!
//! The end comes in stages, in the order of [`Stage`]. A stage is never taken back. [`Threads::end`]
//! goes through them: it announces a stage, wakes every thread, and waits for the tasks and threads that
//! end at that stage before it announces the next one. The order, with the reasons for it:
//!
//! 1. [`Stage::Draining`]: the gRPC server refuses new requests and finishes those in flight. Streams
//!    end, each with the index to resume from. Webhooks finish the tries in flight. Checkpoints are
//!    signed without keeping their distance, so that a request that waits for one gets it.
//! 2. [`Stage::Witnesses`]: checkpoints are no longer brought to witnesses. Requests in flight may have
//!    waited for a cosignature, so this comes after them.
//! 3. [`Stage::Watchers`]: the tailer puts what was recorded into the queues of watchers and ends them.
//!    A watcher finds later entries when it resumes.
//! 4. [`Stage::Deliveries`]: the threads of deliveries end. The last receipt is written while the writer
//!    still takes jobs, so that every acknowledgement that was accepted is in the ledger.
//! 5. [`Stage::Writer`]: the writer takes no new jobs, answers those it has, and ends. So do the threads
//!    that give it work (expiries) or read behind it (the scrubber).
//! 6. [`Stage::Signing`]: nothing is appended any more, so the last checkpoint covers every entry.
//! 7. [`Stage::Ended`]: no thread is left. The listeners of metrics and tiles, which answer until here,
//!    are cut off. The node flushes the index, which nothing changes any more, and releases the lock of
//!    the data directory last.
//!
//! A [`Task`] has a time limit, and is cut off when it is over. A thread has none: cutting off a write
//! would lose it, so the supervisor of the process bounds those stages.
//!
//! Tasks follow [`Shutdown::draining`], the same signal as a cancellation token. A connection's own task
//! ends with the server that accepted it. The index writes behind with a thread of its own, which
//! `Index::close` ends: `storage` knows nothing of nodes.

use std::{
    convert::Infallible,
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread::{self, JoinHandle, Thread},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

/// How far the end has come. The module explains the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Stage {
    /// Requests in flight are finished, new ones are refused.
    Draining = 1,
    /// No checkpoint is brought to a witness any more.
    Witnesses,
    /// Watchers are ended.
    Watchers,
    /// The last receipt of deliveries is written.
    Deliveries,
    /// The writer answers the jobs it has.
    Writer,
    /// The last checkpoint is signed.
    Signing,
    /// All threads have ended.
    Ended,
}

impl Stage {
    const ALL: [Self; 7] = [
        Self::Draining,
        Self::Witnesses,
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

    /// Sleeps for a time, or until `stage` is announced. Returns whether it was announced. Only for
    /// threads that were started by [`Threads::spawn`], which wakes them.
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

/// A task of the server, with the stage at which it ends. Dropping it cuts it off.
#[derive(Debug)]
pub struct Task {
    name: &'static str,
    ends_at: Stage,
    time_max: Duration,
    handle: tokio::task::JoinHandle<()>,
    /// Disconnected once the task has ended, however it did.
    ended: mpsc::Receiver<Infallible>,
}

impl Task {
    /// Starts a task that ends by itself within `time_max` after `ends_at` was announced. A task that
    /// does not end by itself has a limit of zero.
    pub fn spawn(
        name: &'static str,
        ends_at: Stage,
        time_max: Duration,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        let (running, ended) = mpsc::channel();
        let handle = tokio::spawn(async move {
            let _running = running;
            work.await;
        });
        Self { name, ends_at, time_max, handle, ended }
    }

    /// Waits for the end of the task, and cuts it off when its time is over.
    fn end(self, announced_at: Instant) {
        let time_left = self.time_max.saturating_sub(announced_at.elapsed());
        let is_late = self.ended.recv_timeout(time_left) == Err(RecvTimeoutError::Timeout);
        if is_late && !self.time_max.is_zero() {
            warn!(task = self.name, "a task did not end in time, and is cut off");
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

/// The threads of a node and the tasks of its server, each with the stage at which it ends.
///
/// A thread or task may have ended before. Dropping this ends all of them, so that a node that fails to
/// open leaves none behind.
#[derive(Debug, Default)]
pub struct Threads {
    shutdown: Shutdown,
    /// Locked until all have ended, so that a second call of [`Self::end`] returns no earlier than the
    /// first.
    members: Mutex<Members>,
}

#[derive(Debug, Default)]
struct Members {
    threads: Vec<Member>,
    tasks: Vec<Task>,
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
    /// At each stage the thread is unparked, and `wake` is called, which wakes it from anything else it
    /// waits for. A `wake` that notifies a condition variable takes the lock of that variable first: the
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
        self.members.lock().threads.push(Member { ends_at, wake: Box::new(wake), handle });
        Ok(thread)
    }

    /// Takes over a task.
    pub fn adopt(&self, task: Task) {
        self.members.lock().tasks.push(task);
    }

    /// Announces the first stage, and returns at once.
    pub fn drain(&self) {
        self.advance(&self.members.lock().threads, Stage::Draining);
    }

    /// Goes through all stages. Blocking. Must not be called by one of the threads or tasks.
    pub fn end(&self) {
        let mut members = self.members.lock();
        let Members { threads, tasks } = &mut *members;
        for stage in Stage::ALL {
            let announced_at = Instant::now();
            self.advance(threads, stage);
            for task in tasks.extract_if(.., |task| task.ends_at <= stage) {
                task.end(announced_at);
            }
            for member in threads.extract_if(.., |member| member.ends_at <= stage) {
                let name = member.handle.thread().name().unwrap_or_default().to_owned();
                if member.handle.join().is_err() {
                    error!(thread = name, "a thread of the node panicked");
                }
            }
        }
    }

    fn advance(&self, threads: &[Member], stage: Stage) {
        self.shutdown.announce(stage);
        for member in threads {
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

    /// Names of threads and tasks, in the order in which they ended.
    type Ended = Arc<Mutex<Vec<&'static str>>>;

    const LONG: Duration = Duration::from_secs(3_600);

    fn sleeper(threads: &Threads, ended: &Ended, name: &'static str, ends_at: Stage) {
        let (shutdown, ended) = (threads.shutdown().clone(), Arc::clone(ended));
        let run = move || {
            assert!(shutdown.sleep(LONG, ends_at));
            ended.lock().push(name);
        };
        threads.spawn(name, ends_at, || {}, run).unwrap();
    }

    #[test]
    fn threads_end_stage_by_stage_whatever_the_order_they_started_in() {
        let (threads, ended) = (Threads::default(), Ended::default());
        sleeper(&threads, &ended, "signing", Stage::Signing);
        sleeper(&threads, &ended, "tailer", Stage::Watchers);
        sleeper(&threads, &ended, "writer", Stage::Writer);
        sleeper(&threads, &ended, "receipts", Stage::Deliveries);
        assert!(!threads.shutdown().has_reached(Stage::Draining));
        threads.drain();
        assert!(threads.shutdown().draining().is_cancelled());
        assert!(!threads.shutdown().has_reached(Stage::Watchers));
        assert!(ended.lock().is_empty(), "a drain ends no thread");
        threads.end();
        assert_eq!(*ended.lock(), ["tailer", "receipts", "writer", "signing"]);
        assert!(threads.shutdown().has_reached(Stage::Ended));
        threads.end();
        assert_eq!(ended.lock().len(), 4, "a second end finds nothing to do");
    }

    #[test]
    fn a_thread_that_waits_for_a_condition_is_woken_and_one_that_panicked_holds_up_nothing() {
        let threads = Threads::default();
        let inbox = Arc::new((Mutex::new(0), Condvar::new()));
        let (shutdown, waited_on) = (threads.shutdown().clone(), Arc::clone(&inbox));
        let run = move || {
            let mut locked = waited_on.0.lock();
            while !shutdown.has_reached(Stage::Deliveries) {
                waited_on.1.wait(&mut locked);
            }
            *locked += 1;
        };
        let notified = Arc::clone(&inbox);
        let wake = move || {
            drop(notified.0.lock());
            notified.1.notify_all();
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

    #[tokio::test]
    async fn tasks_end_at_their_stage_or_are_cut_off() {
        let (threads, ended) = (Threads::default(), Ended::default());
        let (draining, last) = (threads.shutdown().draining(), Arc::clone(&ended));
        let drained = async move {
            draining.cancelled().await;
            last.lock().push("requests");
        };
        sleeper(&threads, &ended, "tailer", Stage::Watchers);
        threads.adopt(Task::spawn("requests", Stage::Draining, LONG, drained));
        let endless = Arc::new(());
        for (stage, time_max) in [(Stage::Draining, 2), (Stage::Ended, 0)] {
            let (held, time_max) = (Arc::clone(&endless), Duration::from_millis(time_max));
            threads.adopt(Task::spawn("endless", stage, time_max, async move {
                let _held = held;
                std::future::pending().await
            }));
        }
        tokio::task::spawn_blocking(move || threads.end()).await.unwrap();
        assert_eq!(*ended.lock(), ["requests", "tailer"]);
        while Arc::strong_count(&endless) > 1 {
            tokio::task::yield_now().await;
        }
    }
}
