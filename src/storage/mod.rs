//! Storage: frames in fsynced files, and a write-behind index over sled.
//!
//! * [`index`], [`keys`]: what is looked up: current at once, in sled later, disposable.
//! * The rest is `consent-ledger-framelog`.

pub mod index;
pub mod keys;

pub use consent_ledger_framelog::{
    Damage, FrameAt, FrameLog, LogError, LogReader, LogSpec, ScanEnd, TornTail, disk,
    holds_segments, scan, secret, sim,
};
