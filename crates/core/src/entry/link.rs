//! `SubjectsLinked` and `SubjectsUnlinked`: two data subjects are said to be one person, or no
//! longer.

use super::{
    Content, EntryError, IdempotencyMark, Kind, Names, OfSubjects, Place, Receipted, Subjects,
    Target, Touched, fields::field,
};
use crate::{
    domain::{Actor, Catalog, LinkConfidence, Millis, SubjectRef, SubjectState, UnknownKey},
    event::EventOutline,
    fold::{Judged, Lead, Untrue},
    history::{Line, LineKind, LinkLine},
    proto::{
        self,
        ledger::{Door, Record, RecordKind},
    },
};

/// Two data subjects are said to be one person, or no longer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkChange {
    /// One data subject.
    pub subject_ref: SubjectRef,
    /// The other.
    pub other_ref: SubjectRef,
    /// The confidence of the link; none if they were unlinked.
    pub confidence: Option<LinkConfidence>,
    /// The source of the claim.
    pub asserted_by: String,
}

impl LinkChange {
    /// The other data subject of the link.
    #[must_use]
    pub fn other_than(&self, subject: SubjectRef) -> SubjectRef {
        if self.subject_ref == subject { self.other_ref } else { self.subject_ref }
    }
}

impl Kind for LinkChange {
    /// One record for each side. That of the side which the call named first has the door CALL, the other
    /// one none.
    fn content(&self, _: &Names<'_>) -> Result<Content, EntryError> {
        let kind = match self.confidence {
            Some(_) => RecordKind::Link,
            None => RecordKind::Unlink,
        };
        let confidence = self.confidence.map(proto::LinkConfidence::from);
        let record = |door: Door| {
            Box::new(Record {
                kind: kind.into(),
                door: door.into(),
                text: self.asserted_by.clone(),
                confidence: confidence.map_or(0, Into::into),
                ..Record::default()
            })
        };
        Ok(Content::Persons(smallvec::smallvec![
            (self.subject_ref, record(Door::Call)),
            (self.other_ref, record(Door::Unspecified)),
        ]))
    }

    fn named(&self) -> Subjects {
        smallvec::smallvec![self.subject_ref, self.other_ref]
    }

    fn target(&self) -> Target<'_> {
        Target::Subjects(self)
    }

    fn leads(&self, _: Place) -> Vec<Lead> {
        Vec::new()
    }

    fn outline(&self) -> EventOutline<'_> {
        EventOutline::Link(self)
    }

    fn line(&self, place: Place, subject: SubjectRef) -> Option<Line> {
        let kind = match self.confidence {
            Some(_) => LineKind::Link,
            None => LineKind::Unlink,
        };
        Some(Line {
            link: Some(LinkLine {
                other: self.other_than(subject),
                confidence: self.confidence,
                asserted_by: self.asserted_by.clone(),
            }),
            ..Line::new(kind, Actor::Operator, place.recorded_at)
        })
    }

    fn idempotency(&self) -> Option<IdempotencyMark> {
        None
    }

    fn receipt(&self) -> Option<Receipted<'_>> {
        None
    }
}

impl OfSubjects for LinkChange {
    fn effective_at(&self, place: Place) -> Millis {
        place.recorded_at
    }

    fn fold(
        &self,
        place: Place,
        _: &Catalog,
        subject: SubjectRef,
        state: &mut SubjectState,
    ) -> Result<(), UnknownKey> {
        state.merge_link(self.other_than(subject), self.confidence, place.index);
        Ok(())
    }

    /// Any act of one may now count for the other, or no longer.
    fn touches(&self, _: SubjectRef) -> Touched<'_> {
        Touched::Everything
    }

    /// It makes no claim about the entries before it.
    fn untrue(&self, _: &mut Judged<'_>) -> Result<Vec<Untrue>, UnknownKey> {
        Ok(Vec::new())
    }
}

impl LinkChange {
    /// The link of the records of its two sides.
    pub(super) fn of_records(
        one: (SubjectRef, Record),
        other: (SubjectRef, Record),
    ) -> Result<Self, EntryError> {
        let ((first, record), (second, _)) = match (one.1.door(), other.1.door()) {
            (Door::Call, Door::Unspecified) => (one, other),
            (Door::Unspecified, Door::Call) => (other, one),
            _ => return Err(field("door")),
        };
        let confidence = match record.kind() {
            RecordKind::Link => {
                Some(record.confidence().try_into().map_err(|()| field("confidence"))?)
            }
            _ => None,
        };
        let (subject_ref, other_ref) = (first, second);
        Ok(Self { subject_ref, other_ref, confidence, asserted_by: record.text })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::{option, prelude::*};

    use super::*;
    use crate::entry::{Body, fields::tests::any_subject_ref, tests::reads_back};

    pub(in crate::entry) fn any_link() -> impl Strategy<Value = LinkChange> {
        use LinkConfidence::{Asserted, Verified};
        let confidence = option::of(prop::sample::select(vec![Verified, Asserted]));
        (any_subject_ref(), any_subject_ref(), confidence, ".{0,9}").prop_map(
            |(subject_ref, other_ref, confidence, asserted_by)| LinkChange {
                subject_ref,
                other_ref,
                confidence,
                asserted_by,
            },
        )
    }

    proptest! {
        #[test]
        fn it_reads_back_with_its_sides_in_their_order(link in any_link()) {
            reads_back(&Body::Link(link));
        }
    }

    #[test]
    fn records_of_two_first_sides_are_no_link() {
        let record = |door: Door| Record {
            kind: RecordKind::Unlink.into(),
            door: door.into(),
            ..Record::default()
        };
        let side = |number, door| (SubjectRef([number; 16]), record(door));
        for door in [Door::Call, Door::Unspecified, Door::Import] {
            let link = LinkChange::of_records(side(1, door), side(2, door));
            assert_eq!(link, Err(field("door")));
        }
    }
}
