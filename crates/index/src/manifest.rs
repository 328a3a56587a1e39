//! The manifest: which runs there are.
//!
//! ```text
//! magic (8) | salt (16) | sealed: number of runs, then each run, newest first:
//!                         id (16), level, rows, bytes of the file, start of the footer, its bytes
//! ```
//!
//! It is written beside the old one, synced, and renamed over it. A run file is durable before a manifest
//! names it.

use std::{io, path::Path};

use consent_ledger_framelog::disk::Disk;

use crate::{
    code::{Reader, put_number},
    error::{AtPath as _, IndexError},
    run::RunFacts,
    seal::{MapKey, Part},
};

/// The name of the file.
pub const NAME: &str = "manifest";
const NEW: &str = "manifest.new";
const MAGIC: &[u8; 8] = b"CLINDEX1";

/// What a directory holds.
pub enum Read {
    /// No manifest.
    None,
    /// The runs, newest first.
    Runs(Vec<RunFacts>),
    /// A manifest that can not be used, and why.
    Unusable(&'static str),
}

/// Reads the manifest of a directory.
pub fn read(disk: &dyn Disk, dir: &Path, key: &MapKey) -> Result<Read, IndexError> {
    let path = dir.join(NAME);
    let file = match disk.open_read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Read::None),
        file => file.at(&path)?,
    };
    let length = usize::try_from(file.len().at(&path)?).unwrap_or(usize::MAX);
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0).at(&path)?;
    let mut reader = Reader(&bytes);
    let (Some(magic), Some(salt)) = (reader.array::<8>(), reader.array::<16>()) else {
        return Ok(Read::Unusable("it can not be read"));
    };
    if &magic != MAGIC {
        return Ok(Read::Unusable("it has another format"));
    }
    let Some(text) = key.manifest(&salt).open(Part::Manifest, reader.0) else {
        return Ok(Read::Unusable("it was changed, or is of another ledger or key"));
    };
    Ok(decode(&text).map_or(Read::Unusable("it can not be read"), Read::Runs))
}

/// Replaces the manifest, durably.
pub fn write(
    disk: &dyn Disk,
    dir: &Path,
    key: &MapKey,
    runs: impl ExactSizeIterator<Item = RunFacts>,
) -> Result<(), IndexError> {
    let salt: [u8; 16] = rand::random();
    let mut text = Vec::new();
    put_number(runs.len() as u64, &mut text);
    for run in runs {
        text.extend_from_slice(&run.id);
        text.push(run.level);
        for number in [run.rows, run.bytes, run.footer_at, run.footer_bytes] {
            put_number(number, &mut text);
        }
    }
    let sealed = key.manifest(&salt).close(Part::Manifest, &text);
    let bytes = [MAGIC.as_slice(), &salt, &sealed].concat();
    let (new, path) = (dir.join(NEW), dir.join(NAME));
    remove_if_there(disk, &new)?;
    let file = disk.create(&new).at(&new)?;
    file.write_all_at(&bytes, 0).at(&new)?;
    file.sync_data().at(&new)?;
    disk.rename(&new, &path).at(&path)?;
    disk.sync_dir(dir).at(dir)
}

/// Removes the manifest, durably: the next start makes the map again.
pub fn remove(disk: &dyn Disk, dir: &Path) -> Result<(), IndexError> {
    remove_if_there(disk, &dir.join(NAME))?;
    disk.sync_dir(dir).at(dir)
}

/// Removes a file, if there is one.
pub fn remove_if_there(disk: &dyn Disk, path: &Path) -> Result<(), IndexError> {
    match disk.remove(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.at(path),
    }
}

fn decode(text: &[u8]) -> Option<Vec<RunFacts>> {
    let mut reader = Reader(text);
    let mut runs = Vec::new();
    for _ in 0..reader.number()? {
        runs.push(RunFacts {
            id: reader.array()?,
            level: reader.array::<1>()?[0],
            rows: reader.number()?,
            bytes: reader.number()?,
            footer_at: reader.number()?,
            footer_bytes: reader.number()?,
        });
    }
    reader.is_at_end().then_some(runs)
}
