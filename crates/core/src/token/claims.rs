//! Claims as JSON. Fields are written in the order of the structs, so that the same
//! statement always makes the same bytes.

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use serde::{Deserialize, Serialize};

use super::{Lifetime, Statement, SubjectHash, TokenError};
use crate::domain::{Millis, Reason, Region};

/// Names the hash algorithm of `sub`, so that another can follow.
const SUBJECT_PREFIX: &str = "sha256:";

/// Claims that are not known are ignored, as RFC 7519 asks; one that comes twice is refused.
#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    iat: i64,
    exp: i64,
    sub: String,
    salt: String,
    purpose: String,
    channel: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    region: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    data_categories: Vec<String>,
    effect: String,
    reason: String,
    revision: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    decided_by_index: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    valid_until_ms: Option<i64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    has_obligations: bool,
}

/// The claims of a statement.
pub(super) fn claims(statement: &Statement) -> Vec<u8> {
    let base64 = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let claims = Claims {
        iss: statement.issuer.clone(),
        iat: statement.lifetime.issued_at_s,
        exp: statement.lifetime.expires_at_s,
        sub: format!("{SUBJECT_PREFIX}{}", base64(&statement.subject.hash)),
        salt: base64(&statement.subject.salt),
        purpose: statement.purpose.clone(),
        channel: statement.channel.clone(),
        region: statement.region.map(|region| region.as_str().to_owned()),
        data_categories: statement.data_categories.clone(),
        effect: statement.effect().name().to_owned(),
        reason: statement.reason.name().to_owned(),
        revision: statement.revision,
        decided_by_index: statement.decided_by,
        valid_until_ms: statement.valid_until.map(|end| end.0),
        has_obligations: statement.has_obligations,
    };
    serde_json::to_vec(&claims).expect("texts and numbers always have a JSON form")
}

/// Reads the statement from claims. The caller has verified the signature.
pub(super) fn statement(json: &[u8]) -> Result<Statement, TokenError> {
    let claims = serde_json::from_slice(json);
    let claims: Claims = claims.map_err(|_| TokenError::Claims("its claims"))?;
    let reason = Reason::ALL.into_iter().find(|reason| reason.name() == claims.reason);
    let reason = reason.ok_or(TokenError::Claims("its `reason` is not known"))?;
    if claims.effect != reason.effect().name() {
        return Err(TokenError::Claims("its `effect` is not that of its `reason`"));
    }
    let region = claims.region.as_deref().map(Region::parse).transpose();
    Ok(Statement {
        issuer: claims.iss,
        lifetime: Lifetime { issued_at_s: claims.iat, expires_at_s: claims.exp },
        subject: subject(&claims.sub, &claims.salt).ok_or(TokenError::Claims("its `sub`"))?,
        purpose: claims.purpose,
        channel: claims.channel,
        region: region.map_err(|_| TokenError::Claims("its `region`"))?,
        data_categories: claims.data_categories,
        reason,
        revision: claims.revision,
        decided_by: claims.decided_by_index,
        valid_until: claims.valid_until_ms.map(Millis),
        has_obligations: claims.has_obligations,
    })
}

fn subject(sub: &str, salt: &str) -> Option<SubjectHash> {
    let hash = BASE64_URL_SAFE_NO_PAD.decode(sub.strip_prefix(SUBJECT_PREFIX)?).ok()?;
    let salt = BASE64_URL_SAFE_NO_PAD.decode(salt).ok()?;
    Some(SubjectHash { salt: salt.try_into().ok()?, hash: hash.try_into().ok()? })
}
