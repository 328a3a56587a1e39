//! `import` from a file to the ledger, both with the real binary: its effects, and that no row is
//! lost or doubled when either process is killed.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use consent_ledger::{
    domain::Body,
    proto::{self, Action, Actor, Effect, Reason},
};
use serde_json::{Value, json};

use crate::support::{
    self, Clients, Finished, LONG_PATIENCE, Process, Server, binary, check_request,
    consent_purpose, eventually_within, json_lines, opened, repository,
};

const LETTER: &str = "marketing.newsletter";

const MAPPING: &str = r#"
subject = "user:{id}"

[[cells]]
column = "news"
purpose = "marketing.newsletter"
channel = "email"
grant = ["yes"]
withdraw = ["no"]

[[cells]]
column = "calls"
purpose = "*"
channel = "phone"
object = ["never"]

[effective_at]
column = "since"
format = "%Y-%m-%d"
time_zone = "Europe/Vienna"

[actor]
column = "by"

[evidence]
method = { column = "form" }

[preferences]
language = { column = "language" }
"#;

/// A server, and a directory with the files of an import.
struct Desk {
    server: Server,
    clients: Clients,
    dir: tempfile::TempDir,
}

impl Desk {
    async fn new() -> Self {
        Self::with(&[]).await
    }

    async fn with(flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start_with(&dir.path().join("data"), flags);
        let clients = server.clients_with_catalog(&[LETTER], &["email", "phone"]).await;
        let desk = Self { server, clients, dir };
        desk.write("map.toml", MAPPING);
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn start_import(&self, file: &str, more: &[&str]) -> Process {
        let mut command = binary();
        command.args(["--json", "--addr", &self.server.address, "import"]);
        command.arg(self.path(file)).args(["--source", "crm"]).args(more);
        if file.ends_with(".csv") {
            command.arg("--mapping").arg(self.path("map.toml"));
        }
        Process::spawn(command)
    }

    fn import(&self, file: &str, more: &[&str]) -> Finished {
        self.start_import(file, more).wait(LONG_PATIENCE)
    }

    fn rejects(&self, file: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(&format!("{file}.rejects.ndjson"))).unwrap();
        json_lines(&text)
    }

    fn has_import_state(&self, file: &str) -> bool {
        self.path(&format!("{file}.import-state.json")).exists()
    }

    async fn head(&mut self) -> u64 {
        self.clients.checkpoint().await.size
    }

    async fn check(&mut self, subject: &str) -> proto::CheckResponse {
        let request = check_request(subject, LETTER, "email");
        self.clients.ask(request).await
    }

    async fn language(&mut self, subject: &str) -> String {
        let request =
            proto::GetPreferencesRequest { subject: subject.into(), ..Default::default() };
        let answer = self.clients.consent.get_preferences(request).await.unwrap().into_inner();
        answer.preferences.unwrap_or_default().language
    }

    /// Kills the server and starts it again at the same address.
    async fn kill_and_restart(self) -> Self {
        let Self { server, clients: _, dir } = self;
        let address = server.address.clone();
        server.kill();
        let server = Server::start_at(&dir.path().join("data"), &address);
        let clients = server.clients().await;
        Self { server, clients, dir }
    }
}

/// Rows recorded, unchanged, replayed and rejected; together they are all rows.
#[track_caller]
fn counts(finished: &Finished) -> [u64; 4] {
    let json = finished.json();
    let counts = ["recorded", "unchanged", "replayed", "rejected"]
        .map(|field| json[field].as_u64().unwrap());
    assert_eq!(json["rows"], counts.iter().sum::<u64>(), "{json}");
    counts
}

const LIST: &str = "\
id,news,calls,since,by,form,language\r\n\
1,yes,,2025-01-02,,,\r\n\
2,no,never,2025-01-02,,,de\r\n\
3,,,,,,\r\n\
4,perhaps,,2025-01-02,,,\r\n\
5,yes,,2025-13-02,,,\r\n\
6,yes,,2025-01-02,subject,,\r\n\
7,yes,,2025-01-02,subject,paper,\r\n\
,yes,,2025-01-02,,,\r\n\
8,yes\r\n\
\r\n\
9,\" yes \",,2025-01-02,,,xx-\r\n\
10,yes,,2025-01-02,,,\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_recorded_and_faulty_rows_are_reported() {
    let mut desk = Desk::new().await;
    desk.write("list.csv", LIST);
    let head = desk.head().await;
    let foreseen = desk.import("list.csv", &["--dry-run"]).expect_code(1);
    assert_eq!(desk.head().await, head, "a dry run writes nothing");
    let foreseen = (counts(&foreseen), desk.rejects("list.csv"));

    let done = desk.import("list.csv", &[]).expect_code(1);
    assert_eq!(counts(&done), [4, 1, 0, 6]);
    let rejects = desk.rejects("list.csv");
    assert_eq!((counts(&done), rejects.clone()), foreseen);
    let rejected: Vec<_> = rejects
        .iter()
        .map(|reject| (reject["line"].as_str().unwrap(), reject["field"].as_str().unwrap()))
        .collect();
    let want = [
        ("5", "news"),
        ("6", "since"),
        ("7", "evidence.method"),
        ("9", "id"),
        ("10", ""),
        ("12", "preferences.language"),
    ];
    assert_eq!(rejected, want);
    assert!(
        rejects.iter().all(|reject| reject["reason"] != "" && reject["message"] != ""),
        "{rejects:?}"
    );
    assert!(!desk.has_import_state("list.csv"));

    assert_eq!(desk.head().await, head + 4);
    assert_eq!(desk.check("user:1").await.effect(), Effect::Allow);
    assert_eq!(desk.check("user:2").await.reason(), Reason::Revoked);
    assert_eq!(desk.language("user:2").await, "de");
    for absent in ["user:3", "user:4", "user:5", "user:6", "user:8", "user:9"] {
        assert_eq!(desk.check(absent).await.reason(), Reason::NoRecord, "{absent}");
    }
    let imported = &desk.clients.history("user:7").await[0];
    assert_eq!(
        (imported.actor(), imported.evidence.as_ref().unwrap().method.as_str()),
        (Actor::Subject, "paper")
    );
    let midnight_in_vienna = "2025-01-01T23:00:00Z".parse::<jiff::Timestamp>().unwrap();
    assert_eq!(
        support::millis(imported.effective_at.as_ref()),
        Some(midnight_in_vienna.as_millisecond())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn last_years_list_changes_nothing() {
    let mut desk = Desk::new().await;
    let mut yearly = consent_purpose(LETTER);
    yearly.default_validity = Some(prost_types::Duration { seconds: 3_650 * 86_400, nanos: 0 });
    desk.clients.put_purpose(yearly).await;
    // Acts of last year refer to the version of their time, unless the list names another.
    let of_now = "channel = \"email\"\npurpose_version = 2";
    desk.write("map.toml", &MAPPING.replacen("channel = \"email\"", of_now, 1));
    let header = "id,news,calls,since,by,form,language\n";
    let list: String = (0..50).fold(header.to_owned(), |mut list, n| {
        let news = if n % 3 == 0 { "no" } else { "yes" };
        writeln!(list, "{n},{news},,2025-0{}-01,,,{}", n % 9 + 1, ["", "de", "fr"][n % 3]).unwrap();
        list
    });
    desk.write("list.csv", &list);
    assert_eq!(counts(&desk.import("list.csv", &[]).expect_code(0)), [50, 0, 0, 0]);
    let (head, before) = (desk.head().await, desk.check("user:1").await);
    assert!(before.valid_until.is_some());

    assert_eq!(counts(&desk.import("list.csv", &[]).expect_code(0)), [0, 0, 50, 0]);
    // From another file and source, without its dates, and with blanks.
    let undated = list.lines().skip(1).fold(header.to_owned(), |mut undated, line| {
        let mut fields: Vec<_> = line.split(',').collect();
        (fields[3], fields[6]) = ("", "");
        writeln!(undated, "{}", fields.join(",")).unwrap();
        undated
    });
    desk.write("again.csv", &undated);
    let mut command = binary();
    command.args(["--json", "--addr", &desk.server.address, "import", "--source", "web"]);
    command.arg(desk.path("again.csv")).arg("--mapping").arg(desk.path("map.toml"));
    let again = Process::spawn(command).wait(LONG_PATIENCE).expect_code(0);
    assert_eq!(counts(&again), [0, 50, 0, 0]);
    assert_eq!(desk.head().await, head);
    let after = desk.check("user:1").await;
    assert_eq!(
        (after.decided_by_index, after.valid_until),
        (before.decided_by_index, before.valid_until)
    );
    assert_eq!(desk.language("user:1").await, "de");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_person_lifts_a_stop() {
    let mut desk = Desk::new().await;
    for subject in ["user:1", "user:2"] {
        desk.clients.record_change(subject, Action::Withdraw, "*", "*").await;
    }
    let grant = |subject: &str, more: Value| {
        let mut row = json!({
            "subject": subject,
            "changes": [{"action": "ACTION_GRANT", "scope": {"purpose": LETTER, "channel": "email"}}],
        });
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        row.to_string()
    };
    let after_the_stop = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(1);
    let by_subject = json!({
        "actor": "ACTOR_SUBJECT",
        "effectiveAt": after_the_stop.to_string(),
        "evidence": {"method": "phone"},
        "rowKey": "2-2",
    });
    let rows = [
        grant("user:1", json!({})),
        grant("user:2", by_subject),
        grant("user:3", json!({"rowKey": "3-1"})),
        grant("user:4", json!({"rowKey": "3-1"})),
        grant("user:4", json!({"rowKey": "3-1", "evidence": {"touchpoint": "shop"}})),
        "{}".to_owned(),
    ];
    desk.write("rows.ndjson", &rows.join("\n"));
    let done = desk.import("rows.ndjson", &[]).expect_code(1);
    assert_eq!(counts(&done), [4, 0, 0, 2]);
    let outcome = |name: &str, count: &str| json!({"outcome": name, "count": count});
    let want = [outcome("OUTCOME_APPLIED", "3"), outcome("OUTCOME_BLOCKED_BY_STOP", "1")];
    assert_eq!(done.json()["outcomes"], json!(want));
    let rejects = desk.rejects("rows.ndjson");
    assert_eq!((&rejects[0]["line"], &rejects[0]["field"]), (&json!("5"), &json!("row_key")));
    assert_eq!(rejects[0]["reason"], "IDEMPOTENCY_KEY_REUSED");
    assert_eq!((&rejects[1]["line"], &rejects[1]["field"]), (&json!("6"), &json!("subject")));
    assert_eq!(desk.check("user:1").await.reason(), Reason::Withdrawn);
    assert_eq!(desk.check("user:2").await.reason(), Reason::Granted);
    let head = desk.head().await;
    assert_eq!(counts(&desk.import("rows.ndjson", &[]).expect_code(1)), [0, 0, 4, 2]);
    assert_eq!(desk.head().await, head);
}

/// Three streams, the last not full; every thousandth row is wrong.
const ROWS: usize = 22_000;
const WRONG: usize = ROWS / 1_000;

fn big_list() -> String {
    let header = "id,news,calls,since,by,form,language\n".to_owned();
    (1..=ROWS).fold(header, |mut list, n| {
        let news = if n % 1_000 == 0 { "maybe" } else { "yes" };
        writeln!(list, "{n},{news},,2025-01-02,,,").unwrap();
        list
    })
}

async fn wait_for_head(clients: &mut Clients, least: u64) {
    eventually_within(LONG_PATIENCE, &format!("{least} entries"), async || {
        (clients.checkpoint().await.size >= least).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_row_is_lost_or_doubled_when_server_or_command_is_killed() {
    let mut desk = Desk::new().await;
    desk.write("big.csv", &big_list());
    let empty = desk.head().await;

    // The command, within its second stream.
    let mut command = desk.start_import("big.csv", &[]);
    wait_for_head(&mut desk.clients, empty + 11_000).await;
    command.kill();
    assert!(desk.has_import_state("big.csv"));

    // The server, within the rest; the command continues by itself once the server is back.
    let killed_at = desk.head().await;
    let command = desk.start_import("big.csv", &["--retries", "30"]);
    wait_for_head(&mut desk.clients, killed_at + 2_000).await;
    let mut desk = desk.kill_and_restart().await;
    let done = command.wait(LONG_PATIENCE).expect_code(1);
    let [recorded, unchanged, replayed, rejected] = counts(&done);
    assert_eq!((unchanged, rejected), (0, WRONG as u64));
    assert_eq!(recorded + replayed, (ROWS - WRONG) as u64);
    assert!(replayed > 0, "some rows of a stream that broke came twice");
    assert!(done.json()["resumedAtLine"].as_u64().unwrap() > 10_000);
    assert!(!desk.has_import_state("big.csv"));

    let rejects = desk.rejects("big.csv");
    let line = |reject: &Value| reject["line"].as_str().unwrap().parse::<u64>().unwrap();
    let lines: Vec<_> = rejects.iter().map(line).collect();
    assert_eq!(lines, (1..=WRONG as u64).map(|n| n * 1_000 + 1).collect::<Vec<_>>());

    let opened = opened::Ledger::open(&desk.path("data"));
    let acts = opened.entries().filter(|entry| matches!(entry.body, Body::Act(_)));
    assert_eq!(acts.count(), ROWS - WRONG);
    let cells: Vec<_> = (1..=ROWS)
        .filter(|n| n % 1_000 != 0)
        .map(|n| (format!("user:{n}"), LETTER.to_owned(), "email".to_owned()))
        .collect();
    let decisions = desk.clients.check_cells(&cells).await;
    assert!(decisions.iter().all(|decision| decision.effect() == Effect::Allow));
    let deciding: BTreeSet<_> =
        decisions.iter().map(|decision| decision.decided_by_index).collect();
    assert_eq!(deciding.len(), ROWS - WRONG, "each by an act of its own");

    let head = desk.head().await;
    let again = desk.import("big.csv", &[]).expect_code(1);
    assert_eq!(counts(&again), [0, 0, (ROWS - WRONG) as u64, WRONG as u64]);
    assert_eq!(desk.head().await, head);
    assert_eq!(desk.rejects("big.csv"), rejects);
    let data = desk.path("data");
    desk.server.terminate();
    support::verify(&data).expect_code(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_server_is_waited_for() {
    let mut desk = Desk::with(&["--import-rows-per-second-max", "400"]).await;
    let list: String =
        big_list().lines().take(1_000).fold(String::new(), |list, line| list + line + "\n");
    desk.write("slow.csv", &list);
    let head = desk.head().await;
    let done = desk.import("slow.csv", &["--timeout", "1s"]).expect_code(0);
    assert_eq!(counts(&done), [999, 0, 0, 0]);
    assert_eq!(desk.head().await, head + 999);
}

/// Kills an import in its second stream.
async fn stopped_import(desk: &mut Desk) {
    let empty = desk.head().await;
    let mut command = desk.start_import("big.csv", &[]);
    wait_for_head(&mut desk.clients, empty + 10_500).await;
    command.kill();
    assert!(desk.has_import_state("big.csv"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_import_resumes_only_with_the_same_file_and_ledger() {
    let mut desk = Desk::new().await;
    desk.write("big.csv", &big_list());
    stopped_import(&mut desk).await;

    // A corrected row in its place: the file keeps its length, and the change is far from its
    // beginning.
    let mended = big_list().replace("\n9000,maybe", "\n9000,yes  ");
    assert_eq!(mended.len(), big_list().len());
    desk.write("big.csv", &mended);
    let refused = desk.import("big.csv", &[]).expect_code(1);
    assert!(refused.stderr.contains("--restart"), "{}", refused.stderr);

    // In another ledger, no row is recorded yet.
    desk.write("big.csv", &big_list());
    let elsewhere = Desk::new().await;
    copy(&desk, &elsewhere);
    let refused = elsewhere.import("big.csv", &[]).expect_code(1);
    assert!(refused.stderr.contains("--restart"), "{}", refused.stderr);
    assert!(refused.stderr.contains("ledger"), "{}", refused.stderr);

    desk.write("big.csv", &mended);
    let done = desk.import("big.csv", &["--restart"]).expect_code(1);
    let [recorded, unchanged, replayed, rejected] = counts(&done);
    assert_eq!(recorded + replayed, (ROWS - WRONG + 1) as u64);
    assert_eq!((unchanged, rejected), (0, WRONG as u64 - 1));
    assert_eq!(desk.check("user:9000").await.effect(), Effect::Allow);
}

fn copy(from: &Desk, to: &Desk) {
    for name in ["big.csv", "big.csv.import-state.json", "big.csv.rejects.ndjson"] {
        let text = fs::read_to_string(from.path(name)).unwrap();
        let place = |desk: &Desk| desk.dir.path().display().to_string();
        to.write(name, &text.replace(&place(from), &place(to)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_is_imported_as_documented() {
    let mut desk = Desk::new().await;
    let catalog = desk.server.cli(&["catalog", "apply", &example("catalog.toml")]);
    catalog.expect_code(0);
    let (file, mapping) = (example("import.csv"), example("import-mapping.toml"));
    let rejects = desk.path("rejects").display().to_string();
    let args =
        ["import", &file, "--source", "crm-2026", "--mapping", &mapping, "--rejects", &rejects];
    desk.server.cli(&args).expect_code(0);
    let again = desk.server.cli(&[&args[..], &["--json"]].concat()).expect_code(0);
    assert_eq!(counts(&again)[0], 0);
    assert!(!Path::new(&rejects).exists());
    assert_eq!(desk.check("user:9001").await.effect(), Effect::Allow);
    assert_eq!(desk.check("user:9002").await.reason(), Reason::Refused);
}

fn example(name: &str) -> String {
    repository("examples").join(name).display().to_string()
}
