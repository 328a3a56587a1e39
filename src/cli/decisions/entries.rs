//! Where entries and answers come from.

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

/// The greatest number of entries of a directory that wait to be looked at.
const ENTRIES_AHEAD_MAX: usize = 1_024;

/// The bytes of the first entries, in order.
#[derive(Debug)]
pub enum Entries {
    /// As a server gives them out.
    Server(Box<Streaming<ListEntriesResponse>>),
    /// As they lie in a directory.
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
                // Whoever listened has failed, and said why.
                let gone = |_| CliError::failed("nobody takes the entries");
                sender.blocking_send(Ok(bytes.to_vec())).map_err(gone)
            });
            if let Err(error) = read {
                let _ = sender.blocking_send(Err(error));
            }
        });
        Self::Directory(entries)
    }

    /// The next entry. A list that ends early is an error: a part is not the whole.
    ///
    /// # Errors
    /// The entry can not be had.
    pub async fn next(&mut self, index: u64) -> Result<Vec<u8>, CliError> {
        let bytes = match self {
            Self::Server(entries) => entries.message().await?.map(|message| message.entry),
            Self::Directory(entries) => entries.recv().await.transpose()?,
        };
        bytes.ok_or_else(|| CliError::failed(format!("there is no entry {index}")))
    }
}

/// What the node answers, in its order.
#[derive(Debug)]
pub struct Answered {
    answers: Streaming<ListDecisionsResponse>,
    next: Option<ListDecisionsResponse>,
    has_ended: bool,
}

impl Answered {
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

    /// The next answer, which stays the next until it is taken.
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

    /// Takes the next answer away.
    pub fn take(&mut self) {
        self.next = None;
    }
}
