//! `ConsentAct`: an act of consent of a data subject, or of somebody who acts for them.

use super::{
    EntryError, IdempotencyMark, Kind, OfSubjects, Place, Receipted, Subjects, Target, Touched,
    fields::{
        changes_from_proto, changes_to_proto, contact_from_proto, contact_to_proto, field, fixed,
        idempotency_from_proto, idempotency_to_proto, sealed_from_proto, sealed_to_proto,
        subject_ref,
    },
};
use crate::{
    domain::{
        Actor, Catalog, ChangeRecord, ContactChange, Mark, Millis, Sealed, SubjectRef,
        SubjectState, UnknownKey,
    },
    event::{ConsentOutline, EventOutline},
    fold::{Judged, Lead, Untrue, consent, due},
    history::Line,
    proto,
};

/// An act of consent of a data subject, or of somebody who acts for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsentAct {
    /// Whose consent it is.
    pub subject_ref: SubjectRef,
    /// Who acted.
    pub actor: Actor,
    /// When it took effect.
    pub effective_at: Millis,
    /// What changed, with the outcome of each change.
    pub changes: Vec<ChangeRecord>,
    /// The evidence; none if there was none to keep.
    pub evidence: Option<Sealed>,
    /// The caller's idempotency key, if it gave one.
    pub idempotency: Option<IdempotencyMark>,
    /// For guardians: first moment without their authority.
    pub authority_ends_at: Option<Millis>,
    /// The confirmation offered, if some change waits for one.
    pub confirmation: Option<ConfirmationOffer>,
    /// How the data subject wants to be contacted.
    pub contact: ContactChange,
}

/// The token that confirms an act, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfirmationOffer {
    /// SHA-256 of the token's text.
    pub token_hash: [u8; 32],
    /// First moment at which the token no longer counts.
    pub expires_at: Millis,
}

impl ConsentAct {
    fn mark(&self, index: u64) -> Mark {
        Mark { effective_at: self.effective_at, index }
    }
}

impl Kind for ConsentAct {
    fn message(&self) -> proto::entry::Body {
        let (key_hash, request_digest) = idempotency_to_proto(self.idempotency);
        proto::entry::Body::ConsentAct(proto::ConsentAct {
            subject_ref: self.subject_ref.0.to_vec(),
            actor: proto::Actor::from(self.actor).into(),
            effective_at_ms: self.effective_at.0,
            changes: changes_to_proto(&self.changes),
            evidence: self.evidence.as_ref().map(sealed_to_proto),
            idempotency_key_hash: key_hash,
            request_digest,
            authority_ends_at_ms: self.authority_ends_at.map(|at| at.0),
            confirmation: self.confirmation.map(|offer| proto::ConfirmationOffer {
                token_hash: offer.token_hash.to_vec(),
                expires_at_ms: offer.expires_at.0,
            }),
            preferences: (!self.contact.is_empty()).then(|| contact_to_proto(&self.contact)),
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
        let token = self.confirmation.map(|offer| Lead::Token(offer.token_hash));
        let authority_ends_at = self.authority_ends_at.filter(|_| self.actor == Actor::Guardian);
        let Place { index, recorded_at } = place;
        let due = due(recorded_at, self.subject_ref, index, &self.changes, authority_ends_at);
        idempotency.into_iter().chain(token).chain(due).collect()
    }

    fn outline(&self) -> EventOutline<'_> {
        EventOutline::Consent(ConsentOutline {
            subject: self.subject_ref,
            actor: self.actor,
            effective_at: self.effective_at,
            changes: &self.changes,
            preferences_changed: !self.contact.is_empty(),
            cause: None,
            reason: None,
        })
    }

    fn line(&self, _: Place, _: SubjectRef) -> Option<Line> {
        let line = self.receipt()?.line();
        Some(Line { contact: self.contact.clone(), ..line })
    }

    fn idempotency(&self) -> Option<IdempotencyMark> {
        self.idempotency
    }

    fn receipt(&self) -> Option<Receipted<'_>> {
        Some(Receipted {
            subject: self.subject_ref,
            actor: self.actor,
            effective_at: self.effective_at,
            changes: &self.changes,
            evidence: self.evidence.as_ref(),
            idempotency: self.idempotency,
            authority_ends_at: self.authority_ends_at,
            confirms: None,
            confirm_until: self.confirmation.map(|offer| offer.expires_at),
        })
    }
}

impl OfSubjects for ConsentAct {
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
        consent::fold(catalog, state, &consent::ActFacts::of(place.index, self))?;
        let mark = catalog.latest(self.mark(place.index), state.revision);
        state.merge_contact(mark, &self.contact);
        Ok(())
    }

    fn touches(&self) -> Touched<'_> {
        Touched::Changes(&self.changes)
    }

    fn untrue(&self, judged: &mut Judged<'_>) -> Result<Vec<Untrue>, UnknownKey> {
        judged.remember_request(self);
        let mark = self.mark(judged.place.index);
        let mut untrue = judged.outcomes(mark, self.actor, false, &self.changes)?;
        let latest = judged.latest_effect();
        untrue.extend((self.effective_at > latest).then_some(Untrue::EffectiveAt { latest }));
        Ok(untrue)
    }
}

impl TryFrom<proto::ConsentAct> for ConsentAct {
    type Error = EntryError;

    fn try_from(message: proto::ConsentAct) -> Result<Self, EntryError> {
        let actor = Actor::try_from(message.actor()).map_err(|()| field("actor"))?;
        let idempotency =
            idempotency_from_proto(&message.idempotency_key_hash, &message.request_digest)?;
        let contact = message.preferences.as_ref().map(contact_from_proto).transpose()?;
        let contact = contact.unwrap_or_default();
        let confirmation = message.confirmation.map(|offer| {
            let token_hash = fixed("confirmation.token_hash", &offer.token_hash)?;
            Ok(ConfirmationOffer { token_hash, expires_at: Millis(offer.expires_at_ms) })
        });
        if message.changes.is_empty() && contact.is_empty() {
            return Err(field("changes"));
        }
        Ok(Self {
            subject_ref: subject_ref("subject_ref", &message.subject_ref)?,
            actor,
            effective_at: Millis(message.effective_at_ms),
            changes: changes_from_proto(message.changes)?,
            evidence: message.evidence.map(sealed_from_proto).transpose()?,
            idempotency,
            authority_ends_at: message.authority_ends_at_ms.map(Millis),
            confirmation: confirmation.transpose()?,
            contact,
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::{option, prelude::*};

    use super::*;
    use crate::entry::{
        Body,
        fields::tests::{
            any_actor, any_changes, any_contact, any_mark, any_sealed, any_subject_ref,
        },
        tests::{reads_back, refused},
    };

    pub(in crate::entry) fn any_act() -> impl Strategy<Value = ConsentAct> {
        let actor = (any_subject_ref(), any_actor(), any::<i64>());
        let offer = any::<([u8; 32], i64)>()
            .prop_map(|(token_hash, at)| ConfirmationOffer { token_hash, expires_at: Millis(at) });
        let rest = (option::of(any::<i64>()), option::of(offer), any_contact());
        (actor, any_changes(), any_sealed(), any_mark(), rest).prop_map(
            |((subject_ref, actor, at), changes, evidence, idempotency, rest)| {
                let (authority_ends_at, confirmation, contact) = rest;
                ConsentAct {
                    subject_ref,
                    actor,
                    effective_at: Millis(at),
                    changes,
                    evidence,
                    idempotency,
                    authority_ends_at: authority_ends_at.map(Millis),
                    confirmation,
                    contact,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn the_message_reads_back(act in any_act()) {
            reads_back(&Body::Act(act));
        }
    }

    #[test]
    fn unknown_actor_and_missing_changes_are_errors() {
        let act = proto::ConsentAct { subject_ref: vec![0; 16], actor: 99, ..Default::default() };
        refused(proto::entry::Body::ConsentAct(act.clone()), "actor");
        refused(proto::entry::Body::ConsentAct(proto::ConsentAct { actor: 1, ..act }), "changes");
    }
}
