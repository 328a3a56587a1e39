//! The tree on disk, compared with the hashes of the entries as they are read.
//!
//! It is disposable: a server computes it again. But a wrong one would prove wrong things until then.
//! Only what is under a checkpoint that the directory holds was synced before that was signed. What
//! stands behind may be anything after a crash, is written again, and is no damage.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::Path,
};

use serde::Serialize;

use crate::tlog::{
    merkle::Hash,
    tile::{HASH_BYTES, Kind, count_at},
};

/// Name of the tree's folder in a data directory.
const DIR: &str = "tree";
/// More levels than a tree of `u64` can have.
const LEVELS_MAX: u8 = 8;

/// What the comparison found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TreeCompared {
    /// Number of hashes that were compared.
    pub hashes: u64,
    /// Number of hashes behind those of the entries that are signed: no server reads them.
    pub unsynced: u64,
    /// Whether all are right.
    pub agrees: bool,
    /// The first that is not.
    pub what: Option<String>,
}

/// The files of a tree, read as the entries are.
pub struct TreeFiles {
    levels: Vec<Level>,
    compared: u64,
    unsynced: u64,
    wrong: Option<String>,
}

struct Level {
    file: BufReader<File>,
    /// How many whole hashes count.
    hashes: u64,
}

impl TreeFiles {
    /// Opens what there is, of which the hashes of the first `signed` entries count; none if there is
    /// no tree.
    ///
    /// # Errors
    /// It can not be read.
    pub fn open(data_dir: &Path, signed: u64) -> io::Result<Option<Self>> {
        let mut levels = Vec::new();
        let mut unsynced = 0;
        for level in 0..LEVELS_MAX {
            let path = data_dir.join(DIR).join(format!("{level}.hashes"));
            let file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(error),
            };
            let held = file.metadata()?.len() / HASH_BYTES as u64;
            let hashes = held.min(count_at(Kind::Level(level), signed));
            unsynced += held - hashes;
            levels.push(Level { file: BufReader::with_capacity(64 * 1024, file), hashes });
        }
        Ok((!levels.is_empty()).then_some(Self { levels, compared: 0, unsynced, wrong: None }))
    }

    /// Compares the next hash of a level.
    pub fn compare(&mut self, level: u8, number: u64, hash: &Hash) {
        let Some(own) = self.levels.get_mut(usize::from(level)) else { return };
        if number >= own.hashes || self.wrong.is_some() {
            return;
        }
        let mut held = [0; HASH_BYTES];
        self.compared += 1;
        self.wrong = match own.file.read_exact(&mut held) {
            Ok(()) if held == *hash => None,
            Ok(()) => Some(format!("hash {number} of level {level} is not that of the entries")),
            Err(error) => Some(format!("hash {number} of level {level}: {error}")),
        };
    }

    /// What was found.
    pub fn end(self) -> TreeCompared {
        let Self { compared: hashes, unsynced, wrong: what, .. } = self;
        TreeCompared { hashes, unsynced, agrees: what.is_none(), what }
    }
}
