//! The way of a question: look the subject up, take what is true together, decide.

use std::{collections::BTreeMap, sync::atomic::Ordering};

use super::{
    Core,
    error::ReadError,
    question::{CellPreference, Checked, Checkpoint, Preferences, Question, StandingStop},
};
use crate::{
    decide::decide,
    domain::{
        Catalog, ChannelId, Contact, Decision, Effect, Entry, FrequencyCap, Key, LinkConfidence,
        Millis, Obligation, PurposeId, Query, Region, Subject, SubjectState,
    },
    ledger::{chain, entry},
    obligations::{self, DueAll},
    view::UseCell,
};

/// About how many bytes of entries are read for one answer.
const READ_BYTES: usize = 1 << 20;

impl Core {
    /// The moment at which questions are decided: the machine's now, but never before the last
    /// entry. A clock that is set back does not bring expired grants back.
    pub(super) fn now(&self) -> Millis {
        Millis::now().max(Millis(self.recorded_at_ms.load(Ordering::Relaxed)))
    }

    /// Answers "may I?".
    pub(super) fn check(&self, question: &Question<'_>, now: Millis) -> Result<Checked, ReadError> {
        let ((decision, contact), revision) =
            self.read(question.subject, |catalog: &Catalog, state: &SubjectState| {
                let query = Query::new(
                    catalog,
                    question.purpose,
                    question.channel,
                    question.data_categories,
                    question.region,
                );
                let decision = decide(catalog, state, &query, now);
                let is_allow = decision.effect() == Effect::Allow;
                (decision, state.contact.clone().filter(|_| is_allow))
            })?;
        self.metrics.decision(decision.reason);
        let due = self.due(question, &decision, contact.as_deref(), now)?;
        Ok(Checked { decision, due, revision, token: None })
    }

    /// What comes with an ALLOW. Most have nothing to say, and that costs nothing.
    fn due(
        &self,
        question: &Question<'_>,
        decision: &Decision,
        contact: Option<&Contact>,
        now: Millis,
    ) -> Result<DueAll, ReadError> {
        if decision.obligations.is_empty() && contact.is_none() {
            return Ok(DueAll::default());
        }
        let uses = match widest_limit(decision, contact) {
            Some(widest) => self.recent_uses(question, widest, now)?,
            None => Vec::new(),
        };
        Ok(obligations::due(&decision.obligations, contact, question.region, &uses, now))
    }

    /// When the subject's data was used for the cell, under this name and those that are verified to
    /// be the same person; as far back, and as many under each name, as can spend a limit.
    fn recent_uses(
        &self,
        question: &Question<'_>,
        widest: FrequencyCap,
        now: Millis,
    ) -> Result<Vec<Millis>, ReadError> {
        let Some(subject) = self.vault.find(question.subject)? else { return Ok(Vec::new()) };
        let cell = UseCell::new(question.purpose, question.channel);
        let since = Millis(now.0.saturating_sub(widest.period_ms));
        let limit = usize::try_from(widest.uses_max).unwrap_or(usize::MAX);
        let uses_of = |subject| self.view.uses(subject, cell, since, now, limit);
        let mut uses = uses_of(subject)?;
        for linked in self.view.linked(subject)? {
            if linked.confidence == LinkConfidence::Verified {
                uses.extend(uses_of(linked.subject)?);
            }
        }
        Ok(uses)
    }

    /// What is known of a subject, and what a check of each cell answers.
    pub(super) fn preferences(
        &self,
        subject: &Subject,
        all_cells: bool,
        region: Option<Region>,
        now: Millis,
    ) -> Result<Preferences, ReadError> {
        let find = || Ok::<_, ReadError>(self.vault.find(subject)?);
        let ((mut preferences, linked), revision) =
            self.view.read_linked(find, |catalog, state, linked| {
                (preferences_of(catalog, state, all_cells, region, now), linked.to_vec())
            })?;
        preferences.links = self.named(linked)?;
        preferences.revision = revision;
        Ok(preferences)
    }

    /// Size and chain hash of the ledger. Blocking.
    pub(super) fn checkpoint(&self) -> Result<Checkpoint, ReadError> {
        let size = self.view.applied();
        let bytes = self.entry_bytes(size.saturating_sub(1))?;
        Ok(Checkpoint {
            origin: self.ledger.origin.clone(),
            ledger_id: self.ledger.ledger_id,
            size,
            chain_hash: chain::hash(&bytes),
            recorded_at: entry::decode(&bytes)?.recorded_at,
        })
    }

    /// The exact bytes of entries. Blocking.
    pub(super) fn entries(&self, start: u64, end: u64) -> Result<Vec<(u64, Vec<u8>)>, ReadError> {
        let head = self.view.applied();
        if start > head {
            return Err(ReadError::IndexOutOfRange { index: start, head });
        }
        let end = end.min(head);
        if start >= end {
            return Ok(Vec::new());
        }
        Ok((start..).zip(self.backend.read(start, end, READ_BYTES)?).collect())
    }

    /// One entry. Blocking.
    pub(super) fn entry(&self, index: u64) -> Result<Entry, ReadError> {
        Ok(entry::decode(&self.entry_bytes(index)?)?)
    }

    pub(super) fn entry_bytes(&self, index: u64) -> Result<Vec<u8>, ReadError> {
        let mut entries = self.backend.read(index, index + 1, READ_BYTES)?;
        entries.pop().ok_or(ReadError::IndexOutOfRange { index, head: self.view.applied() })
    }

    fn read<T>(
        &self,
        subject: &Subject,
        question: impl FnOnce(&Catalog, &SubjectState) -> T,
    ) -> Result<(T, u64), ReadError> {
        self.view.read(|| Ok::<_, ReadError>(self.vault.find(subject)?), question)
    }
}

/// The longest period and the greatest number of uses of all limits that apply; none if none does.
fn widest_limit(decision: &Decision, contact: Option<&Contact>) -> Option<FrequencyCap> {
    let of_purpose = decision.obligations.iter().filter_map(|obligation| match *obligation {
        Obligation::FrequencyLimit { uses_max, period_ms } => {
            Some(FrequencyCap { uses_max, period_ms })
        }
        Obligation::QuietHours { .. } => None,
    });
    of_purpose.chain(contact.and_then(Contact::frequency_limit)).reduce(|one, other| FrequencyCap {
        uses_max: one.uses_max.max(other.uses_max),
        period_ms: one.period_ms.max(other.period_ms),
    })
}

/// What a state says of each cell, and of the stops.
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

/// Cells by key, so that answers are ordered for people.
pub(super) type Cells = BTreeMap<(Key, Key), (PurposeId, ChannelId)>;

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
