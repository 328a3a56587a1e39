//! An act as a line of NDJSON: what `replay` and `import` read, and `tools/generate` writes.
//!
//! ```json
//! {"subject":"user:42","actor":"subject","changes":[{"action":"grant","scope":{"purpose":
//! "marketing.newsletter","channel":"email"}}],"effective_at":"2026-01-01T09:30:00Z","evidence":
//! {"touchpoint":"onboarding-web","method":"checkbox"},"idempotency_key":"a-1"}
//! ```
//! (on one line). `subject`, `actor` and `changes` are required, the last unless there are
//! `preferences`; names and meanings are those of `RecordConsentRequest`, with hours as
//! `{"start":"21:00","end":"08:00"}` and a limit as `{"uses_max":4,"period":"30d"}`. A field that is
//! not known is an error.

use std::{collections::BTreeMap, time::Duration};

use jiff::{Timestamp, civil::Time};
use serde::{Deserialize, Serialize};

use super::words;
use crate::proto;

/// One act.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Act {
    /// Data subject as `namespace:id`.
    pub subject: String,
    /// Who acts.
    #[serde(with = "words")]
    pub actor: proto::Actor,
    /// What changes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
    /// When the act took effect; absent: when it is recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_at: Option<Timestamp>,
    /// What was shown, and how it was answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
    /// How the data subject wants to be contacted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferences: Option<Preferences>,
    /// The caller's key for the act.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub idempotency_key: String,
}

/// One change of an act.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// What it does.
    #[serde(with = "words")]
    pub action: proto::Action,
    /// What it covers.
    pub scope: Scope,
    /// For grants: the version of the purpose that was shown; absent: the current one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purpose_version: Option<u32>,
    /// For grants: the first moment at which the grant no longer counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// For grants: the data categories that the grant is narrowed to; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub data_categories: Vec<String>,
}

/// What a change covers; `*` for every purpose or channel.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scope {
    /// Purpose key, or `*`.
    pub purpose: String,
    /// Channel key, or `*`.
    pub channel: String,
}

/// What was shown, and how it was answered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Evidence {
    /// Where it happened.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub touchpoint: String,
    /// Notice shown.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub notice_id: String,
    /// Its version.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub notice_version: String,
    /// Its language.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub language: String,
    /// Hash of its text, in hex.
    #[serde(skip_serializing_if = "Vec::is_empty", with = "hex_bytes")]
    pub notice_hash: Vec<u8>,
    /// How the choice was expressed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub method: String,
    /// Network address of the device.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ip_address: String,
    /// User agent of the device.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user_agent: String,
    /// Free attributes.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    /// By what right somebody else acted for the data subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority: Option<Authority>,
}

/// By what right somebody else acted for the data subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Authority {
    /// What they are to the data subject.
    pub relationship: String,
    /// Who they are.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub representative: String,
    /// How the authority was established.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub proof: String,
    /// First moment without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_at: Option<Timestamp>,
}

/// How a data subject wants to be contacted. What is left out stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Preferences {
    /// IANA time zones that are plausible.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub time_zones: Vec<String>,
    /// BCP 47 language tag.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub language: String,
    /// Hours without messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quiet_hours: Option<QuietHours>,
    /// At most so many messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frequency_limit: Option<FrequencyLimit>,
    /// Fields to forget.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub clear: Vec<String>,
}

/// Hours without messages, in the data subject's local time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuietHours {
    /// First minute of the span.
    #[serde(with = "clock")]
    pub start: Time,
    /// First minute after it.
    #[serde(with = "clock")]
    pub end: Time,
}

/// At most so many messages in a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrequencyLimit {
    /// How many.
    pub uses_max: u32,
    /// In which period.
    #[serde(with = "period")]
    pub period: Duration,
}

mod clock {
    use jiff::civil::Time;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(time: &Time, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&time.strftime("%H:%M").to_string())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Time, D::Error> {
        let text = String::deserialize(from)?;
        Time::strptime("%H:%M", &text)
            .map_err(|_| de::Error::custom(format!("`{text}` is not a time of day such as 21:00")))
    }
}

mod period {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(period: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&humantime::format_duration(*period).to_string())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(from)?;
        humantime::parse_duration(&text).map_err(|error| {
            de::Error::custom(format!("`{text}` is not a duration such as 30d ({error})"))
        })
    }
}

mod hex_bytes {
    use serde::{Deserialize, Deserializer, Serializer, de};

    use super::words;

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&words::hex(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        words::from_hex(&String::deserialize(from)?).map_err(de::Error::custom)
    }
}

impl From<Act> for proto::RecordConsentRequest {
    fn from(act: Act) -> Self {
        Self {
            subject: act.subject,
            actor: act.actor.into(),
            changes: act.changes.into_iter().map(Into::into).collect(),
            effective_at: act.effective_at.map(words::wire_time),
            evidence: act.evidence.map(Into::into),
            preferences: act.preferences.map(Into::into),
            idempotency_key: act.idempotency_key,
            ..Self::default()
        }
    }
}

impl From<Change> for proto::Change {
    fn from(change: Change) -> Self {
        Self {
            action: change.action.into(),
            scope: Some(proto::Scope {
                purpose: change.scope.purpose,
                channel: change.scope.channel,
            }),
            purpose_version: change.purpose_version.unwrap_or(0),
            expires_at: change.expires_at.map(words::wire_time),
            data_categories: change.data_categories,
        }
    }
}

impl From<Evidence> for proto::Evidence {
    fn from(evidence: Evidence) -> Self {
        Self {
            touchpoint: evidence.touchpoint,
            notice_id: evidence.notice_id,
            notice_version: evidence.notice_version,
            language: evidence.language,
            notice_hash: evidence.notice_hash,
            method: evidence.method,
            ip_address: evidence.ip_address,
            user_agent: evidence.user_agent,
            attributes: evidence.attributes,
            authority: evidence.authority.map(Into::into),
        }
    }
}

impl From<Authority> for proto::Authority {
    fn from(authority: Authority) -> Self {
        Self {
            relationship: authority.relationship,
            representative: authority.representative,
            proof: authority.proof,
            ends_at: authority.ends_at.map(words::wire_time),
        }
    }
}

impl From<Preferences> for proto::ContactPreferences {
    fn from(preferences: Preferences) -> Self {
        Self {
            time_zones: preferences.time_zones,
            language: preferences.language,
            quiet_hours: preferences.quiet_hours.map(Into::into),
            frequency_limit: preferences.frequency_limit.map(Into::into),
            clear: preferences.clear,
        }
    }
}

impl From<QuietHours> for proto::QuietHours {
    fn from(hours: QuietHours) -> Self {
        let minute = |time: Time| {
            u32::from(time.hour().unsigned_abs()) * 60 + u32::from(time.minute().unsigned_abs())
        };
        Self {
            start_minute: minute(hours.start),
            end_minute: minute(hours.end),
            time_zone: String::new(),
        }
    }
}

impl From<FrequencyLimit> for proto::FrequencyLimit {
    fn from(limit: FrequencyLimit) -> Self {
        // No period that people write is too long for the wire; the server knows a shorter bound.
        let seconds = i64::try_from(limit.period.as_secs()).unwrap_or(i64::MAX);
        let nanos = i32::try_from(limit.period.subsec_nanos()).unwrap_or(0);
        Self { uses_max: limit.uses_max, period: Some(prost_types::Duration { seconds, nanos }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = concat!(
        r#"{"subject":"user:42","actor":"subject","changes":[{"action":"grant","scope":"#,
        r#"{"purpose":"marketing.newsletter","channel":"email"},"#,
        r#""expires_at":"2027-01-01T00:00:00Z"}],"effective_at":"2026-01-01T09:30:00Z","#,
        r#""evidence":{"touchpoint":"onboarding-web","notice_hash":"00ff","#,
        r#""attributes":{"a":"b"}},"idempotency_key":"a-1"}"#,
    );

    #[test]
    fn a_line_is_read_and_written_the_same() {
        let act: Act = serde_json::from_str(LINE).unwrap();
        assert_eq!(serde_json::to_string(&act).unwrap(), LINE);
        let request = proto::RecordConsentRequest::from(act);
        assert_eq!(request.actor(), proto::Actor::Subject);
        assert_eq!(request.changes[0].action(), proto::Action::Grant);
        assert_eq!(request.evidence.unwrap().notice_hash, [0, 0xff]);
    }

    #[test]
    fn a_guardian_and_preferences_are_read_and_written_the_same() {
        let line = concat!(
            r#"{"subject":"user:43","actor":"guardian","changes":[{"action":"grant","scope":"#,
            r#"{"purpose":"club.news","channel":"email"},"data_categories":["user.contact"]}],"#,
            r#""evidence":{"method":"paper","authority":{"relationship":"parent","#,
            r#""ends_at":"2031-05-04T00:00:00Z"}},"preferences":{"time_zones":["Europe/Vienna"],"#,
            r#""language":"de-AT","quiet_hours":{"start":"21:00","end":"08:30"},"#,
            r#""frequency_limit":{"uses_max":4,"period":"7days"}}}"#,
        );
        let act: Act = serde_json::from_str(line).unwrap();
        assert_eq!(serde_json::to_string(&act).unwrap(), line);
        let request = proto::RecordConsentRequest::from(act);
        assert_eq!(request.changes[0].data_categories, ["user.contact"]);
        assert_eq!(request.evidence.unwrap().authority.unwrap().relationship, "parent");
        let preferences = request.preferences.unwrap();
        let hours = preferences.quiet_hours.unwrap();
        assert_eq!((hours.start_minute, hours.end_minute), (21 * 60, 8 * 60 + 30));
        assert_eq!(preferences.frequency_limit.unwrap().period.unwrap().seconds, 7 * 86_400);
    }

    #[test]
    fn a_misspelt_field_or_word_is_an_error() {
        for (from, to) in [
            ("\"evidence\"", "\"evidance\""),
            ("\"grant\"", "\"allow\""),
            ("00ff", "0xff"),
            ("2026-01-01T09:30:00Z", "yesterday"),
        ] {
            let line = LINE.replace(from, to);
            assert!(serde_json::from_str::<Act>(&line).is_err(), "{to}");
        }
    }
}
