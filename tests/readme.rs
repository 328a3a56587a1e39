//! README and guides against what is here: what they name exists, and what there is README names.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::Duration,
};

use clap::{Command, CommandFactory};
use consent_ledger::{cli::Cli, proto, telemetry::Metrics};

use crate::support;

fn readme() -> String {
    fs::read_to_string(support::repository("README.md")).unwrap()
}

/// The text under a heading, up to the next of the same depth or less.
fn section(heading: &str) -> String {
    let text = readme();
    let depth = heading.bytes().take_while(|&byte| byte == b'#').count();
    let ends = |line: &&str| {
        let own = line.bytes().take_while(|&byte| byte == b'#').count();
        (1..=depth).contains(&own)
    };
    let mut lines = text.lines().skip_while(|line| *line != heading);
    assert!(lines.next().is_some(), "README has no `{heading}`");
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
fn blocks(language: &str) -> Vec<String> {
    let text = readme();
    let fence = format!("```{language}\n");
    let starts = text.split(&fence).skip(1);
    starts.map(|rest| rest.split("\n```").next().unwrap().to_owned()).collect()
}

/// Names of every option below a command, with their defaults.
fn options(command: &Command) -> BTreeMap<String, String> {
    let own = command.get_arguments().filter_map(|argument| {
        let default: Vec<_> =
            argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        Some((format!("--{}", argument.get_long()?), default.join(",")))
    });
    own.chain(command.get_subcommands().flat_map(options)).collect()
}

/// The words of a text that begin like this.
fn words(text: &str, start: &str) -> BTreeSet<String> {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || "-_".contains(letter);
    text.split(|letter| !is_part(letter))
        .filter(|word| word.len() > start.len() && word.starts_with(start))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_reason_stands_in_the_document_of_errors_with_its_status() {
    let document = fs::read_to_string(support::repository("docs/errors.md")).unwrap();
    let table = rows(&document);
    let told: BTreeMap<_, _> =
        table[1..].iter().map(|row| (row[0].clone(), row[1].clone())).collect();
    let reasons = (1..).map_while(|number| proto::ErrorReason::try_from(number).ok());
    let declared = reasons.map(|reason| {
        let status = reason.status().as_str_name();
        (reason.reason().to_owned(), status.trim_start_matches("STATUS_CODE_").to_owned())
    });
    assert_eq!(declared.collect::<BTreeMap<_, _>>(), told);
    assert!(section("## Errors").contains("docs/errors.md"), "README says where they are");
}

#[test]
fn every_call_stands_in_the_table_of_the_api() {
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
    let mut told = BTreeSet::new();
    let mut service = String::new();
    for row in &rows(&section("## The API"))[1..] {
        if !row[0].is_empty() {
            service.clone_from(&row[0]);
        }
        told.insert((service.clone(), row[1].clone()));
    }
    assert_eq!(declared, told);
}

/// Asserts that every command line, flag and variable of a text exists; answers the commands that it
/// shows.
fn assert_exists(text: &str) -> BTreeSet<String> {
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
                None => assert!(!command.has_subcommands(), "no command `{word}`: {line}"),
            }
        }
        let known = options(command);
        for flag in words(line, "--").iter().filter(|flag| *flag != "--help") {
            assert!(known.contains_key(flag), "`{flag}` is none of {}: {line}", command.get_name());
        }
        commands.insert(command.get_name().to_owned());
    }

    let all = options(&cli);
    // Those of cargo, of pip's tools, and of the words `consent-ledger --help`.
    let others = ["--example", "--locked", "--path", "--python_out", "--grpc_python_out", "--help"];
    for flag in words(text, "--").iter().filter(|flag| !others.contains(&flag.as_str())) {
        assert!(all.contains_key(flag) || flag.trim_matches('-').is_empty(), "`{flag}`");
    }
    // The key's is no option, and the others are the tests' own.
    let no_option = |it: &&String| *it == "CONSENT_LEDGER_KEK" || it.contains("_TEST_");
    for variable in words(text, "CONSENT_LEDGER_").iter().filter(|it| !no_option(it)) {
        let name = variable.trim_start_matches("CONSENT_LEDGER_").to_lowercase();
        assert!(all.contains_key(&format!("--{}", name.replace('_', "-"))), "{variable}");
    }
    commands
}

#[test]
fn every_command_and_flag_exists() {
    let commands = assert_exists(&readme());
    assert!(commands.len() > 8, "the tour was read: {commands:?}");
}

#[test]
fn the_guides_name_only_what_exists() {
    let guide = |path| fs::read_to_string(support::repository(path)).unwrap();
    for (path, shown) in [
        ("docs/subscriptions.md", ["consume", "create", "list", "propagation"]),
        ("docs/webhooks.md", ["create", "dead-letters", "replay", "verify"]),
    ] {
        let text = guide(path);
        let commands = assert_exists(&text);
        assert!(shown.iter().all(|own| commands.contains(*own)), "{path}: {commands:?}");
        // A command within a sentence, as far as it is one: `subscription list` or `prove --index N`.
        let mut cli = Cli::command();
        cli.build();
        let quoted =
            text.split("\n```").step_by(2).flat_map(|own| own.split('`').skip(1).step_by(2));
        for line in quoted.filter(|own| !own.starts_with('-')) {
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
fn the_flags_of_serve_have_the_defaults_that_are_told() {
    let cli = Cli::command();
    let known = options(cli.find_subcommand("serve").unwrap());
    for row in &rows(&section("### Limits"))[1..] {
        assert_eq!(known.get(&row[0]), Some(&row[1]), "{row:?}");
    }
    for row in &rows(&section("### Options"))[1..] {
        let mut flags = row[0].split(", ").zip(row[1].split(", "));
        // A default in words is no default of the parser.
        assert!(
            flags.all(|(flag, told)| {
                let default = known.get(flag).unwrap_or_else(|| panic!("{flag}"));
                default == told || ["", "false"].contains(&default.as_str())
            }),
            "{row:?}"
        );
    }
}

#[test]
fn the_options_file_is_taken() {
    let blocks = blocks("toml");
    let example = blocks.iter().find(|block| block.contains("[serve]")).expect("an options file");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("consent-ledger.toml");
    let file = file.to_str().unwrap();
    fs::write(file, example).unwrap();
    // A mistake in it is wrong usage of every command; a value of [serve] only of that one.
    support::run(["completions", "bash", "--config", file]).expect_code(0);
    let refused = support::run(["serve", "--listen", "0.0.0.0:0", "--config", file]);
    assert!(refused.expect_code(2).stderr.contains("refusing to listen on 0.0.0.0:0"));
}

#[test]
fn every_metric_is_told() {
    let metrics = Metrics::new();
    metrics.method("any").ended(0, Duration::ZERO);
    let _ = metrics.witness("any");
    let exposition = metrics.encode().unwrap();
    let counted = exposition.lines().filter_map(|line| {
        let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
        Some(format!("{name}{}", if kind == "counter" { "_total" } else { "" }))
    });
    let table = rows(&section("### Metrics"));
    let told: BTreeSet<String> = table[1..].iter().map(|row| row[0].clone()).collect();
    assert_eq!(counted.collect::<BTreeSet<_>>(), told);
}
