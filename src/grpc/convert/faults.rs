//! What is wrong beside a stop.
//!
//! A stop is recorded whenever its data subject, its actor and its scope are clear. Every other field is a
//! side field: if one is wrong, the stops are recorded without it, its text is kept in the evidence, and
//! the answer has a warning. The grants of such a request are refused. A request without a stop is
//! refused as a whole.

use prost::Message;

use crate::{
    domain::{Action, Change, ChangeRecord, Evidence, keep_unreadable},
    ledger::ENTRY_BYTES_MAX,
    messages::change_result,
    node::{Act, RecordError, Recorded},
    proto::{self, ErrorReason},
    status::Fault,
};

use super::{Invalid, Problem};

/// Room in an entry for everything but changes, evidence and preferences.
const ENTRY_REST_BYTES: usize = 4 * 1024;

/// A side field that is wrong.
#[derive(Debug)]
struct SideFault {
    invalid: Invalid,
    /// Its value as text.
    text: String,
}

/// The side fields of a request that are wrong.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<SideFault>);

impl ParsedChanges {
    /// Whether a grant is requested, also one that is wrong.
    pub(super) fn has_grant(&self) -> bool {
        self.requested.iter().any(|change| change.action() == proto::Action::Grant)
    }
}

impl Faults {
    /// The value of a side field; its default if it is wrong.
    pub(super) fn value<T: Default>(
        &mut self,
        parsed: Result<T, Invalid>,
        text: impl FnOnce() -> String,
    ) -> T {
        parsed.unwrap_or_else(|invalid| {
            self.add(invalid, text());
            T::default()
        })
    }

    pub(super) fn add(&mut self, invalid: Invalid, text: impl Into<String>) {
        self.0.push(SideFault { invalid, text: text.into() });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// For requests that can not hold a stop.
    ///
    /// # Errors
    /// The first fault.
    pub(super) fn refuse(self) -> Result<(), Invalid> {
        self.0.into_iter().next().map_or(Ok(()), |fault| Err(fault.invalid))
    }

    /// Leaves the grants of an act out if something is wrong, and keeps what is wrong in its evidence.
    ///
    /// # Errors
    /// The first fault, if the act has no stop.
    pub(super) fn settle(
        mut self,
        act: &mut Act,
        ParsedChanges { changes, requested }: ParsedChanges,
    ) -> Result<LeftOut, Invalid> {
        let has_stop = changes.iter().any(|(_, change)| is_stop(change));
        if has_stop {
            self.check_size(act, &changes);
        }
        if self.0.is_empty() {
            let (positions, changes) = changes.into_iter().unzip();
            act.changes = changes;
            return Ok(LeftOut { positions, requested, warnings: Vec::new() });
        }
        if !has_stop {
            self.refuse()?;
            return Ok(LeftOut::default());
        }
        let stops = changes.into_iter().filter(|(_, change)| is_stop(change));
        let (positions, stops): (Vec<_>, Vec<_>) = stops.unzip();
        act.changes = stops;
        self.keep_texts(&mut act.evidence);
        let warnings = self.0.into_iter().map(|fault| warning(&fault.invalid.into())).collect();
        Ok(LeftOut { positions, requested, warnings })
    }

    /// An entry that would be too large loses its grants, and then its attributes, but not its stops.
    fn check_size(&mut self, act: &mut Act, changes: &[(usize, Change)]) {
        let change_bytes = |change: &Change| {
            let purpose = change.scope.purpose.as_ref().map(|name| name.to_string().len());
            let channel = change.scope.channel.as_ref().map(|key| key.as_str().len());
            let texts = purpose.into_iter().chain(channel);
            let categories = change.data_categories.iter().map(String::len);
            texts.chain(categories).map(|length| length + 4).sum::<usize>() + 32
        };
        let sum = |of: &dyn Fn(&Change) -> bool| -> usize {
            changes.iter().map(|(_, change)| change).filter(|c| of(c)).map(change_bytes).sum()
        };
        let limit = ENTRY_BYTES_MAX - ENTRY_REST_BYTES;
        let evidence = proto::Evidence::from(act.evidence.clone()).encoded_len();
        let (all, stops) = (sum(&|_| true) + evidence, sum(&is_stop) + evidence);
        if all > limit {
            self.add(Problem::TooLong { limit, got: all }.at("changes"), "");
        }
        if stops > limit {
            self.add(Problem::TooLong { limit, got: stops }.at("evidence.attributes"), "");
            act.evidence.attributes.clear();
        }
    }

    fn keep_texts(&self, evidence: &mut Evidence) {
        for SideFault { invalid, text } in &self.0 {
            keep_unreadable(&mut evidence.unreadable, &invalid.field, text);
        }
    }
}

fn is_stop(change: &Change) -> bool {
    change.action != Action::Grant
}

/// Whether a stop covers the cell of a grant.
fn covers(stop: &Change, grant: &Change) -> bool {
    is_stop(stop) && stop.scope.contains(&grant.scope)
}

/// The changes of a request that can be read, each with its position in the request.
#[derive(Debug, Default)]
pub(super) struct ParsedChanges {
    pub changes: Vec<(usize, Change)>,
    /// The changes of the request.
    pub requested: Vec<proto::Change>,
}

impl ParsedChanges {
    /// Takes out the grants whose cell a stop covers, and answers their positions. A row of a table is not
    /// one act: what it grants is no exception to what it stops.
    pub(super) fn take_stopped_grants(&mut self) -> Vec<usize> {
        let stops: Vec<Change> =
            self.changes.iter().map(|(_, change)| change).filter(|c| is_stop(c)).cloned().collect();
        let is_stopped = |(_, change): &(usize, Change)| {
            !is_stop(change) && stops.iter().any(|stop| covers(stop, change))
        };
        let (stopped, changes): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.changes).into_iter().partition(is_stopped);
        self.changes = changes;
        stopped.into_iter().map(|(position, _)| position).collect()
    }
}

/// What is left out of a request, so that its stops can be recorded.
#[derive(Debug, Default)]
pub struct LeftOut {
    /// For each change of the act, its position in the request.
    positions: Vec<usize>,
    /// The changes of the request.
    requested: Vec<proto::Change>,
    warnings: Vec<proto::Warning>,
}

impl LeftOut {
    /// The grants of a row, by their positions, that its own stops cover.
    #[must_use]
    pub(super) fn and_stopped_grants(mut self, positions: Vec<usize>) -> Self {
        self.warnings.extend(positions.into_iter().map(|position| proto::Warning {
            field: format!("changes[{position}]"),
            reason: ErrorReason::InvalidField.reason().to_owned(),
            message: "the grant is not recorded: a stop of the same row covers it".to_owned(),
        }));
        self
    }

    /// The warnings for the stops of a row, by their positions in the act, that an earlier import recorded,
    /// and that no longer stand.
    pub fn lifted(&self, positions: &[usize]) -> impl Iterator<Item = proto::Warning> {
        let in_row = |position: &usize| self.positions.get(*position).copied();
        positions.iter().filter_map(in_row).map(|position| proto::Warning {
            field: format!("changes[{position}]"),
            reason: proto::Outcome::SupersededByLater.as_str_name().replacen("OUTCOME_", "", 1),
            message: "this row was recorded before, and a later act lifted its stop: the data \
                      subject stays in. If the source means a new stop, it needs a new `row_key` or a \
                      new time"
                .to_owned(),
        })
    }

    /// An error of the node, with the position that its change has in the request.
    #[must_use]
    pub fn locate(&self, error: RecordError) -> RecordError {
        error.with_positions(&self.positions)
    }

    /// The warnings, with those for what the node refused beside the stops.
    #[must_use]
    pub fn warnings(&self, refused: &[RecordError]) -> Vec<proto::Warning> {
        let by_node = refused.iter().map(|error| warning(&self.locate(error.clone()).into()));
        self.warnings.iter().cloned().chain(by_node).collect()
    }

    /// As [`Self::warnings`], with the one for a time that was not taken as claimed.
    #[must_use]
    pub fn all_warnings(&self, recorded: &Recorded) -> Vec<proto::Warning> {
        let mut warnings = match recorded.replayed {
            true => self.replayed_warnings(&recorded.changes),
            false => self.warnings(&recorded.refused.errors),
        };
        warnings.extend(recorded.moved.map(|moved| as_warning(&moved.into(), |text| text)));
        warnings
    }

    /// The warnings for an act that an earlier call recorded. The ledger does not keep why it refused a
    /// grant then.
    fn replayed_warnings(&self, recorded: &[ChangeRecord]) -> Vec<proto::Warning> {
        let mut warnings = self.warnings.clone();
        if warnings.is_empty() && recorded.len() < self.requested.len() {
            warnings.push(proto::Warning {
                field: "changes".to_owned(),
                reason: ErrorReason::InvalidField.reason().to_owned(),
                message:
                    "the earlier call with this idempotency key recorded the stops alone; its \
                          answer said what was wrong with the other changes"
                        .to_owned(),
            });
        }
        warnings
    }

    /// Number of changes of the request that are not recorded, with those that the node refused beside
    /// the stops.
    #[must_use]
    pub fn unrecorded(&self, refused_changes: usize) -> usize {
        self.requested.len() - self.positions.len() + refused_changes
    }

    /// What became of each change of the request, in its order.
    #[must_use]
    pub fn results(&self, recorded: &[ChangeRecord]) -> Vec<proto::ChangeResult> {
        let results: Vec<_> = recorded.iter().map(change_result).collect();
        if results.len() == self.requested.len() {
            return results;
        }
        self.requested.iter().map(|change| result(change, &results)).collect()
    }
}

/// What became of a change. Of two stops of one scope, one is recorded for both.
fn result(change: &proto::Change, results: &[proto::ChangeResult]) -> proto::ChangeResult {
    let is_grant = |action| action == i32::from(proto::Action::Grant);
    let same = results.iter().find(|result| {
        result.scope == change.scope && is_grant(result.action) == is_grant(change.action)
    });
    let (action, scope) = (change.action, change.scope.clone());
    match same {
        Some(result) => proto::ChangeResult { action, ..result.clone() },
        None => {
            let outcome = proto::Outcome::NotRecorded.into();
            proto::ChangeResult { action, scope, outcome, ..Default::default() }
        }
    }
}

fn warning(fault: &Fault) -> proto::Warning {
    let done = "the stops are recorded without it, and no grant beside them is recorded";
    as_warning(fault, |text| format!("{text}; {done}"))
}

fn as_warning(fault: &Fault, message: impl FnOnce(String) -> String) -> proto::Warning {
    proto::Warning {
        field: fault.field(),
        reason: fault.kind().reason().to_owned(),
        message: message(fault.message()),
    }
}
