//! Time as the ledger keeps it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::format::expiry::recorded_end_ms;

/// A moment, in milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Millis(pub i64);

impl Millis {
    /// The system clock's now. Only the outermost layers ask for it; below, time is an argument.
    #[must_use]
    pub fn now() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
    }

    /// The beginning of a second since the Unix epoch; it saturates at the end of time.
    #[must_use]
    pub fn of_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1_000))
    }

    /// The second since the Unix epoch that it lies in.
    #[must_use]
    pub fn seconds(self) -> i64 {
        self.0.div_euclid(1_000)
    }

    /// The beginning of its second.
    #[must_use]
    pub fn second(self) -> Self {
        Self::of_seconds(self.seconds())
    }

    /// The last millisecond of its second.
    #[must_use]
    pub fn end_of_second(self) -> Self {
        self.second().plus_ms(999)
    }

    /// The moment `span_ms` later; it saturates at the end of time.
    #[must_use]
    pub fn plus_ms(self, span_ms: i64) -> Self {
        Self(self.0.saturating_add(span_ms))
    }
}

/// The end of a grant, or of a guardian's authority, as the ledger records it: a day or more after
/// `effective_at` it is rounded down to the full hour.
#[must_use]
pub fn recorded_end(effective_at: Millis, ends_at: Millis) -> Millis {
    Millis(recorded_end_ms(effective_at.0, ends_at.0))
}

/// As [`recorded_end`], for a validity that begins at `effective_at`.
#[must_use]
pub fn recorded_end_after(effective_at: Millis, validity_ms: i64) -> Millis {
    recorded_end(effective_at, effective_at.plus_ms(validity_ms))
}
