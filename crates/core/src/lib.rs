//! What an auditor of a consent ledger needs: reading its bytes, verifying them, and deriving
//! states and decisions. It knows no clock, no log, no network and no index.
//!
//! * [`domain`]: the terms: subject, scope, act, catalogue, state, decision. Plain values.
//! * [`entry`]: the content of entries, one file for each kind.
//! * [`fold`]: states, catalogue and subscriptions, folded from entries.
//! * [`event`], [`history`]: the event of an entry for watchers, and its line in a history.
//! * [`decide`]: the pure decision over those values.
//! * [`obligations`]: the conditions that come with an ALLOW, and the earliest moment for the use;
//!   also pure.
//! * [`ledger`]: sealing and opening entries, verification of their chain.
//! * [`jws`]: JSON Web Signatures with Ed25519.
//! * [`token`]: a decision as a signed statement that travels with data.
//! * [`receipt`]: an act as a signed statement for the data subject.

pub mod decide;
pub mod domain;
pub mod entry;
pub mod event;
pub mod fold;
pub mod history;
pub mod jws;
pub mod ledger;
pub mod obligations;
pub mod receipt;
pub mod token;

use consent_ledger_format as format;
use consent_ledger_framelog as storage;
use consent_ledger_proto as proto;
use consent_ledger_tlog as tlog;
