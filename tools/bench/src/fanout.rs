//! Fan-out: a burst of withdrawals, many Watch streams of which few receive them, and the effect of
//! stalled streams on the others.
//!
//! Every withdrawal must arrive once and in order at each stream whose filter it passes, and at no
//! other stream; otherwise the measurement fails. The latency is the time from the acknowledgement of
//! the write to the receipt. Both are seen by this process, which reads all streams.

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use clap::Args;
use consent_ledger::{
    cli::{catalog::file::CatalogFile, error::CliError, progress},
    proto::{
        self, CheckRequest, PutChannelRequest, PutNamespaceRequest, PutPartyRequest,
        PutPurposeRequest, RecordConsentRequest, WatchFilter, WatchRequest, WatchResponse,
        catalog_service_client::CatalogServiceClient, check_service_client::CheckServiceClient,
        consent_service_client::ConsentServiceClient, watch_response::Message,
        watch_service_client::WatchServiceClient,
    },
};
use consent_ledger_generate::{self as generate, Plan, Traffic};
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use tokio::{sync::mpsc, task::JoinSet, time::timeout};
use tonic::{Streaming, transport::Channel};

use super::{
    Bench, Figure, Report,
    load::{closed_loop, failed, join_all, new_histogram},
    process::ServerProcess,
};

/// The purpose of the withdrawals.
const PURPOSE: &str = "marketing.newsletter";
/// One in this many streams receives the withdrawals.
const ONE_IN: usize = 100;
/// Connections of the streams; the stalled streams have as many of their own.
const CONNECTIONS: usize = 8;
/// Number of streams that are opened at a time.
const OPENING: usize = 64;
/// Withdrawals in flight.
const IN_FLIGHT: usize = 16;
/// Number of acts before the measurement, and of data subjects among them.
const ACTS_BEFORE: usize = 2_000;
const SUBJECTS: u64 = 1_000;
/// Number of rounds without and with stalled streams, in turns, so that drift affects both.
const ROUNDS: usize = 2;
/// Flow-control window of a stream that is never read, in bytes: the initial window of HTTP/2.
const STALLED_WINDOW_BYTES: u32 = 65_535;
/// Number of withdrawals that fill this window and the buffer in the server.
const STALLING_WITHDRAWALS: usize = 2_000;
/// Timeout of the next message.
const PATIENCE: Duration = Duration::from_secs(120);

/// Options of `fanout`.
#[derive(Debug, Clone, Args)]
pub struct FanoutArgs {
    /// Number of Watch streams of `fanout`; one in a hundred receives the withdrawals
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = count())]
    pub fanout_streams: usize,
    /// Number of withdrawals in a burst
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = count())]
    pub fanout_withdrawals: usize,
    /// Number of additional streams that receive the withdrawals and are never read
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = count())]
    pub fanout_stalled: usize,
    /// Number of withdrawals a second [default: as fast as they are acknowledged]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub fanout_rate: Option<u32>,
}

fn count() -> impl clap::builder::TypedValueParser<Value = usize> {
    use clap::builder::TypedValueParser;
    clap::value_parser!(u64).range(1..=100_000).try_map(usize::try_from)
}

/// Measures fan-out; baseline: an echo server with as many callers.
pub(super) async fn fanout(
    args: &FanoutArgs,
    bench: &Bench,
    root: &Path,
    report: &mut Report<'_>,
) -> Result<(), CliError> {
    report.part("fanout: withdrawals to many Watch streams");
    let echo = echo(bench).await?;
    let server = serve(args, bench, root)?;
    let world = World::begin(args.clone(), server).await?;
    let readers = world.readers().await?;
    report.add(&[
        Figure::new("Watch streams", args.fanout_streams as f64, ""),
        Figure::new("resident memory of a stream", readers.stream_bytes / 1_024.0, "KiB"),
    ])?;

    let (mut without, mut with) = (Burst::new()?, Burst::new()?);
    let mut stalled_bytes = 0.0;
    for round in 0..ROUNDS {
        let before = world.server.resident_bytes()?;
        without.add(&world.burst(&readers, 2 * round).await?)?;
        let between = world.server.resident_bytes()?;
        let stalled = world.stalled(&readers, round).await?;
        with.add(&world.burst(&readers, 2 * round + 1).await?)?;
        // Only in the first round: later ones reuse memory of earlier streams.
        if round == 0 {
            let grown = world.server.resident_bytes()? - between - (between - before);
            stalled_bytes = grown / args.fanout_stalled as f64;
        }
        drop(stalled);
    }
    readers.check_others()?;
    report.add(&[
        Figure::new("deliveries of a burst, each in order", without.deliveries_a_burst(), ""),
        Figure::new("withdrawals", without.per_second(), "1/s"),
        Figure::new("deliveries", without.deliveries_per_second(), "1/s"),
        Figure::new("server CPU", without.cpu_us(), "us/delivery"),
        Figure::new("received before acknowledged", without.early_percent(), "%"),
        Figure::new("acknowledged to received, p50", without.us(0.5), "us")
            .beside("echo there and back", echo.latency_us(0.5)),
        Figure::new("acknowledged to received, p99", without.us(0.99), "us")
            .beside("echo there and back", echo.latency_us(0.99)),
    ])?;
    report.add(&[
        Figure::new("stalled streams", args.fanout_stalled as f64, ""),
        Figure::new("resident memory of a stalled stream", stalled_bytes / 1_024.0, "KiB"),
        Figure::new("withdrawals, with stalled", with.per_second(), "1/s")
            .beside("without", without.per_second()),
        Figure::new("acknowledged to received, with stalled, p99", with.us(0.99), "us")
            .beside("without", without.us(0.99)),
    ])
}

fn serve(args: &FanoutArgs, bench: &Bench, root: &Path) -> Result<ServerProcess, CliError> {
    let streams_max = (args.fanout_streams + args.fanout_stalled + IN_FLIGHT).to_string();
    let flags = ["--streams-max", &streams_max, "--connection-streams-max", &streams_max];
    ServerProcess::serve_with(&bench.binary, &root.join("fanout"), &flags)
}

async fn echo(bench: &Bench) -> Result<super::load::Run, CliError> {
    let server = ServerProcess::echo()?;
    let client = CheckServiceClient::new(server.connect(1).await?.remove(0));
    closed_loop(IN_FLIGHT, bench.seconds, move |_, _| {
        let mut client = client.clone();
        let request = CheckRequest { purpose: PURPOSE.to_owned(), ..CheckRequest::default() };
        async move { client.check(request).await.map(drop) }
    })
    .await
}

/// A server with a catalogue, a history, and data subjects who withdraw.
struct World {
    args: FanoutArgs,
    server: ServerProcess,
    writers: Vec<Channel>,
    catalog: CatalogFile,
    /// One recorded act of each data subject.
    acts: Arc<Vec<RecordConsentRequest>>,
}

impl World {
    async fn begin(args: FanoutArgs, server: ServerProcess) -> Result<Self, CliError> {
        let writers = server.connect(2).await?;
        let catalog = generate::example_catalog()?;
        put_catalog(&catalog, writers[0].clone()).await?;
        let acts = history(&catalog, writers[0].clone()).await?;
        Ok(Self { args, server, writers, catalog, acts: Arc::new(acts) })
    }

    /// Opens the streams that are read, and waits until each has caught up.
    async fn readers(&self) -> Result<Readers, CliError> {
        let before = self.server.resident_bytes()?;
        let channels = self.server.connect(CONNECTIONS).await?;
        let (sender, receipts) = mpsc::unbounded_channel();
        let unexpected = Arc::new(Unexpected::default());
        let mut tasks = JoinSet::new();
        let requests: Vec<_> = (0..self.args.fanout_streams).map(|n| self.request(n)).collect();
        let mut numbers = Vec::new();
        for (number, stream) in open(&channels, requests).await? {
            if self.receives_withdrawals(number) {
                numbers.push(number);
                tasks.spawn(read(number, stream, sender.clone()));
            } else {
                tasks.spawn(read_other(stream, Arc::clone(&unexpected)));
            }
        }
        let opened = self.server.resident_bytes()? - before;
        let stream_bytes = opened / self.args.fanout_streams as f64;
        let receipts = tokio::sync::Mutex::new(receipts);
        Ok(Readers { numbers, receipts, unexpected, stream_bytes, _tasks: tasks })
    }

    fn receives_withdrawals(&self, number: usize) -> bool {
        number.is_multiple_of(ONE_IN)
    }

    /// The filter of a stream: the purpose of the withdrawals, or cells of another purpose.
    fn request(&self, number: usize) -> WatchRequest {
        let others = || self.catalog.purposes.iter().filter(|purpose| purpose.key != PURPOSE);
        let mut filter = WatchFilter { purposes: vec![PURPOSE.to_owned()], ..Default::default() };
        if !self.receives_withdrawals(number) {
            let purpose = others().nth(number % others().count().max(1));
            filter.purposes = purpose.map(|purpose| purpose.key.clone()).into_iter().collect();
            let channel = self.catalog.channels.get(number % (self.catalog.channels.len() + 1));
            filter.channels = channel.map(|channel| channel.key.clone()).into_iter().collect();
        }
        WatchRequest { filter: Some(filter), ..WatchRequest::default() }
    }

    /// Opens streams that receive the withdrawals and are never read, and fills their buffers: only
    /// then they are stalled.
    async fn stalled(
        &self,
        readers: &Readers,
        round: usize,
    ) -> Result<Vec<(usize, Streaming<WatchResponse>)>, CliError> {
        let window = |endpoint: tonic::transport::Endpoint| {
            endpoint.initial_stream_window_size(STALLED_WINDOW_BYTES)
        };
        let channels = self.server.connect_with(CONNECTIONS, window).await?;
        let requests = vec![self.request(0); self.args.fanout_stalled];
        let stalled = open(&channels, requests).await?;
        let acknowledged = Arc::default();
        let filling = self.record("stalling", round, STALLING_WITHDRAWALS, acknowledged);
        tokio::try_join!(filling, readers.receive(STALLING_WITHDRAWALS))?;
        Ok(stalled)
    }

    /// Records withdrawals, and waits until every stream has received all of them.
    async fn burst(&self, readers: &Readers, number: usize) -> Result<Burst, CliError> {
        let acknowledged = Arc::new(Mutex::new(HashMap::new()));
        let cpu_before = self.server.cpu()?;
        let started = Instant::now();
        let withdrawals = self.args.fanout_withdrawals;
        let recording = self.record("burst", number, withdrawals, Arc::clone(&acknowledged));
        let receiving = readers.receive(withdrawals);
        let (write_seconds, receipts) = tokio::try_join!(recording, receiving)?;
        let seconds = started.elapsed().as_secs_f64();
        let cpu_seconds = (self.server.cpu()? - cpu_before).as_secs_f64();
        let acknowledged = std::mem::take(&mut *acknowledged.lock());
        let mut burst = Burst { bursts: 1, seconds, write_seconds, cpu_seconds, ..Burst::new()? };
        burst.withdrawals = acknowledged.len() as u64;
        burst.take(&acknowledged, &receipts)?;
        Ok(burst)
    }

    /// Records withdrawals and returns the duration in seconds. `key_prefix` is for idempotency keys.
    async fn record(
        &self,
        key_prefix: &'static str,
        round: usize,
        withdrawals: usize,
        acknowledged: Arc<Mutex<HashMap<u64, Instant>>>,
    ) -> Result<f64, CliError> {
        let started = Instant::now();
        let next = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        for caller in 0..IN_FLIGHT {
            let channel = self.writers[caller % self.writers.len()].clone();
            let mut client = ConsentServiceClient::new(channel);
            let (next, acknowledged) = (Arc::clone(&next), Arc::clone(&acknowledged));
            let acts = Arc::clone(&self.acts);
            let channels: Vec<_> =
                self.catalog.channels.iter().map(|channel| channel.key.clone()).collect();
            let (rate, count) = (self.args.fanout_rate, withdrawals as u64);
            tasks.spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return Ok(());
                    }
                    if let Some(rate) = rate {
                        let due =
                            started + Duration::from_secs_f64(number as f64 / f64::from(rate));
                        tokio::time::sleep_until(due.into()).await;
                    }
                    let key = format!("{key_prefix}-{round}-{number}");
                    let request = withdrawal(&acts, &channels, number, key);
                    let index = client.record_consent(request).await?.into_inner().index;
                    // Taken before the lock, whose wait is not part of the latency.
                    let at = Instant::now();
                    acknowledged.lock().insert(index, at);
                }
            });
        }
        join_all(tasks).await?;
        Ok(started.elapsed().as_secs_f64())
    }
}

async fn put_catalog(catalog: &CatalogFile, channel: Channel) -> Result<(), CliError> {
    let mut client = CatalogServiceClient::new(channel);
    for namespace in catalog.namespaces.iter().cloned().map(Some) {
        client.put_namespace(PutNamespaceRequest { namespace, ..Default::default() }).await?;
    }
    for channel in catalog.channels.iter().cloned().map(Some) {
        client.put_channel(PutChannelRequest { channel, ..Default::default() }).await?;
    }
    for party in catalog.parties.iter().cloned().map(Some) {
        client.put_party(PutPartyRequest { party, ..Default::default() }).await?;
    }
    for purpose in catalog.purposes.iter().cloned().map(Some) {
        let request = PutPurposeRequest { purpose, ..PutPurposeRequest::default() };
        client.put_purpose(request).await?;
    }
    Ok(())
}

/// Records acts before the measurement, and returns one act of each data subject.
async fn history(
    catalog: &CatalogFile,
    channel: Channel,
) -> Result<Vec<RecordConsentRequest>, CliError> {
    let plan = Plan::of(catalog).ok_or_else(|| CliError::failed("the catalogue is empty"))?;
    let traffic = Traffic::new(plan, 1, SUBJECTS, generate::start()?);
    let acts: Vec<RecordConsentRequest> = traffic.take(ACTS_BEFORE).collect();
    let bar = progress::bar(Some(ACTS_BEFORE as u64), "recording the history");
    let client = ConsentServiceClient::new(channel);
    let mut by_subject = HashMap::new();
    for batch in acts.chunks(IN_FLIGHT) {
        let mut tasks = JoinSet::new();
        for act in batch {
            let (mut client, request) = (client.clone(), act.clone());
            tasks.spawn(async move { client.record_consent(request).await.map(drop) });
            by_subject.entry(act.subject.clone()).or_insert_with(|| act.clone());
        }
        join_all(tasks).await?;
        bar.inc(batch.len() as u64);
    }
    bar.finish_and_clear();
    let mut acts: Vec<RecordConsentRequest> = by_subject.into_values().collect();
    acts.sort_by(|one, other| one.subject.cmp(&other.subject));
    Ok(acts)
}

/// A withdrawal of one data subject, in turns from one channel and from all.
fn withdrawal(
    acts: &[RecordConsentRequest],
    channels: &[String],
    number: u64,
    idempotency_key: String,
) -> RecordConsentRequest {
    let number = usize::try_from(number).unwrap_or(0);
    let channel = channels.get(number % (channels.len() + 1));
    let scope = proto::Scope {
        purpose: PURPOSE.to_owned(),
        channel: channel.map_or("*", String::as_str).to_owned(),
    };
    let change = proto::Change {
        action: proto::Action::Withdraw.into(),
        scope: Some(scope),
        ..Default::default()
    };
    let act = acts[number % acts.len()].clone();
    RecordConsentRequest {
        changes: vec![change],
        actor: proto::Actor::Subject.into(),
        effective_at: None,
        idempotency_key,
        ..act
    }
}

/// Opens streams over connections, some at a time, and waits until each has caught up.
async fn open(
    channels: &[Channel],
    requests: Vec<WatchRequest>,
) -> Result<Vec<(usize, Streaming<WatchResponse>)>, CliError> {
    let mut opened = Vec::with_capacity(requests.len());
    let mut tasks = JoinSet::new();
    for (number, request) in requests.into_iter().enumerate() {
        let mut client = WatchServiceClient::new(channels[number % channels.len()].clone());
        tasks.spawn(async move {
            let mut stream = client.watch(request).await?.into_inner();
            // The first message of a new stream is its progress.
            stream.message().await?;
            Ok::<_, tonic::Status>((number, stream))
        });
        if tasks.len() >= OPENING
            && let Some(joined) = tasks.join_next().await
        {
            opened.push(joined.map_err(failed)??);
        }
    }
    while let Some(joined) = tasks.join_next().await {
        opened.push(joined.map_err(failed)??);
    }
    Ok(opened)
}

/// An event as received by a stream.
struct Receipt {
    stream: usize,
    index: u64,
    at: Instant,
}

async fn read(
    number: usize,
    mut stream: Streaming<WatchResponse>,
    receipts: mpsc::UnboundedSender<Receipt>,
) {
    while let Ok(Some(message)) = stream.message().await {
        if let Some(Message::Consent(event)) = message.message {
            let receipt = Receipt { stream: number, index: event.index, at: Instant::now() };
            if receipts.send(receipt).is_err() {
                return;
            }
        }
    }
}

async fn read_other(mut stream: Streaming<WatchResponse>, unexpected: Arc<Unexpected>) {
    loop {
        match stream.message().await {
            Ok(Some(message)) if matches!(message.message, Some(Message::Progress(_))) => {}
            Ok(Some(_)) => _ = unexpected.events.fetch_add(1, Ordering::Relaxed),
            // An ended stream would make the figures too good.
            Ok(None) | Err(_) => {
                unexpected.ends.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
    }
}

/// Events and ends of streams that should receive no withdrawals.
#[derive(Debug, Default)]
struct Unexpected {
    events: AtomicU64,
    ends: AtomicU64,
}

/// The open streams that are read.
struct Readers {
    /// Numbers of the streams that receive the withdrawals.
    numbers: Vec<usize>,
    receipts: tokio::sync::Mutex<mpsc::UnboundedReceiver<Receipt>>,
    unexpected: Arc<Unexpected>,
    /// Resident memory of the server for one stream.
    stream_bytes: f64,
    _tasks: JoinSet<()>,
}

impl Readers {
    /// Waits until each stream has received `each` events, and returns them in the order of arrival.
    async fn receive(&self, each: usize) -> Result<HashMap<usize, Vec<Receipt>>, CliError> {
        let mut receipts = self.receipts.lock().await;
        let mut by_stream: HashMap<usize, Vec<Receipt>> =
            self.numbers.iter().map(|number| (*number, Vec::with_capacity(each))).collect();
        for _ in 0..each * self.numbers.len() {
            let receipt = timeout(PATIENCE, receipts.recv()).await.ok().flatten();
            let receipt =
                receipt.ok_or_else(|| CliError::failed("not everything was delivered"))?;
            by_stream.entry(receipt.stream).or_default().push(receipt);
        }
        Ok(by_stream)
    }

    /// Fails if a stream without the withdrawals received an event or ended.
    fn check_others(&self) -> Result<(), CliError> {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        match (count(&self.unexpected.events), count(&self.unexpected.ends)) {
            (0, 0) => Ok(()),
            (events, ends) => Err(CliError::failed(format!(
                "{events} events were delivered to other streams, and {ends} of those ended"
            ))),
        }
    }
}

/// The results of one or more bursts.
struct Burst {
    bursts: u64,
    withdrawals: u64,
    deliveries: u64,
    /// Deliveries before the acknowledgement of their write; they count as no time.
    early: u64,
    /// Until the last delivery.
    seconds: f64,
    /// Until the last acknowledgement.
    write_seconds: f64,
    cpu_seconds: f64,
    latencies_ns: Histogram<u64>,
}

impl Burst {
    fn new() -> Result<Self, CliError> {
        Ok(Self {
            bursts: 0,
            withdrawals: 0,
            deliveries: 0,
            early: 0,
            seconds: 0.0,
            write_seconds: 0.0,
            cpu_seconds: 0.0,
            latencies_ns: new_histogram()?,
        })
    }

    /// Adds the receipts of a burst. Each stream must have received all acknowledged events in order.
    fn take(
        &mut self,
        acknowledged: &HashMap<u64, Instant>,
        by_stream: &HashMap<usize, Vec<Receipt>>,
    ) -> Result<(), CliError> {
        for (stream, receipts) in by_stream {
            let in_order = receipts.windows(2).all(|pair| pair[0].index < pair[1].index);
            if !in_order || receipts.len() != acknowledged.len() {
                return Err(CliError::failed(format!(
                    "stream {stream} received {} of {} events, in order: {in_order}",
                    receipts.len(),
                    acknowledged.len()
                )));
            }
            for receipt in receipts {
                let Some(at) = acknowledged.get(&receipt.index) else {
                    let index = receipt.index;
                    return Err(CliError::failed(format!("event {index} was not recorded here")));
                };
                self.early += u64::from(receipt.at < *at);
                let took = receipt.at.saturating_duration_since(*at);
                self.latencies_ns
                    .saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
                self.deliveries += 1;
            }
        }
        Ok(())
    }

    fn add(&mut self, other: &Self) -> Result<(), CliError> {
        self.bursts += other.bursts;
        self.withdrawals += other.withdrawals;
        self.deliveries += other.deliveries;
        self.early += other.early;
        self.seconds += other.seconds;
        self.write_seconds += other.write_seconds;
        self.cpu_seconds += other.cpu_seconds;
        self.latencies_ns.add(&other.latencies_ns).map_err(failed)
    }

    fn deliveries_a_burst(&self) -> f64 {
        self.deliveries as f64 / self.bursts as f64
    }

    fn early_percent(&self) -> f64 {
        100.0 * self.early as f64 / self.deliveries as f64
    }

    fn per_second(&self) -> f64 {
        self.withdrawals as f64 / self.write_seconds
    }

    fn deliveries_per_second(&self) -> f64 {
        self.deliveries as f64 / self.seconds
    }

    fn cpu_us(&self) -> f64 {
        self.cpu_seconds * 1e6 / self.deliveries as f64
    }

    fn us(&self, quantile: f64) -> f64 {
        self.latencies_ns.value_at_quantile(quantile) as f64 / 1_000.0
    }
}
