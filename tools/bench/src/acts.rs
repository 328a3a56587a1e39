//! RecordConsent, and the ledger that the other measurements work on.

use std::{
    fs::OpenOptions,
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

use consent_ledger::{
    cli::error::CliError,
    proto::{
        self, Change, Evidence, PutChannelRequest, PutNamespaceRequest, PutPurposeRequest,
        RecordConsentRequest, Scope, catalog_service_client::CatalogServiceClient,
        consent_service_client::ConsentServiceClient,
    },
};
use hdrhistogram::Histogram;
use tonic::transport::Channel;

use super::{
    Bench, Figure, Report,
    load::{closed_loop, each_once, failed, nanos_since, new_histogram},
    process::ServerProcess,
};

/// The purpose and channel of all measurements.
pub(super) const PURPOSE: &str = "marketing.newsletter";
pub(super) const CHANNEL: &str = "email";

/// The purposes and channels of [`change`].
pub(super) const PURPOSES: [&str; 2] = [PURPOSE, "marketing.offers"];
pub(super) const CHANNELS: [&str; 2] = [CHANNEL, "sms"];
/// The method that records an act.
pub(super) const RECORD: &str = "/consent.v1.ConsentService/RecordConsent";

/// Callers in flight.
const IN_FLIGHT: [usize; 3] = [64, 256, 1_024];
/// Callers that fill the ledger.
const FILLERS: usize = 512;
/// Callers that make data subjects known before a measurement.
const KNOWN_FILLERS: usize = 64;
const CONNECTIONS: usize = 4;
/// Size of the frame of an entry that `act` makes.
const ENTRY_BYTES: usize = 420;

/// The data subject with a number.
pub(super) fn subject(number: u64) -> String {
    format!("user:{number:09}")
}

/// An onboarding form's opt-in.
fn act(subject_number: u64, key: String) -> RecordConsentRequest {
    RecordConsentRequest {
        subject: subject(subject_number),
        actor: proto::Actor::Subject.into(),
        changes: vec![Change {
            action: proto::Action::Grant.into(),
            scope: Some(Scope { purpose: PURPOSE.to_owned(), channel: CHANNEL.to_owned() }),
            ..Change::default()
        }],
        evidence: Some(Evidence {
            touchpoint: "onboarding".to_owned(),
            notice_id: "newsletter-signup".to_owned(),
            notice_version: "2026-03".to_owned(),
            language: "en".to_owned(),
            method: "checkbox".to_owned(),
            ..Evidence::default()
        }),
        idempotency_key: key,
        ..RecordConsentRequest::default()
    }
}

/// The first act of a data subject, with its number.
pub(super) fn first_act(subject_number: u64) -> RecordConsentRequest {
    act(subject_number, format!("first-{subject_number}"))
}

/// A later act with its number. Of 16 in turn, the last four withdraw.
pub(super) fn change(
    subject_number: u64,
    (purpose, channel): (&str, &str),
    number: u64,
) -> RecordConsentRequest {
    let mut act = act(subject_number, format!("change-{number}"));
    for change in &mut act.changes {
        let scope = Scope { purpose: purpose.to_owned(), channel: channel.to_owned() };
        change.scope = Some(scope);
        if number % 16 >= 12 {
            change.action = proto::Action::Withdraw.into();
        }
    }
    act
}

pub(super) async fn put_catalog(channel: Channel) -> Result<(), CliError> {
    let mut catalog = CatalogServiceClient::new(channel);
    for key in CHANNELS {
        let channel = proto::Channel { key: key.to_owned(), ..proto::Channel::default() };
        let request = PutChannelRequest { channel: Some(channel), ..Default::default() };
        catalog.put_channel(request).await?;
    }
    let namespace = proto::Namespace {
        key: "user".to_owned(),
        kind: proto::NamespaceKind::Opaque.into(),
        ..proto::Namespace::default()
    };
    catalog
        .put_namespace(PutNamespaceRequest { namespace: Some(namespace), ..Default::default() })
        .await?;
    for key in PURPOSES {
        let purpose = proto::Purpose {
            key: key.to_owned(),
            title: key.to_owned(),
            legal_basis: proto::LegalBasis::Consent.into(),
            data_categories: vec!["user.contact.email".to_owned()],
            ..proto::Purpose::default()
        };
        let request = PutPurposeRequest { purpose: Some(purpose), ..Default::default() };
        catalog.put_purpose(request).await?;
    }
    Ok(())
}

/// Records a grant for every data subject.
pub(super) async fn fill(bench: &Bench) -> Result<(), CliError> {
    let server = ServerProcess::serve(&bench.binary, &bench.data_dir)?;
    let channels = server.connect(CONNECTIONS).await?;
    put_catalog(channels[0].clone()).await?;
    let clients = clients(&channels);
    each_once(FILLERS, bench.subjects, "filling the ledger", move |caller, number| {
        let mut client = clients[caller % CONNECTIONS].clone();
        async move { client.record_consent(act(number, format!("fill-{number}"))).await.map(drop) }
    })
    .await?;
    server.terminate()
}

/// RecordConsent; baseline: a raw append with `fdatasync`.
pub(super) async fn record(
    bench: &Bench,
    root: &Path,
    report: &mut Report<'_>,
) -> Result<(), CliError> {
    report.part("record: one act a call, durable when answered");
    let server = ServerProcess::serve(&bench.binary, &root.join("record"))?;
    let channels = server.connect(CONNECTIONS).await?;
    put_catalog(channels[0].clone()).await?;
    // A new data subject needs a second fdatasync, for its key in the vault.
    let known = bench.subjects.min(10_000);
    let fillers = clients(&channels);
    each_once(KNOWN_FILLERS, known, "known data subjects", move |caller, number| {
        let mut client = fillers[caller % CONNECTIONS].clone();
        async move { client.record_consent(act(number, format!("known-{number}"))).await.map(drop) }
    })
    .await?;

    let half = bench.seconds / 2;
    let before = raw_loop(root, half)?;
    let single = run(&channels, 1, bench.seconds, known).await?;
    let after = raw_loop(root, half)?;
    let mut raw = before;
    raw.add(after).map_err(failed)?;
    let raw_us = |quantile| raw.value_at_quantile(quantile) as f64 / 1_000.0;
    report.add(&[
        Figure::new("1 in flight, p50", single.latency_us(0.5), "us")
            .beside("append + fdatasync", raw_us(0.5)),
        Figure::new("1 in flight, p99", single.latency_us(0.99), "us")
            .beside("append + fdatasync", raw_us(0.99)),
    ])?;
    for in_flight in IN_FLIGHT {
        let before = server.cpu()?;
        let run = run(&channels, in_flight, bench.seconds, known).await?;
        let cpu_us = (server.cpu()? - before).as_secs_f64() * 1e6 / run.calls as f64;
        report.add(&[
            Figure::new(format!("{in_flight} in flight, durable acts"), run.per_second(), "1/s"),
            Figure::new(format!("{in_flight} in flight, p50"), run.latency_us(0.5), "us"),
            Figure::new(format!("{in_flight} in flight, p99"), run.latency_us(0.99), "us"),
            Figure::new(format!("{in_flight} in flight, server CPU"), cpu_us, "us/act"),
        ])?;
    }
    Ok(())
}

fn clients(channels: &[Channel]) -> Vec<ConsentServiceClient<Channel>> {
    channels.iter().map(|channel| ConsentServiceClient::new(channel.clone())).collect()
}

async fn run(
    channels: &[Channel],
    in_flight: usize,
    duration: Duration,
    known: u64,
) -> Result<super::load::Run, CliError> {
    let clients = clients(channels);
    closed_loop(in_flight, duration, move |caller, number| {
        let mut client = clients[caller % clients.len()].clone();
        let act = act(number % known, format!("run-{in_flight}-{number}"));
        async move { client.record_consent(act).await.map(drop) }
    })
    .await
}

/// Appends and syncs blocks of an entry's size, one after the other.
fn raw_loop(root: &Path, duration: Duration) -> Result<Histogram<u64>, CliError> {
    let path = root.join("raw");
    let file_error = |error| CliError::file(&path, error);
    let mut file = OpenOptions::new().create(true).append(true).open(&path).map_err(file_error)?;
    let block = [0x5a; ENTRY_BYTES];
    let mut latencies = new_histogram()?;
    let started = Instant::now();
    while started.elapsed() < duration {
        let append_started = Instant::now();
        file.write_all(&block).and_then(|()| file.sync_data()).map_err(file_error)?;
        latencies.saturating_record(nanos_since(append_started));
    }
    Ok(latencies)
}
