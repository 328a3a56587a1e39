//! Storage: frames in fsynced files, and an index behind the writer.
//!
//! * `index`, re-exported from `consent-ledger-index`: rows for look-ups, readable at once, on disk later,
//!   disposable. It knows only bytes; view and vault define keys and values.
//! * Everything else is re-exported from `consent-ledger-framelog`.

mod file;

pub use consent_ledger_framelog::{
    Damage, FrameAt, FrameLog, LogError, LogReader, LogSpec, ScanEnd, TornTail, disk,
    holds_segments, scan, secret, sim,
};
pub use consent_ledger_index as index;
pub use file::FileError;
pub(crate) use file::{AtPath, if_exists};

/// An index for a test.
#[cfg(test)]
pub(crate) fn scratch_index(dir: &std::path::Path) -> index::Index {
    let disk = std::sync::Arc::new(disk::RealDisk);
    index::Index::open(disk, dir, &[5; 32], [7; 16], index::Config::default()).unwrap().0
}
