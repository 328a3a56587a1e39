//! `serve`: runs the server until a signal stops it.

use std::{collections::BTreeMap, io::Write as _, path::PathBuf};

use clap::{ArgMatches, parser::ValueSource};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::{
    cli::{Context, catalog::file::CatalogFile, error::CliError, layers::env_name, words::Bytes},
    config::{ConfigError, ServeConfig, TlsFiles, parse_kek, parse_witness, witness_policy},
    node::OpenError,
    server::{self, Listens, ServeError},
    setting::heading::{CHECKPOINTS, STORAGE, TLS},
    tlog::policy::{Policy, Witness},
};

/// Environment variable of the key-encryption key. There is no flag for it: every user of the
/// machine can read flags.
pub const KEK_VARIABLE: &str = "CONSENT_LEDGER_KEK";

const AFTER_HELP: &str = "\
Every setting is also a variable in the environment, for example CONSENT_LEDGER_DATA_DIR, and a
key under [serve] in the options file, for example data_dir. docs/reference.md has them all.

The data directory must hold a ledger, which `consent-ledger init` makes: an empty directory is a
lost mount until somebody says otherwise. --expect-ledger refuses another ledger than the right
one. --ephemeral serves a new ledger, which is gone at the end.

The key-encryption key protects the keys of data subjects. It is in the data directory, unless
--kek-file names a file with it or CONSENT_LEDGER_KEK holds it, as 64 hexadecimal digits. There is
no flag for the key itself: every user of a machine can read flags.

Once everything answers, `serve` prints `listening on ADDRESS` and more such lines, or one object
with --json.

Exit codes: 0 stopped by SIGTERM or SIGINT, 1 failed, 2 wrong usage.

Examples:
  consent-ledger serve --data-dir /var/lib/consent-ledger --expect-ledger 3f9ac1d4… \\
      --kek-file /etc/consent-ledger/kek --metrics-listen 127.0.0.1:9464 --log-format json
  consent-ledger serve --ephemeral --catalog examples/catalog.toml --json";

/// Options of `serve`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct ServeArgs {
    /// Settings that need no conversion.
    #[command(flatten)]
    config: ServeConfig,
    /// TOML file with the namespaces, parties, purposes and channels that an ephemeral ledger begins with, as
    /// `catalog apply` reads it
    #[arg(long, value_name = "FILE", help_heading = STORAGE)]
    catalog: Option<PathBuf>,
    /// Whether the address of the gRPC listener is not the default.
    #[arg(skip)]
    has_address: bool,
    /// Whether the data directory was named by flag.
    #[arg(skip)]
    has_data_dir_flag: bool,
    /// The variables of the environment that give settings, by the flags of these.
    #[arg(skip)]
    variables: BTreeMap<String, String>,
    /// Certificate and key.
    #[command(flatten)]
    tls: TlsArgs,
    /// Witnesses.
    #[command(flatten)]
    witnesses: WitnessesArgs,
}

/// Settings of TLS.
#[derive(Debug, Clone, clap::Args)]
struct TlsArgs {
    /// PEM file of the server's certificate chain; clients then use an https:// address, and
    /// --tls-ca for a private certificate authority
    #[arg(long, value_name = "FILE", help_heading = TLS)]
    tls_cert: Option<PathBuf>,
    /// PEM file of the server's private key
    #[arg(long, value_name = "FILE", help_heading = TLS)]
    tls_key: Option<PathBuf>,
}

impl TlsArgs {
    fn files(self) -> Result<Option<TlsFiles>, ConfigError> {
        match (self.tls_cert, self.tls_key) {
            (Some(cert), Some(key)) => Ok(Some(TlsFiles { cert, key })),
            (None, None) => Ok(None),
            _ => Err(ConfigError::HalfTls),
        }
    }
}

/// Settings of witnesses.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct WitnessesArgs {
    /// Witness that cosigns checkpoints, as 'VERIFIER-KEY URL' (a space between them): the key of
    /// its cosignatures and its submission prefix; may be repeated
    #[arg(long, value_name = "WITNESS", value_parser = parse_witness, value_delimiter = ',')]
    #[arg(help_heading = CHECKPOINTS)]
    witness: Vec<Witness>,
    /// Number of witnesses that must have cosigned a checkpoint before it is released [default:
    /// all]
    #[arg(long, value_name = "COUNT", help_heading = CHECKPOINTS)]
    witness_quorum: Option<usize>,
    /// File with a policy (C2SP tlog-policy) that names witnesses, with URLs, and a quorum;
    /// replaces --witness and --witness-quorum
    #[arg(long, value_name = "FILE", help_heading = CHECKPOINTS)]
    witness_policy: Option<PathBuf>,
}

impl WitnessesArgs {
    pub(super) fn policy(self) -> Result<Policy, ConfigError> {
        let text = self.witness_policy.as_deref().map(read_policy).transpose()?;
        witness_policy(self.witness, self.witness_quorum, text.as_deref())
    }
}

impl ServeArgs {
    /// Takes from the parser where values came from.
    pub(super) fn note_sources(&mut self, matches: &ArgMatches) {
        let default = ServeConfig::default().listen;
        self.has_address = matches.value_source("listen") != Some(ValueSource::DefaultValue)
            || self.config.listen != default;
        self.has_data_dir_flag = matches.value_source("data_dir") == Some(ValueSource::CommandLine);
        let is_variable = |id: &&str| matches.value_source(id) == Some(ValueSource::EnvVariable);
        let ids = matches.ids().map(clap::Id::as_str).filter(is_variable);
        let names = ids.map(|id| id.replace('_', "-"));
        self.variables = names.map(|name| (format!("--{name}"), env_name(&name))).collect();
    }

    /// The configuration from the arguments and the key-encryption key of the environment.
    ///
    /// # Errors
    /// The first invalid setting.
    pub fn into_config(self, kek: Option<Zeroizing<String>>) -> Result<ServeConfig, ConfigError> {
        let mut config = self.config;
        if config.ephemeral && self.has_data_dir_flag {
            return Err(ConfigError::Ephemeral("--data-dir".to_owned()));
        }
        if config.ephemeral && !self.has_address {
            config.listen.set_port(0);
        }
        config.tls = self.tls.files()?;
        config.node.kek = kek.map(|text| parse_kek(&text)).transpose()?;
        config.node.witness_policy = self.witnesses.policy()?;
        config.check().map_err(|error| match error {
            // Nobody has given a flag whose value is from the environment.
            ConfigError::Ephemeral(flag) => {
                ConfigError::Ephemeral(self.variables.get(&flag).cloned().unwrap_or(flag))
            }
            error => error,
        })?;
        Ok(config)
    }
}

fn read_policy(path: &std::path::Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|error| ConfigError::Witness {
        flag: "--witness-policy",
        problem: format!("{}: {error}", path.display()),
    })
}

/// The key-encryption key in the environment.
pub(super) fn kek_in_environment() -> Option<Zeroizing<String>> {
    std::env::var(KEK_VARIABLE).ok().map(Zeroizing::new)
}

/// Where a server listens, and what it serves, as JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Listening {
    /// Address of the gRPC listener.
    listening: String,
    /// Address of the metrics.
    metrics: Option<String>,
    /// Address of the tiles.
    tiles: Option<String>,
    /// The key that verifies checkpoints.
    verifier_key: String,
    /// Identity of the ledger.
    ledger_id: Bytes,
    /// Name of the ledger.
    origin: String,
}

impl From<&Listens> for Listening {
    fn from(listens: &Listens) -> Self {
        Self {
            listening: listens.address.to_string(),
            metrics: listens.metrics.map(|address| address.to_string()),
            tiles: listens.tiles.map(|address| address.to_string()),
            verifier_key: listens.verifier_key.to_string(),
            ledger_id: Bytes(listens.ledger.0.to_vec()),
            origin: listens.origin.clone(),
        }
    }
}

/// The lines that say the same. Scripts rely on them.
fn lines(listens: &Listens) -> String {
    let mut lines = format!("listening on {}\n", listens.address);
    if let Some(address) = listens.metrics {
        lines.push_str(&format!("metrics on {address}\n"));
    }
    if let Some(address) = listens.tiles {
        lines.push_str(&format!("tiles on {address}\n"));
    }
    lines.push_str(&format!("verifier key {}\n", listens.verifier_key));
    lines.push_str(&format!("ledger {} {}\n", listens.ledger, listens.origin));
    lines
}

/// Runs the server until a signal stops it.
pub(super) async fn run(args: ServeArgs, context: &Context) -> Result<(), CliError> {
    let catalog = args.catalog.as_deref().map(CatalogFile::read).transpose()?;
    let is_catalog_without_use = catalog.is_some() && !args.config.ephemeral;
    let mut config = args.into_config(kek_in_environment()).map_err(CliError::usage)?;
    if is_catalog_without_use {
        return Err(CliError::usage(ConfigError::Catalog));
    }
    config.catalog = catalog.map(CatalogFile::into_puts).unwrap_or_default();
    let json = context.out.json;
    let announce = |listens: &Listens| {
        let mut out = std::io::stdout().lock();
        if json {
            serde_json::to_writer(&mut out, &Listening::from(listens))?;
            writeln!(out)?;
        } else {
            out.write_all(lines(listens).as_bytes())?;
        }
        out.flush()
    };
    server::serve(config, announce).await.map_err(|error| match &error {
        ServeError::Config(_) | ServeError::Telemetry(_) => CliError::usage(error),
        ServeError::Open(OpenError::NoLedger { .. }) => CliError::failed(error).with_hint(
            "`consent-ledger init` makes a new, empty ledger, which knows of no objection and no \
             withdrawal; `serve --ephemeral` serves one for a trial",
        ),
        ServeError::Open(open) if open.is_damage() => CliError::failed(error).with_hint(
            "`consent-ledger verify` shows the damage; nothing was repaired: restore a backup that \
             has every acknowledged entry",
        ),
        _ => CliError::failed(error),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;

    use super::*;
    use crate::{
        telemetry::LogFormat,
        tlog::key::{Algorithm, SignerKey},
        tree::WitnessFail,
    };

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        serve: ServeArgs,
    }

    fn config(arguments: &[&str]) -> Result<ServeConfig, ConfigError> {
        let arguments = ["serve"].iter().chain(arguments);
        Command::try_parse_from(arguments).unwrap().serve.into_config(None)
    }

    #[test]
    fn defaults_are_those_of_the_configuration() {
        let config = config(&[]).unwrap();
        assert_eq!(format!("{config:?}"), format!("{:?}", ServeConfig::default()));
    }

    #[test]
    fn flags_reach_the_configuration() {
        let config = config(&[
            "--data-dir=/tmp/d",
            "--listen=[::1]:0",
            "--origin=consent.example.org/eu",
            "--metrics-listen=127.0.0.1:9464",
            "--tls-cert=c",
            "--tls-key=k",
            "--cors-origin=https://a.example,https://b.example",
            "--cors-origin=https://c.example",
            "--message-bytes-max=1MiB",
            "--requests-max=7",
            "--streams-max=8",
            "--request-timeout=1500ms",
            "--import-rows-per-second-max=9",
            "--drain-timeout=1m",
            "--segment-bytes-max=128KiB",
            "--scrub-bytes-per-second=0",
            "--log-format=json",
        ])
        .unwrap();
        assert_eq!(config.node.data_dir, PathBuf::from("/tmp/d"));
        assert!(config.listen.is_ipv6() && config.listen.port() == 0);
        assert_eq!(config.node.origin.as_deref(), Some("consent.example.org/eu"));
        assert_eq!(config.metrics_listen.unwrap().port(), 9_464);
        assert_eq!(config.tls, Some(TlsFiles { cert: "c".into(), key: "k".into() }));
        assert_eq!(config.cors_origins.len(), 3);
        assert_eq!(config.message_bytes_max, 1 << 20);
        assert_eq!((config.limits.requests_max, config.limits.streams_max), (7, 8));
        assert_eq!(config.limits.request_timeout, Duration::from_millis(1_500));
        assert_eq!(config.limits.import_rows_per_second_max, 9);
        assert_eq!(config.drain_timeout, Duration::from_secs(60));
        assert_eq!(config.node.segment_bytes_max, 128 << 10);
        assert_eq!(config.node.scrub_bytes_per_second, 0);
        assert_eq!(config.telemetry.log_format, LogFormat::Json);
    }

    #[test]
    fn witnesses_reach_the_node() {
        let key = |n: u8| {
            let name = format!("w{n}.example");
            SignerKey::from_seed(&name, Algorithm::Cosignature, &[n; 32])
                .unwrap()
                .verifier()
                .clone()
        };
        let flag = |n: u8| format!("--witness={} http://127.0.0.1:{n}", key(n));
        let node = config(&[&flag(1), &flag(2), "--witness-quorum=1", "--witness-fail=closed"]);
        let node = node.unwrap().node;
        assert_eq!(node.witness_policy.witnesses()[1].url.as_deref(), Some("http://127.0.0.1:2"));
        assert_eq!(node.witness_fail, WitnessFail::Closed);
        let refused = config(&[&flag(1), "--witness-policy=absent"]).unwrap_err().to_string();
        assert!(refused.starts_with("--witness-policy: absent: "), "{refused}");
        let refused = config(&["--witness-quorum=1"]).unwrap_err().to_string();
        assert!(refused.starts_with("--witness-quorum: "), "{refused}");
    }

    #[test]
    fn half_a_tls_identity_is_refused() {
        assert_eq!(config(&["--tls-cert=c"]).unwrap_err(), ConfigError::HalfTls);
        assert_eq!(config(&["--tls-key=k"]).unwrap_err(), ConfigError::HalfTls);
    }

    #[test]
    fn exposure_needs_the_word() {
        assert!(matches!(config(&["--listen=0.0.0.0:1"]), Err(ConfigError::Exposed { .. })));
        assert!(config(&["--listen=0.0.0.0:1", "--insecure"]).is_ok());
    }

    #[test]
    fn the_key_never_shows() {
        let arguments = Command::try_parse_from(["serve"]).unwrap().serve;
        let key = Zeroizing::new("ab".repeat(32));
        let config = arguments.clone().into_config(Some(key)).unwrap();
        assert!(config.node.kek.is_some());
        assert!(
            !format!("{config:?}").contains("ab, ab") && !format!("{config:?}").contains("171")
        );
        let wrong = arguments.into_config(Some(Zeroizing::new("secret".to_owned()))).unwrap_err();
        assert!(!wrong.to_string().contains("secret"));
    }
}
