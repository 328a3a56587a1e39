//! Why an entry can not be built, and why a sealed part of one can not be read.

use thiserror::Error;

use crate::{
    Tag,
    field::FieldError,
    seal::{Part, Place, SealError, TooLong},
};

/// Why an entry can not be built. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BuildError {
    /// A field with a value that the format does not allow.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// A part that is too long.
    #[error("the {} is too long: {problem}", part.noun())]
    TooLong {
        /// Which part.
        part: Part,
        /// How long it is.
        problem: TooLong,
    },
    /// The entry would be too large.
    #[error("the entry has {got} bytes, the limit is {limit}")]
    EntryTooLarge {
        /// Its size.
        got: usize,
        /// The limit.
        limit: usize,
    },
    /// Two parts of one entry have the same tag: one person twice, or a counter that was not raised.
    #[error("the entry has a tag twice: each person has one slot in an entry")]
    SameTag,
    /// An entry about several persons with evidence.
    #[error("an entry about several persons has no evidence")]
    EvidenceOfSeveral,
    /// The key of the person's evidence or use is forgotten, or the counter is beyond the last.
    #[error("the person has no key for number {0}: it is forgotten, or beyond the last")]
    NoLeaf(u64),
}

/// Why an entry can not be read with the keys.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OpenError {
    /// An entry in clear that the ledger has not written.
    #[error("entry {index}: the ledger has not written it: its MAC is wrong")]
    Mac {
        /// Index of the entry.
        index: u64,
    },
    /// The slot's tag is not the one of this person and number.
    #[error(
        "the slot has another tag than the person's: it is not theirs, or not this one of theirs"
    )]
    NotTheirs,
    /// It does not open.
    #[error("entry {index}: the {}: {problem}", part.noun())]
    Seal {
        /// Index of the entry.
        index: u64,
        /// Which part.
        part: Part,
        /// Why.
        problem: SealError,
    },
    /// The tag is the person's, and what is sealed under the tag does not open with the person's key: it is
    /// damaged, or was sealed under another key than its tag's.
    #[error("entry {index} is damaged: its tag {} is the person's, and its {}: {problem}", hex(tag), part.noun())]
    Damaged {
        /// Index of the entry.
        index: u64,
        /// The tag.
        tag: Tag,
        /// Which part.
        part: Part,
        /// Why.
        problem: SealError,
    },
    /// The record's commitment to the next tag is not the person's.
    #[error("entry {index} is damaged: its record does not lead to the person's next tag")]
    Next {
        /// Index of the entry.
        index: u64,
    },
    /// The record's commitment to the identity is missing, not the person's, or not in the first record.
    #[error("entry {index} is damaged: its commitment to the identity is not that of the person")]
    Identity {
        /// Index of the entry.
        index: u64,
    },
    /// The record names a place of a linked person that the entry does not have.
    #[error("entry {index} is damaged: its record names slot {peer} as the linked person's")]
    Peer {
        /// Index of the entry.
        index: u64,
        /// The place.
        peer: u32,
    },
    /// A field with a value that the format does not allow.
    #[error(transparent)]
    Field(#[from] FieldError),
}

impl OpenError {
    /// A sealed text of this place that does not open.
    pub(crate) fn seal(place: &Place, problem: SealError) -> Self {
        Self::Seal { index: place.index, part: place.part, problem }
    }
}

fn hex(tag: &Tag) -> String {
    consent_ledger_tlog::hex(tag)
}
