//! Lines of a file or of standard input, read on a thread of their own.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::Path,
    thread,
};

use tokio::sync::mpsc;

use crate::cli::error::CliError;

/// Lines that are read ahead.
const AHEAD_MAX: usize = 1_024;

/// One line.
pub(in crate::cli) struct Line {
    /// Number, counted from 1.
    pub number: u64,
    /// Length with its end, in bytes.
    pub bytes: u64,
    /// Text.
    pub text: String,
}

/// A source of lines.
pub(in crate::cli) struct Input {
    lines: mpsc::Receiver<Result<Line, CliError>>,
    /// Length of the whole input, where that is known.
    pub bytes: Option<u64>,
}

impl Input {
    /// Opens a file, or standard input for `-`.
    pub(in crate::cli) fn open(path: &Path) -> Result<Self, CliError> {
        if path == Path::new("-") {
            return Ok(Self::read(BufReader::new(io::stdin()), None));
        }
        let file = File::open(path).map_err(|error| CliError::file(path, error))?;
        let metadata = file.metadata().map_err(|error| CliError::file(path, error))?;
        Ok(Self::read(BufReader::new(file), metadata.is_file().then_some(metadata.len())))
    }

    /// Reads on a detached thread: a read from a terminal may block for ever.
    fn read(mut from: impl BufRead + Send + 'static, bytes: Option<u64>) -> Self {
        let (send, lines) = mpsc::channel(AHEAD_MAX);
        thread::spawn(move || {
            for number in 1.. {
                let Some(line) = read_line(&mut from, number).transpose() else { return };
                let last = line.is_err();
                if send.blocking_send(line).is_err() || last {
                    return;
                }
            }
        });
        Self { lines, bytes }
    }

    /// The next line. Cancel-safe.
    pub(in crate::cli) async fn next(&mut self) -> Option<Result<Line, CliError>> {
        self.lines.recv().await
    }
}

fn read_line(from: &mut impl BufRead, number: u64) -> Result<Option<Line>, CliError> {
    let mut text = String::new();
    let bytes = from
        .read_line(&mut text)
        .map_err(|error| CliError::io(format!("line {number} of the input"), error))?;
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
    Ok((bytes > 0).then_some(Line { number, bytes, text }))
}
