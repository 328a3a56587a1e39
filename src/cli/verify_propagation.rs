//! `verify-propagation`: verifies that a subscription acknowledged an event, offline.

use std::path::PathBuf;

use base64::Engine as _;
use clap::Args;
use serde::Serialize;

use super::{
    Context, Exit,
    error::CliError,
    output::{Output, Tone},
    trust::{Cosigned, Trust, TrustArgs, print_cosigned, read_bytes},
    words::{Bytes, rfc3339_ms},
};
use crate::{
    format::{
        canonical,
        propagation::{VerifiedPropagation, verify},
    },
    proto::ledger::Propagation,
    tlog::{BASE64, proof::TlogProof},
};

const AFTER_HELP: &str = "\
Reads a proof that `propagation --proofs` wrote. It opens two items of the ledger, that of the
subscription and that of the acknowledgement, and proves that both are in the ledger: each is
under a checkpoint that the ledger signed and enough of the given witnesses cosigned. It opens
nothing else, and names no data subject.

Exit codes: 0 proven, 1 not, 2 wrong usage.

Examples:
  consent-ledger verify-propagation proofs/46-crm-0.propagation --key @ledger.vkey
  consent-ledger verify-propagation - --key @ledger.vkey --event 46 --json < 46-crm-0.propagation";

/// Options of `verify-propagation`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct VerifyPropagationArgs {
    /// File with the proof; - reads it from standard input
    #[arg(value_name = "FILE")]
    proof: PathBuf,
    /// Index of the event that the proof must be about
    #[arg(long, value_name = "INDEX")]
    event: Option<u64>,
    #[command(flatten)]
    trust: TrustArgs,
}

/// A proof that verified, as JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Proven {
    /// Always true: a proof that does not verify is an error.
    proven: bool,
    /// Name of the ledger.
    ledger: String,
    /// Identity of the ledger, as the proof says. The items open under it alone.
    ledger_id: Bytes,
    /// Index of the event.
    event_index: u64,
    /// The shard that it went to.
    shard: u32,
    /// Name of the subscription.
    subscription: String,
    /// Its owner.
    owner: String,
    /// Index of the entry that created it.
    subscription_index: u64,
    /// Index of the entry that holds the acknowledgement.
    receipt_index: u64,
    /// When the last acknowledgement of the shard in that entry came.
    acknowledged_at: String,
    /// Number of entries under the checkpoint of the acknowledgement.
    tree_size: u64,
    /// Root over them, in base64 as in checkpoints.
    root_hash: String,
    /// The known witnesses that have cosigned that checkpoint.
    cosigned: Vec<Cosigned>,
}

pub(super) fn run(args: &VerifyPropagationArgs, context: &mut Context) -> Result<Exit, CliError> {
    let trust = args.trust.required()?;
    let bytes = read_bytes(&args.proof)?;
    let propagation = canonical::decode::<Propagation>(&bytes)
        .map_err(|_| CliError::failed("the file is no proof of propagation"))?;
    if let Some(event) = args.event.filter(|event| *event != propagation.event_index) {
        let got = propagation.event_index;
        return Err(CliError::failed(format!("the proof is about event {got}, not event {event}")));
    }
    let verified = verify(&propagation, &trust.keys).map_err(|error| {
        let is_by = |key: &_| verify(&propagation, std::slice::from_ref(key)).is_ok();
        let failed = CliError::failed(error);
        match trust.signer_in_past(is_by) {
            Some(past) => failed.with_hint(past.to_string()),
            None => failed,
        }
    })?;
    for TlogProof { checkpoint, .. } in &verified.proofs {
        trust.check(checkpoint).map_err(CliError::failed)?;
    }
    print(&proven(&propagation, &verified, &trust), &mut context.out)?;
    Ok(Exit::Success)
}

fn proven(propagation: &Propagation, verified: &VerifiedPropagation, trust: &Trust) -> Proven {
    let [_, TlogProof { checkpoint, .. }] = &verified.proofs;
    Proven {
        proven: true,
        ledger: checkpoint.checkpoint.origin.clone(),
        ledger_id: Bytes(propagation.ledger_id.clone()),
        event_index: propagation.event_index,
        shard: propagation.shard,
        subscription: verified.subscription.name.clone(),
        owner: verified.subscription.owner.clone(),
        subscription_index: verified.subscription_index,
        receipt_index: verified.delivery_index,
        acknowledged_at: rfc3339_ms(verified.acknowledged_at_ms),
        tree_size: checkpoint.checkpoint.size,
        root_hash: BASE64.encode(checkpoint.checkpoint.root),
        cosigned: trust.cosigned(checkpoint),
    }
}

fn print(proven: &Proven, out: &mut Output) -> Result<(), CliError> {
    if out.json {
        return out.object(proven);
    }
    let word = out.paint(Tone::Good, "proven");
    out.line(word)?;
    let Proven { event_index, shard, subscription, owner, .. } = proven;
    out.line(format!("event         #{event_index}"))?;
    let by = format!("by {subscription} of {owner}, shard {shard}");
    out.line(format!("acknowledged  {by}, at {}", proven.acknowledged_at))?;
    let (created, receipt) = (proven.subscription_index, proven.receipt_index);
    out.line(format!(
        "entries       #{created} created the subscription, #{receipt} acknowledges"
    ))?;
    out.line(format!("ledger        {}", proven.ledger))?;
    out.line(format!("checkpoint    {} entries, root {}", proven.tree_size, proven.root_hash))?;
    print_cosigned(&proven.cosigned, out)
}
