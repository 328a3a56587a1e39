//! `propagation`: which subscriptions have acknowledged an event, with proof.

use clap::Args;

use super::{
    Context, Exit, client,
    error::CliError,
    output::{Table, Tone},
    words,
};
use crate::proto::{GetPropagationRequest, GetPropagationResponse, Propagation, PropagationState};

const AFTER_HELP: &str = "\
Lists every durable subscription that should have received the event, including those deleted
since. RECEIPT is the index of the entry that proves the acknowledgement: `prove --index RECEIPT`
shows that it is in the ledger. The server records an acknowledgement within its
--receipt-interval; until then it is pending.

Exit codes: 0 all have acknowledged, or no subscription should have received it; 1 one has not
(pending, overdue, given up, or deleted before), or the command failed; 2 wrong usage.

Examples:
  consent-ledger propagation 4711
  consent-ledger propagation 4711 --json";

/// Options of `propagation`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct PropagationArgs {
    /// Ledger index of the event, as `record` and `watch` print it
    #[arg(value_name = "INDEX")]
    index: u64,
}

pub(super) async fn run(args: PropagationArgs, context: &mut Context) -> Result<Exit, CliError> {
    let mut client = client::watch_service(&context.global).await?;
    let request = GetPropagationRequest { index: args.index };
    let answer = client.get_propagation(request).await?.into_inner();
    print(&answer, context)?;
    let mut states = answer.subscriptions.iter().map(Propagation::state);
    let all_acknowledged = states.all(|state| state == PropagationState::Acknowledged);
    Ok(if all_acknowledged { Exit::Success } else { Exit::Failed })
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
