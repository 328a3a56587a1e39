//! `consent-ledger-bench`: measures the service and baselines in one run.
//!
//! Absolute times mean little on a shared machine. So figures have a baseline from the same run: an
//! echo of the same messages for checks, a raw append with `fdatasync` for recorded acts, plain hashing
//! of the same bytes for verification. The servers are separate processes, so that their CPU time can
//! be measured; this process makes the load.

mod acts;
mod echo;
mod fanout;
mod grown;
mod light;
mod load;
mod process;
mod proofs;
mod questions;
mod rest;

use std::{fs, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use consent_ledger::cli::{
    Exit, conclude,
    error::CliError,
    output::{Output, Printing, Table, Tone},
};
use mimalloc::MiMalloc;
use serde::Serialize;

/// The same allocator as in the service, so that it makes no difference between service and echo.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const AFTER_HELP: &str = "\
Examples:
  consent-ledger-bench --only check,record --seconds 10
  consent-ledger-bench --subjects 1000000 --only restart

Use a release build. The data goes to a temporary directory under --dir and is removed at the end.";

/// Measure the consent ledger and baselines on this machine
#[derive(Debug, Parser)]
#[command(
    name = "consent-ledger-bench",
    version,
    after_help = AFTER_HELP,
    max_term_width = 100,
    args_conflicts_with_subcommands = true
)]
struct Cli {
    /// Output options.
    #[command(flatten)]
    printing: Printing,
    /// Options of the measurements.
    #[command(flatten)]
    args: BenchArgs,
    /// A server to run instead.
    #[command(subcommand)]
    command: Option<Command>,
}

/// Servers that the tool starts from its own binary.
#[derive(Debug, Subcommand)]
enum Command {
    /// Run a server that answers every check with the same response
    #[command(hide = true)]
    Echo,
}

/// Options of the measurements.
#[derive(Debug, Args)]
struct BenchArgs {
    /// Parts to measure [default: all but `proofs`, `fanout` and `grown`]
    #[arg(long, value_name = "PART", value_delimiter = ',')]
    only: Vec<Part>,
    /// Duration of each measurement in seconds
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Number of data subjects in the ledger
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1_000..=100_000_000))]
    subjects: u64,
    /// Number of entries in the ledger of `proofs`; a million takes about 250 MB
    #[arg(long, value_name = "N", default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(1_000..=1_000_000_000))]
    proof_entries: u64,
    /// Number of entries in the ledger of `grown`
    #[arg(long, value_name = "N", default_value_t = 2_000_000, value_parser = clap::value_parser!(u64).range(1_000..=1_000_000_000))]
    grown_entries: u64,
    /// Directory for temporary data, on the disk to measure
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Use the ledger of an earlier run with --keep and the same --subjects
    #[arg(long, value_name = "DIR")]
    reuse: Option<PathBuf>,
    /// The server to measure [default: `consent-ledger` beside this binary]
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// Keep the data, and print its directory
    #[arg(long)]
    keep: bool,
    /// Sizes of `fanout`
    #[command(flatten)]
    fanout: fanout::FanoutArgs,
}

/// A part that can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Check, one and many in flight; baseline: an echo server
    Check,
    /// BatchCheck of 1,000
    Batch,
    /// FilterAudience over 1,000,000 data subjects; baseline: BatchCheck
    Audience,
    /// RecordConsent, one and many in flight; baseline: append and fdatasync
    Record,
    /// Verification; baseline: plain hashing
    Verify,
    /// The tree and proofs; baseline: append and fdatasync; only if named
    Proofs,
    /// Watch streams and a burst of withdrawals; baseline: an echo server; only if named
    Fanout,
    /// Restart, and resident memory
    Restart,
    /// RecordConsent on a ledger that has grown, starts, a rebuild; baseline: the fresh ledger; only if named
    Grown,
}

/// One figure.
#[derive(Debug, Serialize)]
struct Figure {
    /// Name of the figure.
    #[serde(rename = "what")]
    name: String,
    /// The value in `unit`.
    value: f64,
    /// Unit of the value and the baseline.
    unit: &'static str,
    /// The baseline.
    #[serde(skip_serializing_if = "Option::is_none")]
    beside: Option<Beside>,
}

/// The baseline of a figure.
#[derive(Debug, Serialize)]
struct Beside {
    /// Name of the baseline.
    #[serde(rename = "what")]
    name: &'static str,
    /// Its value.
    value: f64,
    /// The figure divided by it.
    ratio: f64,
}

impl Figure {
    fn new(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { name: name.into(), value, unit, beside: None }
    }

    fn beside(mut self, name: &'static str, value: f64) -> Self {
        self.beside = Some(Beside { name, value, ratio: self.value / value });
        self
    }
}

/// Shared by the measurements.
struct Bench {
    /// The service's binary.
    binary: PathBuf,
    seconds: Duration,
    subjects: u64,
    data_dir: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut out = Output::stdout(cli.printing);
    let ended = match cli.command {
        None => Box::pin(run(&cli.args, &mut out)).await,
        Some(Command::Echo) => echo::run().await,
    };
    conclude(ended, out, cli.printing)
}

async fn run(args: &BenchArgs, out: &mut Output) -> Result<Exit, CliError> {
    if cfg!(debug_assertions) {
        eprintln!("warning: this is not a release build; its figures mean nothing");
    }
    let wanted = |part| args.only.is_empty() || args.only.contains(&part);
    let binary = process::service_binary(args.binary.as_deref())?;
    let folder = TemporaryFolder::new(args)?;
    let bench = Bench {
        binary,
        seconds: Duration::from_secs(args.seconds),
        subjects: args.subjects,
        data_dir: folder.data_dir.clone(),
    };
    let needs_ledger =
        [Part::Check, Part::Batch, Part::Audience, Part::Verify, Part::Restart].map(wanted);
    if needs_ledger.contains(&true) && args.reuse.is_none() {
        acts::fill(&bench).await?;
    }
    let mut report = Report { out, part: "" };
    if wanted(Part::Check) {
        questions::check(&bench, &mut report).await?;
    }
    if wanted(Part::Batch) {
        questions::batch(&bench, &mut report).await?;
    }
    if wanted(Part::Audience) {
        questions::audience(&bench, &mut report).await?;
    }
    if wanted(Part::Record) {
        acts::record(&bench, &folder.root, &mut report).await?;
    }
    if wanted(Part::Verify) {
        rest::verify(&bench, &mut report)?;
    }
    if args.only.contains(&Part::Proofs) {
        proofs::proofs(args.proof_entries, &folder.root, &mut report)?;
    }
    if args.only.contains(&Part::Fanout) {
        fanout::fanout(&args.fanout, &bench, &folder.root, &mut report).await?;
    }
    if wanted(Part::Restart) {
        rest::restart(&bench, &mut report).await?;
    }
    if args.only.contains(&Part::Grown) {
        grown::grown(&bench, &folder.root, args.grown_entries, &mut report).await?;
    }
    Ok(Exit::Success)
}

/// Prints figures at once, because later measurements may take minutes.
struct Report<'a> {
    out: &'a mut Output,
    part: &'static str,
}

impl Report<'_> {
    fn part(&mut self, name: &'static str) {
        self.part = name;
    }

    fn add(&mut self, figures: &[Figure]) -> Result<(), CliError> {
        let out = &mut *self.out;
        if out.json {
            for figure in figures {
                out.object(&serde_json::json!({ "part": self.part, "figure": figure }))?;
            }
            return out.flush();
        }
        let mut table = Table::new(&["MEASURED", "VALUE", "UNIT", "BESIDE", "VALUE", "RATIO"]);
        for figure in figures {
            let beside = figure.beside.as_ref();
            table.row(
                Tone::Plain,
                [
                    figure.name.clone(),
                    number(figure.value),
                    figure.unit.to_owned(),
                    beside.map_or(String::new(), |beside| beside.name.to_owned()),
                    beside.map_or(String::new(), |beside| number(beside.value)),
                    beside.map_or(String::new(), |beside| format!("{:.2}", beside.ratio)),
                ],
            );
        }
        out.line(format_args!("\n{}", self.part))?;
        out.table(&table)?;
        out.flush()
    }
}

/// Formats a number with about three significant digits.
fn number(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

/// A directory that is removed at the end, unless it is kept.
struct TemporaryFolder {
    root: PathBuf,
    data_dir: PathBuf,
    remove: bool,
}

impl TemporaryFolder {
    fn new(args: &BenchArgs) -> Result<Self, CliError> {
        let root = args.dir.join(format!("consent-ledger-bench-{}", std::process::id()));
        fs::create_dir_all(&root).map_err(|error| CliError::file(&root, error))?;
        let data_dir = args.reuse.clone().unwrap_or_else(|| root.join("data"));
        if args.keep {
            eprintln!("the ledger stays in {}", data_dir.display());
        }
        Ok(Self { data_dir, remove: !args.keep, root })
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        if self.remove {
            let _ = fs::remove_dir_all(&self.root);
        }
    }
}
