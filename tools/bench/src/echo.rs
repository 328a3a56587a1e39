//! The baseline of Check: a bare tonic server that answers every request with the same response.

use consent_ledger::{
    cli::{Exit, error::CliError},
    proto::{
        self, CheckRequest, CheckResponse,
        check_service_server::{CheckService, CheckServiceServer},
    },
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

struct Echo;

#[tonic::async_trait]
impl CheckService for Echo {
    async fn check(
        &self,
        request: Request<CheckRequest>,
    ) -> Result<Response<CheckResponse>, Status> {
        let request = request.into_inner();
        Ok(Response::new(CheckResponse {
            effect: proto::Effect::Allow.into(),
            reason: proto::Reason::Granted.into(),
            status: proto::Status::Given.into(),
            decided_by_index: Some(100_000),
            revision: 200_000 + request.subject.len() as u64,
            ..CheckResponse::default()
        }))
    }
}

/// Serves until the process is killed.
pub(super) async fn run() -> Result<Exit, CliError> {
    let failed = |error: std::io::Error| CliError::io("the echo server", error);
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(failed)?;
    println!("listening on {}", listener.local_addr().map_err(failed)?);
    Server::builder()
        .tcp_nodelay(true)
        .add_service(CheckServiceServer::new(Echo))
        .serve_with_incoming(TcpListenerStream::new(listener))
        .await
        .map_err(|error| CliError::failed(format!("the echo server: {error}")))?;
    Ok(Exit::Success)
}
