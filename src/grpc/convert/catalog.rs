//! Catalogue entries in both directions, and the pages of their lists.

use std::{collections::BTreeMap, fmt::Write as _};

use crate::{
    domain::{
        Channel, ChannelPut, Effect, Key, LegalBasis, Obligation, Purpose, PurposeVersion, Region,
    },
    entry,
    node::{Preview, PurposeDraft},
    obligations::is_time_zone,
    proto,
};

use super::{
    DESCRIPTION_BYTES_MAX, Invalid, OBLIGATIONS_MAX, PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX, Problem,
    REGIONS_MAX, SPAN_MS_MAX, TITLE_BYTES_MAX,
    scalar::{
        at_most, check_data_categories, key, legal_basis, region, span_ms_within, text_within,
        without_control,
    },
};

const MINUTES_OF_DAY: u32 = 24 * 60;

/// The purpose that a request asks for. `version` is the ledger's to give and is not read.
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
    if message.title.is_empty() {
        return Err(Problem::Required.at("title"));
    }
    check_title(&message.title)?;
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
        },
        oldest_compatible: Some(message.oldest_compatible_version).filter(|version| *version != 0),
        requires_reconsent: false,
        retired: message.retired,
    })
}

/// The change of a purpose that is to be looked at, and for which region.
///
/// # Errors
/// The first field that is wrong.
pub fn preview(
    request: proto::PreviewPurposeChangeRequest,
) -> Result<(PurposeDraft, Option<Region>), Invalid> {
    let region = region(&request.region, "region")?;
    Ok((purpose_change(request.purpose, request.requires_reconsent)?, region))
}

/// What a change would do.
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
        let here = || format!("basis_by_region[{text}]");
        let region = Region::parse(text).map_err(|error| Problem::from(error).at(here()))?;
        let basis = legal_basis(*number, "basis").map_err(|wrong| wrong.problem.at(here()))?;
        Ok((region, basis))
    };
    message.iter().map(parse).collect()
}

fn check_title(title: &str) -> Result<(), Invalid> {
    text_within(title, TITLE_BYTES_MAX, "title")?;
    without_control(title, "title")
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
            frequency_limit(limit).map_err(|invalid| invalid.within("frequency_limit"))
        }
        Some(Kind::QuietHours(hours)) => {
            quiet_hours(hours).map_err(|invalid| invalid.within("quiet_hours"))
        }
        Some(Kind::PreferredLanguage(_)) => Err(Problem::NotForPurposes.at("preferred_language")),
    }
}

pub(super) fn frequency_limit(limit: proto::FrequencyLimit) -> Result<Obligation, Invalid> {
    if limit.uses_max == 0 {
        return Err(Problem::Zero.at("uses_max"));
    }
    let period = limit.period.ok_or_else(|| Problem::Required.at("period"))?;
    let period_ms = span_ms_within(period, "period", (1, SPAN_MS_MAX))?;
    Ok(Obligation::FrequencyLimit { uses_max: limit.uses_max, period_ms })
}

pub(super) fn quiet_hours(hours: proto::QuietHours) -> Result<Obligation, Invalid> {
    for (minute, field) in [(hours.start_minute, "start_minute"), (hours.end_minute, "end_minute")]
    {
        if minute >= MINUTES_OF_DAY {
            return Err(Problem::Minute(minute).at(field));
        }
    }
    if hours.start_minute == hours.end_minute {
        return Err(Problem::EmptySpan.at("end_minute"));
    }
    if !hours.time_zone.is_empty() && !is_time_zone(&hours.time_zone) {
        return Err(Problem::TimeZone.at("time_zone"));
    }
    Ok(Obligation::QuietHours {
        start_minute: hours.start_minute,
        end_minute: hours.end_minute,
        time_zone: hours.time_zone,
    })
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

/// A purpose on the wire, with what its current version says.
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
    }
}

/// A channel on the wire.
#[must_use]
pub fn channel_message(channel: &Channel) -> proto::Channel {
    proto::Channel {
        key: channel.key.to_string(),
        title: channel.title.clone(),
        retired: channel.retired,
    }
}

/// Which list a page token belongs to. A token is good for one list and one question only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListKind {
    /// Purposes, with or without retired ones.
    Purposes {
        /// Whether retired ones are listed too.
        show_retired: bool,
    },
    /// Channels, with or without retired ones.
    Channels {
        /// Whether retired ones are listed too.
        show_retired: bool,
    },
}

impl ListKind {
    fn tag(self) -> &'static str {
        match self {
            Self::Purposes { show_retired: false } => "p0",
            Self::Purposes { show_retired: true } => "p1",
            Self::Channels { show_retired: false } => "c0",
            Self::Channels { show_retired: true } => "c1",
        }
    }
}

/// A page that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The greatest number of rows.
    pub size: usize,
    /// The last key of the page before.
    pub after: Option<Key>,
}

/// The page that a request asks for.
///
/// # Errors
/// A size that is negative or over the limit, or a token that is none of this list's.
pub fn page(kind: ListKind, size: i32, token: &str) -> Result<Page, Invalid> {
    Ok(Page {
        size: page_size(size)?,
        after: match token {
            "" => None,
            token => {
                Some(key_of_token(kind, token).ok_or_else(|| Problem::PageToken.at("page_token"))?)
            }
        },
    })
}

/// The greatest number of rows that a request wants on a page.
pub(super) fn page_size(size: i32) -> Result<usize, Invalid> {
    let size = match size {
        0 => PAGE_SIZE_DEFAULT,
        size if size > PAGE_SIZE_MAX => return Err(Problem::PageSize(size).at("page_size")),
        size => size,
    };
    usize::try_from(size).map_err(|_| Problem::Negative.at("page_size"))
}

/// The token of the page after the one that ends with this key.
#[must_use]
pub fn next_page_token(kind: ListKind, last: &Key) -> String {
    let mut token = kind.tag().to_owned();
    for byte in last.as_str().bytes() {
        let _ = write!(token, "{byte:02x}"); // Writing to a `String` can not fail.
    }
    token
}

fn key_of_token(kind: ListKind, token: &str) -> Option<Key> {
    let digits = token.strip_prefix(kind.tag())?;
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = digits.as_bytes().chunks(2).map(byte).collect();
    let key = Key::parse(std::str::from_utf8(&bytes?).ok()?).ok()?;
    // One token a key: `AF` and `+f` read as numbers too, but this list never gave them.
    (next_page_token(kind, &key) == token).then_some(key)
}
