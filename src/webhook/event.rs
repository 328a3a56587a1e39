//! What is delivered: CloudEvents 1.0 in the JSON format, structured mode.
//!
//! The data has the names that the command line prints with `--json`. Whose data it is stands in the
//! data alone: no id, source or header names a person, because those end up in logs.

use serde::Serialize;

use super::signature::Secret;
use crate::{
    domain::{
        Action, Actor, ChangeRecord, Key, LinkConfidence, Millis, Outcome, ScopeKeys, Status,
        Subject, SubscriptionId,
    },
    event::{CatalogEffect, CatalogTold, ConsentTold, Event, EventTold, LinkTold, OverdueTold},
    node::SnapshotSubject,
    tlog::hex,
};

/// Media type of what is delivered.
pub const CONTENT_TYPE: &str = "application/cloudevents+json; charset=utf-8";

/// What a subscription's messages have in common.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// Beginning of every id: the ledger and the subscription.
    ids: String,
    source: String,
    secret: Secret,
}

/// One message: its id, the same each time that it is sent, and its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The id, of the CloudEvent and of the webhook.
    pub id: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Envelope {
    /// For a subscription of a ledger.
    #[must_use]
    pub fn new(ledger_id: &[u8; 16], origin: &str, id: SubscriptionId, secret: Secret) -> Self {
        Self { ids: format!("{}-{}", hex(ledger_id), id.0), source: source(origin), secret }
    }

    /// The secret that signs the messages.
    #[must_use]
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// An event, with those of its changes that pass the filter.
    ///
    /// # Errors
    /// None, in practice: all keys are texts.
    pub fn event(&self, event: &Event, passing: &[usize]) -> serde_json::Result<Message> {
        let id = format!("{}-{}", self.ids, event.index);
        let time = Some(time(event.recorded_at));
        match &event.told {
            EventTold::Consent(own) => {
                self.message("consent", id, time, consent(event, own, passing))
            }
            EventTold::Link(own) => self.message("link", id, time, link(event, own)),
            EventTold::Catalog(own) => self.message("catalog", id, time, catalog(event, own)),
            EventTold::Overdue(own) => self.message("overdue", id, time, overdue(event, own)),
        }
    }

    /// Of a snapshot: one data subject.
    ///
    /// # Errors
    /// As [`Self::event`].
    pub fn snapshot(&self, own: &SnapshotSubject) -> serde_json::Result<Message> {
        let pseudonym = self.secret.pseudonym(own.subject.as_str());
        let id = format!("{}-snapshot-{}-{pseudonym}", self.ids, own.revision);
        self.message("snapshot", id, None, Snapshot::of(own))
    }

    /// The end of a snapshot.
    ///
    /// # Errors
    /// As [`Self::event`].
    pub fn snapshot_end(&self, revision: u64, subjects: u64) -> serde_json::Result<Message> {
        let id = format!("{}-snapshot-{revision}-end", self.ids);
        self.message("snapshot_end", id, None, SnapshotEnd { revision, subjects })
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

/// The origin of a ledger as a URI-reference (RFC 3986, section 4.2): a host and a path, mostly. What
/// can not stand in one is percent-encoded.
fn source(origin: &str) -> String {
    use std::fmt::Write as _;
    let mut text = "//".to_owned();
    for byte in origin.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}"); // Writing to a `String` can not fail.
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

#[derive(Serialize)]
struct Consent<'a> {
    index: u64,
    subject: &'a str,
    actor: &'a str,
    recorded_at: String,
    effective_at: String,
    changes: Vec<Change<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    linked_subjects: Vec<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    preferences_changed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause_index: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Serialize)]
struct Change<'a> {
    action: &'a str,
    scope: Scope<'a>,
    outcome: &'a str,
    cause_index: Option<u64>,
    purpose_version: Option<u32>,
    expires_at: Option<String>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    data_categories: &'a [String],
}

#[derive(Serialize)]
struct Scope<'a> {
    purpose: &'a str,
    channel: &'a str,
}

#[derive(Serialize)]
struct Link<'a> {
    index: u64,
    subject: &'a str,
    other_subject: &'a str,
    confidence: Option<&'a str>,
    recorded_at: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    linked_subjects: Vec<&'a str>,
}

#[derive(Serialize)]
struct Catalog<'a> {
    index: u64,
    purpose: Option<&'a str>,
    channel: Option<&'a str>,
    effects: Vec<&'a str>,
    recorded_at: String,
    version: Option<u32>,
    oldest_compatible_version: Option<u32>,
}

#[derive(Serialize)]
struct Overdue<'a> {
    index: u64,
    subscription: &'a str,
    shard: u32,
    event_index: u64,
    pending_since: String,
    recorded_at: String,
}

#[derive(Serialize)]
struct Snapshot<'a> {
    subject: &'a str,
    cells: Vec<Cell<'a>>,
    stops: Vec<Stop<'a>>,
    revision: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    linked_subjects: Vec<&'a str>,
}

#[derive(Serialize)]
struct Cell<'a> {
    purpose: &'a str,
    channel: &'a str,
    status: &'a str,
    effect: String,
    reason: String,
    decided_by_index: Option<u64>,
    valid_until: Option<String>,
}

#[derive(Serialize)]
struct Stop<'a> {
    action: &'a str,
    scope: Scope<'a>,
    effective_at: String,
    index: u64,
}

#[derive(Serialize)]
struct SnapshotEnd {
    revision: u64,
    subjects: u64,
}

fn consent<'a>(event: &Event, own: &'a ConsentTold, passing: &[usize]) -> Consent<'a> {
    Consent {
        index: event.index,
        subject: own.subject.as_str(),
        actor: actor(own.actor),
        recorded_at: time(event.recorded_at),
        effective_at: time(own.effective_at),
        changes: passing.iter().filter_map(|at| own.changes.get(*at)).map(change).collect(),
        linked_subjects: names(&own.linked),
        preferences_changed: own.preferences_changed,
        cause_index: own.cause,
        reason: own.reason.map(|reason| reason.name().to_ascii_lowercase()),
    }
}

fn change(record: &ChangeRecord) -> Change<'_> {
    Change {
        action: action(record.action),
        scope: scope(&record.scope),
        outcome: outcome(record.outcome),
        cause_index: record.outcome.cause_index(),
        purpose_version: Some(record.purpose_version).filter(|version| *version > 0),
        expires_at: record.expires_at.map(time),
        data_categories: &record.data_categories,
    }
}

fn link<'a>(event: &Event, own: &'a LinkTold) -> Link<'a> {
    let confidence = |own| match own {
        LinkConfidence::Verified => "verified",
        LinkConfidence::Asserted => "asserted",
    };
    Link {
        index: event.index,
        subject: own.subject.as_str(),
        other_subject: own.other.as_str(),
        confidence: own.confidence.map(confidence),
        recorded_at: time(event.recorded_at),
        linked_subjects: names(&own.linked),
    }
}

fn catalog<'a>(event: &Event, own: &'a CatalogTold) -> Catalog<'a> {
    let of_purpose = |version| own.purpose.as_ref().map(|_| version);
    Catalog {
        index: event.index,
        purpose: own.purpose.as_ref().map(Key::as_str),
        channel: own.channel.as_ref().map(Key::as_str),
        effects: own.effects.iter().map(|own| effect(*own)).collect(),
        recorded_at: time(event.recorded_at),
        version: of_purpose(own.version),
        oldest_compatible_version: of_purpose(own.oldest_compatible),
    }
}

fn overdue<'a>(event: &Event, own: &'a OverdueTold) -> Overdue<'a> {
    Overdue {
        index: event.index,
        subscription: own.subscription.as_str(),
        shard: own.shard,
        event_index: own.event_index,
        pending_since: time(own.pending_since),
        recorded_at: time(event.recorded_at),
    }
}

impl<'a> Snapshot<'a> {
    fn of(own: &'a SnapshotSubject) -> Self {
        let cells = own.cells.iter().map(|cell| Cell {
            purpose: cell.purpose.as_str(),
            channel: cell.channel.as_str(),
            status: status(cell.decision.status),
            effect: cell.decision.effect().name().to_ascii_lowercase(),
            reason: cell.decision.reason.name().to_ascii_lowercase(),
            decided_by_index: cell.decision.decided_by,
            valid_until: cell.decision.valid_until.map(time),
        });
        let stops = own.stops.iter().map(|stop| Stop {
            action: action(stop.kind.action()),
            scope: scope(&stop.scope),
            effective_at: time(stop.effective_at),
            index: stop.index,
        });
        Self {
            subject: own.subject.as_str(),
            cells: cells.collect(),
            stops: stops.collect(),
            revision: own.revision,
            linked_subjects: names(&own.linked),
        }
    }
}

fn names(subjects: &[Subject]) -> Vec<&str> {
    subjects.iter().map(Subject::as_str).collect()
}

/// RFC 3339, always with its milliseconds.
fn time(at: Millis) -> String {
    let time = jiff::Timestamp::from_millisecond(at.0);
    time.map_or_else(|_| format!("{} ms", at.0), |time| format!("{time:.3}"))
}

fn scope(own: &ScopeKeys) -> Scope<'_> {
    fn key(key: Option<&Key>) -> &str {
        key.map_or("*", Key::as_str)
    }
    Scope { purpose: key(own.purpose.as_ref()), channel: key(own.channel.as_ref()) }
}

fn actor(own: Actor) -> &'static str {
    match own {
        Actor::Subject => "subject",
        Actor::Guardian => "guardian",
        Actor::Agent => "agent",
        Actor::Operator => "operator",
        Actor::System => "system",
        Actor::Import => "import",
    }
}

fn action(own: Action) -> &'static str {
    match own {
        Action::Grant => "grant",
        Action::Refuse => "refuse",
        Action::Withdraw => "withdraw",
        Action::Object => "object",
        Action::Expire => "expire",
    }
}

fn outcome(own: Outcome) -> &'static str {
    match own {
        Outcome::Applied => "applied",
        Outcome::NoEffect => "no_effect",
        Outcome::BlockedByStop(_) => "blocked_by_stop",
        Outcome::SupersededByLater(_) => "superseded_by_later",
        Outcome::PendingConfirmation => "pending_confirmation",
    }
}

fn effect(own: CatalogEffect) -> &'static str {
    match own {
        CatalogEffect::Added => "added",
        CatalogEffect::Retired => "retired",
        CatalogEffect::Reinstated => "reinstated",
        CatalogEffect::ReconsentRequired => "reconsent_required",
        CatalogEffect::ReconsentLifted => "reconsent_lifted",
        CatalogEffect::BasisChanged => "basis_changed",
        CatalogEffect::ContentChanged => "content_changed",
    }
}

fn status(own: Status) -> &'static str {
    match own {
        Status::Unknown => "unknown",
        Status::Requested => "requested",
        Status::Refused => "refused",
        Status::Given => "given",
        Status::Withdrawn => "withdrawn",
        Status::Revoked => "revoked",
        Status::Expired => "expired",
        Status::Invalidated => "invalidated",
        Status::Objected => "objected",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        cli::shapes,
        domain::{Decision, Reason, StopKind},
        grpc::convert,
        node::{CellPreference, Preferences, StandingStop},
        proto,
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
            scope: ScopeKeys { purpose: key("news"), channel: None },
            purpose_version: if action == Action::Grant { 3 } else { 0 },
            expires_at: (action == Action::Grant).then_some(Millis(86_400_000)),
            data_categories: Vec::new(),
            outcome,
        }
    }

    fn event(told: EventTold) -> Event {
        Event { index: 12, recorded_at: Millis(1_500), told }
    }

    fn told(changes: Vec<ChangeRecord>) -> ConsentTold {
        ConsentTold {
            subject: subject("user:42"),
            actor: Actor::Guardian,
            effective_at: Millis(1_000),
            changes,
            preferences_changed: false,
            cause: None,
            reason: None,
            linked: vec![subject("email:jo@example.org")],
        }
    }

    /// One of each kind, with every word that there is.
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
                record(Action::Grant, Outcome::BlockedByStop(4)),
                record(Action::Refuse, Outcome::NoEffect),
                record(Action::Withdraw, Outcome::Applied),
                record(Action::Object, Outcome::SupersededByLater(9)),
                record(Action::Expire, Outcome::Applied),
            ];
            let own = ConsentTold { actor, preferences_changed: true, ..told(changes) };
            all.push(event(EventTold::Consent(own)));
        }
        for confidence in [None, Some(LinkConfidence::Verified), Some(LinkConfidence::Asserted)] {
            all.push(event(EventTold::Link(LinkTold {
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
        ];
        for (purpose, channel, version) in [(key("news"), None, 3), (None, key("sms"), 0)] {
            let (effects, oldest_compatible) = (effects.clone(), version);
            let own = CatalogTold { purpose, channel, effects, version, oldest_compatible };
            all.push(event(EventTold::Catalog(own)));
        }
        all.push(event(EventTold::Overdue(OverdueTold {
            subscription: Key::parse("mailer").unwrap(),
            shard: 1,
            event_index: 5,
            pending_since: Millis(700),
        })));
        all
    }

    /// What the command line prints for the same event.
    fn printed(event: &Event, passing: &[usize]) -> (String, Value) {
        use proto::watch_response::Message;
        let watched = match convert::event(event, passing).message.unwrap() {
            Message::Consent(own) => shapes::Watched::Consent((&own).into()),
            Message::Link(own) => shapes::Watched::Link((&own).into()),
            Message::Catalog(own) => shapes::Watched::Catalog((&own).into()),
            Message::Overdue(own) => shapes::Watched::Overdue((&own).into()),
            other => panic!("{other:?}"),
        };
        let Value::Object(line) = serde_json::to_value(watched).unwrap() else { panic!("a line") };
        line.into_iter().next().unwrap()
    }

    #[test]
    fn the_data_is_spelled_as_the_command_line_spells_it() {
        let events = events();
        assert_eq!(events.len(), 12);
        for event in events {
            let passing = [0, 1, 2, 3, 4, 5];
            let own = value(&envelope().event(&event, &passing).unwrap());
            let (kind, line) = printed(&event, &passing);
            assert_eq!(own["type"], format!("consent.v1.{kind}"));
            assert_eq!(own["data"], line);
        }
    }

    #[test]
    fn a_message_is_a_cloudevent_whose_attributes_name_nobody() {
        let change = record(Action::Withdraw, Outcome::Applied);
        let message =
            envelope().event(&event(EventTold::Consent(told(vec![change]))), &[0]).unwrap();
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
                    "index": 12,
                    "subject": "user:42",
                    "actor": "guardian",
                    "recorded_at": "1970-01-01T00:00:01.500Z",
                    "effective_at": "1970-01-01T00:00:01.000Z",
                    "changes": [{
                        "action": "withdraw",
                        "scope": {"purpose": "news", "channel": "*"},
                        "outcome": "applied",
                        "cause_index": null,
                        "purpose_version": null,
                        "expires_at": null,
                    }],
                    "linked_subjects": ["email:jo@example.org"],
                },
            })
        );
    }

    #[test]
    fn only_what_passes_is_told_with_all_that_explains_it() {
        let mut grant = record(Action::Grant, Outcome::Applied);
        grant.data_categories = vec!["user.contact".to_owned()];
        let expire = record(Action::Expire, Outcome::Applied);
        let own = ConsentTold {
            cause: Some(3),
            reason: Some(Reason::Expired),
            ..told(vec![grant, expire])
        };
        let message = envelope().event(&event(EventTold::Consent(own)), &[0]).unwrap();
        let data = value(&message)["data"].take();
        assert_eq!(data["changes"].as_array().unwrap().len(), 1);
        assert_eq!(data["changes"][0]["data_categories"], json!(["user.contact"]));
        assert_eq!((&data["cause_index"], &data["reason"]), (&json!(3), &json!("expired")));
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
        let cell = |(reason, status)| CellPreference {
            purpose: key("news").unwrap(),
            channel: key("sms").unwrap(),
            decision: Decision {
                reason,
                status,
                decided_by: Some(4),
                valid_until: Some(Millis(2_000)),
                obligations: Vec::new(),
                legal_basis: None,
                data_categories: None,
            },
        };
        let stop = |kind| StandingStop {
            kind,
            scope: ScopeKeys { purpose: None, channel: key("sms") },
            effective_at: Millis(1),
            index: 4,
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

    #[test]
    fn a_snapshot_is_spelled_as_the_command_line_spells_it_and_its_id_names_nobody() {
        let own = snapshot();
        let message = envelope().snapshot(&own).unwrap();
        let known = convert::preferences_response(
            &own.subject,
            &Preferences {
                cells: own.cells.clone(),
                stops: own.stops.clone(),
                contact: None,
                links: Vec::new(),
                revision: 9,
            },
        );
        let on_wire = proto::SnapshotSubject {
            subject: "user:42".to_owned(),
            cells: known.cells,
            stops: known.stops,
            revision: 9,
            token: Vec::new(),
            linked_subjects: vec!["device:7".to_owned()],
        };
        let line = serde_json::to_value(shapes::SnapshotSubject::from(&on_wire)).unwrap();
        assert_eq!(value(&message)["data"], line);
        assert_eq!(value(&message)["type"], "consent.v1.snapshot");
        assert!(!message.id.contains("42") || !message.id.contains("user"), "{}", message.id);
        assert_eq!(message.id, envelope().snapshot(&own).unwrap().id, "always the same");

        let end = envelope().snapshot_end(9, 1).unwrap();
        let shape = shapes::SnapshotEnd { revision: 9, subjects: 1 };
        assert_eq!(value(&end)["data"], serde_json::to_value(shape).unwrap());
        assert_eq!(value(&end)["type"], "consent.v1.snapshot_end");
    }

    #[test]
    fn an_origin_becomes_a_uri_reference() {
        assert_eq!(source("localhost/consent"), "//localhost/consent");
        assert_eq!(source("a.example:8080/b"), "//a.example:8080/b");
        assert_eq!(source("a#b?c%d<e>"), "//a%23b%3Fc%25d%3Ce%3E");
    }
}
