//! `catalog preview`: what a file would do to the answers, before it is applied.

use std::path::PathBuf;

use clap::Args;

use super::{Client, file::CatalogFile};
use crate::{
    cli::{
        Context, Exit, client,
        error::CliError,
        output::{Table, Tone},
        shapes::Previewed,
    },
    proto::{PreviewPurposeChangeRequest, Purpose},
};

const AFTER_HELP: &str = "\
Counts, for each purpose of the file by itself, the cells whose answer would change: a cell is a data
subject that the ledger knows and a channel that is not retired. Nothing is written.

Examples:
  consent-ledger catalog preview catalog.toml
  consent-ledger catalog preview catalog.toml --purpose marketing.newsletter --requires-reconsent";

/// Options of `catalog preview`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct PreviewArgs {
    /// TOML file with purposes, as for `catalog apply`
    file: PathBuf,
    /// Only this purpose of the file; may be given many times
    #[arg(long, value_name = "KEY", value_delimiter = ',')]
    purpose: Vec<String>,
    /// Count as if grants of earlier versions no longer counted
    #[arg(long)]
    requires_reconsent: bool,
    /// ISO 3166 region to decide for, for example DE or US-CA
    #[arg(long, value_name = "REGION", default_value = "", hide_default_value = true)]
    region: String,
}

pub(super) async fn run(args: PreviewArgs, context: &mut Context) -> Result<Exit, CliError> {
    let file = CatalogFile::read(&args.file)?;
    let mut client = Client::new(client::connect(&context.global).await?);
    if let Some(key) = args.purpose.iter().find(|key| file.purposes.iter().all(|p| p.key != **key))
    {
        return Err(CliError::usage(format!("{} has no purpose `{key}`", args.file.display())));
    }
    let wanted =
        |purpose: &&Purpose| args.purpose.is_empty() || args.purpose.contains(&purpose.key);
    for purpose in file.purposes.iter().filter(wanted) {
        let request = PreviewPurposeChangeRequest {
            purpose: Some(purpose.clone()),
            requires_reconsent: args.requires_reconsent,
            region: args.region.clone(),
            at_least_revision: None,
        };
        let answer = client.preview_purpose_change(request).await?.into_inner();
        print(
            &Previewed {
                purpose: purpose.key.clone(),
                changed: answer.changed,
                version: answer.version,
                cells: answer.cells,
                would_allow: answer.would_allow,
                would_deny: answer.would_deny,
                flips: answer.flips.iter().map(Into::into).collect(),
                unknown_subject: answer.unknown_subject.as_ref().map(Into::into),
                revision: answer.revision,
            },
            context,
        )?;
    }
    Ok(Exit::Success)
}

fn print(preview: &Previewed, context: &mut Context) -> Result<(), CliError> {
    let out = &mut context.out;
    if out.json {
        return out.object(preview);
    }
    let what = if preview.changed { "would change" } else { "stays as it is" };
    out.line(format!(
        "{} {what}: of {} cells {} would be allowed and {} denied",
        preview.purpose, preview.cells, preview.would_allow, preview.would_deny
    ))?;
    let mut table = Table::new(&["CHANNEL", "NOW", "THEN", "CELLS"]);
    for flips in &preview.flips {
        let row = [&flips.channel, &flips.before, &flips.after, &flips.count.to_string()]
            .map(Clone::clone);
        table.row(Tone::Plain, row);
    }
    out.table(&table)?;
    match &preview.unknown_subject {
        Some(unknown) if unknown.before != unknown.after => out.line(format!(
            "for whoever the ledger does not know: {} becomes {}",
            unknown.before, unknown.after
        )),
        _ => Ok(()),
    }
}
