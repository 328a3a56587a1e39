//! Audiences: one question about many data subjects, at one revision and one moment.
//!
//! A data subject that did not change since the revision is decided from the view; one that changed
//! is folded again from the ledger. So an audience holds no lock and no copy of the state, however
//! long it lasts and whatever is written meanwhile.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Checked, Core, Node,
    due::{CountedUses, due},
    error::{AudienceTooOld, ReadError},
    past::Past,
    read::AskedAt,
};
use crate::{
    decide::decide,
    domain::{
        ChannelId, Key, Millis, PurposeId, Query, Region, Subject, SubjectError, SubjectRef,
        SubjectState,
    },
    fold::{Linked, UseCell, reach, unite},
};

/// The question about every data subject of an audience.
#[derive(Debug, Clone)]
pub struct AudienceQuery {
    /// Purpose key.
    pub purpose: Key,
    /// Channel key.
    pub channel: Key,
    /// Data categories that the caller wants to use; empty means no restriction.
    pub data_categories: Vec<String>,
    /// Region of the data subjects, if given.
    pub region: Option<Region>,
    /// Whether obligations that are not met leave an ALLOW as it is.
    pub ignore_obligations: bool,
}

/// An audience that is being decided.
#[derive(Debug)]
pub struct Audience {
    core: Arc<Core>,
    query: AudienceQuery,
    /// The purpose, if the catalogue of the revision has it.
    purpose: Option<PurposeId>,
    /// The channel, if the catalogue of the revision has it.
    channel: Option<ChannelId>,
    cell: UseCell,
    past: Past,
    /// When obligations must be met.
    due_at: Millis,
    began: Instant,
    age_max: Duration,
}

/// The answer about a data subject of an audience.
#[derive(Debug)]
pub struct Member {
    /// The answer.
    pub checked: Checked,
    /// The person whom it is about.
    pub person: Person,
}

/// A person of an audience: the same for all names that are verified to be of one person.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Person {
    /// On record. The least of the references stands for all.
    OnRecord(SubjectRef),
    /// Not on record.
    Unknown(Subject),
}

/// The state of a data subject, united with those of the linked ones, and these.
type WithLinked = (Arc<SubjectState>, Vec<Linked>);

impl Node {
    /// Begins an audience at the current revision and time.
    #[must_use]
    pub fn audience(&self, query: AudienceQuery) -> Audience {
        // Read in this order: a catalogue newer than `applied` is itself the last entry that counts,
        // and an older one was the catalogue at `applied`; see the view.
        let applied = self.core.view.applied();
        let catalog = self.core.view.catalog();
        let end = applied.max(catalog.revision);
        let AskedAt { at: now, due_at } = self.core.asked_now();
        Audience {
            core: Arc::clone(&self.core),
            purpose: catalog.catalog.purpose_id(query.purpose.as_str()),
            channel: catalog.catalog.channel_id(query.channel.as_str()),
            cell: UseCell::new(query.purpose.as_str(), query.channel.as_str()),
            query,
            past: Past { catalog, end, until: None, now },
            due_at,
            began: Instant::now(),
            age_max: self.audience_age_max,
        }
    }
}

impl Audience {
    /// The question.
    #[must_use]
    pub fn query(&self) -> &AudienceQuery {
        &self.query
    }

    /// The number of entries that every verdict takes into account.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.past.end
    }

    /// The moment at which every verdict is decided.
    #[must_use]
    pub fn decided_at(&self) -> Millis {
        self.past.now
    }

    /// Whether the audience is young enough to answer as of the moment at which it began: a stop that was
    /// recorded since does not count.
    ///
    /// # Errors
    /// [`AudienceTooOld`].
    pub fn check_age(&self) -> Result<(), AudienceTooOld> {
        let age = self.began.elapsed();
        match age > self.age_max {
            true => Err(AudienceTooOld { age, age_max: self.age_max }),
            false => Ok(()),
        }
    }

    /// The data subject that a text means, by the catalogue of the revision.
    ///
    /// # Errors
    /// The catalogue lacks the namespace, or its kind has no such id.
    pub fn subject(&self, given: &str) -> Result<Subject, SubjectError> {
        let is_stored = |subject: &Subject| self.core.vault.remembers(subject);
        self.past.catalog.catalog.subject_unless_stored(given, is_stored)
    }

    /// The answer about a data subject. Blocking.
    ///
    /// # Errors
    /// [`ReadError::StateUnreadable`].
    pub fn decide(&self, name: &Subject) -> Result<Member, ReadError> {
        let query = Query {
            purpose: self.purpose,
            channel: self.channel,
            data_categories: &self.query.data_categories,
            region: self.query.region,
        };
        let Past { catalog, end, now, .. } = &self.past;
        let subject = self.core.vault.find(name)?;
        let (state, linked) = match subject {
            Some(subject) => self.state(subject)?,
            None => Default::default(),
        };
        let decision = decide(&catalog.catalog, &state, &query, *now);
        self.core.metrics.decision(decision.reason);
        let contact = state.contact.as_deref();
        // The uses that this audience records, too, come after its revision.
        let counted = CountedUses::new(subject, &linked, self.cell, *end);
        let due = due(&decision, contact, self.query.region, self.due_at, |widest| {
            self.core.uses(&counted, widest, self.due_at)
        })?;
        let person = match counted.person.iter().min() {
            Some(least) => Person::OnRecord(*least),
            None => Person::Unknown(name.clone()),
        };
        let checked = Checked::new(decision, due, self.query.ignore_obligations, *end, None);
        Ok(Member { checked, person })
    }

    /// The state of a data subject at the revision, and the linked ones.
    fn state(&self, subject: SubjectRef) -> Result<WithLinked, ReadError> {
        if let Some(current) = self.current_state(subject)? {
            return Ok(current);
        }
        let (state, linked) = self.core.state_at(subject, &self.past)?;
        Ok((Arc::new(state), linked))
    }

    /// The current state of a data subject, if it is the same as at the revision.
    fn current_state(&self, subject: SubjectRef) -> Result<Option<WithLinked>, ReadError> {
        let view = &self.core.view;
        let state = view.state(subject)?;
        if state.revision > self.past.end || state.links.is_empty() {
            let is_same = state.revision <= self.past.end;
            return Ok(is_same.then(|| (state, Vec::new())));
        }
        // Links are part of the states: if no linked state is newer, the links are the same too.
        let linked = reach(subject, &state, |other| view.state(other))?;
        let is_newer = linked.iter().any(|linked| linked.state.revision > self.past.end);
        Ok((!is_newer).then(|| (Arc::new(unite(&state, &linked)), linked)))
    }
}
