//! The record of use: what was done with data, and whether a decision allowed it.
//!
//! A use is judged by what was known when it happened. What is recorded later, about a time before,
//! does not make a deviation of it.

use std::sync::Arc;

use super::{
    Node, Question,
    act::Idempotency,
    batch::{Batch, claimed},
    error::{UseError, WriteError},
    past::AsOf,
    writer,
};
use crate::{
    decide::decide,
    domain::{
        Body, Effect, Entry, IdempotencyMark, Key, Millis, Query, Reason, Region, Subject,
        SubjectRef, SubjectState, UseRecorded,
    },
};

/// The greatest number of data subjects in one entry. With 16 bytes each they leave 17 KiB of the
/// largest entry, which is more than a hundred data categories and all names take at their longest.
const SUBJECTS_MAX: usize = 3_000;

/// One use of one data subject's data.
#[derive(Debug, Clone)]
pub struct Use {
    /// Whose data.
    pub subject: Subject,
    /// For what.
    pub purpose: Key,
    /// Over which channel.
    pub channel: Key,
    /// Data categories that were used; empty if the caller names none.
    pub data_categories: Vec<String>,
    /// Region that was asked about.
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

/// Uses that decisions allowed, of many data subjects at once.
#[derive(Debug, Clone)]
pub struct UseBatch {
    /// Whose data.
    pub subjects: Vec<Subject>,
    /// For what.
    pub purpose: Key,
    /// Over which channel.
    pub channel: Key,
    /// Data categories that were used; empty if the caller names none.
    pub data_categories: Vec<String>,
    /// Region that was asked about.
    pub region: Option<Region>,
    /// When.
    pub used_at: Millis,
    /// What a check answered: the ALLOW that they rest on.
    pub reason: Reason,
    /// Name of the segment; empty if there is none.
    pub segment: String,
    /// Name of the campaign; empty if there is none.
    pub campaign: String,
}

/// What became of a use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Used {
    /// Index of the entry.
    pub index: u64,
    /// What a check answered when the data was used.
    pub reason: Reason,
    /// Whether an earlier call with the same idempotency key recorded it.
    pub replayed: bool,
}

impl Used {
    /// Whether no decision allowed the use.
    #[must_use]
    pub fn is_deviation(&self) -> bool {
        self.reason.effect() == Effect::Deny
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

    /// Records uses that decisions allowed, and answers the first revision that includes them all.
    ///
    /// In a busy moment it waits for a place, as imports do and among theirs: whoever repeated an
    /// audience after a refusal would record the uses of its beginning twice.
    ///
    /// # Errors
    /// See [`WriteError`]. Some of the uses may be recorded.
    pub async fn record_uses(&self, uses: UseBatch) -> Result<u64, WriteError> {
        let mut revision = self.revision();
        for subjects in uses.subjects.chunks(SUBJECTS_MAX) {
            let part = UseBatch { subjects: subjects.to_vec(), ..uses.clone_without_subjects() };
            self.core.check_writable()?;
            let place = self.admission.place_of_import().await?;
            let answer =
                self.admission.admit(&self.core, move |batch| batch.record_uses(part), place)?;
            revision = answer.await.unwrap_or_else(|_| writer::ended_early())?;
        }
        Ok(revision)
    }
}

impl UseBatch {
    fn clone_without_subjects(&self) -> Self {
        Self {
            subjects: Vec::new(),
            purpose: self.purpose.clone(),
            channel: self.channel.clone(),
            data_categories: self.data_categories.clone(),
            segment: self.segment.clone(),
            campaign: self.campaign.clone(),
            ..*self
        }
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
        let used_at = claimed(used.used_at, recorded_at);
        let used_at = used_at.map_err(|_ahead| UseError::InFuture)?;
        let reason = self.reason_then(&used, used_at)?;
        let sealer = self.sealer(&used.subject, false)?;
        let subject = used.subject.clone();
        let body = recorded(used, used_at, vec![sealer.subject_ref], reason, mark);
        let index = self.write(recorded_at, Body::Use(body), &[])?;
        self.keep(sealer, &subject);
        let used = Used { index, reason, replayed: false };
        if used.is_deviation() {
            self.core().metrics.deviations.inc();
        }
        Ok(used)
    }

    fn record_uses(&mut self, uses: UseBatch) -> Result<u64, WriteError> {
        let mut sealers = Vec::with_capacity(uses.subjects.len());
        for subject in &uses.subjects {
            sealers.push((self.sealer(subject, false)?, subject.clone()));
        }
        let body = UseRecorded {
            purpose: uses.purpose,
            channel: uses.channel,
            used_at: uses.used_at,
            segment: uses.segment,
            campaign: uses.campaign,
            data_categories: uses.data_categories,
            region: uses.region,
            subject_refs: sealers.iter().map(|(sealer, _)| sealer.subject_ref).collect(),
            reason: uses.reason,
            idempotency: None,
        };
        let index = self.write(self.recorded_at(), Body::Use(body), &[])?;
        for (sealer, subject) in sealers {
            self.keep(sealer, &subject);
        }
        Ok(index + 1)
    }

    /// What a check answered when the data was used: by the state of now, if all of it was known
    /// then, else by the ledger.
    fn reason_then(&self, used: &Use, used_at: Millis) -> Result<Reason, WriteError> {
        let question = Question {
            subject: &used.subject,
            purpose: used.purpose.as_str(),
            channel: used.channel.as_str(),
            data_categories: &used.data_categories,
            region: used.region,
        };
        let state = match self.known(question.subject)? {
            Some(subject) => self.whole(subject, &self.state(subject)?)?,
            None => Arc::default(),
        };
        if !self.was_known(&state, used_at)? {
            let checked = self.core().check_at(&question, AsOf::RecordedAt(used_at));
            let checked =
                checked.map_err(|error| WriteError::StateUnreadable(error.to_string()))?;
            return Ok(checked.decision.reason);
        }
        let Question { purpose, channel, data_categories, region, .. } = question;
        let query = Query::new(self.catalog(), purpose, channel, data_categories, region);
        Ok(decide(self.catalog(), &state, &query, used_at).reason)
    }

    /// Whether a state and the catalogue were what they are by a time. Entries are in the order in
    /// which they were recorded, so the last one tells. Most uses are reported soon after they
    /// happened: they must not keep the writer with a search of the ledger.
    fn was_known(&self, state: &SubjectState, at: Millis) -> Result<bool, WriteError> {
        if at == self.recorded_at() {
            return Ok(true);
        }
        let last = state.revision.max(self.catalog_revision()).saturating_sub(1);
        Ok(self.entry(last)?.recorded_at <= at)
    }
}

fn recorded(
    used: Use,
    used_at: Millis,
    subject_refs: Vec<SubjectRef>,
    reason: Reason,
    idempotency: Option<IdempotencyMark>,
) -> UseRecorded {
    UseRecorded {
        purpose: used.purpose,
        channel: used.channel,
        used_at,
        segment: used.segment,
        campaign: used.campaign,
        data_categories: used.data_categories,
        region: used.region,
        subject_refs,
        reason,
        idempotency,
    }
}

/// The answer that a use on record was given.
fn used_before(entry: Entry) -> Result<Used, WriteError> {
    let Entry { index, body, .. } = entry;
    let Body::Use(used) = body else {
        return Err(WriteError::IdempotencyKeyReused { index });
    };
    Ok(Used { index, reason: used.reason, replayed: true })
}
