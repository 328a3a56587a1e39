//! A range of entries, from a server or from a data directory.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
};

use tokio::sync::mpsc;
use tonic::{Streaming, transport::Channel};

use super::{error::CliError, offline, published::Published};
use crate::{
    proto::{ListEntriesRequest, ListEntriesResponse, audit_service_client::AuditServiceClient},
    tlog::tile::TILE_WIDTH,
};

/// Maximum number of entries that are read ahead from a directory.
const ENTRIES_AHEAD_MAX: usize = 1_024;

/// The bytes of entries, in order.
#[derive(Debug)]
pub enum Entries {
    /// From a server.
    Server(Box<Streaming<ListEntriesResponse>>),
    /// Of a directory, or of what a server publishes.
    Read(mpsc::Receiver<Result<Vec<u8>, CliError>>),
    /// From a file of `export --raw` that begins with entry 0.
    Raw(PathBuf, BufReader<File>),
}

impl Entries {
    /// Requests the entries from `start` to before `end` from a server.
    ///
    /// # Errors
    /// The server returns an error.
    pub async fn from_server(
        mut client: AuditServiceClient<Channel>,
        start: u64,
        end: u64,
    ) -> Result<Self, CliError> {
        let request = ListEntriesRequest { start_index: start, end_index: Some(end) };
        Ok(Self::Server(Box::new(client.list_entries(request).await?.into_inner())))
    }

    /// Reads and verifies the entries from `start` to before `end` in a directory, on a thread of its
    /// own. `check` gets the number of entries up to the end of the range or of the ledger.
    #[must_use]
    pub fn from_dir(
        dir: PathBuf,
        start: u64,
        end: Option<u64>,
        check: impl Fn(u64) -> Result<(), CliError> + Send + 'static,
    ) -> Self {
        let (sender, entries) = mpsc::channel(ENTRIES_AHEAD_MAX);
        tokio::task::spawn_blocking(move || {
            let read = offline::entries_from_dir(&dir, start, end, &mut |_, bytes| {
                // The receiver is dropped after an error, which is reported there.
                let stopped = |_| CliError::failed("the entries are no longer needed");
                sender.blocking_send(Ok(bytes.to_vec())).map_err(stopped)
            });
            if let Err(error) = read.and_then(check) {
                let _ = sender.blocking_send(Err(error));
            }
        });
        Self::Read(entries)
    }

    /// Fetches the first `size` entries that a server publishes, on a task of its own. The caller verifies
    /// that they are those of a checkpoint.
    #[must_use]
    pub fn from_tiles(published: Published, size: u64) -> Self {
        let (sender, entries) = mpsc::channel(ENTRIES_AHEAD_MAX);
        tokio::spawn(async move {
            for number in 0..size.div_ceil(TILE_WIDTH) {
                let bundle = published.entries(number, size).await;
                let bundle = bundle.map_err(|error| {
                    CliError::failed(error.to_string()).with_hint(
                        "the URL is the part before /checkpoint; the server must have published the \
                         entries of the checkpoint",
                    )
                });
                let (entries, failed) = match bundle {
                    Ok(entries) => (entries, None),
                    Err(error) => (Vec::new(), Some(error)),
                };
                for entry in entries.into_iter().map(Ok).chain(failed.map(Err)) {
                    if sender.send(entry).await.is_err() {
                        return;
                    }
                }
            }
        });
        Self::Read(entries)
    }

    /// Reads the entries of a file of `export --raw`. The caller verifies that each continues the one before.
    ///
    /// # Errors
    /// The file can not be read.
    pub fn from_raw(path: &Path) -> Result<Self, CliError> {
        let file = File::open(path).map_err(|error| CliError::file(path, error).into_usage())?;
        Ok(Self::Raw(path.to_owned(), BufReader::new(file)))
    }

    /// The next entry; none at the end of the range or of the ledger.
    ///
    /// # Errors
    /// The entry can not be read.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, CliError> {
        match self {
            Self::Server(entries) => Ok(entries.message().await?.map(|message| message.entry)),
            Self::Read(entries) => entries.recv().await.transpose(),
            Self::Raw(path, file) => next_raw(file).map_err(|error| CliError::file(path, error)),
        }
    }
}

/// The next entry of a bundle; none at its end.
fn next_raw(file: &mut BufReader<File>) -> io::Result<Option<Vec<u8>>> {
    if file.fill_buf()?.is_empty() {
        return Ok(None);
    }
    let mut length = [0; 2];
    file.read_exact(&mut length)?;
    let mut entry = vec![0; u16::from_be_bytes(length).into()];
    file.read_exact(&mut entry)?;
    Ok(Some(entry))
}
