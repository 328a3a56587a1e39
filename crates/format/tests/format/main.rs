//! Ledgers of acts, all in memory: what the keys find in them, and what nobody finds without keys.

#![allow(clippy::unwrap_used, missing_docs)] // a test may fail where it stands

mod adversary;
mod damage;
mod rebuild;
mod statements;
mod support;
mod vectors;
