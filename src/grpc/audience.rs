//! `FilterAudience`: the question once, then data subjects in and verdicts out.
//!
//! The next message is read once the client has taken the last answer. So the server holds one message
//! of an audience of any size, and a slow client delays only itself.

use std::{
    collections::{BTreeMap, HashSet},
    pin::Pin,
    sync::Arc,
};

use futures_util::{Stream, stream};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::{
    blocking,
    convert::{self, Filtering, UseNames},
    received,
};
use crate::{
    domain::{Effect, Millis, ObligationKind, Reason, Subject, SubjectError},
    node::{Audience, Checked, Node, ReadError, UseBatch},
    proto::{
        self, filter_audience_request::Message as Incoming,
        filter_audience_response::Message as Outgoing,
    },
    status::{Fault, Problem},
};

/// How many data subjects one blocking call decides. If the client goes away, this call is still
/// finished.
const SUBJECTS_AT_A_TIME: usize = 1_000;

/// The answers, in order.
pub(super) type Answers =
    Pin<Box<dyn Stream<Item = Result<proto::FilterAudienceResponse, Status>> + Send>>;

/// The answers to a stream of requests. They end once `drain` is cancelled.
pub(super) fn answers(
    node: Arc<Node>,
    drain: CancellationToken,
    requests: Streaming<proto::FilterAudienceRequest>,
) -> Answers {
    let filter = Filter { node, drain, requests, progress: Progress::Unasked };
    Box::pin(stream::try_unfold(filter, async |mut filter| {
        let message = filter.next().await?;
        let answer =
            message.map(|message| proto::FilterAudienceResponse { message: Some(message) });
        Ok(answer.map(|answer| (answer, filter)))
    }))
}

struct Filter {
    node: Arc<Node>,
    drain: CancellationToken,
    requests: Streaming<proto::FilterAudienceRequest>,
    progress: Progress,
}

/// How far a stream has come.
enum Progress {
    /// The question has not arrived yet.
    Unasked,
    /// Data subjects arrive.
    Deciding(Box<Deciding>),
    /// The summary was sent.
    Ended,
}

impl Filter {
    async fn next(&mut self) -> Result<Option<Outgoing>, Status> {
        let drain = self.drain.clone();
        tokio::select! {
            biased;
            () = drain.cancelled() => Err(Fault::ShuttingDown.into()),
            answer = self.answer() => answer,
        }
    }

    async fn answer(&mut self) -> Result<Option<Outgoing>, Status> {
        if matches!(self.progress, Progress::Unasked) {
            self.progress = Progress::Deciding(Box::new(self.begin().await?));
        }
        let Progress::Deciding(deciding) = &mut self.progress else { return Ok(None) };
        let answer = match incoming(&mut self.requests).await? {
            Some(Incoming::Subjects(subjects)) => {
                let subjects = convert::audience_subjects(subjects)?;
                Outgoing::Verdicts(deciding.verdicts(&self.node, subjects).await?)
            }
            Some(Incoming::Query(_)) => return Err(Problem::OnlyFirst.at("query").into()),
            None => {
                let summary = deciding.summary();
                self.progress = Progress::Ended;
                Outgoing::Summary(summary)
            }
        };
        Ok(Some(answer))
    }

    async fn begin(&mut self) -> Result<Deciding, Status> {
        let Some(Incoming::Query(query)) = incoming(&mut self.requests).await? else {
            return Err(Problem::Required.at("query").into());
        };
        let Filtering { query, at_least_revision, packed, record_as } = convert::filtering(query)?;
        self.node.reach(at_least_revision).await?;
        let audience = Arc::new(self.node.audience(query));
        // An audience without data subjects has no uses to wait for.
        let use_revision = record_as.is_some().then(|| audience.revision());
        Ok(Deciding { audience, packed, record_as, use_revision, tally: Tally::default() })
    }
}

/// The next message; none once the client has sent all.
async fn incoming(
    requests: &mut Streaming<proto::FilterAudienceRequest>,
) -> Result<Option<Incoming>, Status> {
    let Some(request) = received(requests).await? else { return Ok(None) };
    request.message.map(Some).ok_or_else(|| Problem::Required.at("message").into())
}

/// An audience in progress.
struct Deciding {
    audience: Arc<Audience>,
    packed: bool,
    record_as: Option<UseNames>,
    use_revision: Option<u64>,
    tally: Tally,
}

#[derive(Default)]
struct Tally {
    subjects: u64,
    allowed: u64,
    not_now: u64,
    obligations_ignored: u64,
    malformed: u64,
    reasons: [u64; Reason::ALL.len()],
}

/// The decision about one data subject.
struct Verdict {
    /// As the client wrote it.
    given: String,
    /// In its canonical form; none if it has none.
    subject: Option<Subject>,
    /// None if it is malformed.
    answered: Option<Answered>,
}

/// What an audience says about a data subject.
struct Answered {
    effect: Effect,
    reason: Reason,
    /// With NOT_NOW: the first moment that is permitted, if one is known.
    not_before: Option<Millis>,
    obligations_ignored: bool,
    /// The obligations that are not met.
    broken: Vec<ObligationKind>,
}

impl Answered {
    fn new(checked: &Checked, now: Millis) -> Self {
        Self {
            effect: checked.effect,
            reason: checked.decision.reason,
            not_before: checked.due.not_before,
            obligations_ignored: checked.obligations_ignored,
            broken: checked.due.broken(now),
        }
    }

    fn unknown_namespace() -> Self {
        let reason = Reason::UnknownNamespace;
        let (not_before, broken) = (None, Vec::new());
        Self { effect: reason.effect(), reason, not_before, obligations_ignored: false, broken }
    }
}

impl Deciding {
    async fn verdicts(
        &mut self,
        node: &Node,
        subjects: Vec<String>,
    ) -> Result<proto::AudienceVerdicts, Fault> {
        let verdicts = self.decide(subjects).await?;
        if let Some(names) = &self.record_as {
            for uses in uses(names, &self.audience, &verdicts) {
                self.use_revision = Some(node.record_uses(uses).await?);
            }
        }
        self.tally.add(&verdicts);
        // One message has far fewer data subjects than that.
        let count = |effect| {
            let count = verdicts.iter().filter(|verdict| has(verdict, effect)).count();
            u32::try_from(count).unwrap_or(u32::MAX)
        };
        let mut answer = proto::AudienceVerdicts {
            allowed_count: count(Effect::Allow),
            not_now_count: count(Effect::NotNow),
            ..Default::default()
        };
        if self.packed {
            answer.packed = convert::packed(&verdicts.iter().map(is_allowed).collect::<Vec<_>>());
            return Ok(answer);
        }
        for Verdict { given: subject, answered, .. } in verdicts {
            match answered {
                Some(Answered { effect: Effect::Allow, .. }) => answer.allowed.push(subject),
                Some(Answered { effect: Effect::NotNow, not_before, .. }) => {
                    let not_before = not_before.map(convert::timestamp);
                    answer.not_now.push(proto::AudienceNotNow { subject, not_before });
                }
                Some(Answered { effect: Effect::Deny, .. }) | None => {}
            }
        }
        Ok(answer)
    }

    async fn decide(&self, subjects: Vec<String>) -> Result<Vec<Verdict>, Fault> {
        let mut verdicts = Vec::with_capacity(subjects.len());
        let mut subjects = subjects.into_iter();
        while subjects.len() > 0 {
            let chunk: Vec<String> = subjects.by_ref().take(SUBJECTS_AT_A_TIME).collect();
            let audience = Arc::clone(&self.audience);
            let decided = blocking(move || {
                let verdict = |given: String| {
                    let (subject, answered) = match audience.subject(&given) {
                        Ok(subject) => {
                            let checked = audience.decide(&subject)?;
                            let answered = Answered::new(&checked, audience.decided_at());
                            (Some(subject), Some(answered))
                        }
                        Err(SubjectError::UnknownNamespace(_)) => {
                            (None, Some(Answered::unknown_namespace()))
                        }
                        Err(_) => (None, None),
                    };
                    Ok::<Verdict, ReadError>(Verdict { given, subject, answered })
                };
                chunk.into_iter().map(verdict).collect::<Result<Vec<_>, _>>()
            });
            verdicts.extend(decided.await?);
        }
        Ok(verdicts)
    }

    fn summary(&self) -> proto::AudienceSummary {
        proto::AudienceSummary {
            revision: self.audience.revision(),
            decided_at: Some(convert::timestamp(self.audience.decided_at())),
            subjects: self.tally.subjects,
            allowed: self.tally.allowed,
            malformed: self.tally.malformed,
            reasons: convert::reason_counts(&self.tally.reasons),
            use_revision: self.use_revision,
            not_now: self.tally.not_now,
            obligations_ignored: self.tally.obligations_ignored,
        }
    }
}

impl Tally {
    fn add(&mut self, verdicts: &[Verdict]) {
        for verdict in verdicts {
            self.subjects += 1;
            self.allowed += u64::from(is_allowed(verdict));
            self.not_now += u64::from(has(verdict, Effect::NotNow));
            match &verdict.answered {
                Some(answered) => {
                    self.obligations_ignored += u64::from(answered.obligations_ignored);
                    self.reasons[answered.reason as usize] += 1;
                }
                None => self.malformed += 1,
            }
        }
    }
}

fn is_allowed(verdict: &Verdict) -> bool {
    has(verdict, Effect::Allow)
}

fn has(verdict: &Verdict, effect: Effect) -> bool {
    verdict.answered.as_ref().is_some_and(|answered| answered.effect == effect)
}

/// The uses of the data subjects that are allowed, those that meet the same obligations together. A data
/// subject that occurs twice in one message is used once.
fn uses(names: &UseNames, audience: &Audience, verdicts: &[Verdict]) -> Vec<UseBatch> {
    let mut seen = HashSet::new();
    // One question has one basis, and a basis has one reason to allow.
    let mut used: BTreeMap<(Reason, &[ObligationKind]), Vec<Subject>> = BTreeMap::new();
    for verdict in verdicts.iter().filter(|verdict| is_allowed(verdict)) {
        if let (Some(subject), Some(answered)) = (&verdict.subject, &verdict.answered)
            && seen.insert(subject)
        {
            used.entry((answered.reason, &answered.broken)).or_default().push(subject.clone());
        }
    }
    let batch = |((reason, broken), subjects): ((Reason, &[ObligationKind]), Vec<Subject>)| {
        names.uses(audience, subjects, reason, broken.to_vec())
    };
    used.into_iter().map(batch).collect()
}
