//! A change of the signing key, as operators make it and auditors follow it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use consent_ledger::{
    proto::{self, Action},
    tlog::key::VerifierKey,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};

use crate::support::{self, Finished, PATIENCE, Process, Server, binary, run, wait_until};

const ORIGIN: &str = "ledger.example/eu";
/// Changes of the key in the test with kill -9; `.ci/nightly` makes more.
const KEY_CHANGES: usize = 4;

/// A ledger whose key is changed.
struct World {
    dir: tempfile::TempDir,
    /// What the auditor keeps.
    kept: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let [dir, kept] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        Server::init(dir.path(), &["--origin", ORIGIN]);
        Self { dir, kept }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn keep(&self, name: &str, text: &str) -> String {
        let path = self.kept.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// Serves with one key, and another before it if there is one.
    fn serve(&self, key: &str, previous: Option<&str>) -> Server {
        let flags = self.flags(key, previous);
        Server::start_with(self.dir.path(), &flags.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn flags(&self, key: &str, previous: Option<&str>) -> Vec<String> {
        let mut flags = vec!["--signing-key-file".to_owned(), self.path(key)];
        if let Some(previous) = previous {
            flags.extend(["--previous-signing-key-file".to_owned(), self.path(previous)]);
        }
        flags
    }

    /// The output of a server that refuses to start.
    #[track_caller]
    fn refused(&self, flags: &[String]) -> String {
        let mut command = binary();
        command.args(Server::arguments(self.dir.path())).args(flags);
        Process::spawn(command).wait(PATIENCE).expect_code(1).output()
    }

    #[track_caller]
    fn verify(&self, more: &[&str]) -> Finished {
        let dir = self.dir.path().display().to_string();
        run([&["verify", "--json", "--data-dir", &dir], more].concat())
    }

    /// The entries that change the key.
    fn changes(&self) -> Vec<Value> {
        let dir = self.dir.path().display().to_string();
        let entries = run(["export", "--data-dir", &dir]).expect_code(0).json_lines();
        entries.into_iter().filter(|line| line["entry"].get("keyTransition").is_some()).collect()
    }
}

async fn record(server: &Server, people: std::ops::Range<usize>) {
    let mut clients = server.clients().await;
    for n in people {
        clients.record_change(&format!("user:{n}"), Action::Grant, "news", "email").await;
    }
}

fn key(server: &Server) -> String {
    server.cli(&["checkpoint", "--verifier-key"]).expect_code(0).stdout.trim().to_owned()
}

/// The latest checkpoint, once it covers all entries.
async fn checkpoint(server: &Server) -> String {
    let request = proto::GetCheckpointRequest { at_least_size: None };
    let answer = server.clients().await.audit.get_checkpoint(request).await.unwrap();
    let size = answer.into_inner().size.to_string();
    server.cli(&["checkpoint", "--at-least", &size]).expect_code(0).stdout
}

#[tokio::test(flavor = "multi_thread")]
async fn an_auditor_who_knows_the_first_key_follows_every_change() {
    let world = World::new();
    let server = world.serve("signing-key", None);
    server.clients_with_catalog(&["news"], &["email"]).await;
    record(&server, 0..5).await;
    let first = key(&server);
    let before = world.keep("before", &checkpoint(&server).await);
    server.terminate();

    let server = world.serve("second-key", Some("signing-key"));
    let second = key(&server);
    record(&server, 5..8).await;
    // Both sign as long as both are given: whoever knows one of them verifies.
    let both = world.keep("both", &checkpoint(&server).await);
    for key in [&first, &second] {
        world.verify(&["--checkpoint", &both, "--key", key]).expect_code(0);
    }
    server.terminate();
    let server = world.serve("second-key", None);
    record(&server, 8..10).await;
    server.terminate();
    let server = world.serve("third-key", Some("second-key"));
    server.terminate();
    let listen = ["--tiles-listen", "127.0.0.1:0"].map(str::to_owned);
    let flags = [world.flags("third-key", None), listen.to_vec()].concat();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let server = Server::start_with(world.dir.path(), &flags);
    record(&server, 10..12).await;
    let (third, latest) = (key(&server), world.keep("latest", &checkpoint(&server).await));

    let changes = world.changes();
    let named = |n: usize, field: &str| changes[n]["entry"]["keyTransition"][field].clone();
    assert_eq!(changes.len(), 2);
    assert_eq!([named(0, "oldKey"), named(0, "newKey")], [json!(first), json!(second)]);
    assert_eq!([named(1, "oldKey"), named(1, "newKey")], [json!(second), json!(third)]);
    let indexes: Vec<u64> = changes
        .iter()
        .map(|line| line["entry"]["index"].as_str().unwrap().parse().unwrap())
        .collect();

    // From the files, with the first key alone.
    let found = world.verify(&["--key", &first, "--checkpoint", &before]).expect_code(0).json();
    assert_eq!(found["keyChanges"], json!(indexes));
    let found = world.verify(&["--key", &third]).expect_code(0).json();
    assert_eq!(found["keyChanges"], json!([]));
    // A later key does not vouch for what an earlier one signed.
    world.verify(&["--key", &third, "--checkpoint", &before]).expect_code(1);

    // From the server.
    server.cli(&["prove", "--from", &before, "--key", &first]).expect_code(0);
    let proof = world.kept.path().join("proof").display().to_string();
    server.cli(&["prove", "--index", "4", "--key", &first, "--output", &proof]).expect_code(0);
    let audit = support::verify_decisions(world.dir.path(), &server.address, &["--key", &first]);
    audit.expect_code(0);
    server.cli(&["checkpoint", "--key", &first]).expect_code(0);
    let url = server.printed("tiles on ").map(|address| format!("http://{address}")).unwrap();
    let against = world.verify(&["--key", &first, "--against", &url]).expect_code(0).json();
    assert_eq!(against["intact"], true);

    // Offline, with what the server printed once.
    let printed = server.cli(&["checkpoint", "--key-changes"]).expect_code(0).stdout;
    let proofs = world.keep("changes", &printed);
    run(["verify-proof", &proof, "--key", &first]).expect_code(1);
    run(["verify-proof", &proof, "--key", &first, "--key-change", &proofs]).expect_code(0);
    let receipt = world.kept.path().join("receipt").display().to_string();
    let index = (indexes[1] + 1).to_string();
    server.cli(&["receipt", "--index", &index, "--output", &receipt]).expect_code(0);
    run(["verify-receipt", &receipt, "--key", &first]).expect_code(1);
    run(["verify-receipt", &receipt, "--key", &first, "--key-change", &proofs]).expect_code(0);
    // Each of them is a C2SP tlog-proof that anybody can verify.
    let all = server.cli(&["checkpoint", "--key-changes", "--json"]).expect_code(0).json();
    let one = world.keep("one", all["keyChanges"][0].as_str().unwrap());
    for key in [&first, &second] {
        let proven = run(["verify-proof", &one, "--key", key, "--json"]).expect_code(0).json();
        assert_eq!(proven["entry"]["keyTransition"]["newKey"], json!(second));
    }

    // Somebody else's keys lead nowhere, and a change that was changed is none.
    let other = World::new();
    let stranger = other.serve("signing-key", None);
    let other_key = key(&stranger);
    stranger.terminate();
    world.verify(&["--key", &other_key]).expect_code(1);
    let refused = run(["verify-proof", &proof, "--key", &other_key, "--key-change", &proofs]);
    assert!(refused.expect_code(2).stderr.contains("none of those that are trusted"));
    let changed = world.keep("changed", &printed.replacen("index ", "index 1", 1));
    run(["verify-proof", &proof, "--key", &first, "--key-change", &changed]).expect_code(2);
    // A policy whose log is the first key, too.
    let policy = world.keep("policy", &format!("log {first}\nquorum none\n"));
    world.verify(&["--policy", &policy, "--checkpoint", &latest]).expect_code(0);
    server.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wrong_keys_change_nothing() {
    let world = World::new();
    let server = world.serve("signing-key", None);
    server.clients_with_catalog(&["news"], &["email"]).await;
    let first = key(&server);
    server.terminate();
    let entries = world.verify(&["--key", &first]).expect_code(0).json()["entries"].clone();
    let other = World::new();
    other.serve("signing-key", None).terminate();
    fs::copy(other.path("signing-key"), world.path("other-key")).unwrap();
    for (key, previous, said) in [
        ("second-key", "missing-key", "missing-key: --previous-signing-key-file must name"),
        ("second-key", "other-key", "it is not the one that signed the last checkpoint"),
        ("signing-key", "signing-key", "hold the same key"),
        ("signing-key", "other-key", "it is not the one that signed the last checkpoint"),
    ] {
        let output = world.refused(&world.flags(key, Some(previous)));
        assert!(output.contains(said), "{key} {previous}: {output}");
    }
    assert!(!Path::new(&world.path("second-key")).exists());
    let found = world.verify(&["--key", &first]).expect_code(0).json();
    assert_eq!(found["entries"], entries);

    world.serve("second-key", Some("signing-key")).terminate();
    // The last checkpoint is signed with the retired key, too.
    let output = world.refused(&world.flags("signing-key", None));
    assert!(output.contains("has retired"), "{output}");
    let output = world.refused(&world.flags("third-key", Some("signing-key")));
    assert!(output.contains("has retired"), "{output}");
    // Neither the two flags swapped nor a key that is said to be lost bring it back.
    let output = world.refused(&world.flags("signing-key", Some("second-key")));
    assert!(output.contains("signing-key holds a key that entry"), "{output}");
    let lost = [world.flags("signing-key", None), vec!["--new-signing-key".to_owned()]].concat();
    let output = world.refused(&lost);
    assert!(output.contains("signing-key holds a key that entry"), "{output}");
    world.serve("second-key", Some("signing-key")).terminate();
    world.serve("second-key", None).terminate();
    // Also long after, when nothing but the entry knows it any more.
    for flags in [
        world.flags("signing-key", None),
        world.flags("signing-key", Some("second-key")),
        lost,
        world.flags("third-key", Some("signing-key")),
    ] {
        let output = world.refused(&flags);
        assert!(output.contains("has retired"), "{flags:?}: {output}");
    }
    assert_eq!(world.changes().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_file_that_is_missing_unreadable_or_no_key_is_told_as_that() {
    let world = World::new();
    world.serve("signing-key", None).terminate();
    let text = fs::read_to_string(world.path("signing-key")).unwrap();
    fs::write(world.path("cut"), &text[..text.len() / 2]).unwrap();
    fs::write(world.path("other"), "no key at all\n").unwrap();
    fs::create_dir(world.path("folder")).unwrap();
    for (file, said) in [
        ("singing-key", "there is no file"),
        ("cut", "holds no signing key"),
        ("other", "holds no signing key: it must hold PRIVATE+KEY+NAME+ID+KEY"),
        ("folder", "can not be read"),
    ] {
        let before = support::files(world.dir.path());
        let output = world.refused(&world.flags(file, None));
        assert!(output.contains(said) && output.contains(file), "{file}: {output}");
        assert!(!output.contains("--new-signing-key"), "{file}: {output}");
        assert!(!output.contains("does not hold the signing key"), "{file}: {output}");
        assert_eq!(support::files(world.dir.path()), before, "{file}: nothing is changed");
    }
    world.serve("signing-key", None).terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_note_by_another_key_of_the_ledger_says_which_key_that_is() {
    let world = World::new();
    let server = world.serve("signing-key", None);
    server.clients_with_catalog(&["news"], &["email"]).await;
    let first = key(&server);
    let early = world.keep("early", &checkpoint(&server).await);
    server.terminate();
    world.serve("second-key", Some("signing-key")).terminate();
    let server = world.serve("second-key", None);
    let second = key(&server);
    let proof = world.kept.path().join("proof").display().to_string();
    record(&server, 0..1).await;
    server.cli(&["prove", "--index", "2", "--output", &proof]).expect_code(0);
    let changes = server.cli(&["checkpoint", "--key-changes"]).expect_code(0).stdout;
    let changes = world.keep("changes", &changes);
    server.terminate();
    let index = world.changes()[0]["entry"]["index"].as_str().unwrap().to_owned();
    // An earlier key, for somebody who knows the later one alone.
    let found = world.verify(&["--key", &second, "--checkpoint", &early]).expect_code(1).json();
    let said = found["checkpoints"].to_string();
    assert!(
        said.contains(&format!("{first}, which entry {index} of this ledger took out")),
        "{said}"
    );

    // A later key that nobody can follow, since the one before it was lost.
    let flags = [world.flags("third-key", None), vec!["--new-signing-key".to_owned()]].concat();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let server = Server::start_with(world.dir.path(), &flags);
    let (third, late) = (key(&server), world.keep("late", &checkpoint(&server).await));
    server.terminate();
    let index = world.changes()[1]["entry"]["index"].as_str().unwrap().to_owned();
    let brought = format!("{third}, which entry {index} of this ledger brought");
    for more in [&["--checkpoint", &late][..], &[]] {
        let found = world.verify(&[&["--key", &first], more].concat()).expect_code(1).json();
        let said = found["checkpoints"].to_string();
        assert!(said.contains(&brought), "{said}");
        assert!(!said.contains("is not signed by"), "{said}");
    }
    // Offline, with what is known of the changes.
    let data_dir = world.dir.path().display().to_string();
    run(["verify-proof", &proof, "--key", &second]).expect_code(0);
    let other = run(["verify-proof", &proof, "--key", &first]).expect_code(1);
    assert!(other.stderr.contains("is not signed by"), "{}", other.stderr);
    run(["verify-proof", &proof, "--key", &first, "--key-change", &changes]).expect_code(0);
    run(["prove", "--data-dir", &data_dir, "--index", "1", "--key", &third]).expect_code(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_key_is_an_entry_too_and_leads_nowhere() {
    let world = World::new();
    let server = world.serve("signing-key", None);
    server.clients_with_catalog(&["news"], &["email"]).await;
    let first = key(&server);
    server.terminate();
    fs::remove_file(world.path("signing-key")).unwrap();
    let flags = [world.flags("second-key", None), vec!["--new-signing-key".to_owned()]].concat();
    for _ in 0..2 {
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        Server::start_with(world.dir.path(), &flags).terminate();
    }
    let server = world.serve("second-key", None);
    let second = key(&server);
    server.terminate();
    let changes = world.changes();
    assert_eq!(changes.len(), 1, "{changes:?}");
    let change = &changes[0]["entry"]["keyTransition"];
    assert_eq!((&change["newKey"], &change["oldKey"]), (&json!(second), &json!("")));
    world.verify(&["--key", &first]).expect_code(1);
    world.verify(&["--key", &second]).expect_code(0);
    world.verify(&["--key", &first, "--key", &second]).expect_code(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_nine_in_the_middle_of_a_change_leaves_one_change() {
    let rounds = std::env::var("CONSENT_LEDGER_TEST_KEY_CHANGES")
        .map_or(KEY_CHANGES, |text| text.parse().expect("a number"));
    let mut dice = StdRng::seed_from_u64(support::seed("key_change"));
    let world = World::new();
    let server = world.serve("signing-key", None);
    server.clients_with_catalog(&["news"], &["email"]).await;
    record(&server, 0..3).await;
    let first = key(&server);
    server.kill();
    let mut keys = vec!["signing-key".to_owned()];
    for round in 1..=rounds {
        let (key, previous) = (format!("key-{round}"), keys.last().unwrap().clone());
        let flags = world.flags(&key, Some(&previous));
        for _ in 0..4 {
            let mut command = binary();
            command.args(Server::arguments(world.dir.path())).args(&flags);
            let mut process = Process::spawn(command);
            tokio::time::sleep(Duration::from_millis(dice.random_range(0..250))).await;
            process.kill();
        }
        let server = world.serve(&key, Some(&previous));
        let is_followed = || server.cli(&["checkpoint", "--key", &first]).code == Some(0);
        wait_until("a checkpoint that the first key leads to", PATIENCE, || {
            is_followed().then_some(())
        });
        server.kill();
        assert_eq!(world.changes().len(), round, "one change is one entry");
        keys.push(key);
    }
    let found = world.verify(&["--key", &first]).expect_code(0).json();
    assert_eq!(found["keyChanges"].as_array().unwrap().len(), rounds);
    let last = PathBuf::from(world.path(keys.last().unwrap()));
    let text = fs::read_to_string(last).unwrap();
    assert!(VerifierKey::parse(&text).is_err(), "the file holds a secret");
}
