//! Witnesses (C2SP tlog-witness): who has seen a ledger's checkpoint, and says so, makes it
//! impossible to show two people two ledgers without being found out.
//!
//! * [`client`]: the ledger's side: brings every new checkpoint to its witnesses.
//! * [`state`]: a witness's memory: the latest checkpoint of each log that it has cosigned.
//! * [`open`]: a witness's files: key, state, and the lock between two processes.
//! * [`server`]: a witness's answers over HTTP.
//! * [`report`]: which refused checkpoints are told to whoever runs it.
//!
//! A witness knows nothing of consent: it follows any log of C2SP, and a ledger may be followed by
//! any witness.

pub mod client;
pub mod open;
pub mod report;
pub mod server;
pub mod state;
