//! The ledger's secret, and what follows from it.
//!
//! ```text
//! L: random, 32 bytes, sealed in the vault, never replaced
//! Lc = D("confidential", L)    key(kind, epoch) = D("confidential", Lc || kind byte || epoch)
//! epoch = index >> 20
//! mac of an entry in clear = K(D("clear entry", Lc), bytes of the entry without it), the first 16 bytes
//! ```
//!
//! Keys that a rotation replaces (look-ups, tombstones, derived files) are random and not derived from L:
//! a key that can be derived again is not destroyed.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use rand::CryptoRng;

use super::person::{IdempotencyKey, SaltKey};
use crate::{
    confidential::Kind,
    hash::{Context, derive_key, half, keyed},
    secret::Key,
};

/// How many bits of an index are within an epoch of confidential keys.
pub const EPOCH_BITS: u32 = 20;

/// The secret of a ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerSecret(Key);

impl LedgerSecret {
    /// The secret of a new ledger.
    #[must_use]
    pub fn random(rng: &mut impl CryptoRng) -> Self {
        Self(Key::random(rng))
    }

    /// The secret of these bytes.
    #[must_use]
    pub fn new(key: Key) -> Self {
        Self(key)
    }

    /// The secret's bytes, for the vault.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        self.0.bytes()
    }

    /// The root of confidential keys.
    #[must_use]
    pub fn confidential(&self) -> ConfidentialRoot {
        let root = self.derive(Context::Confidential);
        let clear = ClearKey(derive_key(Context::ClearEntry, &[root.bytes()]));
        ConfidentialRoot { root, clear, salts: SaltKey::of(&self.0) }
    }

    /// The key of idempotency marks of calls that concern no person.
    #[must_use]
    pub fn idempotency(&self) -> IdempotencyKey {
        IdempotencyKey::of(&self.0)
    }

    /// The key that chains the vault's frames.
    #[must_use]
    pub fn vault_chain(&self) -> Key {
        self.derive(Context::Mac)
    }

    /// The key of decision tokens.
    #[must_use]
    pub fn tokens(&self) -> Key {
        self.derive(Context::Token)
    }

    /// The secret that signs the webhook deliveries of a subscription, in the form of Standard Webhooks.
    /// `created` is the chain hash of the entry that created it.
    #[must_use]
    pub fn webhook_secret(&self, created: &[u8; 32]) -> String {
        let secret = keyed(&self.derive(Context::Webhook), &[created]);
        format!("whsec_{}", BASE64_STANDARD.encode(secret))
    }

    /// The shard of a person among `shards`, from 0; 0 if there are none. Nobody can compute it from the
    /// identity alone.
    #[must_use]
    pub fn shard(&self, identity: &str, shards: u32) -> u32 {
        let hash = keyed(&self.derive(Context::Shard), &[identity.as_bytes()]);
        let (first, _) = hash.split_first_chunk::<8>().expect("32 bytes have 8 first ones");
        let shard = u64::from_le_bytes(*first).checked_rem(shards.into()).unwrap_or(0);
        u32::try_from(shard).unwrap_or(0) // less than `shards`, so it always fits
    }

    fn derive(&self, context: Context) -> Key {
        derive_key(context, &[self.0.bytes()])
    }
}

/// The root of all confidential keys.
#[derive(Debug, Clone)]
pub struct ConfidentialRoot {
    root: Key,
    /// The key of entries in clear.
    pub clear: ClearKey,
    /// The key of salts.
    pub salts: SaltKey,
}

/// The key that shows that the ledger wrote an entry that is in clear.
#[derive(Debug, Clone)]
pub struct ClearKey(Key);

impl ClearKey {
    /// The MAC of an entry, of its bytes without it.
    #[must_use]
    pub fn mac(&self, bytes_without_mac: &[u8]) -> [u8; 16] {
        half(&keyed(&self.0, &[bytes_without_mac]))
    }
}

/// The confidential key of one kind and epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfidentialKey(pub(crate) Key);

impl ConfidentialKey {
    /// The key of these bytes, as a disclosure holds it.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        Key::from_slice(bytes).map(Self)
    }

    /// The key's bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        self.0.bytes()
    }
}

impl ConfidentialRoot {
    /// The key of a kind and epoch.
    #[must_use]
    pub fn of_epoch(&self, kind: Kind, epoch: u64) -> ConfidentialKey {
        let parts: [&[u8]; 3] = [self.root.bytes(), &[kind.byte()], &epoch.to_le_bytes()];
        ConfidentialKey(derive_key(Context::Confidential, &parts))
    }
}

/// The epoch of an entry.
#[must_use]
pub fn epoch(index: u64) -> u64 {
    index >> EPOCH_BITS
}
