//! Seals: a padded text under a one-time key, bound to its place, with a commitment.
//!
//! ```text
//! text       = length of the message (u16) || message || zeros up to the bucket
//! buckets    record 192 * 2^k, evidence 256 * 2^k, confidential 128 * 2^k, vault 512 * 2^k
//! otk        = D("sealing key", key || salt)
//! aad        = "consent-ledger v2" || 00 || ledger id || index || tag || part || item (u32)
//! ciphertext = AES-256-GCM(otk, nonce 0, aad, text), with its tag of 16 bytes
//! commitment = D("commitment", otk || length of aad (u64) || aad || text)
//! ```
//!
//! The key opens one text, so the nonce can stay zero. With AES-GCM alone, an attacker who chooses the keys
//! can make one ciphertext open to two texts. The commitment rules that out: a text that opens is the only
//! one. It also says whether a key that fails is a wrong one, as far as that can be known; see
//! [`SealError`].

use aes_gcm::{
    Aes256Gcm, KeyInit, Nonce,
    aead::{Aead, Payload},
};
use prost::Message;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::{
    LedgerId, Reference, Tag,
    canonical::{self, CanonicalError},
    hash::{Context, PREFIX, derive, derive_key, half, is_same},
    secret::Key,
};

/// Bytes of an authentication tag.
pub const AUTH_BYTES: usize = 16;
/// Bytes of the length before a message.
const LENGTH_BYTES: usize = 2;

/// What a sealed text is in its entry. The number is part of the additional data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Part {
    /// The record of a slot.
    Record = 1,
    /// The evidence of a slot.
    Evidence = 2,
    /// What the slots of an erasing entry share.
    Erasure = 3,
    /// What is shared by the tags of a use.
    Use = 4,
    /// An item of a confidential entry.
    Item = 5,
}

impl Part {
    /// The buckets of its texts.
    #[must_use]
    pub fn buckets(self) -> Buckets {
        match self {
            Self::Record => Buckets::RECORD,
            Self::Evidence => Buckets::EVIDENCE,
            Self::Erasure | Self::Use | Self::Item => Buckets::CONFIDENTIAL,
        }
    }

    /// Its name, for people.
    #[must_use]
    pub fn noun(self) -> &'static str {
        match self {
            Self::Record => "record",
            Self::Evidence => "evidence",
            Self::Erasure => "shared part of the erasure",
            Self::Use => "shared part of the use",
            Self::Item => "confidential item",
        }
    }
}

/// The sizes that padded texts can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buckets {
    smallest: usize,
    /// The last that is a power of two times the smallest.
    last_doubled: usize,
    /// The largest.
    largest: usize,
}

impl Buckets {
    /// Records.
    pub const RECORD: Self = Self { smallest: 192, last_doubled: 24_576, largest: 49_152 };
    /// Evidence. The largest is no power of two times the smallest: the next, 65,536, fits in no entry,
    /// and 32,768 is less than the largest evidence.
    pub const EVIDENCE: Self = Self { smallest: 256, last_doubled: 32_768, largest: 49_152 };
    /// Confidential texts.
    pub const CONFIDENTIAL: Self = Self { smallest: 128, last_doubled: 16_384, largest: 32_768 };
    /// Frames of the vault.
    pub const VAULT: Self = Self { smallest: 512, last_doubled: 16_384, largest: 32_768 };

    /// The size of the text of a message; none if it is too long.
    #[must_use]
    pub fn text_bytes(self, message_bytes: usize) -> Option<usize> {
        let needed = message_bytes.checked_add(LENGTH_BYTES)?;
        self.sizes().find(|size| *size >= needed)
    }

    /// All sizes, ascending.
    pub fn sizes(self) -> impl Iterator<Item = usize> {
        let doubled = std::iter::successors(Some(self.smallest), |size| Some(size * 2));
        doubled.take_while(move |size| *size <= self.last_doubled).chain([self.largest])
    }

    /// The longest message.
    #[must_use]
    pub fn message_bytes_max(self) -> usize {
        self.largest - LENGTH_BYTES
    }

    /// Whether a ciphertext has the size of a padded text and its tag.
    #[must_use]
    pub fn has_ciphertext(self, bytes: usize) -> bool {
        self.sizes().any(|size| size + AUTH_BYTES == bytes)
    }
}

/// A message that is too long to be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the message has {got} bytes, the limit is {limit}")]
pub struct TooLong {
    /// Its length.
    pub got: usize,
    /// The longest.
    pub limit: usize,
}

/// A message with its length before it and zeros after it.
///
/// # Errors
/// [`TooLong`].
pub fn pad(buckets: Buckets, message: &[u8]) -> Result<Zeroizing<Vec<u8>>, TooLong> {
    let (got, limit) = (message.len(), buckets.message_bytes_max());
    let too_long = TooLong { got, limit };
    let size = buckets.text_bytes(got).ok_or(too_long)?;
    let length = u16::try_from(got).map_err(|_| too_long)?;
    let mut text = Zeroizing::new(Vec::with_capacity(size));
    text.extend(length.to_le_bytes());
    text.extend(message);
    text.resize(size, 0);
    Ok(text)
}

/// The message in a padded text.
///
/// # Errors
/// The length does not fit, the bucket is not the smallest that holds the message, or the padding is not
/// zero: see [`SealError`].
pub fn unpad(buckets: Buckets, text: &[u8]) -> Result<&[u8], SealError> {
    let (length, rest) = text.split_first_chunk::<LENGTH_BYTES>().ok_or(SealError::Padding)?;
    let length = usize::from(u16::from_le_bytes(*length));
    let (message, padding) = rest.split_at_checked(length).ok_or(SealError::Padding)?;
    let is_smallest = buckets.text_bytes(length) == Some(text.len());
    if !is_smallest || padding.iter().any(|byte| *byte != 0) {
        return Err(SealError::Padding);
    }
    Ok(message)
}

/// The place of a sealed text, to which it is bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The ledger.
    pub ledger_id: LedgerId,
    /// Index of the entry.
    pub index: u64,
    /// Tag of the slot; zeros where there is none.
    pub tag: Tag,
    /// What the text is in its entry.
    pub part: Part,
    /// Place among the items of the entry; 0 where there are none.
    pub item: u32,
}

impl Place {
    /// The additional data.
    #[must_use]
    pub fn aad(&self) -> Vec<u8> {
        [
            PREFIX.as_bytes(),
            &[0],
            &self.ledger_id,
            &self.index.to_le_bytes(),
            &self.tag,
            &[self.part as u8],
            &self.item.to_le_bytes(),
        ]
        .concat()
    }
}

/// A text under a one-time key, and its commitment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// Ciphertext and authentication tag.
    pub ciphertext: Vec<u8>,
    /// Commitment to key, place and text.
    pub commitment: [u8; 32],
}

/// Why a sealed text does not open.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SealError {
    /// Neither the authentication tag nor the commitment fits: the key, or the place, is another one, or
    /// the ciphertext is damaged. Who knows that the key is right knows that it is damage.
    #[error("it does not open with this key")]
    Key,
    /// The commitment fits, and the authentication tag does not. So the key is right.
    #[error("its authentication tag is damaged")]
    AuthenticationTag,
    /// The authentication tag fits, and the commitment does not. So the key is right, or was made to fit.
    #[error("its commitment is not the one of its text")]
    Commitment,
    /// A length that does not fit, a bucket that is too large, or padding that is not zero.
    #[error("its padding is not that of the format")]
    Padding,
    /// The message is not canonical.
    #[error(transparent)]
    Message(#[from] CanonicalError),
}

/// A key that opens one text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OneTimeKey(Key);

impl OneTimeKey {
    /// The one-time key of a text with this salt, which does not reveal the key that it comes from.
    #[must_use]
    pub fn derive(key: &Key, salt: &[u8; 16]) -> Self {
        Self(derive_key(Context::SealingKey, &[key.bytes(), salt]))
    }

    /// A key from elsewhere.
    #[must_use]
    pub fn new(key: Key) -> Self {
        Self(key)
    }

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

    /// The reference of the record that this key opens.
    #[must_use]
    pub fn reference(&self) -> Reference {
        half(&derive(Context::Reference, &[self.0.bytes()]))
    }

    /// Encrypts a padded text.
    #[must_use]
    pub fn encrypt(&self, aad: &[u8], text: &[u8]) -> Vec<u8> {
        self.cipher()
            .encrypt(&Nonce::default(), Payload { msg: text, aad })
            .expect("AES-GCM takes 64 GiB, and no text here comes near")
    }

    /// Decrypts what [`Self::encrypt`] made; none if it does not open.
    #[must_use]
    pub fn decrypt(&self, aad: &[u8], ciphertext: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let payload = Payload { msg: ciphertext, aad };
        self.cipher().decrypt(&Nonce::default(), payload).ok().map(Zeroizing::new)
    }

    /// Seals a padded text.
    #[must_use]
    pub fn seal(&self, place: &Place, text: &[u8]) -> Sealed {
        let aad = place.aad();
        Sealed { ciphertext: self.encrypt(&aad, text), commitment: self.commitment(&aad, text) }
    }

    /// Opens a sealed text.
    ///
    /// # Errors
    /// See [`SealError`].
    pub fn open(&self, place: &Place, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let aad = place.aad();
        match self.decrypt(&aad, &sealed.ciphertext) {
            Some(text) if is_same(&self.commitment(&aad, &text), &sealed.commitment) => Ok(text),
            Some(_) => Err(SealError::Commitment),
            None => Err(self.why_not(&aad, sealed)),
        }
    }

    /// Opens the message of a sealed text.
    ///
    /// # Errors
    /// See [`SealError`].
    pub fn open_message<M: Message + Default + prost::Name>(
        &self,
        place: &Place,
        sealed: &Sealed,
    ) -> Result<M, SealError> {
        let text = self.open(place, sealed)?;
        Ok(canonical::decode(unpad(place.part.buckets(), &text)?)?)
    }

    fn why_not(&self, aad: &[u8], sealed: &Sealed) -> SealError {
        let text_bytes = sealed.ciphertext.len().saturating_sub(AUTH_BYTES);
        let encrypted = sealed.ciphertext.get(..text_bytes).unwrap_or_default();
        // The mode adds a key stream, so encrypting again decrypts.
        let mut text = Zeroizing::new(self.encrypt(aad, encrypted));
        text.truncate(text_bytes);
        if is_same(&self.commitment(aad, &text), &sealed.commitment) {
            SealError::AuthenticationTag
        } else {
            SealError::Key
        }
    }

    fn commitment(&self, aad: &[u8], text: &[u8]) -> [u8; 32] {
        let length = u64::try_from(aad.len()).unwrap_or(u64::MAX).to_le_bytes();
        derive(Context::Commitment, &[self.0.bytes(), &length, aad, text])
    }

    fn cipher(&self) -> Aes256Gcm {
        Aes256Gcm::new(self.0.bytes().into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLACE: Place =
        Place { ledger_id: [1; 16], index: 7, tag: [2; 16], part: Part::Record, item: 0 };

    fn key() -> OneTimeKey {
        OneTimeKey::derive(&Key::new([3; 32]), &[4; 16])
    }

    #[test]
    fn a_record_and_its_evidence_have_few_sizes() {
        let sizes: Vec<_> = Buckets::RECORD.sizes().collect();
        assert_eq!(sizes, [192, 384, 768, 1_536, 3_072, 6_144, 12_288, 24_576, 49_152]);
        let sizes: Vec<_> = Buckets::EVIDENCE.sizes().collect();
        assert_eq!(sizes, [256, 512, 1_024, 2_048, 4_096, 8_192, 16_384, 32_768, 49_152]);
        assert_eq!(Buckets::CONFIDENTIAL.sizes().count(), 9);
        assert_eq!(Buckets::VAULT.sizes().count(), 7);
    }

    #[test]
    fn a_message_too_long_for_every_bucket_is_refused_with_the_limit() {
        let limit = Buckets::CONFIDENTIAL.message_bytes_max();
        assert!(pad(Buckets::CONFIDENTIAL, &vec![1; limit]).is_ok());
        let got = limit + 1;
        assert_eq!(pad(Buckets::CONFIDENTIAL, &vec![1; got]), Err(TooLong { got, limit }));
    }

    #[test]
    fn another_padding_than_zeros_in_the_smallest_bucket_is_refused() {
        let good = pad(Buckets::RECORD, b"text").unwrap();
        assert_eq!(unpad(Buckets::RECORD, &good), Ok(&b"text"[..]));
        let mut marked = good.clone();
        marked[100] = 1;
        let mut longer = good.clone();
        longer.resize(384, 0);
        let mut lying = good.clone();
        lying[0] = 191;
        for text in [&marked[..], &longer, &lying, &good[..191], &[], &[0]] {
            assert_eq!(unpad(Buckets::RECORD, text), Err(SealError::Padding));
        }
    }

    #[test]
    fn what_is_wrong_is_told_as_far_as_it_can_be_known() {
        let text = pad(Buckets::RECORD, b"text").unwrap();
        let sealed = key().seal(&PLACE, &text);
        assert_eq!(sealed.ciphertext.len(), 192 + AUTH_BYTES);
        assert_eq!(key().open(&PLACE, &sealed), Ok(text));
        let mut changed = sealed.clone();
        changed.ciphertext[195] ^= 1;
        assert_eq!(key().open(&PLACE, &changed), Err(SealError::AuthenticationTag));
        let mut changed = sealed.clone();
        changed.commitment[0] ^= 1;
        assert_eq!(key().open(&PLACE, &changed), Err(SealError::Commitment));
        let mut changed = sealed.clone();
        changed.ciphertext[0] ^= 1;
        assert_eq!(key().open(&PLACE, &changed), Err(SealError::Key));
        let other = OneTimeKey::derive(&Key::new([3; 32]), &[5; 16]);
        assert_eq!(other.open(&PLACE, &sealed), Err(SealError::Key));
        for place in [
            Place { ledger_id: [0; 16], ..PLACE },
            Place { index: 8, ..PLACE },
            Place { tag: [0; 16], ..PLACE },
            Place { part: Part::Evidence, ..PLACE },
            Place { item: 1, ..PLACE },
        ] {
            assert_eq!(key().open(&place, &sealed), Err(SealError::Key));
        }
        let short = Sealed { ciphertext: vec![0; 3], ..sealed };
        assert_eq!(key().open(&PLACE, &short), Err(SealError::Key));
    }

    proptest! {
        #[test]
        fn every_message_reads_back(message in prop::collection::vec(any::<u8>(), 0..2_000)) {
            for buckets in [Buckets::RECORD, Buckets::EVIDENCE, Buckets::CONFIDENTIAL, Buckets::VAULT] {
                let text = pad(buckets, &message).unwrap();
                prop_assert!(buckets.has_ciphertext(text.len() + AUTH_BYTES));
                prop_assert_eq!(unpad(buckets, &text), Ok(&message[..]));
            }
        }
    }
}
