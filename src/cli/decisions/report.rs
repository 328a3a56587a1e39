//! The report, as tables and as JSON.

use serde::Serialize;

use crate::{
    cli::words::{Bytes, Word, hex, rfc3339, rfc3339_ms, word},
    domain::Outcome,
    fold::Untrue,
    json,
    proto::{self, ListDecisionsResponse},
};

/// Result of `verify-decisions`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Whether there are no differences and no wrong statements.
    pub agrees: bool,
    /// Name of the ledger from its first entry; from the server if no entry was read.
    pub ledger: String,
    /// First index whose decisions were compared.
    pub start: u64,
    /// End of the range, exclusive.
    pub end: u64,
    /// Number of entries in the range.
    pub entries: u64,
    /// Number of decisions that were recomputed for them.
    pub decisions: u64,
    /// Number of cells whose answers differ.
    pub differ: u64,
    /// The first differences.
    pub differences: Vec<Difference>,
    /// Number of wrong statements in all entries before `end`.
    pub untrue: u64,
    /// The first wrong statements.
    pub statements: Vec<Statement>,
    /// Chain hash of the last entry that was read.
    pub chain_hash: Option<Bytes>,
    /// What was not checked, for want of a key: `signatures`, or nothing.
    pub not_checked: &'static [&'static str],
    /// The checkpoint that covers the entries; none without a key.
    pub checkpoint: Option<Checkpoint>,
    /// Number of data subjects.
    pub subjects: usize,
    /// Approximate memory of their states, in bytes.
    pub state_bytes: u64,
}

/// A checkpoint whose root the entries have.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Checkpoint {
    /// Number of entries.
    pub size: u64,
    /// Root over them, in base64 as in checkpoints.
    pub root_hash: String,
}

/// A cell whose answers differ.
#[derive(Debug, PartialEq, Serialize)]
pub struct Difference {
    /// The recomputed decision; null if no entry touched the cell.
    #[serde(serialize_with = "json::serialize_option")]
    pub recomputed: Option<ListDecisionsResponse>,
    /// The node's answer; null if it gave none.
    #[serde(serialize_with = "json::serialize_option")]
    pub answered: Option<ListDecisionsResponse>,
}

/// A statement of an entry that does not follow from the entries before it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Statement {
    /// Index of the entry.
    pub index: u64,
    /// Position of the change, from 0, if it is about one.
    pub change: Option<usize>,
    /// `outcome`, `effective_at`, `expiry`, `expiry_reason` or `confirmation`.
    pub kind: &'static str,
    /// The value in the entry, if it is one word.
    pub stored: Option<String>,
    /// The recomputed value, if it is one word.
    pub recomputed: Option<String>,
}

impl Difference {
    /// The difference as a table row.
    #[must_use]
    pub fn cells(&self) -> [String; 5] {
        let Self { recomputed, answered } = self;
        let cell = recomputed.as_ref().or(answered.as_ref()).cloned().unwrap_or_default();
        let text = |answer: &Option<ListDecisionsResponse>| {
            answer.as_ref().map_or_else(|| "nothing".to_owned(), answer_text)
        };
        [
            format!("#{}", cell.index),
            hex(&cell.subject_ref),
            format!("{}:{}", cell.purpose, cell.channel),
            text(recomputed),
            text(answered),
        ]
    }
}

fn answer_text(answer: &ListDecisionsResponse) -> String {
    let effect = word::<proto::Effect>(answer.effect);
    let mut text = format!("{effect} {}", word::<proto::Reason>(answer.reason));
    if let Some(index) = answer.decided_by_index {
        text += &format!(" by #{index}");
    }
    if let Some(until) = &answer.valid_until {
        text += &format!(" until {}", rfc3339(until));
    }
    text
}

impl Statement {
    /// The wrong statement of an entry.
    #[must_use]
    pub fn of(index: u64, untrue: &Untrue) -> Self {
        let (kind, change, stored, recomputed) = match untrue {
            Untrue::Outcome { position, stored, recomputed } => {
                ("outcome", Some(*position), Some(outcome(*stored)), Some(outcome(*recomputed)))
            }
            Untrue::LinkedSubjects { position, stored, recomputed } => (
                "linked_subjects",
                Some(*position),
                Some(stored.to_string()),
                Some(recomputed.to_string()),
            ),
            Untrue::EffectiveAt { latest } => {
                ("effective_at", None, None, Some(format!("at latest {}", rfc3339_ms(latest.0))))
            }
            Untrue::Expiry { position } => ("expiry", Some(*position), None, None),
            Untrue::ExpiryReason { recomputed } => {
                ("expiry_reason", None, None, Some(proto::Reason::from(*recomputed).word()))
            }
            Untrue::Confirmation => ("confirmation", None, None, None),
        };
        Self { index, change, kind, stored, recomputed }
    }

    /// The statement as a table row.
    #[must_use]
    pub fn cells(&self) -> [String; 4] {
        let (stored, recomputed) = match self.kind {
            "effective_at" => ("later", ""),
            "expiry" => ("the grant ended", "it did not, or decided nothing"),
            "expiry_reason" => ("another reason", ""),
            "confirmation" => ("confirmed", "nothing like it was waiting"),
            _ => ("", ""),
        };
        let change = self.change.map(|change| format!(" of change {change}")).unwrap_or_default();
        [
            format!("#{}", self.index),
            format!("{}{change}", self.kind),
            self.stored.clone().unwrap_or_else(|| stored.to_owned()),
            self.recomputed.clone().unwrap_or_else(|| recomputed.to_owned()),
        ]
    }
}

/// An outcome as a word, with the index of the entry that caused it.
fn outcome(outcome: Outcome) -> String {
    let cause = outcome.cause_index().map(|index| format!(" #{index}")).unwrap_or_default();
    format!("{}{cause}", proto::Outcome::from(outcome).word())
}
