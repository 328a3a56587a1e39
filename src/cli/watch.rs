//! `watch`: follows what changes.

use std::pin::pin;

use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};
use serde_json::json;
use tonic::Streaming;

use super::{
    Context, Exit, client,
    error::CliError,
    shapes::{Event, LinkTold, Progress, Watched},
    words,
};
use crate::proto::{
    EventKind, WatchFilter, WatchRequest, WatchResponse, watch_response::Message,
    watch_service_client::WatchServiceClient,
};

const AFTER_HELP: &str = "\
Without --kind, everything but grants is told. When the stream ends, by Ctrl-C or
by --count, the index to resume from is told on standard error.

Examples:
  consent-ledger watch --purpose marketing.newsletter
  consent-ledger watch --from 0 --kind withdraw --kind object --json";

/// Options of `watch`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct WatchArgs {
    /// Ledger index to start at [default: now]
    #[arg(long, value_name = "INDEX")]
    from: Option<u64>,
    /// Only this purpose; may be given many times
    #[arg(long, value_name = "KEY", value_delimiter = ',')]
    purpose: Vec<String>,
    /// Only this channel; may be given many times
    #[arg(long, value_name = "KEY", value_delimiter = ',')]
    channel: Vec<String>,
    /// Only this kind; may be given many times
    #[arg(long, value_delimiter = ',', value_parser = kind())]
    kind: Vec<EventKind>,
    /// Only subjects of this namespace; may be given many times
    #[arg(long, value_name = "NAMESPACE", value_delimiter = ',')]
    namespace: Vec<String>,
    /// Print how far the stream has come, too
    #[arg(long)]
    progress: bool,
    /// End after this many events
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

fn kind() -> impl TypedValueParser<Value = EventKind> {
    PossibleValuesParser::new(["grant", "refuse", "withdraw", "object", "expire", "link"])
        .try_map(|word| words::parse::<EventKind>(&word))
}

pub(super) async fn run(args: WatchArgs, context: &mut Context) -> Result<Exit, CliError> {
    let mut client = WatchServiceClient::new(client::connect(&context.global).await?)
        .max_decoding_message_size(client::MESSAGE_BYTES_MAX);
    let stream = client.watch(request(&args)).await?.into_inner();
    let mut follower = Follower { next_index: args.from, left: args.count, show: args.progress };
    let ended = follower.follow(stream, context).await;
    follower.tell_where(context);
    ended.map(|()| Exit::Success)
}

fn request(args: &WatchArgs) -> WatchRequest {
    WatchRequest {
        start_index: args.from,
        filter: Some(WatchFilter {
            purposes: args.purpose.clone(),
            channels: args.channel.clone(),
            kinds: args.kind.iter().map(|kind| (*kind).into()).collect(),
            namespaces: args.namespace.clone(),
        }),
        progress_interval: None,
        ..WatchRequest::default()
    }
}

/// Where the stream is.
struct Follower {
    next_index: Option<u64>,
    left: Option<u64>,
    show: bool,
}

impl Follower {
    async fn follow(
        &mut self,
        mut stream: Streaming<WatchResponse>,
        context: &mut Context,
    ) -> Result<(), CliError> {
        let mut interrupt = pin!(tokio::signal::ctrl_c());
        while self.left != Some(0) {
            let message = tokio::select! {
                message = stream.message() => message?,
                _ = &mut interrupt => return Ok(()),
            };
            match message {
                Some(WatchResponse { message: Some(message) }) => self.print(&message, context)?,
                Some(WatchResponse { message: None }) => {}
                None => return Err(CliError::failed("the server ended the stream")),
            }
        }
        Ok(())
    }

    fn print(&mut self, message: &Message, context: &mut Context) -> Result<(), CliError> {
        match message {
            Message::Consent(event) => {
                print_event(&event.into(), context)?;
                self.next_index = Some(event.index.saturating_add(1));
                self.left = self.left.map(|left| left.saturating_sub(1));
            }
            Message::Link(link) => {
                print_link(link.into(), context)?;
                self.next_index = Some(link.index.saturating_add(1));
                self.left = self.left.map(|left| left.saturating_sub(1));
            }
            // Asked for by nobody yet.
            Message::Catalog(_) | Message::Overdue(_) => {}
            Message::Snapshot(_) | Message::SnapshotEnd(_) => {}
            Message::Progress(progress) => {
                if self.show {
                    print_progress(progress.into(), context)?;
                }
                self.next_index = Some(progress.next_index);
            }
        }
        Ok(())
    }

    fn tell_where(&self, context: &Context) {
        let Some(index) = self.next_index else { return };
        if context.out.json {
            eprintln!("{}", json!({"resume_from": index}));
        } else {
            eprintln!("resume with --from {index}");
        }
    }
}

fn print_event(event: &Event, context: &mut Context) -> Result<(), CliError> {
    let out = &mut context.out;
    if out.json {
        out.object(&Watched::Consent(event.clone()))?;
        return out.flush();
    }
    for change in &event.changes {
        out.line(format!(
            "#{}  {}  {}  {} {}:{}  {}  by {}",
            event.index,
            event.recorded_at.as_deref().unwrap_or("-"),
            event.subject,
            change.action,
            change.scope.purpose,
            change.scope.channel,
            change.outcome,
            event.actor,
        ))?;
    }
    out.flush()
}

fn print_link(link: LinkTold, context: &mut Context) -> Result<(), CliError> {
    let out = &mut context.out;
    if out.json {
        out.object(&Watched::Link(link))?;
    } else {
        let what = link.confidence.as_deref().unwrap_or("unlinked");
        out.line(format!(
            "#{}  {}  {}  {} and {}: check both again",
            link.index,
            link.recorded_at.as_deref().unwrap_or("-"),
            what,
            link.subject,
            link.other_subject,
        ))?;
    }
    out.flush()
}

fn print_progress(progress: Progress, context: &mut Context) -> Result<(), CliError> {
    let out = &mut context.out;
    if out.json {
        out.object(&Watched::Progress(progress))?;
    } else {
        let at = progress.as_of.as_deref().unwrap_or("-");
        out.line(format!("#{}  {at}  nothing more so far", progress.next_index))?;
    }
    out.flush()
}
