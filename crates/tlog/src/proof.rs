//! C2SP tlog-proof: the inclusion proof of an entry, in one text that can be verified offline.
//!
//! ```text
//! c2sp.org/tlog-proof@v1
//! index 73894
//! gSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=
//! B95lDa8R83lS8n0eG+o0buTxRKQTYFi//1U8anccXmA=
//!
//! example.com/fancylog
//! 109482
//! sFodV/vSp5O8n9a8QpW6PRY97tfOSW5bsc2Xl/EQi08=
//!
//! — example.com/fancylog hI2DJw…
//! ```
//!
//! The format has no field for the entry. This ledger puts the entry's bytes into `extra`; a verifier
//! hashes them, so they need no other protection.

use std::fmt;

use base64::Engine as _;
use thiserror::Error;

use super::{
    BASE64,
    checkpoint::{CheckpointError, SignedCheckpoint},
    decimal, hash,
    key::VerifierKey,
    merkle::{Hash, PROOF_HASHES_MAX, ProofError, verify_inclusion},
};

const HEADER: &str = "c2sp.org/tlog-proof@v1";

/// The inclusion proof of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlogProof {
    /// Data to compute the leaf from. It is not signed.
    pub extra: Option<Vec<u8>>,
    /// Index of the entry.
    pub index: u64,
    /// The audit path, from the leaf's sibling up.
    pub path: Vec<Hash>,
    /// The head of the tree.
    pub checkpoint: SignedCheckpoint,
}

/// Why a proof can not be parsed or is not valid.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TlogProofError {
    /// The text is malformed.
    #[error("not a C2SP tlog-proof: {0}")]
    Form(&'static str),
    /// The checkpoint is not valid.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The audit path does not lead from the entry to the checkpoint.
    #[error(transparent)]
    Proof(#[from] ProofError),
}

impl TlogProof {
    /// Parses a proof. Do not trust it before [`Self::verify`].
    ///
    /// # Errors
    /// See [`TlogProofError`].
    pub fn parse(text: &str) -> Result<Self, TlogProofError> {
        let form = TlogProofError::Form;
        let rest = text.strip_prefix(HEADER).and_then(|rest| rest.strip_prefix('\n'));
        let rest = rest.ok_or(form("its first line must be `c2sp.org/tlog-proof@v1`"))?;
        let (head, checkpoint) =
            rest.split_once("\n\n").ok_or(form("it has no empty line before its checkpoint"))?;
        let mut lines = head.split('\n').peekable();
        let extra = match lines.next_if(|line| line.starts_with("extra ")) {
            None => None,
            Some(line) => {
                let bytes = BASE64.decode(&line["extra ".len()..]);
                Some(bytes.map_err(|_| form("its extra data must be base64"))?)
            }
        };
        let index = lines.next().and_then(|line| line.strip_prefix("index ")).and_then(decimal);
        let index = index.ok_or(form("it must name the entry's index"))?;
        let path: Option<Vec<Hash>> = lines.map(hash).collect();
        let path = path.ok_or(form("its hashes must be 32 bytes in base64"))?;
        if path.len() > PROOF_HASHES_MAX {
            return Err(form("it has more hashes than a proof can have"));
        }
        Ok(Self { extra, index, path, checkpoint: SignedCheckpoint::parse(checkpoint)? })
    }

    /// The texts of proofs that stand one below the other.
    pub fn split(text: &str) -> impl Iterator<Item = &str> {
        let mut rest = text;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let end = rest.find(&format!("\n{HEADER}\n")).map_or(rest.len(), |end| end + 1);
            let (first, later) = rest.split_at(end);
            rest = later;
            Some(first)
        })
    }

    /// Verifies that the log of the key has signed a tree with this leaf at this index. For the
    /// cosignatures of witnesses, see `Policy::verify`.
    ///
    /// # Errors
    /// See [`TlogProofError`].
    pub fn verify(&self, leaf: &Hash, key: &VerifierKey) -> Result<(), TlogProofError> {
        self.verify_any(leaf, std::slice::from_ref(key))
    }

    /// As [`Self::verify`], with one of several keys of the log.
    ///
    /// # Errors
    /// See [`TlogProofError`].
    pub fn verify_any(&self, leaf: &Hash, keys: &[VerifierKey]) -> Result<(), TlogProofError> {
        self.checkpoint.verify_any(keys)?;
        Ok(self.leads_from(leaf)?)
    }

    /// Verifies that the audit path leads from this leaf to the checkpoint. Says nothing of who signed
    /// that.
    ///
    /// # Errors
    /// See [`ProofError`].
    pub fn leads_from(&self, leaf: &Hash) -> Result<(), ProofError> {
        let checkpoint = &self.checkpoint.checkpoint;
        verify_inclusion(leaf, self.index, checkpoint.size, &self.path, &checkpoint.root)
    }
}

impl fmt::Display for TlogProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}")?;
        if let Some(extra) = &self.extra {
            writeln!(f, "extra {}", BASE64.encode(extra))?;
        }
        writeln!(f, "index {}", self.index)?;
        for hash in &self.path {
            writeln!(f, "{}", BASE64.encode(hash))?;
        }
        write!(f, "\n{}", self.checkpoint)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        checkpoint::Checkpoint,
        key::{Algorithm, SignerKey},
        merkle::{leaf_hash, node_hash},
    };

    fn signer() -> SignerKey {
        SignerKey::from_seed("ledger.example", Algorithm::Note, &[1; 32]).unwrap()
    }

    fn proof() -> TlogProof {
        let (left, right) = (leaf_hash(b"a"), leaf_hash(b"b"));
        let checkpoint = Checkpoint {
            origin: "ledger.example".to_owned(),
            size: 2,
            root: node_hash(&left, &right),
            extensions: String::new(),
        };
        let checkpoint = SignedCheckpoint::sign(checkpoint, &signer()).unwrap();
        TlogProof { extra: Some(b"b".to_vec()), index: 1, path: vec![left], checkpoint }
    }

    #[test]
    fn a_proof_is_for_one_leaf_in_one_place() {
        let (proof, signer) = (proof(), signer());
        assert_eq!(proof.verify(&leaf_hash(b"b"), signer.verifier()), Ok(()));
        assert!(proof.verify(&leaf_hash(b"a"), signer.verifier()).is_err());
        let moved = TlogProof { index: 0, ..proof.clone() };
        assert!(moved.verify(&leaf_hash(b"b"), signer.verifier()).is_err());
        let other = SignerKey::from_seed("ledger.example", Algorithm::Note, &[2; 32]).unwrap();
        assert!(proof.verify(&leaf_hash(b"b"), other.verifier()).is_err());
    }

    #[test]
    fn proofs_round_trip() {
        for proof in [proof(), TlogProof { extra: None, path: Vec::new(), ..proof() }] {
            assert_eq!(TlogProof::parse(&proof.to_string()), Ok(proof));
        }
    }

    #[test]
    fn malformed_proofs_are_refused() {
        let good = proof().to_string();
        for (from, to) in [
            ("@v1\n", "@v2\n"),
            ("index 1\n", "index 01\n"),
            ("index 1\n", ""),
            ("extra Yg==\n", "extra Yg\n"),
            ("\n\nledger", "\nledger"),
        ] {
            assert!(good.contains(from));
            assert!(TlogProof::parse(&good.replacen(from, to, 1)).is_err(), "{from:?} {to:?}");
        }
    }

    proptest! {
        #[test]
        fn changed_proofs_never_panic_or_pass(at: prop::sample::Index, bit in 0_u8..7) {
            let mut bytes = proof().to_string().into_bytes();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let Ok(text) = String::from_utf8(bytes) else { return Ok(()) };
            if let Ok(read) = TlogProof::parse(&text)
                && read.verify(&leaf_hash(b"b"), signer().verifier()).is_ok()
            {
                // The extra data is the one thing that nothing vouches for.
                prop_assert_eq!(TlogProof { extra: None, ..read }, TlogProof { extra: None, ..proof() });
            }
        }
    }
}
