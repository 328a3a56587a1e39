//! What a caller learns of each error of the node: its reason, the field at fault, and facts for
//! programs.
//!
//! One exhaustive match for each error type, so that the compiler asks for all three when an error is
//! added.

use crate::{
    domain::Millis,
    node::{
        AsOfError, AudienceTooOld, CLOCK_SKEW_MS_MAX, CatalogError, CheckpointNotReached,
        ClockNotTrusted, ConfirmError, ConsumeError, CorrectClockError, DeadLettersError,
        DiscloseError, EffectiveAtImpossible, FindActError, ImpossibleTime, IssueError,
        LikelyCause, LinkError, Moved, NamedParty, PropagationError, ProveError, ReadError,
        RecordError, RevisionNotReached, SnapshotError, SubscribeError, SubscriptionNotFound,
        UnsubscribeError, UseError, WriteError,
    },
    proto::ErrorReason,
    watch::WatchError,
};

/// What a caller learns of an error beside its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Details {
    /// The reason.
    pub(super) reason: ErrorReason,
    /// Path of the field at fault, as the request names it; empty if no field is at fault.
    pub(super) field: String,
    /// Facts, by name.
    pub(super) facts: Vec<(&'static str, String)>,
}

impl Details {
    pub(super) fn of(reason: ErrorReason) -> Self {
        Self { reason, field: String::new(), facts: Vec::new() }
    }

    pub(super) fn at(self, field: impl Into<String>) -> Self {
        Self { field: field.into(), ..self }
    }

    #[expect(clippy::needless_pass_by_value, reason = "numbers come by value, keys by reference")]
    pub(super) fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.facts.push((name, value.to_string()));
        self
    }

    /// The keys that may have been meant, if there are any.
    pub(super) fn did_you_mean(self, keys: &[String]) -> Self {
        match keys {
            [] => self,
            keys => self.with("did_you_mean", keys.join(",")),
        }
    }
}

/// An error of which callers learn.
pub trait Explain {
    /// What the caller learns.
    fn details(&self) -> Details;
}

impl Explain for WriteError {
    fn details(&self) -> Details {
        match self {
            Self::EntryTooLarge { bytes, limit } => {
                Details::of(ErrorReason::EntryTooLarge).with("bytes", bytes).with("limit", limit)
            }
            Self::IdempotencyKeyReused { index } => Details::of(ErrorReason::IdempotencyKeyReused)
                .at("idempotency_key")
                .with("index", index),
            Self::TooManyAppends { limit } => {
                Details::of(ErrorReason::TooManyAppends).with("limit", limit)
            }
            Self::WritesStopped(_) => Details::of(ErrorReason::WritesStopped),
            Self::ShuttingDown => Details::of(ErrorReason::ShuttingDown),
            Self::StateUnreadable(_) => Details::of(ErrorReason::StateUnreadable),
            Self::NamespaceChanged { namespace } => Details::of(ErrorReason::NamespaceChanged)
                .at("subject")
                .with("namespace", namespace),
        }
    }
}

impl Details {
    /// With the probable cause of a time that cannot be right.
    fn caused_by(self, cause: Option<LikelyCause>) -> Self {
        match cause {
            None => self,
            Some(cause) => self.with("likely_cause", cause.name()),
        }
    }
}

fn too_old(earliest: Millis, cause: Option<LikelyCause>) -> Details {
    Details::of(ErrorReason::EffectiveAtTooOld).with("earliest_ms", earliest.0).caused_by(cause)
}

fn in_future(ahead_ms: i64, cause: Option<LikelyCause>) -> Details {
    Details::of(ErrorReason::EffectiveAtInFuture)
        .with("ahead_ms", ahead_ms)
        .with("limit_ms", CLOCK_SKEW_MS_MAX)
        .caused_by(cause)
}

impl Explain for EffectiveAtImpossible {
    fn details(&self) -> Details {
        let details = match self.0 {
            ImpossibleTime::InFuture { ahead_ms, cause } => in_future(ahead_ms, cause),
            ImpossibleTime::TooOld { earliest, cause } => too_old(earliest, cause),
        };
        details.at("effective_at")
    }
}

impl Explain for Moved {
    fn details(&self) -> Details {
        let details = match *self {
            Self::FromFuture { ahead_ms, cause } => in_future(ahead_ms, cause),
            Self::TooOld { earliest, cause } => too_old(earliest, cause),
            Self::BeforeNewest => Details::of(ErrorReason::EffectiveAtOvertaken),
        };
        details.at("effective_at")
    }
}

impl Explain for ClockNotTrusted {
    fn details(&self) -> Details {
        Details::of(ErrorReason::ClockNotTrusted).with("ahead_ms", self.ahead_ms)
    }
}

impl Explain for RecordError {
    fn details(&self) -> Details {
        match self {
            Self::ClockNotTrusted(error) => error.details(),
            Self::Empty => Details::of(ErrorReason::InvalidField).at("changes"),
            Self::EffectiveAt(error) => error.details(),
            Self::UnknownPurpose { change, key } => Details::of(ErrorReason::UnknownPurpose)
                .at(format!("changes[{change}].scope.purpose"))
                .with("purpose", key),
            Self::UnknownChannel { change, key } => Details::of(ErrorReason::UnknownChannel)
                .at(format!("changes[{change}].scope.channel"))
                .with("channel", key),
            Self::PurposeRetired { change, key } => Details::of(ErrorReason::PurposeRetired)
                .at(format!("changes[{change}].scope.purpose"))
                .with("purpose", key),
            Self::ChannelRetired { change, key } => Details::of(ErrorReason::ChannelRetired)
                .at(format!("changes[{change}].scope.channel"))
                .with("channel", key),
            Self::UnknownPurposeVersion { change, key, version: _, current } => {
                Details::of(ErrorReason::InvalidField)
                    .at(format!("changes[{change}].purpose_version"))
                    .with("purpose", key)
                    .with("current_version", current)
            }
            Self::ExpiresBeforeEffective { change } => {
                Details::of(ErrorReason::InvalidField).at(format!("changes[{change}].expires_at"))
            }
            Self::GrantNotOneCell { change } => {
                Details::of(ErrorReason::InvalidField).at(format!("changes[{change}].scope"))
            }
            Self::CategoryNotDeclared { change, position, .. } => {
                Details::of(ErrorReason::InvalidField)
                    .at(format!("changes[{change}].data_categories[{position}]"))
            }
            Self::GrantBeforeStop { change: _, index } => {
                Details::of(ErrorReason::EffectiveAtOvertaken)
                    .at("effective_at")
                    .with("index", index)
            }
            Self::AuthorityEnded => {
                Details::of(ErrorReason::AuthorityEnded).at("evidence.authority.ends_at")
            }
            Self::Write(error) => error.details(),
        }
    }
}

impl Explain for ConfirmError {
    fn details(&self) -> Details {
        match self {
            Self::ClockNotTrusted(error) => error.details(),
            Self::TokenUnknown => Details::of(ErrorReason::ConfirmationTokenUnknown).at("token"),
            Self::TokenExpired => Details::of(ErrorReason::ConfirmationTokenExpired).at("token"),
            Self::TokenUsed { index } => {
                Details::of(ErrorReason::ConfirmationTokenUsed).at("token").with("index", index)
            }
            Self::EffectiveAt(error) => error.details(),
            Self::Write(error) => error.details(),
        }
    }
}

impl Explain for LinkError {
    fn details(&self) -> Details {
        match self {
            Self::ToSelf => Details::of(ErrorReason::InvalidField).at("other_subject"),
            Self::NotLinked => Details::of(ErrorReason::SubjectsNotLinked).at("other_subject"),
            Self::TooMany { got: _, limit } => {
                Details::of(ErrorReason::LimitExceeded).at("other_subject").with("limit", limit)
            }
            Self::Write(error) => error.details(),
        }
    }
}

impl Explain for CatalogError {
    fn details(&self) -> Details {
        match self {
            Self::OldestCompatibleBeyondVersion { .. } => {
                Details::of(ErrorReason::InvalidField).at("purpose.oldest_compatible_version")
            }
            Self::NamespaceInUse { key, field } => Details::of(ErrorReason::NamespaceInUse)
                .at(format!("namespace.{field}"))
                .with("namespace", key),
            Self::UnknownParty { key, at } => {
                Details::of(ErrorReason::UnknownParty).at(party_field(*at)).with("party", key)
            }
            Self::PartyWithoutRole { key, role, at } => Details::of(ErrorReason::PartyWithoutRole)
                .at(party_field(*at))
                .with("party", key)
                .with("role", role.name()),
            Self::PartyInUse { key, role, purpose } => Details::of(ErrorReason::PartyInUse)
                .at("party.roles")
                .with("party", key)
                .with("role", role.name())
                .with("purpose", purpose),
            Self::Write(error) => error.details(),
            Self::Read(error) => error.details(),
        }
    }
}

/// The field of a purpose that names a party.
fn party_field(at: NamedParty) -> String {
    match at {
        NamedParty::Controller => "purpose.controller".to_owned(),
        NamedParty::Recipient(position) => format!("purpose.recipients.parties[{position}]"),
    }
}

impl Explain for CorrectClockError {
    fn details(&self) -> Details {
        match self {
            Self::ClockNotTrusted(error) => error.details(),
            Self::BeyondHead { field, index, head } => Details::of(ErrorReason::IndexOutOfRange)
                .at(*field)
                .with("index", index)
                .with("head", head),
            Self::Range(range) => Details::of(ErrorReason::InvalidField).at(range.field()),
            Self::Write(error) => error.details(),
            Self::Read(error) => error.details(),
        }
    }
}

impl Explain for UseError {
    fn details(&self) -> Details {
        match self {
            Self::UnknownPurpose { key } => {
                Details::of(ErrorReason::UnknownPurpose).at("purpose").with("purpose", key)
            }
            Self::UnknownChannel { key } => {
                Details::of(ErrorReason::UnknownChannel).at("channel").with("channel", key)
            }
            Self::UsedAt(impossible) => {
                Details::of(ErrorReason::InvalidField).at("used_at").caused_by(impossible.cause())
            }
            Self::Write(error) => error.details(),
        }
    }
}

impl Explain for SubscribeError {
    fn details(&self) -> Details {
        match self {
            Self::Exists { .. } => {
                Details::of(ErrorReason::SubscriptionExists).at("subscription.name")
            }
            Self::TooMany { limit } => {
                Details::of(ErrorReason::TooManySubscriptions).with("limit", limit)
            }
            Self::WebhookRefused { .. } => {
                Details::of(ErrorReason::WebhookRefused).at("subscription.webhook.url")
            }
            Self::StartBeyondHead { index, head } => Details::of(ErrorReason::IndexOutOfRange)
                .at("start_index")
                .with("index", index)
                .with("head", head),
            Self::Write(error) => error.details(),
        }
    }
}

impl Explain for UnsubscribeError {
    fn details(&self) -> Details {
        match self {
            Self::NotFound { .. } => Details::of(ErrorReason::SubscriptionNotFound).at("name"),
            Self::Write(error) => error.details(),
        }
    }
}

impl Explain for ReadError {
    fn details(&self) -> Details {
        match self {
            Self::IndexOutOfRange { index, head } => {
                Details::of(ErrorReason::IndexOutOfRange).with("index", index).with("head", head)
            }
            Self::StateUnreadable(_) => Details::of(ErrorReason::StateUnreadable),
        }
    }
}

impl Explain for RevisionNotReached {
    fn details(&self) -> Details {
        let Self { wanted, reached } = self;
        Details::of(ErrorReason::RevisionNotReached).with("wanted", wanted).with("reached", reached)
    }
}

impl Explain for AudienceTooOld {
    fn details(&self) -> Details {
        let limit_ms = self.age_max.as_millis();
        Details::of(ErrorReason::AudienceTooOld).at("subjects").with("limit_ms", limit_ms)
    }
}

impl Explain for AsOfError {
    fn details(&self) -> Details {
        match self {
            Self::InFuture => Details::of(ErrorReason::InvalidField).at("as_of"),
            Self::Read(error) => error.details(),
        }
    }
}

impl Explain for CheckpointNotReached {
    fn details(&self) -> Details {
        let Self { wanted, reached } = self;
        Details::of(ErrorReason::CheckpointNotReached)
            .with("wanted", wanted)
            .with("reached", reached)
    }
}

impl Explain for ProveError {
    fn details(&self) -> Details {
        match self {
            Self::BeyondCheckpoint { what: _, wanted, size } => {
                Details::of(ErrorReason::IndexOutOfRange).with("index", wanted).with("head", size)
            }
            Self::Read(error) => error.details(),
        }
    }
}

impl Explain for FindActError {
    fn details(&self) -> Details {
        match self {
            Self::Unknown => Details::of(ErrorReason::ActUnknown).at("idempotency_key"),
            Self::Read(error) => error.details(),
        }
    }
}

impl Explain for IssueError {
    fn details(&self) -> Details {
        match self {
            Self::ActUnknown { field } => Details::of(ErrorReason::ActUnknown).at(*field),
            Self::NotAnAct { .. } => Details::of(ErrorReason::NotAnAct).at("index"),
            Self::TooLong { bytes, limit } => {
                Details::of(ErrorReason::LimitExceeded).with("bytes", bytes).with("limit", limit)
            }
            Self::Prove(error) => error.details(),
            Self::Read(error) => error.details(),
        }
    }
}

impl Explain for DiscloseError {
    fn details(&self) -> Details {
        match self {
            Self::Unknown { position } => {
                Details::of(ErrorReason::SubjectUnknown).at(format!("subjects[{position}]"))
            }
            Self::NotWritten(_) | Self::BrokenOff => Details::of(ErrorReason::Internal),
            Self::Read(error) => error.details(),
            Self::Write(error) => error.details(),
        }
    }
}

impl Explain for PropagationError {
    fn details(&self) -> Details {
        match self {
            Self::NotAnEvent { index, noun: _ } => {
                Details::of(ErrorReason::NotAnEvent).at("index").with("index", index)
            }
            Self::Read(error) => error.details(),
        }
    }
}

impl Explain for SubscriptionNotFound {
    fn details(&self) -> Details {
        Details::of(ErrorReason::SubscriptionNotFound).at("subscription")
    }
}

impl Explain for DeadLettersError {
    fn details(&self) -> Details {
        match self {
            Self::NotFound(error) => error.details(),
            Self::NotWebhook { .. } => {
                Details::of(ErrorReason::SubscriptionNotWebhook).at("subscription")
            }
            Self::Read(error) => error.details(),
        }
    }
}

impl Explain for SnapshotError {
    fn details(&self) -> Details {
        match self {
            Self::Token => Details::of(ErrorReason::InvalidField).at("snapshot_token"),
            Self::Read(error) => error.details(),
        }
    }
}

impl Explain for WatchError {
    fn details(&self) -> Details {
        match self {
            Self::Closing { next_index } => {
                Details::of(ErrorReason::ShuttingDown).with("next_index", next_index)
            }
            Self::Unreadable(_) => Details::of(ErrorReason::StateUnreadable),
        }
    }
}

impl Explain for ConsumeError {
    fn details(&self) -> Details {
        match self {
            Self::NotFound { .. } => {
                Details::of(ErrorReason::SubscriptionNotFound).at("start.subscription")
            }
            Self::NoSuchShard { name: _, shard: _, shards } => {
                Details::of(ErrorReason::InvalidField).at("start.shard").with("shards", shards)
            }
            Self::IsWebhook { .. } => {
                Details::of(ErrorReason::SubscriptionIsWebhook).at("start.subscription")
            }
            Self::TakenOver { .. } => Details::of(ErrorReason::SubscriptionTakenOver),
            Self::Deleted => Details::of(ErrorReason::SubscriptionDeleted),
            Self::WritesStopped(_) => Details::of(ErrorReason::WritesStopped),
            Self::AckNotDelivered { index, delivered } => Details::of(ErrorReason::AckNotDelivered)
                .at("ack")
                .with("index", index)
                .with("delivered", delivered),
            Self::SnapshotToken => {
                Details::of(ErrorReason::InvalidField).at("start.snapshot_token")
            }
            Self::Watch(error) => error.details(),
        }
    }
}
