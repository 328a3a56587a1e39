//! The content of entries: one file for each kind, with everything that the kind means.
//!
//! An entry passes three layers, each of which knows nothing of the next:
//!
//! 1. The *sealed entry* ([`crate::format::entry`]) is bytes: index, hash of the entry before, time,
//!    and a body of which it reads what is in clear. The chain goes over these bytes.
//! 2. The *opened fact* ([`Fact`], here) is what the body says, and the data subjects it names. Keys open it
//!    ([`crate::ledger::sealed`]).
//! 3. The *fold* ([`crate::fold`]) applies the fact to the states of data subjects, the catalogue and
//!    the subscriptions.
//!
//! A kind answers for itself through [`Kind`]: its message, the data subjects that it names, what it
//! acts on and how, which index rows lead to it, which event watchers receive, its line in a history,
//! and what a receipt proves of it. No other code asks for the kind of an entry to know its meaning.
//!
//! # Adding a kind
//! Its message in `proto/consent/ledger/v2`, its file here, and one line each in [`Body`], [`Body::kind`] and
//! the function that reads its message. No method of [`Kind`] has a default, so a new kind can forget nothing. A
//! kind that names no data subject implements [`NamesNoSubject`] instead.

mod act;
mod channel;
mod clock;
mod confirmed;
mod content;
mod disclosed;
mod expired;
pub(crate) mod fields;
mod link;
mod namespace;
mod opened;
mod party;
mod purpose;
mod signing_key;
mod subscription;
mod uses;

use std::fmt;

pub use act::{ConfirmationOffer, ConsentAct, Door, ImportOrigin};
pub use channel::ChannelPut;
pub use clock::ClockCorrected;
pub use confirmed::ConsentConfirmed;
pub use content::{Content, IndexOf, Meanings, Names, Numbers, ReferenceOf};
pub use disclosed::{DisclosureMade, SubjectsDisclosed};
pub use expired::{GrantExpired, GrantsExpired};
pub use fields::{
    EntryError, contact_to_proto, duration, duration_ms, evidence_of_message, evidence_to_message,
    timestamp, timestamp_ms,
};
pub(crate) use fields::{changes_of_messages, field};
pub use link::LinkChange;
pub use namespace::{NamespacePut, namespace_kind_to_proto};
pub use opened::LedgerOpened;
pub use party::{PartyPut, roles_to_proto, sensitive_categories_to_proto};
pub use purpose::{
    PurposePut, bases_to_proto, controller_to_proto, obligation_to_proto, recipients_to_proto,
};
pub use signing_key::SigningKeyChanged;
use smallvec::SmallVec;
pub use subscription::{
    Delivered, DeliveryFailed, DeliveryOverdue, FailedDelivery, SubscriptionCreated,
    SubscriptionDeleted, SubscriptionEntry, filter_to_proto, snapshot_to_proto,
};
pub use uses::{ObligationKind, UseRecorded};

use crate::{
    domain::{Actor, Catalog, ChangeRecord, Millis, SubjectRef, SubjectState, UnknownKey},
    event::{CatalogDetail, EventOutline},
    fold::{FoldError, Judged, Lead, Subscriptions, Untrue},
    format::entry::Body as ClearBody,
    history::{Line, LineKind},
    proto::ledger::{Record, RecordKind, Use, item},
};

/// One entry of the ledger, opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Position, from 0.
    pub index: u64,
    /// `hash(index - 1)`; zeros for entry 0.
    pub prev_hash: [u8; 32],
    /// When the ledger recorded it.
    pub recorded_at: Millis,
    /// Its content.
    pub body: Body,
}

impl Entry {
    /// Its content and its place: all that the fold needs.
    #[must_use]
    pub fn fact(&self) -> Fact<'_> {
        let place = Place { index: self.index, recorded_at: self.recorded_at };
        Fact { place, kind: self.body.kind() }
    }
}

/// The place of an entry in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its index.
    pub index: u64,
    /// When the ledger recorded it.
    pub recorded_at: Millis,
}

/// An opened fact: the content of an entry at its place. The entry is in the ledger, or about to be
/// written.
#[derive(Debug, Clone, Copy)]
pub struct Fact<'a> {
    /// Its place in the ledger.
    pub place: Place,
    /// Its content.
    pub kind: &'a dyn Kind,
}

/// The content of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// Opens the ledger.
    Opened(LedgerOpened),
    /// An act of consent.
    Act(ConsentAct),
    /// A purpose was added or changed.
    PurposePut(PurposePut),
    /// A channel was added or changed.
    ChannelPut(ChannelPut),
    /// A namespace was added or changed.
    NamespacePut(NamespacePut),
    /// A party was added or changed.
    PartyPut(PartyPut),
    /// A clock that was ahead gave the times of some entries.
    ClockCorrected(ClockCorrected),
    /// A double opt-in was completed.
    Confirmed(ConsentConfirmed),
    /// Grants expired.
    Expired(GrantsExpired),
    /// Two data subjects were linked, or unlinked.
    Link(LinkChange),
    /// Data was used.
    Use(UseRecorded),
    /// A durable subscription changed, or events were delivered to it.
    Subscription(SubscriptionEntry),
    /// Another key signs from here on.
    SigningKeyChanged(Box<SigningKeyChanged>),
    /// Data subjects' entries were disclosed.
    Disclosed(SubjectsDisclosed),
    /// A disclosure was made.
    DisclosureMade(DisclosureMade),
}

impl Body {
    /// The entry's kind.
    #[must_use]
    pub fn kind(&self) -> &dyn Kind {
        match self {
            Self::Opened(opened) => opened,
            Self::Act(act) => act,
            Self::PurposePut(put) => put,
            Self::ChannelPut(put) => put,
            Self::NamespacePut(put) => put,
            Self::PartyPut(put) => put,
            Self::ClockCorrected(corrected) => corrected,
            Self::Confirmed(confirmed) => confirmed,
            Self::Expired(expired) => expired,
            Self::Link(link) => link,
            Self::Use(used) => used,
            Self::Subscription(entry) => entry.kind(),
            Self::SigningKeyChanged(change) => &**change,
            Self::Disclosed(disclosed) => disclosed,
            Self::DisclosureMade(disclosure) => disclosure,
        }
    }

    /// What the entry is, for people.
    #[must_use]
    pub fn noun(&self) -> &'static str {
        match self {
            Self::Opened(_) => "the opening of the ledger",
            Self::Act(_) => "an act of consent",
            Self::PurposePut(_) => "a change of a purpose",
            Self::ChannelPut(_) => "a change of a channel",
            Self::NamespacePut(_) => "a change of a namespace",
            Self::PartyPut(_) => "a change of a party",
            Self::ClockCorrected(_) => "a correction of the clock",
            Self::Confirmed(_) => "a confirmation",
            Self::Expired(_) => "the end of grants",
            Self::Link(_) => "a link of data subjects",
            Self::Use(_) => "a record of use",
            Self::Subscription(entry) => entry.noun(),
            Self::SigningKeyChanged(_) => "a change of the signing key",
            Self::Disclosed(_) | Self::DisclosureMade(_) => "a disclosure",
        }
    }

    /// What a body in clear says.
    pub(crate) fn of_clear(body: &ClearBody) -> Result<Self, EntryError> {
        Ok(match body {
            ClearBody::Opened(message) => Self::Opened(message.try_into()?),
            ClearBody::Purpose(message) => Self::PurposePut(message.try_into()?),
            ClearBody::Channel(message) => Self::ChannelPut(message.try_into()?),
            ClearBody::Namespace(message) => Self::NamespacePut(message.try_into()?),
            ClearBody::Party(message) => Self::PartyPut(message.try_into()?),
            ClearBody::ClockCorrected(message) => Self::ClockCorrected(message.try_into()?),
            ClearBody::KeyTransition(message) => {
                Self::SigningKeyChanged(Box::new(message.try_into()?))
            }
            ClearBody::Persons(_)
            | ClearBody::Uses(_)
            | ClearBody::Confidential(_)
            | ClearBody::Level(_) => return Err(EntryError::Kind(body.noun())),
        })
    }

    /// What the records of an entry say, which are those of its slots, in their order.
    pub(crate) fn of_records(
        records: Vec<(SubjectRef, Record)>,
        meanings: &Meanings<'_>,
    ) -> Result<Self, EntryError> {
        let are_all = |kind| !records.is_empty() && records.iter().all(|(_, it)| it.kind() == kind);
        if are_all(RecordKind::Expiry) {
            return GrantsExpired::of_records(records, meanings).map(Self::Expired);
        }
        if are_all(RecordKind::Disclosed) {
            return Ok(Self::Disclosed(SubjectsDisclosed::of_records(&records)));
        }
        let mut records = records.into_iter();
        let (first, second) = (records.next(), records.next());
        if records.next().is_some() {
            return Err(field("slots"));
        }
        let (subject, record) = first.ok_or(field("slots"))?;
        match (record.kind(), second) {
            (RecordKind::Act, None) => {
                ConsentAct::of_record(subject, record, meanings).map(Self::Act)
            }
            (RecordKind::Confirmation, None) => {
                ConsentConfirmed::of_record(subject, record, meanings).map(Self::Confirmed)
            }
            (kind @ (RecordKind::Link | RecordKind::Unlink), Some(other))
                if other.1.kind() == kind =>
            {
                LinkChange::of_records((subject, record), other).map(Self::Link)
            }
            (RecordKind::ErasureRequested | RecordKind::Erased, _) => {
                Err(EntryError::Kind("an erasure"))
            }
            _ => Err(field("kind")),
        }
    }

    /// What a use says that the tags of some data subjects share.
    pub(crate) fn of_use(
        used: Use,
        subjects: Vec<SubjectRef>,
        meanings: &Meanings<'_>,
    ) -> Result<Self, EntryError> {
        UseRecorded::of_use(used, subjects, meanings).map(Self::Use)
    }

    /// What confidential items say.
    pub(crate) fn of_items(items: Vec<item::Content>) -> Result<Self, EntryError> {
        if let [item::Content::Disclosure(made)] = items.as_slice() {
            return made.clone().try_into().map(Self::DisclosureMade);
        }
        SubscriptionEntry::of_items(items).map(Self::Subscription)
    }

    /// The opening of the ledger, if this is entry 0.
    #[must_use]
    pub fn opened(&self) -> Option<&LedgerOpened> {
        if let Self::Opened(opened) = self { Some(opened) } else { None }
    }
}

/// Data subjects of an entry; most entries have one or two.
pub type Subjects = SmallVec<[SubjectRef; 2]>;

/// The questions that every kind of entry answers for itself.
pub trait Kind: fmt::Debug {
    /// Its content as format 2 writes it.
    ///
    /// # Errors
    /// A name or a record that it names can not be found.
    fn content(&self, names: &Names<'_>) -> Result<Content, EntryError>;
    /// The data subjects that it names. Each is in the vault before the entry is written.
    fn named(&self) -> Subjects;
    /// The part of the state that it acts on, and how.
    fn target(&self) -> Target<'_>;
    /// What leads to it, besides the data subjects whose states it is part of.
    fn leads(&self, place: Place) -> Vec<Lead>;
    /// The content of its event for watchers.
    fn outline(&self) -> EventOutline<'_>;
    /// Its line in the history of a data subject that it names; none if it is in no history.
    fn line(&self, place: Place, subject: SubjectRef) -> Option<Line>;
    /// The caller's idempotency key, if it has one.
    fn idempotency(&self) -> Option<IdempotencyMark>;
    /// The content of a receipt for it; none if this kind has no receipts.
    fn receipt(&self) -> Option<Receipted<'_>>;
}

/// A kind that names no data subject. So it is in no history, has no receipt and no idempotency key,
/// and nothing leads to it but what its target's fold adds. It answers only the remaining questions.
pub trait NamesNoSubject: fmt::Debug {
    /// As [`Kind::content`].
    fn content(&self) -> Content;
    /// As [`Kind::target`].
    fn target(&self) -> Target<'_>;
    /// As [`Kind::outline`].
    fn outline(&self) -> EventOutline<'_>;
}

impl<K: NamesNoSubject> Kind for K {
    fn content(&self, _: &Names<'_>) -> Result<Content, EntryError> {
        Ok(NamesNoSubject::content(self))
    }

    fn named(&self) -> Subjects {
        Subjects::new()
    }

    fn target(&self) -> Target<'_> {
        NamesNoSubject::target(self)
    }

    fn leads(&self, _: Place) -> Vec<Lead> {
        Vec::new()
    }

    fn outline(&self) -> EventOutline<'_> {
        NamesNoSubject::outline(self)
    }

    fn line(&self, _: Place, _: SubjectRef) -> Option<Line> {
        None
    }

    fn idempotency(&self) -> Option<IdempotencyMark> {
        None
    }

    fn receipt(&self) -> Option<Receipted<'_>> {
        None
    }
}

/// The part of the ledger's state that a kind of entry acts on.
#[derive(Clone, Copy)]
pub enum Target<'a> {
    /// The states of data subjects.
    Subjects(&'a dyn OfSubjects),
    /// The catalogue.
    Catalog(&'a dyn OfCatalog),
    /// The durable subscriptions.
    Subscriptions(&'a dyn OfSubscriptions),
    /// None: it is not folded.
    Nothing,
}

/// A kind that acts on the states of the data subjects that it names.
pub trait OfSubjects: Kind {
    /// When it took effect.
    fn effective_at(&self, place: Place) -> Millis;
    /// Folds it into the state of one of its data subjects. Folding it again, or in another order,
    /// gives the same state; only links must be folded in the order of the ledger.
    ///
    /// # Errors
    /// The first key that the catalogue lacks; the state is unchanged then.
    fn fold(
        &self,
        place: Place,
        catalog: &Catalog,
        subject: SubjectRef,
        state: &mut SubjectState,
    ) -> Result<(), UnknownKey>;
    /// The cells of one of its data subjects that it touches.
    fn touches(&self, subject: SubjectRef) -> Touched<'_>;
    /// Claims in it about the judged data subject that do not follow from the entries before it. It is asked
    /// for each of its data subjects.
    ///
    /// # Errors
    /// The first key that the catalogue lacks.
    fn untrue(&self, judged: &mut Judged<'_>) -> Result<Vec<Untrue>, UnknownKey>;
}

/// A kind that acts on the catalogue.
pub trait OfCatalog {
    /// Folds it into the catalogue. Returns the change and its effects; none if it is not folded.
    fn fold(&self, place: Place, catalog: &mut Catalog) -> Option<CatalogDetail>;
}

/// A kind that acts on durable subscriptions.
pub trait OfSubscriptions {
    /// Folds it into the subscriptions, and returns the leads to update. Folding it again changes
    /// nothing.
    ///
    /// # Errors
    /// [`FoldError::UnknownSubscription`]: no entry before it created that subscription or shard.
    fn fold(&self, place: Place, all: &mut Subscriptions) -> Result<Vec<Lead>, FoldError>;
}

/// The cells that an entry touches.
#[derive(Debug, Clone, Copy)]
pub enum Touched<'a> {
    /// The cells that changes cover.
    Changes(&'a [ChangeRecord]),
    /// All cells.
    Everything,
}

/// The content of a receipt: an act, or the confirmation of one.
#[derive(Debug, Clone, Copy)]
pub struct Receipted<'a> {
    /// Whose consent it is.
    pub subject: SubjectRef,
    /// Who acted.
    pub actor: Actor,
    /// When it took effect.
    pub effective_at: Millis,
    /// What changed.
    pub changes: &'a [ChangeRecord],
    /// For guardians: first moment without their authority.
    pub authority_ends_at: Option<Millis>,
    /// For confirmations: the act that is confirmed, and when that took effect.
    pub confirms: Option<(u64, Millis)>,
    /// For acts that wait for a confirmation: until when.
    pub confirm_until: Option<Millis>,
}

impl Receipted<'_> {
    /// Its line in the history of the data subject.
    fn line(&self) -> Line {
        let kind = if self.confirms.is_some() { LineKind::Confirmation } else { LineKind::Act };
        Line {
            changes: self.changes.to_vec(),
            has_evidence: true,
            confirmation_expires_at: self.confirm_until,
            cause: self.confirms.map(|(request_index, _)| request_index),
            ..Line::new(kind, self.actor, self.effective_at)
        }
    }
}

/// What stands for an idempotency key and its request in the ledger, under the data subject's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdempotencyMark {
    /// Keyed hash of caller and key.
    pub key_hash: [u8; 16],
    /// Keyed hash of the request.
    pub request_digest: [u8; 16],
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::{
        act::tests::any_act,
        channel::tests::any_channel_put,
        clock::tests::any_clock_corrected,
        confirmed::tests::any_confirmed,
        disclosed::tests::{any_disclosed, any_disclosure},
        expired::tests::any_expired,
        link::tests::any_link,
        namespace::tests::any_namespace_put,
        opened::tests::any_opened,
        party::tests::any_party_put,
        purpose::tests::any_purpose_put,
        signing_key::tests::any_key_change,
        subscription::tests::any_subscription_entry,
        uses::tests::any_use,
        *,
    };

    fn any_body() -> impl Strategy<Value = Body> {
        prop_oneof![
            any_opened().prop_map(Body::Opened),
            any_act().prop_map(Body::Act),
            any_purpose_put().prop_map(Body::PurposePut),
            any_channel_put().prop_map(Body::ChannelPut),
            any_namespace_put().prop_map(Body::NamespacePut),
            any_party_put().prop_map(Body::PartyPut),
            any_clock_corrected().prop_map(Body::ClockCorrected),
            any_confirmed().prop_map(Body::Confirmed),
            any_expired().prop_map(Body::Expired),
            any_link().prop_map(Body::Link),
            any_use().prop_map(Body::Use),
            any_subscription_entry().prop_map(Body::Subscription),
            any_key_change().prop_map(|change| Body::SigningKeyChanged(Box::new(change))),
            any_disclosed().prop_map(Body::Disclosed),
            any_disclosure().prop_map(Body::DisclosureMade),
        ]
    }

    pub(crate) fn any_entry() -> impl Strategy<Value = Entry> {
        (any::<u64>(), any::<[u8; 32]>(), any::<i32>(), any_body()).prop_map(
            |(index, prev_hash, at, body)| Entry {
                index: index >> 1,
                prev_hash,
                recorded_at: Millis(i64::from(at) * 1_000),
                body,
            },
        )
    }

    /// Asserts that an entry's body survives being sealed and opened.
    #[track_caller]
    pub(super) fn reads_back(body: &Body) {
        let entry =
            Entry { index: 7, prev_hash: [3; 32], recorded_at: Millis(5_000), body: body.clone() };
        assert_eq!(crate::ledger::sealed::tests::sealed_and_opened(&entry).as_ref(), Ok(&entry));
    }
}
