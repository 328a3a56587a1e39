//! `consent-ledger serve`: runs the server until it is told to stop.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;
use zeroize::Zeroizing;

use crate::{
    cli::error::CliError,
    config::{
        ConfigError, RequestLimits, ServeConfig, TlsFiles, parse_kek, parse_size, parse_witness,
        witness_policy,
    },
    node::NodeConfig,
    receipt::{Controller, said_list},
    server::{self, ServeError},
    telemetry::{LogFormat, TelemetryConfig},
    tlog::policy::Witness,
    tree::WitnessFail,
    web::target::Targets,
};

/// Environment variable of the key-encryption key. There is no flag for it: flags can be read by
/// every user of the machine.
pub const KEK_VARIABLE: &str = "CONSENT_LEDGER_KEK";

/// Runs the server.
///
/// The key-encryption key of subjects' keys is created in the data directory on the first start,
/// unless CONSENT_LEDGER_KEK (64 hexadecimal digits) or --kek-file gives it.
#[derive(Debug, Clone, clap::Args)]
pub struct ServeArgs {
    /// Directory of ledger, vault and view.
    #[arg(long, value_name = "DIR", default_value = "./data")]
    pub data_dir: PathBuf,
    /// Address to listen on; port 0 picks a free one and prints it.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:50051")]
    pub listen: SocketAddr,
    /// Name of the ledger, without scheme; counts when the ledger is created.
    #[arg(long, value_name = "NAME", default_value = "localhost/consent")]
    pub origin: String,
    /// File of the key-encryption key [default: `kek` in the data directory].
    #[arg(long, value_name = "FILE")]
    pub kek_file: Option<PathBuf>,
    /// File of the key that signs checkpoints, receipts and decision tokens; made on the first start
    /// [default: `signing-key` in the data directory].
    #[arg(long, value_name = "FILE")]
    pub signing_key_file: Option<PathBuf>,
    /// Go on with another signing key than the one that has signed; it is made if there is none.
    #[arg(long)]
    pub new_signing_key: bool,
    /// Take a signing key that was there before the ledger: nothing was ever signed with it.
    #[arg(long)]
    pub unused_signing_key: bool,
    /// Listen on an address that other machines can reach, though nobody is asked who they are.
    #[arg(long)]
    pub insecure: bool,
    /// PEM file of the server's certificate chain.
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// PEM file of the server's private key.
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Origin of web pages that may call over gRPC-Web, for example `https://example.org`; may be
    /// repeated.
    #[arg(long, value_name = "ORIGIN", value_delimiter = ',')]
    pub cors_origin: Vec<String>,
    /// Address of /metrics, /healthz and /readyz [default: off].
    #[arg(long, value_name = "ADDRESS")]
    pub metrics_listen: Option<SocketAddr>,
    /// Address of the C2SP tlog-tiles: /checkpoint, /tile/… and /tile/entries/… [default: off].
    #[arg(long, value_name = "ADDRESS")]
    pub tiles_listen: Option<SocketAddr>,
    /// How log lines look.
    #[arg(long, value_enum, default_value = "pretty")]
    pub log_format: LogFormat,
    /// Which log lines are written, for example `info` or `consent_ledger=debug` [default:
    /// RUST_LOG, or else `info`].
    #[arg(long, value_name = "FILTER")]
    pub log_level: Option<String>,
    /// OTLP collector that traces go to, for example `http://127.0.0.1:4317` [default: off].
    #[arg(long, value_name = "URL")]
    pub otlp_endpoint: Option<String>,

    /// Greatest size of a request message.
    #[arg(long, value_name = "SIZE", value_parser = parse_size, default_value = "4MiB")]
    pub message_bytes_max: u64,
    /// Greatest number of unary requests in flight; more are refused with TOO_MANY_REQUESTS.
    #[arg(long, value_name = "COUNT", default_value_t = 8_192)]
    pub requests_max: u64,
    /// Greatest number of open streams; more are refused with TOO_MANY_STREAMS.
    #[arg(long, value_name = "COUNT", default_value_t = 1_024)]
    pub streams_max: u64,
    /// Greatest number of concurrent calls on one connection; more wait at the client.
    #[arg(long, value_name = "COUNT", default_value_t = 1_024)]
    pub connection_streams_max: u32,
    /// How long an answer may take to begin; a caller's own deadline may be shorter.
    #[arg(
        long,
        value_name = "TIME",
        value_parser = humantime::parse_duration,
        default_value = "30s"
    )]
    pub request_timeout: Duration,
    /// Greatest number of rows of one import a second; more wait; 0 means no limit.
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    pub import_rows_per_second_max: u64,
    /// How long a connection is idle before the system asks whether the peer is still there.
    #[arg(
        long,
        value_name = "TIME",
        value_parser = humantime::parse_duration,
        default_value = "30s"
    )]
    pub keepalive_interval: Duration,
    /// How long that may stay unanswered before the connection is closed.
    #[arg(
        long,
        value_name = "TIME",
        value_parser = humantime::parse_duration,
        default_value = "20s"
    )]
    pub keepalive_timeout: Duration,
    /// How long requests in flight may take after SIGTERM or SIGINT.
    #[arg(
        long,
        value_name = "TIME",
        value_parser = humantime::parse_duration,
        default_value = "10s"
    )]
    pub drain_timeout: Duration,

    /// Greatest size of a segment file.
    #[arg(long, value_name = "SIZE", value_parser = parse_size, default_value = "64MiB")]
    pub segment_bytes_max: u64,
    /// Greatest number of appends in flight; more are refused with TOO_MANY_APPENDS.
    #[arg(long, value_name = "COUNT", default_value_t = 4_096)]
    pub appends_max: usize,
    /// Greatest number of entries in one group commit.
    #[arg(long, value_name = "COUNT", default_value_t = 1_024)]
    pub batch_entries_max: usize,
    /// Memory for the state that checks read.
    #[arg(long, value_name = "SIZE", value_parser = parse_size, default_value = "512MiB")]
    pub hot_bytes_max: u64,
    /// Memory for sled's page cache.
    #[arg(long, value_name = "SIZE", value_parser = parse_size, default_value = "64MiB")]
    pub sled_cache_bytes: u64,
    /// Greatest number of recent events that are kept in memory for watchers.
    #[arg(long, value_name = "COUNT", default_value_t = 65_536)]
    pub recent_events_max: usize,
    /// How fast older segments are verified again in the background, a second; 0 means not.
    #[arg(long, value_name = "SIZE", value_parser = parse_size, default_value = "8MiB")]
    pub scrub_bytes_per_second: u64,
    /// How long a read waits for a revision that the node has not reached.
    #[arg(
        long,
        value_name = "TIME",
        value_parser = humantime::parse_duration,
        default_value = "5s"
    )]
    pub revision_wait: Duration,
    /// How long a confirmation token of a double opt-in is good, unless the act says.
    #[arg(
        long,
        value_name = "TIME",
        value_parser = humantime::parse_duration,
        default_value = "7days"
    )]
    pub confirmation_validity: Duration,
    /// How long a decision token is good at most, 1s to 24h; never longer than its decision.
    #[arg(
        long,
        value_name = "TIME",
        value_parser = humantime::parse_duration,
        default_value = "15m"
    )]
    pub decision_token_validity: Duration,

    /// Witness that checkpoints are brought to, as 'VERIFIER-KEY URL' (a space between them): the key
    /// of its cosignatures and its submission prefix; may be repeated.
    #[arg(long, value_name = "WITNESS", value_parser = parse_witness, value_delimiter = ',')]
    pub witness: Vec<Witness>,
    /// How many of them must have cosigned a checkpoint before it is released [default: all].
    #[arg(long, value_name = "COUNT")]
    pub witness_quorum: Option<usize>,
    /// File with a policy (C2SP tlog-policy) that names witnesses, with URLs, and a quorum; instead of
    /// --witness and --witness-quorum.
    #[arg(long, value_name = "FILE")]
    pub witness_policy: Option<PathBuf>,
    /// What becomes of a checkpoint that too few witnesses cosign in time: `open` releases it without,
    /// and counts that; `closed` holds it back, and what waits for it, until enough have.
    #[arg(long, value_enum, default_value = "open")]
    pub witness_fail: WitnessFail,
    /// How long witnesses have time to answer.
    #[arg(
        long,
        value_name = "TIME",
        value_parser = humantime::parse_duration,
        default_value = "2s"
    )]
    pub witness_timeout: Duration,
    /// PEM file with a certificate authority to trust for witnesses, beside those of the system.
    #[arg(long, value_name = "FILE")]
    pub witness_ca: Option<PathBuf>,
    /// Shortest time from one signed checkpoint to the next.
    #[arg(
        long,
        value_name = "TIME",
        value_parser = humantime::parse_duration,
        default_value = "1s"
    )]
    pub checkpoint_interval: Duration,
    /// How long a caller waits for a checkpoint, where it asks for one.
    #[arg(
        long,
        value_name = "TIME",
        value_parser = humantime::parse_duration,
        default_value = "8s"
    )]
    pub checkpoint_wait: Duration,
    /// Greatest number of durable subscriptions.
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pub subscriptions_max: usize,
    /// How long acknowledgements of subscribers gather before a receipt of them is recorded.
    #[arg(
        long,
        value_name = "TIME",
        value_parser = humantime::parse_duration,
        default_value = "1s"
    )]
    pub receipt_interval: Duration,
    /// How many acknowledged events gather before a receipt of them is recorded at once.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub receipt_acks_max: usize,
    /// A network that webhooks may lead to although it is not public, as CIDR; may be repeated. Only
    /// to such networks is plain http sent.
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub webhook_allow: Vec<IpNet>,
    /// How long the endpoint of a webhook has time to answer.
    #[arg(
        long,
        value_name = "TIME",
        value_parser = humantime::parse_duration,
        default_value = "15s"
    )]
    pub webhook_timeout: Duration,
    /// How long an event is tried before it is a dead letter, from its first try on.
    #[arg(
        long,
        value_name = "TIME",
        value_parser = humantime::parse_duration,
        default_value = "3days"
    )]
    pub webhook_retry_for: Duration,
    /// Greatest pause after a first try in vain; twice as long after each further one.
    #[arg(
        long,
        value_name = "TIME",
        value_parser = humantime::parse_duration,
        default_value = "5s"
    )]
    pub webhook_retry_min: Duration,
    /// Greatest pause between two tries.
    #[arg(
        long,
        value_name = "TIME",
        value_parser = humantime::parse_duration,
        default_value = "1h"
    )]
    pub webhook_retry_max: Duration,
    /// PEM file with a certificate authority to trust for webhooks, beside those of the system.
    #[arg(long, value_name = "FILE")]
    pub webhook_ca: Option<PathBuf>,
    /// Who answers for the processing, as receipts name them.
    #[command(flatten)]
    pub controller: ControllerArgs,
}

/// Options that say who answers for the processing.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ControllerArgs {
    /// Name of the controller, for receipts [default: the name of the ledger].
    #[arg(long, value_name = "TEXT")]
    pub controller_name: Option<String>,
    /// Whom to ask about data protection, for receipts.
    #[arg(long, value_name = "TEXT")]
    pub controller_contact: Option<String>,
    /// Postal address of the controller in one line, for receipts.
    #[arg(long, value_name = "TEXT")]
    pub controller_address: Option<String>,
    /// Email address of the controller, for receipts.
    #[arg(long, value_name = "EMAIL")]
    pub controller_email: Option<String>,
    /// Telephone number of the controller, for receipts.
    #[arg(long, value_name = "PHONE")]
    pub controller_phone: Option<String>,
    /// Web page of the controller, for receipts.
    #[arg(long, value_name = "URL")]
    pub controller_url: Option<String>,
    /// Web page of the privacy policy, for receipts.
    #[arg(long, value_name = "URL")]
    pub privacy_policy_url: Option<String>,
    /// ISO 3166 region whose law applies, for receipts, for example `DE`; may be repeated.
    #[arg(long, value_name = "REGION", value_delimiter = ',')]
    pub jurisdiction: Vec<String>,
    /// Data category that is sensitive, with all that is below it, for receipts, or `none`; may be
    /// repeated.
    #[arg(long, value_name = "CATEGORY", value_delimiter = ',')]
    pub sensitive_category: Vec<String>,
    /// Third party that data is disclosed to, for receipts, or `none`; may be repeated, 4 KiB in all.
    #[arg(long, value_name = "TEXT")]
    pub third_party: Vec<String>,
}

impl From<ControllerArgs> for Controller {
    fn from(args: ControllerArgs) -> Self {
        Self {
            name: args.controller_name,
            contact: args.controller_contact,
            address: args.controller_address,
            email: args.controller_email,
            phone: args.controller_phone,
            url: args.controller_url,
            privacy_policy_url: args.privacy_policy_url,
            jurisdictions: args.jurisdiction,
            sensitive_categories: said_list(args.sensitive_category),
            third_parties: said_list(args.third_party),
        }
    }
}

impl ServeArgs {
    /// The configuration that the arguments describe, with the key-encryption key as the
    /// environment gives it.
    ///
    /// # Errors
    /// The first thing that is refused.
    pub fn into_config(self, kek: Option<Zeroizing<String>>) -> Result<ServeConfig, ConfigError> {
        let tls = match (self.tls_cert, self.tls_key) {
            (Some(cert), Some(key)) => Some(TlsFiles { cert, key }),
            (None, None) => None,
            _ => return Err(ConfigError::HalfTls),
        };
        let policy = self.witness_policy.as_deref().map(read_policy).transpose()?;
        let witness_policy = witness_policy(self.witness, self.witness_quorum, policy.as_deref())?;
        let config = ServeConfig {
            listen: self.listen,
            metrics_listen: self.metrics_listen,
            tiles_listen: self.tiles_listen,
            insecure: self.insecure,
            tls,
            cors_origins: self.cors_origin,
            message_bytes_max: usize::try_from(self.message_bytes_max).unwrap_or(usize::MAX),
            limits: RequestLimits {
                requests_max: self.requests_max,
                streams_max: self.streams_max,
                request_timeout: self.request_timeout,
                import_rows_per_second_max: self.import_rows_per_second_max,
            },
            connection_streams_max: self.connection_streams_max,
            keepalive_interval: self.keepalive_interval,
            keepalive_timeout: self.keepalive_timeout,
            drain_timeout: self.drain_timeout,
            witness_ca: self.witness_ca,
            webhook_timeout: self.webhook_timeout,
            webhook_retry_for: self.webhook_retry_for,
            webhook_retry_min: self.webhook_retry_min,
            webhook_retry_max: self.webhook_retry_max,
            webhook_ca: self.webhook_ca,
            telemetry: TelemetryConfig {
                log_format: self.log_format,
                log_level: self.log_level,
                otlp_endpoint: self.otlp_endpoint,
            },
            node: NodeConfig {
                data_dir: self.data_dir,
                origin: self.origin,
                kek: kek.map(|text| parse_kek(&text)).transpose()?,
                kek_file: self.kek_file,
                segment_bytes_max: self.segment_bytes_max,
                appends_max: self.appends_max,
                batch_entries_max: self.batch_entries_max,
                hot_bytes_max: self.hot_bytes_max,
                sled_cache_bytes: self.sled_cache_bytes,
                recent_events_max: self.recent_events_max,
                scrub_bytes_per_second: self.scrub_bytes_per_second,
                revision_wait: self.revision_wait,
                confirmation_validity: self.confirmation_validity,
                decision_token_validity: self.decision_token_validity,
                witness_policy,
                witness_fail: self.witness_fail,
                witness_wait: self.witness_timeout,
                signing_key_file: self.signing_key_file,
                new_signing_key: self.new_signing_key,
                unused_signing_key: self.unused_signing_key,
                checkpoint_interval: self.checkpoint_interval,
                checkpoint_wait: self.checkpoint_wait,
                controller: self.controller.into(),
                subscriptions_max: self.subscriptions_max,
                receipt_interval: self.receipt_interval,
                receipt_acks_max: self.receipt_acks_max,
                webhook_targets: Targets::new(self.webhook_allow),
            },
        };
        config.check()?;
        Ok(config)
    }
}

fn read_policy(path: &std::path::Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|error| ConfigError::Witness {
        flag: "--witness-policy",
        what: format!("{}: {error}", path.display()),
    })
}

/// What a node is set up with where only its directory matters, with the key-encryption key as the
/// environment gives it.
pub(super) fn node_config() -> Result<NodeConfig, CliError> {
    let kek = std::env::var(KEK_VARIABLE).ok().map(Zeroizing::new);
    let wrong = |error: ConfigError| CliError::usage(error.to_string());
    let kek = kek.map(|text| parse_kek(&text)).transpose().map_err(wrong)?;
    Ok(NodeConfig { kek, ..ServeConfig::default().node })
}

/// Runs the server until it is told to stop.
pub(super) async fn run(args: ServeArgs) -> Result<(), CliError> {
    let kek = std::env::var(KEK_VARIABLE).ok().map(Zeroizing::new);
    let config = args.into_config(kek).map_err(|error| CliError::usage(error.to_string()))?;
    server::serve(config).await.map_err(|error| {
        match &error {
        ServeError::Config(_) | ServeError::Telemetry(_) => CliError::usage(error.to_string()),
        ServeError::Open(open) if open.is_damage() => CliError::failed(error.to_string()).with_hint(
            "`consent-ledger verify` tells more about the ledger; nothing was repaired: restore a \
             backup that is at least as new as what was acknowledged",
        ),
        _ => CliError::failed(error.to_string()),
    }
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::tlog::key::{Algorithm, SignerKey};

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
        let own = config(&[]).unwrap();
        assert_eq!(format!("{own:?}"), format!("{:?}", ServeConfig::default()));
    }

    #[test]
    fn flags_reach_the_configuration() {
        let own = config(&[
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
            "--controller-name=Example AG",
            "--privacy-policy-url=https://example.org/privacy",
            "--jurisdiction=DE,US-CA",
            "--sensitive-category=user.health",
            "--third-party=none",
        ])
        .unwrap();
        assert_eq!(own.node.data_dir, PathBuf::from("/tmp/d"));
        assert!(own.listen.is_ipv6() && own.listen.port() == 0);
        assert_eq!(own.node.origin, "consent.example.org/eu");
        assert_eq!(own.metrics_listen.unwrap().port(), 9_464);
        assert_eq!(own.tls, Some(TlsFiles { cert: "c".into(), key: "k".into() }));
        assert_eq!(own.cors_origins.len(), 3);
        assert_eq!(own.message_bytes_max, 1 << 20);
        assert_eq!((own.limits.requests_max, own.limits.streams_max), (7, 8));
        assert_eq!(own.limits.request_timeout, Duration::from_millis(1_500));
        assert_eq!(own.limits.import_rows_per_second_max, 9);
        assert_eq!(own.drain_timeout, Duration::from_secs(60));
        assert_eq!(own.node.segment_bytes_max, 128 << 10);
        assert_eq!(own.node.scrub_bytes_per_second, 0);
        assert_eq!(own.telemetry.log_format, LogFormat::Json);
        assert_eq!(own.node.controller.name.as_deref(), Some("Example AG"));
        assert_eq!(own.node.controller.jurisdictions, ["DE", "US-CA"]);
        assert_eq!(own.node.controller.sensitive_categories.unwrap(), ["user.health"]);
        assert_eq!(own.node.controller.third_parties, Some(Vec::new()));
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
        let own = config(&[&flag(1), &flag(2), "--witness-quorum=1", "--witness-fail=closed"]);
        let own = own.unwrap().node;
        assert_eq!(own.witness_policy.witnesses()[1].url.as_deref(), Some("http://127.0.0.1:2"));
        assert_eq!(own.witness_fail, WitnessFail::Closed);
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
