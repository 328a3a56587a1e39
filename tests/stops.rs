//! A stop is never lost to something beside it: over gRPC, and through `import` from files as other
//! systems write them.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::PathBuf};

use consent_ledger::proto::{
    self, Action, Actor, Effect, Outcome, import_consents_request::Message,
};
use futures_util::stream;
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng as _, SeedableRng as _},
};
use serde_json::Value;
use tonic::Code;

use crate::support::{
    self, Clients, Finished, LONG_PATIENCE, Process, Server, act, binary, change, check_request,
    json_lines, one_change, timestamp, typed,
};

const LETTER: &str = "marketing.newsletter";

struct Desk {
    server: Server,
    clients: Clients,
    dir: tempfile::TempDir,
}

impl Desk {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(&dir.path().join("data"));
        let purposes = [LETTER, "marketing.offers"];
        let clients = server.clients_with_catalog(&purposes, &["email", "sms", "phone"]).await;
        Self { server, clients, dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn import(&self, file: &str, content: impl AsRef<[u8]>, more: &[&str]) -> Finished {
        fs::write(self.path(file), content).unwrap();
        let mut command = binary();
        command.args(["--json", "--addr", &self.server.address, "import"]);
        command.arg(self.path(file)).args(["--source", file]).args(more);
        if !file.ends_with("ndjson") {
            command.arg("--mapping").arg(self.path("map.toml"));
        }
        Process::spawn(command).wait(LONG_PATIENCE)
    }

    fn map(&self, mapping: &str) {
        fs::write(self.path("map.toml"), mapping).unwrap();
    }

    fn rejects(&self, file: &str) -> Vec<(u64, String)> {
        let path = self.path(&format!("{file}.rejects.ndjson"));
        let rejects = fs::read_to_string(path).map(|text| json_lines(&text)).unwrap_or_default();
        let line = |reject: &Value| reject["line"].as_str().unwrap().parse().unwrap();
        let field = |reject: &Value| reject["field"].as_str().unwrap_or_default().to_owned();
        rejects.iter().map(|reject| (line(reject), field(reject))).collect()
    }

    async fn grant(&mut self, subjects: &[&str]) {
        for subject in subjects {
            for channel in ["email", "sms", "phone"] {
                self.clients.record_change(subject, Action::Grant, LETTER, channel).await;
            }
        }
    }

    async fn is_allowed(&mut self, subject: &str, channel: &str) -> bool {
        let request = check_request(subject, LETTER, channel);
        self.clients.ask(request).await.effect() == Effect::Allow
    }

    async fn denied(&mut self, subjects: &[&str]) {
        for subject in subjects {
            assert!(!self.is_allowed(subject, "email").await, "{subject} has opted out");
        }
    }
}

fn withdraw(subject: &str) -> proto::RecordConsentRequest {
    one_change(subject, Action::Withdraw, LETTER, "email")
}

fn evidence(evidence: proto::Evidence) -> proto::RecordConsentRequest {
    proto::RecordConsentRequest { evidence: Some(evidence), ..withdraw("user:1") }
}

fn preferences(preferences: proto::ContactPreferences) -> proto::RecordConsentRequest {
    proto::RecordConsentRequest { preferences: Some(preferences), ..withdraw("user:1") }
}

/// Every side field that can be wrong, each beside a withdrawal.
fn faults() -> Vec<(&'static str, proto::RecordConsentRequest)> {
    let long = || "x".repeat(2_000);
    let attributes = |count: usize, length: usize| {
        (0..count).map(|n| (format!("k{n}"), "v".repeat(length))).collect::<BTreeMap<_, _>>()
    };
    let far = prost_types::Timestamp { seconds: 253_402_300_800, nanos: 0 };
    let authority = |relationship: &str, ends_at| {
        let relationship = relationship.to_owned();
        Some(proto::Authority { relationship, ends_at, ..Default::default() })
    };
    let by = |actor: Actor, request| proto::RecordConsentRequest { actor: actor.into(), ..request };
    vec![
        (
            "preferences.language",
            preferences(proto::ContactPreferences {
                language: "german (austria)".into(),
                ..Default::default()
            }),
        ),
        (
            "preferences.time_zones[0]",
            preferences(proto::ContactPreferences {
                time_zones: vec!["Vienna".into()],
                ..Default::default()
            }),
        ),
        (
            "preferences.quiet_hours.start_minute",
            preferences(proto::ContactPreferences {
                quiet_hours: Some(proto::QuietHours {
                    start_minute: 2_000,
                    end_minute: 1,
                    ..Default::default()
                }),
                ..Default::default()
            }),
        ),
        (
            "preferences.clear[0]",
            preferences(proto::ContactPreferences {
                clear: vec!["shoe_size".into()],
                ..Default::default()
            }),
        ),
        ("evidence.touchpoint", evidence(proto::Evidence { touchpoint: long(), ..none() })),
        ("evidence.ip_address", evidence(proto::Evidence { ip_address: long(), ..none() })),
        ("evidence.user_agent", evidence(proto::Evidence { user_agent: long(), ..none() })),
        ("evidence.notice_id", evidence(proto::Evidence { notice_id: long(), ..none() })),
        ("evidence.notice_hash", evidence(proto::Evidence { notice_hash: vec![7; 65], ..none() })),
        (
            "evidence.attributes",
            evidence(proto::Evidence { attributes: attributes(33, 1), ..none() }),
        ),
        (
            "evidence.attributes",
            evidence(proto::Evidence { attributes: attributes(1, 1_025), ..none() }),
        ),
        (
            "evidence.authority",
            evidence(proto::Evidence { authority: authority("parent", None), ..none() }),
        ),
        (
            "evidence.authority.relationship",
            by(
                Actor::Guardian,
                evidence(proto::Evidence { authority: authority("", None), ..none() }),
            ),
        ),
        (
            "evidence.authority.ends_at",
            by(
                Actor::Guardian,
                evidence(proto::Evidence { authority: authority("parent", Some(far)), ..none() }),
            ),
        ),
        (
            "effective_at",
            proto::RecordConsentRequest { effective_at: Some(far), ..withdraw("user:1") },
        ),
        (
            "idempotency_key",
            proto::RecordConsentRequest { idempotency_key: long(), ..withdraw("user:1") },
        ),
        (
            "confirmation_validity",
            proto::RecordConsentRequest {
                confirmation_validity: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
                ..withdraw("user:1")
            },
        ),
        ("changes[1].scope", act("user:1", vec![change(Action::Withdraw, LETTER, "email"); 2])),
        (
            "changes[1].scope",
            act(
                "user:1",
                vec![
                    change(Action::Withdraw, LETTER, "email"),
                    change(Action::Grant, LETTER, "email"),
                ],
            ),
        ),
    ]
}

fn none() -> proto::Evidence {
    proto::Evidence::default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_recorded_although_a_side_field_is_wrong_and_a_grant_beside_it_is_refused() {
    let mut desk = Desk::new().await;
    for (number, (field, request)) in faults().into_iter().enumerate() {
        let subject = format!("user:{number}");
        desk.grant(&[&subject]).await;
        let mut request = proto::RecordConsentRequest { subject: subject.clone(), ..request };
        request.changes.push(change(Action::Grant, "marketing.offers", "sms"));
        let answer = desk.clients.record(request.clone()).await;
        assert!(!desk.is_allowed(&subject, "email").await, "{field}");
        assert_eq!(answer.warnings[0].field, field);
        assert!(!answer.warnings[0].reason.is_empty() && !answer.warnings[0].message.is_empty());
        let outcomes: Vec<_> = answer.results.iter().map(proto::ChangeResult::outcome).collect();
        assert_eq!(outcomes.len(), request.changes.len(), "a result for each change: {field}");
        assert_eq!(outcomes[0], Outcome::Applied, "{field}");
        assert_eq!(outcomes.last(), Some(&Outcome::NotRecorded), "{field}");
        let history = desk.clients.history(&subject).await;
        assert_eq!(history.last().unwrap().changes.len(), 1, "{field}");

        // Without a stop, the same request is refused.
        request.changes.retain(|change| change.action() == Action::Grant);
        if !field.starts_with("changes") {
            let error = desk.clients.consent.record_consent(request).await.unwrap_err();
            let error = typed(&error);
            assert_eq!((error.code, error.fields), (Code::InvalidArgument, vec![field.to_owned()]));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_wrong_is_kept_with_the_evidence_of_the_stop() {
    let mut desk = Desk::new().await;
    let mut request = preferences(proto::ContactPreferences {
        language: "german (austria)".into(),
        ..Default::default()
    });
    request.evidence = Some(proto::Evidence { touchpoint: "x".repeat(300), ..none() });
    request.idempotency_key = "k".to_owned();
    let answer = desk.clients.record(request.clone()).await;
    let kept = &desk.clients.history("user:1").await[0].evidence.clone().unwrap().unreadable;
    assert_eq!(kept["preferences.language"], "german (austria)");
    assert_eq!(kept["evidence.touchpoint"], "x".repeat(256));
    let replayed = desk.clients.record(request).await;
    assert!(replayed.replayed && replayed.warnings == answer.warnings);
    assert_eq!(replayed.results, answer.results);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_the_catalogue_refuses_leaves_the_stop_beside_it() {
    let mut desk = Desk::new().await;
    desk.grant(&["user:1"]).await;
    let grants = [
        change(Action::Grant, "no.such", "sms"),
        change(Action::Grant, LETTER, "pigeon"),
        proto::Change { purpose_version: 9, ..change(Action::Grant, LETTER, "sms") },
        proto::Change {
            expires_at: Some(timestamp(1_000)),
            ..change(Action::Grant, LETTER, "sms")
        },
        proto::Change {
            data_categories: vec!["health".to_owned()],
            ..change(Action::Grant, LETTER, "sms")
        },
    ];
    let fields = ["scope.purpose", "scope.channel", "purpose_version", "expires_at"]
        .into_iter()
        .chain(["data_categories[0]"]);
    for ((number, grant), field) in grants.into_iter().enumerate().zip(fields) {
        let stop = change(Action::Withdraw, "*", "email");
        let request = act("user:1", vec![grant, stop]);
        let request =
            proto::RecordConsentRequest { idempotency_key: format!("k{number}"), ..request };
        let answer = desk.clients.record(request.clone()).await;
        assert_eq!(answer.warnings[0].field, format!("changes[0].{field}"));
        assert_eq!(answer.results[0].outcome(), Outcome::NotRecorded);
        assert_ne!(answer.results[1].outcome(), Outcome::NotRecorded);
        let replayed = desk.clients.record(request).await;
        assert_eq!(replayed.results, answer.results, "the same request, the same results");
        assert_eq!(
            replayed.warnings[0].field, "changes",
            "and it still says that a grant is missing"
        );
        assert!(!desk.is_allowed("user:1", "email").await);
    }
    // Of a call, a stop without a clear scope refuses all of it: its caller can correct it.
    let stops =
        vec![change(Action::Withdraw, "no.such", "*"), change(Action::Withdraw, "*", "sms")];
    let error = desk.clients.consent.record_consent(act("user:1", stops)).await.unwrap_err();
    assert_eq!(typed(&error).fields, ["changes[0].scope.purpose"]);
    assert!(desk.is_allowed("user:1", "sms").await);
}

async fn import_rows(
    desk: &mut Desk,
    rows: Vec<proto::ImportRow>,
) -> proto::ImportConsentsResponse {
    let start = proto::ImportStart { source: "crm".into(), dry_run: false };
    let messages = [Message::Start(start), Message::Rows(proto::ImportRows { rows })]
        .map(|message| proto::ImportConsentsRequest { message: Some(message) });
    desk.clients.consent.import_consents(stream::iter(messages)).await.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_keeps_its_stops_whatever_is_wrong_beside_them() {
    let mut desk = Desk::new().await;
    let stop = || change(Action::Withdraw, LETTER, "email");
    let row = |more: Vec<proto::Change>| proto::ImportRow {
        changes: more.into_iter().chain([stop()]).collect(),
        ..Default::default()
    };
    let ending = proto::Change {
        expires_at: Some(timestamp(support::now_ms())),
        ..change(Action::Withdraw, LETTER, "sms")
    };
    let rows = [
        ("actor", proto::ImportRow { actor: 99, ..row(vec![]) }),
        ("row_key", proto::ImportRow { row_key: "k".repeat(129), ..row(vec![]) }),
        ("evidence.method", proto::ImportRow { actor: Actor::Subject.into(), ..row(vec![]) }),
        ("changes[0].expires_at", row(vec![ending])),
        ("changes[0].scope.purpose", row(vec![change(Action::Withdraw, "no.such", "*")])),
        ("changes[0].scope.channel", row(vec![change(Action::Object, LETTER, "E Mail")])),
        ("changes[0].scope.purpose", row(vec![change(Action::Grant, "no.such", "sms")])),
    ];
    let (fields, rows): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
    let subjects: Vec<_> = (0..rows.len()).map(|n| format!("user:{n}")).collect();
    let names: Vec<_> = subjects.iter().map(String::as_str).collect();
    desk.grant(&names).await;
    let rows = (1..).zip(rows).zip(&subjects).map(|((line, row), subject)| proto::ImportRow {
        line,
        subject: subject.clone(),
        ..row
    });
    let answer = import_rows(&mut desk, rows.collect()).await;
    assert_eq!((answer.recorded, answer.rejected), (u64::try_from(names.len()).unwrap(), 0));
    assert_eq!(answer.warned, answer.recorded);
    let mut warned: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
    for warning in &answer.warnings {
        warned.entry(warning.line).or_default().push(&warning.field);
    }
    for (line, field) in (1..).zip(fields) {
        assert!(warned[&line].contains(&field), "{line}: {warned:?}");
    }
    desk.denied(&names).await;
}

const MAPPING: &str = r#"
subject = "user:{id}"
[[cells]]
column = "news"
purpose = "marketing.newsletter"
channel = "email"
grant = ["yes"]
withdraw = ["no"]
[[cells]]
column = "texts"
purpose = "marketing.newsletter"
channel = "sms"
grant = ["yes"]
withdraw = ["no"]
[effective_at]
column = "at"
format = "%Y-%m-%d %H:%M"
time_zone = "Europe/Vienna"
[expires_at]
column = "until"
[actor]
column = "by"
[evidence]
method = { column = "how" }
[preferences]
language = { column = "language" }
"#;

#[tokio::test(flavor = "multi_thread")]
async fn an_import_says_what_was_wrong_beside_a_stop_and_which_fields_it_rejected() {
    let mut desk = Desk::new().await;
    desk.map(MAPPING);
    desk.grant(&["user:1", "user:2", "user:3", "user:4", "user:5", "user:6"]).await;
    let list = "id,news,texts,at,until,by,how,language\n\
                1,no,,,,,,de_AT\n\
                2,no,,,9999-12-31,,,\n\
                3,no,FALSE,,,,,\n\
                4,no,,,2030-01-01T00:00:00Z,,,\n\
                5,no,,,,,,german (austria)\n\
                6,HARD_BOUNCE,no,,,,,\n";
    let done = desk.import("list.csv", list, &[]).expect_code(1).json();
    desk.denied(&["user:1", "user:2", "user:3", "user:4", "user:5"]).await;
    assert!(!desk.is_allowed("user:6", "sms").await);
    assert_eq!(desk.rejects("list.csv"), [(4, "texts".to_owned()), (7, "news".to_owned())]);
    assert_eq!((&done["recorded"], &done["rejected"]), (&6.into(), &0.into()), "{done}");
    assert_eq!((&done["rejectedFields"], &done["warned"]), (&2.into(), &3.into()), "{done}");
    let warnings: Vec<_> = done["warnings"].as_array().unwrap().iter().collect();
    let warned = |warning: &&Value| (warning["line"].clone(), warning["field"].clone());
    let want = [("3", "until"), ("5", "until"), ("6", "preferences.language")];
    let want = want.map(|(line, field)| (line.into(), field.into()));
    assert_eq!(warnings.iter().map(warned).collect::<Vec<_>>(), want);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_hour_that_clocks_repeat_a_stop_is_later_than_any_grant() {
    let mut desk = Desk::new().await;
    desk.map(MAPPING);
    // The person opted in at 02:50, and out at 02:10, an hour later by the clock on the wall.
    let list = "id,news,texts,at,until,by,how,language\n\
                1,yes,,2024-10-27 02:50,,subject,web,\n\
                1,no,,2024-10-27 02:10,,subject,web,\n\
                2,no,yes,2024-03-31 02:30,,subject,web,\n";
    desk.import("list.csv", list, &[]).expect_code(0);
    desk.denied(&["user:1"]).await;
    let at = |item: &proto::ListHistoryResponse| support::millis(item.effective_at.as_ref());
    let history = desk.clients.history("user:2").await;
    let hour = 3_600_000;
    let (grant, stop) = match history[0].changes[0].action() {
        Action::Grant => (at(&history[0]), at(&history[1])),
        _ => (at(&history[1]), at(&history[0])),
    };
    let minute = 59_999;
    assert_eq!(stop.unwrap() - grant.unwrap(), hour + minute);
    assert!(desk.is_allowed("user:2", "sms").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_quote_rejects_its_row_alone_and_says_where_it_opens() {
    let mut desk = Desk::new().await;
    desk.map(&MAPPING.replace("\"news\"", "\"news\" "));
    let subjects: Vec<_> = (1..=9).map(|n| format!("user:{n}")).collect();
    let names: Vec<_> = subjects.iter().map(String::as_str).collect();
    desk.grant(&names).await;
    let mut list = "id,how,news,texts,at,until,by,language\n".to_owned();
    for id in 1..=9 {
        let how = if id == 3 { "\"web" } else { "web" };
        writeln!(list, "{id},{how},no,,,,,").unwrap();
    }
    let done = desk.import("list.csv", &list, &[]).expect_code(1).json();
    assert_eq!((&done["recorded"], &done["rejected"]), (&8.into(), &1.into()), "{done}");
    assert_eq!(desk.rejects("list.csv"), [(4, String::new())]);
    let rejects = fs::read_to_string(desk.path("list.csv.rejects.ndjson")).unwrap();
    assert!(rejects.contains("a quote that opens on line 4 is not closed"), "{rejects}");
    let (kept, broken): (Vec<&str>, Vec<&str>) = names.iter().partition(|name| **name != "user:3");
    desk.denied(&kept).await;
    assert!(desk.is_allowed(broken[0], "email").await, "and the import said so");
}

fn utf_16(text: &str, bytes_of: fn(u16) -> [u8; 2]) -> Vec<u8> {
    text.encode_utf16().flat_map(bytes_of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_read_whatever_system_wrote_it() {
    let mut desk = Desk::new().await;
    desk.map(
        "subject = \"user:{id}\"\n[[cells]]\ncolumn = \"news\"\n\
              purpose = \"marketing.newsletter\"\nchannel = \"email\"\n\
              grant = [\"yes\"]\nwithdraw = [\"no\"]\n",
    );
    let rows = |delimiter: &str, end: &str| {
        format!("id{delimiter}note{delimiter}news{end}{{}}{delimiter}x{delimiter}no{end}")
    };
    let with_mark = |text: &str| format!("\u{feff}{text}");
    let files = [
        ("mark.csv", with_mark(&rows(",", "\r\n")).into_bytes()),
        ("mac.csv", rows(",", "\r").into_bytes()),
        ("tabs.tsv", rows("\t", "\n").into_bytes()),
        ("pipes.csv", rows("|", "\n").into_bytes()),
        ("semicolons.csv", rows(";", "\r\n").into_bytes()),
        ("declared.csv", format!("sep=;\r\n{}", rows(";", "\r\n")).into_bytes()),
        ("little.csv", utf_16(&with_mark(&rows("\t", "\r\n")), u16::to_le_bytes)),
        ("big.csv", utf_16(&with_mark(&rows(",", "\r\n")), u16::to_be_bytes)),
        ("bare.csv", utf_16(&rows(",", "\n"), u16::to_le_bytes)),
        ("heading.csv", rows(",", "\n").replace("id", " \u{a0}ID ").into_bytes()),
        ("nul.csv", rows(",", "\n").replace("no\n", "no\0\n").into_bytes()),
    ];
    for (number, (file, content)) in files.into_iter().enumerate() {
        let subject = format!("user:{number}");
        desk.grant(&[&subject]).await;
        let (place, id) = ("{}".as_bytes(), number.to_string());
        let encoded: [(Vec<u8>, Vec<u8>); 3] = [
            (utf_16("{}", u16::to_le_bytes), utf_16(&id, u16::to_le_bytes)),
            (utf_16("{}", u16::to_be_bytes), utf_16(&id, u16::to_be_bytes)),
            (place.to_vec(), id.clone().into_bytes()),
        ];
        let find = |needle: &[u8]| content.windows(needle.len()).position(|it| it == needle);
        let found = encoded.iter().find_map(|(old, new)| Some((find(old)?, old.len(), new)));
        let (at, length, new) = found.unwrap();
        let mut content = content.clone();
        content.splice(at..at + length, new.iter().copied());
        let done = desk.import(file, content, &[]).expect_code(0).json();
        assert_eq!(done["recorded"], 1, "{file}: {done}");
        assert!(done["delimiter"].is_string(), "{file}: {done}");
        desk.denied(&[&subject]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_in_another_encoding_is_read_by_its_name_or_refused_with_a_hint() {
    let mut desk = Desk::new().await;
    desk.map(
        "subject = \"user:{näme}\"\n[[cells]]\ncolumn = \"news\"\n\
              purpose = \"marketing.newsletter\"\nchannel = \"email\"\nwithdraw = [\"no\"]\n",
    );
    desk.grant(&["user:jörg"]).await;
    let refused = desk.import("list.csv", b"n\xe4me,news\nj\xf6rg,no\n", &[]).expect_code(1);
    assert!(refused.stderr.contains("--encoding windows-1252"), "{}", refused.stderr);
    let encoding = ["--encoding", "windows-1252"];
    desk.import("list.csv", b"n\xe4me,news\nj\xf6rg,no\n", &encoding).expect_code(0);
    desk.denied(&["user:jörg"]).await;

    desk.map(
        "subject = \"user:{id}\"\n[[cells]]\ncolumn = \"news\"\n\
              purpose = \"marketing.newsletter\"\nchannel = \"email\"\nwithdraw = [\"no\"]\n",
    );
    desk.import("more.csv", b"id,news\nj\xf6rg,no\n", &[]).expect_code(1);
    let rejects = fs::read_to_string(desk.path("more.csv.rejects.ndjson")).unwrap();
    assert!(rejects.contains("not_utf8") && rejects.contains("--encoding"), "{rejects}");
    let unknown = desk.import("more.csv", b"", &["--encoding", "klingon"]).expect_code(2);
    assert!(unknown.stderr.contains("klingon"), "{}", unknown.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_that_reads_a_file_takes_its_encoding() {
    let mut desk = Desk::new().await;
    desk.grant(&["user:j\u{f6}rg"]).await;
    let file = desk.path("list").display().to_string();
    fs::write(&file, b"user:j\xf6rg\n").unwrap();
    let audience = ["audience", "--purpose", LETTER, "--channel", "email", &file];
    let named = |name: &'static str| [&audience[..], &["--encoding", name]].concat();
    let allowed = desk.server.cli(&named("windows-1252")).expect_code(0);
    assert_eq!(allowed.stdout.trim(), "user:j\u{f6}rg");
    desk.server.cli(&named("klingon")).expect_code(2);

    let [before, after] = [
        r#"{"subject":"user:j"#,
        r#"rg","actor":"ACTOR_SUBJECT","changes":[{"action":"ACTION_WITHDRAW","scope":{"purpose":"*","channel":"*"}}]}"#,
    ];
    let act = [before.as_bytes(), b"\xf6", after.as_bytes()].concat();
    fs::write(&file, act).unwrap();
    desk.server.cli(&["replay", &file, "--encoding", "windows-1252"]).expect_code(0);
    desk.denied(&["user:j\u{f6}rg"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_of_ndjson_keeps_its_stops() {
    let mut desk = Desk::new().await;
    desk.grant(&["user:1", "user:2", "user:3"]).await;
    let stop = r#"{"action":"ACTION_WITHDRAW","scope":{"purpose":"*","channel":"email"}}"#;
    let grant =
        r#"{"action":"ACTION_GRANT","scope":{"purpose":"marketing.offers","channel":"sms"}}"#;
    let text = format!(
        "\u{feff}{{\"subject\":\"user:1\",\"changes\":[{stop}],\"effectiveAt\":\"yesterday\"}}\r\n\
         {{\"subject\":\"user:2\",\"changes\":[{grant},{stop},{{\"action\":\"ACTION_STOP\"}}]}}\r\
         {{\"subject\":\"user:3\",\"changes\":[{stop}],\"evidence\":{{\"methods\":7}}}}\n"
    );
    let done = desk.import("rows.ndjson", text, &[]).expect_code(1).json();
    desk.denied(&["user:1", "user:2", "user:3"]).await;
    let rejected = desk.rejects("rows.ndjson");
    assert_eq!(rejected, [(2, "changes[0]".to_owned()), (2, "changes[2]".to_owned())]);
    assert_eq!((&done["recorded"], &done["warned"]), (&3.into(), &2.into()), "{done}");
    let kept = desk.clients.history("user:1").await.pop().unwrap().evidence.unwrap().unreadable;
    assert_eq!(kept["effectiveAt"], "\"yesterday\"");
}

const NEWS: &str = "subject = \"user:{id}\"\n[[cells]]\ncolumn = \"news\"\n\
                    purpose = \"marketing.newsletter\"\nchannel = \"email\"\n\
                    grant = [\"yes\"]\nwithdraw = [\"unsubscribed\"]\nnothing = [\"-\"]\n";

#[tokio::test(flavor = "multi_thread")]
async fn of_rows_that_quotes_mix_up_the_stops_count_and_no_grant() {
    let mut desk = Desk::new().await;
    desk.map(&format!(
        "{NEWS}[actor]\nconstant = \"subject\"\n[evidence]\nmethod = {{ constant = \"form\" }}\n\
         [effective_at]\ncolumn = \"at\"\n"
    ));
    let heading = "id,note,news,at\n";
    // Each with the lines that are rejects, who was in and is out, and who was out and stays out.
    type File<'a> = (&'a str, &'a str, &'a [u64], &'a [&'a str], &'a [&'a str]);
    let files: [File<'_>; 6] = [
        (
            "number-and-letters.csv",
            "81001,\"called,yes,2026-01-01T00:00:00Z\nA81002,said 5\",unsubscribed,2099-01-01T00:00:00Z\n",
            &[2],
            &["user:A81002"],
            &["user:81001"],
        ),
        (
            "unknown-value.csv",
            "11001,\"x,maybe,\n11002,b\",unsubscribed,2099-01-01T00:00:00Z\n",
            &[2],
            &["user:11001", "user:11002"],
            &[],
        ),
        (
            "text.csv",
            "70001,\"reason: see\n70002,x,yes,2099-01-01T00:00:00Z\nbye\",unsubscribed,2099-01-01T00:00:00Z\n\
             70003,x,unsubscribed,2099-01-01T00:00:00Z\n",
            &[],
            &["user:70001", "user:70003"],
            &["user:70002"],
        ),
        (
            "never-closed.csv",
            "50001,\"x,-,\n50002,y,unsubscribed,2099-01-01T00:00:00Z\n50003,z,yes,2099-01-01T00:00:00Z\n",
            &[2, 4],
            &["user:50002"],
            &["user:50003"],
        ),
        (
            "stop-on-first-line.csv",
            "60001,\"x,unsubscribed,2099-01-01T00:00:00Z\n60002,b\",yes,2099-01-01T00:00:00Z\n",
            &[2, 3],
            &["user:60001"],
            &["user:60002"],
        ),
        (
            "address.csv",
            "40001,\"Street 5, \n1010 Vienna, Austria\",unsubscribed,2099-01-01T00:00:00Z\n",
            &[],
            &["user:40001"],
            &[],
        ),
    ];
    for (file, rows, rejects, out, stays_out) in files {
        desk.grant(&out.iter().chain(stays_out).copied().collect::<Vec<_>>()).await;
        for subject in stays_out {
            desk.clients.record_change(subject, Action::Withdraw, LETTER, "email").await;
        }
        // A time ahead of ours stands for a time after everything that is on record.
        let code = i32::from(!rejects.is_empty());
        let soon = timestamp_text(support::now_ms() + 60_000);
        let rows = rows.replace("2099-01-01T00:00:00Z", &soon);
        desk.import(file, format!("{heading}{rows}"), &[]).expect_code(code);
        let lines: Vec<_> = desk.rejects(file).into_iter().map(|(line, _)| line).collect();
        assert_eq!(lines, rejects, "{file}");
        desk.denied(&[out, stays_out].concat()).await;
    }
}

fn timestamp_text(at_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(at_ms).unwrap().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_takes_the_last_moment_of_its_day_minute_or_second_and_a_grant_the_first() {
    let mut desk = Desk::new().await;
    for (number, (format, stop, granted)) in [
        ("format = \"%d.%m.%Y\"\ntime_zone = \"Europe/Vienna\"", "02.05.2025", 1_746_176_250_400),
        (
            "format = \"%d.%m.%Y %H\"\ntime_zone = \"Europe/Vienna\"",
            "02.05.2025 10",
            1_746_176_250_400,
        ),
        (
            "format = \"%d.%m.%Y %H:%M\"\ntime_zone = \"Europe/Vienna\"",
            "02.05.2025 10:57",
            1_746_176_250_400,
        ),
        ("format = \"unix_s\"", "1746176250", 1_746_176_250_400),
        ("", "2025-05-02T08:57:30Z", 1_746_176_250_400),
    ]
    .into_iter()
    .enumerate()
    {
        desk.map(&format!("{NEWS}[effective_at]\ncolumn = \"at\"\n{format}\n"));
        let (stopped, granted_then) = (format!("user:stop-{number}"), Some(timestamp(granted)));
        let grant = one_change(&stopped, Action::Grant, LETTER, "email");
        let grant = proto::RecordConsentRequest { effective_at: granted_then, ..grant };
        desk.clients.record(grant).await;
        assert!(desk.is_allowed(&stopped, "email").await);
        let file = format!("{number}.csv");
        let list = format!("id,news,at\nstop-{number},unsubscribed,{stop}\n");
        desk.import(&file, list, &[]).expect_code(0);
        desk.denied(&[&stopped]).await;
    }
    // Of today: as of now, and no later than the person's next act.
    desk.map(&format!(
        "{NEWS}[effective_at]\ncolumn = \"at\"\nformat = \"%d.%m.%Y\"\ntime_zone = \"Etc/GMT+12\"\n"
    ));
    desk.grant(&["user:today"]).await;
    let zone = jiff::tz::TimeZone::get("Etc/GMT+12").unwrap();
    let today = jiff::Timestamp::now().to_zoned_datetime(zone).strftime("%d.%m.%Y").to_string();
    let list = format!("id,news,at\ntoday,unsubscribed,{today}\n");
    desk.import("today.csv", list, &[]).expect_code(0);
    desk.denied(&["user:today"]).await;
    desk.grant(&["user:today"]).await;
    assert!(desk.is_allowed("user:today", "email").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_without_its_blank_fields_at_the_end_and_a_long_text_keep_their_stops() {
    let mut desk = Desk::new().await;
    desk.map(NEWS);
    desk.grant(&["user:1", "user:2", "user:3"]).await;
    let long = "x\n".repeat(150_000);
    let list = format!("id,news,note,more\n1,unsubscribed\n2,unsubscribed,\"{long}\",\n3\n4,yes\n");
    let done = desk.import("short.csv", list, &[]).expect_code(1).json();
    desk.denied(&["user:1", "user:2"]).await;
    assert_eq!((&done["recorded"], &done["warned"]), (&2.into(), &1.into()), "{done}");
    assert!(desk.is_allowed("user:3", "email").await, "the row says nothing");
    let lines: Vec<_> = desk.rejects("short.csv").into_iter().map(|(line, _)| line).collect();
    assert_eq!(lines, [150_004, 150_005]);
}

fn stop_line(subject: &str, rest: &str) -> String {
    format!(
        "{{\"subject\":\"{subject}\",\"actor\":\"ACTOR_IMPORT\",\"changes\":[{{\"action\":\"ACTION_WITHDRAW\",\
         \"scope\":{{\"purpose\":\"*\",\"channel\":\"email\"}}}}]{rest}}}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_of_ndjson_keep_their_stops_in_import_and_replay() {
    for command in ["import", "replay"] {
        let mut desk = Desk::new().await;
        desk.grant(&["user:1", "user:2", "user:3", "user:4", "user:5", "user:6"]).await;
        let text = [
            "\u{feff}".as_bytes().to_vec(),
            stop_line("user:1", ",\"effectiveAt\":\"yesterday\"").into_bytes(),
            stop_line("user:2", ",\"colour\":\"red\"").into_bytes(),
            stop_line("user:3", ",\"evidence\":{\"touchpoint\":\"a\\ud800\"}").into_bytes(),
            [
                stop_line("user:4", ",\"evidence\":{\"touchpoint\":\"caf")
                    .trim_end()
                    .trim_end_matches('}')
                    .as_bytes(),
                b"\xe9\"}}\r",
            ]
            .concat(),
            // Nobody can tell which of the two is meant.
            stop_line("user:5", ",\"subject\":\"user:6\"").into_bytes(),
            stop_line("user:6", ",\"changes\":[]").into_bytes(),
        ]
        .concat();
        let file = "acts.ndjson";
        let path = desk.path(file).display().to_string();
        let done = match command {
            "import" => desk.import(file, text, &[]),
            _ => {
                fs::write(&path, text).unwrap();
                desk.server.cli(&["--json", "replay", &path, "--continue-on-error"])
            }
        };
        let done = done.expect_code(1).json();
        desk.denied(&["user:1", "user:2", "user:3", "user:4"]).await;
        let counts = (&done["recorded"], &done["rejected"], &done["warned"]);
        assert_eq!(counts, (&4.into(), &2.into(), &4.into()), "{command}: {done}");
        assert!(
            desk.is_allowed("user:6", "email").await,
            "{command} said that it recorded nothing"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_records_the_acts_of_one_person_in_order_in_whichever_spelling() {
    let mut desk = Desk::new().await;
    let acts = (0..100).map(|n| {
        let grant = "{\"action\":\"ACTION_GRANT\",\"scope\":{\"purpose\":\"marketing.newsletter\",\"channel\":\"email\"}}";
        let granted = format!("{{\"subject\":\"email:Kim{n}@X.example\",\"actor\":\"ACTOR_SUBJECT\",\"changes\":[{grant}]}}\n");
        granted + &stop_line(&format!("email:kim{n}@x.example"), "").replace("IMPORT", "SUBJECT")
    });
    let path = desk.path("acts.ndjson").display().to_string();
    fs::write(&path, acts.collect::<String>()).unwrap();
    desk.server.cli(&["replay", &path]).expect_code(0);
    let subjects: Vec<_> = (0..100).map(|n| format!("email:kim{n}@x.example")).collect();
    desk.denied(&subjects.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audience_and_a_replay_read_the_files_that_an_import_reads() {
    let mut desk = Desk::new().await;
    desk.grant(&["user:1", "user:2"]).await;
    let text = |end: &str| format!("user:1{end}user:2{end}user:3{end}");
    let files = [
        ("mark.txt", format!("\u{feff}{}", text("\r\n")).into_bytes()),
        ("mac.txt", text("\r").into_bytes()),
        ("little.txt", utf_16(&text("\r\n"), u16::to_le_bytes)),
        ("end-mark.txt", (text("\n") + "\u{1a}").into_bytes()),
    ];
    for (file, content) in files {
        fs::write(desk.path(file), content).unwrap();
        let path = desk.path(file).display().to_string();
        let cell = ["--purpose", LETTER, "--channel", "email"];
        let done = desk.server.cli(&[&["audience", &path][..], &cell].concat()).expect_code(0);
        assert_eq!(done.stdout, "user:1\nuser:2\n", "{file}: {}", done.stderr);
        assert!(!done.stderr.contains("malformed"), "{file}: {}", done.stderr);
    }
    let stop = format!("\u{feff}{}", stop_line("user:1", "")).replace('\n', "\r");
    for (file, content) in [
        ("mac.ndjson", stop.clone().into_bytes()),
        ("little.ndjson", utf_16(&stop.replace("user:1", "user:2"), u16::to_le_bytes)),
    ] {
        fs::write(desk.path(file), content).unwrap();
        desk.server.cli(&["replay", &desk.path(file).display().to_string()]).expect_code(0);
    }
    desk.denied(&["user:1", "user:2"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_option_of_grants_beside_a_stop_alone_is_wrong_usage() {
    let mut desk = Desk::new().await;
    desk.grant(&["user:1"]).await;
    let stop = ["record", "--subject", "user:1", "--withdraw", "*:email"];
    for option in [
        ["--expires-at", "2030-01-01T00:00:00Z"],
        ["--purpose-version", "1"],
        ["--data-category", "contact"],
        ["--confirmation-validity", "5d"],
    ] {
        let refused = desk.server.cli(&[&stop[..], &option].concat()).expect_code(2);
        assert!(refused.stderr.contains(option[0]), "{}", refused.stderr);
        assert!(desk.is_allowed("user:1", "email").await, "nothing was recorded");
    }
    for twice in [
        ["--attribute", "a=1", "--attribute", "a=2"],
        ["--purpose-version", "0", "--attribute", "a=1"],
    ] {
        let grant = ["record", "--subject", "user:1", "--grant", "marketing.newsletter:email"];
        let refused = desk.server.cli(&[&grant[..], &twice].concat()).expect_code(2);
        assert!(refused.stderr.contains(twice[0]), "{}", refused.stderr);
    }
    let language = ["--preferred-language", "german (austria)"];
    let grant = ["--grant", "marketing.offers:sms"];
    let warned = desk.server.cli(&[&stop[..], &language].concat()).expect_code(0);
    assert!(warned.stdout.contains("warning: preferences.language"), "{}", warned.stdout);
    desk.denied(&["user:1"]).await;
    desk.server.cli(&[&stop[..], &grant, &language].concat()).expect_code(1);
}

/// One row of a random table.
struct Row {
    person: u32,
    news: &'static str,
    texts: &'static str,
    /// Minutes after the first moment of the table.
    minute: u32,
    by: &'static str,
    /// The side fields after the time: until, by, how, language.
    until: &'static str,
    how: &'static str,
    language: &'static str,
}

impl Row {
    fn random(random: &mut ChaCha8Rng, minute: u32) -> Self {
        let mut pick = |words: &[&'static str]| words[random.next_u32() as usize % words.len()];
        let words = ["yes", "no", "", "yes", "no", "NO", "FALSE", "HARD_BOUNCE"];
        let (news, texts) = (pick(&words), pick(&words));
        let by = pick(&["subject", "import", "", "subject", "nobody"]);
        let until = pick(&["", "", "2099-01-01T00:00:00Z", "9999-12-31", "soon"]);
        let (how, language) = (pick(&["web", ""]), pick(&["", "de_AT", "de", "german (austria)"]));
        let person = random.next_u32() % 60;
        Self { person, news, texts, minute, by, until, how, language }
    }

    fn text(&self) -> String {
        let Self { person, news, texts, minute, by, until, how, language } = self;
        // Within the hour that clocks repeat, and around it.
        let (hour, minute) = (1 + minute / 60, minute % 60);
        let at = format!("2024-10-27 {hour:02}:{minute:02}");
        format!("{person},{news},{texts},{at},{until},{by},{how},{language}\n")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_row_of_a_random_table_leaves_what_it_stops_allowed() {
    let mut desk = Desk::new().await;
    desk.map(MAPPING);
    let mut random = ChaCha8Rng::seed_from_u64(support::seed("random-table"));
    let rows: Vec<Row> = (0..240).map(|minute| Row::random(&mut random, minute)).collect();
    let people: Vec<_> = (0..60).map(|person| format!("user:{person}")).collect();
    // Before the table, all were in.
    let before = timestamp(1_700_000_000_000);
    for subject in &people {
        for channel in ["email", "sms"] {
            let request = one_change(subject, Action::Grant, LETTER, channel);
            let effective_at = Some(before);
            desk.clients.record(proto::RecordConsentRequest { effective_at, ..request }).await;
        }
    }
    // The order of rows is not that of their times.
    let mut order: Vec<&Row> = rows.iter().collect();
    for at in (1..order.len()).rev() {
        order.swap(at, random.next_u32() as usize % (at + 1));
    }
    let heading = "id,news,texts,at,until,by,how,language\n".to_owned();
    let table = order.iter().fold(heading, |table, row| table + &row.text());
    desk.import("table.csv", table, &[]).expect_code(1);
    for (at, row) in rows.iter().enumerate() {
        for (word, channel, column) in [
            (row.news, "email", (|row| row.news) as fn(&Row) -> &str),
            (row.texts, "sms", |row| row.texts),
        ] {
            if !word.eq_ignore_ascii_case("no") {
                continue;
            }
            let own_later_grant = rows[at..].iter().any(|later| {
                later.person == row.person && later.by == "subject" && column(later) == "yes"
            });
            let subject = &people[row.person as usize];
            let is_allowed = desk.is_allowed(subject, channel).await;
            assert!(!is_allowed || own_later_grant, "{}: {channel}", row.text());
        }
    }
}
