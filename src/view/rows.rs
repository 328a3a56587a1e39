//! The rows of an entry in the index: states of data subjects, and rows that lead to the entry.

use smallvec::{SmallVec, smallvec};

use super::{keys::Key, row, subscriptions};
use crate::{
    domain::SubjectRef,
    fold::{After, Due, Effect, Lead, Subscriptions},
    format::Tag,
    ledger::sealed::{Lane, SlotOf, Whose},
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

/// The byte of a lane.
pub(super) fn lane_byte(lane: Lane) -> u8 {
    match lane {
        Lane::Records => 0,
        Lane::Uses => 1,
    }
}

/// Whose a tag is, as the value of its row.
pub(super) fn whose(row: &[u8]) -> Option<Whose> {
    let (subject, rest) = row.split_first_chunk::<16>()?;
    let (lane, number) = rest.split_first()?;
    let lane = match lane {
        0 => Lane::Records,
        1 => Lane::Uses,
        _ => return None,
    };
    let number = u64::from_be_bytes(number.try_into().ok()?);
    Some(Whose { subject: SubjectRef(*subject), lane, number })
}

fn tag_row(tag: &Tag, slot: &SlotOf, number: u64) -> Row {
    let lane = lane_byte(slot.lane);
    let value = [slot.subject.0.as_slice(), &[lane], &number.to_be_bytes()].concat();
    (Key::Tag(*tag).encode(), Some(value))
}

/// The rows of a tag: whose the next one will be, how many there are, and its record. The row of the tag
/// before it says whose it is itself; whose the first one is, the vault says.
fn slot_rows(slot: &SlotOf, index: u64) -> SmallVec<[Row; 2]> {
    let next = slot.number + 1;
    let landed = Key::Landed(slot.subject.0, lane_byte(slot.lane)).encode();
    let mut rows = smallvec![(landed, Some(next.to_be_bytes().to_vec()))];
    rows.extend(slot.next_tag.as_ref().map(|tag| tag_row(tag, slot, next)));
    let to_entry = |reference| (Key::Reference(reference).encode(), index.to_be_bytes().to_vec());
    rows.extend(slot.reference.map(to_entry).map(|(key, value)| (key, Some(value))));
    rows
}

fn lead_rows(lead: &Lead, index: u64, subscriptions: Option<&Subscriptions>) -> SmallVec<[Row; 2]> {
    let to_entry = || Some(index.to_be_bytes().to_vec());
    match lead {
        Lead::Idempotency(hash) => smallvec![(Key::Idempotency(*hash).encode(), to_entry())],
        Lead::Token(hash) => smallvec![(Key::Confirmation(*hash).encode(), to_entry())],
        Lead::Confirms(act) => smallvec![(Key::Confirmed(*act).encode(), to_entry())],
        Lead::Slot(slot) => slot_rows(slot, index),
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
