//! `ConsentService.ImportConsents`: rows in, one answer out.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};
use tonic::{Status, Streaming};

use super::convert::{self, ImportSource};
use crate::{
    node::{Imported, Importing, Node},
    proto::{self, import_consents_request::Message},
    status::{Fault, Kind, Problem},
};

/// The greatest number of rows of one stream that are on their way to the disk.
const ROWS_IN_FLIGHT_MAX: usize = 512;
/// The greatest number of rows in a message.
const ROWS_MAX: usize = 1_000;
/// The greatest number of rejects in an answer.
const REJECTS_MAX: usize = 10_000;

/// Takes all rows of a stream.
pub(super) async fn run(
    node: &Node,
    rows_per_second_max: u64,
    mut stream: Streaming<proto::ImportConsentsRequest>,
) -> Result<proto::ImportConsentsResponse, Status> {
    let source = match stream.message().await? {
        Some(proto::ImportConsentsRequest { message: Some(Message::Start(start)) }) => {
            convert::import_source(start)?
        }
        _ => return Err(Problem::First.at("start").into()),
    };
    let mut import = Import {
        node,
        source,
        rows_per_second_max,
        started: Instant::now(),
        in_flight: VecDeque::new(),
        answer: proto::ImportConsentsResponse::default(),
        outcomes: BTreeMap::new(),
    };
    while let Some(request) = stream.message().await? {
        match request.message {
            Some(Message::Rows(rows)) => import.take(rows.rows).await?,
            Some(Message::Start(_)) => return Err(Problem::First.at("start").into()),
            None => return Err(Problem::Required.at("message").into()),
        }
    }
    import.finish().await
}

/// An import on its way.
struct Import<'a> {
    node: &'a Node,
    source: ImportSource,
    rows_per_second_max: u64,
    started: Instant,
    in_flight: VecDeque<(u64, Importing)>,
    answer: proto::ImportConsentsResponse,
    outcomes: BTreeMap<i32, u64>,
}

impl Import<'_> {
    async fn take(&mut self, rows: Vec<proto::ImportRow>) -> Result<(), Fault> {
        if rows.len() > ROWS_MAX {
            let got = rows.len();
            return Err(Problem::TooMany { limit: ROWS_MAX, got }.at("rows.rows").into());
        }
        for row in rows {
            self.pace().await;
            self.answer.rows += 1;
            let line = row.line;
            match convert::import_row(&self.source, row) {
                Ok(None) => self.answer.unchanged += 1,
                Ok(Some(act)) => {
                    let importing = self.node.import(act, self.source.dry_run).await?;
                    self.in_flight.push_back((line, importing));
                }
                Err(invalid) => self.reject(line, &invalid.into()),
            }
            while self.in_flight.len() >= ROWS_IN_FLIGHT_MAX {
                self.settle_first().await?;
            }
        }
        Ok(())
    }

    /// Keeps to the greatest number of rows a second, if there is one.
    async fn pace(&self) {
        if let Some(nanos) =
            self.answer.rows.saturating_mul(1_000_000_000).checked_div(self.rows_per_second_max)
        {
            sleep_until(self.started + Duration::from_nanos(nanos)).await;
        }
    }

    async fn settle_first(&mut self) -> Result<(), Fault> {
        let Some((line, importing)) = self.in_flight.pop_front() else { return Ok(()) };
        match importing.answer().await {
            Ok(Imported::Unchanged) => self.answer.unchanged += 1,
            Ok(Imported::Replayed) => self.answer.replayed += 1,
            Ok(Imported::Recorded(changes)) => {
                self.answer.recorded += 1;
                for change in changes {
                    let outcome = proto::Outcome::from(change.outcome);
                    *self.outcomes.entry(outcome.into()).or_default() += 1;
                }
            }
            Err(error) => {
                let fault = Fault::from(error);
                if ends_the_import(fault.kind()) {
                    return Err(fault);
                }
                self.reject(line, &fault);
            }
        }
        Ok(())
    }

    fn reject(&mut self, line: u64, fault: &Fault) {
        self.answer.rejected += 1;
        if self.answer.rejects.len() < REJECTS_MAX {
            self.answer.rejects.push(proto::ImportReject {
                line,
                field: fault.field(),
                reason: fault.kind().reason().to_owned(),
                message: fault.message(),
            });
        }
    }

    async fn finish(mut self) -> Result<proto::ImportConsentsResponse, Status> {
        while !self.in_flight.is_empty() {
            self.settle_first().await?;
        }
        let count = |(outcome, count)| proto::OutcomeCount { outcome, count };
        self.answer.outcomes = self.outcomes.into_iter().map(count).collect();
        // A reject that waited for nobody may have come before one that did.
        self.answer.rejects.sort_by_key(|reject| reject.line);
        self.answer.revision = self.node.revision();
        Ok(self.answer)
    }
}

/// Whether a fault is the server's and not the row's.
fn ends_the_import(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::WritesStopped | Kind::ShuttingDown | Kind::StateUnreadable | Kind::Internal
    )
}
