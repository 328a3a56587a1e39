//! Pages of lists, and the tokens that lead to the next page.

use super::{Invalid, PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX, Problem};
use crate::{
    domain::Key,
    tlog::{hex, unhex},
};

/// A list in the order of its keys. A token is good for one list and one question only.
#[derive(Debug, Clone)]
pub struct List {
    /// Begins every token of the list.
    prefix: String,
}

/// A page that a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Maximum number of rows.
    pub size: usize,
    /// The last key of the page before.
    pub after: Option<Key>,
}

impl List {
    /// Purposes, with or without retired ones.
    #[must_use]
    pub fn purposes(show_retired: bool) -> Self {
        Self { prefix: format!("p{}", u8::from(show_retired)) }
    }

    /// Channels, with or without retired ones.
    #[must_use]
    pub fn channels(show_retired: bool) -> Self {
        Self { prefix: format!("c{}", u8::from(show_retired)) }
    }

    /// Namespaces.
    #[must_use]
    pub fn namespaces() -> Self {
        Self { prefix: "n".to_owned() }
    }

    /// Parties.
    #[must_use]
    pub fn parties() -> Self {
        Self { prefix: "a".to_owned() }
    }

    /// Subscriptions of an owner; an empty name stands for all owners.
    #[must_use]
    pub fn subscriptions(owner: &str) -> Self {
        let owner = blake3::hash(owner.as_bytes());
        Self { prefix: format!("s{}.", hex(&owner.as_bytes()[..8])) }
    }

    /// The page that a request asks for.
    ///
    /// # Errors
    /// A size that is negative or over the limit, or a token of another list.
    pub fn page(&self, size: i32, token: &str) -> Result<Page, Invalid> {
        let after = match token {
            "" => None,
            token => Some(self.key(token).ok_or_else(|| Problem::PageToken.at("page_token"))?),
        };
        Ok(Page { size: page_size(size)?, after })
    }

    /// The token of the page after the one that ends with this key.
    #[must_use]
    pub fn next_token(&self, last: &Key) -> String {
        format!("{}{}", self.prefix, hex(last.as_str().as_bytes()))
    }

    fn key(&self, token: &str) -> Option<Key> {
        let digits = token.strip_prefix(&self.prefix)?;
        let key = Key::parse(std::str::from_utf8(&unhex(digits)?).ok()?).ok()?;
        // Each key has one token: `AF` is hexadecimal, too, but no token contains it.
        (self.next_token(&key) == token).then_some(key)
    }
}

/// The number of rows on a page.
pub(super) fn page_size(size: i32) -> Result<usize, Invalid> {
    let size = match size {
        0 => PAGE_SIZE_DEFAULT,
        size if size > PAGE_SIZE_MAX => return Err(Problem::PageSize(size).at("page_size")),
        size => size,
    };
    usize::try_from(size).map_err(|_| Problem::Negative.at("page_size"))
}
