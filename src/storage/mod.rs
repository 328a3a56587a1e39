//! Storage: frames in fsynced files, and a write-behind index over sled.
//!
//! * [`index`]: rows for look-ups: readable at once, in sled later, disposable. It knows only bytes; view
//!   and vault define keys and values.
//! * Everything else is re-exported from `consent-ledger-framelog`.

mod file;
pub mod index;

pub use consent_ledger_framelog::{
    Damage, FrameAt, FrameLog, LogError, LogReader, LogSpec, ScanEnd, TornTail, disk,
    holds_segments, scan, secret, sim,
};
pub use file::FileError;
pub(crate) use file::{AtPath, missing_is_ok};
