//! Durable subscriptions, on their way in and out.

use crate::{
    domain::{Key, OWNER_BYTES_MAX, SHARDS_MAX, Snapshot, Subscription, WEBHOOK_URL_BYTES_MAX},
    ledger::entry,
    node::NewSubscription,
    proto,
};

use super::{
    Invalid, Problem, duration,
    scalar::{key, span_ms_within, text_within},
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
