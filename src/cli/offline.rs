//! Reads a data directory with no server and no keys, also while a server runs on it.

use std::{
    collections::BTreeMap, convert::Infallible, fs, io, io::BufReader, ops::ControlFlow, path::Path,
};

use serde::Serialize;

use super::{checkpoint, error::CliError, serve, trust::Trust, words::Bytes};
use crate::{
    config::parse_kek,
    ledger::{
        self, ENTRY_BYTES_MAX,
        verify::{self, Audited, Good, TakeHash, VerifyError, Wanted},
    },
    node::KEK_FILE,
    storage::{self, LogError, disk::RealDisk, scan},
    tlog::{
        checkpoint::SignedCheckpoint,
        merkle::{Hash, prove_inclusion},
        policy::Policy,
        proof::TlogProof,
        tile,
    },
    tree::{Book, BookError},
    vault::{Kek, People},
};

/// Callback for an entry: its index and exact bytes.
type TakeEntry<'a> = dyn FnMut(u64, &[u8]) -> Result<(), CliError> + 'a;

/// Progress in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// Bytes done.
    pub bytes: u64,
    /// Bytes to do in all.
    pub bytes_total: u64,
}

/// Calls `each` for the entries from `start` to before `end`, in order, and verifies them. Answers the
/// number of entries up to the end of the range or of the ledger.
///
/// # Errors
/// There is no ledger, `each` failed, or the ledger is damaged; `each` gets the entries before the
/// damage.
pub fn entries_from_dir(
    dir: &Path,
    start: u64,
    end: Option<u64>,
    each: &mut TakeEntry<'_>,
) -> Result<u64, CliError> {
    require_ledger(dir)?;
    let end = end.unwrap_or(u64::MAX);
    let mut failed = None;
    let dir = dir.join(ledger::DIR);
    let read = verify::verify_before(&RealDisk, &dir, end, &mut |entry, frame| {
        if (start..end).contains(&entry.index)
            && let Err(error) = each(entry.index, frame.payload)
        {
            failed = Some(error);
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    let reached = read.map_err(|error| verify_error(&error))?;
    failed.map_or(Ok(reached), Err)
}

/// Result of verifying the files of a data directory, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verified {
    /// Whether no entry is damaged.
    pub intact: bool,
    /// Number of entries before the first damage.
    pub entries: u64,
    /// Number of bytes that were read.
    pub bytes: u64,
    /// Chain hash of the last of these entries.
    pub chain_hash: Option<Bytes>,
    /// An unfinished write after the last complete entry. Not damage.
    pub torn_tail: Option<TornTail>,
    /// The first damage.
    pub damage: Option<Damage>,
}

impl Verified {
    /// An entry that the ledger has not written, though it continues the chain.
    pub fn forged(&mut self, entry: Damage) {
        (self.intact, self.entries, self.chain_hash) = (false, entry.index, None);
        self.damage = Some(entry);
    }
}

/// An unfinished write, in progress or interrupted by a crash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TornTail {
    /// Name of the segment file.
    pub segment: String,
    /// Offset at which it begins, in bytes.
    pub offset: u64,
    /// Its length, in bytes.
    pub bytes: u64,
}

impl From<storage::TornTail> for TornTail {
    fn from(torn: storage::TornTail) -> Self {
        let storage::TornTail { segment, offset, bytes, .. } = torn;
        Self { segment, offset, bytes }
    }
}

/// Damage in a ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// Name of the segment file.
    pub segment: String,
    /// Offset in it, in bytes.
    pub offset: u64,
    /// Index of the damaged or missing entry.
    pub index: u64,
    /// What is wrong.
    pub what: String,
}

/// The verified files of a data directory.
pub struct Files {
    /// Result of the verification.
    pub verified: Verified,
    /// The entries before the first damage.
    pub good: Good,
}

impl Files {
    /// An empty ledger.
    pub fn none() -> Self {
        let verified = Verified {
            intact: true,
            entries: 0,
            bytes: 0,
            chain_hash: None,
            torn_tail: None,
            damage: None,
        };
        Self { verified, good: Good::none() }
    }
}

/// Outputs of an audit.
#[derive(Default)]
pub struct Asked<'a> {
    /// Sizes at which the root of the tree is wanted.
    pub roots_at: &'a [u64],
    /// Takes the hashes of the tree.
    pub hashes: Option<&'a mut TakeHash<'a>>,
}

/// The data subjects and keys of the vault in `dir`, opened with the key-encryption key of the given file; else
/// with that of the environment, or of the file `kek` beside the folder.
///
/// # Errors
/// The vault can not be read or opened.
pub fn people(dir: &Path, kek_file: Option<&Path>) -> Result<People, CliError> {
    let of_file = |path: &Path| Kek::from_file(path).map_err(CliError::failed);
    let kek = match (kek_file, serve::kek_in_environment()) {
        (Some(path), _) => of_file(path)?,
        (None, Some(text)) => parse_kek(&text).map_err(CliError::usage)?,
        (None, None) => of_file(&dir.with_file_name(KEK_FILE))?,
    };
    People::read(&RealDisk, dir, &kek).map_err(CliError::failed)
}

/// Verifies checksums, chain and order of the whole ledger, and computes the roots of its Merkle
/// tree. None if the directory exists and holds no entry.
///
/// # Errors
/// The directory does not exist, or the ledger can not be read. Damage is a result, not an error.
pub fn audit_dir(
    dir: &Path,
    asked: Asked<'_>,
    progress: &mut dyn FnMut(Step),
) -> Result<Option<Files>, CliError> {
    if !holds_files(dir)? {
        return Ok(None);
    }
    let ledger = dir.join(ledger::DIR);
    let bytes_total = bytes_in(&ledger)?;
    let mut report = |bytes| progress(Step { bytes, bytes_total });
    let Asked { roots_at, hashes } = asked;
    // The cast shortens the lifetime of the reference to that of the others.
    let hashes = hashes.map(|take| take as &mut TakeHash<'_>);
    let wanted = Wanted { roots_at, hashes, progress: Some(&mut report) };
    files(verify::audit(&RealDisk, &ledger, wanted))
}

/// As [`audit_dir`], for a file of `export --raw` that begins with entry 0.
///
/// # Errors
/// The file can not be read, or begins with another entry. Damage is a result, not an error.
pub fn audit_raw(
    path: &Path,
    roots_at: &[u64],
    progress: &mut dyn FnMut(Step),
) -> Result<Option<Files>, CliError> {
    let failed = |error| CliError::file(path, error).into_usage();
    let file = fs::File::open(path).map_err(failed)?;
    let bytes_total = file.metadata().map_err(failed)?.len();
    let mut report = |bytes| progress(Step { bytes, bytes_total });
    let wanted = Wanted { roots_at, progress: Some(&mut report), ..Wanted::default() };
    let mut source = BufReader::with_capacity(256 * 1024, file);
    let name = path.display().to_string();
    files(verify::audit_bundle(&mut source, &name, wanted).map_err(failed)?)
}

/// The outcome of an audit; none if there is no entry.
fn files(audited: Audited) -> Result<Option<Files>, CliError> {
    let Audited { good, result } = audited;
    let verified = match result {
        Ok(report) => Verified {
            intact: true,
            entries: report.entries,
            bytes: report.bytes,
            chain_hash: Some(Bytes(report.chain_hash.to_vec())),
            torn_tail: report.torn.map(TornTail::from),
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
        // A segment of another ledger is damage too.
        Err(VerifyError::Log(LogError::Foreign { path, problem })) => {
            let segment = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let index = good.tip.next_index;
            before(&good, Damage { segment, offset: 0, index, what: problem })
        }
        Err(VerifyError::NoLedger(_)) => return Ok(None),
        Err(error @ VerifyError::Beginning { .. }) => {
            return Err(CliError::usage(error).with_hint(
                "export it with --start 0: whether an entry is the ledger's follows from all before it",
            ));
        }
        Err(error) => return Err(verify_error(&error)),
    };
    Ok(Some(Files { verified, good }))
}

/// The entries before the first damage.
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

/// The latest checkpoint in a data directory: the released one, or else the signed one. It is verified
/// if there are keys.
///
/// # Errors
/// The directory holds no checkpoint, its file can not be read, or the checkpoint is not trusted.
pub fn latest_checkpoint(dir: &Path, trust: Option<&Trust>) -> Result<SignedCheckpoint, CliError> {
    let book = book(dir)?.map_err(CliError::failed)?;
    match book.and_then(|book| book.released.or(book.signed)) {
        Some(latest) => checkpoint::open(&latest.text, trust),
        None => Err(CliError::usage(format!("{}: it holds no checkpoint", dir.display()))
            .with_hint("give one with --checkpoint")),
    }
}

/// The book of checkpoints of a data directory, read as a server reads it; none if there is no such
/// file. The inner error is a finding about the file.
///
/// # Errors
/// The file can not be read.
pub fn book(dir: &Path) -> Result<Result<Option<Book>, String>, CliError> {
    match Book::read(&RealDisk, dir, &Policy::none()) {
        Ok(book) => Ok(Ok(book)),
        Err(error @ BookError::Malformed { .. }) => Ok(Err(error.to_string())),
        Err(BookError::File(error)) => Err(CliError::failed(error)),
    }
}

/// Makes the proof that an entry is under a checkpoint, and verifies the ledger.
///
/// # Errors
/// The entry is not under the checkpoint, the ledger is damaged, or the checkpoint is of another
/// ledger.
pub fn prove_in_dir(
    dir: &Path,
    index: u64,
    checkpoint: SignedCheckpoint,
    progress: &mut dyn FnMut(Step),
) -> Result<TlogProof, CliError> {
    let size = checkpoint.checkpoint.size;
    if index >= size {
        return Err(CliError::usage(format!(
            "--index {index} is not under the checkpoint, which has {size} entries"
        )));
    }
    // The hashes in tiles from which the path is computed; their values come from the audit.
    let mut hashes = BTreeMap::new();
    let Ok(_) = prove_inclusion(index, size, |height, number| {
        hashes.extend(tile_hashes(height, number).map(|place| (place, Hash::default())));
        Ok::<_, Infallible>(Hash::default())
    });
    let mut take = |level, number, hash: &Hash| {
        if let Some(value) = hashes.get_mut(&(level, number)) {
            *value = *hash;
        }
    };
    let asked = Asked { roots_at: &[size], hashes: Some(&mut take) };
    let files = audit_dir(dir, asked, progress)?;
    let Files { verified, good } = files.ok_or_else(|| no_ledger(dir))?;
    if let Some(Damage { segment, offset, index, what }) = verified.damage {
        return Err(CliError::failed(format!(
            "segment {segment} is damaged at byte {offset}, index {index}: {what}"
        )));
    }
    if good.roots.get(&size) != Some(&checkpoint.checkpoint.root) {
        return Err(CliError::failed("the checkpoint is of another ledger: nothing can be proven")
            .with_hint("`consent-ledger verify --checkpoint` shows the difference"));
    }
    let Ok(path) = prove_inclusion(index, size, |height, number| {
        let row = tile_hashes(height, number).filter_map(|place| hashes.get(&place));
        let row: Vec<u8> = row.flatten().copied().collect();
        Ok::<_, Infallible>(tile::root_of(&row).unwrap_or_default())
    });
    Ok(TlogProof { extra: Some(entry_in_dir(dir, index)?), index, path, checkpoint })
}

/// Level and number of the stored hashes from which a hash of the tree is computed.
fn tile_hashes(height: u32, number: u64) -> impl Iterator<Item = (u8, u64)> {
    let at = tile::locate(height, number);
    let start = at.tile * tile::TILE_WIDTH + at.first as u64;
    (start..start + at.count as u64).map(move |number| (at.level, number))
}

/// The exact bytes of an entry of a verified ledger.
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
        Err(error) => CliError::failed(error),
        Ok(end) => CliError::failed(format!("the ledger has {} entries", end.frames)),
    })
}

fn bytes_in(dir: &Path) -> Result<u64, CliError> {
    let failed = |error| CliError::file(dir, error);
    let mut bytes = 0;
    for file in fs::read_dir(dir).map_err(failed)? {
        bytes += file.and_then(|file| file.metadata()).map_err(failed)?.len();
    }
    Ok(bytes)
}

fn verify_error(error: &VerifyError) -> CliError {
    match error {
        VerifyError::NoLedger(_) | VerifyError::Beginning { .. } => CliError::usage(error),
        VerifyError::Log(_) => CliError::failed(error),
    }
}

/// Checks that a directory holds a ledger.
///
/// # Errors
/// It does not, which is wrong usage: exit code 1 would mean damage.
pub fn require_ledger(dir: &Path) -> Result<(), CliError> {
    if holds_files(dir)? { Ok(()) } else { Err(no_ledger(dir)) }
}

/// Whether a directory holds any file of a ledger.
fn holds_files(dir: &Path) -> Result<bool, CliError> {
    match fs::read_dir(dir.join(ledger::DIR)).map(|mut files| files.next()) {
        Ok(first) => Ok(first.is_some()),
        Err(error) if error.kind() == io::ErrorKind::NotFound && dir.is_dir() => Ok(false),
        Err(error) => Err(unusable(dir, &error.to_string())),
    }
}

/// The error for a directory without a ledger.
pub fn no_ledger(dir: &Path) -> CliError {
    unusable(dir, "it holds no ledger")
}

fn unusable(dir: &Path, problem: &str) -> CliError {
    CliError::usage(format!("{}: {problem}", dir.display()))
        .with_hint("name the directory that `consent-ledger serve --data-dir` uses")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_directory_or_an_empty_one_is_wrong_usage() {
        let dir = tempfile::tempdir().unwrap();
        for path in [dir.path().join("absent"), dir.path().to_owned()] {
            let error = require_ledger(&path).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{error}");
        }
    }
}
