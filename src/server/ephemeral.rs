//! A ledger for a test or a trial: in a temporary directory, with keys of its own, gone when the server
//! ends.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tempfile::TempDir;
use thiserror::Error;
use tokio::task::{JoinError, spawn_blocking};
use tonic::{Code, Request, Status};

use crate::{
    config::CatalogPut,
    grpc::catalog::Catalog,
    node::{InitError, Node, NodeConfig, init},
    proto::catalog_service_server::CatalogService,
    vault::Kek,
};

/// How often the removal of a directory is tried while threads still write into it.
const REMOVALS_MAX: u32 = 10;

/// Why there is no ephemeral ledger.
#[derive(Debug, Error)]
pub enum EphemeralError {
    /// The temporary directory can not be made.
    #[error("cannot make a directory in {dir}: {source}", dir = .dir.display())]
    Directory {
        /// The folder of temporary files.
        dir: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The ledger can not be made.
    #[error(transparent)]
    Init(#[from] InitError),
    /// An entry of the catalogue is refused.
    #[error("the catalogue can not be applied: {kind} `{key}`: {problem}")]
    Catalog {
        /// `namespace`, `channel` or `purpose`.
        kind: &'static str,
        /// Its key.
        key: String,
        /// Why it is refused.
        problem: String,
    },
    /// A task panicked.
    #[error("a task ended unexpectedly: {0}")]
    Task(#[from] JoinError),
}

/// Makes a ledger in a temporary directory, and points the configuration to it. The directory is removed
/// when the result is dropped.
///
/// # Errors
/// See [`EphemeralError`].
pub async fn make(node: &mut NodeConfig) -> Result<TempDir, EphemeralError> {
    let dir = tempfile::Builder::new().prefix("consent-ledger-").tempdir();
    let dir =
        dir.map_err(|source| EphemeralError::Directory { dir: std::env::temp_dir(), source })?;
    node.data_dir = dir.path().to_owned();
    node.kek = Some(Kek::random());
    let config = node.clone();
    spawn_blocking(move || init(&config)).await??;
    Ok(dir)
}

/// Applies a catalogue.
///
/// # Errors
/// [`EphemeralError::Catalog`], at the first entry that is refused.
pub async fn apply(node: &Arc<Node>, puts: &[CatalogPut]) -> Result<(), EphemeralError> {
    let catalog = Catalog { node: Arc::clone(node) };
    for put in puts {
        let result = match put.clone() {
            CatalogPut::Namespace(put) => catalog.put_namespace(Request::new(put)).await.map(drop),
            CatalogPut::Channel(put) => catalog.put_channel(Request::new(put)).await.map(drop),
            CatalogPut::Party(put) => catalog.put_party(Request::new(put)).await.map(drop),
            CatalogPut::Purpose(put) => catalog.put_purpose(Request::new(put)).await.map(drop),
        };
        result.map_err(|status| refused(put, &status))?;
    }
    Ok(())
}

fn refused(put: &CatalogPut, status: &Status) -> EphemeralError {
    let (kind, key) = put.name();
    let problem = match status.code() {
        // Its message says nothing.
        Code::Internal => "a fault of the server; its log says more".to_owned(),
        _ => status.message().to_owned(),
    };
    EphemeralError::Catalog { kind, key, problem }
}

/// Removes the directory of a server that ends while its threads still run.
pub fn remove(dir: &Path) {
    for _ in 0..REMOVALS_MAX {
        // A thread may have made a file between the removal of the last one and that of its folder.
        if fs::remove_dir_all(dir).is_ok() || !dir.exists() {
            return;
        }
    }
}
