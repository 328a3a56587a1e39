//! The book of acknowledgements: an account for each shard, and the overdue shards to report.
//!
//! The ledger holds the recorded acknowledgements, and the view their fold. The book holds everything
//! beyond that. If a shard has an account, the account counts; otherwise the view knows everything.
//!
//! One lock protects the whole book ([`super::Deliveries`]). Three kinds of callers change it:
//! * the consumer of a shard, while it holds its seat: it delivers, acknowledges, gives up;
//! * the writer: it takes due acknowledgements, and puts back those that it could not write;
//! * the thread of deadlines: it updates the place of each account, and reports overdue shards.

use std::{collections::BTreeMap, mem, sync::Arc, time::Instant};

use super::{
    account::Account,
    unrecorded::{Taken, Unrecorded},
};
use crate::{
    domain::{DeliveryOverdue, Subscription, SubscriptionEntry, SubscriptionId},
    fold::Subscriptions,
};

/// A shard of a subscription.
pub(in crate::node) type Shard = (SubscriptionId, u32);

/// A subscription, if it was not ended.
pub(super) fn live(
    subscriptions: &Subscriptions,
    id: SubscriptionId,
) -> Option<&Arc<Subscription>> {
    subscriptions.get(id).filter(|subscription| subscription.deleted.is_none())
}

/// All accounts; `T` is an event.
#[derive(Debug)]
pub(super) struct Book<T> {
    accounts: BTreeMap<Shard, Account<T>>,
    /// Overdue shards that are not written to the ledger yet.
    overdue: BTreeMap<Shard, DeliveryOverdue>,
    /// Number of settled events and snapshots, over all accounts, that are not written yet.
    count: usize,
    /// Since when something is due.
    since: Option<Instant>,
    /// Whether nothing will be written to the ledger any more.
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

    /// Changes the account of a shard, and creates it if needed. None if the subscription was ended or
    /// has no such shard.
    pub(super) fn change<R>(
        &mut self,
        subscriptions: &Subscriptions,
        shard: Shard,
        change: impl FnOnce(&mut Account<T>) -> R,
    ) -> Option<R> {
        let subscription = live(subscriptions, shard.0)?;
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

    /// Since when something is due to be written.
    pub(super) fn since(&self) -> Option<Instant> {
        self.since
    }

    /// Whether something does not wait for the interval: overdue shards, which watchers are told about.
    pub(super) fn is_urgent(&self) -> bool {
        !self.overdue.is_empty()
    }

    /// Number of settled events and snapshots that are not written yet.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Takes everything that is due. It stays settled.
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

    /// Takes everything of a subscription that is about to be ended, due or not.
    pub(super) fn take_of(&mut self, id: SubscriptionId) -> Taken {
        let accounts = self.accounts.range_mut((id, 0)..=(id, u32::MAX));
        let shards: Vec<_> =
            accounts.map(|(shard, account)| (*shard, mem::take(&mut account.unrecorded))).collect();
        self.count -= shards.iter().map(|(_, unrecorded)| unrecorded.count()).sum::<usize>();
        Taken { shards, overdue: Vec::new() }
    }

    /// Puts the content of an entry back that could not be written. `taken` is what the entry was made
    /// from. Overdue shards are not put back: the thread of deadlines reports them again.
    pub(super) fn put_back(&mut self, body: &SubscriptionEntry, taken: &Taken) {
        if self.is_stopped {
            return;
        }
        match body {
            SubscriptionEntry::Delivered(receipts) => {
                for receipt in receipts {
                    let shard = (receipt.subscription, receipt.shard);
                    let mut shards = taken.shards.iter();
                    let source = shards.find(|(taken_shard, _)| *taken_shard == shard);
                    if let Some((_, source)) = source {
                        self.refill(shard, |unrecorded| unrecorded.put_back(receipt, source));
                    }
                }
            }
            SubscriptionEntry::Failed(entry) => {
                self.refill((entry.subscription, entry.shard), |unrecorded| {
                    entry.failed.iter().for_each(|failed| unrecorded.fail(*failed));
                });
            }
            SubscriptionEntry::Created(_)
            | SubscriptionEntry::Deleted(_)
            | SubscriptionEntry::Overdue(_) => {}
        }
    }

    fn refill(&mut self, shard: Shard, refill: impl FnOnce(&mut Unrecorded)) {
        let Some(account) = self.accounts.get_mut(&shard) else { return };
        self.count -= account.unrecorded.count();
        refill(&mut account.unrecorded);
        self.count += account.unrecorded.count();
        self.since.get_or_insert_with(Instant::now);
    }

    /// Drops the accounts of subscriptions that were ended.
    pub(super) fn forget_ended(&mut self, subscriptions: &Subscriptions) {
        self.accounts.retain(|(id, _), account| {
            let is_live = live(subscriptions, *id).is_some();
            if !is_live {
                self.count -= account.unrecorded.count();
            }
            is_live
        });
    }

    /// Drops everything that is not written, now and from now on. Settled indexes stay settled.
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
