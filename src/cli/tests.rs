//! The command line from arguments to output, against a server with fixed answers.

use std::{ffi::OsString, fs};

use clap::CommandFactory;
use serde_json::{Value, json};

use super::{
    Cli, Command, Exit, HELP_WIDTH,
    error::CliError,
    layers::{OptionsFile, layered},
    parse_with, run,
    testing::{Capture, Rote, Seen},
};

fn args(words: &[&str]) -> Vec<OsString> {
    ["consent-ledger"].iter().chain(words).map(Into::into).collect()
}

fn parse(words: &[&str], file: &str) -> Result<Cli, CliError> {
    parse_with(&args(words), Some(&OptionsFile::parse("test.toml".as_ref(), file)?))
}

const CHECK: [&str; 5] = ["check", "--purpose", "a", "--channel", "email"];

fn check(more: &[&str]) -> Vec<&'static str> {
    let more = more.iter().map(|word| &*Box::leak((*word).to_owned().into_boxed_str()));
    CHECK.into_iter().chain(more).collect()
}

#[test]
fn the_command_is_well_formed() {
    Cli::command().debug_assert();
    layered(Cli::command(), None).unwrap().debug_assert();
    let file = OptionsFile::parse("x".as_ref(), "addr = \"a:1\"\n[check]\nsubject = \"a:b\"");
    layered(Cli::command(), Some(&file.unwrap())).unwrap().debug_assert();
}

#[test]
fn every_subcommand_shows_an_example() {
    fn check(command: &clap::Command) {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let group = command.has_subcommands()
            && ["audit", "catalog", "clock", "token"].contains(&command.get_name());
        assert!(group || help.contains("consent-ledger "), "{}", command.get_name());
        command.get_subcommands().for_each(check);
    }
    Cli::command().get_subcommands().for_each(check);
}

#[test]
fn every_help_fits_the_width_to_which_it_is_broken() {
    fn check(command: &clap::Command) {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        for line in help.lines() {
            assert!(line.chars().count() <= HELP_WIDTH, "{}: {line}", command.get_name());
        }
        command.get_subcommands().for_each(check);
    }
    check(&Cli::command());
}

#[test]
fn every_option_has_its_variable() {
    fn check(command: &clap::Command) {
        for arg in command.get_arguments() {
            let Some(long) = arg.get_long() else { continue };
            let want = format!("CONSENT_LEDGER_{}", long.to_uppercase().replace('-', "_"));
            assert_eq!(arg.get_env().unwrap(), want.as_str());
        }
        command.get_subcommands().for_each(check);
    }
    check(&layered(Cli::command(), None).unwrap());
}

#[test]
fn a_key_at_the_top_goes_for_every_command_and_a_table_for_its_own() {
    let file = "addr = \"top:1\"\n[watch]\naddr = \"watch:1\"\n";
    assert_eq!(parse(&check(&["--subject", "a:b"]), file).unwrap().global.addr, "top:1");
    assert_eq!(parse(&["watch"], file).unwrap().global.addr, "watch:1");
    assert_eq!(parse(&["watch", "--addr", "flag:1"], file).unwrap().global.addr, "flag:1");
    assert_eq!(parse(&["--addr", "flag:1", "watch"], file).unwrap().global.addr, "flag:1");
}

#[test]
fn a_required_option_may_come_from_the_file() {
    assert!(parse(&CHECK, "").is_err());
    assert!(parse(&CHECK, "[check]\nsubject = \"user:42\"").is_ok());
    assert!(parse(&CHECK, "subject = \"user:42\"").is_ok());
    // Another command's table does not count.
    assert!(parse(&CHECK, "[history]\nsubject = \"user:42\"").is_err());
}

#[test]
fn switches_lists_and_numbers_come_from_the_file() {
    let cli = parse(
        &["watch"],
        "json = true\n[watch]\nkind = [\"grant\", \"object\"]\nfrom = 7\nprogress = true",
    )
    .unwrap();
    assert!(cli.global.printing.json);
    let text = format!("{:?}", cli.command);
    assert!(text.contains("kind: [Grant, Object]"), "{text}");
    assert!(text.contains("from: Some(7)") && text.contains("progress: true"), "{text}");
    assert!(!parse(&["watch", "--json=false"], "json = true").unwrap().global.printing.json);
    let nested = parse(&["catalog", "apply", "f"], "[catalog.apply]\ndry-run = true").unwrap();
    assert!(format!("{:?}", nested.command).contains("dry_run: true"));
}

#[test]
fn a_file_that_can_not_be_used_says_why() {
    for (file, want) in [
        ("adr = \"x\"", "test.toml: `adr`: is not an option"),
        ("[check]\nacts = 1", "test.toml: `check.acts`: is not an option"),
        ("[catalog.apply]\nretired = true", "`catalog.apply.retired`: is not an option"),
        ("check = 1", "`check`: is a command: write a table"),
        ("config = \"other.toml\"", "`config`: is not an option"),
        ("addr = [\"a\", \"b\"]", "`addr`: takes one value, not a list"),
        ("addr = {a = 1}", "`addr`: takes a value, not a table"),
        ("timeout = \"soon\"", "`timeout`: invalid value 'soon'"),
        ("[watch]\nkind = [\"revoke\"]", "`kind`: invalid value 'revoke'"),
        ("json = \"perhaps\"", "`json`: invalid value 'perhaps'"),
        ("a = ", "test.toml: TOML parse error"),
    ] {
        let error = parse(&["watch"], file).unwrap_err();
        assert!(error.to_string().contains(want), "{file:?}: {error}");
        assert_eq!(error.exit_code(), 2);
    }
    let error = parse(&["watch"], "[watch]\nx = 1").unwrap_err();
    let hint = error.to_json()["error"]["hint"].as_str().unwrap().to_owned();
    assert!(hint.contains("namespace") && hint.contains("addr"), "{hint}");
    assert!(!hint.contains("acts"), "{hint}");
}

#[test]
fn a_directory_by_flag_or_alone_makes_export_offline() {
    let file = "data_dir = \"d\"";
    let offline = |words: &[&str], file| parse(words, file).unwrap().offline;
    assert!(!offline(&["export"], ""));
    assert!(offline(&["export", "--data-dir", "d"], ""));
    assert!(offline(&["export"], file));
    assert!(!offline(&["export", "--addr", "a:1"], file));
    assert!(offline(&["export", "--data-dir", "d"], "addr = \"a:1\""));
    assert!(parse(&["export", "--data-dir", "d", "--addr", "a:1"], "").is_err());
}

#[test]
fn a_grant_is_one_cell() {
    let record = |flag, scope| {
        parse(&["record", "--subject", "a:b", flag, scope], "").map_err(|error| error.to_string())
    };
    assert!(record("--grant", "a:email").is_ok());
    assert!(record("--grant", "a:*").unwrap_err().contains("exactly one purpose"));
    for wide in ["a:*", "*:email", "*:*"] {
        assert!(record("--withdraw", wide).is_ok());
        assert!(record("--refuse", wide).is_ok());
        assert!(record("--object", wide).is_ok());
    }
    assert!(record("--withdraw", "a").unwrap_err().contains("must be PURPOSE:CHANNEL"));
}

#[test]
fn changes_keep_the_order_of_their_flags() {
    let words = ["record", "--subject", "a:b", "--withdraw", "*:*", "--grant", "a:x", "--refuse"];
    let words: Vec<&str> = words.into_iter().chain(["b:x", "--grant", "c:x,d:x"]).collect();
    let Command::Record(args) = parse(&words, "").unwrap().command else { panic!() };
    let text = format!("{args:?}").replace("Scope { purpose: ", "").replace("channel: ", "");
    assert!(
        text.contains(
            "[(Withdraw, \"*\", \"*\" }), (Grant, \"a\", \"x\" }), (Refuse, \"b\", \"x\" }), \
             (Grant, \"c\", \"x\" }), (Grant, \"d\", \"x\" })]"
        ),
        "{text}"
    );
}

/// Runs a command against a server with fixed answers.
async fn command(words: &[&str]) -> (Result<Exit, CliError>, String, Seen) {
    let (addr, seen) = Rote::start().await;
    let words: Vec<&str> = ["--addr", &addr].iter().chain(words).copied().collect();
    let cli = parse(&words, "").unwrap();
    let (mut context, capture) = Capture::context_of(&["--addr", &addr], cli.global.printing.json);
    let result = run(cli.command, cli.offline, &mut context).await;
    (result, capture.text(context), seen)
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn check_answers_by_exit_code() {
    let (result, text, _) = command(&check(&["--subject", "a:b"])).await;
    assert_eq!(result.unwrap().code(), 0);
    assert_eq!(text, "ALLOW  granted\nstatus       given\nrevision     6\n");
    let denied = ["check", "--subject", "a:b", "--purpose", "a", "--channel", "sms", "--json"];
    let (result, text, _) = command(&denied).await;
    assert_eq!(result.unwrap().code(), 3);
    assert_eq!(json_lines(&text)[0]["reason"], "REASON_NO_RECORD");
    let broken = ["check", "--subject", "a:b", "--purpose", "broken", "--channel", "email"];
    let (result, text, _) = command(&broken).await;
    let error = result.unwrap_err();
    assert_eq!((error.exit_code(), text.as_str()), (1, ""));
    assert_eq!(error.to_json()["error"]["reason"], "STATE_UNREADABLE");
}

#[tokio::test]
async fn without_a_server_there_is_no_answer() {
    let cli = parse(&check(&["--subject", "a:b", "--addr", "127.0.0.1:1"]), "").unwrap();
    let (mut context, _) = Capture::context_of(&["--addr", "127.0.0.1:1"], false);
    let error = run(cli.command, false, &mut context).await.unwrap_err();
    assert_eq!(error.exit_code(), 1);
    assert_eq!(error.to_json()["error"]["kind"], "unreachable");
}

#[tokio::test]
async fn record_tells_what_became_of_each_change() {
    let words = ["record", "--subject", "user:42", "--grant", "a:email", "--withdraw", "b:*"];
    let (result, text, _) = command(&words).await;
    assert_eq!(result.unwrap(), Exit::Success);
    assert_eq!(
        text,
        "index 1  revision 2\n\
         OUTCOME  ACTION    SCOPE    CAUSE  EXPIRES\n\
         applied  grant     a:email\n\
         applied  withdraw  b:*\n"
    );
}

#[tokio::test]
async fn expiry_is_for_grants_alone() {
    let words = ["record", "--json", "--subject", "user:42", "--grant", "a:email", "--withdraw"];
    let words = [&words[..], &["b:*", "--expires-at", "2099-01-01T00:00:00Z"]].concat();
    let (_, text, _) = command(&words).await;
    let results = &json_lines(&text)[0]["results"];
    assert_eq!(results[0]["expiresAt"], "2099-01-01T00:00:00Z");
    assert_eq!(results[1]["expiresAt"], Value::Null);
}

#[tokio::test]
async fn a_refused_act_is_an_error_with_its_field() {
    let (result, text, _) =
        command(&["record", "--subject", "user:refused", "--grant", "a:email"]).await;
    assert_eq!(text, "");
    let error = result.unwrap_err().to_json();
    assert_eq!(error["error"]["fieldViolations"][0]["field"], "changes[0].scope");
    let (result, _, seen) = command(&["record", "--subject", "user:42"]).await;
    assert_eq!((result.unwrap_err().exit_code(), seen.count()), (2, 0));
}

#[tokio::test]
async fn watch_prints_events_and_ends_by_count() {
    let (result, text, _) = command(&["watch", "--count", "1", "--json"]).await;
    assert_eq!(result.unwrap(), Exit::Success);
    let lines = json_lines(&text);
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["consent"]["index"], "7");
    assert_eq!(lines[0]["consent"]["changes"][0]["scope"], json!({"purpose": "a", "channel": "*"}));
    // A stream that the server ends is not a success.
    let (result, text, _) = command(&["watch", "--progress", "--json"]).await;
    assert_eq!(result.unwrap_err().exit_code(), 1);
    assert_eq!(json_lines(&text)[1]["progress"]["nextIndex"], "9");
}

#[tokio::test]
async fn history_and_preferences_are_tables() {
    let (_, text, _) = command(&["history", "--subject", "user:42"]).await;
    assert!(text.contains("a:email  blocked_by_stop #3  onboarding-web, n@2"), "{text}");
    let (_, text, _) = command(&["preferences", "--subject", "user:42"]).await;
    assert!(text.starts_with("user:42  revision 6\nEFFECT  PURPOSE"), "{text}");
    assert!(text.contains("withdraw  *:sms"), "{text}");
}

#[tokio::test]
async fn dead_letters_are_read_to_the_last_page() {
    let (result, text, _) = command(&["webhooks", "dead-letters", "crm", "--json"]).await;
    assert_eq!(result.unwrap(), Exit::Success);
    let lines = json_lines(&text);
    let indexes: Vec<_> = lines.iter().map(|line| line["index"].clone()).collect();
    assert_eq!(indexes, [json!("7"), json!("8"), json!("9")]);
    let want = json!({"index": "7", "shard": 1, "failedIndex": "17", "attempts": 3,
        "failedAt": "1970-01-01T00:00:00Z", "httpStatus": 0});
    assert_eq!(lines[0], want, "no answer is no status");
    assert_eq!(lines[1]["httpStatus"], 503);
    let (_, text, _) = command(&["webhooks", "dead-letters", "crm"]).await;
    assert!(text.starts_with("INDEX  SHARD  GIVEN UP"), "{text}");
    assert_eq!(text.lines().count(), 4);
    let (result, text, _) = command(&["webhooks", "dead-letters", "mailer"]).await;
    assert_eq!((result.unwrap(), &*text), (Exit::Success, "there are no dead letters\n"));
}

#[tokio::test]
async fn dead_letters_are_replayed_by_index_or_all_of_them() {
    for (more, count, want) in [
        (&["7"][..], 1, "1 is on its way\n"),
        (&["7", "9"], 2, "2 are on their way\n"),
        (&["--all"], 3, "3 are on their way\n"),
    ] {
        let words = [&["webhooks", "replay", "crm"], more].concat();
        let (result, text, _) = command(&words).await;
        assert_eq!((result.unwrap(), &*text), (Exit::Success, want));
        let (_, text, _) = command(&[&words[..], &["--json"]].concat()).await;
        assert_eq!(json_lines(&text), [json!({"replayed": count.to_string()})]);
    }
    for wrong in [&[][..], &["7", "--all"], &["--all=false"], &["x"]] {
        let words = [&["--addr", "127.0.0.1:1", "webhooks", "replay", "crm"], wrong].concat();
        let result = match parse(&words, "") {
            Ok(cli) => {
                let (mut context, _) = Capture::context_of(&words[..2], false);
                run(cli.command, false, &mut context).await.map(|_| ())
            }
            Err(error) => Err(error),
        };
        assert_eq!(result.unwrap_err().exit_code(), 2, "{wrong:?}");
    }
}

#[tokio::test]
async fn export_decodes_the_range() {
    let (_, text, _) = command(&["export"]).await;
    let indexes: Vec<_> =
        json_lines(&text).iter().map(|line| line["entry"]["index"].clone()).collect();
    assert_eq!(indexes, [json!("0"), json!("1")]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("entries.ndjson");
    let to_file = ["export", "--start", "1", "--end", "2", "--output", path.to_str().unwrap()];
    let (_, text, _) = command(&to_file).await;
    assert!(text.starts_with("1 entries written to "), "{text}");
    assert_eq!(json_lines(&fs::read_to_string(&path).unwrap())[0]["entry"]["index"], "1");
}

const CATALOG: &str = "[[namespaces]]\nkey = \"user\"\nkind = \"opaque\"\n\
    [[channels]]\nkey = \"email\"\n\
    [[purposes]]\nkey = \"a\"\ntitle = \"A\"\nlegal_basis = \"consent\"\n\
    [[purposes]]\nkey = \"b\"\ntitle = \"B\"\nlegal_basis = \"consent\"\n";

#[tokio::test]
async fn catalog_apply_tells_what_changes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog.toml");
    fs::write(&path, CATALOG).unwrap();
    for (more, revision) in [(&["--dry-run"][..], Value::Null), (&[], json!(3))] {
        let words = ["catalog", "apply", path.to_str().unwrap(), "--json"];
        let (result, text, _) = command(&[&words, more].concat()).await;
        result.unwrap();
        let applied = &json_lines(&text)[0];
        assert_eq!([&applied["added"], &applied["unchanged"]], [3, 1]);
        assert_eq!(applied["results"][0]["key"], "user");
        assert_eq!(applied["results"][2]["key"], "a");
        assert_eq!(applied["results"][2]["result"], "unchanged");
        assert_eq!(applied["results"][3]["revision"], revision);
    }
}

fn acts(subjects: &[&str]) -> String {
    let line = |(number, subject): (usize, &&str)| {
        format!(
            "{{\"subject\":\"{subject}\",\"actor\":\"ACTOR_SUBJECT\",\"changes\":[{{\"action\":\
             \"ACTION_GRANT\",\"scope\":{{\"purpose\":\"a\",\"channel\":\"email\"}}}}],\
             \"idempotencyKey\":\"{number:04}\"}}\n"
        )
    };
    subjects.iter().enumerate().map(line).collect()
}

async fn replay(input: &str, more: &[&str]) -> (Result<Exit, CliError>, Value, Seen) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("acts.ndjson");
    fs::write(&path, input).unwrap();
    let words = ["--json", "replay", path.to_str().unwrap()];
    let (result, text, seen) = command(&[&words, more].concat()).await;
    (result, json_lines(&text).remove(0), seen)
}

#[tokio::test]
async fn replay_keeps_each_subjects_order() {
    let subjects = ["user:1", "user:1", "user:2", "busy:1", "user:1", "busy:1", "user:3"];
    let input = acts(&subjects.repeat(40));
    let (result, replayed, seen) = replay(&input, &["--concurrency", "16"]).await;
    assert_eq!(result.unwrap(), Exit::Success);
    assert_eq!(replayed["recorded"], 280);
    assert_eq!(replayed["retries"], 80);
    assert_eq!(replayed["outcomes"], json!([{"outcome": "OUTCOME_APPLIED", "count": "280"}]));
    assert!(!seen.overlapped());
    for (subject, count) in [("user:1", 120), ("busy:1", 80), ("user:3", 40)] {
        let keys = seen.keys_of(subject);
        assert_eq!(keys.len(), count);
        assert!(keys.is_sorted(), "{subject}: {keys:?}");
    }
}

#[tokio::test]
async fn replay_names_the_line_of_a_reject() {
    let misspelt = acts(&["user:4"]).replace("idempotencyKey", "idempotentKey");
    let input = [&acts(&["user:1", "user:refused"]), "\nnot json\n", &acts(&["user:2"]), &misspelt];
    let input = input.concat();
    let (result, replayed, seen) = replay(&input, &["--continue-on-error"]).await;
    assert_eq!(result.unwrap(), Exit::Failed);
    assert_eq!([&replayed["recorded"], &replayed["rejected"]], [2, 3]);
    let rejects = &replayed["rejects"];
    assert_eq!((&rejects[0]["line"], &rejects[0]["reason"]), (&json!(2), &json!("INVALID_FIELD")));
    assert_eq!((&rejects[1]["line"], &rejects[1]["reason"]), (&json!(4), &json!("not_an_act")));
    assert_eq!((&rejects[2]["line"], &rejects[2]["reason"]), (&json!(6), &json!("not_an_act")));
    assert!(rejects[2]["message"].as_str().unwrap().contains("'idempotentKey'"), "{replayed}");
    assert_eq!(seen.count(), 2);
}

#[tokio::test]
async fn replay_stops_at_the_first_reject() {
    let input = format!("not json\n{}", acts(&["user:1"; 200]));
    let (result, replayed, seen) = replay(&input, &[]).await;
    assert_eq!(result.unwrap(), Exit::Failed);
    assert_eq!(replayed["rejected"], 1);
    assert!(seen.count() < 200, "{}", seen.count());
}
