//! One try: sends a signed message to a URL, and returns the result.
//!
//! Every address is checked before a connection is made to it. The client follows no redirect and uses
//! no proxy, so that the checked address is the one that it connects to.

use std::{error::Error, sync::Arc, time::Duration};

use http::header;
use jiff::Timestamp;
use reqwest::{
    Client,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect::Policy,
};

use super::{
    event::{CONTENT_TYPE, Message},
    retry::retry_after,
    signature::{ID_HEADER, SIGNATURE_HEADER, Secret, TIMESTAMP_HEADER},
};
use crate::web::{
    WebError, causes,
    target::{TargetError, Targets},
};

/// The `User-Agent` header.
const USER_AGENT: &str = concat!("consent-ledger-webhook/", env!("CARGO_PKG_VERSION"));
/// Maximum number of bytes read from a response; a longer one closes the connection.
pub const ANSWER_BYTES_MAX: usize = 16 << 10;
/// How many idle connections to a host are kept, and for how long.
const IDLE_MAX: usize = 4;
const IDLE_TIME_MAX: Duration = Duration::from_secs(30);

/// Sends messages.
#[derive(Debug, Clone)]
pub struct Sender {
    targets: Arc<Targets>,
    /// For plain HTTP, which is sent only to addresses that the operator allows.
    plain: Client,
    tls: Client,
    timeout: Duration,
}

/// The result of a try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TryOutcome {
    /// The endpoint took the message: 2xx.
    Taken,
    /// The endpoint will never take this message: 410.
    Gone,
    /// Any other status.
    Refused {
        /// The status.
        status: u16,
        /// The pause that the endpoint asked for.
        hold: Option<Duration>,
    },
    /// No response in time.
    TimedOut,
    /// The connection failed; the cause, without the URL.
    Unreachable(String),
    /// The target is not allowed.
    Blocked(TargetError),
}

impl TryOutcome {
    /// The HTTP status; 0 without a response.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::Taken => 200,
            Self::Gone => 410,
            Self::Refused { status, .. } => *status,
            Self::TimedOut | Self::Unreachable(_) | Self::Blocked(_) => 0,
        }
    }
}

impl Sender {
    /// A sender to the addresses that `targets` allows, which waits at most `timeout` for a response.
    /// `ca` is a certificate authority in PEM, trusted in addition to those of the system.
    ///
    /// # Errors
    /// [`WebError::Setup`].
    pub fn new(targets: Targets, timeout: Duration, ca: Option<&[u8]>) -> Result<Self, WebError> {
        let targets = Arc::new(targets);
        let client = |is_plain| client(&targets, is_plain, timeout, ca);
        let (plain, tls) = (client(true)?, client(false)?);
        Ok(Self { targets, plain, tls, timeout })
    }

    /// Maximum time of a try.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Sends a message once.
    pub async fn send(&self, url: &str, message: &Message, secret: &Secret) -> TryOutcome {
        let url = match self.targets.check_url(url) {
            Ok(url) => url,
            Err(refused) => return TryOutcome::Blocked(refused),
        };
        let client = if url.scheme() == "http" { &self.plain } else { &self.tls };
        let now = Timestamp::now();
        let signature = secret.sign(&message.id, now.as_second(), &message.body);
        let request = client
            .post(url)
            .header(header::CONTENT_TYPE, CONTENT_TYPE)
            .header(ID_HEADER, &message.id)
            .header(TIMESTAMP_HEADER, now.as_second())
            .header(SIGNATURE_HEADER, signature)
            .body(message.body.clone());
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return failure(error),
        };
        let status = response.status();
        let hold = response.headers().get(header::RETRY_AFTER);
        let hold = hold.and_then(|value| retry_after(value.to_str().ok()?, now));
        drain(response).await;
        match status.as_u16() {
            200..300 => TryOutcome::Taken,
            410 => TryOutcome::Gone,
            status => TryOutcome::Refused { status, hold },
        }
    }
}

fn client(
    targets: &Arc<Targets>,
    is_plain: bool,
    timeout: Duration,
    ca: Option<&[u8]>,
) -> Result<Client, WebError> {
    let setup = |error: reqwest::Error| WebError::Setup(causes(&error));
    // It fails if another part of the process installed a provider, which is this one too.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let authorities = match ca {
        Some(pem) => reqwest::Certificate::from_pem_bundle(pem).map_err(setup)?,
        None => Vec::new(),
    };
    let builder = || {
        Client::builder()
            .user_agent(USER_AGENT)
            .timeout(timeout)
            .connect_timeout(timeout)
            .redirect(Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .no_proxy()
            .no_gzip()
            .pool_max_idle_per_host(IDLE_MAX)
            .pool_idle_timeout(IDLE_TIME_MAX)
            .dns_resolver(CheckedResolver { targets: Arc::clone(targets), is_plain })
    };
    // A small container has no certificate authorities: then only the given ones are trusted.
    let client = builder().tls_certs_merge(authorities.clone()).build();
    client.or_else(|_| builder().tls_certs_only(authorities).build()).map_err(setup)
}

/// Reads a response to its end, up to [`ANSWER_BYTES_MAX`], so that the connection can be reused.
async fn drain(mut response: reqwest::Response) {
    let mut read = 0;
    while let Ok(Some(chunk)) = response.chunk().await {
        read += chunk.len();
        if read > ANSWER_BYTES_MAX {
            return;
        }
    }
}

fn failure(error: reqwest::Error) -> TryOutcome {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(refused) = error.downcast_ref::<TargetError>() {
            return TryOutcome::Blocked(refused.clone());
        }
        cause = error.source();
    }
    if error.is_timeout() {
        return TryOutcome::TimedOut;
    }
    TryOutcome::Unreachable(causes(&error.without_url()))
}

/// Resolves names like the system, and fails if any of the addresses is not allowed.
#[derive(Debug)]
struct CheckedResolver {
    targets: Arc<Targets>,
    is_plain: bool,
}

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (targets, is_plain) = (Arc::clone(&self.targets), self.is_plain);
        Box::pin(async move {
            let found: Vec<_> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            for address in &found {
                targets.check_address(address.ip(), is_plain)?;
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sender(allowed: &[&str]) -> Sender {
        let allowed = allowed.iter().map(|net| net.parse().unwrap()).collect();
        Sender::new(Targets::new(allowed), Duration::from_secs(5), None).unwrap()
    }

    async fn send(sender: &Sender, url: &str) -> TryOutcome {
        let secret = Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let message = Message { id: "id".to_owned(), body: b"{}".to_vec() };
        sender.send(url, &message, &secret).await
    }

    #[tokio::test]
    async fn a_name_is_checked_by_its_addresses() {
        // The text of the name passes, because the operator allows some plain HTTP.
        let some = sender(&["10.0.0.0/8", "::1/128"]);
        for (is_plain, url) in [(true, "http://localhost:9/"), (false, "https://localhost:9/")] {
            let name: Name = "localhost".parse().unwrap();
            assert!(some.targets.check_url(url).is_ok());
            let resolver = CheckedResolver { targets: Arc::clone(&some.targets), is_plain };
            let found = tokio::net::lookup_host(("localhost", 0)).await.unwrap();
            let has_v4 = found.into_iter().any(|address| address.is_ipv4());
            assert!(has_v4, "localhost is 127.0.0.1 here");
            assert!(resolver.resolve(name).await.is_err());
            let here = "127.0.0.1".parse().unwrap();
            assert_eq!(send(&some, url).await, TryOutcome::Blocked(TargetError::NotPublic(here)));
        }
    }

    #[tokio::test]
    async fn an_address_is_checked_before_each_connection() {
        let none = sender(&[]);
        let here = TargetError::NotPublic("127.0.0.1".parse().unwrap());
        assert_eq!(send(&none, "https://0x7f.1:9/").await, TryOutcome::Blocked(here));
        assert_eq!(send(&none, "no url").await, TryOutcome::Blocked(TargetError::NoUrl));
    }

    #[tokio::test]
    async fn a_refused_connection_has_no_status() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        drop(listener);
        let outcome = send(&sender(&["127.0.0.0/8"]), &url).await;
        let TryOutcome::Unreachable(cause) = &outcome else { panic!("{outcome:?}") };
        assert!(!cause.contains("http://"), "{cause}");
        assert_eq!(outcome.status(), 0);
    }
}
