//! The layer around every request: it admits or refuses it, gives it a deadline and a span, turns a panic
//! in its handler into an error, and counts it.
//!
//! It is one layer for speed, because every check passes through it: one future, one body, no boxes and
//! no strings. It finds the method once, by the path.
//!
//! * Over a limit a request is refused at once, never queued: an answer after the caller's deadline would
//!   be wasted work.
//! * A request is in flight until the last byte of its answer was taken, or the client went away.
//! * The deadline ends a call that has not begun to answer, also if its request never arrived whole. For
//!   an upload only the deadline of the caller applies. A stream that has begun ends with the client, or
//!   when the server drains.

use std::{
    any::Any,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;
use tower::{Layer, Service};
use tracing::Span;

use super::method::{Class, Method};
use crate::{
    config::RequestLimits,
    status::{Fault, fault_of_transport},
    telemetry::{MethodMetrics, Metrics},
};

/// Puts [`RequestService`] around a service.
#[derive(Debug, Clone)]
pub struct RequestLayer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limits: RequestLimits,
    metrics: Arc<Metrics>,
    methods: Vec<MethodMetrics>,
    drain: CancellationToken,
}

impl RequestLayer {
    /// A layer whose endless streams end once `drain` is cancelled.
    #[must_use]
    pub fn new(limits: RequestLimits, metrics: Arc<Metrics>, drain: CancellationToken) -> Self {
        let methods = Method::all().map(|method| metrics.method(method.name())).collect();
        Self(Arc::new(Shared { limits, metrics, methods, drain }))
    }
}

impl<S> Layer<S> for RequestLayer {
    type Service = RequestService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RequestService { inner, shared: Arc::clone(&self.0) }
    }
}

/// A service whose requests are admitted or refused, timed and counted.
#[derive(Debug, Clone)]
pub struct RequestService<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S, B, R> Service<Request<B>> for RequestService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body<Data = Bytes, Error = Status>,
{
    type Response = Response<RequestBody<R>>;
    type Error = S::Error;
    type Future = RequestFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let method = Method::of_path(request.uri().path());
        let (mut call, refusal) = Call::admit(&self.shared, method);
        if let Some(fault) = refusal {
            return RequestFuture { step: Step::Refused { refused: Some((call, fault)) } };
        }
        call.span = span(method, request.headers());
        let caller_timeout = grpc_timeout(request.headers());
        let request_timeout = self.shared.limits.request_timeout;
        let timeout = match method.class() {
            // Its service has a time limit for each message.
            Class::Upload => caller_timeout,
            _ => Some(caller_timeout.unwrap_or(Duration::MAX).min(request_timeout)),
        };
        let inner = self.inner.call(request);
        RequestFuture { step: Step::Running { inner, timeout, sleep: None, call: Some(call) } }
    }
}

/// One request in progress. Dropping it counts the request and releases its place.
#[derive(Debug)]
struct Call {
    shared: Arc<Shared>,
    method: Method,
    started: Instant,
    span: Span,
    /// Whether the request holds one of the places that are limited.
    admitted: bool,
    /// The status code, once it is known. A call that ends without one was cancelled by its client.
    code: Option<usize>,
}

const CODE_OK: usize = 0;
const CODE_CANCELLED: usize = 1;
const CODE_UNKNOWN: usize = 2;

impl Call {
    /// A new call, and the fault if it is refused.
    fn admit(shared: &Arc<Shared>, method: Method) -> (Self, Option<Fault>) {
        let mut call = Self {
            shared: Arc::clone(shared),
            method,
            started: Instant::now(),
            span: Span::none(),
            admitted: true,
            code: None,
        };
        let limits = shared.limits;
        let metrics = &shared.metrics;
        // The limits apply to the gauges themselves: `inc` returns the value before.
        let refusal = match method.class() {
            Class::Free => None,
            Class::Unary => (metrics.requests_in_flight.inc() >= limits.requests_max)
                .then_some(Fault::TooManyRequests { limit: limits.requests_max }),
            Class::Stream | Class::Upload | Class::Endless => (metrics.streams_open.inc()
                >= limits.streams_max)
                .then_some(Fault::TooManyStreams { limit: limits.streams_max }),
        };
        if refusal.is_some() {
            call.release();
        }
        (call, refusal)
    }

    fn release(&mut self) {
        if std::mem::take(&mut self.admitted) {
            match self.method.class() {
                Class::Free => {}
                Class::Unary => {
                    self.shared.metrics.requests_in_flight.dec();
                }
                Class::Stream | Class::Upload | Class::Endless => {
                    self.shared.metrics.streams_open.dec();
                }
            }
        }
    }

    /// Keeps the status code of headers or trailers. Returns whether they have one.
    fn note_code(&mut self, headers: &HeaderMap) -> bool {
        let Some(value) = headers.get(Status::GRPC_STATUS) else { return false };
        let code = value.to_str().ok().and_then(|text| text.parse().ok());
        self.code = Some(code.unwrap_or(CODE_UNKNOWN));
        true
    }

    /// The headers of an error response; they are also its trailers.
    fn fail(&mut self, fault: Fault) -> HeaderMap {
        let (parts, ()) = Status::from(fault).into_http::<()>().into_parts();
        self.note_code(&parts.headers);
        parts.headers
    }

    /// An error response.
    fn answer<R>(mut self, fault: Fault) -> Response<RequestBody<R>> {
        let mut response = Response::new(RequestBody::ended());
        *response.headers_mut() = self.fail(fault);
        response
    }

    /// Attaches the call to the body of its response, so that both end together.
    fn attach<R>(mut self, response: Response<R>) -> Response<RequestBody<R>>
    where
        R: Body<Data = Bytes, Error = Status>,
    {
        if self.note_code(response.headers()) {
            if self.method.is_ours()
                && self.code != Some(CODE_OK)
                && let Some(fault) = fault_of_transport(response.headers())
            {
                return self.answer(fault);
            }
            return response.map(|inner| RequestBody::counted(inner, None, None));
        }
        let drain = match self.method.class() {
            Class::Endless => Some(Box::pin(self.shared.drain.clone().cancelled_owned())),
            Class::Unary | Class::Stream | Class::Upload | Class::Free => None,
        };
        response.map(|inner| RequestBody::counted(inner, Some(self), drain))
    }

    fn panicked(&self, panic: &(dyn Any + Send)) -> Fault {
        let text = panic
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("of no text");
        Fault::Internal(format!("{} panicked: {text}", self.method.name()))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.release();
        let took = self.started.elapsed();
        let code = self.code.unwrap_or(CODE_CANCELLED);
        self.shared.methods[self.method.number()].ended(code, took);
        if !self.span.is_none() {
            self.span.record("code", code);
            self.span.record("duration_us", u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        }
    }
}

/// The span of a request; none unless traces or logs of level DEBUG are on.
fn span(method: Method, headers: &HeaderMap) -> Span {
    use opentelemetry::{global, propagation::Extractor};
    use tracing::field::Empty;
    use tracing_opentelemetry::OpenTelemetrySpanExt;

    struct Headers<'a>(&'a HeaderMap);
    impl Extractor for Headers<'_> {
        fn get(&self, key: &str) -> Option<&str> {
            self.0.get(key)?.to_str().ok()
        }
        fn keys(&self) -> Vec<&str> {
            self.0.keys().map(http::HeaderName::as_str).collect()
        }
    }

    let span =
        tracing::debug_span!("request", method = method.name(), code = Empty, duration_us = Empty);
    if span.is_disabled() {
        return Span::none();
    }
    let parent =
        global::get_text_map_propagator(|propagator| propagator.extract(&Headers(headers)));
    // Fails only without an exporter, and then the parent is not needed.
    let _ = span.set_parent(parent);
    span
}

/// The deadline of the caller (gRPC over HTTP/2): up to eight digits and a unit.
fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3_600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

pin_project! {
    /// A request that is being answered.
    pub struct RequestFuture<F> {
        #[pin]
        step: Step<F>,
    }
}

pin_project! {
    #[project = StepProj]
    enum Step<F> {
        Running {
            #[pin]
            inner: F,
            // None for an upload without a deadline of the caller.
            timeout: Option<Duration>,
            // Set once the handler has to wait: most checks need no timer.
            #[pin]
            sleep: Option<Sleep>,
            call: Option<Call>,
        },
        Refused {
            refused: Option<(Call, Fault)>,
        },
    }
}

impl<F, R, E> Future for RequestFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body<Data = Bytes, Error = Status>,
{
    type Output = Result<Response<RequestBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (inner, timeout, mut sleep, call) = match self.project().step.project() {
            StepProj::Running { inner, timeout, sleep, call } => (inner, timeout, sleep, call),
            StepProj::Refused { refused } => {
                let (call, fault) = refused.take().expect("polled once");
                return Poll::Ready(Ok(call.answer(fault)));
            }
        };
        let polled = {
            let running = call.as_ref().expect("taken only when it is ready");
            let _entered = running.span.enter();
            catch_unwind(AssertUnwindSafe(|| inner.poll(cx)))
        };
        let take = |call: &mut Option<Call>| call.take().expect("taken only when it is ready");
        match polled {
            Ok(Poll::Ready(Ok(response))) => return Poll::Ready(Ok(take(call).attach(response))),
            Ok(Poll::Ready(Err(error))) => return Poll::Ready(Err(error)),
            Ok(Poll::Pending) => {}
            Err(panic) => {
                let call = take(call);
                let fault = call.panicked(&*panic);
                return Poll::Ready(Ok(call.answer(fault)));
            }
        }
        let Some(timeout) = *timeout else { return Poll::Pending };
        if sleep.is_none() {
            let started = call.as_ref().expect("taken only when it is ready").started;
            let deadline = tokio::time::Instant::from_std(started) + timeout;
            sleep.set(Some(tokio::time::sleep_until(deadline)));
        }
        if let Some(sleep) = sleep.as_pin_mut() {
            ready!(sleep.poll(cx));
        }
        let fault = Fault::DeadlineExceeded { limit_ms: timeout.as_millis() };
        Poll::Ready(Ok(take(call).answer(fault)))
    }
}

pin_project! {
    /// The body of a response. It holds the call, which ends with it.
    pub struct RequestBody<R> {
        #[pin]
        inner: Option<R>,
        call: Option<Call>,
        drain: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    }
}

impl<R> RequestBody<R> {
    fn counted(
        inner: R,
        call: Option<Call>,
        drain: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    ) -> Self {
        Self { inner: Some(inner), call, drain }
    }

    fn ended() -> Self {
        Self { inner: None, call: None, drain: None }
    }
}

impl<R> Body for RequestBody<R>
where
    R: Body<Data = Bytes, Error = Status>,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut body = self.project();
        let Some(inner) = body.inner.as_mut().as_pin_mut() else { return Poll::Ready(None) };
        let Some(call) = body.call.as_mut() else { return inner.poll_frame(cx) };
        let polled = {
            let _entered = call.span.enter();
            catch_unwind(AssertUnwindSafe(|| inner.poll_frame(cx)))
        };
        let fault = match polled {
            Ok(Poll::Ready(Some(Ok(frame)))) => {
                if let Some(trailers) = frame.trailers_ref() {
                    call.note_code(trailers);
                    *body.call = None;
                }
                return Poll::Ready(Some(Ok(frame)));
            }
            Ok(Poll::Ready(Some(Err(status)))) => {
                let (parts, ()) = status.clone().into_http::<()>().into_parts();
                call.note_code(&parts.headers);
                *body.call = None;
                return Poll::Ready(Some(Err(status)));
            }
            Ok(Poll::Ready(None)) => {
                *body.call = None;
                return Poll::Ready(None);
            }
            Ok(Poll::Pending) => {
                let Some(drain) = body.drain.as_mut() else { return Poll::Pending };
                ready!(drain.as_mut().poll(cx));
                Fault::ShuttingDown
            }
            Err(panic) => call.panicked(&*panic),
        };
        // The stream ends here, with an error that the client can read.
        let mut trailers = call.fail(fault);
        trailers.remove(http::header::CONTENT_TYPE);
        *body.call = None;
        body.inner.set(None);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

#[cfg(test)]
mod tests;
