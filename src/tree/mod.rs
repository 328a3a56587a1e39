//! The Merkle tree over the ledger's entries, on disk, and the checkpoints that sign its head.

use std::sync::Arc;

use crate::tlog::{checkpoint::SignedCheckpoint, merkle::Hash};

/// What becomes of a checkpoint that too few witnesses have cosigned in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum WitnessFail {
    /// It is released without, and that is reported.
    Open,
    /// It is held back, with everything that waits for it, until the policy is met.
    Closed,
}

/// A checkpoint that was signed and is on stable storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// The checkpoint, with the signature of the ledger and the cosignatures of witnesses.
    pub checkpoint: SignedCheckpoint,
    /// Its text.
    pub text: Arc<str>,
    /// Whether it carries the cosignatures that the policy asks for. False where there is none.
    pub witnessed: bool,
}

impl Signed {
    /// Number of entries under it.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.checkpoint.checkpoint.size
    }

    /// Root of the tree over them.
    #[must_use]
    pub fn root(&self) -> Hash {
        self.checkpoint.checkpoint.root
    }
}
