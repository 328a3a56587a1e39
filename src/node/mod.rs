//! The one way in: the way of an act and the way of a question.

mod act;
mod audience;
mod batch;
mod catalog;
mod check;
mod config;
mod confirm;
mod consume;
mod decisions;
mod delivery;
mod error;
#[cfg(test)]
mod event_tests;
mod expiry;
mod history;
mod import;
mod link;
mod open;
mod past;
mod preferences;
mod preview;
mod proof;
mod read;
mod receipt;
mod scrub;
mod signing;
mod snapshot;
mod subscription;
mod token;
mod uses;
mod watching;
mod webhook;
mod writer;

use std::{io, sync::Arc, time::Duration};

pub use act::{
    Act, CHANGES_MAX, CLOCK_SKEW_MS_MAX, Confirm, Confirmation, Confirmed,
    IDEMPOTENCY_KEY_BYTES_MAX, Idempotency, Recorded,
};
pub use audience::{Audience, AudienceQuery};
pub use catalog::{PurposeDraft, Put};
pub use check::{Checked, Question};
pub use config::NodeConfig;
pub use consume::{CREDITS_MAX, Consumer, Consuming, Delivery, IN_FLIGHT_MAX};
pub use decisions::{Decisions, PAGE_DECISIONS_MAX, PAGE_ENTRIES_MAX};
pub use delivery::Acknowledged;
pub use error::{
    AsOfError, CatalogError, CheckpointNotReached, ConfirmError, ConsumeError, DeadLettersError,
    EffectiveAtInFuture, FindActError, IssueError, LinkError, ProveError, ReadError, RecordError,
    RevisionNotReached, SnapshotError, SubscribeError, SubscriptionNotFound, UnsubscribeError,
    UseError, WriteError,
};
pub use history::{HistoryItem, LinkSeen};
pub use import::{ImportAnswer, ImportRow, Imported};
pub use link::{CELL_CHANGES_MAX, CellChange, LinkOutcome, Linking};
pub use open::{KEK_FILE, OpenError, Progress, VIEW_DIR, rebuild_view};
pub use past::AsOf;
pub use preferences::{CellPreference, Preferences, StandingStop};
pub use preview::{Flips, Preview};
pub use proof::{Consistency, Inclusion};
pub use read::Checkpoint;
pub use snapshot::{SnapshotReader, SnapshotSubject, Snapshotting, revision_of_token};
pub use subscription::{
    NewSubscription, Propagation, PropagationReport, PropagationState, ShardReport, Subscribed,
    SubscriptionReport,
};
use tokio_util::sync::CancellationToken;
use tracing::warn;
pub use uses::{Use, UseBatch, Used};
pub use webhook::REPLAYS_MAX;

use crate::{
    backend::LogBackend,
    domain::LedgerOpened,
    receipt::Controller,
    shutdown::{Task, Threads},
    storage::{
        disk::{Disk, RealDisk},
        index::Index,
    },
    telemetry::Metrics,
    vault::Vault,
    view::View,
    watch::Hub,
    web::target::Targets,
};

/// One node: ledger, vault, view and watchers behind one way in.
#[derive(Debug)]
pub struct Node {
    core: Arc<Core>,
    /// Where requests hand their writes to the writer.
    admission: Arc<writer::Admission>,
    /// Every thread of the node and task of its server, and the order in which they end.
    threads: Threads,
    /// How long a read waits for a revision.
    revision_wait: Duration,
    /// How long a caller waits for a checkpoint.
    checkpoint_wait: Duration,
    /// Whom receipts name as the controller.
    controller: Controller,
    /// Under vault and view. Flushed once all threads have ended.
    index: Arc<Index>,
    /// Given up last, when nothing of the node is left.
    _lock: open::DirLock,
}

/// What the threads of a node share. Each part says who changes it, and what protects it; no lock of
/// one part is taken while that of another is held, but where a part says so.
#[derive(Debug)]
struct Core {
    // The stores, from the first to be written to the last. Only the writer changes them; each has
    // locks of its own, and anybody may read.
    /// Subject identities and keys. Subjects are added before the entries that name them.
    vault: Arc<Vault>,
    /// The ledger. Entries are appended by the writer, and read back by the thread that signs, by the
    /// scrubber, and by questions about the past.
    backend: Arc<dyn LogBackend>,
    /// What checks read: the fold of all entries. The thread of expiries deletes rows of its own:
    /// those of grants whose end changes nothing.
    view: Arc<View>,
    /// Tells watchers of each batch, after the view has applied it.
    hub: Arc<Hub>,

    // Parts of threads.
    /// Of the writer: whether it goes on, and the time that it has come to.
    writes: writer::Writes,
    /// Of the thread that signs, and of those who bring cosignatures.
    checkpoints: signing::Checkpoints,
    /// Of consumers, and the threads of receipts and deadlines: what was delivered and acknowledged.
    deliveries: delivery::Deliveries,
    /// Of requests that consume. Its lock is held while the lock of `deliveries` is taken.
    consumers: Arc<consume::Consumers>,
    /// Of requests that ask for dead letters, and the tasks that deliver them.
    replays: webhook::Replays,
    /// Counters. Anybody changes them; each is atomic.
    metrics: Arc<Metrics>,

    // What never changes while the node is open.
    /// What entry 0 says.
    ledger: LedgerOpened,
    /// The key of decision tokens.
    tokens: token::Tokens,
    /// Limits, as the node was set up.
    limits: Limits,
}

/// Limits that the ways of acts and questions apply.
#[derive(Debug)]
struct Limits {
    /// How long a confirmation token is good, in milliseconds, unless the act says.
    confirmation_validity_ms: i64,
    /// The greatest number of durable subscriptions.
    subscriptions_max: usize,
    /// Where webhooks may lead.
    webhook_targets: Targets,
}

impl Limits {
    fn new(config: &NodeConfig) -> Self {
        let validity_ms = config.confirmation_validity.as_millis();
        Self {
            confirmation_validity_ms: i64::try_from(validity_ms).unwrap_or(i64::MAX),
            subscriptions_max: config.subscriptions_max,
            webhook_targets: Targets::new(config.webhook_allow.clone()),
        }
    }
}

impl Node {
    /// Opens or creates the data directory, recovers, and starts the writer. Blocking; may take
    /// long when the view has to be rebuilt.
    ///
    /// # Errors
    /// [`OpenError`] names the file, offset and index at fault.
    pub fn open(config: &NodeConfig, metrics: Arc<Metrics>) -> Result<Arc<Self>, OpenError> {
        Self::open_on(Arc::new(RealDisk), config, metrics, &mut |_| {})
    }

    /// As [`Self::open`], on another disk, and telling how far it has come.
    ///
    /// # Errors
    /// [`OpenError`] names the file, offset and index at fault.
    pub fn open_on(
        disk: Arc<dyn Disk>,
        config: &NodeConfig,
        metrics: Arc<Metrics>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Arc<Self>, OpenError> {
        let opened = open::open(config, &disk, &mut |step| {
            match step {
                Progress::View(done, of) => {
                    metrics.rebuild_entries.set(done);
                    metrics.rebuild_target_entries.set(of);
                }
                Progress::Tree(done, _) => {
                    metrics.tree_entries.set(done);
                }
                Progress::Vault(..) => {}
            }
            progress(step);
        })?;
        metrics.torn_tails.inc_by(opened.torn);
        Self::start(opened, disk, config, metrics)
            .map_err(|source| OpenError::Io { path: config.data_dir.clone(), source })
    }

    /// Starts the threads over what was opened. Those that were started end if one cannot be.
    fn start(
        opened: open::Opened,
        disk: Arc<dyn Disk>,
        config: &NodeConfig,
        metrics: Arc<Metrics>,
    ) -> io::Result<Arc<Self>> {
        let threads = Threads::default();
        let hub = Hub::new(
            Arc::clone(&opened.backend),
            Arc::clone(&opened.vault),
            Arc::clone(&opened.view),
            opened.tip.next_index,
            config.recent_events_max,
            &threads,
        )?;
        let signing::OpenedTree { writer: tree, signed_range, files, book, key } = opened.tree;
        let shutdown = threads.shutdown();
        let tokens = token::Tokens::new(&key, config);
        let checkpoints =
            signing::Checkpoints::new(config, Arc::clone(&disk), key, files, book, shutdown);
        let core = Arc::new(Core {
            vault: opened.vault,
            backend: opened.backend,
            view: opened.view,
            hub: Arc::new(hub),
            writes: writer::Writes::new(opened.tip.recorded_at),
            checkpoints,
            deliveries: delivery::Deliveries::new(config, shutdown),
            consumers: Arc::default(),
            replays: webhook::Replays::default(),
            metrics,
            ledger: opened.ledger,
            tokens,
            limits: Limits::new(config),
        });
        let admission = writer::start(&core, &threads, opened.tip, config)?;
        expiry::start(&core, &threads, admission.jobs())?;
        delivery::start(&core, &threads, admission.jobs())?;
        signing::start(&core, &threads, tree, signed_range, config.checkpoint_interval)?;
        scrub::start(&core, &threads, disk, opened.checked_from, config)?;
        writer::announce(&core);
        signing::announce(&core);
        Ok(Arc::new(Self {
            core,
            admission,
            threads,
            revision_wait: config.revision_wait,
            checkpoint_wait: config.checkpoint_wait,
            controller: config.controller.clone(),
            index: opened.index,
            _lock: opened.lock,
        }))
    }

    /// Brings the metrics up to date that nobody counts as things happen.
    pub fn observe(&self) {
        let metrics = &self.core.metrics;
        let hot = self.core.view.hot_stats();
        metrics.ledger_entries.set(self.core.backend.head());
        metrics.ledger_bytes.set(self.core.backend.size_bytes());
        metrics.tree_entries.set(self.core.checkpoints.files.size());
        metrics.view_lag_rows.set(self.core.view.pending_rows() as u64);
        metrics.vault_subjects.set(self.core.vault.subjects());
        metrics.hot_entries.set(hot.states);
        metrics.hot_bytes.set(hot.bytes);
        metrics.hot_misses.inc_by(hot.misses.saturating_sub(metrics.hot_misses.get()));
    }

    /// The signal that the server's tasks follow: cancelled by [`Self::drain`] and [`Self::close`].
    #[must_use]
    pub fn draining(&self) -> CancellationToken {
        self.threads.shutdown().draining()
    }

    /// Begins to end: see [`crate::shutdown`]. Writes are still taken; checkpoints are signed without
    /// keeping their distance, so that a request that waits for one gets it.
    pub fn drain(&self) {
        self.threads.drain();
    }

    /// Takes over a task of the server: [`Self::close`] ends it at its stage.
    pub fn adopt(&self, task: Task) {
        self.threads.adopt(task);
    }

    /// Ends all tasks and threads in order, and brings the view to disk: see [`crate::shutdown`].
    /// Blocking.
    pub fn close(&self) {
        self.threads.end();
        if let Err(error) = self.index.close() {
            warn!(%error, "the view was not closed cleanly and will be rebuilt");
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.close();
    }
}
