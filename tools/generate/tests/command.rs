//! The built binary as scripts use it.

#![allow(clippy::unwrap_used)] // a test may fail where it stands

use std::{
    io::Read,
    process::{Command, Stdio},
};

fn generate(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_consent-ledger-generate"));
    command.args(args).stdin(Stdio::null());
    command
}

#[test]
fn traffic_is_the_same_for_the_same_seed() {
    let acts = |seed: &str| {
        let output = generate(&["--seed", seed, "--acts", "200"]).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let first = acts("7");
    assert_eq!(first.lines().count(), 200);
    assert_eq!(first, acts("7"));
    assert_ne!(first, acts("8"));
}

#[test]
fn acts_in_a_file_are_reported_as_text_or_one_object() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("acts.ndjson");
    let path = path.to_str().unwrap();
    let args = ["--acts", "20", "--output", path];
    let text = generate(&args).output().unwrap().stdout;
    let text = String::from_utf8(text).unwrap();
    assert!(text.starts_with("20 acts of ") && text.ends_with(&format!("{path}\n")), "{text}");
    let json = generate(&[&args[..], &["--json"]].concat()).output().unwrap().stdout;
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!((&json["acts"], &json["output"]), (&20.into(), &path.into()));
    assert_eq!(std::fs::read_to_string(path).unwrap().lines().count(), 20);
}

#[test]
fn wrong_usage_and_failure_have_exit_codes_of_their_own() {
    for (args, code) in
        [(&["--help"][..], 0), (&["--acts", "many"], 2), (&["--catalog", "absent.toml"], 1)]
    {
        let output = generate(args).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
        assert_eq!(output.stderr.is_empty(), code == 0, "{args:?}: {output:?}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut command = generate(&["--acts", "20000"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
