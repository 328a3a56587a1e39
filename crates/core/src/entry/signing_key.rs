//! `SigningKeyChanged`: from here on another key signs the ledger's checkpoints.
//!
//! The entry alone shows nothing: anybody who can append can write one. What shows it to somebody who
//! knows the key before is a checkpoint over the entry that both keys have signed; see
//! [`crate::ledger::key_change`].

use super::{EntryError, NamesNoSubject, Target, fields::field};
use crate::{
    event::EventOutline,
    proto,
    tlog::key::{Algorithm, VerifierKey},
};

/// Another key signs from here on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningKeyChanged {
    /// The key that signs from here on.
    pub next: VerifierKey,
    /// The key that signed until here; none if it was lost.
    pub previous: Option<VerifierKey>,
}

impl NamesNoSubject for SigningKeyChanged {
    fn message(&self) -> proto::entry::Body {
        proto::entry::Body::SigningKeyChanged(proto::SigningKeyChanged {
            next_key: self.next.to_string(),
            previous_key: self.previous.as_ref().map(ToString::to_string).unwrap_or_default(),
        })
    }

    fn target(&self) -> Target<'_> {
        Target::Nothing
    }

    fn outline(&self) -> EventOutline<'_> {
        EventOutline::Nothing
    }
}

impl TryFrom<proto::SigningKeyChanged> for SigningKeyChanged {
    type Error = EntryError;

    fn try_from(message: proto::SigningKeyChanged) -> Result<Self, EntryError> {
        let next = key("signing_key_changed.next_key", &message.next_key)?;
        let previous = match message.previous_key.as_str() {
            "" => None,
            text => Some(key("signing_key_changed.previous_key", text)?),
        };
        if previous.as_ref().is_some_and(|previous| previous == &next) {
            return Err(field("signing_key_changed.previous_key"));
        }
        Ok(Self { next, previous })
    }
}

/// A key of a ledger, in the one form in which it is written.
fn key(name: &'static str, text: &str) -> Result<VerifierKey, EntryError> {
    VerifierKey::parse(text)
        .ok()
        .filter(|key| key.algorithm() == Algorithm::Note && key.to_string() == text)
        .ok_or(field(name))
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::{option, prelude::*};

    use super::*;
    use crate::{
        entry::{
            Body,
            tests::{reads_back, refused},
        },
        tlog::key::SignerKey,
    };

    fn verifier(algorithm: Algorithm, seed: u8) -> VerifierKey {
        let key = SignerKey::from_seed("ledger.example/eu", algorithm, &[seed; 32]).unwrap();
        key.verifier().clone()
    }

    pub(in crate::entry) fn any_key_change() -> impl Strategy<Value = SigningKeyChanged> {
        (0_u8..100, option::of(100_u8..)).prop_map(|(next, previous)| SigningKeyChanged {
            next: verifier(Algorithm::Note, next),
            previous: previous.map(|seed| verifier(Algorithm::Note, seed)),
        })
    }

    proptest! {
        #[test]
        fn the_message_reads_back(change in any_key_change()) {
            reads_back(&Body::SigningKeyChanged(Box::new(change)));
        }
    }

    #[test]
    fn what_is_no_key_of_a_ledger_is_refused() {
        let [key, other] = [1, 2].map(|seed| verifier(Algorithm::Note, seed).to_string());
        let witness = verifier(Algorithm::Cosignature, 3).to_string();
        let refused = |next: &str, previous: &str, name| {
            let (next_key, previous_key) = (next.to_owned(), previous.to_owned());
            let message = proto::SigningKeyChanged { next_key, previous_key };
            refused(proto::entry::Body::SigningKeyChanged(message), name);
        };
        for bad in ["", "x", &witness, &format!(" {key}"), &format!("{key}\n")] {
            refused(bad, &other, "signing_key_changed.next_key");
        }
        for bad in ["x", &witness, &format!("{other} "), &key] {
            refused(&key, bad, "signing_key_changed.previous_key");
        }
    }
}
