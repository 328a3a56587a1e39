//! Contact preferences of data subjects. They are not part of consent states.
//!
//! Each field is independent. An act names some of them, and of the acts that name a field the
//! latest counts, by effect and then by index: the order of arrival does not matter.

use std::sync::Arc;

use super::{state::Mark, time::Millis};

/// The greatest number of plausible time zones of a data subject.
pub const TIME_ZONES_MAX: usize = 16;
/// The longest language tag, in bytes (BCP 47, section 4.4.1).
pub const LANGUAGE_BYTES_MAX: usize = 35;

/// A daily span of local time without uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct QuietSpan {
    /// First minute, from local midnight.
    pub start_minute: u32,
    /// First minute after the span, from local midnight.
    pub end_minute: u32,
}

/// At most so many uses within a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FrequencyCap {
    /// The greatest number of uses, at least 1.
    pub uses_max: u32,
    /// Length of the period, in milliseconds.
    pub period_ms: i64,
}

/// The instruction of an act for one field.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Said<T> {
    /// None: the earlier value stays.
    #[default]
    Nothing,
    /// Clear the field.
    Clear,
    /// Set this value.
    Value(T),
}

impl<T> Said<T> {
    /// The new value, if the act sets one.
    #[must_use]
    pub fn value(&self) -> Option<&T> {
        if let Self::Value(value) = self { Some(value) } else { None }
    }
}

/// The preferences that an act names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ContactChange {
    /// Plausible IANA time zones; one if the zone is known.
    pub time_zones: Said<Vec<String>>,
    /// BCP 47 language tag.
    pub language: Said<String>,
    /// Hours without messages.
    pub quiet_hours: Said<QuietSpan>,
    /// At most so many messages.
    pub frequency_limit: Said<FrequencyCap>,
}

impl ContactChange {
    /// Whether the act changes no preferences.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A field, and the act that it is from. A field that was cleared keeps the mark of the act that
/// cleared it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Field<T> {
    /// The act.
    pub mark: Mark,
    /// Its value; none if the act cleared it.
    pub value: Option<T>,
}

/// The contact preferences of a data subject.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Contact {
    /// Plausible IANA time zones; one if the zone is known.
    pub time_zones: Option<Field<Arc<[String]>>>,
    /// BCP 47 language tag.
    pub language: Option<Field<Arc<str>>>,
    /// Hours without messages.
    pub quiet_hours: Option<Field<QuietSpan>>,
    /// At most so many messages.
    pub frequency_limit: Option<Field<FrequencyCap>>,
}

impl Contact {
    /// Folds in the preferences of an act.
    pub fn merge(&mut self, mark: Mark, change: &ContactChange) {
        merge_said(&mut self.time_zones, mark, &change.time_zones, |zones| zones.clone().into());
        merge_said(&mut self.language, mark, &change.language, |tag| tag.as_str().into());
        merge_said(&mut self.quiet_hours, mark, &change.quiet_hours, |span| *span);
        merge_said(&mut self.frequency_limit, mark, &change.frequency_limit, |cap| *cap);
    }

    /// Folds in the preferences of another data subject that is the same person.
    pub fn unite(&mut self, other: &Self) {
        keep_later(&mut self.time_zones, other.time_zones.clone());
        keep_later(&mut self.language, other.language.clone());
        keep_later(&mut self.quiet_hours, other.quiet_hours.clone());
        keep_later(&mut self.frequency_limit, other.frequency_limit.clone());
    }

    /// The plausible time zones; empty if none are known.
    #[must_use]
    pub fn time_zones(&self) -> &[String] {
        self.time_zones.as_ref().and_then(|field| field.value.as_deref()).unwrap_or_default()
    }

    /// The language.
    #[must_use]
    pub fn language(&self) -> Option<&str> {
        self.language.as_ref()?.value.as_deref()
    }

    /// Hours without messages.
    #[must_use]
    pub fn quiet_hours(&self) -> Option<QuietSpan> {
        self.quiet_hours.as_ref()?.value
    }

    /// At most so many messages.
    #[must_use]
    pub fn frequency_limit(&self) -> Option<FrequencyCap> {
        self.frequency_limit.as_ref()?.value
    }

    /// The latest moment at which an act that counts here took effect.
    pub(super) fn latest(&self) -> Option<Millis> {
        self.marks().map(|mark| mark.effective_at).max()
    }

    /// The acts that count here.
    pub(super) fn marks(&self) -> impl Iterator<Item = Mark> {
        let marks = [
            self.time_zones.as_ref().map(|field| field.mark),
            self.language.as_ref().map(|field| field.mark),
            self.quiet_hours.as_ref().map(|field| field.mark),
            self.frequency_limit.as_ref().map(|field| field.mark),
        ];
        marks.into_iter().flatten()
    }

    /// As [`Self::marks`], to be changed.
    pub(super) fn marks_mut(&mut self) -> impl Iterator<Item = &mut Mark> {
        let marks = [
            self.time_zones.as_mut().map(|field| &mut field.mark),
            self.language.as_mut().map(|field| &mut field.mark),
            self.quiet_hours.as_mut().map(|field| &mut field.mark),
            self.frequency_limit.as_mut().map(|field| &mut field.mark),
        ];
        marks.into_iter().flatten()
    }

    /// About how many bytes of heap memory it takes.
    pub(super) fn heap_bytes(&self) -> usize {
        let zones = self.time_zones().iter().map(|zone| size_of::<String>() + zone.len());
        zones.sum::<usize>() + self.language().map_or(0, str::len)
    }
}

fn merge_said<S, T>(
    field: &mut Option<Field<T>>,
    mark: Mark,
    said: &Said<S>,
    value: impl Fn(&S) -> T,
) {
    let value = match said {
        Said::Nothing => return,
        Said::Clear => None,
        Said::Value(said) => Some(value(said)),
    };
    keep_later(field, Some(Field { mark, value }));
}

fn keep_later<T>(field: &mut Option<Field<T>>, other: Option<Field<T>>) {
    let mark = |field: &Option<Field<T>>| field.as_ref().map(|field| field.mark);
    if mark(field) < mark(&other) {
        *field = other;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_each_field_the_latest_act_counts_whatever_the_order_of_arrival() {
        let mark = |effective_at, index| Mark { effective_at: Millis(effective_at), index };
        let language = |tag: &str| ContactChange {
            language: Said::Value(tag.to_owned()),
            ..ContactChange::default()
        };
        let zone = ContactChange {
            time_zones: Said::Value(vec!["Europe/Vienna".to_owned()]),
            ..ContactChange::default()
        };
        let clear = ContactChange { language: Said::Clear, ..ContactChange::default() };
        let acts = [
            (mark(5, 1), language("de")),
            (mark(3, 2), language("fr")),
            (mark(1, 3), zone),
            (mark(9, 4), clear),
        ];
        let mut one = Contact::default();
        for (mark, change) in &acts[..3] {
            one.merge(*mark, change);
        }
        assert_eq!((one.language(), one.time_zones().len()), (Some("de"), 1));
        one.merge(acts[3].0, &acts[3].1);
        assert_eq!((one.language(), one.time_zones().len()), (None, 1));

        let mut other = Contact::default();
        for (mark, change) in acts.iter().rev() {
            other.merge(*mark, change);
        }
        assert_eq!(one, other);

        let (mut left, mut right) = (Contact::default(), Contact::default());
        left.merge(acts[0].0, &acts[0].1);
        right.merge(acts[1].0, &acts[1].1);
        let mut united = right.clone();
        united.unite(&left);
        left.unite(&right);
        assert_eq!(left, united);
        assert_eq!(left.language(), Some("de"));
    }
}
