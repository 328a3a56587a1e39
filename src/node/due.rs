//! The obligations of an ALLOW at a moment, and the uses that count towards frequency limits. Every
//! answer with an effect comes through here: checks, audiences, preferences, snapshots, uses.

use smallvec::SmallVec;

use super::{Core, ReadError};
use crate::{
    domain::{
        Contact, Decision, Effect, FrequencyCap, LinkConfidence, Millis, Obligation, Region,
        SubjectRef,
    },
    fold::{Linked, UseCell},
    obligations::{self, DueAll},
};

/// Whose uses count, and which: of one cell, in entries before `end`.
#[derive(Debug, Clone)]
pub(super) struct CountedUses {
    /// The data subject, and those that are verified to be the same person.
    pub(super) person: SmallVec<[SubjectRef; 1]>,
    pub(super) cell: UseCell,
    /// The first index that does not count.
    pub(super) end: u64,
}

impl CountedUses {
    /// Of a data subject and the linked ones.
    pub(super) fn new(
        subject: Option<SubjectRef>,
        linked: &[Linked],
        cell: UseCell,
        end: u64,
    ) -> Self {
        let verified = linked.iter().filter(|one| one.confidence == LinkConfidence::Verified);
        let person = subject.into_iter().chain(verified.map(|linked| linked.subject)).collect();
        Self { person, cell, end }
    }
}

/// The obligations of a decision at a moment. Most decisions have none, and then `uses` is not called:
/// it reads the uses within a period, of each data subject at most so many.
pub(super) fn due(
    decision: &Decision,
    contact: Option<&Contact>,
    region: Option<Region>,
    now: Millis,
    uses: impl FnOnce(FrequencyCap) -> Result<Vec<Millis>, ReadError>,
) -> Result<DueAll, ReadError> {
    let is_unbound = decision.obligations.is_empty() && contact.is_none();
    if is_unbound || decision.effect() != Effect::Allow {
        return Ok(DueAll::default());
    }
    let uses = widest_limit(decision, contact).map(uses).transpose()?.unwrap_or_default();
    Ok(obligations::due(&decision.obligations, contact, region, &uses, now))
}

impl Core {
    /// The moments of the uses that count, as far back as a limit reaches from `now`.
    pub(super) fn uses(
        &self,
        counted: &CountedUses,
        widest: FrequencyCap,
        now: Millis,
    ) -> Result<Vec<Millis>, ReadError> {
        let since = Millis(now.0.saturating_sub(widest.period_ms));
        let limit = usize::try_from(widest.uses_max).unwrap_or(usize::MAX);
        let mut uses = Vec::new();
        for subject in &counted.person {
            let (cell, end) = (counted.cell, counted.end);
            uses.extend(self.view.uses(*subject, cell, since, now, end, limit)?);
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
