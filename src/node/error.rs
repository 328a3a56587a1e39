//! Errors of the node: one enum per operation.
//!
//! Any write may fail with a [`WriteError`] and any read with a [`ReadError`]; the enums of the
//! operations nest these two. `status` maps each error to a gRPC status.

use std::time::Duration;

use thiserror::Error;

use super::effective::{EffectiveAtImpossible, ImpossibleTime};
use crate::{
    backend::BackendError,
    domain::{Key, Millis, PartyRole, PurposeName},
    entry::EntryError,
    fold::FoldError,
    tree::TreeError,
    vault::VaultError,
    view::ViewError,
    watch::WatchError,
};

/// Why any write may fail.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WriteError {
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
    /// The limit of appends in flight is reached.
    #[error("too many appends are in flight, the limit is {limit}")]
    TooManyAppends {
        /// The limit.
        limit: usize,
    },
    /// A write or sync failed, or stored data is damaged: no writes until restart. Whether this write
    /// was recorded is not known.
    #[error("the ledger takes no writes until restart: {0}")]
    WritesStopped(String),
    /// The node is shutting down.
    #[error("the node is shutting down")]
    ShuttingDown,
    /// Stored state could not be read; nothing was recorded.
    #[error("stored state could not be read: {0}")]
    StateUnreadable(String),
    /// The namespace of a data subject was changed after its canonical form was made.
    #[error("the namespace `{namespace}` was changed while the call was on its way; try again")]
    NamespaceChanged {
        /// The namespace.
        namespace: String,
    },
}

/// The clock is in doubt, and a grant would get a wrong time.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "the server's clock is {ahead_ms} ms ahead of the last sane time, and the system does not say that it \
     is synchronised: no grants are taken. Try again later, or have the operator set the clock"
)]
pub struct ClockNotTrusted {
    /// How far it is ahead.
    pub ahead_ms: i64,
}

/// Why an act was not recorded. `change` is the position of a change in the act.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RecordError {
    /// The act has no change, and no preference about contact.
    #[error("an act needs at least one change or one contact preference")]
    Empty,
    /// The claimed time of the act.
    #[error(transparent)]
    EffectiveAt(#[from] EffectiveAtImpossible),
    /// The act has a grant, and the clock is in doubt.
    #[error(transparent)]
    ClockNotTrusted(#[from] ClockNotTrusted),
    /// The catalogue lacks the purpose of a change.
    #[error("no purpose `{key}` in the catalogue")]
    UnknownPurpose {
        /// Position of the change.
        change: usize,
        /// The purpose, or a class without purposes.
        key: PurposeName,
    },
    /// The catalogue lacks the channel of a change.
    #[error("no channel `{key}` in the catalogue")]
    UnknownChannel {
        /// Position of the change.
        change: usize,
        /// The key.
        key: Key,
    },
    /// A grant for a purpose that is retired.
    #[error("purpose `{key}` is retired and can not be granted")]
    PurposeRetired {
        /// Position of the change.
        change: usize,
        /// The key.
        key: Key,
    },
    /// A grant for a channel that is retired.
    #[error("channel `{key}` is retired and can not be granted")]
    ChannelRetired {
        /// Position of the change.
        change: usize,
        /// The key.
        key: Key,
    },
    /// A grant for a version of the purpose that does not exist.
    #[error("purpose `{key}` has no version {version}, its current version is {current}")]
    UnknownPurposeVersion {
        /// Position of the change.
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
        /// Position of the change.
        change: usize,
    },
    /// A grant that does not name exactly one cell.
    #[error("a grant names exactly one purpose and one channel")]
    GrantNotOneCell {
        /// Position of the change.
        change: usize,
    },
    /// A grant that is narrowed to a category that its version does not declare.
    #[error(
        "`{category}` is not among the data categories that version {version} of `{key}` declares, nor below one of them"
    )]
    CategoryNotDeclared {
        /// Position of the change.
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
    /// A grant beside a stop that is taken as of later than claimed, although a stop is newer than the
    /// claim.
    #[error(
        "effective_at lies before a stop of the person, recorded at index {index}: the grant can not \
         take effect after it"
    )]
    GrantBeforeStop {
        /// Position of the change.
        change: usize,
        /// Index of the stop.
        index: u64,
    },
    /// A guardian's grant that takes effect after the authority has ended.
    #[error("the guardian's authority ended before the grant takes effect; ask the data subject")]
    AuthorityEnded,
    /// The write failed.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl RecordError {
    /// The position of the change at fault.
    #[must_use]
    pub fn change(&self) -> Option<usize> {
        self.clone().change_mut().copied()
    }

    /// The same error, with the position that the change has in a list of which the act has only the
    /// changes at these positions.
    #[must_use]
    pub fn with_positions(mut self, positions: &[usize]) -> Self {
        if let Some(change) = self.change_mut() {
            *change = positions.get(*change).copied().unwrap_or(*change);
        }
        self
    }

    fn change_mut(&mut self) -> Option<&mut usize> {
        match self {
            Self::UnknownPurpose { change, .. }
            | Self::UnknownChannel { change, .. }
            | Self::PurposeRetired { change, .. }
            | Self::ChannelRetired { change, .. }
            | Self::UnknownPurposeVersion { change, .. }
            | Self::ExpiresBeforeEffective { change }
            | Self::GrantNotOneCell { change }
            | Self::CategoryNotDeclared { change, .. }
            | Self::GrantBeforeStop { change, .. } => Some(change),
            Self::Empty
            | Self::EffectiveAt(_)
            | Self::ClockNotTrusted(_)
            | Self::AuthorityEnded
            | Self::Write(_) => None,
        }
    }
}

/// Why a double opt-in was not completed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConfirmError {
    /// No act waits for the token, or it is another data subject's.
    #[error("no act waits for this confirmation token")]
    TokenUnknown,
    /// The token has expired.
    #[error("the confirmation token is past its end; ask for consent again")]
    TokenExpired,
    /// The token was used.
    #[error("the confirmation token was used, recorded at index {index}")]
    TokenUsed {
        /// Index of the confirmation.
        index: u64,
    },
    /// The claimed time of the confirmation.
    #[error(transparent)]
    EffectiveAt(#[from] EffectiveAtImpossible),
    /// The clock is in doubt.
    #[error(transparent)]
    ClockNotTrusted(#[from] ClockNotTrusted),
    /// The write failed.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Why two data subjects were not linked or unlinked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LinkError {
    /// A data subject would be linked to itself.
    #[error("other_subject must differ from subject")]
    ToSelf,
    /// There is no link to remove.
    #[error("the two data subjects are not linked")]
    NotLinked,
    /// The limit of data subjects that are linked with each other.
    #[error("{got} data subjects would be linked with each other, the limit is {limit}")]
    TooMany {
        /// How many there would be.
        got: usize,
        /// The limit.
        limit: usize,
    },
    /// The write failed.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Where a purpose names a party.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamedParty {
    /// As its controller.
    Controller,
    /// As the recipient at a position.
    Recipient(usize),
}

/// Why something was not put into the catalogue, or a change not previewed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CatalogError {
    /// `oldest_compatible_version` is beyond the version that the call would create.
    #[error("oldest_compatible_version is {got}, at most {version} is possible")]
    OldestCompatibleBeyondVersion {
        /// The version asked for.
        got: u32,
        /// The version that the call would create.
        version: u32,
    },
    /// The ids of a namespace would be read in another way, and some are on record.
    #[error(
        "the namespace `{key}` has persons: its kind, default region and folding are fixed; declare \
         another namespace, and link the persons of both"
    )]
    NamespaceInUse {
        /// The namespace.
        key: Key,
        /// The setting that would change.
        field: &'static str,
    },
    /// A purpose names a party that the catalogue lacks.
    #[error("no party `{key}` in the catalogue")]
    UnknownParty {
        /// The party.
        key: Key,
        /// Where it is named.
        at: NamedParty,
    },
    /// A purpose names a party for a role that it does not have.
    #[error("the party `{key}` does not have the role {}", .role.name())]
    PartyWithoutRole {
        /// The party.
        key: Key,
        /// The role.
        role: PartyRole,
        /// Where it is named.
        at: NamedParty,
    },
    /// A purpose names the party for a role that it would lose.
    #[error(
        "the purpose `{purpose}` names the party `{key}` as {}: change the purpose first",
        .role.name()
    )]
    PartyInUse {
        /// The party.
        key: Key,
        /// The role.
        role: PartyRole,
        /// The purpose.
        purpose: Key,
    },
    /// The write failed.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The catalogue, or a state, could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Why the clock was not corrected.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CorrectClockError {
    /// The clock is in doubt now.
    #[error(transparent)]
    ClockNotTrusted(#[from] ClockNotTrusted),
    /// An index lies beyond the ledger.
    #[error("{field} is {index}, beyond the head of the ledger, which is {head}")]
    BeyondHead {
        /// The field.
        field: &'static str,
        /// The index asked for.
        index: u64,
        /// The number of entries.
        head: u64,
    },
    /// A clock that was ahead cannot have given exactly these entries their times.
    #[error(transparent)]
    Range(#[from] ImplausibleRange),
    /// The write failed.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The ledger could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Why a clock that was ahead cannot have given exactly these entries their times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ImplausibleRange {
    /// The last entry is not ahead of the clock.
    #[error(
        "the ledger is not ahead of the clock: name the first entry with a right time as end_index, or {head} \
         if all have a wrong one"
    )]
    NotAhead {
        /// The number of entries.
        head: u64,
    },
    /// The last entry is ahead of the clock, and the range ends before it.
    #[error(
        "the last entry is still {} ms ahead of the clock, and so are all after end_index: leave it out",
        last.0.saturating_sub(now.0)
    )]
    StillAhead {
        /// When the last entry was recorded.
        last: Millis,
        /// The clock.
        now: Millis,
    },
    /// The entry after the range has the time of the one before it.
    #[error(
        "entry {index} has the time of the entry before it: the clock had not caught up there yet. Name a \
         later end_index"
    )]
    EndStandsStill {
        /// Index of the entry.
        index: u64,
    },
    /// The entry before the range is later than the first right time after it.
    #[error("entry {index} is ahead too: name an earlier first_index")]
    BeginsEarlier {
        /// Index of the entry.
        index: u64,
    },
    /// The first entry has a right time.
    #[error("entry {index} is not ahead: name a later first_index")]
    FirstNotAhead {
        /// Index of the entry.
        index: u64,
    },
    /// The range holds an earlier correction, which has a right time.
    #[error(
        "entry {index} in this range has corrected the clock and has a right time: correct the entries \
         before it and after it apart"
    )]
    HoldsCorrection {
        /// Index of the earlier correction.
        index: u64,
    },
}

impl ImplausibleRange {
    /// The field that is wrong.
    #[must_use]
    pub fn field(&self) -> &'static str {
        match self {
            Self::NotAhead { .. } | Self::StillAhead { .. } | Self::EndStandsStill { .. } => {
                "end_index"
            }
            Self::BeginsEarlier { .. }
            | Self::FirstNotAhead { .. }
            | Self::HoldsCorrection { .. } => "first_index",
        }
    }
}

/// Why a disclosure was not made.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DiscloseError {
    /// The ledger has no records of a data subject.
    #[error("the ledger has no records of this data subject: there is nothing to disclose")]
    Unknown {
        /// Its position in the request.
        position: usize,
    },
    /// The file could not be written.
    #[error("the disclosure could not be written to disk: {0}")]
    NotWritten(String),
    /// The caller is gone. Nothing was handed out.
    #[error("the disclosure was broken off")]
    BrokenOff,
    /// The ledger could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The write failed.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Why it can not be said who has heard an entry.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PropagationError {
    /// The entry is no event.
    #[error("entry {index} is {noun}: nobody has to hear it")]
    NotAnEvent {
        /// Index of the entry.
        index: u64,
        /// What it is.
        noun: &'static str,
    },
    /// The ledger could not be read, or has no such entry.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Why a use was not recorded.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UseError {
    /// The catalogue lacks the purpose.
    #[error("no purpose `{key}` in the catalogue")]
    UnknownPurpose {
        /// The key.
        key: Key,
    },
    /// The catalogue lacks the channel.
    #[error("no channel `{key}` in the catalogue")]
    UnknownChannel {
        /// The key.
        key: Key,
    },
    /// The claimed time of the use.
    #[error("used_at {0}")]
    UsedAt(ImpossibleTime),
    /// The write failed.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Why a subscription was not created.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SubscribeError {
    /// There is another subscription of this name.
    #[error("there is another subscription `{name}`")]
    Exists {
        /// The name.
        name: Key,
    },
    /// The limit of subscriptions is reached.
    #[error("there are {limit} subscriptions, which is the limit; delete one")]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// The server does not deliver to this URL.
    #[error("the server sends nothing to this webhook: {problem}")]
    WebhookRefused {
        /// Why not.
        problem: String,
    },
    /// It would start beyond the head of the ledger.
    #[error("index {index} lies beyond the head of the ledger, which is {head}")]
    StartBeyondHead {
        /// The index asked for.
        index: u64,
        /// The number of entries.
        head: u64,
    },
    /// The write failed.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Why a subscription was not ended.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UnsubscribeError {
    /// There is no subscription of this name.
    #[error("there is no subscription `{name}`")]
    NotFound {
        /// The name.
        name: Key,
    },
    /// The write failed.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Why a read failed. The caller must act as if the answer were no.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReadError {
    /// The index lies beyond the head.
    #[error("index {index} lies beyond the head of the ledger, which is {head}")]
    IndexOutOfRange {
        /// The index asked for.
        index: u64,
        /// The number of entries.
        head: u64,
    },
    /// Stored state could not be read.
    #[error("stored state could not be read: {0}")]
    StateUnreadable(String),
}

/// The node did not reach a revision in time.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("revision {wanted} was not reached in time, the node is at {reached}")]
pub struct RevisionNotReached {
    /// The revision asked for.
    pub wanted: u64,
    /// The revision that the node is at.
    pub reached: u64,
}

/// An audience began too long ago.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "the audience began {} s ago and answers as of then; the limit is {} s: begin a new one",
    age.as_secs(),
    age_max.as_secs_f64()
)]
pub struct AudienceTooOld {
    /// How long ago.
    pub age: Duration,
    /// The limit.
    pub age_max: Duration,
}

/// Why a read of the past failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AsOfError {
    /// The moment lies in the future.
    #[error("as_of must not lie in the future")]
    InFuture,
    /// The past could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// No checkpoint of a size was released in time.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("no checkpoint of {wanted} entries was released in time, the latest is of {reached}")]
pub struct CheckpointNotReached {
    /// The number of entries asked for.
    pub wanted: u64,
    /// The number of entries of the latest released checkpoint; 0 if there is none.
    pub reached: u64,
}

/// Why there is no proof.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ProveError {
    /// The size or index lies beyond the latest checkpoint.
    #[error("{what} {wanted} lies beyond the latest checkpoint, which is of {size} entries")]
    BeyondCheckpoint {
        /// The kind of value: a size or an index.
        what: &'static str,
        /// Its value.
        wanted: u64,
        /// Number of entries of the checkpoint, or of the tree that was asked about.
        size: u64,
    },
    /// Ledger or tree could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Why no entry is found by its idempotency key.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FindActError {
    /// No act was recorded with this key.
    #[error("no such act is on record, or it is another data subject's")]
    Unknown,
    /// The view could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Why there is no receipt.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IssueError {
    /// The act is another data subject's. The answer is the same as for an act that does not exist.
    #[error("no such act is on record, or it is another data subject's")]
    ActUnknown {
        /// The field that does not fit: the data subject, if one was named, else the act.
        field: &'static str,
    },
    /// The entry is not an act of consent.
    #[error("entry {index} is no act of consent, so there is no receipt of it")]
    NotAnAct {
        /// Index of the entry.
        index: u64,
    },
    /// The receipt is longer than verifiers accept.
    #[error("the receipt would have {bytes} bytes, the limit is {limit}")]
    TooLong {
        /// How long it would be.
        bytes: usize,
        /// How long it may be.
        limit: usize,
    },
    /// The entry can not be proven.
    #[error(transparent)]
    Prove(#[from] ProveError),
    /// Ledger or vault could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// There is no subscription of this name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("there is no subscription `{name}`")]
pub struct SubscriptionNotFound {
    /// The name.
    pub name: String,
}

/// Why dead letters can not be listed or delivered again.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DeadLettersError {
    /// There is no such subscription.
    #[error(transparent)]
    NotFound(#[from] SubscriptionNotFound),
    /// The subscription is consumed, not delivered by HTTP.
    #[error("subscription `{name}` is consumed, not delivered by HTTP")]
    NotWebhook {
        /// The name.
        name: Key,
    },
    /// The view could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Why there is no snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SnapshotError {
    /// The token belongs to another snapshot, or is malformed.
    #[error("the token is not one of this snapshot")]
    Token,
    /// The state at the revision could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Why a consumer was refused or ended.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConsumeError {
    /// There is no such subscription.
    #[error("there is no subscription `{name}`")]
    NotFound {
        /// Its name.
        name: Key,
    },
    /// The subscription has no such shard.
    #[error("subscription `{name}` has {shards} shards, counted from 0; there is no shard {shard}")]
    NoSuchShard {
        /// Its name.
        name: Key,
        /// The shard.
        shard: u32,
        /// How many there are.
        shards: u32,
    },
    /// The server delivers it by HTTP.
    #[error("subscription `{name}` is delivered by HTTP and can not be consumed")]
    IsWebhook {
        /// Its name.
        name: Key,
    },
    /// A newer consumer has taken over.
    #[error("a newer consumer of this shard has taken over{}", by(.consumer))]
    TakenOver {
        /// Name of the newer consumer.
        consumer: String,
    },
    /// The subscription was deleted.
    #[error("the subscription was deleted")]
    Deleted,
    /// Writes are stopped, so that acknowledgements can not be recorded.
    #[error("writes are stopped: {0}")]
    WritesStopped(String),
    /// An index was acknowledged that was not delivered.
    #[error("cannot acknowledge {index}: only indexes below {delivered} were delivered")]
    AckNotDelivered {
        /// The index that was acknowledged.
        index: u64,
        /// One more than the greatest index that was delivered.
        delivered: u64,
    },
    /// The token belongs to another snapshot, or is malformed.
    #[error("the snapshot token is not one of this snapshot")]
    SnapshotToken,
    /// The node is closing, or its ledger can not be read.
    #[error(transparent)]
    Watch(#[from] WatchError),
}

fn by(consumer: &str) -> String {
    if consumer.is_empty() { String::new() } else { format!(": {consumer}") }
}

/// Converts causes of unreadable state into the errors of operations.
macro_rules! unreadable {
    ($($nested:ident in $operation:ident: $($cause:ty),+;)+) => {
        $($(impl From<$cause> for $operation {
            fn from(cause: $cause) -> Self {
                $nested::StateUnreadable(cause.to_string()).into()
            }
        })+)+
    };
}

unreadable! {
    WriteError in WriteError: ViewError, VaultError, EntryError, FoldError, ReadError, AsOfError;
    WriteError in ConfirmError: ViewError, VaultError;
    ReadError in ReadError: ViewError, VaultError, BackendError, EntryError, FoldError, TreeError,
        WatchError;
    ReadError in CatalogError: ViewError;
    ReadError in ProveError: TreeError;
    ReadError in FindActError: ViewError;
    ReadError in IssueError: VaultError, EntryError;
    ReadError in DeadLettersError: ViewError;
}
