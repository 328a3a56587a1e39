//! The hash chain: `hash(i) = BLAKE3 derive_key("consent-ledger v1 chain", bytes of entry i)`, and
//! the bytes of entry i contain `hash(i - 1)`.
//!
//! The chain serves recovery, streaming audit and local integrity. Proofs for outsiders come from
//! the Merkle tree instead.

use std::sync::LazyLock;

use blake3::hazmat::{ContextKey, HasherExt as _, hash_derive_key_context};
use thiserror::Error;

use super::{
    ENTRY_BYTES_MAX, FORMAT_VERSION, envelope,
    skim::{Skimmed, skim},
};
use crate::{
    domain::Millis,
    entry::{Body, Entry, EntryError},
};

/// The context string of the chain. Part of the format.
pub const CONTEXT: &str = "consent-ledger v1 chain";

/// The hash of an entry's bytes.
#[must_use]
pub fn hash(entry_bytes: &[u8]) -> [u8; 32] {
    // `derive_key` would hash the context again for every entry.
    let mut hasher = blake3::Hasher::new_from_context_key(&CONTEXT_KEY);
    hasher.update(entry_bytes).finalize().into()
}

static CONTEXT_KEY: LazyLock<ContextKey> = LazyLock::new(|| hash_derive_key_context(CONTEXT));

/// The end of a chain, to which the next entry is linked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tip {
    /// Index of the next entry.
    pub next_index: u64,
    /// Hash of the entry before; zeros before the first.
    pub hash: [u8; 32],
    /// When the entry before was recorded.
    pub recorded_at: Millis,
}

/// An entry that continues a chain, read as far as needed.
#[derive(Debug)]
pub enum Head<'a> {
    /// An act of consent.
    Act(Skimmed<'a>),
    /// Any entry.
    Entry(Box<Entry>),
}

/// How an entry can fail to continue a chain.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ChainError {
    /// The bytes are not an entry.
    #[error("{0}")]
    Entry(#[from] EntryError),
    /// Another index than the next.
    #[error("the entry has index {got}, but its position is {want}")]
    Index {
        /// Its position in the ledger.
        want: u64,
        /// The index in the entry.
        got: u64,
    },
    /// It is not linked to the entry before.
    #[error("prev_hash is not the hash of the entry before")]
    PrevHash,
    /// Time went back, and the entry is no correction of the clock.
    #[error("recorded_at is {}, before {} of the entry before", got.0, before.0)]
    TimeWentBack {
        /// The entry's time.
        got: Millis,
        /// The time of the entry before.
        before: Millis,
    },
    /// The ledger is not opened by its first entry, or opened twice.
    #[error("{}", if *first { "the first entry does not open a ledger" } else { "a ledger is opened after its first entry" })]
    Opened {
        /// Whether it is the first entry.
        first: bool,
    },
    /// A format that this program does not know.
    #[error("entry format {0} is not known, this program reads {FORMAT_VERSION}")]
    Format(u32),
    /// An entry that is too large.
    #[error("the entry has {0} bytes, the limit is {ENTRY_BYTES_MAX}")]
    TooLarge(usize),
}

impl Tip {
    /// Before the first entry.
    #[must_use]
    pub fn genesis() -> Self {
        Self { next_index: 0, hash: [0; 32], recorded_at: Millis(i64::MIN) }
    }

    /// The tip after an entry that is already verified.
    #[must_use]
    pub fn after(entry: &Entry, entry_bytes: &[u8]) -> Self {
        Self {
            next_index: entry.index + 1,
            hash: hash(entry_bytes),
            recorded_at: entry.recorded_at,
        }
    }

    /// The moment at which an entry is recorded: now, but never before the entry before.
    #[must_use]
    pub fn clock(&self, now: Millis) -> Millis {
        now.max(self.recorded_at)
    }

    /// Links a new entry to the chain. Returns the entry, its bytes and the new tip.
    ///
    /// # Errors
    /// [`ChainError::TooLarge`].
    pub fn link(
        &self,
        recorded_at: Millis,
        body: Body,
    ) -> Result<(Entry, Vec<u8>, Self), ChainError> {
        let entry = Entry { index: self.next_index, prev_hash: self.hash, recorded_at, body };
        let bytes = envelope::encode(&entry);
        if bytes.len() > ENTRY_BYTES_MAX {
            return Err(ChainError::TooLarge(bytes.len()));
        }
        let tip = Self::after(&entry, &bytes);
        Ok((entry, bytes, tip))
    }

    /// Follows the chain over the next entry's bytes.
    ///
    /// # Errors
    /// The first way in which the bytes do not continue the chain.
    pub fn follow(&self, entry_bytes: &[u8]) -> Result<(Entry, Self), ChainError> {
        if entry_bytes.len() > ENTRY_BYTES_MAX {
            return Err(ChainError::TooLarge(entry_bytes.len()));
        }
        let entry = envelope::decode(entry_bytes)?;
        self.is_continued_by(&Claim::of(&entry))?;
        let first = self.next_index == 0;
        match entry.body.opened() {
            opened if opened.is_some() != first => return Err(ChainError::Opened { first }),
            Some(opened) if opened.format_version != FORMAT_VERSION => {
                return Err(ChainError::Format(opened.format_version));
            }
            _ => {}
        }
        let tip = Self::after(&entry, entry_bytes);
        Ok((entry, tip))
    }

    /// As [`Self::follow`], but does not decode most acts, which is faster.
    ///
    /// # Errors
    /// As [`Self::follow`].
    pub fn follow_head<'a>(&self, entry_bytes: &'a [u8]) -> Result<(Head<'a>, Self), ChainError> {
        // The first entry is no act, and must be decoded.
        if self.next_index > 0
            && entry_bytes.len() <= ENTRY_BYTES_MAX
            && let Some(skimmed) = skim(entry_bytes)
        {
            self.is_continued_by(&skimmed.claim)?;
            let (next_index, hash) = (self.next_index + 1, hash(entry_bytes));
            let recorded_at = skimmed.claim.recorded_at;
            return Ok((Head::Act(skimmed), Self { next_index, hash, recorded_at }));
        }
        let (entry, tip) = self.follow(entry_bytes)?;
        Ok((Head::Entry(Box::new(entry)), tip))
    }

    /// Whether an entry with this claim continues the chain.
    ///
    /// # Errors
    /// The first difference.
    pub fn is_continued_by(&self, claim: &Claim) -> Result<(), ChainError> {
        if claim.index != self.next_index {
            return Err(ChainError::Index { want: self.next_index, got: claim.index });
        }
        if claim.prev_hash != self.hash {
            return Err(ChainError::PrevHash);
        }
        if claim.recorded_at < self.recorded_at && !claim.may_go_back {
            let (got, before) = (claim.recorded_at, self.recorded_at);
            return Err(ChainError::TimeWentBack { got, before });
        }
        Ok(())
    }
}

/// What an entry claims of its place in the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Its index.
    pub index: u64,
    /// The hash of the entry before.
    pub prev_hash: [u8; 32],
    /// When it was recorded.
    pub recorded_at: Millis,
    /// Whether that may lie before the time of the entry before: only a correction of the clock goes
    /// back.
    pub may_go_back: bool,
}

impl Claim {
    /// The claim of an entry; none if the bytes are not an entry.
    #[must_use]
    pub fn read(entry_bytes: &[u8]) -> Option<Self> {
        envelope::decode(entry_bytes).ok().as_ref().map(Self::of)
    }

    pub(super) fn of(entry: &Entry) -> Self {
        Self {
            index: entry.index,
            prev_hash: entry.prev_hash,
            recorded_at: entry.recorded_at,
            may_go_back: matches!(entry.body, Body::ClockCorrected(_)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{ChannelPut, ClockCorrected, Key},
        entry::{LedgerOpened, tests::any_entry},
    };
    use proptest::prelude::*;

    fn opened() -> Body {
        Body::Opened(LedgerOpened {
            ledger_id: [7; 16],
            origin: "consent.example.org".to_owned(),
            format_version: FORMAT_VERSION,
            created_at: Millis(5),
        })
    }

    fn channel(title: &str) -> Body {
        let key = Key::parse("email").unwrap();
        Body::ChannelPut(ChannelPut { key, title: title.to_owned(), retired: false })
    }

    #[test]
    fn a_linked_entry_can_be_followed() {
        let (_, first, tip) = Tip::genesis().link(Millis(5), opened()).unwrap();
        let (_, second, end) = tip.link(Millis(6), channel("Email")).unwrap();
        let (_, followed) = Tip::genesis().follow(&first).unwrap();
        assert_eq!(followed, tip);
        assert_eq!(followed.follow(&second).unwrap().1, end);
    }

    #[test]
    fn a_broken_link_is_named() {
        let genesis = Tip::genesis();
        let (_, first, tip) = genesis.link(Millis(5), opened()).unwrap();
        let (_, second, _) = tip.link(Millis(6), channel("Email")).unwrap();
        assert_eq!(genesis.follow(&second), Err(ChainError::Index { want: 0, got: 1 }));
        let (_, other, _) = tip.link(Millis(6), channel("E-mail")).unwrap();
        assert!(tip.follow(&other).is_ok());
        let (_, other_tip) = tip.follow(&other).unwrap();
        let (_, third, _) = other_tip.link(Millis(6), channel("Post")).unwrap();
        let (_, second_tip) = tip.follow(&second).unwrap();
        assert_eq!(second_tip.follow(&third), Err(ChainError::PrevHash));
        let (_, late, _) = tip.link(Millis(4), channel("Email")).unwrap();
        let back = ChainError::TimeWentBack { got: Millis(4), before: Millis(5) };
        assert_eq!(tip.follow(&late), Err(back));
        let corrected = |tip: &Tip, at| {
            let corrected = ClockCorrected {
                first_index: 1,
                end_index: 2,
                right_until: Millis(5),
                right_again: Millis(7),
                reason: String::new(),
            };
            tip.link(at, Body::ClockCorrected(corrected)).unwrap()
        };
        let (_, correction, corrected_tip) = corrected(&second_tip, Millis(5));
        assert_eq!(second_tip.follow(&correction).unwrap().1, corrected_tip, "it alone goes back");
        let (_, after, _) = corrected_tip.link(Millis(5), channel("Email")).unwrap();
        assert!(corrected_tip.follow(&after).is_ok());
        let (_, twice, _) = tip.link(Millis(6), opened()).unwrap();
        assert_eq!(tip.follow(&twice), Err(ChainError::Opened { first: false }));
        let (_, headless, _) = genesis.link(Millis(6), channel("Email")).unwrap();
        assert_eq!(genesis.follow(&headless), Err(ChainError::Opened { first: true }));
        assert!(matches!(tip.follow(&first), Err(ChainError::Index { .. })));
        let large = channel(&"x".repeat(ENTRY_BYTES_MAX));
        assert!(matches!(tip.link(Millis(6), large), Err(ChainError::TooLarge(_))));
    }

    #[test]
    fn the_context_string_is_the_documented_one() {
        let want =
            blake3::Hasher::new_derive_key("consent-ledger v1 chain").update(b"x").finalize();
        assert_eq!(hash(b"x"), *want.as_bytes());
    }

    proptest! {
        #[test]
        fn the_hash_is_derive_key(bytes in proptest::collection::vec(any::<u8>(), 0..5_000)) {
            prop_assert_eq!(hash(&bytes), blake3::derive_key(CONTEXT, &bytes));
        }

        #[test]
        fn every_changed_byte_changes_the_hash(entry in any_entry(), at: prop::sample::Index, bit in 0u8..8) {
            let bytes = envelope::encode(&entry);
            let mut changed = bytes.clone();
            changed[at.index(bytes.len())] ^= 1 << bit;
            prop_assert_ne!(hash(&bytes), hash(&changed));
        }
    }
}
