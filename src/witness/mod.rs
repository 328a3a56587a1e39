//! Witnesses (C2SP tlog-witness). A witness cosigns the checkpoints of a ledger that it has seen, so
//! that a ledger which shows different histories to different people is detected.
//!
//! * [`client`]: the ledger's side: submits every new checkpoint to its witnesses.
//! * [`known`]: whether witnesses know a ledger of some name, before a new one gets it.
//! * [`state`]: the latest cosigned checkpoint of each log.
//! * [`open`]: the files of a witness: key, state, and a lock against a second process.
//! * [`server`]: the HTTP endpoints of a witness.
//! * [`report`]: which refused checkpoints are logged for the operator.
//!
//! A witness knows nothing of consent: it follows any C2SP log, and any C2SP witness can follow a
//! ledger.

pub mod client;
pub mod known;
pub mod open;
pub mod report;
pub mod server;
pub mod state;
