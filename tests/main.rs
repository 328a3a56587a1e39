//! All integration tests in one binary, so that the service is linked only once: a module for each
//! topic, and `support` for all of them.
//!
//! `cargo test --test suite TOPIC::` runs one topic. Tests run in parallel in one process, so none
//! of them changes its environment or working directory.

#![allow(clippy::unwrap_used)] // a test may fail where it stands

mod adversary;
mod audience;
mod blocked_grants;
mod classes;
mod cli;
mod client;
mod clock;
mod clock_corrected;
mod consume;
mod consumers;
mod crash;
mod decision_token;
mod decisions;
mod disclosure;
mod dockerfile;
mod end_to_end;
mod export_opened;
mod forgeries;
mod format;
mod format2;
mod format_examples;
mod hourly_ends;
mod import;
mod import_order;
mod import_rows;
mod impossible_times;
mod independent;
mod init;
mod key_change;
mod linked_names;
mod linked_outcomes;
mod links;
mod names;
mod near_keys;
mod node;
mod obligations;
mod only_news;
mod options;
mod parties;
mod preview;
mod proofs;
mod propagation;
mod protocol;
mod python_client;
mod random_changes;
mod readme;
mod readme_tour;
mod receipts;
mod reference;
mod same_moment;
mod semantics;
mod shown;
mod snapshots;
mod stops;
mod streams;
mod subscriptions;
mod support;
mod tlog;
mod traps;
mod twins;
mod unsigned_entries;
mod uses;
mod verify;
mod view_files;
mod webhooks;
mod witness;
