//! Answers, going out.

use crate::{
    domain::{ChangeRecord, Decision, Millis, Obligation, ScopeKeys, Subject},
    ledger::entry,
    node::{CellPreference, Checked, HistoryItem, Preferences, Recorded, StandingStop},
    proto,
    status::Fault,
    watch::Event,
};

use super::scalar::timestamp;

impl From<&ScopeKeys> for proto::Scope {
    fn from(keys: &ScopeKeys) -> Self {
        let text = |key: &Option<crate::domain::Key>| {
            key.as_ref().map_or_else(|| "*".to_owned(), ToString::to_string)
        };
        Self { purpose: text(&keys.purpose), channel: text(&keys.channel) }
    }
}

impl From<&Obligation> for proto::Obligation {
    fn from(obligation: &Obligation) -> Self {
        entry::obligation_to_proto(obligation)
    }
}

impl From<&ChangeRecord> for proto::ChangeResult {
    fn from(record: &ChangeRecord) -> Self {
        Self {
            action: proto::Action::from(record.action).into(),
            scope: Some((&record.scope).into()),
            outcome: proto::Outcome::from(record.outcome).into(),
            cause_index: record.outcome.cause_index(),
            purpose_version: record.purpose_version,
            expires_at: record.expires_at.map(timestamp),
        }
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
        results: recorded.changes.iter().map(Into::into).collect(),
        replayed: recorded.replayed,
    }
}

/// A decision.
#[must_use]
pub fn check_response(checked: &Checked) -> proto::CheckResponse {
    let decision = &checked.decision;
    proto::CheckResponse {
        effect: proto::Effect::from(decision.effect()).into(),
        reason: proto::Reason::from(decision.reason).into(),
        status: proto::Status::from(decision.status).into(),
        decided_by_index: decision.decided_by,
        revision: checked.revision,
        valid_until: decision.valid_until.map(timestamp),
        obligations: decision.obligations.iter().map(Into::into).collect(),
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
    }
}

fn cell_preference(cell: &CellPreference) -> proto::CellPreference {
    let decision: &Decision = &cell.decision;
    proto::CellPreference {
        purpose: cell.purpose.to_string(),
        channel: cell.channel.to_string(),
        status: proto::Status::from(decision.status).into(),
        effect: proto::Effect::from(decision.effect()).into(),
        reason: proto::Reason::from(decision.reason).into(),
        decided_by_index: decision.decided_by,
        valid_until: decision.valid_until.map(timestamp),
    }
}

fn standing_stop(stop: &StandingStop) -> proto::StandingStop {
    proto::StandingStop {
        action: proto::Action::from(stop.kind.action()).into(),
        scope: Some((&stop.scope).into()),
        effective_at: Some(timestamp(stop.effective_at)),
        index: stop.index,
    }
}

/// One act of a history.
#[must_use]
pub fn history_item(item: HistoryItem) -> proto::ListHistoryResponse {
    proto::ListHistoryResponse {
        index: item.index,
        recorded_at: Some(timestamp(item.recorded_at)),
        effective_at: Some(timestamp(item.effective_at)),
        actor: proto::Actor::from(item.actor).into(),
        changes: item.changes.iter().map(Into::into).collect(),
        evidence: Some(item.evidence.into()),
        entry_hash: item.entry_hash.to_vec(),
    }
}

/// An act as watchers hear it, with the changes at these positions.
#[must_use]
pub fn event(event: &Event, positions: &[usize]) -> proto::WatchResponse {
    let changes = positions.iter().filter_map(|position| event.changes.get(*position));
    let consent = proto::ConsentEvent {
        index: event.index,
        subject: event.subject.as_str().to_owned(),
        actor: proto::Actor::from(event.actor).into(),
        recorded_at: Some(timestamp(event.recorded_at)),
        effective_at: Some(timestamp(event.effective_at)),
        changes: changes.map(event_change).collect(),
    };
    proto::WatchResponse { message: Some(proto::watch_response::Message::Consent(consent)) }
}

fn event_change(record: &ChangeRecord) -> proto::EventChange {
    proto::EventChange {
        action: proto::Action::from(record.action).into(),
        scope: Some((&record.scope).into()),
        outcome: proto::Outcome::from(record.outcome).into(),
        cause_index: record.outcome.cause_index(),
        purpose_version: record.purpose_version,
        expires_at: record.expires_at.map(timestamp),
    }
}

/// How far a stream has come.
#[must_use]
pub fn progress(next_index: u64, as_of: Millis) -> proto::WatchResponse {
    let progress = proto::Progress { next_index, as_of: Some(timestamp(as_of)) };
    proto::WatchResponse { message: Some(proto::watch_response::Message::Progress(progress)) }
}
