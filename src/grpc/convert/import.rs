//! Rows of an import, and their outcomes.

use std::collections::BTreeMap;

use prost::Message;

use super::{
    IMPORT_ROWS_MAX, Invalid, NAME_BYTES_MAX, Problem,
    act::{changes, contact, evidence},
    scalar::{actor, at_most, line_within, moment, subject},
};
use crate::{
    domain::{Actor, Catalog},
    node::{Act, Idempotency, Recorded},
    proto::{self, ErrorReason},
    status::Fault,
};

/// Maximum number of rejected rows that an answer lists.
const REJECTS_MAX: usize = 10_000;

/// The source of an import's rows, and whether they are written.
#[derive(Debug)]
pub struct Source {
    name: String,
    /// Whether nothing is written.
    pub dry_run: bool,
}

/// The start of an import.
///
/// # Errors
/// The first message does not start an import, or its source is wrong.
pub fn import_start(message: Option<proto::ImportConsentsRequest>) -> Result<Source, Invalid> {
    use proto::import_consents_request::Message::Start;
    let Some(Start(start)) = message.and_then(|message| message.message) else {
        return Err(Problem::Required.at("start"));
    };
    if start.source.is_empty() {
        return Err(Problem::Required.at("start.source"));
    }
    line_within(&start.source, NAME_BYTES_MAX, "start.source")?;
    Ok(Source { name: start.source, dry_run: start.dry_run })
}

/// The rows of a later message.
///
/// # Errors
/// The message has no rows, or too many.
pub fn import_rows(
    message: proto::ImportConsentsRequest,
) -> Result<Vec<proto::ImportRow>, Invalid> {
    use proto::import_consents_request::Message::{Rows, Start};
    match message.message {
        None => Err(Problem::Required.at("rows")),
        Some(Start(_)) => Err(Problem::OnlyFirst.at("start")),
        Some(Rows(rows)) => {
            at_most(rows.rows.len(), IMPORT_ROWS_MAX, "rows.rows")?;
            Ok(rows.rows)
        }
    }
}

/// The act of a row; none if the row is without content.
///
/// # Errors
/// The first field that is wrong.
pub fn import_row(
    catalog: &Catalog,
    source: &Source,
    row: proto::ImportRow,
) -> Result<Option<Act>, Invalid> {
    let subject = subject(catalog, &row.subject, "subject")?;
    let actor = match row.actor {
        unspecified if unspecified == i32::from(proto::Actor::Unspecified) => Actor::Import,
        number => actor(number, "actor")?,
    };
    let contact =
        contact(row.preferences.as_ref().unwrap_or(&proto::ContactPreferences::default()))
            .map_err(|invalid| invalid.within("preferences"))?;
    let changes = changes(&row.changes, true)?;
    let effective_at = row.effective_at.map(|at| moment(at, "effective_at")).transpose()?;
    line_within(&row.row_key, NAME_BYTES_MAX, "row_key")?;
    if changes.is_empty() && contact.is_empty() {
        return Ok(None);
    }
    let idempotency = Some(identity(source, row.clone()));
    let evidence = evidence(row.evidence.unwrap_or_default(), actor)?;
    let evidence = evidence.with_subject_given(&row.subject, &subject);
    if actor.speaks_for_subject() && evidence.method.is_empty() {
        return Err(Problem::Required.at("evidence.method"));
    }
    // Without it, an old grant would count as an act of today and override later withdrawals.
    if actor.speaks_for_subject() && effective_at.is_none() {
        return Err(Problem::Required.at("effective_at"));
    }
    let confirmation_validity_ms = None;
    Ok(Some(Act {
        subject,
        actor,
        changes,
        contact,
        effective_at,
        evidence,
        idempotency,
        confirmation_validity_ms,
    }))
}

/// A row is identified by its key within its source or, without a key, by a hash of its content. A key
/// that a caller gives an act has no control character, so an act is never taken for a row.
fn identity(source: &Source, mut row: proto::ImportRow) -> Idempotency {
    let mut row_key = std::mem::take(&mut row.row_key);
    row.line = 0;
    let content = row.encode_to_vec();
    if row_key.is_empty() {
        row_key = blake3::hash(&content).to_hex().to_string();
    }
    Idempotency {
        key: format!("import\0{}\0{row_key}", source.name),
        request: [b"import".as_slice(), &content].concat(),
    }
}

/// The outcomes of the rows so far.
#[derive(Debug, Default)]
pub struct Tally {
    rows: u64,
    recorded: u64,
    unchanged: u64,
    replayed: u64,
    rejected: u64,
    outcomes: BTreeMap<proto::Outcome, u64>,
    rejects: Vec<proto::ImportReject>,
}

impl Tally {
    /// Counts a row that was recorded.
    pub fn recorded(&mut self, recorded: &Recorded) {
        self.rows += 1;
        self.recorded += 1;
        for change in &recorded.changes {
            *self.outcomes.entry(change.outcome.into()).or_default() += 1;
        }
    }

    /// Counts a row without a new fact.
    pub fn unchanged(&mut self) {
        self.rows += 1;
        self.unchanged += 1;
    }

    /// Counts a row that was imported before.
    pub fn replayed(&mut self) {
        self.rows += 1;
        self.replayed += 1;
    }

    /// Counts a row that was refused.
    pub fn rejected(&mut self, line: u64, fault: &Fault) {
        self.rows += 1;
        self.rejected += 1;
        if self.rejects.len() < REJECTS_MAX {
            self.rejects.push(reject(line, fault));
        }
    }

    /// The answer.
    #[must_use]
    pub fn into_response(self, revision: u64) -> proto::ImportConsentsResponse {
        let count = |(outcome, count): (proto::Outcome, u64)| proto::OutcomeCount {
            outcome: outcome.into(),
            count,
        };
        proto::ImportConsentsResponse {
            rows: self.rows,
            recorded: self.recorded,
            unchanged: self.unchanged,
            replayed: self.replayed,
            rejected: self.rejected,
            outcomes: self.outcomes.into_iter().map(count).collect(),
            rejects: self.rejects,
            revision,
        }
    }
}

fn reject(line: u64, fault: &Fault) -> proto::ImportReject {
    let field = match fault.kind() {
        ErrorReason::IdempotencyKeyReused => "row_key".to_owned(),
        _ => fault.field(),
    };
    proto::ImportReject {
        line,
        field,
        reason: fault.kind().reason().to_owned(),
        message: fault.message(),
    }
}
