//! Namespaces and the canonical form of their ids: the door for callers, the rule that a namespace with
//! persons keeps its kind, and the step from one version of the form to the next.
//!
//! A program of another version of the form would not find who is on record under the old form: a stop
//! would be lost. So before it serves, [`Node::renew_forms`] makes the new form of every identity and
//! links it with the old one as the same person. Nothing is dropped: history, evidence and stops stay
//! where they are, and count for both.

use tracing::info;

use super::{CatalogError, LinkError, Linking, NamespaceDraft, Node, Put, ReadError, WriteError};
use crate::{
    domain::{
        CANONICAL_FORM_VERSION, GivenSubject, Key, LinkConfidence, Namespace, NamespaceKind,
        Subject, SubjectError,
    },
    entry::{Body, NamespacePut},
};

/// Who asserts the links between two forms of one identity.
const ASSERTED_BY: &str = "consent-ledger: canonical form";

/// How many data subjects are looked at between two lines of the log.
const LOGGED_EVERY: u64 = 10_000;

/// What is known of the persons of a namespace.
#[derive(Debug, Clone, Copy, Default)]
pub struct NamespaceUse {
    /// How many data subjects of the vault were looked at. The writer looks at those after them.
    pub(super) searched: u64,
    /// Whether one of them is of the namespace.
    pub(super) is_used: bool,
}

impl Node {
    /// The data subject that a caller means by a text.
    ///
    /// # Errors
    /// The catalogue lacks the namespace, or its kind has no such id.
    pub fn subject(&self, given: &str) -> Result<Subject, SubjectError> {
        let given = GivenSubject::parse(given)?;
        self.core.view.catalog().catalog.subject(&given)
    }

    /// Whether a namespace has persons, as far as a change to a draft depends on it. Blocking: it may read
    /// the whole vault.
    ///
    /// # Errors
    /// An identity can not be read.
    pub fn namespace_use(&self, draft: &NamespaceDraft) -> Result<NamespaceUse, ReadError> {
        let catalog = self.catalog();
        let existing = catalog.catalog.namespace(draft.key.as_str());
        if existing.is_none_or(|existing| existing.kind == draft.kind) {
            return Ok(NamespaceUse::default());
        }
        let searched = self.core.vault.subjects();
        let is_of = |subject: &Subject| subject.namespace() == draft.key.as_str();
        Ok(NamespaceUse { searched, is_used: self.core.vault.has_person_since(0, is_of)? })
    }

    /// Adds or changes a namespace; writes nothing if nothing differs.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub async fn put_namespace(
        &self,
        draft: NamespaceDraft,
        known_use: NamespaceUse,
    ) -> Result<Put<Namespace>, CatalogError> {
        self.write(move |batch| batch.put_namespace(draft, known_use)).await
    }

    /// Brings the identities of namespaces whose form has another version into the form of this program.
    /// Blocking. It may be stopped and begun again: what is linked stays linked, and a namespace has the
    /// new version once all of its persons are done.
    ///
    /// `progress` is told how many data subjects of the vault were looked at, and how many there are.
    ///
    /// # Errors
    /// Vault or ledger can not be read or written.
    pub fn renew_forms(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<(), WriteError> {
        let catalog = self.catalog();
        let is_old = |namespace: &&Namespace| namespace.form_version != CANONICAL_FORM_VERSION;
        let old: Vec<Namespace> = catalog.catalog.namespaces().filter(is_old).cloned().collect();
        if old.is_empty() {
            return Ok(());
        }
        let total = self.core.vault.subjects();
        let mut joined = 0_u64;
        for (done, found) in (1..=total).zip(self.core.vault.identities(0)) {
            let (_, identity) = found?;
            if let Some(subject) = identity.known()
                && let Some(namespace) =
                    old.iter().find(|old| old.key.as_str() == subject.namespace())
            {
                joined += u64::from(self.renew_form(namespace.kind, subject)?);
            }
            progress(done, total);
            if done % LOGGED_EVERY == 0 {
                info!(done, total, joined, "bringing identities into their new canonical form");
            }
        }
        for namespace in old {
            let renewed = Namespace { form_version: CANONICAL_FORM_VERSION, ..namespace };
            info!(namespace = %renewed.key, version = renewed.form_version, joined, "identities have a new canonical form");
            let body = Body::NamespacePut(NamespacePut(renewed));
            self.admission
                .jobs()
                .write(move |batch| batch.write(batch.recorded_at(), body, &[]))?;
        }
        Ok(())
    }

    /// Links a data subject with its form of today, and answers whether they differed.
    fn renew_form(&self, kind: NamespaceKind, subject: Subject) -> Result<bool, WriteError> {
        let Ok(namespace) = Key::parse(subject.namespace()) else { return Ok(false) };
        // An id that this version can not read keeps its form: nobody can ask for another one.
        let Ok(renewed) = Subject::canonical(&namespace, kind, subject.id()) else {
            return Ok(false);
        };
        if renewed == subject {
            return Ok(false);
        }
        let linking = Linking {
            subject,
            other: renewed,
            confidence: Some(LinkConfidence::Verified),
            asserted_by: ASSERTED_BY.to_owned(),
            dry_run: false,
        };
        let linked = self.admission.jobs().write(move |batch| batch.link_subjects(&linking));
        match linked {
            Ok(_) => Ok(true),
            Err(LinkError::Write(error)) => Err(error),
            Err(other) => Err(WriteError::StateUnreadable(other.to_string())),
        }
    }
}
