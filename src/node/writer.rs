//! The one writer: takes what has gathered, lands it as one batch, answers.
//!
//! While one batch is on its way to the disk, the next gathers; when nothing waits, a single act is
//! written at once. The first failure stops all writes until restart: what the disk then holds is
//! not known, and only recovery can find out.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering},
    thread,
    time::Instant,
    vec,
};

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tracing::{error, info};

use super::{ConsumeError, Core, batch::Batch};
use crate::{
    backend::Appended, domain::Millis, ledger::chain::Tip, node::WriteError,
    tlog::merkle::leaf_hash, view::Effect,
};

/// The size at which a batch takes no more entries, in bytes.
const BATCH_BYTES_MAX: usize = 8 << 20;

/// Something to be written: it adds to the batch and answers whom to tell once the batch has landed,
/// or, if it is refused, whom to tell at once.
pub(super) type Job = Box<dyn FnOnce(&mut Batch<'_>) -> Result<Tell, Refused> + Send>;
/// Tells whoever waits what became of the batch.
pub(super) type Tell = Box<dyn FnOnce(&Result<(), WriteError>)>;
/// Tells whoever waits that the job was refused.
pub(super) type Refused = Box<dyn FnOnce()>;

/// A job that writes something and answers over `reply`.
pub(super) fn job<T, E>(
    write: impl FnOnce(&mut Batch<'_>) -> Result<T, E> + Send + 'static,
    reply: oneshot::Sender<Result<T, E>>,
) -> Job
where
    T: Send + 'static,
    E: From<WriteError> + Send + 'static,
{
    // Whoever asked may be gone; what is recorded is recorded all the same.
    Box::new(move |batch| {
        match batch.check_writable().map_err(E::from).and_then(|()| write(batch)) {
            Ok(value) => Ok(Box::new(move |landed| {
                drop(reply.send(landed.clone().map(|()| value).map_err(E::from)));
            })),
            Err(error) => Err(Box::new(move || drop(reply.send(Err(error))))),
        }
    })
}

/// A job with its place among the appends in flight.
pub(super) struct Admitted {
    pub job: Job,
    pub place: Place,
}

/// A place among the appends in flight, kept until the job has landed.
pub(super) struct Place {
    /// Expiries and receipts need none: theirs are beyond those of the appends.
    _append: Option<OwnedSemaphorePermit>,
    /// Of those that imports may take.
    _import: Option<OwnedSemaphorePermit>,
}

impl Place {
    /// A place.
    pub(super) fn new(append: OwnedSemaphorePermit) -> Self {
        Self { _append: Some(append), _import: None }
    }

    /// The one place of expiries.
    pub(super) fn of_expiries() -> Self {
        Self { _append: None, _import: None }
    }

    /// The one place of receipts of delivery.
    pub(super) fn of_receipts() -> Self {
        Self { _append: None, _import: None }
    }

    /// A place of an import.
    pub(super) fn of_import(append: OwnedSemaphorePermit, import: OwnedSemaphorePermit) -> Self {
        Self { _append: Some(append), _import: Some(import) }
    }
}

/// Starts the writer. It ends when every sender is gone and what they sent is answered.
pub(super) fn start(
    core: Arc<Core>,
    tip: Tip,
    jobs: mpsc::Receiver<Admitted>,
    batch_entries_max: usize,
) -> std::io::Result<thread::JoinHandle<()>> {
    let mut writer = Writer { core, tip, jobs, batch_entries_max: batch_entries_max.max(1) };
    thread::Builder::new().name("writer".to_owned()).spawn(move || {
        if catch_unwind(AssertUnwindSafe(|| writer.run())).is_err() {
            // How far the batch came is not known. Whoever comes while the writer is still there
            // is told so, and so is whoever comes later.
            writer.core.stop_writes("the writer panicked");
        }
    })
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
            let mut jobs = jobs.drain(..);
            while jobs.len() > 0 {
                self.write(&mut jobs);
            }
        }
    }

    /// Writes one batch: as many of the jobs as fit.
    fn write(&mut self, jobs: &mut vec::Drain<'_, Admitted>) {
        let started = Instant::now();
        let core = Arc::clone(&self.core);
        let mut batch = Batch::new(&core, self.tip, Millis::now());
        let mut waiting = Vec::with_capacity(jobs.len());
        let mut places = Vec::with_capacity(jobs.len());
        while batch.bytes() < BATCH_BYTES_MAX
            && let Some(Admitted { job, place }) = jobs.next()
        {
            match job(&mut batch) {
                Ok(tell) => {
                    waiting.push(tell);
                    places.push(place);
                }
                Err(refused) => {
                    drop(place);
                    refused();
                }
            }
        }
        let result = self.land(batch, started);
        // Before the answers: whoever sends the next act on hearing of the last finds a place.
        drop(places);
        for tell in waiting {
            tell(&result);
        }
    }

    /// Makes a batch durable, then visible, then known.
    fn land(&mut self, batch: Batch<'_>, started: Instant) -> Result<(), WriteError> {
        let core = Arc::clone(&self.core);
        core.check_writable()?;
        if batch.is_empty() {
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
        let leaves = batch.frames.iter().map(|bytes| leaf_hash(bytes));
        core.checkpoints.landed(self.tip.next_index, leaves);
        self.tip = batch.tip;
        core.recorded_at_ms.store(self.tip.recorded_at.0, Ordering::Relaxed);
        if let Err(error) = core.view.apply(&batch.effects, self.tip.hash) {
            // What was asked for is durable and visible; what comes next would not be.
            core.stop_writes(&error.to_string());
        }
        if batch.effects.iter().any(|effect| matches!(effect, Effect::Subscriptions { .. })) {
            core.consumers.end_deleted(&core.view.subscriptions());
        }
        core.hub.tell(batch.events, self.tip.next_index);
        core.metrics.append(started.elapsed());
        Ok(())
    }
}

impl Core {
    /// Whether writes are still taken.
    pub(super) fn check_writable(&self) -> Result<(), WriteError> {
        match &*self.stopped.borrow() {
            None => Ok(()),
            Some(reason) => Err(WriteError::WritesStopped(reason.clone())),
        }
    }

    /// Takes no more writes until restart. Checks go on.
    pub(super) fn stop_writes(&self, reason: &str) {
        let first = self.stopped.send_if_modified(|stopped| {
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

/// Says once that a node is up.
pub(super) fn announce(core: &Core) {
    info!(
        entries = core.backend.head(),
        bytes = core.backend.size_bytes(),
        subjects = core.vault.subjects(),
        "the ledger is open"
    );
}
