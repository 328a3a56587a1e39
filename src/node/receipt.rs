//! Receipts: an entry with its proof, its evidence and its data subject, signed for the data subject.

use std::collections::BTreeSet;

use super::{Core, IssueError, Node, ReadError};
use crate::{
    domain::{
        Action, Catalog, ChangeRecord, Entry, Identity, Key, Outcome, Purpose, PurposeName,
        PurposeVersion, ScopeKeys, Subject,
    },
    entry::Receipted,
    ledger::envelope,
    receipt::{
        self, FORMAT_VERSION, Format, Issued, PartyText, PurposeText, RECEIPT_BYTES_MAX,
        ReceiptError, StatedParties, Statement,
    },
    tlog::{merkle::ProofError, proof::TlogProof},
    tree::Signed,
};

/// How many earlier entries of a data subject are searched, the latest first, for superseded acts.
const EARLIER_ENTRIES_MAX: usize = 1_000;

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
        let Entry { body, .. } = envelope::decode(&inclusion.entry)?;
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
            evidence_key: receipted
                .evidence
                .map(|sealed| self.core.vault.entry_key(receipted.subject, sealed))
                .transpose()?,
            subject: name.as_str().to_owned(),
            issued_at: self.core.now(),
            parties: parties_of(&catalog.catalog, index, receipted.changes, &purposes),
            purposes,
            supersedes: self.core.superseded(index, &receipted)?,
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
        let purpose = catalog.purpose(catalog.purpose_id(key.as_str())?)?;
        let version = match change.action {
            Action::Grant => change.purpose_version,
            _ => version_before(purpose, index),
        };
        let content = purpose.at_version(version)?;
        Some(PurposeText {
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
    StatedParties::Catalog {
        parties: named.into_iter().filter_map(party).collect(),
        controllers: controllers.iter().cloned().collect(),
    }
}

impl Core {
    /// For each change, the earlier acts that decided a part of its scope until then.
    fn superseded(
        &self,
        index: u64,
        receipted: &Receipted<'_>,
    ) -> Result<Vec<Vec<u64>>, ReadError> {
        let mut searches: Vec<Search> = receipted.changes.iter().map(Search::new).collect();
        let mut indices = self.view.history(receipted.subject, 0, usize::MAX)?;
        indices.retain(|earlier| *earlier < index);
        for earlier in indices.into_iter().rev().take(EARLIER_ENTRIES_MAX) {
            if searches.iter().all(Search::is_complete) {
                break;
            }
            if receipted.confirms.is_some_and(|(request, _)| request == earlier) {
                continue;
            }
            let Entry { body, .. } = self.entry(earlier)?;
            let Some(receipted) = body.kind().receipt() else { continue };
            for search in &mut searches {
                search.add(earlier, receipted.changes);
            }
        }
        Ok(searches.into_iter().map(|search| search.found).collect())
    }
}

/// Searches for the acts that a change superseded, from the latest act back.
struct Search {
    /// The scope of the change; none for a change that superseded nothing.
    scope: Option<ScopeKeys>,
    /// The parts of the scope that later acts have decided.
    covered: Vec<ScopeKeys>,
    found: Vec<u64>,
}

impl Search {
    fn new(change: &ChangeRecord) -> Self {
        let applied = change.outcome == Outcome::Applied;
        let scope = applied.then(|| change.scope.clone());
        Self { scope, covered: Vec::new(), found: Vec::new() }
    }

    fn is_complete(&self) -> bool {
        self.scope.as_ref().is_none_or(|scope| self.covered.contains(scope))
    }

    fn add(&mut self, index: u64, changes: &[ChangeRecord]) {
        let Some(scope) = &self.scope else { return };
        let had_effect = |change: &&ChangeRecord| {
            matches!(change.outcome, Outcome::Applied | Outcome::PendingConfirmation)
        };
        let mut parts: Vec<ScopeKeys> = Vec::new();
        for change in changes.iter().filter(had_effect) {
            let is_new = |part: &ScopeKeys| !self.covered.iter().any(|wide| wide.contains(part));
            parts.extend(overlap(scope, &change.scope).filter(is_new));
        }
        if !parts.is_empty() {
            self.found.push(index);
            self.covered.extend(parts);
        }
    }
}

fn overlap(one: &ScopeKeys, other: &ScopeKeys) -> Option<ScopeKeys> {
    let key = |one: &Option<Key>, other: &Option<Key>| match (one, other) {
        (None, key) | (key, None) => Some(key.clone()),
        (Some(one), Some(other)) => (one == other).then(|| Some(one.clone())),
    };
    let purpose = match (&one.purpose, &other.purpose) {
        (None, name) | (name, None) => name.clone(),
        (Some(one), Some(other)) if one.contains(other) => Some(other.clone()),
        (Some(one), Some(other)) if other.contains(one) => Some(one.clone()),
        (Some(_), Some(_)) => return None,
    };
    Some(ScopeKeys { purpose, channel: key(&one.channel, &other.channel)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(action: Action, purpose: &str, channel: &str, outcome: Outcome) -> ChangeRecord {
        let key = |text: &str| (text != "*").then(|| Key::parse(text).unwrap());
        ChangeRecord {
            action,
            scope: ScopeKeys { purpose: key(purpose).map(Into::into), channel: key(channel) },
            purpose_version: 0,
            expires_at: None,
            data_categories: Vec::new(),
            outcome,
            linked_subjects: 0,
        }
    }

    fn found(change: &ChangeRecord, earlier: &[(u64, ChangeRecord)]) -> Vec<u64> {
        let mut search = Search::new(change);
        for (index, earlier) in earlier {
            if !search.is_complete() {
                search.add(*index, std::slice::from_ref(earlier));
            }
        }
        search.found
    }

    #[test]
    fn a_cell_takes_the_place_of_the_latest_act_about_it() {
        let superseding = change(Action::Withdraw, "news", "email", Outcome::Applied);
        let at = |index, purpose, channel, outcome| {
            (index, change(Action::Grant, purpose, channel, outcome))
        };
        let applied = Outcome::Applied;
        for (earlier, wanted) in [
            (vec![], vec![]),
            (vec![at(4, "news", "email", applied), at(3, "news", "email", applied)], vec![4]),
            (vec![at(4, "news", "sms", applied), at(3, "news", "email", applied)], vec![3]),
            (vec![at(4, "*", "*", applied), at(3, "news", "email", applied)], vec![4]),
            (
                vec![
                    at(5, "news", "email", Outcome::BlockedByStop(4)),
                    at(4, "news", "email", Outcome::NoEffect),
                    at(3, "news", "email", Outcome::PendingConfirmation),
                ],
                vec![3],
            ),
        ] {
            assert_eq!(found(&superseding, &earlier), wanted);
        }
        for outcome in [Outcome::NoEffect, Outcome::BlockedByStop(1), Outcome::PendingConfirmation]
        {
            let superseding = change(Action::Grant, "news", "email", outcome);
            assert!(
                found(&superseding, &[at(3, "news", "email", applied)]).is_empty(),
                "{outcome:?}"
            );
        }
    }

    #[test]
    fn a_wide_stop_takes_the_place_of_every_act_within_it() {
        let superseding = change(Action::Withdraw, "*", "email", Outcome::Applied);
        let at = |index, action, purpose, channel| {
            (index, change(action, purpose, channel, Outcome::Applied))
        };
        let earlier = [
            at(6, Action::Grant, "news", "email"),
            at(5, Action::Withdraw, "news", "*"),
            at(4, Action::Grant, "offers", "email"),
            at(3, Action::Grant, "offers", "sms"),
            at(2, Action::Object, "*", "*"),
            at(1, Action::Grant, "stats", "email"),
        ];
        assert_eq!(found(&superseding, &earlier), [6, 4, 2]);
    }
}
