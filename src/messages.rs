//! Values of the ledger as messages of the protocol, for more than one way out.
//!
//! A gRPC stream sends an event as protobuf, a webhook posts the same message as ProtoJSON, and the
//! command line prints it. None of them makes it: an event says the same whichever way it goes. What
//! only gRPC answers is in [`crate::grpc::convert`].

use serde::{Serialize, Serializer};

use crate::{
    domain::{ChangeRecord, Effect, Key, LinkConfidence, ScopeKeys, Status, Subject},
    entry::timestamp,
    event::{CatalogEffect, CatalogTold, ConsentTold, Event, EventTold, LinkTold, OverdueTold},
    history::LineKind,
    json::ProtoJson,
    node::{CellPreference, SnapshotSubject, StandingStop},
    proto::{self, consume_response, watch_response},
};

/// The message of an event.
#[derive(Debug, Clone, PartialEq)]
pub enum EventMessage {
    /// An act, a confirmation, or the end of grants.
    Consent(proto::ConsentEvent),
    /// Two data subjects were linked or unlinked.
    Link(proto::LinkEvent),
    /// The catalogue changed.
    Catalog(proto::CatalogEvent),
    /// A subscription is overdue.
    Overdue(proto::OverdueEvent),
}

impl EventMessage {
    /// Name of the field that holds the message in `WatchResponse` and `ConsumeResponse`.
    #[must_use]
    pub fn field(&self) -> &'static str {
        match self {
            Self::Consent(_) => "consent",
            Self::Link(_) => "link",
            Self::Catalog(_) => "catalog",
            Self::Overdue(_) => "overdue",
        }
    }
}

impl Serialize for EventMessage {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Consent(message) => ProtoJson(message).serialize(to),
            Self::Link(message) => ProtoJson(message).serialize(to),
            Self::Catalog(message) => ProtoJson(message).serialize(to),
            Self::Overdue(message) => ProtoJson(message).serialize(to),
        }
    }
}

impl From<EventMessage> for watch_response::Message {
    fn from(message: EventMessage) -> Self {
        match message {
            EventMessage::Consent(message) => Self::Consent(message),
            EventMessage::Link(message) => Self::Link(message),
            EventMessage::Catalog(message) => Self::Catalog(message),
            EventMessage::Overdue(message) => Self::Overdue(message),
        }
    }
}

impl From<EventMessage> for consume_response::Message {
    fn from(message: EventMessage) -> Self {
        match message {
            EventMessage::Consent(message) => Self::Consent(message),
            EventMessage::Link(message) => Self::Link(message),
            EventMessage::Catalog(message) => Self::Catalog(message),
            EventMessage::Overdue(message) => Self::Overdue(message),
        }
    }
}

/// The message of an event, with the changes at these positions.
#[must_use]
pub fn event(event: &Event, positions: &[usize]) -> EventMessage {
    match &event.told {
        EventTold::Consent(told) => EventMessage::Consent(consent(event, told, positions)),
        EventTold::Link(told) => EventMessage::Link(link(event, told)),
        EventTold::Catalog(told) => EventMessage::Catalog(catalog(event, told)),
        EventTold::Overdue(told) => EventMessage::Overdue(overdue(event, told)),
    }
}

fn consent(event: &Event, told: &ConsentTold, positions: &[usize]) -> proto::ConsentEvent {
    let changes = positions.iter().filter_map(|position| told.changes.get(*position));
    proto::ConsentEvent {
        index: event.index,
        subject: told.subject.as_str().to_owned(),
        actor: proto::Actor::from(told.actor).into(),
        recorded_at: Some(timestamp(event.recorded_at)),
        effective_at: Some(timestamp(told.effective_at)),
        changes: changes.map(change).collect(),
        cause_index: told.cause,
        reason: told.reason.map_or(proto::Reason::Unspecified, Into::into).into(),
        linked_subjects: names(&told.linked),
        preferences_changed: told.preferences_changed,
    }
}

fn change(record: &ChangeRecord) -> proto::EventChange {
    proto::EventChange {
        action: proto::Action::from(record.action).into(),
        scope: Some(scope(&record.scope)),
        outcome: proto::Outcome::from(record.outcome).into(),
        cause_index: record.outcome.cause_index(),
        purpose_version: record.purpose_version,
        expires_at: record.expires_at.map(timestamp),
        data_categories: record.data_categories.clone(),
    }
}

fn link(event: &Event, told: &LinkTold) -> proto::LinkEvent {
    proto::LinkEvent {
        index: event.index,
        subject: told.subject.as_str().to_owned(),
        other_subject: told.other.as_str().to_owned(),
        confidence: confidence_number(told.confidence),
        recorded_at: Some(timestamp(event.recorded_at)),
        linked_subjects: names(&told.linked),
    }
}

/// The number of a confidence; that of `UNSPECIFIED` for the end of a link.
#[must_use]
pub fn confidence_number(confidence: Option<LinkConfidence>) -> i32 {
    confidence.map_or(proto::LinkConfidence::Unspecified, Into::into).into()
}

fn catalog(event: &Event, told: &CatalogTold) -> proto::CatalogEvent {
    let text = |key: &Option<Key>| key.as_ref().map_or_else(String::new, ToString::to_string);
    proto::CatalogEvent {
        index: event.index,
        purpose: text(&told.purpose),
        channel: text(&told.channel),
        effects: told.effects.iter().map(|effect| catalog_effect(*effect).into()).collect(),
        recorded_at: Some(timestamp(event.recorded_at)),
        version: told.version,
        oldest_compatible_version: told.oldest_compatible,
    }
}

fn overdue(event: &Event, told: &OverdueTold) -> proto::OverdueEvent {
    proto::OverdueEvent {
        index: event.index,
        subscription: told.subscription.to_string(),
        shard: told.shard,
        event_index: told.event_index,
        pending_since: Some(timestamp(told.pending_since)),
        recorded_at: Some(timestamp(event.recorded_at)),
    }
}

/// Of a snapshot: one data subject.
#[must_use]
pub fn snapshot_subject(known: &SnapshotSubject) -> proto::SnapshotSubject {
    proto::SnapshotSubject {
        subject: known.subject.as_str().to_owned(),
        cells: known.cells.iter().map(cell_preference).collect(),
        stops: known.stops.iter().map(standing_stop).collect(),
        revision: known.revision,
        token: known.token.clone(),
        linked_subjects: names(&known.linked),
    }
}

/// The end of a snapshot of so many data subjects.
#[must_use]
pub fn snapshot_end(revision: u64, subjects: u64) -> proto::SnapshotEnd {
    proto::SnapshotEnd { revision, subjects }
}

/// The state of one cell.
#[must_use]
pub fn cell_preference(cell: &CellPreference) -> proto::CellPreference {
    let decision = &cell.decision;
    proto::CellPreference {
        purpose: cell.purpose.to_string(),
        channel: cell.channel.to_string(),
        status: status(decision.status).into(),
        effect: effect(decision.effect()).into(),
        reason: proto::Reason::from(decision.reason).into(),
        decided_by_index: decision.decided_by,
        valid_until: decision.valid_until.map(timestamp),
    }
}

/// A stop that stands.
#[must_use]
pub fn standing_stop(stop: &StandingStop) -> proto::StandingStop {
    proto::StandingStop {
        action: proto::Action::from(stop.kind.action()).into(),
        scope: Some(scope(&stop.scope)),
        effective_at: Some(timestamp(stop.effective_at)),
        index: stop.index,
    }
}

/// A change of an act, with its outcome.
#[must_use]
pub fn change_result(record: &ChangeRecord) -> proto::ChangeResult {
    proto::ChangeResult {
        action: proto::Action::from(record.action).into(),
        scope: Some(scope(&record.scope)),
        outcome: proto::Outcome::from(record.outcome).into(),
        cause_index: record.outcome.cause_index(),
        purpose_version: record.purpose_version,
        expires_at: record.expires_at.map(timestamp),
        data_categories: record.data_categories.clone(),
    }
}

/// A scope; `*` stands for every purpose or channel.
#[must_use]
pub fn scope(keys: &ScopeKeys) -> proto::Scope {
    let text = |key: &Option<Key>| key.as_ref().map_or_else(|| "*".to_owned(), ToString::to_string);
    proto::Scope { purpose: text(&keys.purpose), channel: text(&keys.channel) }
}

/// An enum going out. Those that entries hold, too, go out as the entry codec has them.
macro_rules! outgoing {
    ($($(#[$doc:meta])+ $name:ident, $domain:path, $proto:path: $($variant:ident)+;)+) => {$(
        $(#[$doc])+
        #[must_use]
        pub fn $name(value: $domain) -> $proto {
            use $domain as From;
            use $proto as To;
            match value { $(From::$variant => To::$variant,)+ }
        }
    )+};
}

outgoing! {
    /// What a check answers.
    effect, Effect, proto::Effect: Allow Deny;
    /// What a change of the catalogue can do to answers.
    catalog_effect, CatalogEffect, proto::CatalogEffect:
        Added Retired Reinstated ReconsentRequired ReconsentLifted BasisChanged ContentChanged;
    /// What a line of a history says.
    history_kind, LineKind, proto::HistoryKind:
        Act Confirmation Expiry Link Unlink Use;
    /// The status of consent.
    status, Status, proto::Status:
        Unknown Requested Refused Given Withdrawn Revoked Expired Invalidated Objected;
}

fn names(subjects: &[Subject]) -> Vec<String> {
    subjects.iter().map(|subject| subject.as_str().to_owned()).collect()
}
