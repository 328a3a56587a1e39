//! What a server is told: plain values with their defaults, and what is refused before anything
//! is opened. The command line, the environment and the TOML file are read elsewhere.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use thiserror::Error;

use crate::{
    node::NodeConfig,
    receipt::{Controller, ControllerError},
    telemetry::TelemetryConfig,
    tlog::{
        key::VerifierKey,
        policy::{Policy, Witness},
    },
    tree::WitnessFail,
    vault::Kek,
    web::target::Targets,
};

/// Kibibyte, in bytes.
const KIB: u64 = 1 << 10;
/// Mebibyte, in bytes.
const MIB: u64 = 1 << 20;
/// Gibibyte, in bytes.
const GIB: u64 = 1 << 30;

/// The shortest validity of decision tokens: their times are whole seconds.
pub const TOKEN_VALIDITY_MIN: Duration = Duration::from_secs(1);
/// The longest: a day is a long time not to hear of a withdrawal.
pub const TOKEN_VALIDITY_MAX: Duration = Duration::from_secs(24 * 3_600);

/// The shortest validity of confirmation tokens. Nobody confirms faster.
pub const CONFIRMATION_VALIDITY_MIN: Duration = Duration::from_secs(1);
/// The longest: who has not answered in three months is asked again.
pub const CONFIRMATION_VALIDITY_MAX: Duration = Duration::from_secs(90 * 24 * 3_600);

/// The shortest time that acknowledgements gather: shorter would be an entry for each.
pub const RECEIPT_INTERVAL_MIN: Duration = Duration::from_millis(10);
/// The longest: a crash has as much delivered again.
pub const RECEIPT_INTERVAL_MAX: Duration = Duration::from_secs(3_600);

/// The longest name of a ledger, in bytes.
pub const ORIGIN_BYTES_MAX: usize = 256;

/// What requests may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestLimits {
    /// The greatest number of unary requests in flight.
    pub requests_max: u64,
    /// The greatest number of streams open.
    pub streams_max: u64,
    /// How long an answer may take to begin; a caller's `grpc-timeout` may only shorten it.
    pub request_timeout: Duration,
    /// The greatest number of rows of one import a second; 0 means no limit.
    pub import_rows_per_second_max: u64,
}

/// How a server is set up.
#[derive(Debug, Clone)]
pub struct ServeConfig {
    /// Address of the gRPC listener; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Address of the metrics listener; none means no such listener.
    pub metrics_listen: Option<SocketAddr>,
    /// Address of the listener for tiles; none means no such listener.
    pub tiles_listen: Option<SocketAddr>,
    /// Whether an address beyond this machine may be listened on, though nobody is asked who they
    /// are.
    pub insecure: bool,
    /// Certificate and key; none means plain text.
    pub tls: Option<TlsFiles>,
    /// Origins of web pages that may call over gRPC-Web; none means no page of another origin.
    pub cors_origins: Vec<String>,
    /// The greatest size of a request message, in bytes.
    pub message_bytes_max: usize,
    /// Limits of requests, over all connections.
    pub limits: RequestLimits,
    /// The greatest number of concurrent HTTP/2 streams of one connection.
    pub connection_streams_max: u32,
    /// How long a connection is idle before the system asks whether the peer is still there (TCP
    /// keepalive).
    pub keepalive_interval: Duration,
    /// How long that may stay unanswered before the connection is closed.
    pub keepalive_timeout: Duration,
    /// How long requests in flight may take when the server shuts down.
    pub drain_timeout: Duration,
    /// PEM file of a certificate authority that witnesses' certificates may be of, beside those of
    /// the system.
    pub witness_ca: Option<PathBuf>,
    /// How long an endpoint of a webhook has time to answer.
    pub webhook_timeout: Duration,
    /// How long an event is tried before it is a dead letter, from its first try on.
    pub webhook_retry_for: Duration,
    /// The greatest pause after a first try in vain; twice as long after each further one.
    pub webhook_retry_min: Duration,
    /// The greatest pause.
    pub webhook_retry_max: Duration,
    /// PEM file of a certificate authority that endpoints' certificates may be of, beside those of
    /// the system.
    pub webhook_ca: Option<PathBuf>,
    /// Logs and traces.
    pub telemetry: TelemetryConfig,
    /// The node.
    pub node: NodeConfig,
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
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 50_051)),
            metrics_listen: None,
            tiles_listen: None,
            insecure: false,
            tls: None,
            cors_origins: Vec::new(),
            message_bytes_max: 4 << 20,
            limits: RequestLimits {
                requests_max: 8_192,
                streams_max: 1_024,
                request_timeout: Duration::from_secs(30),
                import_rows_per_second_max: 0,
            },
            connection_streams_max: 1_024,
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(20),
            drain_timeout: Duration::from_secs(10),
            witness_ca: None,
            webhook_timeout: Duration::from_secs(15),
            webhook_retry_for: Duration::from_secs(72 * 3_600),
            webhook_retry_min: Duration::from_secs(5),
            webhook_retry_max: Duration::from_secs(3_600),
            webhook_ca: None,
            telemetry: TelemetryConfig::default(),
            node: default_node(),
        }
    }
}

fn default_node() -> NodeConfig {
    NodeConfig {
        data_dir: PathBuf::from("./data"),
        origin: "localhost/consent".to_owned(),
        kek: None,
        kek_file: None,
        segment_bytes_max: 64 * MIB,
        appends_max: 4_096,
        batch_entries_max: 1_024,
        hot_bytes_max: GIB / 2,
        sled_cache_bytes: 64 * MIB,
        recent_events_max: 65_536,
        scrub_bytes_per_second: 8 * MIB,
        revision_wait: Duration::from_secs(5),
        confirmation_validity: Duration::from_secs(7 * 24 * 3_600),
        decision_token_validity: Duration::from_secs(15 * 60),
        witness_policy: Policy::none(),
        witness_fail: WitnessFail::Open,
        witness_wait: Duration::from_secs(2),
        signing_key_file: None,
        new_signing_key: false,
        unused_signing_key: false,
        checkpoint_interval: Duration::from_secs(1),
        checkpoint_wait: Duration::from_secs(8),
        controller: Controller::default(),
        subscriptions_max: 1_000,
        receipt_interval: Duration::from_secs(1),
        receipt_acks_max: 10_000,
        webhook_targets: Targets::default(),
    }
}

/// Why a configuration is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// An address beyond this machine.
    #[error(
        "refusing to listen on {address}: it can be reached from other machines, and this version \
         can not ask anybody who they are{}; listen on a loopback address such as 127.0.0.1, or \
         say --insecure if something else keeps strangers away",
        if *.tls { " (TLS hides the answers on their way, but gives them to everyone)" } else { "" }
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
    /// The name of the ledger can not stand in a checkpoint.
    #[error(
        "`{0}` can not name a ledger: 1 to {ORIGIN_BYTES_MAX} bytes of visible ASCII without `+`, \
         for example `consent.example.org/eu`"
    )]
    Origin(String),
    /// An origin of web pages that is none.
    #[error("`{0}` is no origin of web pages: scheme and host, for example `https://example.org`")]
    CorsOrigin(String),
    /// A limit of zero, where nothing would work.
    #[error("{0} must be at least 1")]
    Zero(&'static str),
    /// A time that is longer than makes sense.
    #[error("{name} must be at most {limit}")]
    TooLong {
        /// The flag.
        name: &'static str,
        /// The limit.
        limit: &'static str,
    },
    /// Pauses between tries to deliver that shrink.
    #[error("--webhook-retry-max must not be less than --webhook-retry-min")]
    WebhookRetry,
    /// Decision tokens that live too short or too long.
    #[error("--decision-token-validity must be 1s to 24h")]
    TokenValidity,
    /// Confirmation tokens that live too short or too long.
    #[error("--confirmation-validity must be 1s to 90days")]
    ConfirmationValidity,
    /// Receipts of delivery that are written too often or too seldom.
    #[error("--receipt-interval must be 10ms to 1h")]
    ReceiptInterval,
    /// What receipts can not say of the controller.
    #[error(transparent)]
    Controller(#[from] ControllerError),
    /// The key-encryption key is malformed. It is not repeated here.
    #[error("CONSENT_LEDGER_KEK must be 64 hexadecimal digits")]
    Kek,
    /// The key-encryption key is given in two ways.
    #[error("CONSENT_LEDGER_KEK and --kek-file both give the key-encryption key: keep one")]
    TwoKeks,
    /// Witnesses are given in two ways.
    #[error(
        "--witness-policy says which witnesses there are: --witness and --witness-quorum go without it"
    )]
    TwoPolicies,
    /// The witnesses, or the policy, can not be.
    #[error("{flag}: {what}")]
    Witness {
        /// The flag.
        flag: &'static str,
        /// What is wrong.
        what: String,
    },
}

impl ServeConfig {
    /// Refuses what can not work, or should not be done by accident.
    ///
    /// # Errors
    /// The first thing that is refused.
    pub fn check(&self) -> Result<(), ConfigError> {
        check_exposure(self.listen, self.tls.is_some(), self.insecure)?;
        for address in self.metrics_listen.into_iter().chain(self.tiles_listen) {
            check_exposure(address, false, self.insecure)?;
        }
        check_origin(&self.node.origin)?;
        self.node.controller.check()?;
        for origin in &self.cors_origins {
            check_cors_origin(origin)?;
        }
        if self.node.kek.is_some() && self.node.kek_file.is_some() {
            return Err(ConfigError::TwoKeks);
        }
        let validity = TOKEN_VALIDITY_MIN..=TOKEN_VALIDITY_MAX;
        if !validity.contains(&self.node.decision_token_validity) {
            return Err(ConfigError::TokenValidity);
        }
        let validity = CONFIRMATION_VALIDITY_MIN..=CONFIRMATION_VALIDITY_MAX;
        if !validity.contains(&self.node.confirmation_validity) {
            return Err(ConfigError::ConfirmationValidity);
        }
        let interval = RECEIPT_INTERVAL_MIN..=RECEIPT_INTERVAL_MAX;
        if !interval.contains(&self.node.receipt_interval) {
            return Err(ConfigError::ReceiptInterval);
        }
        let (node, closed) = (&self.node, self.node.witness_fail == WitnessFail::Closed);
        if closed && !node.witness_policy.asks_for_witnesses() {
            let what =
                "`closed` holds back what too few witnesses have seen, and none is asked for";
            return Err(ConfigError::Witness { flag: "--witness-fail", what: what.to_owned() });
        }
        for (name, span, most, limit) in [
            ("--checkpoint-interval", self.node.checkpoint_interval, 24 * 3_600, "24h"),
            ("--checkpoint-wait", self.node.checkpoint_wait, 3_600, "1h"),
            ("--witness-timeout", self.node.witness_wait, 3_600, "1h"),
            ("--webhook-timeout", self.webhook_timeout, 300, "5m"),
            ("--webhook-retry-max", self.webhook_retry_max, 24 * 3_600, "24h"),
            ("--webhook-retry-for", self.webhook_retry_for, 30 * 24 * 3_600, "30 days"),
        ] {
            if span > Duration::from_secs(most) {
                return Err(ConfigError::TooLong { name, limit });
            }
        }
        if self.webhook_retry_max < self.webhook_retry_min {
            return Err(ConfigError::WebhookRetry);
        }
        for (name, is_zero) in [
            ("--message-bytes-max", self.message_bytes_max == 0),
            ("--requests-max", self.limits.requests_max == 0),
            ("--streams-max", self.limits.streams_max == 0),
            ("--connection-streams-max", self.connection_streams_max == 0),
            ("--request-timeout", self.limits.request_timeout.is_zero()),
            ("--webhook-timeout", self.webhook_timeout.is_zero()),
            ("--webhook-retry-min", self.webhook_retry_min.is_zero()),
            ("--witness-timeout", self.node.witness_wait.is_zero()),
            ("--segment-bytes-max", self.node.segment_bytes_max == 0),
            ("--appends-max", self.node.appends_max == 0),
            ("--batch-entries-max", self.node.batch_entries_max == 0),
            ("--subscriptions-max", self.node.subscriptions_max == 0),
            ("--receipt-acks-max", self.node.receipt_acks_max == 0),
        ] {
            if is_zero {
                return Err(ConfigError::Zero(name));
            }
        }
        Ok(())
    }
}

/// Which witnesses must have cosigned a checkpoint: any `quorum` of those that are given, or all of
/// them; or what the text of a policy says.
///
/// # Errors
/// [`ConfigError::Witness`] or [`ConfigError::TwoPolicies`].
pub fn witness_policy(
    witnesses: Vec<Witness>,
    quorum: Option<usize>,
    policy: Option<&str>,
) -> Result<Policy, ConfigError> {
    let wrong = |flag, what| ConfigError::Witness { flag, what };
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
        check_witness_url(url).map_err(|what| wrong(FLAG, format!("witness {name}: {what}")))?;
    }
    Ok(policy)
}

/// A witness and where it is asked: its verifier key, a space, and its submission prefix.
///
/// # Errors
/// What is wrong, for whoever wrote it.
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

/// A prefix to which paths are added.
fn check_witness_url(url: &str) -> Result<(), String> {
    let fits = url.parse::<http::Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
            && uri.query().is_none()
            && !url.contains('#')
    });
    if fits {
        Ok(())
    } else {
        Err(format!("`{url}` is no http:// or https:// URL without a query"))
    }
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

/// The name will stand in C2SP signed notes, which allow neither spaces nor `+` in it.
fn check_origin(origin: &str) -> Result<(), ConfigError> {
    let fits = (1..=ORIGIN_BYTES_MAX).contains(&origin.len());
    if fits && origin.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'+') {
        return Ok(());
    }
    Err(ConfigError::Origin(origin.to_owned()))
}

fn check_cors_origin(origin: &str) -> Result<(), ConfigError> {
    let is_origin = origin.parse::<http::Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
            && !origin.ends_with('/')
            && uri.path_and_query().is_none_or(|path| path.as_str() == "/")
    });
    if is_origin { Ok(()) } else { Err(ConfigError::CorsOrigin(origin.to_owned())) }
}

/// The key-encryption key, from 64 hexadecimal digits.
///
/// # Errors
/// [`ConfigError::Kek`], which does not repeat the text.
pub fn parse_kek(text: &str) -> Result<Kek, ConfigError> {
    Kek::parse(text).map_err(|_| ConfigError::Kek)
}

/// How a text can fail to be a size.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SizeError {
    /// Not a number with a unit.
    #[error("a size is a whole number of bytes, or of KiB, MiB, GiB, kB, MB or GB, such as 64MiB")]
    Malformed,
    /// More bytes than can be counted.
    #[error("the size is too large")]
    TooLarge,
}

/// A size such as `64MiB`, `4096` or `1 GB`, in bytes.
///
/// # Errors
/// See [`SizeError`].
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(SizeError::Malformed);
    }
    let unit = match unit.trim_start() {
        "" | "B" => 1,
        "KiB" => KIB,
        "MiB" => MIB,
        "GiB" => GIB,
        "TiB" => GIB * KIB,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return Err(SizeError::Malformed),
    };
    let number: u64 = number.parse().map_err(|_| SizeError::TooLarge)?;
    number.checked_mul(unit).ok_or(SizeError::TooLarge)
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
    fn names_of_ledgers_can_stand_in_a_checkpoint() {
        for good in ["localhost/consent", "consent.example.org/eu"] {
            assert_eq!(check_origin(good), Ok(()), "{good}");
        }
        for bad in ["", "two words", "a+b", "ä", "line\n", &"x".repeat(257)] {
            assert!(check_origin(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn web_origins_are_scheme_and_host() {
        for good in ["https://example.org", "http://localhost:3000"] {
            assert_eq!(check_cors_origin(good), Ok(()), "{good}");
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
            assert!(check_cors_origin(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn tokens_live_a_second_to_a_day() {
        let mut config = ServeConfig::default();
        for (millis, good) in [(999, false), (1_000, true), (86_400_000, true), (86_400_001, false)]
        {
            config.node.decision_token_validity = Duration::from_millis(millis);
            let refused = config.check().err();
            assert_eq!(refused, (!good).then_some(ConfigError::TokenValidity), "{millis}");
        }
    }

    #[test]
    fn acknowledgements_gather_ten_milliseconds_to_an_hour() {
        let mut config = ServeConfig::default();
        for (millis, good) in [(9, false), (10, true), (3_600_000, true), (3_600_001, false)] {
            config.node.receipt_interval = Duration::from_millis(millis);
            let refused = config.check().err();
            assert_eq!(refused, (!good).then_some(ConfigError::ReceiptInterval), "{millis}");
        }
        let mut config = ServeConfig::default();
        config.node.receipt_acks_max = 0;
        assert_eq!(config.check(), Err(ConfigError::Zero("--receipt-acks-max")));
        let mut config = ServeConfig::default();
        config.node.subscriptions_max = 0;
        assert_eq!(config.check(), Err(ConfigError::Zero("--subscriptions-max")));
        let mut config = ServeConfig::default();
        config.webhook_retry_max = config.webhook_retry_min / 2;
        assert_eq!(config.check(), Err(ConfigError::WebhookRetry));
        let webhook_retry_for = Duration::from_secs(31 * 24 * 3_600);
        let config = ServeConfig { webhook_retry_for, ..ServeConfig::default() };
        let too_long = ConfigError::TooLong { name: "--webhook-retry-for", limit: "30 days" };
        assert_eq!(config.check(), Err(too_long));
    }

    #[test]
    fn confirmations_wait_a_second_to_ninety_days() {
        let mut config = ServeConfig::default();
        let most = 90 * 86_400_000;
        for (millis, good) in
            [(0, false), (999, false), (1_000, true), (most, true), (most + 1, false)]
        {
            config.node.confirmation_validity = Duration::from_millis(millis);
            let refused = config.check().err();
            assert_eq!(refused, (!good).then_some(ConfigError::ConfirmationValidity), "{millis}");
        }
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
        let own = witness(1);
        assert_eq!(
            (own.name.as_str(), own.url.as_deref()),
            ("w1.example", Some("https://w1.example/"))
        );
        let key = witness_key(1);
        for (bad, what) in [
            (key.to_string(), "a space"),
            (format!("{key} w1.example"), "no http:// or https:// URL"),
            (format!("{key} ftp://w1.example"), "no http:// or https:// URL"),
            (format!("{key} https://w1.example?a=b"), "without a query"),
            (format!("{key} https://u:p@w1.example"), "no http:// or https:// URL"),
            (format!("x{key} https://w1.example"), "key id"),
            ("a b".to_owned(), "NAME+ID+KEY"),
        ] {
            let error = parse_witness(&bad).unwrap_err();
            assert!(error.contains(what), "{bad}: {error}");
        }
    }

    #[test]
    fn a_quorum_is_of_the_witnesses_that_are_given() {
        let all = || vec![witness(1), witness(2)];
        assert!(!witness_policy(Vec::new(), None, None).unwrap().asks_for_witnesses());
        assert!(!witness_policy(all(), Some(0), None).unwrap().asks_for_witnesses());
        let own = witness_policy(all(), None, None).unwrap();
        assert!(own.asks_for_witnesses() && own.witnesses().len() == 2);
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
        for (bad, what) in [
            (format!("witness W {key}\nquorum W\n"), "witness W has no URL"),
            (format!("witness W {key} w1\nquorum W\n"), "witness W: `w1` is no"),
            (format!("witness W {key} https://w1.example\n"), "line 2: "),
        ] {
            let error = witness_policy(Vec::new(), None, Some(&bad)).unwrap_err().to_string();
            assert!(error.starts_with("--witness-policy: ") && error.contains(what), "{error}");
        }
    }

    #[test]
    fn times_that_nobody_waits_are_refused() {
        let mut config = ServeConfig::default();
        config.node.checkpoint_interval = Duration::from_secs(24 * 3_600);
        assert_eq!(config.check(), Ok(()));
        config.node.checkpoint_interval += Duration::from_secs(1);
        let refused = config.check().unwrap_err().to_string();
        assert_eq!(refused, "--checkpoint-interval must be at most 24h");
    }

    #[test]
    fn limits_of_zero_are_named() {
        let mut config = ServeConfig::default();
        config.limits.streams_max = 0;
        assert_eq!(config.check(), Err(ConfigError::Zero("--streams-max")));
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

    #[test]
    fn sizes_are_numbers_with_a_unit() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4_096),
            ("4096B", 4_096),
            ("4KiB", 4_096),
            ("64MiB", 64 << 20),
            (" 2 GiB ", 2 << 30),
            ("1TiB", 1 << 40),
            ("5kB", 5_000),
            ("5MB", 5_000_000),
            ("5GB", 5_000_000_000),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "MiB", "-1", "1.5GiB", "64mib", "64 M", "1e3", "0x10", "64MiBs"] {
            assert_eq!(parse_size(bad), Err(SizeError::Malformed), "{bad}");
        }
        for large in ["18446744073709551616", "17179869184GiB"] {
            assert_eq!(parse_size(large), Err(SizeError::TooLarge), "{large}");
        }
    }
}
