//! The transparency log's code against that of others: the crates `ct-merkle` (RFC 6962) and
//! `tlog_tiles` (C2SP tlog-tiles and tlog-checkpoint, as Cloudflare's logs use it), in both
//! directions; and its parsers against changed texts.
//!
//! `tlog_tiles` names tiles by the paths of Go's checksum database, which include the height, and
//! calls entry bundles `data`. So these tests compare contents, numbers and widths; the paths are
//! compared with C2SP's own examples, in the crate's tests of `tile`.
//!
//! A long run over more cases: `PROPTEST_CASES=20000 cargo test --test suite tlog::`.

use std::convert::Infallible;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use consent_ledger::tlog::{
    checkpoint::{Checkpoint, SignedCheckpoint},
    key::{SignerKey, VerifierKey},
    merkle::{self, Hash, ProofError, leaf_hash, node_hash, verify_consistency, verify_inclusion},
    note::Note,
    policy::Policy,
    proof::TlogProof,
    tile::{Kind, Tile, root_of, unbundle},
    witness::AddCheckpoint,
};
use ct_merkle::{ConsistencyProof, InclusionProof, RootHash, mem_backed_tree::MemoryBackedTree};
use proptest::prelude::*;
use sha2::Sha256;

use crate::support::{
    cosigner_key, signer_key,
    tree::{SIZES, Tree, at},
};

/// The tree of `ct-merkle`.
struct CtMerkle(MemoryBackedTree<Sha256, Vec<u8>>);

impl CtMerkle {
    fn of(tree: &Tree, size: u64) -> Self {
        let mut ct_tree = MemoryBackedTree::new();
        (0..size).for_each(|index| ct_tree.push(tree.entry(index).to_vec()));
        Self(ct_tree)
    }

    fn inclusion(&self, index: u64) -> Vec<Hash> {
        hashes(self.0.prove_inclusion(at(index)).as_bytes())
    }

    /// The proof from the tree of the first `first` leaves.
    fn consistency(&self, first: u64) -> Vec<Hash> {
        hashes(self.0.prove_consistency(at(self.0.len() - first)).as_bytes())
    }
}

fn root_hash(tree: &Tree, size: u64) -> RootHash<Sha256> {
    RootHash::new(tree.root(size).into(), size)
}

fn hashes(bytes: &[u8]) -> Vec<Hash> {
    bytes.as_chunks().0.to_vec()
}

/// The hashes of a tree in the storage order of `tlog_tiles`.
struct Stored(Vec<tlog_tiles::Hash>);

impl tlog_tiles::HashReader for Stored {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<tlog_tiles::Hash>, tlog_tiles::Error> {
        Ok(indexes.iter().map(|index| self.0[at(*index)]).collect())
    }
}

impl Stored {
    fn of(tree: &Tree) -> Self {
        let mut stored = Self(Vec::new());
        for index in 0..tree.size() {
            let more = tlog_tiles::stored_hashes(index, tree.entry(index), &stored).unwrap();
            stored.0.extend(more);
        }
        stored
    }
}

/// Indexes and sizes at the edges of tiles and trees.
fn places(size: u64) -> Vec<u64> {
    let mut all: Vec<u64> = [0, 1, 2, 127, 254, 255, 256, 257, 999, 32_768, 65_535, 65_536]
        .into_iter()
        .chain([size / 2, size - 1])
        .filter(|index| *index < size)
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

#[test]
fn roots_and_proofs_are_those_of_ct_merkle() {
    let tree = Tree::of_size(70_000);
    for size in SIZES {
        let theirs = CtMerkle::of(&tree, size);
        let root = root_hash(&tree, size);
        assert_eq!(theirs.0.root(), root, "{size}");
        for index in places(size) {
            let ours = tree.inclusion(index, size);
            assert_eq!(theirs.inclusion(index), ours, "{index} in {size}");
            let proof = InclusionProof::from_bytes(ours.concat());
            root.verify_inclusion(&tree.entry(index), index, &proof).unwrap();
        }
        for first in places(size).into_iter().filter(|first| *first > 0) {
            let ours = tree.consistency(first, size);
            assert_eq!(theirs.consistency(first), ours, "{first} to {size}");
            let proof = ConsistencyProof::try_from_bytes(ours.concat()).unwrap();
            root.verify_consistency(&root_hash(&tree, first), &proof).unwrap();
        }
    }
}

#[test]
fn roots_proofs_and_tiles_are_those_of_tlog_tiles() {
    let tree = Tree::of_size(70_000);
    let stored = Stored::of(&tree);
    let theirs = |hash: Hash| tlog_tiles::Hash(hash);
    let ours = |proof: Vec<tlog_tiles::Hash>| proof.into_iter().map(|hash| hash.0).collect();
    for size in SIZES {
        let root = tree.root(size);
        assert_eq!(tlog_tiles::tree_hash(size, &stored).unwrap().0, root, "{size}");
        for index in places(size) {
            let proof: Vec<Hash> = ours(tlog_tiles::prove_record(size, index, &stored).unwrap());
            assert_eq!(tree.inclusion(index, size), proof, "{index} in {size}");
            let leaf = tree.leaf(index);
            verify_inclusion(&leaf, index, size, &proof, &root).unwrap();
            let proof = proof.into_iter().map(theirs).collect();
            tlog_tiles::check_record(&proof, size, theirs(root), index, theirs(leaf)).unwrap();
        }
        for first in places(size).into_iter().filter(|first| *first > 0) {
            let proof: Vec<Hash> = ours(tlog_tiles::prove_tree(size, first, &stored).unwrap());
            assert_eq!(tree.consistency(first, size), proof, "{first} to {size}");
            let before = tree.root(first);
            verify_consistency((first, &before), (size, &root), &proof).unwrap();
            let proof = proof.into_iter().map(theirs).collect();
            tlog_tiles::check_tree(&proof, size, theirs(root), first, theirs(before)).unwrap();
        }
        let wanted = tlog_tiles::Tile::new_tiles(8, 0, size);
        let tiles: Vec<Tile> = Tile::all(size).filter(|tile| tile.kind != Kind::Entries).collect();
        assert_eq!(tiles.len(), wanted.len(), "{size}");
        for (tile, wanted) in tiles.iter().zip(&wanted) {
            let Kind::Level(level) = tile.kind else { unreachable!() };
            assert_eq!(
                (level, tile.number, u32::from(tile.width)),
                (wanted.level(), wanted.level_index(), wanted.width()),
            );
            assert_eq!(tree.tile(tile), wanted.read_data(&stored).unwrap(), "{tile} of {size}");
        }
    }
}

#[test]
fn the_levels_of_tiles_stand_on_one_another_and_on_the_entries() {
    let tree = Tree::of_size(70_000);
    for tile in Tile::all(70_000) {
        let bytes = tree.tile(&tile);
        match tile.kind {
            Kind::Entries => {
                let leaves = Tile { kind: Kind::Level(0), ..tile };
                let entries = unbundle(&bytes).unwrap();
                let hashes: Vec<Hash> = entries.into_iter().map(leaf_hash).collect();
                assert_eq!(hashes.concat(), tree.tile(&leaves), "{tile}");
            }
            Kind::Level(level) if tile.is_full() => {
                let above = Tile {
                    kind: Kind::Level(level + 1),
                    number: tile.number / 256,
                    width: u16::try_from(tile.number % 256 + 1).unwrap(),
                };
                assert!(tree.tile(&above).ends_with(&root_of(&bytes).unwrap()), "{tile}");
            }
            Kind::Level(_) => {}
        }
    }
}

const ORIGIN: &str = "consent.example.org/eu";

fn signer(seed: u8) -> SignerKey {
    signer_key(ORIGIN, seed)
}

fn witness(seed: u8) -> SignerKey {
    cosigner_key("witness.example", seed)
}

/// A signed and cosigned checkpoint of a small tree.
fn signed(tree: &Tree, size: u64) -> SignedCheckpoint {
    let checkpoint = Checkpoint {
        origin: ORIGIN.to_owned(),
        size,
        root: tree.root(size),
        extensions: String::new(),
    };
    let mut signed = SignedCheckpoint::sign(checkpoint, &signer(1)).unwrap();
    signed.note.sign(&witness(2), 1_790_000_000);
    signed
}

#[test]
fn checkpoints_are_read_alike() {
    let root = BASE64_STANDARD.encode([9; 32]);
    for text in [
        format!("{ORIGIN}\n42\n{root}\n"),
        format!("{ORIGIN}\n0\n{root}\nextension\n"),
        format!("{ORIGIN}\n042\n{root}\n"),
        format!("{ORIGIN}\n+42\n{root}\n"),
        format!("{ORIGIN}\n-1\n{root}\n"),
        format!("{ORIGIN}\n18446744073709551615\n{root}\n"),
        format!("{ORIGIN}\n18446744073709551616\n{root}\n"),
        format!("{ORIGIN}\n42\n{root}"),
        format!("{ORIGIN}\n42\n{}\n", &root[1..]),
        format!("{ORIGIN}\n42\n{}\n", root.trim_end_matches('=')),
        format!("\n42\n{root}\n"),
        format!("{ORIGIN}\n42\n"),
        format!("{ORIGIN}\n42\n{root}\none\n\ntwo\n"),
        String::new(),
    ] {
        let ours = Checkpoint::parse(&text).ok();
        let theirs = tlog_tiles::Checkpoint::from_bytes(text.as_bytes()).ok();
        let theirs = theirs.map(|theirs| Checkpoint {
            origin: theirs.origin().to_owned(),
            size: theirs.size(),
            root: theirs.hash().0,
            extensions: theirs.extension().to_owned(),
        });
        assert_eq!(ours, theirs, "{text:?}");
    }
}

/// A text of every kind with its parser, which returns the text that it would write.
type Reader = fn(&str) -> Option<String>;

fn readers() -> [(&'static str, String, Reader); 8] {
    let tree = Tree::of_size(11);
    let checkpoint = signed(&tree, 11);
    let proof = TlogProof {
        extra: Some(tree.entry(7).to_vec()),
        index: 7,
        path: tree.inclusion(7, 11),
        checkpoint: checkpoint.clone(),
    };
    let request = AddCheckpoint {
        old_size: 6,
        proof: tree.consistency(6, 11),
        checkpoint: checkpoint.clone(),
    };
    let tile = Tile { kind: Kind::Level(0), number: 1_234_067, width: 17 };
    [
        ("note", checkpoint.to_string(), |text| Some(Note::parse(text).ok()?.to_string())),
        ("checkpoint", checkpoint.to_string(), |text| {
            Some(SignedCheckpoint::parse(text).ok()?.to_string())
        }),
        ("checkpoint text", checkpoint.checkpoint.to_string(), |text| {
            Some(Checkpoint::parse(text).ok()?.to_string())
        }),
        ("proof", proof.to_string(), |text| Some(TlogProof::parse(text).ok()?.to_string())),
        ("witness request", request.to_string(), |text| {
            Some(AddCheckpoint::parse(text).ok()?.to_string())
        }),
        ("tile path", tile.to_string(), |text| Some(Tile::parse(text).ok()?.to_string())),
        ("verifier key", signer(1).verifier().to_string(), |text| {
            Some(VerifierKey::parse(text).ok()?.to_string())
        }),
        ("signer key", signer(1).to_secret_text().to_string(), |text| {
            Some(SignerKey::parse(text).ok()?.to_secret_text().to_string())
        }),
    ]
}

/// One way to change a text.
#[derive(Debug, Clone)]
enum Mutation {
    Byte(prop::sample::Index, u8),
    Remove(prop::sample::Index, usize),
    Insert(prop::sample::Index, String),
    Cut(prop::sample::Index),
    Repeat(prop::sample::Index, usize),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let place = any::<prop::sample::Index>;
    prop_oneof![
        (place(), 1_u8..128).prop_map(|(at, with)| Mutation::Byte(at, with)),
        (place(), 1_usize..60).prop_map(|(at, count)| Mutation::Remove(at, count)),
        (place(), "(\n|— |[0-9A-Za-z+/= ]|\\PC){1,4}")
            .prop_map(|(at, text)| Mutation::Insert(at, text)),
        place().prop_map(Mutation::Cut),
        (place(), 1_usize..60).prop_map(|(at, count)| Mutation::Repeat(at, count)),
    ]
}

/// The changed text, if it is still UTF-8.
fn mutated(text: &str, mutation: &Mutation) -> Option<String> {
    let mut bytes = text.as_bytes().to_vec();
    let length = bytes.len();
    match mutation {
        Mutation::Byte(at, with) => bytes[at.index(length)] ^= with,
        Mutation::Remove(at, count) => {
            let at = at.index(length);
            bytes.drain(at..(at + count).min(length));
        }
        Mutation::Insert(at, text) => {
            let at = at.index(length + 1);
            bytes.splice(at..at, text.bytes());
        }
        Mutation::Cut(at) => bytes.truncate(at.index(length)),
        Mutation::Repeat(at, count) => {
            let at = at.index(length);
            let part = bytes[at..(at + count).min(length)].to_vec();
            bytes.splice(at..at, part);
        }
    }
    String::from_utf8(bytes).ok()
}

/// Keys are parsed with spaces around them, as in a file that ends with a newline.
fn as_written<'a>(kind: &str, text: &'a str) -> &'a str {
    if kind.ends_with("key") { text.trim() } else { text }
}

#[test]
fn texts_survive_a_round_trip() {
    for (kind, text, read) in readers() {
        assert_eq!(read(&text).as_deref(), Some(text.as_str()), "{kind}");
    }
}

#[test]
fn nothing_with_one_changed_byte_verifies() {
    let tree = Tree::of_size(11);
    let (key, cosigner) = (signer(1), witness(2));
    let text = signed(&tree, 11).to_string();
    for at in 0..text.len() {
        for bit in 0..8 {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1 << bit;
            let Ok(changed) = String::from_utf8(bytes) else { continue };
            let both = SignedCheckpoint::open(&changed, key.verifier())
                .is_ok_and(|read| read.note.verify(cosigner.verifier()).is_ok());
            assert!(!both, "byte {at}, bit {bit}: {changed}");
        }
    }
}

#[test]
fn a_proof_with_one_changed_byte_does_not_verify() {
    let tree = Tree::of_size(300);
    let (index, size) = (77, 299);
    let (leaf, root) = (tree.leaf(index), tree.root(size));
    let path = tree.inclusion(index, size);
    for (hash, byte) in (0..path.len()).flat_map(|hash| (0..32).map(move |byte| (hash, byte))) {
        let mut changed = path.clone();
        changed[hash][byte] ^= 1;
        let result = verify_inclusion(&leaf, index, size, &changed, &root);
        assert_eq!(result, Err(ProofError::Root));
    }
    let (first, before) = (123, tree.root(123));
    let proof = tree.consistency(first, size);
    for (hash, byte) in (0..proof.len()).flat_map(|hash| (0..32).map(move |byte| (hash, byte))) {
        let mut changed = proof.clone();
        changed[hash][byte] ^= 1;
        assert!(verify_consistency((first, &before), (size, &root), &changed).is_err());
    }
}

/// The subtrees of a tree whose leaves are all the same: one hash for each height, so that trees
/// can be as large as numbers allow.
fn uniform() -> impl FnMut(u32, u64) -> Result<Hash, Infallible> {
    let mut rows = vec![leaf_hash(b"the same")];
    for below in 0..63 {
        rows.push(node_hash(&rows[below], &rows[below]));
    }
    move |height, _| Ok(rows[at(height.into())])
}

proptest! {
    #[test]
    fn trees_of_any_u64_size_are_proven_and_verified(
        size in prop_oneof![1_u64..=u64::MAX, (0_u32..64).prop_map(|bit| 1 << bit), u64::MAX - 3..=u64::MAX],
        index: u64, first: u64,
    ) {
        let (index, first) = (index % size, first % size + 1);
        let leaf = leaf_hash(b"the same");
        let Ok(root) = merkle::root(size, uniform());
        let Ok(before) = merkle::root(first, uniform());
        let Ok(path) = merkle::prove_inclusion(index, size, uniform());
        prop_assert_eq!(verify_inclusion(&leaf, index, size, &path, &root), Ok(()));
        let Ok(proof) = merkle::prove_consistency(first, size, uniform());
        prop_assert_eq!(verify_consistency((first, &before), (size, &root), &proof), Ok(()));
        // `tlog_tiles` counts up to here.
        if size <= 1 << 62 {
            let hash = |hash: &Hash| tlog_tiles::Hash(*hash);
            let path = path.iter().map(hash).collect();
            tlog_tiles::check_record(&path, size, hash(&root), index, hash(&leaf)).unwrap();
            let proof = proof.iter().map(hash).collect();
            tlog_tiles::check_tree(&proof, size, hash(&root), first, hash(&before)).unwrap();
        }
    }

    #[test]
    fn trees_of_any_size_agree_with_both(size in 1_u64..700, cuts: (prop::sample::Index, prop::sample::Index)) {
        let tree = Tree::of_size(size);
        let (index, first) = (cuts.0.index(at(size)) as u64, cuts.1.index(at(size)) as u64 + 1);
        let (ct, stored) = (CtMerkle::of(&tree, size), Stored::of(&tree));
        let (root, before) = (tree.root(size), tree.root(first));
        prop_assert_eq!(ct.0.root(), root_hash(&tree, size));
        prop_assert_eq!(tlog_tiles::tree_hash(size, &stored).unwrap().0, root);
        let path = tree.inclusion(index, size);
        prop_assert_eq!(&ct.inclusion(index), &path);
        prop_assert_eq!(verify_inclusion(&tree.leaf(index), index, size, &path, &root), Ok(()));
        let proof = tree.consistency(first, size);
        if first < size {
            prop_assert_eq!(&ct.consistency(first), &proof);
        }
        prop_assert_eq!(verify_consistency((first, &before), (size, &root), &proof), Ok(()));
    }

    // A verifier that accepts too much would show here: both must refuse alike.
    #[test]
    fn false_claims_are_judged_as_tlog_tiles_judges_them(
        size in 1_u64..300, claimed: (u64, u64), cuts: (prop::sample::Index, prop::sample::Index), near: bool,
    ) {
        let tree = Tree::of_size(size);
        let index = cuts.0.index(at(size)) as u64;
        let first = cuts.1.index(at(size)) as u64 + 1;
        let (root, before) = (tree.root(size), tree.root(first));
        let (other_index, other_size) = if near {
            (index ^ (claimed.0 % 4), size.saturating_add_signed((claimed.1 % 5).cast_signed() - 2).max(1))
        } else {
            (claimed.0 >> 2, (claimed.1 >> 2).max(1))
        };
        let hash = |hash: Hash| tlog_tiles::Hash(hash);
        let path = tree.inclusion(index, size);
        let ours = verify_inclusion(&tree.leaf(index), other_index, other_size, &path, &root);
        let theirs = path.into_iter().map(hash).collect();
        let theirs = tlog_tiles::check_record(&theirs, other_size, hash(root), other_index, hash(tree.leaf(index)));
        prop_assert_eq!(ours.is_ok(), theirs.is_ok(), "{} of {} as {} of {}", index, size, other_index, other_size);
        let proof = tree.consistency(first, size);
        let ours = verify_consistency((first, &before), (other_size, &root), &proof);
        // `tlog_tiles` rejects a first tree that is larger than the second.
        if first <= other_size {
            let theirs = proof.into_iter().map(hash).collect();
            let theirs = tlog_tiles::check_tree(&theirs, other_size, hash(root), first, hash(before));
            prop_assert_eq!(ours.is_ok(), theirs.is_ok(), "{} to {} as to {}", first, size, other_size);
        } else {
            prop_assert!(ours.is_err());
        }
    }

    #[test]
    fn changed_texts_never_panic_and_are_written_as_they_were_read(
        kind in 0_usize..8, mutations in prop::collection::vec(mutation(), 1..4),
    ) {
        let (kind, text, read) = readers().into_iter().nth(kind).unwrap();
        let changed = mutations.iter().try_fold(text, |text, mutation| {
            if text.is_empty() { Some(text) } else { mutated(&text, mutation) }
        });
        let Some(changed) = changed else { return Ok(()) };
        if let Some(written) = read(&changed) {
            prop_assert_eq!(written.as_str(), as_written(kind, &changed), "{}", kind);
        }
    }

    #[test]
    fn a_changed_note_that_verifies_has_the_signed_text(mutations in prop::collection::vec(mutation(), 1..4)) {
        let tree = Tree::of_size(11);
        let signed = signed(&tree, 11);
        let changed = mutations.iter().try_fold(signed.to_string(), |text, mutation| {
            if text.is_empty() { Some(text) } else { mutated(&text, mutation) }
        });
        let Some(changed) = changed else { return Ok(()) };
        // The signatures below the text may change: unknown ones are ignored.
        if let Ok(read) = SignedCheckpoint::open(&changed, signer(1).verifier()) {
            prop_assert_eq!(read.checkpoint, signed.checkpoint);
        }
    }

    #[test]
    fn changed_policies_never_panic(mutations in prop::collection::vec(mutation(), 1..4)) {
        let text = format!(
            "# who counts\nlog {}\nwitness W1 {} https://witness.example\nwitness W2 {}\n\
             group G 1 W1 W2\nquorum G\n",
            signer(1).verifier(), witness(2).verifier(), witness(3).verifier(),
        );
        prop_assert!(Policy::parse(&text).is_ok());
        let changed = mutations.iter().try_fold(text, |text, mutation| {
            if text.is_empty() { Some(text) } else { mutated(&text, mutation) }
        });
        if let Some(Ok(policy)) = changed.map(|text| Policy::parse(&text)) {
            // Mutated letters never make another's key count.
            for witness_key in policy.witnesses() {
                prop_assert!(witness_key.key == *witness(2).verifier() || witness_key.key == *witness(3).verifier());
            }
        }
    }

    #[test]
    fn changed_bundles_never_panic(at_byte: prop::sample::Index, with: u8, cut: prop::sample::Index) {
        let tree = Tree::of_size(20);
        let tile = Tile { kind: Kind::Entries, number: 0, width: 20 };
        let mut bytes = tree.tile(&tile);
        let place = at_byte.index(bytes.len());
        bytes[place] ^= with;
        bytes.truncate(cut.index(bytes.len() + 1));
        if let Some(entries) = unbundle(&bytes) {
            prop_assert_eq!(consent_ledger::tlog::tile::bundle(&entries).unwrap(), bytes);
        }
    }
}
