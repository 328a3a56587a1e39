//! Ends of grants, by the hour.
//!
//! How long a consent is valid is public, so the time between an expiry and the act that it ends would link
//! the two. Therefore an end that is a day or more away is rounded down to the full hour when it is
//! recorded, and all ends of one hour stand in one entry. Decisions know the exact end and do not wait.

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

/// The full hour whose entry holds an end: the first that is not before it. An end that was not rounded
/// waits for it too.
#[must_use]
pub fn entry_hour_ms(ends_at_ms: i64) -> i64 {
    let into_the_hour = ends_at_ms.rem_euclid(HOUR_MS);
    if into_the_hour == 0 { ends_at_ms } else { ends_at_ms.saturating_add(HOUR_MS - into_the_hour) }
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

    #[test]
    fn every_end_stands_in_the_entry_of_the_next_full_hour() {
        assert_eq!(entry_hour_ms(7 * HOUR_MS), 7 * HOUR_MS);
        assert_eq!(entry_hour_ms(7 * HOUR_MS + 1), 8 * HOUR_MS);
        assert_eq!(entry_hour_ms(-1), 0);
    }
}
