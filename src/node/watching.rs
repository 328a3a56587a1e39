//! Watching new entries, from an index on.

use super::{Node, ReadError};
use crate::{domain::Filter, watch::Watcher};

impl Node {
    /// Starts to watch at an index, or with the first entry after now.
    ///
    /// # Errors
    /// [`ReadError::IndexOutOfRange`] if the index lies beyond the head.
    pub fn watch(&self, start: Option<u64>, filter: Filter) -> Result<Watcher, ReadError> {
        let head = self.core.hub.head();
        let index = start.unwrap_or(head);
        if index > head {
            return Err(ReadError::IndexOutOfRange { index, head });
        }
        Ok(self.core.hub.watch(index, filter))
    }
}
