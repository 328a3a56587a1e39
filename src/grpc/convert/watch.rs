//! Requests of watchers and auditors.

use std::{collections::BTreeSet, time::Duration};

use crate::{
    domain::{Filter, KEY_BYTES_MAX, Snapshot},
    proto,
};

use super::{
    FILTER_VALUES_MAX, Invalid, PROGRESS_MS_DEFAULT, PROGRESS_MS_MAX, PROGRESS_MS_MIN, Problem,
    scalar::{at_most, event_kind, key, purpose_name, span_ms_within, std_duration, text_within},
    subscription::snapshot,
};

/// The parameters of a watch.
#[derive(Debug, Clone)]
pub struct Watching {
    /// First index to consider; none means the first after now.
    pub start: Option<u64>,
    /// Which events.
    pub filter: Filter,
    /// Interval of progress messages on an idle stream.
    pub progress_interval: Duration,
    /// The snapshot that comes before the events.
    pub snapshot: Option<Snapshot>,
    /// Where the snapshot continues; empty means at its beginning.
    pub snapshot_token: Vec<u8>,
}

/// The watch that a request asks for.
///
/// # Errors
/// The first field that is wrong.
pub fn watching(request: proto::WatchRequest) -> Result<Watching, Invalid> {
    let limits = (PROGRESS_MS_MIN, PROGRESS_MS_MAX);
    let interval_ms = match request.progress_interval {
        None => PROGRESS_MS_DEFAULT,
        Some(span) => span_ms_within(span, "progress_interval", limits)?,
    };
    let snapshot = snapshot(request.snapshot, "snapshot")?;
    if snapshot.is_some() && request.start_index.is_some() {
        return Err(Problem::NotWith("snapshot").at("start_index"));
    }
    if snapshot.is_none() && !request.snapshot_token.is_empty() {
        return Err(Problem::Required.at("snapshot"));
    }
    Ok(Watching {
        snapshot,
        snapshot_token: request.snapshot_token,
        start: request.start_index,
        filter: filter(&request.filter.unwrap_or_default())
            .map_err(|invalid| invalid.within("filter"))?,
        progress_interval: std_duration(interval_ms),
    })
}

/// A filter.
///
/// # Errors
/// The first field that is wrong.
pub fn filter(message: &proto::WatchFilter) -> Result<Filter, Invalid> {
    Ok(Filter {
        purposes: set(&message.purposes, "purposes", |text| purpose_name(text, "purposes"))?,
        channels: set(&message.channels, "channels", |text| key(text, "channels"))?,
        kinds: set(&message.kinds, "kinds", |number| event_kind(*number, "kinds"))?,
        namespaces: set(&message.namespaces, "namespaces", |text| namespace(text))?,
    })
}

/// A list as a set, every value of it parsed.
fn set<From, To: Ord>(
    values: &[From],
    field: &'static str,
    parse: impl Fn(&From) -> Result<To, Invalid>,
) -> Result<BTreeSet<To>, Invalid> {
    at_most(values.len(), FILTER_VALUES_MAX, field)?;
    let with_position = |(position, value)| {
        parse(value).map_err(|invalid| invalid.problem.at(format!("{field}[{position}]")))
    };
    values.iter().enumerate().map(with_position).collect()
}

fn namespace(text: &str) -> Result<String, Invalid> {
    if text.is_empty() {
        return Err(Problem::Required.at("namespaces"));
    }
    text_within(text, KEY_BYTES_MAX, "namespaces")?;
    if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b)) {
        return Err(Problem::Namespace.at("namespaces"));
    }
    Ok(text.to_ascii_lowercase())
}

/// A range of indexes; without an end it is open.
///
/// # Errors
/// The end lies before the start.
pub fn index_range(start: u64, end: Option<u64>) -> Result<(u64, Option<u64>), Invalid> {
    if end.is_some_and(|end| end < start) {
        return Err(Problem::EndBeforeStart.at("end_index"));
    }
    Ok((start, end))
}
