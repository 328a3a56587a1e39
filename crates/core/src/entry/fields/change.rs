//! The changes of an act, as messages and back.

use super::{EntryError, field, scalar::without_prefix};
use crate::{
    domain::{ChangeRecord, Key, Millis, Outcome, PurposeName, Reason, ScopeKeys, SubjectRef},
    entry::{Meanings, Names},
    format::Reference,
    proto::{self, ledger},
};

/// The changes of an act as messages. Causes are records of the same data subject.
pub(in crate::entry) fn changes_to_messages(
    changes: &[ChangeRecord],
    subject: SubjectRef,
    names: &Names<'_>,
) -> Result<Vec<ledger::Change>, EntryError> {
    let message = |change: &ChangeRecord| {
        let cause = match change.outcome.cause_index() {
            // No record can hold its own reference: its key is made of what it says.
            Some(index) if index != names.index => names.reference(subject, index)?.to_vec(),
            _ => Vec::new(),
        };
        let cause_is_linked = matches!(
            change.outcome,
            Outcome::BlockedByStop(None) | Outcome::SupersededByLater(None)
        );
        Ok(ledger::Change { cause, cause_is_linked, ..change_to_message(change, names)? })
    };
    changes.iter().map(message).collect()
}

/// The ended grants of one act as messages.
pub(in crate::entry) fn ended_to_messages(
    changes: &[ChangeRecord],
    grant: Reference,
    reason: Reason,
    names: &Names<'_>,
) -> Result<Vec<ledger::Change>, EntryError> {
    let message = |change: &ChangeRecord| {
        let reason = proto::Reason::from(reason).into();
        let cause = grant.to_vec();
        Ok(ledger::Change { cause, reason, ..change_to_message(change, names)? })
    };
    changes.iter().map(message).collect()
}

fn change_to_message(
    change: &ChangeRecord,
    names: &Names<'_>,
) -> Result<ledger::Change, EntryError> {
    let (one, class) = match &change.scope.purpose {
        None => (None, String::new()),
        Some(PurposeName::One(key)) => (Some(key), String::new()),
        Some(PurposeName::Class(prefix)) => (None, prefix.to_string()),
    };
    Ok(ledger::Change {
        action: proto::Action::from(change.action).into(),
        purpose: names.purpose(one)?,
        purpose_class: class,
        channel: names.channel(change.scope.channel.as_ref())?,
        purpose_version: change.purpose_version,
        expires_at_ms: change.expires_at.map(|at| at.0),
        data_categories: change.data_categories.clone(),
        outcome: proto::Outcome::from(change.outcome).into(),
        linked_subjects: change.linked_subjects,
        ..ledger::Change::default()
    })
}

/// The changes of messages.
pub(crate) fn changes_of_messages(
    changes: Vec<ledger::Change>,
    meanings: &Meanings<'_>,
) -> Result<Vec<ChangeRecord>, EntryError> {
    changes.into_iter().map(|change| change_of_message(change, meanings)).collect()
}

fn change_of_message(
    change: ledger::Change,
    meanings: &Meanings<'_>,
) -> Result<ChangeRecord, EntryError> {
    let action = change.action().try_into().map_err(|()| field("changes.action"))?;
    let outcome = outcome_of_message(&change, meanings)?;
    let class = |prefix: &str| Key::parse(prefix).map(PurposeName::Class);
    let purpose = match change.purpose_class.as_str() {
        "" => meanings.purpose(change.purpose)?.map(PurposeName::One),
        prefix => Some(class(prefix).map_err(|_| field("changes.purpose_class"))?),
    };
    let scope = ScopeKeys { purpose, channel: meanings.channel(change.channel)? };
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

fn outcome_of_message(
    change: &ledger::Change,
    meanings: &Meanings<'_>,
) -> Result<Outcome, EntryError> {
    let cause = || match change.cause.as_slice() {
        [] if change.cause_is_linked => Ok(None),
        [] => Ok(Some(meanings.index)),
        reference => meanings.known_index("changes.cause", reference),
    };
    Ok(match change.outcome() {
        proto::Outcome::Unspecified
        | proto::Outcome::NotRecorded
        | proto::Outcome::StandsAlready => return Err(field("changes.outcome")),
        proto::Outcome::Applied => Outcome::Applied,
        proto::Outcome::NoEffect => Outcome::NoEffect,
        proto::Outcome::BlockedByStop => Outcome::BlockedByStop(cause()?),
        proto::Outcome::SupersededByLater => Outcome::SupersededByLater(cause()?),
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
    use crate::{
        domain::Action,
        entry::fields::tests::{any_catalog_key, any_categories},
    };

    fn any_outcome() -> impl Strategy<Value = Outcome> {
        prop_oneof![
            Just(Outcome::Applied),
            Just(Outcome::NoEffect),
            option::of(any::<u64>()).prop_map(Outcome::BlockedByStop),
            option::of(any::<u64>()).prop_map(Outcome::SupersededByLater),
            Just(Outcome::PendingConfirmation),
        ]
    }

    fn any_stop() -> impl Strategy<Value = ChangeRecord> {
        let action = prop::sample::select(vec![Action::Refuse, Action::Withdraw, Action::Object]);
        let purpose =
            (any_catalog_key(), any::<bool>()).prop_map(|(key, is_class)| match is_class {
                true => PurposeName::Class(key),
                false => PurposeName::One(key),
            });
        let scope = (option::of(purpose), option::of(any_catalog_key()));
        (action, scope, any_outcome(), any::<u32>()).prop_map(
            |(action, (purpose, channel), outcome, linked_subjects)| ChangeRecord {
                action,
                scope: ScopeKeys { purpose, channel },
                purpose_version: 0,
                expires_at: None,
                data_categories: Vec::new(),
                outcome,
                linked_subjects,
            },
        )
    }

    pub(in crate::entry) fn any_grant() -> impl Strategy<Value = ChangeRecord> {
        let scope = (any_catalog_key(), any_catalog_key());
        let details = (1u32.., option::of(any::<i64>()), any_categories(), any::<u32>());
        (scope, details, any_outcome()).prop_map(|((purpose, channel), details, outcome)| {
            let (purpose_version, expires_at, data_categories, linked_subjects) = details;
            ChangeRecord {
                action: Action::Grant,
                scope: ScopeKeys { purpose: Some(purpose.into()), channel: Some(channel) },
                purpose_version,
                expires_at: expires_at.map(Millis),
                data_categories,
                outcome,
                linked_subjects,
            }
        })
    }

    /// The changes of an act, one at least.
    pub(in crate::entry) fn any_changes() -> impl Strategy<Value = Vec<ChangeRecord>> {
        vec(prop_oneof![any_stop(), any_grant()], 1..4)
    }
}
