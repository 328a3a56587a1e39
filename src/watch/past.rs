//! Events read back from the ledger, for whoever memory does not reach back to.
//!
//! The event of an entry is made as it was when the entry was new ([`event::of`]), and is the same,
//! with two exceptions that lie in what stands beside it: who is linked to a data subject is told as
//! it is now, and of a data subject that was erased since nothing is told.

use std::sync::Arc;

use parking_lot::Mutex;

use super::{
    WatchError,
    catalog::History,
    recent::{Gathered, Post},
};
use crate::{
    backend::LogBackend,
    domain::{Filter, Identity, Key, Subject, SubjectRef, SubscriptionId},
    entry::Entry,
    event::{self, CatalogTold, Event, Surroundings},
    ledger::envelope,
    vault::Vault,
    view::View,
};

/// How many entries, and about how many bytes, are read at once.
const STEP_ENTRIES: u64 = 256;
const STEP_BYTES: usize = 256 << 10;

/// Where events come from that memory no longer holds.
pub(super) trait Past: std::fmt::Debug + Send + Sync {
    /// Events from `cursor` on, before `end`; perhaps only those that may pass the filter, and
    /// perhaps only some of the entries, but at least one. Blocking.
    fn read(&self, cursor: u64, end: u64, filter: &Filter) -> Result<Gathered, WatchError>;
}

/// The ledger, with the names and catalogues that its entries need.
#[derive(Debug)]
pub(super) struct LedgerPast {
    backend: Arc<dyn LogBackend>,
    vault: Arc<Vault>,
    view: Arc<View>,
    catalog: Mutex<History>,
}

impl Past for LedgerPast {
    fn read(&self, cursor: u64, end: u64, filter: &Filter) -> Result<Gathered, WatchError> {
        let end = end.min(cursor.saturating_add(STEP_ENTRIES));
        let entries = self.backend.read(cursor, end, STEP_BYTES).map_err(unreadable)?;
        let mut gathered = Gathered { next: cursor, ..Gathered::default() };
        for bytes in entries {
            let entry = envelope::decode(&bytes).map_err(unreadable)?;
            gathered.next = entry.index + 1;
            let event = self.event(&entry, filter)?;
            gathered.posts.extend(event.map(|event| Arc::new(Post::new(Arc::new(event)))));
        }
        if gathered.next == cursor && cursor < end {
            return Err(WatchError::Unreadable(format!("entry {cursor} is not there")));
        }
        Ok(gathered)
    }
}

impl LedgerPast {
    pub(super) fn new(backend: Arc<dyn LogBackend>, vault: Arc<Vault>, view: Arc<View>) -> Self {
        Self { backend, vault, view, catalog: Mutex::new(History::default()) }
    }

    /// What watchers hear of an entry, if the filter may want it: to find out who the subject is
    /// costs more than all the rest.
    fn event(&self, entry: &Entry, filter: &Filter) -> Result<Option<Event>, WatchError> {
        if entry.body.kind().tells().may_pass(filter) {
            event::of(entry.fact(), self)
        } else {
            Ok(None)
        }
    }

    fn entry(&self, index: u64) -> Result<Entry, WatchError> {
        let entries = self.backend.read(index, index + 1, STEP_BYTES).map_err(unreadable)?;
        match entries.first() {
            Some(bytes) => envelope::decode(bytes).map_err(unreadable),
            None => Err(WatchError::Unreadable(format!("entry {index} is not there"))),
        }
    }
}

impl Surroundings for LedgerPast {
    type Error = WatchError;

    fn identity(&self, subject: SubjectRef) -> Result<Identity, WatchError> {
        Ok(self.vault.identity(subject)?)
    }

    /// As it is now: the ledger does not say who was at each time, and of every link that ended since
    /// there is an event.
    fn linked(&self, subjects: &[SubjectRef]) -> Result<Vec<Subject>, WatchError> {
        let mut names = Vec::new();
        for subject in self.view.around(subjects)? {
            names.extend(self.vault.identity(subject)?.known());
        }
        Ok(names)
    }

    fn catalog(&self, index: u64) -> Result<Option<CatalogTold>, WatchError> {
        let entries = || Ok(self.view.catalog_entries()?);
        self.catalog.lock().told(index, entries, |at| self.entry(at))
    }

    fn subscription(&self, id: SubscriptionId) -> Result<Key, WatchError> {
        let subscriptions = self.view.subscriptions();
        let name = subscriptions.get(id).map(|subscription| subscription.spec.name.clone());
        name.ok_or_else(|| WatchError::Unreadable(format!("no {id:?} in the view")))
    }
}

fn unreadable(error: impl std::fmt::Display) -> WatchError {
    WatchError::Unreadable(error.to_string())
}
