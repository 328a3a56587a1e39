//! Entries: the bytes, and what they say without any key.
//!
//! ```text
//! Entry  index, hash of the entry before, time in seconds, and one body
//! body   the ledger's opening | persons | the catalogue | uses | confidential items
//!        | a change of the signing key | a feature level
//! ```
//!
//! Decoding is strict: the bytes are canonical, every field is known, tags ascend, sealed parts have the
//! sizes of their buckets. Everything that can be checked without keys is checked here, so a value of these
//! types always has an encoding that decodes to it.

use consent_ledger_proto::{
    LegalBasis, NamespaceKind, PartyRole,
    ledger::{
        self as message, ChannelPut, ClockCorrected, FormatLevel, KeyTransition, LedgerOpened,
        NamespacePut, PartyPut, PurposePut,
    },
};
use prost::Message;
use thiserror::Error;

use crate::{
    LedgerId, Tag,
    canonical::{self, CanonicalError},
    error::OpenError,
    field::{FieldError, absent_unless, ascending, fixed, is_key, known, present_if, within},
    keys::ledger::ClearKey,
    seal::{Part, Sealed},
    uses::{TAGS_MAX, TAGS_STEP},
};

/// The largest entry, in bytes.
pub const ENTRY_BYTES_MAX: usize = 65_535;
/// The version of the format.
pub const FORMAT_VERSION: u32 = 2;

/// An entry of the ledger.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Position, from 0.
    pub index: u64,
    /// Chain hash of the entry before; zeros for entry 0.
    pub prev_hash: [u8; 32],
    /// When the ledger recorded it, in seconds since the Unix epoch.
    pub recorded_at_s: i64,
    /// Shows that the ledger wrote a body that is in clear.
    pub mac: Option<Mac>,
    /// What it says.
    pub body: Body,
}

/// What shows, to whoever has the ledger's secret, that the ledger wrote an entry.
pub type Mac = [u8; 16];

/// What an entry says without keys.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// Opens the ledger.
    Opened(LedgerOpened),
    /// About persons.
    Persons(Persons),
    /// A purpose was put.
    Purpose(PurposePut),
    /// A channel was put.
    Channel(ChannelPut),
    /// A namespace was put.
    Namespace(NamespacePut),
    /// A party was put.
    Party(PartyPut),
    /// Data of persons was used.
    Uses(Uses),
    /// Confidential items.
    Confidential(Vec<SealedText>),
    /// The signing key changes.
    KeyTransition(KeyTransition),
    /// The feature level rises.
    Level(FormatLevel),
    /// A clock that was ahead gave the times of some entries.
    ClockCorrected(ClockCorrected),
}

/// What an entry says about persons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Persons {
    /// In strictly ascending order of their tags. Evidence is there if there is one slot alone.
    pub slots: Vec<Slot>,
    /// In entries that erase persons.
    pub erasure: Option<SealedText>,
}

/// What an entry says about one person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// The person's tag.
    pub tag: Tag,
    /// The salt of both parts.
    pub salt: [u8; 16],
    /// The record.
    pub record: Sealed,
    /// The evidence.
    pub evidence: Option<Sealed>,
}

/// The uses of one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uses {
    /// Tags of lane 1 and random ones, strictly ascending.
    pub tags: Vec<Tag>,
    /// What they share.
    pub shared: SealedText,
}

/// A sealed text with its salt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedText {
    /// Salt of the key derivation.
    pub salt: [u8; 16],
    /// The text.
    pub text: Sealed,
}

/// Why bytes are not an entry.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EntryError {
    /// Too many bytes.
    #[error("the entry has {0} bytes, the limit is {ENTRY_BYTES_MAX}")]
    TooLarge(usize),
    /// Not canonical.
    #[error(transparent)]
    Canonical(#[from] CanonicalError),
    /// No body.
    #[error("the entry has no body that this program knows")]
    NoBody,
    /// A field with a value that the format does not allow.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// A sealed part whose size is none of its buckets.
    #[error("the {} has {got} bytes, which is the size of no padded text", part.noun())]
    Size {
        /// Which part.
        part: Part,
        /// Its bytes.
        got: usize,
    },
}

impl Entry {
    /// An entry of the ledger that has this key.
    #[must_use]
    pub fn new(
        index: u64,
        prev_hash: [u8; 32],
        recorded_at_s: i64,
        body: Body,
        key: &ClearKey,
    ) -> Self {
        let mut entry = Self { index, prev_hash, recorded_at_s, mac: None, body };
        entry.mac = entry.expected_mac(key);
        entry
    }

    /// The entry's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.message(self.mac).encode_to_vec()
    }

    /// Whether the ledger has written the entry, as far as its MAC shows that. What is sealed shows it by
    /// its seals.
    ///
    /// # Errors
    /// [`OpenError::Mac`].
    pub fn check_mac(&self, key: &ClearKey) -> Result<(), OpenError> {
        let is_right = self.mac == self.expected_mac(key);
        if is_right { Ok(()) } else { Err(OpenError::Mac { index: self.index }) }
    }

    /// The MAC that the ledger gives the entry; none if its body is sealed, or opens the ledger.
    fn expected_mac(&self, key: &ClearKey) -> Option<Mac> {
        self.body.has_mac().then(|| key.mac(&self.message(None).encode_to_vec()))
    }

    fn message(&self, mac: Option<Mac>) -> message::Entry {
        message::Entry {
            index: self.index,
            prev_hash: self.prev_hash.to_vec(),
            recorded_at_s: self.recorded_at_s,
            mac: mac.map(Vec::from).unwrap_or_default(),
            body: Some(self.body.message()),
        }
    }

    /// Reads an entry.
    ///
    /// # Errors
    /// See [`EntryError`].
    pub fn decode(entry_bytes: &[u8]) -> Result<Self, EntryError> {
        if entry_bytes.len() > ENTRY_BYTES_MAX {
            return Err(EntryError::TooLarge(entry_bytes.len()));
        }
        let message: message::Entry = canonical::decode(entry_bytes)?;
        let prev_hash = fixed("prev_hash", &message.prev_hash)?;
        let body = Body::of_message(message.body.ok_or(EntryError::NoBody)?)?;
        present_if("mac", body.has_mac(), !message.mac.is_empty())?;
        let mac = body.has_mac().then(|| fixed("mac", &message.mac)).transpose()?;
        let (index, recorded_at_s) = (message.index, message.recorded_at_s);
        Ok(Self { index, prev_hash, recorded_at_s, mac, body })
    }

    /// The opening of the ledger that bytes claim, in this format or another. Fields that are not known are
    /// passed over, so that another format is told as such and not as damage.
    #[must_use]
    pub fn claimed_opening(entry_bytes: &[u8]) -> Option<LedgerOpened> {
        match message::Entry::decode(entry_bytes).ok()?.body? {
            message::entry::Body::LedgerOpened(opened) => Some(opened),
            _ => None,
        }
    }
}

impl Body {
    /// The first feature level that may have it.
    #[must_use]
    pub fn level(&self) -> u32 {
        match self {
            Self::Opened(_)
            | Self::Persons(_)
            | Self::Purpose(_)
            | Self::Channel(_)
            | Self::Namespace(_)
            | Self::Party(_)
            | Self::Uses(_)
            | Self::Confidential(_)
            | Self::KeyTransition(_)
            | Self::Level(_)
            | Self::ClockCorrected(_) => 1,
        }
    }

    /// Whether its entry has a MAC: it is in clear, and there is a secret to make one with.
    fn has_mac(&self) -> bool {
        match self {
            Self::Opened(_) | Self::Persons(_) | Self::Uses(_) | Self::Confidential(_) => false,
            Self::Purpose(_)
            | Self::Channel(_)
            | Self::Namespace(_)
            | Self::Party(_)
            | Self::KeyTransition(_)
            | Self::Level(_)
            | Self::ClockCorrected(_) => true,
        }
    }

    /// What it is, for people.
    #[must_use]
    pub fn noun(&self) -> &'static str {
        match self {
            Self::Opened(_) => "the opening of the ledger",
            Self::Persons(persons) if persons.erasure.is_some() => "an erasure",
            Self::Persons(_) => "an entry about persons",
            Self::Purpose(_) => "a change of a purpose",
            Self::Channel(_) => "a change of a channel",
            Self::Namespace(_) => "a change of a namespace",
            Self::Party(_) => "a change of a party",
            Self::Uses(_) => "a record of use",
            Self::Confidential(_) => "confidential items",
            Self::KeyTransition(_) => "a change of the signing key",
            Self::Level(_) => "a rise of the feature level",
            Self::ClockCorrected(_) => "a correction of the clock",
        }
    }

    fn message(&self) -> message::entry::Body {
        use message::entry::Body as Message;
        match self {
            Self::Opened(opened) => Message::LedgerOpened(opened.clone()),
            Self::Persons(persons) => Message::Persons(persons.message()),
            Self::Purpose(put) => Message::PurposePut(put.clone()),
            Self::Channel(put) => Message::ChannelPut(put.clone()),
            Self::Namespace(put) => Message::NamespacePut(put.clone()),
            Self::Party(put) => Message::PartyPut(put.clone()),
            Self::Uses(uses) => Message::Uses(uses.message()),
            Self::Confidential(items) => Message::Confidential(message::Confidential {
                items: items.iter().map(SealedText::message).collect(),
            }),
            Self::KeyTransition(transition) => Message::KeyTransition(transition.clone()),
            Self::Level(level) => Message::FormatLevel(*level),
            Self::ClockCorrected(corrected) => Message::ClockCorrected(corrected.clone()),
        }
    }

    fn of_message(message: message::entry::Body) -> Result<Self, EntryError> {
        use message::entry::Body as Message;
        Ok(match message {
            Message::LedgerOpened(opened) => {
                check_opened(&opened)?;
                Self::Opened(opened)
            }
            Message::Persons(persons) => Self::Persons(Persons::of_message(persons)?),
            Message::PurposePut(put) => {
                check_purpose(&put)?;
                Self::Purpose(put)
            }
            Message::ChannelPut(put) => {
                is_key("channel_put.key", &put.key)?;
                Self::Channel(put)
            }
            Message::NamespacePut(put) => {
                is_key("namespace_put.key", &put.key)?;
                known::<NamespaceKind>("namespace_put.kind", put.kind)?;
                Self::Namespace(put)
            }
            Message::PartyPut(put) => {
                check_party(&put)?;
                Self::Party(put)
            }
            Message::Uses(uses) => Self::Uses(Uses::of_message(uses)?),
            Message::Confidential(confidential) => {
                let items = confidential.items.into_iter();
                let items: Vec<_> = items
                    .map(|item| SealedText::of_message(Part::Item, item))
                    .collect::<Result<_, _>>()?;
                present_if("confidential.items", true, !items.is_empty())?;
                Self::Confidential(items)
            }
            Message::KeyTransition(transition) => {
                check_transition(&transition)?;
                Self::KeyTransition(transition)
            }
            Message::FormatLevel(level) => Self::Level(level),
            Message::ClockCorrected(corrected) => {
                check_correction(&corrected)?;
                Self::ClockCorrected(corrected)
            }
        })
    }
}

impl Persons {
    /// The slot with this tag, and its place.
    #[must_use]
    pub fn slot_of(&self, tag: &Tag) -> Option<(usize, &Slot)> {
        let place = self.slots.binary_search_by(|slot| slot.tag.cmp(tag)).ok()?;
        Some((place, &self.slots[place]))
    }

    fn message(&self) -> message::Persons {
        message::Persons {
            slots: self.slots.iter().map(Slot::message).collect(),
            shared: self.erasure.as_ref().map(SealedText::message),
        }
    }

    fn of_message(message: message::Persons) -> Result<Self, EntryError> {
        let is_alone = message.slots.len() == 1;
        let slots = message.slots.into_iter().map(|slot| Slot::of_message(slot, is_alone));
        let slots: Vec<_> = slots.collect::<Result<_, _>>()?;
        present_if("persons.slots", true, !slots.is_empty())?;
        ascending("persons.slots.tag", slots.iter().map(|slot| slot.tag))?;
        let erasure = message.shared.map(|shared| SealedText::of_message(Part::Erasure, shared));
        Ok(Self { slots, erasure: erasure.transpose()? })
    }
}

impl Slot {
    fn message(&self) -> message::Slot {
        let evidence = self.evidence.as_ref();
        message::Slot {
            tag: self.tag.to_vec(),
            salt: self.salt.to_vec(),
            record: self.record.ciphertext.clone(),
            record_commit: self.record.commitment.to_vec(),
            evidence: evidence.map(|sealed| sealed.ciphertext.clone()).unwrap_or_default(),
            evidence_commit: evidence.map(|sealed| sealed.commitment.to_vec()).unwrap_or_default(),
        }
    }

    fn of_message(message: message::Slot, is_alone: bool) -> Result<Self, EntryError> {
        let commitment = fixed("persons.slots.record_commit", &message.record_commit)?;
        let record = sealed(Part::Record, message.record, commitment)?;
        present_if("persons.slots.evidence", is_alone, !message.evidence.is_empty())?;
        let has_commitment = !message.evidence_commit.is_empty();
        present_if("persons.slots.evidence_commit", is_alone, has_commitment)?;
        let evidence = if is_alone {
            let commitment = fixed("persons.slots.evidence_commit", &message.evidence_commit)?;
            Some(sealed(Part::Evidence, message.evidence, commitment)?)
        } else {
            None
        };
        Ok(Self {
            tag: fixed("persons.slots.tag", &message.tag)?,
            salt: fixed("persons.slots.salt", &message.salt)?,
            record,
            evidence,
        })
    }
}

impl Uses {
    fn message(&self) -> message::Uses {
        message::Uses { tags: self.tags.concat(), shared: Some(self.shared.message()) }
    }

    fn of_message(message: message::Uses) -> Result<Self, EntryError> {
        let (tags, rest) = message.tags.as_chunks::<16>();
        let (got, count) = (message.tags.len(), tags.len());
        if !rest.is_empty() || count % TAGS_STEP != 0 {
            let want = got.next_multiple_of(16 * TAGS_STEP);
            return Err(FieldError::Length { field: "uses.tags", want, got }.into());
        }
        within("uses.tags", count as u64, TAGS_STEP as u64, TAGS_MAX as u64)?;
        ascending("uses.tags", tags)?;
        let shared = message.shared.ok_or(FieldError::Unknown("uses.shared"))?;
        Ok(Self { tags: tags.to_vec(), shared: SealedText::of_message(Part::Use, shared)? })
    }
}

impl SealedText {
    fn message(&self) -> message::Sealed {
        message::Sealed {
            salt: self.salt.to_vec(),
            ciphertext: self.text.ciphertext.clone(),
            commitment: self.text.commitment.to_vec(),
        }
    }

    fn of_message(part: Part, message: message::Sealed) -> Result<Self, EntryError> {
        let commitment = fixed("commitment", &message.commitment)?;
        Ok(Self {
            salt: fixed("salt", &message.salt)?,
            text: sealed(part, message.ciphertext, commitment)?,
        })
    }
}

/// The id of the ledger that an entry opens.
///
/// # Errors
/// It is not 16 bytes long.
pub fn ledger_id(opened: &LedgerOpened) -> Result<LedgerId, FieldError> {
    fixed("ledger_opened.ledger_id", &opened.ledger_id)
}

fn sealed(part: Part, ciphertext: Vec<u8>, commitment: [u8; 32]) -> Result<Sealed, EntryError> {
    let got = ciphertext.len();
    if !part.buckets().has_ciphertext(got) {
        return Err(EntryError::Size { part, got });
    }
    Ok(Sealed { ciphertext, commitment })
}

fn check_opened(opened: &LedgerOpened) -> Result<(), FieldError> {
    ledger_id(opened)?;
    present_if("ledger_opened.origin", true, !opened.origin.is_empty())?;
    let version = u64::from(opened.format_version);
    let wanted = u64::from(FORMAT_VERSION);
    within("ledger_opened.format_version", version, wanted, wanted)?;
    present_if("ledger_opened.feature_level", true, opened.feature_level != 0)
}

fn check_purpose(put: &PurposePut) -> Result<(), FieldError> {
    is_key("purpose_put.key", &put.key)?;
    present_if("purpose_put.version", true, put.version != 0)?;
    known::<LegalBasis>("purpose_put.legal_basis", put.legal_basis)?;
    let oldest = u64::from(put.oldest_compatible_version);
    within("purpose_put.oldest_compatible_version", oldest, 1, put.version.into())?;
    for basis in &put.basis_by_region {
        known::<LegalBasis>("purpose_put.basis_by_region", basis.legal_basis)?;
    }
    ascending("purpose_put.basis_by_region", put.basis_by_region.iter().map(|it| &it.region))?;
    for obligation in &put.obligations {
        let has_quiet_span = obligation.quiet_span.is_some();
        present_if("purpose_put.obligations", !has_quiet_span, obligation.frequency_cap.is_some())?;
    }
    if !put.controller.is_empty() {
        is_key("purpose_put.controller", &put.controller)?;
    }
    for recipient in put.recipients.iter().flat_map(|recipients| &recipients.parties) {
        is_key("purpose_put.recipients", recipient)?;
    }
    Ok(())
}

fn check_party(put: &PartyPut) -> Result<(), FieldError> {
    is_key("party_put.key", &put.key)?;
    present_if("party_put.version", true, put.version != 0)?;
    for role in &put.roles {
        known::<PartyRole>("party_put.roles", *role)?;
    }
    Ok(())
}

fn check_correction(corrected: &ClockCorrected) -> Result<(), FieldError> {
    let ClockCorrected { first_index, end_index, right_until_ms, right_again_ms, .. } = corrected;
    within("clock_corrected.first_index", *first_index, 1, u64::MAX)?;
    within("clock_corrected.end_index", *end_index, first_index.saturating_add(1), u64::MAX)?;
    match right_until_ms <= right_again_ms {
        true => Ok(()),
        false => Err(FieldError::Order("clock_corrected.right_again_ms")),
    }
}

fn check_transition(transition: &KeyTransition) -> Result<(), FieldError> {
    present_if("key_transition.new_key", true, !transition.new_key.is_empty())?;
    let is_same = transition.old_key == transition.new_key;
    absent_unless("key_transition.new_key", !is_same, true)
}
