//! The question and the answer.

use std::sync::Arc;

use super::{
    catalog::{Catalog, ChannelId, LegalBasis, Obligation, PurposeId},
    region::Region,
    time::Millis,
};

/// "May I use this person's data for this purpose, over this channel?"
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// The purpose, if the catalogue has it.
    pub purpose: Option<PurposeId>,
    /// The channel, if the catalogue has it.
    pub channel: Option<ChannelId>,
    /// The data categories that the caller wants to use; empty means that none is asked about.
    pub data_categories: &'a [String],
    /// Where the data subject is; it chooses the legal basis.
    pub region: Option<Region>,
}

impl<'a> Query<'a> {
    /// Resolves the keys. A query may have keys that the catalogue lacks; its decision is DENY.
    #[must_use]
    pub fn new(
        catalog: &Catalog,
        purpose: &str,
        channel: &str,
        data_categories: &'a [String],
        region: Option<Region>,
    ) -> Self {
        Self {
            purpose: catalog.purpose_id(purpose),
            channel: catalog.channel_id(channel),
            data_categories,
            region,
        }
    }
}

/// The answer's direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// The use is allowed.
    Allow,
    /// The use is not allowed.
    Deny,
    /// The use is allowed, but an obligation does not let it happen at this moment. The rules never
    /// say so; [`DueAll::effect`](crate::obligations::DueAll::effect) does.
    NotNow,
}

impl Effect {
    /// Name as the protocol has it, without the prefix.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Allow => "ALLOW",
            Self::Deny => "DENY",
            Self::NotNow => "NOT_NOW",
        }
    }
}

/// Why. In the order in which the rules are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The namespace of the data subject is not in the catalogue.
    UnknownNamespace,
    /// The purpose is not in the catalogue.
    UnknownPurpose,
    /// The channel is not in the catalogue, or retired.
    UnknownChannel,
    /// The purpose is retired.
    PurposeRetired,
    /// The legal basis asks for no consent, and no stop touches it.
    NotConsentBased,
    /// The subject is erased or under erasure.
    Erased,
    /// A refusal covers the cell.
    Refused,
    /// A withdrawal by the subject covers the cell.
    Withdrawn,
    /// A withdrawal by another covers the cell.
    Revoked,
    /// An objection covers the cell.
    Objected,
    /// Legitimate interest, and nobody objected.
    NoObjection,
    /// No grant for the cell.
    NoRecord,
    /// The grant waits for its double opt-in.
    PendingConfirmation,
    /// The grant is past its expiry.
    Expired,
    /// The granted version no longer counts.
    ReconsentRequired,
    /// A data category is outside the granted version or the grant.
    DataCategoryNotCovered,
    /// Consent is given.
    Granted,
}

impl Reason {
    /// Every reason, in the order of the enum.
    pub const ALL: [Self; 17] = [
        Self::UnknownNamespace,
        Self::UnknownPurpose,
        Self::UnknownChannel,
        Self::PurposeRetired,
        Self::NotConsentBased,
        Self::Erased,
        Self::Refused,
        Self::Withdrawn,
        Self::Revoked,
        Self::Objected,
        Self::NoObjection,
        Self::NoRecord,
        Self::PendingConfirmation,
        Self::Expired,
        Self::ReconsentRequired,
        Self::DataCategoryNotCovered,
        Self::Granted,
    ];

    /// The effect that the rules give with the reason: ALLOW or DENY.
    #[must_use]
    pub fn effect(self) -> Effect {
        match self {
            Self::NotConsentBased | Self::NoObjection | Self::Granted => Effect::Allow,
            _ => Effect::Deny,
        }
    }
}

/// Consent status of a cell, with the names of W3C DPV.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// Nothing is known.
    Unknown,
    /// Requested; the double opt-in is pending.
    Requested,
    /// Asked and refused.
    Refused,
    /// Given.
    Given,
    /// Withdrawn by the subject.
    Withdrawn,
    /// Withdrawn by another.
    Revoked,
    /// Given, and past its expiry.
    Expired,
    /// Given under a version that no longer counts.
    Invalidated,
    /// Objected to.
    Objected,
}

/// The answer, with everything that explains it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Why; the effect follows from it.
    pub reason: Reason,
    /// Consent status of the cell.
    pub status: Status,
    /// Index of the entry that decided, if one did.
    pub decided_by: Option<u64>,
    /// First moment at which the decision could change with no new entry.
    pub valid_until: Option<Millis>,
    /// The purpose's conditions that come with an ALLOW.
    pub obligations: Vec<Obligation>,
    /// The legal basis that was applied, if purpose and channel are known.
    pub legal_basis: Option<LegalBasis>,
    /// For a grant that counts and was narrowed: the data categories that it covers.
    pub data_categories: Option<Arc<[String]>>,
}

impl Decision {
    /// ALLOW or DENY. What a caller hears depends on the obligations too.
    #[must_use]
    pub fn effect(&self) -> Effect {
        self.reason.effect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_stand_in_the_order_of_the_enum() {
        for (position, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, position);
        }
    }
}
