//! The freshness of the cache: the moment up to which all acknowledged acts are known. See the
//! argument in the parent module.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use tokio::time::Instant;

/// How many answers wait for the stream to reach their revision. Beyond, the latest are left out.
const WAITING_MAX: usize = 64;

/// Now, on both of this machine's clocks. Time is an argument here.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) mono: Instant,
    wall_ms: u64,
}

impl Now {
    pub(super) fn read() -> Self {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let wall_ms =
            since_epoch.map_or(0, |span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
        Self { mono: Instant::now(), wall_ms }
    }
}

/// A moment before which everything that was acknowledged is known, on both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    /// Since `Freshness::born`, plus one: 0 means none.
    mono_ns: u64,
    wall_ms: u64,
}

/// A question that is on its way to the server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    at: Now,
    /// Where the stream was by then.
    position: Option<u64>,
    /// The epoch in which it was sent: see [`Tracked::epoch`].
    pub(super) epoch: u64,
}

/// The ledger has fewer entries than the stream has delivered.
#[derive(Debug)]
pub(super) struct Contradiction;

#[derive(Debug)]
pub(super) struct Freshness {
    born: Instant,
    /// The [`Mark`], for lock-free readers. The two fields are written one after the other. A
    /// reader that mixes two marks takes the older of two ages, so nothing looks younger than it
    /// is.
    mono_ns: AtomicU64,
    wall_ms: AtomicU64,
    /// The latest possible reading of the server's clock minus the time since `born`, in
    /// milliseconds; 0 means not known.
    server_offset_ms: AtomicU64,
    tracked: Mutex<Tracked>,
}

#[derive(Debug, Default)]
struct Tracked {
    /// Every event before it was delivered, and the affected answers removed.
    position: Option<u64>,
    /// Questions by when they were asked, with the revision of their answer.
    waiting: VecDeque<(Now, u64)>,
    /// When the present connection's stream was asked for, until its first progress message.
    asked_at: Option<Instant>,
    contradicted: bool,
    /// How often the cache was emptied. A response to an earlier request may come from another
    /// server, and is ignored.
    epoch: u64,
}

impl Freshness {
    pub(super) fn new(now: Now) -> Self {
        Self {
            born: now.mono,
            mono_ns: AtomicU64::new(0),
            wall_ms: AtomicU64::new(0),
            server_offset_ms: AtomicU64::new(0),
            tracked: Mutex::default(),
        }
    }

    /// As of when the cache is fresh, if it is at all.
    pub(super) fn mark(&self) -> Option<Mark> {
        let mono_ns = self.mono_ns.load(Ordering::Acquire);
        let wall_ms = self.wall_ms.load(Ordering::Acquire);
        (mono_ns > 0).then_some(Mark { mono_ns, wall_ms })
    }

    /// How long ago that was.
    pub(super) fn age_of(&self, mark: Mark, now: Now) -> Duration {
        let mono = self.since_born(now.mono).saturating_sub(mark.mono_ns);
        let wall = now.wall_ms.saturating_sub(mark.wall_ms);
        Duration::from_nanos(mono).max(Duration::from_millis(wall))
    }

    /// The latest possible reading of the server's clock now, in milliseconds since the Unix epoch.
    pub(super) fn server_ms_max(&self, now: Now) -> Option<u64> {
        let offset = self.server_offset_ms.load(Ordering::Acquire);
        // Rounded up.
        (offset > 0).then(|| offset + self.ms_since_born(now.mono) + 1)
    }

    /// A question is about to be sent.
    pub(super) fn ask(&self, now: Now) -> Asked {
        let tracked = self.tracked.lock();
        Asked { at: now, position: tracked.position, epoch: tracked.epoch }
    }

    /// A question was answered at a revision.
    ///
    /// # Errors
    /// Before the question was sent, the stream had delivered more entries than the answer's
    /// revision has. The cache is not fresh then until [`Self::forget`].
    pub(super) fn answered(&self, asked: Asked, revision: u64) -> Result<(), Contradiction> {
        let mut tracked = self.tracked.lock();
        if asked.epoch != tracked.epoch {
            return Ok(());
        }
        if asked.position.is_some_and(|position| position > revision) {
            tracked.contradicted = true;
            self.mono_ns.store(0, Ordering::Release);
            return Err(Contradiction);
        }
        if tracked.position.is_some_and(|position| revision <= position) {
            self.advance(&tracked, asked.at);
        } else if tracked.waiting.len() < WAITING_MAX {
            tracked.waiting.push_back((asked.at, revision));
        }
        Ok(())
    }

    /// Every event before `next_index` was delivered, and the affected answers removed.
    pub(super) fn reached(&self, next_index: u64) {
        let mut tracked = self.tracked.lock();
        // Before the first progress message the stream's position is not known.
        if tracked.position.is_some() {
            self.reach(&mut tracked, next_index);
        }
    }

    /// As [`Self::reached`], with the server's time.
    pub(super) fn progress(
        &self,
        next_index: u64,
        as_of: Option<&prost_types::Timestamp>,
        now: Now,
    ) {
        let mut tracked = self.tracked.lock();
        self.reach(&mut tracked, next_index);
        let asked_at = tracked.asked_at.take();
        if let Some(as_of_ms) = as_of.and_then(millis) {
            self.hear_clock(asked_at, as_of_ms, now);
        }
    }

    fn reach(&self, tracked: &mut Tracked, next_index: u64) {
        let position = tracked.position.map_or(next_index, |known| known.max(next_index));
        tracked.position = Some(position);
        let reached = tracked.waiting.iter().filter(|(_, revision)| *revision <= position);
        if let Some(asked_at) = reached.map(|(at, _)| *at).max_by_key(|at| at.mono) {
            self.advance(tracked, asked_at);
        }
        tracked.waiting.retain(|(_, revision)| *revision > position);
    }

    /// A stream was opened that was asked for at `asked_at`.
    pub(super) fn connected(&self, asked_at: Instant) {
        self.tracked.lock().asked_at = Some(asked_at);
    }

    /// Forgets everything, and returns the epoch that begins.
    pub(super) fn forget(&self) -> u64 {
        let mut tracked = self.tracked.lock();
        let epoch = tracked.epoch + 1;
        *tracked = Tracked { epoch, ..Tracked::default() };
        self.mono_ns.store(0, Ordering::Release);
        self.server_offset_ms.store(0, Ordering::Release);
        epoch
    }

    pub(super) fn is_contradicted(&self) -> bool {
        self.tracked.lock().contradicted
    }

    fn advance(&self, tracked: &Tracked, asked_at: Now) {
        let mono_ns = self.since_born(asked_at.mono);
        if tracked.contradicted || mono_ns <= self.mono_ns.load(Ordering::Relaxed) {
            return;
        }
        self.wall_ms.store(asked_at.wall_ms, Ordering::Release);
        self.mono_ns.store(mono_ns, Ordering::Release);
    }

    /// The server's clock read `as_of_ms` before now and, if that is known, after `asked_at`.
    fn hear_clock(&self, asked_at: Option<Instant>, as_of_ms: u64, now: Now) {
        // The reading was made after the request, so the clock has advanced at most this much
        // since.
        let latest = |since: Instant| as_of_ms.saturating_sub(self.ms_since_born(since));
        let offset = match asked_at {
            Some(asked_at) => latest(asked_at),
            // The reading was made before now. If it is already later, the clock was set forward.
            None => {
                let known = self.server_offset_ms.load(Ordering::Relaxed);
                if known == 0 { 0 } else { known.max(latest(now.mono)) }
            }
        };
        self.server_offset_ms.store(offset, Ordering::Release);
    }

    fn since_born(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.born).as_nanos();
        u64::try_from(since).unwrap_or(u64::MAX).saturating_add(1)
    }

    fn ms_since_born(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.born).as_millis()).unwrap_or(u64::MAX)
    }
}

/// Milliseconds since the Unix epoch; none before it.
pub(super) fn millis(time: &prost_types::Timestamp) -> Option<u64> {
    let seconds = u64::try_from(time.seconds).ok()?;
    let nanos = u64::try_from(time.nanos).ok()?;
    seconds.checked_mul(1_000)?.checked_add(nanos / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timestamp(seconds: i64) -> prost_types::Timestamp {
        prost_types::Timestamp { seconds, nanos: 0 }
    }

    /// Clocks under the control of the test.
    struct World {
        start: Instant,
        freshness: Freshness,
    }

    impl World {
        fn new() -> Self {
            let start = Instant::now();
            let freshness = Freshness::new(Now { mono: start, wall_ms: 0 });
            Self { start, freshness }
        }

        /// So many seconds after the start, on both clocks.
        fn at(&self, seconds: u64) -> Now {
            Now { mono: self.start + Duration::from_secs(seconds), wall_ms: seconds * 1_000 }
        }

        fn age_at(&self, now: Now) -> Option<u64> {
            self.freshness.mark().map(|mark| self.freshness.age_of(mark, now).as_secs())
        }

        /// A question at one time, and its answer.
        fn ask(&self, seconds: u64, revision: u64) -> Result<(), Contradiction> {
            let asked = self.freshness.ask(self.at(seconds));
            self.freshness.answered(asked, revision)
        }
    }

    #[test]
    fn it_is_as_fresh_as_the_question_was_sent_and_not_as_the_answer_came() {
        let world = World::new();
        world.freshness.progress(10, None, world.at(1));
        let asked = world.freshness.ask(world.at(2));
        assert_eq!(world.age_at(world.at(4)), None, "it is not answered");
        world.freshness.answered(asked, 10).unwrap();
        assert_eq!(world.age_at(world.at(5)), Some(3));
        // An older question that is answered later makes it no older.
        let (older, newer) = (world.freshness.ask(world.at(6)), world.freshness.ask(world.at(7)));
        world.freshness.answered(newer, 10).unwrap();
        world.freshness.answered(older, 10).unwrap();
        assert_eq!(world.age_at(world.at(7)), Some(0));
    }

    #[test]
    fn a_machine_that_slept_knows_it_by_its_wall_clock() {
        let world = World::new();
        world.freshness.progress(10, None, world.at(1));
        world.ask(2, 10).unwrap();
        let awake = Now { mono: world.at(3).mono, wall_ms: 90_000 };
        assert_eq!(world.age_at(awake), Some(88));
        let set_back = Now { mono: world.at(9).mono, wall_ms: 0 };
        assert_eq!(world.age_at(set_back), Some(7));
    }

    #[test]
    fn an_answer_counts_once_the_stream_has_told_what_it_knew() {
        let world = World::new();
        world.ask(1, 12).unwrap();
        assert_eq!(world.age_at(world.at(1)), None, "no stream yet");
        world.freshness.reached(12);
        assert_eq!(world.age_at(world.at(1)), None, "its place is not known before it says so");
        world.freshness.progress(10, None, world.at(2));
        assert_eq!(world.age_at(world.at(2)), None, "10 and 11 are still to come");
        world.freshness.reached(12);
        assert_eq!(world.age_at(world.at(4)), Some(3));
    }

    #[test]
    fn a_ledger_that_lost_entries_is_not_believed() {
        let world = World::new();
        world.freshness.progress(10, None, world.at(0));
        world.ask(1, 10).unwrap();
        assert_eq!(world.age_at(world.at(1)), Some(0));
        assert!(world.ask(2, 9).is_err());
        assert!(world.freshness.is_contradicted());
        world.ask(3, 10).unwrap();
        assert_eq!(world.age_at(world.at(3)), None, "not before everything is forgotten");
        world.freshness.forget();
        world.freshness.progress(9, None, world.at(4));
        world.ask(5, 9).unwrap();
        assert_eq!(world.age_at(world.at(5)), Some(0));
    }

    #[test]
    fn an_answer_from_before_everything_was_forgotten_counts_for_nothing() {
        let world = World::new();
        world.freshness.progress(10, None, world.at(0));
        let asked = world.freshness.ask(world.at(1));
        world.freshness.forget();
        world.freshness.progress(12, None, world.at(2));
        world.freshness.answered(asked, 9).unwrap();
        world.freshness.answered(asked, 12).unwrap();
        assert_eq!(world.age_at(world.at(2)), None);
        assert!(!world.freshness.is_contradicted());
    }

    #[test]
    fn the_servers_clock_is_taken_for_as_late_as_it_can_be() {
        let world = World::new();
        let latest = |seconds| world.freshness.server_ms_max(world.at(seconds));
        assert_eq!(latest(0), None);
        world.freshness.connected(world.at(100).mono);
        // The reading was made at some time within these four seconds, perhaps at once.
        world.freshness.progress(1, Some(&timestamp(1_000)), world.at(104));
        assert_eq!(latest(104), Some(1_004_001));
        // A later word that was on its way for long changes nothing.
        world.freshness.progress(1, Some(&timestamp(1_005)), world.at(114));
        assert_eq!(latest(114), Some(1_014_001));
        // A clock that was set forward is believed at once.
        world.freshness.progress(1, Some(&timestamp(2_000)), world.at(114));
        assert_eq!(latest(114), Some(2_000_001));
    }
}
