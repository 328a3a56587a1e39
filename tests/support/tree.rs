//! A tree in memory: its entries, and the hash of every complete subtree.

use std::convert::Infallible;

use consent_ledger::tlog::{
    merkle::{self, Hash, Range, leaf_hash},
    tile::{Kind, TILE_HEIGHT, Tile, bundle},
};

/// Sizes at the edges of trees and tiles.
pub const SIZES: [u64; 8] = [1, 2, 255, 256, 257, 1_000, 65_536, 70_000];

/// A tree and its entries.
pub struct Tree {
    entries: Vec<Vec<u8>>,
    range: Range,
    /// By height: the hashes of the complete subtrees, in order.
    rows: Vec<Vec<Hash>>,
}

impl Tree {
    pub fn new(entries: impl IntoIterator<Item = Vec<u8>>) -> Self {
        let rows = vec![Vec::new(); 64];
        let mut tree = Self { entries: Vec::new(), range: Range::empty(0), rows };
        for entry in entries {
            let leaf = leaf_hash(&entry);
            tree.rows[0].push(leaf);
            let rows = &mut tree.rows;
            tree.range.push_telling(leaf, &mut |height, hash| rows[at(height.into())].push(*hash));
            tree.entries.push(entry);
        }
        tree
    }

    /// Of entries that differ from one another, of 0 to 40 bytes.
    pub fn of_size(size: u64) -> Self {
        Self::new((0..size).map(|n| {
            let bytes = format!("{n}{}", "·".repeat(at(n % 17)));
            if n == 0 { Vec::new() } else { bytes.into_bytes() }
        }))
    }

    pub fn size(&self) -> u64 {
        self.range.end()
    }

    pub fn entry(&self, index: u64) -> &[u8] {
        &self.entries[at(index)]
    }

    pub fn leaf(&self, index: u64) -> Hash {
        self.rows[0][at(index)]
    }

    /// The hashes from which proofs are made.
    pub fn subtree(&self) -> impl FnMut(u32, u64) -> Result<Hash, Infallible> {
        |height, number| Ok(self.rows[at(height.into())][at(number)])
    }

    pub fn root(&self, size: u64) -> Hash {
        infallible(merkle::root(size, self.subtree()))
    }

    pub fn inclusion(&self, index: u64, size: u64) -> Vec<Hash> {
        infallible(merkle::prove_inclusion(index, size, self.subtree()))
    }

    pub fn consistency(&self, first: u64, second: u64) -> Vec<Hash> {
        infallible(merkle::prove_consistency(first, second, self.subtree()))
    }

    /// The bytes of a tile or an entry bundle.
    pub fn tile(&self, tile: &Tile) -> Vec<u8> {
        let range = at(tile.start())..at(tile.start()) + usize::from(tile.width);
        match tile.kind {
            Kind::Level(level) => {
                self.rows[at((TILE_HEIGHT * u32::from(level)).into())][range].concat()
            }
            Kind::Entries => bundle(&self.entries[range]).expect("entries are short"),
        }
    }
}

/// A number as an index in memory.
pub fn at(number: u64) -> usize {
    usize::try_from(number).expect("a place in memory")
}

fn infallible<T>(result: Result<T, Infallible>) -> T {
    result.unwrap_or_else(|never| match never {})
}
