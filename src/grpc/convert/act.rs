//! Requests to record acts, and questions.

use prost::Message;

use crate::{
    domain::{
        Action, Actor, Catalog, Change, ContactChange, Evidence, Key, LANGUAGE_BYTES_MAX, Region,
        Said, ScopeKeys, Subject, TIME_ZONES_MAX,
    },
    node::{Act, AsOf, CHANGES_MAX, Confirm, IDEMPOTENCY_KEY_BYTES_MAX, Idempotency, Use},
    obligations::is_time_zone,
    proto,
};

use super::{
    CONFIRMATION_MS_MAX, CONFIRMATION_MS_MIN, Invalid, NAME_BYTES_MAX, Problem,
    catalog::{frequency_cap, quiet_span},
    receipt::subject_if_given,
    scalar::{
        action, actor, at_most, check_data_categories, check_key, key, line_within, moment, region,
        span_ms_within, subject, subject_if_known, text_within,
    },
};

/// The act that a request describes.
///
/// # Errors
/// The first field that is wrong.
pub fn act(catalog: &Catalog, mut request: proto::RecordConsentRequest) -> Result<Act, Invalid> {
    // A retry that does not wait for the checkpoint is the same act.
    request.wait_for_checkpoint = false;
    let idempotency = idempotency(&request.idempotency_key, || request.encode_to_vec())?;
    let actor = actor(request.actor, "actor")?;
    let contact = contact(&request.preferences.unwrap_or_default())
        .map_err(|invalid| invalid.within("preferences"))?;
    let subject = subject(catalog, &request.subject, "subject")?;
    let evidence = evidence(request.evidence.unwrap_or_default(), actor)?;
    Ok(Act {
        evidence: evidence.with_subject_given(&request.subject, &subject),
        subject,
        actor,
        changes: changes(&request.changes, !contact.is_empty())?,
        effective_at: request.effective_at.map(|at| moment(at, "effective_at")).transpose()?,
        contact,
        idempotency,
        confirmation_validity_ms: request
            .confirmation_validity
            .map(|span| {
                let limits = (CONFIRMATION_MS_MIN, CONFIRMATION_MS_MAX);
                span_ms_within(span, "confirmation_validity", limits)
            })
            .transpose()?,
    })
}

/// The confirmation that a request describes.
///
/// # Errors
/// The first field that is wrong.
pub fn confirm(
    catalog: &Catalog,
    request: proto::ConfirmConsentRequest,
) -> Result<Confirm, Invalid> {
    if request.token.is_empty() {
        return Err(Problem::Required.at("token"));
    }
    text_within(&request.token, NAME_BYTES_MAX, "token")?;
    let confirm = Confirm {
        subject: subject_if_given(catalog, &request.subject)?,
        effective_at: request.effective_at.map(|at| moment(at, "effective_at")).transpose()?,
        idempotency: idempotency(&request.idempotency_key, || {
            [b"confirm".as_slice(), &request.encode_to_vec()].concat()
        })?,
        evidence: Evidence::default(),
        token: request.token,
    };
    let evidence = evidence(request.evidence.unwrap_or_default(), Actor::Subject)?;
    Ok(Confirm { evidence, ..confirm })
}

/// How a data subject wants to be contacted.
pub(super) fn contact(message: &proto::ContactPreferences) -> Result<ContactChange, Invalid> {
    at_most(message.time_zones.len(), TIME_ZONES_MAX, "time_zones")?;
    for (position, zone) in message.time_zones.iter().enumerate() {
        if !is_time_zone(zone) {
            return Err(Problem::TimeZone.at(format!("time_zones[{position}]")));
        }
    }
    if !message.language.is_empty() && !is_language(&message.language) {
        return Err(Problem::Language.at("language"));
    }
    let quiet_hours = message.quiet_hours.as_ref().map(|hours| {
        if !hours.time_zone.is_empty() {
            return Err(Problem::NotWith("time_zones").at("quiet_hours.time_zone"));
        }
        quiet_span(hours).map_err(|invalid| invalid.within("quiet_hours"))
    });
    let frequency_limit = message
        .frequency_limit
        .map(|limit| frequency_cap(limit).map_err(|invalid| invalid.within("frequency_limit")));
    let given = ContactChange {
        time_zones: said(Some(message.time_zones.clone()).filter(|zones| !zones.is_empty())),
        language: said(Some(message.language.clone()).filter(|tag| !tag.is_empty())),
        quiet_hours: said(quiet_hours.transpose()?),
        frequency_limit: said(frequency_limit.transpose()?),
    };
    with_cleared(given, &message.clear)
}

pub(super) fn said<T>(value: Option<T>) -> Said<T> {
    value.map_or(Said::Nothing, Said::Value)
}

fn with_cleared(mut given: ContactChange, clear: &[String]) -> Result<ContactChange, Invalid> {
    for (position, name) in clear.iter().enumerate() {
        let cleared = match name.as_str() {
            "time_zones" => clear_unsaid(&mut given.time_zones),
            "language" => clear_unsaid(&mut given.language),
            "quiet_hours" => clear_unsaid(&mut given.quiet_hours),
            "frequency_limit" => clear_unsaid(&mut given.frequency_limit),
            _ => false,
        };
        if !cleared {
            return Err(Problem::Clear.at(format!("clear[{position}]")));
        }
    }
    Ok(given)
}

fn clear_unsaid<T: PartialEq>(said: &mut Said<T>) -> bool {
    let is_unsaid = !matches!(said, Said::Value(_));
    if is_unsaid {
        *said = Said::Clear;
    }
    is_unsaid
}

/// Whether a text has the form of a BCP 47 tag: words of 1 to 8 letters and digits, the first of
/// letters alone.
fn is_language(tag: &str) -> bool {
    let is_word = |word: &str| {
        (1..=8).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    let first = tag.split('-').next().unwrap_or_default();
    tag.len() <= LANGUAGE_BYTES_MAX
        && first.len() >= 2
        && first.bytes().all(|byte| byte.is_ascii_alphabetic())
        && tag.split('-').all(is_word)
}

/// The encoding of a decoded request identifies it. It is deterministic: the generated types keep maps
/// in order, and decoding removes differences in the order of fields.
pub(super) fn idempotency(
    key: &str,
    request: impl FnOnce() -> Vec<u8>,
) -> Result<Option<Idempotency>, Invalid> {
    if key.is_empty() {
        return Ok(None);
    }
    check_idempotency_key(key)?;
    Ok(Some(Idempotency { key: key.to_owned(), request: request() }))
}

pub(super) fn check_idempotency_key(key: &str) -> Result<(), Invalid> {
    line_within(key, IDEMPOTENCY_KEY_BYTES_MAX, "idempotency_key")
}

pub(super) fn changes(
    messages: &[proto::Change],
    may_be_none: bool,
) -> Result<Vec<Change>, Invalid> {
    if messages.is_empty() && !may_be_none {
        return Err(Problem::Required.at("changes"));
    }
    at_most(messages.len(), CHANGES_MAX, "changes")?;
    let mut changes: Vec<Change> = Vec::with_capacity(messages.len());
    for (position, message) in messages.iter().enumerate() {
        let path = || format!("changes[{position}]");
        let change = change(message).map_err(|invalid| invalid.within(path()))?;
        if let Some(first) = changes.iter().position(|other| other.scope == change.scope) {
            return Err(Problem::SameScope { first }.at("scope").within(path()));
        }
        changes.push(change);
    }
    Ok(changes)
}

fn change(message: &proto::Change) -> Result<Change, Invalid> {
    let action = action(message.action, "action")?;
    let is_grant = action == Action::Grant;
    if !is_grant && message.purpose_version != 0 {
        return Err(Problem::OnlyForGrants.at("purpose_version"));
    }
    if !is_grant && message.expires_at.is_some() {
        return Err(Problem::OnlyForGrants.at("expires_at"));
    }
    if !is_grant && !message.data_categories.is_empty() {
        return Err(Problem::OnlyForGrants.at("data_categories"));
    }
    check_data_categories(&message.data_categories)?;
    let scope = message.scope.as_ref().ok_or_else(|| Problem::Required.at("scope"))?;
    Ok(Change {
        action,
        scope: scope_keys(scope, is_grant).map_err(|invalid| invalid.within("scope"))?,
        purpose_version: Some(message.purpose_version).filter(|version| *version != 0),
        expires_at: message.expires_at.map(|at| moment(at, "expires_at")).transpose()?,
        data_categories: message.data_categories.clone(),
    })
}

fn scope_keys(scope: &proto::Scope, is_grant: bool) -> Result<ScopeKeys, Invalid> {
    let part = |text: &str, field| -> Result<Option<Key>, Invalid> {
        if text == "*" && !is_grant { Ok(None) } else { key(text, field).map(Some) }
    };
    Ok(ScopeKeys {
        purpose: part(&scope.purpose, "purpose")?,
        channel: part(&scope.channel, "channel")?,
    })
}

pub(super) fn evidence(message: proto::Evidence, actor: Actor) -> Result<Evidence, Invalid> {
    if !message.subject_given.is_empty() {
        return Err(Problem::LedgerAlone.at("evidence.subject_given"));
    }
    if let Some(authority) = &message.authority {
        if !matches!(actor, Actor::Guardian | Actor::Agent) {
            return Err(Problem::OnlyForRepresentatives.at("evidence.authority"));
        }
        if actor != Actor::Guardian && authority.ends_at.is_some() {
            return Err(Problem::OnlyForGuardians.at("evidence.authority.ends_at"));
        }
        authority.ends_at.map(|at| moment(at, "evidence.authority.ends_at")).transpose()?;
    }
    Evidence::from(message).checked().map_err(|error| {
        let part = error.part();
        Problem::from(error).at(part).within("evidence")
    })
}

/// The data subject and the region of a check. The other fields are checked, too, but not copied, because
/// checks are frequent. There is no data subject if the catalogue lacks its namespace.
///
/// # Errors
/// The first field that is wrong.
pub fn check(
    catalog: &Catalog,
    request: &proto::CheckRequest,
) -> Result<(Option<Subject>, Option<Region>), Invalid> {
    let subject = subject_if_known(catalog, &request.subject)?;
    check_key(&request.purpose, "purpose")?;
    check_key(&request.channel, "channel")?;
    check_data_categories(&request.data_categories)?;
    if request.want_token && request.as_of.is_some() {
        return Err(Problem::NotWith("as_of").at("want_token"));
    }
    Ok((subject, region(&request.region, "region")?))
}

/// The use that a request reports.
///
/// # Errors
/// The first field that is wrong.
pub fn used(catalog: &Catalog, request: proto::RecordUseRequest) -> Result<Use, Invalid> {
    let idempotency = idempotency(&request.idempotency_key, || {
        [b"use".as_slice(), &request.encode_to_vec()].concat()
    })?;
    check_data_categories(&request.data_categories)?;
    Ok(Use {
        subject: subject(catalog, &request.subject, "subject")?,
        purpose: key(&request.purpose, "purpose")?,
        channel: key(&request.channel, "channel")?,
        region: region(&request.region, "region")?,
        used_at: request.used_at.map(|at| moment(at, "used_at")).transpose()?,
        segment: name(request.segment, "segment")?,
        campaign: name(request.campaign, "campaign")?,
        data_categories: request.data_categories,
        idempotency,
    })
}

/// The name of a segment or campaign.
pub(super) fn name(text: String, field: &'static str) -> Result<String, Invalid> {
    line_within(&text, NAME_BYTES_MAX, field)?;
    Ok(text)
}

/// The moment in the past that a question is about, if it names one.
///
/// # Errors
/// No moment is named, or it is malformed.
pub fn as_of(message: Option<&proto::AsOf>) -> Result<Option<AsOf>, Invalid> {
    use proto::as_of::Moment;
    let Some(message) = message else { return Ok(None) };
    let at = |at, field| moment(at, field).map_err(|invalid| invalid.within("as_of"));
    Ok(Some(match message.moment {
        None => return Err(Problem::Required.at("moment").within("as_of")),
        Some(Moment::Revision(revision)) => AsOf::Revision(revision),
        Some(Moment::RecordedAt(time)) => AsOf::RecordedAt(at(time, "recorded_at")?),
        Some(Moment::EffectiveAt(time)) => AsOf::EffectiveAt(at(time, "effective_at")?),
    }))
}

/// The data subject whose preferences a request asks for, and the region.
///
/// # Errors
/// The first field that is wrong.
pub fn preferences(
    catalog: &Catalog,
    request: &proto::GetPreferencesRequest,
) -> Result<(Subject, Option<Region>), Invalid> {
    Ok((subject(catalog, &request.subject, "subject")?, region(&request.region, "region")?))
}

/// The data subject whose history a request asks for, and the maximum number of acts.
///
/// # Errors
/// The subject is wrong.
pub fn history(
    catalog: &Catalog,
    request: &proto::ListHistoryRequest,
) -> Result<(Subject, usize), Invalid> {
    let limit = match request.page_size {
        0 => usize::MAX,
        size => usize::try_from(size).unwrap_or(usize::MAX),
    };
    Ok((subject(catalog, &request.subject, "subject")?, limit))
}
