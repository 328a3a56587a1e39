//! Disclosures: what they open, what they never open, that they are on record before they leave, and what
//! an auditor verifies with one who has neither vault nor key-encryption key.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::Command,
};

use age::{Decryptor, Encryptor, secrecy::ExposeSecret as _, x25519};
use consent_ledger::{
    domain::{Body, DisclosureMade, Entry, Outcome},
    format::{
        canonical,
        confidential::open_item_once,
        disclosure::PersonDisclosure,
        entry::{Body as SealedBody, Entry as SealedEntry},
        keys::ledger::ConfidentialKey,
        seal::OneTimeKey,
        slot::open_record_once,
        vault::Person,
    },
    proto::{
        self, Action, DiscloseRequest, DisclosureBegun, HistoryKind, LinkConfidence, Subscription,
        Webhook, disclose_response::Message, ledger::Disclosure,
    },
    storage::disk::RealDisk,
    tlog::{
        checkpoint::{Checkpoint, SignedCheckpoint},
        merkle::{Range, leaf_hash},
    },
    vault::{Kek, People},
};
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use tonic::{Code, Status};

use crate::{
    decisions::Traffic,
    support::{
        self, Clients, Finished, LONG_PATIENCE, Process, Server, TypedError, binary,
        opened::Ledger, signer_key, typed,
    },
};

/// Somebody to whom a ledger is disclosed: with a key of age, and files of their own.
struct Auditor {
    dir: tempfile::TempDir,
    identity: x25519::Identity,
}

impl Auditor {
    fn new() -> Self {
        let (dir, identity) = (tempfile::tempdir().unwrap(), x25519::Identity::generate());
        let key = format!("# an auditor\n{}\n", identity.to_string().expose_secret());
        fs::write(dir.path().join("auditor.key"), key).unwrap();
        Self { dir, identity }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn recipient(&self) -> String {
        self.identity.to_public().to_string()
    }

    fn decrypt(&self, file: &[u8]) -> Vec<u8> {
        let decryptor = Decryptor::new(file).unwrap();
        let identities = std::iter::once(&self.identity as &dyn age::Identity);
        let mut bytes = Vec::new();
        decryptor.decrypt(identities).unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    }

    /// Writes a disclosure to a file, encrypted to the auditor.
    fn write(&self, name: &str, disclosure: &Disclosure) -> String {
        let recipient = self.identity.to_public();
        let recipients = std::iter::once(&recipient as &dyn age::Recipient);
        let mut writer = Encryptor::with_recipients(recipients)
            .unwrap()
            .wrap_output(fs::File::create(self.path(name)).unwrap())
            .unwrap();
        writer.write_all(&disclosure.encode_to_vec()).unwrap();
        writer.finish().unwrap();
        self.text(name)
    }

    /// Runs `verify-decisions --disclosure` without a server.
    fn verify(&self, disclosure: &str, args: &[&str]) -> Finished {
        let key = self.text("auditor.key");
        let words = ["verify-decisions", "--json", "--disclosure", disclosure, "--identity", &key];
        let mut command: Command = binary();
        command.args(words).args(args);
        Process::spawn(command).wait(LONG_PATIENCE)
    }

    /// Copies the entries of a ledger, and nothing else of it, to a directory without vault and keys.
    fn copy_of(&self, data_dir: &Path) -> String {
        let copy = self.path("copy");
        let _ = fs::remove_dir_all(&copy);
        support::copy_tree(&data_dir.join("ledger"), &copy.join("ledger"));
        copy.to_str().unwrap().to_owned()
    }

    fn request(&self, subjects: &[&str]) -> DiscloseRequest {
        DiscloseRequest {
            subjects: subjects.iter().map(ToString::to_string).collect(),
            all: subjects.is_empty(),
            recipients: vec![self.recipient()],
            with_identities: true,
            open_ended: false,
        }
    }

    async fn disclose(&self, clients: &mut Clients, subjects: &[&str]) -> (Disclosure, Vec<u8>) {
        let (_, file) = disclose(clients, self.request(subjects)).await.unwrap();
        (canonical::decode(&self.decrypt(&file)).unwrap(), file)
    }
}

/// A disclosure, and the file that holds it.
async fn disclose(
    clients: &mut Clients,
    request: DiscloseRequest,
) -> Result<(DisclosureBegun, Vec<u8>), Status> {
    let mut answers = clients.audit.disclose(request).await?.into_inner();
    let (mut begun, mut file) = (None, Vec::new());
    while let Some(answer) = answers.message().await? {
        match answer.message.unwrap() {
            Message::Progress(progress) => assert!(progress.persons_done <= progress.persons),
            Message::Begun(now) => begun = Some(now),
            Message::Content(content) => {
                assert!(begun.is_some() && content.len() <= 64 << 10);
                file.extend(content);
            }
        }
    }
    Ok((begun.unwrap(), file))
}

async fn grant(clients: &mut Clients, subject: &str) -> u64 {
    clients.record_change(subject, Action::Grant, "news", "email").await.index
}

async fn withdraw(clients: &mut Clients, subject: &str) -> u64 {
    clients.record_change(subject, Action::Withdraw, "news", "email").await.index
}

async fn sealed(clients: &mut Clients) -> Vec<SealedEntry> {
    let bytes = entry_bytes(clients).await;
    bytes.iter().map(|bytes| SealedEntry::decode(bytes).unwrap()).collect()
}

async fn entry_bytes(clients: &mut Clients) -> Vec<Vec<u8>> {
    let request = proto::ListEntriesRequest { start_index: 0, end_index: None };
    let mut entries = clients.audit.list_entries(request).await.unwrap().into_inner();
    let mut bytes = Vec::new();
    while let Some(entry) = entries.message().await.unwrap() {
        bytes.push(entry.entry);
    }
    bytes
}

fn made(dir: &Path) -> Vec<(u64, DisclosureMade)> {
    let made = |entry: &Entry| match &entry.body {
        Body::DisclosureMade(made) => Some((entry.index, made.clone())),
        _ => None,
    };
    Ledger::open(dir).entries().filter_map(made).collect()
}

fn indexes(disclosure: &Disclosure, person: usize) -> Vec<u64> {
    disclosure.persons[person].records.iter().map(|record| record.index).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disclosure_opens_all_records_of_its_persons_and_none_of_others_or_later() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut clients = server.clients_with_catalog(&["news"], &["email"]).await;
    let auditor = Auditor::new();
    let first = grant(&mut clients, "user:1").await;
    let same = grant(&mut clients, "user:2").await;
    grant(&mut clients, "user:3").await;
    grant(&mut clients, "user:4").await;
    let link = clients.link("user:1", "user:2", LinkConfidence::Verified).await.index.unwrap();
    let asserted = clients.link("user:2", "user:3", LinkConfidence::Asserted).await;
    let last = withdraw(&mut clients, "user:1").await;
    let (disclosure, file) = auditor.disclose(&mut clients, &["user:1"]).await;

    assert_eq!((disclosure.revision, disclosure.asserted_links_left_out), (last + 1, 1));
    let names: Vec<_> = disclosure.persons.iter().map(|person| person.identity.as_str()).collect();
    assert_eq!(names, ["user:1", "user:2"]);
    assert_eq!(indexes(&disclosure, 0), [first, link, last]);
    assert_eq!(indexes(&disclosure, 1), [same, link, asserted.index.unwrap()]);
    assert!(disclosure.keys.is_empty() && disclosure.texts.is_empty() && !disclosure.open_ended);

    // It is on record with its digest. The records before take the tags that it names.
    let (index, made) = made(dir.path()).pop().unwrap();
    assert_eq!((made.revision, made.persons, made.open_ended), (last + 1, 2, false));
    assert_eq!(made.recipient, auditor.recipient());
    assert_eq!(made.digest[..], Sha256::digest(&file)[..]);
    grant(&mut clients, "user:1").await;
    let entries = sealed(&mut clients).await;
    let tags = |index: u64| match &entries[usize::try_from(index).unwrap()].body {
        SealedBody::Persons(persons) => persons.slots.iter().map(|slot| slot.tag).collect(),
        _ => Vec::new(),
    };
    let after = |person: usize| disclosure.persons[person].tag_after.clone();
    let used_up: BTreeSet<Vec<u8>> = tags(last + 1).iter().map(|tag| tag.to_vec()).collect();
    assert_eq!(used_up, BTreeSet::from([after(0), after(1)]));
    assert!(index > last + 1);

    // No key of it opens another record, and no tag of it leads to a later one.
    let keys: Vec<OneTimeKey> = disclosure
        .persons
        .iter()
        .flat_map(|person| &person.records)
        .map(|record| OneTimeKey::from_slice(&record.record_key).unwrap())
        .collect();
    let ledger_id = disclosure.ledger_id.clone().try_into().unwrap();
    for entry in &entries {
        let SealedBody::Persons(persons) = &entry.body else { continue };
        for (place, _) in persons.slots.iter().enumerate() {
            let opened = keys
                .iter()
                .any(|key| open_record_once(key, ledger_id, entry.index, persons, place).is_ok());
            let is_listed = disclosure
                .persons
                .iter()
                .flat_map(|person| &person.records)
                .any(|it| (it.index, it.slot as usize) == (entry.index, place));
            assert_eq!(opened, is_listed, "entry {} slot {place}", entry.index);
        }
    }
    let history = clients.history("user:2").await;
    assert_eq!(history.last().unwrap().kind(), HistoryKind::Disclosure);
    server.terminate();
    support::verify(dir.path()).expect_code(0);
    let words = ["verify", "--kek-file", dir.path().join("kek").to_str().unwrap(), "--data-dir"]
        .map(str::to_owned);
    support::run([&words[..], &[dir.path().to_str().unwrap().to_owned()]].concat()).expect_code(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disclosure_without_names_holds_none_and_no_key_of_one() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut clients = server.clients_with_catalog(&["news"], &["email"]).await;
    let auditor = Auditor::new();
    grant(&mut clients, "user:1").await;
    let request = DiscloseRequest { with_identities: false, ..auditor.request(&[]) };
    let (_, file) = disclose(&mut clients, request).await.unwrap();
    let bytes = auditor.decrypt(&file);
    assert!(!bytes.windows(6).any(|part| part == b"user:1"));
    let disclosure: Disclosure = canonical::decode(&bytes).unwrap();
    assert!(disclosure.persons[0].identity_key.is_empty());
    fs::write(auditor.path("all.age"), &file).unwrap();
    let copy = auditor.copy_of(dir.path());
    let found = auditor.verify(&auditor.text("all.age"), &["--data-dir", &copy]).expect_code(0);
    let report = found.json();
    assert_eq!(report["persons"][0]["subject"], serde_json::Value::Null);
    assert!(report["notChecked"].as_array().unwrap().contains(&"identities".into()), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_act_comes_between_the_revision_and_the_records_that_use_up_the_tags() {
    const PERSONS: usize = 450;
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut clients = server.clients_with_catalog(&["news"], &["email"]).await;
    let auditor = Auditor::new();
    for person in 0..PERSONS {
        grant(&mut clients, &format!("user:{person}")).await;
    }
    // Everybody acts on while the disclosure is made.
    let mut writing = server.clients().await;
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let acts = tokio::spawn(async move {
        let mut acts = 0;
        while stopped.try_recv().is_err() {
            withdraw(&mut writing, &format!("user:{}", acts % PERSONS)).await;
            acts += 1;
        }
        acts
    });
    let (disclosure, _) = auditor.disclose(&mut clients, &[]).await;
    stop.send(()).unwrap();
    assert!(acts.await.unwrap() > 0);
    assert_eq!(disclosure.persons.len(), PERSONS);
    let opened = Ledger::open(dir.path());
    let from = usize::try_from(disclosure.revision).unwrap();
    let disclosed = opened.entries().skip(from).map_while(|entry| match &entry.body {
        Body::Disclosed(disclosed) => Some(disclosed.subject_refs.len()),
        _ => None,
    });
    let disclosed: Vec<usize> = disclosed.collect();
    assert_eq!(disclosed, [200, 200, 50]);
    let entries = sealed(&mut clients).await;
    let after: BTreeSet<_> = disclosure.persons.iter().map(|it| it.tag_after.clone()).collect();
    let tags = entries[from..from + 3].iter().flat_map(|entry| match &entry.body {
        SealedBody::Persons(persons) => persons.slots.iter().map(|slot| slot.tag.to_vec()),
        other => panic!("{other:?}"),
    });
    assert_eq!(tags.collect::<BTreeSet<_>>(), after);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_disclosed_is_a_typed_error_and_nothing_is_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut clients = server.clients_with_catalog(&["news"], &["email"]).await;
    let auditor = Auditor::new();
    grant(&mut clients, "user:1").await;
    let head = clients.checkpoint().await.size;
    let good = auditor.request(&["user:1"]);
    let cases: [(DiscloseRequest, Code, &str, &str); 9] = [
        (
            DiscloseRequest { recipients: Vec::new(), ..good.clone() },
            Code::InvalidArgument,
            "INVALID_FIELD",
            "recipients",
        ),
        (
            DiscloseRequest { recipients: vec!["age1x".to_owned()], ..good.clone() },
            Code::InvalidArgument,
            "INVALID_FIELD",
            "recipients[0]",
        ),
        (
            DiscloseRequest { recipients: vec![auditor.recipient(); 21], ..good.clone() },
            Code::InvalidArgument,
            "LIMIT_EXCEEDED",
            "recipients",
        ),
        (
            DiscloseRequest { all: true, ..good.clone() },
            Code::InvalidArgument,
            "INVALID_FIELD",
            "subjects",
        ),
        (
            DiscloseRequest { subjects: Vec::new(), ..good.clone() },
            Code::InvalidArgument,
            "INVALID_FIELD",
            "subjects",
        ),
        (
            DiscloseRequest { subjects: vec!["user:1".to_owned(); 10_001], ..good.clone() },
            Code::InvalidArgument,
            "LIMIT_EXCEEDED",
            "subjects",
        ),
        (
            auditor.request(&["user:1", "nobody"]),
            Code::InvalidArgument,
            "INVALID_FIELD",
            "subjects[1]",
        ),
        (auditor.request(&["elsewhere:1"]), Code::NotFound, "UNKNOWN_NAMESPACE", "subjects[0]"),
        (auditor.request(&["user:1", "user:2"]), Code::NotFound, "SUBJECT_UNKNOWN", "subjects[1]"),
    ];
    for (request, code, reason, field) in cases {
        let refused = disclose(&mut clients, request).await.unwrap_err();
        assert_eq!(typed(&refused), TypedError::new(code, reason, &[field]), "{refused:?}");
    }
    assert_eq!(clients.checkpoint().await.size, head);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_writes_a_whole_new_file_or_none() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut clients = server.clients_with_catalog(&["news"], &["email"]).await;
    let auditor = Auditor::new();
    grant(&mut clients, "user:1").await;
    grant(&mut clients, "user:2").await;
    let (recipient, list) = (auditor.recipient(), auditor.text("subjects.txt"));
    fs::write(&list, "user:1\n").unwrap();
    let output = auditor.text("case.age");
    let words = ["audit", "disclose", "--subjects", &list, "--to", &recipient, "--output", &output];
    let report = server.cli(&[&words[..], &["--json"]].concat()).expect_code(0).json();
    let file = fs::read(&output).unwrap();
    assert_eq!((&report["persons"], &report["openEnded"]), (&1.into(), &false.into()));
    assert_eq!(report["bytes"], file.len());
    let disclosure: Disclosure = canonical::decode(&auditor.decrypt(&file)).unwrap();
    assert_eq!(disclosure.persons.len(), 1);
    assert!(disclosure.persons[0].identity.is_empty());
    // A file is never replaced, and the server is not asked.
    let head = clients.checkpoint().await.size;
    let refused = server.cli(&words).expect_code(2).stderr;
    assert!(refused.contains("it exists"), "{refused}");
    assert_eq!(fs::read(&output).unwrap(), file);
    assert_eq!(clients.checkpoint().await.size, head);
    // After an error there is no file, and no part of one.
    fs::write(&list, "user:1\nuser:3\n").unwrap();
    let other = auditor.text("other.age");
    let words = ["audit", "disclose", "--subjects", &list, "--to", &recipient, "--output", &other];
    let refused = server.cli(&words).expect_code(1).stderr;
    assert!(refused.contains("SUBJECT_UNKNOWN") && refused.contains("subjects[1]"), "{refused}");
    let left: BTreeSet<_> =
        fs::read_dir(auditor.dir.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
    let want = ["auditor.key", "case.age", "subjects.txt"].map(Into::into);
    assert_eq!(left, BTreeSet::from(want));
    for wrong in [
        &["--all", "--to", "age1x"][..],
        &["--to", &recipient],
        &["--all", "--subjects", &list, "--to", &recipient],
        &["--all"],
    ] {
        let words = [&["audit", "disclose", "--output", &other], wrong].concat();
        let code = if wrong.contains(&"age1x") { 1 } else { 2 };
        server.cli(&words).expect_code(code);
    }
    let all = ["audit", "disclose", "--all", "--with-identities", "--to", &recipient];
    let told = server.cli(&[&all[..], &["--output", &other]].concat()).expect_code(0).stdout;
    assert!(told.starts_with("2 data subjects up to revision "), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_auditor_without_keys_recomputes_all_decisions_over_random_traffic() {
    let seed = support::seed("disclosure");
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut traffic = Traffic::new(seed, server.clients().await).await;
    for _ in 0..150 {
        traffic.step().await;
    }
    traffic.one_of_each().await;
    let auditor = Auditor::new();
    let (disclosure, file) = auditor.disclose(&mut traffic.clients, &[]).await;
    fs::write(auditor.path("all.age"), &file).unwrap();
    let copy = auditor.copy_of(dir.path());
    let lines = auditor.text("decisions.ndjson");
    let key = server.printed("verifier key ").unwrap();
    let args = ["--data-dir", &copy, "--key", &key, "--decisions", &lines];
    let report = auditor.verify(&auditor.text("all.age"), &args).expect_code(0).json();
    assert_eq!((&report["agrees"], &report["untrue"]), (&true.into(), &0.into()), "{report}");
    assert_eq!(report["notJudgeable"], 0, "all are disclosed: {report}");
    assert_eq!(report["revision"], disclosure.revision);

    // They are the decisions that the server answers.
    let request =
        proto::ListDecisionsRequest { start_index: 0, end_index: Some(disclosure.revision) };
    let mut answers = traffic.clients.audit.list_decisions(request).await.unwrap().into_inner();
    let mut answered = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        let (effect, reason) = (answer.effect().as_str_name(), answer.reason().as_str_name());
        let (effect, reason) = (effect.to_owned(), reason.to_owned());
        answered.push((
            answer.index,
            answer.purpose,
            answer.channel,
            effect,
            reason,
            answer.decided_by_index,
        ));
    }
    let text = |line: &serde_json::Value, name: &str| line[name].as_str().unwrap().to_owned();
    let recomputed = support::json_lines(&fs::read_to_string(&lines).unwrap());
    let mut recomputed: Vec<_> = recomputed
        .iter()
        .map(|line| {
            let index = line["index"].as_u64().unwrap();
            let [purpose, channel, effect, reason] =
                ["purpose", "channel", "effect", "reason"].map(|name| text(line, name));
            (index, purpose, channel, effect, reason, line["decidedByIndex"].as_u64())
        })
        .collect();
    assert!(answered.len() > 100);
    answered.sort_unstable();
    recomputed.sort_unstable();
    assert_eq!(recomputed, answered);

    // Of some persons alone, nothing is called wrong; what others decide is not judged.
    for number in 0..4 {
        let name = format!("user:{number}");
        let Ok((_, file)) = disclose(&mut traffic.clients, auditor.request(&[&name])).await else {
            continue;
        };
        fs::write(auditor.path("one.age"), &file).unwrap();
        let copy = auditor.copy_of(dir.path());
        let one = auditor.verify(&auditor.text("one.age"), &["--data-dir", &copy]);
        assert_eq!(one.expect_code(0).json()["untrue"], 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_depend_on_somebody_who_is_left_out_is_not_judged() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut clients = server.clients_with_catalog(&["news"], &["email"]).await;
    let auditor = Auditor::new();
    withdraw(&mut clients, "user:2").await;
    clients.link("user:1", "user:2", LinkConfidence::Asserted).await;
    let stopped = grant(&mut clients, "user:1").await;
    let verify = async |clients: &mut Clients| {
        let (disclosure, file) = auditor.disclose(clients, &["user:1"]).await;
        fs::write(auditor.path("one.age"), &file).unwrap();
        let copy = auditor.copy_of(dir.path());
        let found = auditor.verify(&auditor.text("one.age"), &["--data-dir", &copy]);
        (disclosure, found.expect_code(0).json())
    };
    let (disclosure, report) = verify(&mut clients).await;
    assert_eq!((disclosure.persons.len(), indexes(&disclosure, 0).last()), (1, Some(&stopped)));
    assert_eq!((&report["assertedLinksLeftOut"], &report["untrue"]), (&1.into(), &0.into()));
    assert_eq!((&report["notJudgeable"], &report["decisions"]), (&1.into(), &0.into()));
    let not_checked = report["notChecked"].as_array().unwrap();
    assert!(not_checked.contains(&"linkedPersons".into()), "{report}");
    // Once the link is ended, what follows is judged again.
    clients.unlink("user:1", "user:2").await;
    grant(&mut clients, "user:1").await;
    let (_, report) = verify(&mut clients).await;
    assert_eq!((&report["assertedLinksLeftOut"], &report["untrue"]), (&0.into(), &0.into()));
    assert_eq!(report["decisions"], 1, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_linked_person_who_is_taken_out_of_a_disclosure_is_missed() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut clients = server.clients_with_catalog(&["news"], &["email"]).await;
    let auditor = Auditor::new();
    for subject in ["user:1", "user:2", "user:3", "user:4"] {
        grant(&mut clients, subject).await;
    }
    clients.link("user:1", "user:2", LinkConfidence::Verified).await;
    let verify = |disclosure: &Disclosure| {
        let file = auditor.write("changed.age", disclosure);
        auditor.verify(&file, &["--data-dir", &auditor.copy_of(dir.path())])
    };
    let may_lack = |found: &serde_json::Value| {
        found["notChecked"].as_array().unwrap().contains(&"verifiedLinks".into())
    };
    let (good, _) = auditor.disclose(&mut clients, &["user:1"]).await;
    assert!(!may_lack(&verify(&good).expect_code(0).json()));
    for taken_out in 0..2 {
        let mut changed = good.clone();
        changed.persons.remove(taken_out);
        let refused = verify(&changed).expect_code(1).stderr;
        assert!(refused.contains("whom a verified link connects with person 1"), "{refused}");
    }
    // Who is only asserted to be the same person is counted.
    clients.link("user:3", "user:4", LinkConfidence::Asserted).await;
    let (asserted, _) = auditor.disclose(&mut clients, &["user:3"]).await;
    verify(&asserted).expect_code(0);
    let changed = Disclosure { asserted_links_left_out: 0, ..asserted };
    let refused = verify(&changed).expect_code(1).stderr;
    assert!(refused.contains("a link connects person 1 with somebody who is"), "{refused}");
    // With links of both kinds, the records do not tell which of them stand. That is said.
    clients.link("user:1", "user:4", LinkConfidence::Asserted).await;
    let (both, _) = auditor.disclose(&mut clients, &["user:1"]).await;
    assert!(!may_lack(&verify(&both).expect_code(0).json()), "the verified link is inside");
    let mut changed = both;
    changed.persons.remove(1);
    assert!(may_lack(&verify(&changed).expect_code(0).json()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disclosure_that_is_not_complete_or_of_another_ledger_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut clients = server.clients_with_catalog(&["news"], &["email"]).await;
    let auditor = Auditor::new();
    for _ in 0..2 {
        grant(&mut clients, "user:1").await;
        withdraw(&mut clients, "user:1").await;
    }
    let key = server.printed("verifier key ").unwrap();
    let (good, file) = auditor.disclose(&mut clients, &["user:1"]).await;
    let copy = auditor.copy_of(dir.path());
    fs::write(auditor.path("good.age"), &file).unwrap();
    let good_file = auditor.text("good.age");
    for source in [&["--data-dir", &copy][..], &["--data-dir", &copy, "--key", &key]] {
        auditor.verify(&good_file, source).expect_code(0);
    }
    // From a server, too: it gives the entries alone.
    let key_file = auditor.text("auditor.key");
    let words = ["verify-decisions", "--disclosure", &good_file, "--identity", &key_file];
    let told = server.cli(&words).expect_code(0).stdout;
    assert!(told.starts_with("agrees\nNOT CHECKED who signed the entries"), "{told}");

    let refused = |change: &dyn Fn(&mut Disclosure), text: &str| {
        let mut changed = good.clone();
        change(&mut changed);
        let file = auditor.write("changed.age", &changed);
        let refused = auditor.verify(&file, &["--data-dir", &copy]).expect_code(1).stderr;
        assert!(refused.contains(text), "{text}: {refused}");
    };
    refused(&|it| drop(it.persons[0].records.remove(1)), "records between them");
    refused(&|it| drop(it.persons[0].records.pop()), "does not lead to the tag");
    refused(&|it| drop(it.persons[0].records.remove(0)), "earlier ones are left out");
    refused(&|it| it.persons[0].identity = "user:2".to_owned(), "identity");
    refused(&|it| it.persons[0].records[0].record_key[0] ^= 1, "person 1");
    refused(&|it| it.ledger_id[0] ^= 1, "are of the ledger");
    refused(&|it| it.revision -= 1, "is not below revision");
    let refused = auditor.verify(&good_file, &["--data-dir", &copy, "--key", &other_key()]);
    refused.expect_code(1);
    // What is no disclosure, or not for this key.
    fs::write(auditor.path("cut.age"), &file[..file.len() - 20]).unwrap();
    auditor.verify(&auditor.text("cut.age"), &["--data-dir", &copy]).expect_code(1);
    let stranger = Auditor::new();
    let refused = stranger.verify(&good_file, &["--data-dir", &copy]).expect_code(1).stderr;
    assert!(refused.contains("other recipients"), "{refused}");
    support::run(["verify-decisions", "--disclosure", &good_file, "--data-dir", &copy])
        .expect_code(2);
    let vault = ["--data-dir", &copy, "--vault", "x"];
    auditor.verify(&good_file, &vault).expect_code(2);
    // A copy that ends early.
    fs::remove_dir_all(auditor.path("copy")).unwrap();
    auditor.verify(&good_file, &["--data-dir", &copy]).expect_code(2);
}

fn other_key() -> String {
    signer_key("other.example", 9).verifier().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_that_the_disclosure_does_not_have_is_a_failure_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut clients = server.clients_with_catalog(&["news"], &["email"]).await;
    let auditor = Auditor::new();
    let first = grant(&mut clients, "user:1").await;
    let other = grant(&mut clients, "user:2").await;
    let request = DiscloseRequest { with_identities: false, ..auditor.request(&["user:1"]) };
    let (_, unnamed) = disclose(&mut clients, request).await.unwrap();
    let (_, named) = auditor.disclose(&mut clients, &["user:1"]).await;
    fs::write(auditor.path("unnamed.age"), &unnamed).unwrap();
    fs::write(auditor.path("named.age"), &named).unwrap();
    let later = withdraw(&mut clients, "user:1").await;
    let receipt = |index: u64| {
        let path = auditor.text(&format!("{index}.jws"));
        let index = index.to_string();
        server.cli(&["receipt", "--index", &index, "--output", &path]).expect_code(0);
        path
    };
    let [first, other, later] = [first, other, later].map(receipt);
    let key = server.printed("verifier key ").unwrap();
    let copy = auditor.copy_of(dir.path());
    let verify = |file: &str, receipt: &str| {
        let args = ["--data-dir", &copy, "--key", &key, "--receipt", receipt];
        auditor.verify(&auditor.text(file), &args)
    };
    let state = |found: Finished| found.json()["receipts"][0]["state"].clone();
    assert_eq!(state(verify("named.age", &first).expect_code(0)), "disclosed");
    assert_eq!(state(verify("named.age", &other).expect_code(0)), "ofSomebodyElse");
    assert_eq!(state(verify("named.age", &later).expect_code(0)), "later");
    // Without names, it may be theirs: whoever hands it in says so.
    let missing = verify("unnamed.age", &other).expect_code(1).json();
    assert_eq!(missing["receipts"][0]["state"], "missing");
    assert_eq!(
        (&missing["agrees"], &missing["receipts"][0]["file"]),
        (&false.into(), &other.into())
    );
    // A receipt counts under a trusted key alone.
    let untrusted = ["--data-dir", &copy, "--receipt", &first];
    auditor.verify(&auditor.text("named.age"), &untrusted).expect_code(2);
}

/// A disclosure of everybody, of entries that no ledger signed.
fn disclosure_of(dir: &Path, bytes: &[Vec<u8>]) -> Disclosure {
    let kek = Kek::from_file(&dir.join("kek")).unwrap();
    let people = People::read(&RealDisk, &dir.join("vault"), &kek).unwrap();
    let mut tree = Range::empty(0);
    bytes.iter().for_each(|bytes| tree.push(leaf_hash(bytes)));
    let size = bytes.len() as u64;
    let entries: Vec<_> = bytes.iter().map(|bytes| SealedEntry::decode(bytes).unwrap()).collect();
    let SealedBody::Opened(opened) = &entries[0].body else { panic!("no entry 0") };
    let checkpoint = Checkpoint {
        origin: opened.origin.clone(),
        size,
        root: tree.root().unwrap(),
        extensions: String::new(),
    };
    let signer = signer_key(&opened.origin, 1);
    let persons = people.persons.iter().map(|person| {
        let (keys, identity) = (person.keys.clone(), person.identity.as_str().to_owned());
        let person = Person { keys, identity };
        let mut disclosed = PersonDisclosure::new(people.ledger_id, &person);
        let mut number = 0;
        for entry in &entries {
            let SealedBody::Persons(persons) = &entry.body else { continue };
            if let Some((place, _)) = persons.slot_of(&person.keys.tags().tag(number)) {
                disclosed.add(entry.index, persons, place).unwrap();
                number += 1;
            }
        }
        disclosed.finish(true)
    });
    Disclosure {
        ledger_id: people.ledger_id.to_vec(),
        revision: size,
        checkpoint: SignedCheckpoint::sign(checkpoint, &signer).unwrap().to_string(),
        persons: persons.collect(),
        ..Disclosure::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_that_does_not_follow_is_found_with_a_disclosure_alone() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut clients = server.clients_with_catalog(&["news"], &["email"]).await;
    let auditor = Auditor::new();
    grant(&mut clients, "user:1").await;
    let stop = withdraw(&mut clients, "user:1").await;
    let bytes = entry_bytes(&mut clients).await;
    let honest = auditor.write("honest.age", &disclosure_of(dir.path(), &bytes));
    let raw = |bytes: &[Vec<u8>]| {
        let length = |bytes: &Vec<u8>| u16::try_from(bytes.len()).unwrap().to_be_bytes();
        let bundle: Vec<u8> =
            bytes.iter().flat_map(|bytes| [&length(bytes)[..], bytes].concat()).collect();
        fs::write(auditor.path("ledger.raw"), bundle).unwrap();
        auditor.text("ledger.raw")
    };
    auditor.verify(&honest, &["--raw-file", &raw(&bytes)]).expect_code(0);
    let forged = Ledger::open(dir.path()).rewritten(&bytes, stop, &|entry| {
        let Body::Act(act) = &mut entry.body else { panic!("{entry:?}") };
        act.changes[0].outcome = Outcome::NoEffect;
    });
    let disclosure = auditor.write("forged.age", &disclosure_of(dir.path(), &forged));
    let found = auditor.verify(&disclosure, &["--raw-file", &raw(&forged)]).expect_code(1).json();
    assert_eq!((&found["agrees"], &found["untrue"]), (&false.into(), &1.into()), "{found}");
    assert_eq!(found["statements"][0]["index"], stop);
    assert_eq!(found["statements"][0]["stored"], "no_effect");
    assert_eq!(found["statements"][0]["recomputed"], "applied");
    // The honest disclosure is not of the forged entries.
    auditor.verify(&honest, &["--raw-file", &raw(&forged)]).expect_code(1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_ended_disclosure_opens_later_items_and_never_a_webhook_address() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut clients = server.clients_with_catalog(&["news"], &["email"]).await;
    let auditor = Auditor::new();
    grant(&mut clients, "user:1").await;
    let webhook = |name: &str| Subscription {
        name: name.to_owned(),
        owner: "team".to_owned(),
        webhook: Some(Webhook { url: "https://crm.example.org/?token=SECRET".to_owned() }),
        ..Default::default()
    };
    clients.subscribe(webhook("before")).await;
    let request = DiscloseRequest { open_ended: true, ..auditor.request(&[]) };
    let (begun, file) = disclose(&mut clients, request).await.unwrap();
    let disclosure: Disclosure = canonical::decode(&auditor.decrypt(&file)).unwrap();
    assert!(disclosure.open_ended && made(dir.path())[0].1.open_ended);
    let kinds: Vec<u32> = disclosure.keys.iter().map(|key| key.kind).collect();
    assert_eq!(kinds, [1, 2, 3, 5, 6, 7, 8, 9, 10]);
    fs::write(auditor.path("all.age"), &file).unwrap();
    let copy = auditor.copy_of(dir.path());
    let all = auditor.text("all.age");
    let report = auditor.verify(&all, &["--data-dir", &copy]).expect_code(0).json();
    assert_eq!((&report["openEnded"], &report["confidentialItems"]), (&true.into(), &1.into()));

    let after = clients.subscribe(webhook("after")).await.subscription.unwrap().created_index;
    assert!(after > begun.index);
    let entries = sealed(&mut clients).await;
    let SealedBody::Confidential(items) = &entries[usize::try_from(after).unwrap()].body else {
        panic!("{after}")
    };
    let ledger_id = disclosure.ledger_id.clone().try_into().unwrap();
    let opened = items.iter().enumerate().map(|(number, sealed)| {
        let place = consent_ledger::format::confidential::item_place(ledger_id, after, number);
        let place = place.unwrap();
        disclosure.keys.iter().any(|key| {
            let key = ConfidentialKey::from_slice(&key.key).unwrap().one_time(&sealed.salt);
            open_item_once(&key, &place, sealed).is_ok()
        })
    });
    assert_eq!(opened.collect::<Vec<_>>(), [true, false], "the subscription, and not its address");
    // A disclosure that does not say so may not have such a key.
    let silent = Disclosure { open_ended: false, ..disclosure };
    let file = auditor.write("silent.age", &silent);
    let refused = auditor.verify(&file, &["--data-dir", &copy]).expect_code(1).stderr;
    assert!(refused.contains("opens entries at or after revision"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disclosure_stays_on_record_over_a_crash_and_a_rebuild() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut clients = server.clients_with_catalog(&["news"], &["email"]).await;
    let auditor = Auditor::new();
    let first = grant(&mut clients, "user:1").await;
    let (before, _) = auditor.disclose(&mut clients, &["user:1"]).await;
    server.kill();
    fs::remove_dir_all(dir.path().join("view")).unwrap();
    let server = Server::start(dir.path());
    let mut clients = server.clients().await;
    assert_eq!(made(dir.path()).len(), 1);
    let history = clients.history("user:1").await;
    let kinds: Vec<_> = history.iter().map(proto::ListHistoryResponse::kind).collect();
    assert_eq!(kinds, [HistoryKind::Act, HistoryKind::Disclosure]);
    let withdrawn = withdraw(&mut clients, "user:1").await;
    // The next one has the record of the one before.
    let (again, file) = auditor.disclose(&mut clients, &["user:1"]).await;
    assert_eq!(indexes(&before, 0), [first]);
    assert_eq!(indexes(&again, 0), [first, before.revision, withdrawn]);
    fs::write(auditor.path("again.age"), &file).unwrap();
    let copy = auditor.copy_of(dir.path());
    auditor.verify(&auditor.text("again.age"), &["--data-dir", &copy]).expect_code(0);
    // Nothing of the files is left in the data directory.
    let names: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|it| it.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with('.') || name.ends_with(".age"))
        .collect();
    assert_eq!(names, [""; 0]);
    support::verify_decisions(dir.path(), &server.address, &[]).expect_code(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_entries_of_a_disclosure_may_be_those_that_a_server_publishes() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(dir.path(), &["--tiles-listen", "127.0.0.1:0"]);
    let tiles = format!("http://{}", server.printed("tiles on ").unwrap());
    let mut clients = server.clients_with_catalog(&["news"], &["email"]).await;
    let auditor = Auditor::new();
    // More than a full bundle.
    for n in 0..130 {
        grant(&mut clients, &format!("user:{}", n % 3)).await;
        withdraw(&mut clients, &format!("user:{}", n % 3)).await;
    }
    let (_, file) = auditor.disclose(&mut clients, &["user:1"]).await;
    let disclosure = auditor.text("disclosure.age");
    fs::write(&disclosure, file).unwrap();
    let of_files = auditor.verify(&disclosure, &["--data-dir", &auditor.copy_of(dir.path())]);
    let of_files = of_files.expect_code(0).json();
    assert_eq!(auditor.verify(&disclosure, &["--tiles", &tiles]).expect_code(0).json(), of_files);

    let nowhere = auditor.verify(&disclosure, &["--tiles", &format!("{tiles}/elsewhere")]);
    let nowhere = nowhere.expect_code(1);
    assert!(nowhere.stderr.contains("/elsewhere/tile/entries/000"), "{}", nowhere.stderr);
    let raw = ["--tiles", &tiles, "--raw-file", "ledger.raw"];
    auditor.verify(&disclosure, &raw).expect_code(2);
}
