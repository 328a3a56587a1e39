//! Grants of those who may not lift a stop: one that was blocked never counts, whatever comes later and
//! in whatever order, and none of them ends or narrows the person's own.

use consent_ledger::proto::{
    self,
    Action::{Grant, Withdraw},
    Actor, Effect, Outcome, Reason, RecordConsentRequest,
};

use crate::support::{
    self, Clients, Server, act, by_permutation, change, check_request, model, timestamp,
};

const NEWS: &str = "marketing.newsletter";

async fn ledger() -> (Server, Clients, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut clients = server.clients_with_catalog(&[], &["email", "sms"]).await;
    let data_categories = ["user.contact", "user.name"].map(str::to_owned).to_vec();
    let purpose = proto::Purpose { data_categories, ..support::consent_purpose(NEWS) };
    clients.put_purpose(purpose).await;
    (server, clients, dir)
}

/// An act some seconds ago, of an actor.
fn ago(
    now: i64,
    seconds: i64,
    actor: Actor,
    request: RecordConsentRequest,
) -> RecordConsentRequest {
    let effective_at = Some(timestamp(now - 1_000 * seconds));
    // Not live: a live stop comes after everything that the person did before.
    RecordConsentRequest { effective_at, actor: actor.into(), reported_late: true, ..request }
}

/// A grant that ends some seconds ago, and is narrowed to some data categories.
fn narrow_grant(now: i64, ends_ago: Option<i64>, categories: &[&str]) -> proto::Change {
    proto::Change {
        expires_at: ends_ago.map(|seconds| timestamp(now - 1_000 * seconds)),
        data_categories: categories.iter().map(ToString::to_string).collect(),
        ..change(Grant, NEWS, "email")
    }
}

async fn check(clients: &mut Clients, person: &str, category: &str) -> proto::CheckResponse {
    let data_categories = vec![category.to_owned()];
    let request = check_request(person, NEWS, "email");
    clients.ask(proto::CheckRequest { data_categories, ..request }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_grant_never_decides_in_any_order_of_arrival() {
    let (_server, mut clients, _dir) = ledger().await;
    let now = support::now_ms();
    let blocked = [
        narrow_grant(now, Some(50), &[]),
        narrow_grant(now, None, &["user.contact"]),
        narrow_grant(now, None, &[]),
    ];
    for (number, blocked) in blocked.into_iter().enumerate() {
        for actor in [Actor::Import, Actor::Operator, Actor::System] {
            for order in by_permutation(3) {
                let person = format!("user:{number}-{}-{order:?}", actor.as_str_name());
                let acts = [
                    ago(now, 300, Actor::Subject, act(&person, vec![change(Withdraw, "*", "*")])),
                    ago(now, 100, actor, act(&person, vec![blocked.clone()])),
                    ago(now, 200, Actor::Subject, act(&person, vec![narrow_grant(now, None, &[])])),
                ];
                let mut indexes = [0; 3];
                for position in order {
                    indexes[position] = clients.record(acts[position].clone()).await.index;
                }
                let answer = check(&mut clients, &person, "user.name").await;
                assert_eq!(
                    (answer.effect(), answer.reason()),
                    (Effect::Allow, Reason::Granted),
                    "{person}"
                );
                assert_eq!(answer.decided_by_index, Some(indexes[2]), "{person}");
                assert_eq!(answer.valid_until, None, "{person}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_is_told_applied_decides() {
    let (_server, mut clients, _dir) = ledger().await;
    let now = support::now_ms();
    let person = "user:applied";
    let stop = ago(now, 300, Actor::Subject, act(person, vec![change(Withdraw, "*", "*")]));
    let stop = clients.record(stop).await;
    let import = act(person, vec![narrow_grant(now, Some(50), &[])]);
    let import = clients.record(ago(now, 100, Actor::Import, import)).await;
    assert_eq!(import.results[0].outcome(), Outcome::BlockedByStop);
    assert_eq!(import.results[0].cause_index, Some(stop.index));
    let own = act(person, vec![change(Grant, NEWS, "email")]);
    let own = clients.record(ago(now, 200, Actor::Subject, own)).await;
    assert_eq!(own.results[0].outcome(), Outcome::Applied);
    let answer = check(&mut clients, person, "user.name").await;
    assert_eq!((answer.effect(), answer.decided_by_index), (Effect::Allow, Some(own.index)));

    // Where a stop ever was, a later import changes nothing, and is told so.
    let import = act(person, vec![change(Grant, NEWS, "email")]);
    let import = clients.record(ago(now, 10, Actor::Import, import)).await;
    assert_eq!(import.results[0].outcome(), Outcome::NoEffect);
    assert_eq!(check(&mut clients, person, "user.name").await.decided_by_index, Some(own.index));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_arrives_late_never_opens_what_somebody_elses_grant_closed() {
    let (_server, mut clients, _dir) = ledger().await;
    let now = support::now_ms();
    let person = "user:late";
    let own = act(person, vec![change(Grant, NEWS, "email")]);
    clients.record(ago(now, 200, Actor::Subject, own)).await;
    let import = act(person, vec![narrow_grant(now, Some(50), &[])]);
    let import = clients.record(ago(now, 100, Actor::Import, import)).await;
    assert_eq!(import.results[0].outcome(), Outcome::NoEffect, "it does not end the person's own");
    let before = check(&mut clients, person, "user.name").await.effect();
    let stop = act(person, vec![change(Withdraw, "*", "*")]);
    clients.record(ago(now, 300, Actor::Subject, stop)).await;
    assert_eq!(check(&mut clients, person, "user.name").await.effect(), before);
    assert_eq!(before, Effect::Allow);
}

/// All histories of three acts, compared with the replay of the model.
#[tokio::test(flavor = "multi_thread")]
async fn all_short_histories_are_answered_as_by_a_replay() {
    let (_server, mut clients, _dir) = ledger().await;
    let now = support::now_ms();
    let catalog = model::Catalog {
        purposes: [(NEWS.to_owned(), model::Purpose::consent())].into(),
        channels: [("email".to_owned(), false)].into(),
    };
    let kinds = [
        (Actor::Subject, change(Withdraw, "*", "*")),
        (Actor::Subject, narrow_grant(now, None, &[])),
        (Actor::Agent, narrow_grant(now, Some(50), &[])),
        (Actor::Import, narrow_grant(now, None, &[])),
        (Actor::Operator, narrow_grant(now, Some(50), &[])),
    ];
    for (number, picks) in all_picks(kinds.len(), 3).into_iter().enumerate() {
        for order in by_permutation(3) {
            let person = format!("user:{number}-{order:?}");
            let mut acts = Vec::new();
            for position in order {
                let (actor, change) = kinds[picks[position]].clone();
                let seconds = 300 - 100 * i64::try_from(position).unwrap();
                let request = ago(now, seconds, actor, act(&person, vec![change]));
                let answer = clients.record(request.clone()).await;
                acts.push(model::Act::of_request(&request, &answer));
            }
            let want = model::decide(&catalog, &acts, NEWS, "email", support::now_ms());
            let answer = clients.ask(check_request(&person, NEWS, "email")).await;
            want.assert_matches(&answer, &format!("{person} {acts:?}"));
        }
    }
}

/// Every way to pick `count` of the first numbers.
fn all_picks(numbers: usize, count: u32) -> Vec<Vec<usize>> {
    let digits = |mut code: usize| {
        let mut digit = || {
            let digit = code % numbers;
            code /= numbers;
            digit
        };
        (0..count).map(|_| digit()).collect()
    };
    (0..numbers.pow(count)).map(digits).collect()
}
