//! `import`: brings in consents from another system, from CSV or NDJSON.
//!
//! Rows go to the server in streams, one after the other, so that rows of one data subject keep
//! their order. After each answer the progress is kept beside the file; an import that stopped goes
//! on there. Rows that are sent twice are recorded once: that is the server's promise, and what
//! makes it safe to stop at any moment.

use std::{
    fs,
    path::{Path, PathBuf},
    pin::pin,
    time::Instant,
};

use clap::{Args, ValueEnum, builder::NonEmptyStringValueParser};
use indicatif::{ProgressBar, ProgressDrawTarget};
use prost::Message as _;
use serde::Serialize;
use tokio::signal::ctrl_c;
use tonic::transport::Channel;

use self::{
    csv::{CsvRows, Records},
    input::{Input, Place, Rows},
    mapping::Mapping,
    ndjson::Lines,
    rejects::Rejects,
    resume::{Counts, Identity, Keep, State, with_suffix},
    send::Sender,
};
use super::{
    Context, Exit, client,
    error::CliError,
    output::{Table, Tone},
    progress,
    words::{self, word},
};
use crate::{
    json,
    proto::{
        GetCheckpointRequest, ImportReject, ImportRow, ImportStart, Outcome, OutcomeCount,
        audit_service_client::AuditServiceClient,
    },
};

mod csv;
mod input;
mod mapping;
mod ndjson;
mod rejects;
mod resume;
mod send;
mod times;

/// Rows of a stream, at most.
const STREAM_ROWS_MAX: usize = 10_000;
/// Bytes of a stream, about: it is kept in memory until it is answered.
const STREAM_BYTES_MAX: usize = 16 * 1024 * 1024;

const AFTER_HELP: &str = "\
A CSV file needs a mapping that says what its columns mean; examples/import-mapping.toml shows every
field of one. A line of NDJSON is an ImportRow in ProtoJSON, without `line`: `actor` may be left out (then
import), and `rowKey` is the row's own key in its source. An act as in `replay` is a row, too: without a
`rowKey`, its `idempotencyKey` serves.

A blank field changes nothing. A row that is wrong is rejected and leaves the others alone. A row
that says what is known already is not recorded again, nor is one that was imported before: it is
safe to import a file as often as you like.

Progress is kept in FILE.import-state.json until the file is done. After a stop, the same command
goes on from there.

Exit codes: 0 if every row is on record, 1 if any was rejected or the import stopped, 2 for wrong
usage.

Examples:
  consent-ledger import examples/import.csv --source crm-2026 \\
      --mapping examples/import-mapping.toml --dry-run
  consent-ledger import acts.ndjson --source legacy --rejects wrong.ndjson";

/// Options of `import`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct ImportArgs {
    /// File of rows; `-` for standard input, which can not go on after a stop
    file: PathBuf,
    /// Where the rows come from, for example crm-2026; a row is imported once for a source
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    source: String,
    /// Form of the rows: csv or ndjson [default: by the name of the file]
    #[arg(long, value_name = "FORMAT", hide_possible_values = true)]
    format: Option<Format>,
    /// TOML file that says what the columns of a CSV file mean
    #[arg(long, value_name = "FILE")]
    mapping: Option<PathBuf>,
    /// Record nothing, and print the result that each row would have
    #[arg(long)]
    dry_run: bool,
    /// File for rejected rows, as NDJSON; written if there are any [default: FILE.rejects.ndjson]
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
    /// Start from the first row although an earlier import of the file stopped in the middle
    #[arg(long)]
    restart: bool,
    /// Maximum number of retries of a stream
    #[arg(long, value_name = "N", default_value_t = 10)]
    retries: u32,
}

/// Form of the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Comma-separated values
    Csv,
    /// One JSON object a line
    Ndjson,
}

impl ImportArgs {
    fn format(&self) -> Result<Format, CliError> {
        let extension = self.file.extension().map(|it| it.to_string_lossy().to_ascii_lowercase());
        let by_name = match extension.as_deref() {
            Some("csv" | "tsv") => Some(Format::Csv),
            Some("ndjson" | "jsonl") => Some(Format::Ndjson),
            _ => None,
        };
        self.format.or(by_name).ok_or_else(|| {
            let file = self.file.display();
            CliError::usage(format!("`{file}` does not say whether it is CSV or NDJSON"))
                .with_hint("give --format csv or --format ndjson")
        })
    }

    /// The mapping, which goes with CSV and with nothing else.
    fn read_mapping(&self) -> Result<Option<Mapping>, CliError> {
        match (self.format()?, &self.mapping) {
            (Format::Csv, Some(path)) => Mapping::read(path).map(Some),
            (Format::Ndjson, None) => Ok(None),
            (Format::Csv, None) => Err(CliError::usage("a CSV file needs a --mapping")
                .with_hint("examples/import-mapping.toml shows one")),
            (Format::Ndjson, Some(_)) => Err(CliError::usage("--mapping is for CSV")),
        }
    }

    fn rejects_path(&self) -> Result<PathBuf, CliError> {
        let default = || match input::is_stdin(&self.file) {
            true => PathBuf::from("stdin.rejects.ndjson"),
            false => with_suffix(&self.file, ".rejects.ndjson"),
        };
        let path = self.rejects.clone().unwrap_or_else(default);
        let is_read = |other: &Path| {
            path == other
                || fs::canonicalize(&path)
                    .is_ok_and(|path| Some(path) == fs::canonicalize(other).ok())
        };
        if is_read(&self.file) || self.mapping.as_deref().is_some_and(is_read) {
            return Err(CliError::usage("--rejects names a file that is read"));
        }
        std::path::absolute(&path).map_err(|error| CliError::file(&path, error))
    }
}

/// An import's file on disk, and what is kept of an earlier run.
struct Resume {
    keep: Keep,
    identity: Identity,
    /// Identity of the ledger, in hex, once it is known.
    ledger: String,
    state: Option<State>,
}

impl Resume {
    /// None for what can not be gone on with: streams, and dry runs.
    fn find(args: &ImportArgs, mapping: &str, rejects: &Path) -> Result<Option<Self>, CliError> {
        if input::is_stdin(&args.file) {
            return Ok(None);
        }
        let metadata = fs::metadata(&args.file).map_err(|it| CliError::file(&args.file, it))?;
        let keep = Keep::beside(&args.file);
        if args.dry_run {
            return keep_rejects(&keep, rejects).map(|()| None);
        }
        if !metadata.is_file() {
            return Ok(None);
        }
        let identity = Identity::of(&args.file, &args.source, mapping)?;
        let state = match args.restart {
            true => None,
            false => keep.read_own(&identity, rejects)?,
        };
        Ok(Some(Self { keep, identity, ledger: String::new(), state }))
    }
}

impl Resume {
    /// Takes note of the ledger that the rows go to. It must be the one that has those before.
    async fn meet(&mut self, channel: Channel) -> Result<(), CliError> {
        let ask = GetCheckpointRequest::default();
        let ledger = AuditServiceClient::new(channel).get_checkpoint(ask).await?.into_inner();
        self.ledger = words::hex(&ledger.ledger_id);
        self.state.as_ref().map_or(Ok(()), |state| state.check_ledger(&ledger))
    }
}

/// A dry run leaves alone what an import that stopped will go on with.
fn keep_rejects(keep: &Keep, rejects: &Path) -> Result<(), CliError> {
    match keep.read()? {
        Some(state) if state.rejects == rejects => {
            let message = format!("an import that stopped needs {}", rejects.display());
            Err(CliError::failed(message)
                .with_hint("finish it first, or give this one --rejects of its own"))
        }
        _ => Ok(()),
    }
}

/// What became of all rows.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Imported {
    /// Whether nothing was recorded, and the rest says what would have been.
    dry_run: bool,
    /// Rows of the file, with those before a stop.
    rows: u64,
    /// Rows that were recorded.
    recorded: u64,
    /// Rows that say what is known already, or nothing.
    unchanged: u64,
    /// Rows that an earlier import of the same source, or a try that broke, recorded.
    replayed: u64,
    /// Rows that were rejected.
    rejected: u64,
    /// Changes of the rows that were recorded, by outcome.
    #[serde(serialize_with = "json::serialize_list")]
    outcomes: Vec<OutcomeCount>,
    /// File of the rejected rows; null if there are none.
    rejects: Option<String>,
    /// Line at which an import that had stopped went on.
    resumed_at_line: Option<u64>,
    /// Seconds that it took, since it went on.
    seconds: f64,
    /// Rows a second, since it went on.
    rows_per_second: f64,
    /// First revision that includes every row.
    revision: u64,
}

pub(super) async fn run(args: ImportArgs, context: &mut Context) -> Result<Exit, CliError> {
    let interrupt = async {
        // Without a handler the signal ends the process by itself.
        if ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    Box::pin(run_until(interrupt, args, context)).await
}

async fn run_until(
    interrupt: impl Future<Output = ()>,
    args: ImportArgs,
    context: &mut Context,
) -> Result<Exit, CliError> {
    // What is wrong with the files is told before a server that is not there.
    let mapping = args.read_mapping()?;
    let rejects = args.rejects_path()?;
    let digest = mapping.as_ref().map(|mapping| mapping.digest.clone()).unwrap_or_default();
    let mut resume = Resume::find(&args, &digest, &rejects)?;
    let state = resume.as_ref().and_then(|resume| resume.state.clone());
    let place = state.as_ref().map_or(Place::START, |state| state.place);
    let rows = rows(&args.file, mapping, place)?;
    let channel = client::connect_for_uploads(&context.global).await?;
    if let Some(resume) = &mut resume {
        resume.meet(channel.clone()).await?;
    }
    let start = ImportStart { source: args.source.clone(), dry_run: args.dry_run };
    if let (true, Some(resume)) = (args.restart, &resume) {
        resume.keep.remove()?;
    }
    let mut import = Import {
        sender: Sender::new(channel, start, args.retries),
        bar: bar(&args.file, context.out.json),
        rejects: Rejects::begin(rejects, state.as_ref().map_or(0, |state| state.rejects_bytes))?,
        resume,
        counts: state.as_ref().map(|state| state.counts.clone()).unwrap_or_default(),
        place,
        started: Instant::now(),
        rows_before: state.as_ref().map_or(0, |state| state.counts.rows),
        json: context.out.json,
    };
    if state.is_some() {
        import.tell("going on from", "resumedAtLine");
    }
    let ended = Box::pin(import.run(Input::read(rows), interrupt)).await;
    import.bar.finish_and_clear();
    import.end(ended)?;
    let imported = import.finish(args.dry_run, state.map(|state| state.place.line));
    print(&imported, context)?;
    Ok(if imported.rejected == 0 { Exit::Success } else { Exit::Failed })
}

/// The rows of a file, or of standard input, from a place on.
fn rows(file: &Path, mapping: Option<Mapping>, place: Place) -> Result<Rows, CliError> {
    let Some(mapping) = mapping else {
        return Ok(Box::new(Lines::new(input::open(file, place)?, place)));
    };
    let delimiter = mapping.delimiter;
    let mut records = Records::new(input::open(file, Place::START)?, delimiter, Place::START);
    let heading = records.next()?.ok_or_else(|| {
        CliError::failed(format!("{}: has no heading: it is empty", file.display()))
    })?;
    let mapping = mapping.bind(&heading)?;
    if place != Place::START {
        records = Records::new(input::open(file, place)?, delimiter, place);
    }
    Ok(Box::new(CsvRows { records, mapping }))
}

fn bar(file: &Path, json: bool) -> ProgressBar {
    let metadata = fs::metadata(file).ok().filter(|it| it.is_file() && !input::is_stdin(file));
    let bar = match metadata {
        Some(metadata) => progress::bytes(metadata.len(), "importing"),
        None => progress::bar(None, "importing, bytes"),
    };
    if json {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    bar
}

/// Rows of one stream, and what was rejected between them.
#[derive(Default)]
struct Chunk {
    rows: Vec<ImportRow>,
    rejects: Vec<ImportReject>,
    bytes: usize,
    end: Option<Place>,
}

impl Chunk {
    async fn read(input: &mut Input) -> Result<Self, CliError> {
        let mut chunk = Self::default();
        while !chunk.is_full() {
            let Some(item) = input.next().await else { break };
            let item = item?;
            chunk.end = Some(item.end);
            match item.row {
                Ok(row) => {
                    chunk.bytes += row.encoded_len();
                    chunk.rows.push(row);
                }
                Err(reject) => chunk.rejects.push(reject),
            }
        }
        Ok(chunk)
    }

    fn is_full(&self) -> bool {
        self.rows.len() + self.rejects.len() >= STREAM_ROWS_MAX || self.bytes >= STREAM_BYTES_MAX
    }
}

/// An import under way.
struct Import {
    sender: Sender,
    bar: ProgressBar,
    rejects: Rejects,
    resume: Option<Resume>,
    counts: Counts,
    /// The rows before it are answered.
    place: Place,
    started: Instant,
    /// Rows that an earlier run brought.
    rows_before: u64,
    json: bool,
}

/// How an import ended that did not fail.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    Done,
    Interrupted,
}

impl Import {
    async fn run(
        &mut self,
        mut input: Input,
        interrupt: impl Future<Output = ()>,
    ) -> Result<Ended, CliError> {
        let mut interrupt = pin!(interrupt);
        loop {
            let chunk = tokio::select! {
                biased;
                () = &mut interrupt => return Ok(Ended::Interrupted),
                chunk = Chunk::read(&mut input) => chunk?,
            };
            let Some(end) = chunk.end else { return Ok(Ended::Done) };
            let (bar, json) = (self.bar.clone(), self.json);
            let mut bringing = pin!(self.bring(chunk, end));
            tokio::select! {
                brought = &mut bringing => { brought?; continue }
                () = &mut interrupt => {}
            }
            if !json {
                bar.suspend(|| eprintln!("stopping after these rows; again to stop at once"));
            }
            tokio::select! {
                brought = bringing => brought?,
                _ = ctrl_c() => {}
            }
            return Ok(Ended::Interrupted);
        }
    }

    async fn bring(&mut self, chunk: Chunk, end: Place) -> Result<(), CliError> {
        let mut rejects = chunk.rejects;
        let mut counts = self.counts.clone();
        counts.reject(rejects.len());
        if !chunk.rows.is_empty() {
            let answer = self.sender.send(chunk.rows).await?;
            counts.add(&answer);
            rejects.extend(answer.rejects);
        }
        rejects.sort_by_key(|reject| reject.line);
        self.rejects.add(&rejects)?;
        (self.counts, self.place) = (counts, end);
        self.keep()?;
        self.bar.set_position(end.offset);
        self.bar.set_message(format!("importing, {:.0} rows/s", self.rows_per_second()));
        Ok(())
    }

    fn keep(&self) -> Result<(), CliError> {
        let Some(resume) = &self.resume else { return Ok(()) };
        resume.keep.write(&State {
            identity: resume.identity.clone(),
            ledger: resume.ledger.clone(),
            place: self.place,
            counts: self.counts.clone(),
            rejects: self.rejects.path().to_owned(),
            rejects_bytes: self.rejects.bytes(),
        })
    }

    /// Takes the state away, or says what it is good for.
    fn end(&self, ended: Result<Ended, CliError>) -> Result<(), CliError> {
        match (ended, &self.resume) {
            (Ok(Ended::Done), Some(resume)) => resume.keep.remove(),
            (Ok(Ended::Done), None) => Ok(()),
            (Ok(Ended::Interrupted), Some(_)) => {
                Err(CliError::failed(format!("stopped before line {}", self.place.line))
                    .with_hint("the same command goes on from there"))
            }
            (Ok(Ended::Interrupted), None) => {
                Err(CliError::failed(format!("stopped before line {}", self.place.line)).with_hint(
                    "the same command begins again; rows on record are not recorded twice",
                ))
            }
            (Err(error), resume) => {
                if resume.is_some() && self.place != Place::START {
                    self.tell("the same command goes on from", "resumeAtLine");
                }
                Err(error)
            }
        }
    }

    /// Tells where it goes on, on standard error.
    fn tell(&self, what: &str, key: &str) {
        let line = self.place.line;
        match self.json {
            true => eprintln!("{}", serde_json::json!({ key: line })),
            false => self.bar.suspend(|| eprintln!("{what} line {line}")),
        }
    }

    fn rows_per_second(&self) -> f64 {
        let rows = self.counts.rows.saturating_sub(self.rows_before);
        // Whole numbers of rows below 2^32 are exact, and no import has more.
        f64::from(u32::try_from(rows).unwrap_or(u32::MAX))
            / self.started.elapsed().as_secs_f64().max(0.000_001)
    }

    fn finish(self, dry_run: bool, resumed_at_line: Option<u64>) -> Imported {
        let rounded = |value: f64| (value * 1_000.0).round() / 1_000.0;
        Imported {
            dry_run,
            rows_per_second: rounded(self.rows_per_second()),
            rows: self.counts.rows,
            recorded: self.counts.recorded,
            unchanged: self.counts.unchanged,
            replayed: self.counts.replayed,
            rejected: self.counts.rejected,
            outcomes: words::outcome_counts(self.counts.outcomes),
            rejects: self.rejects.place().map(|path| path.display().to_string()),
            resumed_at_line,
            seconds: rounded(self.started.elapsed().as_secs_f64()),
            revision: self.counts.revision,
        }
    }
}

fn print(imported: &Imported, context: &mut Context) -> Result<(), CliError> {
    let out = &mut context.out;
    if out.json {
        return out.object(imported);
    }
    if imported.dry_run {
        out.line("a dry run: nothing was recorded")?;
    }
    out.line(format!(
        "{} rows in {:.1} s, {:.0} a second; revision {}",
        imported.rows, imported.seconds, imported.rows_per_second, imported.revision
    ))?;
    let mut table = Table::new(&["RESULT", "ROWS"]);
    for (tone, result, count) in [
        (Tone::Good, "recorded", imported.recorded),
        (Tone::Plain, "unchanged", imported.unchanged),
        (Tone::Plain, "replayed", imported.replayed),
        (
            if imported.rejected > 0 { Tone::Bad } else { Tone::Plain },
            "rejected",
            imported.rejected,
        ),
    ] {
        table.row(tone, [result.to_owned(), count.to_string()]);
    }
    out.table(&table)?;
    let mut table = Table::new(&["OUTCOME", "CHANGES"]);
    for counted in &imported.outcomes {
        let outcome = word::<Outcome>(counted.outcome);
        table.row(Tone::Plain, [outcome, counted.count.to_string()]);
    }
    out.table(&table)?;
    match &imported.rejects {
        Some(path) => out.line(format!("the rejected rows are told in {path}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
