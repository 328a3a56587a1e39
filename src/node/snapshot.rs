//! Snapshots: the state at one revision of every data subject that a filter covers.
//!
//! A reader that takes a snapshot, and then the events from its revision on, sees every change once. A
//! data subject that changed after the revision is read as of the revision, by a replay of its
//! entries; its change follows as an event. So a snapshot holds no lock, however long it takes. The
//! order is that of the references, which are random.

use std::{collections::VecDeque, sync::Arc};

use tokio::task::spawn_blocking;

use super::{
    CellPreference, Core, Naming, Node, Preferences, ReadError, SnapshotError, StandingStop,
    past::Past, preferences::Asked, read::AskedAt,
};
use crate::domain::{Effect, Filter, Identity, Snapshot, Subject, SubjectRef};

/// The greatest number of data subjects on a page.
const PAGE_SUBJECTS_MAX: usize = 64;
/// How many data subjects are read in one blocking step, and how many references at once.
const STEP_SUBJECTS: usize = 2_048;
const REFS_AT_A_TIME: usize = 256;

/// One data subject of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotSubject {
    /// The data subject.
    pub subject: Subject,
    /// The cells that acts have named and that filter and kind cover.
    pub cells: Vec<CellPreference>,
    /// The standing stops that the filter covers.
    pub stops: Vec<StandingStop>,
    /// The linked data subjects.
    pub linked: Vec<Subject>,
    /// Number of entries that the snapshot includes.
    pub revision: u64,
    /// Token that continues after this data subject.
    pub token: Vec<u8>,
}

/// The scope of a snapshot.
#[derive(Debug, Clone)]
pub struct Snapshotting {
    /// Number of entries that it includes.
    pub revision: u64,
    /// All cells, or those that are denied.
    pub kind: Snapshot,
    /// The purposes, channels and namespaces that it covers; the kinds of events are ignored.
    pub filter: Arc<Filter>,
    /// A shard, and the number of shards; none means all data subjects.
    pub shard: Option<(u32, u32)>,
}

/// Reads a snapshot, page by page, in bounded memory.
#[derive(Debug)]
pub struct SnapshotReader {
    source: Arc<Source>,
    after: Option<SubjectRef>,
    is_complete: bool,
}

#[derive(Debug)]
struct Source {
    core: Arc<Core>,
    scope: Snapshotting,
    past: Past,
}

/// The result of one blocking step.
struct Step {
    page: Vec<SnapshotSubject>,
    /// The last data subject that was read.
    after: Option<SubjectRef>,
    is_complete: bool,
}

impl Node {
    /// A snapshot from its beginning, or after a token. Blocking: reads the catalogue of the revision.
    ///
    /// # Errors
    /// [`SnapshotError::Token`]: the token is malformed or of another snapshot.
    /// [`ReadError::IndexOutOfRange`]: the revision is beyond the head.
    pub fn snapshot(
        &self,
        scope: Snapshotting,
        token: &[u8],
    ) -> Result<SnapshotReader, SnapshotError> {
        let after = match token {
            [] => None,
            token => {
                let (revision, after) = parse_token(token)?;
                if revision != scope.revision {
                    return Err(SnapshotError::Token);
                }
                Some(after)
            }
        };
        let past = self.core.past_revision(scope.revision)?;
        let source = Source { core: Arc::clone(&self.core), scope, past };
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
    /// Reads the next data subjects, until a page is full or the step is long enough.
    fn step(&self, mut after: Option<SubjectRef>) -> Result<Step, ReadError> {
        let mut page = Vec::new();
        let mut subjects = VecDeque::new();
        for _ in 0..STEP_SUBJECTS {
            if subjects.is_empty() {
                subjects.extend(self.core.view.subjects(after, REFS_AT_A_TIME)?);
            }
            let Some(subject) = subjects.pop_front() else {
                return Ok(Step { page, after, is_complete: true });
            };
            page.extend(self.read(subject)?);
            after = Some(subject);
            if page.len() == PAGE_SUBJECTS_MAX {
                break;
            }
        }
        Ok(Step { page, after, is_complete: false })
    }

    /// A data subject, if the snapshot covers it. An erased one is never covered.
    fn read(&self, subject: SubjectRef) -> Result<Option<SnapshotSubject>, ReadError> {
        let Snapshotting { revision, kind, filter, shard } = &self.scope;
        // With shards, the identity is read first: most data subjects are of another shard.
        let mut identity = None;
        if let Some((shard, count)) = *shard {
            let Identity::Known(known) = self.core.vault.identity(subject)? else {
                return Ok(None);
            };
            if self.core.vault.ledger_secret().shard(known.as_str(), count) != shard {
                return Ok(None);
            }
            identity = Some(known);
        }
        let Preferences { mut cells, mut stops, links, .. } = self.preferences(subject)?;
        cells.retain(|cell| {
            filter.covers_purpose(Some(&cell.purpose.clone().into()))
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
        let identity = match identity {
            Some(identity) => identity,
            None => match self.core.vault.identity(subject)? {
                Identity::Known(identity) => identity,
                Identity::Erased => return Ok(None),
            },
        };
        let linked = links.iter().filter_map(|linked| linked.name.known().cloned());
        let linked: Vec<Subject> = linked.collect();
        let is_covered = |subject: &Subject| filter.covers_namespace(subject.namespace());
        if !is_covered(&identity) && !linked.iter().any(is_covered) {
            return Ok(None);
        }
        let (revision, token) = (*revision, token(*revision, subject));
        Ok(Some(SnapshotSubject { subject: identity, cells, stops, linked, revision, token }))
    }

    /// The preferences of a data subject at the revision.
    fn preferences(&self, subject: SubjectRef) -> Result<Preferences, ReadError> {
        let catalog = &self.past.catalog.catalog;
        let at = AskedAt::past(self.past.now);
        let end = self.scope.revision;
        let asked = Asked { all_cells: false, region: None, at, subject: Some(subject), end };
        let current = self.core.view.peek(subject)?;
        if current.links.is_empty() && current.revision <= self.scope.revision {
            return self.core.preferences_of(catalog, &current, &[], &asked);
        }
        let (state, linked) = self.core.state_at(subject, &self.past)?;
        let mut preferences = self.core.preferences_of(catalog, &state, &linked, &asked)?;
        preferences.links = self.core.linked_names(&linked, &[], Naming::Everybody)?;
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

/// The revision of a token's snapshot.
///
/// # Errors
/// [`SnapshotError::Token`].
pub fn revision_of_token(token: &[u8]) -> Result<u64, SnapshotError> {
    parse_token(token).map(|(revision, _)| revision)
}
