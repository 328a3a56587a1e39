//! `UseRecorded`: data of some data subjects was used, with the decision at that moment. It is part
//! of no state: a use changes no decision.

use super::{
    EntryError, IdempotencyMark, Kind, Place, Receipted, Subjects, Target,
    fields::{field, idempotency_from_proto, idempotency_to_proto, key, optional_region},
};
use crate::{
    domain::{Actor, Effect, Key, Millis, Reason, Region, SubjectRef},
    event::EventOutline,
    fold::{Lead, UseCell},
    history::{Line, LineKind},
    proto,
};

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
    /// The caller's idempotency key, if it gave one.
    pub idempotency: Option<IdempotencyMark>,
}

impl UseRecorded {
    /// Whether no decision allowed the use.
    #[must_use]
    pub fn is_deviation(&self) -> bool {
        self.reason.effect() == Effect::Deny
    }
}

impl Kind for UseRecorded {
    fn message(&self) -> proto::entry::Body {
        let (key_hash, request_digest) = idempotency_to_proto(self.idempotency);
        proto::entry::Body::UseRecorded(proto::UseRecorded {
            scope: Some(proto::Scope {
                purpose: self.purpose.to_string(),
                channel: self.channel.to_string(),
            }),
            used_at_ms: self.used_at.0,
            segment: self.segment.clone(),
            campaign: self.campaign.clone(),
            data_categories: self.data_categories.clone(),
            region: self.region.map_or_else(String::new, |region| region.to_string()),
            subject_refs: self.subject_refs.iter().flat_map(|subject| subject.0).collect(),
            reason: proto::Reason::from(self.reason).into(),
            idempotency_key_hash: key_hash,
            request_digest,
        })
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

impl TryFrom<proto::UseRecorded> for UseRecorded {
    type Error = EntryError;

    fn try_from(message: proto::UseRecorded) -> Result<Self, EntryError> {
        let reason = message.reason().try_into().map_err(|()| field("reason"))?;
        let idempotency =
            idempotency_from_proto(&message.idempotency_key_hash, &message.request_digest)?;
        let scope = message.scope.ok_or(field("scope"))?;
        let (subject_refs, rest) = message.subject_refs.as_chunks::<16>();
        if !rest.is_empty() || subject_refs.is_empty() {
            return Err(field("subject_refs"));
        }
        Ok(Self {
            purpose: key("scope.purpose", &scope.purpose)?,
            channel: key("scope.channel", &scope.channel)?,
            used_at: Millis(message.used_at_ms),
            segment: message.segment,
            campaign: message.campaign,
            data_categories: message.data_categories,
            region: optional_region(&message.region)?,
            subject_refs: subject_refs.iter().copied().map(SubjectRef).collect(),
            reason,
            idempotency,
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;
    use crate::entry::{
        Body,
        fields::tests::{any_catalog_key, any_categories, any_mark, any_subject_ref},
        tests::{reads_back, refused},
    };

    pub(in crate::entry) fn any_use() -> impl Strategy<Value = UseRecorded> {
        let cell = (any_catalog_key(), any_catalog_key());
        let texts = (".{0,9}", ".{0,9}", any_categories());
        let region = option::of(prop::sample::select(vec!["DE", "US-CA"]));
        let reason = prop::sample::select(vec![Reason::NoRecord, Reason::Granted]);
        let rest = (region, vec(any_subject_ref(), 1..4), reason, any_mark());
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
            },
        )
    }

    proptest! {
        #[test]
        fn the_message_reads_back(used in any_use()) {
            reads_back(&Body::Use(used));
        }
    }

    #[test]
    fn a_use_of_nobodys_data_is_an_error() {
        for subject_refs in [Vec::new(), vec![7; 15], vec![7; 17]] {
            let used = proto::UseRecorded {
                scope: Some(proto::Scope { purpose: "news".into(), channel: "email".into() }),
                reason: proto::Reason::Granted.into(),
                subject_refs,
                ..Default::default()
            };
            refused(proto::entry::Body::UseRecorded(used), "subject_refs");
        }
    }
}
