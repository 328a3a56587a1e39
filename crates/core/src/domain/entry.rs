//! What an entry of the ledger says.

use super::{
    act::{Actor, ChangeRecord},
    catalog::{ChannelPut, PurposePut},
    contact::ContactChange,
    decision::{Effect, Reason},
    region::Region,
    scope::Key,
    sealed::Sealed,
    state::LinkConfidence,
    subject::SubjectRef,
    subscription::SubscriptionEntry,
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
    /// A double opt-in was completed.
    Confirmed(ConsentConfirmed),
    /// Grants ran out by themselves.
    Expired(GrantExpired),
    /// Two data subjects were linked, or unlinked.
    Link(LinkChange),
    /// Data was used.
    Use(UseRecorded),
    /// Something about a durable subscription.
    Subscription(SubscriptionEntry),
}

impl Body {
    /// The caller's idempotency key, if the entry has one.
    #[must_use]
    pub fn idempotency(&self) -> Option<IdempotencyMark> {
        match self {
            Self::Act(act) => act.idempotency,
            Self::Confirmed(confirmed) => confirmed.idempotency,
            Self::Use(used) => used.idempotency,
            Self::Opened(_)
            | Self::PurposePut(_)
            | Self::ChannelPut(_)
            | Self::Expired(_)
            | Self::Link(_)
            | Self::Subscription(_) => None,
        }
    }
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
    /// For guardians: first moment without their authority.
    pub authority_ends_at: Option<Millis>,
    /// What a confirmation must show, if some change waits for one.
    pub confirmation: Option<ConfirmationOffer>,
    /// How the data subject wants to be contacted.
    pub contact: ContactChange,
}

/// What the holder of a confirmation token must show, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfirmationOffer {
    /// SHA-256 of the token's text.
    pub token_hash: [u8; 32],
    /// First moment at which the token no longer counts.
    pub expires_at: Millis,
}

/// A double opt-in was completed. The grants keep their place in the order of acts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsentConfirmed {
    /// Whose consent it is.
    pub subject_ref: SubjectRef,
    /// Index of the act that is confirmed.
    pub request_index: u64,
    /// Who performed that act.
    pub requested_by: Actor,
    /// When that act took effect.
    pub requested_at: Millis,
    /// For guardians: first moment without their authority.
    pub authority_ends_at: Option<Millis>,
    /// When the confirmation took effect.
    pub effective_at: Millis,
    /// The grants that are confirmed, with what became of them now.
    pub grants: Vec<ChangeRecord>,
    /// The evidence of the confirmation; none if there was none to keep.
    pub evidence: Option<Sealed>,
    /// The caller's idempotency key, if it gave one.
    pub idempotency: Option<IdempotencyMark>,
}

/// Grants of one act ran out by themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantExpired {
    /// Whose consent it was.
    pub subject_ref: SubjectRef,
    /// Index of the act that gave it.
    pub grant_index: u64,
    /// First moment without it.
    pub expired_at: Millis,
    /// `Expired`, or `ReconsentRequired` where a guardian's authority ended.
    pub reason: Reason,
    /// The cells, in the order of the act.
    pub changes: Vec<ChangeRecord>,
}

/// Two data subjects were said to be one person, or no longer so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkChange {
    /// One data subject.
    pub subject_ref: SubjectRef,
    /// The other.
    pub other_ref: SubjectRef,
    /// How sure it is; none if they were unlinked.
    pub confidence: Option<LinkConfidence>,
    /// Who says so, sealed under the first data subject's key.
    pub asserted_by: Option<Sealed>,
}

/// Data of some data subjects was used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UseRecorded {
    /// Purpose.
    pub purpose: Key,
    /// Channel.
    pub channel: Key,
    /// When.
    pub used_at: Millis,
    /// Name of the segment; empty if there is none.
    pub segment: String,
    /// Name of the campaign; empty if there is none.
    pub campaign: String,
    /// Data categories that were used; empty if the caller named none.
    pub data_categories: Vec<String>,
    /// Region that was asked about.
    pub region: Option<Region>,
    /// Whose data.
    pub subject_refs: Vec<SubjectRef>,
    /// What a check answered when it was used.
    pub reason: Reason,
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

impl UseRecorded {
    /// Whether no decision allowed the use.
    #[must_use]
    pub fn is_deviation(&self) -> bool {
        self.reason.effect() == Effect::Deny
    }
}
