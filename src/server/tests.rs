//! The server over TCP: health by phase, reflection, gRPC-Web, TLS and drain.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};
use tonic_types::StatusExt;

use super::*;

const SERVING: i32 = 1;
const NOT_SERVING: i32 = 2;

/// A server with all layers, over health and reflection alone.
struct Running {
    address: SocketAddr,
    health: Health,
    drain: CancellationToken,
    serving: tokio::task::JoinHandle<Result<(), tonic::transport::Error>>,
}

async fn running(config: &ServeConfig) -> Running {
    let metrics = Arc::new(Metrics::new());
    let drain = CancellationToken::new();
    let (phase, _) = watch::channel(Phase::Opening(None));
    let health = Health::new(phase);
    let mut routes = RoutesBuilder::default();
    routes.add_service(health.service()).add_service(reflection().build_v1().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let layer = RequestLayer::new(config.limits, metrics, drain.clone());
    let tls = config.tls.as_ref().map(|files| read_identity(files).unwrap());
    let server = layered(config, tls, layer)
        .unwrap()
        .add_routes(routes.routes())
        .serve_with_incoming_shutdown(TcpIncoming::from(listener), drain.clone().cancelled_owned());
    health.set(Phase::Serving).await;
    Running { address, health, drain, serving: tokio::spawn(server) }
}

impl Running {
    async fn channel(&self) -> Result<Channel, tonic::transport::Error> {
        Endpoint::from_shared(format!("http://{}", self.address)).unwrap().connect().await
    }

    async fn status_of(&self, service: &str) -> i32 {
        let mut client = HealthClient::new(self.channel().await.unwrap());
        let request = HealthCheckRequest { service: service.to_owned() };
        client.check(request).await.unwrap().into_inner().status
    }

    /// One HTTP/1.1 request, and the whole answer.
    async fn http1(&self, head: &str, body: &[u8]) -> String {
        let mut stream = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let head = format!(
            "{head}\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }
}

#[tokio::test]
async fn health_follows_the_phase_service_by_service() {
    let server = running(&ServeConfig::default()).await;
    for (phase, reading, writing, granting) in [
        (Phase::Serving, SERVING, SERVING, SERVING),
        (Phase::ClockInDoubt, SERVING, SERVING, NOT_SERVING),
        (Phase::WritesStopped, SERVING, NOT_SERVING, NOT_SERVING),
        (Phase::Draining, NOT_SERVING, NOT_SERVING, NOT_SERVING),
    ] {
        server.health.set(phase).await;
        for service in READING {
            assert_eq!(server.status_of(service).await, reading, "{service:?} in {phase:?}");
        }
        for service in WRITING {
            assert_eq!(server.status_of(service).await, writing, "{service:?} in {phase:?}");
        }
        assert_eq!(server.status_of(GRANTS).await, granting, "{phase:?}");
        assert_eq!(*server.health.phase.borrow(), phase);
    }
}

#[tokio::test]
async fn health_turns_when_writes_stop() {
    let server = running(&ServeConfig::default()).await;
    let (sender, receiver) = watch::channel(None);
    let (_trust, trust) = watch::channel(true);
    sender.send_replace(Some("a sync failed".to_owned()));
    follow(receiver, trust, &server.health).await;
    assert_eq!(server.status_of("consent.v1.ConsentService").await, NOT_SERVING);
    assert_eq!(server.status_of("consent.v1.CheckService").await, SERVING);
}

#[tokio::test]
async fn reflection_knows_every_service() {
    let server = running(&ServeConfig::default()).await;
    let mut client = ServerReflectionClient::new(server.channel().await.unwrap());
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let requests = tokio_stream::once(request);
    let mut answers = client.server_reflection_info(requests).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else { panic!("{answer:?}") };
    let names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
    for service in READING.iter().chain(&WRITING).filter(|service| !service.is_empty()) {
        assert!(names.iter().any(|name| name == service), "{service} is not in {names:?}");
    }
    assert!(reflection().build_v1alpha().is_ok());
}

#[tokio::test]
async fn a_drain_ends_streams_and_connections() {
    let server = running(&ServeConfig::default()).await;
    let mut client = HealthClient::new(server.channel().await.unwrap());
    let request = HealthCheckRequest { service: String::new() };
    let mut watching = client.watch(request).await.unwrap().into_inner();
    assert_eq!(watching.message().await.unwrap().unwrap().status, SERVING);
    server.health.set(Phase::Draining).await;
    server.drain.cancel();
    // A status that was set before the end is still delivered.
    assert_eq!(watching.message().await.unwrap().unwrap().status, NOT_SERVING);
    let end = watching.message().await.unwrap_err();
    assert_eq!(end.get_details_error_info().unwrap().reason, "SHUTTING_DOWN");
    let address = server.address;
    let ended = tokio::time::timeout(Duration::from_secs(60), server.serving).await;
    ended.unwrap().unwrap().unwrap();
    let late = Endpoint::from_shared(format!("http://{address}")).unwrap();
    assert!(late.connect().await.is_err());
}

const GRPC_WEB: &str = "POST /grpc.health.v1.Health/Check HTTP/1.1\r\n\
                        content-type: application/grpc-web+proto\r\norigin: https://a.example";
const EMPTY_FRAME: [u8; 5] = [0; 5];

#[tokio::test]
async fn browsers_of_named_origins_may_read_answers_over_grpc_web() {
    let config = ServeConfig {
        cors_origins: vec!["https://a.example".to_owned()],
        ..ServeConfig::default()
    };
    let server = running(&config).await;
    let answer = server.http1(GRPC_WEB, &EMPTY_FRAME).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("access-control-allow-origin: https://a.example"), "{answer}");
    assert!(answer.contains("grpc-status:0"), "trailers are part of the body: {answer}");
    let other = GRPC_WEB.replace("a.example", "b.example");
    let answer = server.http1(&other, &EMPTY_FRAME).await;
    assert!(!answer.contains("access-control-allow-origin"), "{answer}");
    let preflight = "OPTIONS /grpc.health.v1.Health/Check HTTP/1.1\r\norigin: https://a.example\
                     \r\naccess-control-request-method: POST\
                     \r\naccess-control-request-headers: x-grpc-web";
    let answer = server.http1(preflight, &[]).await;
    assert!(answer.contains("access-control-allow-headers: x-grpc-web"), "{answer}");
}

#[tokio::test]
async fn no_origin_may_by_default() {
    let server = running(&ServeConfig::default()).await;
    let answer = server.http1(GRPC_WEB, &EMPTY_FRAME).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(!answer.contains("access-control"), "{answer}");
}

#[tokio::test]
async fn refusals_reach_browsers_in_their_own_protocol() {
    let mut config = ServeConfig::default();
    config.limits.requests_max = 0;
    let server = running(&config).await;
    let unknown = GRPC_WEB.replace("Health/Check", "Health/Nothing");
    let answer = server.http1(&unknown, &EMPTY_FRAME).await;
    assert!(answer.contains("content-type: application/grpc-web+proto"), "{answer}");
    assert!(answer.contains("grpc-status: 8"), "{answer}");
}

#[tokio::test]
async fn the_metrics_listener_serves_its_pages() {
    let metrics = Arc::new(Metrics::new());
    let (phase, _) = watch::channel(Phase::Serving);
    let none = serve_metrics(None, &metrics, &phase, Observed::default()).unwrap();
    assert!(none.is_none());
    let listen = Some("127.0.0.1:0".parse().unwrap());
    let (address, _listener) =
        serve_metrics(listen, &metrics, &phase, Observed::default()).unwrap().unwrap();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("application/openmetrics-text") && answer.contains("# EOF"));
    let taken = serve_metrics(Some(address), &metrics, &phase, Observed::default())
        .unwrap_err()
        .to_string();
    assert!(taken.starts_with(&format!("cannot listen on {address}: ")), "{taken}");
}

#[tokio::test]
async fn what_is_refused_is_refused_before_anything_is_opened() {
    let config = ServeConfig { listen: "0.0.0.0:0".parse().unwrap(), ..ServeConfig::default() };
    assert!(matches!(
        serve(config, |_| Ok(())).await,
        Err(ServeError::Config(ConfigError::Exposed { .. }))
    ));
}

#[tokio::test]
async fn with_an_identity_only_tls_is_spoken() {
    let fixture =
        |name| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tls").join(name);
    let (cert, key) = (fixture("localhost.cert.pem"), fixture("localhost.key.pem"));
    let trusted = Certificate::from_pem(std::fs::read(&cert).unwrap());
    let config = ServeConfig { tls: Some(TlsFiles { cert, key }), ..ServeConfig::default() };
    let server = running(&config).await;
    let tls = ClientTlsConfig::new().ca_certificate(trusted).domain_name("localhost");
    let endpoint = Endpoint::from_shared(format!("https://{}", server.address)).unwrap();
    let channel = endpoint.tls_config(tls).unwrap().connect().await.unwrap();
    let request = HealthCheckRequest { service: String::new() };
    let answer = HealthClient::new(channel).check(request.clone()).await.unwrap();
    assert_eq!(answer.into_inner().status, SERVING);
    let plain = HealthClient::new(server.channel().await.unwrap()).check(request).await;
    assert!(plain.is_err(), "{plain:?}");
}

#[test]
fn an_unusable_identity_says_why() {
    let layer = RequestLayer::new(
        ServeConfig::default().limits,
        Arc::new(Metrics::new()),
        CancellationToken::new(),
    );
    let garbage = Identity::from_pem("no certificate", "no key");
    let error = layered(&ServeConfig::default(), Some(garbage), layer).unwrap_err().to_string();
    assert!(error.starts_with("the transport failed: transport error: "), "{error}");
}

#[test]
fn a_missing_tls_file_is_named() {
    let files = TlsFiles { cert: "/no/such/cert.pem".into(), key: "/no/such/key.pem".into() };
    let error = read_identity(&files).unwrap_err().to_string();
    assert!(error.contains("/no/such/cert.pem"), "{error}");
}

#[tokio::test]
async fn what_can_not_be_accepted_does_not_spin() {
    let failed = || Err(io::Error::other("too many open files"));
    let tries = futures_util::stream::iter([Ok(1), failed(), failed(), Ok(2)]);
    let started = tokio::time::Instant::now();
    let got: Vec<_> = accepted(tries).map(Result::ok).collect().await;
    assert_eq!(got, [Some(1), None, None, Some(2)], "nothing is lost, and the order stays");
    assert!(started.elapsed() >= 2 * ACCEPT_PAUSE);
}

/// What a server that is opening answers to a check.
async fn refused(channel: Channel) -> tonic_types::ErrorInfo {
    let request = proto::CheckRequest::default();
    let refused =
        proto::check_service_client::CheckServiceClient::new(channel).check(request).await;
    let status = refused.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
    assert!(status.get_details_retry_info().unwrap().retry_delay.is_some(), "{status:?}");
    status.get_details_error_info().unwrap()
}

#[tokio::test]
async fn while_the_ledger_is_opened_the_port_says_how_far() {
    let config = ServeConfig::default();
    let (phase, _) = watch::channel(Phase::Opening(None));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (second, first) = opening::shared(listener).unwrap();
    let health = Health::new(phase.clone());
    let metrics = Arc::new(Metrics::new());
    let opening = Opening::serve(&config, None, first, &metrics, health).await.unwrap();

    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let channel = endpoint.connect().await.unwrap();
    let info = refused(channel.clone()).await;
    assert_eq!((&*info.reason, info.metadata.len()), ("OPENING", 0));
    phase.send_replace(Phase::Opening(Some(step(Progress::View(374, 1_000)))));
    let info = refused(channel.clone()).await;
    assert_eq!((&*info.metadata["step"], &*info.metadata["percent"]), ("view", "37"));
    let mut client = HealthClient::new(channel.clone());
    let request = HealthCheckRequest { service: String::new() };
    assert_eq!(client.check(request.clone()).await.unwrap().into_inner().status, NOT_SERVING);
    let mut watching = client.watch(request.clone()).await.unwrap().into_inner();
    assert_eq!(watching.message().await.unwrap().unwrap().status, NOT_SERVING);

    opening.end().await.unwrap();
    assert!(watching.message().await.is_err());
    // The same client reaches the server that follows, on the same port.
    let health = Health::new(phase);
    health.set(Phase::Serving).await;
    let server = Server::builder().add_service(health.service());
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(second)));
    assert_eq!(client.check(request).await.unwrap().into_inner().status, SERVING);
}
