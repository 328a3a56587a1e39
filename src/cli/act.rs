//! An act as a line of NDJSON: what `generate` writes and `replay` reads.
//!
//! ```json
//! {"subject":"user:42","actor":"subject","changes":[{"action":"grant","scope":{"purpose":
//! "marketing.newsletter","channel":"email"}}],"effective_at":"2026-01-01T09:30:00Z","evidence":
//! {"touchpoint":"onboarding-web","method":"checkbox"},"idempotency_key":"a-1"}
//! ```
//! (on one line). `subject`, `actor` and `changes` are required; names and meanings are those of
//! `RecordConsentRequest`. A field that is not known is an error.

use std::collections::BTreeMap;

use jiff::Timestamp;
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
    pub changes: Vec<Change>,
    /// When the act took effect; absent: when it is recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_at: Option<Timestamp>,
    /// What was shown, and how it was answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
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
            ..Self::default()
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
            ..Self::default()
        }
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
