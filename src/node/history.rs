//! The history of a data subject: the entries about it, in ledger order.
//!
//! Each kind of entry makes its line. This module finds the entries and opens sealed evidence and
//! assertions. A link to an erased data subject keeps its line, without the name.

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
    /// Its line.
    pub line: Line,
    /// The opened evidence; none for a kind of entry without evidence.
    pub evidence: Option<Evidence>,
    /// The link that was set or removed.
    pub link: Option<LinkSeen>,
}

/// A link that was set or removed, as one of the two data subjects sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkSeen {
    /// The other data subject.
    pub other: Identity,
    /// Confidence of the link; none if it was removed.
    pub confidence: Option<LinkConfidence>,
    /// Who asserted it; empty if the data subject that it is sealed for is erased.
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
        let core = &self.core;
        let Some(subject_ref) = core.vault.find(subject)? else { return Ok(Vec::new()) };
        let indices = core.view.entries_of(subject_ref, start_index, limit)?;
        indices.into_iter().map(|index| core.history_item(subject_ref, index)).collect()
    }
}

impl Core {
    /// The identities of linked subjects, without erased ones.
    pub(super) fn linked_identities(
        &self,
        linked: Vec<Linked>,
    ) -> Result<Vec<(Subject, LinkConfidence)>, ReadError> {
        let mut identities = Vec::with_capacity(linked.len());
        for Linked { subject, confidence, .. } in linked {
            let identity = self.vault.identity(subject)?.known();
            identities.extend(identity.map(|subject| (subject, confidence)));
        }
        Ok(identities)
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
        let other = self.vault.identity(link.other)?;
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
