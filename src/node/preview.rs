//! Preview of a change of a purpose: the decisions that it would change.

use std::collections::BTreeMap;

use super::{
    Core, Node,
    batch::purpose_put,
    catalog::PurposeDraft,
    error::{CatalogError, ReadError},
};
use crate::{
    decide::decide,
    domain::{Catalog, Effect, Key, Purpose, Query, Reason, Region, SubjectState},
    entry::{Fact, Place},
    fold::CatalogAt,
};

/// How many subjects are looked up at a time.
const SUBJECTS_STEP: usize = 1_000;

/// The effect of a change on the cells of a purpose. A cell is a subject of the ledger and a channel
/// that is not retired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preview {
    /// Number of cells.
    pub cells: u64,
    /// Cells whose reason would change.
    pub flips: Vec<Flips>,
    /// Reasons before and after for a subject that is not in the ledger.
    pub unknown_subject: (Reason, Reason),
    /// Version that the purpose would have.
    pub version: u32,
    /// Whether the change would write an entry.
    pub changed: bool,
    /// Revision that was read.
    pub revision: u64,
}

/// Cells of one channel whose reason would change in the same way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flips {
    /// The channel.
    pub channel: Key,
    /// Reason now.
    pub before: Reason,
    /// Reason after the change.
    pub after: Reason,
    /// Number of cells.
    pub count: u64,
}

impl Preview {
    /// Number of cells whose effect would change to this one.
    #[must_use]
    pub fn turned(&self, effect: Effect) -> u64 {
        let turns =
            |flips: &&Flips| flips.before.effect() != effect && flips.after.effect() == effect;
        self.flips.iter().filter(turns).map(|flips| flips.count).sum()
    }
}

impl Node {
    /// Counts the cells whose reason a change of a purpose would change, without making the change.
    /// Reads the state of every subject. Blocking.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub fn preview(
        &self,
        draft: PurposeDraft,
        region: Option<Region>,
    ) -> Result<Preview, CatalogError> {
        let view = &self.core.view;
        let applied = view.applied();
        let before = view.catalog();
        // A catalogue that is newer than `applied` is itself the last entry that counts.
        let revision = applied.max(before.revision);
        let now = self.core.question_time();
        let key = draft.key.clone();
        let mut after = CatalogAt::clone(&before);
        let put = purpose_put(&before.catalog, draft)?;
        if let Some(put) = &put {
            let place = Place { index: revision, recorded_at: now };
            after.fold(Fact { place, kind: put });
        }
        let (before, after) = (&before.catalog, &after.catalog);
        let reasons = |state: &SubjectState, channel: &str| {
            let reason = |catalog: &Catalog| {
                let query = Query::new(catalog, key.as_str(), channel, &[], region);
                decide(catalog, state, &query, now).reason
            };
            (reason(before), reason(after))
        };
        let live = before.channels().filter(|(_, channel)| !channel.retired);
        let channels: Vec<&Key> = live.map(|(_, channel)| &channel.key).collect();
        let (cells, counts) = self.core.count_changes(&channels, reasons)?;
        let flips = counts.into_iter().map(|((position, before, after), count)| Flips {
            channel: channels[position].clone(),
            before,
            after,
            count,
        });
        let any_channel = channels.first().map_or("", |key| key.as_str());
        let purpose = after.purpose_id(key.as_str()).and_then(|id| after.purpose(id));
        Ok(Preview {
            cells,
            flips: flips.collect(),
            unknown_subject: reasons(&SubjectState::default(), any_channel),
            version: purpose.map_or(0, Purpose::version),
            changed: put.is_some(),
            revision,
        })
    }
}

impl Core {
    /// The number of cells, and of those whose reason changes.
    fn count_changes(
        &self,
        channels: &[&Key],
        reasons: impl Fn(&SubjectState, &str) -> (Reason, Reason),
    ) -> Result<(u64, Counts), ReadError> {
        let mut counts = Counts::new();
        let (mut cells, mut last) = (0, None);
        loop {
            let subjects = self.view.subjects(last, SUBJECTS_STEP)?;
            if subjects.is_empty() {
                return Ok((cells, counts));
            }
            last = subjects.last().copied();
            for subject in subjects {
                let state = self.view.peek(subject)?;
                for (position, channel) in channels.iter().enumerate() {
                    cells += 1;
                    let (before, after) = reasons(&state, channel.as_str());
                    if before != after {
                        *counts.entry((position, before, after)).or_default() += 1;
                    }
                }
            }
        }
    }
}

/// Numbers of cells, by position of the channel, reason before and reason after.
type Counts = BTreeMap<(usize, Reason, Reason), u64>;
