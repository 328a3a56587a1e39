//! Quiet hours: the search for a moment outside of them in every plausible zone.
//!
//! A moment is quiet in a zone if the local wall-clock minute lies in the span. So local times that
//! a clock change skips are never quiet, and repeated local times are quiet both times. The search
//! jumps from ends of spans to clock changes.

use jiff::{Timestamp, tz::TimeZone};
use smallvec::{SmallVec, smallvec};

use crate::domain::{Millis, QuietSpan};

/// How far ahead a moment is searched.
pub(super) const SEARCH_MS_MAX: i64 = 8 * DAY_MS;

const DAY_MS: i64 = 24 * 60 * MINUTE_MS;
const MINUTE_MS: i64 = 60_000;

/// Quiet hours by the clock of one zone, or of several zones whose clocks agree during the search.
pub(super) struct Quiet {
    span: QuietSpan,
    clock: Clock,
}

/// The offsets of a clock during a search, in order. Never empty.
type Clock = SmallVec<[Stretch; 2]>;

/// A time between two clock changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Stretch {
    /// Local time minus UTC, in milliseconds.
    offset_ms: i64,
    /// The first moment after it.
    until: i64,
}

/// Quiet hours in all of these zones, prepared for a search from this moment on. None if the moment
/// is outside the calendar.
pub(super) fn in_zones(
    span: QuietSpan,
    zones: &[TimeZone],
    from: Millis,
) -> Option<SmallVec<[Quiet; 1]>> {
    let mut clocks: SmallVec<[Clock; 1]> =
        zones.iter().map(|zone| clock(zone, from)).collect::<Option<_>>()?;
    clocks.sort_unstable();
    clocks.dedup();
    Some(clocks.into_iter().map(|clock| Quiet { span, clock }).collect())
}

fn clock(zone: &TimeZone, from: Millis) -> Option<Clock> {
    let end = from.0.checked_add(SEARCH_MS_MAX + 1)?;
    // Clocks are changed at whole seconds.
    let from = Timestamp::from_second(from.0.div_euclid(1000)).ok()?;
    let mut offset_ms = i64::from(zone.to_offset(from).seconds()) * 1000;
    let mut clock: Clock = smallvec![];
    for change in zone.following(from) {
        let at = change.timestamp().as_millisecond();
        if at >= end {
            break;
        }
        let next_ms = i64::from(change.offset().seconds()) * 1000;
        // Some changes affect only the name.
        if next_ms != offset_ms {
            clock.push(Stretch { offset_ms, until: at });
            offset_ms = next_ms;
        }
    }
    clock.push(Stretch { offset_ms, until: end });
    Some(clock)
}

/// The first moment from `from` on at which none of them is quiet, within the time that they cover.
pub(super) fn first_free(quiets: &[Quiet], from: Millis) -> Option<Millis> {
    let mut free = from.0;
    loop {
        let before = free;
        for quiet in quiets {
            free = quiet.first_free(free)?;
        }
        if free == before {
            return Some(Millis(free));
        }
    }
}

impl Quiet {
    fn first_free(&self, mut at: i64) -> Option<i64> {
        for stretch in &self.clock {
            let end = at + ms_left(self.span, at + stretch.offset_ms);
            if end < stretch.until {
                return Some(end);
            }
            at = at.max(stretch.until);
        }
        None
    }
}

/// How much of the span is left at a local time; 0 outside of it.
fn ms_left(span: QuietSpan, local: i64) -> i64 {
    let time = local.rem_euclid(DAY_MS);
    let start = i64::from(span.start_minute) * MINUTE_MS;
    let end = i64::from(span.end_minute) * MINUTE_MS;
    let is_inside = match start <= end {
        true => start <= time && time < end,
        false => start <= time || time < end,
    };
    if is_inside { (end - time).rem_euclid(DAY_MS) } else { 0 }
}
