//! `consent.v1.ConsentService`.

use std::{collections::VecDeque, sync::Arc};

use futures_util::stream;
use tonic::{Request, Response, Status, codegen::BoxStream};

use super::{
    blocking, convert,
    import::{Imports, import},
    near::with_near_keys,
};
use crate::{
    domain::Subject,
    node::{HistoryItem, Naming, Node},
    proto::{self, consent_service_server::ConsentService},
    status::Fault,
};

/// How many acts of a history are read at a time.
const HISTORY_PAGE_ACTS: usize = 100;

/// Records acts and shows them.
#[derive(Debug)]
pub struct Consent {
    pub(crate) node: Arc<Node>,
    pub(crate) imports: Imports,
}

#[tonic::async_trait]
impl ConsentService for Consent {
    async fn record_consent(
        &self,
        request: Request<proto::RecordConsentRequest>,
    ) -> Result<Response<proto::RecordConsentResponse>, Status> {
        let request = request.into_inner();
        let wait_for_checkpoint = request.wait_for_checkpoint;
        let (act, left_out) = convert::act(&self.node.catalog().catalog, request)?;
        let subject = act.subject.as_str().to_owned();
        let recorded = self.node.record(act).await;
        let recorded =
            recorded.map_err(|error| with_near_keys(&self.node, left_out.locate(error)))?;
        let mut answer = convert::recorded(&recorded, &left_out);
        answer.subject = subject;
        if wait_for_checkpoint {
            let released = self.node.released_at_least(recorded.revision()).await;
            let released = released.map_err(|_| Fault::NotProven { index: recorded.index })?;
            answer.checkpoint = released.text.to_string();
        }
        Ok(Response::new(answer))
    }

    async fn confirm_consent(
        &self,
        request: Request<proto::ConfirmConsentRequest>,
    ) -> Result<Response<proto::ConfirmConsentResponse>, Status> {
        let confirm = convert::confirm(&self.node.catalog().catalog, request.into_inner())?;
        let confirmed = self.node.confirm(confirm).await?;
        Ok(Response::new(convert::confirmed(&confirmed)))
    }

    async fn import_consents(
        &self,
        request: Request<tonic::Streaming<proto::ImportConsentsRequest>>,
    ) -> Result<Response<proto::ImportConsentsResponse>, Status> {
        Ok(Response::new(import(&self.node, &self.imports, request.into_inner()).await?))
    }

    async fn record_use(
        &self,
        request: Request<proto::RecordUseRequest>,
    ) -> Result<Response<proto::RecordUseResponse>, Status> {
        let used = convert::used(&self.node.catalog().catalog, request.into_inner())?;
        let subject = used.subject.as_str().to_owned();
        let used = self.node.record_use(used).await;
        let used = used.map_err(|error| with_near_keys(&self.node, error))?;
        Ok(Response::new(proto::RecordUseResponse {
            index: used.index,
            revision: used.index + 1,
            deviation: used.is_deviation(),
            reason: proto::Reason::from(used.reason).into(),
            replayed: used.replayed,
            subject,
            broken_obligations: convert::obligation_kinds(&used.broken_obligations),
        }))
    }

    async fn get_preferences(
        &self,
        request: Request<proto::GetPreferencesRequest>,
    ) -> Result<Response<proto::GetPreferencesResponse>, Status> {
        let request = request.into_inner();
        let (subject, region) = convert::preferences(&self.node.catalog().catalog, &request)?;
        self.node.reach(request.at_least_revision).await?;
        let (node, all_cells) = (Arc::clone(&self.node), request.all_cells);
        let as_of = convert::as_of(request.as_of.as_ref())?;
        let naming = convert::naming(request.name_linked_persons);
        let data_subject = subject.clone();
        // Blocking: the names of linked data subjects are read from the vault, on disk.
        let preferences = blocking(move || match as_of {
            None => Ok(node.preferences(&data_subject, all_cells, region, naming)?),
            Some(as_of) => node.preferences_at(&data_subject, all_cells, region, as_of, naming),
        });
        let preferences = preferences.await?;
        Ok(Response::new(convert::preferences_response(&subject, &preferences)))
    }

    async fn list_history(
        &self,
        request: Request<proto::ListHistoryRequest>,
    ) -> Result<Response<BoxStream<proto::ListHistoryResponse>>, Status> {
        let request = request.into_inner();
        let (subject, limit) = convert::history(&self.node.catalog().catalog, &request)?;
        self.node.reach(request.at_least_revision).await?;
        let mut history = History {
            node: Arc::clone(&self.node),
            subject: Arc::new(subject),
            next_index: request.start_index,
            naming: convert::naming(request.name_linked_persons),
            left: limit,
            page: VecDeque::new(),
            last_page: false,
        };
        // The first page is read before the stream starts, so that its errors are errors of the call.
        history.read().await?;
        let acts = stream::try_unfold(history, async |mut history| {
            let item = history.next().await?;
            Ok(item.map(|item| (convert::history_item(item), history)))
        });
        Ok(Response::new(Box::pin(acts)))
    }
}

/// A history, read page by page as the client takes it.
struct History {
    node: Arc<Node>,
    subject: Arc<Subject>,
    next_index: u64,
    naming: Naming,
    /// How many acts may still be sent.
    left: usize,
    page: VecDeque<HistoryItem>,
    last_page: bool,
}

impl History {
    async fn next(&mut self) -> Result<Option<HistoryItem>, Status> {
        if self.page.is_empty() && !self.last_page {
            self.read().await?;
        }
        Ok(self.page.pop_front())
    }

    async fn read(&mut self) -> Result<(), Fault> {
        let (node, subject) = (Arc::clone(&self.node), Arc::clone(&self.subject));
        let (start, wanted) = (self.next_index, self.left.min(HISTORY_PAGE_ACTS));
        let naming = self.naming;
        let page = blocking(move || node.history(&subject, start, wanted, naming)).await?;
        self.left -= page.len().min(self.left);
        self.last_page = page.len() < wanted || self.left == 0;
        if let Some(last) = page.last() {
            self.next_index = last.index + 1;
        }
        self.page = page.into();
        Ok(())
    }
}
