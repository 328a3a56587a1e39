//! `preferences`: what a data subject agreed to, cell by cell.

use clap::Args;

use super::{
    Context, Exit,
    as_of::AsOfArgs,
    client,
    error::CliError,
    output::{Table, Tone},
    shapes,
};
use crate::proto::{GetPreferencesRequest, consent_service_client::ConsentServiceClient};

const AFTER_HELP: &str = "\
Examples:
  consent-ledger preferences --subject user:42
  consent-ledger preferences --subject user:42 --all-cells --json";

/// Options of `preferences`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct PreferencesArgs {
    /// Data subject
    #[arg(long, value_name = "NAMESPACE:ID")]
    subject: String,
    /// Show every purpose and channel of the catalogue, not only those that the acts name
    #[arg(long)]
    all_cells: bool,
    /// Answer from at least this revision
    #[arg(long, value_name = "REVISION")]
    at_least_revision: Option<u64>,
    /// ISO 3166 region of the data subject, for example DE or US-CA
    #[arg(long, value_name = "REGION", default_value = "", hide_default_value = true)]
    region: String,
    #[command(flatten)]
    as_of: AsOfArgs,
}

pub(super) async fn run(args: PreferencesArgs, context: &mut Context) -> Result<Exit, CliError> {
    let mut client = ConsentServiceClient::new(client::connect(&context.global).await?)
        .max_decoding_message_size(client::MESSAGE_BYTES_MAX);
    let request = GetPreferencesRequest {
        subject: args.subject,
        at_least_revision: args.at_least_revision,
        all_cells: args.all_cells,
        as_of: args.as_of.wire(),
        region: args.region,
    };
    let answer = client.get_preferences(request).await?.into_inner();
    print(&(&answer).into(), context)?;
    Ok(Exit::Success)
}

fn print(preferences: &shapes::Preferences, context: &mut Context) -> Result<(), CliError> {
    let out = &mut context.out;
    if out.json {
        return out.object(preferences);
    }
    out.line(format!("{}  revision {}", preferences.subject, preferences.revision))?;
    if preferences.cells.is_empty() && preferences.stops.is_empty() {
        return out.line("nothing is known of this data subject");
    }
    out.table(&cells(&preferences.cells))?;
    if !preferences.stops.is_empty() {
        out.line("\nStops that stand:")?;
    }
    out.table(&stops(&preferences.stops))?;
    if let Some(contact) = preferences.contact.as_ref().map(shapes::Contact::texts) {
        out.line(format!("\nPrefers {}", contact.join(", ")))?;
    }
    for link in &preferences.links {
        out.line(format!("linked to {} ({})", link.subject, link.confidence))?;
    }
    Ok(())
}

fn cells(cells: &[shapes::Cell]) -> Table {
    let heading = ["EFFECT", "PURPOSE", "CHANNEL", "REASON", "STATUS", "DECIDED BY", "VALID UNTIL"];
    let mut table = Table::new(&heading);
    for cell in cells {
        table.row(
            if cell.effect == "allow" { Tone::Good } else { Tone::Bad },
            [
                cell.effect.clone(),
                cell.purpose.clone(),
                cell.channel.clone(),
                cell.reason.clone(),
                cell.status.clone(),
                cell.decided_by_index.map(|index| format!("#{index}")).unwrap_or_default(),
                cell.valid_until.clone().unwrap_or_default(),
            ],
        );
    }
    table
}

fn stops(stops: &[shapes::Stop]) -> Table {
    let mut table = Table::new(&["ACTION", "SCOPE", "EFFECTIVE", "INDEX"]);
    for stop in stops {
        table.row(
            Tone::Careful,
            [
                stop.action.clone(),
                format!("{}:{}", stop.scope.purpose, stop.scope.channel),
                stop.effective_at.clone().unwrap_or_default(),
                format!("#{}", stop.index),
            ],
        );
    }
    table
}
