//! `history`: everything on record about a data subject, with its evidence.

use clap::Args;

use super::{
    Context, Exit, client,
    error::CliError,
    output::{Table, Tone},
    shapes::{Evidence, HistoryAct, UseRecord},
};
use crate::{
    proto::{ListHistoryRequest, consent_service_client::ConsentServiceClient},
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
    /// Leave out acts before this ledger index
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
        let act = HistoryAct::from(&act);
        if context.out.json {
            context.out.object(&act)?;
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

fn add_rows(table: &mut Table, act: &HistoryAct) {
    if act.changes.is_empty() {
        let (scope, outcome) = what_happened(act);
        table.row(
            Tone::Plain,
            [
                format!("#{}", act.index),
                act.effective_at.clone().unwrap_or_default(),
                act.actor.clone(),
                act.kind.clone(),
                scope,
                outcome,
                act.used.as_ref().map_or_else(|| evidence_text(&act.evidence), used_in),
            ],
        );
    }
    for (position, change) in act.changes.iter().enumerate() {
        // What belongs to the act stands on its first line only.
        let once = |text: String| if position == 0 { text } else { String::new() };
        let cause = change.cause_index.map(|index| format!(" #{index}")).unwrap_or_default();
        table.row(
            Tone::Plain,
            [
                once(format!("#{}", act.index)),
                once(act.effective_at.clone().unwrap_or_default()),
                once(act.actor.clone()),
                change.action.clone(),
                format!("{}:{}", change.scope.purpose, change.scope.channel),
                format!("{}{cause}", change.outcome),
                once(evidence_text(&act.evidence)),
            ],
        );
    }
}

/// What an entry without changes says: of whom or what, and how it ended.
fn what_happened(act: &HistoryAct) -> (String, String) {
    if let Some(link) = &act.link {
        let confidence = link.confidence.clone().unwrap_or_default();
        return (link.other_subject.clone(), format!("{confidence} by {}", link.asserted_by));
    }
    if let Some(used) = &act.used {
        let scope = format!("{}:{}", used.scope.purpose, used.scope.channel);
        let kind = if used.deviation { "deviation" } else { "allowed" };
        return (scope, format!("{kind}: {}", used.reason));
    }
    (act.preferences.as_ref().map_or_else(String::new, |own| own.texts().join(", ")), String::new())
}

/// In what data was used.
fn used_in(used: &UseRecord) -> String {
    let names = [("segment", &used.segment), ("campaign", &used.campaign)];
    let named = names.into_iter().filter(|(_, name)| !name.is_empty());
    named.map(|(what, name)| format!("{what} {name}")).collect::<Vec<_>>().join(", ")
}

fn evidence_text(evidence: &Evidence) -> String {
    let notice = match (evidence.notice_id.as_str(), evidence.notice_version.as_str()) {
        (id, "") => id.to_owned(),
        (id, version) => format!("{id}@{version}"),
    };
    [&evidence.touchpoint, &evidence.method, &notice, &evidence.language]
        .into_iter()
        .filter(|text| !text.is_empty())
        .cloned()
        .collect::<Vec<_>>()
        .join(", ")
}
