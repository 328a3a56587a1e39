//! The history of a data subject: the entries about it, in ledger order.
//!
//! Each kind of entry makes its line. This module finds the entries, opens them, and opens their evidence. A link to an erased data subject keeps its line, without the name; so does one to
//! somebody who is not the same person by today's verified links, in an answer for the person.

use super::{Core, Name, Naming, Node, ReadError};
use crate::{
    domain::{Evidence, LinkConfidence, Millis, Subject, SubjectRef},
    history::{Line, LinkLine},
    ledger::chain,
};

/// One entry of a data subject's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryItem {
    /// Index of the entry.
    pub index: u64,
    /// When the ledger recorded it.
    pub recorded_at: Millis,
    /// `hash(index)`.
    pub entry_hash: [u8; 32],
    /// Its line.
    pub line: Line,
    /// The opened evidence; none for a kind of entry without evidence.
    pub evidence: Option<Evidence>,
    /// The link that was set or removed.
    pub link: Option<LinkSeen>,
    /// Index of the entry that corrects the clock which gave this one its time.
    pub clock_corrected_by: Option<u64>,
}

/// A link that was set or removed, as one of the two data subjects sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkSeen {
    /// The other data subject.
    pub other: Name,
    /// Whether it is the same person, as links stand now.
    pub same_person: bool,
    /// Confidence of the link; none if it was removed.
    pub confidence: Option<LinkConfidence>,
    /// Who asserted it.
    pub asserted_by: String,
}

impl Node {
    /// Up to `limit` entries about a data subject from `start_index` on, in ledger order. Blocking.
    ///
    /// # Errors
    /// [`ReadError::StateUnreadable`].
    pub fn history(
        &self,
        subject: &Subject,
        start_index: u64,
        limit: usize,
        naming: Naming,
    ) -> Result<Vec<HistoryItem>, ReadError> {
        let core = &self.core;
        let Some(subject_ref) = core.vault.find(subject)? else { return Ok(Vec::new()) };
        let indices = core.view.entries_of(subject_ref, start_index, limit)?;
        let same_person = core.same_person_today(subject)?;
        let reader = Reader { core, subject: subject_ref, same_person, naming };
        indices.into_iter().map(|index| reader.item(index)).collect()
    }
}

/// Reads the entries of one data subject.
struct Reader<'a> {
    core: &'a Core,
    subject: SubjectRef,
    /// The other names of the same person, as links stand now.
    same_person: Vec<SubjectRef>,
    naming: Naming,
}

impl Reader<'_> {
    fn item(&self, index: u64) -> Result<HistoryItem, ReadError> {
        let bytes = self.core.entry_bytes(index)?;
        let entry = self.core.opener.entry(&bytes)?;
        let line = entry.body.kind().line(entry.fact().place, self.subject).ok_or_else(|| {
            ReadError::StateUnreadable(format!("entry {index} is about no data subject"))
        })?;
        let evidence = line.has_evidence.then(|| self.core.opener.evidence(&bytes, self.subject));
        let link = line.link.as_ref().map(|link| self.link_seen(link));
        Ok(HistoryItem {
            index,
            recorded_at: entry.recorded_at,
            entry_hash: chain::hash(&bytes),
            evidence: evidence.transpose()?,
            link: link.transpose()?,
            clock_corrected_by: self.clock_corrected_by(index),
            line,
        })
    }

    fn clock_corrected_by(&self, index: u64) -> Option<u64> {
        let catalog = self.core.view.catalog();
        let mut corrections = catalog.catalog.clock_corrections().iter();
        let correction = corrections.find(|correction| correction.entries.contains(&index));
        correction.map(|correction| correction.index)
    }

    fn link_seen(&self, link: &LinkLine) -> Result<LinkSeen, ReadError> {
        let same_person = self.same_person.contains(&link.other);
        let is_named = same_person || self.naming == Naming::Everybody;
        let other = self.core.name(link.other, is_named)?;
        let asserted_by = link.asserted_by.clone();
        Ok(LinkSeen { other, same_person, confidence: link.confidence, asserted_by })
    }
}
