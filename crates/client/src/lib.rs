//! Client for Rust services: calls with deadlines and retries, streams that reconnect by
//! themselves, and a local cache of decisions that is never stale beyond a bound.
//!
//! ```toml
//! consent-ledger-client = "0.1"
//! ```
//!
//! It uses the generated types, which are checked in, and nothing of the server.
//!
//! * [`Client`] has the generated client of each service, over [`Calls`]: deadlines and retries by
//!   [`ServiceConfig`], and the caller's metadata.
//! * [`Client::watch`] and [`Client::consume`] are streams that reconnect.
//! * [`CachedChecker`] answers "may I?" in process.
//!
//! On an error, or without an answer, the caller must act as if the answer were DENY.
//!
//! Later versions may add fields to options, which are plain structs to be built from their
//! defaults with `..`, and variants to enums, which are `non_exhaustive`. The crates that
//! signatures use are re-exported ([`tonic`], [`prost_types`], [`StreamExt`]).

mod backoff;
pub mod cache;
mod calls;
pub mod consume;
mod fault;
pub mod proto;
pub mod service_config;
pub mod watch;

use std::{fmt, time::Duration};

pub use backoff::{BackoffError, BackoffPolicy};
pub use cache::CachedChecker;
pub use calls::{Calls, MetadataHook, RETRY_BUFFER_BYTES_MAX};
pub use consume::{ConsumeOptions, Consumer, Delivery};
pub use fault::reason;
pub use futures_util::StreamExt;
pub use prost_types;
pub use service_config::ServiceConfig;
use thiserror::Error;
pub use tonic;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
pub use watch::{Heard, Watch, WatchOptions};

use crate::proto::{
    audit_service_client::AuditServiceClient, catalog_service_client::CatalogServiceClient,
    check_service_client::CheckServiceClient, consent_service_client::ConsentServiceClient,
    privacy_service_client::PrivacyServiceClient, watch_service_client::WatchServiceClient,
};

/// The largest response that is accepted, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// The longest of the spans of time in [`ClientConfig`].
pub const SPAN_MAX: Duration = Duration::from_secs(3_600);

/// Where the server is, and how to talk to it.
#[derive(Clone)]
pub struct ClientConfig {
    /// `http://HOST:PORT` or `https://HOST:PORT`.
    pub endpoint: String,
    /// TLS settings of an `https` endpoint.
    pub tls: Option<Tls>,
    /// Deadlines and retries.
    pub service_config: ServiceConfig,
    /// How long it may take to connect.
    pub connect_timeout: Duration,
    /// Interval of keep-alive pings on an open connection, also while it is idle.
    pub keep_alive_interval: Duration,
    /// A connection that does not answer a ping within this time is given up, with all of its
    /// streams. A connection that answers is kept even if its streams are silent: they reconnect
    /// over it. Only a new [`Client`] has a connection of its own.
    pub keep_alive_timeout: Duration,
    /// Adds to the metadata of each attempt.
    pub metadata: Option<MetadataHook>,
}

/// TLS settings: the trusted certificate authority, and the client's certificate.
#[derive(Clone, Default)]
pub struct Tls {
    /// The certificate authority to trust, in PEM.
    pub ca_pem: Vec<u8>,
    /// The name in the server's certificate, where it is not that of the endpoint.
    pub domain: Option<String>,
    /// The client's certificate, if the server asks for one.
    pub identity: Option<TlsIdentity>,
}

/// Our own certificate, and the key to it.
#[derive(Clone)]
pub struct TlsIdentity {
    /// The certificate, in PEM.
    pub certificate_pem: Vec<u8>,
    /// Its private key, in PEM.
    pub key_pem: Vec<u8>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ca_pem: _, domain, identity } = self;
        let mut debug = f.debug_struct("Tls");
        debug.field("domain", domain).field("identity", identity).finish_non_exhaustive()
    }
}

/// Without the key.
impl fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsIdentity").finish_non_exhaustive()
    }
}

impl ClientConfig {
    /// The defaults for an endpoint.
    pub fn new(endpoint: impl Into<String>) -> Self {
        Self {
            endpoint: endpoint.into(),
            tls: None,
            service_config: ServiceConfig::default(),
            connect_timeout: Duration::from_secs(5),
            keep_alive_interval: Duration::from_secs(10),
            keep_alive_timeout: Duration::from_secs(5),
            metadata: None,
        }
    }
}

impl fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConfig").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// Why a client can not be created.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The endpoint is not a URL, or its TLS settings can not be used.
    #[error("the endpoint `{endpoint}` can not be used: {source}")]
    Endpoint {
        /// The endpoint.
        endpoint: String,
        /// Why not.
        source: tonic::transport::Error,
    },
    /// An `https` endpoint without a certificate authority to trust.
    #[error("the endpoint `{endpoint}` needs a certificate authority to trust")]
    NoAuthority {
        /// The endpoint.
        endpoint: String,
    },
    /// A span of time is out of range.
    #[error("{field} must be more than zero and at most {SPAN_MAX:?}, not {span:?}")]
    Span {
        /// Which of [`ClientConfig`].
        field: &'static str,
        /// Its value.
        span: Duration,
    },
}

/// A client of the ledger. Cheap to clone; all clones share one connection.
#[derive(Debug, Clone)]
pub struct Client {
    calls: Calls,
}

impl Client {
    /// A client that connects when it is first used, and again whenever the connection broke. Must
    /// be called within a Tokio runtime.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub fn connect_lazy(config: ClientConfig) -> Result<Self, ConnectError> {
        let channel = endpoint(&config)?.connect_lazy();
        let calls = Calls::new(channel, config.service_config, config.metadata);
        Ok(Self { calls })
    }

    /// A client over an existing channel.
    #[must_use]
    pub fn over(channel: Channel, service_config: ServiceConfig) -> Self {
        Self { calls: Calls::new(channel, service_config, None) }
    }

    /// The transport under the generated clients, for services that have no method here.
    #[must_use]
    pub fn calls(&self) -> Calls {
        self.calls.clone()
    }

    /// Decisions.
    #[must_use]
    pub fn checks(&self) -> CheckServiceClient<Calls> {
        CheckServiceClient::new(self.calls()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Acts, states and histories.
    #[must_use]
    pub fn consents(&self) -> ConsentServiceClient<Calls> {
        ConsentServiceClient::new(self.calls()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Streams and durable subscriptions of the protocol; see [`Self::watch`] and [`Self::consume`]
    /// for streams that reconnect by themselves.
    #[must_use]
    pub fn watches(&self) -> WatchServiceClient<Calls> {
        WatchServiceClient::new(self.calls()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Entries, proofs and receipts.
    #[must_use]
    pub fn audits(&self) -> AuditServiceClient<Calls> {
        AuditServiceClient::new(self.calls()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Purposes and channels.
    #[must_use]
    pub fn catalog(&self) -> CatalogServiceClient<Calls> {
        CatalogServiceClient::new(self.calls()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Operations on a data subject as a whole.
    #[must_use]
    pub fn privacy(&self) -> PrivacyServiceClient<Calls> {
        PrivacyServiceClient::new(self.calls()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Watches events, for as long as the stream is polled.
    #[must_use]
    pub fn watch(&self, options: WatchOptions) -> Watch {
        Watch::new(self.watches(), options)
    }

    /// Consumes a durable subscription. Must be called within a Tokio runtime: a separate task
    /// sends acknowledgements to the server.
    #[must_use]
    pub fn consume(&self, options: ConsumeOptions) -> Consumer {
        Consumer::new(self.watches(), options)
    }

    /// A local cache of decisions. Must be called within a Tokio runtime: a separate task listens
    /// to the server.
    ///
    /// # Errors
    /// An option is out of its range.
    pub fn cached_checker(
        &self,
        options: cache::CacheOptions,
    ) -> Result<CachedChecker, cache::CacheOptionsError> {
        CachedChecker::new(self, options)
    }
}

fn endpoint(config: &ClientConfig) -> Result<Endpoint, ConnectError> {
    check_spans(config)?;
    let unusable = |source| ConnectError::Endpoint { endpoint: config.endpoint.clone(), source };
    let endpoint = Endpoint::from_shared(config.endpoint.clone())
        .map_err(unusable)?
        .connect_timeout(config.connect_timeout)
        .http2_keep_alive_interval(config.keep_alive_interval)
        .keep_alive_timeout(config.keep_alive_timeout)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true);
    match &config.tls {
        Some(tls) => endpoint.tls_config(tls_config(tls)).map_err(unusable),
        None if config.endpoint.starts_with("https:") => {
            Err(ConnectError::NoAuthority { endpoint: config.endpoint.clone() })
        }
        None => Ok(endpoint),
    }
}

fn check_spans(config: &ClientConfig) -> Result<(), ConnectError> {
    let spans = [
        ("connect_timeout", config.connect_timeout),
        ("keep_alive_interval", config.keep_alive_interval),
        ("keep_alive_timeout", config.keep_alive_timeout),
    ];
    match spans.into_iter().find(|(_, span)| span.is_zero() || *span > SPAN_MAX) {
        Some((field, span)) => Err(ConnectError::Span { field, span }),
        None => Ok(()),
    }
}

fn tls_config(tls: &Tls) -> ClientTlsConfig {
    let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&tls.ca_pem));
    if let Some(domain) = &tls.domain {
        config = config.domain_name(domain);
    }
    if let Some(identity) = &tls.identity {
        config = config.identity(Identity::from_pem(&identity.certificate_pem, &identity.key_pem));
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_of_time_are_checked() {
        for (field, span) in [
            ("connect_timeout", Duration::ZERO),
            ("keep_alive_interval", Duration::ZERO),
            ("keep_alive_timeout", Duration::MAX),
        ] {
            let mut config = ClientConfig::new("http://127.0.0.1:1");
            *match field {
                "connect_timeout" => &mut config.connect_timeout,
                "keep_alive_interval" => &mut config.keep_alive_interval,
                _ => &mut config.keep_alive_timeout,
            } = span;
            let refused = endpoint(&config).unwrap_err();
            assert!(refused.to_string().starts_with(field), "{refused}");
        }
    }

    #[test]
    fn a_private_key_is_not_printed() {
        let identity = TlsIdentity { certificate_pem: vec![1], key_pem: vec![213, 214, 215] };
        let tls = Tls { identity: Some(identity), ..Tls::default() };
        let printed = format!("{tls:?} {tls:#?}");
        assert!(printed.contains("TlsIdentity") && !printed.contains("213"), "{printed}");
    }
}
