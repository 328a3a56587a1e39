//! Moments, spans, texts and enums.

use std::time::Duration;

use crate::{
    domain::{self, Catalog, Key, KeyError, Millis, PurposeName, Region, Subject, SubjectError},
    near::near_or_of_kind,
    node::LikelyCause,
    proto,
};

use super::{DATA_CATEGORIES_MAX, Invalid, Problem};

/// 0001-01-01T00:00:00Z.
const TIMESTAMP_SECONDS_MIN: i64 = -62_135_596_800;
/// 9999-12-31T23:59:59Z.
const TIMESTAMP_SECONDS_MAX: i64 = 253_402_300_799;
const NANOS_PER_MILLI: i32 = 1_000_000;
const NANOS_PER_SECOND: i32 = 1_000_000_000;

/// A moment as the ledger keeps it: cut to milliseconds.
pub(super) fn moment(
    timestamp: prost_types::Timestamp,
    field: &'static str,
) -> Result<Millis, Invalid> {
    let seconds_fit = (TIMESTAMP_SECONDS_MIN..=TIMESTAMP_SECONDS_MAX).contains(&timestamp.seconds);
    if let (false, Some(cause)) = (seconds_fit, LikelyCause::of_seconds(timestamp.seconds)) {
        return Err(Problem::TimestampOf(cause).at(field));
    }
    if !seconds_fit || !(0..NANOS_PER_SECOND).contains(&timestamp.nanos) {
        return Err(Problem::Timestamp.at(field));
    }
    Ok(Millis(timestamp.seconds * 1_000 + i64::from(timestamp.nanos / NANOS_PER_MILLI)))
}

/// A span in whole milliseconds, 0 or more.
pub(super) fn span_ms(span: prost_types::Duration, field: &'static str) -> Result<i64, Invalid> {
    let one_sign = span.seconds == 0 || span.nanos == 0 || (span.seconds < 0) == (span.nanos < 0);
    if !one_sign || span.nanos <= -NANOS_PER_SECOND || span.nanos >= NANOS_PER_SECOND {
        return Err(Problem::Duration.at(field));
    }
    if span.seconds < 0 || span.nanos < 0 {
        return Err(Problem::Negative.at(field));
    }
    if span.nanos % NANOS_PER_MILLI != 0 {
        return Err(Problem::SubMillisecond.at(field));
    }
    // A saturated span is over every limit, as the exact one would be.
    Ok(span.seconds.saturating_mul(1_000).saturating_add((span.nanos / NANOS_PER_MILLI).into()))
}

/// A span in whole milliseconds, within limits.
pub(super) fn span_ms_within(
    span: prost_types::Duration,
    field: &'static str,
    (min_ms, max_ms): (i64, i64),
) -> Result<i64, Invalid> {
    let got_ms = span_ms(span, field)?;
    if got_ms == 0 && min_ms > 0 {
        return Err(Problem::Zero.at(field));
    }
    if !(min_ms..=max_ms).contains(&got_ms) {
        return Err(Problem::SpanOutside { min_ms, max_ms, got_ms }.at(field));
    }
    Ok(got_ms)
}

/// A span that is known to be 0 or more, for timers.
pub(super) fn std_duration(span_ms: i64) -> Duration {
    Duration::from_millis(span_ms.unsigned_abs())
}

/// The data subject that a caller means.
pub(super) fn subject(
    catalog: &Catalog,
    text: &str,
    field: &'static str,
) -> Result<Subject, Invalid> {
    catalog.subject(text).map_err(|error| {
        let mut problem = Problem::from(error);
        if let Problem::UnknownNamespace { namespace, near: meant } = &mut problem {
            let known: Vec<_> =
                catalog.namespaces().map(|known| (known.key.as_str(), known.kind.name())).collect();
            *meant = near_or_of_kind(namespace.as_str(), &known);
        }
        problem.at(field)
    })
}

/// The data subject of a question; none if the catalogue lacks its namespace. `is_stored` knows some of the
/// data subjects that are stored.
///
/// # Errors
/// The text is no data subject.
pub(super) fn subject_if_known(
    catalog: &Catalog,
    text: &str,
    is_stored: impl FnOnce(&Subject) -> bool,
) -> Result<Option<Subject>, Invalid> {
    match catalog.subject_unless_stored(text, is_stored) {
        Ok(subject) => Ok(Some(subject)),
        Err(SubjectError::UnknownNamespace(_)) => Ok(None),
        Err(error) => Err(Problem::from(error).at("subject")),
    }
}

/// A key that may not be `*`.
///
/// # Errors
/// [`Problem::Key`], or [`Problem::Wildcard`].
pub fn key(text: &str, field: &str) -> Result<Key, Invalid> {
    Key::parse(text).map_err(|error| key_problem(text, error).at(field))
}

/// A purpose or a class, of a stop or filter.
pub fn purpose_name(text: &str, field: &str) -> Result<PurposeName, Invalid> {
    PurposeName::parse(text).map_err(|error| key_problem(text, error).at(field))
}

/// As [`key`], without a copy, for questions.
pub(super) fn check_key(text: &str, field: &'static str) -> Result<(), Invalid> {
    Key::check(text).map_err(|error| key_problem(text, error).at(field))
}

fn key_problem(text: &str, error: KeyError) -> Problem {
    let meant = text.trim().to_lowercase();
    match Key::check(&meant) {
        _ if text == "*" || PurposeName::check(text).is_ok() => Problem::Wildcard,
        Ok(()) => Problem::MisspeltKey { error, meant },
        Err(_) => Problem::Key(error),
    }
}

/// Data categories are dotted words, like keys, and as long.
pub(super) fn check_data_categories(categories: &[String]) -> Result<(), Invalid> {
    at_most(categories.len(), DATA_CATEGORIES_MAX, "data_categories")?;
    for (position, category) in categories.iter().enumerate() {
        Key::check(category)
            .map_err(|error| Problem::Key(error).at(format!("data_categories[{position}]")))?;
    }
    Ok(())
}

pub(super) fn at_most(got: usize, limit: usize, field: &'static str) -> Result<(), Invalid> {
    if got <= limit { Ok(()) } else { Err(Problem::TooMany { limit, got }.at(field)) }
}

pub(super) fn text_within(text: &str, limit: usize, field: &'static str) -> Result<(), Invalid> {
    let got = text.len();
    if got <= limit { Ok(()) } else { Err(Problem::TooLong { limit, got }.at(field)) }
}

/// A text of limited length without control characters.
pub(super) fn line_within(text: &str, limit: usize, field: &'static str) -> Result<(), Invalid> {
    text_within(text, limit, field)?;
    if text.chars().any(char::is_control) {
        return Err(Problem::ControlCharacter.at(field));
    }
    Ok(())
}

/// A line that people read, so not only spaces and invisible characters.
pub(super) fn visible_line_within(
    text: &str,
    limit: usize,
    field: &'static str,
) -> Result<(), Invalid> {
    if domain::trimmed(text).is_empty() {
        return Err(Problem::Required.at(field));
    }
    line_within(text, limit, field)
}

/// Enums of the protocol as enums of the domain. Unknown numbers and UNSPECIFIED are errors: a request
/// must be explicit.
macro_rules! incoming {
    ($($name:ident, $domain:path, $proto:path: $($variant:ident)+;)+) => {$(
        pub(super) fn $name(number: i32, field: &'static str) -> Result<$domain, Invalid> {
            use $domain as To;
            use $proto as From;
            match From::try_from(number) {
                $(Ok(From::$variant) => Ok(To::$variant),)+
                Ok(From::Unspecified) => Err(Problem::Required.at(field)),
                Err(_) => Err(Problem::UnknownValue(number).at(field)),
            }
        }
    )+};
}

/// The action of a change. Actions that only the ledger performs are refused.
pub(super) fn action(number: i32, field: &'static str) -> Result<domain::Action, Invalid> {
    let action = proto::Action::try_from(number).map_err(|_| Problem::UnknownValue(number));
    match action.map_err(|problem| problem.at(field))?.try_into() {
        Ok(domain::Action::Expire) => Err(Problem::LedgerAlone.at(field)),
        Ok(action) => Ok(action),
        Err(()) => Err(Problem::Required.at(field)),
    }
}

/// An optional region.
pub(super) fn region(text: &str, field: &'static str) -> Result<Option<Region>, Invalid> {
    if text.is_empty() {
        return Ok(None);
    }
    Region::parse(text).map(Some).map_err(|error| Problem::from(error).at(field))
}

incoming! {
    actor, domain::Actor, proto::Actor: Subject Guardian Agent Operator System Import;
    legal_basis, domain::LegalBasis, proto::LegalBasis:
        Consent Contract LegalObligation VitalInterest PublicTask LegitimateInterest;
    event_kind, domain::EventKind, proto::EventKind:
        Grant Refuse Withdraw Object Expire Link Catalog Preferences Overdue;
    party_role, domain::PartyRole, proto::PartyRole: Controller Recipient;
    link_confidence, domain::LinkConfidence, proto::LinkConfidence: Verified Asserted;
}
