//! The stream of an import: rows in, one answer at their end.
//!
//! Rows are handed to the node in their order, and only so many at a time: while there is no place
//! for the next, nothing more is read, and the client is held up by its own connection. So an import
//! of any length takes the memory of a message and of the rows in flight. It may take as long as its
//! messages keep coming; when the server drains it ends, and is safe to send again.

use std::{collections::VecDeque, time::Duration};

use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::convert::{self, Source, Tally};
use crate::{
    config::RequestLimits,
    node::{ImportAnswer, ImportRow, Imported, Node},
    proto::{self, ErrorReason},
    status::Fault,
};

/// The greatest number of rows of one import that are on their way to the ledger.
const ROWS_IN_FLIGHT_MAX: usize = 512;
const NANOS_PER_SECOND: u64 = 1_000_000_000;
/// How far an import that had to wait may catch up with its pace.
const CATCH_UP_MAX: Duration = Duration::from_millis(100);

/// What holds for every import.
#[derive(Debug, Clone)]
pub struct Imports {
    /// How fast rows are taken, and how long a message may take to come.
    pub limits: RequestLimits,
    /// Cancelled when the server drains.
    pub drain: CancellationToken,
}

/// Imports what a stream brings.
///
/// # Errors
/// What is wrong with the stream as a whole, or with the server. What was recorded until then stays.
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
    let patience = limits.request_timeout;
    let source = convert::import_start(next(&mut messages, patience).await?)?;
    let pace = Pace::new(limits.import_rows_per_second_max);
    let mut import =
        Import { node, source, pace, in_flight: VecDeque::new(), tally: Tally::default() };
    while let Some(message) = next(&mut messages, patience).await? {
        for row in convert::import_rows(message)? {
            import.take(row).await?;
        }
    }
    Ok(import.finish().await?)
}

/// The next message, which may take only so long.
async fn next(
    messages: &mut Streaming<proto::ImportConsentsRequest>,
    patience: Duration,
) -> Result<Option<proto::ImportConsentsRequest>, Status> {
    let late = || Fault::DeadlineExceeded { limit_ms: patience.as_millis() };
    timeout(patience, messages.message()).await.unwrap_or_else(|_| Err(late().into()))
}

/// What is known of a row.
enum Answer {
    Now(Result<Imported, Fault>),
    OnceLanded(ImportAnswer),
}

/// An import on its way.
struct Import<'a> {
    node: &'a Node,
    source: Source,
    pace: Pace,
    /// Lines and answers, in the order of the rows.
    in_flight: VecDeque<(u64, Answer)>,
    tally: Tally,
}

impl Import<'_> {
    async fn take(&mut self, row: proto::ImportRow) -> Result<(), Fault> {
        self.pace.next().await;
        if self.in_flight.len() >= ROWS_IN_FLIGHT_MAX {
            self.count_first().await?;
        }
        let line = row.line;
        let answer = match convert::import_row(&self.source, row) {
            Err(invalid) => Answer::Now(Err(invalid.into())),
            Ok(None) => Answer::Now(Ok(Imported::Unchanged)),
            Ok(Some(act)) => {
                let row = ImportRow { act, dry_run: self.source.dry_run };
                Answer::OnceLanded(self.node.import(row).await?)
            }
        };
        self.in_flight.push_back((line, answer));
        Ok(())
    }

    /// Counts the first row in flight, and answers whether there was one.
    async fn count_first(&mut self) -> Result<bool, Fault> {
        let Some((line, answer)) = self.in_flight.pop_front() else { return Ok(false) };
        let result = match answer {
            Answer::Now(result) => result,
            Answer::OnceLanded(answer) => answer.await.map_err(Fault::from),
        };
        match result {
            Ok(Imported::Recorded(recorded)) => self.tally.recorded(&recorded),
            Ok(Imported::Unchanged) => self.tally.unchanged(),
            Ok(Imported::Replayed) => self.tally.replayed(),
            Err(fault) if is_of_the_server(&fault) => return Err(fault),
            Err(fault) => self.tally.rejected(line, &fault),
        }
        Ok(true)
    }

    async fn finish(mut self) -> Result<proto::ImportConsentsResponse, Fault> {
        while self.count_first().await? {}
        Ok(self.tally.into_response(self.node.revision()))
    }
}

/// Whether a fault would meet every other row too.
fn is_of_the_server(fault: &Fault) -> bool {
    matches!(
        fault.kind(),
        ErrorReason::WritesStopped | ErrorReason::ShuttingDown | ErrorReason::StateUnreadable
    )
}

/// Keeps rows to a number a second.
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
