//! Formats of times in other systems.
//!
//! A text says a time only to its last unit: a day, a minute, a second. And a local time can be ambiguous:
//! clocks repeat an hour when summer time ends, and skip one when it begins. The first and the last moment
//! that a text can mean are kept: a stop takes the last one, a grant the first one.

use jiff::{
    SignedDuration, Timestamp,
    civil::{DateTime, date},
    fmt::strtime::{self, BrokenDownTime},
    tz::TimeZone,
};
use serde::Deserialize;

use crate::{
    cli::words::{Readings, date_of_never, is_after_last_moment},
    node::{LikelyCause, parse_time_readings},
};

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

impl Readings {
    /// A time that is known to its unit.
    fn within(unit: Unit, time: Timestamp) -> Self {
        Self { earlier: time, later: unit.last_moment(time) }
    }
}

/// The last unit of a time that a text says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Day,
    Hour,
    Minute,
    /// A second with so many decimals.
    Second(u32),
}

impl Unit {
    /// From the first moment of a unit to its last millisecond.
    fn rest(self) -> SignedDuration {
        let length_ms = match self {
            Self::Day => 24 * 3_600_000,
            Self::Hour => 3_600_000,
            Self::Minute => 60_000,
            Self::Second(decimals) => 1_000 / 10_i64.pow(decimals.min(3)),
        };
        SignedDuration::from_millis(length_ms - 1)
    }

    /// The last moment of the unit that begins at a time.
    fn last_moment(self, time: Timestamp) -> Timestamp {
        time.checked_add(self.rest()).unwrap_or(Timestamp::MAX)
    }

    /// The unit of a time whose seconds have decimals, if its text has any.
    fn of_seconds(text: &str) -> Self {
        let decimals = text.rfind(['.', ',']).and_then(|point| text.get(point + 1..));
        let digits = decimals.unwrap_or_default().bytes().take_while(u8::is_ascii_digit).count();
        Self::Second(u32::try_from(digits).unwrap_or(u32::MAX))
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
        let unix = |unit: Unit, of: fn(i64) -> Result<Timestamp, jiff::Error>| {
            let time = text.parse().ok().and_then(|number| of(number).ok());
            time.map(|time| Readings::within(unit, time))
        };
        let read = match self {
            Self::Rfc3339 => read_rfc3339(text),
            Self::UnixSeconds => unix(Unit::Second(0), Timestamp::from_second),
            Self::UnixMillis => unix(Unit::Second(3), Timestamp::from_millisecond),
            Self::Pattern(pattern, zone) => read_pattern(text, pattern, zone.as_ref()),
        };
        let read = read.or_else(|| self.after_calendar(text));
        read.ok_or_else(|| {
            let seconds = text.parse().ok().filter(|_| matches!(self, Self::UnixSeconds));
            let cause = seconds.and_then(LikelyCause::of_seconds);
            let hint = cause.map_or_else(String::new, |cause| format!("; it looks like {cause}"));
            format!("`{text}` is not a time in the form {}{hint}", self.name())
        })
    }

    /// The last moment, for a text of the last days of the year 9999: they stand for "never", and are
    /// after all that [`Timestamp`] can hold. The server says what they look like.
    fn after_calendar(&self, text: &str) -> Option<Readings> {
        let is_after = match self {
            Self::Rfc3339 => is_after_last_moment(text),
            Self::UnixSeconds | Self::UnixMillis => false,
            Self::Pattern(pattern, _) => {
                let parts: Option<BrokenDownTime> = strtime::parse(pattern, text).ok();
                let date = parts.and_then(|parts| parts.to_date().ok());
                date.is_some_and(|day| day >= date_of_never())
            }
        };
        is_after.then_some(Readings { earlier: Timestamp::MAX, later: Timestamp::MAX })
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
    let unit = match (parts.hour(), parts.minute(), parts.second()) {
        _ if pattern.contains("%s") => Unit::Second(0),
        (None, None, None) => Unit::Day,
        (_, None, None) => Unit::Hour,
        (_, _, None) => Unit::Minute,
        _ if has_decimals(pattern) => Unit::of_seconds(text),
        _ => Unit::Second(0),
    };
    if let Ok(time) = parts.to_timestamp() {
        return Some(Readings::within(unit, time));
    }
    let (first, last) = local(&parts, unit)?;
    let zone = zone?;
    Some(Readings {
        earlier: zone.to_ambiguous_timestamp(first).earlier().ok()?,
        later: zone.to_ambiguous_timestamp(last).later().ok()?,
    })
}

fn read_rfc3339(text: &str) -> Option<Readings> {
    let [earlier, later] = parse_time_readings(text).ok()?;
    let clock = text.split_once(['T', 't', ' ']).map_or("", |(_, clock)| clock);
    let end = clock.find(|it: char| !it.is_ascii_digit() && it != ':').unwrap_or(clock.len());
    let digits = clock.bytes().take(end).filter(u8::is_ascii_digit).count();
    let unit = match digits {
        0..=2 => Unit::Hour,
        3..=4 => Unit::Minute,
        _ => Unit::of_seconds(text),
    };
    Some(Readings { earlier, later: unit.last_moment(later) })
}

/// Whether a pattern reads decimals of seconds: `%f`, `%.f`, `%3f`, `%N` and the like.
fn has_decimals(pattern: &str) -> bool {
    let directives = pattern.split('%').skip(1);
    let of_decimals = |directive: &str| {
        let name = directive.trim_start_matches(|it: char| it == '.' || it.is_ascii_digit());
        name.starts_with(['f', 'N'])
    };
    directives.into_iter().any(of_decimals)
}

/// The first and the last local time that parts can mean.
fn local(parts: &BrokenDownTime, unit: Unit) -> Option<(DateTime, DateTime)> {
    if unit == Unit::Day {
        let date = parts.to_date().ok()?;
        return Some((date.at(0, 0, 0, 0), date.at(23, 59, 59, 999_000_000)));
    }
    let first = parts.to_datetime().ok()?;
    Some((first, first.checked_add(unit.rest()).ok()?))
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
        }
    }

    #[test]
    fn a_text_means_every_moment_up_to_its_last_unit() {
        let berlin = Some("Europe/Berlin");
        for (form, zone, text, last) in [
            ("%d.%m.%Y", berlin, "02.05.2025", "2025-05-02T21:59:59.999Z"),
            // The day on which the clock is put back has 25 hours.
            ("%d.%m.%Y", berlin, "26.10.2025", "2025-10-26T22:59:59.999Z"),
            ("%d.%m.%Y %H", berlin, "02.05.2025 10", "2025-05-02T08:59:59.999Z"),
            ("%d.%m.%Y %H:%M", berlin, "02.05.2025 10:57", "2025-05-02T08:57:59.999Z"),
            ("%d.%m.%Y %H:%M:%S", berlin, "02.05.2025 10:57:02", "2025-05-02T08:57:02.999Z"),
            (
                "%Y-%m-%d %H:%M:%S%.f %z",
                None,
                "2025-05-02 10:57:02.4 +0200",
                "2025-05-02T08:57:02.499Z",
            ),
            ("unix_s", None, "1746176250", "2025-05-02T08:57:30.999Z"),
            ("unix_ms", None, "1746176250400", "2025-05-02T08:57:30.4Z"),
            ("rfc3339", None, "2025-05-02T08:57:30Z", "2025-05-02T08:57:30.999Z"),
            ("rfc3339", None, "2025-05-02T08:57:30.25+00:00", "2025-05-02T08:57:30.259Z"),
            ("rfc3339", None, "2025-05-02T08:57:30.123456Z", "2025-05-02T08:57:30.123456Z"),
        ] {
            let read = format(form, zone).unwrap().read(text).unwrap();
            assert_eq!(read.later.to_string(), last, "{form} {text}");
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
                "2024-10-27T01:30:59.999Z",
            ),
            (
                "%Y-%m-%d %H:%M",
                "Europe/Vienna",
                "2024-03-31 02:30",
                "2024-03-31T00:30:00Z",
                "2024-03-31T01:30:59.999Z",
            ),
            (
                "%m/%d/%Y %I:%M %p",
                "America/New_York",
                "11/03/2024 1:30 am",
                "2024-11-03T05:30:00Z",
                "2024-11-03T06:30:59.999Z",
            ),
            // Clocks shift by half an hour.
            (
                "%Y-%m-%d %H:%M",
                "Australia/Lord_Howe",
                "2024-04-07 01:45",
                "2024-04-06T14:45:00Z",
                "2024-04-06T15:15:59.999Z",
            ),
            // Midnight does not exist; the first moment of the day is meant.
            (
                "%Y-%m-%d",
                "Africa/Cairo",
                "2024-04-26",
                "2024-04-25T21:00:00Z",
                "2024-04-26T20:59:59.999Z",
            ),
        ] {
            let read = format(pattern, Some(zone)).unwrap().read(text).unwrap();
            assert_eq!(read.earlier.to_string(), earlier, "{text}");
            assert_eq!(read.later.to_string(), later, "{text}");
        }
        // An offset says which one is meant.
        let read = format("%Y-%m-%d %H:%M %z", None).unwrap().read("2024-10-27 02:30 +0100");
        assert_eq!(read.unwrap().earlier, rfc3339("2024-10-27T01:30:00Z"));
    }

    fn rfc3339(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn invalid_times_are_errors() {
        for (form, zone, text) in [
            ("rfc3339", None, "2026-07-01T12:00:00"),
            ("rfc3339", None, "2026-07-01T12:00:00+02:00[America/New_York]"),
            ("unix_s", None, "1.5"),
            ("unix_s", None, "99999999999999"),
            ("%d.%m.%Y", Some("Europe/Berlin"), "31.02.2026"),
            ("%d.%m.%Y", Some("Europe/Berlin"), "07/01/2026"),
        ] {
            assert!(format(form, zone).unwrap().read(text).is_err(), "{form} {text}");
        }
    }

    #[test]
    fn the_last_days_of_the_calendar_are_read_as_its_last_moment() {
        for (form, zone, text) in [
            ("rfc3339", None, "9999-12-31T23:59:59Z"),
            ("rfc3339", None, "9999-12-31T00:00:00-08:00"),
            ("%Y-%m-%d", Some("Europe/Berlin"), "9999-12-31"),
            ("%d.%m.%Y %H:%M", Some("America/New_York"), "31.12.9999 23:59"),
        ] {
            let read = format(form, zone).unwrap().read(text).unwrap();
            assert_eq!(read.earlier, Timestamp::MAX, "{form} {text}");
        }
        assert!(format("rfc3339", None).unwrap().read("9999-13-31T23:59:59Z").is_err());
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
