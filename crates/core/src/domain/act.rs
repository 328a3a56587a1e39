//! Acts: actions, the actors that perform them, and their outcomes.

use super::{scope::ScopeKeys, time::Millis};

/// Who performed an act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Actor {
    /// The data subject in person.
    Subject,
    /// A holder of parental responsibility or a legal guardian.
    Guardian,
    /// Staff, on the subject's instruction.
    Agent,
    /// The controller, of its own accord.
    Operator,
    /// An automated process of the controller.
    System,
    /// A bulk transfer from another system of record.
    Import,
}

impl Actor {
    /// Whether the actor speaks for the data subject. Only such an actor's grant lifts a stop, and
    /// only such an actor's withdrawal counts as the subject's own.
    #[must_use]
    pub fn speaks_for_subject(self) -> bool {
        matches!(self, Self::Subject | Self::Guardian | Self::Agent)
    }
}

/// What a change does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Consent is given for one cell.
    Grant,
    /// Consent was asked for and not given.
    Refuse,
    /// Consent is taken back.
    Withdraw,
    /// Objection under GDPR Art. 21.
    Object,
    /// Consent expired. Only the ledger writes it; it changes no state.
    Expire,
}

impl Action {
    /// The stop that this action makes when performed by `actor`; none for a grant and an expiry.
    #[must_use]
    pub fn stop_kind(self, actor: Actor) -> Option<StopKind> {
        match self {
            Self::Grant | Self::Expire => None,
            Self::Refuse => Some(StopKind::Refused),
            Self::Withdraw if actor.speaks_for_subject() => Some(StopKind::Withdrawn),
            Self::Withdraw => Some(StopKind::Revoked),
            Self::Object => Some(StopKind::Objected),
        }
    }
}

/// The kinds of stop, by the status that they lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StopKind {
    /// Asked and refused.
    Refused,
    /// Withdrawn by the data subject.
    Withdrawn,
    /// Withdrawn by another.
    Revoked,
    /// Objected to.
    Objected,
}

impl StopKind {
    /// The action that makes such a stop.
    #[must_use]
    pub fn action(self) -> Action {
        match self {
            Self::Refused => Action::Refuse,
            Self::Withdrawn | Self::Revoked => Action::Withdraw,
            Self::Objected => Action::Object,
        }
    }
}

/// The outcome of a change when it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The change now decides at least one cell of its scope, of its data subject or a linked one.
    Applied,
    /// Recorded, but no decision and no standing consent changed.
    NoEffect,
    /// A grant that may not lift the stop at this index. None: a stop of a linked data subject, which the
    /// ledger does not name.
    BlockedByStop(Option<u64>),
    /// The act at this index took effect later and decides. None: one of a linked data subject.
    SupersededByLater(Option<u64>),
    /// A grant that waits for its double opt-in.
    PendingConfirmation,
    /// Only in answers: the entry at this index says it already, and nothing was recorded.
    StandsAlready(u64),
}

impl Outcome {
    /// Index of the entry that blocks or supersedes it or says it already, if there is one and it is not a
    /// linked data subject's.
    #[must_use]
    pub fn cause_index(self) -> Option<u64> {
        match self {
            Self::BlockedByStop(index) | Self::SupersededByLater(index) => index,
            Self::StandsAlready(index) => Some(index),
            Self::Applied | Self::NoEffect | Self::PendingConfirmation => None,
        }
    }

    /// The same outcome, but without the index of an act that is not the data subject's own.
    #[must_use]
    pub fn naming_only(self, is_own: impl Fn(u64) -> bool) -> Self {
        match self {
            Self::BlockedByStop(Some(index)) if !is_own(index) => Self::BlockedByStop(None),
            Self::SupersededByLater(Some(index)) if !is_own(index) => Self::SupersededByLater(None),
            other => other,
        }
    }
}

/// One change as a caller asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What it does.
    pub action: Action,
    /// What it covers; one cell for a grant.
    pub scope: ScopeKeys,
    /// For grants: the version of the purpose that was shown; none means the current one.
    pub purpose_version: Option<u32>,
    /// For grants: the first moment at which it no longer counts; none means the purpose's default.
    pub expires_at: Option<Millis>,
    /// For grants: the data categories that it is narrowed to; empty means all of the version's.
    pub data_categories: Vec<String>,
}

/// One change as the ledger holds it, with its outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeRecord {
    /// What it does.
    pub action: Action,
    /// What it covers; one cell for a grant.
    pub scope: ScopeKeys,
    /// For grants: the version of the purpose that was agreed to; 0 for stops.
    pub purpose_version: u32,
    /// For grants: the first moment at which it no longer counts.
    pub expires_at: Option<Millis>,
    /// For grants: the data categories that it is narrowed to; empty means all of the version's.
    pub data_categories: Vec<String>,
    /// The outcome when it was written.
    pub outcome: Outcome,
    /// To how many linked data subjects the change applied too, or instead.
    pub linked_subjects: u32,
}
