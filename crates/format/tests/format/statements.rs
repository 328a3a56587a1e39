//! What leaves the ledger: openings of one entry, disclosures, proofs of propagation.

use consent_ledger_format::{
    confidential::{Kind, item_place, open_item_once},
    disclosure::{
        ConfidentialDisclosure, DisclosureError, Found, PersonDisclosure, Verified, Verifier,
    },
    entry::Body,
    keys::ledger::ConfidentialKey,
    message::{
        Disclosure, EntryOpening, ItemOpening, Propagation, Record, RecordKind, item::Content,
    },
    opening::{ProofError, open_entry, verify_entry},
    propagation::{PropagationError, open_one_item, verify},
};
use consent_ledger_tlog::key::VerifierKey;
use proptest::prelude::*;

use super::support::*;

fn key() -> Vec<VerifierKey> {
    vec![TestLedger::signer().verifier().clone()]
}

fn opening(ledger: &TestLedger, person: usize, number: u64, index: u64) -> EntryOpening {
    let (person, entry) = (&ledger.people[person], entry_at(ledger, index));
    open_entry(person, number, LEDGER, entry, &ledger.proof(index)).unwrap()
}

/// A disclosure of some persons and of all kinds, as a ledger makes it.
fn disclose(ledger: &TestLedger, persons: &[usize], revision: u64) -> Disclosure {
    let root = ledger.root();
    let kinds = [Kind::Use, Kind::Erasure, Kind::Delivery, Kind::Subscription, Kind::Webhook];
    let mut confidential = ConfidentialDisclosure::new(&root, LEDGER, revision, &kinds);
    let people: Vec<_> = persons.iter().map(|person| &ledger.people[*person]).collect();
    let mut parts: Vec<_> =
        people.iter().map(|person| PersonDisclosure::new(LEDGER, person)).collect();
    let mut numbers = vec![0; persons.len()];
    for entry in ledger.entries.iter().take(usize::try_from(revision).unwrap()) {
        confidential.add(entry).unwrap();
        let Body::Persons(body) = &entry.body else { continue };
        for (at, person) in people.iter().enumerate() {
            let tag = person.keys.tags().tag(numbers[at]);
            if let Some((place, _)) = body.slot_of(&tag) {
                parts[at].add(entry.index, body, place).unwrap();
                numbers[at] += 1;
            }
        }
    }
    let mut disclosure = Disclosure {
        ledger_id: LEDGER.to_vec(),
        revision,
        persons: parts.into_iter().map(|part| part.finish(true)).collect(),
        ..Disclosure::default()
    };
    confidential.finish(&mut disclosure);
    disclosure
}

fn check(ledger: &TestLedger, disclosure: &Disclosure) -> Result<(Verified, u32), DisclosureError> {
    let mut verifier = Verifier::new(disclosure)?;
    let mut records = 0;
    for entry in &ledger.entries {
        verifier.follow(entry, &mut |found| {
            records += u32::from(matches!(found, Found::Record { .. }));
        })?;
    }
    Ok((verifier.finish()?, records))
}

/// A ledger in which persons 0 to 3 each have a record at least.
fn ledger(seed: u64, steps: &[Step]) -> TestLedger {
    let mut ledger = TestLedger::new(seed, "a");
    (0..4).for_each(|person| {
        ledger.act(person, true, false);
    });
    steps.iter().for_each(|step| ledger.step(step));
    ledger
}

#[test]
fn an_opening_proves_one_act_and_its_evidence() {
    let ledger = ledger(1, &[]);
    let verified = verify_entry(&opening(&ledger, 2, 0, 5), &key()).unwrap();
    assert_eq!((verified.index, verified.identity.as_str()), (5, "user:a2"));
    assert!(verified.is_identity_proven);
    assert_eq!(verified.evidence, Some(evidence()));
    assert_eq!(verified.record.kind, RecordKind::Act);
    assert_eq!(Some(verified.reference()), ledger.last[2]);
    assert_eq!(verified.record.record.changes, vec![grant()]);
}

#[test]
fn an_opening_with_anything_changed_is_refused() {
    let mut ledger = ledger(1, &[]);
    let second = ledger.act(2, true, true).unwrap();
    let (first, later) = (opening(&ledger, 2, 0, 5), opening(&ledger, 2, 1, second));
    assert!(!verify_entry(&later, &key()).unwrap().is_identity_proven);
    assert!(later.identity_key.is_empty());
    let changed = |change: &dyn Fn(&mut EntryOpening)| {
        let mut opening = first.clone();
        change(&mut opening);
        verify_entry(&opening, &key()).unwrap_err()
    };
    assert!(matches!(changed(&|it| it.record_key = later.record_key.clone()), ProofError::Open(_)));
    let evidence_key = changed(&|it| it.evidence_key = later.evidence_key.clone());
    assert!(matches!(evidence_key, ProofError::Open(_)));
    assert_eq!(changed(&|it| it.identity = "user:a3".into()), ProofError::Identity);
    assert!(matches!(changed(&|it| it.slot = 1), ProofError::Open(_)));
    assert!(matches!(changed(&|it| it.entry[60] ^= 1), ProofError::Inclusion(_)));
    let moved = changed(&|it| it.proof = later.proof.clone());
    assert_eq!(moved, ProofError::Index { proof: second, entry: 5 });
    assert!(matches!(changed(&|it| it.ledger_id = vec![0; 16]), ProofError::Open(_)));
    assert!(matches!(changed(&|it| it.record_key.truncate(31)), ProofError::Field(_)));
    assert_eq!(verify_entry(&first, &[]), Err(ProofError::NoKey));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_disclosure_opens_all_records_of_its_persons_up_to_its_revision(
        steps in any_steps(), seed: u64, cut: prop::sample::Index,
    ) {
        let ledger = ledger(seed, &steps);
        let revision = 7 + cut.index(ledger.entries.len() - 6) as u64;
        let disclosure = disclose(&ledger, &[0, 3], revision);
        let (verified, records) = check(&ledger, &disclosure).unwrap();
        prop_assert_eq!(records as usize, disclosure.persons.iter().map(|it| it.records.len()).sum::<usize>());
        prop_assert_eq!(verified.identities, [Some("user:a0".to_owned()), Some("user:a3".to_owned())]);
    }

    #[test]
    fn a_disclosure_without_one_of_its_records_is_refused(
        steps in any_steps(), seed: u64, left_out: prop::sample::Index,
    ) {
        let ledger = ledger(seed, &steps);
        let good = disclose(&ledger, &[0], ledger.next_index());
        let count = good.persons[0].records.len();
        let at = left_out.index(count);
        let mut changed = good.clone();
        changed.persons[0].records.remove(at);
        let refused = check(&ledger, &changed).unwrap_err();
        let is_right = match at {
            _ if count == 1 => refused == DisclosureError::NoRecords(0),
            0 => matches!(refused, DisclosureError::NotFirst { .. }),
            at if at == count - 1 => matches!(refused, DisclosureError::TagAfter { .. }),
            _ => matches!(refused, DisclosureError::Gap { .. }),
        };
        prop_assert!(is_right, "{at} of {count}: {refused}");
        // Who leaves the last ones out must name a tag that the log holds.
        let mut honest_tag = good.clone();
        if let Some(dropped) = honest_tag.persons[0].records.pop()
            && count > 1
        {
            let number = count as u64 - 1;
            honest_tag.persons[0].tag_after = ledger.people[0].keys.tags().tag(number).to_vec();
            let refused = check(&ledger, &honest_tag).unwrap_err();
            prop_assert_eq!(refused, DisclosureError::LeftOut { person: 0, index: dropped.index });
        }
    }
}

#[test]
fn a_disclosure_is_refused_for_another_persons_record_in_its_row() {
    let ledger = ledger(1, &[]);
    let mut disclosure = disclose(&ledger, &[0, 1], ledger.next_index());
    let foreign = disclosure.persons[1].records[0].clone();
    disclosure.persons[0].records.push(foreign);
    let refused = check(&ledger, &disclosure).unwrap_err();
    assert_eq!(refused, DisclosureError::Gap { person: 0, index: 4 });
}

#[test]
fn a_kept_receipt_that_a_disclosure_does_not_list_shows_that_it_is_incomplete() {
    let mut ledger = ledger(1, &[]);
    // The ledger secretly keeps a second key for the same identity.
    ledger.people[5].identity = ledger.people[0].identity.clone();
    let hidden = ledger.act(5, false, true).unwrap();
    let receipt = verify_entry(&opening(&ledger, 5, 0, hidden), &key()).unwrap();
    let (verified, _) = check(&ledger, &disclose(&ledger, &[0], ledger.next_index())).unwrap();
    assert_eq!(verified.lists(receipt.index, &receipt.reference()), None);
    let listed = verify_entry(&opening(&ledger, 0, 0, 3), &key()).unwrap();
    assert!(verified.lists(listed.index, &listed.reference()).is_some());
}

#[test]
fn a_disclosure_leads_to_nothing_later() {
    let mut ledger = ledger(1, &[]);
    let disclosure = disclose(&ledger, &[0], ledger.next_index());
    let revision = disclosure.revision;
    // The tag that it names is used up at once by the record of the disclosure itself.
    let kind = RecordKind::Disclosed.into();
    ledger.records(&[0], |_, _| Record { kind, ..Record::default() });
    let later = ledger.act(0, true, true).unwrap();
    let named: Vec<_> = disclosure.persons.iter().map(|person| person.tag_after.clone()).collect();
    let holds = |index: u64| {
        let Body::Persons(persons) = &entry_at(&ledger, index).body else { panic!() };
        persons.slots.iter().any(|slot| named.contains(&slot.tag.to_vec()))
    };
    assert!(holds(revision) && !holds(later));
    assert!(check(&ledger, &disclosure).is_ok());
}

#[test]
fn a_disclosure_opens_no_confidential_text_at_or_after_its_revision() {
    let mut ledger = ledger(1, &[Step::Use { persons: vec![0] }, Step::Deliver]);
    let revision = ledger.next_index();
    ledger.step(&Step::Use { persons: vec![0] });
    ledger.step(&Step::Deliver);
    let good = disclose(&ledger, &[0], revision);
    assert_eq!((good.keys.len(), good.texts.len()), (0, 2), "the epoch goes on");
    let mut verifier = Verifier::new(&good).unwrap();
    let mut texts = 0;
    for entry in &ledger.entries {
        let visit = &mut |found: Found<'_>| {
            texts += u32::from(matches!(found, Found::Use(_) | Found::Item { .. }));
        };
        verifier.follow(entry, visit).unwrap();
    }
    assert_eq!(texts, 2);
    let mut later = good.clone();
    later.texts[1].index = revision;
    let refused = check(&ledger, &later).unwrap_err();
    assert_eq!(refused, DisclosureError::Later { epoch: 0, revision });
    let mut whole_epoch = good;
    let key = ledger.root().of_epoch(Kind::Use, 0).bytes().to_vec();
    whole_epoch.keys.push(consent_ledger_format::message::ConfidentialKey {
        kind: 1,
        epoch: 0,
        key,
    });
    let refused = check(&ledger, &whole_epoch).unwrap_err();
    assert_eq!(refused, DisclosureError::Later { epoch: 0, revision });
}

#[test]
fn a_disclosure_without_an_end_says_so_and_opens_what_comes_later() {
    let mut ledger = ledger(1, &[Step::Deliver]);
    let revision = ledger.next_index();
    ledger.step(&Step::Deliver);
    let mut disclosure = disclose(&ledger, &[0], revision);
    let root = ledger.root();
    let kinds = [Kind::Delivery, Kind::Webhook];
    let confidential = ConfidentialDisclosure::new(&root, LEDGER, revision, &kinds);
    disclosure.texts.clear();
    confidential.finish_open_ended(&mut disclosure);
    assert!(disclosure.open_ended);
    let [key] = &disclosure.keys[..] else { panic!("{:?}", disclosure.keys) };
    assert_eq!((key.kind, key.epoch), (u32::from(Kind::Delivery.byte()), 0));
    assert!(check(&ledger, &disclosure).is_ok());
    let later = entry_at(&ledger, revision);
    let Body::Confidential(items) = &later.body else { panic!("{later:?}") };
    let key = ConfidentialKey::from_slice(&key.key).unwrap().one_time(&items[0].salt);
    assert!(open_item_once(&key, &item_place(LEDGER, revision, 0).unwrap(), &items[0]).is_ok());
    // Not even such a disclosure has keys of an epoch that has not begun.
    disclosure.keys[0].epoch = 1;
    let refused = check(&ledger, &disclosure).unwrap_err();
    assert_eq!(refused, DisclosureError::Later { epoch: 1, revision });
    disclosure.keys[0].epoch = 0;
    disclosure.open_ended = false;
    let refused = check(&ledger, &disclosure).unwrap_err();
    assert_eq!(refused, DisclosureError::Later { epoch: 0, revision });
}

#[test]
fn a_webhooks_address_is_never_disclosed() {
    let mut ledger = ledger(1, &[]);
    ledger.items(&[subscription(), webhook()]);
    let mut disclosure = disclose(&ledger, &[0], ledger.next_index());
    assert_eq!(disclosure.texts.len(), 1, "the subscription alone");
    disclosure.texts[0].kind = u32::from(Kind::Webhook.byte());
    assert_eq!(check(&ledger, &disclosure).unwrap_err(), DisclosureError::Kind(4));
}

#[test]
fn a_disclosure_is_verified_against_all_entries_below_its_revision() {
    let ledger = ledger(1, &[]);
    let revision = ledger.next_index();
    let disclosure = disclose(&ledger, &[0], revision);
    let mut verifier = Verifier::new(&disclosure).unwrap();
    for entry in &ledger.entries[..6] {
        verifier.follow(entry, &mut |_| {}).unwrap();
    }
    let short = DisclosureError::Short { revision, entries: 6 };
    assert_eq!(verifier.finish().unwrap_err(), short);
    let mut verifier = Verifier::new(&disclosure).unwrap();
    verifier.follow(&ledger.entries[0], &mut |_| {}).unwrap();
    let skipped = verifier.follow(&ledger.entries[2], &mut |_| {}).unwrap_err();
    assert_eq!(skipped, DisclosureError::Sequence { want: 1, got: 2 });
}

fn propagation(ledger: &TestLedger, created: u64, received: u64, event: u64) -> Propagation {
    let root = ledger.root();
    let open = |index: u64| -> ItemOpening {
        let (entry, proof) = (entry_at(ledger, index), ledger.proof(index));
        open_one_item(&root, LEDGER, entry, 0, &proof).unwrap()
    };
    Propagation {
        subscription: Some(open(created)),
        delivery: Some(open(received)),
        event_index: event,
        shard: 1,
        ledger_id: LEDGER.to_vec(),
    }
}

#[test]
fn a_proof_of_propagation_opens_two_items_and_no_other() {
    let mut ledger = ledger(1, &[]);
    let created = ledger.items(&[subscription(), webhook()]);
    let received = ledger.items(&[delivery(created, 3..6), delivery(created + 40, 3..7)]);
    let good = propagation(&ledger, created, received, 5);
    let verified = verify(&good, &key()).unwrap();
    assert_eq!((verified.subscription_index, verified.delivery_index), (created, received));
    assert_eq!(verified.subscription.name, "mailer");
    assert_eq!(verified.acknowledged_at_ms, 1_800_000_000_000);
    // The key of one item opens no other of the same entry, so neither the address nor another
    // subscription's acknowledgements are told.
    for (opening, other) in [(&good.subscription, 1), (&good.delivery, 1)] {
        let mut changed = opening.clone().unwrap();
        changed.item = other;
        let mut propagation = good.clone();
        if changed.entry == good.subscription.as_ref().unwrap().entry {
            propagation.subscription = Some(changed);
        } else {
            propagation.delivery = Some(changed);
        }
        let refused = verify(&propagation, &key()).unwrap_err();
        assert!(matches!(refused, PropagationError::Proof(ProofError::Open(_))), "{refused}");
    }
}

#[test]
fn a_proof_of_propagation_is_of_one_subscription_event_and_shard() {
    let mut ledger = ledger(1, &[]);
    let created = ledger.items(&[subscription()]);
    let other = ledger.items(&[subscription()]);
    let received = ledger.items(&[delivery(created, 3..6)]);
    let good = propagation(&ledger, created, received, 5);
    let refused = |propagation: Propagation| verify(&propagation, &key()).unwrap_err();
    let not_covered = |event, shard| PropagationError::NotCovered { event, shard };
    assert_eq!(refused(Propagation { event_index: 6, ..good.clone() }), not_covered(6, 1));
    assert_eq!(refused(Propagation { shard: 2, ..good.clone() }), not_covered(5, 2));
    let wrong = refused(propagation(&ledger, other, received, 5));
    assert_eq!(wrong, PropagationError::OtherSubscription { want: other, got: created });
    let swapped = Propagation {
        subscription: good.delivery.clone(),
        delivery: good.subscription.clone(),
        ..good
    };
    assert_eq!(refused(swapped), PropagationError::NoSubscription);
}

#[test]
fn an_opened_item_has_the_kind_of_its_key() {
    let mut ledger = ledger(1, &[]);
    let at = ledger.items(&[subscription(), webhook(), delivery(7, 1..2)]);
    let mut kinds = Vec::new();
    ledger
        .rebuild_with(&ledger.people, 1, &mut |index, found| {
            if let consent_ledger_format::rebuild::Found::Item { opened, .. } = found {
                assert_eq!(index, at);
                let content = opened.item.content.as_ref().unwrap();
                assert_eq!(Kind::of(content), opened.kind);
                assert_eq!(
                    opened.kind == Kind::Webhook,
                    matches!(content, Content::WebhookAddress(_))
                );
                kinds.push(opened.kind);
            }
        })
        .unwrap();
    assert_eq!(kinds, [Kind::Subscription, Kind::Webhook, Kind::Delivery]);
}
