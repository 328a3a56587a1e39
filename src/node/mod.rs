//! The node: every read and write of the service goes through [`Node`].

mod act;
mod audience;
mod batch;
mod catalog;
mod check;
mod config;
mod confirm;
mod consume;
mod correct_clock;
mod decisions;
mod delivery;
mod disclose;
mod due;
mod effective;
mod error;
#[cfg(test)]
mod event_tests;
mod expiry;
mod history;
mod import;
mod init;
mod key_change;
mod link;
mod names;
mod news;
mod open;
mod parties;
mod past;
mod preferences;
mod preview;
mod proof;
mod propagation;
mod read;
mod receipt;
mod scrub;
mod signing;
mod snapshot;
mod stops;
mod subscription;
mod survey;
mod token;
mod uses;
mod validate;
mod watching;
mod webhook;
mod writer;

use std::{io, path::PathBuf, sync::Arc, time::Duration};

pub use act::{
    Act, CHANGES_MAX, CLOCK_SKEW_MS_MAX, Confirm, Confirmation, Confirmed,
    IDEMPOTENCY_KEY_BYTES_MAX, Idempotency, Recorded, Refused,
};
pub use audience::{Audience, AudienceQuery, Member, Person};
pub use catalog::{NamespaceDraft, PurposeDraft, Put};
pub use check::{Checked, Question};
pub use config::{NodeConfig, ORIGIN_DEFAULT, parse_origin, parse_time, parse_time_readings};
pub use consume::{CREDITS_MAX, Consumer, Consuming, Delivery, IN_FLIGHT_MAX};
pub use correct_clock::{ClockCorrectionOutcome, CorrectClock};
pub use decisions::{Decisions, PAGE_DECISIONS_MAX, PAGE_ENTRIES_MAX};
pub use delivery::Acknowledged;
pub use disclose::{Bounds, DISCLOSED_SUBJECTS_MAX, Disclosed, Disclosing, RECIPIENTS_MAX, Spool};
pub use effective::{EffectiveAtImpossible, ImpossibleTime, LikelyCause, Moved};
pub use error::{
    AsOfError, AudienceTooOld, CatalogError, CheckpointNotReached, ClockNotTrusted, ConfirmError,
    ConsumeError, CorrectClockError, DeadLettersError, DiscloseError, FindActError,
    ImplausibleRange, IssueError, LinkError, NamedParty, PropagationError, ProveError, ReadError,
    RecordError, RevisionNotReached, SnapshotError, SubscribeError, SubscriptionNotFound,
    UnsubscribeError, UseError, WriteError,
};
pub use history::{HistoryItem, LinkSeen};
pub use import::{ImportAnswer, ImportRow, Imported};
pub use init::{Init, InitError, NewLedger, init};
pub use link::{CELL_CHANGES_MAX, CellChange, LinkOutcome, Linking};
pub use names::NamespaceUse;
pub use open::{KEK_FILE, OpenError, Progress, VIEW_DIR, rebuild_view};
pub use parties::{PartyDraft, check_parties, parties_named};
pub use past::AsOf;
pub use preferences::{CellPreference, LinkedName, Name, Naming, Preferences, StandingStop, Whose};
pub use preview::{Flips, Preview};
pub use proof::{Consistency, Inclusion};
pub use read::Checkpoint;
pub use snapshot::{SnapshotReader, SnapshotSubject, Snapshotting, revision_of_token};
pub use subscription::{
    NewSubscription, Propagation, PropagationReport, PropagationState, ShardReport, Subscribed,
    SubscriptionReport,
};
pub use survey::{Absence, LedgerId, LedgerIdError, survey};
use tokio_util::sync::CancellationToken;
use tracing::warn;
pub use uses::{Use, UseBatch, Used, UsesRecorded};
pub use webhook::REPLAYS_MAX;

use self::key_change::SigningKeys;
use crate::{
    backend::LogBackend,
    clock::{self, Clock, TimeSource},
    domain::{LedgerOpened, Millis},
    opener::Opener,
    shutdown::{Task, Threads},
    storage::{
        AtPath as _,
        disk::{Disk, RealDisk},
        index::Index,
    },
    telemetry::Metrics,
    vault::Vault,
    view::View,
    watch::Hub,
    web::target::Targets,
};

/// One node: ledger, vault, view and watchers.
#[derive(Debug)]
pub struct Node {
    core: Arc<Core>,
    /// Hands the writes of requests to the writer.
    admission: Arc<writer::Admission>,
    /// Every thread of the node and task of its server, and the order in which they end.
    threads: Threads,
    /// How long a read waits for a revision.
    revision_wait: Duration,
    /// How long a caller waits for a checkpoint.
    checkpoint_wait: Duration,
    /// How long an audience answers as of the revision at which it began.
    audience_age_max: Duration,
    /// The index of vault and view. Flushed once all threads have ended.
    index: Arc<Index>,
    /// Released last, after everything else of the node is dropped.
    _lock: open::DirLock,
}

/// State that the threads of a node share. Each field says who changes it and what protects it. Code
/// that holds the lock of one field takes no lock of another, except where a field says so.
#[derive(Debug)]
struct Core {
    // The stores, in the order in which they are written. Only the writer changes them; each has its
    // own locks, and any thread may read.
    /// Subject identities and keys. Subjects are added before the entries that name them.
    vault: Arc<Vault>,
    /// The ledger. The writer appends entries; the signing thread, the scrubber and reads of the past
    /// read them back.
    backend: Arc<dyn LogBackend>,
    /// The fold of all entries, which checks read. The expiry thread deletes rows, too: those of grants
    /// whose end changes nothing.
    view: Arc<View>,
    /// Opens entries that the view has applied. It has no state of its own.
    opener: Opener,
    /// Sends the events of each batch to watchers, after the view has applied the batch.
    hub: Arc<Hub>,

    // State of threads and requests.
    /// State of the writer: whether writes are stopped, and the time of the last entry.
    writes: writer::Writes,
    /// Changed by the signing thread, and by requests that add cosignatures.
    checkpoints: signing::Checkpoints,
    /// Delivered and acknowledged indexes. Changed by consumers and by the threads of receipts and
    /// deadlines.
    deliveries: delivery::Deliveries,
    /// Changed by requests that consume. Its lock is held while the lock of `deliveries` is taken.
    consumers: Arc<consume::Consumers>,
    /// Changed by requests that replay dead letters, and by the tasks that deliver them.
    replays: webhook::Replays,
    /// Counters. Any thread changes them; each is atomic.
    metrics: Arc<Metrics>,

    // Constant while the node is open.
    /// The content of entry 0.
    ledger: LedgerOpened,
    /// The key of decision tokens.
    tokens: token::Tokens,
    /// Configured limits.
    limits: Limits,
    /// The data directory, for files without a name.
    data_dir: PathBuf,

    // Shared with everything that needs a time.
    /// The clock, and whether it is trusted. It has its own lock, which is held for a moment only.
    clock: Clock,
}

/// Configured limits of writes.
#[derive(Debug)]
struct Limits {
    /// Validity of a confirmation token, unless the act sets its own.
    confirmation_validity_ms: i64,
    /// The earliest time that an act or a use may claim.
    earliest_effective_at: Millis,
    /// The greatest number of durable subscriptions.
    subscriptions_max: usize,
    /// The addresses that webhooks may reach.
    webhook_targets: Targets,
}

impl Limits {
    fn new(config: &NodeConfig) -> Self {
        let validity_ms = config.confirmation_validity.as_millis();
        Self {
            confirmation_validity_ms: i64::try_from(validity_ms).unwrap_or(i64::MAX),
            earliest_effective_at: config.earliest_effective_at,
            subscriptions_max: config.subscriptions_max,
            webhook_targets: Targets::new(config.webhook_allow.clone()),
        }
    }
}

impl Node {
    /// Opens the data directory, recovers, and starts the threads. Blocking; takes long if the view has to
    /// be rebuilt. Makes no ledger: see [`init()`].
    ///
    /// # Errors
    /// [`OpenError`] names the file, offset and index at fault.
    pub fn open(config: &NodeConfig, metrics: Arc<Metrics>) -> Result<Arc<Self>, OpenError> {
        Self::open_on(Arc::new(RealDisk), config, metrics, &mut |_| {})
    }

    /// As [`Self::open`], on another disk, and with calls of `progress`.
    ///
    /// # Errors
    /// [`OpenError`] names the file, offset and index at fault.
    pub fn open_on(
        disk: Arc<dyn Disk>,
        config: &NodeConfig,
        metrics: Arc<Metrics>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Arc<Self>, OpenError> {
        let source = Arc::new(clock::SystemTime);
        let open::Opened { stores, tree, torn_tails } = open::open(config, &disk, &mut |step| {
            match step {
                Progress::View(done, of) => {
                    metrics.rebuild_entries.set(done);
                    metrics.rebuild_target_entries.set(of);
                }
                Progress::Tree(done, _) => {
                    metrics.tree_entries.set(done);
                }
                Progress::Vault(..) | Progress::Forms(..) => {}
            }
            progress(step);
        })?;
        metrics.torn_tails.inc_by(torn_tails);
        let node = Self::start(stores, tree, disk, config, metrics, source)?;
        node.renew_forms(&mut |done, of| progress(Progress::Forms(done, of)))
            .map_err(OpenError::Forms)?;
        Ok(node)
    }

    /// Starts the threads, and records a change of the signing key before anything is signed with it. If
    /// one can not be started, the others end.
    fn start(
        stores: open::Stores,
        tree: signing::OpenedTree,
        disk: Arc<dyn Disk>,
        config: &NodeConfig,
        metrics: Arc<Metrics>,
        source: Arc<dyn TimeSource>,
    ) -> Result<Arc<Self>, OpenError> {
        let started = |thread: io::Result<()>| thread.at(&config.data_dir);
        let threads = Threads::default();
        let hub = Hub::new(
            Arc::clone(&stores.log) as Arc<dyn LogBackend>,
            Arc::clone(&stores.vault),
            Arc::clone(&stores.view),
            stores.tip.next_index,
            config.recent_events_max,
            &threads,
        )
        .at(&config.data_dir)?;
        let shutdown = threads.shutdown();
        let SigningKeys { key, previous, unrecorded, unproven, .. } = tree.keys;
        let tokens = token::Tokens::new(&key, config);
        let files = tree.writer.files().clone();
        let checkpoints =
            signing::Checkpoints::new(config, Arc::clone(&disk), key, files, stores.book, shutdown);
        let opener = Opener::new(Arc::clone(&stores.vault), Arc::clone(&stores.view));
        let core = Arc::new(Core {
            opener,
            vault: stores.vault,
            backend: stores.log,
            view: stores.view,
            hub: Arc::new(hub),
            writes: writer::Writes::new(stores.recorded_at),
            checkpoints,
            deliveries: delivery::Deliveries::new(config, shutdown),
            consumers: Arc::default(),
            replays: webhook::Replays::default(),
            metrics,
            ledger: stores.ledger,
            tokens,
            limits: Limits::new(config),
            data_dir: config.data_dir.clone(),
            clock: Clock::new(
                source,
                stores.recorded_at,
                config.clock_jump_max,
                config.trust_clock,
            ),
        });
        let admission = writer::start(&core, &threads, stores.tip, config).at(&config.data_dir)?;
        let unproven = key_change::record(&admission.jobs(), unrecorded, unproven)
            .map_err(OpenError::KeyChange)?;
        started(expiry::start(&core, &threads, admission.jobs()))?;
        started(delivery::start(&core, &threads, admission.jobs()))?;
        let before = signing::Before { key: previous, unproven };
        let interval = config.checkpoint_interval;
        started(signing::start(&core, &threads, tree.writer, tree.signed_range, before, interval))?;
        started(scrub::start(&core, &threads, disk, stores.checked_from, config))?;
        writer::announce(&core);
        signing::announce(&core);
        Ok(Arc::new(Self {
            core,
            admission,
            threads,
            revision_wait: config.revision_wait,
            checkpoint_wait: config.checkpoint_wait,
            audience_age_max: config.audience_age_max,
            index: stores.index,
            _lock: stores.lock,
        }))
    }

    /// Updates the metrics that are read from state instead of counted.
    pub fn observe(&self) {
        let metrics = &self.core.metrics;
        metrics.clock_in_doubt.set(u64::from(!self.core.clock.read().is_trusted));
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

    /// Whether the clock is trusted. While it is not, no grants are taken.
    #[must_use]
    pub fn clock_trust(&self) -> tokio::sync::watch::Receiver<bool> {
        self.core.clock.trust()
    }

    /// Begins the shutdown: see [`crate::shutdown`]. The node still takes writes. It signs checkpoints
    /// without waiting for the interval, so that a request that waits for a checkpoint gets it.
    pub fn drain(&self) {
        self.threads.drain();
    }

    /// Takes over a task of the server: [`Self::close`] ends it at its stage.
    pub fn adopt(&self, task: Task) {
        self.threads.adopt(task);
    }

    /// Ends all tasks and threads in order, and writes the view to disk: see [`crate::shutdown`].
    /// Blocking.
    pub fn close(&self) {
        self.threads.end();
        if let Err(error) = self.index.close() {
            warn!(%error, "the view was not closed cleanly: at the next start it is that of an earlier moment");
        }
    }
}

/// Opens a node in a test, in a directory that gets a ledger if it has none.
#[cfg(test)]
fn open_in_test(config: &NodeConfig) -> Arc<Node> {
    if survey(config, &RealDisk).is_err() {
        init(config).unwrap();
    }
    Node::open(config, Arc::new(Metrics::default())).unwrap()
}

impl Drop for Node {
    fn drop(&mut self) {
        self.close();
    }
}
