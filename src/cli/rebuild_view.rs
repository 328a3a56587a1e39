//! `rebuild-view`: deletes the view and builds it again from the ledger.

use std::path::PathBuf;

use clap::Args;

use super::{Context, Exit, error::CliError, offline, progress, serve};
use crate::node::Progress;

const AFTER_HELP: &str = "\
The server must not run: it has the directory open. It rebuilds a view that is missing, damaged or
foreign on its own when it starts; this command is for doing it at a time of your choice.

Example:
  consent-ledger rebuild-view --data-dir ./data";

/// Options of `rebuild-view`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct RebuildViewArgs {
    /// Directory of ledger, vault and view
    #[arg(long, value_name = "DIR", default_value = "./data")]
    data_dir: PathBuf,
    /// File of the key-encryption key [default: `kek` in the data directory]
    #[arg(long, value_name = "FILE")]
    kek_file: Option<PathBuf>,
}

pub(super) fn run(args: &RebuildViewArgs, context: &mut Context) -> Result<Exit, CliError> {
    let mut config = serve::node_config()?;
    config.data_dir.clone_from(&args.data_dir);
    config.kek_file.clone_from(&args.kek_file);
    let bar = progress::bar(Some(0), "rebuilding");
    let rebuilt = offline::rebuild_view_in_dir(&config, &mut |step| {
        let (what, done, total) = match step {
            Progress::Vault(done, total) => ("indexing the vault", done, total),
            Progress::View(done, total) => ("rebuilding the view", done, total),
            Progress::Tree(done, total) => ("hashing the tree", done, total),
        };
        bar.set_message(what);
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let rebuilt = rebuilt?;
    if context.out.json {
        context.out.object(&rebuilt)?;
    } else {
        context.out.line(format!(
            "rebuilt from {} entries: {} data subjects",
            rebuilt.entries, rebuilt.subjects
        ))?;
    }
    Ok(Exit::Success)
}
