//! Corrections of the clock: what entries say whose times a clock gave that was ahead.
//!
//! The true time of such an entry is not known, but for the span that it lies in: from the last right
//! time before these entries to the first right time after them. A clock that is ahead is never early, so
//! the time that it gave is a bound, too. Of what an act may then mean, that counts which denies: a stop
//! is as late as it can have been, and a grant that would lift a stop is as early. The terms of a grant
//! count against other grants as the latest, as they did when they were recorded.
//!
//! A caller's own claim that lies before the span was not made by this clock, and stays.

use std::ops::Range;

use super::{
    state::{Grant, Mark, Stop},
    time::{Millis, recorded_end_after},
};

/// A correction of the clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClockCorrection {
    /// Index of the entry that makes it.
    pub index: u64,
    /// When that was recorded.
    pub recorded_at: Millis,
    /// The entries that the wrong clock gave their times.
    pub entries: Range<u64>,
    /// The last right time before them.
    pub right_until: Millis,
    /// The first right time after them.
    pub right_again: Millis,
}

impl ClockCorrection {
    /// The earliest moment at which an act can have taken effect.
    #[must_use]
    pub fn earliest(&self, mark: Mark) -> Mark {
        self.at_most(mark, self.right_until)
    }

    /// The latest moment at which an act can have taken effect.
    #[must_use]
    pub fn latest(&self, mark: Mark) -> Mark {
        self.at_most(mark, self.right_again)
    }

    /// When it was made, at the latest. The time of its entry has no milliseconds.
    #[must_use]
    pub fn made_by(&self) -> Millis {
        match self.entries.end == self.index {
            // No entry came between: it was made at the first right time.
            true => self.right_again,
            false => self.recorded_at.end_of_second(),
        }
    }

    /// Whether an act can have taken effect earlier than it says.
    #[must_use]
    pub fn changes(&self, mark: Mark) -> bool {
        self.earliest(mark) != mark
    }

    /// Gives a stop its time as the latest. Other acts may be of the same moment then.
    pub fn correct_stop(&self, stop: &mut Stop) {
        let latest = self.latest(stop.mark);
        if latest != stop.mark {
            stop.mark = latest;
            stop.first_index = stop.first_index.min(self.entries.start);
        }
    }

    /// Gives a grant its time as the latest. If it ends by the default of its purpose, the time counts from
    /// the earliest, and is rounded as when it was recorded.
    pub fn correct_grant(&self, grant: &mut Grant, validity_ms: Option<i64>) {
        if let Some(validity_ms) = validity_ms
            && grant.expires_at == Some(recorded_end_after(grant.mark.effective_at, validity_ms))
        {
            let earliest = self.earliest(grant.mark).effective_at;
            grant.expires_at = Some(recorded_end_after(earliest, validity_ms));
        }
        grant.mark = self.latest(grant.mark);
    }

    /// The end of a time that the ledger gave from when it recorded an entry on.
    #[must_use]
    pub fn end_of_span(&self, index: u64, recorded_at: Millis, ends_at: Millis) -> Millis {
        let recorded = Mark { effective_at: recorded_at, index };
        let ahead_ms = recorded_at.0.saturating_sub(self.earliest(recorded).effective_at.0);
        Millis(ends_at.0.saturating_sub(ahead_ms))
    }

    fn at_most(&self, mark: Mark, bound: Millis) -> Mark {
        match self.entries.contains(&mark.index) {
            true => Mark { effective_at: mark.effective_at.min(bound), ..mark },
            false => mark,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Actor;

    const CORRECTION: ClockCorrection = ClockCorrection {
        index: 9,
        recorded_at: Millis(200),
        entries: 3..7,
        right_until: Millis(100),
        right_again: Millis(200),
    };

    fn mark(effective_at: i64, index: u64) -> Mark {
        Mark { effective_at: Millis(effective_at), index }
    }

    #[test]
    fn a_time_of_the_wrong_clock_lies_between_the_right_ones() {
        for (given, earliest, latest) in [(90, 90, 90), (150, 100, 150), (900, 100, 200)] {
            for index in 3..7 {
                assert_eq!(CORRECTION.earliest(mark(given, index)), mark(earliest, index));
                assert_eq!(CORRECTION.latest(mark(given, index)), mark(latest, index));
            }
            for index in [2, 7, 9] {
                assert!(!CORRECTION.changes(mark(given, index)), "{given} {index}");
            }
        }
    }

    #[test]
    fn a_default_end_counts_from_the_earliest_moment_and_a_named_end_stays() {
        let grant = |expires_at| Grant {
            mark: mark(900, 4),
            actor: Actor::Subject,
            purpose_version: 1,
            expires_at: Some(Millis(expires_at)),
            data_categories: None,
            authority_ends_at: None,
            confirmed_by: None,
        };
        for (given, want) in [(950, 150), (951, 951), (120, 120)] {
            let mut grant = grant(given);
            // A second time changes nothing.
            for _ in 0..2 {
                CORRECTION.correct_grant(&mut grant, Some(50));
                assert_eq!((grant.expires_at, grant.mark), (Some(Millis(want)), mark(200, 4)));
            }
        }
        assert_eq!(CORRECTION.end_of_span(4, Millis(900), Millis(950)), Millis(150));
        assert_eq!(CORRECTION.end_of_span(8, Millis(900), Millis(950)), Millis(950));
    }
}
