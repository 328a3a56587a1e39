//! The content of entries: one file for each kind, with everything that the kind means.
//!
//! An entry passes three layers, each of which knows nothing of the next:
//!
//! 1. The *envelope* ([`crate::ledger::envelope`]) is bytes: index, hash of the entry before, time,
//!    and a body that it does not read. The chain goes over envelopes.
//! 2. The *opened fact* ([`Fact`], here) is the decoded body, and the data subjects it names.
//! 3. The *fold* ([`crate::fold`]) applies the fact to the states of data subjects, the catalogue and
//!    the subscriptions.
//!
//! A kind answers for itself through [`Kind`]: its message, the data subjects that it names, what it
//! acts on and how, which index rows lead to it, which event watchers receive, its line in a history,
//! and what a receipt proves of it. No other code asks for the kind of an entry to know its meaning.
//!
//! # Adding a kind
//! Its message in `entry.proto`, its file here, and one line each in [`Body`], [`Body::kind`] and
//! [`Body::from_message`]. No method of [`Kind`] has a default, so a new kind can forget nothing. A
//! kind that names no data subject implements [`NamesNoSubject`] instead.

mod act;
mod channel;
mod clock;
mod confirmed;
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

pub use act::{ConfirmationOffer, ConsentAct};
pub use channel::ChannelPut;
pub use clock::ClockCorrected;
pub use confirmed::ConsentConfirmed;
pub use expired::GrantExpired;
pub use fields::{
    EntryError, contact_to_proto, decode_evidence, duration, duration_ms, encode_evidence,
    timestamp, timestamp_ms,
};
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
    domain::{Actor, Catalog, ChangeRecord, Millis, Sealed, SubjectRef, SubjectState, UnknownKey},
    event::{CatalogDetail, EventOutline},
    fold::{FoldError, Judged, Lead, Subscriptions, Untrue},
    history::{Line, LineKind, SealedEvidence},
    proto,
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
    Expired(GrantExpired),
    /// Two data subjects were linked, or unlinked.
    Link(LinkChange),
    /// Data was used.
    Use(UseRecorded),
    /// A durable subscription changed, or events were delivered to it.
    Subscription(SubscriptionEntry),
    /// Another key signs from here on.
    SigningKeyChanged(Box<SigningKeyChanged>),
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
        }
    }

    /// Reads the content of a message.
    ///
    /// # Errors
    /// The first field that this program does not understand.
    pub fn from_message(message: proto::entry::Body) -> Result<Self, EntryError> {
        use proto::entry::Body as Message;
        Ok(match message {
            Message::LedgerOpened(message) => Self::Opened(message.try_into()?),
            Message::ConsentAct(message) => Self::Act(message.try_into()?),
            Message::PurposePut(message) => Self::PurposePut(message.try_into()?),
            Message::ChannelPut(message) => Self::ChannelPut(message.try_into()?),
            Message::NamespacePut(message) => Self::NamespacePut(message.try_into()?),
            Message::PartyPut(message) => Self::PartyPut(message.try_into()?),
            Message::ClockCorrected(message) => Self::ClockCorrected(message.try_into()?),
            Message::ConsentConfirmed(message) => Self::Confirmed(message.try_into()?),
            Message::GrantExpired(message) => Self::Expired(message.try_into()?),
            Message::SubjectsLinked(message) => Self::Link(message.try_into()?),
            Message::SubjectsUnlinked(message) => Self::Link(message.try_into()?),
            Message::UseRecorded(message) => Self::Use(message.try_into()?),
            Message::SubscriptionCreated(message) => {
                Self::Subscription(SubscriptionEntry::Created(Box::new(message.try_into()?)))
            }
            Message::SubscriptionDeleted(message) => {
                Self::Subscription(SubscriptionEntry::Deleted(message.into()))
            }
            Message::DeliveryReceipt(message) => {
                Self::Subscription(SubscriptionEntry::Delivered(subscription::receipt(message)?))
            }
            Message::DeliveryFailed(message) => {
                Self::Subscription(SubscriptionEntry::Failed(message.try_into()?))
            }
            Message::DeliveryOverdue(message) => {
                Self::Subscription(SubscriptionEntry::Overdue(message.into()))
            }
            Message::SigningKeyChanged(message) => {
                Self::SigningKeyChanged(Box::new(message.try_into()?))
            }
        })
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
    /// The body of the message that is stored.
    fn message(&self) -> proto::entry::Body;
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
    /// As [`Kind::message`].
    fn message(&self) -> proto::entry::Body;
    /// As [`Kind::target`].
    fn target(&self) -> Target<'_>;
    /// As [`Kind::outline`].
    fn outline(&self) -> EventOutline<'_>;
}

impl<K: NamesNoSubject> Kind for K {
    fn message(&self) -> proto::entry::Body {
        NamesNoSubject::message(self)
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
    /// The cells that it touches.
    fn touches(&self) -> Touched<'_>;
    /// Claims in it that do not follow from the entries before it.
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
    /// The evidence; none if there was none to keep.
    pub evidence: Option<&'a Sealed>,
    /// The caller's idempotency key, which the evidence is sealed with.
    pub idempotency: Option<IdempotencyMark>,
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
        let (sealed, idempotency) = (self.evidence.cloned(), self.idempotency);
        Line {
            changes: self.changes.to_vec(),
            evidence: Some(SealedEvidence { sealed, idempotency }),
            confirmation_expires_at: self.confirm_until,
            cause: self.confirms.map(|(request_index, _)| request_index),
            ..Line::new(kind, self.actor, self.effective_at)
        }
    }
}

/// Hashes of an idempotency key and its request, as the ledger keeps them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdempotencyMark {
    /// Keyed hash of the key.
    pub key_hash: [u8; 32],
    /// Keyed hash of the request.
    pub request_digest: [u8; 32],
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::{
        act::tests::any_act, channel::tests::any_channel_put, clock::tests::any_clock_corrected,
        confirmed::tests::any_confirmed, expired::tests::any_expired, link::tests::any_link,
        namespace::tests::any_namespace_put, opened::tests::any_opened,
        party::tests::any_party_put, purpose::tests::any_purpose_put,
        signing_key::tests::any_key_change, subscription::tests::any_subscription_entry,
        uses::tests::any_use, *,
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

    /// Asserts that an entry's body survives the round trip through its message.
    #[track_caller]
    pub(super) fn reads_back(body: &Body) {
        assert_eq!(Body::from_message(body.kind().message()).as_ref(), Ok(body));
    }

    /// Asserts that a message is refused for a field.
    #[track_caller]
    pub(super) fn refused(message: proto::entry::Body, field: &'static str) {
        assert_eq!(Body::from_message(message), Err(EntryError::Field { field }));
    }
}
