//! The messages of `consent.v1` and `consent.ledger.v2`, generated from `proto`, their descriptors, and tables
//! of methods and error reasons, generated from the descriptors.
//!
//! It has no services: the client's stubs are in `consent-ledger-client`, the server's in the service.
//! `cargo run -p codegen` writes all of them.
#![allow(missing_docs, unused_qualifications, rustdoc::all, clippy::all, clippy::pedantic)]

mod method;
mod reason;

pub use method::{IdempotencyLevel, METHODS, Method};

include!("generated/consent.v1.rs");

/// The messages of the ledger's own bytes (`consent.ledger.v2`): entries, sealed texts, the vault, and
/// the statements that leave the ledger.
pub mod ledger {
    include!("generated/consent.ledger.v2.rs");

    /// The encoded `FileDescriptorSet` of `consent.ledger.v2`, with its comments.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("generated/consent.ledger.v2.bin");
}

/// The encoded `FileDescriptorSet` of `consent.v1`, with its comments and options.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("generated/consent.v1.bin");

/// Names of the gRPC status codes, by number. `StatusCode` has only those of errors.
pub const CODE_NAMES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];
