//! `FilterAudience`: the question once, then data subjects in and verdicts out.
//!
//! The next message is read when the last answer was taken. So an audience of any size holds no
//! more than one message here, and a client that reads slowly waits for itself alone.

use std::{collections::HashSet, pin::Pin, sync::Arc};

use futures_util::{Stream, stream};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::{
    blocking,
    convert::{self, Filtering, UseNames},
};
use crate::{
    domain::{Effect, Reason, Subject},
    node::{Audience, Node, ReadError},
    proto::{
        self, filter_audience_request::Message as Asked, filter_audience_response::Message as Told,
    },
    status::{Fault, Problem, fault_of_transport},
};

/// How many data subjects are decided in one go. A client that goes away leaves no more than that
/// to be finished.
const SUBJECTS_AT_A_TIME: usize = 1_000;

/// What is answered, in order.
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
        let answer = message.map(|own| proto::FilterAudienceResponse { message: Some(own) });
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
    /// The question has not come yet.
    Unasked,
    /// Data subjects come.
    Deciding(Box<Deciding>),
    /// The summary was told.
    Ended,
}

impl Filter {
    async fn next(&mut self) -> Result<Option<Told>, Status> {
        let drain = self.drain.clone();
        tokio::select! {
            biased;
            () = drain.cancelled() => Err(Fault::ShuttingDown.into()),
            told = self.answer() => told,
        }
    }

    async fn answer(&mut self) -> Result<Option<Told>, Status> {
        if matches!(self.progress, Progress::Unasked) {
            self.progress = Progress::Deciding(Box::new(self.begin().await?));
        }
        let Progress::Deciding(deciding) = &mut self.progress else { return Ok(None) };
        let told = match received(&mut self.requests).await? {
            Some(Asked::Subjects(subjects)) => {
                let subjects = convert::audience_subjects(subjects)?;
                Told::Verdicts(deciding.verdicts(&self.node, subjects).await?)
            }
            Some(Asked::Query(_)) => return Err(Problem::OnlyFirst.at("query").into()),
            None => {
                let summary = deciding.summary();
                self.progress = Progress::Ended;
                Told::Summary(summary)
            }
        };
        Ok(Some(told))
    }

    async fn begin(&mut self) -> Result<Deciding, Status> {
        let Some(Asked::Query(query)) = received(&mut self.requests).await? else {
            return Err(Problem::Required.at("query").into());
        };
        let Filtering { query, at_least_revision, packed, record_as } = convert::filtering(query)?;
        self.node.reach(at_least_revision).await?;
        let audience = Arc::new(self.node.audience(query));
        // Of an audience of nobody, every use is on record already.
        let use_revision = record_as.is_some().then(|| audience.revision());
        Ok(Deciding { audience, packed, record_as, use_revision, tally: Tally::default() })
    }
}

/// The next message; none when the client has sent all.
async fn received(
    requests: &mut Streaming<proto::FilterAudienceRequest>,
) -> Result<Option<Asked>, Status> {
    let request = requests.message().await.map_err(|status| {
        match fault_of_transport(status.clone().into_http::<()>().headers()) {
            Some(fault) => fault.into(),
            None => status,
        }
    })?;
    let Some(request) = request else { return Ok(None) };
    request.message.map(Some).ok_or_else(|| Problem::Required.at("message").into())
}

/// An audience under way.
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
    malformed: u64,
    reasons: [u64; Reason::ALL.len()],
}

/// A data subject as it was asked about, and why it may or may not be addressed; no reason if it is
/// malformed.
type Verdict = (String, Option<Reason>);

impl Deciding {
    async fn verdicts(
        &mut self,
        node: &Node,
        subjects: Vec<String>,
    ) -> Result<proto::AudienceVerdicts, Fault> {
        let verdicts = self.decide(subjects).await?;
        if let Some(names) = &self.record_as
            && let Some(uses) = uses(names, &self.audience, &verdicts)
        {
            self.use_revision = Some(node.record_uses(uses).await?);
        }
        self.tally.add(&verdicts);
        let bits = match self.packed {
            true => convert::packed(&verdicts.iter().map(is_allowed).collect::<Vec<_>>()),
            false => Vec::new(),
        };
        let allowed_count = verdicts.iter().filter(|own| is_allowed(own)).count();
        let allowed = match self.packed {
            true => Vec::new(),
            false => verdicts.into_iter().filter(is_allowed).map(|(subject, _)| subject).collect(),
        };
        Ok(proto::AudienceVerdicts {
            allowed,
            packed: bits,
            // No more than one message has.
            allowed_count: u32::try_from(allowed_count).unwrap_or(u32::MAX),
        })
    }

    async fn decide(&self, subjects: Vec<String>) -> Result<Vec<Verdict>, Fault> {
        let mut verdicts = Vec::with_capacity(subjects.len());
        let mut subjects = subjects.into_iter();
        while subjects.len() > 0 {
            let some: Vec<String> = subjects.by_ref().take(SUBJECTS_AT_A_TIME).collect();
            let audience = Arc::clone(&self.audience);
            let decided = blocking(move || {
                let verdict = |subject: String| {
                    let parsed = Subject::parse(&subject).ok();
                    let reason = parsed.map(|parsed| audience.decide(&parsed)).transpose()?;
                    Ok::<Verdict, ReadError>((subject, reason))
                };
                some.into_iter().map(verdict).collect::<Result<Vec<_>, _>>()
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
        }
    }
}

impl Tally {
    fn add(&mut self, verdicts: &[Verdict]) {
        for verdict in verdicts {
            self.subjects += 1;
            self.allowed += u64::from(is_allowed(verdict));
            match verdict.1 {
                Some(reason) => self.reasons[reason as usize] += 1,
                None => self.malformed += 1,
            }
        }
    }
}

fn is_allowed((_, reason): &Verdict) -> bool {
    reason.is_some_and(|reason| reason.effect() == Effect::Allow)
}

/// The uses of those that are allowed, if any are. Who was asked about twice in one message is used
/// once.
fn uses(
    names: &UseNames,
    audience: &Audience,
    verdicts: &[Verdict],
) -> Option<crate::node::UseBatch> {
    // One question has one basis, and a basis has one reason to allow.
    let reason = verdicts.iter().find(|own| is_allowed(own)).and_then(|(_, reason)| *reason)?;
    let mut seen = HashSet::new();
    let subjects = verdicts
        .iter()
        .filter(|own| is_allowed(own) && seen.insert(own.0.as_str()))
        .filter_map(|(subject, _)| Subject::parse(subject).ok())
        .collect();
    Some(names.uses(audience, subjects, reason))
}
