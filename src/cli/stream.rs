//! Prints the messages of `watch` and `subscription consume`.

use prost::Name;

use super::{
    act_text::narrowing,
    error::CliError,
    output::Output,
    words::{rfc3339, scope_text, word},
};
use crate::{
    proto::{
        Action, Actor, CatalogEffect, CatalogEvent, ConsentEvent, ConsumeResponse, Effect,
        LinkConfidence, LinkEvent, Outcome, OverdueEvent, Progress, Reason, SnapshotEnd,
        SnapshotSubject, WatchResponse, consume_response, watch_response,
    },
    server::StopSignals,
};

/// Waits for SIGTERM and SIGINT, which end a stream.
///
/// # Errors
/// The signal handlers could not be installed.
pub fn stop_signals() -> Result<StopSignals, CliError> {
    StopSignals::new().map_err(|error| CliError::io("listening for signals", error))
}

/// Prints a message of `Watch`, and flushes: a reader may wait for it.
///
/// # Errors
/// The write to standard output failed.
pub fn print_watched(response: &WatchResponse, out: &mut Output) -> Result<(), CliError> {
    use watch_response::Message;
    let lines = response.message.as_ref().map(|message| match message {
        Message::Consent(event) => consent(event),
        Message::Link(event) => vec![link(event)],
        Message::Catalog(event) => vec![catalog(event)],
        Message::Overdue(event) => vec![overdue(event)],
        Message::Snapshot(subject) => snapshot(subject),
        Message::SnapshotEnd(end) => vec![snapshot_end(end)],
        Message::Progress(position) => vec![progress(position)],
    });
    print(response, lines, out)
}

/// Prints a message of `Consume`, as [`print_watched`] does.
///
/// # Errors
/// As [`print_watched`].
pub fn print_consumed(response: &ConsumeResponse, out: &mut Output) -> Result<(), CliError> {
    use consume_response::Message;
    let lines = response.message.as_ref().map(|message| match message {
        Message::Started(_) => Vec::new(),
        Message::Consent(event) => consent(event),
        Message::Link(event) => vec![link(event)],
        Message::Catalog(event) => vec![catalog(event)],
        Message::Overdue(event) => vec![overdue(event)],
        Message::Snapshot(subject) => snapshot(subject),
        Message::SnapshotEnd(end) => vec![snapshot_end(end)],
        Message::Progress(position) => vec![progress(position)],
    });
    print(response, lines, out)
}

fn print(
    response: &impl Name,
    lines: Option<Vec<String>>,
    out: &mut Output,
) -> Result<(), CliError> {
    if out.json {
        out.message(response)?;
    } else {
        lines.into_iter().flatten().try_for_each(|line| out.line(line))?;
    }
    out.flush()
}

fn snapshot_end(end: &SnapshotEnd) -> String {
    format!("#{}  snapshot of {} data subjects is complete", end.revision, end.subjects)
}

fn progress(progress: &Progress) -> String {
    format!("#{}  {}  nothing more so far", progress.next_index, or_dash(progress.as_of.as_ref()))
}

pub(super) fn or_dash(time: Option<&prost_types::Timestamp>) -> String {
    time.map_or_else(|| "-".to_owned(), rfc3339)
}

fn consent(event: &ConsentEvent) -> Vec<String> {
    let recorded_at = or_dash(event.recorded_at.as_ref());
    let head = format!("#{}  {recorded_at}  {}", event.index, event.subject);
    let actor = word::<Actor>(event.actor);
    let changes = event.changes.iter().map(|change| {
        let (action, outcome) = (word::<Action>(change.action), word::<Outcome>(change.outcome));
        let scope = scope_text(change.scope.as_ref());
        let only = narrowing(&change.data_categories).map(|only| format!("  {only}"));
        let only = only.unwrap_or_default();
        format!("{head}  {action} {scope}{only}  {outcome}  by {actor}")
    });
    let preferences = event
        .preferences_changed
        .then(|| format!("{head}  changed contact preferences: check again  by {actor}"));
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
    let keys =
        [("purpose", &event.purpose), ("channel", &event.channel), ("namespace", &event.namespace)];
    let changed = keys.iter().find(|(_, key)| !key.is_empty());
    let changed = changed.map_or_else(|| "catalogue".to_owned(), |(of, key)| format!("{of} {key}"));
    let effects: Vec<_> =
        event.effects.iter().map(|effect| word::<CatalogEffect>(*effect)).collect();
    format!(
        "#{}  {}  {changed}  {}: check all data subjects again",
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
