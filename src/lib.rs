//! The consent ledger: an append-only, hash-chained record of consent, a fast answer to "may I?",
//! and a stream of changes for the services that must act on them.
//!
//! This crate is the service. Its parts for other users are crates of their own: `proto` (messages),
//! `tlog` (transparency logs), `framelog` (frames in files), `core` (what an auditor needs) and `client`.
//! The service imports them under the names below.
//!
//! The modules, in the order in which to read them:
//!
//! * [`storage`]: checksummed frames in fsynced files; the one primitive under ledger and vault.
//! * [`vault`]: subject identities and keys, the only primary data that may be deleted.
//! * [`tree`]: the Merkle tree on disk, and the checkpoints that sign its head.
//! * [`backend`]: the contract of a log that cannot fork, and its local implementation.
//! * [`view`]: what checks read: hot state in memory, sealed files behind it; all of it can be rebuilt.
//! * [`opener`]: entries, opened with the keys of the vault.
//! * [`watch`]: streams of changes.
//! * [`clock`]: the time, and whether it can be trusted.
//! * [`node`]: the one entrance to all of it, for acts and for questions.
//! * [`json`]: ProtoJSON of the protocol's messages, by their descriptors.
//! * [`messages`]: values of the ledger as messages, for gRPC, webhooks and the command line alike.
//! * `near`: which key of the catalogue was meant by one that is not in it.
//! * [`grpc`]: thin services and conversions; the generated types stop there.
//! * [`webhook`]: delivering subscriptions over HTTP.
//! * [`witness`]: cosignatures on our checkpoints, and this binary as a witness for other logs.
//! * [`tiles`]: the ledger as C2SP tlog-tiles over HTTP.
//! * [`server`], [`config`], [`telemetry`], [`status`]: running it; [`shutdown`]: ending it in order.
//! * [`setting`]: the definition of a setting, with its bounds.
//! * [`listener`]: a bounded HTTP server for unknown clients.
//! * [`web`]: the HTTP client for tiles, checkpoints and witnesses.
//! * [`cli`]: the command line.

pub use consent_ledger_client as client;
pub use consent_ledger_core::{
    decide, domain, entry, event, fold, history, jws, ledger, obligations, receipt, token,
};
pub use consent_ledger_format as format;
pub use consent_ledger_tlog as tlog;

pub mod backend;
pub mod cli;
pub mod clock;
pub mod config;
pub mod grpc;
pub mod json;
pub mod listener;
pub mod messages;
mod near;
pub mod node;
pub mod opener;
pub mod proto;
pub mod server;
pub mod setting;
pub mod shutdown;
pub mod status;
pub mod storage;
pub mod telemetry;
pub mod tiles;
pub mod tree;
pub mod vault;
pub mod view;
pub mod watch;
pub mod web;
pub mod webhook;
pub mod witness;

/// The Rust samples of README compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;

/// The Rust samples of docs/api.md compile.
#[cfg(doctest)]
#[doc = include_str!("../docs/api.md")]
pub struct ApiGuide;
