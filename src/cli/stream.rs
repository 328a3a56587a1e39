//! Messages of a stream, on the screen: for `watch` and `subscription consume` alike.

use prost::Name;

use super::{
    error::CliError,
    output::Output,
    words::{rfc3339, scope_text, word},
};
use crate::proto::{
    Action, Actor, CatalogEffect, CatalogEvent, ConsentEvent, ConsumeResponse, Effect,
    LinkConfidence, LinkEvent, Outcome, OverdueEvent, Progress, Reason, SnapshotEnd,
    SnapshotSubject, WatchResponse, consume_response, watch_response,
};

/// Nothing would end the stream in good order.
#[expect(clippy::needless_pass_by_value, reason = "it is given to map_err")]
pub fn no_signals(error: std::io::Error) -> CliError {
    CliError::failed(format!("the signals that end it can not be heard: {error}"))
}

/// Prints what a watcher hears, and flushes: a stream is read as it comes.
///
/// # Errors
/// Standard output takes no more.
pub fn print_watched(response: &WatchResponse, out: &mut Output) -> Result<(), CliError> {
    use watch_response::Message;
    let content = response.message.as_ref().map(|message| match message {
        Message::Consent(event) => Content::Consent(event),
        Message::Link(event) => Content::Link(event),
        Message::Catalog(event) => Content::Catalog(event),
        Message::Overdue(event) => Content::Overdue(event),
        Message::Snapshot(subject) => Content::Snapshot(subject),
        Message::SnapshotEnd(end) => Content::SnapshotEnd(end),
        Message::Progress(progress) => Content::Progress(progress),
    });
    print(response, content, out)
}

/// As [`print_watched`], for what a consumer hears.
///
/// # Errors
/// As [`print_watched`].
pub fn print_consumed(response: &ConsumeResponse, out: &mut Output) -> Result<(), CliError> {
    use consume_response::Message;
    let content = response.message.as_ref().and_then(|message| match message {
        Message::Started(_) => None,
        Message::Consent(event) => Some(Content::Consent(event)),
        Message::Link(event) => Some(Content::Link(event)),
        Message::Catalog(event) => Some(Content::Catalog(event)),
        Message::Overdue(event) => Some(Content::Overdue(event)),
        Message::Snapshot(subject) => Some(Content::Snapshot(subject)),
        Message::SnapshotEnd(end) => Some(Content::SnapshotEnd(end)),
        Message::Progress(progress) => Some(Content::Progress(progress)),
    });
    print(response, content, out)
}

/// What both streams send.
#[derive(Clone, Copy)]
enum Content<'a> {
    Consent(&'a ConsentEvent),
    Link(&'a LinkEvent),
    Catalog(&'a CatalogEvent),
    Overdue(&'a OverdueEvent),
    Snapshot(&'a SnapshotSubject),
    SnapshotEnd(&'a SnapshotEnd),
    Progress(&'a Progress),
}

fn print(
    response: &impl Name,
    content: Option<Content<'_>>,
    out: &mut Output,
) -> Result<(), CliError> {
    if out.json {
        out.message(response)?;
        return out.flush();
    }
    for line in content.iter().flat_map(lines) {
        out.line(line)?;
    }
    out.flush()
}

fn lines(content: &Content<'_>) -> Vec<String> {
    match content {
        Content::Consent(event) => consent(event),
        Content::Link(event) => vec![link(event)],
        Content::Catalog(event) => vec![catalog(event)],
        Content::Overdue(event) => vec![overdue(event)],
        Content::Snapshot(subject) => snapshot(subject),
        Content::SnapshotEnd(SnapshotEnd { revision, subjects }) => {
            vec![format!("#{revision}  snapshot of {subjects} data subjects is complete")]
        }
        Content::Progress(progress) => {
            let as_of = or_dash(progress.as_of.as_ref());
            vec![format!("#{}  {as_of}  nothing more so far", progress.next_index)]
        }
    }
}

fn or_dash(time: Option<&prost_types::Timestamp>) -> String {
    time.map_or_else(|| "-".to_owned(), rfc3339)
}

fn consent(event: &ConsentEvent) -> Vec<String> {
    let recorded_at = or_dash(event.recorded_at.as_ref());
    let head = format!("#{}  {recorded_at}  {}", event.index, event.subject);
    let actor = word::<Actor>(event.actor);
    let changes = event.changes.iter().map(|change| {
        let (action, outcome) = (word::<Action>(change.action), word::<Outcome>(change.outcome));
        format!("{head}  {action} {}  {outcome}  by {actor}", scope_text(change.scope.as_ref()))
    });
    let preferences = event
        .preferences_changed
        .then(|| format!("{head}  wants to be contacted in another way: check again  by {actor}"));
    changes.chain(preferences).collect()
}

fn link(event: &LinkEvent) -> String {
    let confidence = match event.confidence() {
        LinkConfidence::Unspecified => "unlinked".to_owned(),
        _ => word::<LinkConfidence>(event.confidence),
    };
    format!(
        "#{}  {}  {confidence}  {} and {}: check both again",
        event.index,
        or_dash(event.recorded_at.as_ref()),
        event.subject,
        event.other_subject,
    )
}

fn catalog(event: &CatalogEvent) -> String {
    let changed = match (event.purpose.as_str(), event.channel.as_str()) {
        ("", "") => "catalogue".to_owned(),
        ("", channel) => format!("channel {channel}"),
        (purpose, _) => format!("purpose {purpose}"),
    };
    let effects: Vec<_> =
        event.effects.iter().map(|effect| word::<CatalogEffect>(*effect)).collect();
    format!(
        "#{}  {}  {changed}  {}: check everybody again",
        event.index,
        or_dash(event.recorded_at.as_ref()),
        effects.join(", "),
    )
}

fn overdue(event: &OverdueEvent) -> String {
    format!(
        "#{}  {}  subscription {} shard {} is overdue: #{} is unacknowledged since {}",
        event.index,
        or_dash(event.recorded_at.as_ref()),
        event.subscription,
        event.shard,
        event.event_index,
        or_dash(event.pending_since.as_ref()),
    )
}

fn snapshot(subject: &SnapshotSubject) -> Vec<String> {
    let head = format!("#{}  snapshot  {}", subject.revision, subject.subject);
    let cells = subject.cells.iter().map(|cell| {
        let (effect, reason) = (word::<Effect>(cell.effect), word::<Reason>(cell.reason));
        format!("{head}  {}:{}  {effect} {reason}", cell.purpose, cell.channel)
    });
    let stops = subject.stops.iter().map(|stop| {
        let action = word::<Action>(stop.action);
        format!("{head}  {action} of {} stands", scope_text(stop.scope.as_ref()))
    });
    cells.chain(stops).collect()
}
