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
        CANONICAL_FORM_VERSION, Key, LinkConfidence, Namespace, NamespaceKind, Subject,
        SubjectError,
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
        self.core.view.catalog().catalog.subject(given)
    }

    /// Whether a data subject is one of those on record that somebody asked for lately.
    #[must_use]
    pub fn remembers(&self, subject: &Subject) -> bool {
        self.core.vault.remembers(subject)
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
                .write(move |batch| batch.write(batch.recorded_second(), body, &[]))?;
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

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use super::*;
    use crate::{
        domain::{
            Action, Actor, Change, ChannelPut, ContactChange, Evidence, LegalBasis, PurposeVersion,
            Reason, ScopeKeys,
        },
        node::{Act, NodeConfig, PurposeDraft, Question},
        vault::Kek,
    };

    fn key(text: &str) -> Key {
        Key::parse(text).unwrap()
    }

    /// Opens a node as the server does, on a thread without a runtime.
    fn open(dir: &Path) -> Arc<Node> {
        let config = NodeConfig {
            data_dir: dir.to_owned(),
            origin: Some("consent.example.org/test".to_owned()),
            kek: Some(Kek::parse(&"5a".repeat(32)).unwrap()),
            ..NodeConfig::default()
        };
        let open = move || crate::node::open_in_test(&config);
        std::thread::spawn(open).join().unwrap()
    }

    async fn put_catalog(node: &Node) {
        let email = ChannelPut { key: key("email"), title: String::new(), retired: false };
        node.put_channel(email).await.unwrap();
        let content = PurposeVersion {
            title: "News".to_owned(),
            description: String::new(),
            legal_basis: LegalBasis::Consent,
            basis_by_region: std::collections::BTreeMap::new(),
            data_categories: Vec::new(),
            default_validity_ms: None,
            double_opt_in: false,
            obligations: Vec::new(),
            controller: None,
            recipients: None,
        };
        let news = PurposeDraft {
            key: key("news"),
            content,
            oldest_compatible: None,
            requires_reconsent: false,
            retired: false,
        };
        node.put_purpose(news).await.unwrap();
    }

    fn act(subject: &str, action: Action) -> Act {
        let scope = ScopeKeys { purpose: Some(key("news").into()), channel: Some(key("email")) };
        let change = Change {
            action,
            scope,
            purpose_version: None,
            expires_at: None,
            data_categories: Vec::new(),
        };
        Act {
            subject: Subject::parse(subject).unwrap(),
            actor: Actor::Subject,
            changes: vec![change],
            contact: ContactChange::default(),
            effective_at: None,
            evidence: Evidence::default(),
            idempotency: None,
            record_only_news: false,
            confirmation_validity_ms: None,
            reported_late: false,
        }
    }

    fn reason(node: &Node, subject: &str) -> Reason {
        let subject = node.subject(subject).unwrap();
        let question = Question {
            subject: &subject,
            purpose: "news",
            channel: "email",
            data_categories: &[],
            region: None,
            ignore_obligations: false,
        };
        node.check(&question).unwrap().decision.reason
    }

    async fn put(node: &Node, kind: NamespaceKind, form_version: u32) {
        let (key, title) = (key("email"), String::new());
        let body = Body::NamespacePut(NamespacePut(Namespace { key, title, kind, form_version }));
        let write = node.write(move |batch| batch.write(batch.recorded_second(), body, &[]));
        write.await.unwrap();
    }

    #[tokio::test]
    async fn identities_of_another_version_of_the_form_are_joined_before_the_node_serves() {
        let dir = tempfile::tempdir().unwrap();
        let node = open(dir.path());
        put_catalog(&node).await;
        // A version under which the case of an address counted, as it does in opaque ids.
        put(&node, NamespaceKind::Opaque, CANONICAL_FORM_VERSION).await;
        node.record(act("email:kim@x.example", Action::Grant)).await.unwrap();
        node.record(act("email:Kim@x.example", Action::Withdraw)).await.unwrap();
        node.record(act("email:Lee@x.example", Action::Grant)).await.unwrap();
        node.record(act("email:no address", Action::Withdraw)).await.unwrap();
        assert_eq!(reason(&node, "email:kim@x.example"), Reason::Granted);
        let kind = NamespaceKind::Email { fold_local_part: true };
        put(&node, kind, CANONICAL_FORM_VERSION - 1).await;
        node.close();
        drop(node);

        let node = open(dir.path());
        for spelling in ["email:kim@x.example", "email:KIM@X.example"] {
            assert_eq!(reason(&node, spelling), Reason::Withdrawn, "{spelling}");
        }
        assert_eq!(reason(&node, "email:lee@x.example"), Reason::Granted);
        let catalog = node.catalog();
        let namespace = catalog.catalog.namespace("email").unwrap();
        assert_eq!(namespace.form_version, CANONICAL_FORM_VERSION);
        let revision = node.revision();
        node.close();
        drop(node);
        let node = open(dir.path());
        assert_eq!(node.revision(), revision, "there is nothing left to do");
        node.close();
    }
}
