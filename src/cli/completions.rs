//! `completions`: a completion script for a shell.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, Context, Exit, error::CliError};

const AFTER_HELP: &str = "\
Examples:
  consent-ledger completions bash > /etc/bash_completion.d/consent-ledger
  consent-ledger completions zsh > ~/.zfunc/_consent-ledger";

/// Options of `completions`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

pub(super) fn run(args: &CompletionsArgs, context: &mut Context) -> Result<Exit, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "consent-ledger", &mut script);
    context.out.line(String::from_utf8_lossy(&script).trim_end())?;
    Ok(Exit::Success)
}
