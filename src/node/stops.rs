//! Stops are recorded although something else in their act is refused.

use super::{
    act::{Act, Refused},
    batch::{Batch, Prepared, Sealer},
    error::RecordError,
};
use crate::domain::{Action, Change, IdempotencyMark};

/// What happens to an act if the scope of one of its stops is not in the catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UnclearStop {
    /// The act is refused: its caller learns it and corrects it.
    RefusesAct,
    /// The other stops of the act are recorded: nobody may correct a row of a file.
    IsLeftOut,
}

impl Batch<'_> {
    /// Validates an act. If a grant of it is refused, validates its stops alone.
    pub(super) fn prepare_stops_at_least(
        &self,
        mut act: Act,
        sealer: &Sealer,
        mark: Option<IdempotencyMark>,
        unclear_stop: UnclearStop,
    ) -> Result<(Prepared, Refused), RecordError> {
        let mut refused = Refused::default();
        let mut positions: Vec<usize> = (0..act.changes.len()).collect();
        // Most acts are one grant or one stop, and are not copied.
        while act.changes.len() > 1 && act.changes.iter().any(is_stop) {
            let error = match self.prepare(act.clone(), sealer, mark) {
                Ok(prepared) => return Ok((prepared, refused)),
                Err(error) => error,
            };
            let kept = kept_after(&error, &act.changes, unclear_stop);
            let error = error.with_positions(&positions);
            if kept.is_empty() {
                return Err(error);
            }
            refused.errors.push(error);
            let is_kept = |position: &usize| kept.contains(position);
            let (stay, go) = (0..positions.len()).partition::<Vec<_>, _>(is_kept);
            refused.positions.extend(go.into_iter().map(|position| positions[position]));
            act.changes = stay.iter().map(|position| act.changes[*position].clone()).collect();
            positions = stay.into_iter().map(|position| positions[position]).collect();
        }
        let prepared = self.prepare(act, sealer, mark);
        Ok((prepared.map_err(|error| error.with_positions(&positions))?, refused))
    }
}

/// The positions of the stops that can be recorded without what an error refuses; none if the error
/// refuses the act.
fn kept_after(error: &RecordError, changes: &[Change], unclear_stop: UnclearStop) -> Vec<usize> {
    let at = match error {
        RecordError::Empty | RecordError::Write(_) => return Vec::new(),
        other => other.change(),
    };
    let is_of_stop = at.and_then(|at| changes.get(at)).is_some_and(is_stop);
    if is_of_stop && unclear_stop == UnclearStop::RefusesAct {
        return Vec::new();
    }
    let stops = changes.iter().enumerate().filter(|(_, change)| is_stop(change));
    stops.map(|(position, _)| position).filter(|position| Some(*position) != at).collect()
}

fn is_stop(change: &Change) -> bool {
    change.action != Action::Grant
}
