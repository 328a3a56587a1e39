//! The meaning of the ledger: a table of decisions that a privacy officer can read, a table of
//! outcomes, the document made from both, and properties checked against an independent and
//! deliberately naive model.

mod clock;
mod document;
mod naive;
mod outcomes;
mod properties;
mod table;
mod world;
