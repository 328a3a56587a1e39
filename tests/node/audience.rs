//! An audience answers as of one revision, while entries are being written.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use consent_ledger::{
    domain::{Millis, Reason},
    node::{Act, AudienceQuery, Node, PurposeDraft},
};

use crate::support::node::{draft, grant, key, open, put_catalog, subject, withdraw};

fn query() -> AudienceQuery {
    AudienceQuery {
        purpose: key("newsletter"),
        channel: key("email"),
        data_categories: Vec::new(),
        region: None,
        ignore_obligations: false,
    }
}

/// Four entries, sent at once: the purpose retires, a withdrawal, the purpose is reinstated, a
/// grant.
async fn cycle(node: &Node, at: Millis) {
    let retired = PurposeDraft { retired: true, ..draft("Newsletter") };
    let at = |act, after_ms| Act { effective_at: Some(at.plus_ms(after_ms)), ..act };
    let (one, two, three, four) = tokio::join!(
        node.put_purpose(retired),
        node.record(at(withdraw("user:1"), 1)),
        node.put_purpose(draft("Newsletter")),
        node.record(at(grant("user:1"), 2)),
    );
    assert!(one.unwrap().changed && three.unwrap().changed);
    two.unwrap();
    four.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audience_sees_catalogue_and_states_of_its_revision() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path());
    put_catalog(&node).await;
    let base = Millis::now().plus_ms(-3_600_000);
    node.record(Act { effective_at: Some(base), ..grant("user:1") }).await.unwrap();
    let start = node.revision();
    let done = Arc::new(AtomicBool::new(false));
    let reader = std::thread::spawn({
        let (node, done) = (Arc::clone(&node), Arc::clone(&done));
        move || {
            let who = subject("user:1");
            let mut seen = [0_u32; 4];
            while !done.load(Ordering::Relaxed) {
                let audience = node.audience(query());
                let turn = usize::try_from((audience.revision() - start) % 4).unwrap();
                let reasons = [
                    Reason::Granted,
                    Reason::PurposeRetired,
                    Reason::PurposeRetired,
                    Reason::Withdrawn,
                ];
                for _ in 0..3 {
                    assert_eq!(
                        audience.decide(&who).unwrap().checked.decision.reason,
                        reasons[turn]
                    );
                    std::thread::yield_now();
                }
                seen[turn] += 1;
            }
            seen
        }
    });
    for round in 0..300 {
        cycle(&node, base.plus_ms(2 * round)).await;
    }
    done.store(true, Ordering::Relaxed);
    let seen = reader.join().unwrap();
    assert!(seen.iter().filter(|count| **count > 0).count() > 1, "{seen:?}");
}
