//! Check, BatchCheck and FilterAudience.

use std::{
    iter,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use consent_ledger::{
    cli::error::CliError,
    proto::{
        AudienceQuery, AudienceSubjects, BatchCheckRequest, CheckRequest, FilterAudienceRequest,
        check_service_client::CheckServiceClient, filter_audience_request::Message as Asked,
    },
};

use super::{
    Bench, Figure, Report, acts,
    light::{Light, encoded},
    load::{Run, closed_loop},
    process::ServerProcess,
};

/// Callers in flight.
const IN_FLIGHT: [usize; 4] = [1, 8, 64, 256];
/// Number of rounds in which service and echo take turns, so that drift affects both.
const ROUNDS: u32 = 2;
/// Maximum number of connections, which the callers share.
const CONNECTIONS_MAX: usize = 4;
/// The method.
const CHECK: &str = "/consent.v1.CheckService/Check";
/// The most questions that are encoded before the load begins.
const PREPARED_MAX: u64 = 1_000_000;
/// Checks in a batch.
const BATCH: u64 = 1_000;
/// Data subjects in an audience.
const AUDIENCE: u64 = 1_000_000;
/// Data subjects in a message of an audience.
const AUDIENCE_MESSAGE: u64 = 10_000;
/// Checks in a batch of [`warm_up`].
const WARM_UP_BATCH: u64 = 5_000;

/// Check; baseline: the echo.
pub(super) async fn check(bench: &Bench, report: &mut Report<'_>) -> Result<(), CliError> {
    report.part("check: one question a call");
    let service = ServerProcess::serve(&bench.binary, &bench.data_dir)?;
    warm_up(&service, bench).await?;
    let echo = ServerProcess::echo()?;
    for in_flight in IN_FLIGHT {
        let mut totals = [Total::default(), Total::default()];
        for _ in 0..ROUNDS {
            for (server, total) in [&service, &echo].into_iter().zip(&mut totals) {
                total.add(server, in_flight, bench).await?;
            }
        }
        let [service, echo] = totals;
        report.add(&[
            Figure::new(format!("{in_flight} in flight, throughput"), service.per_second(), "1/s")
                .beside("echo", echo.per_second()),
            Figure::new(format!("{in_flight} in flight, server CPU"), service.cpu_us(), "us/call")
                .beside("echo", echo.cpu_us()),
            Figure::new(format!("{in_flight} in flight, p50"), service.p50_us, "us")
                .beside("echo", echo.p50_us),
            Figure::new(format!("{in_flight} in flight, p99"), service.p99_us, "us")
                .beside("echo", echo.p99_us),
        ])?;
    }
    Ok(())
}

/// The results of one server. Latencies are those of its last round.
#[derive(Default)]
struct Total {
    calls: f64,
    seconds: f64,
    cpu_seconds: f64,
    p50_us: f64,
    p99_us: f64,
}

impl Total {
    async fn add(
        &mut self,
        server: &ServerProcess,
        in_flight: usize,
        bench: &Bench,
    ) -> Result<(), CliError> {
        let light = Light::connect(server.address(), in_flight.min(CONNECTIONS_MAX)).await?;
        let asked: u64 = bench.subjects.min(PREPARED_MAX);
        let questions = (0..asked).map(|number| encoded(&question(number, bench.subjects)));
        let questions: Arc<[Bytes]> = questions.collect();
        let before = server.cpu()?;
        let run: Run = closed_loop(in_flight, bench.seconds, move |caller, number| {
            let question = questions[usize::try_from(number % asked).unwrap_or(0)].clone();
            let light = light.clone();
            async move { light.call(caller, CHECK, question).await }
        })
        .await?;
        self.cpu_seconds += (server.cpu()? - before).as_secs_f64();
        self.calls += run.calls as f64;
        self.seconds += run.elapsed.as_secs_f64();
        (self.p50_us, self.p99_us) = (run.latency_us(0.5), run.latency_us(0.99));
        Ok(())
    }

    fn per_second(&self) -> f64 {
        self.calls / self.seconds
    }

    fn cpu_us(&self) -> f64 {
        self.cpu_seconds * 1e6 / self.calls
    }
}

/// BatchCheck of 1,000 cells.
pub(super) async fn batch(bench: &Bench, report: &mut Report<'_>) -> Result<(), CliError> {
    report.part("batch: 1,000 questions a call");
    let service = ServerProcess::serve(&bench.binary, &bench.data_dir)?;
    warm_up(&service, bench).await?;
    let before = service.cpu()?;
    let run = batches(&service, bench).await?;
    let cpu_us = (service.cpu()? - before).as_secs_f64() * 1e6 / run.calls as f64;
    report.add(&[
        Figure::new("checks", run.per_second() * BATCH as f64, "1/s"),
        Figure::new("batch, p50", run.latency_us(0.5), "us"),
        Figure::new("batch, p99", run.latency_us(0.99), "us"),
        Figure::new("server CPU", cpu_us / BATCH as f64, "us/check"),
    ])
}

async fn batches(service: &ServerProcess, bench: &Bench) -> Result<Run, CliError> {
    let channel = service.connect(1).await?.remove(0);
    let subjects = bench.subjects;
    closed_loop(2, bench.seconds, move |_, number| {
        let checks = (0..BATCH).map(|i| question(number * BATCH + i, subjects)).collect();
        let mut client =
            CheckServiceClient::new(channel.clone()).max_decoding_message_size(64 << 20);
        async move {
            let request = BatchCheckRequest { checks, at_least_revision: None };
            client.batch_check(request).await.map(drop)
        }
    })
    .await
}

/// FilterAudience; baseline: batches of the same questions.
pub(super) async fn audience(bench: &Bench, report: &mut Report<'_>) -> Result<(), CliError> {
    report.part("audience: 1,000,000 data subjects, one stream");
    let service = ServerProcess::serve(&bench.binary, &bench.data_dir)?;
    warm_up(&service, bench).await?;
    let cpu_us = |cpu: Duration, checks: f64| cpu.as_secs_f64() * 1e6 / checks;
    let mut figures = Vec::new();
    for (answers, packed) in [("ids out", false), ("bits out", true)] {
        let before = service.cpu()?;
        let batches = batches(&service, bench).await?;
        let between = service.cpu()?;
        let seconds = filter(&service, bench, packed).await?;
        let (batched, filtered) = (batches.calls as f64 * BATCH as f64, AUDIENCE as f64);
        let filtered_us = cpu_us(service.cpu()? - between, filtered);
        figures.extend([
            Figure::new(format!("checks, {answers}"), filtered / seconds, "1/s")
                .beside("BatchCheck", batches.per_second() * BATCH as f64),
            Figure::new(format!("server CPU, {answers}"), filtered_us, "us/check")
                .beside("BatchCheck", cpu_us(between - before, batched)),
        ]);
    }
    report.add(&figures)
}

/// Filters one audience, and returns the duration in seconds.
async fn filter(service: &ServerProcess, bench: &Bench, packed: bool) -> Result<f64, CliError> {
    let channel = service.connect(1).await?.remove(0);
    let mut client = CheckServiceClient::new(channel).max_decoding_message_size(64 << 20);
    let subjects = bench.subjects;
    let query = AudienceQuery {
        purpose: acts::PURPOSE.to_owned(),
        channel: acts::CHANNEL.to_owned(),
        packed,
        ..AudienceQuery::default()
    };
    let subjects_message = move |part: u64| {
        let numbers = part * AUDIENCE_MESSAGE..(part + 1) * AUDIENCE_MESSAGE;
        let subjects = numbers.map(|number| question(number, subjects).subject).collect();
        Asked::Subjects(AudienceSubjects { subjects })
    };
    let parts = (0..AUDIENCE / AUDIENCE_MESSAGE).map(subjects_message);
    let messages = iter::once(Asked::Query(query)).chain(parts);
    let requests = messages.map(|message| FilterAudienceRequest { message: Some(message) });
    let started = Instant::now();
    let mut answers = client.filter_audience(tokio_stream::iter(requests)).await?.into_inner();
    while answers.message().await?.is_some() {}
    Ok(started.elapsed().as_secs_f64())
}

/// Checks every data subject once, so that the measurement finds all in hot state.
pub(super) async fn warm_up(service: &ServerProcess, bench: &Bench) -> Result<(), CliError> {
    let channel = service.connect(1).await?.remove(0);
    let mut client = CheckServiceClient::new(channel).max_decoding_message_size(64 << 20);
    let mut number = 0;
    while number < bench.subjects {
        let end = bench.subjects.min(number + WARM_UP_BATCH);
        let checks = (number..end).map(|number| question(number, bench.subjects)).collect();
        let request = BatchCheckRequest { checks, at_least_revision: None };
        client.batch_check(request).await?;
        number = end;
    }
    Ok(())
}

/// A question about a data subject. Consecutive questions are far apart, so that caches do not help.
pub(super) fn question(number: u64, subjects: u64) -> CheckRequest {
    const STRIDE: u64 = 7_368_787;
    CheckRequest {
        subject: acts::subject(number.wrapping_mul(STRIDE) % subjects),
        purpose: acts::PURPOSE.to_owned(),
        channel: acts::CHANNEL.to_owned(),
        ..CheckRequest::default()
    }
}
