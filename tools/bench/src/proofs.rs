//! The tree: its cost for an append, and the duration of proofs.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use consent_ledger::{
    backend::{LocalLog, LogBackend},
    cli::{error::CliError, progress},
    format::{
        entry::{Body, Persons, Slot},
        keys::ledger::LedgerSecret,
        seal::{AUTH_BYTES, Part, Sealed},
    },
    ledger::{self, Tip},
    proto::ledger::LedgerOpened,
    storage::disk::{Disk, RealDisk},
    tlog::merkle::{
        leaf_hash, prove_consistency, prove_inclusion, verify_consistency, verify_inclusion,
    },
    tree::{TreeFiles, TreeWriter},
};
use hdrhistogram::Histogram;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    Figure, Report,
    load::{failed, nanos_since, new_histogram},
};

/// Entries in one group commit.
const BATCH_ENTRIES: u64 = 256;
/// Number of timed proofs of each kind.
const PROOFS: u64 = 20_000;
const SEGMENT_BYTES: u64 = 64 << 20;

/// Builds a ledger of `entries` acts with its tree, and proves entries of it.
pub(super) fn proofs(entries: u64, dir: &Path, report: &mut Report<'_>) -> Result<(), CliError> {
    report.part("proofs: a tree beside the ledger that it is over");
    let mut rng = StdRng::seed_from_u64(7);
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let (log, _) = LocalLog::open(
        Arc::clone(&disk),
        dir.join("proofs").join(ledger::DIR),
        SEGMENT_BYTES,
        [7; 16],
        0,
    )
    .map_err(failed)?;
    let files = TreeFiles::create(disk, &dir.join("proofs/tree")).map_err(failed)?;
    let mut tree = TreeWriter::new(files.clone()).map_err(failed)?;
    let (appending, growing) = fill(entries, &log, &mut tree, &mut rng)?;
    let us_an_entry = |duration: Duration| duration.as_secs_f64() * 1e6 / entries as f64;
    report.add(&[Figure::new(
        "leaf hashed and written to the tree",
        us_an_entry(growing),
        "µs an entry",
    )
    .beside("append and fdatasync, 256 at once", us_an_entry(appending))])?;

    let root = files.root(entries).map_err(failed)?;
    let subtree = |height, number| files.subtree(height, number);
    let inclusion = timed(|| {
        let index = rng.random_range(0..entries);
        let entry = log.read(index, index + 1, usize::MAX).map_err(failed)?;
        let leaf = leaf_hash(entry.first().map_or(&[], Vec::as_slice));
        let path = prove_inclusion(index, entries, subtree).map_err(failed)?;
        verify_inclusion(&leaf, index, entries, &path, &root).map_err(failed)
    })?;
    let consistency = timed(|| {
        let first = rng.random_range(1..entries);
        let before = files.root(first).map_err(failed)?;
        let proof = prove_consistency(first, entries, subtree).map_err(failed)?;
        verify_consistency((first, &before), (entries, &root), &proof).map_err(failed)
    })?;
    let mut figures = Vec::new();
    for (kind, times) in [("inclusion", inclusion), ("consistency", consistency)] {
        let at = |quantile| times.value_at_quantile(quantile) as f64 / 1e3;
        figures.push(Figure::new(format!("{kind}, p50 of {PROOFS} in {entries}"), at(0.5), "µs"));
        figures.push(Figure::new(format!("{kind}, p99"), at(0.99), "µs"));
    }
    report.add(&figures)
}

/// Fills ledger and tree, and returns the time for each of the two.
fn fill(
    entries: u64,
    log: &LocalLog,
    tree: &mut TreeWriter,
    rng: &mut StdRng,
) -> Result<(Duration, Duration), CliError> {
    let (mut tip, mut recorded_at_ms) = (Tip::genesis(), 1_764_000_000_000_i64);
    let clear = LedgerSecret::random(rng).confidential().clear;
    let (mut appending, mut growing) = (Duration::ZERO, Duration::ZERO);
    let bar = progress::bar(Some(entries), "filling");
    while tip.next_index < entries {
        let start = tip.next_index;
        let mut frames = Vec::new();
        for index in start..entries.min(start + BATCH_ENTRIES) {
            recorded_at_ms += 1;
            let recorded_at_s = recorded_at_ms / 1_000;
            let body = if index == 0 { opened(recorded_at_s) } else { act(rng) };
            let (_, frame, next) = tip.link(recorded_at_s, body, &clear).map_err(failed)?;
            frames.push(frame);
            tip = next;
        }
        let started = Instant::now();
        log.append(start, &frames).map_err(failed)?;
        appending += started.elapsed();
        let started = Instant::now();
        frames.iter().for_each(|frame| tree.push(leaf_hash(frame)));
        tree.write().map_err(failed)?;
        growing += started.elapsed();
        bar.set_position(tip.next_index);
    }
    bar.finish_and_clear();
    Ok((appending, growing))
}

fn opened(created_at_s: i64) -> Body {
    Body::Opened(LedgerOpened {
        ledger_id: vec![7; 16],
        origin: "localhost/bench".to_owned(),
        format_version: ledger::FORMAT_VERSION,
        created_at_s,
        feature_level: ledger::LEVEL,
    })
}

/// An act with a record and evidence of the smallest sizes, which most have.
fn act(rng: &mut StdRng) -> Body {
    let slot = Slot {
        tag: rng.random(),
        salt: rng.random(),
        record: sealed(Part::Record, rng),
        evidence: Some(sealed(Part::Evidence, rng)),
    };
    Body::Persons(Persons { slots: vec![slot], erasure: None })
}

fn sealed(part: Part, rng: &mut StdRng) -> Sealed {
    let text_bytes = part.buckets().sizes().next().unwrap_or_default();
    let mut ciphertext = vec![0; text_bytes + AUTH_BYTES];
    rng.fill(&mut ciphertext[..]);
    Sealed { ciphertext, commitment: rng.random() }
}

/// Repeats some work, and returns the durations in nanoseconds.
fn timed(mut work: impl FnMut() -> Result<(), CliError>) -> Result<Histogram<u64>, CliError> {
    let mut times = new_histogram()?;
    for _ in 0..PROOFS {
        let started = Instant::now();
        work()?;
        times.saturating_record(nanos_since(started));
    }
    Ok(times)
}
