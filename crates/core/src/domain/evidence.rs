//! Evidence of an act: the notice that was shown to the data subject, and how the choice was
//! expressed.

use std::{collections::BTreeMap, fmt, mem};

use thiserror::Error;

use super::{subject::Subject, time::Millis};

/// The longest short text of an evidence, in bytes.
pub const EVIDENCE_TEXT_BYTES_MAX: usize = 256;
/// The longest user agent, in bytes.
pub const USER_AGENT_BYTES_MAX: usize = 1_024;
/// The longest hash of a notice, in bytes.
pub const NOTICE_HASH_BYTES_MAX: usize = 64;
/// The greatest number of free attributes.
pub const ATTRIBUTES_MAX: usize = 32;
/// The longest key of an attribute, in bytes.
pub const ATTRIBUTE_KEY_BYTES_MAX: usize = 64;
/// The longest value of an attribute, in bytes.
pub const ATTRIBUTE_VALUE_BYTES_MAX: usize = 1_024;

/// The greatest number of unreadable values that are kept.
pub const UNREADABLE_MAX: usize = 16;
/// The longest path of an unreadable value, in bytes.
pub const UNREADABLE_PATH_BYTES_MAX: usize = 64;
/// The longest text of an unreadable value, in bytes.
pub const UNREADABLE_TEXT_BYTES_MAX: usize = 256;

/// The notice that was shown, and how the choice was expressed. Never part of a decision.
///
/// It may hold personal data: `Debug` never prints it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Evidence {
    /// Where it happened, for example `onboarding`.
    pub touchpoint: String,
    /// Identifier of the notice.
    pub notice_id: String,
    /// Version of the notice.
    pub notice_version: String,
    /// BCP 47 language of the notice.
    pub language: String,
    /// Hash of the exact text that was shown.
    pub notice_hash: Vec<u8>,
    /// How the choice was expressed, for example `checkbox`.
    pub method: String,
    /// Network address of the device.
    pub ip_address: String,
    /// User agent of the device.
    pub user_agent: String,
    /// Free attributes.
    pub attributes: BTreeMap<String, String>,
    /// The authority of an actor other than the data subject.
    pub authority: Option<Authority>,
    /// Values beside a stop that could not be read, as text, by the path of their field.
    pub unreadable: BTreeMap<String, String>,
    /// The data subject as the caller spelled it; empty if that was its canonical form.
    pub subject_given: String,
    /// When the act took effect as its caller claims it; none if the ledger took that time.
    pub effective_at_given: Option<Millis>,
}

/// The authority by which a guardian, or staff, acted for a data subject.
#[derive(Clone, PartialEq, Eq)]
pub struct Authority {
    /// Relationship to the data subject, for example `parent`.
    pub relationship: String,
    /// Name or identifier of the representative, as the caller gave it.
    pub representative: String,
    /// How the authority was established.
    pub proof: String,
    /// First moment without it.
    pub ends_at: Option<Millis>,
}

/// A part of an evidence that is over its limit.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EvidenceError {
    /// A text or hash is too long.
    #[error("must be at most {limit} bytes, got {got}")]
    TooLong {
        /// Which part, for example `touchpoint`.
        part: &'static str,
        /// The limit, in bytes.
        limit: usize,
        /// The length, in bytes.
        got: usize,
    },
    /// Too many attributes.
    #[error("must be at most {ATTRIBUTES_MAX} attributes, got {0}")]
    TooManyAttributes(usize),
    /// An attribute without a key.
    #[error("must not have an empty key")]
    EmptyAttributeKey,
    /// Too many unreadable values.
    #[error("must be at most {UNREADABLE_MAX} values, got {0}")]
    TooManyUnreadable(usize),
    /// An authority without a relationship.
    #[error("is required")]
    NoRelationship,
}

impl EvidenceError {
    /// The part of the evidence at fault.
    #[must_use]
    pub fn part(&self) -> &'static str {
        match self {
            Self::TooLong { part, .. } => part,
            Self::TooManyAttributes(_) | Self::EmptyAttributeKey => "attributes",
            Self::TooManyUnreadable(_) => "unreadable",
            Self::NoRelationship => "authority.relationship",
        }
    }
}

/// Keeps the text of a value that could not be read, as far as there is room. A second value at the same
/// path is appended.
pub fn keep_unreadable(unreadable: &mut BTreeMap<String, String>, path: &str, text: &str) {
    let path = start_of(path, UNREADABLE_PATH_BYTES_MAX);
    let has_room = unreadable.len() < UNREADABLE_MAX || unreadable.contains_key(path);
    if text.is_empty() || !has_room {
        return;
    }
    let kept = unreadable.entry(path.to_owned()).or_default();
    if !kept.is_empty() {
        kept.push('\n');
    }
    kept.push_str(text);
    let end = start_of(kept, UNREADABLE_TEXT_BYTES_MAX).len();
    kept.truncate(end);
}

/// The start of a text, of a maximum length in bytes.
fn start_of(text: &str, bytes_max: usize) -> &str {
    let end = (0..=bytes_max.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or(0)).unwrap_or_default()
}

/// A part that was taken out of an evidence.
#[derive(Debug, PartialEq, Eq)]
pub struct Excess {
    /// What is wrong with it.
    pub error: EvidenceError,
    /// The part as text.
    pub text: String,
}

impl Evidence {
    /// With the data subject as the caller spelled it, if that is not its canonical form.
    #[must_use]
    pub fn with_subject_given(mut self, given: &str, subject: &Subject) -> Self {
        if given != subject.as_str() {
            given.clone_into(&mut self.subject_given);
        }
        self
    }

    /// Takes out each part that is over its limit.
    #[must_use]
    pub fn within_limits(mut self) -> (Self, Vec<Excess>) {
        let mut excess = Vec::new();
        let mut limit = |part, text: &mut String, limit| {
            let got = text.len();
            if got > limit {
                let error = EvidenceError::TooLong { part, limit, got };
                excess.push(Excess { error, text: mem::take(text) });
            }
        };
        limit("touchpoint", &mut self.touchpoint, EVIDENCE_TEXT_BYTES_MAX);
        limit("notice_id", &mut self.notice_id, EVIDENCE_TEXT_BYTES_MAX);
        limit("notice_version", &mut self.notice_version, EVIDENCE_TEXT_BYTES_MAX);
        limit("language", &mut self.language, EVIDENCE_TEXT_BYTES_MAX);
        limit("method", &mut self.method, EVIDENCE_TEXT_BYTES_MAX);
        limit("ip_address", &mut self.ip_address, EVIDENCE_TEXT_BYTES_MAX);
        limit("user_agent", &mut self.user_agent, USER_AGENT_BYTES_MAX);
        let had_relationship = self.authority.as_ref().map(|it| !it.relationship.is_empty());
        if let Some(authority) = &mut self.authority {
            let max = EVIDENCE_TEXT_BYTES_MAX;
            limit("authority.relationship", &mut authority.relationship, max);
            limit("authority.representative", &mut authority.representative, max);
            limit("authority.proof", &mut authority.proof, max);
        }
        if had_relationship == Some(false) {
            let text = self.authority.take().map(|authority| authority.representative);
            let text = text.unwrap_or_default();
            excess.push(Excess { error: EvidenceError::NoRelationship, text });
        }
        excess.extend(self.limit_notice_hash());
        excess.extend(limit_attributes(&mut self.attributes));
        excess.extend(limit_unreadable(&mut self.unreadable));
        (self, excess)
    }

    fn limit_notice_hash(&mut self) -> Option<Excess> {
        let (part, limit, got) = ("notice_hash", NOTICE_HASH_BYTES_MAX, self.notice_hash.len());
        let error = EvidenceError::TooLong { part, limit, got };
        (got > limit).then(|| {
            let bytes = mem::take(&mut self.notice_hash);
            let hex = bytes.iter().take(UNREADABLE_TEXT_BYTES_MAX / 2);
            Excess { error, text: hex.map(|byte| format!("{byte:02x}")).collect() }
        })
    }
}

fn limit_attributes(attributes: &mut BTreeMap<String, String>) -> Vec<Excess> {
    let mut excess = Vec::new();
    let got = attributes.len();
    if got > ATTRIBUTES_MAX {
        let error = EvidenceError::TooManyAttributes(got);
        let beyond: Vec<_> = attributes.iter().skip(ATTRIBUTES_MAX).collect();
        let text = beyond.iter().map(|(key, value)| format!("{key}={value}"));
        let text = text.collect::<Vec<_>>().join("\n");
        excess.push(Excess { error, text });
        *attributes = mem::take(attributes).into_iter().take(ATTRIBUTES_MAX).collect();
    }
    attributes.retain(|key, value| {
        let too_long = |got, limit| EvidenceError::TooLong { part: "attributes", limit, got };
        let error = if key.is_empty() {
            EvidenceError::EmptyAttributeKey
        } else if key.len() > ATTRIBUTE_KEY_BYTES_MAX {
            too_long(key.len(), ATTRIBUTE_KEY_BYTES_MAX)
        } else if value.len() > ATTRIBUTE_VALUE_BYTES_MAX {
            too_long(value.len(), ATTRIBUTE_VALUE_BYTES_MAX)
        } else {
            return true;
        };
        excess.push(Excess { error, text: format!("{key}={value}") });
        false
    });
    excess
}

fn limit_unreadable(unreadable: &mut BTreeMap<String, String>) -> Vec<Excess> {
    let mut excess = Vec::new();
    let got = unreadable.len();
    if got > UNREADABLE_MAX {
        let text = String::new();
        excess.push(Excess { error: EvidenceError::TooManyUnreadable(got), text });
        *unreadable = mem::take(unreadable).into_iter().take(UNREADABLE_MAX).collect();
    }
    unreadable.retain(|path, text| {
        for (limit, got) in
            [(UNREADABLE_PATH_BYTES_MAX, path.len()), (UNREADABLE_TEXT_BYTES_MAX, text.len())]
        {
            if got > limit {
                let error = EvidenceError::TooLong { part: "unreadable", limit, got };
                excess.push(Excess { error, text: String::new() });
                return false;
            }
        }
        true
    });
    excess
}

impl fmt::Debug for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Evidence").finish_non_exhaustive()
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}
