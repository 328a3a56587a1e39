//! The comparison: every lie is seen, and nothing else.

use clap::Parser as _;
use proptest::{collection::vec, prelude::*, sample::Index};

use super::{
    compare::{Comparison, Taken},
    *,
};
use crate::{
    cli::{Cli, testing::Capture},
    proto::{self, ListDecisionsResponse},
};

/// Compares two lists as the command does.
fn compared(
    recomputed: &[ListDecisionsResponse],
    answered: &[ListDecisionsResponse],
) -> Comparison {
    let mut comparison = Comparison::new(3);
    let (mut recomputed, mut answered) = (recomputed.iter(), answered.iter());
    while let Some(Taken { recomputed: take_recomputed, answered: take_answered }) =
        comparison.compare(recomputed.as_slice().first(), answered.as_slice().first())
    {
        if take_recomputed {
            recomputed.next();
        }
        if take_answered {
            answered.next();
        }
    }
    comparison
}

fn any_decision() -> impl Strategy<Value = ListDecisionsResponse> {
    (0..9_u64, 0..3_u8, 0..3_u8, 1..17, proptest::option::of(0..9_u64)).prop_map(
        |(index, subject, cell, reason, decided_by_index)| ListDecisionsResponse {
            index,
            subject_ref: vec![subject; 16],
            purpose: format!("purpose-{cell}"),
            channel: "email".to_owned(),
            effect: proto::Effect::Deny.into(),
            reason,
            decided_by_index,
            valid_until: None,
        },
    )
}

fn any_list() -> impl Strategy<Value = Vec<ListDecisionsResponse>> {
    vec(any_decision(), 1..30).prop_map(|mut all| {
        let place = |decision: &ListDecisionsResponse| {
            let ListDecisionsResponse { index, subject_ref, purpose, channel, .. } =
                decision.clone();
            (index, subject_ref, purpose, channel)
        };
        all.sort_by_key(place);
        all.dedup_by_key(|decision| place(decision));
        all
    })
}

proptest! {
    #[test]
    fn the_same_lists_agree_and_any_lie_is_seen(
        list in any_list(),
        at in any::<Index>(),
        other in any_decision(),
        lie in 0..5,
    ) {
        let same = compared(&list, &list);
        prop_assert_eq!((same.decisions, same.differ), (list.len() as u64, 0));
        let mut answered = list.clone();
        let at = at.index(list.len());
        match lie {
            0 => drop(answered.remove(at)),
            1 => answered.insert(at, other),
            2 => answered[at].reason = (answered[at].reason + 1) % 17,
            3 => answered[at].decided_by_index = Some(99),
            _ => answered.reverse(),
        }
        let found = compared(&list, &answered);
        prop_assert_eq!(found.decisions, list.len() as u64);
        prop_assert_eq!(found.differ == 0, answered == list);
        prop_assert_eq!(found.first.len() as u64, found.differ.min(3));
    }
}

fn plan(args: &[&str], head: u64) -> Result<(u64, u64), u8> {
    let cli = Cli::try_parse_from([&["consent-ledger", "verify-decisions"], args].concat());
    let crate::cli::Command::VerifyDecisions(args) = cli.map_err(|_| 2)?.command else {
        panic!("another command")
    };
    let node = GetCheckpointResponse { size: head, ..GetCheckpointResponse::default() };
    trust(&args).map_err(|error| error.exit_code())?;
    let plan = Plan::new(&args, &node, None).map_err(|error| error.exit_code())?;
    Ok((plan.start, plan.end))
}

#[test]
fn a_range_lies_within_the_ledger() {
    assert_eq!(plan(&[], 9), Ok((0, 9)));
    assert_eq!(plan(&["--start", "9"], 9), Ok((9, 9)));
    assert_eq!(plan(&["--start", "2", "--end", "4"], 9), Ok((2, 4)));
    for wrong in [&["--start", "10"][..], &["--end", "10"], &["--start", "3", "--end", "2"]] {
        assert_eq!(plan(wrong, 9), Err(2), "{wrong:?}");
    }
    assert_eq!(plan(&["--checkpoint", "file"], 9), Err(2), "a checkpoint needs its key");
}

fn report() -> Report {
    let decision = ListDecisionsResponse {
        index: 5,
        subject_ref: vec![0xab; 2],
        purpose: "news".to_owned(),
        channel: "email".to_owned(),
        effect: proto::Effect::Allow.into(),
        reason: proto::Reason::Granted.into(),
        decided_by_index: Some(5),
        valid_until: None,
    };
    let comparison = compared(&[decision], &[]);
    let untrue = crate::fold::Untrue::Outcome {
        position: 0,
        stored: crate::domain::Outcome::Applied,
        recomputed: crate::domain::Outcome::BlockedByStop(3),
    };
    Report {
        agrees: false,
        ledger: "consent.example.org".to_owned(),
        start: 2,
        end: 9,
        entries: 7,
        decisions: comparison.decisions,
        differ: comparison.differ,
        differences: comparison.first,
        untrue: 1,
        statements: vec![Statement::of(7, &untrue)],
        chain_hash: Some(Bytes(vec![0xc0])),
        not_checked: &["signatures"],
        checkpoint: Some(Checkpoint { size: 9, root_hash: "0f".to_owned() }),
        subjects: 2,
        state_bytes: 2_048,
    }
}

#[test]
fn differences_are_printed_for_people() {
    let (mut context, capture) = Capture::context(false);
    print(&report(), &mut context.out).unwrap();
    assert_eq!(
        capture.text(context),
        "INDEX  SUBJECT  CELL        FROM THE LEDGER      THE NODE ANSWERS\n\
         #5     abab     news:email  allow granted by #5  nothing\n\
         INDEX  STATEMENT            THE ENTRY SAYS  FROM THE LEDGER\n\
         #7     outcome of change 0  applied         blocked_by_stop #3\n\
         DIFFERS\n\
         NOT CHECKED who signed the entries: no --key was given, and a forged ledger looks the same\n\
         decisions   1 decisions over 7 entries, 1 differ\n\
         entries     2..9 of consent.example.org\n\
         statements  1 wrong in the entries before 9\n\
         chain hash  c0\n\
         checkpoint  9 entries have the signed root 0f\n\
         memory      2 data subjects, 2.00 KiB\n"
    );
}

#[test]
fn differences_are_printed_as_json() {
    let (mut context, capture) = Capture::context(true);
    print(&report(), &mut context.out).unwrap();
    let printed: serde_json::Value = serde_json::from_str(&capture.text(context)).unwrap();
    assert_eq!(printed["differences"][0]["recomputed"]["reason"], "REASON_GRANTED");
    assert_eq!(printed["differences"][0]["recomputed"]["index"], "5");
    assert_eq!(printed["differences"][0]["answered"], serde_json::Value::Null);
    assert_eq!(printed["statements"][0]["recomputed"], "blocked_by_stop #3");
    assert_eq!(printed["chainHash"], "wA==");
    assert_eq!(printed["agrees"], false);
}
