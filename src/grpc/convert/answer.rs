//! Answers, going out.

use crate::{
    domain::{
        ChangeRecord, Contact, ContactChange, Decision, Key, LinkConfidence, Millis, Said,
        ScopeKeys, Subject, UseRecorded,
    },
    entry,
    event::{CatalogTold, ConsentTold, Event, EventTold, LinkTold, OverdueTold},
    node::{
        CellPreference, Checked, Confirmed, HistoryItem, LinkSeen, Preferences, Recorded,
        SnapshotSubject, StandingStop,
    },
    proto,
    status::Fault,
};

use super::{obligations::due_message, scalar, timestamp};

/// A scope; `*` stands for every purpose or channel.
pub(super) fn scope(keys: &ScopeKeys) -> proto::Scope {
    let text = |key: &Option<Key>| key.as_ref().map_or_else(|| "*".to_owned(), ToString::to_string);
    proto::Scope { purpose: text(&keys.purpose), channel: text(&keys.channel) }
}

/// A change of an act, with its outcome.
pub(super) fn change_result(record: &ChangeRecord) -> proto::ChangeResult {
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

/// What became of an act.
#[must_use]
pub fn recorded(recorded: &Recorded) -> proto::RecordConsentResponse {
    proto::RecordConsentResponse {
        index: recorded.index,
        revision: recorded.revision(),
        recorded_at: Some(timestamp(recorded.recorded_at)),
        effective_at: Some(timestamp(recorded.effective_at)),
        results: recorded.changes.iter().map(change_result).collect(),
        replayed: recorded.replayed,
        confirmation: recorded.confirmation.as_ref().map(|own| proto::Confirmation {
            token: own.token.clone(),
            expires_at: Some(timestamp(own.expires_at)),
        }),
        checkpoint: String::new(),
    }
}

/// What became of a confirmation.
#[must_use]
pub fn confirmed(confirmed: &Confirmed) -> proto::ConfirmConsentResponse {
    proto::ConfirmConsentResponse {
        index: confirmed.index,
        revision: confirmed.index + 1,
        recorded_at: Some(timestamp(confirmed.recorded_at)),
        effective_at: Some(timestamp(confirmed.effective_at)),
        request_index: confirmed.request_index,
        results: confirmed.grants.iter().map(change_result).collect(),
        replayed: confirmed.replayed,
    }
}

/// A decision.
#[must_use]
pub fn check_response(checked: &Checked) -> proto::CheckResponse {
    let decision = &checked.decision;
    proto::CheckResponse {
        effect: scalar::effect(decision.effect()).into(),
        reason: proto::Reason::from(decision.reason).into(),
        status: scalar::status(decision.status).into(),
        decided_by_index: decision.decided_by,
        revision: checked.revision,
        valid_until: decision.valid_until.map(timestamp),
        obligations: checked.due.obligations.iter().map(due_message).collect(),
        data_categories: decision.data_categories.as_deref().unwrap_or_default().to_vec(),
        not_before: checked.due.not_before.map(timestamp),
        indeterminate: checked.due.obligations.iter().any(|due| due.indeterminate),
        token: checked.token.clone().unwrap_or_default(),
        legal_basis: decision.legal_basis.map_or(proto::LegalBasis::Unspecified, Into::into).into(),
    }
}

/// One result of a batch, for the check at a position.
#[must_use]
pub fn batch_result(position: usize, result: Result<Checked, Fault>) -> proto::BatchCheckResult {
    use proto::batch_check_result::Result as Outcome;
    let outcome = match result {
        Ok(checked) => Outcome::Decision(check_response(&checked)),
        Err(fault) => {
            let field = fault.field();
            let path = |inner: &str| match inner {
                "" => format!("checks[{position}]"),
                inner => format!("checks[{position}].{inner}"),
            };
            Outcome::Error(proto::CheckError {
                reason: fault.kind().reason().to_owned(),
                field: path(&field),
                message: fault.message(),
            })
        }
    };
    proto::BatchCheckResult { result: Some(outcome) }
}

/// What is known of a data subject.
#[must_use]
pub fn preferences_response(
    subject: &Subject,
    preferences: &Preferences,
) -> proto::GetPreferencesResponse {
    proto::GetPreferencesResponse {
        subject: subject.as_str().to_owned(),
        cells: preferences.cells.iter().map(cell_preference).collect(),
        stops: preferences.stops.iter().map(standing_stop).collect(),
        revision: preferences.revision,
        preferences: preferences.contact.as_ref().map(contact_message),
        links: preferences.links.iter().map(linked_subject).collect(),
    }
}

fn contact_message(contact: &Contact) -> proto::ContactPreferences {
    fn said<T>(value: Option<T>) -> Said<T> {
        value.map_or(Said::Nothing, Said::Value)
    }
    let zones = contact.time_zones().to_vec();
    entry::contact_to_proto(&ContactChange {
        time_zones: said(Some(zones).filter(|zones| !zones.is_empty())),
        language: said(contact.language().map(str::to_owned)),
        quiet_hours: said(contact.quiet_hours()),
        frequency_limit: said(contact.frequency_limit()),
    })
}

fn linked_subject((subject, confidence): &(Subject, LinkConfidence)) -> proto::LinkedSubject {
    proto::LinkedSubject {
        subject: subject.as_str().to_owned(),
        confidence: proto::LinkConfidence::from(*confidence).into(),
    }
}

/// Of a snapshot: one data subject.
#[must_use]
pub fn snapshot_subject(own: &SnapshotSubject) -> proto::SnapshotSubject {
    proto::SnapshotSubject {
        subject: own.subject.as_str().to_owned(),
        cells: own.cells.iter().map(cell_preference).collect(),
        stops: own.stops.iter().map(standing_stop).collect(),
        revision: own.revision,
        token: own.token.clone(),
        linked_subjects: names(&own.linked),
    }
}

fn cell_preference(cell: &CellPreference) -> proto::CellPreference {
    let decision: &Decision = &cell.decision;
    proto::CellPreference {
        purpose: cell.purpose.to_string(),
        channel: cell.channel.to_string(),
        status: scalar::status(decision.status).into(),
        effect: scalar::effect(decision.effect()).into(),
        reason: proto::Reason::from(decision.reason).into(),
        decided_by_index: decision.decided_by,
        valid_until: decision.valid_until.map(timestamp),
    }
}

fn standing_stop(stop: &StandingStop) -> proto::StandingStop {
    proto::StandingStop {
        action: proto::Action::from(stop.kind.action()).into(),
        scope: Some(scope(&stop.scope)),
        effective_at: Some(timestamp(stop.effective_at)),
        index: stop.index,
    }
}

/// One entry of a history.
#[must_use]
pub fn history_item(item: HistoryItem) -> proto::ListHistoryResponse {
    let HistoryItem { index, recorded_at, entry_hash, line, evidence, link } = item;
    proto::ListHistoryResponse {
        index,
        recorded_at: Some(timestamp(recorded_at)),
        entry_hash: entry_hash.to_vec(),
        kind: scalar::history_kind(line.kind).into(),
        actor: proto::Actor::from(line.actor).into(),
        effective_at: Some(timestamp(line.effective_at)),
        changes: line.changes.iter().map(change_result).collect(),
        evidence: evidence.map(Into::into),
        cause_index: line.cause,
        reason: line.reason.map_or(proto::Reason::Unspecified, Into::into).into(),
        preferences: (!line.contact.is_empty()).then(|| entry::contact_to_proto(&line.contact)),
        confirmation_expires_at: line.confirmation_expires_at.map(timestamp),
        link: link.map(link_record),
        r#use: line.used.map(|used| use_record(*used)),
    }
}

/// A link; its other side is empty if that one is erased.
fn link_record(link: LinkSeen) -> proto::LinkRecord {
    let other = link.other.known();
    proto::LinkRecord {
        other_subject: other.map_or_else(String::new, |other| other.as_str().to_owned()),
        confidence: confidence_number(link.confidence),
        asserted_by: link.asserted_by,
    }
}

fn use_record(used: UseRecorded) -> proto::UseRecord {
    proto::UseRecord {
        purpose: used.purpose.to_string(),
        channel: used.channel.to_string(),
        used_at: Some(timestamp(used.used_at)),
        region: used.region.map_or_else(String::new, |region| region.to_string()),
        deviation: used.is_deviation(),
        segment: used.segment,
        campaign: used.campaign,
        data_categories: used.data_categories,
        reason: proto::Reason::from(used.reason).into(),
    }
}

fn confidence_number(confidence: Option<LinkConfidence>) -> i32 {
    confidence.map_or(proto::LinkConfidence::Unspecified, Into::into).into()
}

/// An act as watchers hear it, with the changes at these positions.
#[must_use]
pub fn event(event: &Event, positions: &[usize]) -> proto::WatchResponse {
    use proto::watch_response::Message;
    let message = match &event.told {
        EventTold::Consent(own) => Message::Consent(consent_event(event, own, positions)),
        EventTold::Link(own) => Message::Link(link_event(event, own)),
        EventTold::Catalog(own) => Message::Catalog(catalog_event(event, own)),
        EventTold::Overdue(own) => Message::Overdue(overdue_event(event, own)),
    };
    proto::WatchResponse { message: Some(message) }
}

/// As [`event`], for consumers of a subscription; `attempt` counts from 1.
#[must_use]
pub fn delivery(event: &Event, positions: &[usize], attempt: u32) -> proto::ConsumeResponse {
    use proto::consume_response::Message;
    let message = match &event.told {
        EventTold::Consent(own) => Message::Consent(consent_event(event, own, positions)),
        EventTold::Link(own) => Message::Link(link_event(event, own)),
        EventTold::Catalog(own) => Message::Catalog(catalog_event(event, own)),
        EventTold::Overdue(own) => Message::Overdue(overdue_event(event, own)),
    };
    proto::ConsumeResponse { message: Some(message), attempt }
}

fn consent_event(event: &Event, own: &ConsentTold, positions: &[usize]) -> proto::ConsentEvent {
    let changes = positions.iter().filter_map(|position| own.changes.get(*position));
    proto::ConsentEvent {
        index: event.index,
        subject: own.subject.as_str().to_owned(),
        actor: proto::Actor::from(own.actor).into(),
        recorded_at: Some(timestamp(event.recorded_at)),
        effective_at: Some(timestamp(own.effective_at)),
        changes: changes.map(event_change).collect(),
        cause_index: own.cause,
        reason: own.reason.map_or(proto::Reason::Unspecified, Into::into).into(),
        linked_subjects: names(&own.linked),
        preferences_changed: own.preferences_changed,
    }
}

fn link_event(event: &Event, own: &LinkTold) -> proto::LinkEvent {
    proto::LinkEvent {
        index: event.index,
        subject: own.subject.as_str().to_owned(),
        other_subject: own.other.as_str().to_owned(),
        confidence: confidence_number(own.confidence),
        recorded_at: Some(timestamp(event.recorded_at)),
        linked_subjects: names(&own.linked),
    }
}

fn catalog_event(event: &Event, own: &CatalogTold) -> proto::CatalogEvent {
    let text = |key: &Option<Key>| key.as_ref().map_or(String::new(), ToString::to_string);
    proto::CatalogEvent {
        index: event.index,
        purpose: text(&own.purpose),
        channel: text(&own.channel),
        effects: own.effects.iter().map(|own| scalar::catalog_effect(*own).into()).collect(),
        recorded_at: Some(timestamp(event.recorded_at)),
        version: own.version,
        oldest_compatible_version: own.oldest_compatible,
    }
}

fn overdue_event(event: &Event, own: &OverdueTold) -> proto::OverdueEvent {
    proto::OverdueEvent {
        index: event.index,
        subscription: own.subscription.to_string(),
        shard: own.shard,
        event_index: own.event_index,
        pending_since: Some(timestamp(own.pending_since)),
        recorded_at: Some(timestamp(event.recorded_at)),
    }
}

fn names(subjects: &[Subject]) -> Vec<String> {
    subjects.iter().map(|subject| subject.as_str().to_owned()).collect()
}

fn event_change(record: &ChangeRecord) -> proto::EventChange {
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

/// How far a stream has come.
#[must_use]
pub fn progress(next_index: u64, as_of: Millis) -> proto::WatchResponse {
    let progress = proto::Progress { next_index, as_of: Some(timestamp(as_of)) };
    proto::WatchResponse { message: Some(proto::watch_response::Message::Progress(progress)) }
}
