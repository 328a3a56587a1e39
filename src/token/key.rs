//! The two halves of the key: who has the one signs, who has the other verifies.

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

use super::{Statement, TOKEN_BYTES_MAX, TokenError, claims};
use crate::domain::Millis;

/// Signs statements.
pub struct Signer {
    key: SigningKey,
    /// The first part of every token, with its dot.
    header: String,
}

impl Signer {
    /// The signer of a secret seed (the private key of RFC 8032).
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let key = SigningKey::from_bytes(seed);
        let public = PublicKey(key.verifying_key());
        Self { header: format!("{}.", claims::header(&public.id())), key }
    }

    /// The key that verifies what is signed here.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        PublicKey(self.key.verifying_key())
    }

    /// The token of a statement. The same statement always makes the same token.
    #[must_use]
    pub fn sign(&self, statement: &Statement) -> String {
        let mut token = self.header.clone();
        token.push_str(&claims::claims(statement));
        let signature = self.key.sign(token.as_bytes());
        token.push('.');
        BASE64_URL_SAFE_NO_PAD.encode_string(signature.to_bytes(), &mut token);
        token
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.public_key().id())
    }
}

/// Verifies tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

/// Why a text is no public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum KeyError {
    /// Neither a JSON Web Key nor 32 bytes in base64.
    #[error("must be a JSON Web Key, or 32 bytes in base64")]
    Form,
    /// A JSON Web Key of another kind.
    #[error("must be a JSON Web Key of `kty` OKP and `crv` Ed25519")]
    Kind,
    /// No point of the curve, or one under which anything verifies.
    #[error("is no Ed25519 public key")]
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

    /// What a token states, if it is signed with this key's other half, good at `now`, and, where
    /// one is given, about this data subject.
    ///
    /// # Errors
    /// See [`TokenError`]. Nothing that the token states is looked at before its signature is.
    pub fn verify(
        &self,
        token: &str,
        subject: Option<&str>,
        now: Millis,
    ) -> Result<Statement, TokenError> {
        let statement = claims::statement(self.signed_claims(token)?)?;
        statement.check(subject, now)?;
        Ok(statement)
    }

    /// The claims of a token whose signature is good.
    fn signed_claims<'a>(&self, token: &'a str) -> Result<&'a str, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Malformed("it is too long"));
        }
        let three_parts = TokenError::Malformed("it is not three parts with dots between them");
        let (signed, signature) = token.rsplit_once('.').ok_or(three_parts.clone())?;
        let (header, claims) = signed.split_once('.').ok_or(three_parts)?;
        claims::check_header(header, &self.id())?;
        // Strict: no signature by a key of small order, and none that is written in a second way.
        self.0
            .verify_strict(signed.as_bytes(), &decode_signature(signature)?)
            .map_err(|_| TokenError::Signature)?;
        Ok(claims)
    }
}

fn decode_signature(text: &str) -> Result<Signature, TokenError> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok();
    let bytes: Option<[u8; SIGNATURE_LENGTH]> = bytes.and_then(|bytes| bytes.try_into().ok());
    bytes.map(|bytes| Signature::from_bytes(&bytes)).ok_or(TokenError::Malformed("its signature"))
}

/// Keys come from elsewhere, and tools write them as they like.
fn any_base64(text: &str) -> Result<Vec<u8>, KeyError> {
    let lenient =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let standard = text.replace('-', "+").replace('_', "/");
    GeneralPurpose::new(&alphabet::STANDARD, lenient).decode(standard).map_err(|_| KeyError::Form)
}
