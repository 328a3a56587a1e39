//! Types and services generated from `proto/consent/v1`. They stop at [`crate::grpc`] and
//! [`crate::events`], the entry codec in [`crate::ledger`], the command line and [`crate::client`].
#![allow(missing_docs, unused_qualifications, rustdoc::all, clippy::all, clippy::pedantic)]

tonic::include_proto!("consent.v1");

/// The encoded `FileDescriptorSet` of `consent.v1`, for server reflection.
#[cfg(feature = "server")]
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/consent.v1.bin"));
