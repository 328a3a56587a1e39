//! Storage: frames in fsynced files, and a write-behind index over sled.
//!
//! * [`index`]: what is looked up: current at once, in sled later, disposable. It knows bytes; whose row
//!   is under which key, the view and the vault say.
//! * The rest is `consent-ledger-framelog`.

pub mod index;

pub use consent_ledger_framelog::{
    Damage, FrameAt, FrameLog, LogError, LogReader, LogSpec, ScanEnd, TornTail, disk,
    holds_segments, scan, secret, sim,
};
