//! Two ledgers of the same acts by other people. Without keys they differ in nothing but random bytes: not in
//! the kinds of their entries, not in their sizes, and not in what stands in clear.

use consent_ledger::proto::{
    self, Action, Actor, LinkConfidence,
    import_consents_request::Message,
    ledger::{self, entry::Body},
};
use futures_util::stream;

use crate::support::{Server, act, change, eventually, now_ms, timestamp};

/// The people of a ledger. Those of the other one have ids of other lengths.
type People = [&'static str; 6];

const ONE: People = ["user:1", "user:22", "device:a1", "user:lara", "user:tom-9", "user:zoe"];
const OTHER: People =
    ["user:9876", "user:x-1", "device:k", "user:alexander", "user:z", "user:maximiliane"];

fn evidence(touchpoint: &str) -> Option<proto::Evidence> {
    Some(proto::Evidence {
        touchpoint: touchpoint.to_owned(),
        method: "checkbox".to_owned(),
        ip_address: "192.0.2.7".to_owned(),
        ..proto::Evidence::default()
    })
}

/// The same acts, one after the other, by these people.
async fn entries_of(people: &People) -> Vec<ledger::Entry> {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut clients = server.clients_with_catalog(&["news", "care"], &["email", "sms"]).await;
    let double = proto::Purpose { double_opt_in: true, ..crate::support::consent_purpose("club") };
    clients.put_purpose(double).await;
    for (number, person) in people.iter().enumerate() {
        let request = proto::RecordConsentRequest {
            evidence: evidence("signup"),
            idempotency_key: format!("signup-{number}"),
            ..act(person, vec![change(Action::Grant, "news", "email")])
        };
        clients.record(request).await;
    }
    clients.record_change(people[1], Action::Withdraw, "news", "email").await;
    clients.record_change(people[1], Action::Object, "*", "*").await;
    let preferences = proto::ContactPreferences {
        language: "de".to_owned(),
        time_zones: vec!["Europe/Vienna".to_owned()],
        ..proto::ContactPreferences::default()
    };
    let request = proto::RecordConsentRequest {
        preferences: Some(preferences),
        ..act(people[3], vec![change(Action::Grant, "care", "sms")])
    };
    clients.record(request).await;
    clients.link(people[0], people[2], LinkConfidence::Verified).await;
    clients.link(people[3], people[4], LinkConfidence::Asserted).await;
    clients.unlink(people[3], people[4]).await;
    let asked = clients.record(act(people[5], vec![change(Action::Grant, "club", "email")])).await;
    let confirm = proto::ConfirmConsentRequest {
        token: asked.confirmation.unwrap().token,
        ..proto::ConfirmConsentRequest::default()
    };
    clients.consent.confirm_consent(confirm).await.unwrap();
    let by_parent = proto::Authority { relationship: "parent".into(), ..Default::default() };
    let guardian = proto::RecordConsentRequest {
        actor: Actor::Guardian.into(),
        evidence: Some(proto::Evidence { authority: Some(by_parent), ..Default::default() }),
        ..act(people[4], vec![change(Action::Grant, "care", "email")])
    };
    clients.record(guardian).await;
    for person in [people[0], people[3]] {
        let used = proto::RecordUseRequest {
            subject: person.to_owned(),
            purpose: "news".to_owned(),
            channel: "email".to_owned(),
            ..proto::RecordUseRequest::default()
        };
        clients.consent.record_use(used).await.unwrap();
    }
    let subscription = proto::Subscription {
        name: "crm".to_owned(),
        owner: "crm-team".to_owned(),
        ..proto::Subscription::default()
    };
    clients.subscribe(subscription).await;
    // Rows of an import come in a random order, so all of them are of one shape.
    let rows = people.iter().map(|person| proto::ImportRow {
        subject: (*person).to_owned(),
        changes: vec![change(Action::Refuse, "care", "email")],
        ..proto::ImportRow::default()
    });
    let start = proto::ImportStart { source: "crm-2026".to_owned(), dry_run: false };
    let messages =
        [Message::Start(start), Message::Rows(proto::ImportRows { rows: rows.collect() })];
    let messages = messages.map(|message| proto::ImportConsentsRequest { message: Some(message) });
    clients.consent.import_consents(stream::iter(messages)).await.unwrap();
    // Grants of three end in one entry.
    let ends_at = now_ms() + 2_500;
    for person in &people[3..] {
        let mut grant = change(Action::Grant, "news", "sms");
        grant.expires_at = Some(timestamp(ends_at));
        clients.record(act(person, vec![grant])).await;
    }
    let head = clients.checkpoint().await.size;
    eventually("the ends are recorded", async || {
        (clients.checkpoint().await.size > head).then_some(())
    })
    .await;
    clients.entries(0).await.into_iter().map(|(_, entry)| entry).collect()
}

/// Zeros in the place of random bytes.
fn hide(bytes: &mut [u8]) {
    bytes.fill(0);
}

fn hide_sealed(sealed: &mut ledger::Sealed) {
    for bytes in [&mut sealed.salt, &mut sealed.ciphertext, &mut sealed.commitment] {
        hide(bytes);
    }
}

/// An entry without its time and without what is random in it. All sizes stay.
fn shape(mut entry: ledger::Entry) -> ledger::Entry {
    entry.recorded_at_s = 0;
    hide(&mut entry.prev_hash);
    hide(&mut entry.mac);
    match entry.body.as_mut().unwrap() {
        Body::LedgerOpened(opened) => {
            opened.created_at_s = 0;
            hide(&mut opened.ledger_id);
        }
        Body::Persons(persons) => {
            for slot in &mut persons.slots {
                for bytes in [
                    &mut slot.tag,
                    &mut slot.salt,
                    &mut slot.record,
                    &mut slot.record_commit,
                    &mut slot.evidence,
                    &mut slot.evidence_commit,
                ] {
                    hide(bytes);
                }
            }
            persons.shared.iter_mut().for_each(hide_sealed);
        }
        Body::Uses(uses) => {
            hide(&mut uses.tags);
            uses.shared.iter_mut().for_each(hide_sealed);
        }
        Body::Confidential(confidential) => confidential.items.iter_mut().for_each(hide_sealed),
        _ => {}
    }
    entry
}

#[tokio::test(flavor = "multi_thread")]
async fn two_ledgers_of_the_same_acts_by_other_people_differ_in_nothing_but_random_bytes() {
    let (one, other) = (entries_of(&ONE).await, entries_of(&OTHER).await);
    assert_eq!(one.len(), other.len());
    for (one, other) in one.iter().zip(&other) {
        assert_eq!(shape(one.clone()), shape(other.clone()), "entry {}", one.index);
    }
    // What is hidden above is random: none of it is in both.
    let random = |entries: &[ledger::Entry]| -> std::collections::BTreeSet<Vec<u8>> {
        let slots = entries.iter().filter_map(|entry| match &entry.body {
            Some(Body::Persons(persons)) => Some(&persons.slots),
            _ => None,
        });
        let parts = slots.flatten().flat_map(|slot| {
            [&slot.tag, &slot.salt, &slot.record, &slot.record_commit, &slot.evidence_commit]
        });
        let macs = entries.iter().map(|entry| &entry.mac);
        parts.chain(macs).filter(|bytes| !bytes.is_empty()).cloned().collect()
    };
    let (of_one, of_other) = (random(&one), random(&other));
    assert!(of_one.is_disjoint(&of_other));
    assert_eq!(of_one.len(), of_other.len());
    let of_several = |entry: &&ledger::Entry| match &entry.body {
        Some(Body::Persons(persons)) => persons.slots.len() > 2,
        _ => false,
    };
    assert_eq!(one.iter().filter(of_several).count(), 1, "the ends of three");
}
