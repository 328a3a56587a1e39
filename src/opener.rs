//! Opens entries with the keys of the vault: whose they are, and what they say.
//!
//! The view finds whose a tag is, and the entry of a record; the vault has the keys. An entry that the view
//! has applied can be opened at any time. While the view catches up, [`CatchUp`] knows what the entries
//! before say that it has not applied yet. [`Offline`] needs no view, and opens a ledger from its beginning.

use std::{cell::RefCell, collections::VecDeque, sync::Arc};

use hashbrown::HashMap;

use crate::{
    domain::{Catalog, Evidence, SubjectRef},
    entry::{Entry, EntryError},
    format::{
        LedgerId, Reference, Tag, entry::Entry as SealedEntry, keys::ledger::ConfidentialRoot,
    },
    ledger::sealed::{
        self, Lane, LookupError, Opened, Person, Persons, SlotOf, SlotOpening, Whose,
    },
    vault::{People, Vault},
    view::View,
};

/// Opens the entries that the view has applied.
#[derive(Debug, Clone)]
pub struct Opener {
    vault: Arc<Vault>,
    view: Arc<View>,
}

impl Opener {
    /// Opens with the keys of a vault and the look-ups of a view.
    #[must_use]
    pub fn new(vault: Arc<Vault>, view: Arc<View>) -> Self {
        Self { vault, view }
    }

    /// An entry of the ledger.
    ///
    /// # Errors
    /// See [`EntryError`].
    pub fn entry(&self, bytes: &[u8]) -> Result<Entry, EntryError> {
        let catalog = self.view.catalog();
        Ok(sealed::open(&SealedEntry::decode(bytes)?, self, &catalog.catalog)?.entry)
    }

    /// The evidence of a data subject's record in an entry; empty where there is none.
    ///
    /// # Errors
    /// See [`EntryError`].
    pub fn evidence(&self, bytes: &[u8], subject: SubjectRef) -> Result<Evidence, EntryError> {
        sealed::evidence(&SealedEntry::decode(bytes)?, subject, self)
    }

    /// What opens a data subject's slot of an entry, and nothing else.
    ///
    /// # Errors
    /// See [`EntryError`].
    pub fn opening(&self, bytes: &[u8], subject: SubjectRef) -> Result<SlotOpening, EntryError> {
        sealed::opening(&SealedEntry::decode(bytes)?, subject, self)
    }
}

impl Persons for Opener {
    fn ledger_id(&self) -> LedgerId {
        self.vault.ledger_id()
    }

    fn confidential(&self) -> &ConfidentialRoot {
        self.vault.confidential()
    }

    fn whose(&self, tag: &Tag) -> Result<Option<Whose>, LookupError> {
        whose(&self.vault, &self.view, tag)
    }

    fn person(&self, subject: SubjectRef) -> Result<Arc<Person>, LookupError> {
        self.vault.person(subject).map_err(|error| LookupError(error.to_string()))
    }

    fn index_of(&self, reference: &Reference) -> Result<Option<u64>, LookupError> {
        self.view.index_of(reference).map_err(|error| LookupError(error.to_string()))
    }
}

/// Opens entries in the order of the ledger while the view catches up, perhaps in another thread.
#[derive(Debug)]
pub struct CatchUp<'a> {
    vault: &'a Vault,
    view: &'a View,
    /// What entries say that are opened and not applied yet, part by part.
    parts: RefCell<VecDeque<Part>>,
}

/// What a run of entries says.
#[derive(Debug, Default)]
struct Part {
    /// Number of ledger entries up to its end.
    end: u64,
    tags: HashMap<Tag, Whose>,
    references: HashMap<Reference, u64>,
}

impl<'a> CatchUp<'a> {
    /// Continues where the view is.
    #[must_use]
    pub fn new(vault: &'a Vault, view: &'a View) -> Self {
        Self { vault, view, parts: RefCell::default() }
    }

    /// Begins a part, and forgets those that the view has applied.
    pub fn begin(&self) {
        let applied = self.view.applied();
        let mut parts = self.parts.borrow_mut();
        parts.retain(|part| part.end > applied);
        parts.push_front(Part::default());
    }

    /// Opens the next entry. The catalogue is that before the entry.
    ///
    /// # Errors
    /// See [`EntryError`].
    pub fn open(&self, entry: &SealedEntry, catalog: &Catalog) -> Result<Opened, EntryError> {
        let opened = sealed::open(entry, self, catalog)?;
        let mut parts = self.parts.borrow_mut();
        if let Some(part) = parts.front_mut() {
            part.end = entry.index + 1;
            remember(&opened.slots, entry.index, &mut part.tags, &mut part.references);
        }
        Ok(opened)
    }
}

impl Persons for CatchUp<'_> {
    fn ledger_id(&self) -> LedgerId {
        self.vault.ledger_id()
    }

    fn confidential(&self) -> &ConfidentialRoot {
        self.vault.confidential()
    }

    fn whose(&self, tag: &Tag) -> Result<Option<Whose>, LookupError> {
        let known = self.parts.borrow().iter().find_map(|part| part.tags.get(tag).copied());
        known.map_or_else(|| whose(self.vault, self.view, tag), |known| Ok(Some(known)))
    }

    fn person(&self, subject: SubjectRef) -> Result<Arc<Person>, LookupError> {
        self.vault.person(subject).map_err(|error| LookupError(error.to_string()))
    }

    fn index_of(&self, reference: &Reference) -> Result<Option<u64>, LookupError> {
        let of_part = |part: &Part| part.references.get(reference).copied();
        let known = self.parts.borrow().iter().find_map(of_part);
        let stored = || self.view.index_of(reference);
        known.map_or_else(stored, |known| Ok(Some(known))).map_err(|e| LookupError(e.to_string()))
    }
}

/// Opens all entries of a ledger in their order, with the subjects of its vault in memory and no view.
#[derive(Debug)]
pub struct Offline {
    people: People,
    by_ref: HashMap<SubjectRef, usize>,
    tags: RefCell<HashMap<Tag, Whose>>,
    references: RefCell<HashMap<Reference, u64>>,
}

impl Offline {
    /// Expects the first tags of all subjects.
    #[must_use]
    pub fn new(people: People) -> Self {
        let (mut by_ref, mut tags) = (HashMap::new(), HashMap::new());
        for (place, person) in people.persons.iter().enumerate() {
            let subject = person.subject_ref;
            by_ref.insert(subject, place);
            let first = |lane| Whose { subject, lane, number: 0 };
            tags.insert(person.keys.tags().tag(0), first(Lane::Records));
            tags.extend(person.keys.use_tag(0).map(|tag| (tag, first(Lane::Uses))));
        }
        Self { people, by_ref, tags: RefCell::new(tags), references: RefCell::default() }
    }

    /// Opens the next entry. The catalogue is that before the entry.
    ///
    /// # Errors
    /// See [`EntryError`].
    pub fn open(&self, entry: &SealedEntry, catalog: &Catalog) -> Result<Opened, EntryError> {
        let opened = sealed::open(entry, self, catalog)?;
        let mut tags = self.tags.borrow_mut();
        remember(&opened.slots, entry.index, &mut tags, &mut self.references.borrow_mut());
        // Only the next tag of each lane is expected.
        for slot in &opened.slots {
            tags.remove(&slot.tag);
        }
        Ok(opened)
    }

    /// The number of subjects that none of the opened entries is about.
    #[must_use]
    pub fn without_entry(&self) -> u64 {
        let tags = self.tags.borrow();
        let is_expected = |tag| tags.contains_key(&tag);
        let is_without = |person: &&Arc<Person>| {
            is_expected(person.keys.tags().tag(0)) && person.keys.use_tag(0).is_none_or(is_expected)
        };
        self.people.persons.iter().filter(is_without).count() as u64
    }
}

impl Persons for Offline {
    fn ledger_id(&self) -> LedgerId {
        self.people.ledger_id
    }

    fn confidential(&self) -> &ConfidentialRoot {
        &self.people.confidential
    }

    fn whose(&self, tag: &Tag) -> Result<Option<Whose>, LookupError> {
        Ok(self.tags.borrow().get(tag).copied())
    }

    fn person(&self, subject: SubjectRef) -> Result<Arc<Person>, LookupError> {
        let person = self.by_ref.get(&subject).and_then(|place| self.people.persons.get(*place));
        let unknown = || LookupError(format!("the vault does not have {subject:?}"));
        person.cloned().ok_or_else(unknown)
    }

    fn index_of(&self, reference: &Reference) -> Result<Option<u64>, LookupError> {
        Ok(self.references.borrow().get(reference).copied())
    }
}

/// Adds what the slots of an entry say.
pub fn remember(
    slots: &[SlotOf],
    index: u64,
    tags: &mut HashMap<Tag, Whose>,
    references: &mut HashMap<Reference, u64>,
) {
    for slot in slots {
        let SlotOf { subject, lane, number, .. } = *slot;
        tags.insert(slot.tag, Whose { subject, lane, number });
        let next = Whose { subject, lane, number: number + 1 };
        tags.extend(slot.next_tag.map(|tag| (tag, next)));
        references.extend(slot.reference.map(|reference| (reference, index)));
    }
}

fn whose(vault: &Vault, view: &View, tag: &Tag) -> Result<Option<Whose>, LookupError> {
    let error = |error: &dyn std::fmt::Display| LookupError(error.to_string());
    if let Some(whose) = view.whose(tag).map_err(|e| error(&e))? {
        return Ok(Some(whose));
    }
    let first = vault.first_tag(tag).map_err(|e| error(&e))?;
    Ok(first.map(|(subject, lane): (SubjectRef, Lane)| Whose { subject, lane, number: 0 }))
}
