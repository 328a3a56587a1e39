//! Rows of a file or of standard input, read on their own thread, each with the place after it. The
//! formats parse the rows.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Seek, SeekFrom},
    path::Path,
    thread,
};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::{
    cli::error::CliError,
    proto::{ImportReject, ImportRow},
};

/// Maximum number of rows that are read ahead.
const AHEAD_MAX: usize = 1_024;

/// Maximum length of a row, in bytes.
pub(super) const ROW_BYTES_MAX: usize = 1024 * 1024;

/// A place in the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Place {
    /// Offset in bytes.
    pub offset: u64,
    /// Line, counted from 1.
    pub line: u64,
}

impl Place {
    /// The beginning of an input.
    pub(super) const START: Self = Self { offset: 0, line: 1 };

    /// Advances past some bytes.
    pub(super) fn pass(&mut self, bytes: &[u8]) {
        let ends = bytes.iter().filter(|byte| **byte == b'\n').count();
        self.offset += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.line += u64::try_from(ends).unwrap_or(u64::MAX);
    }
}

/// One row.
#[derive(Debug)]
pub(super) struct Item {
    /// The row, or why it is rejected.
    pub row: Result<ImportRow, ImportReject>,
    /// The place after it.
    pub end: Place,
}

/// The bytes of an input.
pub(super) type Source = Box<dyn BufRead + Send>;

/// The rows that a format reads.
pub(super) type Rows = Box<dyn Iterator<Item = Result<Item, CliError>> + Send>;

/// Whether a path means standard input.
pub(super) fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

/// Opens a file at a place, or standard input.
pub(super) fn open(path: &Path, place: Place) -> Result<Source, CliError> {
    if is_stdin(path) {
        return Ok(Box::new(BufReader::new(io::stdin())));
    }
    let failed = |error| CliError::file(path, error);
    let mut file = File::open(path).map_err(failed)?;
    // A named pipe can not seek.
    if place != Place::START {
        file.seek(SeekFrom::Start(place.offset)).map_err(failed)?;
    }
    Ok(Box::new(BufReader::with_capacity(64 * 1024, file)))
}

/// A read error at a place.
pub(super) fn failed(place: Place, error: io::Error) -> CliError {
    CliError::io(format!("line {} of the input", place.line), error)
}

/// Reads rows on another thread. The thread is not joined: it may wait for a terminal forever.
pub(super) fn read_ahead(rows: Rows) -> mpsc::Receiver<Result<Item, CliError>> {
    let (sender, receiver) = mpsc::channel(AHEAD_MAX);
    thread::spawn(move || {
        for item in rows {
            let is_last = item.is_err();
            if sender.blocking_send(item).is_err() || is_last {
                return;
            }
        }
    });
    receiver
}
