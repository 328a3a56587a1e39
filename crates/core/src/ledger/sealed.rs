//! Sealed entries: what an entry says, sealed with the keys of those whom it is about, and opened with them.
//!
//! [`seal`] makes the body of an entry, [`open`] reads one. Both know a data subject by its place in the
//! vault ([`SubjectRef`]), which no entry holds. Whose a tag is, and where a record is that another one
//! names, are looked up through [`Persons`].

use std::sync::Arc;

use smallvec::SmallVec;
use thiserror::Error;

pub use crate::format::rebuild::Lane;
use crate::{
    domain::{Catalog, Evidence, Millis, SubjectRef},
    entry::{Body, Content, Entry, EntryError, Meanings, evidence_of_message, evidence_to_message},
    format::{
        LedgerId, Reference, Tag,
        confidential::{open_item, open_use, seal_items},
        entry::{self as sealed, Uses},
        error::{BuildError, OpenError},
        field::FieldError,
        keys::{
            ledger::ConfidentialRoot,
            person::{IdentityKey, PersonKeys},
        },
        seal::OneTimeKey,
        slot::{self, Draft, OpenedEvidence, open_evidence, open_record},
        uses::seal_uses,
    },
    proto::ledger::{Item, Record, item},
};

/// A look-up that an entry needs has failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct LookupError(pub String);

/// A data subject as the vault knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// Its place in the vault.
    pub subject_ref: SubjectRef,
    /// Its keys.
    pub keys: PersonKeys,
    /// Its identity, `namespace:id`.
    pub identity: crate::domain::Subject,
}

/// Whose a tag is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whose {
    /// The data subject.
    pub subject: SubjectRef,
    /// The lane.
    pub lane: Lane,
    /// The number of the tag in the lane.
    pub number: u64,
}

/// The keys and look-ups that open entries.
pub trait Persons {
    /// The ledger.
    fn ledger_id(&self) -> LedgerId;
    /// The keys of what names nobody.
    fn confidential(&self) -> &ConfidentialRoot;
    /// Whose a tag is; none if no key explains it.
    ///
    /// # Errors
    /// The look-up failed.
    fn whose(&self, tag: &Tag) -> Result<Option<Whose>, LookupError>;
    /// A data subject.
    ///
    /// # Errors
    /// The look-up failed, or the vault does not have it.
    fn person(&self, subject: SubjectRef) -> Result<Arc<Person>, LookupError>;
    /// The index of the entry with a record; none if no entry has it.
    ///
    /// # Errors
    /// The look-up failed.
    fn index_of(&self, reference: &Reference) -> Result<Option<u64>, LookupError>;
}

/// A tag of an entry, with what follows from its owner's keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotOf {
    /// Whose it is.
    pub subject: SubjectRef,
    /// The lane.
    pub lane: Lane,
    /// The number of the tag in its lane.
    pub number: u64,
    /// The tag.
    pub tag: Tag,
    /// The tag of the same lane after it; none if its leaf is forgotten.
    pub next_tag: Option<Tag>,
    /// The reference of its record; none for a use.
    pub reference: Option<Reference>,
}

/// The tags of one entry; most entries have one.
pub type Slots = SmallVec<[SlotOf; 1]>;

/// An opened entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The entry.
    pub entry: Entry,
    /// Whose its tags are, in their order.
    pub slots: Slots,
}

/// A data subject of an entry that is about to be written.
#[derive(Debug, Clone)]
pub struct Named {
    /// The data subject.
    pub person: Arc<Person>,
    /// How many tags of the entry's lane it had before.
    pub number: u64,
}

/// Where an entry is about to be written.
#[derive(Debug, Clone, Copy)]
pub struct Writing<'a> {
    /// The ledger.
    pub ledger_id: LedgerId,
    /// The keys of what names nobody.
    pub confidential: &'a ConfidentialRoot,
    /// Its index.
    pub index: u64,
    /// When it is recorded.
    pub recorded_at: Millis,
}

/// The second of a moment, and the milliseconds within it.
#[must_use]
pub fn second_and_ms(at: Millis) -> (i64, u32) {
    (at.0.div_euclid(1_000), u32::try_from(at.0.rem_euclid(1_000)).unwrap_or_default())
}

pub(super) fn moment(second: i64, ms: u32) -> Millis {
    Millis(second.saturating_mul(1_000).saturating_add(ms.into()))
}

/// Seals what an entry says. `named` has every data subject of the content.
///
/// # Errors
/// A field with a value that the format does not allow, or a part that is too long.
pub fn seal(
    content: Content,
    writing: &Writing<'_>,
    named: &[Named],
    evidence: Option<&Evidence>,
) -> Result<(sealed::Body, Slots), BuildError> {
    let (_, recorded_ms) = second_and_ms(writing.recorded_at);
    let mut rng = rand::rng();
    let Writing { ledger_id, confidential, index, .. } = *writing;
    match content {
        Content::Clear(body) => Ok((body, Slots::new())),
        Content::Items(contents) => {
            let items: Vec<Item> = contents
                .into_iter()
                .map(|content| Item { recorded_ms, content: Some(content) })
                .collect();
            let items = seal_items(confidential, ledger_id, index, &items, &mut rng)?;
            Ok((sealed::Body::Confidential(items), Slots::new()))
        }
        Content::Uses(subjects, mut used) => {
            used.recorded_ms = recorded_ms;
            let named = subjects.iter().map(|subject| of(named, *subject));
            let named: Vec<&Named> = named.collect::<Result<_, _>>()?;
            let users: Vec<_> = named.iter().map(|it| (&it.person.keys, it.number)).collect();
            let uses = seal_uses(confidential, ledger_id, index, &users, &used, &mut rng)?;
            let slots = named.into_iter().map(Named::use_slot);
            Ok((sealed::Body::Uses(uses), slots.collect::<Result<_, _>>()?))
        }
        Content::Persons(records) => {
            let has_peer = records.len() == 2 && records.iter().all(|(_, it)| it.is_of_link());
            let mut drafts = Vec::with_capacity(records.len());
            for (place, (subject, record)) in records.iter().enumerate() {
                let named = of(named, *subject)?;
                drafts.push(Draft {
                    keys: &named.person.keys,
                    number: named.number,
                    identity: named.person.identity.as_str(),
                    record: Record { recorded_ms, ..Record::clone(record) },
                    evidence: evidence.map(evidence_to_message),
                    peer: has_peer.then(|| 1 - place),
                });
            }
            let (persons, written) = slot::seal_persons(ledger_id, index, &drafts, None, &mut rng)?;
            let mut slots = Slots::new();
            for ((subject, _), written) in records.iter().zip(&written) {
                let named = of(named, *subject)?;
                slots.push(named.record_slot(written.tag, written.reference));
            }
            Ok((sealed::Body::Persons(persons), slots))
        }
    }
}

fn of(named: &[Named], subject: SubjectRef) -> Result<&Named, BuildError> {
    let found = named.iter().find(|named| named.person.subject_ref == subject);
    found.ok_or(BuildError::Field(FieldError::Unknown("persons.slots")))
}

impl Named {
    fn use_slot(&self) -> Result<SlotOf, BuildError> {
        let (keys, number) = (&self.person.keys, self.number);
        let tag = keys.use_tag(number).ok_or(BuildError::NoLeaf(number))?;
        let next_tag = keys.use_tag(number + 1);
        let subject = self.person.subject_ref;
        Ok(SlotOf { subject, lane: Lane::Uses, number, tag, next_tag, reference: None })
    }

    fn record_slot(&self, tag: Tag, reference: Reference) -> SlotOf {
        let number = self.number;
        SlotOf {
            subject: self.person.subject_ref,
            lane: Lane::Records,
            number,
            tag,
            next_tag: Some(self.person.keys.tags().tag(number + 1)),
            reference: Some(reference),
        }
    }
}

trait OfLink {
    fn is_of_link(&self) -> bool;
}

impl OfLink for Record {
    fn is_of_link(&self) -> bool {
        use crate::proto::ledger::RecordKind::{Link, Unlink};
        matches!(self.kind(), Link | Unlink)
    }
}

/// Opens an entry that is in clear or confidential, and names nobody.
///
/// # Errors
/// See [`EntryError`]; [`EntryError::Persons`] for an entry that names somebody.
pub fn open_of_nobody(
    entry: &sealed::Entry,
    ledger_id: LedgerId,
    confidential: &ConfidentialRoot,
) -> Result<Entry, EntryError> {
    let (recorded_at, body) = match &entry.body {
        sealed::Body::Persons(_) | sealed::Body::Uses(_) => {
            return Err(EntryError::Persons { index: entry.index });
        }
        sealed::Body::Confidential(items) => {
            let mut opened = Vec::with_capacity(items.len());
            for (number, item) in items.iter().enumerate() {
                let item = open_item(confidential, ledger_id, entry.index, number, item)?;
                opened.push(item.ok_or(EntryError::NoItemKey { index: entry.index, number })?);
            }
            let recorded_ms = opened.first().map_or(0, |it| it.item.recorded_ms);
            let contents = opened.into_iter().filter_map(|it| it.item.content);
            let contents: Vec<item::Content> = contents.collect();
            (moment(entry.recorded_at_s, recorded_ms), Body::of_items(contents)?)
        }
        clear => {
            entry.check_mac(&confidential.clear)?;
            (moment(entry.recorded_at_s, 0), Body::of_clear(clear)?)
        }
    };
    Ok(Entry { index: entry.index, prev_hash: entry.prev_hash, recorded_at, body })
}

/// Opens an entry. The catalogue is that before the entry, or a later one.
///
/// # Errors
/// See [`EntryError`].
pub fn open(
    entry: &sealed::Entry,
    persons: &dyn Persons,
    catalog: &Catalog,
) -> Result<Opened, EntryError> {
    let index_of = |reference: &Reference| persons.index_of(reference);
    let meanings = Meanings { index: entry.index, numbers: catalog, index_of: Some(&index_of) };
    let (recorded_ms, body, slots) = match &entry.body {
        sealed::Body::Persons(of_persons) => records(entry.index, of_persons, persons, &meanings)?,
        sealed::Body::Uses(uses) => use_of(entry.index, uses, persons, &meanings)?,
        _ => {
            let entry = open_of_nobody(entry, persons.ledger_id(), persons.confidential())?;
            return Ok(Opened { entry, slots: Slots::new() });
        }
    };
    let recorded_at = moment(entry.recorded_at_s, recorded_ms);
    let entry = Entry { index: entry.index, prev_hash: entry.prev_hash, recorded_at, body };
    Ok(Opened { entry, slots })
}

fn records(
    index: u64,
    of_persons: &sealed::Persons,
    persons: &dyn Persons,
    meanings: &Meanings<'_>,
) -> Result<(u32, Body, Slots), EntryError> {
    let (mut slots, mut records) = (Slots::new(), Vec::with_capacity(of_persons.slots.len()));
    for (place, slot) in of_persons.slots.iter().enumerate() {
        let named = named(index, &slot.tag, Lane::Records, persons)?;
        let (keys, identity) = (&named.person.keys, named.person.identity.as_str());
        let ledger_id = persons.ledger_id();
        let opened =
            open_record(keys, identity, named.number, ledger_id, index, of_persons, place)?;
        slots.push(named.record_slot(slot.tag, opened.reference));
        records.push((named.person.subject_ref, opened.record));
    }
    let mut times = records.iter().map(|(_, record)| record.recorded_ms);
    let recorded_ms = times.next().unwrap_or_default();
    if times.any(|other| other != recorded_ms) {
        return Err(crate::entry::field("recorded_ms"));
    }
    Ok((recorded_ms, Body::of_records(records, meanings)?, slots))
}

fn use_of(
    index: u64,
    uses: &Uses,
    persons: &dyn Persons,
    meanings: &Meanings<'_>,
) -> Result<(u32, Body, Slots), EntryError> {
    let used = open_use(persons.confidential(), persons.ledger_id(), index, &uses.shared)?;
    let used = used.ok_or(EntryError::NoItemKey { index, number: 0 })?;
    let (mut slots, mut unexplained) = (Slots::new(), 0);
    for tag in &uses.tags {
        match persons.whose(tag)? {
            None => unexplained += 1,
            Some(Whose { subject, lane: Lane::Uses, number }) => {
                let person = persons.person(subject)?;
                slots.push(Named { person, number }.use_slot().map_err(EntryError::from)?);
            }
            Some(_) => return Err(EntryError::NoKey { index }),
        }
    }
    if unexplained != used.random_tags {
        return Err(EntryError::NoKey { index });
    }
    let subjects = slots.iter().map(|slot| slot.subject).collect();
    Ok((used.recorded_ms, Body::of_use(used, subjects, meanings)?, slots))
}

fn named(index: u64, tag: &Tag, lane: Lane, persons: &dyn Persons) -> Result<Named, EntryError> {
    let whose = persons.whose(tag)?.filter(|whose| whose.lane == lane);
    let Whose { subject, number, .. } = whose.ok_or(EntryError::NoKey { index })?;
    Ok(Named { person: persons.person(subject)?, number })
}

/// The record of a data subject in an entry: its place among the slots, and the number of its tag.
///
/// # Errors
/// A look-up failed. None if the entry has no record of the data subject.
pub fn place_of(
    of_persons: &sealed::Persons,
    subject: SubjectRef,
    persons: &dyn Persons,
) -> Result<Option<(usize, u64)>, EntryError> {
    for (place, slot) in of_persons.slots.iter().enumerate() {
        if let Some(whose) = persons.whose(&slot.tag)?
            && (whose.subject, whose.lane) == (subject, Lane::Records)
        {
            return Ok(Some((place, whose.number)));
        }
    }
    Ok(None)
}

/// The evidence of a data subject's record in an entry; empty where there is none, or it is forgotten.
///
/// # Errors
/// See [`EntryError`].
pub fn evidence(
    entry: &sealed::Entry,
    subject: SubjectRef,
    persons: &dyn Persons,
) -> Result<Evidence, EntryError> {
    let sealed::Body::Persons(of_persons) = &entry.body else { return Ok(Evidence::default()) };
    let index = entry.index;
    let found = place_of(of_persons, subject, persons)?.ok_or(EntryError::NoKey { index })?;
    let ((place, number), person) = (found, persons.person(subject)?);
    let slot = of_persons.slots.get(place).ok_or(EntryError::Open(OpenError::NotTheirs))?;
    match open_evidence(&person.keys, number, persons.ledger_id(), index, slot)? {
        OpenedEvidence::Known(evidence, _) => Ok(evidence_of_message(*evidence)),
        OpenedEvidence::None | OpenedEvidence::Forgotten => Ok(Evidence::default()),
    }
}

/// What opens one data subject's slot of an entry, and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotOpening {
    /// Place of the slot in the entry.
    pub slot: u32,
    /// Opens the record.
    pub record_key: OneTimeKey,
    /// Opens the evidence; none if it is forgotten, or the entry has none.
    pub evidence_key: Option<OneTimeKey>,
    /// For the first record of the data subject: the key of its commitment to the identity.
    pub identity_key: Option<IdentityKey>,
}

/// What opens a data subject's slot of an entry.
///
/// # Errors
/// The entry has no record of the data subject, a look-up failed, or the evidence is damaged.
pub fn opening(
    entry: &sealed::Entry,
    subject: SubjectRef,
    persons: &dyn Persons,
) -> Result<SlotOpening, EntryError> {
    let no_key = EntryError::NoKey { index: entry.index };
    let sealed::Body::Persons(of_persons) = &entry.body else { return Err(no_key) };
    let (place, number) = place_of(of_persons, subject, persons)?.ok_or(no_key.clone())?;
    let slot = of_persons.slots.get(place).ok_or(no_key)?;
    let keys = &persons.person(subject)?.keys;
    let evidence = open_evidence(keys, number, persons.ledger_id(), entry.index, slot)?;
    Ok(SlotOpening {
        slot: u32::try_from(place).unwrap_or(u32::MAX),
        record_key: slot::record_key(&keys.records(), slot),
        evidence_key: match evidence {
            OpenedEvidence::Known(_, key) => Some(key),
            OpenedEvidence::None | OpenedEvidence::Forgotten => None,
        },
        identity_key: (number == 0).then(|| keys.identity()),
    })
}

/// The reference of a data subject's record in an entry.
///
/// # Errors
/// The entry has no record of the data subject, or a look-up failed.
pub fn reference(
    entry: &sealed::Entry,
    subject: SubjectRef,
    persons: &dyn Persons,
) -> Result<Reference, EntryError> {
    let no_key = EntryError::NoKey { index: entry.index };
    let sealed::Body::Persons(of_persons) = &entry.body else { return Err(no_key) };
    let found = place_of(of_persons, subject, persons)?;
    let slot = found.and_then(|(place, _)| of_persons.slots.get(place)).ok_or(no_key)?;
    Ok(slot::record_key(&persons.person(subject)?.keys.records(), slot).reference())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        domain::{ChannelPut, Key, LegalBasis, PurposePut, PurposeVersion, Subject},
        entry::{IndexOf, Names, fields::tests::KEYS, tests::any_entry},
        format::keys::ledger::LedgerSecret,
    };

    /// A vault of everybody: keys follow from references, and records of others from their index.
    struct Everybody {
        confidential: ConfidentialRoot,
        tags: BTreeMap<Tag, Whose>,
        persons: BTreeMap<SubjectRef, Arc<Person>>,
    }

    impl Everybody {
        fn of(subjects: &[SubjectRef]) -> Self {
            let mut everybody = Self {
                confidential: LedgerSecret::random(&mut rand::rng()).confidential(),
                tags: BTreeMap::new(),
                persons: BTreeMap::new(),
            };
            for subject in subjects {
                let person = Person {
                    subject_ref: *subject,
                    keys: PersonKeys::random(&mut rand::rng()),
                    identity: Subject::parse("user:42").unwrap(),
                };
                let whose = |lane| Whose { subject: *subject, lane, number: 0 };
                everybody.tags.insert(person.keys.tags().tag(0), whose(Lane::Records));
                everybody.tags.insert(person.keys.use_tag(0).unwrap(), whose(Lane::Uses));
                everybody.persons.insert(*subject, Arc::new(person));
            }
            everybody
        }
    }

    fn reference_of_index(index: u64) -> Reference {
        let mut reference = [0; 16];
        reference[..8].copy_from_slice(&index.to_le_bytes());
        reference
    }

    impl Persons for Everybody {
        fn ledger_id(&self) -> LedgerId {
            [9; 16]
        }

        fn confidential(&self) -> &ConfidentialRoot {
            &self.confidential
        }

        fn whose(&self, tag: &Tag) -> Result<Option<Whose>, LookupError> {
            Ok(self.tags.get(tag).copied())
        }

        fn person(&self, subject: SubjectRef) -> Result<Arc<Person>, LookupError> {
            self.persons.get(&subject).cloned().ok_or_else(|| LookupError("nobody".to_owned()))
        }

        fn index_of(&self, reference: &Reference) -> Result<Option<u64>, LookupError> {
            let (index, _) = reference.split_first_chunk::<8>().unwrap();
            Ok(Some(u64::from_le_bytes(*index)))
        }
    }

    fn catalog() -> Catalog {
        let mut catalog = Catalog::default();
        for (index, text) in (1..).zip(KEYS) {
            let key = Key::parse(text).unwrap();
            let content = PurposeVersion {
                title: String::new(),
                description: String::new(),
                legal_basis: LegalBasis::Consent,
                basis_by_region: BTreeMap::new(),
                data_categories: Vec::new(),
                default_validity_ms: None,
                double_opt_in: false,
                obligations: Vec::new(),
                controller: None,
                recipients: None,
            };
            let (oldest_compatible, retired) = (1, false);
            catalog.put_purpose(
                index,
                PurposePut { key: key.clone(), version: 1, content, oldest_compatible, retired },
            );
            catalog.put_channel(ChannelPut { key, title: String::new(), retired });
        }
        catalog
    }

    /// Seals an entry, encodes, decodes and opens it. The data subjects of a use or of ends come back in the
    /// order of their tags, and are put into their order again.
    pub(crate) fn sealed_and_opened(entry: &Entry) -> Result<Entry, EntryError> {
        let (sealed, everybody, catalog) = sealed_entry(entry);
        let bytes = sealed.encode();
        let decoded = sealed::Entry::decode(&bytes)?;
        let mut opened = open(&decoded, &everybody, &catalog)?.entry;
        if let (Body::Use(opened), Body::Use(used)) = (&mut opened.body, &entry.body) {
            let place =
                |subject: &SubjectRef| used.subject_refs.iter().position(|it| it == subject);
            opened.subject_refs.sort_by_key(place);
        }
        if let Body::Expired(opened) = &mut opened.body {
            opened.ends.sort_by_key(|end| end.subject_ref);
        }
        if let (Body::Disclosed(opened), Body::Disclosed(disclosed)) =
            (&mut opened.body, &entry.body)
        {
            let place =
                |subject: &SubjectRef| disclosed.subject_refs.iter().position(|it| it == subject);
            opened.subject_refs.sort_by_key(place);
        }
        Ok(opened)
    }

    fn sealed_entry(entry: &Entry) -> (sealed::Entry, Everybody, Catalog) {
        let subjects = entry.body.kind().named();
        let (everybody, catalog) = (Everybody::of(&subjects), catalog());
        let reference_of = |_: SubjectRef, index| Ok(reference_of_index(index));
        let index = entry.index;
        let names = Names { index, catalog: &catalog, reference_of: &reference_of };
        let content = entry.body.kind().content(&names).unwrap();
        let named =
            |subject: &SubjectRef| Named { person: everybody.person(*subject).unwrap(), number: 0 };
        let named: Vec<Named> = subjects.iter().map(named).collect();
        let writing = Writing {
            ledger_id: everybody.ledger_id(),
            confidential: &everybody.confidential,
            index: entry.index,
            recorded_at: entry.recorded_at,
        };
        let (body, _) = seal(content, &writing, &named, None).unwrap();
        let (recorded_at_s, _) = second_and_ms(entry.recorded_at);
        let (index, prev_hash) = (entry.index, entry.prev_hash);
        let clear = &everybody.confidential.clear;
        let sealed = sealed::Entry::new(index, prev_hash, recorded_at_s, body, clear);
        (sealed, everybody, catalog)
    }

    proptest! {
        #[test]
        fn every_entry_opens_to_what_was_sealed(entry in any_entry()) {
            prop_assert_eq!(sealed_and_opened(&entry), Ok(entry));
        }

        #[test]
        fn nothing_of_a_data_subject_opens_without_its_key(entry in any_entry()) {
            let (sealed, mut everybody, catalog) = sealed_entry(&entry);
            prop_assume!(!everybody.persons.is_empty());
            everybody.tags.clear();
            let no_key = Err(EntryError::NoKey { index: entry.index });
            prop_assert_eq!(open(&sealed, &everybody, &catalog), no_key);
            let unread = Err(EntryError::Persons { index: entry.index });
            let of_nobody = open_of_nobody(&sealed, [9; 16], &everybody.confidential);
            prop_assert_eq!(of_nobody, unread);
        }
    }

    #[test]
    fn a_record_that_no_entry_has_is_named() {
        let nobody: &IndexOf<'_> = &|_| Ok(None);
        let catalog = catalog();
        let meanings = Meanings { index: 9, numbers: &catalog, index_of: Some(nobody) };
        let record = Record {
            kind: crate::proto::ledger::RecordKind::Confirmation.into(),
            actor: 1,
            confirms: vec![1; 16],
            requested_at_ms: Some(0),
            ..Record::default()
        };
        let refused = Body::of_records(vec![(SubjectRef([1; 16]), record)], &meanings);
        assert_eq!(refused, Err(EntryError::NoRecord { field: "confirms" }));
    }
}
