//! The node without its protocol: what it acknowledged is there, whatever happens.

mod audience;
mod behaviour;
mod checkpoints;
mod faults;
mod links;
mod replay;
mod snapshot;
mod uses;
