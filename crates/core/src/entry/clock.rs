//! `ClockCorrected`: a clock that was ahead gave the times of some entries, and is right again.
//!
//! It is folded into the catalogue, because it concerns all data subjects: their states take it over
//! when they are read or folded next ([`crate::fold::corrected`]).

use super::{EntryError, NamesNoSubject, OfCatalog, Place, Target, fields::field};
use crate::{
    domain::{Catalog, ClockCorrection, Millis},
    event::{CatalogDetail, CatalogEffect, EventOutline},
    proto,
};

/// A clock that was ahead gave the times of some entries, and is right again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClockCorrected {
    /// The first entry that the wrong clock gave its time.
    pub first_index: u64,
    /// One more than the last such entry.
    pub end_index: u64,
    /// The last right time before them.
    pub right_until: Millis,
    /// The first right time after them.
    pub right_again: Millis,
    /// Why, in the operator's words.
    pub reason: String,
}

impl NamesNoSubject for ClockCorrected {
    fn message(&self) -> proto::entry::Body {
        proto::entry::Body::ClockCorrected(proto::ClockCorrected {
            first_index: self.first_index,
            end_index: self.end_index,
            right_until_ms: self.right_until.0,
            right_again_ms: self.right_again.0,
            reason: self.reason.clone(),
        })
    }

    fn target(&self) -> Target<'_> {
        Target::Catalog(self)
    }

    fn outline(&self) -> EventOutline<'_> {
        EventOutline::Catalog
    }
}

impl OfCatalog for ClockCorrected {
    fn fold(&self, place: Place, catalog: &mut Catalog) -> Option<CatalogDetail> {
        catalog.put_clock_correction(ClockCorrection {
            index: place.index,
            recorded_at: place.recorded_at,
            // An entry after this one has no wrong time yet.
            entries: self.first_index..self.end_index.min(place.index),
            right_until: self.right_until,
            right_again: self.right_again,
        });
        Some(CatalogDetail {
            purpose: None,
            channel: None,
            namespace: None,
            effects: vec![CatalogEffect::ClockCorrected],
            version: 0,
            oldest_compatible: 0,
        })
    }
}

impl TryFrom<proto::ClockCorrected> for ClockCorrected {
    type Error = EntryError;

    fn try_from(message: proto::ClockCorrected) -> Result<Self, EntryError> {
        if message.first_index == 0 {
            return Err(field("clock_corrected.first_index"));
        }
        if message.end_index <= message.first_index {
            return Err(field("clock_corrected.end_index"));
        }
        if message.right_again_ms < message.right_until_ms {
            return Err(field("clock_corrected.right_again_ms"));
        }
        Ok(Self {
            first_index: message.first_index,
            end_index: message.end_index,
            right_until: Millis(message.right_until_ms),
            right_again: Millis(message.right_again_ms),
            reason: message.reason,
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::entry::{
        Body,
        tests::{reads_back, refused},
    };

    pub(in crate::entry) fn any_clock_corrected() -> impl Strategy<Value = ClockCorrected> {
        (1..u64::MAX, 1..u64::MAX, any::<i64>(), 0..i64::MAX, ".{0,9}").prop_map(
            |(first_index, count, right_until, span_ms, reason)| ClockCorrected {
                first_index,
                end_index: first_index.saturating_add(count),
                right_until: Millis(right_until),
                right_again: Millis(right_until).plus_ms(span_ms),
                reason,
            },
        )
    }

    proptest! {
        #[test]
        fn the_message_reads_back(corrected in any_clock_corrected()) {
            reads_back(&Body::ClockCorrected(corrected));
        }
    }

    #[test]
    fn a_range_or_a_span_that_ends_before_it_begins_is_an_error() {
        let corrected = |first_index, end_index, right_until_ms, right_again_ms| {
            proto::entry::Body::ClockCorrected(proto::ClockCorrected {
                first_index,
                end_index,
                right_until_ms,
                right_again_ms,
                reason: String::new(),
            })
        };
        refused(corrected(0, 1, 5, 5), "clock_corrected.first_index");
        refused(corrected(3, 3, 5, 5), "clock_corrected.end_index");
        refused(corrected(3, 4, 5, 4), "clock_corrected.right_again_ms");
    }
}
