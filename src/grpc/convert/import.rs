//! Rows of an import, and their outcomes.

use std::collections::BTreeMap;

use prost::Message;

use super::{
    IMPORT_ROWS_MAX, Invalid, NAME_BYTES_MAX, Problem,
    act::{Origin, changes, contact, evidence, optional_moment},
    faults::{Faults, LeftOut},
    scalar::{actor, at_most, line_within, subject},
};
use crate::{
    domain::{Actor, Catalog, ImportOrigin},
    node::{Act, Idempotency, Recorded},
    proto::{self, ErrorReason},
    status::Fault,
};

/// Maximum number of rejected rows that an answer lists.
const REJECTS_MAX: usize = 10_000;

/// Maximum number of warnings that an answer lists.
const WARNINGS_MAX: usize = 10_000;

/// The source of an import's rows, and whether they are written.
#[derive(Debug)]
pub struct Source {
    name: String,
    /// Whether nothing is written.
    pub dry_run: bool,
}

impl Source {
    /// Where a row of it stands, from 1.
    #[must_use]
    pub fn origin(&self, row: u64) -> ImportOrigin {
        ImportOrigin { source: self.name.clone(), row }
    }
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

/// The act of a row, and what it leaves out of the row; none if the row is without content.
///
/// # Errors
/// The first field that is wrong, unless the row has a stop whose subject and scope are clear.
pub fn import_row(
    catalog: &Catalog,
    source: &Source,
    mut row: proto::ImportRow,
) -> Result<Option<(Act, LeftOut)>, Invalid> {
    let subject = subject(catalog, &row.subject, "subject")?;
    let mut faults = Faults::default();
    let actor = row_actor(row.actor, &mut faults);
    let preferences = row.preferences.as_ref();
    let contact = contact(preferences.unwrap_or(&Default::default()), actor, &mut faults);
    let content = row.clone();
    let mut changes = changes(std::mem::take(&mut row.changes), true, Origin::Row, &mut faults)?;
    let stopped = changes.take_stopped_grants();
    let effective_at = optional_moment(row.effective_at, "effective_at", &mut faults);
    let row_key = line_within(&row.row_key, NAME_BYTES_MAX, "row_key");
    let row_key = row_key.map(|()| row.row_key.clone());
    let row_key = faults.value(row_key, || row.row_key.clone());
    if changes.requested.is_empty() && contact.is_empty() && faults.is_empty() {
        return Ok(None);
    }
    let evidence = evidence(row.evidence.unwrap_or_default(), actor, &mut faults);
    let evidence = evidence.with_subject_given(&row.subject, &subject);
    if actor.speaks_for_subject() && evidence.method.is_empty() {
        faults.add(Problem::Required.at("evidence.method"), "");
    }
    // Without it, an old grant would count as an act of today and override later withdrawals.
    if actor.speaks_for_subject() && effective_at.is_none() && row.effective_at.is_none() {
        faults.add(Problem::Required.at("effective_at"), "");
    }
    let mut act = Act {
        subject,
        actor,
        changes: Vec::new(),
        contact,
        effective_at,
        evidence,
        idempotency: Some(identity(source, proto::ImportRow { row_key, ..content })),
        reported_late: true,
        record_only_news: false,
        confirmation_validity_ms: None,
    };
    let left_out = faults.settle(&mut act, changes)?.and_stopped_grants(stopped);
    Ok(Some((act, left_out)))
}

/// Who acted: IMPORT, unless the row says somebody else.
fn row_actor(number: i32, faults: &mut Faults) -> Actor {
    if number == i32::from(proto::Actor::Unspecified) {
        return Actor::Import;
    }
    let actor = actor(number, "actor").map(Some);
    faults.value(actor, || number.to_string()).unwrap_or(Actor::Import)
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
    warned: u64,
    warnings: Vec<proto::ImportWarning>,
    changes_of_linked_subjects: u64,
}

impl Tally {
    /// Counts what was left out of a row.
    pub fn left_out(&mut self, line: u64, warnings: Vec<proto::Warning>, unrecorded: usize) {
        if unrecorded > 0 {
            let count = self.outcomes.entry(proto::Outcome::NotRecorded).or_default();
            *count += u64::try_from(unrecorded).unwrap_or(u64::MAX);
        }
        self.warned += u64::from(!warnings.is_empty());
        let room = WARNINGS_MAX - self.warnings.len();
        self.warnings.extend(warnings.into_iter().take(room).map(|warning| {
            let proto::Warning { field, reason, message } = warning;
            proto::ImportWarning { line, field, reason, message }
        }));
    }

    /// Counts a row that was recorded.
    pub fn recorded(&mut self, recorded: &Recorded) {
        self.rows += 1;
        self.recorded += 1;
        for change in &recorded.changes {
            *self.outcomes.entry(change.outcome.into()).or_default() += 1;
            self.changes_of_linked_subjects += u64::from(change.linked_subjects > 0);
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
            warnings: self.warnings,
            warned: self.warned,
            changes_of_linked_subjects: self.changes_of_linked_subjects,
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
