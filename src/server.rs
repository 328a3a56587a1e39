//! Running the server: open, recover, wire the layers, serve, drain.
//!
//! Readable top to bottom: [`serve`] is the life of the process. [`crate::shutdown`] says in which order
//! its tasks end.

mod ephemeral;
mod opening;

use std::{
    future, io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use axum::Router;
use futures_util::{FutureExt, Stream, StreamExt};
use http::{HeaderName, HeaderValue, Method, header};
use thiserror::Error;
use tokio::{
    net::{TcpListener, TcpSocket},
    signal::unix::{Signal, SignalKind, signal},
    sync::{oneshot, watch},
    task::spawn_blocking,
};
use tokio_util::sync::CancellationToken;
use tonic::{
    service::{Routes, RoutesBuilder},
    transport::{Identity, Server, ServerTlsConfig, server::TcpIncoming},
};
use tonic_health::{
    ServingStatus,
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};
use tonic_web::GrpcWebLayer;
use tower::{
    layer::util::{Identity as NoLayer, Stack},
    util::{Either, option_layer},
};
use tower_http::cors::{AllowOrigin, CorsLayer};

use self::{ephemeral::EphemeralError, opening::Opening};
use crate::{
    config::{ConfigError, ServeConfig, TlsFiles},
    grpc::{
        audit::Audit, catalog::Catalog, check::Check, consent::Consent, import::Imports,
        layer::RequestLayer, privacy::Privacy, watch::Watch, wire::WatchServer,
    },
    listener,
    node::{LedgerId, Node, NodeConfig, OpenError, Progress, survey},
    proto::{
        self, audit_service_server as audit, catalog_service_server as catalog,
        check_service_server as check, consent_service_server as consent,
        privacy_service_server as privacy, watch_service_server as watcher,
    },
    shutdown::{Stage, Task},
    storage::disk::RealDisk,
    telemetry::{self, Metrics, Phase, Step, TelemetryError},
    tiles,
    tlog::key::VerifierKey,
    web::{WebError, causes, target::Targets},
    webhook::{Webhooks, retry::Retry, sender::Sender, worker::STOP_GRACE},
    witness::client::{Asking, Witnesses},
};

/// Services that go on answering when writes are stopped.
const READING: [&str; 4] = ["", check::SERVICE_NAME, watcher::SERVICE_NAME, audit::SERVICE_NAME];
/// Services whose main job is to write.
const WRITING: [&str; 3] = [consent::SERVICE_NAME, catalog::SERVICE_NAME, privacy::SERVICE_NAME];

/// Not a service: the health of taking grants, which a clock in doubt ends for a while.
const GRANTS: &str = "grants";

/// How many connections wait to be accepted.
const LISTEN_BACKLOG: u32 = 1_024;

/// The most connections of the metrics listener at a time.
const METRICS_CONNECTIONS_MAX: usize = 64;

/// How many TCP keepalive probes go unanswered before a connection is given up.
const KEEPALIVE_PROBES: u32 = 4;

/// How long the server accepts no connection after it failed to accept one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a browser may cache the answer to a preflight request.
const CORS_AGE_MAX: Duration = Duration::from_secs(3_600);

/// How long webhooks may take to end. Each waits [`STOP_GRACE`] for its tries, but may have to finish a
/// read of the ledger first.
const WEBHOOKS_END_TIME_MAX: Duration = STOP_GRACE.saturating_mul(2);

/// Why a server did not start, or ended.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The configuration is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Logs, traces or metrics can not be set up.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// Signals can not be received.
    #[error("cannot listen for signals: {0}")]
    Signals(io::Error),
    /// The data directory can not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// There is no ephemeral ledger.
    #[error(transparent)]
    Ephemeral(#[from] EphemeralError),
    /// An address can not be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// A file of the TLS identity can not be read.
    #[error("cannot read {}: {source}", .path.display())]
    TlsFile {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The TLS identity is unusable, or the transport failed.
    #[error("the transport failed: {}", causes(.0))]
    Transport(#[from] tonic::transport::Error),
    /// The descriptors of reflection are unusable.
    #[error("cannot set up reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// Witnesses can not be asked.
    #[error("witnesses can not be asked: {0}")]
    Witnesses(#[from] WebError),
    /// Webhooks can not be delivered.
    #[error("webhooks can not be delivered: {0}")]
    Webhooks(WebError),
    /// A task panicked.
    #[error("a task of the server ended unexpectedly: {0}")]
    Task(#[from] tokio::task::JoinError),
    /// The task of the gRPC server panicked.
    #[error("the gRPC server ended unexpectedly")]
    Ended,
}

/// Serves until SIGTERM or SIGINT, then finishes the requests in flight. A second signal ends the
/// process at once. `announce` gets the addresses once everything answers.
///
/// # Errors
/// Why the server did not start, or ended.
pub async fn serve(
    mut config: ServeConfig,
    announce: impl FnOnce(&Listens) -> io::Result<()>,
) -> Result<(), ServeError> {
    config.check()?;
    let _telemetry = telemetry::init(&config.telemetry)?;
    let mut stop = StopSignals::new().map_err(ServeError::Signals)?;
    let _scratch = if config.ephemeral {
        Some(ephemeral::make(&mut config.node).await?)
    } else {
        // No port is bound for a directory without a ledger.
        survey(&config.node, &RealDisk)?;
        None
    };
    raise_descriptor_limit();
    let metrics = Arc::new(Metrics::new());
    let (phase, _) = watch::channel(Phase::Opening(None));

    // Operators can follow a long rebuild.
    let observed = Observed::default();
    let (metrics_address, metrics_listener) =
        serve_metrics(config.metrics_listen, &metrics, &phase, Arc::clone(&observed))?.unzip();
    let tls = config.tls.as_ref().map(read_identity).transpose()?;
    let bound = Bound::new(config.listen)?;
    let address = bound.address;
    let listener = bound.listen()?;
    let tiles = config.tiles_listen.map(Bound::new).transpose()?;
    let health = Health::new(phase.clone());
    let (listener, first) =
        opening::shared(listener).map_err(|source| ServeError::Listen { address, source })?;
    let opening = Opening::serve(&config, tls.clone(), first, &metrics, health.clone()).await?;
    let node = tokio::select! {
        node = open(config.node.clone(), Arc::clone(&metrics), phase.clone()) => node?,
        // An ephemeral ledger is open in a moment, and a thread that opens it would make files anew.
        () = stop.next(), if !config.ephemeral => {
            // The files are as after a crash, from which the next start recovers. Waiting for a long
            // rebuild would be of no use.
            tracing::info!("stopped while opening");
            leave_at_once(&config, 0);
        }
    };
    observed.get_or_init(|| Arc::downgrade(&node));
    if let Err(error) = ephemeral::apply(&node, &config.catalog).await {
        spawn_blocking(move || node.close()).await?;
        return Err(error.into());
    }

    let (tiles_address, tiles_listener) =
        tiles.map(|bound| serve_tiles(bound, &node)).transpose()?.unzip();
    metrics_listener.into_iter().chain(tiles_listener).for_each(|listener| node.adopt(listener));
    opening.end().await?;
    let listening = Listening { address, listener, tls, metrics_address, tiles_address, stop };
    let result = serve_node(&config, listening, &node, &metrics, &health, announce).await;
    // After a failure everything is still open.
    spawn_blocking(move || node.close()).await?;
    tracing::info!("closed");
    result
}

/// Ends the process without closing anything.
fn leave_at_once(config: &ServeConfig, code: i32) -> ! {
    if config.ephemeral {
        ephemeral::remove(&config.node.data_dir);
    }
    std::process::exit(code)
}

/// Raises the limit of open files to its maximum. Connections use file descriptors up, and a ledger
/// that can not open its next segment takes no more writes.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

/// Where a server listens, and what it serves.
#[derive(Debug, Clone)]
pub struct Listens {
    /// Address of the gRPC listener.
    pub address: SocketAddr,
    /// Address of the metrics.
    pub metrics: Option<SocketAddr>,
    /// Address of the tiles.
    pub tiles: Option<SocketAddr>,
    /// The key that verifies checkpoints.
    pub verifier_key: VerifierKey,
    /// Identity of the ledger.
    pub ledger: LedgerId,
    /// Name of the ledger.
    pub origin: String,
}

/// What is set up before the node is open.
struct Listening {
    address: SocketAddr,
    listener: TcpListener,
    tls: Option<Identity>,
    metrics_address: Option<SocketAddr>,
    tiles_address: Option<SocketAddr>,
    stop: StopSignals,
}

/// A socket with the address that it got.
struct Bound {
    socket: TcpSocket,
    address: SocketAddr,
}

impl Bound {
    fn new(address: SocketAddr) -> Result<Self, ServeError> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        };
        let bound = socket.and_then(|socket| {
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            Ok(Self { address: socket.local_addr()?, socket })
        });
        bound.map_err(|source| ServeError::Listen { address, source })
    }

    fn listen(self) -> Result<TcpListener, ServeError> {
        let Self { socket, address } = self;
        socket.listen(LISTEN_BACKLOG).map_err(|source| ServeError::Listen { address, source })
    }
}

async fn serve_node(
    config: &ServeConfig,
    listening: Listening,
    node: &Arc<Node>,
    metrics: &Arc<Metrics>,
    health: &Health,
    announce: impl FnOnce(&Listens) -> io::Result<()>,
) -> Result<(), ServeError> {
    let Listening { address, listener, tls, metrics_address, tiles_address, mut stop } = listening;
    let drain = node.draining();
    // Set before anybody can ask.
    let mut trust = node.clock_trust();
    health.set(phase_of(*trust.borrow_and_update())).await;
    let routes = routes(config, node, metrics, health, &drain)?;
    let layer = RequestLayer::new(config.limits, Arc::clone(metrics), drain.clone());

    let server = layered(config, tls, layer)?.add_routes(routes).serve_with_incoming_shutdown(
        accepted(incoming(config, listener)),
        drain.clone().cancelled_owned(),
    );
    let (report_end, mut served) = oneshot::channel();
    let serving = async move {
        // The receiver is gone only if the server failed to start.
        let _ = report_end.send(server.await);
    };
    node.adopt(Task::spawn("gRPC server", Stage::Draining, config.drain_timeout, serving));

    if let Some(witnesses) = start_witnesses(config, node, metrics)? {
        let asking = async move {
            let _witnesses = witnesses;
            future::pending::<()>().await;
        };
        node.adopt(Task::spawn("witnesses", Stage::Witnesses, Duration::ZERO, asking));
    }
    let delivering = start_webhooks(config, node, metrics)?.ended();
    node.adopt(Task::spawn("webhooks", Stage::Draining, WEBHOOKS_END_TIME_MAX, delivering));
    let listens = Listens {
        address,
        metrics: metrics_address,
        tiles: tiles_address,
        verifier_key: node.verifier_key().clone(),
        ledger: LedgerId(node.ledger().ledger_id),
        origin: node.ledger().origin.clone(),
    };
    if let Err(error) = announce(&listens) {
        tracing::warn!(%error, "cannot write to standard output");
    }
    tracing::info!(%address, "listening");

    tokio::select! {
        () = stop.next() => {}
        result = &mut served => return Ok(result.map_err(|_| ServeError::Ended)??),
        () = follow(node.writes_stopped(), trust, health).then(|()| future::pending()) => {}
    }
    tracing::info!("draining");
    health.set(Phase::Draining).await;
    tokio::select! {
        result = finish(node, served, metrics) => result,
        () = stop.next() => {
            tracing::warn!("second signal, leaving at once");
            leave_at_once(config, 1);
        }
    }
}

/// Ends the node and its tasks, and says how the gRPC server ended.
async fn finish(
    node: &Arc<Node>,
    served: oneshot::Receiver<Result<(), tonic::transport::Error>>,
    metrics: &Metrics,
) -> Result<(), ServeError> {
    let closed = Arc::clone(node);
    let closing = spawn_blocking(move || closed.close());
    match served.await {
        Ok(result) => result?,
        Err(_) => tracing::warn!(
            requests = metrics.requests_in_flight.get(),
            streams = metrics.streams_open.get(),
            "requests were still in flight when the time to drain was over"
        ),
    }
    Ok(closing.await?)
}

/// Starts to deliver subscriptions over HTTP.
fn start_webhooks(
    config: &ServeConfig,
    node: &Arc<Node>,
    metrics: &Arc<Metrics>,
) -> Result<Webhooks, ServeError> {
    let ca = config.webhook_ca.as_ref().map(read_file).transpose()?;
    let targets = Targets::new(config.node.webhook_allow.clone());
    let sender = Sender::new(targets, config.webhook_timeout, ca.as_deref());
    let retry = Retry {
        pause_min: config.webhook_retry_min,
        pause_max: config.webhook_retry_max,
        retry_for: config.webhook_retry_for,
    };
    let sender = sender.map_err(ServeError::Webhooks)?;
    Ok(Webhooks::start(node, sender, retry, metrics, &node.draining()))
}

/// Starts to bring checkpoints to witnesses, if there are any.
fn start_witnesses(
    config: &ServeConfig,
    node: &Arc<Node>,
    metrics: &Arc<Metrics>,
) -> Result<Option<Witnesses>, ServeError> {
    let policy = &config.node.witness_policy;
    for witness in policy.passed_over() {
        tracing::warn!(
            witness,
            "a witness is passed over: its kind of key can not be verified here"
        );
    }
    if policy.witnesses().is_empty() {
        return Ok(None);
    }
    let logs = policy.logs();
    if !logs.is_empty() && !logs.contains(node.verifier_key()) {
        tracing::warn!(
            key = %node.verifier_key(),
            "the policy of witnesses names logs, and none of them is this ledger"
        );
    }
    let ca = config.witness_ca.as_ref().map(read_file).transpose()?;
    let asking = Asking::new(config.node.witness_timeout, ca.as_deref())?;
    Ok(Some(Witnesses::start(node, policy, &asking, metrics)))
}

/// Connections, with a pause after each failure to accept one: while the process has no file descriptor
/// left, every attempt fails at once, and a loop without a pause would take a whole core.
fn accepted<C>(incoming: impl Stream<Item = io::Result<C>>) -> impl Stream<Item = io::Result<C>> {
    incoming.then(async |connection| {
        if let Err(error) = &connection {
            tracing::warn!(%error, "a connection could not be accepted");
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
        connection
    })
}

/// Opens the node, and sets in `phase` how far that has come.
async fn open(
    config: NodeConfig,
    metrics: Arc<Metrics>,
    phase: watch::Sender<Phase>,
) -> Result<Arc<Node>, ServeError> {
    tracing::info!(data_dir = %config.data_dir.display(), "opening");
    let mut follow = move |progress| {
        phase.send_replace(Phase::Opening(Some(step(progress))));
    };
    let open = move || Node::open_on(Arc::new(RealDisk), &config, metrics, &mut follow);
    let node = spawn_blocking(open).await??;
    tracing::info!(revision = node.revision(), "open");
    Ok(node)
}

fn step(progress: Progress) -> Step {
    let (name, (done, total)) = match progress {
        Progress::Vault(done, total) => ("vault", (done, total)),
        Progress::View(done, total) => ("view", (done, total)),
        Progress::Tree(done, total) => ("tree", (done, total)),
        Progress::Forms(done, total) => ("canonical forms", (done, total)),
    };
    let percent = u128::from(done) * 100 / u128::from(total.max(1));
    Step { name, percent: u8::try_from(percent).unwrap_or(100) }
}

/// The node whose state a scrape of the metrics reads, once it is open.
type Observed = Arc<OnceLock<Weak<Node>>>;

fn serve_metrics(
    listen: Option<SocketAddr>,
    metrics: &Arc<Metrics>,
    phase: &watch::Sender<Phase>,
    observed: Observed,
) -> Result<Option<(SocketAddr, Task)>, ServeError> {
    let Some(address) = listen else { return Ok(None) };
    let bound = Bound::new(address)?;
    let address = bound.address;
    let listener = bound.listen()?;
    let observe = Arc::new(move || {
        if let Some(node) = observed.get().and_then(Weak::upgrade) {
            node.observe();
        }
    });
    let router = telemetry::router(Arc::clone(metrics), phase.subscribe(), observe);
    Ok(Some((address, serve_pages("metrics", listener, router, METRICS_CONNECTIONS_MAX))))
}

fn serve_tiles(bound: Bound, node: &Arc<Node>) -> Result<(SocketAddr, Task), ServeError> {
    let address = bound.address;
    let listener = bound.listen()?;
    let router = tiles::router(Arc::clone(node));
    Ok((address, serve_pages("tiles", listener, router, tiles::CONNECTIONS_MAX)))
}

/// Serves pages that are only read. They answer during a drain, too, so that it can be observed.
fn serve_pages(
    name: &'static str,
    listener: TcpListener,
    router: Router,
    connections_max: usize,
) -> Task {
    let never = CancellationToken::new();
    let serving = listener::serve(listener, None, router, connections_max, never);
    Task::spawn(name, Stage::Ended, Duration::ZERO, serving)
}

/// Connections with TCP keepalive, which finds dead peers. HTTP/2 pings would cost every request a
/// little, and would drop a reader that is only slow.
fn incoming(config: &ServeConfig, listener: TcpListener) -> TcpIncoming {
    TcpIncoming::from(listener)
        .with_nodelay(Some(true))
        .with_keepalive(Some(config.keepalive_interval))
        .with_keepalive_interval(Some(config.keepalive_timeout / KEEPALIVE_PROBES))
        .with_keepalive_retries(Some(KEEPALIVE_PROBES))
}

/// The layers around every service, the outermost last.
type Layers = Stack<RequestLayer, Stack<GrpcWebLayer, Stack<Either<CorsLayer, NoLayer>, NoLayer>>>;

/// A server with its layers. The request layer is the innermost, so that browsers can read what it
/// refuses: gRPC-Web translates the refusal, and CORS permits them to read it.
fn layered(
    config: &ServeConfig,
    tls: Option<Identity>,
    requests: RequestLayer,
) -> Result<Server<Layers>, ServeError> {
    let server = Server::builder()
        // gRPC-Web of a browser without TLS is HTTP/1.1.
        .accept_http1(true)
        .max_concurrent_streams(config.connection_streams_max);
    let server = match tls {
        None => server,
        Some(identity) => server.tls_config(ServerTlsConfig::new().identity(identity))?,
    };
    Ok(server
        .layer(option_layer(cors(&config.cors_origins)))
        .layer(GrpcWebLayer::new())
        .layer(requests))
}

fn read_identity(files: &TlsFiles) -> Result<Identity, ServeError> {
    Ok(Identity::from_pem(read_file(&files.cert)?, read_file(&files.key)?))
}

fn read_file(path: &PathBuf) -> Result<Vec<u8>, ServeError> {
    std::fs::read(path).map_err(|source| ServeError::TlsFile { path: path.clone(), source })
}

/// Permissions of web pages of these origins; no layer if there are none.
fn cors(origins: &[String]) -> Option<CorsLayer> {
    let origins: Vec<HeaderValue> =
        origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()).collect();
    if origins.is_empty() {
        return None;
    }
    let named = |names: &[&'static str]| -> Vec<HeaderName> {
        names.iter().copied().map(HeaderName::from_static).collect()
    };
    let mut request_headers = named(&["x-grpc-web", "x-user-agent", "grpc-timeout"]);
    request_headers.extend([header::CONTENT_TYPE, header::AUTHORIZATION]);
    Some(
        CorsLayer::new()
            .allow_origin(AllowOrigin::list(origins))
            .allow_methods([Method::POST])
            .allow_headers(request_headers)
            .expose_headers(named(&["grpc-status", "grpc-message", "grpc-status-details-bin"]))
            .max_age(CORS_AGE_MAX),
    )
}

fn routes(
    config: &ServeConfig,
    node: &Arc<Node>,
    metrics: &Arc<Metrics>,
    health: &Health,
    drain: &CancellationToken,
) -> Result<Routes, ServeError> {
    let node = || Arc::clone(node);
    let size = usize::try_from(config.message_bytes_max).unwrap_or(usize::MAX);
    let imports = Imports { limits: config.limits, drain: drain.clone() };
    let watching = Watch { node: node(), metrics: Arc::clone(metrics), drain: drain.clone() };
    let mut routes = RoutesBuilder::default();
    routes
        .add_service(
            check::CheckServiceServer::new(Check { node: node(), drain: drain.clone() })
                .max_decoding_message_size(size),
        )
        .add_service(
            consent::ConsentServiceServer::new(Consent { node: node(), imports })
                .max_decoding_message_size(size),
        )
        .add_service(WatchServer::new(watching, size))
        .add_service(
            audit::AuditServiceServer::new(Audit::new(node())).max_decoding_message_size(size),
        )
        .add_service(
            catalog::CatalogServiceServer::new(Catalog { node: node() })
                .max_decoding_message_size(size),
        )
        .add_service(
            privacy::PrivacyServiceServer::new(Privacy { node: node() })
                .max_decoding_message_size(size),
        )
        .add_service(health.service())
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);
    Ok(routes.routes())
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

/// The health of the server: over gRPC for each service, over HTTP as a page.
#[derive(Debug, Clone)]
struct Health {
    reporter: HealthReporter,
    phase: watch::Sender<Phase>,
}

impl Health {
    fn new(phase: watch::Sender<Phase>) -> Self {
        Self { reporter: HealthReporter::new(), phase }
    }

    fn service(&self) -> HealthServer<HealthService> {
        HealthServer::new(HealthService::from_health_reporter(self.reporter.clone()))
    }

    async fn set(&self, phase: Phase) {
        let status = |serving| {
            if serving { ServingStatus::Serving } else { ServingStatus::NotServing }
        };
        let granting = phase == Phase::Serving;
        let writing = granting || phase == Phase::ClockInDoubt;
        let reading = writing || phase == Phase::WritesStopped;
        for (services, serving) in
            [(&READING[..], reading), (&WRITING[..], writing), (&[GRANTS][..], granting)]
        {
            for service in services {
                self.reporter.set_service_status(service, status(serving)).await;
            }
        }
        self.phase.send_replace(phase);
    }
}

/// The phase of a server that takes writes.
fn phase_of(is_clock_trusted: bool) -> Phase {
    if is_clock_trusted { Phase::Serving } else { Phase::ClockInDoubt }
}

/// Reports it when the clock is in doubt or trusted again, and when writes stop. Those do not start again
/// until the process is restarted.
async fn follow(
    mut stopped: watch::Receiver<Option<String>>,
    mut trust: watch::Receiver<bool>,
    health: &Health,
) {
    loop {
        tokio::select! {
            biased;
            stopped = stopped.wait_for(Option::is_some) => {
                if stopped.is_ok() {
                    health.set(Phase::WritesStopped).await;
                }
                return;
            }
            changed = trust.changed() => {
                if changed.is_err() {
                    return;
                }
                let is_trusted = *trust.borrow_and_update();
                health.set(phase_of(is_trusted)).await;
            }
        }
    }
}

/// SIGTERM and SIGINT.
pub(crate) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests;
