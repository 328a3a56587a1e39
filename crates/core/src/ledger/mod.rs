//! The ledger's own bytes: the hash chain over entries, their verification, and what opens them.
//!
//! This module is synchronous. It knows nothing of gRPC, the index or subscribers.

pub mod disclosed;
pub mod key_change;
pub mod sealed;
pub mod verify;

pub use crate::format::{
    LEVEL,
    chain::{self, ChainError, Claim, Tip},
    entry::{ENTRY_BYTES_MAX, FORMAT_VERSION},
};

/// Kind of the ledger's segment files.
pub const LOG_KIND: [u8; 4] = *b"LEDG";
/// Name of the ledger's folder in a data directory.
pub const DIR: &str = "ledger";
