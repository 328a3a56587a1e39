//! `checkpoint`: fetches the latest checkpoint of a ledger, to be kept where the ledger's operator
//! can not change it.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use clap::Args;
use serde::Serialize;

use super::{
    Context, Exit, client,
    error::CliError,
    kept::{self, Readers},
    trust::{Cosigned, Trust, TrustArgs},
};
use crate::{
    ledger::key_change::KeyChange,
    proto::{
        GetCheckpointRequest, GetCheckpointResponse, audit_service_client::AuditServiceClient,
    },
    tlog::{BASE64, checkpoint::SignedCheckpoint},
};

const AFTER_HELP: &str = "\
Prints a C2SP checkpoint, a signed note. Keep it: `verify --checkpoint` shows later whether the
ledger still begins with the same entries. With --key the signature is verified, and with --policy
or --witness the cosignatures, before anything is printed.

--output replaces a file atomically, after the checkpoint was verified. Without --key the
checkpoint is not verified and still replaces the file; a warning says so (`replaced` and
`verified` with --json).

--verifier-key prints the key of the server. Compare it once with the key that the operator
published: a server that forges checkpoints can also forge its key.

--key-changes prints the changes of the server's key. Each is signed with the key before, so it
needs no trust in the server: with --key and --key-change, other commands trust the key of today
if they are given an earlier one.

Examples:
  consent-ledger checkpoint --verifier-key > ledger.vkey
  consent-ledger checkpoint --key-changes > ledger.changes
  consent-ledger checkpoint --key @ledger.vkey --output january.checkpoint
  consent-ledger checkpoint --key @ledger.vkey --at-least 1000 --json";

/// Options of `checkpoint`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct CheckpointArgs {
    /// Print the server's verifier key instead
    #[arg(long, conflicts_with_all = ["output", "at_least"])]
    verifier_key: bool,
    /// Print the proofs of the changes of the server's key instead, for --key-change of other commands
    #[arg(long, conflicts_with_all = ["output", "at_least", "verifier_key"])]
    key_changes: bool,
    /// Write to this file instead of standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Wait for a checkpoint of at least this many entries
    #[arg(long, value_name = "ENTRIES")]
    at_least: Option<u64>,
    #[command(flatten)]
    trust: TrustArgs,
}

/// A fetched checkpoint, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Fetched {
    /// Name of the ledger.
    origin: String,
    /// Number of entries under the checkpoint.
    size: u64,
    /// Root over them, in base64 as in the checkpoint.
    root_hash: String,
    /// Whether its signature was verified, with a key that was given.
    verified: bool,
    /// The witnesses whose cosignatures were verified.
    cosigned: Vec<Cosigned>,
    /// The checkpoint.
    checkpoint: String,
    /// The verifier key that the server names.
    verifier_key: String,
    /// The file that holds it.
    output: Option<String>,
    /// Whether it replaced another file.
    replaced: bool,
}

pub(super) async fn run(args: CheckpointArgs, context: &mut Context) -> Result<Exit, CliError> {
    let mut trust = args.trust.trust()?;
    let mut client = AuditServiceClient::new(client::connect(&context.global).await?);
    let request = GetCheckpointRequest { at_least_size: args.at_least };
    let answer = client.get_checkpoint(request).await?.into_inner();
    follow(trust.as_mut(), &answer);
    if args.verifier_key {
        return print_key(&answer, context);
    }
    if args.key_changes {
        return print_key_changes(&answer, context);
    }
    let mut fetched = Fetched::new(&answer, trust.as_ref(), args.output.as_deref())?;
    if let Some(path) = &args.output {
        fetched.replaced = kept::write(path, &fetched.checkpoint, Readers::Any)?;
    }
    print(&fetched, context)?;
    Ok(Exit::Success)
}

/// Parses a checkpoint from a server, and verifies it if there is a key.
///
/// # Errors
/// The text is empty or not a checkpoint, or the checkpoint is not trusted.
pub(super) fn open(note: &str, trust: Option<&Trust>) -> Result<SignedCheckpoint, CliError> {
    if note.is_empty() {
        return Err(CliError::failed("the ledger has no checkpoint yet")
            .with_hint("a server signs the first one soon after its start"));
    }
    match trust {
        Some(trust) => trust.open(note).map_err(CliError::failed),
        None => SignedCheckpoint::parse(note).map_err(CliError::failed),
    }
}

/// Trusts the keys that the server's changes lead to, as far as they lead from a trusted one.
pub(super) fn follow(trust: Option<&mut Trust>, answer: &GetCheckpointResponse) {
    if let Some(trust) = trust {
        let changes = answer.key_changes.iter().map(|text| KeyChange::parse(text));
        // A change that does not hold leads nowhere.
        trust.follow(&changes.filter_map(Result::ok).collect::<Vec<_>>());
    }
}

/// Warns on standard error that no signature was verified, and that a file was replaced.
pub(super) fn warn_unverified(output: Option<&str>, replaced: bool) {
    eprintln!("the signature was not verified: no --key was given");
    if let Some(path) = output.filter(|_| replaced) {
        eprintln!("warning: {path} was replaced by a checkpoint or proof that was not verified");
    }
}

impl Fetched {
    fn new(
        answer: &GetCheckpointResponse,
        trust: Option<&Trust>,
        output: Option<&Path>,
    ) -> Result<Self, CliError> {
        let signed = open(&answer.checkpoint, trust)?;
        Ok(Self {
            origin: signed.checkpoint.origin.clone(),
            size: signed.checkpoint.size,
            root_hash: BASE64.encode(signed.checkpoint.root),
            verified: trust.is_some(),
            cosigned: trust.map_or_else(Vec::new, |trust| trust.cosigned(&signed)),
            checkpoint: answer.checkpoint.clone(),
            verifier_key: answer.verifier_key.clone(),
            output: output.map(|path| path.display().to_string()),
            replaced: false,
        })
    }
}

fn print_key(answer: &GetCheckpointResponse, context: &mut Context) -> Result<Exit, CliError> {
    match context.out.json {
        true => context.out.object(&serde_json::json!({"verifierKey": answer.verifier_key}))?,
        false => context.out.line(&answer.verifier_key)?,
    }
    Ok(Exit::Success)
}

fn print_key_changes(
    answer: &GetCheckpointResponse,
    context: &mut Context,
) -> Result<Exit, CliError> {
    match context.out.json {
        true => context.out.object(&serde_json::json!({"keyChanges": answer.key_changes}))?,
        false => {
            for proof in &answer.key_changes {
                // The line adds the last newline of the note.
                context.out.line(proof.trim_end_matches('\n'))?;
            }
        }
    }
    Ok(Exit::Success)
}

fn print(fetched: &Fetched, context: &mut Context) -> Result<(), CliError> {
    let out = &mut context.out;
    if out.json {
        return out.object(fetched);
    }
    if !fetched.verified {
        warn_unverified(fetched.output.as_deref(), fetched.replaced);
    }
    match &fetched.output {
        Some(path) => out.line(format!("checkpoint of {} entries written to {path}", fetched.size)),
        // The line adds the last newline of the note.
        None => out.line(fetched.checkpoint.trim_end_matches('\n')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli::testing::{Capture, signer},
        tlog::{checkpoint::Checkpoint, key::Algorithm},
    };

    fn answer() -> (GetCheckpointResponse, TrustArgs) {
        let key = signer("ledger.example", Algorithm::Note, 1);
        let checkpoint = Checkpoint {
            origin: "ledger.example".to_owned(),
            size: 3,
            root: [7; 32],
            extensions: String::new(),
        };
        let checkpoint = SignedCheckpoint::sign(checkpoint, &key).unwrap().to_string();
        let verifier_key = key.verifier().to_string();
        let trust = TrustArgs { key: vec![verifier_key.clone()], ..TrustArgs::default() };
        (GetCheckpointResponse { checkpoint, verifier_key, ..Default::default() }, trust)
    }

    #[test]
    fn the_note_is_printed_as_it_was_signed() {
        let (answer, trust) = answer();
        let trust = trust.required().unwrap();
        let fetched = Fetched::new(&answer, Some(&trust), None).unwrap();
        let (mut context, capture) = Capture::context(false);
        print(&fetched, &mut context).unwrap();
        let text = capture.text(context);
        assert_eq!(text, answer.checkpoint);
        assert!(trust.open(&text).is_ok());
    }

    #[test]
    fn what_the_key_did_not_sign_is_not_printed() {
        let (answer, _) = answer();
        let other = signer("ledger.example", Algorithm::Note, 2).verifier().to_string();
        let other = TrustArgs { key: vec![other], ..TrustArgs::default() }.required().unwrap();
        assert_eq!(Fetched::new(&answer, Some(&other), None).unwrap_err().exit_code(), 1);
        let unverified = Fetched::new(&answer, None, None).unwrap();
        assert!(!unverified.verified);
        let none = GetCheckpointResponse::default();
        assert_eq!(Fetched::new(&none, None, None).unwrap_err().exit_code(), 1);
    }
}
