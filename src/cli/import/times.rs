//! Formats of times in other systems.
//!
//! A local time can be ambiguous: clocks repeat an hour when summer time ends, and skip one when it
//! begins. Both readings are kept: a stop takes the later one, a grant the earlier one.

use jiff::{
    Timestamp,
    civil::{DateTime, date},
    fmt::strtime::{self, BrokenDownTime},
    tz::TimeZone,
};
use serde::Deserialize;

use crate::node::LikelyCause;

/// A column of times in the mapping.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTime {
    /// Name of the column.
    pub column: String,
    /// `rfc3339`, `unix_s`, `unix_ms`, or a pattern of `strptime`.
    #[serde(default = "rfc3339")]
    pub format: String,
    /// Time zone of times without one.
    pub time_zone: Option<String>,
}

fn rfc3339() -> String {
    "rfc3339".to_owned()
}

/// A format of times.
#[derive(Debug)]
pub(super) enum TimeFormat {
    Rfc3339,
    UnixSeconds,
    UnixMillis,
    Pattern(String, Option<TimeZone>),
}

/// The readings of a time. They differ only for a local time that clocks repeat or skip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Readings {
    /// The reading for grants.
    pub earlier: Timestamp,
    /// The reading for stops.
    pub later: Timestamp,
}

impl From<Timestamp> for Readings {
    fn from(time: Timestamp) -> Self {
        Self { earlier: time, later: time }
    }
}

/// Parts of a pattern that give the offset from UTC.
const OFFSETS: [&str; 5] = ["%z", "%:z", "%Q", "%:Q", "%s"];

impl TimeFormat {
    /// Parses a format.
    pub(super) fn new(raw: RawTime) -> Result<Self, String> {
        let format = match raw.format.as_str() {
            "rfc3339" => Self::Rfc3339,
            "unix_s" => Self::UnixSeconds,
            "unix_ms" => Self::UnixMillis,
            pattern if pattern.contains('%') => return Self::pattern(pattern, raw.time_zone),
            other => {
                return Err(format!(
                    "the format `{other}` is not `rfc3339`, `unix_s`, `unix_ms`, or a pattern \
                     such as %d.%m.%Y"
                ));
            }
        };
        match raw.time_zone {
            None => Ok(format),
            Some(_) => Err(format!("`{}` has no need of a `time_zone`", raw.format)),
        }
    }

    fn pattern(pattern: &str, zone: Option<String>) -> Result<Self, String> {
        probe(pattern)?;
        let zone = zone
            .map(|name| {
                TimeZone::get(&name).map_err(|_| format!("`{name}` is not an IANA time zone"))
            })
            .transpose()?;
        if zone.is_none() && !OFFSETS.iter().any(|offset| pattern.contains(offset)) {
            return Err(format!(
                "`{pattern}` says no time zone: add one, for example time_zone = \"Europe/Berlin\""
            ));
        }
        Ok(Self::Pattern(pattern.to_owned(), zone))
    }

    /// Parses a time.
    pub(super) fn read(&self, text: &str) -> Result<Readings, String> {
        let unix = |of: fn(i64) -> Result<Timestamp, jiff::Error>| {
            text.parse().ok().and_then(|number| of(number).ok()).map(Readings::from)
        };
        let read = match self {
            Self::Rfc3339 => text.parse::<Timestamp>().ok().map(Readings::from),
            Self::UnixSeconds => unix(Timestamp::from_second),
            Self::UnixMillis => unix(Timestamp::from_millisecond),
            Self::Pattern(pattern, zone) => read_pattern(text, pattern, zone.as_ref()),
        };
        read.ok_or_else(|| {
            let seconds = text.parse().ok().filter(|_| matches!(self, Self::UnixSeconds));
            let cause = seconds.and_then(LikelyCause::of_seconds);
            let hint = cause.map_or_else(String::new, |cause| format!("; it looks like {cause}"));
            format!("`{text}` is not a time in the form {}{hint}", self.name())
        })
    }

    fn name(&self) -> &str {
        match self {
            Self::Rfc3339 => "of RFC 3339, such as 2026-01-31T12:00:00Z",
            Self::UnixSeconds => "unix_s",
            Self::UnixMillis => "unix_ms",
            Self::Pattern(pattern, _) => pattern,
        }
    }
}

fn read_pattern(text: &str, pattern: &str, zone: Option<&TimeZone>) -> Option<Readings> {
    let parts: BrokenDownTime = strtime::parse(pattern, text).ok()?;
    if let Ok(time) = parts.to_timestamp() {
        return Some(time.into());
    }
    let moment = zone?.to_ambiguous_timestamp(local(&parts)?);
    Some(Readings { earlier: moment.earlier().ok()?, later: moment.later().ok()? })
}

/// The local time; for a date without time, its first moment.
fn local(parts: &BrokenDownTime) -> Option<DateTime> {
    let is_date = [parts.hour(), parts.minute(), parts.second()].iter().all(Option::is_none);
    match is_date {
        true => parts.to_date().ok().map(|date| date.at(0, 0, 0, 0)),
        false => parts.to_datetime().ok(),
    }
}

/// Formats and parses a time in the morning and one in the afternoon. A pattern that confuses the two
/// would silently misdate half of the rows.
fn probe(pattern: &str) -> Result<(), String> {
    let mut probes = Vec::new();
    for hour in [4, 16] {
        let time = date(2001, 2, 3).at(hour, 5, 6, 0).to_zoned_datetime(TimeZone::UTC);
        let time = time.map_err(|error| error.to_string())?;
        let text = strtime::format(pattern, &time)
            .map_err(|error| format!("`{pattern}` is not a pattern ({error})"))?;
        let read = read_pattern(&text, pattern, Some(&TimeZone::UTC))
            .ok_or_else(|| format!("`{pattern}` does not make a time"))?;
        let is_date = read.earlier.to_zoned_datetime(TimeZone::UTC).hour() == 0;
        probes.push((text, is_date));
    }
    match probes.as_slice() {
        [(morning, false), (afternoon, _)] if morning == afternoon => {
            Err(format!("`{pattern}` does not tell morning from afternoon"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(format: &str, zone: Option<&str>) -> Result<TimeFormat, String> {
        let (column, format) = ("a".to_owned(), format.to_owned());
        TimeFormat::new(RawTime { column, format, time_zone: zone.map(ToOwned::to_owned) })
    }

    #[test]
    fn times_are_read_in_every_form() {
        let berlin = Some("Europe/Berlin");
        for (form, zone, text, want) in [
            ("rfc3339", None, "2026-07-01T12:00:00+02:00", "2026-07-01T10:00:00Z"),
            ("unix_s", None, "1782900000", "2026-07-01T10:00:00Z"),
            ("unix_ms", None, "1782900000500", "2026-07-01T10:00:00.5Z"),
            ("%d.%m.%Y %H:%M", berlin, "01.07.2026 12:00", "2026-07-01T10:00:00Z"),
            ("%m/%d/%y %I:%M %p", berlin, "07/01/26 12:00 pm", "2026-07-01T10:00:00Z"),
            ("%d.%m.%Y", berlin, "01.12.2026", "2026-11-30T23:00:00Z"),
            ("%Y-%m-%d %H:%M:%S %z", None, "2026-07-01 12:00:00 +0200", "2026-07-01T10:00:00Z"),
        ] {
            let read = format(form, zone).unwrap().read(text).unwrap();
            assert_eq!(read.earlier.to_string(), want, "{form}");
            assert_eq!(read.later, read.earlier, "{form}");
        }
    }

    #[test]
    fn a_local_time_that_clocks_repeat_or_skip_has_two_readings() {
        for (pattern, zone, text, earlier, later) in [
            (
                "%Y-%m-%d %H:%M",
                "Europe/Vienna",
                "2024-10-27 02:30",
                "2024-10-27T00:30:00Z",
                "2024-10-27T01:30:00Z",
            ),
            (
                "%Y-%m-%d %H:%M",
                "Europe/Vienna",
                "2024-03-31 02:30",
                "2024-03-31T00:30:00Z",
                "2024-03-31T01:30:00Z",
            ),
            (
                "%m/%d/%Y %I:%M %p",
                "America/New_York",
                "11/03/2024 1:30 am",
                "2024-11-03T05:30:00Z",
                "2024-11-03T06:30:00Z",
            ),
            // Clocks shift by half an hour.
            (
                "%Y-%m-%d %H:%M",
                "Australia/Lord_Howe",
                "2024-04-07 01:45",
                "2024-04-06T14:45:00Z",
                "2024-04-06T15:15:00Z",
            ),
            // Midnight does not exist; the first moment of the day is meant.
            (
                "%Y-%m-%d",
                "Africa/Cairo",
                "2024-04-26",
                "2024-04-25T21:00:00Z",
                "2024-04-25T22:00:00Z",
            ),
        ] {
            let read = format(pattern, Some(zone)).unwrap().read(text).unwrap();
            assert_eq!(read.earlier.to_string(), earlier, "{text}");
            assert_eq!(read.later.to_string(), later, "{text}");
        }
        // An offset says which one is meant.
        let read = format("%Y-%m-%d %H:%M %z", None).unwrap().read("2024-10-27 02:30 +0100");
        assert_eq!(read.unwrap().earlier, read_rfc3339("2024-10-27T01:30:00Z"));
    }

    fn read_rfc3339(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn invalid_times_are_errors() {
        for (form, zone, text) in [
            ("rfc3339", None, "2026-07-01T12:00:00"),
            ("unix_s", None, "1.5"),
            ("unix_s", None, "99999999999999"),
            ("%d.%m.%Y", Some("Europe/Berlin"), "31.02.2026"),
            ("%d.%m.%Y", Some("Europe/Berlin"), "07/01/2026"),
        ] {
            assert!(format(form, zone).unwrap().read(text).is_err(), "{form} {text}");
        }
    }

    #[test]
    fn milliseconds_in_the_place_of_seconds_are_named() {
        let error = format("unix_s", None).unwrap().read("1782900000500").unwrap_err();
        assert!(error.ends_with("it looks like milliseconds that were read as seconds"), "{error}");
    }

    #[test]
    fn no_time_zone_is_guessed() {
        for (form, zone, want) in [
            ("%d.%m.%Y", None, "says no time zone"),
            ("%d.%m.%Y", Some("Europe/Atlantis"), "not an IANA time zone"),
            ("unix_s", Some("Europe/Berlin"), "no need of"),
            ("%J", None, "is not a pattern"),
            ("%d.%m.", Some("Europe/Berlin"), "does not make a time"),
            ("%d.%m.%Y %I:%M", Some("Europe/Berlin"), "does not"),
            ("iso", None, "the format `iso`"),
        ] {
            let error = format(form, zone).unwrap_err();
            assert!(error.contains(want), "{form}: {error}");
        }
    }
}
