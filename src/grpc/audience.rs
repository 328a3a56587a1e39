//! `FilterAudience`: the question once, then data subjects in and verdicts out.
//!
//! The next message is read once the client has taken the last answer. So of an audience of any size the
//! server holds one message, and a number for each person that it let through; a slow client delays only
//! itself.

use std::{
    collections::HashSet,
    hash::{BuildHasher as _, RandomState},
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
    domain::{Effect, Millis, Reason, Subject, SubjectError},
    node::{Audience, Checked, Member, Node, Person, ReadError, UsesRecorded},
    proto::{
        self, filter_audience_request::Message as Incoming,
        filter_audience_response::Message as Outgoing,
    },
    status::{Fault, Problem},
};

/// How many data subjects one blocking call decides. If the client goes away, this call is still
/// finished.
const SUBJECTS_AT_A_TIME: usize = 1_000;

/// The greatest number of persons that one audience lets through: each takes some 20 bytes until it ends.
const PERSONS_MAX: usize = 10_000_000;

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
                deciding.audience.check_age()?;
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
        let (persons, tally) = (Persons::default(), Tally::default());
        Ok(Deciding { audience, packed, record_as, use_revision, persons, tally })
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
    persons: Persons,
    tally: Tally,
}

/// The persons that an audience let through, now or later, by a hash that only this audience has.
#[derive(Default)]
struct Persons {
    hashes: HashSet<u64>,
    hasher: RandomState,
}

impl Persons {
    /// Whether the person is new.
    fn add(&mut self, person: &Person) -> bool {
        self.hashes.insert(self.hasher.hash_one(person))
    }
}

#[derive(Default)]
struct Tally {
    subjects: u64,
    allowed: u64,
    not_now: u64,
    obligations_ignored: u64,
    malformed: u64,
    duplicates: u64,
    reasons: [u64; Reason::ALL.len()],
}

/// What an audience says about one data subject.
struct Verdict {
    /// As the client wrote it.
    given: String,
    answer: Answer,
}

enum Answer {
    /// It is no data subject.
    Malformed,
    /// Its namespace is not in the catalogue.
    UnknownNamespace,
    /// The audience let the person through before.
    Duplicate,
    /// There is a decision.
    Decided { subject: Subject, person: Person, decided: Decided },
}

/// The part of a decision that an audience tells.
#[derive(Clone, Copy)]
struct Decided {
    effect: Effect,
    reason: Reason,
    /// With NOT_NOW: the first moment that is permitted, if one is known.
    not_before: Option<Millis>,
    obligations_ignored: bool,
}

impl From<&Checked> for Decided {
    fn from(checked: &Checked) -> Self {
        Self {
            effect: checked.effect,
            reason: checked.decision.reason,
            not_before: checked.due.not_before,
            obligations_ignored: checked.obligations_ignored,
        }
    }
}

impl Verdict {
    fn of(audience: &Audience, given: String) -> Result<Self, ReadError> {
        let answer = match audience.subject(&given) {
            Ok(subject) => {
                let Member { checked, person } = audience.decide(&subject)?;
                Answer::Decided { subject, person, decided: Decided::from(&checked) }
            }
            Err(SubjectError::UnknownNamespace(_)) => Answer::UnknownNamespace,
            Err(_) => Answer::Malformed,
        };
        Ok(Self { given, answer })
    }

    fn decided(&self) -> Option<Decided> {
        match &self.answer {
            Answer::Decided { decided, .. } => Some(*decided),
            Answer::Malformed | Answer::UnknownNamespace | Answer::Duplicate => None,
        }
    }

    fn has(&self, effect: Effect) -> bool {
        self.decided().is_some_and(|decided| decided.effect == effect)
    }
}

impl Deciding {
    async fn verdicts(
        &mut self,
        node: &Node,
        subjects: Vec<String>,
    ) -> Result<proto::AudienceVerdicts, Fault> {
        let mut verdicts = self.decide(subjects).await?;
        self.leave_duplicates_out(&mut verdicts)?;
        self.record_uses(node, &mut verdicts).await?;
        self.tally.add(&verdicts);
        // One message has far fewer data subjects than that.
        let count = |effect| {
            let count = verdicts.iter().filter(|verdict| verdict.has(effect)).count();
            u32::try_from(count).unwrap_or(u32::MAX)
        };
        let mut answer = proto::AudienceVerdicts {
            allowed_count: count(Effect::Allow),
            not_now_count: count(Effect::NotNow),
            ..Default::default()
        };
        if self.packed {
            let bits: Vec<_> = verdicts.iter().map(|verdict| verdict.has(Effect::Allow)).collect();
            answer.packed = convert::packed(&bits);
            return Ok(answer);
        }
        for verdict in verdicts {
            let Some(Decided { effect, not_before, .. }) = verdict.decided() else { continue };
            match effect {
                Effect::Allow => answer.allowed.push(verdict.given),
                Effect::NotNow => answer.not_now.push(proto::AudienceNotNow {
                    subject: verdict.given,
                    not_before: not_before.map(convert::timestamp),
                }),
                Effect::Deny => {}
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
                let verdict = |given| Verdict::of(&audience, given);
                chunk.into_iter().map(verdict).collect::<Result<Vec<_>, _>>()
            });
            verdicts.extend(decided.await?);
        }
        Ok(verdicts)
    }

    /// Lets each person through once. Two names of one person would get twice what a frequency limit
    /// permits.
    fn leave_duplicates_out(&mut self, verdicts: &mut [Verdict]) -> Result<(), Fault> {
        for verdict in verdicts {
            if let Answer::Decided { person, decided, .. } = &verdict.answer
                && decided.effect != Effect::Deny
                && !self.persons.add(person)
            {
                verdict.answer = Answer::Duplicate;
            }
        }
        convert::audience_persons(self.persons.hashes.len(), PERSONS_MAX)?;
        Ok(())
    }

    /// Records the uses of those that are allowed. A stop or a use that was recorded since the audience
    /// began makes another decision: that is the verdict then, and no use is recorded.
    async fn record_uses(&mut self, node: &Node, verdicts: &mut [Verdict]) -> Result<(), Fault> {
        let Some(names) = &self.record_as else { return Ok(()) };
        let (mut subjects, mut allowed) = (Vec::new(), Vec::new());
        for verdict in verdicts {
            if let Answer::Decided { subject, decided, .. } = &mut verdict.answer
                && decided.effect == Effect::Allow
            {
                subjects.push(subject.clone());
                allowed.push(decided);
            }
        }
        if subjects.is_empty() {
            return Ok(());
        }
        let uses = names.uses(&self.audience, subjects);
        let UsesRecorded { revision, refused } = node.record_uses(uses).await?;
        for (position, checked) in refused {
            *allowed[position] = Decided::from(&checked);
        }
        self.use_revision = Some(revision);
        Ok(())
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
            duplicates: self.tally.duplicates,
        }
    }
}

impl Tally {
    fn add(&mut self, verdicts: &[Verdict]) {
        for verdict in verdicts {
            self.subjects += 1;
            match &verdict.answer {
                Answer::Malformed => self.malformed += 1,
                Answer::Duplicate => self.duplicates += 1,
                Answer::UnknownNamespace => self.reasons[Reason::UnknownNamespace as usize] += 1,
                Answer::Decided { decided, .. } => {
                    self.allowed += u64::from(decided.effect == Effect::Allow);
                    self.not_now += u64::from(decided.effect == Effect::NotNow);
                    self.obligations_ignored += u64::from(decided.obligations_ignored);
                    self.reasons[decided.reason as usize] += 1;
                }
            }
        }
    }
}
