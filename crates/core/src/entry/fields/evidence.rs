//! Evidence as the message that is sealed, and back.

use std::collections::BTreeMap;

use super::{timestamp, timestamp_ms};
use crate::{
    domain::{Authority, Evidence, Millis},
    proto::{self, ledger},
};

/// An evidence as the message that is sealed.
#[must_use]
pub fn evidence_to_message(evidence: &Evidence) -> ledger::Evidence {
    let evidence = evidence.clone();
    ledger::Evidence {
        touchpoint: evidence.touchpoint,
        notice_id: evidence.notice_id,
        notice_version: evidence.notice_version,
        language: evidence.language,
        notice_hash: evidence.notice_hash,
        method: evidence.method,
        ip_address: evidence.ip_address,
        user_agent: evidence.user_agent,
        attributes: named_texts(evidence.attributes),
        authority: evidence.authority.map(|authority| ledger::Authority {
            relationship: authority.relationship,
            representative: authority.representative,
            proof: authority.proof,
            ends_at_ms: authority.ends_at.map(|at| at.0),
        }),
        subject_given: evidence.subject_given,
        unreadable: named_texts(evidence.unreadable),
        effective_at_given_ms: evidence.effective_at_given.map(|at| at.0),
    }
}

/// The evidence of a message.
#[must_use]
pub fn evidence_of_message(message: ledger::Evidence) -> Evidence {
    Evidence {
        touchpoint: message.touchpoint,
        notice_id: message.notice_id,
        notice_version: message.notice_version,
        language: message.language,
        notice_hash: message.notice_hash,
        method: message.method,
        ip_address: message.ip_address,
        user_agent: message.user_agent,
        attributes: texts_by_name(message.attributes),
        authority: message.authority.map(|authority| Authority {
            relationship: authority.relationship,
            representative: authority.representative,
            proof: authority.proof,
            ends_at: authority.ends_at_ms.map(Millis),
        }),
        unreadable: texts_by_name(message.unreadable),
        subject_given: message.subject_given,
        effective_at_given: message.effective_at_given_ms.map(Millis),
    }
}

fn named_texts(texts: BTreeMap<String, String>) -> Vec<ledger::NamedText> {
    texts.into_iter().map(|(name, text)| ledger::NamedText { name, text }).collect()
}

fn texts_by_name(named: Vec<ledger::NamedText>) -> BTreeMap<String, String> {
    named.into_iter().map(|named| (named.name, named.text)).collect()
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
    use proptest::{option, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn every_evidence_reads_back(
            touchpoint in ".{0,9}", hash in any::<Vec<u8>>(), key in ".{1,9}", value in ".{0,9}",
            given in option::of(any::<i64>()), ends_at in option::of(any::<i64>()),
        ) {
            let authority = Authority {
                relationship: "parent".to_owned(),
                representative: value.clone(),
                proof: String::new(),
                ends_at: ends_at.map(Millis),
            };
            let mut evidence = Evidence {
                touchpoint,
                notice_hash: hash,
                authority: Some(authority),
                effective_at_given: given.map(Millis),
                ..Evidence::default()
            };
            evidence.attributes.insert(key.clone(), value.clone());
            evidence.unreadable.insert(key, value);
            prop_assert_eq!(evidence_of_message(evidence_to_message(&evidence)), evidence);
        }
    }
}
