//! `propagation`: which subscriptions have acknowledged an event, with proof.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Args;
use prost::Message as _;
use tonic::Status;

use super::{
    Context, Exit, client,
    error::{CliError, reason},
    kept::{self, Readers},
    output::{Table, Tone},
    words,
};
use crate::proto::{
    GetPropagationRequest, GetPropagationResponse, Propagation, PropagationState, ledger,
};

const AFTER_HELP: &str = "\
Lists every durable subscription that should have received the event, including those deleted
since. RECEIPT is the index of the entry that holds the acknowledgement. The server records an
acknowledgement within its --receipt-interval; until then it is pending.

--proofs writes a proof of each acknowledgement, INDEX-SUBSCRIPTION-SHARD.propagation, and waits
until a checkpoint covers it. `verify-propagation` verifies it with no server. It opens the item
that created the subscription and the item that acknowledges the event, and nothing else.

Exit codes: 0 all have acknowledged, or no subscription should have received it; 1 one has not
(pending, overdue, given up, or deleted before), or the command failed; 2 wrong usage; 5 there is
no event at this index: the entry is none, or the ledger is shorter.

Examples:
  consent-ledger propagation 4711
  consent-ledger propagation 4711 --json
  consent-ledger propagation 4711 --proofs ./proofs";

/// Options of `propagation`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct PropagationArgs {
    /// Ledger index of the event, as `record` and `watch` print it
    #[arg(value_name = "INDEX")]
    index: u64,
    /// Directory to write the proof of each acknowledgement to, for `verify-propagation`; it is made if it
    /// does not exist
    #[arg(long, value_name = "DIR")]
    proofs: Option<PathBuf>,
}

pub(super) async fn run(args: PropagationArgs, context: &mut Context) -> Result<Exit, CliError> {
    let mut client = client::watch_service(&context.global).await?;
    let request = GetPropagationRequest { index: args.index, with_proofs: args.proofs.is_some() };
    let answer = client.get_propagation(request).await.map_err(no_event)?.into_inner();
    if let Some(dir) = &args.proofs {
        write_proofs(dir, args.index, &answer)?;
    }
    print(&answer, context)?;
    let mut states = answer.subscriptions.iter().map(Propagation::state);
    let all_acknowledged = states.all(|state| state == PropagationState::Acknowledged);
    Ok(if all_acknowledged { Exit::Success } else { Exit::Failed })
}

/// Writes one file for each subscription and shard that has acknowledged: `EVENT-SUBSCRIPTION-SHARD`.
fn write_proofs(dir: &Path, event: u64, answer: &GetPropagationResponse) -> Result<(), CliError> {
    fs::create_dir_all(dir).map_err(|error| CliError::file(dir, error).into_usage())?;
    for propagation in &answer.subscriptions {
        for proof in &propagation.proofs {
            let shard = ledger::Propagation::decode(proof.as_slice())
                .map_err(|_| CliError::failed("the server sent a proof that is none"))?
                .shard;
            let name = format!("{event}-{}-{shard}.propagation", propagation.subscription);
            kept::write_bytes(&dir.join(name), proof, Readers::Any)?;
        }
    }
    Ok(())
}

/// The error of an index that has no event: a script must not take it for an event that somebody has
/// not heard.
fn no_event(status: Status) -> CliError {
    match reason(&status).as_deref() {
        Some("NOT_AN_EVENT" | "INDEX_OUT_OF_RANGE") => CliError::NoEvent(Box::new(status)),
        _ => status.into(),
    }
}

fn print(answer: &GetPropagationResponse, context: &mut Context) -> Result<(), CliError> {
    let out = &mut context.out;
    if out.json {
        return out.message(answer);
    }
    if answer.subscriptions.is_empty() {
        return out.line("no subscription should have received it");
    }
    let mut table = Table::new(&["STATE", "SUBSCRIPTION", "OWNER", "TOOK", "DEADLINE", "RECEIPT"]);
    for propagation in &answer.subscriptions {
        table.row(
            tone(propagation.state()),
            [
                words::word::<PropagationState>(propagation.state),
                propagation.subscription.clone(),
                propagation.owner.clone(),
                propagation.elapsed.as_ref().map(words::duration).unwrap_or_default(),
                propagation.deadline.as_ref().map(words::duration).unwrap_or_default(),
                propagation.receipt_index.map(|index| index.to_string()).unwrap_or_default(),
            ],
        );
    }
    out.table(&table)
}

fn tone(state: PropagationState) -> Tone {
    match state {
        PropagationState::Acknowledged => Tone::Good,
        PropagationState::Pending => Tone::Careful,
        _ => Tone::Bad,
    }
}
