//! Flags that would be passed over in silence beside others: they are refused.
//!
//! Only flags count. The environment and the options file serve many commands, so a value from there may
//! have no use for one of them.

use clap::{ArgMatches, parser::ValueSource};

use super::error::CliError;

/// The trusted keys of `checkpoint`.
const TRUST: [&str; 5] = ["key", "key_change", "policy", "witness", "witness_quorum"];

/// A flag, and those that mean nothing beside it.
struct Useless {
    command: &'static str,
    beside: &'static str,
    flags: &'static [&'static str],
    why: &'static str,
}

const USELESS: [Useless; 6] = [
    Useless {
        command: "verify",
        beside: "raw_file",
        flags: &["data_dir", "kek_file", "ledger_only"],
        why: "a file of `export --raw` has no directory and no vault",
    },
    Useless {
        command: "verify",
        beside: "ledger_only",
        flags: &["kek_file"],
        why: "the key-encryption key opens the vault, which is not verified then",
    },
    Useless {
        command: "verify-decisions",
        beside: "disclosure",
        flags: &["vault", "kek_file", "start", "end"],
        why: "a disclosure opens the records of its data subjects up to its revision, without a vault",
    },
    Useless {
        command: "verify-decisions",
        beside: "raw_file",
        flags: &["data_dir"],
        why: "the entries come from one of them",
    },
    Useless {
        command: "checkpoint",
        beside: "verifier_key",
        flags: &TRUST,
        why: "nothing is verified when the server's key is printed",
    },
    Useless {
        command: "checkpoint",
        beside: "key_changes",
        flags: &TRUST,
        why: "the changes are verified by the command that gets them with --key-change",
    },
];

/// Refuses flags that have no effect.
///
/// # Errors
/// The first such flag, and why.
pub fn refuse(matches: &ArgMatches) -> Result<(), CliError> {
    let Some((command, matches)) = matches.subcommand() else { return Ok(()) };
    let is_flag = |id: &&&str| matches.value_source(id) == Some(ValueSource::CommandLine);
    for useless in USELESS.iter().filter(|useless| useless.command == command) {
        let Useless { beside, flags, why, .. } = useless;
        if let (true, Some(flag)) = (is_on(matches, beside), flags.iter().find(is_flag)) {
            let message = format!("{} has no effect beside {}", long_name(flag), long_name(beside));
            return Err(CliError::usage(message).with_hint(*why));
        }
    }
    Ok(())
}

/// Whether an option has a value, or a switch is on.
fn is_on(matches: &ArgMatches, id: &str) -> bool {
    let values = matches.get_raw(id).into_iter().flatten();
    matches.value_source(id).is_some_and(|source| source != ValueSource::DefaultValue)
        && values.into_iter().any(|value| value != "false")
}

fn long_name(id: &str) -> String {
    format!("--{}", id.replace('_', "-"))
}
