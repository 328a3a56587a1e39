//! The envelope: an entry as bytes, before its body is decoded.
//!
//! The bytes are a protobuf message (`consent.v1.Entry`). They are hashed as they were written and
//! never re-encoded. An envelope gives index, hash of the entry before, time, and a body;
//! [`crate::entry`] reads the body. Only this module turns bytes into a body and back: a sealed
//! body is opened in [`Envelope::open`].
//!
//! Reading is strict: a body, field, value or key that this program does not know is an error, because
//! a state that leaves something out is not a state of this ledger. An entry has one encoding: bytes that
//! decode to an entry of other bytes are an error.

use prost::Message;

use crate::{
    domain::Millis,
    entry::{Body, Entry, EntryError, fields::fixed},
    proto,
};

/// An entry whose body is not decoded.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope {
    /// Position, from 0.
    pub index: u64,
    /// `hash(index - 1)`; zeros for entry 0.
    pub prev_hash: [u8; 32],
    /// When the ledger recorded it.
    pub recorded_at: Millis,
    body: proto::entry::Body,
}

impl Envelope {
    /// Reads an envelope.
    ///
    /// # Errors
    /// The bytes are not an entry, or lack a required field.
    pub fn decode(entry_bytes: &[u8]) -> Result<Self, EntryError> {
        let message = message(entry_bytes)?;
        Ok(Self {
            index: message.index,
            prev_hash: fixed("prev_hash", &message.prev_hash)?,
            recorded_at: Millis(message.recorded_at_ms),
            body: message.body.ok_or(EntryError::Body)?,
        })
    }

    /// Decodes the body.
    ///
    /// # Errors
    /// The first field that this program does not understand.
    pub fn open(self) -> Result<Entry, EntryError> {
        let Self { index, prev_hash, recorded_at, body } = self;
        Ok(Entry { index, prev_hash, recorded_at, body: Body::from_message(body)? })
    }
}

/// The message of an entry.
///
/// # Errors
/// The bytes are not a message, or not its one encoding.
pub fn message(entry_bytes: &[u8]) -> Result<proto::Entry, EntryError> {
    let message = proto::Entry::decode(entry_bytes)
        .map_err(|error| EntryError::Protobuf(error.to_string()))?;
    if message.encode_to_vec() == entry_bytes { Ok(message) } else { Err(EntryError::NotCanonical) }
}

/// The bytes of an entry.
#[must_use]
pub fn encode(entry: &Entry) -> Vec<u8> {
    let message = proto::Entry {
        index: entry.index,
        prev_hash: entry.prev_hash.to_vec(),
        recorded_at_ms: entry.recorded_at.0,
        body: Some(entry.body.kind().message()),
    };
    message.encode_to_vec()
}

/// Reads an entry and opens it.
///
/// # Errors
/// The first field that this program does not understand.
pub fn decode(entry_bytes: &[u8]) -> Result<Entry, EntryError> {
    Envelope::decode(entry_bytes)?.open()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::entry::tests::any_entry;

    proptest! {
        #[test]
        fn every_entry_reads_back(entry in any_entry()) {
            prop_assert_eq!(decode(&encode(&entry)), Ok(entry));
        }

        #[test]
        fn a_cut_entry_is_never_read_as_the_whole(entry in any_entry(), cut: prop::sample::Index) {
            let bytes = encode(&entry);
            prop_assert_ne!(decode(&bytes[..cut.index(bytes.len())]), Ok(entry));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in any::<Vec<u8>>()) {
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn an_entry_has_one_encoding() {
        let put = |key: &str| {
            proto::entry::Body::ChannelPut(proto::ChannelPut {
                key: key.to_owned(),
                ..Default::default()
            })
        };
        let entry =
            |body| proto::Entry { index: 7, prev_hash: vec![1; 32], recorded_at_ms: 5, body };
        let (head, one) = (entry(None).encode_to_vec(), entry(Some(put("email"))).encode_to_vec());
        let body =
            |key: &str| proto::Entry { body: Some(put(key)), ..Default::default() }.encode_to_vec();
        assert_eq!(one, [&head[..], &body("email")].concat());
        assert!(decode(&one).is_ok());
        for (what, bytes) in [
            ("two bodies", [&one[..], &body("post")].concat()),
            ("the same body twice", [&one[..], &body("email")].concat()),
            ("an unknown field", [&one[..], &[0xf8, 0x7f, 1]].concat()),
            ("an unknown field of the body", {
                let (length, unknown) = (body("email")[1], [0xf8, 0x7f, 1]);
                [&head[..], &[body("email")[0], length + 3], &body("email")[2..], &unknown].concat()
            }),
            ("a field twice", [&[0x08, 7], &one[..]].concat()),
            ("fields out of order", [&body("email")[..], &head].concat()),
            ("a default that is written", [&head[..], &[0x20, 0], &body("email")].concat()),
            ("a long varint", [&[0x08, 0x87, 0], &one[2..]].concat()),
        ] {
            assert_eq!(decode(&bytes), Err(EntryError::NotCanonical), "{what}");
        }
    }

    #[test]
    fn a_missing_body_and_a_short_hash_are_errors() {
        let mut entry = proto::Entry { prev_hash: vec![0; 32], ..Default::default() };
        assert_eq!(decode(&entry.encode_to_vec()), Err(EntryError::Body));
        entry.prev_hash.pop();
        entry.body = Some(proto::entry::Body::ChannelPut(proto::ChannelPut {
            key: "email".to_owned(),
            ..Default::default()
        }));
        let short = EntryError::Length { field: "prev_hash", want: 32, got: 31 };
        assert_eq!(decode(&entry.encode_to_vec()), Err(short));
    }
}
