//! What a change of a purpose would do to the answers, before it is made.

use std::collections::BTreeMap;

use super::{
    Core, Node,
    batch::{check_put, purpose_put},
    catalog::PurposeDraft,
    error::{CatalogError, ReadError},
};
use crate::{
    decide::decide,
    domain::{
        Catalog, ChannelId, Decision, Effect, Key, Purpose, Query, Reason, Region, SubjectState,
    },
    entry::{Fact, Place},
    fold::CatalogAt,
};

/// How many subjects are looked up at a time.
const SUBJECTS_STEP: usize = 1_000;

/// What would become of the cells of a purpose. A cell is a subject that the ledger knows, and a
/// channel that is not retired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preview {
    /// Cells that were looked at.
    pub cells: u64,
    /// Cells whose effect or reason would change.
    pub flips: Vec<Flips>,
    /// What would become of a subject that the ledger does not know.
    pub unknown_subject: (Reason, Reason),
    /// Version that the purpose would have.
    pub version: u32,
    /// Whether the change would write an entry.
    pub changed: bool,
    /// Revision that was looked at.
    pub revision: u64,
}

/// Cells of one channel that would go from one reason to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flips {
    /// The channel.
    pub channel: Key,
    /// Reason now.
    pub before: Reason,
    /// Reason after the change.
    pub after: Reason,
    /// How many.
    pub count: u64,
}

impl Preview {
    /// How many cells would go from the other effect to this one.
    #[must_use]
    pub fn turned(&self, effect: Effect) -> u64 {
        let turns =
            |flips: &&Flips| flips.before.effect() != effect && flips.after.effect() == effect;
        self.flips.iter().filter(turns).map(|flips| flips.count).sum()
    }
}

/// A question, and the catalogues before and after.
struct Change<'a> {
    before: &'a Catalog,
    after: &'a Catalog,
    purpose: &'a str,
    region: Option<Region>,
    now: crate::domain::Millis,
}

impl Change<'_> {
    fn reasons(&self, state: &SubjectState, channel: &str) -> (Reason, Reason) {
        let ask = |catalog: &Catalog| -> Decision {
            let query = Query::new(catalog, self.purpose, channel, &[], self.region);
            decide(catalog, state, &query, self.now)
        };
        (ask(self.before).reason, ask(self.after).reason)
    }
}

impl Node {
    /// Counts the cells that a change of a purpose would flip, and changes nothing. It reads the
    /// state of every subject. Blocking.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub fn preview(
        &self,
        draft: PurposeDraft,
        region: Option<Region>,
    ) -> Result<Preview, CatalogError> {
        self.core.preview(draft, region)
    }
}

impl Core {
    /// Counts the cells that a change would flip. It reads the state of every subject. Blocking.
    pub(super) fn preview(
        &self,
        draft: PurposeDraft,
        region: Option<Region>,
    ) -> Result<Preview, CatalogError> {
        let applied = self.view.applied();
        let current = self.view.catalog();
        // A catalogue that is newer than what was applied is itself the last entry that counts.
        let revision = applied.max(current.revision);
        let purpose = draft.key.clone();
        let mut changed = CatalogAt::clone(&current);
        let put = purpose_put(&current.catalog, draft).ok();
        if let Some(put) = &put {
            check_put(put)?;
            let place = Place { index: revision, recorded_at: self.now() };
            changed.fold(Fact { place, kind: put });
        }
        let change = Change {
            before: &current.catalog,
            after: &changed.catalog,
            purpose: purpose.as_str(),
            region,
            now: self.now(),
        };
        let channels: Vec<(ChannelId, &Key)> = current
            .catalog
            .channels()
            .filter(|(_, channel)| !channel.retired)
            .map(|(id, channel)| (id, &channel.key))
            .collect();
        let (cells, counts) = self.count(&change, &channels)?;
        let flips = counts.into_iter().map(|((channel, before, after), count)| Flips {
            channel: channels[channel].1.clone(),
            before,
            after,
            count,
        });
        let any_channel = channels.first().map_or("", |(_, key)| key.as_str());
        let version = changed.catalog.purpose_id(change.purpose);
        let version =
            version.and_then(|id| changed.catalog.purpose(id)).map_or(0, Purpose::version);
        Ok(Preview {
            cells,
            flips: flips.collect(),
            unknown_subject: change.reasons(&SubjectState::default(), any_channel),
            version,
            changed: put.is_some(),
            revision,
        })
    }

    fn count(
        &self,
        change: &Change<'_>,
        channels: &[(ChannelId, &Key)],
    ) -> Result<(u64, Counts), ReadError> {
        let mut counts = Counts::new();
        let (mut cells, mut after) = (0, None);
        loop {
            let subjects = self.view.subjects(after, SUBJECTS_STEP)?;
            let Some(last) = subjects.last() else { return Ok((cells, counts)) };
            after = Some(*last);
            for subject in subjects {
                let state = self.view.peek(subject)?;
                for (position, (_, channel)) in channels.iter().enumerate() {
                    cells += 1;
                    let (before, after) = change.reasons(&state, channel.as_str());
                    if before != after {
                        *counts.entry((position, before, after)).or_default() += 1;
                    }
                }
            }
        }
    }
}

/// How many cells go from one reason to another, by position of the channel.
type Counts = BTreeMap<(usize, Reason, Reason), u64>;
