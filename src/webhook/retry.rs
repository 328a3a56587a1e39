//! The pauses between tries. Pure functions: clock and randomness are arguments.

use std::time::Duration;

use jiff::{Timestamp, fmt::rfc2822};

/// Maximum pause that a receiver can ask for with `Retry-After`; a longer one is shortened to this.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(3_600);
/// Maximum pause between two probes of an endpoint that is down. It is short because withdrawals wait
/// for delivery, and a probe is one small request.
pub const PROBE_PAUSE_MAX: Duration = Duration::from_secs(300);

/// The retry policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// Maximum pause after the first failure; it doubles with each further failure.
    pub pause_min: Duration,
    /// Maximum pause after any failure.
    pub pause_max: Duration,
    /// How long a message is retried, counted from its first try in this process.
    pub retry_for: Duration,
}

impl Retry {
    /// Maximum pause after a number of failures, counted from 1.
    #[must_use]
    pub fn pause_limit(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        self.pause_min.saturating_mul(1 << doublings).min(self.pause_max)
    }

    /// The pause after a number of failures, with full jitter: `random` lies between 0 and 1. So
    /// messages that failed together are not retried together.
    #[must_use]
    pub fn pause(&self, failures: u32, random: f64) -> Duration {
        self.pause_limit(failures).mul_f64(random.clamp(0.0, 1.0))
    }

    /// The pause before the next probe of an endpoint that is down. It is at least half of the maximum,
    /// because all messages for the endpoint share the probe.
    #[must_use]
    pub fn probe_pause(&self, failures: u32, random: f64) -> Duration {
        let limit = self.pause_limit(failures).min(PROBE_PAUSE_MAX);
        limit.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }
}

/// The pause that a `Retry-After` header asks for (RFC 9110, section 10.2.3: seconds, or a date), at
/// most [`RETRY_AFTER_MAX`]; none if the value is neither.
#[must_use]
pub fn retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    let asked = if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // All digits: parsing fails only if the number is too large.
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
        fn jitter_stays_within_its_bounds(failures in 1_u32.., random in 0.0..1.0_f64) {
            let limit = RETRY.pause_limit(failures);
            prop_assert!(limit >= RETRY.pause_min && limit <= RETRY.pause_max);
            prop_assert!(RETRY.pause(failures, random) <= limit);
            let probe = RETRY.probe_pause(failures, random);
            prop_assert!(probe <= PROBE_PAUSE_MAX && probe >= RETRY.pause_min / 2);
        }

        #[test]
        fn the_pause_that_a_receiver_asks_for_is_bounded(text in ".{0,40}") {
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
