//! When an act takes effect: at the time that its caller claims, within bounds.
//!
//! * A claim from the future, or from before the bound on the past, is an error for everything but a
//!   stop. A stop is never lost for its time: it is taken as of now, and the caller is told.
//! * An act that takes effect when it is recorded comes after all earlier acts of the person, even within
//!   the same millisecond.
//! * A *live* stop (one that the person, a guardian or staff makes now) comes after them too, whatever the
//!   claim is: the clock that made it may be slow or of another zone. A stop that is reported late, such
//!   as every row of an import, keeps its claim.

use std::fmt;

use jiff::Timestamp;
use thiserror::Error;

use super::{
    act::{Act, CLOCK_SKEW_MS_MAX},
    batch::Batch,
    error::{RecordError, WriteError},
};
use crate::domain::{Action, Change, Millis, Scope, SubjectRef, SubjectState};

/// Milliseconds of a second, of an hour and of a day.
const SECOND_MS: i64 = 1_000;
const HOUR_MS: i64 = 3_600 * SECOND_MS;
const DAY_MS: i64 = 24 * HOUR_MS;
/// About a century.
const CENTURY_MS: i64 = 36_525 * DAY_MS;
/// The largest offset of a time zone from UTC.
const ZONE_MS_MAX: i64 = 14 * HOUR_MS;
/// A claim of a stop that is less ahead than this is the clock of every other machine: nobody is told.
const AHEAD_MS_NOTABLE: i64 = 1_000;
/// 1995-01-01T00:00:00Z: no electronic consent is older.
const FIRST_PLAUSIBLE: Millis = Millis(788_918_400_000);
/// Dates from this year on stand for "never": 2500-01-01T00:00:00Z.
const NEVER: Millis = Millis(16_725_225_600_000);
/// 0100-01-01T00:00:00Z: years before have two digits.
const YEAR_100: Millis = Millis(-59_011_459_200_000);
/// 0000-01-01T00:00:00Z and 0001-01-01T00:00:00Z, in seconds: no calendar has this year.
const YEAR_0_S: i64 = -62_167_219_200;
const YEAR_1_S: i64 = -62_135_596_800;
/// The moments that programs write for a time that was left empty: 0001-01-01, 1601-01-01, 1899-12-30,
/// 1900-01-01, 1904-01-01 and 1970-01-01, all at 00:00:00Z.
const EMPTY_TIMES: [Millis; 6] = [
    Millis(-62_135_596_800_000),
    Millis(-11_644_473_600_000),
    Millis(-2_209_161_600_000),
    Millis(-2_208_988_800_000),
    Millis(-2_082_844_800_000),
    Millis(0),
];

/// What has probably happened to a time that cannot be right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LikelyCause {
    /// The time was empty, and a program wrote the zero of its calendar.
    EmptyTime,
    /// Seconds were read as milliseconds.
    SecondsAsMilliseconds,
    /// Milliseconds were read as seconds.
    MillisecondsAsSeconds,
    /// The year was written with two digits.
    TwoDigitYear,
    /// The date stands for "never".
    Never,
    /// A local time was read as UTC, or the clock is ahead.
    ZoneOrClock,
}

impl LikelyCause {
    /// The probable cause of a claim that is too early or too late.
    #[must_use]
    pub fn of(claimed: Millis, now: Millis) -> Option<Self> {
        let is_plausible =
            |at: i64| (FIRST_PLAUSIBLE.0..=now.0.saturating_add(DAY_MS)).contains(&at);
        let is_empty = |zero: &Millis| claimed.0.abs_diff(zero.0) <= ZONE_MS_MAX.unsigned_abs();
        if EMPTY_TIMES.iter().any(is_empty) {
            Some(Self::EmptyTime)
        } else if claimed < YEAR_100 {
            Some(Self::TwoDigitYear)
        } else if is_plausible(claimed.0.saturating_mul(SECOND_MS)) {
            Some(Self::SecondsAsMilliseconds)
        } else if claimed <= now {
            None
        } else if claimed >= NEVER {
            Some(Self::Never)
        } else if claimed.0 - now.0 <= ZONE_MS_MAX + CLOCK_SKEW_MS_MAX {
            Some(Self::ZoneOrClock)
        } else {
            is_plausible(claimed.0 - CENTURY_MS).then_some(Self::TwoDigitYear)
        }
    }

    /// The probable cause of a number of seconds that is beyond the calendar.
    #[must_use]
    pub fn of_seconds(seconds: i64) -> Option<Self> {
        if (YEAR_0_S..YEAR_1_S).contains(&seconds) {
            return Some(Self::EmptyTime);
        }
        let is_plausible = (FIRST_PLAUSIBLE.0..NEVER.0).contains(&seconds);
        is_plausible.then_some(Self::MillisecondsAsSeconds)
    }

    /// Its name, for programs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::EmptyTime => "EMPTY_TIME",
            Self::SecondsAsMilliseconds => "SECONDS_AS_MILLISECONDS",
            Self::MillisecondsAsSeconds => "MILLISECONDS_AS_SECONDS",
            Self::TwoDigitYear => "TWO_DIGIT_YEAR",
            Self::Never => "NEVER",
            Self::ZoneOrClock => "ZONE_OR_CLOCK",
        }
    }
}

impl fmt::Display for LikelyCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EmptyTime => "a time that was left empty",
            Self::SecondsAsMilliseconds => "seconds that were read as milliseconds",
            Self::MillisecondsAsSeconds => "milliseconds that were read as seconds",
            Self::TwoDigitYear => "a year of two digits",
            Self::Never => "a date that stands for \"never\"",
            Self::ZoneOrClock => "a local time that was read as UTC, or a clock that is ahead",
        })
    }
}

/// A claim of a time that cannot be right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ImpossibleTime {
    /// It has not come yet.
    #[error(
        "is {ahead_ms} ms in the future, the limit is {CLOCK_SKEW_MS_MAX} ms{}",
        suspicion(*.cause)
    )]
    InFuture {
        /// How far.
        ahead_ms: i64,
        /// The probable cause, if there is one.
        cause: Option<LikelyCause>,
    },
    /// It lies before the bound on the past.
    #[error("lies before {}, the earliest time that is accepted{}", text(*.earliest), suspicion(*.cause))]
    TooOld {
        /// The bound.
        earliest: Millis,
        /// The probable cause, if there is one.
        cause: Option<LikelyCause>,
    },
}

impl ImpossibleTime {
    /// The probable cause.
    #[must_use]
    pub fn cause(self) -> Option<LikelyCause> {
        let (Self::InFuture { cause, .. } | Self::TooOld { cause, .. }) = self;
        cause
    }
}

/// Begins with a separator; empty without a cause.
fn suspicion(cause: Option<LikelyCause>) -> String {
    cause.map_or_else(String::new, |cause| format!("; it looks like {cause}"))
}

fn text(at: Millis) -> String {
    Timestamp::from_millisecond(at.0).map_or_else(|_| at.0.to_string(), |at| at.to_string())
}

/// The claimed time of an act that cannot be right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("effective_at {0}")]
pub struct EffectiveAtImpossible(pub ImpossibleTime);

/// Why a stop took effect at another time than its caller claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Moved {
    /// The claim lies ahead of the ledger's clock.
    #[error(
        "effective_at is {ahead_ms} ms ahead of the ledger's clock{}; the stop is taken as of now",
        suspicion(*.cause)
    )]
    FromFuture {
        /// How far.
        ahead_ms: i64,
        /// The probable cause, if there is one.
        cause: Option<LikelyCause>,
    },
    /// The claim lies before the bound on the past.
    #[error(
        "effective_at lies before {}, the earliest time that is accepted{}; the stop is taken as of now",
        text(*.earliest), suspicion(*.cause)
    )]
    TooOld {
        /// The bound.
        earliest: Millis,
        /// The probable cause, if there is one.
        cause: Option<LikelyCause>,
    },
    /// The claim lies before the newest act of the person.
    #[error(
        "effective_at lies before the newest act of the person; the stop is taken as of after it. If the \
         stop is reported late, say so with reported_late"
    )]
    BeforeNewest,
}

impl Moved {
    /// Why an act took effect at `effective_at`; none if that is the claim, or near enough.
    pub(super) fn between(
        claimed: Option<Millis>,
        effective_at: Millis,
        recorded_at: Millis,
        earliest: Millis,
    ) -> Option<Self> {
        let claimed = claimed.filter(|claimed| *claimed != effective_at)?;
        let ahead_ms = claimed.0.saturating_sub(recorded_at.0);
        let cause = LikelyCause::of(claimed, recorded_at);
        if claimed < earliest {
            Some(Self::TooOld { earliest, cause })
        } else if ahead_ms >= AHEAD_MS_NOTABLE {
            Some(Self::FromFuture { ahead_ms, cause })
        } else {
            (claimed < recorded_at).then_some(Self::BeforeNewest)
        }
    }
}

/// When something happened, as the caller claims, but never after `now`.
///
/// # Errors
/// The claim lies beyond the clock skew, or before `earliest`.
pub(super) fn claimed(
    claimed: Option<Millis>,
    now: Millis,
    earliest: Millis,
) -> Result<Millis, ImpossibleTime> {
    let claimed = claimed.unwrap_or(now);
    let ahead_ms = claimed.0.saturating_sub(now.0);
    let cause = || LikelyCause::of(claimed, now);
    if ahead_ms > CLOCK_SKEW_MS_MAX {
        return Err(ImpossibleTime::InFuture { ahead_ms, cause: cause() });
    }
    if claimed < earliest {
        return Err(ImpossibleTime::TooOld { earliest, cause: cause() });
    }
    Ok(claimed.min(now))
}

fn is_stop(change: &Change) -> bool {
    change.action != Action::Grant
}

impl Batch<'_> {
    /// When an act takes effect.
    ///
    /// An act that takes effect when it is recorded, and a live stop, come after all earlier acts of the
    /// subject, even within the same millisecond: otherwise a grant right after a withdrawal would tie
    /// with it, and lose. The same holds for the acts of all linked subjects, with any confidence,
    /// because stops apply over every link. Only for this reason may an act take effect a little
    /// after it was recorded.
    pub(super) fn effective_at(
        &self,
        act: &Act,
        recorded_at: Millis,
        subject: SubjectRef,
        state: &std::sync::Arc<SubjectState>,
    ) -> Result<Millis, RecordError> {
        let has_stop = act.changes.iter().any(is_stop);
        let has_grant = !act.changes.iter().all(is_stop);
        if has_grant {
            self.check_clock()?;
        }
        let is_clock_right = self.check_clock().is_ok();
        let claimed = match claimed(act.effective_at, recorded_at, self.earliest()) {
            Ok(claimed) => claimed,
            Err(_) if has_stop && !has_grant => recorded_at,
            // The caller's clock may be the right one.
            Err(ImpossibleTime::InFuture { .. }) if !is_clock_right => recorded_at,
            Err(impossible) => return Err(EffectiveAtImpossible(impossible).into()),
        };
        let is_live_stop = has_stop && act.actor.speaks_for_subject() && !act.reported_late;
        if claimed < recorded_at && !is_live_stop {
            return Ok(claimed);
        }
        let newest = self.first_moment_after_all(subject, state, has_stop, has_grant)?;
        let effective_at = newest.map_or(claimed, |newest| claimed.max(newest));
        if claimed < recorded_at && effective_at > claimed {
            self.check_grants_stay_barred(act, claimed, subject, state)?;
        }
        Ok(effective_at)
    }

    /// The bound on the past.
    pub(super) fn earliest(&self) -> Millis {
        self.core().limits.earliest_effective_at
    }

    /// The first moment at which a new act is later than all known acts of a subject and those linked to
    /// it.
    fn first_moment_after_all(
        &self,
        subject: SubjectRef,
        state: &SubjectState,
        stops: bool,
        grants: bool,
    ) -> Result<Option<Millis>, WriteError> {
        let linked = self.linked(subject, state)?;
        let states = std::iter::once(state).chain(linked.iter().map(|linked| &*linked.state));
        Ok(states.filter_map(|state| state.first_moment_after(stops, grants)).max())
    }

    /// A stop that is taken as of later takes the grants of its act with it. None of them may pass a stop
    /// that is newer than the claim: a stop beside a grant must not make the grant stronger.
    fn check_grants_stay_barred(
        &self,
        act: &Act,
        claimed: Millis,
        subject: SubjectRef,
        state: &std::sync::Arc<SubjectState>,
    ) -> Result<(), RecordError> {
        let whole = self.whole(subject, state)?;
        for (change, grant) in act.changes.iter().enumerate().filter(|(_, one)| !is_stop(one)) {
            let cell = self.catalog().resolve(&grant.scope).ok().and_then(Scope::as_cell);
            let stop = cell
                .and_then(|(purpose, channel)| whole.latest_stop(self.catalog(), purpose, channel));
            if let Some(stop) = stop.filter(|stop| stop.mark.effective_at >= claimed) {
                return Err(RecordError::GrantBeforeStop { change, index: stop.mark.index });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Millis {
        Millis(text.parse::<Timestamp>().unwrap().as_millisecond())
    }

    #[test]
    fn an_impossible_time_names_its_likely_cause() {
        let now = at("2026-11-30T12:00:00Z");
        for (claimed, want) in [
            ("1970-01-01T00:00:00Z", Some(LikelyCause::EmptyTime)),
            ("1969-12-31T23:00:00Z", Some(LikelyCause::EmptyTime)),
            ("0001-01-01T00:00:00Z", Some(LikelyCause::EmptyTime)),
            ("1601-01-01T00:00:00Z", Some(LikelyCause::EmptyTime)),
            ("1899-12-30T00:00:00Z", Some(LikelyCause::EmptyTime)),
            ("1904-01-01T00:00:00Z", Some(LikelyCause::EmptyTime)),
            // 2020-09-13 and today, in seconds.
            ("1970-01-19T12:26:40Z", Some(LikelyCause::SecondsAsMilliseconds)),
            ("1970-01-21T15:34:24Z", Some(LikelyCause::SecondsAsMilliseconds)),
            ("0024-05-04T00:00:00Z", Some(LikelyCause::TwoDigitYear)),
            ("2098-05-04T00:00:00Z", Some(LikelyCause::TwoDigitYear)),
            ("9999-12-30T00:00:00Z", Some(LikelyCause::Never)),
            ("2026-11-30T14:00:00Z", Some(LikelyCause::ZoneOrClock)),
            ("1985-05-04T00:00:00Z", None),
            ("2027-11-30T12:00:00Z", None),
        ] {
            assert_eq!(LikelyCause::of(at(claimed), now), want, "{claimed}");
        }
        let milliseconds = LikelyCause::of_seconds(1_600_000_000_000);
        assert_eq!(milliseconds, Some(LikelyCause::MillisecondsAsSeconds));
        assert_eq!(LikelyCause::of_seconds(YEAR_0_S), Some(LikelyCause::EmptyTime));
        assert_eq!(LikelyCause::of_seconds(YEAR_0_S - 1), None);
        assert_eq!(LikelyCause::of_seconds(i64::MAX), None);
    }

    #[test]
    fn a_claim_is_taken_between_its_bounds() {
        let (earliest, now) = (at("1995-01-01T00:00:00Z"), at("2026-11-30T12:00:00Z"));
        let take = |at| claimed(Some(at), now, earliest);
        assert_eq!(claimed(None, now, earliest), Ok(now));
        assert_eq!(take(earliest), Ok(earliest));
        assert_eq!(take(now.plus_ms(CLOCK_SKEW_MS_MAX)), Ok(now));
        let future = take(now.plus_ms(CLOCK_SKEW_MS_MAX + 1));
        assert!(matches!(future, Err(ImpossibleTime::InFuture { ahead_ms: 300_001, .. })));
        let old = take(earliest.plus_ms(-1)).unwrap_err();
        assert_eq!(
            old.to_string(),
            "lies before 1995-01-01T00:00:00Z, the earliest time that is accepted"
        );
    }
}
