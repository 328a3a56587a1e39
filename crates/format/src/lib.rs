//! Format 2 of the ledger: what an entry is, down to the bytes, and who can read which part of it.
//!
//! An entry says nothing about a person without that person's keys. This crate knows the keys, tags,
//! seals and commitments, the entries that they make, the frames of the vault, and the statements that open
//! one entry or some persons' entries. It knows no clock, no file and no service, and does not know what an
//! act means for a decision. `docs/format.md` describes every byte.
//!
//! In reading order:
//!
//! * [`canonical`], [`field`]: messages with one form, and what their fields may be.
//! * [`hash`], [`secret`], [`keys`]: the two hashes, keys, and what follows from them.
//! * [`seal`]: a padded text under a key for it alone, bound to its place.
//! * [`entry`], [`chain`]: entries without keys.
//! * [`record`], [`slot`]: what an entry says about a person.
//! * [`confidential`], [`uses`]: what is confidential and names nobody.
//! * [`expiry`], [`order`]: times and orders that would betray who is who.
//! * [`vault`]: the frames that hold the keys.
//! * [`rebuild`]: whose entry is it? One pass over the ledger with the keys of the vault.
//! * [`opening`], [`disclosure`], [`propagation`], [`token`]: statements that leave the ledger.

pub mod canonical;
pub mod chain;
pub mod confidential;
pub mod disclosure;
pub mod entry;
pub mod error;
pub mod expiry;
pub mod field;
pub mod hash;
pub mod keys;
pub mod opening;
pub mod order;
pub mod propagation;
pub mod rebuild;
pub mod record;
pub mod seal;
pub mod secret;
pub mod slot;
pub mod token;
pub mod uses;
pub mod vault;

pub use consent_ledger_proto::ledger as message;

/// The highest feature level that this program reads and writes.
pub const LEVEL: u32 = 1;

/// Random identity of a ledger.
pub type LedgerId = [u8; 16];
/// What finds a person's entry, to whoever has the person's keys.
pub type Tag = [u8; 16];
/// What a record is named by inside other records: derived from its one-time key.
pub type Reference = [u8; 16];
