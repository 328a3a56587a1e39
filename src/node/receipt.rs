//! Receipts: an entry with its proof, its evidence and its data subject, signed for the data subject.

use std::collections::BTreeSet;

use super::{IssueError, Node, ReadError};
use crate::{
    domain::{
        Action, Catalog, ChangeRecord, ChannelId, Identity, Key, Purpose, PurposeId, PurposeName,
        PurposeVersion, Subject,
    },
    receipt::{
        self, ChannelText, FORMAT_VERSION, Format, Issued, PartyText, PurposeText,
        RECEIPT_BYTES_MAX, ReceiptError, StatedParties, Statement,
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
        let purposes = purposes_of(&catalog.catalog, index, receipted.changes);
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
            parties: parties_of(&catalog.catalog, index, receipted.changes, &purposes),
            purposes,
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

/// The purposes of an entry, with the text of the catalogue: for a grant in the version that it names, for
/// a stop in the version of its time. Versions never change.
fn purposes_of(catalog: &Catalog, index: u64, changes: &[ChangeRecord]) -> Vec<PurposeText> {
    let text = |change: &ChangeRecord| {
        let key = change.scope.purpose.as_ref()?.as_one()?;
        let id = catalog.purpose_id(key.as_str())?;
        let purpose = catalog.purpose(id)?;
        let version = match change.action {
            Action::Grant => change.purpose_version,
            _ => version_before(purpose, index),
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
            controller: content.controller.as_ref().map(Key::to_string),
            recipients: content.recipients.as_ref().map(|keys| texts(keys)),
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

fn texts(keys: &[Key]) -> Vec<String> {
    keys.iter().map(Key::to_string).collect()
}

/// The version of a purpose that was current before an entry; 0 if there was none.
fn version_before(purpose: &Purpose, index: u64) -> u32 {
    let before = purpose.version_indices.partition_point(|put| *put < index);
    u32::try_from(before).unwrap_or(u32::MAX)
}

/// The parties that the purposes of an entry name, and the controllers of all that its wide stops cover,
/// as the catalogue had them before it.
fn parties_of(
    catalog: &Catalog,
    index: u64,
    changes: &[ChangeRecord],
    purposes: &[PurposeText],
) -> StatedParties {
    let is_wide = |change: &&ChangeRecord| {
        change.scope.purpose.as_ref().is_none_or(|name| name.as_one().is_none())
    };
    let wide: Vec<_> = changes.iter().filter(is_wide).map(|change| &change.scope.purpose).collect();
    let is_covered = |purpose: &&Purpose| {
        let name = PurposeName::One(purpose.key.clone());
        wide.iter().any(|scope| scope.as_ref().is_none_or(|scope| scope.contains(&name)))
    };
    let covered = catalog.purposes().map(|(_, purpose)| purpose).filter(is_covered);
    let of_covered = covered
        .filter_map(|purpose| purpose.at_version(version_before(purpose, index)))
        .filter_map(|content: &PurposeVersion| content.controller.as_ref())
        .map(Key::to_string);
    let of_named = purposes.iter().filter_map(|text| text.controller.clone());
    let controllers: BTreeSet<String> = of_named.chain(of_covered).collect();
    let recipients = purposes.iter().flat_map(|text| text.recipients.iter().flatten());
    let named: BTreeSet<&String> = controllers.iter().chain(recipients).collect();
    let party = |key: &String| PartyText::before(catalog.party(key)?, index);
    StatedParties {
        parties: named.into_iter().filter_map(party).collect(),
        controllers: controllers.iter().cloned().collect(),
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
