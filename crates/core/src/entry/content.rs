//! The content of an entry as format 2 writes it: in clear, or in messages that are sealed.
//!
//! Messages name purposes and channels by their numbers in the catalogue, and other records of the data
//! subject by references that say nothing without its key. [`Names`] and [`Meanings`] translate.

use smallvec::SmallVec;

use super::{EntryError, fields::fixed};
use crate::{
    domain::{Catalog, ChannelId, Key, PurposeId, SubjectRef},
    format::{Reference, entry::Body as ClearBody},
    ledger::sealed::LookupError,
    proto::ledger::{Record, Use, item},
};

/// What an entry says, as format 2 writes it. The writer adds the milliseconds of its time.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "one is made for each entry, and sealed at once")]
pub enum Content {
    /// In clear.
    Clear(ClearBody),
    /// One record for each data subject, in the order of the kind.
    Persons(SmallVec<[(SubjectRef, Box<Record>); 1]>),
    /// A use of the data of some data subjects.
    Uses(Vec<SubjectRef>, Box<Use>),
    /// Confidential items.
    Items(Vec<item::Content>),
}

impl Content {
    /// The record of one data subject.
    pub(super) fn record(subject: SubjectRef, record: Record) -> Self {
        Self::Persons(smallvec::smallvec![(subject, Box::new(record))])
    }
}

/// Finds the reference of a data subject's record in the entry at an index.
pub type ReferenceOf<'a> = dyn Fn(SubjectRef, u64) -> Result<Reference, LookupError> + 'a;
/// Finds the index of the entry with a record; none if no entry has it.
pub type IndexOf<'a> = dyn Fn(&Reference) -> Result<Option<u64>, LookupError> + 'a;

/// What a writer needs to name purposes, channels and records.
#[derive(Clone, Copy)]
pub struct Names<'a> {
    /// Index of the entry.
    pub index: u64,
    /// The catalogue before the entry.
    pub catalog: &'a Catalog,
    /// Finds references.
    pub reference_of: &'a ReferenceOf<'a>,
}

/// Which purpose and channel a number stands for.
pub trait Numbers {
    /// The purpose of a number, from 1.
    fn purpose(&self, number: u32) -> Option<Key>;
    /// The channel of a number, from 1.
    fn channel(&self, number: u32) -> Option<Key>;
}

/// What a reader needs to understand numbers and references.
#[derive(Clone, Copy)]
pub struct Meanings<'a> {
    /// Index of the entry.
    pub index: u64,
    /// The catalogue before the entry, or a later one.
    pub numbers: &'a dyn Numbers,
    /// Finds indexes; none if the reader has no ledger to search.
    pub index_of: Option<&'a IndexOf<'a>>,
}

impl Numbers for Catalog {
    fn purpose(&self, number: u32) -> Option<Key> {
        let id = PurposeId(number.checked_sub(1)?);
        Catalog::purpose(self, id).map(|purpose| purpose.key.clone())
    }

    fn channel(&self, number: u32) -> Option<Key> {
        let id = ChannelId(number.checked_sub(1)?);
        Catalog::channel(self, id).map(|channel| channel.key.clone())
    }
}

impl Names<'_> {
    /// The number of a purpose, from 1; 0 for all.
    pub(super) fn purpose(&self, key: Option<&Key>) -> Result<u32, EntryError> {
        let Some(key) = key else { return Ok(0) };
        let id = self.catalog.purpose_id(key.as_str());
        id.map(|PurposeId(place)| place + 1).ok_or_else(|| EntryError::NoPurpose(key.clone()))
    }

    /// The number of a channel, from 1; 0 for all.
    pub(super) fn channel(&self, key: Option<&Key>) -> Result<u32, EntryError> {
        let Some(key) = key else { return Ok(0) };
        let id = self.catalog.channel_id(key.as_str());
        id.map(|ChannelId(place)| place + 1).ok_or_else(|| EntryError::NoChannel(key.clone()))
    }

    /// The reference of a data subject's record.
    pub(super) fn reference(
        &self,
        subject: SubjectRef,
        index: u64,
    ) -> Result<Reference, EntryError> {
        Ok((self.reference_of)(subject, index)?)
    }
}

impl Meanings<'_> {
    /// The purpose of a number; none for 0, which is all.
    pub(super) fn purpose(&self, number: u32) -> Result<Option<Key>, EntryError> {
        let found = self.numbers.purpose(number);
        if number != 0 && found.is_none() {
            return Err(EntryError::Number { what: "purpose", number });
        }
        Ok(found)
    }

    /// The channel of a number; none for 0, which is all.
    pub(super) fn channel(&self, number: u32) -> Result<Option<Key>, EntryError> {
        let found = self.numbers.channel(number);
        if number != 0 && found.is_none() {
            return Err(EntryError::Number { what: "channel", number });
        }
        Ok(found)
    }

    /// The index of the entry with a record.
    pub(super) fn index(&self, field: &'static str, reference: &[u8]) -> Result<u64, EntryError> {
        self.known_index(field, reference)?.ok_or(EntryError::NoRecord { field })
    }

    /// As [`Self::index`]; none if the reader has no ledger to search.
    pub(super) fn known_index(
        &self,
        field: &'static str,
        reference: &[u8],
    ) -> Result<Option<u64>, EntryError> {
        let reference = fixed(field, reference)?;
        let Some(index_of) = self.index_of else { return Ok(None) };
        index_of(&reference)?.ok_or(EntryError::NoRecord { field }).map(Some)
    }
}
