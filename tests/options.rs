//! The built binary as scripts use it: environment, options file, exit codes, streams.

use std::{
    fs,
    io::Read,
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

/// The binary in a directory of its own, with nothing of ours in its environment.
fn ledger(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_consent-ledger"));
    let own =
        std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CONSENT_"));
    own.for_each(|(name, _)| {
        command.env_remove(name);
    });
    command.current_dir(dir).args(args).stdin(Stdio::null());
    command
}

fn run(command: &mut Command) -> Output {
    command.output().expect("the binary runs")
}

fn acts(output: &Output) -> usize {
    String::from_utf8_lossy(&output.stdout).lines().count()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn flag_beats_environment_beats_file() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("consent-ledger.toml"), "[generate]\nacts = 1\n").unwrap();
    assert_eq!(acts(&run(&mut ledger(dir.path(), &["generate"]))), 1);
    let environment = ("CONSENT_LEDGER_ACTS", "2");
    let mut command = ledger(dir.path(), &["generate"]);
    assert_eq!(acts(&run(command.env(environment.0, environment.1))), 2);
    let mut command = ledger(dir.path(), &["generate", "--acts", "3"]);
    assert_eq!(acts(&run(command.env(environment.0, environment.1))), 3);
}

#[test]
fn the_file_is_named_before_or_after_the_command_or_by_environment() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("consent-ledger.toml"), "acts = 1\n").unwrap();
    fs::write(dir.path().join("other.toml"), "acts = 4\n").unwrap();
    for args in [
        &["--config", "other.toml", "generate"][..],
        &["generate", "--config", "other.toml"],
        &["generate", "--config=other.toml"],
    ] {
        assert_eq!(acts(&run(&mut ledger(dir.path(), args))), 4, "{args:?}");
    }
    let mut command = ledger(dir.path(), &["generate"]);
    assert_eq!(acts(&run(command.env("CONSENT_LEDGER_CONFIG", "other.toml"))), 4);
    let output = run(&mut ledger(dir.path(), &["generate", "--config", "absent.toml"]));
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("absent.toml"), "{}", stderr(&output));
}

#[test]
fn switches_and_lists_come_from_the_environment() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = ledger(dir.path(), &["verify", "--data-dir", "absent"]);
    let output = run(command.env("CONSENT_LEDGER_JSON", "true"));
    let error: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["error"]["kind"], "usage");
    let mut command = ledger(dir.path(), &["record", "--subject", "a:b", "--addr", "127.0.0.1:1"]);
    command.env("CONSENT_LEDGER_GRANT", "a:email,b:email");
    // The changes are there; what is missing is the server.
    assert!(stderr(&run(&mut command)).contains("no server answers at http://127.0.0.1:1"));
}

#[test]
fn exit_codes_tell_usage_from_failure() {
    let dir = tempfile::tempdir().unwrap();
    let check = ["check", "--subject", "a:b", "--purpose", "a", "--channel", "b"];
    let away = [&check[..], &["--addr", "127.0.0.1:1"]].concat();
    for (args, code) in [
        (&["--help"][..], 0),
        (&["check", "--help"], 0),
        (&["--version"], 0),
        (&["completions", "bash"], 0),
        (&[], 2),
        (&["frobnicate"], 2),
        (&["check"], 2),
        (&["verify", "--data-dir", "absent"], 2),
        (&["verify", "--data-dir", "."], 2),
        (&["replay", "absent.ndjson"], 1),
        (&away, 1),
    ] {
        let output = run(&mut ledger(dir.path(), args));
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", stderr(&output));
        assert_eq!(output.stderr.is_empty(), code == 0, "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn errors_are_text_or_one_object() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(&mut ledger(dir.path(), &["verify", "--data-dir", "absent"]));
    let text = stderr(&output);
    assert!(text.starts_with("error: absent: ") && text.contains("\nhint: "), "{text}");
    assert!(!text.contains('\u{1b}'), "no colours off a terminal");
    let output = run(&mut ledger(dir.path(), &["check", "--json"]));
    assert_eq!(output.status.code(), Some(2));
    let error: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert!(error["error"]["message"].as_str().unwrap().contains("--subject"));
    let output =
        run(&mut ledger(dir.path(), &["verify", "--data-dir", "absent", "--color=always"]));
    assert!(stderr(&output).contains('\u{1b}'));
}

#[test]
fn a_broken_options_file_does_not_hide_the_help() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("consent-ledger.toml"), "nonsense = 1\n").unwrap();
    let output = run(&mut ledger(dir.path(), &["generate", "--acts", "1"]));
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("`nonsense`: is not an option"), "{}", stderr(&output));
    assert!(stderr(&output).contains("hint: known here: "), "{}", stderr(&output));
    assert!(run(&mut ledger(dir.path(), &["generate", "--help"])).status.success());
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = ledger(dir.path(), &["generate", "--acts", "20000"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(stderr(&output), "");
}

#[test]
fn a_delivery_is_verified_from_standard_input_with_a_secret_of_the_environment() {
    let dir = tempfile::tempdir().unwrap();
    // The example that Standard Webhooks' own libraries test themselves with.
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let signature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
    let id = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    for (body, code, kind) in
        [(r#"{"test": 2432232314}"#, 0, None), ("{\"test\": 2432232314}\n", 1, Some("signature"))]
    {
        fs::write(dir.path().join("body"), body).unwrap();
        let headers = ["--id", id, "--timestamp", "1614265330", "--signature", signature];
        let words = ["webhooks", "verify", "--json", "--secret-env", "HOOK_SECRET"];
        let at = ["--at", "2021-02-25T15:05:00Z"];
        let mut command = ledger(dir.path(), &[&words[..], &headers, &at].concat());
        command.env("HOOK_SECRET", secret);
        command.stdin(fs::File::open(dir.path().join("body")).unwrap());
        let output = run(&mut command);
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        let told = [&output.stdout[..], &output.stderr].concat();
        let told: Value = serde_json::from_slice(&told).unwrap();
        match kind {
            None => assert_eq!((&told["good"], &told["id"]), (&true.into(), &id.into())),
            Some(kind) => assert_eq!(told["error"]["kind"], kind),
        }
        assert!(!told.to_string().contains(secret));
    }
}
