//! README and the guides against the code: everything that they name exists, their tables are
//! complete, and their links lead somewhere.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Arg, Command, CommandFactory};
use consent_ledger::{
    cli::Cli,
    proto::{ErrorReason, FILE_DESCRIPTOR_SET, ledger},
    telemetry::Metrics,
};
use prost_reflect::DescriptorPool;

use crate::support;

/// README stays short.
const README_LINES_MAX: usize = 250;

/// The handwritten guides, and commands that each of them shows.
const GUIDES: [(&str, &[&str]); 9] = [
    (
        "README.md",
        &["apply", "check", "history", "init", "preferences", "record", "serve", "verify", "watch"],
    ),
    ("docs/api.md", &["audience"]),
    ("docs/audit.md", &["checkpoint", "export", "receipt", "serve", "verify", "witness"]),
    ("docs/concepts.md", &["check", "confirm", "key", "link", "record", "verify"]),
    ("docs/import.md", &["import", "replay"]),
    ("docs/operations.md", &["init", "serve", "verify"]),
    ("docs/receipts.md", &["receipt", "verify-receipt"]),
    ("docs/subscriptions.md", &["consume", "create", "list", "propagation"]),
    ("docs/webhooks.md", &["create", "dead-letters", "replay", "verify"]),
];

fn read(path: &str) -> String {
    let file = support::repository(path);
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// The text under a heading, up to the next heading of the same or a higher level.
fn section(path: &str, heading: &str) -> String {
    let text = read(path);
    let depth = |line: &str| line.bytes().take_while(|&byte| byte == b'#').count();
    let ends = |line: &&str| (1..=depth(heading)).contains(&depth(line));
    let mut lines = text.lines().skip_while(|line| *line != heading);
    assert!(lines.next().is_some(), "{path} has no `{heading}`");
    lines.take_while(|line| !ends(line)).collect::<Vec<_>>().join("\n")
}

/// Rows of the tables in a text: their cells, without quotes.
fn rows(text: &str) -> Vec<Vec<String>> {
    let cell = |cell: &str| cell.trim().replace('`', "");
    let is_row = |line: &&str| line.starts_with("| ") && !line.starts_with("| ---");
    text.lines()
        .filter(is_row)
        .map(|line| line.trim_matches('|').split('|').map(cell).collect())
        .collect()
}

/// Blocks of code in a language.
fn blocks(path: &str, language: &str) -> Vec<String> {
    let text = read(path);
    let fence = format!("```{language}\n");
    let starts = text.split(&fence).skip(1);
    starts.map(|rest| rest.split("\n```").next().unwrap().to_owned()).collect()
}

/// A text without its blocks of code.
fn prose(text: &str) -> String {
    text.split("\n```").step_by(2).collect::<Vec<_>>().join("\n")
}

/// Flags of a command and its subcommands.
fn options(command: &Command) -> BTreeSet<String> {
    let flags = command.get_arguments().filter_map(Arg::get_long).map(|name| format!("--{name}"));
    flags.chain(command.get_subcommands().flat_map(options)).collect()
}

/// The words of a text with this prefix.
fn words(text: &str, start: &str) -> BTreeSet<String> {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || "-_".contains(letter);
    text.split(|letter| !is_part(letter))
        .filter(|word| word.len() > start.len() && word.starts_with(start))
        .map(str::to_owned)
        .collect()
}

#[test]
fn readme_is_short() {
    let lines = read("README.md").lines().count();
    assert!(lines <= README_LINES_MAX, "README has {lines} lines: move some of it to docs/");
}

#[test]
fn every_error_reason_is_documented_with_its_status() {
    let table = rows(&read("docs/errors.md"));
    let documented: BTreeMap<_, _> =
        table[1..].iter().map(|row| (row[0].clone(), row[1].clone())).collect();
    let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap();
    let reasons = pool.get_enum_by_name("consent.v1.ErrorReason").unwrap();
    let numbers: Vec<i32> = reasons.values().map(|value| value.number()).collect();
    // 0 is no reason.
    let reasons = numbers.iter().filter(|number| **number != 0);
    let reasons = reasons.map(|number| ErrorReason::try_from(*number).unwrap());
    let declared = reasons.map(|reason| {
        let status = reason.status().as_str_name();
        (reason.reason().to_owned(), status.trim_start_matches("STATUS_CODE_").to_owned())
    });
    assert_eq!(declared.collect::<BTreeMap<_, _>>(), documented);
    let conventions = section("docs/api.md", "## Conventions");
    assert!(conventions.contains("(errors.md)"), "the guide to the API links the reasons");
}

#[test]
fn every_call_is_in_the_table_of_the_api() {
    let mut declared = BTreeSet::new();
    for file in fs::read_dir(support::repository("proto/consent/v1")).unwrap() {
        let proto = fs::read_to_string(file.unwrap().path()).unwrap();
        let mut service = "";
        for line in proto.lines() {
            let name = |line: &'_ str| line.split([' ', '(']).nth(1).unwrap_or("").to_owned();
            if line.starts_with("service ") {
                service = line.split(' ').nth(1).unwrap();
            } else if let Some(call) = line.trim().strip_prefix("rpc ") {
                declared.insert((service.to_owned(), name(&format!("rpc {call}"))));
            }
        }
    }
    let mut documented = BTreeSet::new();
    let mut service = String::new();
    for row in &rows(&section("docs/api.md", "## Services and methods"))[1..] {
        if !row[0].is_empty() {
            service.clone_from(&row[0]);
        }
        documented.insert((service.clone(), row[1].clone()));
    }
    assert_eq!(declared, documented);
}

/// Asserts that every command line, flag and variable of a text exists; returns the commands that
/// it shows.
fn assert_exists(path: &str) -> BTreeSet<String> {
    let text = read(path);
    let mut cli = Cli::command();
    cli.build();
    let shown = text
        .lines()
        .filter_map(|line| line.trim_start_matches("$ ").strip_prefix("consent-ledger "));
    let mut commands = BTreeSet::new();
    for line in shown {
        let mut command = &cli;
        for word in line.split(' ').take_while(|word| !word.starts_with('-')) {
            match command.find_subcommand(word) {
                Some(below) => command = below,
                None => assert!(!command.has_subcommands(), "{path}: no command `{word}`: {line}"),
            }
        }
        let known = options(command);
        for flag in words(line, "--").iter().filter(|flag| *flag != "--help") {
            let name = command.get_name();
            assert!(known.contains(flag), "{path}: `{flag}` is none of {name}: {line}");
        }
        commands.insert(command.get_name().to_owned());
    }

    let all = options(&cli);
    // Flags of cargo, pip's tools and `consent-ledger --help` itself; and the key of an example
    // receipt, which looks like a flag.
    let others = [
        "--locked",
        "--path",
        "--python_out",
        "--grpc_python_out",
        "--help",
        "--6IM5l0OosLj9yWskISYhUA3n_3CURQkmrYMSha_ck",
    ];
    for flag in words(&text, "--").iter().filter(|flag| !others.contains(&flag.as_str())) {
        let exists = all.contains(flag) || flag.trim_matches('-').is_empty();
        assert!(exists, "{path}: no option `{flag}`");
    }
    // The variable of the key has no flag.
    let variables = words(&text, "CONSENT_LEDGER_");
    for variable in variables.iter().filter(|name| *name != "CONSENT_LEDGER_KEK") {
        let name = variable.trim_start_matches("CONSENT_LEDGER_").to_lowercase();
        let exists = all.contains(&format!("--{}", name.replace('_', "-")));
        assert!(exists, "{path}: no variable {variable}");
    }
    commands
}

#[test]
fn the_guides_name_only_existing_commands_and_options() {
    for (path, shown) in GUIDES {
        let commands = assert_exists(path);
        assert!(shown.iter().all(|name| commands.contains(*name)), "{path}: {commands:?}");
        // A command within a sentence, up to its end: `subscription list` or `prove --index N`.
        let mut cli = Cli::command();
        cli.build();
        let text = read(path);
        let quoted =
            text.split("\n```").step_by(2).flat_map(|prose| prose.split('`').skip(1).step_by(2));
        for line in quoted.filter(|text| !text.starts_with('-')) {
            let mut line = line.split(' ');
            let found = cli.find_subcommand(line.next().unwrap_or_default());
            for word in line.take_while(|word| !word.starts_with('-')) {
                let Some(command) = found.filter(|command| command.has_subcommands()) else {
                    break;
                };
                assert!(command.find_subcommand(word).is_some(), "{path}: no `{word}`");
            }
        }
    }
}

#[test]
fn every_limit_is_an_option_of_serve_and_every_error_above_it_exists() {
    let cli = Cli::command();
    let known = options(cli.find_subcommand("serve").unwrap());
    let table = rows(&section("docs/reference.md", "## serve"));
    let limits: Vec<_> = table.iter().filter(|row| row[0].starts_with("--")).collect();
    assert!(limits.len() > 10, "the table was read: {limits:?}");
    for limit in limits {
        let flag = limit[0].split(' ').next().unwrap().to_owned();
        assert!(known.contains(&flag), "{limit:?}");
        let is_reason =
            |word: &&str| word.contains('_') && *word == word.to_ascii_uppercase().as_str();
        for word in limit[5].split([' ', ';', '.', ',']).filter(is_reason) {
            let reason = ErrorReason::from_str_name(&format!("ERROR_REASON_{word}"));
            assert!(reason.is_some(), "{limit:?}");
        }
    }
}

#[test]
fn the_exported_entry_has_the_fields_of_the_protocol() {
    let samples = blocks("docs/audit.md", "console");
    let sample = samples.iter().find(|block| block.starts_with("$ consent-ledger export")).unwrap();
    let pool = DescriptorPool::decode(ledger::FILE_DESCRIPTOR_SET).unwrap();
    let fields = |message: &str, count| {
        let message = pool.get_message_by_name(message).unwrap();
        let names = message.fields().take(count).map(|field| field.json_name().to_owned());
        names.collect::<Vec<_>>()
    };
    let mut expected = vec!["hash".to_owned(), "entry".to_owned()];
    expected.extend(fields("consent.ledger.v2.Entry", 3));
    expected.push("persons".to_owned());
    expected.push("slots".to_owned());
    expected.extend(fields("consent.ledger.v2.Slot", 2));
    let names = sample.split("\":").map(|text| text.rsplit('"').next().unwrap());
    let names: Vec<_> = names.take(expected.len()).collect();
    assert_eq!(names, expected);
    let body = pool.get_message_by_name("consent.ledger.v2.Entry").unwrap();
    assert!(body.get_field_by_json_name("persons").is_some());
}

#[test]
fn the_documented_options_file_parses() {
    let blocks = blocks("docs/operations.md", "toml");
    let example = blocks.iter().find(|block| block.contains("[serve]")).expect("an options file");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("consent-ledger.toml");
    let file = file.to_str().unwrap();
    fs::write(file, example).unwrap();
    // A faulty options file is a usage error of every command; a faulty value of [serve] only of
    // `serve`.
    support::run(["completions", "bash", "--config", file]).expect_code(0);
    let refused = support::run(["serve", "--listen", "0.0.0.0:0", "--config", file]);
    assert!(refused.expect_code(2).stderr.contains("refusing to listen on 0.0.0.0:0"));
}

#[test]
fn every_metric_is_documented() {
    let metrics = Metrics::new();
    metrics.method("any").ended(0, Duration::ZERO);
    let _ = metrics.witness("any");
    let exposition = metrics.encode().unwrap();
    let counted = exposition.lines().filter_map(|line| {
        let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
        Some(format!("{name}{}", if kind == "counter" { "_total" } else { "" }))
    });
    let table = rows(&section("docs/operations.md", "## Metrics"));
    let documented: BTreeSet<String> = table[1..].iter().map(|row| row[0].clone()).collect();
    assert_eq!(counted.collect::<BTreeSet<_>>(), documented);
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let guides = fs::read_dir(support::repository("docs")).unwrap();
    let guides = guides.map(|file| file.unwrap().path());
    let mut documents: Vec<PathBuf> = guides.collect();
    documents.extend(["README.md", "ARCHITECTURE.md"].map(support::repository));
    let mut links = 0;
    for document in documents {
        let text = prose(&fs::read_to_string(&document).unwrap());
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            if link.contains("://") {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => document.clone(),
                path => document.parent().unwrap().join(path),
            };
            let at = format!("{}: ({link})", document.display());
            assert!(target.exists(), "{at}: no such file");
            assert!(
                anchor.is_empty() || anchors(&target).contains(anchor),
                "{at}: no such heading"
            );
            links += 1;
        }
    }
    assert!(links > 50, "the documents were read: {links} links");
}

/// The anchors of the headings of a document, as GitHub makes them.
fn anchors(document: &Path) -> BTreeSet<String> {
    let text = prose(&fs::read_to_string(document).unwrap());
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let title = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        title.chars().filter(|letter| letter.is_alphanumeric() || "-_".contains(*letter)).collect()
    };
    headings.map(anchor).collect()
}
