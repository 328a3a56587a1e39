//! Which events a subscriber wants to receive.

use std::collections::BTreeSet;

use super::{
    act::{Action, ChangeRecord},
    scope::{Key, PurposeName},
};

/// Kinds of event that a filter can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventKind {
    /// Consent was given.
    Grant,
    /// Consent was refused.
    Refuse,
    /// Consent was withdrawn.
    Withdraw,
    /// An objection was made.
    Object,
    /// Consent expired.
    Expire,
    /// Two data subjects were linked or unlinked.
    Link,
    /// The catalogue changed in a way that can change answers.
    Catalog,
    /// A data subject changed how it wants to be contacted.
    Preferences,
    /// A subscription is overdue.
    Overdue,
}

impl EventKind {
    /// Every kind.
    pub const ALL: [Self; 9] = [
        Self::Grant,
        Self::Refuse,
        Self::Withdraw,
        Self::Object,
        Self::Expire,
        Self::Link,
        Self::Catalog,
        Self::Preferences,
        Self::Overdue,
    ];

    /// Whether it is a default kind: one that can end an ALLOW.
    #[must_use]
    pub fn is_default(self) -> bool {
        !matches!(self, Self::Grant | Self::Preferences | Self::Overdue)
    }
}

impl From<Action> for EventKind {
    fn from(action: Action) -> Self {
        match action {
            Action::Grant => Self::Grant,
            Action::Refuse => Self::Refuse,
            Action::Withdraw => Self::Withdraw,
            Action::Object => Self::Object,
            Action::Expire => Self::Expire,
        }
    }
}

/// Which events a subscriber wants to receive. An empty set does not restrict, except for `kinds`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Purposes and classes; a stop passes that has a purpose with one of them in common.
    pub purposes: BTreeSet<PurposeName>,
    /// Channel keys; a stop over every channel passes any.
    pub channels: BTreeSet<Key>,
    /// Kinds; empty means the default kinds.
    pub kinds: BTreeSet<EventKind>,
    /// Subject namespaces; a linked subject passes as well.
    pub namespaces: BTreeSet<String>,
}

impl Filter {
    /// Whether a kind is wanted.
    #[must_use]
    pub fn wants(&self, kind: EventKind) -> bool {
        if self.kinds.is_empty() { kind.is_default() } else { self.kinds.contains(&kind) }
    }

    /// Whether a change passes, as long as its data subject does.
    #[must_use]
    pub fn passes(&self, change: &ChangeRecord) -> bool {
        self.wants(change.action.into())
            && self.covers_purpose(change.scope.purpose.as_ref())
            && self.covers_channel(change.scope.channel.as_ref())
    }

    /// Whether a change of a purpose, a class, or all, concerns the wanted purposes.
    #[must_use]
    pub fn covers_purpose(&self, purpose: Option<&PurposeName>) -> bool {
        self.purposes.is_empty()
            || purpose.is_none_or(|purpose| self.purposes.iter().any(|one| one.meets(purpose)))
    }

    /// Whether a change of a channel, or of all, concerns the wanted channels.
    #[must_use]
    pub fn covers_channel(&self, channel: Option<&Key>) -> bool {
        self.channels.is_empty() || channel.is_none_or(|key| self.channels.contains(key))
    }

    /// Whether data subjects of a namespace are wanted.
    #[must_use]
    pub fn covers_namespace(&self, namespace: &str) -> bool {
        self.namespaces.is_empty() || self.namespaces.contains(namespace)
    }
}
