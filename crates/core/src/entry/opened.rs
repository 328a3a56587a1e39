//! `LedgerOpened`: opens the ledger and names it. It is entry 0, and no other.

use super::{Content, EntryError, NamesNoSubject, Target, fields::fixed};
use crate::{
    domain::Millis, event::EventOutline, format::entry::Body as ClearBody,
    ledger::sealed::second_and_ms, proto::ledger,
};

/// Opens the ledger and names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerOpened {
    /// Identity of the ledger.
    pub ledger_id: [u8; 16],
    /// Name of the ledger.
    pub origin: String,
    /// Version of the entry format.
    pub format_version: u32,
    /// When it was created, in whole seconds.
    pub created_at: Millis,
    /// The feature level that entries may use from here on.
    pub feature_level: u32,
}

impl LedgerOpened {
    /// What entry 0 says.
    #[must_use]
    pub fn message(&self) -> ledger::LedgerOpened {
        ledger::LedgerOpened {
            ledger_id: self.ledger_id.to_vec(),
            origin: self.origin.clone(),
            format_version: self.format_version,
            created_at_s: second_and_ms(self.created_at).0,
            feature_level: self.feature_level,
        }
    }
}

impl NamesNoSubject for LedgerOpened {
    fn content(&self) -> Content {
        Content::Clear(ClearBody::Opened(self.message()))
    }

    fn target(&self) -> Target<'_> {
        Target::Nothing
    }

    fn outline(&self) -> EventOutline<'_> {
        EventOutline::Nothing
    }
}

impl TryFrom<&ledger::LedgerOpened> for LedgerOpened {
    type Error = EntryError;

    fn try_from(message: &ledger::LedgerOpened) -> Result<Self, EntryError> {
        Ok(Self {
            ledger_id: fixed("ledger_id", &message.ledger_id)?,
            origin: message.origin.clone(),
            format_version: message.format_version,
            created_at: Millis(message.created_at_s.saturating_mul(1_000)),
            feature_level: message.feature_level,
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        entry::{Body, tests::reads_back},
        ledger::{FORMAT_VERSION, LEVEL},
    };

    pub(in crate::entry) fn any_opened() -> impl Strategy<Value = LedgerOpened> {
        let seconds = -1_000_000_000_000_i64..1_000_000_000_000;
        (any::<[u8; 16]>(), ".{1,9}", seconds).prop_map(|(ledger_id, origin, created)| {
            LedgerOpened {
                ledger_id,
                origin,
                format_version: FORMAT_VERSION,
                created_at: Millis(created * 1_000),
                feature_level: LEVEL,
            }
        })
    }

    proptest! {
        #[test]
        fn it_reads_back(opened in any_opened()) {
            reads_back(&Body::Opened(opened));
        }
    }
}
