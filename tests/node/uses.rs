//! Recorded uses in one node: many data subjects at once.

use consent_ledger::{
    domain::{LegalBasis, PurposeVersion},
    history::LineKind,
    node::{Naming, Node, PurposeDraft, UseBatch, UsesRecorded},
};

use crate::support::node::{key, open, put_catalog, subject};

fn uses(subjects: usize, data_categories: Vec<String>) -> UseBatch {
    UseBatch {
        subjects: (0..subjects).map(|number| subject(&format!("user:{number}"))).collect(),
        purpose: key("invoices"),
        channel: key("email"),
        data_categories,
        region: None,
        ignore_obligations: false,
        segment: "s".repeat(128),
        campaign: "c".repeat(128),
    }
}

fn uses_of(node: &Node, number: usize) -> usize {
    let history =
        node.history(&subject(&format!("user:{number}")), 0, 10, Naming::SamePerson).unwrap();
    history.iter().filter(|item| item.line.kind == LineKind::Use).count()
}

#[tokio::test]
async fn many_uses_are_split_into_entries_below_the_size_limit() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path());
    put_catalog(&node).await;
    let content = PurposeVersion {
        title: String::new(),
        description: String::new(),
        legal_basis: LegalBasis::Contract,
        basis_by_region: std::collections::BTreeMap::new(),
        data_categories: Vec::new(),
        default_validity_ms: None,
        double_opt_in: false,
        obligations: Vec::new(),
        controller: None,
        recipients: None,
    };
    let draft = PurposeDraft {
        key: key("invoices"),
        content,
        oldest_compatible: None,
        requires_reconsent: false,
        retired: false,
    };
    node.put_purpose(draft).await.unwrap();
    // As many and as long as a request may have them.
    let many = (0..100).map(|number| format!("{number:0>128}")).collect();
    for (data_categories, entries) in [(Vec::new(), 4), (many, 4)] {
        let before = node.revision();
        let recorded = node.record_uses(uses(4_000, data_categories)).await.unwrap();
        let revision = recorded.revision;
        assert!(recorded.refused.is_empty());
        assert_eq!((node.revision(), revision - before), (revision, entries));
    }
    assert_eq!(node.subjects(), 4_000);
    for number in [0, 999, 1_000, 3_999] {
        assert_eq!(uses_of(&node, number), 2, "user:{number}");
    }
    let before = node.revision();
    assert_eq!(
        node.record_uses(uses(0, Vec::new())).await,
        Ok(UsesRecorded { revision: before, refused: Vec::new() }),
        "without uses there is no entry"
    );
}
