//! docs/decisions.md, made from the tables that the tests run.

use std::{env, fmt::Write as _, fs, path::Path};

use consent_ledger::domain::Actor;

use super::{
    outcomes,
    table::{self, Case},
    world::{Act, CHANNELS, Content, Entry, PURPOSES, catalog, entries},
};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/decisions.md");

const HEAD: &str = "\
<!-- Made from tests/semantics/table.rs and tests/semantics/outcomes.rs, which the tests run.
     Do not edit it here: change the cases, then run `UPDATE_DOCS=1 cargo test --test suite semantics::`. -->

# May I? Every kind of case, and its answer

This document is for privacy officers, and for engineers whose services ask the ledger. It lists, case by
case, the answer to *\"may I use this person's data for this purpose, over this channel, now?\"*. It is
made from the tests of the software: each line below is checked whenever the software changes, and a
line that is no longer true fails.

- [How to read it](#how-to-read-it)
- [Which act wins](#which-act-wins)
- [The catalogue of the examples](#the-catalogue-of-the-examples)
- [The rules and their cases](#the-rules-and-their-cases)
- [What becomes of a change](#what-becomes-of-a-change)
- [What holds for every history](#what-holds-for-every-history)

## How to read it

Each line says what happened, in words and then in a short notation, and gives the answer to a question
asked **at time 20**. Times are plain numbers: 6 is later than 5.

| column | meaning |
| --- | --- |
| Asked about | `purpose:channel`; then the data categories to be used and the region, if the question names them. |
| Answer | **ALLOW** or **DENY**, and the reason. An error or no answer at all means DENY. Where quiet hours or a frequency limit do not let an allowed use happen at the moment, a caller hears **NOT NOW** in place of ALLOW, with the same reason and the first moment that is permitted. |
| Status | The status on record for this purpose and channel, in the words of the W3C Data Privacy Vocabulary. |
| Decided by | The index of the ledger's entry that decided. Indexes below 100 are entries of the catalogue; indexes from 100 on are acts and other events. A dash: no entry decided. |
| Valid until | The first moment at which the answer could change without a new entry. A dash: never. |

| status | meaning |
| --- | --- |
| `UNKNOWN` | Nothing on record counts, or the person is erased. |
| `REQUESTED` | Asked for, and waiting for the double opt-in. |
| `GIVEN` | Consent is given. |
| `EXPIRED` | It was given, and has expired. |
| `INVALIDATED` | It was given, and must be asked for again. |
| `REFUSED` | The person was asked, and did not agree. |
| `WITHDRAWN` | Consent was taken back by the person, or by someone who speaks for them. |
| `REVOKED` | Consent was taken back by somebody else. |
| `OBJECTED` | The person objected (GDPR Art. 21). |

The notation is exact. Entries are separated by `;` and numbered from 100 on, in the order in which they
*arrive*:

| notation | meaning |
| --- | --- |
| `5 subject grant news:email` | An act that took effect at 5: who acts, what they do, what it covers. |
| `… and withdraw *:sms` | A further change of the same act. `*` stands for every purpose, or every channel. |
| `… grant club:email v2 until 30` | The version of the purpose that was agreed to (else 1), and when the grant ends. |
| `… grant news:email only user.name` | A grant that is narrowed to some data categories. |
| `guardian/18` | A guardian whose authority ends at 18. |
| `confirm 100` | The double opt-in of act 100 is completed. |
| `b 5 subject …` | An act of another identifier, `b`. An act without a name is one of `a`, which the question is about. |
| `verify a b`, `assert a b`, `unlink a b` | Two identifiers are linked (verified or asserted), or unlinked. |
| `erase` | Erasure is asked for. |

Who acts: `subject` is the person, `guardian` a holder of parental responsibility or legal guardian,
`agent` staff at the person's word; these three speak for the person. `operator` is the company of its
own accord, `system` an automated process, `import` a transfer from another system.

What they do: `grant` gives consent, for exactly one purpose over one channel. `refuse`, `withdraw`
and `object` are **stops**; a stop may cover one purpose over one channel, a purpose on every channel
(`news:*`), a class of purposes on one channel or on every one (`shop.*:email`, `shop.*:*`), a channel for
every purpose (`*:email`), or everything (`*:*`). The class `shop.*` has every purpose whose key begins with
`shop.`, also those that come later; not a purpose named `shop`.

## Which act wins

1. Acts are ordered by the time at which they **took effect**, not by arrival. At the same time a stop
   wins over a grant of another act, whichever arrived first. Within one act the grant of a named cell
   stands beside that act's own stop (\"everything off but this\"). Of two grants of one time, the one
   recorded later counts.
2. A stop is lifted only by a later grant of someone who speaks for the person, and only for the purpose
   and channel that the grant names. A grant of anybody else never lifts a stop, and does not count
   later.
3. Where no stop stands, the latest grant decides. Its expiry is tested only then: an expired grant
   never revives an older one. A grant of anybody who does not speak for the person counts only where
   no stop ever covered the purpose and channel, lifted or not. And it never ends, shortens or narrows
   the person's own: as long as that one counts, it allows what it covers.
4. A request that waits for its double opt-in lifts no stop and ends no grant. Once confirmed, it
   counts from the time of the request: a stop after the request still stands.
5. Stops never expire, and no new version of a purpose ends them. A stop by `operator`, `system` or
   `import` over a standing stop of the person often only reports it back: the answer goes on to name
   the person's own. An objection is the person's own, whoever reports it.
6. Of the stops of one act the narrowest is named: first by purposes (one purpose, then its classes from
   the inner to the outer, then every purpose), and with the same purposes one channel before every channel.
   Width never matters for what is stopped.
7. Acts of linked identifiers count as if they were the person's own: all acts if the link is verified,
   stops alone if it is asserted. So a stop of one identifier may change the answer about another, and its
   outcome says that it did.
";

const RULES: &str = "\
## The rules and their cases

The first rule that applies decides.
";

const OUTCOMES: &str = "\
## What becomes of a change

Every act is recorded, even if it changes nothing, unless the caller asks to record only news. The answer
gives the outcome of each change. A change without effect is never reported as a success.

An act is judged for all identifiers that are linked to its own: for those that are the same person, and
with its stops also for those that may be. The answer says to how many of them a change applied, never to
which.

| outcome | meaning |
| --- | --- |
| `APPLIED` | The change now decides for something that it covers, of this identifier or of a linked one. |
| `NO_EFFECT` | The change is recorded, but no answer and no consent on record changed. |
| `BLOCKED_BY_STOP` | The grant may not lift the stop with this index, or it comes after an erasure. |
| `SUPERSEDED_BY_LATER` | The act with this index took effect later, and decides. |
| `PENDING_CONFIRMATION` | A grant that waits for its double opt-in. |

Each case is recorded at time 20. Earlier entries have the numbers from 100 on.
";

const PROPERTIES: &str = "\
## What holds for every history

Cases are examples. Beyond them, these statements are tested with random histories of acts,
confirmations, links and erasures, in random catalogues; every answer and every outcome is also compared
with that of a second, deliberately simple program that reads the whole history again for each question.

- The order of arrival never matters.
- A stop never turns a DENY into an ALLOW, not even through a link.
- An erasure never turns a DENY into an ALLOW.
- A grant by `operator`, `system` or `import` never lifts a stop, confirmed or not. One that a stop
  blocked never changes an answer, whatever comes later.
- An asserted link never turns a DENY into an ALLOW. A verified link reopens what a stop closed only
  where a later grant of the same person lifts it.
- Unlinking brings back exactly what was.
- Identifiers connected by verified links get the same answer.
- \"Valid until\" is the first moment at which the answer changes by itself.
- No answer about anybody, linked or not, changes from ALLOW to DENY or back without a change whose outcome
  is `APPLIED`, and the outcome counts all linked identifiers whose answers changed.
";

#[test]
fn the_document_is_what_the_tables_say() {
    let want = document();
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::create_dir_all(Path::new(PATH).parent().unwrap()).unwrap();
        fs::write(PATH, &want).unwrap();
    }
    let is = fs::read_to_string(PATH).unwrap_or_default();
    let differs = is.lines().zip(want.lines()).position(|(is, want)| is != want);
    assert!(
        is == want,
        "docs/decisions.md is not what the tables say, from line {} on: \
         run `UPDATE_DOCS=1 cargo test --test suite semantics::` and commit the result",
        differs.unwrap_or(is.lines().count().min(want.lines().count())) + 1
    );
}

fn document() -> String {
    let mut text = HEAD.to_owned();
    push_catalog(&mut text);
    text.push('\n');
    text.push_str(RULES);
    for rule in table::RULES {
        write!(text, "\n### {}\n\n{}\n", rule.title, wrapped(rule.about)).unwrap();
        for group in rule.groups {
            push_about(&mut text, group.about);
            text.push_str(
                "\n| What happened | Asked about | Answer | Status | Decided by | Valid until |\n\
                 | --- | --- | --- | --- | --- | --- |\n",
            );
            text.extend(group.cases.iter().map(decision_line));
        }
    }
    text.push('\n');
    text.push_str(OUTCOMES);
    for group in outcomes::GROUPS {
        push_about(&mut text, group.about);
        text.push_str("\n| Was on record | Is recorded | Outcome |\n| --- | --- | --- |\n");
        text.extend(group.cases.iter().map(outcome_line));
    }
    write!(text, "\n### The rules of outcomes\n\n{}\n", outcome_rules()).unwrap();
    text.push_str(PROPERTIES);
    text
}

/// The rules of outcomes, as the module says them that follows them.
fn outcome_rules() -> String {
    let module = include_str!("../../crates/core/src/fold/consent.rs");
    let about = module.lines().map_while(|line| line.strip_prefix("//!"));
    let rules = about.skip_while(|line| *line != " # Outcomes").skip(1);
    rules.map(|line| format!("{}\n", line.strip_prefix(' ').unwrap_or(line))).collect()
}

fn push_about(text: &mut String, about: &str) {
    if !about.is_empty() {
        write!(text, "\n{}\n", wrapped(about)).unwrap();
    }
}

fn push_catalog(text: &mut String) {
    text.push_str("\n## The catalogue of the examples\n\n");
    text.push_str(
        "Purposes, one line for each entry; a purpose with several lines was changed. The oldest version that\n\
         counts, and a retirement, are valid from that entry on.\n\n",
    );
    text.push_str(
        "| entry | purpose | version | legal basis | data categories | remarks |\n\
         | --- | --- | --- | --- | --- | --- |\n",
    );
    let mut version = 0;
    for (position, line) in PURPOSES.iter().enumerate() {
        let before = position.checked_sub(1).map(|position| &PURPOSES[position]);
        let before = before.filter(|before| before.key == line.key);
        version = match before {
            None => 1,
            Some(previous) if previous.version_content() == line.version_content() => version,
            Some(_) => version + 1,
        };
        let mut remarks = Vec::new();
        if line.double_opt_in {
            remarks.push("needs a double opt-in".to_owned());
        }
        if line.oldest_compatible > 1 {
            remarks.push(format!("grants count from version {} on", line.oldest_compatible));
        }
        if line.retired {
            remarks.push("retired".to_owned());
        }
        let categories: Vec<_> =
            line.categories.iter().map(|category| format!("`{category}`")).collect();
        let (categories, remarks) = (categories.join(", "), remarks.join(", "));
        let (index, key, bases) = (line.index, line.key, bases_in_words(line.bases));
        writeln!(text, "| #{index} | `{key}` | {version} | {bases} | {categories} | {remarks} |")
            .unwrap();
    }
    let channels = CHANNELS.map(|(key, retired)| {
        if retired { format!("`{key}`, which is retired") } else { format!("`{key}`") }
    });
    writeln!(text, "\nChannels: {}.", channels.join(", ")).unwrap();
}

fn bases_in_words(bases: &str) -> String {
    let words = |basis: &str| basis.replace('-', " ");
    let of_one = |(position, text): (usize, &str)| match text.split_once('=') {
        Some((region, basis)) => format!("{} in {region}", words(basis)),
        None if position == 0 => words(text),
        None => panic!("the default comes first"),
    };
    bases.split(' ').enumerate().map(of_one).collect::<Vec<_>>().join("; ")
}

fn decision_line(&(title, question, history, answer): &Case) -> String {
    let notation = if history.is_empty() { String::new() } else { format!("<br>`{history}`") };
    let (question, region) = match question.split_once(" in ") {
        Some((question, region)) => (question, format!(" in {region}")),
        None => (question, String::new()),
    };
    let question = question.replace(' ', "` `");
    let words: Vec<_> = answer.split(' ').collect();
    let &[effect, reason, status, "by", by, "until", until] = words.as_slice() else {
        panic!("{answer} is no answer");
    };
    let (reason, status) = (screaming(reason), screaming(status));
    let by = if by == "-" { "–".to_owned() } else { format!("#{by}") };
    let until = if until == "-" { "–" } else { until };
    format!(
        "| {title}{notation} | `{question}`{region} | **{effect}** `{reason}` | `{status}` | {by} | {until} |\n"
    )
}

fn outcome_line(&(before, last, outcome): &(&str, &str, &str)) -> String {
    let catalog = catalog();
    let mut entries = entries(&catalog, &format!("{before}; {last}"));
    let last = entries.pop().unwrap();
    let before: Vec<_> =
        entries.iter().map(|entry| format!("#{} {}", entry.index, in_words(entry))).collect();
    let before = if before.is_empty() { "nothing".to_owned() } else { before.join("<br>") };
    let outcomes: Vec<_> = outcome.split(", ").map(outcome_in_words).collect();
    format!("| {before} | {} | {} |\n", in_words(&last), outcomes.join("<br>"))
}

/// An outcome by its name in the API.
fn outcome_in_words(outcome: &str) -> String {
    match outcome.split_once(" by ") {
        Some(("BLOCKED", cause)) => format!("`BLOCKED_BY_STOP` {}", cause_in_words(cause)),
        Some((_, cause)) => format!("`SUPERSEDED_BY_LATER` {}", cause_in_words(cause)),
        None if outcome == "PENDING" => "`PENDING_CONFIRMATION`".to_owned(),
        None => format!("`{outcome}`"),
    }
}

fn cause_in_words(cause: &str) -> String {
    match cause.parse::<u64>() {
        Ok(index) => format!("#{index}"),
        Err(_) => "by a linked subject".to_owned(),
    }
}

fn in_words(entry: &Entry) -> String {
    match &entry.content {
        Content::Act(act) => act_in_words(act),
        Content::Confirmed(confirmation) => {
            format!("the double opt-in of #{} is completed", confirmation.request_index)
        }
        Content::Link { one, other, confidence } => match confidence {
            Some(confidence) => {
                let how = format!("{confidence:?}").to_lowercase();
                format!("a {how} link between `{one}` and `{other}`")
            }
            None => format!("no link any more between `{one}` and `{other}`"),
        },
        Content::Erased(_) => "erasure is asked for".to_owned(),
    }
}

fn act_in_words(act: &Act) -> String {
    let name = if act.subject == 'a' { String::new() } else { format!(" `{}`", act.subject) };
    let actor = match act.actor {
        Actor::Subject => "the person",
        Actor::Guardian => "a guardian",
        Actor::Agent => "staff, at the person's word,",
        Actor::Operator => "the company",
        Actor::System => "an automated process",
        Actor::Import => "an import",
    };
    let until =
        act.authority_ends_at.map_or(String::new(), |at| format!(" (authority until {})", at.0));
    let changes = act.changes.iter().map(|change| {
        let verb = match format!("{:?}", change.action).as_str() {
            "Grant" => "grants",
            "Refuse" => "refuses",
            "Withdraw" => "withdraws",
            _ => "objects to",
        };
        let scope = match (&change.scope.purpose, &change.scope.channel) {
            (Some(purpose), Some(channel)) => format!("`{purpose}` by `{channel}`"),
            (Some(purpose), None) => format!("`{purpose}` on every channel"),
            (None, Some(channel)) => format!("everything by `{channel}`"),
            (None, None) => "everything".to_owned(),
        };
        let version = match change.purpose_version {
            0 | 1 => String::new(),
            version => format!(", version {version}"),
        };
        let until = change.expires_at.map_or(String::new(), |at| format!(", until {}", at.0));
        let only = change.data_categories.iter().map(|category| format!(", only `{category}`"));
        format!("{verb} {scope}{version}{until}{}", only.collect::<String>())
    });
    let changes = changes.collect::<Vec<_>>().join(" and ");
    format!("at {}, {actor}{name}{until} {changes}", act.effective_at.0)
}

/// `NoRecord` as the API writes it: `NO_RECORD`.
fn screaming(name: &str) -> String {
    let mut text = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.push(letter.to_ascii_uppercase());
    }
    text
}

/// The same text in lines of at most 100 characters.
fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().unwrap();
        if line.len() + 1 + word.len() > 100 {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines.join("\n")
}
