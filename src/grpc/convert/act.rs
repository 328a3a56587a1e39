//! Requests to record acts, and questions.

use prost::Message;

use crate::{
    domain::{
        Action, Actor, Catalog, Change, ContactChange, Evidence, Excess, LANGUAGE_BYTES_MAX,
        Millis, PurposeName, QuietSpan, Region, Said, ScopeKeys, Subject, TIME_ZONES_MAX,
    },
    node::{Act, AsOf, CHANGES_MAX, Confirm, IDEMPOTENCY_KEY_BYTES_MAX, Idempotency, Naming, Use},
    obligations::is_time_zone,
    proto,
};

use super::{
    CONFIRMATION_MS_MAX, CONFIRMATION_MS_MIN, Invalid, NAME_BYTES_MAX, Problem,
    catalog::{frequency_cap, quiet_span},
    faults::{Faults, LeftOut, ParsedChanges},
    receipt::subject_if_given,
    scalar::{
        action, actor, at_most, check_data_categories, check_key, key, line_within, moment,
        purpose_name, region, span_ms_within, subject, subject_if_known, text_within,
    },
};

/// The act that a request describes, and what it leaves out of the request.
///
/// # Errors
/// The first field that is wrong, unless the request has a stop whose subject, actor and scope are clear.
pub fn act(
    catalog: &Catalog,
    mut request: proto::RecordConsentRequest,
) -> Result<(Act, LeftOut), Invalid> {
    // A retry that does not wait for the checkpoint, or that comes late, is the same act.
    request.wait_for_checkpoint = false;
    let reported_late = std::mem::take(&mut request.reported_late);
    let mut faults = Faults::default();
    let idempotency = idempotency(&request.idempotency_key, || request.encode_to_vec());
    let idempotency = faults.value(idempotency, || request.idempotency_key.clone());
    let actor = actor(request.actor, "actor")?;
    let contact = contact(&request.preferences.unwrap_or_default(), actor, &mut faults);
    let is_empty = contact.is_empty() && faults.is_empty();
    let subject = subject(catalog, &request.subject, "subject")?;
    let changes = changes(request.changes, !is_empty, Origin::Call, &mut faults)?;
    let effective_at = optional_moment(request.effective_at, "effective_at", &mut faults);
    let evidence = evidence(request.evidence.unwrap_or_default(), actor, &mut faults);
    let evidence = evidence.with_subject_given(&request.subject, &subject);
    let limits = (CONFIRMATION_MS_MIN, CONFIRMATION_MS_MAX);
    if let Some(span) = request.confirmation_validity.filter(|_| !changes.has_grant()) {
        faults.add(Problem::OnlyForGrants.at("confirmation_validity"), span_text(span));
    }
    let validity_ms = request.confirmation_validity.map(|span| {
        let validity_ms = span_ms_within(span, "confirmation_validity", limits).map(Some);
        faults.value(validity_ms, || span_text(span))
    });
    let mut act = Act {
        subject,
        actor,
        changes: Vec::new(),
        contact,
        effective_at,
        evidence,
        idempotency,
        reported_late,
        record_only_news: request.record_only_news,
        confirmation_validity_ms: validity_ms.flatten(),
    };
    let left_out = faults.settle(&mut act, changes)?;
    Ok((act, left_out))
}

/// A moment that a side field may give.
pub(super) fn optional_moment(
    given: Option<prost_types::Timestamp>,
    field: &'static str,
    faults: &mut Faults,
) -> Option<Millis> {
    let parsed = given.map(|at| moment(at, field)).transpose();
    faults.value(parsed, || given.map(moment_text).unwrap_or_default())
}

fn moment_text(at: prost_types::Timestamp) -> String {
    format!("{} s {} ns", at.seconds, at.nanos)
}

fn span_text(span: prost_types::Duration) -> String {
    format!("{} s {} ns", span.seconds, span.nanos)
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
    let mut faults = Faults::default();
    let evidence = evidence(request.evidence.unwrap_or_default(), Actor::Subject, &mut faults);
    faults.refuse()?;
    Ok(Confirm { evidence, ..confirm })
}

/// How a data subject wants to be contacted.
pub(super) fn contact(
    message: &proto::ContactPreferences,
    actor: Actor,
    faults: &mut Faults,
) -> ContactChange {
    let outer = |invalid: Invalid| invalid.within("preferences");
    let zones = time_zones(&message.time_zones).map_err(outer);
    let language = language(&message.language).map_err(outer);
    let hours = message.quiet_hours.as_ref();
    let quiet_hours = hours.map(quiet_hours).transpose().map_err(outer);
    let limit = message.frequency_limit.map(|limit| {
        frequency_cap(limit).map_err(|invalid| outer(invalid.within("frequency_limit")))
    });
    let mut given = ContactChange {
        time_zones: said(faults.value(zones, || message.time_zones.join(", "))),
        language: said(faults.value(language, || message.language.clone())),
        quiet_hours: said(faults.value(quiet_hours, || {
            hours
                .map(|hours| format!("{}-{}", hours.start_minute, hours.end_minute))
                .unwrap_or_default()
        })),
        frequency_limit: said(faults.value(limit.transpose(), || {
            let uses_max = message.frequency_limit.map(|limit| limit.uses_max);
            uses_max.map(|uses_max| uses_max.to_string()).unwrap_or_default()
        })),
    };
    // As with stops: nobody else takes away when and how often the data subject wants to be left alone.
    let is_protected = |name: &str| matches!(name, "quiet_hours" | "frequency_limit");
    for (position, name) in message.clear.iter().enumerate() {
        let problem = match actor.speaks_for_subject() {
            false if is_protected(name) => Problem::OnlyForThePerson,
            _ if clear(&mut given, name) => continue,
            _ => Problem::Clear,
        };
        faults.add(outer(problem.at(format!("clear[{position}]"))), name);
    }
    given
}

fn time_zones(names: &[String]) -> Result<Option<Vec<String>>, Invalid> {
    at_most(names.len(), TIME_ZONES_MAX, "time_zones")?;
    match names.iter().position(|name| !is_time_zone(name)) {
        Some(position) => Err(Problem::TimeZone.at(format!("time_zones[{position}]"))),
        None => Ok(Some(names.to_vec()).filter(|names| !names.is_empty())),
    }
}

fn language(tag: &str) -> Result<Option<String>, Invalid> {
    if tag.is_empty() {
        return Ok(None);
    }
    language_tag(tag).map(Some).ok_or_else(|| Problem::Language.at("language"))
}

fn quiet_hours(hours: &proto::QuietHours) -> Result<QuietSpan, Invalid> {
    if !hours.time_zone.is_empty() {
        return Err(Problem::NotWith("time_zones").at("quiet_hours.time_zone"));
    }
    quiet_span(hours).map_err(|invalid| invalid.within("quiet_hours"))
}

pub(super) fn said<T>(value: Option<T>) -> Said<T> {
    value.map_or(Said::Nothing, Said::Value)
}

/// Clears a field, and answers whether it is one that is not given.
fn clear(given: &mut ContactChange, name: &str) -> bool {
    match name {
        "time_zones" => clear_unsaid(&mut given.time_zones),
        "language" => clear_unsaid(&mut given.language),
        "quiet_hours" => clear_unsaid(&mut given.quiet_hours),
        "frequency_limit" => clear_unsaid(&mut given.frequency_limit),
        _ => false,
    }
}

fn clear_unsaid<T: PartialEq>(said: &mut Said<T>) -> bool {
    let is_unsaid = !matches!(said, Said::Value(_));
    if is_unsaid {
        *said = Said::Clear;
    }
    is_unsaid
}

/// A BCP 47 tag. The form of POSIX is accepted, too: `de_AT` and `de_AT.UTF-8` are `de-AT`.
fn language_tag(text: &str) -> Option<String> {
    let locale = text.split(['.', '@']).next().filter(|locale| locale.contains('_'));
    let tag = locale.unwrap_or(text).replace('_', "-");
    is_language(&tag).then_some(tag)
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

/// Where changes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// A call, whose caller reads the error: fields of grants in a stop, and a stop without a clear scope,
    /// are errors.
    Call,
    /// A row of a file: both are side faults if the row has another stop that is clear.
    Row,
}

pub(super) fn changes(
    requested: Vec<proto::Change>,
    may_be_none: bool,
    origin: Origin,
    faults: &mut Faults,
) -> Result<ParsedChanges, Invalid> {
    if requested.is_empty() && !may_be_none {
        return Err(Problem::Required.at("changes"));
    }
    at_most(requested.len(), CHANGES_MAX, "changes")?;
    let mut changes: Vec<(usize, Change)> = Vec::with_capacity(requested.len());
    for (position, message) in requested.iter().enumerate() {
        let outer = |invalid: Invalid| invalid.within(format!("changes[{position}]"));
        let is_grant = message.action() == proto::Action::Grant;
        if !is_grant && let Err(invalid) = check_stop(message) {
            match origin {
                Origin::Call => return Err(outer(invalid)),
                Origin::Row => faults.add(outer(invalid), fields_of_grants(message)),
            }
        }
        match change(message) {
            Ok(change) => {
                let same = changes.iter_mut().find(|(_, other)| other.scope == change.scope);
                let Some((first, other)) = same else {
                    changes.push((position, change));
                    continue;
                };
                let first = *first;
                faults.add(outer(Problem::SameScope { first }.at("scope")), "");
                if weight(change.action) > weight(other.action) {
                    *other = change;
                }
            }
            Err(invalid) if is_grant || origin == Origin::Row => faults.add(outer(invalid), ""),
            Err(invalid) => return Err(outer(invalid)),
        }
    }
    Ok(ParsedChanges { changes, requested })
}

/// Which of two changes of one scope counts: a stop more than a grant, and the stop that says more.
fn weight(action: Action) -> u8 {
    match action {
        Action::Grant | Action::Expire => 0,
        Action::Refuse => 1,
        Action::Withdraw => 2,
        Action::Object => 3,
    }
}

/// Checks that a stop has no field of grants.
fn check_stop(message: &proto::Change) -> Result<(), Invalid> {
    let field = match message {
        proto::Change { purpose_version: 1.., .. } => "purpose_version",
        proto::Change { expires_at: Some(_), .. } => "expires_at",
        proto::Change { data_categories, .. } if !data_categories.is_empty() => "data_categories",
        _ => return Ok(()),
    };
    Err(Problem::OnlyForGrants.at(field))
}

/// The fields of grants as text.
fn fields_of_grants(message: &proto::Change) -> String {
    let version = Some(message.purpose_version).filter(|version| *version != 0);
    let version = version.map(|version| format!("purpose_version {version}"));
    let end = message.expires_at.map(|at| format!("expires_at {}", moment_text(at)));
    let categories = Some(message.data_categories.join(", ")).filter(|text| !text.is_empty());
    let categories = categories.map(|text| format!("data_categories {text}"));
    [version, end, categories].into_iter().flatten().collect::<Vec<_>>().join("; ")
}

fn change(message: &proto::Change) -> Result<Change, Invalid> {
    let action = action(message.action, "action")?;
    let is_grant = action == Action::Grant;
    let scope = message.scope.as_ref().ok_or_else(|| Problem::Required.at("scope"))?;
    let scope = scope_keys(scope, is_grant).map_err(|invalid| invalid.within("scope"))?;
    if !is_grant {
        let (purpose_version, expires_at, data_categories) = (None, None, Vec::new());
        return Ok(Change { action, scope, purpose_version, expires_at, data_categories });
    }
    check_data_categories(&message.data_categories)?;
    Ok(Change {
        action,
        scope,
        purpose_version: Some(message.purpose_version).filter(|version| *version != 0),
        expires_at: message.expires_at.map(|at| moment(at, "expires_at")).transpose()?,
        data_categories: message.data_categories.clone(),
    })
}

fn scope_keys(scope: &proto::Scope, is_grant: bool) -> Result<ScopeKeys, Invalid> {
    if is_grant {
        let purpose = PurposeName::One(key(&scope.purpose, "purpose")?);
        return Ok(ScopeKeys {
            purpose: Some(purpose),
            channel: Some(key(&scope.channel, "channel")?),
        });
    }
    let given = |text| Some(text).filter(|text| *text != "*");
    let purpose = given(scope.purpose.as_str()).map(|text| purpose_name(text, "purpose"));
    let channel = given(scope.channel.as_str()).map(|text| key(text, "channel"));
    Ok(ScopeKeys { purpose: purpose.transpose()?, channel: channel.transpose()? })
}

pub(super) fn evidence(
    mut message: proto::Evidence,
    actor: Actor,
    faults: &mut Faults,
) -> Evidence {
    let outer = |invalid: Invalid| invalid.within("evidence");
    let subject_given = std::mem::take(&mut message.subject_given);
    if !subject_given.is_empty() {
        faults.add(outer(Problem::LedgerAlone.at("subject_given")), subject_given);
    }
    if let Some(given) = message.effective_at_given.take() {
        faults.add(outer(Problem::LedgerAlone.at("effective_at_given")), moment_text(given));
    }
    if let Some(tag) = language_tag(&message.language) {
        message.language = tag;
    }
    if let Some(authority) = message.authority.take() {
        message.authority = self::authority(authority, actor, faults);
    }
    let (evidence, excess) = Evidence::from(message).within_limits();
    for Excess { error, text } in excess {
        let part = error.part();
        faults.add(outer(Problem::from(error).at(part)), text);
    }
    evidence
}

/// The authority of an actor, as far as it may have one.
fn authority(
    mut authority: proto::Authority,
    actor: Actor,
    faults: &mut Faults,
) -> Option<proto::Authority> {
    let ends_at = authority.ends_at;
    if !matches!(actor, Actor::Guardian | Actor::Agent) {
        let text = format!("{} {}", authority.relationship, authority.representative);
        faults.add(Problem::OnlyForRepresentatives.at("evidence.authority"), text);
        return None;
    }
    if let (Some(at), true) = (ends_at, actor != Actor::Guardian) {
        faults.add(Problem::OnlyForGuardians.at("evidence.authority.ends_at"), moment_text(at));
        authority.ends_at = None;
    } else if optional_moment(ends_at, "evidence.authority.ends_at", faults).is_none() {
        authority.ends_at = None;
    }
    Some(authority)
}

/// The data subject and the region of a check. The other fields are checked, too, but not copied, because
/// checks are frequent. There is no data subject if the catalogue lacks its namespace. `is_stored` knows some
/// of the data subjects that are stored.
///
/// # Errors
/// The first field that is wrong.
pub fn check(
    catalog: &Catalog,
    request: &proto::CheckRequest,
    is_stored: impl FnOnce(&Subject) -> bool,
) -> Result<(Option<Subject>, Option<Region>), Invalid> {
    let subject = subject_if_known(catalog, &request.subject, is_stored)?;
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

/// Which linked data subjects an answer names.
#[must_use]
pub fn naming(name_linked_persons: bool) -> Naming {
    if name_linked_persons { Naming::Everybody } else { Naming::SamePerson }
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
