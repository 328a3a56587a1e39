//! `GrantsExpired`: grants of some data subjects expired. Decisions depend on the time and do not wait for
//! this entry; it is for watchers and histories.
//!
//! All ends of one hour stand in one entry, as far as they fit, at most one of each data subject, so that an
//! end can not be traced to its grant by the time between the two.

use super::{
    Content, EntryError, IdempotencyMark, Kind, Meanings, Names, OfSubjects, Place, Receipted,
    Subjects, Target, Touched,
    fields::{changes_of_messages, ended_to_messages, field},
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
    proto::{
        self,
        ledger::{Record, RecordKind},
    },
};

/// Grants of some data subjects expired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantsExpired {
    /// The ends, at least one and at most one of each data subject, in the order of their tags.
    pub ends: Vec<GrantExpired>,
}

/// Grants of one act of a data subject expired.
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

impl GrantsExpired {
    /// The end of a data subject's grants.
    #[must_use]
    pub fn of(&self, subject: SubjectRef) -> Option<&GrantExpired> {
        self.ends.iter().find(|end| end.subject_ref == subject)
    }
}

impl Kind for GrantsExpired {
    fn content(&self, names: &Names<'_>) -> Result<Content, EntryError> {
        let record = |end: &GrantExpired| Ok((end.subject_ref, Box::new(end.record(names)?)));
        let records: Result<_, EntryError> = self.ends.iter().map(record).collect();
        Ok(Content::Persons(records?))
    }

    fn named(&self) -> Subjects {
        self.ends.iter().map(|end| end.subject_ref).collect()
    }

    fn target(&self) -> Target<'_> {
        Target::Subjects(self)
    }

    fn leads(&self, _: Place) -> Vec<Lead> {
        let due = |end: &GrantExpired| Due {
            at: end.expired_at,
            subject: end.subject_ref,
            grant_index: end.grant_index,
        };
        self.ends.iter().map(|end| Lead::Ended(due(end))).collect()
    }

    fn outline(&self) -> EventOutline<'_> {
        match self.ends.as_slice() {
            [end] => EventOutline::Consent(end.outline()),
            ends => EventOutline::Ends(ends),
        }
    }

    fn line(&self, _: Place, subject: SubjectRef) -> Option<Line> {
        let end = self.of(subject)?;
        Some(Line {
            changes: end.changes.clone(),
            cause: Some(end.grant_index),
            reason: Some(end.reason),
            ..Line::new(LineKind::Expiry, Actor::System, end.expired_at)
        })
    }

    fn idempotency(&self) -> Option<IdempotencyMark> {
        None
    }

    fn receipt(&self) -> Option<Receipted<'_>> {
        None
    }
}

impl OfSubjects for GrantsExpired {
    /// That of the last end.
    fn effective_at(&self, place: Place) -> Millis {
        self.ends.iter().map(|end| end.expired_at).max().unwrap_or(place.recorded_at)
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

    fn touches(&self, subject: SubjectRef) -> Touched<'_> {
        Touched::Changes(self.of(subject).map_or(&[], |end| end.changes.as_slice()))
    }

    /// An expiry without an entry is not found here. It does no harm: decisions do not wait for the
    /// entry. A position counts the changes of all data subjects, in the order of the entry.
    fn untrue(&self, judged: &mut Judged<'_>) -> Result<Vec<Untrue>, UnknownKey> {
        let mut first = 0;
        for end in &self.ends {
            if end.subject_ref == judged.subject() {
                return Ok(end.untrue(judged, first));
            }
            first += end.changes.len();
        }
        Ok(Vec::new())
    }
}

impl GrantExpired {
    /// Its record, before the keys of the data subject complete it.
    ///
    /// # Errors
    /// A name or the grant can not be found.
    pub fn record(&self, names: &Names<'_>) -> Result<Record, EntryError> {
        let grant = names.reference(self.subject_ref, self.grant_index)?;
        Ok(Record {
            kind: RecordKind::Expiry.into(),
            effective_at_ms: self.expired_at.0,
            changes: ended_to_messages(&self.changes, grant, self.reason, names)?,
            ..Record::default()
        })
    }

    /// The content of its event.
    #[must_use]
    pub fn outline(&self) -> ConsentOutline<'_> {
        ConsentOutline {
            subject: self.subject_ref,
            actor: Actor::System,
            effective_at: self.expired_at,
            changes: &self.changes,
            preferences_changed: false,
            cause: Some(self.grant_index),
            reason: Some(self.reason),
        }
    }

    /// Its claims that are not true. `first` is the position of its first change.
    fn untrue(&self, judged: &Judged<'_>, first: usize) -> Vec<Untrue> {
        let state = judged.before();
        let has_ended = |change: &ChangeRecord| {
            self.expired_at <= judged.place.recorded_at
                && self.is_true_of(judged.catalog, &state, change)
        };
        let changes = (first..).zip(&self.changes);
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
        untrue
    }

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

impl GrantsExpired {
    /// The ends of the records of an entry.
    pub(super) fn of_records(
        records: Vec<(SubjectRef, Record)>,
        meanings: &Meanings<'_>,
    ) -> Result<Self, EntryError> {
        let records = records.into_iter();
        let ends =
            records.map(|(subject, record)| GrantExpired::of_record(subject, record, meanings));
        Ok(Self { ends: ends.collect::<Result<_, _>>()? })
    }
}

impl GrantExpired {
    /// The end of a record.
    fn of_record(
        subject_ref: SubjectRef,
        record: Record,
        meanings: &Meanings<'_>,
    ) -> Result<Self, EntryError> {
        let first = record.changes.first().ok_or(field("changes"))?;
        let (grant, reason) = (first.cause.clone(), first.reason);
        if record.changes.iter().any(|change| change.cause != grant || change.reason != reason) {
            return Err(field("changes.cause"));
        }
        let reason = proto::Reason::try_from(reason).ok();
        let reason = reason.and_then(|reason| reason.try_into().ok());
        Ok(Self {
            subject_ref,
            grant_index: meanings.index("changes.cause", &grant)?,
            expired_at: Millis(record.effective_at_ms),
            reason: reason.ok_or(field("changes.reason"))?,
            changes: changes_of_messages(record.changes, meanings)?,
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::entry::{
        Body,
        fields::tests::{any_grant, any_subject_ref},
        tests::reads_back,
    };

    pub(in crate::entry) fn any_expired() -> impl Strategy<Value = GrantsExpired> {
        vec(any_end(), 1..4).prop_map(|mut ends| {
            ends.sort_unstable_by_key(|end| end.subject_ref);
            ends.dedup_by_key(|end| end.subject_ref);
            GrantsExpired { ends }
        })
    }

    fn any_end() -> impl Strategy<Value = GrantExpired> {
        let reason = prop::sample::select(vec![Reason::Expired, Reason::ReconsentRequired]);
        let ended = any_grant().prop_map(|grant| ChangeRecord {
            action: Action::Expire,
            outcome: Outcome::Applied,
            linked_subjects: 0,
            ..grant
        });
        (any_subject_ref(), any::<(u64, i64)>(), vec(ended, 1..4), reason).prop_map(
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
        fn it_reads_back(expired in any_expired()) {
            reads_back(&Body::Expired(expired));
        }
    }
}
