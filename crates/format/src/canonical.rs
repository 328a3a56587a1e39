//! Canonical messages: decoding and encoding again gives the same bytes.
//!
//! So a message has one form. Fields stand in ascending order, each once; numbers have no more bytes than
//! they need; values that are the default are left out; and there is no field that the reader does not
//! know. What narrows a grant can not be dropped in silence.

use prost::Message;
use thiserror::Error;

/// Why bytes are not a canonical message.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CanonicalError {
    /// Not a message of this type.
    #[error("the bytes are no {message}: {problem}")]
    Malformed {
        /// Name of the message.
        message: String,
        /// What the decoder says.
        problem: String,
    },
    /// Another form than the canonical one, or a field that is not known.
    #[error(
        "the bytes are no canonical {message}: from byte {at} on, they have an unknown field, or \
         another order or form of fields"
    )]
    Form {
        /// Name of the message.
        message: String,
        /// The first byte that differs from the canonical form.
        at: usize,
    },
}

/// Decodes a canonical message.
///
/// # Errors
/// See [`CanonicalError`].
pub fn decode<M: Message + Default + prost::Name>(bytes: &[u8]) -> Result<M, CanonicalError> {
    let decoded = M::decode(bytes).map_err(|error| CanonicalError::Malformed {
        message: M::NAME.to_owned(),
        problem: error.to_string(),
    })?;
    let again = decoded.encode_to_vec();
    if again != bytes {
        let same = again.iter().zip(bytes).take_while(|(again, given)| again == given);
        return Err(CanonicalError::Form { message: M::NAME.to_owned(), at: same.count() });
    }
    Ok(decoded)
}

#[cfg(test)]
mod tests {
    use consent_ledger_proto::ledger::{Change, ChannelPut};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_other_form_of_the_same_message_is_refused() {
        let good = b"\x0a\x05email\x12\x01E\x18\x01";
        assert!(decode::<ChannelPut>(good).is_ok());
        let others: [&[u8]; 7] = [
            b"\x12\x01E\x0a\x05email\x18\x01",         // another order
            b"\x0a\x05email\x12\x01E\x18\x01\x18\x01", // a field twice
            b"\x0a\x05email\x12\x01E\x18\x00",         // a default
            b"\x0a\x05email\x12\x01E\x18\x81\x00",     // a longer number
            b"\x0a\x05email\x12\x01E\x18\x02",         // a bool that is neither
            b"\x0a\x05email\x12\x01E\x18\x01\x20\x01", // an unknown field
            b"\x0a\x85\x00email\x12\x01E\x18\x01",     // a longer length
        ];
        for other in others {
            let refused = decode::<ChannelPut>(other);
            assert!(matches!(refused, Err(CanonicalError::Form { .. })), "{other:02x?}");
        }
        let cut = decode::<ChannelPut>(&good[..3]);
        assert!(matches!(cut, Err(CanonicalError::Malformed { .. })));
    }

    proptest! {
        #[test]
        fn what_is_accepted_encodes_to_the_same_bytes(bytes: Vec<u8>) {
            if let Ok(change) = decode::<Change>(&bytes) {
                prop_assert_eq!(change.encode_to_vec(), bytes);
            }
        }
    }
}
