//! `watch`: prints changes as they happen.

use std::time::Duration;

use clap::Args;
use futures_util::StreamExt as _;
use serde_json::json;
use tonic::Status;

use super::{
    Context, Exit, client,
    error::CliError,
    filter::FilterArgs,
    near,
    stream::{print_watched, stop_signals},
    words,
};
use crate::{
    client::{Client, Heard, ServiceConfig, Watch, WatchOptions},
    proto::{Snapshot, WatchResponse, watch_response::Message},
};

const AFTER_HELP: &str = "\
Without --kind, all events are printed except grants, preferences and overdue. When the stream
ends, by Ctrl-C, SIGTERM or --count, the index to resume from is printed on standard error. With
--follow the command reconnects when the connection breaks, and resumes without a gap.

Examples:
  consent-ledger watch --purpose marketing.newsletter
  consent-ledger watch --from 0 --kind withdraw --kind object --json
  consent-ledger watch --snapshot denied --follow --json";

/// Options of `watch`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct WatchArgs {
    /// Ledger index to start at [default: now]
    #[arg(long, value_name = "INDEX")]
    from: Option<u64>,
    /// Which events
    #[command(flatten)]
    filter: FilterArgs,
    /// Print a snapshot of the current state first: the cells that are `denied`, or `all` cells
    #[arg(long, value_name = "WHICH", conflicts_with = "from")]
    #[arg(value_parser = words::parser::<Snapshot>())]
    snapshot: Option<Snapshot>,
    /// Reconnect when the connection breaks, and resume
    #[arg(long)]
    follow: bool,
    /// Also print the progress of the stream
    #[arg(long)]
    progress: bool,
    /// End after this many events
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

pub(super) async fn run(args: WatchArgs, context: &mut Context) -> Result<Exit, CliError> {
    // A server that does not answer at the start is an error, not a broken connection.
    let channel = client::connect(&context.global).await?;
    near::advise(&args.filter.keys(), context).await;
    let options = WatchOptions {
        start_index: args.from,
        filter: args.filter.clone().into(),
        snapshot: args.snapshot.unwrap_or_default(),
        ..WatchOptions::default()
    };
    let stream = Client::over(channel, ServiceConfig::none()).watch(options);
    let mut follower = Follower {
        next_index: args.from,
        in_snapshot: args.snapshot.is_some(),
        left: args.count,
        interrupted: false,
        args,
    };
    let ended = follower.follow(stream, context).await;
    follower.report_position(context);
    ended.map(|()| Exit::Success)
}

/// State of the stream.
struct Follower {
    args: WatchArgs,
    next_index: Option<u64>,
    /// Whether the snapshot is incomplete: then there is no index to resume from.
    in_snapshot: bool,
    left: Option<u64>,
    interrupted: bool,
}

impl Follower {
    async fn follow(&mut self, mut stream: Watch, context: &mut Context) -> Result<(), CliError> {
        let mut stop = stop_signals()?;
        while self.left != Some(0) {
            let item = tokio::select! {
                item = stream.next() => item,
                () = stop.next() => return Ok(()),
            };
            match item {
                Some(Ok(Heard::Message(message))) => self.print(*message, context)?,
                Some(Ok(Heard::Connected { .. })) => self.report_connected(context),
                Some(Ok(Heard::Interrupted { status, retry_in })) if self.args.follow => {
                    self.interrupted = true;
                    report_interrupted(&status, retry_in, context.out.json);
                }
                Some(Ok(Heard::Interrupted { status, .. }) | Err(status)) => {
                    return Err(status.into());
                }
                Some(Ok(_)) => {}
                None => return Err(CliError::failed("the server ended the stream")),
            }
        }
        Ok(())
    }

    fn print(&mut self, message: Message, context: &mut Context) -> Result<(), CliError> {
        let is_shown = self.args.progress || !matches!(message, Message::Progress(_));
        let response = WatchResponse { message: Some(message) };
        if is_shown {
            print_watched(&response, &mut context.out)?;
        }
        response.message.iter().for_each(|message| self.advance(message));
        Ok(())
    }

    /// Records the position after a message.
    fn advance(&mut self, message: &Message) {
        let mut done = 1;
        let event_index = match message {
            Message::Progress(progress) => {
                self.next_index = Some(progress.next_index);
                return;
            }
            Message::SnapshotEnd(end) => {
                self.in_snapshot = false;
                self.next_index = Some(end.revision);
                return;
            }
            Message::Snapshot(_) => return,
            Message::Consent(event) => {
                done = u64::from(!event.more_in_entry);
                event.index
            }
            Message::Link(event) => event.index,
            Message::Catalog(event) => event.index,
            Message::Overdue(event) => event.index,
        };
        self.next_index = Some(event_index.saturating_add(done));
        self.left = self.left.map(|left| left.saturating_sub(1));
    }

    fn resume_from(&self) -> Option<u64> {
        self.next_index.filter(|_| !self.in_snapshot)
    }

    fn report_connected(&mut self, context: &Context) {
        if std::mem::take(&mut self.interrupted) {
            report_reconnected(self.resume_from(), context.out.json);
        }
    }

    fn report_position(&self, context: &Context) {
        let Some(index) = self.resume_from() else { return };
        if context.out.json {
            eprintln!("{}", json!({"resumeFrom": index}));
        } else {
            eprintln!("resume with --from {index}");
        }
    }
}

/// Reports on standard error that the connection broke and will be retried.
pub(super) fn report_interrupted(status: &Status, retry_in: Duration, json: bool) {
    let retry_in_ms = u64::try_from(retry_in.as_millis()).unwrap_or(u64::MAX);
    if json {
        let interruption = json!({"message": status.message(), "retryInMs": retry_in_ms});
        eprintln!("{}", json!({ "interrupted": interruption }));
    } else {
        eprintln!("interrupted: {}; trying again in {retry_in_ms} ms", status.message());
    }
}

/// Reports on standard error that the stream resumes, and from which index if that is known.
pub(super) fn report_reconnected(next_index: Option<u64>, json: bool) {
    match next_index {
        _ if json => eprintln!("{}", json!({"reconnected": {"nextIndex": next_index}})),
        Some(index) => eprintln!("connected again, going on from {index}"),
        None => eprintln!("connected again"),
    }
}
