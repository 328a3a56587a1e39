//! Exponential backoff with jitter, so that clients that lost one server do not all come back at
//! once.

use std::time::Duration;

use rand::RngExt as _;
use thiserror::Error;

use super::service_config::RetryPolicy;

/// The longest of all waits.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(3_600);

/// How long to wait before each retry.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BackoffPolicy {
    pub(super) initial: Duration,
    pub(super) max: Duration,
    pub(super) multiplier: f64,
}

/// Why a policy is not valid.
#[derive(Debug, Clone, Copy, PartialEq, Error)]
#[non_exhaustive]
pub enum BackoffError {
    /// The first wait is zero: retries without a pause can keep a server down.
    #[error("the first wait must be more than zero")]
    NoWait,
    /// The longest wait is out of range.
    #[error("the longest wait must be from the first, {initial:?}, to {WAIT_MAX:?}, not {max:?}")]
    Max {
        /// The first wait.
        initial: Duration,
        /// The longest.
        max: Duration,
    },
    /// The multiplier makes waits shorter, or is not a number.
    #[error("the multiplier must be a number of at least 1, not {0}")]
    Multiplier(f64),
}

impl BackoffPolicy {
    /// Waits from `initial` to `max`, with a jitter of a fifth. Each is `multiplier` times as long
    /// as the one before.
    ///
    /// # Errors
    /// See [`BackoffError`].
    pub fn new(initial: Duration, max: Duration, multiplier: f64) -> Result<Self, BackoffError> {
        if initial.is_zero() {
            return Err(BackoffError::NoWait);
        }
        if !(initial..=WAIT_MAX).contains(&max) {
            return Err(BackoffError::Max { initial, max });
        }
        if !multiplier.is_finite() || multiplier < 1.0 {
            return Err(BackoffError::Multiplier(multiplier));
        }
        Ok(Self { initial, max, multiplier })
    }
}

impl Default for BackoffPolicy {
    /// From 100 ms to 10 s, each 1.5 times as long as the one before.
    fn default() -> Self {
        Self { initial: Duration::from_millis(100), max: Duration::from_secs(10), multiplier: 1.5 }
    }
}

impl From<&RetryPolicy> for BackoffPolicy {
    /// As in gRPC, which allows waits to become shorter.
    fn from(retry: &RetryPolicy) -> Self {
        Self {
            initial: retry.initial_backoff,
            max: retry.max_backoff,
            multiplier: retry.backoff_multiplier,
        }
    }
}

/// The waits of one call or stream.
#[derive(Debug)]
pub(super) struct Backoff {
    policy: BackoffPolicy,
    next: Duration,
}

impl Backoff {
    pub(super) fn new(policy: BackoffPolicy) -> Self {
        Self { policy, next: policy.initial.min(policy.max) }
    }

    /// Begins again with the first wait, after a success.
    pub(super) fn reset(&mut self) {
        *self = Self::new(self.policy);
    }

    /// The next wait. A delay that the server asked for has priority, with jitter only upwards: a
    /// retry never comes sooner than the server asked.
    pub(super) fn next(&mut self, asked_for: Option<Duration>) -> Duration {
        if let Some(asked_for) = asked_for {
            self.reset();
            return asked_for.min(WAIT_MAX).mul_f64(rand::rng().random_range(1.0..1.2));
        }
        let wait = self.next.mul_f64(rand::rng().random_range(0.8..1.2));
        let grown = self.next.as_secs_f64() * self.policy.multiplier;
        let grown = Duration::try_from_secs_f64(grown).unwrap_or(self.policy.max);
        self.next = grown.min(self.policy.max);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_longest_and_begin_again() {
        let ms = Duration::from_millis;
        let policy = BackoffPolicy::new(ms(100), ms(300), 2.0).unwrap();
        let mut backoff = Backoff::new(policy);
        for about in [100, 200, 300, 300] {
            let wait = backoff.next(None);
            assert!(wait >= ms(about * 8 / 10) && wait <= ms(about * 12 / 10), "{wait:?} {about}");
        }
        let asked = backoff.next(Some(ms(1_000)));
        assert!(asked >= ms(1_000) && asked <= ms(1_200), "{asked:?}");
        assert!(backoff.next(None) <= ms(120), "the server's word begins anew");
    }

    #[test]
    fn a_policy_that_keeps_a_server_down_is_refused() {
        let ms = Duration::from_millis;
        let refused = |initial, max, by| BackoffPolicy::new(initial, max, by).unwrap_err();
        assert_eq!(refused(ms(0), ms(9), 2.0), BackoffError::NoWait);
        for max in [ms(9), Duration::MAX] {
            assert_eq!(refused(ms(10), max, 2.0), BackoffError::Max { initial: ms(10), max });
        }
        for by in [0.9, f64::INFINITY] {
            assert_eq!(refused(ms(10), ms(10), by), BackoffError::Multiplier(by));
        }
        assert!(matches!(refused(ms(10), ms(10), f64::NAN), BackoffError::Multiplier(_)));
        assert!(BackoffPolicy::new(ms(10), ms(10), 1.0).is_ok());
    }
}
