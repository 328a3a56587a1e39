//! `SubjectsLinked` and `SubjectsUnlinked`: two data subjects are said to be one person, or no
//! longer.

use super::{
    EntryError, IdempotencyMark, Kind, OfSubjects, Place, Receipted, Subjects, Target, Touched,
    fields::{field, sealed_from_proto, sealed_to_proto, subject_ref},
};
use crate::{
    domain::{
        Actor, Catalog, LinkConfidence, Millis, Sealed, SubjectRef, SubjectState, UnknownKey,
    },
    event::EventOutline,
    fold::{Judged, Lead, Untrue},
    history::{Line, LineKind, LinkLine},
    proto,
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
    /// The source of the claim, sealed with the first data subject's key.
    pub asserted_by: Option<Sealed>,
}

impl LinkChange {
    /// The other data subject of the link.
    #[must_use]
    pub fn other_than(&self, subject: SubjectRef) -> SubjectRef {
        if self.subject_ref == subject { self.other_ref } else { self.subject_ref }
    }
}

impl Kind for LinkChange {
    fn message(&self) -> proto::entry::Body {
        let subject_ref = self.subject_ref.0.to_vec();
        let other_ref = self.other_ref.0.to_vec();
        let asserted_by = self.asserted_by.as_ref().map(sealed_to_proto);
        match self.confidence {
            Some(confidence) => proto::entry::Body::SubjectsLinked(proto::SubjectsLinked {
                subject_ref,
                other_ref,
                confidence: proto::LinkConfidence::from(confidence).into(),
                asserted_by,
            }),
            None => proto::entry::Body::SubjectsUnlinked(proto::SubjectsUnlinked {
                subject_ref,
                other_ref,
                asserted_by,
            }),
        }
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
                sealed_for: self.subject_ref,
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
    fn touches(&self) -> Touched<'_> {
        Touched::Everything
    }

    /// It makes no claim about the entries before it.
    fn untrue(&self, _: &mut Judged<'_>) -> Result<Vec<Untrue>, UnknownKey> {
        Ok(Vec::new())
    }
}

impl TryFrom<proto::SubjectsLinked> for LinkChange {
    type Error = EntryError;

    fn try_from(message: proto::SubjectsLinked) -> Result<Self, EntryError> {
        let confidence = message.confidence().try_into();
        Ok(Self {
            confidence: Some(confidence.map_err(|()| field("subjects_linked.confidence"))?),
            subject_ref: subject_ref("subject_ref", &message.subject_ref)?,
            other_ref: subject_ref("other_ref", &message.other_ref)?,
            asserted_by: message.asserted_by.map(sealed_from_proto).transpose()?,
        })
    }
}

impl TryFrom<proto::SubjectsUnlinked> for LinkChange {
    type Error = EntryError;

    fn try_from(message: proto::SubjectsUnlinked) -> Result<Self, EntryError> {
        Ok(Self {
            confidence: None,
            subject_ref: subject_ref("subject_ref", &message.subject_ref)?,
            other_ref: subject_ref("other_ref", &message.other_ref)?,
            asserted_by: message.asserted_by.map(sealed_from_proto).transpose()?,
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::{option, prelude::*};

    use super::*;
    use crate::entry::{
        Body,
        fields::tests::{any_sealed, any_subject_ref},
        tests::{reads_back, refused},
    };

    pub(in crate::entry) fn any_link() -> impl Strategy<Value = LinkChange> {
        use LinkConfidence::{Asserted, Verified};
        let confidence = option::of(prop::sample::select(vec![Verified, Asserted]));
        (any_subject_ref(), any_subject_ref(), confidence, any_sealed()).prop_map(
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
        fn the_message_reads_back(link in any_link()) {
            reads_back(&Body::Link(link));
        }
    }

    #[test]
    fn a_link_without_a_confidence_is_an_error() {
        let link = proto::SubjectsLinked::default();
        refused(proto::entry::Body::SubjectsLinked(link), "subjects_linked.confidence");
    }
}
