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
    Catalog, Channel, ChannelId, Decision, Effect, Grant, Grants, LegalBasis, Millis, Purpose,
    PurposeId, Query, Reason, Status, Stop, StopKind, SubjectState, covers_category,
};

/// Answers "may I?".
///
/// `valid_until` is the first moment at which effect, reason or `decided_by` could change with no new
/// entry.
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
    let standing = Standing::of(catalog, state, purpose_id, channel_id, now);
    let covering = match standing {
        Standing::Given(grants) => grants.covering(purpose, query.data_categories),
        _ => None,
    };

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
            (Reason::NoObjection, lifting_index(catalog, state, purpose_id, channel_id), None)
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
        Standing::Given(grants) => match covering {
            Some(Given { latest, .. }) => {
                (Reason::Granted, Some(latest.decided_by()), latest.ends_at())
            }
            None => {
                let decided_by = grants.latest.decided_by();
                (Reason::DataCategoryNotCovered, Some(decided_by), grants.latest.ends_at())
            }
        },
    };

    let obligations = match reason.effect() {
        Effect::Allow => current.obligations.clone(),
        Effect::Deny | Effect::NotNow => Vec::new(),
    };
    let granted = covering.filter(|_| reason == Reason::Granted);
    let data_categories = granted.and_then(|grants| grants.latest.data_categories.clone());
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
/// older one. One exception: the grant of somebody who can not lift stops may be the latest only in a
/// cell that no stop ever covered, and there it never caps the data subject's own. A request that
/// waits for its double opt-in never takes the place of a confirmed grant that counts; it does take the
/// place of one that is past its expiry or outdated.
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
    /// One grant counts, or two.
    Given(Given<'a>),
}

/// The grants that count in a cell.
#[derive(Debug, Clone, Copy)]
pub struct Given<'a> {
    /// The latest.
    pub latest: &'a Grant,
    /// The data subject's own, if the latest is somebody else's: that one does not take it away.
    pub own: Option<&'a Grant>,
}

impl<'a> Given<'a> {
    fn of(latest: Option<&'a Grant>, own: Option<&'a Grant>) -> Option<Self> {
        match latest {
            Some(latest) => Some(Self { latest, own }),
            None => own.map(|own| Self { latest: own, own: None }),
        }
    }

    /// The grants, the latest first.
    pub fn iter(self) -> impl Iterator<Item = &'a Grant> {
        [Some(self.latest), self.own].into_iter().flatten()
    }

    /// First moment at which none of them counts by itself.
    #[must_use]
    pub fn ends_at(self) -> Option<Millis> {
        let ends: Option<Vec<Millis>> = self.iter().map(Grant::ends_at).collect();
        ends.and_then(|ends| ends.into_iter().max())
    }

    /// Those of them that cover all data categories asked for, if any does.
    #[must_use]
    pub fn covering(self, purpose: &Purpose, asked: &[String]) -> Option<Self> {
        let covering = |grant: &&Grant| covers(purpose, grant, asked);
        Self::of(Some(self.latest).filter(covering), self.own.filter(covering))
    }
}

impl<'a> Standing<'a> {
    /// The standing of a cell.
    #[must_use]
    pub fn of(
        catalog: &Catalog,
        state: &'a SubjectState,
        purpose_id: PurposeId,
        channel_id: ChannelId,
        now: Millis,
    ) -> Self {
        if let Some(index) = state.erased_by {
            return Self::Erased(index);
        }
        let Some(purpose) = catalog.purpose(purpose_id) else { return Self::Nothing };
        if let Some(stop) = state.live_stop(catalog, purpose_id, channel_id) {
            return Self::Stopped(stop);
        }
        let Some(cell) = state.cell(purpose_id, channel_id) else { return Self::Nothing };
        let Grants { given: own, pending } = &cell.own;
        let others = state.others_that_count(catalog, cell);
        let other = others.and_then(|others| others.given.as_ref());
        let other = other.filter(|grant| own.as_ref().is_none_or(|own| own.mark < grant.mark));
        let pending = [pending.as_deref(), others.and_then(|others| others.pending.as_deref())];
        let pending = pending.into_iter().flatten().max_by_key(|grant| grant.mark);
        let counting = |grant: &&Grant| counts(purpose, grant, now);
        if let Some(given) = Given::of(other.filter(counting), own.as_ref().filter(counting)) {
            return Self::Given(given);
        }
        let Some(grant) = other.or(own.as_ref()) else {
            return pending.map_or(Self::Nothing, Self::Pending);
        };
        let standing = if grant.has_expired(now) {
            Self::Expired(grant)
        } else if !is_of_a_counting_version(purpose, grant) {
            Self::Outdated(grant)
        } else {
            Self::CameOfAge(grant)
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
fn lifting_index(
    catalog: &Catalog,
    state: &SubjectState,
    purpose: PurposeId,
    channel: ChannelId,
) -> Option<u64> {
    state.latest_stop(catalog, purpose, channel)?;
    Some(state.cell(purpose, channel)?.lifted?.index)
}

/// Whether a grant counts by itself at a moment.
pub(crate) fn counts(purpose: &Purpose, grant: &Grant, now: Millis) -> bool {
    !grant.has_expired(now)
        && is_of_a_counting_version(purpose, grant)
        && !grant.authority_has_ended(now)
}

/// Whether grants of its version still count. Those of one that the catalogue lacks never do.
fn is_of_a_counting_version(purpose: &Purpose, grant: &Grant) -> bool {
    (purpose.oldest_compatible..=purpose.version()).contains(&grant.purpose_version)
}

/// Whether a grant gives everything that another gives, for as long.
pub(crate) fn includes(purpose: &Purpose, wide: &Grant, narrow: &Grant) -> bool {
    let Some(version) = purpose.at_version(narrow.purpose_version) else { return true };
    let given = narrow.data_categories.as_deref().unwrap_or(&version.data_categories);
    let lasts = match (wide.ends_at(), narrow.ends_at()) {
        (Some(end), Some(narrow_end)) => narrow_end <= end,
        (Some(_), None) => false,
        (None, _) => true,
    };
    lasts && covers(purpose, wide, given)
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
