//! The rows of an entry in the index: states of data subjects, and rows that lead to the entry.

use smallvec::{SmallVec, smallvec};

use super::{keys::Key, row, subscriptions};
use crate::{
    fold::{After, Due, Effect, Lead, Subscriptions},
    storage::index::Row,
};

/// Adds the rows of the entry at `index`.
pub(super) fn push(effect: &Effect, index: u64, rows: &mut Vec<Row>) {
    let mut subscriptions = None;
    match &effect.after {
        After::Subjects(states) => {
            for (subject, state) in states {
                rows.push((Key::State(subject.0).encode(), Some(row::encode(state))));
                rows.push((Key::History(subject.0, index).encode(), Some(Vec::new())));
            }
        }
        After::Catalog { .. } => rows.push((Key::Catalog(index).encode(), Some(Vec::new()))),
        After::Subscriptions { subscriptions: after, .. } => subscriptions = Some(&**after),
        After::Nothing => {}
    }
    rows.extend(effect.leads.iter().flat_map(|lead| lead_rows(lead, index, subscriptions)));
}

/// The key of a grant that expires.
pub(super) fn due_key(due: &Due) -> Key {
    Key::Due(due.at.0, due.subject.0, due.grant_index)
}

fn lead_rows(lead: &Lead, index: u64, subscriptions: Option<&Subscriptions>) -> SmallVec<[Row; 2]> {
    let to_entry = || Some(index.to_be_bytes().to_vec());
    match lead {
        Lead::Idempotency(hash) => smallvec![(Key::Idempotency(*hash).encode(), to_entry())],
        Lead::Token(hash) => smallvec![(Key::Confirmation(*hash).encode(), to_entry())],
        Lead::Confirms(act) => smallvec![(Key::Confirmed(*act).encode(), to_entry())],
        Lead::Ends(due) => smallvec![(due_key(due).encode(), Some(Vec::new()))],
        Lead::Ended(due) => smallvec![(due_key(due).encode(), None)],
        Lead::Use { subject, cell, at } => smallvec![
            (Key::Use(subject.0, index).encode(), Some(Vec::new())),
            (Key::UseAt(subject.0, cell.0, at.0, index).encode(), Some(Vec::new())),
        ],
        Lead::Subscription(id) => {
            let subscription = subscriptions.and_then(|all| all.get(*id));
            subscription
                .map(|subscription| subscriptions::state_row(subscription))
                .into_iter()
                .collect()
        }
        Lead::Settled { id, shard, range, at, is_failure } => {
            smallvec![subscriptions::settled_row(*id, *shard, range, (index, *at), *is_failure)]
        }
        Lead::DeadLetter { id, shard, failed, at } => {
            smallvec![subscriptions::dead_letter_row(*id, *shard, failed, (index, *at))]
        }
        Lead::DeadLetterDelivered { id, shard, index } => {
            smallvec![(Key::DeadLetter(id.0, *shard, *index).encode(), None)]
        }
    }
}
