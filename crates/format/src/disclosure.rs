//! Disclosures: what opens all records of some persons up to one revision, without evidence, and proves that
//! none of them is left out.
//!
//! Each record commits, blinded, to the person's next tag, and the first one to the identity. A disclosure
//! opens every commitment: the first record is the one that commits to the identity, each leads to the next
//! that is listed, and the last leads to a tag that no entry below the revision has. So it is complete for
//! the person's key. That one identity has one key is not proven; a receipt that the person kept and that the
//! disclosure does not list shows it.
//!
//! **It opens nothing later.** The tag after the last is the one thing that could lead on, so it is used up:
//! the ledger writes it at once, in a DISCLOSED record, of which the holder of the disclosure knows
//! everything anyway. Confidential keys are those of finished epochs; texts of the running epoch are opened
//! one by one. Only a disclosure that says that it has no end ([`Disclosure::open_ended`]) has the keys of the
//! running epoch themselves.

use std::{collections::BTreeMap, ops::Range};

use consent_ledger_proto::ledger::{
    self as message, DisclosedPerson, DisclosedRecord, DisclosedText, Disclosure, Erasure, Use,
};
use hashbrown::HashMap;
use thiserror::Error;

use crate::{
    LedgerId, Reference, Tag,
    confidential::{
        Keyring, Kind, OpenedItem, item_place, open_erasure, open_item, open_use, shared_place,
    },
    entry::{Body, Entry, Persons, SealedText},
    error::OpenError,
    field::{FieldError, ascending, fixed, present_if},
    hash::is_same,
    keys::{
        ledger::{ConfidentialKey, ConfidentialRoot, EPOCH_BITS, epoch},
        person::next_commitment,
    },
    opening::{ProofError, number_of, one_time_key, verify_identity},
    seal::{OneTimeKey, Part, Place},
    secret::Key,
    slot::{OpenedRecord, open_record, open_record_once},
    vault::Person,
};

/// Collects what opens one person's records, in the order of the ledger.
#[derive(Debug)]
pub struct PersonDisclosure<'a> {
    person: &'a Person,
    ledger_id: LedgerId,
    records: Vec<DisclosedRecord>,
}

/// Why a disclosure is not what it claims to be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DisclosureError {
    /// A field with a value that the format does not allow.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// A record, or a statement of identity, that is not true.
    #[error("person {}: {problem}", person + 1)]
    Proof {
        /// The person, counted from 0.
        person: usize,
        /// Why.
        problem: ProofError,
    },
    /// A confidential text that does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A person without records.
    #[error("person {} has no records", .0 + 1)]
    NoRecords(usize),
    /// A key that would open what is later.
    #[error("the confidential key of epoch {epoch} opens entries at or after revision {revision}")]
    Later {
        /// The epoch.
        epoch: u64,
        /// The revision.
        revision: u64,
    },
    /// A kind that is never disclosed, or not known.
    #[error("confidential texts of kind {0} are never disclosed")]
    Kind(u32),
    /// A listed record is at or after the revision.
    #[error("person {}: entry {index} is not below revision {revision}", person + 1)]
    BeyondRevision {
        /// The person, counted from 0.
        person: usize,
        /// Index of the entry.
        index: u64,
        /// The revision.
        revision: u64,
    },
    /// The first listed record is not the person's first.
    #[error("person {}: entry {index} is not their first: earlier ones are left out", person + 1)]
    NotFirst {
        /// The person, counted from 0.
        person: usize,
        /// Index of the entry.
        index: u64,
    },
    /// A record does not lead to the next that is listed.
    #[error(
        "person {}: the record before entry {index} does not lead to it: records between them \
         are left out, or are another person's"
    , person + 1)]
    Gap {
        /// The person, counted from 0.
        person: usize,
        /// Index of the entry.
        index: u64,
    },
    /// The last listed record does not lead to the tag that is named.
    #[error(
        "person {}: the last listed record does not lead to the tag that is named after it"
    , person + 1)]
    TagAfter {
        /// The person, counted from 0.
        person: usize,
    },
    /// A record that is left out.
    #[error("person {}: entry {index} is theirs and is left out", person + 1)]
    LeftOut {
        /// The person, counted from 0.
        person: usize,
        /// Index of the entry.
        index: u64,
    },
    /// Entries in another order than the ledger's, or not all of them.
    #[error("entry {got} came where entry {want} was expected")]
    Sequence {
        /// The next index.
        want: u64,
        /// The index that came.
        got: u64,
    },
    /// The entries ended before the revision.
    #[error("the disclosure covers {revision} entries, only {entries} were given")]
    Short {
        /// The revision.
        revision: u64,
        /// How many entries were given.
        entries: u64,
    },
}

impl<'a> PersonDisclosure<'a> {
    /// Begins the disclosure of a person.
    #[must_use]
    pub fn new(ledger_id: LedgerId, person: &'a Person) -> Self {
        Self { person, ledger_id, records: Vec::new() }
    }

    /// Adds the person's next record. Returns it opened.
    ///
    /// # Errors
    /// It is not the person's next record, or damaged.
    pub fn add(
        &mut self,
        index: u64,
        persons: &Persons,
        place: usize,
    ) -> Result<OpenedRecord, ProofError> {
        let number = self.records.len() as u64;
        let (keys, identity) = (&self.person.keys, &self.person.identity);
        let opened = open_record(keys, identity, number, self.ledger_id, index, persons, place)?;
        self.records.push(DisclosedRecord {
            index,
            slot: number_of(place)?,
            record_key: opened.key.bytes().to_vec(),
            blind: keys.tags().blind(number).bytes().to_vec(),
        });
        Ok(opened)
    }

    /// Ends the disclosure of the person. The tag that it names must be used up by a DISCLOSED record.
    #[must_use]
    pub fn finish(self, with_identity: bool) -> DisclosedPerson {
        let keys = &self.person.keys;
        let tag_after = keys.tags().tag(self.records.len() as u64).to_vec();
        let (identity, identity_key) = if with_identity {
            (self.person.identity.clone(), keys.identity().bytes().to_vec())
        } else {
            (String::new(), Vec::new())
        };
        DisclosedPerson { records: self.records, tag_after, identity, identity_key }
    }
}

/// Collects the confidential keys of a disclosure: of finished epochs by epoch, and of the running one text by
/// text.
#[derive(Debug)]
pub struct ConfidentialDisclosure<'a> {
    root: &'a ConfidentialRoot,
    ledger_id: LedgerId,
    revision: u64,
    kinds: Vec<Kind>,
    texts: Vec<DisclosedText>,
}

impl<'a> ConfidentialDisclosure<'a> {
    /// Begins the disclosure of some kinds up to a revision. Kinds that are never disclosed are left out.
    #[must_use]
    pub fn new(
        root: &'a ConfidentialRoot,
        ledger_id: LedgerId,
        revision: u64,
        kinds: &[Kind],
    ) -> Self {
        let mut kinds: Vec<_> =
            kinds.iter().copied().filter(|kind| kind.may_be_disclosed()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        Self { root, ledger_id, revision, kinds, texts: Vec::new() }
    }

    /// The first entry whose texts are opened one by one. Entries before it need not be added.
    #[must_use]
    pub fn first_by_text(&self) -> u64 {
        epoch(self.revision) << EPOCH_BITS
    }

    /// Adds an entry of the running epoch.
    ///
    /// # Errors
    /// A text that is damaged.
    pub fn add(&mut self, entry: &Entry) -> Result<(), OpenError> {
        if entry.index < self.first_by_text() || entry.index >= self.revision {
            return Ok(());
        }
        match &entry.body {
            Body::Uses(uses) => self.add_shared(entry.index, Part::Use, Kind::Use, &uses.shared),
            Body::Persons(Persons { erasure: Some(shared), .. }) => {
                self.add_shared(entry.index, Part::Erasure, Kind::Erasure, shared);
            }
            Body::Confidential(items) => {
                for (number, sealed) in items.iter().enumerate() {
                    let opened = open_item(self.root, self.ledger_id, entry.index, number, sealed)?;
                    if let Some(OpenedItem { kind, key, .. }) = opened
                        && self.kinds.contains(&kind)
                    {
                        let place = item_place(self.ledger_id, entry.index, number)?;
                        self.push(&place, kind, &key);
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Puts the keys into a disclosure.
    pub fn finish(self, disclosure: &mut Disclosure) {
        disclosure.keys = self.keys(0..epoch(self.revision));
        disclosure.texts = self.texts;
    }

    /// Puts the keys into a disclosure that has no end: those of the running epoch, too, in place of what
    /// was added text by text.
    pub fn finish_open_ended(self, disclosure: &mut Disclosure) {
        disclosure.keys = self.keys(0..epoch(self.revision) + 1);
        disclosure.open_ended = true;
    }

    fn keys(&self, epochs: Range<u64>) -> Vec<message::ConfidentialKey> {
        let key = |kind: Kind, epoch| message::ConfidentialKey {
            kind: kind.byte().into(),
            epoch,
            key: self.root.of_epoch(kind, epoch).bytes().to_vec(),
        };
        let of_kind =
            |kind: &Kind| epochs.clone().map(|epoch| key(*kind, epoch)).collect::<Vec<_>>();
        self.kinds.iter().flat_map(of_kind).collect()
    }

    fn add_shared(&mut self, index: u64, part: Part, kind: Kind, sealed: &SealedText) {
        if self.kinds.contains(&kind) {
            let place = shared_place(self.ledger_id, index, part);
            if let Some(key) = self.root.one_time(kind, &place, &sealed.salt) {
                self.push(&place, kind, &key);
            }
        }
    }

    fn push(&mut self, place: &Place, kind: Kind, key: &OneTimeKey) {
        let (index, item, kind) = (place.index, place.item, kind.byte().into());
        self.texts.push(DisclosedText { index, item, kind, key: key.bytes().to_vec() });
    }
}

/// The confidential keys of a disclosure.
#[derive(Debug, Default)]
pub struct DisclosedKeys {
    epochs: HashMap<(Kind, u64), ConfidentialKey>,
    texts: HashMap<(u64, u32), (Kind, OneTimeKey)>,
}

impl Keyring for DisclosedKeys {
    fn one_time(&self, kind: Kind, place: &Place, salt: &[u8; 16]) -> Option<OneTimeKey> {
        if let Some(key) = self.epochs.get(&(kind, epoch(place.index))) {
            return Some(key.one_time(salt));
        }
        let (of, key) = self.texts.get(&(place.index, place.item))?;
        (*of == kind).then(|| key.clone())
    }
}

/// What the verification of a disclosure finds in an entry.
#[derive(Debug)]
pub enum Found<'a> {
    /// A record of a disclosed person.
    Record {
        /// The person, counted from 0.
        person: usize,
        /// The slot's place in the entry.
        place: usize,
        /// The opened record.
        opened: &'a OpenedRecord,
    },
    /// What the tags of a use share.
    Use(&'a Use),
    /// What the slots of an erasure share.
    Erasure(&'a Erasure),
    /// A confidential item.
    Item {
        /// Its place in the entry.
        place: usize,
        /// The opened item.
        opened: &'a OpenedItem,
    },
    /// What is in clear.
    Clear(&'a Body),
}

/// Verifies a disclosure against the entries of the ledger, whose bytes are verified against a checkpoint. All
/// entries below the revision pass by in their order.
#[derive(Debug)]
pub struct Verifier {
    ledger_id: LedgerId,
    revision: u64,
    keys: DisclosedKeys,
    persons: Vec<Claim>,
    /// The records that are still to come, by entry.
    listed: BTreeMap<u64, Vec<Listed>>,
    /// Tags that no entry below the revision may have, and whose they are.
    after: HashMap<Tag, usize>,
    next_index: u64,
    references: HashMap<(u64, Reference), usize>,
}

#[derive(Debug)]
struct Claim {
    identity: String,
    identity_key: Vec<u8>,
    tag_after: Tag,
    /// Blind and commitment of the last record that was opened.
    last: Option<(Key, [u8; 32])>,
    is_identity_proven: bool,
}

#[derive(Debug)]
struct Listed {
    person: usize,
    slot: usize,
    key: OneTimeKey,
    blind: Key,
}

/// A disclosure that is true.
#[derive(Debug)]
pub struct Verified {
    /// For each person, the identity that the first record commits to; none if the disclosure does not say.
    pub identities: Vec<Option<String>>,
    references: HashMap<(u64, Reference), usize>,
}

impl Verified {
    /// The person whose record a receipt is of, if it is among the disclosed ones. If a person of the disclosure
    /// has a receipt for which there is none, the disclosure is not complete for that person.
    #[must_use]
    pub fn lists(&self, index: u64, reference: &Reference) -> Option<usize> {
        self.references.get(&(index, *reference)).copied()
    }
}

impl Verifier {
    /// Reads a disclosure.
    ///
    /// # Errors
    /// It can not be true of any ledger.
    pub fn new(disclosure: &Disclosure) -> Result<Self, DisclosureError> {
        let revision = disclosure.revision;
        let mut verifier = Self {
            ledger_id: fixed("ledger_id", &disclosure.ledger_id)?,
            revision,
            keys: disclosed_keys(disclosure)?,
            persons: Vec::new(),
            listed: BTreeMap::new(),
            after: HashMap::new(),
            next_index: 0,
            references: HashMap::new(),
        };
        for (number, person) in disclosure.persons.iter().enumerate() {
            verifier.expect(number, person)?;
        }
        Ok(verifier)
    }

    /// Reads the next entry, and tells the visitor what the disclosure opens of it. Entries at the revision and
    /// after it are passed over.
    ///
    /// # Errors
    /// The first thing that is not true.
    pub fn follow(
        &mut self,
        entry: &Entry,
        visit: &mut dyn FnMut(Found<'_>),
    ) -> Result<(), DisclosureError> {
        if entry.index != self.next_index {
            let (want, got) = (self.next_index, entry.index);
            return Err(DisclosureError::Sequence { want, got });
        }
        self.next_index += 1;
        if entry.index >= self.revision {
            return Ok(());
        }
        match &entry.body {
            Body::Persons(persons) => self.persons(entry.index, persons, visit)?,
            Body::Uses(uses) => {
                let used = open_use(&self.keys, self.ledger_id, entry.index, &uses.shared)?;
                used.iter().for_each(|used| visit(Found::Use(used)));
            }
            Body::Confidential(items) => {
                for (place, sealed) in items.iter().enumerate() {
                    let opened = open_item(&self.keys, self.ledger_id, entry.index, place, sealed)?;
                    opened.iter().for_each(|opened| visit(Found::Item { place, opened }));
                }
            }
            clear => visit(Found::Clear(clear)),
        }
        // A record that is listed in an entry of another kind was not met.
        match self.listed.first_key_value() {
            Some((index, listed)) if *index <= entry.index => {
                let person = listed.first().map_or(0, |listed| listed.person);
                let problem = OpenError::NotTheirs.into();
                Err(DisclosureError::Proof { person, problem })
            }
            _ => Ok(()),
        }
    }

    /// Ends the verification: the disclosure is true and complete.
    ///
    /// # Errors
    /// Entries are missing, or a person's last record leads to another tag.
    pub fn finish(self) -> Result<Verified, DisclosureError> {
        let (revision, entries) = (self.revision, self.next_index);
        if entries < revision {
            return Err(DisclosureError::Short { revision, entries });
        }
        for (person, claim) in self.persons.iter().enumerate() {
            let (blind, next) = claim.last.as_ref().ok_or(DisclosureError::NoRecords(person))?;
            if !is_same(&next_commitment(blind, &claim.tag_after), next) {
                return Err(DisclosureError::TagAfter { person });
            }
        }
        let identities = self.persons.into_iter();
        let identities =
            identities.map(|claim| claim.is_identity_proven.then_some(claim.identity)).collect();
        Ok(Verified { identities, references: self.references })
    }

    fn expect(&mut self, number: usize, person: &DisclosedPerson) -> Result<(), DisclosureError> {
        if person.records.is_empty() {
            return Err(DisclosureError::NoRecords(number));
        }
        ascending("persons.records.index", person.records.iter().map(|record| record.index))?;
        let has_identity = !person.identity.is_empty();
        present_if("persons.identity_key", has_identity, !person.identity_key.is_empty())?;
        let tag_after = fixed("persons.tag_after", &person.tag_after)?;
        for record in &person.records {
            let (index, revision) = (record.index, self.revision);
            if index >= revision {
                return Err(DisclosureError::BeyondRevision { person: number, index, revision });
            }
            let slot = usize::try_from(record.slot).unwrap_or(usize::MAX);
            self.listed.entry(index).or_default().push(Listed {
                person: number,
                slot,
                key: one_time_key("persons.records.record_key", &record.record_key)?,
                blind: Key::new(fixed("persons.records.blind", &record.blind)?),
            });
        }
        self.after.insert(tag_after, number);
        self.persons.push(Claim {
            identity: person.identity.clone(),
            identity_key: person.identity_key.clone(),
            tag_after,
            last: None,
            is_identity_proven: false,
        });
        Ok(())
    }

    fn persons(
        &mut self,
        index: u64,
        persons: &Persons,
        visit: &mut dyn FnMut(Found<'_>),
    ) -> Result<(), DisclosureError> {
        for slot in &persons.slots {
            if let Some(person) = self.after.get(&slot.tag) {
                return Err(DisclosureError::LeftOut { person: *person, index });
            }
        }
        if let Some(sealed) = &persons.erasure {
            let shared = open_erasure(&self.keys, self.ledger_id, index, sealed)?;
            shared.iter().for_each(|shared| visit(Found::Erasure(shared)));
        }
        for listed in self.listed.remove(&index).unwrap_or_default() {
            let opened = self.record(index, persons, &listed)?;
            let (person, place) = (listed.person, listed.slot);
            visit(Found::Record { person, place, opened: &opened });
        }
        Ok(())
    }

    fn record(
        &mut self,
        index: u64,
        persons: &Persons,
        listed: &Listed,
    ) -> Result<OpenedRecord, DisclosureError> {
        let (person, claim) = (listed.person, &mut self.persons[listed.person]);
        let proof = |problem| DisclosureError::Proof { person, problem };
        let slot = persons.slots.get(listed.slot);
        let slot = slot.ok_or_else(|| proof(OpenError::NotTheirs.into()))?;
        let opened = open_record_once(&listed.key, self.ledger_id, index, persons, listed.slot);
        let opened = opened.map_err(|problem| proof(problem.into()))?;
        let commitment = &opened.record.identity_commit;
        match &claim.last {
            None if commitment.is_empty() => {
                return Err(DisclosureError::NotFirst { person, index });
            }
            None => {
                let proven = verify_identity(&claim.identity, &claim.identity_key, commitment);
                claim.is_identity_proven = proven.map_err(proof)?;
            }
            Some((blind, next)) => {
                let leads_here = is_same(&next_commitment(blind, &slot.tag), next);
                if !leads_here || !commitment.is_empty() {
                    return Err(DisclosureError::Gap { person, index });
                }
            }
        }
        let next = fixed("next", &opened.record.next)?;
        claim.last = Some((listed.blind.clone(), next));
        self.references.insert((index, opened.reference), person);
        Ok(opened)
    }
}

fn disclosed_keys(disclosure: &Disclosure) -> Result<DisclosedKeys, DisclosureError> {
    let kind_of = |number: u32| {
        let kind = Kind::of_number(number).filter(|kind| kind.may_be_disclosed());
        kind.ok_or(DisclosureError::Kind(number))
    };
    let mut keys = DisclosedKeys::default();
    ascending("keys", disclosure.keys.iter().map(|key| (key.kind, key.epoch)))?;
    ascending("texts", disclosure.texts.iter().map(|text| (text.index, text.item)))?;
    let revision = disclosure.revision;
    let first_later = epoch(revision) + u64::from(disclosure.open_ended);
    for key in &disclosure.keys {
        let epoch = key.epoch;
        if epoch >= first_later {
            return Err(DisclosureError::Later { epoch, revision });
        }
        let wrong = FieldError::Length { field: "keys.key", want: 32, got: key.key.len() };
        let secret = ConfidentialKey::from_slice(&key.key).ok_or(wrong)?;
        keys.epochs.insert((kind_of(key.kind)?, epoch), secret);
    }
    for text in &disclosure.texts {
        if text.index >= revision {
            return Err(DisclosureError::Later { epoch: epoch(text.index), revision });
        }
        let (kind, key) = (kind_of(text.kind)?, one_time_key("texts.key", &text.key)?);
        keys.texts.insert((text.index, text.item), (kind, key));
    }
    Ok(keys)
}
