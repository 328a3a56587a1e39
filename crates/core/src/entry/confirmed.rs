//! `ConsentConfirmed`: a double opt-in was completed. The grants keep their place in the order of
//! acts, so a stop after the act that is confirmed still stands.

use super::{
    EntryError, IdempotencyMark, Kind, OfSubjects, Place, Receipted, Subjects, Target, Touched,
    fields::{
        changes_from_proto, changes_to_proto, field, idempotency_from_proto, idempotency_to_proto,
        sealed_from_proto, sealed_to_proto, subject_ref,
    },
};
use crate::{
    domain::{
        Actor, Catalog, ChangeRecord, Mark, Millis, Sealed, SubjectRef, SubjectState, UnknownKey,
    },
    event::{ConsentOutline, EventOutline},
    fold::{Judged, Lead, Untrue, consent, due},
    history::Line,
    proto,
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
    /// The evidence of the confirmation; none if there was none to keep.
    pub evidence: Option<Sealed>,
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
    fn message(&self) -> proto::entry::Body {
        let (key_hash, request_digest) = idempotency_to_proto(self.idempotency);
        proto::entry::Body::ConsentConfirmed(proto::ConsentConfirmed {
            subject_ref: self.subject_ref.0.to_vec(),
            request_index: self.request_index,
            requested_by: proto::Actor::from(self.requested_by).into(),
            requested_at_ms: self.requested_at.0,
            authority_ends_at_ms: self.authority_ends_at.map(|at| at.0),
            effective_at_ms: self.effective_at.0,
            grants: changes_to_proto(&self.grants),
            evidence: self.evidence.as_ref().map(sealed_to_proto),
            idempotency_key_hash: key_hash,
            request_digest,
        })
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
            evidence: self.evidence.as_ref(),
            idempotency: self.idempotency,
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

    fn touches(&self) -> Touched<'_> {
        Touched::Changes(&self.grants)
    }

    fn untrue(&self, judged: &mut Judged<'_>) -> Result<Vec<Untrue>, UnknownKey> {
        let repeats_its_request = judged.takes_up_request(self);
        let mut untrue = judged.outcomes(self.mark(), self.requested_by, true, &self.grants)?;
        untrue.extend((!repeats_its_request).then_some(Untrue::Confirmation));
        Ok(untrue)
    }
}

impl TryFrom<proto::ConsentConfirmed> for ConsentConfirmed {
    type Error = EntryError;

    fn try_from(message: proto::ConsentConfirmed) -> Result<Self, EntryError> {
        Ok(Self {
            subject_ref: subject_ref("subject_ref", &message.subject_ref)?,
            request_index: message.request_index,
            requested_by: message.requested_by().try_into().map_err(|()| field("requested_by"))?,
            requested_at: Millis(message.requested_at_ms),
            authority_ends_at: message.authority_ends_at_ms.map(Millis),
            effective_at: Millis(message.effective_at_ms),
            idempotency: idempotency_from_proto(
                &message.idempotency_key_hash,
                &message.request_digest,
            )?,
            grants: changes_from_proto(message.grants)?,
            evidence: message.evidence.map(sealed_from_proto).transpose()?,
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::entry::{Body, act::tests::any_act, tests::reads_back};

    pub(in crate::entry) fn any_confirmed() -> impl Strategy<Value = ConsentConfirmed> {
        (any_act(), any::<u64>()).prop_map(|(act, request_index)| ConsentConfirmed {
            subject_ref: act.subject_ref,
            request_index,
            requested_by: act.actor,
            requested_at: act.effective_at,
            authority_ends_at: act.authority_ends_at,
            effective_at: act.effective_at,
            grants: act.changes,
            evidence: act.evidence,
            idempotency: act.idempotency,
        })
    }

    proptest! {
        #[test]
        fn the_message_reads_back(confirmed in any_confirmed()) {
            reads_back(&Body::Confirmed(confirmed));
        }
    }
}
