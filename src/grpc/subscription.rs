//! The unary calls of `consent.v1.WatchService`, about durable subscriptions.

use std::sync::Arc;

use super::{
    blocking,
    convert::{self, List, Listed},
};
use crate::{
    domain::Millis,
    node::{Node, ProveError, ReadError},
    proto,
    status::Fault,
};

/// Creates a subscription.
pub(super) async fn create(
    node: &Arc<Node>,
    request: proto::CreateSubscriptionRequest,
) -> Result<proto::CreateSubscriptionResponse, Fault> {
    let created = node.create_subscription(convert::new_subscription(request)?).await?;
    let webhook_secret = match created.subscription.spec.webhook_url {
        Some(_) => {
            let (reader, id) = (Arc::clone(node), created.subscription.id);
            blocking(move || reader.webhook_secret(id)).await?
        }
        None => String::new(),
    };
    Ok(proto::CreateSubscriptionResponse {
        subscription: Some(convert::subscription(&created.subscription)),
        created: created.created,
        webhook_secret,
        revision: node.revision(),
    })
}

/// Lists subscriptions.
pub(super) async fn list(
    node: &Arc<Node>,
    request: proto::ListSubscriptionsRequest,
) -> Result<proto::ListSubscriptionsResponse, Fault> {
    let Listed { owner, page } = convert::listed_subscriptions(&request)?;
    let (reader, size) = (Arc::clone(node), page.size);
    let revision = node.revision();
    let (reports, now) = blocking(move || {
        let reports = reader.subscriptions(owner.as_deref(), page.after.as_ref(), page.size)?;
        Ok::<_, ReadError>((reports, Millis::now()))
    })
    .await?;
    // The page after a full one may be empty.
    let last = reports.last().filter(|_| reports.len() == size);
    let last = last.map(|report| report.subscription.spec.name.clone());
    Ok(proto::ListSubscriptionsResponse {
        subscriptions: reports
            .into_iter()
            .map(|report| convert::subscription_status(report, now))
            .collect(),
        next_page_token: last
            .map(|name| List::subscriptions(&request.owner).next_token(&name))
            .unwrap_or_default(),
        revision,
    })
}

/// Ends a subscription.
pub(super) async fn delete(
    node: &Arc<Node>,
    request: proto::DeleteSubscriptionRequest,
) -> Result<proto::DeleteSubscriptionResponse, Fault> {
    let index =
        node.delete_subscription(convert::subscription_name(&request.name, "name")?).await?;
    Ok(proto::DeleteSubscriptionResponse { index, revision: node.revision() })
}

/// Which subscriptions have acknowledged an event.
pub(super) async fn propagation(
    node: &Arc<Node>,
    request: proto::GetPropagationRequest,
) -> Result<proto::GetPropagationResponse, Fault> {
    let reader = Arc::clone(node);
    let report = blocking(move || reader.propagation(request.index)).await?;
    let provable_from = report.provable_from();
    if !request.with_proofs || provable_from == 0 {
        return Ok(convert::propagation(&report, &[]));
    }
    let signed = node.released_at_least(provable_from).await?;
    let prover = Arc::clone(node);
    let (report, proofs) = blocking(move || {
        let proofs = prover.prove_propagation(request.index, &report, &signed)?;
        Ok::<_, ProveError>((report, proofs))
    })
    .await?;
    Ok(convert::propagation(&report, &proofs))
}

/// Lists dead letters.
pub(super) async fn dead_letters(
    node: &Arc<Node>,
    request: proto::ListDeadLettersRequest,
) -> Result<proto::ListDeadLettersResponse, Fault> {
    let name = convert::subscription_name(&request.subscription, "subscription")?;
    let page = convert::dead_letters_page(&request)?;
    let (reader, size) = (Arc::clone(node), page.size);
    let subscription = node.subscription(name.as_str())?.id;
    let after = page.after(subscription)?;
    let letters = blocking(move || reader.dead_letters(name.as_str(), after, size)).await?;
    // The page after a full one may be empty.
    let last = letters.last().filter(|_| letters.len() == size);
    Ok(proto::ListDeadLettersResponse {
        next_page_token: last
            .map(|last| convert::next_dead_letters_token(subscription, (last.shard, last.index)))
            .unwrap_or_default(),
        dead_letters: letters.iter().map(convert::dead_letter).collect(),
    })
}

/// Delivers dead letters once more.
pub(super) async fn replay(
    node: &Arc<Node>,
    request: proto::ReplayDeadLettersRequest,
) -> Result<proto::ReplayDeadLettersResponse, Fault> {
    let (name, indexes) = convert::replayed_dead_letters(request)?;
    let reader = Arc::clone(node);
    let replayed = blocking(move || reader.replay_dead_letters(name.as_str(), &indexes)).await?;
    Ok(proto::ReplayDeadLettersResponse { replayed: replayed as u64 })
}
