//! Records of use: which data was used, and whether a decision allowed it.
//!
//! A use is decided by the entries that were recorded when it happened. A later entry with an earlier
//! effective time does not make it a deviation. The uses of an audience are decided once more as they are
//! recorded: an audience is of one moment, and a stop or a use may have been recorded since.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use rand::seq::SliceRandom as _;

use super::{
    Checked, Node, Question,
    act::Idempotency,
    batch::{Batch, Sealer, mark},
    due::{CountedUses, due},
    effective::claimed,
    error::{ReadError, UseError, WriteError},
    past::{AsOf, Then},
    writer,
};
use crate::{
    decide::decide,
    domain::{
        Body, Effect, Entry, FrequencyCap, Key, Millis, ObligationKind, Query, Reason, Region,
        Subject, SubjectRef, SubjectState, UseRecorded,
    },
    fold::{Linked, UseCell, unite},
    obligations::overspends,
};

/// The greatest number of data subjects in one write. The writer decides all of them, and other calls
/// wait so long. They fit into one entry, beside a hundred data categories and all names of maximum
/// length.
const SUBJECTS_MAX: usize = 1_000;

/// One use of one data subject's data.
#[derive(Debug, Clone)]
pub struct Use {
    /// The data subject.
    pub subject: Subject,
    /// Purpose key.
    pub purpose: Key,
    /// Channel key.
    pub channel: Key,
    /// Data categories that were used; empty if the caller names none.
    pub data_categories: Vec<String>,
    /// Region of the data subject.
    pub region: Option<Region>,
    /// When; none means now.
    pub used_at: Option<Millis>,
    /// Name of the segment; empty if there is none.
    pub segment: String,
    /// Name of the campaign; empty if there is none.
    pub campaign: String,
    /// The caller's key, if it gave one.
    pub idempotency: Option<Idempotency>,
}

/// Uses, at this moment, of the data of many data subjects.
#[derive(Debug, Clone)]
pub struct UseBatch {
    /// The data subjects.
    pub subjects: Vec<Subject>,
    /// Purpose key.
    pub purpose: Key,
    /// Channel key.
    pub channel: Key,
    /// Data categories that were used; empty if the caller names none.
    pub data_categories: Vec<String>,
    /// Region of the data subject.
    pub region: Option<Region>,
    /// Whether obligations that are not met leave an ALLOW as it is.
    pub ignore_obligations: bool,
    /// Name of the segment; empty if there is none.
    pub segment: String,
    /// Name of the campaign; empty if there is none.
    pub campaign: String,
}

/// The uses of many data subjects that are recorded, and those that are not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsesRecorded {
    /// The first revision that includes all of them.
    pub revision: u64,
    /// The data subjects that are not allowed at this moment, by position, with the decision. Their use is
    /// not recorded.
    pub refused: Vec<(usize, Checked)>,
}

/// A use that is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Used {
    /// Index of the entry.
    pub index: u64,
    /// Reason of the decision at the time of the use.
    pub reason: Reason,
    /// The obligations that the use did not meet.
    pub broken_obligations: Vec<ObligationKind>,
    /// Whether an earlier call with the same idempotency key recorded it.
    pub replayed: bool,
}

impl Used {
    /// Whether no decision allowed the use, or it did not meet an obligation.
    #[must_use]
    pub fn is_deviation(&self) -> bool {
        self.reason.effect() == Effect::Deny || !self.broken_obligations.is_empty()
    }
}

impl Node {
    /// Records a use, and whether a decision allowed it.
    ///
    /// # Errors
    /// See [`UseError`].
    pub async fn record_use(&self, used: Use) -> Result<Used, UseError> {
        self.write(move |batch| batch.record_use(used)).await
    }

    /// Records the uses of those data subjects that are allowed at this moment.
    ///
    /// Waits for a place if too many appends are in flight, as imports do: a refused caller would
    /// repeat the audience, and record its first uses twice.
    ///
    /// # Errors
    /// See [`WriteError`]. Some of the uses may be recorded.
    pub async fn record_uses(&self, mut uses: UseBatch) -> Result<UsesRecorded, WriteError> {
        let subjects = std::mem::take(&mut uses.subjects);
        let order = random_order(&subjects);
        let mut all = UsesRecorded { revision: self.revision(), refused: Vec::new() };
        for part in order.chunks(SUBJECTS_MAX) {
            let of_part = part.iter().filter_map(|position| subjects.get(*position)).cloned();
            let uses = UseBatch { subjects: of_part.collect(), ..uses.clone() };
            let answer = self.queue(move |batch| batch.record_uses(&uses)).await?;
            let recorded = answer.await.unwrap_or_else(|_| writer::ended_early())?;
            all.revision = recorded.revision;
            let refused = recorded.refused.into_iter();
            all.refused.extend(refused.filter_map(|(place, checked)| {
                part.get(place).map(|position| (*position, checked))
            }));
        }
        all.refused.sort_unstable_by_key(|(position, _)| *position);
        Ok(all)
    }
}

/// The positions of data subjects in a random order, so that an entry does not tell the places in a list.
/// Those of one data subject keep their order.
fn random_order(subjects: &[Subject]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..subjects.len()).collect();
    order.shuffle(&mut rand::rng());
    let mut positions: HashMap<&Subject, VecDeque<usize>> = HashMap::new();
    for (position, subject) in subjects.iter().enumerate() {
        positions.entry(subject).or_default().push_back(position);
    }
    let of = |position: usize| positions.get_mut(subjects.get(position)?)?.pop_front();
    order.into_iter().filter_map(of).collect()
}

impl Batch<'_> {
    fn record_use(&mut self, used: Use) -> Result<Used, UseError> {
        let sealer = self.sealer(&used.subject)?;
        let mark = used.idempotency.as_ref().map(|it| mark(&sealer.person, it));
        if let Some(entry) = self.written_before(mark.as_ref())? {
            return Ok(used_before(entry)?);
        }
        let catalog = self.catalog();
        if catalog.purpose_id(used.purpose.as_str()).is_none() {
            return Err(UseError::UnknownPurpose { key: used.purpose });
        }
        if catalog.channel_id(used.channel.as_str()).is_none() {
            return Err(UseError::UnknownChannel { key: used.channel });
        }
        let recorded_at = self.recorded_at();
        // While the clock is in doubt, the caller's may be the right one.
        let is_clock_right = self.check_clock().is_ok();
        let used_at = used.used_at.map(|at| if is_clock_right { at } else { at.min(recorded_at) });
        let used_at = claimed(used_at, recorded_at, self.earliest());
        let used_at = used_at.map_err(UseError::UsedAt)?;
        let (reason, broken_obligations) = self.judged_then(&used, used_at)?;
        let body = UseRecorded {
            purpose: used.purpose,
            channel: used.channel,
            used_at,
            segment: used.segment,
            campaign: used.campaign,
            data_categories: used.data_categories,
            region: used.region,
            subject_refs: vec![sealer.subject_ref()],
            reason,
            broken_obligations: broken_obligations.clone(),
            idempotency: mark,
        };
        let cell = UseCell::new(body.purpose.as_str(), body.channel.as_str());
        let index = self.write(recorded_at, Body::Use(body), &[&sealer])?;
        self.remember_uses([sealer.subject_ref()], cell, used_at);
        self.keep(sealer);
        let used = Used { index, reason, broken_obligations, replayed: false };
        if used.is_deviation() {
            self.core().metrics.deviations.inc();
        }
        Ok(used)
    }

    /// Adds the uses of up to [`SUBJECTS_MAX`] data subjects, one entry for those that are allowed for the
    /// same reason and break the same obligations.
    fn record_uses(&mut self, uses: &UseBatch) -> Result<UsesRecorded, WriteError> {
        let now = self.recorded_at();
        let mut refused = Vec::new();
        let mut allowed: BTreeMap<_, Vec<Sealer>> = BTreeMap::new();
        for (position, subject) in uses.subjects.iter().enumerate() {
            let checked = self.check_use(uses, subject, now)?;
            if checked.effect == Effect::Allow {
                let group = (checked.decision.reason, checked.due.broken(now));
                allowed.entry(group).or_default().push(self.sealer(subject)?);
            } else {
                refused.push((position, checked));
            }
        }
        for ((reason, broken_obligations), used) in allowed {
            let body = UseRecorded {
                purpose: uses.purpose.clone(),
                channel: uses.channel.clone(),
                used_at: now,
                segment: uses.segment.clone(),
                campaign: uses.campaign.clone(),
                data_categories: uses.data_categories.clone(),
                region: uses.region,
                subject_refs: used.iter().map(Sealer::subject_ref).collect(),
                reason,
                broken_obligations,
                idempotency: None,
            };
            self.write_uses(body, used)?;
        }
        Ok(UsesRecorded { revision: self.tip.next_index, refused })
    }

    fn write_uses(&mut self, body: UseRecorded, used: Vec<Sealer>) -> Result<(), WriteError> {
        let cell = UseCell::new(body.purpose.as_str(), body.channel.as_str());
        let (used_at, is_deviation) = (body.used_at, body.is_deviation());
        let named: Vec<&Sealer> = used.iter().collect();
        self.write(self.recorded_at(), Body::Use(body), &named)?;
        if is_deviation {
            let uses = u64::try_from(used.len()).unwrap_or(u64::MAX);
            self.core().metrics.deviations.inc_by(uses);
        }
        self.remember_uses(used.iter().map(Sealer::subject_ref), cell, used_at);
        for sealer in used {
            self.keep(sealer);
        }
        Ok(())
    }

    /// The decision on a use at this moment, by all that is recorded, also in this batch.
    fn check_use(
        &self,
        uses: &UseBatch,
        subject: &Subject,
        now: Millis,
    ) -> Result<Checked, WriteError> {
        let (purpose, channel) = (uses.purpose.as_str(), uses.channel.as_str());
        let Known { subject, state, linked } = self.state_known(subject)?;
        let query =
            Query::new(self.catalog(), purpose, channel, &uses.data_categories, uses.region);
        let decision = decide(self.catalog(), &state, &query, now);
        let counted = CountedUses::new(subject, &linked, UseCell::new(purpose, channel), u64::MAX);
        let due = due(&decision, state.contact.as_deref(), uses.region, now, |widest| {
            self.uses_known(&counted, widest, now)
        })?;
        let revision = self.tip.next_index;
        Ok(Checked::new(decision, due, uses.ignore_obligations, revision, None))
    }

    /// The state of a data subject after the batch, united with the linked ones.
    fn state_known(&self, subject: &Subject) -> Result<Known, WriteError> {
        let Some(subject) = self.known(subject)? else { return Ok(Known::default()) };
        let state = self.state(subject)?;
        let linked = self.linked(subject, &state)?;
        let state = if linked.is_empty() { state } else { Arc::new(unite(&state, &linked)) };
        Ok(Known { subject: Some(subject), state, linked })
    }

    /// The reason of the decision at the time of the use, and the obligations that the use did not meet.
    /// The current state is used if it was the same then, else the ledger is read.
    ///
    /// Towards limits count all uses that are recorded by now, earlier and later ones: senders report
    /// what they sent later, often together, and not always in order.
    fn judged_then(
        &self,
        used: &Use,
        used_at: Millis,
    ) -> Result<(Reason, Vec<ObligationKind>), WriteError> {
        let question = Question {
            subject: &used.subject,
            purpose: used.purpose.as_str(),
            channel: used.channel.as_str(),
            data_categories: &used.data_categories,
            region: used.region,
            ignore_obligations: false,
        };
        let cell = UseCell::new(question.purpose, question.channel);
        let Known { subject, state, linked } = self.state_known(question.subject)?;
        let (decision, state, mut counted) = if self.was_known(&state, used_at)? {
            let Question { purpose, channel, data_categories, region, .. } = question;
            let query = Query::new(self.catalog(), purpose, channel, data_categories, region);
            let decision = decide(self.catalog(), &state, &query, used_at);
            (decision, state, CountedUses::new(subject, &linked, cell, u64::MAX))
        } else {
            let past = self.core().past(AsOf::RecordedAt(used_at))?;
            let Then { decision, state, counted } = self.core().decided_then(&question, &past)?;
            (decision, Arc::new(state), counted)
        };
        counted.end = u64::MAX;
        let contact = state.contact.as_deref();
        let mut recorded = Vec::new();
        let due = due(&decision, contact, used.region, used_at, |widest| {
            recorded = self.uses_known(&counted, widest, used_at)?;
            Ok(recorded.iter().copied().filter(|at| *at <= used_at).collect())
        })?;
        let mut broken = due.broken(used_at);
        if overspends(&due, &recorded, used_at) {
            broken.push(ObligationKind::FrequencyLimit);
            broken.sort_unstable();
            broken.dedup();
        }
        Ok((decision.reason, broken))
    }

    /// The moments of the uses that count: all after `at`, and those before it as far back as a limit
    /// reaches.
    fn uses_known(
        &self,
        counted: &CountedUses,
        widest: FrequencyCap,
        at: Millis,
    ) -> Result<Vec<Millis>, ReadError> {
        let mut uses = self.core().uses(counted, widest, at)?;
        uses.extend(counted.person.iter().flat_map(|subject| self.uses_of(*subject, counted.cell)));
        Ok(uses)
    }

    /// Keeps the uses of an entry, which the view does not show before the batch is written.
    fn remember_uses(
        &mut self,
        subjects: impl IntoIterator<Item = SubjectRef>,
        cell: UseCell,
        used_at: Millis,
    ) {
        for subject in subjects {
            self.uses.entry((subject, cell)).or_default().push(used_at);
        }
    }

    /// The uses in this batch.
    fn uses_of(&self, subject: SubjectRef, cell: UseCell) -> &[Millis] {
        self.uses.get(&(subject, cell)).map_or(&[], Vec::as_slice)
    }

    /// Whether a state and the catalogue are the same as at a time. Entries are in the order of their
    /// time, so only the last one is read. Most uses are reported soon after they happened, and must
    /// not make the writer search the ledger.
    fn was_known(&self, state: &SubjectState, at: Millis) -> Result<bool, WriteError> {
        if at == self.recorded_at() {
            return Ok(true);
        }
        let last = state.revision.max(self.catalog_revision()).saturating_sub(1);
        let recorded_at = self.entry(last)?.recorded_at;
        let has_milliseconds = recorded_at != recorded_at.second();
        // Without them, it was recorded at any time of its second.
        Ok(if has_milliseconds { recorded_at } else { recorded_at.end_of_second() } <= at)
    }
}

/// What a batch knows of a data subject.
#[derive(Default)]
struct Known {
    /// None if it is not on record.
    subject: Option<SubjectRef>,
    /// United with the linked ones.
    state: Arc<SubjectState>,
    linked: Vec<Linked>,
}

/// The answer to a use that is recorded already.
fn used_before(entry: Entry) -> Result<Used, WriteError> {
    let Entry { index, body, .. } = entry;
    let Body::Use(used) = body else {
        return Err(WriteError::IdempotencyKeyReused { index });
    };
    let UseRecorded { reason, broken_obligations, .. } = used;
    Ok(Used { index, reason, broken_obligations, replayed: true })
}
