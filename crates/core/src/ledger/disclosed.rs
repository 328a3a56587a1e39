//! Entries as a disclosure opens them, for somebody who has the ledger's bytes and none of its keys.
//!
//! [`DisclosedLedger::follow`] takes all entries in their order, and gives those that can be folded: what is in
//! clear, and the records of the disclosed data subjects. Data subjects are numbered as in the disclosure.
//!
//! A link to somebody who is not disclosed can not be folded, as it says nothing of the other side. The data
//! subject is remembered instead ([`DisclosedLedger::is_linked_beyond`]): what depends on the other side can
//! not be judged.

use std::collections::BTreeMap;

use hashbrown::HashMap;
use thiserror::Error;

use super::sealed::{LookupError, moment};
use crate::{
    domain::{Catalog, SubjectRef},
    entry::{Body, Entry, EntryError, Meanings},
    format::{
        Reference,
        disclosure::{DisclosureError, Found, Verified, Verifier},
        entry as sealed,
        slot::OpenedRecord,
    },
    proto::{
        LinkConfidence,
        ledger::{Disclosure, RecordKind},
    },
};

/// Why an entry can not be read with a disclosure.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DisclosedError {
    /// The disclosure is not true of the entries, or not complete.
    #[error(transparent)]
    Disclosure(#[from] DisclosureError),
    /// What is opened is not of the format.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// Somebody is left out who is the same person by a verified link.
    #[error(
        "somebody is left out whom a verified link connects with person {}: it is not complete",
        person + 1
    )]
    VerifiedLeftOut {
        /// The person, counted from 0.
        person: usize,
    },
    /// Somebody is left out, and it counts nobody.
    #[error(
        "it says that nobody is left out, and a link connects person {} with somebody who is",
        person + 1
    )]
    AssertedLeftOut {
        /// The person, counted from 0.
        person: usize,
    },
}

/// A ledger as a disclosure opens it.
#[derive(Debug)]
pub struct DisclosedLedger {
    verifier: Verifier,
    records: Vec<u64>,
    references: HashMap<Reference, u64>,
    /// Links of each person to data subjects that are not disclosed.
    beyond: BTreeMap<usize, LinksBeyond>,
    left_out: u64,
    opened: Opened,
}

/// What a disclosure opens beside the records of its data subjects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Opened {
    /// Number of confidential items.
    pub items: u64,
    /// Number of uses of data, by data subjects that it does not say.
    pub uses: u64,
}

/// How often a person was linked to data subjects that are not disclosed, and how often such a link was ended.
/// The records do not tell which links are with the same one.
#[derive(Debug, Clone, Copy, Default)]
struct LinksBeyond {
    verified: u64,
    asserted: u64,
    ended: u64,
}

impl LinksBeyond {
    /// Whether one may stand. A link whose confidence changed counts twice, so this errs on the side of yes.
    fn may_stand(self) -> bool {
        self.verified + self.asserted > self.ended
    }

    /// Whether a verified one stands for certain: there are more than were ended or became asserted.
    fn has_verified(self) -> bool {
        self.verified > self.asserted + self.ended
    }

    fn has_asserted(self) -> bool {
        self.asserted > self.verified + self.ended
    }
}

/// The parts of an entry that count.
#[derive(Default)]
struct Parts {
    records: Vec<(usize, usize, OpenedRecord)>,
    is_clear: bool,
}

/// The reference of a data subject, by its number in the disclosure, from 0.
#[must_use]
pub fn subject_of(person: usize) -> SubjectRef {
    SubjectRef((person as u128).to_be_bytes())
}

impl DisclosedLedger {
    /// Reads a disclosure.
    ///
    /// # Errors
    /// It can not be true of any ledger.
    pub fn new(disclosure: &Disclosure) -> Result<Self, DisclosureError> {
        Ok(Self {
            verifier: Verifier::new(disclosure)?,
            records: vec![0; disclosure.persons.len()],
            references: HashMap::new(),
            beyond: BTreeMap::new(),
            left_out: disclosure.asserted_links_left_out,
            opened: Opened::default(),
        })
    }

    /// Reads the next entry; none if nothing of it can be folded. The catalogue is that before the entry.
    ///
    /// # Errors
    /// The first thing that is not true.
    pub fn follow(
        &mut self,
        sealed: &sealed::Entry,
        catalog: &Catalog,
    ) -> Result<Option<Entry>, DisclosedError> {
        let (mut parts, opened) = (Parts::default(), &mut self.opened);
        self.verifier.follow(sealed, &mut |found| match found {
            Found::Record { person, place, opened } => {
                parts.records.push((place, person, opened.clone()));
            }
            Found::Clear(_) => parts.is_clear = true,
            Found::Use(_) => opened.uses += 1,
            Found::Item { .. } => opened.items += 1,
            Found::Erasure(_) => {}
        })?;
        let (recorded_ms, body) = match parts {
            Parts { is_clear: true, .. } => (0, Body::of_clear(&sealed.body)?),
            Parts { records, .. } => match self.body(sealed, records, catalog)? {
                Some(body) => body,
                None => return Ok(None),
            },
        };
        Ok(Some(Entry {
            index: sealed.index,
            prev_hash: sealed.prev_hash,
            recorded_at: moment(sealed.recorded_at_s, recorded_ms),
            body,
        }))
    }

    fn body(
        &mut self,
        sealed: &sealed::Entry,
        mut records: Vec<(usize, usize, OpenedRecord)>,
        catalog: &Catalog,
    ) -> Result<Option<(u32, Body)>, EntryError> {
        let Some((_, _, first)) = records.first() else { return Ok(None) };
        let (kind, recorded_ms) = (first.kind, first.record.recorded_ms);
        records.sort_unstable_by_key(|(place, ..)| *place);
        for (_, person, opened) in &records {
            if let Some(count) = self.records.get_mut(*person) {
                *count += 1;
            }
            self.references.insert(opened.reference, sealed.index);
        }
        if let (RecordKind::Link | RecordKind::Unlink, [(_, person, link)]) = (kind, &records[..]) {
            let beyond = self.beyond.entry(*person).or_default();
            match link.record.confidence() {
                _ if kind == RecordKind::Unlink => beyond.ended += 1,
                LinkConfidence::Verified => beyond.verified += 1,
                _ => beyond.asserted += 1,
            }
            return Ok(None);
        }
        let index_of =
            |reference: &Reference| Ok::<_, LookupError>(self.references.get(reference).copied());
        let index = sealed.index;
        let meanings = Meanings { index, numbers: catalog, index_of: Some(&index_of) };
        let records = records.into_iter();
        let records = records.map(|(_, person, opened)| (subject_of(person), opened.record));
        Body::of_records(records.collect(), &meanings).map(|body| Some((recorded_ms, body)))
    }

    /// Whether a data subject may be linked to somebody who is not disclosed, as of the last entry.
    #[must_use]
    pub fn is_linked_beyond(&self, subject: SubjectRef) -> bool {
        self.links_beyond(subject).is_some_and(LinksBeyond::may_stand)
    }

    /// Whether somebody may be left out whom a verified link connects with a disclosed data subject. Where that is
    /// certain, [`Self::finish`] is an error.
    #[must_use]
    pub fn may_lack_verified(&self) -> bool {
        self.beyond.values().any(|links| links.verified > 0 && links.may_stand())
    }

    fn links_beyond(&self, subject: SubjectRef) -> Option<LinksBeyond> {
        let person = usize::try_from(u128::from_be_bytes(subject.0)).ok()?;
        self.beyond.get(&person).copied()
    }

    /// What the disclosure has opened beside records.
    #[must_use]
    pub fn opened(&self) -> Opened {
        self.opened
    }

    /// The number of records of each data subject so far.
    #[must_use]
    pub fn records(&self) -> &[u64] {
        &self.records
    }

    /// Ends the verification: the disclosure is true and complete.
    ///
    /// # Errors
    /// Entries are missing, a data subject's last record leads to another tag, or somebody who is linked is
    /// left out and should not be.
    pub fn finish(self) -> Result<Verified, DisclosedError> {
        for (&person, links) in &self.beyond {
            if links.has_verified() {
                return Err(DisclosedError::VerifiedLeftOut { person });
            }
            if links.has_asserted() && self.left_out == 0 {
                return Err(DisclosedError::AssertedLeftOut { person });
            }
        }
        Ok(self.verifier.finish()?)
    }
}
