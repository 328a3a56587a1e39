//! What this node answers for every cell that a range of entries touched, as of each of them: what
//! an auditor compares with what the entries alone say.
//!
//! Where a data subject was not touched again since, the answer comes from the state that checks
//! read, so that it is this state that is audited. Else it comes from the subject's own entries, as
//! every answer about the past does; who has been read once is folded on along the range instead of
//! read again, as long as there is memory for it.

use std::{collections::VecDeque, sync::Arc};

use hashbrown::HashMap;

use super::{Core, Node, past::Past, question::ReadError};
use crate::{
    domain::{Body, Entry, SubjectRef, SubjectState},
    ledger::entry,
    view::{Answers, CatalogAt, CellDecision, ViewError, fold, reach, subjects_of, unite},
};

/// The greatest number of decisions in a page.
pub const PAGE_DECISIONS_MAX: usize = 1_000;
/// The greatest number of entries that are walked over for a page.
pub const PAGE_ENTRIES_MAX: usize = 1_000;
/// About how many bytes of memory the states take that are kept along a range.
const STATES_BYTES_MAX: usize = 64 << 20;
/// What a state takes besides itself, in bytes: its place in the table, and reference counts.
const STATE_BYTES: usize = 64;

/// The decisions of a range of entries, page by page.
#[derive(Debug)]
pub struct Decisions {
    core: Arc<Core>,
    next_index: u64,
    end: u64,
    /// As of the entry that was walked over last.
    catalog: Arc<CatalogAt>,
    states: Kept,
    read: VecDeque<(u64, Vec<u8>)>,
    /// The rest of what an entry touches.
    rest: Option<Answers>,
}

/// The states of data subjects as of the entry that was walked over last.
#[derive(Debug, Default)]
struct Kept {
    states: HashMap<SubjectRef, Arc<SubjectState>>,
    bytes: usize,
}

impl Node {
    /// Begins to answer for the entries from `start` on, before `end` or, if that is not given, the
    /// head. Blocking.
    ///
    /// # Errors
    /// [`ReadError::IndexOutOfRange`] for a start or an end beyond the head, or
    /// [`ReadError::StateUnreadable`].
    pub fn decisions(&self, start: u64, end: Option<u64>) -> Result<Decisions, ReadError> {
        let head = self.core.view.applied();
        // Who asks for more than there is must not take the part for the whole.
        let end = end.unwrap_or(head.max(start));
        if end > head {
            return Err(ReadError::IndexOutOfRange { index: end, head });
        }
        Ok(Decisions {
            core: Arc::clone(&self.core),
            next_index: start,
            end,
            catalog: self.core.catalog_at(start)?,
            states: Kept::default(),
            read: VecDeque::new(),
            rest: None,
        })
    }
}

impl Decisions {
    /// The next decisions, none of which may be a page too; nothing after the last. Blocking.
    ///
    /// # Errors
    /// [`ReadError::StateUnreadable`].
    pub fn next_page(&mut self) -> Result<Option<Vec<CellDecision>>, ReadError> {
        let mut page = Vec::new();
        for _ in 0..PAGE_ENTRIES_MAX {
            if let Some(rest) = &mut self.rest {
                page.extend(rest.take(PAGE_DECISIONS_MAX - page.len()));
                if page.len() == PAGE_DECISIONS_MAX {
                    return Ok(Some(page));
                }
            }
            let Some(entry) = self.next_entry()? else {
                self.rest = None;
                return Ok(Some(page).filter(|page| !page.is_empty()));
            };
            self.rest = Some(self.walk_over(&entry)?);
        }
        Ok(Some(page))
    }

    fn next_entry(&mut self) -> Result<Option<Entry>, ReadError> {
        if self.next_index >= self.end {
            return Ok(None);
        }
        if self.read.is_empty() {
            self.read = self.core.entries(self.next_index, self.end)?.into();
        }
        // A gap must never look like an end.
        let wanted = self.next_index;
        let bytes = self.read.pop_front().filter(|(index, _)| *index == wanted);
        let (_, bytes) = bytes
            .ok_or_else(|| ReadError::StateUnreadable(format!("entry {wanted} is missing")))?;
        self.next_index += 1;
        Ok(Some(entry::decode(&bytes)?))
    }

    /// Brings everything to the revision after an entry, and answers for what it touches.
    fn walk_over(&mut self, entry: &Entry) -> Result<Answers, ReadError> {
        if matches!(entry.body, Body::PurposePut(_) | Body::ChannelPut(_)) {
            Arc::make_mut(&mut self.catalog).put(entry.index, &entry.body);
        }
        self.states.fold(&self.catalog, entry)?;
        let end = entry.index.saturating_add(1);
        let catalog = Arc::clone(&self.catalog);
        let past = Past { catalog, end, until: None, now: entry.recorded_at };
        Answers::of(entry, &self.catalog, |subject| {
            let own = self.states.own(&self.core, subject, &past)?;
            let linked = reach(subject, &own, |other| self.states.own(&self.core, other, &past))?;
            Ok(if linked.is_empty() { own } else { Arc::new(unite(&own, &linked)) })
        })
    }
}

impl Kept {
    /// The state of a data subject at a revision.
    fn own(
        &mut self,
        core: &Core,
        subject: SubjectRef,
        past: &Past,
    ) -> Result<Arc<SubjectState>, ReadError> {
        let now = core.view.state(subject)?;
        if now.revision <= past.end {
            self.forget(subject);
            return Ok(now);
        }
        if let Some(state) = self.states.get(&subject) {
            return Ok(Arc::clone(state));
        }
        let state = Arc::new(core.own_state_at(subject, past)?);
        self.keep(subject, Arc::clone(&state));
        Ok(state)
    }

    /// Folds an entry into those of its data subjects that are kept.
    fn fold(&mut self, catalog: &CatalogAt, entry: &Entry) -> Result<(), ReadError> {
        let index = entry.index;
        for subject in subjects_of(&entry.body) {
            let Some(mut state) = self.forget(subject) else { continue };
            let folded = Arc::make_mut(&mut state);
            fold::fold_entry(&catalog.catalog, folded, subject, index, &entry.body)
                .map_err(|problem| ViewError::UnknownKey { index, problem })?;
            self.keep(subject, state);
        }
        Ok(())
    }

    fn keep(&mut self, subject: SubjectRef, state: Arc<SubjectState>) {
        let bytes = STATE_BYTES + state.memory_bytes();
        if self.bytes + bytes > STATES_BYTES_MAX {
            // Whoever is needed again is read again.
            *self = Self::default();
        }
        self.bytes += bytes;
        self.states.insert(subject, state);
    }

    fn forget(&mut self, subject: SubjectRef) -> Option<Arc<SubjectState>> {
        let state = self.states.remove(&subject)?;
        self.bytes -= STATE_BYTES + state.memory_bytes();
        Some(state)
    }
}
