//! `catalog preview`: counts the decisions that a file would change, before it is applied.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::{Client, file::CatalogFile};
use crate::{
    cli::{
        Context, Exit, client,
        error::CliError,
        output::{Table, Tone},
        words::word,
    },
    json,
    proto::{PreviewPurposeChangeRequest, PreviewPurposeChangeResponse, Purpose, Reason},
};

const AFTER_HELP: &str = "\
Counts, for each purpose of the file alone, the cells whose decision would change. A cell is a
known data subject and a channel that is not retired. Nothing is written.

Examples:
  consent-ledger catalog preview catalog.toml
  consent-ledger catalog preview catalog.toml --purpose marketing.newsletter \\
      --requires-reconsent";

/// Options of `catalog preview`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct PreviewArgs {
    /// TOML file with purposes, as for `catalog apply`
    file: PathBuf,
    /// Only this purpose of the file; may be given many times
    #[arg(long, value_name = "KEY", value_delimiter = ',')]
    purpose: Vec<String>,
    /// Assume that grants of earlier versions no longer count
    #[arg(long)]
    requires_reconsent: bool,
    /// ISO 3166 region to decide for, for example DE or US-CA
    #[arg(long, value_name = "REGION", default_value = "", hide_default_value = true)]
    region: String,
}

/// Effect of changing a purpose, as JSON.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Previewed {
    /// Purpose key.
    purpose: String,
    /// The server's answer.
    #[serde(serialize_with = "json::serialize")]
    preview: PreviewPurposeChangeResponse,
}

pub(super) async fn run(args: PreviewArgs, context: &mut Context) -> Result<Exit, CliError> {
    let file = CatalogFile::read(&args.file)?;
    let mut client = Client::new(client::connect(&context.global).await?);
    if let Some(key) = args.purpose.iter().find(|key| file.purposes.iter().all(|p| p.key != **key))
    {
        return Err(CliError::usage(format!("{} has no purpose `{key}`", args.file.display())));
    }
    let selected =
        |purpose: &&Purpose| args.purpose.is_empty() || args.purpose.contains(&purpose.key);
    for purpose in file.purposes.iter().filter(selected) {
        let request = PreviewPurposeChangeRequest {
            purpose: Some(purpose.clone()),
            requires_reconsent: args.requires_reconsent,
            region: args.region.clone(),
            at_least_revision: None,
        };
        let preview = client.preview_purpose_change(request).await?.into_inner();
        print(&Previewed { purpose: purpose.key.clone(), preview }, context)?;
    }
    Ok(Exit::Success)
}

fn print(previewed: &Previewed, context: &mut Context) -> Result<(), CliError> {
    let out = &mut context.out;
    if out.json {
        return out.object(previewed);
    }
    let Previewed { purpose, preview } = previewed;
    let verdict = if preview.changed { "would change" } else { "stays as it is" };
    out.line(format!(
        "{purpose} {verdict}: of {} cells {} would be allowed and {} denied",
        preview.cells, preview.would_allow, preview.would_deny
    ))?;
    let mut table = Table::new(&["CHANNEL", "NOW", "THEN", "CELLS"]);
    for flips in &preview.flips {
        let (before, after) = (word::<Reason>(flips.before), word::<Reason>(flips.after));
        table.row(Tone::Plain, [flips.channel.clone(), before, after, flips.count.to_string()]);
    }
    out.table(&table)?;
    match &preview.unknown_subject {
        Some(unknown) if unknown.before != unknown.after => out.line(format!(
            "for unknown data subjects: {} becomes {}",
            word::<Reason>(unknown.before),
            word::<Reason>(unknown.after)
        )),
        _ => Ok(()),
    }
}
