//! Records of use: which data was used, and whether a decision allowed it.
//!
//! A use is decided by the entries that were recorded when it happened. A later entry with an earlier
//! effective time does not make it a deviation.

use std::sync::Arc;

use super::{
    Node, Question,
    act::Idempotency,
    batch::Batch,
    due::{CountedUses, due},
    effective::claimed,
    error::{UseError, WriteError},
    past::{AsOf, Then},
    writer,
};
use crate::{
    decide::decide,
    domain::{
        Body, Effect, Entry, Key, Millis, ObligationKind, Query, Reason, Region, Subject,
        SubjectRef, SubjectState, UseRecorded,
    },
    fold::UseCell,
};

/// The greatest number of data subjects in one entry. At 16 bytes each they leave 17 KiB of the largest
/// entry, which is enough for a hundred data categories and all names of maximum length.
const SUBJECTS_MAX: usize = 3_000;

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

/// Allowed uses of the data of many data subjects.
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
    /// When.
    pub used_at: Millis,
    /// Reason of the ALLOW.
    pub reason: Reason,
    /// The obligations that are not met, and that the caller ignores.
    pub broken_obligations: Vec<ObligationKind>,
    /// Name of the segment; empty if there is none.
    pub segment: String,
    /// Name of the campaign; empty if there is none.
    pub campaign: String,
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

    /// Records allowed uses, and answers the first revision that includes them all.
    ///
    /// Waits for a place if too many appends are in flight, as imports do: a refused caller would
    /// repeat the audience, and record its first uses twice.
    ///
    /// # Errors
    /// See [`WriteError`]. Some of the uses may be recorded.
    pub async fn record_uses(&self, uses: UseBatch) -> Result<u64, WriteError> {
        let used = UseRecorded {
            purpose: uses.purpose,
            channel: uses.channel,
            used_at: uses.used_at,
            segment: uses.segment,
            campaign: uses.campaign,
            data_categories: uses.data_categories,
            region: uses.region,
            subject_refs: Vec::new(),
            reason: uses.reason,
            broken_obligations: uses.broken_obligations,
            idempotency: None,
        };
        let mut revision = self.revision();
        for subjects in uses.subjects.chunks(SUBJECTS_MAX) {
            let (subjects, used) = (subjects.to_vec(), used.clone());
            let answer = self.queue(move |batch| batch.record_uses(&subjects, used)).await?;
            revision = answer.await.unwrap_or_else(|_| writer::ended_early())?;
        }
        Ok(revision)
    }
}

impl Batch<'_> {
    fn record_use(&mut self, used: Use) -> Result<Used, UseError> {
        let mark = used.idempotency.as_ref().map(|idempotency| self.mark(idempotency));
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
        let sealer = self.sealer(&used.subject, false)?;
        let body = UseRecorded {
            purpose: used.purpose,
            channel: used.channel,
            used_at,
            segment: used.segment,
            campaign: used.campaign,
            data_categories: used.data_categories,
            region: used.region,
            subject_refs: vec![sealer.subject_ref],
            reason,
            broken_obligations: broken_obligations.clone(),
            idempotency: mark,
        };
        let cell = UseCell::new(body.purpose.as_str(), body.channel.as_str());
        let index = self.write(recorded_at, Body::Use(body), &[])?;
        self.remember_uses([sealer.subject_ref], cell, used_at);
        self.keep(sealer, &used.subject);
        let used = Used { index, reason, broken_obligations, replayed: false };
        if used.is_deviation() {
            self.core().metrics.deviations.inc();
        }
        Ok(used)
    }

    /// Adds one entry for the uses of up to [`SUBJECTS_MAX`] data subjects.
    fn record_uses(
        &mut self,
        subjects: &[Subject],
        mut used: UseRecorded,
    ) -> Result<u64, WriteError> {
        let sealers: Result<Vec<_>, _> =
            subjects.iter().map(|subject| self.sealer(subject, false)).collect();
        let sealers = sealers?;
        used.subject_refs = sealers.iter().map(|sealer| sealer.subject_ref).collect();
        // The audience may have been decided while the clock was in doubt.
        used.used_at = used.used_at.min(self.recorded_at());
        let is_deviation = used.is_deviation();
        let (cell, used_at) =
            (UseCell::new(used.purpose.as_str(), used.channel.as_str()), used.used_at);
        let index = self.write(self.recorded_at(), Body::Use(used), &[])?;
        if is_deviation {
            let uses = u64::try_from(sealers.len()).unwrap_or(u64::MAX);
            self.core().metrics.deviations.inc_by(uses);
        }
        self.remember_uses(sealers.iter().map(|sealer| sealer.subject_ref), cell, used_at);
        for (sealer, subject) in sealers.into_iter().zip(subjects) {
            self.keep(sealer, subject);
        }
        Ok(index + 1)
    }

    /// The reason of the decision at the time of the use, and the obligations that the use did not meet.
    /// The current state is used if it was the same then, else the ledger is read.
    ///
    /// Towards limits count all uses that are recorded by now: senders report what they sent later, and
    /// often together.
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
        let subject = self.known(question.subject)?;
        let (state, linked) = match subject {
            Some(subject) => {
                let state = self.state(subject)?;
                (self.whole(subject, &state)?, self.linked(subject, &state)?)
            }
            None => (Arc::default(), Vec::new()),
        };
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
        let due = due(&decision, contact, used.region, used_at, |widest| {
            let mut uses = self.core().uses(&counted, widest, used_at)?;
            uses.extend(counted.person.iter().flat_map(|subject| self.uses_of(*subject, cell)));
            // A use that happened later does not make this one too many.
            uses.retain(|at| *at <= used_at);
            Ok(uses)
        })?;
        Ok((decision.reason, due.broken(used_at)))
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
        Ok(self.entry(last)?.recorded_at <= at)
    }
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
