//! The ledger's side: brings every new checkpoint to its witnesses, and their cosignatures back.
//!
//! Each witness has a task of its own, so a slow one holds up nobody. A task brings the newest
//! checkpoint that there is; older ones are skipped. After a failure it waits, longer each time, and
//! not in step with others.
//!
//! A witness remembers what this ledger has shown. So it is the witness that knows when the ledger
//! was rolled back, by a restored copy for example, or shows another past: its answer is the loudest
//! that there can be here. Until a witness that has said so cosigns again, the ledger is told to hold
//! back what is not witnessed.

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

/// The largest answer of a witness that is read, in bytes.
pub const ANSWER_BYTES_MAX: usize = 64 << 10;
/// How long to wait after the first failure; twice as long after each further one.
pub const PAUSE_MIN: Duration = Duration::from_millis(200);
/// The longest wait after a failure.
pub const PAUSE_MAX: Duration = Duration::from_secs(30);

const SIZE_TYPE: &str = "text/x.tlog.size";

/// What a ledger does for those who bring its checkpoints to witnesses.
pub trait Ledger: Send + Sync + 'static {
    /// Tells of each checkpoint that was signed.
    fn signed(&self) -> watch::Receiver<Option<Arc<Signed>>>;
    /// The proof that the ledger of `first` entries is the beginning of that of `second`. Blocking.
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
    /// Says whether a witness has seen another past than this ledger shows: while one has, nothing
    /// that too few have cosigned is to be released. Told at each change; does not block.
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

/// Brings checkpoints to witnesses for as long as it lives.
#[derive(Debug)]
#[must_use = "witnesses hear of nothing once it is dropped"]
pub struct Witnesses {
    _tasks: JoinSet<()>,
}

/// How witnesses are asked.
#[derive(Debug, Clone)]
pub struct Asking {
    /// The client, with its time-out.
    pub web: WebClient,
    /// How long to wait after the first failure.
    pub pause_min: Duration,
    /// The longest wait after a failure.
    pub pause_max: Duration,
}

impl Asking {
    /// Asks with a time-out, and trusts a certificate authority (PEM) beside those of the system.
    ///
    /// # Errors
    /// [`WebError::Setup`].
    pub fn new(timeout: Duration, ca: Option<&[u8]>) -> Result<Self, WebError> {
        let web = WebClient::new(timeout, ca)?;
        Ok(Self { web, pause_min: PAUSE_MIN, pause_max: PAUSE_MAX })
    }
}

impl Witnesses {
    /// Starts to bring checkpoints to every witness of a policy that has a URL.
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

/// Those whose last word was that this ledger shows another past, by verifier key. A witness that
/// says nothing, or nothing that counts, has not taken it back; a cosignature does.
#[derive(Debug, Default)]
struct Conflicts(Mutex<BTreeSet<String>>);

impl Conflicts {
    /// The lock is held while the ledger is told, so that the last change is what it was told last.
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

/// What goes on between this ledger and one witness.
struct Courier<L> {
    ledger: Arc<L>,
    name: String,
    key: VerifierKey,
    url: String,
    asking: Asking,
    metrics: Arc<Metrics>,
    counted: WitnessMetrics,
    conflicts: Arc<Conflicts>,
    /// Size of the checkpoint that the witness cosigned last, as far as is known.
    cosigned_size: u64,
    failures: u32,
}

/// Why a checkpoint was not cosigned.
#[derive(Debug, Error)]
enum Failure {
    #[error(
        "this ledger was rolled back, or forked: witness {name} has seen {seen} entries, we have \
         {size}"
    )]
    RolledBack { name: String, seen: u64, size: u64 },
    #[error(
        "this ledger was forked: what witness {name} has seen, {seen} entries, is not the beginning \
         of our {size}: {answer}"
    )]
    Inconsistent { name: String, seen: u64, size: u64, answer: String },
    #[error("witness {name} refuses the checkpoint with status {status}: {answer}")]
    Refused { name: String, status: u16, answer: String },
    #[error("witness {name} answers what is no answer: {problem}")]
    BadAnswer { name: String, problem: String },
    #[error("witness {name} does not answer: {source}")]
    Unreachable { name: String, source: WebError },
    #[error("no proof for witness {name}, which has seen {seen} entries: {why}")]
    NoProof { name: String, seen: u64, why: String },
}

impl<L: Ledger> Courier<L> {
    async fn run(mut self) {
        let mut signed = self.ledger.signed();
        let mut done: Option<Arc<Signed>> = None;
        loop {
            let newest = signed.borrow_and_update().clone();
            match newest {
                Some(newest) if done.as_ref().is_none_or(|done| is_other(done, &newest)) => {
                    if self.bring(&newest, &signed).await {
                        done = Some(newest);
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

    /// Brings a checkpoint. Answers whether there is nothing more to do for it.
    async fn bring(
        &mut self,
        signed: &Signed,
        newest: &watch::Receiver<Option<Arc<Signed>>>,
    ) -> bool {
        let brought = match self.submit(signed).await {
            // Somebody else may have brought a checkpoint that was signed since.
            Err(Failure::RolledBack { seen, .. })
                if newest.borrow().as_ref().is_some_and(|newest| newest.size() >= seen) =>
            {
                self.counted.ended(WitnessOutcome::Outdated);
                return true;
            }
            other => other,
        };
        match brought {
            Ok(cosignatures) => {
                self.counted.ended(WitnessOutcome::Cosigned);
                self.take(signed.size(), cosignatures).await;
                true
            }
            Err(failure) => {
                self.report(&failure);
                false
            }
        }
    }

    /// Asks the witness, and once more if it has seen another checkpoint than was thought.
    async fn submit(&mut self, signed: &Signed) -> Result<Vec<NoteSignature>, Failure> {
        let answer = self.ask(signed).await?;
        let Asked::Outdated(seen) = answer else { return self.cosignatures(signed, answer) };
        if seen < self.cosigned_size {
            warn!(
                witness = self.name,
                seen,
                cosigned = self.cosigned_size,
                "a witness has forgotten what it has cosigned: it was rolled back"
            );
        }
        self.cosigned_size = seen;
        if seen > signed.size() {
            let (name, size) = (self.name.clone(), signed.size());
            return Err(Failure::RolledBack { name, seen, size });
        }
        self.counted.ended(WitnessOutcome::Outdated);
        let answer = self.ask(signed).await?;
        self.cosignatures(signed, answer)
    }

    async fn ask(&self, signed: &Signed) -> Result<Asked, Failure> {
        let request = self.request(signed).await?;
        let name = || self.name.clone();
        let answer = self.asking.web.post(&self.url, request, ANSWER_BYTES_MAX).await;
        let answer = answer.map_err(|source| match source {
            WebError::TooLarge { .. } => {
                Failure::BadAnswer { name: name(), problem: source.to_string() }
            }
            source => Failure::Unreachable { name: name(), source },
        })?;
        let text = String::from_utf8_lossy(&answer.body);
        match answer.status {
            200 => Ok(Asked::Lines(text.into_owned())),
            409 => match seen(&answer.content_type, &text) {
                Some(seen) => Ok(Asked::Outdated(seen)),
                None => {
                    let problem = "status 409 without a size".to_owned();
                    Err(Failure::BadAnswer { name: name(), problem })
                }
            },
            422 => Err(Failure::Inconsistent {
                name: name(),
                seen: self.cosigned_size,
                size: signed.size(),
                answer: first_line(&text),
            }),
            status => Err(Failure::Refused { name: name(), status, answer: first_line(&text) }),
        }
    }

    async fn request(&self, signed: &Signed) -> Result<String, Failure> {
        let (old_size, size) = (self.cosigned_size, signed.size());
        // A size beyond ours has no proof; the witness will say again what it has seen.
        let proof = if old_size == 0 || old_size >= size {
            Vec::new()
        } else {
            let ledger = Arc::clone(&self.ledger);
            let proof = spawn_blocking(move || ledger.prove_consistency(old_size, size)).await;
            let no_proof =
                |why: String| Failure::NoProof { name: self.name.clone(), seen: old_size, why };
            proof
                .map_err(|error| no_proof(error.to_string()))?
                .map_err(|error| no_proof(error.to_string()))?
        };
        let checkpoint = signed.checkpoint.clone();
        Ok(AddCheckpoint { old_size: old_size.min(size), proof, checkpoint }.to_string())
    }

    /// The witness's newest good cosignature in its answer, and one alone, so that no answer fills the
    /// note; those of others are ignored.
    fn cosignatures(
        &mut self,
        signed: &Signed,
        answer: Asked,
    ) -> Result<Vec<NoteSignature>, Failure> {
        let bad = |problem: String| Failure::BadAnswer { name: self.name.clone(), problem };
        let Asked::Lines(lines) = answer else {
            return Err(bad("it has seen another checkpoint again and again".to_owned()));
        };
        let note = signed.checkpoint.note.text().to_owned();
        let mut note = Note::new(note).map_err(|error| bad(error.to_string()))?;
        note.add_lines(&lines).map_err(|error| bad(error.to_string()))?;
        note.verify(&self.key).map_err(|error| bad(error.to_string()))?;
        let timed = note
            .by(&self.key)
            .filter_map(|signature| Some((self.time_s(&note, signature)?, signature)));
        let newest =
            timed.max_by_key(|(time_s, _)| *time_s).map(|(_, signature)| signature.clone());
        let newest = newest.ok_or_else(|| bad("its cosignature tells no time".to_owned()))?;
        self.cosigned_size = signed.size();
        self.counted.entries.set(self.cosigned_size);
        Ok(vec![newest])
    }

    /// When a good cosignature was made, in seconds since the Unix epoch. 0 says that the witness may
    /// have seen more since, and what is larger than 2^63 - 1 is no time (C2SP tlog-cosignature).
    fn time_s(&self, note: &Note, signature: &NoteSignature) -> Option<u64> {
        let mut alone = Note::new(note.text().to_owned()).ok()?;
        alone.add(signature.clone());
        let time_s = alone.verify(&self.key).ok()??;
        (1..=i64::MAX.unsigned_abs()).contains(&time_s).then_some(time_s)
    }

    async fn take(&mut self, size: u64, cosignatures: Vec<NoteSignature>) {
        if self.failures > 0 {
            info!(witness = self.name, size, "the witness cosigns again");
        }
        self.failures = 0;
        self.conflicts.set(&self.key, false, &*self.ledger);
        let ledger = Arc::clone(&self.ledger);
        let added = spawn_blocking(move || ledger.add_cosignatures(size, cosignatures)).await;
        match added {
            Ok(Ok(added)) => {
                debug!(witness = self.name, size, added, "cosigned");
                self.observe();
            }
            Ok(Err(error)) => {
                error!(witness = self.name, size, %error, "a cosignature is not kept");
            }
            Err(error) => error!(witness = self.name, size, %error, "a cosignature is not kept"),
        }
    }

    /// Tells how far as many witnesses as asked have followed.
    fn observe(&self) {
        let signed = self.ledger.signed().borrow().clone();
        if let Some(signed) = signed.filter(|signed| signed.witnessed) {
            self.metrics.checkpoint_witnessed_entries.set(signed.size());
        }
    }

    fn report(&mut self, failure: &Failure) {
        let outcome = match failure {
            Failure::RolledBack { .. } => WitnessOutcome::RolledBack,
            Failure::Inconsistent { .. } => WitnessOutcome::Inconsistent,
            Failure::Refused { .. } => WitnessOutcome::Refused,
            Failure::BadAnswer { .. } => WitnessOutcome::BadAnswer,
            Failure::Unreachable { .. } => WitnessOutcome::Unreachable,
            // Nobody was asked.
            Failure::NoProof { .. } => {
                error!("{failure}");
                self.failures += 1;
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
        self.failures += 1;
    }

    /// How long to wait after so many failures: a random part of a span that doubles.
    fn pause(&self) -> Duration {
        let doublings = self.failures.saturating_sub(1).min(16);
        let span = self.asking.pause_min.saturating_mul(1 << doublings).min(self.asking.pause_max);
        span.mul_f64(rand::rng().random_range(0.5..1.0))
    }
}

/// What a witness answers that is no failure.
#[derive(Debug)]
enum Asked {
    /// Signature lines.
    Lines(String),
    /// It has cosigned a checkpoint of another size last.
    Outdated(u64),
}

/// Whether a witness has to see it, which it has not if only others' cosignatures were added: the
/// ledger's own signature comes first.
fn is_other(done: &Signed, newest: &Signed) -> bool {
    let first_signature = |signed: &Signed| signed.checkpoint.note.signatures().first().cloned();
    done.checkpoint.note.text() != newest.checkpoint.note.text()
        || first_signature(done) != first_signature(newest)
}

/// The size in the body of a 409: digits and a newline.
fn seen(content_type: &str, text: &str) -> Option<u64> {
    let content_type = content_type.split(';').next().unwrap_or_default().trim();
    if content_type != SIZE_TYPE {
        return None;
    }
    crate::tlog::decimal(text.strip_suffix('\n')?)
}

/// The beginning of what somebody else wrote, for a log line.
fn first_line(text: &str) -> String {
    const CHARS_MAX: usize = 200;
    let line = text.lines().next().unwrap_or_default();
    line.chars().filter(|c| !c.is_control()).take(CHARS_MAX).collect()
}

#[cfg(test)]
mod tests;
