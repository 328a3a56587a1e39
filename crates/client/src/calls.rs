//! One tower service under all generated clients: metadata, deadlines and retries.
//!
//! As in gRFC A6, a call is retried only while no response has begun, so the caller sees a failure
//! in the middle of a response. The request is kept in memory until then. One deadline covers all
//! attempts and the response body. Streaming requests are never kept, and so never retried.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, request::Parts};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt as _, Full};
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout_at};
use tonic::{Status, body::Body, metadata::MetadataMap, transport::Channel};
use tower::{Service, ServiceExt as _};

use super::{
    backoff::Backoff,
    fault::{self, Advice},
    service_config::{RetryPolicy, RetryThrottling, ServiceConfig},
};
use crate::proto::{Method, StatusCode};

/// The largest request that is kept for a retry, in bytes. A larger one is sent once.
pub const RETRY_BUFFER_BYTES_MAX: usize = 4 << 20;

/// How much earlier than the deadline the channel's own timer may fire.
const TIMER_SLACK: Duration = Duration::from_millis(5);
const TIMEOUT_HEADER: &str = "grpc-timeout";
const ATTEMPTS_HEADER: &str = "grpc-previous-rpc-attempts";

/// Changes the metadata of every attempt of every call, for example to add a fresh bearer token.
pub type MetadataHook = Arc<dyn Fn(&mut MetadataMap) + Send + Sync>;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Answer = Result<Response<Body>, BoxError>;

/// The transport of the generated clients.
#[derive(Clone)]
pub struct Calls {
    channel: Channel,
    shared: Arc<Shared>,
}

struct Shared {
    config: ServiceConfig,
    throttle: Option<Throttle>,
    hook: Option<MetadataHook>,
    retries: AtomicU64,
}

impl fmt::Debug for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Calls").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

impl Calls {
    pub(super) fn new(channel: Channel, config: ServiceConfig, hook: Option<MetadataHook>) -> Self {
        let throttle = config.throttling.map(Throttle::new);
        Self {
            channel,
            shared: Arc::new(Shared { config, throttle, hook, retries: AtomicU64::new(0) }),
        }
    }

    /// How many attempts were made beyond the first of each call.
    #[must_use]
    pub fn retries(&self) -> u64 {
        self.shared.retries.load(Ordering::Relaxed)
    }

    async fn run(self, request: Request<Body>) -> Answer {
        let (mut parts, body) = request.into_parts();
        let path = parts.uri.path();
        let config = self.shared.config.of_path(path).cloned().unwrap_or_default();
        let asked = parts.headers.get(TIMEOUT_HEADER).and_then(parse_timeout);
        let timeout = [config.timeout_of(path), asked].into_iter().flatten().min();
        let streams_request = Method::of_path(path).is_some_and(|method| method.client_streaming);
        let retry = config.retry.filter(|_| !streams_request);
        // A deadline beyond the range of the clock is no deadline.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        // Each attempt gets the time that is left.
        parts.headers.remove(TIMEOUT_HEADER);
        let work = async {
            match retry {
                Some(policy) => self.with_retries(&policy, parts, body, deadline).await,
                None => self.attempt(parts, body, deadline).await,
            }
        };
        let Some(deadline) = deadline else { return work.await };
        let answer = match timeout_at(deadline, work).await {
            Ok(answer) => answer?,
            Err(_) => too_late().into_http(),
        };
        Ok(answer.map(|body| Body::new(Deadlined { body, end: Box::pin(sleep_until(deadline)) })))
    }

    async fn with_retries(
        &self,
        policy: &RetryPolicy,
        parts: Parts,
        body: Body,
        deadline: Option<Instant>,
    ) -> Answer {
        let body = body.collect().await?.to_bytes();
        let may_repeat =
            body.len() <= RETRY_BUFFER_BYTES_MAX && is_repeatable(parts.uri.path(), &body);
        let mut backoff = Backoff::new(policy.into());
        let mut attempts = 1;
        loop {
            let mut attempt_parts = parts.clone();
            if attempts > 1 {
                attempt_parts.headers.insert(ATTEMPTS_HEADER, HeaderValue::from(attempts - 1));
            }
            // A failure to connect is a status like any other.
            let answer = match self
                .attempt(attempt_parts, Body::new(Full::new(body.clone())), deadline)
                .await
            {
                Ok(answer) => answer,
                Err(error) => Status::from_error(error).into_http(),
            };
            let Some(status) = failure(answer.headers()) else {
                self.shared.throttle.as_ref().inspect(|throttle| throttle.succeeded());
                return Ok(answer);
            };
            let worth = policy.retryable_status_codes.contains(&i32::from(status.code()));
            let advice = fault::advice(&status);
            let open = match &self.shared.throttle {
                Some(throttle) if worth => throttle.failed(),
                _ => true,
            };
            if !may_repeat || !worth || !open || attempts >= policy.max_attempts {
                return Ok(answer);
            }
            let wait = match advice {
                Advice::Never => return Ok(answer),
                Advice::After(asked_for) => backoff.next(Some(asked_for)),
                Advice::None => backoff.next(None),
            };
            // The present failure is more informative than a deadline that passes during the wait.
            if deadline.is_some_and(|deadline| Instant::now() + wait >= deadline) {
                return Ok(answer);
            }
            sleep(wait).await;
            attempts += 1;
            self.shared.retries.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn attempt(&self, mut parts: Parts, body: Body, deadline: Option<Instant>) -> Answer {
        if let Some(hook) = &self.shared.hook {
            let mut metadata = MetadataMap::from_headers(std::mem::take(&mut parts.headers));
            hook(&mut metadata);
            parts.headers = metadata.into_headers();
        }
        if let Some(deadline) = deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            parts.headers.insert(TIMEOUT_HEADER, timeout_value(left));
        }
        let mut channel = self.channel.clone();
        let answer = channel.ready().await?.call(Request::from_parts(parts, body)).await;
        let is_cancelled = match &answer {
            Ok(answer) => failure(answer.headers())
                .is_some_and(|status| i32::from(status.code()) == i32::from(StatusCode::Cancelled)),
            Err(_) => true,
        };
        // The channel and the server read the timeout, too, and may report it as a cancelled call.
        match deadline {
            Some(end) if is_cancelled && Instant::now() + TIMER_SLACK >= end => {
                Ok(too_late().into_http())
            }
            _ => Ok(answer?),
        }
    }
}

impl Service<Request<Body>> for Calls {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

    /// Always: each attempt waits for the channel by itself.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.clone().run(request))
    }
}

fn too_late() -> Status {
    Status::deadline_exceeded("the call took longer than its deadline")
}

/// The error status of a response without a body.
fn failure(headers: &HeaderMap) -> Option<Status> {
    Status::from_header_map(headers).filter(|status| i32::from(status.code()) != 0)
}

/// Whether a request that the server may have received can be sent again. If a method is repeatable
/// only with an idempotency key, the request must have one, whatever the service config allows.
fn is_repeatable(path: &str, body: &[u8]) -> bool {
    let Some(read_key) = Method::of_path(path).and_then(|method| method.idempotency_key) else {
        return true;
    };
    // One uncompressed message: a flag, four bytes of length, the message.
    let [0, _, _, _, _, message @ ..] = body else { return false };
    read_key(message).is_ok_and(|key| !key.is_empty())
}

/// A time in the form of `grpc-timeout`: at most eight digits and a unit. It is never rounded up.
fn timeout_value(left: Duration) -> HeaderValue {
    const DIGITS_MAX: u128 = 99_999_999;
    let (value, unit) = [(left.as_micros(), 'u'), (left.as_millis(), 'm')]
        .into_iter()
        .find(|(value, _)| *value <= DIGITS_MAX)
        .unwrap_or((u128::from(left.as_secs()).min(DIGITS_MAX), 'S'));
    HeaderValue::from_str(&format!("{value}{unit}"))
        .unwrap_or_else(|_| HeaderValue::from_static("0u"))
}

fn parse_timeout(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count.checked_mul(3_600)?),
        "M" => Duration::from_secs(count.checked_mul(60)?),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

/// Tokens in thousandths.
struct Throttle {
    tokens: AtomicI64,
    max: i64,
    gain: i64,
}

impl Throttle {
    fn new(config: RetryThrottling) -> Self {
        let max = i64::from(config.max_tokens) * 1_000;
        #[allow(clippy::cast_possible_truncation)] // it saturates, and the sum is capped
        let gain = (config.token_ratio * 1_000.0) as i64;
        Self { tokens: AtomicI64::new(max), max, gain }
    }

    /// Takes a token, and returns whether enough are left for a retry.
    fn failed(&self) -> bool {
        self.add(-1_000) > self.max / 2
    }

    fn succeeded(&self) {
        // No write in the common case, because all cores would share the cache line.
        if self.tokens.load(Ordering::Relaxed) < self.max {
            self.add(self.gain);
        }
    }

    fn add(&self, by: i64) -> i64 {
        let sum = |tokens: i64| tokens.saturating_add(by).clamp(0, self.max);
        let before = self
            .tokens
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |tokens| Some(sum(tokens)))
            .unwrap_or_else(|tokens| tokens);
        sum(before)
    }
}

/// A response body that must arrive before the call's deadline.
struct Deadlined {
    body: Body,
    end: Pin<Box<Sleep>>,
}

impl http_body::Body for Deadlined {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        self.end.as_mut().poll(cx).map(|()| Some(Err(too_late())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::proto;

    fn body(message: &impl Message) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend(u32::try_from(message.encoded_len()).unwrap().to_be_bytes());
        bytes.extend(message.encode_to_vec());
        bytes
    }

    #[test]
    fn an_act_is_said_twice_only_with_a_key() {
        let path = "/consent.v1.ConsentService/RecordConsent";
        let mut act =
            proto::RecordConsentRequest { subject: "user:1".into(), ..Default::default() };
        assert!(!is_repeatable(path, &body(&act)));
        act.idempotency_key = "k-1".to_owned();
        assert!(is_repeatable(path, &body(&act)));
        assert!(!is_repeatable(path, &[1, 0, 0, 0, 0]), "what can not be read has no key");
        assert!(is_repeatable("/consent.v1.CheckService/Check", &body(&act)));
    }

    #[test]
    fn timeouts_are_written_and_read_as_grpc_has_them() {
        for (left, text) in [
            (Duration::from_millis(1_500), "1500000u"),
            (Duration::from_secs(1_000), "1000000m"),
            (Duration::from_secs(1_000_000), "1000000S"),
            (Duration::ZERO, "0u"),
        ] {
            assert_eq!(timeout_value(left), text);
            assert_eq!(parse_timeout(&timeout_value(left)), Some(left));
        }
        for bad in ["", "u", "12", "12x", "-1u", "é"] {
            assert_eq!(parse_timeout(&HeaderValue::from_bytes(bad.as_bytes()).unwrap()), None);
        }
    }

    #[test]
    fn retries_pause_while_half_of_the_tokens_are_gone() {
        let throttle = Throttle::new(RetryThrottling { max_tokens: 4, token_ratio: 0.5 });
        assert!(throttle.failed());
        assert!(!throttle.failed());
        assert!(!throttle.failed());
        throttle.succeeded();
        throttle.succeeded();
        throttle.succeeded();
        assert_eq!(throttle.tokens.load(Ordering::Relaxed), 2_500);
        throttle.succeeded();
        throttle.succeeded();
        throttle.succeeded();
        throttle.succeeded();
        assert!(throttle.failed(), "enough successes, and they go on");
    }
}
