//! Transparency logs: the Merkle tree of RFC 6962 and the text formats of C2SP.
//!
//! Everything is pure, and knows nothing of consent, entries or files: bytes in, hashes and texts out.
//! So an auditor's tool can use this crate alone.
//!
//! * [`merkle`]: leaf and node hashes, compact ranges, proofs and their verification.
//! * [`tile`]: C2SP tlog-tiles: tiles of hashes, bundles of entries, and their paths.
//! * [`key`], [`note`]: C2SP signed-note: keys as text, and texts with signatures.
//! * [`checkpoint`]: C2SP tlog-checkpoint: the head of a tree, signed.
//! * [`origin`]: the names of logs and witnesses: URLs without a scheme.
//! * [`proof`]: C2SP tlog-proof: an inclusion proof that can be verified offline.
//! * [`policy`]: C2SP tlog-policy: the trusted logs and witnesses.
//! * [`witness`]: C2SP tlog-witness: the request from a log to a witness.

pub mod checkpoint;
pub mod key;
pub mod merkle;
pub mod note;
pub mod origin;
pub mod policy;
pub mod proof;
pub mod tile;
pub mod witness;

/// The base64 of all these formats: standard alphabet, padded, canonical.
pub use base64::prelude::BASE64_STANDARD as BASE64;

/// Parses a number of these formats: decimal digits without a leading zero.
#[must_use]
pub fn decimal(text: &str) -> Option<u64> {
    let canonical = text == "0" || !text.starts_with('0');
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if canonical && digits { text.parse().ok() } else { None }
}

/// Parses a hash of these formats.
pub(crate) fn hash(text: &str) -> Option<merkle::Hash> {
    use base64::Engine as _;
    BASE64.decode(text).ok()?.try_into().ok()
}

/// Bytes in lowercase hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _ = write!(text, "{byte:02x}"); // Writing to a `String` can not fail.
    }
    text
}

/// The bytes of a text in hexadecimal, in any case; none if it has other characters, or an odd number.
#[must_use]
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    pairs.iter().map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_reads_back_and_nothing_else_does() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(unhex(&hex(&all)), Some(all));
        assert_eq!(unhex("aF"), Some(vec![0xaf]));
        for malformed in ["a", "+f", "0g", "é", "a0 "] {
            assert_eq!(unhex(malformed), None, "{malformed}");
        }
    }
}
