//! What sealed entries say, opened with the keys of a vault in the order of the ledger.

use serde::Serialize;

use super::error::CliError;
use crate::{
    format::{
        LedgerId,
        entry::Entry,
        keys::ledger::ConfidentialRoot,
        rebuild::{Found, Rebuild, TagMap, VaultFacts},
        slot::{OpenedEvidence, open_evidence},
        vault::Person,
    },
    json,
    proto::ledger::{Erasure, Evidence, Item, Record, Use},
    vault::People,
};

/// Opens entries, from the first on.
pub struct Opener {
    ledger_id: LedgerId,
    confidential: ConfidentialRoot,
    persons: Vec<Person>,
}

/// What an entry says that is not in clear.
#[derive(Debug, Default, Serialize)]
pub struct Opened {
    /// Of data subjects, in the order of the slots.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    records: Vec<OpenedSlot>,
    /// Of a use.
    #[serde(rename = "use", skip_serializing_if = "Option::is_none")]
    used: Option<OpenedUse>,
    /// Of subscriptions, deliveries and disclosures.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "items")]
    items: Vec<Item>,
    /// What the slots of an erasure share.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "json::serialize_option")]
    erasure: Option<Erasure>,
    /// Places of slots or tags that no key of the vault explains.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unexplained: Vec<usize>,
}

/// What an entry says of a data subject.
#[derive(Debug, Serialize)]
struct OpenedSlot {
    /// Place of the slot in the entry.
    slot: usize,
    /// The data subject, `namespace:id`.
    subject: String,
    /// The record.
    #[serde(serialize_with = "json::serialize")]
    record: Record,
    /// The evidence; `null` if the entry is about several data subjects, or it is forgotten.
    #[serde(serialize_with = "json::serialize_option")]
    evidence: Option<Evidence>,
}

/// A use.
#[derive(Debug, Serialize)]
struct OpenedUse {
    /// The data subjects, `namespace:id`.
    subjects: Vec<String>,
    /// What was used, and what for.
    #[serde(serialize_with = "json::serialize")]
    content: Use,
}

fn items<S: serde::Serializer>(items: &[Item], to: S) -> Result<S::Ok, S::Error> {
    json::serialize_list(items, to)
}

impl Opener {
    /// Opens with the keys of these data subjects.
    pub fn new(people: People) -> Self {
        let person = |person: &std::sync::Arc<crate::ledger::sealed::Person>| Person {
            keys: person.keys.clone(),
            identity: person.identity.as_str().to_owned(),
        };
        let persons = people.persons.iter().map(person).collect();
        Self { ledger_id: people.ledger_id, confidential: people.confidential, persons }
    }

    /// A pass over the entries of the ledger.
    ///
    /// # Errors
    /// Two data subjects have the same keys.
    pub fn pass(&self) -> Result<Pass<'_>, CliError> {
        let facts = VaultFacts { generation: 0, tombstones: 0 };
        let rebuild = Rebuild::new(self.ledger_id, facts, &self.persons[..], TagMap::default());
        let rebuild = rebuild.map_err(|error| CliError::failed(error.to_string()))?;
        Ok(Pass { opener: self, rebuild })
    }
}

/// A pass over the entries of a ledger, in their order.
pub struct Pass<'a> {
    opener: &'a Opener,
    rebuild: Rebuild<&'a [Person], TagMap>,
}

impl Pass<'_> {
    /// What the next entry says.
    ///
    /// # Errors
    /// It does not open, or the ledger has not written it.
    pub fn open(&mut self, entry: &Entry) -> Result<Opened, CliError> {
        let Opener { ledger_id, confidential, persons } = self.opener;
        let (mut opened, mut failed) = (Opened::default(), None);
        let identity = |person: u32| persons[person as usize].identity.clone();
        let applied = self.rebuild.apply(confidential, entry, &mut |found| match found {
            Found::Record { person, number, place, slot, opened: record } => {
                let keys = &persons[person as usize].keys;
                let evidence = open_evidence(keys, number, *ledger_id, entry.index, slot);
                let evidence = match evidence {
                    Ok(OpenedEvidence::Known(evidence, _)) => Some(*evidence),
                    Ok(OpenedEvidence::None | OpenedEvidence::Forgotten) => None,
                    Err(error) => {
                        failed.get_or_insert(error);
                        None
                    }
                };
                let (subject, record) = (identity(person), record.record.clone());
                opened.records.push(OpenedSlot { slot: place, subject, record, evidence });
            }
            Found::Use { used, persons } => {
                let subjects = persons.iter().map(|(person, _)| identity(*person)).collect();
                opened.used = Some(OpenedUse { subjects, content: used.clone() });
            }
            Found::Item { opened: item, .. } => opened.items.push(item.item.clone()),
            Found::Erasure(erasure) => opened.erasure = Some(*erasure),
            Found::Unexplained { place, .. } => opened.unexplained.push(place),
            Found::Clear(_) => {}
        });
        applied.map_err(|error| CliError::failed(error.to_string()))?;
        match failed {
            Some(error) => Err(CliError::failed(error.to_string())),
            None => Ok(opened),
        }
    }
}
