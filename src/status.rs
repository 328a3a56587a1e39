//! The one place where faults become `tonic::Status`.
//!
//! Every fault has a [`Kind`]; a kind has one status code and one reason, both documented in
//! `proto/consent/v1/errors.proto`. What a caller is told never holds stored data, paths or the
//! words of a lower layer: a fault of the server is told in general words, and its detail goes to
//! the log. No other file names `tonic::Code`.

mod invalid;

use std::{collections::HashMap, time::Duration};

use thiserror::Error;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

pub use invalid::{Invalid, PAGE_SIZE_MAX, Problem};

use crate::{
    domain::Key,
    node::{ConsumeError, ReadError, WriteError},
    watch::WatchError,
};

/// Domain of every `google.rpc.ErrorInfo`.
pub const ERROR_DOMAIN: &str = "consent.v1";

/// How long to wait before the next try where the server is only busy.
const RETRY_WHEN_BUSY: Duration = Duration::from_millis(100);
/// How long to wait before the next try where somebody has to come back first.
const RETRY_WHEN_AWAY: Duration = Duration::from_secs(1);

/// Every way in which a call can fail, as the service layers meet them.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Fault {
    /// The request is wrong.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// An act or a change of the catalogue was not recorded.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A question has no answer.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A watcher hears nothing more.
    #[error(transparent)]
    Watch(#[from] WatchError),
    /// A consumer hears nothing more, or was not let in.
    #[error(transparent)]
    Consume(#[from] ConsumeError),
    /// An act is recorded, and was to be answered only once it can be proven.
    #[error(
        "the act is recorded as entry {index}, but no checkpoint that covers it was released in time"
    )]
    NotProven {
        /// Index of the entry.
        index: u64,
    },
    /// The catalogue lacks the purpose that was asked for.
    #[error("no purpose `{0}` in the catalogue")]
    NoSuchPurpose(Key),
    /// The request's bytes are no message of the expected type.
    #[error("the request could not be decoded")]
    Undecodable,
    /// The request's message is larger than the server takes.
    #[error("the message is larger than the server takes: {0}")]
    MessageTooLarge(String),
    /// As many requests are in flight as may be.
    #[error("too many requests are in flight, the limit is {limit}")]
    TooManyRequests {
        /// The limit.
        limit: u64,
    },
    /// As many streams are open as may be.
    #[error("too many streams are open, the limit is {limit}")]
    TooManyStreams {
        /// The limit.
        limit: u64,
    },
    /// The request took too long.
    #[error("the request took longer than {limit_ms} ms")]
    DeadlineExceeded {
        /// What the server, or the caller, allows.
        limit_ms: u128,
    },
    /// The server is shutting down.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// Anything that should not happen. The text is for the log alone.
    #[error("{0}")]
    Internal(String),
}

/// What a fault is, for callers: one kind for every reason of `errors.proto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A field is missing or malformed.
    InvalidField,
    /// A limit is exceeded.
    LimitExceeded,
    /// `effective_at` lies too far in the future.
    EffectiveAtInFuture,
    /// The act would not fit into an entry.
    EntryTooLarge,
    /// The purpose is not in the catalogue.
    UnknownPurpose,
    /// The channel is not in the catalogue.
    UnknownChannel,
    /// The purpose is retired.
    PurposeRetired,
    /// The channel is retired.
    ChannelRetired,
    /// The idempotency key was used with another request.
    IdempotencyKeyReused,
    /// Too many appends are in flight.
    TooManyAppends,
    /// Too many requests are in flight.
    TooManyRequests,
    /// Too many streams are open.
    TooManyStreams,
    /// The ledger takes no more writes until restart.
    WritesStopped,
    /// The node did not reach the revision in time.
    RevisionNotReached,
    /// The server is shutting down.
    ShuttingDown,
    /// The index lies beyond the head.
    IndexOutOfRange,
    /// Stored state could not be read.
    StateUnreadable,
    /// An unexpected fault.
    Internal,
    /// The request took too long.
    DeadlineExceeded,
    /// No act waits for the confirmation token.
    ConfirmationTokenUnknown,
    /// The confirmation token is past its end.
    ConfirmationTokenExpired,
    /// The confirmation token was used.
    ConfirmationTokenUsed,
    /// The guardian's authority had ended.
    AuthorityEnded,
    /// The two data subjects are not linked.
    SubjectsNotLinked,
    /// No checkpoint of that size was released in time.
    CheckpointNotReached,
    /// No act was recorded with this idempotency key.
    ActUnknown,
    /// The entry is no act of consent.
    NotAnAct,
    /// There is no subscription of this name.
    SubscriptionNotFound,
    /// There is another subscription of this name.
    SubscriptionExists,
    /// There are as many subscriptions as there may be.
    TooManySubscriptions,
    /// A newer consumer has taken over.
    SubscriptionTakenOver,
    /// The subscription was deleted.
    SubscriptionDeleted,
    /// The subscription is delivered by HTTP.
    SubscriptionIsWebhook,
    /// The subscription is not delivered by HTTP.
    SubscriptionNotWebhook,
    /// What was acknowledged was not delivered.
    AckNotDelivered,
    /// The server sends nothing to this address.
    WebhookRefused,
}

impl Kind {
    /// The reason of `google.rpc.ErrorInfo`.
    #[must_use]
    pub fn reason(self) -> &'static str {
        self.row().0
    }

    fn code(self) -> Code {
        self.row().1
    }

    /// When the same request may be worth another try; none where it is not, before somebody acts.
    #[must_use]
    pub fn retry_after(self) -> Option<Duration> {
        self.row().2
    }

    fn row(self) -> (&'static str, Code, Option<Duration>) {
        let (busy, away) = (Some(RETRY_WHEN_BUSY), Some(RETRY_WHEN_AWAY));
        match self {
            Self::InvalidField => ("INVALID_FIELD", Code::InvalidArgument, None),
            Self::LimitExceeded => ("LIMIT_EXCEEDED", Code::InvalidArgument, None),
            Self::EffectiveAtInFuture => ("EFFECTIVE_AT_IN_FUTURE", Code::InvalidArgument, None),
            Self::EntryTooLarge => ("ENTRY_TOO_LARGE", Code::InvalidArgument, None),
            Self::UnknownPurpose => ("UNKNOWN_PURPOSE", Code::NotFound, None),
            Self::UnknownChannel => ("UNKNOWN_CHANNEL", Code::NotFound, None),
            Self::PurposeRetired => ("PURPOSE_RETIRED", Code::FailedPrecondition, None),
            Self::ChannelRetired => ("CHANNEL_RETIRED", Code::FailedPrecondition, None),
            Self::IdempotencyKeyReused => ("IDEMPOTENCY_KEY_REUSED", Code::AlreadyExists, None),
            Self::TooManyAppends => ("TOO_MANY_APPENDS", Code::ResourceExhausted, busy),
            Self::TooManyRequests => ("TOO_MANY_REQUESTS", Code::ResourceExhausted, busy),
            Self::TooManyStreams => ("TOO_MANY_STREAMS", Code::ResourceExhausted, away),
            Self::WritesStopped => ("WRITES_STOPPED", Code::Unavailable, None),
            Self::RevisionNotReached => ("REVISION_NOT_REACHED", Code::Unavailable, busy),
            Self::ShuttingDown => ("SHUTTING_DOWN", Code::Unavailable, away),
            Self::IndexOutOfRange => ("INDEX_OUT_OF_RANGE", Code::OutOfRange, None),
            Self::StateUnreadable => ("STATE_UNREADABLE", Code::Internal, None),
            Self::Internal => ("INTERNAL", Code::Internal, None),
            Self::DeadlineExceeded => ("DEADLINE_EXCEEDED", Code::DeadlineExceeded, None),
            Self::ConfirmationTokenUnknown => ("CONFIRMATION_TOKEN_UNKNOWN", Code::NotFound, None),
            Self::ConfirmationTokenExpired => {
                ("CONFIRMATION_TOKEN_EXPIRED", Code::FailedPrecondition, None)
            }
            Self::ConfirmationTokenUsed => {
                ("CONFIRMATION_TOKEN_USED", Code::FailedPrecondition, None)
            }
            Self::AuthorityEnded => ("AUTHORITY_ENDED", Code::FailedPrecondition, None),
            Self::SubjectsNotLinked => ("SUBJECTS_NOT_LINKED", Code::FailedPrecondition, None),
            Self::CheckpointNotReached => ("CHECKPOINT_NOT_REACHED", Code::Unavailable, away),
            Self::ActUnknown => ("ACT_UNKNOWN", Code::NotFound, None),
            Self::NotAnAct => ("NOT_AN_ACT", Code::FailedPrecondition, None),
            Self::SubscriptionNotFound => ("SUBSCRIPTION_NOT_FOUND", Code::NotFound, None),
            Self::SubscriptionExists => ("SUBSCRIPTION_EXISTS", Code::AlreadyExists, None),
            Self::TooManySubscriptions => ("TOO_MANY_SUBSCRIPTIONS", Code::ResourceExhausted, None),
            Self::SubscriptionTakenOver => ("SUBSCRIPTION_TAKEN_OVER", Code::Aborted, None),
            Self::SubscriptionDeleted => ("SUBSCRIPTION_DELETED", Code::Aborted, None),
            Self::SubscriptionIsWebhook => {
                ("SUBSCRIPTION_IS_WEBHOOK", Code::FailedPrecondition, None)
            }
            Self::SubscriptionNotWebhook => {
                ("SUBSCRIPTION_NOT_WEBHOOK", Code::FailedPrecondition, None)
            }
            Self::AckNotDelivered => ("ACK_NOT_DELIVERED", Code::InvalidArgument, None),
            Self::WebhookRefused => ("WEBHOOK_REFUSED", Code::FailedPrecondition, None),
        }
    }
}

impl Fault {
    /// What the fault is, for callers.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Invalid(invalid) if invalid.problem.limit().is_some() => Kind::LimitExceeded,
            Self::Invalid(_) | Self::Undecodable => Kind::InvalidField,
            Self::Write(error) => write_kind(error),
            Self::Read(ReadError::RevisionNotReached { .. }) => Kind::RevisionNotReached,
            Self::Read(ReadError::IndexOutOfRange { .. } | ReadError::BeyondCheckpoint { .. }) => {
                Kind::IndexOutOfRange
            }
            Self::NotProven { .. } => Kind::CheckpointNotReached,
            Self::Read(ReadError::AsOfInFuture) => Kind::InvalidField,
            Self::Read(ReadError::CheckpointNotReached { .. }) => Kind::CheckpointNotReached,
            Self::Read(ReadError::ActUnknown) => Kind::ActUnknown,
            Self::Read(ReadError::NotAnAct { .. }) => Kind::NotAnAct,
            Self::Read(ReadError::SubscriptionNotFound { .. }) => Kind::SubscriptionNotFound,
            Self::Read(ReadError::NotWebhook { .. }) => Kind::SubscriptionNotWebhook,
            Self::Read(ReadError::SnapshotToken) => Kind::InvalidField,
            Self::Consume(error) => consume_kind(error),
            Self::Read(ReadError::ReceiptTooLong { .. }) => Kind::LimitExceeded,
            Self::Read(ReadError::StateUnreadable(_)) | Self::Watch(WatchError::Unreadable(_)) => {
                Kind::StateUnreadable
            }
            Self::Watch(WatchError::Closing { .. }) | Self::ShuttingDown => Kind::ShuttingDown,
            Self::NoSuchPurpose(_) => Kind::UnknownPurpose,
            Self::MessageTooLarge(_) => Kind::LimitExceeded,
            Self::TooManyRequests { .. } => Kind::TooManyRequests,
            Self::TooManyStreams { .. } => Kind::TooManyStreams,
            Self::DeadlineExceeded { .. } => Kind::DeadlineExceeded,
            Self::Internal(_) => Kind::Internal,
        }
    }

    /// The field at fault, as a path in the request's own words; empty where none is.
    #[must_use]
    pub fn field(&self) -> String {
        let scope = |change: usize, part: &str| format!("changes[{change}].scope.{part}");
        match self {
            Self::Invalid(invalid) => invalid.field.clone(),
            Self::NoSuchPurpose(_) => "key".to_owned(),
            Self::Read(ReadError::AsOfInFuture) => "as_of".to_owned(),
            Self::Read(ReadError::ActUnknown) => "idempotency_key".to_owned(),
            Self::Read(ReadError::NotAnAct { .. }) => "index".to_owned(),
            Self::Read(ReadError::SubscriptionNotFound { .. } | ReadError::NotWebhook { .. }) => {
                "subscription".to_owned()
            }
            Self::Read(ReadError::SnapshotToken) => "snapshot_token".to_owned(),
            Self::Consume(error) => match error {
                ConsumeError::NotFound { .. } | ConsumeError::IsWebhook { .. } => {
                    "start.subscription".to_owned()
                }
                ConsumeError::NoSuchShard { .. } => "start.shard".to_owned(),
                ConsumeError::SnapshotToken => "start.snapshot_token".to_owned(),
                ConsumeError::AckNotDelivered { .. } => "ack".to_owned(),
                _ => String::new(),
            },
            Self::Write(error) => match error {
                WriteError::EffectiveAtInFuture { .. } => "effective_at".to_owned(),
                WriteError::UnknownPurpose { change, .. }
                | WriteError::PurposeRetired { change, .. } => scope(*change, "purpose"),
                WriteError::UnknownChannel { change, .. }
                | WriteError::ChannelRetired { change, .. } => scope(*change, "channel"),
                WriteError::UnknownPurposeVersion { change, .. } => {
                    format!("changes[{change}].purpose_version")
                }
                WriteError::ExpiresBeforeEffective { change } => {
                    format!("changes[{change}].expires_at")
                }
                WriteError::GrantNotOneCell { change } => format!("changes[{change}].scope"),
                WriteError::OldestCompatibleBeyondVersion { .. } => {
                    "purpose.oldest_compatible_version".to_owned()
                }
                WriteError::IdempotencyKeyReused { .. } => "idempotency_key".to_owned(),
                WriteError::CategoryNotDeclared { change, position, .. } => {
                    format!("changes[{change}].data_categories[{position}]")
                }
                WriteError::NoPurpose { .. } => "purpose".to_owned(),
                WriteError::NoChannel { .. } => "channel".to_owned(),
                WriteError::UsedInFuture => "used_at".to_owned(),
                WriteError::AuthorityEnded => "evidence.authority.ends_at".to_owned(),
                WriteError::TokenUnknown
                | WriteError::TokenExpired
                | WriteError::TokenUsed { .. } => "token".to_owned(),
                WriteError::LinkToSelf
                | WriteError::NotLinked
                | WriteError::TooManyLinked { .. } => "other_subject".to_owned(),
                WriteError::SubscriptionExists { .. } => "subscription.name".to_owned(),
                WriteError::SubscriptionNotFound { .. } => "name".to_owned(),
                WriteError::WebhookRefused { .. } => "subscription.webhook.url".to_owned(),
                WriteError::StartBeyondHead { .. } => "start_index".to_owned(),
                _ => String::new(),
            },
            _ => String::new(),
        }
    }

    /// What a caller is told.
    #[must_use]
    pub fn message(&self) -> String {
        match self.kind() {
            Kind::Internal => "an unexpected fault; the detail is in the server's log".to_owned(),
            Kind::StateUnreadable => {
                "stored state could not be read; act as if the answer were DENY".to_owned()
            }
            Kind::WritesStopped => {
                "the ledger takes no writes until restart; whether this act was \
                                    recorded is not known: retry with the same idempotency key"
                    .to_owned()
            }
            _ => self.to_string(),
        }
    }

    /// Facts that a program may want, as `ErrorInfo.metadata`.
    fn metadata(&self) -> HashMap<String, String> {
        let mut facts = HashMap::new();
        let mut add = |name: &str, value: &dyn ToString| {
            facts.insert(name.to_owned(), value.to_string());
        };
        match self {
            Self::Invalid(invalid) => {
                if let Some(limit) = invalid.problem.limit() {
                    add("limit", &limit);
                }
            }
            Self::Write(error) => match error {
                WriteError::EffectiveAtInFuture { ahead_ms } => {
                    add("ahead_ms", ahead_ms);
                    add("limit_ms", &crate::node::CLOCK_SKEW_MS_MAX);
                }
                WriteError::UnknownPurpose { key, .. }
                | WriteError::NoPurpose { key }
                | WriteError::PurposeRetired { key, .. } => add("purpose", key),
                WriteError::UnknownChannel { key, .. }
                | WriteError::NoChannel { key }
                | WriteError::ChannelRetired { key, .. } => add("channel", key),
                WriteError::UnknownPurposeVersion { key, current, .. } => {
                    add("purpose", key);
                    add("current_version", current);
                }
                WriteError::EntryTooLarge { bytes, limit } => {
                    add("bytes", bytes);
                    add("limit", limit);
                }
                WriteError::IdempotencyKeyReused { index } | WriteError::TokenUsed { index } => {
                    add("index", index);
                }
                WriteError::TooManyAppends { limit }
                | WriteError::TooManySubscriptions { limit }
                | WriteError::TooManyLinked { limit, .. } => add("limit", limit),
                WriteError::StartBeyondHead { index, head } => {
                    add("index", index);
                    add("head", head);
                }
                _ => {}
            },
            Self::Read(
                ReadError::RevisionNotReached { wanted, reached }
                | ReadError::CheckpointNotReached { wanted, reached },
            ) => {
                add("wanted", wanted);
                add("reached", reached);
            }
            Self::Read(ReadError::IndexOutOfRange { index, head }) => {
                add("index", index);
                add("head", head);
            }
            Self::Read(ReadError::ReceiptTooLong { bytes, limit }) => {
                add("bytes", bytes);
                add("limit", limit);
            }
            Self::Read(ReadError::BeyondCheckpoint { wanted, size, .. }) => {
                add("index", wanted);
                add("head", size);
            }
            Self::NotProven { index } => add("index", index),
            Self::Watch(WatchError::Closing { next_index })
            | Self::Consume(ConsumeError::Watch(WatchError::Closing { next_index })) => {
                add("next_index", next_index);
            }
            Self::Consume(ConsumeError::AckNotDelivered { index, delivered }) => {
                add("index", index);
                add("delivered", delivered);
            }
            Self::Consume(ConsumeError::NoSuchShard { shards, .. }) => add("shards", shards),
            Self::NoSuchPurpose(key) => add("purpose", key),
            Self::TooManyRequests { limit } | Self::TooManyStreams { limit } => add("limit", limit),
            Self::DeadlineExceeded { limit_ms } => add("limit_ms", limit_ms),
            _ => {}
        }
        facts
    }
}

fn write_kind(error: &WriteError) -> Kind {
    match error {
        WriteError::EffectiveAtInFuture { .. } => Kind::EffectiveAtInFuture,
        WriteError::UnknownPurpose { .. } => Kind::UnknownPurpose,
        WriteError::UnknownChannel { .. } => Kind::UnknownChannel,
        WriteError::PurposeRetired { .. } => Kind::PurposeRetired,
        WriteError::ChannelRetired { .. } => Kind::ChannelRetired,
        WriteError::UnknownPurposeVersion { .. }
        | WriteError::ExpiresBeforeEffective { .. }
        | WriteError::GrantNotOneCell { .. }
        | WriteError::CategoryNotDeclared { .. }
        | WriteError::LinkToSelf
        | WriteError::OldestCompatibleBeyondVersion { .. } => Kind::InvalidField,
        WriteError::NoPurpose { .. } => Kind::UnknownPurpose,
        WriteError::NoChannel { .. } => Kind::UnknownChannel,
        WriteError::UsedInFuture => Kind::InvalidField,
        WriteError::AuthorityEnded => Kind::AuthorityEnded,
        WriteError::TokenUnknown => Kind::ConfirmationTokenUnknown,
        WriteError::TokenExpired => Kind::ConfirmationTokenExpired,
        WriteError::TokenUsed { .. } => Kind::ConfirmationTokenUsed,
        WriteError::NotLinked => Kind::SubjectsNotLinked,
        WriteError::SubscriptionExists { .. } => Kind::SubscriptionExists,
        WriteError::SubscriptionNotFound { .. } => Kind::SubscriptionNotFound,
        WriteError::TooManySubscriptions { .. } => Kind::TooManySubscriptions,
        WriteError::StartBeyondHead { .. } => Kind::IndexOutOfRange,
        WriteError::WebhookRefused { .. } => Kind::WebhookRefused,
        WriteError::TooManyLinked { .. } => Kind::LimitExceeded,
        WriteError::EntryTooLarge { .. } => Kind::EntryTooLarge,
        WriteError::IdempotencyKeyReused { .. } => Kind::IdempotencyKeyReused,
        WriteError::TooManyAppends { .. } => Kind::TooManyAppends,
        WriteError::WritesStopped(_) => Kind::WritesStopped,
        WriteError::ShuttingDown => Kind::ShuttingDown,
        WriteError::StateUnreadable(_) => Kind::StateUnreadable,
    }
}

fn consume_kind(error: &ConsumeError) -> Kind {
    match error {
        ConsumeError::NotFound { .. } => Kind::SubscriptionNotFound,
        ConsumeError::NoSuchShard { .. } | ConsumeError::SnapshotToken => Kind::InvalidField,
        ConsumeError::IsWebhook { .. } => Kind::SubscriptionIsWebhook,
        ConsumeError::TakenOver { .. } => Kind::SubscriptionTakenOver,
        ConsumeError::Deleted => Kind::SubscriptionDeleted,
        ConsumeError::WritesStopped(_) => Kind::WritesStopped,
        ConsumeError::AckNotDelivered { .. } => Kind::AckNotDelivered,
        ConsumeError::Watch(WatchError::Closing { .. }) => Kind::ShuttingDown,
        ConsumeError::Watch(WatchError::Unreadable(_)) => Kind::StateUnreadable,
    }
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        let kind = fault.kind();
        match kind {
            Kind::Internal | Kind::StateUnreadable => {
                tracing::error!(reason = kind.reason(), detail = %fault, "request failed");
            }
            // The node says once, and loudly, why writes stopped.
            Kind::WritesStopped => {
                tracing::debug!(reason = kind.reason(), detail = %fault, "request failed");
            }
            _ => {}
        }
        let mut details =
            ErrorDetails::with_error_info(kind.reason(), ERROR_DOMAIN, fault.metadata());
        let message = fault.message();
        let field = fault.field();
        if !field.is_empty() {
            let description = match &fault {
                Fault::Invalid(invalid) => invalid.problem.to_string(),
                _ => message.clone(),
            };
            details.set_bad_request(vec![FieldViolation::new(field, description)]);
        }
        if let Some(delay) = kind.retry_after() {
            details.set_retry_info(Some(delay));
        }
        Status::with_error_details(kind.code(), message, details)
    }
}

impl From<WriteError> for Status {
    fn from(error: WriteError) -> Self {
        Fault::from(error).into()
    }
}

impl From<ReadError> for Status {
    fn from(error: ReadError) -> Self {
        Fault::from(error).into()
    }
}

impl From<WatchError> for Status {
    fn from(error: WatchError) -> Self {
        Fault::from(error).into()
    }
}

impl From<ConsumeError> for Status {
    fn from(error: ConsumeError) -> Self {
        Fault::from(error).into()
    }
}

impl From<Invalid> for Status {
    fn from(error: Invalid) -> Self {
        Fault::from(error).into()
    }
}

/// What tonic itself said about a request that it could not hand to a service, as a fault of ours;
/// none if its status is best left as it is.
///
/// Every status of ours carries details. One without is tonic's: its decoder answers OUT_OF_RANGE
/// for a message over the limit, and INTERNAL for bytes that are no message.
#[must_use]
pub fn fault_of_transport(headers: &http::HeaderMap) -> Option<Fault> {
    let status = Status::from_header_map(headers)?;
    if !status.details().is_empty() {
        return None;
    }
    match status.code() {
        Code::OutOfRange | Code::ResourceExhausted => {
            Some(Fault::MessageTooLarge(status.message().to_owned()))
        }
        Code::Internal => Some(Fault::Undecodable),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tonic_types::StatusExt;

    use super::*;

    /// Reason and code of every value of the protocol's enum.
    fn documented() -> BTreeMap<String, String> {
        let reasons = (1..).map_while(|number| crate::proto::ErrorReason::try_from(number).ok());
        let row = |reason: crate::proto::ErrorReason| {
            let code = Code::from(i32::from(reason.status()));
            (reason.reason().to_owned(), code_name(code))
        };
        reasons.map(row).collect()
    }

    fn code_name(code: Code) -> String {
        let mut name = String::new();
        for letter in format!("{code:?}").chars() {
            if letter.is_uppercase() && !name.is_empty() {
                name.push('_');
            }
            name.push(letter.to_ascii_uppercase());
        }
        name
    }

    fn key(text: &str) -> Key {
        Key::parse(text).unwrap()
    }

    fn invalid(problem: Problem) -> Fault {
        Fault::Invalid(Invalid { field: "changes[2].scope.purpose".to_owned(), problem })
    }

    /// Every fault once, with the field that it names.
    fn every_fault() -> Vec<(Fault, Kind, &'static str)> {
        let (email, news) = (key("email"), key("marketing.newsletter"));
        vec![
            (invalid(Problem::Required), Kind::InvalidField, "changes[2].scope.purpose"),
            (
                invalid(Problem::TooMany { limit: 100, got: 101 }),
                Kind::LimitExceeded,
                "changes[2].scope.purpose",
            ),
            (Fault::Undecodable, Kind::InvalidField, ""),
            (Fault::MessageTooLarge("5 MiB".to_owned()), Kind::LimitExceeded, ""),
            (
                WriteError::EffectiveAtInFuture { ahead_ms: 9 }.into(),
                Kind::EffectiveAtInFuture,
                "effective_at",
            ),
            (
                WriteError::UnknownPurpose { change: 1, key: news.clone() }.into(),
                Kind::UnknownPurpose,
                "changes[1].scope.purpose",
            ),
            (
                WriteError::UnknownChannel { change: 1, key: email.clone() }.into(),
                Kind::UnknownChannel,
                "changes[1].scope.channel",
            ),
            (
                WriteError::PurposeRetired { change: 0, key: news.clone() }.into(),
                Kind::PurposeRetired,
                "changes[0].scope.purpose",
            ),
            (
                WriteError::ChannelRetired { change: 0, key: email }.into(),
                Kind::ChannelRetired,
                "changes[0].scope.channel",
            ),
            (
                WriteError::UnknownPurposeVersion {
                    change: 4,
                    key: news.clone(),
                    version: 3,
                    current: 2,
                }
                .into(),
                Kind::InvalidField,
                "changes[4].purpose_version",
            ),
            (
                WriteError::ExpiresBeforeEffective { change: 4 }.into(),
                Kind::InvalidField,
                "changes[4].expires_at",
            ),
            (
                WriteError::OldestCompatibleBeyondVersion { got: 3, version: 2 }.into(),
                Kind::InvalidField,
                "purpose.oldest_compatible_version",
            ),
            (
                WriteError::EntryTooLarge { bytes: 70_000, limit: 65_535 }.into(),
                Kind::EntryTooLarge,
                "",
            ),
            (
                WriteError::IdempotencyKeyReused { index: 7 }.into(),
                Kind::IdempotencyKeyReused,
                "idempotency_key",
            ),
            (WriteError::TooManyAppends { limit: 8 }.into(), Kind::TooManyAppends, ""),
            (WriteError::WritesStopped("/data".to_owned()).into(), Kind::WritesStopped, ""),
            (WriteError::ShuttingDown.into(), Kind::ShuttingDown, ""),
            (WriteError::StateUnreadable("/data".to_owned()).into(), Kind::StateUnreadable, ""),
            (
                ReadError::RevisionNotReached { wanted: 9, reached: 3 }.into(),
                Kind::RevisionNotReached,
                "",
            ),
            (ReadError::IndexOutOfRange { index: 9, head: 3 }.into(), Kind::IndexOutOfRange, ""),
            (ReadError::StateUnreadable("/data".to_owned()).into(), Kind::StateUnreadable, ""),
            (WatchError::Closing { next_index: 5 }.into(), Kind::ShuttingDown, ""),
            (WatchError::Unreadable("/data".to_owned()).into(), Kind::StateUnreadable, ""),
            (ReadError::AsOfInFuture.into(), Kind::InvalidField, "as_of"),
            (
                ReadError::CheckpointNotReached { wanted: 9, reached: 3 }.into(),
                Kind::CheckpointNotReached,
                "",
            ),
            (
                ReadError::BeyondCheckpoint { what: "size", wanted: 9, size: 3 }.into(),
                Kind::IndexOutOfRange,
                "",
            ),
            (Fault::NotProven { index: 4 }, Kind::CheckpointNotReached, ""),
            (ReadError::ActUnknown.into(), Kind::ActUnknown, "idempotency_key"),
            (ReadError::NotAnAct { index: 4 }.into(), Kind::NotAnAct, "index"),
            (ReadError::ReceiptTooLong { bytes: 9, limit: 8 }.into(), Kind::LimitExceeded, ""),
            (WriteError::NoPurpose { key: news.clone() }.into(), Kind::UnknownPurpose, "purpose"),
            (WriteError::NoChannel { key: news.clone() }.into(), Kind::UnknownChannel, "channel"),
            (WriteError::UsedInFuture.into(), Kind::InvalidField, "used_at"),
            (WriteError::AuthorityEnded.into(), Kind::AuthorityEnded, "evidence.authority.ends_at"),
            (WriteError::TokenUnknown.into(), Kind::ConfirmationTokenUnknown, "token"),
            (WriteError::TokenExpired.into(), Kind::ConfirmationTokenExpired, "token"),
            (WriteError::TokenUsed { index: 4 }.into(), Kind::ConfirmationTokenUsed, "token"),
            (WriteError::NotLinked.into(), Kind::SubjectsNotLinked, "other_subject"),
            (
                WriteError::TooManyLinked { got: 65, limit: 64 }.into(),
                Kind::LimitExceeded,
                "other_subject",
            ),
            (
                WriteError::CategoryNotDeclared {
                    change: 1,
                    position: 2,
                    category: "user.name".to_owned(),
                    key: news.clone(),
                    version: 1,
                }
                .into(),
                Kind::InvalidField,
                "changes[1].data_categories[2]",
            ),
            (
                WriteError::SubscriptionExists { name: news.clone() }.into(),
                Kind::SubscriptionExists,
                "subscription.name",
            ),
            (
                WriteError::SubscriptionNotFound { name: news.clone() }.into(),
                Kind::SubscriptionNotFound,
                "name",
            ),
            (WriteError::TooManySubscriptions { limit: 2 }.into(), Kind::TooManySubscriptions, ""),
            (
                WriteError::StartBeyondHead { index: 9, head: 3 }.into(),
                Kind::IndexOutOfRange,
                "start_index",
            ),
            (
                WriteError::WebhookRefused { problem: "no".to_owned() }.into(),
                Kind::WebhookRefused,
                "subscription.webhook.url",
            ),
            (
                ReadError::SubscriptionNotFound { name: "crm".to_owned() }.into(),
                Kind::SubscriptionNotFound,
                "subscription",
            ),
            (
                ReadError::NotWebhook { name: news.clone() }.into(),
                Kind::SubscriptionNotWebhook,
                "subscription",
            ),
            (ReadError::SnapshotToken.into(), Kind::InvalidField, "snapshot_token"),
            (
                ConsumeError::NotFound { name: news.clone() }.into(),
                Kind::SubscriptionNotFound,
                "start.subscription",
            ),
            (
                ConsumeError::NoSuchShard { name: news.clone(), shard: 2, shards: 2 }.into(),
                Kind::InvalidField,
                "start.shard",
            ),
            (
                ConsumeError::IsWebhook { name: news.clone() }.into(),
                Kind::SubscriptionIsWebhook,
                "start.subscription",
            ),
            (
                ConsumeError::TakenOver { consumer: "b".to_owned() }.into(),
                Kind::SubscriptionTakenOver,
                "",
            ),
            (ConsumeError::Deleted.into(), Kind::SubscriptionDeleted, ""),
            (ConsumeError::WritesStopped("/data".to_owned()).into(), Kind::WritesStopped, ""),
            (
                ConsumeError::AckNotDelivered { index: 9, delivered: 3 }.into(),
                Kind::AckNotDelivered,
                "ack",
            ),
            (ConsumeError::SnapshotToken.into(), Kind::InvalidField, "start.snapshot_token"),
            (
                ConsumeError::from(WatchError::Closing { next_index: 5 }).into(),
                Kind::ShuttingDown,
                "",
            ),
            (
                ConsumeError::from(WatchError::Unreadable("/data".to_owned())).into(),
                Kind::StateUnreadable,
                "",
            ),
            (Fault::NoSuchPurpose(news), Kind::UnknownPurpose, "key"),
            (Fault::TooManyRequests { limit: 2 }, Kind::TooManyRequests, ""),
            (Fault::TooManyStreams { limit: 2 }, Kind::TooManyStreams, ""),
            (Fault::DeadlineExceeded { limit_ms: 10 }, Kind::DeadlineExceeded, ""),
            (Fault::ShuttingDown, Kind::ShuttingDown, ""),
            (Fault::Internal("/data".to_owned()), Kind::Internal, ""),
        ]
    }

    #[test]
    fn every_fault_has_the_documented_reason_and_code() {
        let documented = documented();
        let mut kinds: BTreeMap<&str, Kind> = BTreeMap::new();
        for (fault, kind, field) in every_fault() {
            assert_eq!(fault.kind(), kind, "{fault:?}");
            assert_eq!(fault.field(), field, "{fault:?}");
            let status = Status::from(fault.clone());
            let info = status.get_details_error_info().unwrap();
            assert_eq!(info.domain, "consent.v1");
            assert_eq!(info.reason, kind.reason());
            assert_eq!(Some(&code_name(status.code())), documented.get(&info.reason), "{fault:?}");
            assert_eq!(*kinds.entry(kind.reason()).or_insert(kind), kind, "one kind a reason");
            let violations = status.get_details_bad_request().map(|b| b.field_violations);
            match violations.as_deref() {
                None => assert_eq!(field, "", "{fault:?}"),
                Some([violation]) => {
                    assert_eq!(violation.field, field);
                    assert!(!violation.description.is_empty());
                }
                Some(more) => panic!("{more:?}"),
            }
        }
        let reasons: Vec<&str> = kinds.into_keys().collect();
        let promised: Vec<&str> = documented.keys().map(String::as_str).collect();
        assert_eq!(reasons, promised);
    }

    #[test]
    fn faults_of_the_server_are_told_in_general_words() {
        for (fault, _, _) in every_fault() {
            let status = Status::from(fault);
            let info = status.get_details_error_info().unwrap();
            assert!(!status.message().contains("/data"), "{status:?}");
            assert!(!info.metadata.values().any(|value| value.contains("/data")), "{info:?}");
        }
    }

    #[test]
    fn what_is_worth_retrying_says_when() {
        for (fault, kind, _) in every_fault() {
            let status = Status::from(fault);
            let retry = status.get_details_retry_info().and_then(|info| info.retry_delay);
            assert_eq!(retry, kind.retry_after());
            let busy_or_away = matches!(status.code(), Code::ResourceExhausted | Code::Unavailable);
            // Somebody has to act first.
            let by_itself = !matches!(kind, Kind::WritesStopped | Kind::TooManySubscriptions);
            assert_eq!(retry.is_some(), busy_or_away && by_itself, "{kind:?}");
        }
    }

    #[test]
    fn limits_are_told_as_numbers() {
        let status = Status::from(invalid(Problem::TooMany { limit: 100, got: 101 }));
        let info = status.get_details_error_info().unwrap();
        assert_eq!(info.metadata.get("limit").map(String::as_str), Some("100"));
        let bad = status.get_details_bad_request().unwrap();
        assert_eq!(bad.field_violations[0].description, "must have at most 100 items, got 101");
        assert_eq!(
            status.message(),
            "changes[2].scope.purpose must have at most 100 items, got 101"
        );
    }

    #[test]
    fn statuses_of_the_transport_become_faults_of_ours() {
        let headers = |status: Status| status.into_http::<()>().headers().clone();
        let too_large = headers(Status::out_of_range("found 5 bytes, the limit is: 4 bytes"));
        assert_eq!(
            fault_of_transport(&too_large).map(|fault| fault.kind()),
            Some(Kind::LimitExceeded)
        );
        let garbage = headers(Status::internal("failed to decode Protobuf message"));
        assert_eq!(fault_of_transport(&garbage), Some(Fault::Undecodable));
        for left_alone in [
            Status::unimplemented(""),
            Fault::Internal(String::new()).into(),
            ReadError::IndexOutOfRange { index: 1, head: 0 }.into(),
        ] {
            assert_eq!(fault_of_transport(&headers(left_alone)), None);
        }
        assert_eq!(fault_of_transport(&http::HeaderMap::new()), None);
    }
}
