//! `verify`: verifies a ledger on disk.

use std::path::PathBuf;

use clap::Args;
use indicatif::HumanBytes;

use super::{Context, Exit, error::CliError, offline, output::Tone, progress, shapes::Verified};

const AFTER_HELP: &str = "\
Needs no server and no keys, and may run beside a running server. A torn tail is an unfinished write
at the end: one that is under way, or that a crash cut off before it was acknowledged. It is
reported, and it is not damage. Whether somebody cut it off, only an outside witness can tell.

Exit codes: 0 intact, 1 damaged, 2 wrong usage, for example no ledger in the directory.

Examples:
  consent-ledger verify --data-dir ./data
  consent-ledger verify --data-dir ./data --json | jq .chain_hash";

/// Options of `verify`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct VerifyArgs {
    /// Directory of the ledger
    #[arg(long, value_name = "DIR", default_value = "./data")]
    data_dir: PathBuf,
}

pub(super) fn run(args: &VerifyArgs, context: &mut Context) -> Result<Exit, CliError> {
    let bar = progress::bytes(0, "verifying");
    let verified = offline::verify_dir(&args.data_dir, &mut |step| {
        bar.set_length(step.bytes_total);
        bar.set_position(step.bytes);
    });
    bar.finish_and_clear();
    let verified = verified?;
    // A reader that went away does not turn damage into a success.
    match print(&verified, context).and_then(|()| context.out.flush()) {
        Ok(()) | Err(CliError::StdoutClosed) => {}
        Err(error) => return Err(error),
    }
    Ok(if verified.intact { Exit::Success } else { Exit::Failed })
}

fn print(verified: &Verified, context: &mut Context) -> Result<(), CliError> {
    let out = &mut context.out;
    if out.json {
        return out.object(verified);
    }
    let (tone, word) =
        if verified.intact { (Tone::Good, "intact") } else { (Tone::Bad, "DAMAGED") };
    let word = out.paint(tone, word);
    out.line(word)?;
    if let Some(damage) = &verified.damage {
        out.line(format!("segment     {}", damage.segment))?;
        out.line(format!("offset      {}", damage.offset))?;
        out.line(format!("index       {}", damage.index))?;
        out.line(format!("what        {}", damage.what))?;
    }
    let good = if verified.intact { "entries     " } else { "good before " };
    out.line(format!("{good}{}", verified.entries))?;
    out.line(format!("bytes       {} ({})", verified.bytes, HumanBytes(verified.bytes)))?;
    if let Some(hash) = &verified.chain_hash {
        out.line(format!("chain hash  {hash}"))?;
    }
    if let Some(tail) = &verified.torn_tail {
        out.line(format!(
            "torn tail   {} bytes at offset {} of {}: an unfinished write",
            tail.bytes, tail.offset, tail.segment
        ))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{
        shapes::{Damage, TornTail},
        testing::Capture,
    };

    fn damaged() -> Verified {
        Verified {
            intact: false,
            entries: 12,
            bytes: 2_048,
            chain_hash: Some("ab".into()),
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
             chain hash  ab\n"
        );
    }

    #[test]
    fn damage_is_named_to_scripts() {
        let (mut context, capture) = Capture::context(true);
        print(&damaged(), &mut context).unwrap();
        assert_eq!(
            capture.text(context),
            "{\"intact\":false,\"entries\":12,\"bytes\":2048,\"chain_hash\":\"ab\",\
             \"torn_tail\":null,\"damage\":{\"segment\":\"00000000000000000000.seg\",\
             \"offset\":1234,\"index\":12,\"what\":\"checksum mismatch\"}}\n"
        );
    }

    #[test]
    fn a_torn_tail_is_reported_as_intact() {
        let tail = TornTail { segment: "s".into(), offset: 9, bytes: 3 };
        let verified = Verified { intact: true, damage: None, torn_tail: Some(tail), ..damaged() };
        let (mut context, capture) = Capture::context(false);
        print(&verified, &mut context).unwrap();
        let text = capture.text(context);
        assert!(text.starts_with("intact\nentries     12\n"), "{text}");
        assert!(text.ends_with("torn tail   3 bytes at offset 9 of s: an unfinished write\n"));
    }
}
