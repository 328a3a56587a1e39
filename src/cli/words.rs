//! Values of the protocol as people type and read them: enum values such as `no_record`, times in
//! RFC 3339, bytes in hex, scopes as `PURPOSE:CHANNEL`. For JSON, see [`crate::json`].

use std::{collections::BTreeMap, fmt, time::Duration};

use base64::Engine as _;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use jiff::{
    Timestamp,
    civil::{Date, DateTime, date},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{error::CliError, output::Tone};
pub use crate::tlog::hex;
use crate::{
    domain::{Key, PurposeName},
    json,
    node::{parse_time, parse_time_readings},
    proto::{
        Action, Actor, CatalogEffect, Effect, EventKind, Evidence, FrequencyLimit, HistoryKind,
        LegalBasis, LinkConfidence, NamespaceKind, ObligationKind, Outcome, OutcomeCount,
        PartyRole, PropagationState, Reason, ReceiptFormat, Scope, Snapshot, Status,
    },
    tlog::BASE64,
};

const NANOS_PER_SECOND: i32 = 1_000_000_000;

/// An enum of the protocol.
pub trait Word: Copy + Default + TryFrom<i32> {
    /// Name in the protocol, for example `REASON_NO_RECORD`.
    fn wire_name(self) -> &'static str;
    /// The value with a name of the protocol.
    fn from_wire_name(name: &str) -> Option<Self>;

    /// The prefix of all names. The default value of every enum is `…_UNSPECIFIED`.
    fn prefix() -> &'static str {
        Self::default().wire_name().trim_end_matches("UNSPECIFIED")
    }

    /// The short lower-case name, for example `no_record`.
    fn word(self) -> String {
        self.wire_name().trim_start_matches(Self::prefix()).to_ascii_lowercase()
    }
}

macro_rules! words {
    ($($kind:ident)*) => {
        $(impl Word for $kind {
            fn wire_name(self) -> &'static str {
                self.as_str_name()
            }
            fn from_wire_name(name: &str) -> Option<Self> {
                Self::from_str_name(name)
            }
        })*
    };
}

words! {
    Actor Action Outcome Status Effect Reason LegalBasis NamespaceKind PartyRole EventKind CatalogEffect Snapshot
    PropagationState LinkConfidence HistoryKind ReceiptFormat ObligationKind
}

/// Parser of an option that takes one of an enum's short names, with dashes. The help lists them
/// all.
pub fn parser<W: Word + Send + Sync + 'static>() -> impl TypedValueParser<Value = W> {
    let values = (1..).map_while(|number| W::try_from(number).ok());
    PossibleValuesParser::new(values.map(|value| value.word().replace('_', "-")))
        .try_map(|word| parse::<W>(&word))
}

/// Parses a short name. Dashes stand for underscores; `unspecified` is not accepted.
///
/// # Errors
/// No value has this name.
pub fn parse<W: Word>(text: &str) -> Result<W, String> {
    let upper = text.to_ascii_uppercase().replace('-', "_");
    Some(format!("{}{upper}", W::prefix()))
        .filter(|_| upper != "UNSPECIFIED")
        .and_then(|name| W::from_wire_name(&name))
        .ok_or_else(|| format!("`{text}` is not a known word"))
}

/// The short name of a value on the wire; the number of a value that this build does not know.
pub fn word<W: Word>(value: i32) -> String {
    W::try_from(value).map_or_else(|_| value.to_string(), Word::word)
}

/// Counts by the short name of an outcome, as messages of the protocol, in the order of the names.
#[must_use]
pub fn outcome_counts(by_word: BTreeMap<String, u64>) -> Vec<OutcomeCount> {
    let number = |word: &str| match parse::<Outcome>(word) {
        Ok(outcome) => outcome.into(),
        Err(_) => word.parse().unwrap_or_default(),
    };
    let counts = by_word.into_iter();
    counts.map(|(word, count)| OutcomeCount { outcome: number(&word), count }).collect()
}

/// Serializes [`outcome_counts`], for `#[serde(serialize_with)]`.
pub fn serialize_outcomes<S: Serializer>(
    by_word: &BTreeMap<String, u64>,
    to: S,
) -> Result<S::Ok, S::Error> {
    json::serialize_list(&outcome_counts(by_word.clone()), to)
}

/// Serializes a value by its name in the protocol, for `#[serde(serialize_with)]`.
pub fn serialize_name<W: Word, S: Serializer>(value: &W, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(value.wire_name())
}

/// Bytes: hex for people, base64 in JSON, as in the messages of the protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&BASE64.encode(&self.0))
    }
}

/// Deserializes a value from its short name, for `#[serde(deserialize_with)]`.
pub fn deserialize<'de, W: Word, D: Deserializer<'de>>(from: D) -> Result<W, D::Error> {
    parse(&String::deserialize(from)?).map_err(de::Error::custom)
}

/// Parses `PURPOSE:CHANNEL`, where either may be `*`, and the purpose a class such as `marketing.*`.
///
/// # Errors
/// The text is not a scope.
pub fn scope(text: &str) -> Result<Scope, String> {
    let (purpose, channel) = text.split_once(':').ok_or_else(|| {
        "must be PURPOSE:CHANNEL, for example marketing.newsletter:email".to_owned()
    })?;
    if purpose != "*" {
        PurposeName::check(purpose).map_err(|error| format!("the purpose {error}"))?;
    }
    if channel != "*" {
        Key::check(channel).map_err(|error| format!("the channel {error}"))?;
    }
    Ok(Scope { purpose: purpose.to_owned(), channel: channel.to_owned() })
}

/// Parses exactly one cell, `PURPOSE:CHANNEL`.
///
/// # Errors
/// The text is not a scope.
pub fn cell(text: &str) -> Result<Scope, String> {
    let scope = scope(text)?;
    if scope.purpose.ends_with('*') || scope.channel == "*" {
        return Err("a grant covers exactly one purpose and one channel, never `*`".to_owned());
    }
    Ok(scope)
}

/// A scope as `PURPOSE:CHANNEL`. An absent or empty key stands for all.
#[must_use]
pub fn scope_text(scope: Option<&Scope>) -> String {
    let key = |key: Option<&str>| key.filter(|key| !key.is_empty()).unwrap_or("*").to_owned();
    let purpose = key(scope.map(|scope| scope.purpose.as_str()));
    let channel = key(scope.map(|scope| scope.channel.as_str()));
    format!("{purpose}:{channel}")
}

/// Parses a time in RFC 3339.
///
/// # Errors
/// The text is not a time.
pub fn time(text: &str) -> Result<Timestamp, String> {
    parse_time(text).or_else(|error| after_last_moment(text, &error))
}

/// As [`time`], also if the clocks of its zone show it twice, or skip it.
///
/// # Errors
/// The text is not a time.
pub fn readings(text: &str) -> Result<Readings, String> {
    let read = parse_time_readings(text).or_else(|error| {
        let last = after_last_moment(text, &error)?;
        Ok::<_, String>([last; 2])
    });
    let [earlier, later] = read?;
    Ok(Readings { earlier, later })
}

fn after_last_moment(text: &str, error: &jiff::Error) -> Result<Timestamp, String> {
    let message = format!("must be a time in RFC 3339 such as 2026-01-31T12:00:00Z ({error})");
    is_after_last_moment(text).then_some(Timestamp::MAX).ok_or(message)
}

/// The first and the last moment that a text can mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readings {
    /// The reading for grants.
    pub earlier: Timestamp,
    /// The reading for stops.
    pub later: Timestamp,
}

/// The first of the days that stand for "never".
#[must_use]
pub fn date_of_never() -> Date {
    date(9999, 12, 30)
}

/// Whether a text is a time of the last days that RFC 3339 can write. They are after the last moment of
/// [`Timestamp`].
pub fn is_after_last_moment(text: &str) -> bool {
    let Some((local, offset)) = text.split_at_checked(19) else { return false };
    let is_of_offset =
        |it: char| it.is_ascii_digit() || matches!(it, 'Z' | 'z' | '+' | '-' | ':' | '.');
    let local: Option<DateTime> = local.parse().ok();
    !offset.is_empty()
        && offset.chars().all(is_of_offset)
        && local.is_some_and(|local| local.date() >= date_of_never())
}

/// A time as a message of the protocol.
#[must_use]
pub fn wire_time(time: Timestamp) -> prost_types::Timestamp {
    // Before 1970 both are negative, and the nanoseconds of the protocol never are.
    let (seconds, nanos) = (time.as_second(), time.subsec_nanosecond());
    let borrowed = i64::from(nanos < 0);
    prost_types::Timestamp {
        seconds: seconds - borrowed,
        nanos: nanos.rem_euclid(NANOS_PER_SECOND),
    }
}

/// A time of the protocol in RFC 3339, always with its milliseconds.
#[must_use]
pub fn rfc3339(time: &prost_types::Timestamp) -> String {
    Timestamp::new(time.seconds, time.nanos)
        .map_or_else(|_| time.to_string(), |time| format!("{time:.3}"))
}

/// As [`rfc3339`]; empty if the time is missing.
#[must_use]
pub fn rfc3339_or_empty(time: Option<&prost_types::Timestamp>) -> String {
    time.map(rfc3339).unwrap_or_default()
}

/// Milliseconds since the Unix epoch in RFC 3339.
#[must_use]
pub fn rfc3339_ms(ms: i64) -> String {
    Timestamp::from_millisecond(ms).map_or_else(|_| format!("{ms} ms"), |time| format!("{time:.3}"))
}

/// A duration as a message of the protocol.
///
/// # Errors
/// It is longer than the message can hold.
pub fn wire_span(span: Duration) -> Result<prost_types::Duration, CliError> {
    prost_types::Duration::try_from(span)
        .map_err(|_| CliError::usage(format!("{} is too long", humantime::format_duration(span))))
}

/// A duration of the protocol as text, see [`span`].
#[must_use]
pub fn duration(duration: &prost_types::Duration) -> String {
    let seconds_ms = duration.seconds.saturating_mul(1_000);
    span(seconds_ms.saturating_add(i64::from(duration.nanos / 1_000_000)))
}

/// A duration in milliseconds as text. Whole days are written as days: `humantime` would write
/// years and months, which vary in length.
#[must_use]
pub fn span(ms: i64) -> String {
    const DAY_MS: u64 = 86_400_000;
    let ms = u64::try_from(ms).unwrap_or(0);
    match ms % DAY_MS {
        0 => format!("{}d", ms / DAY_MS),
        _ => humantime::format_duration(Duration::from_millis(ms)).to_string(),
    }
}

/// A minute of the day as `HH:MM`.
#[must_use]
pub fn clock(minute: u32) -> String {
    format!("{:02}:{:02}", minute / 60, minute % 60)
}

/// A frequency limit as text.
#[must_use]
pub fn frequency_limit(limit: &FrequencyLimit) -> String {
    let period = limit.period.as_ref().map(duration).unwrap_or_default();
    format!("at most {} in {period}", limit.uses_max)
}

/// The notice that was shown, as `ID@VERSION`; empty if there was none.
#[must_use]
pub fn notice(evidence: &Evidence) -> String {
    match (evidence.notice_id.as_str(), evidence.notice_version.as_str()) {
        (id, "") => id.to_owned(),
        (id, version) => format!("{id}@{version}"),
    }
}

/// How an effect stands in the first line of an answer. Only ALLOW is green.
pub(super) fn verdict(effect: Effect) -> (Tone, &'static str) {
    match effect {
        Effect::Allow => (Tone::Good, "ALLOW"),
        Effect::NotNow => (Tone::Careful, "NOT NOW"),
        Effect::Deny => (Tone::Bad, "DENY"),
        Effect::Unspecified => (Tone::Bad, "UNSPECIFIED"),
    }
}

/// Why a use is a deviation or not: the reason, and the obligations that it did not meet.
pub(super) fn use_reason(reason: i32, broken_obligations: &[i32]) -> String {
    let broken =
        broken_obligations.iter().map(|kind| format!(", {}", word::<ObligationKind>(*kind)));
    format!("{}{}", word::<Reason>(reason), broken.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_short_and_come_back() {
        assert_eq!(word::<Effect>(1), "allow");
        assert_eq!(Reason::NoRecord.word(), "no_record");
        assert_eq!(parse::<Actor>("guardian"), Ok(Actor::Guardian));
        assert_eq!(parse::<LegalBasis>("legitimate-interest"), Ok(LegalBasis::LegitimateInterest));
        assert!(parse::<Actor>("unspecified").is_err());
        assert!(parse::<Actor>("").is_err());
        assert_eq!(word::<Effect>(99), "99");
    }

    #[test]
    fn scopes_are_purpose_and_channel() {
        for good in ["marketing.newsletter:email", "a:*", "*:email", "*:*", "a.*:email", "a.b.*:*"]
        {
            assert_eq!(scope_text(Some(&scope(good).unwrap())), good);
        }
        for bad in ["", "a", "a:", ":a", "a:b:c", "A:b", "a*:b", "*.a:b"] {
            assert!(scope(bad).is_err(), "{bad:?}");
        }
        assert!(cell("a:b").is_ok());
        assert!(cell("a:*").is_err());
        assert_eq!(scope_text(None), "*:*");
    }

    #[test]
    fn bytes_are_hex_for_people_and_base64_for_scripts() {
        let bytes = Bytes(vec![0, 0xab, 0xff]);
        assert_eq!(bytes.to_string(), "00abff");
        assert_eq!(serde_json::to_string(&bytes).unwrap(), "\"AKv/\"");
    }

    #[test]
    fn days_stay_days() {
        assert_eq!(span(730 * 86_400_000), "730d");
        assert_eq!(span(90_000), "1m 30s");
    }

    #[test]
    fn times_are_rfc_3339() {
        for good in ["2026-07-01T12:00:00-04:00[America/New_York]", "2026-07-01T12:00:00Z"] {
            assert!(time(good).is_ok(), "{good}");
        }
        for bad in ["2026-07-01T12:00:00+02:00[America/New_York]", "2026-07-01", "now"] {
            assert!(time(bad).unwrap_err().starts_with("must be a time in RFC 3339"), "{bad}");
        }
        let before_1970 = wire_time(time("1969-12-31T23:59:59.5Z").unwrap());
        assert_eq!((before_1970.seconds, before_1970.nanos), (-1, 500_000_000));
        assert_eq!(rfc3339(&before_1970), "1969-12-31T23:59:59.500Z");
        let time = time("2026-01-31T12:00:00.5+01:00").unwrap();
        assert_eq!(rfc3339(&wire_time(time)), "2026-01-31T11:00:00.500Z");
        assert_eq!(rfc3339_ms(1), "1970-01-01T00:00:00.001Z");
    }
}
