//! An auditor with nothing but files, a key and old checkpoints: `verify` finds every attack on a
//! ledger that such an auditor can find, and names it.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use consent_ledger::{
    backend::{LocalLog, LogBackend},
    format::entry::Body,
    ledger::{
        ENTRY_BYTES_MAX, FORMAT_VERSION, LEVEL, LOG_KIND, Tip,
        verify::{self, VerifyError, Wanted},
    },
    proto::{
        self,
        audit_service_server::{AuditService, AuditServiceServer},
        get_inclusion_proof_request,
        ledger::{ChannelPut, Entry, LedgerOpened, entry},
    },
    storage::{FrameLog, LogError, LogSpec, disk::RealDisk},
    tlog::{
        checkpoint::{Checkpoint, SignedCheckpoint},
        key::SignerKey,
        merkle::{self, Hash, Range, leaf_hash},
        tile::{Kind, Tile, bundle},
    },
};
use prost::Message as _;
use tonic::{Request, Response, service::Routes};

use crate::support::{self, Finished, clear_key, cosigner_key, ledger_segments, run, signer_key};

const ORIGIN: &str = "ledger.example/eu";
const SEGMENT_BYTES: u64 = 4_096;
/// Size of a segment's header, see docs/format.md.
const HEADER: u64 = 60;

fn witness(seed: u8) -> SignerKey {
    cosigner_key(&format!("w{seed}.example"), seed)
}

fn opened(origin: &str) -> Body {
    Body::Opened(LedgerOpened {
        ledger_id: vec![7; 16],
        origin: origin.to_owned(),
        format_version: FORMAT_VERSION,
        created_at_s: 5,
        feature_level: LEVEL,
    })
}

fn channel(title: &str) -> Body {
    let (key, title) = ("email".to_owned(), title.to_owned());
    Body::Channel(ChannelPut { key, title, retired: false })
}

/// The bytes of a ledger of `count` entries; entry `n` has the title `titles(n)`.
fn entries(origin: &str, count: u64, titles: impl Fn(u64) -> String) -> Vec<Vec<u8>> {
    let mut tip = Tip::genesis();
    let mut entries = Vec::new();
    for n in 0..count {
        let body = if n == 0 { opened(origin) } else { channel(&titles(n)) };
        let (_, bytes, next) =
            tip.link(10 + i64::try_from(n).unwrap(), body, &clear_key()).unwrap();
        entries.push(bytes);
        tip = next;
    }
    entries
}

fn honest(count: u64) -> Vec<Vec<u8>> {
    entries(ORIGIN, count, |n| format!("entry {n}"))
}

/// A data directory, written by the ledger's own writer.
struct Dir(tempfile::TempDir);

impl Dir {
    fn of(entries: &[Vec<u8>]) -> Self {
        let dir = Self(tempfile::tempdir().unwrap());
        dir.write(entries);
        dir
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn ledger(&self) -> PathBuf {
        self.path().join("ledger")
    }

    /// Writes frames of any content, as an attacker could who knows the format.
    fn write(&self, entries: &[Vec<u8>]) {
        let spec = LogSpec {
            dir: self.ledger(),
            kind: LOG_KIND,
            segment_bytes_max: SEGMENT_BYTES,
            frame_bytes_max: u32::try_from(ENTRY_BYTES_MAX).unwrap(),
            frames_min: 0,
        };
        let (mut log, _) = FrameLog::open(Arc::new(RealDisk), spec, [7; 16]).unwrap();
        for entry in entries {
            log.append(&[entry]).unwrap();
        }
    }

    fn text(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    #[track_caller]
    fn verify(&self, more: &[&str]) -> Finished {
        let dir = self.path().display().to_string();
        run(["verify", "--json", "--data-dir", &dir].iter().chain(more))
    }

    /// Verifies beside a checkpoint; returns the difference, if there is one.
    #[track_caller]
    fn difference_from(&self, checkpoint: &str, more: &[&str]) -> Option<String> {
        let file = self.text("kept", checkpoint);
        let key = signer_key(ORIGIN, 1).verifier().to_string();
        let options = ["--checkpoint", &file, "--key", &key];
        let found = self.verify(&[&options, more].concat());
        let json = found.json();
        let difference = json["checkpoints"][0]["what"].as_str().map(str::to_owned);
        found.expect_code(i32::from(difference.is_some()));
        difference
    }

    #[track_caller]
    fn damage(&self) -> serde_json::Value {
        let found = self.verify(&[]);
        let damage = found.json()["damage"].clone();
        found.expect_code(1);
        damage
    }
}

fn root(entries: &[Vec<u8>]) -> Hash {
    let mut range = Range::empty(0);
    entries.iter().for_each(|entry| range.push(leaf_hash(entry)));
    range.root().unwrap()
}

fn signed_by(key: &SignerKey, entries: &[Vec<u8>]) -> SignedCheckpoint {
    let checkpoint = Checkpoint {
        origin: key.verifier().name().to_owned(),
        size: entries.len() as u64,
        root: root(entries),
        extensions: String::new(),
    };
    SignedCheckpoint::sign(checkpoint, key).unwrap()
}

fn signed(entries: &[Vec<u8>]) -> String {
    signed_by(&signer_key(ORIGIN, 1), entries).to_string()
}

/// The file of checkpoints of a ledger that has signed these entries.
fn book_of(entries: &[Vec<u8>]) -> String {
    let signed = serde_json::json!({"note": signed(entries), "signed_at_ms": 0});
    serde_json::json!({"format": 1, "signed": signed}).to_string()
}

#[test]
fn a_checkpoint_of_no_entries_shows_nothing() {
    let dir = Dir::of(&honest(3));
    let kept = dir.text("kept", signed_empty());
    let key = signer_key(ORIGIN, 1).verifier().to_string();
    let found = dir.verify(&["--checkpoint", &kept, "--key", &key]).expect_code(1).json();
    assert_eq!(
        (&found["checkpoints"][0]["agrees"], &found["signedEntries"]),
        (&true.into(), &0.into())
    );
}

fn signed_empty() -> String {
    let (origin, root) = (ORIGIN.to_owned(), merkle::empty_root());
    let checkpoint = Checkpoint { origin, size: 0, root, extensions: String::new() };
    SignedCheckpoint::sign(checkpoint, &signer_key(ORIGIN, 1)).unwrap().to_string()
}

#[test]
fn an_entry_with_two_bodies_is_damage() {
    let mut all = honest(40);
    let Body::Channel(another) = channel("another") else { unreachable!() };
    let body = Some(entry::Body::ChannelPut(another));
    all[20].extend(Entry { body, ..Entry::default() }.encode_to_vec());
    let damage = Dir::of(&all).damage();
    assert_eq!(damage["index"], 20);
    assert!(damage["what"].as_str().unwrap().contains("canonical"), "{damage}");
}

#[test]
fn an_intact_ledger_agrees_with_every_checkpoint_of_its_past() {
    let all = honest(300);
    let dir = Dir::of(&all);
    assert!(ledger_segments(dir.path()).len() > 5);
    for size in [1, 2, 37, 255, 256, 257, 299, 300] {
        assert_eq!(dir.difference_from(&signed(&all[..size]), &[]), None, "{size}");
    }
    let found = dir.verify(&[]);
    assert_eq!(found.json()["rootHash"], base64(&root(&all)));
    assert_eq!(found.json()["origin"], ORIGIN);
    found.expect_code(0);
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::prelude::BASE64_STANDARD.encode(bytes)
}

#[test]
fn verification_on_all_cores_finds_what_verification_in_order_finds() {
    let all = honest(300);
    let sound = Dir::of(&all);
    let files: Vec<_> = ledger_segments(sound.path());
    let mut positions = 0;
    for (nth, file) in files.iter().enumerate() {
        for offset in [0, 33, 70, 100, 1_000, 2_500] {
            let dir = Dir(tempfile::tempdir().unwrap());
            support::copy_tree(sound.path(), dir.path());
            let file = dir.ledger().join(file.file_name().unwrap());
            let mut bytes = fs::read(&file).unwrap();
            let Some(byte) = bytes.get_mut(offset) else { continue };
            *byte ^= 0x20;
            fs::write(&file, bytes).unwrap();
            let mut seen = 0;
            let in_order =
                verify::verify(&RealDisk, &dir.ledger(), &mut |_, _| seen += 1).unwrap_err();
            let audited = verify::audit(&RealDisk, &dir.ledger(), Wanted::default());
            let error = audited.result.unwrap_err();
            assert_eq!(error.to_string(), in_order.to_string(), "segment {nth}, byte {offset}");
            assert_eq!(audited.good.tip.next_index, seen);
            assert_eq!(audited.good.root, root(&all[..usize::try_from(seen).unwrap()]));
            positions += 1;
        }
    }
    assert!(positions > 20);
}

#[test]
fn an_edited_entry_is_named_even_with_good_checksums() {
    let mut all = honest(200);
    let other = entries(ORIGIN, 200, |n| format!("edited {n}"));
    all[120].clone_from(&other[120]);
    let damage = Dir::of(&all).damage();
    // The edit has the same length and index, but links back to another chain.
    assert_eq!((&damage["index"], damage["segment"].is_string()), (&120.into(), true));
    let (_, edited, _) = {
        let mut tip = Tip::genesis();
        for entry in &all[..120] {
            tip = tip.follow(entry).unwrap().1;
        }
        tip.link(130, channel("edited"), &clear_key()).unwrap()
    };
    // An edit that links back correctly: the next entry reveals it.
    all[120] = edited;
    let damage = Dir::of(&all).damage();
    assert_eq!(damage["index"], 121);
    assert!(damage["what"].as_str().unwrap().contains("prev_hash"), "{damage}");
}

#[test]
fn removed_and_swapped_entries_are_named() {
    let mut removed = honest(200);
    removed.remove(77);
    let damage = Dir::of(&removed).damage();
    assert_eq!(damage["index"], 77);
    assert!(
        damage["what"].as_str().unwrap().contains("has index 78, but its position is 77"),
        "{damage}"
    );
    let mut swapped = honest(200);
    swapped.swap(150, 151);
    assert_eq!(Dir::of(&swapped).damage()["index"], 150);
}

#[test]
fn a_cut_tail_shows_only_beside_a_checkpoint() {
    let all = honest(120);
    let cut = Dir::of(&all[..90]);
    cut.verify(&[]).expect_code(0);
    let difference = cut.difference_from(&signed(&all), &[]).unwrap();
    assert_eq!(
        difference,
        "the checkpoint is of 120 entries, the ledger has 90: it was rolled back or cut, or it is \
         another ledger"
    );
    // An old backup looks the same to the auditor, and agrees with older checkpoints.
    assert_eq!(cut.difference_from(&signed(&all[..90]), &[]), None);
}

#[test]
fn a_rewritten_ledger_shows_only_beside_a_checkpoint() {
    let all = honest(200);
    let anew = entries(ORIGIN, 200, |n| match n {
        50 => "what never happened".to_owned(),
        _ => format!("entry {n}"),
    });
    let dir = Dir::of(&anew);
    dir.verify(&[]).expect_code(0);
    let difference = dir.difference_from(&signed(&all[..100]), &[]).unwrap();
    assert!(difference.starts_with("the root of the first 100 entries is "), "{difference}");
    assert!(difference.ends_with("the ledger was changed since"), "{difference}");
    assert_eq!(dir.difference_from(&signed(&all[..50]), &[]), None, "before the change");
}

#[test]
fn a_replaced_segment_is_named() {
    let sound = Dir::of(&honest(200));
    let anew = Dir::of(&entries(ORIGIN, 200, |n| format!("anew! {n}")));
    let segments = ledger_segments(sound.path());
    let name = segments[2].file_name().unwrap();
    fs::copy(anew.ledger().join(name), sound.ledger().join(name)).unwrap();
    let damage = sound.damage();
    assert_eq!(damage["segment"], name.to_str().unwrap());
    assert!(damage["what"].as_str().unwrap().contains("prev_hash"), "{damage}");
}

#[test]
fn another_ledger_is_recognised() {
    let all = honest(40);
    let foreign = Dir::of(&entries("ledger.example/us", 40, |n| format!("entry {n}")));
    let difference = foreign.difference_from(&signed(&all), &[]).unwrap();
    assert!(
        difference.contains("`ledger.example/eu`") && difference.contains("`ledger.example/us`"),
        "{difference}"
    );
    let key = signer_key(ORIGIN, 1).verifier().to_string();
    let found = foreign.verify(&["--key", &key]).expect_code(1);
    assert_eq!(found.json()["intact"], false);
}

#[test]
fn a_checkpoint_counts_only_under_the_key_that_was_given() {
    let all = honest(40);
    let dir = Dir::of(&all);
    let other = signed_by(&signer_key(ORIGIN, 2), &all).to_string();
    let difference = dir.difference_from(&other, &[]).unwrap();
    assert!(difference.contains("not signed by"), "{difference}");
    let changed = signed(&all).replacen("\n40\n", "\n39\n", 1);
    assert!(dir.difference_from(&changed, &[]).is_some());
    assert!(dir.difference_from("nonsense", &[]).is_some());
    // Without a key, nothing is verified.
    let file = dir.text("kept", signed(&all));
    let refused = dir.verify(&["--checkpoint", &file]).expect_code(2);
    assert!(refused.output().contains("--key"), "{}", refused.output());
    dir.verify(&["--checkpoint", &file, "--key", "nonsense"]).expect_code(2);
    // A file that can not be read is wrong usage, not a finding about the ledger.
    let vkey = signer_key(ORIGIN, 1).verifier().to_string();
    dir.verify(&["--checkpoint", "/nonexistent", "--key", &vkey]).expect_code(2);
    dir.verify(&["--checkpoint", &file, "--key", "@/nonexistent"]).expect_code(2);
    dir.verify(&["--checkpoint", &file, "--key", &vkey, "--policy", "/nonexistent"]).expect_code(2);
}

#[test]
fn the_required_witnesses_must_have_cosigned() {
    let all = honest(40);
    let dir = Dir::of(&all);
    let mut seen = signed_by(&signer_key(ORIGIN, 1), &all);
    seen.note.sign(&witness(3), 1_700_000_000);
    let (first, second) = (witness(3), witness(4));
    let (first, second) = (first.verifier().to_string(), second.verifier().to_string());
    let both = ["--witness", &first, "--witness", &second];
    let difference = dir.difference_from(&seen.to_string(), &both).unwrap();
    assert!(difference.contains("cosigned by 1 of 2"), "{difference}");
    let one_of_both = [&both[..], &["--witness-quorum", "1"]].concat();
    assert_eq!(dir.difference_from(&seen.to_string(), &one_of_both), None);
    let policy = dir.text("policy", format!("witness W {second}\nquorum W\n"));
    assert!(dir.difference_from(&seen.to_string(), &["--policy", &policy]).is_some());
    seen.note.sign(&witness(4), 1_700_000_000);
    assert_eq!(dir.difference_from(&seen.to_string(), &["--policy", &policy]), None);
}

#[test]
fn a_damaged_ledger_says_how_far_a_checkpoint_can_be_compared() {
    let mut all = honest(100);
    all.swap(60, 61);
    let dir = Dir::of(&all);
    let file = dir.text("kept", signed(&honest(100)));
    let early = dir.text("early", signed(&honest(100)[..60]));
    let key = signer_key(ORIGIN, 1).verifier().to_string();
    let found = dir.verify(&["--checkpoint", &file, "--checkpoint", &early, "--key", &key]);
    let json = found.expect_code(1).json();
    assert_eq!(json["damage"]["index"], 60);
    assert!(json["checkpoints"][0]["what"].as_str().unwrap().contains("only the first 60"));
    assert_eq!(json["checkpoints"][1]["agrees"], true);
}

#[test]
fn the_directorys_own_checkpoint_is_compared_too() {
    let all = honest(120);
    let saved_checkpoint = |entries: &[Vec<u8>], key: &SignerKey| {
        let note = signed_by(key, entries).to_string();
        serde_json::json!({
            "format": 1,
            "signed": {"note": note, "signed_at_ms": 0},
            "released": {"note": signed(&entries[..entries.len() / 2]), "signed_at_ms": 0},
        })
        .to_string()
    };
    let (right, wrong) = (signer_key(ORIGIN, 1), signer_key(ORIGIN, 2));
    let vkey = right.verifier().to_string();
    let whole = Dir::of(&all);
    whole.text("checkpoint.json", saved_checkpoint(&all, &right));
    let found = whole.verify(&[]).expect_code(0).json();
    assert_eq!(found["checkpoints"].as_array().unwrap().len(), 2);
    assert_eq!(found["checkpoints"][0]["signed"], false, "no key, no word on the signature");
    let found = whole.verify(&["--key", &vkey]).expect_code(0).json();
    assert_eq!(found["checkpoints"][0]["signed"], true);
    whole.text("checkpoint.json", saved_checkpoint(&all, &wrong));
    whole.verify(&["--key", &vkey]).expect_code(1);
    whole.text("checkpoint.json", "{");
    whole.verify(&[]).expect_code(1);

    let cut = Dir::of(&all[..90]);
    cut.text("checkpoint.json", saved_checkpoint(&all, &right));
    let found = cut.verify(&[]).expect_code(1).json();
    assert_eq!(found["intact"], false);
    assert!(found["checkpoints"][0]["what"].as_str().unwrap().contains("rolled back"));
}

#[test]
fn a_wrong_tree_on_disk_is_named() {
    let all = honest(600);
    let dir = Dir::of(&all);
    let mut levels = vec![Vec::new(), Vec::new()];
    let mut range = Range::empty(0);
    for entry in &all {
        let leaf = leaf_hash(entry);
        levels[0].extend(leaf);
        range.push_telling(leaf, &mut |height, hash| {
            if height == 8 {
                levels[1].extend(hash);
            }
        });
    }
    let write = |levels: &[Vec<u8>]| {
        for (level, hashes) in levels.iter().enumerate() {
            dir.text(&format!("tree/{level}.hashes"), hashes);
        }
    };
    write(&levels);
    // A tree without a checkpoint has lost it.
    let found = dir.verify(&[]).expect_code(1).json();
    assert_eq!((&found["tree"]["hashes"], &found["tree"]["unsynced"]), (&0.into(), &602.into()));
    let book = |size: usize| dir.text("checkpoint.json", book_of(&all[..size]));
    book(600);
    let found = dir.verify(&[]).expect_code(0).json();
    assert_eq!((&found["tree"]["hashes"], &found["tree"]["unsynced"]), (&602.into(), &0.into()));
    // Hashes under a checkpoint were synced before it was signed: no crash cuts them off.
    let mut short = levels.clone();
    short[0].truncate(32 * 500 + 7);
    write(&short);
    let found = dir.verify(&[]).expect_code(1).json();
    assert_eq!(found["tree"]["what"], "level 0 has 500 of 600 hashes");
    write(&levels);
    fs::remove_file(dir.path().join("tree/1.hashes")).unwrap();
    let found = dir.verify(&[]).expect_code(1).json();
    assert_eq!(found["tree"]["what"], "level 1 has 0 of 2 hashes");
    for (level, hash) in [(0, 0), (0, 599), (0, 257), (1, 1)] {
        let mut wrong = levels.clone();
        wrong[level][hash * 32 + 5] ^= 1;
        write(&wrong);
        let found = dir.verify(&[]).expect_code(1).json();
        let fault = found["tree"]["what"].as_str().unwrap();
        assert!(fault.starts_with(&format!("hash {hash} of level {level}")), "{fault}");
        assert!(found["damage"].is_null());
    }
    // After a power cut, anything may follow the hashes that were synced before signing.
    book(300);
    levels[0].truncate(32 * 300);
    levels[0].extend([0; 32 * 350]);
    levels[1][32..].fill(0);
    write(&levels);
    let found = dir.verify(&[]).expect_code(0).json();
    assert_eq!((&found["tree"]["hashes"], &found["tree"]["unsynced"]), (&301.into(), &301.into()));
    // A tree never grows before its ledger.
    assert_eq!(found["tree"]["beyond"], 50);
    assert!(found["notChecked"].as_array().unwrap().contains(&"lostEntries".into()), "{found}");
    let text = run(["verify", "--data-dir", dir.path().to_str().unwrap()]).expect_code(0).stdout;
    assert!(text.contains("50 more are of entries that the ledger does not have"), "{text}");
    // All of it gone is no damage, and is said.
    fs::remove_dir_all(dir.path().join("tree")).unwrap();
    let found = dir.verify(&[]).expect_code(0).json();
    assert!(found["notChecked"].as_array().unwrap().contains(&"missingTree".into()), "{found}");
}

#[test]
fn a_tree_of_which_no_checkpoint_says_anything_is_not_called_right() {
    let all = honest(20);
    let dir = Dir::of(&all);
    let leaves: Vec<u8> = all.iter().flat_map(|entry| leaf_hash(entry)).collect();
    dir.text("tree/0.hashes", leaves);
    dir.text("checkpoint.json", "damaged");
    let found = dir.verify(&[]).expect_code(1).json();
    assert!(found["notChecked"].as_array().unwrap().contains(&"tree".into()), "{found}");
    let text = run(["verify", "--data-dir", dir.path().to_str().unwrap()]).expect_code(1).stdout;
    assert!(text.contains("tree        not compared"), "{text}");
    assert!(!text.contains("all right"), "{text}");
}

/// A file of `export --raw`.
fn raw(dir: &Dir, name: &str, entries: &[Vec<u8>]) -> String {
    dir.text(name, bundle(entries).unwrap())
}

#[test]
fn a_changed_entry_of_a_raw_file_is_the_one_that_is_named() {
    let all = honest(40);
    let dir = Dir::of(&all);
    run(["verify", "--raw-file", &raw(&dir, "good", &all)]).expect_code(0);
    let offset = |index: usize| all[..index].iter().map(|entry| entry.len() + 2).sum::<usize>();
    for index in [1, 17, 37] {
        let mut changed = all.clone();
        // A letter of its title.
        let last = changed[index].len() - 1;
        changed[index][last] ^= 1;
        let file = raw(&dir, "changed", &changed);
        let found = run(["verify", "--json", "--raw-file", &file]).expect_code(1).json();
        let damage = &found["damage"];
        assert_eq!(damage["index"], index, "{damage}");
        assert_eq!(damage["offset"], offset(index), "{damage}");
        assert!(damage["what"].as_str().unwrap().contains("was changed"), "{damage}");
        assert_eq!(found["entries"], index);
        assert_eq!(found["rootHash"], base64(&root(&all[..index])));
    }
    // Of the last one nothing is known: nothing follows it.
    let mut changed = all.clone();
    changed[38].push(0);
    let file = raw(&dir, "changed", &changed[..39]);
    let found = run(["verify", "--json", "--raw-file", &file]).expect_code(1).json();
    assert_eq!(found["damage"]["index"], 38);
    // A link that was changed is damage of its own entry.
    let mut cut = all.clone();
    cut.remove(12);
    let found = run(["verify", "--json", "--raw-file", &raw(&dir, "cut", &cut)]).expect_code(1);
    assert_eq!(found.json()["damage"]["index"], 12);
}

#[test]
fn a_raw_file_from_the_middle_is_wrong_usage_and_no_damage() {
    let all = honest(20);
    let dir = Dir::of(&all);
    let file = raw(&dir, "middle", &all[5..]);
    let refused = run(["verify", "--raw-file", &file]).expect_code(2);
    assert!(refused.stderr.contains("begins with entry 5"), "{}", refused.stderr);
    assert!(refused.stderr.contains("--start 0"), "{}", refused.stderr);
    assert!(!refused.output().contains("DAMAGED"), "{}", refused.output());
}

#[test]
fn flags_that_would_have_no_effect_are_refused() {
    let all = honest(5);
    let dir = Dir::of(&all);
    let file = raw(&dir, "raw", &all);
    let path = dir.path().display().to_string();
    let key = signer_key(ORIGIN, 1).verifier().to_string();
    for (args, flag) in [
        (&["verify", "--raw-file", &file, "--data-dir", &path][..], "--data-dir"),
        (&["verify", "--raw-file", &file, "--kek-file", "kek"], "--kek-file"),
        (&["verify", "--raw-file", &file, "--ledger-only"], "--ledger-only"),
        (&["verify", "--data-dir", &path, "--ledger-only", "--kek-file", "kek"], "--kek-file"),
        (&["checkpoint", "--verifier-key", "--key", &key], "--key"),
        (&["checkpoint", "--key-changes", "--policy", "p"], "--policy"),
        (&["audience", "--purpose", "p", "--channel", "c", "--segment", "s", "-"], "--segment"),
        (
            &["serve", "--new-signing-key", "--previous-signing-key-file", "k"],
            "--previous-signing-key-file",
        ),
    ] {
        let refused = run(args).expect_code(2);
        assert!(refused.stderr.contains(flag), "{args:?}: {}", refused.stderr);
    }
    // The environment serves many commands.
    let mut command = support::binary();
    command.args(["verify", "--raw-file", &file]).env("CONSENT_LEDGER_DATA_DIR", "elsewhere");
    support::Process::spawn(command).wait(support::PATIENCE).expect_code(0);
}

#[test]
fn an_export_beyond_the_head_is_wrong_usage() {
    let all = honest(20);
    let dir = Dir::of(&all);
    let path = dir.path().display().to_string();
    let export = |more: &[&str]| run([&["export", "--data-dir", &path], more].concat());
    for (range, flag) in [
        (&["--end", "21"][..], "--end 21"),
        (&["--start", "21"], "--start 21"),
        (&["--start", "30", "--end", "40"], "--start 30"),
    ] {
        let refused = export(range).expect_code(2);
        let want = format!("{flag} lies beyond the head of the ledger, which is 20");
        assert!(refused.stderr.contains(&want), "{}", refused.stderr);
    }
    for (range, lines) in [(&["--end", "20"][..], 20), (&["--start", "20"], 0)] {
        assert_eq!(export(range).expect_code(0).stdout.lines().count(), lines);
    }
}

#[test]
fn a_torn_tail_and_a_missing_ledger_are_no_damage() {
    let all = honest(60);
    let dir = Dir::of(&all);
    let last = ledger_segments(dir.path()).pop().unwrap();
    let bytes = fs::read(&last).unwrap();
    fs::write(&last, &bytes[..bytes.len() - 3]).unwrap();
    let found = dir.verify(&[]).expect_code(0).json();
    assert_eq!((&found["entries"], found["tornTail"].is_object()), (&59.into(), true));
    let audited = verify::audit(&RealDisk, Path::new("/nonexistent"), Wanted::default());
    assert!(matches!(
        audited.result,
        Err(VerifyError::NoLedger(_) | VerifyError::Log(LogError::Io { .. }))
    ));
    // The ledger's own writer continues after the last whole entry.
    let (log, _) =
        LocalLog::open(Arc::new(RealDisk), dir.ledger(), SEGMENT_BYTES, [7; 16], 0).unwrap();
    assert_eq!(log.head(), 59);
}

/// The tiles and the checkpoint that a ledger of these entries publishes.
fn published(entries: &[Vec<u8>], checkpoint: String) -> BTreeMap<String, Vec<u8>> {
    let size = entries.len() as u64;
    let hash = |height: u32, number: u64| {
        let start = usize::try_from(number << height).unwrap();
        root(&entries[start..start + (1 << height)])
    };
    let tiles = Tile::all(size).filter_map(|tile| match tile.kind {
        Kind::Entries => None,
        Kind::Level(level) => {
            let numbers = tile.start()..tile.start() + u64::from(tile.width);
            let hashes = numbers.flat_map(|number| hash(8 * u32::from(level), number));
            Some((format!("/log/{tile}"), hashes.collect()))
        }
    });
    tiles.chain([("/log/checkpoint".to_owned(), checkpoint.into_bytes())]).collect()
}

/// Serves published files, and counts the requests for tiles.
struct Site {
    url: String,
    tiles: Arc<AtomicUsize>,
    _runtime: tokio::runtime::Runtime,
}

impl Site {
    fn of(files: BTreeMap<String, Vec<u8>>) -> Self {
        let tiles = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&tiles);
        let answer = move |uri: http::Uri| {
            count.fetch_add(usize::from(uri.path().contains("/tile/")), Ordering::Relaxed);
            let file = files.get(uri.path()).cloned();
            async move { file.ok_or(http::StatusCode::NOT_FOUND) }
        };
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}/log/", listener.local_addr().unwrap());
        let router = axum::Router::new().fallback(answer);
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self { url, tiles, _runtime: runtime }
    }

    /// Compares a directory with the site; returns the difference, if there is one.
    #[track_caller]
    fn difference_from(&self, dir: &Dir) -> Option<String> {
        let key = signer_key(ORIGIN, 1).verifier().to_string();
        let found = dir.verify(&["--against", &self.url, "--key", &key]);
        let difference = found.json()["checkpoints"][0]["what"].as_str().map(str::to_owned);
        found.expect_code(i32::from(difference.is_some()));
        difference
    }
}

#[test]
fn files_agree_with_the_published_ledger_or_are_a_fork() {
    let all = honest(700);
    let site = Site::of(published(&all, signed(&all)));
    for size in [1, 2, 255, 256, 300, 512, 699, 700] {
        assert_eq!(site.difference_from(&Dir::of(&all[..size])), None, "{size}");
    }
    assert!(site.tiles.load(Ordering::Relaxed) < 8 * 5, "only what is on the path");
    for size in [2, 256, 300] {
        let forked = entries(ORIGIN, size, |n| format!("another {n}"));
        let difference = site.difference_from(&Dir::of(&forked)).unwrap();
        assert!(
            difference.starts_with(&format!("a fork: the root of the first {size} entries")),
            "{difference}"
        );
        let there = base64(&root(&all[..usize::try_from(size).unwrap()]));
        assert!(
            difference.contains(&base64(&root(&forked))) && difference.contains(&there),
            "{difference}"
        );
    }
    // The server has fewer entries than the files.
    let site = Site::of(published(&all[..300], signed(&all[..300])));
    assert_eq!(site.difference_from(&Dir::of(&all)), None);
    let forked = Dir::of(&entries(ORIGIN, 700, |n| format!("another {n}")));
    assert!(site.difference_from(&forked).unwrap().contains("changed since"));
}

#[test]
fn a_server_that_publishes_less_than_it_signed_was_rolled_back() {
    let all = honest(700);
    let site = Site::of(published(&all[..300], signed(&all[..300])));
    let vkey = signer_key(ORIGIN, 1).verifier().to_string();
    let dir = Dir::of(&all);
    let book = |released: &[Vec<u8>]| {
        serde_json::json!({
            "format": 1,
            "signed": {"note": signed(&all), "signed_at_ms": 0},
            "released": {"note": signed(released), "signed_at_ms": 0},
        })
        .to_string()
    };
    let difference_from = |dir: &Dir, more: &[&str]| {
        let found = dir.verify(&[&["--against", &site.url, "--key", &vkey], more].concat());
        let json = found.json();
        let checkpoints = json["checkpoints"].as_array().unwrap().iter();
        let difference = checkpoints
            .filter(|checkpoint| checkpoint["source"] == "against")
            .find_map(|checkpoint| checkpoint["what"].as_str());
        found.expect_code(i32::from(difference.is_some()));
        difference.map(str::to_owned)
    };
    let wanted = "the server publishes less than it has signed: 300 entries of 700: rolled back";
    let kept = dir.text("kept", signed(&all));
    assert_eq!(difference_from(&dir, &["--checkpoint", &kept]).as_deref(), Some(wanted));
    // A checkpoint that is signed but not released need not be published.
    dir.text("checkpoint.json", book(&all[..300]));
    assert_eq!(difference_from(&dir, &[]), None);
    dir.text("checkpoint.json", book(&all));
    assert_eq!(difference_from(&dir, &[]).as_deref(), Some(wanted));
    // The files were rolled back too, further than the server.
    let cut = Dir::of(&all[..200]);
    assert_eq!(difference_from(&cut, &["--checkpoint", &kept]).as_deref(), Some(wanted));
    let early = dir.text("early", signed(&all[..300]));
    assert_eq!(difference_from(&Dir::of(&all), &["--checkpoint", &early]), None);
}

#[test]
fn a_missing_ledger_is_a_loss_if_a_checkpoint_proves_it() {
    let all = honest(120);
    let none = |dir: &Dir, keep: usize| {
        let segments = ledger_segments(dir.path());
        segments.iter().skip(keep).for_each(|file| fs::remove_file(file).unwrap());
        if keep == 1 {
            fs::File::options().write(true).open(&segments[0]).unwrap().set_len(HEADER).unwrap();
        }
    };
    for keep in [0, 1] {
        let dir = Dir::of(&all);
        none(&dir, keep);
        let refused = dir.verify(&[]).expect_code(2);
        assert!(refused.output().contains("it holds no ledger"), "{}", refused.output());
        let difference = dir.difference_from(&signed(&all), &[]).unwrap();
        assert!(difference.contains("the ledger has 0: it was rolled back or cut"), "{difference}");
        dir.text("checkpoint.json", book_of(&all));
        let found = dir.verify(&[]).expect_code(1).json();
        assert_eq!((&found["intact"], &found["entries"]), (&false.into(), &0.into()));
    }
    let dir = Dir(tempfile::tempdir().unwrap());
    assert!(dir.difference_from(&signed(&all), &[]).is_some(), "not even a folder of segments");
}

#[test]
fn a_server_that_publishes_nonsense_proves_nothing() {
    let all = honest(700);
    let dir = Dir::of(&all[..300]);
    let mut tiles = published(&all, signed(&all));
    tiles.get_mut("/log/tile/0/001").unwrap()[5] ^= 1;
    let difference = Site::of(tiles).difference_from(&dir).unwrap();
    assert!(difference.contains("do not lead to its own checkpoint"), "{difference}");
    let mut tiles = published(&all, signed(&all));
    tiles.get_mut("/log/tile/0/001").unwrap().pop();
    assert!(Site::of(tiles).difference_from(&dir).unwrap().contains("bytes"));
    let mut tiles = published(&all, signed(&all));
    tiles.remove("/log/tile/0/001");
    assert!(Site::of(tiles).difference_from(&dir).unwrap().contains("404"));
    // A partial tile that is gone because the full tile exists.
    let mut tiles = published(&all[..500], signed(&all[..500]));
    tiles.remove("/log/tile/0/001.p/244");
    tiles.extend(published(&all, signed(&all[..500])));
    assert_eq!(Site::of(tiles).difference_from(&dir), None);
    let foreign = signed_by(&signer_key(ORIGIN, 2), &all).to_string();
    assert!(Site::of(published(&all, foreign)).difference_from(&dir).is_some());
    let key = signer_key(ORIGIN, 1).verifier().to_string();
    let gone = dir.verify(&["--against", "http://127.0.0.1:9/", "--key", &key]).expect_code(1);
    assert!(gone.output().contains("--against"), "{}", gone.output());
    dir.verify(&["--against", "http://127.0.0.1:9/"]).expect_code(2);
}

#[test]
fn a_proof_is_made_from_files_and_verified_without_them() {
    let all = honest(600);
    let dir = Dir::of(&all);
    let key = signer_key(ORIGIN, 1).verifier().to_string();
    let of = |size: usize| dir.text(&format!("{size}.checkpoint"), signed(&all[..size]));
    let (whole, early) = (of(600), of(300));
    let path = dir.path().display().to_string();
    let proof = dir.path().join("proof").display().to_string();
    let prove = |index: &str, checkpoint: &str| {
        run([
            "prove",
            "--index",
            index,
            "--data-dir",
            &path,
            "--checkpoint",
            checkpoint,
            "--key",
            &key,
            "--output",
            &proof,
        ])
    };
    for (index, checkpoint, size) in
        [("0", &whole, 600), ("255", &early, 300), ("299", &early, 300), ("599", &whole, 600)]
    {
        prove(index, checkpoint).expect_code(0);
        let proven = run(["verify-proof", &proof, "--key", &key, "--json"]).expect_code(0).json();
        assert_eq!(proven["index"].to_string(), index);
        assert_eq!(proven["treeSize"], size);
        assert_eq!(proven["entry"]["index"], *index);
    }
    prove("300", &early).expect_code(2);
    let edited = fs::read_to_string(&proof).unwrap().replace("index 599", "index 598");
    fs::write(&proof, edited).unwrap();
    run(["verify-proof", &proof, "--key", &key]).expect_code(1);

    // A ledger other than the signed one proves nothing.
    let other = Dir::of(&entries(ORIGIN, 600, |n| format!("another {n}")));
    let other = other.path().display().to_string();
    let refused =
        run(["prove", "--index", "5", "--data-dir", &other, "--checkpoint", &whole, "--key", &key]);
    assert!(refused.expect_code(1).output().contains("nothing can be proven"));
    // Without --checkpoint, the directory's own checkpoint is used.
    run(["prove", "--index", "5", "--data-dir", &path]).expect_code(2);
    dir.text("checkpoint.json", book_of(&all[..9]));
    let proven = run(["prove", "--index", "5", "--data-dir", &path]).expect_code(0);
    assert!(proven.stdout.starts_with("c2sp.org/tlog-proof@v1\nextra "), "{}", proven.stdout);
    assert!(proven.stderr.contains("not verified"), "{}", proven.stderr);
}

/// A server that holds these entries, and proves them as the standard says.
struct Books {
    entries: Vec<Vec<u8>>,
    key: SignerKey,
}

impl Books {
    fn subtree(&self) -> impl FnMut(u32, u64) -> Result<Hash, Infallible> {
        |height, number| {
            let start = usize::try_from(number << height).unwrap();
            Ok(root(&self.entries[start..start + (1 << height)]))
        }
    }

    fn size(&self) -> u64 {
        self.entries.len() as u64
    }

    fn checkpoint(&self) -> String {
        signed_by(&self.key, &self.entries).to_string()
    }
}

type Answer<T> = Result<Response<T>, tonic::Status>;

fn bytes(hashes: Vec<Hash>) -> Vec<Vec<u8>> {
    hashes.into_iter().map(Vec::from).collect()
}

#[tonic::async_trait]
impl AuditService for Books {
    async fn get_checkpoint(
        &self,
        _: Request<proto::GetCheckpointRequest>,
    ) -> Answer<proto::GetCheckpointResponse> {
        Ok(Response::new(proto::GetCheckpointResponse {
            checkpoint: self.checkpoint(),
            verifier_key: self.key.verifier().to_string(),
            ..Default::default()
        }))
    }

    async fn get_inclusion_proof(
        &self,
        request: Request<proto::GetInclusionProofRequest>,
    ) -> Answer<proto::GetInclusionProofResponse> {
        let request = request.into_inner();
        let index = match request.entry.unwrap() {
            get_inclusion_proof_request::Entry::Index(index) => index,
            get_inclusion_proof_request::Entry::IdempotencyKey(key) => key.len() as u64,
        };
        let size = request.tree_size.unwrap_or(self.size());
        let Ok(path) = merkle::prove_inclusion(index, size, self.subtree());
        Ok(Response::new(proto::GetInclusionProofResponse {
            index,
            hashes: bytes(path),
            entry: self.entries[usize::try_from(index).unwrap()].clone(),
            checkpoint: if size == self.size() { self.checkpoint() } else { String::new() },
            ..Default::default()
        }))
    }

    async fn get_consistency_proof(
        &self,
        request: Request<proto::GetConsistencyProofRequest>,
    ) -> Answer<proto::GetConsistencyProofResponse> {
        let first = request.into_inner().first_size;
        let Ok(proof) = merkle::prove_consistency(first, self.size(), self.subtree());
        Ok(Response::new(proto::GetConsistencyProofResponse {
            hashes: bytes(proof),
            checkpoint: self.checkpoint(),
            ..Default::default()
        }))
    }
}

/// A running [`Books`], and its address.
struct Desk {
    address: String,
    _runtime: tokio::runtime::Runtime,
}

impl Desk {
    fn of(entries: &[Vec<u8>], key: SignerKey) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let books = AuditServiceServer::new(Books { entries: entries.to_vec(), key });
        let address = runtime.block_on(support::serve_fake(Routes::new(books)));
        Self { address, _runtime: runtime }
    }

    #[track_caller]
    fn run(&self, args: &[&str]) -> Finished {
        run(args.iter().copied().chain(["--addr", &self.address]))
    }
}

#[test]
fn an_auditor_keeps_a_checkpoint_and_has_the_server_prove_that_it_only_grew() {
    let all = honest(90);
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).display().to_string();
    let (vkey, old, new) = (file("vkey"), file("old"), file("new"));
    let before = Desk::of(&all[..50], signer_key(ORIGIN, 1));
    fs::write(&vkey, before.run(&["checkpoint", "--verifier-key"]).expect_code(0).stdout).unwrap();
    let trusted = format!("@{vkey}");
    before.run(&["checkpoint", "--key", &trusted, "--output", &old]).expect_code(0);
    let printed = before.run(&["checkpoint", "--key", &trusted]).expect_code(0).stdout;
    assert_eq!(printed, fs::read_to_string(&old).unwrap());

    let grown = Desk::of(&all, signer_key(ORIGIN, 1));
    let json = ["prove", "--from", &old, "--key", &trusted, "--output", &new, "--json"];
    let proved = grown.run(&json).expect_code(0).json();
    assert_eq!((&proved["firstSize"], &proved["treeSize"]), (&50.into(), &90.into()));
    assert_eq!(fs::read_to_string(&new).unwrap(), signed(&all));
    grown.run(&["prove", "--from", &old]).expect_code(2);
    // Only a checkpoint that provably continues the only copy replaces it.
    let kept = file("own");
    fs::copy(&old, &kept).unwrap();
    let keep = ["prove", "--from", &kept, "--key", &trusted, "--output", &kept, "--json"];
    assert_eq!(grown.run(&keep).expect_code(0).json()["replaced"], true);
    assert_eq!(fs::read_to_string(&kept).unwrap(), signed(&all));
    grown.run(&["checkpoint", "--key", &trusted, "--output", &kept]).expect_code(0);
    let warning = grown.run(&["checkpoint", "--output", &kept]).expect_code(0).stderr;
    assert!(
        warning.contains("was replaced by a checkpoint or proof that was not verified"),
        "{warning}"
    );
    let report = grown.run(&["checkpoint", "--output", &kept, "--json"]).expect_code(0).json();
    assert_eq!((&report["verified"], &report["replaced"]), (&false.into(), &true.into()));

    let fork = Desk::of(&entries(ORIGIN, 90, |n| format!("another {n}")), signer_key(ORIGIN, 1));
    let refused = fork.run(&["prove", "--from", &old, "--key", &trusted]).expect_code(1);
    assert!(
        refused.output().contains("does not begin with the 50 entries"),
        "{}",
        refused.output()
    );
    let usurped = Desk::of(&all, signer_key(ORIGIN, 2));
    usurped.run(&["prove", "--from", &old, "--key", &trusted]).expect_code(1);
    usurped.run(&["checkpoint", "--key", &trusted]).expect_code(1);
    let unverified = usurped.run(&["checkpoint", "--json"]).expect_code(0).json();
    assert_eq!(unverified["verified"], false);
}

#[test]
fn a_servers_proof_is_verified_before_it_is_written() {
    let all = honest(90);
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).display().to_string();
    let trusted = signer_key(ORIGIN, 1).verifier().to_string();
    let (desk, proof, old) = (Desk::of(&all, signer_key(ORIGIN, 1)), file("proof"), file("old"));
    fs::write(&old, signed(&all[..50])).unwrap();
    let verified =
        || run(["verify-proof", &proof, "--key", &trusted, "--json"]).expect_code(0).json();

    desk.run(&["prove", "--index", "17", "--key", &trusted, "--output", &proof]).expect_code(0);
    assert_eq!((&verified()["index"], &verified()["treeSize"]), (&17.into(), &90.into()));
    let by_key = ["prove", "--idempotency-key", "sign-up", "--key", &trusted, "--output", &proof];
    desk.run(&by_key).expect_code(0);
    assert_eq!(verified()["index"], 7);
    // Only the server ties an entry to a key, so the entry is named.
    let named_entry = desk.run(&by_key).expect_code(0).stderr;
    assert!(
        named_entry.contains("entry 7: channel_put, recorded at 1970-01-01T00:00:17.000Z"),
        "{named_entry}"
    );
    assert!(
        named_entry.contains("only the server says that it has this idempotency key"),
        "{named_entry}"
    );
    let under_old = ["prove", "--index", "17", "--checkpoint", &old, "--key", &trusted];
    desk.run(&[&under_old[..], &["--output", &proof]].concat()).expect_code(0);
    assert_eq!(verified()["treeSize"], 50);

    let usurped = Desk::of(&all, signer_key(ORIGIN, 2));
    fs::remove_file(&proof).unwrap();
    let refused = ["prove", "--index", "17", "--key", &trusted, "--output", &proof];
    usurped.run(&refused).expect_code(1);
    assert!(!Path::new(&proof).exists());
    let fork = Desk::of(&entries(ORIGIN, 90, |n| format!("another {n}")), signer_key(ORIGIN, 1));
    fork.run(&under_old).expect_code(1);
    desk.run(&["prove", "--key", &trusted]).expect_code(2);
    desk.run(&["prove", "--index", "1", "--from", &old, "--key", &trusted]).expect_code(2);
}
