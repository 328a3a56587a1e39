//! Namespaces: what the ids of data subjects are.

use consent_ledger_identity::NamespaceKind;

use super::scope::Key;

/// A namespace of the catalogue.
///
/// There is no retirement: a person who is on record must stay reachable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// Key. Callers may write it in any case of its letters.
    pub key: Key,
    /// Title for people.
    pub title: String,
    /// What its ids are.
    pub kind: NamespaceKind,
    /// Version of the canonical form that the ids of its persons have.
    pub form_version: u32,
}
