//! `LedgerOpened`: opens the ledger and names it. It is entry 0, and no other.

use super::{EntryError, NamesNoSubject, Target, fields::fixed};
use crate::{domain::Millis, event::EventOutline, proto};

/// Opens the ledger and names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerOpened {
    /// Identity of the ledger.
    pub ledger_id: [u8; 16],
    /// Name of the ledger.
    pub origin: String,
    /// Version of the entry format.
    pub format_version: u32,
    /// When it was created.
    pub created_at: Millis,
}

impl NamesNoSubject for LedgerOpened {
    fn message(&self) -> proto::entry::Body {
        proto::entry::Body::LedgerOpened(proto::LedgerOpened {
            ledger_id: self.ledger_id.to_vec(),
            origin: self.origin.clone(),
            format_version: self.format_version,
            created_at_ms: self.created_at.0,
        })
    }

    fn target(&self) -> Target<'_> {
        Target::Nothing
    }

    fn outline(&self) -> EventOutline<'_> {
        EventOutline::Nothing
    }
}

impl TryFrom<proto::LedgerOpened> for LedgerOpened {
    type Error = EntryError;

    fn try_from(message: proto::LedgerOpened) -> Result<Self, EntryError> {
        Ok(Self {
            ledger_id: fixed("ledger_id", &message.ledger_id)?,
            origin: message.origin,
            format_version: message.format_version,
            created_at: Millis(message.created_at_ms),
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::entry::{Body, tests::reads_back};

    pub(in crate::entry) fn any_opened() -> impl Strategy<Value = LedgerOpened> {
        (any::<[u8; 16]>(), ".{0,9}", any::<u32>(), any::<i64>()).prop_map(
            |(ledger_id, origin, format_version, created)| LedgerOpened {
                ledger_id,
                origin,
                format_version,
                created_at: Millis(created),
            },
        )
    }

    proptest! {
        #[test]
        fn the_message_reads_back(opened in any_opened()) {
            reads_back(&Body::Opened(opened));
        }
    }
}
