//! The keys of a person: three random roots, and what follows from the master key.
//!
//! ```text
//! master M, evidence root E, use root U: independent, random, 32 bytes
//! T = D("tag", M)  R = D("record", M)  I = D("idempotency", M)
//! C = D("confirmation", M)  B = D("identity", M)  S = D("salt", M)
//!
//! lane 0   tag(n) = K(T, 0x00 || n)[..16]    blind(n) = K(T, 0x01 || n)
//!          next(n) = D("next tag", blind(n) || tag(n + 1))
//! lane 1   tag(m) = K(leaf_U(m), "use")[..16]
//! ```
//!
//! Each derived key is a type of its own, so that none is taken for another.

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use rand::CryptoRng;
use sha2::{Digest as _, Sha256};

use super::tree::KeyTree;
use crate::{
    Tag,
    hash::{Context, derive, derive_key, half, is_same, keyed},
    secret::Key,
};

/// The roots of a person's keys. They are in the vault and nowhere else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PersonKeys {
    /// Opens records, and finds the person's entries.
    pub master: Key,
    /// Opens evidence, by the counter of lane 0.
    pub evidence: KeyTree,
    /// Finds uses, by the counter of lane 1.
    pub uses: KeyTree,
}

impl PersonKeys {
    /// The keys of a new person.
    #[must_use]
    pub fn random(rng: &mut impl CryptoRng) -> Self {
        let master = Key::random(rng);
        Self { master, evidence: KeyTree::random(rng), uses: KeyTree::random(rng) }
    }

    /// The key of tags.
    #[must_use]
    pub fn tags(&self) -> TagKey {
        TagKey(derive_key(Context::Tag, &[self.master.bytes()]))
    }

    /// The key of records.
    #[must_use]
    pub fn records(&self) -> RecordKey {
        RecordKey(derive_key(Context::Record, &[self.master.bytes()]))
    }

    /// The key of idempotency marks.
    #[must_use]
    pub fn idempotency(&self) -> IdempotencyKey {
        IdempotencyKey::of(&self.master)
    }

    /// The key of confirmation tokens.
    #[must_use]
    pub fn confirmations(&self) -> ConfirmationKey {
        ConfirmationKey(derive_key(Context::Confirmation, &[self.master.bytes()]))
    }

    /// The key of identity commitments.
    #[must_use]
    pub fn identity(&self) -> IdentityKey {
        IdentityKey(derive_key(Context::Identity, &[self.master.bytes()]))
    }

    /// The key of salts.
    #[must_use]
    pub fn salts(&self) -> SaltKey {
        SaltKey::of(&self.master)
    }

    /// The tag of a use, lane 1; none if that leaf is forgotten.
    #[must_use]
    pub fn use_tag(&self, number: u64) -> Option<Tag> {
        Some(use_tag(&self.uses.leaf(number)?))
    }
}

/// The tag of lane 1 of a leaf of the use root.
#[must_use]
pub fn use_tag(leaf: &Key) -> Tag {
    half(&keyed(leaf, &[b"use"]))
}

/// A person's key of tags and of the commitments between them.
#[derive(Debug, Clone)]
pub struct TagKey(Key);

impl TagKey {
    /// The tag of lane 0 with this number.
    #[must_use]
    pub fn tag(&self, number: u64) -> Tag {
        half(&keyed(&self.0, &[&[0], &number.to_le_bytes()]))
    }

    /// What opens the commitment of a record to the next tag.
    #[must_use]
    pub fn blind(&self, number: u64) -> Key {
        Key::new(keyed(&self.0, &[&[1], &number.to_le_bytes()]))
    }

    /// The commitment of a record to the next tag.
    #[must_use]
    pub fn next(&self, number: u64) -> [u8; 32] {
        next_commitment(&self.blind(number), &self.tag(number + 1))
    }
}

/// The commitment to a tag under a blind.
#[must_use]
pub fn next_commitment(blind: &Key, next_tag: &Tag) -> [u8; 32] {
    derive(Context::NextTag, &[blind.bytes(), next_tag])
}

/// A person's key of records.
#[derive(Debug, Clone)]
pub struct RecordKey(pub(crate) Key);

/// A key of salts, of a person or of the ledger.
#[derive(Debug, Clone)]
pub struct SaltKey(Key);

impl SaltKey {
    /// The key of salts of a root.
    pub(super) fn of(root: &Key) -> Self {
        Self(derive_key(Context::Salt, &[root.bytes()]))
    }

    /// A salt: a keyed hash of fresh random bytes and of everything that is sealed with it, so that not
    /// even a broken random generator gives two texts one salt.
    #[must_use]
    pub fn salt(&self, rng: &mut impl CryptoRng, sealed: &[&[u8]]) -> [u8; 16] {
        self.salt_of(&crate::secret::random(rng), sealed)
    }

    /// The salt of these random bytes.
    #[must_use]
    pub fn salt_of(&self, random: &[u8; 32], sealed: &[&[u8]]) -> [u8; 16] {
        let mut parts: Vec<&[u8]> = vec![random];
        parts.extend(sealed);
        half(&keyed(&self.0, &parts))
    }
}

/// A key of idempotency marks: of a person or, for calls that concern none, of the ledger.
#[derive(Debug, Clone)]
pub struct IdempotencyKey(Key);

impl IdempotencyKey {
    pub(super) fn of(root: &Key) -> Self {
        Self(derive_key(Context::Idempotency, &[root.bytes()]))
    }

    /// What stands for a caller's key. The caller's name has no zero byte.
    #[must_use]
    pub fn mark(&self, caller: &str, key: &str) -> [u8; 16] {
        half(&keyed(&self.0, &[&[0], caller.as_bytes(), &[0], key.as_bytes()]))
    }

    /// What stands for a request.
    #[must_use]
    pub fn digest(&self, request: &[u8]) -> [u8; 16] {
        half(&keyed(&self.0, &[&[1], request]))
    }
}

/// A person's key of confirmation tokens.
#[derive(Debug, Clone)]
pub struct ConfirmationKey(Key);

impl ConfirmationKey {
    /// The token of a nonce: 43 characters.
    #[must_use]
    pub fn token(&self, nonce: &[u8; 16]) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(keyed(&self.0, &[nonce]))
    }
}

/// The hash of a confirmation token, as the record holds it.
#[must_use]
pub fn token_hash(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// A person's key of the commitment to the identity. Whoever has it and the identity can verify the
/// commitment; it opens nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityKey(Key);

impl IdentityKey {
    /// The key of these bytes, as a receipt or a disclosure holds it.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        Key::from_slice(bytes).map(Self)
    }

    /// The key's bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        self.0.bytes()
    }

    /// The commitment to a canonical identity.
    #[must_use]
    pub fn commitment(&self, identity: &str) -> [u8; 32] {
        derive(Context::IdentityCommitment, &[self.0.bytes(), identity.as_bytes()])
    }

    /// Whether a commitment is to this identity.
    #[must_use]
    pub fn verifies(&self, identity: &str, commitment: &[u8]) -> bool {
        commitment
            .try_into()
            .is_ok_and(|commitment| is_same(&self.commitment(identity), commitment))
    }
}
