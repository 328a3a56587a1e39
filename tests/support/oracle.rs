//! An oracle that checks recordings of event streams.
//!
//! It knows the acknowledged acts, and decides by itself, change by change, what passes a filter.
//! It shares no code with the service.

use std::collections::{BTreeMap, BTreeSet};

use consent_ledger::proto::{self, Action, EventKind};

/// A requested change: action, purpose and channel; `*` for all.
pub type Change = (i32, String, String);

/// An act that was acknowledged.
#[derive(Debug, Clone)]
pub struct Act {
    pub subject: String,
    pub changes: Vec<Change>,
}

/// All acknowledged acts, by index.
#[derive(Debug, Default)]
pub struct Written(pub BTreeMap<u64, Act>);

/// One message of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// An act, with its delivered changes and, for consumers, the attempt.
    Event { index: u64, subject: String, changes: Vec<Change>, attempt: u32 },
    /// All events below this index were delivered.
    Progress(u64),
}

/// The messages of one connection, in order.
#[derive(Debug, Clone, Default)]
pub struct Session {
    /// The requested start; consumers request none.
    pub start: u64,
    pub heard: Vec<Heard>,
}

impl Heard {
    pub fn of_event(event: &proto::ConsentEvent, attempt: u32) -> Self {
        let change = |change: &proto::EventChange| {
            let scope = change.scope.clone().unwrap_or_default();
            let word = |text: String| if text.is_empty() { "*".to_owned() } else { text };
            (change.action, word(scope.purpose), word(scope.channel))
        };
        Self::Event {
            index: event.index,
            subject: event.subject.clone(),
            changes: event.changes.iter().map(change).collect(),
            attempt,
        }
    }
}

fn passes(filter: &proto::WatchFilter, subject: &str, (action, purpose, channel): &Change) -> bool {
    let kind = match Action::try_from(*action).unwrap() {
        Action::Grant => EventKind::Grant,
        Action::Refuse => EventKind::Refuse,
        Action::Withdraw => EventKind::Withdraw,
        Action::Object => EventKind::Object,
        other => panic!("no client requests {other:?}"),
    };
    let kinds = &filter.kinds;
    let is_wanted =
        if kinds.is_empty() { kind != EventKind::Grant } else { kinds.contains(&kind.into()) };
    let touches = |wanted: &[String], key: &str| {
        wanted.is_empty() || key == "*" || wanted.iter().any(|wanted_key| wanted_key == key)
    };
    let namespace = subject.split_once(':').unwrap().0;
    is_wanted
        && touches(&filter.purposes, purpose)
        && touches(&filter.channels, channel)
        && (filter.namespaces.is_empty()
            || filter.namespaces.iter().any(|wanted_key| wanted_key == namespace))
}

impl Written {
    /// The events from an index on that a filter covers.
    pub fn covered(&self, filter: &proto::WatchFilter, start: u64) -> BTreeMap<u64, Act> {
        let covered = self.0.range(start..).filter_map(|(index, act)| {
            let changes = act.changes.iter().filter(|change| passes(filter, &act.subject, change));
            let changes: Vec<Change> = changes.cloned().collect();
            let act = Act { subject: act.subject.clone(), changes };
            (!act.changes.is_empty()).then_some((*index, act))
        });
        covered.collect()
    }

    /// A watcher that resumes hears each event once, in order, as it was written, and no progress
    /// beyond an event that it has not heard. Returns the number of events.
    pub fn check_watch(
        &self,
        stream: &str,
        filter: &proto::WatchFilter,
        sessions: &[Session],
    ) -> u64 {
        let first = sessions.first().expect("a session").start;
        let covered = self.covered(filter, first);
        let (mut next, mut count) = (first, 0);
        for session in sessions {
            assert_eq!(session.start, next, "{stream}: resumed at its position");
            for heard in &session.heard {
                let due = covered.range(next..).next();
                match heard {
                    Heard::Event { index, subject, changes, .. } => {
                        let (due, act) =
                            due.unwrap_or_else(|| panic!("{stream}: {index} is beyond the end"));
                        assert_eq!((index, subject, changes), (due, &act.subject, &act.changes));
                        next = index + 1;
                        count += 1;
                    }
                    Heard::Progress(progress) => {
                        assert!(
                            *progress >= next,
                            "{stream}: progress {progress} goes back behind {next}"
                        );
                        let due = due.map_or(u64::MAX, |(index, _)| *index);
                        assert!(due >= *progress, "{stream}: {progress} is ahead of event {due}");
                        next = *progress;
                    }
                }
            }
        }
        let missed: Vec<_> = covered.range(next..).map(|(index, _)| index).take(3).collect();
        assert!(missed.is_empty(), "{stream}: missed {missed:?}");
        count
    }

    /// The consumers of one shard hear each of its events at least once, first deliveries in order
    /// and without a gap, except for events acknowledged before. Returns the number of deliveries.
    ///
    /// `acknowledged` has one set for each session: the events acknowledged before it began.
    pub fn check_consume(
        &self,
        stream: &str,
        (filter, start): (&proto::WatchFilter, u64),
        is_of_shard: impl Fn(&str) -> bool,
        sessions: &[(Session, BTreeSet<u64>)],
    ) -> u64 {
        let mut covered = self.covered(filter, start);
        covered.retain(|_, act| is_of_shard(&act.subject));
        let mut ever_delivered: BTreeSet<u64> = BTreeSet::new();
        let mut count = 0;
        for (session, acknowledged) in sessions {
            let mut delivered: BTreeSet<u64> = BTreeSet::new();
            let due_before = |end: u64, delivered: &BTreeSet<u64>| {
                let due = covered.range(..end).map(|(index, _)| *index);
                due.into_iter()
                    .find(|index| !delivered.contains(index) && !acknowledged.contains(index))
            };
            for heard in &session.heard {
                match heard {
                    Heard::Event { index, subject, changes, attempt } => {
                        let act = covered.get(index);
                        let act = act.unwrap_or_else(|| panic!("{stream}: {index} is not covered"));
                        assert_eq!((subject, changes), (&act.subject, &act.changes), "{stream}");
                        count += 1;
                        if *attempt > 1 {
                            assert!(
                                delivered.contains(index),
                                "{stream}: {index} was delivered before"
                            );
                            continue;
                        }
                        assert!(
                            delivered.last().is_none_or(|last| last < index),
                            "{stream}: {index} came out of order, or twice"
                        );
                        delivered.insert(*index);
                    }
                    Heard::Progress(progress) => {
                        assert_eq!(due_before(*progress, &delivered), None, "{stream}: {progress}");
                    }
                }
            }
            if let Some(last) = delivered.last() {
                assert_eq!(due_before(*last, &delivered), None, "{stream}: left out");
            }
            ever_delivered.extend(delivered);
        }
        let missed: Vec<_> =
            covered.keys().filter(|index| !ever_delivered.contains(index)).take(3).collect();
        assert!(missed.is_empty(), "{stream}: missed {missed:?}");
        count
    }
}
