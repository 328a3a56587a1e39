//! Fields that several kinds of entry share, as messages and back. Reading is strict: a value that
//! this program does not know is an error.

mod change;
mod contact;
mod evidence;
mod scalar;

pub(super) use change::{changes_from_proto, changes_to_proto};
pub(super) use contact::contact_from_proto;
pub use contact::contact_to_proto;
pub use evidence::{decode_evidence, encode_evidence};
pub use scalar::{duration, duration_ms, timestamp, timestamp_ms};
use thiserror::Error;

use super::IdempotencyMark;
use crate::{
    domain::{Key, KeyError, Region, Sealed, SubjectRef},
    proto,
};

/// Why bytes are not an entry.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EntryError {
    /// Not a protobuf message of this type.
    #[error("the bytes are not an entry: {0}")]
    Protobuf(String),
    /// Another encoding than the one that writers use. A reader that took it would miss what it says
    /// besides: an unknown field, or one of two bodies.
    #[error(
        "the bytes are not the encoding of the entry that they decode to: a field is unknown, comes \
         twice, or is out of place"
    )]
    NotCanonical,
    /// No body, or one that this program does not know.
    #[error("the entry has no body that this program knows")]
    Body,
    /// A required field without a known value.
    #[error("{field} is missing or has a value that this program does not know")]
    Field {
        /// The field.
        field: &'static str,
    },
    /// Bytes of the wrong length.
    #[error("{field} must have {want} bytes, got {got}")]
    Length {
        /// The field.
        field: &'static str,
        /// The length that it must have.
        want: usize,
        /// The length that it has.
        got: usize,
    },
    /// A text that is not a key.
    #[error("{field} {problem}")]
    Key {
        /// The field.
        field: &'static str,
        /// Why.
        problem: KeyError,
    },
}

pub(crate) const fn field(field: &'static str) -> EntryError {
    EntryError::Field { field }
}

pub(super) fn key(field: &'static str, text: &str) -> Result<Key, EntryError> {
    Key::parse(text).map_err(|problem| EntryError::Key { field, problem })
}

pub(crate) fn fixed<const N: usize>(
    field: &'static str,
    bytes: &[u8],
) -> Result<[u8; N], EntryError> {
    bytes.try_into().map_err(|_| EntryError::Length { field, want: N, got: bytes.len() })
}

pub(super) fn subject_ref(field: &'static str, bytes: &[u8]) -> Result<SubjectRef, EntryError> {
    fixed(field, bytes).map(SubjectRef)
}

pub(super) fn region(text: &str) -> Result<Region, EntryError> {
    Region::parse(text).map_err(|_| field("region"))
}

pub(super) fn optional_region(text: &str) -> Result<Option<Region>, EntryError> {
    if text.is_empty() { Ok(None) } else { region(text).map(Some) }
}

/// Key hash and request digest; both empty if the caller gave no key.
pub(super) fn idempotency_to_proto(mark: Option<IdempotencyMark>) -> (Vec<u8>, Vec<u8>) {
    mark.map_or((Vec::new(), Vec::new()), |mark| {
        (mark.key_hash.to_vec(), mark.request_digest.to_vec())
    })
}

pub(super) fn idempotency_from_proto(
    key_hash: &[u8],
    request_digest: &[u8],
) -> Result<Option<IdempotencyMark>, EntryError> {
    if key_hash.is_empty() && request_digest.is_empty() {
        return Ok(None);
    }
    Ok(Some(IdempotencyMark {
        key_hash: fixed("idempotency_key_hash", key_hash)?,
        request_digest: fixed("request_digest", request_digest)?,
    }))
}

pub(super) fn sealed_to_proto(sealed: &Sealed) -> proto::Sealed {
    proto::Sealed {
        salt: sealed.salt.to_vec(),
        ciphertext: sealed.ciphertext.clone(),
        commitment: sealed.commitment.to_vec(),
    }
}

pub(super) fn sealed_from_proto(sealed: proto::Sealed) -> Result<Sealed, EntryError> {
    Ok(Sealed {
        salt: fixed("evidence.salt", &sealed.salt)?,
        ciphertext: sealed.ciphertext,
        commitment: fixed("evidence.commitment", &sealed.commitment)?,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    //! Values for the round trips of the kinds.

    use proptest::{collection::vec, option, prelude::*};

    use super::*;
    pub(in crate::entry) use super::{
        change::tests::any_changes, contact::tests::any_contact, scalar::tests::any_actor,
    };

    pub(crate) fn any_catalog_key() -> impl Strategy<Value = Key> {
        "[a-z0-9_-]{1,8}(\\.[a-z0-9_-]{1,8}){0,2}".prop_map(|text| Key::parse(&text).unwrap())
    }

    pub(crate) fn any_subject_ref() -> impl Strategy<Value = SubjectRef> {
        any::<[u8; 16]>().prop_map(SubjectRef)
    }

    pub(crate) fn any_categories() -> impl Strategy<Value = Vec<String>> {
        vec("[a-z.]{1,9}", 0..3)
    }

    pub(crate) fn any_sealed() -> impl Strategy<Value = Option<Sealed>> {
        let sealed = (any::<[u8; 16]>(), any::<Vec<u8>>(), any::<[u8; 32]>())
            .prop_map(|(salt, ciphertext, commitment)| Sealed { salt, ciphertext, commitment });
        option::of(sealed)
    }

    pub(crate) fn any_mark() -> impl Strategy<Value = Option<IdempotencyMark>> {
        let mark = any::<([u8; 32], [u8; 32])>()
            .prop_map(|(key_hash, request_digest)| IdempotencyMark { key_hash, request_digest });
        option::of(mark)
    }
}
