//! `consent.v1.AuditService`.

use std::{collections::VecDeque, pin::Pin, sync::Arc};

use futures_util::{Stream, stream};
use tonic::{Request, Response, Status};

use super::{blocking, convert, decisions};
use crate::{
    node::{Node, ReadError},
    proto::{self, audit_service_server::AuditService},
    status::Fault,
};

/// Gives out the ledger for verification.
#[derive(Debug)]
pub struct Audit {
    node: Arc<Node>,
}

impl Audit {
    /// The service over a node.
    #[must_use]
    pub fn new(node: Arc<Node>) -> Self {
        Self { node }
    }
}

#[tonic::async_trait]
impl AuditService for Audit {
    async fn get_checkpoint(
        &self,
        _request: Request<proto::GetCheckpointRequest>,
    ) -> Result<Response<proto::GetCheckpointResponse>, Status> {
        let node = Arc::clone(&self.node);
        let checkpoint = blocking(move || node.checkpoint()).await?;
        Ok(Response::new(proto::GetCheckpointResponse {
            origin: checkpoint.origin,
            ledger_id: checkpoint.ledger_id.to_vec(),
            size: checkpoint.size,
            chain_hash: checkpoint.chain_hash.to_vec(),
            recorded_at: Some(convert::timestamp(checkpoint.recorded_at)),
            ..proto::GetCheckpointResponse::default()
        }))
    }

    async fn get_inclusion_proof(
        &self,
        _request: Request<proto::GetInclusionProofRequest>,
    ) -> Result<Response<proto::GetInclusionProofResponse>, Status> {
        Err(Fault::Internal("TODO".to_owned()).into())
    }

    async fn get_consistency_proof(
        &self,
        _request: Request<proto::GetConsistencyProofRequest>,
    ) -> Result<Response<proto::GetConsistencyProofResponse>, Status> {
        Err(Fault::Internal("TODO".to_owned()).into())
    }

    async fn get_receipt(
        &self,
        _request: Request<proto::GetReceiptRequest>,
    ) -> Result<Response<proto::GetReceiptResponse>, Status> {
        Err(Fault::Internal("TODO".to_owned()).into())
    }

    type ListDecisionsStream = decisions::DecisionStream;

    async fn list_decisions(
        &self,
        request: Request<proto::ListDecisionsRequest>,
    ) -> Result<Response<Self::ListDecisionsStream>, Status> {
        decisions::list(&self.node, request.into_inner()).await
    }

    type ListEntriesStream =
        Pin<Box<dyn Stream<Item = Result<proto::ListEntriesResponse, Status>> + Send>>;

    async fn list_entries(
        &self,
        request: Request<proto::ListEntriesRequest>,
    ) -> Result<Response<Self::ListEntriesStream>, Status> {
        let (start, end) = convert::entry_range(&request.into_inner())?;
        let head = self.node.revision();
        // An auditor who asks for more than there is must not take the part for the whole.
        let end = end.unwrap_or(head.max(start));
        if end > head {
            return Err(ReadError::IndexOutOfRange { index: end, head }.into());
        }
        let entries =
            Entries { node: Arc::clone(&self.node), next_index: start, end, read: VecDeque::new() };
        let messages = stream::try_unfold(entries, async |mut entries| {
            let entry = entries.next().await?;
            Ok(entry.map(|(index, entry)| (proto::ListEntriesResponse { index, entry }, entries)))
        });
        Ok(Response::new(Box::pin(messages)))
    }
}

/// A range of entries that is being read, about 1 MiB at a time, as the client takes it.
struct Entries {
    node: Arc<Node>,
    next_index: u64,
    end: u64,
    read: VecDeque<(u64, Vec<u8>)>,
}

impl Entries {
    async fn next(&mut self) -> Result<Option<(u64, Vec<u8>)>, Status> {
        if self.next_index == self.end {
            return Ok(None);
        }
        if self.read.is_empty() {
            let (node, start, end) = (Arc::clone(&self.node), self.next_index, self.end);
            self.read = blocking(move || node.entries(start, end)).await?.into();
        }
        // A gap must never look like an end.
        let wanted = self.next_index;
        let entry = self.read.pop_front().filter(|(index, _)| *index == wanted);
        let entry = entry.ok_or_else(|| Fault::Internal(format!("entry {wanted} is missing")))?;
        self.next_index += 1;
        Ok(Some(entry))
    }
}
