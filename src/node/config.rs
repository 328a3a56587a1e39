//! Settings of a node. Each field is the one definition of its setting; see [`crate::setting`].

use std::{path::PathBuf, time::Duration};

use clap::Args;
use humantime::parse_duration;
use ipnet::IpNet;
use jiff::{
    Timestamp,
    civil::Date,
    fmt::temporal::DateTimeParser,
    tz::{Disambiguation, TimeZone},
};

use super::LedgerId;
use crate::{
    domain::Millis,
    setting::{
        self, DAY, HOUR, MILLISECOND, SECOND, Size, Within as _,
        heading::{CHECKPOINTS, CLOCK, KEYS, LIMITS, STORAGE, SUBSCRIPTIONS, TOKENS},
        parse_size,
    },
    tlog::{
        origin::{OriginError, check_origin},
        policy::Policy,
    },
    tree::WitnessFail,
    vault::Kek,
};

/// Name of a ledger, unless it gets another.
pub const ORIGIN_DEFAULT: &str = "localhost/consent";

/// How a node is set up. Every limit has a name.
#[derive(Debug, Clone, Args)]
pub struct NodeConfig {
    /// Directory of ledger, vault and view
    #[arg(long, value_name = "DIR", default_value = "./data", help_heading = STORAGE)]
    pub data_dir: PathBuf,
    /// Name that the ledger must have, a URL without scheme; with --ephemeral, the name that it gets
    /// [default: any name]
    #[arg(long, value_name = "NAME", value_parser = parse_origin, help_heading = STORAGE)]
    pub origin: Option<String>,
    /// Id that the ledger must have, as `init` and `serve` print it; another ledger in the data
    /// directory is refused [default: any ledger]
    #[arg(long, value_name = "ID", help_heading = STORAGE)]
    pub expect_ledger: Option<LedgerId>,
    /// Maximum size of a segment file of the ledger; then the ledger continues in a new file
    #[arg(long, value_name = "SIZE", within = Size(1).., help_heading = STORAGE)]
    #[arg(default_value = "64MiB")]
    pub segment_bytes_max: u64,
    /// Maximum memory for the states of data subjects that checks read; the others are read from
    /// the files of the view
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = STORAGE)]
    #[arg(default_value = "512MiB")]
    pub hot_bytes_max: u64,
    /// Memory for pages of the view's files
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = STORAGE)]
    #[arg(default_value = "64MiB")]
    pub view_cache_bytes: u64,
    /// Maximum number of recent events kept in memory for watchers; older events are read from the
    /// ledger
    #[arg(long, value_name = "COUNT", default_value_t = 65_536, help_heading = STORAGE)]
    pub recent_events_max: usize,
    /// Bytes per second at which the background verification reads older segments; 0 turns it off
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = STORAGE)]
    #[arg(default_value = "8MiB")]
    pub scrub_bytes_per_second: u64,

    /// How far the clock may jump ahead while the server runs, against the time since the machine was
    /// started; after a larger jump no grants are taken until the system says that its clock is
    /// synchronised
    #[arg(long, value_name = "TIME", value_parser = parse_duration, within = SECOND..=DAY)]
    #[arg(default_value = "5m", help_heading = CLOCK)]
    pub clock_jump_max: Duration,
    /// The clock is right at this start, although it is more than 24 hours later than the ledger's last
    /// entry and the system does not say that it is synchronised
    #[arg(long, help_heading = CLOCK)]
    pub trust_clock: bool,

    /// The key-encryption key, if it is not in a file.
    #[arg(skip)]
    pub kek: Option<Kek>,
    /// File of the key-encryption key; made by `init` [default: `kek` in the data
    /// directory]
    #[arg(long, value_name = "FILE", help_heading = KEYS)]
    pub kek_file: Option<PathBuf>,
    /// File of the key that signs checkpoints, receipts and decision tokens; made by `init`
    /// [default: `signing-key` in the data directory]
    #[arg(long, value_name = "FILE", help_heading = KEYS)]
    pub signing_key_file: Option<PathBuf>,
    /// File of the signing key before the current one. The change becomes an entry, and every checkpoint
    /// is signed with both keys as long as this is given. If the file of the current key is missing, the
    /// key is made
    #[arg(long, value_name = "FILE", help_heading = KEYS)]
    pub previous_signing_key_file: Option<PathBuf>,
    /// Continue with another signing key than the one that signed this ledger so far, which is lost; it is
    /// made if its file is missing. The change becomes an entry
    #[arg(long, help_heading = KEYS)]
    pub new_signing_key: bool,
    /// Accept a signing key although `checkpoint.json`, the record of what it signed, is missing;
    /// only for a key that never signed anything
    #[arg(long, help_heading = KEYS)]
    pub unused_signing_key: bool,

    /// Maximum number of writes in flight; more are refused with TOO_MANY_APPENDS
    #[arg(long, value_name = "COUNT", within = 1_usize.., help_heading = LIMITS)]
    #[arg(default_value_t = 4_096)]
    pub appends_max: usize,
    /// Maximum number of entries in one group commit; more wait for the next one
    #[arg(long, value_name = "COUNT", within = 1_usize.., help_heading = LIMITS)]
    #[arg(default_value_t = 1_024)]
    pub batch_entries_max: usize,
    /// Earliest time that an act or a use may claim, as a date or in RFC 3339; an earlier one is a
    /// mistake
    #[arg(long, value_name = "TIME", value_parser = parse_moment, help_heading = LIMITS)]
    #[arg(default_value = "1995-01-01")]
    pub earliest_effective_at: Millis,
    /// Maximum time that a read waits for the revision it asks for; then it fails with
    /// REVISION_NOT_REACHED
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help_heading = LIMITS)]
    #[arg(default_value = "5s")]
    pub revision_wait: Duration,
    /// Maximum time that a call waits for the checkpoint it asks for; then it fails with
    /// CHECKPOINT_NOT_REACHED
    #[arg(long, value_name = "TIME", value_parser = parse_duration, within = ..=HOUR)]
    #[arg(default_value = "8s", help_heading = LIMITS)]
    pub checkpoint_wait: Duration,
    /// Maximum age of an audience: it answers as of the moment at which it began, and data subjects that
    /// arrive later than that are refused with AUDIENCE_TOO_OLD
    #[arg(long, value_name = "TIME", value_parser = parse_duration, within = MILLISECOND..=HOUR)]
    #[arg(default_value = "2m", help_heading = LIMITS)]
    pub audience_age_max: Duration,

    /// Validity of a confirmation token of a double opt-in, unless the act sets its own
    #[arg(long, value_name = "TIME", value_parser = parse_duration, within = SECOND..=90 * DAY)]
    #[arg(default_value = "7days", help_heading = TOKENS)]
    pub confirmation_validity: Duration,
    /// Maximum validity of a decision token; it never outlives the decision it states
    #[arg(long, value_name = "TIME", value_parser = parse_duration, within = SECOND..=DAY)]
    #[arg(default_value = "15m", help_heading = TOKENS)]
    pub decision_token_validity: Duration,

    /// Minimum time between two signed checkpoints
    #[arg(long, value_name = "TIME", value_parser = parse_duration, within = ..=DAY)]
    #[arg(default_value = "1s", help_heading = CHECKPOINTS)]
    pub checkpoint_interval: Duration,
    /// Witnesses that must have cosigned a checkpoint before it is released.
    #[arg(skip = Policy::none())]
    pub witness_policy: Policy,
    /// What happens to a checkpoint that too few witnesses cosign in time: `open` releases it and
    /// counts that in the metrics, `closed` holds it back until enough have cosigned
    #[arg(long, value_name = "MODE", value_enum, default_value = "open")]
    #[arg(help_heading = CHECKPOINTS)]
    pub witness_fail: WitnessFail,
    /// Maximum time for witnesses to answer; --witness-fail says what happens then
    #[arg(long, value_name = "TIME", value_parser = parse_duration, within = MILLISECOND..=HOUR)]
    #[arg(default_value = "2s", help_heading = CHECKPOINTS)]
    pub witness_timeout: Duration,

    /// Maximum number of durable subscriptions; more are refused with TOO_MANY_SUBSCRIPTIONS
    #[arg(long, value_name = "COUNT", within = 1_usize.., help_heading = SUBSCRIPTIONS)]
    #[arg(default_value_t = 1_000)]
    pub subscriptions_max: usize,
    /// How long acknowledgements of subscribers are collected before one entry records them; after a
    /// crash, events acknowledged within this time are delivered again
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    #[arg(within = 10 * MILLISECOND..=HOUR, default_value = "1s", help_heading = SUBSCRIPTIONS)]
    pub receipt_interval: Duration,
    /// Number of collected acknowledgements that are recorded at once, without waiting for the
    /// interval
    #[arg(long, value_name = "COUNT", within = 1_usize.., help_heading = SUBSCRIPTIONS)]
    #[arg(default_value_t = 10_000)]
    pub receipt_acks_max: usize,
    /// Network, as CIDR, that webhooks may reach although it is not public; may be repeated. Only
    /// such networks are sent plain http
    #[arg(long, value_name = "CIDR", value_delimiter = ',', help_heading = SUBSCRIPTIONS)]
    pub webhook_allow: Vec<IpNet>,
}

impl Default for NodeConfig {
    fn default() -> Self {
        setting::defaults()
    }
}

/// The name of a ledger: what C2SP asks of the origin of a log.
///
/// # Errors
/// One that says what is wrong with it.
pub fn parse_origin(text: &str) -> Result<String, OriginError> {
    check_origin(text).map(|()| text.to_owned())
}

/// A moment: a date, which begins in UTC, or a time in RFC 3339.
///
/// # Errors
/// The text is neither.
fn parse_moment(text: &str) -> Result<Millis, jiff::Error> {
    let at = match text.parse::<Date>() {
        Ok(date) if text.len() == date.to_string().len() => {
            TimeZone::UTC.to_timestamp(date.at(0, 0, 0, 0))?
        }
        _ => parse_time(text)?,
    };
    Ok(Millis(at.as_millisecond()))
}

/// A time in RFC 3339. If it names a time zone in brackets, too, the offset must be one of this zone, or the
/// zone must have the time once.
///
/// # Errors
/// The text is no such time.
pub fn parse_time(text: &str) -> Result<Timestamp, jiff::Error> {
    match text.contains('[') {
        true => in_zone(text, Disambiguation::Reject),
        false => text.parse(),
    }
}

/// As [`parse_time`], also if the clocks of the zone show the time twice, or skip it. Returns the earlier and
/// the later moment that it can be.
///
/// # Errors
/// As [`parse_time`].
pub fn parse_time_readings(text: &str) -> Result<[Timestamp; 2], jiff::Error> {
    match text.contains('[') {
        true => {
            Ok([in_zone(text, Disambiguation::Earlier)?, in_zone(text, Disambiguation::Later)?])
        }
        false => text.parse().map(|time| [time; 2]),
    }
}

fn in_zone(text: &str, repeated: Disambiguation) -> Result<Timestamp, jiff::Error> {
    let parser = DateTimeParser::new().disambiguation(repeated);
    Ok(parser.parse_zoned_datetime(text)?.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(flag: &str) -> Option<String> {
        setting::parse::<NodeConfig>(&[flag]).err().map(|error| error.to_string())
    }

    /// Tries times around the bounds of a setting, and compares the errors of those that are refused.
    fn try_times<const N: usize>(flag: &str, bounds: &str, tries: [(u64, bool); N]) {
        for (millis, good) in tries {
            let refused = refused(&format!("--{flag}={millis}ms"));
            let want =
                format!("invalid value '{millis}ms' for '--{flag} <TIME>': must be {bounds}");
            match refused {
                None => assert!(good, "{flag} {millis}"),
                Some(error) => assert!(!good && error.contains(&want), "{error}"),
            }
        }
    }

    #[test]
    fn the_name_of_a_ledger_is_a_url_without_a_scheme() {
        for good in ["localhost/consent", "consent.example.org/eu"] {
            assert_eq!(parse_origin(good).as_deref(), Ok(good));
        }
        let error = refused("--origin=https://consent.example.org/eu").unwrap();
        let want = "invalid value 'https://consent.example.org/eu' for '--origin <NAME>': must not \
                    have a scheme";
        assert!(error.contains(want), "{error}");
        let error = refused("--origin=consent.example.org/").unwrap();
        assert!(error.contains("must not end with a slash"), "{error}");
    }

    #[test]
    fn a_moment_is_a_date_or_a_time_with_its_zone() {
        assert_eq!(NodeConfig::default().earliest_effective_at, Millis(788_918_400_000));
        assert_eq!(parse_moment("1995-01-01T01:00:00+01:00").unwrap(), Millis(788_918_400_000));
        for text in ["", "1995", "1995-02-30", "1995-01-01T00:00:00", "yesterday"] {
            assert!(parse_moment(text).is_err(), "{text}");
        }
        let error = refused("--earliest-effective-at=1995").unwrap();
        assert!(error.contains("invalid value '1995' for '--earliest-effective-at <TIME>'"));
    }

    #[test]
    fn tokens_live_a_second_to_a_day() {
        let tries = [(999, false), (1_000, true), (86_400_000, true), (86_400_001, false)];
        try_times("decision-token-validity", "1s to 24h", tries);
    }

    #[test]
    fn confirmations_wait_a_second_to_ninety_days() {
        let most = 90 * 86_400_000;
        let tries = [(0, false), (999, false), (1_000, true), (most, true), (most + 1, false)];
        try_times("confirmation-validity", "1s to 90days", tries);
    }

    #[test]
    fn acknowledgements_gather_ten_milliseconds_to_an_hour() {
        let tries = [(9, false), (10, true), (3_600_000, true), (3_600_001, false)];
        try_times("receipt-interval", "10ms to 1h", tries);
    }

    #[test]
    fn times_that_nobody_waits_are_refused() {
        let day = 24 * 3_600_000;
        try_times(
            "checkpoint-interval",
            "at most 24h",
            [(0, true), (day, true), (day + 1_000, false)],
        );
        try_times(
            "checkpoint-wait",
            "at most 1h",
            [(0, true), (3_600_000, true), (3_600_001, false)],
        );
        try_times("witness-timeout", "1ms to 1h", [(0, false), (1, true), (3_600_001, false)]);
    }

    #[test]
    fn limits_of_zero_are_named() {
        for name in ["appends-max", "batch-entries-max", "receipt-acks-max", "subscriptions-max"] {
            let error = refused(&format!("--{name}=0")).unwrap();
            let want = format!("invalid value '0' for '--{name} <COUNT>': must be at least 1");
            assert!(error.contains(&want), "{error}");
        }
        let error = refused("--segment-bytes-max=0").unwrap();
        assert!(error.contains("--segment-bytes-max <SIZE>': must be at least 1B"), "{error}");
    }
}
