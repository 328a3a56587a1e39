//! Waits that grow, with jitter, so that clients that lost one server do not all come back at once.

use std::time::Duration;

use rand::RngExt as _;

use super::service_config::RetryPolicy;

/// How long to wait before each new try.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BackoffPolicy {
    /// The first wait, give or take a fifth.
    pub initial: Duration,
    /// The longest wait, give or take a fifth.
    pub max: Duration,
    /// How much longer each wait is than the one before.
    pub multiplier: f64,
}

impl Default for BackoffPolicy {
    /// From 100 ms to 10 s, each half as long again.
    fn default() -> Self {
        Self { initial: Duration::from_millis(100), max: Duration::from_secs(10), multiplier: 1.5 }
    }
}

impl From<&RetryPolicy> for BackoffPolicy {
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

    /// Begins again with the first wait: something went well.
    pub(super) fn reset(&mut self) {
        *self = Self::new(self.policy);
    }

    /// The next wait; what the server asked for goes first, with jitter only upwards: a server that
    /// said when to come back is not asked sooner.
    pub(super) fn next(&mut self, asked_for: Option<Duration>) -> Duration {
        if let Some(asked_for) = asked_for {
            self.reset();
            return asked_for.mul_f64(rand::rng().random_range(1.0..1.2));
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
        let policy = BackoffPolicy { initial: ms(100), max: ms(300), multiplier: 2.0 };
        let mut backoff = Backoff::new(policy);
        for about in [100, 200, 300, 300] {
            let wait = backoff.next(None);
            assert!(wait >= ms(about * 8 / 10) && wait <= ms(about * 12 / 10), "{wait:?} {about}");
        }
        let asked = backoff.next(Some(ms(1_000)));
        assert!(asked >= ms(1_000) && asked <= ms(1_200), "{asked:?}");
        assert!(backoff.next(None) <= ms(120), "the server's word begins anew");
    }
}
