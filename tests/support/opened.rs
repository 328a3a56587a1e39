//! The entries of a data directory, opened with the keys of its vault.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use consent_ledger::{
    domain::{Entry, SubjectRef},
    entry::{Content, Names},
    fold::CatalogAt,
    format::{Reference, entry::Entry as SealedEntry},
    ledger::{
        self, Tip,
        sealed::{self, Lane, LookupError, Named, Opened, Persons as _, Writing},
        verify,
    },
    opener::Offline,
    storage::disk::RealDisk,
    vault::{self, Kek, People},
};

/// Everything that a data directory says. A server may run on it.
pub struct Ledger {
    opener: Offline,
    opened: Vec<Opened>,
}

impl Ledger {
    /// Opens all entries of a directory, with the key-encryption key in it.
    pub fn open(dir: &Path) -> Self {
        Self::open_with(dir, &Kek::from_file(&dir.join("kek")).unwrap())
    }

    /// Opens all entries of a directory.
    pub fn open_with(dir: &Path, kek: &Kek) -> Self {
        let mut sealed = Vec::new();
        let ledger_dir = dir.join(ledger::DIR);
        verify::verify(&RealDisk, &ledger_dir, &mut |entry, _| sealed.push(entry.clone())).unwrap();
        Self::of(dir, kek, sealed)
    }

    /// Opens entries from the first on with the keys of a directory.
    pub fn open_entries(dir: &Path, sealed: impl IntoIterator<Item = SealedEntry>) -> Self {
        Self::of(dir, &Kek::from_file(&dir.join("kek")).unwrap(), sealed)
    }

    fn of(dir: &Path, kek: &Kek, sealed: impl IntoIterator<Item = SealedEntry>) -> Self {
        let opener = Offline::new(People::read(&RealDisk, &dir.join(vault::DIR), kek).unwrap());
        let mut catalog = CatalogAt::default();
        let open = |entry: SealedEntry| {
            let opened = opener.open(&entry, &catalog.catalog).unwrap();
            catalog.fold(opened.entry.fact());
            opened
        };
        let opened = sealed.into_iter().map(open).collect();
        Self { opener, opened }
    }

    /// The opened entries.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.opened.iter().map(|opened| &opened.entry)
    }

    /// What each entry says, as it was sealed.
    pub fn contents(&self) -> Vec<(u64, Content)> {
        let entries = self.entries();
        entries.map(|entry| (entry.index, self.content(entry))).collect()
    }

    fn content(&self, entry: &Entry) -> Content {
        let references: BTreeMap<u64, Reference> = self
            .opened
            .iter()
            .filter_map(|it| Some((it.entry.index, it.slots.first()?.reference?)))
            .collect();
        let mut catalog = CatalogAt::default();
        self.entries().for_each(|entry| drop(catalog.fold(entry.fact())));
        let unknown = || LookupError("no record".to_owned());
        let reference_of =
            |_: SubjectRef, index| references.get(&index).copied().ok_or_else(unknown);
        let index = entry.index;
        let names = Names { index, catalog: &catalog.catalog, reference_of: &reference_of };
        entry.body.kind().content(&names).unwrap()
    }

    /// The same ledger with one entry altered and sealed anew under its tag, in an unbroken chain.
    pub fn rewritten(
        &self,
        bytes: &[Vec<u8>],
        at: u64,
        alter: &dyn Fn(&mut Entry),
    ) -> Vec<Vec<u8>> {
        let mut tip = Tip::genesis();
        let rewrite = bytes.iter().map(|bytes| {
            let sealed = SealedEntry::decode(bytes).unwrap();
            let body = if sealed.index == at { self.altered(at, alter) } else { sealed.body };
            let (_, bytes, next) =
                tip.link(sealed.recorded_at_s, body, &self.opener.confidential().clear).unwrap();
            tip = next;
            bytes
        });
        rewrite.collect()
    }

    fn altered(&self, at: u64, alter: &dyn Fn(&mut Entry)) -> consent_ledger::format::entry::Body {
        let Opened { entry, slots } = &self.opened[usize::try_from(at).unwrap()];
        let mut entry = entry.clone();
        alter(&mut entry);
        let named: Vec<Named> = slots
            .iter()
            .filter(|slot| slot.lane == Lane::Records)
            .map(|slot| Named {
                person: Arc::clone(&self.opener.person(slot.subject).unwrap()),
                number: slot.number,
            })
            .collect();
        let writing = Writing {
            ledger_id: self.opener.ledger_id(),
            confidential: self.opener.confidential(),
            index: at,
            recorded_at: entry.recorded_at,
        };
        sealed::seal(self.content(&entry), &writing, &named, None).unwrap().0
    }
}
