//! A witness's answers over HTTP: C2SP tlog-witness.
//!
//! | request | answer |
//! | --- | --- |
//! | `POST /add-checkpoint` | 200 and a signature line, once the checkpoint is kept |
//! | | 400 for what is no request, 403 for a checkpoint that its log has not signed, 404 for another log |
//! | | 409 and the size of the latest cosigned checkpoint, if the request continues another |
//! | | 422 for a checkpoint that does not continue it |
//! | | 500 if it can not be kept, 503 if that takes too long |
//! | `GET /<SHA-256 of the origin in hex>/checkpoint` | the latest cosigned checkpoint, or 404 |
//! | `GET /healthz` | 200, or 503 once the state could not be kept, or while the disk takes too long |
//!
//! Nobody is asked who they are: a log's signature is all that counts. So whatever a stranger can
//! send is bounded in size, in time and in number, and so is what it makes the witness write. Only
//! `add-checkpoint` ever waits for the disk.

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

/// The largest request, in bytes: a note, a size, and hashes in base64.
pub const REQUEST_BYTES_MAX: usize = NOTE_BYTES_MAX + (CONSISTENCY_HASHES_MAX + 1) * 45;
/// How long a request's body may take to come.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a request may wait for its turn and for the disk, before its sender is told to come
/// again, and how long the disk may be at work before the witness counts as unwell.
pub const KEEP_TIMEOUT: Duration = Duration::from_secs(10);
/// The most connections at a time; more wait to be accepted.
pub const CONNECTIONS_MAX: usize = 1_024;
/// The most requests that are looked into at a time; more wait for their turn.
pub const REQUESTS_MAX: usize = 16;

const SIZE_TYPE: &str = "text/x.tlog.size";
const TEXT_TYPE: &str = "text/plain; charset=utf-8";

/// The time, in seconds since the Unix epoch.
pub type Clock = fn() -> u64;

/// What answers share.
#[derive(Debug, Clone)]
struct Witness {
    state: Arc<State>,
    turns: Arc<Semaphore>,
    reports: Arc<Reports>,
    clock: Clock,
    keep_timeout: Duration,
}

/// The answers of a witness.
pub fn router(state: Arc<State>, clock: Clock) -> Router {
    let turns = Arc::new(Semaphore::new(REQUESTS_MAX));
    let reports = Arc::default();
    answers(Witness { state, turns, reports, clock, keep_timeout: KEEP_TIMEOUT })
}

fn answers(witness: Witness) -> Router {
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
    timeout(keep_timeout, in_turn(witness, text)).await.unwrap_or_else(|_| {
        debug!("a request was not answered in time: the disk is slow, or too many ask");
        refuse(StatusCode::SERVICE_UNAVAILABLE, "busy; come again later")
    })
}

/// Whoever is no longer waited for still has its turn to the end.
async fn in_turn(witness: Witness, text: String) -> Response {
    // Nobody closes the semaphore.
    let Ok(turn) = Arc::clone(&witness.turns).acquire_owned().await else {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "stopping");
    };
    let answered = tokio::task::spawn_blocking(move || {
        let _turn = turn;
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
    // Either the limit, or a connection that broke off, where nobody reads the answer.
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
            if let Some(untold) = witness.reports.due(origin, kind, head, Instant::now()) {
                tell(kind, origin, size, why, signed, untold);
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

/// Writes down what may be evidence against a log.
fn tell(kind: Kind, origin: &str, size: u64, why: &ProofError, signed: &str, untold: u64) {
    let (bytes, signed) = (signed.len(), excerpt(signed));
    match kind {
        Kind::Fork => {
            let problem = "the log has signed two roots for one size";
            error!(origin, size, signed, bytes, untold, "{problem}");
        }
        Kind::Doubt => {
            // Whoever asks may have made up the proof; the checkpoint is the log's all the same.
            let problem = "no proof that the log continues what was seen";
            warn!(origin, size, %why, signed, bytes, untold, "{problem}");
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
    let unwell = |problem: &str| refuse(StatusCode::SERVICE_UNAVAILABLE, problem);
    if witness.state.poisoned().is_some() {
        return unwell("the state can not be kept");
    }
    match witness.state.keeping_for() {
        Some(long) if long >= witness.keep_timeout => unwell("the disk does not answer"),
        _ => "serving\n".into_response(),
    }
}

fn refuse(status: StatusCode, why: impl std::fmt::Display) -> Response {
    (status, [(header::CONTENT_TYPE, TEXT_TYPE)], format!("{why}\n")).into_response()
}

/// A hash in lowercase hexadecimal, the only writing that there is of it.
fn lower_hex(text: &str) -> Option<Hash> {
    let lower = text.bytes().all(|byte| !byte.is_ascii_uppercase());
    let hash = blake3::Hash::from_hex(text).ok().filter(|_| lower)?;
    Some(*hash.as_bytes())
}

#[cfg(test)]
mod tests;
