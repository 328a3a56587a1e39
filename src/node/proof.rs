//! Checkpoints and proofs: what an auditor, a witness or a monitor asks for.

use std::sync::Arc;

use tokio::sync::watch;

use super::{Node, ReadError};
use crate::{
    tlog::{key::VerifierKey, merkle::Hash, note::NoteSignature, tile::Tile},
    tree::Signed,
};

impl Node {
    /// The key that verifies what this ledger signs.
    #[must_use]
    pub fn verifier_key(&self) -> &VerifierKey {
        todo!()
    }

    /// The latest checkpoint that was released: signed, and cosigned as the policy asks, or released
    /// without. None before the first.
    #[must_use]
    pub fn released(&self) -> Option<Arc<Signed>> {
        todo!()
    }

    /// The latest released checkpoint, once it is of at least `size` entries.
    ///
    /// # Errors
    /// [`ReadError::CheckpointNotReached`].
    pub async fn released_at_least(&self, size: u64) -> Result<Arc<Signed>, ReadError> {
        let _ = size;
        todo!()
    }

    /// Tells of each checkpoint that was signed, for those who bring it to witnesses.
    #[must_use]
    pub fn signed(&self) -> watch::Receiver<Option<Arc<Signed>>> {
        todo!()
    }

    /// Adds cosignatures to the signed checkpoint of `size` entries, and releases it if the policy is
    /// met now. Those that are not good, not of a witness of the policy, or too late are left out.
    /// Answers how many were added. Blocking.
    ///
    /// # Errors
    /// The checkpoint could not be kept.
    pub fn add_cosignatures(
        &self,
        size: u64,
        cosignatures: Vec<NoteSignature>,
    ) -> Result<usize, ReadError> {
        let _ = (size, cosignatures);
        todo!()
    }

    /// The root of the tree over the first `size` entries. Blocking.
    ///
    /// # Errors
    /// [`ReadError::IndexOutOfRange`] beyond the latest signed checkpoint.
    pub fn tree_root(&self, size: u64) -> Result<Hash, ReadError> {
        let _ = size;
        todo!()
    }

    /// The audit path of an entry in the tree over the first `size` entries. Blocking.
    ///
    /// # Errors
    /// [`ReadError::IndexOutOfRange`] beyond the latest signed checkpoint.
    pub fn prove_inclusion(&self, index: u64, size: u64) -> Result<Vec<Hash>, ReadError> {
        let _ = (index, size);
        todo!()
    }

    /// The proof that the ledger of `first` entries is the beginning of that of `second`. Blocking.
    ///
    /// # Errors
    /// [`ReadError::IndexOutOfRange`] beyond the latest signed checkpoint.
    pub fn prove_consistency(&self, first: u64, second: u64) -> Result<Vec<Hash>, ReadError> {
        let _ = (first, second);
        todo!()
    }

    /// The bytes of a tile or an entry bundle; none if the latest released checkpoint has none such.
    /// Blocking.
    ///
    /// # Errors
    /// [`ReadError::StateUnreadable`].
    pub fn tile(&self, tile: Tile) -> Result<Option<Vec<u8>>, ReadError> {
        let _ = tile;
        todo!()
    }

    /// Index of the entry that a request with this idempotency key wrote.
    ///
    /// # Errors
    /// [`ReadError::ActUnknown`] if there is none.
    pub fn index_of_key(&self, idempotency_key: &str) -> Result<u64, ReadError> {
        let _ = idempotency_key;
        todo!()
    }
}
