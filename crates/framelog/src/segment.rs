//! Segment files: their names, their header, and the index over one.
//!
//! A log is a sequence of segment files, each named by the index of its first frame in twenty digits:
//! `00000000000000000000.seg`. Frames (see `frame`) follow the header without gaps.
//!
//! ```text
//! byte  0          8         12     16       32      40             48               56       60
//!       | magic    | format  | kind | log id | first | first index  | bytes of the   | crc of |
//!       | FRAMELOG | u32 = 1 |      |        | index | before       | one before     | 0-55   |
//! ```
//!
//! All numbers are little endian; indexes, offsets and sizes are u64. The first segment has zero
//! for both fields "before". In the others, these fields show a missing segment or a wrong length when
//! a log is opened, from the headers alone. Header and name are durable before the first frame is
//! written.
//!
//! Beside a full segment lies `<first index>.idx`: where frames begin, one every
//! [`STRIDE_BYTES`] or so. It is disposable: never synced, checked before use, rebuilt from the
//! segment when missing or wrong; and a frame found through it must pass its own checks.
//!
//! ```text
//! byte  0          8         12     16       32      40      48        56      64      68       72
//!       | magic    | format  | kind | log id | first | end   | bytes   | pairs | crc   | crc of |
//!       | FRAMEIDX | u32 = 1 |      |        | index | index | of .seg | u64   | pairs | 0-67   |
//!
//!       then, for each pair:  | index u64 | offset u64 |
//! ```

use super::frame::{u32_at, u64_at};

/// Size of a segment's header.
pub(super) const HEADER_BYTES: u64 = 60;
/// The same, as the size of a buffer.
pub(super) const HEADER_LEN: usize = 60;
const MAGIC: &[u8; 8] = b"FRAMELOG";
const FORMAT: u32 = 1;

const INDEX_HEADER_LEN: usize = 72;
const INDEX_MAGIC: &[u8; 8] = b"FRAMEIDX";
/// Minimum distance between two frames in the index.
pub(super) const STRIDE_BYTES: u64 = 4_096;

/// The identity of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) kind: [u8; 4],
    pub(super) id: [u8; 16],
    /// CRC-32C of kind and id, the initial value of every other checksum.
    seed: u32,
}

impl Identity {
    pub(super) fn new(kind: [u8; 4], id: [u8; 16]) -> Self {
        Self { kind, id, seed: crc32c::crc32c_append(crc32c::crc32c(&kind), &id) }
    }

    /// CRC-32C of the identity, then `bytes`.
    pub(super) fn crc(&self, bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(self.seed, bytes)
    }
}

/// Name of the segment whose first frame has this index.
pub(super) fn segment_name(first_index: u64) -> String {
    format!("{first_index:020}.seg")
}

/// Name of the index beside a segment.
pub(super) fn index_name(first_index: u64) -> String {
    format!("{first_index:020}.idx")
}

/// First index of a segment file; none for any other file.
pub(super) fn parse_segment_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    let is_index = digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit());
    if is_index { digits.parse().ok() } else { None }
}

/// The header of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) identity: Identity,
    pub(super) first_index: u64,
    /// First index of the segment before.
    pub(super) before_first_index: u64,
    /// Size of the segment before.
    pub(super) before_bytes: u64,
}

/// Why bytes are not a valid segment header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum HeaderError {
    /// The checksum is wrong.
    Broken(&'static str),
    /// Intact, but of an unknown format.
    Format(u32),
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[..8].copy_from_slice(MAGIC);
        out[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        out[12..16].copy_from_slice(&self.identity.kind);
        out[16..32].copy_from_slice(&self.identity.id);
        out[32..40].copy_from_slice(&self.first_index.to_le_bytes());
        out[40..48].copy_from_slice(&self.before_first_index.to_le_bytes());
        out[48..56].copy_from_slice(&self.before_bytes.to_le_bytes());
        let crc = crc32c::crc32c(&out[..56]);
        out[56..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let bytes = bytes
            .get(..HEADER_LEN)
            .ok_or(HeaderError::Broken("the file ends inside the segment header"))?;
        if crc32c::crc32c(&bytes[..56]) != u32_at(bytes, 56) {
            return Err(HeaderError::Broken("the checksum of the segment header does not match"));
        }
        if &bytes[..8] != MAGIC {
            return Err(HeaderError::Broken("the segment header does not begin with FRAMELOG"));
        }
        let format = u32_at(bytes, 8);
        if format != FORMAT {
            return Err(HeaderError::Format(format));
        }
        let (mut kind, mut id) = ([0; 4], [0; 16]);
        kind.copy_from_slice(&bytes[12..16]);
        id.copy_from_slice(&bytes[16..32]);
        Ok(Self {
            identity: Identity::new(kind, id),
            first_index: u64_at(bytes, 32),
            before_first_index: u64_at(bytes, 40),
            before_bytes: u64_at(bytes, 48),
        })
    }
}

/// Where frames of one segment begin: the first, and then one every stride.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct FrameIndex {
    /// Index and offset, ascending in both.
    pairs: Vec<(u64, u64)>,
}

/// What an index must agree with to be used.
#[derive(Debug, Clone, Copy)]
pub(super) struct IndexOf<'a> {
    pub(super) identity: &'a Identity,
    pub(super) first_index: u64,
    pub(super) end_index: u64,
    pub(super) segment_bytes: u64,
}

impl FrameIndex {
    /// Adds a frame if it is far enough from the last one in the index.
    pub(super) fn note(&mut self, index: u64, offset: u64) {
        if self.pairs.last().is_none_or(|&(_, last)| offset >= last + STRIDE_BYTES) {
            self.pairs.push((index, offset));
        }
    }

    /// The last frame in the index that is not after `index`.
    pub(super) fn at_or_before(&self, index: u64) -> Option<(u64, u64)> {
        let end = self.pairs.partition_point(|&(kept, _)| kept <= index);
        self.pairs[..end].last().copied()
    }

    /// Offset of the first frame in the index that is not before `index`.
    pub(super) fn at_or_after(&self, index: u64) -> Option<u64> {
        let start = self.pairs.partition_point(|&(kept, _)| kept < index);
        self.pairs.get(start).map(|&(_, offset)| offset)
    }

    pub(super) fn encode(&self, of: IndexOf<'_>) -> Vec<u8> {
        let mut body = Vec::with_capacity(self.pairs.len() * 16);
        for (index, offset) in &self.pairs {
            body.extend(index.to_le_bytes());
            body.extend(offset.to_le_bytes());
        }
        let mut out = Vec::with_capacity(INDEX_HEADER_LEN + body.len());
        out.extend(INDEX_MAGIC);
        out.extend(FORMAT.to_le_bytes());
        out.extend(of.identity.kind);
        out.extend(of.identity.id);
        out.extend(of.first_index.to_le_bytes());
        out.extend(of.end_index.to_le_bytes());
        out.extend(of.segment_bytes.to_le_bytes());
        out.extend((self.pairs.len() as u64).to_le_bytes());
        out.extend(crc32c::crc32c(&body).to_le_bytes());
        out.extend(crc32c::crc32c(&out).to_le_bytes());
        out.append(&mut body);
        out
    }

    /// Reads an index; none unless it is intact and of exactly this segment.
    pub(super) fn decode(bytes: &[u8], of: IndexOf<'_>) -> Option<Self> {
        let (header, body) = bytes.split_at_checked(INDEX_HEADER_LEN)?;
        let pairs: Vec<_> =
            body.chunks_exact(16).map(|pair| (u64_at(pair, 0), u64_at(pair, 8))).collect();
        let index = Self { pairs };
        // Encoding it again and comparing the bytes checks every byte.
        let same = index.encode(of)[..INDEX_HEADER_LEN] == *header && body.len() % 16 == 0;
        let starts = index.pairs.first() == Some(&(of.first_index, HEADER_BYTES));
        let ascends = index.pairs.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1);
        let ends = index.pairs.last()?.0 < of.end_index && index.pairs.last()?.1 < of.segment_bytes;
        (same && starts && ascends && ends).then_some(index)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            identity: Identity::new(*b"TEST", [7; 16]),
            first_index: 300,
            before_first_index: 100,
            before_bytes: 4_711,
        }
    }

    #[test]
    fn names_are_twenty_digits() {
        assert_eq!(segment_name(42), "00000000000000000042.seg");
        for index in [0, 42, u64::MAX] {
            assert_eq!(parse_segment_name(&segment_name(index)), Some(index));
        }
        for other in [
            "42.seg",
            "00000000000000000042.idx",
            "00000000000000000042.seg.60.torn",
            "+0000000000000000042.seg",
            "99999999999999999999.seg",
            "",
        ] {
            assert_eq!(parse_segment_name(other), None, "{other:?}");
        }
    }

    #[test]
    fn headers_round_trip_and_every_flipped_bit_is_found() {
        let bytes = header().encode();
        assert_eq!(SegmentHeader::decode(&bytes), Ok(header()));
        for at in 0..bytes.len() {
            assert!(SegmentHeader::decode(&bytes[..at]).is_err());
            for bit in 0..8 {
                let mut broken = bytes;
                broken[at] ^= 1 << bit;
                assert!(SegmentHeader::decode(&broken).is_err(), "byte {at}, bit {bit}");
            }
        }
    }

    #[test]
    fn a_later_format_is_named() {
        let mut bytes = header().encode();
        bytes[8] = 2;
        let crc = crc32c::crc32c(&bytes[..56]);
        bytes[56..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&bytes), Err(HeaderError::Format(2)));
    }

    fn index_of(identity: &Identity) -> IndexOf<'_> {
        IndexOf { identity, first_index: 10, end_index: 1_000, segment_bytes: 1 << 20 }
    }

    fn index() -> FrameIndex {
        let mut index = FrameIndex::default();
        for n in 0..100 {
            index.note(10 + n, HEADER_BYTES + n * 1_000);
        }
        index
    }

    #[test]
    fn an_index_keeps_one_frame_a_stride() {
        let index = index();
        assert_eq!(index.pairs.len(), 20);
        assert_eq!(index.at_or_before(9), None);
        assert_eq!(index.at_or_before(10), Some((10, 60)));
        assert_eq!(index.at_or_before(14), Some((10, 60)));
        assert_eq!(index.at_or_before(15), Some((15, 5_060)));
        assert_eq!(index.at_or_after(14), Some(5_060));
        assert_eq!(index.at_or_after(106), None);
    }

    #[test]
    fn an_index_round_trips_and_every_flipped_bit_is_found() {
        let identity = Identity::new(*b"TEST", [7; 16]);
        let bytes = index().encode(index_of(&identity));
        assert_eq!(FrameIndex::decode(&bytes, index_of(&identity)), Some(index()));
        for at in 0..bytes.len() {
            assert_eq!(FrameIndex::decode(&bytes[..at], index_of(&identity)), None);
            let mut broken = bytes.clone();
            broken[at] ^= 0x10;
            assert_eq!(FrameIndex::decode(&broken, index_of(&identity)), None, "byte {at}");
        }
        let other = Identity::new(*b"TEST", [8; 16]);
        assert_eq!(FrameIndex::decode(&bytes, index_of(&other)), None);
        let longer = IndexOf { end_index: 1_001, ..index_of(&identity) };
        assert_eq!(FrameIndex::decode(&bytes, longer), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(SegmentHeader::decode(&bytes).is_err());
            let identity = Identity::new(*b"TEST", [7; 16]);
            prop_assert_eq!(FrameIndex::decode(&bytes, index_of(&identity)), None);
        }
    }
}
