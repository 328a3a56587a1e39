//! Who stands behind a data subject's name in the ledger, as far as that can still be said.

use super::subject::Subject;

/// Who a data subject is.
///
/// That an identity is erased is an answer, and no fault: the ledger goes on naming the data subject,
/// and everything that meets the name decides what to do without the person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// As callers know it.
    Known(Subject),
    /// It was erased, with the key that could open what is sealed about it. Nobody can say any more.
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
