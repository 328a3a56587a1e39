//! Parties: what the catalogue takes and refuses, and that receipts name those of the act's time.

use consent_ledger::proto::{
    self,
    Action::{Grant, Withdraw},
    GetReceiptRequest, PartyRole,
    get_receipt_request::Act,
    watch_response::Message,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::Code::{FailedPrecondition, InvalidArgument, NotFound};

use crate::support::{
    self, Clients, Server, TypedError, act, change, check_request, consent_purpose, typed,
};

const NEWS: &str = "marketing.newsletter";
const SUBJECT: &str = "user:42";

fn party(key: &str, roles: &[PartyRole]) -> proto::Party {
    proto::Party {
        key: key.to_owned(),
        roles: roles.iter().map(|role| (*role).into()).collect(),
        name: format!("{key} Ltd"),
        ..proto::Party::default()
    }
}

fn controller(key: &str) -> proto::Party {
    party(key, &[PartyRole::Controller])
}

fn recipient(key: &str) -> proto::Party {
    party(key, &[PartyRole::Recipient])
}

fn to(parties: &[&str]) -> Option<proto::Recipients> {
    Some(proto::Recipients { parties: parties.iter().map(ToString::to_string).collect() })
}

struct Ledger {
    server: Server,
    clients: Clients,
    dir: TempDir,
}

impl Ledger {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start_with(dir.path(), &["--checkpoint-interval=50ms"]);
        let clients = server.clients_with_catalog(&[], &["email", "sms"]).await;
        Self { server, clients, dir }
    }

    async fn revision(&mut self) -> u64 {
        self.clients.ask(check_request("user:nobody", NEWS, "email")).await.revision
    }

    async fn refused_party(&mut self, party: proto::Party) -> TypedError {
        let request = proto::PutPartyRequest { party: Some(party), ..Default::default() };
        typed(&self.clients.catalog.put_party(request).await.unwrap_err())
    }

    async fn refused_purpose(&mut self, purpose: proto::Purpose) -> TypedError {
        let request =
            proto::PutPurposeRequest { purpose: Some(purpose.clone()), ..Default::default() };
        let refused = typed(&self.clients.catalog.put_purpose(request).await.unwrap_err());
        let request =
            proto::PreviewPurposeChangeRequest { purpose: Some(purpose), ..Default::default() };
        let preview = self.clients.catalog.preview_purpose_change(request).await.unwrap_err();
        assert_eq!(typed(&preview), refused, "a preview refuses the same");
        refused
    }

    async fn payload(&mut self, index: u64) -> Value {
        let request =
            GetReceiptRequest { act: Some(Act::Index(index)), ..GetReceiptRequest::default() };
        let answer = self.clients.audit.get_receipt(request).await.unwrap().into_inner();
        let key = self.server.printed("verifier key ").unwrap();
        let file = self.dir.path().join("receipt.jws");
        std::fs::write(&file, &answer.receipt).unwrap();
        let file = file.to_str().unwrap().to_owned();
        support::run(["verify-receipt", &file, "--key", &key]).expect_code(0);
        serde_json::from_str(&answer.payload).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_party_is_versioned_listed_and_written_only_where_it_differs() {
    let mut ledger = Ledger::new().await;
    let mut acme = controller("acme");
    acme.jurisdictions = vec!["DE".to_owned(), "US-CA".to_owned()];
    let size = ledger.revision().await;
    let first = ledger.clients.put_party(acme.clone()).await;
    assert_eq!((first.changed, first.revision), (true, size + 1));
    assert_eq!(first.party.as_ref().unwrap().version, 1);
    let again = ledger.clients.put_party(acme.clone()).await;
    assert_eq!((again.changed, again.revision), (false, size + 1));
    assert_eq!(ledger.revision().await, size + 1);
    acme.email = "dpo@acme.example".to_owned();
    // The order of the roles says nothing.
    acme.roles = vec![PartyRole::Recipient.into(), PartyRole::Controller.into()];
    let second = ledger.clients.put_party(acme.clone()).await.party.unwrap();
    assert_eq!(second.version, 2);
    acme.roles.reverse();
    assert!(!ledger.clients.put_party(acme.clone()).await.changed);
    for key in ["mailer", "ads"] {
        ledger.clients.put_party(recipient(key)).await;
    }
    let mut listed = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = proto::ListPartiesRequest { page_size: 2, page_token, ..Default::default() };
        let page = ledger.clients.catalog.list_parties(request).await.unwrap().into_inner();
        listed.extend(page.parties);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let keys: Vec<_> = listed.iter().map(|party| party.key.as_str()).collect();
    assert_eq!(keys, ["acme", "ads", "mailer"]);
    assert_eq!(listed[0], proto::Party { version: 2, ..acme });

    // A restart, and a view that is built anew, know the same.
    let Ledger { server, dir, .. } = ledger;
    tokio::task::spawn_blocking(move || server.terminate()).await.unwrap();
    std::fs::remove_dir_all(dir.path().join("view")).unwrap();
    let server = Server::start(dir.path());
    let mut clients = server.clients().await;
    let request = proto::ListPartiesRequest::default();
    let again = clients.catalog.list_parties(request).await.unwrap().into_inner();
    assert_eq!(again.parties, listed);
    let shown = server.cli(&["catalog", "list"]).expect_code(0);
    assert!(shown.stdout.contains("mailer Ltd"), "{shown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_parties_are_refused_by_field_and_change_nothing() {
    let mut ledger = Ledger::new().await;
    let good = controller("acme");
    let size = ledger.revision().await;
    let long = "x".repeat(1_025);
    let with = |spoil: &dyn Fn(&mut proto::Party)| {
        let mut party = good.clone();
        spoil(&mut party);
        party
    };
    let sensitive = |categories: &[&str]| {
        let data_categories = categories.iter().map(ToString::to_string).collect();
        Some(proto::SensitiveCategories { data_categories })
    };
    for (spoiled, reason, field) in [
        (with(&|p| p.key.clear()), "INVALID_FIELD", "party.key"),
        (with(&|p| p.key = "Acme AG".into()), "INVALID_FIELD", "party.key"),
        (with(&|p| p.key = "a".repeat(129)), "LIMIT_EXCEEDED", "party.key"),
        (with(&|p| p.roles.clear()), "INVALID_FIELD", "party.roles"),
        (with(&|p| p.roles = vec![0]), "INVALID_FIELD", "party.roles[0]"),
        (with(&|p| p.roles = vec![1, 9]), "INVALID_FIELD", "party.roles[1]"),
        (with(&|p| p.roles = vec![1, 1]), "INVALID_FIELD", "party.roles[1]"),
        (with(&|p| p.name.clear()), "INVALID_FIELD", "party.name"),
        (with(&|p| p.name = " \u{200b}\u{a0}".into()), "INVALID_FIELD", "party.name"),
        (with(&|p| p.name = "a\nb".into()), "INVALID_FIELD", "party.name"),
        (with(&|p| p.name = "x".repeat(257)), "LIMIT_EXCEEDED", "party.name"),
        (with(&|p| p.contact = long.clone()), "LIMIT_EXCEEDED", "party.contact"),
        (with(&|p| p.address = "a\nb".into()), "INVALID_FIELD", "party.address"),
        (with(&|p| p.phone = long.clone()), "LIMIT_EXCEEDED", "party.phone"),
        (with(&|p| p.email = "dpo".into()), "INVALID_FIELD", "party.email"),
        (with(&|p| p.email = "d po@a.example".into()), "INVALID_FIELD", "party.email"),
        (with(&|p| p.url = "acme.example".into()), "INVALID_FIELD", "party.url"),
        (with(&|p| p.url = "https://u@acme.example".into()), "INVALID_FIELD", "party.url"),
        (
            with(&|p| p.privacy_policy_url = "ftp://a.example".into()),
            "INVALID_FIELD",
            "party.privacy_policy_url",
        ),
        (
            with(&|p| p.jurisdictions = vec!["DE".into(), "UK".into()]),
            "INVALID_FIELD",
            "party.jurisdictions[1]",
        ),
        (
            with(&|p| p.jurisdictions = vec!["DE".into(), "DE".into()]),
            "INVALID_FIELD",
            "party.jurisdictions[1]",
        ),
        (
            with(&|p| p.jurisdictions = vec!["DE".into(); 33]),
            "LIMIT_EXCEEDED",
            "party.jurisdictions",
        ),
        (
            with(&|p| p.sensitive_categories = sensitive(&["user.health", "User"])),
            "INVALID_FIELD",
            "party.sensitive_categories.data_categories[1]",
        ),
        (
            with(&|p| p.sensitive_categories = sensitive(&["user"; 101])),
            "LIMIT_EXCEEDED",
            "party.sensitive_categories.data_categories",
        ),
        (
            with(&|p| {
                p.roles = vec![PartyRole::Recipient.into()];
                p.sensitive_categories = sensitive(&[]);
            }),
            "INVALID_FIELD",
            "party.sensitive_categories",
        ),
    ] {
        let context = format!("{spoiled:?}");
        let refused = ledger.refused_party(spoiled).await;
        assert_eq!(refused, TypedError::new(InvalidArgument, reason, &[field]), "{context}");
    }
    let nothing = ledger.clients.catalog.put_party(proto::PutPartyRequest::default()).await;
    let want = TypedError::new(InvalidArgument, "INVALID_FIELD", &["party"]);
    assert_eq!(typed(&nothing.unwrap_err()), want);
    assert_eq!(ledger.revision().await, size);
}

#[tokio::test(flavor = "multi_thread")]
async fn purposes_name_parties_that_are_there_and_have_the_role() {
    let mut ledger = Ledger::new().await;
    ledger.clients.put_party(controller("acme")).await;
    ledger.clients.put_party(recipient("mailer")).await;
    let size = ledger.revision().await;
    let purpose = |controller: &str, recipients: Option<proto::Recipients>| proto::Purpose {
        controller: controller.to_owned(),
        recipients,
        ..consent_purpose(NEWS)
    };
    let many: Vec<String> = (0..101).map(|number| format!("p{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for (controller, recipients, code, reason, field) in [
        ("acne", None, NotFound, "UNKNOWN_PARTY", "purpose.controller"),
        ("mailer", None, FailedPrecondition, "PARTY_WITHOUT_ROLE", "purpose.controller"),
        (
            "acme",
            to(&["mailer", "mailr"]),
            NotFound,
            "UNKNOWN_PARTY",
            "purpose.recipients.parties[1]",
        ),
        (
            "acme",
            to(&["acme"]),
            FailedPrecondition,
            "PARTY_WITHOUT_ROLE",
            "purpose.recipients.parties[0]",
        ),
        (
            "acme",
            to(&["mailer", "mailer"]),
            InvalidArgument,
            "INVALID_FIELD",
            "purpose.recipients.parties[1]",
        ),
        ("acme", to(&["*"]), InvalidArgument, "INVALID_FIELD", "purpose.recipients.parties[0]"),
        ("acme", to(&many), InvalidArgument, "LIMIT_EXCEEDED", "purpose.recipients.parties"),
        ("Acme AG", None, InvalidArgument, "INVALID_FIELD", "purpose.controller"),
    ] {
        let context = format!("{controller} {recipients:?}");
        let refused = ledger.refused_purpose(purpose(controller, recipients)).await;
        assert_eq!(refused, TypedError::new(code, reason, &[field]), "{context}");
    }
    let request =
        proto::PutPurposeRequest { purpose: Some(purpose("acne", None)), ..Default::default() };
    let misspelt = ledger.clients.catalog.put_purpose(request).await.unwrap_err();
    assert!(misspelt.message().contains("did you mean `acme`?"), "{misspelt:?}");
    assert_eq!(ledger.revision().await, size, "nothing is written");

    // Not to be said who receives data, and to say that nobody does, are two things.
    let version = async |ledger: &mut Ledger, purpose: proto::Purpose| {
        ledger.clients.put_purpose(purpose).await.purpose.unwrap().version
    };
    assert_eq!(version(&mut ledger, purpose("acme", None)).await, 1);
    assert_eq!(version(&mut ledger, purpose("acme", to(&[]))).await, 2);
    ledger.clients.put_party(recipient("ads")).await;
    assert_eq!(version(&mut ledger, purpose("acme", to(&["mailer", "ads"]))).await, 3);
    assert_eq!(version(&mut ledger, purpose("acme", to(&["ads", "mailer"]))).await, 3);
    let request = proto::GetPurposeRequest { key: NEWS.to_owned(), ..Default::default() };
    let kept = ledger.clients.catalog.get_purpose(request).await.unwrap().into_inner();
    let kept = kept.purpose.unwrap();
    assert_eq!((kept.controller.as_str(), kept.recipients), ("acme", to(&["ads", "mailer"])));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_party_keeps_the_roles_that_purposes_name_it_for() {
    let mut ledger = Ledger::new().await;
    let both = party("acme", &[PartyRole::Controller, PartyRole::Recipient]);
    ledger.clients.put_party(both).await;
    let purpose = proto::Purpose { controller: "acme".to_owned(), ..consent_purpose(NEWS) };
    ledger.clients.put_purpose(purpose.clone()).await;
    let refused = ledger.refused_party(recipient("acme")).await;
    let want = TypedError::new(FailedPrecondition, "PARTY_IN_USE", &["party.roles"]);
    assert_eq!(refused, want);
    assert!(ledger.clients.put_party(controller("acme")).await.changed, "not named as recipient");
    // Once the purpose names another one, the role can go.
    ledger.clients.put_party(controller("other")).await;
    let moved = proto::Purpose { controller: "other".to_owned(), ..purpose };
    ledger.clients.put_purpose(moved).await;
    assert!(ledger.clients.put_party(recipient("acme")).await.changed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_names_the_parties_of_the_acts_time() {
    let mut ledger = Ledger::new().await;
    let mut acme = controller("acme");
    acme.jurisdictions = vec!["DE".to_owned()];
    acme.privacy_policy_url = "https://acme.example/privacy".to_owned();
    ledger.clients.put_party(acme.clone()).await;
    ledger.clients.put_party(recipient("mailer")).await;
    let purpose = proto::Purpose {
        controller: "acme".to_owned(),
        recipients: to(&["mailer"]),
        ..consent_purpose(NEWS)
    };
    ledger.clients.put_purpose(purpose.clone()).await;
    let given = ledger.clients.record_change(SUBJECT, Grant, NEWS, "email").await.index;
    let before = ledger.payload(given).await;

    // Everything changes after the act, but not what the act was told.
    acme.name = "Acme Holding".to_owned();
    acme.jurisdictions = vec!["US".to_owned()];
    acme.privacy_policy_url.clear();
    ledger.clients.put_party(acme).await;
    ledger.clients.put_party(recipient("ads")).await;
    let sold = proto::Purpose { recipients: to(&["ads", "mailer"]), ..purpose };
    ledger.clients.put_purpose(sold).await;
    let after = ledger.payload(given).await;
    for field in [
        "/piiControllers",
        "/jurisdiction",
        "/policyUrl",
        "/services",
        "/party_identification",
        "/pii_processing",
        "/consent_ledger/parties",
        "/consent_ledger/controllers",
        "/consent_ledger/purposes",
    ] {
        assert_eq!(before.pointer(field), after.pointer(field), "{field}");
    }
    for (field, wanted) in [
        ("/piiControllers/0/piiController", json!("acme Ltd")),
        ("/jurisdiction", json!("DE")),
        ("/policyUrl", json!("https://acme.example/privacy")),
        ("/services/0/purposes/0/thirdPartyName", json!("mailer Ltd")),
        ("/consent_ledger/parties/0/version", json!(1)),
    ] {
        assert_eq!(after.pointer(field), Some(&wanted), "{field}");
    }
    // A withdrawal of today names those of today; a grant of version 1 is still about version 1.
    let stopped = ledger.clients.record_change(SUBJECT, Withdraw, NEWS, "email").await.index;
    let stopped = ledger.payload(stopped).await;
    assert_eq!(stopped["piiControllers"][0]["piiController"], "Acme Holding");
    assert_eq!(stopped["jurisdiction"], "US");
    let recipients = &stopped["pii_processing"]["recipient_third_parties"];
    assert_eq!(*recipients, json!(["ads Ltd", "mailer Ltd"]));
    let mut older = change(Grant, NEWS, "sms");
    older.purpose_version = 1;
    let older = ledger.clients.record(act(SUBJECT, vec![older])).await.index;
    let older = ledger.payload(older).await;
    assert_eq!(older["pii_processing"]["recipient_third_parties"], json!(["mailer Ltd"]));
    assert_eq!(older["piiControllers"][0]["piiController"], "Acme Holding", "as of the act");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wide_stop_is_told_to_every_controller_that_it_covers() {
    let mut ledger = Ledger::new().await;
    for key in ["acme", "ads", "shop"] {
        ledger.clients.put_party(controller(key)).await;
    }
    for (purpose, controller) in
        [(NEWS, "acme"), ("marketing.ads", "ads"), ("shop.orders", "shop"), ("stats", "")]
    {
        let controller = controller.to_owned();
        let purpose = proto::Purpose { controller, ..consent_purpose(purpose) };
        ledger.clients.put_purpose(purpose).await;
    }
    for (scope, want) in [
        ("*", vec!["acme", "ads", "shop"]),
        ("marketing.*", vec!["acme", "ads"]),
        ("shop.orders", vec!["shop"]),
    ] {
        let index = ledger.clients.record_change(SUBJECT, Withdraw, scope, "*").await.index;
        let payload = ledger.payload(index).await;
        assert_eq!(payload["consent_ledger"]["controllers"], json!(want), "{scope}");
        let names: Vec<_> = payload["piiControllers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|party| party["piiController"].as_str().unwrap().to_owned())
            .collect();
        let want: Vec<_> = want.iter().map(|key| format!("{key} Ltd")).collect();
        assert_eq!(names, want, "{scope}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_a_party_changes_no_decision_and_is_no_event() {
    let mut ledger = Ledger::new().await;
    ledger.clients.put_party(controller("acme")).await;
    let purpose = proto::Purpose { controller: "acme".to_owned(), ..consent_purpose(NEWS) };
    ledger.clients.put_purpose(purpose).await;
    ledger.clients.record_change(SUBJECT, Grant, NEWS, "email").await;
    let before = ledger.clients.ask(check_request(SUBJECT, NEWS, "email")).await;
    let renamed = proto::Party { name: "Acme Holding".to_owned(), ..controller("acme") };
    let put = ledger.clients.put_party(renamed).await;
    let after = ledger.clients.ask(check_request(SUBJECT, NEWS, "email")).await;
    assert_eq!((after.effect(), after.reason()), (before.effect(), before.reason()));
    assert_eq!(after.revision, put.revision);
    let stop = ledger.clients.record_change(SUBJECT, Withdraw, NEWS, "email").await.index;
    let filter = proto::WatchFilter {
        kinds: vec![proto::EventKind::Catalog.into(), proto::EventKind::Withdraw.into()],
        ..Default::default()
    };
    let request = proto::WatchRequest {
        start_index: Some(put.revision - 1),
        filter: Some(filter),
        ..Default::default()
    };
    let mut stream = ledger.clients.watch.watch(request).await.unwrap().into_inner();
    let first = loop {
        match stream.message().await.unwrap().unwrap().message.unwrap() {
            Message::Progress(_) => {}
            other => break other,
        }
    };
    let Message::Consent(event) = first else { panic!("{first:?}") };
    assert_eq!(event.index, stop);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalogue_file_puts_parties_before_the_purposes_that_name_them() {
    let ledger = Ledger::new().await;
    let file = ledger.dir.path().join("catalog.toml");
    let text = |name: &str| {
        format!(
            "[[purposes]]\nkey = \"{NEWS}\"\ntitle = \"News\"\nlegal_basis = \"consent\"\n\
             controller = \"acme\"\nrecipients = [\"mailer\"]\n\
             [[parties]]\nkey = \"acme\"\nroles = [\"controller\"]\nname = \"{name}\"\n\
             jurisdictions = [\"DE\"]\nsensitive_categories = []\n\
             [[parties]]\nkey = \"mailer\"\nroles = [\"recipient\"]\nname = \"Mailer\"\n"
        )
    };
    let apply = |name: &str, more: &[&str]| {
        std::fs::write(&file, text(name)).unwrap();
        let command = ["catalog", "apply", file.to_str().unwrap(), "--json"];
        ledger.server.cli(&[&command[..], more].concat()).expect_code(0).json()
    };
    assert_eq!(apply("Acme", &["--dry-run"])["added"], 3);
    // What the real run refuses, the dry run does, too.
    for (sound, wrong, why) in [
        ("roles = [\"recipient\"]", "roles = [\"controller\"]", "recipient"),
        ("[\"mailer\"]", "[\"mailer\", \"mailer\"]", "recipients"),
        ("[\"mailer\"]", "[\"nobody\"]", "nobody"),
    ] {
        std::fs::write(&file, text("Acme").replace(sound, wrong)).unwrap();
        let command = ["catalog", "apply", file.to_str().unwrap(), "--dry-run", "--json"];
        let refused = ledger.server.cli(&command).expect_code(1);
        assert!(refused.stderr.contains(why), "{wrong}: {}", refused.stderr);
    }
    let applied = apply("Acme", &[]);
    assert_eq!((&applied["added"], &applied["results"][0]["kind"]), (&json!(3), &json!("party")));
    assert_eq!(apply("Acme", &[])["unchanged"], 3);
    let renamed = apply("Acme AG", &[]);
    assert_eq!(renamed["changed"], 1);
    assert_eq!(renamed["results"][0]["fields"], json!(["name"]));
    assert_eq!(renamed["results"][0]["version"], 2);
}
