//! Whether an endpoint takes anything at all: shared by the shards of a subscription.
//!
//! Some messages are refused while others are taken: that is between the endpoint and the message.
//! But when several different messages have failed, one after the other, with none taken between
//! them, the endpoint itself is down. Then it is asked with one message at a time, at growing pauses,
//! until it takes one.

use std::{collections::HashSet, time::Duration};

use parking_lot::Mutex;
use rand::RngExt;
use tokio::{sync::watch, time::Instant};

use super::{lanes::Ticket, retry::Retry};

/// So many different messages must have failed since the last that was taken.
pub(super) const DOWN_AFTER: usize = 5;

/// The health of one endpoint.
#[derive(Debug)]
pub(super) struct Health {
    retry: Retry,
    /// How long a try takes at most: a probe that was never heard of again is over by then.
    try_max: Duration,
    state: Mutex<State>,
    /// Counts how often it was there again.
    recovered: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    /// Those that failed since the last that was taken, by shard; [`DOWN_AFTER`] at most.
    failed: HashSet<(u32, Ticket)>,
    /// While it is down: failed probes, when the next one is due, and until when one is on its way.
    down: Option<Down>,
    /// Until when the endpoint asked to be left alone.
    held_until: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Down {
    probes: u32,
    next_probe: Instant,
    probing_until: Option<Instant>,
}

/// What may be sent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leave {
    /// Whatever is due.
    All,
    /// One message, to see whether the endpoint is there again; it is taken for sent.
    Probe,
    /// Nothing before this.
    Not(Instant),
}

/// What a failure means for the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing new.
    None,
    /// It was up, and is down.
    WentDown,
}

impl Health {
    pub(super) fn new(retry: Retry, try_max: Duration) -> Self {
        Self { retry, try_max, state: Mutex::default(), recovered: watch::Sender::new(0) }
    }

    /// Tells each time that the endpoint is there again.
    pub(super) fn recovered(&self) -> watch::Receiver<u64> {
        self.recovered.subscribe()
    }

    /// Whether, and what, may be sent.
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

    /// Nothing was there to probe with after all.
    pub(super) fn unused(&self) {
        if let Some(down) = &mut self.state.lock().down {
            down.probing_until = None;
        }
    }

    /// A message was taken. Answers whether the endpoint was down.
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

    /// A message was not taken. `hold` is for how long the endpoint asked to be left alone.
    pub(super) fn failed(
        &self,
        shard: u32,
        ticket: Ticket,
        hold: Option<Duration>,
        now: Instant,
    ) -> Change {
        let mut state = self.state.lock();
        if let Some(hold) = hold {
            state.held_until = state.held_until.max(Some(now + hold));
        }
        if state.failed.len() < DOWN_AFTER {
            state.failed.insert((shard, ticket));
        }
        let is_down = state.failed.len() >= DOWN_AFTER;
        match &mut state.down {
            // Those that were on their way when it went down are no probes.
            Some(down) if down.probing_until.is_some() => {
                down.probes = down.probes.saturating_add(1);
                down.probing_until = None;
                down.next_probe = now + self.pause(down.probes);
                Change::None
            }
            None if is_down => {
                let next_probe = now + self.pause(1);
                state.down = Some(Down { probes: 1, next_probe, probing_until: None });
                Change::WentDown
            }
            _ => Change::None,
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
    async fn one_message_that_is_refused_again_and_again_is_no_endpoint_that_is_down() {
        let (health, now) = (health(), Instant::now());
        let ticket = tickets(1)[0];
        for _ in 0..100 {
            assert_eq!(health.failed(0, ticket, None, now), Change::None);
        }
        assert_eq!(health.ask(now), Leave::All);
    }

    #[tokio::test]
    async fn an_endpoint_that_is_down_is_probed_until_it_takes_something() {
        let (health, now) = (health(), Instant::now());
        let tickets = tickets(DOWN_AFTER);
        let mut recovered = health.recovered();
        let changes: Vec<_> =
            tickets.iter().map(|ticket| health.failed(0, *ticket, None, now)).collect();
        assert_eq!(changes.iter().filter(|own| **own == Change::WentDown).count(), 1);
        assert_eq!(changes.last(), Some(&Change::WentDown));
        let Leave::Not(at) = health.ask(now) else { panic!("it is down") };
        assert!(at >= now + RETRY.pause_min / 2 && at <= now + RETRY.pause_min);
        assert_eq!(health.ask(at), Leave::Probe);
        assert!(matches!(health.ask(at), Leave::Not(_)), "one at a time");
        health.failed(1, tickets[0], None, at);
        let Leave::Not(later) = health.ask(at) else { panic!("it is down still") };
        assert!(later >= at + RETRY.pause_min, "pauses grow");
        assert_eq!(health.ask(later), Leave::Probe);
        assert!(!recovered.has_changed().unwrap());
        assert!(health.taken());
        assert!(recovered.has_changed().unwrap() && *recovered.borrow_and_update() == 1);
        assert_eq!(health.ask(later), Leave::All);
        assert!(!health.taken());
    }

    #[tokio::test]
    async fn a_probe_that_is_never_heard_of_again_keeps_nobody_waiting_for_ever() {
        let (health, now) = (health(), Instant::now());
        for ticket in tickets(DOWN_AFTER) {
            health.failed(0, ticket, None, now);
        }
        let Leave::Not(at) = health.ask(now) else { panic!("it is down") };
        assert_eq!(health.ask(at), Leave::Probe);
        health.unused();
        assert_eq!(health.ask(at), Leave::Probe, "it was given back");
        let Leave::Not(over) = health.ask(at) else { panic!("one is on its way") };
        assert_eq!(health.ask(over), Leave::Probe);
    }

    #[tokio::test]
    async fn who_asks_to_be_left_alone_is() {
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
