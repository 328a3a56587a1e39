//! JSON Web Signatures (RFC 7515) in compact form, with Ed25519 (RFC 8037) and nothing else: what
//! decision tokens and receipts have in common.
//!
//! The header has three members, in this order, and one that has others is refused: nothing in it
//! may change how it is verified (`crit`), or with what (`jwk`, `jku`, `x5c`). This module knows
//! nothing of what is signed.

mod key;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
pub use key::{KeyError, PublicKey, Signer};
use serde::{Deserialize, Serialize};
use thiserror::Error;

const ALGORITHM: &str = "EdDSA";

/// Why a text is no signature of a payload.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum JwsError {
    /// Not by its form.
    #[error("{0}")]
    Malformed(&'static str),
    /// Signed in another way, or not at all.
    #[error("its `alg` is not EdDSA")]
    Algorithm,
    /// A signature of something else.
    #[error("its `typ` says that it is something else")]
    Type,
    /// Signed, it says, with another key.
    #[error("it names another key, `{named}`; the one given is `{given}`")]
    Key {
        /// The key that it names.
        named: String,
        /// The key that it was to be verified with.
        given: String,
    },
    /// It is not what was signed.
    #[error("its signature is not by this key")]
    Signature,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    typ: String,
    kid: String,
}

/// The header of what is signed as one type with a key, encoded.
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
