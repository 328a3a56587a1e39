//! The health of an endpoint, shared by the shards of a subscription.
//!
//! An endpoint may refuse some messages and accept others: that says nothing about its health. But
//! when several different messages fail in a row and none is accepted between them, the endpoint is
//! down. Then it is probed with one message at a time, with growing pauses, until it accepts one.

use std::{collections::HashSet, time::Duration};

use parking_lot::Mutex;
use rand::RngExt;
use tokio::{sync::watch, time::Instant};

use super::{lanes::Ticket, retry::Retry};

/// Number of different messages that must fail, with none accepted between them.
pub(super) const DOWN_AFTER: usize = 5;

/// The health of one endpoint.
#[derive(Debug)]
pub(super) struct Health {
    retry: Retry,
    /// Maximum duration of an attempt. A probe without an outcome has ended by then.
    attempt_max: Duration,
    state: Mutex<State>,
    /// Number of recoveries.
    recovered: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    /// Shard and ticket of the messages that failed since the last accepted one; at most
    /// [`DOWN_AFTER`].
    failed: HashSet<(u32, Ticket)>,
    /// Set while the endpoint is down.
    down: Option<Down>,
    /// End of the longest `Retry-After`.
    held_until: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Down {
    /// Failed probes.
    probes: u32,
    next_probe: Instant,
    /// Deadline of the probe in flight.
    probing_until: Option<Instant>,
}

/// Which messages may be sent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Permission {
    /// Every message that is due.
    All,
    /// One message, as a probe. It counts as in flight from now on.
    Probe,
    /// None before this instant.
    NoneBefore(Instant),
}

impl Health {
    pub(super) fn new(retry: Retry, attempt_max: Duration) -> Self {
        Self { retry, attempt_max, state: Mutex::default(), recovered: watch::Sender::new(0) }
    }

    /// Changes with each recovery of the endpoint.
    pub(super) fn recovered(&self) -> watch::Receiver<u64> {
        self.recovered.subscribe()
    }

    /// Which messages may be sent now. Starts a probe if one is due.
    pub(super) fn ask(&self, now: Instant) -> Permission {
        let mut state = self.state.lock();
        if let Some(until) = state.held_until.filter(|until| *until > now) {
            return Permission::NoneBefore(until);
        }
        let Some(down) = &mut state.down else { return Permission::All };
        if let Some(until) = down.probing_until.filter(|until| *until > now) {
            return Permission::NoneBefore(until);
        }
        if down.next_probe > now {
            return Permission::NoneBefore(down.next_probe);
        }
        down.probing_until = Some(now + self.attempt_max);
        Permission::Probe
    }

    /// Takes back a probe for which there was no message.
    pub(super) fn unused(&self) {
        if let Some(down) = &mut self.state.lock().down {
            down.probing_until = None;
        }
    }

    /// Notes that a message was accepted. Returns whether the endpoint was down.
    pub(super) fn accepted(&self) -> bool {
        let mut state = self.state.lock();
        state.failed.clear();
        let was_down = state.down.take().is_some();
        drop(state);
        if was_down {
            self.recovered.send_modify(|times| *times += 1);
        }
        was_down
    }

    /// Notes that a message failed. `hold` is the endpoint's `Retry-After`. Returns whether the
    /// endpoint went down with this failure.
    pub(super) fn failed(
        &self,
        shard: u32,
        ticket: Ticket,
        hold: Option<Duration>,
        now: Instant,
    ) -> bool {
        let mut state = self.state.lock();
        if let Some(hold) = hold {
            state.held_until = state.held_until.max(Some(now + hold));
        }
        if state.failed.len() < DOWN_AFTER {
            state.failed.insert((shard, ticket));
        }
        let is_down = state.failed.len() >= DOWN_AFTER;
        match &mut state.down {
            // Messages that were in flight when the endpoint went down are not probes.
            Some(down) if down.probing_until.is_some() => {
                down.probes = down.probes.saturating_add(1);
                down.probing_until = None;
                down.next_probe = now + self.pause(down.probes);
                false
            }
            None if is_down => {
                let next_probe = now + self.pause(1);
                state.down = Some(Down { probes: 1, next_probe, probing_until: None });
                true
            }
            _ => false,
        }
    }

    fn pause(&self, failures: u32) -> Duration {
        self.retry.probe_pause(failures, rand::rng().random_range(0.0..1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::webhook::lanes::Lanes;

    const RETRY: Retry = Retry {
        pause_min: Duration::from_secs(5),
        pause_max: Duration::from_secs(3_600),
        retry_for: Duration::from_secs(72 * 3_600),
    };

    fn tickets(count: usize) -> Vec<Ticket> {
        let mut lanes = Lanes::new();
        (0..count).for_each(|_| lanes.push((), std::iter::empty()));
        lanes.messages().map(|(ticket, ())| ticket).collect()
    }

    fn health() -> Health {
        Health::new(RETRY, Duration::from_secs(15))
    }

    #[tokio::test]
    async fn one_failing_message_does_not_mean_that_the_endpoint_is_down() {
        let (health, now) = (health(), Instant::now());
        let ticket = tickets(1)[0];
        for _ in 0..100 {
            assert!(!health.failed(0, ticket, None, now));
        }
        assert_eq!(health.ask(now), Permission::All);
    }

    #[tokio::test]
    async fn an_endpoint_that_is_down_is_probed_until_it_accepts_a_message() {
        let (health, now) = (health(), Instant::now());
        let tickets = tickets(DOWN_AFTER);
        let mut recovered = health.recovered();
        let went_down: Vec<_> =
            tickets.iter().map(|ticket| health.failed(0, *ticket, None, now)).collect();
        assert_eq!(went_down.iter().filter(|went_down| **went_down).count(), 1);
        assert_eq!(went_down.last(), Some(&true));
        let Permission::NoneBefore(at) = health.ask(now) else { panic!("it is down") };
        assert!(at >= now + RETRY.pause_min / 2 && at <= now + RETRY.pause_min);
        assert_eq!(health.ask(at), Permission::Probe);
        assert!(matches!(health.ask(at), Permission::NoneBefore(_)), "one at a time");
        health.failed(1, tickets[0], None, at);
        let Permission::NoneBefore(later) = health.ask(at) else { panic!("it is down still") };
        assert!(later >= at + RETRY.pause_min, "pauses grow");
        assert_eq!(health.ask(later), Permission::Probe);
        assert!(!recovered.has_changed().unwrap());
        assert!(health.accepted());
        assert!(recovered.has_changed().unwrap() && *recovered.borrow_and_update() == 1);
        assert_eq!(health.ask(later), Permission::All);
        assert!(!health.accepted());
    }

    #[tokio::test]
    async fn a_probe_without_an_outcome_expires() {
        let (health, now) = (health(), Instant::now());
        for ticket in tickets(DOWN_AFTER) {
            health.failed(0, ticket, None, now);
        }
        let Permission::NoneBefore(at) = health.ask(now) else { panic!("it is down") };
        assert_eq!(health.ask(at), Permission::Probe);
        health.unused();
        assert_eq!(health.ask(at), Permission::Probe, "it was given back");
        let Permission::NoneBefore(over) = health.ask(at) else { panic!("one is on its way") };
        assert_eq!(health.ask(over), Permission::Probe);
    }

    #[tokio::test]
    async fn retry_after_holds_all_messages_back() {
        let (health, now) = (health(), Instant::now());
        let ticket = tickets(1)[0];
        let hold = Duration::from_secs(60);
        health.failed(0, ticket, Some(hold), now);
        assert_eq!(health.ask(now), Permission::NoneBefore(now + hold));
        health.failed(0, ticket, Some(Duration::from_secs(1)), now);
        assert_eq!(health.ask(now), Permission::NoneBefore(now + hold), "the longest counts");
        assert_eq!(health.ask(now + hold), Permission::All);
    }
}
