//! Verification, restart and memory.

use std::{hint::black_box, ops::ControlFlow, path::Path, thread, time::Instant};

use consent_ledger::{
    cli::error::CliError,
    ledger::{self, chain, verify::Wanted},
    proto::check_service_client::CheckServiceClient,
    storage::disk::RealDisk,
    tlog::merkle::leaf_hash,
};
use sha2::{Digest as _, Sha256};

use super::{Bench, Figure, Report, process::ServerProcess, questions};

const MIB: f64 = 1024.0 * 1024.0;

/// Number of rounds of verification and its baselines. The best round counts, because a single one
/// depends on the load of a shared machine.
const ROUNDS: usize = 7;
/// Maximum size of the entries that the baseline of verification holds in memory.
const BASELINE_BYTES_MAX: usize = 1 << 30;

/// Verification; baseline: the hashes that it needs at least, BLAKE3 for the chain and SHA-256 for the
/// tree, of the same entries in memory on as many threads.
pub(super) fn verify(bench: &Bench, report: &mut Report<'_>) -> Result<(), CliError> {
    let threads = ledger::verify::workers();
    report.part("verify: every byte of the ledger, on all cores");
    let dir = bench.data_dir.join(ledger::DIR);
    // This also loads the files into the page cache.
    let entries = Entries::read(&dir)?;
    let (mut hashing, mut through, mut verified) = (0.0_f64, 0.0_f64, 0.0_f64);
    let mut good = None;
    for _ in 0..ROUNDS {
        hashing = hashing.max(entries.rate(threads, hash_entries));
        through = through.max(entries.rate(threads, hash_through));
        let started = Instant::now();
        let audited = ledger::verify::audit(&RealDisk, &dir, Wanted::default());
        let seconds = started.elapsed().as_secs_f64();
        audited.result.map_err(|error| CliError::failed(error.to_string()))?;
        verified = verified.max(audited.good.bytes as f64 / MIB / seconds);
        good = Some(audited.good);
    }
    let Some(good) = good else { return Ok(()) };
    let entry_bytes = good.bytes as f64 / good.tip.next_index as f64;
    report.add(&[
        Figure::new(format!("bytes of entries, {threads} threads"), verified, "MiB/s")
            .beside("BLAKE3 and SHA-256 of each entry in memory", hashing),
        Figure::new("the same", verified, "MiB/s")
            .beside("BLAKE3 and SHA-256 straight through", through),
        Figure::new("entries", verified * MIB / entry_bytes, "1/s"),
        Figure::new("bytes an entry", entry_bytes, "bytes"),
    ])
}

/// Entries end to end in memory.
struct Entries {
    bytes: Vec<u8>,
    /// The end of each entry.
    ends: Vec<usize>,
}

impl Entries {
    fn read(dir: &Path) -> Result<Self, CliError> {
        let mut entries = Self { bytes: Vec::new(), ends: Vec::new() };
        let read = ledger::verify::verify_before(&RealDisk, dir, u64::MAX, &mut |_, frame| {
            entries.bytes.extend_from_slice(frame.payload);
            entries.ends.push(entries.bytes.len());
            match entries.bytes.len() < BASELINE_BYTES_MAX {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        });
        read.map_err(|error| CliError::failed(error.to_string()))?;
        Ok(entries)
    }

    /// MiB hashed in a second, with one row of entries for each thread.
    fn rate(&self, threads: usize, hash: fn(Row<'_>)) -> f64 {
        let started = Instant::now();
        let entries = self.ends.len().div_ceil(threads).max(1);
        thread::scope(|scope| {
            let mut start = 0;
            for ends in self.ends.chunks(entries) {
                let row = Row { bytes: &self.bytes, start, ends };
                start = ends.last().copied().unwrap_or(start);
                scope.spawn(move || hash(row));
            }
        });
        self.bytes.len() as f64 / MIB / started.elapsed().as_secs_f64()
    }
}

/// Entries that one thread hashes.
#[derive(Clone, Copy)]
struct Row<'a> {
    bytes: &'a [u8],
    start: usize,
    ends: &'a [usize],
}

/// Hashes each entry with both functions.
fn hash_entries(row: Row<'_>) {
    let mut start = row.start;
    for &end in row.ends {
        let entry = &row.bytes[start..end];
        black_box((chain::hash(entry), leaf_hash(entry)));
        start = end;
    }
}

/// Hashes the whole row with both functions.
fn hash_through(row: Row<'_>) {
    let end = row.ends.last().copied().unwrap_or(row.start);
    let bytes = &row.bytes[row.start..end];
    black_box((blake3::hash(bytes), Sha256::digest(bytes)));
}

/// Time from start to the first answer, and memory before and after every subject was read.
pub(super) async fn restart(bench: &Bench, report: &mut Report<'_>) -> Result<(), CliError> {
    report.part("restart");
    let started = Instant::now();
    let server = ServerProcess::serve(&bench.binary, &bench.data_dir)?;
    let channel = server.connect(1).await?.remove(0);
    let mut client = CheckServiceClient::new(channel);
    client.check(questions::question(0, 1)).await?;
    let seconds = started.elapsed().as_secs_f64();
    let cold = server.resident_bytes()?;

    questions::warm_up(&server, bench).await?;
    let hot = server.resident_bytes()?;
    report.add(&[
        Figure::new(format!("{} subjects, to the first answer", bench.subjects), seconds, "s"),
        Figure::new("resident memory after it", cold / MIB, "MiB"),
        Figure::new("resident memory, every subject read", hot / MIB, "MiB"),
        Figure::new("growth a subject", (hot - cold) / bench.subjects as f64, "bytes"),
    ])
}
