//! The clock of a node, and whether it can be trusted.
//!
//! An entry keeps its time for ever, and times of the ledger never go back: one act with a time of next
//! year makes every correct time after it too early. So the clock is compared with one that cannot be
//! set, the time since the machine was started. It is *in doubt*
//!
//! * when it jumps ahead by more than a bound while the node runs, and
//! * when it is more than [`GAP_AT_START_MS_MAX`] later than the ledger's last entry as the node starts,
//!   unless the operator says that it is right,
//!
//! until the system says that its clock is synchronised, or the clock has gone back. Meanwhile there are
//! two times: the *claimed* one, which the clock shows, and the *sane* one, which is the last trusted
//! time and what has passed since. This module does not know what they are used for; `node` does.
//!
//! A clock that goes back is not in doubt: the ledger then keeps the time of its last entry.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::domain::Millis;

/// How much later than the last entry the clock may be at a start.
pub const GAP_AT_START_MS_MAX: i64 = 24 * 3_600 * 1_000;
/// How often the system is asked whether its clock is synchronised while the clock is in doubt.
const ASK_INTERVAL_MS: i64 = 1_000;

/// Where times come from.
pub trait TimeSource: fmt::Debug + Send + Sync {
    /// The time on the clock, which can be set.
    fn wall(&self) -> Millis;
    /// The time since the machine was started, which cannot be set. It goes on while the machine sleeps.
    fn since_boot(&self) -> Duration;
    /// Whether something keeps the clock right, such as NTP.
    fn is_synchronised(&self) -> bool;
}

/// The clocks of the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemTime;

impl TimeSource for SystemTime {
    fn wall(&self) -> Millis {
        Millis::now()
    }

    fn since_boot(&self) -> Duration {
        #[cfg(target_os = "linux")]
        let clock = ClockId::Boottime;
        #[cfg(not(target_os = "linux"))]
        let clock = ClockId::Monotonic;
        let time = clock_gettime(clock);
        Duration::new(
            u64::try_from(time.tv_sec).unwrap_or_default(),
            u32::try_from(time.tv_nsec).unwrap_or_default(),
        )
    }

    /// As the kernel says. Setting the clock by hand clears it; a daemon of NTP or PTP sets it again.
    #[cfg(target_os = "linux")]
    fn is_synchronised(&self) -> bool {
        use rtime_clock::adjtime::{Timex, adjtimex};
        /// `TIME_ERROR` of `adjtimex(2)`: the clock is not synchronised.
        const TIME_ERROR: i32 = 5;
        adjtimex(&mut Timex::new()).is_ok_and(|state| state != TIME_ERROR)
    }

    #[cfg(not(target_os = "linux"))]
    fn is_synchronised(&self) -> bool {
        false
    }
}

/// One look at the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// The time that the clock shows.
    pub claimed: Millis,
    /// The last trusted time and what has passed since; `claimed` if that is trusted.
    pub sane: Millis,
    /// Whether the clock is trusted.
    pub is_trusted: bool,
}

impl Reading {
    fn trusted(at: Millis) -> Self {
        Self { claimed: at, sane: at, is_trusted: true }
    }

    /// How far the clock is ahead of the sane time.
    #[must_use]
    pub fn ahead_ms(&self) -> i64 {
        self.claimed.0.saturating_sub(self.sane.0)
    }
}

/// A clock that notices when it jumps.
#[derive(Debug)]
pub struct Clock {
    source: Arc<dyn TimeSource>,
    jump_ms_max: i64,
    /// The trusted time minus the time since boot. Lowered when the clock goes back. Raised only while
    /// `settling` is locked.
    offset_ms: AtomicI64,
    /// How far ahead of the trusted time the clock may be. Changed only while `settling` is locked.
    tolerance_ms: AtomicI64,
    /// Changed only while `settling` is locked.
    is_in_doubt: AtomicBool,
    settling: Mutex<Settling>,
    /// Whether the clock is trusted, for those who wait for a change.
    trust: watch::Sender<bool>,
}

/// What is known of a doubt.
#[derive(Debug, Default)]
struct Settling {
    /// When the system was last asked, by the time since boot.
    asked_ms: Option<i64>,
}

impl Clock {
    /// A clock at the start of a node. `last_entry_at` is the last sane time on record. With `trusted`,
    /// the operator says that the clock is right now.
    #[must_use]
    pub fn new(
        source: Arc<dyn TimeSource>,
        last_entry_at: Millis,
        jump_max: Duration,
        trusted: bool,
    ) -> Self {
        let (wall, boot_ms) = (source.wall(), millis(source.since_boot()));
        let jump_ms_max = millis(jump_max);
        let gap_ms = wall.0.saturating_sub(last_entry_at.0);
        let has_gap = gap_ms > GAP_AT_START_MS_MAX && !trusted;
        let (anchor, tolerance_ms) = match has_gap {
            true => (last_entry_at, GAP_AT_START_MS_MAX),
            false => (wall, jump_ms_max),
        };
        let clock = Self {
            source,
            jump_ms_max,
            offset_ms: AtomicI64::new(anchor.0.saturating_sub(boot_ms)),
            tolerance_ms: AtomicI64::new(tolerance_ms),
            is_in_doubt: AtomicBool::new(false),
            settling: Mutex::default(),
            trust: watch::Sender::new(true),
        };
        clock.read();
        clock
    }

    /// Looks at the clock. Takes no lock while the clock is trusted.
    pub fn read(&self) -> Reading {
        let (wall, boot_ms) = self.now();
        let ahead_ms = self.ahead_ms(wall, boot_ms);
        let is_expected = (0..=self.tolerance_ms.load(Relaxed)).contains(&ahead_ms);
        if is_expected && !self.is_in_doubt.load(Relaxed) {
            return Reading::trusted(wall);
        }
        self.settle()
    }

    /// Whether the clock was trusted at the last look; the receiver learns of changes.
    #[must_use]
    pub fn trust(&self) -> watch::Receiver<bool> {
        self.trust.subscribe()
    }

    fn now(&self) -> (Millis, i64) {
        (self.source.wall(), millis(self.source.since_boot()))
    }

    fn ahead_ms(&self, wall: Millis, boot_ms: i64) -> i64 {
        let expected = self.offset_ms.load(Relaxed).saturating_add(boot_ms);
        wall.0.saturating_sub(expected)
    }

    fn settle(&self) -> Reading {
        let mut settling = self.settling.lock();
        let (wall, boot_ms) = self.now();
        let ahead_ms = self.ahead_ms(wall, boot_ms);
        if ahead_ms > self.tolerance_ms.load(Relaxed)
            && !self.says_synchronised(&mut settling, boot_ms)
        {
            self.doubt(ahead_ms);
            let sane = Millis(wall.0.saturating_sub(ahead_ms));
            return Reading { claimed: wall, sane, is_trusted: false };
        }
        // It went back, is synchronised, or is near the last entry: it counts from here.
        let was_in_doubt = self.is_in_doubt.load(Relaxed);
        let is_anchor = ahead_ms < 0 || was_in_doubt || ahead_ms > self.jump_ms_max;
        if is_anchor {
            self.offset_ms.store(wall.0.saturating_sub(boot_ms), Relaxed);
        }
        self.tolerance_ms.store(self.jump_ms_max, Relaxed);
        settling.asked_ms = None;
        if was_in_doubt {
            self.is_in_doubt.store(false, Relaxed);
            self.trust.send_replace(true);
            info!("the clock is trusted again: grants are taken");
        } else if ahead_ms > self.jump_ms_max {
            warn!(ahead_ms, "the clock jumped ahead, and the system says that it is synchronised");
        }
        Reading::trusted(wall)
    }

    /// Whether the system says that its clock is synchronised. Asked once an interval.
    fn says_synchronised(&self, settling: &mut Settling, boot_ms: i64) -> bool {
        if settling.asked_ms.is_some_and(|asked| boot_ms < asked.saturating_add(ASK_INTERVAL_MS)) {
            return false;
        }
        settling.asked_ms = Some(boot_ms);
        self.source.is_synchronised()
    }

    fn doubt(&self, ahead_ms: i64) {
        if !self.is_in_doubt.swap(true, Relaxed) {
            self.trust.send_replace(false);
            error!(
                ahead_ms,
                "the clock is ahead of the last sane time and the system does not say that it is synchronised: no grants \
                 are taken, and stops are taken as of the last sane time. If the clock is right, start \
                 again with --trust-clock"
            );
        }
    }
}

/// Whole milliseconds.
fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: i64 = 1_790_000_000_000;
    const HOUR: i64 = 3_600_000;
    const DAY: i64 = 24 * HOUR;
    const JUMP_MAX: Duration = Duration::from_secs(300);

    /// Clocks under the control of the test.
    #[derive(Debug, Default)]
    struct Hands {
        wall: AtomicI64,
        boot: AtomicI64,
        synchronised: AtomicBool,
    }

    impl Hands {
        fn new() -> Arc<Self> {
            Arc::new(Self { wall: AtomicI64::new(START), ..Self::default() })
        }

        /// Both clocks go on.
        fn pass(&self, span_ms: i64) {
            self.wall.fetch_add(span_ms, Relaxed);
            self.boot.fetch_add(span_ms, Relaxed);
        }

        /// The clock is set.
        fn jump(&self, span_ms: i64) {
            self.wall.fetch_add(span_ms, Relaxed);
        }
    }

    impl TimeSource for Hands {
        fn wall(&self) -> Millis {
            Millis(self.wall.load(Relaxed))
        }

        fn since_boot(&self) -> Duration {
            Duration::from_millis(self.boot.load(Relaxed).unsigned_abs())
        }

        fn is_synchronised(&self) -> bool {
            self.synchronised.load(Relaxed)
        }
    }

    fn started(hands: &Arc<Hands>, last_entry_at: i64, trusted: bool) -> Clock {
        Clock::new(
            Arc::clone(hands) as Arc<dyn TimeSource>,
            Millis(last_entry_at),
            JUMP_MAX,
            trusted,
        )
    }

    #[test]
    fn time_that_passes_is_trusted_however_long() {
        let hands = Hands::new();
        let clock = started(&hands, START, false);
        for span_ms in [0, 1, HOUR, 400 * DAY] {
            hands.pass(span_ms);
            assert_eq!(clock.read(), Reading::trusted(hands.wall()));
        }
        hands.jump(299_000);
        assert!(clock.read().is_trusted, "a small step is how clocks are set right");
    }

    #[test]
    fn a_jump_is_doubted_until_the_clock_goes_back() {
        let hands = Hands::new();
        let clock = started(&hands, START, false);
        hands.jump(365 * DAY);
        hands.pass(HOUR);
        let reading = clock.read();
        assert!(!reading.is_trusted && !*clock.trust().borrow());
        assert_eq!((reading.sane, reading.claimed), (Millis(START + HOUR), hands.wall()));
        assert_eq!(reading.ahead_ms(), 365 * DAY);
        hands.jump(-365 * DAY);
        assert_eq!(clock.read(), Reading::trusted(Millis(START + HOUR)));
        assert!(*clock.trust().borrow());
        hands.jump(365 * DAY);
        assert!(!clock.read().is_trusted, "again");
    }

    #[test]
    fn a_jump_is_doubted_until_the_clock_is_synchronised() {
        let hands = Hands::new();
        let clock = started(&hands, START, false);
        hands.jump(2 * DAY);
        assert!(!clock.read().is_trusted);
        hands.synchronised.store(true, Relaxed);
        assert!(!clock.read().is_trusted, "the system is asked once a second");
        hands.pass(ASK_INTERVAL_MS);
        assert_eq!(clock.read(), Reading::trusted(hands.wall()));
        // From here on it counts from the new time.
        hands.synchronised.store(false, Relaxed);
        hands.pass(DAY);
        assert!(clock.read().is_trusted);
        hands.jump(DAY);
        assert!(!clock.read().is_trusted);
    }

    #[test]
    fn after_a_step_back_the_same_step_ahead_is_a_jump() {
        let hands = Hands::new();
        let clock = started(&hands, START, false);
        hands.jump(-30 * DAY);
        assert_eq!(clock.read(), Reading::trusted(hands.wall()));
        hands.jump(20 * DAY);
        assert!(!clock.read().is_trusted);
    }

    #[test]
    fn a_start_long_after_the_last_entry_is_doubted_unless_somebody_vouches_for_the_clock() {
        let hands = Hands::new();
        assert!(started(&hands, START - DAY, false).read().is_trusted);
        assert!(started(&hands, START + DAY, false).read().is_trusted, "the clock went back");
        let clock = started(&hands, START - DAY - 1, false);
        hands.pass(HOUR);
        let reading = clock.read();
        assert_eq!((reading.is_trusted, reading.sane), (false, Millis(START - DAY - 1 + HOUR)));
        assert!(started(&hands, START - 9 * DAY, true).read().is_trusted);
        hands.synchronised.store(true, Relaxed);
        assert!(started(&hands, START - 9 * DAY, false).read().is_trusted);
        hands.synchronised.store(false, Relaxed);
        // Set right, by less than a day after the last entry.
        hands.jump(-HOUR);
        assert!(clock.read().is_trusted);
        hands.jump(2 * HOUR);
        assert!(!clock.read().is_trusted, "the bound of a running node holds");
    }

    #[test]
    fn the_operating_system_has_such_clocks() {
        let (wall, boot) = (SystemTime.wall(), SystemTime.since_boot());
        assert!(wall > Millis(START) && boot > Duration::ZERO);
        assert!(SystemTime.since_boot() >= boot);
        // Either answer is right; it must not fail.
        let _ = SystemTime.is_synchronised();
    }
}
