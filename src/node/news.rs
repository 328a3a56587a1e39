//! Acts that are recorded only if they say something new, for signals that come with every page view.
//!
//! A grant is no news where the same one counts already. A repeated stop is no news only where it has
//! stood for less than a day: it takes effect later than the standing one, so a grant of the time between
//! the two, still on its way, would lift the standing one alone. A day bounds that gap. A stop from before
//! the standing one is news: it says more of the time between them.
//!
//! In doubt an act is news. It is recorded whole, or not at all.

use super::{
    act::{Act, Recorded, Refused},
    batch::{Batch, Prepared},
    error::WriteError,
    import::ends_as_requested,
};
use crate::{
    decide::Standing,
    domain::{Action, Catalog, ChangeRecord, Grant, Millis, Outcome, Scope, Stop, SubjectState},
};

/// How much later than a standing stop a repeated one is no news.
pub const STANDING_STOP_MS_MAX: i64 = 24 * 60 * 60 * 1_000;

/// What an act that is recorded only as news must be compared with.
#[derive(Debug)]
pub(super) struct Asked {
    /// The expiry of each change, as the caller gave it.
    expires_at: Vec<Option<Millis>>,
}

impl Asked {
    /// Of an act; none if it is recorded in any case. Preferences, and values that could not be read,
    /// are kept.
    pub(super) fn of(act: &Act) -> Option<Self> {
        let is_asked =
            act.record_only_news && act.contact.is_empty() && act.evidence.unreadable.is_empty();
        let expires_at = act.changes.iter().map(|change| change.expires_at);
        is_asked.then(|| Self { expires_at: expires_at.collect() })
    }
}

impl Batch<'_> {
    /// The answer to an act that says nothing new, if each of its changes stands already. The outcomes
    /// of the act are set, and none of it was refused.
    pub(super) fn stands_already(
        &self,
        asked: &Asked,
        prepared: &Prepared,
    ) -> Result<Option<Recorded>, WriteError> {
        let body = &prepared.body;
        let united = self.whole(body.subject_ref, &prepared.before)?;
        // A link may be removed, and with it what others contribute.
        let states = [&prepared.before, &united];
        let mut changes = body.changes.clone();
        for (change, expires_at) in changes.iter_mut().zip(&asked.expires_at) {
            let standing = states.map(|state| {
                let known = Known { catalog: self.catalog(), state, now: prepared.recorded_at };
                match change.action {
                    Action::Grant => known.grant(prepared, change, *expires_at),
                    _ => known.stop(prepared, change),
                }
            });
            let [Some(_), Some(index)] = standing else { return Ok(None) };
            change.outcome = Outcome::StandsAlready(index);
        }
        let Some(index) = changes.iter().filter_map(|change| change.outcome.cause_index()).max()
        else {
            return Ok(None);
        };
        Ok(Some(Recorded {
            index,
            recorded_at: prepared.recorded_at,
            effective_at: body.effective_at,
            changes,
            replayed: false,
            nothing_recorded: true,
            confirmation: None,
            moved: None,
            refused: Refused::default(),
        }))
    }
}

/// A state that an act is compared with.
struct Known<'a> {
    catalog: &'a Catalog,
    state: &'a SubjectState,
    now: Millis,
}

impl Known<'_> {
    /// Index of the entry that gives all that a grant gives, of the same version and no other end.
    fn grant(
        &self,
        prepared: &Prepared,
        change: &ChangeRecord,
        requested_end: Option<Millis>,
    ) -> Option<u64> {
        let (purpose_id, channel_id) = self.scope(change)?.as_cell()?;
        let standing = Standing::of(self.catalog, self.state, purpose_id, channel_id, self.now);
        let Standing::Given(given) = standing else { return None };
        let actor = prepared.body.actor;
        let is_same = |grant: &&Grant| {
            grant.purpose_version == change.purpose_version
                && grant.data_categories.as_deref().unwrap_or_default() == change.data_categories
                && ends_as_requested(grant, requested_end)
                && grant.actor.speaks_for_subject() == actor.speaks_for_subject()
                && grant.authority_ends_at == prepared.body.authority_ends_at
        };
        given.iter().find(is_same).map(Grant::decided_by)
    }

    /// Index of the entry with the same stop, if that stands in every cell, has stood for less than a
    /// day at the repeated one's time, and the repeated one changes nothing for linked data subjects either.
    fn stop(&self, prepared: &Prepared, change: &ChangeRecord) -> Option<u64> {
        let scope = self.scope(change)?;
        let body = &prepared.body;
        let kind = change.action.stop_kind(body.actor)?;
        let is_same = |stop: &&Stop| {
            stop.scope == scope
                && stop.kind == kind
                && stop.is_subjects == Stop::is_of_subject(kind, body.actor)
        };
        let stop = self.state.stops().iter().find(is_same)?;
        let later_ms = body.effective_at.0.saturating_sub(stop.mark.effective_at.0);
        let stands = change.outcome != Outcome::Applied
            && (0..STANDING_STOP_MS_MAX).contains(&later_ms)
            && !self.state.is_lifted_in(self.catalog, scope);
        stands.then_some(stop.mark.index)
    }

    fn scope(&self, change: &ChangeRecord) -> Option<Scope> {
        self.catalog.resolve(&change.scope).ok()
    }
}
