//! The state that a filter covers, as of one revision, data subject by data subject.

use std::sync::Arc;

use super::{
    Core, Node, ReadError,
    question::{CellPreference, StandingStop},
};
use crate::domain::{Filter, Snapshot, Subject};

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
    core: Arc<Core>,
}

impl Node {
    /// A snapshot from its beginning, or behind a token.
    ///
    /// # Errors
    /// [`ReadError::SnapshotToken`]: it is another snapshot's, or none.
    pub fn snapshot(&self, what: Snapshotting, token: &[u8]) -> Result<SnapshotReader, ReadError> {
        todo!("{what:?} {token:?}")
    }
}

impl SnapshotReader {
    /// The next data subjects; none at the end.
    ///
    /// # Errors
    /// [`ReadError::StateUnreadable`].
    pub async fn next_page(&mut self) -> Result<Vec<SnapshotSubject>, ReadError> {
        todo!("{:?}", self.core)
    }
}

/// The revision that a token's snapshot is of.
///
/// # Errors
/// [`ReadError::SnapshotToken`].
pub fn revision_of_token(token: &[u8]) -> Result<u64, ReadError> {
    todo!("{token:?}")
}
