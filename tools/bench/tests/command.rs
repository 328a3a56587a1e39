//! The built binary: what it measures is checked, and it finds the service's binary or says how to
//! build it. The service's binary stands beside this one after `cargo test` of the whole workspace.

#![allow(clippy::unwrap_used)] // a test may fail where it stands

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

/// Runs the tool on data in a directory, without the settings that surround the test run: its servers
/// would take them.
fn bench(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_consent-ledger-bench"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CONSENT_LEDGER_") {
            command.env_remove(name);
        }
    }
    command.arg("--dir").arg(dir).args(args).stdin(Stdio::null()).output().unwrap()
}

fn figures(output: &Output) -> Vec<Value> {
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8_lossy(&output.stdout);
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_benchmark_of_fan_out_checks_what_it_measures() {
    let dir = tempfile::tempdir().unwrap();
    let sizes =
        ["--fanout-streams", "200", "--fanout-withdrawals", "120", "--fanout-stalled", "10"];
    let args = [&["--only", "fanout", "--seconds", "1", "--json"][..], &sizes].concat();
    let figures = figures(&bench(dir.path(), &args));
    let value = |name: &str| {
        let figure = figures.iter().find(|line| line["figure"]["what"] == name);
        figure.unwrap_or_else(|| panic!("no {name} in {figures:?}"))["figure"]["value"].clone()
    };
    // Two streams hear every withdrawal; the benchmark fails where one does not.
    assert_eq!(value("deliveries of a burst, each in order"), 240.0);
    assert_eq!(value("stalled streams"), 10.0);
}

#[test]
fn a_server_binary_that_is_not_there_is_an_error_that_says_how_to_build_it() {
    let dir = tempfile::tempdir().unwrap();
    let output = bench(dir.path(), &["--only", "check", "--binary", "/absent/consent-ledger"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("no server binary at /absent/consent-ledger"), "{text}");
    assert!(text.contains("cargo build") && text.contains("--binary"), "{text}");
    assert_eq!(dir.path().read_dir().unwrap().count(), 0, "nothing was created");
}
