//! Obligations: how often, when and in which language the data subject may be contacted after an
//! ALLOW, and the earliest moment for it.
//!
//! Obligations are preferences; they never turn an ALLOW into a DENY. To callers ALLOW means "now", so
//! while one of them is not met, [`DueAll::effect`] turns an ALLOW into NOT_NOW. Nothing else does. Like [`decide`](crate::decide)
//! this is pure: it knows no clock, time and earlier uses are arguments, and the time zone database
//! is part of the program. Where several time zones are plausible, a moment must be allowed in all
//! of them.

mod quiet;
mod zones;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use smallvec::SmallVec;

use crate::domain::{
    Contact, Effect, FrequencyCap, Millis, Obligation, ObligationKind, QuietSpan, Region,
};

use quiet::Quiet;
use zones::Zones;

pub use zones::is_time_zone;

/// A condition of a use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Use at most this often.
    FrequencyLimit(FrequencyCap),
    /// Do not use within these hours.
    QuietHours {
        /// The hours.
        span: QuietSpan,
        /// IANA time zone; empty means the data subject's own zones.
        time_zone: String,
    },
    /// Address the data subject in this language (BCP 47).
    PreferredLanguage(Arc<str>),
}

impl Condition {
    /// Its kind, if a use can fail to meet it by its moment.
    #[must_use]
    pub fn kind(&self) -> Option<ObligationKind> {
        match self {
            Self::FrequencyLimit(_) => Some(ObligationKind::FrequencyLimit),
            Self::QuietHours { .. } => Some(ObligationKind::QuietHours),
            Self::PreferredLanguage(_) => None,
        }
    }
}

/// A condition, and the first moment at which it allows the use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// The condition.
    pub condition: Condition,
    /// The first moment, from the decision on, at which the condition allows the use. None if the
    /// condition does not depend on time, or if no moment is known to be allowed.
    pub not_before: Option<Millis>,
    /// Whether no moment within the search is known to be allowed.
    pub indeterminate: bool,
    /// Whether that is because the quiet hours, alone or with others, leave no moment of any day.
    pub leaves_no_moment: bool,
    /// If the condition allows the use at the moment of the decision: the first later moment at which
    /// it stops to do so with no new entry. None if there is none.
    pub until: Option<Millis>,
}

/// All conditions of a use.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DueAll {
    /// The purpose's conditions in their order, then the data subject's own.
    pub obligations: Vec<Due>,
    /// The first moment at which all of them allow the use. None if that is now, or if one of them
    /// is indeterminate.
    pub not_before: Option<Millis>,
}

impl DueAll {
    /// Whether all conditions allow the use at the moment of the decision.
    #[must_use]
    pub fn is_met(&self) -> bool {
        self.not_before.is_none() && !self.is_indeterminate()
    }

    /// Whether no moment is known to be allowed.
    #[must_use]
    pub fn is_indeterminate(&self) -> bool {
        self.obligations.iter().any(|due| due.indeterminate)
    }

    /// The effect that callers hear: an ALLOW of the rules is NOT_NOW while a condition is not met.
    #[must_use]
    pub fn effect(&self, decided: Effect) -> Effect {
        match decided {
            Effect::Allow if !self.is_met() => Effect::NotNow,
            effect => effect,
        }
    }

    /// The first moment at which [`Self::effect`] could change with no new entry, if the rules alone
    /// say ALLOW all the time.
    #[must_use]
    pub fn changes_at(&self) -> Option<Millis> {
        match self.is_met() {
            true => self.obligations.iter().filter_map(|due| due.until).min(),
            false => self.not_before,
        }
    }

    /// The kinds of conditions that a use at the moment of the decision does not meet, in their order,
    /// each once.
    #[must_use]
    pub fn broken(&self, now: Millis) -> Vec<ObligationKind> {
        let mut kinds: Vec<_> = self.unmet(now).filter_map(|due| due.condition.kind()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    }

    /// The conditions that do not allow the use at the moment of the decision. Where conditions allow
    /// no common moment, these are all that are part of that.
    fn unmet(&self, now: Millis) -> impl Iterator<Item = &Due> {
        self.obligations
            .iter()
            .filter(move |due| due.indeterminate || due.not_before.is_some_and(|at| at > now))
    }
}

/// The conditions of a purpose and a data subject for a use at this moment.
///
/// `recent_uses` are the moments of earlier uses, in any order, as far back as the longest period
/// that a limit names. Without conditions nothing is allocated.
///
/// If every quiet hours condition allows some moment but no moment is allowed by all, they are all
/// indeterminate.
#[must_use]
pub fn due(
    purpose: &[Obligation],
    contact: Option<&Contact>,
    region: Option<Region>,
    recent_uses: &[Millis],
    now: Millis,
) -> DueAll {
    let known = Known { contact, region, recent_uses };
    let personal = contact.into_iter().flat_map(own_conditions);
    let conditions = purpose.iter().map(Condition::from).chain(personal);
    let mut obligations: Vec<Due> = conditions.map(|condition| known.due(condition, now)).collect();
    let not_before = known.settle(&mut obligations).filter(|moment| *moment > now);
    find_full_days(&mut obligations);
    DueAll { obligations, not_before }
}

/// Whether a use at `at` is one too many for a frequency limit: some period has it, and as many of the
/// other uses as the limit permits. The others may be earlier or later, in any order.
#[must_use]
pub fn overspends(due: &DueAll, others: &[Millis], at: Millis) -> bool {
    let mut others = others.to_vec();
    others.sort_unstable();
    let spends = |cap: &FrequencyCap| {
        let Some(permitted) = usize::try_from(cap.uses_max).ok().filter(|max| *max > 0) else {
            return false;
        };
        others.windows(permitted).any(|uses| {
            let (first, last) = (uses[0].min(at), uses[permitted - 1].max(at));
            last.0.saturating_sub(first.0) < cap.period_ms
        })
    };
    due.obligations.iter().any(|due| match &due.condition {
        Condition::FrequencyLimit(cap) => spends(cap),
        Condition::QuietHours { .. } | Condition::PreferredLanguage(_) => false,
    })
}

impl From<&Obligation> for Condition {
    fn from(obligation: &Obligation) -> Self {
        match *obligation {
            Obligation::FrequencyLimit { uses_max, period_ms } => {
                Self::FrequencyLimit(FrequencyCap { uses_max, period_ms })
            }
            Obligation::QuietHours { start_minute, end_minute, ref time_zone } => {
                let span = QuietSpan { start_minute, end_minute };
                Self::QuietHours { span, time_zone: time_zone.clone() }
            }
        }
    }
}

/// The data subject's own conditions. They never contain its time zones: the moment is enough.
fn own_conditions(contact: &Contact) -> impl Iterator<Item = Condition> {
    let hours = |span| Condition::QuietHours { span, time_zone: String::new() };
    let language = contact.language.as_ref().and_then(|field| field.value.clone());
    let conditions = [
        contact.quiet_hours().map(hours),
        contact.frequency_limit().map(Condition::FrequencyLimit),
        language.map(Condition::PreferredLanguage),
    ];
    conditions.into_iter().flatten()
}

/// The data subject's preferences and region, and earlier uses.
struct Known<'a> {
    contact: Option<&'a Contact>,
    region: Option<Region>,
    recent_uses: &'a [Millis],
}

impl Known<'_> {
    fn due(&self, condition: Condition, now: Millis) -> Due {
        let (not_before, until) = match &condition {
            Condition::PreferredLanguage(_) => {
                return Due {
                    condition,
                    not_before: None,
                    indeterminate: false,
                    leaves_no_moment: false,
                    until: None,
                };
            }
            Condition::FrequencyLimit(cap) => {
                (first_unspent(*cap, self.recent_uses, now), self.spent_at(*cap, now))
            }
            Condition::QuietHours { span, time_zone } => self.hours(*span, time_zone, now),
        };
        let is_met = not_before == Some(now);
        Due {
            condition,
            not_before,
            indeterminate: not_before.is_none(),
            leaves_no_moment: false,
            until: until.filter(|_| is_met),
        }
    }

    /// The first free moment from `now` on, and the first quiet one.
    fn hours(
        &self,
        span: QuietSpan,
        time_zone: &str,
        now: Millis,
    ) -> (Option<Millis>, Option<Millis>) {
        let zones = self.plausible(time_zone);
        match quiet::in_zones(span, zones.differing(now), now) {
            Some(quiets) => (quiet::first_free(&quiets, now), quiet::first_quiet(&quiets, now)),
            None => (None, None),
        }
    }

    /// The first moment after `now` at which uses that lie in the future use the limit up. The clock of
    /// a ledger may have been ahead.
    fn spent_at(&self, cap: FrequencyCap, now: Millis) -> Option<Millis> {
        let spends = |at: &Millis| first_unspent(cap, self.recent_uses, *at) != Some(*at);
        self.recent_uses.iter().copied().filter(|at| *at > now).filter(spends).min()
    }

    /// The first moment that is right for all, if there is one and any of them speaks of time.
    fn settle(&self, obligations: &mut [Due]) -> Option<Millis> {
        let moments = obligations.iter().filter_map(|due| due.not_before);
        let (first, last) = (moments.clone().min()?, moments.max()?);
        if obligations.iter().any(|due| due.indeterminate) {
            return None;
        }
        if first == last {
            return Some(last);
        }
        let together = self.first_for_all(obligations, last);
        if together.is_none() {
            for due in obligations {
                due.contradicted();
            }
        }
        together
    }

    fn first_for_all(&self, obligations: &[Due], from: Millis) -> Option<Millis> {
        let conditions: SmallVec<[&Condition; 4]> =
            obligations.iter().map(|due| &due.condition).collect();
        self.first_under(&conditions, from)
    }

    /// The first moment from `from` on at which all conditions allow the use. Quiet hours are
    /// searched again from each moment that the frequency limits allow.
    fn first_under(&self, conditions: &[&Condition], from: Millis) -> Option<Millis> {
        let mut from = self.first_unspent(conditions, from)?;
        loop {
            let mut quiets: SmallVec<[Quiet; 2]> = SmallVec::new();
            for condition in conditions {
                if let Condition::QuietHours { span, time_zone } = condition {
                    let zones = self.plausible(time_zone);
                    quiets.extend(quiet::in_zones(*span, zones.differing(from), from)?);
                }
            }
            let free = quiet::first_free(&quiets, from)?;
            from = self.first_unspent(conditions, free)?;
            if from == free {
                return Some(free);
            }
        }
    }

    /// The first moment from `from` on at which no frequency limit is used up.
    fn first_unspent(&self, conditions: &[&Condition], mut from: Millis) -> Option<Millis> {
        loop {
            let before = from;
            for condition in conditions {
                if let Condition::FrequencyLimit(cap) = condition {
                    from = first_unspent(*cap, self.recent_uses, from)?;
                }
            }
            if from == before {
                return Some(from);
            }
        }
    }

    fn plausible(&self, time_zone: &str) -> Zones {
        if !time_zone.is_empty() {
            return Zones::named([time_zone]);
        }
        match self.contact.map(Contact::time_zones).unwrap_or_default() {
            [] => Zones::of(self.region),
            names => Zones::named(names.iter().map(String::as_str)),
        }
    }
}

impl Due {
    /// Together with others, its hours allow no moment. A caller that reads only this condition
    /// must wait too.
    fn contradicted(&mut self) {
        if let Condition::QuietHours { .. } = self.condition {
            (self.not_before, self.indeterminate) = (None, true);
            (self.leaves_no_moment, self.until) = (true, None);
        }
    }

    /// The hours, and the zone whose clock they are of.
    fn hours(&self) -> Option<(QuietSpan, &str)> {
        match &self.condition {
            Condition::QuietHours { span, time_zone } => Some((*span, time_zone)),
            Condition::FrequencyLimit(_) | Condition::PreferredLanguage(_) => None,
        }
    }
}

/// Marks quiet hours of one clock that cover the whole day together. That holds whatever the zone is,
/// so a caller need not wait until it is known.
fn find_full_days(obligations: &mut [Due]) {
    for position in 0..obligations.len() {
        let due = &obligations[position];
        let Some((_, clock)) = due.hours().filter(|_| due.indeterminate) else { continue };
        let same_clock = obligations.iter().filter_map(Due::hours).filter(|(_, of)| *of == clock);
        let spans: SmallVec<[QuietSpan; 4]> = same_clock.map(|(span, _)| span).collect();
        if quiet::cover_the_day(&spans) {
            obligations[position].leaves_no_moment = true;
        }
    }
}

/// The first moment from `from` on at which fewer uses than allowed lie within the period that ends
/// there. Uses in the future count from their own moment on.
fn first_unspent(cap: FrequencyCap, uses: &[Millis], mut from: Millis) -> Option<Millis> {
    let allowed = usize::try_from(cap.uses_max).ok().filter(|allowed| *allowed > 0)?;
    loop {
        let after = from.0.saturating_sub(cap.period_ms);
        let counts = |at: &Millis| after < at.0 && *at <= from;
        if uses.iter().filter(|at| counts(at)).count() < allowed {
            return Some(from);
        }
        let mut counted: Vec<Millis> = uses.iter().copied().filter(counts).collect();
        // Until the oldest of the last uses leaves the period, they alone spend the limit.
        let oldest = counted.len() - allowed;
        let oldest = *counted.select_nth_unstable(oldest).1;
        from = Millis(oldest.0.checked_add(cap.period_ms)?);
    }
}
