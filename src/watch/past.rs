//! Reads events from the ledger, when they are older than memory.
//!
//! The event of an entry is made by the same function as when the entry was new ([`event::of`]), and is
//! equal to it, with two exceptions: it names the data subjects that are linked now, and there is no
//! event of a data subject that was erased since.

use std::sync::Arc;

use parking_lot::Mutex;

use super::{
    WatchError,
    catalog::CatalogHistory,
    recent::{Gathered, Post},
};
use crate::{
    backend::LogBackend,
    domain::{Filter, Identity, Key, Subject, SubjectRef, SubscriptionId},
    entry::Entry,
    event::{self, CatalogDetail, Event, Surroundings},
    opener::Opener,
    vault::Vault,
    view::View,
};

/// Maximum number of entries, and approximate number of bytes, that are read at once.
const STEP_ENTRIES: u64 = 256;
const STEP_BYTES: usize = 256 << 10;

/// The source of events that are older than memory.
pub(super) trait Past: std::fmt::Debug + Send + Sync {
    /// Events from `cursor` to before `end`. It may leave out events that cannot pass the filter, and may
    /// stop before `end`, but reads at least one entry. Blocking.
    fn read(&self, cursor: u64, end: u64, filter: &Filter) -> Result<Gathered, WatchError>;
}

/// The ledger, with the identities and the catalogue that its events name.
#[derive(Debug)]
pub(super) struct LedgerPast {
    backend: Arc<dyn LogBackend>,
    vault: Arc<Vault>,
    view: Arc<View>,
    opener: Opener,
    catalog: Mutex<CatalogHistory>,
}

impl Past for LedgerPast {
    fn read(&self, cursor: u64, end: u64, filter: &Filter) -> Result<Gathered, WatchError> {
        let end = end.min(cursor.saturating_add(STEP_ENTRIES));
        let entries = self.backend.read(cursor, end, STEP_BYTES).map_err(WatchError::unreadable)?;
        let mut gathered = Gathered { next: cursor, ..Gathered::default() };
        for bytes in entries {
            let entry = self.opener.entry(&bytes).map_err(WatchError::unreadable)?;
            gathered.next = entry.index + 1;
            let event = self.event(&entry, filter)?;
            gathered.posts.extend(event.map(|event| Arc::new(Post::new(Arc::new(event)))));
        }
        if gathered.next == cursor && cursor < end {
            return Err(WatchError::Unreadable(format!("entry {cursor} is missing")));
        }
        Ok(gathered)
    }
}

impl LedgerPast {
    pub(super) fn new(backend: Arc<dyn LogBackend>, vault: Arc<Vault>, view: Arc<View>) -> Self {
        let opener = Opener::new(Arc::clone(&vault), Arc::clone(&view));
        Self { backend, vault, view, opener, catalog: Mutex::default() }
    }

    /// The event of an entry, if it may pass the filter: reading the identity of the data subject costs
    /// more than everything else.
    fn event(&self, entry: &Entry, filter: &Filter) -> Result<Option<Event>, WatchError> {
        if entry.body.kind().outline().may_pass(filter) {
            event::of(entry.fact(), self)
        } else {
            Ok(None)
        }
    }

    fn entry(&self, index: u64) -> Result<Entry, WatchError> {
        let entries =
            self.backend.read(index, index + 1, STEP_BYTES).map_err(WatchError::unreadable)?;
        match entries.first() {
            Some(bytes) => self.opener.entry(bytes).map_err(WatchError::unreadable),
            None => Err(WatchError::Unreadable(format!("entry {index} is missing"))),
        }
    }
}

impl Surroundings for LedgerPast {
    type Error = WatchError;

    fn identity(&self, subject: SubjectRef) -> Result<Identity, WatchError> {
        self.vault.identity(subject).map_err(WatchError::unreadable)
    }

    /// The data subjects that are linked now: the ledger does not say who was linked at each time, and
    /// every link that ended since has an event of its own.
    fn linked(&self, subjects: &[SubjectRef]) -> Result<Vec<Subject>, WatchError> {
        let mut names = Vec::new();
        for subject in self.view.around(subjects).map_err(WatchError::unreadable)? {
            names.extend(self.identity(subject)?.known());
        }
        Ok(names)
    }

    fn catalog(&self, index: u64) -> Result<Option<CatalogDetail>, WatchError> {
        let entries = || self.view.catalog_entries().map_err(WatchError::unreadable);
        self.catalog.lock().event_at(index, entries, |index| self.entry(index))
    }

    fn subscription(&self, id: SubscriptionId) -> Result<Key, WatchError> {
        let subscriptions = self.view.subscriptions();
        let name = subscriptions.get(id).map(|subscription| subscription.spec.name.clone());
        name.ok_or_else(|| WatchError::Unreadable(format!("{id:?} is missing from the view")))
    }
}
