//! The decisions that the node answers.

use tonic::{Streaming, transport::Channel};

use crate::{
    cli::error::CliError,
    proto::{
        ListDecisionsRequest, ListDecisionsResponse, audit_service_client::AuditServiceClient,
    },
};

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
