//! Rows of a file or of standard input, read on their own thread, each with the place after it. The
//! formats parse the rows.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read as _, Seek as _, SeekFrom},
    path::Path,
    thread,
};

use encoding_rs::{Encoding, UTF_8};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::{doubt::Guard, encoding};
use crate::{
    cli::error::CliError,
    proto::{ImportReject, ImportRow, ImportWarning},
};

/// Maximum number of rows that are read ahead.
const AHEAD_MAX: usize = 1_024;

/// Maximum length of a row, in bytes.
pub(in crate::cli) const ROW_BYTES_MAX: usize = 1024 * 1024;

/// A place in the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::cli) struct Place {
    /// Offset in bytes.
    pub offset: u64,
    /// Line, counted from 1.
    pub line: u64,
    /// Whether rows from here on are in doubt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<Guard>,
}

impl Place {
    /// The beginning of an input.
    pub(in crate::cli) const START: Self = Self { offset: 0, line: 1, guard: None };

    /// Advances past some bytes, which do not end within a CRLF.
    pub(super) fn pass(&mut self, bytes: &[u8]) {
        self.offset += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.line += line_ends(bytes);
    }
}

/// Number of line ends: LF, CRLF or CR.
pub(super) fn line_ends(bytes: &[u8]) -> u64 {
    let is_end = |(at, byte): (usize, &u8)| match byte {
        b'\n' => true,
        b'\r' => bytes.get(at + 1) != Some(&b'\n'),
        _ => false,
    };
    let ends = bytes.iter().enumerate().filter(|it| is_end(*it)).count();
    u64::try_from(ends).unwrap_or(u64::MAX)
}

/// What a row of the input comes to.
#[derive(Debug, Default)]
pub(super) struct Compiled {
    /// What is sent: one row; two if its stops and its grants took effect at different moments; none if it
    /// is rejected.
    pub rows: Vec<ImportRow>,
    /// Why the row, or a field of it, is rejected.
    pub rejects: Vec<ImportReject>,
    /// What is wrong beside the stops of the row.
    pub warnings: Vec<ImportWarning>,
}

impl Compiled {
    /// Together with the rows of another reading of the same lines.
    pub(super) fn with_rows_of(mut self, other: Self) -> Self {
        let news =
            other.rows.into_iter().filter(|row| !self.rows.contains(row)).collect::<Vec<_>>();
        self.rows.extend(news);
        self
    }
}

impl From<ImportRow> for Compiled {
    fn from(row: ImportRow) -> Self {
        Self { rows: vec![row], ..Self::default() }
    }
}

impl From<ImportReject> for Compiled {
    fn from(reject: ImportReject) -> Self {
        Self { rejects: vec![reject], ..Self::default() }
    }
}

/// One row of the input.
#[derive(Debug)]
pub(super) struct Item {
    /// What it comes to.
    pub compiled: Compiled,
    /// The place after it.
    pub end: Place,
}

/// The bytes of an input.
pub(in crate::cli) type Source = Box<dyn BufRead + Send>;

/// The rows that a format reads.
pub(super) type Rows = Box<dyn Iterator<Item = Result<Item, CliError>> + Send>;

/// Whether a path means standard input.
pub(in crate::cli) fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

/// Opens a file at a place, or standard input, as UTF-8. Without a given encoding, it is detected. Offsets
/// of places are those in UTF-8.
pub(in crate::cli) fn open(
    path: &Path,
    encoding: Option<&'static Encoding>,
    place: Place,
) -> Result<Source, CliError> {
    let failed = |error| CliError::file(path, error);
    if is_stdin(path) {
        let mut source = BufReader::new(io::stdin());
        let encoding = match encoding {
            Some(encoding) => encoding,
            None => encoding::detect(source.fill_buf().map_err(failed)?),
        };
        return Ok(encoding::decoded(Box::new(source), encoding));
    }
    let file = File::open(path).map_err(failed)?;
    let mut source = BufReader::with_capacity(64 * 1024, file);
    let encoding = match encoding {
        Some(encoding) => encoding,
        None => encoding::detect(source.fill_buf().map_err(failed)?),
    };
    // A named pipe can not seek.
    if place == Place::START {
        return Ok(encoding::decoded(Box::new(source), encoding));
    }
    if encoding == UTF_8 {
        source.seek(SeekFrom::Start(place.offset)).map_err(failed)?;
        return Ok(Box::new(source));
    }
    let mut source = encoding::decoded(Box::new(source), encoding);
    io::copy(&mut source.by_ref().take(place.offset), &mut io::sink()).map_err(failed)?;
    Ok(source)
}

/// A read error at a place.
pub(in crate::cli) fn failed(place: Place, error: io::Error) -> CliError {
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
