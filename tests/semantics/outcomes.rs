//! The outcome of a change, one case a line: the entries before, the act recorded now, at time 20,
//! and the outcome of each of its changes. docs/decisions.md is made from these cases.

use consent_ledger::{
    domain::{Action, Millis, Outcome, SubjectState},
    fold::consent::{fold, judge},
};

use super::world::{ASKED, Content, People, catalog, change, entries, scope};

/// The time at which every case is recorded.
pub const RECORDED_AT: Millis = Millis(20);

/// Related cases: the entries before, the act recorded now, and the outcome of each of its changes.
pub struct Group {
    pub about: &'static str,
    pub cases: &'static [(&'static str, &'static str, &'static str)],
}

#[rustfmt::skip]
pub const GROUPS: &[Group] = &[
    Group {
        about: "Grants by the person, a guardian or staff at the person's word.",
        cases: &[
            ("",                                                   "5 subject grant news:email", "APPLIED"),
            ("5 subject grant news:email",                         "6 subject grant news:email", "APPLIED"),
            ("",                                                   "5 subject grant news:email until 9", "APPLIED"),
            ("5 subject withdraw *:*",                             "6 subject grant news:email", "APPLIED"),
            ("5 subject withdraw *:*",                             "5 subject grant news:email", "SUPERSEDED by 100"),
            ("6 subject withdraw *:*",                             "5 subject grant news:email", "SUPERSEDED by 100"),
            ("6 subject grant news:email",                         "5 subject grant news:email", "SUPERSEDED by 100"),
            ("6 import grant news:email",                          "5 subject grant news:email", "SUPERSEDED by 100"),
            // The later stop is lifted too: the cause is the grant that decides.
            ("6 subject withdraw *:*; 7 subject grant news:email", "5 subject grant news:email", "SUPERSEDED by 101"),
            // The import was blocked, and never counts.
            ("5 subject withdraw *:*; 7 import grant news:email",  "6 subject grant news:email", "APPLIED"),
            // Nobody else's grant ends the person's own.
            ("6 import grant news:email until 9",                  "5 subject grant news:email", "APPLIED"),
            ("6 import grant news:email only user.name",           "5 subject grant news:email", "APPLIED"),
            ("6 import grant news:email until 9",                  "5 subject grant news:email until 9", "SUPERSEDED by 100"),
        ],
    },
    Group {
        about: "Grants by anybody else: they never lift a stop.",
        cases: &[
            ("",                                                   "5 import grant news:email", "APPLIED"),
            ("5 subject withdraw *:*",                             "6 import grant news:email", "BLOCKED by 100"),
            ("5 import refuse news:*",                             "6 operator grant news:email", "BLOCKED by 100"),
            ("6 subject withdraw *:*",                             "5 system grant news:email", "BLOCKED by 100"),
            ("5 subject withdraw *:*; 6 subject grant news:email", "7 import grant news:email", "NO_EFFECT"),
            ("5 subject withdraw *:*; 6 subject grant offers:email; confirm 101", "7 import grant offers:email", "NO_EFFECT"),
            ("5 subject grant news:email",                         "6 import grant news:email", "APPLIED"),
            ("5 subject grant news:email",                         "6 import grant news:email until 9", "NO_EFFECT"),
            ("5 subject grant news:email until 9",                 "6 import grant news:email until 9", "APPLIED"),
            ("5 subject withdraw *:*; 7 subject grant news:email", "6 import grant news:email", "SUPERSEDED by 101"),
        ],
    },
    Group {
        about: "Requests for a double opt-in.",
        cases: &[
            ("",                                                    "5 subject grant offers:email", "PENDING"),
            ("5 subject grant offers:email",                        "6 subject grant offers:email", "PENDING"),
            ("6 subject grant offers:email",                        "5 subject grant offers:email", "SUPERSEDED by 100"),
            ("5 subject withdraw *:*",                              "6 subject grant offers:email", "PENDING"),
            ("5 subject withdraw *:*",                              "6 import grant offers:email", "BLOCKED by 100"),
            ("6 subject withdraw *:*",                              "5 subject grant offers:email", "SUPERSEDED by 100"),
            ("5 subject withdraw *:*; 7 import grant offers:email", "6 subject grant offers:email", "PENDING"),
            ("5 subject grant club:email v1",                       "6 subject grant club:email v2", "PENDING"),
            ("5 subject grant club:email v1 until 20",              "6 subject grant club:email v2", "PENDING"),
            ("6 subject grant club:email v1 until 9",               "5 subject grant club:email v2", "SUPERSEDED by 100"),
            ("5 subject grant offers:email; confirm 100",           "6 subject grant offers:email", "NO_EFFECT"),
            ("5 subject grant offers:email until 20; confirm 100",  "6 subject grant offers:email", "PENDING"),
            ("6 subject grant offers:email; confirm 100",           "5 subject grant offers:email", "SUPERSEDED by 100"),
            ("5 guardian/9 grant club:email v1",                    "6 subject grant club:email v2", "PENDING"),
        ],
    },
    Group {
        about: "Confirmations: judged where the request stands.",
        cases: &[
            ("5 subject grant offers:email",                         "confirm 100", "APPLIED"),
            ("5 import grant offers:email",                          "confirm 100", "APPLIED"),
            ("5 subject withdraw *:*; 6 subject grant offers:email", "confirm 101", "APPLIED"),
            ("5 subject withdraw *:*; 6 import grant offers:email",  "confirm 101", "BLOCKED by 100"),
            ("5 subject grant offers:email; 6 subject withdraw *:*", "confirm 100", "SUPERSEDED by 101"),
            ("5 subject grant offers:email; 6 subject grant offers:email; confirm 101", "confirm 100", "SUPERSEDED by 101"),
            ("5 subject grant offers:email and grant offers:sms; 6 subject withdraw *:sms", "confirm 100", "APPLIED, SUPERSEDED by 101"),
        ],
    },
    Group {
        about: "Grants for what does not rest on consent: they count only where they lift a stop.",
        cases: &[
            ("",                                                    "5 subject grant invoice:email", "NO_EFFECT"),
            ("5 subject object invoice:*",                          "6 subject grant invoice:email", "NO_EFFECT"),
            ("",                                                    "5 subject grant care:email", "NO_EFFECT"),
            ("5 subject object care:*",                             "6 subject grant care:email", "APPLIED"),
            ("6 subject object care:*",                             "5 subject grant care:email", "SUPERSEDED by 100"),
            ("5 subject object care:*",                             "6 import grant care:email", "BLOCKED by 100"),
            ("5 subject object care:*; 7 subject grant care:email", "6 subject grant care:email", "SUPERSEDED by 101"),
            ("",                                                    "5 subject grant account:email v2", "NO_EFFECT"),
            ("5 subject withdraw account:*",                        "6 subject grant account:email v2", "APPLIED"),
            ("",                                                    "5 subject grant support:email", "APPLIED"),
        ],
    },
    Group {
        about: "Stops of one cell.",
        cases: &[
            ("5 subject grant news:email",                           "6 subject withdraw news:email", "APPLIED"),
            ("5 subject grant news:email",                           "6 import withdraw news:email", "APPLIED"),
            ("",                                                     "5 subject withdraw news:email", "NO_EFFECT"),
            ("",                                                     "5 subject refuse news:email", "APPLIED"),
            ("",                                                     "5 subject object news:email", "APPLIED"),
            ("5 subject refuse news:email",                          "6 subject refuse news:email", "NO_EFFECT"),
            ("5 subject withdraw *:*",                               "6 subject refuse news:email", "NO_EFFECT"),
            ("6 subject refuse news:email",                          "5 subject refuse news:email", "SUPERSEDED by 100"),
            ("6 subject withdraw *:*",                               "5 subject withdraw news:email", "SUPERSEDED by 100"),
            ("6 subject grant news:email",                           "5 subject withdraw news:email", "SUPERSEDED by 100"),
            ("5 subject grant news:email",                           "5 subject withdraw news:email", "APPLIED"),
            ("5 subject withdraw news:email",                        "6 import withdraw news:email", "NO_EFFECT"),
            ("6 import grant news:email",                            "5 subject withdraw news:email", "APPLIED"),
            // The person's own grant lifts it, but does not give what the import gave.
            ("6 subject grant news:email until 9; 7 import grant news:email", "5 subject withdraw news:email", "APPLIED"),
            ("6 subject grant news:email; 7 import grant news:email", "5 subject withdraw news:email", "SUPERSEDED by 100"),
            ("5 subject grant news:email until 20",                  "6 subject withdraw news:email", "NO_EFFECT"),
            ("5 subject grant news:email until 20",                  "6 subject refuse news:email", "APPLIED"),
            ("5 subject grant profile:email v1",                     "6 subject withdraw profile:email", "APPLIED"),
            ("5 subject grant old:email",                            "6 subject withdraw old:email", "APPLIED"),
            ("",                                                     "5 subject refuse old:email", "NO_EFFECT"),
            ("",                                                     "5 subject refuse news:fax", "NO_EFFECT"),
            ("5 subject grant offers:email",                         "6 subject withdraw offers:email", "APPLIED"),
            ("5 subject withdraw *:*; 6 subject grant offers:email", "7 subject withdraw *:*", "APPLIED"),
            ("5 subject withdraw *:*; 6 import grant offers:email",  "7 subject withdraw *:*", "NO_EFFECT"),
            ("",                                                     "5 subject withdraw care:email", "APPLIED"),
            ("",                                                     "5 subject object care:email", "APPLIED"),
            ("5 subject object care:*",                              "6 subject object care:email", "NO_EFFECT"),
            ("5 subject object care:*; 6 subject grant care:email",  "7 subject object care:email", "APPLIED"),
            ("5 subject grant offers:email; confirm 100",            "6 subject withdraw offers:email", "APPLIED"),
            ("5 guardian/9 grant news:email",                        "6 subject withdraw news:email", "APPLIED"),
        ],
    },
    Group {
        about: "Stops of what no stop touches: the caller is told.",
        cases: &[
            ("",                               "5 subject object invoice:email", "NO_EFFECT"),
            ("5 subject grant invoice:email",  "6 subject withdraw invoice:*", "NO_EFFECT"),
            ("6 subject object invoice:email", "5 subject object invoice:email", "NO_EFFECT"),
        ],
    },
    Group {
        about: "Wider stops.",
        cases: &[
            ("5 subject grant news:email",                           "6 subject withdraw news:*", "APPLIED"),
            ("5 subject grant news:email",                           "6 subject withdraw *:email", "APPLIED"),
            ("5 subject grant news:email",                           "6 subject withdraw *:*", "APPLIED"),
            ("5 subject grant news:email",                           "6 subject withdraw news:sms", "NO_EFFECT"),
            ("",                                                     "5 subject withdraw news:*", "NO_EFFECT"),
            ("",                                                     "5 subject refuse news:*", "APPLIED"),
            ("",                                                     "5 subject withdraw *:fax", "NO_EFFECT"),
            ("",                                                     "5 subject refuse *:fax", "NO_EFFECT"),
            ("",                                                     "5 subject withdraw care:*", "APPLIED"),
            ("",                                                     "5 subject withdraw *:email", "APPLIED"),
            ("",                                                     "5 subject withdraw *:*", "APPLIED"),
            ("5 subject object care:* and object insight:* and object account:* and object ads:* and object support:*", "6 subject withdraw *:*", "NO_EFFECT"),
            ("5 subject object care:email and object care:sms",      "6 subject withdraw care:*", "NO_EFFECT"),
            ("5 subject object care:email",                          "6 subject withdraw *:*", "APPLIED"),
            ("5 subject object *:email",                             "6 subject withdraw *:*", "APPLIED"),
            ("5 subject object *:email and object *:sms",            "6 subject withdraw *:*", "NO_EFFECT"),
            ("5 subject object care:*",                              "6 subject refuse *:*", "APPLIED"),
            ("5 subject withdraw *:*",                               "6 subject withdraw *:*", "NO_EFFECT"),
            ("6 subject withdraw *:*",                               "5 subject withdraw *:*", "SUPERSEDED by 100"),
            ("6 subject withdraw *:*",                               "5 subject refuse news:*", "SUPERSEDED by 100"),
            ("6 subject grant news:email",                           "5 subject withdraw news:*", "SUPERSEDED by 100"),
            ("6 subject grant news:email; 4 subject grant news:sms", "5 subject withdraw news:*", "APPLIED"),
            ("6 subject object care:* and object insight:* and object account:* and object ads:* and object support:*", "5 subject withdraw *:*", "SUPERSEDED by 100"),
            ("6 subject object care:*; 4 subject grant news:sms",    "5 subject withdraw *:*", "APPLIED"),
            ("",                                                     "5 subject withdraw account:*", "APPLIED"),
            ("",                                                     "5 subject withdraw insight:*", "APPLIED"),
            ("",                                                     "5 subject withdraw ads:*", "APPLIED"),
            ("",                                                     "5 subject withdraw support:*", "APPLIED"),
            ("",                                                     "5 subject refuse support:*", "APPLIED"),
            ("",                                                     "5 subject withdraw bonus:*", "NO_EFFECT"),
        ],
    },
    Group {
        about: "Stops over a class.",
        cases: &[
            ("5 subject grant shop.news:email",      "6 subject withdraw shop.*:*", "APPLIED"),
            ("5 subject grant shop.news:email",      "6 subject withdraw shop.*:sms", "NO_EFFECT"),
            ("5 subject grant shop:email",           "6 subject withdraw shop.*:*", "NO_EFFECT"),
            ("",                                     "5 subject withdraw shop.*:*", "NO_EFFECT"),
            ("",                                     "5 subject refuse shop.*:email", "APPLIED"),
            ("5 subject refuse shop.*:*",            "6 subject refuse shop.ads.*:*", "NO_EFFECT"),
            ("5 subject refuse shop.ads.*:*",        "6 subject refuse shop.*:*", "APPLIED"),
            ("5 subject refuse shop.*:*",            "6 subject refuse shop.news:email", "NO_EFFECT"),
            ("6 subject refuse shop.*:*",            "5 subject refuse shop.ads.*:email", "SUPERSEDED by 100"),
            ("6 subject withdraw shop.*:*",          "5 subject grant shop.news:email", "SUPERSEDED by 100"),
            ("5 subject withdraw shop.*:*",          "6 subject grant shop.news:email", "APPLIED"),
            ("5 subject withdraw shop.*:*",          "6 import grant shop.news:email", "BLOCKED by 100"),
            ("5 subject refuse shop.news:* and refuse shop.ads.fresh:*", "6 subject refuse shop.*:*", "NO_EFFECT"),
        ],
    },
    Group {
        about: "Several changes in one act: each is judged against what was before the whole act.",
        cases: &[
            ("5 subject grant news:email", "6 subject withdraw *:* and grant news:sms", "APPLIED, APPLIED"),
            ("5 subject object care:*",    "6 subject withdraw news:* and grant news:email", "NO_EFFECT, APPLIED"),
            ("5 subject grant news:email", "6 subject withdraw news:* and grant news:email", "NO_EFFECT, APPLIED"),
            ("5 subject grant news:email", "6 subject withdraw news:* and withdraw news:email", "APPLIED, APPLIED"),
            ("5 subject grant news:email", "6 system withdraw news:* and grant news:sms", "APPLIED, BLOCKED by 101"),
            ("",                           "5 subject grant news:email and refuse news:sms and grant offers:sms", "APPLIED, APPLIED, PENDING"),
            ("",                           "5 subject object care:* and grant care:email", "APPLIED, APPLIED"),
        ],
    },
    Group {
        about: "Linked identifiers: a change is judged for all of them. `+1` says that it applied to one \
            more, whatever it was for the one who acts.",
        cases: &[
            ("5 subject withdraw *:*; verify a b",     "b 6 subject grant news:email", "APPLIED +1"),
            ("6 subject withdraw *:*; verify a b",     "b 5 subject grant news:email", "SUPERSEDED by one of a linked subject"),
            ("5 subject grant news:email; verify a b", "b 6 subject withdraw news:*", "APPLIED +1"),
            ("5 subject grant news:email; assert a b", "b 6 subject withdraw news:*", "APPLIED +1"),
            ("5 subject grant news:email; assert a b", "b 6 import withdraw *:*", "APPLIED +1"),
            ("7 subject grant news:email; assert a b", "b 6 subject withdraw news:*", "NO_EFFECT"),
            ("5 subject grant news:email; assert a b", "b 6 subject withdraw news:* and grant news:email", "APPLIED +1, APPLIED"),
            ("b 4 subject refuse news:*; 5 subject grant news:email; assert a b", "b 6 subject refuse news:*", "APPLIED +1"),
            ("5 subject grant news:email; c 5 subject grant news:email; verify a b; assert b c", "b 6 subject withdraw news:*", "APPLIED +2"),
            ("5 subject grant news:email; c 5 subject grant news:sms; assert a b; verify a c", "b 6 subject withdraw news:*", "APPLIED +2"),
            ("5 subject grant news:email; assert a b; erase", "b 6 subject withdraw news:*", "NO_EFFECT"),
            ("5 subject grant news:email; assert a b; unlink a b", "b 6 subject withdraw news:*", "NO_EFFECT"),
            ("5 subject withdraw *:*; assert a b",     "b 6 import grant news:email", "BLOCKED by one of a linked subject"),
            ("6 subject withdraw *:*; assert a b",     "b 5 subject grant news:email", "SUPERSEDED by one of a linked subject"),
            ("5 subject withdraw *:*; assert a b",     "b 6 subject grant news:email", "APPLIED"),
        ],
    },
    Group {
        about: "After an erasure was asked for.",
        cases: &[
            ("5 subject grant news:email; erase",   "6 subject withdraw *:*", "NO_EFFECT"),
            ("erase",                               "5 subject refuse news:email", "NO_EFFECT"),
            ("erase",                               "5 subject grant news:email", "BLOCKED by 100"),
            ("erase",                               "5 import grant care:email", "BLOCKED by 100"),
            ("erase",                               "5 subject grant invoice:email", "NO_EFFECT"),
            ("5 subject grant offers:email; erase", "confirm 100", "BLOCKED by 101"),
        ],
    },
];

#[test]
fn every_row_of_the_table_has_its_outcome() {
    let mut wrong = Vec::new();
    for &(before, last, want) in GROUPS.iter().flat_map(|group| group.cases) {
        let got = outcomes(before, last);
        if got != want {
            wrong.push(format!("\"{last}\" after \"{before}\"\n  got  {got}\n  want {want}"));
        }
    }
    assert!(wrong.is_empty(), "{} cases\n{}", wrong.len(), wrong.join("\n"));
}

fn outcomes(before: &str, last: &str) -> String {
    let catalog = catalog();
    let mut entries = entries(&catalog, &format!("{before}; {last}"));
    let last = entries.pop().unwrap();
    let mut people = People::after(&catalog, &entries);
    let changes = people.record(&catalog, &last, RECORDED_AT);
    let words = changes.iter().map(|change| match change.linked_subjects {
        0 => in_words(change.outcome),
        count => format!("{} +{count}", in_words(change.outcome)),
    });
    words.collect::<Vec<_>>().join(", ")
}

fn in_words(outcome: Outcome) -> String {
    match outcome {
        Outcome::Applied => "APPLIED".to_owned(),
        Outcome::NoEffect => "NO_EFFECT".to_owned(),
        Outcome::BlockedByStop(index) => format!("BLOCKED by {}", cause(index)),
        Outcome::SupersededByLater(index) => format!("SUPERSEDED by {}", cause(index)),
        Outcome::PendingConfirmation => "PENDING".to_owned(),
        Outcome::StandsAlready(index) => panic!("{index} is no outcome of a recorded change"),
    }
}

fn cause(index: Option<u64>) -> String {
    index.map_or_else(|| "one of a linked subject".to_owned(), |index| index.to_string())
}

#[test]
fn an_unknown_key_leaves_the_state_alone() {
    let catalog = catalog();
    let entry =
        entries(&catalog, "5 subject grant news:email and withdraw nowhere:email").remove(0);
    let Content::Act(act) = &entry.content else { unreachable!() };
    let mut state = SubjectState::default();
    fold(&catalog, &mut state, &act.facts(100)).unwrap_err();
    judge(&catalog, &mut state, act.facts(100), RECORDED_AT).unwrap_err();
    assert_eq!(state, SubjectState::default());
}

#[test]
fn a_grant_wider_than_a_cell_grants_nothing() {
    let catalog = catalog();
    let mut entry = entries(&catalog, "5 subject grant news:email").remove(0);
    let Content::Act(act) = &mut entry.content else { unreachable!() };
    act.changes = vec![change(Action::Grant, scope("news:*"), 1)];
    let mut people = People::default();
    let changes = people.record(&catalog, &entry, RECORDED_AT);
    assert_eq!(changes[0].outcome, Outcome::NoEffect);
    let state = people.own_state(ASKED);
    assert!(state.cells().is_empty() && state.revision == 101);
}

#[test]
fn the_revision_is_that_of_the_last_entry_in_the_ledger() {
    let catalog = catalog();
    let entries =
        entries(&catalog, "5 subject grant offers:email; 6 subject withdraw *:*; confirm 100");
    assert_eq!(People::after(&catalog, entries.iter().rev()).own_state(ASKED).revision, 103);
}
