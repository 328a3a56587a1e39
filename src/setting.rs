//! Settings: one definition gives flag, environment variable, key of the options file, default, bounds
//! and help.
//!
//! A setting is a field with `#[arg(long, …)]`. Its variable and its key follow from the flag (see
//! [`crate::cli::layers`]). [`Within::within`] adds its bounds: a value outside is refused where it is
//! parsed, and the help text ends with them. docs/reference.md is made from the same definitions.

use std::{
    error::Error,
    fmt,
    ops::{RangeFrom, RangeInclusive, RangeToInclusive},
    time::Duration,
};

use clap::{Arg, Args, Command};
use thiserror::Error;

/// Kibibyte, in bytes.
const KIB: u64 = 1 << 10;
/// Mebibyte, in bytes.
const MIB: u64 = 1 << 20;
/// Gibibyte, in bytes.
const GIB: u64 = 1 << 30;
/// Tebibyte, in bytes.
const TIB: u64 = 1 << 40;

/// A millisecond.
pub const MILLISECOND: Duration = Duration::from_millis(1);
/// A second.
pub const SECOND: Duration = Duration::from_secs(1);
/// A minute.
pub const MINUTE: Duration = Duration::from_secs(60);
/// An hour.
pub const HOUR: Duration = Duration::from_secs(3_600);
/// A day.
pub const DAY: Duration = Duration::from_secs(24 * 3_600);

/// Headings of the groups of `serve --help`.
pub mod heading {
    /// Addresses and connections.
    pub const LISTENING: &str = "Listening";
    /// The identity of the server.
    pub const TLS: &str = "TLS";
    /// Files, memory and disk.
    pub const STORAGE: &str = "Storage";
    /// When the clock is trusted.
    pub const CLOCK: &str = "Clock";
    /// Keys that the server holds.
    pub const KEYS: &str = "Keys";
    /// Limits of requests, and how long they wait.
    pub const LIMITS: &str = "Limits";
    /// Validity of tokens.
    pub const TOKENS: &str = "Tokens";
    /// Signing the ledger, and having it witnessed.
    pub const CHECKPOINTS: &str = "Checkpoints and witnesses";
    /// Delivery of changes to services.
    pub const SUBSCRIPTIONS: &str = "Subscriptions and webhooks";
    /// Logs and traces.
    pub const TELEMETRY: &str = "Telemetry";
}

/// Gives a setting bounds.
pub trait Within {
    /// Refuses values outside `bounds`, both ends included, and names the bounds at the end of the
    /// help text. Replaces the value parser: the type of the bounds says how a value is written.
    #[must_use]
    fn within<Q: Quantity>(self, bounds: impl Into<Bounds<Q>>) -> Self;
}

impl Within for Arg {
    fn within<Q: Quantity>(self, bounds: impl Into<Bounds<Q>>) -> Self {
        let bounds = bounds.into();
        let help = self.get_help().map(ToString::to_string).unwrap_or_default();
        self.help(format!("{help} [{ALLOWED}{bounds}]"))
            .value_parser(move |text: &str| bounds.parse(text))
    }
}

/// Begins the note at the end of a help text that names the bounds.
pub const ALLOWED: &str = "allowed: ";

/// The bounds of a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bounds<Q> {
    /// From the first value to the second.
    Between(Q, Q),
    /// This value or more.
    AtLeast(Q),
    /// This value or less.
    AtMost(Q),
}

impl<Q> From<RangeInclusive<Q>> for Bounds<Q> {
    fn from(range: RangeInclusive<Q>) -> Self {
        let (min, max) = range.into_inner();
        Self::Between(min, max)
    }
}

impl<Q> From<RangeFrom<Q>> for Bounds<Q> {
    fn from(range: RangeFrom<Q>) -> Self {
        Self::AtLeast(range.start)
    }
}

impl<Q> From<RangeToInclusive<Q>> for Bounds<Q> {
    fn from(range: RangeToInclusive<Q>) -> Self {
        Self::AtMost(range.end)
    }
}

impl<Q: Quantity> Bounds<Q> {
    fn parse(&self, text: &str) -> Result<Q::Value, SettingError> {
        let quantity = Q::parse(text).map_err(SettingError::Malformed)?;
        let is_allowed = match self {
            Self::Between(min, max) => (min..=max).contains(&&quantity),
            Self::AtLeast(min) => quantity >= *min,
            Self::AtMost(max) => quantity <= *max,
        };
        if !is_allowed {
            return Err(SettingError::OutOfBounds { allowed: self.to_string() });
        }
        Ok(quantity.into_value())
    }
}

impl<Q: Quantity> fmt::Display for Bounds<Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Between(min, max) => write!(f, "{} to {}", min.text(), max.text()),
            Self::AtLeast(min) => write!(f, "at least {}", min.text()),
            Self::AtMost(max) => write!(f, "at most {}", max.text()),
        }
    }
}

/// Why a text is not a value of a setting. The parser adds the setting and the text.
#[derive(Debug, Error)]
pub enum SettingError {
    /// The text is malformed.
    #[error(transparent)]
    Malformed(Box<dyn Error + Send + Sync>),
    /// The value is too small or too large.
    #[error("must be {allowed}")]
    OutOfBounds {
        /// The bounds.
        allowed: String,
    },
}

/// A value that can have bounds.
pub trait Quantity: PartialOrd + Clone + Send + Sync + 'static {
    /// What the setting holds.
    type Value: Clone + Send + Sync + 'static;

    /// Reads a text.
    ///
    /// # Errors
    /// Why it can not be read.
    fn parse(text: &str) -> Result<Self, Box<dyn Error + Send + Sync>>;

    /// The text of a value, as [`Self::parse`] reads it.
    fn text(&self) -> String;

    /// What the setting holds.
    fn into_value(self) -> Self::Value;
}

macro_rules! count {
    ($($number:ty),*) => {$(
        impl Quantity for $number {
            type Value = Self;

            fn parse(text: &str) -> Result<Self, Box<dyn Error + Send + Sync>> {
                Ok(text.parse()?)
            }

            fn text(&self) -> String {
                self.to_string()
            }

            fn into_value(self) -> Self {
                self
            }
        }
    )*};
}

count!(u32, u64, usize);

impl Quantity for Duration {
    type Value = Self;

    fn parse(text: &str) -> Result<Self, Box<dyn Error + Send + Sync>> {
        Ok(humantime::parse_duration(text)?)
    }

    /// In the largest unit of which it is a multiple; a single day is `24h`.
    fn text(&self) -> String {
        if *self == DAY {
            return "24h".to_owned();
        }
        let units = [(DAY, "days"), (HOUR, "h"), (MINUTE, "m"), (SECOND, "s"), (MILLISECOND, "ms")];
        let fits = |unit: Duration| self.as_nanos().is_multiple_of(unit.as_nanos());
        let unit = units.into_iter().find(|&(unit, _)| fits(unit) && *self >= unit);
        let (unit, name) = unit.unwrap_or((Duration::from_nanos(1), "ns"));
        format!("{}{name}", self.as_nanos() / unit.as_nanos())
    }

    fn into_value(self) -> Self {
        self
    }
}

/// A number of bytes, written as [`parse_size`] reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl Quantity for Size {
    type Value = u64;

    fn parse(text: &str) -> Result<Self, Box<dyn Error + Send + Sync>> {
        Ok(Self(parse_size(text)?))
    }

    fn text(&self) -> String {
        let units = [(TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")];
        let unit = units.iter().find(|(unit, _)| self.0 >= *unit && self.0.is_multiple_of(*unit));
        let (unit, name) = unit.unwrap_or(&(1, "B"));
        format!("{}{name}", self.0 / unit)
    }

    fn into_value(self) -> u64 {
        self.0
    }
}

/// How a text can fail to be a size.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SizeError {
    /// Not a number with a unit.
    #[error("a size is a whole number of bytes, or of KiB, MiB, GiB, kB, MB or GB, such as 64MiB")]
    Malformed,
    /// More bytes than can be counted.
    #[error("the size is too large")]
    TooLarge,
}

/// A size such as `64MiB`, `4096` or `1 GB`, in bytes.
///
/// # Errors
/// See [`SizeError`].
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(SizeError::Malformed);
    }
    let unit = match unit.trim_start() {
        "" | "B" => 1,
        "KiB" => KIB,
        "MiB" => MIB,
        "GiB" => GIB,
        "TiB" => TIB,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return Err(SizeError::Malformed),
    };
    let number: u64 = number.parse().map_err(|_| SizeError::TooLarge)?;
    number.checked_mul(unit).ok_or(SizeError::TooLarge)
}

/// A group of settings from flags alone, without environment and options file.
///
/// # Errors
/// What the parser refuses; it names the flag, the value and the bounds.
pub fn parse<G: Args>(flags: &[&str]) -> Result<G, clap::Error> {
    let command = G::augment_args(Command::new("settings").no_binary_name(true));
    G::from_arg_matches(&command.try_get_matches_from(flags)?)
}

/// A group of settings, each with its default.
///
/// # Panics
/// A setting of the group is required, or its own default is out of its bounds.
#[must_use]
pub fn defaults<G: Args>() -> G {
    parse(&[]).expect("every setting of the group has a default that it takes")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, PartialEq, Args)]
    struct Group {
        /// How long
        #[arg(long, value_parser = humantime::parse_duration, within = 10 * MILLISECOND..=HOUR)]
        #[arg(default_value = "1s")]
        time: Duration,
        /// How many
        #[arg(long, within = 1_usize.., default_value_t = 7)]
        count: usize,
        /// How much
        #[arg(long, within = ..=Size(4 << 20), default_value = "1MiB")]
        size: u64,
    }

    #[test]
    fn bounds_are_part_of_what_is_allowed() {
        assert_eq!(defaults::<Group>(), Group { time: SECOND, count: 7, size: 1 << 20 });
        let edges = parse::<Group>(&["--time=10ms", "--count=1", "--size=4MiB"]).unwrap();
        assert_eq!(edges, Group { time: 10 * MILLISECOND, count: 1, size: 4 << 20 });
        assert_eq!(parse::<Group>(&["--time=1h"]).unwrap().time, HOUR);
    }

    #[test]
    fn an_error_names_the_flag_the_value_and_the_bounds() {
        for (flag, want) in [
            ("--time=9ms", "invalid value '9ms' for '--time <TIME>': must be 10ms to 1h"),
            ("--time=61m", "invalid value '61m' for '--time <TIME>': must be 10ms to 1h"),
            ("--count=0", "invalid value '0' for '--count <COUNT>': must be at least 1"),
            ("--size=5MiB", "invalid value '5MiB' for '--size <SIZE>': must be at most 4MiB"),
            ("--size=many", "invalid value 'many' for '--size <SIZE>': a size is a whole number"),
            ("--time=soon", "invalid value 'soon' for '--time <TIME>': "),
            ("--count=-1", "invalid value '-1' for '--count <COUNT>': invalid digit"),
        ] {
            let error = parse::<Group>(&[flag]).unwrap_err().to_string();
            assert!(error.contains(want), "{flag}: {error}");
        }
    }

    #[test]
    fn help_ends_with_the_bounds() {
        let command = Group::augment_args(Command::new("settings"));
        let help = |flag: &str| {
            let arg = command.get_arguments().find(|arg| arg.get_long() == Some(flag));
            arg.unwrap().get_help().unwrap().to_string()
        };
        assert_eq!(help("time"), "How long [allowed: 10ms to 1h]");
        assert_eq!(help("count"), "How many [allowed: at least 1]");
        assert_eq!(help("size"), "How much [allowed: at most 4MiB]");
    }

    #[test]
    fn bounds_are_told_in_the_unit_that_fits() {
        for (time, text) in [
            (Duration::ZERO, "0ns"),
            (Duration::from_nanos(1), "1ns"),
            (10 * MILLISECOND, "10ms"),
            (1_500 * MILLISECOND, "1500ms"),
            (SECOND, "1s"),
            (90 * SECOND, "90s"),
            (5 * MINUTE, "5m"),
            (HOUR, "1h"),
            (DAY, "24h"),
            (90 * DAY, "90days"),
        ] {
            assert_eq!(time.text(), text);
        }
        assert_eq!(
            [Size(0), Size(1_500), Size(64 << 20)].map(|size| size.text()),
            ["0B", "1500B", "64MiB"]
        );
    }

    proptest! {
        #[test]
        fn texts_of_quantities_are_read_back(nanos: u64, bytes: u64) {
            let time = Duration::from_nanos(nanos);
            prop_assert_eq!(<Duration as Quantity>::parse(&time.text()).unwrap(), time);
            prop_assert_eq!(Size::parse(&Size(bytes).text()).unwrap(), Size(bytes));
        }
    }

    #[test]
    fn sizes_are_numbers_with_a_unit() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4_096),
            ("4096B", 4_096),
            ("4KiB", 4_096),
            ("64MiB", 64 << 20),
            (" 2 GiB ", 2 << 30),
            ("1TiB", 1 << 40),
            ("5kB", 5_000),
            ("5MB", 5_000_000),
            ("5GB", 5_000_000_000),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "MiB", "-1", "1.5GiB", "64mib", "64 M", "1e3", "0x10", "64MiBs"] {
            assert_eq!(parse_size(bad), Err(SizeError::Malformed), "{bad}");
        }
        for large in ["18446744073709551616", "17179869184GiB"] {
            assert_eq!(parse_size(large), Err(SizeError::TooLarge), "{large}");
        }
    }
}
