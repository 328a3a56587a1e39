//! A node's answers, in one process and over restarts.

use std::sync::Arc;

use consent_ledger::{
    backend::{Appended, LocalLog, LogBackend},
    domain::{Action, Effect, EventKind, Filter, Millis, Outcome, Reason},
    format::entry::Body,
    node::{Act, CatalogError, Naming, Node, OpenError, PurposeDraft, RecordError, WriteError},
    proto,
    storage::disk::RealDisk,
    telemetry::Metrics,
    watch::{Heard, Watcher},
};

use crate::support::{
    clear_key_of, copy_tree,
    node::{
        act, change, check, config, draft, grant, kek, key, open, put_catalog, subject, with_key,
        withdraw,
    },
};

#[tokio::test]
async fn a_grant_allows_and_a_withdrawal_denies_at_once_and_after_restart() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path());
    assert_eq!(check(&node, "user:1", "email").1, Reason::UnknownPurpose);
    put_catalog(&node).await;
    assert_eq!(check(&node, "user:1", "email"), (Effect::Deny, Reason::NoRecord, 4));

    let recorded = node.record(grant("user:1")).await.unwrap();
    assert_eq!((recorded.index, recorded.changes[0].outcome), (4, Outcome::Applied));
    assert_eq!(check(&node, "user:1", "email"), (Effect::Allow, Reason::Granted, 5));
    assert_eq!(check(&node, "user:1", "sms").1, Reason::NoRecord);
    assert_eq!(check(&node, "user:2", "email").1, Reason::NoRecord);

    node.record(withdraw("user:1")).await.unwrap();
    node.record(grant("user:2")).await.unwrap();
    let withdrawn = (Effect::Deny, Reason::Withdrawn, 7);
    assert_eq!(check(&node, "user:1", "email"), withdrawn);
    node.close();
    drop(node);

    for delete_view in [false, true] {
        if delete_view {
            std::fs::remove_dir_all(dir.path().join("view")).unwrap();
        }
        let node = open(dir.path());
        assert_eq!(check(&node, "user:1", "email"), withdrawn);
        assert_eq!(check(&node, "user:2", "email").0, Effect::Allow);
        let history = node.history(&subject("user:1"), 0, 10, Naming::SamePerson).unwrap();
        assert_eq!(history.iter().map(|item| item.index).collect::<Vec<_>>(), [4, 5]);
        let Some(evidence) = &history[0].evidence else { panic!("{history:?}") };
        assert_eq!(evidence.touchpoint, "onboarding");
    }
}

#[tokio::test]
async fn an_idempotency_key_returns_the_stored_result_forever() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path());
    put_catalog(&node).await;
    let first = node.record(with_key(grant("user:1"), "form-1")).await.unwrap();
    assert!(!first.replayed);
    let check_repetition = async |node: &Node| {
        let again = node.record(with_key(grant("user:1"), "form-1")).await.unwrap();
        assert!(again.replayed);
        assert_eq!((again.index, &again.changes), (first.index, &first.changes));
        assert_eq!(again.recorded_at, first.recorded_at);
        let other = node.record(with_key(withdraw("user:1"), "form-1")).await;
        assert_eq!(other, Err(WriteError::IdempotencyKeyReused { index: first.index }.into()));
    };
    check_repetition(&node).await;
    node.close();
    drop(node);
    let node = open(dir.path());
    check_repetition(&node).await;

    // Of two concurrent acts with one key, one is recorded and both get its result, in one batch or
    // two.
    let both = tokio::join!(
        node.record(with_key(grant("user:2"), "form-2")),
        node.record(with_key(grant("user:2"), "form-2")),
    );
    let (one, two) = (both.0.unwrap(), both.1.unwrap());
    assert_eq!(one.index, two.index);
    assert!(one.replayed != two.replayed);
}

#[tokio::test]
async fn refused_requests_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path());
    put_catalog(&node).await;
    let revision = node.revision();
    let in_future =
        Act { effective_at: Some(Millis::now().plus_ms(6 * 60_000)), ..grant("user:1") };
    let unknown = act(
        "user:1",
        vec![
            change(Action::Grant, "newsletter", "email"),
            change(Action::Withdraw, "nonsense", "email"),
        ],
    );
    let mut expired = grant("user:1");
    expired.changes[0].expires_at = Some(Millis(5));
    let mut version = grant("user:1");
    version.changes[0].purpose_version = Some(2);
    let mut large = grant("user:1");
    large.evidence.touchpoint = "x".repeat(70_000);

    let error = node.record(act("user:1", Vec::new())).await.unwrap_err();
    assert_eq!(error, RecordError::Empty);
    let error = node.record(in_future).await.unwrap_err();
    assert!(matches!(error, RecordError::EffectiveAt(_)), "{error:?}");
    let error = node.record(unknown).await.unwrap_err();
    assert_eq!(error, RecordError::UnknownPurpose { change: 1, key: key("nonsense").into() });
    let error = node.record(expired).await.unwrap_err();
    assert_eq!(error, RecordError::ExpiresBeforeEffective { change: 0 });
    let error = node.record(version).await.unwrap_err();
    assert!(matches!(error, RecordError::UnknownPurposeVersion { version: 2, .. }), "{error:?}");
    let error = node.record(large).await.unwrap_err();
    assert!(matches!(error, RecordError::Write(WriteError::EntryTooLarge { .. })), "{error:?}");
    assert_eq!(node.revision(), revision);
    assert!(node.history(&subject("user:1"), 0, 10, Naming::SamePerson).unwrap().is_empty());
    let again = node.put_purpose(draft("Newsletter")).await.unwrap();
    assert!(!again.changed);
    assert_eq!(node.revision(), revision);

    // A time slightly in the future counts as now.
    let ahead = Millis::now().plus_ms(4 * 60_000);
    let recorded = node.record(Act { effective_at: Some(ahead), ..grant("user:1") }).await.unwrap();
    assert_eq!(recorded.effective_at, recorded.recorded_at);
}

#[tokio::test]
async fn an_incompatible_version_invalidates_older_grants() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path());
    put_catalog(&node).await;
    node.record(grant("user:1")).await.unwrap();
    let put = node.put_purpose(draft("Newsletter, reworded")).await.unwrap();
    assert_eq!((put.value.version(), put.changed), (2, true));
    assert_eq!(check(&node, "user:1", "email").1, Reason::Granted);
    let strict = PurposeDraft { oldest_compatible: Some(2), ..draft("Newsletter, reworded") };
    let put = node.put_purpose(strict).await.unwrap();
    assert_eq!((put.value.version(), put.value.oldest_compatible), (2, 2));
    assert_eq!(check(&node, "user:1", "email").1, Reason::ReconsentRequired);
    let beyond = PurposeDraft { oldest_compatible: Some(3), ..draft("Newsletter, reworded") };
    let error = node.put_purpose(beyond).await.unwrap_err();
    assert!(matches!(error, CatalogError::OldestCompatibleBeyondVersion { .. }));
    let recorded = node.record(grant("user:1")).await.unwrap();
    assert_eq!(recorded.changes[0].purpose_version, 2);
    assert_eq!(check(&node, "user:1", "email").1, Reason::Granted);
}

async fn events(watcher: &mut Watcher) -> Vec<u64> {
    let mut indices = Vec::new();
    loop {
        match watcher.next().await.unwrap() {
            Heard::Event(post, _) => indices.push(post.event.index),
            Heard::CaughtUp { next_index } => {
                assert!(indices.iter().all(|&index| index < next_index));
                return indices;
            }
        }
    }
}

#[tokio::test]
async fn watchers_hear_every_stop_in_order_from_any_start() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path());
    put_catalog(&node).await;
    let mut live = node.watch(None, Filter::default()).unwrap();
    assert!(events(&mut live).await.is_empty());
    let mut want = Vec::new();
    // More events than memory keeps, so that a late watcher reads from the ledger first.
    for number in 0..300 {
        let who = format!("user:{}", number % 7);
        node.record(grant(&who)).await.unwrap();
        want.push(node.record(withdraw(&who)).await.unwrap().index);
    }
    assert_eq!(events(&mut live).await, want);
    let mut late = node.watch(Some(0), Filter::default()).unwrap();
    // The first event is that of the catalogue.
    assert_eq!(events(&mut late).await, [&[1, 2, 3], &want[..]].concat());
    let mut resumed = node.watch(Some(want[9] + 1), Filter::default()).unwrap();
    assert_eq!(events(&mut resumed).await, want[10..]);
    let kinds = [EventKind::Grant].into();
    let mut grants = node.watch(Some(0), Filter { kinds, ..Filter::default() }).unwrap();
    assert_eq!(events(&mut grants).await.len(), 300);
    assert!(node.watch(Some(node.revision() + 1), Filter::default()).is_err());
}

#[tokio::test]
async fn the_last_act_decides_even_within_one_millisecond() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path());
    put_catalog(&node).await;
    for round in 0..200 {
        // Sent together, so that they land in one batch, at one time.
        let (granted, withdrawn) =
            tokio::join!(node.record(grant("user:1")), node.record(withdraw("user:1")));
        let (granted, withdrawn) = (granted.unwrap(), withdrawn.unwrap());
        assert!(granted.index < withdrawn.index);
        assert!(granted.effective_at < withdrawn.effective_at);
        assert_eq!(withdrawn.changes[0].outcome, Outcome::Applied, "round {round}");
        assert_eq!(check(&node, "user:1", "email").1, Reason::Withdrawn);
    }
    // However fast one subject's acts follow each other, the ledger's clock stays with the
    // machine's.
    let last = node.record(grant("user:2")).await.unwrap();
    assert!(last.recorded_at <= Millis::now());
    // An act that claims the same future time counts as of now.
    let claimed = Some(Millis::now().plus_ms(60_000));
    node.record(Act { effective_at: claimed, ..grant("user:1") }).await.unwrap();
    node.record(Act { effective_at: claimed, ..withdraw("user:1") }).await.unwrap();
    assert_eq!(check(&node, "user:1", "email").1, Reason::Withdrawn);
}

#[tokio::test]
async fn a_second_process_is_kept_out() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path());
    let second = Node::open(&config(dir.path()), Arc::new(Metrics::default()));
    assert!(matches!(second, Err(OpenError::InUse { pid: Some(_), .. })));
    drop(node);
    open(dir.path());
}

#[tokio::test]
async fn missing_primary_data_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path());
    put_catalog(&node).await;
    node.record(grant("user:1")).await.unwrap();
    drop(node);
    let try_without = |folder: &str| {
        let aside = dir.path().join("aside");
        std::fs::rename(dir.path().join(folder), &aside).unwrap();
        let error = Node::open(&config(dir.path()), Arc::new(Metrics::default())).unwrap_err();
        let _ = std::fs::remove_dir_all(dir.path().join(folder));
        std::fs::rename(&aside, dir.path().join(folder)).unwrap();
        error
    };
    assert!(matches!(try_without("ledger"), OpenError::Half { .. }));
    assert!(matches!(try_without("vault"), OpenError::Half { .. }));
    assert_eq!(check(&open(dir.path()), "user:1", "email").1, Reason::Granted);
}

#[tokio::test]
async fn a_view_of_another_copy_of_the_ledger_is_not_trusted() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let node = open(one.path());
    put_catalog(&node).await;
    node.record(grant("user:1")).await.unwrap();
    drop(node);
    copy_tree(one.path(), two.path());
    // From here on the two ledgers differ, but have as many entries.
    open(one.path()).record(grant("user:1")).await.unwrap();
    open(two.path()).record(withdraw("user:1")).await.unwrap();
    std::fs::remove_dir_all(two.path().join("view")).unwrap();
    copy_tree(&one.path().join("view"), &two.path().join("view"));
    assert_eq!(check(&open(two.path()), "user:1", "email").1, Reason::Withdrawn);
}

#[tokio::test]
async fn a_clock_that_is_set_back_does_not_bring_an_expired_grant_back() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path());
    put_catalog(&node).await;
    let mut act = grant("user:1");
    act.changes[0].expires_at = Some(Millis::now().plus_ms(60_000));
    node.record(act).await.unwrap();
    assert_eq!(check(&node, "user:1", "email").1, Reason::Granted);
    drop(node);
    let clear = clear_key_of(dir.path(), &kek());
    // An entry two minutes ahead, as if the machine's clock had been set back since.
    let ledger = dir.path().join("ledger");
    let (log, opened) = LocalLog::open(Arc::new(RealDisk), ledger, 64 << 10, [0; 16], 0).unwrap();
    let put = proto::ledger::ChannelPut { key: "push".to_owned(), ..Default::default() };
    let later_s = Millis::now().plus_ms(120_000).0.div_euclid(1_000);
    let (_, entry, _) = opened.tip.link(later_s, Body::Channel(put), &clear).unwrap();
    assert_eq!(log.append(opened.tip.next_index, &[entry]).unwrap(), Appended::Landed);
    drop(log);
    assert_eq!(check(&open(dir.path()), "user:1", "email").1, Reason::Expired);
}
