//! Signs and verifies messages according to Standard Webhooks 1.0 (`v1`: HMAC-SHA256).
//!
//! The signed text is `ID.TIMESTAMP.BODY`. So an id must not contain a full stop; the ids of this
//! server contain none.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use thiserror::Error;
use zeroize::Zeroizing;

/// Prefix of a secret in text form.
pub const SECRET_PREFIX: &str = "whsec_";
/// Allowed length of a secret, in bytes.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// Prefix of the one supported kind of signature.
const VERSION: &str = "v1,";

/// Header with the id of a message; retries have the same id.
pub const ID_HEADER: &str = "webhook-id";
/// Header with the time of sending, in seconds since the Unix epoch.
pub const TIMESTAMP_HEADER: &str = "webhook-timestamp";
/// Header with the signatures, separated by spaces.
pub const SIGNATURE_HEADER: &str = "webhook-signature";

/// The secret key of a subscription, which signs and verifies its messages.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

/// Why a message could not be verified.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SignatureError {
    /// The secret is malformed.
    #[error("the secret is not `whsec_` and 24 to 64 bytes in base64")]
    Secret,
    /// The header has no `v1` signature.
    #[error("the message has no `v1` signature")]
    Missing,
    /// No signature matches the secret, id, timestamp and body.
    #[error("no signature matches the secret, id, timestamp and body")]
    Wrong,
    /// The timestamp is malformed.
    #[error("the timestamp is not a number of seconds")]
    Timestamp,
    /// The timestamp is too far from the present; the distance in seconds.
    #[error("the timestamp is {0} seconds from now, beyond the tolerance")]
    TooFar(u64),
}

impl Secret {
    /// Parses the text form, `whsec_…`.
    ///
    /// # Errors
    /// [`SignatureError::Secret`]. The error does not contain the text.
    pub fn parse(text: &str) -> Result<Self, SignatureError> {
        let base64 = text.trim().strip_prefix(SECRET_PREFIX).ok_or(SignatureError::Secret)?;
        let bytes = BASE64_STANDARD.decode(base64).map_err(|_| SignatureError::Secret)?;
        let bytes = Zeroizing::new(bytes);
        if !SECRET_BYTES.contains(&bytes.len()) {
            return Err(SignatureError::Secret);
        }
        Ok(Self(bytes))
    }

    /// The signature of a message, as the value of [`SIGNATURE_HEADER`].
    #[must_use]
    pub fn sign(&self, id: &str, timestamp_s: i64, body: &[u8]) -> String {
        let code = self.mac(id, timestamp_s, body).finalize().into_bytes();
        format!("{VERSION}{}", BASE64_STANDARD.encode(code))
    }

    /// Verifies a message by its headers; each comparison takes constant time. `now_and_tolerance_s` are
    /// the present time and the allowed distance from it; without them any timestamp is accepted.
    ///
    /// # Errors
    /// See [`SignatureError`].
    pub fn verify(
        &self,
        id: &str,
        timestamp: &str,
        signatures: &str,
        body: &[u8],
        now_and_tolerance_s: Option<(i64, u64)>,
    ) -> Result<(), SignatureError> {
        let timestamp_s: i64 = timestamp.trim().parse().map_err(|_| SignatureError::Timestamp)?;
        let (mut is_signed, mut is_valid) = (false, false);
        for signature in signatures.split_whitespace().filter_map(|part| part.strip_prefix(VERSION))
        {
            is_signed = true;
            if let Ok(code) = BASE64_STANDARD.decode(signature) {
                is_valid |= self.mac(id, timestamp_s, body).verify_slice(&code).is_ok();
            }
        }
        if !is_valid {
            return Err(if is_signed { SignatureError::Wrong } else { SignatureError::Missing });
        }
        if let Some((now_s, tolerance_s)) = now_and_tolerance_s {
            let distance_s = now_s.abs_diff(timestamp_s);
            if distance_s > tolerance_s {
                return Err(SignatureError::TooFar(distance_s));
            }
        }
        Ok(())
    }

    /// A pseudonym for a text that must not be readable: 32 hexadecimal digits, always the same for the
    /// same text, and meaningless without the secret.
    #[must_use]
    pub fn pseudonym(&self, text: &str) -> String {
        let mut mac = self.keyed();
        // No signed message begins with this: ids contain no space.
        mac.update(b"pseudonym of ");
        mac.update(text.as_bytes());
        crate::tlog::hex(&mac.finalize().into_bytes()[..16])
    }

    fn mac(&self, id: &str, timestamp_s: i64, body: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.keyed();
        mac.update(format!("{id}.{timestamp_s}.").as_bytes());
        mac.update(body);
        mac
    }

    fn keyed(&self) -> Hmac<Sha256> {
        <Hmac<Sha256> as KeyInit>::new_from_slice(&self.0)
            .unwrap_or_else(|_| unreachable!("HMAC takes a key of any length"))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The example in the tests of the libraries of the specification.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const TIMESTAMP_S: i64 = 1_614_265_330;
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    fn verify(id: &str, at: &str, signatures: &str, body: &[u8]) -> Result<(), SignatureError> {
        Secret::parse(SECRET).unwrap().verify(id, at, signatures, body, None)
    }

    #[test]
    fn signs_as_the_specification_does() {
        let secret = Secret::parse(SECRET).unwrap();
        assert_eq!(secret.sign(ID, TIMESTAMP_S, BODY), SIGNATURE);
        assert_eq!(format!("{secret:?}"), "Secret(…)");
    }

    #[test]
    fn verifies_the_signed_message_and_no_other() {
        let at = "1614265330";
        assert_eq!(verify(ID, at, SIGNATURE, BODY), Ok(()));
        let others = format!("v1a,AAAA v1,AAAA v1,%% {SIGNATURE}");
        assert_eq!(verify(ID, at, &others, BODY), Ok(()), "one of several is enough");
        let wrong = Err(SignatureError::Wrong);
        assert_eq!(verify("msg_other", at, SIGNATURE, BODY), wrong);
        assert_eq!(verify(ID, "1614265331", SIGNATURE, BODY), wrong);
        assert_eq!(verify(ID, at, SIGNATURE, br#"{"test":2432232314}"#), wrong);
        assert_eq!(verify(ID, at, "v1,", BODY), wrong);
        assert_eq!(verify(ID, at, "v1,g0hM", BODY), wrong, "a beginning is not enough");
        assert_eq!(verify(ID, at, "", BODY), Err(SignatureError::Missing));
        assert_eq!(verify(ID, at, &SIGNATURE[3..], BODY), Err(SignatureError::Missing));
        assert_eq!(verify(ID, "now", SIGNATURE, BODY), Err(SignatureError::Timestamp));
    }

    #[test]
    fn a_timestamp_beyond_the_tolerance_is_refused() {
        let secret = Secret::parse(SECRET).unwrap();
        let at = |now_s| secret.verify(ID, "1614265330", SIGNATURE, BODY, Some((now_s, 300)));
        assert_eq!(at(TIMESTAMP_S + 300), Ok(()));
        assert_eq!(at(TIMESTAMP_S - 300), Ok(()));
        assert_eq!(at(TIMESTAMP_S + 301), Err(SignatureError::TooFar(301)));
        assert_eq!(at(TIMESTAMP_S - 301), Err(SignatureError::TooFar(301)));
    }

    #[test]
    fn a_secret_is_prefix_and_base64_of_a_bounded_length() {
        let of = |bytes: usize| format!("whsec_{}", BASE64_STANDARD.encode(vec![7; bytes]));
        assert!(Secret::parse(&of(24)).is_ok() && Secret::parse(&of(64)).is_ok());
        for text in [&of(23), &of(65), "whsec_", "whsec_%%", "", &of(32)[6..]] {
            assert_eq!(Secret::parse(text).unwrap_err(), SignatureError::Secret, "{text}");
        }
    }

    #[test]
    fn a_pseudonym_depends_on_the_text_and_the_secret() {
        let one = Secret::parse(SECRET).unwrap();
        let other = Secret(Zeroizing::new(vec![1; 32]));
        assert_eq!(one.pseudonym("user:42"), one.pseudonym("user:42"));
        assert_ne!(one.pseudonym("user:42"), one.pseudonym("user:43"));
        assert_ne!(one.pseudonym("user:42"), other.pseudonym("user:42"));
        assert_eq!(one.pseudonym("user:42").len(), 32);
    }
}
