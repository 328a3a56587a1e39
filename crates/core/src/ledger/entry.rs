//! Entries as bytes, and back.
//!
//! The bytes are a protobuf message (`consent.v1.Entry`). They are hashed as they were written:
//! nothing here re-encodes what it read. Reading is strict: a body, value or key that it does not
//! know is an error, because a state that leaves an entry out is not a state of this ledger.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use prost::Message;
use thiserror::Error;

use crate::{
    domain::{
        Action, Actor, Authority, Body, ChangeRecord, ChannelPut, ConfirmationOffer, ConsentAct,
        ConsentConfirmed, ContactChange, Delivered, DeliveryFailed, DeliveryOverdue, Entry,
        EventKind, Evidence, FailedDelivery, Filter, FrequencyCap, GrantExpired, IdempotencyMark,
        Key, KeyError, LedgerOpened, LegalBasis, LinkChange, LinkConfidence, Millis, Obligation,
        Outcome, PurposePut, PurposeVersion, QuietSpan, Reason, Region, SHARDS_MAX, Said,
        ScopeKeys, Sealed, Snapshot, SubjectRef, SubscriptionCreated, SubscriptionEntry,
        SubscriptionId, UseRecorded,
    },
    proto,
};

/// How bytes can fail to be an entry.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EntryError {
    /// No protobuf message of this type.
    #[error("the bytes are no entry: {0}")]
    Protobuf(String),
    /// No body, or one that this program does not know.
    #[error("the entry has no body that this program knows")]
    Body,
    /// A field without a value that it must have.
    #[error("{field} is missing or has a value that this program does not know")]
    Field {
        /// The field.
        field: &'static str,
    },
    /// Bytes of the wrong length.
    #[error("{field} must have {want} bytes, got {got}")]
    Length {
        /// The field.
        field: &'static str,
        /// The length that it must have.
        want: usize,
        /// The length that it has.
        got: usize,
    },
    /// A key of the catalogue that is none.
    #[error("{field} {problem}")]
    Key {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        problem: KeyError,
    },
}

/// The bytes of an entry.
#[must_use]
pub fn encode(entry: &Entry) -> Vec<u8> {
    let body = match &entry.body {
        Body::Opened(opened) => proto::entry::Body::LedgerOpened(proto::LedgerOpened {
            ledger_id: opened.ledger_id.to_vec(),
            origin: opened.origin.clone(),
            format_version: opened.format_version,
            created_at_ms: opened.created_at.0,
        }),
        Body::Act(act) => proto::entry::Body::ConsentAct(act_to_proto(act)),
        Body::PurposePut(put) => proto::entry::Body::PurposePut(purpose_to_proto(put)),
        Body::ChannelPut(put) => proto::entry::Body::ChannelPut(proto::ChannelPut {
            key: put.key.to_string(),
            title: put.title.clone(),
            retired: put.retired,
        }),
        Body::Confirmed(confirmed) => {
            proto::entry::Body::ConsentConfirmed(confirmed_to_proto(confirmed))
        }
        Body::Expired(expired) => proto::entry::Body::GrantExpired(proto::GrantExpired {
            subject_ref: expired.subject_ref.0.to_vec(),
            grant_index: expired.grant_index,
            expired_at_ms: expired.expired_at.0,
            reason: proto::Reason::from(expired.reason).into(),
            changes: expired.changes.iter().map(change_to_proto).collect(),
        }),
        Body::Link(link) => link_to_proto(link),
        Body::Use(used) => proto::entry::Body::UseRecorded(use_to_proto(used)),
        Body::Subscription(SubscriptionEntry::Created(created)) => {
            proto::entry::Body::SubscriptionCreated(subscribed_to_proto(created))
        }
        Body::Subscription(SubscriptionEntry::Deleted(subscription)) => {
            proto::entry::Body::SubscriptionDeleted(proto::SubscriptionDeleted {
                subscription_index: subscription.0,
            })
        }
        Body::Subscription(SubscriptionEntry::Delivered(delivered)) => {
            proto::entry::Body::DeliveryReceipt(proto::DeliveryReceipt {
                delivered: delivered.iter().map(delivered_to_proto).collect(),
            })
        }
        Body::Subscription(SubscriptionEntry::Failed(failed)) => {
            proto::entry::Body::DeliveryFailed(failed_to_proto(failed))
        }
        Body::Subscription(SubscriptionEntry::Overdue(overdue)) => {
            proto::entry::Body::DeliveryOverdue(proto::DeliveryOverdue {
                subscription_index: overdue.subscription.0,
                shard: overdue.shard,
                event_index: overdue.event_index,
                pending_since_ms: overdue.pending_since.0,
            })
        }
    };
    let entry = proto::Entry {
        index: entry.index,
        prev_hash: entry.prev_hash.to_vec(),
        recorded_at_ms: entry.recorded_at.0,
        body: Some(body),
    };
    entry.encode_to_vec()
}

/// Reads an entry.
///
/// # Errors
/// The first thing that this program does not understand.
pub fn decode(bytes: &[u8]) -> Result<Entry, EntryError> {
    let entry = proto::Entry::decode(bytes).map_err(|e| EntryError::Protobuf(e.to_string()))?;
    let body = match entry.body.ok_or(EntryError::Body)? {
        proto::entry::Body::LedgerOpened(opened) => Body::Opened(LedgerOpened {
            ledger_id: fixed("ledger_id", &opened.ledger_id)?,
            origin: opened.origin,
            format_version: opened.format_version,
            created_at: Millis(opened.created_at_ms),
        }),
        proto::entry::Body::ConsentAct(act) => Body::Act(act_from_proto(act)?),
        proto::entry::Body::PurposePut(put) => Body::PurposePut(purpose_from_proto(put)?),
        proto::entry::Body::ChannelPut(put) => Body::ChannelPut(ChannelPut {
            key: key("channel_put.key", &put.key)?,
            title: put.title,
            retired: put.retired,
        }),
        proto::entry::Body::ConsentConfirmed(confirmed) => {
            Body::Confirmed(confirmed_from_proto(confirmed)?)
        }
        proto::entry::Body::GrantExpired(expired) => Body::Expired(expired_from_proto(expired)?),
        proto::entry::Body::SubjectsLinked(link) => Body::Link(LinkChange {
            confidence: Some(
                link.confidence().try_into().map_err(|()| field("subjects_linked.confidence"))?,
            ),
            subject_ref: SubjectRef(fixed("subject_ref", &link.subject_ref)?),
            other_ref: SubjectRef(fixed("other_ref", &link.other_ref)?),
            asserted_by: link.asserted_by.map(sealed_from_proto).transpose()?,
        }),
        proto::entry::Body::SubjectsUnlinked(link) => Body::Link(LinkChange {
            confidence: None,
            subject_ref: SubjectRef(fixed("subject_ref", &link.subject_ref)?),
            other_ref: SubjectRef(fixed("other_ref", &link.other_ref)?),
            asserted_by: link.asserted_by.map(sealed_from_proto).transpose()?,
        }),
        proto::entry::Body::UseRecorded(used) => Body::Use(use_from_proto(used)?),
        proto::entry::Body::SubscriptionCreated(created) => Body::Subscription(
            SubscriptionEntry::Created(Box::new(subscribed_from_proto(created)?)),
        ),
        proto::entry::Body::SubscriptionDeleted(deleted) => Body::Subscription(
            SubscriptionEntry::Deleted(SubscriptionId(deleted.subscription_index)),
        ),
        proto::entry::Body::DeliveryReceipt(receipt) => {
            let delivered = receipt.delivered.into_iter().map(delivered_from_proto);
            let delivered: Vec<Delivered> = delivered.collect::<Result<_, _>>()?;
            if delivered.is_empty() {
                return Err(field("delivery_receipt.delivered"));
            }
            Body::Subscription(SubscriptionEntry::Delivered(delivered))
        }
        proto::entry::Body::DeliveryFailed(failed) => {
            Body::Subscription(SubscriptionEntry::Failed(failed_from_proto(&failed)?))
        }
        proto::entry::Body::DeliveryOverdue(overdue) => {
            Body::Subscription(SubscriptionEntry::Overdue(DeliveryOverdue {
                subscription: SubscriptionId(overdue.subscription_index),
                shard: overdue.shard,
                event_index: overdue.event_index,
                pending_since: Millis(overdue.pending_since_ms),
            }))
        }
    };
    Ok(Entry {
        index: entry.index,
        prev_hash: fixed("prev_hash", &entry.prev_hash)?,
        recorded_at: Millis(entry.recorded_at_ms),
        body,
    })
}

/// The bytes of an evidence, as they are sealed.
#[must_use]
pub fn encode_evidence(evidence: &Evidence) -> Vec<u8> {
    proto::Evidence::from(evidence.clone()).encode_to_vec()
}

/// Reads an evidence.
///
/// # Errors
/// [`EntryError::Protobuf`].
pub fn decode_evidence(bytes: &[u8]) -> Result<Evidence, EntryError> {
    let evidence = proto::Evidence::decode(bytes);
    evidence.map(Into::into).map_err(|e| EntryError::Protobuf(e.to_string()))
}

impl From<Evidence> for proto::Evidence {
    fn from(evidence: Evidence) -> Self {
        Self {
            touchpoint: evidence.touchpoint,
            notice_id: evidence.notice_id,
            notice_version: evidence.notice_version,
            language: evidence.language,
            notice_hash: evidence.notice_hash,
            method: evidence.method,
            ip_address: evidence.ip_address,
            user_agent: evidence.user_agent,
            attributes: evidence.attributes,
            authority: evidence.authority.map(|authority| proto::Authority {
                relationship: authority.relationship,
                representative: authority.representative,
                proof: authority.proof,
                ends_at: authority.ends_at.map(timestamp),
            }),
        }
    }
}

impl From<proto::Evidence> for Evidence {
    fn from(evidence: proto::Evidence) -> Self {
        Self {
            touchpoint: evidence.touchpoint,
            notice_id: evidence.notice_id,
            notice_version: evidence.notice_version,
            language: evidence.language,
            notice_hash: evidence.notice_hash,
            method: evidence.method,
            ip_address: evidence.ip_address,
            user_agent: evidence.user_agent,
            attributes: evidence.attributes,
            authority: evidence.authority.map(|authority| Authority {
                relationship: authority.relationship,
                representative: authority.representative,
                proof: authority.proof,
                ends_at: authority.ends_at.as_ref().and_then(timestamp_ms),
            }),
        }
    }
}

fn idempotency_to_proto(mark: Option<IdempotencyMark>) -> (Vec<u8>, Vec<u8>) {
    mark.map_or((Vec::new(), Vec::new()), |mark| {
        (mark.key_hash.to_vec(), mark.request_digest.to_vec())
    })
}

fn idempotency_from_proto(
    key_hash: &[u8],
    request_digest: &[u8],
) -> Result<Option<IdempotencyMark>, EntryError> {
    if key_hash.is_empty() && request_digest.is_empty() {
        return Ok(None);
    }
    Ok(Some(IdempotencyMark {
        key_hash: fixed("idempotency_key_hash", key_hash)?,
        request_digest: fixed("request_digest", request_digest)?,
    }))
}

fn sealed_to_proto(sealed: &Sealed) -> proto::Sealed {
    proto::Sealed {
        salt: sealed.salt.to_vec(),
        ciphertext: sealed.ciphertext.clone(),
        commitment: sealed.commitment.to_vec(),
    }
}

fn act_to_proto(act: &ConsentAct) -> proto::ConsentAct {
    let (key_hash, request_digest) = idempotency_to_proto(act.idempotency);
    proto::ConsentAct {
        subject_ref: act.subject_ref.0.to_vec(),
        actor: proto::Actor::from(act.actor).into(),
        effective_at_ms: act.effective_at.0,
        changes: act.changes.iter().map(change_to_proto).collect(),
        evidence: act.evidence.as_ref().map(sealed_to_proto),
        idempotency_key_hash: key_hash,
        request_digest,
        authority_ends_at_ms: act.authority_ends_at.map(|at| at.0),
        confirmation: act.confirmation.map(|offer| proto::ConfirmationOffer {
            token_hash: offer.token_hash.to_vec(),
            expires_at_ms: offer.expires_at.0,
        }),
        preferences: (!act.contact.is_empty()).then(|| contact_to_proto(&act.contact)),
    }
}

fn act_from_proto(act: proto::ConsentAct) -> Result<ConsentAct, EntryError> {
    let actor = Actor::try_from(act.actor()).map_err(|()| EntryError::Field { field: "actor" })?;
    let idempotency = idempotency_from_proto(&act.idempotency_key_hash, &act.request_digest)?;
    let contact = act.preferences.as_ref().map(contact_from_proto).transpose()?.unwrap_or_default();
    let confirmation = act.confirmation.map(|offer| {
        let token_hash = fixed("confirmation.token_hash", &offer.token_hash)?;
        Ok(ConfirmationOffer { token_hash, expires_at: Millis(offer.expires_at_ms) })
    });
    if act.changes.is_empty() && contact.is_empty() {
        return Err(EntryError::Field { field: "changes" });
    }
    Ok(ConsentAct {
        subject_ref: SubjectRef(fixed("subject_ref", &act.subject_ref)?),
        actor,
        effective_at: Millis(act.effective_at_ms),
        changes: act.changes.into_iter().map(change_from_proto).collect::<Result<_, _>>()?,
        evidence: act.evidence.map(sealed_from_proto).transpose()?,
        idempotency,
        authority_ends_at: act.authority_ends_at_ms.map(Millis),
        confirmation: confirmation.transpose()?,
        contact,
    })
}

fn confirmed_to_proto(confirmed: &ConsentConfirmed) -> proto::ConsentConfirmed {
    let (key_hash, request_digest) = idempotency_to_proto(confirmed.idempotency);
    proto::ConsentConfirmed {
        subject_ref: confirmed.subject_ref.0.to_vec(),
        request_index: confirmed.request_index,
        requested_by: proto::Actor::from(confirmed.requested_by).into(),
        requested_at_ms: confirmed.requested_at.0,
        authority_ends_at_ms: confirmed.authority_ends_at.map(|at| at.0),
        effective_at_ms: confirmed.effective_at.0,
        grants: confirmed.grants.iter().map(change_to_proto).collect(),
        evidence: confirmed.evidence.as_ref().map(sealed_to_proto),
        idempotency_key_hash: key_hash,
        request_digest,
    }
}

fn confirmed_from_proto(
    confirmed: proto::ConsentConfirmed,
) -> Result<ConsentConfirmed, EntryError> {
    Ok(ConsentConfirmed {
        subject_ref: SubjectRef(fixed("subject_ref", &confirmed.subject_ref)?),
        request_index: confirmed.request_index,
        requested_by: confirmed.requested_by().try_into().map_err(|()| field("requested_by"))?,
        requested_at: Millis(confirmed.requested_at_ms),
        authority_ends_at: confirmed.authority_ends_at_ms.map(Millis),
        effective_at: Millis(confirmed.effective_at_ms),
        idempotency: idempotency_from_proto(
            &confirmed.idempotency_key_hash,
            &confirmed.request_digest,
        )?,
        grants: confirmed.grants.into_iter().map(change_from_proto).collect::<Result<_, _>>()?,
        evidence: confirmed.evidence.map(sealed_from_proto).transpose()?,
    })
}

fn expired_from_proto(expired: proto::GrantExpired) -> Result<GrantExpired, EntryError> {
    Ok(GrantExpired {
        subject_ref: SubjectRef(fixed("subject_ref", &expired.subject_ref)?),
        grant_index: expired.grant_index,
        expired_at: Millis(expired.expired_at_ms),
        reason: expired.reason().try_into().map_err(|()| field("reason"))?,
        changes: expired.changes.into_iter().map(change_from_proto).collect::<Result<_, _>>()?,
    })
}

fn link_to_proto(link: &LinkChange) -> proto::entry::Body {
    let subject_ref = link.subject_ref.0.to_vec();
    let other_ref = link.other_ref.0.to_vec();
    let asserted_by = link.asserted_by.as_ref().map(sealed_to_proto);
    match link.confidence {
        Some(confidence) => proto::entry::Body::SubjectsLinked(proto::SubjectsLinked {
            subject_ref,
            other_ref,
            confidence: proto::LinkConfidence::from(confidence).into(),
            asserted_by,
        }),
        None => proto::entry::Body::SubjectsUnlinked(proto::SubjectsUnlinked {
            subject_ref,
            other_ref,
            asserted_by,
        }),
    }
}

fn use_to_proto(used: &UseRecorded) -> proto::UseRecorded {
    let (key_hash, request_digest) = idempotency_to_proto(used.idempotency);
    proto::UseRecorded {
        scope: Some(proto::Scope {
            purpose: used.purpose.to_string(),
            channel: used.channel.to_string(),
        }),
        used_at_ms: used.used_at.0,
        segment: used.segment.clone(),
        campaign: used.campaign.clone(),
        data_categories: used.data_categories.clone(),
        region: used.region.map_or_else(String::new, |region| region.to_string()),
        subject_refs: used.subject_refs.iter().flat_map(|subject| subject.0).collect(),
        reason: proto::Reason::from(used.reason).into(),
        idempotency_key_hash: key_hash,
        request_digest,
    }
}

fn use_from_proto(used: proto::UseRecorded) -> Result<UseRecorded, EntryError> {
    let reason = used.reason().try_into().map_err(|()| field("reason"))?;
    let idempotency = idempotency_from_proto(&used.idempotency_key_hash, &used.request_digest)?;
    let scope = used.scope.ok_or(field("scope"))?;
    let (subject_refs, rest) = used.subject_refs.as_chunks::<16>();
    if !rest.is_empty() || subject_refs.is_empty() {
        return Err(field("subject_refs"));
    }
    Ok(UseRecorded {
        purpose: key("scope.purpose", &scope.purpose)?,
        channel: key("scope.channel", &scope.channel)?,
        used_at: Millis(used.used_at_ms),
        segment: used.segment,
        campaign: used.campaign,
        data_categories: used.data_categories,
        region: optional_region(&used.region)?,
        subject_refs: subject_refs.iter().copied().map(SubjectRef).collect(),
        reason,
        idempotency,
    })
}

fn subscribed_to_proto(created: &SubscriptionCreated) -> proto::SubscriptionCreated {
    proto::SubscriptionCreated {
        name: created.name.to_string(),
        owner: created.owner.clone(),
        filter: Some(filter_to_proto(&created.filter)),
        start_index: created.start_index,
        snapshot: snapshot_to_proto(created.snapshot).into(),
        shards: created.shards,
        deadline_ms: created.deadline_ms,
        webhook_url: created.webhook_url.clone().unwrap_or_default(),
    }
}

fn subscribed_from_proto(
    created: proto::SubscriptionCreated,
) -> Result<SubscriptionCreated, EntryError> {
    let snapshot = match proto::Snapshot::try_from(created.snapshot) {
        Ok(proto::Snapshot::Unspecified) => None,
        Ok(proto::Snapshot::Denied) => Some(Snapshot::Denied),
        Ok(proto::Snapshot::All) => Some(Snapshot::All),
        Err(_) => return Err(field("snapshot")),
    };
    if created.shards == 0 || created.shards > SHARDS_MAX {
        return Err(field("shards"));
    }
    Ok(SubscriptionCreated {
        name: key("subscription_created.name", &created.name)?,
        owner: created.owner,
        filter: filter_from_proto(&created.filter.unwrap_or_default())?,
        start_index: created.start_index,
        snapshot,
        shards: created.shards,
        deadline_ms: created.deadline_ms,
        webhook_url: Some(created.webhook_url).filter(|url| !url.is_empty()),
    })
}

/// Which state a snapshot tells, as a message.
#[must_use]
pub fn snapshot_to_proto(snapshot: Option<Snapshot>) -> proto::Snapshot {
    match snapshot {
        None => proto::Snapshot::Unspecified,
        Some(Snapshot::Denied) => proto::Snapshot::Denied,
        Some(Snapshot::All) => proto::Snapshot::All,
    }
}

/// A filter as a message.
#[must_use]
pub fn filter_to_proto(filter: &Filter) -> proto::WatchFilter {
    let texts = |keys: &BTreeSet<Key>| keys.iter().map(ToString::to_string).collect();
    proto::WatchFilter {
        purposes: texts(&filter.purposes),
        channels: texts(&filter.channels),
        kinds: filter.kinds.iter().map(|kind| proto::EventKind::from(*kind).into()).collect(),
        namespaces: filter.namespaces.iter().cloned().collect(),
    }
}

fn filter_from_proto(filter: &proto::WatchFilter) -> Result<Filter, EntryError> {
    let keys = |name, texts: &[String]| {
        texts.iter().map(|text| key(name, text)).collect::<Result<BTreeSet<_>, _>>()
    };
    let kind = |number: &i32| {
        let kind = proto::EventKind::try_from(*number).ok();
        kind.and_then(|kind| kind.try_into().ok()).ok_or(field("filter.kinds"))
    };
    Ok(Filter {
        purposes: keys("filter.purposes", &filter.purposes)?,
        channels: keys("filter.channels", &filter.channels)?,
        kinds: filter.kinds.iter().map(kind).collect::<Result<_, _>>()?,
        namespaces: filter.namespaces.iter().cloned().collect(),
    })
}

fn delivered_to_proto(delivered: &Delivered) -> proto::Delivered {
    let range =
        |range: &Range<u64>| proto::IndexRange { start_index: range.start, end_index: range.end };
    proto::Delivered {
        subscription_index: delivered.subscription.0,
        shard: delivered.shard,
        ranges: delivered.ranges.iter().map(range).collect(),
        acknowledged_at_ms: delivered.acknowledged_at.0,
        snapshot: delivered.snapshot,
    }
}

fn delivered_from_proto(delivered: proto::Delivered) -> Result<Delivered, EntryError> {
    let mut last = 0;
    let range = |range: proto::IndexRange| {
        let ascends = last <= range.start_index && range.start_index < range.end_index;
        last = range.end_index;
        ascends.then_some(range.start_index..range.end_index).ok_or(field("ranges"))
    };
    Ok(Delivered {
        subscription: SubscriptionId(delivered.subscription_index),
        shard: delivered.shard,
        ranges: delivered.ranges.into_iter().map(range).collect::<Result<_, _>>()?,
        acknowledged_at: Millis(delivered.acknowledged_at_ms),
        snapshot: delivered.snapshot,
    })
}

fn failed_to_proto(failed: &DeliveryFailed) -> proto::DeliveryFailed {
    let one = |failed: &FailedDelivery| proto::FailedDelivery {
        index: failed.index,
        attempts: failed.attempts,
        http_status: failed.http_status,
    };
    proto::DeliveryFailed {
        subscription_index: failed.subscription.0,
        shard: failed.shard,
        failed: failed.failed.iter().map(one).collect(),
    }
}

fn failed_from_proto(failed: &proto::DeliveryFailed) -> Result<DeliveryFailed, EntryError> {
    if failed.failed.is_empty() || !failed.failed.is_sorted_by(|a, b| a.index < b.index) {
        return Err(field("delivery_failed.failed"));
    }
    let one = |failed: &proto::FailedDelivery| FailedDelivery {
        index: failed.index,
        attempts: failed.attempts,
        http_status: failed.http_status,
    };
    Ok(DeliveryFailed {
        subscription: SubscriptionId(failed.subscription_index),
        shard: failed.shard,
        failed: failed.failed.iter().map(one).collect(),
    })
}

fn optional_region(text: &str) -> Result<Option<Region>, EntryError> {
    if text.is_empty() { Ok(None) } else { region(text).map(Some) }
}

fn region(text: &str) -> Result<Region, EntryError> {
    Region::parse(text).map_err(|_| field("region"))
}

const fn field(field: &'static str) -> EntryError {
    EntryError::Field { field }
}

/// Preferences of how to be contacted, as a message.
#[must_use]
pub fn contact_to_proto(contact: &ContactChange) -> proto::ContactPreferences {
    fn value<T>(said: &Said<T>) -> Option<&T> {
        match said {
            Said::Value(value) => Some(value),
            Said::Nothing | Said::Clear => None,
        }
    }
    let cleared = [
        ("time_zones", contact.time_zones == Said::Clear),
        ("language", contact.language == Said::Clear),
        ("quiet_hours", contact.quiet_hours == Said::Clear),
        ("frequency_limit", contact.frequency_limit == Said::Clear),
    ];
    proto::ContactPreferences {
        time_zones: value(&contact.time_zones).cloned().unwrap_or_default(),
        language: value(&contact.language).cloned().unwrap_or_default(),
        quiet_hours: value(&contact.quiet_hours).map(|span| proto::QuietHours {
            start_minute: span.start_minute,
            end_minute: span.end_minute,
            time_zone: String::new(),
        }),
        frequency_limit: value(&contact.frequency_limit).map(|cap| proto::FrequencyLimit {
            uses_max: cap.uses_max,
            period: Some(duration(cap.period_ms)),
        }),
        clear: cleared.iter().filter(|(_, is)| *is).map(|(name, _)| (*name).to_owned()).collect(),
    }
}

fn contact_from_proto(message: &proto::ContactPreferences) -> Result<ContactChange, EntryError> {
    let clears = |name: &str| message.clear.iter().any(|cleared| cleared == name);
    let frequency_limit = match &message.frequency_limit {
        None => None,
        Some(limit) => Some(FrequencyCap {
            uses_max: limit.uses_max,
            period_ms: limit
                .period
                .as_ref()
                .and_then(duration_ms)
                .ok_or(field("frequency_limit.period"))?,
        }),
    };
    let quiet_hours = message
        .quiet_hours
        .as_ref()
        .map(|hours| QuietSpan { start_minute: hours.start_minute, end_minute: hours.end_minute });
    let time_zones = Some(message.time_zones.clone()).filter(|zones| !zones.is_empty());
    let language = Some(message.language.clone()).filter(|language| !language.is_empty());
    Ok(ContactChange {
        time_zones: said(time_zones, clears("time_zones")),
        language: said(language, clears("language")),
        quiet_hours: said(quiet_hours, clears("quiet_hours")),
        frequency_limit: said(frequency_limit, clears("frequency_limit")),
    })
}

fn said<T>(value: Option<T>, is_cleared: bool) -> Said<T> {
    match value {
        Some(value) => Said::Value(value),
        None if is_cleared => Said::Clear,
        None => Said::Nothing,
    }
}

fn sealed_from_proto(sealed: proto::Sealed) -> Result<Sealed, EntryError> {
    Ok(Sealed {
        salt: fixed("evidence.salt", &sealed.salt)?,
        ciphertext: sealed.ciphertext,
        commitment: fixed("evidence.commitment", &sealed.commitment)?,
    })
}

fn change_to_proto(change: &ChangeRecord) -> proto::ChangeRecord {
    let text = |key: &Option<Key>| key.as_ref().map_or(String::new(), ToString::to_string);
    proto::ChangeRecord {
        action: proto::Action::from(change.action).into(),
        scope: Some(proto::Scope {
            purpose: text(&change.scope.purpose),
            channel: text(&change.scope.channel),
        }),
        purpose_version: change.purpose_version,
        expires_at_ms: change.expires_at.map(|at| at.0),
        outcome: proto::Outcome::from(change.outcome).into(),
        cause_index: change.outcome.cause_index(),
        data_categories: change.data_categories.clone(),
    }
}

fn change_from_proto(change: proto::ChangeRecord) -> Result<ChangeRecord, EntryError> {
    let action = change.action().try_into().map_err(|()| EntryError::Field { field: "action" })?;
    let outcome = outcome_from_proto(change.outcome(), change.cause_index)?;
    let scope = change.scope.ok_or(EntryError::Field { field: "scope" })?;
    let key_or_all = |field, text: &str| {
        if text.is_empty() { Ok(None) } else { key(field, text).map(Some) }
    };
    let scope = ScopeKeys {
        purpose: key_or_all("scope.purpose", &scope.purpose)?,
        channel: key_or_all("scope.channel", &scope.channel)?,
    };
    if action == Action::Grant && (scope.purpose.is_none() || scope.channel.is_none()) {
        return Err(EntryError::Field { field: "scope of a grant" });
    }
    Ok(ChangeRecord {
        action,
        scope,
        purpose_version: change.purpose_version,
        expires_at: change.expires_at_ms.map(Millis),
        data_categories: change.data_categories,
        outcome,
    })
}

fn outcome_from_proto(outcome: proto::Outcome, cause: Option<u64>) -> Result<Outcome, EntryError> {
    let cause = cause.ok_or(EntryError::Field { field: "cause_index" });
    Ok(match outcome {
        proto::Outcome::Unspecified => return Err(EntryError::Field { field: "outcome" }),
        proto::Outcome::Applied => Outcome::Applied,
        proto::Outcome::NoEffect => Outcome::NoEffect,
        proto::Outcome::BlockedByStop => Outcome::BlockedByStop(cause?),
        proto::Outcome::SupersededByLater => Outcome::SupersededByLater(cause?),
        proto::Outcome::PendingConfirmation => Outcome::PendingConfirmation,
    })
}

fn purpose_to_proto(put: &PurposePut) -> proto::PurposePut {
    let content = &put.content;
    proto::PurposePut {
        key: put.key.to_string(),
        version: put.version,
        title: content.title.clone(),
        description: content.description.clone(),
        legal_basis: proto::LegalBasis::from(content.legal_basis).into(),
        data_categories: content.data_categories.clone(),
        default_validity_ms: content.default_validity_ms,
        double_opt_in: content.double_opt_in,
        oldest_compatible_version: put.oldest_compatible,
        retired: put.retired,
        obligations: content.obligations.iter().map(obligation_to_proto).collect(),
        basis_by_region: bases_to_proto(&content.basis_by_region),
    }
}

/// Legal bases by region, as a message's map.
#[must_use]
pub fn bases_to_proto(bases: &BTreeMap<Region, LegalBasis>) -> BTreeMap<String, i32> {
    let with_text = |(region, basis): (&Region, &LegalBasis)| {
        (region.to_string(), proto::LegalBasis::from(*basis).into())
    };
    bases.iter().map(with_text).collect()
}

fn bases_from_proto(
    bases: &BTreeMap<String, i32>,
) -> Result<BTreeMap<Region, LegalBasis>, EntryError> {
    let parse = |(text, number): (&String, &i32)| {
        let basis = proto::LegalBasis::try_from(*number).ok();
        let basis = basis.and_then(|basis| basis.try_into().ok());
        Ok((region(text)?, basis.ok_or(field("basis_by_region"))?))
    };
    bases.iter().map(parse).collect()
}

fn purpose_from_proto(put: proto::PurposePut) -> Result<PurposePut, EntryError> {
    let legal_basis = put.legal_basis().try_into().map_err(|()| field("legal_basis"))?;
    if put.version == 0 {
        return Err(field("version"));
    }
    let basis_by_region = bases_from_proto(&put.basis_by_region)?;
    let obligations: Option<Vec<Obligation>> =
        put.obligations.into_iter().map(obligation_from_proto).collect();
    Ok(PurposePut {
        key: key("purpose_put.key", &put.key)?,
        version: put.version,
        content: PurposeVersion {
            title: put.title,
            description: put.description,
            legal_basis,
            basis_by_region,
            data_categories: put.data_categories,
            default_validity_ms: put.default_validity_ms,
            double_opt_in: put.double_opt_in,
            obligations: obligations.ok_or(field("obligations"))?,
        },
        oldest_compatible: put.oldest_compatible_version,
        retired: put.retired,
    })
}

/// An obligation as a message.
#[must_use]
pub fn obligation_to_proto(obligation: &Obligation) -> proto::Obligation {
    use proto::obligation::Kind;
    let kind = match obligation {
        Obligation::FrequencyLimit { uses_max, period_ms } => {
            Kind::FrequencyLimit(proto::FrequencyLimit {
                uses_max: *uses_max,
                period: Some(duration(*period_ms)),
            })
        }
        Obligation::QuietHours { start_minute, end_minute, time_zone } => {
            Kind::QuietHours(proto::QuietHours {
                start_minute: *start_minute,
                end_minute: *end_minute,
                time_zone: time_zone.clone(),
            })
        }
    };
    proto::Obligation { kind: Some(kind), ..Default::default() }
}

fn obligation_from_proto(obligation: proto::Obligation) -> Option<Obligation> {
    use proto::obligation::Kind;
    Some(match obligation.kind? {
        Kind::FrequencyLimit(limit) => Obligation::FrequencyLimit {
            uses_max: limit.uses_max,
            period_ms: limit.period.as_ref().and_then(duration_ms)?,
        },
        Kind::QuietHours(hours) => Obligation::QuietHours {
            start_minute: hours.start_minute,
            end_minute: hours.end_minute,
            time_zone: hours.time_zone,
        },
        // A preference of the data subject, and no purpose's.
        Kind::PreferredLanguage(_) => return None,
    })
}

/// A span of milliseconds as a message.
#[must_use]
pub fn duration(span_ms: i64) -> prost_types::Duration {
    let nanos = i32::try_from(span_ms % 1_000).map_or(0, |ms| ms * 1_000_000);
    prost_types::Duration { seconds: span_ms / 1_000, nanos }
}

/// A moment as a message.
#[must_use]
pub fn timestamp(at: Millis) -> prost_types::Timestamp {
    let nanos = i32::try_from(at.0.rem_euclid(1_000) * 1_000_000).unwrap_or_default();
    prost_types::Timestamp { seconds: at.0.div_euclid(1_000), nanos }
}

/// The moment of a message, cut off to the millisecond; none if it overflows.
#[must_use]
pub fn timestamp_ms(timestamp: &prost_types::Timestamp) -> Option<Millis> {
    let millis = i64::from(timestamp.nanos.div_euclid(1_000_000));
    timestamp.seconds.checked_mul(1_000)?.checked_add(millis).map(Millis)
}

/// The milliseconds of a duration; none if they overflow or are no whole number.
#[must_use]
pub fn duration_ms(duration: &prost_types::Duration) -> Option<i64> {
    let nanos = i64::from(duration.nanos);
    if nanos % 1_000_000 != 0 {
        return None;
    }
    duration.seconds.checked_mul(1_000)?.checked_add(nanos / 1_000_000)
}

fn key(field: &'static str, text: &str) -> Result<Key, EntryError> {
    Key::parse(text).map_err(|problem| EntryError::Key { field, problem })
}

fn fixed<const N: usize>(field: &'static str, bytes: &[u8]) -> Result<[u8; N], EntryError> {
    bytes.try_into().map_err(|_| EntryError::Length { field, want: N, got: bytes.len() })
}

/// Maps the variants of a domain enum to those of its message, and back. UNSPECIFIED maps to an
/// error.
macro_rules! same_variants {
    ($domain:ident, $proto:ident, $($variant:ident),+) => {
        impl From<$domain> for proto::$proto {
            fn from(value: $domain) -> Self {
                match value { $($domain::$variant => Self::$variant,)+ }
            }
        }
        impl TryFrom<proto::$proto> for $domain {
            type Error = ();
            fn try_from(value: proto::$proto) -> Result<Self, ()> {
                match value {
                    proto::$proto::Unspecified => Err(()),
                    $(proto::$proto::$variant => Ok(Self::$variant),)+
                }
            }
        }
    };
}

same_variants!(Actor, Actor, Subject, Guardian, Agent, Operator, System, Import);
same_variants!(Action, Action, Grant, Refuse, Withdraw, Object, Expire);
same_variants!(
    EventKind,
    EventKind,
    Grant,
    Refuse,
    Withdraw,
    Object,
    Expire,
    Link,
    Catalog,
    Preferences,
    Overdue
);
same_variants!(LinkConfidence, LinkConfidence, Verified, Asserted);
same_variants!(
    Reason,
    Reason,
    UnknownPurpose,
    UnknownChannel,
    PurposeRetired,
    NotConsentBased,
    Erased,
    Refused,
    Withdrawn,
    Revoked,
    Objected,
    NoObjection,
    NoRecord,
    PendingConfirmation,
    Expired,
    ReconsentRequired,
    DataCategoryNotCovered,
    Granted
);
same_variants!(
    LegalBasis,
    LegalBasis,
    Consent,
    Contract,
    LegalObligation,
    VitalInterest,
    PublicTask,
    LegitimateInterest
);

impl From<Outcome> for proto::Outcome {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Applied => Self::Applied,
            Outcome::NoEffect => Self::NoEffect,
            Outcome::BlockedByStop(_) => Self::BlockedByStop,
            Outcome::SupersededByLater(_) => Self::SupersededByLater,
            Outcome::PendingConfirmation => Self::PendingConfirmation,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    fn any_catalog_key() -> impl Strategy<Value = Key> {
        "[a-z0-9_-]{1,8}(\\.[a-z0-9_-]{1,8}){0,2}".prop_map(|text| Key::parse(&text).unwrap())
    }

    fn any_actor() -> impl Strategy<Value = Actor> {
        use Actor::{Agent, Guardian, Import, Operator, Subject, System};
        prop::sample::select(vec![Subject, Guardian, Agent, Operator, System, Import])
    }

    fn any_outcome() -> impl Strategy<Value = Outcome> {
        prop_oneof![
            Just(Outcome::Applied),
            Just(Outcome::NoEffect),
            any::<u64>().prop_map(Outcome::BlockedByStop),
            any::<u64>().prop_map(Outcome::SupersededByLater),
            Just(Outcome::PendingConfirmation),
        ]
    }

    fn any_change() -> impl Strategy<Value = ChangeRecord> {
        let stop = prop::sample::select(vec![Action::Refuse, Action::Withdraw, Action::Object]);
        let stop = (stop, option::of(any_catalog_key()), option::of(any_catalog_key()))
            .prop_map(|(action, purpose, channel)| (action, ScopeKeys { purpose, channel }));
        let grant = (any_catalog_key(), any_catalog_key()).prop_map(|(purpose, channel)| {
            (Action::Grant, ScopeKeys { purpose: Some(purpose), channel: Some(channel) })
        });
        let details = (any::<u32>(), option::of(any::<i64>()), vec("[a-z.]{1,9}", 0..3));
        (prop_oneof![stop, grant], details, any_outcome()).prop_map(
            |((action, scope), (purpose_version, expires_at, data_categories), outcome)| {
                let expires_at = expires_at.map(Millis);
                ChangeRecord {
                    action,
                    scope,
                    purpose_version,
                    expires_at,
                    data_categories,
                    outcome,
                }
            },
        )
    }

    fn any_sealed() -> impl Strategy<Value = Sealed> {
        (any::<[u8; 16]>(), any::<Vec<u8>>(), any::<[u8; 32]>())
            .prop_map(|(salt, ciphertext, commitment)| Sealed { salt, ciphertext, commitment })
    }

    fn any_mark() -> impl Strategy<Value = IdempotencyMark> {
        any::<([u8; 32], [u8; 32])>()
            .prop_map(|(key_hash, request_digest)| IdempotencyMark { key_hash, request_digest })
    }

    fn any_said<T: Clone + std::fmt::Debug>(
        value: impl Strategy<Value = T>,
    ) -> impl Strategy<Value = Said<T>> {
        (any::<bool>(), option::of(value)).prop_map(|(clear, value)| said(value, clear))
    }

    fn any_contact() -> impl Strategy<Value = ContactChange> {
        let span = (0u32..1440, 0u32..1440)
            .prop_map(|(start_minute, end_minute)| QuietSpan { start_minute, end_minute });
        let cap = any::<(u32, i64)>()
            .prop_map(|(uses_max, period_ms)| FrequencyCap { uses_max, period_ms });
        let zones = vec("[A-Z][a-z]{1,5}", 1..3);
        (any_said(zones), any_said("[a-z]{2}"), any_said(span), any_said(cap)).prop_map(
            |(time_zones, language, quiet_hours, frequency_limit)| ContactChange {
                time_zones,
                language,
                quiet_hours,
                frequency_limit,
            },
        )
    }

    fn any_act() -> impl Strategy<Value = ConsentAct> {
        let who = (any::<[u8; 16]>(), any_actor(), any::<i64>());
        let offer = any::<([u8; 32], i64)>()
            .prop_map(|(token_hash, at)| ConfirmationOffer { token_hash, expires_at: Millis(at) });
        let rest = (option::of(any::<i64>()), option::of(offer), any_contact());
        let sealed = option::of(any_sealed());
        (who, vec(any_change(), 1..4), sealed, option::of(any_mark()), rest).prop_map(
            |((subject, actor, at), changes, evidence, idempotency, rest)| {
                let (authority_ends_at, confirmation, contact) = rest;
                ConsentAct {
                    subject_ref: SubjectRef(subject),
                    actor,
                    effective_at: Millis(at),
                    changes,
                    evidence,
                    idempotency,
                    authority_ends_at: authority_ends_at.map(Millis),
                    confirmation,
                    contact,
                }
            },
        )
    }

    fn any_confirmed() -> impl Strategy<Value = ConsentConfirmed> {
        any_act().prop_map(|act| ConsentConfirmed {
            subject_ref: act.subject_ref,
            request_index: act.changes.len() as u64,
            requested_by: act.actor,
            requested_at: act.effective_at,
            authority_ends_at: act.authority_ends_at,
            effective_at: act.effective_at,
            grants: act.changes,
            evidence: act.evidence,
            idempotency: act.idempotency,
        })
    }

    fn any_expired() -> impl Strategy<Value = GrantExpired> {
        let reason = prop::sample::select(vec![Reason::Expired, Reason::ReconsentRequired]);
        (any_act(), any::<u64>(), reason).prop_map(|(act, grant_index, reason)| GrantExpired {
            subject_ref: act.subject_ref,
            grant_index,
            expired_at: act.effective_at,
            reason,
            changes: act.changes,
        })
    }

    fn any_link() -> impl Strategy<Value = LinkChange> {
        use LinkConfidence::{Asserted, Verified};
        let confidence = option::of(prop::sample::select(vec![Verified, Asserted]));
        (any::<[u8; 16]>(), any::<[u8; 16]>(), confidence, option::of(any_sealed())).prop_map(
            |(one, other, confidence, asserted_by)| LinkChange {
                subject_ref: SubjectRef(one),
                other_ref: SubjectRef(other),
                confidence,
                asserted_by,
            },
        )
    }

    fn any_use() -> impl Strategy<Value = UseRecorded> {
        let cell = (any_catalog_key(), any_catalog_key());
        let texts = (".{0,9}", ".{0,9}", vec("[a-z.]{1,9}", 0..3));
        let region = option::of(prop::sample::select(vec!["DE", "US-CA"]));
        let reason = prop::sample::select(vec![Reason::NoRecord, Reason::Granted]);
        let rest = (region, vec(any::<[u8; 16]>(), 1..4), reason, option::of(any_mark()));
        (cell, any::<i64>(), texts, rest).prop_map(
            |((purpose, channel), at, (segment, campaign, data_categories), rest)| UseRecorded {
                purpose,
                channel,
                used_at: Millis(at),
                segment,
                campaign,
                data_categories,
                region: rest.0.map(|text| Region::parse(text).unwrap()),
                subject_refs: rest.1.into_iter().map(SubjectRef).collect(),
                reason: rest.2,
                idempotency: rest.3,
            },
        )
    }

    fn any_obligation() -> impl Strategy<Value = Obligation> {
        prop_oneof![
            (any::<u32>(), any::<i64>()).prop_map(|(uses_max, period_ms)| {
                Obligation::FrequencyLimit { uses_max, period_ms }
            }),
            (0u32..1440, 0u32..1440, ".{0,9}").prop_map(|(start_minute, end_minute, time_zone)| {
                Obligation::QuietHours { start_minute, end_minute, time_zone }
            }),
        ]
    }

    fn any_purpose_put() -> impl Strategy<Value = PurposePut> {
        use LegalBasis::{
            Consent, Contract, LegalObligation, LegitimateInterest, PublicTask, VitalInterest,
        };
        let bases =
            vec![Consent, Contract, LegalObligation, VitalInterest, PublicTask, LegitimateInterest];
        let text = (".{0,9}", ".{0,9}", vec("[a-z.]{1,9}", 0..3), vec(any_obligation(), 0..3));
        let rest = (option::of(any::<i64>()), any::<bool>(), any::<bool>(), 1u32.., any::<u32>());
        (any_catalog_key(), prop::sample::select(bases), text, rest).prop_map(
            |(key, legal_basis, (title, description, data_categories, obligations), rest)| {
                let (default_validity_ms, double_opt_in, retired, version, oldest_compatible) =
                    rest;
                let content = PurposeVersion {
                    title,
                    description,
                    legal_basis,
                    basis_by_region: BTreeMap::from([(
                        Region::parse("US-CA").unwrap(),
                        legal_basis,
                    )]),
                    data_categories,
                    default_validity_ms,
                    double_opt_in,
                    obligations,
                };
                PurposePut { key, version, content, oldest_compatible, retired }
            },
        )
    }

    fn any_filter() -> impl Strategy<Value = Filter> {
        let keys = || prop::collection::btree_set(any_catalog_key(), 0..3);
        let kinds = prop::sample::subsequence(EventKind::ALL.to_vec(), 0..EventKind::ALL.len());
        let namespaces = prop::collection::btree_set("[a-z]{1,9}", 0..3);
        (keys(), keys(), kinds, namespaces).prop_map(|(purposes, channels, kinds, namespaces)| {
            Filter { purposes, channels, kinds: kinds.into_iter().collect(), namespaces }
        })
    }

    fn any_subscribed() -> impl Strategy<Value = SubscriptionCreated> {
        let snapshot = option::of(prop::sample::select(vec![Snapshot::Denied, Snapshot::All]));
        let numbers = (any::<u64>(), 1..=SHARDS_MAX, option::of(any::<i64>()));
        let texts = (any_catalog_key(), ".{0,9}", option::of("https://[a-z]{1,9}"));
        (texts, any_filter(), numbers, snapshot).prop_map(
            |((name, owner, webhook_url), filter, (start_index, shards, deadline_ms), snapshot)| {
                SubscriptionCreated {
                    name,
                    owner,
                    filter,
                    start_index,
                    snapshot,
                    shards,
                    deadline_ms,
                    webhook_url,
                }
            },
        )
    }

    /// Ranges that ascend; some touch.
    fn any_ranges() -> impl Strategy<Value = Vec<Range<u64>>> {
        (0..u64::MAX >> 1, vec((0_u64..1 << 40, 1_u64..1 << 40), 0..5)).prop_map(
            |(mut end, steps)| {
                let range = |(gap, len)| {
                    let start = end + gap;
                    end = start + len;
                    start..end
                };
                steps.into_iter().map(range).collect()
            },
        )
    }

    fn any_delivered() -> impl Strategy<Value = Delivered> {
        let rest = any::<(u64, u32, i64, bool)>();
        (rest, any_ranges()).prop_map(|((id, shard, at, snapshot), ranges)| Delivered {
            subscription: SubscriptionId(id),
            shard,
            ranges,
            acknowledged_at: Millis(at),
            snapshot,
        })
    }

    fn any_failed() -> impl Strategy<Value = DeliveryFailed> {
        // A map, as they ascend.
        let failed = prop::collection::btree_map(any::<u64>(), any::<(u32, u32)>(), 1..4);
        (any::<(u64, u32)>(), failed).prop_map(|((id, shard), failed)| {
            let one =
                |(index, (attempts, http_status))| FailedDelivery { index, attempts, http_status };
            let (subscription, failed) = (SubscriptionId(id), failed.into_iter().map(one));
            DeliveryFailed { subscription, shard, failed: failed.collect() }
        })
    }

    fn any_overdue() -> impl Strategy<Value = DeliveryOverdue> {
        any::<(u64, u32, u64, i64)>().prop_map(|(id, shard, event_index, since)| DeliveryOverdue {
            subscription: SubscriptionId(id),
            shard,
            event_index,
            pending_since: Millis(since),
        })
    }

    fn any_body() -> impl Strategy<Value = Body> {
        let opened = (any::<[u8; 16]>(), ".{0,9}", any::<u32>(), any::<i64>()).prop_map(
            |(ledger_id, origin, format_version, created)| LedgerOpened {
                ledger_id,
                origin,
                format_version,
                created_at: Millis(created),
            },
        );
        let channel = (any_catalog_key(), ".{0,9}", any::<bool>())
            .prop_map(|(key, title, retired)| ChannelPut { key, title, retired });
        prop_oneof![
            opened.prop_map(Body::Opened),
            any_act().prop_map(Body::Act),
            any_purpose_put().prop_map(Body::PurposePut),
            channel.prop_map(Body::ChannelPut),
            any_confirmed().prop_map(Body::Confirmed),
            any_expired().prop_map(Body::Expired),
            any_link().prop_map(Body::Link),
            any_use().prop_map(Body::Use),
            any_subscribed().prop_map(|created| Body::Subscription(SubscriptionEntry::Created(
                Box::new(created)
            ))),
            any::<u64>()
                .prop_map(|id| Body::Subscription(SubscriptionEntry::Deleted(SubscriptionId(id)))),
            vec(any_delivered(), 1..4)
                .prop_map(|own| Body::Subscription(SubscriptionEntry::Delivered(own))),
            any_failed().prop_map(|own| Body::Subscription(SubscriptionEntry::Failed(own))),
            any_overdue().prop_map(|own| Body::Subscription(SubscriptionEntry::Overdue(own))),
        ]
    }

    pub(crate) fn any_entry() -> impl Strategy<Value = Entry> {
        (any::<u64>(), any::<[u8; 32]>(), any::<i64>(), any_body()).prop_map(
            |(index, prev_hash, at, body)| Entry {
                index,
                prev_hash,
                recorded_at: Millis(at),
                body,
            },
        )
    }

    proptest! {
        #[test]
        fn every_entry_reads_back(entry in any_entry()) {
            prop_assert_eq!(decode(&encode(&entry)), Ok(entry));
        }

        #[test]
        fn a_cut_entry_is_never_read_as_the_whole(entry in any_entry(), cut: prop::sample::Index) {
            let bytes = encode(&entry);
            prop_assert_ne!(decode(&bytes[..cut.index(bytes.len())]), Ok(entry));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in any::<Vec<u8>>()) {
            let _ = decode(&bytes);
            let _ = decode_evidence(&bytes);
        }

        #[test]
        fn every_evidence_reads_back(
            touchpoint in ".{0,9}", hash in any::<Vec<u8>>(), key in ".{1,9}", value in ".{0,9}",
        ) {
            let mut evidence = Evidence { touchpoint, notice_hash: hash, ..Evidence::default() };
            evidence.attributes.insert(key, value);
            prop_assert_eq!(decode_evidence(&encode_evidence(&evidence)), Ok(evidence));
        }
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        let mut entry = proto::Entry { prev_hash: vec![0; 32], ..Default::default() };
        assert_eq!(decode(&entry.encode_to_vec()), Err(EntryError::Body));
        let mut act =
            proto::ConsentAct { subject_ref: vec![0; 16], actor: 99, ..Default::default() };
        entry.body = Some(proto::entry::Body::ConsentAct(act.clone()));
        assert_eq!(decode(&entry.encode_to_vec()), Err(EntryError::Field { field: "actor" }));
        act.actor = 1;
        entry.body = Some(proto::entry::Body::ConsentAct(act));
        assert_eq!(decode(&entry.encode_to_vec()), Err(EntryError::Field { field: "changes" }));
        entry.prev_hash.pop();
        entry.body = Some(proto::entry::Body::ChannelPut(proto::ChannelPut {
            key: "email".to_owned(),
            ..Default::default()
        }));
        let short = EntryError::Length { field: "prev_hash", want: 32, got: 31 };
        assert_eq!(decode(&entry.encode_to_vec()), Err(short));
    }

    #[test]
    fn what_no_subscription_can_be_is_an_error() {
        let entry =
            |body| proto::Entry { prev_hash: vec![0; 32], body: Some(body), ..Default::default() };
        let refused = |body, field| {
            let error = EntryError::Field { field };
            assert_eq!(decode(&entry(body).encode_to_vec()), Err(error));
        };
        let created = proto::SubscriptionCreated {
            name: "crm".to_owned(),
            shards: SHARDS_MAX + 1,
            ..Default::default()
        };
        refused(proto::entry::Body::SubscriptionCreated(created.clone()), "shards");
        let created = proto::SubscriptionCreated { shards: 0, ..created };
        refused(proto::entry::Body::SubscriptionCreated(created.clone()), "shards");
        let created = proto::SubscriptionCreated { shards: 1, snapshot: 9, ..created };
        refused(proto::entry::Body::SubscriptionCreated(created), "snapshot");
        for ranges in [[(3, 3), (4, 5)], [(3, 5), (4, 6)], [(5, 6), (3, 4)]] {
            let range = |(start_index, end_index)| proto::IndexRange { start_index, end_index };
            let ranges = ranges.into_iter().map(range).collect();
            let delivered = vec![proto::Delivered { ranges, ..Default::default() }];
            let receipt = proto::DeliveryReceipt { delivered };
            refused(proto::entry::Body::DeliveryReceipt(receipt), "ranges");
        }
        refused(proto::entry::Body::DeliveryFailed(Default::default()), "delivery_failed.failed");
    }
}
