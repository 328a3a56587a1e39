//! C2SP tlog-checkpoint: the head of a tree, in three lines of a signed note.
//!
//! ```text
//! example.com/behind-the-sofa
//! 20852163
//! CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=
//!
//! — example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDe…
//! ```
//!
//! Lines after the third are extensions. This ledger writes none, and accepts them from others.

use std::fmt;

use base64::Engine as _;
use thiserror::Error;

use super::{
    BASE64, decimal, hash,
    key::{SignerKey, VerifierKey},
    merkle::Hash,
    note::{Note, NoteError, SignatureError},
};

/// The head of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Name of the log.
    pub origin: String,
    /// Number of leaves.
    pub size: u64,
    /// Root over them.
    pub root: Hash,
    /// Lines after the third, each with its newline.
    pub extensions: String,
}

/// Why a checkpoint is not valid.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CheckpointError {
    /// The text is not a signed note.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// The note does not begin with the lines origin, size and root.
    #[error("the note is no checkpoint: {0}")]
    Form(&'static str),
    /// A required signature is missing or wrong.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// The origin is not the name of the key.
    #[error("the checkpoint is of `{found}`, the key is of `{wanted}`")]
    Origin {
        /// The origin in the checkpoint.
        found: String,
        /// Name of the key.
        wanted: String,
    },
}

impl Checkpoint {
    /// Parses the text of a checkpoint, without its signatures.
    ///
    /// # Errors
    /// [`CheckpointError::Form`].
    pub fn parse(text: &str) -> Result<Self, CheckpointError> {
        let form = CheckpointError::Form;
        let text = text.strip_suffix('\n').ok_or(form("it does not end with a newline"))?;
        let mut lines = text.splitn(4, '\n');
        let origin = lines.next().filter(|origin| !origin.is_empty());
        let origin = origin.ok_or(form("its first line must be the origin"))?;
        let size = lines.next().and_then(decimal);
        let size = size.ok_or(form("its second line must be the number of entries"))?;
        let root = lines.next().and_then(hash);
        let root = root.ok_or(form("its third line must be the root hash in base64"))?;
        let extensions = match lines.next() {
            None => String::new(),
            Some(lines) if lines.split('\n').any(str::is_empty) => {
                return Err(form("an extension line is empty"));
            }
            Some(lines) => format!("{lines}\n"),
        };
        Ok(Self { origin: origin.to_owned(), size, root, extensions })
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { origin, size, root, extensions } = self;
        write!(f, "{origin}\n{size}\n{}\n{extensions}", BASE64.encode(root))
    }
}

/// A checkpoint and its note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedCheckpoint {
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// The note, with all signatures.
    pub note: Note,
}

impl SignedCheckpoint {
    /// Signs a checkpoint.
    ///
    /// # Errors
    /// The origin is not allowed in a note.
    pub fn sign(checkpoint: Checkpoint, key: &SignerKey) -> Result<Self, NoteError> {
        let mut note = Note::new(checkpoint.to_string())?;
        note.sign(key, 0);
        Ok(Self { checkpoint, note })
    }

    /// Parses a signed note. Do not trust the checkpoint before [`Self::verify`].
    ///
    /// # Errors
    /// See [`CheckpointError`].
    pub fn parse(text: &str) -> Result<Self, CheckpointError> {
        let note = Note::parse(text)?;
        Ok(Self { checkpoint: Checkpoint::parse(note.text())?, note })
    }

    /// Verifies the signature of the log with this key.
    ///
    /// # Errors
    /// See [`CheckpointError`].
    pub fn verify(&self, key: &VerifierKey) -> Result<(), CheckpointError> {
        self.verify_any(std::slice::from_ref(key)).map(drop)
    }

    /// Verifies that one of these keys has signed, and returns the first that has. Every signature that
    /// names one of them must be valid, as C2SP signed-note asks.
    ///
    /// # Errors
    /// See [`CheckpointError`]. A signature that was changed is told apart from one by another key.
    pub fn verify_any<'k>(
        &self,
        keys: &'k [VerifierKey],
    ) -> Result<&'k VerifierKey, CheckpointError> {
        let origin = &self.checkpoint.origin;
        let of_origin = || keys.iter().filter(|key| key.name() == origin);
        let mut signer = None;
        for key in of_origin() {
            match self.note.verify(key) {
                Ok(_) => signer = signer.or(Some(key)),
                Err(SignatureError::Missing(_)) => {}
                Err(bad) => return Err(bad.into()),
            }
        }
        if let Some(signer) = signer {
            return Ok(signer);
        }
        if of_origin().next().is_none() {
            // A known key has signed, but not this text: its origin was changed afterwards.
            if let Some(bad) = keys.iter().find_map(|key| self.note.verify(key).err()?.bad()) {
                return Err(bad.into());
            }
            let names: Vec<&str> = keys.iter().map(VerifierKey::name).collect();
            let (found, wanted) = (origin.clone(), names.join("`, `"));
            return Err(CheckpointError::Origin { found, wanted });
        }
        let altered = of_origin().any(|key| self.note.is_altered(key));
        let name = origin.clone();
        Err(if altered { SignatureError::Bad(name) } else { SignatureError::Missing(name) }.into())
    }

    /// As [`Self::parse`] and [`Self::verify`].
    ///
    /// # Errors
    /// See [`CheckpointError`].
    pub fn open(text: &str, key: &VerifierKey) -> Result<Self, CheckpointError> {
        let signed = Self::parse(text)?;
        signed.verify(key)?;
        Ok(signed)
    }
}

impl fmt::Display for SignedCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.note.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::key::Algorithm;

    fn checkpoint() -> Checkpoint {
        Checkpoint {
            origin: "ledger.example/eu".to_owned(),
            size: 42,
            root: [9; 32],
            extensions: String::new(),
        }
    }

    #[test]
    fn the_example_of_the_specification_is_read() {
        let text = "example.com/behind-the-sofa\n20852163\n\
                    CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";
        let read = Checkpoint::parse(text).unwrap();
        assert_eq!((read.origin.as_str(), read.size), ("example.com/behind-the-sofa", 20_852_163));
        assert_eq!(read.to_string(), text);
    }

    #[test]
    fn a_checkpoint_counts_if_one_of_the_keys_has_signed() {
        let key =
            |name: &str, seed| SignerKey::from_seed(name, Algorithm::Note, &[seed; 32]).unwrap();
        let (old, new) = (key("ledger.example", 1), key("ledger.example", 2));
        let elsewhere = key("other.example", 3);
        let keys = [&elsewhere, &old, &new].map(|key| key.verifier().clone());
        let checkpoint = Checkpoint {
            origin: "ledger.example".to_owned(),
            size: 3,
            root: [7; 32],
            extensions: String::new(),
        };
        for signer in [&old, &new] {
            let signed = SignedCheckpoint::sign(checkpoint.clone(), signer).unwrap();
            assert_eq!(signed.verify_any(&keys), Ok(signer.verifier()));
        }
        let mut both = SignedCheckpoint::sign(checkpoint.clone(), &old).unwrap();
        both.note.sign(&new, 0);
        assert_eq!(both.verify_any(&keys[1..]), Ok(old.verifier()));
        let unknown = SignedCheckpoint::sign(checkpoint, &key("ledger.example", 4)).unwrap();
        let missing = SignatureError::Missing("ledger.example".to_owned());
        assert_eq!(unknown.verify_any(&keys), Err(missing.into()));
        assert!(matches!(unknown.verify_any(&keys[..1]), Err(CheckpointError::Origin { .. })));
    }

    #[test]
    fn a_flipped_bit_is_never_told_as_another_key() {
        let key = SignerKey::from_seed("ledger.example", Algorithm::Note, &[1; 32]).unwrap();
        let checkpoint = Checkpoint {
            origin: "ledger.example".to_owned(),
            size: 3,
            root: [7; 32],
            extensions: String::new(),
        };
        let text = SignedCheckpoint::sign(checkpoint, &key).unwrap().to_string().into_bytes();
        for at in 0..text.len() {
            for bit in 0..8 {
                let mut changed = text.clone();
                changed[at] ^= 1 << bit;
                // Not a text or not a note: said to be that.
                let Ok(changed) = String::from_utf8(changed) else { continue };
                let Ok(changed) = SignedCheckpoint::parse(&changed) else { continue };
                let bad = SignatureError::Bad("ledger.example".to_owned());
                assert_eq!(
                    changed.verify(key.verifier()),
                    Err(bad.into()),
                    "bit {bit} of byte {at}"
                );
            }
        }
    }

    #[test]
    fn a_key_counts_for_its_own_log_alone() {
        let key = SignerKey::from_seed("ledger.example/eu", Algorithm::Note, &[1; 32]).unwrap();
        let text = SignedCheckpoint::sign(checkpoint(), &key).unwrap().to_string();
        let read = SignedCheckpoint::open(&text, key.verifier()).unwrap();
        assert_eq!(read.checkpoint, checkpoint());
        let other = Checkpoint { origin: "ledger.example/us".to_owned(), ..checkpoint() };
        let foreign = SignedCheckpoint::sign(other, &key).unwrap();
        assert!(matches!(foreign.verify(key.verifier()), Err(CheckpointError::Origin { .. })));
    }

    #[test]
    fn malformed_checkpoints_are_refused() {
        let root = BASE64.encode([9; 32]);
        for text in [
            String::new(),
            "a\n1\n".to_owned(),
            format!("\n1\n{root}\n"),
            format!("a\n01\n{root}\n"),
            format!("a\n+1\n{root}\n"),
            format!("a\n18446744073709551616\n{root}\n"),
            format!("a\n1\n{root}"),
            format!("a\n1\n{}\n", &root[..40]),
            format!("a\n1\n{root}\n\n"),
            format!("a\n1\n{root}\nextension\n\nmore\n"),
        ] {
            assert!(Checkpoint::parse(&text).is_err(), "{text:?}");
        }
        let extended = format!("a\n1\n{root}\nextension\nmore\n");
        assert_eq!(Checkpoint::parse(&extended).unwrap().to_string(), extended);
    }

    proptest! {
        #[test]
        fn checkpoints_round_trip(size: u64, root: Hash, extensions in "([a-z]{1,5}\n){0,3}") {
            let varied = Checkpoint { size, root, extensions, ..checkpoint() };
            prop_assert_eq!(Checkpoint::parse(&varied.to_string()), Ok(varied));
        }

        #[test]
        fn arbitrary_texts_never_panic(text in "(\\PC|\n){0,60}") {
            drop(Checkpoint::parse(&text));
            drop(SignedCheckpoint::parse(&text));
        }
    }
}
