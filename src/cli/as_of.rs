//! `--as-of-revision`, `--known-at`, `--true-at`: options of `check` and `preferences` for the
//! past.

use clap::Args;
use jiff::Timestamp;

use super::words;
use crate::proto::{AsOf, as_of::Moment};

/// A moment in the past; at most one of them.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub struct AsOfArgs {
    /// Decide as of this revision
    #[arg(long, value_name = "REVISION")]
    as_of_revision: Option<u64>,
    /// Decide as of this time (RFC 3339): with all acts that were recorded by then
    #[arg(long, value_name = "TIME", value_parser = words::time)]
    known_at: Option<Timestamp>,
    /// Decide for this time (RFC 3339): with all acts that had taken effect by then, whenever they
    /// were recorded
    #[arg(long, value_name = "TIME", value_parser = words::time)]
    true_at: Option<Timestamp>,
}

impl AsOfArgs {
    /// The moment, if one was given.
    pub(super) fn wire(&self) -> Option<AsOf> {
        let recorded = self.known_at.map(|time| Moment::RecordedAt(words::wire_time(time)));
        let effective = self.true_at.map(|time| Moment::EffectiveAt(words::wire_time(time)));
        let moment = self.as_of_revision.map(Moment::Revision).or(recorded).or(effective)?;
        Some(AsOf { moment: Some(moment) })
    }
}
