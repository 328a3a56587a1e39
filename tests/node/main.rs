//! The node without its protocol: what it acknowledged is there, whatever happens.

#![allow(clippy::unwrap_used)] // a test may fail where it stands

mod audience;
mod behaviour;
mod checkpoints;
mod faults;
mod links;
mod replay;
mod snapshot;
mod support;
mod uses;
