//! The two halves of a key: the private half signs, the public half verifies.

use std::fmt;

use base64::{
    alphabet,
    engine::{DecodePaddingMode, Engine as _, GeneralPurpose, GeneralPurposeConfig},
    prelude::BASE64_URL_SAFE_NO_PAD,
};
use ed25519_dalek::{SIGNATURE_LENGTH, Signature, Signer as _, SigningKey, VerifyingKey};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::{JwsError, check_header, header};

/// Signs payloads of one type.
pub struct Signer {
    key: SigningKey,
    /// The first part of everything that is signed, with its dot.
    header: String,
}

impl Signer {
    /// The signer of a secret seed (the private key of RFC 8032), for payloads of one `typ`.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32], typ: &str) -> Self {
        let key = SigningKey::from_bytes(seed);
        let public = PublicKey(key.verifying_key());
        Self { header: format!("{}.", header(typ, &public.id())), key }
    }

    /// The key that verifies what is signed here.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        PublicKey(self.key.verifying_key())
    }

    /// The payload, signed. The same payload always makes the same text.
    #[must_use]
    pub fn sign(&self, payload: &[u8]) -> String {
        let mut text = self.header.clone();
        BASE64_URL_SAFE_NO_PAD.encode_string(payload, &mut text);
        let signature = self.key.sign(text.as_bytes());
        text.push('.');
        BASE64_URL_SAFE_NO_PAD.encode_string(signature.to_bytes(), &mut text);
        text
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.public_key().id())
    }
}

/// The public half of a key, which verifies signatures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

/// Why a text is not a public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum KeyError {
    /// Neither a JSON Web Key nor 32 bytes in base64.
    #[error("must be a JSON Web Key, or 32 bytes in base64")]
    Form,
    /// A JSON Web Key of another kind.
    #[error("must be a JSON Web Key of `kty` OKP and `crv` Ed25519")]
    Kind,
    /// Not a point of the curve, or a weak one, for which forged signatures verify.
    #[error("is not an Ed25519 public key")]
    Point,
}

/// Members that are not known are ignored, as RFC 7517 asks.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    crv: String,
    x: String,
}

impl PublicKey {
    /// Takes the 32 bytes of RFC 8032.
    ///
    /// # Errors
    /// [`KeyError::Form`] or [`KeyError::Point`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        let bytes = bytes.try_into().map_err(|_| KeyError::Form)?;
        let key = VerifyingKey::from_bytes(bytes).map_err(|_| KeyError::Point)?;
        if key.is_weak() { Err(KeyError::Point) } else { Ok(Self(key)) }
    }

    /// Takes a JSON Web Key, or the 32 bytes in base64 of either alphabet.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let text = text.trim();
        if !text.starts_with('{') {
            return Self::from_bytes(&any_base64(text)?);
        }
        let jwk: Jwk = serde_json::from_str(text).map_err(|_| KeyError::Form)?;
        if jwk.kty != "OKP" || jwk.crv != "Ed25519" {
            return Err(KeyError::Kind);
        }
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(jwk.x).map_err(|_| KeyError::Form)?;
        Self::from_bytes(&bytes)
    }

    /// The 32 bytes of RFC 8032.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// Identifier: the JSON Web Key's thumbprint (RFC 7638) with SHA-256, in base64.
    #[must_use]
    pub fn id(&self) -> String {
        // Exactly the required members, in the order of their names (RFC 8037, appendix A.3).
        let members = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, self.x());
        BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(members))
    }

    /// The JSON Web Key (RFC 8037).
    #[must_use]
    pub fn to_jwk(&self) -> String {
        let (x, id) = (self.x(), self.id());
        format!(
            r#"{{"kty":"OKP","crv":"Ed25519","x":"{x}","kid":"{id}","use":"sig","alg":"EdDSA"}}"#
        )
    }

    fn x(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.0.as_bytes())
    }

    /// The payload of a text of at most `bytes_max` that is signed as `typ` with this key's other
    /// half. Nothing in the payload is looked at before its signature is.
    ///
    /// # Errors
    /// See [`JwsError`].
    pub fn open(&self, text: &str, typ: &str, bytes_max: usize) -> Result<Vec<u8>, JwsError> {
        if text.len() > bytes_max {
            return Err(JwsError::Malformed("it is too long"));
        }
        let three_parts = JwsError::Malformed("it is not three parts with dots between them");
        let (signed, signature) = text.rsplit_once('.').ok_or(three_parts.clone())?;
        let (header, payload) = signed.split_once('.').ok_or(three_parts)?;
        check_header(header, typ, &self.id())?;
        // Strict: no signature by a key of small order, and none that is written in a second way.
        self.0
            .verify_strict(signed.as_bytes(), &decode_signature(signature)?)
            .map_err(|_| JwsError::Signature)?;
        let payload = BASE64_URL_SAFE_NO_PAD.decode(payload);
        payload.map_err(|_| JwsError::Malformed("its payload"))
    }
}

fn decode_signature(text: &str) -> Result<Signature, JwsError> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok();
    let bytes: Option<[u8; SIGNATURE_LENGTH]> = bytes.and_then(|bytes| bytes.try_into().ok());
    bytes.map(|bytes| Signature::from_bytes(&bytes)).ok_or(JwsError::Malformed("its signature"))
}

/// Keys come from elsewhere, and tools write them as they like.
fn any_base64(text: &str) -> Result<Vec<u8>, KeyError> {
    let lenient =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let standard = text.replace('-', "+").replace('_', "/");
    GeneralPurpose::new(&alphabet::STANDARD, lenient).decode(standard).map_err(|_| KeyError::Form)
}
