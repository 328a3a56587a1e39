//! When to try again: pure, so that it can be looked at.

use std::time::Duration;

use jiff::{Timestamp, fmt::rfc2822};

/// How long a receiver may ask to be left alone with `Retry-After`; what is longer counts as this.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(3_600);
/// The longest time between two probes of an endpoint that is down: one small request, for the sake
/// of those who wait to be told to stop.
pub const PROBE_PAUSE_MAX: Duration = Duration::from_secs(300);

/// How delivery is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// The greatest pause after a first failure; twice as long after each further one.
    pub pause_min: Duration,
    /// The greatest pause.
    pub pause_max: Duration,
    /// How long a message is tried, from its first try in this process on.
    pub retry_for: Duration,
}

impl Retry {
    /// The greatest pause after so many failures, counted from 1.
    #[must_use]
    pub fn pause_limit(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        self.pause_min.saturating_mul(1 << doublings).min(self.pause_max)
    }

    /// The pause after so many failures, by a die of 0 to 1: full jitter, so that what failed together
    /// does not come again together.
    #[must_use]
    pub fn pause(&self, failures: u32, die: f64) -> Duration {
        self.pause_limit(failures).mul_f64(die.clamp(0.0, 1.0))
    }

    /// The pause after so many failures of an endpoint that is down: at least half of it is waited,
    /// because all who wait for the endpoint share the probe.
    #[must_use]
    pub fn probe_pause(&self, failures: u32, die: f64) -> Duration {
        let limit = self.pause_limit(failures).min(PROBE_PAUSE_MAX);
        limit.mul_f64(0.5 + die.clamp(0.0, 1.0) / 2.0)
    }
}

/// How long `Retry-After` says to wait (RFC 9110, section 10.2.3: seconds, or a date), at most
/// [`RETRY_AFTER_MAX`]; none if it says nothing that can be understood.
#[must_use]
pub fn retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    let asked = if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // Only a number that is too large does not parse.
        value.parse().map_or(Duration::MAX, Duration::from_secs)
    } else {
        let at = rfc2822::parse(value).ok()?.timestamp();
        Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO)
    };
    Some(asked.min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RETRY: Retry = Retry {
        pause_min: Duration::from_secs(5),
        pause_max: Duration::from_secs(3_600),
        retry_for: Duration::from_secs(72 * 3_600),
    };

    #[test]
    fn pauses_double_up_to_their_limit() {
        let limits: Vec<u64> =
            [1, 2, 3, 10, 11, 100].map(|failures| RETRY.pause_limit(failures).as_secs()).into();
        assert_eq!(limits, [5, 10, 20, 2_560, 3_600, 3_600]);
        assert_eq!(RETRY.pause(3, 0.25), Duration::from_secs(5));
        assert_eq!(RETRY.probe_pause(100, 1.0), PROBE_PAUSE_MAX);
    }

    proptest! {
        #[test]
        fn jitter_stays_within_its_bounds(failures in 1_u32.., die in 0.0..1.0_f64) {
            let limit = RETRY.pause_limit(failures);
            prop_assert!(limit >= RETRY.pause_min && limit <= RETRY.pause_max);
            prop_assert!(RETRY.pause(failures, die) <= limit);
            let probe = RETRY.probe_pause(failures, die);
            prop_assert!(probe <= PROBE_PAUSE_MAX && probe >= RETRY.pause_min / 2);
        }

        #[test]
        fn whatever_a_receiver_asks_for_is_bounded(text in ".{0,40}") {
            let asked = retry_after(&text, Timestamp::UNIX_EPOCH);
            prop_assert!(asked.is_none_or(|asked| asked <= RETRY_AFTER_MAX));
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now: Timestamp = "2015-10-21T07:27:00Z".parse().unwrap();
        let seconds = |text| retry_after(text, now).map(|asked| asked.as_secs());
        assert_eq!(seconds("120"), Some(120));
        assert_eq!(seconds(" 0 "), Some(0));
        assert_eq!(seconds("Wed, 21 Oct 2015 07:28:00 GMT"), Some(60));
        assert_eq!(seconds("Wed, 21 Oct 2015 07:00:00 GMT"), Some(0), "it has passed");
        assert_eq!(seconds("Wed, 21 Oct 2099 07:28:00 GMT"), Some(3_600));
        assert_eq!(seconds("99999999999999999999999"), Some(3_600));
        for none in ["", "soon", "-1", "1.5"] {
            assert_eq!(seconds(none), None, "{none}");
        }
    }
}
