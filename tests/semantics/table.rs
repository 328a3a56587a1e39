//! The decision, one case a line. Every case is asked at time 20.
//!
//! An answer reads: effect, reason, status, the index of the entry that decided, and the first
//! moment at which it could change with no new entry.

use consent_ledger::{
    decide::decide,
    domain::{Catalog, Decision, Effect, Millis, Query, SubjectState},
};

use crate::world::{acts, catalog, obligation, state_after};

const NOW: Millis = Millis(20);

/// Purpose and channel, what happened, and what is answered.
#[rustfmt::skip]
const CASES: &[(&str, &str, &str)] = &[
    // 1. What the catalogue lacks, or has retired: purpose, then channel, then retirement.
    ("nowhere:email", "",                                     "DENY UnknownPurpose Unknown by - until -"),
    ("nowhere:never", "",                                     "DENY UnknownPurpose Unknown by - until -"),
    ("news:never",    "",                                     "DENY UnknownChannel Unknown by - until -"),
    ("news:fax",      "",                                     "DENY UnknownChannel Unknown by - until -"),
    ("news:fax",      "5 subject grant news:fax",             "DENY UnknownChannel Given by - until -"),
    ("old:fax",       "",                                     "DENY UnknownChannel Unknown by - until -"),
    ("old:never",     "",                                     "DENY UnknownChannel Unknown by - until -"),
    ("invoice:fax",   "",                                     "DENY UnknownChannel Unknown by - until -"),
    ("old:email",     "",                                     "DENY PurposeRetired Unknown by 9 until -"),
    ("old:email",     "5 subject grant old:email until 30",   "DENY PurposeRetired Given by 9 until -"),
    ("old:email",     "5 subject withdraw *:*",               "DENY PurposeRetired Withdrawn by 9 until -"),

    // 2. No consent needed, and no stop touches it; the status is what is on record.
    ("invoice:email", "",                                     "ALLOW NotConsentBased Unknown by 4 until -"),
    ("tax:email",     "",                                     "ALLOW NotConsentBased Unknown by 5 until -"),
    ("rescue:email",  "",                                     "ALLOW NotConsentBased Unknown by 6 until -"),
    ("census:email",  "",                                     "ALLOW NotConsentBased Unknown by 7 until -"),
    ("invoice:email", "5 subject object invoice:email",       "ALLOW NotConsentBased Objected by 4 until -"),
    ("invoice:email", "5 subject withdraw *:*",               "ALLOW NotConsentBased Withdrawn by 4 until -"),
    ("invoice:email", "5 subject grant invoice:email",        "ALLOW NotConsentBased Given by 4 until -"),
    ("invoice:email", "5 subject grant invoice:email until 9","ALLOW NotConsentBased Expired by 4 until -"),

    // 4. A live stop, of any kind, by anyone.
    ("news:email", "5 subject refuse news:email",             "DENY Refused Refused by 100 until -"),
    ("news:email", "5 import refuse news:email",              "DENY Refused Refused by 100 until -"),
    ("news:email", "5 subject withdraw news:email",           "DENY Withdrawn Withdrawn by 100 until -"),
    ("news:email", "5 guardian withdraw news:email",          "DENY Withdrawn Withdrawn by 100 until -"),
    ("news:email", "5 agent withdraw news:email",             "DENY Withdrawn Withdrawn by 100 until -"),
    ("news:email", "5 operator withdraw news:email",          "DENY Revoked Revoked by 100 until -"),
    ("news:email", "5 system withdraw news:email",            "DENY Revoked Revoked by 100 until -"),
    ("news:email", "5 import withdraw news:email",            "DENY Revoked Revoked by 100 until -"),
    ("news:email", "5 subject object news:email",             "DENY Objected Objected by 100 until -"),
    ("news:email", "5 operator object news:email",            "DENY Objected Objected by 100 until -"),
    // ... of any width.
    ("news:email", "5 subject withdraw news:*",               "DENY Withdrawn Withdrawn by 100 until -"),
    ("news:email", "5 subject withdraw *:email",              "DENY Withdrawn Withdrawn by 100 until -"),
    ("news:email", "5 subject withdraw *:*",                  "DENY Withdrawn Withdrawn by 100 until -"),
    ("news:email", "5 subject withdraw news:sms",             "DENY NoRecord Unknown by - until -"),
    ("news:email", "5 subject withdraw offers:*",             "DENY NoRecord Unknown by - until -"),
    ("news:email", "5 subject withdraw *:sms",                "DENY NoRecord Unknown by - until -"),
    // ... over a grant, as long as the grant is not later.
    ("news:email", "5 subject grant news:email; 6 subject withdraw news:email", "DENY Withdrawn Withdrawn by 101 until -"),
    ("news:email", "5 subject grant news:email; 6 subject object *:*",          "DENY Objected Objected by 101 until -"),
    ("news:email", "5 subject grant news:email until 9; 6 subject withdraw *:*","DENY Withdrawn Withdrawn by 101 until -"),
    // The latest stop gives the reason, whatever its width; of one act, the narrowest.
    ("news:email", "5 subject object news:email; 6 subject withdraw *:*",       "DENY Withdrawn Withdrawn by 101 until -"),
    ("news:email", "6 subject withdraw *:*; 5 subject object news:email",       "DENY Withdrawn Withdrawn by 100 until -"),
    ("news:email", "5 subject refuse news:email; 5 subject object news:email",  "DENY Objected Objected by 101 until -"),
    ("news:email", "5 subject withdraw *:* and object news:email",              "DENY Objected Objected by 100 until -"),
    ("news:email", "5 subject object news:email and withdraw *:*",              "DENY Objected Objected by 100 until -"),
    // A stop survives every version.
    ("profile:email", "5 subject refuse profile:email",       "DENY Refused Refused by 100 until -"),

    // Lifting: by a later grant of whoever speaks for the subject, in the cells that it names.
    ("news:email", "5 subject withdraw *:*; 6 subject grant news:email",   "ALLOW Granted Given by 101 until -"),
    ("news:email", "5 subject withdraw *:*; 6 guardian grant news:email",  "ALLOW Granted Given by 101 until -"),
    ("news:email", "5 subject withdraw *:*; 6 agent grant news:email",     "ALLOW Granted Given by 101 until -"),
    ("news:email", "5 subject withdraw *:*; 6 operator grant news:email",  "DENY Withdrawn Withdrawn by 100 until -"),
    ("news:email", "5 subject withdraw *:*; 6 system grant news:email",    "DENY Withdrawn Withdrawn by 100 until -"),
    ("news:email", "5 subject withdraw *:*; 6 import grant news:email",    "DENY Withdrawn Withdrawn by 100 until -"),
    ("news:email", "5 operator withdraw *:*; 6 operator grant news:email", "DENY Revoked Revoked by 100 until -"),
    ("news:sms",   "5 subject withdraw *:*; 6 subject grant news:email",   "DENY Withdrawn Withdrawn by 100 until -"),
    ("offers:email", "5 subject withdraw *:*; 6 subject grant news:email", "DENY Withdrawn Withdrawn by 100 until -"),
    ("news:email", "5 subject refuse news:email and refuse news:sms; 6 subject grant news:sms", "DENY Refused Refused by 100 until -"),
    // One grant lifts every earlier stop of its cell; a later stop of another width stands again.
    ("news:email", "3 subject refuse news:*; 4 subject object *:email; 5 subject withdraw *:*; 6 subject grant news:email", "ALLOW Granted Given by 103 until -"),
    ("news:email", "5 subject withdraw *:*; 6 subject grant news:email; 7 subject withdraw *:email", "DENY Withdrawn Withdrawn by 102 until -"),
    // Once lifted, a later import counts; the latest grant of anyone decides.
    ("news:email", "5 subject withdraw *:*; 6 subject grant news:email; 7 import grant news:email until 30", "ALLOW Granted Given by 102 until 30"),
    // Ties: the stop comes first, in whichever order they are written.
    ("news:email", "5 subject withdraw *:*; 5 subject grant news:email",   "ALLOW Granted Given by 101 until -"),
    ("news:email", "5 subject grant news:email; 5 subject withdraw *:*",   "ALLOW Granted Given by 100 until -"),
    ("news:email", "5 subject withdraw *:* and grant news:email",          "ALLOW Granted Given by 100 until -"),
    ("news:sms",   "5 subject withdraw *:* and grant news:email",          "DENY Withdrawn Withdrawn by 100 until -"),
    ("news:email", "5 import withdraw *:* and grant news:email",           "DENY Revoked Revoked by 100 until -"),
    // Late arrivals: a late grant reopens nothing, a late stop undoes nothing newer.
    ("news:email", "6 subject withdraw *:*; 5 subject grant news:email",   "DENY Withdrawn Withdrawn by 100 until -"),
    ("news:email", "6 subject grant news:email; 5 subject withdraw *:*",   "ALLOW Granted Given by 100 until -"),
    ("news:sms",   "6 subject grant news:email; 5 subject withdraw *:*",   "DENY Withdrawn Withdrawn by 101 until -"),
    ("news:email", "6 import grant news:email; 5 subject withdraw *:*",    "DENY Withdrawn Withdrawn by 101 until -"),

    // 5. Legitimate interest: allowed until somebody objects; a grant only lifts.
    ("care:email", "",                                        "ALLOW NoObjection Unknown by - until -"),
    ("care:email", "5 subject object care:*",                 "DENY Objected Objected by 100 until -"),
    ("care:email", "5 subject withdraw *:*",                  "DENY Withdrawn Withdrawn by 100 until -"),
    ("care:email", "5 subject grant care:email until 9",      "ALLOW NoObjection Expired by - until -"),
    ("care:email", "5 subject object care:*; 6 subject grant care:email until 30", "ALLOW NoObjection Given by 101 until -"),
    ("care:email", "5 subject object care:*; 6 import grant care:email",           "DENY Objected Objected by 100 until -"),

    // 6. Silence is never a yes.
    ("news:email", "",                                        "DENY NoRecord Unknown by - until -"),
    ("news:email", "5 subject grant news:sms",                "DENY NoRecord Unknown by - until -"),
    ("news:email", "5 subject grant offers:email",            "DENY NoRecord Unknown by - until -"),

    // 7. Double opt-in: waits, lifts nothing, and never downgrades what is confirmed.
    ("offers:email", "5 subject grant offers:email",          "DENY PendingConfirmation Requested by 100 until -"),
    ("offers:email", "5 import grant offers:email",           "DENY PendingConfirmation Requested by 100 until -"),
    ("offers:email", "5 subject grant offers:email until 9",  "DENY PendingConfirmation Requested by 100 until -"),
    ("offers:email", "5 subject grant offers:email; 6 subject grant offers:email", "DENY PendingConfirmation Requested by 101 until -"),
    ("offers:email", "5 subject withdraw *:*; 6 subject grant offers:email",       "DENY Withdrawn Withdrawn by 100 until -"),
    ("offers:email", "5 subject grant offers:email; 6 subject withdraw *:*",       "DENY Withdrawn Withdrawn by 101 until -"),
    ("club:email", "5 subject grant club:email v1; 6 subject grant club:email v2", "ALLOW Granted Given by 100 until -"),
    ("club:email", "5 subject grant club:email v1 until 30; 6 subject grant club:email v2", "ALLOW Granted Given by 100 until 30"),
    ("club:email", "5 subject grant club:email v1 until 9; 6 subject grant club:email v2", "DENY PendingConfirmation Requested by 101 until -"),
    ("club:email", "5 subject grant club:email v2; 6 subject grant club:email v1 until 9", "DENY Expired Expired by 101 until -"),
    ("club:email", "4 subject grant club:email v1; 5 subject withdraw *:*; 6 subject grant club:email v2", "DENY Withdrawn Withdrawn by 101 until -"),

    // 8. Expiry: the first moment without it, and no older grant comes back.
    ("news:email", "5 subject grant news:email until 19",     "DENY Expired Expired by 100 until -"),
    ("news:email", "5 subject grant news:email until 20",     "DENY Expired Expired by 100 until -"),
    ("news:email", "5 subject grant news:email until 21",     "ALLOW Granted Given by 100 until 21"),
    ("news:email", "5 subject grant news:email; 6 subject grant news:email until 9", "DENY Expired Expired by 101 until -"),
    ("news:email", "5 subject grant news:email; 6 import grant news:email until 9",  "DENY Expired Expired by 101 until -"),
    ("news:email", "5 subject withdraw *:*; 6 subject grant news:email until 9",     "DENY Expired Expired by 101 until -"),
    ("profile:email", "5 subject grant profile:email v1 until 9",                    "DENY Expired Expired by 100 until -"),

    // 9. Versions: the entry that raised the oldest compatible version decides.
    ("profile:email", "5 subject grant profile:email v1",          "DENY ReconsentRequired Invalidated by 12 until -"),
    ("profile:email", "5 subject grant profile:email v1 until 30", "DENY ReconsentRequired Invalidated by 12 until 30"),
    ("profile:email", "5 subject grant profile:email v2",          "ALLOW Granted Given by 100 until -"),
    ("profile:email", "5 subject grant profile:email v2; 6 subject grant profile:email v1", "DENY ReconsentRequired Invalidated by 12 until -"),
    // A version that the catalogue lacks never counts.
    ("news:email", "5 subject grant news:email v7",                "DENY PendingConfirmation Requested by 100 until -"),

    // 10. Data categories: declared by the granted version, and within the grant.
    ("news:email user.contact",       "5 subject grant news:email",          "ALLOW Granted Given by 100 until -"),
    ("news:email user.contact.email", "5 subject grant news:email",          "ALLOW Granted Given by 100 until -"),
    ("news:email user.contact user.name", "5 subject grant news:email",      "ALLOW Granted Given by 100 until -"),
    ("news:email user",               "5 subject grant news:email until 30", "DENY DataCategoryNotCovered Given by 100 until 30"),
    ("news:email user.contacts",      "5 subject grant news:email",          "DENY DataCategoryNotCovered Given by 100 until -"),
    ("news:email user.name user.age", "5 subject grant news:email",          "DENY DataCategoryNotCovered Given by 100 until -"),
    ("news:email user.name",          "5 subject grant news:email only user.contact.email", "DENY DataCategoryNotCovered Given by 100 until -"),
    ("news:email user.contact",       "5 subject grant news:email only user.contact.email", "DENY DataCategoryNotCovered Given by 100 until -"),
    ("news:email user.contact.email", "5 subject grant news:email only user.contact.email", "ALLOW Granted Given by 100 until -"),
    ("news:email user.age",           "5 subject grant news:email only user.age", "DENY DataCategoryNotCovered Given by 100 until -"),
    ("news:email",                    "5 subject grant news:email only user.age", "ALLOW Granted Given by 100 until -"),
    ("club:email user.contact",       "5 subject grant club:email v1",       "ALLOW Granted Given by 100 until -"),
    ("profile:email user.age",        "5 subject grant profile:email v1",    "DENY ReconsentRequired Invalidated by 12 until -"),
    ("care:email user.age",           "",                                    "ALLOW NoObjection Unknown by - until -"),
    ("invoice:email user.age",        "",                                    "ALLOW NotConsentBased Unknown by 4 until -"),

    // 11. Granted, by anyone where no stop stands.
    ("news:email", "5 subject grant news:email",                               "ALLOW Granted Given by 100 until -"),
    ("news:email", "5 operator grant news:email",                              "ALLOW Granted Given by 100 until -"),
    ("news:email", "5 import grant news:email until 30",                       "ALLOW Granted Given by 100 until 30"),
    ("news:email", "5 subject grant news:email; 6 subject grant news:email",   "ALLOW Granted Given by 101 until -"),
    ("news:email", "6 subject grant news:email; 5 subject grant news:email",   "ALLOW Granted Given by 100 until -"),
    ("news:email", "5 subject grant news:email; 5 agent grant news:email",     "ALLOW Granted Given by 101 until -"),
];

/// 3. The same cells, once erasure was asked for by entry 500: only what needs no consent goes on.
#[rustfmt::skip]
const CASES_UNDER_ERASURE: &[(&str, &str, &str)] = &[
    ("nowhere:email", "",                            "DENY UnknownPurpose Unknown by - until -"),
    ("news:never",    "",                            "DENY UnknownChannel Unknown by - until -"),
    ("old:email",     "5 subject grant old:email",   "DENY PurposeRetired Unknown by 9 until -"),
    ("invoice:email", "5 subject grant invoice:email", "ALLOW NotConsentBased Unknown by 4 until -"),
    ("news:email",    "",                            "DENY Erased Unknown by 500 until -"),
    ("news:email",    "5 subject grant news:email until 30", "DENY Erased Unknown by 500 until -"),
    ("news:email",    "5 subject withdraw *:*",      "DENY Erased Unknown by 500 until -"),
    ("care:email",    "",                            "DENY Erased Unknown by 500 until -"),
];

#[test]
fn every_row_of_the_table_answers_as_it_says() {
    let catalog = catalog();
    let mut wrong = Vec::new();
    for &(question, history, want) in CASES {
        let state = state_after(&catalog, &acts(history));
        check(&catalog, &state, question, history, want, &mut wrong);
    }
    for &(question, history, want) in CASES_UNDER_ERASURE {
        let mut state = state_after(&catalog, &acts(history));
        state.erased_by = Some(500);
        check(&catalog, &state, question, history, want, &mut wrong);
    }
    assert!(wrong.is_empty(), "{} cases\n{}", wrong.len(), wrong.join("\n"));
}

fn check(
    catalog: &Catalog,
    state: &SubjectState,
    question: &str,
    history: &str,
    want: &str,
    wrong: &mut Vec<String>,
) {
    let got = in_words(&ask(catalog, state, question));
    if got != want {
        wrong.push(format!("{question} after \"{history}\"\n  got  {got}\n  want {want}"));
    }
}

fn ask(catalog: &Catalog, state: &SubjectState, question: &str) -> Decision {
    let mut words = question.split_whitespace();
    let (purpose, channel) = words.next().unwrap().split_once(':').unwrap();
    let categories: Vec<String> = words.map(str::to_owned).collect();
    decide(catalog, state, &Query::new(catalog, purpose, channel, &categories), NOW)
}

fn in_words(decision: &Decision) -> String {
    let effect = match decision.effect() {
        Effect::Allow => "ALLOW",
        Effect::Deny => "DENY",
    };
    let by = decision.decided_by.map_or("-".to_owned(), |index| index.to_string());
    let until = decision.valid_until.map_or("-".to_owned(), |at| at.0.to_string());
    format!("{effect} {:?} {:?} by {by} until {until}", decision.reason, decision.status)
}

#[test]
fn obligations_come_with_every_allow_and_with_no_deny() {
    let catalog = catalog();
    for (question, history, comes) in [
        ("news:email", "5 subject grant news:email", true),
        ("care:email", "", true),
        ("news:email", "", false),
        ("care:email", "5 subject object *:*", false),
        ("invoice:email", "", false),
    ] {
        let want = if comes { vec![obligation()] } else { vec![] };
        let state = state_after(&catalog, &acts(history));
        assert_eq!(ask(&catalog, &state, question).obligations, want, "{question} {history}");
    }
}

#[test]
fn a_grant_of_a_version_that_is_gone_asks_for_consent_again() {
    let catalog = catalog();
    let mut state = state_after(&catalog, &acts("5 subject grant news:email"));
    let mut cells = state.cells().to_vec();
    cells[0].grant.as_mut().unwrap().purpose_version = 7;
    state = SubjectState::from_parts(Vec::new(), cells, None, state.revision);
    let got = in_words(&ask(&catalog, &state, "news:email"));
    assert_eq!(got, "DENY ReconsentRequired Invalidated by 1 until -");
}
