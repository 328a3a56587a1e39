//! The sources of entries and answers.

use std::path::PathBuf;

use tokio::sync::mpsc;
use tonic::{Streaming, transport::Channel};

use crate::{
    cli::{error::CliError, offline},
    proto::{
        ListDecisionsRequest, ListDecisionsResponse, ListEntriesRequest, ListEntriesResponse,
        audit_service_client::AuditServiceClient,
    },
};

/// Maximum number of entries that are read ahead from a directory.
const ENTRIES_AHEAD_MAX: usize = 1_024;

/// The bytes of the first entries, in order.
#[derive(Debug)]
pub enum Entries {
    /// From a server.
    Server(Box<Streaming<ListEntriesResponse>>),
    /// From a directory.
    Directory(mpsc::Receiver<Result<Vec<u8>, CliError>>),
}

impl Entries {
    /// Asks a server for the entries before `end`.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn from_server(
        mut client: AuditServiceClient<Channel>,
        end: u64,
    ) -> Result<Self, CliError> {
        let request = ListEntriesRequest { start_index: 0, end_index: Some(end) };
        Ok(Self::Server(Box::new(client.list_entries(request).await?.into_inner())))
    }

    /// Reads the entries before `end` from a directory, on a thread of its own.
    #[must_use]
    pub fn from_dir(dir: PathBuf, end: u64) -> Self {
        let (sender, entries) = mpsc::channel(ENTRIES_AHEAD_MAX);
        tokio::task::spawn_blocking(move || {
            let read = offline::entries_from_dir(&dir, 0, Some(end), &mut |_, bytes| {
                // The receiver is dropped after an error, which is reported there.
                let stopped = |_| CliError::failed("the audit has stopped");
                sender.blocking_send(Ok(bytes.to_vec())).map_err(stopped)
            });
            if let Err(error) = read {
                let _ = sender.blocking_send(Err(error));
            }
        });
        Self::Directory(entries)
    }

    /// The next entry. It is an error if there is none: all entries are needed.
    ///
    /// # Errors
    /// The entry is missing or can not be read.
    pub async fn next(&mut self, index: u64) -> Result<Vec<u8>, CliError> {
        let bytes = match self {
            Self::Server(entries) => entries.message().await?.map(|message| message.entry),
            Self::Directory(entries) => entries.recv().await.transpose()?,
        };
        bytes.ok_or_else(|| CliError::failed(format!("there is no entry {index}")))
    }
}

/// The node's answers, in its order.
#[derive(Debug)]
pub struct Answers {
    answers: Streaming<ListDecisionsResponse>,
    next: Option<ListDecisionsResponse>,
    has_ended: bool,
}

impl Answers {
    /// Asks a server for its decisions.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn from_server(
        mut client: AuditServiceClient<Channel>,
        start: u64,
        end: u64,
    ) -> Result<Self, CliError> {
        let request = ListDecisionsRequest { start_index: start, end_index: Some(end) };
        let answers = client.list_decisions(request).await?.into_inner();
        Ok(Self { answers, next: None, has_ended: false })
    }

    /// The next answer, without taking it.
    ///
    /// # Errors
    /// The server ended with an error.
    pub async fn peek(&mut self) -> Result<Option<&ListDecisionsResponse>, CliError> {
        if self.next.is_none() && !self.has_ended {
            self.next = self.answers.message().await?;
            self.has_ended = self.next.is_none();
        }
        Ok(self.next.as_ref())
    }

    /// Takes the next answer.
    pub fn take(&mut self) {
        self.next = None;
    }
}
