//! The identity behind a data subject's reference in the ledger.

use super::subject::Subject;

/// The identity of a data subject.
///
/// An erased identity is a value, not an error: the ledger keeps the reference, and all code that
/// reads it decides how to go on without the name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// The name that callers use.
    Known(Subject),
    /// It was erased, together with the key to its sealed content.
    Erased,
}

impl Identity {
    /// The data subject, unless it is erased.
    #[must_use]
    pub fn known(self) -> Option<Subject> {
        match self {
            Self::Known(subject) => Some(subject),
            Self::Erased => None,
        }
    }
}
