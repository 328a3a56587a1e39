//! Reading a data directory with no server and no keys, and beside a running server.

use std::{
    collections::BTreeMap, convert::Infallible, fs, io, ops::ControlFlow, path::Path, sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{error::CliError, words::Bytes};
use crate::{
    ledger::{
        self, ENTRY_BYTES_MAX,
        chain::Tip,
        verify::{self, Audited, Good, TakeHash, VerifyError, Wanted},
    },
    node::{self, NodeConfig, Progress},
    storage::{
        LogError,
        disk::{Disk, RealDisk},
        scan,
    },
    tlog::{
        checkpoint::SignedCheckpoint,
        merkle::{Hash, empty_root, prove_inclusion},
        proof::TlogProof,
        tile,
    },
    tree::BOOK_FILE,
};

/// Takes an entry, as index and exact bytes.
type TakeEntry<'a> = dyn FnMut(u64, &[u8]) -> Result<(), CliError> + 'a;

/// How far long work has come.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// Bytes done.
    pub bytes: u64,
    /// Bytes to do in all.
    pub bytes_total: u64,
}

/// Gives each entry from `start` on, before `end`, as index and exact bytes, in order. Verifies on
/// the way.
///
/// # Errors
/// There is no ledger, it is damaged (after the entries before the damage), or `each` failed.
pub fn entries_from_dir(
    dir: &Path,
    start: u64,
    end: Option<u64>,
    each: &mut TakeEntry<'_>,
) -> Result<(), CliError> {
    there_is(dir)?;
    let end = end.unwrap_or(u64::MAX);
    let mut failed = None;
    verify::verify_before(&RealDisk, &dir.join(ledger::DIR), end, &mut |entry, frame| {
        if (start..end).contains(&entry.index)
            && let Err(error) = each(entry.index, frame.payload)
        {
            failed = Some(error);
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })
    .map_err(|error| cli_error(&error))?;
    failed.map_or(Ok(()), Err)
}

/// Whether the files of a data directory are intact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verified {
    /// Whether every entry is as it was written.
    pub intact: bool,
    /// Number of entries that verify, from the first on.
    pub entries: u64,
    /// Number of bytes that were read.
    pub bytes: u64,
    /// Hash of the last of these entries.
    pub chain_hash: Option<Bytes>,
    /// An unfinished write after the last whole entry. Not damage.
    pub torn_tail: Option<TornTail>,
    /// The first damage.
    pub damage: Option<Damage>,
}

/// An unfinished write: under way, or cut short by a crash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TornTail {
    /// Name of the segment file.
    pub segment: String,
    /// Offset at which it begins, in bytes.
    pub offset: u64,
    /// Its length, in bytes.
    pub bytes: u64,
}

/// Damage of a ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// Name of the segment file.
    pub segment: String,
    /// Offset in it, in bytes.
    pub offset: u64,
    /// Index of the entry at fault, or of the one that should stand there.
    pub index: u64,
    /// What is wrong.
    pub what: String,
}

/// What the files of a data directory hold.
pub struct Files {
    /// Whether they are intact.
    pub verified: Verified,
    /// What is good of them, from the first entry on.
    pub good: Good,
}

impl Files {
    /// What there is where every entry is gone.
    pub fn none() -> Self {
        let verified = Verified {
            intact: true,
            entries: 0,
            bytes: 0,
            chain_hash: None,
            torn_tail: None,
            damage: None,
        };
        let root = empty_root();
        let roots = [(0, root)].into();
        let good = Good { tip: Tip::genesis(), bytes: 0, root, opened: None, roots };
        Self { verified, good }
    }
}

/// Verifies checksums, chain and order of the whole ledger, and computes the roots of the tree over
/// its entries at some sizes. `hashes` takes the hashes of that tree.
///
/// # Errors
/// There is no ledger, or it can not be read. Damage is not an error but a result.
pub fn verify_dir(
    dir: &Path,
    roots_at: &[u64],
    hashes: Option<&mut TakeHash<'_>>,
    progress: &mut dyn FnMut(Step),
) -> Result<Files, CliError> {
    audit_dir(dir, roots_at, hashes, progress)?.ok_or_else(|| no_ledger(dir))
}

/// As [`verify_dir`]; none if the directory is there and no entry is in it.
///
/// # Errors
/// There is no directory, or the ledger can not be read.
pub fn audit_dir(
    dir: &Path,
    roots_at: &[u64],
    hashes: Option<&mut TakeHash<'_>>,
    progress: &mut dyn FnMut(Step),
) -> Result<Option<Files>, CliError> {
    if !holds_files(dir)? {
        return Ok(None);
    }
    let ledger = dir.join(ledger::DIR);
    let bytes_total = bytes_in(&ledger)?;
    let mut tell = |bytes| progress(Step { bytes, bytes_total });
    // The cast lets the reference live as shortly as the others.
    let hashes = hashes.map(|take| take as &mut TakeHash<'_>);
    let wanted = Wanted { roots_at, hashes, progress: Some(&mut tell) };
    let Audited { good, result } = verify::audit(&RealDisk, &ledger, wanted);
    let verified = match result {
        Ok(report) => Verified {
            intact: true,
            entries: report.entries,
            bytes: report.bytes,
            chain_hash: Some(Bytes(report.chain_hash.to_vec())),
            torn_tail: report.torn.map(|torn| TornTail {
                segment: torn.segment,
                offset: torn.offset,
                bytes: torn.bytes,
            }),
            damage: None,
        },
        Err(VerifyError::Log(LogError::Damaged(damage))) => before(
            &good,
            Damage {
                segment: damage.segment,
                offset: damage.offset,
                index: damage.index,
                what: damage.problem,
            },
        ),
        // A segment of another ledger among this one's is damage, too.
        Err(VerifyError::Log(LogError::Foreign { path, problem })) => {
            let segment = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let index = good.tip.next_index;
            before(&good, Damage { segment, offset: 0, index, what: problem })
        }
        Err(VerifyError::NoLedger(_)) => return Ok(None),
        Err(error) => return Err(cli_error(&error)),
    };
    Ok(Some(Files { verified, good }))
}

/// What was good before the first damage.
fn before(good: &Good, damage: Damage) -> Verified {
    let entries = good.tip.next_index;
    Verified {
        intact: false,
        entries,
        bytes: good.bytes,
        chain_hash: (entries > 0).then(|| Bytes(good.tip.hash.to_vec())),
        torn_tail: None,
        damage: Some(damage),
    }
}

/// The text of the latest checkpoint that a data directory holds: the one that was released, else
/// the one that was signed.
///
/// # Errors
/// There is none.
pub fn latest_checkpoint(dir: &Path) -> Result<String, CliError> {
    let path = dir.join(BOOK_FILE);
    let none = || {
        CliError::usage(format!("{}: there is no checkpoint in it", dir.display()))
            .with_hint("give one with --checkpoint")
    };
    if !path.exists() {
        return Err(none());
    }
    let text = fs::read_to_string(&path).map_err(|error| CliError::file(&path, error))?;
    let file = CheckpointFile::parse(&text)
        .map_err(|error| CliError::failed(format!("{}: {error}", path.display())))?;
    file.released.or(file.signed).map(|own| own.note).ok_or_else(none)
}

/// Makes the proof that an entry is under a checkpoint. Verifies the ledger on the way.
///
/// # Errors
/// The entry is not under the checkpoint, or the ledger is damaged or not the one that was signed.
pub fn prove_in_dir(
    dir: &Path,
    index: u64,
    checkpoint: SignedCheckpoint,
    progress: &mut dyn FnMut(Step),
) -> Result<TlogProof, CliError> {
    let size = checkpoint.checkpoint.size;
    if index >= size {
        let what =
            format!("--index {index} is not under the checkpoint, which is of {size} entries");
        return Err(CliError::usage(what));
    }
    // The hashes of the tiles that the path is made of, until all are known none.
    let mut tiles = BTreeMap::new();
    let Ok(_) = prove_inclusion(index, size, |height, number| {
        let at = tile::locate(height, number);
        let start = at.tile * tile::TILE_WIDTH + at.first as u64;
        tiles.extend((start..start + at.count as u64).map(|n| ((at.level, n), Hash::default())));
        Ok::<_, Infallible>(Hash::default())
    });
    let mut take = |level, number, hash: &Hash| {
        if let Some(own) = tiles.get_mut(&(level, number)) {
            *own = *hash;
        }
    };
    let files = verify_dir(dir, &[size], Some(&mut take), progress)?;
    if let Some(damage) = files.verified.damage {
        let Damage { segment, offset, index, what } = damage;
        return Err(CliError::failed(format!(
            "segment {segment} is damaged at byte {offset}, index {index}: {what}"
        )));
    }
    if files.good.roots.get(&size) != Some(&checkpoint.checkpoint.root) {
        let what = "the ledger is not the one that the checkpoint is of: nothing can be proven";
        return Err(CliError::failed(what)
            .with_hint("`consent-ledger verify --checkpoint` says what differs"));
    }
    let Ok(path) = prove_inclusion(index, size, |height, number| {
        let at = tile::locate(height, number);
        let start = at.tile * tile::TILE_WIDTH + at.first as u64;
        let row = (start..start + at.count as u64).filter_map(|n| tiles.get(&(at.level, n)));
        let row: Vec<u8> = row.flatten().copied().collect();
        Ok::<_, Infallible>(tile::root_of(&row).unwrap_or_default())
    });
    Ok(TlogProof { extra: Some(entry_in_dir(dir, index)?), index, path, checkpoint })
}

/// The exact bytes of an entry, of a ledger that is verified.
fn entry_in_dir(dir: &Path, index: u64) -> Result<Vec<u8>, CliError> {
    let mut found = None;
    let frame_bytes_max = u32::try_from(ENTRY_BYTES_MAX).unwrap_or(u32::MAX);
    let dir = dir.join(ledger::DIR);
    let scanned = scan(&RealDisk, &dir, ledger::LOG_KIND, frame_bytes_max, index, &mut |frame| {
        if frame.index < index {
            return ControlFlow::Continue(());
        }
        found = Some(frame.payload.to_vec());
        ControlFlow::Break(String::new())
    });
    found.ok_or_else(|| match scanned {
        Err(error) => CliError::failed(error.to_string()),
        Ok(end) => CliError::failed(format!("the ledger has {} entries", end.frames)),
    })
}

/// The file in which a server keeps its own checkpoints.
#[derive(Debug, Deserialize)]
pub struct CheckpointFile {
    /// The one that was signed last.
    pub signed: Option<KeptNote>,
    /// The one that was released last.
    pub released: Option<KeptNote>,
}

/// A checkpoint in that file.
#[derive(Debug, Deserialize)]
pub struct KeptNote {
    /// Its text.
    pub note: String,
}

impl CheckpointFile {
    /// Takes the file's text.
    ///
    /// # Errors
    /// Not such a file.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }
}

/// A view that was built again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rebuilt {
    /// Number of entries that were read.
    pub entries: u64,
    /// Number of data subjects in the view.
    pub subjects: u64,
}

/// Deletes the view and builds it again.
///
/// # Errors
/// There is no ledger, it is damaged, or a server has the directory open.
pub fn rebuild_view_in_dir(
    config: &NodeConfig,
    progress: &mut dyn FnMut(Progress),
) -> Result<Rebuilt, CliError> {
    there_is(&config.data_dir)?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let rebuilt = node::rebuild_view(config, &disk, progress);
    let (entries, subjects) = rebuilt.map_err(|error| CliError::failed(error.to_string()))?;
    Ok(Rebuilt { entries, subjects })
}

fn bytes_in(dir: &Path) -> Result<u64, CliError> {
    let failed = |error| CliError::file(dir, error);
    let mut bytes = 0;
    for file in fs::read_dir(dir).map_err(failed)? {
        bytes += file.and_then(|file| file.metadata()).map_err(failed)?.len();
    }
    Ok(bytes)
}

fn cli_error(error: &VerifyError) -> CliError {
    match error {
        VerifyError::NoLedger(_) => CliError::usage(error.to_string()),
        VerifyError::Log(_) => CliError::failed(error.to_string()),
    }
}

/// Wrong usage must not be taken for damage: a directory that is not there is exit code 2.
fn there_is(dir: &Path) -> Result<(), CliError> {
    if holds_files(dir)? { Ok(()) } else { Err(no_ledger(dir)) }
}

/// Whether there is any file of a ledger.
fn holds_files(dir: &Path) -> Result<bool, CliError> {
    match fs::read_dir(dir.join(ledger::DIR)).map(|mut files| files.next()) {
        Ok(first) => Ok(first.is_some()),
        Err(error) if error.kind() == io::ErrorKind::NotFound && dir.is_dir() => Ok(false),
        Err(error) => Err(unusable(dir, &error.to_string())),
    }
}

/// What to say of a directory without a ledger.
pub fn no_ledger(dir: &Path) -> CliError {
    unusable(dir, "there is no ledger in it")
}

fn unusable(dir: &Path, what: &str) -> CliError {
    CliError::usage(format!("{}: {what}", dir.display()))
        .with_hint("name the directory that `consent-ledger serve --data-dir` uses")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_directory_or_an_empty_one_is_wrong_usage() {
        let dir = tempfile::tempdir().unwrap();
        for path in [dir.path().join("absent"), dir.path().to_owned()] {
            let error = verify_dir(&path, &[], None, &mut |_| {}).err().unwrap();
            assert_eq!(error.exit_code(), 2, "{error}");
        }
    }
}
