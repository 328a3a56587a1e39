//! What an auditor of a consent ledger needs: what its bytes say, whether they are intact, and what
//! follows from them. It knows no clock, no log, no network and no index.
//!
//! * [`domain`]: the words: subject, scope, act, catalogue, state, decision. Plain values.
//! * [`entry`]: what entries say, one file a kind.
//! * [`fold`]: what that makes of states, catalogue and subscriptions.
//! * [`event`], [`history`]: what watchers hear of an entry, and its line in a history.
//! * [`decide`]: the pure decision over those values.
//! * [`obligations`]: what comes with an ALLOW, and from when on; as pure.
//! * [`ledger`]: envelopes, the hash chain over them, verification.
//! * [`seal`]: encryption under a key for one text alone, with a commitment beside it.
//! * [`jws`]: JSON Web Signatures with Ed25519, for what travels with data.
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
pub mod seal;
pub mod token;

use consent_ledger_framelog as storage;
use consent_ledger_proto as proto;
use consent_ledger_tlog as tlog;
