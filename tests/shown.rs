//! What the ledger holds of an act is shown to whoever may ask: the fields of entries, walked by their
//! descriptors, against `history` for people and for programs and against the receipt.
//!
//! A field that is new in an entry fails here until some sample sets it and every way out shows it, or
//! until it stands among the exceptions, with the reason why nobody needs it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use consent_ledger::{
    domain::Body,
    entry::Content,
    proto::{self, Action, Actor, LinkConfidence, ledger},
    tlog::hex,
};
use jiff::Timestamp;
use prost_reflect::{
    DescriptorPool, DynamicMessage, Kind, MapKey, MessageDescriptor, ReflectMessage as _, Value,
};

use crate::support::{
    self, Clients, LONG_PATIENCE, Server, act, change, consent_purpose, opened::Ledger,
};

const SUBJECT: &str = "user:42";

/// The messages whose fields are walked: what is sealed in entries about a data subject.
const WALKED: [&str; 8] = [
    "consent.ledger.v2.Record",
    "consent.ledger.v2.Change",
    "consent.ledger.v2.Confirmation",
    "consent.ledger.v2.Preferences",
    "consent.ledger.v2.QuietSpan",
    "consent.ledger.v2.Use",
    "consent.v1.Evidence",
    "consent.v1.Authority",
];

/// Fields that no history shows, and why.
const NOT_IN_HISTORY: [(&str, &str); 24] = [
    ("Record.kind", "the kind of the line has another word for some"),
    ("Record.recorded_ms", "part of the time of the record"),
    ("Record.confirms", "shown as the index of that act"),
    ("Record.requested_at_ms", "on the line of the act that the confirmation names"),
    ("Record.authority_ends_at_ms", "on the line of the act, and in its evidence"),
    ("Record.idempotency", "serves the caller's retries, says nothing of the act"),
    ("Record.request_digest", "serves the caller's retries, says nothing of the act"),
    ("Record.door", "the actor says whether it was an import"),
    ("Record.import", "the samples came by calls; tests/import_order.rs looks at imports"),
    ("Record.peer", "shown as a name, where the other is the same person"),
    ("Record.proof_missing", "the service does not write it yet"),
    ("Record.not_asked", "the service does not write it yet"),
    ("Record.next", "leads to the next entry of the data subject, for whoever has its key"),
    ("Record.identity_commit", "commits to the name of the data subject"),
    ("Change.purpose_class", "the service does not write it yet"),
    ("Change.cause", "shown as the index of that act"),
    ("Change.cause_is_linked", "acts of linked data subjects are not named"),
    ("Confirmation.nonce", "the token is the data subject's secret"),
    ("Confirmation.token_hash", "the token is the data subject's secret"),
    ("QuietSpan.time_zone", "only of purposes; a data subject's own zones are in time_zones"),
    ("Use.recorded_ms", "part of the time of the record"),
    ("Use.idempotency", "serves the caller's retries, says nothing of the act"),
    ("Use.request_digest", "serves the caller's retries, says nothing of the act"),
    ("Use.random_tags", "padding"),
];

/// Fields of acts and confirmations that a receipt does not repeat beside the exact bytes of the entry.
const NOT_IN_RECEIPTS: [(&str, &str); 7] = [
    ("Change.linked_subjects", "a receipt is about one data subject"),
    ("Preferences.time_zones", "preferences are no consent; the history shows them"),
    ("Preferences.language", "preferences are no consent; the history shows them"),
    ("Preferences.cleared", "preferences are no consent; the history shows them"),
    ("QuietSpan.start_minute", "preferences are no consent; the history shows them"),
    ("QuietSpan.end_minute", "preferences are no consent; the history shows them"),
    ("Preferences.frequency_cap", "preferences are no consent; the history shows them"),
];

fn pool() -> DescriptorPool {
    let mut pool = DescriptorPool::decode(proto::FILE_DESCRIPTOR_SET).unwrap();
    pool.decode_file_descriptor_set(ledger::FILE_DESCRIPTOR_SET).unwrap();
    pool
}

fn descriptor(name: &str) -> MessageDescriptor {
    pool().get_message_by_name(name).unwrap()
}

fn dynamic(name: &str, message: &impl prost::Message) -> DynamicMessage {
    DynamicMessage::decode(descriptor(name), message.encode_to_vec().as_slice()).unwrap()
}

/// A field with a value, and every way in which the value may be spelled.
#[derive(Debug)]
struct Leaf {
    field: String,
    spellings: Vec<String>,
}

/// The fields of a message that are set, with those of the messages in it.
fn leaves(message: &DynamicMessage) -> Vec<Leaf> {
    let parent = message.descriptor();
    let mut found = Vec::new();
    for (field, value) in message.fields() {
        let name = format!("{}.{}", parent.name(), field.name());
        let items: Vec<Value> = match value {
            Value::List(items) => items.clone(),
            Value::Map(entries) => {
                let pair = |(key, value): (&MapKey, &Value)| {
                    [key.as_str().unwrap().to_owned(), value.as_str().unwrap().to_owned()]
                };
                entries.iter().flat_map(pair).map(Value::String).collect()
            }
            value => vec![value.clone()],
        };
        for item in items {
            match &item {
                Value::Message(inner) if is_inner(inner) => found.extend(leaves(inner)),
                value => {
                    let spellings = spellings(&field.kind(), field.name(), value);
                    found.push(Leaf { field: name.clone(), spellings });
                }
            }
        }
    }
    found
}

/// Whether the fields of a message are walked in its place. A time, a span and a limit are one value.
fn is_inner(message: &DynamicMessage) -> bool {
    let name = message.descriptor().full_name().to_owned();
    !name.starts_with("google.protobuf.") && name != "consent.ledger.v2.FrequencyCap"
}

fn spellings(kind: &Kind, field: &str, value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Bytes(bytes) => vec![BASE64_STANDARD.encode(bytes), hex(bytes)],
        Value::EnumNumber(number) => {
            let kind = kind.as_enum().unwrap().clone();
            let name = kind.get_value(*number).unwrap().name().to_owned();
            let prefix = kind.get_value(0).unwrap().name().replace("UNSPECIFIED", "");
            let short = name.trim_start_matches(&prefix).to_owned();
            vec![short.to_lowercase(), format!("\"{short}\""), format!("\"{name}\"")]
        }
        Value::I64(at) if field.ends_with("_ms") => moment(*at),
        Value::U64(index) => vec![format!("#{index}"), format!("\"{index}\""), format!(":{index}")],
        // Their places in the catalogue of the samples.
        Value::U32(number) if field == "purpose" => {
            vec![["", "news", "doi"][*number as usize].into()]
        }
        Value::U32(number) if field == "channel" => {
            vec![["", "email", "sms"][*number as usize].into()]
        }
        // Minutes of a day, versions, and numbers of linked data subjects.
        Value::U32(number) => {
            let clock = format!("{:02}:{:02}", number / 60, number % 60);
            let linked = format!("+{number} linked");
            vec![format!("version {number}"), format!(":{number}"), linked, clock]
        }
        Value::Message(message) => match message.descriptor().name() {
            "Timestamp" => {
                let at = message.transcode_to::<prost_types::Timestamp>().unwrap();
                moment(at.seconds * 1_000 + i64::from(at.nanos) / 1_000_000)
            }
            "FrequencyCap" => vec!["at most 3 in 7d".to_owned(), "\"604800s\"".to_owned()],
            name => panic!("no spelling of {name}"),
        },
        value => panic!("no spelling of {value:?}"),
    }
}

fn moment(at_ms: i64) -> Vec<String> {
    let moment = Timestamp::from_millisecond(at_ms).unwrap();
    vec![format!("{moment:.3}"), moment.to_string()]
}

/// Asserts that every leaf is shown.
fn check(what: &str, shown: &str, leaves: &[Leaf], exceptions: &[(&str, &str)]) {
    for Leaf { field, spellings } in leaves {
        let is_excepted = exceptions.iter().any(|(name, _)| name == field);
        let is_shown = spellings.iter().any(|spelling| shown.contains(spelling.as_str()));
        assert!(is_excepted || is_shown, "{what} does not show {field}, {spellings:?}:\n{shown}");
    }
}

fn evidence(what: &str) -> proto::Evidence {
    proto::Evidence {
        touchpoint: format!("touchpoint-{what}"),
        notice_id: format!("notice-{what}"),
        notice_version: format!("2026-{what}"),
        language: "de-AT".to_owned(),
        notice_hash: vec![0xa7; 32],
        method: format!("method-{what}"),
        ip_address: "192.0.2.77".to_owned(),
        user_agent: format!("Browser/{what}"),
        attributes: [(format!("desk-{what}"), format!("seven-{what}"))].into(),
        ..Default::default()
    }
}

/// What each act was given as evidence, by index.
type Given = BTreeMap<u64, proto::Evidence>;

async fn record_samples(clients: &mut Clients) -> Given {
    let once_a_day = proto::Obligation {
        kind: Some(proto::obligation::Kind::FrequencyLimit(proto::FrequencyLimit {
            uses_max: 1,
            period: Some(prost_types::Duration { seconds: 86_400, nanos: 0 }),
        })),
        ..Default::default()
    };
    for (key, double_opt_in) in [("news", false), ("doi", true)] {
        let data_categories = ["user.contact", "user.profile"].map(str::to_owned).to_vec();
        let obligations = if double_opt_in { vec![once_a_day.clone()] } else { Vec::new() };
        let purpose =
            proto::Purpose { data_categories, double_opt_in, obligations, ..consent_purpose(key) };
        clients.put_purpose(purpose).await;
    }
    let mut given = Given::new();
    let now = support::now_ms();
    let narrowed = |purpose: &str, channel: &str, lasts_ms: i64| proto::Change {
        expires_at: Some(support::timestamp(now + lasts_ms)),
        data_categories: vec!["user.contact.email".to_owned()],
        ..change(Action::Grant, purpose, channel)
    };

    // Staff records a narrowed grant that waits for its confirmation, and wishes about contact.
    let by_staff = proto::Evidence {
        authority: Some(proto::Authority {
            relationship: "call-centre".to_owned(),
            representative: "staff:114".to_owned(),
            proof: "call 7781".to_owned(),
            ends_at: None,
        }),
        ..evidence("staff")
    };
    let preferences = proto::ContactPreferences {
        time_zones: vec!["Europe/Vienna".to_owned()],
        language: "sl-SI".to_owned(),
        quiet_hours: Some(proto::QuietHours {
            start_minute: 1_261,
            end_minute: 483,
            time_zone: String::new(),
        }),
        frequency_limit: Some(proto::FrequencyLimit {
            uses_max: 3,
            period: Some(prost_types::Duration { seconds: 604_800, nanos: 0 }),
        }),
        clear: Vec::new(),
    };
    let request = proto::RecordConsentRequest {
        actor: Actor::Agent.into(),
        effective_at: Some(support::timestamp(now - 5_000)),
        evidence: Some(by_staff.clone()),
        preferences: Some(preferences),
        idempotency_key: "call-7781".to_owned(),
        ..act(SUBJECT, vec![narrowed("doi", "email", 86_400_000)])
    };
    let recorded = clients.record(request).await;
    given.insert(recorded.index, by_staff);
    let request = proto::ConfirmConsentRequest {
        token: recorded.confirmation.unwrap().token,
        evidence: Some(evidence("confirmed")),
        idempotency_key: "confirm-7781".to_owned(),
        ..Default::default()
    };
    let confirmed = clients.consent.confirm_consent(request).await.unwrap().into_inner();
    given.insert(confirmed.index, evidence("confirmed"));

    // A guardian's grant ends by itself. A stop is in the way of an import.
    let by_guardian = proto::Evidence {
        authority: Some(proto::Authority {
            relationship: "parent".to_owned(),
            representative: "user:7".to_owned(),
            proof: "form 12".to_owned(),
            ends_at: Some(support::timestamp((now + 900_000_000) / 3_600_000 * 3_600_000)),
        }),
        ..evidence("guardian")
    };
    let request = proto::RecordConsentRequest {
        actor: Actor::Guardian.into(),
        evidence: Some(by_guardian.clone()),
        preferences: Some(proto::ContactPreferences {
            clear: vec!["language".to_owned()],
            ..Default::default()
        }),
        ..act(SUBJECT, vec![narrowed("news", "email", 1_500)])
    };
    given.insert(clients.record(request).await.index, by_guardian);
    // A stop is recorded, although a language is wrong beside it and the person is spelled otherwise.
    let spelled = " user:42";
    let wrong = "german (austria)";
    let request = proto::RecordConsentRequest {
        effective_at: Some(support::timestamp(now - 600_000)),
        evidence: Some(evidence("stop")),
        preferences: Some(proto::ContactPreferences {
            language: wrong.to_owned(),
            ..Default::default()
        }),
        ..act(spelled, vec![change(Action::Withdraw, "news", "sms")])
    };
    let kept = proto::Evidence {
        subject_given: spelled.to_owned(),
        effective_at_given: Some(support::timestamp(now - 600_000)),
        unreadable: [("preferences.language".to_owned(), wrong.to_owned())].into(),
        ..evidence("stop")
    };
    given.insert(clients.record(request).await.index, kept);
    let request = proto::RecordConsentRequest {
        actor: Actor::Import.into(),
        ..act(SUBJECT, vec![change(Action::Grant, "news", "sms")])
    };
    clients.record(request).await;

    let request = proto::RecordUseRequest {
        subject: SUBJECT.to_owned(),
        purpose: "news".to_owned(),
        channel: "sms".to_owned(),
        data_categories: vec!["user.profile.age".to_owned()],
        region: "AT-9".to_owned(),
        segment: "winter-sale".to_owned(),
        campaign: "mail-12".to_owned(),
        idempotency_key: "use-1".to_owned(),
        ..Default::default()
    };
    clients.consent.record_use(request).await.unwrap();
    for _ in 0..2 {
        let request = proto::RecordUseRequest {
            subject: SUBJECT.to_owned(),
            purpose: "doi".to_owned(),
            channel: "email".to_owned(),
            data_categories: vec!["user.contact.email".to_owned()],
            ..Default::default()
        };
        clients.consent.record_use(request).await.unwrap();
    }
    clients.link(SUBJECT, "device:1", LinkConfidence::Asserted).await;
    // It counts for the other one, too.
    clients.record_change(SUBJECT, Action::Refuse, "doi", "sms").await;
    clients.unlink(SUBJECT, "device:1").await;
    given
}

/// What entries say of the data subject: its records and uses.
async fn samples(dir: &Path) -> Vec<(u64, DynamicMessage)> {
    let deadline = tokio::time::Instant::now() + LONG_PATIENCE;
    loop {
        let opened = Ledger::open(dir);
        if opened.entries().any(|entry| matches!(entry.body, Body::Expired(_))) {
            let sample = |(index, content)| match content {
                Content::Persons(records) => {
                    Some((index, dynamic("consent.ledger.v2.Record", &*records[0].1)))
                }
                Content::Uses(_, used) => Some((index, dynamic("consent.ledger.v2.Use", &*used))),
                Content::Clear(_) | Content::Items(_) => None,
            };
            return opened.contents().into_iter().filter_map(sample).collect();
        }
        assert!(tokio::time::Instant::now() < deadline, "the grant never expired");
        tokio::task::yield_now().await;
    }
}

/// The lines of a table about one entry.
fn rows_of(table: &str, index: u64) -> String {
    let mark = format!("#{index} ");
    let lines = table.lines().skip_while(|line| !line.starts_with(&mark));
    let is_of_entry = |(at, line): &(usize, &str)| *at == 0 || !line.starts_with('#');
    lines.enumerate().take_while(is_of_entry).map(|(_, line)| line).collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_field_of_an_act_is_shown_to_whoever_may_ask() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(dir.path(), &["--checkpoint-interval=50ms"]);
    let mut clients = server.clients_with_catalog(&[], &["email", "sms"]).await;
    let given = record_samples(&mut clients).await;
    let samples = samples(dir.path()).await;
    let table = server.cli(&["history", "--subject", SUBJECT]).expect_code(0).stdout;
    let lines =
        server.cli(&["history", "--subject", SUBJECT, "--json"]).expect_code(0).json_lines();

    let mut walked: BTreeSet<String> = BTreeSet::new();
    for (index, body) in &samples {
        let kind = body.descriptor().name().to_owned();
        let mut leaves = leaves(body);
        if let Some(evidence) = given.get(index) {
            leaves.extend(self::leaves(&dynamic("consent.v1.Evidence", evidence)));
        }
        walked.extend(leaves.iter().map(|leaf| leaf.field.clone()));
        let is_of_entry =
            |line: &&serde_json::Value| line["index"].as_str() == Some(&index.to_string());
        let line = lines.iter().find(is_of_entry).unwrap();
        check(&format!("history --json of {kind}"), &line.to_string(), &leaves, &NOT_IN_HISTORY);
        check(&format!("history of {kind}"), &rows_of(&table, *index), &leaves, &NOT_IN_HISTORY);
        if given.contains_key(index) {
            let words = ["receipt", "--index", &index.to_string(), "--payload"];
            let payload = server.cli(&words).expect_code(0).stdout.replace("\": ", "\":");
            let exceptions = [&NOT_IN_HISTORY[..], &NOT_IN_RECEIPTS].concat();
            check(&format!("the receipt of {kind}"), &payload, &leaves, &exceptions);
        }
    }
    for link in ["asserted by login-service", "by support"] {
        assert!(table.contains(link), "{table}");
    }

    let excepted: BTreeSet<&str> = NOT_IN_HISTORY.iter().map(|(field, _)| *field).collect();
    for message in WALKED {
        for field in descriptor(message).fields() {
            let name = format!("{}.{}", descriptor(message).name(), field.name());
            let is_walked = walked.contains(&name)
                || matches!(field.kind(), Kind::Message(inner) if walked.iter().any(|leaf| {
                    leaf.starts_with(&format!("{}.", inner.name()))
                }));
            assert!(is_walked || excepted.contains(name.as_str()), "no sample has {name}");
        }
    }

    // What decides is narrowed in preferences, too.
    let request =
        proto::GetPreferencesRequest { subject: SUBJECT.to_owned(), ..Default::default() };
    let preferences = clients.consent.get_preferences(request).await.unwrap().into_inner();
    let confirmed = preferences.cells.iter().find(|cell| cell.purpose == "doi").unwrap();
    assert_eq!(confirmed.data_categories, ["user.contact.email"]);
    let text = server.cli(&["preferences", "--subject", SUBJECT]).expect_code(0).stdout;
    assert!(text.contains("user.contact.email"), "{text}");
}

#[test]
fn whoever_reads_of_a_change_reads_all_of_it() {
    let fields = |message: &str| -> BTreeSet<String> {
        let fields = descriptor(message).fields().collect::<Vec<_>>();
        fields.iter().map(|field| field.name().trim_end_matches("_ms").to_owned()).collect()
    };
    // Purpose and channel are the scope, a cause is an index, and expiries tell their reason apart.
    let mut recorded = fields("consent.ledger.v2.Change");
    for apart in ["purpose", "channel", "purpose_class", "cause", "cause_is_linked", "reason"] {
        assert!(recorded.remove(apart), "{apart}");
    }
    recorded.extend(["scope".to_owned(), "cause_index".to_owned()]);
    for shown in ["consent.v1.ChangeResult", "consent.v1.EventChange"] {
        assert_eq!(fields(shown), recorded, "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_staff_narrowed_names_staff_and_only_what_it_covers() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(dir.path(), &["--checkpoint-interval=50ms"]);
    let mut clients = server.clients_with_catalog(&[], &["email"]).await;
    let data_categories = ["user.contact", "user.health"].map(str::to_owned).to_vec();
    clients.put_purpose(proto::Purpose { data_categories, ..consent_purpose("news") }).await;
    let by_agent =
        ["--actor", "agent", "--relationship", "call-centre", "--representative", "staff:114"];
    let by_operator = ["--actor", "operator", "--attribute", "staff=staff:115"];
    for (index, staff) in [(&by_agent[..], "staff:114"), (&by_operator[..], "staff:115")] {
        let grant = ["record", "--subject", SUBJECT, "--grant", "news:email", "--json"];
        let narrowed = ["--data-category", "user.contact"];
        let recorded = server.cli(&[&grant[..], &narrowed, index].concat()).expect_code(0).json();
        let index = recorded["index"].as_str().unwrap().to_owned();
        let table = server.cli(&["history", "--subject", SUBJECT]).expect_code(0).stdout;
        let rows = rows_of(&table, index.parse().unwrap());
        assert!(rows.contains(staff) && rows.contains("only user.contact"), "{table}");
        let from = ["watch", "--kind", "grant", "--count", "1", "--from"];
        let heard = server.cli(&[&from[..], &[&index]].concat()).expect_code(0).stdout;
        assert!(heard.contains("grant news:email  only user.contact"), "{heard}");
        for format in ["consent-receipt", "dpv"] {
            let words = ["receipt", "--index", &index, "--payload", "--format", format];
            let payload = server.cli(&words).expect_code(0).stdout;
            assert!(payload.contains(staff), "{payload}");
            let payload: serde_json::Value = serde_json::from_str(&payload).unwrap();
            if format == "consent-receipt" {
                let purposes = &payload["pii_processing"]["purposes"];
                let types = purposes[0]["pii_information"].as_array().unwrap();
                let types: Vec<_> = types.iter().map(|one| one["pii_type"].clone()).collect();
                assert_eq!(
                    (purposes.as_array().unwrap().len(), types),
                    (1, vec!["user.contact".into()])
                );
                let entity = &payload["events"][0]["entity_id"];
                assert_eq!(entity, if staff == "staff:114" { staff } else { "OPERATOR" });
            }
            let receipt = dir.path().join("receipt.jws");
            let words = ["receipt", "--index", &index, "--format", format];
            std::fs::write(&receipt, server.cli(&words).expect_code(0).stdout).unwrap();
            let key = server.printed("verifier key ").unwrap();
            let words = ["verify-receipt", receipt.to_str().unwrap(), "--key", &key];
            let verified = server.cli(&words).expect_code(0).stdout;
            assert!(
                verified.contains(staff) && verified.contains("only user.contact"),
                "{verified}"
            );
        }
    }
}
