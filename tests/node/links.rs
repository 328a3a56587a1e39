//! Linked subjects in one process: reads while acts are written, and several changes in one batch.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use consent_ledger::{
    domain::{LinkConfidence, Reason},
    node::{CellChange, LinkError, LinkOutcome, Linking, Node, Question},
};

use crate::support::node::{check, grant, open, put_catalog, subject, withdraw};

fn linking(one: &str, other: &str, confidence: Option<LinkConfidence>) -> Linking {
    Linking {
        subject: subject(one),
        other: subject(other),
        confidence,
        asserted_by: "login-service".to_owned(),
        dry_run: false,
    }
}

fn dry(linking: Linking) -> Linking {
    Linking { dry_run: true, ..linking }
}

async fn link(node: &Node, one: &str, other: &str, confidence: LinkConfidence) -> LinkOutcome {
    node.link(linking(one, other, Some(confidence))).await.unwrap()
}

fn changes(cells: &[CellChange]) -> Vec<(&str, &str, Reason, Reason)> {
    cells
        .iter()
        .map(|cell| (cell.subject.as_str(), cell.channel.as_str(), cell.before, cell.after))
        .collect()
}

/// Revision, reason and deciding entry of a check.
type Answer = (u64, Reason, Option<u64>);

/// Checks both sides of a link repeatedly until the writers are done.
fn check_until(node: &Node, done: &AtomicBool, answers: &Mutex<Vec<Answer>>) {
    let sides = [subject("user:a"), subject("device:b")];
    let mut recorded = Vec::new();
    while !done.load(Ordering::Relaxed) {
        for subject in &sides {
            let question = Question {
                subject,
                purpose: "newsletter",
                channel: "email",
                data_categories: &[],
                region: None,
                ignore_obligations: false,
            };
            let checked = node.check(&question).unwrap();
            recorded.push((checked.revision, checked.decision.reason, checked.decision.decided_by));
        }
    }
    answers.lock().unwrap().append(&mut recorded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_of_linked_subjects_see_only_states_that_existed() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path());
    put_catalog(&node).await;
    link(&node, "user:a", "device:b", LinkConfidence::Verified).await;
    let done = Arc::new(AtomicBool::new(false));
    let answers = Arc::new(Mutex::new(Vec::new()));
    let askers: Vec<_> = (0..2)
        .map(|_| {
            let (node, done, answers) =
                (Arc::clone(&node), Arc::clone(&done), Arc::clone(&answers));
            std::thread::spawn(move || check_until(&node, &done, &answers))
        })
        .collect();
    // Acts of a third subject change states, but no answer.
    let others = {
        let (node, done) = (Arc::clone(&node), Arc::clone(&done));
        tokio::spawn(async move {
            while !done.load(Ordering::Relaxed) {
                link(&node, "device:b", "cookie:c", LinkConfidence::Asserted).await;
                node.link(linking("cookie:c", "device:b", None)).await.unwrap();
            }
        })
    };

    let mut acts = Vec::new();
    for _ in 0..150 {
        // Two acts that wait together land in one batch, in this order, and mostly in one
        // millisecond.
        let (given, taken) =
            tokio::join!(node.record(grant("user:a")), node.record(withdraw("device:b")));
        acts.push((given.unwrap().index, Reason::Granted));
        acts.push((taken.unwrap().index, Reason::Withdrawn));
        assert_eq!(check(&node, "user:a", "email").1, Reason::Withdrawn);
        assert_eq!(check(&node, "device:b", "email").1, Reason::Withdrawn);
    }
    done.store(true, Ordering::Relaxed);
    others.await.unwrap();
    for asker in askers {
        asker.join().unwrap();
    }

    assert!(
        acts.is_sorted_by_key(|(index, _)| *index),
        "the acts are in the order in which they were sent"
    );
    let answers = std::mem::take(&mut *answers.lock().unwrap());
    assert!(answers.len() > 1_000);
    for (revision, reason, decided_by) in answers {
        let before = acts.partition_point(|(index, _)| *index < revision);
        let want = match before.checked_sub(1).map(|last| acts[last]) {
            Some((index, reason)) => (reason, Some(index)),
            None => (Reason::NoRecord, None),
        };
        assert_eq!((reason, decided_by), want, "at revision {revision}");
    }
}

#[tokio::test]
async fn a_stop_of_one_side_beats_a_grant_of_the_other_in_the_same_millisecond() {
    for confidence in [LinkConfidence::Verified, LinkConfidence::Asserted] {
        let dir = tempfile::tempdir().unwrap();
        let node = open(dir.path());
        put_catalog(&node).await;
        for n in 0..20 {
            let (one, other) = (format!("user:{n}"), format!("device:{n}"));
            link(&node, &one, &other, confidence).await;
            let both = tokio::join!(node.record(grant(&one)), node.record(withdraw(&other)));
            let (given, taken) = (both.0.unwrap(), both.1.unwrap());
            assert!(given.index < taken.index);
            assert!(given.effective_at < taken.effective_at);
            assert_eq!(check(&node, &one, "email").1, Reason::Withdrawn, "{confidence:?}");
        }
    }
}

#[tokio::test]
async fn a_batch_sees_its_own_links_and_names_its_own_subjects() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path());
    put_catalog(&node).await;
    let verified = Some(LinkConfidence::Verified);
    // The others gather while the first is written to disk.
    let (_, given, first, second, again, taken) = tokio::join!(
        node.record(grant("user:0")),
        node.record(grant("user:x")),
        node.link(linking("user:x", "user:y", verified)),
        node.link(linking("user:z", "user:y", verified)),
        node.link(linking("user:y", "user:x", verified)),
        node.record(withdraw("user:z")),
    );
    let (given, first, second) = (given.unwrap(), first.unwrap(), second.unwrap());
    let (none, granted) = (Reason::NoRecord, Reason::Granted);
    assert_eq!(changes(&first.cells), [("user:y", "email", none, granted)]);
    assert_eq!(changes(&second.cells), [("user:z", "email", none, granted)]);
    assert_eq!(first.index, Some(given.index + 1));
    let again = again.unwrap();
    assert_eq!((again.index, again.changed), (None, false));
    assert_eq!(again.revision, first.revision);
    assert!(taken.is_ok());
    for who in ["user:x", "user:y", "user:z"] {
        assert_eq!(check(&node, who, "email").1, Reason::Withdrawn, "{who}");
    }

    // A dry run sees the new subjects of its own batch.
    let both = tokio::join!(
        node.record(grant("user:0")),
        node.link(linking("new:1", "new:2", verified)),
        node.record(grant("new:1")),
        node.link(dry(linking("new:2", "user:y", verified))),
    );
    let dry = both.3.unwrap();
    // The later grant of `new:1` lifts the withdrawals of the others.
    let gained = ["user:x", "user:y", "user:z"];
    let gained = gained.map(|who| (who, "email", Reason::Withdrawn, granted));
    assert_eq!(changes(&dry.cells), gained);
}

#[tokio::test]
async fn refused_links_and_dry_runs_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path());
    put_catalog(&node).await;
    node.record(grant("user:a")).await.unwrap();
    let before = (node.revision(), node.subjects());
    let dry_run = node.link(dry(linking("user:a", "user:new", Some(LinkConfidence::Verified))));
    let dry_run = dry_run.await.unwrap();
    assert_eq!((dry_run.index, dry_run.changed, dry_run.revision), (None, true, before.0));
    assert_eq!(changes(&dry_run.cells), [("user:new", "email", Reason::NoRecord, Reason::Granted)]);
    let to_self = linking("user:a", "user:a", Some(LinkConfidence::Verified));
    assert_eq!(node.link(to_self).await, Err(LinkError::ToSelf));
    for other in ["user:b", "user:new"] {
        let error = node.link(linking("user:a", other, None)).await;
        assert_eq!(error, Err(LinkError::NotLinked));
    }
    assert_eq!((node.revision(), node.subjects()), before);
    assert_eq!(check(&node, "user:new", "email").1, Reason::NoRecord);
}

#[tokio::test]
async fn a_group_of_linked_subjects_has_a_size_limit() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path());
    put_catalog(&node).await;
    let asserted = LinkConfidence::Asserted;
    // Two groups of 32 each, one linked as a star and one as a chain.
    for n in 1..32 {
        link(&node, "star:0", &format!("star:{n}"), asserted).await;
        link(&node, &format!("chain:{}", n - 1), &format!("chain:{n}"), asserted).await;
    }
    link(&node, "star:9", "chain:9", asserted).await;
    for one in ["star:3", "chain:31"] {
        let error = node.link(linking(one, "user:65", Some(asserted))).await;
        assert_eq!(error, Err(LinkError::TooMany { got: 65, limit: 64 }));
    }
    // Links within a full group may still become verified.
    assert!(link(&node, "star:1", "chain:31", LinkConfidence::Verified).await.changed);
    node.record(withdraw("chain:0")).await.unwrap();
    node.record(grant("star:31")).await.unwrap();
    // A later grant lifts the stop for its own subject only.
    assert_eq!(check(&node, "star:31", "email").1, Reason::Granted);
    assert_eq!(check(&node, "star:30", "email").1, Reason::Withdrawn);
}
