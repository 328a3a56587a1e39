//! Filters that say that a run does not have a key.
//!
//! A filter is blocks of 512 bits. A key has a block, and some bits in it. The hash of a key is keyed, so
//! nobody can choose keys that are all in one block.

/// Bits for each key.
const BITS_A_KEY: u64 = 12;
const BLOCK_BITS: u64 = 512;
const BLOCK_BYTES: usize = 64;
/// Bits that a key sets.
const PROBES: u32 = 6;

/// The hash of a key, for the filters of all runs.
#[derive(Debug, Clone, Copy)]
pub struct KeyHash {
    block: u64,
    bits: u64,
}

impl KeyHash {
    pub fn of(filter_key: &[u8; 32], key: &[u8]) -> Self {
        let hash = blake3::keyed_hash(filter_key, key);
        let (block, rest) = hash.as_bytes().split_first_chunk::<8>().expect("32 bytes");
        let (bits, _) = rest.split_first_chunk::<8>().expect("24 bytes");
        Self { block: u64::from_le_bytes(*block), bits: u64::from_le_bytes(*bits) }
    }

    /// Byte and bit of each probe, in a filter of so many bytes.
    fn probes(self, bytes: usize) -> impl Iterator<Item = (usize, u8)> {
        let blocks = (bytes / BLOCK_BYTES) as u128;
        // The block is the hash scaled to their number: less than `blocks`.
        let block = (u128::from(self.block) * blocks) >> 64;
        let start = usize::try_from(block).unwrap_or(0) * BLOCK_BYTES;
        (0..PROBES).map(move |probe| {
            // Nine bits of the hash are a place in the block.
            let place = (self.bits >> (9 * probe)) % BLOCK_BITS;
            let byte = start + usize::try_from(place / 8).unwrap_or(0);
            (byte, 1 << (place % 8))
        })
    }
}

/// The filter of these keys; empty if there are none.
pub fn build(keys: &[KeyHash]) -> Vec<u8> {
    let blocks = (keys.len() as u64 * BITS_A_KEY).div_ceil(BLOCK_BITS);
    let mut filter = vec![0; usize::try_from(blocks).unwrap_or(0) * BLOCK_BYTES];
    for key in keys {
        for (byte, bit) in key.probes(filter.len()) {
            filter[byte] |= bit;
        }
    }
    filter
}

/// Whether a filter may have been made with a key. It never denies one that it was.
pub fn may_have(filter: &[u8], key: KeyHash) -> bool {
    filter.len() >= BLOCK_BYTES
        && key.probes(filter.len()).all(|(byte, bit)| filter[byte] & bit != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_has_all_its_keys_and_few_others() {
        let hash = |n: u32| KeyHash::of(&[7; 32], &n.to_be_bytes());
        let keys: Vec<_> = (0..20_000).map(hash).collect();
        let filter = build(&keys);
        assert!(keys.iter().all(|key| may_have(&filter, *key)));
        let others = (20_000..120_000).filter(|n| may_have(&filter, hash(*n))).count();
        assert!(others < 1_500, "{others} of 100,000");
        assert!(!may_have(&build(&[]), hash(0)));
    }
}
