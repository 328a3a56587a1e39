//! `import`: imports consents of another system from CSV or NDJSON.
//!
//! Rows are sent in streams, one after the other, so that rows of one data subject keep their order.
//! After each response the progress is written to a file beside the input; an import that stopped
//! resumes from there. The server records a row once even if it is sent twice, so an import can stop
//! at any moment.

use std::{
    fs,
    path::{Path, PathBuf},
    pin::pin,
    time::Instant,
};

use clap::{Args, ValueEnum, builder::NonEmptyStringValueParser};
use encoding_rs::Encoding;
use indicatif::{ProgressBar, ProgressDrawTarget};
use prost::Message as _;
use serde::Serialize;
use tokio::{signal::ctrl_c, sync::mpsc};
use tonic::transport::Channel;

use self::{
    csv::{CsvRows, Records},
    input::{Compiled, Item, Place, Rows},
    mapping::Mapping,
    ndjson::NdjsonRows,
    rejects::Rejects,
    resume::{Counts, Identity, State, StateFile, with_suffix},
    send::Sender,
};
use super::{
    Context, Exit, client,
    error::CliError,
    output::{Output, Table, Tone},
    progress,
    words::{self, word},
};
use crate::{
    json,
    proto::{
        GetCheckpointRequest, ImportRow, ImportStart, ImportWarning, Outcome, OutcomeCount,
        audit_service_client::AuditServiceClient,
    },
};

mod csv;
mod doubt;
pub(super) mod encoding;
pub(super) mod input;
pub(super) mod lines;
mod mapping;
mod ndjson;
mod rejects;
mod resume;
mod send;
mod times;

/// Maximum number of rows in a stream.
const STREAM_ROWS_MAX: usize = 10_000;
/// Maximum number of warnings that are kept for the output.
const WARNINGS_MAX: usize = 1_000;
/// Maximum number of warnings that are printed for people.
const WARNINGS_PRINTED_MAX: usize = 20;
/// Approximate maximum size of a stream, which is held in memory until the response.
const STREAM_BYTES_MAX: usize = 16 * 1024 * 1024;

const AFTER_HELP: &str = "\
A CSV file needs a mapping from its columns to fields; examples/import-mapping.toml shows every
field of a mapping. A line of NDJSON is an ImportRow in ProtoJSON without `line`. The default of
`actor` is ACTOR_IMPORT. `rowKey` is the key of the row in its source. An act in the format of
`replay` is a row, too; its default `rowKey` is its `idempotencyKey`.

A blank field changes nothing. An invalid row is rejected; the other rows are imported. If only
something beside a stop is wrong, the stop is imported, and the rest is a warning or a rejected
field; the grants of such a row are not imported. In a row, a stop wins over a grant of the same
cell. A row without changes, or one that was imported before, is not recorded again, so a file can
be imported repeatedly.

Progress is kept in FILE.import-state.json until the import is complete. If it stops, run the same
command again to resume.

Exit codes: 0 if every row is on record, 1 if a row, a field or a grant was rejected or the import
stopped, 2 for wrong usage.

Examples:
  consent-ledger import examples/import.csv --source crm-2026 \\
      --mapping examples/import-mapping.toml --dry-run
  consent-ledger import acts.ndjson --source legacy --rejects wrong.ndjson";

/// Options of `import`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct ImportArgs {
    /// File of rows; `-` for standard input, which can not be resumed
    file: PathBuf,
    /// Name of the source, for example crm-2026; each row is imported once per source
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    source: String,
    /// Format of the rows: csv or ndjson [default: by the extension of the file]
    #[arg(long, value_name = "FORMAT", hide_possible_values = true)]
    format: Option<Format>,
    /// Encoding of the file, for example windows-1252 or utf-16le [default: by its byte order mark, or UTF-8]
    #[arg(long, value_name = "NAME", value_parser = encoding::parse)]
    encoding: Option<&'static Encoding>,
    /// TOML file that maps the columns of a CSV file to fields
    #[arg(long, value_name = "FILE")]
    mapping: Option<PathBuf>,
    /// Record nothing, and print the result that each row would have
    #[arg(long)]
    dry_run: bool,
    /// NDJSON file for rejected rows; written if there are any [default: FILE.rejects.ndjson]
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
    /// Start from the first row even if an earlier import of the file can be resumed
    #[arg(long)]
    restart: bool,
    /// Maximum number of retries of a stream
    #[arg(long, value_name = "N", default_value_t = 10)]
    retries: u32,
}

/// Format of the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Comma-separated values
    Csv,
    /// One JSON object a line
    Ndjson,
}

impl ImportArgs {
    fn format(&self) -> Result<Format, CliError> {
        let extension = self.file.extension().unwrap_or_default().to_string_lossy();
        let by_extension = match &*extension.to_ascii_lowercase() {
            "csv" | "tsv" | "tab" => Some(Format::Csv),
            "ndjson" | "jsonl" => Some(Format::Ndjson),
            _ => None,
        };
        self.format.or(by_extension).ok_or_else(|| {
            let file = self.file.display();
            CliError::usage(format!("`{file}` does not say whether it is CSV or NDJSON"))
                .with_hint("give --format csv or --format ndjson")
        })
    }

    /// The mapping, which CSV requires and NDJSON excludes.
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
        let is_same_file = |input: &Path| {
            path == input
                || fs::canonicalize(&path)
                    .is_ok_and(|path| Some(path) == fs::canonicalize(input).ok())
        };
        if is_same_file(&self.file) || self.mapping.as_deref().is_some_and(is_same_file) {
            return Err(CliError::usage("--rejects names a file that is read"));
        }
        std::path::absolute(&path).map_err(|error| CliError::file(&path, error))
    }
}

/// How to resume an import, if it stops.
struct Resume {
    file: StateFile,
    identity: Identity,
    /// Identity of the ledger, in hex; empty before [`Self::check_ledger`].
    ledger: String,
    /// State of an earlier run that stopped.
    state: Option<State>,
}

impl Resume {
    /// None if the import can not be resumed: for streams and dry runs.
    fn find(args: &ImportArgs, mapping: &str, rejects: &Path) -> Result<Option<Self>, CliError> {
        if input::is_stdin(&args.file) {
            return Ok(None);
        }
        let metadata = fs::metadata(&args.file);
        let metadata = metadata.map_err(|error| CliError::file(&args.file, error))?;
        let file = StateFile::beside(&args.file);
        if args.dry_run {
            return check_rejects_unused(&file, rejects).map(|()| None);
        }
        if !metadata.is_file() {
            return Ok(None);
        }
        let encoding = args.encoding.map(Encoding::name).unwrap_or_default();
        let identity = Identity::of(&args.file, &args.source, mapping, encoding)?;
        let state = match args.restart {
            true => None,
            false => file.read_for(&identity, rejects)?,
        };
        Ok(Some(Self { file, identity, ledger: String::new(), state }))
    }

    /// Asks the server for its ledger. It must be the ledger of the earlier run.
    async fn check_ledger(&mut self, channel: Channel) -> Result<(), CliError> {
        let request = GetCheckpointRequest::default();
        let mut client = AuditServiceClient::new(channel);
        let checkpoint = client.get_checkpoint(request).await?.into_inner();
        self.ledger = words::hex(&checkpoint.ledger_id);
        self.state.as_ref().map_or(Ok(()), |state| state.check_ledger(&checkpoint))
    }
}

/// A dry run must not overwrite the rejects of an import that can be resumed.
fn check_rejects_unused(file: &StateFile, rejects: &Path) -> Result<(), CliError> {
    match file.read()? {
        Some(state) if state.rejects == rejects => {
            let message = format!("an import that stopped needs {}", rejects.display());
            Err(CliError::failed(message)
                .with_hint("finish it first, or give the dry run another --rejects file"))
        }
        _ => Ok(()),
    }
}

/// The output of `import`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Imported {
    /// Whether nothing was recorded, and the counts are those of a real run.
    dry_run: bool,
    /// Separator of the fields of a CSV file, as the file says it; null if the mapping does.
    delimiter: Option<char>,
    /// Rows of the file, including those of earlier runs.
    rows: u64,
    /// Recorded rows.
    recorded: u64,
    /// Rows without changes.
    unchanged: u64,
    /// Rows that an earlier import of the same source, or a broken stream, recorded.
    replayed: u64,
    /// Rejected rows.
    rejected: u64,
    /// Rejected fields of rows whose stops were imported.
    rejected_fields: u64,
    /// Warnings: what is wrong beside the stops of rows that were imported.
    warned: u64,
    /// The first warnings of this run.
    #[serde(serialize_with = "json::serialize_list")]
    warnings: Vec<ImportWarning>,
    /// Changes of the recorded rows, by outcome.
    #[serde(serialize_with = "json::serialize_list")]
    outcomes: Vec<OutcomeCount>,
    /// Changes of the recorded rows that applied to linked data subjects.
    changes_of_linked_subjects: u64,
    /// File of the rejected rows; null if none was rejected.
    rejects: Option<String>,
    /// Line from which an earlier import was resumed.
    resumed_at_line: Option<u64>,
    /// Duration of this run, in seconds.
    seconds: f64,
    /// Rows a second of this run.
    rows_per_second: f64,
    /// First revision that includes every row; null if no row was sent.
    revision: Option<u64>,
}

pub(super) async fn run(args: ImportArgs, context: &mut Context) -> Result<Exit, CliError> {
    let interrupt = async {
        // Without a handler, the signal ends the process.
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
    // Check the files before the connection: errors in them do not need a server.
    let mapping = args.read_mapping()?;
    let rejects = args.rejects_path()?;
    let digest = mapping.as_ref().map(|mapping| mapping.digest.clone()).unwrap_or_default();
    let mut resume = Resume::find(&args, &digest, &rejects)?;
    let state = resume.as_ref().and_then(|resume| resume.state.clone());
    let resumed_at_line = state.as_ref().map(|state| state.place.line);
    let (place, counts, rejects_bytes) = match state {
        Some(state) => (state.place, state.counts, state.rejects_bytes),
        None => (Place::START, Counts::default(), 0),
    };
    let (rows, delimiter) = rows(&args, mapping, place)?;
    let channel = client::connect_for_uploads(&context.global).await?;
    if let Some(resume) = &mut resume {
        resume.check_ledger(channel.clone()).await?;
    }
    let start = ImportStart { source: args.source.clone(), dry_run: args.dry_run };
    if let (true, Some(resume)) = (args.restart, &resume) {
        resume.file.remove()?;
    }
    let mut import = Import {
        sender: Sender::new(channel, start, args.retries),
        bar: bar(&args.file, context.out.json),
        rejects: Rejects::begin(rejects, rejects_bytes)?,
        delimiter,
        warnings: Vec::new(),
        resume,
        place,
        started: Instant::now(),
        rows_before: counts.rows,
        counts,
        json: context.out.json,
    };
    if resumed_at_line.is_some() {
        import.print_line("going on from", "resumedAtLine");
    }
    let ended = Box::pin(import.run(input::read_ahead(rows), interrupt)).await;
    import.bar.finish_and_clear();
    import.end(ended)?;
    let refused_grants = import.counts.refused_grants();
    let imported = import.finish(args.dry_run, resumed_at_line);
    print(&imported, &args.file, context)?;
    let is_complete = imported.rejected + imported.rejected_fields + refused_grants == 0;
    Ok(if is_complete { Exit::Success } else { Exit::Failed })
}

/// The rows of a file or of standard input, starting at a place, and the delimiter of a CSV file, unless its
/// mapping says it.
fn rows(
    args: &ImportArgs,
    mapping: Option<Mapping>,
    place: Place,
) -> Result<(Rows, Option<char>), CliError> {
    let open = |place| input::open(&args.file, args.encoding, place);
    let Some(mapping) = mapping else {
        return Ok((Box::new(NdjsonRows::new(open(place)?, place)), None));
    };
    let given = mapping.delimiter;
    let mut records = Records::new(open(Place::START)?, b',', Place::START);
    let heading = records.heading(given, |heading| mapping.known_columns(heading))?;
    let heading = heading.ok_or_else(|| {
        CliError::failed(format!("{}: has no heading: it is empty", args.file.display()))
    })?;
    let mapping = mapping.bind(&heading)?;
    let delimiter = records.delimiter();
    if place != Place::START {
        records = Records::new(open(place)?, delimiter, place);
    }
    let said = given.is_none().then_some(char::from(delimiter));
    Ok((Box::new(CsvRows { records, mapping }), said))
}

fn bar(file: &Path, json: bool) -> ProgressBar {
    let metadata = fs::metadata(file).ok().filter(|_| !input::is_stdin(file));
    let bar = match metadata {
        Some(metadata) if metadata.is_file() => progress::bytes(metadata.len(), "importing"),
        _ => progress::bar(None, "importing, bytes"),
    };
    if json {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    bar
}

/// Rows of one stream, and the rows between them that were rejected before sending.
#[derive(Default)]
struct Chunk {
    compiled: Vec<Compiled>,
    /// Number of rows to send.
    rows: usize,
    /// Size of these rows.
    bytes: usize,
    end: Option<Place>,
}

impl Chunk {
    async fn read(input: &mut mpsc::Receiver<Result<Item, CliError>>) -> Result<Self, CliError> {
        let mut chunk = Self::default();
        while !chunk.is_full() {
            let Some(item) = input.recv().await else { break };
            let item = item?;
            chunk.end = Some(item.end);
            chunk.rows += item.compiled.rows.len();
            chunk.bytes += item.compiled.rows.iter().map(ImportRow::encoded_len).sum::<usize>();
            chunk.compiled.push(item.compiled);
        }
        Ok(chunk)
    }

    fn is_full(&self) -> bool {
        let is_long = self.rows.max(self.compiled.len()) >= STREAM_ROWS_MAX;
        is_long || self.bytes >= STREAM_BYTES_MAX
    }
}

/// A running import.
struct Import {
    sender: Sender,
    bar: ProgressBar,
    rejects: Rejects,
    /// Separator of the fields, unless the mapping says it.
    delimiter: Option<char>,
    /// The first warnings of this run.
    warnings: Vec<ImportWarning>,
    resume: Option<Resume>,
    counts: Counts,
    /// End of the rows that the server has answered.
    place: Place,
    started: Instant,
    /// Rows of earlier runs.
    rows_before: u64,
    json: bool,
}

/// How an import without an error ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    Done,
    Interrupted,
}

impl Import {
    async fn run(
        &mut self,
        mut input: mpsc::Receiver<Result<Item, CliError>>,
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
            let mut importing = pin!(self.import(chunk, end));
            tokio::select! {
                imported = &mut importing => { imported?; continue }
                () = &mut interrupt => {}
            }
            if !json {
                bar.suspend(|| {
                    eprintln!("stopping after these rows; interrupt again to stop at once");
                });
            }
            tokio::select! {
                imported = importing => imported?,
                _ = ctrl_c() => {}
            }
            return Ok(Ended::Interrupted);
        }
    }

    async fn import(&mut self, chunk: Chunk, end: Place) -> Result<(), CliError> {
        let (mut rows, mut rejects, mut warnings) = (Vec::new(), Vec::new(), Vec::new());
        let mut counts = self.counts.clone();
        for compiled in chunk.compiled {
            counts.compile(&compiled);
            rows.extend(compiled.rows);
            rejects.extend(compiled.rejects);
            warnings.extend(compiled.warnings);
        }
        if !rows.is_empty() {
            let answer = self.sender.send(rows).await?;
            counts.add(&answer);
            rejects.extend(answer.rejects);
            warnings.extend(answer.warnings);
        }
        rejects.sort_by_key(|reject| reject.line);
        self.rejects.add(&rejects)?;
        warnings.sort_by_key(|warning| warning.line);
        self.keep_warnings(warnings);
        (self.counts, self.place) = (counts, end);
        self.write_state()?;
        self.bar.set_position(end.offset);
        self.bar.set_message(format!("importing, {:.0} rows/s", self.rows_per_second()));
        Ok(())
    }

    fn keep_warnings(&mut self, warnings: Vec<ImportWarning>) {
        let room = WARNINGS_MAX.saturating_sub(self.warnings.len());
        self.warnings.extend(warnings.into_iter().take(room));
    }

    fn write_state(&self) -> Result<(), CliError> {
        let Some(resume) = &self.resume else { return Ok(()) };
        resume.file.write(&State {
            identity: resume.identity.clone(),
            ledger: resume.ledger.clone(),
            place: self.place,
            counts: self.counts.clone(),
            rejects: self.rejects.path().to_owned(),
            rejects_bytes: self.rejects.bytes(),
        })
    }

    /// Removes the state of a complete import, or says how to resume.
    fn end(&self, ended: Result<Ended, CliError>) -> Result<(), CliError> {
        match (ended, &self.resume) {
            (Ok(Ended::Done), Some(resume)) => resume.file.remove(),
            (Ok(Ended::Done), None) => Ok(()),
            (Ok(Ended::Interrupted), resume) => {
                let hint = match resume {
                    Some(_) => "the same command goes on from there",
                    None => "the same command begins again; rows on record are not recorded twice",
                };
                let message = format!("stopped before line {}", self.place.line);
                Err(CliError::failed(message).with_hint(hint))
            }
            (Err(error), resume) => {
                if resume.is_some() && self.place != Place::START {
                    self.print_line("the same command goes on from", "resumeAtLine");
                }
                Err(error)
            }
        }
    }

    /// Prints the current line to standard error, after a text or under a JSON key.
    fn print_line(&self, text: &str, key: &str) {
        let line = self.place.line;
        match self.json {
            true => eprintln!("{}", serde_json::json!({ key: line })),
            false => self.bar.suspend(|| eprintln!("{text} line {line}")),
        }
    }

    fn rows_per_second(&self) -> f64 {
        let rows = self.counts.rows.saturating_sub(self.rows_before);
        // An import has fewer than 2^32 rows, so the conversion is exact.
        f64::from(u32::try_from(rows).unwrap_or(u32::MAX))
            / self.started.elapsed().as_secs_f64().max(0.000_001)
    }

    fn finish(self, dry_run: bool, resumed_at_line: Option<u64>) -> Imported {
        let rounded = |value: f64| (value * 1_000.0).round() / 1_000.0;
        Imported {
            dry_run,
            delimiter: self.delimiter,
            rows_per_second: rounded(self.rows_per_second()),
            rows: self.counts.rows,
            recorded: self.counts.recorded,
            unchanged: self.counts.unchanged,
            replayed: self.counts.replayed,
            rejected: self.counts.rejected,
            rejected_fields: self.counts.rejected_fields,
            warned: self.counts.warnings,
            warnings: self.warnings,
            outcomes: words::outcome_counts(self.counts.outcomes),
            changes_of_linked_subjects: self.counts.changes_of_linked_subjects,
            rejects: self.rejects.existing_path().map(|path| path.display().to_string()),
            resumed_at_line,
            seconds: rounded(self.started.elapsed().as_secs_f64()),
            revision: Some(self.counts.revision).filter(|revision| *revision > 0),
        }
    }
}

fn print(imported: &Imported, file: &Path, context: &mut Context) -> Result<(), CliError> {
    let out = &mut context.out;
    if out.json {
        return out.object(imported);
    }
    if imported.dry_run {
        out.line("a dry run: nothing was recorded")?;
    }
    if let Some(delimiter) = imported.delimiter {
        let name = if delimiter == '\t' { "a tab".to_owned() } else { format!("`{delimiter}`") };
        out.line(format!("the fields are separated by {name}, by the heading"))?;
    }
    let revision = imported.revision.map(|revision| format!("; revision {revision}"));
    out.line(format!(
        "{} rows in {:.1} s, {:.0} a second{}",
        imported.rows,
        imported.seconds,
        imported.rows_per_second,
        revision.unwrap_or_default()
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
    print_warnings(imported, file, out)?;
    let mut table = Table::new(&["OUTCOME", "CHANGES"]);
    for counted in &imported.outcomes {
        let outcome = word::<Outcome>(counted.outcome);
        table.row(Tone::Plain, [outcome, counted.count.to_string()]);
    }
    out.table(&table)?;
    let superseded = |counted: &OutcomeCount| counted.outcome() == Outcome::SupersededByLater;
    if imported.outcomes.iter().any(superseded) {
        out.line(
            "superseded_by_later: something later is on record. Whoever has a later grant stays in, also \
             where the row was a stop",
        )?;
    }
    if imported.changes_of_linked_subjects > 0 {
        out.line(format!(
            "{} changes applied to linked data subjects",
            imported.changes_of_linked_subjects
        ))?;
    }
    match &imported.rejects {
        Some(path) => out.line(format!("the rejected rows are in {path}")),
        None => Ok(()),
    }
}

/// Prints the first warnings, with file, line and column.
fn print_warnings(imported: &Imported, file: &Path, out: &mut Output) -> Result<(), CliError> {
    if imported.rejected_fields > 0 {
        out.line(format!(
            "{} fields were rejected, and the stops beside them imported",
            imported.rejected_fields
        ))?;
    }
    if imported.warned > 0 {
        out.line(format!("{} warnings", imported.warned))?;
    }
    for ImportWarning { line, field, message, .. } in
        imported.warnings.iter().take(WARNINGS_PRINTED_MAX)
    {
        // Messages of the server name the field.
        let is_named = field.is_empty() || message.starts_with(field.as_str());
        let column = if is_named { String::new() } else { format!(" {field}:") };
        out.line(format!("{}:{line}:{column} {message}", file.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
