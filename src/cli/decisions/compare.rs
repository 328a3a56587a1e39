//! Compares two ordered lists of decisions. It knows no network and no ledger.

use std::cmp::Ordering;

use super::report::Difference;
use crate::proto::ListDecisionsResponse;

/// Result of the comparison so far.
#[derive(Debug, Default)]
pub struct Comparison {
    /// Number of decisions that were recomputed.
    pub decisions: u64,
    /// Number of cells whose answers differ, or that only one list has.
    pub differ: u64,
    /// The first of these differences.
    pub first: Vec<Difference>,
    shown_max: usize,
}

/// Which of the two heads were compared, and must be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// The head of the recomputed list.
    pub recomputed: bool,
    /// The head of the node's list.
    pub answered: bool,
}

impl Comparison {
    /// A comparison that keeps the first `shown_max` differences.
    #[must_use]
    pub fn new(shown_max: usize) -> Self {
        Self { shown_max, ..Self::default() }
    }

    /// Compares the heads of both lists, and returns which of them to take; none if both lists have
    /// ended. An answer out of order is a difference too: extra where it is, missing where it
    /// belongs.
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

/// Sort key of a decision.
fn place(decision: &ListDecisionsResponse) -> (u64, &[u8], &str, &str) {
    (decision.index, &decision.subject_ref, &decision.purpose, &decision.channel)
}
