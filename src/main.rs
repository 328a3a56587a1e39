//! Parses arguments and calls into the crate.

fn main() {}
