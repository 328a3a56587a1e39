//! `consent.v1.AuditService`.

use std::{collections::VecDeque, sync::Arc};

use futures_util::stream;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status, codegen::BoxStream};

use super::{
    blocking,
    convert::{self, EntryRef},
    decisions, disclose,
};
use crate::{
    node::{Node, ReadError},
    proto::{self, audit_service_server::AuditService},
    status::Fault,
    tree::Signed,
};

/// Serves the ledger for verification.
#[derive(Debug)]
pub struct Audit {
    pub(super) node: Arc<Node>,
    /// Limits the calls of ListDecisions.
    audits: Arc<Semaphore>,
    /// Limits the calls of Disclose.
    disclosures: Arc<Semaphore>,
}

impl Audit {
    /// The service over a node.
    #[must_use]
    pub fn new(node: Arc<Node>) -> Self {
        Self {
            node,
            audits: Arc::new(Semaphore::new(decisions::AUDITS_MAX)),
            disclosures: Arc::new(Semaphore::new(disclose::DISCLOSURES_MAX)),
        }
    }
}

#[tonic::async_trait]
impl AuditService for Audit {
    async fn get_checkpoint(
        &self,
        request: Request<proto::GetCheckpointRequest>,
    ) -> Result<Response<proto::GetCheckpointResponse>, Status> {
        let released = match request.into_inner().at_least_size {
            Some(size) => Some(self.node.released_at_least(size).await?),
            None => self.node.released(),
        };
        let node = Arc::clone(&self.node);
        let head = blocking(move || node.checkpoint()).await?;
        let key = self.node.verifier_key();
        let key_changes = self.node.key_changes();
        Ok(Response::new(convert::checkpoint(head, released.as_deref(), key, &key_changes)))
    }

    async fn get_inclusion_proof(
        &self,
        request: Request<proto::GetInclusionProofRequest>,
    ) -> Result<Response<proto::GetInclusionProofResponse>, Status> {
        let request = request.into_inner();
        let tree_size = request.tree_size;
        let entry = convert::entry_to_prove(&self.node.catalog().catalog, request)?;
        let index = self.index_of(entry).await?;
        let checkpoint = match tree_size {
            Some(_) => None,
            None => Some(self.released_with(index).await?),
        };
        let size =
            tree_size.or(checkpoint.as_ref().map(|signed| signed.size())).unwrap_or_default();
        let node = Arc::clone(&self.node);
        let inclusion = blocking(move || node.inclusion(index, size, checkpoint)).await?;
        Ok(Response::new(convert::inclusion(&inclusion)))
    }

    async fn get_consistency_proof(
        &self,
        request: Request<proto::GetConsistencyProofRequest>,
    ) -> Result<Response<proto::GetConsistencyProofResponse>, Status> {
        let (first, second) = convert::sizes(&request.into_inner())?;
        let checkpoint = match second {
            Some(_) => None,
            None => Some(self.node.released_at_least(1).await?),
        };
        let second = second.or(checkpoint.as_ref().map(|signed| signed.size())).unwrap_or_default();
        let node = Arc::clone(&self.node);
        let consistency = blocking(move || node.consistency(first, second, checkpoint)).await?;
        Ok(Response::new(convert::consistency(&consistency)))
    }

    async fn get_receipt(
        &self,
        request: Request<proto::GetReceiptRequest>,
    ) -> Result<Response<proto::GetReceiptResponse>, Status> {
        Ok(Response::new(self.receipt(request.into_inner()).await?))
    }

    async fn list_decisions(
        &self,
        request: Request<proto::ListDecisionsRequest>,
    ) -> Result<Response<BoxStream<proto::ListDecisionsResponse>>, Status> {
        let Ok(place) = Arc::clone(&self.audits).try_acquire_owned() else {
            return Err(Fault::TooManyStreams { limit: decisions::AUDITS_MAX as u64 }.into());
        };
        decisions::list(&self.node, request.into_inner(), place).await
    }

    async fn disclose(
        &self,
        request: Request<proto::DiscloseRequest>,
    ) -> Result<Response<BoxStream<proto::DiscloseResponse>>, Status> {
        let Ok(place) = Arc::clone(&self.disclosures).try_acquire_owned() else {
            let limit = disclose::DISCLOSURES_MAX as u64;
            return Err(Fault::TooManyStreams { limit }.into());
        };
        Ok(disclose::disclose(&self.node, request.get_ref(), place)?)
    }

    async fn list_entries(
        &self,
        request: Request<proto::ListEntriesRequest>,
    ) -> Result<Response<BoxStream<proto::ListEntriesResponse>>, Status> {
        let proto::ListEntriesRequest { start_index, end_index } = request.into_inner();
        let (start, end) = convert::index_range(start_index, end_index)?;
        let head = self.node.revision();
        // An end beyond the ledger is an error, so that an auditor does not take a part for the whole.
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

impl Audit {
    /// Index of an entry, which need not be under a checkpoint yet.
    pub(super) async fn index_of(&self, entry: EntryRef) -> Result<u64, Fault> {
        match entry {
            EntryRef::Index(index) => Ok(index),
            EntryRef::IdempotencyKey { subject, key } => {
                let node = Arc::clone(&self.node);
                blocking(move || node.index_of_key(&subject, &key)).await
            }
        }
    }

    /// The released checkpoint, once it covers an entry of the ledger.
    async fn released_with(&self, index: u64) -> Result<Arc<Signed>, Fault> {
        let head = self.node.revision();
        if index >= head {
            return Err(ReadError::IndexOutOfRange { index, head }.into());
        }
        Ok(self.node.released_at_least(index + 1).await?)
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
        // A missing entry is an error, never the end of the stream.
        let wanted = self.next_index;
        let entry = self.read.pop_front().filter(|(index, _)| *index == wanted);
        let entry = entry.ok_or_else(|| Fault::Internal(format!("entry {wanted} is missing")))?;
        self.next_index += 1;
        Ok(Some(entry))
    }
}
