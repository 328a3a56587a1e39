//! `history`: everything on record about a data subject, with its evidence.

use clap::Args;

use super::{
    Context, Exit, client,
    error::CliError,
    output::{Table, Tone},
    preferences::contact_texts,
    words::{self, rfc3339_or_empty, scope_text, word},
};
use crate::{
    proto::{
        Action, Actor, Evidence, HistoryKind, LinkConfidence, LinkRecord, ListHistoryRequest,
        ListHistoryResponse, Outcome, Reason, UseRecord,
        consent_service_client::ConsentServiceClient,
    },
    setting::Within as _,
};

const AFTER_HELP: &str = "\
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
}

pub(super) async fn run(args: HistoryArgs, context: &mut Context) -> Result<Exit, CliError> {
    let mut client = ConsentServiceClient::new(client::connect(&context.global).await?);
    let request = ListHistoryRequest {
        subject: args.subject,
        start_index: args.from,
        page_size: args.limit.unwrap_or(0),
        at_least_revision: None,
    };
    let mut acts = client.list_history(request).await?.into_inner();
    let mut table =
        Table::new(&["INDEX", "EFFECTIVE", "ACTOR", "ACTION", "SCOPE", "OUTCOME", "EVIDENCE"]);
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

fn add_rows(table: &mut Table, act: &ListHistoryResponse) {
    let index = format!("#{}", act.index);
    let effective_at = rfc3339_or_empty(act.effective_at.as_ref());
    let actor = word::<Actor>(act.actor);
    let evidence = act.evidence.as_ref().map(evidence_text).unwrap_or_default();
    if act.changes.is_empty() {
        let (scope, outcome) = scope_and_outcome(act);
        let context = act.r#use.as_ref().map_or(evidence, segment_and_campaign);
        let kind = word::<HistoryKind>(act.kind);
        table.row(Tone::Plain, [index, effective_at, actor, kind, scope, outcome, context]);
        return;
    }
    for (position, change) in act.changes.iter().enumerate() {
        // Columns of the whole act are filled in its first row only.
        let once = |text: &str| if position == 0 { text.to_owned() } else { String::new() };
        let cause = change.cause_index.map(|index| format!(" #{index}")).unwrap_or_default();
        table.row(
            Tone::Plain,
            [
                once(&index),
                once(&effective_at),
                once(&actor),
                word::<Action>(change.action),
                scope_text(change.scope.as_ref()),
                format!("{}{cause}", word::<Outcome>(change.outcome)),
                once(&evidence),
            ],
        );
    }
}

/// Scope and outcome of an entry without changes.
fn scope_and_outcome(act: &ListHistoryResponse) -> (String, String) {
    if let Some(link) = &act.link {
        let confidence = confidence_text(link);
        return (link.other_subject.clone(), format!("{confidence} by {}", link.asserted_by));
    }
    if let Some(used) = &act.r#use {
        let scope = format!("{}:{}", used.purpose, used.channel);
        let verdict = if used.deviation { "deviation" } else { "allowed" };
        return (scope, format!("{verdict}: {}", word::<Reason>(used.reason)));
    }
    let preferences = act.preferences.as_ref().map(contact_texts).unwrap_or_default();
    (preferences.join(", "), String::new())
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

fn evidence_text(evidence: &Evidence) -> String {
    [&evidence.touchpoint, &evidence.method, &words::notice(evidence), &evidence.language]
        .into_iter()
        .filter(|text| !text.is_empty())
        .cloned()
        .collect::<Vec<_>>()
        .join(", ")
}
