//! `subscription`: creates, lists and ends durable subscriptions.

use std::time::Duration;

use clap::{Args, Subcommand};
use tonic::transport::Channel;

use super::{
    Context, Exit, client, consume,
    error::CliError,
    filter::{self, FilterArgs},
    output::{Table, Tone},
    words,
};
use crate::proto::{
    CreateSubscriptionRequest, DeleteSubscriptionRequest, ListSubscriptionsRequest, ShardStatus,
    Snapshot, Subscription, SubscriptionStatus, Webhook, watch_service_client::WatchServiceClient,
};

/// What stands below the help of `subscription`.
pub(super) const AFTER_HELP: &str = "\
A durable subscription is a place in the ledger that the server keeps for a service. What the service
acknowledges is on record: `propagation` says who has heard an event, and who has not.

Examples:
  consent-ledger subscription create crm --owner crm-team --deadline 10m
  consent-ledger subscription list";

/// Subscriptions on one page.
const PAGE_SIZE: i32 = 1_000;

/// The subcommands of `subscription`.
#[derive(Debug, Subcommand)]
pub enum SubscriptionCommand {
    /// Have the server keep a place in the ledger for a service, and what it acknowledges
    Create(CreateArgs),
    /// List subscriptions, and how far each is behind
    List(ListArgs),
    /// Hear a subscription, and acknowledge what was printed
    Consume(Box<consume::ConsumeArgs>),
    /// End a subscription; what it has acknowledged stays on record
    Delete(DeleteArgs),
}

const CREATE_HELP: &str = "\
Asked again for the same, it answers the one that there is. Without --from and --snapshot, it begins
with the first entry after its creation. Without --kind, everything is told but grants, changes of
preferences, and subscriptions that are overdue.

With --webhook, what is printed is the secret that signs the deliveries: keep it from others.

Examples:
  consent-ledger subscription create crm --owner crm-team --purpose marketing.newsletter --deadline 10m
  consent-ledger subscription create mailer --owner mail --channel email --snapshot denied --shards 4
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
    #[arg(long, value_name = "WHICH", value_parser = filter::snapshot())]
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
LAG counts ledger entries from the oldest event that is not acknowledged to the end, and how long ago
that was recorded. Where the server would have to read too much of the ledger, it says too much
rather than too little.

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
Its consumers are told. The name is free again.

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

async fn connect(context: &Context) -> Result<WatchServiceClient<Channel>, CliError> {
    let client = WatchServiceClient::new(client::connect(&context.global).await?);
    Ok(client.max_decoding_message_size(client::MESSAGE_BYTES_MAX))
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
    let answer = connect(context).await?.create_subscription(request).await?.into_inner();
    let out = &mut context.out;
    if out.json {
        out.message(&answer)?;
        return Ok(Exit::Success);
    }
    let subscription = answer.subscription.unwrap_or_default();
    let Subscription { created_index, start_index, .. } = subscription;
    out.line(match answer.created {
        true => format!("index {created_index}  starts at {start_index}"),
        false => format!("it is there already, since index {created_index}"),
    })?;
    if !answer.webhook_secret.is_empty() {
        out.line(format!("secret {}", answer.webhook_secret))?;
    }
    Ok(Exit::Success)
}

async fn list(args: ListArgs, context: &mut Context) -> Result<Exit, CliError> {
    let mut client = connect(context).await?;
    let all = subscriptions(&mut client, &args.owner).await?;
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

async fn subscriptions(
    client: &mut WatchServiceClient<Channel>,
    owner: &str,
) -> Result<Vec<SubscriptionStatus>, CliError> {
    let mut all = Vec::new();
    let mut page_token = String::new();
    loop {
        let request =
            ListSubscriptionsRequest { page_size: PAGE_SIZE, page_token, owner: owner.to_owned() };
        let page = client.list_subscriptions(request).await?.into_inner();
        all.extend(page.subscriptions);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(all);
        }
    }
}

/// A row a shard.
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
    let answer = connect(context).await?.delete_subscription(request).await?.into_inner();
    let out = &mut context.out;
    if out.json {
        out.message(&answer)?;
    } else {
        out.line(format!("index {}  revision {}", answer.index, answer.revision))?;
    }
    Ok(Exit::Success)
}
