//! The fold of the ledger, which checks read. It is cached in memory, and all of it is disposable.
//!
//! The view records its ledger and the number of entries applied. A view of another ledger, or one ahead
//! of its ledger, is deleted and rebuilt, never trusted.
//!
//! Order of publication: the rows of a run of acts become readable first, then hot states, then the
//! number of entries applied. A catalogue change is a run of its own. So if a reader loads the
//! catalogue first and a state second, and the catalogue did not change in between, both were valid
//! together at the greater of their revisions; [`View::read`] checks this. Linked subjects need several
//! states, which must have been valid together as well.

pub mod keys;
mod row;
mod rows;
mod subscriptions;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use hashbrown::{DefaultHashBuilder, HashMap};
use keys::Key;
use quick_cache::{
    Weighter,
    sync::{Cache, GuardResult},
};
pub use subscriptions::{DeadLetter, Settlement};
use thiserror::Error;
use tokio::sync::watch;

use crate::{
    domain::{Catalog, Entry, Mark, Millis, SubjectRef, SubjectState, SubscriptionId},
    fold::{
        After, CatalogAt, Due, Effect, Fold, FoldError, Lead, Linked, Subscriptions, UseCell,
        corrected, reach, unite,
    },
    format::{Reference, Tag},
    ledger::sealed::{Lane, Opened, Whose},
    storage::index::{Index, IndexError, Row},
};

/// Version of the view's rows. A view of another version is rebuilt.
const FORMAT_VERSION: u32 = 7;
/// States larger than this, in bytes, may not fit into their part of the hot cache.
const HOT_STATE_BYTES_LARGE: usize = 2 << 10;
/// Memory of an entry of the hot cache besides the state, in bytes: key, pointers, counters.
const HOT_ENTRY_BYTES: u64 = 96;
/// How long a reader waits until a revision that it saw is published. It takes the writer microseconds,
/// unless the writer ended in the middle.
const PUBLISHED_WAIT: Duration = Duration::from_secs(1);
/// How many uses are looked up at once. Most limits name fewer.
const USES_AT_A_TIME: usize = 64;
/// Minimum memory for hot states, in bytes; a lower setting is raised to this.
pub const HOT_BYTES_MIN: u64 = 4 << 20;

/// Why the view could not answer. The caller must then deny.
#[derive(Debug, Error)]
pub enum ViewError {
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// A row is malformed.
    #[error("a row of the view is malformed")]
    Row,
    /// The revision of a state was not published in time.
    #[error("a state is at revision {wanted}, the view stays at {applied}")]
    Unpublished {
        /// Revision of the state.
        wanted: u64,
        /// Revision of the view.
        applied: u64,
    },
    /// The acts of a subject are known, but its state is gone.
    #[error("the state of {0:?} is missing from the view")]
    StateMissing(SubjectRef),
    /// An entry cannot be folded.
    #[error(transparent)]
    Fold(#[from] FoldError),
}

/// The view.
#[derive(Debug)]
pub struct View {
    index: Arc<Index>,
    hot: Cache<SubjectRef, Arc<SubjectState>, StateWeighter, DefaultHashBuilder>,
    catalog: ArcSwap<CatalogAt>,
    subscriptions: ArcSwap<Subscriptions>,
    /// The value of `applied`, for tasks that wait. Readers on the hot path take no lock.
    applied_news: watch::Sender<u64>,
    applied: AtomicU64,
    misses: AtomicU64,
}

#[derive(Debug, Clone)]
struct StateWeighter;

impl Weighter<SubjectRef, Arc<SubjectState>> for StateWeighter {
    fn weight(&self, _: &SubjectRef, state: &Arc<SubjectState>) -> u64 {
        HOT_ENTRY_BYTES + state.memory_bytes() as u64
    }
}

/// Checks whether an index can serve as the view of this ledger. Returns the reason if it cannot.
/// `hash_of` returns the chain hash of an entry, or none if the ledger does not have it.
///
/// # Errors
/// The index or the ledger cannot be read.
pub fn unusable<E: From<ViewError>>(
    index: &Index,
    ledger_id: &[u8; 16],
    hash_of: impl FnOnce(u64) -> Result<Option<[u8; 32]>, E>,
) -> Result<Option<Unusable>, E> {
    let Some(owner) = index.get(&Key::Owner.encode()).map_err(ViewError::from)? else {
        // Rows of the vault sort before the owner; without it their ledger is unknown.
        let holds_rows = !index.keys(&[], &[], 1).map_err(ViewError::from)?.is_empty();
        return Ok(Some(if holds_rows { Unusable::Foreign } else { Unusable::Empty }));
    };
    if owner != owner_value(ledger_id) {
        return Ok(Some(Unusable::Foreign));
    }
    let mark = AppliedMark::read(index)?;
    let Some(last) = mark.applied.checked_sub(1) else { return Ok(None) };
    Ok(match hash_of(last)? {
        None => Some(Unusable::Ahead { applied: mark.applied }),
        Some(hash) if hash != mark.chain_hash => Some(Unusable::Forked),
        Some(_) => None,
    })
}

/// Why an index cannot serve as a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unusable {
    /// It is empty.
    Empty,
    /// It belongs to another ledger, has another format, or names no owner.
    Foreign,
    /// It has applied more entries than the ledger has.
    Ahead {
        /// Number of entries applied.
        applied: u64,
    },
    /// It has applied other entries than the ledger has: one of the two comes from another copy.
    Forked,
    /// A row of it is not what was written there.
    Damaged,
}

/// How far a view has come, and over which entries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct AppliedMark {
    /// Number of entries.
    applied: u64,
    /// Chain hash of the last of them.
    chain_hash: [u8; 32],
}

impl AppliedMark {
    fn read(index: &Index) -> Result<Self, ViewError> {
        let Some(bytes) = index.get(&Key::Applied.encode())? else { return Ok(Self::default()) };
        let (applied, chain_hash) = bytes.split_first_chunk::<8>().ok_or(ViewError::Row)?;
        Ok(Self {
            applied: u64::from_be_bytes(*applied),
            chain_hash: chain_hash.try_into().map_err(|_| ViewError::Row)?,
        })
    }

    fn row(&self) -> Row {
        let value = [self.applied.to_be_bytes().as_slice(), &self.chain_hash].concat();
        (Key::Applied.encode(), Some(value))
    }
}

fn owner_value(ledger_id: &[u8; 16]) -> Vec<u8> {
    [FORMAT_VERSION.to_be_bytes().as_slice(), ledger_id].concat()
}

impl View {
    /// Opens the view over an index that is either empty or not [`unusable`]. `entry`
    /// reads an entry of the ledger, for the catalogue.
    ///
    /// # Errors
    /// A row or an entry cannot be read.
    pub fn open<E: From<ViewError>>(
        index: Arc<Index>,
        ledger_id: &[u8; 16],
        hot_bytes_max: u64,
        mut entry: impl FnMut(u64) -> Result<Entry, E>,
    ) -> Result<Self, E> {
        let AppliedMark { applied, .. } = AppliedMark::read(&index)?;
        let owner = (Key::Owner.encode(), Some(owner_value(ledger_id)));
        index.put(vec![owner]).map_err(ViewError::from)?;
        let mut catalog = CatalogAt::default();
        for at in catalog_entries(&index)? {
            if at < applied {
                catalog.fold(entry(at)?.fact());
            }
        }
        let mut subscriptions = Subscriptions::default();
        for (at, row) in subscription_rows(&index)? {
            if at < applied {
                subscriptions.restore(subscriptions::restored(&entry(at)?, &row)?);
            }
        }
        let hot_bytes_max = hot_bytes_max.max(HOT_BYTES_MIN);
        let items = usize::try_from(hot_bytes_max / (4 * HOT_ENTRY_BYTES)).unwrap_or(usize::MAX);
        Ok(Self {
            index,
            hot: Cache::with(
                items,
                hot_bytes_max,
                StateWeighter,
                DefaultHashBuilder::default(),
                Default::default(),
            ),
            catalog: ArcSwap::from_pointee(catalog),
            subscriptions: ArcSwap::from_pointee(subscriptions),
            applied_news: watch::Sender::new(applied),
            applied: AtomicU64::new(applied),
            misses: AtomicU64::new(0),
        })
    }

    /// Number of entries that every answer takes into account.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    /// Changes with [`Self::applied`].
    #[must_use]
    pub fn applied_changes(&self) -> watch::Receiver<u64> {
        self.applied_news.subscribe()
    }

    /// The catalogue as it is now.
    #[must_use]
    pub fn catalog(&self) -> Arc<CatalogAt> {
        self.catalog.load_full()
    }

    /// The durable subscriptions as they are now.
    #[must_use]
    pub fn subscriptions(&self) -> Arc<Subscriptions> {
        self.subscriptions.load_full()
    }

    /// The fold before the next entry.
    #[must_use]
    pub fn fold(&self) -> Fold {
        Fold { catalog: self.catalog(), subscriptions: self.subscriptions() }
    }

    /// How an index was settled at one shard of a subscription: by the receipt that covers it, or by the
    /// entry that gave it up.
    ///
    /// # Errors
    /// The index cannot be read, or a row is malformed.
    pub fn settlement(
        &self,
        id: SubscriptionId,
        shard: u32,
        index: u64,
    ) -> Result<Option<Settlement>, ViewError> {
        let from = Key::Settled(id.0, shard, index.saturating_add(1)).encode();
        let prefix = &from[..from.len() - size_of::<u64>()];
        let Some(key) = self.index.keys(prefix, &from, 1)?.pop() else { return Ok(None) };
        match self.index.get(&key)? {
            Some(row) => subscriptions::settlement(&row, index),
            None => Ok(None),
        }
    }

    /// Up to `limit` events of a subscription that were given up, by shard and index, beyond
    /// `after`.
    ///
    /// # Errors
    /// The index cannot be read, or a row is malformed.
    pub fn dead_letters(
        &self,
        id: SubscriptionId,
        after: Option<(u32, u64)>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, ViewError> {
        let (shard, index) = after.unwrap_or_default();
        let mut from = Key::DeadLetter(id.0, shard, index).encode();
        if after.is_some() {
            from.push(0); // The first key beyond it.
        }
        let prefix = &Key::DeadLetter(id.0, 0, 0).encode()[..1 + size_of::<u64>()];
        let mut letters = Vec::new();
        for key in self.index.keys(prefix, &from, limit)? {
            let Some(Key::DeadLetter(_, shard, index)) = Key::decode(&key) else {
                return Err(ViewError::Row);
            };
            if let Some(row) = self.index.get(&key)? {
                letters.push(subscriptions::dead_letter(shard, index, &row)?);
            }
        }
        Ok(letters)
    }

    /// Number of events of a subscription that were given up, counted up to `limit`.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn dead_letter_count(&self, id: SubscriptionId, limit: usize) -> Result<usize, ViewError> {
        let prefix = &Key::DeadLetter(id.0, 0, 0).encode()[..1 + size_of::<u64>()];
        Ok(self.index.keys(prefix, prefix, limit)?.len())
    }

    /// Passes a catalogue and the state of a subject that were valid together to `question`. Returns its
    /// answer and their revision. `find` looks the subject up; an unknown subject has the empty state.
    ///
    /// # Errors
    /// The subject cannot be looked up, or its state cannot be read.
    pub fn read<T, E: From<ViewError>>(
        &self,
        find: impl Fn() -> Result<Option<SubjectRef>, E>,
        question: impl FnOnce(&Catalog, &SubjectState) -> T,
    ) -> Result<(T, u64), E> {
        self.read_linked(find, |catalog, state, _| question(catalog, state))
    }

    /// As [`Self::read`], with the subjects that are linked to the one asked about.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_linked<T, E: From<ViewError>>(
        &self,
        find: impl Fn() -> Result<Option<SubjectRef>, E>,
        question: impl FnOnce(&Catalog, &SubjectState, &[Linked]) -> T,
    ) -> Result<(T, u64), E> {
        loop {
            // The order of these reads makes the revision correct; see the module.
            let applied = self.applied();
            let catalog = self.catalog.load();
            let (state, linked) = match find()? {
                Some(subject) => self.whole_state(subject)?,
                None => Default::default(),
            };
            if self.catalog.load().revision != catalog.revision {
                continue;
            }
            let revision = applied.max(catalog.revision).max(state.revision);
            return Ok((question(&catalog.catalog, &state, &linked), revision));
        }
    }

    /// The state of a subject; empty if no act of it is known.
    ///
    /// # Errors
    /// The state cannot be read, or is missing although acts are known.
    pub fn state(&self, subject: SubjectRef) -> Result<Arc<SubjectState>, ViewError> {
        Ok(self.corrected(self.folded_state(subject)?))
    }

    /// A state with the corrections of the clock that came since its last entry.
    fn corrected(&self, state: Arc<SubjectState>) -> Arc<SubjectState> {
        corrected(&self.catalog.load().catalog, state, u64::MAX)
    }

    /// The state of a subject as its last entry left it.
    fn folded_state(&self, subject: SubjectRef) -> Result<Arc<SubjectState>, ViewError> {
        match self.hot.get_value_or_guard(&subject, None) {
            GuardResult::Value(state) => Ok(state),
            GuardResult::Guard(guard) => {
                let state = Arc::new(self.cold_state(subject)?);
                // The writer may have put a newer state meanwhile; then the guard is void and the
                // newer one stays.
                let _ = guard.insert(Arc::clone(&state));
                Ok(state)
            }
            GuardResult::Timeout => unreachable!("no time-out was given"),
        }
    }

    /// The state of a subject with everything that linked subjects contribute, and the linked subjects,
    /// as they were valid together.
    ///
    /// The states are read one after the other, from memory or from rows, and rows run ahead of memory.
    /// So one state may include an entry that another does not include yet. Therefore they are read
    /// again once the greatest of their revisions is published. If no revision has changed, no state was
    /// changed in between, and all of them were valid at the greatest revision.
    fn whole_state(
        &self,
        subject: SubjectRef,
    ) -> Result<(Arc<SubjectState>, Vec<Linked>), ViewError> {
        loop {
            let state = self.state(subject)?;
            if state.links.is_empty() {
                return Ok((state, Vec::new()));
            }
            let linked = reach(subject, &state, |other| self.state(other))?;
            let whole = unite(&state, &linked);
            self.wait_published(whole.revision)?;
            let mut is_same = self.state(subject)?.revision == state.revision;
            for linked in &linked {
                is_same &= self.state(linked.subject)?.revision == linked.state.revision;
            }
            if is_same {
                return Ok((Arc::new(whole), linked));
            }
        }
    }

    /// Waits until the writer has published a revision. That is short: between the rows and the end of a
    /// run, [`Self::apply`] only changes memory.
    fn wait_published(&self, wanted: u64) -> Result<(), ViewError> {
        if self.applied() >= wanted {
            return Ok(());
        }
        let until = Instant::now() + PUBLISHED_WAIT;
        while self.applied() < wanted {
            if Instant::now() >= until {
                return Err(ViewError::Unpublished { wanted, applied: self.applied() });
            }
            thread::yield_now();
        }
        Ok(())
    }

    /// The state of a subject with everything that linked subjects contribute, for a scan over many
    /// subjects: it does not change the hot cache.
    ///
    /// # Errors
    /// The state cannot be read.
    pub fn peek(&self, subject: SubjectRef) -> Result<Arc<SubjectState>, ViewError> {
        let state = match self.hot.peek(&subject) {
            Some(state) => state,
            None => Arc::new(self.cold_state(subject)?),
        };
        let state = self.corrected(state);
        if state.links.is_empty() { Ok(state) } else { Ok(self.whole_state(subject)?.0) }
    }

    /// The linked subjects of a subject, with their contributions.
    ///
    /// # Errors
    /// A state cannot be read.
    pub fn linked(&self, subject: SubjectRef) -> Result<Vec<Linked>, ViewError> {
        Ok(self.whole_state(subject)?.1)
    }

    /// All subjects that are linked to one of the given ones, in the order of
    /// [`fold::around`](crate::fold::around), for a scan over many subjects: few have links, and it does
    /// not change the hot cache for the others.
    ///
    /// # Errors
    /// A state cannot be read.
    pub fn around(&self, subjects: &[SubjectRef]) -> Result<Vec<SubjectRef>, ViewError> {
        let mut members: Vec<SubjectRef> = Vec::new();
        for &subject in subjects {
            if self.peek(subject)?.links.is_empty() {
                continue;
            }
            for linked in self.linked(subject)? {
                if !subjects.contains(&linked.subject) && !members.contains(&linked.subject) {
                    members.push(linked.subject);
                }
            }
        }
        Ok(members)
    }

    fn cold_state(&self, subject: SubjectRef) -> Result<SubjectState, ViewError> {
        self.misses.fetch_add(1, Ordering::Relaxed);
        if let Some(state) = self.stored_state(subject)? {
            return Ok(state);
        }
        // Only a subject without acts may have no row.
        if self.history(subject, 0, 1)?.is_empty() {
            return Ok(SubjectState::default());
        }
        // The first act came between the two reads; its rows became readable together.
        self.stored_state(subject)?.ok_or(ViewError::StateMissing(subject))
    }

    fn stored_state(&self, subject: SubjectRef) -> Result<Option<SubjectState>, ViewError> {
        let row = self.index.get(&Key::State(subject.0).encode())?;
        row.map(|bytes| row::decode(&bytes)).transpose().map_err(|_| ViewError::Row)
    }

    /// Up to `limit` indices of the entries about a subject, from `start` on, in order.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn entries_of(
        &self,
        subject: SubjectRef,
        start: u64,
        limit: usize,
    ) -> Result<Vec<u64>, ViewError> {
        let mut indices = self.history(subject, start, limit)?;
        let from = Key::Use(subject.0, start).encode();
        for key in self.index.keys(&from[..from.len() - 8], &from, limit)? {
            let Some(Key::Use(_, index)) = Key::decode(&key) else { return Err(ViewError::Row) };
            indices.push(index);
        }
        indices.sort_unstable();
        indices.truncate(limit);
        Ok(indices)
    }

    /// Up to `limit` indices of the entries that a subject's state is folded from, from `start` on,
    /// in order.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn history(
        &self,
        subject: SubjectRef,
        start: u64,
        limit: usize,
    ) -> Result<Vec<u64>, ViewError> {
        let from = Key::History(subject.0, start).encode();
        let prefix = &from[..from.len() - 8];
        let keys = self.index.keys(prefix, &from, limit)?;
        let index = |key: Vec<u8>| match Key::decode(&key) {
            Some(Key::History(_, index)) => Ok(index),
            _ => Err(ViewError::Row),
        };
        keys.into_iter().map(index).collect()
    }

    /// Index of the entry that an idempotency key belongs to.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn idempotent(&self, key_hash: &[u8; 16]) -> Result<Option<u64>, ViewError> {
        self.stored_index(&Key::Idempotency(*key_hash))
    }

    /// Whose a tag is, if the tag before it has landed.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn whose(&self, tag: &Tag) -> Result<Option<Whose>, ViewError> {
        let row = self.index.get(&Key::Tag(*tag).encode())?;
        row.map(|row| rows::whose(&row).ok_or(ViewError::Row)).transpose()
    }

    /// How many tags of a subject have landed in a lane.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn landed(&self, subject: SubjectRef, lane: Lane) -> Result<u64, ViewError> {
        let landed = self.stored_index(&Key::Landed(subject.0, rows::lane_byte(lane)))?;
        Ok(landed.unwrap_or_default())
    }

    /// Index of the entry with a record.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn index_of(&self, reference: &Reference) -> Result<Option<u64>, ViewError> {
        self.stored_index(&Key::Reference(*reference))
    }

    /// Indices of the catalogue's entries, in order.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn catalog_entries(&self) -> Result<Vec<u64>, ViewError> {
        catalog_entries(&self.index)
    }

    /// Index of the act that a confirmation token is of.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn confirmation(&self, token_hash: &[u8; 32]) -> Result<Option<u64>, ViewError> {
        self.stored_index(&Key::Confirmation(*token_hash))
    }

    /// Index of the confirmation of an act.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn confirmed(&self, act: u64) -> Result<Option<u64>, ViewError> {
        self.stored_index(&Key::Confirmed(act))
    }

    /// Up to `limit` grants that expire at `until` or before, in the order of expiry: the first ones, or
    /// those after `after`.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn due(
        &self,
        after: Option<&Due>,
        until: Millis,
        limit: usize,
    ) -> Result<Vec<Due>, ViewError> {
        let prefix = &Key::Due(0, [0; 16], 0).encode()[..1];
        // All these keys are of one length: nothing lies between a key and the same with a zero.
        let from = after.map(|due| [rows::due_key(due).encode(), vec![0]].concat());
        let mut due = Vec::new();
        for key in self.index.keys(prefix, from.as_deref().unwrap_or(prefix), limit)? {
            let Some(Key::Due(at, subject, grant_index)) = Key::decode(&key) else {
                return Err(ViewError::Row);
            };
            if Millis(at) > until {
                break;
            }
            due.push(Due { at: Millis(at), subject: SubjectRef(subject), grant_index });
        }
        Ok(due)
    }

    /// Removes due rows of grants whose expiry changes no answer.
    ///
    /// # Errors
    /// The index takes no more rows.
    pub fn forget_due(&self, due: &[Due]) -> Result<(), ViewError> {
        Ok(self.index.put(due.iter().map(|due| (rows::due_key(due).encode(), None)).collect())?)
    }

    /// Removes a due row, and puts others in its place.
    ///
    /// # Errors
    /// The index takes no more rows.
    pub fn move_due(&self, from: &Due, to: &[Due]) -> Result<(), ViewError> {
        let removed = (rows::due_key(from).encode(), None);
        let put = to.iter().map(|due| (rows::due_key(due).encode(), Some(Vec::new())));
        Ok(self.index.put(put.chain([removed]).collect())?)
    }

    /// When a subject's data was used for a cell, by the entries before `end`: all uses after `now`, all
    /// whose time a correction of the clock changed, and of the others from `since` to `now` no more than
    /// the last `limit`.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn uses(
        &self,
        subject: SubjectRef,
        cell: UseCell,
        since: Millis,
        now: Millis,
        end: u64,
        limit: usize,
    ) -> Result<Vec<Millis>, ViewError> {
        let mut from = Key::UseAt(subject.0, cell.0, i64::MAX, 0).encode();
        let prefix = from[..from.len() - 16].to_vec();
        let catalog = &self.catalog.load().catalog;
        let (mut uses, mut counted) = (Vec::new(), 0);
        while counted < limit {
            let keys = self.index.keys(&prefix, &from, USES_AT_A_TIME)?;
            for key in &keys {
                let Some(Key::UseAt(_, _, at, index)) = Key::decode(key) else {
                    return Err(ViewError::Row);
                };
                if index >= end {
                    continue;
                }
                let recorded = Mark { effective_at: Millis(at), index };
                let at = catalog.latest(recorded, end).effective_at;
                // The rows of uses whose time was corrected come before their place.
                let is_in_order = at == recorded.effective_at;
                counted += usize::from(at <= now && is_in_order);
                if recorded.effective_at < since || counted > limit {
                    return Ok(uses);
                }
                if at >= since {
                    uses.push(at);
                }
            }
            let Some(last) = keys.last().filter(|_| keys.len() == USES_AT_A_TIME) else { break };
            from.clone_from(last);
            from.push(0); // The first key beyond it.
        }
        Ok(uses)
    }

    /// Up to `limit` subjects with a state, beyond `after`, in the order of their references.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn subjects(
        &self,
        after: Option<SubjectRef>,
        limit: usize,
    ) -> Result<Vec<SubjectRef>, ViewError> {
        let prefix = &Key::State([0; 16]).encode()[..1];
        let mut from =
            after.map_or_else(|| prefix.to_vec(), |subject| Key::State(subject.0).encode());
        if after.is_some() {
            from.push(0); // The first key beyond it.
        }
        let subject = |key: Vec<u8>| match Key::decode(&key) {
            Some(Key::State(subject)) => Ok(SubjectRef(subject)),
            _ => Err(ViewError::Row),
        };
        self.index.keys(prefix, &from, limit)?.into_iter().map(subject).collect()
    }

    fn stored_index(&self, key: &Key) -> Result<Option<u64>, ViewError> {
        let row = self.index.get(&key.encode())?;
        let index = |row: Vec<u8>| row.try_into().map(u64::from_be_bytes);
        row.map(index).transpose().map_err(|_| ViewError::Row)
    }

    /// Applies the effects of entries, the first of which is the next one; `chain_hash` is that of
    /// the last. Every answer takes them into account when the call returns.
    ///
    /// # Errors
    /// The index takes no more rows. The effects are visible all the same.
    pub fn apply(&self, effects: &[Effect], chain_hash: [u8; 32]) -> Result<(), ViewError> {
        let mut next = self.applied();
        let end = next + effects.len() as u64;
        let mut result = Ok(());
        let runs = effects.chunk_by(|a, b| !changes_catalog(a) && !changes_catalog(b));
        for run in runs {
            let mut rows = Vec::with_capacity(3 * run.len() + 1);
            for (index, effect) in (next..).zip(run) {
                rows::push(effect, index, &mut rows);
            }
            next += run.len() as u64;
            if next == end {
                rows.push(AppliedMark { applied: end, chain_hash }.row());
            }
            self.index.make_readable(rows);
            for effect in run {
                self.publish(effect);
            }
            self.applied.store(next, Ordering::Release);
            self.applied_news.send_replace(next);
            // Readers wait for the end of a run; nothing but memory may lie before it.
            result = result.and(self.index.wait_for_room());
        }
        Ok(result?)
    }

    fn publish(&self, effect: &Effect) {
        match &effect.after {
            After::Subjects(states) => {
                for (subject, state) in states {
                    self.publish_state(*subject, state);
                }
            }
            After::Catalog { catalog, .. } => self.catalog.store(Arc::clone(catalog)),
            After::Subscriptions { subscriptions, .. } => {
                self.subscriptions.store(Arc::clone(subscriptions));
            }
            After::Nothing => {}
        }
    }

    fn publish_state(&self, subject: SubjectRef, state: &Arc<SubjectState>) {
        if state.memory_bytes() > HOT_STATE_BYTES_LARGE {
            // If the cache does not admit a state, the guard of a concurrent reader stays valid, and that
            // reader would insert an older state. Removing the key invalidates the guard; later readers
            // find the new row.
            self.hot.remove(&subject);
        }
        self.hot.insert(subject, Arc::clone(state));
    }

    /// Folds entries that are in the ledger already and applies them; `chain_hash` is that of the
    /// last.
    ///
    /// # Errors
    /// An entry names what the catalogue does not have, or the index fails.
    pub fn catch_up(&self, entries: &[Opened], chain_hash: [u8; 32]) -> Result<(), ViewError> {
        let mut fold = self.fold();
        let mut states: HashMap<SubjectRef, Arc<SubjectState>> = HashMap::new();
        let mut effects = Vec::with_capacity(entries.len());
        for Opened { entry, slots } in entries {
            let mut effect = fold.effect(entry.fact(), |subject| match states.get(&subject) {
                Some(state) => Ok(Arc::clone(state)),
                None => self.state(subject),
            })?;
            effect.leads.extend(slots.iter().cloned().map(Lead::Slot));
            if let After::Subjects(after) = &effect.after {
                states.extend(after.iter().cloned());
            }
            effects.push(effect);
        }
        self.apply(&effects, chain_hash)
    }

    /// Number of rows that are not on disk yet.
    #[must_use]
    pub fn pending_rows(&self) -> usize {
        self.index.pending_rows()
    }

    /// Statistics of the hot cache.
    #[must_use]
    pub fn hot_stats(&self) -> HotStats {
        HotStats {
            states: self.hot.len() as u64,
            bytes: self.hot.weight(),
            misses: self.misses.load(Ordering::Relaxed),
        }
    }
}

/// Statistics of the hot cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HotStats {
    /// States in memory.
    pub states: u64,
    /// Approximate memory of these states, in bytes.
    pub bytes: u64,
    /// Reads from the index.
    pub misses: u64,
}

fn changes_catalog(effect: &Effect) -> bool {
    matches!(effect.after, After::Catalog { .. })
}

fn subscription_rows(index: &Index) -> Result<Vec<(u64, Vec<u8>)>, ViewError> {
    let prefix = &Key::Subscription(0).encode()[..1];
    let mut rows = Vec::new();
    for key in index.keys(prefix, prefix, usize::MAX)? {
        let Some(Key::Subscription(at)) = Key::decode(&key) else { return Err(ViewError::Row) };
        rows.extend(index.get(&key)?.map(|row| (at, row)));
    }
    Ok(rows)
}

fn catalog_entries(index: &Index) -> Result<Vec<u64>, ViewError> {
    let prefix = &Key::Catalog(0).encode()[..1];
    let at = |key: Vec<u8>| match Key::decode(&key) {
        Some(Key::Catalog(at)) => Ok(at),
        _ => Err(ViewError::Row),
    };
    index.keys(prefix, prefix, usize::MAX)?.into_iter().map(at).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::{
        domain::{Actor, ChannelId, Grant, LinkConfidence, Mark, PurposeId, Scope, Stop, StopKind},
        storage::scratch_index,
    };

    fn open(dir: &std::path::Path) -> View {
        let index = scratch_index(dir);
        let no_entry = |_| -> Result<Entry, ViewError> { Err(ViewError::Row) };
        View::open(Arc::new(index), &[7; 16], 1 << 20, no_entry).unwrap()
    }

    fn effect(subject: SubjectRef, state: Arc<SubjectState>) -> Effect {
        Effect { after: After::Subjects(smallvec::smallvec![(subject, state)]), leads: Vec::new() }
    }

    fn first_act(subject: SubjectRef, revision: u64) -> Effect {
        let state = Arc::new(SubjectState::from_parts(Vec::new(), Vec::new(), None, revision));
        effect(subject, state)
    }

    #[test]
    fn a_subject_is_readable_while_its_first_act_is_applied() {
        let dir = tempfile::tempdir().unwrap();
        let view = open(dir.path());
        for n in 0..3_000u128 {
            let subject = SubjectRef(n.to_be_bytes());
            let revision = view.applied() + 1;
            thread::scope(|scope| {
                let reader = scope.spawn(|| {
                    // Read from rows: the hot cache would hide them.
                    while view.cold_state(subject).unwrap().revision == 0 {}
                });
                view.apply(&[first_act(subject, revision)], [0; 32]).unwrap();
                reader.join().unwrap();
            });
        }
    }

    const CELL: (PurposeId, ChannelId) = (PurposeId(0), ChannelId(0));

    /// Alternating acts of two linked subjects: grants of the first at even indices, stops of the second
    /// at odd ones. Returns the effects of a range of entries.
    fn turns(
        states: &mut [(SubjectRef, SubjectState); 2],
        entries: std::ops::Range<u64>,
    ) -> Vec<Effect> {
        let turn = |index: u64| {
            let mark = Mark { effective_at: Millis(i64::try_from(index).unwrap()), index };
            let (subject, state) = &mut states[usize::from(index % 2 == 1)];
            if index % 2 == 1 {
                let scope = Scope::cell(CELL.0, CELL.1);
                state.merge_stop(Stop::new(scope, StopKind::Withdrawn, Actor::Subject, mark));
            } else {
                let grant = Grant {
                    mark,
                    actor: Actor::Subject,
                    purpose_version: 1,
                    expires_at: None,
                    data_categories: None,
                    authority_ends_at: None,
                    confirmed_by: None,
                };
                state.merge_grant(CELL.0, CELL.1, grant);
            }
            state.revision = index + 1;
            effect(*subject, Arc::new(state.clone()))
        };
        entries.map(turn).collect()
    }

    #[test]
    fn linked_states_are_read_as_they_were_valid_together() {
        let dir = tempfile::tempdir().unwrap();
        let view = open(dir.path());
        let names = [SubjectRef([1; 16]), SubjectRef([2; 16])];
        let mut states = names.map(|name| (name, SubjectState::default()));
        for (this, other) in [(0, 1), (1, 0)] {
            let confidence = Some(LinkConfidence::Verified);
            states[this].1.merge_link(names[other], confidence, 0);
        }
        view.apply(&turns(&mut states, 0..2), [0; 32]).unwrap();
        let done = AtomicBool::new(false);
        let read_all = |names: &[SubjectRef]| {
            let mut reads = 0_u64;
            while !done.load(Ordering::Relaxed) || reads < 100 {
                for &name in names {
                    let known = |_: &Catalog, state: &SubjectState| {
                        let lifted = state.cell(CELL.0, CELL.1).and_then(|cell| cell.lifted);
                        let stop = state.latest_stop(&Catalog::default(), CELL.0, CELL.1);
                        (lifted.map(|mark| mark.index), stop.map(|stop| stop.mark.index))
                    };
                    let (known, revision) =
                        view.read(|| Ok::<_, ViewError>(Some(name)), known).unwrap();
                    let last = revision - 1;
                    let want = (last - last % 2, last - (last + 1) % 2);
                    assert_eq!(known, (Some(want.0), Some(want.1)), "at revision {revision}");
                    reads += 1;
                }
            }
        };
        thread::scope(|scope| {
            scope.spawn(|| read_all(&names));
            scope.spawn(|| read_all(&[names[1], names[0]]));
            // Rows run ahead of memory: evicted states show it.
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    view.hot.remove(&names[0]);
                    view.hot.remove(&names[1]);
                }
            });
            for run in 0..10_000 {
                let start = view.applied();
                let effects = turns(&mut states, start..start + 1 + run % 7);
                view.apply(&effects, [0; 32]).unwrap();
            }
            done.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn uses_are_read_newest_first_as_far_back_as_asked() {
        let dir = tempfile::tempdir().unwrap();
        let view = open(dir.path());
        let (one, other) = (SubjectRef([1; 16]), SubjectRef([2; 16]));
        let cell = UseCell::new("news", "email");
        let use_at = |subject: SubjectRef, cell: UseCell, at: i64, index: u64| {
            (Key::UseAt(subject.0, cell.0, at, index).encode(), Some(Vec::new()))
        };
        let mut rows: Vec<_> =
            (0..500).map(|n: u32| use_at(one, cell, n.into(), n.into())).collect();
        rows.push(use_at(one, cell, 400, 7));
        rows.push(use_at(one, UseCell::new("news", "sms"), 400, 8));
        rows.push(use_at(other, cell, 400, 9));
        view.index.put(rows).unwrap();
        let read = |since, now, limit| {
            let uses = view.uses(one, cell, Millis(since), Millis(now), u64::MAX, limit).unwrap();
            uses.into_iter().map(|at| at.0).collect::<Vec<_>>()
        };
        assert_eq!(read(497, 499, 9), [499, 498, 497]);
        assert_eq!(read(0, 499, 2), [499, 498]);
        assert_eq!(read(0, 497, 2), [499, 498, 497, 496], "the future comes on top");
        assert_eq!(read(399, 400, 9)[99..], [400, 400, 399]);
        assert_eq!(read(0, 499, usize::MAX).len(), 501);
        assert_eq!(read(0, 499, 64).len(), 64);
        assert_eq!(read(0, 499, 65).len(), 65);
        assert!(read(500, 600, 9).is_empty());
        assert!(read(0, 499, 0).is_empty());
        let known = view.uses(one, cell, Millis(498), Millis(499), 499, 9).unwrap();
        assert_eq!(known, [Millis(498)], "499 was recorded later");
        let nobody =
            view.uses(SubjectRef([3; 16]), cell, Millis(0), Millis(9), u64::MAX, 9).unwrap();
        assert!(nobody.is_empty());
    }

    #[test]
    fn a_reader_does_not_wait_forever_for_a_writer_that_ended_in_the_middle() {
        let dir = tempfile::tempdir().unwrap();
        let view = open(dir.path());
        let names = [SubjectRef([1; 16]), SubjectRef([2; 16])];
        let mut states = names.map(|name| (name, SubjectState::default()));
        for (this, other) in [(0, 1), (1, 0)] {
            states[this].1.merge_link(names[other], Some(LinkConfidence::Verified), 0);
        }
        let mut rows = Vec::new();
        for (index, effect) in (0..).zip(turns(&mut states, 0..2)) {
            rows::push(&effect, index, &mut rows);
        }
        view.index.make_readable(rows);
        let error = view.linked(names[0]).unwrap_err();
        assert!(matches!(error, ViewError::Unpublished { wanted: 2, applied: 0 }), "{error}");
    }

    #[test]
    fn an_index_without_an_owner_or_of_another_ledger_is_not_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let index = scratch_index(dir.path());
        let judged = |head| {
            let hash_of = |at| Ok::<_, ViewError>((at < head).then_some([9; 32]));
            unusable(&index, &[7; 16], hash_of).unwrap()
        };
        assert_eq!(judged(9), Some(Unusable::Empty));
        index.put(vec![(vec![0x11; 17], Some(vec![0; 8]))]).unwrap();
        assert_eq!(judged(9), Some(Unusable::Foreign));
        index.put(vec![(Key::Owner.encode(), Some(owner_value(&[8; 16])))]).unwrap();
        assert_eq!(judged(9), Some(Unusable::Foreign));
        index.put(vec![(Key::Owner.encode(), Some(owner_value(&[7; 16])))]).unwrap();
        index.put(vec![AppliedMark { applied: 5, chain_hash: [8; 32] }.row()]).unwrap();
        assert_eq!(judged(5), Some(Unusable::Forked));
        index.put(vec![AppliedMark { applied: 5, chain_hash: [9; 32] }.row()]).unwrap();
        assert_eq!(judged(5), None);
        assert_eq!(judged(4), Some(Unusable::Ahead { applied: 5 }));
    }

    #[test]
    fn a_subject_with_acts_and_without_a_state_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let view = open(dir.path());
        let subject = SubjectRef([1; 16]);
        view.index.put(vec![(Key::History(subject.0, 3).encode(), Some(Vec::new()))]).unwrap();
        assert!(matches!(view.state(subject), Err(ViewError::StateMissing(_))));
    }
}
