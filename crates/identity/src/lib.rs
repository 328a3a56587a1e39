//! One person has many spellings. This crate gives them one form.
//!
//! `Kim@X.example`, `<kim@x.example>` and `mailto:kim@x.example` are one mailbox; `+43 664 123-45-67`
//! and `'0664/1234567` are one phone. Who compares the raw texts takes an opt-out for somebody else's.
//! [`canonical`] is the only function; everything else here is its kinds and its errors.
//!
//! * `text`: what is done to every text: bounds, invisible characters, normalisation.
//! * `wrapping`: what files and programs put around a value, and what they put in place of one.
//! * `email`, `phone`, `domain`: one file for each kind that has rules of its own.
//!
//! It is pure: no clock, no network, no files. It does not know whether a mailbox exists or a number is
//! in service. No form depends on whether a number is *valid*: numbering plans change, identities must
//! not.
//!
//! # Invariants
//! * A canonical form is its own canonical form.
//! * Of one [`VERSION`] the same text always gives the same answer. The crates below follow Unicode and
//!   the world's numbering plans, so their versions are pinned, and `tests/golden.rs` compares the
//!   answers for every character and every region with recorded ones.

mod domain;
mod email;
mod phone;
mod text;
mod wrapping;

use std::borrow::Cow;

use thiserror::Error;

pub use domain::DomainError;
pub use email::{EMAIL_BYTES_MAX, EmailError, LOCAL_PART_BYTES_MAX};
pub use phone::{EXTENSION_DIGITS_MAX, PhoneError, PhoneRegion, PhoneRegionError};

/// The version of the canonical form. A change of any answer raises it: stored identities are then
/// brought into the new form before anything is looked up by them.
pub const VERSION: u32 = 1;

/// The longest value that is read, in bytes of UTF-8. It leaves room for what is written around an
/// identity, such as a display name; the canonical form has narrower bounds.
pub const GIVEN_BYTES_MAX: usize = 1024;

/// What the ids of a namespace are, and thereby which spellings name the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NamespaceKind {
    /// E-mail addresses (RFC 5321, RFC 6531).
    Email {
        /// Whether `Kim@` and `kim@` are one mailbox. RFC 5321 leaves that to the receiving host; hardly
        /// any host tells them apart.
        fold_local_part: bool,
    },
    /// Phone numbers, as E.164 with an optional extension.
    Phone {
        /// Where numbers without a country code are from. Without it they are refused.
        default_region: Option<PhoneRegion>,
    },
    /// Domain names (UTS 46).
    Domain,
    /// Ids that only their issuer understands. Nothing is known of them but their characters.
    Opaque,
}

impl NamespaceKind {
    /// Its name, as a catalogue file has it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Email { .. } => "email",
            Self::Phone { .. } => "phone",
            Self::Domain => "domain",
            Self::Opaque => "opaque",
        }
    }

    /// The name of the setting in which another kind reads ids in another way; none if it is the same.
    #[must_use]
    pub fn differs_in(&self, other: &Self) -> Option<&'static str> {
        match (self, other) {
            (one, other) if one == other => None,
            (Self::Email { .. }, Self::Email { .. }) => Some("fold_local_part"),
            (Self::Phone { .. }, Self::Phone { .. }) => Some("default_region"),
            _ => Some("kind"),
        }
    }
}

/// How a text can fail to be an identity of its kind. Texts continue a sentence that begins with the
/// name of the field. None repeats the value: it may be personal data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum IdentityError {
    /// Nothing is left of it.
    #[error("is empty, or has only spaces and invisible characters")]
    Empty,
    /// Longer than [`GIVEN_BYTES_MAX`].
    #[error("must be at most {GIVEN_BYTES_MAX} bytes, got {0}")]
    TooLong(usize),
    /// A control character or a line break inside.
    #[error("must not contain control characters or line breaks")]
    ControlCharacter,
    /// The character that stands for bytes that could not be decoded.
    #[error(
        "has U+FFFD, which replaces bytes in another encoding: read the source in its own encoding"
    )]
    Undecodable,
    /// `Ã¼` for `ü`.
    #[error(
        "has characters such as `Ã¼`, which are UTF-8 read as another encoding: read the source as UTF-8"
    )]
    WrongEncoding,
    /// The error value of a spreadsheet.
    #[error("is `{0}`, an error value of a spreadsheet, and names nobody")]
    SpreadsheetError(&'static str),
    /// A word for "no value".
    #[error("is `{0}`, a word for a missing value, and names nobody")]
    MissingValue(&'static str),
    /// A number such as `4.36641E+11`.
    #[error(
        "is a number in scientific notation: a spreadsheet has dropped its digits; format the column as \
         text and export it again"
    )]
    ScientificNotation,
    /// No e-mail address.
    #[error("must be one e-mail address: {0}")]
    Email(#[from] EmailError),
    /// No phone number.
    #[error("must be one phone number: {0}")]
    Phone(#[from] PhoneError),
    /// No domain.
    #[error("must be one domain name: {0}")]
    Domain(#[from] DomainError),
}

/// A text without white space and invisible characters at its edges.
#[must_use]
pub fn trimmed(text: &str) -> &str {
    text::trimmed(text)
}

/// The canonical form of an id: all spellings of one identity have the same, and it is its own.
///
/// # Errors
/// An [`IdentityError`] that says why the text cannot be an id of this kind.
pub fn canonical(kind: NamespaceKind, id: &str) -> Result<String, IdentityError> {
    match kind {
        NamespaceKind::Email { fold_local_part } => email::canonical(id, fold_local_part),
        NamespaceKind::Phone { default_region } => phone::canonical(id, default_region),
        NamespaceKind::Domain => domain::canonical(id),
        NamespaceKind::Opaque => text::visible(id, text::Joiners::Drop).map(Cow::into_owned),
    }
}
