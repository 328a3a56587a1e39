//! `catalog list`: the purposes and channels that there are.

use clap::Args;

use super::{Client, channels, purposes};
use crate::cli::{
    Context, Exit, client,
    error::CliError,
    output::{Table, Tone},
    shapes, words,
};

const AFTER_HELP: &str = "\
Examples:
  consent-ledger catalog list
  consent-ledger catalog list --retired --json";

/// Options of `catalog list`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct ListArgs {
    /// List what is retired, too
    #[arg(long)]
    retired: bool,
}

pub(super) async fn run(args: ListArgs, context: &mut Context) -> Result<Exit, CliError> {
    let mut client = Client::new(client::connect(&context.global).await?);
    let purposes = purposes(&mut client, args.retired).await?;
    let channels = channels(&mut client, args.retired).await?;
    let catalog = shapes::Catalog {
        purposes: purposes.iter().map(Into::into).collect(),
        channels: channels.iter().map(Into::into).collect(),
    };
    print(&catalog, context)?;
    Ok(Exit::Success)
}

fn print(catalog: &shapes::Catalog, context: &mut Context) -> Result<(), CliError> {
    let out = &mut context.out;
    if out.json {
        return out.object(catalog);
    }
    if catalog.purposes.is_empty() && catalog.channels.is_empty() {
        return out
            .line("the catalogue is empty; fill it with `consent-ledger catalog apply FILE`");
    }
    let mut table = Table::new(&["PURPOSE", "VERSION", "BASIS", "VALIDITY", "NOTES", "TITLE"]);
    for purpose in &catalog.purposes {
        table.row(
            Tone::Plain,
            [
                purpose.key.clone(),
                purpose.version.to_string(),
                purpose.legal_basis.clone(),
                purpose.default_validity_ms.map(words::span).unwrap_or_default(),
                notes(purpose),
                purpose.title.clone(),
            ],
        );
    }
    out.table(&table)?;
    out.line("")?;
    let mut table = Table::new(&["CHANNEL", "NOTES", "TITLE"]);
    for channel in &catalog.channels {
        let notes = if channel.retired { "retired" } else { "" };
        table.row(Tone::Plain, [channel.key.clone(), notes.to_owned(), channel.title.clone()]);
    }
    out.table(&table)
}

fn notes(purpose: &shapes::Purpose) -> String {
    let obligations = match purpose.obligations.len() {
        0 => String::new(),
        1 => "1 obligation".to_owned(),
        count => format!("{count} obligations"),
    };
    let oldest = match purpose.oldest_compatible_version {
        0 | 1 => String::new(),
        version => format!("counts from version {version}"),
    };
    [
        if purpose.retired { "retired".to_owned() } else { String::new() },
        if purpose.double_opt_in { "double opt-in".to_owned() } else { String::new() },
        oldest,
        obligations,
    ]
    .into_iter()
    .filter(|note| !note.is_empty())
    .collect::<Vec<_>>()
    .join(", ")
}
