//! Keys and seals of the files.
//!
//! ```text
//! key of a run       BLAKE3 derive_key("consent-ledger v2 index run", key || owner || run id)
//! key of a manifest  BLAKE3 derive_key("consent-ledger v2 index manifest", key || owner || salt)
//! key of filters     BLAKE3 derive_key("consent-ledger v2 index filter", key || owner)
//! ```
//!
//! The id of a run and the salt of a manifest are random and never used again, so each key seals each
//! place once; the nonce is the place. The owner and the place are in the additional data.

use std::fmt;

use aes_gcm::{
    Aes256Gcm, KeyInit as _, Nonce,
    aead::{Aead as _, Payload},
};
use zeroize::{Zeroize as _, ZeroizeOnDrop};

/// Names a run.
pub type RunId = [u8; 16];

const FORMAT: &[u8] = b"consent-ledger index 1\0";

/// A part of a file that is sealed as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// A page of a run, by its number.
    Page(u32),
    /// The footer of a run.
    Footer,
    /// The manifest.
    Manifest,
}

impl fmt::Display for Part {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Page(number) => write!(to, "page {number}"),
            Self::Footer => to.write_str("the footer"),
            Self::Manifest => to.write_str("the manifest"),
        }
    }
}

impl Part {
    fn place(self) -> u64 {
        match self {
            Self::Page(number) => number.into(),
            Self::Footer => u64::MAX,
            Self::Manifest => u64::MAX - 1,
        }
    }
}

/// The key of a map, and whose map it is.
#[derive(Clone, ZeroizeOnDrop)]
pub struct MapKey {
    key: [u8; 32],
    #[zeroize(skip)]
    owner: [u8; 16],
}

impl fmt::Debug for MapKey {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("MapKey(…)")
    }
}

impl MapKey {
    pub fn new(key: &[u8; 32], owner: [u8; 16]) -> Self {
        Self { key: *key, owner }
    }

    pub fn run(&self, id: &RunId) -> Seal {
        self.seal("consent-ledger v2 index run", id)
    }

    pub fn manifest(&self, salt: &[u8; 16]) -> Seal {
        self.seal("consent-ledger v2 index manifest", salt)
    }

    pub fn filter(&self) -> [u8; 32] {
        self.derive("consent-ledger v2 index filter", &[])
    }

    fn seal(&self, context: &str, name: &[u8; 16]) -> Seal {
        let mut key = self.derive(context, name);
        let cipher = Aes256Gcm::new(&key.into());
        key.zeroize();
        Seal { cipher, owner: self.owner, name: *name }
    }

    fn derive(&self, context: &str, name: &[u8]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key(context);
        hasher.update(&self.key).update(&self.owner).update(name);
        hasher.finalize().into()
    }
}

/// Seals the parts of one file.
pub struct Seal {
    cipher: Aes256Gcm,
    owner: [u8; 16],
    name: [u8; 16],
}

impl fmt::Debug for Seal {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("Seal(…)")
    }
}

impl Seal {
    pub fn close(&self, part: Part, text: &[u8]) -> Vec<u8> {
        let payload = Payload { msg: text, aad: &self.additional(part) };
        let sealed = self.cipher.encrypt(&nonce(part), payload);
        sealed.expect("AES-GCM takes 64 GiB, and no part comes near")
    }

    /// The text; none if it is not what was sealed for this part.
    pub fn open(&self, part: Part, sealed: &[u8]) -> Option<Vec<u8>> {
        let payload = Payload { msg: sealed, aad: &self.additional(part) };
        self.cipher.decrypt(&nonce(part), payload).ok()
    }

    fn additional(&self, part: Part) -> Vec<u8> {
        let place = part.place().to_le_bytes();
        [FORMAT, self.owner.as_slice(), &self.name, &place].concat()
    }
}

fn nonce(part: Part) -> Nonce<aes_gcm::aead::consts::U12> {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&part.place().to_le_bytes());
    nonce.into()
}
