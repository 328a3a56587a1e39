//! The messages of `consent.v1`, generated from `proto/consent/v1`, and their descriptors.
//!
//! It has no services: the client's stubs are in `consent-ledger-client`, the server's in the service.
//! `cargo run -p codegen` writes all of them.
#![allow(missing_docs, unused_qualifications, rustdoc::all, clippy::all, clippy::pedantic)]

include!("generated/consent.v1.rs");

/// The encoded `FileDescriptorSet` of `consent.v1`, with its comments.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("generated/consent.v1.bin");
