//! Rows of a file or of standard input, read on a thread of their own, each with the place after
//! it. What a row says is left to the formats.

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

/// Rows that are read ahead.
const AHEAD_MAX: usize = 1_024;

/// The longest row, in bytes.
pub(super) const ROW_BYTES_MAX: usize = 1024 * 1024;

/// A place in the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Place {
    /// Bytes before it.
    pub offset: u64,
    /// Line that it is on, counted from 1.
    pub line: u64,
}

impl Place {
    /// Where every input begins.
    pub(super) const START: Self = Self { offset: 0, line: 1 };

    /// Goes past some bytes.
    pub(super) fn pass(&mut self, bytes: &[u8]) {
        let ends = bytes.iter().filter(|byte| **byte == b'\n').count();
        self.offset += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.line += u64::try_from(ends).unwrap_or(u64::MAX);
    }
}

/// One row.
#[derive(Debug)]
pub(super) struct Item {
    /// The row, or why it is none.
    pub row: Result<ImportRow, ImportReject>,
    /// The place after it.
    pub end: Place,
}

/// Bytes to read rows from.
pub(super) type Source = Box<dyn BufRead + Send>;

/// Rows as a format reads them.
pub(super) type Rows = Box<dyn Iterator<Item = Result<Item, CliError>> + Send>;

/// Whether a path stands for standard input.
pub(super) fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

/// Opens a file at a place, or standard input.
pub(super) fn open(path: &Path, at: Place) -> Result<Source, CliError> {
    if is_stdin(path) {
        return Ok(Box::new(BufReader::new(io::stdin())));
    }
    let failed = |error| CliError::file(path, error);
    let mut file = File::open(path).map_err(failed)?;
    // A pipe with a name has no places.
    if at != Place::START {
        file.seek(SeekFrom::Start(at.offset)).map_err(failed)?;
    }
    Ok(Box::new(BufReader::with_capacity(64 * 1024, file)))
}

/// An error of reading.
pub(super) fn failed(at: Place, error: io::Error) -> CliError {
    CliError::io(format!("line {} of the input", at.line), error)
}

/// Rows that come from a thread.
pub(super) struct Input(mpsc::Receiver<Result<Item, CliError>>);

impl Input {
    /// Reads on a thread that nobody waits for: it may stand still on a terminal for ever.
    pub(super) fn read(rows: Rows) -> Self {
        let (send, receive) = mpsc::channel(AHEAD_MAX);
        thread::spawn(move || {
            for item in rows {
                let last = item.is_err();
                if send.blocking_send(item).is_err() || last {
                    return;
                }
            }
        });
        Self(receive)
    }

    /// The next row. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Result<Item, CliError>> {
        self.0.recv().await
    }
}
