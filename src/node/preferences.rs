//! Preferences of a data subject: the decision of every cell, the standing stops, the links.

use std::collections::BTreeMap;

use super::{Node, ReadError};
use crate::{
    decide::decide,
    domain::{
        Catalog, ChannelId, Contact, Decision, Key, LinkConfidence, Millis, PurposeId, Query,
        Region, ScopeKeys, StopKind, Subject, SubjectState,
    },
};

/// The preferences of a data subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preferences {
    /// Cells, ordered by purpose key and channel key.
    pub cells: Vec<CellPreference>,
    /// Standing stops of every scope, by index.
    pub stops: Vec<StandingStop>,
    /// How the data subject wants to be contacted, if it has said so.
    pub contact: Option<Contact>,
    /// Data subjects that are linked to this one.
    pub links: Vec<(Subject, LinkConfidence)>,
    /// The number of entries that the answer takes into account.
    pub revision: u64,
}

/// One cell, and its decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CellPreference {
    /// Purpose key.
    pub purpose: Key,
    /// Channel key.
    pub channel: Key,
    /// The decision of a check.
    pub decision: Decision,
}

/// A standing stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandingStop {
    /// Its kind.
    pub kind: StopKind,
    /// Its scope.
    pub scope: ScopeKeys,
    /// When it took effect.
    pub effective_at: Millis,
    /// Index of its entry.
    pub index: u64,
}

impl Node {
    /// The preferences of a data subject. With `all_cells`, every live purpose and channel of the
    /// catalogue; else only the cells that an act has named.
    ///
    /// # Errors
    /// [`ReadError::StateUnreadable`].
    pub fn preferences(
        &self,
        subject: &Subject,
        all_cells: bool,
        region: Option<Region>,
    ) -> Result<Preferences, ReadError> {
        let (core, now) = (&self.core, self.core.now());
        let find = || Ok::<_, ReadError>(core.vault.find(subject)?);
        let ((mut preferences, linked), revision) =
            core.view.read_linked(find, |catalog, state, linked| {
                (preferences_of(catalog, state, all_cells, region, now), linked.to_vec())
            })?;
        preferences.links = core.linked_identities(linked)?;
        preferences.revision = revision;
        Ok(preferences)
    }
}

/// The preferences that follow from a state, without links and revision.
pub(super) fn preferences_of(
    catalog: &Catalog,
    state: &SubjectState,
    all_cells: bool,
    region: Option<Region>,
    now: Millis,
) -> Preferences {
    let cells = if all_cells { live_cells(catalog) } else { named_cells(catalog, state) };
    let cells = cells.into_iter().map(|((purpose, channel), (purpose_id, channel_id))| {
        let query = Query {
            purpose: Some(purpose_id),
            channel: Some(channel_id),
            data_categories: &[],
            region,
        };
        CellPreference { purpose, channel, decision: decide(catalog, state, &query, now) }
    });
    Preferences {
        cells: cells.collect(),
        stops: standing_stops(catalog, state),
        contact: state.contact.as_deref().cloned(),
        links: Vec::new(),
        revision: 0,
    }
}

/// Cells in the order of their keys.
pub(super) type Cells = BTreeMap<(Key, Key), (PurposeId, ChannelId)>;

/// The cells of all purposes and channels that are not retired.
pub(super) fn live_cells(catalog: &Catalog) -> Cells {
    let mut cells = Cells::new();
    for (purpose_id, purpose) in catalog.purposes().filter(|(_, purpose)| !purpose.retired) {
        for (channel_id, channel) in catalog.channels().filter(|(_, channel)| !channel.retired) {
            let keys = (purpose.key.clone(), channel.key.clone());
            cells.insert(keys, (purpose_id, channel_id));
        }
    }
    cells
}

/// The cells that an act has named.
fn named_cells(catalog: &Catalog, state: &SubjectState) -> Cells {
    let granted = state.cells().iter().map(|cell| (cell.purpose, cell.channel));
    let stopped = state.stops().iter().filter_map(|stop| stop.scope.as_cell());
    let with_keys = granted.chain(stopped).filter_map(|(purpose, channel)| {
        let keys = (catalog.purpose(purpose)?.key.clone(), catalog.channel(channel)?.key.clone());
        Some((keys, (purpose, channel)))
    });
    with_keys.collect()
}

fn standing_stops(catalog: &Catalog, state: &SubjectState) -> Vec<StandingStop> {
    let mut stops: Vec<_> = state
        .stops()
        .iter()
        .map(|stop| StandingStop {
            kind: stop.kind,
            scope: catalog.keys(stop.scope),
            effective_at: stop.mark.effective_at,
            index: stop.mark.index,
        })
        .collect();
    stops.sort_by_key(|stop| stop.index);
    stops
}
