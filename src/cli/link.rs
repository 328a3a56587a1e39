//! `link` and `unlink`: links two data subjects that are one person, or removes the link.

use clap::Args;

use super::{
    Context, Exit, client,
    error::CliError,
    output::{Output, Table, Tone},
    words::{self, word},
};
use crate::proto::{
    CellChange, Effect, LinkConfidence, LinkSubjectsRequest, Reason, UnlinkSubjectsRequest,
    privacy_service_client::PrivacyServiceClient,
};

const LINK_HELP: &str = "\
Decisions for a linked data subject consider the acts of both: with `verified`, all acts count as
those of one person; with `asserted`, the stops of each count for the other, but grants do not. No
recorded act is changed, and `unlink` restores the earlier decisions. The cells whose decision
changes are printed.

Examples:
  consent-ledger link user:42 email:jo@example.org --confidence verified \\
      --asserted-by login-service
  consent-ledger link user:42 device:ab12 --confidence asserted --asserted-by web --dry-run";

/// Options of `link`.
#[derive(Debug, Args)]
#[command(after_help = LINK_HELP)]
pub struct LinkArgs {
    /// How certain the link is
    #[arg(long, value_name = "WORD", value_parser = words::parser::<LinkConfidence>())]
    confidence: LinkConfidence,
    #[command(flatten)]
    link: UnlinkArgs,
}

pub(super) const UNLINK_HELP: &str = "\
Decisions for each of the two no longer consider the acts of the other. Other links stay.

Examples:
  consent-ledger unlink user:42 device:ab12 --asserted-by support
  consent-ledger unlink user:42 device:ab12 --asserted-by support --dry-run --json";

/// Options of `unlink`, and of `link` too.
#[derive(Debug, Args)]
pub struct UnlinkArgs {
    /// Data subject
    #[arg(value_name = "SUBJECT")]
    subject: String,
    /// The other data subject
    #[arg(value_name = "OTHER")]
    other_subject: String,
    /// Who asserts that they are one person, or not, for example login-service
    #[arg(long, value_name = "NAME")]
    asserted_by: String,
    /// Write nothing, and print what would change
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(args: LinkArgs, context: &mut Context) -> Result<Exit, CliError> {
    let UnlinkArgs { subject, other_subject, asserted_by, dry_run } = args.link;
    let mut client = PrivacyServiceClient::new(client::connect(&context.global).await?);
    let confidence = args.confidence.into();
    let request = LinkSubjectsRequest { subject, other_subject, confidence, asserted_by, dry_run };
    let answer = client.link_subjects(request).await?.into_inner();
    let out = &mut context.out;
    match out.json {
        true => out.message(&answer)?,
        false => print(answer.index, answer.revision, answer.changed, &answer.cells, out)?,
    }
    Ok(Exit::Success)
}

pub(super) async fn run_unlink(args: UnlinkArgs, context: &mut Context) -> Result<Exit, CliError> {
    let UnlinkArgs { subject, other_subject, asserted_by, dry_run } = args;
    let mut client = PrivacyServiceClient::new(client::connect(&context.global).await?);
    let request = UnlinkSubjectsRequest { subject, other_subject, asserted_by, dry_run };
    let answer = client.unlink_subjects(request).await?.into_inner();
    let out = &mut context.out;
    match out.json {
        true => out.message(&answer)?,
        // Without a link the server returns an error.
        false => print(answer.index, answer.revision, true, &answer.cells, out)?,
    }
    Ok(Exit::Success)
}

/// Prints what was written, or would be, and the decisions that it changes.
fn print(
    index: Option<u64>,
    revision: u64,
    changed: bool,
    cells: &[CellChange],
    out: &mut Output,
) -> Result<(), CliError> {
    out.line(match index {
        Some(index) => format!("index {index}  revision {revision}"),
        None if changed => format!("nothing was written  revision {revision}"),
        None => format!("nothing to write: the link exists already  revision {revision}"),
    })?;
    if changed && cells.is_empty() {
        return out.line("no decision changes");
    }
    out.table(&table(cells))
}

fn table(cells: &[CellChange]) -> Table {
    let heading = ["EFFECT", "SUBJECT", "PURPOSE", "CHANNEL", "REASON", "BEFORE"];
    let mut table = Table::new(&heading);
    for cell in cells {
        let effect_before = word::<Effect>(cell.effect_before);
        table.row(
            if cell.effect_after() == Effect::Allow { Tone::Good } else { Tone::Bad },
            [
                word::<Effect>(cell.effect_after),
                cell.subject.clone(),
                cell.purpose.clone(),
                cell.channel.clone(),
                word::<Reason>(cell.reason_after),
                format!("{effect_before}, {}", word::<Reason>(cell.reason_before)),
            ],
        );
    }
    table
}
