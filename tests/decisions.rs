//! Every decision of a node, recomputed from the ledger alone: both agree over all that a ledger
//! can hold, and a node that lies about an answer, an entry or an outcome is detected.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc, time::Instant};

use consent_ledger::{
    domain::{Body, Entry, Key, Outcome, Reason},
    format::entry::Entry as SealedEntry,
    proto::{
        self, Action, Actor, LegalBasis, LinkConfidence, ListDecisionsResponse,
        as_of::Moment,
        audit_service_client::AuditServiceClient,
        audit_service_server::{AuditService, AuditServiceServer},
    },
    tlog::{
        checkpoint::{Checkpoint, SignedCheckpoint},
        key::SignerKey,
        merkle::{Range, leaf_hash},
    },
};
use futures_util::{TryStreamExt as _, stream};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::Value;
use tonic::{Request, Response, Status, codegen::BoxStream, service::Routes, transport::Channel};

use crate::support::{
    self, Clients, Finished, NAMESPACES, PATIENCE, Server, act, change, check_request,
    consent_purpose, example, link_request, now_ms, opened::Ledger, repository, signer_key,
    timestamp, typed, unlink_request,
};

const PURPOSES: [&str; 4] = ["care", "news", "offers", "terms"];
const CHANNELS: [&str; 3] = ["email", "fax", "sms"];
const SUBJECTS: usize = 12;
/// The number of decisions that are checked once more, one by one.
const CHECKS_MAX: usize = 200;

/// Compares the answers at an address with the entries that it serves, opened with the keys of a directory.
fn verify(dir: &Path, address: &str, args: &[&str]) -> Finished {
    support::verify_decisions(dir, address, &[&["--json"], args].concat())
}

async fn decisions(
    clients: &mut Clients,
    start_index: u64,
    end_index: Option<u64>,
) -> Result<Vec<ListDecisionsResponse>, Status> {
    let request = proto::ListDecisionsRequest { start_index, end_index };
    clients.audit.list_decisions(request).await?.into_inner().try_collect().await
}

// --- Traffic.

/// Random acts, confirmations, imports, links and catalogue changes.
pub struct Traffic {
    rng: StdRng,
    pub clients: Clients,
    tokens: Vec<String>,
}

impl Traffic {
    pub async fn new(seed: u64, clients: Clients) -> Self {
        let mut traffic = Self { rng: StdRng::seed_from_u64(seed), clients, tokens: Vec::new() };
        traffic.clients.put_namespaces().await;
        for purpose in PURPOSES {
            traffic.put_purpose(purpose, false).await;
        }
        for channel in CHANNELS {
            traffic.put_channel(channel, false).await;
        }
        traffic
    }

    fn pick<T: Copy>(&mut self, among: &[T]) -> T {
        among[self.rng.random_range(0..among.len())]
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.rng.random_range(0..n) == 0
    }

    /// A few subjects act often.
    fn subject(&mut self) -> String {
        let among = self.rng.random_range(1..=SUBJECTS);
        format!("user:{}", self.rng.random_range(0..among))
    }

    async fn put_purpose(&mut self, key: &str, any: bool) {
        let basis = match key {
            "care" => LegalBasis::LegitimateInterest,
            "terms" => LegalBasis::Contract,
            _ => LegalBasis::Consent,
        };
        let moved = any && self.one_in(4);
        let purpose = proto::Purpose {
            title: format!("{key} {}", self.rng.random_range(0..3)),
            legal_basis: if moved { LegalBasis::Contract } else { basis }.into(),
            double_opt_in: key == "offers" && !(any && self.one_in(3)),
            retired: any && self.one_in(5),
            ..consent_purpose(key)
        };
        let requires_reconsent = any && self.one_in(3);
        let request = proto::PutPurposeRequest {
            purpose: Some(purpose),
            requires_reconsent,
            ..Default::default()
        };
        self.clients.catalog.put_purpose(request).await.unwrap();
    }

    async fn put_channel(&mut self, key: &str, retired: bool) {
        self.clients.put_channel(key, retired).await;
    }

    fn changes(&mut self) -> Vec<proto::Change> {
        (0..self.rng.random_range(1..4)).map(|_| self.change()).collect()
    }

    fn change(&mut self) -> proto::Change {
        let (purpose, channel) = (self.pick(&PURPOSES), self.pick(&CHANNELS));
        if self.one_in(2) {
            let now = now_ms();
            let ends = [None, Some(now + 150), Some(now + 60_000), Some(now + 90_000)];
            let expires_at = self.pick(&ends).map(timestamp);
            return proto::Change { expires_at, ..change(Action::Grant, purpose, channel) };
        }
        let action = self.pick(&[Action::Refuse, Action::Withdraw, Action::Object]);
        let purpose = if self.one_in(4) { "*" } else { purpose };
        let channel = if self.one_in(4) { "*" } else { channel };
        change(action, purpose, channel)
    }

    fn actor(&mut self) -> Actor {
        use Actor::{Agent, Guardian, Import, Operator, Subject, System};
        if self.one_in(2) {
            Subject
        } else {
            self.pick(&[Guardian, Agent, Operator, System, Import])
        }
    }

    async fn record(&mut self) {
        let (subject, changes, actor) = (self.subject(), self.changes(), self.actor());
        let mut request = act(&subject, changes);
        request.actor = actor.into();
        if self.one_in(3) {
            let ago = self.rng.random_range(0..3_000);
            request.effective_at = Some(timestamp(now_ms() - ago));
        }
        if actor == Actor::Guardian && self.one_in(2) {
            let after = self.pick(&[200, 60_000]);
            let authority = proto::Authority {
                relationship: "parent".into(),
                representative: "user:parent".into(),
                ends_at: Some(timestamp(now_ms() + after)),
                ..proto::Authority::default()
            };
            let authority = Some(authority);
            request.evidence = Some(proto::Evidence { authority, ..Default::default() });
        }
        // Some are refused, for example a grant that ended before.
        if let Ok(answer) = self.clients.consent.record_consent(request).await {
            self.tokens
                .extend(answer.into_inner().confirmation.map(|confirmation| confirmation.token));
        }
    }

    async fn confirm(&mut self) {
        if self.tokens.is_empty() {
            return;
        }
        let token = self.tokens.swap_remove(self.rng.random_range(0..self.tokens.len()));
        let request = proto::ConfirmConsentRequest { token, ..Default::default() };
        self.clients.consent.confirm_consent(request).await.unwrap();
    }

    async fn link(&mut self) {
        let (subject, other_subject) = (self.subject(), self.subject());
        if self.one_in(3) {
            let request = unlink_request(&subject, &other_subject);
            let _ = self.clients.privacy.unlink_subjects(request).await;
        } else {
            let confidence = self.pick(&[LinkConfidence::Verified, LinkConfidence::Asserted]);
            let request = link_request(&subject, &other_subject, confidence);
            let _ = self.clients.privacy.link_subjects(request).await;
        }
    }

    async fn import(&mut self) {
        use proto::import_consents_request::Message;
        let rows = (1..20).map(|line| proto::ImportRow {
            line,
            subject: self.subject(),
            actor: Actor::Import.into(),
            changes: vec![self.change()],
            ..proto::ImportRow::default()
        });
        let rows = proto::ImportRows { rows: rows.collect() };
        let start = proto::ImportStart { source: "crm".into(), dry_run: false };
        let messages = [Message::Start(start), Message::Rows(rows)]
            .map(|message| proto::ImportConsentsRequest { message: Some(message) });
        self.clients.consent.import_consents(stream::iter(messages)).await.unwrap();
    }

    async fn use_data(&mut self) {
        let request = proto::RecordUseRequest {
            subject: self.subject(),
            purpose: self.pick(&PURPOSES).into(),
            channel: self.pick(&CHANNELS).into(),
            ..proto::RecordUseRequest::default()
        };
        // Refused while the subject is unknown.
        let _ = self.clients.consent.record_use(request).await;
    }

    /// One of each kind that the random traffic may have missed, about subjects of their own.
    pub async fn one_of_each(&mut self) {
        let (subject, other_subject) = ("user:one", "user:other");
        let fresh = |purpose| change(Action::Grant, purpose, "push");
        self.clients.put_catalog(&["polls"], &["push"]).await;
        let purpose = proto::Purpose { double_opt_in: true, ..consent_purpose("letters") };
        self.clients.put_purpose(purpose).await;
        let expires_at = Some(timestamp(now_ms() + 1_000));
        let soon = proto::Change { expires_at, ..fresh("polls") };
        let request = act(subject, vec![soon, fresh("letters")]);
        let answer = self.clients.record(request).await;
        self.tokens = vec![answer.confirmation.unwrap().token];
        self.confirm().await;
        self.clients.link(subject, other_subject, LinkConfidence::Verified).await;
        let use_data = proto::RecordUseRequest {
            subject: subject.into(),
            purpose: "letters".into(),
            channel: "push".into(),
            ..proto::RecordUseRequest::default()
        };
        self.clients.consent.record_use(use_data).await.unwrap();
        self.clients.unlink(subject, other_subject).await;
    }

    pub async fn step(&mut self) {
        match self.rng.random_range(0..40) {
            0..24 => self.record().await,
            24..28 => self.confirm().await,
            28..33 => self.link().await,
            33..35 => self.import().await,
            35..37 => self.use_data().await,
            37 => {
                let retired = self.one_in(2);
                self.put_channel("fax", retired).await;
            }
            _ => {
                let purpose = self.pick(&PURPOSES);
                self.put_purpose(purpose, true).await;
            }
        }
    }
}

/// The number of entries of each kind.
fn kinds(dir: &Path) -> BTreeMap<&'static str, usize> {
    let mut kinds = BTreeMap::new();
    for entry in Ledger::open(dir).entries() {
        let kind = match &entry.body {
            Body::Act(_) => "act",
            Body::Confirmed(_) => "confirmed",
            Body::Expired(_) => "expired",
            Body::Link(link) if link.confidence.is_some() => "linked",
            Body::Link(_) => "unlinked",
            Body::Use(_) => "use",
            Body::PurposePut(_)
            | Body::ChannelPut(_)
            | Body::NamespacePut(_)
            | Body::PartyPut(_)
            | Body::ClockCorrected(_) => "catalog",
            Body::Opened(_) => "opened",
            Body::Subscription(_) => "subscriptions",
            Body::SigningKeyChanged(_) => "signing key",
            Body::Disclosed(_) | Body::DisclosureMade(_) => "disclosure",
        };
        *kinds.entry(kind).or_default() += 1;
    }
    kinds
}

// --- Honest nodes.

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_alone_gives_the_same_decisions_over_random_traffic() {
    let seed = support::seed("decisions");
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut traffic = Traffic::new(seed, server.clients().await).await;
    for _ in 0..250 {
        traffic.step().await;
    }
    traffic.one_of_each().await;
    // The expiry of a grant is recorded within about a second.
    let wanted = ["act", "catalog", "confirmed", "expired", "linked", "unlinked", "use"];
    let deadline = Instant::now() + PATIENCE;
    loop {
        let kinds = kinds(dir.path());
        if wanted.iter().all(|kind| kinds.contains_key(kind)) {
            break;
        }
        assert!(Instant::now() < deadline, "{kinds:?}");
        tokio::task::yield_now().await;
    }
    agrees(&server, dir.path(), &mut traffic.clients).await;
    equals_checks_of_the_past(dir.path(), &mut traffic.clients).await;
    server.terminate();

    // A rebuilt view answers the same as the original.
    fs::remove_dir_all(dir.path().join("view")).unwrap();
    let server = Server::start(dir.path());
    agrees(&server, dir.path(), &mut server.clients().await).await;
}

async fn agrees(server: &Server, dir: &Path, clients: &mut Clients) {
    // Grants may end meanwhile; a recorded expiry stays.
    let end = clients.checkpoint().await.size;
    let answered = decisions(clients, 0, Some(end)).await.unwrap();
    assert!(answered.len() > 100, "{}", answered.len());
    let until = end.to_string();
    let files = dir.to_str().unwrap();
    for from in [0, end / 3, end - 1] {
        let start = from.to_string();
        let range = ["--start", &start, "--end", &until];
        for more in [&[][..], &["--data-dir", files]] {
            let found = verify(dir, &server.address, &[&range, more].concat());
            let found = found.expect_code(0).json();
            assert_eq!(found["agrees"], true);
            assert_eq!(found["untrue"], 0);
            assert_eq!(found["differ"], 0);
            let within = answered.iter().filter(|decision| decision.index >= from).count();
            assert_eq!(found["decisions"], within, "{found}");
            assert_eq!(found["entries"], end - from);
        }
    }
}

/// The listed decisions equal the node's answers about the past.
async fn equals_checks_of_the_past(dir: &Path, clients: &mut Clients) {
    let mut names: BTreeMap<Vec<u8>, String> = BTreeMap::new();
    let opened = Ledger::open(dir);
    let entries: Vec<&Entry> = opened.entries().collect();
    for n in 0..SUBJECTS {
        let name = format!("user:{n}");
        let history = clients.history(&name).await;
        for item in history {
            if let Body::Act(act) = &entries[usize::try_from(item.index).unwrap()].body {
                names.insert(act.subject_ref.0.to_vec(), name.clone());
            }
        }
    }
    let listed = decisions(clients, 0, None).await.unwrap();
    for listed in listed.iter().step_by(1 + listed.len() / CHECKS_MAX) {
        let Some(name) = names.get(&listed.subject_ref) else { continue };
        let as_of = Some(proto::AsOf { moment: Some(Moment::Revision(listed.index + 1)) });
        let request =
            proto::CheckRequest { as_of, ..check_request(name, &listed.purpose, &listed.channel) };
        let checked = clients.ask(request).await;
        let checked =
            (checked.effect, checked.reason, checked.decided_by_index, checked.valid_until);
        let listed_as = (listed.effect, listed.reason, listed.decided_by_index, listed.valid_until);
        assert_eq!(checked, listed_as, "{listed:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_agrees_and_ranges_are_respected() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let path = |path: &str| repository(path).to_str().unwrap().to_owned();
    server.cli(&["catalog", "apply", &path(example::CATALOG)]).expect_code(0);
    server.cli(&["replay", &path(example::ACTS)]).expect_code(0);
    let found = verify(dir.path(), &server.address, &[]).expect_code(0).json();
    assert!(found["decisions"].as_u64().unwrap() > 10_000, "{found}");
    println!("states of {} data subjects take {} bytes", found["subjects"], found["stateBytes"]);

    let range = ["--start", "5", "--end", "100"];
    let verified = support::verify_decisions(dir.path(), &server.address, &range).expect_code(0);
    assert!(verified.stdout.starts_with("agrees\n"), "{}", verified.stdout);
    assert!(
        verified.stdout.contains(" decisions over 95 entries, 0 differ\n"),
        "{}",
        verified.stdout
    );

    let mut clients = server.clients().await;
    let head = clients.checkpoint().await.size;
    for (start, end, reason) in [
        (5, Some(4), "INVALID_FIELD"),
        (0, Some(head + 1), "INDEX_OUT_OF_RANGE"),
        (head + 1, None, "INDEX_OUT_OF_RANGE"),
    ] {
        let refused = decisions(&mut clients, start, end).await.unwrap_err();
        assert_eq!(typed(&refused).reason, reason, "{start} {end:?}");
    }
    assert_eq!(decisions(&mut clients, head, None).await.unwrap(), []);
    for wrong in [&["--start", "9", "--end", "8"][..], &["--end", "999999"], &["--key", "x"]] {
        verify(dir.path(), &server.address, wrong).expect_code(2);
    }
    let absent = dir.path().join("absent");
    verify(dir.path(), &server.address, &["--data-dir", absent.to_str().unwrap()]).expect_code(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn cells_are_listed_in_order_and_wildcards_include_retired_keys() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut clients = server.clients_with_catalog(&["b", "a"], &["sms", "email"]).await;
    let all = act("user:1", vec![change(Action::Object, "*", "*")]);
    clients.put_channel("email", true).await;
    let index = clients.record(all).await.index;
    clients.link("user:1", "user:2", LinkConfidence::Asserted).await;
    let listed = decisions(&mut clients, index, None).await.unwrap();
    let cells: Vec<_> = listed
        .iter()
        .map(|decision| (decision.index, decision.purpose.as_str(), decision.channel.as_str()))
        .collect();
    let each = |index| {
        [("a", "email"), ("a", "sms"), ("b", "email"), ("b", "sms")]
            .map(|(purpose, channel)| (index, purpose, channel))
    };
    assert_eq!(cells, [each(index), each(index + 1), each(index + 1)].concat());
    assert!(listed[4].subject_ref < listed[8].subject_ref);
    for decision in &listed {
        let reason = match decision.channel.as_str() {
            "email" => proto::Reason::UnknownChannel,
            _ => proto::Reason::Objected,
        };
        assert_eq!(decision.reason(), reason, "{decision:?}");
    }
    verify(dir.path(), &server.address, &[]).expect_code(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_entries_must_match_the_signed_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut clients = server.clients_with_catalog(&["news"], &["email"]).await;
    for n in 0..9 {
        clients.record_change(&format!("user:{n}"), Action::Grant, "news", "email").await;
    }
    let name = clients.checkpoint().await.origin;
    let (key, foreign) = (signer_key(&name, 7), signer_key("ledger.example.org", 7));
    let vkey = key.verifier().to_string();
    let mut sign = async |key: &SignerKey, size: u64, flip: bool| {
        let mut tree = Range::empty(0);
        let request = proto::ListEntriesRequest { start_index: 0, end_index: None };
        let entries = clients.audit.list_entries(request).await.unwrap().into_inner();
        let entries: Vec<_> = entries.try_collect().await.unwrap();
        for entry in entries.iter().cycle().take(usize::try_from(size).unwrap()) {
            tree.push(leaf_hash(&entry.entry));
        }
        let mut root = tree.root().unwrap();
        root[0] ^= u8::from(flip);
        let (origin, extensions) = (key.verifier().name().to_owned(), String::new());
        let checkpoint = Checkpoint { origin, size, root, extensions };
        let id = u32::from_be_bytes(key.verifier().id());
        let path = dir.path().join(format!("checkpoint-{size}-{flip}-{id:x}"));
        fs::write(&path, SignedCheckpoint::sign(checkpoint, key).unwrap().to_string()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let good = sign(&key, 10, false).await;
    let found = verify(dir.path(), &server.address, &["--checkpoint", &good, "--key", &vkey])
        .expect_code(0)
        .json();
    assert_eq!((&found["end"], &found["checkpoint"]["size"]), (&10.into(), &10.into()));
    assert_eq!(found["ledger"], name);
    let root = fs::read_to_string(&good).unwrap().lines().nth(2).unwrap().to_owned();
    assert_eq!(found["checkpoint"]["rootHash"], root, "as the checkpoint writes it");
    // The right root, signed under another name, belongs to another ledger.
    let of_other = sign(&foreign, 10, false).await;
    let foreign = foreign.verifier().to_string();
    let refused =
        verify(dir.path(), &server.address, &["--checkpoint", &of_other, "--key", &foreign])
            .expect_code(1);
    assert!(refused.stderr.contains("of the ledger `ledger.example.org`"), "{}", refused.stderr);
    let files = ["--data-dir", dir.path().to_str().unwrap(), "--end", "4"];
    verify(
        dir.path(),
        &server.address,
        &[&["--checkpoint", &good, "--key", &vkey], &files[..]].concat(),
    )
    .expect_code(0);

    let bad = sign(&key, 10, true).await;
    let refused =
        verify(dir.path(), &server.address, &["--checkpoint", &bad, "--key", &vkey]).expect_code(1);
    assert!(refused.stderr.contains("do not have the root that was signed"), "{}", refused.stderr);
    let more = sign(&key, 40, false).await;
    let refused = verify(dir.path(), &server.address, &["--checkpoint", &more, "--key", &vkey])
        .expect_code(1);
    assert!(refused.stderr.contains("the checkpoint is of 40 entries"), "{}", refused.stderr);
    let other = signer_key(&name, 8).verifier().to_string();
    verify(dir.path(), &server.address, &["--checkpoint", &good, "--key", &other]).expect_code(1);
    verify(dir.path(), &server.address, &["--checkpoint", &good, "--key", &vkey, "--end", "11"])
        .expect_code(2);
}

// --- Dishonest nodes.

/// The lie, the number of answers that then differ, the number of untrue statements, and the
/// altered entries.
type LedgerLie = (&'static str, (u64, u64), Alter<Vec<u8>>);
type Alter<T> = Arc<dyn Fn(Vec<T>) -> Vec<T> + Send + Sync>;

/// A node that relays another one's answers, and alters entries or decisions.
struct Liar {
    honest: AuditServiceClient<Channel>,
    entries: Alter<Vec<u8>>,
    decisions: Alter<ListDecisionsResponse>,
}

impl Liar {
    /// Serves it; returns its address.
    async fn start(self) -> String {
        support::serve_fake(Routes::new(AuditServiceServer::new(self))).await
    }
}

fn unaltered<T>() -> Alter<T> {
    Arc::new(|all| all)
}

#[tonic::async_trait]
impl AuditService for Liar {
    async fn get_checkpoint(
        &self,
        request: Request<proto::GetCheckpointRequest>,
    ) -> Result<Response<proto::GetCheckpointResponse>, Status> {
        self.honest.clone().get_checkpoint(request.into_inner()).await
    }

    async fn list_entries(
        &self,
        request: Request<proto::ListEntriesRequest>,
    ) -> Result<Response<BoxStream<proto::ListEntriesResponse>>, Status> {
        let all = self.honest.clone().list_entries(request.into_inner()).await?.into_inner();
        let all: Vec<_> = all.map_ok(|message| message.entry).try_collect().await?;
        let messages = (0..).zip((self.entries)(all));
        let messages =
            messages.map(|(index, entry)| Ok(proto::ListEntriesResponse { index, entry }));
        Ok(Response::new(Box::pin(stream::iter(messages))))
    }

    async fn list_decisions(
        &self,
        request: Request<proto::ListDecisionsRequest>,
    ) -> Result<Response<BoxStream<ListDecisionsResponse>>, Status> {
        let all = self.honest.clone().list_decisions(request.into_inner()).await?.into_inner();
        let all = (self.decisions)(all.try_collect().await?);
        Ok(Response::new(Box::pin(stream::iter(all.into_iter().map(Ok)))))
    }
}

/// Index of an entry of the small ledger, where the namespaces are not counted.
fn at(number: u64) -> u64 {
    NAMESPACES.len() as u64 + number
}

/// A small ledger: namespaces, catalogue (1 to 3), a grant (4), a withdrawal of everything (5), a grant of
/// another (6), a request (7) and its confirmation (8).
async fn small_ledger(dir: &Path) -> (Server, Clients) {
    let server = Server::start(dir);
    let mut clients = server.clients_with_catalog(&["news"], &["email"]).await;
    let purpose = proto::Purpose { double_opt_in: true, ..consent_purpose("offers") };
    clients.put_purpose(purpose).await;
    for (subject, action, purpose) in [
        ("user:1", Action::Grant, "news"),
        ("user:1", Action::Withdraw, "*"),
        ("user:2", Action::Grant, "news"),
        ("user:2", Action::Grant, "offers"),
    ] {
        let channel = if purpose == "*" { "*" } else { "email" };
        let mut request = act(subject, vec![change(action, purpose, channel)]);
        request.changes[0].expires_at =
            (action == Action::Grant).then(|| timestamp(now_ms() + 3_600_000));
        let answer = clients.record(request).await;
        if let Some(confirmation) = answer.confirmation {
            let token = confirmation.token;
            let request = proto::ConfirmConsentRequest { token, ..Default::default() };
            clients.consent.confirm_consent(request).await.unwrap();
        }
    }
    assert_eq!(clients.checkpoint().await.size, at(9));
    (server, clients)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lies_about_an_answer_is_detected() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, clients) = small_ledger(dir.path()).await;
    let lies: [(&str, u64, Alter<ListDecisionsResponse>); 8] = [
        ("nothing is altered", 0, unaltered()),
        (
            "another reason",
            1,
            altered(1, |decision| decision.reason = proto::Reason::Granted.into()),
        ),
        ("another effect", 1, altered(2, |decision| decision.effect = proto::Effect::Allow.into())),
        (
            "another entry that decided",
            1,
            altered(3, |decision| decision.decided_by_index = Some(at(4))),
        ),
        ("another end", 1, altered(0, |decision| decision.valid_until = None)),
        (
            "a cell is left out",
            1,
            Arc::new(|mut all| {
                all.remove(1);
                all
            }),
        ),
        (
            "a cell is added",
            1,
            Arc::new(|mut all| {
                let last = all.last().unwrap().clone();
                all.push(ListDecisionsResponse { index: 99, ..last });
                all
            }),
        ),
        ("all is given twice", 6, Arc::new(|all| [all.clone(), all].concat())),
    ];
    for (lie, differ, decisions) in lies {
        let liar = Liar { honest: clients.audit.clone(), entries: unaltered(), decisions };
        let address = liar.start().await;
        let code = i32::from(differ > 0);
        let found = verify(dir.path(), &address, &[]).expect_code(code).json();
        assert_eq!(found["differ"], differ, "{lie}: {found}");
        assert_eq!(found["decisions"], 6, "{lie}: {found}");
        assert_eq!(found["agrees"], differ == 0, "{lie}");
        assert_eq!(found["differences"].as_array().unwrap().len() as u64, differ, "{lie}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_lists_differences_up_to_a_limit() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, clients) = small_ledger(dir.path()).await;
    let decisions: Alter<ListDecisionsResponse> = Arc::new(|all| {
        let all = all.into_iter().skip(1);
        all.map(|decision| ListDecisionsResponse {
            reason: proto::Reason::Erased.into(),
            ..decision
        })
        .collect()
    });
    let liar = Liar { honest: clients.audit.clone(), entries: unaltered(), decisions };
    let address = liar.start().await;
    let table =
        support::verify_decisions(dir.path(), &address, &["--show", "2"]).expect_code(1).stdout;
    let lines: Vec<_> = table.lines().collect();
    let (grant, withdrawal) = (at(4), at(5));
    let allow = format!(" allow granted by #{grant} until ");
    assert!(lines[1].starts_with(&format!("#{grant} ")), "{table}");
    assert!(lines[1].contains(" news:email ") && lines[1].contains(&allow), "{table}");
    assert!(lines[1].ends_with(" nothing"), "{table}");
    assert!(lines[2].contains(&format!(" deny withdrawn by #{withdrawal} ")), "{table}");
    assert!(lines[2].ends_with(&format!(" deny erased by #{withdrawal}")), "{table}");
    assert_eq!(lines[3], "DIFFERS");
    assert!(lines[4].starts_with("NOT CHECKED who signed the entries"), "{table}");
    assert_eq!(lines[5], format!("decisions   6 decisions over {} entries, 6 differ", at(9)));
}

fn altered(
    at: usize,
    alter: impl Fn(&mut ListDecisionsResponse) + Send + Sync + 'static,
) -> Alter<ListDecisionsResponse> {
    Arc::new(move |mut all| {
        alter(&mut all[at]);
        all
    })
}

/// The entries with one of them altered, in an unbroken chain.
fn rewritten(
    dir: &Path,
    at: u64,
    alter: impl Fn(&mut Entry) + Send + Sync + 'static,
) -> Alter<Vec<u8>> {
    let dir = dir.to_owned();
    Arc::new(move |all| {
        let sealed = all.iter().map(|bytes| SealedEntry::decode(bytes).unwrap());
        Ledger::open_entries(&dir, sealed).rewritten(&all, at, &alter)
    })
}

fn the_act(entry: &mut Entry) -> &mut consent_ledger::domain::ConsentAct {
    match &mut entry.body {
        Body::Act(act) => act,
        other => panic!("no act: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_lies_is_detected() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, clients) = small_ledger(dir.path()).await;
    // The numbers of differing answers and of untrue statements.
    let lies: [LedgerLie; 7] = [
        ("the same entries, linked anew", (0, 0), rewritten(dir.path(), at(5), |_| ())),
        (
            "a withdrawal of something else",
            (1, 1),
            rewritten(dir.path(), at(5), |entry| {
                let scope = &mut the_act(entry).changes[0].scope;
                scope.purpose = Some(Key::parse("offers").unwrap().into());
            }),
        ),
        (
            "an outcome that is made up",
            (0, 1),
            rewritten(dir.path(), at(5), |entry| {
                the_act(entry).changes[0].outcome = Outcome::NoEffect;
            }),
        ),
        (
            "a withdrawal with a time to come",
            (0, 1),
            rewritten(dir.path(), at(5), |entry| {
                let later = entry.recorded_at.plus_ms(60_000);
                the_act(entry).effective_at = later;
            }),
        ),
        (
            "a confirmation of what was not asked",
            (0, 1),
            rewritten(dir.path(), at(8), |entry| {
                let Body::Confirmed(confirmed) = &mut entry.body else { panic!("{entry:?}") };
                confirmed.grants[0].data_categories.push("user.contact".to_owned());
            }),
        ),
        (
            "a confirmation of another's request",
            (0, 1),
            rewritten(dir.path(), at(8), |entry| {
                let Body::Confirmed(confirmed) = &mut entry.body else { panic!("{entry:?}") };
                confirmed.request_index = at(6);
            }),
        ),
        (
            "the end of a grant that has not ended",
            (1, 1),
            rewritten(dir.path(), at(6), |entry| {
                let act = the_act(entry).clone();
                let mut changes = act.changes;
                changes[0].action = consent_ledger::domain::Action::Expire;
                let end = consent_ledger::domain::GrantExpired {
                    subject_ref: act.subject_ref,
                    grant_index: at(4),
                    expired_at: entry.recorded_at,
                    reason: Reason::Expired,
                    changes,
                };
                let ends = vec![end];
                entry.body = Body::Expired(consent_ledger::domain::GrantsExpired { ends });
            }),
        ),
    ];
    for (lie, (differ, untrue), entries) in lies {
        let liar = Liar { honest: clients.audit.clone(), entries, decisions: unaltered() };
        let address = liar.start().await;
        let found =
            verify(dir.path(), &address, &[]).expect_code(i32::from(differ + untrue > 0)).json();
        println!("{lie}: {found}");
        assert_eq!((&found["differ"], &found["untrue"]), (&differ.into(), &untrue.into()), "{lie}");
    }

    let broken: Alter<Vec<u8>> = Arc::new(|mut all| {
        let bytes = &mut all[NAMESPACES.len() + 5];
        *bytes.last_mut().unwrap() ^= 1;
        all
    });
    let early: Alter<Vec<u8>> = Arc::new(|mut all| {
        all.pop();
        all
    });
    let missing = format!("there is no entry {}", at(8));
    for (entries, want) in [(broken, "is damaged"), (early, missing.as_str())] {
        let liar = Liar { honest: clients.audit.clone(), entries, decisions: unaltered() };
        let error_line = verify(dir.path(), &liar.start().await, &[]).expect_code(1).stderr;
        let error: Value = serde_json::from_str(&error_line).unwrap();
        assert!(error["error"]["message"].as_str().unwrap().contains(want), "{error_line}");
    }
}
