//! Sealing: AES-256-GCM with a one-time key, plus a key commitment.
//!
//! The one-time key is `BLAKE3 derive_key("consent-ledger v1 sealing key", key ‖ salt)` with a
//! random salt of 16 bytes, so the nonce can stay zero. With AES-GCM alone, an attacker who chooses
//! the keys can make one ciphertext open to two plaintexts. The commitment, a hash of one-time key,
//! additional data and plaintext, rules that out: a plaintext that opens is the only one.

use aes_gcm::{
    Aes256Gcm, KeyInit, Nonce,
    aead::{Aead, Payload},
};
use rand::RngExt;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::domain::{IdempotencyMark, Sealed};

const KEY_CONTEXT: &str = "consent-ledger v1 sealing key";
const COMMITMENT_CONTEXT: &str = "consent-ledger v1 commitment";

/// A secret key of 256 bits. It is wiped from memory when dropped, and never printed.
pub type SecretKey = Zeroizing<[u8; 32]>;

/// The text can not be opened: another key, other additional data, or changed bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("sealed bytes can not be opened with this key")]
pub struct OpenError;

/// A fresh random key.
#[must_use]
pub fn random_key() -> SecretKey {
    Zeroizing::new(rand::rng().random())
}

/// Seals a text. `context` is authenticated along with it and must be known to open it.
#[must_use]
pub fn seal(key: &[u8; 32], context: &[u8], plaintext: &[u8]) -> Sealed {
    let salt: [u8; 16] = rand::rng().random();
    let one_time = one_time_key(key, &salt);
    let ciphertext = cipher(&one_time)
        .encrypt(&Nonce::default(), Payload { msg: plaintext, aad: context })
        .expect("AES-GCM takes 64 GiB, and no text here comes near");
    Sealed { salt, ciphertext, commitment: commitment(&one_time, context, plaintext) }
}

/// Opens a sealed text.
///
/// # Errors
/// [`OpenError`], without the cause.
pub fn open(
    key: &[u8; 32],
    context: &[u8],
    sealed: &Sealed,
) -> Result<Zeroizing<Vec<u8>>, OpenError> {
    open_once(&one_time_key(key, &sealed.salt), context, sealed)
}

/// Opens a sealed text with its one-time key, which opens nothing else.
///
/// # Errors
/// [`OpenError`], without the cause.
pub fn open_once(
    one_time: &SecretKey,
    context: &[u8],
    sealed: &Sealed,
) -> Result<Zeroizing<Vec<u8>>, OpenError> {
    let payload = Payload { msg: &sealed.ciphertext, aad: context };
    let plaintext = cipher(one_time).decrypt(&Nonce::default(), payload).map_err(|_| OpenError)?;
    let plaintext = Zeroizing::new(plaintext);
    // `blake3::Hash` compares in constant time.
    let committed = blake3::Hash::from_bytes(sealed.commitment);
    if blake3::Hash::from_bytes(commitment(one_time, context, &plaintext)) != committed {
        return Err(OpenError);
    }
    Ok(plaintext)
}

/// The additional data of a sealed text: ledger, kind, and what identifies the text among those of
/// its kind. All parts before the last have a fixed length or end with a zero byte.
#[must_use]
pub fn context(ledger_id: &[u8; 16], kind: &[u8], rest: &[u8]) -> Vec<u8> {
    [b"consent-ledger v1\0".as_slice(), ledger_id, kind, &[0], rest].concat()
}

/// The additional data of the evidence of an act.
#[must_use]
pub fn evidence_context(ledger_id: &[u8; 16], idempotency: Option<&IdempotencyMark>) -> Vec<u8> {
    let key_hash = idempotency.map_or(&[] as &[u8], |mark| &mark.key_hash);
    context(ledger_id, b"evidence", key_hash)
}

fn cipher(one_time: &SecretKey) -> Aes256Gcm {
    Aes256Gcm::new((&**one_time).into())
}

/// The one-time key of a text. It opens that text, and does not reveal the key that it is derived
/// from.
#[must_use]
pub fn one_time_key(key: &[u8; 32], salt: &[u8; 16]) -> SecretKey {
    let mut hasher = blake3::Hasher::new_derive_key(KEY_CONTEXT);
    Zeroizing::new(*hasher.update(key).update(salt).finalize().as_bytes())
}

fn commitment(one_time: &SecretKey, context: &[u8], plaintext: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(COMMITMENT_CONTEXT);
    hasher.update(one_time.as_slice());
    hasher.update(&(context.len() as u64).to_le_bytes());
    *hasher.update(context).update(plaintext).finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_sealed_text_opens_again(key: [u8; 32], context: Vec<u8>, text: Vec<u8>) {
            let sealed = seal(&key, &context, &text);
            let opened = open(&key, &context, &sealed).unwrap();
            prop_assert_eq!(opened.as_slice(), text.as_slice());
            prop_assert_ne!(seal(&key, &context, &text).ciphertext, sealed.ciphertext);
        }

        #[test]
        fn nothing_opens_with_one_bit_changed(
            key: [u8; 32], context in prop::collection::vec(any::<u8>(), 1..20), text: Vec<u8>,
            at: prop::sample::Index, bit in 0u8..8,
        ) {
            let sealed = seal(&key, &context, &text);
            let flip = |bytes: &mut [u8]| bytes[at.index(bytes.len())] ^= 1 << bit;
            let (mut other_key, mut other_context, mut other) = (key, context.clone(), sealed.clone());
            flip(&mut other_key);
            prop_assert_eq!(open(&other_key, &context, &sealed), Err(OpenError));
            flip(&mut other_context);
            prop_assert_eq!(open(&key, &other_context, &sealed), Err(OpenError));
            flip(&mut other.ciphertext);
            prop_assert_eq!(open(&key, &context, &other), Err(OpenError));
            other = sealed.clone();
            flip(&mut other.salt);
            prop_assert_eq!(open(&key, &context, &other), Err(OpenError));
            other = sealed.clone();
            flip(&mut other.commitment);
            prop_assert_eq!(open(&key, &context, &other), Err(OpenError));
        }
    }
}
