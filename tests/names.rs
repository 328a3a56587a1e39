//! One person, many spellings: over gRPC against the built binary, and by file through `import`.

use consent_ledger::proto::{self, Action, Effect, NamespaceKind, Reason};
use proptest::{
    prelude::*,
    sample::select,
    strategy::ValueTree,
    test_runner::{Config, TestRunner},
};

use crate::support::{
    self, Clients, LONG_PATIENCE, Process, Server, TypedError, act, binary, change, check_request,
    link_request, typed,
};

const NEWS: &str = "marketing.newsletter";

/// Each person, with other spellings of the same one.
const SPELLINGS: [(&str, &[&str]); 7] = [
    (
        "email:kim@x.example",
        &[
            "email:Kim@X.example",
            "EMAIL:kim@x.example",
            "email:<kim@x.example>",
            "email:Kim Example <kim@x.example>",
            "email:mailto:kim@x.example",
            "email:'kim@x.example",
            "email:\"kim@x.example\"",
            "email:=\"kim@x.example\"",
            "email:\u{200b}kim@x.example",
            "\u{feff}email:kim@x.example\r\n",
            "email: kim@x.example\t",
            "email:kim@x.example.",
            "email:ｋｉｍ＠ｘ．ｅｘａｍｐｌｅ",
            "email:„kim@x.example”",
            "email:»kim@x.example«",
            "email:ki\u{307}m@x.example",
        ],
    ),
    (
        "email:o'brien-lee@x.example",
        &["email:O\u{2019}Brien-Lee@x.example", "email:o'brien\u{2011}lee@x.example"],
    ),
    (
        "email:ren\u{e9}@xn--bcher-kva.example",
        &["email:rene\u{301}@b\u{fc}cher.example", "email:REN\u{c9}@XN--BCHER-KVA.example"],
    ),
    (
        "tel:+436641234567",
        &[
            "tel:06641234567",
            "tel:'+436641234567",
            "tel:+43 664 123-45-67",
            "tel:+43 (0)664 1234567",
            "tel:0043 664 1234567",
            "tel:tel:+43-664-1234567",
            "tel:\u{202d}+43\u{a0}664\u{a0}1234567\u{202c}",
            "tel:+43 664 \u{661}\u{662}\u{663}\u{664}\u{665}\u{666}\u{667}",
            "tel:436641234567.0",
            "tel:436641234567.00",
            "tel:43 (0)664 1234567",
            "tel:6641234567",
            "tel:whatsapp:+436641234567",
        ],
    ),
    ("tel:+4311234567", &["tel:+43 1 12345 DW 67", "tel:+43 1 12345-67", "tel:01/12345 ext. 67"]),
    ("tel:+525512345678", &["tel:+52 1 55 1234 5678"]),
    (
        "domain:xn--bcher-kva.example",
        &["domain:B\u{fc}cher.example.", "domain:@b\u{fc}cher.example", "domain:*.bücher.example"],
    ),
];

async fn started(dir: &std::path::Path) -> (Server, Clients) {
    let server = Server::start(dir);
    let clients = server.clients_with_catalog(&[NEWS], &["email"]).await;
    (server, clients)
}

async fn reason(clients: &mut Clients, subject: &str) -> Reason {
    clients.ask(check_request(subject, NEWS, "email")).await.reason()
}

async fn refusal(clients: &mut Clients, subject: &str) -> TypedError {
    let request = act(subject, vec![change(Action::Withdraw, NEWS, "email")]);
    typed(&clients.consent.record_consent(request).await.expect_err(subject))
}

#[tokio::test]
async fn every_address_that_mail_takes_is_a_data_subject() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut clients = server.clients_with_catalog(&[NEWS], &["email"]).await;
    let domain = format!("{}.{}.{}.com", "b".repeat(63), "c".repeat(63), "d".repeat(57));
    for local_bytes in [61, 64] {
        let address = format!("{}@{domain}", "a".repeat(local_bytes));
        assert_eq!(address.len(), 190 + local_bytes);
        let subject = format!("email:{address}");
        clients.record(act(&subject, vec![change(Action::Withdraw, NEWS, "email")])).await;
        let answer = clients.ask(check_request(&subject, NEWS, "email")).await;
        assert_eq!(answer.reason(), Reason::Withdrawn, "{local_bytes}");
    }
}

#[tokio::test]
async fn a_withdrawal_stops_the_person_in_every_spelling() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, mut clients) = started(dir.path()).await;
    for (person, spellings) in SPELLINGS {
        for spelling in spellings {
            clients.record_change(person, Action::Grant, NEWS, "email").await;
            assert_eq!(reason(&mut clients, spelling).await, Reason::Granted, "{spelling:?}");
            let withdrawal = act(spelling, vec![change(Action::Withdraw, NEWS, "email")]);
            let recorded = clients.record(withdrawal).await;
            assert_eq!(recorded.subject, person, "{spelling:?}");
            assert_eq!(reason(&mut clients, person).await, Reason::Withdrawn, "{spelling:?}");
        }
        let mut given: Vec<String> = clients
            .history(spellings[0])
            .await
            .into_iter()
            .map(|line| line.evidence.unwrap_or_default().subject_given)
            .filter(|given| !given.is_empty())
            .collect();
        given.sort();
        let mut want: Vec<String> = spellings.iter().map(|text| (*text).to_owned()).collect();
        want.sort();
        assert_eq!(given, want, "what was given is kept with each act");
    }
}

#[tokio::test]
async fn what_can_be_no_identity_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, mut clients) = started(dir.path()).await;
    let head = clients.checkpoint().await.size;
    for subject in [
        "email:kim.x.example",
        "email:kim@x.example, lee@x.example",
        "email:#N/A",
        "email:null",
        "tel:4.36641E+11",
        "tel:#N/A",
        "tel:+43 1",
        "tel:call me",
        "tel:43557421345",
        "tel:4915112345678",
        "tel:43 0664 1234567",
        "tel:-1235188",
        "tel:0664 1234567.0",
        "tel:+436645550001 / -02",
        "email:kim@x.example\u{2019}",
        "email:\u{2022}kim@x.example",
        "email:kim@x.example\u{2122}",
        "email:ren\u{c3}\u{a9}@x.example",
        "email:kim@x.example (lee@y.example)",
        "email:kim@old.example (kim@x.example)",
        "domain:https://x.example/",
        "user:4\n2",
        "user:\u{200b}",
    ] {
        let error = refusal(&mut clients, subject).await;
        let want = TypedError::new(tonic::Code::InvalidArgument, "INVALID_FIELD", &["subject"]);
        assert_eq!(error, want, "{subject:?}");
        let check = clients.check.check(check_request(subject, NEWS, "email")).await;
        assert_eq!(typed(&check.unwrap_err()), want, "{subject:?}");
    }
    assert_eq!(clients.checkpoint().await.size, head);
}

#[tokio::test]
async fn an_unknown_namespace_is_refused_on_record_and_denied_on_every_check() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, mut clients) = started(dir.path()).await;
    let contract = proto::Purpose {
        legal_basis: proto::LegalBasis::Contract.into(),
        ..support::consent_purpose("orders")
    };
    let interest = proto::Purpose {
        legal_basis: proto::LegalBasis::LegitimateInterest.into(),
        ..support::consent_purpose("analytics")
    };
    clients.put_purpose(contract).await;
    clients.put_purpose(interest).await;
    let want = TypedError::new(tonic::Code::NotFound, "UNKNOWN_NAMESPACE", &["subject"]);
    assert_eq!(refusal(&mut clients, "emial:kim@x.example").await, want);
    for purpose in [NEWS, "orders", "analytics", "no-such-purpose"] {
        let answer = clients.ask(check_request("emial:kim@x.example", purpose, "email")).await;
        let got = (answer.effect(), answer.reason(), answer.subject.as_str());
        assert_eq!(got, (Effect::Deny, Reason::UnknownNamespace, ""), "{purpose}");
    }
    let mut both = link_request("user:1", "emial:1", proto::LinkConfidence::Verified);
    let error = clients.privacy.link_subjects(both.clone()).await.unwrap_err();
    let want = TypedError::new(tonic::Code::NotFound, "UNKNOWN_NAMESPACE", &["other_subject"]);
    assert_eq!(typed(&error), want);
    both.other_subject = "email:kim".to_owned();
    let error = clients.privacy.link_subjects(both).await.unwrap_err();
    let want = TypedError::new(tonic::Code::InvalidArgument, "INVALID_FIELD", &["other_subject"]);
    assert_eq!(typed(&error), want);
}

#[tokio::test]
async fn the_kind_of_a_namespace_is_fixed_once_it_has_a_person() {
    let dir = tempfile::tempdir().unwrap();
    let (server, mut clients) = started(dir.path()).await;
    let namespace = |kind: NamespaceKind, region: &str, fold: Option<bool>| {
        let namespace = proto::Namespace {
            key: "contact".to_owned(),
            title: "Contact".to_owned(),
            kind: kind.into(),
            default_region: region.to_owned(),
            fold_local_part: fold,
            ..proto::Namespace::default()
        };
        proto::PutNamespaceRequest { namespace: Some(namespace), ..Default::default() }
    };
    for request in [
        namespace(NamespaceKind::Phone, "AT", None),
        namespace(NamespaceKind::Email, "", Some(false)),
        namespace(NamespaceKind::Email, "", None),
    ] {
        assert!(clients.catalog.put_namespace(request).await.unwrap().into_inner().changed);
    }
    clients.record_change("contact:Kim@x.example", Action::Grant, NEWS, "email").await;
    let refused = |field: &str| {
        TypedError::new(tonic::Code::FailedPrecondition, "NAMESPACE_IN_USE", &[field])
    };
    let want = refused("namespace.kind");
    for (request, want) in [
        (namespace(NamespaceKind::Opaque, "", None), &want),
        (namespace(NamespaceKind::Email, "", Some(false)), &refused("namespace.fold_local_part")),
    ] {
        let error = clients.catalog.put_namespace(request).await.unwrap_err();
        assert_eq!(typed(&error), *want);
    }
    // Validated alone, the answer is the same, and nothing is written.
    let validated = |request: proto::PutNamespaceRequest| proto::PutNamespaceRequest {
        validate_only: true,
        ..request
    };
    let head = clients.checkpoint().await.size;
    let request = validated(namespace(NamespaceKind::Opaque, "", None));
    assert_eq!(typed(&clients.catalog.put_namespace(request).await.unwrap_err()), want);
    let mut retitled = namespace(NamespaceKind::Email, "", Some(true));
    retitled.namespace.as_mut().unwrap().title = "Post".to_owned();
    let answer = clients.catalog.put_namespace(validated(retitled)).await.unwrap().into_inner();
    assert!(answer.changed && answer.namespace.unwrap().title == "Post");
    let same = validated(namespace(NamespaceKind::Email, "", None));
    assert!(!clients.catalog.put_namespace(same).await.unwrap().into_inner().changed);
    assert_eq!(clients.checkpoint().await.size, head, "nothing is written");
    let mut retitled = namespace(NamespaceKind::Email, "", Some(true));
    retitled.namespace.as_mut().unwrap().title = "E-mail".to_owned();
    assert!(clients.catalog.put_namespace(retitled).await.unwrap().into_inner().changed);
    server.terminate();
    let server = Server::start(dir.path());
    let mut clients = server.clients().await;
    let request = namespace(NamespaceKind::Opaque, "", None);
    let want =
        TypedError::new(tonic::Code::FailedPrecondition, "NAMESPACE_IN_USE", &["namespace.kind"]);
    assert_eq!(typed(&clients.catalog.put_namespace(request).await.unwrap_err()), want);
}

#[tokio::test]
async fn a_change_of_the_catalogue_is_validated_without_being_written() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, mut clients) = started(dir.path()).await;
    let head = clients.checkpoint().await.size;
    let purpose = |title: &str, oldest_compatible_version| proto::PutPurposeRequest {
        purpose: Some(proto::Purpose {
            title: title.to_owned(),
            oldest_compatible_version,
            ..support::consent_purpose(NEWS)
        }),
        validate_only: true,
        ..proto::PutPurposeRequest::default()
    };
    let answer = clients.catalog.put_purpose(purpose("Other words", 0)).await.unwrap().into_inner();
    assert!(answer.changed);
    assert_eq!((answer.purpose.unwrap().version, answer.revision), (2, head));
    let error = typed(&clients.catalog.put_purpose(purpose("Other words", 9)).await.unwrap_err());
    assert_eq!(error.fields, ["purpose.oldest_compatible_version"]);
    for (key, title, changed) in [("email", "E-mail", true), ("pigeon", "Pigeon", true)] {
        let channel = proto::Channel { key: key.into(), title: title.into(), retired: false };
        let request = proto::PutChannelRequest { channel: Some(channel), validate_only: true };
        let answer = clients.catalog.put_channel(request).await.unwrap().into_inner();
        assert_eq!((answer.changed, answer.revision), (changed, head), "{key}");
    }
    let wrong = proto::Channel { key: "e mail".into(), ..proto::Channel::default() };
    let request = proto::PutChannelRequest { channel: Some(wrong), validate_only: true };
    let error = typed(&clients.catalog.put_channel(request).await.unwrap_err());
    assert_eq!(error.fields, ["channel.key"]);
    assert_eq!(clients.checkpoint().await.size, head, "nothing is written");
    let current = clients
        .catalog
        .get_purpose(proto::GetPurposeRequest { key: NEWS.to_owned(), at_least_revision: None });
    assert_eq!(current.await.unwrap().into_inner().purpose.unwrap().version, 1);
}

#[tokio::test]
async fn fields_of_another_kind_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, mut clients) = started(dir.path()).await;
    let good = proto::Namespace {
        key: "phone".to_owned(),
        kind: NamespaceKind::Phone.into(),
        ..proto::Namespace::default()
    };
    let region = |text: &str| proto::Namespace { default_region: text.to_owned(), ..good.clone() };
    let domain = NamespaceKind::Domain.into();
    for (namespace, field) in [
        (proto::Namespace { kind: 0, ..good.clone() }, "namespace.kind"),
        (proto::Namespace { key: "a b".to_owned(), ..good.clone() }, "namespace.key"),
        (region("UK"), "namespace.default_region"),
        (proto::Namespace { kind: domain, ..region("AT") }, "namespace.default_region"),
        (
            proto::Namespace { fold_local_part: Some(true), ..good.clone() },
            "namespace.fold_local_part",
        ),
    ] {
        let request =
            proto::PutNamespaceRequest { namespace: Some(namespace), ..Default::default() };
        let error = typed(&clients.catalog.put_namespace(request).await.unwrap_err());
        let want = TypedError::new(tonic::Code::InvalidArgument, "INVALID_FIELD", &[field]);
        assert_eq!(error, want);
    }
}

#[tokio::test]
async fn a_file_stops_people_in_the_spellings_of_spreadsheets() {
    let dir = tempfile::tempdir().unwrap();
    let (server, mut clients) = started(&dir.path().join("data")).await;
    for person in ["email:kim@x.example", "email:lee@x.example", "tel:+436641234567"] {
        clients.record_change(person, Action::Grant, NEWS, "email").await;
    }
    let table = dir.path().join("stops.csv");
    let rows = "who,news\n\
                email:Kim@X.Example,no\n\
                \"email:Lee <LEE@x.example>\",no\n\
                tel:'0664/123 45 67,no\n\
                tel:4.36641E+11,no\n\
                tel:43557421345,no\n\
                email:\u{2022}kim@x.example,no\n\
                email:#N/A,no\n\
                emial:kim@x.example,no\n";
    std::fs::write(&table, rows).unwrap();
    let mapping = dir.path().join("map.toml");
    let text = format!(
        "subject = \"{{who}}\"\n[[cells]]\ncolumn = \"news\"\npurpose = \"{NEWS}\"\n\
         channel = \"email\"\nwithdraw = [\"no\"]\n"
    );
    std::fs::write(&mapping, text).unwrap();
    let mut command = binary();
    command.args(["--json", "--addr", &server.address, "import"]).arg(&table);
    command.args(["--source", "crm", "--mapping"]).arg(&mapping);
    let finished = Process::spawn(command).wait(LONG_PATIENCE);
    let summary = finished.json();
    assert_eq!((&summary["recorded"], &summary["rejected"]), (&3.into(), &5.into()), "{summary}");
    for person in ["email:kim@x.example", "email:lee@x.example", "tel:+436641234567"] {
        let answer = clients.ask(check_request(person, NEWS, "email")).await;
        assert_eq!(answer.effect(), Effect::Deny, "{person}");
    }
    let rejects = std::fs::read_to_string(dir.path().join("stops.csv.rejects.ndjson")).unwrap();
    for reason in ["INVALID_FIELD", "UNKNOWN_NAMESPACE"] {
        assert!(rejects.contains(reason), "{rejects}");
    }
}

#[tokio::test]
async fn an_audience_counts_unknown_namespaces_apart_and_finds_every_spelling() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, mut clients) = started(dir.path()).await;
    clients.record_change("email:kim@x.example", Action::Grant, NEWS, "email").await;
    let subjects =
        ["email:Kim@X.example", "emial:kim@x.example", "email:kim", "email:lee@x.example"];
    use proto::filter_audience_request::Message as Asked;
    use proto::filter_audience_response::Message as Told;
    let query = proto::AudienceQuery {
        purpose: NEWS.to_owned(),
        channel: "email".to_owned(),
        ..proto::AudienceQuery::default()
    };
    let subjects = proto::AudienceSubjects { subjects: subjects.map(str::to_owned).to_vec() };
    let messages = [Asked::Query(query), Asked::Subjects(subjects)]
        .map(|message| proto::FilterAudienceRequest { message: Some(message) });
    let stream = tokio_stream::iter(messages);
    let mut answers = clients.check.filter_audience(stream).await.unwrap().into_inner();
    let Told::Verdicts(verdicts) = answers.message().await.unwrap().unwrap().message.unwrap()
    else {
        panic!("verdicts come first")
    };
    assert_eq!(verdicts.allowed, ["email:Kim@X.example"], "as the caller spelled it");
    let Told::Summary(summary) = answers.message().await.unwrap().unwrap().message.unwrap() else {
        panic!("a summary comes last")
    };
    assert_eq!((summary.allowed, summary.malformed), (1, 1));
    let unknown = summary.reasons.iter().find(|of| of.reason() == Reason::UnknownNamespace);
    assert_eq!(unknown.map(|of| of.count), Some(1));
}

#[test]
fn no_stop_is_weaker_than_the_same_stop_spelled_canonically() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (_server, mut clients) = runtime.block_on(started(dir.path()));
    let spelling = select(SPELLINGS.to_vec()).prop_flat_map(|(person, spellings)| {
        let stops = vec![Action::Withdraw, Action::Refuse, Action::Object];
        (Just(person), select(spellings.to_vec()), select(stops))
    });
    let mut runner = TestRunner::new_with_rng(
        Config::default(),
        proptest::test_runner::TestRng::deterministic_rng(
            proptest::test_runner::RngAlgorithm::ChaCha,
        ),
    );
    for _ in 0..64 {
        let (person, spelled, stop) = spelling.new_tree(&mut runner).unwrap().current();
        let mut answers = Vec::new();
        for subject in [person, spelled] {
            runtime.block_on(async {
                clients.record_change(person, Action::Grant, NEWS, "email").await;
                clients.record(act(subject, vec![change(stop, NEWS, "email")])).await;
                let answer = clients.ask(check_request(person, NEWS, "email")).await;
                answers.push((answer.effect(), answer.reason()));
            });
        }
        assert_eq!(answers[0], answers[1], "{spelled:?}");
        assert_eq!(answers[1].0, Effect::Deny);
    }
}
