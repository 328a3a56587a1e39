//! The Merkle tree over the ledger's entries, on disk, and the checkpoints that sign its head.
//!
//! * [`TreeFiles`], [`TreeWriter`]: the hashes, laid out as the tiles of C2SP tlog-tiles. Disposable:
//!   they can be rebuilt from the entries.
//! * [`Book`]: the latest signed and the latest released checkpoint. Not disposable: it detects a
//!   ledger that was cut, and keeps the signer from contradicting itself.
//! * [`read_key`], [`write_key`]: the file of the signing key.
//!
//! This module does not decide when to sign.

mod book;
mod files;
mod key;

pub use book::{BOOK_FILE, Book, BookError, Signed};
pub use files::{TreeCheck, TreeError, TreeFiles, TreeWriter};
pub use key::{
    KEY_FILE, SigningKeyError, Unkeyed, generate as generate_key, read as read_key,
    write as write_key,
};

/// Name of the tree's folder in a data directory.
pub const DIR: &str = "tree";

/// What happens to a checkpoint without enough cosignatures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum WitnessFail {
    /// Release it, and count that in the metrics.
    #[default]
    Open,
    /// Hold it back until enough witnesses have cosigned it.
    Closed,
}
