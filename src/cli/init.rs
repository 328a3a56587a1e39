//! `init`: makes a new ledger in an empty directory. Nothing else does, except `serve --ephemeral`.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use humantime::parse_duration;
use serde::Serialize;
use tokio::task::spawn_blocking;

use super::{
    Context, Exit,
    error::CliError,
    serve::{self, WitnessesArgs},
    words::Bytes,
};
use crate::{
    config::{ConfigError, parse_kek},
    node::{Init, NewLedger, NodeConfig, ORIGIN_DEFAULT, parse_origin},
    setting::{
        HOUR, MILLISECOND, Within as _,
        heading::{CHECKPOINTS, KEYS},
    },
    storage::disk::RealDisk,
    tlog::checkpoint::SignedCheckpoint,
    web::WebClient,
    witness::known::{self, KnownError},
};

const AFTER_HELP: &str = "\
A new ledger knows of no objection and no withdrawal. So it is made once, by hand or by a job
that runs once, and never by the script that starts the server. `init` refuses

- a directory that holds a ledger, a part of one, or other files;
- the file of a key-encryption key that belongs to a ledger of the same name. `init` adds a
  line with id and name of the ledger to the file, so that the key knows its ledger when the
  directory is lost; keep the key elsewhere, with --kek-file;
- a signing key that exists already, unless --unused-signing-key says that it never signed;
- any --checkpoint, which was kept from an earlier ledger;
- a witness that knows a ledger of the same name, or does not answer.

If `init` is cut off, run it again. It prints the id of the ledger, for --expect-ledger of
`serve`, its name and its verifier key.

Exit codes: 0 made; 1 refused or failed; 2 wrong usage.

Examples:
  consent-ledger init --data-dir /var/lib/consent-ledger --origin consent.example.org/eu \\
      --kek-file /etc/consent-ledger/kek
  consent-ledger init --json | jq -r .ledgerId";

/// Options of `init`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct InitArgs {
    /// Directory of ledger, vault and view
    #[arg(long, value_name = "DIR", default_value = "./data")]
    data_dir: PathBuf,
    /// Name of the ledger, without scheme; written into the ledger
    #[arg(long, value_name = "NAME", value_parser = parse_origin, default_value = ORIGIN_DEFAULT)]
    origin: String,
    /// Checkpoint that was kept from an earlier ledger; may be repeated. With one, no ledger is made
    #[arg(long, value_name = "FILE")]
    checkpoint: Vec<PathBuf>,
    /// File of the key-encryption key; created if it is missing [default: `kek` in the data
    /// directory]
    #[arg(long, value_name = "FILE", help_heading = KEYS)]
    kek_file: Option<PathBuf>,
    /// File of the key that signs checkpoints, receipts and decision tokens; created if it is missing
    /// [default: `signing-key` in the data directory]
    #[arg(long, value_name = "FILE", help_heading = KEYS)]
    signing_key_file: Option<PathBuf>,
    /// Accept a signing key that exists already; only for a key that never signed anything
    #[arg(long, help_heading = KEYS)]
    unused_signing_key: bool,
    /// Witnesses.
    #[command(flatten)]
    witnesses: WitnessesArgs,
    /// PEM file of a certificate authority to trust for witnesses, in addition to those of the system
    #[arg(long, value_name = "FILE", help_heading = CHECKPOINTS)]
    witness_ca: Option<PathBuf>,
    /// Maximum time for a witness to answer
    #[arg(long, value_name = "TIME", value_parser = parse_duration, within = MILLISECOND..=HOUR)]
    #[arg(default_value = "2s", help_heading = CHECKPOINTS)]
    witness_timeout: Duration,
    /// Do not ask the witnesses whether they know a ledger of this name
    #[arg(long, help_heading = CHECKPOINTS)]
    skip_witnesses: bool,
}

/// A new ledger, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Made {
    /// Identity of the ledger.
    ledger_id: Bytes,
    /// Name of the ledger.
    origin: String,
    /// The key that verifies its checkpoints.
    verifier_key: String,
    /// The data directory.
    data_dir: String,
    /// File of the key-encryption key; `null` if the key is in the environment.
    kek_file: Option<String>,
    /// Whether that file names the ledger now.
    kek_noted: bool,
    /// File of the signing key.
    signing_key_file: String,
}

pub(super) async fn run(args: InitArgs, context: &mut Context) -> Result<Exit, CliError> {
    for path in &args.checkpoint {
        refuse_checkpoint(path)?;
    }
    let kek = serve::kek_in_environment().map(|text| parse_kek(&text)).transpose();
    let kek = kek.map_err(CliError::usage)?;
    if kek.is_some() && args.kek_file.is_some() {
        return Err(CliError::usage(ConfigError::TwoKeks));
    }
    let policy = args.witnesses.policy().map_err(CliError::usage)?;
    let config = NodeConfig {
        data_dir: args.data_dir,
        origin: Some(args.origin),
        kek,
        kek_file: args.kek_file,
        signing_key_file: args.signing_key_file,
        unused_signing_key: args.unused_signing_key,
        ..NodeConfig::default()
    };
    let init = Init::look(Arc::new(RealDisk), &config).map_err(CliError::failed)?;
    if !args.skip_witnesses && !policy.witnesses().is_empty() {
        let ca = args
            .witness_ca
            .as_ref()
            .map(|path| fs::read(path).map_err(|error| CliError::file(path, error).into_usage()));
        let ca = ca.transpose()?;
        let web = WebClient::new(args.witness_timeout, ca.as_deref()).map_err(CliError::usage)?;
        known::ask(&policy, init.signer(), &web).await.map_err(|error| with_hint(&error))?;
    }
    let made = spawn_blocking(move || init.make()).await.map_err(CliError::failed)?;
    print(&made.map_err(CliError::failed)?, &config.data_dir, context)?;
    Ok(Exit::Success)
}

/// A checkpoint that was kept belongs to a ledger, which a new one can not continue.
fn refuse_checkpoint(path: &Path) -> Result<(), CliError> {
    let text =
        fs::read_to_string(path).map_err(|error| CliError::file(path, error).into_usage())?;
    let signed = SignedCheckpoint::parse(&text)
        .map_err(|error| CliError::usage(format!("{}: {error}", path.display())))?;
    let (origin, size) = (&signed.checkpoint.origin, signed.checkpoint.size);
    Err(CliError::failed(format!(
        "{} is a checkpoint of {size} entries of the ledger `{origin}`: a new ledger can not continue it",
        path.display()
    ))
    .with_hint("mount the disk of that ledger, or restore a backup; without --checkpoint, a new ledger \
                is made"))
}

fn with_hint(error: &KnownError) -> CliError {
    let failed = CliError::failed(error);
    match error {
        KnownError::Unreachable { .. } | KnownError::Unclear { .. } => failed.with_hint(
            "try again when the witness answers; --skip-witnesses makes a ledger without asking",
        ),
        _ => failed,
    }
}

fn print(made: &NewLedger, data_dir: &Path, context: &mut Context) -> Result<(), CliError> {
    if let (Some(problem), Some(path)) = (&made.kek_unnoted, &made.kek_file) {
        eprintln!(
            "warning: the file of the key-encryption key does not name the ledger ({problem}); add this \
             line at the end of {}, so that no second ledger of this name is made with the key:\n\
             ledger {} {}",
            path.display(),
            made.id,
            made.origin
        );
    }
    let out = &mut context.out;
    let kek_file = made.kek_file.as_ref().map(|path| path.display().to_string());
    let signing_key_file = made.signing_key_file.display().to_string();
    if out.json {
        return out.object(&Made {
            ledger_id: Bytes(made.id.0.to_vec()),
            origin: made.origin.clone(),
            verifier_key: made.verifier_key.to_string(),
            data_dir: data_dir.display().to_string(),
            kek_noted: kek_file.is_some() && made.kek_unnoted.is_none(),
            kek_file,
            signing_key_file,
        });
    }
    out.line(format!("ledger id     {}", made.id))?;
    out.line(format!("ledger        {}", made.origin))?;
    out.line(format!("verifier key  {}", made.verifier_key))?;
    out.line(format!("data          {}", data_dir.display()))?;
    let kek = kek_file.unwrap_or_else(|| format!("in the environment ({})", serve::KEK_VARIABLE));
    out.line(format!("kek           {kek}"))?;
    out.line(format!("signing key   {signing_key_file}"))
}
