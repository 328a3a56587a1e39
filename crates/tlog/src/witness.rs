//! C2SP tlog-witness: the `add-checkpoint` request that a log sends to a witness.
//!
//! ```text
//! old 20852014
//! PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=
//! jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=
//!
//! example.com/behind-the-sofa
//! 20852163
//! CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=
//!
//! — example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDe…
//! ```

use std::fmt;

use base64::Engine as _;
use thiserror::Error;

use super::{
    BASE64,
    checkpoint::{CheckpointError, SignedCheckpoint},
    decimal, hash,
    merkle::Hash,
};

/// Maximum number of hashes of the consistency proof in a request.
pub const CONSISTENCY_HASHES_MAX: usize = 63;

/// A new checkpoint, and the proof that it is consistent with the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddCheckpoint {
    /// Size of the checkpoint that the witness cosigned last; 0 before the first.
    pub old_size: u64,
    /// The consistency proof from this size.
    pub proof: Vec<Hash>,
    /// The new checkpoint.
    pub checkpoint: SignedCheckpoint,
}

/// Why a request can not be parsed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RequestError {
    /// The text is malformed.
    #[error("malformed request: {0}")]
    Form(&'static str),
    /// The checkpoint can not be parsed.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

impl AddCheckpoint {
    /// Parses the body of a request.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub fn parse(text: &str) -> Result<Self, RequestError> {
        let form = RequestError::Form;
        let (head, checkpoint) =
            text.split_once("\n\n").ok_or(form("no empty line before the checkpoint"))?;
        let mut lines = head.split('\n');
        let old_size = lines.next().and_then(|line| line.strip_prefix("old ")).and_then(decimal);
        let old_size = old_size.ok_or(form("the first line must be `old` and a size"))?;
        let proof: Option<Vec<Hash>> = lines.map(hash).collect();
        let proof = proof.ok_or(form("a hash must be 32 bytes in base64"))?;
        if proof.len() > CONSISTENCY_HASHES_MAX {
            return Err(form("more than 63 hashes"));
        }
        Ok(Self { old_size, proof, checkpoint: SignedCheckpoint::parse(checkpoint)? })
    }
}

impl fmt::Display for AddCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "old {}", self.old_size)?;
        for hash in &self.proof {
            writeln!(f, "{}", BASE64.encode(hash))?;
        }
        write!(f, "\n{}", self.checkpoint)
    }
}
