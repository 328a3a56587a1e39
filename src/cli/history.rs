//! `history`: everything on record about a data subject, with its evidence.

use clap::Args;

use super::{
    Context, Exit, act_text, client,
    error::CliError,
    output::{Table, Tone},
    preferences::{LINKED_PERSON, NamingArgs, contact_texts, name_or},
    words::{self, rfc3339, rfc3339_or_empty, scope_text, word},
};
use crate::{
    proto::{
        Action, HistoryKind, LinkConfidence, LinkRecord, ListHistoryRequest, ListHistoryResponse,
        NameRelation, Reason, UseRecord, consent_service_client::ConsentServiceClient,
    },
    setting::Within as _,
};

const AFTER_HELP: &str = "\
ACTOR names whoever acted for the data subject, if the act says so. DETAILS has the version, the
end and the narrowing of a grant, when the ledger recorded the act if that was later, and what the
entry completes or ends. Somebody who is only said to be the same person is not named.

Examples:
  consent-ledger history --subject user:42
  consent-ledger history --subject user:42 --json | jq .evidence";

/// Options of `history`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct HistoryArgs {
    /// Data subject
    #[arg(long, value_name = "NAMESPACE:ID")]
    subject: String,
    /// First ledger index to show
    #[arg(long, value_name = "INDEX", default_value_t = 0)]
    from: u64,
    /// Maximum number of acts [default: all]
    #[arg(long, value_name = "N", within = 1_u32..)]
    limit: Option<u32>,
    #[command(flatten)]
    naming: NamingArgs,
}

pub(super) async fn run(args: HistoryArgs, context: &mut Context) -> Result<Exit, CliError> {
    let mut client = ConsentServiceClient::new(client::connect(&context.global).await?);
    let request = ListHistoryRequest {
        subject: args.subject,
        start_index: args.from,
        page_size: args.limit.unwrap_or(0),
        at_least_revision: None,
        name_linked_persons: args.naming.name_linked_persons,
    };
    let mut acts = client.list_history(request).await?.into_inner();
    let mut table = Table::new(&[
        "INDEX",
        "EFFECTIVE",
        "ACTOR",
        "ACTION",
        "SCOPE",
        "OUTCOME",
        "EVIDENCE",
        "DETAILS",
    ]);
    while let Some(act) = acts.message().await? {
        if context.out.json {
            context.out.message(&act)?;
        } else {
            add_rows(&mut table, &act);
        }
    }
    if !context.out.json && table.is_empty() {
        context.out.line("no acts are known of this data subject")?;
    }
    context.out.table(&table)?;
    Ok(Exit::Success)
}

/// A row of an entry, without the columns of the entry as a whole.
struct Row {
    action: String,
    scope: String,
    outcome: String,
    details: Vec<String>,
}

fn add_rows(table: &mut Table, act: &ListHistoryResponse) {
    let index = format!("#{}", act.index);
    let effective_at = rfc3339_or_empty(act.effective_at.as_ref());
    let actor = act_text::actor(act.actor, act.evidence.as_ref());
    let evidence = match &act.r#use {
        Some(used) => segment_and_campaign(used),
        None => act.evidence.as_ref().map(act_text::evidence).unwrap_or_default().join(", "),
    };
    for (position, mut row) in rows(act).into_iter().enumerate() {
        // Columns of the whole act are filled in its first row only.
        let once = |text: &str| if position == 0 { text.to_owned() } else { String::new() };
        if position == 0 {
            row.details.extend(details_of_entry(act));
        }
        table.row(
            Tone::Plain,
            [
                once(&index),
                once(&effective_at),
                once(&actor),
                row.action,
                row.scope,
                row.outcome,
                once(&evidence),
                row.details.join(", "),
            ],
        );
    }
}

/// One row for each change, and one for the preferences; otherwise one for the entry.
fn rows(act: &ListHistoryResponse) -> Vec<Row> {
    let changes = act.changes.iter().map(|change| {
        let cause = change.cause_index.map(|index| format!(" #{index}")).unwrap_or_default();
        Row {
            action: word::<Action>(change.action),
            scope: scope_text(change.scope.as_ref()),
            outcome: format!("{}{cause}", act_text::outcome(change)),
            details: act_text::change(change),
        }
    });
    let preferences = act.preferences.as_ref().map(|preferences| Row {
        action: "preferences".to_owned(),
        scope: contact_texts(preferences).join(", "),
        outcome: String::new(),
        details: Vec::new(),
    });
    let mut rows: Vec<Row> = changes.chain(preferences).collect();
    if rows.is_empty() {
        rows.push(row_of_entry(act));
    }
    rows
}

/// The row of an entry without changes and preferences.
fn row_of_entry(act: &ListHistoryResponse) -> Row {
    let action = word::<HistoryKind>(act.kind);
    if let Some(link) = &act.link {
        let confidence = confidence_text(link);
        let by = format!("{confidence} by {}", link.asserted_by);
        return Row { action, scope: other_name(link), outcome: by, details: Vec::new() };
    }
    if let Some(used) = &act.r#use {
        let scope = format!("{}:{}", used.purpose, used.channel);
        let verdict = if used.deviation { "deviation" } else { "allowed" };
        let reason = words::use_reason(used.reason, &used.broken_obligations);
        let outcome = format!("{verdict}: {reason}");
        return Row { action, scope, outcome, details: details_of_use(used) };
    }
    Row { action, scope: String::new(), outcome: String::new(), details: Vec::new() }
}

/// What an entry says as a whole, beside its columns.
fn details_of_entry(act: &ListHistoryResponse) -> Vec<String> {
    let recorded = act.recorded_at.as_ref().filter(|at| Some(*at) != act.effective_at.as_ref());
    let reason = (act.reason() != Reason::Unspecified).then(|| word::<Reason>(act.reason));
    let confirm = act.confirmation_expires_at.as_ref();
    let texts = [
        act.cause_index.map(|index| format!("of #{index}")),
        reason,
        confirm.map(|end| format!("to be confirmed before {}", rfc3339(end))),
        recorded.map(|at| format!("recorded {}", rfc3339(at))),
        act.clock_corrected_by.map(|index| format!("by a wrong clock, see #{index}")),
        act.import.as_ref().map(|origin| format!("row {} of {}", origin.row, origin.source)),
    ];
    texts.into_iter().flatten().collect()
}

fn details_of_use(used: &UseRecord) -> Vec<String> {
    let categories = (!used.data_categories.is_empty())
        .then(|| format!("data {}", used.data_categories.join(" and ")));
    let region = (!used.region.is_empty()).then(|| format!("region {}", used.region));
    [categories, region].into_iter().flatten().collect()
}

/// Name of the other data subject of a link, as far as the answer gives it away.
fn other_name(link: &LinkRecord) -> String {
    match link.other_relation() {
        NameRelation::LinkedPerson => name_or(&link.other_subject, LINKED_PERSON),
        _ => name_or(&link.other_subject, "an erased name"),
    }
}

/// Confidence of a link; empty if the link was removed.
fn confidence_text(link: &LinkRecord) -> String {
    match link.confidence {
        0 => String::new(),
        confidence => word::<LinkConfidence>(confidence),
    }
}

/// Segment and campaign of a use of data.
fn segment_and_campaign(used: &UseRecord) -> String {
    let names = [("segment", &used.segment), ("campaign", &used.campaign)];
    let named = names.into_iter().filter(|(_, name)| !name.is_empty());
    named.map(|(kind, name)| format!("{kind} {name}")).collect::<Vec<_>>().join(", ")
}
