//! The log of one machine, in segment files that only this process writes.

use std::{path::PathBuf, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::{Appended, BackendError, LogBackend};
use crate::{
    format::entry::Entry,
    ledger::{self, ChainError, ENTRY_BYTES_MAX, Tip},
    storage::{FrameLog, LogReader, LogSpec, TornTail, disk::Disk},
};

/// How many bytes are read at once while the newest segment is checked.
const CHECK_READ_BYTES_MAX: usize = 1 << 20;

/// The log of one machine.
#[derive(Debug)]
pub struct LocalLog {
    log: Mutex<FrameLog>,
    reader: LogReader,
    head: watch::Sender<u64>,
}

/// The state in which a local log was opened.
#[derive(Debug)]
pub struct Opened {
    /// The end of the chain.
    pub tip: Tip,
    /// Entries before this index are in older segments, which were not read.
    pub checked_from: u64,
    /// Identity of the log's files.
    pub log_id: [u8; 16],
}

impl LocalLog {
    /// Opens the log in `dir`, or creates it. Verifies the chain of the newest segment only, so that the
    /// cost does not grow with the ledger. `entries_min` is the number of entries under a signed
    /// checkpoint: fewer entries are damage, not a torn tail. A torn tail stays where it is until
    /// [`Self::settle`], which must come before the first append.
    ///
    /// # Errors
    /// Damage, with segment, offset and index. Nothing was changed.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        segment_bytes_max: u64,
        new_id: [u8; 16],
        entries_min: u64,
    ) -> Result<(Self, Opened), BackendError> {
        let spec = LogSpec {
            dir,
            kind: ledger::LOG_KIND,
            segment_bytes_max,
            frame_bytes_max: u32::try_from(ENTRY_BYTES_MAX).unwrap_or(u32::MAX),
            frames_min: entries_min,
        };
        let log = FrameLog::look(disk, spec, new_id)?;
        let reader = log.reader();
        let checked_from = reader.first_index_of_last_segment();
        let tip = follow(&reader, checked_from)?;
        let log_id = log.id();
        let (head, _) = watch::channel(log.next_index());
        Ok((Self { log: Mutex::new(log), reader, head }, Opened { tip, checked_from, log_id }))
    }

    /// Sets a torn tail aside, which was never acknowledged, and reports it.
    ///
    /// # Errors
    /// The disk failed.
    pub fn settle(&self) -> Result<Option<TornTail>, BackendError> {
        Ok(self.log.lock().settle()?)
    }
}

impl LogBackend for LocalLog {
    fn append(&self, expected_index: u64, entries: &[Vec<u8>]) -> Result<Appended, BackendError> {
        let mut log = self.log.lock();
        if log.next_index() != expected_index {
            return Ok(Appended::Lost { head: log.next_index() });
        }
        log.append(entries)?;
        self.head.send_replace(log.next_index());
        Ok(Appended::Landed)
    }

    fn read(&self, start: u64, end: u64, bytes_max: usize) -> Result<Vec<Vec<u8>>, BackendError> {
        Ok(self.reader.read_range(start, end, bytes_max)?)
    }

    fn head(&self) -> u64 {
        self.reader.next_index()
    }

    fn tail(&self) -> watch::Receiver<u64> {
        self.head.subscribe()
    }

    fn size_bytes(&self) -> u64 {
        self.reader.size_bytes()
    }
}

/// Verifies the chain from `from` to its end. The entry before `from` is trusted.
fn follow(reader: &LogReader, from: u64) -> Result<Tip, BackendError> {
    let mut tip = Tip::genesis();
    let broken = |index, problem| BackendError::Chain { index, problem };
    if let Some(before) = from.checked_sub(1) {
        let bytes = reader.read(before)?;
        let entry = Entry::decode(&bytes).map_err(|problem| broken(before, problem.into()))?;
        if entry.index != before {
            return Err(broken(before, ChainError::Index { want: before, got: entry.index }));
        }
        tip = Tip::after_trusted(&entry, &bytes);
    }
    let end = reader.next_index();
    while tip.next_index < end {
        for bytes in reader.read_range(tip.next_index, end, CHECK_READ_BYTES_MAX)? {
            let index = tip.next_index;
            (_, tip) = tip.follow(&bytes).map_err(|problem| broken(index, problem))?;
        }
    }
    Ok(tip)
}
