//! Parses arguments and calls into the crate.

use std::process::ExitCode;

use consent_ledger::cli;
use mimalloc::MiMalloc;

/// A request makes dozens of small allocations, which other threads free.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(cli::main()),
        Err(error) => {
            eprintln!("error: can not start the runtime: {error}");
            ExitCode::FAILURE
        }
    }
}
