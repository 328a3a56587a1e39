//! A snapshot and the events behind it: together everything once, whatever is written meanwhile.

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
    watch::Told,
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
    // More than may be linked is refused, which is as good.
    drop(node.link(linking).await);
}

fn whole(node: &Node, kind: Snapshot) -> Snapshotting {
    Snapshotting { revision: node.revision(), kind, filter: Arc::default(), shard: None }
}

async fn read(node: &Node, what: &Snapshotting, token: &[u8]) -> Vec<SnapshotSubject> {
    let mut reader = node.snapshot(what.clone(), token).unwrap();
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
async fn it_is_as_of_its_revision_whatever_is_written_meanwhile() {
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
    let what = whole(&node, Snapshot::All);
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
    let mut reader = node.snapshot(what.clone(), &[]).unwrap();
    let mut told = HashMap::new();
    loop {
        let page = reader.next_page().await.unwrap();
        if page.is_empty() {
            break;
        }
        for own in page {
            assert_eq!(own.revision, what.revision);
            assert!(told.insert(own.subject.clone(), own).is_none(), "each is told once");
        }
        // Something changes between any two pages.
        node.reach(Some(node.revision() + 1)).await.unwrap();
    }
    is_done.store(true, Ordering::Relaxed);
    writer.await.unwrap();
    assert!(node.revision() > what.revision + 50);

    for number in 0..SUBJECTS {
        let who = subject(&name(number));
        let as_of = AsOf::Revision(what.revision);
        let want = node.preferences_at(&who, false, None, as_of).unwrap();
        match told.remove(&who) {
            None => assert!(want.cells.is_empty() && want.stops.is_empty(), "{who:?}"),
            Some(own) => {
                assert_eq!((own.cells, own.stops), (want.cells, want.stops), "{who:?}");
                let linked: Vec<_> = want.links.into_iter().map(|(linked, _)| linked).collect();
                assert_eq!(own.linked, linked);
            }
        }
    }
    assert!(told.is_empty(), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_events_behind_it_nothing_is_missing_and_nothing_comes_twice() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path());
    put_catalog(&node).await;
    let mut dice = ChaCha8Rng::seed_from_u64(11);
    for _ in 0..400 {
        write_one(&node, &mut dice).await;
    }
    let what = whole(&node, Snapshot::All);
    let mut deciding = BTreeSet::new();
    for own in read(&node, &what, &[]).await {
        deciding.extend(own.cells.iter().filter_map(|cell| cell.decision.decided_by));
        deciding.extend(own.stops.iter().map(|stop| stop.index));
        write_one(&node, &mut dice).await;
    }
    assert!(deciding.iter().all(|index| *index < what.revision));
    let kinds = EventKind::ALL.into();
    let mut watcher =
        node.watch(Some(what.revision), Filter { kinds, ..Filter::default() }).unwrap();
    let mut heard = Vec::new();
    while let Told::Event(event, _) = watcher.next().await.unwrap() {
        heard.push(event.index);
    }
    let want: Vec<u64> = (what.revision..node.revision()).collect();
    assert_eq!(heard, want, "every act behind the snapshot, and only those");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_for_is_told_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path());
    put_catalog(&node).await;
    let mut dice = ChaCha8Rng::seed_from_u64(13);
    for _ in 0..600 {
        write_one(&node, &mut dice).await;
    }
    let all = read(&node, &whole(&node, Snapshot::All), &[]).await;
    let denied = read(&node, &whole(&node, Snapshot::Denied), &[]).await;
    let is_denied = |own: &&SnapshotSubject| {
        !own.stops.is_empty() || own.cells.iter().any(|c| c.decision.effect() == Effect::Deny)
    };
    let want: Vec<_> = all.iter().filter(is_denied).map(|own| &own.subject).collect();
    assert_eq!(denied.iter().map(|own| &own.subject).collect::<Vec<_>>(), want);
    let effects = denied.iter().flat_map(|own| &own.cells).map(|cell| cell.decision.effect());
    assert!(effects.into_iter().all(|effect| effect == Effect::Deny));

    let filter = Filter { namespaces: ["email".to_owned()].into(), ..Filter::default() };
    let what = Snapshotting { filter: Arc::new(filter), ..whole(&node, Snapshot::All) };
    let of_email = read(&node, &what, &[]).await;
    let want: Vec<_> = all.iter().filter(|own| own.subject.namespace() == "email").collect();
    assert_eq!(of_email.iter().collect::<Vec<_>>(), want);

    let filter =
        Filter { channels: [crate::support::node::key("sms")].into(), ..Filter::default() };
    let what = Snapshotting { filter: Arc::new(filter), ..whole(&node, Snapshot::All) };
    for own in read(&node, &what, &[]).await {
        assert!(own.cells.iter().all(|cell| cell.channel.as_str() == "sms"));
        let wide_or_sms = |key: &consent_ledger::domain::Key| key.as_str() == "sms";
        assert!(own.stops.iter().all(|stop| stop.scope.channel.as_ref().is_none_or(wide_or_sms)));
    }

    let mut of_shards = Vec::new();
    for shard in 0..3 {
        let what = Snapshotting { shard: Some((shard, 3)), ..whole(&node, Snapshot::All) };
        of_shards.extend(read(&node, &what, &[]).await);
    }
    of_shards.sort_by_key(|own| own.token.clone());
    assert_eq!(of_shards, all, "every data subject is in one shard");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_goes_on_behind_its_data_subject_and_is_of_one_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path());
    put_catalog(&node).await;
    let mut dice = ChaCha8Rng::seed_from_u64(17);
    for _ in 0..300 {
        write_one(&node, &mut dice).await;
    }
    let what = whole(&node, Snapshot::All);
    let all = read(&node, &what, &[]).await;
    assert!(all.len() > 100);
    for at in [0, 63, 64, all.len() - 1] {
        write_one(&node, &mut dice).await;
        assert_eq!(read(&node, &what, &all[at].token).await, all[at + 1..], "behind {at}");
    }
    let later = Snapshotting { revision: what.revision + 1, ..what.clone() };
    for (what, token) in [(&later, &all[0].token[..]), (&what, &[1, 2, 3])] {
        let refused = node.snapshot(what.clone(), token);
        assert!(matches!(refused, Err(SnapshotError::Token)), "{refused:?}");
    }
    let beyond = Snapshotting { revision: node.revision() + 1, ..what };
    let refused = node.snapshot(beyond, &[]);
    assert!(
        matches!(refused, Err(SnapshotError::Read(ReadError::IndexOutOfRange { .. }))),
        "{refused:?}"
    );
}
