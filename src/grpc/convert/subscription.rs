//! Durable subscriptions, on their way in and out, and the pages of their lists.

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
    proto,
    tlog::hex,
    view::DeadLetter,
};

use super::{
    Invalid, Page, Problem,
    catalog::page_size,
    duration,
    scalar::{at_most, key, span_ms_within, text_within},
    timestamp,
    watch::filter,
};

/// The shortest and the longest deadline of a subscription, in milliseconds.
pub const DEADLINE_MS_MIN: i64 = 1_000;
/// See [`DEADLINE_MS_MIN`].
pub const DEADLINE_MS_MAX: i64 = 90 * 24 * 3_600 * 1_000;

/// A subscription that somebody wants.
///
/// # Errors
/// The first field that is wrong.
pub fn new_subscription(
    request: proto::CreateSubscriptionRequest,
) -> Result<NewSubscription, Invalid> {
    let asked = request.subscription.ok_or(Problem::Required.at("subscription"))?;
    let start = request.start_index;
    let new = asked_subscription(asked, start).map_err(|invalid| invalid.within("subscription"))?;
    if new.snapshot.is_some() && start.is_some() {
        return Err(Problem::NotWith("subscription.snapshot").at("start_index"));
    }
    Ok(new)
}

fn asked_subscription(
    asked: proto::Subscription,
    start: Option<u64>,
) -> Result<NewSubscription, Invalid> {
    text_within(&asked.owner, OWNER_BYTES_MAX, "owner")?;
    let shards = match asked.shards {
        0 => 1,
        shards if shards > SHARDS_MAX => {
            let (limit, got) = (SHARDS_MAX as usize, shards as usize);
            return Err(Problem::TooMany { limit, got }.at("shards"));
        }
        shards => shards,
    };
    let deadline = asked
        .deadline
        .map(|span| span_ms_within(span, "deadline", (DEADLINE_MS_MIN, DEADLINE_MS_MAX)));
    let webhook_url = match asked.webhook {
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
        name: key(&asked.name, "name")?,
        owner: asked.owner,
        filter: filter(&asked.filter.unwrap_or_default())
            .map_err(|invalid| invalid.within("filter"))?,
        start,
        snapshot: snapshot(asked.snapshot, "snapshot")?,
        shards,
        deadline_ms: deadline.transpose()?,
        webhook_url,
    })
}

/// Which state a snapshot tells; none if none is wanted.
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

/// The dead letters that somebody wants delivered once more: the name of the subscription, and their
/// indexes; none means all.
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
/// It is none.
pub fn subscription_name(text: &str, field: &'static str) -> Result<Key, Invalid> {
    key(text, field)
}

/// A subscription going out.
#[must_use]
pub fn subscription(own: &Subscription) -> proto::Subscription {
    let spec = &own.spec;
    proto::Subscription {
        name: spec.name.to_string(),
        owner: spec.owner.clone(),
        filter: Some(entry::filter_to_proto(&spec.filter)),
        snapshot: entry::snapshot_to_proto(spec.snapshot).into(),
        shards: spec.shards,
        deadline: spec.deadline_ms.map(duration),
        webhook: spec.webhook_url.clone().map(|url| proto::Webhook { url }),
        created_index: own.id.0,
        created_at: Some(timestamp(own.created_at)),
        start_index: spec.start_index,
    }
}

/// The subscriptions that a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Whose; none means everybody's.
    pub owner: Option<String>,
    /// Which page of them.
    pub page: Page,
}

/// The subscriptions that a request asks for.
///
/// # Errors
/// The first field that is wrong.
pub fn listed_subscriptions(request: &proto::ListSubscriptionsRequest) -> Result<Listed, Invalid> {
    let owner = &request.owner;
    text_within(owner, OWNER_BYTES_MAX, "owner")?;
    let after = match request.page_token.as_str() {
        "" => None,
        token => {
            // One token a list and name: `AF` reads as a number too, but was never given.
            let name = token.rsplit('.').next().and_then(text_of_hex);
            let name = name.and_then(|name| Key::parse(&name).ok());
            let good = name.filter(|name| next_subscriptions_token(owner, name) == token);
            Some(good.ok_or(Problem::PageToken.at("page_token"))?)
        }
    };
    let page = Page { size: page_size(request.page_size)?, after };
    Ok(Listed { owner: Some(owner.clone()).filter(|owner| !owner.is_empty()), page })
}

/// The token of the page after the one that ends with this name. It is good for one owner's list
/// only.
#[must_use]
pub fn next_subscriptions_token(owner: &str, last: &Key) -> String {
    let owner = blake3::hash(owner.as_bytes());
    format!("s{}.{}", hex(&owner.as_bytes()[..8]), hex(last.as_str().as_bytes()))
}

fn text_of_hex(digits: &str) -> Option<String> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = digits.as_bytes().chunks(2).map(byte).collect();
    String::from_utf8(bytes?).ok()
}

/// A page of dead letters that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLettersPage {
    /// The greatest number of rows.
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
    /// Shard and index beyond which the page begins.
    ///
    /// # Errors
    /// The token is none of this subscription's.
    pub fn after(&self, id: SubscriptionId) -> Result<Option<(u32, u64)>, Invalid> {
        if self.token.is_empty() {
            return Ok(None);
        }
        let mut parts = self.token.split('.').skip(1);
        let mut part = || u64::from_str_radix(parts.next()?, 16).ok();
        let shard = part().and_then(|shard| u32::try_from(shard).ok());
        let after = shard.zip(part());
        let good = after.filter(|after| next_dead_letters_token(id, *after) == self.token);
        good.map(Some).ok_or(Problem::PageToken.at("page_token"))
    }
}

/// The token of the page after the one that ends with this shard and index. It is good for one
/// subscription only.
#[must_use]
pub fn next_dead_letters_token(id: SubscriptionId, (shard, index): (u32, u64)) -> String {
    format!("d{:x}.{shard:x}.{index:x}", id.0)
}

/// A subscription and how far it is behind, going out.
#[must_use]
pub fn subscription_status(report: SubscriptionReport, now: Millis) -> proto::SubscriptionStatus {
    proto::SubscriptionStatus {
        subscription: Some(subscription(&report.subscription)),
        shards: report.shards.into_iter().map(|own| shard_status(own, now)).collect(),
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

/// Who has heard an event, going out.
#[must_use]
pub fn propagation(report: &PropagationReport) -> proto::GetPropagationResponse {
    proto::GetPropagationResponse {
        recorded_at: Some(timestamp(report.recorded_at)),
        subscriptions: report.subscriptions.iter().map(propagation_to).collect(),
        revision: report.revision,
    }
}

fn propagation_to(own: &Propagation) -> proto::Propagation {
    use proto::PropagationState as State;
    let (state, settled) = match own.state {
        PropagationState::Acknowledged(at, index) => (State::Acknowledged, Some((at, index))),
        PropagationState::Pending => (State::Pending, None),
        PropagationState::Overdue => (State::Overdue, None),
        PropagationState::DeadLetter(at, index) => (State::DeadLetter, Some((at, index))),
        PropagationState::Deleted(at, index) => (State::Deleted, Some((at, index))),
    };
    let spec = &own.subscription.spec;
    proto::Propagation {
        subscription: spec.name.to_string(),
        owner: spec.owner.clone(),
        state: state.into(),
        // For a deletion, only its entry: nothing was settled.
        settled_at: settled.filter(|_| state != State::Deleted).map(|(at, _)| timestamp(at)),
        receipt_index: settled.map(|(_, index)| index),
        elapsed: Some(duration(i64::try_from(own.elapsed.as_millis()).unwrap_or(i64::MAX))),
        deadline: spec.deadline_ms.map(duration),
        created_index: own.subscription.id.0,
    }
}

/// A dead letter going out.
#[must_use]
pub fn dead_letter(own: &DeadLetter) -> proto::DeadLetter {
    proto::DeadLetter {
        index: own.index,
        failed_index: own.failed_index,
        failed_at: Some(timestamp(own.failed_at)),
        attempts: own.attempts,
        http_status: own.http_status,
        shard: own.shard,
    }
}
