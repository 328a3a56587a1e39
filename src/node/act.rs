//! Acts and confirmations as callers give them, and the answers.

use std::fmt;

use super::{Moved, Node, RecordError};
use crate::domain::{Actor, Change, ChangeRecord, ContactChange, Evidence, Millis, Subject};

/// The greatest number of changes in one act.
pub const CHANGES_MAX: usize = 100;
/// How far in the future `effective_at` may lie, in milliseconds.
pub const CLOCK_SKEW_MS_MAX: i64 = 5 * 60 * 1_000;
/// The longest idempotency key, in bytes.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 256;

/// An act of consent, by a data subject or by another actor for them.
#[derive(Debug, Clone)]
pub struct Act {
    /// The data subject.
    pub subject: Subject,
    /// The actor.
    pub actor: Actor,
    /// At most [`CHANGES_MAX`], no two with the same scope. May be empty if `contact` is not.
    pub changes: Vec<Change>,
    /// How the data subject wants to be contacted.
    pub contact: ContactChange,
    /// When it took effect; none means now.
    pub effective_at: Option<Millis>,
    /// Whether it is reported after the fact. A stop that is not comes after everything that the person
    /// did before, whatever time it claims.
    pub reported_late: bool,
    /// The notice that was shown, and how consent was given.
    pub evidence: Evidence,
    /// The caller's key, if it gave one.
    pub idempotency: Option<Idempotency>,
    /// Whether the act is recorded only if it says something that does not stand already.
    pub record_only_news: bool,
    /// Validity of a confirmation token, if the act gets one; none means the configured default.
    pub confirmation_validity_ms: Option<i64>,
}

/// The completion of a double opt-in.
#[derive(Clone)]
pub struct Confirm {
    /// The token from the answer to the act.
    pub token: String,
    /// The data subject that the act must be of, if given.
    pub subject: Option<Subject>,
    /// When it took effect; none means now.
    pub effective_at: Option<Millis>,
    /// How it was confirmed.
    pub evidence: Evidence,
    /// The caller's key, if it gave one.
    pub idempotency: Option<Idempotency>,
}

impl fmt::Debug for Confirm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Confirm").finish_non_exhaustive()
    }
}

/// A caller's key for an act, and the request that it identifies.
///
/// The request holds personal data: `Debug` never prints it.
#[derive(Clone)]
pub struct Idempotency {
    /// The key, at most [`IDEMPOTENCY_KEY_BYTES_MAX`].
    pub key: String,
    /// The whole request in one deterministic encoding; its digest tells a repetition from a reuse.
    pub request: Vec<u8>,
}

impl fmt::Debug for Idempotency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Idempotency").finish_non_exhaustive()
    }
}

/// An act that is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Index of the entry.
    pub index: u64,
    /// When the ledger recorded it.
    pub recorded_at: Millis,
    /// When it took effect.
    pub effective_at: Millis,
    /// The changes with their outcomes, in the order of the request.
    pub changes: Vec<ChangeRecord>,
    /// Whether an earlier call with the same idempotency key recorded it.
    pub replayed: bool,
    /// Whether nothing was recorded, because all of the act stands already. Then `index` is that of the
    /// latest entry which says so.
    pub nothing_recorded: bool,
    /// Completes its double opt-in, if some change waits for one.
    pub confirmation: Option<Confirmation>,
    /// Why its stops took effect at another time than claimed, if they did.
    pub moved: Option<Moved>,
    /// What was refused of the act; empty for a replayed one.
    pub refused: Refused,
}

/// What was refused of an act so that its stops could be recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refused {
    /// Why, with the positions of the changes in the act.
    pub errors: Vec<RecordError>,
    /// Positions in the act of the changes that were refused.
    pub positions: Vec<usize>,
}

impl Refused {
    /// The changes of the act that were not refused.
    pub(super) fn kept(&self, changes: Vec<Change>) -> Vec<Change> {
        let changes = changes.into_iter().enumerate();
        let kept = changes.filter(|(position, _)| !self.positions.contains(position));
        kept.map(|(_, change)| change).collect()
    }
}

/// Completes a double opt-in. The token is a secret: `Debug` never prints it.
#[derive(Clone, PartialEq, Eq)]
pub struct Confirmation {
    /// The token.
    pub token: String,
    /// First moment at which it is no longer valid.
    pub expires_at: Millis,
}

impl fmt::Debug for Confirmation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Confirmation").finish_non_exhaustive()
    }
}

/// A confirmation that is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confirmed {
    /// Index of the entry.
    pub index: u64,
    /// When the ledger recorded it.
    pub recorded_at: Millis,
    /// When it took effect.
    pub effective_at: Millis,
    /// Index of the act that was confirmed.
    pub request_index: u64,
    /// The grants with their outcomes, in the order of that act.
    pub grants: Vec<ChangeRecord>,
    /// Whether an earlier call with the same idempotency key recorded it.
    pub replayed: bool,
}

impl Recorded {
    /// An act that was recorded just now, without a confirmation.
    pub(super) fn new(
        index: u64,
        recorded_at: Millis,
        effective_at: Millis,
        changes: Vec<ChangeRecord>,
    ) -> Self {
        let refused = Refused::default();
        Self {
            index,
            recorded_at,
            effective_at,
            changes,
            replayed: false,
            nothing_recorded: false,
            confirmation: None,
            moved: None,
            refused,
        }
    }

    /// First revision that includes the act.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.index + 1
    }
}

impl Node {
    /// Records one act. Answers when its entry is on stable storage and the next check sees it.
    ///
    /// # Errors
    /// See [`RecordError`]. Nothing was recorded, except perhaps after `WritesStopped`.
    pub async fn record(&self, act: Act) -> Result<Recorded, RecordError> {
        self.write(|batch| batch.record(act)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_keeps_whom_an_act_is_about_to_itself() {
        let act = Act {
            subject: Subject::parse("email:jo@example.org").unwrap(),
            actor: Actor::Subject,
            changes: Vec::new(),
            effective_at: None,
            reported_late: false,
            evidence: Evidence { ip_address: "192.0.2.7".to_owned(), ..Evidence::default() },
            contact: ContactChange::default(),
            record_only_news: false,
            confirmation_validity_ms: None,
            idempotency: Some(Idempotency { key: "jo-form".to_owned(), request: b"jo".to_vec() }),
        };
        let printed = format!("{act:?}");
        for hidden in ["jo@", "192.0.2.7", "jo-form", "106, 111"] {
            assert!(!printed.contains(hidden), "{printed}");
        }
    }
}
