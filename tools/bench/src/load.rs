//! Load in a closed loop: a number of callers, each with one call in flight.

use std::{
    fmt::Display,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use consent_ledger::cli::{error::CliError, progress};
use hdrhistogram::Histogram;
use tokio::task::JoinSet;

/// The result of a load run.
pub(super) struct Run {
    pub calls: u64,
    pub elapsed: Duration,
    latencies_ns: Histogram<u64>,
}

impl Run {
    pub(super) fn per_second(&self) -> f64 {
        self.calls as f64 / self.elapsed.as_secs_f64()
    }

    /// A latency quantile, in microseconds.
    pub(super) fn latency_us(&self, quantile: f64) -> f64 {
        self.latencies_ns.value_at_quantile(quantile) as f64 / 1_000.0
    }
}

/// Makes calls until `duration` is over. The arguments of `call` are the number of the caller and a
/// number that is unique to the call.
pub(super) async fn closed_loop<F, C>(
    callers: usize,
    duration: Duration,
    call: F,
) -> Result<Run, CliError>
where
    F: Fn(usize, u64) -> C + Send + Sync + 'static,
    C: Future<Output = Result<(), tonic::Status>> + Send,
{
    let call = Arc::new(call);
    let next = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for caller in 0..callers {
        let (call, next) = (Arc::clone(&call), Arc::clone(&next));
        tasks.spawn(async move {
            let mut latencies_ns = new_histogram().map_err(|e| e.to_string())?;
            while started.elapsed() < duration {
                let called_at = Instant::now();
                let number = next.fetch_add(1, Ordering::Relaxed);
                call(caller, number).await.map_err(|status| status.to_string())?;
                latencies_ns.saturating_record(nanos_since(called_at));
            }
            Ok::<_, String>(latencies_ns)
        });
    }
    let mut all = new_histogram()?;
    while let Some(joined) = tasks.join_next().await {
        let latencies = joined.map_err(failed)?;
        let latencies = latencies.map_err(|e| CliError::failed(format!("a call failed: {e}")))?;
        all.add(latencies).map_err(failed)?;
    }
    Ok(Run { calls: all.len(), elapsed: started.elapsed(), latencies_ns: all })
}

/// A histogram of nanoseconds, up to a minute.
pub(super) fn new_histogram() -> Result<Histogram<u64>, CliError> {
    Histogram::new_with_max(60_000_000_000, 3).map_err(failed)
}

/// Makes `count` calls, and shows how far it is. The arguments of `call` are the number of the caller, and
/// that of the call.
pub(super) async fn each_once<F, C>(
    callers: usize,
    count: u64,
    title: &'static str,
    call: F,
) -> Result<(), CliError>
where
    F: Fn(usize, u64) -> C + Send + Sync + 'static,
    C: Future<Output = Result<(), tonic::Status>> + Send,
{
    let bar = progress::bar(Some(count), title);
    let call = Arc::new(call);
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for caller in 0..callers {
        let (call, next, bar) = (Arc::clone(&call), Arc::clone(&next), bar.clone());
        tasks.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return Ok(());
                }
                call(caller, number).await?;
                bar.inc(1);
            }
        });
    }
    join_all(tasks).await?;
    bar.finish_and_clear();
    Ok(())
}

/// Waits for tasks of calls, and fails with the first that failed.
pub(super) async fn join_all(
    mut tasks: JoinSet<Result<(), tonic::Status>>,
) -> Result<(), CliError> {
    while let Some(joined) = tasks.join_next().await {
        joined.map_err(failed)??;
    }
    Ok(())
}

pub(super) fn failed(error: impl Display) -> CliError {
    CliError::failed(error.to_string())
}

pub(super) fn nanos_since(moment: Instant) -> u64 {
    u64::try_from(moment.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
