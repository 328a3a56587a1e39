//! Receipts: an entry with its proof, its evidence and its data subject, signed for the data subject.

use super::{Core, IssueError, Node, ReadError};
use crate::{
    domain::{Action, Catalog, ChangeRecord, ChannelId, Identity, PurposeId, Subject},
    receipt::{
        self, ChannelText, FORMAT_VERSION, Format, Issued, PurposeText, RECEIPT_BYTES_MAX,
        ReceiptError, Statement,
    },
    tlog::{merkle::ProofError, proof::TlogProof},
    tree::Signed,
};

impl Node {
    /// The receipt of an act or a confirmation, under a checkpoint that covers it. If a data subject is
    /// given, the act must be theirs. Blocking.
    ///
    /// # Errors
    /// See [`IssueError`]; the act of another data subject gives [`IssueError::ActUnknown`].
    pub fn receipt(
        &self,
        index: u64,
        signed: &Signed,
        subject: Option<&Subject>,
        format: Format,
    ) -> Result<Issued, IssueError> {
        let inclusion = self.inclusion(index, signed.size(), None)?;
        if inclusion.root != signed.root() {
            return Err(ReadError::StateUnreadable(ProofError::Root.to_string()).into());
        }
        let body = self.core.opener.entry(&inclusion.entry)?.body;
        let receipted = body.kind().receipt().ok_or(IssueError::NotAnAct { index })?;
        let field = if subject.is_some() { "subject" } else { "act" };
        if let Some(subject) = subject
            && self.core.vault.find(subject)? != Some(receipted.subject)
        {
            return Err(IssueError::ActUnknown { field });
        }
        // An erased data subject gets no receipt.
        let Identity::Known(name) = self.core.vault.identity(receipted.subject)? else {
            return Err(IssueError::ActUnknown { field });
        };
        let opening = self.core.opener.opening(&inclusion.entry, receipted.subject)?;
        let catalog = self.core.view.catalog();
        let statement = Statement {
            format_version: FORMAT_VERSION,
            ledger_id: self.core.ledger.ledger_id,
            proof: TlogProof {
                extra: None,
                index,
                path: inclusion.path,
                checkpoint: signed.checkpoint.clone(),
            },
            entry: inclusion.entry,
            slot: opening.slot,
            record_key: opening.record_key,
            evidence_key: opening.evidence_key,
            subject: name.as_str().to_owned(),
            identity_key: opening.identity_key,
            issued_at: self.core.now(),
            controller: self.controller.clone(),
            purposes: self.core.purposes_of(index, receipted.changes),
            channels: channels_of(&catalog.catalog, receipted.changes),
        };
        let issued = receipt::issue(&statement, format, &self.core.checkpoints.key);
        issued.map_err(|error| match error {
            ReceiptError::NotAnAct { index } => IssueError::NotAnAct { index },
            ReceiptError::TooLong { bytes } => {
                IssueError::TooLong { bytes, limit: RECEIPT_BYTES_MAX }
            }
            error => ReadError::StateUnreadable(error.to_string()).into(),
        })
    }
}

impl Core {
    /// The purposes of an entry, with the text of the catalogue: for a grant in the version that it
    /// names, for a stop in the version of its time. Versions never change.
    fn purposes_of(&self, index: u64, changes: &[ChangeRecord]) -> Vec<PurposeText> {
        let current = self.view.catalog();
        let text = |change: &ChangeRecord| {
            let key = change.scope.purpose.as_ref()?.as_one()?;
            let id = current.catalog.purpose_id(key.as_str())?;
            let purpose = current.catalog.purpose(id)?;
            let version = match change.action {
                Action::Grant => change.purpose_version,
                _ => {
                    let before = purpose.version_indices.iter().take_while(|at| **at < index);
                    u32::try_from(before.count()).unwrap_or(u32::MAX)
                }
            };
            let content = purpose.at_version(version)?;
            let PurposeId(place) = id;
            Some(PurposeText {
                number: place + 1,
                key: key.to_string(),
                version,
                index: *purpose.version_indices.get(usize::try_from(version).ok()? - 1)?,
                title: content.title.clone(),
                description: content.description.clone(),
                legal_basis: content.legal_basis,
                data_categories: content.data_categories.clone(),
            })
        };
        let mut texts: Vec<PurposeText> = Vec::new();
        for text in changes.iter().filter_map(text) {
            if !texts.iter().any(|other| other.key == text.key && other.version == text.version) {
                texts.push(text);
            }
        }
        texts
    }
}

/// The channels of changes, each once.
fn channels_of(catalog: &Catalog, changes: &[ChangeRecord]) -> Vec<ChannelText> {
    let mut texts: Vec<ChannelText> = Vec::new();
    for key in changes.iter().filter_map(|change| change.scope.channel.as_ref()) {
        let Some(ChannelId(place)) = catalog.channel_id(key.as_str()) else { continue };
        let text = ChannelText { number: place + 1, key: key.to_string() };
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    texts
}
