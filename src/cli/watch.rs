//! `watch`: follows what changes.

use std::time::Duration;

use clap::Args;
use futures_util::StreamExt as _;
use serde_json::json;
use tonic::Status;

use super::{
    Context, Exit, client,
    error::CliError,
    filter::{self, FilterArgs},
    stream::{no_signals, print_watched},
};
use crate::{
    client::{Client, Heard, ServiceConfig, Watch, WatchOptions},
    proto::{Snapshot, WatchResponse, watch_response::Message},
    server::StopSignals,
};

const AFTER_HELP: &str = "\
Without --kind, everything but grants, preferences and overdue is told. When the
stream ends, by Ctrl-C, SIGTERM or --count, the index to resume from is told on standard
error. With --follow it does not end with the connection: it waits, connects again
and goes on from where it was, without a gap.

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
    #[arg(long, value_name = "WHAT", value_parser = filter::snapshot(), conflicts_with = "from")]
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
    // Whoever is not there at first is no connection that broke.
    let channel = client::connect(&context.global).await?;
    let stream = Client::over(channel, ServiceConfig::none()).watch(options(&args));
    let mut follower = Follower {
        next_index: args.from,
        in_snapshot: args.snapshot.is_some(),
        left: args.count,
        show: args.progress,
        goes_on: args.follow,
        interrupted: false,
    };
    let ended = follower.follow(stream, context).await;
    follower.tell_where(context);
    ended.map(|()| Exit::Success)
}

fn options(args: &WatchArgs) -> WatchOptions {
    WatchOptions {
        start_index: args.from,
        filter: args.filter.clone().into(),
        snapshot: args.snapshot.unwrap_or_default(),
        ..WatchOptions::default()
    }
}

/// Where the stream is.
struct Follower {
    next_index: Option<u64>,
    /// A snapshot is not complete: there is no index to resume from.
    in_snapshot: bool,
    left: Option<u64>,
    show: bool,
    goes_on: bool,
    interrupted: bool,
}

impl Follower {
    async fn follow(&mut self, mut stream: Watch, context: &mut Context) -> Result<(), CliError> {
        let mut stop = StopSignals::new().map_err(no_signals)?;
        while self.left != Some(0) {
            let heard = tokio::select! {
                heard = stream.next() => heard,
                () = stop.next() => return Ok(()),
            };
            match heard {
                Some(Ok(Heard::Message(message))) => self.print(*message, context)?,
                Some(Ok(Heard::Connected { .. })) => self.tell_connected(context),
                Some(Ok(Heard::Interrupted { status, retry_in })) if self.goes_on => {
                    self.interrupted = true;
                    tell_interrupted(&status, retry_in, context.out.json);
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
        let is_shown = self.show || !matches!(message, Message::Progress(_));
        let response = WatchResponse { message: Some(message) };
        if is_shown {
            print_watched(&response, &mut context.out)?;
        }
        response.message.iter().for_each(|message| self.pass(message));
        Ok(())
    }

    /// Takes note of how far the stream has come.
    fn pass(&mut self, message: &Message) {
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
            Message::Consent(event) => event.index,
            Message::Link(event) => event.index,
            Message::Catalog(event) => event.index,
            Message::Overdue(event) => event.index,
        };
        self.next_index = Some(event_index.saturating_add(1));
        self.left = self.left.map(|left| left.saturating_sub(1));
    }

    fn resume_from(&self) -> Option<u64> {
        self.next_index.filter(|_| !self.in_snapshot)
    }

    fn tell_connected(&mut self, context: &Context) {
        if std::mem::take(&mut self.interrupted) {
            tell_reconnected(self.resume_from(), context.out.json);
        }
    }

    fn tell_where(&self, context: &Context) {
        let Some(index) = self.resume_from() else { return };
        if context.out.json {
            eprintln!("{}", json!({"resumeFrom": index}));
        } else {
            eprintln!("resume with --from {index}");
        }
    }
}

/// Says that a stream broke off and goes on, on standard error.
pub(super) fn tell_interrupted(status: &Status, retry_in: Duration, json: bool) {
    let retry_in_ms = u64::try_from(retry_in.as_millis()).unwrap_or(u64::MAX);
    if json {
        let interruption = json!({"message": status.message(), "retryInMs": retry_in_ms});
        eprintln!("{}", json!({ "interrupted": interruption }));
    } else {
        eprintln!("interrupted: {}; trying again in {retry_in_ms} ms", status.message());
    }
}

/// Says that it does go on, and from where if that is known.
pub(super) fn tell_reconnected(next_index: Option<u64>, json: bool) {
    match next_index {
        _ if json => eprintln!("{}", json!({"reconnected": {"nextIndex": next_index}})),
        Some(index) => eprintln!("connected again, going on from {index}"),
        None => eprintln!("connected again"),
    }
}
