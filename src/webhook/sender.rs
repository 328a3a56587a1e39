//! One attempt: sends a signed message to a URL and returns the outcome.
//!
//! It follows no redirect and uses no proxy, so that it connects to the address that was checked. It
//! checks the addresses of a name each time that it connects.

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
    WebError, build_client, causes,
    target::{TargetError, Targets},
};

/// Value of the `User-Agent` header.
const USER_AGENT: &str = concat!("consent-ledger-webhook/", env!("CARGO_PKG_VERSION"));
/// Maximum size of a response body that is read, so that its connection can be used again. A larger
/// body closes the connection.
pub const RESPONSE_BYTES_MAX: usize = 16 << 10;
/// Maximum number of idle connections to a host, and how long they are kept.
const IDLE_MAX: usize = 4;
const IDLE_TIME_MAX: Duration = Duration::from_secs(30);

/// Sends messages.
#[derive(Debug, Clone)]
pub struct Sender {
    targets: Arc<Targets>,
    /// For http, only to addresses that the operator allows.
    plain: Client,
    tls: Client,
    timeout: Duration,
}

/// The outcome of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    /// Status 2xx.
    Accepted,
    /// Status 410: the endpoint does not want the message, now or later.
    Gone,
    /// Any other status.
    Refused {
        /// The status.
        status: u16,
        /// Its `Retry-After`.
        hold: Option<Duration>,
    },
    /// No response in time.
    TimedOut,
    /// The connection failed; the cause without the URL.
    Unreachable(String),
    /// The address is not allowed.
    Blocked(TargetError),
}

impl Sent {
    /// The status of the response; 0 if there was none.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::Accepted => 200,
            Self::Gone => 410,
            Self::Refused { status, .. } => *status,
            Self::TimedOut | Self::Unreachable(_) | Self::Blocked(_) => 0,
        }
    }
}

impl Sender {
    /// Sends only to addresses that `targets` allows, and waits at most `timeout` for a response. `ca`
    /// is a certificate authority (PEM) that is trusted in addition to those of the system.
    ///
    /// # Errors
    /// [`WebError::Setup`].
    pub fn new(targets: Targets, timeout: Duration, ca: Option<&[u8]>) -> Result<Self, WebError> {
        let targets = Arc::new(targets);
        let client = |is_plain| {
            build_client(ca, || {
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
                    .dns_resolver(CheckedResolver { targets: Arc::clone(&targets), is_plain })
            })
        };
        let (plain, tls) = (client(true)?, client(false)?);
        Ok(Self { plain, tls, targets, timeout })
    }

    /// Maximum duration of an attempt.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Makes one attempt.
    pub async fn send(&self, url: &str, message: &Message, secret: &Secret) -> Sent {
        let url = match self.targets.check_url(url) {
            Ok(url) => url,
            Err(error) => return Sent::Blocked(error),
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
            200..300 => Sent::Accepted,
            410 => Sent::Gone,
            status => Sent::Refused { status, hold },
        }
    }
}

/// Reads and drops the body of a response, up to a limit.
async fn drain(mut response: reqwest::Response) {
    let mut read = 0;
    while let Ok(Some(chunk)) = response.chunk().await {
        read += chunk.len();
        if read > RESPONSE_BYTES_MAX {
            return;
        }
    }
}

fn failure(error: reqwest::Error) -> Sent {
    let mut next = error.source();
    while let Some(cause) = next {
        if let Some(blocked) = cause.downcast_ref::<TargetError>() {
            return Sent::Blocked(blocked.clone());
        }
        next = cause.source();
    }
    if error.is_timeout() {
        return Sent::TimedOut;
    }
    Sent::Unreachable(causes(&error.without_url()))
}

/// Resolves names with the system's resolver. Fails unless all addresses of a name are allowed.
#[derive(Debug)]
struct CheckedResolver {
    targets: Arc<Targets>,
    is_plain: bool,
}

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (targets, is_plain) = (Arc::clone(&self.targets), self.is_plain);
        Box::pin(async move {
            let addresses: Vec<_> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            for address in &addresses {
                targets.check_address(address.ip(), is_plain)?;
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
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

    async fn sent(sender: &Sender, url: &str) -> Sent {
        let secret = Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let message = Message { id: "id".to_owned(), body: b"{}".to_vec() };
        sender.send(url, &message, &secret).await
    }

    #[tokio::test]
    async fn the_addresses_of_a_name_are_checked() {
        // The text of the URL passes where the operator allows any address in plain text.
        let some = sender(&["10.0.0.0/8", "::1/128"]);
        for (is_plain, url) in [(true, "http://localhost:9/"), (false, "https://localhost:9/")] {
            let name: Name = "localhost".parse().unwrap();
            assert!(some.targets.check_url(url).is_ok());
            let resolver = CheckedResolver { targets: Arc::clone(&some.targets), is_plain };
            let mut addresses = tokio::net::lookup_host(("localhost", 0)).await.unwrap();
            let has_v4 = addresses.any(|address| address.is_ipv4());
            assert!(has_v4, "localhost is 127.0.0.1 here");
            assert!(resolver.resolve(name).await.is_err());
            let here = "127.0.0.1".parse().unwrap();
            assert_eq!(sent(&some, url).await, Sent::Blocked(TargetError::NotPublic(here)));
        }
    }

    #[tokio::test]
    async fn an_address_is_checked_again_before_it_is_sent_to() {
        let none = sender(&[]);
        let here = TargetError::NotPublic("127.0.0.1".parse().unwrap());
        assert_eq!(sent(&none, "https://0x7f.1:9/").await, Sent::Blocked(here));
        assert_eq!(sent(&none, "no url").await, Sent::Blocked(TargetError::NoUrl));
    }

    #[tokio::test]
    async fn a_refused_connection_has_no_status() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        drop(listener);
        let outcome = sent(&sender(&["127.0.0.0/8"]), &url).await;
        let Sent::Unreachable(why) = &outcome else { panic!("{outcome:?}") };
        assert!(!why.contains("http://"), "{why}");
        assert_eq!(outcome.status(), 0);
    }
}
