//! Values of the ledger as messages of the protocol, for more than one way out.
//!
//! A gRPC stream sends an event as protobuf, a webhook posts the same message as ProtoJSON, and the
//! command line prints it. All take the message from here, so that it is the same for each. Answers of
//! gRPC alone are in [`crate::grpc::convert`].

use serde::{Serialize, Serializer};

use crate::{
    domain::{ChangeRecord, Effect, Key, LinkConfidence, ScopeKeys, Status, Subject},
    entry::timestamp,
    event::{
        CatalogDetail, CatalogEffect, ConsentDetail, Event, EventDetail, LinkDetail, OverdueDetail,
    },
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
    match &event.detail {
        EventDetail::Consent(act) => EventMessage::Consent(consent(event, act, positions)),
        // Divided before: a message is about one data subject.
        EventDetail::Ends(ends) => {
            let first = ends.first().map(|end| consent(event, end, positions));
            EventMessage::Consent(first.unwrap_or_default())
        }
        EventDetail::Link(change) => EventMessage::Link(link(event, change)),
        EventDetail::Catalog(change) => EventMessage::Catalog(catalog(event, change)),
        EventDetail::Overdue(delivery) => EventMessage::Overdue(overdue(event, delivery)),
    }
}

fn consent(event: &Event, act: &ConsentDetail, positions: &[usize]) -> proto::ConsentEvent {
    let changes = positions.iter().filter_map(|position| act.changes.get(*position));
    proto::ConsentEvent {
        index: event.index,
        subject: act.subject.as_str().to_owned(),
        actor: proto::Actor::from(act.actor).into(),
        recorded_at: Some(timestamp(event.recorded_at)),
        effective_at: Some(timestamp(act.effective_at)),
        changes: changes.map(change).collect(),
        cause_index: act.cause,
        reason: act.reason.map_or(proto::Reason::Unspecified, Into::into).into(),
        linked_subjects: names(&act.linked),
        preferences_changed: act.preferences_changed,
        place: act.part.map_or(0, |part| part.place),
        more_in_entry: act.part.is_some_and(|part| part.more),
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
        linked_subjects: record.linked_subjects,
    }
}

fn link(event: &Event, change: &LinkDetail) -> proto::LinkEvent {
    proto::LinkEvent {
        index: event.index,
        subject: change.subject.as_str().to_owned(),
        other_subject: change.other.as_str().to_owned(),
        confidence: confidence_number(change.confidence),
        recorded_at: Some(timestamp(event.recorded_at)),
        linked_subjects: names(&change.linked),
    }
}

/// The number of a confidence; that of `UNSPECIFIED` for the end of a link.
#[must_use]
pub fn confidence_number(confidence: Option<LinkConfidence>) -> i32 {
    confidence.map_or(proto::LinkConfidence::Unspecified, Into::into).into()
}

fn catalog(event: &Event, change: &CatalogDetail) -> proto::CatalogEvent {
    let text = |key: &Option<Key>| key.as_ref().map_or_else(String::new, ToString::to_string);
    proto::CatalogEvent {
        index: event.index,
        purpose: text(&change.purpose),
        channel: text(&change.channel),
        effects: change.effects.iter().map(|effect| catalog_effect(*effect).into()).collect(),
        recorded_at: Some(timestamp(event.recorded_at)),
        version: change.version,
        oldest_compatible_version: change.oldest_compatible,
        namespace: text(&change.namespace),
    }
}

fn overdue(event: &Event, delivery: &OverdueDetail) -> proto::OverdueEvent {
    proto::OverdueEvent {
        index: event.index,
        subscription: delivery.subscription.to_string(),
        shard: delivery.shard,
        event_index: delivery.event_index,
        pending_since: Some(timestamp(delivery.pending_since)),
        recorded_at: Some(timestamp(event.recorded_at)),
    }
}

/// One data subject of a snapshot.
#[must_use]
pub fn snapshot_subject(subject: &SnapshotSubject) -> proto::SnapshotSubject {
    proto::SnapshotSubject {
        subject: subject.subject.as_str().to_owned(),
        cells: subject.cells.iter().map(cell_preference).collect(),
        stops: subject.stops.iter().map(standing_stop).collect(),
        revision: subject.revision,
        token: subject.token.clone(),
        linked_subjects: names(&subject.linked),
    }
}

/// The end of a snapshot, with its number of data subjects.
#[must_use]
pub fn snapshot_end(revision: u64, subjects: u64) -> proto::SnapshotEnd {
    proto::SnapshotEnd { revision, subjects }
}

/// The state of one cell, without the name under which it is on record.
#[must_use]
pub fn cell_preference(cell: &CellPreference) -> proto::CellPreference {
    let decision = &cell.decision;
    proto::CellPreference {
        purpose: cell.purpose.to_string(),
        channel: cell.channel.to_string(),
        status: status(decision.status).into(),
        effect: effect(cell.effect).into(),
        reason: proto::Reason::from(decision.reason).into(),
        decided_by_index: decision.decided_by,
        valid_until: cell.valid_until.map(timestamp),
        not_before: cell.not_before.map(timestamp),
        recorded_under: None,
        data_categories: decision.data_categories.as_deref().unwrap_or_default().to_vec(),
    }
}

/// A stop that is in force, without the name under which it is on record.
#[must_use]
pub fn standing_stop(stop: &StandingStop) -> proto::StandingStop {
    proto::StandingStop {
        action: proto::Action::from(stop.kind.action()).into(),
        scope: Some(scope(&stop.scope)),
        effective_at: Some(timestamp(stop.effective_at)),
        index: stop.index,
        recorded_under: None,
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
        linked_subjects: record.linked_subjects,
    }
}

/// A scope; `*` stands for every purpose or channel.
#[must_use]
pub fn scope(keys: &ScopeKeys) -> proto::Scope {
    let every = || "*".to_owned();
    proto::Scope {
        purpose: keys.purpose.as_ref().map_or_else(every, ToString::to_string),
        channel: keys.channel.as_ref().map_or_else(every, ToString::to_string),
    }
}

/// Enums of the domain as enums of the protocol. The entry codec has those that entries hold, too.
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
    /// The effect of a decision.
    effect, Effect, proto::Effect: Allow Deny NotNow;
    /// The effect of a change of the catalogue on decisions.
    catalog_effect, CatalogEffect, proto::CatalogEffect:
        Added Retired Reinstated ReconsentRequired ReconsentLifted BasisChanged ContentChanged
        ClockCorrected;
    /// The kind of a line of a history.
    history_kind, LineKind, proto::HistoryKind:
        Act Confirmation Expiry Link Unlink Use Disclosure;
    /// The status of consent.
    status, Status, proto::Status:
        Unknown Requested Refused Given Withdrawn Revoked Expired Invalidated Objected;
}

fn names(subjects: &[Subject]) -> Vec<String> {
    subjects.iter().map(|subject| subject.as_str().to_owned()).collect()
}
