//! Bringing in consents from another system: the way of a row.
//!
//! A row of somebody who speaks for the data subject is an act like any other. A row of anybody else
//! tells what another system believes: what says nothing new is left out, so that an import erases
//! nothing, renews nothing and dates nothing anew, however often it comes.

use tokio::sync::oneshot;

use super::{
    Node,
    act::{Act, WriteError},
    batch::Batch,
    ended_early,
};
use crate::{
    decide::Standing,
    domain::{
        Action, Change, ChangeRecord, Contact, ContactChange, Grant, Millis, Said, SubjectState,
    },
};

/// What became of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Imported {
    /// It was recorded, or would be, with these outcomes.
    Recorded(Vec<ChangeRecord>),
    /// It says what is known already, or nothing.
    Unchanged,
    /// An earlier import of the same source recorded it.
    Replayed,
}

/// The answer to a row, on its way.
#[derive(Debug)]
pub struct Importing(oneshot::Receiver<Result<Imported, WriteError>>);

impl Importing {
    /// What became of the row, once it is on stable storage.
    ///
    /// # Errors
    /// See [`WriteError`]. Nothing was recorded, except perhaps with `WritesStopped`.
    pub async fn answer(self) -> Result<Imported, WriteError> {
        self.0.await.unwrap_or_else(|_| ended_early())
    }
}

impl Node {
    /// Hands a row to the writer, as soon as there is a place. Rows are taken in the order of the
    /// calls. A dry run only tells what would become of the row.
    ///
    /// # Errors
    /// [`WriteError::WritesStopped`] and [`WriteError::ShuttingDown`].
    pub async fn import(&self, row: Act, dry_run: bool) -> Result<Importing, WriteError> {
        self.core.check_writable()?;
        let permit = std::sync::Arc::clone(&self.appends).acquire_owned().await;
        let permit = permit.map_err(|_| WriteError::ShuttingDown)?;
        Ok(Importing(self.admit(move |batch| batch.import(row, dry_run), permit)?))
    }
}

impl Batch<'_> {
    fn import(&mut self, mut row: Act, dry_run: bool) -> Result<Imported, WriteError> {
        let mark = row.idempotency.as_ref().map(|idempotency| self.mark(idempotency));
        if self.written_before(mark.as_ref())?.is_some() {
            return Ok(Imported::Replayed);
        }
        if !row.actor.speaks_for_subject() {
            self.leave_out_what_is_known(&mut row)?;
        }
        if row.changes.is_empty() && row.contact.is_empty() {
            return Ok(Imported::Unchanged);
        }
        let prepared = self.prepare(row, mark)?;
        if dry_run {
            return Ok(Imported::Recorded(prepared.body.changes));
        }
        Ok(Imported::Recorded(self.write_act(prepared)?.changes))
    }

    fn leave_out_what_is_known(&self, row: &mut Act) -> Result<(), WriteError> {
        let Some(subject) = self.known(&row.subject)? else { return Ok(()) };
        let own = self.state(subject)?;
        let whole = self.whole(subject, &own)?;
        let at = row.effective_at;
        row.changes.retain(|change| !self.stands(&whole, change, at));
        leave_out_same(&mut row.contact, own.contact.as_deref());
        Ok(())
    }

    /// Whether a state holds already what a change asks for.
    fn stands(&self, state: &SubjectState, change: &Change, at: Option<Millis>) -> bool {
        let catalog = self.catalog();
        // What the catalogue lacks is refused where changes are resolved.
        let Ok(scope) = catalog.resolve(&change.scope) else { return false };
        if change.action != Action::Grant {
            let covers = state.latest_stop_over(scope).is_some();
            let is_live = |cell: &crate::domain::CellState| {
                state.live_stop(cell.purpose, cell.channel).is_some()
            };
            return covers && state.cells_in(scope).all(is_live);
        }
        let Some((purpose_id, channel_id)) = scope.as_cell() else { return false };
        let Some(purpose) = catalog.purpose(purpose_id) else { return false };
        match Standing::of(state, purpose, purpose_id, channel_id, self.recorded_at()) {
            Standing::Given(grant) | Standing::Pending(grant) => says(grant, change),
            // It was given once. Only a later consent gives it again.
            Standing::Expired(grant) | Standing::Outdated(grant) | Standing::CameOfAge(grant) => {
                says(grant, change) && at.is_none_or(|at| at <= grant.mark.effective_at)
            }
            Standing::Erased(_) | Standing::Stopped(_) | Standing::Nothing => false,
        }
    }
}

/// Whether a grant says what a change asks for, or more.
fn says(grant: &Grant, change: &Change) -> bool {
    let own = grant.data_categories.as_deref().unwrap_or_default();
    change.purpose_version.is_none_or(|version| version <= grant.purpose_version)
        && own == change.data_categories
}

/// Leaves out the preferences that are known already.
fn leave_out_same(change: &mut ContactChange, known: Option<&Contact>) {
    let none = Contact::default();
    let known = known.unwrap_or(&none);
    let zones = Some(known.time_zones().to_vec()).filter(|zones| !zones.is_empty());
    leave_out(&mut change.time_zones, zones.as_ref());
    leave_out(&mut change.language, known.language().map(str::to_owned).as_ref());
    leave_out(&mut change.quiet_hours, known.quiet_hours().as_ref());
    leave_out(&mut change.frequency_limit, known.frequency_limit().as_ref());
}

fn leave_out<T: PartialEq>(said: &mut Said<T>, known: Option<&T>) {
    let is_same = match &*said {
        Said::Nothing => true,
        Said::Clear => known.is_none(),
        Said::Value(value) => known == Some(value),
    };
    if is_same {
        *said = Said::Nothing;
    }
}
