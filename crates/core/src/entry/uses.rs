//! `UseRecorded`: data of some data subjects was used, with the decision at that moment. It is part
//! of no state: a use changes no decision.

use super::{
    Content, EntryError, IdempotencyMark, Kind, Meanings, Names, Place, Receipted, Subjects,
    Target,
    fields::{field, idempotency_of_message, idempotency_to_message, optional_region},
};
use crate::{
    domain::{Actor, Effect, Key, Millis, Reason, Region, SubjectRef},
    event::EventOutline,
    fold::{Lead, UseCell},
    history::{Line, LineKind},
    proto::{self, ledger::Use},
};

/// A kind of obligation that a use can fail to meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObligationKind {
    /// At most so many uses within a period.
    FrequencyLimit,
    /// No use within these hours.
    QuietHours,
}

/// Data of some data subjects was used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UseRecorded {
    /// Purpose.
    pub purpose: Key,
    /// Channel.
    pub channel: Key,
    /// When.
    pub used_at: Millis,
    /// Name of the segment; empty if there is none.
    pub segment: String,
    /// Name of the campaign; empty if there is none.
    pub campaign: String,
    /// Data categories that were used; empty if not given.
    pub data_categories: Vec<String>,
    /// Region of the use, if given.
    pub region: Option<Region>,
    /// The data subjects whose data was used.
    pub subject_refs: Vec<SubjectRef>,
    /// The reason of the decision at that moment.
    pub reason: Reason,
    /// The obligations that the use did not meet, in their order, each once.
    pub broken_obligations: Vec<ObligationKind>,
    /// The caller's idempotency key, if it gave one.
    pub idempotency: Option<IdempotencyMark>,
}

impl UseRecorded {
    /// Whether no decision allowed the use, or it did not meet an obligation.
    #[must_use]
    pub fn is_deviation(&self) -> bool {
        self.reason.effect() == Effect::Deny || !self.broken_obligations.is_empty()
    }
}

impl Kind for UseRecorded {
    fn content(&self, names: &Names<'_>) -> Result<Content, EntryError> {
        let (idempotency, request_digest) = idempotency_to_message(self.idempotency);
        let broken = self.broken_obligations.iter();
        let used = Use {
            purpose: names.purpose(Some(&self.purpose))?,
            channel: names.channel(Some(&self.channel))?,
            used_at_ms: self.used_at.0,
            segment: self.segment.clone(),
            campaign: self.campaign.clone(),
            data_categories: self.data_categories.clone(),
            region: self.region.map_or_else(String::new, |region| region.to_string()),
            reason: proto::Reason::from(self.reason).into(),
            broken_obligations: broken.map(|it| proto::ObligationKind::from(*it).into()).collect(),
            idempotency,
            request_digest,
            ..Use::default()
        };
        Ok(Content::Uses(self.subject_refs.clone(), Box::new(used)))
    }

    fn named(&self) -> Subjects {
        self.subject_refs.as_slice().into()
    }

    fn target(&self) -> Target<'_> {
        Target::Nothing
    }

    fn leads(&self, _: Place) -> Vec<Lead> {
        let cell = UseCell::new(self.purpose.as_str(), self.channel.as_str());
        let used = |subject: &SubjectRef| Lead::Use { subject: *subject, cell, at: self.used_at };
        let idempotency = self.idempotency.map(|mark| Lead::Idempotency(mark.key_hash));
        self.subject_refs.iter().map(used).chain(idempotency).collect()
    }

    fn outline(&self) -> EventOutline<'_> {
        EventOutline::Nothing
    }

    fn line(&self, _: Place, _: SubjectRef) -> Option<Line> {
        Some(Line {
            used: Some(Box::new(self.clone())),
            ..Line::new(LineKind::Use, Actor::System, self.used_at)
        })
    }

    fn idempotency(&self) -> Option<IdempotencyMark> {
        self.idempotency
    }

    fn receipt(&self) -> Option<Receipted<'_>> {
        None
    }
}

impl UseRecorded {
    /// The use that the tags of some data subjects share.
    pub(super) fn of_use(
        used: Use,
        subject_refs: Vec<SubjectRef>,
        meanings: &Meanings<'_>,
    ) -> Result<Self, EntryError> {
        let broken_obligations = used
            .broken_obligations
            .iter()
            .map(|number| obligation_kind(*number).ok_or(field("broken_obligations")))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            purpose: meanings.purpose(used.purpose)?.ok_or(field("purpose"))?,
            channel: meanings.channel(used.channel)?.ok_or(field("channel"))?,
            used_at: Millis(used.used_at_ms),
            reason: used.reason().try_into().map_err(|()| field("reason"))?,
            segment: used.segment,
            campaign: used.campaign,
            data_categories: used.data_categories,
            region: optional_region(&used.region)?,
            subject_refs,
            broken_obligations,
            idempotency: idempotency_of_message(&used.idempotency, &used.request_digest)?,
        })
    }
}

fn obligation_kind(number: i32) -> Option<ObligationKind> {
    match proto::ObligationKind::try_from(number).ok()? {
        proto::ObligationKind::Unspecified => None,
        proto::ObligationKind::FrequencyLimit => Some(ObligationKind::FrequencyLimit),
        proto::ObligationKind::QuietHours => Some(ObligationKind::QuietHours),
    }
}

impl From<ObligationKind> for proto::ObligationKind {
    fn from(kind: ObligationKind) -> Self {
        match kind {
            ObligationKind::FrequencyLimit => Self::FrequencyLimit,
            ObligationKind::QuietHours => Self::QuietHours,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;
    use crate::entry::{
        Body,
        fields::tests::{any_catalog_key, any_categories, any_mark, any_subject_ref},
        tests::reads_back,
    };

    pub(in crate::entry) fn any_use() -> impl Strategy<Value = UseRecorded> {
        let cell = (any_catalog_key(), any_catalog_key());
        let texts = (".{0,9}", ".{0,9}", any_categories());
        let region = option::of(prop::sample::select(vec!["DE", "US-CA"]));
        let reason = prop::sample::select(vec![Reason::NoRecord, Reason::Granted]);
        let kinds = vec![ObligationKind::FrequencyLimit, ObligationKind::QuietHours];
        let broken = prop::sample::subsequence(kinds, 0..=2);
        let rest = (region, vec(any_subject_ref(), 1..4), reason, any_mark(), broken);
        (cell, any::<i64>(), texts, rest).prop_map(
            |((purpose, channel), at, (segment, campaign, data_categories), rest)| UseRecorded {
                purpose,
                channel,
                used_at: Millis(at),
                segment,
                campaign,
                data_categories,
                region: rest.0.map(|text| Region::parse(text).unwrap()),
                subject_refs: rest.1,
                reason: rest.2,
                idempotency: rest.3,
                broken_obligations: rest.4,
            },
        )
    }

    proptest! {
        #[test]
        fn it_reads_back(used in any_use()) {
            reads_back(&Body::Use(used));
        }
    }
}
