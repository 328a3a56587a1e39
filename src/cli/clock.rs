//! `clock`: corrects the times that a clock which was ahead gave to entries.

use clap::{Args, Subcommand};

use super::{Context, Exit, client, error::CliError, output::Output, stream::or_dash};
use crate::proto::{
    CorrectClockRequest, CorrectClockResponse, catalog_service_client::CatalogServiceClient,
};

const CORRECT_HELP: &str = "\
Use it after the ledger trusted a clock that was ahead, and once the clock is right again. Find
the first entry with a wrong time with `consent-ledger export`. The entries stay as they are. From
then on a stop among them counts as made when the clock was right again, and a grant lifts only
stops from before the clock was wrong. If the ledger is ahead, its time goes back to the clock. It
can not be taken back.

Examples:
  consent-ledger clock correct --from 4711 --reason 'NTP was a year ahead' --dry-run
  consent-ledger clock correct --from 4711 --reason 'NTP was a year ahead'
  consent-ledger clock correct --from 4711 --to 5042 --reason 'clock of the new host'";

/// The subcommands of `clock`.
#[derive(Debug, Subcommand)]
pub enum ClockCommand {
    /// Say which entries got their times from a clock that was ahead
    Correct(CorrectArgs),
}

/// Options of `clock correct`.
#[derive(Debug, Args)]
#[command(after_help = CORRECT_HELP)]
pub struct CorrectArgs {
    /// First entry with a wrong time
    #[arg(long, value_name = "INDEX")]
    from: u64,
    /// First entry with a right time again; without it, all entries from the first on have a wrong time
    #[arg(long, value_name = "INDEX")]
    to: Option<u64>,
    /// Why, for those who read the ledger; never personal data
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Write nothing, and print what would be written
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(command: ClockCommand, context: &mut Context) -> Result<Exit, CliError> {
    let ClockCommand::Correct(CorrectArgs { from, to, reason, dry_run }) = command;
    let mut client = CatalogServiceClient::new(client::connect(&context.global).await?);
    let request = CorrectClockRequest { first_index: from, end_index: to, reason, dry_run };
    let answer = client.correct_clock(request).await?.into_inner();
    match context.out.json {
        true => context.out.message(&answer)?,
        false => print(&answer, &mut context.out)?,
    }
    Ok(Exit::Success)
}

fn print(answer: &CorrectClockResponse, out: &mut Output) -> Result<(), CliError> {
    let CorrectClockResponse { index, revision, changed, first_index, end_index, .. } = answer;
    out.line(match index {
        Some(index) if *changed => format!("index {index}  revision {revision}"),
        Some(index) => format!("nothing to write: entry {index} says so already"),
        None => format!("nothing was written  revision {revision}"),
    })?;
    out.line(format!(
        "entries {first_index} to {}, of {} data subjects: between {} and {}",
        end_index.saturating_sub(1),
        answer.subject_count,
        or_dash(answer.right_until.as_ref()),
        or_dash(answer.right_again.as_ref()),
    ))
}
