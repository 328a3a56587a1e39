//! The frames of the vault: who the persons are, and their keys.
//!
//! ```text
//! frame 0   ledger id, wrapped vault key V, and the ledger's secrets under V
//! frame n   a person (master, nodes of both roots, identity), or a tombstone, under V
//!
//! one-time key = D("vault frame", V || salt)
//! aad          = "consent-ledger v2" || 00 || ledger id || generation || number || id
//! ciphertext   = AES-256-GCM(one-time key, nonce 0, aad, padded message), with its tag
//! mac          = K(vault chain key, mac before || generation || number || id || salt || ciphertext)
//! wrapping     = AES-256-GCM(D("vault key wrapping", KEK || wrap salt), nonce 0,
//!                "consent-ledger v2" || 00 || ledger id || generation || format (u32), V)
//! key check    = D("vault key check", KEK)[..16]
//! ```
//!
//! A frame is bound to its ledger, generation, number and content, and to all frames before it, so none can
//! be changed, moved, repeated, put in or left out without the ledger's secret. What is cut off at the end is
//! found by the ledger, which has tags that no key explains then; an older generation by its number.
//! Each generation has all frames anew, in another order.
//!
//! No look-up is in a frame. Two frames of one identity are refused by [`Distinct`].

use consent_ledger_proto::ledger::{
    SuppressionKey, TreeNode, VaultContent, VaultFrame, VaultOpened, VaultPerson, VaultSecrets,
    VaultTombstone, vault_content,
};
use hashbrown::HashMap;
use prost::Message;
use rand::CryptoRng;
use thiserror::Error;
use zeroize::{Zeroize as _, Zeroizing};

use crate::{
    LedgerId,
    canonical::{self, CanonicalError},
    field::{FieldError, ascending, fixed, present_if, within},
    hash::{Context, PREFIX, derive, derive_key, half, is_same, keyed},
    keys::{
        ledger::LedgerSecret,
        person::PersonKeys,
        tree::{KeyTree, Node, TreeError},
    },
    seal::{AUTH_BYTES, Buckets, OneTimeKey, SealError, TooLong, pad, unpad},
    secret::{Key, random},
};

/// Version of the vault's format.
pub const FORMAT_VERSION: u32 = 2;
/// The longest identity, in bytes: a namespace of 128, a colon and an id of 256.
pub const IDENTITY_BYTES_MAX: usize = 385;

/// A person of the vault.
#[derive(Clone, PartialEq, Eq)]
pub struct Person {
    /// The person's keys.
    pub keys: PersonKeys,
    /// The canonical identity, `namespace:id`. Personal data.
    pub identity: String,
}

/// What a frame after the first holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// A person.
    Person(Person),
    /// An erased person.
    Tombstone(VaultTombstone),
}

/// The ledger's secrets, which frame 0 holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secrets {
    /// Never replaced.
    pub ledger: LedgerSecret,
    /// The key of look-ups.
    pub lookup: Key,
    /// The key of derived files.
    pub view: Key,
    /// The keys of tombstones with their numbers, ascending; the last is the current one.
    pub suppression: Vec<(u32, Key)>,
}

/// A vault that is read or written in the order of its frames.
#[derive(Debug, Clone)]
pub struct Vault {
    ledger_id: LedgerId,
    generation: u64,
    key: Key,
    chain_key: Key,
    secrets: Secrets,
    next_number: u64,
    /// Of the frame before the next.
    mac: [u8; 32],
}

/// Why bytes are not a frame of a vault, or not the next one.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum VaultError {
    /// Not canonical.
    #[error("vault frame {number}: {problem}")]
    Canonical {
        /// Number of the frame.
        number: u64,
        /// Why.
        problem: CanonicalError,
    },
    /// A field with a value that the format does not allow.
    #[error("vault frame {number}: {problem}")]
    Field {
        /// Number of the frame.
        number: u64,
        /// Which, and why.
        problem: FieldError,
    },
    /// Another format.
    #[error("the vault has format {0}, this program reads {FORMAT_VERSION}")]
    Format(u32),
    /// Another ledger's vault.
    #[error("the vault belongs to another ledger")]
    OtherLedger,
    /// Another key-encryption key.
    #[error("the key-encryption key is another one than the vault's")]
    WrongKey,
    /// Frame 0 is damaged.
    #[error("vault frame 0 is damaged: the key-encryption key is right, and {0} is not")]
    Opening(&'static str),
    /// Another generation than that of frame 0.
    #[error("vault frame {number} is of generation {got}, the vault of {want}")]
    Generation {
        /// Number of the frame.
        number: u64,
        /// The vault's.
        want: u64,
        /// The frame's.
        got: u64,
    },
    /// Another number than the next.
    #[error("vault frame {want} has the number {got}: a frame was moved, put in or left out")]
    Number {
        /// Its place.
        want: u64,
        /// The number in the frame.
        got: u64,
    },
    /// It does not continue the chain.
    #[error("vault frame {0} does not continue the vault: it or a frame before it was changed")]
    Chain(u64),
    /// It does not open with the vault key.
    #[error("vault frame {number} is damaged: {problem}")]
    Seal {
        /// Number of the frame.
        number: u64,
        /// Why.
        problem: SealError,
    },
    /// A key tree that is none.
    #[error("vault frame {number}: {problem}")]
    Tree {
        /// Number of the frame.
        number: u64,
        /// Why.
        problem: TreeError,
    },
    /// A frame too long.
    #[error("the content of a vault frame is too long: {0}")]
    TooLong(#[from] TooLong),
    /// Two frames of one identity, or with one id.
    #[error("vault frames {first} and {second} are of the same {what}")]
    Same {
        /// What is the same.
        what: &'static str,
        /// The first frame.
        first: u64,
        /// The other frame.
        second: u64,
    },
}

impl std::fmt::Debug for Person {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Person(…)")
    }
}

impl Person {
    /// A new person.
    #[must_use]
    pub fn new(identity: String, rng: &mut impl CryptoRng) -> Self {
        Self { keys: PersonKeys::random(rng), identity }
    }
}

impl Secrets {
    /// The secrets of a new ledger.
    #[must_use]
    pub fn random(rng: &mut impl CryptoRng) -> Self {
        Self {
            ledger: LedgerSecret::random(rng),
            lookup: Key::random(rng),
            view: Key::random(rng),
            suppression: vec![(0, Key::random(rng))],
        }
    }

    /// The keyed hash by which derived files find an identity.
    #[must_use]
    pub fn lookup(&self, identity: &str) -> [u8; 32] {
        keyed(&self.lookup, &[identity.as_bytes()])
    }

    /// The keyed hashes by which tombstones know an identity, one for each suppression key.
    pub fn suppressions(&self, identity: &str) -> impl Iterator<Item = (u32, [u8; 32])> {
        self.suppression
            .iter()
            .map(move |(number, key)| (*number, keyed(key, &[identity.as_bytes()])))
    }

    /// The number and hash of a tombstone that is made now.
    #[must_use]
    pub fn suppression(&self, identity: &str) -> Option<(u32, [u8; 32])> {
        self.suppressions(identity).last()
    }

    /// New keys for everything that a rotation replaces. Keys of tombstones are kept as long as a tombstone
    /// needs them: its identity is gone, so its hash can not be made anew.
    #[must_use]
    pub fn rotated(&self, still_needed: &[u32], rng: &mut impl CryptoRng) -> Self {
        let last = self.suppression.last().map_or(0, |(number, _)| *number);
        let kept = self.suppression.iter().filter(|(number, _)| still_needed.contains(number));
        let mut suppression: Vec<_> = kept.cloned().collect();
        suppression.push((last.saturating_add(1), Key::random(rng)));
        let (lookup, view) = (Key::random(rng), Key::random(rng));
        Self { ledger: self.ledger.clone(), lookup, view, suppression }
    }
}

impl Vault {
    /// Begins a vault. Returns it with the bytes of frame 0.
    ///
    /// # Errors
    /// [`VaultError::TooLong`]: too many suppression keys.
    pub fn create(
        ledger_id: LedgerId,
        kek: &Key,
        secrets: Secrets,
        rng: &mut impl CryptoRng,
    ) -> Result<(Self, Vec<u8>), VaultError> {
        Self::begin(ledger_id, 1, Key::random(rng), kek, secrets, rng)
    }

    /// Begins the next generation under the same vault key, with a new key of derived files. All frames that
    /// stay are appended to it, in a random order.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn compacted(
        &self,
        kek: &Key,
        rng: &mut impl CryptoRng,
    ) -> Result<(Self, Vec<u8>), VaultError> {
        let secrets = Secrets { view: Key::random(rng), ..self.secrets.clone() };
        let generation = self.generation.saturating_add(1);
        Self::begin(self.ledger_id, generation, self.key.clone(), kek, secrets, rng)
    }

    /// As [`Self::compacted`], but under a new vault key, which another key-encryption key may wrap, and
    /// with new secrets. Numbers of suppression keys that tombstones still need are named.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn rotated(
        &self,
        kek: &Key,
        still_needed: &[u32],
        rng: &mut impl CryptoRng,
    ) -> Result<(Self, Vec<u8>), VaultError> {
        let secrets = self.secrets.rotated(still_needed, rng);
        let generation = self.generation.saturating_add(1);
        Self::begin(self.ledger_id, generation, Key::random(rng), kek, secrets, rng)
    }

    /// Opens a vault by its frame 0.
    ///
    /// # Errors
    /// [`VaultError::WrongKey`] only if the key is another one; damage is told as damage.
    pub fn open(ledger_id: LedgerId, kek: &Key, frame: &[u8]) -> Result<Self, VaultError> {
        let frame = decode(0, frame)?;
        let at = |problem| VaultError::Field { number: 0, problem };
        let opened = frame.opened.as_ref().ok_or(at(FieldError::Unknown("opened")))?;
        let claimed_id: LedgerId = fixed("opened.ledger_id", &opened.ledger_id).map_err(at)?;
        let wrap_salt: [u8; 16] = fixed("opened.wrap_salt", &opened.wrap_salt).map_err(at)?;
        let check: [u8; 16] = fixed("opened.key_check", &opened.key_check).map_err(at)?;
        let aad = wrap_aad(&claimed_id, frame.generation, opened.format_version);
        let key = wrapping_key(kek, &wrap_salt).decrypt(&aad, &opened.wrapped_key);
        let key = match (check == key_check(kek), key.as_deref().map(|it| Key::from_slice(it))) {
            (true, Some(Some(key))) => key,
            (true, _) => return Err(VaultError::Opening("the wrapped key or what it is bound to")),
            (false, Some(Some(_))) => return Err(VaultError::Opening("the check of the key")),
            (false, _) => return Err(VaultError::WrongKey),
        };
        if opened.format_version != FORMAT_VERSION {
            return Err(VaultError::Format(opened.format_version));
        }
        if claimed_id != ledger_id {
            return Err(VaultError::OtherLedger);
        }
        let message = open_content(&key, &ledger_id, &frame, 0)?;
        let secrets = secrets_of_message(&message).map_err(|problem| match problem {
            Ok(problem) => VaultError::Canonical { number: 0, problem },
            Err(problem) => at(problem),
        })?;
        let generation = frame.generation;
        let mut vault = Self {
            ledger_id,
            generation,
            chain_key: secrets.ledger.vault_chain(),
            key,
            secrets,
            next_number: 0,
            mac: [0; 32],
        };
        vault.advance(&frame)?;
        Ok(vault)
    }

    /// The ledger that it belongs to.
    #[must_use]
    pub fn ledger_id(&self) -> &LedgerId {
        &self.ledger_id
    }

    /// The generation.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The number of the next frame.
    #[must_use]
    pub fn next_number(&self) -> u64 {
        self.next_number
    }

    /// The ledger's secrets.
    #[must_use]
    pub fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// The bytes of the next frame, which the vault goes on after.
    ///
    /// # Errors
    /// The identity or a tree is too large.
    pub fn append(
        &mut self,
        content: &Content,
        rng: &mut impl CryptoRng,
    ) -> Result<Vec<u8>, VaultError> {
        self.append_as(random(rng), content, rng)
    }

    /// As [`Self::append`], with an id that was chosen before. It is random, and used for no other frame.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn append_as(
        &mut self,
        id: [u8; 16],
        content: &Content,
        rng: &mut impl CryptoRng,
    ) -> Result<Vec<u8>, VaultError> {
        let number = self.next_number;
        check_content(content).map_err(|problem| VaultError::Field { number, problem })?;
        let message = Zeroizing::new(encode_content(content));
        let frame = self.seal(&message, id, None, rng)?;
        Ok(frame.encode_to_vec())
    }

    /// The MAC of the frame before the next.
    #[must_use]
    pub fn mac(&self) -> [u8; 32] {
        self.mac
    }

    /// Goes on after a frame that was followed before, when the vault had this MAC.
    ///
    /// # Errors
    /// It is another frame than then.
    pub fn resume(&mut self, number: u64, mac: [u8; 32], frame: &[u8]) -> Result<(), VaultError> {
        let frame = decode(number, frame)?;
        self.check_place(&frame, number)?;
        if frame.mac != mac {
            return Err(VaultError::Chain(number));
        }
        self.mac = mac;
        self.next_number = number.saturating_add(1);
        Ok(())
    }

    /// Follows the vault over the next frame without opening it: its place and the chain.
    ///
    /// # Errors
    /// The first way in which the bytes do not continue the vault.
    pub fn pass(&mut self, frame: &[u8]) -> Result<(), VaultError> {
        let frame = decode(self.next_number, frame)?;
        self.advance(&frame)
    }

    /// Follows the vault over the next frame. Returns the frame's id and what it holds.
    ///
    /// # Errors
    /// As [`Self::pass`], and if it does not open.
    pub fn follow(&mut self, frame: &[u8]) -> Result<([u8; 16], Content), VaultError> {
        let (number, frame) = (self.next_number, decode(self.next_number, frame)?);
        self.advance(&frame)?;
        let id = fixed("id", &frame.id).map_err(|problem| VaultError::Field { number, problem })?;
        Ok((id, self.content(&frame, number)?))
    }

    /// Opens a frame at its number, without the chain. The frames up to it have been followed before.
    /// Returns the frame's id and what it holds.
    ///
    /// # Errors
    /// It is of another place or generation, or damaged.
    pub fn open_at(&self, number: u64, frame: &[u8]) -> Result<([u8; 16], Content), VaultError> {
        let frame = decode(number, frame)?;
        self.check_place(&frame, number)?;
        let id = fixed("id", &frame.id).map_err(|problem| VaultError::Field { number, problem })?;
        Ok((id, self.content(&frame, number)?))
    }

    fn begin(
        ledger_id: LedgerId,
        generation: u64,
        key: Key,
        kek: &Key,
        secrets: Secrets,
        rng: &mut impl CryptoRng,
    ) -> Result<(Self, Vec<u8>), VaultError> {
        let wrap_salt: [u8; 16] = random(rng);
        let aad = wrap_aad(&ledger_id, generation, FORMAT_VERSION);
        let opened = VaultOpened {
            ledger_id: ledger_id.to_vec(),
            format_version: FORMAT_VERSION,
            wrapped_key: wrapping_key(kek, &wrap_salt).encrypt(&aad, key.bytes()),
            wrap_salt: wrap_salt.to_vec(),
            key_check: key_check(kek).to_vec(),
        };
        let message = Zeroizing::new(encode_secrets(&secrets));
        let chain_key = secrets.ledger.vault_chain();
        let mac = [0; 32];
        let mut vault =
            Self { ledger_id, generation, key, chain_key, secrets, next_number: 0, mac };
        let frame = vault.seal(&message, random(rng), Some(opened), rng)?;
        Ok((vault, frame.encode_to_vec()))
    }

    fn seal(
        &mut self,
        message: &[u8],
        id: [u8; 16],
        opened: Option<VaultOpened>,
        rng: &mut impl CryptoRng,
    ) -> Result<VaultFrame, VaultError> {
        let text = pad(Buckets::VAULT, message)?;
        let salt: [u8; 16] = random(rng);
        let aad = frame_aad(&self.ledger_id, self.generation, self.next_number, &id);
        let mut frame = VaultFrame {
            generation: self.generation,
            number: self.next_number,
            id: id.to_vec(),
            salt: salt.to_vec(),
            ciphertext: frame_key(&self.key, &salt).encrypt(&aad, &text),
            mac: Vec::new(),
            opened,
        };
        self.mac = self.mac_of(&frame);
        frame.mac = self.mac.to_vec();
        self.next_number += 1;
        Ok(frame)
    }

    fn advance(&mut self, frame: &VaultFrame) -> Result<(), VaultError> {
        let number = self.next_number;
        self.check_place(frame, number)?;
        let mac = self.mac_of(frame);
        let given = <&[u8; 32]>::try_from(frame.mac.as_slice());
        if !given.is_ok_and(|given| is_same(given, &mac)) {
            return Err(VaultError::Chain(number));
        }
        self.mac = mac;
        self.next_number += 1;
        Ok(())
    }

    fn check_place(&self, frame: &VaultFrame, number: u64) -> Result<(), VaultError> {
        if frame.generation != self.generation {
            let (want, got) = (self.generation, frame.generation);
            return Err(VaultError::Generation { number, want, got });
        }
        if frame.number != number {
            return Err(VaultError::Number { want: number, got: frame.number });
        }
        Ok(())
    }

    fn content(&self, frame: &VaultFrame, number: u64) -> Result<Content, VaultError> {
        let message = open_content(&self.key, &self.ledger_id, frame, number)?;
        content_of_message(number, &message)
    }

    fn mac_of(&self, frame: &VaultFrame) -> [u8; 32] {
        let (generation, number) = (frame.generation.to_le_bytes(), frame.number.to_le_bytes());
        let parts: [&[u8]; 6] =
            [&self.mac, &generation, &number, &frame.id, &frame.salt, &frame.ciphertext];
        keyed(&self.chain_key, &parts)
    }
}

/// Checks the form of a frame without any key: canonical, its number, the sizes of its fields. Returns the
/// generation that it claims.
///
/// # Errors
/// The first fault.
pub fn check_form(number: u64, frame: &[u8]) -> Result<u64, VaultError> {
    let frame = decode(number, frame)?;
    if frame.number != number {
        return Err(VaultError::Number { want: number, got: frame.number });
    }
    Ok(frame.generation)
}

/// The ledger that frame 0 names.
///
/// # Errors
/// It is not frame 0 of a vault of this format.
pub fn ledger_of(frame: &[u8]) -> Result<LedgerId, VaultError> {
    let at = |problem| VaultError::Field { number: 0, problem };
    let opened = decode(0, frame)?.opened.ok_or(at(FieldError::Unknown("opened")))?;
    if opened.format_version != FORMAT_VERSION {
        return Err(VaultError::Format(opened.format_version));
    }
    fixed("opened.ledger_id", &opened.ledger_id).map_err(at)
}

/// What has been met in a vault: no identity, no id and no tombstone comes twice.
#[derive(Debug, Default)]
pub struct Distinct {
    ids: HashMap<[u8; 16], u64>,
    identities: HashMap<[u8; 16], u64>,
}

impl Distinct {
    /// Meets a frame.
    ///
    /// # Errors
    /// [`VaultError::Same`].
    pub fn meet(
        &mut self,
        secrets: &Secrets,
        number: u64,
        id: [u8; 16],
        content: &Content,
    ) -> Result<(), VaultError> {
        let (what, hash) = match content {
            Content::Person(person) => ("identity", secrets.lookup(&person.identity)),
            Content::Tombstone(tombstone) => {
                let number = tombstone.key_number.to_le_bytes();
                ("tombstone", keyed(&secrets.lookup, &[&[0], &number, &tombstone.digest]))
            }
        };
        let same = |what, first| VaultError::Same { what, first, second: number };
        if let Some(first) = self.ids.insert(id, number) {
            return Err(same("id", first));
        }
        match self.identities.insert(half(&hash), number) {
            Some(first) => Err(same(what, first)),
            None => Ok(()),
        }
    }
}

fn decode(number: u64, frame: &[u8]) -> Result<VaultFrame, VaultError> {
    let canonical = canonical::decode(frame);
    let frame: VaultFrame =
        canonical.map_err(|problem| VaultError::Canonical { number, problem })?;
    let check = || -> Result<(), FieldError> {
        fixed::<16>("id", &frame.id)?;
        fixed::<16>("salt", &frame.salt)?;
        fixed::<32>("mac", &frame.mac)?;
        present_if("generation", true, frame.generation != 0)?;
        present_if("opened", number == 0, frame.opened.is_some())?;
        let (got, field) = (frame.ciphertext.len(), "ciphertext");
        if Buckets::VAULT.has_ciphertext(got) {
            return Ok(());
        }
        let text_bytes = got.saturating_sub(AUTH_BYTES + 2);
        let want = Buckets::VAULT.text_bytes(text_bytes).unwrap_or_default() + AUTH_BYTES;
        Err(FieldError::Length { field, want, got })
    };
    check().map_err(|problem| VaultError::Field { number, problem })?;
    Ok(frame)
}

fn open_content(
    key: &Key,
    ledger_id: &LedgerId,
    frame: &VaultFrame,
    number: u64,
) -> Result<Zeroizing<Vec<u8>>, VaultError> {
    let damaged = |problem| VaultError::Seal { number, problem };
    let field = |problem| VaultError::Field { number, problem };
    let id = fixed("id", &frame.id).map_err(field)?;
    let salt = fixed("salt", &frame.salt).map_err(field)?;
    let aad = frame_aad(ledger_id, frame.generation, frame.number, &id);
    let text = frame_key(key, &salt).decrypt(&aad, &frame.ciphertext);
    let text = text.ok_or(damaged(SealError::Key))?;
    Ok(Zeroizing::new(unpad(Buckets::VAULT, &text).map_err(damaged)?.to_vec()))
}

fn frame_key(key: &Key, salt: &[u8; 16]) -> OneTimeKey {
    OneTimeKey::new(derive_key(Context::VaultFrame, &[key.bytes(), salt]))
}

fn frame_aad(ledger_id: &LedgerId, generation: u64, number: u64, id: &[u8; 16]) -> Vec<u8> {
    let (generation, number) = (generation.to_le_bytes(), number.to_le_bytes());
    [PREFIX.as_bytes(), &[0], ledger_id, &generation, &number, id].concat()
}

fn wrapping_key(kek: &Key, wrap_salt: &[u8; 16]) -> OneTimeKey {
    OneTimeKey::new(derive_key(Context::VaultWrap, &[kek.bytes(), wrap_salt]))
}

fn wrap_aad(ledger_id: &LedgerId, generation: u64, format: u32) -> Vec<u8> {
    let (generation, format) = (generation.to_le_bytes(), format.to_le_bytes());
    [PREFIX.as_bytes(), &[0], ledger_id, &generation, &format].concat()
}

fn key_check(kek: &Key) -> [u8; 16] {
    half(&derive(Context::VaultKeyCheck, &[kek.bytes()]))
}

fn encode_secrets(secrets: &Secrets) -> Vec<u8> {
    let suppression = secrets.suppression.iter();
    let mut message = VaultSecrets {
        ledger_secret: secrets.ledger.bytes().to_vec(),
        lookup_key: secrets.lookup.bytes().to_vec(),
        view_key: secrets.view.bytes().to_vec(),
        suppression_keys: suppression
            .map(|(number, key)| SuppressionKey { number: *number, key: key.bytes().to_vec() })
            .collect(),
    };
    let bytes = message.encode_to_vec();
    wipe_secrets(&mut message);
    bytes
}

fn secrets_of_message(bytes: &[u8]) -> Result<Secrets, Result<CanonicalError, FieldError>> {
    let mut message: VaultSecrets = canonical::decode(bytes).map_err(Ok)?;
    let secrets = || -> Result<Secrets, FieldError> {
        let keys = message.suppression_keys.iter();
        let keys = keys.map(|it| Ok((it.number, key("suppression_keys.key", &it.key)?)));
        let suppression = keys.collect::<Result<Vec<_>, FieldError>>()?;
        ascending("suppression_keys.number", suppression.iter().map(|(number, _)| *number))?;
        present_if("suppression_keys", true, !suppression.is_empty())?;
        Ok(Secrets {
            ledger: LedgerSecret::new(key("ledger_secret", &message.ledger_secret)?),
            lookup: key("lookup_key", &message.lookup_key)?,
            view: key("view_key", &message.view_key)?,
            suppression,
        })
    };
    let secrets = secrets();
    wipe_secrets(&mut message);
    secrets.map_err(Err)
}

fn wipe_secrets(message: &mut VaultSecrets) {
    message.ledger_secret.zeroize();
    message.lookup_key.zeroize();
    message.view_key.zeroize();
    message.suppression_keys.iter_mut().for_each(|it| it.key.zeroize());
}

fn check_content(content: &Content) -> Result<(), FieldError> {
    match content {
        Content::Person(person) => check_identity(&person.identity),
        Content::Tombstone(tombstone) => {
            fixed::<32>("tombstone.digest", &tombstone.digest).map(|_| ())
        }
    }
}

fn check_identity(identity: &str) -> Result<(), FieldError> {
    within("person.identity", identity.len() as u64, 1, IDENTITY_BYTES_MAX as u64)?;
    present_if("person.identity", true, identity.contains(':'))
}

fn encode_content(content: &Content) -> Vec<u8> {
    let content = match content {
        Content::Person(person) => vault_content::Content::Person(VaultPerson {
            master: person.keys.master.bytes().to_vec(),
            evidence: nodes(&person.keys.evidence),
            uses: nodes(&person.keys.uses),
            identity: person.identity.clone(),
        }),
        Content::Tombstone(tombstone) => vault_content::Content::Tombstone(tombstone.clone()),
    };
    let mut message = VaultContent { content: Some(content) };
    let bytes = message.encode_to_vec();
    wipe_content(&mut message);
    bytes
}

fn content_of_message(number: u64, bytes: &[u8]) -> Result<Content, VaultError> {
    let decoded = canonical::decode(bytes);
    let mut message: VaultContent =
        decoded.map_err(|problem| VaultError::Canonical { number, problem })?;
    let field = |problem| VaultError::Field { number, problem };
    let content = match &message.content {
        None => Err(field(FieldError::Unknown("content"))),
        Some(vault_content::Content::Tombstone(it)) => Ok(Content::Tombstone(it.clone())),
        Some(vault_content::Content::Person(person)) => {
            person_of_message(number, person).map(Content::Person)
        }
    };
    wipe_content(&mut message);
    let content = content?;
    check_content(&content).map_err(field)?;
    Ok(content)
}

fn person_of_message(number: u64, person: &VaultPerson) -> Result<Person, VaultError> {
    let field = |problem| VaultError::Field { number, problem };
    let tree = |nodes: &[TreeNode]| {
        let nodes = nodes.iter().map(|node| {
            Ok(Node { depth: node.depth, path: node.path, key: key("person.nodes", &node.key)? })
        });
        let nodes = nodes.collect::<Result<_, _>>().map_err(field)?;
        KeyTree::of_nodes(nodes).map_err(|problem| VaultError::Tree { number, problem })
    };
    let keys = PersonKeys {
        master: key("person.master", &person.master).map_err(field)?,
        evidence: tree(&person.evidence)?,
        uses: tree(&person.uses)?,
    };
    Ok(Person { keys, identity: person.identity.clone() })
}

fn wipe_content(message: &mut VaultContent) {
    if let Some(vault_content::Content::Person(person)) = &mut message.content {
        person.master.zeroize();
        person.identity.zeroize();
        let nodes = person.evidence.iter_mut().chain(&mut person.uses);
        nodes.for_each(|node| node.key.zeroize());
    }
}

fn nodes(tree: &KeyTree) -> Vec<TreeNode> {
    let node = |node: &Node| TreeNode {
        depth: node.depth,
        path: node.path,
        key: node.key.bytes().to_vec(),
    };
    tree.nodes().iter().map(node).collect()
}

fn key(field: &'static str, bytes: &[u8]) -> Result<Key, FieldError> {
    fixed(field, bytes).map(Key::new)
}

#[cfg(test)]
mod tests {
    use consent_ledger_proto::ledger::SurvivingStop;
    use rand::SeedableRng as _;
    use rand_chacha::ChaCha20Rng;

    use super::*;

    const LEDGER: LedgerId = [9; 16];

    fn rng() -> ChaCha20Rng {
        ChaCha20Rng::seed_from_u64(7)
    }

    fn kek() -> Key {
        Key::new([5; 32])
    }

    /// A vault with frame 0, five persons, one of whom has forgotten uses, and a tombstone.
    fn vault() -> (Vault, Vec<Vec<u8>>, Vec<Content>) {
        let rng = &mut rng();
        let (mut vault, opening) =
            Vault::create(LEDGER, &kek(), Secrets::random(rng), rng).unwrap();
        let mut contents = Vec::new();
        for number in 0..5_u32 {
            let mut person = Person::new(format!("user:{}", "x".repeat(number as usize + 1)), rng);
            if number == 3 {
                person.keys.uses = person.keys.uses.without(&(0..=99)).unwrap();
            }
            contents.push(Content::Person(person));
        }
        let (key_number, digest) = vault.secrets().suppression("user:gone").unwrap();
        let stop = SurvivingStop { channel: 1, ..SurvivingStop::default() };
        let (digest, stops) = (digest.to_vec(), vec![stop]);
        contents.push(Content::Tombstone(VaultTombstone { key_number, digest, month: 682, stops }));
        let mut frames = vec![opening];
        for content in &contents {
            frames.push(vault.append(content, rng).unwrap());
        }
        (vault, frames, contents)
    }

    fn read(frames: &[Vec<u8>]) -> Result<Vec<Content>, VaultError> {
        let mut vault = Vault::open(LEDGER, &kek(), &frames[0])?;
        let (mut distinct, mut contents) = (Distinct::default(), Vec::new());
        for (number, frame) in (1..).zip(&frames[1..]) {
            let (id, content) = vault.follow(frame)?;
            distinct.meet(vault.secrets(), number, id, &content)?;
            contents.push(content);
        }
        Ok(contents)
    }

    #[test]
    fn what_is_appended_reads_back_in_order_and_by_number() {
        let (vault, frames, contents) = vault();
        assert_eq!(read(&frames), Ok(contents.clone()));
        for (number, content) in (1..).zip(&contents) {
            let frame = &frames[usize::try_from(number).unwrap()];
            assert_eq!(
                vault.open_at(number, frame).map(|(_, content)| content).as_ref(),
                Ok(content)
            );
            assert_eq!(check_form(number, frame), Ok(1));
        }
        let mut passing = Vault::open(LEDGER, &kek(), &frames[0]).unwrap();
        frames[1..].iter().for_each(|frame| passing.pass(frame).unwrap());
        assert_eq!(passing.next_number(), 7);
    }

    #[test]
    fn frames_of_all_but_the_first_look_alike() {
        let (_, frames, _) = vault();
        let sizes: Vec<_> = frames[1..].iter().map(Vec::len).collect();
        // Only the person whose uses are partly forgotten has a larger frame.
        assert!(sizes.iter().all(|size| *size == sizes[0] || *size > 512), "{sizes:?}");
        assert_eq!(sizes.iter().filter(|size| **size == sizes[0]).count(), 5, "{sizes:?}");
    }

    #[test]
    fn every_frame_that_is_moved_repeated_put_in_or_left_out_is_found() {
        let (_, frames, contents) = vault();
        let other = {
            let rng = &mut ChaCha20Rng::seed_from_u64(8);
            let (mut vault, opening) =
                Vault::create(LEDGER, &kek(), Secrets::random(rng), rng).unwrap();
            vec![opening, vault.append(&contents[0], rng).unwrap()]
        };
        let mut moved = frames.clone();
        moved.swap(2, 3);
        assert_eq!(read(&moved), Err(VaultError::Number { want: 2, got: 3 }));
        let mut left_out = frames.clone();
        left_out.remove(2);
        assert_eq!(read(&left_out), Err(VaultError::Number { want: 2, got: 3 }));
        let mut repeated = frames.clone();
        repeated.insert(3, frames[2].clone());
        assert_eq!(read(&repeated), Err(VaultError::Number { want: 3, got: 2 }));
        let mut foreign = frames.clone();
        foreign[1] = other[1].clone();
        assert_eq!(read(&foreign), Err(VaultError::Chain(1)));
        let mut opening = frames;
        opening[0] = other[0].clone();
        assert_eq!(read(&opening), Err(VaultError::Chain(1)));
    }

    #[test]
    fn every_flipped_bit_is_told_as_damage_and_never_as_a_wrong_key() {
        let (_, frames, _) = vault();
        for (number, frame) in frames.iter().enumerate() {
            for bit in (0..frame.len() * 8).step_by(11) {
                let mut changed = frames.clone();
                changed[number][bit / 8] ^= 1 << (bit % 8);
                let refused = read(&changed).expect_err("a flipped bit");
                let is_damage = !matches!(
                    refused,
                    VaultError::WrongKey | VaultError::OtherLedger | VaultError::Format(_)
                );
                assert!(is_damage, "frame {number}, bit {bit}: {refused}");
            }
        }
    }

    #[test]
    fn another_key_and_another_ledger_are_told_as_such() {
        let (_, frames, _) = vault();
        let open = |id, kek: &Key| Vault::open(id, kek, &frames[0]).err();
        assert_eq!(open(LEDGER, &Key::new([6; 32])), Some(VaultError::WrongKey));
        assert_eq!(open([8; 16], &kek()), Some(VaultError::OtherLedger));
    }

    #[test]
    fn two_frames_of_one_identity_are_refused() {
        let rng = &mut rng();
        let (mut vault, opening) =
            Vault::create(LEDGER, &kek(), Secrets::random(rng), rng).unwrap();
        let mut frames = vec![opening];
        for identity in ["user:1", "user:2", "user:1"] {
            let person = Person::new(identity.to_owned(), rng);
            frames.push(vault.append(&Content::Person(person), rng).unwrap());
        }
        let same = VaultError::Same { what: "identity", first: 1, second: 3 };
        assert_eq!(read(&frames), Err(same));
    }

    #[test]
    fn an_identity_that_no_vault_holds_is_refused() {
        let (mut vault, _, _) = vault();
        let rng = &mut rng();
        for identity in [
            String::new(),
            "user".to_owned(),
            format!("user:{}", "x".repeat(IDENTITY_BYTES_MAX - 4)),
        ] {
            let content = Content::Person(Person::new(identity, rng));
            assert!(matches!(vault.append(&content, rng), Err(VaultError::Field { .. })));
        }
    }

    #[test]
    fn a_rotation_replaces_every_key_but_the_ledgers_secret() {
        let rng = &mut ChaCha20Rng::seed_from_u64(8);
        let (vault, frames, contents) = vault();
        let new_kek = Key::new([6; 32]);
        let (mut rotated, opening) = vault.rotated(&new_kek, &[0], rng).unwrap();
        let (old, new) = (vault.secrets(), rotated.secrets().clone());
        assert_eq!(rotated.generation(), 2);
        assert_eq!(new.ledger, old.ledger);
        assert_ne!(new.lookup("user:x"), old.lookup("user:x"));
        assert_ne!(new.view, old.view);
        // The tombstone is still recognised, and new ones are made under the new key.
        assert!(new.suppressions("user:gone").any(|it| Some(it) == old.suppression("user:gone")));
        assert_ne!(new.suppression("user:gone"), old.suppression("user:gone"));
        assert_eq!(old.rotated(&[], rng).suppression.len(), 1);
        let frame = rotated.append(&contents[0], rng).unwrap();
        let old_frame = Err(VaultError::Generation { number: 1, want: 2, got: 1 });
        assert_eq!(rotated.open_at(1, &frames[1]), old_frame);
        // The old vault key does not open the new frame, whatever generation is claimed.
        let mut claimed = VaultFrame::decode(&frame[..]).unwrap();
        claimed.generation = 1;
        let opened = vault.open_at(1, &claimed.encode_to_vec());
        assert!(matches!(opened, Err(VaultError::Seal { .. })));
        assert_eq!(Vault::open(LEDGER, &kek(), &opening).err(), Some(VaultError::WrongKey));
        let reopened = Vault::open(LEDGER, &new_kek, &opening).unwrap();
        assert_eq!(reopened.secrets(), &new);
    }

    #[test]
    fn a_compaction_is_another_generation_with_another_key_of_derived_files() {
        let rng = &mut ChaCha20Rng::seed_from_u64(8);
        let (vault, _, _) = vault();
        let (compacted, opening) = vault.compacted(&kek(), rng).unwrap();
        assert_eq!(compacted.generation(), 2);
        assert_ne!(compacted.secrets().view, vault.secrets().view);
        assert_eq!(compacted.secrets().lookup, vault.secrets().lookup);
        assert_eq!(Vault::open(LEDGER, &kek(), &opening).unwrap().generation(), 2);
    }
}
