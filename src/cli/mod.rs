//! The command line: one file for each subcommand.
//!
//! Every option can be given by flag, by environment and by file, in this order of precedence (see
//! [`layers`]). Standard output is for results: tables for people, or, with `--json`, JSON for
//! scripts. Everything else goes to standard error.
//!
//! The JSON of a server's response is the whole message as ProtoJSON (see [`crate::json`]). Results
//! that a command computes itself have a structure beside the command, in the same style:
//! lowerCamelCase names, the protocol's enum values, and bytes in base64.
//!
//! The client commands use only the service's protocol. The commands with `--data-dir` read files,
//! through `offline`.

use std::{env, ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use self::{
    error::CliError,
    output::{Output, Printing},
};
use crate::proto;

mod act_text;
mod as_of;
mod audience;
pub mod catalog;
mod cell;
mod check;
mod checkpoint;
mod client;
mod clock;
mod completions;
mod confirm;
mod consume;
mod decisions;
mod disclose;
mod entries;
pub mod error;
mod export;
mod filter;
mod history;
mod import;
mod init;
mod json_lines;
mod kept;
pub mod layers;
mod link;
mod near;
mod offline;
mod opened;
pub mod output;
mod preferences;
pub mod progress;
mod propagation;
mod prove;
mod published;
mod rebuild_view;
mod receipt;
mod record;
mod replay;
mod retry;
pub mod serve;
mod stream;
mod subscribe;
mod token;
pub mod trust;
mod useless;
mod uses;
mod verify;
mod verify_proof;
mod verify_propagation;
mod verify_receipt;
mod watch;
mod webhooks;
mod witness;
pub mod words;

#[cfg(test)]
mod testing;

const AFTER_HELP: &str = "\
Every option can be given as a flag, as CONSENT_LEDGER_<NAME> in the environment, or as a key of a
TOML file (--config, else ./consent-ledger.toml if it exists), in this order of precedence. In the
file, a key at the top applies to every command, and a key in a table such as [serve] to that
command.

Exit codes:
  0  done; for `check` and `token verify`: ALLOW; for `verify`: intact
  1  failed; for `verify`: damage was found; for `verify-decisions`: there are differences; for
     the other `verify-…` commands, `webhooks verify` and `prove`: verification failed; for
     `propagation`: a subscription has not acknowledged
  2  wrong usage
  3  `check` and `token verify`: DENY; `use`: a deviation
  4  `check` and `token verify`: NOT NOW
  5  `propagation`: there is no event at the index

Example:
  consent-ledger init --data-dir ./data
  consent-ledger serve --data-dir ./data
  consent-ledger record --subject user:42 --grant marketing.newsletter:email
  consent-ledger check --subject user:42 --purpose marketing.newsletter --channel email";

/// Help is broken to lines of so many characters.
const HELP_WIDTH: usize = 100;

/// An append-only ledger of consent with a fast answer to "may I?"
#[derive(Debug, Parser)]
#[command(name = "consent-ledger", version, after_help = AFTER_HELP, max_term_width = HELP_WIDTH)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// The subcommand.
    #[command(subcommand)]
    pub command: Command,
    /// Whether `export` or `prove` reads a data directory instead of asking a server.
    #[arg(skip)]
    pub offline: bool,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// TOML file with options [default: ./consent-ledger.toml if it exists]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub config: Option<PathBuf>,
    /// Format of the output.
    #[command(flatten, next_help_heading = "Global options")]
    pub printing: Printing,
    /// Address of the server, as URL or HOST:PORT
    #[arg(
        long,
        global = true,
        value_name = "ADDR",
        default_value = client::ADDR_DEFAULT,
        help_heading = "Global options"
    )]
    pub addr: String,
    /// Maximum time to connect, and maximum time until an answer begins
    #[arg(
        long,
        global = true,
        value_name = "DURATION",
        default_value = "10s",
        value_parser = humantime::parse_duration,
        help_heading = "Global options"
    )]
    pub timeout: std::time::Duration,
    /// PEM file with the certificate authority to trust for an https:// address
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub tls_ca: Option<PathBuf>,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a new ledger, in an empty directory
    Init(Box<init::InitArgs>),
    /// Run the server
    Serve(Box<serve::ServeArgs>),
    /// Record an act of consent: grants, refusals, withdrawals, objections
    Record(Box<record::RecordArgs>),
    /// Complete a double opt-in
    Confirm(confirm::ConfirmArgs),
    /// Ask "may I?"; exits with 0 for ALLOW, 3 for DENY and 4 for NOT NOW
    Check(check::CheckArgs),
    /// Filter an audience: reads data subjects, and prints those that are allowed
    Audience(audience::AudienceArgs),
    /// Verify decision tokens offline, or print the key for that
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Record that data was used; exits with 3 for a deviation
    Use(uses::UseArgs),
    /// Print changes as they happen, in ledger order
    Watch(watch::WatchArgs),
    /// Create, list or end durable subscriptions
    #[command(
        subcommand,
        visible_alias = "subscribe",
        after_help = subscribe::AFTER_HELP
    )]
    Subscription(subscribe::SubscriptionCommand),
    /// Show which subscriptions have acknowledged an event, with proof; exits with 1 if one has not
    Propagation(propagation::PropagationArgs),
    /// List and replay dead letters of webhooks, or verify a delivery
    #[command(subcommand, after_help = webhooks::AFTER_HELP)]
    Webhooks(webhooks::WebhooksCommand),
    /// Show all recorded acts of a data subject, with their evidence
    History(history::HistoryArgs),
    /// Show the decisions for a data subject by purpose and channel
    Preferences(preferences::PreferencesArgs),
    /// Link two data subjects that are one person
    Link(link::LinkArgs),
    /// Remove the link between two data subjects
    #[command(after_help = link::UNLINK_HELP)]
    Unlink(link::UnlinkArgs),
    /// Apply or list the catalogue of purposes, channels, parties and namespaces
    #[command(subcommand)]
    Catalog(catalog::CatalogCommand),
    /// Correct the times that a clock which was ahead gave to entries
    #[command(subcommand)]
    Clock(clock::ClockCommand),
    /// Verify a ledger on disk, with no server and no keys
    Verify(Box<verify::VerifyArgs>),
    /// Recompute decisions from the ledger, and compare them with the server's answers
    VerifyDecisions(decisions::DecisionsArgs),
    /// Open records for an auditor without keys
    #[command(subcommand)]
    Audit(Box<disclose::AuditCommand>),
    /// Verify that an entry is in a ledger, with no server and no files of the ledger
    VerifyProof(Box<verify_proof::VerifyProofArgs>),
    /// Verify a decision token, with no server; the same as `token verify`
    VerifyToken(token::VerifyArgs),
    /// Prove that an entry is in the ledger, or that the ledger extends an old checkpoint
    Prove(Box<prove::ProveArgs>),
    /// Fetch the latest signed checkpoint, to be kept elsewhere
    Checkpoint(Box<checkpoint::CheckpointArgs>),
    /// Export entries as NDJSON, decoded
    Export(export::ExportArgs),
    /// Get the receipt of an act, signed and with its proof
    Receipt(receipt::ReceiptArgs),
    /// Verify a receipt, with no server
    VerifyReceipt(Box<verify_receipt::VerifyReceiptArgs>),
    /// Verify that a subscription acknowledged an event, with no server
    VerifyPropagation(Box<verify_propagation::VerifyPropagationArgs>),
    /// Delete the view on disk and build it again from the ledger
    RebuildView(rebuild_view::RebuildViewArgs),
    /// Run a witness, which cosigns the checkpoints of other ledgers if they extend earlier ones
    Witness(Box<witness::WitnessArgs>),
    /// Record acts from NDJSON
    Replay(replay::ReplayArgs),
    /// Import consents of another system from CSV or NDJSON
    Import(Box<import::ImportArgs>),
    /// Print a completion script for a shell
    Completions(completions::CompletionsArgs),
}

/// Outcome of a command that completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Success,
    /// The command found a fault in the input or in the ledger, and reported it.
    Failed,
    /// `check` answered DENY, or a token says so.
    Denied,
    /// `check` answered NOT_NOW, or a token says so.
    NotNow,
}

impl Exit {
    /// The exit code of an answer. Anything but ALLOW is no permission.
    #[must_use]
    pub fn of(effect: proto::Effect) -> Self {
        match effect {
            proto::Effect::Allow => Self::Success,
            proto::Effect::NotNow => Self::NotNow,
            proto::Effect::Deny | proto::Effect::Unspecified => Self::Denied,
        }
    }

    /// The exit code for scripts.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failed => 1,
            Self::Denied => 3,
            Self::NotNow => 4,
        }
    }
}

/// Environment of a command.
pub struct Context {
    /// Options of every command.
    pub global: Global,
    /// Standard output.
    pub out: Output,
}

/// Runs the binary with the arguments, the environment and the options file of the process.
pub async fn main() -> ExitCode {
    let args: Vec<OsString> = env::args_os().collect();
    let cli = match parse(&args) {
        Ok(cli) => cli,
        Err(error) => return error.report(Printing::guess(&args)),
    };
    let printing = cli.global.printing;
    let mut context = Context { out: Output::stdout(printing), global: cli.global };
    let result = run(cli.command, cli.offline, &mut context).await;
    conclude(result, context.out, printing)
}

/// Flushes standard output, reports the error if there is one, and returns the exit code.
pub fn conclude(result: Result<Exit, CliError>, mut out: Output, printing: Printing) -> ExitCode {
    // A command that failed may have printed partial output.
    let flushed = out.flush();
    match (result, flushed) {
        // A caller that closed standard output still reads the exit code, which must report DENY
        // and damage.
        (Ok(exit), Ok(()) | Err(CliError::StdoutClosed)) => ExitCode::from(exit.code()),
        (Ok(_), Err(error)) | (Err(error), _) => error.report(printing),
    }
}

/// Parses the arguments, with options of environment and file.
fn parse(args: &[OsString]) -> Result<Cli, CliError> {
    let file = layers::OptionsFile::find(args)?;
    parse_with(args, file.as_ref())
}

fn parse_with(args: &[OsString], file: Option<&layers::OptionsFile>) -> Result<Cli, CliError> {
    let matches = layers::layered(Cli::command(), file)?.try_get_matches_from(args)?;
    useless::refuse(&matches)?;
    let mut cli = Cli::from_arg_matches(&matches)?;
    cli.offline = export::is_offline(&matches)?;
    if let (Command::Serve(args), Some((_, matches))) = (&mut cli.command, matches.subcommand()) {
        args.note_sources(matches);
    }
    Ok(cli)
}

async fn run(command: Command, offline: bool, context: &mut Context) -> Result<Exit, CliError> {
    match command {
        Command::Init(args) => Box::pin(init::run(*args, context)).await,
        Command::Serve(args) => Box::pin(serve::run(*args, context)).await.map(|()| Exit::Success),
        Command::Record(args) => Box::pin(record::run(*args, context)).await,
        Command::Confirm(args) => Box::pin(confirm::run(args, context)).await,
        Command::Check(args) => Box::pin(check::run(args, context)).await,
        Command::Audience(args) => Box::pin(audience::run(args, context)).await,
        Command::Token(command) => Box::pin(token::run(command, context)).await,
        Command::Use(args) => Box::pin(uses::run(args, context)).await,
        Command::Watch(args) => Box::pin(watch::run(args, context)).await,
        Command::Subscription(command) => Box::pin(subscribe::run(command, context)).await,
        Command::Propagation(args) => Box::pin(propagation::run(args, context)).await,
        Command::Webhooks(command) => Box::pin(webhooks::run(command, context)).await,
        Command::History(args) => Box::pin(history::run(args, context)).await,
        Command::Preferences(args) => Box::pin(preferences::run(args, context)).await,
        Command::Link(args) => Box::pin(link::run(args, context)).await,
        Command::Unlink(args) => Box::pin(link::run_unlink(args, context)).await,
        Command::Catalog(args) => Box::pin(catalog::run(args, context)).await,
        Command::Clock(command) => Box::pin(clock::run(command, context)).await,
        Command::Verify(args) => Box::pin(verify::run(&args, context)).await,
        Command::VerifyDecisions(args) => Box::pin(decisions::run(args, context)).await,
        Command::VerifyProof(args) => verify_proof::run(&args, context),
        Command::VerifyToken(args) => token::verify(&args, context),
        Command::Prove(args) => Box::pin(prove::run(*args, offline, context)).await,
        Command::Checkpoint(args) => Box::pin(checkpoint::run(*args, context)).await,
        Command::Export(args) => Box::pin(export::run(args, offline, context)).await,
        Command::Receipt(args) => Box::pin(receipt::run(args, context)).await,
        Command::VerifyReceipt(args) => verify_receipt::run(&args, context),
        Command::VerifyPropagation(args) => verify_propagation::run(&args, context),
        Command::Audit(command) => Box::pin(disclose::run(*command, context)).await,
        Command::RebuildView(args) => rebuild_view::run(&args, context),
        Command::Witness(args) => Box::pin(witness::run(*args, context)).await,
        Command::Replay(args) => Box::pin(replay::run(args, context)).await,
        Command::Import(args) => Box::pin(import::run(*args, context)).await,
        Command::Completions(args) => completions::run(&args, context),
    }
}

#[cfg(test)]
mod tests;
