//! Checksummed frames in fsynced files, the storage of ledger and vault. It knows nothing of the content
//! of a frame.
//!
//! * [`disk`]: the file operations that durability depends on.
//! * `frame`, `segment`: the byte formats. `walk`: the difference between torn and damaged.
//! * [`FrameLog`], [`LogReader`]: the single writer and its readers.
//! * [`scan`]: reads a log without a lock and without changes.
//! * [`secret`]: files that hold a secret, written once.
//! * [`sim`]: a disk in memory that fails on demand, for tests.

pub mod disk;
mod error;
mod frame;
mod log;
mod reader;
mod scan;
pub mod secret;
mod segment;
#[doc(hidden)]
pub mod sim;
mod walk;

#[cfg(test)]
mod tests;

pub use error::{Damage, LogError, TornTail};
pub use log::{FrameLog, LogSpec};
pub use reader::LogReader;
pub use scan::{FrameAt, ScanEnd, holds_segments, scan};
