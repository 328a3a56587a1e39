//! The hash chain: `hash(i) = BLAKE3 derive_key("consent-ledger v2 chain", bytes of entry i)`, and the
//! bytes of entry i contain `hash(i - 1)`.
//!
//! The tip also knows the feature level. A reader that meets a level above its own stops and says that a
//! newer program wrote the ledger; what follows may have fields that it does not know.

use consent_ledger_proto::ledger::LedgerOpened;
use thiserror::Error;

use crate::{
    LEVEL,
    entry::{Body, ENTRY_BYTES_MAX, Entry, EntryError, FORMAT_VERSION},
    hash::{Context, derive},
    keys::ledger::ClearKey,
};

/// The hash of an entry's bytes.
#[must_use]
pub fn hash(entry_bytes: &[u8]) -> [u8; 32] {
    derive(Context::Chain, &[entry_bytes])
}

/// The end of a chain, to which the next entry is linked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tip {
    /// Index of the next entry.
    pub next_index: u64,
    /// Hash of the entry before; zeros before the first.
    pub hash: [u8; 32],
    /// When the entry before was recorded, in seconds since the Unix epoch.
    pub recorded_at_s: i64,
    /// The feature level that the next entry may use; 0 before the first.
    pub level: u32,
}

/// How an entry can fail to continue a chain.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ChainError {
    /// Another format.
    #[error("the ledger has format {0}, this program reads {FORMAT_VERSION}")]
    Format(u32),
    /// The bytes are not an entry.
    #[error(transparent)]
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
    #[error("recorded_at_s is {got}, before {before} of the entry before")]
    TimeWentBack {
        /// The entry's time.
        got: i64,
        /// The time of the entry before.
        before: i64,
    },
    /// The ledger is not opened by its first entry, or opened twice.
    #[error("{}", if *first { "the first entry does not open a ledger" } else { "a ledger is opened after its first entry" })]
    Opened {
        /// Whether it is the first entry.
        first: bool,
    },
    /// A higher feature level than this program knows.
    #[error(
        "the ledger was written by a newer version: it has feature level {0}, this program knows {LEVEL}"
    )]
    Newer(u32),
    /// A feature level that is not higher than the one before.
    #[error("the feature level {got} is not higher than {before}")]
    LevelNotHigher {
        /// The new level.
        got: u32,
        /// The level before.
        before: u32,
    },
    /// A kind of entry that the feature level does not allow yet.
    #[error("{noun} needs feature level {wanted}, the ledger has {level}")]
    AboveLevel {
        /// What the entry is.
        noun: &'static str,
        /// The level that it needs.
        wanted: u32,
        /// The ledger's level.
        level: u32,
    },
}

impl Tip {
    /// Before the first entry.
    #[must_use]
    pub fn genesis() -> Self {
        Self { next_index: 0, hash: [0; 32], recorded_at_s: i64::MIN, level: 0 }
    }

    /// The second at which an entry is recorded: now, but never before the entry before.
    #[must_use]
    pub fn clock_s(&self, now_s: i64) -> i64 {
        now_s.max(self.recorded_at_s)
    }

    /// Links a new entry to the chain. Returns the entry, its bytes and the new tip.
    ///
    /// # Errors
    /// The entry would be too large, or is one that the chain can not have here.
    pub fn link(
        &self,
        recorded_at_s: i64,
        body: Body,
        key: &ClearKey,
    ) -> Result<(Entry, Vec<u8>, Self), ChainError> {
        self.linked(Entry::new(self.next_index, self.hash, recorded_at_s, body, key))
    }

    /// Opens a ledger: entry 0, its bytes and the tip after it.
    ///
    /// # Errors
    /// The opening would be too large, or has a feature level that this program does not know.
    pub fn open(
        recorded_at_s: i64,
        opened: LedgerOpened,
    ) -> Result<(Entry, Vec<u8>, Self), ChainError> {
        let body = Body::Opened(opened);
        let entry = Entry { index: 0, prev_hash: [0; 32], recorded_at_s, mac: None, body };
        Self::genesis().linked(entry)
    }

    fn linked(&self, entry: Entry) -> Result<(Entry, Vec<u8>, Self), ChainError> {
        let bytes = entry.encode();
        if bytes.len() > ENTRY_BYTES_MAX {
            return Err(EntryError::TooLarge(bytes.len()).into());
        }
        let tip = self.after(&entry, &bytes)?;
        Ok((entry, bytes, tip))
    }

    /// Follows the chain over the next entry's bytes.
    ///
    /// # Errors
    /// The first way in which the bytes do not continue the chain.
    pub fn follow(&self, entry_bytes: &[u8]) -> Result<(Entry, Self), ChainError> {
        if self.next_index == 0
            && let Some(claimed) = Entry::claimed_opening(entry_bytes)
        {
            if claimed.format_version != FORMAT_VERSION {
                return Err(ChainError::Format(claimed.format_version));
            }
            if claimed.feature_level > LEVEL {
                return Err(ChainError::Newer(claimed.feature_level));
            }
        }
        let entry = Entry::decode(entry_bytes)?;
        let tip = self.after(&entry, entry_bytes)?;
        Ok((entry, tip))
    }

    /// The tip after an entry that is trusted: in the middle of a ledger, so at the highest feature level
    /// that this program knows.
    #[must_use]
    pub fn after_trusted(entry: &Entry, entry_bytes: &[u8]) -> Self {
        Self {
            next_index: entry.index + 1,
            hash: hash(entry_bytes),
            recorded_at_s: entry.recorded_at_s,
            level: LEVEL,
        }
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
        if claim.recorded_at_s < self.recorded_at_s && !claim.may_go_back {
            let (got, before) = (claim.recorded_at_s, self.recorded_at_s);
            return Err(ChainError::TimeWentBack { got, before });
        }
        Ok(())
    }

    fn after(&self, entry: &Entry, entry_bytes: &[u8]) -> Result<Self, ChainError> {
        self.is_continued_by(&Claim::of(entry))?;
        Ok(Self {
            next_index: self.next_index + 1,
            hash: hash(entry_bytes),
            recorded_at_s: entry.recorded_at_s,
            level: self.level_after(&entry.body)?,
        })
    }

    fn level_after(&self, body: &Body) -> Result<u32, ChainError> {
        let first = self.next_index == 0;
        if matches!(body, Body::Opened(_)) != first {
            return Err(ChainError::Opened { first });
        }
        let level = match body {
            Body::Opened(opened) => opened.feature_level,
            Body::Level(raised) if raised.level <= self.level => {
                let (got, before) = (raised.level, self.level);
                return Err(ChainError::LevelNotHigher { got, before });
            }
            Body::Level(raised) => raised.level,
            _ => self.level,
        };
        if level > LEVEL {
            return Err(ChainError::Newer(level));
        }
        let (wanted, allowed) = (body.level(), if first { level } else { self.level });
        if wanted > allowed {
            return Err(ChainError::AboveLevel { noun: body.noun(), wanted, level: allowed });
        }
        Ok(level)
    }
}

/// What an entry claims of its place in the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Its index.
    pub index: u64,
    /// The hash of the entry before.
    pub prev_hash: [u8; 32],
    /// When it was recorded, in seconds since the Unix epoch.
    pub recorded_at_s: i64,
    /// Whether that may lie before the time of the entry before: only a correction of the clock goes
    /// back.
    pub may_go_back: bool,
}

impl Claim {
    /// The claim of an entry; none if the bytes are not an entry.
    #[must_use]
    pub fn read(entry_bytes: &[u8]) -> Option<Self> {
        Entry::decode(entry_bytes).ok().as_ref().map(Self::of)
    }

    /// The tip that the entry claims to continue, at the highest feature level that this program knows.
    #[must_use]
    pub fn tip(&self) -> Tip {
        Tip {
            next_index: self.index,
            hash: self.prev_hash,
            recorded_at_s: self.recorded_at_s,
            level: LEVEL,
        }
    }

    fn of(entry: &Entry) -> Self {
        Self {
            index: entry.index,
            prev_hash: entry.prev_hash,
            recorded_at_s: entry.recorded_at_s,
            may_go_back: matches!(entry.body, Body::ClockCorrected(_)),
        }
    }
}

#[cfg(test)]
mod tests {
    use consent_ledger_proto::ledger::{ChannelPut, ClockCorrected, FormatLevel, LedgerOpened};
    use prost::Message as _;

    use super::*;
    use crate::{keys::ledger::LedgerSecret, secret::Key};

    fn key() -> ClearKey {
        LedgerSecret::new(Key::new([1; 32])).confidential().clear
    }

    fn opened() -> LedgerOpened {
        LedgerOpened {
            ledger_id: vec![7; 16],
            origin: "consent.example.org".to_owned(),
            format_version: FORMAT_VERSION,
            created_at_s: 5,
            feature_level: 1,
        }
    }

    fn channel(title: &str) -> Body {
        Body::Channel(ChannelPut { key: "email".into(), title: title.into(), retired: false })
    }

    #[test]
    fn a_linked_entry_can_be_followed() {
        let (_, first, tip) = Tip::open(5, opened()).unwrap();
        let (_, second, end) = tip.link(6, channel("Email"), &key()).unwrap();
        let (_, followed) = Tip::genesis().follow(&first).unwrap();
        assert_eq!(followed, tip);
        assert_eq!(followed.follow(&second).unwrap().1, end);
        assert_eq!(hash(&first), blake3::derive_key("consent-ledger v2 chain", &first));
    }

    #[test]
    fn a_broken_link_is_named() {
        let genesis = Tip::genesis();
        let (_, first, tip) = Tip::open(5, opened()).unwrap();
        let (_, second, next) = tip.link(6, channel("Email"), &key()).unwrap();
        let (_, third, _) = next.link(6, channel("Post"), &key()).unwrap();
        assert_eq!(tip.follow(&third), Err(ChainError::Index { want: 1, got: 2 }));
        let (_, _, elsewhere) = tip.link(6, channel("E-mail"), &key()).unwrap();
        assert_eq!(elsewhere.follow(&third), Err(ChainError::PrevHash));
        let back = Err(ChainError::TimeWentBack { got: 4, before: 5 });
        assert_eq!(tip.link(4, channel("Email"), &key()), back);
        let correction = Body::ClockCorrected(ClockCorrected {
            first_index: 1,
            end_index: 2,
            right_until_ms: 5_000,
            right_again_ms: 7_000,
            reason: String::new(),
        });
        let (_, bytes, corrected) = next.link(5, correction, &key()).unwrap();
        assert_eq!(next.follow(&bytes).unwrap().1, corrected, "it alone goes back");
        assert!(corrected.link(5, channel("Email"), &key()).is_ok());
        let twice = tip.link(6, Body::Opened(opened()), &key());
        assert_eq!(twice, Err(ChainError::Opened { first: false }));
        assert_eq!(
            genesis.link(5, channel("Email"), &key()),
            Err(ChainError::Opened { first: true })
        );
        assert!(matches!(genesis.follow(&second), Err(ChainError::Index { .. })));
        assert!(tip.follow(&first).is_err());
        let large = tip.link(6, channel(&"x".repeat(ENTRY_BYTES_MAX)), &key());
        assert!(matches!(large, Err(ChainError::Entry(EntryError::TooLarge(_)))));
    }

    #[test]
    fn another_format_and_a_newer_level_are_told_as_such() {
        let genesis = Tip::genesis();
        let bytes = |opened| Entry {
            index: 0,
            prev_hash: [0; 32],
            recorded_at_s: 5,
            mac: None,
            body: Body::Opened(opened),
        };
        let old = bytes(LedgerOpened { format_version: 1, feature_level: 0, ..opened() });
        assert_eq!(genesis.follow(&old.encode()), Err(ChainError::Format(1)));
        let mut newer = bytes(LedgerOpened { feature_level: 2, ..opened() }).encode();
        assert_eq!(genesis.follow(&newer), Err(ChainError::Newer(2)));
        newer.extend([0xf8, 0x07, 1]); // field 127, which this program does not know
        assert_eq!(genesis.follow(&newer), Err(ChainError::Newer(2)));

        let (_, _, tip) = Tip::open(5, opened()).unwrap();
        let raise = |level| tip.link(6, Body::Level(FormatLevel { level }), &key());
        assert_eq!(raise(1), Err(ChainError::LevelNotHigher { got: 1, before: 1 }));
        assert_eq!(raise(2), Err(ChainError::Newer(2)));
    }

    #[test]
    fn an_entry_with_two_bodies_is_refused() {
        let (_, _, tip) = Tip::open(5, opened()).unwrap();
        let (_, mut bytes, _) = tip.link(6, channel("Email"), &key()).unwrap();
        let put = ChannelPut { key: "sms".into(), ..ChannelPut::default() }.encode_to_vec();
        bytes.extend([0x6a, u8::try_from(put.len()).unwrap()]);
        bytes.extend(put);
        let refused = tip.follow(&bytes);
        assert!(matches!(refused, Err(ChainError::Entry(EntryError::Canonical(_)))), "{refused:?}");
    }
}
