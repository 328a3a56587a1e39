//! `ClockCorrected`: a clock that was ahead gave the times of some entries, and is right again.
//!
//! It is folded into the catalogue, because it concerns all data subjects: their states take it over
//! when they are read or folded next ([`crate::fold::corrected`]).

use super::{Content, EntryError, NamesNoSubject, OfCatalog, Place, Target};
use crate::{
    domain::{Catalog, ClockCorrection, Millis},
    event::{CatalogDetail, CatalogEffect, EventOutline},
    format::entry::Body as ClearBody,
    proto::ledger,
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
    fn content(&self) -> Content {
        Content::Clear(ClearBody::ClockCorrected(ledger::ClockCorrected {
            first_index: self.first_index,
            end_index: self.end_index,
            right_until_ms: self.right_until.0,
            right_again_ms: self.right_again.0,
            reason: self.reason.clone(),
        }))
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

impl TryFrom<&ledger::ClockCorrected> for ClockCorrected {
    type Error = EntryError;

    fn try_from(message: &ledger::ClockCorrected) -> Result<Self, EntryError> {
        Ok(Self {
            first_index: message.first_index,
            end_index: message.end_index,
            right_until: Millis(message.right_until_ms),
            right_again: Millis(message.right_again_ms),
            reason: message.reason.clone(),
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::entry::{Body, tests::reads_back};

    pub(in crate::entry) fn any_clock_corrected() -> impl Strategy<Value = ClockCorrected> {
        (1..u64::MAX, 1..u64::MAX, any::<i32>(), 0..i32::MAX, ".{0,9}").prop_map(
            |(first_index, count, right_until, span_ms, reason)| ClockCorrected {
                first_index,
                end_index: first_index.saturating_add(count),
                right_until: Millis(right_until.into()),
                right_again: Millis(i64::from(right_until) + i64::from(span_ms)),
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
}
