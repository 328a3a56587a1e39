//! What is confidential and about no person: items, the shared part of a use, that of an erasure.
//!
//! Each kind has keys of its own, one for each 2^20 entries. The kind is not in clear, so a reader tries
//! the keys that it has, the most frequent kind first. A one-time key opens one item.

use consent_ledger_proto::{
    EventKind, ObligationKind, Reason, Snapshot,
    ledger::{self as message, ConfidentialKind, Erasure, Item, Totals, Use, item::Content},
};
use prost::Message;
use rand::CryptoRng;

use crate::{
    LedgerId,
    entry::SealedText,
    error::{BuildError, OpenError},
    field::{FieldError, ascending, fixed, known, recorded_ms, within},
    keys::{
        ledger::{ConfidentialKey, ConfidentialRoot, epoch},
        person::SaltKey,
    },
    record::marks,
    seal::{OneTimeKey, Part, Place, SealError, pad},
};

/// The greatest number of shards of a subscription.
pub const SHARDS_MAX: u32 = 64;

/// A kind of confidential text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// What the tags of a use share.
    Use,
    /// What the slots of an erasure share.
    Erasure,
    /// Subscriptions.
    Subscription,
    /// Webhook addresses, which are never disclosed.
    Webhook,
    /// Acknowledgements.
    Delivery,
    /// Deliveries that were given up.
    Failure,
    /// Deadlines that passed.
    Lateness,
    /// Disclosures.
    Disclosure,
    /// Principals.
    Principal,
    /// States of the vault.
    Vault,
}

impl Kind {
    /// The kinds of items, the most frequent first.
    pub const OF_ITEMS: [Self; 8] = [
        Self::Delivery,
        Self::Failure,
        Self::Lateness,
        Self::Subscription,
        Self::Webhook,
        Self::Principal,
        Self::Disclosure,
        Self::Vault,
    ];

    /// The kind of a number of the format.
    #[must_use]
    pub fn of_number(number: u32) -> Option<Self> {
        let number = i32::try_from(number).ok()?;
        Some(match ConfidentialKind::try_from(number).ok()? {
            ConfidentialKind::Unspecified => return None,
            ConfidentialKind::Use => Self::Use,
            ConfidentialKind::Erasure => Self::Erasure,
            ConfidentialKind::Subscription => Self::Subscription,
            ConfidentialKind::Webhook => Self::Webhook,
            ConfidentialKind::Delivery => Self::Delivery,
            ConfidentialKind::Failure => Self::Failure,
            ConfidentialKind::Lateness => Self::Lateness,
            ConfidentialKind::Disclosure => Self::Disclosure,
            ConfidentialKind::Principal => Self::Principal,
            ConfidentialKind::Vault => Self::Vault,
        })
    }

    /// Its number in the format, which is its byte in the derivation of keys.
    #[must_use]
    pub fn byte(self) -> u8 {
        match self {
            Self::Use => 1,
            Self::Erasure => 2,
            Self::Subscription => 3,
            Self::Webhook => 4,
            Self::Delivery => 5,
            Self::Failure => 6,
            Self::Lateness => 7,
            Self::Disclosure => 8,
            Self::Principal => 9,
            Self::Vault => 10,
        }
    }

    /// Whether a disclosure may hold its keys.
    #[must_use]
    pub fn may_be_disclosed(self) -> bool {
        self != Self::Webhook
    }

    /// The kind of an item.
    #[must_use]
    pub fn of(content: &Content) -> Self {
        match content {
            Content::SubscriptionCreated(_) | Content::SubscriptionDeleted(_) => Self::Subscription,
            Content::WebhookAddress(_) => Self::Webhook,
            Content::Delivery(_) => Self::Delivery,
            Content::Failure(_) => Self::Failure,
            Content::Lateness(_) => Self::Lateness,
            Content::Disclosure(_) => Self::Disclosure,
            Content::Principal(_) => Self::Principal,
            Content::Vault(_) => Self::Vault,
        }
    }
}

/// Confidential keys: all of a ledger, or those of a disclosure.
pub trait Keyring {
    /// The one-time key of the text of a kind, at a place, with a salt; none if this keyring lacks it.
    fn one_time(&self, kind: Kind, place: &Place, salt: &[u8; 16]) -> Option<OneTimeKey>;
}

impl Keyring for ConfidentialRoot {
    fn one_time(&self, kind: Kind, place: &Place, salt: &[u8; 16]) -> Option<OneTimeKey> {
        Some(self.of_epoch(kind, epoch(place.index)).one_time(salt))
    }
}

impl ConfidentialKey {
    /// The one-time key of a text with this salt.
    #[must_use]
    pub fn one_time(&self, salt: &[u8; 16]) -> OneTimeKey {
        OneTimeKey::derive(&self.0, salt)
    }
}

/// An opened item.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenedItem {
    /// Its kind.
    pub kind: Kind,
    /// Its message.
    pub item: Item,
    /// The key that opens this item alone.
    pub key: OneTimeKey,
}

/// Seals the items of an entry.
///
/// # Errors
/// An item is not one of the format, or too long: see [`BuildError`].
pub fn seal_items(
    root: &ConfidentialRoot,
    ledger_id: LedgerId,
    index: u64,
    items: &[Item],
    rng: &mut impl CryptoRng,
) -> Result<Vec<SealedText>, BuildError> {
    if items.is_empty() {
        return Err(FieldError::Unknown("items").into());
    }
    let mut sealed = Vec::with_capacity(items.len());
    for (number, item) in items.iter().enumerate() {
        let kind = check(item)?;
        let place = item_place(ledger_id, index, number)?;
        sealed.push(seal(root, kind, &place, &item.encode_to_vec(), rng)?);
    }
    Ok(sealed)
}

/// Opens an item with the keys of a keyring; none if it has no key that opens it. A keyring with all keys
/// of the ledger that opens no kind of it means damage.
///
/// # Errors
/// A key opens it, and what it holds is not of the format: see [`OpenError`].
pub fn open_item(
    keys: &impl Keyring,
    ledger_id: LedgerId,
    index: u64,
    number: usize,
    sealed: &SealedText,
) -> Result<Option<OpenedItem>, OpenError> {
    let place = item_place(ledger_id, index, number)?;
    for kind in Kind::OF_ITEMS {
        let Some(key) = keys.one_time(kind, &place, &sealed.salt) else { continue };
        match open_item_once(&key, &place, sealed) {
            Ok((opened, item)) if opened == kind => {
                return Ok(Some(OpenedItem { kind, item, key }));
            }
            Ok(_) => return Err(FieldError::Unexpected("content").into()),
            Err(OpenError::Seal { problem: SealError::Key, .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Opens an item with its one-time key.
///
/// # Errors
/// See [`OpenError`].
pub fn open_item_once(
    key: &OneTimeKey,
    place: &Place,
    sealed: &SealedText,
) -> Result<(Kind, Item), OpenError> {
    let item: Item =
        key.open_message(place, &sealed.text).map_err(|problem| OpenError::seal(place, problem))?;
    Ok((check(&item)?, item))
}

/// The place of an item.
///
/// # Errors
/// More items than can be numbered.
pub fn item_place(ledger_id: LedgerId, index: u64, number: usize) -> Result<Place, FieldError> {
    let got = u64::try_from(number).unwrap_or(u64::MAX);
    let out_of_range = FieldError::Range { field: "items", min: 0, max: u32::MAX.into(), got };
    let item = u32::try_from(number).map_err(|_| out_of_range)?;
    Ok(Place { ledger_id, index, tag: [0; 16], part: Part::Item, item })
}

/// Seals what the slots of an erasure share.
///
/// # Errors
/// See [`BuildError`].
pub fn seal_erasure(
    root: &ConfidentialRoot,
    ledger_id: LedgerId,
    index: u64,
    erasure: &Erasure,
    rng: &mut impl CryptoRng,
) -> Result<SealedText, BuildError> {
    check_erasure(erasure)?;
    let place = shared_place(ledger_id, index, Part::Erasure);
    seal(root, Kind::Erasure, &place, &erasure.encode_to_vec(), rng)
}

/// Opens what the slots of an erasure share; none if the keyring lacks the key.
///
/// # Errors
/// See [`OpenError`].
pub fn open_erasure(
    keys: &impl Keyring,
    ledger_id: LedgerId,
    index: u64,
    sealed: &SealedText,
) -> Result<Option<Erasure>, OpenError> {
    let place = shared_place(ledger_id, index, Part::Erasure);
    let opened: Option<Erasure> = open(keys, Kind::Erasure, &place, sealed)?;
    opened.as_ref().map_or(Ok(()), check_erasure)?;
    Ok(opened)
}

/// Seals what the tags of a use share.
///
/// # Errors
/// See [`BuildError`].
pub fn seal_use(
    root: &ConfidentialRoot,
    ledger_id: LedgerId,
    index: u64,
    used: &Use,
    rng: &mut impl CryptoRng,
) -> Result<SealedText, BuildError> {
    check_use(used)?;
    let place = shared_place(ledger_id, index, Part::Use);
    seal(root, Kind::Use, &place, &used.encode_to_vec(), rng)
}

/// Opens what the tags of a use share; none if the keyring lacks the key.
///
/// # Errors
/// See [`OpenError`].
pub fn open_use(
    keys: &impl Keyring,
    ledger_id: LedgerId,
    index: u64,
    sealed: &SealedText,
) -> Result<Option<Use>, OpenError> {
    let place = shared_place(ledger_id, index, Part::Use);
    let opened: Option<Use> = open(keys, Kind::Use, &place, sealed)?;
    opened.as_ref().map_or(Ok(()), check_use)?;
    Ok(opened)
}

/// The place of what slots or tags of an entry share.
#[must_use]
pub fn shared_place(ledger_id: LedgerId, index: u64, part: Part) -> Place {
    Place { ledger_id, index, tag: [0; 16], part, item: 0 }
}

fn seal(
    root: &ConfidentialRoot,
    kind: Kind,
    place: &Place,
    message: &[u8],
    rng: &mut impl CryptoRng,
) -> Result<SealedText, BuildError> {
    let text = pad(place.part.buckets(), message)
        .map_err(|problem| BuildError::TooLong { part: place.part, problem })?;
    let salts: &SaltKey = &root.salts;
    let salt = salts.salt(rng, &[&place.aad(), &text]);
    let key = root.of_epoch(kind, epoch(place.index)).one_time(&salt);
    Ok(SealedText { salt, text: key.seal(place, &text) })
}

fn open<M: Message + Default + prost::Name>(
    keys: &impl Keyring,
    kind: Kind,
    place: &Place,
    sealed: &SealedText,
) -> Result<Option<M>, OpenError> {
    let Some(key) = keys.one_time(kind, place, &sealed.salt) else { return Ok(None) };
    let opened = key.open_message(place, &sealed.text);
    opened.map(Some).map_err(|problem| OpenError::seal(place, problem))
}

/// Checks an item.
fn check(item: &Item) -> Result<Kind, FieldError> {
    recorded_ms(item.recorded_ms)?;
    let content = item.content.as_ref().ok_or(FieldError::Unknown("content"))?;
    match content {
        Content::SubscriptionCreated(created) => check_created(created)?,
        Content::WebhookAddress(address) if address.url.is_empty() => {
            return Err(FieldError::Unknown("webhook_address.url"));
        }
        Content::Delivery(delivery) => check_delivery(delivery)?,
        Content::Failure(failure) => {
            shard("failure.shard", failure.shard)?;
            within("failure.failed", failure.failed.len() as u64, 1, u64::MAX)?;
            ascending("failure.failed", failure.failed.iter().map(|failed| failed.index))?;
        }
        Content::Lateness(lateness) => shard("lateness.shard", lateness.shard)?,
        Content::Disclosure(made) => {
            fixed::<32>("disclosure.digest", &made.digest)?;
        }
        Content::Vault(state) => check_totals("vault.totals", state.totals.as_ref())?,
        Content::WebhookAddress(_) | Content::SubscriptionDeleted(_) | Content::Principal(_) => {}
    }
    Ok(Kind::of(content))
}

fn check_created(created: &message::SubscriptionCreated) -> Result<(), FieldError> {
    for kind in &created.kinds {
        known::<EventKind>("subscription_created.kinds", *kind)?;
    }
    Snapshot::try_from(created.snapshot)
        .map_err(|_| FieldError::Unknown("subscription_created.snapshot"))?;
    let shards = u64::from(created.shards);
    within("subscription_created.shards", shards, 1, SHARDS_MAX.into())
}

fn check_delivery(delivery: &message::Delivery) -> Result<(), FieldError> {
    within("delivery.shards", delivery.shards.len() as u64, 1, SHARDS_MAX.into())?;
    ascending("delivery.shards", delivery.shards.iter().map(|it| it.shard))?;
    for delivered in &delivery.shards {
        shard("delivery.shards.shard", delivered.shard)?;
        let ends = delivered.ranges.iter().flat_map(|range| [range.start_index, range.end_index]);
        let is_ascending = delivered.ranges.iter().all(|range| range.start_index < range.end_index)
            && ends.is_sorted();
        if !is_ascending {
            return Err(FieldError::Order("delivery.shards.ranges"));
        }
    }
    Ok(())
}

fn check_erasure(erasure: &Erasure) -> Result<(), FieldError> {
    recorded_ms(erasure.recorded_ms)?;
    check_totals("totals", erasure.totals.as_ref())
}

fn check_totals(field: &'static str, totals: Option<&Totals>) -> Result<(), FieldError> {
    totals.map(|_| ()).ok_or(FieldError::Unknown(field))
}

fn check_use(used: &Use) -> Result<(), FieldError> {
    recorded_ms(used.recorded_ms)?;
    within("purpose", used.purpose.into(), 1, u32::MAX.into())?;
    within("channel", used.channel.into(), 1, u32::MAX.into())?;
    known::<Reason>("reason", used.reason)?;
    for kind in &used.broken_obligations {
        known::<ObligationKind>("broken_obligations", *kind)?;
    }
    ascending("broken_obligations", &used.broken_obligations)?;
    marks(&used.idempotency, &used.request_digest)?;
    within("random_tags", used.random_tags.into(), 0, 7)
}

fn shard(field: &'static str, number: u32) -> Result<(), FieldError> {
    within(field, number.into(), 0, u64::from(SHARDS_MAX) - 1)
}
