//! `consent.v1.PrivacyService`.

use std::sync::Arc;

use tonic::{Request, Response, Status, codegen::BoxStream};

use super::convert;
use crate::{
    node::Node,
    proto::{self, privacy_service_server::PrivacyService},
    status::Fault,
};

/// Links data subjects, and takes links back.
#[derive(Debug)]
pub struct Privacy {
    pub(crate) node: Arc<Node>,
}

#[tonic::async_trait]
impl PrivacyService for Privacy {
    async fn link_subjects(
        &self,
        request: Request<proto::LinkSubjectsRequest>,
    ) -> Result<Response<proto::LinkSubjectsResponse>, Status> {
        let linking = convert::link(&self.node.catalog().catalog, request.into_inner())?;
        let outcome = self.node.link(linking).await?;
        Ok(Response::new(convert::linked(&outcome)))
    }

    async fn unlink_subjects(
        &self,
        request: Request<proto::UnlinkSubjectsRequest>,
    ) -> Result<Response<proto::UnlinkSubjectsResponse>, Status> {
        let linking = convert::unlink(&self.node.catalog().catalog, request.into_inner())?;
        let outcome = self.node.link(linking).await?;
        Ok(Response::new(convert::unlinked(&outcome)))
    }

    async fn export_subject(
        &self,
        _: Request<proto::ExportSubjectRequest>,
    ) -> Result<Response<BoxStream<proto::ExportSubjectResponse>>, Status> {
        Err(Fault::NotImplemented { call: "ExportSubject" }.into())
    }
}
