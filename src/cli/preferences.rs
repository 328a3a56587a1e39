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
    GetPreferencesResponse, LinkConfidence, NameRelation, Reason, RecordedUnder, StandingStop,
    Status, consent_service_client::ConsentServiceClient,
};

const AFTER_HELP: &str = "\
RECORDED UNDER says whose act decided, or stopped: the acts of linked data subjects count too. It
is the name asked about, another name of the same person, or `a linked person`: somebody who is
only said to be the same person is not named, so that the answer may be handed over.

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
    #[command(flatten)]
    naming: NamingArgs,
}

/// Which linked data subjects an answer names.
#[derive(Debug, Args)]
pub struct NamingArgs {
    /// Also name data subjects that are only said to be the same person. Not for the person's eyes:
    /// it names others
    #[arg(long)]
    pub name_linked_persons: bool,
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
        name_linked_persons: args.naming.name_linked_persons,
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
    let is_unknown = answer.cells.is_empty()
        && answer.stops.is_empty()
        && answer.preferences.is_none()
        && answer.links.is_empty();
    if is_unknown {
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
        let name = name_or(&link.subject, "a person who is not named here");
        out.line(format!("linked to {name} ({confidence})"))?;
    }
    Ok(())
}

fn cells(cells: &[CellPreference]) -> Table {
    let mut table = Table::new(&[
        "EFFECT",
        "PURPOSE",
        "CHANNEL",
        "REASON",
        "STATUS",
        "DECIDED BY",
        "RECORDED UNDER",
        "VALID UNTIL",
        "NARROWED TO",
    ]);
    for cell in cells {
        table.row(
            words::verdict(cell.effect()).0,
            [
                word::<Effect>(cell.effect),
                cell.purpose.clone(),
                cell.channel.clone(),
                word::<Reason>(cell.reason),
                word::<Status>(cell.status),
                cell.decided_by_index.map(|index| format!("#{index}")).unwrap_or_default(),
                recorded_under(cell.recorded_under.as_ref()),
                rfc3339_or_empty(cell.valid_until.as_ref()),
                cell.data_categories.join(", "),
            ],
        );
    }
    table
}

fn stops(stops: &[StandingStop]) -> Table {
    let mut table = Table::new(&["ACTION", "SCOPE", "EFFECTIVE", "INDEX", "RECORDED UNDER"]);
    for stop in stops {
        table.row(
            Tone::Careful,
            [
                word::<Action>(stop.action),
                scope_text(stop.scope.as_ref()),
                rfc3339_or_empty(stop.effective_at.as_ref()),
                format!("#{}", stop.index),
                recorded_under(stop.recorded_under.as_ref()),
            ],
        );
    }
    table
}

/// Text for somebody who may be another person and is not named.
pub(super) const LINKED_PERSON: &str = "a linked person";

/// The name under which an act is on record; empty if no act decided.
fn recorded_under(under: Option<&RecordedUnder>) -> String {
    let Some(under) = under else { return String::new() };
    match under.relation() {
        NameRelation::LinkedPerson => name_or(&under.subject, LINKED_PERSON),
        _ => name_or(&under.subject, "an erased name"),
    }
}

/// A name, or what is said in its place.
pub(super) fn name_or(name: &str, unnamed: &str) -> String {
    if name.is_empty() { unnamed } else { name }.to_owned()
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
