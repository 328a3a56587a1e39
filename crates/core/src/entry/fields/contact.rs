//! Preferences of how to be contacted, as a message and back.

use super::duration;
use crate::{
    domain::{ContactChange, FrequencyCap, QuietSpan, Said},
    proto::{self, ledger},
};

/// Preferences of how to be contacted, as a message.
#[must_use]
pub fn contact_to_proto(contact: &ContactChange) -> proto::ContactPreferences {
    let cleared = [
        ("time_zones", contact.time_zones == Said::Clear),
        ("language", contact.language == Said::Clear),
        ("quiet_hours", contact.quiet_hours == Said::Clear),
        ("frequency_limit", contact.frequency_limit == Said::Clear),
    ];
    proto::ContactPreferences {
        time_zones: contact.time_zones.value().cloned().unwrap_or_default(),
        language: contact.language.value().cloned().unwrap_or_default(),
        quiet_hours: contact.quiet_hours.value().map(|span| proto::QuietHours {
            start_minute: span.start_minute,
            end_minute: span.end_minute,
            time_zone: String::new(),
        }),
        frequency_limit: contact.frequency_limit.value().map(|cap| proto::FrequencyLimit {
            uses_max: cap.uses_max,
            period: Some(duration(cap.period_ms)),
        }),
        clear: cleared
            .iter()
            .filter(|(_, is_cleared)| *is_cleared)
            .map(|(name, _)| (*name).to_owned())
            .collect(),
    }
}

/// Preferences of how to be contacted, as a message of the ledger; none if the act names none.
pub(in crate::entry) fn contact_to_message(contact: &ContactChange) -> Option<ledger::Preferences> {
    use ledger::PreferenceField::{FrequencyCap, Language, QuietSpan, TimeZones};
    let cleared = [
        (TimeZones, contact.time_zones == Said::Clear),
        (Language, contact.language == Said::Clear),
        (QuietSpan, contact.quiet_hours == Said::Clear),
        (FrequencyCap, contact.frequency_limit == Said::Clear),
    ];
    let cleared = cleared.into_iter().filter(|(_, is_cleared)| *is_cleared);
    (!contact.is_empty()).then(|| ledger::Preferences {
        time_zones: contact.time_zones.value().cloned().unwrap_or_default(),
        language: contact.language.value().cloned().unwrap_or_default(),
        quiet_span: contact.quiet_hours.value().map(|span| ledger::QuietSpan {
            start_minute: span.start_minute,
            end_minute: span.end_minute,
            time_zone: String::new(),
        }),
        frequency_cap: contact
            .frequency_limit
            .value()
            .map(|cap| ledger::FrequencyCap { uses_max: cap.uses_max, period_ms: cap.period_ms }),
        cleared: cleared.map(|(field, _)| field.into()).collect(),
    })
}

/// The preferences of a message of the ledger.
pub(in crate::entry) fn contact_of_message(message: Option<ledger::Preferences>) -> ContactChange {
    use ledger::PreferenceField;
    let Some(message) = message else { return ContactChange::default() };
    let clears = |field: PreferenceField| message.cleared.contains(&field.into());
    let quiet_hours = message
        .quiet_span
        .as_ref()
        .map(|span| QuietSpan { start_minute: span.start_minute, end_minute: span.end_minute });
    let frequency_limit = message
        .frequency_cap
        .map(|cap| FrequencyCap { uses_max: cap.uses_max, period_ms: cap.period_ms });
    let time_zones = Some(message.time_zones.clone()).filter(|zones| !zones.is_empty());
    let language = Some(message.language.clone()).filter(|language| !language.is_empty());
    ContactChange {
        time_zones: said(time_zones, clears(PreferenceField::TimeZones)),
        language: said(language, clears(PreferenceField::Language)),
        quiet_hours: said(quiet_hours, clears(PreferenceField::QuietSpan)),
        frequency_limit: said(frequency_limit, clears(PreferenceField::FrequencyCap)),
    }
}

fn said<T>(value: Option<T>, is_cleared: bool) -> Said<T> {
    match value {
        Some(value) => Said::Value(value),
        None if is_cleared => Said::Clear,
        None => Said::Nothing,
    }
}

#[cfg(test)]
pub(in crate::entry) mod tests {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    fn any_said<T: Clone + std::fmt::Debug>(
        value: impl Strategy<Value = T>,
    ) -> impl Strategy<Value = Said<T>> {
        (any::<bool>(), option::of(value)).prop_map(|(clear, value)| said(value, clear))
    }

    pub(in crate::entry) fn any_contact() -> impl Strategy<Value = ContactChange> {
        let span = (0u32..1440, 0u32..1440)
            .prop_map(|(start_minute, end_minute)| QuietSpan { start_minute, end_minute });
        let cap = any::<(u32, i64)>()
            .prop_map(|(uses_max, period_ms)| FrequencyCap { uses_max, period_ms });
        let zones = vec("[A-Z][a-z]{1,5}", 1..3);
        (any_said(zones), any_said("[a-z]{2}"), any_said(span), any_said(cap)).prop_map(
            |(time_zones, language, quiet_hours, frequency_limit)| ContactChange {
                time_zones,
                language,
                quiet_hours,
                frequency_limit,
            },
        )
    }
}
