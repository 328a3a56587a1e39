//! Damage: one changed bit, and whoever can write the chain anew but has no keys, is found and told as what
//! it is.

use consent_ledger_format::{
    chain::Tip,
    entry::{Body, Entry, SealedText, Slot},
    error::OpenError,
    keys::ledger::LedgerSecret,
    message::{ChannelPut, ClockCorrected, FormatLevel},
    rebuild::{Lane, Rebuild, RebuildError, TagMap, VaultFacts},
    seal::{Part, SealError},
    secret::Key,
    slot::open_evidence,
};
use proptest::prelude::*;

use super::support::*;

/// The ledger's entries chained anew, with one body exchanged.
fn rewritten(ledger: &TestLedger, at: u64, body: &Body) -> Vec<Entry> {
    let (mut tip, mut entries) = (Tip::genesis(), Vec::new());
    for entry in &ledger.entries {
        let body = if entry.index == at { body } else { &entry.body };
        let (entry, _, next) =
            tip.link(entry.recorded_at_s, body.clone(), &ledger.root().clear).unwrap();
        tip = next;
        entries.push(entry);
    }
    entries
}

fn rebuild(ledger: &TestLedger, entries: &[Entry]) -> Option<String> {
    let facts = VaultFacts { generation: 1, tombstones: 0 };
    let people = ledger.people.as_slice();
    let mut rebuild = Rebuild::new(LEDGER, facts, people, TagMap::default()).unwrap();
    for entry in entries {
        if let Err(error) = rebuild.apply(&ledger.root(), entry, &mut |_| {}) {
            return Some(error.to_string());
        }
    }
    rebuild.finish().err().map(|error| error.to_string())
}

fn ledger() -> TestLedger {
    let mut ledger = TestLedger::new(3, "a");
    ledger.act(0, true, false);
    ledger.act(0, false, true);
    ledger.step(&Step::Link { persons: [0, 1] });
    ledger.record_use(&[0, 1, 2]);
    ledger.items(&[subscription(), webhook()]);
    ledger.erase(&[1]);
    ledger
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn one_changed_bit_anywhere_breaks_the_chain(steps in any_steps(), seed: u64, at: prop::sample::Index, bit: prop::sample::Index) {
        let ledger = TestLedger::of_steps(seed, "a", &steps);
        let at = at.index(ledger.bytes.len());
        let bit = bit.index(ledger.bytes[at].len() * 8);
        let mut tip = Tip::genesis();
        let mut refused_at = None;
        for (index, bytes) in ledger.bytes.iter().enumerate() {
            let mut bytes = bytes.clone();
            if index == at {
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            match tip.follow(&bytes) {
                Ok((_, next)) => tip = next,
                Err(_) => {
                    refused_at = Some(index);
                    break;
                }
            }
        }
        // The last entry has no follower; the tip, which a checkpoint fixes, is another one.
        let is_found = refused_at.is_some_and(|index| index <= at + 1) || tip.hash != ledger.tip.hash;
        prop_assert!(is_found);
    }
}

#[test]
fn an_entry_in_clear_that_another_has_written_is_no_entry_of_the_ledger() {
    let ledger = ledger();
    let at = ledger.next_index();
    let all = || ledger.entries.iter().cloned();
    let correction = Body::ClockCorrected(ClockCorrected {
        first_index: 1,
        end_index: at,
        right_until_ms: 1_000,
        right_again_ms: 2_000,
        reason: String::new(),
    });
    let level = Body::Level(FormatLevel { level: 2 });
    let channel =
        Body::Channel(ChannelPut { key: "email".into(), title: String::new(), retired: false });
    let (own, foreign) =
        (ledger.root().clear, LedgerSecret::new(Key::new([9; 32])).confidential().clear);
    let refused = Some(format!("entry {at}: the ledger has not written it: its MAC is wrong"));
    for body in [correction, level, channel] {
        let entry =
            |key| Entry::new(at, ledger.tip.hash, ledger.tip.recorded_at_s, body.clone(), key);
        let forged = |entry| rebuild(&ledger, &all().chain([entry]).collect::<Vec<_>>());
        let own = entry(&own);
        assert_eq!(forged(own.clone()), None);
        assert_eq!(forged(entry(&foreign)), refused);
        assert_eq!(forged(Entry { recorded_at_s: own.recorded_at_s + 1, ..own.clone() }), refused);
        assert_eq!(forged(Entry { prev_hash: [1; 32], ..own.clone() }), refused);
        // Its bytes are those of no entry without a MAC.
        for mac in [None, Some([0; 16])] {
            assert_eq!(forged(Entry { mac, ..own.clone() }), refused);
        }
        assert!(Entry::decode(&Entry { mac: None, ..own.clone() }.encode()).is_err());
        assert_eq!(Entry::decode(&own.encode()), Ok(own));
    }
    let mut opening = entry_at(&ledger, 0).clone();
    opening.mac = Some([0; 16]);
    assert!(Entry::decode(&opening.encode()).is_err());
}

#[test]
fn a_changed_tag_is_a_surplus() {
    let ledger = ledger();
    let Body::Persons(mut persons) = entry_at(&ledger, 3).body.clone() else { panic!() };
    persons.slots[0].tag[5] ^= 1;
    let entries = rewritten(&ledger, 3, &Body::Persons(persons));
    // The person's next tags are not expected any more either.
    let error = rebuild(&ledger, &entries).unwrap();
    assert!(error.contains("the vault has lost keys"), "{error}");
}

#[test]
fn every_changed_bit_of_a_record_is_told_as_damage_of_its_entry() {
    let ledger = ledger();
    let Body::Persons(good) = entry_at(&ledger, 4).body.clone() else { panic!() };
    let change = |change: &dyn Fn(&mut Slot)| {
        let mut persons = good.clone();
        change(&mut persons.slots[0]);
        rebuild(&ledger, &rewritten(&ledger, 4, &Body::Persons(persons)))
    };
    for bit in (0..good.slots[0].record.ciphertext.len() * 8).step_by(3) {
        let error = change(&|slot| slot.record.ciphertext[bit / 8] ^= 1 << (bit % 8)).unwrap();
        assert!(error.starts_with("entry 4 is damaged"), "bit {bit}: {error}");
    }
    for bit in 0..128 {
        let error = change(&|slot| slot.salt[bit / 8] ^= 1 << (bit % 8)).unwrap();
        assert!(error.starts_with("entry 4 is damaged"), "{error}");
    }
    for bit in 0..256 {
        let error = change(&|slot| slot.record.commitment[bit / 8] ^= 1 << (bit % 8)).unwrap();
        assert!(error.contains("commitment is not the one of its text"), "{error}");
    }
    let swapped = change(&|slot| {
        slot.record = {
            let Body::Persons(other) = &entry_at(&ledger, 3).body else { panic!() };
            other.slots[0].record.clone()
        }
    });
    assert!(swapped.unwrap().starts_with("entry 4 is damaged"));
}

#[test]
fn a_changed_evidence_is_damage_and_the_record_beside_it_is_not() {
    let ledger = ledger();
    let Body::Persons(mut persons) = entry_at(&ledger, 3).body.clone() else { panic!() };
    let keys = &ledger.people[0].keys;
    assert!(open_evidence(keys, 0, LEDGER, 3, &persons.slots[0]).unwrap().known().is_some());
    persons.slots[0].evidence.as_mut().unwrap().ciphertext[9] ^= 1;
    let tag = persons.slots[0].tag;
    let opened = open_evidence(keys, 0, LEDGER, 3, &persons.slots[0]);
    let (part, problem) = (Part::Evidence, SealError::Key);
    assert_eq!(opened, Err(OpenError::Damaged { index: 3, tag, part, problem }));
    assert_eq!(open_evidence(keys, 1, LEDGER, 3, &persons.slots[0]), Err(OpenError::NotTheirs));
    assert_eq!(rebuild(&ledger, &rewritten(&ledger, 3, &Body::Persons(persons))), None);
}

#[test]
fn a_record_that_was_sealed_under_another_key_than_its_tags_is_damage() {
    let mut ledger = TestLedger::new(3, "a");
    ledger.act(0, true, false);
    // Somebody with the keys of person 1 puts the tag of person 0 over person 1's record.
    ledger.act(1, true, false);
    let Body::Persons(mut persons) = entry_at(&ledger, 4).body.clone() else { panic!() };
    persons.slots[0].tag = ledger.people[0].keys.tags().tag(1);
    let error = rebuild(&ledger, &rewritten(&ledger, 4, &Body::Persons(persons))).unwrap();
    assert!(error.contains("is the person's, and its record"), "{error}");
}

/// The first confidential text of an entry.
fn text_of(body: &mut Body) -> Option<&mut SealedText> {
    match body {
        Body::Uses(uses) => Some(&mut uses.shared),
        Body::Confidential(items) => items.first_mut(),
        Body::Persons(persons) => persons.erasure.as_mut(),
        _ => None,
    }
}

#[test]
fn every_changed_bit_of_a_confidential_text_is_told_as_damage_of_its_entry() {
    let ledger = ledger();
    for at in [6, 7, 8] {
        let good = entry_at(&ledger, at).body.clone();
        let bits = text_of(&mut good.clone()).unwrap().text.ciphertext.len() * 8;
        for bit in (0..bits).step_by(5) {
            let mut body = good.clone();
            text_of(&mut body).unwrap().text.ciphertext[bit / 8] ^= 1 << (bit % 8);
            let error = rebuild(&ledger, &rewritten(&ledger, at, &body)).unwrap();
            let is_damage = error.starts_with(&format!("entry {at}")) && error.contains("damaged");
            assert!(is_damage, "bit {bit}: {error}");
        }
        let mut body = good.clone();
        text_of(&mut body).unwrap().text.commitment[0] ^= 1;
        let error = rebuild(&ledger, &rewritten(&ledger, at, &body)).unwrap();
        assert!(error.contains("commitment is not the one of its text"), "{error}");
    }
}

#[test]
fn a_surplus_names_lane_and_first_entry() {
    let mut ledger = TestLedger::new(3, "a");
    ledger.act(0, true, false);
    ledger.record_use(&[0]);
    let at = ledger.next_index();
    ledger.record_use(&[1]);
    let mut people = ledger.people.clone();
    people.remove(1);
    let refused = ledger.rebuild_with(&people, 1, &mut |_, _| {}).unwrap_err();
    assert!(matches!(refused, RebuildError::Surplus { lane: Lane::Uses, .. }));
    assert!(refused.to_string().contains(&format!("in entry {at}")), "{refused}");
}
