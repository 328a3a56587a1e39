//! An ordered map of bytes that is current at once and on disk later.
//!
//! What is put is readable before the call returns, from memory. A thread writes it to disk behind the
//! writer, in *runs*: immutable files of rows in key order. Another merges runs, so that there are few.
//! After a crash of any kind, a power cut too, the map is what it was after some earlier put: a run holds
//! whole puts, and all before them are in older runs.
//!
//! ```text
//! manifest           which runs there are, newest first; replaced as a whole
//! <32 hex>.run       a run, named by its id
//! ```
//!
//! Nothing on disk is believed before it is checked. Every page is sealed with AES-256-GCM under a key of
//! its run, and bound to its place; the manifest names every run by its random id, its length and its
//! footer. So a page that was changed, swapped or taken from another run, and a run of an older copy, do
//! not open. An older copy of the whole directory is an earlier state of the map, and nothing else.
//!
//! It knows only bytes, and is never the only copy: its owner can make all of it again.

mod code;
mod error;
mod filter;
mod index;
mod manifest;
mod memory;
mod merge;
mod page;
mod run;
mod seal;

#[cfg(test)]
mod tests;

pub use error::IndexError;
pub use index::{Config, Found, Index, Row};
