//! A small HTTP client for what others serve: tiles, checkpoints, witnesses.
//!
//! Answers are bounded in size and time, and no redirect is followed: what an operator configured is
//! what is asked.

pub mod target;

use std::time::Duration;

use thiserror::Error;

/// What the client calls itself.
const USER_AGENT: &str = concat!("consent-ledger/", env!("CARGO_PKG_VERSION"));

/// Asks over HTTP and HTTPS.
#[derive(Debug, Clone)]
pub struct WebClient(reqwest::Client);

/// An answer, whatever its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status code.
    pub status: u16,
    /// `Content-Type`; empty if there is none.
    pub content_type: String,
    /// The body.
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum WebError {
    /// The client can not be set up, for example for a certificate that is none.
    #[error("the HTTP client can not be set up: {0}")]
    Setup(String),
    /// No connection, no answer in time, or one that broke off.
    #[error("{url}: {problem}")]
    Failed {
        /// What was asked.
        url: String,
        /// What went wrong.
        problem: String,
    },
    /// The answer is larger than is read.
    #[error("{url}: the answer is larger than {limit} bytes")]
    TooLarge {
        /// What was asked.
        url: String,
        /// The limit.
        limit: usize,
    },
}

impl WebClient {
    /// A client that waits at most `timeout` for a whole answer. `ca` is a certificate authority in
    /// PEM that is trusted beside those of the system.
    ///
    /// # Errors
    /// [`WebError::Setup`].
    pub fn new(timeout: Duration, ca: Option<&[u8]>) -> Result<Self, WebError> {
        let setup = |error: reqwest::Error| WebError::Setup(causes(&error));
        // Another part of the process may have been faster; either is this provider.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let trusted = match ca {
            Some(pem) => reqwest::Certificate::from_pem_bundle(pem).map_err(setup)?,
            None => Vec::new(),
        };
        let builder = || {
            reqwest::Client::builder()
                .user_agent(USER_AGENT)
                .timeout(timeout)
                .connect_timeout(timeout)
                .redirect(reqwest::redirect::Policy::none())
        };
        // A small container has no authorities at all: then only those that were given are trusted.
        let client = builder().tls_certs_merge(trusted.clone()).build();
        client.or_else(|_| builder().tls_certs_only(trusted).build()).map(Self).map_err(setup)
    }

    /// Asks for a resource of at most `bytes_max`.
    ///
    /// # Errors
    /// See [`WebError`]; an answer with another status than 200 is an answer.
    pub async fn get(&self, url: &str, bytes_max: usize) -> Result<Answer, WebError> {
        answer(url, self.0.get(url), bytes_max).await
    }

    /// Sends a text, for an answer of at most `bytes_max`.
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

/// An error with what caused it: the outermost word alone is often only "error sending request".
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
