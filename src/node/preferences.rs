//! Preferences of a data subject: the decision of every cell, the standing stops, the links.
//!
//! Acts of linked data subjects count here too. Each line says whose act it is, and [`Naming`] says
//! which names the answer may give away.

use std::collections::{BTreeMap, HashMap};

use super::{
    Core, Node, ReadError,
    check::earlier,
    due::{CountedUses, due},
    read::AskedAt,
};
use crate::{
    decide::decide,
    domain::{
        Catalog, ChannelId, Contact, Decision, Effect, Identity, Key, LinkConfidence, Millis,
        PurposeId, Query, Region, ScopeKeys, StopKind, Subject, SubjectRef, SubjectState,
    },
    fold::{Linked, UseCell},
};

/// Which linked data subjects an answer names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// Those that are the same person by the links of today. The answer may be handed to that person.
    SamePerson,
    /// All of them. The answer is for services and staff.
    Everybody,
}

/// The name of a linked data subject, as far as an answer may give it away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// The name.
    Known(Subject),
    /// The data subject is erased.
    Erased,
    /// The name of somebody who may be another person.
    Withheld,
}

impl Name {
    /// The name, if it may be given away.
    #[must_use]
    pub fn known(&self) -> Option<&Subject> {
        match self {
            Self::Known(subject) => Some(subject),
            Self::Erased | Self::Withheld => None,
        }
    }
}

/// A data subject that is linked to the one asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkedName {
    /// Its reference.
    pub subject_ref: SubjectRef,
    /// `Verified` if verified links alone lead there.
    pub confidence: LinkConfidence,
    /// Its name.
    pub name: Name,
}

/// Whose act it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// That of the data subject asked about.
    Asked,
    /// That of a linked data subject, see [`Preferences::links`].
    Linked(SubjectRef),
}

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
    pub links: Vec<LinkedName>,
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
    /// Whose act decided; none if no act did.
    pub whose: Option<Whose>,
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
    /// Whose act it is.
    pub whose: Option<Whose>,
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
        naming: Naming,
    ) -> Result<Preferences, ReadError> {
        let (core, at) = (&self.core, self.core.asked_now());
        let find = || Ok::<_, ReadError>(core.vault.find(subject)?);
        let subject = core.vault.find(subject)?;
        let asked = Asked { all_cells, region, at, subject, end: u64::MAX };
        let ((preferences, linked), revision) =
            core.view.read_linked(find, |catalog, state, linked| {
                (core.preferences_of(catalog, state, linked, &asked), linked.to_vec())
            })?;
        let mut preferences = preferences?;
        preferences.links = core.linked_names(&linked, &same_person(&linked), naming)?;
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
    pub(super) at: AskedAt,
    /// The data subject, if the ledger knows it.
    pub(super) subject: Option<SubjectRef>,
    /// The uses in entries before this index count.
    pub(super) end: u64,
}

/// Those among linked data subjects that are the same person.
fn same_person(linked: &[Linked]) -> Vec<SubjectRef> {
    let verified = linked.iter().filter(|linked| linked.confidence == LinkConfidence::Verified);
    verified.map(|linked| linked.subject).collect()
}

impl Core {
    /// The names of linked data subjects, where those of `same_person` are known to be the same person
    /// today.
    pub(super) fn linked_names(
        &self,
        linked: &[Linked],
        same_person: &[SubjectRef],
        naming: Naming,
    ) -> Result<Vec<LinkedName>, ReadError> {
        let name = |linked: &Linked| {
            let Linked { subject: subject_ref, confidence, .. } = *linked;
            let is_same =
                confidence == LinkConfidence::Verified && same_person.contains(&subject_ref);
            let name = self.name(subject_ref, naming == Naming::Everybody || is_same)?;
            Ok(LinkedName { subject_ref, confidence, name })
        };
        linked.iter().map(name).collect()
    }

    /// The other names of the same person, by the links of today.
    pub(super) fn same_person_today(
        &self,
        subject: &Subject,
    ) -> Result<Vec<SubjectRef>, ReadError> {
        let Some(subject_ref) = self.vault.find(subject)? else { return Ok(Vec::new()) };
        Ok(same_person(&self.view.linked(subject_ref)?))
    }

    /// The name of a linked data subject, if it may be given away.
    pub(super) fn name(&self, subject: SubjectRef, is_named: bool) -> Result<Name, ReadError> {
        Ok(match self.vault.identity(subject)? {
            Identity::Erased => Name::Erased,
            Identity::Known(subject) if is_named => Name::Known(subject),
            Identity::Known(_) => Name::Withheld,
        })
    }

    /// The preferences that follow from a state, without links and revision.
    pub(super) fn preferences_of(
        &self,
        catalog: &Catalog,
        state: &SubjectState,
        linked: &[Linked],
        asked: &Asked,
    ) -> Result<Preferences, ReadError> {
        let owners = Owners::of(state, linked);
        let cells = if asked.all_cells { live_cells(catalog) } else { named_cells(catalog, state) };
        let cells = cells.into_iter().map(|((purpose, channel), (purpose_id, channel_id))| {
            let query = Query {
                purpose: Some(purpose_id),
                channel: Some(channel_id),
                data_categories: &[],
                region: asked.region,
            };
            let decision = decide(catalog, state, &query, asked.at.at);
            let contact = state.contact.as_deref();
            let due = due(&decision, contact, asked.region, asked.at.due_at, |widest| {
                let cell = UseCell::new(purpose.as_str(), channel.as_str());
                let counted = CountedUses::new(asked.subject, linked, cell, asked.end);
                self.uses(&counted, widest, asked.at.due_at)
            })?;
            Ok(CellPreference {
                purpose,
                channel,
                effect: due.effect(decision.effect()),
                valid_until: earlier(decision.valid_until, due.changes_at()),
                not_before: due.not_before,
                whose: decision.decided_by.and_then(|index| owners.of_act(index)),
                decision,
            })
        });
        Ok(Preferences {
            cells: cells.collect::<Result<_, ReadError>>()?,
            stops: standing_stops(catalog, state, &owners),
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

/// Whose the acts are that a united state rests on, by index. An act is about one data subject alone.
struct Owners(HashMap<u64, Whose>);

impl Owners {
    fn of(state: &SubjectState, linked: &[Linked]) -> Self {
        let asked = state.rests_on().map(|index| (index, Whose::Asked));
        let linked = linked.iter().flat_map(|linked| {
            linked.state.rests_on().map(|index| (index, Whose::Linked(linked.subject)))
        });
        Self(asked.chain(linked).collect())
    }

    /// Whose act it is; none for an entry that is no act, for example of the catalogue.
    fn of_act(&self, index: u64) -> Option<Whose> {
        self.0.get(&index).copied()
    }
}

fn standing_stops(catalog: &Catalog, state: &SubjectState, owners: &Owners) -> Vec<StandingStop> {
    let mut stops: Vec<_> = state
        .stops()
        .iter()
        .map(|stop| StandingStop {
            kind: stop.kind,
            scope: catalog.keys(stop.scope),
            effective_at: stop.mark.effective_at,
            index: stop.mark.index,
            whose: owners.of_act(stop.mark.index),
        })
        .collect();
    stops.sort_by_key(|stop| stop.index);
    stops
}
