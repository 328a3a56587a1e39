//! Thin services over one node, and the conversions at which generated types stop.
//!
//! A service parses the request, asks the node, and words the answer; it decides nothing.

mod audience;
pub mod audit;
pub mod catalog;
pub mod check;
pub mod consent;
mod consume;
pub mod convert;
pub mod decisions;
pub mod import;
pub mod layer;
pub mod method;
pub mod privacy;
mod receipt;
mod snapshot;
mod subscription;
pub mod watch;
pub mod wire;

use crate::status::Fault;

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
