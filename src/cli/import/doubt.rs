//! Rows of which nobody can tell whose they are, because of quotes that span lines. Their stops are
//! imported, and their grants are not.

use serde::{Deserialize, Serialize};

/// Why a row is in doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::cli) enum Doubt {
    /// It spans lines, and the line with this number, which is inside, is a row by itself.
    HoldsRow(u64),
    /// It is a line within the row of this line, which is in doubt.
    IsHeld(u64),
    /// It stands behind a quote that opens on this line and is not closed.
    BehindQuote(u64),
}

impl Doubt {
    /// What is wrong with the row of a line, and what is done.
    pub(super) fn message(self, line: u64) -> String {
        match self {
            Self::HoldsRow(inside) => format!(
                "its quotes span lines, and line {inside} inside them is a row by itself; the stops of \
                 lines {line} and {inside} are imported, and no grant of either"
            ),
            Self::IsHeld(whole) => format!(
                "stands within quotes of the row of line {whole}; its stops are imported, and no grant"
            ),
            Self::BehindQuote(quote) => format!(
                "stands behind a quote that opens on line {quote} and is not closed; its stops are \
                 imported, and no grant"
            ),
        }
    }
}

/// The part of an input whose rows are in doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::cli) struct Guard {
    /// Offset of its end.
    pub end: u64,
    /// Why.
    pub doubt: Doubt,
}
