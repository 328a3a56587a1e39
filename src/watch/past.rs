//! Events read back from the ledger, for whoever memory does not reach back to.
//!
//! What is told of an entry is the same as when it was new, with one exception: who is linked to a
//! data subject is told as it is now.

use std::sync::Arc;

use parking_lot::Mutex;

use super::{
    WatchError,
    catalog::History,
    event::{CatalogTold, ConsentTold, Event, EventTold, LinkTold, OverdueTold},
    recent::{Gathered, Post},
};
use crate::{
    backend::LogBackend,
    domain::{
        Actor, Body, ChangeRecord, DeliveryOverdue, Entry, EventKind, Filter, Subject, SubjectRef,
        SubscriptionEntry,
    },
    ledger::entry,
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
            let entry = entry::decode(&bytes).map_err(unreadable)?;
            gathered.next = entry.index + 1;
            let event = self.event(entry, filter)?;
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
            Body::PurposePut(_) | Body::ChannelPut(_) if filter.wants(EventKind::Catalog) => {
                match self.catalog_told(index)? {
                    Some(told) => EventTold::Catalog(told),
                    None => return Ok(None),
                }
            }
            Body::Subscription(SubscriptionEntry::Overdue(own))
                if filter.wants(EventKind::Overdue) =>
            {
                EventTold::Overdue(self.overdue_told(&own)?)
            }
            _ => return Ok(None),
        };
        Ok(Some(Event { index, recorded_at, told }))
    }

    fn catalog_told(&self, index: u64) -> Result<Option<CatalogTold>, WatchError> {
        let entries = || Ok(self.view.catalog_entries()?);
        let read = |at: u64| {
            let entries = self.backend.read(at, at + 1, STEP_BYTES).map_err(unreadable)?;
            let Some(bytes) = entries.first() else {
                return Err(WatchError::Unreadable(format!("entry {at} is not there")));
            };
            Ok(entry::decode(bytes).map_err(unreadable)?.body)
        };
        self.catalog.lock().told(index, entries, read)
    }

    fn overdue_told(&self, own: &DeliveryOverdue) -> Result<OverdueTold, WatchError> {
        let subscriptions = self.view.subscriptions();
        let Some(subscription) = subscriptions.get(own.subscription) else {
            return Err(WatchError::Unreadable(format!("no {:?} in the view", own.subscription)));
        };
        Ok(OverdueTold {
            subscription: subscription.spec.name.clone(),
            shard: own.shard,
            event_index: own.event_index,
            pending_since: own.pending_since,
        })
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

fn unreadable(error: impl std::fmt::Display) -> WatchError {
    WatchError::Unreadable(error.to_string())
}
