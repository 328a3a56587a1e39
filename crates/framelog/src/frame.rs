//! One frame: a payload between a checksummed header and an end mark.
//!
//! ```text
//! byte  0       1        5            13          17        21       25         25+n
//!       | 0x46  | n      | index      | place     | crc     | crc    | payload  | 0x0a |
//!       | 'F'   | u32 LE | u64 LE     | u32 LE    | payload | header | n bytes  | '\n' |
//! ```
//!
//! * `n`: size of the payload, never 0.
//! * `index`: of this frame in the whole log.
//! * `place`: how many frames of the same batch stand before this one. A batch is one write and
//!   one sync, and the next is written only when the sync has returned. So a frame whose batch
//!   began after index `i` proves that frame `i` was on stable storage once.
//! * `crc payload`: CRC-32C of kind, log id, `index` and payload.
//! * `crc header`: CRC-32C of kind, log id and bytes 0 to 20.
//!
//! The sums include the identity of the log and the index, so that a frame copied to another
//! place or from another log does not pass. Mark and end mark are never zero, and no single
//! flipped bit makes them so: wherever a frame meets a sector it leaves a byte that is not zero,
//! unless a whole sector of its payload is (see `walk` for why that matters).

use super::segment::Identity;

/// Size of the header.
pub(super) const HEADER_BYTES: usize = 25;
/// Overhead of a frame.
pub(super) const OVERHEAD_BYTES: usize = HEADER_BYTES + 1;
/// The first byte of a frame.
pub(super) const MARK: u8 = b'F';
const END_MARK: u8 = b'\n';

/// A header whose own checksum matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) payload_bytes: u32,
    pub(super) index: u64,
    pub(super) place: u32,
    payload_crc: u32,
}

impl Header {
    /// Reads a header; none if it is not an intact header of this log.
    pub(super) fn decode(identity: &Identity, bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEADER_BYTES] = bytes.get(..HEADER_BYTES)?.try_into().ok()?;
        let header = Self {
            payload_bytes: u32_at(bytes, 1),
            index: u64_at(bytes, 5),
            place: u32_at(bytes, 13),
            payload_crc: u32_at(bytes, 17),
        };
        let intact = bytes[0] == MARK
            && header.payload_bytes > 0
            && identity.crc(&bytes[..21]) == u32_at(bytes, 21);
        intact.then_some(header)
    }

    /// Size of the whole frame.
    pub(super) fn frame_bytes(&self) -> usize {
        self.payload_bytes as usize + OVERHEAD_BYTES
    }

    /// Index of the first frame of this frame's batch.
    pub(super) fn batch_start(&self) -> u64 {
        self.index.saturating_sub(self.place.into())
    }

    /// The payload of a whole frame.
    ///
    /// # Errors
    /// The problem with it.
    pub(super) fn payload<'a>(
        &self,
        identity: &Identity,
        frame: &'a [u8],
    ) -> Result<&'a [u8], &'static str> {
        let (body, end_mark) = frame[HEADER_BYTES..].split_at(self.payload_bytes as usize);
        if payload_crc(identity, self.index, body) != self.payload_crc {
            return Err("the checksum of the payload does not match");
        }
        if end_mark != [END_MARK] {
            return Err("the end mark of the frame is wrong");
        }
        Ok(body)
    }
}

/// Appends one frame to `out`. The caller keeps the payload within the log's limit.
pub(super) fn encode(
    out: &mut Vec<u8>,
    identity: &Identity,
    index: u64,
    place: u32,
    payload_bytes: u32,
    payload: &[u8],
) {
    let start = out.len();
    out.push(MARK);
    out.extend(payload_bytes.to_le_bytes());
    out.extend(index.to_le_bytes());
    out.extend(place.to_le_bytes());
    out.extend(payload_crc(identity, index, payload).to_le_bytes());
    let header_crc = identity.crc(&out[start..]);
    out.extend(header_crc.to_le_bytes());
    out.extend_from_slice(payload);
    out.push(END_MARK);
}

fn payload_crc(identity: &Identity, index: u64, payload: &[u8]) -> u32 {
    crc32c::crc32c_append(identity.crc(&index.to_le_bytes()), payload)
}

/// The number at `at`; the caller knows that it lies inside.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

/// The number at `at`; the caller knows that it lies inside.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(identity: &Identity, index: u64, place: u32, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode(&mut out, identity, index, place, payload.len().try_into().unwrap(), payload);
        out
    }

    fn decoded(identity: &Identity, frame: &[u8]) -> Option<(u64, u32, Vec<u8>)> {
        let header = Header::decode(identity, frame)?;
        (frame.len() == header.frame_bytes()).then_some(())?;
        let payload = header.payload(identity, frame).ok()?;
        Some((header.index, header.place, payload.to_vec()))
    }

    proptest! {
        #[test]
        fn frames_round_trip(
            kind: [u8; 4], id: [u8; 16], index: u64, place: u32,
            payload in proptest::collection::vec(any::<u8>(), 1..2_000),
        ) {
            let identity = Identity::new(kind, id);
            let frame = encoded(&identity, index, place, &payload);
            prop_assert_eq!(frame.len(), payload.len() + OVERHEAD_BYTES);
            prop_assert_eq!(decoded(&identity, &frame), Some((index, place, payload)));
        }

        #[test]
        fn arbitrary_bytes_are_no_frame(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(decoded(&Identity::new(*b"TEST", [7; 16]), &bytes), None);
        }
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let identity = Identity::new(*b"TEST", [7; 16]);
        let frame = encoded(&identity, 3, 1, b"some payload");
        for at in 0..frame.len() {
            for bit in 0..8 {
                let mut broken = frame.clone();
                broken[at] ^= 1 << bit;
                assert_eq!(decoded(&identity, &broken), None, "byte {at}, bit {bit}");
            }
        }
    }

    #[test]
    fn a_frame_of_another_log_does_not_pass() {
        let frame = encoded(&Identity::new(*b"TEST", [7; 16]), 3, 0, b"some payload");
        assert_eq!(decoded(&Identity::new(*b"TEST", [8; 16]), &frame), None);
        assert_eq!(decoded(&Identity::new(*b"TESU", [7; 16]), &frame), None);
    }

    #[test]
    fn a_payload_moved_to_another_index_does_not_pass() {
        let identity = Identity::new(*b"TEST", [7; 16]);
        let mut frame = encoded(&identity, 3, 0, b"some payload");
        frame[5] = 4;
        let crc = identity.crc(&frame[..21]);
        frame[21..25].copy_from_slice(&crc.to_le_bytes());
        let header = Header::decode(&identity, &frame).expect("the header itself is intact");
        assert!(header.payload(&identity, &frame).is_err());
    }
}
