//! Decision tokens: a decision as a signed statement that travels with the data. The ledger's public
//! key is enough to verify it offline.
//!
//! A token is a JSON Web Token (RFC 7519) in compact form, signed with Ed25519 (RFC 8037), so common
//! libraries read it. Header and claims of one, in their order:
//!
//! ```json
//! {"alg":"EdDSA","typ":"consent-decision+jwt","kid":"kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"}
//! {"iss":"consent.example.org/eu","iat":1793000000,"exp":1793000900,
//!  "sub":"sha256:6KD-yEM5te84S0wWj30PPfn5D0C5PIBUBauW6Ws2v2g","salt":"AAECAwQFBgcICQoLDA0ODw",
//!  "purpose":"marketing.newsletter","channel":"email","region":"DE","effect":"ALLOW",
//!  "reason":"GRANTED","grounds":"AAECAwQFBgcICQoLDA0OD…"}
//! ```
//!
//! Limits and invariants:
//!
//! * **It is the decision of one moment.** A withdrawal after `iat` does not change a token. A short
//!   lifetime limits that gap.
//! * **It never outlives the decision.** `exp` is rounded down to whole seconds, so a decision that
//!   changes within its first second gives a token that has expired when it is issued (`exp` equals
//!   `iat`). It is issued all the same: it still proves the decision.
//! * **It does not name the data subject, and is personal data nevertheless.** `sub` is a hash over
//!   a fresh salt and the subject, so tokens of one subject can not be joined. Anybody who knows the
//!   subject can confirm it. The salt is in the token, so trying all identifiers finds the subject.
//! * **It does not contain obligations,** only whether there are some (`has_obligations`). While they are
//!   not met, `effect` is `NOT_NOW`. An ALLOW ends before quiet hours begin. Like a withdrawal, a use that
//!   uses a limit up after `iat` does not change a token.
//!
//! * **It does not name the entry that decided,** nor a time that leads to it: the validity of a grant and
//!   the period of a limit are public. `grounds` is for the ledger alone, and bound to the other claims.
//!
//! This module knows no clock, no random numbers, no keys at rest and no protocol.

mod claims;

use std::time::Duration;

use sha2::{Digest, Sha256};
use thiserror::Error;

pub use crate::jws::{KeyError, PublicKey};
use crate::{
    domain::{Effect, Millis, Reason, Region, covers_category, spells},
    jws::{self, JwsError},
};

/// Explicit type, so that no other JSON Web Token passes for one (RFC 8725, section 3.11).
const TYPE: &str = "consent-decision+jwt";

/// The longest token that is read, in bytes. The largest that is issued, with 100 data categories, has
/// about 18,000.
pub const TOKEN_BYTES_MAX: usize = 32 * 1_024;
/// How far the verifier's clock may be behind the ledger's. There is no tolerance for a clock that is
/// ahead.
pub const CLOCK_SKEW_S_MAX: i64 = 60;

/// What a token states.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// The ledger that answered: its origin (`iss`).
    pub issuer: String,
    /// When it is valid (`iat`, `exp`).
    pub lifetime: Lifetime,
    /// The data subject (`sub`, `salt`).
    pub subject: SubjectHash,
    /// Purpose key.
    pub purpose: String,
    /// Channel key.
    pub channel: String,
    /// The data subject's region, if the question named one.
    pub region: Option<Region>,
    /// The data categories that the answer is about: those of the question, else those that the
    /// grant was narrowed to. Empty: those that the granted version declares, which the ledger knows.
    pub data_categories: Vec<String>,
    /// What a check answered: ALLOW means now, and until the token ends.
    pub effect: Effect,
    /// Why.
    pub reason: Reason,
    /// The entry that decided and the revision, which the ledger alone can read (`grounds`,
    /// [`crate::format::token`]).
    pub grounds: String,
    /// Whether the answer comes with obligations; a check returns them.
    pub has_obligations: bool,
    /// Whether it is ALLOW only because the question ignored obligations.
    pub obligations_ignored: bool,
}

impl Statement {
    /// Its claims without `grounds`, to which the value of that is bound.
    #[must_use]
    pub fn ungrounded(&self) -> Vec<u8> {
        claims::claims(&Self { grounds: String::new(), ..self.clone() })
    }
}

/// Signs statements.
#[derive(Debug)]
pub struct Signer(jws::Signer);

impl Signer {
    /// The signer of a secret seed (the private key of RFC 8032).
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(jws::Signer::from_seed(seed, TYPE))
    }

    /// The key that verifies what is signed here.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.0.public_key()
    }

    /// The token of a statement. The same statement always makes the same token.
    #[must_use]
    pub fn sign(&self, statement: &Statement) -> String {
        self.0.sign(&claims::claims(statement))
    }
}

/// What a token must be about. A demand that the token does not answer is not met.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Demand<'a> {
    /// This data subject, in any spelling that [`spells`] knows.
    pub subject: Option<&'a str>,
    /// This purpose.
    pub purpose: Option<&'a str>,
    /// This channel.
    pub channel: Option<&'a str>,
    /// This region, exactly: the law of `DE` may give another answer than that of `DE-BY`. A token for no
    /// region was answered by the law that holds where no region is known, so it is about no region.
    pub region: Option<Region>,
    /// All of these data categories: each is a category of the token, or below one. A token without
    /// categories is about those that the granted version declares, which only the ledger knows.
    pub data_categories: &'a [&'a str],
}

/// Verifies a token: signed with the private half of `key`, valid at `now`, and about what is demanded.
/// Returns the statement.
///
/// # Errors
/// See [`TokenError`]. The signature is verified before anything else is read.
pub fn verify(
    token: &str,
    key: &PublicKey,
    demand: &Demand<'_>,
    now: Millis,
) -> Result<Statement, TokenError> {
    let statement = claims::statement(&key.open(token, TYPE, TOKEN_BYTES_MAX)?)?;
    demand.check(&statement)?;
    statement.lifetime.check(now)?;
    Ok(statement)
}

impl Demand<'_> {
    fn check(&self, statement: &Statement) -> Result<(), TokenError> {
        let is_about = |text| spells(text, |form| statement.subject.is_of(form));
        if !self.subject.is_none_or(is_about) {
            return Err(TokenError::Subject);
        }
        if self.purpose.is_some_and(|purpose| purpose != statement.purpose) {
            return Err(TokenError::Purpose { found: statement.purpose.clone() });
        }
        if self.channel.is_some_and(|channel| channel != statement.channel) {
            return Err(TokenError::Channel { found: statement.channel.clone() });
        }
        if self.region.is_some() && self.region != statement.region {
            return Err(TokenError::Region { found: statement.region });
        }
        let is_covered = |demanded: &&str| {
            statement.data_categories.iter().any(|category| covers_category(category, demanded))
        };
        match self.data_categories.iter().find(|demanded| !is_covered(demanded)) {
            Some(missing) => Err(TokenError::DataCategory { missing: (*missing).to_owned() }),
            None => Ok(()),
        }
    }
}

/// When a token is valid, in seconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// The second of the decision.
    pub issued_at_s: i64,
    /// The first second at which the token is no longer valid.
    pub expires_at_s: i64,
}

impl Lifetime {
    /// The lifetime of a token for a decision: at most `validity`, and never longer than the
    /// decision itself.
    #[must_use]
    pub fn new(decided_at: Millis, valid_until: Option<Millis>, validity: Duration) -> Self {
        let issued_at_s = decided_at.0.div_euclid(1_000);
        let validity_s = i64::try_from(validity.as_secs()).unwrap_or(i64::MAX);
        let longest = issued_at_s.saturating_add(validity_s);
        let decision = valid_until.map_or(i64::MAX, |end| end.0.div_euclid(1_000));
        Self { issued_at_s, expires_at_s: longest.min(decision).max(issued_at_s) }
    }

    fn check(self, now: Millis) -> Result<(), TokenError> {
        let now_s = now.0.div_euclid(1_000);
        if now_s.saturating_add(CLOCK_SKEW_S_MAX) < self.issued_at_s {
            return Err(TokenError::NotYetValid { from: seconds(self.issued_at_s) });
        }
        // RFC 7519, section 4.1.4: "on or after" which it must not be accepted.
        if now_s >= self.expires_at_s {
            return Err(TokenError::Expired { since: seconds(self.expires_at_s) });
        }
        Ok(())
    }
}

fn seconds(seconds: i64) -> Millis {
    Millis(seconds.saturating_mul(1_000))
}

/// A data subject as tokens name them: `SHA-256(salt ‖ subject)`, and the salt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubjectHash {
    salt: [u8; 16],
    hash: [u8; 32],
}

impl SubjectHash {
    /// Of a data subject, `namespace:id`. The salt must be random, and of this token alone.
    #[must_use]
    pub fn new(subject: &str, salt: [u8; 16]) -> Self {
        let hash = Sha256::new().chain_update(salt).chain_update(subject).finalize();
        Self { salt, hash: hash.into() }
    }

    /// Whether it is of this data subject.
    #[must_use]
    pub fn is_of(&self, subject: &str) -> bool {
        *self == Self::new(subject, self.salt)
    }
}

/// Why a token is not valid.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TokenError {
    /// It is not signed with the ledger's key, or not as a decision token.
    #[error("the token is not signed as it must be: {0}")]
    Jws(#[from] JwsError),
    /// Its claims are not those of a decision token.
    #[error("the token is malformed: {0}")]
    Claims(&'static str),
    /// It is about another data subject.
    #[error("the token is about another data subject")]
    Subject,
    /// It is about another purpose.
    #[error("the token is about another purpose, `{found}`")]
    Purpose {
        /// The purpose.
        found: String,
    },
    /// It is about another channel.
    #[error("the token is about another channel, `{found}`")]
    Channel {
        /// The channel.
        found: String,
    },
    /// It is about another region, or about none.
    #[error("the token is about {}", match found {
        Some(region) => format!("another region, `{region}`"),
        None => "no region: the check that it answers named none".to_owned(),
    })]
    Region {
        /// The region; none if the check named none.
        found: Option<Region>,
    },
    /// It is not about a data category.
    #[error("the token is not about the data category `{missing}`")]
    DataCategory {
        /// The category.
        missing: String,
    },
    /// It was issued in the future.
    #[error("the token is not valid yet")]
    NotYetValid {
        /// When it was issued.
        from: Millis,
    },
    /// It has expired.
    #[error("the token has expired")]
    Expired {
        /// When it ended.
        since: Millis,
    },
}

impl TokenError {
    /// Name for programs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Jws(error) => error.name(),
            Self::Claims(_) => "MALFORMED",
            Self::Subject => "WRONG_SUBJECT",
            Self::Purpose { .. } => "WRONG_PURPOSE",
            Self::Channel { .. } => "WRONG_CHANNEL",
            Self::Region { .. } => "WRONG_REGION",
            Self::DataCategory { .. } => "WRONG_DATA_CATEGORY",
            Self::NotYetValid { .. } => "NOT_YET_VALID",
            Self::Expired { .. } => "EXPIRED",
        }
    }
}

#[cfg(test)]
mod tests;
