//! Evidence of an act: the notice that was shown to the data subject, and how the choice was
//! expressed.

use std::{collections::BTreeMap, fmt};

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
    /// The data subject as the caller spelled it; empty if that was its canonical form.
    pub subject_given: String,
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
            Self::NoRelationship => "authority.relationship",
        }
    }
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

    /// Checks every limit.
    ///
    /// # Errors
    /// The first part that is over its limit.
    pub fn checked(self) -> Result<Self, EvidenceError> {
        let within = |part, got: usize, limit| {
            if got <= limit { Ok(()) } else { Err(EvidenceError::TooLong { part, limit, got }) }
        };
        within("touchpoint", self.touchpoint.len(), EVIDENCE_TEXT_BYTES_MAX)?;
        within("notice_id", self.notice_id.len(), EVIDENCE_TEXT_BYTES_MAX)?;
        within("notice_version", self.notice_version.len(), EVIDENCE_TEXT_BYTES_MAX)?;
        within("language", self.language.len(), EVIDENCE_TEXT_BYTES_MAX)?;
        within("notice_hash", self.notice_hash.len(), NOTICE_HASH_BYTES_MAX)?;
        within("method", self.method.len(), EVIDENCE_TEXT_BYTES_MAX)?;
        within("ip_address", self.ip_address.len(), EVIDENCE_TEXT_BYTES_MAX)?;
        within("user_agent", self.user_agent.len(), USER_AGENT_BYTES_MAX)?;
        if self.attributes.len() > ATTRIBUTES_MAX {
            return Err(EvidenceError::TooManyAttributes(self.attributes.len()));
        }
        if let Some(authority) = &self.authority {
            if authority.relationship.is_empty() {
                return Err(EvidenceError::NoRelationship);
            }
            let len = authority.relationship.len();
            within("authority.relationship", len, EVIDENCE_TEXT_BYTES_MAX)?;
            let len = authority.representative.len();
            within("authority.representative", len, EVIDENCE_TEXT_BYTES_MAX)?;
            within("authority.proof", authority.proof.len(), EVIDENCE_TEXT_BYTES_MAX)?;
        }
        for (key, value) in &self.attributes {
            if key.is_empty() {
                return Err(EvidenceError::EmptyAttributeKey);
            }
            within("attributes", key.len(), ATTRIBUTE_KEY_BYTES_MAX)?;
            within("attributes", value.len(), ATTRIBUTE_VALUE_BYTES_MAX)?;
        }
        Ok(self)
    }
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
