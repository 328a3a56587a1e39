//! Keys: what each opens, and what follows from it.
//!
//! * [`person`]: the three random roots of a person, and the keys, tags and commitments that follow from
//!   the master key.
//! * [`tree`]: a binary tree of keys, of which parts can be forgotten.
//! * [`ledger`]: the ledger's secret, and the confidential keys by kind and epoch.

pub mod ledger;
pub mod person;
pub mod tree;
