//! Recorded uses in one node: many data subjects at once.

use consent_ledger::{
    domain::{Millis, Reason},
    history::LineKind,
    node::{Node, UseBatch},
};

use crate::support::node::{key, open, put_catalog, subject};

fn uses(subjects: usize, data_categories: Vec<String>) -> UseBatch {
    UseBatch {
        subjects: (0..subjects).map(|number| subject(&format!("user:{number}"))).collect(),
        purpose: key("newsletter"),
        channel: key("email"),
        data_categories,
        region: None,
        used_at: Millis::now(),
        reason: Reason::Granted,
        segment: "s".repeat(128),
        campaign: "c".repeat(128),
    }
}

fn uses_of(node: &Node, number: usize) -> usize {
    let history = node.history(&subject(&format!("user:{number}")), 0, 10).unwrap();
    history.iter().filter(|item| item.line.kind == LineKind::Use).count()
}

#[tokio::test]
async fn many_uses_are_split_into_entries_below_the_size_limit() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path());
    put_catalog(&node).await;
    // As many and as long as a request may have them.
    let many = (0..100).map(|number| format!("{number:0>128}")).collect();
    for (data_categories, entries) in [(Vec::new(), 2), (many, 2)] {
        let before = node.revision();
        let revision = node.record_uses(uses(4_000, data_categories)).await.unwrap();
        assert_eq!((node.revision(), revision - before), (revision, entries));
    }
    assert_eq!(node.subjects(), 4_000);
    for number in [0, 2_999, 3_499, 3_500, 3_999] {
        assert_eq!(uses_of(&node, number), 2, "user:{number}");
    }
    let before = node.revision();
    assert_eq!(
        node.record_uses(uses(0, Vec::new())).await,
        Ok(before),
        "without uses there is no entry"
    );
}
