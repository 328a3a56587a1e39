//! Ends of grants, by the hour.
//!
//! How long a consent is valid is public, so the time between an expiry and the act that it ends would link
//! the two. Therefore an end that is a day or more away is rounded down to the full hour when it is
//! recorded, and all ends of one hour stand in one entry. Decisions do not wait for the entry. An end that is
//! less than a day away stays exact: who asks for a short validity wants its end told at once.

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// The end of a grant, or of a guardian's authority, as it is recorded; all in milliseconds since the Unix
/// epoch. The answer to the caller tells it.
#[must_use]
pub fn recorded_end_ms(effective_at_ms: i64, ends_at_ms: i64) -> i64 {
    if ends_at_ms.saturating_sub(effective_at_ms) < DAY_MS {
        return ends_at_ms;
    }
    ends_at_ms.saturating_sub(ends_at_ms.rem_euclid(HOUR_MS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_a_day_away_or_more_is_a_full_hour() {
        let act = 1_000_000_000_123;
        assert_eq!(recorded_end_ms(act, act + DAY_MS - 1), act + DAY_MS - 1);
        for days in [1, 30, 365] {
            let end = recorded_end_ms(act, act + days * DAY_MS);
            assert_eq!(end.rem_euclid(HOUR_MS), 0);
            assert!((0..HOUR_MS).contains(&(act + days * DAY_MS - end)));
        }
        assert_eq!(recorded_end_ms(-90_000_000, -1), -HOUR_MS);
        assert_eq!(recorded_end_ms(i64::MIN, i64::MIN), i64::MIN);
    }
}
