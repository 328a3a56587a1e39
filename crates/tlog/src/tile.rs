//! C2SP tlog-tiles: the tree cut into tiles of 256 hashes, the entries into bundles of 256, and the
//! paths under which they are served.
//!
//! Tile n of level l holds the hashes of the subtrees of height `8 * l` from number `256 * n` on. A
//! tile at the right edge is *partial*: it holds the first 1 to 255 of them.

use std::fmt;

use thiserror::Error;

use super::{
    decimal,
    merkle::{Hash, node_hash},
};

/// Hashes in a full tile, and entries in a full bundle.
pub const TILE_WIDTH: u64 = 256;
/// Levels of the tree in a tile.
pub const TILE_HEIGHT: u32 = 8;
/// Bytes of a hash.
pub const HASH_BYTES: usize = 32;
/// Bytes of a full tile.
pub const TILE_BYTES: usize = 256 * HASH_BYTES;
/// The highest level that a path may name.
pub const LEVEL_MAX: u8 = 63;

/// The kind of a tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Hashes of a level.
    Level(u8),
    /// Entries.
    Entries,
}

/// A tile or bundle with its path: `tile/0/x001/234`, `tile/entries/000.p/17`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tile {
    /// The kind.
    pub kind: Kind,
    /// The number.
    pub number: u64,
    /// Number of hashes or entries, 1 to 256.
    pub width: u16,
}

/// A text is no path of a tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not the path of a tile")]
pub struct PathError;

impl Tile {
    /// The tile of this kind and number in a tree of `size` leaves, full or partial; none if it would be
    /// empty.
    #[must_use]
    pub fn in_tree(kind: Kind, number: u64, size: u64) -> Option<Self> {
        let count = count_at(kind, size);
        let width = count.checked_sub(number.checked_mul(TILE_WIDTH)?)?.min(TILE_WIDTH);
        let width = u16::try_from(width).ok().filter(|width| *width > 0)?;
        Some(Self { kind, number, width })
    }

    /// Every tile and bundle of a tree of `size` leaves.
    pub fn all(size: u64) -> impl Iterator<Item = Self> {
        let levels = (0..=7).map(Kind::Level).chain([Kind::Entries]);
        levels.flat_map(move |kind| {
            let tiles = count_at(kind, size).div_ceil(TILE_WIDTH);
            (0..tiles).filter_map(move |number| Self::in_tree(kind, number, size))
        })
    }

    /// Whether the tile is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        u64::from(self.width) == TILE_WIDTH
    }

    /// Number of the first hash, or the index of the first entry.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.number * TILE_WIDTH
    }

    /// Parses a path in its only valid form.
    ///
    /// # Errors
    /// [`PathError`].
    pub fn parse(path: &str) -> Result<Self, PathError> {
        let mut parts = path.strip_prefix("tile/").ok_or(PathError)?.split('/').peekable();
        let kind = match parts.next() {
            Some("entries") => Kind::Entries,
            Some(level) => {
                let level = decimal(level).and_then(|level| u8::try_from(level).ok());
                Kind::Level(level.filter(|level| *level <= LEVEL_MAX).ok_or(PathError)?)
            }
            None => return Err(PathError),
        };
        let mut number: u64 = 0;
        let mut width = 256;
        loop {
            let part = parts.next().ok_or(PathError)?;
            let (digits, more) = match part.strip_prefix('x') {
                Some(digits) => (digits, true),
                None => (part.strip_suffix(".p").unwrap_or(part), false),
            };
            if digits.len() != 3 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(PathError);
            }
            // A number does not begin with an element of zeros.
            if more && number == 0 && digits == "000" {
                return Err(PathError);
            }
            let thousands = number.checked_mul(1_000).ok_or(PathError)?;
            let digits = digits.parse::<u64>().map_err(|_| PathError)?;
            number = thousands.checked_add(digits).ok_or(PathError)?;
            if more {
                continue;
            }
            if part.ends_with(".p") {
                let text = parts.next().ok_or(PathError)?;
                let partial = decimal(text).filter(|width| (1..TILE_WIDTH).contains(width));
                width = partial.and_then(|width| u16::try_from(width).ok()).ok_or(PathError)?;
            }
            break;
        }
        match (parts.next(), number.checked_mul(TILE_WIDTH)) {
            (None, Some(_)) => Ok(Self { kind, number, width }),
            _ => Err(PathError),
        }
    }
}

/// How many hashes or entries of a kind there are in a tree of `size` leaves.
#[must_use]
pub fn count_at(kind: Kind, size: u64) -> u64 {
    match kind {
        Kind::Entries => size,
        Kind::Level(level) => size.checked_shr(TILE_HEIGHT * u32::from(level)).unwrap_or(0),
    }
}

impl fmt::Display for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Level(level) => write!(f, "tile/{level}/")?,
            Kind::Entries => f.write_str("tile/entries/")?,
        }
        let mut divisor = 1;
        while self.number / divisor >= 1_000 {
            divisor *= 1_000;
        }
        while divisor > 1 {
            write!(f, "x{:03}/", self.number / divisor % 1_000)?;
            divisor /= 1_000;
        }
        write!(f, "{:03}", self.number % 1_000)?;
        if self.is_full() { Ok(()) } else { write!(f, ".p/{}", self.width) }
    }
}

/// Where the hash of a subtree comes from: a tile, and the part of it that the subtree stands over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InTile {
    /// Level of the tile.
    pub level: u8,
    /// Number of the tile.
    pub tile: u64,
    /// The first hash, counted from the tile's first.
    pub first: usize,
    /// How many hashes, a power of two.
    pub count: usize,
}

/// Finds a subtree among the tiles.
#[must_use]
pub fn locate(height: u32, number: u64) -> InTile {
    let level = u8::try_from(height / TILE_HEIGHT).unwrap_or(LEVEL_MAX);
    let above = height % TILE_HEIGHT;
    let first = number << above;
    InTile {
        level,
        tile: first / TILE_WIDTH,
        first: usize::try_from(first % TILE_WIDTH).unwrap_or(usize::MAX),
        count: 1 << above,
    }
}

/// The root over hashes that stand one after the other; none unless they are a power of two of whole
/// hashes.
#[must_use]
pub fn root_of(hashes: &[u8]) -> Option<Hash> {
    let (chunks, rest) = hashes.as_chunks::<HASH_BYTES>();
    if !rest.is_empty() || !chunks.len().is_power_of_two() {
        return None;
    }
    let mut row = chunks.to_vec();
    while row.len() > 1 {
        row = row.as_chunks::<2>().0.iter().map(|[left, right]| node_hash(left, right)).collect();
    }
    row.pop()
}

/// An entry bundle: each entry with its length before it, two bytes, big endian. None if an entry is
/// longer than that can say.
#[must_use]
pub fn bundle<B: AsRef<[u8]>>(entries: &[B]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    for entry in entries.iter().map(AsRef::as_ref) {
        out.extend(u16::try_from(entry.len()).ok()?.to_be_bytes());
        out.extend(entry);
    }
    Some(out)
}

/// The entries of a bundle; none if it does not end with one.
#[must_use]
pub fn unbundle(mut bundle: &[u8]) -> Option<Vec<&[u8]>> {
    let mut entries = Vec::new();
    while !bundle.is_empty() {
        let (length, rest) = bundle.split_first_chunk::<2>()?;
        let (entry, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        entries.push(entry);
        bundle = rest;
    }
    Some(entries)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_are_those_of_the_specification() {
        let tile = |kind, number, width| Tile { kind, number, width }.to_string();
        assert_eq!(tile(Kind::Level(0), 1_234_067, 256), "tile/0/x001/x234/067");
        assert_eq!(tile(Kind::Entries, 273, 112), "tile/entries/273.p/112");
        assert_eq!(tile(Kind::Level(2), 0, 1), "tile/2/000.p/1");
        assert_eq!(tile(Kind::Level(63), 1_000, 256), "tile/63/x001/000");
    }

    #[test]
    fn a_tree_has_the_tiles_of_the_specification() {
        let all: Vec<_> = Tile::all(70_000).collect();
        let level = |level| all.iter().filter(move |tile| tile.kind == Kind::Level(level));
        assert_eq!(level(0).filter(|tile| tile.is_full()).count(), 273);
        let partial: Vec<_> = all.iter().filter(|tile| !tile.is_full()).map(|t| t.width).collect();
        assert_eq!(partial, [112, 17, 1, 112]);
        let of_256: Vec<_> = Tile::all(256).map(|tile| tile.to_string()).collect();
        assert_eq!(of_256, ["tile/0/000", "tile/1/000.p/1", "tile/entries/000"]);
        assert_eq!(Tile::all(0).count(), 0);
    }

    #[test]
    fn every_other_writing_is_refused() {
        for bad in [
            "",
            "tile/",
            "tile/0",
            "tile/0/",
            "tile/0/1",
            "tile/0/0001",
            "tile/00/000",
            "tile/64/000",
            "tile/-1/000",
            "tile/0/x000/001",
            "tile/0/001/002",
            "tile/0/x001",
            "tile/0/000.p",
            "tile/0/000.p/",
            "tile/0/000.p/0",
            "tile/0/000.p/256",
            "tile/0/000.p/01",
            "tile/0/000.p/1/2",
            "tile/0/000/",
            "/tile/0/000",
            "tile/0/x001.p/1",
            "tile/entry/000",
            "tile/0/+01",
            "tile/0/x999/x999/x999/x999/x999/x999/999",
        ] {
            assert_eq!(Tile::parse(bad), Err(PathError), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn paths_round_trip(level in prop::option::of(0_u8..=63), number in 0..u64::MAX / 256, width in 1_u16..=256) {
            let kind = level.map_or(Kind::Entries, Kind::Level);
            let tile = Tile { kind, number, width };
            prop_assert_eq!(Tile::parse(&tile.to_string()), Ok(tile));
        }

        #[test]
        fn arbitrary_paths_never_panic(text in "(tile/)?[0-9x./p]{0,20}") {
            if let Ok(tile) = Tile::parse(&text) {
                prop_assert_eq!(tile.to_string(), text);
            }
        }

        #[test]
        fn bundles_round_trip(entries in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..10)) {
            let written = bundle(&entries).unwrap();
            prop_assert_eq!(unbundle(&written).unwrap(), entries);
        }

        #[test]
        fn arbitrary_bundles_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Some(entries) = unbundle(&bytes) {
                prop_assert_eq!(bundle(&entries).unwrap(), bytes);
            }
        }
    }
}
