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

use super::{Core, act::Act, batch::Batch, question::PurposeDraft};
use crate::{
    backend::Appended,
    domain::{Channel, ChannelPut, Millis, Purpose},
    ledger::chain::Tip,
    node::{Put, Recorded, WriteError},
};

/// The size at which a batch takes no more entries, in bytes.
const BATCH_BYTES_MAX: usize = 8 << 20;

/// The answer to a job, on its way to whoever waits.
pub(super) type Reply<T> = oneshot::Sender<Result<T, WriteError>>;

/// Something to be written.
#[derive(Debug)]
pub(super) enum Job {
    Act(Box<Act>, Reply<Recorded>),
    PutPurpose(Box<PurposeDraft>, Reply<Put<Purpose>>),
    PutChannel(Box<ChannelPut>, Reply<Put<Channel>>),
}

/// A job with its place among the appends in flight.
#[derive(Debug)]
pub(super) struct Admitted {
    pub job: Job,
    pub permit: OwnedSemaphorePermit,
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

/// An answer that waits for its batch to land.
enum Waiting {
    Act(Reply<Recorded>, Recorded),
    Purpose(Reply<Put<Purpose>>, Put<Purpose>),
    Channel(Reply<Put<Channel>>, Put<Channel>),
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
        let mut permits = Vec::with_capacity(jobs.len());
        while batch.bytes() < BATCH_BYTES_MAX
            && let Some(Admitted { job, permit }) = jobs.next()
        {
            match prepare(&core, &mut batch, job) {
                Ok(answer) => {
                    waiting.push(answer);
                    permits.push(permit);
                }
                Err(refused) => {
                    drop(permit);
                    refused();
                }
            }
        }
        let result = self.land(batch, started);
        // Before the answers: whoever sends the next act on hearing of the last finds a place.
        drop(permits);
        for answer in waiting {
            answer.send(&result);
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
        self.tip = batch.tip;
        core.recorded_at_ms.store(self.tip.recorded_at.0, Ordering::Relaxed);
        if let Err(error) = core.view.apply(&batch.effects, self.tip.hash) {
            // What was asked for is durable and visible; what comes next would not be.
            core.stop_writes(&error.to_string());
        }
        core.hub.tell(batch.events, self.tip.next_index);
        core.metrics.append(started.elapsed());
        Ok(())
    }
}

/// Prepares one job. What is refused is not part of the batch and is answered at once.
fn prepare(core: &Core, batch: &mut Batch<'_>, job: Job) -> Result<Waiting, Box<dyn FnOnce()>> {
    fn refuse<T: 'static>(reply: Reply<T>, error: WriteError) -> Box<dyn FnOnce()> {
        // Whoever asked may be gone; then nobody needs the answer.
        Box::new(move || drop(reply.send(Err(error))))
    }
    let writable = core.check_writable();
    match job {
        Job::Act(act, reply) => match writable.and_then(|()| batch.record(*act)) {
            Ok(recorded) => Ok(Waiting::Act(reply, recorded)),
            Err(error) => Err(refuse(reply, error)),
        },
        Job::PutPurpose(draft, reply) => match writable.and_then(|()| batch.put_purpose(*draft)) {
            Ok(put) => Ok(Waiting::Purpose(reply, put)),
            Err(error) => Err(refuse(reply, error)),
        },
        Job::PutChannel(put, reply) => match writable.and_then(|()| batch.put_channel(*put)) {
            Ok(put) => Ok(Waiting::Channel(reply, put)),
            Err(error) => Err(refuse(reply, error)),
        },
    }
}

impl Waiting {
    fn send(self, result: &Result<(), WriteError>) {
        let result = result.clone();
        // Whoever asked may be gone; the act is recorded all the same.
        match self {
            Self::Act(reply, value) => drop(reply.send(result.map(|()| value))),
            Self::Purpose(reply, value) => drop(reply.send(result.map(|()| value))),
            Self::Channel(reply, value) => drop(reply.send(result.map(|()| value))),
        }
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
