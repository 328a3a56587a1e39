//! The consent ledger: an append-only, hash-chained record of consent, a fast answer to "may I?",
//! and a stream that tells other services who must stop.
//!
//! The modules, in the order in which to read them:
//!
//! * [`domain`]: the words: subject, scope, act, catalogue, state, decision. Plain values.
//! * [`decide`]: the pure decision over those values.
//! * [`obligations`]: what comes with an ALLOW, and from when on; as pure.
//! * [`storage`]: checksummed frames in fsynced files; the one primitive under ledger and vault.
//! * [`tlog`]: the Merkle tree of RFC 6962 and the text forms of C2SP, signed and verified.
//! * [`jws`]: JSON Web Signatures with Ed25519, for what travels with data.
//! * [`seal`]: encryption under a key for one text alone, with a commitment beside it.
//! * [`ledger`]: entry bytes, the hash chain, verification.
//! * [`token`]: a decision as a signed statement that travels with data.
//! * [`receipt`]: an act as a signed statement for the person whom it concerns.
//! * [`vault`]: subject identities and keys, the only primary data that may ever be deleted.
//! * [`tree`]: the Merkle tree on disk, and the checkpoints that sign its head.
//! * [`backend`]: the contract of a log that can not fork, and its local home.
//! * [`view`]: what checks read: hot state in memory, sled behind it, all of it disposable.
//! * [`watch`]: telling others what changed.
//! * [`node`]: the one way in: the way of an act and the way of a question.
//! * [`json`]: ProtoJSON of the protocol's messages, by their descriptors.
//! * [`events`]: what streams tell, as messages of the protocol.
//! * [`grpc`]: thin services and conversions; the generated types stop there.
//! * [`webhook`]: delivering subscriptions over HTTP.
//! * [`witness`]: who has seen our checkpoints, and this binary as a witness for others.
//! * [`tiles`]: the ledger as C2SP tlog-tiles over HTTP.
//! * [`server`], [`config`], [`telemetry`], [`status`]: running it.
//! * [`listener`]: answering strangers over HTTP, bounded.
//! * [`web`]: asking others over HTTP: tiles, checkpoints, witnesses.
//! * [`client`]: what other Rust services depend on, without the rest.
//! * [`cli`]: the command line.
//!
//! The feature `client` alone compiles only [`proto`] and [`client`]; `server`, the default, is
//! everything.

#[cfg(feature = "server")]
pub mod domain;

#[cfg(feature = "server")]
pub mod decide;

#[cfg(feature = "server")]
pub mod obligations;

#[cfg(feature = "server")]
pub mod storage;

#[cfg(feature = "server")]
pub mod tlog;

#[cfg(feature = "server")]
pub mod jws;

#[cfg(feature = "server")]
pub mod seal;

#[cfg(feature = "server")]
pub mod ledger;

#[cfg(feature = "server")]
pub mod token;

#[cfg(feature = "server")]
pub mod receipt;

#[cfg(feature = "server")]
pub mod vault;

#[cfg(feature = "server")]
pub mod tree;

#[cfg(feature = "server")]
pub mod backend;

#[cfg(feature = "server")]
pub mod view;

#[cfg(feature = "server")]
pub mod watch;

#[cfg(feature = "server")]
pub mod node;

pub mod proto;

#[cfg(feature = "server")]
pub mod json;

#[cfg(feature = "server")]
pub mod events;

#[cfg(feature = "server")]
pub mod grpc;

#[cfg(feature = "server")]
pub mod tiles;
#[cfg(feature = "server")]
pub mod webhook;
#[cfg(feature = "server")]
pub mod witness;

#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
pub mod status;
#[cfg(feature = "server")]
pub mod telemetry;
#[cfg(feature = "server")]
pub mod web;

#[cfg(feature = "server")]
pub mod listener;

#[cfg(feature = "client")]
pub mod client;

#[cfg(feature = "server")]
pub mod cli;

/// What README shows in Rust compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
