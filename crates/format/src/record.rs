//! What a record and an evidence may say. A message that is canonical and passes here has one meaning;
//! whether that is true of the person is for the fold.

use consent_ledger_proto::{
    Action, Actor, LinkConfidence, Outcome, Reason,
    ledger::{
        Change, Confirmation, Door, Evidence, NamedText, PreferenceField, Preferences, Record,
        RecordKind,
    },
};

use crate::field::{
    FieldError, absent_unless, ascending, fixed, fixed_or_empty, is_key, known, present_if,
    recorded_ms, within,
};

/// The greatest number of changes of an act.
pub const CHANGES_MAX: usize = 100;

type Checked<T = ()> = Result<T, FieldError>;

/// Checks a record.
///
/// # Errors
/// The first field with a value that the format does not allow.
pub fn check(record: &Record) -> Checked<RecordKind> {
    let kind = known("kind", record.kind)?;
    recorded_ms(record.recorded_ms)?;
    let actor = actor(record, kind)?;
    changes(record, kind)?;
    let is_act = kind == RecordKind::Act;
    let is_confirmation = kind == RecordKind::Confirmation;
    let is_link = matches!(kind, RecordKind::Link | RecordKind::Unlink);
    absent_unless("preferences", is_act, record.preferences.is_some())?;
    record.preferences.as_ref().map_or(Ok(()), preferences)?;
    let is_guardian = (is_act || is_confirmation) && actor == Some(Actor::Guardian);
    absent_unless("authority_ends_at_ms", is_guardian, record.authority_ends_at_ms.is_some())?;
    present_if("confirms", is_confirmation, fixed_or_empty::<16>("confirms", &record.confirms)?)?;
    present_if("requested_at_ms", is_confirmation, record.requested_at_ms.is_some())?;
    marks(&record.idempotency, &record.request_digest)?;
    absent_unless("confirmation", is_act, record.confirmation.is_some())?;
    record.confirmation.as_ref().map_or(Ok(()), confirmation)?;
    origin(record)?;
    let confidence = record.confidence != 0;
    present_if("confidence", kind == RecordKind::Link, confidence)?;
    if confidence {
        known::<LinkConfidence>("confidence", record.confidence)?;
    }
    present_if("peer", is_link, record.peer.is_some())?;
    absent_unless("proof_missing", is_act || is_confirmation, record.proof_missing)?;
    absent_unless("not_asked", is_act || is_confirmation, record.not_asked)?;
    fixed::<32>("next", &record.next)?;
    fixed_or_empty::<32>("identity_commit", &record.identity_commit)?;
    Ok(kind)
}

/// Checks an evidence.
///
/// # Errors
/// Names that do not ascend.
pub fn check_evidence(evidence: &Evidence) -> Checked {
    named("attributes", &evidence.attributes)?;
    named("unreadable", &evidence.unreadable)
}

/// Checks the pair of an idempotency mark and a digest.
pub(crate) fn marks(idempotency: &[u8], digest: &[u8]) -> Checked {
    let has_mark = fixed_or_empty::<16>("idempotency", idempotency)?;
    present_if("request_digest", has_mark, fixed_or_empty::<16>("request_digest", digest)?)
}

fn actor(record: &Record, kind: RecordKind) -> Checked<Option<Actor>> {
    let is_set = record.actor != 0;
    match kind {
        RecordKind::Act | RecordKind::Confirmation | RecordKind::ErasureRequested => {}
        RecordKind::Link | RecordKind::Unlink => {
            if !is_set {
                return Ok(None);
            }
        }
        RecordKind::Unspecified
        | RecordKind::Expiry
        | RecordKind::Erased
        | RecordKind::Disclosed => {
            absent_unless("actor", false, is_set)?;
            return Ok(None);
        }
    }
    known("actor", record.actor).map(Some)
}

fn changes(record: &Record, kind: RecordKind) -> Checked {
    let (least, most) = match kind {
        RecordKind::Act => (usize::from(record.preferences.is_none()), CHANGES_MAX),
        RecordKind::Confirmation | RecordKind::Expiry => (1, CHANGES_MAX),
        _ => (0, 0),
    };
    let [least, most, got] = [least, most, record.changes.len()].map(|it| it as u64);
    within("changes", got, least, most)?;
    record.changes.iter().try_for_each(|it| change(it, kind))
}

fn change(change: &Change, kind: RecordKind) -> Checked {
    let action: Action = known("changes.action", change.action)?;
    let is_expiry = kind == RecordKind::Expiry;
    if (action == Action::Expire) != is_expiry {
        return Err(FieldError::Unknown("changes.action"));
    }
    let is_grant = matches!(action, Action::Grant | Action::Expire);
    if kind == RecordKind::Confirmation && !is_grant {
        return Err(FieldError::Unknown("changes.action"));
    }
    if is_grant {
        present_if("changes.purpose", true, change.purpose != 0)?;
        present_if("changes.channel", true, change.channel != 0)?;
    }
    let has_class = !change.purpose_class.is_empty();
    absent_unless("changes.purpose_class", !is_grant && change.purpose == 0, has_class)?;
    if has_class {
        is_key("changes.purpose_class", &change.purpose_class)?;
    }
    present_if("changes.purpose_version", is_grant, change.purpose_version != 0)?;
    absent_unless("changes.expires_at_ms", is_grant, change.expires_at_ms.is_some())?;
    absent_unless("changes.data_categories", is_grant, !change.data_categories.is_empty())?;
    cause(change, is_expiry)?;
    absent_unless("changes.linked_subjects", !is_expiry, change.linked_subjects != 0)?;
    present_if("changes.reason", is_expiry, change.reason != 0)?;
    let reasons = [0, Reason::Expired as i32, Reason::ReconsentRequired as i32];
    if reasons.contains(&change.reason) {
        Ok(())
    } else {
        Err(FieldError::Unknown("changes.reason"))
    }
}

fn cause(change: &Change, is_expiry: bool) -> Checked {
    let outcome: Outcome = known("changes.outcome", change.outcome)?;
    if matches!(outcome, Outcome::NotRecorded | Outcome::StandsAlready) {
        return Err(FieldError::Unknown("changes.outcome"));
    }
    let has_cause = fixed_or_empty::<16>("changes.cause", &change.cause)?;
    let is_in_the_way = matches!(outcome, Outcome::BlockedByStop | Outcome::SupersededByLater);
    absent_unless("changes.cause_is_linked", is_in_the_way && !has_cause, change.cause_is_linked)?;
    match is_expiry {
        true => present_if("changes.cause", true, has_cause),
        // Without one, another change of the same record is in the way.
        false => absent_unless("changes.cause", is_in_the_way, has_cause),
    }
}

fn preferences(preferences: &Preferences) -> Checked {
    ascending("preferences.cleared", &preferences.cleared)?;
    for field in &preferences.cleared {
        let (name, is_set) = match known("preferences.cleared", *field)? {
            PreferenceField::Unspecified => return Err(FieldError::Unknown("preferences.cleared")),
            PreferenceField::TimeZones => {
                ("preferences.time_zones", !preferences.time_zones.is_empty())
            }
            PreferenceField::Language => ("preferences.language", !preferences.language.is_empty()),
            PreferenceField::QuietSpan => {
                ("preferences.quiet_span", preferences.quiet_span.is_some())
            }
            PreferenceField::FrequencyCap => {
                ("preferences.frequency_cap", preferences.frequency_cap.is_some())
            }
        };
        absent_unless(name, false, is_set)?;
    }
    present_if("preferences", true, *preferences != Preferences::default())
}

fn confirmation(confirmation: &Confirmation) -> Checked {
    fixed::<16>("confirmation.nonce", &confirmation.nonce)?;
    fixed::<32>("confirmation.token_hash", &confirmation.token_hash).map(|_| ())
}

fn origin(record: &Record) -> Checked {
    let door = Door::try_from(record.door).map_err(|_| FieldError::Unknown("door"))?;
    absent_unless("import", door == Door::Import, record.import.is_some())?;
    let row = record.import.as_ref().map_or(1, |import| import.row);
    within("import.row", row, 1, u64::MAX)
}

fn named(field: &'static str, texts: &[NamedText]) -> Checked {
    ascending(field, texts.iter().map(|it| it.name.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant() -> Change {
        Change {
            action: Action::Grant.into(),
            purpose: 1,
            channel: 1,
            purpose_version: 1,
            outcome: Outcome::Applied.into(),
            ..Change::default()
        }
    }

    fn act(changes: Vec<Change>) -> Record {
        Record {
            kind: RecordKind::Act.into(),
            actor: Actor::Subject.into(),
            changes,
            next: vec![0; 32],
            ..Record::default()
        }
    }

    #[test]
    fn an_act_of_one_grant_is_a_record() {
        assert_eq!(check(&act(vec![grant()])), Ok(RecordKind::Act));
    }

    #[test]
    fn every_change_that_no_act_can_have_is_named() {
        let stop = Change {
            action: Action::Withdraw.into(),
            outcome: Outcome::Applied.into(),
            ..Change::default()
        };
        assert_eq!(check(&act(vec![stop.clone()])), Ok(RecordKind::Act));
        let class = Change { purpose_class: "marketing".into(), ..stop.clone() };
        assert_eq!(check(&act(vec![class.clone()])), Ok(RecordKind::Act));
        let blocked = Outcome::BlockedByStop as i32;
        let linked = Change { outcome: blocked, cause_is_linked: true, ..grant() };
        let of_this_act = Change { outcome: blocked, ..grant() };
        assert_eq!(check(&act(vec![linked.clone(), of_this_act])), Ok(RecordKind::Act));
        for (change, field) in [
            (Change { action: 99, ..grant() }, "changes.action"),
            (Change { action: Action::Expire.into(), ..grant() }, "changes.action"),
            (Change { purpose: 0, ..grant() }, "changes.purpose"),
            (Change { channel: 0, ..grant() }, "changes.channel"),
            (Change { purpose_class: "a".into(), ..grant() }, "changes.purpose_class"),
            (Change { purpose: 1, ..class.clone() }, "changes.purpose_class"),
            (Change { purpose_class: "a..b".into(), ..stop.clone() }, "changes.purpose_class"),
            (Change { purpose_class: "a.*".into(), ..stop.clone() }, "changes.purpose_class"),
            (Change { purpose_version: 0, ..grant() }, "changes.purpose_version"),
            (Change { purpose_version: 1, ..stop.clone() }, "changes.purpose_version"),
            (Change { expires_at_ms: Some(1), ..stop.clone() }, "changes.expires_at_ms"),
            (Change { data_categories: vec!["a".into()], ..stop }, "changes.data_categories"),
            (Change { outcome: 0, ..grant() }, "changes.outcome"),
            (Change { outcome: Outcome::NotRecorded.into(), ..grant() }, "changes.outcome"),
            (Change { outcome: blocked, cause: vec![1; 15], ..grant() }, "changes.cause"),
            (Change { cause: vec![1; 16], ..grant() }, "changes.cause"),
            (Change { cause_is_linked: true, ..grant() }, "changes.cause_is_linked"),
            (Change { cause: vec![1; 16], ..linked }, "changes.cause_is_linked"),
            (Change { reason: Reason::Expired.into(), ..grant() }, "changes.reason"),
        ] {
            let refused = check(&act(vec![change])).unwrap_err();
            assert!(refused.to_string().starts_with(field), "{field}: {refused}");
        }
    }

    #[test]
    fn a_field_of_another_kind_is_named() {
        let good = act(vec![grant()]);
        let named = |record: Record, field: &str| {
            let refused = check(&record).unwrap_err();
            assert!(refused.to_string().starts_with(field), "{field}: {refused}");
        };
        named(Record { kind: 9, ..good.clone() }, "kind");
        named(Record { recorded_ms: 1_000, ..good.clone() }, "recorded_ms");
        named(Record { actor: 0, ..good.clone() }, "actor");
        named(act(Vec::new()), "changes");
        named(act(vec![grant(); 101]), "changes");
        named(Record { authority_ends_at_ms: Some(1), ..good.clone() }, "authority_ends_at_ms");
        named(Record { confirms: vec![1; 16], ..good.clone() }, "confirms");
        named(Record { idempotency: vec![1; 16], ..good.clone() }, "request_digest");
        named(Record { request_digest: vec![1; 16], ..good.clone() }, "request_digest");
        named(Record { peer: Some(0), ..good.clone() }, "peer");
        named(Record { confidence: 1, ..good.clone() }, "confidence");
        named(Record { next: vec![1; 31], ..good.clone() }, "next");
        named(Record { identity_commit: vec![1; 31], ..good.clone() }, "identity_commit");
        named(Record { door: 9, ..good.clone() }, "door");
        let kind = RecordKind::Erased.into();
        named(Record { kind, ..good.clone() }, "actor");
        named(Record { kind, actor: 0, ..good.clone() }, "changes");
        let preferences = Preferences { language: "de".into(), cleared: vec![2], ..<_>::default() };
        named(Record { preferences: Some(preferences), ..good.clone() }, "preferences.language");
        named(Record { preferences: Some(<_>::default()), ..good }, "preferences");
    }

    #[test]
    fn the_names_of_an_evidence_ascend() {
        let named = |name: &str| NamedText { name: name.into(), text: String::new() };
        let evidence = |names: &[&str]| Evidence {
            attributes: names.iter().map(|name| named(name)).collect(),
            ..Evidence::default()
        };
        assert_eq!(check_evidence(&evidence(&["a", "b"])), Ok(()));
        for names in [["b", "a"], ["a", "a"]] {
            assert_eq!(check_evidence(&evidence(&names)), Err(FieldError::Order("attributes")));
        }
    }
}
