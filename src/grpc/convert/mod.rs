//! Messages of the protocol to values of the domain, and back. Generated types stop here.
//!
//! Requests are parsed: nothing invalid is dropped or repaired in silence, and every way in which a
//! request can be wrong is a [`Problem`] with the path of the field. Answers are made from domain values
//! and cannot fail.

mod act;
mod answer;
mod audience;
mod audit;
mod catalog;
mod consume;
mod disclosure;
mod faults;
mod import;
mod obligations;
mod page;
mod party;
mod privacy;
mod receipt;
mod scalar;
mod subscription;
mod watch;

use crate::status::{Invalid, PAGE_SIZE_MAX, Problem};

pub use act::{act, as_of, check, confirm, history, naming, preferences, used};
pub use answer::{
    batch_result, check_response, confirmed, delivery, event, history_item, obligation_kinds,
    preferences_response, progress, recorded,
};
pub use audience::{
    AUDIENCE_SUBJECTS_MAX, Filtering, UseNames, audience_persons, audience_subjects, filtering,
    packed, reason_counts,
};
pub use audit::{
    EntryRef, act_of_receipt, checkpoint, consistency, entry_to_prove, inclusion, sizes,
};
pub use catalog::{
    channel, channel_message, clock_corrected, clock_correction, namespace_draft,
    namespace_message, preview, preview_response, purpose_draft, purpose_message,
};
pub use consume::{
    ConsumerRequest, consume_delivery, consume_progress, consume_started, consumer_request,
    consuming,
};
pub use disclosure::disclosing;
pub use faults::LeftOut;
pub use import::{Source, Tally, import_row, import_rows, import_start};
pub use obligations::due_message;
pub use page::{List, Page};
pub use party::{party_draft, party_message};
pub use privacy::{link, linked, unlink, unlinked};
pub use receipt::{receipt_format, receipt_message, subject_if_given};
pub use scalar::key;
pub use subscription::{
    Listed, dead_letter, dead_letters_page, listed_subscriptions, new_subscription,
    next_dead_letters_token, propagation, replayed_dead_letters, snapshot, subscription,
    subscription_name, subscription_status,
};
pub use watch::{Watching, index_range, watching};

pub use crate::entry::{duration, timestamp};

/// Maximum number of checks in a batch.
pub const BATCH_CHECKS_MAX: usize = 10_000;
/// Maximum number of rows in one message of an import.
pub const IMPORT_ROWS_MAX: usize = 1_000;
/// Maximum number of data categories in a check or a purpose.
pub const DATA_CATEGORIES_MAX: usize = 100;
/// Maximum number of values in one list of a watch filter.
pub const FILTER_VALUES_MAX: usize = 1_000;
/// The longest title, in bytes.
pub const TITLE_BYTES_MAX: usize = 256;
/// The longest text about a party, apart from its name, in bytes.
pub const PARTY_TEXT_BYTES_MAX: usize = 1_024;
/// Maximum number of jurisdictions of a party.
pub const JURISDICTIONS_MAX: usize = 32;
/// Maximum number of recipients of a purpose.
pub const RECIPIENTS_MAX: usize = 100;
/// The longest description, in bytes.
pub const DESCRIPTION_BYTES_MAX: usize = 4_096;
/// Maximum number of obligations of a purpose.
pub const OBLIGATIONS_MAX: usize = 16;
/// Maximum number of regions with a legal basis of their own.
pub const REGIONS_MAX: usize = 300;
/// The shortest validity of a confirmation token, in milliseconds.
pub const CONFIRMATION_MS_MIN: i64 = 60_000;
/// The longest validity of a confirmation token, in milliseconds: 90 days.
pub const CONFIRMATION_MS_MAX: i64 = 90 * 24 * 3_600 * 1_000;
/// The longest name of a segment, campaign or source, in bytes.
pub const NAME_BYTES_MAX: usize = 128;
/// The longest name of a link's asserting party, in bytes.
pub const ASSERTED_BY_BYTES_MAX: usize = 256;
/// The longest default validity or period, in milliseconds: 1,000 years. Added to a present time, it
/// stays within the years of `google.protobuf.Timestamp`.
pub const SPAN_MS_MAX: i64 = 1_000 * 365 * 24 * 3_600 * 1_000;
/// The default page size.
pub const PAGE_SIZE_DEFAULT: i32 = 100;
/// The shortest progress interval, in milliseconds.
pub const PROGRESS_MS_MIN: i64 = 100;
/// The longest progress interval, in milliseconds.
pub const PROGRESS_MS_MAX: i64 = 3_600_000;
/// The default progress interval, in milliseconds.
pub const PROGRESS_MS_DEFAULT: i64 = 10_000;

#[cfg(test)]
mod tests;
