//! The HTTP pages for monitoring: `/metrics`, `/healthz`, `/readyz`.
//!
//! | phase | `/healthz` | `/readyz` |
//! | --- | --- | --- |
//! | opening: recovery, perhaps a rebuild of the view; the page says how far it has come | 503 | 503 |
//! | serving | 200 | 200 |
//! | clock in doubt: checks are answered and stops taken, grants are refused | 200 | 200 |
//! | writes stopped: checks are still answered | 200 | 503 |
//! | draining | 503 | 503 |

use std::{fmt, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use tokio::sync::watch;

use super::Metrics;

/// The state of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Opening the ledger, as far as the step says; no requests are answered yet.
    Opening(Option<Step>),
    /// All requests are answered.
    Serving,
    /// As serving, but grants are refused until the clock is trusted.
    ClockInDoubt,
    /// Checks are answered, writes are refused until restart.
    WritesStopped,
    /// Finishing the requests in flight.
    Draining,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Opening(None) => "opening",
            Self::Opening(Some(step)) => return write!(f, "opening: {step}"),
            Self::Serving => "serving",
            Self::ClockInDoubt => "serving; the clock is not trusted, and no grants are taken",
            Self::WritesStopped => "writes stopped",
            Self::Draining => "draining",
        })
    }
}

/// How far a step of the opening has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// What is done.
    pub name: &'static str,
    /// How much of it is done.
    pub percent: u8,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} %", self.name, self.percent)
    }
}

/// Updates the metrics that are read on demand.
pub type Observe = Arc<dyn Fn() + Send + Sync>;

/// The three pages. `observe` is called before each exposition.
pub fn router(metrics: Arc<Metrics>, phase: watch::Receiver<Phase>, observe: Observe) -> Router {
    Router::new()
        .route("/metrics", get(exposition).with_state((metrics, observe)))
        .route("/healthz", get(healthz).with_state(phase.clone()))
        .route("/readyz", get(readyz).with_state(phase))
}

async fn exposition(
    State((metrics, observe)): State<(Arc<Metrics>, Observe)>,
) -> impl IntoResponse {
    observe();
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    metrics
        .encode()
        .map(|text| ([(header::CONTENT_TYPE, content_type)], text))
        .map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}

async fn healthz(State(phase): State<watch::Receiver<Phase>>) -> impl IntoResponse {
    let phase = *phase.borrow();
    (
        status(matches!(phase, Phase::Serving | Phase::ClockInDoubt | Phase::WritesStopped)),
        format!("{phase}\n"),
    )
}

async fn readyz(State(phase): State<watch::Receiver<Phase>>) -> impl IntoResponse {
    let phase = *phase.borrow();
    (status(matches!(phase, Phase::Serving | Phase::ClockInDoubt)), format!("{phase}\n"))
}

fn status(good: bool) -> StatusCode {
    if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use tower::ServiceExt;

    use super::*;

    async fn get_page(router: &Router, page: &str) -> StatusCode {
        let request = http::Request::get(page).body(Body::empty()).unwrap();
        router.clone().oneshot(request).await.unwrap().status()
    }

    #[tokio::test]
    async fn pages_follow_the_phase() {
        let (sender, receiver) = watch::channel(Phase::Opening(None));
        let router = router(Arc::new(Metrics::new()), receiver, Arc::new(|| {}));
        for (phase, healthy, ready) in [
            (Phase::Opening(Some(Step { name: "view", percent: 12 })), 503, 503),
            (Phase::Serving, 200, 200),
            (Phase::WritesStopped, 200, 503),
            (Phase::Draining, 503, 503),
        ] {
            sender.send_replace(phase);
            assert_eq!(get_page(&router, "/healthz").await, healthy, "{phase:?}");
            assert_eq!(get_page(&router, "/readyz").await, ready, "{phase:?}");
            assert_eq!(get_page(&router, "/metrics").await, 200);
        }
        assert_eq!(get_page(&router, "/").await, 404);
    }

    #[tokio::test]
    async fn metrics_are_observed_before_they_are_exported() {
        let metrics = Arc::new(Metrics::new());
        let (_sender, receiver) = watch::channel(Phase::Serving);
        let observed = Arc::clone(&metrics);
        let observe = Arc::new(move || {
            observed.ledger_entries.set(7);
        });
        let router = router(metrics, receiver, observe);
        let request = http::Request::get("/metrics").body(Body::empty()).unwrap();
        let answer = router.oneshot(request).await.unwrap();
        let bytes = axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        assert!(text.contains("\nconsent_ledger_ledger_entries 7\n"), "{text}");
    }
}
