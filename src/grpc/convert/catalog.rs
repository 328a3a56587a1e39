//! Entries of the catalogue in both directions.

use std::collections::BTreeMap;

use crate::{
    domain::{
        Channel, ChannelPut, Effect, FrequencyCap, LegalBasis, Namespace, NamespaceKind,
        Obligation, PhoneRegion, Purpose, PurposeVersion, QuietSpan, Region,
    },
    entry,
    node::{ClockCorrectionOutcome, CorrectClock, NamespaceDraft, Preview, PurposeDraft},
    obligations::is_time_zone,
    proto,
};

use super::{
    DESCRIPTION_BYTES_MAX, Invalid, OBLIGATIONS_MAX, Problem, REGIONS_MAX, SPAN_MS_MAX,
    TITLE_BYTES_MAX,
    party::{controller, recipients},
    scalar::{
        at_most, check_data_categories, key, legal_basis, line_within, region, span_ms_within,
        text_within, visible_line_within,
    },
};

const MINUTES_OF_DAY: u32 = 24 * 60;

/// The correction of the clock that a request asks for.
///
/// # Errors
/// The first field that is wrong.
pub fn clock_correction(request: proto::CorrectClockRequest) -> Result<CorrectClock, Invalid> {
    let proto::CorrectClockRequest { first_index, end_index, reason, dry_run } = request;
    if first_index == 0 {
        return Err(Problem::Required.at("first_index"));
    }
    if end_index.is_some_and(|end| end <= first_index) {
        return Err(Problem::EndNotAfterFirst.at("end_index"));
    }
    if reason.is_empty() {
        return Err(Problem::Required.at("reason"));
    }
    line_within(&reason, TITLE_BYTES_MAX, "reason")?;
    Ok(CorrectClock { first_index, end_index, reason, dry_run })
}

/// The answer to a correction of the clock.
#[must_use]
pub fn clock_corrected(outcome: &ClockCorrectionOutcome) -> proto::CorrectClockResponse {
    proto::CorrectClockResponse {
        index: outcome.index,
        revision: outcome.revision,
        changed: outcome.changed,
        first_index: outcome.entries.start,
        end_index: outcome.entries.end,
        right_until: Some(entry::timestamp(outcome.right_until)),
        right_again: Some(entry::timestamp(outcome.right_again)),
        subject_count: outcome.subjects,
    }
}

/// The purpose that a request asks for. `version` is not read: the ledger assigns it.
///
/// # Errors
/// The first field that is wrong.
pub fn purpose_draft(request: proto::PutPurposeRequest) -> Result<PurposeDraft, Invalid> {
    purpose_change(request.purpose, request.requires_reconsent)
}

/// The purpose that a change would make.
///
/// # Errors
/// The first field that is wrong.
pub fn purpose_change(
    message: Option<proto::Purpose>,
    requires_reconsent: bool,
) -> Result<PurposeDraft, Invalid> {
    let message = message.ok_or_else(|| Problem::Required.at("purpose"))?;
    if requires_reconsent && message.oldest_compatible_version != 0 {
        let excluded = Problem::NotWith("purpose.oldest_compatible_version");
        return Err(excluded.at("requires_reconsent"));
    }
    let draft = draft(message).map_err(|invalid| invalid.within("purpose"))?;
    Ok(PurposeDraft { requires_reconsent, ..draft })
}

fn draft(message: proto::Purpose) -> Result<PurposeDraft, Invalid> {
    let key = key(&message.key, "key")?;
    visible_line_within(&message.title, TITLE_BYTES_MAX, "title")?;
    text_within(&message.description, DESCRIPTION_BYTES_MAX, "description")?;
    check_data_categories(&message.data_categories)?;
    let default_validity_ms = message
        .default_validity
        .map(|span| span_ms_within(span, "default_validity", (1, SPAN_MS_MAX)))
        .transpose()?;
    Ok(PurposeDraft {
        key,
        content: PurposeVersion {
            legal_basis: legal_basis(message.legal_basis, "legal_basis")?,
            basis_by_region: bases(&message.basis_by_region)?,
            title: message.title,
            description: message.description,
            data_categories: message.data_categories,
            default_validity_ms,
            double_opt_in: message.double_opt_in,
            obligations: obligations(message.obligations)?,
            controller: controller(&message.controller)?,
            recipients: message.recipients.as_ref().map(recipients).transpose()?,
        },
        oldest_compatible: Some(message.oldest_compatible_version).filter(|version| *version != 0),
        requires_reconsent: false,
        retired: message.retired,
    })
}

/// The change of a purpose to preview, and the region for which.
///
/// # Errors
/// The first field that is wrong.
pub fn preview(
    request: proto::PreviewPurposeChangeRequest,
) -> Result<(PurposeDraft, Option<Region>), Invalid> {
    let region = region(&request.region, "region")?;
    Ok((purpose_change(request.purpose, request.requires_reconsent)?, region))
}

/// The effects of a change.
#[must_use]
pub fn preview_response(preview: &Preview) -> proto::PreviewPurposeChangeResponse {
    let number = |reason| proto::Reason::from(reason).into();
    let flips = preview.flips.iter().map(|flips| proto::CellFlips {
        channel: flips.channel.to_string(),
        before: number(flips.before),
        after: number(flips.after),
        count: flips.count,
    });
    let (before, after) = preview.unknown_subject;
    proto::PreviewPurposeChangeResponse {
        cells: preview.cells,
        would_allow: preview.turned(Effect::Allow),
        would_deny: preview.turned(Effect::Deny),
        flips: flips.collect(),
        unknown_subject: Some(proto::CellFlips {
            channel: String::new(),
            before: number(before),
            after: number(after),
            count: 1,
        }),
        version: preview.version,
        changed: preview.changed,
        revision: preview.revision,
    }
}

fn bases(message: &BTreeMap<String, i32>) -> Result<BTreeMap<Region, LegalBasis>, Invalid> {
    at_most(message.len(), REGIONS_MAX, "basis_by_region")?;
    let parse = |(text, number): (&String, &i32)| {
        let field = || format!("basis_by_region[{text}]");
        let region = Region::parse(text).map_err(|error| Problem::from(error).at(field()))?;
        let basis = legal_basis(*number, "basis").map_err(|invalid| invalid.problem.at(field()))?;
        Ok((region, basis))
    };
    message.iter().map(parse).collect()
}

fn check_title(title: &str) -> Result<(), Invalid> {
    line_within(title, TITLE_BYTES_MAX, "title")
}

fn obligations(messages: Vec<proto::Obligation>) -> Result<Vec<Obligation>, Invalid> {
    at_most(messages.len(), OBLIGATIONS_MAX, "obligations")?;
    let with_position = |(position, message)| {
        obligation(message).map_err(|invalid| invalid.within(format!("obligations[{position}]")))
    };
    messages.into_iter().enumerate().map(with_position).collect()
}

fn obligation(message: proto::Obligation) -> Result<Obligation, Invalid> {
    use proto::obligation::Kind;
    match message.kind {
        None => Err(Problem::Required.at("kind")),
        Some(Kind::FrequencyLimit(limit)) => {
            let FrequencyCap { uses_max, period_ms } =
                frequency_cap(limit).map_err(|invalid| invalid.within("frequency_limit"))?;
            Ok(Obligation::FrequencyLimit { uses_max, period_ms })
        }
        Some(Kind::QuietHours(hours)) => {
            quiet_hours(hours).map_err(|invalid| invalid.within("quiet_hours"))
        }
        Some(Kind::PreferredLanguage(_)) => Err(Problem::NotForPurposes.at("preferred_language")),
    }
}

pub(super) fn frequency_cap(limit: proto::FrequencyLimit) -> Result<FrequencyCap, Invalid> {
    if limit.uses_max == 0 {
        return Err(Problem::Zero.at("uses_max"));
    }
    let period = limit.period.ok_or_else(|| Problem::Required.at("period"))?;
    let period_ms = span_ms_within(period, "period", (1, SPAN_MS_MAX))?;
    Ok(FrequencyCap { uses_max: limit.uses_max, period_ms })
}

fn quiet_hours(hours: proto::QuietHours) -> Result<Obligation, Invalid> {
    let QuietSpan { start_minute, end_minute } = quiet_span(&hours)?;
    if !hours.time_zone.is_empty() && !is_time_zone(&hours.time_zone) {
        return Err(Problem::TimeZone.at("time_zone"));
    }
    Ok(Obligation::QuietHours { start_minute, end_minute, time_zone: hours.time_zone })
}

pub(super) fn quiet_span(hours: &proto::QuietHours) -> Result<QuietSpan, Invalid> {
    let proto::QuietHours { start_minute, end_minute, .. } = *hours;
    for (minute, field) in [(start_minute, "start_minute"), (end_minute, "end_minute")] {
        if minute >= MINUTES_OF_DAY {
            return Err(Problem::Minute(minute).at(field));
        }
    }
    if start_minute == end_minute {
        return Err(Problem::EmptySpan.at("end_minute"));
    }
    Ok(QuietSpan { start_minute, end_minute })
}

/// The channel that a request asks for.
///
/// # Errors
/// The first field that is wrong.
pub fn channel(request: proto::PutChannelRequest) -> Result<ChannelPut, Invalid> {
    let message = request.channel.ok_or_else(|| Problem::Required.at("channel"))?;
    channel_put(message).map_err(|invalid| invalid.within("channel"))
}

fn channel_put(message: proto::Channel) -> Result<ChannelPut, Invalid> {
    let key = key(&message.key, "key")?;
    if key.as_str().contains('.') {
        return Err(Problem::NotOneWord.at("key"));
    }
    check_title(&message.title)?;
    Ok(ChannelPut { key, title: message.title, retired: message.retired })
}

/// The namespace that a request asks for.
///
/// # Errors
/// The first field that is wrong.
pub fn namespace_draft(request: proto::PutNamespaceRequest) -> Result<NamespaceDraft, Invalid> {
    let message = request.namespace.ok_or_else(|| Problem::Required.at("namespace"))?;
    namespace(message).map_err(|invalid| invalid.within("namespace"))
}

fn namespace(message: proto::Namespace) -> Result<NamespaceDraft, Invalid> {
    let key = key(&message.key, "key")?;
    check_title(&message.title)?;
    let kind = namespace_kind(&message)?;
    // A setting of another kind would be forgotten in silence.
    if !message.default_region.is_empty() && !matches!(kind, NamespaceKind::Phone { .. }) {
        return Err(Problem::OnlyForKind("PHONE").at("default_region"));
    }
    if message.fold_local_part.is_some() && !matches!(kind, NamespaceKind::Email { .. }) {
        return Err(Problem::OnlyForKind("EMAIL").at("fold_local_part"));
    }
    Ok(NamespaceDraft { key, title: message.title, kind })
}

fn namespace_kind(message: &proto::Namespace) -> Result<NamespaceKind, Invalid> {
    match proto::NamespaceKind::try_from(message.kind) {
        Ok(proto::NamespaceKind::Email) => {
            Ok(NamespaceKind::Email { fold_local_part: message.fold_local_part.unwrap_or(true) })
        }
        Ok(proto::NamespaceKind::Phone) => {
            let region = Some(message.default_region.as_str()).filter(|region| !region.is_empty());
            let region = region.map(PhoneRegion::parse).transpose();
            let default_region =
                region.map_err(|error| Problem::from(error).at("default_region"))?;
            Ok(NamespaceKind::Phone { default_region })
        }
        Ok(proto::NamespaceKind::Domain) => Ok(NamespaceKind::Domain),
        Ok(proto::NamespaceKind::Opaque) => Ok(NamespaceKind::Opaque),
        Ok(proto::NamespaceKind::Unspecified) => Err(Problem::Required.at("kind")),
        Err(_) => Err(Problem::UnknownValue(message.kind).at("kind")),
    }
}

/// A namespace as a message.
#[must_use]
pub fn namespace_message(namespace: &Namespace) -> proto::Namespace {
    let (kind, default_region, fold_local_part) = entry::namespace_kind_to_proto(namespace.kind);
    let is_email = kind == proto::NamespaceKind::Email;
    proto::Namespace {
        key: namespace.key.to_string(),
        title: namespace.title.clone(),
        kind: kind.into(),
        default_region,
        fold_local_part: is_email.then_some(fold_local_part),
        canonical_form_version: namespace.form_version,
    }
}

/// A purpose as a message, with the content of its current version.
#[must_use]
pub fn purpose_message(purpose: &Purpose) -> proto::Purpose {
    let current = purpose.current();
    proto::Purpose {
        key: purpose.key.to_string(),
        title: current.title.clone(),
        description: current.description.clone(),
        legal_basis: proto::LegalBasis::from(current.legal_basis).into(),
        data_categories: current.data_categories.clone(),
        default_validity: current.default_validity_ms.map(entry::duration),
        double_opt_in: current.double_opt_in,
        oldest_compatible_version: purpose.oldest_compatible,
        retired: purpose.retired,
        obligations: current.obligations.iter().map(entry::obligation_to_proto).collect(),
        version: purpose.version(),
        basis_by_region: entry::bases_to_proto(&current.basis_by_region),
        controller: entry::controller_to_proto(current),
        recipients: entry::recipients_to_proto(current),
    }
}

/// A channel as a message.
#[must_use]
pub fn channel_message(channel: &Channel) -> proto::Channel {
    proto::Channel {
        key: channel.key.to_string(),
        title: channel.title.clone(),
        retired: channel.retired,
    }
}
