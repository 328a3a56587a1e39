//! `verify`: verifies a ledger on disk and compares it with checkpoints.

mod against;
mod held;
mod tree;
mod vault;

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
};

use base64::Engine as _;
use clap::Args;
use indicatif::HumanBytes;
use serde::Serialize;

use self::{
    against::Remote,
    held::{Compared, Held, Source},
    tree::{TreeCompared, TreeFiles},
    vault::{Shown, VaultCompared},
};
use super::{
    Context, Exit,
    error::CliError,
    offline::{self, Asked, Files, TornTail, Verified},
    output::{Output, Tone},
    progress, serve,
    trust::{Trust, TrustArgs},
    words::Bytes,
};
use crate::{
    config::parse_kek,
    ledger::{self, key_change::Recorded},
    storage::disk::RealDisk,
    tlog::BASE64,
    vault::KekFile,
};

const AFTER_HELP: &str = "\
Needs no server and no keys, and may run while a server uses the directory. A torn tail is an
unfinished write at the end: a write in progress, or one that a crash cut off before it was
acknowledged. It is reported, but it is not damage.

Without --key, a ledger that somebody else wrote is as intact as yours: the output says so. With
--key, --policy or --witness, a checkpoint must show that the entries are the ledger's: one of
--checkpoint, of --against, or of the directory. `signed` says how many entries it covers.

The key of a ledger may change. The directory, and the server of --against, hold the proof of each
change, signed with the key before: an auditor who gives the first key follows them all, and needs
no other. A key whose owner lost it leads nowhere: then give the new key, too.

Entries after the last checkpoint are signed by nobody yet, so a forged one there looks the same:
`uncoveredEntries` counts them. That is no fault by itself.

A person with write access can replace the whole ledger by an old copy. Only a checkpoint that was
kept elsewhere reveals this. `consent-ledger checkpoint` fetches one to keep. With --checkpoint,
the ledger must begin with the entries of the checkpoint. With --against, it is compared with the
ledger that a server publishes; either may have more entries. Both need --key, and the
cosignatures that --policy or --witness require.

The vault must be undamaged and belong to the ledger. With the key-encryption key (--kek-file, or
CONSENT_LEDGER_KEK), everything in it is opened, and every entry with its keys: the vault must
have the keys of all of them. A copy that has no vault is verified with --ledger-only.

The tree must have the hashes of the entries under the checkpoints of the directory. Later hashes
are unsynced: the server computes them again, and they are not damage.

--raw-file verifies what `export --raw` wrote from entry 0 on, instead of a directory. It can not
be combined with --data-dir, --kek-file or --ledger-only.

Exit codes: 0 intact, and every checkpoint agrees; 1 damaged, rolled back or changed, or no
checkpoint verifies with the given keys, or the server of --against does not answer; 2 wrong
usage, for example no ledger in the directory and no checkpoint of one, or a --key or --checkpoint
file that can not be read.

Examples:
  consent-ledger verify --data-dir ./data --key @ledger.vkey
  consent-ledger verify --data-dir ./data --json | jq .rootHash
  consent-ledger verify --data-dir ./data --checkpoint january.checkpoint --key @ledger.vkey
  consent-ledger verify --against https://ledger.example --key @ledger.vkey --policy w.policy
  consent-ledger verify --raw-file ledger.raw --checkpoint jan.checkpoint --key @ledger.vkey";

/// Options of `verify`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct VerifyArgs {
    /// Directory of the ledger
    #[arg(long, value_name = "DIR", default_value = "./data")]
    data_dir: PathBuf,
    /// File of `export --raw` to verify instead of a directory; it begins with entry 0
    #[arg(long, value_name = "FILE")]
    raw_file: Option<PathBuf>,
    /// Do not verify the vault: the directory is a copy without it
    #[arg(long)]
    ledger_only: bool,
    /// File of the key-encryption key, to verify what the vault holds
    #[arg(long, value_name = "FILE")]
    kek_file: Option<PathBuf>,
    /// File with a checkpoint that was kept elsewhere; may be given several times
    #[arg(long, value_name = "FILE")]
    checkpoint: Vec<PathBuf>,
    /// Compare with the ledger that a server publishes under this URL (C2SP tlog-tiles)
    #[arg(long, value_name = "URL")]
    against: Option<String>,
    #[command(flatten)]
    trust: TrustArgs,
}

/// The output of `verify`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Verification {
    /// The files. `intact` is true only if they are undamaged and every comparison agrees.
    #[serde(flatten)]
    files: Verified,
    /// Name of the ledger.
    origin: Option<String>,
    /// Identity of the ledger.
    ledger_id: Option<Bytes>,
    /// Root of the tree over the undamaged entries, in base64 as in checkpoints.
    root_hash: String,
    /// The entries by which the directory's own proofs lead from the given keys to later ones.
    key_changes: Vec<u64>,
    /// Number of entries under a checkpoint that the given keys and witnesses vouch for; `null` if no
    /// key was given.
    signed_entries: Option<u64>,
    /// Number of entries that no checkpoint covers; with a key, none that the given keys and witnesses
    /// vouch for.
    uncovered_entries: u64,
    /// What was not checked, for want of a key or a file.
    not_checked: Vec<NotChecked>,
    /// The tree on disk; `null` if there is none.
    tree: Option<TreeCompared>,
    /// The vault on disk; `null` if there is none and no entry needs one, or it was not to be verified.
    vault: Option<VaultCompared>,
    /// The compared checkpoints.
    checkpoints: Vec<Compared>,
}

/// Something that was not checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum NotChecked {
    /// Who signed the checkpoints, and so whose ledger this is.
    Signatures,
    /// Whether this is an old copy.
    Rollback,
    /// The cosignatures of witnesses with another kind of key.
    OtherWitnesses,
    /// The entries after the last checkpoint.
    UncoveredEntries,
    /// Whether the last entries were lost.
    LostEntries,
    /// The tree on disk.
    Tree,
    /// The tree, of which there is nothing on disk.
    MissingTree,
    /// The vault.
    Vault,
    /// The sealed content of the vault.
    VaultContents,
}

impl NotChecked {
    /// The text for people. `uncovered` entries are under no checkpoint.
    fn text(self, uncovered: u64) -> Cow<'static, str> {
        let text = match self {
            Self::UncoveredEntries => {
                let entries = if uncovered == 1 { "entry" } else { "entries" };
                return format!(
                    "the last {uncovered} {entries}: no checkpoint covers them, and forged ones look \
                     the same; a few are usual while a server runs or after a crash"
                )
                .into();
            }
            Self::LostEntries => {
                "whether the last entries were lost: the tree has hashes of more than the ledger has"
            }
            Self::Tree => {
                "the tree: no checkpoint of the directory says which of its hashes were synced"
            }
            Self::MissingTree => {
                "the tree: there is none on disk, although checkpoints were signed; the server computes it again"
            }
            Self::Signatures => {
                "who signed this: no --key was given, and a forged ledger looks the same"
            }
            Self::Rollback => {
                "whether this is an old copy: no --checkpoint from elsewhere and no --against was given"
            }
            Self::OtherWitnesses => {
                "witnesses of the policy with another kind of key, such as ML-DSA-44: none of them counts"
            }
            Self::Vault => "the vault: --ledger-only or --raw-file was given",
            Self::VaultContents => "what the vault and the entries hold: no --kek-file was given",
        };
        text.into()
    }
}

pub(super) async fn run(args: &VerifyArgs, context: &mut Context) -> Result<Exit, CliError> {
    let verification = verify(args, context).await?;
    // The exit code shows damage even if the reader of standard output is gone.
    match print(&verification, context).and_then(|()| context.out.flush()) {
        Ok(()) | Err(CliError::StdoutClosed) => {}
        Err(error) => return Err(error),
    }
    Ok(if verification.files.intact { Exit::Success } else { Exit::Failed })
}

async fn verify(args: &VerifyArgs, context: &Context) -> Result<Verification, CliError> {
    let mut trust = trust(args)?;
    let kek = kek(args)?;
    let book = match args.raw_file {
        Some(_) => None,
        None => offline::book(&args.data_dir)?.ok().flatten(),
    };
    let mut key_changes = Vec::new();
    if let (Some(trust), Some(book)) = (&mut trust, &book) {
        key_changes = trust.follow(&book.key_changes);
    }
    // Read before the entries: a running server only adds to the ledger meanwhile.
    let mut held = match args.raw_file {
        Some(_) => Vec::new(),
        None => Held::of_data_dir(&args.data_dir, !args.ledger_only, trust.as_ref())?,
    };
    let is_sound = held.iter().all(|held| held.checkpoint.is_ok());
    let mut signed = held.iter().filter_map(Held::size).max().unwrap_or(0);
    let mut remote = None;
    if let Some(trust) = &mut trust {
        for path in &args.checkpoint {
            let file = Held::file(path, trust)?;
            if is_sound && args.raw_file.is_none() {
                held.extend(Held::older_book(&args.data_dir, &file, signed));
            }
            held.push(file);
        }
        // A checkpoint from elsewhere says how much of the tree was synced, too.
        signed = held.iter().filter_map(Held::size).max().unwrap_or(0);
        if let Some(url) = &args.against {
            remote = Some(Remote::fetch(url, trust, &context.global).await?);
        }
    }
    if let Some(trust) = &mut trust {
        let all = held.iter_mut().chain(remote.as_mut().map(|remote| &mut remote.held));
        let untrusted: Vec<&mut Held> = all.filter(|held| held.checkpoint.is_err()).collect();
        let ledger = args.data_dir.join(ledger::DIR);
        if args.raw_file.is_none()
            && !untrusted.is_empty()
            && let Ok(recorded) = Recorded::read(&RealDisk, &ledger)
        {
            trust.know(&recorded);
            untrusted.into_iter().for_each(|held| held.explain(trust));
        }
    }
    let size_min = held.iter().filter_map(Held::published_size_min).max().unwrap_or(0);

    let all = held.iter().chain(remote.as_ref().map(|remote| &remote.held));
    let sizes: Vec<_> = all.filter_map(Held::size).collect();
    let Read { files, tree, vault } = match &args.raw_file {
        Some(file) => Read::of_raw(file, &sizes)?,
        None => {
            // An empty directory is a loss if a checkpoint has entries, and wrong usage otherwise.
            let is_loss = sizes.iter().any(|size| *size > 0);
            let mut read = Read::of_dir(&args.data_dir, &sizes, signed, is_loss)?;
            if !args.ledger_only {
                let shown = Shown::by(&args.data_dir, &read.files.good, kek.as_ref());
                read.vault = shown.vault;
                if let Some(forged) = shown.forged {
                    read.files.verified.forged(forged);
                }
            }
            read
        }
    };
    let Files { verified, good } = files;

    let (is_whole, entries) = (verified.intact, good.tip.next_index);
    let mut checkpoints: Vec<Compared> =
        held.into_iter().map(|held| held.compare(&good, is_whole)).collect();
    if let Some(remote) = remote {
        checkpoints.push(remote.compare(&good, is_whole, size_min).await);
    }
    let signed_entries = trust.as_ref().map(|_| {
        checkpoints.iter().map(|compared| compared.signed_entries(entries)).max().unwrap_or(0)
    });
    checkpoints.extend(Held::foreign_book(book.and_then(|book| book.ledger_id), &good));
    let covered = checkpoints.iter().map(|compared| compared.covered_entries(entries)).max();
    let covered = signed_entries.or(covered).unwrap_or(0);
    if let (Some(trust), Some(signed_entries)) = (&trust, signed_entries) {
        let foreign = Held::foreign_key(trust, &good);
        checkpoints.extend(foreign.or_else(|| Held::unproven(trust, signed_entries)));
    }
    let agrees = checkpoints.iter().all(|compared| compared.agrees)
        && tree.as_ref().is_none_or(|tree| tree.agrees)
        && vault.as_ref().is_none_or(|vault| vault.agrees);
    let opened = good.opened.as_ref();
    Ok(Verification {
        files: Verified { intact: is_whole && agrees, ..verified },
        origin: opened.map(|opened| opened.origin.clone()),
        ledger_id: opened.map(|opened| Bytes(opened.ledger_id.to_vec())),
        root_hash: BASE64.encode(good.root),
        key_changes,
        signed_entries,
        uncovered_entries: entries - covered,
        not_checked: [
            (NotChecked::Signatures, trust.is_none()),
            (NotChecked::UncoveredEntries, is_whole && agrees && covered < entries),
            (NotChecked::Rollback, args.checkpoint.is_empty() && args.against.is_none()),
            (NotChecked::OtherWitnesses, trust.as_ref().is_some_and(passes_over)),
            (NotChecked::LostEntries, tree.as_ref().is_some_and(|tree| tree.beyond > 0)),
            (NotChecked::Tree, tree.as_ref().is_some_and(TreeCompared::is_unknown)),
            (NotChecked::MissingTree, args.raw_file.is_none() && tree.is_none() && signed > 0),
            (NotChecked::Vault, args.ledger_only || args.raw_file.is_some()),
            (NotChecked::VaultContents, vault.is_some() && kek.is_none()),
        ]
        .into_iter()
        .filter_map(|(what, was_not)| was_not.then_some(what))
        .collect(),
        tree,
        vault,
        checkpoints,
    })
}

/// Whether the policy names witnesses whose cosignatures this program can not verify.
fn passes_over(trust: &Trust) -> bool {
    trust.policy.passed_over().next().is_some()
}

/// The trusted keys, which a checkpoint from outside requires.
fn trust(args: &VerifyArgs) -> Result<Option<Trust>, CliError> {
    match args.checkpoint.is_empty() && args.against.is_none() {
        true => args.trust.trust(),
        false => args.trust.required().map(Some),
    }
}

/// The key-encryption key, if one is given.
fn kek(args: &VerifyArgs) -> Result<Option<KekFile>, CliError> {
    let bare = |kek| Some(KekFile { kek, ledgers: Vec::new() });
    match (&args.kek_file, serve::kek_in_environment()) {
        (Some(path), _) => {
            let file = KekFile::read(path).map_err(CliError::usage)?;
            let missing =
                || CliError::usage(format!("--kek-file {}: there is no such file", path.display()));
            file.ok_or_else(missing).map(Some)
        }
        (None, Some(text)) => parse_kek(&text).map(bare).map_err(CliError::usage),
        (None, None) => Ok(None),
    }
}

/// The files that were read.
struct Read {
    files: Files,
    tree: Option<TreeCompared>,
    vault: Option<VaultCompared>,
}

impl Read {
    /// Reads ledger and tree of a directory. `signed` entries are under its own checkpoints.
    fn of_dir(dir: &Path, sizes: &[u64], signed: u64, is_loss: bool) -> Result<Self, CliError> {
        let tree = TreeFiles::open(dir, signed);
        let mut tree = tree.map_err(|error| CliError::file(&dir.join("tree"), error))?;
        let mut hash = |level, number, hash: &_| {
            tree.iter_mut().for_each(|tree| tree.compare(level, number, hash));
        };
        let asked = Asked { roots_at: sizes, hashes: Some(&mut hash) };
        let files = shown(|step| offline::audit_dir(dir, asked, step))?;
        let files = match files {
            Some(files) => files,
            None if is_loss => Files::none(),
            None => return Err(offline::no_ledger(dir)),
        };
        let entries = files.good.tip.next_index;
        Ok(Self { files, tree: tree.map(|tree| tree.end(entries)), vault: None })
    }

    fn of_raw(file: &Path, sizes: &[u64]) -> Result<Self, CliError> {
        let files = shown(|step| offline::audit_raw(file, sizes, step))?;
        let files = files
            .ok_or_else(|| CliError::usage(format!("{}: it holds no entry", file.display())))?;
        Ok(Self { files, tree: None, vault: None })
    }
}

/// Shows the progress of reading.
fn shown<T>(read: impl FnOnce(&mut dyn FnMut(offline::Step)) -> T) -> T {
    let bar = progress::bytes(0, "verifying");
    let result = read(&mut |step| {
        bar.set_length(step.bytes_total);
        bar.set_position(step.bytes);
    });
    bar.finish_and_clear();
    result
}

fn print(verification: &Verification, context: &mut Context) -> Result<(), CliError> {
    let out = &mut context.out;
    if out.json {
        return out.object(verification);
    }
    let files = &verification.files;
    let (tone, word) = match (files.intact, &files.damage) {
        (true, _) => (Tone::Good, "intact"),
        (false, Some(_)) => (Tone::Bad, "DAMAGED"),
        (false, None) => (Tone::Bad, "NOT AS IT SHOULD BE"),
    };
    let word = out.paint(tone, word);
    out.line(word)?;
    for what in &verification.not_checked {
        let heading = out.paint(Tone::Careful, "NOT CHECKED");
        out.line(format!("{heading} {}", what.text(verification.uncovered_entries)))?;
    }
    if let Some(damage) = &files.damage {
        out.line(format!("segment     {}", damage.segment))?;
        out.line(format!("offset      {}", damage.offset))?;
        out.line(format!("index       {}", damage.index))?;
        out.line(format!("what        {}", damage.what))?;
    }
    let good = if files.damage.is_none() { "entries     " } else { "good before " };
    out.line(format!("{good}{}", files.entries))?;
    for index in &verification.key_changes {
        out.line(format!("key         changed in entry {index}, signed with the key before"))?;
    }
    if let Some(signed) = verification.signed_entries {
        out.line(format!("signed      {signed} of them, by the given keys"))?;
    }
    out.line(format!("bytes       {} ({})", files.bytes, HumanBytes(files.bytes)))?;
    if let Some(origin) = &verification.origin {
        out.line(format!("ledger      {origin}"))?;
    }
    if let Some(hash) = &files.chain_hash {
        out.line(format!("chain hash  {hash}"))?;
    }
    out.line(format!("root hash   {}", verification.root_hash))?;
    if let Some(tail) = &files.torn_tail {
        print_torn_tail(tail, out)?;
    }
    if let Some(tree) = &verification.tree {
        print_tree(tree, out)?;
    }
    if let Some(vault) = &verification.vault {
        print_vault(vault, out)?;
    }
    verification.checkpoints.iter().try_for_each(|compared| print_compared(compared, out))
}

fn print_vault(vault: &VaultCompared, out: &mut Output) -> Result<(), CliError> {
    let VaultCompared { subjects, without_entry, opened, torn_tail, fault, .. } = vault;
    match fault {
        None => {
            let opened = if *opened { ", all opened, and the entries with their keys" } else { "" };
            out.line(format!("vault       {subjects} data subjects{opened}"))?;
            if let Some(count @ 1..) = without_entry {
                let careful = out.paint(Tone::Careful, &count.to_string());
                out.line(format!(
                    "            {careful} of them without an entry: a crash leaves such, and so does a \
                     ledger that lost its last entries"
                ))?;
            }
        }
        Some(fault) => {
            let wrong = out.paint(Tone::Bad, "wrong");
            out.line(format!("vault       {wrong}: {fault}"))?;
        }
    }
    torn_tail.iter().try_for_each(|tail| print_torn_tail(tail, out))
}

fn print_torn_tail(tail: &TornTail, out: &mut Output) -> Result<(), CliError> {
    let TornTail { segment, offset, bytes } = tail;
    out.line(format!(
        "torn tail   {bytes} bytes at offset {offset} of {segment}: an unfinished write"
    ))
}

fn print_tree(tree: &TreeCompared, out: &mut Output) -> Result<(), CliError> {
    match &tree.wrong {
        None => {
            match tree.is_unknown() {
                true => out.line("tree        not compared")?,
                false => {
                    out.line(format!("tree        {} hashes on disk, all right", tree.hashes))?;
                }
            }
            if tree.unsynced > 0 {
                let more = tree.unsynced;
                out.line(format!("            {more} more are unsynced: computed again"))?;
            }
            if tree.beyond > 0 {
                let more = tree.beyond;
                let careful = out.paint(Tone::Careful, "more");
                out.line(format!(
                    "            {more} {careful} are of entries that the ledger does not have: it has \
                     lost them, or the tree is of another copy"
                ))?;
            }
            Ok(())
        }
        Some(hash) => {
            let wrong = out.paint(Tone::Bad, "wrong");
            out.line(format!("tree        {wrong}: {hash}"))?;
            out.line("            delete the tree folder: the server computes it again")
        }
    }
}

fn print_compared(compared: &Compared, out: &mut Output) -> Result<(), CliError> {
    let (tone, word) =
        if compared.agrees { (Tone::Good, "agrees") } else { (Tone::Bad, "differs") };
    let word = out.paint(tone, word);
    let size = compared.size.map_or_else(String::new, |size| format!(", {size} entries"));
    let heading = if compared.source == Source::Key { "key         " } else { "checkpoint  " };
    out.line(format!("{heading}{word}: {}{size}", compared.name))?;
    if let Some(difference) = &compared.difference {
        out.line(format!("            {difference}"))?;
    }
    match (compared.source, compared.signed, compared.trusted) {
        (Source::DataDir, false, _) if compared.size.is_some() => {
            out.line("            its signature was not verified: no --key was given")?;
        }
        (Source::DataDir, true, false) => {
            out.line("            too few of the given witnesses have cosigned it yet")?;
        }
        _ => {}
    }
    compared.cosigned.iter().try_for_each(|cosigned| {
        out.line(format!("            cosigned by {} at {}", cosigned.witness, cosigned.at))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{
        offline::{Damage, TornTail},
        testing::Capture,
    };

    fn damaged() -> Verification {
        of(damaged_files())
    }

    fn of(files: Verified) -> Verification {
        Verification {
            files,
            origin: Some("ledger.example".into()),
            ledger_id: Some(Bytes(vec![7])),
            root_hash: "cm9vdA==".into(),
            key_changes: Vec::new(),
            signed_entries: None,
            uncovered_entries: 0,
            not_checked: vec![NotChecked::Signatures],
            tree: None,
            vault: None,
            checkpoints: Vec::new(),
        }
    }

    fn damaged_files() -> Verified {
        Verified {
            intact: false,
            entries: 12,
            bytes: 2_048,
            chain_hash: Some(Bytes(vec![0xab])),
            torn_tail: None,
            damage: Some(Damage {
                segment: "00000000000000000000.seg".into(),
                offset: 1_234,
                index: 12,
                what: "checksum mismatch".into(),
            }),
        }
    }

    #[test]
    fn damage_is_named_to_people() {
        let (mut context, capture) = Capture::context(false);
        print(&damaged(), &mut context).unwrap();
        assert_eq!(
            capture.text(context),
            "DAMAGED\nNOT CHECKED who signed this: no --key was given, and a forged ledger looks the same\n\
             segment     00000000000000000000.seg\noffset      1234\nindex       12\n\
             what        checksum mismatch\ngood before 12\nbytes       2048 (2.00 KiB)\n\
             ledger      ledger.example\nchain hash  ab\nroot hash   cm9vdA==\n"
        );
    }

    #[test]
    fn damage_is_named_to_scripts() {
        let (mut context, capture) = Capture::context(true);
        print(&damaged(), &mut context).unwrap();
        assert_eq!(
            capture.text(context),
            "{\"intact\":false,\"entries\":12,\"bytes\":2048,\"chainHash\":\"qw==\",\
             \"tornTail\":null,\"damage\":{\"segment\":\"00000000000000000000.seg\",\
             \"offset\":1234,\"index\":12,\"what\":\"checksum mismatch\"},\
             \"origin\":\"ledger.example\",\"ledgerId\":\"Bw==\",\"rootHash\":\"cm9vdA==\",\"keyChanges\":[],\
             \"signedEntries\":null,\"uncoveredEntries\":0,\"notChecked\":[\"signatures\"],\"tree\":null,\"vault\":null,\
             \"checkpoints\":[]}\n"
        );
    }

    #[test]
    fn a_torn_tail_is_reported_as_intact() {
        let tail = TornTail { segment: "s".into(), offset: 9, bytes: 3 };
        let files =
            Verified { intact: true, damage: None, torn_tail: Some(tail), ..damaged_files() };
        let (mut context, capture) = Capture::context(false);
        print(&of(files), &mut context).unwrap();
        let text = capture.text(context);
        assert!(
            text.starts_with("intact\nNOT CHECKED who signed this")
                && text.contains("entries     12\n"),
            "{text}"
        );
        assert!(text.ends_with("torn tail   3 bytes at offset 9 of s: an unfinished write\n"));
    }
}
