//! One try: a signed message to a URL, and what came of it.
//!
//! No redirect is followed and no proxy is used, so that what was judged is what is connected to; the
//! addresses of a name are judged each time that a connection is made.

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

/// What the sender calls itself.
const USER_AGENT: &str = concat!("consent-ledger-webhook/", env!("CARGO_PKG_VERSION"));
/// How much of an answer is read before the connection is used again; more closes it.
pub const ANSWER_BYTES_MAX: usize = 16 << 10;
/// How many connections to a host are kept when they are idle, and for how long.
const IDLE_MAX: usize = 4;
const IDLE_TIME_MAX: Duration = Duration::from_secs(30);

/// Sends messages.
#[derive(Debug, Clone)]
pub struct Sender {
    targets: Arc<Targets>,
    /// Only to addresses that the operator allows.
    plain: Client,
    tls: Client,
    timeout: Duration,
}

/// What came of a try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    /// It was taken: 2xx.
    Taken,
    /// The endpoint wants nothing more of it: 410.
    Gone,
    /// Any other status.
    Refused {
        /// The status.
        status: u16,
        /// For how long it asked to be left alone.
        hold: Option<Duration>,
    },
    /// No answer in time.
    TimedOut,
    /// No connection, or one that broke off; why, without the URL.
    Unreachable(String),
    /// Nothing is sent there.
    Blocked(TargetError),
}

impl Sent {
    /// The status of the answer; 0 if there was none.
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
    /// Sends to where `targets` says, and waits at most `timeout` for an answer. `ca` is a certificate
    /// authority in PEM that is trusted beside those of the system.
    ///
    /// # Errors
    /// [`WebError::Setup`].
    pub fn new(targets: Targets, timeout: Duration, ca: Option<&[u8]>) -> Result<Self, WebError> {
        let targets = Arc::new(targets);
        let client = |is_plain| client(&targets, is_plain, timeout, ca);
        Ok(Self {
            plain: client(true)?,
            tls: client(false)?,
            targets: Arc::clone(&targets),
            timeout,
        })
    }

    /// The longest that a try takes.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Tries once.
    pub async fn send(&self, url: &str, message: &Message, secret: &Secret) -> Sent {
        let url = match self.targets.check_url(url) {
            Ok(url) => url,
            Err(refused) => return Sent::Blocked(refused),
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
            200..300 => Sent::Taken,
            410 => Sent::Gone,
            status => Sent::Refused { status, hold },
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
    // Another part of the process may have been faster; either is this provider.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let own = match ca {
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
            .dns_resolver(Judging { targets: Arc::clone(targets), is_plain })
    };
    // A small container has no authorities at all: then only those that were given are trusted.
    let client = builder().tls_certs_merge(own.clone()).build();
    client.or_else(|_| builder().tls_certs_only(own).build()).map_err(setup)
}

/// Reads what an endpoint has to say, within bounds: its words are nobody's.
async fn drain(mut response: reqwest::Response) {
    let mut read = 0;
    while let Ok(Some(chunk)) = response.chunk().await {
        read += chunk.len();
        if read > ANSWER_BYTES_MAX {
            return;
        }
    }
}

fn failure(error: reqwest::Error) -> Sent {
    let mut cause = error.source();
    while let Some(own) = cause {
        if let Some(refused) = own.downcast_ref::<TargetError>() {
            return Sent::Blocked(refused.clone());
        }
        cause = own.source();
    }
    if error.is_timeout() {
        return Sent::TimedOut;
    }
    Sent::Unreachable(causes(&error.without_url()))
}

/// Resolves names as the system does, and answers no address unless all may be connected to.
#[derive(Debug)]
struct Judging {
    targets: Arc<Targets>,
    is_plain: bool,
}

impl Resolve for Judging {
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

    async fn sent(sender: &Sender, url: &str) -> Sent {
        let secret = Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let message = Message { id: "id".to_owned(), body: b"{}".to_vec() };
        sender.send(url, &message, &secret).await
    }

    #[tokio::test]
    async fn a_name_is_judged_by_what_it_resolves_to() {
        // The name is fine by its text where the operator allows anything in plain text.
        let some = sender(&["10.0.0.0/8", "::1/128"]);
        for (is_plain, url) in [(true, "http://localhost:9/"), (false, "https://localhost:9/")] {
            let name: Name = "localhost".parse().unwrap();
            assert!(some.targets.check_url(url).is_ok());
            let judging = Judging { targets: Arc::clone(&some.targets), is_plain };
            let found = tokio::net::lookup_host(("localhost", 0)).await.unwrap();
            let has_v4 = found.into_iter().any(|own| own.is_ipv4());
            assert!(has_v4, "localhost is 127.0.0.1 here");
            assert!(judging.resolve(name).await.is_err());
            let here = "127.0.0.1".parse().unwrap();
            assert_eq!(sent(&some, url).await, Sent::Blocked(TargetError::NotPublic(here)));
        }
    }

    #[tokio::test]
    async fn an_address_is_judged_again_before_it_is_sent_to() {
        let none = sender(&[]);
        let here = TargetError::NotPublic("127.0.0.1".parse().unwrap());
        assert_eq!(sent(&none, "https://0x7f.1:9/").await, Sent::Blocked(here));
        assert_eq!(sent(&none, "no url").await, Sent::Blocked(TargetError::NoUrl));
    }

    #[tokio::test]
    async fn nobody_who_listens_is_no_status() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        drop(listener);
        let outcome = sent(&sender(&["127.0.0.0/8"]), &url).await;
        let Sent::Unreachable(why) = &outcome else { panic!("{outcome:?}") };
        assert!(!why.contains("http://"), "{why}");
        assert_eq!(outcome.status(), 0);
    }
}
