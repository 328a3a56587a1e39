//! Faults at every write and every sync of a small run, each both lost and persisted, followed by a
//! power cut. One invariant holds: everything acknowledged is recovered, and the ledger verifies.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use consent_ledger::{
    domain::{Action, Effect, Outcome},
    ledger::verify,
    node::{Act, Init, InitError, Node, NodeConfig, RecordError, Recorded, WriteError},
    storage::sim::{Fault, Keep, SimDisk},
    telemetry::Metrics,
    tree::Signed,
};

use crate::support::node::{check, config, grant, once_free, put_catalog, with_key, withdraw};

/// The acts of the run, in order, with their keys: some of known subjects, some of new ones.
fn acts() -> Vec<(&'static str, Act)> {
    let who = ["user:1", "user:2", "user:1", "user:3", "user:2", "user:4", "user:1"];
    let keys = ["a", "b", "c", "d", "e", "f", "g"];
    let act = |(position, &who): (usize, &&str)| match position {
        2 | 4 => withdraw(who),
        _ => grant(who),
    };
    keys.into_iter().zip(who.iter().enumerate().map(act)).collect()
}

fn small(dir: &Path) -> NodeConfig {
    // So small that the run rotates segments.
    NodeConfig {
        segment_bytes_max: 1 << 10,
        scrub_bytes_per_second: 0,
        // One checkpoint when it opens and one when it closes.
        checkpoint_interval: Duration::from_secs(3_600),
        ..config(dir)
    }
}

fn open_on(disk: &SimDisk, dir: &Path) -> Result<Arc<Node>, consent_ledger::node::OpenError> {
    once_free(|| {
        let disk = Arc::new(disk.clone());
        Node::open_on(disk, &small(dir), Arc::new(Metrics::default()), &mut |_| {})
    })
}

/// The answers that a run got.
#[derive(Default)]
struct RunResult {
    acknowledged: Vec<(&'static str, Recorded)>,
    /// The act that got an error, if any.
    refused: Option<&'static str>,
    /// The last checkpoint that was released.
    released: Option<Arc<Signed>>,
}

/// Makes the ledger, unless an earlier call has.
fn init_on(disk: &SimDisk, dir: &Path) -> Result<(), InitError> {
    match Init::look(Arc::new(disk.clone()), &small(dir)).and_then(Init::make) {
        Ok(_) | Err(InitError::LedgerThere { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

async fn run(disk: &SimDisk, dir: &Path) -> RunResult {
    let mut result = RunResult::default();
    if init_on(disk, dir).is_err() {
        // Nobody serves half a ledger. Only the last sync may be missing, which a start makes up for.
        if let Ok(node) = open_on(disk, dir) {
            assert_eq!(node.revision(), 1);
        }
        return result;
    }
    let Ok(node) = open_on(disk, dir) else { return result };
    if put_catalog_or_fail(&node).await.is_err() {
        return result;
    }
    for (key, act) in acts() {
        match node.record(with_key(act, key)).await {
            Ok(recorded) => result.acknowledged.push((key, recorded)),
            Err(error) => {
                assert!(
                    matches!(error, RecordError::Write(WriteError::WritesStopped(_))),
                    "{error:?}"
                );
                result.refused = Some(key);
                // Writes have stopped; reads still answer.
                let again = node.record(grant("user:9")).await;
                assert!(
                    matches!(again, Err(RecordError::Write(WriteError::WritesStopped(_)))),
                    "{again:?}"
                );
                assert!(node.writes_stopped().borrow().is_some());
                check_answers(&node, &result, false);
                break;
            }
        }
    }
    node.close();
    result.released = node.released();
    result
}

async fn put_catalog_or_fail(node: &Arc<Node>) -> Result<(), tokio::task::JoinError> {
    // The helper panics where a fault strikes.
    let node = Arc::clone(node);
    tokio::spawn(async move { put_catalog(&node).await }).await
}

/// Every subject has the state of its last acknowledged act or, where an act got an error, possibly
/// that of the failed one.
fn check_answers(node: &Node, result: &RunResult, refused_may_count: bool) {
    let mut want: BTreeMap<String, Vec<Effect>> = BTreeMap::new();
    for (key, act) in acts() {
        let effect = match act.changes[0].action {
            Action::Grant => Effect::Allow,
            _ => Effect::Deny,
        };
        let who = act.subject.as_str().to_owned();
        if result.acknowledged.iter().any(|(acknowledged_key, _)| *acknowledged_key == key) {
            want.insert(who, vec![effect]);
        } else if refused_may_count && result.refused == Some(key) {
            want.entry(who).or_insert_with(|| vec![Effect::Deny]).push(effect);
        }
    }
    for (who, effects) in want {
        let (effect, reason, _) = check(node, &who, "email");
        assert!(effects.contains(&effect), "{who}: {effect:?} {reason:?}, want {effects:?}");
    }
}

/// Everything that must hold after any crash.
async fn check_recovered(disk: &SimDisk, dir: &Path, result: &RunResult) {
    // An `init` that was cut off is completed; a ledger stays as it is.
    init_on(disk, dir).unwrap();
    let node = open_on(disk, dir).unwrap();
    if let Some(released) = &result.released {
        // Released checkpoints still hold.
        assert_eq!(node.tree_root(released.size()), Ok(released.root()));
    }
    check_answers(&node, result, true);
    for (key, recorded) in &result.acknowledged {
        let act =
            acts().into_iter().find(|(acknowledged_key, _)| acknowledged_key == key).unwrap().1;
        let again = node.record(with_key(act, key)).await.unwrap();
        assert_eq!(again, Recorded { replayed: true, ..recorded.clone() });
    }
    // The node goes on, and refused acts can be repeated.
    let _ = put_catalog_or_fail(&node).await;
    for (key, act) in acts() {
        let recorded = node.record(with_key(act, key)).await.unwrap();
        assert!(matches!(recorded.changes[0].outcome, Outcome::Applied), "{recorded:?}");
    }
    let revision = node.revision();
    let answers =
        |node: &Node| ["user:1", "user:2", "user:3", "user:4"].map(|who| check(node, who, "email"));
    let before = answers(&node);
    drop(node);
    let report = verify::verify(disk, &dir.join("ledger"), &mut |_, _| {}).unwrap();
    assert_eq!((report.entries, report.torn), (revision, None));
    // The view equals a replay of the ledger.
    std::fs::remove_dir_all(dir.join("view")).unwrap();
    let rebuilt = open_on(disk, dir).unwrap();
    assert_eq!(answers(&rebuilt), before);
}

/// The number of operations of a run without faults.
async fn operations() -> u64 {
    let dir = tempfile::tempdir().unwrap();
    let disk = SimDisk::new();
    let result = run(&disk, dir.path()).await;
    assert_eq!(result.acknowledged.len(), acts().len());
    check_recovered(&disk, dir.path(), &result).await;
    let segments =
        disk.files().into_keys().filter(|path| path.starts_with(dir.path().join("ledger")));
    assert!(segments.count() > 2, "the run rotates segments");
    disk.operations()
}

async fn every_fault(fault: Fault) {
    let operations = operations().await;
    for n in 0..operations {
        for keep in [Keep::SyncedOnly, Keep::Everything, Keep::Torn { seed: n }] {
            let dir = tempfile::tempdir().unwrap();
            let disk = SimDisk::new();
            disk.freeze_at(n, fault);
            let result = run(&disk, dir.path()).await;
            println!(
                "{fault:?} at {n} of {operations}, then {keep:?}: {} acts",
                result.acknowledged.len()
            );
            check_recovered(&disk.power_cut(keep), dir.path(), &result).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_a_failed_operation_had_no_effect() {
    every_fault(Fault::Lost).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_a_failed_operation_took_effect() {
    every_fault(Fault::Persisted).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_a_write_stops_half_way() {
    every_fault(Fault::Partial(100)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_failed_operation_stops_writes_even_if_the_next_would_succeed() {
    let total = operations().await;
    for n in 0..total {
        let dir = tempfile::tempdir().unwrap();
        let disk = SimDisk::new();
        disk.fail_at(n, Fault::Lost);
        // `run` asserts that nothing is taken after the first refusal.
        let result = run(&disk, dir.path()).await;
        disk.thaw();
        check_recovered(&disk, dir.path(), &result).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_of_the_writer_stops_writes_like_any_other_fault() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SimDisk::new();
    init_on(&disk, dir.path()).unwrap();
    drop(open_on(&disk, dir.path()).unwrap());
    for n in disk.operations()..operations().await {
        let dir = tempfile::tempdir().unwrap();
        let disk = SimDisk::new();
        disk.fail_at(n, Fault::Panic);
        let result = run(&disk, dir.path()).await;
        check_recovered(&disk.power_cut(Keep::Everything), dir.path(), &result).await;
    }
}
