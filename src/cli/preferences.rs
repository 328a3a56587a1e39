//! `preferences`: the decisions for a data subject by purpose and channel.

use clap::Args;

use super::{
    Context, Exit,
    as_of::AsOfArgs,
    client,
    error::CliError,
    output::{Table, Tone},
    words::{self, rfc3339_or_empty, scope_text, word},
};
use crate::proto::{
    Action, CellPreference, ContactPreferences, Effect, GetPreferencesRequest,
    GetPreferencesResponse, LinkConfidence, Reason, StandingStop, Status,
    consent_service_client::ConsentServiceClient,
};

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
    print(&answer, context)?;
    Ok(Exit::Success)
}

fn print(answer: &GetPreferencesResponse, context: &mut Context) -> Result<(), CliError> {
    let out = &mut context.out;
    if out.json {
        return out.message(answer);
    }
    out.line(format!("{}  revision {}", answer.subject, answer.revision))?;
    if answer.cells.is_empty() && answer.stops.is_empty() {
        return out.line("nothing is known of this data subject");
    }
    out.table(&cells(&answer.cells))?;
    if !answer.stops.is_empty() {
        out.line("\nStops that stand:")?;
    }
    out.table(&stops(&answer.stops))?;
    if let Some(contact) = answer.preferences.as_ref().map(contact_texts) {
        out.line(format!("\nPrefers {}", contact.join(", ")))?;
    }
    for link in &answer.links {
        let confidence = word::<LinkConfidence>(link.confidence);
        out.line(format!("linked to {} ({confidence})", link.subject))?;
    }
    Ok(())
}

fn cells(cells: &[CellPreference]) -> Table {
    let heading = ["EFFECT", "PURPOSE", "CHANNEL", "REASON", "STATUS", "DECIDED BY", "VALID UNTIL"];
    let mut table = Table::new(&heading);
    for cell in cells {
        table.row(
            if cell.effect() == Effect::Allow { Tone::Good } else { Tone::Bad },
            [
                word::<Effect>(cell.effect),
                cell.purpose.clone(),
                cell.channel.clone(),
                word::<Reason>(cell.reason),
                word::<Status>(cell.status),
                cell.decided_by_index.map(|index| format!("#{index}")).unwrap_or_default(),
                rfc3339_or_empty(cell.valid_until.as_ref()),
            ],
        );
    }
    table
}

fn stops(stops: &[StandingStop]) -> Table {
    let mut table = Table::new(&["ACTION", "SCOPE", "EFFECTIVE", "INDEX"]);
    for stop in stops {
        table.row(
            Tone::Careful,
            [
                word::<Action>(stop.action),
                scope_text(stop.scope.as_ref()),
                rfc3339_or_empty(stop.effective_at.as_ref()),
                format!("#{}", stop.index),
            ],
        );
    }
    table
}

/// Contact preferences as text, one for each preference.
pub(super) fn contact_texts(preferences: &ContactPreferences) -> Vec<String> {
    let language = Some(preferences.language.clone()).filter(|language| !language.is_empty());
    let zones = (!preferences.time_zones.is_empty()).then(|| preferences.time_zones.join(" or "));
    let quiet = preferences.quiet_hours.as_ref().map(|hours| {
        let (start, end) = (words::clock(hours.start_minute), words::clock(hours.end_minute));
        format!("quiet from {start} to {end}")
    });
    let limit = preferences.frequency_limit.as_ref().map(words::frequency_limit);
    let clear =
        (!preferences.clear.is_empty()).then(|| format!("no {}", preferences.clear.join(", ")));
    [language, zones, quiet, limit, clear].into_iter().flatten().collect()
}
