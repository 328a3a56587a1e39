//! Reading a data directory with no server and no keys, and beside a running server.

use std::{fs, io, ops::ControlFlow, path::Path, sync::Arc};

use super::{
    error::CliError,
    shapes::{Damage, Rebuilt, TornTail, Verified},
    words::hex,
};
use crate::{
    ledger::{
        self,
        verify::{self, Audit, Audited, Good, TakeHash, VerifyError, Wanted},
    },
    node::{self, Node, NodeConfig, OpenError, Progress},
    storage::{LogError, disk::RealDisk},
    telemetry::Metrics,
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

/// What the files of a data directory hold.
pub struct Files {
    /// Whether they are intact.
    pub verified: Verified,
    /// What is good of them, from the first entry on.
    pub good: Good,
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
    there_is(dir)?;
    let ledger = dir.join(ledger::DIR);
    let bytes_total = bytes_in(&ledger)?;
    let mut tell = |bytes| progress(Step { bytes, bytes_total });
    // The cast lets the reference live as shortly as the others.
    let hashes = hashes.map(|take| take as &mut TakeHash<'_>);
    let wanted = Wanted { roots_at, hashes, progress: Some(&mut tell) };
    let Audited { good, result } = verify::audit(&RealDisk, &ledger, wanted);
    let verified = match result {
        Ok(Audit { report, .. }) => Verified {
            intact: true,
            entries: report.entries,
            bytes: report.bytes,
            chain_hash: Some(hex(&report.chain_hash)),
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
                what: damage.what,
            },
        ),
        // A segment of another ledger among this one's is damage, too.
        Err(VerifyError::Log(LogError::Foreign { path, what })) => {
            let segment = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let index = good.tip.next_index;
            before(&good, Damage { segment, offset: 0, index, what })
        }
        Err(error) => return Err(cli_error(&error)),
    };
    Ok(Files { verified, good })
}

/// What was good before the first damage.
fn before(good: &Good, damage: Damage) -> Verified {
    let entries = good.tip.next_index;
    Verified {
        intact: false,
        entries,
        bytes: good.bytes,
        chain_hash: (entries > 0).then(|| hex(&good.tip.hash)),
        torn_tail: None,
        damage: Some(damage),
    }
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
    let failed = |error: OpenError| CliError::failed(error.to_string());
    node::discard_view(&config.data_dir).map_err(failed)?;
    let metrics = Arc::new(Metrics::default());
    let opened = Node::open_on(Arc::new(RealDisk), config, metrics, progress).map_err(failed)?;
    let rebuilt = Rebuilt { entries: opened.revision(), subjects: opened.subjects() };
    opened.close();
    Ok(rebuilt)
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
    let none = |what: &str| {
        CliError::usage(format!("{}: {what}", dir.display()))
            .with_hint("name the directory that `consent-ledger serve --data-dir` uses")
    };
    match fs::read_dir(dir.join(ledger::DIR)).map(|mut files| files.next()) {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(none("there is no ledger in it")),
        Err(error) if error.kind() == io::ErrorKind::NotFound && dir.is_dir() => {
            Err(none("there is no ledger in it"))
        }
        Err(error) => Err(none(&error.to_string())),
    }
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
