//! What somebody learns who has all bytes of the ledger, knows every derivation, and holds what the test
//! gives them. What is left over is named in `docs/format.md`.

use std::collections::{BTreeMap, BTreeSet};

use consent_ledger_format::{
    Tag,
    entry::{Body, Entry},
    keys::person::token_hash,
    message::{EntryOpening, Record},
    opening::{open_entry, verify_entry},
    record,
    seal::{AUTH_BYTES, Buckets},
    secret::Key,
    token::{self, Grounds},
};
use proptest::prelude::*;
use prost::Message as _;

use super::support::*;

/// Everything of an entry that is in clear, with random bytes blotted out.
fn shape(entry: &Entry) -> String {
    let size = |sealed: &consent_ledger_format::seal::Sealed| sealed.ciphertext.len();
    let body = match &entry.body {
        Body::Persons(persons) => {
            let slots: Vec<_> = persons
                .slots
                .iter()
                .map(|slot| (size(&slot.record), slot.evidence.as_ref().map(size)))
                .collect();
            format!("persons {slots:?} {:?}", persons.erasure.as_ref().map(|it| size(&it.text)))
        }
        Body::Uses(uses) => format!("uses {} {}", uses.tags.len(), size(&uses.shared.text)),
        Body::Confidential(items) => {
            format!("items {:?}", items.iter().map(|it| size(&it.text)).collect::<Vec<_>>())
        }
        clear => format!("{clear:?}"),
    };
    format!("{} {} {body} of {}", entry.index, entry.recorded_at_s, entry.encode().len())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn two_ledgers_of_the_same_acts_by_other_people_differ_in_nothing_but_random_bytes(
        steps in any_steps(), seeds: (u64, u64),
    ) {
        let one = TestLedger::of_steps(seeds.0, "", &steps);
        let other = TestLedger::of_steps(seeds.1, "somebody-with-a-much-longer-name-", &steps);
        let shapes = |ledger: &TestLedger| ledger.entries.iter().map(shape).collect::<Vec<_>>();
        prop_assert_eq!(shapes(&one), shapes(&other));
    }

    #[test]
    fn no_tag_salt_commitment_or_reference_comes_twice_or_says_anything(steps in any_steps(), seed: u64) {
        let ledger = TestLedger::of_steps(seed, "a", &steps);
        let mut seen = BTreeMap::new();
        let mut meet = |index: u64, bytes: &[u8]| {
            seen.insert(bytes.to_vec(), index).is_none_or(|before| before == index)
        };
        for entry in &ledger.entries {
            match &entry.body {
                Body::Persons(persons) => for slot in &persons.slots {
                    prop_assert!(meet(entry.index, &slot.tag) && meet(entry.index, &slot.salt));
                    prop_assert!(meet(entry.index, &slot.record.commitment));
                    prop_assert!(meet(entry.index, &slot.record.ciphertext[..16]));
                }
                Body::Uses(uses) => for tag in &uses.tags {
                    prop_assert!(meet(entry.index, tag));
                }
                Body::Confidential(items) => for item in items {
                    prop_assert!(meet(entry.index, &item.salt));
                }
                _ => {}
            }
        }
        // References are in sealed records alone: none is in the bytes of the ledger.
        let all = ledger.bytes.concat();
        for reference in ledger.last.iter().flatten() {
            prop_assert!(!all.windows(16).any(|bytes| bytes == reference));
        }
    }
}

fn opening_of(ledger: &TestLedger, person: usize, number: u64, index: u64) -> EntryOpening {
    let (person, entry) = (&ledger.people[person], entry_at(ledger, index));
    open_entry(person, number, LEDGER, entry, &ledger.proof(index)).unwrap()
}

/// The keys of a receipt, and the record that they open.
fn inside_of(ledger: &TestLedger, person: usize, number: u64, index: u64) -> Vec<u8> {
    let opening = opening_of(ledger, person, number, index);
    let verified = verify_entry(&opening, &[TestLedger::signer().verifier().clone()]).unwrap();
    [opening.record_key, opening.evidence_key, verified.record.record.encode_to_vec()].concat()
}

/// All 16-byte values at any offset of some bytes.
fn values(bytes: &[u8]) -> BTreeSet<[u8; 16]> {
    bytes.windows(16).map(|window| window.try_into().unwrap()).collect()
}

#[test]
fn receipts_of_two_acts_of_one_person_share_no_value_and_lead_to_no_other_entry() {
    let mut ledger = TestLedger::new(1, "a");
    for (person, stops) in [(0, false), (1, false), (0, true), (1, true), (0, false)] {
        ledger.act(person, true, stops);
    }
    // The middle act of person 0, with everything that is inside it.
    let inside = values(&inside_of(&ledger, 0, 1, 5));
    for entry in ledger.entries.iter().filter(|entry| entry.index != 5) {
        let outside = values(&entry.encode());
        let shared: Vec<_> = inside.intersection(&outside).filter(|it| **it != [0; 16]).collect();
        assert!(shared.is_empty(), "entry {} holds {shared:02x?} of the receipt", entry.index);
    }
    let other = values(&inside_of(&ledger, 0, 2, 7));
    let shared: Vec<_> = inside.intersection(&other).collect();
    assert!(shared.is_empty(), "both receipts hold {shared:02x?}");
}

#[test]
fn references_in_a_receipt_name_no_entry_to_who_lacks_its_key() {
    let mut ledger = TestLedger::new(1, "a");
    ledger.act(0, true, false);
    let first = ledger.last[0].unwrap();
    ledger.records(&[0], |_, last| Record {
        confirms: last.unwrap().to_vec(),
        requested_at_ms: Some(5),
        kind: 2,
        ..act(vec![grant()])
    });
    let opening = opening_of(&ledger, 0, 1, 4);
    let verified = verify_entry(&opening, &[TestLedger::signer().verifier().clone()]).unwrap();
    assert_eq!(verified.record.record.confirms, first);
    // Every hash over what is public about the named entry is another value.
    let bytes = &ledger.bytes[3];
    let Body::Persons(persons) = &entry_at(&ledger, 3).body else { panic!() };
    let slot = &persons.slots[0];
    for public in
        [bytes.as_slice(), &slot.tag, &slot.salt, &slot.record.ciphertext, &slot.record.commitment]
    {
        let hash = blake3::derive_key("consent-ledger v2 reference", public);
        assert_ne!(hash[..16], first);
    }
}

#[test]
fn a_shard_is_known_to_the_ledger_alone() {
    let (one, other) = (TestLedger::new(1, "a"), TestLedger::new(2, "a"));
    let shards = |ledger: &TestLedger| -> Vec<u32> {
        (0..400).map(|it| ledger.secrets.ledger.shard(&format!("user:{it}"), 64)).collect()
    };
    let (one, other) = (shards(&one), shards(&other));
    let same = one.iter().zip(&other).filter(|(one, other)| one == other).count();
    assert!(same < 30, "{same} of 400 shards are the same in another ledger");
    assert!(one.iter().collect::<BTreeSet<_>>().len() > 50, "shards are spread");
}

#[test]
fn the_place_in_a_use_list_says_nothing_of_the_order_in_which_persons_were_named() {
    let mut ledger = TestLedger::new(1, "a");
    let (forwards, backwards) =
        (ledger.seal_use(&[0, 1, 2, 3, 4]), ledger.seal_use(&[4, 3, 2, 1, 0]));
    let of_persons = |tags: &[Tag]| -> Vec<usize> {
        let keys = ledger.people.iter().map(|person| person.keys.use_tag(0).unwrap());
        let keys: Vec<_> = keys.collect();
        tags.iter().filter_map(|tag| keys.iter().position(|key| key == tag)).collect()
    };
    assert_eq!(of_persons(&forwards.tags), of_persons(&backwards.tags));
    // Five persons and three random tags: nobody can tell how many persons there are.
    assert_eq!((forwards.tags.len(), of_persons(&forwards.tags).len()), (8, 5));
}

#[test]
fn the_slots_of_an_entry_stand_in_an_order_that_says_nothing() {
    let mut ledger = TestLedger::new(1, "a");
    ledger.step(&Step::Expire { persons: vec![0, 1, 2, 3, 4, 5] });
    let Body::Persons(persons) = &entry_at(&ledger, 3).body else { panic!() };
    let place =
        |person: usize| persons.slot_of(&ledger.people[person].keys.tags().tag(0)).unwrap().0;
    let places: Vec<_> = (0..6).map(place).collect();
    assert_ne!(places, [0, 1, 2, 3, 4, 5]);
    assert!(persons.slots.iter().all(|slot| slot.evidence.is_none()));
}

#[test]
fn sizes_are_few_and_the_least_act_looks_like_the_usual_one() {
    let mut ledger = TestLedger::new(1, "a");
    let bare = ledger.act(0, false, true).unwrap();
    let usual = ledger.act(0, true, false).unwrap();
    let size = |index| ledger.bytes[usize::try_from(index).unwrap()].len();
    assert_eq!(size(bare), size(usual));
    let full = ledger.records(&[1], |_, _| full_act()).unwrap();
    let Body::Persons(persons) = &entry_at(&ledger, full).body else { panic!() };
    assert!(Buckets::RECORD.has_ciphertext(persons.slots[0].record.ciphertext.len()));
    // A double opt-in, which has the most in it, is one bucket above.
    assert_eq!(persons.slots[0].record.ciphertext.len(), 384 + AUTH_BYTES);
    assert!(record::check(&full_act()).is_err(), "the writer fills in what is missing");
}

#[test]
fn equal_decisions_have_tokens_that_cannot_be_joined_to_each_other_or_to_the_ledger() {
    let mut ledger = TestLedger::new(1, "a");
    let key = ledger.secrets.ledger.tokens();
    let grounds = Grounds { decided_by: Some(3), revision: 4 };
    let rng = &mut ledger.rng;
    let values: BTreeSet<_> =
        (0..200).map(|_| token::seal(&key, grounds, b"claims", rng)).collect();
    assert_eq!(values.len(), 200);
    assert!(values.iter().all(|value| token::open(&key, value, b"claims") == Ok(grounds)));
    let other = TestLedger::new(2, "a").secrets.ledger.tokens();
    assert!(values.iter().all(|value| token::open(&other, value, b"claims").is_err()));
    // The place of the deciding entry is not in the value's bytes, whatever is taken off it.
    let lengths: BTreeSet<_> = values.iter().map(String::len).collect();
    assert_eq!(lengths, BTreeSet::from([64]));
}

#[test]
fn one_persons_confirmation_token_confirms_nothing_of_another_and_no_place_repeats_one() {
    let ledger = TestLedger::new(1, "a");
    let tokens: BTreeSet<_> = ledger
        .people
        .iter()
        .flat_map(|person| {
            [[1; 16], [2; 16]].map(|nonce| person.keys.confirmations().token(&nonce))
        })
        .collect();
    assert_eq!(tokens.len(), 12);
    assert!(tokens.iter().all(|token| token.len() == 43));
    let hashes: BTreeSet<_> = tokens.iter().map(|token| token_hash(token)).collect();
    assert_eq!(hashes.len(), 12);
}

#[test]
fn idempotency_keys_can_be_tried_by_nobody_without_the_persons_key() {
    let ledger = TestLedger::new(1, "a");
    let marks: Vec<_> = ledger
        .people
        .iter()
        .map(|person| person.keys.idempotency().mark("crm", "signup-user:42"))
        .collect();
    assert_eq!(marks.iter().collect::<BTreeSet<_>>().len(), 6, "the key belongs to the person");
    let idempotency = ledger.people[0].keys.idempotency();
    assert_ne!(idempotency.mark("crm", "k"), idempotency.mark("shop", "k"), "and to the caller");
    assert_ne!(idempotency.mark("a", "bc"), idempotency.mark("ab", "c"));
    assert_ne!(idempotency.digest(b"x"), idempotency.digest(b"y"));
    let of_ledger = ledger.secrets.ledger.idempotency().mark("crm", "signup-user:42");
    assert!(!marks.contains(&of_ledger));
}

#[test]
fn a_webhook_secret_is_not_the_hash_that_everybody_can_compute() {
    let (one, other) = (TestLedger::new(1, "a"), TestLedger::new(2, "a"));
    let hash = consent_ledger_format::chain::hash(&one.bytes[1]);
    let secret = one.secrets.ledger.webhook_secret(&hash);
    assert!(secret.starts_with("whsec_"));
    assert_ne!(secret, other.secrets.ledger.webhook_secret(&hash));
    assert_ne!(secret, one.secrets.ledger.webhook_secret(&one.tip.hash));
}

/// What remains after an erasure: who has the keys of all living persons can say that an entry is of one
/// of the erased, all of them together, and not of which.
#[test]
fn elimination_leaves_the_erased_together() {
    let mut ledger = TestLedger::new(1, "a");
    for person in [0, 1, 2, 0, 1, 2] {
        ledger.act(person, true, false);
    }
    ledger.erase(&[0, 1]);
    let mut left = Vec::new();
    let survivors = ledger.survivors();
    ledger
        .rebuild_with(&survivors, 1, &mut |index, found| {
            if let consent_ledger_format::rebuild::Found::Unexplained { .. } = found {
                left.push(index);
            }
        })
        .unwrap();
    assert_eq!(left, [3, 4, 6, 7, 9, 9]);
    // The erased persons' entries have the same shape, so nothing sorts them.
    let shapes: BTreeSet<_> = [3, 4, 6, 7].map(|it| ledger.bytes[it].len()).into_iter().collect();
    assert_eq!(shapes.len(), 1);
    // Keys that were never the persons' open none of them.
    let stranger = Key::new([9; 32]);
    let Body::Persons(persons) = &entry_at(&ledger, 3).body else { panic!() };
    let key = consent_ledger_format::seal::OneTimeKey::derive(&stranger, &persons.slots[0].salt);
    let opened = consent_ledger_format::slot::open_record_once(&key, LEDGER, 3, persons, 0);
    assert!(opened.is_err());
}
