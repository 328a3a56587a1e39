//! The command line for scripts and people: exit codes, JSON, layers of options, and the commands
//! that work on the files of a stopped server.

use std::fs;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use consent_ledger::proto::{self, Action};
use rustix::process::Signal;
use serde_json::json;

use crate::support::{self, Process, Server, example};

#[tokio::test(flavor = "multi_thread")]
async fn scripts_can_rely_on_the_exit_codes() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    server.clients().await.put_catalog(&["marketing.newsletter"], &["email"]).await;
    let grant = [
        "record",
        "--subject",
        "user:42",
        "--grant",
        "marketing.newsletter:email",
        "--actor",
        "subject",
        "--touchpoint",
        "onboarding",
        "--json",
    ];
    let recorded = server.cli(&grant).expect_code(0).json();
    let number =
        |field: &str| recorded[field].as_str().is_some_and(|text| text.parse::<u64>().is_ok());
    assert!(number("index") && number("revision"), "{recorded}");
    assert_eq!(recorded["results"][0]["outcome"], "OUTCOME_APPLIED", "{recorded}");

    let ask = |subject: &str| {
        let cell = ["--purpose", "marketing.newsletter", "--channel", "email"];
        server.cli(&[&["check", "--subject", subject], &cell[..]].concat())
    };
    let allowed = ask("user:42").expect_code(0);
    assert!(!allowed.output().contains('\u{1b}'), "no colours in a pipe");
    ask("user:43").expect_code(3);
    let wrong = ask("no-namespace");
    assert!(!matches!(wrong.code, Some(0 | 3)), "an error is neither yes nor no: {wrong:?}");
    assert!(wrong.stderr.contains("namespace"), "{}", wrong.stderr);
    server.cli(&["record", "--subject", "user:42", "--withdraw", "*:*"]).expect_code(0);
    ask("user:42").expect_code(3);

    server.terminate();
    let check = [
        "check",
        "--subject",
        "user:42",
        "--purpose",
        "a",
        "--channel",
        "b",
        "--addr",
        "http://127.0.0.1:1",
    ];
    let unreachable = support::run(check);
    assert!(
        !matches!(unreachable.code, Some(0 | 3)),
        "without an answer, neither code: {unreachable:?}"
    );
    support::verify(dir.path()).expect_code(0);

    for wrong in [
        &["check", "--no-such-flag"][..],
        &["no-such-command"],
        &["record", "--subject", "user:42", "--grant", "*:email"],
        &["record", "--subject", "user:42", "--grant", "no-colon"],
        &["verify", "--no-such-flag"],
        &["verify", "--data-dir", "/no/such/directory"],
        &["serve", "--listen", "nowhere"],
        // The catalogue names the controllers.
        &["serve", "--controller-name", "Example AG"],
    ] {
        let refused = support::run(wrong).expect_code(2);
        assert!(refused.stdout.is_empty() && !refused.stderr.is_empty(), "{refused:?}");
    }
    support::run(["--help"]).expect_code(0);
    support::run(["--version"]).expect_code(0);
    for shell in ["bash", "zsh", "fish"] {
        let script = support::run(["completions", shell]).expect_code(0);
        assert!(script.stdout.contains("consent-ledger"), "{shell}");
    }
}

#[test]
fn a_public_address_must_be_requested() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().to_str().unwrap();
    let listen = ["serve", "--data-dir", data_dir, "--listen", "0.0.0.0:0"];
    let refused = support::run(listen);
    assert!(refused.code.is_some_and(|code| code != 0), "{refused:?}");
    assert!(refused.stderr.contains("--insecure"), "it says what to do: {}", refused.stderr);
    assert!(support::files(dir.path()).is_empty(), "nothing was created");

    Server::init(dir.path(), &[]);
    let mut command = support::binary();
    command.args(listen).arg("--insecure");
    let server = Server::listening(Process::spawn(command));
    assert!(server.address.starts_with("0.0.0.0:"), "{}", server.address);
    server.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalogue_is_written_once_and_every_act_of_a_file_is_replayed() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let catalog = support::repository(example::CATALOG);
    server.cli(&["catalog", "apply", catalog.to_str().unwrap()]).expect_code(0);
    let again = server.cli(&["catalog", "apply", catalog.to_str().unwrap()]).expect_code(0);
    let head = async || server.clients().await.checkpoint().await.size;
    let before = head().await;
    assert_eq!(before, catalog_entries() + 1, "applied twice, written once: {}", again.stdout);
    let acts = fs::read_to_string(support::repository(example::ACTS)).unwrap();
    let acts: Vec<&str> = acts.lines().take(200).collect();
    let file = dir.path().join("acts.ndjson");
    fs::write(&file, acts.join("\n")).unwrap();
    server.cli(&["replay", file.to_str().unwrap()]).expect_code(0);
    assert_eq!(head().await, before + 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalogue_file_that_is_refused_says_what_was_written_before() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"));
    let mut clients = server.clients_with_catalog(&["news"], &["email"]).await;
    let file = dir.path().join("catalog.toml");
    let apply = |text: &str, more: &[&str]| {
        fs::write(&file, text).unwrap();
        server.cli(&[&["catalog", "apply", file.to_str().unwrap()], more].concat())
    };
    let of = |region: &str| {
        format!("[[namespaces]]\nkey = \"fon\"\nkind = \"phone\"\ndefault_region = \"{region}\"\n")
    };
    let purpose = "[[purposes]]\nkey = \"news\"\ntitle = \"news\"\nlegal_basis = \"consent\"\n";
    apply(&of("AT"), &[]).expect_code(0);
    clients.record_change("fon:0664 1234567", Action::Withdraw, "*", "*").await;

    let file_of_three =
        format!("[[namespaces]]\nkey = \"aa\"\nkind = \"opaque\"\n{}{purpose}", of("DE"));
    // A dry run is refused as the write is, and writes nothing.
    let head = clients.checkpoint().await.size;
    let dry = apply(&file_of_three, &["--dry-run"]).expect_code(1);
    assert!(dry.stderr.contains("namespace.default_region"), "{}", dry.stderr);
    assert!(dry.stdout.contains("dry run, nothing was written: 1 added"), "{}", dry.stdout);
    let good = format!("[[namespaces]]\nkey = \"aa\"\nkind = \"opaque\"\n{}{purpose}", of("AT"));
    let dry = apply(&good, &["--dry-run"]).expect_code(0);
    let said = "dry run, nothing was written: 1 added, 0 changed, 2 unchanged";
    assert!(dry.stdout.contains(said), "{}", dry.stdout);
    assert_eq!(clients.checkpoint().await.size, head);
    let refused = apply(&file_of_three, &[]).expect_code(1);
    assert!(refused.stderr.contains("namespace.default_region"), "{}", refused.stderr);
    assert!(refused.stdout.contains("aa"), "what was written: {}", refused.stdout);
    assert!(!refused.stdout.contains("news"), "what was not: {}", refused.stdout);

    // New consent needs a new version.
    let refused = apply(purpose, &["--reconsent", "news"]).expect_code(1);
    assert!(refused.stderr.contains("changes nothing"), "{}", refused.stderr);
    let reworded = purpose.replace("title = \"news\"", "title = \"News\"");
    apply(&reworded, &["--reconsent", "news"]).expect_code(0);

    let half = |start: &str, end: &str| {
        format!(
            "{{ quiet_hours = {{ start = \"{start}\", end = \"{end}\", time_zone = \"UTC\" }} }}"
        )
    };
    let (night, day) = (half("00:00", "12:00"), half("12:00", "00:00"));
    let quiet = format!("obligations = [{night}, {day}]\n");
    let warned = apply(&format!("{reworded}{quiet}"), &[]).expect_code(0);
    assert!(warned.stderr.contains("leave no moment"), "{}", warned.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_with_preferences_alone_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    server.clients_with_catalog(&["news"], &["email"]).await;
    let hours = ["--quiet-hours", "22:00-07:00"];
    let recorded = server.cli(&[&["record", "--subject", "user:1"], &hours[..]].concat());
    assert!(recorded.expect_code(0).stderr.contains("--time-zone"), "hours of which clock?");
    let known = server.cli(&["preferences", "--subject", "user:1"]).expect_code(0).stdout;
    assert!(known.contains("quiet from 22:00 to 07:00"), "{known}");
    let words = ["record", "--subject", "user:1", "--withdraw", "news:email"];
    server.cli(&[&words[..], &["--confirmation-validity", "1d"]].concat()).expect_code(2);
}

fn catalog_entries() -> u64 {
    let catalog = example::catalog();
    let namespaces_and_parties = example::namespaces_and_parties();
    (namespaces_and_parties + catalog.purposes.len() + catalog.channels.len()) as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_command_speaks_json() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    server.clients().await.put_catalog(&["marketing.newsletter"], &["email", "sms"]).await;
    let subject = ["--subject", "user:42", "--json"];
    let with = |words: &[&str]| server.cli(&[words, &subject[..]].concat()).expect_code(0);
    let granted = with(&["record", "--grant", "marketing.newsletter:email"]).json();
    let stopped =
        with(&["record", "--withdraw", "*:sms", "--object", "marketing.newsletter:*"]).json();

    let checked = server
        .cli(&[
            "check",
            "--json",
            "--subject",
            "user:42",
            "--purpose",
            "marketing.newsletter",
            "--channel",
            "email",
        ])
        .expect_code(3)
        .json();
    assert_eq!(
        (&checked["effect"], &checked["reason"]),
        (&"EFFECT_DENY".into(), &"REASON_OBJECTED".into())
    );
    assert_eq!(checked["decidedByIndex"], stopped["index"]);
    assert_eq!(checked["indeterminate"], false);

    let history = with(&["history"]).json_lines();
    assert_eq!(history.len(), 2);
    assert_eq!(history[0]["index"], granted["index"]);
    assert_eq!(history[1]["changes"][0]["scope"]["channel"], "sms");
    let preferences = with(&["preferences", "--all-cells"]).json();
    assert_eq!(preferences["cells"].as_array().map(Vec::len), Some(2), "{preferences}");
    assert_eq!(preferences["stops"].as_array().map(Vec::len), Some(2), "{preferences}");
    let catalog = server.cli(&["catalog", "list", "--json"]).expect_code(0).json();
    assert_eq!(catalog["purposes"][0]["key"], "marketing.newsletter", "{catalog}");
    let watch = ["watch", "--from", "0", "--kind", "object", "--count", "1", "--json"];
    let watched = server.cli(&watch).expect_code(0).json_lines();
    assert_eq!(watched.len(), 1);
    assert_eq!(watched[0]["consent"]["index"], stopped["index"]);
    assert_eq!(watched[0]["consent"]["subject"], "user:42");

    // Tables for people show the same.
    let table = server.cli(&["history", "--subject", "user:42"]).expect_code(0).stdout;
    assert!(table.contains("marketing.newsletter") && table.contains("withdraw"), "{table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn json_output_has_every_field_of_the_response() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut clients = server.clients_with_catalog(&[], &["email"]).await;
    let data_categories = ["user.contact", "user.profile"].map(str::to_owned).to_vec();
    let purpose = proto::Purpose { data_categories, ..support::consent_purpose("news") };
    clients.put_purpose(purpose).await;

    // The output shows that a grant is narrowed, and who acted by which authority.
    let narrowed = ["record", "--subject", "user:42", "--grant", "news:email", "--json"];
    let by_guardian = ["--data-category", "user.contact", "--actor", "guardian"];
    let authority = ["--relationship", "parent", "--representative", "user:7"];
    let proof = ["--authority-proof", "form 12", "--authority-ends-at", "2099-05-04T00:00:00Z"];
    let words = [&narrowed[..], &by_guardian, &authority, &proof].concat();
    let recorded = server.cli(&words).expect_code(0).json();
    assert_eq!(recorded["results"][0]["dataCategories"], json!(["user.contact"]), "{recorded}");
    let history = ["history", "--subject", "user:42", "--json"];
    let history = server.cli(&history).expect_code(0).json_lines();
    assert_eq!(history[0]["changes"][0]["dataCategories"], json!(["user.contact"]));
    let authority = json!({"relationship": "parent", "representative": "user:7",
        "proof": "form 12", "endsAt": "2099-05-04T00:00:00Z"});
    assert_eq!(history[0]["evidence"]["authority"], authority);

    // The resume token of a snapshot is printed with it.
    server.cli(&["record", "--subject", "user:43", "--withdraw", "*:*"]).expect_code(0);
    let mut command = support::client_of(&server.address);
    command.args(["watch", "--snapshot", "denied", "--json"]);
    let watch = Process::spawn(command);
    let is_complete = |text: &str| text.contains("snapshotEnd").then_some(());
    watch.stdout.wait_for(support::PATIENCE, is_complete).expect("a snapshot");
    watch.signal(Signal::INT);
    let lines = watch.wait(support::PATIENCE).expect_code(0).json_lines();
    assert_eq!(lines[0]["snapshot"]["subject"], "user:43");
    assert!(lines[0]["snapshot"]["token"].as_str().is_some_and(|token| !token.is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flag_beats_the_environment_and_that_beats_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"));
    let file = dir.path().join("options.toml");
    let (good, bad) = (server.address.as_str(), "127.0.0.1:1");
    // Flag, environment and file with an address, and whether the server is found there.
    for (flag, environment, in_file, found) in [
        (None, None, good, true),
        (None, None, bad, false),
        (None, Some(good), bad, true),
        (None, Some(bad), good, false),
        (Some(good), Some(bad), bad, true),
        (Some(bad), Some(good), good, false),
    ] {
        fs::write(&file, format!("addr = \"{in_file}\"\n")).unwrap();
        let mut command = support::binary();
        command.args(["catalog", "list"]).env("CONSENT_LEDGER_CONFIG", &file);
        command.envs(environment.map(|address| ("CONSENT_LEDGER_ADDR", address)));
        command.args(flag.map(|address| format!("--addr={address}")));
        let ended = Process::spawn(command).wait(support::PATIENCE);
        assert_eq!(ended.code == Some(0), found, "{flag:?} {environment:?} {in_file}: {ended:?}");
    }
    fs::write(&file, "adr = \"127.0.0.1:1\"\n").unwrap();
    let misspelt = support::run(["catalog", "list", "--config", file.to_str().unwrap()]);
    assert!(misspelt.expect_code(2).stderr.contains("adr"));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_verified_exported_and_rebuilt_without_a_server() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().to_str().unwrap();
    let server = Server::start(dir.path());
    let mut clients = server.clients_with_catalog(&["marketing.newsletter"], &["email"]).await;
    let grant = ["record", "--subject", "user:42", "--grant", "marketing.newsletter:email"];
    server.cli(&grant).expect_code(0);
    let checkpoint = clients.checkpoint().await;
    let hash = BASE64_STANDARD.encode(&checkpoint.chain_hash);
    let hex = support::hex(&checkpoint.chain_hash);

    let busy = support::run(["rebuild-view", "--data-dir", data_dir]);
    assert!(busy.code.is_some_and(|code| code != 0), "the server has the directory: {busy:?}");
    let beside = support::verify(dir.path()).expect_code(0).json();
    server.terminate();
    let after = support::verify(dir.path()).expect_code(0).json();
    for verified in [&beside, &after] {
        assert_eq!(verified["intact"], true, "{verified}");
        assert_eq!(verified["entries"], checkpoint.size, "{verified}");
        assert_eq!(verified["chainHash"], hash.as_str(), "{verified}");
    }
    let people = support::run(["verify", "--data-dir", data_dir]).expect_code(0).stdout;
    assert!(people.contains("intact") && people.contains(&hex), "{people}");

    let exported = support::run(["export", "--data-dir", data_dir]).expect_code(0).json_lines();
    assert_eq!(exported.len() as u64, checkpoint.size);
    assert_eq!(exported.last().unwrap()["hash"], hash.as_str());

    let rebuilt = support::run(["rebuild-view", "--json", "--data-dir", data_dir]);
    let rebuilt = rebuilt.expect_code(0).json();
    assert_eq!(rebuilt["entries"], checkpoint.size, "{rebuilt}");
    assert_eq!(rebuilt["subjects"], 1, "{rebuilt}");
    let server = Server::start(dir.path());
    let cell = ["--purpose", "marketing.newsletter", "--channel", "email"];
    server.cli(&[&["check", "--subject", "user:42"], &cell[..]].concat()).expect_code(0);
    server.terminate();
}

/// Like `consent-ledger … | true`: the reader closes the pipe.
fn code_with_closed_output(args: &[&str]) -> Option<i32> {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    support::binary().args(args).stdout(writer).status().unwrap().code()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_exit_code_is_right_although_the_pipe_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    server.clients().await.put_catalog(&["marketing.newsletter"], &["email"]).await;
    server
        .cli(&["record", "--subject", "user:42", "--grant", "marketing.newsletter:email"])
        .expect_code(0);
    for (subject, code) in [("user:42", 0), ("user:43", 3)] {
        for json in ["--json=true", "--json=false"] {
            let args = ["check", json, "--subject", subject, "--addr", &server.address];
            let cell = ["--purpose", "marketing.newsletter", "--channel", "email"];
            let ended = code_with_closed_output(&[&args[..], &cell[..]].concat());
            assert_eq!(ended, Some(code), "{subject} {json}");
        }
    }
    server.terminate();

    let data_dir = dir.path().to_str().unwrap();
    assert_eq!(code_with_closed_output(&["verify", "--data-dir", data_dir]), Some(0));
    let segment = support::ledger_segments(dir.path()).remove(0);
    let mut bytes = fs::read(&segment).unwrap();
    bytes[100] ^= 1;
    fs::write(&segment, bytes).unwrap();
    assert_eq!(code_with_closed_output(&["verify", "--data-dir", data_dir]), Some(1));
}
