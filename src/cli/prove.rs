//! `prove`: fetches or makes the proof that an entry is in a ledger, or that a ledger only grew.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use tonic::transport::Channel;

use super::{
    Context, Exit, checkpoint, client,
    error::CliError,
    kept::{self, Readers},
    offline, progress,
    trust::{Trust, TrustArgs, read_text},
    verify_proof::proven,
    words::rfc3339_ms,
};
use crate::{
    format::canonical,
    json,
    proto::{
        GetCheckpointRequest, GetConsistencyProofRequest, GetConsistencyProofResponse,
        GetInclusionProofRequest, GetInclusionProofResponse,
        audit_service_client::AuditServiceClient, get_inclusion_proof_request::Entry as Which,
        ledger::Entry,
    },
    tlog::{
        checkpoint::SignedCheckpoint,
        merkle::{Hash, leaf_hash, verify_consistency},
        proof::TlogProof,
    },
};

const AFTER_HELP: &str = "\
Writes a C2SP tlog-proof with the entry's exact bytes. `consent-ledger verify-proof` verifies it
with the ledger's verifier key and no server. With --key the proof is verified before it is
written.

The proof comes from the server, or, with --data-dir, is made from the files of a ledger and a
checkpoint: the one of --checkpoint, or else the latest in the directory.

The ledger keeps idempotency keys under the key of their data subject, so the proof does not show
that an entry belongs to the request with --idempotency-key: only the server says so. Kind and
time of the entry are printed on standard error for comparison.

With --from, the server must prove that its ledger begins with the entries under an old
checkpoint. The new checkpoint is printed, to replace the old one. This needs --key.

Exit codes: 0 proven, 1 not, 2 wrong usage.

Examples:
  consent-ledger prove --index 17 --key @ledger.vkey --output entry.tlog-proof
  consent-ledger prove --idempotency-key signup-42 --subject user:42 --key @ledger.vkey
  consent-ledger prove --index 17 --data-dir ./copy --checkpoint jan.checkpoint --key @ledger.vkey
  consent-ledger prove --from jan.checkpoint --key @ledger.vkey --output feb.checkpoint";

/// Options of `prove`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
#[command(group = clap::ArgGroup::new("goal").required(true))]
pub struct ProveArgs {
    /// Prove the entry at this index
    #[arg(long, value_name = "INDEX", group = "goal")]
    index: Option<u64>,
    /// Prove the entry that the request about --subject with this idempotency key wrote, as the server says
    #[arg(long, value_name = "KEY", group = "goal")]
    idempotency_key: Option<String>,
    /// Data subject of the request with --idempotency-key
    #[arg(long, value_name = "NAMESPACE:ID")]
    subject: Option<String>,
    /// Prove that the ledger extends the checkpoint in this file
    #[arg(long, value_name = "FILE", group = "goal", conflicts_with = "checkpoint")]
    from: Option<PathBuf>,
    /// Read this directory instead of asking a server
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// File with the checkpoint to prove the entry under [default: the latest]
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// Write to this file instead of standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    trust: TrustArgs,
}

/// The proof, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Proved {
    /// Index of the entry; `null` with `--from`.
    index: Option<u64>,
    /// Number of entries under the older checkpoint; `null` without `--from`.
    first_size: Option<u64>,
    /// Number of entries under the checkpoint.
    tree_size: u64,
    /// Whether it was verified, with a key that was given.
    verified: bool,
    /// The proof, or, with `--from`, the new checkpoint.
    text: String,
    /// The file that it was written to.
    output: Option<String>,
    /// Whether it replaced another file.
    replaced: bool,
    /// Kind and time of the entry; `null` with `--from`.
    entry: Option<EntryInfo>,
}

/// Kind and time of an entry, for comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct EntryInfo {
    /// Field of its body in the format, for example `persons`.
    #[serde(skip)]
    field: String,
    /// The same field in JSON.
    kind: String,
    /// When the ledger recorded it, in whole seconds.
    recorded_at: String,
}

impl EntryInfo {
    /// Decodes an entry; none if the bytes are not an entry.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let entry: Entry = canonical::decode(bytes).ok()?;
        let body = json::field_in_oneof(&entry, "body")?;
        let (field, kind) = (body.name().to_owned(), body.json_name().to_owned());
        Some(Self {
            field,
            kind,
            recorded_at: rfc3339_ms(entry.recorded_at_s.saturating_mul(1_000)),
        })
    }
}

pub(super) async fn run(
    args: ProveArgs,
    offline: bool,
    context: &mut Context,
) -> Result<Exit, CliError> {
    let mut proved = match (&args.from, args.data_dir.as_deref().filter(|_| offline)) {
        (Some(from), None) => extension(from, &args, context).await?,
        (Some(_), Some(_)) => {
            return Err(CliError::usage("--from asks a server, --data-dir reads files").with_hint(
                "`consent-ledger verify --checkpoint` compares files with an old checkpoint",
            ));
        }
        (None, Some(dir)) => from_dir(dir, &args)?,
        (None, None) => from_server(&args, context).await?,
    };
    if let Some(path) = &args.output {
        proved.output = Some(path.display().to_string());
        proved.replaced = kept::write(path, &proved.text, Readers::Any)?;
    }
    if args.idempotency_key.is_some()
        && let (Some(index), Some(entry)) = (proved.index, &proved.entry)
    {
        let EntryInfo { field, recorded_at, .. } = entry;
        eprintln!(
            "entry {index}: {field}, recorded at {recorded_at}; only the server says that it has this \
             idempotency key"
        );
    }
    print(&proved, context)?;
    Ok(Exit::Success)
}

async fn from_server(args: &ProveArgs, context: &Context) -> Result<Proved, CliError> {
    let mut trust = args.trust.trust()?;
    let mut client = AuditServiceClient::new(client::connect(&context.global).await?);
    follow(trust.as_mut(), &mut client).await?;
    let held = held(args, trust.as_ref())?;
    let key = args.idempotency_key.clone().map(Which::IdempotencyKey);
    let entry = args.index.map(Which::Index).or(key);
    let tree_size = held.as_ref().map(|held| held.checkpoint.size);
    let subject = args.subject.clone().unwrap_or_default();
    let request = GetInclusionProofRequest { entry, tree_size, subject };
    let answer = client.get_inclusion_proof(request).await?.into_inner();
    let proof = proof_in(answer, held, args.index, trust.as_ref())?;
    Proved::entry(&proof, trust.as_ref())
}

/// Follows the changes of the ledger's key, if keys are given.
async fn follow(
    trust: Option<&mut Trust>,
    client: &mut AuditServiceClient<Channel>,
) -> Result<(), CliError> {
    if trust.is_some() {
        let answer = client.get_checkpoint(GetCheckpointRequest::default()).await?.into_inner();
        checkpoint::follow(trust, &answer);
    }
    Ok(())
}

/// The checkpoint of --checkpoint.
fn held(args: &ProveArgs, trust: Option<&Trust>) -> Result<Option<SignedCheckpoint>, CliError> {
    let path = args.checkpoint.as_deref();
    path.map(|path| checkpoint::open(&read_text(path)?, trust)).transpose()
}

/// The proof in a server's answer, for the requested index: the server's is not trusted.
fn proof_in(
    answer: GetInclusionProofResponse,
    held: Option<SignedCheckpoint>,
    requested_index: Option<u64>,
    trust: Option<&Trust>,
) -> Result<TlogProof, CliError> {
    let index = requested_index.unwrap_or(answer.index);
    let checkpoint = match held {
        Some(held) => held,
        None => checkpoint::open(&answer.checkpoint, trust)?,
    };
    Ok(TlogProof { extra: Some(answer.entry), index, path: hashes(answer.hashes)?, checkpoint })
}

fn hashes(hashes: Vec<Vec<u8>>) -> Result<Vec<Hash>, CliError> {
    let hash = |bytes: Vec<u8>| {
        Hash::try_from(bytes)
            .map_err(|_| CliError::failed("the answer has a hash that is not 32 bytes long"))
    };
    hashes.into_iter().map(hash).collect()
}

impl Proved {
    /// Verifies the proof of an entry; without keys, all but the signatures.
    fn entry(proof: &TlogProof, trust: Option<&Trust>) -> Result<Self, CliError> {
        let entry = proof.extra.as_deref().unwrap_or_default();
        let checkpoint = &proof.checkpoint.checkpoint;
        match trust {
            Some(trust) => drop(proven(proof, entry, trust)?),
            None => proof.leads_from(&leaf_hash(entry)).map_err(CliError::failed)?,
        }
        Ok(Self {
            index: Some(proof.index),
            first_size: None,
            tree_size: checkpoint.size,
            verified: trust.is_some(),
            text: proof.to_string(),
            output: None,
            replaced: false,
            entry: EntryInfo::decode(entry),
        })
    }
}

fn from_dir(dir: &Path, args: &ProveArgs) -> Result<Proved, CliError> {
    let mut trust = args.trust.trust()?;
    if let (Some(trust), Ok(Some(book))) = (&mut trust, offline::book(dir)?) {
        trust.follow(&book.key_changes);
    }
    let Some(index) = args.index else {
        return Err(CliError::usage("--idempotency-key needs a server")
            .with_hint("the ledger holds no key in clear; give --index"));
    };
    let checkpoint = match held(args, trust.as_ref())? {
        Some(held) => held,
        None => offline::latest_checkpoint(dir, trust.as_ref())?,
    };
    let bar = progress::bytes(0, "proving");
    let proof = offline::prove_in_dir(dir, index, checkpoint, &mut |step| {
        bar.set_length(step.bytes_total);
        bar.set_position(step.bytes);
    });
    bar.finish_and_clear();
    Proved::entry(&proof?, trust.as_ref())
}

/// Fetches the proof that the ledger extends an old checkpoint.
async fn extension(from: &Path, args: &ProveArgs, context: &Context) -> Result<Proved, CliError> {
    let mut trust = args.trust.required()?;
    let mut client = AuditServiceClient::new(client::connect(&context.global).await?);
    follow(Some(&mut trust), &mut client).await?;
    let old = checkpoint::open(&read_text(from)?, Some(&trust))?;
    let request = GetConsistencyProofRequest { first_size: old.checkpoint.size, second_size: None };
    let answer = client.get_consistency_proof(request).await?.into_inner();
    let new = extended(&old, answer, &trust)?;
    Ok(Proved {
        index: None,
        first_size: Some(old.checkpoint.size),
        tree_size: new.checkpoint.size,
        verified: true,
        text: new.to_string(),
        output: None,
        replaced: false,
        entry: None,
    })
}

/// The new checkpoint of an answer, if the answer proves that it extends an old one.
fn extended(
    old: &SignedCheckpoint,
    answer: GetConsistencyProofResponse,
    trust: &Trust,
) -> Result<SignedCheckpoint, CliError> {
    let new = checkpoint::open(&answer.checkpoint, Some(trust))?;
    let (first, second) = (&old.checkpoint, &new.checkpoint);
    verify_consistency(
        (first.size, &first.root),
        (second.size, &second.root),
        &hashes(answer.hashes)?,
    )
    .map_err(|error| {
        let (first, second) = (first.size, second.size);
        CliError::failed(format!(
            "the ledger of {second} entries does not begin with the {first} entries that were signed \
             before: {error}"
        ))
    })?;
    Ok(new)
}

fn print(proved: &Proved, context: &mut Context) -> Result<(), CliError> {
    let out = &mut context.out;
    if out.json {
        return out.object(proved);
    }
    if !proved.verified {
        checkpoint::warn_unverified(proved.output.as_deref(), proved.replaced);
    }
    match (&proved.output, proved.index, proved.first_size) {
        (None, ..) => out.line(proved.text.trim_end_matches('\n')),
        (Some(path), Some(index), _) => {
            out.line(format!("proof of entry {index} among {} written to {path}", proved.tree_size))
        }
        (Some(path), None, first) => out.line(format!(
            "the first {} of {} entries are unchanged; the new checkpoint is in {path}",
            first.unwrap_or_default(),
            proved.tree_size
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli::testing::signer,
        tlog::{
            checkpoint::Checkpoint,
            key::Algorithm,
            merkle::{node_hash, prove_consistency},
        },
    };

    fn signed(size: u64, root: Hash, seed: u8) -> SignedCheckpoint {
        let origin = "ledger.example".to_owned();
        let checkpoint = Checkpoint { origin, size, root, extensions: String::new() };
        let key = signer("ledger.example", Algorithm::Note, seed);
        SignedCheckpoint::sign(checkpoint, &key).unwrap()
    }

    fn trust() -> Trust {
        let key = signer("ledger.example", Algorithm::Note, 1).verifier().to_string();
        TrustArgs { key: vec![key], ..TrustArgs::default() }.required().unwrap()
    }

    fn subtree(height: u32, number: u64) -> Result<Hash, std::convert::Infallible> {
        Ok(match height {
            0 => leaf_hash(&number.to_be_bytes()),
            _ => {
                let Ok(left) = subtree(height - 1, number * 2);
                let Ok(right) = subtree(height - 1, number * 2 + 1);
                node_hash(&left, &right)
            }
        })
    }

    fn root(size: u64) -> Hash {
        let Ok(root) = crate::tlog::merkle::root(size, subtree);
        root
    }

    fn answer(first: u64, second: u64) -> GetConsistencyProofResponse {
        let Ok(proof) = prove_consistency(first, second, subtree);
        GetConsistencyProofResponse {
            hashes: proof.into_iter().map(|hash| hash.to_vec()).collect(),
            checkpoint: signed(second, root(second), 1).to_string(),
            ..Default::default()
        }
    }

    #[test]
    fn a_ledger_that_grew_continues_and_no_other() {
        let old = signed(5, root(5), 1);
        let new = extended(&old, answer(5, 9), &trust()).unwrap();
        assert_eq!(new.checkpoint.size, 9);
        let changed = signed(5, [1; 32], 1);
        assert!(extended(&changed, answer(5, 9), &trust()).is_err());
        assert!(extended(&old, answer(4, 9), &trust()).is_err());
        assert!(extended(&signed(9, root(9), 1), answer(4, 5), &trust()).is_err());
        let mut other_key = answer(5, 9);
        other_key.checkpoint = signed(9, root(9), 2).to_string();
        assert!(extended(&old, other_key, &trust()).is_err());
        let mut short = answer(5, 9);
        short.hashes[0].pop();
        assert!(extended(&old, short, &trust()).is_err());
    }

    #[test]
    fn an_answer_is_not_believed() {
        let answer = |entry: &[u8], checkpoint: String| GetInclusionProofResponse {
            index: 3,
            entry: entry.to_vec(),
            hashes: vec![subtree(0, 0).unwrap().to_vec()],
            checkpoint,
            ..Default::default()
        };
        let note = signed(2, root(2), 1).to_string();
        let entry = 1_u64.to_be_bytes();
        let proof = proof_in(answer(&entry, note.clone()), None, Some(1), Some(&trust())).unwrap();
        assert_eq!(proof.index, 1, "the requested index, not the answered one");
        let proved = Proved::entry(&proof, None).unwrap();
        assert!(!proved.verified);
        assert_eq!(TlogProof::parse(&proved.text).unwrap(), proof);
        let other = proof_in(answer(b"x", note), None, Some(1), Some(&trust())).unwrap();
        assert!(Proved::entry(&other, None).is_err());
        let foreign = signed(2, root(2), 2).to_string();
        assert!(proof_in(answer(&entry, foreign), None, Some(1), Some(&trust())).is_err());
        assert!(proof_in(answer(&entry, String::new()), None, Some(1), None).is_err());
    }
}
