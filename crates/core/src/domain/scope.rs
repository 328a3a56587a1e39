//! Scopes of changes: a cell, a whole purpose, a class of purposes, a whole channel, or everything.

use std::{borrow::Borrow, fmt, sync::Arc};

use thiserror::Error;

use super::catalog::{ChannelId, ClassId, PurposeId};

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

    /// The key without its last word, if it has more than one.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        self.0.rsplit_once('.').map(|(parent, _)| Self(parent.into()))
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

/// What a scope or filter names of the purposes: one, or a class of them.
///
/// The class `marketing.*` has every purpose whose key begins with `marketing.`, also those that come
/// later; not a purpose named `marketing`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PurposeName {
    /// The purpose with this key.
    One(Key),
    /// Every purpose below this key.
    Class(Key),
}

impl PurposeName {
    /// Parses a key, or `KEY.*`.
    ///
    /// # Errors
    /// As [`Key::parse`].
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        match text.strip_suffix(".*") {
            Some(prefix) => Key::parse(prefix).map(Self::Class),
            None => Key::parse(text).map(Self::One),
        }
    }

    /// Checks that a text is such a name, without allocating one.
    ///
    /// # Errors
    /// As [`Key::parse`].
    pub fn check(text: &str) -> Result<(), KeyError> {
        Key::check(text.strip_suffix(".*").unwrap_or(text))
    }

    /// Whether every purpose that the other names is among those that this one names.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::One(one), Self::One(other)) => one == other,
            (Self::One(_), Self::Class(_)) => false,
            (Self::Class(prefix), Self::One(key)) => is_below(prefix, key),
            (Self::Class(prefix), Self::Class(other)) => prefix == other || is_below(prefix, other),
        }
    }

    /// Whether some purpose can be among those that both name.
    #[must_use]
    pub fn meets(&self, other: &Self) -> bool {
        self.contains(other) || other.contains(self)
    }

    /// The purpose, if this names one.
    #[must_use]
    pub fn as_one(&self) -> Option<&Key> {
        match self {
            Self::One(key) => Some(key),
            Self::Class(_) => None,
        }
    }
}

impl From<Key> for PurposeName {
    fn from(key: Key) -> Self {
        Self::One(key)
    }
}

impl fmt::Display for PurposeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(key) => write!(f, "{key}"),
            Self::Class(prefix) => write!(f, "{prefix}.*"),
        }
    }
}

fn is_below(prefix: &Key, key: &Key) -> bool {
    key.as_str().strip_prefix(prefix.as_str()).is_some_and(|rest| rest.starts_with('.'))
}

/// A scope as callers and entries write it. `None` means every purpose, or every channel.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ScopeKeys {
    /// The purpose, a class, or all.
    pub purpose: Option<PurposeName>,
    /// The channel, or all.
    pub channel: Option<Key>,
}

impl ScopeKeys {
    /// Whether every cell of the other is one of this one.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        let has_purposes = self.purpose.as_ref().is_none_or(|name| {
            other.purpose.as_ref().is_some_and(|purpose| name.contains(purpose))
        });
        has_purposes && (self.channel.is_none() || self.channel == other.channel)
    }
}

impl fmt::Display for ScopeKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn text(name: Option<&impl ToString>) -> String {
            name.map_or("*".to_owned(), ToString::to_string)
        }
        write!(f, "{}:{}", text(self.purpose.as_ref()), text(self.channel.as_ref()))
    }
}

/// What a scope names of the catalogue's purposes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PurposeScope {
    /// One purpose.
    One(PurposeId),
    /// A class.
    Class(ClassId),
}

/// A scope whose keys were found in the catalogue, which says what a class contains
/// ([`Catalog::covers`](super::Catalog::covers)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope {
    /// The purpose, a class, or all.
    pub purpose: Option<PurposeScope>,
    /// The channel, or all.
    pub channel: Option<ChannelId>,
}

impl Scope {
    /// Every purpose over every channel.
    pub const EVERYTHING: Self = Self { purpose: None, channel: None };

    /// Exactly one cell.
    #[must_use]
    pub fn cell(purpose: PurposeId, channel: ChannelId) -> Self {
        Self { purpose: Some(PurposeScope::One(purpose)), channel: Some(channel) }
    }

    /// Purpose and channel, if the scope is one cell.
    #[must_use]
    pub fn as_cell(self) -> Option<(PurposeId, ChannelId)> {
        Some((self.as_purpose()?, self.channel?))
    }

    /// The purpose, if the scope is about one.
    #[must_use]
    pub fn as_purpose(self) -> Option<PurposeId> {
        match self.purpose? {
            PurposeScope::One(purpose) => Some(purpose),
            PurposeScope::Class(_) => None,
        }
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
    fn a_class_has_what_is_below_its_key() {
        let name = |text| PurposeName::parse(text).unwrap();
        for (class, other, contains) in [
            ("marketing.*", "marketing.news", true),
            ("marketing.*", "marketing.news.daily", true),
            ("marketing.*", "marketing", false),
            ("marketing.*", "marketing2.news", false),
            ("marketing.*", "marketing.*", true),
            ("marketing.*", "marketing.news.*", true),
            ("marketing.news.*", "marketing.*", false),
            ("marketing.news", "marketing.news.*", false),
            ("marketing.news", "marketing.news", true),
        ] {
            assert_eq!(name(class).contains(&name(other)), contains, "{class} {other}");
            assert_eq!(name(class).to_string(), class);
        }
        assert!(name("marketing.news.*").meets(&name("marketing.*")));
        assert!(!name("a.*").meets(&name("b.*")));
        for bad in ["*", ".*", "a.*.b", "a*", "A.*", "*.a", "a..*", "a.*.*"] {
            assert!(PurposeName::parse(bad).is_err(), "{bad}");
            assert!(PurposeName::check(bad).is_err(), "{bad}");
        }
    }
}
