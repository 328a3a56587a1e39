//! The way to the server.

use std::{error::Error as _, fs};

use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use super::{Global, error::CliError};

/// Where the server is, if nothing else is said.
pub const ADDR_DEFAULT: &str = "http://127.0.0.1:50051";

/// The largest answer that is taken, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Connects to the server.
///
/// # Errors
/// The address is not one, or nobody answers there in time.
pub async fn connect(global: &Global) -> Result<Channel, CliError> {
    connect_to(global, |endpoint| endpoint.timeout(global.timeout)).await
}

/// Connects to the server for calls whose answer comes only when all was sent, however long that
/// takes: the connection itself must show within the timeout that somebody is still there.
///
/// # Errors
/// As [`connect`].
pub async fn connect_for_uploads(global: &Global) -> Result<Channel, CliError> {
    let keep_alive = |endpoint: Endpoint| {
        endpoint.http2_keep_alive_interval(global.timeout).keep_alive_timeout(global.timeout)
    };
    connect_to(global, keep_alive).await
}

async fn connect_to(
    global: &Global,
    patience: impl FnOnce(Endpoint) -> Endpoint,
) -> Result<Channel, CliError> {
    let url = url(&global.addr);
    let endpoint = Endpoint::from_shared(url.clone())
        .map_err(|error| {
            CliError::usage(format!("`{}` is not an address: {error}", global.addr))
                .with_hint("write HOST:PORT, or a URL such as http://127.0.0.1:50051")
        })?
        .connect_timeout(global.timeout)
        .tcp_nodelay(true);
    let endpoint = patience(endpoint);
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

/// The innermost cause is the one that people understand ("connection refused").
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
