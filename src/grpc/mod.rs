//! Thin services over one node, and the conversions at which generated types stop.
//!
//! A service parses the request, calls the node, and converts the answer; it decides nothing.

mod audience;
pub mod audit;
pub mod catalog;
pub mod check;
pub mod consent;
mod consume;
pub mod convert;
pub mod decisions;
mod disclose;
pub mod import;
pub mod layer;
pub mod method;
mod near;
pub mod privacy;
mod receipt;
mod snapshot;
mod subscription;
pub mod watch;
pub mod wire;

use tonic::{Status, Streaming};

use crate::status::{Fault, fault_of_transport};

/// Runs a call of the node that may block, off the threads that answer requests.
async fn blocking<T, E>(call: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, Fault>
where
    T: Send + 'static,
    E: Into<Fault> + Send + 'static,
{
    match tokio::task::spawn_blocking(call).await {
        Ok(result) => result.map_err(Into::into),
        Err(error) => Err(Fault::Internal(format!("a blocking call did not end: {error}"))),
    }
}

/// The next message of a client; none once it has closed its side.
async fn received<T>(requests: &mut Streaming<T>) -> Result<Option<T>, Status> {
    requests.message().await.map_err(|status| {
        match fault_of_transport(status.clone().into_http::<()>().headers()) {
            Some(fault) => fault.into(),
            None => status,
        }
    })
}
