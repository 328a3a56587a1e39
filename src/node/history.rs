//! What is on record about a data subject, entry by entry.

use super::{
    Core,
    error::ReadError,
    question::{History, HistoryItem},
};
use crate::{
    domain::{
        Body, Entry, Evidence, IdempotencyMark, LinkChange, LinkConfidence, Sealed, Subject,
        SubjectRef,
    },
    ledger::{chain, entry},
    view::Linked,
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

    /// Who linked subjects are.
    pub(super) fn named(
        &self,
        linked: Vec<Linked>,
    ) -> Result<Vec<(Subject, LinkConfidence)>, ReadError> {
        let named = |linked: Linked| Ok((self.vault.identity(linked.subject)?, linked.confidence));
        linked.into_iter().map(named).collect()
    }

    fn history_item(&self, subject: SubjectRef, index: u64) -> Result<HistoryItem, ReadError> {
        let bytes = self.entry_bytes(index)?;
        let Entry { recorded_at, body, .. } = entry::decode(&bytes)?;
        let what = match body {
            Body::Act(act) => History::Act {
                evidence: self.evidence(
                    subject,
                    act.idempotency.as_ref(),
                    act.evidence.as_ref(),
                )?,
                act: Box::new(act),
            },
            Body::Confirmed(own) => History::Confirmed {
                evidence: self.evidence(
                    subject,
                    own.idempotency.as_ref(),
                    own.evidence.as_ref(),
                )?,
                confirmed: Box::new(own),
            },
            Body::Expired(expired) => History::Expired(expired),
            Body::Link(link) => self.link_of(subject, &link)?,
            Body::Use(used) => History::Use(Box::new(used)),
            Body::Opened(_) | Body::PurposePut(_) | Body::ChannelPut(_) | Body::Subscription(_) => {
                let what = format!("entry {index} is about no data subject");
                return Err(ReadError::StateUnreadable(what));
            }
        };
        Ok(HistoryItem { index, recorded_at, entry_hash: chain::hash(&bytes), what })
    }

    fn link_of(&self, subject: SubjectRef, link: &LinkChange) -> Result<History, ReadError> {
        let other = if link.subject_ref == subject { link.other_ref } else { link.subject_ref };
        let asserted_by = match &link.asserted_by {
            None => String::new(),
            Some(sealed) => {
                let opened = self.vault.open_assertion(link.subject_ref, sealed)?;
                String::from_utf8_lossy(&opened).into_owned()
            }
        };
        let other = self.vault.identity(other)?;
        Ok(History::Link { other, confidence: link.confidence, asserted_by })
    }

    fn evidence(
        &self,
        subject: SubjectRef,
        mark: Option<&IdempotencyMark>,
        sealed: Option<&Sealed>,
    ) -> Result<Evidence, ReadError> {
        let Some(sealed) = sealed else { return Ok(Evidence::default()) };
        let opened = self.vault.open_evidence(subject, mark, sealed)?;
        Ok(entry::decode_evidence(&opened)?)
    }
}
