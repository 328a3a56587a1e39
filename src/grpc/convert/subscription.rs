//! Durable subscriptions in both directions, and the pages of their dead letters.

use std::iter;

use crate::{
    domain::{
        Key, Millis, OWNER_BYTES_MAX, SHARDS_MAX, Snapshot, Subscription, SubscriptionId,
        WEBHOOK_URL_BYTES_MAX,
    },
    entry,
    node::{
        NewSubscription, Propagation, PropagationReport, PropagationState, REPLAYS_MAX,
        ShardReport, SubscriptionReport,
    },
    proto::{self, ledger},
    view::DeadLetter,
};

use super::{
    Invalid, List, Page, Problem, duration,
    page::page_size,
    scalar::{at_most, key, span_ms_within, text_within},
    timestamp,
    watch::filter,
};

/// The shortest and the longest deadline of a subscription, in milliseconds.
pub const DEADLINE_MS_MIN: i64 = 1_000;
/// See [`DEADLINE_MS_MIN`].
pub const DEADLINE_MS_MAX: i64 = 90 * 24 * 3_600 * 1_000;

/// The subscription that a request creates.
///
/// # Errors
/// The first field that is wrong.
pub fn new_subscription(
    request: proto::CreateSubscriptionRequest,
) -> Result<NewSubscription, Invalid> {
    let message = request.subscription.ok_or(Problem::Required.at("subscription"))?;
    let start = request.start_index;
    let new = parse(message, start).map_err(|invalid| invalid.within("subscription"))?;
    if new.snapshot.is_some() && start.is_some() {
        return Err(Problem::NotWith("subscription.snapshot").at("start_index"));
    }
    Ok(new)
}

fn parse(message: proto::Subscription, start: Option<u64>) -> Result<NewSubscription, Invalid> {
    text_within(&message.owner, OWNER_BYTES_MAX, "owner")?;
    let shards = match message.shards {
        0 => 1,
        shards if shards > SHARDS_MAX => {
            let (limit, got) = (SHARDS_MAX as usize, shards as usize);
            return Err(Problem::TooMany { limit, got }.at("shards"));
        }
        shards => shards,
    };
    let deadline = message
        .deadline
        .map(|span| span_ms_within(span, "deadline", (DEADLINE_MS_MIN, DEADLINE_MS_MAX)));
    let webhook_url = match message.webhook {
        None => None,
        Some(webhook) if webhook.url.is_empty() => {
            return Err(Problem::Required.at("webhook.url"));
        }
        Some(webhook) => {
            text_within(&webhook.url, WEBHOOK_URL_BYTES_MAX, "webhook.url")?;
            Some(webhook.url)
        }
    };
    Ok(NewSubscription {
        name: key(&message.name, "name")?,
        owner: message.owner,
        filter: filter(&message.filter.unwrap_or_default())
            .map_err(|invalid| invalid.within("filter"))?,
        start,
        snapshot: snapshot(message.snapshot, "snapshot")?,
        shards,
        deadline_ms: deadline.transpose()?,
        webhook_url,
    })
}

/// The content of a snapshot; none without a snapshot.
///
/// # Errors
/// The value is not known.
pub fn snapshot(number: i32, field: &'static str) -> Result<Option<Snapshot>, Invalid> {
    match proto::Snapshot::try_from(number) {
        Ok(proto::Snapshot::Unspecified) => Ok(None),
        Ok(proto::Snapshot::Denied) => Ok(Some(Snapshot::Denied)),
        Ok(proto::Snapshot::All) => Ok(Some(Snapshot::All)),
        Err(_) => Err(Problem::UnknownValue(number).at(field)),
    }
}

/// The dead letters to deliver once more: the name of the subscription, and their indexes; no index
/// means all.
///
/// # Errors
/// The first field that is wrong.
pub fn replayed_dead_letters(
    request: proto::ReplayDeadLettersRequest,
) -> Result<(Key, Vec<u64>), Invalid> {
    let name = subscription_name(&request.subscription, "subscription")?;
    at_most(request.indexes.len(), REPLAYS_MAX, "indexes")?;
    Ok((name, request.indexes))
}

/// The name of a subscription.
///
/// # Errors
/// The name is malformed.
pub fn subscription_name(text: &str, field: &'static str) -> Result<Key, Invalid> {
    key(text, field)
}

/// A subscription as a message.
#[must_use]
pub fn subscription(subscription: &Subscription) -> proto::Subscription {
    let spec = &subscription.spec;
    proto::Subscription {
        name: spec.name.to_string(),
        owner: spec.owner.clone(),
        filter: Some(entry::filter_to_proto(&spec.filter)),
        snapshot: entry::snapshot_to_proto(spec.snapshot).into(),
        shards: spec.shards,
        deadline: spec.deadline_ms.map(duration),
        webhook: spec.webhook_url.clone().map(|url| proto::Webhook { url }),
        created_index: subscription.id.0,
        created_at: Some(timestamp(subscription.created_at)),
        start_index: spec.start_index,
    }
}

/// The subscriptions that a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The owner; none means all owners.
    pub owner: Option<String>,
    /// The page.
    pub page: Page,
}

/// The subscriptions that a request asks for.
///
/// # Errors
/// The first field that is wrong.
pub fn listed_subscriptions(request: &proto::ListSubscriptionsRequest) -> Result<Listed, Invalid> {
    let owner = &request.owner;
    text_within(owner, OWNER_BYTES_MAX, "owner")?;
    let page = List::subscriptions(owner).page(request.page_size, &request.page_token)?;
    Ok(Listed { owner: Some(owner.clone()).filter(|owner| !owner.is_empty()), page })
}

/// A page of dead letters that a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLettersPage {
    /// Maximum number of rows.
    pub size: usize,
    token: String,
}

/// The page of dead letters that a request asks for.
///
/// # Errors
/// A size that is negative or over the limit.
pub fn dead_letters_page(
    request: &proto::ListDeadLettersRequest,
) -> Result<DeadLettersPage, Invalid> {
    Ok(DeadLettersPage { size: page_size(request.page_size)?, token: request.page_token.clone() })
}

impl DeadLettersPage {
    /// Shard and index after which the page begins.
    ///
    /// # Errors
    /// The token is not of this subscription.
    pub fn after(&self, id: SubscriptionId) -> Result<Option<(u32, u64)>, Invalid> {
        if self.token.is_empty() {
            return Ok(None);
        }
        let mut parts = self.token.split('.').skip(1);
        let mut part = || u64::from_str_radix(parts.next()?, 16).ok();
        let shard = part().and_then(|shard| u32::try_from(shard).ok());
        let after = shard.zip(part());
        let given = after.filter(|after| next_dead_letters_token(id, *after) == self.token);
        given.map(Some).ok_or(Problem::PageToken.at("page_token"))
    }
}

/// The token of the page after the one that ends with this shard and index. It is good for one
/// subscription only.
#[must_use]
pub fn next_dead_letters_token(id: SubscriptionId, (shard, index): (u32, u64)) -> String {
    format!("d{:x}.{shard:x}.{index:x}", id.0)
}

/// A subscription, and how far it is behind.
#[must_use]
pub fn subscription_status(report: SubscriptionReport, now: Millis) -> proto::SubscriptionStatus {
    proto::SubscriptionStatus {
        subscription: Some(subscription(&report.subscription)),
        shards: report.shards.into_iter().map(|shard| shard_status(shard, now)).collect(),
        dead_letters: report.dead_letters,
    }
}

fn shard_status(report: ShardReport, now: Millis) -> proto::ShardStatus {
    let lag = report.pending_since.map(|since| duration(now.0.saturating_sub(since.0).max(0)));
    proto::ShardStatus {
        next_index: report.next_index,
        lag_entries: report.lag_entries,
        lag,
        connected: report.consumer.is_some(),
        consumer: report.consumer.unwrap_or_default(),
        overdue: report.overdue,
        snapshot_pending: report.snapshot_pending,
    }
}

/// Which subscriptions have acknowledged an event. The proofs, if there are any, have the order of the
/// report's subscriptions.
#[must_use]
pub fn propagation(
    report: &PropagationReport,
    proofs: &[Vec<ledger::Propagation>],
) -> proto::GetPropagationResponse {
    let proofs = proofs.iter().map(Vec::as_slice).chain(iter::repeat(&[][..]));
    let subscriptions = report.subscriptions.iter().zip(proofs);
    proto::GetPropagationResponse {
        recorded_at: Some(timestamp(report.recorded_at)),
        subscriptions: subscriptions.map(|(it, proofs)| propagation_to(it, proofs)).collect(),
        revision: report.revision,
    }
}

fn propagation_to(propagation: &Propagation, proofs: &[ledger::Propagation]) -> proto::Propagation {
    use proto::PropagationState as State;
    let (state, settled) = match propagation.state {
        PropagationState::Acknowledged(at, index) => (State::Acknowledged, Some((at, index))),
        PropagationState::Pending => (State::Pending, None),
        PropagationState::Overdue => (State::Overdue, None),
        PropagationState::DeadLetter(at, index) => (State::DeadLetter, Some((at, index))),
        PropagationState::Deleted(at, index) => (State::Deleted, Some((at, index))),
    };
    let spec = &propagation.subscription.spec;
    proto::Propagation {
        subscription: spec.name.to_string(),
        owner: spec.owner.clone(),
        state: state.into(),
        // A deleted subscription has the entry of its deletion, but settled nothing.
        settled_at: settled.filter(|_| state != State::Deleted).map(|(at, _)| timestamp(at)),
        receipt_index: settled.map(|(_, index)| index),
        elapsed: Some(duration(i64::try_from(propagation.elapsed.as_millis()).unwrap_or(i64::MAX))),
        deadline: spec.deadline_ms.map(duration),
        created_index: propagation.subscription.id.0,
        proofs: proofs.iter().map(prost::Message::encode_to_vec).collect(),
    }
}

/// A dead letter as a message.
#[must_use]
pub fn dead_letter(letter: &DeadLetter) -> proto::DeadLetter {
    proto::DeadLetter {
        index: letter.index,
        failed_index: letter.failed_index,
        failed_at: Some(timestamp(letter.failed_at)),
        attempts: letter.attempts,
        http_status: letter.http_status,
        shard: letter.shard,
    }
}
