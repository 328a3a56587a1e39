//! Stops over a class of purposes, such as `marketing.*`: what they cover, now and later, and everything
//! that names them.

use consent_ledger::proto::{
    self,
    Action::{Grant, Object, Refuse, Withdraw},
    Actor, Effect, Outcome, Reason,
    import_consents_request::Message as ImportMessage,
    watch_response::Message,
};
use futures_util::stream;
use tempfile::TempDir;

use crate::support::{
    self, Clients, Server, act, change, check_request, consent_purpose, run, typed,
};

const NEWS: &str = "marketing.newsletter";
const ADS: &str = "marketing.ads.retargeting";
const CLASS: &str = "marketing.*";
/// A purpose with the name of the class, and one whose key only begins alike.
const OUTSIDE: [&str; 2] = ["marketing", "marketing2.newsletter"];

struct Ledger {
    server: Server,
    clients: Clients,
    dir: TempDir,
}

impl Ledger {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(dir.path());
        let purposes = [NEWS, ADS, OUTSIDE[0], OUTSIDE[1]];
        let clients = server.clients_with_catalog(&purposes, &["email", "sms"]).await;
        Self { server, clients, dir }
    }

    async fn grant_all(&mut self, person: &str) {
        let cells = [NEWS, ADS, OUTSIDE[0], OUTSIDE[1]];
        let changes = cells
            .iter()
            .flat_map(|purpose| ["email", "sms"].map(|channel| change(Grant, purpose, channel)));
        self.clients.record(act(person, changes.collect())).await;
    }

    async fn reason(&mut self, person: &str, purpose: &str, channel: &str) -> Reason {
        self.clients.ask(check_request(person, purpose, channel)).await.reason()
    }

    async fn refused(&mut self, changes: Vec<proto::Change>) -> (String, Vec<String>) {
        let answer = self.clients.consent.record_consent(act("user:refused", changes)).await;
        let error = typed(&answer.unwrap_err());
        (error.reason, error.fields)
    }

    /// The indexes of the events from the beginning that a filter passes.
    async fn heard(&mut self, purposes: &[&str]) -> Vec<u64> {
        let filter = proto::WatchFilter {
            purposes: purposes.iter().map(ToString::to_string).collect(),
            ..Default::default()
        };
        let request = proto::WatchRequest {
            start_index: Some(0),
            filter: Some(filter),
            ..Default::default()
        };
        let mut stream = self.clients.watch.watch(request).await.unwrap().into_inner();
        let mut heard = Vec::new();
        loop {
            match stream.message().await.unwrap().unwrap().message.unwrap() {
                Message::Consent(event) => heard.push(event.index),
                Message::Progress(_) => return heard,
                _ => {}
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_over_a_class_covers_what_is_below_its_key_and_nothing_else() {
    let mut ledger = Ledger::new().await;
    ledger.grant_all("user:1").await;
    let stop = ledger.clients.record_change("user:1", Withdraw, CLASS, "email").await;
    assert_eq!(stop.results[0].outcome(), Outcome::Applied);
    assert_eq!(stop.results[0].scope.as_ref().unwrap().purpose, CLASS);
    for purpose in [NEWS, ADS] {
        let answer = ledger.clients.ask(check_request("user:1", purpose, "email")).await;
        assert_eq!((answer.effect(), answer.reason()), (Effect::Deny, Reason::Withdrawn));
        assert_eq!(answer.decided_by_index, Some(stop.index));
        assert_eq!(ledger.reason("user:1", purpose, "sms").await, Reason::Granted);
    }
    for purpose in OUTSIDE {
        assert_eq!(ledger.reason("user:1", purpose, "email").await, Reason::Granted, "{purpose}");
    }
    // The inner class is a class of its own.
    ledger.clients.record_change("user:1", Object, "marketing.ads.*", "*").await;
    assert_eq!(ledger.reason("user:1", ADS, "sms").await, Reason::Objected);
    assert_eq!(ledger.reason("user:1", NEWS, "sms").await, Reason::Granted);
    // The person lifts it for one purpose alone; an import lifts nothing.
    ledger.clients.record_change("user:1", Grant, NEWS, "email").await;
    let mut import = act("user:1", vec![change(Grant, ADS, "email")]);
    import.actor = Actor::Import.into();
    let import = ledger.clients.record(import).await;
    assert_eq!(import.results[0].outcome(), Outcome::BlockedByStop);
    assert_eq!(ledger.reason("user:1", NEWS, "email").await, Reason::Granted);
    assert_eq!(ledger.reason("user:1", ADS, "email").await, Reason::Objected);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_covers_purposes_that_come_later_and_survives_a_rebuild() {
    let Ledger { server, mut clients, dir } = Ledger::new().await;
    let stop = clients.record_change("user:1", Refuse, CLASS, "*").await;
    let later = "marketing.partners.offers";
    clients.put_purpose(consent_purpose(later)).await;
    let import = proto::RecordConsentRequest {
        actor: Actor::Import.into(),
        ..act("user:1", vec![change(Grant, later, "email")])
    };
    let import = clients.record(import).await;
    assert_eq!(import.results[0].outcome(), Outcome::BlockedByStop);
    assert_eq!(import.results[0].cause_index, Some(stop.index));
    tokio::task::spawn_blocking(move || server.terminate()).await.unwrap();
    std::fs::remove_dir_all(dir.path().join("view")).unwrap();
    run(["verify", "--data-dir", dir.path().to_str().unwrap()]).expect_code(0);
    let server = Server::start(dir.path());
    let mut clients = server.clients().await;
    let answer = clients.ask(check_request("user:1", later, "email")).await;
    assert_eq!((answer.reason(), answer.decided_by_index), (Reason::Refused, Some(stop.index)));

    let request = proto::GetPreferencesRequest { subject: "user:1".into(), ..Default::default() };
    let preferences = clients.consent.get_preferences(request).await.unwrap().into_inner();
    assert_eq!(preferences.stops[0].scope.as_ref().unwrap().purpose, CLASS);
    let history = clients.history("user:1").await;
    assert_eq!(history[0].changes[0].scope.as_ref().unwrap().purpose, CLASS);
    let audit = support::verify_decisions(dir.path(), &server.address, &[]).expect_code(0);
    assert!(!audit.stdout.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_of_a_class_and_an_unknown_class_are_refused_and_change_nothing() {
    let mut ledger = Ledger::new().await;
    let purpose_field = vec!["changes[0].scope.purpose".to_owned()];
    for (reason, changes) in [
        ("INVALID_FIELD", vec![change(Grant, CLASS, "email")]),
        ("UNKNOWN_PURPOSE", vec![change(Withdraw, "marketting.*", "email")]),
        ("UNKNOWN_PURPOSE", vec![change(Withdraw, "marketing.newsletter.*", "email")]),
        ("INVALID_FIELD", vec![change(Withdraw, "marketing*", "email")]),
        ("INVALID_FIELD", vec![change(Withdraw, "*.newsletter", "email")]),
        ("INVALID_FIELD", vec![change(Withdraw, ".*", "email")]),
    ] {
        let context = format!("{changes:?}");
        let refused = ledger.refused(changes).await;
        assert_eq!(refused, (reason.to_owned(), purpose_field.clone()), "{context}");
    }
    let channel = ledger.refused(vec![change(Withdraw, CLASS, "email.*")]).await;
    assert_eq!(channel.1, ["changes[0].scope.channel"]);
    let check = check_request("user:refused", CLASS, "email");
    let error = typed(&ledger.clients.check.check(check).await.unwrap_err());
    assert_eq!(error.fields, ["purpose"]);
    assert!(ledger.clients.history("user:refused").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_name_classes_and_hear_stops_over_classes() {
    let mut ledger = Ledger::new().await;
    let mut stop = async |purpose: &str| {
        ledger.clients.record_change("user:1", Withdraw, purpose, "*").await.index
    };
    let class = stop(CLASS).await;
    let inner = stop("marketing.ads.*").await;
    let news = stop(NEWS).await;
    let outside = stop(OUTSIDE[0]).await;
    let everything = stop("*").await;
    for (purposes, want) in [
        (vec![CLASS], vec![class, inner, news, everything]),
        (vec![NEWS], vec![class, news, everything]),
        (vec![ADS], vec![class, inner, everything]),
        (vec!["marketing.ads.*"], vec![class, inner, everything]),
        (vec![OUTSIDE[0]], vec![outside, everything]),
        (vec!["marketing2.*"], vec![everything]),
        // A class that has no purpose yet.
        (vec!["later.*"], vec![everything]),
        (vec![NEWS, OUTSIDE[0]], vec![class, news, outside, everything]),
    ] {
        assert_eq!(ledger.heard(&purposes).await, want, "{purposes:?}");
    }

    let subscription = proto::Subscription {
        name: "mailer".into(),
        owner: "team".into(),
        filter: Some(proto::WatchFilter {
            purposes: vec![CLASS.into()],
            kinds: vec![proto::EventKind::Withdraw.into()],
            ..Default::default()
        }),
        ..Default::default()
    };
    let request =
        proto::CreateSubscriptionRequest { subscription: Some(subscription), start_index: Some(0) };
    ledger.clients.watch.create_subscription(request).await.unwrap();
    let consume = ["subscription", "consume", "mailer", "--count", "4", "--json"];
    let consumed = ledger.server.cli(&consume).expect_code(0).json_lines();
    let indexes: Vec<_> = consumed.iter().map(|line| &line["consent"]["index"]).collect();
    assert_eq!(indexes, [class, inner, news, everything].map(|index| index.to_string()).each_ref());
    let listed = ledger.clients.subscriptions().await;
    let filter = listed[0].subscription.as_ref().and_then(|one| one.filter.as_ref()).unwrap();
    assert_eq!(filter.purposes, [CLASS]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_a_class_tells_its_cells_and_the_stops_that_meet_it() {
    let mut ledger = Ledger::new().await;
    ledger.grant_all("user:1").await;
    for scope in ["marketing.ads.*", OUTSIDE[0]] {
        ledger.clients.record_change("user:1", Withdraw, scope, "email").await;
    }
    let filter = proto::WatchFilter { purposes: vec![CLASS.into()], ..Default::default() };
    let request = proto::WatchRequest {
        filter: Some(filter),
        snapshot: proto::Snapshot::All.into(),
        ..Default::default()
    };
    let mut stream = ledger.clients.watch.watch(request).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap().message.unwrap();
    let Message::Snapshot(told) = first else { panic!("{first:?}") };
    let cells: Vec<_> = (told.cells.iter())
        .map(|cell| (cell.purpose.as_str(), cell.channel.as_str(), cell.effect()))
        .collect();
    let (allow, deny) = (Effect::Allow, Effect::Deny);
    let want =
        [(ADS, "email", deny), (ADS, "sms", allow), (NEWS, "email", allow), (NEWS, "sms", allow)];
    assert_eq!(cells, want);
    let stops: Vec<_> = told.stops.iter().map(|stop| stop.scope.clone().unwrap().purpose).collect();
    assert_eq!(stops, ["marketing.ads.*"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn imports_and_commands_take_classes() {
    let mut ledger = Ledger::new().await;
    for person in ["user:1", "user:2"] {
        ledger.grant_all(person).await;
    }
    let row = proto::ImportRow {
        subject: "user:1".into(),
        changes: vec![change(Withdraw, CLASS, "email")],
        ..Default::default()
    };
    for (recorded, unchanged) in [(1, 0), (0, 1)] {
        let start = proto::ImportStart { source: format!("list {recorded}"), dry_run: false };
        let rows = proto::ImportRows { rows: vec![row.clone()] };
        let messages = [ImportMessage::Start(start), ImportMessage::Rows(rows)]
            .map(|message| proto::ImportConsentsRequest { message: Some(message) });
        let answer = ledger.clients.consent.import_consents(stream::iter(messages)).await.unwrap();
        let answer = answer.into_inner();
        assert_eq!((answer.recorded, answer.unchanged), (recorded, unchanged));
    }
    assert_eq!(ledger.reason("user:1", ADS, "email").await, Reason::Revoked);

    let record = ["record", "--subject", "user:2", "--withdraw", "marketing.*:email"];
    let record = ledger.server.cli(&record).expect_code(0);
    assert!(record.stdout.contains("marketing.*:email"), "{record:?}");
    assert_eq!(ledger.reason("user:2", NEWS, "email").await, Reason::Withdrawn);
    assert_eq!(ledger.reason("user:2", NEWS, "sms").await, Reason::Granted);
    let watch = ["watch", "--purpose", "marketing.ads.*", "--kind", "withdraw", "--from", "0"];
    let watch = [&watch[..], &["--count", "2", "--json"]].concat();
    let watched = ledger.server.cli(&watch).expect_code(0).json_lines();
    let subjects: Vec<_> = watched.iter().map(|event| &event["consent"]["subject"]).collect();
    assert_eq!(subjects, ["user:1", "user:2"], "both stops over the wider class");
    let grant = ["record", "--subject", "user:2", "--grant", "marketing.*:email"];
    let grant = ledger.server.cli(&grant).expect_code(2);
    assert!(grant.stderr.contains("exactly one purpose"), "{grant:?}");
}
