//! A change of the signing key, cut off at every write and every sync: the same start completes it, and
//! whoever knows the first key follows it.

use std::{path::Path, sync::Arc, time::Duration};

use consent_ledger::{
    format::entry::Body,
    ledger::{key_change::KeyChange, verify},
    node::{Init, Node, NodeConfig, OpenError},
    storage::sim::{Fault, Keep, SimDisk},
    telemetry::Metrics,
    tlog::key::VerifierKey,
};

use crate::support::{
    PATIENCE,
    node::{config, grant, once_free, put_catalog},
    wait_until,
};

fn before(dir: &Path) -> NodeConfig {
    NodeConfig {
        scrub_bytes_per_second: 0,
        // One checkpoint when it opens and one when it closes.
        checkpoint_interval: Duration::from_secs(3_600),
        ..config(dir)
    }
}

/// The configuration in the middle of the change.
fn changing(dir: &Path) -> NodeConfig {
    NodeConfig {
        signing_key_file: Some(dir.join("second-key")),
        previous_signing_key_file: Some(dir.join("signing-key")),
        ..before(dir)
    }
}

fn after(dir: &Path) -> NodeConfig {
    NodeConfig { previous_signing_key_file: None, ..changing(dir) }
}

fn open_on(disk: &SimDisk, config: &NodeConfig) -> Result<Arc<Node>, OpenError> {
    let open = || {
        let disk = Arc::new(disk.clone());
        Node::open_on(disk, config, Arc::new(Metrics::default()), &mut |_| {})
    };
    // The entry of a change is waited for.
    tokio::task::block_in_place(|| once_free(open))
}

/// A closed ledger with some entries, and its key.
async fn closed(disk: &SimDisk, dir: &Path) -> VerifierKey {
    Init::look(Arc::new(disk.clone()), &before(dir)).and_then(Init::make).unwrap();
    let node = open_on(disk, &before(dir)).unwrap();
    put_catalog(&node).await;
    for n in 0..3 {
        node.record(grant(&format!("user:{n}"))).await.unwrap();
    }
    node.close();
    node.verifier_key().clone()
}

/// The entries that change the key.
fn changes(disk: &SimDisk, dir: &Path) -> Vec<u64> {
    let mut changes = Vec::new();
    verify::verify(disk, &dir.join("ledger"), &mut |entry, _| {
        if matches!(entry.body, Body::KeyTransition(_)) {
            changes.push(entry.index);
        }
    })
    .unwrap();
    changes
}

/// Everything that must hold once the change is completed.
async fn check(disk: &SimDisk, dir: &Path, first: &VerifierKey) {
    let node = open_on(disk, &changing(dir)).unwrap();
    let second = node.verifier_key().clone();
    assert_ne!(second, *first);
    let text = wait_until("the proof of the change", PATIENCE, || {
        let text = node.key_changes();
        (!text.is_empty()).then_some(text)
    });
    let proven = KeyChange::parse_all(&text).unwrap();
    assert_eq!(proven.len(), 1);
    assert_eq!((&proven[0].previous, &proven[0].next), (first, &second));
    node.record(grant("user:8")).await.unwrap();
    node.close();
    let released = node.released().unwrap();
    for key in [first, &second] {
        released.checkpoint.verify(key).unwrap();
    }
    drop(node);
    assert_eq!(changes(disk, dir), [proven[0].proof.index], "one change is one entry");

    let node = open_on(disk, &after(dir)).unwrap();
    node.record(grant("user:9")).await.unwrap();
    node.close();
    let released = node.released().unwrap();
    released.checkpoint.verify(&second).unwrap();
    assert!(released.checkpoint.verify(first).is_err());
    assert_eq!(node.key_changes(), text);
    drop(node);
    // The key before signs nothing any more, whatever the flags say.
    let swapped = NodeConfig {
        signing_key_file: Some(dir.join("signing-key")),
        previous_signing_key_file: Some(dir.join("second-key")),
        ..before(dir)
    };
    let lost = NodeConfig { new_signing_key: true, ..before(dir) };
    for config in [before(dir), swapped, lost] {
        let retired = open_on(disk, &config).unwrap_err();
        assert!(matches!(retired, OpenError::KeyRetired { .. }), "{retired}");
    }
}

async fn every_fault(fault: Fault) {
    let operations = {
        let (dir, disk) = (tempfile::tempdir().unwrap(), SimDisk::new());
        let first = closed(&disk, dir.path()).await;
        let before = disk.operations();
        open_on(&disk, &changing(dir.path())).unwrap().close();
        let operations = disk.operations() - before;
        check(&disk, dir.path(), &first).await;
        operations
    };
    assert!(operations > 8, "entry, tree and book are written");
    for n in 0..operations {
        for keep in [Keep::SyncedOnly, Keep::Everything, Keep::Torn { seed: n }] {
            let (dir, disk) = (tempfile::tempdir().unwrap(), SimDisk::new());
            let first = closed(&disk, dir.path()).await;
            println!("{fault:?} at {n} of {operations}, then {keep:?}");
            disk.freeze_at(disk.operations() + n, fault);
            let cut_off = open_on(&disk, &changing(dir.path())).map(|node| node.close());
            let disk = disk.power_cut(keep);
            let is_recorded = !changes(&disk, dir.path()).is_empty();
            println!("  {:?}, recorded: {is_recorded}", cut_off.map_err(|error| error.to_string()));
            check(&disk, dir.path(), &first).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_completed_after_a_failed_operation_that_had_no_effect() {
    every_fault(Fault::Lost).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_completed_after_a_failed_operation_that_took_effect() {
    every_fault(Fault::Persisted).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_was_begun_goes_on_with_its_own_keys_alone() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), SimDisk::new());
    let first = closed(&disk, dir.path()).await;
    let path = dir.path();
    // Cut off between the entry and the checkpoint over it.
    let cut = (0..).find_map(|n| {
        let disk = disk.power_cut(Keep::Everything);
        disk.freeze_at(disk.operations() + n, Fault::Lost);
        let _ = open_on(&disk, &changing(path)).map(|node| node.close());
        let disk = disk.power_cut(Keep::Everything);
        (!changes(&disk, path).is_empty()).then_some(disk)
    });
    let disk = cut.unwrap();
    let third = NodeConfig { signing_key_file: Some(path.join("third-key")), ..changing(path) };
    for config in [before(path), third] {
        let refused = open_on(&disk, &config).unwrap_err();
        assert!(matches!(refused, OpenError::KeyChangeUnfinished { .. }), "{refused}");
        assert!(refused.to_string().contains("--previous-signing-key-file"), "{refused}");
    }
    // The new key alone has signed nothing yet.
    let refused = open_on(&disk, &after(path)).unwrap_err();
    assert!(matches!(refused, OpenError::KeyChangeUnfinished { .. }), "{refused}");
    assert!(!path.join("third-key").exists(), "a start that is refused makes no key");
    check(&disk, path, &first).await;
}
