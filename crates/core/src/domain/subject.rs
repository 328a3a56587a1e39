//! Data subjects: as callers name them, and as the ledger does.

use std::fmt;

use thiserror::Error;

/// The longest data subject, in bytes of UTF-8.
pub const SUBJECT_BYTES_MAX: usize = 256;

/// A data subject as the caller knows it: `namespace:id`, for example `user:42`.
///
/// It is personal data: `Debug` never prints it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Subject(Box<str>);

/// Why a text does not name a data subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SubjectError {
    /// The text is empty.
    #[error("is required, as `namespace:id`, for example `user:42`")]
    Missing,
    /// Longer than [`SUBJECT_BYTES_MAX`].
    #[error("must be at most {SUBJECT_BYTES_MAX} bytes, got {0}")]
    TooLong(usize),
    /// No colon, or nothing on one side of it.
    #[error("must be `namespace:id`, for example `user:42`")]
    NotNamespaced,
    /// The namespace has other characters than `a-z`, `A-Z`, `0-9`, `_`, `-` and `.`.
    #[error("must have a namespace of letters, digits, `_`, `-` and `.` before the colon")]
    Namespace,
    /// A control character.
    #[error("must not contain control characters")]
    ControlCharacter,
}

impl Subject {
    /// Parses `namespace:id`.
    ///
    /// # Errors
    /// One [`SubjectError`] for every way in which the text can be wrong.
    pub fn parse(text: &str) -> Result<Self, SubjectError> {
        if text.is_empty() {
            return Err(SubjectError::Missing);
        }
        if text.len() > SUBJECT_BYTES_MAX {
            return Err(SubjectError::TooLong(text.len()));
        }
        let (namespace, id) = text.split_once(':').ok_or(SubjectError::NotNamespaced)?;
        if namespace.is_empty() || id.is_empty() {
            return Err(SubjectError::NotNamespaced);
        }
        if !namespace.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b)) {
            return Err(SubjectError::Namespace);
        }
        if id.chars().any(char::is_control) {
            return Err(SubjectError::ControlCharacter);
        }
        Ok(Self(text.into()))
    }

    /// `namespace:id`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part before the first colon.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.0.split_once(':').map_or("", |(namespace, _)| namespace)
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Subject({}:…)", self.namespace())
    }
}

/// A data subject's reference in the ledger: 128 random bits without meaning outside the vault.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubjectRef(pub [u8; 16]);

impl fmt::Debug for SubjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SubjectRef({:032x})", u128::from_be_bytes(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_every_way_in_which_a_subject_is_wrong() {
        let long = format!("user:{}", "x".repeat(252));
        for (text, want) in [
            ("", Err(SubjectError::Missing)),
            (long.as_str(), Err(SubjectError::TooLong(257))),
            ("user", Err(SubjectError::NotNamespaced)),
            (":42", Err(SubjectError::NotNamespaced)),
            ("user:", Err(SubjectError::NotNamespaced)),
            ("us er:42", Err(SubjectError::Namespace)),
            ("user:4\n2", Err(SubjectError::ControlCharacter)),
            ("user:42", Ok("user")),
            ("email:jo@example.org", Ok("email")),
            ("urn:a:b", Ok("urn")),
        ] {
            let got = Subject::parse(text);
            assert_eq!(got.as_ref().map(Subject::namespace).map_err(|e| *e), want, "{text:?}");
        }
    }

    #[test]
    fn debug_keeps_the_identifier_to_itself() {
        let subject = Subject::parse("email:jo@example.org").unwrap();
        assert_eq!(format!("{subject:?}"), "Subject(email:…)");
    }
}
