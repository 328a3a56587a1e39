//! Every key of the vault's rows in the index, and its bytes. Only the vault changes these rows; the
//! view has other rows in the same index.
//!
//! | first byte | rest of the key | value |
//! | --- | --- | --- |
//! | `10` lookup | identity hash (32) | subject_ref (16), vault frame (8, big-endian) |
//! | `11` frame | subject_ref (16) | vault frame (8, big-endian) |
//! | `12` first tag | tag (16) | subject_ref (16), lane (1) |
//! | `ff 'w'` indexed | | number of vault frames indexed (8, big-endian), the MAC of the last (32) |
//!
//! The mark (`ff`) is put with the rows that it counts. The index keeps whole puts, in their order.

/// A key of the vault's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// A subject by the keyed hash of its identity.
    Lookup([u8; 32]),
    /// The vault's frame of a subject.
    Frame([u8; 16]),
    /// The subject whose first tag in a lane this is.
    FirstTag([u8; 16]),
    /// The number of frames whose rows are in the index.
    Indexed,
}

impl Key {
    /// The key's bytes, which are never decoded.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Lookup(hash) => [&[0x10], hash.as_slice()].concat(),
            Self::Frame(subject) => [&[0x11], subject.as_slice()].concat(),
            Self::FirstTag(tag) => [&[0x12], tag.as_slice()].concat(),
            Self::Indexed => b"\xffw".to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_sorts_after_every_row() {
        let rows = [Key::Lookup([0xff; 32]), Key::Frame([0xff; 16]), Key::FirstTag([0xff; 16])];
        assert!(rows.iter().all(|row| row.encode() < Key::Indexed.encode()));
    }

    #[test]
    fn rows_have_the_bytes_of_their_table() {
        assert_eq!(Key::Lookup([7; 32]).encode(), [&[0x10][..], &[7; 32]].concat());
        assert_eq!(Key::Frame([7; 16]).encode(), [&[0x11][..], &[7; 16]].concat());
        assert_eq!(Key::FirstTag([7; 16]).encode(), [&[0x12][..], &[7; 16]].concat());
    }
}
