//! `--as-of-revision`, `--known-at`, `--true-at`: the past, as `check` and `preferences` ask for it.

use clap::Args;
use jiff::Timestamp;

use super::words;
use crate::proto::{AsOf, as_of::Moment};

/// A moment in the past; at most one of them.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub struct AsOfArgs {
    /// Answer with what was known at this revision
    #[arg(long, value_name = "REVISION")]
    as_of_revision: Option<u64>,
    /// Answer with what was known at this time (RFC 3339): all that was recorded until then
    #[arg(long, value_name = "TIME", value_parser = words::time)]
    known_at: Option<Timestamp>,
    /// Answer with what was true at this time (RFC 3339): all that had taken effect until then,
    /// whenever it was recorded
    #[arg(long, value_name = "TIME", value_parser = words::time)]
    true_at: Option<Timestamp>,
}

impl AsOfArgs {
    /// The moment, if one was given.
    pub(super) fn wire(&self) -> Option<AsOf> {
        let known = self.known_at.map(|time| Moment::RecordedAt(words::wire_time(time)));
        let was_true = self.true_at.map(|time| Moment::EffectiveAt(words::wire_time(time)));
        let moment = self.as_of_revision.map(Moment::Revision).or(known).or(was_true)?;
        Some(AsOf { moment: Some(moment) })
    }
}
