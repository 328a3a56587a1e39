//! A ledger is made on purpose: `init` makes it, and nothing else does. An empty directory is a lost
//! mount, and whoever had objected would be ALLOW again in the ledger that a server made of it.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, thread, time::Duration};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use consent_ledger::proto::{Action, Effect, Reason};

use crate::support::{self, Finished, Process, Server, binary, check_request, copy_tree};

/// `init --json` on a data directory, with more flags.
fn init(data_dir: &Path, flags: &[&str]) -> Finished {
    let mut command = binary();
    command.args(["init", "--json", "--data-dir"]).arg(data_dir).args(flags);
    Process::spawn(command).wait(support::LONG_PATIENCE)
}

/// A start of the server that must fail. It changes no file.
#[track_caller]
fn refused_start(data_dir: &Path, flags: &[&str]) -> String {
    let before = snapshot(data_dir);
    let mut command = binary();
    command.args(Server::arguments(data_dir)).args(flags);
    let refused = Process::spawn(command).wait(support::PATIENCE).expect_code(1);
    assert!(!refused.stdout.contains("listening"), "{}", refused.stdout);
    assert_eq!(snapshot(data_dir), before, "{}", refused.stderr);
    refused.stderr
}

/// An `init` that must fail. It changes no file.
#[track_caller]
fn refused_init(data_dir: &Path, flags: &[&str]) -> String {
    let before = snapshot(data_dir);
    let refused = init(data_dir, flags).expect_code(1);
    assert_eq!(snapshot(data_dir), before, "{}", refused.stderr);
    refused.stderr
}

/// Every file and folder below a directory, with the contents of the files; none if it does not exist.
fn snapshot(dir: &Path) -> Option<Vec<(String, Option<Vec<u8>>)>> {
    let mut found = Vec::new();
    let mut entries: Vec<_> = fs::read_dir(dir).ok()?.map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let name = path.display().to_string();
        if path.is_dir() {
            found.push((name, None));
            found.extend(snapshot(&path).unwrap_or_default());
        } else {
            found.push((name, Some(fs::read(&path).unwrap())));
        }
    }
    Some(found)
}

/// The id of the ledger that `init --json` reports, in hexadecimal digits.
fn id_of(made: &Finished) -> String {
    support::hex(BASE64_STANDARD.decode(made.json()["ledgerId"].as_str().unwrap()).unwrap())
}

/// A data directory with a ledger in which a person has objected.
async fn with_an_objection(data_dir: &Path, flags: &[&str]) {
    let server = Server::start_with(data_dir, flags);
    let mut clients = server.clients_with_catalog(&["marketing.newsletter"], &["email"]).await;
    clients.record_change("user:1", Action::Object, "marketing.newsletter", "email").await;
    drop(clients);
    server.terminate();
}

#[tokio::test]
async fn a_lost_mount_is_refused_and_the_restored_one_still_says_no() {
    let root = tempfile::tempdir().unwrap();
    let (data, aside) = (root.path().join("data"), root.path().join("aside"));
    with_an_objection(&data, &[]).await;
    fs::rename(&data, &aside).unwrap();
    let error = refused_start(&data, &[]);
    assert!(error.contains("does not exist") && error.contains("consent-ledger init"), "{error}");
    // The mount point is there, the disk is not.
    fs::create_dir(&data).unwrap();
    let error = refused_start(&data, &[]);
    assert!(error.contains("is empty") && error.contains("mount its disk"), "{error}");
    fs::create_dir(data.join("lost+found")).unwrap();
    assert!(refused_start(&data, &[]).contains("is empty"));
    fs::remove_dir_all(&data).unwrap();
    fs::rename(&aside, &data).unwrap();

    let server = Server::start(&data);
    let mut clients = server.clients().await;
    let request = check_request("user:1", "marketing.newsletter", "email");
    let answer = clients.check.check(request).await.unwrap().into_inner();
    assert_eq!((answer.effect(), answer.reason()), (Effect::Deny, Reason::Objected));
}

#[tokio::test]
async fn what_is_left_of_a_ledger_is_named_and_never_completed() {
    let root = tempfile::tempdir().unwrap();
    let data = root.path().join("data");
    with_an_objection(&data, &[]).await;
    let without = |names: &[&str]| {
        let copy = tempfile::tempdir().unwrap();
        copy_tree(&data, copy.path());
        for name in names {
            let path = copy.path().join(name);
            let removed =
                if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.unwrap();
        }
        copy
    };
    for (lost, words) in [
        (&["ledger"][..], &["ledger is missing", "vault is there"][..]),
        (&["vault"], &["vault is missing", "ledger is there"]),
        (&["checkpoint.json"], &["checkpoint.json is missing"]),
        (&["kek"], &["there is no file", "kek: it must hold the key-encryption key"]),
        (&["signing-key"], &["there is no file", "--signing-key-file must name the file"]),
        (&["ledger", "vault"], &["neither ledger nor vault", "checkpoint.json", "view"]),
        (&["ledger", "vault", "tree", "checkpoint.json", "kek", "signing-key"], &["only view"]),
        (&["ledger", "vault", "tree", "checkpoint.json", "view"], &["only kek, signing-key"]),
    ] {
        let copy = without(lost);
        // A refused start takes the lock of a directory that has both stores.
        let _ = fs::remove_file(copy.path().join("lock"));
        fs::write(copy.path().join("lock"), "").unwrap();
        let error = refused_start(copy.path(), &[]);
        assert!(words.iter().all(|word| error.contains(word)), "{lost:?}: {error}");
        let data_dir = copy.path().to_str().unwrap();
        let before = snapshot(copy.path());
        let rebuilt = support::run(["rebuild-view", "--data-dir", data_dir]);
        let is_rebuilt = rebuilt.code == Some(0);
        // The view needs no signing key.
        assert_eq!(is_rebuilt, lost == ["signing-key"], "{lost:?}: {rebuilt:?}");
        assert!(is_rebuilt || snapshot(copy.path()) == before, "{lost:?}");
        let error = init(copy.path(), &[]).expect_code(1).stderr;
        assert!(!error.is_empty(), "{lost:?}");
    }
    // Files that were emptied are no empty ledger.
    for store in ["ledger", "vault"] {
        let copy = without(&[]);
        let segment = copy.path().join(store).join(format!("{:020}.seg", 0));
        fs::write(&segment, "").unwrap();
        fs::write(copy.path().join("lock"), "").unwrap();
        let error = refused_start(copy.path(), &[]);
        assert!(error.contains(store), "{store}: {error}");
    }
}

#[test]
fn init_makes_a_ledger_once_and_prints_what_identifies_it() {
    let root = tempfile::tempdir().unwrap();
    let data = root.path().join("new/data");
    let data_dir = data.to_str().unwrap();
    let made = init(&data, &["--origin", "consent.example.org/eu"]).expect_code(0);
    let json = made.json();
    assert_eq!(json["origin"], "consent.example.org/eu");
    assert_eq!(json["kekNoted"], true);
    for (file, mode) in [("kek", 0o600), ("signing-key", 0o600), ("", 0o700)] {
        let metadata = fs::metadata(data.join(file)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, mode, "{file}");
    }
    let verified = support::verify(&data).expect_code(0).json();
    assert_eq!(verified["ledgerId"], json["ledgerId"]);
    assert_eq!((&verified["origin"], &verified["entries"]), (&json["origin"], &1.into()));

    let id = id_of(&made);
    for flags in [&[][..], &["--origin", "another.example"]] {
        let error = refused_init(&data, flags);
        assert!(error.contains("already holds a ledger") && error.contains(&id), "{error}");
    }
    let server = Server::start(&data);
    assert_eq!(server.printed("verifier key ").unwrap(), json["verifierKey"].as_str().unwrap());
    assert_eq!(server.printed("ledger ").unwrap(), format!("{id} consent.example.org/eu"));
    // Not while it is served either.
    assert!(init(&data, &[]).expect_code(1).stderr.contains("already holds a ledger"));
    server.terminate();

    let text = support::run(["init", "--data-dir", root.path().join("b").to_str().unwrap()]);
    let text = text.expect_code(0).stdout;
    assert!(text.contains("ledger id") && text.contains("localhost/consent"), "{text}");
    assert!(text.contains("verifier key  localhost/consent+"), "{text}");
    support::run(["init", "--data-dir", data_dir, "--origin", "two words"]).expect_code(2);
}

#[test]
fn init_leaves_other_files_alone() {
    let root = tempfile::tempdir().unwrap();
    let data = root.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("notes.txt"), "mine").unwrap();
    let error = refused_init(&data, &[]);
    assert!(error.contains("notes.txt"), "{error}");
    assert!(refused_start(&data, &[]).contains("it holds no ledger, but notes.txt"));
    let file = data.join("notes.txt");
    assert!(refused_init(&file, &[]).contains("is not a directory"));
    assert!(refused_start(&file, &[]).contains("is not a directory"));
    // What a new file system has, and keys that were made before, are no obstacle.
    fs::rename(&file, root.path().join("notes.txt")).unwrap();
    fs::create_dir(data.join("lost+found")).unwrap();
    fs::write(data.join("kek"), "5a".repeat(32)).unwrap();
    init(&data, &[]).expect_code(0);
    Server::start(&data).terminate();
}

#[test]
fn another_ledger_than_the_expected_one_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let [mine, other] = ["mine", "other"].map(|name| root.path().join(name));
    let made = init(&mine, &["--origin=consent.example.org/eu"]).expect_code(0);
    let [id, other_id] = [id_of(&made), id_of(&init(&other, &[]).expect_code(0))];
    let base64 = made.json()["ledgerId"].as_str().unwrap().to_owned();
    for expected in [&id, &base64, &id.to_uppercase()] {
        Server::start_with(&mine, &["--expect-ledger", expected]).terminate();
    }
    let error = refused_start(&other, &["--expect-ledger", &id]);
    assert!(error.contains(&id) && error.contains(&other_id), "both are named: {error}");

    // By environment and options file, too.
    let mut command = binary();
    command.args(Server::arguments(&other)).env("CONSENT_LEDGER_EXPECT_LEDGER", &id);
    let refused = Process::spawn(command).wait(support::PATIENCE).expect_code(1);
    assert!(refused.stderr.contains(&id) && refused.stderr.contains(&other_id), "{refused:?}");
    let file = root.path().join("options.toml");
    fs::write(&file, format!("[serve]\nexpect_ledger = \"{id}\"\n")).unwrap();
    let error = refused_start(&other, &["--config", file.to_str().unwrap()]);
    assert!(error.contains(&id) && error.contains(&other_id), "{error}");

    let mut command = binary();
    command.args(Server::arguments(&mine)).args(["--expect-ledger", "eu"]);
    let refused = Process::spawn(command).wait(support::PATIENCE).expect_code(2);
    assert!(refused.stderr.contains("--expect-ledger"), "{refused:?}");

    let error = refused_start(&other, &["--origin", "consent.example.org/eu"]);
    for name in ["consent.example.org/eu", "localhost/consent"] {
        assert!(error.contains(name), "{error}");
    }
    Server::start_with(&mine, &["--origin", "consent.example.org/eu"]).terminate();
}

#[tokio::test]
async fn a_key_that_is_kept_apart_knows_its_ledger_when_the_directory_is_lost() {
    let root = tempfile::tempdir().unwrap();
    let (data, kek) = (root.path().join("data"), root.path().join("keys/kek"));
    fs::create_dir(kek.parent().unwrap()).unwrap();
    let digits = "5a".repeat(32);
    fs::write(&kek, &digits).unwrap();
    let flags = ["--kek-file", kek.to_str().unwrap(), "--origin", "consent.example.org/eu"];
    let id = id_of(&init(&data, &flags).expect_code(0));
    let noted = fs::read_to_string(&kek).unwrap();
    assert_eq!(noted, format!("{digits}\nledger {id} consent.example.org/eu\n"));
    with_an_objection(&data, &flags).await;

    fs::remove_dir_all(&data).unwrap();
    let error = refused_init(&data, &flags);
    assert!(error.contains(&id) && error.contains("keys/kek"), "{error}");
    assert_eq!(fs::read_to_string(&kek).unwrap(), noted);
    // A ledger of another name is another ledger.
    let us = [&flags[..2], &["--origin", "consent.example.org/us"]].concat();
    init(&data, &us).expect_code(0);
    assert_eq!(fs::read_to_string(&kek).unwrap().lines().count(), 3);
    Server::start_with(&data, &us).terminate();
    // Whoever gives the old ledger up for good says so in the file.
    fs::write(&kek, &digits).unwrap();
    fs::remove_dir_all(&data).unwrap();
    init(&data, &flags).expect_code(0);
}

#[tokio::test]
async fn a_key_file_that_names_another_ledger_of_the_name_serves_none() {
    let root = tempfile::tempdir().unwrap();
    let (data, kek) = (root.path().join("data"), root.path().join("kek"));
    fs::write(&kek, "5a".repeat(32)).unwrap();
    let flags = ["--kek-file", kek.to_str().unwrap(), "--origin", "consent.example.org/eu"];
    with_an_objection(&data, &flags).await;
    let noted = fs::read_to_string(&kek).unwrap();
    let id = noted.lines().nth(1).unwrap().split(' ').nth(1).unwrap();
    for changed in [noted.replace(id, &"0".repeat(32)), noted.replace("/eu", "/us")] {
        fs::write(&kek, &changed).unwrap();
        let error = refused_start(&data, &flags);
        assert!(error.contains("was made for the ledger") && error.contains(id), "{error}");
    }
    // A line may be missing: the file was read-only when the ledger was made. That is told.
    let others = format!("{}\nledger {} other.example\n", "5a".repeat(32), "0".repeat(32));
    fs::write(&kek, others).unwrap();
    let server = Server::start_with(&data, &flags);
    assert!(server.log().contains("names other ledgers and not this one"), "{}", server.log());
    server.terminate();
    fs::write(&kek, noted).unwrap();
    let server = Server::start_with(&data, &flags);
    assert!(!server.log().contains("names other ledgers"), "{}", server.log());
}

#[tokio::test]
async fn the_checkpoint_file_of_another_new_ledger_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let [mine, other] = ["mine", "other"].map(|name| root.path().join(name));
    let [_, id] = [&mine, &other].map(|dir| id_of(&init(dir, &[]).expect_code(0)));
    fs::copy(other.join("checkpoint.json"), mine.join("checkpoint.json")).unwrap();
    fs::write(mine.join("lock"), "").unwrap();
    let error = refused_start(&mine, &[]);
    assert!(error.contains(&format!("checkpoint.json is of the ledger {id}")), "{error}");
    let verified = support::verify(&mine).expect_code(1).json();
    assert!(verified["checkpoints"].to_string().contains(&id), "{verified}");
    support::verify(&other).expect_code(0);
    Server::start(&other).terminate();
}

#[tokio::test]
async fn a_vault_that_was_cut_is_no_crash_and_stays_as_it_is() {
    let root = tempfile::tempdir().unwrap();
    let data = root.path().join("data");
    with_an_objection(&data, &[]).await;
    let segment = fs::read_dir(data.join("vault")).unwrap().next().unwrap().unwrap().path();
    let bytes = fs::read(&segment).unwrap();
    // Within the last frame, which an entry needs.
    fs::write(&segment, &bytes[..bytes.len() - 5]).unwrap();
    let stays = || {
        let mut files = support::files(&data);
        // The view is disposable, and the lock names the process that tries.
        let is_of = |path: &Path, name| path.starts_with(data.join(name));
        files.retain(|path, _| !is_of(path, "view") && !is_of(path, "lock"));
        files
    };
    let before = stays();
    for has_view in [true, false] {
        if !has_view {
            fs::remove_dir_all(data.join("view")).unwrap();
        }
        let mut command = binary();
        command.args(Server::arguments(&data));
        let refused = Process::spawn(command).wait(support::PATIENCE).expect_code(1);
        let said = refused.output();
        assert!(said.contains("has lost data"), "{said}");
        assert!(!said.contains("a crash cut off"), "{said}");
        assert_eq!(stays(), before, "view: {has_view}");
    }
    fs::write(&segment, bytes).unwrap();
    let server = Server::start(&data);
    let mut clients = server.clients().await;
    let answer = clients.ask(check_request("user:1", "marketing.newsletter", "email")).await;
    assert_eq!(answer.reason(), Reason::Objected);
}

#[tokio::test]
async fn keys_and_checkpoints_of_an_earlier_ledger_refuse_a_new_one() {
    let root = tempfile::tempdir().unwrap();
    let data = root.path().join("data");
    with_an_objection(&data, &[]).await;
    let server = Server::start(&data);
    let kept = root.path().join("kept.checkpoint");
    server.cli(&["checkpoint", "--output", kept.to_str().unwrap()]).expect_code(0);
    server.terminate();
    let remains = |names: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            fs::copy(data.join(name), dir.path().join(name)).unwrap();
        }
        dir
    };
    let error = refused_init(remains(&["kek"]).path(), &[]);
    assert!(error.contains("the key-encryption key in"), "{error}");
    let error = refused_init(remains(&["signing-key"]).path(), &[]);
    assert!(error.contains("--unused-signing-key"), "{error}");
    let error = refused_init(remains(&["checkpoint.json"]).path(), &[]);
    assert!(error.contains("checkpoint.json"), "{error}");

    let new = root.path().join("new");
    let error = refused_init(&new, &["--checkpoint", kept.to_str().unwrap()]);
    assert!(error.contains("localhost/consent") && !new.exists(), "{error}");
    let digits = data.join("kek");
    for no_checkpoint in [&digits, &root.path().join("absent")] {
        let flag = format!("--checkpoint={}", no_checkpoint.display());
        init(&new, &[&flag]).expect_code(2);
        assert!(!new.exists());
    }
}

#[test]
fn an_init_that_was_cut_off_is_completed_and_not_served() {
    let root = tempfile::tempdir().unwrap();
    let data = root.path().join("data");
    let id = id_of(&init(&data, &[]).expect_code(0));
    fs::write(data.join("init-unfinished"), "").unwrap();
    let error = refused_start(&data, &[]);
    assert!(error.contains("`consent-ledger init` was stopped"), "{error}");
    assert_eq!(id_of(&init(&data, &[]).expect_code(0)), id);
    Server::start(&data).terminate();

    // Under another name or key it is not completed.
    fs::write(data.join("init-unfinished"), "").unwrap();
    for flags in [&["--origin", "other.example", "--unused-signing-key"][..], &["--kek-file", "x"]]
    {
        init(&data, flags).expect_code(1);
        assert!(refused_start(&data, &[]).contains("was stopped"));
    }
    assert_eq!(id_of(&init(&data, &[]).expect_code(0)), id);

    // Killed at any moment, too.
    for micros in (0..40).map(|step| 500 * step) {
        let data = root.path().join(format!("killed-{micros}"));
        let mut command = binary();
        command.args(["init", "--data-dir"]).arg(&data);
        let mut cut = Process::spawn(command);
        thread::sleep(Duration::from_micros(micros));
        cut.kill();
        let completed = init(&data, &[]);
        if completed.code != Some(0) {
            assert!(completed.stderr.contains("already holds a ledger"), "{completed:?}");
        }
        support::verify(&data).expect_code(0);
    }
}

#[tokio::test]
async fn an_ephemeral_ledger_answers_with_its_catalogue_and_leaves_nothing() {
    let tmp = tempfile::tempdir().unwrap();
    let catalog = support::repository("examples/catalog.toml");
    let serve = |flags: &[&str]| {
        let mut command = binary();
        command.env("TMPDIR", tmp.path()).env("CONSENT_LEDGER_DATA_DIR", tmp.path().join("mine"));
        command.args(["serve", "--ephemeral"]).args(flags);
        Process::spawn(command)
    };
    let entries = || fs::read_dir(tmp.path()).unwrap().count();
    let with_catalog = ["--catalog", catalog.to_str().unwrap()];
    // Two at a time, each on a port of its own.
    let one = Server::listening(serve(&with_catalog));
    let two = Server::listening(serve(&[]));
    assert_ne!(one.address, two.address);
    assert_eq!(entries(), 2);
    // The first question already meets the catalogue.
    let mut clients = one.clients().await;
    clients.record_change("user:1", Action::Object, "marketing.newsletter", "email").await;
    let request = check_request("user:1", "marketing.newsletter", "email");
    let answer = clients.check.check(request).await.unwrap().into_inner();
    assert_eq!((answer.effect(), answer.reason()), (Effect::Deny, Reason::Objected));
    drop(clients);
    one.terminate();
    let mut two = two;
    two.process().signal(rustix::process::Signal::INT);
    support::wait_until("an end", support::PATIENCE, || two.process().ended());
    assert_eq!(entries(), 0);

    let json = serve(&["--json", "--origin", "consent.example.org/trial"]);
    let line =
        json.stdout.wait_for(support::PATIENCE, |text| text.lines().next().map(str::to_owned));
    let line: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
    assert_eq!(line["origin"], "consent.example.org/trial");
    let address = line["listening"].as_str().unwrap();
    support::Clients::connect(address).await.unwrap();
    // A port that is taken, and a faulty catalogue.
    let taken = serve(&["--listen", address]).wait(support::PATIENCE).expect_code(1);
    assert!(taken.stderr.contains(address), "{}", taken.stderr);
    json.terminate();
    let faulty = tmp.path().join("faulty.toml");
    fs::write(&faulty, "[[channels]]\nkey = \"e mail\"\ntitle = \"E-mail\"\n").unwrap();
    let refused = serve(&["--catalog", faulty.to_str().unwrap()]);
    let refused = refused.wait(support::PATIENCE).expect_code(1);
    assert!(refused.stderr.contains("channel `e mail`"), "{}", refused.stderr);
    assert!(!refused.stdout.contains("listening"));
    assert_eq!(entries(), 1, "only the catalogue is left");

    for (flags, word) in [
        (&["--data-dir", "x"][..], "--data-dir"),
        (&["--kek-file", "x"], "--kek-file"),
        (&["--signing-key-file", "x"], "--signing-key-file"),
        (&["--expect-ledger", &"0".repeat(32)], "leave out --expect-ledger"),
    ] {
        let refused = serve(flags).wait(support::PATIENCE).expect_code(2);
        assert!(refused.stderr.contains(word), "{}", refused.stderr);
    }
    // What the environment gives is not told as a flag.
    let mut command = binary();
    command.args(["serve", "--ephemeral"]).env("CONSENT_LEDGER_EXPECT_LEDGER", "0".repeat(32));
    let refused = Process::spawn(command).wait(support::PATIENCE).expect_code(2);
    let said = &refused.stderr;
    assert!(said.contains("leave out CONSENT_LEDGER_EXPECT_LEDGER"), "{said}");
    assert!(!said.contains("--expect-ledger"), "{said}");
    let no_use = ["serve", "--catalog", catalog.to_str().unwrap()];
    let refused = support::run(no_use).expect_code(2);
    assert!(refused.stderr.contains("catalog apply"), "{}", refused.stderr);
    assert_eq!(entries(), 1);
}

#[test]
fn a_stop_while_an_ephemeral_ledger_starts_leaves_nothing() {
    for millis in 0..20 {
        let tmp = tempfile::tempdir().unwrap();
        let mut command = binary();
        command.env("TMPDIR", tmp.path()).args(["serve", "--ephemeral"]);
        let mut starting = Process::spawn(command);
        // From the first moment on at which the directory is there.
        let made = || fs::read_dir(tmp.path()).unwrap().next().is_some();
        support::wait_until("a directory", support::PATIENCE, || made().then_some(()));
        thread::sleep(Duration::from_millis(millis));
        starting.signal(rustix::process::Signal::TERM);
        support::wait_until("an end", support::PATIENCE, || starting.ended());
        assert!(!made(), "after {millis} ms");
    }
}
