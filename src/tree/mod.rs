//! The Merkle tree over the ledger's entries, on disk, and the checkpoints that sign its head.
//!
//! * [`TreeFiles`], [`TreeWriter`]: the hashes, laid out as the tiles of C2SP tlog-tiles. Disposable:
//!   they can be made again from the entries.
//! * [`Book`]: the latest checkpoint that was signed, and the latest that was released. Not
//!   disposable: it is what keeps a ledger from being cut, and a signer from contradicting itself.
//! * [`load_key`]: the file of the signing key.
//!
//! When to sign, and what to compare before, is not known here.

mod book;
mod files;
mod key;

pub use book::{BOOK_FILE, Book, BookError, Signed};
pub use files::{TreeError, TreeFiles, TreeWriter};
pub use key::{KEY_FILE, SigningKeyError, load as load_key};

/// Name of the tree's folder in a data directory.
pub const DIR: &str = "tree";

/// What becomes of a checkpoint that too few witnesses have seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum WitnessFail {
    /// Release it, and count that in the metrics.
    #[default]
    Open,
    /// Hold it back until enough witnesses have cosigned it.
    Closed,
}
