//! Whose entry is it? One pass over the ledger, with the keys of the vault.
//!
//! The map of next expected tags says whose a tag is. It begins with the first tag of each lane of every
//! person of the vault. Each tag that is met is replaced by the person's next one, so the map never has more
//! than two tags a person, and a counter is the number of tags met: it is stored nowhere as truth.
//!
//! A tag that the map lacks is one that no key explains: of somebody erased, a forgotten use, or random. The
//! ledger holds running totals of those. Where they differ at the end, the vault has lost a key, or is not
//! this ledger's: it is refused. So is a vault of an older generation than the ledger names, a record that
//! does not open under its tag, and an entry of somebody after their erasure.
//!
//! [`Rebuild`] tells a visitor what it finds, in the order of the ledger; the visitor folds it.

use std::{convert::Infallible, fmt};

use consent_ledger_proto::ledger::{Erasure, RecordKind, Totals, Use, item::Content};
use hashbrown::HashMap;
use thiserror::Error;

use crate::{
    LedgerId, Tag,
    confidential::{OpenedItem, open_erasure, open_item, open_use},
    entry::{Body, Entry, Persons, SealedText, Slot, Uses},
    error::OpenError,
    keys::ledger::ConfidentialRoot,
    seal::SealError,
    slot::{OpenedRecord, open_record},
    vault::Person,
};

/// A lane of tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Records, which change what is known of a person.
    Records,
    /// Uses.
    Uses,
}

/// Whose tag is expected next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// The person, by number.
    pub person: u32,
    /// The lane.
    pub lane: Lane,
}

/// The persons of a vault, numbered from 0.
pub trait People {
    /// Why a person can not be read.
    type Error;
    /// How many there are.
    fn count(&self) -> u32;
    /// A person.
    ///
    /// # Errors
    /// The person can not be read.
    fn person(&mut self, number: u32) -> Result<&Person, Self::Error>;
}

/// The map of next expected tags, in memory or in a derived file.
pub trait NextTags {
    /// Why the map can not be read or changed.
    type Error;
    /// Expects a tag. Returns whom it was expected of before.
    ///
    /// # Errors
    /// The map can not be changed.
    fn insert(&mut self, tag: Tag, expected: Expected) -> Result<Option<Expected>, Self::Error>;
    /// Takes a tag out.
    ///
    /// # Errors
    /// The map can not be changed.
    fn remove(&mut self, tag: &Tag) -> Result<Option<Expected>, Self::Error>;
}

impl People for &[Person] {
    type Error = Infallible;

    fn count(&self) -> u32 {
        u32::try_from(self.len()).unwrap_or(u32::MAX)
    }

    fn person(&mut self, number: u32) -> Result<&Person, Infallible> {
        Ok(&self[number as usize])
    }
}

/// The map in memory.
#[derive(Debug, Default, Clone)]
pub struct TagMap(HashMap<Tag, Expected>);

impl NextTags for TagMap {
    type Error = Infallible;

    fn insert(&mut self, tag: Tag, expected: Expected) -> Result<Option<Expected>, Infallible> {
        Ok(self.0.insert(tag, expected))
    }

    fn remove(&mut self, tag: &Tag) -> Result<Option<Expected>, Infallible> {
        Ok(self.0.remove(tag))
    }
}

impl TagMap {
    /// Of whom a tag is expected next.
    #[must_use]
    pub fn get(&self, tag: &Tag) -> Option<Expected> {
        self.0.get(tag).copied()
    }

    /// How many tags are expected.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no tag is expected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What the vault says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VaultFacts {
    /// Its generation.
    pub generation: u64,
    /// How many tombstones it holds.
    pub tombstones: u64,
}

/// How far a person's tags go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// The number of the next tag of lane 0, which is the number of those that landed.
    pub records: u64,
    /// The number of the next tag of lane 1.
    pub uses: u64,
    /// Tags of lane 1 that landed and were not forgotten.
    uses_met: u64,
    /// Whether the person's ERASED record has landed.
    pub is_erased: bool,
}

/// What the pass finds in an entry.
#[derive(Debug)]
pub enum Found<'a> {
    /// A record of a person of the vault.
    Record {
        /// The person.
        person: u32,
        /// The number of the record's tag.
        number: u64,
        /// The slot's place in the entry.
        place: usize,
        /// The slot.
        slot: &'a Slot,
        /// The opened record.
        opened: &'a OpenedRecord,
    },
    /// A tag that no key explains.
    Unexplained {
        /// Its lane.
        lane: Lane,
        /// Its place in the entry.
        place: usize,
    },
    /// A use, with the persons of the vault and the numbers of their tags.
    Use {
        /// What the tags share.
        used: &'a Use,
        /// Whose data was used, in the order of tags.
        persons: &'a [(u32, u64)],
    },
    /// What the slots of an erasure share.
    Erasure(&'a Erasure),
    /// A confidential item.
    Item {
        /// Its place in the entry.
        place: usize,
        /// The opened item.
        opened: &'a OpenedItem,
    },
    /// What is in clear: the catalogue, levels, keys.
    Clear(&'a Body),
}

/// Why ledger and vault do not belong together. `E` is why persons or the map can not be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RebuildError<E: fmt::Display> {
    /// Persons or the map can not be read.
    #[error("{0}")]
    Source(E),
    /// Two persons of the vault have the same keys.
    #[error("persons {first} and {second} of the vault have the same keys")]
    SameKeys {
        /// The first.
        first: u32,
        /// The other.
        second: u32,
    },
    /// An entry can not be read.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// No confidential key opens an item or a shared part.
    #[error("entry {index} is damaged: no confidential key opens item {item}, or what is shared")]
    Item {
        /// Index of the entry.
        index: u64,
        /// Place of the item.
        item: usize,
    },
    /// An entry of somebody who was erased before it.
    #[error("entry {index} is about a person who was erased before it")]
    AfterErasure {
        /// Index of the entry.
        index: u64,
    },
    /// More random tags are said to be among the tags of a use than no key explains.
    #[error(
        "entry {index} says that {said} of its tags are random, but keys explain all but {unexplained}"
    )]
    Random {
        /// Index of the entry.
        index: u64,
        /// What the entry says.
        said: u32,
        /// Tags that no key explains.
        unexplained: u64,
    },
    /// Running totals that go back.
    #[error("the running totals of entry {index} are lower than those before it")]
    TotalsWentBack {
        /// Index of the entry.
        index: u64,
    },
    /// The vault is older than the ledger.
    #[error(
        "the vault has generation {vault}, but entry {index} names generation {ledger}: it is an older \
         copy. Restore the vault that belongs to this ledger"
    )]
    OlderVault {
        /// Index of the entry.
        index: u64,
        /// The generation that the ledger names.
        ledger: u64,
        /// The vault's.
        vault: u64,
    },
    /// The vault has lost tombstones.
    #[error("the vault has {vault} tombstones, but entry {index} names {ledger}: it has lost some")]
    LostTombstones {
        /// Index of the entry.
        index: u64,
        /// The number that the ledger names.
        ledger: u64,
        /// The vault's.
        vault: u64,
    },
    /// Tags that neither a key nor an erasure explains: the vault has lost keys.
    #[error(
        "the ledger has {found} tags of {lane} that no key explains, and erasures, forgetting and \
         random tags account for {accounted}: the vault has lost keys. {first}"
    )]
    Surplus {
        /// The lane.
        lane: Lane,
        /// Tags that no key explains.
        found: u64,
        /// Tags that are accounted for.
        accounted: u64,
        /// The first of the surplus, as far as it can be known.
        first: FirstSurplus,
    },
    /// Fewer tags without a key than are accounted for.
    #[error(
        "erasures, forgetting and random tags account for {accounted} tags of {lane} that no key \
         explains, but the ledger has {found}: the vault is not the one of this ledger"
    )]
    Deficit {
        /// The lane.
        lane: Lane,
        /// Tags that no key explains.
        found: u64,
        /// Tags that are accounted for.
        accounted: u64,
    },
}

/// The first entry of a surplus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstSurplus {
    /// This entry is the first that nothing accounts for since the totals were written last.
    Certain(u64),
    /// Nothing since the totals is surplus, so it is among the entries from this one on.
    From(u64),
}

/// The pass over a ledger.
#[derive(Debug)]
pub struct Rebuild<P, N> {
    ledger_id: LedgerId,
    vault: VaultFacts,
    people: P,
    next: N,
    counters: Vec<Counters>,
    records: Tally,
    uses: Tally,
    /// The highest generation that the ledger names, and where.
    generation: Option<Named>,
    /// The tombstones of the last named state of the vault, and where.
    tombstones: Option<Named>,
}

/// A number that the ledger names.
#[derive(Debug, Clone, Copy)]
struct Named {
    index: u64,
    number: u64,
}

/// Tags of one lane that no key explains.
#[derive(Debug, Default)]
struct Tally {
    unexplained: u64,
    /// The last total, and random tags since.
    accounted: u64,
    first: Option<u64>,
    first_since_total: Option<u64>,
}

/// What a pass has found out.
#[derive(Debug)]
pub struct Rebuilt<N> {
    /// The map of next expected tags.
    pub next: N,
    /// Counters of each person. Who is erased and still has a frame must lose it: the erasure was interrupted.
    pub counters: Vec<Counters>,
    /// The running totals as of the end.
    pub totals: Totals,
}

impl<E, P, N> Rebuild<P, N>
where
    E: fmt::Display,
    P: People<Error = E>,
    N: NextTags<Error = E>,
{
    /// Begins a pass: expects the first tags of every person.
    ///
    /// # Errors
    /// Two persons have the same keys, or a person can not be read.
    pub fn new(
        ledger_id: LedgerId,
        vault: VaultFacts,
        mut people: P,
        mut next: N,
    ) -> Result<Self, RebuildError<E>> {
        let mut counters = Vec::with_capacity(people.count() as usize);
        for number in 0..people.count() {
            let keys = &people.person(number).map_err(RebuildError::Source)?.keys;
            let uses = keys.uses.first_left(0);
            let use_tag = uses.and_then(|uses| keys.use_tag(uses)).map(|tag| (tag, Lane::Uses));
            let tags = [Some((keys.tags().tag(0), Lane::Records)), use_tag];
            for (tag, lane) in tags.into_iter().flatten() {
                expect(&mut next, tag, Expected { person: number, lane })?;
            }
            counters.push(Counters { uses: uses.unwrap_or(u64::MAX), ..Counters::default() });
        }
        Ok(Self {
            ledger_id,
            vault,
            people,
            next,
            counters,
            records: Tally::default(),
            uses: Tally::default(),
            generation: None,
            tombstones: None,
        })
    }

    /// Reads the next entry of the ledger, whose bytes and place in the chain are verified, and tells the
    /// visitor what is in it.
    ///
    /// # Errors
    /// See [`RebuildError`].
    pub fn apply(
        &mut self,
        confidential: &ConfidentialRoot,
        entry: &Entry,
        visit: &mut dyn FnMut(Found<'_>),
    ) -> Result<(), RebuildError<E>> {
        let index = entry.index;
        match &entry.body {
            Body::Persons(persons) => self.persons(confidential, index, persons, visit),
            Body::Uses(uses) => self.uses(confidential, index, uses, visit),
            Body::Confidential(items) => self.items(confidential, index, items, visit),
            clear => {
                entry.check_mac(&confidential.clear)?;
                visit(Found::Clear(clear));
                Ok(())
            }
        }
    }

    /// Ends the pass: ledger and vault belong together.
    ///
    /// # Errors
    /// The vault is older than the ledger, or tags are not accounted for.
    pub fn finish(self) -> Result<Rebuilt<N>, RebuildError<E>> {
        let VaultFacts { generation: vault, tombstones } = self.vault;
        if let Some(Named { index, number: ledger }) = self.generation
            && ledger > vault
        {
            return Err(RebuildError::OlderVault { index, ledger, vault });
        }
        // A later generation can have fewer tombstones or more; what it holds is named when it has landed.
        if let (Some(state), Some(named)) = (self.generation, self.tombstones)
            && state.number == vault
            && named.number > tombstones
        {
            let (index, ledger) = (named.index, named.number);
            return Err(RebuildError::LostTombstones { index, ledger, vault: tombstones });
        }
        self.records.finish(Lane::Records)?;
        self.uses.finish(Lane::Uses)?;
        let totals = Totals { lane0: self.records.unexplained, lane1: self.uses.unexplained };
        Ok(Rebuilt { next: self.next, counters: self.counters, totals })
    }

    fn persons(
        &mut self,
        confidential: &ConfidentialRoot,
        index: u64,
        persons: &Persons,
        visit: &mut dyn FnMut(Found<'_>),
    ) -> Result<(), RebuildError<E>> {
        let mut erased = Vec::new();
        for (place, slot) in persons.slots.iter().enumerate() {
            let expected = self.next.remove(&slot.tag).map_err(RebuildError::Source)?;
            let Some(Expected { person, .. }) = expected else {
                self.records.meet(index);
                visit(Found::Unexplained { lane: Lane::Records, place });
                continue;
            };
            let counters = self.counters[person as usize];
            if counters.is_erased {
                return Err(RebuildError::AfterErasure { index });
            }
            let number = counters.records;
            let known = self.people.person(person).map_err(RebuildError::Source)?;
            let (keys, identity) = (&known.keys, &known.identity);
            let ledger_id = self.ledger_id;
            let opened = open_record(keys, identity, number, ledger_id, index, persons, place)?;
            let next_tag = keys.tags().tag(number + 1);
            expect(&mut self.next, next_tag, Expected { person, lane: Lane::Records })?;
            self.counters[person as usize].records += 1;
            if opened.kind == RecordKind::Erased {
                erased.push(person);
            }
            visit(Found::Record { person, number, place, slot, opened: &opened });
        }
        if let Some(sealed) = &persons.erasure {
            let shared = open_erasure(confidential, self.ledger_id, index, sealed);
            let shared = shared_part(index, shared)?;
            self.erase(&erased, index);
            self.totals(index, shared.totals)?;
            self.name_generation(index, shared.generation);
            visit(Found::Erasure(&shared));
        }
        Ok(())
    }

    /// Counts what the erased ones leave behind. Their frames are still in the vault.
    fn erase(&mut self, persons: &[u32], index: u64) {
        for person in persons {
            let counters = &mut self.counters[*person as usize];
            counters.is_erased = true;
            self.records.meet_all(index, counters.records);
            self.uses.meet_all(index, counters.uses_met);
        }
    }

    fn uses(
        &mut self,
        confidential: &ConfidentialRoot,
        index: u64,
        uses: &Uses,
        visit: &mut dyn FnMut(Found<'_>),
    ) -> Result<(), RebuildError<E>> {
        let used = open_use(confidential, self.ledger_id, index, &uses.shared);
        let used = shared_part(index, used)?;
        let (mut persons, mut unexplained) = (Vec::new(), 0);
        let random = u64::from(used.random_tags);
        for (place, tag) in uses.tags.iter().enumerate() {
            let expected = self.next.remove(tag).map_err(RebuildError::Source)?;
            let Some(Expected { person, .. }) = expected else {
                unexplained += 1;
                visit(Found::Unexplained { lane: Lane::Uses, place });
                continue;
            };
            let counters = &mut self.counters[person as usize];
            if counters.is_erased {
                return Err(RebuildError::AfterErasure { index });
            }
            persons.push((person, counters.uses));
            let next = counters.uses.saturating_add(1);
            let keys = &self.people.person(person).map_err(RebuildError::Source)?.keys;
            let left = keys.uses.first_left(next);
            counters.uses_met += 1;
            counters.uses = left.unwrap_or(u64::MAX);
            if let Some(tag) = left.and_then(|left| keys.use_tag(left)) {
                expect(&mut self.next, tag, Expected { person, lane: Lane::Uses })?;
            }
        }
        if random > unexplained {
            return Err(RebuildError::Random { index, said: used.random_tags, unexplained });
        }
        self.uses.account(random);
        self.uses.meet_all(index, unexplained);
        if unexplained == random {
            self.uses.forgive(index);
        }
        visit(Found::Use { used: &used, persons: &persons });
        Ok(())
    }

    fn items(
        &mut self,
        confidential: &ConfidentialRoot,
        index: u64,
        items: &[SealedText],
        visit: &mut dyn FnMut(Found<'_>),
    ) -> Result<(), RebuildError<E>> {
        for (item, sealed) in items.iter().enumerate() {
            let opened = open_item(confidential, self.ledger_id, index, item, sealed)?;
            let opened = opened.ok_or(RebuildError::Item { index, item })?;
            if let Some(Content::Vault(state)) = &opened.item.content {
                self.totals(index, state.totals)?;
                self.name_generation(index, state.generation);
                self.tombstones = Some(Named { index, number: state.tombstones });
            }
            visit(Found::Item { place: item, opened: &opened });
        }
        Ok(())
    }

    fn totals(&mut self, index: u64, totals: Option<Totals>) -> Result<(), RebuildError<E>> {
        let Some(totals) = totals else { return Ok(()) };
        let is_higher = self.records.total(totals.lane0) && self.uses.total(totals.lane1);
        if is_higher { Ok(()) } else { Err(RebuildError::TotalsWentBack { index }) }
    }

    fn name_generation(&mut self, index: u64, number: u64) {
        if self.generation.is_none_or(|named| named.number < number) {
            self.generation = Some(Named { index, number });
        }
    }
}

/// A shared part. The ledger has the key of each, so one that does not open is damaged.
fn shared_part<T, E: fmt::Display>(
    index: u64,
    opened: Result<Option<T>, OpenError>,
) -> Result<T, RebuildError<E>> {
    match opened {
        Ok(Some(shared)) => Ok(shared),
        Ok(None) | Err(OpenError::Seal { problem: SealError::Key, .. }) => {
            Err(RebuildError::Item { index, item: 0 })
        }
        Err(error) => Err(error.into()),
    }
}

fn expect<E: fmt::Display, N: NextTags<Error = E>>(
    next: &mut N,
    tag: Tag,
    expected: Expected,
) -> Result<(), RebuildError<E>> {
    match next.insert(tag, expected).map_err(RebuildError::Source)? {
        None => Ok(()),
        Some(before) => {
            let (first, second) = (before.person, expected.person);
            Err(RebuildError::SameKeys { first, second })
        }
    }
}

impl Tally {
    fn meet(&mut self, index: u64) {
        self.meet_all(index, 1);
    }

    fn meet_all(&mut self, index: u64, tags: u64) {
        if tags > 0 {
            self.unexplained += tags;
            self.first.get_or_insert(index);
            self.first_since_total.get_or_insert(index);
        }
    }

    /// Accounts for random tags.
    fn account(&mut self, random: u64) {
        self.accounted += random;
    }

    /// The unexplained tags of an entry are all random, so it is no surplus.
    fn forgive(&mut self, index: u64) {
        let is_first = |first: &u64| *first == index;
        self.first = self.first.filter(|first| !is_first(first));
        self.first_since_total = self.first_since_total.filter(|first| !is_first(first));
    }

    /// A running total that the ledger names; whether it is not lower than what is accounted for already.
    fn total(&mut self, total: u64) -> bool {
        let is_higher = total >= self.accounted;
        self.accounted = total;
        self.first_since_total = None;
        is_higher
    }

    fn finish<E: fmt::Display>(&self, lane: Lane) -> Result<(), RebuildError<E>> {
        let (found, accounted) = (self.unexplained, self.accounted);
        if found < accounted {
            return Err(RebuildError::Deficit { lane, found, accounted });
        }
        let certain = self.first_since_total.map(FirstSurplus::Certain);
        match certain.or(self.first.map(FirstSurplus::From)) {
            Some(first) if found > accounted => {
                Err(RebuildError::Surplus { lane, found, accounted, first })
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Records => "records",
            Self::Uses => "uses",
        })
    }
}

impl fmt::Display for FirstSurplus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certain(index) => write!(f, "The first of them is in entry {index}"),
            Self::From(index) => write!(f, "They are among the entries from {index} on"),
        }
    }
}
