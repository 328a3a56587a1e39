//! Checks: find the subject, read its state and the catalogue together, decide.

use super::{Core, Node, ReadError};
use crate::{
    decide::{decide, unknown_namespace},
    domain::{
        Contact, Decision, Effect, FrequencyCap, LinkConfidence, Millis, Obligation, Query, Region,
        Subject,
    },
    fold::UseCell,
    obligations::{self, DueAll},
};

/// "May I use this data?", as a caller asks it.
#[derive(Debug, Clone)]
pub struct Question<'a> {
    /// Whose data.
    pub subject: &'a Subject,
    /// Purpose key.
    pub purpose: &'a str,
    /// Channel key.
    pub channel: &'a str,
    /// Data categories that the caller wants to use; empty means no restriction.
    pub data_categories: &'a [String],
    /// Region of the data subject, if given.
    pub region: Option<Region>,
}

/// A decision, and the revision at which it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// The decision.
    pub decision: Decision,
    /// The obligations that come with an ALLOW, at the current time.
    pub due: DueAll,
    /// The number of entries that it takes into account.
    pub revision: u64,
    /// The decision token, if one was asked for.
    pub token: Option<String>,
    /// The data subject; none if its namespace is not in the catalogue.
    pub subject: Option<Subject>,
}

impl Node {
    /// Decides a question at the current time. Never blocks for long: it reads memory, or one row of
    /// sled.
    ///
    /// # Errors
    /// [`ReadError::StateUnreadable`].
    pub fn check(&self, question: &Question<'_>) -> Result<Checked, ReadError> {
        self.core.check(question, self.core.now())
    }

    /// The answer about a data subject whose namespace is not in the catalogue. It has no decision token:
    /// a token names the canonical form, and there is none.
    #[must_use]
    pub fn unknown_namespace(&self) -> Checked {
        let decision = unknown_namespace();
        self.core.metrics.decision(decision.reason);
        Checked {
            decision,
            due: DueAll::default(),
            revision: self.core.view.applied(),
            token: None,
            subject: None,
        }
    }
}

impl Core {
    /// Decides a question at a given time.
    pub(super) fn check(&self, question: &Question<'_>, now: Millis) -> Result<Checked, ReadError> {
        let Question { subject, purpose, channel, data_categories, region } = *question;
        let find = || Ok::<_, ReadError>(self.vault.find(subject)?);
        let ((decision, contact), revision) = self.view.read(find, |catalog, state| {
            let query = Query::new(catalog, purpose, channel, data_categories, region);
            let decision = decide(catalog, state, &query, now);
            let is_allow = decision.effect() == Effect::Allow;
            (decision, state.contact.clone().filter(|_| is_allow))
        })?;
        self.metrics.decision(decision.reason);
        let due = self.due(question, &decision, contact.as_deref(), now)?;
        let subject = Some(subject.clone());
        Ok(Checked { decision, due, revision, token: None, subject })
    }

    /// The obligations that come with an ALLOW. Most decisions have none, and then nothing is read.
    fn due(
        &self,
        question: &Question<'_>,
        decision: &Decision,
        contact: Option<&Contact>,
        now: Millis,
    ) -> Result<DueAll, ReadError> {
        if decision.obligations.is_empty() && contact.is_none() {
            return Ok(DueAll::default());
        }
        let uses = match widest_limit(decision, contact) {
            Some(widest) => self.recent_uses(question, widest, now)?,
            None => Vec::new(),
        };
        Ok(obligations::due(&decision.obligations, contact, question.region, &uses, now))
    }

    /// When the subject's data was used for the cell, also under subjects that are verified to be the
    /// same person: within the widest period, and of each subject at most the widest limit.
    fn recent_uses(
        &self,
        question: &Question<'_>,
        widest: FrequencyCap,
        now: Millis,
    ) -> Result<Vec<Millis>, ReadError> {
        let Some(subject) = self.vault.find(question.subject)? else { return Ok(Vec::new()) };
        let cell = UseCell::new(question.purpose, question.channel);
        let since = Millis(now.0.saturating_sub(widest.period_ms));
        let limit = usize::try_from(widest.uses_max).unwrap_or(usize::MAX);
        let uses_of = |subject| self.view.uses(subject, cell, since, now, limit);
        let mut uses = uses_of(subject)?;
        for linked in self.view.linked(subject)? {
            if linked.confidence == LinkConfidence::Verified {
                uses.extend(uses_of(linked.subject)?);
            }
        }
        Ok(uses)
    }
}

/// The longest period and the greatest number of uses of all limits that apply.
fn widest_limit(decision: &Decision, contact: Option<&Contact>) -> Option<FrequencyCap> {
    let of_purpose = decision.obligations.iter().filter_map(|obligation| match *obligation {
        Obligation::FrequencyLimit { uses_max, period_ms } => {
            Some(FrequencyCap { uses_max, period_ms })
        }
        Obligation::QuietHours { .. } => None,
    });
    of_purpose.chain(contact.and_then(Contact::frequency_limit)).reduce(|one, other| FrequencyCap {
        uses_max: one.uses_max.max(other.uses_max),
        period_ms: one.period_ms.max(other.period_ms),
    })
}
