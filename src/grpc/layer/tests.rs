//! Refusals, deadlines, panics and counts of the request layer.

use std::future::poll_fn;

use futures_util::stream;
use prost::Message;
use tokio::sync::Notify;
use tonic::Response as Answer;
use tonic_types::StatusExt;
use tower::ServiceExt;

use super::*;
use crate::proto::{
    self,
    check_service_server::{CheckService, CheckServiceServer},
    watch_service_server::{WatchService, WatchServiceServer},
};

/// A service that does as the purpose of a check says.
#[derive(Debug, Clone, Default)]
struct Fake {
    release: Arc<Notify>,
}

#[tonic::async_trait]
impl CheckService for Fake {
    async fn check(
        &self,
        request: tonic::Request<proto::CheckRequest>,
    ) -> Result<Answer<proto::CheckResponse>, Status> {
        match request.get_ref().purpose.as_str() {
            "wait" => self.release.notified().await,
            "panic" => panic!("a handler's own words"),
            "fail" => return Err(Fault::ShuttingDown.into()),
            _ => {}
        }
        Ok(Answer::new(proto::CheckResponse { revision: 7, ..Default::default() }))
    }
}

#[tonic::async_trait]
impl WatchService for Fake {
    async fn watch(
        &self,
        request: tonic::Request<proto::WatchRequest>,
    ) -> Result<Answer<tonic::codegen::BoxStream<proto::WatchResponse>>, Status> {
        let panics = request.get_ref().start_index.is_some();
        let messages = stream::unfold(0, move |count| async move {
            match count {
                0 => Some((Ok(proto::WatchResponse::default()), 1)),
                _ if panics => panic!("a stream's own words"),
                _ => std::future::pending().await,
            }
        });
        Ok(Answer::new(Box::pin(messages)))
    }
}

struct Harness {
    layer: RequestLayer,
    metrics: Arc<Metrics>,
    fake: Fake,
    drain: CancellationToken,
}

type Answered = Response<RequestBody<tonic::body::Body>>;

impl Harness {
    fn new(limits: RequestLimits) -> Self {
        let metrics = Arc::new(Metrics::new());
        let drain = CancellationToken::new();
        let layer = RequestLayer::new(limits, Arc::clone(&metrics), drain.clone());
        Self { layer, metrics, fake: Fake::default(), drain }
    }

    fn roomy() -> Self {
        Self::new(RequestLimits {
            requests_max: 100,
            streams_max: 100,
            request_timeout: Duration::from_secs(60),
            import_rows_per_second_max: 0,
        })
    }

    fn request(path: &str, message: &[u8]) -> Request<tonic::body::Body> {
        let mut frame = vec![0];
        frame.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
        frame.extend(message);
        Request::post(path)
            .header("content-type", "application/grpc")
            .body(tonic::body::Body::new(axum::body::Body::from(frame)))
            .unwrap()
    }

    fn check_request(purpose: &str) -> Request<tonic::body::Body> {
        let message = proto::CheckRequest { purpose: purpose.to_owned(), ..Default::default() };
        Self::request("/consent.v1.CheckService/Check", &message.encode_to_vec())
    }

    async fn send(&self, request: Request<tonic::body::Body>) -> Answered {
        let server = CheckServiceServer::new(self.fake.clone()).max_decoding_message_size(64);
        self.layer.layer(server).oneshot(request).await.unwrap()
    }

    async fn check(&self, purpose: &str) -> Status {
        status_of(self.send(Self::check_request(purpose)).await).await
    }

    async fn watch(&self, request: &proto::WatchRequest) -> Answered {
        let server = WatchServiceServer::new(self.fake.clone());
        let request = Self::request("/consent.v1.WatchService/Watch", &request.encode_to_vec());
        self.layer.layer(server).oneshot(request).await.unwrap()
    }

    fn counted(&self, method: &str, code: &str) -> u64 {
        let start =
            format!("consent_ledger_requests_total{{method=\"{method}\",code=\"{code}\"}} ");
        let text = self.metrics.encode().unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(&start).map(str::to_owned));
        line.map_or(0, |count| count.parse().unwrap())
    }
}

const CHECK: &str = "consent.v1.CheckService/Check";
const WATCH: &str = "consent.v1.WatchService/Watch";

/// Reads an answer to its end.
async fn status_of(answer: Answered) -> Status {
    let (parts, body) = answer.into_parts();
    if let Some(status) = Status::from_header_map(&parts.headers) {
        return status;
    }
    let mut body = Box::pin(body);
    let mut status = None;
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        if let Some(trailers) = frame.unwrap().trailers_ref() {
            status = Status::from_header_map(trailers);
        }
    }
    status.expect("an answer ends with a status")
}

fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_answer_passes_through_and_is_counted_at_its_end() {
    let harness = Harness::roomy();
    let answer = harness.send(Harness::check_request("go")).await;
    assert_eq!(harness.metrics.requests_in_flight.get(), 1, "its body was not read yet");
    assert_eq!(harness.counted(CHECK, "OK"), 0);
    assert_eq!(reason(&status_of(answer).await), "");
    assert_eq!(harness.metrics.requests_in_flight.get(), 0);
    assert_eq!(harness.counted(CHECK, "OK"), 1);
}

#[tokio::test]
async fn an_error_of_a_service_is_left_as_it_is() {
    let harness = Harness::roomy();
    assert_eq!(reason(&harness.check("fail").await), "SHUTTING_DOWN");
    assert_eq!(harness.counted(CHECK, "UNAVAILABLE"), 1);
}

#[tokio::test]
async fn requests_over_the_limit_are_refused_at_once() {
    let harness = Arc::new(Harness::new(RequestLimits {
        requests_max: 1,
        streams_max: 1,
        request_timeout: Duration::from_secs(60),
        import_rows_per_second_max: 0,
    }));
    let first = tokio::spawn({
        let harness = Arc::clone(&harness);
        async move { harness.check("wait").await }
    });
    until(|| harness.metrics.requests_in_flight.get() == 1).await;
    let refused = harness.check("go").await;
    assert_eq!(reason(&refused), "TOO_MANY_REQUESTS");
    assert!(refused.get_details_retry_info().is_some());
    assert_eq!(harness.metrics.requests_in_flight.get(), 1);
    harness.fake.release.notify_one();
    assert_eq!(reason(&first.await.unwrap()), "");
    assert_eq!(harness.metrics.requests_in_flight.get(), 0);
    assert_eq!(reason(&harness.check("go").await), "", "there is room again");
    assert_eq!(harness.counted(CHECK, "RESOURCE_EXHAUSTED"), 1);
}

#[tokio::test]
async fn streams_have_a_limit_of_their_own() {
    let harness = Harness::new(RequestLimits {
        requests_max: 1,
        streams_max: 1,
        request_timeout: Duration::from_millis(1),
        import_rows_per_second_max: 0,
    });
    let open = harness.watch(&proto::WatchRequest::default()).await;
    assert_eq!(harness.metrics.streams_open.get(), 1);
    let refused = status_of(harness.watch(&proto::WatchRequest::default()).await).await;
    assert_eq!(reason(&refused), "TOO_MANY_STREAMS");
    assert_eq!(reason(&harness.check("go").await), "", "a stream takes no request's place");
    drop(open);
    assert_eq!(harness.metrics.streams_open.get(), 0);
    assert_eq!(harness.counted(WATCH, "CANCELLED"), 1, "the client went away");
}

#[tokio::test]
async fn a_unary_call_ends_at_the_servers_deadline() {
    let harness = Harness::new(RequestLimits {
        requests_max: 1,
        streams_max: 1,
        request_timeout: Duration::from_millis(20),
        import_rows_per_second_max: 0,
    });
    let late = harness.check("wait").await;
    assert_eq!(reason(&late), "DEADLINE_EXCEEDED");
    let info = late.get_details_error_info().unwrap();
    assert_eq!(info.metadata.get("limit_ms").map(String::as_str), Some("20"));
    assert_eq!(harness.counted(CHECK, "DEADLINE_EXCEEDED"), 1);
    assert_eq!(harness.metrics.requests_in_flight.get(), 0);
}

#[tokio::test]
async fn a_stream_whose_request_never_comes_does_not_keep_its_place() {
    struct Silence;
    impl Body for Silence {
        type Data = Bytes;
        type Error = Status;
        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Pending
        }
    }
    let harness = Harness::new(RequestLimits {
        requests_max: 1,
        streams_max: 1,
        request_timeout: Duration::from_millis(20),
        import_rows_per_second_max: 0,
    });
    let request = Harness::request("/consent.v1.WatchService/Watch", &[])
        .map(|_| tonic::body::Body::new(Silence));
    let server = WatchServiceServer::new(harness.fake.clone());
    let answer = harness.layer.layer(server).oneshot(request).await.unwrap();
    assert_eq!(reason(&status_of(answer).await), "DEADLINE_EXCEEDED");
    assert_eq!(harness.metrics.streams_open.get(), 0);
}

#[tokio::test]
async fn a_callers_deadline_may_be_shorter_than_the_servers() {
    let harness = Harness::roomy();
    let mut request = Harness::check_request("wait");
    request.headers_mut().insert("grpc-timeout", "20m".parse().unwrap());
    assert_eq!(reason(&status_of(harness.send(request).await).await), "DEADLINE_EXCEEDED");
}

#[test]
fn callers_deadlines_are_read_as_grpc_writes_them() {
    let read = |text: &str| {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", text.parse().unwrap());
        grpc_timeout(&headers)
    };
    assert_eq!(read("2H"), Some(Duration::from_secs(7_200)));
    assert_eq!(read("3M"), Some(Duration::from_secs(180)));
    assert_eq!(read("99999999S"), Some(Duration::from_secs(99_999_999)));
    assert_eq!(read("5m"), Some(Duration::from_millis(5)));
    assert_eq!(read("5u"), Some(Duration::from_micros(5)));
    assert_eq!(read("5n"), Some(Duration::from_nanos(5)));
    for bad in ["", "m", "5", "5x", "-5m", "+5m", "5.0m", "100000000S"] {
        assert_eq!(read(bad), None, "{bad:?}");
    }
    assert_eq!(grpc_timeout(&HeaderMap::new()), None);
}

#[tokio::test]
async fn a_panic_of_a_handler_becomes_an_answer_in_general_words() {
    let harness = Harness::roomy();
    let status = harness.check("panic").await;
    assert_eq!(reason(&status), "INTERNAL");
    assert!(!status.message().contains("own words"), "{status:?}");
    assert_eq!(harness.counted(CHECK, "INTERNAL"), 1);
    assert_eq!(harness.metrics.requests_in_flight.get(), 0);
    assert_eq!(reason(&harness.check("go").await), "", "the service goes on");
}

#[tokio::test]
async fn a_panic_of_a_stream_ends_it_with_an_error_and_never_as_if_all_was_told() {
    let harness = Harness::roomy();
    let request = proto::WatchRequest { start_index: Some(0), ..Default::default() };
    let status = status_of(harness.watch(&request).await).await;
    assert_eq!(reason(&status), "INTERNAL");
    assert_eq!(harness.counted(WATCH, "INTERNAL"), 1);
    assert_eq!(harness.metrics.streams_open.get(), 0);
}

#[tokio::test]
async fn messages_over_the_limit_are_told_in_our_words() {
    let harness = Harness::roomy();
    let status = harness.check(&"x".repeat(100)).await;
    assert_eq!(reason(&status), "LIMIT_EXCEEDED");
    assert!(status.message().contains("64"), "{status:?}");
    assert_eq!(harness.counted(CHECK, "INVALID_ARGUMENT"), 1);
}

#[tokio::test]
async fn bytes_that_are_no_message_are_the_callers_mistake() {
    let harness = Harness::roomy();
    let request = Harness::request("/consent.v1.CheckService/Check", &[0xff; 9]);
    assert_eq!(reason(&status_of(harness.send(request).await).await), "INVALID_FIELD");
}

#[tokio::test]
async fn unknown_methods_are_counted_under_one_name() {
    let harness = Harness::roomy();
    let request = Harness::request("/consent.v1.CheckService/Nothing", &[]);
    status_of(harness.send(request).await).await;
    assert_eq!(harness.counted("unknown", "UNIMPLEMENTED"), 1);
}

#[tokio::test]
async fn endless_streams_end_when_the_server_drains() {
    let harness = Harness::roomy();
    let (reporter, server) = tonic_health::server::health_reporter();
    let request = Harness::request("/grpc.health.v1.Health/Watch", &[]);
    let answer = harness.layer.layer(server).oneshot(request).await.unwrap();
    let reading = tokio::spawn(status_of(answer));
    until(|| harness.metrics.streams_open.get() == 1).await;
    harness.drain.cancel();
    assert_eq!(reason(&reading.await.unwrap()), "SHUTTING_DOWN");
    assert_eq!(harness.metrics.streams_open.get(), 0);
    drop(reporter);
}

#[tokio::test]
async fn health_is_told_even_when_there_is_no_room() {
    let harness = Harness::new(RequestLimits {
        requests_max: 0,
        streams_max: 0,
        request_timeout: Duration::from_secs(60),
        import_rows_per_second_max: 0,
    });
    let (_reporter, server) = tonic_health::server::health_reporter();
    let request = Harness::request("/grpc.health.v1.Health/Check", &[]);
    let answer = harness.layer.layer(server).oneshot(request).await.unwrap();
    let status = status_of(answer).await;
    assert_eq!(harness.counted("grpc.health.v1.Health/Check", "OK"), 1, "{status:?}");
}
