//! Evidence as the bytes that are sealed, and back.

use prost::Message;

use super::{EntryError, timestamp, timestamp_ms};
use crate::{
    domain::{Authority, Evidence},
    proto,
};

/// The bytes of an evidence, as they are sealed.
#[must_use]
pub fn encode_evidence(evidence: &Evidence) -> Vec<u8> {
    proto::Evidence::from(evidence.clone()).encode_to_vec()
}

/// Reads an evidence.
///
/// # Errors
/// [`EntryError::Protobuf`].
pub fn decode_evidence(bytes: &[u8]) -> Result<Evidence, EntryError> {
    let evidence = proto::Evidence::decode(bytes);
    evidence.map(Into::into).map_err(|e| EntryError::Protobuf(e.to_string()))
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
            authority: evidence.authority.map(|authority| proto::Authority {
                relationship: authority.relationship,
                representative: authority.representative,
                proof: authority.proof,
                ends_at: authority.ends_at.map(timestamp),
            }),
            unreadable: evidence.unreadable,
            subject_given: evidence.subject_given,
            effective_at_given: evidence.effective_at_given.map(timestamp),
        }
    }
}

impl From<proto::Evidence> for Evidence {
    fn from(evidence: proto::Evidence) -> Self {
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
            authority: evidence.authority.map(|authority| Authority {
                relationship: authority.relationship,
                representative: authority.representative,
                proof: authority.proof,
                ends_at: authority.ends_at.as_ref().and_then(timestamp_ms),
            }),
            unreadable: evidence.unreadable,
            subject_given: evidence.subject_given,
            effective_at_given: evidence.effective_at_given.as_ref().and_then(timestamp_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_evidence_reads_back(
            touchpoint in ".{0,9}", hash in any::<Vec<u8>>(), key in ".{1,9}", value in ".{0,9}",
        ) {
            let mut evidence = Evidence { touchpoint, notice_hash: hash, ..Evidence::default() };
            evidence.attributes.insert(key, value);
            prop_assert_eq!(decode_evidence(&encode_evidence(&evidence)), Ok(evidence));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in any::<Vec<u8>>()) {
            let _ = decode_evidence(&bytes);
        }
    }
}
