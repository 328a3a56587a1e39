//! Telling others what changed, in ledger order, at least once.
//!
//! The writer tells the hub of each batch; the hub keeps the latest events in memory, decoded once.
//! Each watcher reads at its own pace: from memory while it keeps up, from the ledger when it does
//! not. So a slow watcher costs nothing but its own place, is never dropped, and slows nobody.

mod event;

use std::{collections::VecDeque, sync::Arc};

pub use event::{
    CatalogEffect, CatalogTold, ConsentTold, Event, EventTold, LinkTold, OverdueTold, shard_of,
};
use parking_lot::RwLock;
use thiserror::Error;
use tokio::sync::watch;

use crate::{
    backend::LogBackend,
    domain::{Actor, Body, ChangeRecord, Entry, EventKind, Filter, Subject, SubjectRef},
    ledger::entry,
    vault::{Vault, VaultError},
    view::{View, ViewError},
};

/// How many events a watcher takes from memory at once.
const RECENT_STEP: usize = 256;
/// How many entries, and about how many bytes, a watcher reads from the ledger at once.
const LEDGER_STEP: u64 = 256;
const LEDGER_STEP_BYTES: usize = 256 << 10;

/// What a watcher is told next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// An event, and the positions of the changes that pass the filter.
    Event(Arc<Event>, Vec<usize>),
    /// Everything before `next_index` was delivered or did not pass the filter.
    CaughtUp {
        /// The index to resume from.
        next_index: u64,
    },
}

/// Why a watcher hears nothing more.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WatchError {
    /// The node is closing; resume from this index elsewhere or later.
    #[error("the node is shutting down; resume from index {next_index}")]
    Closing {
        /// The index to resume from.
        next_index: u64,
    },
    /// The ledger or the vault could not be read.
    #[error("stored state could not be read: {0}")]
    Unreadable(String),
}

impl From<VaultError> for WatchError {
    fn from(error: VaultError) -> Self {
        Self::Unreadable(error.to_string())
    }
}

impl From<ViewError> for WatchError {
    fn from(error: ViewError) -> Self {
        Self::Unreadable(error.to_string())
    }
}

/// Where the writer tells and watchers listen.
#[derive(Debug)]
pub struct Hub {
    backend: Arc<dyn LogBackend>,
    vault: Arc<Vault>,
    view: Arc<View>,
    recent: RwLock<Recent>,
    recent_max: usize,
    news: watch::Sender<News>,
}

/// The latest events. All entries from `start` to the head are either here or no events.
#[derive(Debug)]
struct Recent {
    start: u64,
    events: VecDeque<Arc<Event>>,
}

#[derive(Debug, Clone, Copy)]
struct News {
    head: u64,
    closing: bool,
}

impl Hub {
    /// A hub at the head of the ledger that keeps up to `recent_max` events in memory.
    #[must_use]
    pub fn new(
        backend: Arc<dyn LogBackend>,
        vault: Arc<Vault>,
        view: Arc<View>,
        head: u64,
        recent_max: usize,
    ) -> Self {
        Self {
            backend,
            vault,
            view,
            recent: RwLock::new(Recent { start: head, events: VecDeque::new() }),
            recent_max,
            news: watch::Sender::new(News { head, closing: false }),
        }
    }

    /// Tells of the events among the entries before `head`. Called by the writer alone, in order,
    /// after the view has applied them.
    pub fn tell(&self, events: Vec<Arc<Event>>, head: u64) {
        {
            let mut recent = self.recent.write();
            recent.events.extend(events);
            while recent.events.len() > self.recent_max {
                recent.start = recent.events.pop_front().map_or(head, |event| event.index + 1);
            }
        }
        self.news.send_modify(|news| news.head = head);
    }

    /// Ends all watchers, once each has been told what was there.
    pub fn close(&self) {
        self.news.send_modify(|news| news.closing = true);
    }

    /// A watcher that starts at `start`.
    #[must_use]
    pub fn watch(self: &Arc<Self>, start: u64, filter: Filter) -> Watcher {
        Watcher {
            hub: Arc::clone(self),
            filter: Arc::new(filter),
            cursor: start,
            gathered: VecDeque::new(),
            told_caught_up: false,
            news: self.news.subscribe(),
        }
    }

    /// The next index of which watchers were not told.
    #[must_use]
    pub fn head(&self) -> u64 {
        self.news.borrow().head
    }

    /// Events from `cursor` on, before `end` or a little beyond it, as many as one step reads, and the
    /// index from which to go on: from memory all that there are, from the ledger those that the
    /// filter may want. Blocking.
    ///
    /// # Errors
    /// The ledger could not be read.
    pub fn events_between(
        &self,
        cursor: u64,
        end: u64,
        filter: &Filter,
    ) -> Result<(Vec<Arc<Event>>, u64), WatchError> {
        let Gathered { events, next } = match self.read_recent(cursor, end) {
            Some(gathered) => gathered,
            None => self.read_ledger(cursor, end, filter)?,
        };
        Ok((events.into(), next))
    }

    /// Events from `cursor` on that memory holds; none if memory does not reach back that far.
    fn read_recent(&self, cursor: u64, head: u64) -> Option<Gathered> {
        let recent = self.recent.read();
        if cursor < recent.start {
            return None;
        }
        let from = recent.events.partition_point(|event| event.index < cursor);
        let events: VecDeque<_> = recent.events.range(from..).take(RECENT_STEP).cloned().collect();
        // Memory may hold events beyond `head` already; they are delivered all the same.
        let next = match events.back() {
            Some(last) if events.len() == RECENT_STEP => last.index + 1,
            Some(last) => head.max(last.index + 1),
            None => head,
        };
        Some(Gathered { events, next })
    }

    /// Events from `cursor` on, read from the ledger. Blocking.
    fn read_ledger(&self, cursor: u64, head: u64, filter: &Filter) -> Result<Gathered, WatchError> {
        let unreadable = |error: &dyn std::fmt::Display| WatchError::Unreadable(error.to_string());
        let end = head.min(cursor + LEDGER_STEP);
        let entries = self
            .backend
            .read(cursor, end, LEDGER_STEP_BYTES)
            .map_err(|error| unreadable(&error))?;
        let mut gathered = Gathered { events: VecDeque::new(), next: cursor };
        for bytes in entries {
            let entry = entry::decode(&bytes).map_err(|error| unreadable(&error))?;
            gathered.next = entry.index + 1;
            gathered.events.extend(self.event(entry, filter)?.map(Arc::new));
        }
        Ok(gathered)
    }

    /// What watchers hear of an entry, if the filter may want it: to find out who the subject is
    /// costs more than all the rest.
    fn event(&self, entry: Entry, filter: &Filter) -> Result<Option<Event>, WatchError> {
        let Entry { index, recorded_at, body, .. } = entry;
        let may_pass = |changes: &[ChangeRecord]| changes.iter().any(|own| filter.passes(own));
        let consent = |subject, actor, effective_at, changes| {
            Ok::<_, WatchError>(ConsentTold {
                subject: self.vault.identity(subject)?,
                actor,
                effective_at,
                changes,
                preferences_changed: false,
                cause: None,
                reason: None,
                linked: self.linked(&[subject])?,
            })
        };
        let told = match body {
            Body::Act(act)
                if may_pass(&act.changes)
                    || (!act.contact.is_empty() && filter.wants(EventKind::Preferences)) =>
            {
                EventTold::Consent(ConsentTold {
                    preferences_changed: !act.contact.is_empty(),
                    ..consent(act.subject_ref, act.actor, act.effective_at, act.changes)?
                })
            }
            Body::Confirmed(own) if may_pass(&own.grants) => EventTold::Consent(ConsentTold {
                cause: Some(own.request_index),
                ..consent(own.subject_ref, own.requested_by, own.effective_at, own.grants)?
            }),
            Body::Expired(own) if may_pass(&own.changes) => EventTold::Consent(ConsentTold {
                cause: Some(own.grant_index),
                reason: Some(own.reason),
                ..consent(own.subject_ref, Actor::System, own.expired_at, own.changes)?
            }),
            Body::Link(own) if filter.wants(EventKind::Link) => EventTold::Link(LinkTold {
                subject: self.vault.identity(own.subject_ref)?,
                other: self.vault.identity(own.other_ref)?,
                confidence: own.confidence,
                linked: self.linked(&[own.subject_ref, own.other_ref])?,
            }),
            _ => return Ok(None),
        };
        Ok(Some(Event { index, recorded_at, told }))
    }

    /// Who else is linked to one of these subjects now: the ledger does not say who was at each
    /// time, and whoever was unlinked since was told of that.
    fn linked(&self, subjects: &[SubjectRef]) -> Result<Vec<Subject>, WatchError> {
        let mut members = subjects.to_vec();
        for &subject in subjects {
            // What is hot stays hot, and few have links.
            if self.view.peek(subject)?.links.is_empty() {
                continue;
            }
            for linked in self.view.linked(subject)? {
                if !members.contains(&linked.subject) {
                    members.push(linked.subject);
                }
            }
        }
        let linked = members.into_iter().skip(subjects.len());
        linked.map(|subject| Ok(self.vault.identity(subject)?)).collect()
    }
}

/// Events of the entries before `next`, beyond those gathered before.
struct Gathered {
    events: VecDeque<Arc<Event>>,
    next: u64,
}

/// One reader of the ledger, at its own pace.
#[derive(Debug)]
pub struct Watcher {
    hub: Arc<Hub>,
    filter: Arc<Filter>,
    /// Everything before it was delivered, gathered, or is no event.
    cursor: u64,
    gathered: VecDeque<Arc<Event>>,
    told_caught_up: bool,
    news: watch::Receiver<News>,
}

impl Watcher {
    /// The next event. [`Told::CaughtUp`] comes once each time that the watcher has reached the
    /// head; the call after it waits for news. Cancel-safe.
    ///
    /// # Errors
    /// The ledger could not be read, or the node is closing.
    pub async fn next(&mut self) -> Result<Told, WatchError> {
        loop {
            while let Some(event) = self.gathered.pop_front() {
                if let Some(passing) = event.passing(&self.filter) {
                    return Ok(Told::Event(event, passing));
                }
            }
            let News { head, closing } = *self.news.borrow_and_update();
            if self.cursor < head {
                self.told_caught_up = false;
                self.gather(head).await?;
            } else if closing {
                return Err(WatchError::Closing { next_index: self.cursor });
            } else if !self.told_caught_up {
                self.told_caught_up = true;
                return Ok(Told::CaughtUp { next_index: self.cursor });
            } else if self.news.changed().await.is_err() {
                return Err(WatchError::Closing { next_index: self.cursor });
            }
        }
    }

    async fn gather(&mut self, head: u64) -> Result<(), WatchError> {
        let gathered = match self.hub.read_recent(self.cursor, head) {
            Some(gathered) => gathered,
            None => {
                let (hub, filter) = (Arc::clone(&self.hub), Arc::clone(&self.filter));
                let cursor = self.cursor;
                tokio::task::spawn_blocking(move || hub.read_ledger(cursor, head, &filter))
                    .await
                    .map_err(|error| WatchError::Unreadable(error.to_string()))??
            }
        };
        // Only now, after the last await: a call that is dropped on the way loses nothing.
        self.gathered = gathered.events;
        self.cursor = gathered.next;
        Ok(())
    }
}
