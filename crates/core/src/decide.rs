//! The decision: may this person's data be used for this purpose, over this channel, now?
//!
//! [`decide`] is pure. It has no clock, log or metric and takes no lock: time and state are
//! arguments, and the same arguments always give the same answer, today or in an audit years later.
//! It allocates nothing but the purpose's obligations, with an ALLOW.
//!
//! The rules are in [`decide`] in the order in which they are tried; the first that matches
//! decides. The fold ([`SubjectState`]) has already picked the act that wins in a cell; the
//! decision applies time and catalogue to it.

use crate::domain::{
    Catalog, Channel, ChannelId, Decision, Effect, Grant, LegalBasis, Millis, Purpose, PurposeId,
    Query, Reason, Status, Stop, StopKind, SubjectState, covers_category,
};

/// Answers "may I?".
///
/// `valid_until` is the first moment at which effect or reason could change with no new entry.
/// `decided_by` is the entry that decided: an act, or an entry of the catalogue; none if the
/// decision follows from the absence of entries.
#[must_use]
pub fn decide(catalog: &Catalog, state: &SubjectState, query: &Query<'_>, now: Millis) -> Decision {
    let Some((purpose_id, purpose)) = purpose_of(catalog, query) else {
        return nothing_known(Reason::UnknownPurpose);
    };
    let Some((channel_id, channel)) = channel_of(catalog, query) else {
        return nothing_known(Reason::UnknownChannel);
    };
    let current = purpose.current();
    let basis = current.basis_in(query.region);
    let standing = Standing::of(state, purpose, purpose_id, channel_id, now);

    #[rustfmt::skip]
    let (reason, decided_by, valid_until) = match standing {
        _ if channel.retired => (Reason::UnknownChannel, None, None),
        _ if purpose.retired => (Reason::PurposeRetired, Some(purpose.index), None),
        // After a withdrawal from a purpose that rested on consent, no other basis may take its
        // place (EDPB Guidelines 05/2020, 122). An erasure stops such a purpose too.
        Standing::Stopped(stop) if purpose.ever_rested_on_consent(query.region) => {
            (stop_reason(stop.kind), Some(stop.mark.index), None)
        }
        Standing::Erased(index) if purpose.ever_rested_on_consent(query.region) => {
            (Reason::Erased, Some(index), None)
        }
        _ if !basis.can_be_stopped() => (Reason::NotConsentBased, Some(purpose.index), None),
        Standing::Erased(index) => (Reason::Erased, Some(index), None),
        Standing::Stopped(stop) => (stop_reason(stop.kind), Some(stop.mark.index), None),
        _ if basis == LegalBasis::LegitimateInterest => {
            (Reason::NoObjection, lifting_index(state, purpose_id, channel_id), None)
        }
        Standing::Nothing => (Reason::NoRecord, None, None),
        Standing::Pending(grant) => (Reason::PendingConfirmation, Some(grant.mark.index), None),
        Standing::Expired(grant) => (Reason::Expired, Some(grant.decided_by()), None),
        Standing::Outdated(grant) => {
            (Reason::ReconsentRequired, Some(purpose.oldest_compatible_index), grant.expires_at)
        }
        Standing::CameOfAge(grant) => {
            (Reason::ReconsentRequired, Some(grant.decided_by()), grant.expires_at)
        }
        Standing::Given(grant) if !covers(purpose, grant, query.data_categories) => {
            (Reason::DataCategoryNotCovered, Some(grant.decided_by()), grant.ends_at())
        }
        Standing::Given(grant) => (Reason::Granted, Some(grant.decided_by()), grant.ends_at()),
    };

    let obligations = match reason.effect() {
        Effect::Allow => current.obligations.clone(),
        Effect::Deny | Effect::NotNow => Vec::new(),
    };
    let data_categories = match standing {
        Standing::Given(grant) if reason == Reason::Granted => grant.data_categories.clone(),
        _ => None,
    };
    Decision {
        reason,
        status: standing.status(),
        decided_by,
        valid_until,
        obligations,
        legal_basis: Some(basis),
        data_categories,
    }
}

/// The standing of a cell at a moment, whatever the purpose's legal basis.
///
/// The winner is picked first and its expiry is tested after: an expired grant never revives an
/// older one. A request that waits for its double opt-in never takes the place of a confirmed
/// grant that counts; it does take the place of one that is past its expiry or outdated.
#[derive(Debug, Clone, Copy)]
pub enum Standing<'a> {
    /// The subject is erased or under erasure, since the entry at this index.
    Erased(u64),
    /// A live stop covers the cell.
    Stopped(&'a Stop),
    /// No grant names the cell.
    Nothing,
    /// The grant waits for its double opt-in.
    Pending(&'a Grant),
    /// The grant is past its expiry.
    Expired(&'a Grant),
    /// The grant's version of the purpose no longer counts.
    Outdated(&'a Grant),
    /// The grant is a guardian's, whose authority has ended.
    CameOfAge(&'a Grant),
    /// The grant counts.
    Given(&'a Grant),
}

impl<'a> Standing<'a> {
    /// The standing of a cell.
    #[must_use]
    pub fn of(
        state: &'a SubjectState,
        purpose: &Purpose,
        purpose_id: PurposeId,
        channel_id: ChannelId,
        now: Millis,
    ) -> Self {
        if let Some(index) = state.erased_by {
            return Self::Erased(index);
        }
        if let Some(stop) = state.live_stop(purpose_id, channel_id) {
            return Self::Stopped(stop);
        }
        let Some(cell) = state.cell(purpose_id, channel_id) else { return Self::Nothing };
        let pending = cell.pending.as_deref();
        let Some(grant) = &cell.grant else {
            return pending.map_or(Self::Nothing, Self::Pending);
        };
        let standing = if grant.has_expired(now) {
            Self::Expired(grant)
        } else if !counts(purpose, grant.purpose_version) {
            Self::Outdated(grant)
        } else if grant.authority_has_ended(now) {
            Self::CameOfAge(grant)
        } else {
            return Self::Given(grant);
        };
        match pending {
            Some(pending) if pending.mark > grant.mark => Self::Pending(pending),
            _ => standing,
        }
    }

    /// The status of the cell; unknown for an erased subject.
    fn status(self) -> Status {
        match self {
            Self::Erased(_) | Self::Nothing => Status::Unknown,
            Self::Stopped(stop) => stop_status(stop.kind),
            Self::Pending(_) => Status::Requested,
            Self::Expired(_) => Status::Expired,
            Self::Outdated(_) | Self::CameOfAge(_) => Status::Invalidated,
            Self::Given(_) => Status::Given,
        }
    }
}

fn purpose_of<'a>(catalog: &'a Catalog, query: &Query<'_>) -> Option<(PurposeId, &'a Purpose)> {
    let id = query.purpose?;
    Some((id, catalog.purpose(id)?))
}

fn channel_of<'a>(catalog: &'a Catalog, query: &Query<'_>) -> Option<(ChannelId, &'a Channel)> {
    let id = query.channel?;
    Some((id, catalog.channel(id)?))
}

/// The decision about a data subject whose namespace the catalogue lacks. It has no canonical form, so
/// that no state, and no stop, could be found by it. It is tried before every other rule.
#[must_use]
pub fn unknown_namespace() -> Decision {
    nothing_known(Reason::UnknownNamespace)
}

fn nothing_known(reason: Reason) -> Decision {
    Decision {
        reason,
        status: Status::Unknown,
        decided_by: None,
        valid_until: None,
        obligations: Vec::new(),
        legal_basis: None,
        data_categories: None,
    }
}

fn stop_reason(kind: StopKind) -> Reason {
    match kind {
        StopKind::Refused => Reason::Refused,
        StopKind::Withdrawn => Reason::Withdrawn,
        StopKind::Revoked => Reason::Revoked,
        StopKind::Objected => Reason::Objected,
    }
}

fn stop_status(kind: StopKind) -> Status {
    match kind {
        StopKind::Refused => Status::Refused,
        StopKind::Withdrawn => Status::Withdrawn,
        StopKind::Revoked => Status::Revoked,
        StopKind::Objected => Status::Objected,
    }
}

/// The grant that lifted the stops of a cell, if there were any to lift.
fn lifting_index(state: &SubjectState, purpose: PurposeId, channel: ChannelId) -> Option<u64> {
    state.latest_stop(purpose, channel)?;
    Some(state.cell(purpose, channel)?.lifted?.index)
}

/// Whether grants under a version still count. One that the catalogue lacks never does.
fn counts(purpose: &Purpose, version: u32) -> bool {
    (purpose.oldest_compatible..=purpose.version()).contains(&version)
}

/// Whether every category asked for is among those that the granted version declared and, if the
/// grant was narrowed, among those too.
fn covers(purpose: &Purpose, grant: &Grant, asked: &[String]) -> bool {
    if asked.is_empty() {
        return true;
    }
    let Some(version) = purpose.at_version(grant.purpose_version) else { return false };
    asked.iter().all(|asked| {
        let is_among = |categories: &[String]| {
            categories.iter().any(|category| covers_category(category, asked))
        };
        is_among(&version.data_categories) && grant.data_categories.as_deref().is_none_or(is_among)
    })
}
