//! The decision, case by case, in groups under the rule that decides. Every question is asked at
//! time 20. docs/decisions.md is made from these cases.
//!
//! An answer reads: effect, reason, status, the index of the entry that decided, and the first
//! moment at which it could change with no new entry.

use consent_ledger::{
    decide::decide,
    domain::{Catalog, Decision, Effect, Millis, Query, Region, SubjectState},
};

use super::world::{ASKED, People, catalog, entries, obligation};

/// The time of every question.
pub const NOW: Millis = Millis(20);

/// A rule of the decision, and the cases that show it.
pub struct Rule {
    pub title: &'static str,
    pub about: &'static str,
    pub groups: &'static [Group],
}

/// Related cases.
pub struct Group {
    pub about: &'static str,
    pub cases: &'static [Case],
}

/// The history in words; the question: purpose and channel, data categories and `in` a region; the
/// history in the notation of [`super::world`]; and the answer.
pub type Case = (&'static str, &'static str, &'static str, &'static str);

#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    Rule {
        title: "1. Unknown or retired",
        about: "A data subject whose namespace is not in the catalogue is denied before everything \
            else (`UNKNOWN_NAMESPACE`), whatever the legal basis: without its kind, no stop could be \
            found. A purpose or channel that is unknown or retired is never allowed. An unknown purpose \
            is named first, then an unknown or retired channel, then a retired purpose.",
        groups: &[
            Group {
                about: "",
                cases: &[
                    ("Nobody ever defined the purpose",
                        "nowhere:email", "",
                        "DENY UnknownPurpose Unknown by - until -"),
                    ("Neither purpose nor channel was ever defined",
                        "nowhere:never", "",
                        "DENY UnknownPurpose Unknown by - until -"),
                    ("Nobody ever defined the channel",
                        "news:never", "",
                        "DENY UnknownChannel Unknown by - until -"),
                    ("The channel is retired",
                        "news:fax", "",
                        "DENY UnknownChannel Unknown by - until -"),
                    ("The channel is retired, and the person once said yes",
                        "news:fax", "5 subject grant news:fax",
                        "DENY UnknownChannel Given by - until -"),
                    ("Purpose and channel are both retired",
                        "old:fax", "",
                        "DENY UnknownChannel Unknown by - until -"),
                    ("The purpose is retired and the channel unknown",
                        "old:never", "",
                        "DENY UnknownChannel Unknown by - until -"),
                    ("The channel is retired, for a purpose that needs no consent",
                        "invoice:fax", "",
                        "DENY UnknownChannel Unknown by - until -"),
                    ("The purpose is retired",
                        "old:email", "",
                        "DENY PurposeRetired Unknown by 9 until -"),
                    ("The purpose is retired, and the person once said yes",
                        "old:email", "5 subject grant old:email until 30",
                        "DENY PurposeRetired Given by 9 until -"),
                    ("The purpose is retired, and the person withdrew everything",
                        "old:email", "5 subject withdraw *:*",
                        "DENY PurposeRetired Withdrawn by 9 until -"),
                ],
            },
        ],
    },
    Rule {
        title: "2. No consent needed",
        about: "Contract, legal obligation, vital interest and public task need no consent, and \
            no stop ends them. The acts of the person are recorded all the same, and the status \
            shows them.",
        groups: &[
            Group {
                about: "",
                cases: &[
                    ("A contract needs it",
                        "invoice:email", "",
                        "ALLOW NotConsentBased Unknown by 4 until -"),
                    ("The law demands it",
                        "tax:email", "",
                        "ALLOW NotConsentBased Unknown by 5 until -"),
                    ("A life depends on it",
                        "rescue:email", "",
                        "ALLOW NotConsentBased Unknown by 6 until -"),
                    ("A public task needs it",
                        "census:email", "",
                        "ALLOW NotConsentBased Unknown by 7 until -"),
                    ("The person objects to what a contract needs",
                        "invoice:email", "5 subject object invoice:email",
                        "ALLOW NotConsentBased Objected by 4 until -"),
                    ("The person withdraws everything; invoices still go out",
                        "invoice:email", "5 subject withdraw *:*",
                        "ALLOW NotConsentBased Withdrawn by 4 until -"),
                    ("The person says yes to what needs no yes",
                        "invoice:email", "5 subject grant invoice:email",
                        "ALLOW NotConsentBased Given by 4 until -"),
                    ("Such a yes runs out",
                        "invoice:email", "5 subject grant invoice:email until 9",
                        "ALLOW NotConsentBased Expired by 4 until -"),
                ],
            },
            Group {
                about: "The legal basis may differ by region: that of the region in the question \
                    counts, else that of its country, else the default.",
                cases: &[
                    ("By default `support` belongs to a contract",
                        "support:email", "",
                        "ALLOW NotConsentBased Unknown by 22 until -"),
                    ("In Germany it needs consent, and there is none",
                        "support:email in DE", "",
                        "DENY NoRecord Unknown by - until -"),
                    ("The person withdrew it; where it belongs to a contract it goes on",
                        "support:email in FR", "5 subject withdraw support:*",
                        "ALLOW NotConsentBased Withdrawn by 22 until -"),
                    ("The person withdrew it; where they are is not told, and may be Germany",
                        "support:email", "5 subject withdraw support:*",
                        "DENY Withdrawn Withdrawn by 100 until -"),
                    ("The person withdrew it; in Germany it stops",
                        "support:email in DE", "5 subject withdraw support:*",
                        "DENY Withdrawn Withdrawn by 100 until -"),
                    ("Brazil has a basis of its own",
                        "ads:email in BR", "",
                        "ALLOW NotConsentBased Unknown by 21 until -"),
                    ("The person objects, in Brazil",
                        "ads:email in BR", "5 subject object ads:*",
                        "ALLOW NotConsentBased Objected by 21 until -"),
                ],
            },
            Group {
                about: "A purpose that ever rested on consent, in that region, can be stopped for \
                    good: no later change of the legal basis overrides a withdrawal.",
                cases: &[
                    ("The purpose moved from consent to contract, and nobody said no",
                        "account:email", "",
                        "ALLOW NotConsentBased Unknown by 16 until -"),
                    ("The person withdrew it",
                        "account:email", "5 subject withdraw account:*",
                        "DENY Withdrawn Withdrawn by 100 until -"),
                    ("The person withdrew everything",
                        "account:email", "5 subject withdraw *:*",
                        "DENY Withdrawn Withdrawn by 100 until -"),
                    ("The person refused it",
                        "account:email", "5 subject refuse account:email",
                        "DENY Refused Refused by 100 until -"),
                    ("The company took it back",
                        "account:email", "5 operator withdraw account:email",
                        "DENY Revoked Revoked by 100 until -"),
                    ("The person withdrew, and later agrees again",
                        "account:email", "5 subject withdraw *:*; 6 subject grant account:email v2",
                        "ALLOW NotConsentBased Given by 16 until -"),
                    ("The person withdrew, and an import says yes",
                        "account:email", "5 subject withdraw *:*; 6 import grant account:email v2",
                        "DENY Withdrawn Withdrawn by 100 until -"),
                    ("An old yes ran out",
                        "account:email", "5 subject grant account:email until 9",
                        "ALLOW NotConsentBased Expired by 16 until -"),
                    ("The purpose moved from legitimate interest to contract, and never rested on consent",
                        "bonus:email", "5 subject object bonus:*",
                        "ALLOW NotConsentBased Objected by 20 until -"),
                ],
            },
        ],
    },
    Rule {
        title: "3. Erased",
        about: "Once erasure is requested, every cell that a stop can end is stopped at once. \
            Only purposes that never rested on consent go on. The status of an erased person is \
            not given.",
        groups: &[
            Group {
                about: "",
                cases: &[
                    ("Nobody ever defined the purpose",
                        "nowhere:email", "erase",
                        "DENY UnknownPurpose Unknown by - until -"),
                    ("Nobody ever defined the channel",
                        "news:never", "erase",
                        "DENY UnknownChannel Unknown by - until -"),
                    ("The purpose is retired",
                        "old:email", "5 subject grant old:email; erase",
                        "DENY PurposeRetired Unknown by 9 until -"),
                    ("A contract needs it",
                        "invoice:email", "5 subject grant invoice:email; erase",
                        "ALLOW NotConsentBased Unknown by 4 until -"),
                    ("The person had never said anything",
                        "news:email", "erase",
                        "DENY Erased Unknown by 100 until -"),
                    ("The person had said yes",
                        "news:email", "5 subject grant news:email until 30; erase",
                        "DENY Erased Unknown by 101 until -"),
                    ("The person had withdrawn",
                        "news:email", "5 subject withdraw *:*; erase",
                        "DENY Erased Unknown by 101 until -"),
                    ("Legitimate interest ends too",
                        "care:email", "erase",
                        "DENY Erased Unknown by 100 until -"),
                    ("The purpose moved from consent to contract",
                        "account:email", "erase",
                        "DENY Erased Unknown by 100 until -"),
                    ("The same, and the person had withdrawn",
                        "account:email", "5 subject withdraw account:*; erase",
                        "DENY Erased Unknown by 101 until -"),
                    ("A grant after the erasure brings nothing back",
                        "news:email", "erase; 5 subject grant news:email",
                        "DENY Erased Unknown by 100 until -"),
                ],
            },
        ],
    },
    Rule {
        title: "4. A stop stands",
        about: "A refusal, a withdrawal or an objection denies every cell that it covers, until a \
            later grant lifts it.",
        groups: &[
            Group {
                about: "A stop of any kind, by anyone. A withdrawal by the person, a guardian or staff \
                    at the person's word is the person's own (withdrawn); one by anybody else is not \
                    (revoked).",
                cases: &[
                    ("The person refuses",
                        "news:email", "5 subject refuse news:email",
                        "DENY Refused Refused by 100 until -"),
                    ("An import brings a refusal",
                        "news:email", "5 import refuse news:email",
                        "DENY Refused Refused by 100 until -"),
                    ("The person withdraws",
                        "news:email", "5 subject withdraw news:email",
                        "DENY Withdrawn Withdrawn by 100 until -"),
                    ("A guardian withdraws",
                        "news:email", "5 guardian withdraw news:email",
                        "DENY Withdrawn Withdrawn by 100 until -"),
                    ("Staff withdraw at the person's word",
                        "news:email", "5 agent withdraw news:email",
                        "DENY Withdrawn Withdrawn by 100 until -"),
                    ("The company withdraws",
                        "news:email", "5 operator withdraw news:email",
                        "DENY Revoked Revoked by 100 until -"),
                    ("An automated process withdraws",
                        "news:email", "5 system withdraw news:email",
                        "DENY Revoked Revoked by 100 until -"),
                    ("An import brings a withdrawal",
                        "news:email", "5 import withdraw news:email",
                        "DENY Revoked Revoked by 100 until -"),
                    ("The person objects",
                        "news:email", "5 subject object news:email",
                        "DENY Objected Objected by 100 until -"),
                    ("The company notes an objection",
                        "news:email", "5 operator object news:email",
                        "DENY Objected Objected by 100 until -"),
                ],
            },
            Group {
                about: "A stop of any width.",
                cases: &[
                    ("The person withdraws the purpose on every channel",
                        "news:email", "5 subject withdraw news:*",
                        "DENY Withdrawn Withdrawn by 100 until -"),
                    ("The person withdraws every purpose on the channel",
                        "news:email", "5 subject withdraw *:email",
                        "DENY Withdrawn Withdrawn by 100 until -"),
                    ("The person withdraws everything",
                        "news:email", "5 subject withdraw *:*",
                        "DENY Withdrawn Withdrawn by 100 until -"),
                    ("The person withdraws another channel only",
                        "news:email", "5 subject withdraw news:sms",
                        "DENY NoRecord Unknown by - until -"),
                    ("The person withdraws another purpose only",
                        "news:email", "5 subject withdraw offers:*",
                        "DENY NoRecord Unknown by - until -"),
                    ("The person withdraws everything on another channel",
                        "news:email", "5 subject withdraw *:sms",
                        "DENY NoRecord Unknown by - until -"),
                ],
            },
            Group {
                about: "A stop over a grant, as long as the grant is not later.",
                cases: &[
                    ("The person agreed, then withdraws",
                        "news:email", "5 subject grant news:email; 6 subject withdraw news:email",
                        "DENY Withdrawn Withdrawn by 101 until -"),
                    ("The person agreed, then objects to everything",
                        "news:email", "5 subject grant news:email; 6 subject object *:*",
                        "DENY Objected Objected by 101 until -"),
                    ("The person agreed for a time, then withdraws; the time runs out",
                        "news:email", "5 subject grant news:email until 9; 6 subject withdraw *:*",
                        "DENY Withdrawn Withdrawn by 101 until -"),
                    ("The person refused version 1; the text has changed since",
                        "profile:email", "5 subject refuse profile:email",
                        "DENY Refused Refused by 100 until -"),
                ],
            },
            Group {
                about: "Several stops: the latest gives the reason, whatever its width; of one act, the \
                    narrowest.",
                cases: &[
                    ("An objection, then a withdrawal of everything",
                        "news:email", "5 subject object news:email; 6 subject withdraw *:*",
                        "DENY Withdrawn Withdrawn by 101 until -"),
                    ("The same, arriving the other way round",
                        "news:email", "6 subject withdraw *:*; 5 subject object news:email",
                        "DENY Withdrawn Withdrawn by 100 until -"),
                    ("Two stops at the same moment: the one that arrived last",
                        "news:email", "5 subject refuse news:email; 5 subject object news:email",
                        "DENY Objected Objected by 101 until -"),
                    ("One form with a wide stop and a narrow one",
                        "news:email", "5 subject withdraw *:* and object news:email",
                        "DENY Objected Objected by 100 until -"),
                    ("The same, in the other order",
                        "news:email", "5 subject object news:email and withdraw *:*",
                        "DENY Objected Objected by 100 until -"),
                ],
            },
            Group {
                about: "Lifting a stop: only by a later grant of the person, a guardian, or staff at the \
                    person's word, and only in the cells that it names.",
                cases: &[
                    ("The person withdrew everything, and later agrees to this",
                        "news:email", "5 subject withdraw *:*; 6 subject grant news:email",
                        "ALLOW Granted Given by 101 until -"),
                    ("A guardian agrees later",
                        "news:email", "5 subject withdraw *:*; 6 guardian grant news:email",
                        "ALLOW Granted Given by 101 until -"),
                    ("Staff agree later, at the person's word",
                        "news:email", "5 subject withdraw *:*; 6 agent grant news:email",
                        "ALLOW Granted Given by 101 until -"),
                    ("The company grants later",
                        "news:email", "5 subject withdraw *:*; 6 operator grant news:email",
                        "DENY Withdrawn Withdrawn by 100 until -"),
                    ("An automated process grants later",
                        "news:email", "5 subject withdraw *:*; 6 system grant news:email",
                        "DENY Withdrawn Withdrawn by 100 until -"),
                    ("An import says yes later",
                        "news:email", "5 subject withdraw *:*; 6 import grant news:email",
                        "DENY Withdrawn Withdrawn by 100 until -"),
                    ("The company can not lift its own stop either",
                        "news:email", "5 operator withdraw *:*; 6 operator grant news:email",
                        "DENY Revoked Revoked by 100 until -"),
                    ("The person agrees on one channel; the other stays stopped",
                        "news:sms", "5 subject withdraw *:*; 6 subject grant news:email",
                        "DENY Withdrawn Withdrawn by 100 until -"),
                    ("The person agrees to one purpose; the other stays stopped",
                        "offers:email", "5 subject withdraw *:*; 6 subject grant news:email",
                        "DENY Withdrawn Withdrawn by 100 until -"),
                    ("The person refused both channels, and agrees to the other one",
                        "news:email", "5 subject refuse news:email and refuse news:sms; 6 subject grant news:sms",
                        "DENY Refused Refused by 100 until -"),
                    ("One grant lifts every earlier stop of its cell",
                        "news:email", "3 subject refuse news:*; 4 subject object *:email; 5 subject withdraw *:*; 6 subject grant news:email",
                        "ALLOW Granted Given by 103 until -"),
                    ("A later stop of another width stands again",
                        "news:email", "5 subject withdraw *:*; 6 subject grant news:email; 7 subject withdraw *:email",
                        "DENY Withdrawn Withdrawn by 102 until -"),
                    ("Once the person lifted the stop, a later import counts",
                        "news:email", "5 subject withdraw *:*; 6 subject grant news:email; 7 import grant news:email until 30",
                        "ALLOW Granted Given by 102 until 30"),
                ],
            },
            Group {
                about: "At the same moment: the stop comes first, so the grant wins, in whichever order \
                    they arrive.",
                cases: &[
                    ("Withdrawal and grant carry the same time",
                        "news:email", "5 subject withdraw *:*; 5 subject grant news:email",
                        "ALLOW Granted Given by 101 until -"),
                    ("The same, arriving the other way round",
                        "news:email", "5 subject grant news:email; 5 subject withdraw *:*",
                        "ALLOW Granted Given by 100 until -"),
                    ("One form: everything off, except this",
                        "news:email", "5 subject withdraw *:* and grant news:email",
                        "ALLOW Granted Given by 100 until -"),
                    ("The same form, another cell",
                        "news:sms", "5 subject withdraw *:* and grant news:email",
                        "DENY Withdrawn Withdrawn by 100 until -"),
                    ("The same form, but from an import",
                        "news:email", "5 import withdraw *:* and grant news:email",
                        "DENY Revoked Revoked by 100 until -"),
                ],
            },
            Group {
                about: "Late arrivals: a late grant reopens nothing, and a late stop undoes nothing \
                    newer.",
                cases: &[
                    ("A grant from before the withdrawal arrives after it",
                        "news:email", "6 subject withdraw *:*; 5 subject grant news:email",
                        "DENY Withdrawn Withdrawn by 100 until -"),
                    ("A withdrawal from before the grant arrives after it",
                        "news:email", "6 subject grant news:email; 5 subject withdraw *:*",
                        "ALLOW Granted Given by 100 until -"),
                    ("The same, another cell",
                        "news:sms", "6 subject grant news:email; 5 subject withdraw *:*",
                        "DENY Withdrawn Withdrawn by 101 until -"),
                    ("The same, but the grant came from an import",
                        "news:email", "6 import grant news:email; 5 subject withdraw *:*",
                        "DENY Withdrawn Withdrawn by 101 until -"),
                ],
            },
        ],
    },
    Rule {
        title: "5. Legitimate interest",
        about: "Allowed until somebody objects, or stops it in any other way. A grant only lifts stops.",
        groups: &[
            Group {
                about: "",
                cases: &[
                    ("Nobody objected",
                        "care:email", "",
                        "ALLOW NoObjection Unknown by - until -"),
                    ("The person objects",
                        "care:email", "5 subject object care:*",
                        "DENY Objected Objected by 100 until -"),
                    ("The person withdraws everything",
                        "care:email", "5 subject withdraw *:*",
                        "DENY Withdrawn Withdrawn by 100 until -"),
                    ("The person said yes for a time; nobody needed it",
                        "care:email", "5 subject grant care:email until 9",
                        "ALLOW NoObjection Expired by - until -"),
                    ("The person objected, and later agrees",
                        "care:email", "5 subject object care:*; 6 subject grant care:email until 30",
                        "ALLOW NoObjection Given by 101 until -"),
                    ("The person objected, and an import says yes",
                        "care:email", "5 subject object care:*; 6 import grant care:email",
                        "DENY Objected Objected by 100 until -"),
                    ("The person objected, a guardian agreed, and the guardian's authority has ended since",
                        "care:email", "5 subject object care:*; 6 guardian/9 grant care:email",
                        "ALLOW NoObjection Invalidated by 101 until -"),
                ],
            },
            Group {
                about: "By region, and after a change of the basis.",
                cases: &[
                    ("In the United States `ads` rests on legitimate interest",
                        "ads:email in US", "",
                        "ALLOW NoObjection Unknown by - until -"),
                    ("Texas has no basis of its own: that of its country counts",
                        "ads:email in US-TX", "",
                        "ALLOW NoObjection Unknown by - until -"),
                    ("California has a basis of its own: consent",
                        "ads:email in US-CA", "",
                        "DENY NoRecord Unknown by - until -"),
                    ("In California, with consent",
                        "ads:email in US-CA", "5 subject grant ads:email",
                        "ALLOW Granted Given by 100 until -"),
                    ("In the United States, with consent nobody needed",
                        "ads:email in US", "5 subject grant ads:email",
                        "ALLOW NoObjection Given by - until -"),
                    ("In the United States, the person objects",
                        "ads:email in US", "5 subject object ads:*",
                        "DENY Objected Objected by 100 until -"),
                    ("Elsewhere the default counts: consent",
                        "ads:email in FR", "",
                        "DENY NoRecord Unknown by - until -"),
                    ("No region was asked about: the default counts",
                        "ads:email", "",
                        "DENY NoRecord Unknown by - until -"),
                    ("The purpose moved from consent to legitimate interest",
                        "insight:email", "",
                        "ALLOW NoObjection Unknown by - until -"),
                    ("The same, and the person had withdrawn",
                        "insight:email", "5 subject withdraw insight:*",
                        "DENY Withdrawn Withdrawn by 100 until -"),
                ],
            },
        ],
    },
    Rule {
        title: "6. Nothing on record",
        about: "Silence is never a yes.",
        groups: &[
            Group {
                about: "",
                cases: &[
                    ("The person was never asked",
                        "news:email", "",
                        "DENY NoRecord Unknown by - until -"),
                    ("The person agreed on another channel",
                        "news:email", "5 subject grant news:sms",
                        "DENY NoRecord Unknown by - until -"),
                    ("The person agreed to another purpose",
                        "news:email", "5 subject grant offers:email",
                        "DENY NoRecord Unknown by - until -"),
                ],
            },
        ],
    },
    Rule {
        title: "7. Waiting for the double opt-in",
        about: "A request waits until it is confirmed. While it waits it lifts nothing, and it never \
            downgrades what is confirmed. Once confirmed, it counts from the moment of the request, \
            not from that of the confirmation; the confirmation is what decided.",
        groups: &[
            Group {
                about: "Before the confirmation.",
                cases: &[
                    ("The person asks for it",
                        "offers:email", "5 subject grant offers:email",
                        "DENY PendingConfirmation Requested by 100 until -"),
                    ("An import asks for it",
                        "offers:email", "5 import grant offers:email",
                        "DENY PendingConfirmation Requested by 100 until -"),
                    ("The request would have run out by now",
                        "offers:email", "5 subject grant offers:email until 9",
                        "DENY PendingConfirmation Requested by 100 until -"),
                    ("The person asks twice",
                        "offers:email", "5 subject grant offers:email; 6 subject grant offers:email",
                        "DENY PendingConfirmation Requested by 101 until -"),
                    ("The person withdrew, and asks for it later",
                        "offers:email", "5 subject withdraw *:*; 6 subject grant offers:email",
                        "DENY Withdrawn Withdrawn by 100 until -"),
                    ("The person asks, and withdraws before confirming",
                        "offers:email", "5 subject grant offers:email; 6 subject withdraw *:*",
                        "DENY Withdrawn Withdrawn by 101 until -"),
                    ("The person agreed under version 1; a repeated request needs a confirmation",
                        "club:email", "5 subject grant club:email v1; 6 subject grant club:email v2",
                        "ALLOW Granted Given by 100 until -"),
                    ("The same, and the first yes is limited in time",
                        "club:email", "5 subject grant club:email v1 until 30; 6 subject grant club:email v2",
                        "ALLOW Granted Given by 100 until 30"),
                    ("The same, and the first yes has run out",
                        "club:email", "5 subject grant club:email v1 until 9; 6 subject grant club:email v2",
                        "DENY PendingConfirmation Requested by 101 until -"),
                    ("The request is older than a yes that has run out",
                        "club:email", "5 subject grant club:email v2; 6 subject grant club:email v1 until 9",
                        "DENY Expired Expired by 101 until -"),
                    ("The person agreed, withdrew, and asks again",
                        "club:email", "4 subject grant club:email v1; 5 subject withdraw *:*; 6 subject grant club:email v2",
                        "DENY Withdrawn Withdrawn by 101 until -"),
                ],
            },
            Group {
                about: "After the confirmation.",
                cases: &[
                    ("The person asks and confirms",
                        "offers:email", "5 subject grant offers:email; confirm 100",
                        "ALLOW Granted Given by 101 until -"),
                    ("The same, limited in time",
                        "offers:email", "5 subject grant offers:email until 30; confirm 100",
                        "ALLOW Granted Given by 101 until 30"),
                    ("The same, and the time has run out",
                        "offers:email", "5 subject grant offers:email until 9; confirm 100",
                        "DENY Expired Expired by 101 until -"),
                    ("The same request is confirmed twice: the first confirmation counts",
                        "offers:email", "5 subject grant offers:email; confirm 100; confirm 100",
                        "ALLOW Granted Given by 101 until -"),
                    ("A request that an import brought is confirmed",
                        "offers:email", "5 import grant offers:email; confirm 100",
                        "ALLOW Granted Given by 101 until -"),
                    ("The person asks twice, and confirms the first request",
                        "offers:email", "5 subject grant offers:email; 6 subject grant offers:email; confirm 100",
                        "ALLOW Granted Given by 102 until -"),
                    ("The person confirmed, and asks again: never a downgrade",
                        "offers:email", "5 subject grant offers:email; confirm 100; 6 subject grant offers:email",
                        "ALLOW Granted Given by 101 until -"),
                    ("The same, and what was confirmed has run out",
                        "offers:email", "5 subject grant offers:email until 9; confirm 100; 6 subject grant offers:email",
                        "DENY PendingConfirmation Requested by 102 until -"),
                    ("One form asks for two channels, and one confirmation completes both",
                        "offers:sms", "5 subject grant offers:email and grant offers:sms; confirm 100",
                        "ALLOW Granted Given by 101 until -"),
                    ("One form asks for two purposes, and one of them needs no confirmation",
                        "news:email", "5 subject grant news:email and grant offers:email; confirm 100",
                        "ALLOW Granted Given by 100 until -"),
                ],
            },
            Group {
                about: "Stops and confirmations.",
                cases: &[
                    ("The person asks, withdraws, and only then confirms",
                        "offers:email", "5 subject grant offers:email; 6 subject withdraw *:*; confirm 100",
                        "DENY Withdrawn Withdrawn by 101 until -"),
                    ("The person confirms, and withdraws later",
                        "offers:email", "5 subject grant offers:email; confirm 100; 6 subject withdraw *:*",
                        "DENY Withdrawn Withdrawn by 102 until -"),
                    ("The person withdrew, asks for it later, and confirms",
                        "offers:email", "5 subject withdraw *:*; 6 subject grant offers:email; confirm 101",
                        "ALLOW Granted Given by 102 until -"),
                    ("A withdrawal from before the request arrives after the confirmation",
                        "offers:email", "6 subject grant offers:email; confirm 100; 5 subject withdraw *:*",
                        "ALLOW Granted Given by 101 until -"),
                    ("The person withdrew, and a request by import is confirmed",
                        "offers:email", "5 subject withdraw *:*; 6 import grant offers:email; confirm 101",
                        "DENY Withdrawn Withdrawn by 100 until -"),
                    ("The confirmation lifts the stop in the cell of the request alone",
                        "offers:sms", "5 subject withdraw *:*; 6 subject grant offers:email; confirm 101",
                        "DENY Withdrawn Withdrawn by 100 until -"),
                ],
            },
        ],
    },
    Rule {
        title: "8. Expired",
        about: "A grant ends at its expiry: that moment is the first without it. No older grant comes \
            back.",
        groups: &[
            Group {
                about: "",
                cases: &[
                    ("The grant ended a moment ago",
                        "news:email", "5 subject grant news:email until 19",
                        "DENY Expired Expired by 100 until -"),
                    ("The grant ends now",
                        "news:email", "5 subject grant news:email until 20",
                        "DENY Expired Expired by 100 until -"),
                    ("The grant ends in a moment",
                        "news:email", "5 subject grant news:email until 21",
                        "ALLOW Granted Given by 100 until 21"),
                    ("An unlimited grant, then a limited one",
                        "news:email", "5 subject grant news:email; 6 subject grant news:email until 9",
                        "DENY Expired Expired by 101 until -"),
                    ("The same, and an import brought the limited one",
                        "news:email", "5 subject grant news:email; 6 import grant news:email until 9",
                        "DENY Expired Expired by 101 until -"),
                    ("The grant lifted a stop, and ran out; the stop does not come back",
                        "news:email", "5 subject withdraw *:*; 6 subject grant news:email until 9",
                        "DENY Expired Expired by 101 until -"),
                    ("The grant ran out, and its version no longer counts either",
                        "profile:email", "5 subject grant profile:email v1 until 9",
                        "DENY Expired Expired by 100 until -"),
                ],
            },
        ],
    },
    Rule {
        title: "9. Consent must be asked for again",
        about: "A grant of a version that no longer counts is no consent any more. Nor is a guardian's \
            grant once the guardian's authority has ended: the person has come of age, and is asked.",
        groups: &[
            Group {
                about: "Versions: the catalogue entry that raised the oldest compatible version decided.",
                cases: &[
                    ("The person agreed to version 1, which no longer counts",
                        "profile:email", "5 subject grant profile:email v1",
                        "DENY ReconsentRequired Invalidated by 12 until -"),
                    ("The same, limited in time: then the reason changes",
                        "profile:email", "5 subject grant profile:email v1 until 30",
                        "DENY ReconsentRequired Invalidated by 12 until 30"),
                    ("The person agreed to version 2",
                        "profile:email", "5 subject grant profile:email v2",
                        "ALLOW Granted Given by 100 until -"),
                    ("The person agreed to version 2, and later to an old form with version 1",
                        "profile:email", "5 subject grant profile:email v2; 6 subject grant profile:email v1",
                        "DENY ReconsentRequired Invalidated by 12 until -"),
                    ("A version that the catalogue does not have never counts",
                        "news:email", "5 subject grant news:email v7",
                        "DENY PendingConfirmation Requested by 100 until -"),
                ],
            },
            Group {
                about: "Guardians: their grants end with their authority, their stops do not.",
                cases: &[
                    ("A guardian agreed, with no end of authority on record",
                        "news:email", "5 guardian grant news:email",
                        "ALLOW Granted Given by 100 until -"),
                    ("A guardian agreed, and the authority has not ended",
                        "news:email", "5 guardian/30 grant news:email",
                        "ALLOW Granted Given by 100 until 30"),
                    ("The authority ends now",
                        "news:email", "5 guardian/20 grant news:email",
                        "DENY ReconsentRequired Invalidated by 100 until -"),
                    ("The grant is limited in time, and ends before the authority",
                        "news:email", "5 guardian/30 grant news:email until 25",
                        "ALLOW Granted Given by 100 until 25"),
                    ("The authority has ended; the grant would last longer",
                        "news:email", "5 guardian/9 grant news:email until 30",
                        "DENY ReconsentRequired Invalidated by 100 until 30"),
                    ("Authority and grant have both ended",
                        "news:email", "5 guardian/9 grant news:email until 15",
                        "DENY Expired Expired by 100 until -"),
                    ("The person, of age, agrees in person",
                        "news:email", "5 guardian/9 grant news:email; 10 subject grant news:email",
                        "ALLOW Granted Given by 101 until -"),
                    ("The person had agreed in person before",
                        "news:email", "5 subject grant news:email; 6 guardian/9 grant news:email",
                        "DENY ReconsentRequired Invalidated by 101 until -"),
                    ("A guardian withdrew, and the authority has ended",
                        "news:email", "5 guardian/9 withdraw news:*",
                        "DENY Withdrawn Withdrawn by 100 until -"),
                    ("A guardian lifted a stop, and the authority has ended; the stop does not come back",
                        "news:email", "5 subject withdraw *:*; 6 guardian/9 grant news:email",
                        "DENY ReconsentRequired Invalidated by 101 until -"),
                    ("A guardian's request was confirmed, and the authority has ended",
                        "offers:email", "5 guardian/9 grant offers:email; confirm 100",
                        "DENY ReconsentRequired Invalidated by 101 until -"),
                    ("The authority has ended, and the person's own request waits",
                        "offers:email", "5 guardian/9 grant offers:email; confirm 100; 10 subject grant offers:email",
                        "DENY PendingConfirmation Requested by 102 until -"),
                ],
            },
        ],
    },
    Rule {
        title: "10. Data categories",
        about: "The question may name the data categories to be used. The version that the person \
            agreed to must declare each of them, and each must be within the grant if the grant \
            was narrowed. A category covers all categories below it: `user.contact` covers \
            `user.contact.email`.",
        groups: &[
            Group {
                about: "",
                cases: &[
                    ("A category that the purpose declares",
                        "news:email user.contact", "5 subject grant news:email",
                        "ALLOW Granted Given by 100 until -"),
                    ("A category below one that it declares",
                        "news:email user.contact.email", "5 subject grant news:email",
                        "ALLOW Granted Given by 100 until -"),
                    ("Two categories that it declares",
                        "news:email user.contact user.name", "5 subject grant news:email",
                        "ALLOW Granted Given by 100 until -"),
                    ("A category above those that it declares",
                        "news:email user", "5 subject grant news:email until 30",
                        "DENY DataCategoryNotCovered Given by 100 until 30"),
                    ("A category that only looks alike",
                        "news:email user.contacts", "5 subject grant news:email",
                        "DENY DataCategoryNotCovered Given by 100 until -"),
                    ("One declared category and one that is not",
                        "news:email user.name user.age", "5 subject grant news:email",
                        "DENY DataCategoryNotCovered Given by 100 until -"),
                    ("The grant was narrowed to something else",
                        "news:email user.name", "5 subject grant news:email only user.contact.email",
                        "DENY DataCategoryNotCovered Given by 100 until -"),
                    ("The grant was narrowed to a part of it",
                        "news:email user.contact", "5 subject grant news:email only user.contact.email",
                        "DENY DataCategoryNotCovered Given by 100 until -"),
                    ("The grant was narrowed to exactly this",
                        "news:email user.contact.email", "5 subject grant news:email only user.contact.email",
                        "ALLOW Granted Given by 100 until -"),
                    ("The grant was narrowed to what the purpose never declared",
                        "news:email user.age", "5 subject grant news:email only user.age",
                        "DENY DataCategoryNotCovered Given by 100 until -"),
                    ("The same, and no category was asked about",
                        "news:email", "5 subject grant news:email only user.age",
                        "ALLOW Granted Given by 100 until -"),
                    ("An older version that still counts",
                        "club:email user.contact", "5 subject grant club:email v1",
                        "ALLOW Granted Given by 100 until -"),
                    ("An older version that no longer counts",
                        "profile:email user.age", "5 subject grant profile:email v1",
                        "DENY ReconsentRequired Invalidated by 12 until -"),
                    ("A guardian's grant, until the authority ends",
                        "news:email user.age", "5 guardian/25 grant news:email until 30",
                        "DENY DataCategoryNotCovered Given by 100 until 25"),
                    ("Legitimate interest is not limited so",
                        "care:email user.age", "",
                        "ALLOW NoObjection Unknown by - until -"),
                    ("Nor is a contract",
                        "invoice:email user.age", "",
                        "ALLOW NotConsentBased Unknown by 4 until -"),
                ],
            },
        ],
    },
    Rule {
        title: "11. Granted",
        about: "Where no stop stands, anybody's grant counts, and the latest decides.",
        groups: &[
            Group {
                about: "",
                cases: &[
                    ("The person agreed",
                        "news:email", "5 subject grant news:email",
                        "ALLOW Granted Given by 100 until -"),
                    ("The company recorded a yes",
                        "news:email", "5 operator grant news:email",
                        "ALLOW Granted Given by 100 until -"),
                    ("An import brought a yes, limited in time",
                        "news:email", "5 import grant news:email until 30",
                        "ALLOW Granted Given by 100 until 30"),
                    ("The person agreed twice",
                        "news:email", "5 subject grant news:email; 6 subject grant news:email",
                        "ALLOW Granted Given by 101 until -"),
                    ("The same, arriving the other way round",
                        "news:email", "6 subject grant news:email; 5 subject grant news:email",
                        "ALLOW Granted Given by 100 until -"),
                    ("Two grants at the same moment: the one that arrived last",
                        "news:email", "5 subject grant news:email; 5 agent grant news:email",
                        "ALLOW Granted Given by 101 until -"),
                ],
            },
        ],
    },
    Rule {
        title: "Linked identifiers",
        about: "One person can be known by several identifiers; here they are called `a`, which \
            the question is about, `b` and `c`. A verified link says that two identifiers are the \
            same person: all acts of each count for the other. An asserted link says that they \
            may be: each contributes its stops to the other, and nothing else. A path of verified \
            links connects the same person; any other path connects identifiers that may be the \
            same person. The rules above then apply to all acts that count, as if one person had \
            made them.",
        groups: &[
            Group {
                about: "Verified links.",
                cases: &[
                    ("The other identifier agreed",
                        "news:email", "b 5 subject grant news:email; verify a b",
                        "ALLOW Granted Given by 100 until -"),
                    ("The other identifier withdrew later",
                        "news:email", "5 subject grant news:email; b 6 subject withdraw *:*; verify a b",
                        "DENY Withdrawn Withdrawn by 101 until -"),
                    ("The other identifier agreed later than this one withdrew",
                        "news:email", "5 subject withdraw *:*; b 6 subject grant news:email; verify a b",
                        "ALLOW Granted Given by 101 until -"),
                    ("An import granted for the other identifier, after this one withdrew",
                        "news:email", "5 subject withdraw *:*; b 6 import grant news:email; verify a b",
                        "DENY Withdrawn Withdrawn by 100 until -"),
                    ("The other identifier had agreed before this one withdrew: nothing is revived",
                        "news:email", "6 subject withdraw *:*; b 5 subject grant news:email; verify a b",
                        "DENY Withdrawn Withdrawn by 100 until -"),
                    ("The latest grant of all decides, and it has run out",
                        "news:email", "5 subject grant news:email; b 6 subject grant news:email until 9; verify a b",
                        "DENY Expired Expired by 101 until -"),
                    ("The other identifier asked for a double opt-in and confirmed",
                        "offers:email", "b 5 subject grant offers:email; confirm 100; verify a b",
                        "ALLOW Granted Given by 101 until -"),
                ],
            },
            Group {
                about: "Asserted links.",
                cases: &[
                    ("The other identifier agreed",
                        "news:email", "b 5 subject grant news:email; assert a b",
                        "DENY NoRecord Unknown by - until -"),
                    ("The other identifier withdrew later",
                        "news:email", "5 subject grant news:email; b 6 subject withdraw *:*; assert a b",
                        "DENY Withdrawn Withdrawn by 101 until -"),
                    ("The other identifier agreed later than this one withdrew",
                        "news:email", "5 subject withdraw *:*; b 6 subject grant news:email; assert a b",
                        "DENY Withdrawn Withdrawn by 100 until -"),
                    ("This identifier agreed later than the other one withdrew",
                        "news:email", "b 5 subject withdraw *:*; 6 subject grant news:email; assert a b",
                        "ALLOW Granted Given by 101 until -"),
                    ("The other identifier withdrew, then agreed again; its stop counts here, its grant does not",
                        "news:email", "4 subject grant news:email; b 5 subject withdraw *:*; b 6 subject grant news:email; assert a b",
                        "DENY Withdrawn Withdrawn by 101 until -"),
                    ("The other identifier objects to legitimate interest",
                        "care:email", "b 5 subject object care:*; assert a b",
                        "DENY Objected Objected by 100 until -"),
                ],
            },
            Group {
                about: "Chains.",
                cases: &[
                    ("Verified and verified: the far end agreed",
                        "news:email", "c 5 subject grant news:email; verify a b; verify b c",
                        "ALLOW Granted Given by 100 until -"),
                    ("Verified and asserted: the far end agreed",
                        "news:email", "c 5 subject grant news:email; verify a b; assert b c",
                        "DENY NoRecord Unknown by - until -"),
                    ("Verified and asserted: the far end withdrew",
                        "news:email", "4 subject grant news:email; c 5 subject withdraw *:*; verify a b; assert b c",
                        "DENY Withdrawn Withdrawn by 101 until -"),
                    ("Asserted and verified: the far end agreed",
                        "news:email", "c 5 subject grant news:email; assert a b; verify b c",
                        "DENY NoRecord Unknown by - until -"),
                    ("Asserted and verified: the far end withdrew",
                        "news:email", "4 subject grant news:email; c 5 subject withdraw *:*; assert a b; verify b c",
                        "DENY Withdrawn Withdrawn by 101 until -"),
                    ("An asserted link beside a way of verified ones takes nothing away",
                        "news:email", "c 5 subject grant news:email; assert a c; verify a b; verify b c",
                        "ALLOW Granted Given by 100 until -"),
                ],
            },
            Group {
                about: "Changing links: a link changes no entry, so unlinking restores exactly the state \
                    without it.",
                cases: &[
                    ("The other identifier agreed; the link is taken back",
                        "news:email", "b 5 subject grant news:email; verify a b; unlink a b",
                        "DENY NoRecord Unknown by - until -"),
                    ("The other identifier withdrew; the link is taken back",
                        "news:email", "4 subject grant news:email; b 5 subject withdraw *:*; assert a b; unlink b a",
                        "ALLOW Granted Given by 100 until -"),
                    ("An asserted link is verified later",
                        "news:email", "b 5 subject grant news:email; assert a b; verify a b",
                        "ALLOW Granted Given by 100 until -"),
                ],
            },
        ],
    },
];

#[test]
fn every_row_of_the_table_answers_as_it_says() {
    let catalog = catalog();
    let mut wrong = Vec::new();
    let groups = RULES.iter().flat_map(|rule| rule.groups);
    for &(title, question, history, want) in groups.flat_map(|group| group.cases) {
        let got = in_words(&ask(&catalog, &state_after(&catalog, history), question));
        if got != want {
            wrong.push(format!(
                "{title}: {question} after \"{history}\"\n  got  {got}\n  want {want}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{} cases\n{}", wrong.len(), wrong.join("\n"));
}

fn state_after(catalog: &Catalog, history: &str) -> SubjectState {
    People::after(catalog, &entries(catalog, history)).whole(ASKED)
}

fn ask(catalog: &Catalog, state: &SubjectState, question: &str) -> Decision {
    let (question, region) = match question.split_once(" in ") {
        Some((question, region)) => (question, Some(region)),
        None => (question, None),
    };
    let mut words = question.split_whitespace();
    let (purpose, channel) = words.next().unwrap().split_once(':').unwrap();
    let categories: Vec<String> = words.map(str::to_owned).collect();
    let region = region.map(|text| Region::parse(text).unwrap());
    let query = Query::new(catalog, purpose, channel, &categories, region);
    decide(catalog, state, &query, NOW)
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
        let state = state_after(&catalog, history);
        assert_eq!(ask(&catalog, &state, question).obligations, want, "{question} {history}");
    }
}

#[test]
fn a_grant_of_a_version_that_is_gone_asks_for_consent_again() {
    let catalog = catalog();
    let mut state = state_after(&catalog, "5 subject grant news:email");
    let mut cells = state.cells().to_vec();
    cells[0].grant.as_mut().unwrap().purpose_version = 7;
    state = SubjectState::from_parts(Vec::new(), cells, None, state.revision);
    let got = in_words(&ask(&catalog, &state, "news:email"));
    assert_eq!(got, "DENY ReconsentRequired Invalidated by 1 until -");
}
