//! Data subjects: as callers spell them, in their one canonical form, and as the ledger names them.
//!
//! [`Catalog::subject`] makes a [`Subject`] of what a caller wrote, and nothing else does: only then are two
//! spellings of one person equal.

use std::fmt;

use consent_ledger_identity::{GIVEN_BYTES_MAX, IdentityError, NamespaceKind, canonical, trimmed};
use thiserror::Error;

use super::{
    catalog::Catalog,
    scope::{KEY_BYTES_MAX, Key},
};
use crate::format::vault::IDENTITY_BYTES_MAX;

/// The longest id of a data subject, in bytes of UTF-8, in its canonical form: every address has a place
/// (RFC 5321, section 4.5.3.1.3), whatever its namespace.
pub const SUBJECT_ID_BYTES_MAX: usize = 256;

// The vault has a place for every data subject that comes through the door.
const _: () = assert!(KEY_BYTES_MAX + 1 + SUBJECT_ID_BYTES_MAX <= IDENTITY_BYTES_MAX);

/// A data subject in its canonical form: `namespace:id`, for example `user:42`.
///
/// It is personal data: `Debug` never prints it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Subject(Box<str>);

/// Why a text does not name a data subject.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SubjectError {
    /// The text is empty.
    #[error("is required, as `namespace:id`, for example `user:42`")]
    Missing,
    /// Its id is longer than [`SUBJECT_ID_BYTES_MAX`].
    #[error("must have an id of at most {SUBJECT_ID_BYTES_MAX} bytes after the namespace, got {0}")]
    TooLong(usize),
    /// No colon, or nothing on one side of it.
    #[error("must be `namespace:id`, for example `user:42`")]
    NotNamespaced,
    /// The namespace is no key of the catalogue.
    #[error("must have a namespace of letters, digits, `_`, `-` and `.` before the colon")]
    Namespace,
    /// The catalogue lacks the namespace.
    #[error("has the namespace `{0}`, which is not in the catalogue")]
    UnknownNamespace(Key),
    /// The namespace has no such id.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// The key of the namespace, in lower case, and the id as it is spelled.
fn namespace_and_id(text: &str) -> Result<(Key, &str), SubjectError> {
    if text.is_empty() {
        return Err(SubjectError::Missing);
    }
    let (namespace, id) = text.split_once(':').ok_or(SubjectError::NotNamespaced)?;
    let namespace = trimmed(namespace);
    if namespace.is_empty() || id.is_empty() {
        return Err(SubjectError::NotNamespaced);
    }
    let namespace = Key::parse(&namespace.to_ascii_lowercase());
    Ok((namespace.map_err(|_| SubjectError::Namespace)?, id))
}

/// Whether a text spells the data subject of which `is_form` knows the canonical form, as far as that
/// can be told without the catalogue: the form is one that some kind of namespace gives the text. A
/// phone number needs its country code.
pub fn spells(text: &str, is_form: impl Fn(&str) -> bool) -> bool {
    let spells_as = |namespace: &Key, kind, id| {
        Subject::canonical(namespace, kind, id).is_ok_and(|subject| is_form(subject.as_str()))
    };
    is_form(text)
        || namespace_and_id(text)
            .is_ok_and(|(namespace, id)| KINDS.iter().any(|kind| spells_as(&namespace, *kind, id)))
}

/// Every kind of namespace.
const KINDS: [NamespaceKind; 5] = [
    NamespaceKind::Opaque,
    NamespaceKind::Email { fold_local_part: true },
    NamespaceKind::Email { fold_local_part: false },
    NamespaceKind::Phone { default_region: None },
    NamespaceKind::Domain,
];

impl Catalog {
    /// The data subject that a caller means by `namespace:id`. The namespace may be in any case of its
    /// letters. This is the one door to a [`Subject`].
    ///
    /// # Errors
    /// The text has no namespace or no id, the catalogue lacks the namespace, or the namespace has no
    /// such id.
    pub fn subject(&self, given: &str) -> Result<Subject, SubjectError> {
        self.subject_unless_stored(given, |_| false)
    }

    /// As [`Self::subject`], where it is known of some data subjects that they are stored. What is stored is in
    /// its canonical form, which is not computed again.
    ///
    /// # Errors
    /// As [`Self::subject`].
    pub fn subject_unless_stored(
        &self,
        given: &str,
        is_stored: impl FnOnce(&Subject) -> bool,
    ) -> Result<Subject, SubjectError> {
        let (key, id) = namespace_and_id(given)?;
        let namespace = self.namespace(key.as_str());
        let namespace = namespace.ok_or(SubjectError::UnknownNamespace(key))?;
        // An opaque id costs no more than the look-up.
        if namespace.kind != NamespaceKind::Opaque
            && let Ok(subject) = Subject::parse(given)
            && is_stored(&subject)
        {
            return Ok(subject);
        }
        Subject::canonical(&namespace.key, namespace.kind, id)
    }

    /// Whether a data subject has the form that its namespace, if the catalogue has it, asks for.
    #[must_use]
    pub fn is_canonical(&self, subject: &Subject) -> bool {
        self.namespace(subject.namespace()).is_none_or(|namespace| {
            canonical(namespace.kind, subject.id()).is_ok_and(|form| form == subject.id())
        })
    }
}

impl Subject {
    /// The data subject of an id of a namespace, in any spelling.
    ///
    /// # Errors
    /// The kind has no such id, or its canonical form is too long.
    pub fn canonical(namespace: &Key, kind: NamespaceKind, id: &str) -> Result<Self, SubjectError> {
        let id = canonical(kind, id)?;
        check_length(&id)?;
        Ok(Self(format!("{namespace}:{id}").into()))
    }

    /// Parses `namespace:id` in the canonical form in which this service stored it. What callers spell
    /// goes through [`Catalog::subject`].
    ///
    /// # Errors
    /// One [`SubjectError`] for every way in which the text can be wrong.
    pub fn parse(text: &str) -> Result<Self, SubjectError> {
        if text.is_empty() {
            return Err(SubjectError::Missing);
        }
        let (namespace, id) = text.split_once(':').ok_or(SubjectError::NotNamespaced)?;
        if namespace.is_empty() || id.is_empty() {
            return Err(SubjectError::NotNamespaced);
        }
        check_length(id)?;
        let is_key = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
        if namespace.len() > KEY_BYTES_MAX || !namespace.bytes().all(is_key) {
            return Err(SubjectError::Namespace);
        }
        if id.chars().any(char::is_control) {
            return Err(IdentityError::ControlCharacter.into());
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

    /// The part after the first colon.
    #[must_use]
    pub fn id(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, id)| id)
    }
}

fn check_length(id: &str) -> Result<(), SubjectError> {
    if id.len() > SUBJECT_ID_BYTES_MAX { Err(SubjectError::TooLong(id.len())) } else { Ok(()) }
}

impl SubjectError {
    /// The limit that is exceeded, if the fault is one of size.
    #[must_use]
    pub fn limit(&self) -> Option<usize> {
        match self {
            Self::TooLong(_) => Some(SUBJECT_ID_BYTES_MAX),
            Self::Identity(IdentityError::TooLong(_)) => Some(GIVEN_BYTES_MAX),
            _ => None,
        }
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
    use crate::domain::Namespace;

    #[test]
    fn names_every_way_in_which_a_subject_is_wrong() {
        let long = format!("user:{}", "x".repeat(257));
        let longest = format!("user:{}", "x".repeat(256));
        for (text, want) in [
            ("", Err(SubjectError::Missing)),
            (long.as_str(), Err(SubjectError::TooLong(257))),
            ("user", Err(SubjectError::NotNamespaced)),
            (":42", Err(SubjectError::NotNamespaced)),
            ("user:", Err(SubjectError::NotNamespaced)),
            ("us er:42", Err(SubjectError::Namespace)),
            ("user:4\n2", Err(IdentityError::ControlCharacter.into())),
            ("user:42", Ok("user")),
            ("email:jo@example.org", Ok("email")),
            ("urn:a:b", Ok("urn")),
            (longest.as_str(), Ok("user")),
        ] {
            let got = Subject::parse(text);
            assert_eq!(
                got.as_ref().map(Subject::namespace).map_err(Clone::clone),
                want,
                "{text:?}"
            );
        }
    }

    fn catalog() -> Catalog {
        let mut catalog = Catalog::default();
        let namespaces = [
            ("email", NamespaceKind::Email { fold_local_part: true }),
            ("user", NamespaceKind::Opaque),
        ];
        for (key, kind) in namespaces {
            let (key, title) = (Key::parse(key).unwrap(), String::new());
            catalog.put_namespace(Namespace { key, title, kind, form_version: 1 });
        }
        catalog
    }

    #[test]
    fn one_door_gives_every_spelling_one_form() {
        let catalog = catalog();
        let long = format!("user:{}", "x".repeat(257));
        let spelled = |text: &str| catalog.subject(text);
        for (given, want) in [
            ("email:Kim@X.example", "email:kim@x.example"),
            ("EMAIL:<kim@x.example>", "email:kim@x.example"),
            ("\u{feff} Email : kim@x.example ", "email:kim@x.example"),
            ("user:42", "user:42"),
            ("user:a:B", "user:a:B"),
        ] {
            assert_eq!(spelled(given).as_ref().map(Subject::as_str), Ok(want), "{given:?}");
        }
        let unknown = SubjectError::UnknownNamespace(Key::parse("crm").unwrap());
        for (given, want) in [
            ("", SubjectError::Missing),
            ("user", SubjectError::NotNamespaced),
            (":42", SubjectError::NotNamespaced),
            ("user:", SubjectError::NotNamespaced),
            ("us er:42", SubjectError::Namespace),
            ("CRM:42", unknown),
            ("user: \u{200b}", SubjectError::Identity(IdentityError::Empty)),
            ("user:4\n2", SubjectError::Identity(IdentityError::ControlCharacter)),
            (long.as_str(), SubjectError::TooLong(257)),
        ] {
            assert_eq!(spelled(given), Err(want), "{given:?}");
        }
    }

    #[test]
    fn debug_keeps_the_identifier_to_itself() {
        let subject = Subject::parse("email:jo@example.org").unwrap();
        assert_eq!(format!("{subject:?}"), "Subject(email:…)");
    }
}
