//! Bytes that only the holder of a key can read.

/// Encrypted bytes, with a commitment that no other key opens to another text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Sealed {
    /// Random salt of the key derivation.
    pub salt: [u8; 16],
    /// Ciphertext and authentication tag.
    pub ciphertext: Vec<u8>,
    /// Commitment to key and plaintext.
    pub commitment: [u8; 32],
}
