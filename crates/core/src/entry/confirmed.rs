//! `ConsentConfirmed`: a double opt-in was completed. The grants keep their place in the order of
//! acts, so a stop after the act that is confirmed still stands.

use super::{
    Content, EntryError, IdempotencyMark, Kind, Meanings, Names, OfSubjects, Place, Receipted,
    Subjects, Target, Touched,
    fields::{
        changes_of_messages, changes_to_messages, field, idempotency_of_message,
        idempotency_to_message,
    },
};
use crate::{
    domain::{Actor, Catalog, ChangeRecord, Mark, Millis, SubjectRef, SubjectState, UnknownKey},
    event::{ConsentOutline, EventOutline},
    fold::{Judged, Lead, Untrue, consent, due},
    history::Line,
    proto::{
        self,
        ledger::{self, Record, RecordKind},
    },
};

/// A double opt-in was completed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsentConfirmed {
    /// Whose consent it is.
    pub subject_ref: SubjectRef,
    /// Index of the act that is confirmed.
    pub request_index: u64,
    /// Who performed that act.
    pub requested_by: Actor,
    /// When that act took effect.
    pub requested_at: Millis,
    /// For guardians: first moment without their authority.
    pub authority_ends_at: Option<Millis>,
    /// When the confirmation took effect.
    pub effective_at: Millis,
    /// The grants that are confirmed, with their outcome now.
    pub grants: Vec<ChangeRecord>,
    /// The caller's idempotency key, if it gave one.
    pub idempotency: Option<IdempotencyMark>,
}

impl ConsentConfirmed {
    /// The confirmed act's place in the order of acts.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark { effective_at: self.requested_at, index: self.request_index }
    }
}

impl Kind for ConsentConfirmed {
    fn content(&self, names: &Names<'_>) -> Result<Content, EntryError> {
        let (idempotency, request_digest) = idempotency_to_message(self.idempotency);
        let is_guardian = self.requested_by == Actor::Guardian;
        let subject = self.subject_ref;
        let record = Record {
            kind: RecordKind::Confirmation.into(),
            actor: proto::Actor::from(self.requested_by).into(),
            effective_at_ms: self.effective_at.0,
            changes: changes_to_messages(&self.grants, subject, names)?,
            authority_ends_at_ms: self.authority_ends_at.filter(|_| is_guardian).map(|at| at.0),
            confirms: names.reference(subject, self.request_index)?.to_vec(),
            requested_at_ms: Some(self.requested_at.0),
            idempotency,
            request_digest,
            door: ledger::Door::Call.into(),
            ..Record::default()
        };
        Ok(Content::record(subject, record))
    }

    fn named(&self) -> Subjects {
        smallvec::smallvec![self.subject_ref]
    }

    fn target(&self) -> Target<'_> {
        Target::Subjects(self)
    }

    fn leads(&self, place: Place) -> Vec<Lead> {
        let idempotency = self.idempotency.map(|mark| Lead::Idempotency(mark.key_hash));
        let is_guardian = self.requested_by == Actor::Guardian;
        let authority_ends_at = self.authority_ends_at.filter(|_| is_guardian);
        let (subject, request_index) = (self.subject_ref, self.request_index);
        let due = due(place.recorded_at, subject, request_index, &self.grants, authority_ends_at);
        idempotency.into_iter().chain([Lead::Confirms(self.request_index)]).chain(due).collect()
    }

    fn outline(&self) -> EventOutline<'_> {
        EventOutline::Consent(ConsentOutline {
            subject: self.subject_ref,
            actor: self.requested_by,
            effective_at: self.effective_at,
            changes: &self.grants,
            preferences_changed: false,
            cause: Some(self.request_index),
            reason: None,
        })
    }

    fn line(&self, _: Place, _: SubjectRef) -> Option<Line> {
        Some(self.receipt()?.line())
    }

    fn idempotency(&self) -> Option<IdempotencyMark> {
        self.idempotency
    }

    fn receipt(&self) -> Option<Receipted<'_>> {
        Some(Receipted {
            subject: self.subject_ref,
            actor: self.requested_by,
            effective_at: self.effective_at,
            changes: &self.grants,
            authority_ends_at: self.authority_ends_at,
            confirms: Some((self.request_index, self.requested_at)),
            confirm_until: None,
        })
    }
}

impl OfSubjects for ConsentConfirmed {
    fn effective_at(&self, _: Place) -> Millis {
        self.effective_at
    }

    fn fold(
        &self,
        place: Place,
        catalog: &Catalog,
        _: SubjectRef,
        state: &mut SubjectState,
    ) -> Result<(), UnknownKey> {
        consent::confirm(catalog, state, place.index, self)
    }

    fn touches(&self, _: SubjectRef) -> Touched<'_> {
        Touched::Changes(&self.grants)
    }

    fn untrue(&self, judged: &mut Judged<'_>) -> Result<Vec<Untrue>, UnknownKey> {
        let repeats_its_request = judged.takes_up_request(self);
        let mut untrue = judged.outcomes(self.mark(), self.requested_by, true, &self.grants)?;
        untrue.extend((!repeats_its_request).then_some(Untrue::Confirmation));
        Ok(untrue)
    }
}

impl ConsentConfirmed {
    /// The confirmation of a record.
    pub(super) fn of_record(
        subject_ref: SubjectRef,
        record: Record,
        meanings: &Meanings<'_>,
    ) -> Result<Self, EntryError> {
        let requested_at = record.requested_at_ms.ok_or(field("requested_at_ms"))?;
        Ok(Self {
            subject_ref,
            request_index: meanings.index("confirms", &record.confirms)?,
            requested_by: record.actor().try_into().map_err(|()| field("actor"))?,
            requested_at: Millis(requested_at),
            authority_ends_at: record.authority_ends_at_ms.map(Millis),
            effective_at: Millis(record.effective_at_ms),
            idempotency: idempotency_of_message(&record.idempotency, &record.request_digest)?,
            grants: changes_of_messages(record.changes, meanings)?,
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::entry::{Body, act::tests::any_act, fields::tests::any_grant, tests::reads_back};

    pub(in crate::entry) fn any_confirmed() -> impl Strategy<Value = ConsentConfirmed> {
        (any_act(), any::<u64>(), vec(any_grant(), 1..4)).prop_map(
            |(act, request_index, grants)| ConsentConfirmed {
                subject_ref: act.subject_ref,
                request_index,
                requested_by: act.actor,
                requested_at: act.effective_at,
                authority_ends_at: act.authority_ends_at,
                effective_at: act.effective_at,
                grants,
                idempotency: act.idempotency,
            },
        )
    }

    proptest! {
        #[test]
        fn it_reads_back(confirmed in any_confirmed()) {
            reads_back(&Body::Confirmed(confirmed));
        }
    }
}
