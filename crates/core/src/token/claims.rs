//! Claims as JSON. Fields are written in the order of the structs, so that the same
//! statement always makes the same bytes.

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use serde::{Deserialize, Serialize};

use super::{Lifetime, Statement, SubjectHash, TokenError};
use crate::domain::{Effect, Reason, Region};

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
    #[serde(default, skip_serializing_if = "String::is_empty")]
    grounds: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    has_obligations: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    obligations_ignored: bool,
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
        effect: statement.effect.name().to_owned(),
        reason: statement.reason.name().to_owned(),
        grounds: statement.grounds.clone(),
        has_obligations: statement.has_obligations,
        obligations_ignored: statement.obligations_ignored,
    };
    serde_json::to_vec(&claims).expect("texts and numbers always have a JSON form")
}

/// Reads the statement from claims. The caller has verified the signature.
pub(super) fn statement(json: &[u8]) -> Result<Statement, TokenError> {
    let claims = serde_json::from_slice(json);
    let claims: Claims = claims.map_err(|_| TokenError::Claims("its claims"))?;
    let reason = Reason::ALL.into_iter().find(|reason| reason.name() == claims.reason);
    let reason = reason.ok_or(TokenError::Claims("its `reason` is not known"))?;
    let effect = effect(&claims.effect, reason)
        .ok_or(TokenError::Claims("its `effect` is not one of its `reason`"))?;
    let region = claims.region.as_deref().map(Region::parse).transpose();
    Ok(Statement {
        issuer: claims.iss,
        lifetime: Lifetime { issued_at_s: claims.iat, expires_at_s: claims.exp },
        subject: subject(&claims.sub, &claims.salt).ok_or(TokenError::Claims("its `sub`"))?,
        purpose: claims.purpose,
        channel: claims.channel,
        region: region.map_err(|_| TokenError::Claims("its `region`"))?,
        data_categories: claims.data_categories,
        effect,
        reason,
        grounds: claims.grounds,
        has_obligations: claims.has_obligations,
        obligations_ignored: claims.obligations_ignored,
    })
}

/// The effect of this name, if the reason can have it: obligations make NOT_NOW of an ALLOW.
fn effect(name: &str, reason: Reason) -> Option<Effect> {
    let decided = reason.effect();
    let later = (decided == Effect::Allow).then_some(Effect::NotNow);
    [decided].into_iter().chain(later).find(|effect| effect.name() == name)
}

fn subject(sub: &str, salt: &str) -> Option<SubjectHash> {
    let hash = BASE64_URL_SAFE_NO_PAD.decode(sub.strip_prefix(SUBJECT_PREFIX)?).ok()?;
    let salt = BASE64_URL_SAFE_NO_PAD.decode(salt).ok()?;
    Some(SubjectHash { salt: salt.try_into().ok()?, hash: hash.try_into().ok()? })
}
