//! Fields that several kinds of entry share, as messages and back. Reading is strict: a value that
//! this program does not know is an error.

mod change;
mod contact;
mod evidence;
mod scalar;

pub(crate) use change::changes_of_messages;
pub(super) use change::{changes_to_messages, ended_to_messages};
pub use contact::contact_to_proto;
pub(super) use contact::{contact_of_message, contact_to_message};
pub use evidence::{evidence_of_message, evidence_to_message};
pub use scalar::{duration, duration_ms, timestamp, timestamp_ms};
use thiserror::Error;

use super::IdempotencyMark;
use crate::{
    domain::{Key, KeyError, Region},
    format,
    ledger::sealed::LookupError,
};

/// Why an entry can not be read, or not be written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EntryError {
    /// Not the bytes of an entry.
    #[error(transparent)]
    Form(#[from] format::entry::EntryError),
    /// A part does not open, or is not what the format allows.
    #[error(transparent)]
    Open(#[from] format::error::OpenError),
    /// A part can not be sealed.
    #[error(transparent)]
    Build(#[from] format::error::BuildError),
    /// A field with a value that this program does not know.
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
    /// A number that the catalogue does not have.
    #[error("it names {what} {number}, which the catalogue does not have")]
    Number {
        /// `purpose` or `channel`.
        what: &'static str,
        /// The number, from 1.
        number: u32,
    },
    /// A purpose that the catalogue does not have.
    #[error("no purpose `{0}` in the catalogue")]
    NoPurpose(Key),
    /// A channel that the catalogue does not have.
    #[error("no channel `{0}` in the catalogue")]
    NoChannel(Key),
    /// A record that no entry has.
    #[error("{field} names a record that the ledger does not have")]
    NoRecord {
        /// The field.
        field: &'static str,
    },
    /// A kind of entry that the service does not have.
    #[error("it is {0}, which this program does not read")]
    Kind(&'static str),
    /// The entry names data subjects, and is read without their keys.
    #[error("entry {index} is about data subjects, and their keys are needed to read it")]
    Persons {
        /// Index of the entry.
        index: u64,
    },
    /// A tag that no key explains.
    #[error("entry {index} is about a data subject whose key the vault does not have")]
    NoKey {
        /// Index of the entry.
        index: u64,
    },
    /// An item that no key opens.
    #[error("entry {index} is damaged: no confidential key opens item {number}, or what is shared")]
    NoItemKey {
        /// Index of the entry.
        index: u64,
        /// Place of the item.
        number: usize,
    },
    /// A look-up failed.
    #[error(transparent)]
    Lookup(#[from] LookupError),
}

impl From<format::field::FieldError> for EntryError {
    fn from(error: format::field::FieldError) -> Self {
        Self::Form(error.into())
    }
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

pub(super) fn region(text: &str) -> Result<Region, EntryError> {
    Region::parse(text).map_err(|_| field("region"))
}

pub(super) fn optional_region(text: &str) -> Result<Option<Region>, EntryError> {
    if text.is_empty() { Ok(None) } else { region(text).map(Some) }
}

/// Mark and digest; both empty if the caller gave no key.
pub(super) fn idempotency_to_message(mark: Option<IdempotencyMark>) -> (Vec<u8>, Vec<u8>) {
    mark.map_or((Vec::new(), Vec::new()), |mark| {
        (mark.key_hash.to_vec(), mark.request_digest.to_vec())
    })
}

pub(super) fn idempotency_of_message(
    key_hash: &[u8],
    request_digest: &[u8],
) -> Result<Option<IdempotencyMark>, EntryError> {
    if key_hash.is_empty() && request_digest.is_empty() {
        return Ok(None);
    }
    Ok(Some(IdempotencyMark {
        key_hash: fixed("idempotency", key_hash)?,
        request_digest: fixed("request_digest", request_digest)?,
    }))
}

#[cfg(test)]
pub(crate) mod tests {
    //! Values for the round trips of the kinds.

    use proptest::{collection::vec, option, prelude::*};

    use super::*;
    pub(in crate::entry) use super::{
        change::tests::{any_changes, any_grant},
        contact::tests::any_contact,
        scalar::tests::any_actor,
    };
    use crate::domain::SubjectRef;

    /// Keys that the catalogue of the round trips has, of purposes and of channels.
    pub(crate) const KEYS: [&str; 4] = ["news", "email", "offers.daily", "a_b-c.d"];

    pub(crate) fn any_catalog_key() -> impl Strategy<Value = Key> {
        prop::sample::select(KEYS.to_vec()).prop_map(|text| Key::parse(text).unwrap())
    }

    pub(crate) fn any_subject_ref() -> impl Strategy<Value = SubjectRef> {
        any::<[u8; 16]>().prop_map(SubjectRef)
    }

    pub(crate) fn any_categories() -> impl Strategy<Value = Vec<String>> {
        vec("[a-z.]{1,9}", 0..3)
    }

    pub(crate) fn any_mark() -> impl Strategy<Value = Option<IdempotencyMark>> {
        let mark = any::<([u8; 16], [u8; 16])>()
            .prop_map(|(key_hash, request_digest)| IdempotencyMark { key_hash, request_digest });
        option::of(mark)
    }
}
