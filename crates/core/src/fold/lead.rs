//! Leads: the lookups by which an index must find an entry. How the index does it is not known
//! here.

use std::ops::Range;

use smallvec::SmallVec;

use crate::{
    domain::{Action, ChangeRecord, Millis, Outcome, SubjectRef, SubscriptionId},
    entry::FailedDelivery,
    ledger::sealed::SlotOf,
};

/// A lookup that finds an entry, or that an entry ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lead {
    /// What stands for the caller's idempotency key.
    Idempotency([u8; 16]),
    /// The hash of a confirmation token.
    Token([u8; 32]),
    /// The act that the entry confirms.
    Confirms(u64),
    /// A tag of it, which says whose it is.
    Slot(SlotOf),
    /// Grants of it will end by themselves.
    Ends(Due),
    /// Grants have ended.
    Ended(Due),
    /// Data of a data subject was used.
    Use {
        /// Whose.
        subject: SubjectRef,
        /// Purpose and channel.
        cell: UseCell,
        /// When.
        at: Millis,
    },
    /// The subscription is as the fold left it.
    Subscription(SubscriptionId),
    /// Events were acknowledged, or given up.
    Settled {
        /// The subscription.
        id: SubscriptionId,
        /// The shard.
        shard: u32,
        /// The events.
        range: Range<u64>,
        /// When.
        at: Millis,
        /// Whether they were given up.
        is_failure: bool,
    },
    /// An event was given up.
    DeadLetter {
        /// The subscription.
        id: SubscriptionId,
        /// The shard.
        shard: u32,
        /// The event, and how it failed.
        failed: FailedDelivery,
        /// When.
        at: Millis,
    },
    /// An event was acknowledged; it may have been given up before.
    DeadLetterDelivered {
        /// The subscription.
        id: SubscriptionId,
        /// The shard.
        shard: u32,
        /// Index of the event.
        index: u64,
    },
}

/// A grant that ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Due {
    /// When.
    pub at: Millis,
    /// Whose.
    pub subject: SubjectRef,
    /// Index of the act that gave it.
    pub grant_index: u64,
}

/// The cell that data was used for: hash of purpose and channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UseCell(pub u64);

impl UseCell {
    /// The cell of a purpose and a channel.
    #[must_use]
    pub fn new(purpose: &str, channel: &str) -> Self {
        let hash = blake3::hash(format!("{purpose}:{channel}").as_bytes());
        let (first, _) = hash.as_bytes().split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
        Self(u64::from_be_bytes(*first))
    }
}

/// One lead for each moment at which some grants of an act end by themselves. Grants that ended
/// before they were recorded need none, because no decision changed then. Grants that wait for
/// their double opt-in get their lead with the confirmation.
pub(crate) fn due(
    recorded_at: Millis,
    subject: SubjectRef,
    grant_index: u64,
    changes: &[ChangeRecord],
    authority_ends_at: Option<Millis>,
) -> impl Iterator<Item = Lead> {
    let grants = changes.iter().filter(|change| {
        change.action == Action::Grant && change.outcome != Outcome::PendingConfirmation
    });
    let ends = grants.filter_map(move |change| {
        [change.expires_at, authority_ends_at].into_iter().flatten().min()
    });
    let mut ends: SmallVec<[Millis; 4]> = ends.filter(|at| *at > recorded_at).collect();
    ends.sort_unstable();
    ends.dedup();
    ends.into_iter().map(move |at| Lead::Ends(Due { at, subject, grant_index }))
}
