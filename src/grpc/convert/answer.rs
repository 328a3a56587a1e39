//! Answers.

use crate::{
    domain::{Contact, ContactChange, LinkConfidence, Millis, Subject, UseRecorded},
    entry,
    event::Event,
    messages::{
        self, cell_preference, change_result, confidence_number, effect, history_kind,
        standing_stop, status,
    },
    node::{Checked, Confirmed, HistoryItem, LinkSeen, Preferences, Recorded},
    proto,
    status::Fault,
};

use super::{LeftOut, act::said, obligations::due_message, timestamp};

/// The outcome of an act.
#[must_use]
pub fn recorded(recorded: &Recorded, left_out: &LeftOut) -> proto::RecordConsentResponse {
    proto::RecordConsentResponse {
        index: recorded.index,
        revision: recorded.revision(),
        recorded_at: Some(timestamp(recorded.recorded_at)),
        effective_at: Some(timestamp(recorded.effective_at)),
        results: left_out.results(&recorded.changes),
        replayed: recorded.replayed,
        confirmation: recorded.confirmation.as_ref().map(|confirmation| proto::Confirmation {
            token: confirmation.token.clone(),
            expires_at: Some(timestamp(confirmation.expires_at)),
        }),
        checkpoint: String::new(),
        warnings: match recorded.replayed {
            true => left_out.replayed_warnings(&recorded.changes),
            false => left_out.warnings(&recorded.refused.errors),
        },
        subject: String::new(),
    }
}

/// The outcome of a confirmation.
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
        effect: effect(decision.effect()).into(),
        reason: proto::Reason::from(decision.reason).into(),
        status: status(decision.status).into(),
        decided_by_index: decision.decided_by,
        revision: checked.revision,
        valid_until: decision.valid_until.map(timestamp),
        obligations: checked.due.obligations.iter().map(due_message).collect(),
        data_categories: decision.data_categories.as_deref().unwrap_or_default().to_vec(),
        not_before: checked.due.not_before.map(timestamp),
        indeterminate: checked.due.obligations.iter().any(|due| due.indeterminate),
        token: checked.token.clone().unwrap_or_default(),
        legal_basis: decision.legal_basis.map_or(proto::LegalBasis::Unspecified, Into::into).into(),
        subject: checked.subject.as_ref().map_or_else(String::new, |it| it.as_str().to_owned()),
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

/// The preferences of a data subject.
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

/// One entry of a history.
#[must_use]
pub fn history_item(item: HistoryItem) -> proto::ListHistoryResponse {
    let HistoryItem { index, recorded_at, entry_hash, line, evidence, link } = item;
    proto::ListHistoryResponse {
        index,
        recorded_at: Some(timestamp(recorded_at)),
        entry_hash: entry_hash.to_vec(),
        kind: history_kind(line.kind).into(),
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

/// An event for watchers, with the changes at these positions.
#[must_use]
pub fn event(event: &Event, positions: &[usize]) -> proto::WatchResponse {
    proto::WatchResponse { message: Some(messages::event(event, positions).into()) }
}

/// As [`event`], for consumers of a subscription; `attempt` counts from 1.
#[must_use]
pub fn delivery(event: &Event, positions: &[usize], attempt: u32) -> proto::ConsumeResponse {
    proto::ConsumeResponse { message: Some(messages::event(event, positions).into()), attempt }
}

/// How far a stream has come.
#[must_use]
pub fn progress(next_index: u64, as_of: Millis) -> proto::WatchResponse {
    let progress = proto::Progress { next_index, as_of: Some(timestamp(as_of)) };
    proto::WatchResponse { message: Some(proto::watch_response::Message::Progress(progress)) }
}
