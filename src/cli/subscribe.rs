//! `subscription`: creates, lists and ends durable subscriptions.

use std::time::Duration;

use super::{
    Context, Exit, client, consume,
    error::CliError,
    filter::FilterArgs,
    output::{Table, Tone},
    words,
};
use crate::proto::{
    CreateSubscriptionRequest, DeleteSubscriptionRequest, ListSubscriptionsRequest, ShardStatus,
    Snapshot, Subscription, SubscriptionStatus, Webhook,
};
use clap::{Args, Subcommand};

/// Text below the help of `subscription`.
pub(super) const AFTER_HELP: &str = "\
For a durable subscription the server stores how far a service has read the ledger.
Acknowledgements are recorded: `propagation` shows which subscriptions have acknowledged an event.

Examples:
  consent-ledger subscription create crm --owner crm-team --deadline 10m
  consent-ledger subscription list";

/// The subcommands of `subscription`.
#[derive(Debug, Subcommand)]
pub enum SubscriptionCommand {
    /// Create a durable subscription for a service
    Create(CreateArgs),
    /// List subscriptions, and the lag of each
    List(ListArgs),
    /// Print the events of a subscription, and acknowledge them
    Consume(Box<consume::ConsumeArgs>),
    /// Delete a subscription; its acknowledgements stay on record
    Delete(DeleteArgs),
}

const CREATE_HELP: &str = "\
Creating the same subscription again changes nothing and prints it. Without --from and --snapshot,
the subscription begins with the first entry after its creation. Without --kind, all events are
delivered except grants, preferences and overdue.

With --webhook, the secret that signs the deliveries is printed: keep it secret.

Examples:
  consent-ledger subscription create crm --owner crm-team \\
      --purpose marketing.newsletter --deadline 10m
  consent-ledger subscription create mailer --owner mail --channel email \\
      --snapshot denied --shards 4
  consent-ledger subscription create ads --owner ads --webhook https://ads.example.org/consent";

/// Options of `subscription create`.
#[derive(Debug, Args)]
#[command(after_help = CREATE_HELP)]
pub struct CreateArgs {
    /// Name: dot-separated words
    #[arg(value_name = "NAME")]
    name: String,
    /// Who is responsible for the subscription, for example a team; no personal data
    #[arg(long, value_name = "NAME")]
    owner: String,
    /// Which events
    #[command(flatten)]
    filter: FilterArgs,
    /// Ledger index of the first event to deliver [default: the first after its creation]
    #[arg(long, value_name = "INDEX", conflicts_with = "snapshot")]
    from: Option<u64>,
    /// Deliver a snapshot of the current state first: the cells that are denied, or all cells
    #[arg(long, value_name = "WHICH", value_parser = words::parser::<Snapshot>())]
    snapshot: Option<Snapshot>,
    /// Number of shards, split by data subject; each shard has a consumer of its own
    #[arg(long, value_name = "N", default_value_t = 1)]
    shards: u32,
    /// How long an event may stay unacknowledged before the subscription is overdue
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    deadline: Option<Duration>,
    /// Deliver by HTTP to this https URL
    #[arg(long, value_name = "URL")]
    webhook: Option<String>,
}

const LIST_HELP: &str = "\
LAG counts the ledger entries from the oldest unacknowledged event on; SINCE is the age of that
event. Where the exact values would need too many reads, the server overestimates both.

Examples:
  consent-ledger subscription list
  consent-ledger subscription list --owner crm-team --json";

/// Options of `subscription list`.
#[derive(Debug, Args)]
#[command(after_help = LIST_HELP)]
pub struct ListArgs {
    /// Only subscriptions of this owner
    #[arg(long, value_name = "NAME", default_value = "")]
    owner: String,
}

const DELETE_HELP: &str = "\
Connected consumers are disconnected. The name can be used again.

Example:
  consent-ledger subscription delete crm";

/// Options of `subscription delete`.
#[derive(Debug, Args)]
#[command(after_help = DELETE_HELP)]
pub struct DeleteArgs {
    /// Name
    #[arg(value_name = "NAME")]
    name: String,
}

pub(super) async fn run(
    command: SubscriptionCommand,
    context: &mut Context,
) -> Result<Exit, CliError> {
    match command {
        SubscriptionCommand::Create(args) => create(args, context).await,
        SubscriptionCommand::List(args) => list(args, context).await,
        SubscriptionCommand::Consume(args) => Box::pin(consume::run(*args, context)).await,
        SubscriptionCommand::Delete(args) => delete(args, context).await,
    }
}

async fn create(args: CreateArgs, context: &mut Context) -> Result<Exit, CliError> {
    let deadline = args.deadline.map(words::wire_span).transpose()?;
    let request = CreateSubscriptionRequest {
        start_index: args.from,
        subscription: Some(Subscription {
            name: args.name,
            owner: args.owner,
            filter: Some(args.filter.into()),
            snapshot: args.snapshot.unwrap_or_default().into(),
            shards: args.shards,
            deadline,
            webhook: args.webhook.map(|url| Webhook { url }),
            ..Subscription::default()
        }),
    };
    let answer = client::watch_service(&context.global)
        .await?
        .create_subscription(request)
        .await?
        .into_inner();
    let out = &mut context.out;
    if out.json {
        out.message(&answer)?;
        return Ok(Exit::Success);
    }
    let subscription = answer.subscription.unwrap_or_default();
    let Subscription { created_index, start_index, .. } = subscription;
    out.line(match answer.created {
        true => format!("index {created_index}  starts at {start_index}"),
        false => format!("the subscription exists already, since index {created_index}"),
    })?;
    if !answer.webhook_secret.is_empty() {
        out.line(format!("secret {}", answer.webhook_secret))?;
    }
    Ok(Exit::Success)
}

async fn list(args: ListArgs, context: &mut Context) -> Result<Exit, CliError> {
    let mut client = client::watch_service(&context.global).await?;
    let all = client::all_pages(async |page_token| {
        let owner = args.owner.clone();
        let request = ListSubscriptionsRequest { page_size: client::PAGE_SIZE, page_token, owner };
        let page = client.list_subscriptions(request).await?.into_inner();
        Ok((page.subscriptions, page.next_page_token))
    })
    .await?;
    let out = &mut context.out;
    if out.json {
        for status in &all {
            out.message(status)?;
        }
    } else if all.is_empty() {
        out.line("there are no subscriptions")?;
    } else {
        out.table(&table(&all))?;
    }
    Ok(Exit::Success)
}

/// One row for each shard.
fn table(all: &[SubscriptionStatus]) -> Table {
    let heading = ["NAME", "OWNER", "SHARD", "NEXT", "LAG", "SINCE", "CONSUMER", "NOTES"];
    let mut table = Table::new(&heading);
    for status in all {
        let subscription = status.subscription.clone().unwrap_or_default();
        for (position, shard) in status.shards.iter().enumerate() {
            let tone = match shard {
                ShardStatus { overdue: true, .. } => Tone::Bad,
                ShardStatus { lag_entries: 0, snapshot_pending: false, .. } => Tone::Good,
                _ => Tone::Careful,
            };
            table.row(
                tone,
                [
                    subscription.name.clone(),
                    subscription.owner.clone(),
                    position.to_string(),
                    shard.next_index.to_string(),
                    shard.lag_entries.to_string(),
                    shard.lag.as_ref().map(words::duration).unwrap_or_default(),
                    if shard.connected { shard.consumer.clone() } else { String::new() },
                    notes(status, shard),
                ],
            );
        }
    }
    table
}

fn notes(status: &SubscriptionStatus, shard: &ShardStatus) -> String {
    let mut notes = Vec::new();
    if shard.overdue {
        notes.push("overdue".to_owned());
    }
    if shard.snapshot_pending {
        notes.push("snapshot pending".to_owned());
    }
    match status.dead_letters {
        0 => {}
        1 => notes.push("1 dead letter".to_owned()),
        count => notes.push(format!("{count} dead letters")),
    }
    notes.join(", ")
}

async fn delete(args: DeleteArgs, context: &mut Context) -> Result<Exit, CliError> {
    let request = DeleteSubscriptionRequest { name: args.name };
    let answer = client::watch_service(&context.global)
        .await?
        .delete_subscription(request)
        .await?
        .into_inner();
    let out = &mut context.out;
    if out.json {
        out.message(&answer)?;
    } else {
        out.line(format!("index {}  revision {}", answer.index, answer.revision))?;
    }
    Ok(Exit::Success)
}
