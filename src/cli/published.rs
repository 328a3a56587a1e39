//! What a server publishes for anybody under a URL: C2SP tlog-tiles.

use thiserror::Error;

use super::{Global, trust};
use crate::{
    tlog::tile::{HASH_BYTES, Kind, TILE_BYTES, Tile, unbundle},
    web::{Answer, WebClient, WebError},
};

/// The largest bundle: full, of the largest entries, each after its length.
const BUNDLE_BYTES_MAX: usize = FULL as usize * (2 + u16::MAX as usize);
/// The width of a full tile.
const FULL: u16 = 256;

/// Why a file is not what a tile must be.
#[derive(Debug, Error)]
pub enum TileError {
    /// It could not be fetched.
    #[error(transparent)]
    Web(#[from] WebError),
    /// The server does not have it.
    #[error("{url}: HTTP status {status}")]
    Status {
        /// Its URL.
        url: String,
        /// The status.
        status: u16,
    },
    /// It has another size.
    #[error("{url}: {bytes} bytes, a tile of {wanted} was expected")]
    Size {
        /// Its URL.
        url: String,
        /// Its bytes.
        bytes: usize,
        /// How many a tile has.
        wanted: usize,
    },
    /// It is no bundle, or one of fewer entries.
    #[error("{url}: it does not hold {wanted} entries")]
    Bundle {
        /// Its URL.
        url: String,
        /// How many entries it must hold.
        wanted: u16,
    },
}

/// A server that publishes checkpoints, tiles and entries.
#[derive(Debug)]
pub struct Published {
    client: WebClient,
    prefix: String,
}

impl Published {
    /// The server under a URL, the part before `/checkpoint`.
    ///
    /// # Errors
    /// The certificates to trust can not be read.
    pub fn new(url: &str, global: &Global) -> Result<Self, super::error::CliError> {
        let ca = global.tls_ca.as_deref().map(trust::read_bytes).transpose()?;
        let client = WebClient::new(global.timeout, ca.as_deref());
        let client = client.map_err(|error| super::error::CliError::failed(error.to_string()))?;
        Ok(Self { client, prefix: url.trim_end_matches('/').to_owned() })
    }

    /// Its URL.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Fetches a file, with any status.
    ///
    /// # Errors
    /// The request fails.
    pub async fn get(&self, path: &str, bytes_max: usize) -> Result<Answer, WebError> {
        self.client.get(&format!("{}/{path}", self.prefix), bytes_max).await
    }

    /// The hashes of a tile, at least those of its width.
    ///
    /// # Errors
    /// The server does not have it, or it has another size.
    pub async fn hashes(&self, tile: Tile) -> Result<Vec<u8>, TileError> {
        let (url, width, bytes) = self.tile(tile, TILE_BYTES).await?;
        let wanted = usize::from(width) * HASH_BYTES;
        if bytes.len() != wanted {
            return Err(TileError::Size { url, bytes: bytes.len(), wanted });
        }
        Ok(bytes)
    }

    /// The entries of a bundle of a ledger of `size` entries.
    ///
    /// # Errors
    /// The server does not have it, or it does not hold them.
    pub async fn entries(&self, number: u64, size: u64) -> Result<Vec<Vec<u8>>, TileError> {
        let Some(tile) = Tile::in_tree(Kind::Entries, number, size) else { return Ok(Vec::new()) };
        let (url, width, bytes) = self.tile(tile, BUNDLE_BYTES_MAX).await?;
        let entries = unbundle(&bytes).filter(|entries| entries.len() == usize::from(width));
        let entries = entries.ok_or(TileError::Bundle { url, wanted: width })?;
        Ok(entries.into_iter().take(tile.width.into()).map(<[u8]>::to_vec).collect())
    }

    /// A tile, and the width that it has. A server may remove a partial tile once it has the full one.
    async fn tile(
        &self,
        tile: Tile,
        bytes_max: usize,
    ) -> Result<(String, u16, Vec<u8>), TileError> {
        let full = Tile { width: FULL, ..tile };
        match self.one(tile, bytes_max).await {
            Err(TileError::Status { status: 404 | 410, .. }) if !tile.is_full() => {
                self.one(full, bytes_max).await
            }
            answer => answer,
        }
    }

    async fn one(&self, tile: Tile, bytes_max: usize) -> Result<(String, u16, Vec<u8>), TileError> {
        let answer = self.get(&tile.to_string(), bytes_max).await?;
        let url = format!("{}/{tile}", self.prefix);
        match answer.status {
            200 => Ok((url, tile.width, answer.body)),
            status => Err(TileError::Status { url, status }),
        }
    }
}
