//! Acts that carry the same time, and stops that other systems report back: what counts does not
//! depend on the order of arrival.

use consent_ledger::proto::{
    self,
    Action::{Grant, Object, Refuse, Withdraw},
    Actor, Effect, Outcome, Reason, RecordConsentRequest, RecordConsentResponse, Status,
    import_consents_request::Message,
};
use futures_util::stream;

use crate::support::{Clients, Server, act, change, check_request, timestamp};

const NEWS: &str = "marketing.newsletter";
const OFFERS: &str = "marketing.offers";
const NOON: i64 = 1_700_000_000_000;

/// An act that took effect a number of days after [`NOON`].
fn on_day(day: i64, request: RecordConsentRequest) -> RecordConsentRequest {
    let effective_at = Some(timestamp(NOON + day * 86_400_000));
    RecordConsentRequest { effective_at, reported_late: true, ..request }
}

fn by(actor: Actor, request: RecordConsentRequest) -> RecordConsentRequest {
    RecordConsentRequest { actor: actor.into(), ..request }
}

async fn ledger() -> (Server, Clients, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let clients = server.clients_with_catalog(&[NEWS, OFFERS], &["email", "sms"]).await;
    (server, clients, dir)
}

/// Records acts in their order, and answers the answers.
async fn record_all(
    clients: &mut Clients,
    acts: impl IntoIterator<Item = RecordConsentRequest>,
) -> Vec<RecordConsentResponse> {
    let mut answers = Vec::new();
    for act in acts {
        answers.push(clients.record(act).await);
    }
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opt_out_wins_over_an_opt_in_of_the_same_day_in_whichever_order_they_arrive() {
    let (_server, mut clients, _dir) = ledger().await;
    let stops =
        [change(Withdraw, NEWS, "email"), change(Object, NEWS, "*"), change(Refuse, "*", "*")];
    for (number, stop) in stops.into_iter().enumerate() {
        for stop_first in [true, false] {
            let person = format!("user:{number}-{stop_first}");
            let opt_in = on_day(0, act(&person, vec![change(Grant, NEWS, "email")]));
            let opt_out = on_day(0, act(&person, vec![stop.clone()]));
            let acts = if stop_first { [opt_out, opt_in] } else { [opt_in, opt_out] };
            let answers = record_all(&mut clients, acts).await;
            let decision = clients.ask(check_request(&person, NEWS, "email")).await;
            assert_eq!(decision.effect(), Effect::Deny, "{person}");
            let stop_index = answers[usize::from(!stop_first)].index;
            assert_eq!(decision.decided_by_index, Some(stop_index), "{person}");
            let outcome = answers[1].results[0].outcome();
            let want = if stop_first { Outcome::SupersededByLater } else { Outcome::Applied };
            assert_eq!(outcome, want, "{person}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_off_but_this_stands_until_another_act_of_the_moment_stops_it() {
    let (_server, mut clients, _dir) = ledger().await;
    let form = |person: &str| {
        let changes = vec![change(Withdraw, "*", "*"), change(Grant, NEWS, "email")];
        on_day(0, act(person, changes))
    };
    clients.record(form("user:form")).await;
    let decision = clients.ask(check_request("user:form", NEWS, "email")).await;
    assert_eq!(decision.effect(), Effect::Allow);
    let decision = clients.ask(check_request("user:form", OFFERS, "email")).await;
    assert_eq!(decision.effect(), Effect::Deny);

    // An import of that moment is such an act, although the person stopped everything then.
    let import = on_day(0, act("user:form", vec![change(Withdraw, NEWS, "email")]));
    let row = proto::ImportRow {
        subject: import.subject,
        actor: Actor::Import.into(),
        changes: import.changes,
        effective_at: import.effective_at,
        ..proto::ImportRow::default()
    };
    let start = proto::ImportStart { source: "list".to_owned(), dry_run: false };
    let messages = [Message::Start(start), Message::Rows(proto::ImportRows { rows: vec![row] })]
        .map(|message| proto::ImportConsentsRequest { message: Some(message) });
    let answer = clients.consent.import_consents(stream::iter(messages)).await.unwrap();
    assert_eq!(answer.into_inner().recorded, 1);
    let decision = clients.ask(check_request("user:form", NEWS, "email")).await;
    assert_eq!(decision.effect(), Effect::Deny);

    for stop_first in [true, false] {
        let person = format!("user:stopped-{stop_first}");
        let stop = on_day(0, act(&person, vec![change(Withdraw, NEWS, "*")]));
        let acts = if stop_first { [stop, form(&person)] } else { [form(&person), stop] };
        record_all(&mut clients, acts).await;
        let decision = clients.ask(check_request(&person, NEWS, "email")).await;
        assert_eq!(decision.effect(), Effect::Deny, "{person}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_one_act_of_an_import_the_stop_wins() {
    let (_server, mut clients, _dir) = ledger().await;
    let changes = vec![change(Withdraw, "*", "email"), change(Grant, NEWS, "email")];
    clients.record(by(Actor::Import, on_day(0, act("user:row", changes)))).await;
    let decision = clients.ask(check_request("user:row", NEWS, "email")).await;
    assert_eq!((decision.effect(), decision.reason()), (Effect::Deny, Reason::Revoked));
}

#[tokio::test(flavor = "multi_thread")]
async fn acts_without_a_time_count_in_their_order_even_within_a_millisecond() {
    let (_server, mut clients, _dir) = ledger().await;
    for (round, action) in [Grant, Withdraw].into_iter().cycle().take(40).enumerate() {
        clients.record_change("user:fast", action, NEWS, "email").await;
        let decision = clients.ask(check_request("user:fast", NEWS, "email")).await;
        let want = if action == Grant { Effect::Allow } else { Effect::Deny };
        assert_eq!(decision.effect(), want, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_another_system_reports_back_keeps_the_persons_status() {
    let (_server, mut clients, _dir) = ledger().await;
    let kinds = [
        (Withdraw, Reason::Withdrawn, Status::Withdrawn),
        (Object, Reason::Objected, Status::Objected),
        (Refuse, Reason::Refused, Status::Refused),
    ];
    for (action, reason, status) in kinds {
        for actor in [Actor::Import, Actor::System, Actor::Operator] {
            for (echo_first, echo_day) in [(true, 1), (false, 1), (true, 0), (false, 0)] {
                let person = format!("user:{action:?}-{actor:?}-{echo_first}-{echo_day}");
                let stop = on_day(0, act(&person, vec![change(action, NEWS, "email")]));
                let echo = act(&person, vec![change(Withdraw, "*", "email")]);
                let echo = by(actor, on_day(echo_day, echo));
                let acts = if echo_first { [echo, stop] } else { [stop, echo] };
                record_all(&mut clients, acts).await;
                let decision = clients.ask(check_request(&person, NEWS, "email")).await;
                assert_eq!((decision.reason(), decision.status()), (reason, status), "{person}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_by_others_after_a_new_grant_is_no_echo() {
    let (_server, mut clients, _dir) = ledger().await;
    let acts = [
        on_day(0, act("user:again", vec![change(Withdraw, NEWS, "email")])),
        on_day(1, act("user:again", vec![change(Grant, NEWS, "email")])),
        by(Actor::Import, on_day(2, act("user:again", vec![change(Withdraw, NEWS, "email")]))),
    ];
    record_all(&mut clients, acts).await;
    let decision = clients.ask(check_request("user:again", NEWS, "email")).await;
    assert_eq!(decision.reason(), Reason::Revoked);
}

#[tokio::test(flavor = "multi_thread")]
async fn ties_and_echoes_answer_the_same_after_a_restart() {
    let (server, mut clients, dir) = ledger().await;
    let acts = [
        on_day(0, act("user:form", vec![change(Withdraw, "*", "*"), change(Grant, NEWS, "email")])),
        on_day(0, act("user:tie", vec![change(Withdraw, NEWS, "email")])),
        on_day(0, act("user:tie", vec![change(Grant, NEWS, "email")])),
        on_day(0, act("user:echo", vec![change(Object, NEWS, "email")])),
        by(Actor::System, on_day(1, act("user:echo", vec![change(Withdraw, "*", "*")]))),
    ];
    record_all(&mut clients, acts).await;
    drop(clients);
    server.terminate().expect_code(0);
    let server = Server::start(dir.path());
    let mut clients = server.clients().await;
    for (person, reason) in [
        ("user:form", Reason::Granted),
        ("user:tie", Reason::Withdrawn),
        ("user:echo", Reason::Objected),
    ] {
        let decision = clients.ask(check_request(person, NEWS, "email")).await;
        assert_eq!(decision.reason(), reason, "{person}");
    }
}
