//! What an entry of the ledger says.

use super::{
    act::{Actor, ChangeRecord},
    catalog::{ChannelPut, PurposePut},
    sealed::Sealed,
    subject::SubjectRef,
    time::Millis,
};

/// One entry of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Position, from 0.
    pub index: u64,
    /// `hash(index - 1)`; zeros for entry 0.
    pub prev_hash: [u8; 32],
    /// When the ledger recorded it.
    pub recorded_at: Millis,
    /// What it says.
    pub body: Body,
}

/// What an entry says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// Opens the ledger.
    Opened(LedgerOpened),
    /// An act of consent.
    Act(ConsentAct),
    /// A purpose was added or changed.
    PurposePut(PurposePut),
    /// A channel was added or changed.
    ChannelPut(ChannelPut),
}

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

/// One thing a person, or somebody for them, did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsentAct {
    /// Whose consent it is.
    pub subject_ref: SubjectRef,
    /// Who acted.
    pub actor: Actor,
    /// When it took effect.
    pub effective_at: Millis,
    /// What changed, and what became of it.
    pub changes: Vec<ChangeRecord>,
    /// The evidence; none if there was none to keep.
    pub evidence: Option<Sealed>,
    /// The caller's idempotency key, if it gave one.
    pub idempotency: Option<IdempotencyMark>,
}

/// What the ledger keeps of an idempotency key and its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdempotencyMark {
    /// Keyed hash of the key.
    pub key_hash: [u8; 32],
    /// Keyed hash of the request.
    pub request_digest: [u8; 32],
}
