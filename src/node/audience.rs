//! The way of an audience: one question about many data subjects, at one revision and one moment.
//!
//! What is kept for the present serves as long as nothing newer than the revision is in it; who was
//! touched since is folded again from the ledger. So an audience takes no lock and no copy of
//! anything, however long it lasts and whatever is written meanwhile.

use std::sync::Arc;

use super::{Core, Node, error::ReadError, past::Past};
use crate::{
    decide::decide,
    domain::{
        ChannelId, Key, Millis, PurposeId, Query, Reason, Region, Subject, SubjectRef, SubjectState,
    },
    fold::{reach, unite},
};

/// What is asked about everybody in an audience.
#[derive(Debug, Clone)]
pub struct AudienceQuery {
    /// Purpose key.
    pub purpose: Key,
    /// Channel key.
    pub channel: Key,
    /// Data categories that the caller wants to use; empty means that none is asked about.
    pub data_categories: Vec<String>,
    /// Where the data subjects are, if the caller says.
    pub region: Option<Region>,
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
    past: Past,
}

impl Node {
    /// Begins an audience at the node's revision and moment of now.
    #[must_use]
    pub fn audience(&self, query: AudienceQuery) -> Audience {
        // In this order: a catalogue that is newer than what was applied is itself the last entry
        // that counts, and one that is older was the catalogue then; see the view.
        let applied = self.core.view.applied();
        let catalog = self.core.view.catalog();
        let end = applied.max(catalog.revision);
        Audience {
            core: Arc::clone(&self.core),
            purpose: catalog.catalog.purpose_id(query.purpose.as_str()),
            channel: catalog.catalog.channel_id(query.channel.as_str()),
            query,
            past: Past { catalog, end, until: None, now: self.core.now() },
        }
    }
}

impl Audience {
    /// What is asked.
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

    /// Why a data subject may, or may not, be addressed. Blocking.
    ///
    /// # Errors
    /// [`ReadError::StateUnreadable`].
    pub fn decide(&self, subject: &Subject) -> Result<Reason, ReadError> {
        let query = Query {
            purpose: self.purpose,
            channel: self.channel,
            data_categories: &self.query.data_categories,
            region: self.query.region,
        };
        let state = self.state(subject)?;
        let reason = decide(&self.past.catalog.catalog, &state, &query, self.past.now).reason;
        self.core.metrics.decision(reason);
        Ok(reason)
    }

    /// What was known of a data subject at the revision.
    fn state(&self, subject: &Subject) -> Result<Arc<SubjectState>, ReadError> {
        let Some(subject) = self.core.vault.find(subject)? else { return Ok(Arc::default()) };
        match self.state_of_now(subject)? {
            Some(state) => Ok(state),
            None => Ok(Arc::new(self.core.state_at(subject, &self.past)?.0)),
        }
    }

    /// What is known of a data subject now, if that is what was known at the revision.
    fn state_of_now(&self, subject: SubjectRef) -> Result<Option<Arc<SubjectState>>, ReadError> {
        let view = &self.core.view;
        let own = view.state(subject)?;
        if own.revision > self.past.end || own.links.is_empty() {
            return Ok(Some(own).filter(|own| own.revision <= self.past.end));
        }
        // Who hangs together follows from states alone; if none of them is newer, it is as it was.
        let linked = reach(subject, &own, |other| view.state(other))?;
        let is_newer = linked.iter().any(|linked| linked.state.revision > self.past.end);
        Ok((!is_newer).then(|| Arc::new(unite(&own, &linked))))
    }
}
