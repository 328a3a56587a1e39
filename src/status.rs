//! The one place where faults become `tonic::Status`.
//!
//! Every fault has an [`ErrorReason`]; `proto/consent/v1/errors.proto` gives its status code and its
//! retry delay. A status never holds stored data, paths or the messages of a lower layer: for a fault of
//! the server it has a general message, and the detail goes to the log. No other file names
//! `tonic::Code`.

mod details;
mod invalid;

use std::collections::HashMap;

use thiserror::Error;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use details::{Details, Explain};
pub use invalid::{Invalid, PAGE_SIZE_MAX, Problem};

use crate::{
    domain::Key,
    near,
    node::{
        AudienceTooOld, CatalogError, CheckpointNotReached, ConfirmError, ConsumeError,
        CorrectClockError, LinkError, ReadError, RecordError, RevisionNotReached, UseError,
    },
    proto::ErrorReason,
    telemetry::{Phase, Step},
    watch::WatchError,
};

/// Domain of every `google.rpc.ErrorInfo`.
pub const ERROR_DOMAIN: &str = "consent.v1";

/// Every way in which a call can fail.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Fault {
    /// The request is wrong.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The node refused the call, or failed.
    #[error("{text}")]
    Node {
        /// What the caller learns beside the text.
        details: Details,
        /// The text of the node's error.
        text: String,
    },
    /// An act is recorded, but the caller wanted the answer only once it can be proven.
    #[error(
        "the act is recorded as entry {index}, but no checkpoint that covers it was released in time"
    )]
    NotProven {
        /// Index of the entry.
        index: u64,
    },
    /// The catalogue does not have the requested purpose.
    #[error("no purpose `{0}` in the catalogue")]
    NoSuchPurpose(Key),
    /// The request's bytes are no message of the expected type.
    #[error("the request could not be decoded")]
    Undecodable,
    /// The request's message is larger than the server takes.
    #[error("the message is larger than the server takes: {0}")]
    MessageTooLarge(String),
    /// The limit of requests in flight is reached.
    #[error("too many requests are in flight, the limit is {limit}")]
    TooManyRequests {
        /// The limit.
        limit: u64,
    },
    /// The limit of open streams is reached.
    #[error("too many streams are open, the limit is {limit}")]
    TooManyStreams {
        /// The limit.
        limit: u64,
    },
    /// The request took too long.
    #[error("the request took longer than {limit_ms} ms")]
    DeadlineExceeded {
        /// The shorter of the limits of server and caller.
        limit_ms: u128,
    },
    /// The server is shutting down.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// The server is opening its ledger.
    #[error("the server is {}", Phase::Opening(*.0))]
    Opening(Option<Step>),
    /// A call of the protocol that is not implemented yet.
    #[error("this version of the server does not have {call} yet")]
    NotImplemented {
        /// Name of the call.
        call: &'static str,
    },
    /// A defect. The text is for the log alone.
    #[error("{0}")]
    Internal(String),
}

impl Fault {
    /// The key that the catalogue lacks, if that is the fault.
    #[must_use]
    pub fn unknown_key(&self) -> Option<UnknownKey> {
        let Details { reason, facts, .. } = self.details();
        let key =
            |fact: &str| facts.iter().find(|(name, _)| *name == fact).map(|(_, key)| key.clone());
        match reason {
            ErrorReason::UnknownPurpose => key("purpose").map(UnknownKey::Purpose),
            ErrorReason::UnknownChannel => key("channel").map(UnknownKey::Channel),
            ErrorReason::UnknownParty => key("party").map(UnknownKey::Party),
            _ => None,
        }
    }

    /// The same fault, with the keys that may have been meant.
    #[must_use]
    pub fn did_you_mean(self, keys: &[String]) -> Self {
        if keys.is_empty() {
            return self;
        }
        let text = format!("{self}{}", near::asked(keys));
        Self::Node { details: self.details().did_you_mean(keys), text }
    }

    fn details(&self) -> Details {
        match self {
            Self::Invalid(invalid) => of_invalid(&invalid.problem).at(&invalid.field),
            Self::Node { details, .. } => details.clone(),
            Self::NotProven { index } => {
                Details::of(ErrorReason::CheckpointNotReached).with("index", index)
            }
            Self::NoSuchPurpose(key) => {
                Details::of(ErrorReason::UnknownPurpose).at("key").with("purpose", key)
            }
            Self::Undecodable => Details::of(ErrorReason::InvalidField),
            Self::MessageTooLarge(_) => Details::of(ErrorReason::LimitExceeded),
            Self::TooManyRequests { limit } => {
                Details::of(ErrorReason::TooManyRequests).with("limit", limit)
            }
            Self::TooManyStreams { limit } => {
                Details::of(ErrorReason::TooManyStreams).with("limit", limit)
            }
            Self::DeadlineExceeded { limit_ms } => {
                Details::of(ErrorReason::DeadlineExceeded).with("limit_ms", limit_ms)
            }
            Self::ShuttingDown => Details::of(ErrorReason::ShuttingDown),
            Self::Opening(None) => Details::of(ErrorReason::Opening),
            Self::Opening(Some(Step { name, percent })) => {
                Details::of(ErrorReason::Opening).with("step", name).with("percent", percent)
            }
            Self::NotImplemented { .. } => Details::of(ErrorReason::NotImplemented),
            Self::Internal(_) => Details::of(ErrorReason::Internal),
        }
    }

    /// The reason, for callers.
    #[must_use]
    pub fn kind(&self) -> ErrorReason {
        self.details().reason
    }

    /// Path of the field at fault, as the request names it; empty if no field is at fault.
    #[must_use]
    pub fn field(&self) -> String {
        self.details().field
    }

    /// The message for callers.
    #[must_use]
    pub fn message(&self) -> String {
        match self.kind() {
            ErrorReason::Internal => {
                "an unexpected fault; the detail is in the server's log".to_owned()
            }
            ErrorReason::StateUnreadable => {
                "stored state could not be read; act as if the answer were DENY".to_owned()
            }
            ErrorReason::WritesStopped => {
                "the ledger takes no writes until restart; whether this act was recorded is not \
                 known: retry with the same idempotency key"
                    .to_owned()
            }
            _ => self.to_string(),
        }
    }
}

fn of_invalid(problem: &Problem) -> Details {
    if let Problem::UnknownNamespace { namespace, near } = problem {
        let details = Details::of(ErrorReason::UnknownNamespace).with("namespace", namespace);
        return details.did_you_mean(near);
    }
    match problem.limit() {
        Some(limit) => Details::of(ErrorReason::LimitExceeded).with("limit", limit),
        None => Details::of(ErrorReason::InvalidField),
    }
}

/// A key that the catalogue lacks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum UnknownKey {
    /// Of a purpose.
    Purpose(String),
    /// Of a channel.
    Channel(String),
    /// Of a party.
    Party(String),
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        let Details { reason, field, facts } = fault.details();
        match reason {
            ErrorReason::Internal | ErrorReason::StateUnreadable => {
                tracing::error!(reason = reason.reason(), detail = %fault, "request failed");
            }
            // The node has logged, as an error, why writes stopped.
            ErrorReason::WritesStopped => {
                tracing::debug!(reason = reason.reason(), detail = %fault, "request failed");
            }
            _ => {}
        }
        let facts: HashMap<_, _> =
            facts.into_iter().map(|(name, fact)| (name.to_owned(), fact)).collect();
        let mut details = ErrorDetails::with_error_info(reason.reason(), ERROR_DOMAIN, facts);
        let message = fault.message();
        if !field.is_empty() {
            let description = match &fault {
                Fault::Invalid(invalid) => invalid.problem.to_string(),
                _ => message.clone(),
            };
            details.set_bad_request(vec![FieldViolation::new(field, description)]);
        }
        if let Some(delay) = reason.retry_delay() {
            details.set_retry_info(Some(delay));
        }
        Status::with_error_details(Code::from(i32::from(reason.status())), message, details)
    }
}

impl<E: Explain + std::error::Error> From<E> for Fault {
    fn from(error: E) -> Self {
        Self::Node { details: error.details(), text: error.to_string() }
    }
}

/// Lets `?` turn an error of the node into a status, by way of [`Fault`].
macro_rules! status_of {
    ($($error:ty),+) => {
        $(impl From<$error> for Status {
            fn from(error: $error) -> Self {
                Fault::from(error).into()
            }
        })+
    };
}

status_of!(
    Invalid,
    RecordError,
    ConfirmError,
    LinkError,
    CatalogError,
    CorrectClockError,
    UseError,
    ReadError,
    RevisionNotReached,
    AudienceTooOld,
    CheckpointNotReached,
    WatchError,
    ConsumeError
);

/// The fault for a status that tonic made, because it could not decode a request; none if the status
/// is to stay as it is.
///
/// Every status of ours carries details, so one without is tonic's. Its decoder answers OUT_OF_RANGE
/// for a message over the limit, and INTERNAL for bytes that are not a message.
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
    use std::{collections::BTreeSet, time::Duration};

    use tonic_types::StatusExt;

    use super::*;
    use crate::domain::PartyRole;
    use crate::node::{
        AsOfError, DeadLettersError, DiscloseError, EffectiveAtImpossible, FindActError,
        ImplausibleRange, ImpossibleTime, IssueError, NamedParty, PropagationError, ProveError,
        SnapshotError, SubscribeError, SubscriptionNotFound, UnsubscribeError, WriteError,
    };

    fn key(text: &str) -> Key {
        Key::parse(text).unwrap()
    }

    fn invalid(problem: Problem) -> Fault {
        Fault::Invalid(Invalid { field: "changes[2].scope.purpose".to_owned(), problem })
    }

    /// Every fault once, with the field that it names.
    fn every_fault() -> Vec<(Fault, ErrorReason, &'static str)> {
        let (email, news) = (key("email"), key("marketing.newsletter"));
        vec![
            (invalid(Problem::Required), ErrorReason::InvalidField, "changes[2].scope.purpose"),
            (
                invalid(Problem::TooMany { limit: 100, got: 101 }),
                ErrorReason::LimitExceeded,
                "changes[2].scope.purpose",
            ),
            (Fault::Undecodable, ErrorReason::InvalidField, ""),
            (Fault::MessageTooLarge("5 MiB".to_owned()), ErrorReason::LimitExceeded, ""),
            (RecordError::Empty.into(), ErrorReason::InvalidField, "changes"),
            (
                RecordError::from(EffectiveAtImpossible(ImpossibleTime::InFuture {
                    ahead_ms: 9,
                    cause: None,
                }))
                .into(),
                ErrorReason::EffectiveAtInFuture,
                "effective_at",
            ),
            (
                RecordError::UnknownPurpose { change: 1, key: news.clone().into() }.into(),
                ErrorReason::UnknownPurpose,
                "changes[1].scope.purpose",
            ),
            (
                RecordError::UnknownChannel { change: 1, key: email.clone() }.into(),
                ErrorReason::UnknownChannel,
                "changes[1].scope.channel",
            ),
            (
                RecordError::PurposeRetired { change: 0, key: news.clone() }.into(),
                ErrorReason::PurposeRetired,
                "changes[0].scope.purpose",
            ),
            (
                RecordError::ChannelRetired { change: 0, key: email }.into(),
                ErrorReason::ChannelRetired,
                "changes[0].scope.channel",
            ),
            (
                RecordError::UnknownPurposeVersion {
                    change: 4,
                    key: news.clone(),
                    version: 3,
                    current: 2,
                }
                .into(),
                ErrorReason::InvalidField,
                "changes[4].purpose_version",
            ),
            (
                RecordError::ExpiresBeforeEffective { change: 4 }.into(),
                ErrorReason::InvalidField,
                "changes[4].expires_at",
            ),
            (
                CatalogError::OldestCompatibleBeyondVersion { got: 3, version: 2 }.into(),
                ErrorReason::InvalidField,
                "purpose.oldest_compatible_version",
            ),
            (
                CorrectClockError::from(crate::node::ClockNotTrusted { ahead_ms: 9 }).into(),
                ErrorReason::ClockNotTrusted,
                "",
            ),
            (
                CorrectClockError::BeyondHead { field: "end_index", index: 9, head: 3 }.into(),
                ErrorReason::IndexOutOfRange,
                "end_index",
            ),
            (
                CorrectClockError::from(ImplausibleRange::FirstNotAhead { index: 3 }).into(),
                ErrorReason::InvalidField,
                "first_index",
            ),
            (
                WriteError::EntryTooLarge { bytes: 70_000, limit: 65_535 }.into(),
                ErrorReason::EntryTooLarge,
                "",
            ),
            (
                WriteError::IdempotencyKeyReused { index: 7 }.into(),
                ErrorReason::IdempotencyKeyReused,
                "idempotency_key",
            ),
            (WriteError::TooManyAppends { limit: 8 }.into(), ErrorReason::TooManyAppends, ""),
            (WriteError::WritesStopped("/data".to_owned()).into(), ErrorReason::WritesStopped, ""),
            (WriteError::ShuttingDown.into(), ErrorReason::ShuttingDown, ""),
            (
                WriteError::StateUnreadable("/data".to_owned()).into(),
                ErrorReason::StateUnreadable,
                "",
            ),
            (
                RevisionNotReached { wanted: 9, reached: 3 }.into(),
                ErrorReason::RevisionNotReached,
                "",
            ),
            (
                ReadError::IndexOutOfRange { index: 9, head: 3 }.into(),
                ErrorReason::IndexOutOfRange,
                "",
            ),
            (
                ReadError::StateUnreadable("/data".to_owned()).into(),
                ErrorReason::StateUnreadable,
                "",
            ),
            (WatchError::Closing { next_index: 5 }.into(), ErrorReason::ShuttingDown, ""),
            (WatchError::Unreadable("/data".to_owned()).into(), ErrorReason::StateUnreadable, ""),
            (AsOfError::InFuture.into(), ErrorReason::InvalidField, "as_of"),
            (
                CheckpointNotReached { wanted: 9, reached: 3 }.into(),
                ErrorReason::CheckpointNotReached,
                "",
            ),
            (
                ProveError::BeyondCheckpoint { what: "size", wanted: 9, size: 3 }.into(),
                ErrorReason::IndexOutOfRange,
                "",
            ),
            (Fault::NotProven { index: 4 }, ErrorReason::CheckpointNotReached, ""),
            (FindActError::Unknown.into(), ErrorReason::ActUnknown, "idempotency_key"),
            (IssueError::NotAnAct { index: 4 }.into(), ErrorReason::NotAnAct, "index"),
            (
                DiscloseError::Unknown { position: 2 }.into(),
                ErrorReason::SubjectUnknown,
                "subjects[2]",
            ),
            (
                PropagationError::NotAnEvent { index: 7, noun: "a delivery receipt" }.into(),
                ErrorReason::NotAnEvent,
                "index",
            ),
            (
                AudienceTooOld { age: Duration::from_secs(9), age_max: Duration::from_secs(8) }
                    .into(),
                ErrorReason::AudienceTooOld,
                "subjects",
            ),
            (IssueError::TooLong { bytes: 9, limit: 8 }.into(), ErrorReason::LimitExceeded, ""),
            (
                UseError::UnknownPurpose { key: news.clone() }.into(),
                ErrorReason::UnknownPurpose,
                "purpose",
            ),
            (
                UseError::UnknownChannel { key: news.clone() }.into(),
                ErrorReason::UnknownChannel,
                "channel",
            ),
            (
                UseError::UsedAt(ImpossibleTime::InFuture { ahead_ms: 9, cause: None }).into(),
                ErrorReason::InvalidField,
                "used_at",
            ),
            (
                RecordError::from(EffectiveAtImpossible(ImpossibleTime::TooOld {
                    earliest: crate::domain::Millis(0),
                    cause: None,
                }))
                .into(),
                ErrorReason::EffectiveAtTooOld,
                "effective_at",
            ),
            (
                RecordError::GrantBeforeStop { change: 1, index: 7 }.into(),
                ErrorReason::EffectiveAtOvertaken,
                "effective_at",
            ),
            (
                RecordError::from(crate::node::ClockNotTrusted { ahead_ms: 9 }).into(),
                ErrorReason::ClockNotTrusted,
                "",
            ),
            (
                ConfirmError::from(crate::node::ClockNotTrusted { ahead_ms: 9 }).into(),
                ErrorReason::ClockNotTrusted,
                "",
            ),
            (
                crate::node::Moved::BeforeNewest.into(),
                ErrorReason::EffectiveAtOvertaken,
                "effective_at",
            ),
            (
                RecordError::AuthorityEnded.into(),
                ErrorReason::AuthorityEnded,
                "evidence.authority.ends_at",
            ),
            (
                ConfirmError::from(EffectiveAtImpossible(ImpossibleTime::InFuture {
                    ahead_ms: 9,
                    cause: None,
                }))
                .into(),
                ErrorReason::EffectiveAtInFuture,
                "effective_at",
            ),
            (
                RecordError::GrantNotOneCell { change: 4 }.into(),
                ErrorReason::InvalidField,
                "changes[4].scope",
            ),
            (
                RecordError::from(WriteError::IdempotencyKeyReused { index: 7 }).into(),
                ErrorReason::IdempotencyKeyReused,
                "idempotency_key",
            ),
            (
                IssueError::ActUnknown { field: "subject" }.into(),
                ErrorReason::ActUnknown,
                "subject",
            ),
            (LinkError::ToSelf.into(), ErrorReason::InvalidField, "other_subject"),
            (ConfirmError::TokenUnknown.into(), ErrorReason::ConfirmationTokenUnknown, "token"),
            (ConfirmError::TokenExpired.into(), ErrorReason::ConfirmationTokenExpired, "token"),
            (
                ConfirmError::TokenUsed { index: 4 }.into(),
                ErrorReason::ConfirmationTokenUsed,
                "token",
            ),
            (LinkError::NotLinked.into(), ErrorReason::SubjectsNotLinked, "other_subject"),
            (
                LinkError::TooMany { got: 65, limit: 64 }.into(),
                ErrorReason::LimitExceeded,
                "other_subject",
            ),
            (
                RecordError::CategoryNotDeclared {
                    change: 1,
                    position: 2,
                    category: "user.name".to_owned(),
                    key: news.clone(),
                    version: 1,
                }
                .into(),
                ErrorReason::InvalidField,
                "changes[1].data_categories[2]",
            ),
            (
                SubscribeError::Exists { name: news.clone() }.into(),
                ErrorReason::SubscriptionExists,
                "subscription.name",
            ),
            (
                UnsubscribeError::NotFound { name: news.clone() }.into(),
                ErrorReason::SubscriptionNotFound,
                "name",
            ),
            (SubscribeError::TooMany { limit: 2 }.into(), ErrorReason::TooManySubscriptions, ""),
            (
                SubscribeError::StartBeyondHead { index: 9, head: 3 }.into(),
                ErrorReason::IndexOutOfRange,
                "start_index",
            ),
            (
                SubscribeError::WebhookRefused { problem: "no".to_owned() }.into(),
                ErrorReason::WebhookRefused,
                "subscription.webhook.url",
            ),
            (
                SubscriptionNotFound { name: "crm".to_owned() }.into(),
                ErrorReason::SubscriptionNotFound,
                "subscription",
            ),
            (
                DeadLettersError::NotWebhook { name: news.clone() }.into(),
                ErrorReason::SubscriptionNotWebhook,
                "subscription",
            ),
            (SnapshotError::Token.into(), ErrorReason::InvalidField, "snapshot_token"),
            (
                ConsumeError::NotFound { name: news.clone() }.into(),
                ErrorReason::SubscriptionNotFound,
                "start.subscription",
            ),
            (
                ConsumeError::NoSuchShard { name: news.clone(), shard: 2, shards: 2 }.into(),
                ErrorReason::InvalidField,
                "start.shard",
            ),
            (
                ConsumeError::IsWebhook { name: news.clone() }.into(),
                ErrorReason::SubscriptionIsWebhook,
                "start.subscription",
            ),
            (
                ConsumeError::TakenOver { consumer: "b".to_owned() }.into(),
                ErrorReason::SubscriptionTakenOver,
                "",
            ),
            (ConsumeError::Deleted.into(), ErrorReason::SubscriptionDeleted, ""),
            (
                ConsumeError::WritesStopped("/data".to_owned()).into(),
                ErrorReason::WritesStopped,
                "",
            ),
            (
                ConsumeError::AckNotDelivered { index: 9, delivered: 3 }.into(),
                ErrorReason::AckNotDelivered,
                "ack",
            ),
            (ConsumeError::SnapshotToken.into(), ErrorReason::InvalidField, "start.snapshot_token"),
            (
                ConsumeError::from(WatchError::Closing { next_index: 5 }).into(),
                ErrorReason::ShuttingDown,
                "",
            ),
            (
                ConsumeError::from(WatchError::Unreadable("/data".to_owned())).into(),
                ErrorReason::StateUnreadable,
                "",
            ),
            (
                Problem::UnknownNamespace {
                    namespace: Key::parse("fax").unwrap(),
                    near: vec!["tax".to_owned()],
                }
                .at("subject")
                .into(),
                ErrorReason::UnknownNamespace,
                "subject",
            ),
            (
                CatalogError::NamespaceInUse {
                    key: Key::parse("tel").unwrap(),
                    field: "default_region",
                }
                .into(),
                ErrorReason::NamespaceInUse,
                "namespace.default_region",
            ),
            (
                CatalogError::UnknownParty { key: news.clone(), at: NamedParty::Recipient(2) }
                    .into(),
                ErrorReason::UnknownParty,
                "purpose.recipients.parties[2]",
            ),
            (
                CatalogError::PartyWithoutRole {
                    key: news.clone(),
                    role: PartyRole::Controller,
                    at: NamedParty::Controller,
                }
                .into(),
                ErrorReason::PartyWithoutRole,
                "purpose.controller",
            ),
            (
                CatalogError::PartyInUse {
                    key: news.clone(),
                    role: PartyRole::Recipient,
                    purpose: news.clone(),
                }
                .into(),
                ErrorReason::PartyInUse,
                "party.roles",
            ),
            (
                RecordError::from(WriteError::NamespaceChanged { namespace: "tel".to_owned() })
                    .into(),
                ErrorReason::NamespaceChanged,
                "subject",
            ),
            (Fault::NoSuchPurpose(news), ErrorReason::UnknownPurpose, "key"),
            (Fault::TooManyRequests { limit: 2 }, ErrorReason::TooManyRequests, ""),
            (Fault::TooManyStreams { limit: 2 }, ErrorReason::TooManyStreams, ""),
            (Fault::DeadlineExceeded { limit_ms: 10 }, ErrorReason::DeadlineExceeded, ""),
            (Fault::ShuttingDown, ErrorReason::ShuttingDown, ""),
            (Fault::Opening(None), ErrorReason::Opening, ""),
            (Fault::Opening(Some(Step { name: "view", percent: 9 })), ErrorReason::Opening, ""),
            (Fault::NotImplemented { call: "ExportSubject" }, ErrorReason::NotImplemented, ""),
            (Fault::Internal("/data".to_owned()), ErrorReason::Internal, ""),
        ]
    }

    #[test]
    fn every_fault_has_the_documented_reason_and_code() {
        let mut reasons = BTreeSet::new();
        for (fault, kind, field) in every_fault() {
            assert_eq!(fault.kind(), kind, "{fault:?}");
            assert_eq!(fault.field(), field, "{fault:?}");
            let status = Status::from(fault.clone());
            let info = status.get_details_error_info().unwrap();
            assert_eq!(info.domain, "consent.v1");
            assert_eq!(info.reason, kind.reason());
            assert_eq!(i32::from(status.code()), i32::from(kind.status()), "{fault:?}");
            reasons.insert(kind);
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
        let pool =
            prost_reflect::DescriptorPool::decode(crate::proto::FILE_DESCRIPTOR_SET).unwrap();
        let declared = pool.get_enum_by_name("consent.v1.ErrorReason").unwrap();
        let numbers = declared.values().map(|value| value.number()).filter(|number| *number != 0);
        let promised: BTreeSet<_> =
            numbers.map(|number| ErrorReason::try_from(number).unwrap()).collect();
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
            assert_eq!(retry, kind.retry_delay());
            let busy_or_away = matches!(status.code(), Code::ResourceExhausted | Code::Unavailable)
                || kind == ErrorReason::NamespaceChanged;
            // Somebody has to act first.
            let by_itself =
                !matches!(kind, ErrorReason::WritesStopped | ErrorReason::TooManySubscriptions);
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
            Some(ErrorReason::LimitExceeded)
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
