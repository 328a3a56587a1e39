//! The outcomes of an act, over all data subjects that links connect.
//!
//! An act counts for its own data subject, for all that are verified to be the same person, and with
//! its stops for all that may be. So a change is APPLIED if it is for any of them, and says for how many
//! besides its own data subject. It never says for which.

use std::{convert::Infallible, sync::Arc};

use super::{Linked, consent::Judge, reach, unite};
use crate::domain::{
    Action, Actor, Catalog, ChangeRecord, LinkConfidence, Mark, Millis, Outcome, SubjectRef,
    SubjectState, UnknownKey,
};

/// An act, or the confirmation of one, that is about to be written.
#[derive(Debug, Clone, Copy)]
pub struct Acted<'a> {
    /// The catalogue.
    pub catalog: &'a Catalog,
    /// The data subject.
    pub subject: SubjectRef,
    /// Its own state before the changes.
    pub before: &'a Arc<SubjectState>,
    /// Its own state after them. They change no links.
    pub after: &'a Arc<SubjectState>,
    /// All data subjects that are linked to it, as [`reach`] gives them.
    pub linked: &'a [Linked],
    /// When the changes took effect, and the index of their act.
    pub mark: Mark,
    /// Who performs the act.
    pub actor: Actor,
    /// The moment at which decisions are compared.
    pub now: Millis,
    /// Whether the changes are grants whose double opt-in is completed.
    pub is_confirmation: bool,
}

/// Data subjects that are the same person, so that the same acts count for all of them.
struct Person {
    /// Both sides of the changes, with all that counts for the person. No erasure: it concerns one
    /// data subject alone.
    before: SubjectState,
    after: SubjectState,
    /// How many of the data subjects, without that of the act, are not erased.
    subjects: u32,
    /// Whether grants of the act count for them, too.
    is_of_the_act: bool,
}

impl Acted<'_> {
    /// Sets the outcome of each change, and to how many linked data subjects it applied.
    ///
    /// # Errors
    /// The first key that the catalogue lacks; no outcome is set then.
    pub fn outcomes(&self, changes: &mut [ChangeRecord]) -> Result<(), UnknownKey> {
        if self.linked.is_empty() {
            return self.judge(self.before, self.after, changes);
        }
        let (before, after) = (unite(self.before, self.linked), unite(self.after, self.linked));
        self.judge(&before, &after, changes)?;
        let mut touched = vec![0; changes.len()];
        for person in self.persons(before, after) {
            let mut judged = changes.to_vec();
            self.judge(&person.before, &person.after, &mut judged)?;
            for (touched, change) in touched.iter_mut().zip(judged) {
                let counts = person.is_of_the_act || change.action != Action::Grant;
                if counts && change.outcome == Outcome::Applied {
                    *touched += person.subjects;
                }
            }
        }
        for (change, touched) in changes.iter_mut().zip(touched) {
            change.linked_subjects = touched;
            if touched > 0 {
                change.outcome = Outcome::Applied;
            }
            // The ledger names no act of a linked data subject.
            change.outcome = change.outcome.naming_only(|index| {
                self.before.rests_on_entry(index) || self.after.rests_on_entry(index)
            });
        }
        Ok(())
    }

    fn judge(
        &self,
        before: &SubjectState,
        after: &SubjectState,
        changes: &mut [ChangeRecord],
    ) -> Result<(), UnknownKey> {
        let Self { catalog, mark, actor, now, is_confirmation, .. } = *self;
        Judge { catalog, before, after, mark, actor, now, is_confirmation }.outcomes(changes)
    }

    /// The persons that the act may touch, apart from its own data subject. `before` and `after` are
    /// what counts for that one.
    fn persons(&self, before: SubjectState, after: SubjectState) -> Vec<Person> {
        let is_same = |linked: &&Linked| linked.confidence == LinkConfidence::Verified;
        let same = self.linked.iter().filter(is_same);
        let mut persons = vec![Person::new(before, after, same, true)];
        let mut known: Vec<SubjectRef> = Vec::new();
        for one in self.linked.iter().filter(|linked| !is_same(linked)) {
            if known.contains(&one.subject) {
                continue;
            }
            let linked = self.linked_to(one);
            let same = || linked.iter().filter(is_same).chain([one]);
            known.extend(same().map(|linked| linked.subject));
            let before = unite(&one.state, &linked);
            let is_of_the_act = |linked: &&mut Linked| linked.subject == self.subject;
            let mut linked_after = linked.clone();
            for linked in linked_after.iter_mut().filter(is_of_the_act) {
                linked.state = Arc::clone(self.after);
            }
            persons.push(Person::new(before, unite(&one.state, &linked_after), same(), false));
        }
        persons.retain(|person| person.subjects > 0);
        persons
    }

    /// The data subjects that are linked to a linked one, before the changes.
    fn linked_to(&self, one: &Linked) -> Vec<Linked> {
        let state_of = |subject| {
            let known = self.linked.iter().find(|linked| linked.subject == subject);
            Ok::<_, Infallible>(Arc::clone(known.map_or(self.before, |linked| &linked.state)))
        };
        let Ok(linked) = reach(one.subject, &one.state, state_of);
        linked
    }
}

impl Person {
    fn new<'a>(
        before: SubjectState,
        after: SubjectState,
        subjects: impl Iterator<Item = &'a Linked>,
        is_of_the_act: bool,
    ) -> Self {
        let living = subjects.filter(|linked| linked.state.erased_by.is_none()).count();
        let [before, after] = [before, after].map(|mut state| {
            state.erased_by = None;
            state
        });
        let subjects = u32::try_from(living).unwrap_or(u32::MAX);
        Self { before, after, subjects, is_of_the_act }
    }
}
