//! Quiet hours: the search for a moment outside of them in every plausible zone.
//!
//! A moment is quiet in a zone if the local wall-clock minute lies in the span. So local times that
//! a clock change skips are never quiet, and repeated local times are quiet both times. The search
//! jumps from ends of spans to clock changes.

use std::{cell::RefCell, collections::HashMap, rc::Rc};

use jiff::{Timestamp, tz::TimeZone};
use smallvec::{SmallVec, smallvec};

use super::zones::Differing;
use crate::domain::{Millis, QuietSpan};

/// How far ahead a moment is searched.
pub(super) const SEARCH_MS_MAX: i64 = 8 * DAY_MS;

/// How long the clocks of listed zones are kept, by the time that is searched.
const HOUR_MS: i64 = 60 * MINUTE_MS;
/// The greatest number of lists of clocks that a thread keeps.
const KEPT_MAX: usize = 64;

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

/// Clocks that differ.
type Clocks = SmallVec<[Clock; 1]>;

thread_local! {
    /// Clocks of listed zones by where the list begins, and by the hour. Where the zone of a data subject
    /// is not known there are hundreds, and the same for all such data subjects.
    static KEPT: RefCell<HashMap<(usize, i64), Rc<Clocks>>> = RefCell::default();
}

/// Quiet hours in all of these zones, prepared for a search from this moment on. None if the moment
/// is outside the calendar.
pub(super) fn in_zones(
    span: QuietSpan,
    zones: Differing<'_>,
    from: Millis,
) -> Option<SmallVec<[Quiet; 1]>> {
    let end = from.0.checked_add(SEARCH_MS_MAX + 1)?;
    let clocks = match zones {
        Differing::Named(zones) => clocks(zones, from, end)?,
        Differing::Listed(zones) => {
            let cut = kept(zones, from)?.iter().map(|clock| part(clock, from, end)).collect();
            distinct(cut)
        }
    };
    Some(clocks.into_iter().map(|clock| Quiet { span, clock }).collect())
}

/// The clocks of listed zones, for every search that begins within the hour of `from`.
fn kept(zones: &'static [TimeZone], from: Millis) -> Option<Rc<Clocks>> {
    let hour = from.0.div_euclid(HOUR_MS);
    let key = (zones.as_ptr().addr(), hour);
    KEPT.with_borrow_mut(|kept| {
        if let Some(clocks) = kept.get(&key) {
            return Some(Rc::clone(clocks));
        }
        let start = hour.checked_mul(HOUR_MS)?;
        let end = start.checked_add(HOUR_MS + SEARCH_MS_MAX + 1)?;
        let clocks = Rc::new(clocks(zones, Millis(start), end)?);
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert(key, Rc::clone(&clocks));
        Some(clocks)
    })
}

/// The part of a clock from a moment on, before `end`.
fn part(clock: &Clock, from: Millis, end: i64) -> Clock {
    let mut part = Clock::new();
    for stretch in clock.iter().filter(|stretch| stretch.until > from.0) {
        part.push(Stretch { until: stretch.until.min(end), ..*stretch });
        if stretch.until >= end {
            break;
        }
    }
    part
}

fn clocks(zones: &[TimeZone], from: Millis, end: i64) -> Option<Clocks> {
    zones.iter().map(|zone| clock(zone, from, end)).collect::<Option<_>>().map(distinct)
}

fn distinct(mut clocks: Clocks) -> Clocks {
    clocks.sort_unstable();
    clocks.dedup();
    clocks
}

fn clock(zone: &TimeZone, from: Millis, end: i64) -> Option<Clock> {
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

/// The first moment from `from` on at which one of them is quiet. The end of the search if there is
/// none: nothing is known beyond it.
pub(super) fn first_quiet(quiets: &[Quiet], from: Millis) -> Option<Millis> {
    quiets.iter().map(|quiet| Millis(quiet.first_quiet(from.0))).min()
}

/// Whether spans of the same clock leave no minute of the day.
pub(super) fn cover_the_day(spans: &[QuietSpan]) -> bool {
    let is_quiet = |minute: i64| spans.iter().any(|span| ms_left(*span, minute * MINUTE_MS) > 0);
    (0..DAY_MS / MINUTE_MS).all(is_quiet)
}

impl Quiet {
    fn first_quiet(&self, mut at: i64) -> i64 {
        for stretch in &self.clock {
            let start = at + ms_to_start(self.span, at + stretch.offset_ms);
            if start < stretch.until {
                return start;
            }
            at = at.max(stretch.until);
        }
        at
    }

    fn first_free(&self, mut at: i64) -> Option<i64> {
        for stretch in &self.clock {
            let left = ms_left(self.span, at + stretch.offset_ms);
            if left < DAY_MS && at + left < stretch.until {
                return Some(at + left);
            }
            at = at.max(stretch.until);
        }
        None
    }
}

/// How long it is from a local time to the next quiet moment; 0 within the span.
fn ms_to_start(span: QuietSpan, local: i64) -> i64 {
    match ms_left(span, local) {
        0 => (i64::from(span.start_minute) * MINUTE_MS - local).rem_euclid(DAY_MS),
        _ => 0,
    }
}

/// How much of the span is left at a local time; 0 outside of it. A span that ends where it starts is
/// the whole day, every day: a whole day is always left of it.
fn ms_left(span: QuietSpan, local: i64) -> i64 {
    let time = local.rem_euclid(DAY_MS);
    let start = i64::from(span.start_minute) * MINUTE_MS;
    let end = i64::from(span.end_minute) * MINUTE_MS;
    if start == end {
        return DAY_MS;
    }
    let is_inside = match start < end {
        true => start <= time && time < end,
        false => start <= time || time < end,
    };
    if is_inside { (end - time).rem_euclid(DAY_MS) } else { 0 }
}
