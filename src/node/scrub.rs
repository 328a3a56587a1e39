//! Re-verification of what recovery did not read: the older segments, in the background.
//!
//! Damage found here stops writes and raises the alarm; checks go on from the state they have.

use std::{
    fmt::Display,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tracing::{error, info};

use super::Core;
use crate::{ledger::verify, storage::disk::Disk};

/// The longest that the scrubber sleeps without looking whether it should end.
const NAP: Duration = Duration::from_millis(50);

/// What the scrubber works on.
#[derive(Debug)]
pub(super) struct Scrub {
    pub core: Arc<Core>,
    pub disk: Arc<dyn Disk>,
    pub dir: std::path::PathBuf,
    /// Entries before this index are verified.
    pub end: u64,
    pub bytes_per_second: u64,
    pub closing: Arc<AtomicBool>,
}

/// Starts the scrubber.
pub(super) fn start(scrub: Scrub) -> std::io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name("scrub".to_owned()).spawn(move || scrub.run())
}

impl Scrub {
    fn run(self) {
        let started = Instant::now();
        let mut bytes = 0;
        let mut walked = |payload: &[u8], position: u64| {
            bytes += payload.len() as u64;
            if position.is_multiple_of(1_024) {
                self.pace(started, bytes);
            }
            if self.closing.load(Ordering::Relaxed) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let ledger =
            verify::verify_before(&*self.disk, &self.dir, self.end, &mut |entry, frame| {
                if entry.index.is_multiple_of(1_024) {
                    self.core.metrics.scrub_verified_index.set(entry.index);
                }
                walked(frame.payload, entry.index)
            });
        if self.is_sound("ledger", ledger.map(|index| index == self.end)) {
            self.core.metrics.scrub_verified_index.set(self.end);
            let vault = self.core.vault.verify(&*self.disk, &mut walked);
            self.is_sound("vault", vault);
        }
    }

    /// Whether a walk came to its end without damage. Damage stops writes.
    fn is_sound<E: Display>(&self, what: &str, walked: Result<bool, E>) -> bool {
        walked.map_or_else(
            |problem| {
                error!(store = what, %problem, "an older segment can not be verified");
                self.core.stop_writes(&format!("{what}: {problem}"));
                false
            },
            |to_the_end| {
                // Otherwise it was told to close.
                if to_the_end {
                    info!(store = what, "the older segments are verified");
                }
                to_the_end
            },
        )
    }

    /// Sleeps until the bytes read so far are due at the configured rate.
    fn pace(&self, started: Instant, bytes: u64) {
        let due = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        while let Some(left) = due.checked_sub(started.elapsed()).filter(|left| !left.is_zero()) {
            if self.closing.load(Ordering::Relaxed) {
                return;
            }
            thread::sleep(left.min(NAP));
        }
    }
}
