//! The messages of a webhook: CloudEvents 1.0 in the JSON format, structured mode.
//!
//! `data` is the ProtoJSON of the message that a stream sends for the same event (see [`messages`]).
//! Only `data` names the data subject. Ids, sources and headers name no person, because they end up in
//! logs.

use std::fmt::Write as _;

use serde::Serialize;

use super::signature::Secret;
use crate::{
    domain::SubscriptionId,
    entry::timestamp,
    event::{ConsentDetail, Event, EventDetail},
    json::ProtoJson,
    messages,
    node::SnapshotSubject,
    tlog::hex,
};

/// Media type of the messages.
pub const CONTENT_TYPE: &str = "application/cloudevents+json; charset=utf-8";

/// The parts that all messages of a subscription share.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// Prefix of every id: the ledger and the subscription.
    id_prefix: String,
    source: String,
    secret: Secret,
}

/// A message. Retries have the same id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Id of the CloudEvent and of the webhook.
    pub id: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Envelope {
    /// For a subscription of a ledger.
    #[must_use]
    pub fn new(ledger_id: &[u8; 16], origin: &str, id: SubscriptionId, secret: Secret) -> Self {
        Self { id_prefix: format!("{}-{}", hex(ledger_id), id.0), source: source(origin), secret }
    }

    /// The secret that signs the messages.
    #[must_use]
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// The message of an event, with the changes that pass the filter.
    ///
    /// # Errors
    /// A timestamp of the event has no JSON form. Timestamps of the ledger have one.
    pub fn event(&self, event: &Event, passing: &[usize]) -> serde_json::Result<Message> {
        let mut id = format!("{}-{}", self.id_prefix, event.index);
        if let EventDetail::Consent(ConsentDetail { part: Some(part), .. }) = &event.detail {
            let _ = write!(id, "-{}", part.place); // Writing to a `String` cannot fail.
        }
        let message = messages::event(event, passing);
        let recorded_at = timestamp(event.recorded_at).to_string();
        self.message(message.field(), id, Some(recorded_at), &message)
    }

    /// The message of one data subject of a snapshot.
    ///
    /// # Errors
    /// As [`Self::event`].
    pub fn snapshot(&self, state: &SnapshotSubject) -> serde_json::Result<Message> {
        let pseudonym = self.secret.pseudonym(state.subject.as_str());
        let id = format!("{}-snapshot-{}-{pseudonym}", self.id_prefix, state.revision);
        self.message("snapshot", id, None, ProtoJson(&messages::snapshot_subject(state)))
    }

    /// The message at the end of a snapshot.
    ///
    /// # Errors
    /// As [`Self::event`].
    pub fn snapshot_end(&self, revision: u64, subjects: u64) -> serde_json::Result<Message> {
        let id = format!("{}-snapshot-{revision}-end", self.id_prefix);
        let end = messages::snapshot_end(revision, subjects);
        self.message("snapshot_end", id, None, ProtoJson(&end))
    }

    fn message(
        &self,
        kind: &str,
        id: String,
        time: Option<String>,
        data: impl Serialize,
    ) -> serde_json::Result<Message> {
        let event = CloudEvent {
            specversion: "1.0",
            id: &id,
            source: &self.source,
            kind: format!("consent.v1.{kind}"),
            time,
            datacontenttype: "application/json",
            data,
        };
        let body = serde_json::to_vec(&event)?;
        Ok(Message { id, body })
    }
}

/// The origin of a ledger, usually a host and a path, as a URI-reference (RFC 3986, section 4.2). Other
/// bytes are percent-encoded.
fn source(origin: &str) -> String {
    let mut text = "//".to_owned();
    for byte in origin.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}"); // Writing to a `String` cannot fail.
        }
    }
    text
}

#[derive(Serialize)]
struct CloudEvent<'a, T> {
    specversion: &'a str,
    id: &'a str,
    source: &'a str,
    #[serde(rename = "type")]
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    datacontenttype: &'a str,
    data: T,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        domain::{
            Action, Actor, ChangeRecord, Decision, Key, LinkConfidence, Millis, Outcome, Reason,
            ScopeKeys, Status, StopKind, Subject,
        },
        event::{CatalogDetail, CatalogEffect, LinkDetail, OverdueDetail, Part},
        grpc::convert,
        node::{CellPreference, Delivery, StandingStop},
    };

    fn key(text: &str) -> Option<Key> {
        Some(Key::parse(text).unwrap())
    }

    fn subject(text: &str) -> Subject {
        Subject::parse(text).unwrap()
    }

    fn envelope() -> Envelope {
        let secret = Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        Envelope::new(&[0xab; 16], "consent.example.org/eu", SubscriptionId(7), secret)
    }

    fn value(message: &Message) -> Value {
        serde_json::from_slice(&message.body).unwrap()
    }

    fn record(action: Action, outcome: Outcome) -> ChangeRecord {
        ChangeRecord {
            action,
            scope: ScopeKeys { purpose: key("news").map(Into::into), channel: None },
            purpose_version: if action == Action::Grant { 3 } else { 0 },
            expires_at: (action == Action::Grant).then_some(Millis(86_400_000)),
            data_categories: Vec::new(),
            outcome,
            linked_subjects: 0,
        }
    }

    fn event(detail: EventDetail) -> Event {
        Event { index: 12, recorded_at: Millis(1_500), detail }
    }

    fn consent(changes: Vec<ChangeRecord>) -> ConsentDetail {
        ConsentDetail {
            subject: subject("user:42"),
            actor: Actor::Guardian,
            effective_at: Millis(1_000),
            changes,
            preferences_changed: false,
            cause: None,
            reason: None,
            linked: vec![subject("email:jo@example.org")],
            part: None,
        }
    }

    /// Events of each kind, with every actor, action, outcome, confidence and effect.
    fn events() -> Vec<Event> {
        let mut all = Vec::new();
        for actor in [
            Actor::Subject,
            Actor::Guardian,
            Actor::Agent,
            Actor::Operator,
            Actor::System,
            Actor::Import,
        ] {
            let changes = vec![
                record(Action::Grant, Outcome::PendingConfirmation),
                record(Action::Grant, Outcome::BlockedByStop(Some(4))),
                record(Action::Refuse, Outcome::NoEffect),
                record(Action::Withdraw, Outcome::Applied),
                record(Action::Object, Outcome::SupersededByLater(Some(9))),
                record(Action::Expire, Outcome::Applied),
            ];
            let detail = ConsentDetail { actor, preferences_changed: true, ..consent(changes) };
            all.push(event(EventDetail::Consent(detail)));
        }
        for confidence in [None, Some(LinkConfidence::Verified), Some(LinkConfidence::Asserted)] {
            all.push(event(EventDetail::Link(LinkDetail {
                subject: subject("user:42"),
                other: subject("device:7"),
                confidence,
                linked: Vec::new(),
            })));
        }
        let effects = vec![
            CatalogEffect::Added,
            CatalogEffect::Retired,
            CatalogEffect::Reinstated,
            CatalogEffect::ReconsentRequired,
            CatalogEffect::ReconsentLifted,
            CatalogEffect::BasisChanged,
            CatalogEffect::ContentChanged,
            CatalogEffect::ClockCorrected,
        ];
        for (purpose, channel, namespace, version) in [
            (key("news"), None, None, 3),
            (None, key("sms"), None, 0),
            (None, None, key("email"), 0),
        ] {
            all.push(event(EventDetail::Catalog(CatalogDetail {
                purpose,
                channel,
                namespace,
                effects: effects.clone(),
                version,
                oldest_compatible: version,
            })));
        }
        all.push(event(EventDetail::Overdue(OverdueDetail {
            subscription: Key::parse("mailer").unwrap(),
            shard: 1,
            event_index: 5,
            pending_since: Millis(700),
        })));
        all
    }

    #[test]
    fn each_event_of_an_entry_has_an_id_of_its_own() {
        let prefix = format!("{}-7-12", "ab".repeat(16));
        for (place, more) in [(0, true), (4, false)] {
            let ended = consent(vec![record(Action::Expire, Outcome::Applied)]);
            let detail = ConsentDetail { part: Some(Part { place, more }), ..ended };
            let message = envelope().event(&event(EventDetail::Consent(detail)), &[0]).unwrap();
            assert_eq!(message.id, format!("{prefix}-{place}"));
            let data = &value(&message)["data"];
            assert_eq!(data["place"].as_u64().unwrap_or_default(), u64::from(place));
            assert_eq!(data["moreInEntry"].as_bool().unwrap_or_default(), more);
        }
    }

    /// What `watch --json` prints for the same event.
    fn printed(event: &Event, passing: &[usize]) -> (String, Value) {
        let line = serde_json::to_value(ProtoJson(&convert::event(event, passing))).unwrap();
        let Value::Object(line) = line else { panic!("a line") };
        assert_eq!(line.len(), 1);
        line.into_iter().next().unwrap()
    }

    /// What `subscription consume --json` prints for it.
    fn consumed(event: &Event, passing: &[usize]) -> Value {
        serde_json::to_value(ProtoJson(&convert::delivery(event, passing, 1))).unwrap()
    }

    #[test]
    fn the_data_is_what_streams_send() {
        let events = events();
        assert_eq!(events.len(), 13);
        for event in events {
            for passing in [&[0, 1, 2, 3, 4, 5][..], &[0, 4], &[]] {
                let posted = value(&envelope().event(&event, passing).unwrap());
                let (kind, line) = printed(&event, passing);
                assert_eq!(posted["type"], format!("consent.v1.{kind}"));
                assert_eq!(posted["data"], line);
                assert_eq!(posted["data"], consumed(&event, passing)[&kind]);
                assert_eq!(posted["time"], posted["data"]["recordedAt"]);
            }
        }
    }

    #[test]
    fn a_message_is_a_cloudevent_whose_attributes_name_nobody() {
        let change = record(Action::Withdraw, Outcome::Applied);
        let message =
            envelope().event(&event(EventDetail::Consent(consent(vec![change]))), &[0]).unwrap();
        let id = format!("{}-7-12", "ab".repeat(16));
        assert_eq!(message.id, id);
        assert_eq!(
            value(&message),
            json!({
                "specversion": "1.0",
                "id": id,
                "source": "//consent.example.org/eu",
                "type": "consent.v1.consent",
                "time": "1970-01-01T00:00:01.500Z",
                "datacontenttype": "application/json",
                "data": {
                    "index": "12",
                    "subject": "user:42",
                    "actor": "ACTOR_GUARDIAN",
                    "recordedAt": "1970-01-01T00:00:01.500Z",
                    "effectiveAt": "1970-01-01T00:00:01Z",
                    "changes": [{
                        "action": "ACTION_WITHDRAW",
                        "scope": {"purpose": "news", "channel": "*"},
                        "outcome": "OUTCOME_APPLIED",
                        "purposeVersion": 0,
                        "dataCategories": [],
                        "linkedSubjects": 0,
                    }],
                    "reason": "REASON_UNSPECIFIED",
                    "linkedSubjects": ["email:jo@example.org"],
                    "preferencesChanged": false,
                    "place": 0,
                    "moreInEntry": false,
                },
            })
        );
    }

    #[test]
    fn a_message_has_the_passing_changes_with_cause_and_reason() {
        let mut grant = record(Action::Grant, Outcome::Applied);
        grant.data_categories = vec!["user.contact".to_owned()];
        let expire = record(Action::Expire, Outcome::Applied);
        let detail = ConsentDetail {
            cause: Some(3),
            reason: Some(Reason::Expired),
            ..consent(vec![grant, expire])
        };
        let message = envelope().event(&event(EventDetail::Consent(detail)), &[0]).unwrap();
        let data = value(&message)["data"].take();
        assert_eq!(data["changes"].as_array().unwrap().len(), 1);
        assert_eq!(data["changes"][0]["dataCategories"], json!(["user.contact"]));
        assert_eq!((&data["causeIndex"], &data["reason"]), (&json!("3"), &json!("REASON_EXPIRED")));
    }

    fn snapshot() -> SnapshotSubject {
        let reasons = Reason::ALL.into_iter();
        let statuses = [
            Status::Unknown,
            Status::Requested,
            Status::Refused,
            Status::Given,
            Status::Withdrawn,
            Status::Revoked,
            Status::Expired,
            Status::Invalidated,
            Status::Objected,
        ];
        let cell = |(reason, status): (Reason, Status)| CellPreference {
            purpose: key("news").unwrap(),
            channel: key("sms").unwrap(),
            effect: reason.effect(),
            valid_until: Some(Millis(2_000)),
            not_before: None,
            decision: Decision {
                reason,
                status,
                decided_by: Some(4),
                valid_until: Some(Millis(2_000)),
                obligations: Vec::new(),
                legal_basis: None,
                data_categories: None,
            },
            whose: None,
        };
        let stop = |kind| StandingStop {
            kind,
            scope: ScopeKeys { purpose: None, channel: key("sms") },
            effective_at: Millis(1),
            index: 4,
            whose: None,
        };
        let kinds = [StopKind::Refused, StopKind::Withdrawn, StopKind::Revoked, StopKind::Objected];
        SnapshotSubject {
            subject: subject("user:42"),
            cells: reasons.zip(statuses.into_iter().cycle()).map(cell).collect(),
            stops: kinds.into_iter().map(stop).collect(),
            linked: vec![subject("device:7")],
            revision: 9,
            token: vec![1, 2, 3],
        }
    }

    /// What `subscription consume --json` prints for a part of the snapshot.
    fn consumed_snapshot(delivery: &Delivery) -> Value {
        let sent = convert::consume_delivery(delivery).remove(0);
        serde_json::to_value(ProtoJson(&sent)).unwrap()
    }

    #[test]
    fn a_snapshot_is_what_streams_send_and_its_id_names_nobody() {
        let state = snapshot();
        let message = envelope().snapshot(&state).unwrap();
        let line = consumed_snapshot(&Delivery::Snapshot(Box::new(state.clone())));
        assert_eq!(value(&message)["data"], line["snapshot"]);
        assert_eq!(value(&message)["data"]["token"], "AQID", "a consumer resumes from there");
        assert_eq!(value(&message)["type"], "consent.v1.snapshot");
        assert!(!message.id.contains("42") || !message.id.contains("user"), "{}", message.id);
        assert_eq!(message.id, envelope().snapshot(&state).unwrap().id, "always the same");

        let end = envelope().snapshot_end(9, 1).unwrap();
        let line = consumed_snapshot(&Delivery::SnapshotEnd { revision: 9, subjects: 1 });
        assert_eq!(value(&end)["data"], line["snapshotEnd"]);
        assert_eq!(value(&end)["data"], json!({"revision": "9", "subjects": "1"}));
        assert_eq!(value(&end)["type"], "consent.v1.snapshot_end");
    }

    #[test]
    fn an_origin_becomes_a_uri_reference() {
        assert_eq!(source("localhost/consent"), "//localhost/consent");
        assert_eq!(source("a.example:8080/b"), "//a.example:8080/b");
        assert_eq!(source("a#b?c%d<e>"), "//a%23b%3Fc%25d%3Ce%3E");
    }
}
