//! `GrantExpired`: grants of one act expired. Decisions depend on the time and do not wait for this
//! entry; it is for watchers and histories.

use super::{
    EntryError, IdempotencyMark, Kind, OfSubjects, Place, Receipted, Subjects, Target, Touched,
    fields::{changes_from_proto, changes_to_proto, field, subject_ref},
};
use crate::{
    decide::Standing,
    domain::{
        Action, Actor, Catalog, ChangeRecord, Millis, Outcome, Reason, Scope, SubjectRef,
        SubjectState, UnknownKey,
    },
    event::{ConsentOutline, EventOutline},
    fold::{Due, Judged, Lead, Untrue},
    history::{Line, LineKind},
    proto,
};

/// Grants of one act expired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantExpired {
    /// Whose consent it was.
    pub subject_ref: SubjectRef,
    /// Index of the act that granted it.
    pub grant_index: u64,
    /// First moment without it.
    pub expired_at: Millis,
    /// `Expired`, or `ReconsentRequired` where a guardian's authority ended.
    pub reason: Reason,
    /// The cells, in the order of the act.
    pub changes: Vec<ChangeRecord>,
}

impl Kind for GrantExpired {
    fn message(&self) -> proto::entry::Body {
        proto::entry::Body::GrantExpired(proto::GrantExpired {
            subject_ref: self.subject_ref.0.to_vec(),
            grant_index: self.grant_index,
            expired_at_ms: self.expired_at.0,
            reason: proto::Reason::from(self.reason).into(),
            changes: changes_to_proto(&self.changes),
        })
    }

    fn named(&self) -> Subjects {
        smallvec::smallvec![self.subject_ref]
    }

    fn target(&self) -> Target<'_> {
        Target::Subjects(self)
    }

    fn leads(&self, _: Place) -> Vec<Lead> {
        vec![Lead::Ended(Due {
            at: self.expired_at,
            subject: self.subject_ref,
            grant_index: self.grant_index,
        })]
    }

    fn outline(&self) -> EventOutline<'_> {
        EventOutline::Consent(ConsentOutline {
            subject: self.subject_ref,
            actor: Actor::System,
            effective_at: self.expired_at,
            changes: &self.changes,
            preferences_changed: false,
            cause: Some(self.grant_index),
            reason: Some(self.reason),
        })
    }

    fn line(&self, _: Place, _: SubjectRef) -> Option<Line> {
        Some(Line {
            changes: self.changes.clone(),
            cause: Some(self.grant_index),
            reason: Some(self.reason),
            ..Line::new(LineKind::Expiry, Actor::System, self.expired_at)
        })
    }

    fn idempotency(&self) -> Option<IdempotencyMark> {
        None
    }

    fn receipt(&self) -> Option<Receipted<'_>> {
        None
    }
}

impl OfSubjects for GrantExpired {
    fn effective_at(&self, _: Place) -> Millis {
        self.expired_at
    }

    /// The grants stay as they are: each holds the moment at which it ends.
    fn fold(
        &self,
        _: Place,
        _: &Catalog,
        _: SubjectRef,
        _: &mut SubjectState,
    ) -> Result<(), UnknownKey> {
        Ok(())
    }

    fn touches(&self) -> Touched<'_> {
        Touched::Changes(&self.changes)
    }

    /// An expiry without an entry is not found here. It does no harm: decisions do not wait for the
    /// entry.
    fn untrue(&self, judged: &mut Judged<'_>) -> Result<Vec<Untrue>, UnknownKey> {
        let state = judged.before();
        let has_ended = |change: &ChangeRecord| {
            self.expired_at <= judged.place.recorded_at
                && self.is_true_of(judged.catalog, &state, change)
        };
        let changes = self.changes.iter().enumerate();
        let mut untrue: Vec<_> = changes
            .filter(|(_, change)| !has_ended(change))
            .map(|(position, _)| Untrue::Expiry { position })
            .collect();
        let by_authority =
            self.changes.iter().all(|change| change.expires_at != Some(self.expired_at));
        let reason = if by_authority { Reason::ReconsentRequired } else { Reason::Expired };
        if untrue.is_empty() && reason != self.reason {
            untrue.push(Untrue::ExpiryReason { recomputed: reason });
        }
        Ok(untrue)
    }
}

impl GrantExpired {
    /// Whether the grant of a change decided its cell until just before it ended.
    fn is_true_of(&self, catalog: &Catalog, state: &SubjectState, change: &ChangeRecord) -> bool {
        let cell = catalog.resolve(&change.scope).ok().and_then(Scope::as_cell);
        let Some((purpose_id, channel_id)) = cell else { return false };
        let before = self.expired_at.plus_ms(-1);
        let standing = Standing::of(catalog, state, purpose_id, channel_id, before);
        let Standing::Given(given) = standing else { return false };
        let grant = given.latest;
        grant.mark.index == self.grant_index
            && given.ends_at() == Some(self.expired_at)
            && change.action == Action::Expire
            && change.outcome == Outcome::Applied
            && change.expires_at == grant.expires_at
            && change.purpose_version == grant.purpose_version
    }
}

impl TryFrom<proto::GrantExpired> for GrantExpired {
    type Error = EntryError;

    fn try_from(message: proto::GrantExpired) -> Result<Self, EntryError> {
        Ok(Self {
            subject_ref: subject_ref("subject_ref", &message.subject_ref)?,
            grant_index: message.grant_index,
            expired_at: Millis(message.expired_at_ms),
            reason: message.reason().try_into().map_err(|()| field("reason"))?,
            changes: changes_from_proto(message.changes)?,
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::entry::{
        Body,
        fields::tests::{any_changes, any_subject_ref},
        tests::reads_back,
    };

    pub(in crate::entry) fn any_expired() -> impl Strategy<Value = GrantExpired> {
        let reason = prop::sample::select(vec![Reason::Expired, Reason::ReconsentRequired]);
        (any_subject_ref(), any::<(u64, i64)>(), any_changes(), reason).prop_map(
            |(subject_ref, (grant_index, at), changes, reason)| GrantExpired {
                subject_ref,
                grant_index,
                expired_at: Millis(at),
                reason,
                changes,
            },
        )
    }

    proptest! {
        #[test]
        fn the_message_reads_back(expired in any_expired()) {
            reads_back(&Body::Expired(expired));
        }
    }
}
