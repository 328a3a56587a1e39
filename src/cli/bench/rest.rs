//! Verification, restart and memory.

use std::{fs, time::Instant};

use super::{Bench, Figure, Report, process::ServerProcess, questions};
use crate::{
    cli::error::CliError, ledger, proto::check_service_client::CheckServiceClient,
    storage::disk::RealDisk,
};

const MIB: f64 = 1024.0 * 1024.0;

/// Verification beside plain BLAKE3 over the same files.
pub(super) fn verify(bench: &Bench, report: &mut Report<'_>) -> Result<(), CliError> {
    report.part("verify: every byte of the ledger, one thread");
    let dir = bench.data_dir.join(ledger::DIR);
    // Both find the files in the page cache: the first pass brings them there.
    hash_files(&dir)?;
    let started = Instant::now();
    let bytes = hash_files(&dir)?;
    let plain = bytes / MIB / started.elapsed().as_secs_f64();

    let started = Instant::now();
    let found = ledger::verify::verify(&RealDisk, &dir, &mut |_, _| {})
        .map_err(|error| CliError::failed(error.to_string()))?;
    let seconds = started.elapsed().as_secs_f64();
    report.add(&[
        Figure::new("bytes", found.bytes as f64 / MIB / seconds, "MiB/s")
            .beside("plain BLAKE3", plain),
        Figure::new("entries", found.entries as f64 / seconds, "1/s"),
    ])
}

fn hash_files(dir: &std::path::Path) -> Result<f64, CliError> {
    let failed = |error| CliError::file(dir, error);
    let mut bytes = 0u64;
    for entry in fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "seg") {
            let mut hasher = blake3::Hasher::new();
            let file = fs::File::open(&path).map_err(failed)?;
            bytes += file.metadata().map_err(failed)?.len();
            hasher.update_reader(file).map_err(failed)?;
        }
    }
    Ok(bytes as f64)
}

/// Time from start to the first answer, and memory before and after every subject was read.
pub(super) async fn restart(bench: &Bench, report: &mut Report<'_>) -> Result<(), CliError> {
    report.part("restart");
    let started = Instant::now();
    let server = ServerProcess::serve(&bench.data_dir)?;
    let channel = server.connect(1).await?.remove(0);
    let mut client = CheckServiceClient::new(channel);
    let status = |status| CliError::Server(Box::new(status));
    client.check(questions::question(0, 1)).await.map_err(status)?;
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
