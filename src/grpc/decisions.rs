//! `AuditService.ListDecisions`: the node's answers, for auditors who recompute them.

use std::{pin::Pin, sync::Arc, vec};

use futures_util::{Stream, stream};
use tokio::sync::OwnedSemaphorePermit;
use tonic::{Response, Status};

use super::{blocking, convert};
use crate::{
    fold::CellDecision,
    messages::effect,
    node::{Decisions, Node},
    proto,
    status::Fault,
};

/// The most calls at a time. Each keeps up to 64 MiB of states.
pub(super) const AUDITS_MAX: usize = 8;

/// The answers of a call.
pub(super) type DecisionStream =
    Pin<Box<dyn Stream<Item = Result<proto::ListDecisionsResponse, Status>> + Send>>;

pub(super) async fn list(
    node: &Arc<Node>,
    request: proto::ListDecisionsRequest,
    place: OwnedSemaphorePermit,
) -> Result<Response<DecisionStream>, Status> {
    let (start, end) = convert::index_range(request.start_index, request.end_index)?;
    let node = Arc::clone(node);
    let decisions = blocking(move || node.decisions(start, end)).await?;
    let pages = Pages { decisions: Some(decisions), page: Vec::new().into_iter(), _place: place };
    let messages = stream::try_unfold(pages, async |mut pages| {
        let decision = pages.next().await?;
        Ok(decision.map(|decision| (message(&decision), pages)))
    });
    Ok(Response::new(Box::pin(messages)))
}

/// A decision as the protocol has it.
#[must_use]
pub fn message(decision: &CellDecision) -> proto::ListDecisionsResponse {
    proto::ListDecisionsResponse {
        index: decision.index,
        subject_ref: decision.subject.0.to_vec(),
        purpose: decision.purpose.as_str().to_owned(),
        channel: decision.channel.as_str().to_owned(),
        effect: effect(decision.reason.effect()).into(),
        reason: proto::Reason::from(decision.reason).into(),
        decided_by_index: decision.decided_by,
        valid_until: decision.valid_until.map(convert::timestamp),
    }
}

/// Decisions that are taken page by page, as the client takes them.
struct Pages {
    /// Lent to the page that is being taken.
    decisions: Option<Decisions>,
    page: vec::IntoIter<CellDecision>,
    _place: OwnedSemaphorePermit,
}

impl Pages {
    async fn next(&mut self) -> Result<Option<CellDecision>, Status> {
        loop {
            if let Some(decision) = self.page.next() {
                return Ok(Some(decision));
            }
            let lent = self.decisions.take();
            let mut decisions = lent.ok_or_else(|| {
                Fault::Internal("the decisions ended with an error before".to_owned())
            })?;
            let (page, decisions) =
                blocking(move || decisions.next_page().map(|page| (page, decisions))).await?;
            self.decisions = Some(decisions);
            match page {
                Some(page) => self.page = page.into_iter(),
                None => return Ok(None),
            }
        }
    }
}
