//! Transparency logs: the Merkle tree of RFC 6962 and the forms in which C2SP writes it down.
//!
//! Everything here is pure, and knows nothing of consent, of entries or of files: bytes in, hashes
//! and texts out. So an auditor's tool needs this module and no other.
//!
//! * [`merkle`]: leaf and node hashes, compact ranges, proofs and their verification.
//! * [`tile`]: C2SP tlog-tiles: where hashes and entries stand, and the paths that name them.
//! * [`key`], [`note`]: C2SP signed-note: keys as text, and texts with signatures.
//! * [`checkpoint`]: C2SP tlog-checkpoint: the head of a tree, signed.
//! * [`proof`]: C2SP tlog-proof: an entry's place in a tree, to be verified offline.
//! * [`policy`]: C2SP tlog-policy: which logs and which witnesses count.
//! * [`witness`]: C2SP tlog-witness: what a log and a witness say to each other.

pub mod checkpoint;
pub mod key;
pub mod merkle;
pub mod note;
pub mod policy;
pub mod proof;
pub mod tile;
pub mod witness;

/// Base64 as all these texts have it: the standard alphabet, padded, written in one way only.
pub use base64::prelude::BASE64_STANDARD as BASE64;

/// A number as these texts have it: decimal digits without a leading zero.
#[must_use]
pub fn decimal(text: &str) -> Option<u64> {
    let canonical = text == "0" || !text.starts_with('0');
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if canonical && digits { text.parse().ok() } else { None }
}

/// A hash as these texts have it.
pub(crate) fn hash(text: &str) -> Option<merkle::Hash> {
    use base64::Engine as _;
    BASE64.decode(text).ok()?.try_into().ok()
}

/// Bytes as people read hashes: lowercase hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _ = write!(text, "{byte:02x}"); // Writing to a `String` can not fail.
    }
    text
}
