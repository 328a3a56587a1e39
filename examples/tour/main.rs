//! The main job in one minute: `cargo run -p tour`.
//!
//! Starts the real server in a temporary directory and talks to it as other services would, over
//! gRPC with the generated clients. Any unexpected answer ends it with an error.

use std::{
    env,
    error::Error,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    time::Instant,
};

use consent_ledger::{
    cli::{self, catalog::file::CatalogFile},
    proto::{
        self, Action, Effect, Reason, RecordConsentResponse as Recorded,
        audit_service_client::AuditServiceClient, catalog_service_client::CatalogServiceClient,
        check_service_client::CheckServiceClient, consent_service_client::ConsentServiceClient,
        get_inclusion_proof_request::Entry, watch_response::Message,
        watch_service_client::WatchServiceClient,
    },
    tlog::{key::VerifierKey, merkle::leaf_hash, proof::TlogProof},
};
use tokio::time::{Duration, timeout};
use tonic::transport::Channel;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[tokio::main]
async fn main() -> Result<ExitCode> {
    // With arguments this is the `consent-ledger` binary: the tour runs itself as its own server.
    if env::args_os().len() > 1 {
        return Ok(Box::pin(cli::main()).await);
    }
    Box::pin(tour()).await.map(|()| ExitCode::SUCCESS)
}

async fn tour() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (server, service) = start(dir.path()).await?;
    println!("1. A server is up, with an empty ledger.");

    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../catalog.toml");
    let CatalogFile { namespaces, channels, parties, purposes } = CatalogFile::read(&file)?;
    let (n, c, p) = (namespaces.len(), channels.len(), purposes.len());
    let parties_count = parties.len();
    println!(
        "2. It learns {n} namespaces, {c} channels, {parties_count} parties and {p} purposes."
    );
    let mut catalog = CatalogServiceClient::new(service.clone());
    for namespace in namespaces {
        let request =
            proto::PutNamespaceRequest { namespace: Some(namespace), ..Default::default() };
        catalog.put_namespace(request).await?;
    }
    for channel in channels {
        catalog
            .put_channel(proto::PutChannelRequest { channel: Some(channel), ..Default::default() })
            .await?;
    }
    for party in parties {
        catalog
            .put_party(proto::PutPartyRequest { party: Some(party), ..Default::default() })
            .await?;
    }
    for purpose in purposes {
        catalog
            .put_purpose(proto::PutPurposeRequest { purpose: Some(purpose), ..Default::default() })
            .await?;
    }

    let granted = record(&service, Action::Grant, "onboarding").await?;
    println!("3. user:42 signs up and ticks the newsletter's box: entry {}.", granted.index);

    print!("4. May we mail the newsletter to user:42? ");
    check(&service, granted.revision, (Effect::Allow, Reason::Granted)).await?;

    // A watcher names its start. Without a filter it hears of stops.
    let request = proto::WatchRequest { start_index: Some(granted.revision), ..Default::default() };
    let mut stops = WatchServiceClient::new(service.clone()).watch(request).await?.into_inner();
    println!("5. The mailer is connected, to hear who must not get mail any more.");

    let sent = Instant::now();
    let withdrawn = record(&service, Action::Withdraw, "preference-centre").await?;
    println!("6. user:42 withdraws in the preference centre: entry {}.", withdrawn.index);

    let stop = loop {
        let message = timeout(Duration::from_secs(10), stops.message()).await??;
        if let Some(Message::Consent(stop)) = message.ok_or("the stream ended")?.message {
            break stop; // the other messages say how far the stream has come
        }
    };
    println!("7. The mailer hears that {} withdrew, after {:.1?}.", stop.subject, sent.elapsed());
    assert_eq!((stop.index, stop.subject.as_str()), (withdrawn.index, "user:42"));

    print!("8. May we still? ");
    check(&service, withdrawn.revision, (Effect::Deny, Reason::Withdrawn)).await?;

    println!("9. Has anybody changed the ledger on disk? `consent-ledger verify` says:");
    assert!(binary(dir.path()).args(["verify", "--data-dir=data"]).status()?.success());

    let (index, size) = prove(&service, withdrawn.index).await?;
    println!(
        "10. A checkpoint of {size} entries is signed, and proves that entry {index} is in it."
    );

    drop(server);
    let (_server, service) = start(dir.path()).await?;
    println!("11. The server was killed (SIGKILL) and started again.");

    // A node that had lost the withdrawal could not reach this revision, and would not answer.
    print!("12. May we now? ");
    check(&service, withdrawn.revision, (Effect::Deny, Reason::Withdrawn)).await
}

async fn record(service: &Channel, action: Action, touchpoint: &str) -> Result<Recorded> {
    let scope = proto::Scope { purpose: "marketing.newsletter".into(), channel: "email".into() };
    let change = proto::Change { action: action.into(), scope: Some(scope), ..Default::default() };
    let act = proto::RecordConsentRequest {
        subject: "user:42".into(),
        actor: proto::Actor::Subject.into(),
        changes: vec![change],
        evidence: Some(proto::Evidence { touchpoint: touchpoint.into(), ..Default::default() }),
        idempotency_key: format!("tour-{touchpoint}"), // with it, sending again is safe
        ..Default::default()
    };
    Ok(ConsentServiceClient::new(service.clone()).record_consent(act).await?.into_inner())
}

/// Asks for the proof that an entry is in the ledger, and verifies it as an auditor would. (The key
/// comes from the server here; an auditor has it from elsewhere.)
async fn prove(service: &Channel, index: u64) -> Result<(u64, u64)> {
    let mut audit = AuditServiceClient::new(service.clone());
    let head = audit.get_checkpoint(proto::GetCheckpointRequest::default()).await?.into_inner();
    let key = VerifierKey::parse(&head.verifier_key)?;
    let request =
        proto::GetInclusionProofRequest { entry: Some(Entry::Index(index)), ..Default::default() };
    let answer = audit.get_inclusion_proof(request).await?.into_inner();
    let proof = TlogProof::parse(&answer.proof)?;
    proof.verify(&leaf_hash(&answer.entry), &key)?;
    Ok((proof.index, proof.checkpoint.checkpoint.size))
}

/// Asks "may I?" and prints the answer, which must be the expected one.
async fn check(service: &Channel, at_least: u64, expected: (Effect, Reason)) -> Result<()> {
    let question = proto::CheckRequest {
        subject: "user:42".into(),
        purpose: "marketing.newsletter".into(),
        channel: "email".into(),
        at_least_revision: Some(at_least),
        ..Default::default()
    };
    let answer = CheckServiceClient::new(service.clone()).check(question).await?.into_inner();
    let (effect, reason) = (answer.effect(), answer.reason());
    let index = answer.decided_by_index();
    println!("{}, {}, by entry {index}.", effect.as_str_name(), reason.as_str_name());
    assert_eq!((effect, reason), expected);
    Ok(())
}

/// Another process of this program, in the directory, with an empty environment.
fn binary(dir: &Path) -> Command {
    let mut command = Command::new(env::current_exe().expect("it is running"));
    command.env_clear().current_dir(dir);
    command
}

/// A server process that is killed, as in a crash.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn start(dir: &Path) -> Result<(Server, Channel)> {
    if !dir.join("data").exists() {
        let made = binary(dir).args(["init", "--data-dir=data"]).stdout(Stdio::null()).status()?;
        assert!(made.success(), "an empty directory gets a ledger");
    }
    let mut command = binary(dir);
    command.args(["serve", "--data-dir=data", "--listen=127.0.0.1:0", "--log-level=warn"]);
    let mut server = Server(command.stdout(Stdio::piped()).spawn()?);
    let mut line = String::new();
    BufReader::new(server.0.stdout.take().ok_or("it is piped")?).read_line(&mut line)?;
    let address = line.trim().strip_prefix("listening on ").ok_or("the server did not start")?;
    Ok((server, Channel::from_shared(format!("http://{address}"))?.connect().await?))
}
