//! `rebuild-view`: deletes the view and builds it again from the ledger.

use std::{path::PathBuf, sync::Arc};

use clap::Args;
use serde_json::json;

use super::{Context, Exit, error::CliError, offline, progress, serve};
use crate::{
    config::parse_kek,
    node::{self, NodeConfig, Progress},
    storage::disk::{Disk, RealDisk},
};

const AFTER_HELP: &str = "\
The server must be stopped: it locks the directory. A server rebuilds a missing, damaged or
foreign view when it starts; with this command you choose the time.

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
    offline::require_ledger(&args.data_dir)?;
    let kek = serve::kek_in_environment().map(|text| parse_kek(&text)).transpose();
    let config = NodeConfig {
        data_dir: args.data_dir.clone(),
        kek_file: args.kek_file.clone(),
        kek: kek.map_err(CliError::usage)?,
        ..NodeConfig::default()
    };
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let bar = progress::bar(Some(0), "rebuilding");
    let rebuilt = node::rebuild_view(&config, &disk, &mut |step| {
        let (message, done, total) = match step {
            Progress::Vault(done, total) => ("indexing the vault", done, total),
            Progress::View(done, total) => ("rebuilding the view", done, total),
            Progress::Tree(done, total) => ("hashing the tree", done, total),
            Progress::Forms(done, total) => ("renewing canonical forms", done, total),
        };
        bar.set_message(message);
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let (entries, subjects) = rebuilt.map_err(CliError::failed)?;
    match context.out.json {
        true => context.out.object(&json!({"entries": entries, "subjects": subjects}))?,
        false => {
            let line = format!("rebuilt from {entries} entries: {subjects} data subjects");
            context.out.line(line)?;
        }
    }
    Ok(Exit::Success)
}
