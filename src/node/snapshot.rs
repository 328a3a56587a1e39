//! The state that a filter covers, as of one revision, data subject by data subject.
//!
//! Whoever begins with a snapshot and goes on with the events from its revision on hears everything
//! once: a data subject that changed meanwhile is told as it was at the revision, by replaying its
//! own entries, and the change is told as the event that it is. So nothing has to be held still
//! while a snapshot is read, however long that takes; the order is that of the random references.

use std::{collections::VecDeque, sync::Arc};

use tokio::task::spawn_blocking;

use super::{
    CellPreference, Core, Node, Preferences, ReadError, SnapshotError, StandingStop, past::Past,
    preferences::preferences_of,
};
use crate::{
    domain::{Effect, Filter, Identity, Snapshot, Subject, SubjectRef},
    event::shard_of,
};

/// The greatest number of data subjects on a page.
const PAGE_SUBJECTS_MAX: usize = 64;
/// How many data subjects are looked at in one go, and how many of their names are read at once.
const STEP_SUBJECTS: usize = 2_048;
const NAMES_AT_A_TIME: usize = 256;

/// Of a snapshot: what is known of one data subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotSubject {
    /// The data subject.
    pub subject: Subject,
    /// The cells that acts have named, as far as filter and kind cover them.
    pub cells: Vec<CellPreference>,
    /// The stops that stand, as far as the filter covers them.
    pub stops: Vec<StandingStop>,
    /// Who is linked to it.
    pub linked: Vec<Subject>,
    /// Number of entries that the snapshot takes into account.
    pub revision: u64,
    /// Goes on behind this data subject.
    pub token: Vec<u8>,
}

/// What a snapshot is of.
#[derive(Debug, Clone)]
pub struct Snapshotting {
    /// Number of entries that it takes into account.
    pub revision: u64,
    /// Which state.
    pub kind: Snapshot,
    /// Which cells, stops and namespaces; its kinds do not matter.
    pub filter: Arc<Filter>,
    /// One shard, and of how many; none means all data subjects.
    pub shard: Option<(u32, u32)>,
}

/// Reads a snapshot, page by page, in bounded memory.
#[derive(Debug)]
pub struct SnapshotReader {
    source: Arc<Source>,
    after: Option<SubjectRef>,
    is_complete: bool,
}

/// Where a snapshot is read.
#[derive(Debug)]
struct Source {
    core: Arc<Core>,
    what: Snapshotting,
    past: Past,
}

/// A part of a snapshot.
struct Step {
    page: Vec<SnapshotSubject>,
    /// The last that was looked at.
    after: Option<SubjectRef>,
    is_complete: bool,
}

impl Node {
    /// A snapshot from its beginning, or behind a token. May block for as long as it takes to read
    /// the catalogue of then.
    ///
    /// # Errors
    /// [`SnapshotError::Token`]: it is another snapshot's, or none.
    /// [`ReadError::IndexOutOfRange`]: the revision has not come.
    pub fn snapshot(
        &self,
        what: Snapshotting,
        token: &[u8],
    ) -> Result<SnapshotReader, SnapshotError> {
        let after = match token {
            [] => None,
            token => {
                let (revision, after) = parse_token(token)?;
                if revision != what.revision {
                    return Err(SnapshotError::Token);
                }
                Some(after)
            }
        };
        let past = self.core.past_revision(what.revision)?;
        let source = Source { core: Arc::clone(&self.core), what, past };
        Ok(SnapshotReader { source: Arc::new(source), after, is_complete: false })
    }
}

impl SnapshotReader {
    /// The next data subjects; none at the end. Cancel-safe.
    ///
    /// # Errors
    /// [`ReadError::StateUnreadable`].
    pub async fn next_page(&mut self) -> Result<Vec<SnapshotSubject>, ReadError> {
        while !self.is_complete {
            let (source, after) = (Arc::clone(&self.source), self.after);
            let step = spawn_blocking(move || source.step(after)).await;
            let step = step.map_err(|error| ReadError::StateUnreadable(error.to_string()))??;
            self.after = step.after;
            self.is_complete = step.is_complete;
            if !step.page.is_empty() {
                return Ok(step.page);
            }
        }
        Ok(Vec::new())
    }
}

impl Source {
    /// Looks at the next data subjects, until a page is full or enough were looked at.
    fn step(&self, mut after: Option<SubjectRef>) -> Result<Step, ReadError> {
        let mut page = Vec::new();
        let mut names = VecDeque::new();
        for _ in 0..STEP_SUBJECTS {
            if names.is_empty() {
                names.extend(self.core.view.subjects(after, NAMES_AT_A_TIME)?);
            }
            let Some(subject) = names.pop_front() else {
                return Ok(Step { page, after, is_complete: true });
            };
            page.extend(self.told(subject)?);
            after = Some(subject);
            if page.len() == PAGE_SUBJECTS_MAX {
                break;
            }
        }
        Ok(Step { page, after, is_complete: false })
    }

    /// What the snapshot tells of a data subject, if it tells of it.
    fn told(&self, subject: SubjectRef) -> Result<Option<SnapshotSubject>, ReadError> {
        let Snapshotting { revision, kind, filter, shard } = &self.what;
        // To read a name costs less than what is known of a data subject that most shards tell not.
        let mut name = None;
        if let Some((shard, of)) = *shard {
            // An erased data subject is of no shard, and told to nobody.
            let Identity::Known(subject) = self.core.vault.identity(subject)? else {
                return Ok(None);
            };
            if shard_of(&subject, of) != shard {
                return Ok(None);
            }
            name = Some(subject);
        }
        let Preferences { mut cells, mut stops, links, .. } = self.preferences(subject)?;
        cells.retain(|cell| {
            filter.covers_purpose(Some(&cell.purpose))
                && filter.covers_channel(Some(&cell.channel))
                && (*kind == Snapshot::All || cell.decision.effect() == Effect::Deny)
        });
        stops.retain(|stop| {
            filter.covers_purpose(stop.scope.purpose.as_ref())
                && filter.covers_channel(stop.scope.channel.as_ref())
        });
        if cells.is_empty() && stops.is_empty() {
            return Ok(None);
        }
        let name = match name {
            Some(name) => name,
            None => match self.core.vault.identity(subject)? {
                Identity::Known(name) => name,
                Identity::Erased => return Ok(None),
            },
        };
        let linked: Vec<Subject> = links.into_iter().map(|(linked, _)| linked).collect();
        let is_covered = |own: &Subject| filter.covers_namespace(own.namespace());
        if !is_covered(&name) && !linked.iter().any(is_covered) {
            return Ok(None);
        }
        let token = token(*revision, subject);
        Ok(Some(SnapshotSubject {
            subject: name,
            cells,
            stops,
            linked,
            revision: *revision,
            token,
        }))
    }

    /// What was known of a data subject at the revision.
    fn preferences(&self, subject: SubjectRef) -> Result<Preferences, ReadError> {
        let catalog = &self.past.catalog.catalog;
        let now = self.past.now;
        let own = self.core.view.peek(subject)?;
        if own.links.is_empty() && own.revision <= self.what.revision {
            return Ok(preferences_of(catalog, &own, false, None, now));
        }
        let (state, linked) = self.core.state_at(subject, &self.past)?;
        let mut preferences = preferences_of(catalog, &state, false, None, now);
        preferences.links = self.core.named(linked)?;
        Ok(preferences)
    }
}

fn token(revision: u64, subject: SubjectRef) -> Vec<u8> {
    [&revision.to_be_bytes()[..], &subject.0].concat()
}

fn parse_token(token: &[u8]) -> Result<(u64, SubjectRef), SnapshotError> {
    let parts = token.split_first_chunk::<8>();
    let (revision, subject) = parts.ok_or(SnapshotError::Token)?;
    let subject = subject.try_into().map_err(|_| SnapshotError::Token)?;
    Ok((u64::from_be_bytes(*revision), SubjectRef(subject)))
}

/// The revision that a token's snapshot is of.
///
/// # Errors
/// [`SnapshotError::Token`].
pub fn revision_of_token(token: &[u8]) -> Result<u64, SnapshotError> {
    parse_token(token).map(|(revision, _)| revision)
}
