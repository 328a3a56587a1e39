//! Which events a watcher wants.

use std::collections::HashSet;

use super::Event;
use crate::domain::{Action, ChangeRecord, Key};

/// Kinds of event that a watcher can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// Consent was given.
    Grant,
    /// Consent was refused.
    Refuse,
    /// Consent was withdrawn.
    Withdraw,
    /// An objection was made.
    Object,
    /// Consent ran out by itself.
    Expire,
    /// Two data subjects were linked or unlinked.
    Link,
}

/// Which events a watcher wants. An empty set does not restrict, except for `kinds`.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Purpose keys; a stop over every purpose passes any.
    pub purposes: HashSet<Key>,
    /// Channel keys; a stop over every channel passes any.
    pub channels: HashSet<Key>,
    /// Kinds; empty means all but grants.
    pub kinds: HashSet<EventKind>,
    /// Subject namespaces; a linked subject passes as well.
    pub namespaces: HashSet<String>,
}

impl Filter {
    /// Whether some change passes, as long as the subject does.
    #[must_use]
    pub fn may_pass(&self, changes: &[ChangeRecord]) -> bool {
        changes.iter().any(|change| self.passes(change))
    }

    /// Positions of the changes of an event that pass.
    #[must_use]
    pub fn passing(&self, event: &Event) -> Vec<usize> {
        if !self.is_about(event) {
            return Vec::new();
        }
        let changes = event.changes.iter().enumerate();
        changes.filter(|(_, change)| self.passes(change)).map(|(position, _)| position).collect()
    }

    /// Whether a link passes, as long as one of the two subjects does.
    #[must_use]
    pub fn may_pass_link(&self) -> bool {
        self.wants(EventKind::Link)
    }

    /// Whether an event is a link that passes.
    #[must_use]
    pub fn passes_link(&self, event: &Event) -> bool {
        event.link.is_some() && self.may_pass_link() && self.is_about(event)
    }

    /// Whether the answers of somebody in one of the namespaces may have changed.
    fn is_about(&self, event: &Event) -> bool {
        let other = event.link.as_ref().map(|link| &link.other);
        let mut subjects = [&event.subject].into_iter().chain(other).chain(&event.linked);
        self.namespaces.is_empty()
            || subjects.any(|subject| self.namespaces.contains(subject.namespace()))
    }

    fn passes(&self, change: &ChangeRecord) -> bool {
        self.wants(change.action.into())
            && touches(&self.purposes, change.scope.purpose.as_ref())
            && touches(&self.channels, change.scope.channel.as_ref())
    }

    fn wants(&self, kind: EventKind) -> bool {
        if self.kinds.is_empty() { kind != EventKind::Grant } else { self.kinds.contains(&kind) }
    }
}

/// Whether a change that covers one key, or all, touches what is wanted.
fn touches(wanted: &HashSet<Key>, covered: Option<&Key>) -> bool {
    wanted.is_empty() || covered.is_none_or(|key| wanted.contains(key))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Actor, Millis, Outcome, ScopeKeys, Subject};

    fn event(changes: &[(Action, &str, &str)]) -> Event {
        let key = |text: &str| (text != "*").then(|| Key::parse(text).unwrap());
        let change = |&(action, purpose, channel): &(Action, &str, &str)| ChangeRecord {
            action,
            scope: ScopeKeys { purpose: key(purpose), channel: key(channel) },
            purpose_version: 1,
            expires_at: None,
            data_categories: Vec::new(),
            outcome: Outcome::Applied,
        };
        Event {
            index: 7,
            subject: Subject::parse("user:42").unwrap(),
            actor: Actor::Subject,
            recorded_at: Millis(0),
            effective_at: Millis(0),
            changes: changes.iter().map(change).collect(),
            cause: None,
            reason: None,
            link: None,
            linked: Vec::new(),
        }
    }

    fn keys(texts: &[&str]) -> HashSet<Key> {
        texts.iter().map(|text| Key::parse(text).unwrap()).collect()
    }

    #[test]
    fn stops_pass_by_default_and_grants_on_request() {
        let event = event(&[
            (Action::Grant, "news", "email"),
            (Action::Refuse, "news", "sms"),
            (Action::Withdraw, "ads", "email"),
            (Action::Object, "*", "*"),
        ]);
        assert_eq!(Filter::default().passing(&event), [1, 2, 3]);
        let kinds = HashSet::from([EventKind::Grant, EventKind::Object]);
        assert_eq!(Filter { kinds, ..Filter::default() }.passing(&event), [0, 3]);
    }

    #[test]
    fn a_wide_stop_passes_every_list() {
        let event = event(&[
            (Action::Withdraw, "news", "email"),
            (Action::Withdraw, "ads", "*"),
            (Action::Withdraw, "*", "sms"),
            (Action::Withdraw, "*", "*"),
        ]);
        let filter = Filter { purposes: keys(&["news"]), ..Filter::default() };
        assert_eq!(filter.passing(&event), [0, 2, 3]);
        let filter = Filter { channels: keys(&["sms"]), ..Filter::default() };
        assert_eq!(filter.passing(&event), [1, 2, 3]);
        let filter =
            Filter { purposes: keys(&["ads"]), channels: keys(&["email"]), ..Filter::default() };
        assert_eq!(filter.passing(&event), [1, 3]);
    }

    #[test]
    fn other_namespaces_are_left_out() {
        let event = event(&[(Action::Withdraw, "news", "email")]);
        for (namespace, want) in [("user", 1), ("email", 0)] {
            let namespaces = HashSet::from([namespace.to_owned()]);
            assert_eq!(Filter { namespaces, ..Filter::default() }.passing(&event).len(), want);
        }
    }

    #[test]
    fn a_stop_passes_for_whom_it_reaches_through_a_link() {
        let linked = vec![Subject::parse("email:jo").unwrap()];
        let event = Event { linked, ..event(&[(Action::Withdraw, "news", "email")]) };
        for (namespace, want) in [("user", 1), ("email", 1), ("device", 0)] {
            let namespaces = HashSet::from([namespace.to_owned()]);
            assert_eq!(Filter { namespaces, ..Filter::default() }.passing(&event).len(), want);
        }
    }
}
