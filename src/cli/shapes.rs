//! The JSON that commands print. Scripts rely on it: fields are only ever added.
//!
//! Names mirror the protocol's. Times are RFC 3339, enum values short lower-case words (`allow`,
//! `no_record`), bytes lower-case hex. What is absent is `null`. Where the protocol has a choice of
//! messages, the one chosen is a field by its name, as in `{"consent": {…}}`.
//!
//! | command | prints |
//! | --- | --- |
//! | `record` | [`Recorded`] |
//! | `confirm` | [`Confirmed`] |
//! | `check` | [`Decision`] |
//! | `audience` | ids; [`Audience`] on standard error |
//! | `token verify` | [`TokenVerified`] |
//! | `token key` | [`DecisionKey`] |
//! | `watch` | a [`Watched`] a line |
//! | `subscription create` | [`Subscribed`] |
//! | `subscription list` | a [`SubscriptionStanding`] a line |
//! | `subscription delete` | [`Unsubscribed`] |
//! | `propagation` | [`Propagated`] |
//! | `webhooks dead-letters` | a [`DeadLetter`] a line |
//! | `webhooks replay` | [`DeadLettersReplayed`] |
//! | `webhooks verify` | [`DeliveryVerified`] |
//! | `history` | a [`HistoryAct`] a line |
//! | `preferences` | [`Preferences`] |
//! | `link`, `unlink` | [`Linked`] |
//! | `catalog list` | [`Catalog`] |
//! | `catalog apply` | [`Applied`] |
//! | `catalog preview` | a [`Previewed`] a line |
//! | `use` | [`Used`] |
//! | `verify` | [`Verified`] |
//! | `export` | an [`Entry`] a line; [`Exported`] if that goes to a file |
//! | `rebuild-view` | [`Rebuilt`] |
//! | `replay` | [`Replayed`] |
//! | `import` | [`Imported`] |

mod delivery;
mod events;

use std::collections::BTreeMap;

pub use delivery::{
    DeadLetter, DeadLettersReplayed, DeliveryVerified, EntryDelivered, EntryFailed, EntryFilter,
    EntryRange, Propagated, Propagation, ShardStanding, Subscribed, Subscription,
    SubscriptionStanding, Unsubscribed,
};
pub use events::{
    CatalogTold, Event, LinkTold, OverdueTold, Progress, SnapshotEnd, SnapshotSubject, Watched,
};
use serde::Serialize;

use super::words::{hex, rfc3339, rfc3339_ms, word};
use crate::{ledger::chain, proto, token::Statement};

/// What a change covers; `*` for every purpose or channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Scope {
    /// Purpose key or `*`.
    pub purpose: String,
    /// Channel key or `*`.
    pub channel: String,
}

impl From<Option<&proto::Scope>> for Scope {
    fn from(scope: Option<&proto::Scope>) -> Self {
        let key = |key: &str| if key.is_empty() { "*".to_owned() } else { key.to_owned() };
        let (purpose, channel) = scope.map_or(("", ""), |scope| (&scope.purpose, &scope.channel));
        Self { purpose: key(purpose), channel: key(channel) }
    }
}

/// What became of one change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// `grant`, `refuse`, `withdraw` or `object`.
    pub action: String,
    /// What it covers.
    pub scope: Scope,
    /// `applied`, `no_effect`, `blocked_by_stop`, `superseded_by_later`, `pending_confirmation`.
    pub outcome: String,
    /// Index of the entry that is in the way.
    pub cause_index: Option<u64>,
    /// For grants: the version of the purpose that was agreed to.
    pub purpose_version: Option<u32>,
    /// For grants: when the grant expires.
    pub expires_at: Option<String>,
}

impl From<&proto::ChangeResult> for Change {
    fn from(change: &proto::ChangeResult) -> Self {
        Self {
            action: word::<proto::Action>(change.action),
            scope: change.scope.as_ref().into(),
            outcome: word::<proto::Outcome>(change.outcome),
            cause_index: change.cause_index,
            purpose_version: Some(change.purpose_version).filter(|version| *version > 0),
            expires_at: change.expires_at.as_ref().map(rfc3339),
        }
    }
}

impl From<&proto::EventChange> for Change {
    fn from(change: &proto::EventChange) -> Self {
        Self {
            action: word::<proto::Action>(change.action),
            scope: change.scope.as_ref().into(),
            outcome: word::<proto::Outcome>(change.outcome),
            cause_index: change.cause_index,
            purpose_version: Some(change.purpose_version).filter(|version| *version > 0),
            expires_at: change.expires_at.as_ref().map(rfc3339),
        }
    }
}

/// The answer to `record`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Recorded {
    /// Index of the entry.
    pub index: u64,
    /// First revision that includes it.
    pub revision: u64,
    /// When the ledger recorded it.
    pub recorded_at: Option<String>,
    /// When it took effect.
    pub effective_at: Option<String>,
    /// What became of each change.
    pub results: Vec<Change>,
    /// Whether an earlier call with the same idempotency key recorded it.
    pub replayed: bool,
    /// What completes its double opt-in, if some change waits for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confirmation: Option<Confirmation>,
    /// With `--wait-for-checkpoint`: a signed checkpoint that covers the act.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
}

/// What completes a double opt-in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Confirmation {
    /// The token.
    pub token: String,
    /// First moment at which it no longer counts.
    pub expires_at: Option<String>,
}

/// The answer to `confirm`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Confirmed {
    /// Index of the entry.
    pub index: u64,
    /// First revision that includes it.
    pub revision: u64,
    /// When the ledger recorded it.
    pub recorded_at: Option<String>,
    /// When it took effect.
    pub effective_at: Option<String>,
    /// Index of the act that was confirmed.
    pub request_index: u64,
    /// What became of each grant.
    pub results: Vec<Change>,
    /// Whether an earlier call with the same idempotency key recorded it.
    pub replayed: bool,
}

impl From<&proto::ConfirmConsentResponse> for Confirmed {
    fn from(answer: &proto::ConfirmConsentResponse) -> Self {
        Self {
            index: answer.index,
            revision: answer.revision,
            recorded_at: answer.recorded_at.as_ref().map(rfc3339),
            effective_at: answer.effective_at.as_ref().map(rfc3339),
            request_index: answer.request_index,
            results: answer.results.iter().map(Into::into).collect(),
            replayed: answer.replayed,
        }
    }
}

impl From<&proto::RecordConsentResponse> for Recorded {
    fn from(answer: &proto::RecordConsentResponse) -> Self {
        Self {
            index: answer.index,
            revision: answer.revision,
            recorded_at: answer.recorded_at.as_ref().map(rfc3339),
            effective_at: answer.effective_at.as_ref().map(rfc3339),
            results: answer.results.iter().map(Into::into).collect(),
            replayed: answer.replayed,
            confirmation: answer.confirmation.as_ref().map(|own| Confirmation {
                token: own.token.clone(),
                expires_at: own.expires_at.as_ref().map(rfc3339),
            }),
            checkpoint: Some(answer.checkpoint.clone()).filter(|own| !own.is_empty()),
        }
    }
}

/// A condition that comes with an ALLOW.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Obligation {
    /// At most so many uses within a period.
    FrequencyLimit {
        /// The greatest number of uses.
        uses_max: u32,
        /// Length of the period.
        period_ms: i64,
    },
    /// A daily span of local time without uses.
    QuietHours {
        /// First minute from local midnight.
        start_minute: u32,
        /// First minute after the span.
        end_minute: u32,
        /// IANA time zone, or empty.
        time_zone: String,
    },
    /// Address the data subject in this language.
    PreferredLanguage {
        /// BCP 47 language tag.
        language: String,
    },
    /// One that this build does not know.
    Unknown {},
}

impl From<&proto::Obligation> for Obligation {
    fn from(obligation: &proto::Obligation) -> Self {
        match &obligation.kind {
            Some(proto::obligation::Kind::FrequencyLimit(limit)) => Self::FrequencyLimit {
                uses_max: limit.uses_max,
                period_ms: limit.period.as_ref().map_or(0, duration_ms),
            },
            Some(proto::obligation::Kind::QuietHours(hours)) => Self::QuietHours {
                start_minute: hours.start_minute,
                end_minute: hours.end_minute,
                time_zone: hours.time_zone.clone(),
            },
            Some(proto::obligation::Kind::PreferredLanguage(own)) => {
                Self::PreferredLanguage { language: own.language.clone() }
            }
            None => Self::Unknown {},
        }
    }
}

/// An obligation that comes with an ALLOW, and when it lets the use happen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DueObligation {
    /// The obligation.
    #[serde(flatten)]
    pub obligation: Obligation,
    /// The first moment at which it lets the use happen.
    pub not_before: Option<String>,
    /// Whether no such moment is known.
    pub indeterminate: bool,
}

impl From<&proto::Obligation> for DueObligation {
    fn from(due: &proto::Obligation) -> Self {
        Self {
            obligation: due.into(),
            not_before: due.not_before.as_ref().map(rfc3339),
            indeterminate: due.indeterminate,
        }
    }
}

/// A duration of the protocol, in milliseconds.
#[must_use]
pub fn duration_ms(duration: &prost_types::Duration) -> i64 {
    duration.seconds.saturating_mul(1_000).saturating_add(i64::from(duration.nanos / 1_000_000))
}

/// The answer to `check`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// `allow` or `deny`.
    pub effect: String,
    /// Why, for example `granted` or `no_record`.
    pub reason: String,
    /// Consent status, for example `given`.
    pub status: String,
    /// Index of the entry that decided it.
    pub decided_by_index: Option<u64>,
    /// Revision of the answer.
    pub revision: u64,
    /// First moment at which it could change with no new entry.
    pub valid_until: Option<String>,
    /// Conditions that come with an ALLOW.
    pub obligations: Vec<DueObligation>,
    /// The data categories that the grant is narrowed to.
    pub data_categories: Vec<String>,
    /// The first moment at which all obligations let the use happen, if that is not now.
    pub not_before: Option<String>,
    /// The legal basis that was applied.
    pub legal_basis: Option<String>,
    /// The decision token, if one was asked for.
    pub token: Option<String>,
}

impl From<&proto::CheckResponse> for Decision {
    fn from(answer: &proto::CheckResponse) -> Self {
        Self {
            effect: word::<proto::Effect>(answer.effect),
            reason: word::<proto::Reason>(answer.reason),
            status: word::<proto::Status>(answer.status),
            decided_by_index: answer.decided_by_index,
            revision: answer.revision,
            valid_until: answer.valid_until.as_ref().map(rfc3339),
            obligations: answer.obligations.iter().map(Into::into).collect(),
            data_categories: answer.data_categories.clone(),
            not_before: answer.not_before.as_ref().map(rfc3339),
            legal_basis: (answer.legal_basis != 0)
                .then(|| word::<proto::LegalBasis>(answer.legal_basis)),
            token: Some(answer.token.clone()).filter(|token| !token.is_empty()),
        }
    }
}

/// The answer to `token verify`: what a good token states.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TokenVerified {
    /// `allow` or `deny`.
    pub effect: String,
    /// Why, for example `granted` or `no_record`.
    pub reason: String,
    /// Whether a data subject was given, and the token is about them.
    pub subject_confirmed: bool,
    /// Purpose key.
    pub purpose: String,
    /// Channel key.
    pub channel: String,
    /// Region that was asked for.
    pub region: Option<String>,
    /// Data categories that the answer is about; empty: all that the purpose declares.
    pub data_categories: Vec<String>,
    /// Whether the ALLOW comes with obligations.
    pub has_obligations: bool,
    /// Index of the entry that decided it.
    pub decided_by_index: Option<u64>,
    /// Revision of the answer.
    pub revision: u64,
    /// The ledger's origin.
    pub issuer: String,
    /// When the token was issued.
    pub issued_at: String,
    /// First moment at which it is no longer good.
    pub expires_at: String,
    /// First moment at which the decision could change with no new entry.
    pub valid_until: Option<String>,
}

impl TokenVerified {
    /// What a statement says, and whether it was compared with a data subject.
    #[must_use]
    pub fn new(statement: &Statement, subject_confirmed: bool) -> Self {
        let lifetime = statement.lifetime;
        let time = |seconds: i64| rfc3339_ms(seconds.saturating_mul(1_000));
        Self {
            effect: statement.effect().name().to_ascii_lowercase(),
            reason: statement.reason.name().to_ascii_lowercase(),
            subject_confirmed,
            purpose: statement.purpose.clone(),
            channel: statement.channel.clone(),
            region: statement.region.map(|region| region.as_str().to_owned()),
            data_categories: statement.data_categories.clone(),
            has_obligations: statement.has_obligations,
            decided_by_index: statement.decided_by,
            revision: statement.revision,
            issuer: statement.issuer.clone(),
            issued_at: time(lifetime.issued_at_s),
            expires_at: time(lifetime.expires_at_s),
            valid_until: statement.valid_until.map(|end| rfc3339_ms(end.0)),
        }
    }
}

/// The answer to `token key`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DecisionKey {
    /// Identifier of the key.
    pub key_id: String,
    /// The Ed25519 public key.
    pub public_key: String,
    /// The same as the text of a JSON Web Key.
    pub jwk: String,
    /// The ledger's origin.
    pub issuer: String,
}

impl From<&proto::GetDecisionKeyResponse> for DecisionKey {
    fn from(answer: &proto::GetDecisionKeyResponse) -> Self {
        Self {
            key_id: answer.key_id.clone(),
            public_key: hex(&answer.public_key),
            jwk: answer.jwk.clone(),
            issuer: answer.issuer.clone(),
        }
    }
}

/// What was shown, and how it was answered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// Where it happened.
    pub touchpoint: String,
    /// Notice shown.
    pub notice_id: String,
    /// Its version.
    pub notice_version: String,
    /// Its language.
    pub language: String,
    /// Hash of its text.
    pub notice_hash: String,
    /// How the choice was expressed.
    pub method: String,
    /// Network address of the device.
    pub ip_address: String,
    /// User agent of the device.
    pub user_agent: String,
    /// Free attributes.
    pub attributes: BTreeMap<String, String>,
}

impl From<&proto::Evidence> for Evidence {
    fn from(evidence: &proto::Evidence) -> Self {
        Self {
            touchpoint: evidence.touchpoint.clone(),
            notice_id: evidence.notice_id.clone(),
            notice_version: evidence.notice_version.clone(),
            language: evidence.language.clone(),
            notice_hash: hex(&evidence.notice_hash),
            method: evidence.method.clone(),
            ip_address: evidence.ip_address.clone(),
            user_agent: evidence.user_agent.clone(),
            attributes: evidence.attributes.clone(),
        }
    }
}

/// A line of `history`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HistoryAct {
    /// Index of the entry.
    pub index: u64,
    /// `act`, `confirmation`, `expiry`, `link`, `unlink` or `use`.
    pub kind: String,
    /// When the ledger recorded it.
    pub recorded_at: Option<String>,
    /// When it took effect.
    pub effective_at: Option<String>,
    /// Who acted.
    pub actor: String,
    /// What changed, and what became of it.
    pub changes: Vec<Change>,
    /// What was shown, and how it was answered.
    pub evidence: Evidence,
    /// `hash(index)` of the entry.
    pub entry_hash: String,
    /// Index of the earlier entry that this one completes or ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause_index: Option<u64>,
    /// For acts: the preferences of contact that were given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preferences: Option<Contact>,
    /// For expiries: why the grants ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// For links.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<LinkRecord>,
    /// For uses.
    #[serde(rename = "use", skip_serializing_if = "Option::is_none")]
    pub used: Option<UseRecord>,
    /// When the confirmation token stops counting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confirmation_expires_at: Option<String>,
}

/// A link, as a history shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LinkRecord {
    /// The other data subject.
    pub other_subject: String,
    /// `verified` or `asserted`; null if they were unlinked.
    pub confidence: Option<String>,
    /// Who says so.
    pub asserted_by: String,
}

/// A use, as a history shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UseRecord {
    /// The cell.
    pub scope: Scope,
    /// When.
    pub used_at: Option<String>,
    /// Name of the segment.
    pub segment: String,
    /// Name of the campaign.
    pub campaign: String,
    /// Data categories that were used.
    pub data_categories: Vec<String>,
    /// ISO 3166 region that was asked about.
    pub region: String,
    /// Whether no decision allowed it.
    pub deviation: bool,
    /// What a check answered when it was used.
    pub reason: String,
}

/// How a data subject wants to be contacted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Contact {
    /// IANA time zones that are plausible.
    pub time_zones: Vec<String>,
    /// BCP 47 language tag.
    pub language: Option<String>,
    /// First minute without messages and first minute after them, from local midnight.
    pub quiet_minutes: Option<[u32; 2]>,
    /// At most so many messages in so many milliseconds.
    pub frequency: Option<(u32, i64)>,
    /// Fields to forget.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub clear: Vec<String>,
}

impl Contact {
    /// The preferences for people.
    #[must_use]
    pub fn texts(&self) -> Vec<String> {
        let clock = |minute: u32| format!("{:02}:{:02}", minute / 60, minute % 60);
        let quiet = self
            .quiet_minutes
            .map(|[from, to]| format!("quiet from {} to {}", clock(from), clock(to)));
        let cap = self.frequency.map(|(uses, period_ms)| {
            format!("at most {uses} in {}", super::words::span(period_ms))
        });
        let zones = (!self.time_zones.is_empty()).then(|| self.time_zones.join(" or "));
        let clear = (!self.clear.is_empty()).then(|| format!("no {}", self.clear.join(", ")));
        [self.language.clone(), zones, quiet, cap, clear].into_iter().flatten().collect()
    }
}

impl From<&proto::ContactPreferences> for Contact {
    fn from(own: &proto::ContactPreferences) -> Self {
        Self {
            time_zones: own.time_zones.clone(),
            language: Some(own.language.clone()).filter(|text| !text.is_empty()),
            quiet_minutes: own
                .quiet_hours
                .as_ref()
                .map(|hours| [hours.start_minute, hours.end_minute]),
            frequency: own
                .frequency_limit
                .as_ref()
                .map(|limit| (limit.uses_max, limit.period.as_ref().map_or(0, duration_ms))),
            clear: own.clear.clone(),
        }
    }
}

impl From<&proto::LinkRecord> for LinkRecord {
    fn from(link: &proto::LinkRecord) -> Self {
        Self {
            other_subject: link.other_subject.clone(),
            confidence: confidence_word(link.confidence),
            asserted_by: link.asserted_by.clone(),
        }
    }
}

/// The word of a confidence; none if it is not set.
fn confidence_word(confidence: i32) -> Option<String> {
    (confidence != 0).then(|| word::<proto::LinkConfidence>(confidence))
}

impl From<&proto::UseRecord> for UseRecord {
    fn from(used: &proto::UseRecord) -> Self {
        Self {
            scope: Scope { purpose: used.purpose.clone(), channel: used.channel.clone() },
            used_at: used.used_at.as_ref().map(rfc3339),
            segment: used.segment.clone(),
            campaign: used.campaign.clone(),
            data_categories: used.data_categories.clone(),
            region: used.region.clone(),
            deviation: used.deviation,
            reason: word::<proto::Reason>(used.reason),
        }
    }
}

impl From<&proto::ListHistoryResponse> for HistoryAct {
    fn from(act: &proto::ListHistoryResponse) -> Self {
        Self {
            kind: word::<proto::HistoryKind>(act.kind),
            cause_index: act.cause_index,
            preferences: act.preferences.as_ref().map(Into::into),
            reason: (act.reason != 0).then(|| word::<proto::Reason>(act.reason)),
            link: act.link.as_ref().map(Into::into),
            used: act.r#use.as_ref().map(Into::into),
            confirmation_expires_at: act.confirmation_expires_at.as_ref().map(rfc3339),
            index: act.index,
            recorded_at: act.recorded_at.as_ref().map(rfc3339),
            effective_at: act.effective_at.as_ref().map(rfc3339),
            actor: word::<proto::Actor>(act.actor),
            changes: act.changes.iter().map(Into::into).collect(),
            evidence: act.evidence.as_ref().map(Into::into).unwrap_or_default(),
            entry_hash: hex(&act.entry_hash),
        }
    }
}

/// The answer to `preferences`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Preferences {
    /// Data subject as asked.
    pub subject: String,
    /// Cells, ordered by purpose and channel.
    pub cells: Vec<Cell>,
    /// Stops that stand.
    pub stops: Vec<Stop>,
    /// Revision of the answer.
    pub revision: u64,
    /// How the data subject wants to be contacted.
    pub contact: Option<Contact>,
    /// Data subjects that are linked to this one.
    pub links: Vec<LinkedSubject>,
}

/// A data subject that is linked to the one asked about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LinkedSubject {
    /// Data subject.
    pub subject: String,
    /// `verified` or `asserted`.
    pub confidence: String,
}

/// State of one cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cell {
    /// Purpose key.
    pub purpose: String,
    /// Channel key.
    pub channel: String,
    /// Consent status.
    pub status: String,
    /// What a check answers.
    pub effect: String,
    /// Why.
    pub reason: String,
    /// Index of the entry that decided.
    pub decided_by_index: Option<u64>,
    /// First moment at which the answer could change with no new entry.
    pub valid_until: Option<String>,
}

/// A stop that stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stop {
    /// `refuse`, `withdraw` or `object`.
    pub action: String,
    /// What it covers.
    pub scope: Scope,
    /// When it took effect.
    pub effective_at: Option<String>,
    /// Index of the entry that holds it.
    pub index: u64,
}

impl From<&proto::GetPreferencesResponse> for Preferences {
    fn from(answer: &proto::GetPreferencesResponse) -> Self {
        Self {
            subject: answer.subject.clone(),
            cells: answer.cells.iter().map(Into::into).collect(),
            stops: answer.stops.iter().map(Into::into).collect(),
            revision: answer.revision,
            contact: answer.preferences.as_ref().map(Into::into),
            links: answer
                .links
                .iter()
                .map(|link| LinkedSubject {
                    subject: link.subject.clone(),
                    confidence: word::<proto::LinkConfidence>(link.confidence),
                })
                .collect(),
        }
    }
}

impl From<&proto::CellPreference> for Cell {
    fn from(cell: &proto::CellPreference) -> Self {
        Self {
            purpose: cell.purpose.clone(),
            channel: cell.channel.clone(),
            status: word::<proto::Status>(cell.status),
            effect: word::<proto::Effect>(cell.effect),
            reason: word::<proto::Reason>(cell.reason),
            decided_by_index: cell.decided_by_index,
            valid_until: cell.valid_until.as_ref().map(rfc3339),
        }
    }
}

impl From<&proto::StandingStop> for Stop {
    fn from(stop: &proto::StandingStop) -> Self {
        Self {
            action: word::<proto::Action>(stop.action),
            scope: stop.scope.as_ref().into(),
            effective_at: stop.effective_at.as_ref().map(rfc3339),
            index: stop.index,
        }
    }
}

/// The answer to `link` and `unlink`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Linked {
    /// Whether nothing was written because only that was asked for.
    pub dry_run: bool,
    /// Index of the entry, if one was written.
    pub index: Option<u64>,
    /// First revision at which it is so; for dry runs, the revision that was looked at.
    pub revision: u64,
    /// Whether an entry was written, or would be.
    pub changed: bool,
    /// Cells whose answer changed, or would.
    pub cells: Vec<CellChange>,
}

/// A cell whose answer changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CellChange {
    /// Data subject.
    pub subject: String,
    /// Purpose key.
    pub purpose: String,
    /// Channel key.
    pub channel: String,
    /// What a check answered.
    pub effect_before: String,
    /// Why.
    pub reason_before: String,
    /// What it answers now.
    pub effect_after: String,
    /// Why.
    pub reason_after: String,
}

impl Linked {
    /// What became of a link.
    #[must_use]
    pub fn new(answer: &proto::LinkSubjectsResponse, dry_run: bool) -> Self {
        Self {
            dry_run,
            index: answer.index,
            revision: answer.revision,
            changed: answer.changed,
            cells: answer.cells.iter().map(Into::into).collect(),
        }
    }

    /// What became of the end of a link.
    #[must_use]
    pub fn unlinked(answer: &proto::UnlinkSubjectsResponse, dry_run: bool) -> Self {
        Self {
            dry_run,
            index: answer.index,
            revision: answer.revision,
            changed: true,
            cells: answer.cells.iter().map(Into::into).collect(),
        }
    }
}

impl From<&proto::CellChange> for CellChange {
    fn from(cell: &proto::CellChange) -> Self {
        Self {
            subject: cell.subject.clone(),
            purpose: cell.purpose.clone(),
            channel: cell.channel.clone(),
            effect_before: word::<proto::Effect>(cell.effect_before),
            reason_before: word::<proto::Reason>(cell.reason_before),
            effect_after: word::<proto::Effect>(cell.effect_after),
            reason_after: word::<proto::Reason>(cell.reason_after),
        }
    }
}

/// The answer to `catalog list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Catalog {
    /// Purposes, ordered by key.
    pub purposes: Vec<Purpose>,
    /// Channels, ordered by key.
    pub channels: Vec<Channel>,
}

/// A purpose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Purpose {
    /// Key.
    pub key: String,
    /// Version, counted from 1.
    pub version: u32,
    /// Title for people.
    pub title: String,
    /// Description for people.
    pub description: String,
    /// Legal basis, for example `consent`.
    pub legal_basis: String,
    /// Legal basis by ISO 3166 region.
    pub basis_by_region: BTreeMap<String, String>,
    /// Data categories that the purpose uses.
    pub data_categories: Vec<String>,
    /// How long a grant lasts by default.
    pub default_validity_ms: Option<i64>,
    /// Whether a grant needs a double opt-in.
    pub double_opt_in: bool,
    /// The oldest version whose grants still count.
    pub oldest_compatible_version: u32,
    /// Whether the purpose is retired.
    pub retired: bool,
    /// Conditions that come with every ALLOW.
    pub obligations: Vec<Obligation>,
}

/// What a change of a purpose would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Previewed {
    /// Purpose key.
    pub purpose: String,
    /// Whether the change would write an entry.
    pub changed: bool,
    /// Version that the purpose would have.
    pub version: u32,
    /// Cells that were looked at.
    pub cells: u64,
    /// Cells that are denied now and would be allowed.
    pub would_allow: u64,
    /// Cells that are allowed now and would be denied.
    pub would_deny: u64,
    /// All changes of effect or reason.
    pub flips: Vec<Flips>,
    /// What would become of a data subject that the ledger does not know.
    pub unknown_subject: Option<Flips>,
    /// Revision that was looked at.
    pub revision: u64,
}

/// Cells that would go from one reason to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Flips {
    /// Channel key; empty for a data subject that the ledger does not know.
    pub channel: String,
    /// Reason now.
    pub before: String,
    /// Reason after the change.
    pub after: String,
    /// How many.
    pub count: u64,
}

impl From<&proto::CellFlips> for Flips {
    fn from(flips: &proto::CellFlips) -> Self {
        Self {
            channel: flips.channel.clone(),
            before: word::<proto::Reason>(flips.before),
            after: word::<proto::Reason>(flips.after),
            count: flips.count,
        }
    }
}

/// What `use` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Used {
    /// Index of the entry.
    pub index: u64,
    /// First revision that includes it.
    pub revision: u64,
    /// Whether no decision allowed the use.
    pub deviation: bool,
    /// What a check answered when the data was used.
    pub reason: String,
    /// Whether an earlier call with the same idempotency key recorded it.
    pub replayed: bool,
}

impl From<&proto::RecordUseResponse> for Used {
    fn from(answer: &proto::RecordUseResponse) -> Self {
        Self {
            index: answer.index,
            revision: answer.revision,
            deviation: answer.deviation,
            reason: word::<proto::Reason>(answer.reason),
            replayed: answer.replayed,
        }
    }
}

/// A channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Channel {
    /// Key.
    pub key: String,
    /// Title for people.
    pub title: String,
    /// Whether the channel is retired.
    pub retired: bool,
}

impl From<&proto::Purpose> for Purpose {
    fn from(purpose: &proto::Purpose) -> Self {
        Self {
            key: purpose.key.clone(),
            version: purpose.version,
            title: purpose.title.clone(),
            description: purpose.description.clone(),
            legal_basis: word::<proto::LegalBasis>(purpose.legal_basis),
            basis_by_region: purpose
                .basis_by_region
                .iter()
                .map(|(region, basis)| (region.clone(), word::<proto::LegalBasis>(*basis)))
                .collect(),
            data_categories: purpose.data_categories.clone(),
            default_validity_ms: purpose.default_validity.as_ref().map(duration_ms),
            double_opt_in: purpose.double_opt_in,
            oldest_compatible_version: purpose.oldest_compatible_version,
            retired: purpose.retired,
            obligations: purpose.obligations.iter().map(Into::into).collect(),
        }
    }
}

impl From<&proto::PurposePut> for Purpose {
    fn from(put: &proto::PurposePut) -> Self {
        Self {
            key: put.key.clone(),
            version: put.version,
            title: put.title.clone(),
            description: put.description.clone(),
            legal_basis: word::<proto::LegalBasis>(put.legal_basis),
            basis_by_region: put
                .basis_by_region
                .iter()
                .map(|(region, basis)| (region.clone(), word::<proto::LegalBasis>(*basis)))
                .collect(),
            data_categories: put.data_categories.clone(),
            default_validity_ms: put.default_validity_ms,
            double_opt_in: put.double_opt_in,
            oldest_compatible_version: put.oldest_compatible_version,
            retired: put.retired,
            obligations: put.obligations.iter().map(Into::into).collect(),
        }
    }
}

impl From<&proto::Channel> for Channel {
    fn from(channel: &proto::Channel) -> Self {
        Self { key: channel.key.clone(), title: channel.title.clone(), retired: channel.retired }
    }
}

impl From<&proto::ChannelPut> for Channel {
    fn from(put: &proto::ChannelPut) -> Self {
        Self { key: put.key.clone(), title: put.title.clone(), retired: put.retired }
    }
}

/// The answer to `catalog apply`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Applied {
    /// Whether nothing was written.
    pub dry_run: bool,
    /// One for each entry of the file, in its order.
    pub results: Vec<AppliedEntry>,
    /// Entries that the catalogue did not have.
    pub added: usize,
    /// Entries that differed.
    pub changed: usize,
    /// Entries that were as they should be.
    pub unchanged: usize,
}

/// What became of one entry of a catalogue file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AppliedEntry {
    /// `purpose` or `channel`.
    pub kind: &'static str,
    /// Key.
    pub key: String,
    /// `added`, `changed` or `unchanged`.
    pub result: &'static str,
    /// The fields that differ from what was there.
    pub fields: Vec<&'static str>,
    /// The purpose's version after the call; `null` for channels and dry runs.
    pub version: Option<u32>,
    /// First revision at which it is so; `null` for dry runs.
    pub revision: Option<u64>,
}

/// The answer to `verify`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Whether every entry is as it was written.
    pub intact: bool,
    /// Number of entries that verify, from the first on.
    pub entries: u64,
    /// Number of bytes that were read.
    pub bytes: u64,
    /// Hash of the last of these entries.
    pub chain_hash: Option<String>,
    /// An unfinished write after the last whole entry. Not damage.
    pub torn_tail: Option<TornTail>,
    /// The first damage.
    pub damage: Option<Damage>,
}

/// An unfinished write: under way, or cut short by a crash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TornTail {
    /// Name of the segment file.
    pub segment: String,
    /// Offset at which it begins, in bytes.
    pub offset: u64,
    /// Its length, in bytes.
    pub bytes: u64,
}

/// Damage of a ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// Name of the segment file.
    pub segment: String,
    /// Offset in it, in bytes.
    pub offset: u64,
    /// Index of the entry at fault, or of the one that should stand there.
    pub index: u64,
    /// What is wrong.
    pub what: String,
}

/// The answer to `rebuild-view`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rebuilt {
    /// Number of entries that were read.
    pub entries: u64,
    /// Number of data subjects in the view.
    pub subjects: u64,
}

/// What `export --output` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Exported {
    /// Number of entries.
    pub entries: u64,
    /// Where they are.
    pub output: String,
}

/// What `audience` says of an audience when it is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Audience {
    /// Revision that every verdict was decided at.
    pub revision: u64,
    /// Moment that every verdict was decided at.
    pub decided_at: Option<String>,
    /// Data subjects that were asked about.
    pub subjects: u64,
    /// How many of them are allowed.
    pub allowed: u64,
    /// How many were malformed.
    pub malformed: u64,
    /// The well-formed ones by reason.
    pub reasons: BTreeMap<String, u64>,
    /// First revision that includes every use, if uses were recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_revision: Option<u64>,
}

impl From<&proto::AudienceSummary> for Audience {
    fn from(summary: &proto::AudienceSummary) -> Self {
        let count = |own: &proto::ReasonCount| (word::<proto::Reason>(own.reason), own.count);
        Self {
            revision: summary.revision,
            decided_at: summary.decided_at.as_ref().map(rfc3339),
            subjects: summary.subjects,
            allowed: summary.allowed,
            malformed: summary.malformed,
            reasons: summary.reasons.iter().map(count).collect(),
            use_revision: summary.use_revision,
        }
    }
}

/// The answer to `replay`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Replayed {
    /// Acts that are on record.
    pub recorded: u64,
    /// Those among them that an earlier call had recorded.
    pub replayed: u64,
    /// Acts that are not.
    pub rejected: u64,
    /// Tries that were made again.
    pub retries: u64,
    /// Changes by outcome.
    pub outcomes: BTreeMap<String, u64>,
    /// The first acts that were rejected.
    pub rejects: Vec<Reject>,
    /// Seconds that it took.
    pub seconds: f64,
    /// Acts on record a second.
    pub acts_per_second: f64,
    /// Highest revision that includes any of the acts.
    pub revision: u64,
}

/// An act that was not recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reject {
    /// Line of the input, counted from 1.
    pub line: u64,
    /// Reason as in `google.rpc.ErrorInfo`, else the gRPC code, else `not_an_act`.
    pub reason: String,
    /// What is wrong.
    pub message: String,
}

/// The answer to `import`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Imported {
    /// Whether nothing was recorded, and the rest says what would have been.
    pub dry_run: bool,
    /// Rows of the file, with those before a stop.
    pub rows: u64,
    /// Rows that were recorded.
    pub recorded: u64,
    /// Rows that say what is known already, or nothing.
    pub unchanged: u64,
    /// Rows that an earlier import of the same source, or a try that broke, recorded.
    pub replayed: u64,
    /// Rows that were rejected.
    pub rejected: u64,
    /// Changes of the rows that were recorded, by outcome.
    pub outcomes: BTreeMap<String, u64>,
    /// File that tells the rejected rows; null if there are none.
    pub rejects: Option<String>,
    /// Line at which an import that had stopped went on.
    pub resumed_at_line: Option<u64>,
    /// Seconds that it took, since it went on.
    pub seconds: f64,
    /// Rows a second, since it went on.
    pub rows_per_second: f64,
    /// First revision that includes every row.
    pub revision: u64,
}

/// A line of `export`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Position in the ledger.
    pub index: u64,
    /// `hash(index)` of the bytes as they are stored.
    pub hash: String,
    /// `hash(index - 1)`.
    pub prev_hash: String,
    /// When the ledger recorded it.
    pub recorded_at: String,
    /// What it says.
    #[serde(flatten)]
    pub body: Body,
}

/// What an entry says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// Opens the ledger.
    LedgerOpened {
        /// Identity of the ledger.
        ledger_id: String,
        /// Name of the ledger.
        origin: String,
        /// Version of the entry format.
        format_version: u32,
        /// When the ledger was created.
        created_at: String,
    },
    /// An act of consent.
    ConsentAct {
        /// Random reference of the data subject.
        subject_ref: String,
        /// Who acted.
        actor: String,
        /// When it took effect.
        effective_at: String,
        /// What changed, and what became of it.
        changes: Vec<EntryChange>,
        /// The evidence, encrypted.
        evidence: Option<Sealed>,
        /// Keyed hash of the idempotency key.
        idempotency_key_hash: String,
        /// Keyed hash of the request.
        request_digest: String,
        /// For guardians: first moment without their authority.
        #[serde(skip_serializing_if = "Option::is_none")]
        authority_ends_at: Option<String>,
        /// Hash of the confirmation token, and when it stops counting.
        #[serde(skip_serializing_if = "Option::is_none")]
        confirmation: Option<ConfirmationOffer>,
        /// How the data subject wants to be contacted.
        #[serde(skip_serializing_if = "Option::is_none")]
        preferences: Option<Contact>,
    },
    /// A purpose was added or changed.
    PurposePut(Purpose),
    /// A channel was added or changed.
    ChannelPut(Channel),
    /// A double opt-in was completed.
    ConsentConfirmed {
        /// Random reference of the data subject.
        subject_ref: String,
        /// Index of the act that is confirmed.
        request_index: u64,
        /// Who performed that act.
        requested_by: String,
        /// When that act took effect.
        requested_at: String,
        /// When the confirmation took effect.
        effective_at: String,
        /// The grants that are confirmed, with what became of them.
        grants: Vec<EntryChange>,
        /// For guardians: first moment without their authority.
        #[serde(skip_serializing_if = "Option::is_none")]
        authority_ends_at: Option<String>,
        /// The evidence of the confirmation, encrypted.
        evidence: Option<Sealed>,
    },
    /// Grants ran out.
    GrantExpired {
        /// Random reference of the data subject.
        subject_ref: String,
        /// Index of the act that gave them.
        grant_index: u64,
        /// First moment without them.
        expired_at: String,
        /// Why.
        reason: String,
        /// The cells.
        changes: Vec<EntryChange>,
    },
    /// Two data subjects were linked.
    SubjectsLinked {
        /// Random reference of one data subject.
        subject_ref: String,
        /// Random reference of the other.
        other_ref: String,
        /// `verified` or `asserted`.
        confidence: String,
        /// Who says so, encrypted.
        asserted_by: Option<Sealed>,
    },
    /// Two data subjects were unlinked.
    SubjectsUnlinked {
        /// Random reference of one data subject.
        subject_ref: String,
        /// Random reference of the other.
        other_ref: String,
        /// Who says so, encrypted.
        asserted_by: Option<Sealed>,
    },
    /// Data was used.
    UseRecorded {
        /// The cell.
        scope: Scope,
        /// When.
        used_at: String,
        /// Name of the segment.
        segment: String,
        /// Name of the campaign.
        campaign: String,
        /// Data categories that were used.
        data_categories: Vec<String>,
        /// ISO 3166 region that was asked about.
        region: String,
        /// Random references of the data subjects.
        subject_refs: Vec<String>,
        /// What a check answered when it was used.
        reason: String,
    },
    /// A durable subscription was created.
    SubscriptionCreated {
        /// Name.
        name: String,
        /// Who answers for it.
        owner: String,
        /// Which events it must hear.
        filter: EntryFilter,
        /// First index that it must hear.
        start_index: u64,
        /// `denied` or `all`; null if its consumers hear no snapshot.
        snapshot: Option<String>,
        /// Over how many consumers it is spread.
        shards: u32,
        /// How long an event may stay unacknowledged.
        deadline_ms: Option<i64>,
        /// Where to deliver by HTTP; empty if it is consumed.
        webhook_url: String,
    },
    /// A durable subscription was ended.
    SubscriptionDeleted {
        /// Index of the entry that created it.
        subscription_index: u64,
    },
    /// Subscribers acknowledged events.
    DeliveryReceipt {
        /// Who acknowledged what.
        delivered: Vec<EntryDelivered>,
    },
    /// Delivery of events was given up.
    DeliveryFailed {
        /// Index of the entry that created the subscription.
        subscription_index: u64,
        /// The shard.
        shard: u32,
        /// The events.
        failed: Vec<EntryFailed>,
    },
    /// A subscription's deadline passed.
    DeliveryOverdue {
        /// Index of the entry that created the subscription.
        subscription_index: u64,
        /// The shard.
        shard: u32,
        /// The oldest event that it has not acknowledged.
        event_index: u64,
        /// When that was recorded.
        pending_since: String,
    },
    /// A body that this build does not know.
    Unknown {},
}

/// What a confirmation must show, as an entry holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConfirmationOffer {
    /// SHA-256 of the token.
    pub token_hash: String,
    /// First moment at which it no longer counts.
    pub expires_at: String,
}

/// A change as an entry holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EntryChange {
    /// The change.
    #[serde(flatten)]
    pub change: Change,
    /// For grants: the data categories that it is narrowed to.
    pub data_categories: Vec<String>,
}

/// Encrypted bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sealed {
    /// Salt of the key derivation.
    pub salt: String,
    /// Ciphertext and tag.
    pub ciphertext: String,
    /// Commitment to key and plaintext.
    pub commitment: String,
}

impl From<&proto::Sealed> for Sealed {
    fn from(sealed: &proto::Sealed) -> Self {
        Self {
            salt: hex(&sealed.salt),
            ciphertext: hex(&sealed.ciphertext),
            commitment: hex(&sealed.commitment),
        }
    }
}

impl Entry {
    /// Decodes the bytes of an entry.
    ///
    /// # Errors
    /// The bytes are not an entry.
    pub fn decode(bytes: &[u8]) -> Result<Self, prost::DecodeError> {
        let entry = <proto::Entry as prost::Message>::decode(bytes)?;
        Ok(Self {
            index: entry.index,
            hash: hex(&chain::hash(bytes)),
            prev_hash: hex(&entry.prev_hash),
            recorded_at: rfc3339_ms(entry.recorded_at_ms),
            body: entry.body.as_ref().map_or(Body::Unknown {}, Into::into),
        })
    }
}

impl From<&proto::entry::Body> for Body {
    fn from(body: &proto::entry::Body) -> Self {
        match body {
            proto::entry::Body::LedgerOpened(opened) => Self::LedgerOpened {
                ledger_id: hex(&opened.ledger_id),
                origin: opened.origin.clone(),
                format_version: opened.format_version,
                created_at: rfc3339_ms(opened.created_at_ms),
            },
            proto::entry::Body::ConsentAct(act) => Self::ConsentAct {
                subject_ref: hex(&act.subject_ref),
                actor: word::<proto::Actor>(act.actor),
                effective_at: rfc3339_ms(act.effective_at_ms),
                changes: act.changes.iter().map(Into::into).collect(),
                evidence: act.evidence.as_ref().map(Into::into),
                idempotency_key_hash: hex(&act.idempotency_key_hash),
                request_digest: hex(&act.request_digest),
                authority_ends_at: act.authority_ends_at_ms.map(rfc3339_ms),
                confirmation: act.confirmation.as_ref().map(|offer| ConfirmationOffer {
                    token_hash: hex(&offer.token_hash),
                    expires_at: rfc3339_ms(offer.expires_at_ms),
                }),
                preferences: act.preferences.as_ref().map(Into::into),
            },
            proto::entry::Body::PurposePut(put) => Self::PurposePut(put.into()),
            proto::entry::Body::ChannelPut(put) => Self::ChannelPut(put.into()),
            proto::entry::Body::ConsentConfirmed(own) => Self::ConsentConfirmed {
                subject_ref: hex(&own.subject_ref),
                request_index: own.request_index,
                requested_by: word::<proto::Actor>(own.requested_by),
                requested_at: rfc3339_ms(own.requested_at_ms),
                effective_at: rfc3339_ms(own.effective_at_ms),
                grants: own.grants.iter().map(Into::into).collect(),
                authority_ends_at: own.authority_ends_at_ms.map(rfc3339_ms),
                evidence: own.evidence.as_ref().map(Into::into),
            },
            proto::entry::Body::GrantExpired(own) => Self::GrantExpired {
                subject_ref: hex(&own.subject_ref),
                grant_index: own.grant_index,
                expired_at: rfc3339_ms(own.expired_at_ms),
                reason: word::<proto::Reason>(own.reason),
                changes: own.changes.iter().map(Into::into).collect(),
            },
            proto::entry::Body::SubjectsLinked(own) => Self::SubjectsLinked {
                subject_ref: hex(&own.subject_ref),
                other_ref: hex(&own.other_ref),
                confidence: word::<proto::LinkConfidence>(own.confidence),
                asserted_by: own.asserted_by.as_ref().map(Into::into),
            },
            proto::entry::Body::SubjectsUnlinked(own) => Self::SubjectsUnlinked {
                subject_ref: hex(&own.subject_ref),
                other_ref: hex(&own.other_ref),
                asserted_by: own.asserted_by.as_ref().map(Into::into),
            },
            proto::entry::Body::UseRecorded(own) => Self::UseRecorded {
                scope: own.scope.as_ref().into(),
                used_at: rfc3339_ms(own.used_at_ms),
                segment: own.segment.clone(),
                campaign: own.campaign.clone(),
                data_categories: own.data_categories.clone(),
                region: own.region.clone(),
                subject_refs: own.subject_refs.chunks(16).map(hex).collect(),
                reason: word::<proto::Reason>(own.reason),
            },
            proto::entry::Body::SubscriptionCreated(own) => Self::SubscriptionCreated {
                name: own.name.clone(),
                owner: own.owner.clone(),
                filter: own.filter.as_ref().into(),
                start_index: own.start_index,
                snapshot: (own.snapshot != 0).then(|| word::<proto::Snapshot>(own.snapshot)),
                shards: own.shards,
                deadline_ms: own.deadline_ms,
                webhook_url: own.webhook_url.clone(),
            },
            proto::entry::Body::SubscriptionDeleted(own) => {
                Self::SubscriptionDeleted { subscription_index: own.subscription_index }
            }
            proto::entry::Body::DeliveryReceipt(own) => {
                Self::DeliveryReceipt { delivered: own.delivered.iter().map(Into::into).collect() }
            }
            proto::entry::Body::DeliveryFailed(own) => Self::DeliveryFailed {
                subscription_index: own.subscription_index,
                shard: own.shard,
                failed: own.failed.iter().map(Into::into).collect(),
            },
            proto::entry::Body::DeliveryOverdue(own) => Self::DeliveryOverdue {
                subscription_index: own.subscription_index,
                shard: own.shard,
                event_index: own.event_index,
                pending_since: rfc3339_ms(own.pending_since_ms),
            },
        }
    }
}

impl From<&proto::ChangeRecord> for EntryChange {
    fn from(change: &proto::ChangeRecord) -> Self {
        Self {
            change: Change {
                action: word::<proto::Action>(change.action),
                scope: change.scope.as_ref().into(),
                outcome: word::<proto::Outcome>(change.outcome),
                cause_index: change.cause_index,
                purpose_version: Some(change.purpose_version).filter(|version| *version > 0),
                expires_at: change.expires_at_ms.map(rfc3339_ms),
            },
            data_categories: change.data_categories.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use serde_json::{json, to_value};

    use super::*;

    #[test]
    fn an_act_of_the_ledger_is_decoded_whole() {
        let entry = proto::Entry {
            index: 7,
            prev_hash: vec![0xab; 32],
            recorded_at_ms: 1_000,
            body: Some(proto::entry::Body::ConsentAct(proto::ConsentAct {
                subject_ref: vec![1; 16],
                actor: proto::Actor::Agent.into(),
                effective_at_ms: 500,
                changes: vec![proto::ChangeRecord {
                    action: proto::Action::Withdraw.into(),
                    scope: Some(proto::Scope { channel: "email".into(), ..Default::default() }),
                    outcome: proto::Outcome::SupersededByLater.into(),
                    cause_index: Some(3),
                    ..Default::default()
                }],
                evidence: Some(proto::Sealed {
                    salt: vec![2],
                    ciphertext: vec![3],
                    commitment: vec![4],
                }),
                idempotency_key_hash: vec![5],
                request_digest: vec![],
                ..Default::default()
            })),
        };
        let bytes = entry.encode_to_vec();
        let json = to_value(Entry::decode(&bytes).unwrap()).unwrap();
        assert_eq!(
            json,
            json!({
                "index": 7,
                "hash": hex(&blake3::derive_key("consent-ledger v1 chain", &bytes)),
                "prev_hash": "ab".repeat(32),
                "recorded_at": "1970-01-01T00:00:01.000Z",
                "consent_act": {
                    "subject_ref": "01".repeat(16),
                    "actor": "agent",
                    "effective_at": "1970-01-01T00:00:00.500Z",
                    "changes": [{
                        "action": "withdraw",
                        "scope": {"purpose": "*", "channel": "email"},
                        "outcome": "superseded_by_later",
                        "cause_index": 3,
                        "purpose_version": null,
                        "expires_at": null,
                        "data_categories": [],
                    }],
                    "evidence": {"salt": "02", "ciphertext": "03", "commitment": "04"},
                    "idempotency_key_hash": "05",
                    "request_digest": "",
                },
            })
        );
    }

    #[test]
    fn bytes_that_are_no_entry_are_an_error() {
        assert!(Entry::decode(&[0xff; 8]).is_err());
    }

    #[test]
    fn a_decision_keeps_its_names() {
        let answer = proto::CheckResponse {
            effect: proto::Effect::Deny.into(),
            reason: proto::Reason::NoRecord.into(),
            status: proto::Status::Unknown.into(),
            revision: 9,
            obligations: vec![proto::Obligation {
                kind: Some(proto::obligation::Kind::FrequencyLimit(proto::FrequencyLimit {
                    uses_max: 2,
                    period: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
                })),
                ..Default::default()
            }],
            ..Default::default()
        };
        assert_eq!(
            to_value(Decision::from(&answer)).unwrap(),
            json!({
                "effect": "deny", "reason": "no_record", "status": "unknown",
                "decided_by_index": null, "revision": 9, "valid_until": null,
                "obligations": [{
                    "frequency_limit": {"uses_max": 2, "period_ms": 60_000},
                    "not_before": null, "indeterminate": false,
                }],
                "data_categories": [], "not_before": null, "legal_basis": null, "token": null,
            })
        );
    }
}
