//! `link` and `unlink`: says that two data subjects are one person, or no longer so.

use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};

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
From then on, decisions for either resolve over both: with `verified`, as if all acts were one
person's; with `asserted`, each side's stops count for the other, and no grant does. Nothing that
was recorded is changed, and `unlink` brings back what was. What is printed are the cells whose
answer changed.

Examples:
  consent-ledger link user:42 email:jo@example.org --confidence verified --asserted-by login-service
  consent-ledger link user:42 device:ab12 --confidence asserted --asserted-by web --dry-run";

/// Options of `link`.
#[derive(Debug, Args)]
#[command(after_help = LINK_HELP)]
pub struct LinkArgs {
    /// How certain the link is
    #[arg(long, value_name = "WORD", value_parser = confidence())]
    confidence: LinkConfidence,
    #[command(flatten)]
    sides: Sides,
}

const UNLINK_HELP: &str = "\
Each of the two has their own acts again, and those of whoever else is linked to them.

Examples:
  consent-ledger unlink user:42 device:ab12 --asserted-by support
  consent-ledger unlink user:42 device:ab12 --asserted-by support --dry-run --json";

/// Options of `unlink`.
#[derive(Debug, Args)]
#[command(after_help = UNLINK_HELP)]
pub struct UnlinkArgs {
    #[command(flatten)]
    sides: Sides,
}

/// Who, who says so, and whether it is only a question.
#[derive(Debug, Args)]
struct Sides {
    /// Data subject
    #[arg(value_name = "SUBJECT")]
    subject: String,
    /// The other data subject
    #[arg(value_name = "OTHER")]
    other_subject: String,
    /// Who asserts it, for example login-service
    #[arg(long, value_name = "NAME")]
    asserted_by: String,
    /// Write nothing, and print what would change
    #[arg(long)]
    dry_run: bool,
}

fn confidence() -> impl TypedValueParser<Value = LinkConfidence> {
    PossibleValuesParser::new(["verified", "asserted"])
        .try_map(|word| words::parse::<LinkConfidence>(&word))
}

pub(super) async fn run(args: LinkArgs, context: &mut Context) -> Result<Exit, CliError> {
    let Sides { subject, other_subject, asserted_by, dry_run } = args.sides;
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
    let Sides { subject, other_subject, asserted_by, dry_run } = args.sides;
    let mut client = PrivacyServiceClient::new(client::connect(&context.global).await?);
    let request = UnlinkSubjectsRequest { subject, other_subject, asserted_by, dry_run };
    let answer = client.unlink_subjects(request).await?.into_inner();
    let out = &mut context.out;
    match out.json {
        true => out.message(&answer)?,
        // Where there is nothing to take back, the server refuses.
        false => print(answer.index, answer.revision, true, &answer.cells, out)?,
    }
    Ok(Exit::Success)
}

/// What was written, or would be, and which answers it changes.
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
        None => format!("nothing to write: it is so already  revision {revision}"),
    })?;
    if changed && cells.is_empty() {
        return out.line("no cell's answer is another one");
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
