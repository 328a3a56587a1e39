//! The protocol as this crate uses it: messages, client stubs and server stubs of `consent.v1`.
#![allow(missing_docs, unused_qualifications, rustdoc::all, clippy::all, clippy::pedantic)]

pub use consent_ledger_client::proto::*;

include!("grpc/generated/consent.v1.rs");
