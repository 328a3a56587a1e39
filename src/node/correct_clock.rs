//! Correcting the clock: an operator says which entries got their times from a clock that was ahead.
//!
//! One entry says so, and is the whole correction: what was recorded stays, and every state takes the
//! correction over when it is read or folded next. So nothing is half done after a crash, and writers
//! wait for no more than one entry.

use std::{ops::Range, sync::Arc};

use hashbrown::HashSet;
use tracing::warn;

use super::{
    Core, Node,
    batch::Batch,
    error::{CorrectClockError, ImplausibleRange, ReadError},
};
use crate::{
    domain::{Body, ClockCorrected, ClockCorrection, Mark, Millis, SubjectRef},
    entry::Target,
};

/// A correction of the clock as an operator asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorrectClock {
    /// The first entry that the wrong clock gave its time.
    pub first_index: u64,
    /// One more than the last such entry; none means all entries from the first on.
    pub end_index: Option<u64>,
    /// Why.
    pub reason: String,
    /// Whether nothing is written, only the answer is computed.
    pub dry_run: bool,
}

/// The answer to a correction of the clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClockCorrectionOutcome {
    /// Index of the entry, if the ledger has it.
    pub index: Option<u64>,
    /// First revision that includes it; in a dry run, the revision that was read.
    pub revision: u64,
    /// Whether an entry was written; in a dry run, whether it would be.
    pub changed: bool,
    /// The entries that the wrong clock gave their times.
    pub entries: Range<u64>,
    /// The last right time before them.
    pub right_until: Millis,
    /// The first right time after them.
    pub right_again: Millis,
    /// Number of data subjects with acts among these entries.
    pub subjects: u64,
}

/// What the writer says of a correction.
#[derive(Debug)]
struct Written {
    index: Option<u64>,
    revision: u64,
    changed: bool,
    correction: ClockCorrection,
}

impl Node {
    /// Corrects the clock. Writes nothing if it was corrected like this already.
    ///
    /// # Errors
    /// See [`CorrectClockError`]. On error nothing is recorded.
    pub async fn correct_clock(
        &self,
        request: CorrectClock,
    ) -> Result<ClockCorrectionOutcome, CorrectClockError> {
        let written = self.write(move |batch| batch.correct_clock(request)).await?;
        let Written { index, revision, changed, correction } = written;
        let ClockCorrection { entries, right_until, right_again, .. } = correction;
        if let (true, Some(index)) = (changed, index) {
            warn!(index, first = entries.start, end = entries.end, "the clock was corrected");
        }
        let (core, range) = (Arc::clone(&self.core), entries.clone());
        let counted = tokio::task::spawn_blocking(move || core.subjects_within(range)).await;
        let subjects = counted.map_err(|error| ReadError::StateUnreadable(error.to_string()))??;
        Ok(ClockCorrectionOutcome {
            index,
            revision,
            changed,
            entries,
            right_until,
            right_again,
            subjects,
        })
    }
}

impl Core {
    /// The number of data subjects with acts among some entries. Blocking.
    fn subjects_within(&self, mut range: Range<u64>) -> Result<u64, ReadError> {
        let mut subjects: HashSet<SubjectRef> = HashSet::new();
        while !range.is_empty() {
            let entries = self.entries(range.start, range.end)?;
            // A gap must never look like an end.
            if entries.is_empty() {
                let index = range.start;
                return Err(ReadError::StateUnreadable(format!("entry {index} is missing")));
            }
            for (index, bytes) in entries {
                if let Target::Subjects(target) = self.opener.entry(&bytes)?.body.kind().target() {
                    subjects.extend(target.named());
                }
                range.start = index + 1;
            }
        }
        Ok(subjects.len() as u64)
    }
}

impl Batch<'_> {
    /// Adds a correction of the clock. On error the batch is unchanged.
    fn correct_clock(&mut self, request: CorrectClock) -> Result<Written, CorrectClockError> {
        self.check_clock()?;
        let CorrectClock { first_index, end_index, reason, dry_run } = request;
        if let Some(known) = self.corrected_before(first_index, end_index) {
            let index = known.index;
            let correction = known.clone();
            return Ok(Written {
                index: Some(index),
                revision: index + 1,
                changed: false,
                correction,
            });
        }
        let correction = self.plausible(first_index, end_index)?;
        let ClockCorrection { index, recorded_at, entries, right_until, right_again } =
            correction.clone();
        if dry_run {
            return Ok(Written { index: None, revision: index, changed: true, correction });
        }
        let body = ClockCorrected {
            first_index: entries.start,
            end_index: entries.end,
            right_until,
            right_again,
            reason,
        };
        self.write(recorded_at, Body::ClockCorrected(body), &[])?;
        Ok(Written { index: Some(index), revision: index + 1, changed: true, correction })
    }

    /// The correction of the same entries that the ledger has already. Of all entries from the first on,
    /// it is none while the ledger is ahead: the clock jumped once more since.
    fn corrected_before(
        &self,
        first_index: u64,
        end_index: Option<u64>,
    ) -> Option<&ClockCorrection> {
        let is_ahead = self.last_recorded_at > self.clock_now();
        self.catalog().clock_corrections().iter().find(|known| {
            known.entries.start == first_index
                && end_index.map_or(!is_ahead, |end| end == known.entries.end)
        })
    }

    /// The correction of these entries, if it can be right.
    fn plausible(
        &self,
        first_index: u64,
        end_index: Option<u64>,
    ) -> Result<ClockCorrection, CorrectClockError> {
        let (index, now, last) = (self.tip.next_index, self.clock_now(), self.last_recorded_at);
        let beyond =
            |field, named| CorrectClockError::BeyondHead { field, index: named, head: index };
        if first_index >= index {
            return Err(beyond("first_index", first_index));
        }
        let end = end_index.unwrap_or(index);
        if end > index {
            return Err(beyond("end_index", end));
        }
        let is_ahead = last > now;
        let right_again = match (end == index, is_ahead) {
            (true, true) => now,
            // If the caller names it, this entry is the first with a right time.
            (true, false) if end_index.is_some() && last < now => now,
            (true, false) => return Err(ImplausibleRange::NotAhead { head: index }.into()),
            (false, true) => return Err(ImplausibleRange::StillAhead { last, now }.into()),
            (false, false) => self.entry_time(end)?,
        };
        let corrections = self.catalog().clock_corrections();
        // A ledger that is ahead gives entries the time of the entry before, until it is corrected.
        let is_corrected = corrections.iter().any(|known| known.index == end);
        if end < index && !is_corrected && right_again <= self.entry_time(end - 1)? {
            return Err(ImplausibleRange::EndStandsStill { index: end }.into());
        }
        let before = first_index.saturating_sub(1);
        let before = Mark { effective_at: self.entry_time(before)?, index: before };
        let right_until = self.catalog().earliest(before, u64::MAX).effective_at;
        let first = self.entry_time(first_index)?;
        if right_until > right_again {
            return Err(ImplausibleRange::BeginsEarlier { index: before.index }.into());
        }
        if first <= before.effective_at || is_ahead && first <= now {
            return Err(ImplausibleRange::FirstNotAhead { index: first_index }.into());
        }
        // Only the clock of an earlier correction that was ahead itself may be corrected with it.
        let time_of =
            |known: &ClockCorrection| self.catalog().recorded_by(known.index, known.recorded_at);
        let held = corrections.iter().find(|known| {
            (first_index..end).contains(&known.index) && time_of(known) <= right_again
        });
        if let Some(&ClockCorrection { index, .. }) = held {
            return Err(ImplausibleRange::HoldsCorrection { index }.into());
        }
        // Entries in clear have whole seconds.
        let recorded_at = if is_ahead { now.second() } else { self.recorded_second() };
        Ok(ClockCorrection {
            index,
            recorded_at,
            entries: first_index..end,
            right_until,
            right_again,
        })
    }

    /// When an entry was recorded, by the corrections that the ledger has.
    fn entry_time(&self, index: u64) -> Result<Millis, CorrectClockError> {
        Ok(self.catalog().recorded_by(index, self.entry(index)?.recorded_at))
    }
}
