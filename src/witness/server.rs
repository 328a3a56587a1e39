//! The HTTP endpoints of a witness (C2SP tlog-witness).
//!
//! | request | answer |
//! | --- | --- |
//! | `POST /add-checkpoint` | 200 and a signature line, once the checkpoint is stored |
//! | | 400 for a malformed request, 403 without the log's signature, 404 for an unknown log |
//! | | 409 and the size of the latest cosigned checkpoint, if the old size is another |
//! | | 422 for an inconsistent checkpoint |
//! | | 500 if it can not be stored, 503 if that takes too long |
//! | `GET /<SHA-256 of the origin in hex>/checkpoint` | the latest cosigned checkpoint, or 404 |
//! | `GET /healthz` | 200, or 503 after a failed write, or while the disk takes too long |
//!
//! There is no authentication: only a log's signature counts. So requests are bounded in size, time
//! and number, and so are the writes that they cause. Only `add-checkpoint` waits for the disk.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::{Path, State as With},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use tokio::{sync::Semaphore, time::timeout};
use tracing::{debug, error, warn};

use super::{
    report::{Kind, Reports, excerpt},
    state::{Refusal, State},
};
use crate::tlog::{
    merkle::{Hash, ProofError},
    note::NOTE_BYTES_MAX,
    witness::{AddCheckpoint, CONSISTENCY_HASHES_MAX},
};

/// Maximum size of a request, in bytes: a note, a size, and hashes in base64.
pub const REQUEST_BYTES_MAX: usize = NOTE_BYTES_MAX + (CONSISTENCY_HASHES_MAX + 1) * 45;
/// Timeout of reading a request's body.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a request waits for a permit and the disk before it is answered with 503, and how long the
/// disk may take before the witness is unhealthy.
pub const KEEP_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of connections; more wait to be accepted.
pub const CONNECTIONS_MAX: usize = 1_024;
/// Maximum number of requests that are processed at a time; more wait for a permit.
pub const REQUESTS_MAX: usize = 16;

const SIZE_TYPE: &str = "text/x.tlog.size";
const TEXT_TYPE: &str = "text/plain; charset=utf-8";

/// Returns the time in seconds since the Unix epoch.
pub type Clock = fn() -> u64;

/// Shared by the handlers.
#[derive(Debug, Clone)]
struct Witness {
    state: Arc<State>,
    permits: Arc<Semaphore>,
    reports: Arc<Reports>,
    clock: Clock,
    keep_timeout: Duration,
}

/// The routes of a witness.
pub fn router(state: Arc<State>, clock: Clock) -> Router {
    let permits = Arc::new(Semaphore::new(REQUESTS_MAX));
    let reports = Arc::default();
    routes(Witness { state, permits, reports, clock, keep_timeout: KEEP_TIMEOUT })
}

fn routes(witness: Witness) -> Router {
    Router::new()
        .route("/add-checkpoint", post(add_checkpoint))
        .route("/{origin_hash}/checkpoint", get(checkpoint))
        .route("/healthz", get(healthz))
        .with_state(witness)
}

async fn add_checkpoint(With(witness): With<Witness>, body: Body) -> Response {
    let text = match read(body).await {
        Ok(text) => text,
        Err(answer) => return answer,
    };
    let keep_timeout = witness.keep_timeout;
    timeout(keep_timeout, process(witness, text)).await.unwrap_or_else(|_| {
        debug!("a request timed out: the disk is slow, or there are too many requests");
        refuse(StatusCode::SERVICE_UNAVAILABLE, "busy; come again later")
    })
}

/// The blocking part keeps its permit even if the request has timed out.
async fn process(witness: Witness, text: String) -> Response {
    // Acquiring fails only on a closed semaphore, and this one is never closed.
    let Ok(permit) = Arc::clone(&witness.permits).acquire_owned().await else {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "stopping");
    };
    let answered = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        answer(&witness, &text)
    });
    answered.await.unwrap_or_else(|error| {
        error!(%error, "a request was not answered");
        refuse(StatusCode::INTERNAL_SERVER_ERROR, "a fault of the witness")
    })
}

async fn read(body: Body) -> Result<String, Response> {
    let read = timeout(BODY_TIMEOUT, axum::body::to_bytes(body, REQUEST_BYTES_MAX)).await;
    let Ok(read) = read else {
        return Err(refuse(StatusCode::REQUEST_TIMEOUT, "the body took too long"));
    };
    // The other cause is a broken connection, over which no response can be sent.
    let bytes = read.map_err(|_| {
        let problem = format!("the request is larger than {REQUEST_BYTES_MAX} bytes");
        refuse(StatusCode::PAYLOAD_TOO_LARGE, problem)
    })?;
    String::from_utf8(bytes.into())
        .map_err(|_| refuse(StatusCode::BAD_REQUEST, "the request is not UTF-8"))
}

/// Blocking.
fn answer(witness: &Witness, text: &str) -> Response {
    let request = match AddCheckpoint::parse(text) {
        Ok(request) => request,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, error),
    };
    let checkpoint = &request.checkpoint.checkpoint;
    match witness.state.cosign(&request, (witness.clock)()) {
        Ok(line) => {
            debug!(origin = checkpoint.origin, size = checkpoint.size, "cosigned");
            ([(header::CONTENT_TYPE, TEXT_TYPE)], line).into_response()
        }
        Err(refusal) => refused(witness, &request, &refusal),
    }
}

fn refused(witness: &Witness, request: &AddCheckpoint, refusal: &Refusal) -> Response {
    let checkpoint = &request.checkpoint.checkpoint;
    let (origin, size) = (&checkpoint.origin, checkpoint.size);
    let status = match refusal {
        Refusal::Conflict { size } => {
            debug!(origin, "the request continues another checkpoint");
            let body = format!("{size}\n");
            return (StatusCode::CONFLICT, [(header::CONTENT_TYPE, SIZE_TYPE)], body)
                .into_response();
        }
        Refusal::UnknownOrigin(_) => StatusCode::NOT_FOUND,
        Refusal::Signature(_) => StatusCode::FORBIDDEN,
        Refusal::OldSize { .. } | Refusal::Unreadable(_) => StatusCode::BAD_REQUEST,
        Refusal::Inconsistent { why, signed, forked } => {
            let kind = if *forked { Kind::Fork } else { Kind::Doubt };
            let head = (size, checkpoint.root);
            if let Some(suppressed) = witness.reports.due(origin, kind, head, Instant::now()) {
                log_report(kind, origin, size, why, signed, suppressed);
            }
            StatusCode::UNPROCESSABLE_ENTITY
        }
        Refusal::NotKept(why) => {
            error!(origin, size, why, "the state can not be kept");
            return refuse(StatusCode::INTERNAL_SERVER_ERROR, "the state can not be kept");
        }
    };
    debug!(origin, size, %refusal, "refused");
    refuse(status, refusal)
}

/// Logs a checkpoint that may be evidence against its log.
fn log_report(
    kind: Kind,
    origin: &str,
    size: u64,
    why: &ProofError,
    signed: &str,
    suppressed: u64,
) {
    let (bytes, signed) = (signed.len(), excerpt(signed));
    match kind {
        Kind::Fork => {
            let problem = "the log has signed two roots for one size";
            error!(origin, size, signed, bytes, suppressed, "{problem}");
        }
        Kind::Doubt => {
            // The sender may have made up the proof, but the log has signed the checkpoint.
            let problem = "the checkpoint is not proven to be consistent with the last one";
            warn!(origin, size, %why, signed, bytes, suppressed, "{problem}");
        }
    }
}

async fn checkpoint(With(witness): With<Witness>, Path(origin_hash): Path<String>) -> Response {
    let latest = lower_hex(&origin_hash).and_then(|hash| witness.state.latest(&hash));
    match latest {
        Some(text) => ([(header::CONTENT_TYPE, TEXT_TYPE)], text).into_response(),
        None => refuse(StatusCode::NOT_FOUND, "no checkpoint of such a log was cosigned here"),
    }
}

async fn healthz(With(witness): With<Witness>) -> Response {
    let unhealthy = |problem: &str| refuse(StatusCode::SERVICE_UNAVAILABLE, problem);
    if witness.state.poisoned().is_some() {
        return unhealthy("the state can not be kept");
    }
    match witness.state.keeping_for() {
        Some(duration) if duration >= witness.keep_timeout => unhealthy("the disk does not answer"),
        _ => "serving\n".into_response(),
    }
}

fn refuse(status: StatusCode, why: impl std::fmt::Display) -> Response {
    (status, [(header::CONTENT_TYPE, TEXT_TYPE)], format!("{why}\n")).into_response()
}

/// Parses a hash in lowercase hexadecimal, its only valid form.
fn lower_hex(text: &str) -> Option<Hash> {
    let lower = text.bytes().all(|byte| !byte.is_ascii_uppercase());
    let hash = blake3::Hash::from_hex(text).ok().filter(|_| lower)?;
    Some(*hash.as_bytes())
}

#[cfg(test)]
mod tests;
