//! docs/reference.md, made from the definitions of the command line.

use std::{env, fmt::Write as _, fs};

use clap::{Arg, ArgAction, Command, CommandFactory};
use consent_ledger::{
    cli::{Cli, layers::env_name},
    setting::ALLOWED,
};

use crate::support;

const HEAD: &str = "\
<!-- Made from the definitions of the command line (src/cli, src/config.rs, src/node/config.rs).
     Do not edit it here: change the definitions, then run `UPDATE_DOCS=1 cargo test --test suite reference`. -->

# Command line and settings

Every option of every command can be given in three places. A flag beats the environment, and the
environment beats the options file.

| place | name | example |
| --- | --- | --- |
| flag | as in the tables below | `--drain-timeout 20s` |
| environment | `CONSENT_LEDGER_` and the flag in capitals, with `_` | `CONSENT_LEDGER_DRAIN_TIMEOUT=20s` |
| options file | the flag with `_` (or `-`) | `drain_timeout = \"20s\"` |

The options file is TOML: the file that `--config` names, else `consent-ledger.toml` in the working
directory, if there is one. A key at the top applies to every command that has the option; a key in a
table applies to that command alone.

```toml
addr = \"127.0.0.1:50061\"           # every command

[serve]                            # one command
data_dir = \"./data\"
listen = \"127.0.0.1:50061\"
cors_origin = [\"https://a.example\", \"https://b.example\"]

[catalog.apply]                    # a command below a command
dry_run = true
```

- An option that may be repeated takes a list in the file. As a flag and in the environment it takes
  values with commas between them, unless its values are free text, which may hold commas.
- A switch is off unless it is given. `--insecure=false`, `false` in the environment and `false` in
  the file turn it off again.
- A time has units: `500ms`, `30s`, `15m`, `24h`, `7days`. A size has a unit or is a number of bytes:
  `64MiB`, `1GB`, `4096`.
- A value outside its bounds, a malformed value and an unknown key are wrong usage, exit code 2; the
  message names the option, the value and the bounds.

";

#[test]
fn the_reference_equals_the_definitions() {
    let path = support::repository("docs/reference.md");
    let want = document();
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &want).unwrap();
    }
    let is = fs::read_to_string(&path).unwrap_or_default();
    let differs = is.lines().zip(want.lines()).position(|(is, want)| is != want);
    assert!(
        is == want,
        "docs/reference.md is not what the definitions say, from line {} on: \
         run `UPDATE_DOCS=1 cargo test --test suite reference` and commit the result",
        differs.unwrap_or(is.lines().count().min(want.lines().count())) + 1
    );
}

#[test]
fn the_options_file_of_the_reference_parses() {
    let example = HEAD.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("consent-ledger.toml");
    fs::write(&file, example).unwrap();
    let file = file.to_str().unwrap();
    support::run(["completions", "bash", "--config", file]).expect_code(0);
    // The values under [serve] parse; the flag keeps a server from starting.
    let refused = support::run(["serve", "--listen", "0.0.0.0:0", "--config", file]);
    assert!(refused.expect_code(2).stderr.contains("refusing to listen on 0.0.0.0:0"));
}

fn document() -> String {
    let mut cli = Cli::command();
    cli.build();
    let mut text = HEAD.to_owned();
    let commands = commands(&cli);
    push_contents(&mut text, &commands);
    text.push_str("\n## Options of every command\n\n");
    push_options(&mut text, &cli.get_arguments().filter(|arg| is_shown(arg)).collect::<Vec<_>>());
    push_notes(&mut text, &cli);
    for (name, command) in &commands {
        push_command(&mut text, name, command);
    }
    text
}

/// The executable commands, by full name, without hidden ones.
fn commands(parent: &Command) -> Vec<(String, &Command)> {
    let mut found = Vec::new();
    let is_shown = |command: &&Command| !command.is_hide_set() && command.get_name() != "help";
    for command in parent.get_subcommands().filter(is_shown) {
        let name = command.get_name();
        if command.has_subcommands() {
            let below = commands(command);
            found.extend(
                below.into_iter().map(|(below, command)| (format!("{name} {below}"), command)),
            );
        } else {
            found.push((name.to_owned(), command));
        }
    }
    found
}

fn push_contents(text: &mut String, commands: &[(String, &Command)]) {
    text.push_str("| command | |\n| --- | --- |\n");
    for (name, command) in commands {
        let about = command.get_about().unwrap().to_string();
        writeln!(text, "| [{name}](#{}) | {} |", name.replace(' ', "-"), cell(&about)).unwrap();
    }
}

fn push_command(text: &mut String, name: &str, command: &Command) {
    let about = command.get_about().unwrap();
    write!(text, "\n## {name}\n\n{about}.\n\n").unwrap();
    let usage = command.clone().render_usage().to_string();
    writeln!(text, "```text\n{}\n```\n", usage.trim_start_matches("Usage: ")).unwrap();
    let options: Vec<&Arg> =
        command.get_arguments().filter(|arg| is_shown(arg) && !arg.is_global_set()).collect();
    let mut headings: Vec<Option<&str>> = Vec::new();
    for arg in &options {
        if !headings.contains(&arg.get_help_heading()) {
            headings.push(arg.get_help_heading());
        }
    }
    for heading in headings {
        if let Some(heading) = heading {
            writeln!(text, "### {heading}\n").unwrap();
        }
        let group = options.iter().filter(|arg| arg.get_help_heading() == heading);
        push_options(text, &group.copied().collect::<Vec<_>>());
    }
    push_notes(text, command);
}

fn is_shown(arg: &Arg) -> bool {
    !arg.is_hide_set() && !["help", "version"].contains(&arg.get_id().as_str())
}

fn push_options(text: &mut String, args: &[&Arg]) {
    text.push_str(
        "| option | environment | key in the file | default | allowed | meaning |\n\
         | --- | --- | --- | --- | --- | --- |\n",
    );
    for arg in args {
        let help = Help::of(arg);
        let (variable, key) = match arg.get_long() {
            Some("config") => (code(&env_name("config")), String::new()),
            Some(long) => (code(&env_name(long)), code(&long.replace('-', "_"))),
            None => (String::new(), String::new()),
        };
        let (default, allowed) = (default(arg, &help), allowed(arg, &help));
        let (option, meaning) = (code(&option(arg)), cell(&help.text));
        writeln!(text, "| {option} | {variable} | {key} | {default} | {allowed} | {meaning} |")
            .unwrap();
    }
    text.push('\n');
}

fn option(arg: &Arg) -> String {
    let names = arg.get_value_names().unwrap_or_default();
    let values: Vec<String> = names.iter().map(|name| format!("<{name}>")).collect();
    match arg.get_long() {
        Some(long) if is_switch(arg) => format!("--{long}"),
        Some(long) => format!("--{long} {}", values.join(" ")),
        None => values.join(" "),
    }
}

fn is_switch(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

fn default(arg: &Arg, help: &Help) -> String {
    let values = arg.get_default_values().iter().map(|value| value.to_string_lossy());
    let values: Vec<String> =
        values.filter(|value| !value.is_empty()).map(|value| code(&value)).collect();
    match &help.default {
        _ if is_switch(arg) => "off".to_owned(),
        _ if arg.is_required_set() => "required".to_owned(),
        Some(words) => cell(words),
        None => values.join(", "),
    }
}

fn allowed(arg: &Arg, help: &Help) -> String {
    let values = arg.get_possible_values();
    let values: Vec<String> = values.iter().map(|value| code(value.get_name())).collect();
    match &help.allowed {
        Some(bounds) => cell(bounds),
        None if is_switch(arg) => String::new(),
        None => values.join(", "),
    }
}

/// A help text, and the notes in brackets at its end.
struct Help {
    text: String,
    default: Option<String>,
    allowed: Option<String>,
}

impl Help {
    fn of(arg: &Arg) -> Self {
        let text = arg.get_long_help().or(arg.get_help()).unwrap().to_string();
        let mut help = Self { text, default: None, allowed: None };
        while let Some((text, note)) =
            help.text.strip_suffix(']').and_then(|text| text.rsplit_once(" ["))
        {
            if let Some(bounds) = note.strip_prefix(ALLOWED) {
                help.allowed = Some(bounds.to_owned());
            } else {
                let default = note.strip_prefix("default: ").expect("no other note is known");
                help.default = Some(default.to_owned());
            }
            help.text = text.to_owned();
        }
        help
    }
}

/// The end of a command's help: rules, exit codes, an example.
fn push_notes(text: &mut String, command: &Command) {
    let notes = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    if !notes.is_empty() {
        writeln!(text, "```text\n{}\n```", notes.trim_end()).unwrap();
    }
    if !notes.contains("Exit codes") {
        text.push_str("\nExit codes: 0 done, 1 failed, 2 wrong usage.\n");
    }
}

fn code(text: &str) -> String {
    format!("`{}`", text.replace('|', "\\|"))
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}
