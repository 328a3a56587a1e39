//! A tree of keys over the numbers 0 to 2^32 - 1.
//!
//! ```text
//! child(node, bit) = K(node, one byte: bit)       from the root, the highest bit first, 32 levels
//! leaf(n)          = the node that the 32 bits of n lead to
//! ```
//!
//! A tree is held as the nodes that are left of it: at first its root alone. Forgetting a range replaces
//! nodes by those that leave the range out. No leaf of the range can be computed from what remains.

use std::ops::RangeInclusive;

use rand::CryptoRng;
use thiserror::Error;

use crate::{hash::keyed, secret::Key};

/// Levels below the root.
pub const LEVELS: u32 = 32;
/// The greatest number of nodes of a tree. Forgetting everything before a number leaves at most 32.
pub const NODES_MAX: usize = 256;

/// What is left of a tree of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyTree {
    /// In the order of their leaves, which do not overlap.
    nodes: Vec<Node>,
}

/// A node of a tree of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Levels below the root.
    pub depth: u32,
    /// The way from the root: the upper `depth` bits of every leaf below it.
    pub path: u32,
    /// The node's key.
    pub key: Key,
}

/// Why nodes are not a tree of keys, or can not become a smaller one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TreeError {
    /// A node that no tree has.
    #[error("node {0} of the key tree has a depth or a path that no node has")]
    Node(usize),
    /// A node that is not after the one before.
    #[error("node {0} of the key tree is not after the one before")]
    Order(usize),
    /// Too many nodes.
    #[error("the key tree has {0} nodes, the limit is {NODES_MAX}")]
    TooManyNodes(usize),
}

impl Node {
    /// The leaves below the node.
    #[must_use]
    pub fn leaves(&self) -> RangeInclusive<u32> {
        let below = LEVELS - self.depth;
        let first = self.path.checked_shl(below).unwrap_or(0);
        let last = first | u32::MAX.checked_shr(self.depth).unwrap_or(0);
        first..=last
    }

    fn is_possible(&self) -> bool {
        self.depth <= LEVELS && u64::from(self.path) < 1 << self.depth
    }

    fn child(&self, bit: bool) -> Self {
        let path = self.path << 1 | u32::from(bit);
        Self { depth: self.depth + 1, path, key: child(&self.key, bit) }
    }
}

impl KeyTree {
    /// A whole tree with a fresh random root.
    #[must_use]
    pub fn random(rng: &mut impl CryptoRng) -> Self {
        Self::whole(Key::random(rng))
    }

    /// The whole tree below a root.
    #[must_use]
    pub fn whole(root: Key) -> Self {
        Self { nodes: vec![Node { depth: 0, path: 0, key: root }] }
    }

    /// The tree of these nodes.
    ///
    /// # Errors
    /// See [`TreeError`].
    pub fn of_nodes(nodes: Vec<Node>) -> Result<Self, TreeError> {
        if nodes.len() > NODES_MAX {
            return Err(TreeError::TooManyNodes(nodes.len()));
        }
        if let Some(at) = nodes.iter().position(|node| !node.is_possible()) {
            return Err(TreeError::Node(at));
        }
        let pairs = nodes.windows(2);
        let mut pairs = pairs.map(|pair| pair[0].leaves().end() < pair[1].leaves().start());
        match pairs.position(|is_after| !is_after) {
            Some(at) => Err(TreeError::Order(at + 1)),
            None => Ok(Self { nodes }),
        }
    }

    /// The nodes, in the order of their leaves.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The key of a leaf; none if it is forgotten, or the tree does not reach so far.
    #[must_use]
    pub fn leaf(&self, number: u64) -> Option<Key> {
        let number = u32::try_from(number).ok()?;
        let node = self.node_above(number)?;
        let mut key = node.key.clone();
        for level in node.depth..LEVELS {
            key = child(&key, bit(number, level));
        }
        Some(key)
    }

    /// The first leaf from a number on that is not forgotten.
    #[must_use]
    pub fn first_left(&self, number: u64) -> Option<u64> {
        let number = u32::try_from(number).ok()?;
        let next = self.nodes.get(self.nodes.partition_point(|it| *it.leaves().end() < number))?;
        Some(u64::from(number.max(*next.leaves().start())))
    }

    /// The same tree without a range of leaves.
    ///
    /// # Errors
    /// [`TreeError::TooManyNodes`].
    pub fn without(&self, range: &RangeInclusive<u32>) -> Result<Self, TreeError> {
        let mut nodes = Vec::new();
        for node in &self.nodes {
            leave_out(node, range, &mut nodes);
        }
        if nodes.len() > NODES_MAX {
            return Err(TreeError::TooManyNodes(nodes.len()));
        }
        Ok(Self { nodes })
    }

    fn node_above(&self, number: u32) -> Option<&Node> {
        let at = self.nodes.partition_point(|node| *node.leaves().end() < number);
        self.nodes.get(at).filter(|node| *node.leaves().start() <= number)
    }
}

/// A tree with the way to the leaf that was asked for last. The next leaf takes two hashes on average,
/// where [`KeyTree::leaf`] takes 32.
#[derive(Debug, Clone)]
pub struct TreePath {
    tree: KeyTree,
    last: Option<Walked>,
}

/// The way to a leaf: the keys from its node of the tree down to the leaf.
#[derive(Debug, Clone)]
struct Walked {
    number: u32,
    /// All leaves below the first key.
    leaves: RangeInclusive<u32>,
    /// The depth of the first key.
    depth: u32,
    keys: Vec<Key>,
}

impl TreePath {
    /// The tree, with no way yet.
    #[must_use]
    pub fn new(tree: KeyTree) -> Self {
        Self { tree, last: None }
    }

    /// The tree.
    #[must_use]
    pub fn tree(&self) -> &KeyTree {
        &self.tree
    }

    /// As [`KeyTree::leaf`].
    #[must_use]
    pub fn leaf(&mut self, number: u64) -> Option<Key> {
        let number = u32::try_from(number).ok()?;
        if !self.last.as_ref().is_some_and(|last| last.leaves.contains(&number)) {
            let node = self.tree.node_above(number)?;
            let (leaves, depth, keys) = (node.leaves(), node.depth, vec![node.key.clone()]);
            self.last = Some(Walked { number, leaves, depth, keys });
        }
        let walked = self.last.as_mut()?;
        let shared_depth = (number ^ walked.number).leading_zeros();
        // The key at depth d has the place d - depth of the first.
        walked.keys.truncate(usize::try_from(shared_depth - walked.depth).ok()? + 1);
        let mut key = walked.keys.last()?.clone();
        let reached = walked.depth + u32::try_from(walked.keys.len()).ok()? - 1;
        for level in reached..LEVELS {
            key = child(&key, bit(number, level));
            walked.keys.push(key.clone());
        }
        walked.number = number;
        Some(key)
    }
}

fn child(node: &Key, bit: bool) -> Key {
    Key::new(keyed(node, &[&[u8::from(bit)]]))
}

/// The bit of a leaf that decides at a level, counted from the root.
fn bit(number: u32, level: u32) -> bool {
    number >> (LEVELS - 1 - level) & 1 == 1
}

fn leave_out(node: &Node, range: &RangeInclusive<u32>, left: &mut Vec<Node>) {
    let leaves = node.leaves();
    if leaves.end() < range.start() || range.end() < leaves.start() {
        left.push(node.clone());
    } else if range.start() > leaves.start() || range.end() < leaves.end() {
        leave_out(&node.child(false), range, left);
        leave_out(&node.child(true), range, left);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn root() -> KeyTree {
        KeyTree::whole(Key::new([7; 32]))
    }

    #[test]
    fn a_leaf_is_the_root_hashed_along_its_bits() {
        let mut key = Key::new([7; 32]);
        for level in (0..32).rev() {
            key = Key::new(keyed(&key, &[&[u8::from(0x8000_0005_u32 >> level & 1 == 1)]]));
        }
        assert_eq!(root().leaf(0x8000_0005), Some(key));
        assert_eq!(root().leaf(1 << 32), None);
    }

    #[test]
    fn forgetting_all_before_a_number_leaves_at_most_32_nodes() {
        for before in [1, 5, 1 << 20, u32::MAX] {
            let left = root().without(&(0..=before - 1)).unwrap();
            assert!(left.nodes().len() <= 32);
            assert_eq!(left.leaf(u64::from(before) - 1), None);
            assert_eq!(left.leaf(before.into()), root().leaf(before.into()));
            assert_eq!(left.first_left(0), Some(before.into()));
        }
        let nothing = root().without(&(0..=u32::MAX)).unwrap();
        assert_eq!((nothing.nodes().len(), nothing.first_left(0)), (0, None));
    }

    #[test]
    fn nodes_that_overlap_or_do_not_exist_are_no_tree() {
        let node = |depth, path| Node { depth, path, key: Key::new([1; 32]) };
        for (nodes, want) in [
            (vec![node(33, 0)], TreeError::Node(0)),
            (vec![node(1, 0), node(1, 2)], TreeError::Node(1)),
            (vec![node(0, 1)], TreeError::Node(0)),
            (vec![node(1, 1), node(1, 0)], TreeError::Order(1)),
            (vec![node(0, 0), node(32, 5)], TreeError::Order(1)),
            (vec![node(32, 5); 300], TreeError::TooManyNodes(300)),
        ] {
            assert_eq!(KeyTree::of_nodes(nodes), Err(want));
        }
        assert!(KeyTree::of_nodes(vec![node(1, 0), node(2, 2), node(32, u32::MAX)]).is_ok());
    }

    proptest! {
        #[test]
        fn exactly_the_forgotten_leaves_are_gone(
            ranges in prop::collection::vec(any::<(u32, u32)>(), 1..4), number: u32, near: u8,
        ) {
            let ranges: Vec<_> = ranges.iter().map(|(a, b)| *a.min(b)..=*a.max(b)).collect();
            let mut left = root();
            for range in &ranges {
                left = left.without(range).unwrap();
            }
            let edge = ranges[0].start().wrapping_add(near.into()).wrapping_sub(128);
            for number in [number, edge] {
                let is_gone = ranges.iter().any(|range| range.contains(&number));
                let number = u64::from(number);
                let want = if is_gone { None } else { root().leaf(number) };
                prop_assert_eq!(left.leaf(number), want);
                let next = left.first_left(number);
                prop_assert!(is_gone || next == Some(number));
                prop_assert!(next.is_none_or(|next| left.leaf(next).is_some()));
            }
            prop_assert_eq!(KeyTree::of_nodes(left.nodes().to_vec()), Ok(left));
        }

        #[test]
        fn the_cached_way_leads_to_the_same_leaf(
            numbers in prop::collection::vec(any::<u32>(), 1..20), step in 0u32..5,
            forgotten: (u32, u32),
        ) {
            let range = forgotten.0.min(forgotten.1)..=forgotten.0.max(forgotten.1);
            let tree = root().without(&range).unwrap();
            let mut path = TreePath::new(tree.clone());
            for number in numbers.iter().flat_map(|n| [*n, n.wrapping_add(step)]) {
                prop_assert_eq!(path.leaf(number.into()), tree.leaf(number.into()));
            }
        }
    }
}
