//! Whether an endpoint is down: shared by the shards of a subscription.
//!
//! If an endpoint refuses some messages and takes others, the fault lies with the message. If several
//! different messages fail in a row and none is taken in between, the endpoint itself is down. Then it
//! is probed with one message at a time, with growing pauses, until it takes one.

use std::{collections::HashSet, time::Duration};

use parking_lot::Mutex;
use rand::RngExt;
use tokio::{sync::watch, time::Instant};

use super::{lanes::Ticket, retry::Retry};

/// Number of different messages that must fail in a row before the endpoint counts as down.
pub(super) const DOWN_AFTER: usize = 5;

/// The health of one endpoint.
#[derive(Debug)]
pub(super) struct Health {
    retry: Retry,
    /// Maximum time of a try: a probe without a result is over by then.
    try_max: Duration,
    state: Mutex<State>,
    /// Number of recoveries.
    recovered: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    /// Messages, by shard, that failed since one was taken; at most [`DOWN_AFTER`].
    failed: HashSet<(u32, Ticket)>,
    /// Set while the endpoint is down.
    down: Option<Down>,
    /// End of the pause that the endpoint asked for.
    held_until: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Down {
    /// Number of failed probes.
    probes: u32,
    next_probe: Instant,
    /// Set while a probe is in flight: when it is over at the latest.
    probing_until: Option<Instant>,
}

/// What may be sent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leave {
    /// Every message that is due.
    All,
    /// One message, as a probe. It counts as in flight from now on.
    Probe,
    /// Nothing before this moment.
    Not(Instant),
}

impl Health {
    pub(super) fn new(retry: Retry, try_max: Duration) -> Self {
        Self { retry, try_max, state: Mutex::default(), recovered: watch::Sender::new(0) }
    }

    /// Changes with each recovery of the endpoint.
    pub(super) fn recovered(&self) -> watch::Receiver<u64> {
        self.recovered.subscribe()
    }

    /// What may be sent now.
    pub(super) fn ask(&self, now: Instant) -> Leave {
        let mut state = self.state.lock();
        if let Some(until) = state.held_until.filter(|until| *until > now) {
            return Leave::Not(until);
        }
        let Some(down) = &mut state.down else { return Leave::All };
        if let Some(until) = down.probing_until.filter(|until| *until > now) {
            return Leave::Not(until);
        }
        if down.next_probe > now {
            return Leave::Not(down.next_probe);
        }
        down.probing_until = Some(now + self.try_max);
        Leave::Probe
    }

    /// Gives [`Leave::Probe`] back: there was no message to probe with.
    pub(super) fn unused(&self) {
        if let Some(down) = &mut self.state.lock().down {
            down.probing_until = None;
        }
    }

    /// Notes that a message was taken. Returns whether the endpoint was down.
    pub(super) fn taken(&self) -> bool {
        let mut state = self.state.lock();
        state.failed.clear();
        let was_down = state.down.take().is_some();
        drop(state);
        if was_down {
            self.recovered.send_modify(|times| *times += 1);
        }
        was_down
    }

    /// Notes that a message was not taken; `hold` is the pause that the endpoint asked for. Returns
    /// whether the endpoint was up and is down now.
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
            // Messages that were in flight when the endpoint went down are no probes.
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
    async fn repeated_refusal_of_one_message_does_not_mean_the_endpoint_is_down() {
        let (health, now) = (health(), Instant::now());
        let ticket = tickets(1)[0];
        for _ in 0..100 {
            assert!(!health.failed(0, ticket, None, now));
        }
        assert_eq!(health.ask(now), Leave::All);
    }

    #[tokio::test]
    async fn an_endpoint_that_is_down_is_probed_until_it_takes_something() {
        let (health, now) = (health(), Instant::now());
        let tickets = tickets(DOWN_AFTER);
        let mut recovered = health.recovered();
        let went_down: Vec<_> =
            tickets.iter().map(|ticket| health.failed(0, *ticket, None, now)).collect();
        assert_eq!(went_down, [false, false, false, false, true]);
        let Leave::Not(at) = health.ask(now) else { panic!("it is down") };
        assert!(at >= now + RETRY.pause_min / 2 && at <= now + RETRY.pause_min);
        assert_eq!(health.ask(at), Leave::Probe);
        assert!(matches!(health.ask(at), Leave::Not(_)), "one at a time");
        health.failed(1, tickets[0], None, at);
        let Leave::Not(later) = health.ask(at) else { panic!("it is still down") };
        assert!(later >= at + RETRY.pause_min, "pauses grow");
        assert_eq!(health.ask(later), Leave::Probe);
        assert!(!recovered.has_changed().unwrap());
        assert!(health.taken());
        assert!(recovered.has_changed().unwrap() && *recovered.borrow_and_update() == 1);
        assert_eq!(health.ask(later), Leave::All);
        assert!(!health.taken());
    }

    #[tokio::test]
    async fn a_probe_without_a_result_expires() {
        let (health, now) = (health(), Instant::now());
        for ticket in tickets(DOWN_AFTER) {
            health.failed(0, ticket, None, now);
        }
        let Leave::Not(at) = health.ask(now) else { panic!("it is down") };
        assert_eq!(health.ask(at), Leave::Probe);
        health.unused();
        assert_eq!(health.ask(at), Leave::Probe, "it was given back");
        let Leave::Not(over) = health.ask(at) else { panic!("a probe is in flight") };
        assert_eq!(health.ask(over), Leave::Probe);
    }

    #[tokio::test]
    async fn the_longest_pause_that_an_endpoint_asks_for_is_kept() {
        let (health, now) = (health(), Instant::now());
        let ticket = tickets(1)[0];
        let hold = Duration::from_secs(60);
        health.failed(0, ticket, Some(hold), now);
        assert_eq!(health.ask(now), Leave::Not(now + hold));
        health.failed(0, ticket, Some(Duration::from_secs(1)), now);
        assert_eq!(health.ask(now), Leave::Not(now + hold), "the longest counts");
        assert_eq!(health.ask(now + hold), Leave::All);
    }
}
