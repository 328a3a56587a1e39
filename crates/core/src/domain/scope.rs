//! Scopes of changes: a cell, a whole purpose, a whole channel, or everything.

use std::{borrow::Borrow, fmt, sync::Arc};

use thiserror::Error;

use super::catalog::{ChannelId, PurposeId};

/// The longest key of a purpose or channel, in bytes.
pub const KEY_BYTES_MAX: usize = 128;

/// Key of a purpose or channel: dot-separated words of `a-z`, `0-9`, `_` and `-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

/// Why a text is not a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum KeyError {
    /// The text is empty.
    #[error("is required")]
    Missing,
    /// Longer than [`KEY_BYTES_MAX`].
    #[error("must be at most {KEY_BYTES_MAX} bytes, got {0}")]
    TooLong(usize),
    /// Not dot-separated words of the allowed characters.
    #[error("must be dot-separated words of `a-z`, `0-9`, `_` and `-`")]
    Characters,
}

impl Key {
    /// Parses a key.
    ///
    /// # Errors
    /// One [`KeyError`] for every way in which the text can be wrong.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        Self::check(text)?;
        Ok(Self(text.into()))
    }

    /// Checks that a text is a key, without allocating one.
    ///
    /// # Errors
    /// As [`Key::parse`].
    pub fn check(text: &str) -> Result<(), KeyError> {
        if text.is_empty() {
            return Err(KeyError::Missing);
        }
        if text.len() > KEY_BYTES_MAX {
            return Err(KeyError::TooLong(text.len()));
        }
        let mut word_begins = true;
        for byte in text.bytes() {
            match byte {
                b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' => word_begins = false,
                b'.' if !word_begins => word_begins = true,
                _ => return Err(KeyError::Characters),
            }
        }
        if word_begins { Err(KeyError::Characters) } else { Ok(()) }
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A scope as callers and entries write it. `None` means every purpose, or every channel.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ScopeKeys {
    /// The purpose, or all.
    pub purpose: Option<Key>,
    /// The channel, or all.
    pub channel: Option<Key>,
}

impl fmt::Display for ScopeKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |key: &Option<Key>| key.as_ref().map_or("*".to_owned(), ToString::to_string);
        write!(f, "{}:{}", text(&self.purpose), text(&self.channel))
    }
}

/// A scope whose keys were found in the catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope {
    /// The purpose, or all.
    pub purpose: Option<PurposeId>,
    /// The channel, or all.
    pub channel: Option<ChannelId>,
}

impl Scope {
    /// Exactly one cell.
    #[must_use]
    pub fn cell(purpose: PurposeId, channel: ChannelId) -> Self {
        Self { purpose: Some(purpose), channel: Some(channel) }
    }

    /// Purpose and channel, if the scope is one cell.
    #[must_use]
    pub fn as_cell(self) -> Option<(PurposeId, ChannelId)> {
        Some((self.purpose?, self.channel?))
    }

    /// Whether the scope covers a cell.
    #[must_use]
    pub fn covers(self, purpose: PurposeId, channel: ChannelId) -> bool {
        self.purpose.is_none_or(|covered| covered == purpose)
            && self.channel.is_none_or(|covered| covered == channel)
    }

    /// Whether the scope covers every cell of another.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        (self.purpose.is_none() || self.purpose == other.purpose)
            && (self.channel.is_none() || self.channel == other.channel)
    }

    /// The cells that two scopes have in common, if they have any.
    #[must_use]
    pub fn overlap(self, other: Self) -> Option<Self> {
        let overlap = Self {
            purpose: self.purpose.or(other.purpose),
            channel: self.channel.or(other.channel),
        };
        (self.contains(overlap) && other.contains(overlap)).then_some(overlap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_dotted_words() {
        for good in ["email", "marketing.newsletter", "tcf.store-access", "a_1.b-2"] {
            assert_eq!(Key::parse(good).unwrap().as_str(), good);
        }
        for bad in ["*", "Email", "a..b", ".a", "a.", "a b", "a:b", "ä"] {
            assert_eq!(Key::parse(bad), Err(KeyError::Characters), "{bad:?}");
        }
        assert_eq!(Key::parse(""), Err(KeyError::Missing));
        assert_eq!(Key::parse(&"a".repeat(129)), Err(KeyError::TooLong(129)));
    }

    #[test]
    fn scopes_overlap_in_the_cells_of_both() {
        let scope = |purpose: Option<u32>, channel: Option<u32>| Scope {
            purpose: purpose.map(PurposeId),
            channel: channel.map(ChannelId),
        };
        for (one, other, want) in [
            (scope(None, None), scope(None, Some(2)), Some(scope(None, Some(2)))),
            (scope(Some(1), None), scope(None, Some(2)), Some(scope(Some(1), Some(2)))),
            (scope(Some(1), Some(2)), scope(Some(1), None), Some(scope(Some(1), Some(2)))),
            (scope(Some(1), None), scope(Some(3), None), None),
            (scope(Some(1), Some(2)), scope(None, Some(4)), None),
        ] {
            assert_eq!(one.overlap(other), want);
            assert_eq!(other.overlap(one), want);
        }
    }

    #[test]
    fn wider_scopes_contain_narrower_ones() {
        let cell = Scope::cell(PurposeId(1), ChannelId(2));
        let purpose = Scope { purpose: Some(PurposeId(1)), channel: None };
        let channel = Scope { purpose: None, channel: Some(ChannelId(2)) };
        let everything = Scope { purpose: None, channel: None };
        for wide in [cell, purpose, channel, everything] {
            assert!(wide.contains(cell) && wide.covers(PurposeId(1), ChannelId(2)));
            assert!(everything.contains(wide));
        }
        assert!(!purpose.contains(channel) && !channel.contains(purpose));
        assert!(!cell.contains(purpose) && !purpose.covers(PurposeId(2), ChannelId(2)));
    }
}
