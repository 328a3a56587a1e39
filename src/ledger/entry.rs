//! Entries as bytes, and back.
//!
//! The bytes are a protobuf message (`consent.v1.Entry`). They are hashed as they were written:
//! nothing here re-encodes what it read. Reading is strict: a body, value or key that it does not
//! know is an error, because a state that leaves an entry out is not a state of this ledger.

use prost::Message;
use thiserror::Error;

use crate::{
    domain::{
        Action, Actor, Body, ChangeRecord, ChannelPut, ConsentAct, Entry, Evidence,
        IdempotencyMark, Key, KeyError, LedgerOpened, LegalBasis, Millis, Obligation, Outcome,
        PurposePut, PurposeVersion, ScopeKeys, Sealed, SubjectRef,
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
        }
    }
}

fn act_to_proto(act: &ConsentAct) -> proto::ConsentAct {
    let (key_hash, request_digest) = act.idempotency.map_or((Vec::new(), Vec::new()), |mark| {
        (mark.key_hash.to_vec(), mark.request_digest.to_vec())
    });
    proto::ConsentAct {
        subject_ref: act.subject_ref.0.to_vec(),
        actor: proto::Actor::from(act.actor).into(),
        effective_at_ms: act.effective_at.0,
        changes: act.changes.iter().map(change_to_proto).collect(),
        evidence: act.evidence.as_ref().map(|sealed| proto::Sealed {
            salt: sealed.salt.to_vec(),
            ciphertext: sealed.ciphertext.clone(),
            commitment: sealed.commitment.to_vec(),
        }),
        idempotency_key_hash: key_hash,
        request_digest,
    }
}

fn act_from_proto(act: proto::ConsentAct) -> Result<ConsentAct, EntryError> {
    let actor = Actor::try_from(act.actor()).map_err(|()| EntryError::Field { field: "actor" })?;
    let idempotency = if act.idempotency_key_hash.is_empty() && act.request_digest.is_empty() {
        None
    } else {
        Some(IdempotencyMark {
            key_hash: fixed("idempotency_key_hash", &act.idempotency_key_hash)?,
            request_digest: fixed("request_digest", &act.request_digest)?,
        })
    };
    if act.changes.is_empty() {
        return Err(EntryError::Field { field: "changes" });
    }
    Ok(ConsentAct {
        subject_ref: SubjectRef(fixed("subject_ref", &act.subject_ref)?),
        actor,
        effective_at: Millis(act.effective_at_ms),
        changes: act.changes.into_iter().map(change_from_proto).collect::<Result<_, _>>()?,
        evidence: act.evidence.map(sealed_from_proto).transpose()?,
        idempotency,
    })
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
    }
}

fn purpose_from_proto(put: proto::PurposePut) -> Result<PurposePut, EntryError> {
    let field = |field| EntryError::Field { field };
    let legal_basis = put.legal_basis().try_into().map_err(|()| field("legal_basis"))?;
    if put.version == 0 {
        return Err(field("version"));
    }
    let obligations: Option<Vec<Obligation>> =
        put.obligations.into_iter().map(obligation_from_proto).collect();
    Ok(PurposePut {
        key: key("purpose_put.key", &put.key)?,
        version: put.version,
        content: PurposeVersion {
            title: put.title,
            description: put.description,
            legal_basis,
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
    proto::Obligation { kind: Some(kind) }
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
    })
}

/// A span of milliseconds as a message.
#[must_use]
pub fn duration(span_ms: i64) -> prost_types::Duration {
    let nanos = i32::try_from(span_ms % 1_000).map_or(0, |ms| ms * 1_000_000);
    prost_types::Duration { seconds: span_ms / 1_000, nanos }
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
same_variants!(Action, Action, Grant, Refuse, Withdraw, Object);
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

    fn any_act() -> impl Strategy<Value = ConsentAct> {
        let sealed = (any::<[u8; 16]>(), any::<Vec<u8>>(), any::<[u8; 32]>())
            .prop_map(|(salt, ciphertext, commitment)| Sealed { salt, ciphertext, commitment });
        let mark = any::<([u8; 32], [u8; 32])>()
            .prop_map(|(key_hash, request_digest)| IdempotencyMark { key_hash, request_digest });
        let who = (any::<[u8; 16]>(), any_actor(), any::<i64>());
        (who, vec(any_change(), 1..4), option::of(sealed), option::of(mark)).prop_map(
            |((subject, actor, at), changes, evidence, idempotency)| ConsentAct {
                subject_ref: SubjectRef(subject),
                actor,
                effective_at: Millis(at),
                changes,
                evidence,
                idempotency,
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
                    data_categories,
                    default_validity_ms,
                    double_opt_in,
                    obligations,
                };
                PurposePut { key, version, content, oldest_compatible, retired }
            },
        )
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
}
