//! An entry gives the same event when it is written and when it is read back from the ledger, and the
//! node works with entries about an erased data subject.

use std::{path::Path, sync::Arc};

use proptest::{collection::vec, option, prelude::*, sample::select};

use super::{
    Act, AsOf, Confirm, ConfirmError, IssueError, Linking, Name, Naming, NewSubscription, Node,
    NodeConfig, PurposeDraft, Snapshotting, UseBatch, VIEW_DIR, WriteError,
};
use crate::{
    config::ServeConfig,
    domain::{
        Action, Actor, Change, ChannelPut, ContactChange, EventKind, Evidence, Filter, Identity,
        Key, LegalBasis, LinkConfidence, Millis, PurposeVersion, Said, ScopeKeys, Snapshot,
        Subject, SubjectRef,
    },
    entry::{Body, DeliveryOverdue, SubscriptionEntry},
    event::{Event, EventDetail},
    fold::Due,
    history::LineKind,
    receipt::Format,
    vault::Kek,
    watch::Heard,
};

const SUBJECTS: [&str; 4] = ["user:1", "user:2", "email:jo@example.org", "device:9"];
const PURPOSES: [&str; 2] = ["news", "offers"];
const CHANNELS: [&str; 2] = ["email", "sms"];
/// Grants end long after every test.
const VALIDITY_MS: i64 = 3_600_000;

/// An operation that writes an entry, or is refused.
#[derive(Debug, Clone)]
enum Op {
    Act {
        name: &'static str,
        changes: Vec<(Action, usize, Option<usize>)>,
        language: bool,
    },
    /// Completes the latest double opt-in.
    Confirm,
    /// Records that all grants have ended.
    Expire,
    Link {
        one: &'static str,
        other: &'static str,
        confidence: Option<LinkConfidence>,
    },
    Use {
        name: &'static str,
    },
    Purpose {
        purpose: usize,
        double_opt_in: bool,
        retired: bool,
    },
    Channel {
        channel: usize,
        retired: bool,
    },
    Subscribe {
        shards: u32,
    },
    Overdue {
        shard: u32,
    },
    Unsubscribe,
}

fn any_op() -> impl Strategy<Value = Op> {
    use LinkConfidence::{Asserted, Verified};
    let name = || select(&SUBJECTS[..]);
    let action = select(vec![
        Action::Grant,
        Action::Grant,
        Action::Refuse,
        Action::Withdraw,
        Action::Object,
    ]);
    let changes = vec((action, 0..PURPOSES.len(), option::of(0..CHANNELS.len())), 0..3);
    prop_oneof![
        6 => (name(), changes, any::<bool>())
            .prop_map(|(name, changes, language)| {
                // An act needs a change or a preference.
                let language = language || changes.is_empty();
                Op::Act { name, changes, language }
            }),
        2 => Just(Op::Confirm),
        2 => Just(Op::Expire),
        3 => (name(), name(), option::of(select(vec![Verified, Asserted])))
            .prop_map(|(one, other, confidence)| Op::Link { one, other, confidence }),
        1 => name().prop_map(|name| Op::Use { name }),
        2 => (0..PURPOSES.len(), any::<bool>(), any::<bool>()).prop_map(
            |(purpose, double_opt_in, retired)| Op::Purpose { purpose, double_opt_in, retired }
        ),
        1 => (0..CHANNELS.len(), any::<bool>())
            .prop_map(|(channel, retired)| Op::Channel { channel, retired }),
        1 => (1..4_u32).prop_map(|shards| Op::Subscribe { shards }),
        1 => (0..3_u32).prop_map(|shard| Op::Overdue { shard }),
        1 => Just(Op::Unsubscribe),
    ]
}

struct World {
    node: Arc<Node>,
    token: Option<String>,
}

impl World {
    async fn new(dir: &Path) -> Self {
        let mut world = Self { node: open(dir), token: None };
        for channel in 0..CHANNELS.len() {
            world.perform(Op::Channel { channel, retired: false }).await;
        }
        for purpose in 0..PURPOSES.len() {
            let double_opt_in = purpose == 1;
            world.perform(Op::Purpose { purpose, double_opt_in, retired: false }).await;
        }
        world
    }

    /// Performs an operation. A refused one writes nothing, which is fine.
    async fn perform(&mut self, op: Op) {
        let node = &self.node;
        match op {
            Op::Act { name, changes, language } => {
                if let Ok(recorded) = node.record(act(name, &changes, language)).await {
                    self.token = recorded
                        .confirmation
                        .map(|confirmation| confirmation.token)
                        .or(self.token.take());
                }
            }
            Op::Confirm => {
                if let Some(token) = self.token.take() {
                    drop(node.confirm(confirm(token)).await);
                }
            }
            Op::Expire => self.expire().await,
            Op::Link { one, other, confidence } => {
                drop(node.link(link(one, other, confidence)).await);
            }
            Op::Use { name } => drop(node.record_uses(use_of(name)).await),
            Op::Purpose { purpose, double_opt_in, retired } => {
                let draft = draft(PURPOSES[purpose], double_opt_in, retired);
                drop(node.put_purpose(draft).await);
            }
            Op::Channel { channel, retired } => {
                let key = key(CHANNELS[channel]);
                drop(node.put_channel(ChannelPut { key, title: String::new(), retired }).await);
            }
            Op::Subscribe { shards } => drop(node.create_subscription(subscription(shards)).await),
            Op::Overdue { shard } => self.overdue(shard).await,
            Op::Unsubscribe => drop(node.delete_subscription(key("crm")).await),
        }
    }

    async fn expire(&self) {
        let due = self.due();
        self.node
            .write(move |batch| {
                batch.expire(&due, false);
                Ok::<_, WriteError>(())
            })
            .await
            .unwrap();
    }

    fn due(&self) -> Vec<Due> {
        self.node.core.view.due(None, Millis(i64::MAX), usize::MAX).unwrap()
    }

    async fn overdue(&self, shard: u32) {
        let subscriptions = self.node.core.view.subscriptions();
        let Some(subscription) = subscriptions.named("crm").map(|crm| crm.id) else { return };
        let event_index = subscription.0;
        let pending_since = Millis(5);
        let overdue = DeliveryOverdue { subscription, shard, event_index, pending_since };
        let about = SubscriptionEntry::Overdue(overdue);
        drop(self.node.write(move |batch| batch.put_subscription(about)).await);
    }

    /// The events as the writer sent them.
    fn live(&self, from: u64) -> Vec<Arc<Event>> {
        let head = self.node.revision();
        let (events, next) = self.node.core.hub.events_between(from, head, &everything()).unwrap();
        assert!(next >= head, "memory holds all of a test");
        events
    }

    /// The events as read back from the ledger.
    fn on_record(&self, from: u64) -> Vec<Arc<Event>> {
        let hub = &self.node.core.hub;
        (from..self.node.revision())
            .filter_map(|index| hub.event_on_record(index).unwrap())
            .collect()
    }

    fn subject_ref(&self, name: &str) -> SubjectRef {
        self.node.core.vault.find(&subject(name)).unwrap().unwrap()
    }

    fn erase(&self, name: &str) {
        self.node.core.vault.pretend_erased(self.subject_ref(name));
    }
}

fn open(dir: &Path) -> Arc<Node> {
    let config = NodeConfig {
        data_dir: dir.to_owned(),
        kek: Some(Kek::parse(&"5a".repeat(32)).unwrap()),
        scrub_bytes_per_second: 0,
        ..ServeConfig::default().node
    };
    crate::node::open_in_test(&config)
}

fn everything() -> Filter {
    Filter { kinds: EventKind::ALL.into(), ..Filter::default() }
}

fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

fn subject(text: &str) -> Subject {
    Subject::parse(text).unwrap()
}

fn act(name: &str, changes: &[(Action, usize, Option<usize>)], language: bool) -> Act {
    let change = |&(action, purpose, channel): &(Action, usize, Option<usize>)| {
        let is_grant = action == Action::Grant;
        // A grant is for one cell.
        let channel = channel.or(is_grant.then_some(0)).map(|channel| key(CHANNELS[channel]));
        Change {
            action,
            scope: ScopeKeys { purpose: Some(key(PURPOSES[purpose]).into()), channel },
            purpose_version: None,
            expires_at: is_grant.then(|| Millis::now().plus_ms(VALIDITY_MS)),
            data_categories: Vec::new(),
        }
    };
    let language = if language { Said::Value("de".to_owned()) } else { Said::Nothing };
    Act {
        subject: subject(name),
        actor: Actor::Subject,
        changes: changes.iter().map(change).collect(),
        contact: ContactChange { language, ..ContactChange::default() },
        effective_at: None,
        record_only_news: false,
        confirmation_validity_ms: None,
        reported_late: false,
        evidence: Evidence { touchpoint: "shop".to_owned(), ..Evidence::default() },
        idempotency: None,
    }
}

fn confirm(token: String) -> Confirm {
    let evidence = Evidence::default();
    Confirm { token, subject: None, effective_at: None, evidence, idempotency: None }
}

fn link(one: &str, other: &str, confidence: Option<LinkConfidence>) -> Linking {
    Linking {
        subject: subject(one),
        other: subject(other),
        confidence,
        asserted_by: "login".to_owned(),
        dry_run: false,
    }
}

fn use_of(name: &str) -> UseBatch {
    UseBatch {
        subjects: vec![subject(name)],
        purpose: key("news"),
        channel: key("email"),
        data_categories: Vec::new(),
        region: None,
        ignore_obligations: false,
        segment: String::new(),
        campaign: String::new(),
    }
}

fn draft(purpose: &str, double_opt_in: bool, retired: bool) -> PurposeDraft {
    let content = PurposeVersion {
        title: String::new(),
        description: String::new(),
        legal_basis: LegalBasis::Consent,
        basis_by_region: std::collections::BTreeMap::new(),
        data_categories: Vec::new(),
        default_validity_ms: None,
        double_opt_in,
        obligations: Vec::new(),
        controller: None,
        recipients: None,
    };
    PurposeDraft {
        key: key(purpose),
        content,
        oldest_compatible: None,
        requires_reconsent: false,
        retired,
    }
}

fn subscription(shards: u32) -> NewSubscription {
    NewSubscription {
        name: key("crm"),
        owner: "crm".to_owned(),
        filter: Filter::default(),
        start: None,
        snapshot: None,
        shards,
        deadline_ms: None,
        webhook_url: None,
    }
}

/// An event without linked subjects: an event that is read back has those of today.
fn without_linked(event: &Event) -> Event {
    let mut event = event.clone();
    match &mut event.detail {
        EventDetail::Consent(detail) => detail.linked.clear(),
        EventDetail::Ends(ends) => ends.iter_mut().for_each(|end| end.linked.clear()),
        EventDetail::Link(detail) => detail.linked.clear(),
        EventDetail::Catalog(_) | EventDetail::Overdue(_) => {}
    }
    event
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn an_entry_tells_the_same_when_it_is_written_and_when_it_is_read(
        ops in vec(any_op(), 1..40),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let events = runtime().block_on(async {
            let mut world = World::new(dir.path()).await;
            let mut events = world.live(0);
            assert_eq!(events, world.on_record(0));
            for op in ops {
                let from = world.node.revision();
                world.perform(op).await;
                let live = world.live(from);
                assert_eq!(live, world.on_record(from), "as it was just written");
                events.extend(live);
            }
            events.iter().map(|event| without_linked(event)).collect::<Vec<_>>()
        });
        // A new node with a rebuilt view reads back the same events.
        std::fs::remove_dir_all(dir.path().join(VIEW_DIR)).unwrap();
        runtime().block_on(async {
            let world = World { node: open(dir.path()), token: None };
            let again: Vec<_> =
                world.on_record(0).iter().map(|event| without_linked(event)).collect();
            assert_eq!(again, events);
        });
    }
}

const GRANT: (Action, usize, Option<usize>) = (Action::Grant, 0, Some(0));
const WITHDRAW: (Action, usize, Option<usize>) = (Action::Withdraw, 0, Some(0));

/// `user:1` and `user:2` are linked, by an assertion that is sealed for `user:1`; each acts before and
/// after that. Then `user:1` is erased.
async fn with_an_erased_subject(dir: &Path) -> World {
    let mut world = World::new(dir).await;
    let acts = |changes: &[_]| {
        ["user:1", "user:2"].map(|name| Op::Act {
            name,
            changes: changes.to_vec(),
            language: false,
        })
    };
    let confidence = Some(LinkConfidence::Verified);
    let linked = Op::Link { one: "user:1", other: "user:2", confidence };
    for op in acts(&[GRANT]).into_iter().chain([linked]).chain(acts(&[WITHDRAW])) {
        world.perform(op).await;
    }
    world.erase("user:1");
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_go_on_past_what_an_erased_subject_did() {
    let dir = tempfile::tempdir().unwrap();
    let world = with_an_erased_subject(dir.path()).await;
    let node = open_again(world, dir.path());
    let mut watcher = node.watch(Some(0), everything()).unwrap();
    let mut received = Vec::new();
    while let Heard::Event(post, _) = watcher.next().await.unwrap() {
        let index = post.event.index;
        received.extend(post.event.subjects().map(|subject| (index, subject.as_str().to_owned())));
    }
    // Entry 0 opens the ledger, the next four are of the catalogue; the link has no event either.
    assert_eq!(received, [(6, "user:2".to_owned()), (9, "user:2".to_owned())]);
    // New events follow, without the erased subject.
    node.record(act("user:2", &[WITHDRAW], false)).await.unwrap();
    let Heard::Event(post, _) = watcher.next().await.unwrap() else { panic!("an event") };
    assert_eq!(post.event.subjects().collect::<Vec<_>>(), [&subject("user:2")]);
}

/// The node of a world, opened again with a rebuilt view.
fn open_again(world: World, dir: &Path) -> Arc<Node> {
    drop(world);
    std::fs::remove_dir_all(dir.join(VIEW_DIR)).unwrap();
    open(dir)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_is_built_anew_although_the_ledger_names_an_erased_subject() {
    let dir = tempfile::tempdir().unwrap();
    let world = with_an_erased_subject(dir.path()).await;
    let (erased, revision) = (world.subject_ref_of_entry(5), world.node.revision());
    let state = world.node.core.view.state(erased).unwrap();
    let node = open_again(world, dir.path());
    assert_eq!(node.revision(), revision);
    assert_eq!(node.core.view.state(erased).unwrap(), state);
    assert_eq!(node.core.vault.identity(erased).unwrap(), Identity::Erased);
    // A subject that the vault has lost is an error; see `open`.
    assert!(!node.core.vault.accounts_for(SubjectRef([7; 16])).unwrap());
}

impl World {
    /// The first data subject that an entry names.
    fn subject_ref_of_entry(&self, index: u64) -> SubjectRef {
        self.node.core.entry(index).unwrap().body.kind().named()[0]
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn histories_and_preferences_leave_the_name_of_an_erased_subject_out() {
    let dir = tempfile::tempdir().unwrap();
    let world = with_an_erased_subject(dir.path()).await;
    let node = &world.node;
    let history = node.history(&subject("user:2"), 0, 100, Naming::Everybody).unwrap();
    let kinds: Vec<_> = history.iter().map(|item| item.line.kind).collect();
    assert_eq!(kinds, [LineKind::Act, LineKind::Link, LineKind::Act]);
    let link = history[1].link.as_ref().unwrap();
    assert_eq!(link.other, Name::Erased);
    assert!(node.history(&subject("user:1"), 0, 100, Naming::Everybody).unwrap().is_empty());

    let preferences = node.preferences(&subject("user:2"), false, None, Naming::Everybody).unwrap();
    let names: Vec<_> = preferences.links.iter().map(|linked| &linked.name).collect();
    assert_eq!((preferences.cells.len(), names), (1, vec![&Name::Erased]));
    let as_of = AsOf::Revision(node.revision());
    let preferences =
        node.preferences_at(&subject("user:2"), false, None, as_of, Naming::Everybody).unwrap();
    let names: Vec<_> = preferences.links.iter().map(|linked| &linked.name).collect();
    assert_eq!((preferences.cells.len(), names), (1, vec![&Name::Erased]));
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_tell_of_all_but_an_erased_subject() {
    let dir = tempfile::tempdir().unwrap();
    let world = with_an_erased_subject(dir.path()).await;
    let mut sharded = Vec::new();
    for shard in [None, Some((0, 2)), Some((1, 2))] {
        let filter = Arc::default();
        let revision = world.node.revision();
        let scope = Snapshotting { revision, kind: Snapshot::All, filter, shard };
        let mut reader = world.node.snapshot(scope, &[]).unwrap();
        let mut subjects = Vec::new();
        loop {
            let page = reader.next_page().await.unwrap();
            if page.is_empty() {
                break;
            }
            assert!(page.iter().all(|subject| subject.linked.is_empty()));
            subjects.extend(page.into_iter().map(|subject| subject.subject));
        }
        match shard {
            None => assert_eq!(subjects, [subject("user:2")]),
            Some(_) => sharded.extend(subjects),
        }
    }
    assert_eq!(sharded, [subject("user:2")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_subject_is_given_no_receipt() {
    let dir = tempfile::tempdir().unwrap();
    let world = with_an_erased_subject(dir.path()).await;
    let signed = world.node.released_at_least(world.node.revision()).await.unwrap();
    let receipt = |index| world.node.receipt(index, &signed, None, Format::ConsentReceipt);
    assert!(matches!(receipt(5), Err(IssueError::ActUnknown { .. })));
    assert!(receipt(6).is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_go_on_beside_an_erased_subject() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(dir.path()).await;
    let double_opt_in = [(Action::Grant, 1, Some(0))];
    let pending = world.node.record(act("user:1", &double_opt_in, false)).await.unwrap();
    let granted = [GRANT, (Action::Grant, 0, Some(1))];
    world.perform(Op::Act { name: "user:1", changes: granted.to_vec(), language: false }).await;
    let confidence = Some(LinkConfidence::Verified);
    world.node.link(link("user:1", "user:2", confidence)).await.unwrap();
    world.erase("user:1");

    // The double opt-in of an erased data subject can not be completed.
    let token = pending.confirmation.unwrap().token;
    let error = world.node.confirm(confirm(token)).await.unwrap_err();
    assert!(matches!(error, ConfirmError::TokenUnknown), "{error}");
    // The other data subject can be linked; the changed cells leave out the erased one.
    let outcome = world.node.link(link("user:2", "device:9", confidence)).await.unwrap();
    let subjects: Vec<_> = outcome.cells.iter().map(|cell| cell.subject.as_str()).collect();
    assert_eq!(subjects, ["device:9"; 3]);
    // The end of its grants is recorded, without an event.
    let from = world.node.revision();
    world.expire().await;
    let entry = world.node.core.entry(from).unwrap();
    assert!(matches!(entry.body, Body::Expired(_)), "{entry:?}");
    assert_eq!((world.live(from), world.on_record(from)), (Vec::new(), Vec::new()));
    // A new act gives it a new reference.
    let before = world.subject_ref_of_entry(from);
    world.perform(Op::Act { name: "user:1", changes: vec![GRANT], language: false }).await;
    assert_ne!(world.subject_ref("user:1"), before);
    assert_eq!(world.live(from + 1).len(), 1);
}
