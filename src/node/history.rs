//! What is on record about a data subject, entry by entry.
//!
//! A kind of entry gives its line; here it is found, and what is sealed in it is opened. Of a link to
//! a data subject that was erased the line stays, without the name.

use super::{Core, Node, ReadError};
use crate::{
    domain::{Evidence, Identity, LinkConfidence, Millis, Subject, SubjectRef},
    entry::decode_evidence,
    fold::Linked,
    history::{Line, LinkLine, SealedEvidence},
    ledger::{chain, envelope},
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
    /// What it says.
    pub line: Line,
    /// What was shown, opened; none where no evidence belongs.
    pub evidence: Option<Evidence>,
    /// With whom the data subject was linked, or no longer.
    pub link: Option<LinkSeen>,
}

/// A link, or its end, as one of the two sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkSeen {
    /// The other one.
    pub other: Identity,
    /// How sure it is; none if they were unlinked.
    pub confidence: Option<LinkConfidence>,
    /// Who says so; empty if nobody can read that any more.
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
    ) -> Result<Vec<HistoryItem>, ReadError> {
        self.core.history(subject, start_index, limit)
    }
}

impl Core {
    /// Entries about a subject. Blocking.
    pub(super) fn history(
        &self,
        subject: &Subject,
        start_index: u64,
        limit: usize,
    ) -> Result<Vec<HistoryItem>, ReadError> {
        let Some(subject_ref) = self.vault.find(subject)? else { return Ok(Vec::new()) };
        let indices = self.view.entries_of(subject_ref, start_index, limit)?;
        indices.into_iter().map(|index| self.history_item(subject_ref, index)).collect()
    }

    /// Who linked subjects are; those who are erased are left out.
    pub(super) fn named(
        &self,
        linked: Vec<Linked>,
    ) -> Result<Vec<(Subject, LinkConfidence)>, ReadError> {
        let mut named = Vec::with_capacity(linked.len());
        for Linked { subject, confidence, .. } in linked {
            let name = self.vault.identity(subject)?.known();
            named.extend(name.map(|name| (name, confidence)));
        }
        Ok(named)
    }

    fn history_item(&self, subject: SubjectRef, index: u64) -> Result<HistoryItem, ReadError> {
        let bytes = self.entry_bytes(index)?;
        let entry = envelope::decode(&bytes)?;
        let line = entry.body.kind().line(entry.fact().place, subject).ok_or_else(|| {
            ReadError::StateUnreadable(format!("entry {index} is about no data subject"))
        })?;
        let evidence = line.evidence.as_ref().map(|sealed| self.evidence(subject, sealed));
        let link = line.link.as_ref().map(|link| self.link_seen(link));
        Ok(HistoryItem {
            index,
            recorded_at: entry.recorded_at,
            entry_hash: chain::hash(&bytes),
            evidence: evidence.transpose()?,
            link: link.transpose()?,
            line,
        })
    }

    fn link_seen(&self, link: &LinkLine) -> Result<LinkSeen, ReadError> {
        let asserted_by = match &link.asserted_by {
            None => None,
            Some(sealed) => self.vault.open_assertion(link.sealed_for, sealed)?,
        };
        let asserted_by = asserted_by
            .map_or_else(String::new, |opened| String::from_utf8_lossy(&opened).into_owned());
        let other: Identity = self.vault.identity(link.other)?;
        Ok(LinkSeen { other, confidence: link.confidence, asserted_by })
    }

    fn evidence(
        &self,
        subject: SubjectRef,
        evidence: &SealedEvidence,
    ) -> Result<Evidence, ReadError> {
        let Some(sealed) = &evidence.sealed else { return Ok(Evidence::default()) };
        let opened = self.vault.open_evidence(subject, evidence.idempotency.as_ref(), sealed)?;
        Ok(decode_evidence(&opened)?)
    }
}
