//! Which refused checkpoints are told to whoever runs a witness.
//!
//! A checkpoint that its log has signed and that does not continue what was seen may be evidence
//! against the log, so it is to be written down. But whoever has a copy of an old one can send it with
//! a made-up proof as often as they like. So each is told once, as many of them at a time as a person
//! can read, and forks apart from mere doubts: noise about the one hides nothing of the other.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::tlog::merkle::Hash;

/// The most that is told of a log at once.
pub const REPORTS_MAX: u32 = 16;
/// How long until one more is told after that.
pub const REPORT_PAUSE: Duration = Duration::from_secs(60);
/// How many are remembered of a log as told.
const REMEMBERED_MAX: usize = 256;
/// The longest note that is told whole, in bytes.
pub const REPORT_BYTES_MAX: usize = 4 << 10;

/// What a report is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// No proof that the log continues what was seen.
    Doubt,
    /// Two roots for one size.
    Fork,
}

/// What was told so far.
#[derive(Debug, Default)]
pub struct Reports(Mutex<BTreeMap<(String, Kind), Told>>);

#[derive(Debug)]
struct Told {
    /// Those that were told last, oldest first.
    heads: VecDeque<(u64, Hash)>,
    /// How many may be told now.
    left: u32,
    /// Since when no further one was allowed.
    since: Instant,
    /// How many were not told since the last that was.
    untold: u64,
}

impl Reports {
    /// Whether a checkpoint of a followed log is to be told, and how many were not since the last one.
    pub fn due(&self, origin: &str, kind: Kind, head: (u64, Hash), now: Instant) -> Option<u64> {
        let mut all = self.0.lock();
        all.entry((origin.to_owned(), kind)).or_insert_with(|| Told::new(now)).due(head, now)
    }
}

impl Told {
    fn new(now: Instant) -> Self {
        Self { heads: VecDeque::new(), left: REPORTS_MAX, since: now, untold: 0 }
    }

    fn due(&mut self, head: (u64, Hash), now: Instant) -> Option<u64> {
        self.allow_more(now);
        if self.left == 0 || self.heads.contains(&head) {
            self.untold = self.untold.saturating_add(1);
            return None;
        }
        self.left -= 1;
        if self.heads.len() == REMEMBERED_MAX {
            self.heads.pop_front();
        }
        self.heads.push_back(head);
        Some(std::mem::take(&mut self.untold))
    }

    fn allow_more(&mut self, now: Instant) {
        let pauses = now.saturating_duration_since(self.since).as_secs() / REPORT_PAUSE.as_secs();
        if pauses > 0 {
            self.left = u32::try_from(pauses)
                .map_or(REPORTS_MAX, |more| self.left.saturating_add(more).min(REPORTS_MAX));
            self.since = now;
        }
    }
}

/// As much of a note as is told.
#[must_use]
pub fn excerpt(note: &str) -> &str {
    let mut ends = (0..=note.len().min(REPORT_BYTES_MAX)).rev();
    ends.find_map(|end| note.get(..end)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_once_and_so_many_at_a_time() {
        let (reports, begin) = (Reports::default(), Instant::now());
        let due = |kind, size, now| reports.due("log.example", kind, (size, [0; 32]), now);
        assert_eq!(due(Kind::Doubt, 0, begin), Some(0));
        assert_eq!(due(Kind::Doubt, 0, begin + REPORT_PAUSE * 1_000), None, "the same again");
        let due_count = (1..1_000).filter(|size| due(Kind::Doubt, *size, begin).is_some()).count();
        assert_eq!(due_count, REPORTS_MAX as usize);
        assert_eq!(due(Kind::Fork, 1, begin), Some(0), "forks are told apart");
        assert_eq!(reports.due("other.example", Kind::Doubt, (1, [0; 32]), begin), Some(0));
        // What was not told can be later.
        let later = begin + REPORT_PAUSE * 1_001;
        assert_eq!(due(Kind::Doubt, 999, later), Some(983));
        assert_eq!(due(Kind::Doubt, 998, later), None);
    }

    #[test]
    fn notes_are_cut_between_characters() {
        assert_eq!(excerpt("short"), "short");
        let long = format!("xx{}", "—".repeat(REPORT_BYTES_MAX));
        assert_eq!(excerpt(&long).len(), REPORT_BYTES_MAX - 2);
        assert_eq!(excerpt(&"x".repeat(REPORT_BYTES_MAX + 1)).len(), REPORT_BYTES_MAX);
    }
}
