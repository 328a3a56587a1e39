//! Checks from the client's cache, in process, on one thread and on all cores. The server is a separate
//! process and only sends heartbeats.
//!
//! The time from a withdrawal to the end of cached answers is measured by `cargo test --release --test
//! suite client::cache:: -- --nocapture`, with the server alive, paused and dead.

use std::{
    hint::black_box,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    thread,
    time::Instant,
};

use consent_ledger::{
    client::{
        CachedChecker, Client, ClientConfig,
        cache::{CacheOptions, Question},
    },
    proto::{
        Action, Actor, Change, Channel, LegalBasis, Namespace, NamespaceKind, Purpose,
        PutChannelRequest, PutNamespaceRequest, PutPurposeRequest, RecordConsentRequest, Scope,
    },
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const PURPOSE: &str = "marketing.newsletter";
const CHANNEL: &str = "email";
const SUBJECTS: usize = 10_000;
/// Number of questions of a thread in one measurement.
const QUESTIONS: usize = 100_000;

/// A server that is killed with the benchmark.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only if the process has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn serve(dir: &std::path::Path) -> (Server, String) {
    let binary = env!("CARGO_BIN_EXE_consent-ledger");
    let made = Command::new(binary).arg("init").arg("--data-dir").arg(dir).output();
    assert!(
        made.expect("the binary was built").status.success(),
        "an empty directory gets a ledger"
    );
    let mut child = Command::new(binary)
        .arg("serve")
        .arg("--data-dir")
        .arg(dir)
        .args(["--listen", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary was built");
    let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
    let address = stdout
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("listening on ").map(str::to_owned))
        .expect("it listens");
    (Server(child), address)
}

async fn grant_all(client: &Client, subjects: &[String]) {
    let purpose = Purpose {
        key: PURPOSE.into(),
        title: "Newsletter".into(),
        legal_basis: LegalBasis::Consent.into(),
        ..Purpose::default()
    };
    let request = PutPurposeRequest { purpose: Some(purpose), ..PutPurposeRequest::default() };
    client.catalog().put_purpose(request).await.expect("put");
    let channel = Channel { key: CHANNEL.into(), title: "Email".into(), retired: false };
    let request = PutChannelRequest { channel: Some(channel), ..Default::default() };
    client.catalog().put_channel(request).await.expect("put");
    let namespace = Namespace {
        key: "user".into(),
        kind: NamespaceKind::Opaque.into(),
        ..Namespace::default()
    };
    let request = PutNamespaceRequest { namespace: Some(namespace), ..Default::default() };
    client.catalog().put_namespace(request).await.expect("put");
    for part in subjects.chunks(500) {
        let acts = part.iter().map(|subject| {
            let scope = Scope { purpose: PURPOSE.into(), channel: CHANNEL.into() };
            let change =
                Change { action: Action::Grant.into(), scope: Some(scope), ..Change::default() };
            let act = RecordConsentRequest {
                subject: subject.clone(),
                actor: Actor::Subject.into(),
                changes: vec![change],
                ..RecordConsentRequest::default()
            };
            let mut consents = client.consents();
            tokio::spawn(async move { consents.record_consent(act).await })
        });
        for act in acts.collect::<Vec<_>>() {
            act.await.expect("it ran").expect("recorded");
        }
    }
}

/// Fills the cache until every answer comes from it.
async fn fill(checker: &CachedChecker, subjects: &[String]) {
    for subject in subjects {
        while checker.cached(&Question::new(subject, PURPOSE, CHANNEL)).is_none() {
            checker.check(&Question::new(subject, PURPOSE, CHANNEL)).await;
        }
    }
}

fn ask_all(checker: &CachedChecker, subjects: &[String], start: usize) {
    let mut found = 0;
    for subject in subjects.iter().cycle().skip(start).take(QUESTIONS) {
        let question = Question::new(black_box(subject), PURPOSE, CHANNEL);
        found += usize::from(checker.cached(&question).is_some());
    }
    // If the machine pauses for longer than the bound, the cache is stale for a moment.
    assert!(found > QUESTIONS / 2, "answers come from the cache");
}

fn bench_cached(c: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let dir = tempfile::tempdir().expect("a directory");
    let (_server, address) = serve(dir.path());
    let subjects: Vec<String> = (0..SUBJECTS).map(|number| format!("user:{number}")).collect();
    let checker = runtime.block_on(async {
        let client = Client::connect_lazy(ClientConfig::new(format!("http://{address}")));
        let client = client.expect("an address");
        grant_all(&client, &subjects).await;
        // Large enough that no answer is evicted.
        let options = CacheOptions { answers_max: 4 * SUBJECTS, ..CacheOptions::default() };
        let checker = client.cached_checker(options).expect("options within their limits");
        fill(&checker, &subjects).await;
        checker
    });

    let mut group = c.benchmark_group("client cache, 10,000 subjects in turn");
    group.sample_size(20).throughput(Throughput::Elements(QUESTIONS as u64));
    group.bench_function("one thread", |b| b.iter(|| ask_all(&checker, &subjects, 0)));
    let threads = thread::available_parallelism().map_or(1, usize::from);
    group.throughput(Throughput::Elements((threads * QUESTIONS) as u64));
    group.bench_function(format!("{threads} threads"), |b| {
        b.iter_custom(|rounds| {
            let start = Instant::now();
            thread::scope(|scope| {
                for thread in 0..threads {
                    let (checker, subjects) = (&checker, &subjects);
                    scope.spawn(move || {
                        (0..rounds).for_each(|_| ask_all(checker, subjects, thread * 997));
                    });
                }
            });
            start.elapsed()
        });
    });
    group.finish();
}

criterion_group!(benches, bench_cached);
criterion_main!(benches);
