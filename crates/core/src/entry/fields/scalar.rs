//! Numbers, moments and names of things, as messages and back.

use crate::{
    domain::{Action, Actor, EventKind, LegalBasis, LinkConfidence, Millis, Reason},
    proto,
};

/// A span of milliseconds as a message.
#[must_use]
pub fn duration(span_ms: i64) -> prost_types::Duration {
    let nanos = i32::try_from(span_ms % 1_000).map_or(0, |ms| ms * 1_000_000);
    prost_types::Duration { seconds: span_ms / 1_000, nanos }
}

/// A moment as a message.
#[must_use]
pub fn timestamp(at: Millis) -> prost_types::Timestamp {
    let nanos = i32::try_from(at.0.rem_euclid(1_000) * 1_000_000).unwrap_or_default();
    prost_types::Timestamp { seconds: at.0.div_euclid(1_000), nanos }
}

/// The moment of a message, cut off to the millisecond; none if it overflows.
#[must_use]
pub fn timestamp_ms(timestamp: &prost_types::Timestamp) -> Option<Millis> {
    let millis = i64::from(timestamp.nanos.div_euclid(1_000_000));
    timestamp.seconds.checked_mul(1_000)?.checked_add(millis).map(Millis)
}

/// The milliseconds of a duration; none if they overflow or are no whole number.
#[must_use]
pub fn duration_ms(duration: &prost_types::Duration) -> Option<i64> {
    let nanos = i64::from(duration.nanos);
    if nanos % 1_000_000 != 0 {
        return None;
    }
    duration.seconds.checked_mul(1_000)?.checked_add(nanos / 1_000_000)
}

/// Maps the variants of a domain enum to those of its message, and back. UNSPECIFIED maps to an
/// error.
macro_rules! same_variants {
    ($domain:ident, $proto:ident, $($variant:ident),+) => {
        impl From<$domain> for proto::$proto {
            fn from(value: $domain) -> Self {
                match value { $($domain::$variant => Self::$variant,)+ }
            }
        }
        impl TryFrom<proto::$proto> for $domain {
            type Error = ();
            fn try_from(value: proto::$proto) -> Result<Self, ()> {
                match value {
                    proto::$proto::Unspecified => Err(()),
                    $(proto::$proto::$variant => Ok(Self::$variant),)+
                }
            }
        }
    };
}

same_variants!(Actor, Actor, Subject, Guardian, Agent, Operator, System, Import);
same_variants!(Action, Action, Grant, Refuse, Withdraw, Object, Expire);
same_variants!(
    EventKind,
    EventKind,
    Grant,
    Refuse,
    Withdraw,
    Object,
    Expire,
    Link,
    Catalog,
    Preferences,
    Overdue
);
same_variants!(LinkConfidence, LinkConfidence, Verified, Asserted);
same_variants!(
    Reason,
    Reason,
    UnknownPurpose,
    UnknownChannel,
    PurposeRetired,
    NotConsentBased,
    Erased,
    Refused,
    Withdrawn,
    Revoked,
    Objected,
    NoObjection,
    NoRecord,
    PendingConfirmation,
    Expired,
    ReconsentRequired,
    DataCategoryNotCovered,
    Granted
);
same_variants!(
    LegalBasis,
    LegalBasis,
    Consent,
    Contract,
    LegalObligation,
    VitalInterest,
    PublicTask,
    LegitimateInterest
);

#[cfg(test)]
pub(in crate::entry) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in crate::entry) fn any_actor() -> impl Strategy<Value = Actor> {
        use Actor::{Agent, Guardian, Import, Operator, Subject, System};
        prop::sample::select(vec![Subject, Guardian, Agent, Operator, System, Import])
    }
}
