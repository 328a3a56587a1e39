//! Background verification of the older segments, which recovery does not read, and of the tree.
//!
//! Damage of ledger or vault stops writes and is logged as an error; checks go on with the state in the
//! view. Damage of the tree is logged as an error, and the next start builds the tree again: it is
//! disposable, and every proof is verified before it is given away.

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
    tlog::merkle::leaf_hash,
    tree::TreeCheck,
};

/// About how many bytes of entries are read at a time.
const READ_BYTES: usize = 256 << 10;

/// The state of the scrubber.
#[derive(Debug)]
struct Scrub {
    core: Arc<Core>,
    disk: Arc<dyn Disk>,
    /// Folder of the ledger.
    dir: PathBuf,
    /// Entries before this index are verified.
    end: u64,
    /// Number of entries whose hashes in the tree are verified.
    size: u64,
    bytes_per_second: u64,
    shutdown: Shutdown,
}

/// Starts the scrubber, unless it is turned off. It verifies the entries before `end`, the tree and the
/// vault. It ends at [`Stage::Writer`], or when it is done.
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
        size: core.checkpoints.files.size(),
        bytes_per_second: config.scrub_bytes_per_second,
        shutdown: threads.shutdown().clone(),
    };
    threads.spawn("scrub", Stage::Writer, || {}, move || scrub.run())?;
    Ok(())
}

impl Scrub {
    fn run(self) {
        let mut walk = Walked::new(&self);
        let tree = self.core.checkpoints.files.clone();
        let mut check = TreeCheck::new(tree.clone());
        let mut tree_problem = None;
        let mut hashed = |payload: &[u8]| {
            if tree_problem.is_none() {
                tree_problem = check.push(leaf_hash(payload)).err();
            }
        };
        let ledger =
            verify::verify_before(&*self.disk, &self.dir, self.end, &mut |entry, frame| {
                if entry.index.is_multiple_of(1_024) {
                    self.core.metrics.scrub_verified_index.set(entry.index);
                }
                hashed(frame.payload);
                walk.step(frame.payload, entry.index)
            });
        if !self.is_sound("ledger", ledger.map(|index| index == self.end)) {
            return;
        }
        self.core.metrics.scrub_verified_index.set(self.end);
        // Recovery has verified the newer entries; the tree is over them, too.
        if !self.read_newer(&mut hashed, &mut walk) {
            return;
        }
        if let Some(problem) = tree_problem {
            error!(%problem, "the tree's files are damaged: the tree is built again at the next start");
            if let Err(error) = tree.condemn() {
                error!(%error, "the tree could not be marked as damaged");
            }
        } else {
            info!(entries = check.size(), "the tree is verified");
        }
        let vault = self.core.vault.verify(&*self.disk, &mut |payload, at| walk.step(payload, at));
        self.is_sound("vault", vault);
    }

    /// Reads the entries from `end` on that the tree had at the start of the scrubber, and answers whether
    /// it reached their end.
    fn read_newer(&self, each: &mut dyn FnMut(&[u8]), walk: &mut Walked<'_>) -> bool {
        let mut next = self.end;
        while next < self.size {
            let entries = match self.core.backend.read(next, self.size, READ_BYTES) {
                Ok(entries) => entries,
                Err(problem) => {
                    error!(%problem, "entries can not be read to verify the tree");
                    return false;
                }
            };
            for bytes in entries {
                each(&bytes);
                if walk.step(&bytes, next).is_break() {
                    return false;
                }
                next += 1;
            }
        }
        true
    }

    /// Whether a walk reached its end without damage. Damage stops writes.
    fn is_sound<E: Display>(&self, store: &str, reached_end: Result<bool, E>) -> bool {
        match reached_end {
            Ok(true) => {
                info!(store, "the segments are verified");
                true
            }
            // The node is closing.
            Ok(false) => false,
            Err(problem) => {
                error!(store, %problem, "a segment can not be verified");
                self.core.stop_writes(&format!("{store}: {problem}"));
                false
            }
        }
    }
}

/// The pace of a walk over payloads.
struct Walked<'a> {
    scrub: &'a Scrub,
    started: Instant,
    bytes: u64,
}

impl<'a> Walked<'a> {
    fn new(scrub: &'a Scrub) -> Self {
        Self { scrub, started: Instant::now(), bytes: 0 }
    }

    /// Counts a payload. Breaks when the node is closing.
    fn step(&mut self, payload: &[u8], position: u64) -> ControlFlow<()> {
        self.bytes += payload.len() as u64;
        if position.is_multiple_of(1_024) {
            self.pace();
        }
        if self.scrub.shutdown.has_reached(Stage::Writer) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    /// Sleeps until the bytes read so far are due at the configured rate.
    fn pace(&self) {
        let due = Duration::from_secs_f64(self.bytes as f64 / self.scrub.bytes_per_second as f64);
        // The walk itself checks whether it must end.
        let pause = due.saturating_sub(self.started.elapsed());
        let _ = self.scrub.shutdown.sleep(pause, Stage::Writer);
    }
}
