//! The changes of an act, as messages and back.

use super::{EntryError, field, key, scalar::without_prefix};
use crate::{
    domain::{Action, ChangeRecord, Millis, Outcome, PurposeName, ScopeKeys},
    proto,
};

pub(in crate::entry) fn changes_to_proto(changes: &[ChangeRecord]) -> Vec<proto::ChangeRecord> {
    changes.iter().map(change_to_proto).collect()
}

pub(in crate::entry) fn changes_from_proto(
    changes: Vec<proto::ChangeRecord>,
) -> Result<Vec<ChangeRecord>, EntryError> {
    changes.into_iter().map(change_from_proto).collect()
}

fn change_to_proto(change: &ChangeRecord) -> proto::ChangeRecord {
    proto::ChangeRecord {
        action: proto::Action::from(change.action).into(),
        scope: Some(proto::Scope {
            purpose: change.scope.purpose.as_ref().map_or(String::new(), ToString::to_string),
            channel: change.scope.channel.as_ref().map_or(String::new(), ToString::to_string),
        }),
        purpose_version: change.purpose_version,
        expires_at_ms: change.expires_at.map(|at| at.0),
        outcome: proto::Outcome::from(change.outcome).into(),
        cause_index: change.outcome.cause_index(),
        data_categories: change.data_categories.clone(),
        linked_subjects: change.linked_subjects,
    }
}

fn change_from_proto(change: proto::ChangeRecord) -> Result<ChangeRecord, EntryError> {
    let action = change.action().try_into().map_err(|()| field("action"))?;
    let outcome = outcome_from_proto(change.outcome(), change.cause_index)?;
    let scope = change.scope.ok_or(field("scope"))?;
    let given = |text: String| (!text.is_empty()).then_some(text);
    let purpose = |text: String| PurposeName::parse(&text).map_err(|_| field("scope.purpose"));
    let scope = ScopeKeys {
        purpose: given(scope.purpose).map(purpose).transpose()?,
        channel: given(scope.channel).map(|text| key("scope.channel", &text)).transpose()?,
    };
    let is_cell = scope.channel.is_some()
        && scope.purpose.as_ref().is_some_and(|purpose| purpose.as_one().is_some());
    if action == Action::Grant && !is_cell {
        return Err(field("scope of a grant"));
    }
    Ok(ChangeRecord {
        action,
        scope,
        purpose_version: change.purpose_version,
        expires_at: change.expires_at_ms.map(Millis),
        data_categories: change.data_categories,
        outcome,
        linked_subjects: change.linked_subjects,
    })
}

fn outcome_from_proto(outcome: proto::Outcome, cause: Option<u64>) -> Result<Outcome, EntryError> {
    let cause = cause.ok_or(field("cause_index"));
    Ok(match outcome {
        proto::Outcome::Unspecified
        | proto::Outcome::NotRecorded
        | proto::Outcome::StandsAlready => return Err(field("outcome")),
        proto::Outcome::Applied => Outcome::Applied,
        proto::Outcome::NoEffect => Outcome::NoEffect,
        proto::Outcome::BlockedByStop => Outcome::BlockedByStop(cause?),
        proto::Outcome::SupersededByLater => Outcome::SupersededByLater(cause?),
        proto::Outcome::PendingConfirmation => Outcome::PendingConfirmation,
    })
}

impl Outcome {
    /// Its name in the protocol, without the prefix.
    #[must_use]
    pub fn name(self) -> &'static str {
        let unspecified = proto::Outcome::Unspecified.as_str_name();
        without_prefix(proto::Outcome::from(self).as_str_name(), unspecified)
    }
}

impl From<Outcome> for proto::Outcome {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Applied => Self::Applied,
            Outcome::NoEffect => Self::NoEffect,
            Outcome::BlockedByStop(_) => Self::BlockedByStop,
            Outcome::SupersededByLater(_) => Self::SupersededByLater,
            Outcome::PendingConfirmation => Self::PendingConfirmation,
            Outcome::StandsAlready(_) => Self::StandsAlready,
        }
    }
}

#[cfg(test)]
pub(in crate::entry) mod tests {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;
    use crate::entry::fields::tests::{any_catalog_key, any_categories};

    fn any_outcome() -> impl Strategy<Value = Outcome> {
        prop_oneof![
            Just(Outcome::Applied),
            Just(Outcome::NoEffect),
            any::<u64>().prop_map(Outcome::BlockedByStop),
            any::<u64>().prop_map(Outcome::SupersededByLater),
            Just(Outcome::PendingConfirmation),
        ]
    }

    fn any_change() -> impl Strategy<Value = ChangeRecord> {
        let stop = prop::sample::select(vec![Action::Refuse, Action::Withdraw, Action::Object]);
        let purpose =
            (any_catalog_key(), any::<bool>()).prop_map(|(key, is_class)| match is_class {
                true => PurposeName::Class(key),
                false => PurposeName::One(key),
            });
        let stop = (stop, option::of(purpose), option::of(any_catalog_key()))
            .prop_map(|(action, purpose, channel)| (action, ScopeKeys { purpose, channel }));
        let grant = (any_catalog_key(), any_catalog_key()).prop_map(|(purpose, channel)| {
            (Action::Grant, ScopeKeys { purpose: Some(purpose.into()), channel: Some(channel) })
        });
        let details = (any::<u32>(), option::of(any::<i64>()), any_categories());
        (prop_oneof![stop, grant], details, (any_outcome(), any::<u32>())).prop_map(
            |((action, scope), details, (outcome, linked_subjects))| {
                let (purpose_version, expires_at, data_categories) = details;
                let expires_at = expires_at.map(Millis);
                ChangeRecord {
                    action,
                    scope,
                    purpose_version,
                    expires_at,
                    data_categories,
                    outcome,
                    linked_subjects,
                }
            },
        )
    }

    /// The changes of an act, one at least.
    pub(in crate::entry) fn any_changes() -> impl Strategy<Value = Vec<ChangeRecord>> {
        vec(any_change(), 1..4)
    }
}
