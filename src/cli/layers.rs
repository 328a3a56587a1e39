//! Options from three sources: flag, environment, file, in this order of precedence.
//!
//! `clap` already prefers flag over environment over default, so a key of the file becomes the
//! default of its option before the arguments are parsed. An option is `CONSENT_LEDGER_<NAME>` in
//! the environment, and its name with `_` or `-` in the file. A key at the top of the file applies
//! to every command that has the option; a key in a table applies to that command only:
//!
//! ```toml
//! addr = "127.0.0.1:50051"
//!
//! [serve]
//! data_dir = "/var/lib/consent-ledger"
//!
//! [catalog.apply]
//! dry_run = true
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    ffi::{OsStr, OsString},
    fs, io,
    path::{Path, PathBuf},
};

use clap::{Arg, ArgAction, Command, builder::BoolishValueParser};
use toml::{Table, Value};

use super::error::CliError;

/// The default options file.
pub const FILE_DEFAULT: &str = "consent-ledger.toml";

const ENV_PREFIX: &str = "CONSENT_LEDGER_";

/// An option's value before the arguments are parsed: from the flag, else from the environment.
#[must_use]
pub fn early(args: &[OsString], option: &str) -> Option<OsString> {
    let flag = format!("--{option}");
    let with_value = format!("{flag}=");
    let mut args = args.iter().skip(1).take_while(|arg| *arg != "--");
    while let Some(arg) = args.next() {
        if arg == flag.as_str() {
            return args.next().cloned();
        }
        if let Some(value) = arg.to_str().and_then(|arg| arg.strip_prefix(&with_value)) {
            return Some(value.into());
        }
    }
    env::var_os(env_name(option))
}

/// The environment variable of an option.
#[must_use]
pub fn env_name(option: &str) -> String {
    format!("{ENV_PREFIX}{}", option.to_ascii_uppercase().replace('-', "_"))
}

/// A file with options.
#[derive(Debug)]
pub struct OptionsFile {
    path: PathBuf,
    table: Table,
}

impl OptionsFile {
    /// Reads the file that the flag or the environment names, or else the one in the working
    /// directory.
    ///
    /// # Errors
    /// The named file does not exist, or the file is not TOML.
    pub fn find(args: &[OsString]) -> Result<Option<Self>, CliError> {
        // Help works even if the file is invalid.
        if args.iter().any(|arg| {
            ["--help", "-h", "--version", "-V", "help"].map(OsStr::new).contains(&arg.as_os_str())
        }) {
            return Ok(None);
        }
        let named = early(args, "config");
        let path = named.as_ref().map_or_else(|| PathBuf::from(FILE_DEFAULT), PathBuf::from);
        match fs::read_to_string(&path) {
            Ok(text) => Self::parse(&path, &text).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound && named.is_none() => Ok(None),
            Err(error) => Err(CliError::usage(format!("{}: {error}", path.display()))
                .with_hint("--config and CONSENT_LEDGER_CONFIG name a TOML file with options")),
        }
    }

    pub(super) fn parse(path: &Path, text: &str) -> Result<Self, CliError> {
        let table = text.parse().map_err(|error: toml::de::Error| {
            let error = error.to_string();
            CliError::usage(format!("{}: {}", path.display(), error.trim_end()))
        })?;
        Ok(Self { path: path.to_owned(), table })
    }

    fn wrong(&self, key: &str, problem: &str) -> CliError {
        CliError::usage(format!("{}: `{key}`: {problem}", self.path.display()))
    }
}

/// Adds environment and file to the options of a command.
///
/// # Errors
/// The file has an unknown key, or a value that its option does not take.
pub fn layered(command: Command, file: Option<&OptionsFile>) -> Result<Command, CliError> {
    let command = with_environment(command);
    let Some(file) = file else { return Ok(command) };
    check_keys(file, &command, &file.table, "", &options_of(&command))?;
    let globals: Vec<Arg> =
        command.get_arguments().filter(|a| a.is_global_set()).cloned().collect();
    with_file(file, command, &Settings::default(), &file.table, &globals)
}

/// Gives every option its environment variable, and every switch a value, so that for example a
/// flag can turn off a switch of the file.
fn with_environment(command: Command) -> Command {
    command
        .mut_args(|arg| {
            let Some(name) = arg.get_long().map(str::to_owned) else { return arg };
            let arg = match arg.get_action() {
                ArgAction::SetTrue => switch(arg),
                _ => arg,
            };
            arg.env(env_name(&name)).hide_env(true)
        })
        .mut_subcommands(with_environment)
}

fn switch(arg: Arg) -> Arg {
    arg.action(ArgAction::Set)
        .num_args(0..=1)
        .require_equals(true)
        .value_name("BOOL")
        .value_parser(BoolishValueParser::new())
        .default_value("false")
        .default_missing_value("true")
        .hide_default_value(true)
        .hide_possible_values(true)
}

/// Settings of the file that apply to one command, by the name of the option: key and value.
type Settings<'a> = BTreeMap<String, (String, &'a Value)>;

fn with_file(
    file: &OptionsFile,
    command: Command,
    inherited: &Settings<'_>,
    table: &Table,
    globals: &[Arg],
) -> Result<Command, CliError> {
    let mut settings = inherited.clone();
    settings.extend(
        table
            .iter()
            .filter(|(key, _)| command.find_subcommand(key).is_none())
            .map(|(key, value)| (normal(key), (key.clone(), value))),
    );
    let mut command = command;
    let names: Vec<String> =
        command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    for name in names {
        let empty = Table::new();
        let sub_table = table.get(&name).and_then(Value::as_table).unwrap_or(&empty);
        let sub = command.find_subcommand(&name).cloned().unwrap_or_default();
        let sub = sub.args(globals.iter().filter(|arg| settings_has(sub_table, arg)).cloned());
        let sub = with_file(file, sub, &settings, sub_table, globals)?;
        command = command.mut_subcommand(&name, |_| sub);
    }
    let args: Vec<Arg> = command.get_arguments().cloned().collect();
    for arg in args {
        let Some((key, value)) = arg.get_long().and_then(|name| settings.get(&normal(name))) else {
            continue;
        };
        let values = values_of(file, key, value, &arg)?;
        command =
            command.mut_arg(arg.get_id(), |arg| arg.required(false).default_values(values.clone()));
    }
    Ok(command)
}

fn settings_has(table: &Table, arg: &Arg) -> bool {
    table.keys().any(|key| arg.get_long() == Some(normal(key).as_str()))
}

fn normal(key: &str) -> String {
    key.replace('_', "-")
}

/// The values of a key, which its option must accept.
fn values_of(
    file: &OptionsFile,
    key: &str,
    value: &Value,
    arg: &Arg,
) -> Result<Vec<String>, CliError> {
    let values = match value {
        Value::Array(_) if !matches!(arg.get_action(), ArgAction::Append) => {
            return Err(file.wrong(key, "takes one value, not a list"));
        }
        Value::Array(items) => items.iter().map(text).collect(),
        other => text(other).map(|text| vec![text]),
    };
    let values = values.ok_or_else(|| file.wrong(key, "takes a value, not a table"))?;
    try_values(arg, &values).map_err(|error| {
        let text = error.to_string();
        let line = text.lines().next().unwrap_or_default();
        file.wrong(key, line.trim_start_matches("error: "))
    })?;
    Ok(values)
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::Boolean(truth) => Some(truth.to_string()),
        Value::Datetime(time) => Some(time.to_string()),
        Value::Array(_) | Value::Table(_) => None,
    }
}

/// Parses the values as if they were given by flag: `clap` panics at an invalid default, and
/// returns an error for an invalid flag.
fn try_values(arg: &Arg, values: &[String]) -> Result<(), clap::Error> {
    let name = arg.get_long().unwrap_or_default();
    Command::new("file")
        .no_binary_name(true)
        .arg(arg.clone().required(false).global(false))
        .try_get_matches_from(values.iter().map(|value| format!("--{name}={value}")))
        .map(drop)
}

/// Checks that every key in a table of the file is an option of the command or of its subcommands,
/// or a global option.
fn check_keys(
    file: &OptionsFile,
    command: &Command,
    table: &Table,
    prefix: &str,
    globals: &BTreeSet<String>,
) -> Result<(), CliError> {
    let known = &all_options(command) | globals;
    for (key, value) in table {
        let path = format!("{prefix}{key}");
        match (command.find_subcommand(key), value) {
            (Some(sub), Value::Table(table)) => {
                check_keys(file, sub, table, &format!("{path}."), globals)?;
            }
            (Some(_), _) => return Err(file.wrong(&path, "is a command: write a table")),
            (None, _) if known.contains(&normal(key)) => {}
            (None, _) => {
                let names: Vec<String> = known.iter().map(|name| name.replace('-', "_")).collect();
                let hint = format!("known here: {}", names.join(", "));
                return Err(file.wrong(&path, "is not an option").with_hint(hint));
            }
        }
    }
    Ok(())
}

fn options_of(command: &Command) -> BTreeSet<String> {
    // `--config` is not an option of the file: a file can not name another one.
    command
        .get_arguments()
        .filter_map(Arg::get_long)
        .filter(|name| *name != "config")
        .map(str::to_owned)
        .collect()
}

fn all_options(command: &Command) -> BTreeSet<String> {
    let below = command.get_subcommands().flat_map(all_options);
    options_of(command).into_iter().chain(below).collect()
}
