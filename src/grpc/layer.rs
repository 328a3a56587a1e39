//! What happens to every request, whatever it asks: it is let in or refused, it gets a deadline
//! and a span, a panic in its handler becomes an answer, and it is counted.
//!
//! One layer does all of it, because every check passes through: one future, one body, no box and
//! no string. What it must know about a request it learns once, from the path.
//!
//! * Over a limit a request is refused at once, never queued: whoever waits in a queue for longer
//!   than their own deadline is served for nobody.
//! * A request counts as in flight until the last byte of its answer was taken, or the client went
//!   away.
//! * The deadline ends a call that has not begun to answer, be it that its request never came
//!   whole. Where the answer comes after many messages, only the caller's own deadline does. A stream that has begun ends with the client, or when the server drains.

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

/// A service whose requests are let in or refused, timed and counted.
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
        let asked = grpc_timeout(request.headers());
        let own = self.shared.limits.request_timeout;
        let timeout = match method.class() {
            // Its service looks after each message.
            Class::Upload => asked,
            _ => Some(asked.map_or(own, |asked| asked.min(own))),
        };
        let inner = self.inner.call(request);
        RequestFuture { step: Step::Running { inner, timeout, sleep: None, call: Some(call) } }
    }
}

/// One request on its way. Its end, whatever it is, counts it and frees its place.
#[derive(Debug)]
struct Call {
    shared: Arc<Shared>,
    method: Method,
    started: Instant,
    span: Span,
    /// Whether the request holds one of the places that are limited.
    admitted: bool,
    /// The status code, once it is known. A call that ends before was given up by its client.
    code: Option<usize>,
}

const CODE_OK: usize = 0;
const CODE_CANCELLED: usize = 1;
const CODE_UNKNOWN: usize = 2;

impl Call {
    /// A new call, and why it must not go on, if so.
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
        // The gauges are the counters that the limits hold against: `inc` answers what was before.
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

    /// Takes note of the status code in headers or trailers, if it is there.
    fn note_code(&mut self, headers: &HeaderMap) -> bool {
        let Some(value) = headers.get(Status::GRPC_STATUS) else { return false };
        let code = value.to_str().ok().and_then(|text| text.parse().ok());
        self.code = Some(code.unwrap_or(CODE_UNKNOWN));
        true
    }

    /// The headers of an error, which are its trailers too.
    fn fail(&mut self, fault: Fault) -> HeaderMap {
        let (parts, ()) = Status::from(fault).into_http::<()>().into_parts();
        self.note_code(&parts.headers);
        parts.headers
    }

    /// A whole answer that is an error.
    fn answer<R>(mut self, fault: Fault) -> Response<RequestBody<R>> {
        let mut response = Response::new(RequestBody::ended());
        *response.headers_mut() = self.fail(fault);
        response
    }

    /// Puts the call's end where the answer's end is.
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

/// The span of a request; none unless somebody traces, or logs at level DEBUG.
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
    // Fails where traces go nowhere, and then nobody misses it.
    let _ = span.set_parent(parent);
    span
}

/// The caller's own deadline: up to eight digits and a unit.
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
            // None where it may take as long as its messages keep coming.
            timeout: Option<Duration>,
            // Set only once the handler has to wait: most checks never see the timer.
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
            let own = call.as_ref().expect("taken only when it is ready");
            let _entered = own.span.enter();
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
    /// The body of an answer. It carries the call, so that the call ends when the body does.
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
        let mut this = self.project();
        let Some(inner) = this.inner.as_mut().as_pin_mut() else { return Poll::Ready(None) };
        let Some(call) = this.call.as_mut() else { return inner.poll_frame(cx) };
        let polled = {
            let _entered = call.span.enter();
            catch_unwind(AssertUnwindSafe(|| inner.poll_frame(cx)))
        };
        let fault = match polled {
            Ok(Poll::Ready(Some(Ok(frame)))) => {
                if let Some(trailers) = frame.trailers_ref() {
                    call.note_code(trailers);
                    *this.call = None;
                }
                return Poll::Ready(Some(Ok(frame)));
            }
            Ok(Poll::Ready(Some(Err(status)))) => {
                let (parts, ()) = status.clone().into_http::<()>().into_parts();
                call.note_code(&parts.headers);
                *this.call = None;
                return Poll::Ready(Some(Err(status)));
            }
            Ok(Poll::Ready(None)) => {
                *this.call = None;
                return Poll::Ready(None);
            }
            Ok(Poll::Pending) => {
                let Some(drain) = this.drain.as_mut() else { return Poll::Pending };
                ready!(drain.as_mut().poll(cx));
                Fault::ShuttingDown
            }
            Err(panic) => call.panicked(&*panic),
        };
        // The stream ends here, with an error that the client can read.
        let mut trailers = call.fail(fault);
        trailers.remove(http::header::CONTENT_TYPE);
        *this.call = None;
        this.inner.set(None);
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
