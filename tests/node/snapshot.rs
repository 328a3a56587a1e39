//! A snapshot and the events behind it: together they hold everything once, during writes too.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use consent_ledger::{
    domain::{Action, Effect, EventKind, Filter, LinkConfidence, Snapshot},
    node::{AsOf, Linking, Node, ReadError, SnapshotError, SnapshotSubject, Snapshotting},
    watch::Heard,
};
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

use crate::support::node::{act, change, open, put_catalog, subject};

const SUBJECTS: u64 = 500;

fn name(number: u64) -> String {
    let namespace = if number.is_multiple_of(3) { "email" } else { "user" };
    format!("{namespace}:{number}")
}

async fn write_one(node: &Node, dice: &mut ChaCha8Rng) {
    let who = name(dice.next_u64() % SUBJECTS);
    let channel = if dice.next_u64().is_multiple_of(2) { "email" } else { "sms" };
    let changes = match dice.next_u64() % 4 {
        0 | 1 => vec![change(Action::Grant, "newsletter", channel)],
        2 => vec![change(Action::Withdraw, "newsletter", channel)],
        _ => vec![change(Action::Object, "*", channel)],
    };
    node.record(act(&who, changes)).await.unwrap();
}

async fn link(node: &Node, dice: &mut ChaCha8Rng) {
    let [one, other] = [0, 1].map(|_| dice.next_u64() % SUBJECTS);
    if one == other {
        return;
    }
    let linking = Linking {
        subject: subject(&name(one)),
        other: subject(&name(other)),
        confidence: Some(LinkConfidence::Verified),
        asserted_by: String::new(),
        dry_run: false,
    };
    // A link beyond the limit is refused; the test does not need each one.
    drop(node.link(linking).await);
}

fn whole(node: &Node, kind: Snapshot) -> Snapshotting {
    Snapshotting { revision: node.revision(), kind, filter: Arc::default(), shard: None }
}

async fn read(node: &Node, request: &Snapshotting, token: &[u8]) -> Vec<SnapshotSubject> {
    let mut reader = node.snapshot(request.clone(), token).unwrap();
    let mut all = Vec::new();
    loop {
        let page = reader.next_page().await.unwrap();
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_stays_at_its_revision_during_writes() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path());
    put_catalog(&node).await;
    let mut dice = ChaCha8Rng::seed_from_u64(7);
    for at in 0..1_000 {
        write_one(&node, &mut dice).await;
        if at % 100 == 0 {
            link(&node, &mut dice).await;
        }
    }
    let request = whole(&node, Snapshot::All);
    let is_done = Arc::new(AtomicBool::new(false));
    let (writing, done) = (Arc::clone(&node), Arc::clone(&is_done));
    let writer = tokio::spawn(async move {
        let mut written = 0;
        while written < 50 || !done.load(Ordering::Relaxed) {
            write_one(&writing, &mut dice).await;
            if written % 20 == 0 {
                link(&writing, &mut dice).await;
            }
            written += 1;
        }
    });
    let mut reader = node.snapshot(request.clone(), &[]).unwrap();
    let mut by_subject = HashMap::new();
    loop {
        let page = reader.next_page().await.unwrap();
        if page.is_empty() {
            break;
        }
        for state in page {
            assert_eq!(state.revision, request.revision);
            assert!(
                by_subject.insert(state.subject.clone(), state).is_none(),
                "each subject comes once"
            );
        }
        // The ledger changes between any two pages.
        node.reach(Some(node.revision() + 1)).await.unwrap();
    }
    is_done.store(true, Ordering::Relaxed);
    writer.await.unwrap();
    assert!(node.revision() > request.revision + 50);

    for number in 0..SUBJECTS {
        let who = subject(&name(number));
        let as_of = AsOf::Revision(request.revision);
        let want = node.preferences_at(&who, false, None, as_of).unwrap();
        match by_subject.remove(&who) {
            None => assert!(want.cells.is_empty() && want.stops.is_empty(), "{who:?}"),
            Some(state) => {
                assert_eq!((state.cells, state.stops), (want.cells, want.stops), "{who:?}");
                let linked: Vec<_> = want.links.into_iter().map(|(linked, _)| linked).collect();
                assert_eq!(state.linked, linked);
            }
        }
    }
    assert!(by_subject.is_empty(), "{by_subject:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_and_the_events_behind_it_are_complete_without_repetition() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path());
    put_catalog(&node).await;
    let mut dice = ChaCha8Rng::seed_from_u64(11);
    for _ in 0..400 {
        write_one(&node, &mut dice).await;
    }
    let request = whole(&node, Snapshot::All);
    let mut deciding = BTreeSet::new();
    for state in read(&node, &request, &[]).await {
        deciding.extend(state.cells.iter().filter_map(|cell| cell.decision.decided_by));
        deciding.extend(state.stops.iter().map(|stop| stop.index));
        write_one(&node, &mut dice).await;
    }
    assert!(deciding.iter().all(|index| *index < request.revision));
    let kinds = EventKind::ALL.into();
    let mut watcher =
        node.watch(Some(request.revision), Filter { kinds, ..Filter::default() }).unwrap();
    let mut heard = Vec::new();
    while let Heard::Event(post, _) = watcher.next().await.unwrap() {
        heard.push(post.event.index);
    }
    let want: Vec<u64> = (request.revision..node.revision()).collect();
    assert_eq!(heard, want, "every act behind the snapshot, and only those");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_holds_what_its_filter_covers() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path());
    put_catalog(&node).await;
    let mut dice = ChaCha8Rng::seed_from_u64(13);
    for _ in 0..600 {
        write_one(&node, &mut dice).await;
    }
    let all = read(&node, &whole(&node, Snapshot::All), &[]).await;
    let denied = read(&node, &whole(&node, Snapshot::Denied), &[]).await;
    let is_denied = |state: &&SnapshotSubject| {
        !state.stops.is_empty() || state.cells.iter().any(|c| c.decision.effect() == Effect::Deny)
    };
    let want: Vec<_> = all.iter().filter(is_denied).map(|state| &state.subject).collect();
    assert_eq!(denied.iter().map(|state| &state.subject).collect::<Vec<_>>(), want);
    let effects = denied.iter().flat_map(|state| &state.cells).map(|cell| cell.decision.effect());
    assert!(effects.into_iter().all(|effect| effect == Effect::Deny));

    let filter = Filter { namespaces: ["email".to_owned()].into(), ..Filter::default() };
    let request = Snapshotting { filter: Arc::new(filter), ..whole(&node, Snapshot::All) };
    let of_email = read(&node, &request, &[]).await;
    let want: Vec<_> = all.iter().filter(|state| state.subject.namespace() == "email").collect();
    assert_eq!(of_email.iter().collect::<Vec<_>>(), want);

    let filter =
        Filter { channels: [crate::support::node::key("sms")].into(), ..Filter::default() };
    let request = Snapshotting { filter: Arc::new(filter), ..whole(&node, Snapshot::All) };
    for state in read(&node, &request, &[]).await {
        assert!(state.cells.iter().all(|cell| cell.channel.as_str() == "sms"));
        let wide_or_sms = |key: &consent_ledger::domain::Key| key.as_str() == "sms";
        assert!(state.stops.iter().all(|stop| stop.scope.channel.as_ref().is_none_or(wide_or_sms)));
    }

    let mut of_shards = Vec::new();
    for shard in 0..3 {
        let request = Snapshotting { shard: Some((shard, 3)), ..whole(&node, Snapshot::All) };
        of_shards.extend(read(&node, &request, &[]).await);
    }
    of_shards.sort_by_key(|state| state.token.clone());
    assert_eq!(of_shards, all, "every data subject is in one shard");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_resumes_behind_its_data_subject_in_its_own_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path());
    put_catalog(&node).await;
    let mut dice = ChaCha8Rng::seed_from_u64(17);
    for _ in 0..300 {
        write_one(&node, &mut dice).await;
    }
    let request = whole(&node, Snapshot::All);
    let all = read(&node, &request, &[]).await;
    assert!(all.len() > 100);
    for at in [0, 63, 64, all.len() - 1] {
        write_one(&node, &mut dice).await;
        assert_eq!(read(&node, &request, &all[at].token).await, all[at + 1..], "behind {at}");
    }
    let later = Snapshotting { revision: request.revision + 1, ..request.clone() };
    for (request, token) in [(&later, &all[0].token[..]), (&request, &[1, 2, 3])] {
        let refused = node.snapshot(request.clone(), token);
        assert!(matches!(refused, Err(SnapshotError::Token)), "{refused:?}");
    }
    let beyond = Snapshotting { revision: node.revision() + 1, ..request };
    let refused = node.snapshot(beyond, &[]);
    assert!(
        matches!(refused, Err(SnapshotError::Read(ReadError::IndexOutOfRange { .. }))),
        "{refused:?}"
    );
}
