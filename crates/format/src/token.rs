//! The opaque value in a decision token: which entry decided, and at which revision, for the ledger alone.
//!
//! ```text
//! value = salt 16 || (index || revision) xor K(token, salt)[..16] || K(token, 0x01 || salt || that || claims)[..16]
//! ```
//!
//! A token of one decision says nothing about another: salts are random, so equal decisions have different
//! values. The last part binds the value to the other claims of its token.

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use rand::CryptoRng;
use thiserror::Error;

use crate::{
    hash::{half, keyed},
    secret::{Key, random},
};

/// Stands for the index where no entry decided.
const NO_INDEX: u64 = u64::MAX;
/// Bytes of a value.
const VALUE_BYTES: usize = 48;

/// What a decision rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grounds {
    /// Index of the entry that decided, if one did.
    pub decided_by: Option<u64>,
    /// The number of entries that the decision takes into account.
    pub revision: u64,
}

/// The value is not one of this ledger, or of a token with other claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the value is not one of this ledger, or its token had other claims")]
pub struct UnknownValue;

/// The value of a token with these other claims, as text.
#[must_use]
pub fn seal(key: &Key, grounds: Grounds, claims: &[u8], rng: &mut impl CryptoRng) -> String {
    let salt: [u8; 16] = random(rng);
    let mut plain = [0; 16];
    plain[..8].copy_from_slice(&grounds.decided_by.unwrap_or(NO_INDEX).to_le_bytes());
    plain[8..].copy_from_slice(&grounds.revision.to_le_bytes());
    let hidden = masked(key, &salt, plain);
    let proof = proof(key, &salt, &hidden, claims);
    BASE64_URL_SAFE_NO_PAD.encode([salt, hidden, proof].concat())
}

/// What a value stands for.
///
/// # Errors
/// [`UnknownValue`].
pub fn open(key: &Key, value: &str, claims: &[u8]) -> Result<Grounds, UnknownValue> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(value).map_err(|_| UnknownValue)?;
    let bytes: [u8; VALUE_BYTES] = bytes.try_into().map_err(|_| UnknownValue)?;
    let ([salt, hidden, given], []) = bytes.as_chunks::<16>() else { return Err(UnknownValue) };
    let wanted = proof(key, salt, hidden, claims);
    let bytes = wanted.iter().zip(given);
    if bytes.fold(0, |differs, (one, other)| differs | (one ^ other)) != 0 {
        return Err(UnknownValue);
    }
    let plain = u128::from_le_bytes(masked(key, salt, *hidden));
    let index = u64::try_from(plain & u128::from(u64::MAX)).map_err(|_| UnknownValue)?;
    let revision = u64::try_from(plain >> 64).map_err(|_| UnknownValue)?;
    Ok(Grounds { decided_by: (index != NO_INDEX).then_some(index), revision })
}

fn masked(key: &Key, salt: &[u8; 16], bytes: [u8; 16]) -> [u8; 16] {
    let mask = half(&keyed(key, &[salt]));
    std::array::from_fn(|at| bytes[at] ^ mask[at])
}

fn proof(key: &Key, salt: &[u8; 16], hidden: &[u8; 16], claims: &[u8]) -> [u8; 16] {
    half(&keyed(key, &[&[1], salt, hidden, claims]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand_chacha::ChaCha20Rng;

    use super::*;

    proptest! {
        #[test]
        fn only_the_ledger_reads_a_value_and_only_with_its_claims(
            index in prop::option::of(0..NO_INDEX), revision: u64, claims: Vec<u8>, seed: u64,
            at in 0usize..64, other in "[A-Za-z0-9_-]",
        ) {
            let rng = &mut ChaCha20Rng::seed_from_u64(seed);
            let (key, grounds) = (Key::random(rng), Grounds { decided_by: index, revision });
            let value = seal(&key, grounds, &claims, rng);
            prop_assert_eq!(open(&key, &value, &claims), Ok(grounds));
            prop_assert_ne!(&seal(&key, grounds, &claims, rng), &value);
            prop_assert_eq!(open(&Key::random(rng), &value, &claims), Err(UnknownValue));
            let more = [&claims[..], b"x"].concat();
            prop_assert_eq!(open(&key, &value, &more), Err(UnknownValue));
            let changed = format!("{}{other}{}", &value[..at], &value[at + 1..]);
            prop_assert!(changed == value || open(&key, &changed, &claims).is_err());
        }
    }
}
