//! Random changes to the files of a closed data directory: each is found by `verify` or refused by
//! `serve`, and none is told as another fault than it is.
//!
//! `CONSENT_LEDGER_TEST_CHANGES` says how many changes are made: a few by default, 300 in `.ci/nightly`.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use consent_ledger::{proto::Action, tlog::key::SignerKey};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::Value;

use crate::support::{self, Finished, PATIENCE, Process, Server, binary, copy_tree, run};

const ORIGIN: &str = "ledger.example/eu";
/// Small, so that the ledger has several segments.
const FLAGS: [&str; 4] = ["--origin", ORIGIN, "--segment-bytes-max", "16KiB"];
/// More than a full tile.
const ENTRIES: usize = 300;
const CHANGES: usize = 24;
const OTHER_LEDGER: &str = "that of another ledger";

/// What a change is made to. The view is none of them, nor are the index files (`.idx`) of segments: they
/// are disposable, and checked before they are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Ledger,
    Vault,
    Tree,
    Book,
    Kek,
    SigningKey,
}

const PARTS: [Part; 6] =
    [Part::Ledger, Part::Vault, Part::Tree, Part::Book, Part::Kek, Part::SigningKey];

impl Part {
    fn path(self) -> &'static str {
        match self {
            Self::Ledger => "ledger",
            Self::Vault => "vault",
            Self::Tree => "tree",
            Self::Book => "checkpoint.json",
            Self::Kek => "kek",
            Self::SigningKey => "signing-key",
        }
    }

    /// Its files.
    fn files(self, dir: &Path) -> Vec<PathBuf> {
        let path = dir.join(self.path());
        if !path.is_dir() {
            return if path.exists() { vec![path] } else { Vec::new() };
        }
        let mut files: Vec<_> =
            fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| path.extension().is_none_or(|ending| ending != "idx"));
        files.sort();
        files
    }

    /// What its files say.
    fn content(self, dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
        let read = |path: PathBuf| {
            let bytes = fs::read(&path).unwrap();
            let name = path.strip_prefix(dir).unwrap().to_owned();
            // A key is the same with white space around it, and the digits of one in upper case.
            let bytes = match self {
                Self::Kek => bytes.trim_ascii().to_ascii_lowercase(),
                Self::SigningKey => bytes.trim_ascii().to_vec(),
                _ => bytes,
            };
            (name, bytes)
        };
        self.files(dir).into_iter().map(read).collect()
    }

    fn replace(self, dir: &Path, by: &Path) {
        let (target, source) = (dir.join(self.path()), by.join(self.path()));
        if source.is_dir() {
            fs::remove_dir_all(&target).unwrap();
            copy_tree(&source, &target);
        } else {
            fs::copy(source, target).unwrap();
        }
    }
}

/// A closed data directory, an older copy of it, another ledger of the same name, and what an auditor
/// has kept.
struct World {
    sound: tempfile::TempDir,
    older: tempfile::TempDir,
    other: tempfile::TempDir,
    key: String,
    checkpoint: String,
}

async fn grow(dir: &Path, grants: std::ops::Range<usize>) {
    let server = Server::start_with(dir, &FLAGS);
    let mut clients = server.clients().await;
    if grants.start == 0 {
        clients.put_catalog(&["news"], &["email"]).await;
    }
    for n in grants {
        let subject = format!("user:{}", n % 50);
        clients.record_change(&subject, Action::Grant, "news", "email").await;
    }
    server.terminate();
}

impl World {
    async fn new() -> Self {
        let [sound, older, other] = [(); 3].map(|()| tempfile::tempdir().unwrap());
        grow(sound.path(), 0..30).await;
        copy_tree(sound.path(), older.path());
        grow(sound.path(), 30..ENTRIES).await;
        grow(other.path(), 0..40).await;
        let key = fs::read_to_string(sound.path().join("signing-key")).unwrap();
        let key = SignerKey::parse(&key).unwrap().verifier().to_string();
        let book = fs::read(sound.path().join("checkpoint.json")).unwrap();
        let book: Value = serde_json::from_slice(&book).unwrap();
        let checkpoint = other.path().join("kept").display().to_string();
        fs::write(&checkpoint, book["released"]["note"].as_str().unwrap()).unwrap();
        Self { sound, older, other, key, checkpoint }
    }

    fn verify(&self, dir: &Path) -> Finished {
        let [data_dir, kek] =
            [dir.to_owned(), dir.join("kek")].map(|path| path.display().to_string());
        run([
            "verify",
            "--json",
            "--data-dir",
            &data_dir,
            "--key",
            &self.key,
            "--checkpoint",
            &self.checkpoint,
            "--kek-file",
            &kek,
        ])
    }

    /// Changes something in a copy, and says what.
    fn change(&self, dir: &Path, part: Part, dice: &mut StdRng) -> String {
        let files = part.files(dir);
        let file = &files[dice.random_range(0..files.len())];
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let mut bytes = fs::read(file).unwrap();
        let at = dice.random_range(0..bytes.len());
        let span = at..bytes.len().min(at + dice.random_range(1..400));
        let what = match dice.random_range(0..14) {
            0..4 => {
                bytes[at] ^= 1 << dice.random_range(0..8);
                format!("one bit at {at}")
            }
            4 => {
                dice.fill(&mut bytes[span.clone()]);
                format!("other bytes at {span:?}")
            }
            5 => {
                bytes[span.clone()].fill(0);
                format!("zeros at {span:?}")
            }
            6 => {
                bytes.truncate(at);
                format!("cut at {at}")
            }
            7 => {
                bytes.drain(span.clone());
                format!("without {span:?}")
            }
            8 => {
                let mut more = vec![0; span.len()];
                dice.fill(&mut more[..]);
                bytes.splice(at..at, more);
                format!("{} bytes more at {at}", span.len())
            }
            9 => {
                let mut more = vec![0; span.len()];
                dice.fill(&mut more[..]);
                bytes.extend(more);
                format!("{} bytes more at the end", span.len())
            }
            10 => {
                fs::remove_file(file).unwrap();
                return format!("{name} deleted");
            }
            11 => {
                part.replace(dir, self.older.path());
                return "an older copy put back".to_owned();
            }
            12 => {
                part.replace(dir, self.other.path());
                return OTHER_LEDGER.to_owned();
            }
            _ => {
                let sibling = &files[dice.random_range(0..files.len())];
                bytes = fs::read(sibling).unwrap();
                format!("a copy of {}", sibling.file_name().unwrap().to_string_lossy())
            }
        };
        fs::write(file, bytes).unwrap();
        format!("{name}: {what}")
    }
}

/// The parts in which `verify` finds something, and what it says.
fn found(verified: &Finished) -> BTreeSet<Part> {
    if verified.code == Some(2) {
        assert!(verified.stderr.contains("/kek"), "{}", verified.stderr);
        return [Part::Kek].into();
    }
    let found = verified.json();
    let mut parts = BTreeSet::new();
    let mut note = |part: Part, value: &Value| {
        if !value.is_null() {
            parts.insert(part);
        }
    };
    note(Part::Ledger, &found["damage"]);
    note(Part::Ledger, &found["tornTail"]);
    note(Part::Tree, &found["tree"]["what"]);
    if found["tree"].is_null() || found["tree"]["unsynced"] != 0 {
        note(Part::Tree, &true.into());
    }
    note(Part::Vault, &found["vault"]["tornTail"]);
    let vault = &found["vault"]["what"];
    let is_of_key = vault.as_str().is_some_and(|text| text.contains("key-encryption key"));
    note(if is_of_key { Part::Kek } else { Part::Vault }, vault);
    for compared in found["checkpoints"].as_array().unwrap() {
        let what = compared["what"].as_str().unwrap_or_default();
        let is_of_entries = ["the root of the first", "rolled back or cut", "only the first"]
            .iter()
            .any(|text| what.contains(text));
        // That nothing is signed follows from another finding.
        if compared["source"] != "key" {
            note(if is_of_entries { Part::Ledger } else { Part::Book }, &compared["what"]);
        }
    }
    // A tree that goes on after the ledger's end is told, and is what lost entries would leave as well.
    if parts.is_empty() && found["tree"]["beyond"] != 0 {
        parts.insert(Part::Tree);
    }
    assert_eq!(verified.code == Some(0), found["intact"] == true, "{found}");
    parts
}

/// The output of a server that refuses to start; none if it starts.
fn refused(dir: &Path) -> Option<String> {
    let mut command = binary();
    command.args(Server::arguments(dir)).args(FLAGS);
    let process = Process::spawn(command);
    match process.printed("listening on ") {
        Some(_) => {
            process.terminate();
            None
        }
        None => Some(process.wait(PATIENCE).expect_code(1).output()),
    }
}

/// Advice that is right for one part, and would do harm after a change to another.
const ADVICE: [(&str, Part); 4] = [
    ("say --new-signing-key", Part::SigningKey),
    ("say --unused-signing-key", Part::Book),
    ("is not the one that the vault was sealed with", Part::Kek),
    ("the vault has lost data", Part::Vault),
];

#[tokio::test(flavor = "multi_thread")]
async fn random_changes_are_found_and_told_as_what_they_are() {
    let changes = std::env::var("CONSENT_LEDGER_TEST_CHANGES")
        .map_or(CHANGES, |text| text.parse().expect("a number"));
    let mut dice = StdRng::seed_from_u64(support::seed("random_changes"));
    let world = World::new().await;
    let verified = world.verify(world.sound.path()).expect_code(0);
    assert_eq!(found(&verified), BTreeSet::new());

    let mut wrong = Vec::new();
    let mut made = 0;
    while made < changes {
        let part = PARTS[dice.random_range(0..PARTS.len())];
        let copy = tempfile::tempdir().unwrap();
        copy_tree(world.sound.path(), copy.path());
        let what = world.change(copy.path(), part, &mut dice);
        if part.content(copy.path()) == part.content(world.sound.path()) {
            continue;
        }
        made += 1;
        let verified = world.verify(copy.path());
        let parts = found(&verified);
        let before: Vec<_> = PARTS.iter().map(|part| part.content(copy.path())).collect();
        let refusal = refused(copy.path());
        let said = format!("{part:?} {what}\n  {parts:?} {}\n  {refusal:?}", verified.output());
        if parts.is_empty() && refusal.is_none() {
            wrong.push(format!("NOT FOUND {said}"));
        }
        // Vault, tree and book are not those of another ledger's entries: that is said of them, and true.
        let is_other_ledger = part == Part::Ledger && what == OTHER_LEDGER;
        let follows =
            |found: Part| is_other_ledger && [Part::Vault, Part::Tree, Part::Book].contains(&found);
        if parts.iter().any(|found| *found != part && !follows(*found)) {
            wrong.push(format!("ANOTHER FAULT {said}"));
        }
        let Some(refusal) = refusal else { continue };
        if ADVICE.iter().any(|(advice, of)| *of != part && refusal.contains(advice)) {
            wrong.push(format!("WRONG ADVICE {said}"));
        }
        for (kept, before) in PARTS.into_iter().zip(before) {
            // A torn tail is set aside, and the tree is disposable.
            let may_change = kept == Part::Tree || refusal.contains("torn tail");
            if !may_change && kept.content(copy.path()) != before {
                wrong.push(format!("{kept:?} CHANGED BY THE START {said}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {changes}:\n{}", wrong.len(), wrong.join("\n"));
}
