//! What callers hand to the way of an act, what they get back, and every way in which it can fail.

use std::fmt;

use thiserror::Error;

use super::Node;
use crate::domain::{Actor, Change, ChangeRecord, ContactChange, Evidence, Key, Millis, Subject};

/// The greatest number of changes in one act.
pub const CHANGES_MAX: usize = 100;
/// How far in the future `effective_at` may lie, in milliseconds.
pub const CLOCK_SKEW_MS_MAX: i64 = 5 * 60 * 1_000;
/// The longest idempotency key, in bytes.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 256;

/// One thing a person, or somebody for them, did.
#[derive(Debug, Clone)]
pub struct Act {
    /// Whose consent it is.
    pub subject: Subject,
    /// Who acts.
    pub actor: Actor,
    /// What changes: at most [`CHANGES_MAX`], no two with the same scope, and none only beside
    /// `contact`.
    pub changes: Vec<Change>,
    /// How the data subject wants to be contacted.
    pub contact: ContactChange,
    /// When it took effect; none means now.
    pub effective_at: Option<Millis>,
    /// What was shown, and how it was answered.
    pub evidence: Evidence,
    /// The caller's key, if it gave one.
    pub idempotency: Option<Idempotency>,
    /// How long a confirmation token is good, where one is given; none means as the node is set up.
    pub confirmation_validity_ms: Option<i64>,
}

/// The completion of a double opt-in.
#[derive(Clone)]
pub struct Confirm {
    /// The token, as the act was answered with it.
    pub token: String,
    /// Whose it must be, if the caller says.
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

/// A caller's key for an act, and the request that it stands for.
///
/// The request holds all of the act: `Debug` never prints it.
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

/// What became of an act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Index of the entry.
    pub index: u64,
    /// When the ledger recorded it.
    pub recorded_at: Millis,
    /// When it took effect.
    pub effective_at: Millis,
    /// What became of each change, in the order of the request.
    pub changes: Vec<ChangeRecord>,
    /// Whether an earlier call with the same idempotency key recorded it.
    pub replayed: bool,
    /// What completes its double opt-in, if some change waits for one.
    pub confirmation: Option<Confirmation>,
}

/// What completes a double opt-in. Whoever holds the token can: `Debug` never prints it.
#[derive(Clone, PartialEq, Eq)]
pub struct Confirmation {
    /// The token.
    pub token: String,
    /// First moment at which it no longer counts.
    pub expires_at: Millis,
}

impl fmt::Debug for Confirmation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Confirmation").finish_non_exhaustive()
    }
}

/// What became of a confirmation.
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
    /// What became of each grant, in the order of that act.
    pub grants: Vec<ChangeRecord>,
    /// Whether an earlier call with the same idempotency key recorded it.
    pub replayed: bool,
}

impl Recorded {
    /// First revision that includes the act.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.index + 1
    }
}

/// Why an act, or a change of the catalogue, was not recorded.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WriteError {
    /// There is another subscription of this name.
    #[error("there is another subscription `{name}`")]
    SubscriptionExists {
        /// The name.
        name: Key,
    },
    /// There is no subscription of this name.
    #[error("there is no subscription `{name}`")]
    SubscriptionNotFound {
        /// The name.
        name: Key,
    },
    /// There are as many subscriptions as there may be.
    #[error("there are {limit} subscriptions, which is the limit; delete one")]
    TooManySubscriptions {
        /// The limit.
        limit: usize,
    },
    /// Nothing is sent to this webhook.
    #[error("nothing can be sent there: {problem}")]
    WebhookRefused {
        /// Why not.
        problem: String,
    },
    /// A subscription can not start beyond the head.
    #[error("index {index} lies beyond the head of the ledger, which is {head}")]
    StartBeyondHead {
        /// The index asked for.
        index: u64,
        /// The number of entries.
        head: u64,
    },
    /// `effective_at` lies too far in the future.
    #[error("effective_at is {ahead_ms} ms in the future, the limit is {CLOCK_SKEW_MS_MAX} ms")]
    EffectiveAtInFuture {
        /// How far.
        ahead_ms: i64,
    },
    /// The catalogue lacks the purpose of this change.
    #[error("no purpose `{key}` in the catalogue")]
    UnknownPurpose {
        /// Position of the change in the act.
        change: usize,
        /// The key.
        key: Key,
    },
    /// The catalogue lacks the channel of this change.
    #[error("no channel `{key}` in the catalogue")]
    UnknownChannel {
        /// Position of the change in the act.
        change: usize,
        /// The key.
        key: Key,
    },
    /// A grant for a purpose that is retired.
    #[error("purpose `{key}` is retired and can not be granted")]
    PurposeRetired {
        /// Position of the change in the act.
        change: usize,
        /// The key.
        key: Key,
    },
    /// A grant for a channel that is retired.
    #[error("channel `{key}` is retired and can not be granted")]
    ChannelRetired {
        /// Position of the change in the act.
        change: usize,
        /// The key.
        key: Key,
    },
    /// A grant for a version of the purpose that does not exist.
    #[error("purpose `{key}` has no version {version}, its current version is {current}")]
    UnknownPurposeVersion {
        /// Position of the change in the act.
        change: usize,
        /// The key.
        key: Key,
        /// The version asked for.
        version: u32,
        /// The current version.
        current: u32,
    },
    /// A grant that would expire before it takes effect.
    #[error("expires_at must be later than effective_at")]
    ExpiresBeforeEffective {
        /// Position of the change in the act.
        change: usize,
    },
    /// A grant that does not name exactly one cell.
    #[error("a grant names exactly one purpose and one channel")]
    GrantNotOneCell {
        /// Position of the change in the act.
        change: usize,
    },
    /// A grant that is narrowed to what its version does not declare.
    #[error(
        "`{category}` is not among the data categories that version {version} of `{key}` declares, nor below one of them"
    )]
    CategoryNotDeclared {
        /// Position of the change in the act.
        change: usize,
        /// Position of the category.
        position: usize,
        /// The category.
        category: String,
        /// The purpose.
        key: Key,
        /// Its version.
        version: u32,
    },
    /// A guardian's grant that takes effect when the authority has ended.
    #[error("the guardian's authority ended before the grant takes effect; ask the data subject")]
    AuthorityEnded,
    /// No act waits for the confirmation token, or it is another data subject's.
    #[error("no act waits for this confirmation token")]
    TokenUnknown,
    /// The confirmation token is past its end.
    #[error("the confirmation token is past its end; ask for consent again")]
    TokenExpired,
    /// The confirmation token was used.
    #[error("the confirmation token was used, recorded at index {index}")]
    TokenUsed {
        /// Index of the confirmation.
        index: u64,
    },
    /// The catalogue lacks the purpose.
    #[error("no purpose `{key}` in the catalogue")]
    NoPurpose {
        /// The key.
        key: Key,
    },
    /// The catalogue lacks the channel.
    #[error("no channel `{key}` in the catalogue")]
    NoChannel {
        /// The key.
        key: Key,
    },
    /// A use that has not happened.
    #[error("used_at must not lie more than {CLOCK_SKEW_MS_MAX} ms in the future")]
    UsedInFuture,
    /// A data subject that would be linked to itself.
    #[error("other_subject must differ from subject")]
    LinkToSelf,
    /// Two data subjects that are not linked.
    #[error("the two data subjects are not linked")]
    NotLinked,
    /// More data subjects than may hang together.
    #[error("{got} data subjects would hang together, the limit is {limit}")]
    TooManyLinked {
        /// How many there would be.
        got: usize,
        /// The limit.
        limit: usize,
    },
    /// `oldest_compatible_version` is beyond the version that the call would create.
    #[error("oldest_compatible_version is {got}, at most {version} is possible")]
    OldestCompatibleBeyondVersion {
        /// What was asked for.
        got: u32,
        /// The version that the call would create.
        version: u32,
    },
    /// The entry would be larger than an entry may be.
    #[error("the entry would have {bytes} bytes, the limit is {limit}")]
    EntryTooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The idempotency key was used with another request.
    #[error("the idempotency key was used with another request, recorded at index {index}")]
    IdempotencyKeyReused {
        /// Index of the entry that the key belongs to.
        index: u64,
    },
    /// As many appends are in flight as may be.
    #[error("too many appends are in flight, the limit is {limit}")]
    TooManyAppends {
        /// The limit.
        limit: usize,
    },
    /// A write or sync failed, or damage was found: no writes until restart. Whether this act was
    /// recorded is not known.
    #[error("the ledger takes no writes until restart: {0}")]
    WritesStopped(String),
    /// The node is shutting down.
    #[error("the node is shutting down")]
    ShuttingDown,
    /// Stored state could not be read; nothing was recorded.
    #[error("stored state could not be read: {0}")]
    StateUnreadable(String),
}

impl Node {
    /// Records one act. Answers when its entry is on stable storage and the next check sees it.
    ///
    /// # Errors
    /// See [`WriteError`]. Nothing was recorded, except perhaps with `WritesStopped`.
    pub async fn record(&self, act: Act) -> Result<Recorded, WriteError> {
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
            evidence: Evidence { ip_address: "192.0.2.7".to_owned(), ..Evidence::default() },
            contact: ContactChange::default(),
            confirmation_validity_ms: None,
            idempotency: Some(Idempotency { key: "jo-form".to_owned(), request: b"jo".to_vec() }),
        };
        let printed = format!("{act:?}");
        for hidden in ["jo@", "192.0.2.7", "jo-form", "106, 111"] {
            assert!(!printed.contains(hidden), "{printed}");
        }
    }
}
