//! `replay`: records acts from NDJSON, a `RecordConsentRequest` in ProtoJSON on each line.
//!
//! Many acts are in flight at once, but never two of one data subject: these are recorded in the
//! order of the input.

use std::{collections::BTreeMap, path::PathBuf, time::Instant};

use clap::Args;
use encoding_rs::Encoding;
use indicatif::ProgressBar;
use serde::Serialize;

use self::{
    input::{Input, Line},
    lanes::Lanes,
    send::{Sender, Sent},
};
use super::{
    Context, Exit, catalog, client,
    error::CliError,
    import::encoding,
    json_lines::{self, LineRead, Stops},
    output::{Table, Tone},
    progress,
    words::{self, word},
};
use crate::{
    json,
    proto::{
        Outcome, RecordConsentRequest, RecordConsentResponse, Warning,
        catalog_service_client::CatalogServiceClient,
    },
    setting::Within as _,
};

pub(super) mod input;
mod lanes;
mod send;

const AFTER_HELP: &str = "\
Each line is an act, a RecordConsentRequest in ProtoJSON. Fields with default values may be omitted:
  {\"subject\":\"user:100042\",\"actor\":\"ACTOR_SUBJECT\",\"changes\":[{\"action\":\"ACTION_GRANT\",
  \"scope\":{\"purpose\":\"marketing.newsletter\",\"channel\":\"email\"}}],\"effectiveAt\":
  \"2026-01-01T00:02:31.117Z\",\"evidence\":{\"touchpoint\":\"onboarding-web\", …},
  \"idempotencyKey\":\"seed-1-act-1\"}
`subject`, `actor` and `changes` are required; a change may also have `purposeVersion`, `expiresAt`
and `dataCategories`. An unknown field, or one that can not be read, is an error; a stop beside it
is recorded all the same, with a warning, and no grant beside it. Every act counts as reported
late: a stop takes effect when it says, even if the data subject did something since.

Acts of one data subject, in whichever spelling, are recorded in order, others in parallel: also
those of data subjects that are linked, which is the same for acts with `effectiveAt`; for others,
give --concurrency 1. An act is retried when the server is busy or unreachable for a moment;
without `idempotencyKey`, only if it can not be recorded twice.

Without --continue-on-error, the first rejected act ends the command with exit code 1; acts in
flight are still recorded.

Examples:
  consent-ledger replay examples/onboarding.ndjson
  consent-ledger-generate --acts 1000 | consent-ledger replay - --concurrency 256";

/// Maximum number of acts in flight.
const IN_FLIGHT_MAX: u32 = 65_536;

/// Options of `replay`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct ReplayArgs {
    /// NDJSON file of acts; `-` for standard input
    file: PathBuf,
    /// Encoding of the file, for example windows-1252 or utf-16le [default: by its byte order mark, or UTF-8]
    #[arg(long, value_name = "NAME", value_parser = encoding::parse)]
    encoding: Option<&'static Encoding>,
    /// Maximum number of acts in flight
    #[arg(long, value_name = "N", within = 1..=IN_FLIGHT_MAX, default_value_t = 64)]
    concurrency: u32,
    /// Continue after a rejected act; the exit code is still 1
    #[arg(long)]
    continue_on_error: bool,
    /// Maximum number of retries of an act
    #[arg(long, value_name = "N", default_value_t = 10)]
    retries: u32,
}

/// Result of a replay, as JSON.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Replayed {
    /// Recorded acts.
    recorded: u64,
    /// Those of them that an earlier call had recorded.
    replayed: u64,
    /// Rejected acts.
    rejected: u64,
    /// Number of retries.
    retries: u64,
    /// Changes by outcome.
    #[serde(serialize_with = "words::serialize_outcomes")]
    outcomes: BTreeMap<String, u64>,
    /// The first rejected acts.
    rejects: Vec<Reject>,
    /// Warnings: what is wrong beside the stops of recorded acts.
    warned: u64,
    /// The first warnings.
    warnings: Vec<Warned>,
    /// Duration in seconds.
    seconds: f64,
    /// Recorded acts per second.
    acts_per_second: f64,
    /// Highest revision that includes any of the acts.
    revision: u64,
}

/// An act that was not recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Reject {
    /// Line of the input, counted from 1.
    line: u64,
    /// Reason as in `google.rpc.ErrorInfo`, else the gRPC code, else `not_an_act`.
    reason: String,
    /// The error.
    message: String,
}

/// What is wrong beside the stops of an act that was recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Warned {
    /// Line of the input, counted from 1.
    line: u64,
    /// The field.
    field: String,
    /// Reason as in `google.rpc.ErrorInfo`, else `not_an_act`.
    reason: String,
    /// What is wrong and what was done.
    message: String,
}

pub(super) async fn run(args: ReplayArgs, context: &mut Context) -> Result<Exit, CliError> {
    // A missing file is reported before an unreachable server.
    let input = Input::open(&args.file, args.encoding)?;
    let bar = match input.bytes {
        Some(bytes) => progress::bytes(bytes, "replaying"),
        None => progress::bar(None, "acts"),
    };
    let channel = client::connect(&context.global).await?;
    let sender = Sender::new(channel.clone(), args.retries);
    sender.wait_for(channel.clone()).await;
    let catalog = catalog::of_namespaces(&mut CatalogServiceClient::new(channel)).await?;
    let started = Instant::now();
    let mut replay = Replay {
        lanes: Lanes::new(sender, catalog, args.concurrency),
        result: Replayed::default(),
        by_bytes: input.bytes.is_some(),
        bar,
        continue_on_error: args.continue_on_error,
    };
    let read = Box::pin(replay.run(input)).await;
    replay.bar.finish_and_clear();
    replay.result.finish(started.elapsed().as_secs_f64());
    print(&replay.result, context)?;
    read?;
    Ok(if replay.result.is_complete() { Exit::Success } else { Exit::Failed })
}

struct Replay {
    lanes: Lanes,
    result: Replayed,
    bar: ProgressBar,
    by_bytes: bool,
    continue_on_error: bool,
}

/// An act that happened at its time, whatever came after it.
fn late(act: RecordConsentRequest) -> RecordConsentRequest {
    RecordConsentRequest { reported_late: true, ..act }
}

impl Replay {
    async fn run(&mut self, mut input: Input) -> Result<(), CliError> {
        let mut more = true;
        while more || !self.lanes.are_empty() {
            if self.must_stop() {
                more = false;
                self.lanes.drop_waiting();
            }
            if more && self.lanes.have_room() {
                tokio::select! {
                    line = input.next() => match line {
                        Some(line) => self.take(&line?),
                        None => more = false,
                    },
                    Some(sent) = self.lanes.next() => self.result.add(sent),
                }
            } else if let Some(sent) = self.lanes.next().await {
                self.result.add(sent);
            }
        }
        Ok(())
    }

    fn must_stop(&self) -> bool {
        self.result.rejected > 0 && !self.continue_on_error
    }

    fn take(&mut self, line: &Line) {
        match self.by_bytes {
            true => self.bar.set_position(line.end),
            false => self.bar.inc(1),
        }
        if line.bytes.trim_ascii().is_empty() {
            return;
        }
        match json_lines::read(&line.bytes, json::from_object) {
            Ok(LineRead::Whole(act)) => self.lanes.add(line.number, late(act)),
            Ok(LineRead::Stops(stops)) => {
                self.result.leave_out(line.number, &stops);
                self.lanes.add(line.number, late(stops.message));
            }
            Err(error) => self.result.reject(Reject {
                line: line.number,
                reason: NOT_AN_ACT.to_owned(),
                message: error.to_string(),
            }),
        }
    }
}

/// Reason of an act, or of a field of it, that can not be read.
const NOT_AN_ACT: &str = "not_an_act";

/// Maximum number of rejects that are reported; the rest is only counted.
const REJECTS_MAX: usize = 100;

impl Replayed {
    fn add(&mut self, sent: Sent) {
        self.retries += u64::from(sent.retries);
        match sent.result {
            Ok(answer) => self.record(sent.line, &answer),
            Err(reject) => self.reject(reject),
        }
    }

    /// Whether every act and every grant is on record.
    fn is_complete(&self) -> bool {
        let not_recorded = word::<Outcome>(Outcome::NotRecorded.into());
        self.rejected == 0 && !self.outcomes.contains_key(&not_recorded)
    }

    /// Counts what can not be read beside the stops of an act.
    fn leave_out(&mut self, line: u64, stops: &Stops<RecordConsentRequest>) {
        for (field, message) in stops.left_out.iter().chain(&stops.refused) {
            let (field, message) = (field.clone(), message.clone());
            self.warn(Warned { line, field, reason: NOT_AN_ACT.to_owned(), message });
        }
        if !stops.refused.is_empty() {
            let not_recorded = word::<Outcome>(Outcome::NotRecorded.into());
            let count = u64::try_from(stops.refused.len()).unwrap_or(u64::MAX);
            *self.outcomes.entry(not_recorded).or_default() += count;
        }
    }

    fn warn(&mut self, warned: Warned) {
        self.warned += 1;
        if self.warnings.len() < REJECTS_MAX {
            self.warnings.push(warned);
        }
    }

    fn record(&mut self, line: u64, answer: &RecordConsentResponse) {
        self.recorded += 1;
        self.replayed += u64::from(answer.replayed);
        self.revision = self.revision.max(answer.revision);
        for result in &answer.results {
            *self.outcomes.entry(word::<Outcome>(result.outcome)).or_default() += 1;
        }
        for Warning { field, reason, message } in answer.warnings.iter().cloned() {
            self.warn(Warned { line, field, reason, message });
        }
    }

    fn reject(&mut self, reject: Reject) {
        self.rejected += 1;
        if self.rejects.len() < REJECTS_MAX {
            self.rejects.push(reject);
        }
    }

    fn finish(&mut self, seconds: f64) {
        self.rejects.sort_by_key(|reject| reject.line);
        self.warnings.sort_by_key(|warned| warned.line);
        // Exact below 2^32 acts, which is more than one replay has.
        let acts = f64::from(u32::try_from(self.recorded).unwrap_or(u32::MAX));
        let rounded = |value: f64| (value * 1_000.0).round() / 1_000.0;
        self.seconds = rounded(seconds);
        self.acts_per_second = rounded(acts / seconds.max(0.000_001));
    }
}

fn print(replayed: &Replayed, context: &mut Context) -> Result<(), CliError> {
    let out = &mut context.out;
    if out.json {
        return out.object(replayed);
    }
    out.line(format!(
        "{} acts on record in {:.1} s, {:.0} a second; revision {}",
        replayed.recorded, replayed.seconds, replayed.acts_per_second, replayed.revision
    ))?;
    if replayed.replayed > 0 {
        out.line(format!("{} of them were recorded before", replayed.replayed))?;
    }
    let mut table = Table::new(&["OUTCOME", "CHANGES"]);
    for (outcome, count) in &replayed.outcomes {
        table.row(Tone::Plain, [outcome.clone(), count.to_string()]);
    }
    out.table(&table)?;
    if replayed.rejected > 0 {
        let rejected = out.paint(Tone::Bad, &format!("{} acts rejected", replayed.rejected));
        out.line(rejected)?;
    }
    let mut table = Table::new(&["LINE", "REASON", "MESSAGE"]);
    for reject in &replayed.rejects {
        let cells = [reject.line.to_string(), reject.reason.clone(), reject.message.clone()];
        table.row(Tone::Plain, cells);
    }
    out.table(&table)?;
    if replayed.warned > 0 {
        out.line(format!("{} warnings", replayed.warned))?;
    }
    let mut table = Table::new(&["LINE", "FIELD", "WARNING"]);
    for warned in &replayed.warnings {
        let cells = [warned.line.to_string(), warned.field.clone(), warned.message.clone()];
        table.row(Tone::Plain, cells);
    }
    out.table(&table)
}
