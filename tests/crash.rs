//! Crash recovery: `kill -9` under load, torn tails, flipped bits and a full disk, all with the
//! real binary and its real files. One invariant holds: everything acknowledged is recovered, and
//! the ledger verifies.
//!
//! With `CONSENT_LEDGER_TEST_EVERY_BYTE` a tail is torn at every byte, and a bit flipped in every byte; without
//! it, at one byte in eight.

use std::{
    collections::BTreeMap,
    fs,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use consent_ledger::proto::{self, Action, Actor};
use futures_util::{StreamExt as _, stream};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_types::StatusExt as _;

use crate::support::{self, Clients, Process, Server, act, change, model, typed};

const PURPOSES: &[&str] = &["marketing.newsletter", "marketing.offers", "analytics.usage"];
const CHANNELS: &[&str] = &["email", "sms"];
const SUBJECTS: u32 = 64;
const WRITERS: u64 = 6;
/// Small, so that segments rotate during the test.
const SMALL_SEGMENTS: &[&str] = &["--segment-bytes-max", "65536"];

/// One act of the journal: its request, and its answer if one came.
#[derive(Clone)]
struct Line {
    request: proto::RecordConsentRequest,
    promised: Option<proto::RecordConsentResponse>,
}

/// The clients' record of requests and answers.
#[derive(Clone, Default)]
struct Journal(Arc<Mutex<Vec<Line>>>);

impl Journal {
    /// Notes a request before it is sent. Returns its line.
    fn ask(&self, request: &proto::RecordConsentRequest) -> usize {
        let mut lines = self.0.lock().unwrap();
        lines.push(Line { request: request.clone(), promised: None });
        lines.len() - 1
    }

    fn promise(&self, line: usize, answer: proto::RecordConsentResponse) {
        self.0.lock().unwrap()[line].promised = Some(answer);
    }

    fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    fn promises(&self) -> usize {
        self.0.lock().unwrap().iter().filter(|line| line.promised.is_some()).count()
    }

    fn lines(&self) -> Vec<Line> {
        self.0.lock().unwrap().clone()
    }
}

/// An act that a busy service might send: most are about few subjects, some arrive late, some are
/// imports that may not lift a stop.
fn random_request(rng: &mut StdRng, key: String) -> proto::RecordConsentRequest {
    let among = 1 << rng.random_range(0..=SUBJECTS.ilog2());
    let subject = format!("user:{}", rng.random_range(0..among));
    let action = match rng.random_range(0..10) {
        0..6 => Action::Grant,
        6..9 => Action::Withdraw,
        _ => Action::Object,
    };
    let pick = |rng: &mut StdRng, keys: &[&str], wide: u32| {
        let any = action != Action::Grant && rng.random_ratio(wide, 100);
        if any { "*".to_owned() } else { keys[rng.random_range(0..keys.len())].to_owned() }
    };
    let purpose = pick(rng, PURPOSES, 10);
    let channel = pick(rng, CHANNELS, 20);
    let mut request = act(&subject, vec![change(action, &purpose, &channel)]);
    if action == Action::Grant && rng.random_ratio(1, 8) {
        request.actor = Actor::Import.into();
    }
    if rng.random_ratio(1, 5) {
        let ago = rng.random_range(0..20_000);
        request.effective_at = Some(support::timestamp(support::now_ms() - ago));
    }
    let size = if rng.random_ratio(1, 20) { 1_000 } else { 40 };
    let note = "n".repeat(rng.random_range(0..size));
    request.evidence = Some(proto::Evidence {
        touchpoint: "onboarding".to_owned(),
        attributes: BTreeMap::from([("note".to_owned(), note)]),
        ..proto::Evidence::default()
    });
    request.idempotency_key = key;
    request
}

/// Records acts one after the other until the server is gone.
async fn write_until_killed(mut clients: Clients, journal: Journal, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    for n in 0.. {
        let request = random_request(&mut rng, format!("{seed:016x}-{n}"));
        let line = journal.ask(&request);
        match clients.consent.record_consent(request).await {
            Ok(answer) => {
                let answer = answer.into_inner();
                assert!(!answer.replayed, "the key is new");
                journal.promise(line, answer);
            }
            Err(status) => {
                let refusal = status.get_details_error_info();
                assert!(refusal.is_none(), "only the connection breaks: {status:?}");
                return;
            }
        }
    }
}

/// Sends every line again, from `first` on: an acknowledged act gets its first answer, and any
/// other is recorded now unless it already was.
async fn ask_again(clients: &Clients, journal: &Journal, first: usize) {
    let lines: Vec<_> = journal.lines().into_iter().enumerate().skip(first).collect();
    let mut answers = stream::iter(lines)
        .map(|(at, line)| {
            let mut consent = clients.consent.clone();
            async move {
                let answer = consent.record_consent(line.request.clone()).await;
                (at, line, answer.expect("a retry is answered").into_inner())
            }
        })
        .buffer_unordered(64);
    while let Some((at, line, answer)) = answers.next().await {
        if let Some(promised) = line.promised {
            let key = &line.request.idempotency_key;
            assert!(answer.replayed, "acknowledged at {} and lost: {key}", promised.index);
            assert_eq!(proto::RecordConsentResponse { replayed: false, ..answer }, promised);
        } else {
            journal.promise(at, proto::RecordConsentResponse { replayed: false, ..answer });
        }
    }
}

/// The ledger holds each act of the journal once, at the acknowledged index, and no other act.
async fn assert_ledger_holds(clients: &mut Clients, journal: &Journal) {
    let mut acts: BTreeMap<u64, (i64, proto::ConsentAct)> = BTreeMap::new();
    for (position, (index, entry)) in clients.entries(0).await.into_iter().enumerate() {
        assert_eq!((index, entry.index), (position as u64, index), "no gap, no repetition");
        if let Some(proto::entry::Body::ConsentAct(act)) = entry.body {
            acts.insert(index, (entry.recorded_at_ms, act));
        }
    }
    for line in journal.lines() {
        let promised = line.promised.expect("everything was asked for again");
        let (recorded_at, act) = acts
            .remove(&promised.index)
            .unwrap_or_else(|| panic!("nothing of its own at {}", promised.index));
        assert_eq!(support::millis(promised.recorded_at.as_ref()), Some(recorded_at));
        assert_eq!(support::millis(promised.effective_at.as_ref()), Some(act.effective_at_ms));
        let change = &line.request.changes[0];
        assert_eq!((act.actor, act.changes[0].action), (line.request.actor, change.action));
    }
    assert!(acts.is_empty(), "acts that no client sent: {:?}", acts.keys());
}

/// Every cell has the answer of a replay of the journal.
async fn assert_checks_agree(clients: &mut Clients, journal: &Journal) {
    let mut catalog = model::Catalog::default();
    for key in PURPOSES {
        catalog.purposes.insert((*key).to_owned(), model::Purpose::consent());
    }
    for key in CHANNELS {
        catalog.channels.insert((*key).to_owned(), false);
    }
    let mut acts: BTreeMap<String, Vec<model::Act>> = BTreeMap::new();
    for line in journal.lines() {
        let promised = line.promised.expect("everything was asked for again");
        acts.entry(line.request.subject.clone())
            .or_default()
            .push(model::Act::of_request(&line.request, &promised));
    }
    let mut cells = Vec::new();
    for subject in acts.keys() {
        for (purpose, channel) in PURPOSES
            .iter()
            .flat_map(|purpose| CHANNELS.iter().map(move |channel| (purpose, channel)))
        {
            cells.push((subject.clone(), (*purpose).to_owned(), (*channel).to_owned()));
        }
    }
    let decisions = clients.check_cells(&cells).await;
    let now = support::now_ms();
    for ((subject, purpose, channel), decision) in cells.iter().zip(&decisions) {
        let expected = model::decide(&catalog, &acts[subject], purpose, channel, now);
        expected.assert_matches(decision, &format!("{subject} {purpose}:{channel}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_nine_under_load_loses_nothing_acknowledged() {
    let seed = support::seed("kill_nine_under_load_loses_nothing_acknowledged");
    let rounds: u64 = std::env::var("CONSENT_LEDGER_TEST_CRASH_ROUNDS")
        .map_or(50, |text| text.parse().expect("a number"));
    let mut rng = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::default();
    let mut torn_tails = 0;
    let mut unanswered = 0;

    let server = Server::start_with(dir.path(), SMALL_SEGMENTS);
    server.clients().await.put_catalog(PURPOSES, CHANNELS).await;
    let mut server = Some(server);

    for round in 0..rounds {
        let running =
            server.take().unwrap_or_else(|| Server::start_with(dir.path(), SMALL_SEGMENTS));
        let (asked_before, promised_before) = (journal.len(), journal.promises());

        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..WRITERS {
            let seed = seed.wrapping_add(round * WRITERS + writer);
            let clients = running.clients().await;
            writers.spawn(write_until_killed(clients, journal.clone(), seed));
        }
        // The moment of the kill is random: after a number of acknowledgements, and a short pause.
        let promises = promised_before + rng.random_range(0..300);
        let bit = Duration::from_micros(rng.random_range(0..5_000));
        tokio::task::block_in_place(|| {
            support::wait_until("promises", support::PATIENCE, || {
                (journal.promises() >= promises).then_some(())
            });
            thread::sleep(bit);
            running.kill();
        });
        while let Some(writer) = writers.join_next().await {
            writer.expect("the writer saw what it expected until the kill");
        }
        unanswered += journal.len() - journal.promises();

        let verdict = support::verify(dir.path()).expect_code(0).json();
        torn_tails += u32::from(verdict["tornTail"].is_object());

        if rng.random_ratio(1, 4) {
            // Recovery itself is killed part-way, and must be able to start again.
            let mut command = support::binary();
            command.args(Server::arguments(dir.path())).args(SMALL_SEGMENTS);
            let mut recovering = Process::spawn(command);
            thread::sleep(Duration::from_micros(rng.random_range(0..60_000)));
            recovering.kill();
        }

        let restarted = Server::start_with(dir.path(), SMALL_SEGMENTS);
        support::verify(dir.path()).expect_code(0);
        let mut clients = restarted.clients().await;
        ask_again(&clients, &journal, asked_before).await;
        assert_checks_agree(&mut clients, &journal).await;
        if round % 10 == 9 || round + 1 == rounds {
            ask_again(&clients, &journal, 0).await;
            assert_ledger_holds(&mut clients, &journal).await;
        }
        server = Some(restarted);
    }

    server.expect("one is running").terminate();
    support::verify(dir.path()).expect_code(0);
    let segments = support::ledger_segments(dir.path()).len();
    println!(
        "{rounds} rounds, {} acts, {unanswered} in flight when killed, {torn_tails} torn tails, \
         {segments} segments",
        journal.len()
    );
    assert!(rounds < 50 || (unanswered > 0 && segments > 1), "the kills came under load");
}

/// A small ledger after a clean close, in one segment: its directory and the indices of its acts.
async fn small_ledger() -> (tempfile::TempDir, Vec<u64>) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut clients = server.clients_with_catalog(&["marketing.newsletter"], &["email"]).await;
    let mut indices = Vec::new();
    for n in 0..6 {
        let action = if n % 2 == 0 { Action::Grant } else { Action::Withdraw };
        let subject = format!("user:{}", n / 2);
        let recorded =
            clients.record_change(&subject, action, "marketing.newsletter", "email").await;
        indices.push(recorded.index);
    }
    server.terminate();
    assert_eq!(support::ledger_segments(dir.path()).len(), 1);
    (dir, indices)
}

/// Where the frames of a small ledger begin, and where the last one ends.
struct Layout {
    segment: PathBuf,
    /// Offset of each frame, by index.
    frames: Vec<u64>,
    end: u64,
}

impl Layout {
    fn of(data_dir: &Path) -> Self {
        let segment = support::ledger_segments(data_dir).pop().unwrap();
        let bytes = fs::read(&segment).unwrap();
        // A segment has 60 bytes of header; a frame has a mark, the size of its payload as a
        // little-endian u32, 20 bytes more of header, the payload and an end mark.
        let (mut frames, mut next) = (Vec::new(), 60);
        while let Some(size) = bytes.get(next + 1..next + 5) {
            frames.push(next as u64);
            next += 26 + u32::from_le_bytes(size.try_into().unwrap()) as usize;
        }
        assert_eq!(next, bytes.len(), "frames follow each other to the end");
        Self { segment, frames, end: next as u64 }
    }

    fn name(&self) -> &str {
        self.segment.file_name().unwrap().to_str().unwrap()
    }

    /// Offset and index of the frame that holds a byte; for the segment's header, those of the
    /// first frame.
    fn frame_at(&self, byte: u64) -> (u64, usize) {
        let after = self.frames.partition_point(|offset| *offset <= byte);
        after.checked_sub(1).map_or((0, 0), |index| (self.frames[index], index))
    }
}

/// Runs a check for many numbers on all processors; a failure in one fails the test.
/// Places among bytes: the first, the last, and one in eight; or all of them.
fn places(test: &str, bytes: Range<u64>) -> Vec<u64> {
    if std::env::var_os("CONSENT_LEDGER_TEST_EVERY_BYTE").is_some() {
        return bytes.collect();
    }
    let mut rng = StdRng::seed_from_u64(support::seed(test));
    let (first, last) = (bytes.start, bytes.end - 1);
    bytes.filter(|at| *at == first || *at == last || rng.random_ratio(1, 8)).collect()
}

fn on_all_processors<T: Send>(work: impl IntoIterator<Item = T>, each: impl Fn(T) + Sync) {
    let work = Mutex::new(work.into_iter().collect::<Vec<_>>());
    let threads = thread::available_parallelism().map_or(2, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    // Not in the loop's head: the lock would be held during the check.
                    let next = work.lock().unwrap().pop();
                    let Some(next) = next else { return };
                    each(next);
                }
            });
        }
    });
}

/// A copy of a data directory with its newest segment changed.
fn altered(data_dir: &Path, alter: impl FnOnce(&mut Vec<u8>)) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    support::copy_tree(data_dir, copy.path());
    let segment = support::ledger_segments(copy.path()).pop().unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    alter(&mut bytes);
    fs::write(&segment, bytes).unwrap();
    copy
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_torn_at_any_byte_of_the_last_frame_is_set_aside() {
    let (dir, acts) = small_ledger().await;
    let layout = Layout::of(dir.path());
    let last = *layout.frames.last().unwrap();
    let kept = *acts.last().unwrap();
    let runtime = tokio::runtime::Handle::current();
    tokio::task::block_in_place(|| {
        on_all_processors(places("torn tails", last..layout.end), |cut| {
            let torn = altered(dir.path(), |bytes| bytes.truncate(usize::try_from(cut).unwrap()));
            forget_checkpoints(torn.path());
            let data_dir = torn.path().display().to_string();
            let verify = ["verify", "--json", "--ledger-only", "--data-dir", &data_dir];
            let verdict = support::run(verify).expect_code(0).json();
            let tail = &verdict["tornTail"];
            assert_eq!(tail.is_object(), cut > last, "cut at {cut}: {verdict}");
            if cut > last {
                assert_eq!((&tail["offset"], &tail["bytes"]), (&last.into(), &(cut - last).into()));
            }

            let server =
                Server::start_with(torn.path(), &["--unused-signing-key", "--new-signing-key"]);
            runtime.block_on(async {
                let mut clients = server.clients().await;
                let entries = clients.entries(0).await;
                assert_eq!(entries.len() as u64, kept, "cut at {cut}: all but the last are there");
                // The withdrawal is lost with its effect, although the view was ahead.
                let check = support::check_request("user:2", "marketing.newsletter", "email");
                let answer = clients.ask(check).await;
                assert_eq!(answer.reason(), proto::Reason::Granted, "cut at {cut}");
                let change = change(Action::Withdraw, "marketing.newsletter", "email");
                let again = clients.consent.record_consent(act("user:2", vec![change])).await;
                assert_eq!(again.unwrap().into_inner().index, kept, "cut at {cut}");
            });
            let log = server.terminate().output().to_lowercase();
            assert_eq!(log.contains("torn"), cut > last, "cut at {cut}: {log}");
            let verdict = support::verify(torn.path()).expect_code(0).json();
            assert!(verdict["tornTail"].is_null(), "it was set aside: {verdict}");
        });
    });
}

/// As a crash before the first checkpoint leaves it. Below a checkpoint, a missing tail is a loss.
fn forget_checkpoints(data_dir: &Path) {
    for file in ["checkpoint.json", "signing-key"] {
        fs::remove_file(data_dir.join(file)).unwrap();
    }
    fs::remove_dir_all(data_dir.join("tree")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_any_byte_is_found_named_and_refused() {
    let (dir, _) = small_ledger().await;
    let layout = Layout::of(dir.path());
    tokio::task::block_in_place(|| {
        on_all_processors(places("flipped bits", 0..layout.end), |at| {
            let flip = |bytes: &mut Vec<u8>| bytes[usize::try_from(at).unwrap()] ^= 1 << (at % 8);
            let broken = altered(dir.path(), flip);
            let (offset, index) = layout.frame_at(at);
            let verdict = support::verify(broken.path()).expect_code(1).json();
            let damage = &verdict["damage"];
            let (segment, fault) = (&damage["segment"], damage["what"].as_str());
            assert_eq!(segment, layout.name(), "byte {at}: {verdict}");
            assert_eq!((&damage["offset"], &damage["index"]), (&offset.into(), &index.into()));
            assert!(fault.is_some_and(|fault| !fault.is_empty()), "byte {at}: {verdict}");

            // A refused start is slow, so only some bytes get one.
            if at % 3 == 0 {
                let before = support::files(broken.path());
                let refused = support::run(Server::arguments(broken.path()));
                assert!(refused.code.is_some_and(|code| code != 0), "byte {at}: {refused:?}");
                for word in [layout.name(), &offset.to_string(), &index.to_string()] {
                    assert!(refused.stderr.contains(word), "byte {at}: {}", refused.stderr);
                }
                assert!(!refused.stdout.contains("listening"), "byte {at}: {}", refused.stdout);
                let after = support::files(broken.path());
                let changed = before.iter().filter(|(path, bytes)| after.get(*path) != Some(bytes));
                let changed: Vec<_> = changed.map(|(path, _)| path).collect();
                assert!(changed.is_empty(), "byte {at}: changed {changed:?}");
                assert_eq!(after.len(), before.len(), "byte {at}: nothing was added");
            }
        });
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_writes_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    Server::init(dir.path(), &[]);
    // No file may grow beyond 8 MiB. SIGXFSZ is ignored, so that writes fail.
    let mut command = support::clean(std::process::Command::new("bash"));
    command
        .args(["-c", "trap '' XFSZ; ulimit -f 8192; exec \"$@\"", "limited", support::BINARY])
        .args(Server::arguments(dir.path()))
        .args(["--segment-bytes-max", "67108864"]);
    let server = Server::listening(Process::spawn(command));
    let mut clients = server.clients_with_catalog(&["marketing.newsletter"], &["email"]).await;
    let request = |n: u64| {
        let grant = change(Action::Grant, "marketing.newsletter", "email");
        let mut request = act(&format!("user:{n}"), vec![grant]);
        request.idempotency_key = format!("act-{n}");
        let attribute = |n: usize| (n.to_string(), "v".repeat(1_024));
        request.evidence = Some(proto::Evidence {
            attributes: (0..32).map(attribute).collect(),
            ..proto::Evidence::default()
        });
        request
    };
    let mut recorded = Vec::new();
    let failed = loop {
        let n = recorded.len() as u64;
        assert!(n < 1_000, "the limit is far behind");
        match clients.consent.record_consent(request(n)).await {
            Ok(answer) => recorded.push(answer.into_inner().index),
            Err(status) => break status,
        }
    };
    assert!(recorded.len() > 100, "there was room for {} acts", recorded.len());
    let assert_stopped = |status: &tonic::Status| {
        let error = typed(status);
        assert_eq!((error.code, error.reason.as_str()), (Code::Unavailable, "WRITES_STOPPED"));
    };
    assert_stopped(&failed);
    // Writes stay stopped, even for an entry that would fit.
    let small = act("user:0", vec![change(Action::Withdraw, "*", "*")]);
    assert_stopped(&clients.consent.record_consent(small).await.unwrap_err());

    let mut health = HealthClient::new(clients.channel.clone());
    let mut status = async |service: &str| {
        let request = HealthCheckRequest { service: service.to_owned() };
        health.check(request).await.unwrap().into_inner().status()
    };
    assert_eq!(status("consent.v1.ConsentService").await, ServingStatus::NotServing);
    assert_eq!(status("consent.v1.CheckService").await, ServingStatus::Serving);
    let cells: Vec<_> = (0..recorded.len())
        .map(|n| (format!("user:{n}"), "marketing.newsletter".to_owned(), "email".to_owned()))
        .collect();
    for (decision, index) in clients.check_cells(&cells).await.iter().zip(&recorded) {
        assert_eq!(decision.reason(), proto::Reason::Granted);
        assert_eq!(decision.decided_by_index, Some(*index), "checks go on");
    }
    server.kill();

    support::verify(dir.path()).expect_code(0);
    let server = Server::start(dir.path());
    let mut clients = server.clients().await;
    for (n, index) in (0..).zip(&recorded) {
        let answer = clients.record(request(n)).await;
        assert!(answer.replayed && answer.index == *index, "act {n} was acknowledged: {answer:?}");
    }
    let unknown = request(recorded.len() as u64);
    let answer = clients.record(unknown.clone()).await;
    let again = clients.record(unknown).await;
    assert!(again.replayed && again.index == answer.index, "with room, writes go on");
    server.terminate();
    support::verify(dir.path()).expect_code(0);
}
