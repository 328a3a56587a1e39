//! Settings of the server, each defined once as a field (see [`crate::setting`]), and the
//! combinations of settings that are refused before anything is opened.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;
use humantime::parse_duration;
use thiserror::Error;

use crate::{
    node::NodeConfig,
    proto::{PutChannelRequest, PutNamespaceRequest, PutPartyRequest, PutPurposeRequest},
    setting::{
        self, DAY, MILLISECOND, MINUTE, Size, Within as _,
        heading::{CHECKPOINTS, LIMITS, LISTENING, STORAGE, SUBSCRIPTIONS},
    },
    telemetry::TelemetryConfig,
    tlog::{
        key::VerifierKey,
        policy::{Policy, Witness},
    },
    tree::WitnessFail,
    vault::Kek,
};

/// Limits of requests, over all connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Args)]
pub struct RequestLimits {
    /// Maximum number of unary requests in flight; more are refused with TOO_MANY_REQUESTS
    #[arg(long, value_name = "COUNT", within = 1_u64.., help_heading = LIMITS)]
    #[arg(default_value_t = 8_192)]
    pub requests_max: u64,
    /// Maximum number of open streams; more are refused with TOO_MANY_STREAMS
    #[arg(long, value_name = "COUNT", within = 1_u64.., help_heading = LIMITS)]
    #[arg(default_value_t = 1_024)]
    pub streams_max: u64,
    /// Maximum time until an answer begins, or until the next message of an import arrives; then the
    /// call fails with DEADLINE_EXCEEDED. A shorter deadline of the caller applies first
    #[arg(long, value_name = "TIME", value_parser = parse_duration, within = MILLISECOND..)]
    #[arg(default_value = "30s", help_heading = LIMITS)]
    pub request_timeout: Duration,
    /// Maximum rows per second of one import, more rows wait; 0 means no limit
    #[arg(long, value_name = "COUNT", default_value_t = 0, help_heading = LIMITS)]
    pub import_rows_per_second_max: u64,
}

/// How a server is set up.
#[derive(Debug, Clone, Args)]
pub struct ServeConfig {
    /// Address of the gRPC listener; port 0 picks a free port, which is printed
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:50051")]
    #[arg(help_heading = LISTENING)]
    pub listen: SocketAddr,
    /// Allow addresses that other machines can reach, although nobody is authenticated
    #[arg(long, help_heading = LISTENING)]
    pub insecure: bool,
    /// Address of the HTTP listener for /metrics, /healthz and /readyz [default: off]
    #[arg(long, value_name = "ADDRESS", help_heading = LISTENING)]
    pub metrics_listen: Option<SocketAddr>,
    /// Address of the HTTP listener for C2SP tlog-tiles: /checkpoint, /tile/… and /tile/entries/…
    /// [default: off]
    #[arg(long, value_name = "ADDRESS", help_heading = LISTENING)]
    pub tiles_listen: Option<SocketAddr>,
    /// Origin of web pages that may call over gRPC-Web, for example `https://example.org`; may be
    /// repeated
    #[arg(long = "cors-origin", value_name = "ORIGIN", value_parser = parse_cors_origin)]
    #[arg(value_delimiter = ',', help_heading = LISTENING)]
    pub cors_origins: Vec<String>,
    /// Idle time after which TCP keepalive probes check whether the peer of a connection is alive
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "30s")]
    #[arg(help_heading = LISTENING)]
    pub keepalive_interval: Duration,
    /// How long keepalive probes may stay unanswered before the connection is closed
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "20s")]
    #[arg(help_heading = LISTENING)]
    pub keepalive_timeout: Duration,
    /// Maximum time for requests in flight to finish after SIGTERM or SIGINT; then they are cut off
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "10s")]
    #[arg(help_heading = LISTENING)]
    pub drain_timeout: Duration,

    /// Certificate and key; none means plain text.
    #[arg(skip)]
    pub tls: Option<TlsFiles>,

    /// Serve a new ledger in a temporary directory, which is removed at the end, on a free port unless
    /// --listen names one; for tests and trials. Ignores --data-dir of environment and options file
    #[arg(long, help_heading = STORAGE)]
    pub ephemeral: bool,
    /// The catalogue that an ephemeral ledger begins with.
    #[arg(skip)]
    pub catalog: Vec<CatalogPut>,

    /// The node.
    #[command(flatten)]
    pub node: NodeConfig,

    /// Maximum size of a request message; larger ones are refused with LIMIT_EXCEEDED
    #[arg(long, value_name = "SIZE", within = Size(1).., default_value = "4MiB")]
    #[arg(help_heading = LIMITS)]
    pub message_bytes_max: u64,
    /// Limits of requests, over all connections.
    #[command(flatten)]
    pub limits: RequestLimits,
    /// Maximum number of concurrent calls on one connection; more wait in the client
    #[arg(long, value_name = "COUNT", within = 1_u32.., default_value_t = 1_024)]
    #[arg(help_heading = LIMITS)]
    pub connection_streams_max: u32,

    /// PEM file of a certificate authority to trust for witnesses, in addition to those of the
    /// system
    #[arg(long, value_name = "FILE", help_heading = CHECKPOINTS)]
    pub witness_ca: Option<PathBuf>,

    /// Maximum time for the endpoint of a webhook to answer
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    #[arg(within = MILLISECOND..=5 * MINUTE, default_value = "15s", help_heading = SUBSCRIPTIONS)]
    pub webhook_timeout: Duration,
    /// How long the delivery of an event is retried after its first try; then it becomes a dead
    /// letter
    #[arg(long, value_name = "TIME", value_parser = parse_duration, within = ..=30 * DAY)]
    #[arg(default_value = "3days", help_heading = SUBSCRIPTIONS)]
    pub webhook_retry_for: Duration,
    /// Initial backoff; doubles with each retry
    #[arg(long, value_name = "TIME", value_parser = parse_duration, within = MILLISECOND..=DAY)]
    #[arg(default_value = "5s", help_heading = SUBSCRIPTIONS)]
    pub webhook_retry_min: Duration,
    /// Maximum backoff; at least --webhook-retry-min
    #[arg(long, value_name = "TIME", value_parser = parse_duration, within = MILLISECOND..=DAY)]
    #[arg(default_value = "1h", help_heading = SUBSCRIPTIONS)]
    pub webhook_retry_max: Duration,
    /// PEM file of a certificate authority to trust for webhooks, in addition to those of the system
    #[arg(long, value_name = "FILE", help_heading = SUBSCRIPTIONS)]
    pub webhook_ca: Option<PathBuf>,

    /// Logs and traces.
    #[command(flatten)]
    pub telemetry: TelemetryConfig,
}

/// An entry of a catalogue.
#[derive(Debug, Clone, PartialEq)]
pub enum CatalogPut {
    /// A namespace.
    Namespace(PutNamespaceRequest),
    /// A channel.
    Channel(PutChannelRequest),
    /// A party.
    Party(PutPartyRequest),
    /// A purpose.
    Purpose(PutPurposeRequest),
}

impl CatalogPut {
    /// Kind and key, for an error.
    pub(crate) fn name(&self) -> (&'static str, String) {
        match self {
            Self::Namespace(put) => {
                let namespace = put.namespace.as_ref();
                ("namespace", namespace.map(|namespace| namespace.key.clone()).unwrap_or_default())
            }
            Self::Channel(put) => {
                let channel = put.channel.as_ref();
                ("channel", channel.map(|channel| channel.key.clone()).unwrap_or_default())
            }
            Self::Party(put) => {
                let party = put.party.as_ref();
                ("party", party.map(|party| party.key.clone()).unwrap_or_default())
            }
            Self::Purpose(put) => {
                let purpose = put.purpose.as_ref();
                ("purpose", purpose.map(|purpose| purpose.key.clone()).unwrap_or_default())
            }
        }
    }
}

/// PEM files of a server's identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate chain.
    pub cert: PathBuf,
    /// Private key.
    pub key: PathBuf,
}

impl Default for ServeConfig {
    fn default() -> Self {
        setting::defaults()
    }
}

/// Why a configuration is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// An address beyond this machine.
    #[error(
        "refusing to listen on {address}: other machines can reach it, and this version does not \
         authenticate callers{}; listen on a loopback address such as 127.0.0.1, or add --insecure \
         if something else restricts access",
        if *.tls { " (TLS encrypts the connection, but does not restrict who connects)" } else { "" }
    )]
    Exposed {
        /// The address.
        address: SocketAddr,
        /// Whether it would be TLS.
        tls: bool,
    },
    /// A certificate without a key, or the other way round.
    #[error("--tls-cert and --tls-key belong together: give both or none")]
    HalfTls,
    /// A maximum backoff below the initial one.
    #[error("--webhook-retry-max must be at least --webhook-retry-min")]
    WebhookRetry,
    /// The key-encryption key is malformed. It is not repeated here.
    #[error("CONSENT_LEDGER_KEK must be 64 hexadecimal digits")]
    Kek,
    /// A setting that an ephemeral ledger has no use for.
    #[error("--ephemeral makes a new ledger with keys of its own: leave out {0}")]
    Ephemeral(String),
    /// A catalogue for a ledger that has one.
    #[error(
        "--catalog is for --ephemeral: use `consent-ledger catalog apply` on a ledger that stays"
    )]
    Catalog,
    /// The key-encryption key is given in two ways.
    #[error("CONSENT_LEDGER_KEK and --kek-file both give the key-encryption key: keep one")]
    TwoKeks,
    /// A signing key is said to be known and to be lost.
    #[error(
        "--previous-signing-key-file is for a change with the key before, and --new-signing-key for one \
         whose key before is lost: give one or the other"
    )]
    KeyKnownAndLost,
    /// Witnesses are given in two ways.
    #[error("--witness-policy replaces --witness and --witness-quorum: give one or the other")]
    TwoPolicies,
    /// The witnesses or their policy are malformed.
    #[error("{flag}: {problem}")]
    Witness {
        /// The flag.
        flag: &'static str,
        /// What is wrong.
        problem: String,
    },
}

impl ServeConfig {
    /// Refuses settings that cannot work, or that are dangerous by accident.
    ///
    /// # Errors
    /// The first setting that is refused.
    pub fn check(&self) -> Result<(), ConfigError> {
        check_exposure(self.listen, self.tls.is_some(), self.insecure)?;
        for address in self.metrics_listen.into_iter().chain(self.tiles_listen) {
            check_exposure(address, false, self.insecure)?;
        }
        self.check_ephemeral()?;
        if self.node.kek.is_some() && self.node.kek_file.is_some() {
            return Err(ConfigError::TwoKeks);
        }
        if self.node.previous_signing_key_file.is_some() && self.node.new_signing_key {
            return Err(ConfigError::KeyKnownAndLost);
        }
        let (node, closed) = (&self.node, self.node.witness_fail == WitnessFail::Closed);
        if closed && !node.witness_policy.asks_for_witnesses() {
            let problem =
                "`closed` needs at least one witness: no checkpoint would ever be released";
            return Err(ConfigError::Witness {
                flag: "--witness-fail",
                problem: problem.to_owned(),
            });
        }
        if self.webhook_retry_max < self.webhook_retry_min {
            return Err(ConfigError::WebhookRetry);
        }
        Ok(())
    }
}

impl ServeConfig {
    /// An ephemeral ledger leaves no trace in files, keys and witnesses of other ledgers.
    fn check_ephemeral(&self) -> Result<(), ConfigError> {
        let node = &self.node;
        if !self.ephemeral {
            return Ok(());
        }
        let useless = [
            ("--expect-ledger", node.expect_ledger.is_some()),
            ("CONSENT_LEDGER_KEK", node.kek.is_some()),
            ("--kek-file", node.kek_file.is_some()),
            ("--signing-key-file", node.signing_key_file.is_some()),
            ("--previous-signing-key-file", node.previous_signing_key_file.is_some()),
            ("--new-signing-key", node.new_signing_key),
            ("--unused-signing-key", node.unused_signing_key),
            ("--witness and --witness-policy", !node.witness_policy.witnesses().is_empty()),
        ];
        match useless.into_iter().find(|(_, given)| *given) {
            Some((setting, _)) => Err(ConfigError::Ephemeral(setting.to_owned())),
            None => Ok(()),
        }
    }
}

/// Which witnesses must have cosigned a checkpoint: any `quorum` of the given ones, by default all; or as
/// the text of a policy says.
///
/// # Errors
/// [`ConfigError::Witness`] or [`ConfigError::TwoPolicies`].
pub fn witness_policy(
    witnesses: Vec<Witness>,
    quorum: Option<usize>,
    policy: Option<&str>,
) -> Result<Policy, ConfigError> {
    let wrong = |flag, problem| ConfigError::Witness { flag, problem };
    let Some(text) = policy else {
        let quorum = quorum.unwrap_or(witnesses.len());
        if witnesses.is_empty() && quorum == 0 {
            return Ok(Policy::none());
        }
        let flag = if quorum > witnesses.len() { "--witness-quorum" } else { "--witness" };
        let policy = Policy::any_of(quorum, witnesses);
        return policy.map_err(|error| wrong(flag, error.problem));
    };
    if !witnesses.is_empty() || quorum.is_some() {
        return Err(ConfigError::TwoPolicies);
    }
    const FLAG: &str = "--witness-policy";
    let policy = Policy::parse(text).map_err(|error| wrong(FLAG, error.to_string()))?;
    for Witness { name, url, .. } in policy.witnesses() {
        let url = url.as_deref().ok_or_else(|| {
            wrong(FLAG, format!("witness {name} has no URL, where it would be asked"))
        })?;
        check_witness_url(url)
            .map_err(|problem| wrong(FLAG, format!("witness {name}: {problem}")))?;
    }
    Ok(policy)
}

/// A witness and its address: its verifier key, a space, and its submission prefix.
///
/// # Errors
/// What is wrong, for the user.
pub fn parse_witness(text: &str) -> Result<Witness, String> {
    let (key, url) = text.trim().split_once(' ').ok_or(
        "a witness is its verifier key, a space, and its URL, for example \
         'witness.example/w1+8d6c20b1+BI… https://witness.example/w1'",
    )?;
    let key = VerifierKey::parse(key).map_err(|error| format!("the witness's key {error}"))?;
    let url = url.trim();
    check_witness_url(url)?;
    Ok(Witness { name: key.name().to_owned(), key, url: Some(url.to_owned()) })
}

/// Refuses a URL to which no path can be added.
fn check_witness_url(url: &str) -> Result<(), String> {
    let is_prefix = |uri: &http::Uri| uri.query().is_none() && !url.contains('#');
    match http_uri(url).filter(is_prefix) {
        Some(_) => Ok(()),
        None => Err(format!("`{url}` is no http:// or https:// URL without a query")),
    }
}

/// The URI of a text with the scheme `http` or `https`, and without user name and password.
fn http_uri(text: &str) -> Option<http::Uri> {
    let uri = text.parse::<http::Uri>().ok()?;
    let is_http = matches!(uri.scheme_str(), Some("http" | "https"))
        && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
    is_http.then_some(uri)
}

/// There is no authentication yet, so TLS alone does not open an address to other machines.
///
/// # Errors
/// [`ConfigError::Exposed`].
pub fn check_exposure(address: SocketAddr, tls: bool, insecure: bool) -> Result<(), ConfigError> {
    if insecure || address.ip().to_canonical().is_loopback() {
        return Ok(());
    }
    Err(ConfigError::Exposed { address, tls })
}

fn parse_cors_origin(text: &str) -> Result<String, &'static str> {
    let is_origin = !text.ends_with('/')
        && http_uri(text)
            .is_some_and(|uri| uri.path_and_query().is_none_or(|path| path.as_str() == "/"));
    if is_origin {
        Ok(text.to_owned())
    } else {
        Err("an origin of web pages is scheme and host, for example `https://example.org`")
    }
}

/// The key-encryption key, from 64 hexadecimal digits.
///
/// # Errors
/// [`ConfigError::Kek`], which does not repeat the text.
pub fn parse_kek(text: &str) -> Result<Kek, ConfigError> {
    Kek::parse(text).map_err(|_| ConfigError::Kek)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tlog::key::{Algorithm, SignerKey};

    fn listening(address: &str) -> ServeConfig {
        ServeConfig { listen: address.parse().unwrap(), ..ServeConfig::default() }
    }

    #[test]
    fn only_loopback_is_listened_on_by_default() {
        for safe in ["127.0.0.1:0", "127.9.9.9:1", "[::1]:50051", "[::ffff:127.0.0.1]:1"] {
            assert_eq!(listening(safe).check(), Ok(()), "{safe}");
        }
        for exposed in ["0.0.0.0:50051", "[::]:50051", "192.168.1.1:1", "[::ffff:10.0.0.1]:1"] {
            let mut config = listening(exposed);
            let refused = config.check().unwrap_err().to_string();
            assert!(refused.contains(exposed) && refused.contains("--insecure"), "{refused}");
            config.insecure = true;
            assert_eq!(config.check(), Ok(()), "{exposed}");
        }
    }

    #[test]
    fn tls_without_authentication_still_needs_the_word() {
        let mut config = listening("0.0.0.0:50051");
        config.tls = Some(TlsFiles { cert: "cert.pem".into(), key: "key.pem".into() });
        let refused = config.check().unwrap_err().to_string();
        assert!(refused.contains("TLS") && refused.contains("--insecure"), "{refused}");
    }

    #[test]
    fn the_metrics_listener_is_under_the_same_rule() {
        let config = ServeConfig {
            metrics_listen: Some("0.0.0.0:9464".parse().unwrap()),
            ..ServeConfig::default()
        };
        assert!(matches!(config.check(), Err(ConfigError::Exposed { tls: false, .. })));
    }

    #[test]
    fn web_origins_are_scheme_and_host() {
        for good in ["https://example.org", "http://localhost:3000"] {
            assert_eq!(parse_cors_origin(good).as_deref(), Ok(good));
        }
        for bad in [
            "*",
            "null",
            "",
            "example.org",
            "https://example.org/",
            "https://a.b/c?d",
            "ftp://a.b",
            "https://user@a.b",
        ] {
            let refused = parse_cors_origin(bad).unwrap_err();
            assert!(refused.starts_with("an origin of web pages is"), "{bad:?}");
        }
    }

    fn refused(flag: &str) -> String {
        setting::parse::<ServeConfig>(&[flag]).unwrap_err().to_string()
    }

    #[test]
    fn retries_are_bounded() {
        for (flag, allowed) in [
            ("--webhook-timeout=0s", "1ms to 5m"),
            ("--webhook-timeout=301s", "1ms to 5m"),
            ("--webhook-retry-min=0s", "1ms to 24h"),
            ("--webhook-retry-max=25h", "1ms to 24h"),
            ("--webhook-retry-for=31days", "at most 30days"),
        ] {
            let (name, value) = flag.split_once('=').unwrap();
            let want = format!("invalid value '{value}' for '{name} <TIME>': must be {allowed}");
            let error = refused(flag);
            assert!(error.contains(&want), "{error}");
        }
        let mut config = ServeConfig::default();
        config.webhook_retry_max = config.webhook_retry_min / 2;
        assert_eq!(config.check(), Err(ConfigError::WebhookRetry));
    }

    fn witness(n: u8) -> Witness {
        parse_witness(&format!("{} https://w{n}.example/", witness_key(n))).unwrap()
    }

    fn witness_key(n: u8) -> VerifierKey {
        let name = format!("w{n}.example");
        let key = SignerKey::from_seed(&name, Algorithm::Cosignature, &[n; 32]).unwrap();
        key.verifier().clone()
    }

    #[test]
    fn a_witness_is_a_key_and_a_url() {
        let parsed = witness(1);
        assert_eq!(
            (parsed.name.as_str(), parsed.url.as_deref()),
            ("w1.example", Some("https://w1.example/"))
        );
        let key = witness_key(1);
        for (bad, problem) in [
            (key.to_string(), "a space"),
            (format!("{key} w1.example"), "no http:// or https:// URL"),
            (format!("{key} ftp://w1.example"), "no http:// or https:// URL"),
            (format!("{key} https://w1.example?a=b"), "without a query"),
            (format!("{key} https://u:p@w1.example"), "no http:// or https:// URL"),
            (format!("x{key} https://w1.example"), "key id"),
            ("a b".to_owned(), "NAME+ID+KEY"),
        ] {
            let error = parse_witness(&bad).unwrap_err();
            assert!(error.contains(problem), "{bad}: {error}");
        }
    }

    #[test]
    fn a_quorum_is_of_the_witnesses_that_are_given() {
        let all = || vec![witness(1), witness(2)];
        assert!(!witness_policy(Vec::new(), None, None).unwrap().asks_for_witnesses());
        assert!(!witness_policy(all(), Some(0), None).unwrap().asks_for_witnesses());
        let parsed = witness_policy(all(), None, None).unwrap();
        assert!(parsed.asks_for_witnesses() && parsed.witnesses().len() == 2);
        let error = witness_policy(all(), Some(3), None).unwrap_err().to_string();
        assert!(error.starts_with("--witness-quorum: a quorum of 3 of 2"), "{error}");
        let error = witness_policy(vec![witness(1), witness(1)], None, None).unwrap_err();
        assert_eq!(error.to_string(), "--witness: witness w1.example comes twice");
        let mut log = witness(1);
        log.key =
            SignerKey::from_seed("log", Algorithm::Note, &[1; 32]).unwrap().verifier().clone();
        let error = witness_policy(vec![log], None, None).unwrap_err().to_string();
        assert!(error.contains("signature type 4"), "{error}");
    }

    #[test]
    fn who_holds_back_has_somebody_to_wait_for() {
        let mut config = ServeConfig::default();
        config.node.witness_fail = WitnessFail::Closed;
        let refused = config.check().unwrap_err().to_string();
        assert!(refused.starts_with("--witness-fail: "), "{refused}");
        config.node.witness_policy = witness_policy(vec![witness(1)], None, None).unwrap();
        assert_eq!(config.check(), Ok(()));
    }

    #[test]
    fn a_policy_says_where_its_witnesses_are() {
        let key = witness_key(1);
        let good = format!("witness W {key} https://w1.example/\nquorum W\n");
        assert!(witness_policy(Vec::new(), None, Some(&good)).unwrap().asks_for_witnesses());
        let two = witness_policy(vec![witness(1)], None, Some(&good)).unwrap_err();
        assert_eq!(two, ConfigError::TwoPolicies);
        let two = witness_policy(Vec::new(), Some(1), Some(&good)).unwrap_err();
        assert_eq!(two, ConfigError::TwoPolicies);
        for (bad, problem) in [
            (format!("witness W {key}\nquorum W\n"), "witness W has no URL"),
            (format!("witness W {key} w1\nquorum W\n"), "witness W: `w1` is no"),
            (format!("witness W {key} https://w1.example\n"), "line 2: "),
        ] {
            let error = witness_policy(Vec::new(), None, Some(&bad)).unwrap_err().to_string();
            assert!(error.starts_with("--witness-policy: ") && error.contains(problem), "{error}");
        }
    }

    #[test]
    fn limits_of_zero_are_named() {
        for (flag, value_name, least) in [
            ("--streams-max=0", "COUNT", "1"),
            ("--requests-max=0", "COUNT", "1"),
            ("--connection-streams-max=0", "COUNT", "1"),
            ("--message-bytes-max=0", "SIZE", "1B"),
            ("--request-timeout=0s", "TIME", "1ms"),
        ] {
            let name = flag.split('=').next().unwrap();
            let error = refused(flag);
            let want = format!("'{name} <{value_name}>': must be at least {least}");
            assert!(error.contains(&want), "{error}");
        }
    }

    #[test]
    fn the_key_comes_once_and_whole() {
        let digits = "00ff".repeat(16);
        let kek = parse_kek(&digits).unwrap();
        for bad in ["", "00ff", &"0".repeat(63), &"g".repeat(64), &"ä".repeat(32)] {
            assert!(matches!(parse_kek(bad), Err(ConfigError::Kek)), "{bad:?}");
        }
        let mut config = ServeConfig::default();
        config.node.kek = Some(kek);
        config.node.kek_file = Some("kek".into());
        assert_eq!(config.check(), Err(ConfigError::TwoKeks));
    }
}
