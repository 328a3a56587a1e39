//! What streams tell, on the screen: for `watch` and `subscription consume` alike.

use super::{
    error::CliError,
    output::Output,
    shapes::{CatalogTold, Event, LinkTold, OverdueTold, SnapshotEnd, SnapshotSubject, Watched},
};
use crate::proto::{consume_response, watch_response};

impl From<&watch_response::Message> for Watched {
    fn from(message: &watch_response::Message) -> Self {
        use watch_response::Message;
        match message {
            Message::Consent(own) => Self::Consent(own.into()),
            Message::Progress(own) => Self::Progress(own.into()),
            Message::Link(own) => Self::Link(own.into()),
            Message::Catalog(own) => Self::Catalog(own.into()),
            Message::Overdue(own) => Self::Overdue(own.into()),
            Message::Snapshot(own) => Self::Snapshot(own.into()),
            Message::SnapshotEnd(own) => Self::SnapshotEnd(own.into()),
        }
    }
}

/// What a consumer is told; none if it is only that it was let in.
pub fn consumed(message: &consume_response::Message) -> Option<Watched> {
    use consume_response::Message;
    Some(match message {
        Message::Started(_) => return None,
        Message::Consent(own) => Watched::Consent(own.into()),
        Message::Progress(own) => Watched::Progress(own.into()),
        Message::Link(own) => Watched::Link(own.into()),
        Message::Catalog(own) => Watched::Catalog(own.into()),
        Message::Overdue(own) => Watched::Overdue(own.into()),
        Message::Snapshot(own) => Watched::Snapshot(own.into()),
        Message::SnapshotEnd(own) => Watched::SnapshotEnd(own.into()),
    })
}

/// Nothing would end the stream in good order.
#[expect(clippy::needless_pass_by_value, reason = "it is given to map_err")]
pub fn no_signals(error: std::io::Error) -> CliError {
    CliError::failed(format!("the signals that end it can not be heard: {error}"))
}

/// Prints what was told, and flushes: whoever reads a stream reads it as it comes.
///
/// # Errors
/// Standard output takes no more.
pub fn print(told: &Watched, out: &mut Output) -> Result<(), CliError> {
    if out.json {
        out.object(told)?;
        return out.flush();
    }
    for line in lines(told) {
        out.line(line)?;
    }
    out.flush()
}

fn lines(told: &Watched) -> Vec<String> {
    match told {
        Watched::Consent(event) => consent(event),
        Watched::Link(event) => vec![link(event)],
        Watched::Catalog(event) => vec![catalog(event)],
        Watched::Overdue(event) => vec![overdue(event)],
        Watched::Snapshot(own) => snapshot(own),
        Watched::SnapshotEnd(SnapshotEnd { revision, subjects }) => {
            vec![format!("#{revision}  snapshot of {subjects} data subjects is complete")]
        }
        Watched::Progress(progress) => {
            let at = or_dash(progress.as_of.as_ref());
            vec![format!("#{}  {at}  nothing more so far", progress.next_index)]
        }
    }
}

fn or_dash(text: Option<&String>) -> &str {
    text.map_or("-", String::as_str)
}

fn consent(event: &Event) -> Vec<String> {
    let head =
        format!("#{}  {}  {}", event.index, or_dash(event.recorded_at.as_ref()), event.subject);
    let changes = event.changes.iter().map(|change| {
        let scope = &change.scope;
        format!(
            "{head}  {} {}:{}  {}  by {}",
            change.action, scope.purpose, scope.channel, change.outcome, event.actor
        )
    });
    let preferences = event.preferences_changed.then(|| {
        format!("{head}  wants to be contacted in another way: check again  by {}", event.actor)
    });
    changes.chain(preferences).collect()
}

fn link(event: &LinkTold) -> String {
    format!(
        "#{}  {}  {}  {} and {}: check both again",
        event.index,
        or_dash(event.recorded_at.as_ref()),
        event.confidence.as_deref().unwrap_or("unlinked"),
        event.subject,
        event.other_subject,
    )
}

fn catalog(event: &CatalogTold) -> String {
    let what = match (&event.purpose, &event.channel) {
        (Some(purpose), _) => format!("purpose {purpose}"),
        (None, Some(channel)) => format!("channel {channel}"),
        (None, None) => "catalogue".to_owned(),
    };
    format!(
        "#{}  {}  {what}  {}: check everybody again",
        event.index,
        or_dash(event.recorded_at.as_ref()),
        event.effects.join(", "),
    )
}

fn overdue(event: &OverdueTold) -> String {
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

fn snapshot(own: &SnapshotSubject) -> Vec<String> {
    let head = format!("#{}  snapshot  {}", own.revision, own.subject);
    let cells = own.cells.iter().map(|cell| {
        format!("{head}  {}:{}  {} {}", cell.purpose, cell.channel, cell.effect, cell.reason)
    });
    let stops = own.stops.iter().map(|stop| {
        let scope = &stop.scope;
        format!("{head}  {} of {}:{} stands", stop.action, scope.purpose, scope.channel)
    });
    cells.chain(stops).collect()
}
