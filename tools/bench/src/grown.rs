//! A ledger that grows: whether writes slow down, how long it takes to start, and what is on disk.

use std::{
    fs, io,
    path::Path,
    pin::Pin,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use consent_ledger::{cli::error::CliError, proto::check_service_client::CheckServiceClient};

use super::{
    Bench, Figure, Report,
    acts::{self, CHANNELS, PURPOSES},
    light::{Light, encoded},
    load::{closed_loop, each_once, failed},
    process::ServerProcess,
    questions,
};

/// Callers in flight.
const IN_FLIGHT: [usize; 2] = [64, 256];
/// Callers that let the ledger grow.
const FILLERS: usize = 512;
const CONNECTIONS: usize = 4;
const MIB: f64 = 1024.0 * 1024.0;
/// How often the memory of a rebuild is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Changes of known data subjects, whom Zipf's law chooses, with an idempotency key each.
struct Changes {
    subjects: u64,
    next: AtomicU64,
}

impl Changes {
    async fn record(&self, light: &Light, caller: usize) -> Result<(), tonic::Status> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let cell = usize::try_from(number % 4).unwrap_or(0);
        let cell = (PURPOSES[cell / 2], CHANNELS[cell % 2]);
        let act = acts::change(zipf(number, self.subjects), cell, number);
        light.call(caller, acts::RECORD, encoded(&act)).await
    }
}

/// A rank from 0 on, where rank n has the weight 1 / (n + 1). The same number has the same rank.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the rank is not negative, and less than the count"
)]
fn zipf(number: u64, count: u64) -> u64 {
    // SplitMix64, by Sebastiano Vigna: the bits of consecutive numbers have nothing in common.
    let mut bits = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let part = (bits ^ (bits >> 31)) as f64 / u64::MAX as f64;
    (((count as f64).powf(part) - 1.0) as u64).min(count - 1)
}

/// Durable changes on a fresh ledger and on one with `entries`, starts, a rebuild, and the files.
pub(super) async fn grown(
    bench: &Bench,
    root: &Path,
    entries: u64,
    report: &mut Report<'_>,
) -> Result<(), CliError> {
    report.part("grown: changes with idempotency keys, by Zipf's law, light client");
    let dir = root.join("grown");
    let changes = Arc::new(Changes { subjects: bench.subjects, next: AtomicU64::new(0) });
    let server = ServerProcess::serve(&bench.binary, &dir)?;
    acts::put_catalog(server.connect(1).await?.remove(0)).await?;
    let light = Light::connect(server.address(), CONNECTIONS).await?;
    let caller_of = light.clone();
    each_once(FILLERS, bench.subjects, "first acts", move |caller, number| {
        let light = caller_of.clone();
        async move { light.call(caller, acts::RECORD, encoded(&acts::first_act(number))).await }
    })
    .await?;
    let fresh = measured(&server, &light, &changes, bench).await?;
    let so_far = bench.subjects + changes.next.load(Ordering::Relaxed);
    let by = entries.saturating_sub(so_far);
    each_once(FILLERS, by, "growing the ledger", recording(&light, &changes)).await?;
    let written_before = server.written_bytes()?;
    let acts_before = changes.next.load(Ordering::Relaxed);
    let grown = measured(&server, &light, &changes, bench).await?;
    let acts = changes.next.load(Ordering::Relaxed) - acts_before;
    let written = (server.written_bytes()? - written_before) / acts as f64;
    for (in_flight, (fresh, grown)) in IN_FLIGHT.iter().zip(fresh.iter().zip(&grown)) {
        let name = |what: &str| format!("{in_flight} in flight, {what}");
        report.add(&[
            Figure::new(name("durable changes"), grown.per_second, "1/s")
                .beside("on the fresh ledger", fresh.per_second),
            Figure::new(name("p99"), grown.p99_us, "us")
                .beside("on the fresh ledger", fresh.p99_us),
            Figure::new(name("server CPU"), grown.cpu_us, "us/act")
                .beside("on the fresh ledger", fresh.cpu_us),
        ])?;
    }
    let total = bench.subjects + changes.next.load(Ordering::Relaxed);
    let mut figures = Vec::new();
    for part in ["ledger", "vault", "tree", "view"] {
        let path = dir.join(part);
        let bytes = bytes_of(&path).map_err(|error| CliError::file(&path, error))?;
        figures.push((part, bytes / total as f64));
    }
    let of_ledger = figures[0].1;
    let on_disk = |(part, bytes): (&str, f64)| {
        Figure::new(format!("{part}, on disk"), bytes, "bytes/act").beside("ledger", of_ledger)
    };
    let mut figures: Vec<_> = figures.into_iter().map(on_disk).collect();
    figures.push(
        Figure::new("written to the device", written, "bytes/act").beside("ledger", of_ledger),
    );
    figures.push(Figure::new("resident memory", server.resident_bytes()? / MIB, "MiB"));
    report.add(&figures)?;

    // Killed right after the load: what was not yet written of the view is folded again.
    drop(server);
    let killed = first_answer(bench, &dir).await?;
    ServerProcess::serve(&bench.binary, &dir)?.terminate()?;
    let orderly = first_answer(bench, &dir).await?;
    report.add(&[
        Figure::new(
            format!("{total} entries, kill -9 under load, to the first answer"),
            killed,
            "s",
        ),
        Figure::new("an orderly stop, to the first answer", orderly, "s"),
    ])?;
    let (seconds, peak) = rebuild(bench, &dir)?;
    report.add(&[
        Figure::new("rebuild of the view", seconds, "s"),
        Figure::new("rebuild of the view", total as f64 / seconds, "entries/s"),
        Figure::new("rebuild of the view, peak memory", peak / MIB, "MiB"),
    ])
}

/// A call that records the next change.
fn recording(
    light: &Light,
    changes: &Arc<Changes>,
) -> impl Fn(usize, u64) -> Recording + Send + Sync + 'static {
    let (light, changes) = (light.clone(), Arc::clone(changes));
    move |caller, _| {
        let (light, changes) = (light.clone(), Arc::clone(&changes));
        Box::pin(async move { changes.record(&light, caller).await })
    }
}

type Recording = Pin<Box<dyn Future<Output = Result<(), tonic::Status>> + Send>>;

struct Measured {
    per_second: f64,
    p99_us: f64,
    cpu_us: f64,
}

async fn measured(
    server: &ServerProcess,
    light: &Light,
    changes: &Arc<Changes>,
    bench: &Bench,
) -> Result<Vec<Measured>, CliError> {
    let mut all = Vec::new();
    for in_flight in IN_FLIGHT {
        let before = server.cpu()?;
        let run = closed_loop(in_flight, bench.seconds, recording(light, changes)).await?;
        let cpu_us = (server.cpu()? - before).as_secs_f64() * 1e6 / run.calls as f64;
        all.push(Measured { per_second: run.per_second(), p99_us: run.latency_us(0.99), cpu_us });
    }
    Ok(all)
}

/// Seconds from the start to the first answered check. The server is killed afterwards.
async fn first_answer(bench: &Bench, dir: &Path) -> Result<f64, CliError> {
    let started = Instant::now();
    let server = ServerProcess::serve(&bench.binary, dir)?;
    let mut client = CheckServiceClient::new(server.connect(1).await?.remove(0));
    client.check(questions::question(0, 1)).await?;
    Ok(started.elapsed().as_secs_f64())
}

/// Seconds, and the greatest resident memory, of `rebuild-view`.
fn rebuild(bench: &Bench, dir: &Path) -> Result<(f64, f64), CliError> {
    let started = Instant::now();
    let failed_to = |error| CliError::io("rebuilding the view", error);
    let mut command = Command::new(&bench.binary);
    command.args(["rebuild-view", "--data-dir"]).arg(dir);
    let mut child = command.stdout(std::process::Stdio::null()).spawn().map_err(failed_to)?;
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0.0_f64;
    loop {
        if let Some(ended) = child.try_wait().map_err(failed_to)? {
            let seconds = started.elapsed().as_secs_f64();
            return match ended.success() {
                true => Ok((seconds, peak)),
                false => Err(failed("the view was not rebuilt")),
            };
        }
        let status = fs::read_to_string(&status).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        peak = peak.max(kib.unwrap_or(0.0) * 1024.0);
        thread::sleep(LOOK);
    }
}

/// Bytes of the files in a directory.
fn bytes_of(dir: &Path) -> io::Result<f64> {
    let mut bytes = 0;
    for file in fs::read_dir(dir)? {
        bytes += file?.metadata()?.len();
    }
    Ok(bytes as f64)
}
