//! Connections to the server, and lists that it returns in pages.

use std::{error::Error as _, fs};

use tonic::{
    Status,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

use super::{Global, error::CliError};
use crate::proto::watch_service_client::WatchServiceClient;

/// Default address of the server.
pub const ADDR_DEFAULT: &str = "http://127.0.0.1:50051";

/// The largest response that is accepted, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Items that are requested for one page of a list.
pub const PAGE_SIZE: i32 = 1_000;

/// Connects to the server.
///
/// # Errors
/// The address is malformed, or no server answers in time.
pub async fn connect(global: &Global) -> Result<Channel, CliError> {
    connect_to(global, |endpoint| endpoint.timeout(global.timeout)).await
}

/// Connects to the server for uploads. The response comes only after the whole upload, which may
/// take longer than the timeout, so the timeout applies to the keep-alive of the connection
/// instead.
///
/// # Errors
/// As [`connect`].
pub async fn connect_for_uploads(global: &Global) -> Result<Channel, CliError> {
    let keep_alive = |endpoint: Endpoint| {
        endpoint.http2_keep_alive_interval(global.timeout).keep_alive_timeout(global.timeout)
    };
    connect_to(global, keep_alive).await
}

/// Connects to the watch service, which may answer with large messages.
///
/// # Errors
/// As [`connect`].
pub async fn watch_service(global: &Global) -> Result<WatchServiceClient<Channel>, CliError> {
    let client = WatchServiceClient::new(connect(global).await?);
    Ok(client.max_decoding_message_size(MESSAGE_BYTES_MAX))
}

/// Fetches all items of a list. `fetch` takes the token of a page and returns its items and the
/// token of the next page; an empty token ends the list.
///
/// # Errors
/// A page could not be fetched.
pub async fn all_pages<T>(
    mut fetch: impl AsyncFnMut(String) -> Result<(Vec<T>, String), Status>,
) -> Result<Vec<T>, CliError> {
    let mut items = Vec::new();
    let mut page_token = String::new();
    loop {
        let (page, next_page_token) = fetch(page_token).await?;
        items.extend(page);
        if next_page_token.is_empty() {
            return Ok(items);
        }
        page_token = next_page_token;
    }
}

async fn connect_to(
    global: &Global,
    set_timeouts: impl FnOnce(Endpoint) -> Endpoint,
) -> Result<Channel, CliError> {
    let url = url(&global.addr);
    let endpoint = Endpoint::from_shared(url.clone())
        .map_err(|error| {
            CliError::usage(format!("`{}` is not an address: {error}", global.addr))
                .with_hint("write HOST:PORT, or a URL such as http://127.0.0.1:50051")
        })?
        .connect_timeout(global.timeout)
        .tcp_nodelay(true);
    let endpoint = set_timeouts(endpoint);
    let endpoint = match url.starts_with("https://") {
        true => endpoint.tls_config(tls(global)?).map_err(|error| unreachable(&url, &error))?,
        false => endpoint,
    };
    endpoint.connect().await.map_err(|error| unreachable(&url, &error))
}

fn url(addr: &str) -> String {
    if addr.contains("://") { addr.to_owned() } else { format!("http://{addr}") }
}

fn tls(global: &Global) -> Result<ClientTlsConfig, CliError> {
    let Some(path) = &global.tls_ca else {
        return Err(CliError::usage("an https:// address needs a certificate authority to trust")
            .with_hint("give its PEM file with --tls-ca"));
    };
    let pem = fs::read(path).map_err(|error| CliError::file(path, error))?;
    Ok(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)))
}

/// Reports the innermost cause, for example "connection refused": the outer ones are generic.
fn unreachable(url: &str, error: &tonic::transport::Error) -> CliError {
    let mut cause = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        cause = error.to_string();
        source = error.source();
    }
    CliError::Unreachable { addr: url.to_owned(), cause }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_address_is_http() {
        assert_eq!(url("127.0.0.1:50051"), "http://127.0.0.1:50051");
        assert_eq!(url("localhost:1"), "http://localhost:1");
        assert_eq!(url("https://ledger.example.org"), "https://ledger.example.org");
    }
}
