//! `ConsentAct`: an act of consent of a data subject, or of somebody who acts for them.

use super::{
    Content, EntryError, IdempotencyMark, Kind, Meanings, Names, OfSubjects, Place, Receipted,
    Subjects, Target, Touched,
    fields::{
        changes_of_messages, changes_to_messages, contact_of_message, contact_to_message, field,
        fixed, idempotency_of_message, idempotency_to_message,
    },
};
use crate::{
    domain::{
        Actor, Catalog, ChangeRecord, ContactChange, Mark, Millis, SubjectRef, SubjectState,
        UnknownKey,
    },
    event::{ConsentOutline, EventOutline},
    fold::{Judged, Lead, Untrue, consent, due},
    history::Line,
    proto::{
        self,
        ledger::{self, Record, RecordKind},
    },
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
    /// By which way it came.
    pub door: Door,
    /// For imports: where it stood in them.
    pub import: Option<ImportOrigin>,
    /// The caller's idempotency key, if it gave one.
    pub idempotency: Option<IdempotencyMark>,
    /// For guardians: first moment without their authority.
    pub authority_ends_at: Option<Millis>,
    /// The confirmation offered, if some change waits for one.
    pub confirmation: Option<ConfirmationOffer>,
    /// How the data subject wants to be contacted.
    pub contact: ContactChange,
}

/// By which way an act came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Door {
    /// A call of one act.
    #[default]
    Call,
    /// An import: a stream or file of many persons' acts.
    Import,
}

/// Where an act stood in an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportOrigin {
    /// Name of the source, as the caller gave it.
    pub source: String,
    /// The row, from 1.
    pub row: u64,
}

/// The token that confirms an act, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfirmationOffer {
    /// Random. The token is derived from it and the data subject's key.
    pub nonce: [u8; 16],
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
    fn content(&self, names: &Names<'_>) -> Result<Content, EntryError> {
        let (idempotency, request_digest) = idempotency_to_message(self.idempotency);
        let is_guardian = self.actor == Actor::Guardian;
        let record = Record {
            kind: RecordKind::Act.into(),
            actor: proto::Actor::from(self.actor).into(),
            effective_at_ms: self.effective_at.0,
            changes: changes_to_messages(&self.changes, self.subject_ref, names)?,
            preferences: contact_to_message(&self.contact),
            authority_ends_at_ms: self.authority_ends_at.filter(|_| is_guardian).map(|at| at.0),
            idempotency,
            request_digest,
            confirmation: self.confirmation.map(|offer| ledger::Confirmation {
                nonce: offer.nonce.to_vec(),
                token_hash: offer.token_hash.to_vec(),
                expires_at_ms: offer.expires_at.0,
            }),
            door: ledger::Door::from(self.door).into(),
            import: self.import.as_ref().map(|origin| ledger::ImportOrigin {
                source: origin.source.clone(),
                row: origin.row,
            }),
            ..Record::default()
        };
        Ok(Content::record(self.subject_ref, record))
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
        Some(Line { contact: self.contact.clone(), import: self.import.clone(), ..line })
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

    fn touches(&self, _: SubjectRef) -> Touched<'_> {
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

impl ConsentAct {
    /// The act of a record.
    pub(super) fn of_record(
        subject_ref: SubjectRef,
        record: Record,
        meanings: &Meanings<'_>,
    ) -> Result<Self, EntryError> {
        let actor = Actor::try_from(record.actor()).map_err(|()| field("actor"))?;
        let door = Door::try_from(record.door()).map_err(|()| field("door"))?;
        let confirmation = record.confirmation.map(|offer| {
            Ok::<_, EntryError>(ConfirmationOffer {
                nonce: fixed("confirmation.nonce", &offer.nonce)?,
                token_hash: fixed("confirmation.token_hash", &offer.token_hash)?,
                expires_at: Millis(offer.expires_at_ms),
            })
        });
        Ok(Self {
            subject_ref,
            actor,
            effective_at: Millis(record.effective_at_ms),
            changes: changes_of_messages(record.changes, meanings)?,
            door,
            import: record
                .import
                .map(|ledger::ImportOrigin { source, row }| ImportOrigin { source, row }),
            idempotency: idempotency_of_message(&record.idempotency, &record.request_digest)?,
            authority_ends_at: record.authority_ends_at_ms.map(Millis),
            confirmation: confirmation.transpose()?,
            contact: contact_of_message(record.preferences),
        })
    }
}

impl From<Door> for ledger::Door {
    fn from(door: Door) -> Self {
        match door {
            Door::Call => Self::Call,
            Door::Import => Self::Import,
        }
    }
}

impl TryFrom<ledger::Door> for Door {
    type Error = ();

    fn try_from(door: ledger::Door) -> Result<Self, ()> {
        match door {
            ledger::Door::Unspecified => Err(()),
            ledger::Door::Call => Ok(Self::Call),
            ledger::Door::Import => Ok(Self::Import),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::{option, prelude::*};

    use super::*;
    use crate::entry::{
        Body,
        fields::tests::{any_actor, any_changes, any_contact, any_mark, any_subject_ref},
        tests::reads_back,
    };

    pub(in crate::entry) fn any_act() -> impl Strategy<Value = ConsentAct> {
        let actor = (any_subject_ref(), any_actor(), any::<i64>());
        let offer = any::<([u8; 16], [u8; 32], i64)>().prop_map(|(nonce, token_hash, at)| {
            ConfirmationOffer { nonce, token_hash, expires_at: Millis(at) }
        });
        let origin =
            ("[a-z]{1,9}", 1..u64::MAX).prop_map(|(source, row)| ImportOrigin { source, row });
        let door = prop_oneof![
            Just((Door::Call, None)),
            option::of(origin).prop_map(|origin| (Door::Import, origin)),
        ];
        let rest = (option::of(any::<i64>()), option::of(offer), any_contact(), door);
        (actor, any_changes(), any_mark(), rest).prop_map(
            |((subject_ref, actor, at), changes, idempotency, rest)| {
                let (authority_ends_at, confirmation, contact, (door, import)) = rest;
                let authority_ends_at = authority_ends_at.filter(|_| actor == Actor::Guardian);
                ConsentAct {
                    subject_ref,
                    actor,
                    effective_at: Millis(at),
                    changes,
                    door,
                    import,
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
        fn it_reads_back(act in any_act()) {
            reads_back(&Body::Act(act));
        }
    }
}
