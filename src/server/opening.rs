//! What the gRPC port answers while the ledger is opened: to health, that it does not serve; to every other
//! call, how far it has come.

use std::{io, sync::Arc, time::Duration};

use axum::{body::Body, extract::State, handler::Handler as _};
use http::Response;
use tokio::{
    net::TcpListener,
    sync::watch,
    task::JoinHandle,
    time::{error::Elapsed, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{Status, service::Routes, transport::Identity};

use super::{Health, ServeError, accepted, incoming, layered};
use crate::{
    config::ServeConfig,
    grpc::layer::RequestLayer,
    status::Fault,
    telemetry::{Metrics, Phase},
};

/// How long connections get to end. Each answer is ready at once.
const END_TIME_MAX: Duration = Duration::from_secs(1);

/// The server before the server: it listens on the same port.
pub(super) struct Opening {
    end: CancellationToken,
    serving: JoinHandle<Result<(), tonic::transport::Error>>,
}

impl Opening {
    /// Begins to answer. The phase that `health` sets says how far the ledger is opened.
    pub(super) async fn serve(
        config: &ServeConfig,
        tls: Option<Identity>,
        listener: TcpListener,
        metrics: &Arc<Metrics>,
        health: Health,
    ) -> Result<Self, ServeError> {
        let phase = *health.phase.borrow();
        health.set(phase).await;
        let end = CancellationToken::new();
        let requests = RequestLayer::new(config.limits, Arc::clone(metrics), end.clone());
        let routes = Routes::new(health.service()).into_axum_router();
        let routes = routes.fallback_service(refuse.with_state(health.phase.subscribe()));
        let server = layered(config, tls, requests)?.add_routes(Routes::from(routes));
        let serving = server.serve_with_incoming_shutdown(
            accepted(incoming(config, listener)),
            end.clone().cancelled_owned(),
        );
        Ok(Self { end, serving: tokio::spawn(serving) })
    }

    /// Ends every stream and connection in order: clients connect again, and reach the server.
    pub(super) async fn end(mut self) -> Result<(), ServeError> {
        self.end.cancel();
        match timeout(END_TIME_MAX, &mut self.serving).await {
            Ok(ended) => Ok(ended??),
            Err(Elapsed { .. }) => {
                self.serving.abort();
                Ok(())
            }
        }
    }
}

/// Two handles of a listener. Connections that none has accepted yet go to either.
pub(super) fn shared(listener: TcpListener) -> io::Result<(TcpListener, TcpListener)> {
    let listener = listener.into_std()?;
    let other = listener.try_clone()?;
    Ok((TcpListener::from_std(listener)?, TcpListener::from_std(other)?))
}

async fn refuse(State(phase): State<watch::Receiver<Phase>>) -> Response<Body> {
    let step = match *phase.borrow() {
        Phase::Opening(step) => step,
        _ => None,
    };
    Status::from(Fault::Opening(step)).into_http()
}
