//! A ledger's files compared with a server that publishes C2SP tlog-tiles under a monitoring prefix.
//!
//! If the server has more entries than the files, its tiles must prove that the files are the beginning
//! of its ledger. Only the tiles of that proof are fetched.

use std::{collections::BTreeMap, convert::Infallible};

use base64::Engine as _;
use thiserror::Error;

use super::held::{Compared, Held, Source, other_ledger};
use crate::{
    cli::{
        Global,
        error::CliError,
        published::{Published, TileError},
        trust::Trust,
    },
    ledger::{key_change::KeyChange, verify::Good},
    tlog::{
        BASE64,
        checkpoint::Checkpoint,
        merkle::{self, Hash},
        note::NOTE_BYTES_MAX,
        tile::{self, HASH_BYTES, Kind, Tile},
    },
    web::WebError,
};

/// Maximum size of the proofs of all changes of a key.
const KEY_CHANGES_BYTES_MAX: usize = 16 * NOTE_BYTES_MAX;

/// A server that publishes checkpoints and tiles.
pub struct Remote {
    published: Published,
    /// Its latest checkpoint.
    pub held: Held,
}

/// Why the tiles are not a proof.
#[derive(Debug, Error)]
enum NoProof {
    #[error(transparent)]
    Tile(#[from] TileError),
    #[error("its tiles do not lead to its own checkpoint: {0}")]
    Proof(#[from] merkle::ProofError),
}

impl Remote {
    /// Fetches the latest checkpoint, and follows the changes of the ledger's key.
    ///
    /// # Errors
    /// The request fails, or its status is not 200.
    pub async fn fetch(url: &str, trust: &mut Trust, global: &Global) -> Result<Self, CliError> {
        let failed = |problem: &dyn std::fmt::Display| {
            CliError::failed(format!("--against {problem}"))
                .with_hint("give the monitoring prefix: the part of the URL before /checkpoint")
        };
        let web_failed = |error: WebError| failed(&error);
        let published = Published::new(url, global)?;
        let answer = published.get("checkpoint", NOTE_BYTES_MAX).await.map_err(web_failed)?;
        if answer.status != 200 {
            let url = format!("{}/checkpoint", published.prefix());
            return Err(failed(&TileError::Status { url, status: answer.status }));
        }
        let text = String::from_utf8_lossy(&answer.body);
        // The changes are signed with the keys before them. A server that has none may not know the path.
        let changes = published.get("key-changes", KEY_CHANGES_BYTES_MAX).await;
        let changes = changes.ok().filter(|answer| answer.status == 200);
        let changes = changes.map(|answer| String::from_utf8_lossy(&answer.body).into_owned());
        let changes = KeyChange::parse_all(&changes.unwrap_or_default()).unwrap_or_default();
        trust.follow(&changes);
        let held = Held::outside(Source::Against, published.prefix().to_owned(), &text, trust);
        Ok(Self { published, held })
    }

    /// Compares the published checkpoint with the undamaged part of a ledger, and with the smallest
    /// size that the server may publish.
    pub async fn compare(self, good: &Good, is_whole: bool, size_min: u64) -> Compared {
        let entries = good.tip.next_index;
        let larger = match &self.held.checkpoint {
            Ok(signed) if signed.checkpoint.size > entries && is_whole => &signed.checkpoint,
            _ => {
                let difference = self.held.difference(good, is_whole);
                let difference = difference.or_else(|| self.rolled_back(size_min));
                return self.held.compared(difference);
            }
        };
        let difference = match other_ledger(&larger.origin, good) {
            Some(difference) => Some(difference),
            None => match self.root_before(entries, larger).await {
                Ok(root) if root == good.root => self.rolled_back(size_min),
                Ok(root) => Some(format!(
                    "a fork: the root of the first {entries} entries is {} here, and {} there",
                    BASE64.encode(good.root),
                    BASE64.encode(root)
                )),
                Err(error) => Some(error.to_string()),
            },
        };
        self.held.compared(difference)
    }

    /// The difference if the server publishes fewer entries than it has released.
    fn rolled_back(&self, size_min: u64) -> Option<String> {
        let size = self.held.size().filter(|size| *size < size_min)?;
        Some(format!(
            "the server publishes less than it has signed: {size} entries of {size_min}: rolled back"
        ))
    }

    /// The root of the first `size` entries, computed from the published tiles and proven to be
    /// consistent with a larger checkpoint.
    async fn root_before(&self, size: u64, later: &Checkpoint) -> Result<Hash, NoProof> {
        let tiles = self.tiles(size, later.size).await?;
        let subtree = |height, number| {
            let at = tile::locate(height, number);
            let hashes = tiles.get(&(at.level, at.tile)).map_or(&[][..], Vec::as_slice);
            let part = at.first * HASH_BYTES..(at.first + at.count) * HASH_BYTES;
            // Every tile that is asked for was fetched.
            Ok::<_, Infallible>(hashes.get(part).and_then(tile::root_of).unwrap_or_default())
        };
        let Ok(root) = merkle::root(size, subtree);
        let Ok(proof) = merkle::prove_consistency(size, later.size, subtree);
        merkle::verify_consistency((size, &root), (later.size, &later.root), &proof)?;
        Ok(root)
    }

    /// The tiles of the smaller root and of the consistency proof.
    async fn tiles(
        &self,
        first: u64,
        second: u64,
    ) -> Result<BTreeMap<(u8, u64), Vec<u8>>, TileError> {
        let mut tiles = BTreeMap::new();
        let mut add = |height, number| {
            let at = tile::locate(height, number);
            tiles.insert((at.level, at.tile), Vec::new());
            Ok::<_, Infallible>(Hash::default())
        };
        let Ok(_) = merkle::root(first, &mut add);
        let Ok(_) = merkle::prove_consistency(first, second, &mut add);
        for ((level, number), hashes) in &mut tiles {
            if let Some(tile) = Tile::in_tree(Kind::Level(*level), *number, second) {
                *hashes = self.published.hashes(tile).await?;
            }
        }
        Ok(tiles)
    }
}
