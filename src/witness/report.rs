//! Which refused checkpoints are logged for the operator of a witness.
//!
//! A signed checkpoint that is inconsistent with the last one may be evidence against its log, so it
//! must be logged. But anyone can submit a copy of an old checkpoint with a false proof, again and
//! again. So each checkpoint is logged once, at a bounded rate. Forks and missing proofs have separate
//! limits, so that false proofs can not hide a fork.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::tlog::merkle::Hash;

/// Maximum number of reports about a log in a burst.
pub const REPORTS_MAX: u32 = 16;
/// Time until one more report is allowed.
pub const REPORT_PAUSE: Duration = Duration::from_secs(60);
/// Maximum number of reported checkpoints that are remembered for a log.
const REMEMBERED_MAX: usize = 256;
/// Maximum length of a note in a report, in bytes.
pub const REPORT_BYTES_MAX: usize = 4 << 10;

/// The kind of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The consistency proof is missing or wrong.
    Doubt,
    /// Two roots for one size.
    Fork,
}

/// The reports so far, by origin and kind.
#[derive(Debug, Default)]
pub struct Reports(Mutex<BTreeMap<(String, Kind), Reported>>);

#[derive(Debug)]
struct Reported {
    /// Size and root of the last reported checkpoints, oldest first.
    heads: VecDeque<(u64, Hash)>,
    /// Number of reports that are allowed now.
    left: u32,
    /// When `left` was last raised.
    since: Instant,
    /// Number of suppressed checkpoints since the last report.
    suppressed: u64,
}

impl Reports {
    /// Whether to report a checkpoint of a followed log: the number of suppressed ones before it, or
    /// none if it is suppressed, too.
    pub fn due(&self, origin: &str, kind: Kind, head: (u64, Hash), now: Instant) -> Option<u64> {
        let mut all = self.0.lock();
        all.entry((origin.to_owned(), kind)).or_insert_with(|| Reported::new(now)).due(head, now)
    }
}

impl Reported {
    fn new(now: Instant) -> Self {
        Self { heads: VecDeque::new(), left: REPORTS_MAX, since: now, suppressed: 0 }
    }

    fn due(&mut self, head: (u64, Hash), now: Instant) -> Option<u64> {
        self.allow_more(now);
        if self.left == 0 || self.heads.contains(&head) {
            self.suppressed = self.suppressed.saturating_add(1);
            return None;
        }
        self.left -= 1;
        if self.heads.len() == REMEMBERED_MAX {
            self.heads.pop_front();
        }
        self.heads.push_back(head);
        Some(std::mem::take(&mut self.suppressed))
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

/// The part of a note that a report shows.
#[must_use]
pub fn excerpt(note: &str) -> &str {
    let mut ends = (0..=note.len().min(REPORT_BYTES_MAX)).rev();
    ends.find_map(|end| note.get(..end)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_checkpoint_is_reported_once_at_a_bounded_rate() {
        let (reports, begin) = (Reports::default(), Instant::now());
        let due = |kind, size, now| reports.due("log.example", kind, (size, [0; 32]), now);
        assert_eq!(due(Kind::Doubt, 0, begin), Some(0));
        assert_eq!(due(Kind::Doubt, 0, begin + REPORT_PAUSE * 1_000), None, "the same again");
        let due_count = (1..1_000).filter(|size| due(Kind::Doubt, *size, begin).is_some()).count();
        assert_eq!(due_count, REPORTS_MAX as usize);
        assert_eq!(due(Kind::Fork, 1, begin), Some(0), "forks have their own limit");
        assert_eq!(reports.due("other.example", Kind::Doubt, (1, [0; 32]), begin), Some(0));
        // A suppressed checkpoint can be reported later.
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
