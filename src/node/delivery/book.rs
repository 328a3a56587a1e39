//! The one book of acknowledgements: an account for each shard, and what is due to be written down.
//!
//! The ledger holds what is on record, and the view its fold; the book holds all that is true beyond
//! that. Where a shard has an account, the account is what counts; where it has none, the view knows
//! everything.
//!
//! One lock protects the whole book ([`super::Deliveries`]). Three kinds of callers change it:
//! * the consumer of a shard, while it holds its seat: it delivers, acknowledges, gives up;
//! * the writer: it takes what is due, and puts back what it could not write;
//! * the thread of deadlines: it keeps each account's place, and says who is overdue.

use std::{collections::BTreeMap, mem, time::Instant};

use super::{
    account::Account,
    unrecorded::{Taken, Unrecorded},
};
use crate::{
    domain::{DeliveryOverdue, SubscriptionEntry, SubscriptionId},
    fold::Subscriptions,
};

/// A shard of a subscription.
pub(super) type Shard = (SubscriptionId, u32);

/// All accounts; `T` is an event.
#[derive(Debug)]
pub(super) struct Book<T> {
    accounts: BTreeMap<Shard, Account<T>>,
    /// Shards whose deadline has passed, which is not written down yet.
    overdue: BTreeMap<Shard, DeliveryOverdue>,
    /// Number of events and snapshots in all accounts that are not written down.
    count: usize,
    /// Since when something is due.
    since: Option<Instant>,
    /// Whether nothing will be written down any more.
    is_stopped: bool,
}

impl<T> Default for Book<T> {
    fn default() -> Self {
        Self {
            accounts: BTreeMap::new(),
            overdue: BTreeMap::new(),
            count: 0,
            since: None,
            is_stopped: false,
        }
    }
}

impl<T> Book<T> {
    /// The account of a shard, if it has one.
    pub(super) fn account(&self, shard: Shard) -> Option<&Account<T>> {
        self.accounts.get(&shard)
    }

    /// Changes the account of a shard, which is made if there is none. None if there is no such shard
    /// of a subscription that was not ended.
    pub(super) fn change<R>(
        &mut self,
        subscriptions: &Subscriptions,
        shard: Shard,
        change: impl FnOnce(&mut Account<T>) -> R,
    ) -> Option<R> {
        let subscription = subscriptions.get(shard.0).filter(|own| own.deleted.is_none())?;
        let state = subscription.shard(shard.1)?;
        let account = self
            .accounts
            .entry(shard)
            .or_insert_with(|| Account::on_record(state, subscription.spec.start_index));
        self.count -= account.unrecorded.count();
        let changed = change(account);
        if self.is_stopped {
            account.unrecorded = Unrecorded::default();
        }
        self.count += account.unrecorded.count();
        if account.unrecorded.is_due() {
            self.since.get_or_insert_with(Instant::now);
        }
        Some(changed)
    }

    /// Notes that a shard is overdue.
    pub(super) fn overdue(&mut self, overdue: DeliveryOverdue) {
        if !self.is_stopped {
            self.overdue.insert((overdue.subscription, overdue.shard), overdue);
            self.since.get_or_insert_with(Instant::now);
        }
    }

    /// Since when something is to be written down.
    pub(super) fn since(&self) -> Option<Instant> {
        self.since
    }

    /// Whether something waits for no interval: what everybody hears of.
    pub(super) fn is_urgent(&self) -> bool {
        !self.overdue.is_empty()
    }

    /// Number of events and snapshots that are not written down.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Takes what is due. What is taken stays settled.
    pub(super) fn take(&mut self) -> Taken {
        self.since = None;
        self.count = 0;
        let due = self.accounts.iter_mut().filter(|(_, account)| account.unrecorded.is_due());
        let shards = due.map(|(shard, account)| (*shard, mem::take(&mut account.unrecorded)));
        Taken {
            shards: shards.collect(),
            overdue: mem::take(&mut self.overdue).into_values().collect(),
        }
    }

    /// Takes all of a subscription that is about to be ended, be it due or not.
    pub(super) fn take_of(&mut self, id: SubscriptionId) -> Taken {
        let accounts = self.accounts.range_mut((id, 0)..=(id, u32::MAX));
        let shards: Vec<_> =
            accounts.map(|(shard, account)| (*shard, mem::take(&mut account.unrecorded))).collect();
        self.count -= shards.iter().map(|(_, unrecorded)| unrecorded.count()).sum::<usize>();
        Taken { shards, overdue: Vec::new() }
    }

    /// Takes back what an entry was to say that could not be written.
    pub(super) fn put_back(&mut self, body: &SubscriptionEntry, taken: &Taken) {
        if self.is_stopped {
            return;
        }
        taken.put_back(body, |shard, change| {
            let Some(account) = self.accounts.get_mut(&shard) else { return };
            self.count -= account.unrecorded.count();
            change(&mut account.unrecorded);
            self.count += account.unrecorded.count();
            self.since.get_or_insert_with(Instant::now);
        });
    }

    /// Drops the accounts of subscriptions that were ended.
    pub(super) fn forget_ended(&mut self, subscriptions: &Subscriptions) {
        self.accounts.retain(|(id, _), account| {
            let is_live = subscriptions.get(*id).is_some_and(|own| own.deleted.is_none());
            if !is_live {
                self.count -= account.unrecorded.count();
            }
            is_live
        });
    }

    /// Has nothing more written down. What is settled stays settled.
    pub(super) fn stop(&mut self) {
        self.is_stopped = true;
        (self.since, self.count) = (None, 0);
        self.overdue.clear();
        for account in self.accounts.values_mut() {
            account.unrecorded = Unrecorded::default();
        }
    }
}

#[cfg(test)]
mod tests;
