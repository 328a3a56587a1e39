//! `consent.v1.CheckService`.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, codegen::BoxStream};

use super::{
    audience, blocking,
    convert::{self, BATCH_CHECKS_MAX},
};
use crate::{
    domain::{Region, Subject},
    node::{Checked, Node, Question},
    proto::{self, check_service_server::CheckService},
    status::{Fault, Invalid, Problem},
};

/// How many checks of a batch are answered before the task yields to other requests.
const CHECKS_AT_A_TIME: usize = 256;

/// Answers "may I?".
#[derive(Debug)]
pub struct Check {
    pub(crate) node: Arc<Node>,
    /// Audiences end once it is cancelled.
    pub(crate) drain: CancellationToken,
}

impl Check {
    fn read(
        &self,
        request: &proto::CheckRequest,
    ) -> Result<(Option<Subject>, Option<Region>), Invalid> {
        let is_stored = |subject: &Subject| self.node.remembers(subject);
        convert::check(&self.node.catalog().catalog, request, is_stored)
    }

    fn answer(&self, request: &proto::CheckRequest) -> Result<Checked, Fault> {
        let (subject, region) = self.read(request)?;
        let Some(subject) = subject else { return Ok(self.node.unknown_namespace()) };
        let question = question(&subject, request, region);
        Ok(match request.want_token {
            true => self.node.check_with_token(&question)?,
            false => self.node.check(&question)?,
        })
    }

    /// Answers for a moment in the past.
    async fn answer_at(&self, request: proto::CheckRequest) -> Result<Checked, Fault> {
        let (subject, region) = self.read(&request)?;
        let Some(as_of) = convert::as_of(request.as_of.as_ref())? else {
            return self.answer(&request);
        };
        let Some(subject) = subject else { return Ok(self.node.unknown_namespace()) };
        let node = Arc::clone(&self.node);
        blocking(move || node.check_at(&question(&subject, &request, region), as_of)).await
    }
}

fn question<'a>(
    subject: &'a Subject,
    request: &'a proto::CheckRequest,
    region: Option<Region>,
) -> Question<'a> {
    Question {
        subject,
        purpose: &request.purpose,
        channel: &request.channel,
        data_categories: &request.data_categories,
        region,
        ignore_obligations: request.ignore_obligations,
    }
}

#[tonic::async_trait]
impl CheckService for Check {
    async fn check(
        &self,
        request: Request<proto::CheckRequest>,
    ) -> Result<Response<proto::CheckResponse>, Status> {
        let request = request.into_inner();
        if request.at_least_revision.is_some() {
            self.node.reach(request.at_least_revision).await?;
        }
        let checked = match request.as_of {
            None => self.answer(&request)?,
            Some(_) => self.answer_at(request).await?,
        };
        Ok(Response::new(convert::check_response(&checked)))
    }

    async fn batch_check(
        &self,
        request: Request<proto::BatchCheckRequest>,
    ) -> Result<Response<proto::BatchCheckResponse>, Status> {
        let request = request.into_inner();
        let got = request.checks.len();
        if got > BATCH_CHECKS_MAX {
            return Err(Problem::TooMany { limit: BATCH_CHECKS_MAX, got }.at("checks").into());
        }
        self.node.reach(request.at_least_revision).await?;
        let mut results = Vec::with_capacity(got);
        for (position, check) in request.checks.into_iter().enumerate() {
            if position > 0 && position % CHECKS_AT_A_TIME == 0 {
                tokio::task::yield_now().await;
            }
            let answer = match check.as_of {
                None => self.answer(&check),
                Some(_) => self.answer_at(check).await,
            };
            results.push(convert::batch_result(position, answer));
        }
        Ok(Response::new(proto::BatchCheckResponse { results }))
    }

    async fn filter_audience(
        &self,
        request: Request<tonic::Streaming<proto::FilterAudienceRequest>>,
    ) -> Result<Response<BoxStream<proto::FilterAudienceResponse>>, Status> {
        let (node, drain) = (Arc::clone(&self.node), self.drain.clone());
        Ok(Response::new(audience::answers(node, drain, request.into_inner())))
    }

    async fn get_decision_key(
        &self,
        _: Request<proto::GetDecisionKeyRequest>,
    ) -> Result<Response<proto::GetDecisionKeyResponse>, Status> {
        let (key, issuer) = self.node.decision_key();
        Ok(Response::new(proto::GetDecisionKeyResponse {
            key_id: key.id(),
            public_key: key.to_bytes().to_vec(),
            jwk: key.to_jwk(),
            issuer: issuer.to_owned(),
        }))
    }
}
