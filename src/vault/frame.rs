//! The frames of the vault, and their bytes.
//!
//! The bytes are protobuf messages that no API uses.

use prost::{Message, Oneof};
use thiserror::Error;

use crate::domain::{Sealed, SubjectRef};

/// Version of the vault's format.
pub(super) const FORMAT_VERSION: u32 = 1;

/// A frame of the vault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    /// Opens the vault. Frame 0, and only frame 0.
    Opened(Opened),
    /// A subject.
    Subject(SubjectFrame),
}

/// Opens the vault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Opened {
    /// The ledger that the vault belongs to.
    pub ledger_id: [u8; 16],
    /// The vault's master secret (32 bytes), sealed under the key-encryption key.
    pub master: Sealed,
}

/// A subject: its identity, its reference in the ledger, and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SubjectFrame {
    /// Reference in the ledger.
    pub subject_ref: SubjectRef,
    /// Keyed hash of the identity.
    pub lookup: [u8; 32],
    /// The subject's key (32 bytes), sealed under the key-encryption key.
    pub key: Sealed,
    /// `namespace:id`, sealed under the subject's key.
    pub identity: Sealed,
}

/// Why bytes are not a frame of a vault.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FrameError {
    /// Not the message of a frame, or a field is missing or has the wrong length.
    #[error("the bytes are no frame of a vault: {0}")]
    Malformed(String),
    /// Another encoding than the one that writers use.
    #[error("the bytes are not the encoding of the frame that they decode to")]
    NotCanonical,
    /// An unknown format.
    #[error("vault format {0} is not known, this program reads {FORMAT_VERSION}")]
    Format(u32),
}

#[derive(Clone, PartialEq, Message)]
struct FrameMessage {
    #[prost(oneof = "BodyMessage", tags = "1, 2")]
    body: Option<BodyMessage>,
}

#[derive(Clone, PartialEq, Oneof)]
enum BodyMessage {
    #[prost(message, tag = "1")]
    Opened(OpenedMessage),
    #[prost(message, tag = "2")]
    Subject(SubjectMessage),
}

#[derive(Clone, PartialEq, Message)]
struct OpenedMessage {
    #[prost(bytes = "vec", tag = "1")]
    ledger_id: Vec<u8>,
    #[prost(uint32, tag = "2")]
    format_version: u32,
    #[prost(message, optional, tag = "3")]
    master: Option<SealedMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct SubjectMessage {
    #[prost(bytes = "vec", tag = "1")]
    subject_ref: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    lookup: Vec<u8>,
    #[prost(message, optional, tag = "3")]
    key: Option<SealedMessage>,
    #[prost(message, optional, tag = "4")]
    identity: Option<SealedMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct SealedMessage {
    #[prost(bytes = "vec", tag = "1")]
    salt: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    ciphertext: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    commitment: Vec<u8>,
}

impl Frame {
    /// The frame's bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        let body = match self {
            Self::Opened(opened) => BodyMessage::Opened(OpenedMessage {
                ledger_id: opened.ledger_id.to_vec(),
                format_version: FORMAT_VERSION,
                master: Some((&opened.master).into()),
            }),
            Self::Subject(subject) => BodyMessage::Subject(SubjectMessage {
                subject_ref: subject.subject_ref.0.to_vec(),
                lookup: subject.lookup.to_vec(),
                key: Some((&subject.key).into()),
                identity: Some((&subject.identity).into()),
            }),
        };
        FrameMessage { body: Some(body) }.encode_to_vec()
    }

    /// Reads a frame.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let message =
            FrameMessage::decode(bytes).map_err(|e| FrameError::Malformed(e.to_string()))?;
        // An unknown field or a second body would be passed over in silence.
        if message.encode_to_vec() != bytes {
            return Err(FrameError::NotCanonical);
        }
        match message.body.ok_or_else(|| malformed("body"))? {
            BodyMessage::Opened(opened) if opened.format_version != FORMAT_VERSION => {
                Err(FrameError::Format(opened.format_version))
            }
            BodyMessage::Opened(opened) => Ok(Self::Opened(Opened {
                ledger_id: fixed("ledger_id", &opened.ledger_id)?,
                master: sealed("master", opened.master)?,
            })),
            BodyMessage::Subject(subject) => Ok(Self::Subject(SubjectFrame {
                subject_ref: SubjectRef(fixed("subject_ref", &subject.subject_ref)?),
                lookup: fixed("lookup", &subject.lookup)?,
                key: sealed("key", subject.key)?,
                identity: sealed("identity", subject.identity)?,
            })),
        }
    }
}

impl From<&Sealed> for SealedMessage {
    fn from(sealed: &Sealed) -> Self {
        Self {
            salt: sealed.salt.to_vec(),
            ciphertext: sealed.ciphertext.clone(),
            commitment: sealed.commitment.to_vec(),
        }
    }
}

fn sealed(field: &str, message: Option<SealedMessage>) -> Result<Sealed, FrameError> {
    let message = message.ok_or_else(|| malformed(field))?;
    Ok(Sealed {
        salt: fixed(field, &message.salt)?,
        ciphertext: message.ciphertext,
        commitment: fixed(field, &message.commitment)?,
    })
}

fn fixed<const N: usize>(field: &str, bytes: &[u8]) -> Result<[u8; N], FrameError> {
    bytes.try_into().map_err(|_| malformed(field))
}

fn malformed(field: &str) -> FrameError {
    FrameError::Malformed(format!("{field} is missing or has the wrong length"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_sealed() -> impl Strategy<Value = Sealed> {
        any::<([u8; 16], Vec<u8>, [u8; 32])>().prop_map(|(salt, ciphertext, commitment)| Sealed {
            salt,
            ciphertext,
            commitment,
        })
    }

    fn any_frame() -> impl Strategy<Value = Frame> {
        let opened = (any::<[u8; 16]>(), any_sealed())
            .prop_map(|(ledger_id, master)| Frame::Opened(Opened { ledger_id, master }));
        let subject = (any::<[u8; 16]>(), any::<[u8; 32]>(), any_sealed(), any_sealed()).prop_map(
            |(subject_ref, lookup, key, identity)| {
                let subject_ref = SubjectRef(subject_ref);
                Frame::Subject(SubjectFrame { subject_ref, lookup, key, identity })
            },
        );
        prop_oneof![opened, subject]
    }

    proptest! {
        #[test]
        fn every_frame_reads_back(frame in any_frame()) {
            prop_assert_eq!(Frame::decode(&frame.encode()), Ok(frame));
        }

        #[test]
        fn a_cut_frame_is_never_read_as_the_whole(frame in any_frame(), cut: prop::sample::Index) {
            let bytes = frame.encode();
            prop_assert_ne!(Frame::decode(&bytes[..cut.index(bytes.len())]), Ok(frame));
        }

        #[test]
        fn a_second_body_and_an_unknown_field_are_refused(one in any_frame(), other in any_frame()) {
            let two = [one.encode(), other.encode()].concat();
            prop_assert_eq!(Frame::decode(&two), Err(FrameError::NotCanonical));
            let more = [&one.encode()[..], &[0xf8, 0x7f, 1]].concat();
            prop_assert_eq!(Frame::decode(&more), Err(FrameError::NotCanonical));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = Frame::decode(&bytes);
        }
    }
}
