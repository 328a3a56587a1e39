//! The writer thread: takes all waiting jobs, writes them as one batch, and answers.
//!
//! While one batch is written to the disk, jobs for the next one gather; if nothing waits, a single
//! job is written at once. A series takes several batches, and no job comes between them. The first failure
//! stops all writes until restart: the content of the disk is then unknown, and only recovery can
//! determine it.

use std::{
    io,
    iter::Peekable,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Instant,
    vec,
};

use parking_lot::RwLock;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, mpsc, oneshot, watch};
use tracing::{error, info};

use super::{
    ConsumeError, Core, Node, NodeConfig, WriteError,
    batch::{Batch, End},
};
use crate::{
    backend::Appended,
    domain::Millis,
    fold::After,
    ledger::Tip,
    shutdown::{Stage, Threads},
    tlog::merkle::leaf_hash,
};

/// The size at which a batch takes no more entries.
const BATCH_BYTES_MAX: usize = 8 << 20;
/// Places in the queue for jobs of the node: one for expiries, one for receipts of delivery.
const NODE_PLACES: usize = 2;

/// Adds entries to the batch. Returns the answer to send once the batch is written, or, if the job is
/// refused, the answer to send at once.
type Job = Box<dyn FnOnce(&mut Batch<'_>) -> Result<Reply, Refusal> + Send>;
/// Sends the result of the batch to the caller.
type Reply = Box<dyn FnOnce(&Result<(), WriteError>)>;
/// Sends the error of the job to the caller.
type Refusal = Box<dyn FnOnce()>;

/// A job that runs `write` and answers over `reply`.
fn job<T, E>(
    write: impl FnOnce(&mut Batch<'_>) -> Result<T, E> + Send + 'static,
    reply: oneshot::Sender<Result<T, E>>,
) -> Job
where
    T: Send + 'static,
    E: From<WriteError> + Send + 'static,
{
    // The caller may be gone; the entries are written all the same.
    Box::new(move |batch| {
        match batch.core().check_writable().map_err(E::from).and_then(|()| write(batch)) {
            Ok(value) => Ok(answer_once_written(reply, value)),
            Err(error) => Err(refusal(reply, error)),
        }
    })
}

fn answer_once_written<T, E>(reply: oneshot::Sender<Result<T, E>>, value: T) -> Reply
where
    T: Send + 'static,
    E: From<WriteError> + Send + 'static,
{
    Box::new(move |written| {
        drop(reply.send(written.clone().map(|()| value).map_err(E::from)));
    })
}

fn refusal<T, E>(reply: oneshot::Sender<Result<T, E>>, error: E) -> Refusal
where
    T: Send + 'static,
    E: Send + 'static,
{
    Box::new(move || drop(reply.send(Err(error))))
}

/// Adds the entries of the next batch of a series. Returns the answer to send once the last batch is written;
/// none if another batch follows.
type Series = Box<dyn FnMut(&mut Batch<'_>) -> Result<Option<Reply>, Refusal> + Send>;

/// A series that runs `step` for each of its batches, and answers over `reply`. If a batch is not written,
/// the series ends without an answer, as writes are stopped then.
fn series<T, E>(
    mut step: impl FnMut(&mut Batch<'_>) -> Result<Option<T>, E> + Send + 'static,
    reply: oneshot::Sender<Result<T, E>>,
) -> Series
where
    T: Send + 'static,
    E: From<WriteError> + Send + 'static,
{
    let mut reply = Some(reply);
    Box::new(move |batch| {
        let stepped = batch.core().check_writable().map_err(E::from).and_then(|()| step(batch));
        let Some(stepped) = stepped.transpose() else { return Ok(None) };
        let reply = reply.take().expect("a series answers once");
        match stepped {
            Ok(value) => Ok(Some(answer_once_written(reply, value))),
            Err(error) => Err(refusal(reply, error)),
        }
    })
}

/// What the writer is asked to do.
enum Task {
    /// Shares a batch with other jobs.
    Job(Job),
    /// Has batches of its own.
    Series(Series),
}

/// A task, and its place among the appends in flight.
struct Admitted {
    task: Task,
    place: Place,
}

/// A place among the appends in flight, held until the job is written.
struct Place {
    /// None for jobs of the node, which have places of their own.
    _append: Option<OwnedSemaphorePermit>,
    /// Set for jobs that waited for their place.
    _queued: Option<OwnedSemaphorePermit>,
}

/// The queue of jobs. It has a place for every permit of `appends`, one for expiries and one for
/// receipts of delivery, so that none of the three waits for another.
#[derive(Debug)]
pub(super) struct Admission {
    /// Removed at [`Stage::Writer`]: the writer ends once it has answered all admitted jobs.
    jobs: RwLock<Option<mpsc::Sender<Admitted>>>,
    appends: Arc<Semaphore>,
    appends_max: usize,
    /// Half of the places, for jobs that wait for one, so that other appends always find a place.
    queued: Arc<Semaphore>,
}

impl Admission {
    fn new(jobs: mpsc::Sender<Admitted>, appends_max: usize) -> Self {
        Self {
            jobs: RwLock::new(Some(jobs)),
            appends: Arc::new(Semaphore::new(appends_max)),
            appends_max,
            queued: Arc::new(Semaphore::new(appends_max.div_ceil(2))),
        }
    }

    /// A sender for jobs of the node. It does not keep the writer from ending.
    pub(super) fn jobs(&self) -> Jobs {
        let jobs = self.jobs.read();
        Jobs(jobs.as_ref().map(mpsc::Sender::downgrade))
    }

    /// A place for an append; fails if there is none.
    fn place(&self) -> Result<Place, WriteError> {
        match Arc::clone(&self.appends).try_acquire_owned() {
            Ok(append) => Ok(Place { _append: Some(append), _queued: None }),
            Err(TryAcquireError::NoPermits) => {
                Err(WriteError::TooManyAppends { limit: self.appends_max })
            }
            Err(TryAcquireError::Closed) => Err(WriteError::ShuttingDown),
        }
    }

    /// Waits for a place.
    async fn wait_for_place(&self) -> Result<Place, WriteError> {
        let closed = |_| WriteError::ShuttingDown;
        let queued = Arc::clone(&self.queued).acquire_owned().await.map_err(closed)?;
        let append = Arc::clone(&self.appends).acquire_owned().await.map_err(closed)?;
        Ok(Place { _append: Some(append), _queued: Some(queued) })
    }

    /// Hands a job to the writer.
    fn admit<T, E>(
        &self,
        core: &Core,
        write: impl FnOnce(&mut Batch<'_>) -> Result<T, E> + Send + 'static,
        place: Place,
    ) -> Result<oneshot::Receiver<Result<T, E>>, WriteError>
    where
        T: Send + 'static,
        E: From<WriteError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        self.send(core, Admitted { task: Task::Job(job(write, reply)), place })?;
        Ok(answer)
    }

    fn send(&self, core: &Core, admitted: Admitted) -> Result<(), WriteError> {
        let jobs = self.jobs.read();
        let jobs = jobs.as_ref().ok_or(WriteError::ShuttingDown)?;
        if jobs.try_send(admitted).is_err() {
            // The writer has ended, and has set the reason.
            return Err(core.check_writable().err().unwrap_or(WriteError::ShuttingDown));
        }
        Ok(())
    }

    /// Admits no more jobs.
    fn close(&self) {
        self.jobs.write().take();
    }

    /// Takes all places of appends.
    #[cfg(test)]
    pub(super) fn take_all_places(&self) -> OwnedSemaphorePermit {
        let all = u32::try_from(self.appends_max).unwrap();
        Arc::clone(&self.appends).try_acquire_many_owned(all).unwrap()
    }
}

/// Sends jobs of the node to the writer. Each thread has one such job at a time.
#[derive(Debug, Clone)]
pub(super) struct Jobs(Option<mpsc::WeakSender<Admitted>>);

impl Jobs {
    /// Has the writer run a job, and waits for the answer. Blocking.
    pub(super) fn write<T, E>(
        &self,
        write: impl FnOnce(&mut Batch<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<WriteError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let jobs = self.0.as_ref().and_then(mpsc::WeakSender::upgrade);
        let jobs = jobs.ok_or(WriteError::ShuttingDown)?;
        let place = Place { _append: None, _queued: None };
        let admitted = Admitted { task: Task::Job(job(write, reply)), place };
        jobs.blocking_send(admitted).map_err(|_| WriteError::ShuttingDown)?;
        // The writer may end during the wait.
        drop(jobs);
        answer.blocking_recv().map_err(|_| WriteError::ShuttingDown)?
    }
}

impl Node {
    /// The reason why writes are stopped, once they are.
    #[must_use]
    pub fn writes_stopped(&self) -> watch::Receiver<Option<String>> {
        self.core.writes.stopped.subscribe()
    }

    /// Has the writer run a job of a request. Fails if too many appends are in flight.
    pub(super) async fn write<T, E>(
        &self,
        write: impl FnOnce(&mut Batch<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<WriteError> + Send + 'static,
    {
        self.core.check_writable()?;
        let place = self.admission.place()?;
        let answer = self.admission.admit(&self.core, write, place)?;
        answer.await.unwrap_or_else(|_| ended_early())
    }

    /// As [`Self::write`], but waits for a place. Answers once the job is queued, and with a receiver
    /// of its answer: jobs run in the order in which they are queued.
    pub(super) async fn queue<T, E>(
        &self,
        write: impl FnOnce(&mut Batch<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<T, E>>, WriteError>
    where
        T: Send + 'static,
        E: From<WriteError> + Send + 'static,
    {
        self.core.check_writable()?;
        let place = self.admission.wait_for_place().await?;
        self.admission.admit(&self.core, write, place)
    }
}

impl Node {
    /// Has the writer run a series of batches, with nothing between them. `step` adds the entries of the
    /// next batch, and returns the answer with the last one. Waits for a place.
    pub(super) async fn write_series<T, E>(
        &self,
        step: impl FnMut(&mut Batch<'_>) -> Result<Option<T>, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<WriteError> + Send + 'static,
    {
        self.core.check_writable()?;
        let place = self.admission.wait_for_place().await?;
        let (reply, answer) = oneshot::channel();
        let task = Task::Series(series(step, reply));
        self.admission.send(&self.core, Admitted { task, place })?;
        answer.await.unwrap_or_else(|_| ended_early())
    }
}

/// The answer to a job that the writer dropped.
pub(super) fn ended_early<T, E: From<WriteError>>() -> Result<T, E> {
    Err(WriteError::WritesStopped("the writer ended early".to_owned()).into())
}

/// State of the writer that other threads read.
#[derive(Debug)]
pub(super) struct Writes {
    /// Why writes are stopped, once they are. Any thread may stop them; the first reason stays.
    pub stopped: watch::Sender<Option<String>>,
    /// When the last entry was recorded, in milliseconds since the Unix epoch. Only the writer changes
    /// it, so it never goes back.
    recorded_at_ms: AtomicI64,
}

impl Writes {
    pub(super) fn new(recorded_at: Millis) -> Self {
        let recorded_at_ms = AtomicI64::new(recorded_at.0);
        Self { stopped: watch::Sender::new(None), recorded_at_ms }
    }

    /// When the last entry was recorded.
    pub(super) fn recorded_at(&self) -> Millis {
        Millis(self.recorded_at_ms.load(Ordering::Relaxed))
    }
}

/// Starts the writer. It ends at [`Stage::Writer`], once all admitted jobs are answered.
pub(super) fn start(
    core: &Arc<Core>,
    threads: &Threads,
    tip: Tip,
    config: &NodeConfig,
) -> io::Result<Arc<Admission>> {
    let appends_max = config.appends_max.clamp(1, Semaphore::MAX_PERMITS - NODE_PLACES);
    let (sender, jobs) = mpsc::channel(appends_max + NODE_PLACES);
    let admission = Arc::new(Admission::new(sender, appends_max));
    let batch_entries_max = config.batch_entries_max.max(1);
    let mut writer = Writer { core: Arc::clone(core), tip, jobs, batch_entries_max };
    let run = move || {
        if catch_unwind(AssertUnwindSafe(|| writer.run())).is_err() {
            // Whether the batch was written is unknown. Stopped while `writer` still holds the queue, so
            // that no caller gets another error.
            writer.core.stop_writes("the writer panicked");
        }
    };
    let (shutdown, closing) = (threads.shutdown().clone(), Arc::clone(&admission));
    let wake = move || {
        if shutdown.has_reached(Stage::Writer) {
            closing.close();
        }
    };
    threads.spawn("writer", Stage::Writer, wake, run)?;
    Ok(admission)
}

struct Writer {
    core: Arc<Core>,
    tip: Tip,
    jobs: mpsc::Receiver<Admitted>,
    batch_entries_max: usize,
}

impl Writer {
    fn run(&mut self) {
        let mut jobs = Vec::new();
        while self.jobs.blocking_recv_many(&mut jobs, self.batch_entries_max) > 0 {
            let mut tasks = jobs.drain(..).peekable();
            while let Some(Admitted { task, place }) = tasks.next() {
                match task {
                    Task::Job(job) => self.write(job, place, &mut tasks),
                    Task::Series(series) => self.write_series(series, place),
                }
            }
        }
    }

    /// An empty batch at the end of the ledger.
    fn batch<'c>(&self, core: &'c Core) -> Batch<'c> {
        let end = End { tip: self.tip, recorded_at: core.writes.recorded_at() };
        Batch::new(core, end, core.clock.read())
    }

    /// Writes one batch: a job, and as many of those after it as fit, up to the next series.
    fn write(&mut self, job: Job, place: Place, tasks: &mut Peekable<vec::Drain<'_, Admitted>>) {
        let started = Instant::now();
        let core = Arc::clone(&self.core);
        let mut batch = self.batch(&core);
        let (mut replies, mut places) = (Vec::new(), Vec::new());
        let mut next = Some((job, place));
        while let Some((job, place)) = next {
            match job(&mut batch) {
                Ok(reply) => {
                    replies.push(reply);
                    places.push(place);
                }
                Err(refuse) => {
                    drop(place);
                    refuse();
                }
            }
            let is_full = batch.bytes >= BATCH_BYTES_MAX;
            let is_job = |admitted: &Admitted| !is_full && matches!(admitted.task, Task::Job(_));
            next = match tasks.next_if(is_job) {
                Some(Admitted { task: Task::Job(job), place }) => Some((job, place)),
                _ => None,
            };
        }
        let result = self.land(&mut batch, started);
        // Before the answers: a caller that writes again after its answer must find a place.
        drop(places);
        for reply in replies {
            reply(&result);
        }
        self.wake_readers(&batch);
    }

    /// Writes the batches of a series.
    fn write_series(&mut self, mut series: Series, place: Place) {
        let core = Arc::clone(&self.core);
        loop {
            let started = Instant::now();
            let mut batch = self.batch(&core);
            let stepped = series(&mut batch);
            let reply = match stepped {
                Ok(reply) => reply,
                Err(refuse) => {
                    drop(place);
                    return refuse();
                }
            };
            let result = self.land(&mut batch, started);
            if let Some(reply) = reply {
                drop(place);
                reply(&result);
                return self.wake_readers(&batch);
            }
            self.wake_readers(&batch);
            if result.is_err() {
                return;
            }
        }
    }

    /// Makes a batch durable, then visible to reads and watchers. Wakes nobody.
    fn land(&mut self, batch: &mut Batch<'_>, started: Instant) -> Result<(), WriteError> {
        let core = Arc::clone(&self.core);
        core.check_writable()?;
        if batch.frames.is_empty() {
            return Ok(());
        }
        let stop = |reason: String| {
            core.stop_writes(&reason);
            WriteError::WritesStopped(reason)
        };
        core.vault.persist(&batch.new_subjects).map_err(|error| stop(error.to_string()))?;
        let synced = Instant::now();
        match core.backend.append(self.tip.next_index, &batch.frames) {
            Ok(Appended::Landed) => {}
            Ok(Appended::Lost { head }) => {
                return Err(stop(format!(
                    "another writer appended to the ledger, which has {head} entries now"
                )));
            }
            Err(error) => return Err(stop(error.to_string())),
        }
        core.metrics.append_batch(batch.frames.len(), synced.elapsed());
        self.tip = batch.tip;
        core.writes.recorded_at_ms.store(batch.last_recorded_at.0, Ordering::Relaxed);
        if let Err(error) = core.view.apply(&batch.effects, self.tip.hash) {
            // This batch is durable and visible; the next one would not become visible.
            core.stop_writes(&error.to_string());
        }
        if batch.effects.iter().any(|effect| matches!(effect.after, After::Subscriptions { .. })) {
            core.consumers.end_deleted(&core.view.subscriptions());
        }
        core.hub.publish(mem::take(&mut batch.events), self.tip.next_index);
        core.metrics.append(started.elapsed());
        Ok(())
    }

    /// Has the tree grow and the watchers hear of a batch that landed. Its callers are answered before: they
    /// wait, and on few cores every thread that wakes takes time from theirs.
    fn wake_readers(&self, batch: &Batch<'_>) {
        let first = batch.tip.next_index - batch.frames.len() as u64;
        if batch.frames.is_empty() || self.tip.next_index != batch.tip.next_index {
            return;
        }
        let leaves = batch.frames.iter().map(|bytes| leaf_hash(bytes));
        self.core.checkpoints.landed(first, leaves);
        self.core.hub.wake();
    }
}

impl Core {
    /// Whether writes are still taken.
    pub(super) fn check_writable(&self) -> Result<(), WriteError> {
        match &*self.writes.stopped.borrow() {
            None => Ok(()),
            Some(reason) => Err(WriteError::WritesStopped(reason.clone())),
        }
    }

    /// Stops writes until restart. Checks go on.
    pub(super) fn stop_writes(&self, reason: &str) {
        let first = self.writes.stopped.send_if_modified(|stopped| {
            let first = stopped.is_none();
            stopped.get_or_insert_with(|| reason.to_owned());
            first
        });
        if first {
            error!(reason, "writes are stopped until restart");
            self.consumers.end_all(&ConsumeError::WritesStopped(reason.to_owned()));
            self.metrics.writes_stopped.set(1);
        }
    }
}

/// Logs that the node is open.
pub(super) fn announce(core: &Core) {
    info!(
        entries = core.backend.head(),
        bytes = core.backend.size_bytes(),
        subjects = core.vault.subjects(),
        "the ledger is open"
    );
}
