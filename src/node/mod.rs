//! The one way in: the way of an act and the way of a question.

mod act;
mod audience;
mod batch;
mod check;
mod config;
mod confirm;
mod consume;
mod decisions;
mod delivery;
mod error;
mod expiry;
mod history;
mod import;
mod link;
mod open;
mod past;
mod preview;
mod proof;
mod question;
mod receipt;
mod scrub;
mod signing;
mod snapshot;
mod subscription;
mod token;
mod uses;
mod webhook;
mod writer;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

pub use act::{
    Act, CHANGES_MAX, CLOCK_SKEW_MS_MAX, Confirm, Confirmation, Confirmed,
    IDEMPOTENCY_KEY_BYTES_MAX, Idempotency, Recorded,
};
pub use audience::{Audience, AudienceQuery};
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
use expiry::Closing;
pub use import::{ImportAnswer, ImportRow, Imported};
pub use link::{CELL_CHANGES_MAX, CellChange, LinkOutcome, Linking};
pub use open::{KEK_FILE, OpenError, Progress, VIEW_DIR, rebuild_view};
use parking_lot::{Mutex, RwLock};
pub use past::AsOf;
pub use preview::{Flips, Preview};
pub use proof::{Consistency, Inclusion};
pub use question::{
    CellPreference, Checked, Checkpoint, History, HistoryItem, Preferences, PurposeDraft, Put,
    Question, StandingStop,
};
pub use snapshot::{SnapshotReader, SnapshotSubject, Snapshotting, revision_of_token};
pub use subscription::{
    NewSubscription, Propagation, PropagationReport, PropagationState, ShardReport, Subscribed,
    SubscriptionReport,
};
use tokio::{
    sync::{Semaphore, TryAcquireError, mpsc, oneshot, watch},
    time::timeout,
};
use tracing::{error, warn};
pub use uses::{Use, UseBatch, Used};
pub use webhook::REPLAYS_MAX;

use crate::{
    backend::LogBackend,
    domain::{Channel, ChannelPut, Filter, LedgerOpened, Purpose, Region, Subject},
    ledger,
    receipt::Controller,
    storage::{
        disk::{Disk, RealDisk},
        index::Index,
    },
    telemetry::Metrics,
    vault::Vault,
    view::{CatalogAt, View},
    watch::{Hub, Watcher},
    web::target::Targets,
};

/// One node: ledger, vault, view and watchers behind one way in.
#[derive(Debug)]
pub struct Node {
    core: Arc<Core>,
    jobs: RwLock<Option<mpsc::Sender<writer::Admitted>>>,
    appends: Arc<Semaphore>,
    appends_max: usize,
    /// The places among the appends that imports may take.
    imports: Arc<Semaphore>,
    revision_wait: Duration,
    checkpoint_wait: Duration,
    controller: Controller,
    closing: Arc<Closing>,
    scrub_closing: Arc<AtomicBool>,
    deliveries: delivery::Threads,
    threads: Mutex<Vec<JoinHandle<()>>>,
    signing: Mutex<Option<JoinHandle<()>>>,
    index: Arc<Index>,
    _lock: open::DirLock,
}

/// What the ways of acts and questions share.
#[derive(Debug)]
struct Core {
    backend: Arc<dyn LogBackend>,
    vault: Arc<Vault>,
    view: Arc<View>,
    hub: Arc<Hub>,
    ledger: LedgerOpened,
    stopped: watch::Sender<Option<String>>,
    metrics: Arc<Metrics>,
    /// When the last entry was recorded, in milliseconds since the Unix epoch.
    recorded_at_ms: AtomicI64,
    /// How long a confirmation token is good, in milliseconds.
    confirmation_validity_ms: i64,
    tokens: token::Tokens,
    checkpoints: signing::Checkpoints,
    subscriptions_max: usize,
    deliveries: delivery::Deliveries,
    replays: webhook::Replays,
    webhook_targets: Targets,
    consumers: Arc<consume::Consumers>,
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
        let hub = Hub::new(
            Arc::clone(&opened.backend),
            Arc::clone(&opened.vault),
            Arc::clone(&opened.view),
            opened.tip.next_index,
            config.recent_events_max,
        );
        let thread_error = |source| OpenError::Io { path: config.data_dir.clone(), source };
        let hub = hub.map_err(thread_error)?;
        let signing::OpenedTree { writer: tree, signed_range, files, book, key } = opened.tree;
        let core = Arc::new(Core {
            tokens: token::Tokens::new(&key, config),
            checkpoints: signing::Checkpoints::new(config, Arc::clone(&disk), key, files, book),
            backend: opened.backend,
            vault: opened.vault,
            view: opened.view,
            hub: Arc::new(hub),
            ledger: opened.ledger,
            stopped: watch::Sender::new(None),
            metrics,
            recorded_at_ms: AtomicI64::new(opened.tip.recorded_at.0),
            confirmation_validity_ms: ms(config.confirmation_validity),
            subscriptions_max: config.subscriptions_max,
            deliveries: delivery::Deliveries::new(config.receipt_interval, config.receipt_acks_max),
            consumers: Arc::default(),
            replays: webhook::Replays::default(),
            webhook_targets: Targets::new(config.webhook_allow.clone()),
        });
        let appends_max = config.appends_max.clamp(1, Semaphore::MAX_PERMITS - 2);
        // Expiries have a place of their own, and so have receipts of delivery.
        let (sender, receiver) = mpsc::channel(appends_max + 2);
        let writer =
            writer::start(Arc::clone(&core), opened.tip, receiver, config.batch_entries_max);
        let mut threads = vec![writer.map_err(thread_error)?];
        let closing = Arc::new(Closing::default());
        let expiry =
            expiry::Expiry::new(Arc::clone(&core), sender.downgrade(), Arc::clone(&closing));
        threads.push(expiry::start(expiry).map_err(thread_error)?);
        let deliveries =
            delivery::Threads::start(&core, sender.downgrade()).map_err(thread_error)?;
        let signing =
            signing::start(Arc::clone(&core), tree, signed_range, config.checkpoint_interval);
        let signing = Mutex::new(Some(signing.map_err(thread_error)?));
        let scrub_closing = Arc::new(AtomicBool::new(false));
        if config.scrub_bytes_per_second > 0 {
            let scrub = scrub::Scrub {
                core: Arc::clone(&core),
                disk,
                dir: config.data_dir.join(ledger::DIR),
                end: opened.checked_from,
                bytes_per_second: config.scrub_bytes_per_second,
                closing: Arc::clone(&scrub_closing),
            };
            threads.push(scrub::start(scrub).map_err(thread_error)?);
        }
        writer::announce(&core);
        signing::announce(&core);
        Ok(Arc::new(Self {
            core,
            jobs: RwLock::new(Some(sender)),
            appends: Arc::new(Semaphore::new(appends_max)),
            appends_max,
            imports: Arc::new(Semaphore::new(import::places(appends_max))),
            revision_wait: config.revision_wait,
            checkpoint_wait: config.checkpoint_wait,
            controller: config.controller.clone(),
            closing,
            scrub_closing,
            deliveries,
            threads: Mutex::new(threads),
            signing,
            index: opened.index,
            _lock: opened.lock,
        }))
    }

    /// Records one act. Answers when its entry is on stable storage and the next check sees it.
    ///
    /// # Errors
    /// See [`RecordError`]. Nothing was recorded, except perhaps with `WritesStopped`.
    pub async fn record(&self, act: Act) -> Result<Recorded, RecordError> {
        self.write(|batch| batch.record(act)).await
    }

    /// Completes a double opt-in.
    ///
    /// # Errors
    /// See [`ConfirmError`]; what is refused changes nothing.
    pub async fn confirm(&self, confirm: Confirm) -> Result<Confirmed, ConfirmError> {
        self.write(move |batch| batch.confirm(&confirm)).await
    }

    /// Links two data subjects, or takes a link back; writes nothing if all is as asked.
    ///
    /// # Errors
    /// See [`LinkError`]; what is refused changes nothing.
    pub async fn link(&self, linking: Linking) -> Result<LinkOutcome, LinkError> {
        self.write(|batch| batch.link_subjects(linking)).await
    }

    /// Adds a purpose or a new version of it; writes nothing if nothing differs.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub async fn put_purpose(&self, draft: PurposeDraft) -> Result<Put<Purpose>, CatalogError> {
        self.write(|batch| batch.put_purpose(draft)).await
    }

    /// Adds or changes a channel; writes nothing if nothing differs.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub async fn put_channel(&self, put: ChannelPut) -> Result<Put<Channel>, CatalogError> {
        self.write(|batch| batch.put_channel(put)).await
    }

    async fn write<T, E>(
        &self,
        write: impl FnOnce(&mut batch::Batch<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<WriteError> + Send + 'static,
    {
        self.core.check_writable()?;
        let permit = match Arc::clone(&self.appends).try_acquire_owned() {
            Ok(permit) => permit,
            Err(TryAcquireError::NoPermits) => {
                return Err(WriteError::TooManyAppends { limit: self.appends_max }.into());
            }
            Err(TryAcquireError::Closed) => return Err(WriteError::ShuttingDown.into()),
        };
        self.admit(write, writer::Place::new(permit))?.await.unwrap_or_else(|_| ended_early())
    }

    /// Hands something to the writer. There is a place for every permit.
    fn admit<T, E>(
        &self,
        write: impl FnOnce(&mut batch::Batch<'_>) -> Result<T, E> + Send + 'static,
        place: writer::Place,
    ) -> Result<oneshot::Receiver<Result<T, E>>, WriteError>
    where
        T: Send + 'static,
        E: From<WriteError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let jobs = self.jobs.read();
        let jobs = jobs.as_ref().ok_or(WriteError::ShuttingDown)?;
        let admitted = writer::Admitted { job: writer::job(write, reply), place };
        if jobs.try_send(admitted).is_err() {
            // The writer has ended, and said why.
            return Err(self.core.check_writable().err().unwrap_or(WriteError::ShuttingDown));
        }
        Ok(answer)
    }

    /// Waits until the node is at `revision`, for as long as the configuration allows.
    ///
    /// # Errors
    /// [`RevisionNotReached`].
    pub async fn reach(&self, revision: Option<u64>) -> Result<(), RevisionNotReached> {
        let Some(wanted) = revision.filter(|&wanted| wanted > self.revision()) else {
            return Ok(());
        };
        let mut applied = self.core.view.applied_changes();
        let reached = timeout(self.revision_wait, applied.wait_for(|&applied| applied >= wanted));
        if let Ok(Ok(_)) = reached.await {
            return Ok(());
        }
        Err(RevisionNotReached { wanted, reached: self.revision() })
    }

    /// Answers "may I?", now. Never blocks for long: memory, or a point read of sled.
    ///
    /// # Errors
    /// [`ReadError::StateUnreadable`].
    pub fn check(&self, question: &Question<'_>) -> Result<Checked, ReadError> {
        self.core.check(question, self.core.now())
    }

    /// Counts the cells that a change of a purpose would flip, and changes nothing. It reads the
    /// state of every subject. Blocking.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub fn preview(
        &self,
        draft: PurposeDraft,
        region: Option<Region>,
    ) -> Result<Preview, CatalogError> {
        self.core.preview(draft, region)
    }

    /// Answers "may I?" for a moment in the past. Blocking.
    ///
    /// # Errors
    /// See [`AsOfError`].
    pub fn check_at(&self, question: &Question<'_>, as_of: AsOf) -> Result<Checked, AsOfError> {
        self.core.check_at(question, as_of)
    }

    /// What was known of a data subject at a moment in the past. Blocking.
    ///
    /// # Errors
    /// As [`Self::check_at`].
    pub fn preferences_at(
        &self,
        subject: &Subject,
        all_cells: bool,
        region: Option<Region>,
        as_of: AsOf,
    ) -> Result<Preferences, AsOfError> {
        self.core.preferences_at(subject, all_cells, region, as_of)
    }

    /// What is known of a data subject. `all_cells`: every live purpose and channel of the
    /// catalogue, not only the cells that some act named.
    ///
    /// # Errors
    /// [`ReadError::StateUnreadable`].
    pub fn preferences(
        &self,
        subject: &Subject,
        all_cells: bool,
        region: Option<Region>,
    ) -> Result<Preferences, ReadError> {
        self.core.preferences(subject, all_cells, region, self.core.now())
    }

    /// Up to `limit` entries about a data subject from `start_index` on, in ledger order. Blocking.
    ///
    /// # Errors
    /// [`ReadError::StateUnreadable`].
    pub fn history(
        &self,
        subject: &Subject,
        start_index: u64,
        limit: usize,
    ) -> Result<Vec<HistoryItem>, ReadError> {
        self.core.history(subject, start_index, limit)
    }

    /// The catalogue as it is now.
    #[must_use]
    pub fn catalog(&self) -> Arc<CatalogAt> {
        self.core.view.catalog()
    }

    /// Size and chain hash of the ledger. Blocking.
    ///
    /// # Errors
    /// [`ReadError::StateUnreadable`].
    pub fn checkpoint(&self) -> Result<Checkpoint, ReadError> {
        self.core.checkpoint()
    }

    /// The exact bytes of entries from `start` on, before `end`, as many as fit into about 1 MiB
    /// and at least one if there is one. Blocking.
    ///
    /// # Errors
    /// [`ReadError::IndexOutOfRange`] if `start` lies beyond the head.
    pub fn entries(&self, start: u64, end: u64) -> Result<Vec<(u64, Vec<u8>)>, ReadError> {
        self.core.entries(start, end)
    }

    /// Starts to watch at an index, or with the first entry after now.
    ///
    /// # Errors
    /// [`ReadError::IndexOutOfRange`] if the index lies beyond the head.
    pub fn watch(&self, start: Option<u64>, filter: Filter) -> Result<Watcher, ReadError> {
        let head = self.core.hub.head();
        let index = start.unwrap_or(head);
        if index > head {
            return Err(ReadError::IndexOutOfRange { index, head });
        }
        Ok(self.core.hub.watch(index, filter))
    }

    /// Number of entries that every answer takes into account.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.core.view.applied()
    }

    /// Number of data subjects that the vault holds.
    #[must_use]
    pub fn subjects(&self) -> u64 {
        self.core.vault.subjects()
    }

    /// Why writes are stopped, once they are.
    #[must_use]
    pub fn writes_stopped(&self) -> watch::Receiver<Option<String>> {
        self.core.stopped.subscribe()
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

    /// Ends all watchers, each once it has been told what was there.
    pub fn close_watchers(&self) {
        self.core.hub.close();
    }

    /// Takes no more writes, finishes those in flight, and brings the view to disk. Blocking.
    pub fn close(&self) {
        self.close_watchers();
        // What was acknowledged is written down while the writer takes jobs.
        self.deliveries.close();
        self.jobs.write().take();
        self.closing.close();
        self.scrub_closing.store(true, Ordering::Relaxed);
        let mut threads = self.threads.lock();
        for thread in threads.drain(..) {
            if thread.join().is_err() {
                error!("a thread of the node ended early");
            }
        }
        // What landed last is signed, too.
        self.core.checkpoints.close();
        if let Some(signing) = self.signing.lock().take()
            && signing.join().is_err()
        {
            error!("the thread that signs ended early");
        }
        if let Err(error) = self.index.close() {
            warn!(%error, "the view was not closed cleanly and will be rebuilt");
        }
    }
}

fn ms(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

fn ended_early<T, E: From<WriteError>>() -> Result<T, E> {
    Err(WriteError::WritesStopped("the writer ended early".to_owned()).into())
}

impl Drop for Node {
    fn drop(&mut self) {
        self.close();
    }
}
