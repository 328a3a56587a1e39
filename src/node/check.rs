//! Checks: find the subject, read its state and the catalogue together, decide.

use super::{
    Core, Node, ReadError,
    due::{CountedUses, due},
    read::AskedAt,
};
use crate::{
    decide::{decide, unknown_namespace},
    domain::{Decision, Effect, Millis, Query, Region, Subject},
    fold::UseCell,
    obligations::DueAll,
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
    /// Whether obligations that are not met leave an ALLOW as it is.
    pub ignore_obligations: bool,
}

/// A decision, and the revision at which it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// The decision.
    pub decision: Decision,
    /// The obligations that come with an ALLOW of the rules, at the moment of the decision.
    pub due: DueAll,
    /// What the caller hears: ALLOW means now.
    pub effect: Effect,
    /// Whether it is ALLOW only because the caller ignores obligations.
    pub obligations_ignored: bool,
    /// First moment at which effect or reason could change with no new entry.
    pub valid_until: Option<Millis>,
    /// The number of entries that it takes into account.
    pub revision: u64,
    /// The decision token, if one was asked for.
    pub token: Option<String>,
    /// The data subject; none if its namespace is not in the catalogue.
    pub subject: Option<Subject>,
}

impl Checked {
    /// The answer to a question.
    pub(super) fn new(
        decision: Decision,
        due: DueAll,
        ignore_obligations: bool,
        revision: u64,
        subject: Option<&Subject>,
    ) -> Self {
        let decided = decision.effect();
        let effect = due.effect(decided);
        let obligations_ignored = ignore_obligations && effect == Effect::NotNow;
        let (effect, changes_at) = match obligations_ignored {
            true => (decided, None),
            false => (effect, due.changes_at()),
        };
        let valid_until = earlier(decision.valid_until, changes_at);
        Self {
            decision,
            due,
            effect,
            obligations_ignored,
            valid_until,
            revision,
            token: None,
            subject: subject.cloned(),
        }
    }
}

/// The earlier of two moments, of which each may not be known.
pub(super) fn earlier(one: Option<Millis>, other: Option<Millis>) -> Option<Millis> {
    one.into_iter().chain(other).min()
}

impl Node {
    /// Decides a question at the current time. Never blocks for long: it reads memory, or a page
    /// of the view.
    ///
    /// # Errors
    /// [`ReadError::StateUnreadable`].
    pub fn check(&self, question: &Question<'_>) -> Result<Checked, ReadError> {
        self.core.check(question, self.core.asked_now())
    }

    /// The answer about a data subject whose namespace is not in the catalogue. It has no decision token:
    /// a token names the canonical form, and there is none.
    #[must_use]
    pub fn unknown_namespace(&self) -> Checked {
        let decision = unknown_namespace();
        self.core.metrics.decision(decision.reason);
        Checked::new(decision, DueAll::default(), false, self.core.view.applied(), None)
    }
}

impl Core {
    /// Decides a question at a given time.
    pub(super) fn check(
        &self,
        question: &Question<'_>,
        asked: AskedAt,
    ) -> Result<Checked, ReadError> {
        let AskedAt { at: now, due_at } = asked;
        let Question { subject, purpose, channel, data_categories, region, .. } = *question;
        let find = || Ok::<_, ReadError>(self.vault.find(subject)?);
        let ((decision, contact), revision) = self.view.read(find, |catalog, state| {
            let query = Query::new(catalog, purpose, channel, data_categories, region);
            let decision = decide(catalog, state, &query, now);
            let is_allow = decision.effect() == Effect::Allow;
            (decision, state.contact.clone().filter(|_| is_allow))
        })?;
        self.metrics.decision(decision.reason);
        let due = due(&decision, contact.as_deref(), region, due_at, |widest| {
            let subject = self.vault.find(subject)?;
            let linked = subject.map(|subject| self.view.linked(subject)).transpose()?;
            let cell = UseCell::new(purpose, channel);
            // A use that was recorded since the decision counts too.
            let counted = CountedUses::new(subject, &linked.unwrap_or_default(), cell, u64::MAX);
            self.uses(&counted, widest, due_at)
        })?;
        let ignores = question.ignore_obligations;
        Ok(Checked::new(decision, due, ignores, revision, Some(question.subject)))
    }
}
