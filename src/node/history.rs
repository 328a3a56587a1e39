//! What is on record about a data subject, entry by entry.
//!
//! A kind of entry gives its line; here it is found, and what is sealed in it is opened. Of a link to
//! a data subject that was erased the line stays, without the name.

use super::{
    Core,
    error::ReadError,
    question::{HistoryItem, LinkSeen},
};
use crate::{
    domain::{Evidence, Identity, LinkConfidence, Subject, SubjectRef},
    entry::decode_evidence,
    fold::Linked,
    history::{LinkLine, SealedEvidence},
    ledger::{chain, envelope},
};

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
