//! A change of the signing key, as somebody follows it who knows the key before.
//!
//! The record of a change is a C2SP tlog-proof: the entry that names both keys, its inclusion proof, and
//! a checkpoint over it that both keys have signed. So whoever trusts the key before trusts the next one,
//! with nothing but that text. It says nothing of the entries beside it: those are under the checkpoints
//! that the next key signs.

use std::{ops::ControlFlow, path::Path};

use thiserror::Error;

use super::{ENTRY_BYTES_MAX, LOG_KIND};
use crate::{
    entry::{EntryError, SigningKeyChanged},
    format::entry::{Body, Entry},
    storage::{LogError, disk::Disk, scan},
    tlog::{
        checkpoint::CheckpointError,
        key::VerifierKey,
        merkle::leaf_hash,
        proof::{TlogProof, TlogProofError},
    },
};

/// A change of the signing key, and the proof of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyChange {
    /// The entry, its inclusion proof, and the checkpoint that both keys have signed.
    pub proof: TlogProof,
    /// The key that signed until then.
    pub previous: VerifierKey,
    /// The key that signs since.
    pub next: VerifierKey,
}

/// Why a text does not prove a change of the signing key.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyChangeError {
    /// It is no proof, or the proof does not hold.
    #[error(transparent)]
    Proof(#[from] TlogProofError),
    /// It has no entry.
    #[error("the proof does not hold its entry (`extra`)")]
    NoEntry,
    /// Its entry can not be read.
    #[error("its entry: {0}")]
    Entry(#[from] EntryError),
    /// Its entry is another one.
    #[error("its entry is {0}, not a change of the signing key from one key to another")]
    OtherEntry(&'static str),
    /// The entry says that it stands elsewhere.
    #[error("its entry says that its index is {found}, the proof is for {proven}")]
    Index {
        /// The index in the entry.
        found: u64,
        /// The index of the proof.
        proven: u64,
    },
    /// One of the two keys did not sign the checkpoint.
    #[error("both keys must have signed its checkpoint: {0}")]
    Unsigned(#[from] CheckpointError),
    /// The key before is none of those that are trusted.
    #[error("it leads from the key {0}, which is none of those that are trusted")]
    Untrusted(String),
}

impl KeyChange {
    /// Verifies a proof: that it holds, and that both keys have signed its checkpoint.
    ///
    /// # Errors
    /// See [`KeyChangeError`].
    pub fn of(proof: TlogProof) -> Result<Self, KeyChangeError> {
        let bytes = proof.extra.as_deref().ok_or(KeyChangeError::NoEntry)?;
        let entry = Entry::decode(bytes).map_err(EntryError::from)?;
        let other = KeyChangeError::OtherEntry(entry.body.noun());
        let Body::KeyTransition(transition) = &entry.body else { return Err(other) };
        let SigningKeyChanged { next, previous: Some(previous) } = transition.try_into()? else {
            return Err(other);
        };
        if entry.index != proof.index {
            return Err(KeyChangeError::Index { found: entry.index, proven: proof.index });
        }
        proof.leads_from(&leaf_hash(bytes)).map_err(TlogProofError::from)?;
        proof.checkpoint.verify(&previous)?;
        proof.checkpoint.verify(&next)?;
        Ok(Self { proof, previous, next })
    }

    /// As [`Self::of`], from a text.
    ///
    /// # Errors
    /// See [`KeyChangeError`].
    pub fn parse(text: &str) -> Result<Self, KeyChangeError> {
        Self::of(TlogProof::parse(text)?)
    }

    /// Parses one or more proofs, one below the other.
    ///
    /// # Errors
    /// The error of the first that does not hold.
    pub fn parse_all(text: &str) -> Result<Vec<Self>, KeyChangeError> {
        TlogProof::split(text).map(Self::parse).collect()
    }
}

/// The changes of the signing key in the entries of a ledger, in order: also those that nobody can follow,
/// since the key before was lost.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recorded(Vec<(u64, SigningKeyChanged)>);

impl Recorded {
    /// Reads the whole ledger in `dir`. Verifies no chain.
    ///
    /// # Errors
    /// The files can not be read, or are damaged.
    pub fn read(disk: &dyn Disk, dir: &Path) -> Result<Self, LogError> {
        let mut changes = Vec::new();
        let frame_bytes_max = u32::try_from(ENTRY_BYTES_MAX).unwrap_or(u32::MAX);
        scan(disk, dir, LOG_KIND, frame_bytes_max, 0, &mut |frame| {
            let entry = match Entry::decode(frame.payload) {
                Ok(entry) => entry,
                Err(problem) => return ControlFlow::Break(problem.to_string()),
            };
            if let Body::KeyTransition(transition) = &entry.body {
                match SigningKeyChanged::try_from(transition) {
                    Ok(change) => changes.push((entry.index, change)),
                    Err(problem) => return ControlFlow::Break(problem.to_string()),
                }
            }
            ControlFlow::Continue(())
        })?;
        Ok(Self(changes))
    }

    /// The last change, and the index of its entry.
    #[must_use]
    pub fn last(&self) -> Option<&(u64, SigningKeyChanged)> {
        self.0.last()
    }

    /// The index of the entry that took a key out of use; none if it is the last that an entry names, or
    /// no entry names it. No entry names the ledger's first key if that was lost.
    #[must_use]
    pub fn retired(&self, key: &VerifierKey) -> Option<u64> {
        let mut in_use = None;
        let mut retired = None;
        for (index, change) in &self.0 {
            let before = change.previous.as_ref().or(in_use);
            if change.next == *key {
                retired = None;
            } else if before == Some(key) {
                retired = Some(*index);
            }
            in_use = Some(&change.next);
        }
        retired
    }

    /// The index of the entry that brought a key into use.
    #[must_use]
    pub fn brought(&self, key: &VerifierKey) -> Option<u64> {
        self.0.iter().find(|(_, change)| change.next == *key).map(|(index, _)| *index)
    }

    /// All keys that entries name.
    pub fn keys(&self) -> impl Iterator<Item = &VerifierKey> {
        self.0.iter().flat_map(|(_, change)| change.previous.iter().chain([&change.next]))
    }
}

/// Adds to the trusted keys those that changes lead to, in the order of the ledger. Answers the indexes
/// of the changes that were followed.
///
/// # Errors
/// [`KeyChangeError::Untrusted`]: a change leads from none of the keys, and to none of them either.
pub fn follow(
    keys: &mut Vec<VerifierKey>,
    changes: &[KeyChange],
) -> Result<Vec<u64>, KeyChangeError> {
    let mut in_order: Vec<&KeyChange> = changes.iter().collect();
    in_order.sort_by_key(|change| change.proof.index);
    let mut followed = Vec::new();
    for change in in_order {
        if keys.contains(&change.next) {
            continue;
        }
        if !keys.contains(&change.previous) {
            // A change that a trusted key came long after.
            if is_before_trusted(change, keys, changes) {
                continue;
            }
            return Err(KeyChangeError::Untrusted(change.previous.to_string()));
        }
        keys.push(change.next.clone());
        followed.push(change.proof.index);
    }
    Ok(followed)
}

/// Whether later changes lead from this one to a trusted key.
fn is_before_trusted(change: &KeyChange, keys: &[VerifierKey], changes: &[KeyChange]) -> bool {
    let later = changes.iter().filter(|later| later.proof.index > change.proof.index);
    later.clone().any(|later| keys.contains(&later.previous) || keys.contains(&later.next))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        format::{keys::ledger::LedgerSecret, secret::Key},
        proto::ledger::KeyTransition,
        tlog::{
            checkpoint::{Checkpoint, SignedCheckpoint},
            key::{Algorithm, SignerKey},
        },
    };

    fn signer(seed: u8) -> SignerKey {
        SignerKey::from_seed("ledger.example", Algorithm::Note, &[seed; 32]).unwrap()
    }

    fn verifier(seed: u8) -> VerifierKey {
        signer(seed).verifier().clone()
    }

    /// A ledger of this entry alone, signed by these keys.
    fn proof(body: Body, index: u64, signers: &[u8]) -> TlogProof {
        let clear = LedgerSecret::new(Key::new([1; 32])).confidential().clear;
        let bytes = Entry::new(index, [0; 32], 5, body, &clear).encode();
        let origin = "ledger.example".to_owned();
        let root = leaf_hash(&bytes);
        let checkpoint = Checkpoint { origin, size: 1, root, extensions: String::new() };
        let mut signed = SignedCheckpoint::sign(checkpoint, &signer(signers[0])).unwrap();
        signers[1..].iter().for_each(|seed| signed.note.sign(&signer(*seed), 0));
        TlogProof { extra: Some(bytes), index: 0, path: Vec::new(), checkpoint: signed }
    }

    fn body(previous: u8, next: u8) -> Body {
        let [old_key, new_key] = [previous, next].map(|seed| verifier(seed).to_string());
        Body::KeyTransition(KeyTransition { old_key, new_key })
    }

    fn change(previous: u8, next: u8, index: u64) -> KeyChange {
        let proof = proof(body(previous, next), 0, &[previous, next]);
        let mut change = KeyChange::of(proof).unwrap();
        change.proof.index = index;
        change
    }

    #[test]
    fn both_keys_must_have_signed_the_entry_that_names_them() {
        let good = proof(body(1, 2), 0, &[1, 2]);
        let read = KeyChange::parse(&good.to_string()).unwrap();
        assert_eq!((read.previous, read.next), (verifier(1), verifier(2)));
        for signers in [&[1][..], &[2], &[1, 3], &[3, 2]] {
            let error = KeyChange::of(proof(body(1, 2), 0, signers)).unwrap_err();
            assert!(matches!(error, KeyChangeError::Unsigned(_)), "{signers:?}: {error}");
        }
        let elsewhere = KeyChange::of(proof(body(1, 2), 7, &[1, 2])).unwrap_err();
        assert_eq!(elsewhere, KeyChangeError::Index { found: 7, proven: 0 });
        let mut other = good.clone();
        other.extra = proof(body(1, 3), 0, &[1, 3]).extra;
        assert!(matches!(KeyChange::of(other), Err(KeyChangeError::Proof(_))));
        let bare = TlogProof { extra: None, ..good };
        assert_eq!(KeyChange::of(bare), Err(KeyChangeError::NoEntry));
        let new_key = verifier(2).to_string();
        let lost = Body::KeyTransition(KeyTransition { new_key, ..KeyTransition::default() });
        let lost = KeyChange::of(proof(lost, 0, &[1, 2])).unwrap_err();
        assert!(matches!(lost, KeyChangeError::OtherEntry(_)), "{lost}");
    }

    #[test]
    fn trust_follows_the_changes_in_order_and_only_from_a_trusted_key() {
        let changes = [change(2, 3, 20), change(1, 2, 10), change(3, 4, 30)];
        let followed = |trusted: &[u8]| {
            let mut keys: Vec<_> = trusted.iter().map(|seed| verifier(*seed)).collect();
            follow(&mut keys, &changes).map(|followed| (followed, keys.len()))
        };
        assert_eq!(followed(&[1]).unwrap(), (vec![10, 20, 30], 4));
        assert_eq!(followed(&[2]).unwrap(), (vec![20, 30], 3), "never back to the key before");
        assert_eq!(followed(&[4]).unwrap(), (vec![], 1));
        assert_eq!(followed(&[1, 4]).unwrap(), (vec![10, 20], 4));
        assert_eq!(followed(&[9]), Err(KeyChangeError::Untrusted(verifier(1).to_string())));
    }

    #[test]
    fn a_key_is_retired_by_the_entry_after_it_also_if_it_was_lost() {
        let to = |previous: Option<u8>, next| SigningKeyChanged {
            next: verifier(next),
            previous: previous.map(verifier),
        };
        let recorded =
            Recorded(vec![(10, to(Some(1), 2)), (20, to(None, 3)), (30, to(Some(3), 4))]);
        let retired = |seed| recorded.retired(&verifier(seed));
        assert_eq!([1, 2, 3, 4, 9].map(retired), [Some(10), Some(20), Some(30), None, None]);
        let brought = |seed| recorded.brought(&verifier(seed));
        assert_eq!([1, 2, 3, 4].map(brought), [None, Some(10), Some(20), Some(30)]);
        // A ledger of a version that let a key come back.
        let back = Recorded(vec![(10, to(Some(1), 2)), (20, to(Some(2), 1))]);
        assert_eq!([1, 2].map(|seed| back.retired(&verifier(seed))), [None, Some(20)]);
    }

    #[test]
    fn proofs_stand_one_below_the_other() {
        let both = [proof(body(1, 2), 0, &[1, 2]), proof(body(2, 3), 0, &[2, 3])];
        let text: String = both.iter().map(ToString::to_string).collect();
        let read = KeyChange::parse_all(&text).unwrap();
        assert_eq!(
            read.iter().map(|change| &change.proof).collect::<Vec<_>>(),
            [&both[0], &both[1]]
        );
        assert_eq!(KeyChange::parse_all("").unwrap(), []);
        assert!(KeyChange::parse_all("x").is_err());
    }
}
