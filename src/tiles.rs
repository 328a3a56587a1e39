//! The ledger as C2SP tlog-tiles over HTTP, for monitors, operators of witnesses, and caches.
//!
//! It serves the tree of the latest released checkpoint. Tiles and bundles never change, so they may
//! be cached forever; the checkpoint may not.

use std::sync::Arc;

use axum::{
    Router,
    extract::State as With,
    http::{HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::sync::Semaphore;
use tower_http::compression::CompressionLayer;
use tracing::error;

use crate::{
    node::Node,
    tlog::tile::{Kind, Tile},
};

/// `Cache-Control` of the checkpoint, and of the changes of the signing key.
const CHECKPOINT_CACHE: HeaderValue = HeaderValue::from_static("public, max-age=1");
/// `Cache-Control` of tiles and bundles.
const IMMUTABLE_CACHE: HeaderValue =
    HeaderValue::from_static("public, max-age=31536000, immutable");
/// `Cache-Control` of errors: a missing tile may exist later.
const ABSENT_CACHE: HeaderValue = HeaderValue::from_static("no-store");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const BYTES: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// Maximum number of connections; more wait to be accepted.
pub const CONNECTIONS_MAX: usize = 256;
/// Maximum number of tiles and bundles that are read at a time; more wait for a permit.
const READS_MAX: usize = 4;

/// Shared by the handlers.
#[derive(Clone)]
struct Site {
    node: Arc<Node>,
    reads: Arc<Semaphore>,
}

/// The routes of a node.
pub fn router(node: Arc<Node>) -> Router {
    let site = Site { node, reads: Arc::new(Semaphore::new(READS_MAX)) };
    // Only entries are compressed: hashes are incompressible.
    let entries = Router::new()
        .route("/tile/entries/{*path}", get(tile))
        .layer(CompressionLayer::new())
        .with_state(site.clone());
    Router::new()
        .route("/checkpoint", get(checkpoint))
        .route("/key-changes", get(key_changes))
        .route("/tile/{*path}", get(tile))
        .with_state(site)
        .merge(entries)
}

async fn checkpoint(With(site): With<Site>) -> Response {
    match site.node.released() {
        None => absent("no checkpoint has been released yet"),
        Some(released) => {
            let headers = [(header::CONTENT_TYPE, TEXT), (header::CACHE_CONTROL, CHECKPOINT_CACHE)];
            (headers, released.text.to_string()).into_response()
        }
    }
}

/// The proofs of the changes of the signing key, one below the other. This is no part of C2SP tlog-tiles.
async fn key_changes(With(site): With<Site>) -> Response {
    let headers = [(header::CONTENT_TYPE, TEXT), (header::CACHE_CONTROL, CHECKPOINT_CACHE)];
    (headers, site.node.key_changes().to_string()).into_response()
}

/// A tile or bundle, by its literal path: each resource has one address.
async fn tile(With(site): With<Site>, uri: Uri) -> Response {
    let path = uri.path().strip_prefix('/').unwrap_or_default();
    let Ok(tile) = Tile::parse(path) else { return absent("this is not the path of a tile") };
    let _permit = site.reads.acquire().await;
    let node = Arc::clone(&site.node);
    let read = tokio::task::spawn_blocking(move || node.tile(tile)).await;
    match read {
        Ok(Ok(Some(bytes))) => {
            let headers = [(header::CONTENT_TYPE, BYTES), (header::CACHE_CONTROL, IMMUTABLE_CACHE)];
            (headers, bytes).into_response()
        }
        Ok(Ok(None)) => absent(match tile.kind {
            Kind::Level(_) => "the latest checkpoint has no such tile",
            Kind::Entries => "the latest checkpoint has no such entry bundle",
        }),
        Ok(Err(problem)) => fault(&problem),
        Err(problem) => fault(&problem),
    }
}

fn absent(message: &'static str) -> Response {
    let headers = [(header::CONTENT_TYPE, TEXT), (header::CACHE_CONTROL, ABSENT_CACHE)];
    (StatusCode::NOT_FOUND, headers, format!("{message}\n")).into_response()
}

fn fault(problem: &dyn std::fmt::Display) -> Response {
    error!(%problem, "a tile can not be read");
    let headers = [(header::CONTENT_TYPE, TEXT), (header::CACHE_CONTROL, ABSENT_CACHE)];
    let message = "the tile can not be read; the detail is in the server's log\n";
    (StatusCode::INTERNAL_SERVER_ERROR, headers, message).into_response()
}
