//! The stream of an import: rows in, one answer at their end.
//!
//! Rows are gathered in windows, and those of a window go to the node in a random order: neighbours in a
//! file are no neighbours in the ledger. The rows of one person keep their order. A window is full after
//! [`IMPORT_WINDOW`] rows, or at a size, and does not wait for ever. While it is written nothing is read, and
//! flow control holds the client back. So an import of any length takes the memory of one message and one
//! window. It has no time limit as long as messages arrive. A drain ends it, and it is safe to send again.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use prost::Message as _;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::{
    convert::{self, LeftOut, Source, Tally},
    near::near_keys,
};
use crate::{
    config::RequestLimits,
    format::order::IMPORT_WINDOW,
    node::{ImportAnswer, ImportRow, Imported, Node, Refused},
    proto::{self, ErrorReason},
    status::{Fault, UnknownKey},
};

/// Maximum number of rows of one import that are in flight to the ledger.
const ROWS_IN_FLIGHT_MAX: usize = 512;
/// The size at which a window takes no more rows.
const WINDOW_BYTES_MAX: usize = 16 << 20;
/// How long rows of a slow stream wait for others: a stop among them must not wait for ever.
const WINDOW_TIME_MAX: Duration = Duration::from_secs(5);
const NANOS_PER_SECOND: u64 = 1_000_000_000;
/// For how many unknown keys of one import the near ones are looked for.
const NEAR_KEYS_MAX: usize = 100;
/// How much delay an import may make up for by going faster than its pace.
const CATCH_UP_MAX: Duration = Duration::from_millis(100);

/// Settings of every import.
#[derive(Debug, Clone)]
pub struct Imports {
    /// Maximum rows per second, and the time within which a message must arrive.
    pub limits: RequestLimits,
    /// Cancelled when the server drains.
    pub drain: CancellationToken,
}

/// Imports the rows of a stream.
///
/// # Errors
/// The stream as a whole is wrong, or the server failed. Rows that were recorded before stay.
pub(super) async fn import(
    node: &Node,
    imports: &Imports,
    messages: Streaming<proto::ImportConsentsRequest>,
) -> Result<proto::ImportConsentsResponse, Status> {
    tokio::select! {
        biased;
        () = imports.drain.cancelled() => Err(Fault::ShuttingDown.into()),
        answer = take_all(node, &imports.limits, messages) => answer,
    }
}

async fn take_all(
    node: &Node,
    limits: &RequestLimits,
    mut messages: Streaming<proto::ImportConsentsRequest>,
) -> Result<proto::ImportConsentsResponse, Status> {
    let time_max = limits.request_timeout;
    let source = convert::import_start(next(&mut messages, time_max).await?)?;
    let pace = Pace::new(limits.import_rows_per_second_max);
    let mut import = Import {
        node,
        source,
        pace,
        window: Window::default(),
        rows: 0,
        tally: Tally::default(),
        near: HashMap::new(),
    };
    loop {
        let until = import.window.until;
        let message = tokio::select! {
            biased;
            message = next(&mut messages, time_max) => message?,
            () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {
                import.write().await?;
                continue;
            }
        };
        let Some(message) = message else { return Ok(import.finish().await?) };
        for row in convert::import_rows(message)? {
            import.take(row).await?;
        }
    }
}

/// The next message, within a time limit.
async fn next(
    messages: &mut Streaming<proto::ImportConsentsRequest>,
    time_max: Duration,
) -> Result<Option<proto::ImportConsentsRequest>, Status> {
    let late = || Fault::DeadlineExceeded { limit_ms: time_max.as_millis() };
    timeout(time_max, messages.message()).await.unwrap_or_else(|_| Err(late().into()))
}

/// An import in progress.
struct Import<'a> {
    node: &'a Node,
    source: Source,
    pace: Pace,
    /// The rows that are still to be written.
    window: Window,
    /// Number of rows so far.
    rows: u64,
    tally: Tally,
    /// Keys that the catalogue lacks, with those that may have been meant.
    near: HashMap<UnknownKey, Vec<String>>,
}

/// Rows that are written together, in a random order.
#[derive(Default)]
struct Window {
    rows: Vec<proto::ImportRow>,
    bytes: usize,
    /// When they are written, although more would fit.
    until: Option<Instant>,
}

/// What became of a row, and what the act leaves out of it.
type Outcome = (Result<Imported, Fault>, LeftOut);

impl Import<'_> {
    /// Adds a row, and writes the window if it is full.
    async fn take(&mut self, row: proto::ImportRow) -> Result<(), Fault> {
        self.window.until.get_or_insert_with(|| Instant::now() + WINDOW_TIME_MAX);
        self.window.bytes += row.encoded_len();
        self.window.rows.push(row);
        if self.window.rows.len() < IMPORT_WINDOW && self.window.bytes < WINDOW_BYTES_MAX {
            return Ok(());
        }
        self.write().await
    }

    /// Writes the rows of the window, and counts what became of them in the order of the file.
    async fn write(&mut self) -> Result<(), Fault> {
        let rows = std::mem::take(&mut self.window).rows;
        let lines: Vec<u64> = rows.iter().map(|row| row.line).collect();
        let outcomes = self.write_rows(rows).await?;
        for (line, outcome) in lines.into_iter().zip(outcomes) {
            self.count(line, outcome)?;
        }
        Ok(())
    }

    /// The outcomes of rows, in their order.
    async fn write_rows(&mut self, rows: Vec<proto::ImportRow>) -> Result<Vec<Outcome>, Fault> {
        let mut outcomes: Vec<Option<Outcome>> = rows.iter().map(|_| None).collect();
        let (mut subjects, mut acts) = (Vec::new(), Vec::new());
        for (position, row) in rows.into_iter().enumerate() {
            self.rows += 1;
            let row_number = if row.line > 0 { row.line } else { self.rows };
            let names_its_act = !row.row_key.is_empty() || row.effective_at.is_some();
            match convert::import_row(&self.node.catalog().catalog, &self.source, row) {
                Err(invalid) => {
                    outcomes[position] = Some((Err(invalid.into()), LeftOut::default()));
                }
                Ok(None) => {
                    let unchanged = Imported::Unchanged(Refused::default());
                    outcomes[position] = Some((Ok(unchanged), LeftOut::default()));
                }
                Ok(Some((act, left_out))) => {
                    subjects.push(act.subject.clone());
                    let (dry_run, origin) = (self.source.dry_run, self.source.origin(row_number));
                    let row = ImportRow { act, names_its_act, dry_run, origin };
                    acts.push(Some((position, row, left_out)));
                }
            }
        }
        let mut in_flight: VecDeque<(usize, ImportAnswer, LeftOut)> = VecDeque::new();
        for place in self.node.order_of_rows(subjects).await? {
            let Some((position, row, left_out)) = acts[place].take() else { continue };
            self.pace.next().await;
            if in_flight.len() >= ROWS_IN_FLIGHT_MAX
                && let Some(first) = in_flight.pop_front()
            {
                answer(first, &mut outcomes).await;
            }
            in_flight.push_back((position, self.node.import(row).await?, left_out));
        }
        for row in in_flight {
            answer(row, &mut outcomes).await;
        }
        Ok(outcomes.into_iter().flatten().collect())
    }

    fn count(&mut self, line: u64, (result, left_out): Outcome) -> Result<(), Fault> {
        let mut left_out_beside = |refused: &Refused| {
            let unrecorded = left_out.unrecorded(refused.positions.len());
            self.tally.left_out(line, left_out.warnings(&refused.errors), unrecorded);
        };
        match result {
            Ok(Imported::Recorded(recorded)) => {
                let unrecorded = left_out.unrecorded(recorded.refused.positions.len());
                self.tally.left_out(line, left_out.all_warnings(&recorded), unrecorded);
                self.tally.recorded(&recorded);
            }
            Ok(Imported::Unchanged(refused)) => {
                left_out_beside(&refused);
                self.tally.unchanged();
            }
            Ok(Imported::Replayed { lifted }) => {
                let warnings = left_out.warnings(&[]).into_iter().chain(left_out.lifted(&lifted));
                self.tally.left_out(line, warnings.collect(), left_out.unrecorded(0));
                self.tally.replayed();
            }
            Err(fault) if is_of_the_server(&fault) => return Err(fault),
            Err(fault) => {
                let fault = self.with_near_keys(fault);
                self.tally.rejected(line, &fault);
            }
        }
        Ok(())
    }

    /// As [`near_keys`]. A file often has one misspelt key in many rows: it is looked for once.
    fn with_near_keys(&mut self, fault: Fault) -> Fault {
        let Some(unknown) = fault.unknown_key() else { return fault };
        if !self.near.contains_key(&unknown) && self.near.len() >= NEAR_KEYS_MAX {
            return fault;
        }
        let node = self.node;
        let keys = self.near.entry(unknown).or_insert_with_key(|unknown| near_keys(node, unknown));
        fault.did_you_mean(keys)
    }

    async fn finish(mut self) -> Result<proto::ImportConsentsResponse, Fault> {
        self.write().await?;
        Ok(self.tally.into_response(self.node.revision()))
    }
}

/// Waits for the answer to a row in flight, and puts it where the row stood.
async fn answer(
    (position, answer, left_out): (usize, ImportAnswer, LeftOut),
    outcomes: &mut [Option<Outcome>],
) {
    let result = answer.await.map_err(|error| left_out.locate(error).into());
    outcomes[position] = Some((result, left_out));
}

/// Whether the fault concerns every other row, too.
fn is_of_the_server(fault: &Fault) -> bool {
    matches!(
        fault.kind(),
        ErrorReason::WritesStopped | ErrorReason::ShuttingDown | ErrorReason::StateUnreadable
    )
}

/// Limits the rows per second.
struct Pace {
    /// None without a limit.
    interval: Option<Duration>,
    next_at: Instant,
}

impl Pace {
    fn new(rows_per_second_max: u64) -> Self {
        let nanos = NANOS_PER_SECOND.checked_div(rows_per_second_max);
        Self { interval: nanos.map(Duration::from_nanos), next_at: Instant::now() }
    }

    /// Waits until the next row may be taken.
    async fn next(&mut self) {
        let now = Instant::now();
        let at = self.next_after(now);
        if at > now {
            sleep_until(at).await;
        }
    }

    /// When the next row may be taken.
    fn next_after(&mut self, now: Instant) -> Instant {
        let Some(interval) = self.interval else { return now };
        let earliest = now.checked_sub(CATCH_UP_MAX).unwrap_or(now);
        let at = self.next_at.max(earliest);
        self.next_at = at + interval;
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_keep_to_their_pace_and_catch_up_a_little() {
        let start = Instant::now();
        let mut now = start;
        let mut pace = Pace::new(1_000);
        pace.next_at = start;
        let mut take = |rows: u32, now: &mut Instant| {
            for _ in 0..rows {
                *now = pace.next_after(*now).max(*now);
            }
        };
        take(501, &mut now);
        assert_eq!(now - start, Duration::from_millis(500));

        let idle = now + Duration::from_secs(60);
        now = idle;
        take(501, &mut now);
        assert_eq!(now - idle, Duration::from_millis(500) - CATCH_UP_MAX);
    }

    #[test]
    fn without_a_limit_no_row_waits() {
        let now = Instant::now();
        assert_eq!(Pace::new(0).next_after(now), now);
    }
}
