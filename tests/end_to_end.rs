//! The main job on real input, over TCP with the built binary: onboarding flows record opt-ins,
//! services ask "may I?", stops reach a watcher, and an auditor verifies the chain.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
    path::Path,
    sync::{Arc, Mutex},
};

use consent_ledger::proto::{self, Action, watch_response};

use crate::support::{
    self, Clients, Server, act, change,
    example::{self, FileAct},
    model,
};

/// The events that a watcher heard, and its latest progress.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<(Vec<proto::ConsentEvent>, u64)>>);

impl Heard {
    /// Watches from the first entry, with the default filter: the stops.
    async fn from_the_beginning(clients: &mut Clients) -> Self {
        let request = proto::WatchRequest {
            start_index: Some(0),
            progress_interval: Some(prost_types::Duration { seconds: 0, nanos: 200_000_000 }),
            ..proto::WatchRequest::default()
        };
        let mut stream = clients.watch.watch(request).await.unwrap().into_inner();
        let heard = Self::default();
        let shared = heard.clone();
        tokio::spawn(async move {
            while let Ok(Some(message)) = stream.message().await {
                let mut heard = shared.0.lock().unwrap();
                match message.message.unwrap() {
                    watch_response::Message::Consent(event) => heard.0.push(event),
                    watch_response::Message::Progress(progress) => heard.1 = progress.next_index,
                    watch_response::Message::Catalog(_) => {}
                    other => panic!("unexpected {other:?}"),
                }
            }
        });
        heard
    }

    /// All events, once the watcher's progress has reached `head`.
    fn until(&self, head: u64) -> Vec<proto::ConsentEvent> {
        support::wait_until("the watcher at the head", support::LONG_PATIENCE, || {
            let heard = self.0.lock().unwrap();
            (heard.1 >= head).then(|| heard.0.clone())
        })
    }
}

/// Every act of the file with its place in the ledger, by data subject. Fails the test unless the
/// histories are exactly the file.
async fn acts_in_ledger(
    clients: &mut Clients,
    acts: &[FileAct],
) -> BTreeMap<String, Vec<model::Act>> {
    let mut by_subject: BTreeMap<&str, Vec<&FileAct>> = BTreeMap::new();
    let mut keys = HashSet::new();
    for act in acts {
        // An act with a known key is the same act again.
        if act.idempotency_key.as_ref().is_none_or(|key| keys.insert(key)) {
            by_subject.entry(&act.subject).or_default().push(act);
        }
    }
    let mut acts_by_subject = BTreeMap::new();
    for (subject, acts) in by_subject {
        let history = clients.history(subject).await;
        assert_eq!(history.len(), acts.len(), "acts of {subject}");
        let mut subject_acts = Vec::new();
        for (act, recorded) in acts.into_iter().zip(history) {
            let effective_at = support::millis(recorded.effective_at.as_ref()).unwrap();
            assert_eq!(recorded.actor(), act.actor, "{subject} at {}", recorded.index);
            assert_eq!(act.effective_at.unwrap_or(effective_at), effective_at);
            let scopes: Vec<_> = recorded
                .changes
                .iter()
                .map(|change| (change.action(), text(&change.scope)))
                .collect();
            let want: Vec<_> =
                act.changes.iter().map(|change| (change.action, scope_text(change))).collect();
            assert_eq!(scopes, want, "{subject} at {}", recorded.index);
            let touchpoint = act.evidence.get("touchpoint").and_then(|value| value.as_str());
            let evidence = recorded.evidence.unwrap_or_default();
            assert_eq!(evidence.touchpoint, touchpoint.unwrap_or_default());
            subject_acts.push(model::Act {
                actor: act.actor,
                changes: act.changes.clone(),
                effective_at,
                index: recorded.index,
            });
        }
        acts_by_subject.insert(subject.to_owned(), subject_acts);
    }
    acts_by_subject
}

fn text(scope: &Option<proto::Scope>) -> String {
    let scope = scope.as_ref().unwrap();
    format!("{}:{}", scope.purpose, scope.channel)
}

fn scope_text(change: &model::Change) -> String {
    let part = |key: &Option<String>| key.clone().unwrap_or_else(|| "*".to_owned());
    format!("{}:{}", part(&change.purpose), part(&change.channel))
}

/// Every cell, with one unknown purpose, channel and subject added.
fn every_cell(
    catalog: &model::Catalog,
    acts_by_subject: &BTreeMap<String, Vec<model::Act>>,
) -> Vec<(String, String, String)> {
    let stranger = "user:nobody-knows-me".to_owned();
    let mut cells = Vec::new();
    for subject in acts_by_subject.keys().chain([&stranger]) {
        for purpose in catalog.purposes.keys().chain([&"no.such.purpose".to_owned()]) {
            for channel in catalog.channels.keys().chain([&"no-such-channel".to_owned()]) {
                cells.push((subject.clone(), purpose.clone(), channel.clone()));
            }
        }
    }
    cells
}

/// An answer without the fields that depend on the time of asking.
fn without_clock(answer: &proto::CheckResponse) -> proto::CheckResponse {
    let mut answer = proto::CheckResponse { not_before: None, ..answer.clone() };
    if !answer.obligations.is_empty() {
        answer.valid_until = None;
    }
    if answer.effect() == proto::Effect::NotNow {
        answer.effect = proto::Effect::Allow.into();
    }
    for obligation in &mut answer.obligations {
        obligation.not_before = None;
    }
    answer
}

/// Compares every cell with the second implementation. Returns the decisions.
async fn assert_every_cell(
    clients: &mut Clients,
    catalog: &model::Catalog,
    acts_by_subject: &BTreeMap<String, Vec<model::Act>>,
    cells: &[(String, String, String)],
) -> Vec<proto::CheckResponse> {
    let before = support::now_ms();
    let decisions = clients.check_cells(cells).await;
    let after = support::now_ms();
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for ((subject, purpose, channel), decision) in cells.iter().zip(&decisions) {
        let acts = acts_by_subject.get(subject).map_or(&[][..], Vec::as_slice);
        let expected = model::decide(catalog, acts, purpose, channel, before);
        // A grant may expire while the cells are checked: both answers are right.
        if expected == model::decide(catalog, acts, purpose, channel, after) {
            expected.assert_matches(decision, &format!("{subject} {purpose}:{channel}"));
        }
        *reasons.entry(decision.reason().as_str_name()).or_default() += 1;
    }
    println!("{} cells: {reasons:?}", cells.len());
    for reason in ["GRANTED", "WITHDRAWN", "REFUSED", "NO_RECORD", "NOT_CONSENT_BASED"] {
        let name = format!("REASON_{reason}");
        assert!(reasons.contains_key(name.as_str()), "the input is rich: no {name}");
    }
    decisions
}

/// Personal data of an act that this test records itself, besides those of the examples.
const PERSONAL: &[&str] = &[
    "email:zoe.needle@example.org",
    "zoe.needle@example.org",
    "198.51.100.237",
    "NeedleBrowser/7.3 (Haystack; x86_64)",
    "Needle Lane 17, 1010 Vienna",
    "needle-idempotency-key",
];

async fn record_personal_data(clients: &mut Clients) {
    let mut request = act(PERSONAL[0], vec![change(Action::Withdraw, "*", "*")]);
    request.evidence = Some(proto::Evidence {
        touchpoint: "onboarding".to_owned(),
        ip_address: PERSONAL[2].to_owned(),
        user_agent: PERSONAL[3].to_owned(),
        attributes: BTreeMap::from([("address".to_owned(), PERSONAL[4].to_owned())]),
        ..proto::Evidence::default()
    });
    request.idempotency_key = PERSONAL[5].to_owned();
    clients.record(request.clone()).await;
    // Errors see personal data too.
    request.changes = vec![change(Action::Grant, "*", "*")];
    clients.consent.record_consent(request.clone()).await.unwrap_err();
    request.changes = vec![change(Action::Grant, "no.such.purpose", "email")];
    clients.consent.record_consent(request.clone()).await.unwrap_err();
    request.changes = vec![change(Action::Withdraw, "*", "email")];
    clients.consent.record_consent(request.clone()).await.unwrap_err();
    request.subject = PERSONAL[1].to_owned();
    clients.consent.record_consent(request).await.unwrap_err();
    let check = support::check_request(PERSONAL[1], "marketing.newsletter", "email");
    clients.check.check(check).await.unwrap_err();
}

/// Searches for many texts at once, each of at least six bytes.
struct Needles {
    by_head: HashMap<[u8; 6], Vec<String>>,
    /// Whether some text begins with these two bytes.
    first_two: Vec<bool>,
}

impl Needles {
    fn new(texts: impl IntoIterator<Item = String>) -> Self {
        let mut needles = Self { by_head: HashMap::new(), first_two: vec![false; 1 << 16] };
        for text in texts {
            let head: [u8; 6] = text.as_bytes()[..6].try_into().unwrap();
            needles.first_two[usize::from(u16::from_be_bytes([head[0], head[1]]))] = true;
            needles.by_head.entry(head).or_default().push(text);
        }
        needles
    }

    fn found_in(&self, bytes: &[u8]) -> HashSet<&str> {
        let mut found = HashSet::new();
        for (at, head) in bytes.windows(6).enumerate() {
            if self.first_two[usize::from(u16::from_be_bytes([head[0], head[1]]))] {
                let candidates = self.by_head.get(head).into_iter().flatten();
                let here =
                    candidates.filter(|candidate| bytes[at..].starts_with(candidate.as_bytes()));
                found.extend(here.map(String::as_str));
            }
        }
        found
    }
}

/// No byte of the data directory, of a log or of the metrics reveals personal data.
fn assert_nothing_personal(data_dir: &Path, acts: &[FileAct], texts: &[(&str, String)]) {
    let mut personal: HashSet<String> = PERSONAL.iter().map(|text| (*text).to_owned()).collect();
    for act in acts {
        personal.insert(act.subject.clone());
        for part in ["ipAddress", "userAgent"] {
            let part = act.evidence.get(part).and_then(|part| part.as_str());
            personal.extend(part.map(str::to_owned));
        }
        personal.extend(act.idempotency_key.clone());
    }
    assert!(personal.len() > 1_000, "the input has many people");
    let needles = Needles::new(personal.iter().cloned());

    // The search itself works: in each place it finds something that is stored in clear.
    let everything: String = personal.iter().map(String::as_str).collect();
    assert_eq!(needles.found_in(everything.as_bytes()).len(), personal.len());
    let files = support::files(data_dir);
    let is_in = |folder: &str, clear: &[u8]| {
        let folder = data_dir.join(folder);
        let mut below = files.iter().filter(|(path, _)| path.starts_with(&folder));
        below.any(|(_, bytes)| bytes.windows(clear.len()).any(|window| window == clear))
    };
    assert!(is_in("ledger", b"marketing.newsletter"), "the search finds purposes in the ledger");
    assert!(!is_in("view", b"marketing.newsletter"), "what the view holds is sealed");
    for folder in ["vault", "view"] {
        assert!(files.keys().any(|path| path.starts_with(data_dir.join(folder))), "{folder}");
    }

    for (path, bytes) in &files {
        let found = needles.found_in(bytes);
        assert!(found.is_empty(), "{}: {:?}", path.display(), found.iter().take(5));
    }
    for (source, text) in texts {
        assert!(!text.is_empty(), "there is something to search: {source}");
        let found = needles.found_in(text.as_bytes());
        assert!(found.is_empty(), "{source}: {:?}", found.iter().take(5));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_main_job_end_to_end() {
    let catalog = example::catalog();
    let acts = example::acts();
    assert!(acts.len() >= 10_000, "{} acts", acts.len());
    let dir = tempfile::tempdir().unwrap();
    let flags = ["--metrics-listen", "127.0.0.1:0", "--log-level", "debug"];
    let server = Server::start_with(dir.path(), &flags);
    let mut clients = server.clients().await;
    let heard = Heard::from_the_beginning(&mut clients).await;

    let file = |path: &str| support::repository(path).to_str().unwrap().to_owned();
    server.cli(&["catalog", "apply", &file(example::CATALOG)]).expect_code(0);
    server.cli(&["replay", &file(example::ACTS)]).expect_code(0);

    let acts_by_subject = acts_in_ledger(&mut clients, &acts).await;
    let cells = every_cell(&catalog, &acts_by_subject);
    let decisions = assert_every_cell(&mut clients, &catalog, &acts_by_subject, &cells).await;
    let head = clients.checkpoint().await.size;

    // The watcher heard every stop, once, in the order of the ledger, and nothing else.
    let heard = tokio::task::block_in_place(|| heard.until(head));
    let mut stops: Vec<(u64, &str, Vec<String>)> = Vec::new();
    for (subject, acts) in &acts_by_subject {
        for act in acts {
            let is_stop = |change: &&model::Change| change.action != Action::Grant;
            let changes: Vec<_> = act.changes.iter().filter(is_stop).map(scope_text).collect();
            if !changes.is_empty() {
                stops.push((act.index, subject, changes));
            }
        }
    }
    stops.sort();
    assert!(stops.len() > 100, "{} stops", stops.len());
    let delivered: Vec<(u64, &str, Vec<String>)> = heard
        .iter()
        .map(|event| {
            let scopes = event.changes.iter().map(|change| text(&change.scope)).collect();
            (event.index, event.subject.as_str(), scopes)
        })
        .collect();
    assert!(delivered == stops, "{} events for {} stops", delivered.len(), stops.len());

    // An auditor verifies beside the running server, and without it.
    support::verify(dir.path()).expect_code(0);
    let data_dir = dir.path().to_str().unwrap();
    for exported in [
        server.cli(&["export"]).expect_code(0),
        support::run(["export", "--data-dir", data_dir]).expect_code(0),
    ] {
        let lines = exported.json_lines();
        let indices = lines.iter().map(|line| line["entry"]["index"].as_str()?.parse().ok());
        assert!(indices.eq((0..head).map(Some)), "{} lines for {head} entries", lines.len());
    }

    let refused = support::run(Server::arguments(dir.path()));
    assert!(refused.code.is_some_and(|code| code != 0), "{refused:?}");
    let message = refused.stderr.to_lowercase();
    assert!(message.contains("another process"), "{message}");
    assert!(message.contains(&data_dir.to_lowercase()), "{message}");

    // The answers are the same after a restart and from a rebuilt view.
    let mut logs = vec![server.terminate().output()];
    for without_view in [false, true] {
        if without_view {
            fs::remove_dir_all(dir.path().join("view")).unwrap();
        }
        let server = Server::start_with(dir.path(), &flags);
        let mut clients = server.clients().await;
        let again = clients.check_cells(&cells).await;
        let differ = |((cell, was), is): ((_, &proto::CheckResponse), &proto::CheckResponse)| {
            let (was, is) = (without_clock(was), without_clock(is));
            (was != is).then(|| format!("{cell:?}\n was {was:?}\n  is {is:?}"))
        };
        let different = cells.iter().zip(&decisions).zip(&again).find_map(differ);
        assert_eq!(different, None, "without view: {without_view}");
        logs.push(server.terminate().output());
    }
    support::verify(dir.path()).expect_code(0);

    let server = Server::start_with(dir.path(), &flags);
    record_personal_data(&mut server.clients().await).await;
    let metrics = server.printed("metrics on ").expect("the server prints where its metrics are");
    let metrics = support::http_get(&metrics, "/metrics");
    let gauge = |name| support::metric(&metrics, name);
    assert!(gauge("consent_ledger_ledger_entries") >= head);
    assert!(gauge("consent_ledger_ledger_size_bytes") > head * 100);
    assert!(gauge("consent_ledger_vault_subjects") > 1_000);
    logs.push(server.terminate().output());
    assert_nothing_personal(dir.path(), &acts, &[("logs", logs.concat()), ("metrics", metrics)]);
}
