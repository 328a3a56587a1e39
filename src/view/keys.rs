//! Every key of the view's rows in the index, and its bytes. The view alone changes these rows; the
//! vault has rows of its own in the same index ([`crate::vault`]), under other first bytes.
//!
//! | first byte | rest of the key | value |
//! | --- | --- | --- |
//! | `01` state | subject_ref (16) | the subject's state |
//! | `02` history | subject_ref (16), index (8, big-endian) | nothing |
//! | `03` idempotency | mark (16) | index (8, big-endian) |
//! | `04` catalogue | index (8, big-endian) | nothing |
//! | `05` use | subject_ref (16), index (8, big-endian) | nothing |
//! | `06` due | moment (8), subject_ref (16), index of the grant (8), big-endian | nothing |
//! | `07` confirmation | token hash (32) | index of the act (8, big-endian) |
//! | `08` confirmed | index of the act (8, big-endian) | index of the confirmation (8, big-endian) |
//! | `09` use of a cell | subject_ref (16), hash of the cell (8), moment (8, newest first), index (8), big-endian | nothing |
//! | `0a` subscription | index of its creation (8, big-endian) | its acknowledgements |
//! | `0b` settled | subscription (8), shard (4), end of a range (8), big-endian | start, entry, time, whether it failed |
//! | `0c` dead letter | subscription (8), shard (4), index (8), big-endian | entry, time, attempts, status |
//! | `0d` tag | tag (16), after the first of a lane, landed or expected next | subject_ref (16), lane (1), number (8, big-endian) |
//! | `0e` landed | subject_ref (16), lane (1) | number of its tags in that lane (8, big-endian) |
//! | `0f` reference | reference of a record (16) | index (8, big-endian) |
//! | `ff 'v'` owner | | format (4, big-endian), ledger id (16) |
//! | `ff 'a'` applied | | number of ledger entries applied (8, big-endian), chain hash of the last (32) |
//!
//! A mark (`ff`) is put with the rows that it covers, or after them. The index keeps whole puts, in their
//! order, so after a crash a mark never covers rows that are not there.

/// Whether rows with a key like this are looked up by their whole key, and may not be there.
#[must_use]
pub fn is_looked_up(key: &[u8]) -> bool {
    // History, catalogue, uses, due times, settled ranges and dead letters are listed.
    !matches!(key.first(), Some(0x02 | 0x04..=0x06 | 0x09 | 0x0b | 0x0c))
}

/// Whether keys like this one are listed by a prefix.
#[must_use]
pub fn is_listed(key: &[u8]) -> bool {
    // States of all data subjects, and subscriptions, are both listed and looked up.
    matches!(key.first(), Some(0x01 | 0x02 | 0x04..=0x06 | 0x09..=0x0c))
}

/// The bytes of a subject's name in the ledger.
pub type SubjectBytes = [u8; 16];

/// A key of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Key {
    /// The state of a subject.
    State(SubjectBytes),
    /// An act of a subject.
    History(SubjectBytes, u64),
    /// The entry that an idempotency key belongs to.
    Idempotency([u8; 16]),
    /// An entry about the catalogue.
    Catalog(u64),
    /// A use of a subject's data.
    Use(SubjectBytes, u64),
    /// A grant that expires: the moment, in milliseconds since the Unix epoch, the subject, and the index
    /// of its act.
    Due(i64, SubjectBytes, u64),
    /// The act that a confirmation token is of.
    Confirmation([u8; 32]),
    /// The confirmation of an act.
    Confirmed(u64),
    /// A use of a subject's data for a cell: the subject, the hash of purpose and channel, the moment, in
    /// milliseconds since the Unix epoch, and the index. The newest sorts first.
    UseAt(SubjectBytes, u64, i64, u64),
    /// A durable subscription, by the index of its creation.
    Subscription(u64),
    /// A range of indexes that one shard of a subscription acknowledged or gave up: subscription, shard,
    /// and the end of the range.
    Settled(u64, u32, u64),
    /// An event that was given up: subscription, shard, and its index.
    DeadLetter(u64, u32, u64),
    /// Whose a tag is.
    Tag([u8; 16]),
    /// How many tags of a subject have landed in a lane: 0 for records, 1 for uses.
    Landed(SubjectBytes, u8),
    /// The entry with a record, by the record's reference.
    Reference([u8; 16]),
    /// The ledger that the index belongs to.
    Owner,
    /// The number of entries that the view has applied.
    Applied,
}

impl Key {
    /// The key's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(41);
        match self {
            Self::State(subject) => {
                bytes.push(0x01);
                bytes.extend_from_slice(subject);
            }
            Self::History(subject, index) => {
                bytes.push(0x02);
                bytes.extend_from_slice(subject);
                bytes.extend_from_slice(&index.to_be_bytes());
            }
            Self::Idempotency(hash) => {
                bytes.push(0x03);
                bytes.extend_from_slice(hash);
            }
            Self::Catalog(index) => {
                bytes.push(0x04);
                bytes.extend_from_slice(&index.to_be_bytes());
            }
            Self::Use(subject, index) => {
                bytes.push(0x05);
                bytes.extend_from_slice(subject);
                bytes.extend_from_slice(&index.to_be_bytes());
            }
            Self::Due(at_ms, subject, index) => {
                bytes.push(0x06);
                bytes.extend_from_slice(&ordered(*at_ms).to_be_bytes());
                bytes.extend_from_slice(subject);
                bytes.extend_from_slice(&index.to_be_bytes());
            }
            Self::Confirmation(hash) => {
                bytes.push(0x07);
                bytes.extend_from_slice(hash);
            }
            Self::Confirmed(index) => {
                bytes.push(0x08);
                bytes.extend_from_slice(&index.to_be_bytes());
            }
            Self::UseAt(subject, cell, at_ms, index) => {
                bytes.push(0x09);
                bytes.extend_from_slice(subject);
                bytes.extend_from_slice(&cell.to_be_bytes());
                bytes.extend_from_slice(&(!ordered(*at_ms)).to_be_bytes());
                bytes.extend_from_slice(&index.to_be_bytes());
            }
            Self::Subscription(id) => {
                bytes.push(0x0a);
                bytes.extend_from_slice(&id.to_be_bytes());
            }
            Self::Settled(id, shard, index) | Self::DeadLetter(id, shard, index) => {
                bytes.push(if matches!(self, Self::Settled(..)) { 0x0b } else { 0x0c });
                bytes.extend_from_slice(&id.to_be_bytes());
                bytes.extend_from_slice(&shard.to_be_bytes());
                bytes.extend_from_slice(&index.to_be_bytes());
            }
            Self::Tag(tag) => {
                bytes.push(0x0d);
                bytes.extend_from_slice(tag);
            }
            Self::Landed(subject, lane) => {
                bytes.push(0x0e);
                bytes.extend_from_slice(subject);
                bytes.push(*lane);
            }
            Self::Reference(reference) => {
                bytes.push(0x0f);
                bytes.extend_from_slice(reference);
            }
            Self::Owner => bytes.extend_from_slice(b"\xffv"),
            Self::Applied => bytes.extend_from_slice(b"\xffa"),
        }
        bytes
    }

    /// Reads a key; none if the bytes are no key.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (&tag, rest) = bytes.split_first()?;
        Some(match tag {
            0x01 => Self::State(rest.try_into().ok()?),
            0x02 => {
                let (subject, index) = rest.split_first_chunk::<16>()?;
                Self::History(*subject, u64::from_be_bytes(index.try_into().ok()?))
            }
            0x03 => Self::Idempotency(rest.try_into().ok()?),
            0x04 => Self::Catalog(u64::from_be_bytes(rest.try_into().ok()?)),
            0x05 => {
                let (subject, index) = rest.split_first_chunk::<16>()?;
                Self::Use(*subject, u64::from_be_bytes(index.try_into().ok()?))
            }
            0x06 => {
                let (at_ms, rest) = rest.split_first_chunk::<8>()?;
                let (subject, index) = rest.split_first_chunk::<16>()?;
                let index = u64::from_be_bytes(index.try_into().ok()?);
                Self::Due(unordered(u64::from_be_bytes(*at_ms)), *subject, index)
            }
            0x07 => Self::Confirmation(rest.try_into().ok()?),
            0x08 => Self::Confirmed(u64::from_be_bytes(rest.try_into().ok()?)),
            0x09 => {
                let (subject, rest) = rest.split_first_chunk::<16>()?;
                let (cell, rest) = rest.split_first_chunk::<8>()?;
                let (at_ms, index) = rest.split_first_chunk::<8>()?;
                let at_ms = unordered(!u64::from_be_bytes(*at_ms));
                let index = u64::from_be_bytes(index.try_into().ok()?);
                Self::UseAt(*subject, u64::from_be_bytes(*cell), at_ms, index)
            }
            0x0a => Self::Subscription(u64::from_be_bytes(rest.try_into().ok()?)),
            0x0b | 0x0c => {
                let (id, rest) = rest.split_first_chunk::<8>()?;
                let (shard, index) = rest.split_first_chunk::<4>()?;
                let id = u64::from_be_bytes(*id);
                let shard = u32::from_be_bytes(*shard);
                let index = u64::from_be_bytes(index.try_into().ok()?);
                if tag == 0x0b {
                    Self::Settled(id, shard, index)
                } else {
                    Self::DeadLetter(id, shard, index)
                }
            }
            0x0d => Self::Tag(rest.try_into().ok()?),
            0x0e => {
                let (subject, lane) = rest.split_first_chunk::<16>()?;
                let [lane] = lane else { return None };
                Self::Landed(*subject, *lane)
            }
            0x0f => Self::Reference(rest.try_into().ok()?),
            0xff => match rest {
                b"v" => Self::Owner,
                b"a" => Self::Applied,
                _ => return None,
            },
            _ => return None,
        })
    }
}

/// A moment as a number that sorts like it.
fn ordered(at_ms: i64) -> u64 {
    at_ms.cast_unsigned() ^ (1 << 63)
}

fn unordered(stored: u64) -> i64 {
    (stored ^ (1 << 63)).cast_signed()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_key() -> impl Strategy<Value = Key> {
        let subject = any::<SubjectBytes>();
        prop_oneof![
            subject.prop_map(Key::State),
            (subject, any::<u64>()).prop_map(|(s, i)| Key::History(s, i)),
            any::<[u8; 16]>().prop_map(Key::Idempotency),
            any::<u64>().prop_map(Key::Catalog),
            (subject, any::<u64>()).prop_map(|(s, i)| Key::Use(s, i)),
            (any::<i64>(), subject, any::<u64>()).prop_map(|(at, s, i)| Key::Due(at, s, i)),
            any::<[u8; 32]>().prop_map(Key::Confirmation),
            any::<u64>().prop_map(Key::Confirmed),
            (subject, any::<u64>(), any::<i64>(), any::<u64>())
                .prop_map(|(s, cell, at, i)| Key::UseAt(s, cell, at, i)),
            any::<u64>().prop_map(Key::Subscription),
            any::<(u64, u32, u64)>().prop_map(|(id, shard, end)| Key::Settled(id, shard, end)),
            any::<(u64, u32, u64)>().prop_map(|(id, shard, at)| Key::DeadLetter(id, shard, at)),
            any::<[u8; 16]>().prop_map(Key::Tag),
            (subject, any::<u8>()).prop_map(|(s, lane)| Key::Landed(s, lane)),
            any::<[u8; 16]>().prop_map(Key::Reference),
            Just(Key::Owner),
            Just(Key::Applied),
        ]
    }

    proptest! {
        #[test]
        fn every_key_reads_back(key in any_key()) {
            prop_assert_eq!(Key::decode(&key.encode()), Some(key));
        }

        #[test]
        fn other_lengths_are_no_keys(key in any_key(), cut in 0usize..41) {
            let mut bytes = key.encode();
            bytes.push(0);
            prop_assert_eq!(Key::decode(&bytes), None);
            bytes.truncate(cut.min(bytes.len() - 2));
            prop_assert_eq!(Key::decode(&bytes), None);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in any::<Vec<u8>>()) {
            if let Some(key) = Key::decode(&bytes) {
                prop_assert_eq!(key.encode(), bytes);
            }
        }

        #[test]
        fn marks_sort_after_rows_and_history_sorts_by_index(
            key in any_key(), subject in any::<[u8; 16]>(), a: u64, b: u64,
        ) {
            let mark = matches!(key, Key::Owner | Key::Applied);
            prop_assert_eq!(key.encode() > vec![0xfe; 42], mark);
            let at = |index| Key::History(subject, index).encode();
            prop_assert_eq!(at(a).cmp(&at(b)), a.cmp(&b));
        }

        #[test]
        fn uses_of_a_cell_sort_by_moment_newest_first(
            subject in any::<[u8; 16]>(), cell: u64, a: (i64, u64), b: (i64, u64),
        ) {
            let key = |(at, index)| Key::UseAt(subject, cell, at, index).encode();
            prop_assert_eq!(key(a).cmp(&key(b)), b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
            prop_assert_eq!(&key(a)[..25], &key(b)[..25]);
        }

        #[test]
        fn due_rows_sort_by_moment(subject in any::<[u8; 16]>(), a: i64, b: i64) {
            let at = |ms| Key::Due(ms, subject, 7).encode();
            prop_assert_eq!(at(a).cmp(&at(b)), a.cmp(&b));
        }
    }
}
