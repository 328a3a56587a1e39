//! JSON Web Signatures (RFC 7515) in compact form, with Ed25519 (RFC 8037) only. Decision tokens and
//! receipts are both signed with them.
//!
//! The header has exactly three members, in this order; any other header is refused, because its
//! members could change how the signature is verified (`crit`) or with which key (`jwk`, `jku`, `x5c`).
//! This module does not read the payload.

mod key;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
pub use key::{KeyError, PublicKey, Signer};
use serde::{Deserialize, Serialize};
use thiserror::Error;

const ALGORITHM: &str = "EdDSA";

/// Why a text is not a signature of a payload.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum JwsError {
    /// It does not have the form.
    #[error("{0}")]
    Malformed(&'static str),
    /// It is signed with another algorithm, or not at all.
    #[error("its `alg` is not EdDSA")]
    Algorithm,
    /// It signs a payload of another type.
    #[error("its `typ` is another type")]
    Type,
    /// It names another key.
    #[error("it names another key, `{named}`; the one given is `{given}`")]
    Key {
        /// The key that it names.
        named: String,
        /// The key that it was to be verified with.
        given: String,
    },
    /// The signature does not match.
    #[error("its signature is not by this key")]
    Signature,
}

impl JwsError {
    /// Name for programs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "MALFORMED",
            Self::Algorithm => "WRONG_ALGORITHM",
            Self::Type => "WRONG_TYPE",
            Self::Key { .. } => "UNKNOWN_KEY",
            Self::Signature => "BAD_SIGNATURE",
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    typ: String,
    kid: String,
}

/// The encoded header for payloads of one type, signed with one key.
fn header(typ: &str, key_id: &str) -> String {
    let header = Header { alg: ALGORITHM.to_owned(), typ: typ.to_owned(), kid: key_id.to_owned() };
    let json = serde_json::to_vec(&header).expect("texts always have a JSON form");
    BASE64_URL_SAFE_NO_PAD.encode(json)
}

/// Refuses a header that is not exactly that of this type and key.
fn check_header(segment: &str, typ: &str, key_id: &str) -> Result<(), JwsError> {
    let malformed = JwsError::Malformed("its header");
    let json = BASE64_URL_SAFE_NO_PAD.decode(segment).map_err(|_| malformed.clone())?;
    let header: Header = serde_json::from_slice(&json).map_err(|_| malformed)?;
    if header.alg != ALGORITHM {
        return Err(JwsError::Algorithm);
    }
    if header.typ != typ {
        return Err(JwsError::Type);
    }
    if header.kid != key_id {
        return Err(JwsError::Key { named: header.kid, given: key_id.to_owned() });
    }
    Ok(())
}
