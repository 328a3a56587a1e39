//! Answers.

use crate::{
    domain::{
        Contact, ContactChange, ImportOrigin, LinkConfidence, Millis, ObligationKind, Subject,
        UseRecorded,
    },
    entry,
    event::Event,
    messages::{
        self, cell_preference, change_result, confidence_number, effect, history_kind,
        standing_stop, status,
    },
    node::{
        Checked, Confirmed, HistoryItem, LinkSeen, LinkedName, Name, Preferences, Recorded, Whose,
    },
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
        recorded_at: (!recorded.nothing_recorded).then(|| timestamp(recorded.recorded_at)),
        effective_at: (!recorded.nothing_recorded).then(|| timestamp(recorded.effective_at)),
        nothing_recorded: recorded.nothing_recorded,
        results: left_out.results(&recorded.changes),
        replayed: recorded.replayed,
        confirmation: recorded.confirmation.as_ref().map(|confirmation| proto::Confirmation {
            token: confirmation.token.clone(),
            expires_at: Some(timestamp(confirmation.expires_at)),
        }),
        checkpoint: String::new(),
        warnings: left_out.all_warnings(recorded),
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
        effect: effect(checked.effect).into(),
        reason: proto::Reason::from(decision.reason).into(),
        status: status(decision.status).into(),
        decided_by_index: decision.decided_by,
        revision: checked.revision,
        valid_until: checked.valid_until.map(timestamp),
        obligations: checked.due.obligations.iter().map(due_message).collect(),
        data_categories: decision.data_categories.as_deref().unwrap_or_default().to_vec(),
        not_before: checked.due.not_before.map(timestamp),
        indeterminate: checked.due.is_indeterminate(),
        obligations_ignored: checked.obligations_ignored,
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
    let under = |whose| recorded_under(subject, &preferences.links, whose);
    proto::GetPreferencesResponse {
        subject: subject.as_str().to_owned(),
        cells: preferences
            .cells
            .iter()
            .map(|cell| proto::CellPreference {
                recorded_under: cell.whose.map(under),
                ..cell_preference(cell)
            })
            .collect(),
        stops: preferences
            .stops
            .iter()
            .map(|stop| proto::StandingStop {
                recorded_under: stop.whose.map(under),
                ..standing_stop(stop)
            })
            .collect(),
        revision: preferences.revision,
        preferences: preferences.contact.as_ref().map(contact_message),
        links: preferences.links.iter().filter_map(linked_subject).collect(),
    }
}

/// The name under which an act is on record, seen from the data subject asked about.
fn recorded_under(asked: &Subject, links: &[LinkedName], whose: Whose) -> proto::RecordedUnder {
    use proto::NameRelation;
    let linked = match whose {
        Whose::Asked => None,
        Whose::Linked(subject_ref) => links.iter().find(|linked| linked.subject_ref == subject_ref),
    };
    let (relation, name) = match (whose, linked) {
        (Whose::Asked, _) => (NameRelation::Asked, Some(asked)),
        (Whose::Linked(_), Some(linked)) => {
            // A link that was verified then may be gone today: what is left is somebody who was linked.
            let is_same = linked.confidence == LinkConfidence::Verified
                && !matches!(linked.name, Name::Withheld);
            (name_relation(is_same), linked.name.known())
        }
        (Whose::Linked(_), None) => (NameRelation::LinkedPerson, None),
    };
    proto::RecordedUnder { relation: relation.into(), subject: name_or_empty(name) }
}

fn name_relation(same_person: bool) -> proto::NameRelation {
    match same_person {
        true => proto::NameRelation::SamePerson,
        false => proto::NameRelation::LinkedPerson,
    }
}

fn name_or_empty(name: Option<&Subject>) -> String {
    name.map_or_else(String::new, |subject| subject.as_str().to_owned())
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

/// A linked data subject; none if it is erased.
fn linked_subject(linked: &LinkedName) -> Option<proto::LinkedSubject> {
    (linked.name != Name::Erased).then(|| proto::LinkedSubject {
        subject: name_or_empty(linked.name.known()),
        confidence: proto::LinkConfidence::from(linked.confidence).into(),
    })
}

/// One entry of a history.
#[must_use]
pub fn history_item(item: HistoryItem) -> proto::ListHistoryResponse {
    let HistoryItem { index, recorded_at, entry_hash, line, evidence, link, clock_corrected_by } =
        item;
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
        clock_corrected_by,
        import: line.import.map(|ImportOrigin { source, row }| proto::ImportRecord { source, row }),
    }
}

/// A link; its other side has no name if that one is erased or may be another person.
fn link_record(link: LinkSeen) -> proto::LinkRecord {
    proto::LinkRecord {
        other_subject: name_or_empty(link.other.known()),
        other_relation: name_relation(link.same_person).into(),
        confidence: confidence_number(link.confidence),
        asserted_by: link.asserted_by,
    }
}

/// Kinds of obligations, as numbers of the protocol.
#[must_use]
pub fn obligation_kinds(kinds: &[ObligationKind]) -> Vec<i32> {
    kinds.iter().map(|kind| proto::ObligationKind::from(*kind).into()).collect()
}

fn use_record(used: UseRecorded) -> proto::UseRecord {
    proto::UseRecord {
        purpose: used.purpose.to_string(),
        channel: used.channel.to_string(),
        used_at: Some(timestamp(used.used_at)),
        region: used.region.map_or_else(String::new, |region| region.to_string()),
        deviation: used.is_deviation(),
        broken_obligations: obligation_kinds(&used.broken_obligations),
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
