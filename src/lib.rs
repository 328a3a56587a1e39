//! The consent ledger: an append-only, hash-chained record of consent, a fast answer to "may I?",
//! and a stream that tells other services who must stop.
//!
//! This crate is the service. What others depend on stands in crates of its own: `proto` (messages),
//! `tlog` (transparency logs), `framelog` (frames in files), `core` (what an auditor needs) and `client`.
//! They are named here once, under the names by which the service knows them.
//!
//! The modules, in the order in which to read them:
//!
//! * [`storage`]: checksummed frames in fsynced files; the one primitive under ledger and vault.
//! * [`vault`]: subject identities and keys, the only primary data that may ever be deleted.
//! * [`tree`]: the Merkle tree on disk, and the checkpoints that sign its head.
//! * [`backend`]: the contract of a log that can not fork, and its local home.
//! * [`view`]: what checks read: hot state in memory, sled behind it, all of it disposable.
//! * [`watch`]: telling others what changed.
//! * [`node`]: the one way in: the way of an act and the way of a question.
//! * [`json`]: ProtoJSON of the protocol's messages, by their descriptors.
//! * [`messages`]: values of the ledger as messages, for gRPC, webhooks and the command line alike.
//! * [`grpc`]: thin services and conversions; the generated types stop there.
//! * [`webhook`]: delivering subscriptions over HTTP.
//! * [`witness`]: who has seen our checkpoints, and this binary as a witness for others.
//! * [`tiles`]: the ledger as C2SP tlog-tiles over HTTP.
//! * [`server`], [`config`], [`telemetry`], [`status`]: running it; [`shutdown`]: ending it in order.
//! * [`setting`]: how a setting is defined: once, with its bounds.
//! * [`listener`]: answering strangers over HTTP, bounded.
//! * [`web`]: asking others over HTTP: tiles, checkpoints, witnesses.
//! * [`cli`]: the command line.

pub use consent_ledger_client as client;
pub use consent_ledger_core::{
    decide, domain, entry, event, fold, history, jws, ledger, obligations, receipt, seal, token,
};
pub use consent_ledger_tlog as tlog;

pub mod backend;
pub mod cli;
pub mod config;
pub mod grpc;
pub mod json;
pub mod listener;
pub mod messages;
pub mod node;
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
