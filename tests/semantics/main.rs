//! What the ledger means: a table of decisions that a privacy officer can read, a table of
//! outcomes, and properties checked against an independent and deliberately naive model.

#![allow(clippy::unwrap_used)]

mod naive;
mod outcomes;
mod properties;
mod table;
mod world;
