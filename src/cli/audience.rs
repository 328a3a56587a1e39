//! `audience`: reads data subjects and prints those that are allowed, all decided at one revision.
//!
//! Standard output holds only data subjects, also with `--json`, as input for the next program. The
//! summary goes to standard error.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufWriter, Write as _},
    path::{Path, PathBuf},
};

use clap::Args;
use encoding_rs::Encoding;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{
    Context, Exit,
    cell::CellArgs,
    client,
    error::CliError,
    import::encoding,
    near::{self, Keys},
    output::{Output, Table, Tone, color_on},
    progress,
    replay::input::Input,
    words::{rfc3339, word},
};
use crate::proto::{
    AudienceNotNow, AudienceQuery, AudienceSubjects, AudienceSummary, FilterAudienceRequest,
    FilterAudienceResponse, Reason, ReasonCount, check_service_client::CheckServiceClient,
    filter_audience_request::Message as Sent, filter_audience_response::Message as Received,
};

const AFTER_HELP: &str = "\
Reads data subjects, one on each line, and prints those that are allowed now, in the same order.
Those whose obligations are not met at this moment (NOT NOW: a frequency limit, quiet hours) are
counted apart; --not-now-file keeps them, each with a tab and the first moment that is permitted,
if one is known. The counts by reason go to standard error, with --json as one object; standard
output holds only data subjects. A malformed line is denied and counted as malformed. A person who
comes twice, in another spelling or under a name that is linked as verified, is printed once; the
rest is counted as duplicate.

All decisions are of one revision and one moment, also if acts are recorded meanwhile. With
--record-use, who was stopped or reached a limit since is not printed either. Use the output only
if the exit code is 0: after an error, data subjects are missing.

Examples:
  consent-ledger audience --purpose marketing.newsletter --channel email ids.txt > allowed.txt
  consent-ledger audience --purpose marketing.newsletter --channel email \\
    --segment winter-sale --record-use ids.txt > allowed.txt";

/// Maximum number of data subjects in one message.
const SUBJECTS_MAX: usize = 10_000;
/// Maximum number of messages that are read ahead.
const AHEAD_MAX: usize = 2;

/// Options of `audience`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct AudienceArgs {
    /// File of data subjects, one on each line; `-` for standard input
    #[arg(default_value = "-")]
    file: PathBuf,
    /// Encoding of the file, for example windows-1252 or utf-16le [default: by its byte order mark, or UTF-8]
    #[arg(long, value_name = "NAME", value_parser = encoding::parse)]
    encoding: Option<&'static Encoding>,
    #[command(flatten)]
    cell: CellArgs,
    /// Answer from at least this revision
    #[arg(long, value_name = "REVISION")]
    at_least_revision: Option<u64>,
    /// Record a use of data for every allowed data subject, before they are printed
    #[arg(long, requires = "segment")]
    record_use: bool,
    /// Name of the segment, for the record of use
    #[arg(long, value_name = "NAME")]
    segment: Option<String>,
    /// Name of the campaign, for the record of use
    #[arg(long, value_name = "NAME")]
    campaign: Option<String>,
    /// File for the data subjects that are NOT NOW, each with its first moment
    #[arg(long, value_name = "FILE")]
    not_now_file: Option<PathBuf>,
    /// Allow where obligations alone make it NOT NOW: for a message that must go out now
    #[arg(long)]
    ignore_obligations: bool,
}

impl AudienceArgs {
    fn query(self) -> AudienceQuery {
        AudienceQuery {
            purpose: self.cell.purpose,
            channel: self.cell.channel,
            data_categories: self.cell.data_category,
            region: self.cell.region,
            at_least_revision: self.at_least_revision,
            packed: false,
            record_use: self.record_use,
            segment: self.segment.unwrap_or_default(),
            campaign: self.campaign.unwrap_or_default(),
            ignore_obligations: self.ignore_obligations,
        }
    }
}

/// Names of a record that is not made would be lost in silence.
fn check_names(args: &AudienceArgs) -> Result<(), CliError> {
    let names = [("--segment", args.segment.is_some()), ("--campaign", args.campaign.is_some())];
    match names.into_iter().find(|(_, is_given)| *is_given && !args.record_use) {
        None => Ok(()),
        Some((name, _)) => {
            Err(CliError::usage(format!("{name} names a record of use, and none is made"))
                .with_hint(format!("add --record-use, or leave {name} out")))
        }
    }
}

pub(super) async fn run(args: AudienceArgs, context: &mut Context) -> Result<Exit, CliError> {
    check_names(&args)?;
    // A missing file is reported before an unreachable server.
    let input = Input::open(&args.file, args.encoding)?;
    if let Some(later) = &args.not_now_file {
        check_output(later, &args.file)?;
    }
    let mut not_now = args.not_now_file.as_deref().map(create).transpose()?;
    let channel = client::connect(&context.global).await?;
    let mut client =
        CheckServiceClient::new(channel).max_decoding_message_size(client::MESSAGE_BYTES_MAX);
    let (requests, receiver) = mpsc::channel(AHEAD_MAX);
    let query = args.query();
    let (purpose, channel) = (query.purpose.clone(), query.channel.clone());
    let upload = tokio::spawn(upload(query, input, requests));
    let answers = client.filter_audience(ReceiverStream::new(receiver)).await;
    let printed = match answers {
        Ok(answers) => print_allowed(answers.into_inner(), not_now.as_mut(), context).await,
        Err(status) => Err(status.into()),
    };
    if printed.is_err() {
        upload.abort();
    }
    match upload.await {
        // Reading the input failed, so the result is incomplete.
        Ok(Err(error)) => return Err(error),
        Ok(Ok(())) => {}
        Err(error) if error.is_cancelled() => {}
        Err(error) => return Err(CliError::failed(format!("reading the input failed: {error}"))),
    }
    let summary = printed?;
    context.out.flush()?;
    report(&summary, context)?;
    let reasons = summary.reasons.iter().map(ReasonCount::reason);
    near::advise(&Keys::unknown(reasons, &purpose, &channel, None), context).await;
    Ok(Exit::Success)
}

/// Sends the query, and then the data subjects.
async fn upload(
    query: AudienceQuery,
    mut input: Input,
    requests: mpsc::Sender<FilterAudienceRequest>,
) -> Result<(), CliError> {
    let request = |message| FilterAudienceRequest { message: Some(message) };
    // If the receiver is gone, the answer holds the error.
    if requests.send(request(Sent::Query(query))).await.is_err() {
        return Ok(());
    }
    let mut subjects = Vec::new();
    while let Some(line) = input.next().await {
        let line = line?;
        let number = line.number;
        let text = String::from_utf8(line.bytes).map_err(|_| {
            CliError::failed(format!("line {number} of the input is neither UTF-8 nor UTF-16"))
        })?;
        let subject = text.trim();
        if !subject.is_empty() {
            subjects.push(subject.to_owned());
        }
        if subjects.len() == SUBJECTS_MAX {
            let message = AudienceSubjects { subjects: std::mem::take(&mut subjects) };
            if requests.send(request(Sent::Subjects(message))).await.is_err() {
                return Ok(());
            }
        }
    }
    if !subjects.is_empty() {
        let message = AudienceSubjects { subjects };
        let _ = requests.send(request(Sent::Subjects(message))).await;
    }
    Ok(())
}

/// The file of the data subjects that are NOT NOW.
struct Later {
    path: PathBuf,
    file: BufWriter<File>,
}

/// That a file to write is not the list that is read. Standard output is for those that are allowed.
fn check_output(written: &Path, read: &Path) -> Result<(), CliError> {
    if written == Path::new("-") {
        return Err(CliError::usage("--not-now-file must be a file, not standard output"));
    }
    let (Ok(one), Ok(other)) = (fs::canonicalize(written), fs::canonicalize(read)) else {
        return Ok(());
    };
    if one == other {
        let path = written.display();
        return Err(CliError::usage(format!("--not-now-file {path} is the list that is read")));
    }
    Ok(())
}

fn create(path: &Path) -> Result<Later, CliError> {
    let file = File::create(path).map_err(|error| not_written(path, &error))?;
    Ok(Later { path: path.to_owned(), file: BufWriter::new(file) })
}

fn not_written(path: &Path, error: &io::Error) -> CliError {
    CliError::failed(format!("{} can not be written: {error}", path.display()))
}

impl Later {
    fn write(&mut self, rows: &[AudienceNotNow]) -> Result<(), CliError> {
        for row in rows {
            let not_before = row.not_before.as_ref().map(rfc3339).unwrap_or_default();
            writeln!(self.file, "{}\t{not_before}", row.subject)
                .map_err(|error| not_written(&self.path, &error))?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), CliError> {
        self.file.flush().map_err(|error| not_written(&self.path, &error))
    }
}

/// Prints the allowed data subjects as they arrive.
async fn print_allowed(
    mut answers: Streaming<FilterAudienceResponse>,
    mut later: Option<&mut Later>,
    context: &mut Context,
) -> Result<AudienceSummary, CliError> {
    let bar = progress::bar(None, "allowed");
    let mut summary = None;
    while let Some(answer) = answers.message().await? {
        match answer.message {
            Some(Received::Verdicts(verdicts)) => {
                for subject in verdicts.allowed {
                    context.out.line(subject)?;
                }
                if let Some(later) = &mut later {
                    later.write(&verdicts.not_now)?;
                }
                bar.inc(verdicts.allowed_count.into());
            }
            Some(Received::Summary(last)) => summary = Some(last),
            None => {}
        }
    }
    bar.finish_and_clear();
    if let Some(later) = later {
        later.finish()?;
    }
    summary.ok_or_else(|| CliError::failed("the audience ended without a summary"))
}

/// Prints the summary on standard error.
fn report(summary: &AudienceSummary, context: &Context) -> Result<(), CliError> {
    let printing = context.global.printing;
    let color = color_on(printing.color, &io::stderr());
    let mut out = Output::new(Box::new(io::stderr()), printing.json, color);
    if out.json {
        out.message(summary)?;
        return out.flush();
    }
    out.line(format!(
        "{} of {} data subjects allowed; revision {}",
        summary.allowed, summary.subjects, summary.revision
    ))?;
    if summary.not_now > 0 {
        let line = format!("{} more are NOT NOW: their obligations are not met", summary.not_now);
        out.line(out.paint(Tone::Careful, &line))?;
    }
    if summary.obligations_ignored > 0 {
        let line = format!(
            "obligations are ignored: without that, {} of the allowed are NOT NOW",
            summary.obligations_ignored
        );
        out.line(out.paint(Tone::Careful, &line))?;
    }
    let mut table = Table::new(&["REASON", "DATA SUBJECTS"]);
    let by_reason: BTreeMap<String, u64> =
        summary.reasons.iter().map(|row| (word::<Reason>(row.reason), row.count)).collect();
    for (reason, count) in by_reason {
        table.row(Tone::Plain, [reason, count.to_string()]);
    }
    if summary.duplicates > 0 {
        table.row(Tone::Plain, ["duplicate".to_owned(), summary.duplicates.to_string()]);
    }
    if summary.malformed > 0 {
        table.row(Tone::Bad, ["malformed".to_owned(), summary.malformed.to_string()]);
    }
    out.table(&table)?;
    if let Some(revision) = summary.use_revision {
        out.line(format!("uses on record by revision {revision}"))?;
    }
    out.flush()
}
