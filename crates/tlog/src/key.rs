//! Keys of signed notes, as text: the verifier keys of C2SP signed-note, and the signer keys of Go's
//! `golang.org/x/mod/sumdb/note`, which have the same form behind `PRIVATE+KEY+`.
//!
//! ```text
//! example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k
//! name            key id   base64 of the algorithm and the 32 bytes of the key
//! ```

use std::fmt;

use base64::Engine as _;
use ed25519_dalek::{SIGNATURE_LENGTH, Signature, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};
use thiserror::Error;
use zeroize::Zeroizing;

use super::BASE64;

/// Maximum length of the name of a key, in bytes.
pub const NAME_BYTES_MAX: usize = 256;
const PRIVATE: &str = "PRIVATE+KEY+";

/// The signature algorithm of a key, the first byte of its encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// Ed25519 over the text of a note.
    Note,
    /// Timestamped Ed25519 over a checkpoint (C2SP tlog-cosignature, `cosignature/v1`).
    Cosignature,
}

impl Algorithm {
    fn byte(self) -> u8 {
        match self {
            Self::Note => 1,
            Self::Cosignature => 4,
        }
    }

    fn of_byte(byte: u8) -> Option<Self> {
        [Self::Note, Self::Cosignature].into_iter().find(|algorithm| algorithm.byte() == byte)
    }
}

/// Why a key can not be parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum KeyError {
    /// The text is not name, key id and key with `+` between them.
    #[error("must be a verifier key: NAME+ID+KEY, for example example.com/log+530d903a+AekyeR…")]
    Form,
    /// The name is not allowed in a note.
    #[error("has a name that is empty, too long, or holds spaces, `+` or control characters")]
    Name,
    /// The signature algorithm is unknown.
    #[error(
        "is of a signature type that this program can not verify: it verifies Ed25519 (1) and \
         cosignature/v1 (4), not ML-DSA-44 (6)"
    )]
    Algorithm,
    /// The key is not a point of the curve, or a weak one under which forged signatures verify.
    #[error("is no Ed25519 public key")]
    Point,
    /// The key id belongs to another key.
    #[error("has a key id that does not belong to its name and key: it was changed or cut")]
    Id,
}

/// Verifies signatures of one name, key and algorithm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    id: [u8; 4],
    algorithm: Algorithm,
    key: VerifyingKey,
}

impl VerifierKey {
    fn new(name: &str, algorithm: Algorithm, key: VerifyingKey) -> Result<Self, KeyError> {
        check_name(name)?;
        if key.is_weak() {
            return Err(KeyError::Point);
        }
        let id = key_id(name, algorithm.byte(), key.as_bytes());
        Ok(Self { name: name.to_owned(), id, algorithm, key })
    }

    /// Parses a verifier key.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let Parts { name, id, key } = parts(text.trim_ascii())?;
        let (algorithm, bytes) = ed25519(&key)?;
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| KeyError::Point)?;
        let parsed = Self::new(name, algorithm, key)?;
        if parsed.id == id { Ok(parsed) } else { Err(KeyError::Id) }
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key id.
    #[must_use]
    pub fn id(&self) -> [u8; 4] {
        self.id
    }

    /// The signature algorithm.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The public key of RFC 8032.
    #[must_use]
    pub fn public_key(&self) -> [u8; 32] {
        self.key.to_bytes()
    }

    /// Whether these bytes are the key's signature of a message. Strict: rejects other encodings of a
    /// valid signature.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8; SIGNATURE_LENGTH]) -> bool {
        self.key.verify_strict(message, &Signature::from_bytes(signature)).is_ok()
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&encode(&self.name, self.id, self.algorithm, self.key.as_bytes()))
    }
}

/// A verifier key of a signature type that this program can not verify, such as ML-DSA-44 of C2SP
/// tlog-cosignature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherKey {
    name: String,
    /// Signature type and public key.
    key: Vec<u8>,
}

/// Signature type of ML-DSA-44 cosignatures, and bytes of such a key.
const ML_DSA_44: (u8, usize) = (6, 1_312);

impl OtherKey {
    /// Parses a verifier key that is well-formed except that its signature type is another one.
    ///
    /// # Errors
    /// See [`KeyError`]. [`KeyError::Algorithm`] if the type is one of [`Algorithm`].
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let Parts { name, id, key } = parts(text.trim_ascii())?;
        check_name(name)?;
        let (algorithm, bytes) = key.split_first().ok_or(KeyError::Form)?;
        if Algorithm::of_byte(*algorithm).is_some() {
            return Err(KeyError::Algorithm);
        }
        // Other types may derive their ids in other ways.
        if *algorithm == ML_DSA_44.0 {
            if bytes.len() != ML_DSA_44.1 {
                return Err(KeyError::Form);
            }
            if key_id(name, *algorithm, bytes) != id {
                return Err(KeyError::Id);
            }
        }
        Ok(Self { name: name.to_owned(), key: key.to_vec() })
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether both are the same public key, whatever their names.
    #[must_use]
    pub fn is_same_key(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

/// Signs with a name and secret key. It is never printed.
#[derive(Clone)]
pub struct SignerKey {
    key: SigningKey,
    verifier: VerifierKey,
}

impl SignerKey {
    /// The key of a secret seed (the private key of RFC 8032).
    ///
    /// # Errors
    /// [`KeyError::Name`].
    pub fn from_seed(name: &str, algorithm: Algorithm, seed: &[u8; 32]) -> Result<Self, KeyError> {
        let key = SigningKey::from_bytes(seed);
        let verifier = VerifierKey::new(name, algorithm, key.verifying_key())?;
        Ok(Self { key, verifier })
    }

    /// Parses a signer key: `PRIVATE+KEY+NAME+ID+KEY`.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let text = text.trim_ascii().strip_prefix(PRIVATE).ok_or(KeyError::Form)?;
        let Parts { name, id, key } = parts(text)?;
        let (algorithm, bytes) = ed25519(&key)?;
        let parsed = Self::from_seed(name, algorithm, &Zeroizing::new(bytes))?;
        if parsed.verifier.id == id { Ok(parsed) } else { Err(KeyError::Id) }
    }

    /// The key as text, only for its file.
    #[must_use]
    pub fn to_secret_text(&self) -> Zeroizing<String> {
        let VerifierKey { name, id, algorithm, .. } = &self.verifier;
        let text = Zeroizing::new(encode(name, *id, *algorithm, self.key.as_bytes()));
        Zeroizing::new(format!("{PRIVATE}{}", *text))
    }

    /// The secret seed.
    #[must_use]
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.key.to_bytes())
    }

    /// The key that verifies these signatures.
    #[must_use]
    pub fn verifier(&self) -> &VerifierKey {
        &self.verifier
    }

    /// The signature of a message.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_LENGTH] {
        self.key.sign(message).to_bytes()
    }
}

impl fmt::Debug for SignerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SignerKey({})", self.verifier)
    }
}

/// Whether C2SP signed-note allows a text as the name of a key.
#[must_use]
pub fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c == '+')
}

/// Whether this crate accepts a text as the name of a key.
fn check_name(name: &str) -> Result<(), KeyError> {
    if is_name(name) && name.len() <= NAME_BYTES_MAX && !name.contains(char::is_control) {
        return Ok(());
    }
    Err(KeyError::Name)
}

fn key_id(name: &str, algorithm: u8, key: &[u8]) -> [u8; 4] {
    let mut hasher = Sha256::new();
    hasher.update(name);
    hasher.update([b'\n', algorithm]);
    hasher.update(key);
    let hash: [u8; 32] = hasher.finalize().into();
    [hash[0], hash[1], hash[2], hash[3]]
}

fn encode(name: &str, id: [u8; 4], algorithm: Algorithm, key: &[u8; 32]) -> String {
    let mut bytes = Zeroizing::new([0; 33]);
    bytes[0] = algorithm.byte();
    bytes[1..].copy_from_slice(key);
    format!("{name}+{:08x}+{}", u32::from_be_bytes(id), BASE64.encode(*bytes))
}

struct Parts<'a> {
    name: &'a str,
    id: [u8; 4],
    /// Signature type and key.
    key: Zeroizing<Vec<u8>>,
}

fn parts(text: &str) -> Result<Parts<'_>, KeyError> {
    // The key's base64 may hold `+`, a name may not.
    let mut parts = text.splitn(3, '+');
    let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(KeyError::Form);
    };
    let lower_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if id.len() != 8 || !id.bytes().all(lower_hex) {
        return Err(KeyError::Form);
    }
    let id = u32::from_str_radix(id, 16).map_err(|_| KeyError::Form)?.to_be_bytes();
    let key = Zeroizing::new(BASE64.decode(key).map_err(|_| KeyError::Form)?);
    Ok(Parts { name, id, key })
}

/// The type and the 32 bytes of an Ed25519 key.
fn ed25519(key: &[u8]) -> Result<(Algorithm, [u8; 32]), KeyError> {
    let (algorithm, bytes) = key.split_first().ok_or(KeyError::Form)?;
    let algorithm = Algorithm::of_byte(*algorithm).ok_or(KeyError::Algorithm)?;
    Ok((algorithm, bytes.try_into().map_err(|_| KeyError::Form)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The example of C2SP signed-note.
    const EXAMPLE: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";

    #[test]
    fn the_example_of_the_specification_is_read_and_written() {
        let key = VerifierKey::parse(EXAMPLE).unwrap();
        assert_eq!(key.name(), "example.com/foo");
        assert_eq!(key.id(), [0x53, 0x0d, 0x90, 0x3a]);
        assert_eq!(key.to_string(), EXAMPLE);
    }

    #[test]
    fn keys_that_were_changed_are_refused() {
        for (text, error) in [
            ("", KeyError::Form),
            ("example.com/foo+530d903a", KeyError::Form),
            (&EXAMPLE.replace("530d", "530D"), KeyError::Form),
            (&EXAMPLE.replace("+530d", "+630d"), KeyError::Id),
            (&EXAMPLE.replace("foo", "bar"), KeyError::Id),
            (&EXAMPLE.replace("AekyeR", "CekyeR"), KeyError::Algorithm),
            (&EXAMPLE.replace("example", "exa mple"), KeyError::Name),
            (&EXAMPLE.replace("example.com/foo", ""), KeyError::Name),
            (&EXAMPLE[..EXAMPLE.len() - 4], KeyError::Form),
        ] {
            assert_eq!(VerifierKey::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn secrets_round_trip_and_are_not_printed() {
        for algorithm in [Algorithm::Note, Algorithm::Cosignature] {
            let key = SignerKey::from_seed("a.example/log", algorithm, &[7; 32]).unwrap();
            let text = key.to_secret_text();
            let read = SignerKey::parse(&text).unwrap();
            assert_eq!(read.verifier(), key.verifier());
            assert!(!format!("{key:?}").contains("BwcH"), "{key:?}");
            assert!(key.verifier().verifies(b"text", &read.sign(b"text")));
            assert!(!key.verifier().verifies(b"test", &read.sign(b"text")));
            assert_eq!(VerifierKey::parse(&text).unwrap_err(), KeyError::Form);
        }
    }

    proptest! {
        #[test]
        fn arbitrary_texts_never_panic(text in ".{0,80}") {
            prop_assert!(VerifierKey::parse(&text).is_err());
            prop_assert!(SignerKey::parse(&text).is_err());
        }
    }
}
