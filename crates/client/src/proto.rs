//! The messages of `consent.v1` and the generated clients of its services.
#![allow(missing_docs, unused_qualifications, rustdoc::all, clippy::all, clippy::pedantic)]

pub use consent_ledger_proto::*;

include!("generated/consent.v1.rs");
