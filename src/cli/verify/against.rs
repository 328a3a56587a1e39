//! A ledger's files beside what a server publishes: C2SP tlog-tiles under a monitoring prefix.
//!
//! If the server has more entries, its tiles must prove that what the files hold is the beginning of
//! what it has signed. Only the tiles on that path are fetched.

use std::{collections::BTreeMap, convert::Infallible};

use base64::Engine as _;
use thiserror::Error;

use super::held::{Compared, Held, Source, other_ledger};
use crate::{
    cli::{Global, error::CliError, trust::Trust},
    ledger::verify::Good,
    tlog::{
        BASE64,
        checkpoint::Checkpoint,
        merkle::{self, Hash},
        note::NOTE_BYTES_MAX,
        tile::{self, HASH_BYTES, Kind, TILE_BYTES, Tile},
    },
    web::{WebClient, WebError},
};

/// What a server publishes.
pub struct Remote {
    client: WebClient,
    prefix: String,
    /// Its latest checkpoint.
    pub held: Held,
}

/// Why tiles prove nothing.
#[derive(Debug, Error)]
enum TileError {
    #[error(transparent)]
    Web(#[from] WebError),
    #[error("{url}: HTTP status {status}")]
    Status { url: String, status: u16 },
    #[error("{url}: {bytes} bytes, a tile of {wanted} was expected")]
    Size { url: String, bytes: usize, wanted: usize },
    #[error("its tiles do not lead to its own checkpoint: {0}")]
    Proof(#[from] merkle::ProofError),
}

impl Remote {
    /// Fetches the latest checkpoint.
    ///
    /// # Errors
    /// No answer, or no checkpoint.
    pub async fn fetch(url: &str, trust: &Trust, global: &Global) -> Result<Self, CliError> {
        let ca = global.tls_ca.as_deref().map(crate::cli::trust::read_bytes).transpose()?;
        let failed = |error: WebError| {
            CliError::failed(format!("--against {error}"))
                .with_hint("name the monitoring prefix: what stands before /checkpoint")
        };
        let client = WebClient::new(global.timeout, ca.as_deref()).map_err(failed)?;
        let prefix = url.trim_end_matches('/').to_owned();
        let at = format!("{prefix}/checkpoint");
        let answer = client.get(&at, NOTE_BYTES_MAX).await.map_err(failed)?;
        if answer.status != 200 {
            return Err(CliError::failed(format!("--against {at}: HTTP status {}", answer.status))
                .with_hint("name the monitoring prefix: what stands before /checkpoint"));
        }
        let text = String::from_utf8_lossy(&answer.body);
        let held = Held::outside(Source::Against, prefix.clone(), &text, trust);
        Ok(Self { client, prefix, held })
    }

    /// Compares what is published with what is good of a ledger, and with the number of entries that
    /// the server has vouched for before.
    pub async fn compare(self, good: &Good, is_whole: bool, vouched: u64) -> Compared {
        let entries = good.tip.next_index;
        let beyond = match &self.held.checkpoint {
            Ok(own) if own.checkpoint.size > entries && is_whole => own.checkpoint.clone(),
            _ => {
                let what = self.held.differs(good, is_whole);
                let what = what.or_else(|| self.rolled_back(vouched));
                return self.held.compared(what);
            }
        };
        let what = match other_ledger(&beyond.origin, good) {
            Some(other) => Some(other),
            None => match self.root_before(entries, &beyond).await {
                Ok(root) if root == good.root => self.rolled_back(vouched),
                Ok(root) => Some(format!(
                    "a fork: the root of the first {entries} entries is {} here, and {} there",
                    BASE64.encode(good.root),
                    BASE64.encode(root)
                )),
                Err(error) => Some(error.to_string()),
            },
        };
        self.held.compared(what)
    }

    /// What to say if less is published than was signed.
    fn rolled_back(&self, vouched: u64) -> Option<String> {
        let size = self.held.size().filter(|size| *size < vouched)?;
        Some(format!(
            "the server publishes less than it has signed: {size} entries of {vouched}: rolled back"
        ))
    }

    /// The root at `size`, as the published tiles have it, proven to be of the beginning of the tree
    /// under a larger checkpoint.
    async fn root_before(&self, size: u64, later: &Checkpoint) -> Result<Hash, TileError> {
        let tiles = self.tiles(size, later.size).await?;
        let subtree = |height, number| {
            let at = tile::locate(height, number);
            let hashes = tiles.get(&(at.level, at.tile)).map_or(&[][..], Vec::as_slice);
            let part = at.first * HASH_BYTES..(at.first + at.count) * HASH_BYTES;
            // What is not there was not asked for.
            Ok::<_, Infallible>(hashes.get(part).and_then(tile::root_of).unwrap_or_default())
        };
        let Ok(root) = merkle::root(size, subtree);
        let Ok(proof) = merkle::prove_consistency(size, later.size, subtree);
        merkle::verify_consistency((size, &root), (later.size, &later.root), &proof)?;
        Ok(root)
    }

    /// The tiles that hold what a consistency proof and the smaller root are made of.
    async fn tiles(
        &self,
        first: u64,
        second: u64,
    ) -> Result<BTreeMap<(u8, u64), Vec<u8>>, TileError> {
        let mut tiles = BTreeMap::new();
        let mut note = |height, number| {
            let at = tile::locate(height, number);
            tiles.insert((at.level, at.tile), Vec::new());
            Ok::<_, Infallible>(Hash::default())
        };
        let Ok(_) = merkle::root(first, &mut note);
        let Ok(_) = merkle::prove_consistency(first, second, &mut note);
        for ((level, number), hashes) in &mut tiles {
            if let Some(tile) = Tile::in_tree(Kind::Level(*level), *number, second) {
                *hashes = self.tile(tile).await?;
            }
        }
        Ok(tiles)
    }

    /// A partial tile may be gone once there is a full one.
    async fn tile(&self, tile: Tile) -> Result<Vec<u8>, TileError> {
        let full = Tile { width: 256, ..tile };
        match self.get(tile).await {
            Err(TileError::Status { status: 404 | 410, .. }) if !tile.is_full() => {
                self.get(full).await
            }
            answer => answer,
        }
    }

    async fn get(&self, tile: Tile) -> Result<Vec<u8>, TileError> {
        let url = format!("{}/{tile}", self.prefix);
        let answer = self.client.get(&url, TILE_BYTES).await?;
        if answer.status != 200 {
            return Err(TileError::Status { url, status: answer.status });
        }
        let (bytes, wanted) = (answer.body.len(), usize::from(tile.width) * HASH_BYTES);
        if bytes != wanted {
            return Err(TileError::Size { url, bytes, wanted });
        }
        Ok(answer.body)
    }
}
