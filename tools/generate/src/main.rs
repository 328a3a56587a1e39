//! Parses arguments and calls into the crate.

use std::process::ExitCode;

use clap::Parser as _;
use consent_ledger::cli::{conclude, output::Output};
use consent_ledger_generate::{Cli, run};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut out = Output::stdout(cli.printing);
    let ended = run(&cli, &mut out);
    conclude(ended, out, cli.printing)
}
