//! Preferences of how to be contacted, as a message and back.

use super::{EntryError, duration, duration_ms, field};
use crate::{
    domain::{ContactChange, FrequencyCap, QuietSpan, Said},
    proto,
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

pub(in crate::entry) fn contact_from_proto(
    message: &proto::ContactPreferences,
) -> Result<ContactChange, EntryError> {
    let clears = |name: &str| message.clear.iter().any(|cleared| cleared == name);
    let cap = |limit: &proto::FrequencyLimit| {
        let period_ms = limit.period.as_ref().and_then(duration_ms);
        let period_ms = period_ms.ok_or(field("frequency_limit.period"))?;
        Ok(FrequencyCap { uses_max: limit.uses_max, period_ms })
    };
    let frequency_limit = message.frequency_limit.as_ref().map(cap).transpose()?;
    let quiet_hours = message
        .quiet_hours
        .as_ref()
        .map(|hours| QuietSpan { start_minute: hours.start_minute, end_minute: hours.end_minute });
    let time_zones = Some(message.time_zones.clone()).filter(|zones| !zones.is_empty());
    let language = Some(message.language.clone()).filter(|language| !language.is_empty());
    Ok(ContactChange {
        time_zones: said(time_zones, clears("time_zones")),
        language: said(language, clears("language")),
        quiet_hours: said(quiet_hours, clears("quiet_hours")),
        frequency_limit: said(frequency_limit, clears("frequency_limit")),
    })
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
