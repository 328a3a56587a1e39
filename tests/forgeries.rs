//! What `verify` and a server must not take for a sound ledger: forged, damaged, foreign and incomplete
//! directories, and what they say of them.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use consent_ledger::{
    proto::{Action, ledger::VaultFrame},
    storage::{FrameLog, LogSpec, disk::RealDisk},
    tlog::{
        checkpoint::SignedCheckpoint,
        key::{SignerKey, VerifierKey},
    },
};
use prost::Message as _;
use serde_json::{Value, json};

use crate::support::{
    self, Finished, PATIENCE, Process, Server, binary, copy_tree, cosigner_key, repository, run,
    wait_until,
};

const ORIGIN: &str = "ledger.example/eu";
const SUBJECTS: u64 = 6;

/// A closed data directory with a few data subjects, and the verifier key of its ledger.
struct Sound {
    dir: tempfile::TempDir,
    key: String,
}

impl Sound {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start_with(dir.path(), &["--origin", ORIGIN]);
        let mut clients = server.clients_with_catalog(&["news"], &["email"]).await;
        for n in 0..SUBJECTS {
            clients.record_change(&format!("user:{n}"), Action::Grant, "news", "email").await;
        }
        server.terminate();
        let key = fs::read_to_string(dir.path().join("signing-key")).unwrap();
        let key = SignerKey::parse(&key).unwrap().verifier().to_string();
        Self { dir, key }
    }

    fn copy(&self) -> tempfile::TempDir {
        let copy = tempfile::tempdir().unwrap();
        copy_tree(self.dir.path(), copy.path());
        copy
    }

    #[track_caller]
    fn verify(&self, dir: &Path, more: &[&str]) -> Finished {
        verify(dir, &[&["--key", &self.key], more].concat())
    }
}

#[track_caller]
fn verify(dir: &Path, more: &[&str]) -> Finished {
    let dir = dir.display().to_string();
    run([&["verify", "--json", "--data-dir", &dir], more].concat())
}

fn file(dir: &Path, name: &str, text: impl AsRef<[u8]>) -> String {
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn book(dir: &Path) -> Value {
    serde_json::from_slice(&fs::read(dir.join("checkpoint.json")).unwrap()).unwrap()
}

/// What was not checked, and whether it was intact.
#[track_caller]
fn not_checked(found: &Value) -> Vec<&str> {
    let names = found["notChecked"].as_array().unwrap().iter();
    names.map(|name| name.as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_verified_no_checkpoint_is_a_failure() {
    let sound = Sound::new().await;
    let found = sound.verify(sound.dir.path(), &[]).expect_code(0).json();
    assert_eq!(found["signedEntries"], found["entries"]);
    assert_eq!(not_checked(&found), ["rollback", "vaultContents"]);

    // A ledger by somebody else, who gave it the same name.
    let forged = Sound::new().await;
    let policy = file(forged.dir.path(), "policy", format!("log {}\nquorum none\n", sound.key));
    let witness = cosigner_key("w.example", 3).verifier().to_string();
    let signs = |text: &str| text.contains("nothing shows that this is the ledger of the key");
    for text in [None, Some(""), Some("{}"), Some(r#"{"format":1}"#)] {
        let dir = forged.copy();
        fs::remove_file(dir.path().join("checkpoint.json")).unwrap();
        if let Some(text) = text {
            file(dir.path(), "checkpoint.json", text);
        }
        for trust in [
            &["--key", &sound.key][..],
            &["--policy", &policy],
            &["--key", &sound.key, "--witness", &witness],
        ] {
            let found = verify(dir.path(), trust).expect_code(1).json();
            assert_eq!((&found["intact"], &found["signedEntries"]), (&false.into(), &0.into()));
            let said = found["checkpoints"].as_array().unwrap().iter();
            let mut said = said.filter_map(|compared| compared["what"].as_str());
            assert!(said.any(signs), "{text:?}: {found}");
        }
    }
    // With its own checkpoints, the key is another.
    let found = verify(forged.dir.path(), &["--key", &sound.key]).expect_code(1).json();
    assert!(found["checkpoints"].to_string().contains("is not signed by"), "{found}");

    // Without a key it is intact in itself, and says what that is worth.
    let dir = forged.copy();
    for name in ["checkpoint.json", "signing-key", "tree"] {
        let path = dir.path().join(name);
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
    }
    let found = verify(dir.path(), &["--ledger-only"]).expect_code(0).json();
    assert_eq!(not_checked(&found), ["signatures", "uncoveredEntries", "rollback", "vault"]);
    assert_eq!(found["signedEntries"], Value::Null);
    let data_dir = dir.path().display().to_string();
    let text = run(["verify", "--ledger-only", "--data-dir", &data_dir]).expect_code(0);
    assert!(text.stdout.starts_with("intact\nNOT CHECKED who signed this"), "{}", text.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_witnesses_that_are_asked_for_are_asked_for_in_the_directory_too() {
    let sound = Sound::new().await;
    let dir = sound.copy();
    let witness = cosigner_key("w.example", 3);
    let named = ["--witness", &witness.verifier().to_string()].map(str::to_owned);
    let trust: Vec<&str> = named.iter().map(String::as_str).collect();
    sound.verify(dir.path(), &trust).expect_code(1);
    // A checkpoint that is only signed may wait for its witnesses, and shows nothing until then.
    let mut page = book(dir.path());
    let text = |page: &Value| json!({"format": 1, "signed": page["signed"]}).to_string();
    file(dir.path(), "checkpoint.json", text(&page));
    let found = sound.verify(dir.path(), &trust).expect_code(1).json();
    assert_eq!(found["checkpoints"][0]["agrees"], true);
    assert_eq!(
        (&found["checkpoints"][0]["trusted"], &found["signedEntries"]),
        (&false.into(), &0.into())
    );
    let mut signed = SignedCheckpoint::parse(page["signed"]["note"].as_str().unwrap()).unwrap();
    signed.note.sign(&witness, 1_700_000_000);
    page["signed"]["note"] = signed.to_string().into();
    file(dir.path(), "checkpoint.json", text(&page));
    let found = sound.verify(dir.path(), &trust).expect_code(0).json();
    assert_eq!(found["signedEntries"], found["entries"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_reads_the_checkpoints_as_strictly_as_the_server() {
    let sound = Sound::new().await;
    let page = book(sound.dir.path());
    let bare = |change: &dyn Fn(&mut Value)| {
        let mut page = page.clone();
        page.as_object_mut().unwrap().remove("checksum").unwrap();
        change(&mut page);
        page.to_string()
    };
    let dir = sound.copy();
    file(dir.path(), "checkpoint.json", bare(&|_| {}));
    sound.verify(dir.path(), &[]).expect_code(0);
    for (what, text) in [
        ("another format", bare(&|page| page["format"] = 2.into())),
        ("an unknown field", bare(&|page| page["released_at"] = 5.into())),
        ("a misspelt field", bare(&|page| page["signed"]["signed_at"] = 5.into())),
        ("a missing field", bare(&|page| drop(page["signed"]["signed_at_ms"].take()))),
        ("no note", bare(&|page| page["signed"]["note"] = "x".into())),
        ("more than JSON", format!("{page} x")),
        ("a wrong checksum", page.to_string().replace("signed_at_ms\":1", "signed_at_ms\":2")),
    ] {
        let dir = sound.copy();
        file(dir.path(), "checkpoint.json", text);
        for trust in [&[][..], &["--key", &sound.key]] {
            let found = verify(dir.path(), trust).expect_code(1).json();
            assert_eq!(found["checkpoints"][0]["agrees"], false, "{what}: {found}");
        }
        let output = Server::refused(dir.path(), &[]);
        assert!(output.contains("checkpoint.json"), "{what}: {output}");
        assert!(!output.contains("--new-signing-key"), "{what}: {output}");
    }
    // A directory that has signed and lost its checkpoints does not start.
    let dir = sound.copy();
    fs::remove_file(dir.path().join("checkpoint.json")).unwrap();
    let found = verify(dir.path(), &[]).expect_code(1).json();
    assert!(found["checkpoints"].to_string().contains("a server refuses to start"), "{found}");
    Server::refused(dir.path(), &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_the_note_is_damage_and_never_another_key() {
    let sound = Sound::new().await;
    let page = book(sound.dir.path());
    let note = page["signed"]["note"].as_str().unwrap().to_owned();
    let places =
        [3, note.find('\n').unwrap() + 1, note.len() / 2, note.len() - 80, note.len() - 10];
    for at in places {
        for has_checksum in [true, false] {
            let dir = sound.copy();
            let mut bytes = note.clone().into_bytes();
            bytes[at] ^= 1;
            let Ok(changed) = String::from_utf8(bytes) else { continue };
            let mut page = page.clone();
            page["signed"]["note"] = changed.into();
            if !has_checksum {
                page.as_object_mut().unwrap().remove("checksum");
            }
            file(dir.path(), "checkpoint.json", page.to_string());
            for flags in [&[][..], &["--new-signing-key"]] {
                if !has_checksum && !flags.is_empty() {
                    continue;
                }
                let output = Server::refused(dir.path(), flags);
                assert!(output.contains("checkpoint.json"), "{at}: {output}");
                assert!(!output.contains("say --new-signing-key"), "{at}: {output}");
            }
            let found = sound.verify(dir.path(), &[]).expect_code(1).json();
            assert!(!found.to_string().contains("is not signed by"), "{at}: {found}");
        }
    }
    // Another key is told as that.
    let other = Sound::new().await;
    let dir = sound.copy();
    fs::copy(other.dir.path().join("signing-key"), dir.path().join("signing-key")).unwrap();
    let output = Server::refused(dir.path(), &[]);
    assert!(output.contains("it is not the one that signed the last checkpoint"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_inside_a_full_tile_is_found_without_a_question() {
    let sound = Sound::new().await;
    let dir = sound.copy();
    let server = Server::start(dir.path());
    let mut clients = server.clients().await;
    for n in 0..300 {
        clients.record_change(&format!("user:{n}"), Action::Grant, "news", "email").await;
    }
    server.terminate();
    sound.verify(dir.path(), &[]).expect_code(0);
    let path = dir.path().join("tree/0.hashes");
    let mut hashes = fs::read(&path).unwrap();
    hashes[100 * 32 + 9] ^= 4;
    fs::write(&path, hashes).unwrap();
    let found = sound.verify(dir.path(), &[]).expect_code(1).json();
    assert_eq!(found["tree"]["what"], "hash 100 of level 0 is not that of the entries");
    assert_eq!(found["damage"], Value::Null);
    let server = Server::start(dir.path());
    wait_until("the scrub finds it", PATIENCE, || {
        server.log().contains("the tree's files are damaged").then_some(())
    });
    assert_eq!(
        server
            .cli(&["check", "--subject", "user:1", "--purpose", "news", "--channel", "email"])
            .code,
        Some(0)
    );
    server.terminate();
    // The next start builds the tree again.
    Server::start(dir.path()).terminate();
    sound.verify(dir.path(), &[]).expect_code(0);
}

fn vault_segment(dir: &Path) -> PathBuf {
    dir.join("vault/00000000000000000000.seg")
}

/// The finding about the vault.
#[track_caller]
fn vault_fault(dir: &Path, more: &[&str]) -> String {
    let found = verify(dir, more).expect_code(1).json();
    assert_eq!(found["damage"], Value::Null, "the ledger is sound: {found}");
    found["vault"]["what"].as_str().unwrap_or_else(|| panic!("{found}")).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_finds_a_vault_that_is_not_the_ledgers() {
    let sound = Sound::new().await;
    let found = sound.verify(sound.dir.path(), &[]).expect_code(0).json();
    assert_eq!(found["vault"]["subjects"], SUBJECTS);
    assert_eq!(found["vault"]["opened"], false);
    let kek = sound.dir.path().join("kek").display().to_string();

    let deleted = sound.copy();
    fs::remove_dir_all(deleted.path().join("vault")).unwrap();
    assert!(vault_fault(deleted.path(), &[]).contains("it is missing"));
    let found = sound.verify(deleted.path(), &["--ledger-only"]).expect_code(0).json();
    assert_eq!(not_checked(&found), ["rollback", "vault"]);

    let other = Sound::new().await;
    let foreign = sound.copy();
    fs::copy(vault_segment(other.dir.path()), vault_segment(foreign.path())).unwrap();
    assert!(vault_fault(foreign.path(), &[]).contains("another ledger"));

    let whole = fs::read(vault_segment(sound.dir.path())).unwrap();
    for at in (0..whole.len()).step_by(97) {
        let flipped = sound.copy();
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(vault_segment(flipped.path()), bytes).unwrap();
        vault_fault(flipped.path(), &[]);
    }
    // Cut between frames or inside one, it has lost a data subject.
    for cut in [1, 200, 500, 1_500] {
        let shortened = sound.copy();
        fs::write(vault_segment(shortened.path()), &whole[..whole.len() - cut]).unwrap();
        let fault = vault_fault(shortened.path(), &["--kek-file", &kek]);
        assert!(
            fault.contains("lacks") && fault.contains("older than the ledger"),
            "{cut}: {fault}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_vault_is_told_by_the_entries_that_it_lacks() {
    let sound = Sound::new().await;
    let later = sound.copy();
    let server = Server::start(later.path());
    let mut clients = server.clients().await;
    clients.record_change("user:new", Action::Grant, "news", "email").await;
    server.terminate();
    sound.verify(later.path(), &[]).expect_code(0);
    fs::copy(vault_segment(sound.dir.path()), vault_segment(later.path())).unwrap();
    // Who has no key can not tell whose the entries are.
    verify(later.path(), &[]).expect_code(0);
    let kek = sound.dir.path().join("kek").display().to_string();
    let fault = vault_fault(later.path(), &["--kek-file", &kek]);
    assert!(fault.starts_with("it lacks the keys of entry"), "{fault}");
}

fn vault_log(dir: &Path, new_id: [u8; 16]) -> FrameLog {
    let spec = LogSpec {
        dir: dir.join("vault"),
        kind: *b"VALT",
        segment_bytes_max: 16 << 20,
        frame_bytes_max: 36 << 10,
        frames_min: 0,
    };
    FrameLog::open(Arc::new(RealDisk), spec, new_id).unwrap().0
}

/// Makes a frame of those that a vault has.
type Alter = fn(&[Vec<u8>]) -> Vec<u8>;

fn frames_of(log: &FrameLog) -> Vec<Vec<u8>> {
    (0..log.next_index()).map(|at| log.reader().read(at).unwrap()).collect()
}

/// Appends a frame to the vault, with right checksums, as somebody can who has no key.
fn append_to_vault(dir: &Path, alter: impl FnOnce(&[Vec<u8>]) -> Vec<u8>) {
    let mut log = vault_log(dir, [0; 16]);
    let frame = alter(&frames_of(&log));
    log.append(&[frame]).unwrap();
}

/// Writes the vault with other frames and right checksums.
fn rewrite_vault(dir: &Path, alter: impl FnOnce(&mut Vec<Vec<u8>>)) {
    let log = vault_log(dir, [0; 16]);
    let (id, mut frames) = (log.id(), frames_of(&log));
    drop(log);
    fs::remove_dir_all(dir.join("vault")).unwrap();
    fs::create_dir(dir.join("vault")).unwrap();
    alter(&mut frames);
    vault_log(dir, id).append(&frames).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_key_counts_whether_the_vault_can_have_the_entries_keys() {
    let sound = Sound::new().await;
    let emptied = sound.copy();
    rewrite_vault(emptied.path(), |frames| frames.truncate(1));
    let fault = vault_fault(emptied.path(), &[]);
    assert!(fault.contains("it has 0 data subjects, and the entries are about 1"), "{fault}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_server_finds_frames_of_the_vault_that_were_exchanged() {
    let sound = Sound::new().await;
    let exchanged = sound.copy();
    rewrite_vault(exchanged.path(), |frames| frames.swap(1, 2));
    let server = Server::start(exchanged.path());
    wait_until("the scrub finds it", PATIENCE, || {
        let log = server.log();
        (log.contains("a segment can not be verified") && log.contains("vault")).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_without_its_last_entries_is_seen_by_whom_the_vault_knows() {
    let sound = Sound::new().await;
    let kek = sound.dir.path().join("kek").display().to_string();
    let later = sound.copy();
    let server = Server::start(later.path());
    let mut clients = server.clients().await;
    clients.record_change("user:new", Action::Grant, "news", "email").await;
    server.terminate();
    let without = |found: &Value| found["vault"]["withoutEntry"].clone();
    let found = sound.verify(later.path(), &["--kek-file", &kek]).expect_code(0).json();
    assert_eq!(without(&found), 0);
    let cut = sound.copy();
    fs::copy(vault_segment(later.path()), vault_segment(cut.path())).unwrap();
    let found = sound.verify(cut.path(), &["--kek-file", &kek]).expect_code(0).json();
    assert_eq!(without(&found), 1);
    let found = sound.verify(cut.path(), &[]).expect_code(0).json();
    assert_eq!(without(&found), Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_frames_of_the_vault_are_found() {
    let sound = Sound::new().await;
    let kek = sound.dir.path().join("kek").display().to_string();
    let found = sound.verify(sound.dir.path(), &["--kek-file", &kek]).expect_code(0).json();
    assert_eq!(found["vault"]["opened"], true);
    assert_eq!(not_checked(&found), ["rollback"]);

    // A frame again, under the next number: its checksums are right, and only who has the key sees that it
    // does not continue the vault.
    let copied = sound.copy();
    append_to_vault(copied.path(), |frames| {
        let mut frame = VaultFrame::decode(frames[1].as_slice()).unwrap();
        frame.number = frames.len() as u64;
        frame.encode_to_vec()
    });
    sound.verify(copied.path(), &[]).expect_code(0);
    let fault = vault_fault(copied.path(), &["--kek-file", &kek]);
    assert!(fault.contains("does not continue the vault"), "{fault}");
    // A frame at another place, one of another generation, a second message, a field that no frame has.
    let strange: [(&str, Alter); 4] = [
        ("was moved", |frames| frames[1].clone()),
        ("generation", |frames| {
            let mut frame = VaultFrame::decode(frames[1].as_slice()).unwrap();
            (frame.number, frame.generation) = (frames.len() as u64, 2);
            frame.encode_to_vec()
        }),
        ("canonical", |frames| [frames[1].clone(), frames[2].clone()].concat()),
        ("canonical", |frames| [&frames[1][..], &[0xf8, 0x7f, 1]].concat()),
    ];
    for (what, alter) in strange {
        let strange = sound.copy();
        append_to_vault(strange.path(), alter);
        let fault = vault_fault(strange.path(), &[]);
        assert!(fault.contains(what), "{what}: {fault}");
    }
    // Another key is told as that, and a file that holds none is wrong usage.
    let other = Sound::new().await;
    let other_kek = other.dir.path().join("kek").display().to_string();
    let fault = vault_fault(sound.dir.path(), &["--kek-file", &other_kek]);
    assert!(fault.contains("another key-encryption key"), "{fault}");
    // A key that was given is never said to be missing, whatever is wrong with the vault.
    let found = verify(sound.dir.path(), &["--kek-file", &other_kek]).expect_code(1).json();
    assert_eq!(not_checked(&found), ["signatures", "rollback"]);
    let no_vault = sound.copy();
    fs::remove_dir_all(no_vault.path().join("vault")).unwrap();
    let found = verify(no_vault.path(), &["--kek-file", &kek]).expect_code(1).json();
    assert_eq!(not_checked(&found), ["signatures", "rollback"]);
    let none = file(other.dir.path(), "no-key", "secret");
    verify(sound.dir.path(), &["--kek-file", &none]).expect_code(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_entries_tie_to_a_checkpoint_offline() {
    let sound = Sound::new().await;
    let dir = sound.dir.path().display().to_string();
    let out = tempfile::tempdir().unwrap();
    let raw = out.path().join("ledger.raw").display().to_string();
    let note = book(sound.dir.path())["released"]["note"].as_str().unwrap().to_owned();
    let checkpoint = file(out.path(), "checkpoint", &note);
    run(["export", "--raw", "--data-dir", &dir, "--output", &raw]).expect_code(0);
    let verify = |raw: &str, more: &[&str]| {
        run([&["verify", "--json", "--raw-file", raw, "--checkpoint", &checkpoint], more].concat())
    };
    let found = verify(&raw, &["--key", &sound.key]).expect_code(0).json();
    assert_eq!((&found["signedEntries"], &found["origin"]), (&found["entries"], &json!(ORIGIN)));
    assert_eq!(not_checked(&found), ["vault"]);
    assert_eq!(found["rootHash"], note.lines().nth(2).unwrap());
    verify(&raw, &[]).expect_code(2);

    // A server gives the same bytes, on standard output too.
    let server = Server::start(sound.dir.path());
    let served = out.path().join("served.raw").display().to_string();
    server.cli(&["export", "--raw", "--output", &served]).expect_code(0);
    let bytes = fs::read(&raw).unwrap();
    assert_eq!(fs::read(&served).unwrap(), bytes);
    server.terminate();

    for at in (0..bytes.len()).step_by(61) {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (at % 8);
        let changed = file(out.path(), "changed.raw", changed);
        verify(&changed, &["--key", &sound.key]).expect_code(1);
    }
    let cut = file(out.path(), "cut.raw", &bytes[..bytes.len() - 5]);
    let found = verify(&cut, &["--key", &sound.key]).expect_code(1).json();
    assert_eq!(found["damage"]["what"], "the file ends inside an entry");
    let later = out.path().join("later.raw").display().to_string();
    run(["export", "--raw", "--start", "3", "--data-dir", &dir, "--output", &later]).expect_code(0);
    let refused = verify(&later, &["--key", &sound.key]).expect_code(2);
    assert!(refused.stderr.contains("begins with entry 3"), "{}", refused.stderr);
    let empty = file(out.path(), "empty.raw", "");
    verify(&empty, &["--key", &sound.key]).expect_code(2);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(test_python), ignore = "needs CONSENT_LEDGER_TEST_PYTHON: a Python")]
async fn the_lines_of_python_in_the_document_compute_the_root() {
    let document = fs::read_to_string(repository("docs/format.md")).unwrap();
    let lines = document.split("```python\n").nth(1).unwrap().split("```").next().unwrap();
    let sound = Sound::new().await;
    let dir = sound.dir.path().display().to_string();
    let out = tempfile::tempdir().unwrap();
    let script = file(out.path(), "root.py", lines);
    let raw = out.path().join("ledger.raw").display().to_string();
    run(["export", "--raw", "--data-dir", &dir, "--output", &raw]).expect_code(0);
    let python = std::env::var("CONSENT_LEDGER_TEST_PYTHON").unwrap();
    let mut command = std::process::Command::new(python);
    command.args([&script, &raw]);
    let printed = Process::spawn(command).wait(PATIENCE).expect_code(0).stdout;
    let note = book(sound.dir.path())["released"]["note"].as_str().unwrap().to_owned();
    let head: Vec<&str> = note.lines().skip(1).take(2).collect();
    assert_eq!(printed.trim(), head.join(" "));
}

#[tokio::test(flavor = "multi_thread")]
async fn several_keys_of_one_ledger_count_each() {
    let sound = Sound::new().await;
    let old = fs::read_to_string(sound.dir.path().join("signing-key")).unwrap();
    let before = file(
        sound.dir.path(),
        "before",
        book(sound.dir.path())["released"]["note"].as_str().unwrap(),
    );
    fs::rename(sound.dir.path().join("signing-key"), sound.dir.path().join("old-key")).unwrap();
    let server = Server::start_with(sound.dir.path(), &["--new-signing-key"]);
    let new = server.cli(&["checkpoint", "--verifier-key"]).expect_code(0).stdout;
    let new = new.trim().to_owned();
    assert_ne!(&new, &sound.key);
    assert_eq!(
        SignerKey::parse(&old).unwrap().verifier(),
        &VerifierKey::parse(&sound.key).unwrap()
    );
    let is_signed = || server.cli(&["checkpoint", "--key", &new]).code == Some(0);
    wait_until("a checkpoint of the new key", PATIENCE, || is_signed().then_some(()));
    let proof = sound.dir.path().join("proof").display().to_string();
    let both = ["--key", sound.key.as_str(), "--key", new.as_str()];
    server.cli(&[&["prove", "--from", &before][..], &both].concat()).expect_code(0);
    server.cli(&["prove", "--from", &before, "--key", &new]).expect_code(1);
    server
        .cli(&[&["prove", "--index", "0", "--output", &proof][..], &both].concat())
        .expect_code(0);
    run([&["verify-proof", &proof][..], &both].concat()).expect_code(0);
    run(["verify-proof", &proof, "--key", &sound.key]).expect_code(1);
    server.terminate();
    let policy = format!("log {}\nlog {new}\nquorum none\n", sound.key);
    let policy = file(sound.dir.path(), "policy", policy);
    let dir = sound.dir.path();
    verify(dir, &["--checkpoint", &before, "--policy", &policy]).expect_code(0);
    verify(dir, &[&["--checkpoint", &before][..], &both].concat()).expect_code(0);
    verify(dir, &["--checkpoint", &before, "--key", &new]).expect_code(1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_makes_verify_decisions_ask_for_a_checkpoint() {
    let sound = Sound::new().await;
    let server = Server::start(sound.dir.path());
    let audit = |args: &[&str]| support::verify_decisions(sound.dir.path(), &server.address, args);
    let found = audit(&["--json"]).expect_code(0).json();
    assert_eq!(
        (&found["notChecked"], &found["checkpoint"]),
        (&json!(["signatures"]), &Value::Null)
    );
    let text = audit(&[]).expect_code(0).stdout;
    assert!(text.contains("NOT CHECKED who signed the entries"), "{text}");
    let found = audit(&["--json", "--key", &sound.key]).expect_code(0).json();
    assert_eq!((&found["notChecked"], &found["checkpoint"]["size"]), (&json!([]), &found["end"]));
    let other = Sound::new().await.key;
    audit(&["--key", &other]).expect_code(1);
    let witness = cosigner_key("w.example", 3).verifier().to_string();
    audit(&["--key", &sound.key, "--witness", &witness]).expect_code(1);
    server.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_verifies_only_for_the_region_and_data_that_it_is_about() {
    let sound = Sound::new().await;
    let server = Server::start(sound.dir.path());
    let check = [
        "check",
        "--subject",
        "user:1",
        "--purpose",
        "news",
        "--channel",
        "email",
        "--token",
        "--json",
    ];
    let token = |more: &[&str]| {
        let answer = server.cli(&[&check[..], more].concat()).expect_code(0).json();
        answer["token"].as_str().unwrap().to_owned()
    };
    let (american, nowhere) = (token(&["--region", "US"]), token(&[]));
    let verify = |token: &str, more: &[&str]| {
        run([&["token", "verify", token, "--key", &sound.key, "--json"], more].concat())
    };
    verify(&american, &["--region", "US"]).expect_code(0);
    for (token, demand, reason) in [
        (&american, ["--region", "DE"], "WRONG_REGION"),
        (&american, ["--region", "US-CA"], "WRONG_REGION"),
        (&nowhere, ["--region", "US"], "WRONG_REGION"),
        (&nowhere, ["--data-category", "user.contact"], "WRONG_DATA_CATEGORY"),
        (&nowhere, ["--purpose", "other"], "WRONG_PURPOSE"),
        (&nowhere, ["--channel", "sms"], "WRONG_CHANNEL"),
    ] {
        let refused = verify(token, &demand).expect_code(1);
        assert!(refused.stderr.contains(reason), "{demand:?}: {}", refused.stderr);
    }
    verify(&nowhere, &["--region", "XX"]).expect_code(2);
    server.terminate();
}

#[test]
fn the_name_of_a_ledger_has_one_spelling() {
    let dir = tempfile::tempdir().unwrap();
    for (origin, problem) in [
        ("https://ledger.example/eu", "must not have a scheme"),
        ("ledger.example/eu/", "must not end with a slash"),
        ("ledger.example//eu", "must not end with a slash or hold an empty part"),
        ("Ledger.example", "must begin with a host in lower case"),
        ("ledger.example/eu?x", "must not contain '?'"),
    ] {
        let mut command = binary();
        command.args(Server::arguments(&dir.path().join("data"))).args(["--origin", origin]);
        let refused = Process::spawn(command).wait(PATIENCE).expect_code(2);
        assert!(refused.output().contains(problem), "{origin}: {}", refused.output());
    }
    assert!(!dir.path().join("data").exists(), "nothing was made");
}
