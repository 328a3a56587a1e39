//! A disclosure, as two kinds of entry: the records of the data subjects that it opens, and the item that says
//! to whom it was given.
//!
//! The records come first. Each takes the tag that the disclosure has to name after a data subject's last
//! record, so that the disclosure leads to nothing later. The item follows once the file is made, and before
//! its first byte is handed out: records without an item are of a disclosure that nobody received.

use super::{
    Content, EntryError, IdempotencyMark, Kind, Names, NamesNoSubject, OfSubjects, Place,
    Receipted, Subjects, Target, Touched, fields::fixed,
};
use crate::{
    domain::{Actor, Catalog, Millis, SubjectRef, SubjectState, UnknownKey},
    event::EventOutline,
    fold::{Judged, Lead, Untrue},
    history::{Line, LineKind},
    proto::ledger::{self, Record, RecordKind, item},
};

/// The entries of some data subjects before this one were disclosed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubjectsDisclosed {
    /// The data subjects, at least one.
    pub subject_refs: Vec<SubjectRef>,
}

impl Kind for SubjectsDisclosed {
    fn content(&self, _: &Names<'_>) -> Result<Content, EntryError> {
        let record = || {
            let kind = RecordKind::Disclosed.into();
            Box::new(Record { kind, ..Record::default() })
        };
        Ok(Content::Persons(self.subject_refs.iter().map(|it| (*it, record())).collect()))
    }

    fn named(&self) -> Subjects {
        self.subject_refs.iter().copied().collect()
    }

    fn target(&self) -> Target<'_> {
        Target::Subjects(self)
    }

    fn leads(&self, _: Place) -> Vec<Lead> {
        Vec::new()
    }

    /// Nobody has to hear of it: no decision changes.
    fn outline(&self) -> EventOutline<'_> {
        EventOutline::Nothing
    }

    fn line(&self, place: Place, _: SubjectRef) -> Option<Line> {
        Some(Line::new(LineKind::Disclosure, Actor::Operator, place.recorded_at))
    }

    fn idempotency(&self) -> Option<IdempotencyMark> {
        None
    }

    fn receipt(&self) -> Option<Receipted<'_>> {
        None
    }
}

impl OfSubjects for SubjectsDisclosed {
    fn effective_at(&self, place: Place) -> Millis {
        place.recorded_at
    }

    /// The states stay as they are.
    fn fold(
        &self,
        _: Place,
        _: &Catalog,
        _: SubjectRef,
        _: &mut SubjectState,
    ) -> Result<(), UnknownKey> {
        Ok(())
    }

    fn touches(&self, _: SubjectRef) -> Touched<'_> {
        Touched::Changes(&[])
    }

    /// It makes no claim about the entries before it.
    fn untrue(&self, _: &mut Judged<'_>) -> Result<Vec<Untrue>, UnknownKey> {
        Ok(Vec::new())
    }
}

impl SubjectsDisclosed {
    /// What the records of an entry say.
    pub(super) fn of_records(records: &[(SubjectRef, Record)]) -> Self {
        Self { subject_refs: records.iter().map(|(subject, _)| *subject).collect() }
    }
}

/// A disclosure was made, and goes to somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DisclosureMade {
    /// To whom.
    pub recipient: String,
    /// SHA-256 of the file.
    pub digest: [u8; 32],
    /// The number of entries that it covers.
    pub revision: u64,
    /// How many data subjects it opens.
    pub persons: u64,
    /// Whether it has keys that open what is recorded later.
    pub open_ended: bool,
}

impl NamesNoSubject for DisclosureMade {
    fn content(&self) -> Content {
        Content::Items(vec![item::Content::Disclosure(ledger::DisclosureMade {
            recipient: self.recipient.clone(),
            digest: self.digest.to_vec(),
            revision: self.revision,
            persons: self.persons,
            open_ended: self.open_ended,
        })])
    }

    fn target(&self) -> Target<'_> {
        Target::Nothing
    }

    fn outline(&self) -> EventOutline<'_> {
        EventOutline::Nothing
    }
}

impl TryFrom<ledger::DisclosureMade> for DisclosureMade {
    type Error = EntryError;

    fn try_from(message: ledger::DisclosureMade) -> Result<Self, EntryError> {
        Ok(Self {
            digest: fixed("disclosure.digest", &message.digest)?,
            recipient: message.recipient,
            revision: message.revision,
            persons: message.persons,
            open_ended: message.open_ended,
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::{collection::btree_set, prelude::*};

    use super::*;
    use crate::entry::{Body, fields::tests::any_subject_ref, tests::reads_back};

    pub(in crate::entry) fn any_disclosed() -> impl Strategy<Value = SubjectsDisclosed> {
        btree_set(any::<[u8; 16]>(), 1..5).prop_map(|subjects| SubjectsDisclosed {
            subject_refs: subjects.into_iter().map(SubjectRef).collect(),
        })
    }

    pub(in crate::entry) fn any_disclosure() -> impl Strategy<Value = DisclosureMade> {
        let numbers = any::<(u64, u64, bool)>();
        ("age1[a-z0-9]{1,9}", any::<[u8; 32]>(), numbers).prop_map(
            |(recipient, digest, (revision, persons, open_ended))| DisclosureMade {
                recipient,
                digest,
                revision,
                persons,
                open_ended,
            },
        )
    }

    proptest! {
        #[test]
        fn an_item_reads_back(disclosure in any_disclosure()) {
            reads_back(&Body::DisclosureMade(disclosure));
        }

        #[test]
        fn a_record_reads_back(subject in any_subject_ref()) {
            reads_back(&Body::Disclosed(SubjectsDisclosed { subject_refs: vec![subject] }));
        }
    }
}
