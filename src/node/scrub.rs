//! Background verification of the older segments, which recovery does not read.
//!
//! Damage stops writes and is logged as an error; checks go on with the state in the view.

use std::{
    fmt::Display,
    io,
    ops::ControlFlow,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::{error, info};

use super::{Core, NodeConfig};
use crate::{
    ledger::{self, verify},
    shutdown::{Shutdown, Stage, Threads},
    storage::disk::Disk,
};

/// The state of the scrubber.
#[derive(Debug)]
struct Scrub {
    core: Arc<Core>,
    disk: Arc<dyn Disk>,
    /// Folder of the ledger.
    dir: PathBuf,
    /// Entries before this index are verified.
    end: u64,
    bytes_per_second: u64,
    shutdown: Shutdown,
}

/// Starts the scrubber, unless it is turned off. It verifies the entries before `end` and the vault. It
/// ends at [`Stage::Writer`], or when it is done.
pub(super) fn start(
    core: &Arc<Core>,
    threads: &Threads,
    disk: Arc<dyn Disk>,
    end: u64,
    config: &NodeConfig,
) -> io::Result<()> {
    if config.scrub_bytes_per_second == 0 {
        return Ok(());
    }
    let scrub = Scrub {
        core: Arc::clone(core),
        disk,
        dir: config.data_dir.join(ledger::DIR),
        end,
        bytes_per_second: config.scrub_bytes_per_second,
        shutdown: threads.shutdown().clone(),
    };
    threads.spawn("scrub", Stage::Writer, || {}, move || scrub.run())?;
    Ok(())
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
            if self.shutdown.has_reached(Stage::Writer) {
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

    /// Whether a walk reached its end without damage. Damage stops writes.
    fn is_sound<E: Display>(&self, store: &str, reached_end: Result<bool, E>) -> bool {
        match reached_end {
            Ok(true) => {
                info!(store, "the older segments are verified");
                true
            }
            // The node is closing.
            Ok(false) => false,
            Err(problem) => {
                error!(store, %problem, "an older segment can not be verified");
                self.core.stop_writes(&format!("{store}: {problem}"));
                false
            }
        }
    }

    /// Sleeps until the bytes read so far are due at the configured rate.
    fn pace(&self, started: Instant, bytes: u64) {
        let due = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        // The walk itself checks whether it must end.
        let _ = self.shutdown.sleep(due.saturating_sub(started.elapsed()), Stage::Writer);
    }
}
