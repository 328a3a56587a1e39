//! `audience`: reads data subjects and prints those that are allowed, all decided at one revision.
//!
//! Standard output holds only data subjects, also with `--json`, as input for the next program. The
//! summary goes to standard error.

use std::{collections::BTreeMap, io, path::PathBuf};

use clap::Args;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{
    Context, Exit,
    cell::CellArgs,
    client,
    error::CliError,
    output::{Output, Table, Tone, color_on},
    progress,
    replay::input::Input,
    words::word,
};
use crate::proto::{
    AudienceQuery, AudienceSubjects, AudienceSummary, FilterAudienceRequest,
    FilterAudienceResponse, Reason, check_service_client::CheckServiceClient,
    filter_audience_request::Message as Sent, filter_audience_response::Message as Received,
};

const AFTER_HELP: &str = "\
Reads data subjects, one on each line, and prints those that are allowed, in the same order. The
counts by reason go to standard error, with --json as one object; standard output holds only data
subjects. A malformed line is denied and counted as malformed.

All decisions are of one revision and one moment, also if acts are recorded meanwhile. Use the
output only if the exit code is 0: after an error, data subjects are missing.

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
        }
    }
}

pub(super) async fn run(args: AudienceArgs, context: &mut Context) -> Result<Exit, CliError> {
    // A missing file is reported before an unreachable server.
    let input = Input::open(&args.file)?;
    let channel = client::connect(&context.global).await?;
    let mut client =
        CheckServiceClient::new(channel).max_decoding_message_size(client::MESSAGE_BYTES_MAX);
    let (requests, receiver) = mpsc::channel(AHEAD_MAX);
    let upload = tokio::spawn(upload(args.query(), input, requests));
    let answers = client.filter_audience(ReceiverStream::new(receiver)).await;
    let printed = match answers {
        Ok(answers) => print_allowed(answers.into_inner(), context).await,
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
        let subject = line.text.trim();
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

/// Prints the allowed data subjects as they arrive.
async fn print_allowed(
    mut answers: Streaming<FilterAudienceResponse>,
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
                bar.inc(verdicts.allowed_count.into());
            }
            Some(Received::Summary(last)) => summary = Some(last),
            None => {}
        }
    }
    bar.finish_and_clear();
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
    let mut table = Table::new(&["REASON", "DATA SUBJECTS"]);
    let by_reason: BTreeMap<String, u64> =
        summary.reasons.iter().map(|row| (word::<Reason>(row.reason), row.count)).collect();
    for (reason, count) in by_reason {
        table.row(Tone::Plain, [reason, count.to_string()]);
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
