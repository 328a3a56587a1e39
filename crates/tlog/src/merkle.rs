//! The Merkle tree of RFC 6962, section 2, over SHA-256.
//!
//! A *subtree* is complete: the subtree of height h and number n covers the leaves from `n * 2^h` to
//! before `(n + 1) * 2^h`. Its subtrees are enough to compute every root and proof of a tree. The caller
//! supplies them, from memory, tiles or files.

use sha2::{Digest, Sha256};
use thiserror::Error;

/// A SHA-256 hash.
pub type Hash = [u8; 32];

/// Maximum number of hashes in a proof.
pub const PROOF_HASHES_MAX: usize = 64;

/// The root of a tree without leaves.
#[must_use]
pub fn empty_root() -> Hash {
    Sha256::digest(b"").into()
}

/// The hash of a leaf.
#[must_use]
pub fn leaf_hash(leaf: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(leaf).finalize().into()
}

/// The hash of a node with two subtrees.
#[must_use]
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    // One update call: half of the hashes of a tree are of nodes.
    let mut node = [1; 65];
    node[1..33].copy_from_slice(left);
    node[33..].copy_from_slice(right);
    Sha256::digest(node).into()
}

/// The smallest set of subtrees that covers a range of leaves (a compact range). It is enough to add
/// leaves at the end, to join two adjacent ranges, and to compute the root of a range from leaf 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    begin: u64,
    end: u64,
    /// Height and hash, from left to right.
    subtrees: Vec<(u32, Hash)>,
}

impl Range {
    /// An empty range before leaf `begin`.
    #[must_use]
    pub fn empty(begin: u64) -> Self {
        Self { begin, end: begin, subtrees: Vec::new() }
    }

    /// The range of the first `size` leaves, from the hashes of its subtrees.
    ///
    /// # Errors
    /// The errors of `subtree`.
    pub fn of_size<E>(
        size: u64,
        mut subtree: impl FnMut(u32, u64) -> Result<Hash, E>,
    ) -> Result<Self, E> {
        let mut range = Self::empty(0);
        for height in (0..u64::BITS).rev().filter(|height| size >> height & 1 == 1) {
            let hash = subtree(height, range.end >> height)?;
            range.push_subtree(height, hash, &mut |_, _| {});
        }
        Ok(range)
    }

    /// The first leaf.
    #[must_use]
    pub fn begin(&self) -> u64 {
        self.begin
    }

    /// The leaf after the last.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Adds a leaf.
    pub fn push(&mut self, leaf: Hash) {
        self.push_subtree(0, leaf, &mut |_, _| {});
    }

    /// Adds a leaf, and reports height and hash of every subtree that it completes, from below.
    pub fn push_telling(&mut self, leaf: Hash, completed: &mut dyn FnMut(u32, &Hash)) {
        self.push_subtree(0, leaf, completed);
    }

    /// Adds the leaves of a range. Returns whether it begins where this one ends.
    #[must_use]
    pub fn append(&mut self, other: &Self) -> bool {
        self.append_telling(other, &mut |_, _| {})
    }

    /// As [`Self::append`], and reports height and hash of every new subtree with leaves of both ranges.
    /// There is at most one of each height.
    #[must_use]
    pub fn append_telling(&mut self, other: &Self, completed: &mut dyn FnMut(u32, &Hash)) -> bool {
        if other.begin != self.end {
            return false;
        }
        for (height, hash) in &other.subtrees {
            self.push_subtree(*height, *hash, completed);
        }
        true
    }

    fn push_subtree(&mut self, height: u32, hash: Hash, completed: &mut dyn FnMut(u32, &Hash)) {
        debug_assert_eq!(self.end & ((1 << height) - 1), 0, "subtrees stand at multiples");
        self.end += 1 << height;
        let (mut height, mut hash) = (height, hash);
        // Two subtrees are joined if they are the halves of a larger one.
        while let Some(&(left_height, left)) = self.subtrees.last()
            && left_height == height
            && self.end & ((2 << height) - 1) == 0
        {
            self.subtrees.pop();
            hash = node_hash(&left, &hash);
            height += 1;
            completed(height, &hash);
        }
        self.subtrees.push((height, hash));
    }

    /// The root of the tree over these leaves; none unless they begin with leaf 0.
    #[must_use]
    pub fn root(&self) -> Option<Hash> {
        if self.begin != 0 {
            return None;
        }
        let mut subtrees = self.subtrees.iter().rev().map(|(_, hash)| *hash);
        let last = subtrees.next().unwrap_or_else(empty_root);
        Some(subtrees.fold(last, |right, left| node_hash(&left, &right)))
    }
}

/// The hash of the leaves from `start` to before `end`, which form one node of a tree.
fn range_hash<E>(
    (start, end): (u64, u64),
    subtree: &mut impl FnMut(u32, u64) -> Result<Hash, E>,
) -> Result<Hash, E> {
    let leaves = end - start;
    if leaves.is_power_of_two() {
        let height = leaves.trailing_zeros();
        return subtree(height, start >> height);
    }
    let middle = start + split(leaves);
    let left = range_hash((start, middle), subtree)?;
    Ok(node_hash(&left, &range_hash((middle, end), subtree)?))
}

/// The greatest power of two that is less than a number of leaves, which is at least 2.
fn split(leaves: u64) -> u64 {
    1 << (u64::BITS - 1 - (leaves - 1).leading_zeros())
}

/// The root of the tree of `size` leaves.
///
/// # Errors
/// The errors of `subtree`, which returns the hash of a height and number.
pub fn root<E>(size: u64, mut subtree: impl FnMut(u32, u64) -> Result<Hash, E>) -> Result<Hash, E> {
    if size == 0 { Ok(empty_root()) } else { range_hash((0, size), &mut subtree) }
}

/// The audit path of a leaf in the tree of `size` leaves (RFC 6962, section 2.1.1), from the leaf's
/// sibling up. The leaf must be in the tree.
///
/// # Errors
/// The errors of `subtree`.
pub fn prove_inclusion<E>(
    index: u64,
    size: u64,
    mut subtree: impl FnMut(u32, u64) -> Result<Hash, E>,
) -> Result<Vec<Hash>, E> {
    let (mut start, mut end) = (0, size);
    let mut siblings = Vec::new();
    while end - start > 1 {
        let middle = start + split(end - start);
        if index < middle {
            siblings.push((middle, end));
            end = middle;
        } else {
            siblings.push((start, middle));
            start = middle;
        }
    }
    siblings.into_iter().rev().map(|range| range_hash(range, &mut subtree)).collect()
}

/// The proof that the tree of `first` leaves is the beginning of the tree of `second` leaves (RFC
/// 6962, section 2.1.2). Empty if `first` is 0 or `second`; it must not be larger.
///
/// # Errors
/// The errors of `subtree`.
pub fn prove_consistency<E>(
    first: u64,
    second: u64,
    mut subtree: impl FnMut(u32, u64) -> Result<Hash, E>,
) -> Result<Vec<Hash>, E> {
    if first == 0 || first == second {
        return Ok(Vec::new());
    }
    let (mut start, mut end) = (0, second);
    let mut ranges = Vec::new();
    while first != end {
        let middle = start + split(end - start);
        if first <= middle {
            ranges.push((middle, end));
            end = middle;
        } else {
            ranges.push((start, middle));
            start = middle;
        }
    }
    // If the first tree is a subtree of the second, the verifier already has its hash.
    if start != 0 {
        ranges.push((start, end));
    }
    ranges.into_iter().rev().map(|range| range_hash(range, &mut subtree)).collect()
}

/// Why a proof is not valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ProofError {
    /// The index is not in a tree of this size.
    #[error("index {index} is not in a tree of {size} entries")]
    Index {
        /// The index.
        index: u64,
        /// The number of leaves.
        size: u64,
    },
    /// The first tree is larger than the second.
    #[error("a tree of {first} entries is no beginning of one of {second}")]
    Order {
        /// The number of leaves of the first.
        first: u64,
        /// The number of leaves of the second.
        second: u64,
    },
    /// The number of hashes is wrong.
    #[error("the proof has {got} hashes, which is not the number that it must have")]
    Length {
        /// The number of hashes.
        got: usize,
    },
    /// The computed root differs from the given one.
    #[error("the proof leads to another root: what was signed is not what is shown")]
    Root,
    /// The computed root of the first tree differs from the given one.
    #[error("the proof is not of the first tree: the ledger is not the one that was seen before")]
    FirstRoot,
}

/// Verifies an audit path (RFC 9162, section 2.1.3.2).
///
/// # Errors
/// See [`ProofError`].
pub fn verify_inclusion(
    leaf: &Hash,
    index: u64,
    size: u64,
    path: &[Hash],
    root: &Hash,
) -> Result<(), ProofError> {
    if index >= size {
        return Err(ProofError::Index { index, size });
    }
    let length = ProofError::Length { got: path.len() };
    let (mut node, mut last, mut hash) = (index, size - 1, *leaf);
    for sibling in path {
        if last == 0 {
            return Err(length);
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(sibling, &hash);
            let up = if node == 0 { 0 } else { node.trailing_zeros() };
            (node, last) = (node >> up, last >> up);
        } else {
            hash = node_hash(&hash, sibling);
        }
        (node, last) = (node >> 1, last >> 1);
    }
    match (last, hash == *root) {
        (0, true) => Ok(()),
        (0, false) => Err(ProofError::Root),
        _ => Err(length),
    }
}

/// Verifies a consistency proof (RFC 9162, section 2.1.4.2).
///
/// # Errors
/// See [`ProofError`].
pub fn verify_consistency(
    (first, first_root): (u64, &Hash),
    (second, second_root): (u64, &Hash),
    proof: &[Hash],
) -> Result<(), ProofError> {
    if first > second {
        return Err(ProofError::Order { first, second });
    }
    let length = ProofError::Length { got: proof.len() };
    if first == 0 || first == second {
        let before = if first == 0 { empty_root() } else { *second_root };
        return match (proof.is_empty(), *first_root == before) {
            (false, _) => Err(length),
            (true, false) => Err(ProofError::FirstRoot),
            (true, true) => Ok(()),
        };
    }
    let mut hashes = proof.iter();
    let up = (first - 1).trailing_ones();
    let (mut node, mut last) = ((first - 1) >> up, (second - 1) >> up);
    // If the first tree is one subtree, the path begins with its root, which the proof omits.
    let start = if first.is_power_of_two() { first_root } else { hashes.next().ok_or(length)? };
    let (mut old, mut new) = (*start, *start);
    for hash in hashes {
        if last == 0 {
            return Err(length);
        }
        if node & 1 == 1 || node == last {
            old = node_hash(hash, &old);
            new = node_hash(hash, &new);
            let up = if node == 0 { 0 } else { node.trailing_zeros() };
            (node, last) = (node >> up, last >> up);
        } else {
            new = node_hash(&new, hash);
        }
        (node, last) = (node >> 1, last >> 1);
    }
    if last != 0 {
        return Err(length);
    }
    if old != *first_root {
        return Err(ProofError::FirstRoot);
    }
    if new != *second_root { Err(ProofError::Root) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    /// MTH of RFC 6962, word by word.
    fn naive(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => empty_root(),
            [leaf] => *leaf,
            _ => {
                let (left, right) = leaves.split_at(split_of(leaves.len()));
                node_hash(&naive(left), &naive(right))
            }
        }
    }

    fn split_of(leaves: usize) -> usize {
        let mut k = 1;
        while k * 2 < leaves {
            k *= 2;
        }
        k
    }

    fn leaves(count: usize) -> Vec<Hash> {
        (0..count).map(|n| leaf_hash(&n.to_be_bytes())).collect()
    }

    fn subtree_of(leaves: &[Hash]) -> impl FnMut(u32, u64) -> Result<Hash, Infallible> {
        |height, number| {
            let start = usize::try_from(number << height).unwrap();
            Ok(naive(&leaves[start..start + (1 << height)]))
        }
    }

    #[test]
    fn the_hashes_are_those_of_the_standard() {
        let hex = |hash: Hash| hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        // The values of the reference implementations of Certificate Transparency.
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(hex(empty_root()), empty);
        let leaf = "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d";
        assert_eq!(hex(leaf_hash(b"")), leaf);
    }

    #[test]
    fn every_proof_of_small_trees_verifies_and_no_other() {
        for size in 1..=40_u64 {
            let all = leaves(usize::try_from(size).unwrap());
            let root = naive(&all);
            for index in 0..size {
                let path = prove_inclusion(index, size, subtree_of(&all)).unwrap();
                let leaf = &all[usize::try_from(index).unwrap()];
                assert_eq!(verify_inclusion(leaf, index, size, &path, &root), Ok(()));
                for other in (0..=size).filter(|other| *other != index) {
                    assert!(verify_inclusion(leaf, other, size, &path, &root).is_err());
                }
                let longer = [&path[..], &[root]].concat();
                assert!(verify_inclusion(leaf, index, size, &longer, &root).is_err());
                if let Some((_, shorter)) = path.split_last() {
                    assert!(verify_inclusion(leaf, index, size, shorter, &root).is_err());
                }
            }
            for first in 0..=size {
                let before = naive(&all[..usize::try_from(first).unwrap()]);
                let proof = prove_consistency(first, size, subtree_of(&all)).unwrap();
                let verify = |first, proof: &[Hash]| {
                    verify_consistency((first, &before), (size, &root), proof)
                };
                assert_eq!(verify(first, &proof), Ok(()), "{first} in {size}");
                assert!(verify(first, &[&proof[..], &[root]].concat()).is_err());
                for at in 0..proof.len() {
                    let mut changed = proof.clone();
                    changed[at][31] ^= 1;
                    assert!(verify(first, &changed).is_err(), "{first} in {size}, hash {at}");
                }
                assert!(verify(size + 1, &proof).is_err());
            }
        }
    }

    proptest! {
        #[test]
        fn rows_come_together_wherever_they_are_cut(cuts in prop::collection::vec(0_u64..60, 1..5)) {
            let mut cuts = cuts;
            cuts.extend([0, 60]);
            cuts.sort_unstable();
            let all = leaves(60);
            let mut whole = Range::empty(0);
            for pair in cuts.windows(2) {
                let mut part = Range::empty(pair[0]);
                for leaf in pair[0]..pair[1] {
                    part.push(all[usize::try_from(leaf).unwrap()]);
                }
                prop_assert!(whole.append(&part));
                prop_assert_eq!(whole.root(), Some(naive(&all[..usize::try_from(pair[1]).unwrap()])));
                prop_assert_eq!(part.root().is_some(), pair[0] == 0);
            }
            prop_assert_eq!(&whole, &Range::of_size(60, subtree_of(&all)).unwrap());
            prop_assert!(!whole.append(&Range::empty(59)));
        }

        #[test]
        fn every_subtree_is_told_once(cuts in prop::collection::vec(0_u64..60, 1..5)) {
            let mut cuts = cuts;
            cuts.extend([0, 60]);
            cuts.sort_unstable();
            let all = leaves(60);
            let (mut whole, mut emitted) = (Range::empty(0), Vec::new());
            for pair in cuts.windows(2) {
                let mut part = Range::empty(pair[0]);
                for leaf in pair[0]..pair[1] {
                    let hash = all[usize::try_from(leaf).unwrap()];
                    part.push_telling(hash, &mut |height, hash| {
                        emitted.push((height, leaf >> height, *hash));
                    });
                }
                let begin = part.begin();
                let joined = whole.append_telling(&part, &mut |height, hash| {
                    emitted.push((height, begin >> height, *hash));
                });
                prop_assert!(joined);
            }
            emitted.sort_unstable();
            let mut subtree = subtree_of(&all);
            let complete = (1..6).flat_map(|height| (0..60 >> height).map(move |n| (height, n)));
            let complete: Vec<_> =
                complete.map(|(height, n)| (height, n, subtree(height, n).unwrap())).collect();
            prop_assert_eq!(emitted, complete);
        }

        #[test]
        fn arbitrary_proofs_never_panic(
            index: u64, first: u64, second: u64, path in prop::collection::vec(any::<Hash>(), 0..70)
        ) {
            let root = empty_root();
            prop_assert!(verify_inclusion(&root, index, second, &path, &root).is_err());
            let _ = verify_consistency((first, &root), (second, &root), &path);
        }
    }
}
