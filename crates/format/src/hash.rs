//! The two hashes of the format: `D(context, x)` and `K(key, x)`, both BLAKE3.
//!
//! Each use has a context string or a key of its own. A context string is part of the format and never
//! changes.

use std::sync::LazyLock;

use blake3::hazmat::{ContextKey, HasherExt as _, hash_derive_key_context};

use crate::secret::Key;

/// Begins every context string, and the additional data of every seal.
pub const PREFIX: &str = "consent-ledger v2";

/// What a value is derived for. `D(context, x)` is `BLAKE3 derive_key("consent-ledger v2 " + label, x)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Context {
    /// The hash chain.
    Chain,
    /// A person's key of tags.
    Tag,
    /// A person's key of records.
    Record,
    /// A key of idempotency marks, of a person or of the ledger.
    Idempotency,
    /// A person's key of confirmation tokens.
    Confirmation,
    /// A person's key of identity commitments.
    Identity,
    /// A key of salts, of a person or of the ledger.
    Salt,
    /// The commitment to a person's next tag.
    NextTag,
    /// The commitment to a person's identity.
    IdentityCommitment,
    /// The one-time key of a sealed text.
    SealingKey,
    /// The commitment to a sealed text.
    Commitment,
    /// The reference of a record.
    Reference,
    /// The root of confidential keys, and each of them.
    Confidential,
    /// The ledger's key of entries in clear.
    ClearEntry,
    /// The ledger's key of the vault's chain.
    Mac,
    /// The ledger's key of webhook secrets.
    Webhook,
    /// The ledger's key of shards.
    Shard,
    /// The ledger's key of decision tokens.
    Token,
    /// The one-time key of a frame of the vault.
    VaultFrame,
    /// The key that wraps the vault key.
    VaultWrap,
    /// The value that tells another key-encryption key from damage.
    VaultKeyCheck,
}

impl Context {
    /// All contexts, in the order of the enum.
    pub const ALL: [Self; 21] = [
        Self::Chain,
        Self::Tag,
        Self::Record,
        Self::Idempotency,
        Self::Confirmation,
        Self::Identity,
        Self::Salt,
        Self::NextTag,
        Self::IdentityCommitment,
        Self::SealingKey,
        Self::Commitment,
        Self::Reference,
        Self::Confidential,
        Self::ClearEntry,
        Self::Mac,
        Self::Webhook,
        Self::Shard,
        Self::Token,
        Self::VaultFrame,
        Self::VaultWrap,
        Self::VaultKeyCheck,
    ];

    /// The last part of the context string.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Chain => "chain",
            Self::Tag => "tag",
            Self::Record => "record",
            Self::Idempotency => "idempotency",
            Self::Confirmation => "confirmation",
            Self::Identity => "identity",
            Self::Salt => "salt",
            Self::NextTag => "next tag",
            Self::IdentityCommitment => "identity commitment",
            Self::SealingKey => "sealing key",
            Self::Commitment => "commitment",
            Self::Reference => "reference",
            Self::Confidential => "confidential",
            Self::ClearEntry => "clear entry",
            Self::Mac => "vault chain",
            Self::Webhook => "webhook",
            Self::Shard => "shard",
            Self::Token => "token",
            Self::VaultFrame => "vault frame",
            Self::VaultWrap => "vault key wrapping",
            Self::VaultKeyCheck => "vault key check",
        }
    }
}

/// Hashing a context string takes as long as hashing the text, so each is hashed once.
static CONTEXT_KEYS: LazyLock<[ContextKey; Context::ALL.len()]> = LazyLock::new(|| {
    Context::ALL.map(|context| hash_derive_key_context(&format!("{PREFIX} {}", context.label())))
});

/// `D(context, x)`, where x is the parts one after the other.
#[must_use]
pub fn derive(context: Context, parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_from_context_key(&CONTEXT_KEYS[context as usize]);
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// As [`derive()`], for values that are secret.
#[must_use]
pub fn derive_key(context: Context, parts: &[&[u8]]) -> Key {
    Key::new(derive(context, parts))
}

/// `K(key, x)`, where x is the parts one after the other.
#[must_use]
pub fn keyed(key: &Key, parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_keyed(key.bytes());
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// The first 16 bytes of a hash.
#[must_use]
pub fn half(hash: &[u8; 32]) -> [u8; 16] {
    let (half, _) = hash.split_first_chunk().expect("32 bytes have 16 first ones");
    *half
}

/// Whether two hashes are equal, in constant time.
#[must_use]
pub fn is_same(one: &[u8; 32], other: &[u8; 32]) -> bool {
    blake3::Hash::from_bytes(*one) == blake3::Hash::from_bytes(*other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_context_has_a_place_and_a_string_of_its_own() {
        for (place, context) in Context::ALL.into_iter().enumerate() {
            assert_eq!(context as usize, place);
            let string = format!("consent-ledger v2 {}", context.label());
            let want = blake3::derive_key(&string, b"one two");
            assert_eq!(derive(context, &[b"one ", b"two"]), want);
            let same = Context::ALL.into_iter().filter(|other| other.label() == context.label());
            assert_eq!(same.count(), 1, "{string}");
        }
    }
}
