//! Grants that end by themselves: the entry that says so, within a second or so of the moment.
//!
//! Decisions do not wait for it, as they look at the time themselves; watchers do, and who reads a
//! history. What is due stands in the view in the order of time, and a view that is rebuilt has it
//! again, so a restart forgets nothing and an entry is never written twice.

use std::{sync::Arc, thread, time::Duration};

use parking_lot::{Condvar, Mutex};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tracing::warn;

use super::{
    Core, WriteError,
    batch::Batch,
    writer::{self, Admitted, Place},
};
use crate::{
    decide::Standing,
    domain::{
        Action, Actor, Body, ChangeRecord, ConsentAct, GrantExpired, LegalBasis, Outcome, Reason,
        Scope, SubjectState,
    },
    view::Due,
    watch::Event,
};

/// How often is looked for what is due.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long is waited after a failure.
const INTERVAL_AFTER_FAILURE: Duration = Duration::from_secs(10);
/// The greatest number of grants that one job looks at.
const DUE_STEP: usize = 500;

/// Tells a thread that its node is closing.
#[derive(Debug, Default)]
pub(super) struct Closing {
    is_closing: Mutex<bool>,
    changed: Condvar,
}

impl Closing {
    /// Wakes whoever sleeps, for good.
    pub(super) fn close(&self) {
        *self.is_closing.lock() = true;
        self.changed.notify_all();
    }

    /// Sleeps, and answers whether the node is closing.
    fn sleep(&self, time: Duration) -> bool {
        let mut is_closing = self.is_closing.lock();
        if !*is_closing {
            self.changed.wait_for(&mut is_closing, time);
        }
        *is_closing
    }
}

/// What the thread needs.
pub(super) struct Expiry {
    pub core: Arc<Core>,
    pub jobs: mpsc::WeakSender<Admitted>,
    pub appends: Arc<Semaphore>,
    pub closing: Arc<Closing>,
}

/// Starts the thread. It ends when the node closes, or when writes are stopped.
pub(super) fn start(expiry: Expiry) -> std::io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name("expiry".to_owned()).spawn(move || expiry.run())
}

impl Expiry {
    fn run(&self) {
        let mut pause = INTERVAL;
        while !self.closing.sleep(pause) {
            pause = match self.step() {
                Ok(0) => INTERVAL,
                // There may be more.
                Ok(_) => Duration::ZERO,
                Err(WriteError::WritesStopped(_) | WriteError::ShuttingDown) => return,
                Err(error) => {
                    warn!(%error, "expired grants could not be written down");
                    INTERVAL_AFTER_FAILURE
                }
            };
        }
    }

    /// Writes down some of what is due, and answers how much it has looked at.
    fn step(&self) -> Result<usize, WriteError> {
        let due = self.core.view.due(self.core.now(), DUE_STEP)?;
        if due.is_empty() {
            return Ok(0);
        }
        let count = due.len();
        // Like everyone it waits for a place, but it can wait.
        let Ok(permit) = Arc::clone(&self.appends).try_acquire_owned() else { return Ok(0) };
        let (reply, answer) = oneshot::channel();
        let job = writer::job(move |batch| batch.expire(&due), reply);
        let jobs = self.jobs.upgrade().ok_or(WriteError::ShuttingDown)?;
        let place = Place::new(permit);
        jobs.try_send(Admitted { job, place }).map_err(|_| WriteError::ShuttingDown)?;
        drop(jobs);
        let unchanged = answer.blocking_recv().map_err(|_| WriteError::ShuttingDown)??;
        self.core.view.forget_due(&unchanged)?;
        Ok(count)
    }
}

impl Batch<'_> {
    /// Writes down which grants have ended. Answers those whose end changed nothing: they were
    /// stopped, or a later grant stands in their place.
    pub(super) fn expire(&mut self, due: &[Due]) -> Result<Vec<Due>, WriteError> {
        let mut unchanged = Vec::new();
        for due in due {
            if !self.expire_one(due)? {
                unchanged.push(*due);
            }
        }
        Ok(unchanged)
    }

    fn expire_one(&mut self, due: &Due) -> Result<bool, WriteError> {
        let Body::Act(act) = self.entry(due.grant_index)?.body else {
            return Err(WriteError::StateUnreadable(format!(
                "no act at index {}",
                due.grant_index
            )));
        };
        let own = self.state(due.subject)?;
        let whole = self.whole(due.subject, &own)?;
        let ended = self.ended(&whole, &act, due);
        if ended.is_empty() {
            return Ok(false);
        }
        let by_authority = act.actor == Actor::Guardian
            && act.authority_ends_at == Some(due.at)
            && ended.iter().all(|change| change.expires_at != Some(due.at));
        let expired = GrantExpired {
            subject_ref: due.subject,
            grant_index: due.grant_index,
            expired_at: due.at,
            reason: if by_authority { Reason::ReconsentRequired } else { Reason::Expired },
            changes: ended,
        };
        self.write_expired(expired, &own)?;
        Ok(true)
    }

    /// The grants of an act that decided their cells until they ended.
    fn ended(&self, whole: &SubjectState, act: &ConsentAct, due: &Due) -> Vec<ChangeRecord> {
        let catalog = self.catalog();
        let has_ended = |change: &&ChangeRecord| {
            let Some((purpose_id, channel_id)) =
                catalog.resolve(&change.scope).ok().and_then(Scope::as_cell)
            else {
                return false;
            };
            let Some(purpose) = catalog.purpose(purpose_id) else { return false };
            let before = due.at.plus_ms(-1);
            let standing = Standing::of(whole, purpose, purpose_id, channel_id, before);
            let Standing::Given(grant) = standing else { return false };
            grant.mark.index == due.grant_index
                && grant.ends_at() == Some(due.at)
                && purpose.current().has_basis(LegalBasis::Consent)
        };
        let grants = act.changes.iter().filter(|change| change.action == Action::Grant);
        let expire = |change: &ChangeRecord| ChangeRecord {
            action: Action::Expire,
            outcome: Outcome::Applied,
            ..change.clone()
        };
        grants.filter(has_ended).map(expire).collect()
    }

    fn write_expired(
        &mut self,
        expired: GrantExpired,
        own: &SubjectState,
    ) -> Result<(), WriteError> {
        let recorded_at = self.recorded_at();
        let subject = self.core().vault.identity(expired.subject_ref)?;
        let event = Event {
            index: self.tip.next_index,
            subject,
            actor: Actor::System,
            recorded_at,
            effective_at: expired.expired_at,
            changes: expired.changes.clone(),
            cause: Some(expired.grant_index),
            reason: Some(expired.reason),
            link: None,
        };
        let mut state = own.clone();
        state.revision = event.index + 1;
        let states = vec![(expired.subject_ref, Arc::new(state))];
        self.write(recorded_at, Body::Expired(expired), states)?;
        self.events.push(Arc::new(event));
        Ok(())
    }
}
