//! Lines of a file or of standard input, read on a thread of their own, in any encoding that a file says.

use std::{fs, path::Path, thread};

use encoding_rs::Encoding;
use tokio::sync::mpsc;

use crate::cli::{
    error::CliError,
    import::{
        input::{self, Place, ROW_BYTES_MAX},
        lines::Lines,
    },
};

/// Lines that are read ahead.
const AHEAD_MAX: usize = 1_024;

/// One line.
pub(in crate::cli) struct Line {
    /// Number, counted from 1.
    pub number: u64,
    /// Offset of its end in the input, as UTF-8.
    pub end: u64,
    /// The bytes, without the end of the line.
    pub bytes: Vec<u8>,
}

/// A source of lines.
pub(in crate::cli) struct Input {
    lines: mpsc::Receiver<Result<Line, CliError>>,
    /// Length of the whole input, where that is known.
    pub bytes: Option<u64>,
}

impl Input {
    /// Opens a file, or standard input for `-`. Without a given encoding, it is detected.
    pub(in crate::cli) fn open(
        path: &Path,
        encoding: Option<&'static Encoding>,
    ) -> Result<Self, CliError> {
        let source = input::open(path, encoding, Place::START)?;
        let metadata = fs::metadata(path).ok().filter(|_| !input::is_stdin(path));
        let bytes = metadata.filter(fs::Metadata::is_file).map(|metadata| metadata.len());
        Ok(Self::read(Lines::new(source, Place::START), bytes))
    }

    /// Reads on a detached thread: a read from a terminal may block for ever.
    fn read(mut lines: Lines, bytes: Option<u64>) -> Self {
        let (send, receiver) = mpsc::channel(AHEAD_MAX);
        thread::spawn(move || {
            while let Some(line) = read_line(&mut lines).transpose() {
                let is_last = line.is_err();
                if send.blocking_send(line).is_err() || is_last {
                    return;
                }
            }
        });
        Self { lines: receiver, bytes }
    }

    /// The next line. Cancel-safe.
    pub(in crate::cli) async fn next(&mut self) -> Option<Result<Line, CliError>> {
        self.lines.recv().await
    }
}

fn read_line(lines: &mut Lines) -> Result<Option<Line>, CliError> {
    let start = lines.place();
    let Some(line) = lines.next().map_err(|error| input::failed(start, error))? else {
        return Ok(None);
    };
    let number = line.start.line;
    if line.is_cut {
        let message = format!("line {number} of the input is longer than {ROW_BYTES_MAX} bytes");
        return Err(CliError::failed(message));
    }
    Ok(Some(Line { number, end: lines.place().offset, bytes: line.bytes }))
}
