//! What callers ask, and what they are told.

use crate::domain::{
    ConsentAct, ConsentConfirmed, Contact, Decision, Evidence, GrantExpired, Key, LinkConfidence,
    Millis, PurposeVersion, Region, ScopeKeys, StopKind, Subject, UseRecorded,
};
use crate::obligations::DueAll;

/// "May I?", as a caller puts it.
#[derive(Debug, Clone)]
pub struct Question<'a> {
    /// Whose data.
    pub subject: &'a Subject,
    /// Purpose key.
    pub purpose: &'a str,
    /// Channel key.
    pub channel: &'a str,
    /// Data categories that the caller wants to use; empty means that none is asked about.
    pub data_categories: &'a [String],
    /// Where the data subject is, if the caller says.
    pub region: Option<Region>,
}

/// A decision and the revision that it was taken at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// The decision.
    pub decision: Decision,
    /// What comes with an ALLOW, as of now.
    pub due: DueAll,
    /// The number of entries that it takes into account.
    pub revision: u64,
    /// The decision token, if one was asked for.
    pub token: Option<String>,
}

/// What is known of a data subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preferences {
    /// Cells, ordered by purpose key and channel key.
    pub cells: Vec<CellPreference>,
    /// Stops that stand, of every width, by index.
    pub stops: Vec<StandingStop>,
    /// How the data subject wants to be contacted, if anything was said.
    pub contact: Option<Contact>,
    /// Data subjects that are linked to this one.
    pub links: Vec<(Subject, LinkConfidence)>,
    /// The number of entries that the answer takes into account.
    pub revision: u64,
}

/// One cell, and what a check of it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CellPreference {
    /// Purpose key.
    pub purpose: Key,
    /// Channel key.
    pub channel: Key,
    /// What a check answers.
    pub decision: Decision,
}

/// A stop that stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandingStop {
    /// Its kind.
    pub kind: StopKind,
    /// What it covers.
    pub scope: ScopeKeys,
    /// When it took effect.
    pub effective_at: Millis,
    /// Index of its entry.
    pub index: u64,
}

/// One entry of a data subject's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryItem {
    /// Index of the entry.
    pub index: u64,
    /// When the ledger recorded it.
    pub recorded_at: Millis,
    /// `hash(index)`.
    pub entry_hash: [u8; 32],
    /// What it says.
    pub what: History,
}

/// What an entry says of a data subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum History {
    /// An act, with what was shown.
    Act {
        /// The act.
        act: Box<ConsentAct>,
        /// What was shown.
        evidence: Evidence,
    },
    /// A double opt-in was completed.
    Confirmed {
        /// The confirmation.
        confirmed: Box<ConsentConfirmed>,
        /// How it was confirmed.
        evidence: Evidence,
    },
    /// Grants ran out.
    Expired(GrantExpired),
    /// The subject was linked to another, or unlinked.
    Link {
        /// The other one.
        other: Subject,
        /// How sure it is; none if they were unlinked.
        confidence: Option<LinkConfidence>,
        /// Who says so.
        asserted_by: String,
    },
    /// Data was used.
    Use(Box<UseRecorded>),
}

/// Size and chain hash of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Name of the ledger.
    pub origin: String,
    /// Identity of the ledger.
    pub ledger_id: [u8; 16],
    /// Number of entries.
    pub size: u64,
    /// `hash(size - 1)`.
    pub chain_hash: [u8; 32],
    /// When the last of these entries was recorded.
    pub recorded_at: Millis,
}

/// A catalogue change, after the call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put<T> {
    /// The purpose or channel as it is.
    pub value: T,
    /// First revision at which it is so.
    pub revision: u64,
    /// Whether an entry was written.
    pub changed: bool,
}

/// A purpose as a caller wants it to be. The version is the ledger's to give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PurposeDraft {
    /// Key.
    pub key: Key,
    /// What its current version should say.
    pub content: PurposeVersion,
    /// The oldest version whose grants still count; none means unchanged, or 1 for a new purpose.
    pub oldest_compatible: Option<u32>,
    /// Whether only grants of the version that this creates, or finds, still count.
    pub requires_reconsent: bool,
    /// Whether it is retired.
    pub retired: bool,
}
