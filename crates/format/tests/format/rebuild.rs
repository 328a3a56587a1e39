//! The pass over a ledger finds every entry's person, and refuses a vault that does not belong to it.

use std::collections::BTreeSet;

use consent_ledger_format::{
    entry::Body,
    message::{RecordKind, VaultState, item::Content},
    rebuild::{FirstSurplus, Found, Lane, RebuildError},
    slot::{OpenedEvidence, open_evidence},
    vault::Person,
};
use proptest::prelude::*;
use rand::SeedableRng as _;

use super::support::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_pass_finds_the_person_of_every_tag(steps in any_steps(), seed: u64) {
        let ledger = TestLedger::of_steps(seed, "a", &steps);
        let (mut records, mut uses) = (vec![0; 6], vec![0; 6]);
        let rebuilt = ledger.rebuild_with(&ledger.people, 1, &mut |index, found| match found {
            Found::Record { person, number, slot, .. } => {
                assert_eq!(records[person as usize], number, "entry {index}");
                records[person as usize] += 1;
                let keys = &ledger.people[person as usize].keys;
                let evidence = open_evidence(keys, number, LEDGER, index, slot).unwrap();
                assert_eq!(slot.evidence.is_none(), evidence == OpenedEvidence::None);
            }
            Found::Use { persons, .. } => {
                for (person, number) in persons {
                    assert_eq!(uses[*person as usize], *number, "entry {index}");
                    uses[*person as usize] += 1;
                }
            }
            _ => {}
        }).unwrap();
        for (person, (landed_records, landed_uses)) in ledger.counters.iter().enumerate() {
            prop_assert_eq!((records[person], uses[person]), (*landed_records, *landed_uses));
            prop_assert_eq!(landed(&rebuilt.counters[person]), ledger.counters[person]);
            prop_assert_eq!(rebuilt.counters[person].is_erased, ledger.is_erased[person]);
            let keys = &ledger.people[person].keys;
            let expected = rebuilt.next.get(&keys.tags().tag(*landed_records));
            prop_assert_eq!(expected.map(|it| (it.person as usize, it.lane)), Some((person, Lane::Records)));
            let expected = rebuilt.next.get(&keys.use_tag(*landed_uses).unwrap());
            prop_assert_eq!(expected.map(|it| (it.person as usize, it.lane)), Some((person, Lane::Uses)));
        }
        prop_assert_eq!(rebuilt.next.len(), 12);
        prop_assert_eq!(rebuilt.totals, ledger.totals);
    }

    #[test]
    fn after_an_erasure_the_survivors_keys_are_enough(steps in any_steps(), seed: u64) {
        let ledger = TestLedger::of_steps(seed, "a", &steps);
        let rebuilt = ledger.rebuild_with(&ledger.survivors(), 1, &mut |_, _| {}).unwrap();
        prop_assert_eq!(rebuilt.totals, ledger.totals);
        prop_assert!(rebuilt.counters.iter().all(|counters| !counters.is_erased));
    }

    #[test]
    fn a_lost_key_is_found_and_refused(steps in any_steps(), seed: u64, lost in 0usize..6) {
        let mut ledger = TestLedger::of_steps(seed, "a", &steps);
        let before = ledger.next_index();
        if ledger.is_erased[lost] || ledger.act(lost, true, false).is_none() {
            return Ok(());
        }
        let mut people = ledger.people.clone();
        people.remove(lost);
        let refused = ledger.rebuild_with(&people, 1, &mut |_, _| {}).unwrap_err();
        let is_surplus = matches!(refused, RebuildError::Surplus { lane: Lane::Records, first, .. }
            if matches!(first, FirstSurplus::Certain(index) if index <= before));
        prop_assert!(is_surplus, "{refused}");
    }

    #[test]
    fn forgotten_uses_are_counted_in_the_totals(steps in any_steps(), seed: u64, who in 0usize..6) {
        let mut ledger = TestLedger::of_steps(seed, "a", &steps);
        let landed = u32::try_from(ledger.counters[who].1).unwrap();
        if landed == 0 || ledger.is_erased[who] {
            return Ok(());
        }
        let uses = &mut ledger.people[who].keys.uses;
        *uses = uses.without(&(0..=landed - 1)).unwrap();
        let refused = ledger.rebuild().unwrap_err();
        let is_surplus = matches!(refused, RebuildError::Surplus { lane: Lane::Uses, .. });
        prop_assert!(is_surplus, "{refused}");
        ledger.totals.lane1 += u64::from(landed);
        ledger.vault_state(1, 0);
        ledger.record_use(&[who]);
        let rebuilt = ledger.rebuild().unwrap();
        prop_assert_eq!(rebuilt.counters[who].uses, u64::from(landed) + 1);
        prop_assert_eq!(rebuilt.totals, ledger.totals);
    }
}

#[test]
fn forgotten_evidence_is_told_as_forgotten_and_not_as_damage() {
    let mut ledger = TestLedger::new(1, "a");
    let first = ledger.act(0, true, false).unwrap();
    let second = ledger.act(0, true, true).unwrap();
    let evidence = &mut ledger.people[0].keys.evidence;
    *evidence = evidence.without(&(0..=0)).unwrap();
    let keys = &ledger.people[0].keys;
    for (number, index, is_known) in [(0, first, false), (1, second, true)] {
        let Body::Persons(persons) = &entry_at(&ledger, index).body else { panic!() };
        let opened = open_evidence(keys, number, LEDGER, index, &persons.slots[0]).unwrap();
        assert_eq!(opened == OpenedEvidence::Forgotten, !is_known);
        assert_eq!(opened.known().is_some(), is_known);
    }
    // Records are sealed apart, so the state is the same.
    assert!(ledger.rebuild().is_ok());
}

#[test]
fn an_older_vault_is_refused_by_name() {
    let mut ledger = TestLedger::new(1, "a");
    ledger.act(0, true, false);
    ledger.vault_state(3, 0);
    let at = ledger.next_index() - 1;
    assert!(ledger.rebuild_with(&ledger.people, 3, &mut |_, _| {}).is_ok());
    // A compaction whose entry did not land is one generation ahead.
    assert!(ledger.rebuild_with(&ledger.people, 4, &mut |_, _| {}).is_ok());
    let older = ledger.rebuild_with(&ledger.people, 2, &mut |_, _| {}).unwrap_err();
    assert_eq!(older, RebuildError::OlderVault { index: at, ledger: 3, vault: 2 });
    assert!(older.to_string().contains("older copy"));
}

#[test]
fn a_vault_that_lost_tombstones_is_refused() {
    let mut ledger = TestLedger::new(1, "a");
    ledger.vault_state(1, 2);
    let lost = RebuildError::LostTombstones { index: 3, ledger: 2, vault: 0 };
    assert_eq!(ledger.rebuild().unwrap_err(), lost);
}

#[test]
fn an_erasure_whose_keys_are_still_there_is_told_so_that_it_can_be_finished() {
    let mut ledger = TestLedger::new(1, "a");
    ledger.act(0, true, false);
    ledger.record_use(&[0, 1]);
    ledger.erase(&[0]);
    let rebuilt = ledger.rebuild().unwrap();
    let erased: Vec<_> = rebuilt.counters.iter().map(|counters| counters.is_erased).collect();
    assert_eq!(erased, [true, false, false, false, false, false]);
    assert_eq!(rebuilt.totals, ledger.totals);
}

#[test]
fn an_entry_of_somebody_after_their_erasure_is_refused() {
    let mut ledger = TestLedger::new(1, "a");
    ledger.act(0, true, false);
    ledger.erase(&[0]);
    let at = ledger.next_index();
    ledger.is_erased[0] = false;
    ledger.act(0, true, false);
    let refused = ledger.rebuild().unwrap_err();
    assert_eq!(refused, RebuildError::AfterErasure { index: at });
}

#[test]
fn a_tag_that_comes_again_is_no_entry_of_the_persons() {
    let mut ledger = TestLedger::new(1, "a");
    ledger.act(0, true, false);
    let again = entry_at(&ledger, 3).body.clone();
    ledger.append(again);
    let refused = ledger.rebuild().unwrap_err();
    let first = FirstSurplus::Certain(4);
    let want = RebuildError::Surplus { lane: Lane::Records, found: 1, accounted: 0, first };
    assert_eq!(refused, want);
}

#[test]
fn two_persons_with_the_same_keys_are_refused() {
    let mut ledger = TestLedger::new(1, "a");
    ledger.people[4].keys = ledger.people[2].keys.clone();
    let refused = ledger.rebuild().unwrap_err();
    assert_eq!(refused, RebuildError::SameKeys { first: 2, second: 4 });
}

#[test]
fn totals_never_go_back() {
    let mut ledger = TestLedger::new(1, "a");
    ledger.record_use(&[0]);
    let state = VaultState { generation: 1, totals: Some(<_>::default()), ..<_>::default() };
    let at = ledger.items(&[item(Content::Vault(state))]);
    assert_eq!(ledger.rebuild().unwrap_err(), RebuildError::TotalsWentBack { index: at });
}

#[test]
fn the_wrong_ledgers_vault_is_refused() {
    let mut ledger = TestLedger::new(1, "a");
    ledger.act(0, true, false);
    let other = TestLedger::new(2, "a");
    let refused = ledger.rebuild_with(&other.people, 1, &mut |_, _| {}).unwrap_err();
    assert!(matches!(refused, RebuildError::Surplus { .. }), "{refused}");
}

#[test]
fn references_and_causes_name_records_that_the_pass_has_met() {
    let mut ledger = TestLedger::new(1, "a");
    ledger.act(0, true, false);
    ledger.act(1, false, false);
    ledger.step(&Step::Expire { persons: vec![0, 1] });
    ledger.step(&Step::Link { persons: [0, 1] });
    let mut met = BTreeSet::new();
    let mut kinds = Vec::new();
    ledger
        .rebuild_with(&ledger.people, 1, &mut |_, found| {
            let Found::Record { opened, place, .. } = found else { return };
            let causes = opened.record.changes.iter().map(|change| change.cause.clone());
            for cause in causes.filter(|cause| !cause.is_empty()) {
                assert!(met.contains(&cause));
            }
            let peer = opened.record.peer.map(|peer| peer as usize);
            assert_eq!(peer, (opened.kind == RecordKind::Link).then_some(1 - place));
            met.insert(opened.reference.to_vec());
            kinds.push(opened.kind);
        })
        .unwrap();
    assert_eq!((met.len(), kinds.len()), (6, 6));
}

#[test]
fn a_person_is_never_printed() {
    let rng = &mut rand_chacha::ChaCha20Rng::seed_from_u64(1);
    let person = Person::new("user:secret".into(), rng);
    assert_eq!(format!("{person:?}"), "Person(…)");
}
