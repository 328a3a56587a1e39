//! The ledger's own bytes: envelopes, the hash chain over them, and their verification.
//!
//! This module is synchronous. It knows nothing of gRPC, sled or subscribers, and holds no keys to
//! sealed content.

pub mod chain;
pub mod envelope;
pub mod key_change;
pub mod skim;
pub mod verify;

/// Kind of the ledger's segment files.
pub const LOG_KIND: [u8; 4] = *b"LEDG";
/// The largest entry, in bytes.
pub const ENTRY_BYTES_MAX: usize = 65_535;
/// Version of the entry format.
pub const FORMAT_VERSION: u32 = 1;
/// Name of the ledger's folder in a data directory.
pub const DIR: &str = "ledger";
