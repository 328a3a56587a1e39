//! What subscribers acknowledge, until the ledger holds it; and who is behind.
//!
//! Acknowledgements gather in memory. One thread writes those of all subscriptions down as one
//! DELIVERY_RECEIPT entry, every receipt interval or as soon as many have gathered, so that the
//! proof costs little. What is not yet written down is lost with a crash, and then delivered again.
//!
//! What has gathered of a subscription that is ended is written down first, in the same batch.
//!
//! Invariants: a receipt names only what no entry before it settled, except a dead letter that was
//! delivered after all; what gathered when the node closed is on record; once writes are stopped,
//! nothing more gathers.

mod gather;
mod lag;
mod receipts;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use gather::Gathered;
pub(super) use gather::Taken;
use lag::Lag;
pub(super) use lag::{Pending, is_overdue};
use parking_lot::{Condvar, Mutex};
pub(super) use receipts::Written;
use tokio::sync::{mpsc, watch};
use tracing::error;

use super::{Core, expiry::Closing, writer::Admitted};
use crate::domain::{DeliveryOverdue, FailedDelivery, Settled, SubscriptionEntry, SubscriptionId};

/// How many times as much as makes a receipt due may gather before nothing more is delivered.
const ROOM_RECEIPTS: usize = 2;

/// What a consumer acknowledges at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acknowledged {
    /// Everything before it.
    pub next_index: Option<u64>,
    /// Single events.
    pub indexes: Vec<u64>,
    /// Number of events that this settles. With none, nothing is written down for it alone, unless
    /// it is very far from what is written down: the place goes on record with the next event that
    /// is acknowledged.
    pub events: usize,
    /// Whether the snapshot is acknowledged.
    pub snapshot: bool,
}

/// The acknowledgements that are not written down yet, and how far behind everybody is.
#[derive(Debug)]
pub(super) struct Deliveries {
    gathered: Mutex<Gathered>,
    /// Something has become due, or the node is closing.
    due: Condvar,
    /// Whether so much gathers that nothing more should be delivered.
    is_full: watch::Sender<bool>,
    is_closing: AtomicBool,
    interval: Duration,
    acks_max: usize,
    lag: Lag,
}

impl Deliveries {
    pub(super) fn new(interval: Duration, acks_max: usize) -> Self {
        Self {
            gathered: Mutex::default(),
            due: Condvar::new(),
            is_full: watch::Sender::new(false),
            is_closing: AtomicBool::new(false),
            interval,
            acks_max: acks_max.max(1),
            lag: Lag::default(),
        }
    }

    /// Waits for a moment at which there is room for what the next delivery will bring. Cancel-safe.
    pub(super) async fn room(&self) {
        let mut is_full = self.is_full.subscribe();
        // The sender lives as long as `self`.
        drop(is_full.wait_for(|is_full| !is_full).await);
    }

    /// Has something gather, and wakes the thread that waits for it.
    fn gather(&self, change: impl FnOnce(&mut Gathered)) {
        let mut gathered = self.gathered.lock();
        let was_due = gathered.since().is_some();
        let is_full = |own: &Gathered| own.count() >= self.acks_max || own.is_urgent();
        let was_full = is_full(&gathered);
        change(&mut gathered);
        // The first that gathers begins the interval, and enough of it ends it.
        let is_full = is_full(&gathered);
        if (!was_due && gathered.since().is_some()) || (!was_full && is_full) {
            self.due.notify_all();
        }
        self.tell_room(&gathered);
    }

    fn tell_room(&self, gathered: &Gathered) {
        let is_full = gathered.count() >= self.acks_max.saturating_mul(ROOM_RECEIPTS);
        self.is_full.send_if_modified(|was| std::mem::replace(was, is_full) != is_full);
    }

    /// Waits until something is to be written down; false if the node is closing and nothing is left.
    fn wait_due(&self) -> bool {
        let mut gathered = self.gathered.lock();
        loop {
            let is_closing = self.is_closing.load(Ordering::Acquire);
            match gathered.since().map(|since| since + self.interval) {
                None if is_closing => return false,
                None => self.due.wait(&mut gathered),
                Some(until)
                    if is_closing
                        || gathered.is_urgent()
                        || gathered.count() >= self.acks_max
                        || until <= Instant::now() =>
                {
                    return true;
                }
                Some(until) => {
                    self.due.wait_until(&mut gathered, until);
                }
            }
        }
    }

    /// Takes what is due. Only by the writer, so that nothing is on its way to it when it takes more.
    fn take(&self) -> Taken {
        let mut gathered = self.gathered.lock();
        let taken = gathered.take();
        self.tell_room(&gathered);
        taken
    }

    /// Takes all of a subscription that is about to be ended. Only by the writer.
    pub(super) fn take_of(&self, id: SubscriptionId) -> Taken {
        let mut gathered = self.gathered.lock();
        let taken = gathered.take_of(id);
        self.tell_room(&gathered);
        taken
    }

    /// Has it gather again what an entry was to say that could not be written. When the node is
    /// closing there is no second time.
    fn put_back(&self, body: &SubscriptionEntry, taken: &Taken) {
        let mut gathered = self.gathered.lock();
        if !self.is_closing.load(Ordering::Acquire) {
            gathered.put_back(body, taken);
        }
        self.tell_room(&gathered);
    }

    /// Gathers nothing more: nothing will be written down.
    fn stop(&self) {
        let mut gathered = self.gathered.lock();
        gathered.stop();
        self.tell_room(&gathered);
    }

    fn close(&self) {
        // Under the lock, so that whoever is about to wait sees it.
        let gathered = self.gathered.lock();
        self.is_closing.store(true, Ordering::Release);
        drop(gathered);
        self.due.notify_all();
    }
}

impl Core {
    /// Takes an acknowledgement.
    pub(super) fn acknowledge(&self, id: SubscriptionId, shard: u32, what: &Acknowledged) {
        let now = self.now();
        // Read before the lock that all consumers share.
        let dead_letters = self.dead_letters_among(id, shard, &what.indexes);
        self.deliveries.gather(|gathered| {
            gathered.change(&self.view, id, shard, |own| {
                own.acknowledge(what, now, |index| dead_letters.contains(&index));
            });
        });
    }

    /// Those of some indexes that are on record as given up.
    fn dead_letters_among(&self, id: SubscriptionId, shard: u32, indexes: &[u64]) -> BTreeSet<u64> {
        let all = self.view.subscriptions();
        // Only webhooks have any.
        let own = all.get(id).filter(|own| own.spec.webhook_url.is_some());
        let Some(state) = own.and_then(|own| own.shard(shard)) else { return BTreeSet::new() };
        let is_dead_letter = |index: &u64| {
            self.view.settlement(id, shard, *index).map_or_else(
                |error| {
                    error!(%error, index, "what became of an event could not be read");
                    false
                },
                |settlement| settlement.is_some_and(|own| own.is_failure),
            )
        };
        let settled = indexes.iter().copied().filter(|index| state.settled.contains(*index));
        settled.filter(is_dead_letter).collect()
    }

    /// Takes an event that is given up.
    pub(super) fn give_up(&self, id: SubscriptionId, shard: u32, failed: FailedDelivery) {
        self.deliveries.gather(|gathered| {
            gathered.change(&self.view, id, shard, |own| own.give_up(failed));
        });
    }

    /// Takes a shard that is overdue.
    fn overdue(&self, overdue: DeliveryOverdue) {
        self.deliveries.gather(|gathered| gathered.overdue(overdue));
    }

    /// What a shard has acknowledged, be it written down or not, and whether its snapshot is still
    /// to be acknowledged. None if there is no such shard of a subscription that was not ended.
    pub(super) fn settled(&self, id: SubscriptionId, shard: u32) -> Option<(Settled, bool)> {
        self.with_settled(id, shard, |settled, is_pending| (settled.clone(), is_pending))
    }

    /// As [`Self::settled`], without a copy.
    pub(super) fn with_settled<T>(
        &self,
        id: SubscriptionId,
        shard: u32,
        look: impl FnOnce(&Settled, bool) -> T,
    ) -> Option<T> {
        let gathered = self.deliveries.gathered.lock();
        let all = self.view.subscriptions();
        let own = all.get(id).filter(|own| own.deleted.is_none())?;
        let state = own.shard(shard)?;
        Some(match gathered.known(id, shard) {
            Some((known, is_pending)) => look(known, is_pending),
            None => look(&state.settled, state.snapshot_pending),
        })
    }
}

/// The threads that write receipts, and that look who is behind.
#[derive(Debug)]
pub(super) struct Threads {
    core: Arc<Core>,
    closing: Arc<Closing>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Threads {
    /// Starts them. The first ends when writes are stopped, both when the node closes.
    pub(super) fn start(
        core: &Arc<Core>,
        jobs: mpsc::WeakSender<Admitted>,
    ) -> std::io::Result<Self> {
        let closing = Arc::new(Closing::default());
        let receipts = receipts::start(Arc::clone(core), jobs)?;
        let own = Self { core: Arc::clone(core), closing, threads: Mutex::new(vec![receipts]) };
        // Should this one not start, dropping `own` ends the other.
        let lag = lag::start(Arc::clone(core), Arc::clone(&own.closing))?;
        own.threads.lock().push(lag);
        Ok(own)
    }

    /// Writes down what has gathered, and ends. To be called while the writer still takes jobs.
    /// Blocking.
    pub(super) fn close(&self) {
        self.closing.close();
        self.core.deliveries.close();
        for thread in self.threads.lock().drain(..) {
            if thread.join().is_err() {
                error!("a thread of the deliveries ended early");
            }
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use std::{future::Future, path::Path};

    use super::*;
    use crate::{
        config::ServeConfig,
        domain::{
            Action, Actor, Body, Change, ChannelPut, ContactChange, EventKind, Evidence, Filter,
            Key, LegalBasis, LinkConfidence, Millis, Overdue, PurposeVersion, ScopeKeys, Snapshot,
            Subject, Subscription, SubscriptionCreated, SubscriptionEntry,
        },
        event::{EventTold, shard_of},
        node::{
            Act, Linking, NewSubscription, Node, NodeConfig, Propagation, PropagationState,
            PurposeDraft, ReadError, ShardReport,
        },
        telemetry::Metrics,
        vault::Kek,
        view::DeadLetter,
        watch::{Told, Watcher},
    };

    const LONG: Duration = Duration::from_secs(3_600);
    const PATIENCE: Duration = Duration::from_secs(30);

    fn key(text: &str) -> Key {
        Key::parse(text).unwrap()
    }

    /// A node whose receipts are written only once as many have gathered, or when it closes.
    async fn open(dir: &Path, acks_max: usize) -> Arc<Node> {
        let node = open_with(dir, LONG, acks_max);
        let channel = ChannelPut { key: key("email"), title: String::new(), retired: false };
        node.put_channel(channel).await.unwrap();
        let content = PurposeVersion {
            title: String::new(),
            description: String::new(),
            legal_basis: LegalBasis::Consent,
            basis_by_region: std::collections::BTreeMap::new(),
            data_categories: Vec::new(),
            default_validity_ms: None,
            double_opt_in: false,
            obligations: Vec::new(),
        };
        let draft = PurposeDraft {
            key: key("news"),
            content,
            oldest_compatible: None,
            requires_reconsent: false,
            retired: false,
        };
        node.put_purpose(draft).await.unwrap();
        node
    }

    fn open_with(dir: &Path, interval: Duration, acks_max: usize) -> Arc<Node> {
        let config = NodeConfig {
            data_dir: dir.to_owned(),
            kek: Some(Kek::parse(&"5a".repeat(32)).unwrap()),
            scrub_bytes_per_second: 0,
            receipt_interval: interval,
            receipt_acks_max: acks_max,
            // Older ones are read from the ledger.
            recent_events_max: 8,
            ..ServeConfig::default().node
        };
        Node::open(&config, Arc::new(Metrics::default())).unwrap()
    }

    fn new(name: &str) -> NewSubscription {
        NewSubscription {
            name: key(name),
            owner: "team".to_owned(),
            filter: Filter::default(),
            start: None,
            snapshot: None,
            shards: 1,
            deadline_ms: None,
            webhook_url: None,
        }
    }

    async fn subscribe(node: &Node, new: NewSubscription) -> Arc<Subscription> {
        node.create_subscription(new).await.unwrap().subscription
    }

    async fn act(node: &Node, who: &str, action: Action) -> u64 {
        let change = Change {
            action,
            scope: ScopeKeys { purpose: Some(key("news")), channel: Some(key("email")) },
            purpose_version: None,
            expires_at: None,
            data_categories: Vec::new(),
        };
        let act = Act {
            subject: Subject::parse(who).unwrap(),
            actor: Actor::Subject,
            changes: vec![change],
            contact: ContactChange::default(),
            effective_at: None,
            confirmation_validity_ms: None,
            evidence: Evidence::default(),
            idempotency: None,
        };
        node.record(act).await.unwrap().index
    }

    async fn withdraw(node: &Node, who: &str) -> u64 {
        act(node, who, Action::Withdraw).await
    }

    fn events(indexes: &[u64]) -> Acknowledged {
        let (indexes, events) = (indexes.to_vec(), indexes.len());
        Acknowledged { indexes, events, ..Acknowledged::default() }
    }

    fn entries(node: &Node) -> Vec<Body> {
        (0..node.revision()).map(|at| node.core.entry(at).unwrap().body).collect()
    }

    fn receipts(node: &Node) -> usize {
        entries(node)
            .iter()
            .filter(|body| matches!(body, Body::Subscription(SubscriptionEntry::Delivered(_))))
            .count()
    }

    fn overdues(node: &Node) -> usize {
        entries(node)
            .iter()
            .filter(|body| matches!(body, Body::Subscription(SubscriptionEntry::Overdue(_))))
            .count()
    }

    fn shard_now(node: &Node, name: &str) -> ShardReport {
        let reports = node.subscriptions(None, None, usize::MAX).unwrap();
        let own = reports.into_iter().find(|own| own.subscription.spec.name.as_str() == name);
        own.unwrap().shards.remove(0)
    }

    async fn within<T>(wait: impl Future<Output = T>) -> T {
        tokio::time::timeout(PATIENCE, wait).await.unwrap()
    }

    /// Waits for an entry that `want` looks for, and answers it.
    async fn entry_where(node: &Node, want: impl Fn(&Body) -> bool) -> u64 {
        let mut at = 0;
        loop {
            within(node.reach(Some(at + 1))).await.unwrap();
            if want(&node.core.entry(at).unwrap().body) {
                return at;
            }
            at += 1;
        }
    }

    async fn reach_receipts(node: &Node, count: usize) {
        let mut applied = node.core.view.applied_changes();
        within(async {
            while receipts(node) < count {
                applied.changed().await.unwrap();
            }
        })
        .await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn many_acknowledgements_become_few_entries() {
        let dir = tempfile::tempdir().unwrap();
        let node = open(dir.path(), 10).await;
        let [crm, mail] = ["crm", "mail"].map(|name| subscribe(&node, new(name)));
        let (crm, mail) = (crm.await.id, mail.await.id);
        let mut stops = Vec::new();
        for who in 0..25 {
            stops.push(withdraw(&node, &format!("user:{who}")).await);
        }
        for (round, ten) in stops[..20].chunks(10).enumerate() {
            for index in ten {
                node.core.acknowledge(crm, 0, &events(&[*index]));
            }
            reach_receipts(&node, round + 1).await;
        }
        for index in &stops[20..] {
            node.core.acknowledge(crm, 0, &events(&[*index]));
        }
        node.core.acknowledge(mail, 0, &events(&stops[..3]));
        assert_eq!(receipts(&node), 2, "not before the interval, nor before as many");
        let (known, _) = node.core.settled(crm, 0).unwrap();
        assert!(stops.iter().all(|index| known.contains(*index)));
        assert!(
            !node.core.view.subscriptions().get(crm).unwrap().shards[0].settled.contains(stops[20])
        );
        // What has gathered when the node closes is on record, once.
        drop(node);
        let node = open_with(dir.path(), LONG, 10);
        assert_eq!(receipts(&node), 3, "{:?}", entries(&node));
        assert_eq!(node.core.settled(crm, 0).unwrap().0, known);
        for (id, of) in [(crm, &stops[..]), (mail, &stops[..3])] {
            for index in of {
                let settlement = node.core.view.settlement(id, 0, *index).unwrap().unwrap();
                assert!(!settlement.is_failure);
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_gathers_is_written_down_after_the_interval() {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path(), 1_000).await);
        let node = open_with(dir.path(), Duration::from_millis(20), 1_000);
        let crm = subscribe(&node, new("crm")).await.id;
        let index = withdraw(&node, "user:1").await;
        node.core.acknowledge(crm, 0, &events(&[index]));
        let receipt = entry_where(&node, |body| {
            matches!(body, Body::Subscription(SubscriptionEntry::Delivered(_)))
        })
        .await;
        // Its place goes on record with the next event, and is no event itself.
        let place = Acknowledged { next_index: Some(receipt + 1), ..Acknowledged::default() };
        node.core.acknowledge(crm, 0, &place);
        node.core.acknowledge(crm, 0, &place);
        node.close();
        assert_eq!(node.revision(), receipt + 1);
        assert_eq!(node.core.metrics.delivery_receipts.get(), 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn nothing_more_is_delivered_while_too_much_gathers() {
        let dir = tempfile::tempdir().unwrap();
        let node = open(dir.path(), 4).await;
        let crm = subscribe(&node, new("crm")).await.id;
        within(node.core.deliveries.room()).await;
        let indexes: Vec<u64> = (crm.0 + 1..).take(100).collect();
        node.core.deliveries.gather(|gathered| {
            gathered.change(&node.core.view, crm, 0, |own| {
                own.acknowledge(&events(&indexes), Millis(1), |_| false);
            });
            // Under the lock: the thread has not taken it yet.
            node.core.deliveries.tell_room(gathered);
            assert!(*node.core.deliveries.is_full.borrow());
        });
        within(node.core.deliveries.room()).await;
        reach_receipts(&node, 1).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_dead_letter_that_is_delivered_after_all_is_one_no_longer() {
        let dir = tempfile::tempdir().unwrap();
        let node = open(dir.path(), 1).await;
        let webhook_url = Some("https://crm.example/hook".to_owned());
        let crm = subscribe(&node, NewSubscription { webhook_url, ..new("crm") }).await;
        let stops = [withdraw(&node, "user:1").await, withdraw(&node, "user:2").await];
        for index in stops {
            let failed = FailedDelivery { index, attempts: 9, http_status: 503 };
            node.core.give_up(crm.id, 0, failed);
        }
        let is_failed = |body: &Body| matches!(body, Body::Subscription(SubscriptionEntry::Failed(own)) if own.failed.iter().any(|own| own.index == stops[1]));
        let failed_index = entry_where(&node, is_failed).await;
        let letters = node.dead_letters("crm", None, 10).unwrap();
        assert_eq!(letters.len(), 2);
        assert!(matches!(letters[1], DeadLetter { attempts: 9, http_status: 503, .. }));
        let state = |at: u64| node.propagation(at).unwrap().subscriptions[0].state;
        let PropagationState::DeadLetter(_, by) = state(stops[1]) else { panic!() };
        assert_eq!(by, failed_index);
        assert_eq!(node.subscriptions(None, None, 1).unwrap()[0].dead_letters, 2);
        // Both at once, side by side.
        node.core.acknowledge(crm.id, 0, &events(&stops));
        reach_receipts(&node, 1).await;
        assert_eq!(node.dead_letters("crm", None, 10).unwrap(), []);
        for index in stops {
            assert!(matches!(state(index), PropagationState::Acknowledged(..)));
        }
        // To acknowledge again is nothing new.
        node.core.acknowledge(crm.id, 0, &events(&stops));
        let revision = node.revision();
        node.close();
        assert_eq!(node.revision(), revision);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn nothing_gathers_for_who_is_gone_or_once_writes_are_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let node = open(dir.path(), 100).await;
        let [crm, mail] = ["crm", "mail"].map(|name| subscribe(&node, new(name)));
        let (crm, mail) = (crm.await.id, mail.await.id);
        let index = withdraw(&node, "user:1").await;
        node.core.acknowledge(crm, 0, &events(&[index]));
        let end = node.delete_subscription(key("crm")).await.unwrap();
        // What it acknowledged before its end is on record before it.
        assert!(matches!(
            node.core.entry(end - 1).unwrap().body,
            Body::Subscription(SubscriptionEntry::Delivered(_))
        ));
        assert_eq!(states(&node, index)[0], ("crm".to_owned(), "acknowledged"));
        assert_eq!(node.core.metrics.delivery_receipts.get(), 1);
        node.core.acknowledge(crm, 0, &events(&[index]));
        assert_eq!(node.core.settled(crm, 0), None);
        assert_eq!(node.core.settled(mail, 1), None);
        node.core.acknowledge(mail, 7, &events(&[index]));
        node.core.stop_writes("a test says so");
        node.core.acknowledge(mail, 0, &events(&[index]));
        node.close();
        assert_eq!(receipts(&node), 1);
        within(node.core.deliveries.room()).await;
    }

    async fn overdue_told(watcher: &mut Watcher) -> (u64, u64) {
        loop {
            if let Told::Event(event, _) = within(watcher.next()).await.unwrap() {
                let EventTold::Overdue(told) = &event.told else { panic!("{event:?}") };
                assert_eq!(told.subscription.as_str(), "crm");
                return (event.index, told.event_index);
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_deadline_that_passes_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let node = open(dir.path(), 1_000).await;
        let kinds = [EventKind::Overdue].into();
        let mut watcher = node.watch(None, Filter { kinds, ..Filter::default() }).unwrap();
        let late = NewSubscription { deadline_ms: Some(1), ..new("crm") };
        let crm = subscribe(&node, late).await.id;
        subscribe(&node, new("patient")).await;
        let [first, second] = [withdraw(&node, "user:1").await, withdraw(&node, "user:2").await];
        let (index, event_index) = overdue_told(&mut watcher).await;
        assert_eq!(event_index, first);
        let Body::Subscription(SubscriptionEntry::Overdue(overdue)) =
            node.core.entry(index).unwrap().body
        else {
            panic!()
        };
        assert_eq!((overdue.subscription, overdue.shard), (crm, 0));
        assert_eq!(overdue.pending_since, node.core.entry(first).unwrap().recorded_at);
        assert!(shard_now(&node, "crm").overdue && !shard_now(&node, "patient").overdue);
        for _ in 0..3 {
            node.core.look_who_is_behind(None);
        }
        let metrics = Arc::clone(&node.core.metrics);
        assert_eq!((metrics.subscriptions.get(), metrics.subscriptions_overdue.get()), (2, 1));
        node.close();
        assert_eq!((overdues(&node), metrics.deliveries_overdue.get()), (1, 1));
        drop(node);
        // It was said; that a server starts again does not change it.
        let node = open_with(dir.path(), LONG, 1_000);
        node.core.look_who_is_behind(None);
        assert_eq!(node.core.metrics.subscriptions_overdue.get(), 1);
        node.core.acknowledge(crm, 0, &events(&[first, second]));
        node.core.look_who_is_behind(None);
        assert_eq!(node.core.metrics.subscriptions_overdue.get(), 0);
        assert!(!shard_now(&node, "crm").overdue);
        // Acknowledged, and no receipt yet; the other has no deadline.
        assert_eq!(states(&node, first), are(&[("crm", "pending"), ("patient", "pending")]));
        node.close();
        assert_eq!(overdues(&node), 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_snapshot_that_nobody_acknowledges_is_overdue_too() {
        let dir = tempfile::tempdir().unwrap();
        let node = open(dir.path(), 1_000).await;
        let snapshot = Some(Snapshot::Denied);
        let late = NewSubscription { deadline_ms: Some(1), snapshot, ..new("crm") };
        let crm = subscribe(&node, late).await;
        let index = entry_where(&node, |body| {
            matches!(body, Body::Subscription(SubscriptionEntry::Overdue(_)))
        })
        .await;
        let Body::Subscription(SubscriptionEntry::Overdue(overdue)) =
            node.core.entry(index).unwrap().body
        else {
            panic!()
        };
        assert_eq!((overdue.event_index, overdue.pending_since), (crm.id.0, crm.created_at));
        let report = shard_now(&node, "crm");
        assert!(report.snapshot_pending && report.overdue);
        assert_eq!((report.pending_since, report.lag_entries), (Some(crm.created_at), 0));
        let done = Acknowledged { snapshot: true, ..Acknowledged::default() };
        node.core.acknowledge(crm.id, 0, &done);
        let report = shard_now(&node, "crm");
        assert!(!report.snapshot_pending && !report.overdue);
        node.close();
        assert_eq!(receipts(&node), 1, "a snapshot goes on record");
    }

    #[test]
    fn who_stays_behind_is_told_again_after_as_long_a_time() {
        let spec = |deadline_ms| SubscriptionCreated {
            name: key("crm"),
            owner: String::new(),
            filter: Filter::default(),
            start_index: 1,
            snapshot: None,
            shards: 1,
            deadline_ms,
            webhook_url: None,
        };
        for (deadline_ms, again_ms) in [(1_000, 60_000), (3_600_000, 3_600_000)] {
            let mut own = Subscription::new(SubscriptionId(0), Millis(0), spec(Some(deadline_ms)));
            assert!(lag::is_to_be_told(&own, &own.shards[0], None, Millis(0)));
            let recorded_at = Millis(500);
            own.shards[0].overdue = Some(Overdue { event_index: 3, recorded_at });
            for (after_ms, want) in [(again_ms - 1, false), (again_ms, true)] {
                let now = recorded_at.plus_ms(after_ms);
                assert_eq!(lag::is_to_be_told(&own, &own.shards[0], None, now), want);
                let recovered = own.shards[0].overdue;
                assert!(lag::is_to_be_told(&own, &own.shards[0], recovered, now), "anew");
                let before = Some(Overdue { event_index: 1, recorded_at: Millis(1) });
                assert_eq!(lag::is_to_be_told(&own, &own.shards[0], before, now), want);
            }
            // A subscription may be younger than what it must hear.
            let created_at = Millis(700);
            let own = Subscription::new(SubscriptionId(9), created_at, spec(Some(deadline_ms)));
            let pending = Pending { index: 3, since: Millis(100) };
            assert_eq!(pending.counts_from(&own), created_at);
            assert!(!is_overdue(&own, created_at, created_at.plus_ms(deadline_ms - 1)));
            assert!(is_overdue(&own, created_at, created_at.plus_ms(deadline_ms)));
        }
        let own = Subscription::new(SubscriptionId(0), Millis(0), spec(None));
        assert!(!is_overdue(&own, Millis(0), Millis(i64::MAX)));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_list_says_how_far_each_is_behind_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let node = open(dir.path(), 1_000).await;
        let crm = subscribe(&node, new("crm")).await.id;
        let other = NewSubscription { owner: "other".to_owned(), ..new("ads") };
        subscribe(&node, other).await;
        let idle = shard_now(&node, "crm");
        assert_eq!((idle.next_index, idle.lag_entries), (node.revision(), 0));
        assert_eq!(idle.pending_since, None);
        act(&node, "user:0", Action::Grant).await;
        let mut stops = Vec::new();
        // More than memory keeps.
        for who in 0..20 {
            stops.push(withdraw(&node, &format!("user:{who}")).await);
        }
        let behind = shard_now(&node, "crm");
        assert_eq!((behind.next_index, behind.lag_entries), (stops[0], 20));
        assert_eq!(behind.pending_since, Some(node.core.entry(stops[0]).unwrap().recorded_at));
        // Out of order: the oldest counts.
        node.core.acknowledge(crm, 0, &events(&stops[1..19]));
        assert_eq!(shard_now(&node, "crm").lag_entries, 20);
        node.core.acknowledge(crm, 0, &events(&stops[..1]));
        let behind = shard_now(&node, "crm");
        assert_eq!((behind.next_index, behind.lag_entries), (stops[19], 1));
        let to = Some(node.revision());
        let rest = Acknowledged { next_index: to, events: 1, ..Acknowledged::default() };
        node.core.acknowledge(crm, 0, &rest);
        assert_eq!(shard_now(&node, "crm").lag_entries, 0);
        assert_eq!(shard_now(&node, "ads").lag_entries, 20);
        // By name, from one name on, of one owner.
        let named = |owner, after: Option<&str>, limit| {
            let after = after.map(key);
            let all = node.subscriptions(owner, after.as_ref(), limit).unwrap();
            all.iter().map(|own| own.subscription.spec.name.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(named(None, None, 9), ["ads", "crm"]);
        assert_eq!(named(None, None, 1), ["ads"]);
        assert_eq!(named(None, Some("ads"), 9), ["crm"]);
        assert_eq!(named(Some("other"), None, 9), ["ads"]);
        assert!(named(Some("nobody"), None, 9).is_empty());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_has_no_time_to_look_says_more_and_never_less() {
        let dir = tempfile::tempdir().unwrap();
        let node = open(dir.path(), 1_000).await;
        let crm = subscribe(&node, new("crm")).await;
        for who in 0..400 {
            act(&node, &format!("user:{who}"), Action::Grant).await;
        }
        // Nobody looks but this test, and nobody has looked.
        node.deliveries.close();
        node.core.deliveries.lag.places.lock().clear();
        let report = node.core.shard_report(&crm, 0, Instant::now());
        assert!(report.lag_entries > 0 && report.pending_since.is_some(), "{report:?}");
        assert!(!report.overdue);
        // It goes on from there.
        assert_eq!(shard_now(&node, "crm").lag_entries, 0);
    }

    /// What became of an event, subscription by subscription.
    fn states(node: &Node, index: u64) -> Vec<(String, &'static str)> {
        let word = |own: &Propagation| match own.state {
            PropagationState::Acknowledged(..) => "acknowledged",
            PropagationState::Pending => "pending",
            PropagationState::Overdue => "overdue",
            PropagationState::DeadLetter(..) => "dead letter",
            PropagationState::Deleted(..) => "deleted",
        };
        let report = node.propagation(index).unwrap();
        let named = |own: &Propagation| (own.subscription.spec.name.to_string(), word(own));
        report.subscriptions.iter().map(named).collect()
    }

    fn are(pairs: &[(&str, &'static str)]) -> Vec<(String, &'static str)> {
        pairs.iter().map(|(name, state)| ((*name).to_owned(), *state)).collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn propagation_says_of_everybody_who_should_have_heard() {
        let dir = tempfile::tempdir().unwrap();
        let node = open(dir.path(), 1).await;
        let before = withdraw(&node, "user:0").await;
        subscribe(&node, new("gone")).await;
        node.delete_subscription(key("gone")).await.unwrap();
        let crm = subscribe(&node, new("crm")).await.id;
        let ended = subscribe(&node, new("ended")).await.id;
        let late = NewSubscription { deadline_ms: Some(1), ..new("late") };
        subscribe(&node, late).await;
        let elsewhere = Filter { namespaces: ["device".to_owned()].into(), ..Filter::default() };
        subscribe(&node, NewSubscription { filter: elsewhere, ..new("elsewhere") }).await;
        let grant = act(&node, "user:1", Action::Grant).await;
        let stop = withdraw(&node, "user:1").await;
        assert_eq!(states(&node, stop)[0].1, "pending");
        // Created after the event, and must hear it.
        let behind = NewSubscription { start: Some(before), ..new("audit") };
        subscribe(&node, behind).await;
        node.core.acknowledge(crm, 0, &events(&[stop]));
        reach_receipts(&node, 1).await;
        let end = node.delete_subscription(key("ended")).await.unwrap();
        let want = [
            ("audit", "pending"),
            ("crm", "acknowledged"),
            ("ended", "deleted"),
            ("late", "overdue"),
        ];
        entry_where(&node, |body| {
            matches!(body, Body::Subscription(SubscriptionEntry::Overdue(_)))
        })
        .await;
        assert_eq!(states(&node, stop), are(&want));
        let report = node.propagation(stop).unwrap();
        let recorded_at = node.core.entry(stop).unwrap().recorded_at;
        assert_eq!(report.recorded_at, recorded_at);
        let PropagationState::Acknowledged(at, by) = report.subscriptions[1].state else {
            panic!()
        };
        assert!(matches!(
            node.core.entry(by).unwrap().body,
            Body::Subscription(SubscriptionEntry::Delivered(_))
        ));
        let took = report.subscriptions[1].elapsed.as_millis();
        assert_eq!(took, u128::try_from(at.0 - recorded_at.0).unwrap());
        let PropagationState::Deleted(_, by) = report.subscriptions[2].state else { panic!() };
        assert_eq!((by, report.subscriptions[2].subscription.id), (end, ended));
        // Before those that start later, and what is no event at all.
        assert_eq!(states(&node, before), are(&[("audit", "pending")]));
        assert_eq!(states(&node, grant), []);
        assert_eq!(states(&node, 0), []);
        let head = node.revision();
        let error = node.propagation(head).unwrap_err();
        assert!(matches!(error, ReadError::IndexOutOfRange { .. }), "{error}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_shards_the_one_furthest_behind_counts() {
        let dir = tempfile::tempdir().unwrap();
        let node = open(dir.path(), 1).await;
        let crm = subscribe(&node, NewSubscription { shards: 2, ..new("crm") }).await.id;
        let of = |shard| {
            let names = (0..).map(|who| Subject::parse(&format!("user:{who}")).unwrap());
            names.into_iter().find(|name| shard_of(name, 2) == shard).unwrap()
        };
        let (one, two) = (of(0), of(1));
        let stop = withdraw(&node, one.as_str()).await;
        // The other shard has nothing to do with it.
        node.core.acknowledge(crm, 0, &events(&[stop]));
        reach_receipts(&node, 1).await;
        assert_eq!(states(&node, stop), are(&[("crm", "acknowledged")]));
        // A link concerns both.
        let linking = Linking {
            subject: one,
            other: two,
            confidence: Some(LinkConfidence::Verified),
            asserted_by: "test".to_owned(),
            dry_run: false,
        };
        let link = node.link(linking).await.unwrap().index.unwrap();
        assert_eq!(states(&node, link), are(&[("crm", "pending")]));
        node.core.acknowledge(crm, 0, &events(&[link]));
        reach_receipts(&node, 2).await;
        assert_eq!(states(&node, link), are(&[("crm", "pending")]));
        node.core.acknowledge(crm, 1, &events(&[link]));
        reach_receipts(&node, 3).await;
        assert_eq!(states(&node, link), are(&[("crm", "acknowledged")]));
    }
}
