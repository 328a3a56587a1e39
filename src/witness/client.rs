//! The ledger's side: submits every new checkpoint to its witnesses and collects their cosignatures.
//!
//! Each witness has its own task, so a slow one does not delay the others. A task submits the newest
//! checkpoint and skips older ones. After a failure it waits with exponential backoff and jitter.
//!
//! A witness remembers the checkpoints of this ledger. So it notices when the ledger was rolled back
//! (for example restored from an old copy) or forked. This is logged as an error, and until that
//! witness cosigns again, the ledger holds unwitnessed checkpoints back.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use parking_lot::Mutex;
use rand::RngExt;
use thiserror::Error;
use tokio::{
    sync::watch,
    task::{JoinSet, spawn_blocking},
    time::sleep,
};
use tracing::{debug, error, info, warn};

use crate::{
    node::{Node, ProveError, ReadError},
    telemetry::{Metrics, WitnessMetrics, WitnessOutcome},
    tlog::{
        key::VerifierKey,
        merkle::Hash,
        note::{Note, NoteSignature},
        policy::{Policy, Witness},
        witness::AddCheckpoint,
    },
    tree::Signed,
    web::{WebClient, WebError},
};

/// Maximum size of a witness's response, in bytes.
pub const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Initial backoff; doubles with each failure.
pub const PAUSE_MIN: Duration = Duration::from_millis(200);
/// Maximum backoff.
pub const PAUSE_MAX: Duration = Duration::from_secs(30);

const SIZE_TYPE: &str = "text/x.tlog.size";

/// The operations of a ledger that submitting checkpoints needs.
pub trait Ledger: Send + Sync + 'static {
    /// The latest signed checkpoint, and a signal for each new one.
    fn signed(&self) -> watch::Receiver<Option<Arc<Signed>>>;
    /// The consistency proof between the trees of `first` and `second` entries. Blocking.
    ///
    /// # Errors
    /// See [`Node::prove_consistency`].
    fn prove_consistency(&self, first: u64, second: u64) -> Result<Vec<Hash>, ProveError>;
    /// Adds cosignatures to the signed checkpoint of `size` entries. Blocking.
    ///
    /// # Errors
    /// See [`Node::add_cosignatures`].
    fn add_cosignatures(
        &self,
        size: u64,
        cosignatures: Vec<NoteSignature>,
    ) -> Result<usize, ReadError>;
    /// Sets whether a witness has reported a conflict. While one has, checkpoints with too few
    /// cosignatures are not released. Called at each change; does not block.
    fn hold_back(&self, conflict: bool);
}

impl Ledger for Node {
    fn signed(&self) -> watch::Receiver<Option<Arc<Signed>>> {
        self.signed()
    }

    fn prove_consistency(&self, first: u64, second: u64) -> Result<Vec<Hash>, ProveError> {
        self.prove_consistency(first, second)
    }

    fn add_cosignatures(
        &self,
        size: u64,
        cosignatures: Vec<NoteSignature>,
    ) -> Result<usize, ReadError> {
        self.add_cosignatures(size, cosignatures)
    }

    fn hold_back(&self, conflict: bool) {
        self.hold_back(conflict);
    }
}

/// Submits checkpoints to witnesses until it is dropped.
#[derive(Debug)]
#[must_use = "checkpoints are no longer submitted once it is dropped"]
pub struct Witnesses {
    _tasks: JoinSet<()>,
}

/// How checkpoints are submitted.
#[derive(Debug, Clone)]
pub struct Asking {
    /// The HTTP client with its timeout.
    pub web: WebClient,
    /// Initial backoff.
    pub pause_min: Duration,
    /// Maximum backoff.
    pub pause_max: Duration,
}

impl Asking {
    /// The default backoff, with a timeout. `ca` is a certificate authority (PEM) that is trusted in
    /// addition to those of the system.
    ///
    /// # Errors
    /// [`WebError::Setup`].
    pub fn new(timeout: Duration, ca: Option<&[u8]>) -> Result<Self, WebError> {
        let web = WebClient::new(timeout, ca)?;
        Ok(Self { web, pause_min: PAUSE_MIN, pause_max: PAUSE_MAX })
    }
}

impl Witnesses {
    /// Starts to submit checkpoints to every witness of the policy that has a URL.
    pub fn start<L: Ledger>(
        ledger: &Arc<L>,
        policy: &Policy,
        asking: &Asking,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let mut tasks = JoinSet::new();
        let conflicts = Arc::new(Conflicts::default());
        for Witness { name, key, url } in policy.witnesses() {
            let Some(url) = url else { continue };
            let courier = Courier {
                ledger: Arc::clone(ledger),
                url: format!("{}/add-checkpoint", url.trim_end_matches('/')),
                counted: metrics.witness(key.name()),
                name: name.clone(),
                key: key.clone(),
                asking: asking.clone(),
                metrics: Arc::clone(metrics),
                conflicts: Arc::clone(&conflicts),
                cosigned_size: 0,
                failures: 0,
            };
            tasks.spawn(courier.run());
        }
        Self { _tasks: tasks }
    }
}

/// Verifier keys of the witnesses that report a conflict. Only a cosignature takes a report back; no
/// response, or a bad one, does not.
#[derive(Debug, Default)]
struct Conflicts(Mutex<BTreeSet<String>>);

impl Conflicts {
    /// Calls the ledger under the lock, so that its calls are in the order of the changes.
    fn set(&self, witness: &VerifierKey, conflict: bool, ledger: &impl Ledger) {
        let mut all = self.0.lock();
        let before = !all.is_empty();
        if conflict {
            all.insert(witness.to_string());
        } else {
            all.remove(&witness.to_string());
        }
        if all.is_empty() == before {
            ledger.hold_back(!all.is_empty());
        }
    }
}

/// Submits the checkpoints of this ledger to one witness.
struct Courier<L> {
    ledger: Arc<L>,
    name: String,
    key: VerifierKey,
    url: String,
    asking: Asking,
    metrics: Arc<Metrics>,
    counted: WitnessMetrics,
    conflicts: Arc<Conflicts>,
    /// Last known size that the witness has cosigned.
    cosigned_size: u64,
    failures: u32,
}

/// Why a checkpoint was not cosigned.
#[derive(Debug, Error)]
enum Failure {
    #[error(
        "this ledger was rolled back, or forked: the witness has seen {seen} entries, we have {size}"
    )]
    RolledBack { seen: u64, size: u64 },
    #[error(
        "this ledger was forked: the {seen} entries that the witness has seen are not the beginning \
         of our {size}: {answer}"
    )]
    Inconsistent { seen: u64, size: u64, answer: String },
    #[error("the witness refuses the checkpoint with status {status}: {answer}")]
    Refused { status: u16, answer: String },
    #[error("the witness sent a malformed response: {0}")]
    BadAnswer(String),
    #[error("the witness does not respond: {0}")]
    Unreachable(WebError),
    #[error("no consistency proof from the {seen} entries that the witness has seen: {problem}")]
    NoProof { seen: u64, problem: String },
}

impl<L: Ledger> Courier<L> {
    async fn run(mut self) {
        let mut signed = self.ledger.signed();
        let mut last: Option<Arc<Signed>> = None;
        loop {
            let newest = signed.borrow_and_update().clone();
            match newest {
                Some(newest) if last.as_ref().is_none_or(|last| differ(last, &newest)) => {
                    if self.deliver(&newest, &signed).await {
                        last = Some(newest);
                    } else {
                        sleep(self.pause()).await;
                    }
                }
                _ => {
                    if signed.changed().await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Submits a checkpoint and handles the outcome. Returns whether the checkpoint is done with.
    async fn deliver(
        &mut self,
        signed: &Signed,
        newest: &watch::Receiver<Option<Arc<Signed>>>,
    ) -> bool {
        match self.submit(signed).await {
            // Another process may have submitted a newer checkpoint of this ledger.
            Err(Failure::RolledBack { seen, .. })
                if newest.borrow().as_ref().is_some_and(|newest| newest.size() >= seen) =>
            {
                self.counted.ended(WitnessOutcome::Outdated);
                true
            }
            Ok(cosignature) => {
                self.counted.ended(WitnessOutcome::Cosigned);
                self.add(signed.size(), cosignature).await;
                true
            }
            Err(failure) => {
                self.report(&failure);
                false
            }
        }
    }

    /// Posts the checkpoint, and once more if the witness has seen another size than expected.
    async fn submit(&mut self, signed: &Signed) -> Result<NoteSignature, Failure> {
        let seen = match self.post(signed).await? {
            Response::Lines(lines) => return self.cosignature(signed, &lines),
            Response::Outdated(seen) => seen,
        };
        if seen < self.cosigned_size {
            warn!(
                witness = self.name,
                seen,
                cosigned = self.cosigned_size,
                "the witness reports a smaller size than it has cosigned: it was rolled back"
            );
        }
        self.cosigned_size = seen;
        if seen > signed.size() {
            return Err(Failure::RolledBack { seen, size: signed.size() });
        }
        self.counted.ended(WitnessOutcome::Outdated);
        match self.post(signed).await? {
            Response::Lines(lines) => self.cosignature(signed, &lines),
            Response::Outdated(_) => {
                let problem = "it has seen another size in each of two responses";
                Err(Failure::BadAnswer(problem.to_owned()))
            }
        }
    }

    async fn post(&self, signed: &Signed) -> Result<Response, Failure> {
        let request = self.request(signed).await?;
        let answer = self.asking.web.post(&self.url, request, ANSWER_BYTES_MAX).await;
        let answer = answer.map_err(|error| match error {
            WebError::TooLarge { .. } => Failure::BadAnswer(error.to_string()),
            error => Failure::Unreachable(error),
        })?;
        let text = String::from_utf8_lossy(&answer.body);
        match answer.status {
            200 => Ok(Response::Lines(text.into_owned())),
            409 => seen(&answer.content_type, &text)
                .map(Response::Outdated)
                .ok_or_else(|| Failure::BadAnswer("status 409 without a size".to_owned())),
            422 => Err(Failure::Inconsistent {
                seen: self.cosigned_size,
                size: signed.size(),
                answer: first_line(&text),
            }),
            status => Err(Failure::Refused { status, answer: first_line(&text) }),
        }
    }

    async fn request(&self, signed: &Signed) -> Result<String, Failure> {
        let (old_size, size) = (self.cosigned_size, signed.size());
        // There is no proof from a larger size; the witness responds with the size that it has seen.
        let proof = if old_size == 0 || old_size >= size {
            Vec::new()
        } else {
            let ledger = Arc::clone(&self.ledger);
            let proof = spawn_blocking(move || ledger.prove_consistency(old_size, size)).await;
            let no_proof = |problem: String| Failure::NoProof { seen: old_size, problem };
            proof
                .map_err(|error| no_proof(error.to_string()))?
                .map_err(|error| no_proof(error.to_string()))?
        };
        let checkpoint = signed.checkpoint.clone();
        Ok(AddCheckpoint { old_size: old_size.min(size), proof, checkpoint }.to_string())
    }

    /// The newest valid cosignature of the witness in its response. Only one is kept, so that no
    /// response fills the note. Signatures of other keys are ignored.
    fn cosignature(&mut self, signed: &Signed, lines: &str) -> Result<NoteSignature, Failure> {
        let note = signed.checkpoint.note.text().to_owned();
        let mut note = Note::new(note).map_err(|error| Failure::BadAnswer(error.to_string()))?;
        note.add_lines(lines).map_err(|error| Failure::BadAnswer(error.to_string()))?;
        note.verify(&self.key).map_err(|error| Failure::BadAnswer(error.to_string()))?;
        let timed = note
            .by(&self.key)
            .filter_map(|signature| Some((self.time_s(&note, signature)?, signature)));
        let newest =
            timed.max_by_key(|(time_s, _)| *time_s).map(|(_, signature)| signature.clone());
        let newest = newest
            .ok_or_else(|| Failure::BadAnswer("its cosignature has no valid time".to_owned()))?;
        self.cosigned_size = signed.size();
        self.counted.entries.set(self.cosigned_size);
        Ok(newest)
    }

    /// The time of a valid cosignature, in seconds since the Unix epoch. C2SP tlog-cosignature: 0 means
    /// that the witness may have seen a later checkpoint; values above 2^63 - 1 are invalid.
    fn time_s(&self, note: &Note, signature: &NoteSignature) -> Option<u64> {
        let mut alone = Note::new(note.text().to_owned()).ok()?;
        alone.add(signature.clone());
        let time_s = alone.verify(&self.key).ok()??;
        (1..=i64::MAX.unsigned_abs()).contains(&time_s).then_some(time_s)
    }

    async fn add(&mut self, size: u64, cosignature: NoteSignature) {
        if self.failures > 0 {
            info!(witness = self.name, size, "the witness cosigns again");
        }
        self.failures = 0;
        self.conflicts.set(&self.key, false, &*self.ledger);
        let ledger = Arc::clone(&self.ledger);
        let added = spawn_blocking(move || ledger.add_cosignatures(size, vec![cosignature])).await;
        match added {
            Ok(Ok(added)) => {
                debug!(witness = self.name, size, added, "cosigned");
                self.observe_witnessed();
            }
            Ok(Err(error)) => {
                error!(witness = self.name, size, %error, "a cosignature is not kept");
            }
            Err(error) => error!(witness = self.name, size, %error, "a cosignature is not kept"),
        }
    }

    /// Sets the metric of the latest checkpoint with enough cosignatures.
    fn observe_witnessed(&self) {
        let signed = self.ledger.signed().borrow().clone();
        if let Some(signed) = signed.filter(|signed| signed.witnessed) {
            self.metrics.checkpoint_witnessed_entries.set(signed.size());
        }
    }

    fn report(&mut self, failure: &Failure) {
        self.failures += 1;
        let outcome = match failure {
            Failure::RolledBack { .. } => WitnessOutcome::RolledBack,
            Failure::Inconsistent { .. } => WitnessOutcome::Inconsistent,
            Failure::Refused { .. } => WitnessOutcome::Refused,
            Failure::BadAnswer(_) => WitnessOutcome::BadAnswer,
            Failure::Unreachable(_) => WitnessOutcome::Unreachable,
            // There was no request to count.
            Failure::NoProof { .. } => {
                error!(witness = self.name, "{failure}");
                return;
            }
        };
        self.counted.ended(outcome);
        if matches!(failure, Failure::RolledBack { .. } | Failure::Inconsistent { .. }) {
            self.conflicts.set(&self.key, true, &*self.ledger);
            self.metrics.witness_conflicts.inc();
            error!(witness = self.name, "{failure}");
        } else {
            warn!(witness = self.name, "{failure}");
        }
    }

    /// The backoff after the failures so far: doubles with each, with jitter.
    fn pause(&self) -> Duration {
        let doublings = self.failures.saturating_sub(1).min(16);
        let span = self.asking.pause_min.saturating_mul(1 << doublings).min(self.asking.pause_max);
        span.mul_f64(rand::rng().random_range(0.5..1.0))
    }
}

/// A response that is not a failure.
#[derive(Debug)]
enum Response {
    /// Signature lines.
    Lines(String),
    /// The size that the witness has cosigned last, which differs from the one in the request.
    Outdated(u64),
}

/// Whether two checkpoints differ in text or in the ledger's signature, which comes first. Added
/// cosignatures make no difference.
fn differ(one: &Signed, other: &Signed) -> bool {
    let first_signature = |signed: &Signed| signed.checkpoint.note.signatures().first().cloned();
    one.checkpoint.note.text() != other.checkpoint.note.text()
        || first_signature(one) != first_signature(other)
}

/// The size in the body of a 409: digits and a newline.
pub(super) fn seen(content_type: &str, text: &str) -> Option<u64> {
    let content_type = content_type.split(';').next().unwrap_or_default().trim();
    if content_type != SIZE_TYPE {
        return None;
    }
    crate::tlog::decimal(text.strip_suffix('\n')?)
}

/// The beginning of a response, for a log line.
fn first_line(text: &str) -> String {
    const CHARS_MAX: usize = 200;
    let line = text.lines().next().unwrap_or_default();
    line.chars().filter(|c| !c.is_control()).take(CHARS_MAX).collect()
}

#[cfg(test)]
mod tests;
