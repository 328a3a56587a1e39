//! A client that costs little, so that it does not hide what a server costs: bare HTTP/2, and messages that
//! are encoded by the caller.

use bytes::{BufMut, Bytes, BytesMut};
use consent_ledger::cli::error::CliError;
use h2::client::SendRequest;
use http::{HeaderMap, Request, header};
use prost::Message;
use tokio::net::TcpStream;
use tonic::Status;

use super::load::failed;

/// Compressed or not (1 byte), then the length.
const PREFIX_BYTES: usize = 5;

/// Connections, which the callers share.
#[derive(Clone)]
pub(super) struct Light {
    connections: Vec<SendRequest<Bytes>>,
    authority: String,
}

impl Light {
    /// Connects to a server at `address`, which is host and port.
    pub(super) async fn connect(address: &str, count: usize) -> Result<Self, CliError> {
        let mut connections = Vec::new();
        for _ in 0..count {
            let stream = TcpStream::connect(address).await.map_err(failed)?;
            stream.set_nodelay(true).map_err(failed)?;
            let (connection, driver) = h2::client::handshake(stream).await.map_err(failed)?;
            // It ends with the server.
            tokio::spawn(driver);
            connections.push(connection);
        }
        Ok(Self { connections, authority: address.to_owned() })
    }

    /// A unary call of `path`. The answer is read and dropped.
    ///
    /// # Errors
    /// The status of the call.
    pub(super) async fn call(
        &self,
        caller: usize,
        path: &'static str,
        message: Bytes,
    ) -> Result<(), Status> {
        let connection = self.connections[caller % self.connections.len()].clone();
        let broken = |error: h2::Error| Status::unavailable(error.to_string());
        let mut connection = connection.ready().await.map_err(broken)?;
        let request = Request::post(format!("http://{}{path}", self.authority))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .body(())
            .map_err(|error| Status::internal(error.to_string()))?;
        let (answer, mut body) = connection.send_request(request, false).map_err(broken)?;
        body.send_data(message, true).map_err(broken)?;
        let answer = answer.await.map_err(broken)?;
        if answer.headers().contains_key(Status::GRPC_STATUS) {
            return status(answer.headers());
        }
        let mut body = answer.into_body();
        while let Some(data) = body.data().await {
            let bytes = data.map_err(broken)?.len();
            body.flow_control().release_capacity(bytes).map_err(broken)?;
        }
        let trailers = body.trailers().await.map_err(broken)?;
        status(&trailers.unwrap_or_default())
    }
}

/// A message as gRPC sends it.
pub(super) fn encoded(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX_BYTES + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    message.encode(&mut bytes).expect("the buffer grows");
    bytes.freeze()
}

fn status(headers: &HeaderMap) -> Result<(), Status> {
    match Status::from_header_map(headers) {
        Some(status) if status.code() == tonic::Code::Ok => Ok(()),
        Some(status) => Err(status),
        None => Err(Status::unknown("the call ended without a status")),
    }
}
