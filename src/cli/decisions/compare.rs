//! Two lists of decisions, in the same order, side by side. It knows no network and no ledger.

use std::cmp::Ordering;

use super::report::Difference;
use crate::proto::ListDecisionsResponse;

/// What was compared so far.
#[derive(Debug, Default)]
pub struct Comparison {
    /// Number of decisions that were recomputed.
    pub decisions: u64,
    /// Number of cells whose answers differ, with those that only one side has.
    pub differ: u64,
    /// The first of these.
    pub first: Vec<Difference>,
    shown_max: usize,
}

/// Which of the two are done with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// What was recomputed.
    pub recomputed: bool,
    /// What was answered.
    pub answered: bool,
}

impl Comparison {
    /// A comparison that keeps so many differences.
    #[must_use]
    pub fn new(shown_max: usize) -> Self {
        Self { shown_max, ..Self::default() }
    }

    /// Compares the next on either side, and answers which of them to take away; none if there is
    /// nothing to compare. What is answered out of order is a difference, too: it is too many where it
    /// stands, and missing where it belongs.
    pub fn compare(
        &mut self,
        recomputed: Option<&ListDecisionsResponse>,
        answered: Option<&ListDecisionsResponse>,
    ) -> Option<Taken> {
        let order = match (recomputed, answered) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(recomputed), Some(answered)) => place(recomputed).cmp(&place(answered)),
        };
        let recomputed = recomputed.filter(|_| order != Ordering::Greater);
        let answered = answered.filter(|_| order != Ordering::Less);
        self.decisions += u64::from(recomputed.is_some());
        if recomputed != answered {
            self.differ += 1;
            if self.first.len() < self.shown_max {
                self.first.push(Difference {
                    recomputed: recomputed.cloned(),
                    answered: answered.cloned(),
                });
            }
        }
        Some(Taken { recomputed: recomputed.is_some(), answered: answered.is_some() })
    }
}

/// Where a decision stands among all.
fn place(decision: &ListDecisionsResponse) -> (u64, &[u8], &str, &str) {
    (decision.index, &decision.subject_ref, &decision.purpose, &decision.channel)
}
