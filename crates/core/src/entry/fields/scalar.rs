//! Durations, moments and enums, as messages and back.

use crate::{
    domain::{
        Action, Actor, EventKind, LegalBasis, LinkConfidence, Millis, PartyRole, Reason, Snapshot,
    },
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

/// Maps the variants of a domain enum to those of the protocol's enum of that name, and back, and
/// gives it the protocol's names. UNSPECIFIED maps to an error.
macro_rules! same_variants {
    ($name:ident, $($variant:ident),+) => {
        impl From<$name> for proto::$name {
            fn from(value: $name) -> Self {
                match value { $($name::$variant => Self::$variant,)+ }
            }
        }
        impl TryFrom<proto::$name> for $name {
            type Error = ();
            fn try_from(value: proto::$name) -> Result<Self, ()> {
                match value {
                    proto::$name::Unspecified => Err(()),
                    $(proto::$name::$variant => Ok(Self::$variant),)+
                }
            }
        }
        impl $name {
            /// Its name in the protocol, without the prefix.
            #[must_use]
            pub fn name(self) -> &'static str {
                let unspecified = proto::$name::Unspecified.as_str_name();
                without_prefix(proto::$name::from(self).as_str_name(), unspecified)
            }
        }
    };
}

/// The name of a variant without the prefix of its enum, which `UNSPECIFIED` shows.
pub(super) fn without_prefix(name: &'static str, unspecified: &str) -> &'static str {
    let prefix = unspecified.strip_suffix("UNSPECIFIED").unwrap_or_default();
    name.strip_prefix(prefix).unwrap_or(name)
}

same_variants!(Actor, Subject, Guardian, Agent, Operator, System, Import);
same_variants!(Action, Grant, Refuse, Withdraw, Object, Expire);
same_variants!(
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
same_variants!(LinkConfidence, Verified, Asserted);
same_variants!(Snapshot, Denied, All);
same_variants!(PartyRole, Controller, Recipient);
same_variants!(
    Reason,
    UnknownNamespace,
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
