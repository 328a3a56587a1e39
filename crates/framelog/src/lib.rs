//! Checksummed frames in fsynced files: the one primitive under ledger and vault. It knows nothing of
//! what a frame says.
//!
//! * [`disk`]: the few file operations that durability rests on.
//! * `frame`, `segment`: the bytes, drawn; how torn and damaged are told apart.
//! * [`FrameLog`], [`LogReader`]: the one writer, and its many readers.
//! * [`scan`]: walks a log without lock and without changing anything.
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
