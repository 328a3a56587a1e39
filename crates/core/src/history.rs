//! A line in the history of a data subject: an entry from that data subject's view, in one shape
//! for every kind.
//!
//! Evidence is not part of it: the node opens it when it shows a history.

use crate::{
    domain::{Actor, ChangeRecord, ContactChange, LinkConfidence, Millis, Reason, SubjectRef},
    entry::{ImportOrigin, UseRecorded},
};

/// One entry in the history of a data subject. Each kind of entry fills the fields that it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// What happened.
    pub kind: LineKind,
    /// Who acted.
    pub actor: Actor,
    /// When it took effect.
    pub effective_at: Millis,
    /// What changed.
    pub changes: Vec<ChangeRecord>,
    /// Whether the kind has evidence, which may be empty.
    pub has_evidence: bool,
    /// How the data subject wants to be contacted from then on.
    pub contact: ContactChange,
    /// For acts of an import: where they stood in it.
    pub import: Option<ImportOrigin>,
    /// Until when the act could be confirmed.
    pub confirmation_expires_at: Option<Millis>,
    /// Index of the act that is confirmed, or whose grants ended.
    pub cause: Option<u64>,
    /// Why grants ended.
    pub reason: Option<Reason>,
    /// The link that was made or removed.
    pub link: Option<LinkLine>,
    /// The use of its data.
    pub used: Option<Box<UseRecorded>>,
}

/// What happened to a data subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LineKind {
    /// An act of consent.
    Act,
    /// A double opt-in was completed.
    Confirmation,
    /// Grants ran out by themselves.
    Expiry,
    /// It was linked to another data subject.
    Link,
    /// A link was taken back.
    Unlink,
    /// Its data was used.
    Use,
    /// The entries before were disclosed.
    Disclosure,
}

/// A link, or its end, as one of the two sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkLine {
    /// The other data subject.
    pub other: SubjectRef,
    /// How sure it is; none if they were unlinked.
    pub confidence: Option<LinkConfidence>,
    /// The source of the claim.
    pub asserted_by: String,
}

impl Line {
    /// A line with all other fields empty.
    #[must_use]
    pub fn new(kind: LineKind, actor: Actor, effective_at: Millis) -> Self {
        Self {
            kind,
            actor,
            effective_at,
            changes: Vec::new(),
            has_evidence: false,
            contact: ContactChange::default(),
            import: None,
            confirmation_expires_at: None,
            cause: None,
            reason: None,
            link: None,
            used: None,
        }
    }
}
