//! The writer and a replay of the ledger agree: on the states that checks read, on the outcomes in
//! the entries, and on the events that watchers hear. Over random acts and catalogue changes that
//! share batches, some of them refused.

use std::{collections::HashMap, env, path::Path};

use consent_ledger::{
    domain::{
        Action, Actor, Body, Change, ChannelPut, EventKind, Filter, LegalBasis, Millis, Outcome,
        PurposeVersion, SubjectRef, SubjectState,
    },
    event::{Event, EventDetail},
    fold::{CatalogAt, consent},
    node::{Act, Checked, Naming, Node, Preferences, PurposeDraft, Question, Recorded, Refused},
    proto::ErrorReason,
    status::Fault,
    watch::{Heard, Watcher},
};
use futures_util::future::join_all;
use proptest::{collection::vec, option, prelude::*, sample::select};

use crate::support::{
    node::{act, change, draft, kek, key, open, put_catalog, subject, with_key},
    opened::Ledger,
};

/// `late` enters the catalogue only when a step puts it.
const PURPOSES: [&str; 4] = ["newsletter", "offers", "care", "late"];
const CHANNELS: [&str; 3] = ["email", "sms", "late"];
const SUBJECTS: [&str; 3] = ["user:1", "user:2", "email:jo@example.org"];

#[derive(Debug, Clone)]
enum Step {
    Act(Box<Act>),
    Purpose(Box<PurposeDraft>),
    Channel(ChannelPut),
}

fn config() -> ProptestConfig {
    let cases_are_set = env::var_os("PROPTEST_CASES").is_some();
    let defaults = ProptestConfig::default();
    let cases = if cases_are_set { defaults.cases } else { 100 };
    ProptestConfig { cases, failure_persistence: None, ..defaults }
}

fn any_change() -> impl Strategy<Value = Change> {
    use Action::{Grant, Object, Refuse, Withdraw};
    let wide = |keys: &[&'static str]| select([keys, &["*"]].concat());
    let categories = vec(select(vec!["user.contact".to_owned(), "user.age".to_owned()]), 0..2);
    let rest = (option::weighted(0.2, 1..3_u32), any_expiry(), categories);
    prop_oneof![
        3 => (select(PURPOSES.to_vec()), select(CHANNELS.to_vec()), rest).prop_map(
            |(purpose, channel, (purpose_version, expires_at, data_categories))| Change {
                purpose_version,
                expires_at,
                data_categories,
                ..change(Grant, purpose, channel)
            }
        ),
        2 => (select(vec![Refuse, Withdraw, Object]), wide(&PURPOSES), wide(&CHANNELS))
            .prop_map(|(action, purpose, channel)| change(action, purpose, channel)),
    ]
}

/// Most grants would be refused if their expiry were as random as the time of an act.
fn any_expiry() -> impl Strategy<Value = Option<Millis>> {
    let far = Millis::now().plus_ms(1_000_000_000);
    prop_oneof![4 => Just(None), 3 => Just(Some(far)), 1 => any_moment()]
}

/// Long ago, a minute ago or a minute ahead: never so near that a test run passes it.
fn any_moment() -> impl Strategy<Value = Option<Millis>> {
    let now = Millis::now();
    option::of(prop_oneof![
        (0..4_i64).prop_map(Millis),
        (0..4_i64).prop_map(move |ms| now.plus_ms(ms - 60_000)),
        Just(now.plus_ms(60_000)),
    ])
}

fn any_act() -> impl Strategy<Value = Act> {
    use Actor::{Agent, Guardian, Import, Operator, Subject, System};
    let actor = prop_oneof![Just(Subject), select(vec![Guardian, Agent, Operator, System, Import])];
    let key = option::of(select(vec!["a", "b", "c", "d", "e", "f"]));
    (select(SUBJECTS.to_vec()), actor, vec(any_change(), 1..4), any_moment(), key).prop_map(
        |(who, actor, changes, effective_at, key)| {
            let act = Act { actor, effective_at, ..act(who, changes) };
            match key {
                Some(key) => with_key(act, key),
                None => act,
            }
        },
    )
}

fn any_purpose() -> impl Strategy<Value = PurposeDraft> {
    use LegalBasis::{Consent, Contract, LegitimateInterest};
    let content = (select(vec!["one", "two"]), any::<bool>(), option::of(1..1_000_000_000_i64))
        .prop_map(|(title, double_opt_in, default_validity_ms)| PurposeVersion {
            double_opt_in,
            default_validity_ms: default_validity_ms.map(|ms| ms + 1_000_000),
            ..draft(title).content
        });
    let standing = (option::of(1..3_u32), prop::bool::weighted(0.05));
    (
        select(PURPOSES.to_vec()),
        select(vec![Consent, LegitimateInterest, Contract]),
        content,
        standing,
    )
        .prop_map(|(purpose, legal_basis, content, (oldest_compatible, retired))| {
            PurposeDraft {
                key: key(purpose),
                content: PurposeVersion { legal_basis, ..content },
                oldest_compatible,
                requires_reconsent: false,
                retired,
            }
        })
}

fn any_step() -> impl Strategy<Value = Step> {
    let channel = (select(CHANNELS.to_vec()), prop::bool::weighted(0.05));
    prop_oneof![
        12 => any_act().prop_map(|act| Step::Act(Box::new(act))),
        2 => any_purpose().prop_map(|draft| Step::Purpose(Box::new(draft))),
        1 => channel.prop_map(|(channel, retired)| {
            Step::Channel(ChannelPut { key: key(channel), title: String::new(), retired })
        }),
    ]
}

/// The requests, with the results that were recorded for them.
type Acknowledged = Vec<(Act, Recorded)>;

/// Sends the steps of a round at once, so that they share batches.
async fn send(node: &Node, round: Vec<Step>, acknowledged: &mut Acknowledged) {
    let answers = join_all(round.into_iter().map(async |step| match step {
        Step::Act(act) => {
            let answer = node.record((*act).clone()).await;
            answer.map(|recorded| Some((*act, recorded))).map_err(Fault::from)
        }
        Step::Purpose(draft) => node.put_purpose(*draft).await.map(|_| None).map_err(Fault::from),
        Step::Channel(put) => node.put_channel(put).await.map(|_| None).map_err(Fault::from),
    }));
    for answer in answers.await {
        match answer {
            Ok(recorded) => acknowledged.extend(recorded),
            Err(fault) => {
                // Refused because of its content.
                let faults_of_the_node = [ErrorReason::WritesStopped, ErrorReason::StateUnreadable];
                assert!(!faults_of_the_node.contains(&fault.kind()), "{fault:?}");
            }
        }
    }
}

/// Every answer about every subject.
fn answers(node: &Node) -> (Vec<Checked>, Vec<Preferences>) {
    let (mut checks, mut preferences) = (Vec::new(), Vec::new());
    for who in SUBJECTS {
        let subject = subject(who);
        for (purpose, channel) in PURPOSES.iter().flat_map(|p| CHANNELS.map(|c| (p, c))) {
            let question = Question {
                subject: &subject,
                purpose,
                channel,
                data_categories: &[],
                region: None,
                ignore_obligations: false,
            };
            checks.push(node.check(&question).unwrap());
        }
        for all_cells in [false, true] {
            preferences
                .push(node.preferences(&subject, all_cells, None, Naming::Everybody).unwrap());
        }
    }
    (checks, preferences)
}

fn watch_all(node: &Node) -> Watcher {
    use EventKind::{Catalog, Grant, Object, Refuse, Withdraw};
    let kinds = [Catalog, Grant, Refuse, Withdraw, Object].into();
    node.watch(Some(0), Filter { kinds, ..Filter::default() }).unwrap()
}

/// Reads all events from an index on; returns the index after them.
async fn hear(node: &Node, watcher: &mut Watcher, from: u64, heard: &mut Vec<Event>) -> u64 {
    let mut next = from;
    while next < node.revision() {
        match watcher.next().await.unwrap() {
            Heard::Event(post, positions) => {
                match &post.event.detail {
                    EventDetail::Consent(event) => assert_eq!(positions.len(), event.changes.len()),
                    EventDetail::Catalog(change) => assert!(!change.effects.is_empty()),
                    other => panic!("{other:?}"),
                }
                heard.push((*post.event).clone());
            }
            Heard::CaughtUp { next_index } => next = next_index,
        }
    }
    next
}

/// Computes the outcome of every act of the ledger once more.
fn check_outcomes(dir: &Path) {
    let mut catalog = CatalogAt::default();
    let mut states: HashMap<SubjectRef, SubjectState> = HashMap::new();
    for entry in Ledger::open_with(dir, &kek()).entries() {
        let index = entry.index;
        catalog.fold(entry.fact());
        let Body::Act(act) = &entry.body else { continue };
        let mut changes = act.changes.clone();
        for change in &mut changes {
            change.outcome = Outcome::NoEffect;
        }
        let state = states.entry(act.subject_ref).or_default();
        let (recorded_at, effective_at) = (entry.recorded_at, act.effective_at);
        // Later than its record only where it would otherwise tie with an earlier act, and lose.
        let latest = state.first_moment_after(true, true);
        assert!(effective_at <= recorded_at || Some(effective_at) <= latest);
        let facts = consent::ActFacts { changes: &changes, ..consent::ActFacts::of(index, act) };
        let changes = consent::judge(&catalog.catalog, state, facts, recorded_at).unwrap();
        assert_eq!(changes, act.changes, "entry {index}");
    }
}

async fn check_replay(rounds: Vec<Vec<Step>>) {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path());
    put_catalog(&node).await;
    for purpose in ["offers", "care"] {
        node.put_purpose(PurposeDraft { key: key(purpose), ..draft(purpose) }).await.unwrap();
    }
    let mut watcher = watch_all(&node);
    let (mut live, mut heard_before, mut acknowledged) = (Vec::new(), 0, Vec::new());
    for round in rounds {
        send(&node, round, &mut acknowledged).await;
        heard_before = hear(&node, &mut watcher, heard_before, &mut live).await;
    }
    check_outcomes(dir.path());
    let before = answers(&node);
    drop(watcher);
    drop(node);

    for delete_view in [false, true] {
        if delete_view {
            std::fs::remove_dir_all(dir.path().join("view")).unwrap();
        }
        let node = open(dir.path());
        assert_eq!(answers(&node), before, "without view: {delete_view}");
        let mut from_ledger = Vec::new();
        hear(&node, &mut watch_all(&node), 0, &mut from_ledger).await;
        assert_eq!(from_ledger, live);
        for (act, recorded) in acknowledged.iter().filter(|(act, _)| act.idempotency.is_some()) {
            let again = node.record(act.clone()).await.unwrap();
            // What was refused beside stops is told only once.
            let refused = Refused::default();
            assert_eq!(again, Recorded { replayed: true, refused, ..recorded.clone() });
        }
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_replay_of_the_ledger_equals_the_writers_results(
        rounds in vec(vec(any_step(), 1..12), 1..8),
    ) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(check_replay(rounds));
    }
}
