//! A small HTTP client for tiles, checkpoints and witnesses of others.
//!
//! Responses are bounded in size and time. It follows no redirect, so it asks only the addresses that
//! an operator configured.

pub mod target;

use std::time::Duration;

use thiserror::Error;

/// Value of the `User-Agent` header.
const USER_AGENT: &str = concat!("consent-ledger/", env!("CARGO_PKG_VERSION"));

/// A client for HTTP and HTTPS.
#[derive(Debug, Clone)]
pub struct WebClient(reqwest::Client);

/// A response with any status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status code.
    pub status: u16,
    /// `Content-Type`; empty if there is none.
    pub content_type: String,
    /// The body.
    pub body: Vec<u8>,
}

/// Why there is no response.
#[derive(Debug, Error)]
pub enum WebError {
    /// The client can not be set up, for example because the CA file holds no certificate.
    #[error("the HTTP client can not be set up: {0}")]
    Setup(String),
    /// The connection failed, broke off, or timed out.
    #[error("{url}: {problem}")]
    Failed {
        /// The requested URL.
        url: String,
        /// The error with its causes.
        problem: String,
    },
    /// The response is larger than the caller reads.
    #[error("{url}: the answer is larger than {limit} bytes")]
    TooLarge {
        /// The requested URL.
        url: String,
        /// The limit in bytes.
        limit: usize,
    },
}

impl WebClient {
    /// A client that waits at most `timeout` for a whole response. `ca` is a certificate authority
    /// (PEM) that is trusted in addition to those of the system.
    ///
    /// # Errors
    /// [`WebError::Setup`].
    pub fn new(timeout: Duration, ca: Option<&[u8]>) -> Result<Self, WebError> {
        let builder = || {
            reqwest::Client::builder()
                .user_agent(USER_AGENT)
                .timeout(timeout)
                .connect_timeout(timeout)
                .redirect(reqwest::redirect::Policy::none())
        };
        build_client(ca, builder).map(Self)
    }

    /// Requests a resource of at most `bytes_max`.
    ///
    /// # Errors
    /// See [`WebError`]. A status other than 200 is not an error.
    pub async fn get(&self, url: &str, bytes_max: usize) -> Result<Answer, WebError> {
        answer(url, self.0.get(url), bytes_max).await
    }

    /// Sends a text and reads a response of at most `bytes_max`.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn post(
        &self,
        url: &str,
        text: String,
        bytes_max: usize,
    ) -> Result<Answer, WebError> {
        answer(url, self.0.post(url).body(text), bytes_max).await
    }
}

async fn answer(
    url: &str,
    request: reqwest::RequestBuilder,
    bytes_max: usize,
) -> Result<Answer, WebError> {
    let failed = |error: reqwest::Error| WebError::Failed {
        url: url.to_owned(),
        problem: causes(&error.without_url()),
    };
    let mut response = request.send().await.map_err(failed)?;
    let content_type = response.headers().get(http::header::CONTENT_TYPE);
    let content_type = content_type.and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (status, content_type) = (response.status().as_u16(), content_type.to_owned());
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > bytes_max {
            return Err(WebError::TooLarge { url: url.to_owned(), limit: bytes_max });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Answer { status, content_type, body })
}

/// Builds a client that trusts `ca` (PEM) in addition to the authorities of the system.
///
/// # Errors
/// [`WebError::Setup`].
pub(crate) fn build_client(
    ca: Option<&[u8]>,
    builder: impl Fn() -> reqwest::ClientBuilder,
) -> Result<reqwest::Client, WebError> {
    let setup = |error: reqwest::Error| WebError::Setup(causes(&error));
    // Fails only if another part of the process installed the same provider before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let trusted = match ca {
        Some(pem) => reqwest::Certificate::from_pem_bundle(pem).map_err(setup)?,
        None => Vec::new(),
    };
    // A minimal container has no authorities of its own: then `ca` alone is trusted.
    let client = builder().tls_certs_merge(trusted.clone()).build();
    client.or_else(|_| builder().tls_certs_only(trusted).build()).map_err(setup)
}

/// An error with its causes: the outermost message alone is often only "error sending request".
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
