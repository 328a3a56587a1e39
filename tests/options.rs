//! The built binary in scripts: environment, options file, exit codes, streams.

use std::{
    fs,
    io::Read,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::support::{self, Finished, PATIENCE, Process};

/// The binary in its own directory.
fn ledger(dir: &Path, args: &[&str]) -> Command {
    let mut command = support::binary();
    command.current_dir(dir).args(args);
    command
}

fn run(command: Command) -> Finished {
    Process::spawn(command).wait(PATIENCE)
}

/// The data directory that `verify` fails to find, with these environment variables.
fn data_dir(dir: &Path, args: &[&str], environment: &[(&str, &str)]) -> String {
    let mut command = ledger(dir, args);
    command.envs(environment.iter().copied());
    let refused = run(command).expect_code(2);
    let path = refused.stderr.strip_prefix("error: ").and_then(|text| text.split(": ").next());
    path.unwrap_or_else(|| panic!("no path in {refused:?}")).to_owned()
}

/// The error object of `--json`.
fn error(finished: &Finished) -> Value {
    let json: Value = serde_json::from_str(&finished.stderr).unwrap();
    json["error"].clone()
}

#[test]
fn flag_beats_environment_beats_file() {
    let dir = tempfile::tempdir().unwrap();
    let in_file = "[verify]\ndata_dir = \"from-file\"\n";
    fs::write(dir.path().join("consent-ledger.toml"), in_file).unwrap();
    assert_eq!(data_dir(dir.path(), &["verify"], &[]), "from-file");
    let environment = [("CONSENT_LEDGER_DATA_DIR", "from-environment")];
    assert_eq!(data_dir(dir.path(), &["verify"], &environment), "from-environment");
    let flag = ["verify", "--data-dir", "from-flag"];
    assert_eq!(data_dir(dir.path(), &flag, &environment), "from-flag");
}

#[test]
fn the_options_file_is_named_by_flag_or_environment() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("consent-ledger.toml"), "data_dir = \"one\"\n").unwrap();
    fs::write(dir.path().join("other.toml"), "data_dir = \"other\"\n").unwrap();
    for args in [
        &["--config", "other.toml", "verify"][..],
        &["verify", "--config", "other.toml"],
        &["verify", "--config=other.toml"],
    ] {
        assert_eq!(data_dir(dir.path(), args, &[]), "other", "{args:?}");
    }
    let environment = [("CONSENT_LEDGER_CONFIG", "other.toml")];
    assert_eq!(data_dir(dir.path(), &["verify"], &environment), "other");
    let refused = run(ledger(dir.path(), &["verify", "--config", "absent.toml"])).expect_code(2);
    assert!(refused.stderr.contains("absent.toml"), "{}", refused.stderr);
}

#[test]
fn switches_and_lists_come_from_the_environment() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = ledger(dir.path(), &["verify", "--data-dir", "absent"]);
    command.env("CONSENT_LEDGER_JSON", "true");
    assert_eq!(error(&run(command))["kind"], "usage");
    let mut command = ledger(dir.path(), &["record", "--subject", "a:b", "--addr", "127.0.0.1:1"]);
    command.env("CONSENT_LEDGER_GRANT", "a:email,b:email");
    // The changes are valid; only the server is missing.
    assert!(run(command).stderr.contains("no server answers at http://127.0.0.1:1"));
}

#[test]
fn exit_codes_distinguish_usage_errors_from_failures() {
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
        let finished = run(ledger(dir.path(), args)).expect_code(code);
        assert_eq!(finished.stderr.is_empty(), code == 0, "{args:?}: {}", finished.stderr);
    }
}

#[test]
fn errors_are_text_or_one_object() {
    let dir = tempfile::tempdir().unwrap();
    let text = run(ledger(dir.path(), &["verify", "--data-dir", "absent"])).stderr;
    assert!(text.starts_with("error: absent: ") && text.contains("\nhint: "), "{text}");
    assert!(!text.contains('\u{1b}'), "no colours off a terminal");
    let refused = run(ledger(dir.path(), &["check", "--json"])).expect_code(2);
    assert!(error(&refused)["message"].as_str().unwrap().contains("--subject"));
    let coloured = ["verify", "--data-dir", "absent", "--color=always"];
    assert!(run(ledger(dir.path(), &coloured)).stderr.contains('\u{1b}'));
}

#[test]
fn a_broken_options_file_does_not_hide_the_help() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("consent-ledger.toml"), "nonsense = 1\n").unwrap();
    let refused = run(ledger(dir.path(), &["completions", "bash"])).expect_code(2);
    let text = refused.stderr;
    assert!(text.contains("`nonsense`: is not an option"), "{text}");
    assert!(text.contains("hint: known here: "), "{text}");
    run(ledger(dir.path(), &["completions", "--help"])).expect_code(0);
}

#[test]
fn a_closed_pipe_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    // The script is longer than a pipe holds, so that the reader is gone before its end.
    let mut command = ledger(dir.path(), &["completions", "bash"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn a_delivery_is_verified_from_standard_input_with_a_secret_of_the_environment() {
    let dir = tempfile::tempdir().unwrap();
    // The example from the tests of the Standard Webhooks libraries.
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
        let input = fs::File::open(dir.path().join("body")).unwrap();
        let finished = Process::spawn_reading(command, input).wait(PATIENCE).expect_code(code);
        match kind {
            None => {
                let verified = finished.json();
                assert_eq!((&verified["good"], &verified["id"]), (&true.into(), &id.into()));
            }
            Some(kind) => assert_eq!(error(&finished)["kind"], kind),
        }
        assert!(!finished.output().contains(secret));
    }
}
