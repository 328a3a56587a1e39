//! The node without its protocol: everything acknowledged is kept, through restarts and faults.

mod audience;
mod behaviour;
mod checkpoints;
mod faults;
mod key_change;
mod links;
mod replay;
mod snapshot;
mod uses;
