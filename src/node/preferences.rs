//! Preferences of a data subject: the decision of every cell, the standing stops, the links.

use std::collections::BTreeMap;

use super::{
    Core, Node, ReadError,
    check::earlier,
    due::{CountedUses, due},
};
use crate::{
    decide::decide,
    domain::{
        Catalog, ChannelId, Contact, Decision, Effect, Key, LinkConfidence, Millis, PurposeId,
        Query, Region, ScopeKeys, StopKind, Subject, SubjectRef, SubjectState,
    },
    fold::{Linked, UseCell},
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
    /// The decision of the rules.
    pub decision: Decision,
    /// What a check answers: ALLOW means now.
    pub effect: Effect,
    /// First moment at which effect or reason could change with no new entry.
    pub valid_until: Option<Millis>,
    /// With NOT_NOW: the first moment that is permitted, if one is known.
    pub not_before: Option<Millis>,
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
        let subject = core.vault.find(subject)?;
        let asked = Asked { all_cells, region, now, subject, end: u64::MAX };
        let ((preferences, linked), revision) =
            core.view.read_linked(find, |catalog, state, linked| {
                (core.preferences_of(catalog, state, linked, &asked), linked.to_vec())
            })?;
        let mut preferences = preferences?;
        preferences.links = core.linked_identities(linked)?;
        preferences.revision = revision;
        Ok(preferences)
    }
}

/// Whose preferences are asked for, and at which moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    /// Every live cell of the catalogue; else only the cells that an act has named.
    pub(super) all_cells: bool,
    pub(super) region: Option<Region>,
    pub(super) now: Millis,
    /// The data subject, if the ledger knows it.
    pub(super) subject: Option<SubjectRef>,
    /// The uses in entries before this index count.
    pub(super) end: u64,
}

impl Core {
    /// The preferences that follow from a state, without links and revision.
    pub(super) fn preferences_of(
        &self,
        catalog: &Catalog,
        state: &SubjectState,
        linked: &[Linked],
        asked: &Asked,
    ) -> Result<Preferences, ReadError> {
        let cells = if asked.all_cells { live_cells(catalog) } else { named_cells(catalog, state) };
        let cells = cells.into_iter().map(|((purpose, channel), (purpose_id, channel_id))| {
            let query = Query {
                purpose: Some(purpose_id),
                channel: Some(channel_id),
                data_categories: &[],
                region: asked.region,
            };
            let decision = decide(catalog, state, &query, asked.now);
            let contact = state.contact.as_deref();
            let due = due(&decision, contact, asked.region, asked.now, |widest| {
                let cell = UseCell::new(purpose.as_str(), channel.as_str());
                let counted = CountedUses::new(asked.subject, linked, cell, asked.end);
                self.uses(&counted, widest, asked.now)
            })?;
            Ok(CellPreference {
                purpose,
                channel,
                effect: due.effect(decision.effect()),
                valid_until: earlier(decision.valid_until, due.changes_at()),
                not_before: due.not_before,
                decision,
            })
        });
        Ok(Preferences {
            cells: cells.collect::<Result<_, ReadError>>()?,
            stops: standing_stops(catalog, state),
            contact: state.contact.as_deref().cloned(),
            links: Vec::new(),
            revision: 0,
        })
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
