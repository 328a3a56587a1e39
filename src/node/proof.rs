//! Checkpoints and proofs, for auditors, witnesses and monitors.
//!
//! Proofs come from the tree's files. Each is verified against a signed root before it is returned, so
//! that no caller gets a proof that a verifier would refuse.

use std::sync::Arc;

use tokio::{sync::watch, time::timeout};
use tracing::error;

use super::{CheckpointNotReached, Core, FindActError, Node, ProveError, ReadError};
use crate::{
    tlog::{
        key::VerifierKey,
        merkle::{self, Hash, prove_consistency, prove_inclusion},
        note::NoteSignature,
        proof::TlogProof,
        tile::{Kind, TILE_HEIGHT, Tile, bundle, count_at, root_of},
    },
    tree::Signed,
};

/// The highest level of tiles that any tree has.
const LEVEL_TOP: u8 = 7;

/// An entry, and the proof that it is in the tree over the first `size` entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inclusion {
    /// Index of the entry.
    pub index: u64,
    /// Number of entries in the tree.
    pub size: u64,
    /// The entry's exact bytes.
    pub entry: Vec<u8>,
    /// The audit path.
    pub path: Vec<Hash>,
    /// Root of the tree.
    pub root: Hash,
    /// The released checkpoint, if it has this size.
    pub checkpoint: Option<Arc<Signed>>,
}

impl Inclusion {
    /// The proof and its checkpoint as one text; none if there is no checkpoint of this size.
    #[must_use]
    pub fn tlog_proof(&self, extra: Option<Vec<u8>>) -> Option<TlogProof> {
        Some(TlogProof {
            extra,
            index: self.index,
            path: self.path.clone(),
            checkpoint: self.checkpoint.as_ref()?.checkpoint.clone(),
        })
    }
}

/// The proof that a smaller ledger is a prefix of a larger one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consistency {
    /// The smaller number of entries, and the root over them.
    pub first: (u64, Hash),
    /// The larger one.
    pub second: (u64, Hash),
    /// The proof.
    pub proof: Vec<Hash>,
    /// The released checkpoint, if it has the second size.
    pub checkpoint: Option<Arc<Signed>>,
}

impl Node {
    /// The key that verifies what this ledger signs.
    #[must_use]
    pub fn verifier_key(&self) -> &VerifierKey {
        self.core.checkpoints.key.verifier()
    }

    /// The latest released checkpoint: cosigned as the policy asks, or released without cosignatures.
    /// None before the first.
    #[must_use]
    pub fn released(&self) -> Option<Arc<Signed>> {
        self.core.checkpoints.released.borrow().clone()
    }

    /// The proofs of the changes of the signing key, one below the other: what somebody follows who knows an
    /// earlier key.
    #[must_use]
    pub fn key_changes(&self) -> Arc<str> {
        self.core.checkpoints.key_changes.borrow().clone()
    }

    /// The latest released checkpoint, once it covers at least `size` entries.
    ///
    /// # Errors
    /// [`CheckpointNotReached`].
    pub async fn released_at_least(&self, size: u64) -> Result<Arc<Signed>, CheckpointNotReached> {
        let checkpoints = &self.core.checkpoints;
        let mut released = checkpoints.released.subscribe();
        let mut ended = checkpoints.ended.subscribe();
        let covers = |checkpoint: &Option<Arc<Signed>>| {
            checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.size() >= size)
        };
        let covering = async {
            tokio::select! {
                biased;
                checkpoint = released.wait_for(covers) => checkpoint.ok()?.clone(),
                // No checkpoint follows.
                _ = ended.wait_for(Option::is_some) => None,
            }
        };
        if let Ok(Some(signed)) = timeout(self.checkpoint_wait, covering).await {
            return Ok(signed);
        }
        let reached = self.released().map_or(0, |signed| signed.size());
        Err(CheckpointNotReached { wanted: size, reached })
    }

    /// Receives each signed checkpoint, for the tasks that bring it to witnesses.
    #[must_use]
    pub fn signed(&self) -> watch::Receiver<Option<Arc<Signed>>> {
        self.core.checkpoints.signed.subscribe()
    }

    /// Adds cosignatures to the signed checkpoint of `size` entries, and releases it if the policy is
    /// met. Ignores cosignatures that are invalid, late, or not of a witness of the policy. Answers how
    /// many were added. Blocking.
    ///
    /// # Errors
    /// The checkpoint could not be stored.
    pub fn add_cosignatures(
        &self,
        size: u64,
        cosignatures: Vec<NoteSignature>,
    ) -> Result<usize, ReadError> {
        let added = self.core.checkpoints.add_cosignatures(&self.core, size, cosignatures);
        added.map_err(ReadError::StateUnreadable)
    }

    /// Sets whether a witness has seen another history of this ledger. While it is set, no checkpoint
    /// is released without enough cosignatures.
    pub fn hold_back(&self, conflict: bool) {
        self.core.checkpoints.hold_back(conflict);
    }

    /// The root of the tree over the first `size` entries. Blocking.
    ///
    /// # Errors
    /// [`ProveError::BeyondCheckpoint`] beyond the latest signed checkpoint.
    pub fn tree_root(&self, size: u64) -> Result<Hash, ProveError> {
        self.core.check_signed(size)?;
        Ok(self.core.checkpoints.files.root(size)?)
    }

    /// An entry with its proof, in the tree over the first `size` entries. `checkpoint` has this size;
    /// if none is given, the released checkpoint is returned if it has this size. Blocking.
    ///
    /// # Errors
    /// [`ProveError::BeyondCheckpoint`] for an index beyond the size, or a size beyond the latest signed
    /// checkpoint.
    pub fn inclusion(
        &self,
        index: u64,
        size: u64,
        checkpoint: Option<Arc<Signed>>,
    ) -> Result<Inclusion, ProveError> {
        let core = &self.core;
        core.check_signed(size)?;
        if index >= size {
            return Err(ProveError::BeyondCheckpoint { what: "index", wanted: index, size });
        }
        let entry = core.entry_bytes(index)?;
        let path = prove_inclusion(index, size, |height, number| core.subtree(height, number))?;
        let root = core.checkpoints.files.root(size)?;
        let leaf = merkle::leaf_hash(&entry);
        core.check_leaf(index, &leaf)?;
        core.proven(merkle::verify_inclusion(&leaf, index, size, &path, &root))?;
        let checkpoint = core.checkpoint_of_size(checkpoint, size, &root)?;
        Ok(Inclusion { index, size, entry, path, root, checkpoint })
    }

    /// The proof that the ledger of `first` entries is a prefix of that of `second`. Blocking.
    ///
    /// # Errors
    /// [`ProveError::BeyondCheckpoint`] beyond the latest signed checkpoint.
    pub fn prove_consistency(&self, first: u64, second: u64) -> Result<Vec<Hash>, ProveError> {
        Ok(self.consistency(first, second, None)?.proof)
    }

    /// As [`Self::prove_consistency`], with both roots, and a checkpoint as in [`Self::inclusion`].
    /// Blocking.
    ///
    /// # Errors
    /// [`ProveError::BeyondCheckpoint`] for a first size beyond the second, or a second beyond the
    /// latest signed checkpoint.
    pub fn consistency(
        &self,
        first: u64,
        second: u64,
        checkpoint: Option<Arc<Signed>>,
    ) -> Result<Consistency, ProveError> {
        let core = &self.core;
        core.check_signed(second)?;
        if first > second {
            return Err(ProveError::BeyondCheckpoint { what: "size", wanted: first, size: second });
        }
        let proof =
            prove_consistency(first, second, |height, number| core.subtree(height, number))?;
        let roots = (core.checkpoints.files.root(first)?, core.checkpoints.files.root(second)?);
        let (first, second) = ((first, roots.0), (second, roots.1));
        let verified =
            merkle::verify_consistency((first.0, &first.1), (second.0, &second.1), &proof);
        core.proven(verified)?;
        let checkpoint = core.checkpoint_of_size(checkpoint, second.0, &second.1)?;
        Ok(Consistency { first, second, proof, checkpoint })
    }

    /// The bytes of a tile or an entry bundle; none if it lies beyond the latest released checkpoint.
    /// Blocking.
    ///
    /// # Errors
    /// [`ReadError::StateUnreadable`].
    pub fn tile(&self, tile: Tile) -> Result<Option<Vec<u8>>, ReadError> {
        let size = self.released().map_or(0, |signed| signed.size());
        let start = tile.start();
        let Some(end) = start.checked_add(u64::from(tile.width)) else { return Ok(None) };
        if end > count_at(tile.kind, size) {
            return Ok(None);
        }
        match tile.kind {
            Kind::Level(level) => self.core.hashes(level, &tile, size).map(Some),
            Kind::Entries => {
                let entries = self.core.backend.read(start, end, usize::MAX)?;
                for (index, entry) in (start..).zip(&entries) {
                    self.core.check_leaf(index, &merkle::leaf_hash(entry))?;
                }
                let bundle = bundle(&entries);
                bundle
                    .map(Some)
                    .ok_or_else(|| ReadError::StateUnreadable("a long entry".to_owned()))
            }
        }
    }

    /// Index of the entry that a request with this idempotency key wrote.
    ///
    /// # Errors
    /// [`FindActError::Unknown`] if there is none.
    pub fn index_of_key(&self, idempotency_key: &str) -> Result<u64, FindActError> {
        let key_hash = self.core.vault.idempotency_key_hash(idempotency_key);
        self.core.view.idempotent(&key_hash)?.ok_or(FindActError::Unknown)
    }
}

impl Core {
    /// Fails for a size beyond the last signed checkpoint: later entries may still be lost.
    fn check_signed(&self, size: u64) -> Result<(), ProveError> {
        let head = self.checkpoints.signed.borrow().as_ref().map_or(0, |signed| signed.size());
        if size <= head {
            Ok(())
        } else {
            Err(ProveError::BeyondCheckpoint { what: "size", wanted: size, size: head })
        }
    }

    fn subtree(&self, height: u32, number: u64) -> Result<Hash, ReadError> {
        Ok(self.checkpoints.files.subtree(height, number)?)
    }

    /// The given checkpoint, or the released one if it has this size. Its root must be `root`.
    fn checkpoint_of_size(
        &self,
        checkpoint: Option<Arc<Signed>>,
        size: u64,
        root: &Hash,
    ) -> Result<Option<Arc<Signed>>, ReadError> {
        let checkpoint = checkpoint.or_else(|| self.checkpoints.released.borrow().clone());
        let checkpoint = checkpoint.filter(|checkpoint| checkpoint.size() == size);
        if let Some(checkpoint) = &checkpoint {
            self.check_root(checkpoint.root() == *root)?;
        }
        Ok(checkpoint)
    }

    /// Hashes of a tile. They are cached for ever, so they are verified: against the hash in the level
    /// above, or, at the right edge, against the signed root.
    fn hashes(&self, level: u8, tile: &Tile, size: u64) -> Result<Vec<u8>, ReadError> {
        let files = &self.checkpoints.files;
        let hashes = files.hashes(level, tile.start(), tile.width.into())?;
        if tile.is_full() && level < LEVEL_TOP {
            let above = files.hashes(level + 1, tile.number, 1)?;
            self.check_root(root_of(&hashes).is_some_and(|root| root.as_slice() == above))?;
        } else {
            self.check_edge(level, tile, size)?;
        }
        Ok(hashes)
    }

    /// Verifies the hashes of a tile at the right edge against the signed root.
    fn check_edge(&self, level: u8, tile: &Tile, size: u64) -> Result<(), ReadError> {
        let released = self.checkpoints.released.borrow().clone();
        let Some(released) = released.filter(|released| released.size() >= size) else {
            return Err(ReadError::StateUnreadable("no checkpoint covers the tile".to_owned()));
        };
        // The tree that ends with the tile is a prefix of the signed one.
        let spanned = (tile.start() + u64::from(tile.width)) << (TILE_HEIGHT * u32::from(level));
        let subtree = |height, number| self.subtree(height, number);
        let proof = prove_consistency(spanned, released.size(), subtree)?;
        let root = self.checkpoints.files.root(spanned)?;
        self.proven(merkle::verify_consistency(
            (spanned, &root),
            (released.size(), &released.root()),
            &proof,
        ))
    }

    /// Compares an entry with its leaf in the tree. If the leaf leads to the signed root and the entry
    /// has another hash, the entry was changed after it was signed: writes are stopped.
    fn check_leaf(&self, index: u64, leaf: &Hash) -> Result<(), ReadError> {
        let stored = self.subtree(0, index)?;
        if stored == *leaf {
            return Ok(());
        }
        let signed = self.checkpoints.signed.borrow().clone();
        let Some(signed) = signed.filter(|signed| index < signed.size()) else {
            return Err(ReadError::StateUnreadable(format!("entry {index} is not signed yet")));
        };
        let (size, root) = (signed.size(), signed.root());
        let path = prove_inclusion(index, size, |height, number| self.subtree(height, number))?;
        self.proven(merkle::verify_inclusion(&stored, index, size, &path, &root))?;
        let reason = format!("entry {index} is not the one that was signed");
        self.stop_writes(&reason);
        Err(ReadError::StateUnreadable(reason))
    }

    fn check_root(&self, is_same: bool) -> Result<(), ReadError> {
        self.proven(if is_same { Ok(()) } else { Err(merkle::ProofError::Root) })
    }

    /// If a proof does not verify, the tree's files are damaged.
    fn proven(&self, verified: Result<(), merkle::ProofError>) -> Result<(), ReadError> {
        verified.map_err(|problem| {
            error!(%problem, "a proof from the tree does not verify: the tree is built again at the next start");
            if let Err(error) = self.checkpoints.files.condemn() {
                error!(%error, "the tree could not be marked as damaged");
            }
            ReadError::StateUnreadable(problem.to_string())
        })
    }
}
