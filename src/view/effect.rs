//! What an entry does to the view: states that it leaves subjects in, and rows that lead to it.

use std::sync::Arc;

use smallvec::SmallVec;

use super::keys::Key;
use super::{CatalogAt, Subscriptions};
use crate::{
    domain::{
        Action, Actor, Body, ChangeRecord, ConsentAct, ConsentConfirmed, Entry, Millis, Outcome,
        SubjectRef, SubjectState,
    },
    storage::index::Row,
};

/// One entry's effect on the view.
#[derive(Debug)]
pub enum Effect {
    /// The entry is about these subjects.
    Subjects {
        /// The states that it left them in.
        states: SmallVec<[(SubjectRef, Arc<SubjectState>); 1]>,
        /// Rows that lead to the entry, beside those of the states.
        rows: Vec<Row>,
    },
    /// The catalogue after a change of it.
    Catalog(Arc<CatalogAt>),
    /// The subscriptions after a change of one.
    Subscriptions {
        /// All of them.
        after: Arc<Subscriptions>,
        /// Rows of the one that changed.
        rows: Vec<Row>,
    },
    /// Nothing that anyone could ask for.
    Nothing,
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

impl Due {
    pub(super) fn key(&self) -> Key {
        Key::Due(self.at.0, self.subject.0, self.grant_index)
    }
}

/// The cell that data was used for: hash of purpose and channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UseCell(pub(super) u64);

impl UseCell {
    /// The cell of a purpose and a channel.
    #[must_use]
    pub fn new(purpose: &str, channel: &str) -> Self {
        let hash = blake3::hash(format!("{purpose}:{channel}").as_bytes());
        let (first, _) = hash.as_bytes().split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
        Self(u64::from_be_bytes(*first))
    }
}

impl Effect {
    /// The effect of an entry that does not change the catalogue. `state` gives the state that it
    /// leaves a subject in.
    ///
    /// # Errors
    /// Those of `state`.
    pub fn of_entry<E>(
        entry: &Entry,
        state: impl FnMut(SubjectRef) -> Result<Arc<SubjectState>, E>,
    ) -> Result<Self, E> {
        let Entry { index, recorded_at, ref body, .. } = *entry;
        Self::of(index, recorded_at, body, state)
    }

    /// As [`Self::of_entry`], for an entry that is about to be written.
    ///
    /// # Errors
    /// Those of `state`.
    pub fn of<E>(
        index: u64,
        recorded_at: Millis,
        body: &Body,
        mut state: impl FnMut(SubjectRef) -> Result<Arc<SubjectState>, E>,
    ) -> Result<Self, E> {
        let subjects = subjects_of(body);
        let mut states = SmallVec::with_capacity(subjects.len());
        let mut rows = Vec::with_capacity(2 + subjects.len());
        for subject in subjects {
            states.push((subject, state(subject)?));
            rows.push((Key::History(subject.0, index).encode(), Some(Vec::new())));
        }
        match body {
            Body::Opened(_) => return Ok(Self::Nothing),
            Body::Act(act) => act_rows(index, recorded_at, act, &mut rows),
            Body::Confirmed(confirmed) => confirmed_rows(index, recorded_at, confirmed, &mut rows),
            Body::Expired(expired) => {
                let due = Due {
                    at: expired.expired_at,
                    subject: expired.subject_ref,
                    grant_index: expired.grant_index,
                };
                rows.push((due.key().encode(), None));
            }
            Body::Use(used) => {
                let cell = UseCell::new(used.purpose.as_str(), used.channel.as_str());
                for subject in &used.subject_refs {
                    let at = Key::UseAt(subject.0, cell.0, used.used_at.0, index);
                    rows.push((Key::Use(subject.0, index).encode(), Some(Vec::new())));
                    rows.push((at.encode(), Some(Vec::new())));
                }
                idempotency_row(index, used.idempotency.map(|mark| mark.key_hash), &mut rows);
            }
            Body::Link(_) | Body::PurposePut(_) | Body::ChannelPut(_) => {}
            Body::Subscription(_) => {}
        }
        Ok(Self::Subjects { states, rows })
    }

    pub(super) fn push_rows(&self, index: u64, rows: &mut Vec<Row>) {
        match self {
            Self::Subjects { states, rows: own } => {
                rows.extend(states.iter().map(|(subject, state)| {
                    (Key::State(subject.0).encode(), Some(super::row::encode(state)))
                }));
                rows.extend_from_slice(own);
            }
            Self::Catalog(_) => rows.push((Key::Catalog(index).encode(), Some(Vec::new()))),
            Self::Subscriptions { rows: own, .. } => rows.extend_from_slice(own),
            Self::Nothing => {}
        }
    }
}

/// The subjects whose state an entry is part of.
pub(crate) fn subjects_of(body: &Body) -> SmallVec<[SubjectRef; 2]> {
    match body {
        Body::Act(act) => smallvec::smallvec![act.subject_ref],
        Body::Confirmed(confirmed) => smallvec::smallvec![confirmed.subject_ref],
        Body::Expired(expired) => smallvec::smallvec![expired.subject_ref],
        Body::Link(link) => smallvec::smallvec![link.subject_ref, link.other_ref],
        Body::Use(_)
        | Body::Opened(_)
        | Body::PurposePut(_)
        | Body::ChannelPut(_)
        | Body::Subscription(_) => SmallVec::new(),
    }
}

fn act_rows(index: u64, recorded_at: Millis, act: &ConsentAct, rows: &mut Vec<Row>) {
    idempotency_row(index, act.idempotency.map(|mark| mark.key_hash), rows);
    if let Some(offer) = &act.confirmation {
        rows.push((
            Key::Confirmation(offer.token_hash).encode(),
            Some(index.to_be_bytes().to_vec()),
        ));
    }
    let ends_at = authority_of(act.actor, act.authority_ends_at);
    let due = due_rows(recorded_at, act.subject_ref, index, &act.changes, ends_at);
    rows.extend(due);
}

fn confirmed_rows(
    index: u64,
    recorded_at: Millis,
    confirmed: &ConsentConfirmed,
    rows: &mut Vec<Row>,
) {
    idempotency_row(index, confirmed.idempotency.map(|mark| mark.key_hash), rows);
    let request = confirmed.request_index;
    rows.push((Key::Confirmed(request).encode(), Some(index.to_be_bytes().to_vec())));
    let ends_at = authority_of(confirmed.requested_by, confirmed.authority_ends_at);
    let (subject, grants) = (confirmed.subject_ref, &confirmed.grants);
    rows.extend(due_rows(recorded_at, subject, request, grants, ends_at));
}

fn authority_of(actor: Actor, ends_at: Option<Millis>) -> Option<Millis> {
    ends_at.filter(|_| actor == Actor::Guardian)
}

/// One row for each moment at which some grants of an act end by themselves. What ended before it
/// was recorded changed no answer then, and needs none; what waits for its double opt-in gets its
/// own with the confirmation.
fn due_rows(
    recorded_at: Millis,
    subject: SubjectRef,
    grant_index: u64,
    changes: &[ChangeRecord],
    authority_ends_at: Option<Millis>,
) -> impl Iterator<Item = Row> {
    let grants = changes.iter().filter(|change| {
        change.action == Action::Grant && change.outcome != Outcome::PendingConfirmation
    });
    let ends = grants.flat_map(move |change| match (change.expires_at, authority_ends_at) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    });
    let mut ends: SmallVec<[Millis; 4]> = ends.filter(|at| *at > recorded_at).collect();
    ends.sort_unstable();
    ends.dedup();
    ends.into_iter()
        .map(move |at| (Due { at, subject, grant_index }.key().encode(), Some(Vec::new())))
}

fn idempotency_row(index: u64, key_hash: Option<[u8; 32]>, rows: &mut Vec<Row>) {
    rows.extend(
        key_hash.map(|hash| (Key::Idempotency(hash).encode(), Some(index.to_be_bytes().to_vec()))),
    );
}
