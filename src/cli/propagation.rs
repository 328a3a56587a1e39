//! `propagation`: who has heard an event, with proof, and who has not.

use clap::Args;

use super::{
    Context, Exit, client,
    error::CliError,
    output::{Table, Tone},
    shapes::{Propagated, Propagation},
    words,
};
use crate::proto::{
    GetPropagationRequest, PropagationState, watch_service_client::WatchServiceClient,
};

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
    let mut client = WatchServiceClient::new(client::connect(&context.global).await?)
        .max_decoding_message_size(client::MESSAGE_BYTES_MAX);
    let request = GetPropagationRequest { index: args.index };
    let answer = client.get_propagation(request).await?.into_inner();
    let propagated = Propagated::new(args.index, &answer);
    print(&propagated, context)?;
    Ok(if propagated.all_acknowledged { Exit::Success } else { Exit::Failed })
}

fn print(propagated: &Propagated, context: &mut Context) -> Result<(), CliError> {
    let out = &mut context.out;
    if out.json {
        return out.object(propagated);
    }
    if propagated.subscriptions.is_empty() {
        return out.line("no subscription should have heard it");
    }
    let mut table = Table::new(&["STATE", "SUBSCRIPTION", "OWNER", "TOOK", "DEADLINE", "RECEIPT"]);
    for own in &propagated.subscriptions {
        table.row(
            tone(own),
            [
                own.state.clone(),
                own.subscription.clone(),
                own.owner.clone(),
                own.elapsed_ms.map(words::span).unwrap_or_default(),
                own.deadline_ms.map(words::span).unwrap_or_default(),
                own.receipt_index.map(|index| index.to_string()).unwrap_or_default(),
            ],
        );
    }
    out.table(&table)
}

fn tone(own: &Propagation) -> Tone {
    match words::parse::<PropagationState>(&own.state) {
        Ok(PropagationState::Acknowledged) => Tone::Good,
        Ok(PropagationState::Pending) => Tone::Careful,
        _ => Tone::Bad,
    }
}
