//! `verify-proof`: verifies that an entry is in a ledger, with no server and no files of the
//! ledger.

use std::path::PathBuf;

use base64::Engine as _;
use clap::Args;
use serde::Serialize;

use super::{
    Context, Exit,
    error::CliError,
    export::HashedEntry,
    output::Tone,
    trust::{Cosigned, Trust, TrustArgs, print_cosigned, read_bytes, read_text},
};
use crate::tlog::{BASE64, merkle::leaf_hash, proof::TlogProof};

const AFTER_HELP: &str = "\
Reads a C2SP tlog-proof, as `consent-ledger prove` writes it. The entry's bytes are in the proof
(`extra`), or come with --entry: they are hashed, so they need not be trusted. The proof shows
that the ledger, whose key was given, has signed that this entry is at this index. With --policy
or --witness, witnesses must have cosigned the ledger's checkpoint, too.

Exit codes: 0 proven, 1 not, 2 wrong usage.

Examples:
  consent-ledger verify-proof entry.tlog-proof --key @ledger.vkey
  consent-ledger prove --index 17 | consent-ledger verify-proof - --key @ledger.vkey --json
  consent-ledger verify-proof p.tlog-proof --key @ledger.vkey --policy witnesses.policy";

/// Options of `verify-proof`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct VerifyProofArgs {
    /// File with the proof; - reads it from standard input
    proof: PathBuf,
    /// File with the exact bytes of the entry, if the proof does not hold them
    #[arg(long, value_name = "FILE")]
    entry: Option<PathBuf>,
    #[command(flatten)]
    trust: TrustArgs,
}

/// A proof that verified, as JSON.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Proven {
    /// Always true: a proof that does not verify is an error.
    proven: bool,
    /// Index of the entry.
    index: u64,
    /// Number of entries under the checkpoint.
    tree_size: u64,
    /// Name of the ledger.
    origin: String,
    /// Root over the entries, in base64 as in checkpoints.
    root_hash: String,
    /// The known witnesses that have cosigned.
    cosigned: Vec<Cosigned>,
    /// The entry and its hash, as `export` prints them.
    #[serde(flatten)]
    entry: HashedEntry,
}

pub(super) fn run(args: &VerifyProofArgs, context: &mut Context) -> Result<Exit, CliError> {
    let trust = args.trust.required()?;
    let proof = TlogProof::parse(&read_text(&args.proof)?).map_err(CliError::failed)?;
    let entry = match (&args.entry, &proof.extra) {
        (Some(path), _) => read_bytes(path)?,
        (None, Some(extra)) => extra.clone(),
        (None, None) => {
            return Err(CliError::usage("the proof does not hold its entry")
                .with_hint("give the file with the entry's exact bytes with --entry"));
        }
    };
    let proven = proven(&proof, &entry, &trust)?;
    print(&proven, context)?;
    Ok(Exit::Success)
}

/// Verifies the proof of an entry under a key.
///
/// # Errors
/// The proof does not verify.
pub(super) fn proven(proof: &TlogProof, entry: &[u8], trust: &Trust) -> Result<Proven, CliError> {
    trust.check(&proof.checkpoint).map_err(CliError::failed)?;
    proof.leads_from(&leaf_hash(entry)).map_err(CliError::failed)?;
    let decoded = HashedEntry::decode(entry).map_err(CliError::failed)?;
    let (own_index, proven_index) = (decoded.entry.index, proof.index);
    if own_index != proven_index {
        return Err(CliError::failed(format!(
            "the entry says that its index is {own_index}, but the proof is for {proven_index}"
        )));
    }
    let checkpoint = &proof.checkpoint.checkpoint;
    Ok(Proven {
        proven: true,
        index: proof.index,
        tree_size: checkpoint.size,
        origin: checkpoint.origin.clone(),
        root_hash: BASE64.encode(checkpoint.root),
        cosigned: trust.cosigned(&proof.checkpoint),
        entry: decoded,
    })
}

fn print(proven: &Proven, context: &mut Context) -> Result<(), CliError> {
    let out = &mut context.out;
    if out.json {
        return out.object(proven);
    }
    let word = out.paint(Tone::Good, "proven");
    out.line(word)?;
    out.line(format!("index       {}", proven.index))?;
    out.line(format!("tree size   {}", proven.tree_size))?;
    out.line(format!("ledger      {}", proven.origin))?;
    out.line(format!("root hash   {}", proven.root_hash))?;
    print_cosigned(&proven.cosigned, out)?;
    out.object(&proven.entry)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::{
        cli::testing::{Capture, signer},
        domain::{LedgerOpened, Millis},
        ledger::{FORMAT_VERSION, LEVEL, Tip},
        tlog::{
            checkpoint::{Checkpoint, SignedCheckpoint},
            key::{Algorithm, SignerKey},
            merkle::node_hash,
        },
    };

    fn key() -> SignerKey {
        signer("ledger.example", Algorithm::Note, 1)
    }

    fn entry() -> Vec<u8> {
        let opened = LedgerOpened {
            ledger_id: [7; 16],
            origin: "ledger.example".to_owned(),
            format_version: FORMAT_VERSION,
            created_at: Millis(5_000),
            feature_level: LEVEL,
        };
        Tip::open(5, opened.message()).unwrap().1
    }

    /// A proof of an entry at a place in a tree of two.
    fn proof(entry: &[u8], index: u64) -> TlogProof {
        let (leaf, sibling) = (leaf_hash(entry), leaf_hash(b"other"));
        let (left, right) = if index == 0 { (leaf, sibling) } else { (sibling, leaf) };
        let root = node_hash(&left, &right);
        let checkpoint = Checkpoint {
            origin: "ledger.example".to_owned(),
            size: 2,
            root,
            extensions: String::new(),
        };
        let mut checkpoint = SignedCheckpoint::sign(checkpoint, &key()).unwrap();
        checkpoint.note.sign(&signer("w.example", Algorithm::Cosignature, 2), 1_700_000_000);
        TlogProof { extra: Some(entry.to_vec()), index, path: vec![sibling], checkpoint }
    }

    fn trust_args() -> TrustArgs {
        TrustArgs { key: vec![key().verifier().to_string()], ..TrustArgs::default() }
    }

    fn verified(
        proof: &TlogProof,
        trust: TrustArgs,
        json: bool,
    ) -> (Result<Exit, CliError>, String) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        write!(file, "{proof}").unwrap();
        let args = VerifyProofArgs { proof: file.path().to_owned(), entry: None, trust };
        let (mut context, capture) = Capture::context(json);
        let exit = run(&args, &mut context);
        (exit, capture.text(context))
    }

    #[test]
    fn a_good_proof_tells_what_it_proves() {
        let witness = signer("w.example", Algorithm::Cosignature, 2).verifier().to_string();
        let trust = TrustArgs { witness: vec![witness], ..trust_args() };
        let (exit, text) = verified(&proof(&entry(), 0), trust.clone(), false);
        assert_eq!(exit.unwrap(), Exit::Success);
        assert!(text.starts_with("proven\nindex       0\ntree size   2\n"), "{text}");
        assert!(text.contains("cosigned    by w.example at 2023-11-14T22:13:20.000Z\n"), "{text}");
        let (_, text) = verified(&proof(&entry(), 0), trust, true);
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&json["proven"], &json["entry"]["index"]), (&true.into(), &"0".into()));
    }

    #[test]
    fn what_is_not_proven_is_exit_code_1() {
        let good = proof(&entry(), 0);
        let other_entry = TlogProof { extra: Some(b"x".to_vec()), ..good.clone() };
        let elsewhere = TlogProof { index: 1, ..good.clone() };
        let not_its_index = proof(&entry(), 1);
        let no_entry = proof(&[255], 0);
        for (nth, proof) in
            [other_entry, elsewhere, not_its_index, no_entry].into_iter().enumerate()
        {
            let (exit, text) = verified(&proof, trust_args(), false);
            assert_eq!((exit.unwrap_err().exit_code(), text.as_str()), (1, ""), "{nth}");
        }
        let other = signer("ledger.example", Algorithm::Note, 9).verifier().to_string();
        let other = TrustArgs { key: vec![other], ..TrustArgs::default() };
        assert_eq!(verified(&good, other, false).0.unwrap_err().exit_code(), 1);
        let witness = signer("v.example", Algorithm::Cosignature, 5).verifier().to_string();
        let unseen = TrustArgs { witness: vec![witness], ..trust_args() };
        assert_eq!(verified(&good, unseen, false).0.unwrap_err().exit_code(), 1);
        let keyless = TrustArgs::default();
        assert_eq!(verified(&good, keyless, false).0.unwrap_err().exit_code(), 2);
        let empty = TlogProof { extra: None, ..good };
        assert_eq!(verified(&empty, trust_args(), false).0.unwrap_err().exit_code(), 2);
    }
}
