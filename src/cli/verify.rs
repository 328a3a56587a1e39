//! `verify`: verifies a ledger on disk and compares it with checkpoints.

mod against;
mod held;
mod tree;

use std::path::PathBuf;

use base64::Engine as _;
use clap::Args;
use indicatif::HumanBytes;
use serde::Serialize;

use self::{
    against::Remote,
    held::{Compared, Held, Source},
    tree::{TreeCompared, TreeFiles},
};
use super::{
    Context, Exit,
    error::CliError,
    offline::{self, Files, Verified},
    output::{Output, Tone},
    progress,
    trust::{Trust, TrustArgs},
    words::Bytes,
};
use crate::tlog::BASE64;

const AFTER_HELP: &str = "\
Needs no server and no keys, and may run while a server uses the directory. A torn tail is an
unfinished write at the end: a write in progress, or one that a crash cut off before it was
acknowledged. It is reported, but it is not damage.

A person with write access can replace the whole ledger by a new one or an old copy. Only a checkpoint
that was kept elsewhere reveals this. `consent-ledger checkpoint` fetches one to keep. With
--checkpoint, the ledger must begin with the entries of the checkpoint. With --against, it is compared
with the ledger that a server publishes; either may have more entries. Both need --key, and the
cosignatures that --policy or --witness require. The checkpoints in the directory are compared, too;
without --key their signatures are not verified, and the output says so.

Of the tree on disk, only the hashes under a checkpoint of the directory are compared. Later hashes
are unsynced: the server computes them again, and they are not damage.

Exit codes: 0 intact, and every checkpoint agrees; 1 damaged, rolled back or changed, or the server of
--against does not answer; 2 wrong usage, for example no ledger in the directory and no checkpoint of
one, or a --key or --checkpoint file that can not be read.

Examples:
  consent-ledger verify --data-dir ./data
  consent-ledger verify --data-dir ./data --json | jq .rootHash
  consent-ledger verify --data-dir ./data --checkpoint january.checkpoint --key @ledger.vkey
  consent-ledger verify --against https://ledger.example --key @ledger.vkey --policy w.policy";

/// Options of `verify`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct VerifyArgs {
    /// Directory of the ledger
    #[arg(long, value_name = "DIR", default_value = "./data")]
    data_dir: PathBuf,
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
    /// The tree on disk; `null` if there is none.
    tree: Option<TreeCompared>,
    /// The compared checkpoints.
    checkpoints: Vec<Compared>,
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
    let trust = trust(args)?;
    // Read before the entries: a running server only adds to the ledger meanwhile.
    let mut held = Held::of_data_dir(&args.data_dir, trust.as_ref())?;
    let signed = held.iter().filter_map(Held::size).max().unwrap_or(0);
    let mut remote = None;
    if let Some(trust) = &trust {
        for path in &args.checkpoint {
            held.push(Held::file(path, trust)?);
        }
        if let Some(url) = &args.against {
            remote = Some(Remote::fetch(url, trust, &context.global).await?);
        }
    }
    let size_min = held.iter().filter_map(Held::published_size_min).max().unwrap_or(0);
    let mut tree = TreeFiles::open(&args.data_dir, signed)
        .map_err(|error| CliError::file(&args.data_dir.join("tree"), error))?;

    let all = held.iter().chain(remote.as_ref().map(|remote| &remote.held));
    let sizes: Vec<_> = all.filter_map(Held::size).collect();
    let files = read(args, &sizes, tree.as_mut())?;
    // An empty directory is a loss if a checkpoint has entries, and wrong usage otherwise.
    let none = || match held.iter().filter_map(Held::size).any(|size| size > 0) {
        true => Ok(Files::none()),
        false => Err(offline::no_ledger(&args.data_dir)),
    };
    let Files { verified, good } = files.map_or_else(none, Ok)?;

    let is_whole = verified.intact;
    let mut checkpoints: Vec<Compared> =
        held.into_iter().map(|held| held.compare(&good, is_whole)).collect();
    if let Some(remote) = remote {
        checkpoints.push(remote.compare(&good, is_whole, size_min).await);
    }
    checkpoints.extend(trust.and_then(|trust| Held::foreign_key(&trust, &good)));
    let tree = tree.map(TreeFiles::end);
    let agrees = checkpoints.iter().all(|compared| compared.agrees)
        && tree.as_ref().is_none_or(|tree| tree.agrees);
    let opened = good.opened.as_ref();
    Ok(Verification {
        files: Verified { intact: is_whole && agrees, ..verified },
        origin: opened.map(|opened| opened.origin.clone()),
        ledger_id: opened.map(|opened| Bytes(opened.ledger_id.to_vec())),
        root_hash: BASE64.encode(good.root),
        tree,
        checkpoints,
    })
}

/// The trusted keys, which a checkpoint from outside requires.
fn trust(args: &VerifyArgs) -> Result<Option<Trust>, CliError> {
    match args.checkpoint.is_empty() && args.against.is_none() {
        true => args.trust.trust(),
        false => args.trust.required().map(Some),
    }
}

/// Reads the files; none if the directory exists and has no entries.
fn read(
    args: &VerifyArgs,
    sizes: &[u64],
    tree: Option<&mut TreeFiles>,
) -> Result<Option<Files>, CliError> {
    let bar = progress::bytes(0, "verifying");
    let mut step = |step: offline::Step| {
        bar.set_length(step.bytes_total);
        bar.set_position(step.bytes);
    };
    let read = match tree {
        None => offline::audit_dir(&args.data_dir, sizes, None, &mut step),
        Some(tree) => {
            let mut compare = |level, number, hash: &_| tree.compare(level, number, hash);
            offline::audit_dir(&args.data_dir, sizes, Some(&mut compare), &mut step)
        }
    };
    bar.finish_and_clear();
    read
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
    if let Some(damage) = &files.damage {
        out.line(format!("segment     {}", damage.segment))?;
        out.line(format!("offset      {}", damage.offset))?;
        out.line(format!("index       {}", damage.index))?;
        out.line(format!("what        {}", damage.what))?;
    }
    let good = if files.damage.is_none() { "entries     " } else { "good before " };
    out.line(format!("{good}{}", files.entries))?;
    out.line(format!("bytes       {} ({})", files.bytes, HumanBytes(files.bytes)))?;
    if let Some(origin) = &verification.origin {
        out.line(format!("ledger      {origin}"))?;
    }
    if let Some(hash) = &files.chain_hash {
        out.line(format!("chain hash  {hash}"))?;
    }
    out.line(format!("root hash   {}", verification.root_hash))?;
    if let Some(tail) = &files.torn_tail {
        out.line(format!(
            "torn tail   {} bytes at offset {} of {}: an unfinished write",
            tail.bytes, tail.offset, tail.segment
        ))?;
    }
    if let Some(tree) = &verification.tree {
        print_tree(tree, out)?;
    }
    verification.checkpoints.iter().try_for_each(|compared| print_compared(compared, out))
}

fn print_tree(tree: &TreeCompared, out: &mut Output) -> Result<(), CliError> {
    match &tree.wrong {
        None => {
            out.line(format!("tree        {} hashes on disk, all right", tree.hashes))?;
            match tree.unsynced {
                0 => Ok(()),
                more => out.line(format!("            {more} more are unsynced: computed again")),
            }
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
    if !compared.signed && compared.source == Source::DataDir {
        out.line("            its signature was not verified: no --key was given")?;
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
            tree: None,
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
            "DAMAGED\nsegment     00000000000000000000.seg\noffset      1234\nindex       12\n\
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
             \"origin\":\"ledger.example\",\"ledgerId\":\"Bw==\",\"rootHash\":\"cm9vdA==\",\
             \"tree\":null,\"checkpoints\":[]}\n"
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
        assert!(text.starts_with("intact\nentries     12\n"), "{text}");
        assert!(text.ends_with("torn tail   3 bytes at offset 9 of s: an unfinished write\n"));
    }
}
