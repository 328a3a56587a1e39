//! The map against a plain one, and against every crash and change of its files.

use std::{collections::BTreeMap, path::Path, sync::Arc, thread, time::Duration};

use consent_ledger_framelog::{
    disk::RealDisk,
    sim::{Fault, Keep, SimDisk},
};
use proptest::prelude::*;

use crate::{Config, Found, Index, IndexError, Row};

const DIR: &str = "/view";
const KEY: [u8; 32] = [7; 32];
const OWNER: [u8; 16] = [9; 16];
/// A row that every put has: its number.
const MARK: &[u8] = b"\xffmark";

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// So small that a few puts make runs of several pages, and merges.
fn tiny() -> Config {
    Config {
        cache_bytes: 1 << 10,
        write_rows: 8,
        write_after: Duration::from_millis(1),
        fan_in: 2,
        page_bytes: 48,
        is_filtered: |key| key.first() != Some(&b'h'),
        is_listed: |key| key.first() != Some(&b's'),
        ..Config::default()
    }
}

fn open(disk: &SimDisk) -> (Index, Found) {
    open_with(disk, &KEY, OWNER)
}

fn open_with(disk: &SimDisk, key: &[u8; 32], owner: [u8; 16]) -> (Index, Found) {
    Index::open(Arc::new(disk.clone()), Path::new(DIR), key, owner, tiny()).unwrap()
}

fn all(index: &Index) -> Result<Model, IndexError> {
    let mut found = Model::new();
    for key in index.keys(&[], &[], usize::MAX)? {
        let value = index.get(&key)?.expect("a key that is listed has a value");
        found.insert(key, value);
    }
    Ok(found)
}

/// Applies a put to the plain map. Its number is a row of it.
fn apply(model: &mut Model, number: u32, rows: &[Row]) -> Vec<Row> {
    let mut rows = rows.to_vec();
    rows.push((MARK.to_vec(), Some(number.to_be_bytes().to_vec())));
    for (key, value) in &rows {
        match value {
            Some(value) => model.insert(key.clone(), value.clone()),
            None => model.remove(key),
        };
    }
    rows
}

/// The states after each put, from the empty one.
fn states(puts: &[Vec<Row>]) -> Vec<Model> {
    let mut states = vec![Model::new()];
    for (number, rows) in (1..).zip(puts) {
        let mut next = states.last().unwrap().clone();
        apply(&mut next, number, rows);
        states.push(next);
    }
    states
}

fn put_all(index: &Index, puts: &[Vec<Row>]) {
    for (number, rows) in (1..).zip(puts) {
        index.put(apply(&mut Model::new(), number, rows)).unwrap();
    }
}

fn any_key() -> impl Strategy<Value = Vec<u8>> {
    (prop::sample::select(&b"hsx"[..]), 0..40_u8).prop_map(|(first, n)| vec![first, n / 8, n % 8])
}

fn any_put() -> impl Strategy<Value = Vec<Row>> {
    let value = prop::option::weighted(0.7, prop::collection::vec(any::<u8>(), 0..20));
    prop::collection::vec((any_key(), value), 0..6)
}

fn any_puts() -> impl Strategy<Value = Vec<Vec<Row>>> {
    prop::collection::vec(any_put(), 1..60)
}

/// The number of the put after which a map is as it is; fails if it is after none.
fn reached(found: &Model, states: &[Model]) -> usize {
    let number = found
        .get(MARK)
        .map_or(0, |mark| u32::from_be_bytes(mark.as_slice().try_into().unwrap()) as usize);
    assert_eq!(found, &states[number], "it is as after put {number}");
    number
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn it_answers_as_a_plain_map(puts in any_puts(), reopen in prop::collection::vec(any::<bool>(), 60)) {
        let disk = SimDisk::new();
        let mut index = open(&disk).0;
        let mut model = Model::new();
        for ((number, rows), reopen) in (1..).zip(&puts).zip(reopen) {
            index.put(apply(&mut model, number, rows)).unwrap();
            if reopen && number % 7 == 0 {
                index.close().unwrap();
                let (again, found) = open(&disk);
                prop_assert_eq!(found, Found::Usable);
                index = again;
            }
            for (key, _) in rows {
                prop_assert_eq!(index.get(key).unwrap(), model.get(key).cloned());
            }
            for (prefix, limit) in [(&b"h"[..], 3), (&b"s\x02"[..], 2), (&[][..], 7)] {
                let expected = model.keys().filter(|key| key.starts_with(prefix)).take(limit);
                let expected: Vec<_> = expected.cloned().collect();
                prop_assert_eq!(index.keys(prefix, prefix, limit).unwrap(), expected);
                let Some(from) = rows.first().map(|(key, _)| key).filter(|key| key.starts_with(prefix)) else { continue };
                let expected = model.range(from.clone()..).map(|(key, _)| key.clone());
                let expected: Vec<_> = expected.take_while(|key| key.starts_with(prefix)).take(limit).collect();
                prop_assert_eq!(index.keys(prefix, from, limit).unwrap(), expected);
            }
        }
        prop_assert_eq!(all(&index).unwrap(), model);
    }

    #[test]
    fn a_power_cut_leaves_the_state_after_some_put(puts in any_puts(), seed: u64, cut_after in 0..60_usize) {
        let states = states(&puts);
        let disk = SimDisk::new();
        let index = open(&disk).0;
        for (number, rows) in (1..).zip(&puts) {
            index.put(apply(&mut Model::new(), number, rows)).unwrap();
            if number as usize == cut_after {
                thread::sleep(Duration::from_millis(seed % 4));
                break;
            }
        }
        for keep in [Keep::SyncedOnly, Keep::Everything, Keep::Torn { seed }] {
            let after = disk.power_cut(keep);
            let (again, found) = open(&after);
            prop_assert!(!matches!(found, Found::Discarded(_)), "{found:?}");
            reached(&all(&again).unwrap(), &states);
            // It goes on from there.
            again.put(vec![(b"more".to_vec(), Some(vec![1]))]).unwrap();
            again.close().unwrap();
            drop(again);
            prop_assert_eq!(open(&after).0.get(b"more").unwrap(), Some(vec![1]));
        }
        index.close().unwrap();
        let (again, _) = open(&disk.power_cut(Keep::SyncedOnly));
        let last = puts.len().min(if cut_after == 0 { usize::MAX } else { cut_after });
        prop_assert_eq!(reached(&all(&again).unwrap(), &states), last, "what was closed is there");
    }

    #[test]
    fn a_change_of_a_file_is_found_and_never_believed(puts in any_puts(), at: prop::sample::Index, bit in 0..8_u8, file: prop::sample::Index) {
        let disk = SimDisk::new();
        let index = open(&disk).0;
        put_all(&index, &puts);
        index.close().unwrap();
        let model = all(&index).unwrap();
        drop(index);
        let files = disk.files();
        let (path, mut bytes) = files.iter().nth(file.index(files.len())).map(|(p, b)| (p.clone(), b.clone())).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        disk.put(&path, bytes);
        let (index, found) = open(&disk);
        match found {
            Found::Discarded(_) => prop_assert_eq!(all(&index).unwrap(), Model::new()),
            Found::Nothing => prop_assert!(false, "a map is there"),
            Found::Usable => {
                let mut was_found = false;
                for (key, value) in &model {
                    match index.get(key) {
                        Ok(found) => prop_assert_eq!(found.as_ref(), Some(value)),
                        Err(IndexError::Damaged { .. }) => was_found = true,
                        Err(error) => prop_assert!(false, "{error}"),
                    }
                }
                prop_assert!(was_found || all(&index).is_err() || model.is_empty());
                drop(index);
                prop_assert_eq!(open(&disk).1, Found::Nothing, "it is made again");
            }
        }
    }
}

/// Many puts, so that there are runs of several levels.
fn many(seed: u8) -> Vec<Vec<Row>> {
    let key = |n: u8| vec![b"hsx"[usize::from(n % 3)], n / 16, n % 16];
    let put =
        |n: u8| vec![(key(n), Some(vec![seed; 9])), (key(n.wrapping_mul(7)), Some(vec![n; 3]))];
    (0..30).map(put).collect()
}

/// A closed map of these puts.
fn closed(puts: &[Vec<Row>]) -> SimDisk {
    let disk = SimDisk::new();
    // Each time that it is closed makes a run.
    for (number, rows) in (1..).zip(puts) {
        let index = open(&disk).0;
        index.put(apply(&mut Model::new(), number, rows)).unwrap();
        index.close().unwrap();
    }
    disk
}

#[test]
fn an_older_map_is_an_earlier_state_and_a_mixture_is_none() {
    let (older, newer) = (closed(&many(1)), SimDisk::new());
    for (path, bytes) in older.files() {
        newer.put(&path, bytes);
    }
    let index = open(&newer).0;
    index.put(vec![(b"sxx".to_vec(), Some(vec![2]))]).unwrap();
    index.close().unwrap();
    drop(index);
    let manifest = Path::new(DIR).join("manifest");
    // Each manifest with the files of the other alone.
    for (mine, other) in [(&older, &newer), (&newer, &older)] {
        let mixed = SimDisk::new();
        for (path, bytes) in other.files() {
            mixed.put(&path, bytes);
        }
        mixed.put(&manifest, mine.content(&manifest).unwrap());
        let (index, found) = open(&mixed);
        let is_earlier =
            found == Found::Usable && all(&index).unwrap() == all(&open(mine).0).unwrap();
        assert!(is_earlier || matches!(found, Found::Discarded(_)), "{found:?}");
    }
    assert_eq!(open(&older).0.get(b"sxx").unwrap(), None);
}

#[test]
fn runs_that_change_places_do_not_open() {
    let disk = closed(&many(1));
    let is_run = |path: &Path| path.extension().is_some_and(|ending| ending == "run");
    let runs: Vec<_> = disk.files().into_iter().filter(|(path, _)| is_run(path)).collect();
    assert!(runs.len() > 1, "several levels");
    for (one, other) in [(0, 1), (1, 0)] {
        let changed = disk.power_cut(Keep::Everything);
        let mut bytes = runs[other].1.clone();
        bytes.resize(runs[one].1.len(), 0);
        changed.put(&runs[one].0, bytes);
        let (index, found) = open(&changed);
        assert_eq!(found, Found::Usable, "the length is right");
        assert!(matches!(all(&index), Err(IndexError::Damaged { .. })));
    }
}

#[test]
fn another_key_and_another_owner_open_nothing() {
    for (key, owner) in [([8; 32], OWNER), (KEY, [1; 16])] {
        let disk = closed(&many(1));
        let (index, found) = open_with(&disk, &key, owner);
        assert!(matches!(found, Found::Discarded(_)), "{found:?}");
        assert_eq!(all(&index).unwrap(), Model::new());
        drop(index);
        assert_eq!(disk.files().len(), 0, "nothing of it stays");
    }
}

#[test]
fn nothing_of_a_row_is_on_disk_in_clear() {
    let disk = SimDisk::new();
    let index = open(&disk).0;
    for n in 0..40_u8 {
        index
            .put(vec![([b"user:secret".as_slice(), &[n]].concat(), Some(b"withdrawn".to_vec()))])
            .unwrap();
    }
    index.close().unwrap();
    for (path, bytes) in disk.files() {
        for text in [&b"user:secret"[..], b"withdrawn"] {
            assert!(!bytes.windows(text.len()).any(|part| part == text), "{}", path.display());
        }
    }
}

#[test]
fn readers_see_whole_puts_while_runs_are_written_and_merged() {
    let dir = tempfile::tempdir().unwrap();
    let (index, _) = Index::open(Arc::new(RealDisk), dir.path(), &KEY, OWNER, tiny()).unwrap();
    let key = |n: u32| format!("s{n}").into_bytes();
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut last = 0;
            while last < 2_000 {
                let Some(value) = index.get(b"counter").unwrap() else { continue };
                let seen = u32::from_be_bytes(value.try_into().unwrap());
                assert!(seen >= last, "never back");
                last = seen;
                assert!(index.get(&key(seen)).unwrap().is_some(), "put with the counter");
            }
        });
        for n in 1..=2_000_u32 {
            let counter = (b"counter".to_vec(), Some(n.to_be_bytes().to_vec()));
            index.put(vec![counter, (key(n), Some(vec![1]))]).unwrap();
        }
        reader.join().unwrap();
    });
    index.close().unwrap();
    assert_eq!(index.keys(b"s", b"s", usize::MAX).unwrap().len(), 2_000);
}

/// From the first operation that fails on, nothing of the disk works until the power is cut.
#[test]
fn a_disk_that_fails_says_so_and_leaves_the_state_after_some_put() {
    let puts = many(1);
    let states = states(&puts);
    let (before, after) = puts.split_at(12);
    let sound = closed(before);
    let faults = [Fault::Lost, Fault::Persisted, Fault::Partial(7)];
    for (operations, fault) in (0..40).zip(faults.iter().cycle()) {
        let disk = sound.power_cut(Keep::Everything);
        let index = open(&disk).0;
        disk.freeze_at(disk.operations() + operations, *fault);
        for (number, rows) in (13..).zip(after) {
            // The error comes once the rows in memory are too many, or at the end.
            let _ = index.put(apply(&mut Model::new(), number, rows));
            thread::sleep(Duration::from_millis(2));
        }
        for (key, value) in states.last().unwrap() {
            // Rows that were not written stay in memory; those in a run can not be read from a dead disk.
            if let Ok(found) = index.get(key) {
                assert_eq!(found.as_ref(), Some(value));
            }
        }
        let _ = index.close();
        for keep in [Keep::SyncedOnly, Keep::Everything, Keep::Torn { seed: operations }] {
            let (index, found) = open(&disk.power_cut(keep));
            assert_eq!(found, Found::Usable, "operation {operations}, {fault:?}");
            assert!(reached(&all(&index).unwrap(), &states) >= before.len());
        }
    }
}
