//! The terms of the service as plain values. This module knows no protocol, no storage and no
//! clock; every value is valid.

mod act;
mod catalog;
mod clock;
mod contact;
mod decision;
mod evidence;
mod filter;
mod identity;
mod namespace;
mod party;
mod region;
mod scope;
mod state;
mod subject;
mod subscription;
mod time;

pub use act::{Action, Actor, Change, ChangeRecord, Outcome, StopKind};
pub use catalog::{
    Catalog, Channel, ChannelId, ClassId, LegalBasis, Obligation, Purpose, PurposeId,
    PurposeVersion, UnknownKey, covers_category,
};
pub use clock::ClockCorrection;
pub use consent_ledger_identity::{
    IdentityError, NamespaceKind, PhoneRegion, PhoneRegionError, VERSION as CANONICAL_FORM_VERSION,
    trimmed,
};
pub use contact::{
    Contact, ContactChange, Field, FrequencyCap, LANGUAGE_BYTES_MAX, QuietSpan, Said,
    TIME_ZONES_MAX,
};
pub use decision::{Decision, Effect, Query, Reason, Status};
pub use evidence::{
    ATTRIBUTE_KEY_BYTES_MAX, ATTRIBUTE_VALUE_BYTES_MAX, ATTRIBUTES_MAX, Authority,
    EVIDENCE_TEXT_BYTES_MAX, Evidence, EvidenceError, Excess, NOTICE_HASH_BYTES_MAX,
    UNREADABLE_MAX, UNREADABLE_PATH_BYTES_MAX, UNREADABLE_TEXT_BYTES_MAX, USER_AGENT_BYTES_MAX,
    keep_unreadable,
};
pub use filter::{EventKind, Filter};
pub use identity::Identity;
pub use namespace::Namespace;
pub use party::{Party, PartyRole, PartyVersion, sensitive_among};
pub use region::{REGION_BYTES_MAX, Region, RegionError};
pub use scope::{KEY_BYTES_MAX, Key, KeyError, PurposeName, PurposeScope, Scope, ScopeKeys};
pub use state::{
    CellState, Exception, Grant, Grants, Link, LinkConfidence, Mark, Stop, SubjectState,
};
pub use subject::{SUBJECT_ID_BYTES_MAX, Subject, SubjectError, SubjectRef, spells};
pub use subscription::{
    OWNER_BYTES_MAX, Overdue, SHARDS_MAX, Settled, ShardState, Snapshot, Subscription,
    SubscriptionId, WEBHOOK_URL_BYTES_MAX,
};
pub use time::{Millis, recorded_end, recorded_end_after};

pub use crate::entry::{
    Body, ChannelPut, ClockCorrected, ConfirmationOffer, ConsentAct, ConsentConfirmed, Delivered,
    DeliveryFailed, DeliveryOverdue, DisclosureMade, Door, Entry, FailedDelivery, GrantExpired,
    GrantsExpired, IdempotencyMark, ImportOrigin, LedgerOpened, LinkChange, NamespacePut,
    ObligationKind, PartyPut, PurposePut, SigningKeyChanged, SubjectsDisclosed,
    SubscriptionCreated, SubscriptionDeleted, SubscriptionEntry, UseRecorded,
};
