//! Runs the built binary and talks to it, for the tests that need real processes.
//!
//! Every process is killed when its handle goes, also when a test fails; what a server wrote to
//! its standard error is shown then. Nothing here waits without a deadline.

pub mod example;
pub mod model;
pub mod node;
pub mod oracle;
pub mod tree;

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use consent_ledger::proto::{
    self, audit_service_client::AuditServiceClient, catalog_service_client::CatalogServiceClient,
    check_service_client::CheckServiceClient, consent_service_client::ConsentServiceClient,
    privacy_service_client::PrivacyServiceClient, watch_service_client::WatchServiceClient,
};
use rustix::process::{Pid, Signal, kill_process};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt as _;

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_consent-ledger");
/// How long a server may take from its start to its first answer, and to its end.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How long a command that does the work of a whole example may take.
pub const LONG_PATIENCE: Duration = Duration::from_secs(300);

/// A file of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Asks again until there is an answer; fails the test when the deadline passes.
#[track_caller]
pub fn wait_until<T>(what: &str, patience: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {patience:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The binary, without whatever settings surround the test run.
pub fn binary() -> Command {
    clean(Command::new(BINARY))
}

/// Takes our own settings out of the environment of a command.
pub fn clean(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CONSENT_LEDGER_") {
            command.env_remove(name);
        }
    }
    command
}

/// What a process writes to one of its outputs, as it comes.
#[derive(Clone)]
pub struct Captured(Arc<(Mutex<Capture>, Condvar)>);

#[derive(Default)]
struct Capture {
    bytes: Vec<u8>,
    ended: bool,
}

impl Captured {
    fn of(mut source: impl Read + Send + 'static) -> Self {
        let own = Self(Arc::default());
        let shared = own.clone();
        thread::spawn(move || {
            let mut buffer = [0; 8 * 1024];
            loop {
                let read = source.read(&mut buffer).unwrap_or(0);
                let mut capture = shared.lock();
                capture.bytes.extend_from_slice(&buffer[..read]);
                capture.ended = read == 0;
                shared.0.1.notify_all();
                if read == 0 {
                    return;
                }
            }
        });
        own
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Capture> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything so far.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.lock().bytes).into_owned()
    }

    /// Everything, once the process has closed it.
    fn whole(&self) -> String {
        let capture = self.lock();
        let (capture, _) = (self.0.1)
            .wait_timeout_while(capture, PATIENCE, |capture| !capture.ended)
            .unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&capture.bytes).into_owned()
    }

    /// Waits for what `find` looks for; none if the output ended or the time passed without it.
    pub fn wait_for<T>(
        &self,
        patience: Duration,
        mut find: impl FnMut(&str) -> Option<T>,
    ) -> Option<T> {
        let deadline = Instant::now() + patience;
        let mut capture = self.lock();
        loop {
            if let Some(found) = find(&String::from_utf8_lossy(&capture.bytes)) {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if capture.ended || left.is_zero() {
                return None;
            }
            (capture, _) =
                (self.0.1).wait_timeout(capture, left).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A process whose outputs are captured; killed when it goes out of scope.
pub struct Process {
    child: Child,
    what: String,
    pub stdout: Captured,
    pub stderr: Captured,
}

impl Process {
    #[track_caller]
    pub fn spawn(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdout = Captured::of(child.stdout.take().expect("it is piped"));
        let stderr = Captured::of(child.stderr.take().expect("it is piped"));
        Self { child, what: format!("{command:?}"), stdout, stderr }
    }

    /// The way out, if the process has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the child is ours to wait for")
    }

    #[track_caller]
    pub fn wait(mut self, patience: Duration) -> Finished {
        let what = self.what.clone();
        let status = wait_until(&format!("end of {what}"), patience, || self.ended());
        Finished {
            what,
            code: status.code(),
            stdout: self.stdout.whole(),
            stderr: self.stderr.whole(),
        }
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the child was not waited for");
    }

    /// Kills it at once and waits for its end.
    pub fn kill(&mut self) {
        // Both fail only if the process is gone already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("--- {}\n--- its standard error:\n{}", self.what, self.stderr.text());
        }
    }
}

/// How a command ended and what it said.
#[derive(Debug)]
pub struct Finished {
    what: String,
    /// The exit code; none if a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// Fails the test unless the command ended with this code.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            Some(code),
            "{}\n--- stdout\n{}\n--- stderr\n{}",
            self.what,
            self.stdout,
            self.stderr
        );
        self
    }

    /// Both outputs.
    pub fn said(&self) -> String {
        format!("{}\n{}", self.stdout, self.stderr)
    }

    /// The standard output as one JSON value.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{}: {error}\n{}", self.what, self.stdout))
    }

    /// The standard output as one JSON value a line.
    #[track_caller]
    pub fn json_lines(&self) -> Vec<serde_json::Value> {
        self.stdout
            .lines()
            .map(|line| {
                serde_json::from_str(line)
                    .unwrap_or_else(|error| panic!("{}: {error}\n{line}", self.what))
            })
            .collect()
    }
}

/// Runs the binary to its end.
#[track_caller]
pub fn run<I: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = I>) -> Finished {
    let mut command = binary();
    command.args(args);
    Process::spawn(command).wait(LONG_PATIENCE)
}

/// `verify --json --data-dir DIR`.
#[track_caller]
pub fn verify(data_dir: &Path) -> Finished {
    run(["verify".as_ref(), "--json".as_ref(), "--data-dir".as_ref(), data_dir.as_os_str()])
}

/// A running server.
pub struct Server {
    process: Process,
    /// `127.0.0.1:PORT`.
    pub address: String,
}

impl Server {
    /// Serves a data directory on a free port and waits until it listens.
    #[track_caller]
    pub fn start(data_dir: &Path) -> Self {
        Self::start_with(data_dir, &[])
    }

    /// Like [`Self::start`], with more flags.
    #[track_caller]
    pub fn start_with(data_dir: &Path, flags: &[&str]) -> Self {
        let mut command = binary();
        command.args(Self::arguments(data_dir)).args(flags);
        Self::listening(Process::spawn(command))
    }

    /// The arguments of `serve` for a data directory, on a free port.
    pub fn arguments(data_dir: &Path) -> Vec<std::ffi::OsString> {
        vec![
            "serve".into(),
            "--data-dir".into(),
            data_dir.into(),
            "--listen".into(),
            "127.0.0.1:0".into(),
        ]
    }

    /// Waits until a `serve` that was started listens.
    #[track_caller]
    pub fn listening(process: Process) -> Self {
        let address = process.stdout.wait_for(PATIENCE, |text| line_value(text, "listening on "));
        let Some(address) = address else {
            panic!("never listened: {}\n{}", process.stdout.text(), process.what)
        };
        Self { process, address }
    }

    /// What it wrote to standard output and standard error so far.
    pub fn log(&self) -> String {
        format!("{}{}", self.process.stdout.text(), self.process.stderr.text())
    }

    /// The process, for what else can be done with one.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// A value that the server prints on a line of its own, such as an address.
    pub fn printed(&self, prefix: &str) -> Option<String> {
        self.process.stdout.wait_for(PATIENCE, |text| line_value(text, prefix))
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.process.kill();
    }

    /// SIGTERM, then waits for a clean end. Answers what it logged in its life.
    #[track_caller]
    pub fn terminate(self) -> Finished {
        self.process.signal(Signal::TERM);
        self.process.wait(PATIENCE).expect_code(0)
    }

    /// Runs a client command against this server.
    #[track_caller]
    pub fn cli(&self, args: &[&str]) -> Finished {
        let mut command = binary();
        command.env("CONSENT_LEDGER_ADDR", format!("http://{}", self.address)).args(args);
        Process::spawn(command).wait(LONG_PATIENCE)
    }

    /// Clients of all services over one connection.
    pub async fn clients(&self) -> Clients {
        Clients::connect(&self.address).await.expect("the server listens")
    }
}

fn line_value(text: &str, prefix: &str) -> Option<String> {
    // Only whole lines: the rest of one may still be on its way.
    let whole = &text[..=text.rfind('\n')?];
    whole.lines().find_map(|line| line.strip_prefix(prefix)).map(|value| value.trim().to_owned())
}

/// A client of every service.
#[derive(Clone)]
pub struct Clients {
    pub channel: Channel,
    pub consent: ConsentServiceClient<Channel>,
    pub check: CheckServiceClient<Channel>,
    pub watch: WatchServiceClient<Channel>,
    pub audit: AuditServiceClient<Channel>,
    pub catalog: CatalogServiceClient<Channel>,
    pub privacy: PrivacyServiceClient<Channel>,
}

impl Clients {
    pub async fn connect(address: &str) -> Result<Self, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
        let channel = endpoint.connect_timeout(PATIENCE).connect().await?;
        Ok(Self {
            consent: ConsentServiceClient::new(channel.clone()),
            check: CheckServiceClient::new(channel.clone()),
            watch: WatchServiceClient::new(channel.clone()),
            audit: AuditServiceClient::new(channel.clone()),
            catalog: CatalogServiceClient::new(channel.clone()),
            privacy: PrivacyServiceClient::new(channel.clone()),
            channel,
        })
    }

    /// Puts consent-based purposes without conditions, and channels.
    pub async fn put_catalog(&mut self, purposes: &[&str], channels: &[&str]) {
        for key in purposes {
            let request = proto::PutPurposeRequest {
                purpose: Some(consent_purpose(key)),
                ..Default::default()
            };
            self.catalog.put_purpose(request).await.expect("a purpose without faults");
        }
        for key in channels {
            let channel =
                proto::Channel { key: (*key).into(), title: (*key).into(), retired: false };
            let request = proto::PutChannelRequest { channel: Some(channel) };
            self.catalog.put_channel(request).await.expect("a channel without faults");
        }
    }

    /// Checks cells `(subject, purpose, channel)` in batches that fit every limit.
    pub async fn check_cells(
        &mut self,
        cells: &[(String, String, String)],
    ) -> Vec<proto::CheckResponse> {
        let mut decisions = Vec::with_capacity(cells.len());
        for part in cells.chunks(5_000) {
            let checks = part.iter().map(|(s, p, c)| check_request(s, p, c)).collect();
            let request = proto::BatchCheckRequest { checks, at_least_revision: None };
            let answer = self.check.batch_check(request).await.expect("a batch within limits");
            for (result, cell) in answer.into_inner().results.into_iter().zip(part) {
                match result.result {
                    Some(proto::batch_check_result::Result::Decision(it)) => decisions.push(it),
                    other => panic!("no decision for {cell:?}: {other:?}"),
                }
            }
        }
        assert_eq!(decisions.len(), cells.len(), "one result for each check");
        decisions
    }

    /// Entries from `start` on, decoded.
    pub async fn entries(&mut self, start: u64) -> Vec<(u64, proto::Entry)> {
        let request = proto::ListEntriesRequest { start_index: start, end_index: None };
        let mut stream =
            self.audit.list_entries(request).await.expect("within the ledger").into_inner();
        let mut entries = Vec::new();
        while let Some(answer) = stream.message().await.expect("the stream ends well") {
            let entry = prost::Message::decode(answer.entry.as_slice()).expect("an entry");
            entries.push((answer.index, entry));
        }
        entries
    }

    /// The history of a data subject.
    pub async fn history(&mut self, subject: &str) -> Vec<proto::ListHistoryResponse> {
        let request = proto::ListHistoryRequest {
            subject: subject.into(),
            ..proto::ListHistoryRequest::default()
        };
        let mut stream = self.consent.list_history(request).await.expect("a subject").into_inner();
        let mut acts = Vec::new();
        while let Some(act) = stream.message().await.expect("the stream ends well") {
            acts.push(act);
        }
        acts
    }
}

/// A purpose based on consent, without conditions.
pub fn consent_purpose(key: &str) -> proto::Purpose {
    proto::Purpose {
        key: key.into(),
        title: key.into(),
        legal_basis: proto::LegalBasis::Consent.into(),
        ..proto::Purpose::default()
    }
}

pub fn scope(purpose: &str, channel: &str) -> proto::Scope {
    proto::Scope { purpose: purpose.into(), channel: channel.into() }
}

pub fn change(action: proto::Action, purpose: &str, channel: &str) -> proto::Change {
    proto::Change {
        action: action.into(),
        scope: Some(scope(purpose, channel)),
        ..proto::Change::default()
    }
}

/// An act of the data subject in person.
pub fn act(subject: &str, changes: Vec<proto::Change>) -> proto::RecordConsentRequest {
    proto::RecordConsentRequest {
        subject: subject.into(),
        actor: proto::Actor::Subject.into(),
        changes,
        ..proto::RecordConsentRequest::default()
    }
}

pub fn check_request(subject: &str, purpose: &str, channel: &str) -> proto::CheckRequest {
    proto::CheckRequest {
        subject: subject.into(),
        purpose: purpose.into(),
        channel: channel.into(),
        ..proto::CheckRequest::default()
    }
}

pub fn millis(time: Option<&prost_types::Timestamp>) -> Option<i64> {
    time.map(|time| time.seconds * 1_000 + i64::from(time.nanos) / 1_000_000)
}

pub fn timestamp(millis: i64) -> prost_types::Timestamp {
    let nanos = millis.rem_euclid(1_000) * 1_000_000;
    prost_types::Timestamp {
        seconds: millis.div_euclid(1_000),
        nanos: i32::try_from(nanos).expect("below a second"),
    }
}

/// Milliseconds since the Unix epoch, now.
pub fn now_ms() -> i64 {
    let now = std::time::SystemTime::now();
    let since_epoch = now.duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    i64::try_from(since_epoch.as_millis()).expect("for some million years")
}

/// The documented reason of an error and the fields at fault, as any client would decode them.
#[derive(Debug, PartialEq, Eq)]
pub struct TypedError {
    pub code: tonic::Code,
    pub reason: String,
    pub fields: Vec<String>,
}

/// Decodes the details of an error; fails the test where there is no `ErrorInfo` of ours.
#[track_caller]
pub fn typed(status: &Status) -> TypedError {
    let details = status.check_error_details().expect("google.rpc.Status decodes");
    let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo: {status:?}"));
    assert_eq!(info.domain, "consent.v1", "{status:?}");
    let violations = details.bad_request().map(|it| it.field_violations.as_slice());
    for violation in violations.unwrap_or_default() {
        assert!(!violation.description.is_empty(), "a violation says what is wrong: {status:?}");
    }
    TypedError {
        code: status.code(),
        reason: info.reason.clone(),
        fields: violations.unwrap_or_default().iter().map(|it| it.field.clone()).collect(),
    }
}

/// Every file below a directory, with its contents.
pub fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        {
            let path = entry.expect("a directory that nobody changes").path();
            if path.is_dir() {
                open.push(path);
            } else {
                let bytes = fs::read(&path).expect("a file that nobody removes");
                found.insert(path, bytes);
            }
        }
    }
    found
}

/// Copies a directory tree with its permissions.
pub fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a place for the copy");
    for entry in fs::read_dir(from).expect("the source is there") {
        let entry = entry.expect("a directory that nobody changes");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("known").is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("room for the copy");
        }
    }
}

/// The segment files of the ledger in a data directory, oldest first.
pub fn ledger_segments(data_dir: &Path) -> Vec<PathBuf> {
    files(&data_dir.join("ledger"))
        .into_keys()
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .collect()
}

/// The seed of a random test: given by `CONSENT_LEDGER_TEST_SEED`, or new; printed in any case.
pub fn seed(test: &str) -> u64 {
    let seed = std::env::var("CONSENT_LEDGER_TEST_SEED")
        .map_or_else(|_| rand::random(), |text| text.parse().expect("a number"));
    println!("{test}: CONSENT_LEDGER_TEST_SEED={seed}");
    seed
}
