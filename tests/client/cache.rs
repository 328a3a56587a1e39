//! The cache of answers against real servers: alive, held back, paused and dead.

use std::time::{Duration, Instant};

use consent_ledger::{
    client::{
        CachedChecker,
        cache::{Answer, CacheOptions, CacheOptionsError, OnStale, Question, Unanswered},
    },
    proto::{self, Action, LinkConfidence},
};
use rustix::process::Signal;

use super::{client, proxy::Proxy, quick};
use crate::support::{self, Clients, PATIENCE, Server};

const BOUND: Duration = Duration::from_millis(1_200);

fn options() -> CacheOptions {
    CacheOptions {
        bound: BOUND,
        deadline: Duration::from_millis(300),
        backoff: quick(),
        ..CacheOptions::default()
    }
}

fn may_i(subject: &str) -> Question<'_> {
    Question::new(subject, "ads", "email")
}

async fn grant(clients: &mut Clients, subject: &str) {
    clients.record_change(subject, Action::Grant, "ads", "email").await;
}

/// Withdraws; returns the time of the acknowledgement.
async fn withdraw(clients: &mut Clients, subject: &str) -> Instant {
    clients.record_change(subject, Action::Withdraw, "ads", "email").await;
    Instant::now()
}

/// Checks until the cache itself answers ALLOW.
async fn until_cached(checker: &CachedChecker, subject: &str) {
    support::eventually(&format!("{subject} is cached"), async || {
        match checker.check(&may_i(subject)).await {
            Answer::Cached(response) if response.effect() == proto::Effect::Allow => Some(()),
            _ => None,
        }
    })
    .await;
}

/// The time after a moment for which the cache still answers ALLOW; the bound limits it.
async fn allows_for(checker: &CachedChecker, subject: &str, since: Instant) -> Duration {
    let mut longest = Duration::ZERO;
    loop {
        // The time before the call, so that it is not later than the answer.
        let asked_at = since.elapsed();
        match checker.cached(&may_i(subject)) {
            Some(answer) if answer.effect() == proto::Effect::Allow => longest = asked_at,
            _ => return longest,
        }
        assert!(longest <= BOUND, "still allowed {longest:?} after the withdrawal");
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
}

async fn serve(dir: &std::path::Path) -> (Server, Clients) {
    let server = Server::start(dir);
    let clients = server.clients_with_catalog(&["ads"], &["email"]).await;
    (server, clients)
}

fn has_no_answer(answer: &Answer) -> bool {
    matches!(answer, Answer::Unanswered(Unanswered::Server(_))) && !answer.is_allowed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawal_ends_cached_answers_within_the_bound() {
    const ROUNDS: u32 = 4;
    let dir = tempfile::tempdir().unwrap();
    let (mut server, mut clients) = serve(dir.path()).await;
    let checker = client(&server.address).cached_checker(options()).unwrap();

    let mut alive = Duration::ZERO;
    for number in 0..50 {
        let subject = format!("user:alive-{number}");
        grant(&mut clients, &subject).await;
        until_cached(&checker, &subject).await;
        let since = withdraw(&mut clients, &subject).await;
        alive = alive.max(allows_for(&checker, &subject, since).await);
        assert!(!checker.check(&may_i(&subject)).await.is_allowed());
    }

    // Paused just after the acknowledgement; the event may or may not have been sent.
    let mut paused = Duration::ZERO;
    for number in 0..ROUNDS {
        let (subject, other) = (format!("user:paused-{number}"), format!("user:other-{number}"));
        grant(&mut clients, &subject).await;
        grant(&mut clients, &other).await;
        until_cached(&checker, &other).await;
        until_cached(&checker, &subject).await;
        let since = withdraw(&mut clients, &subject).await;
        server.process().signal(Signal::STOP);
        paused = paused.max(allows_for(&checker, &subject, since).await);
        // No cached answer outlives the bound, whatever the stream delivered.
        paused = paused.max(allows_for(&checker, &other, since).await);
        assert!(has_no_answer(&checker.check(&may_i(&subject)).await));
        server.process().signal(Signal::CONT);
        until_cached(&checker, &other).await;
        let answer = checker.check(&may_i(&subject)).await;
        assert!(answer.response().is_some() && !answer.is_allowed(), "{answer:?}");
    }

    let mut dead = Duration::ZERO;
    for number in 0..ROUNDS {
        let (subject, other) = (format!("user:dead-{number}"), format!("user:rest-{number}"));
        grant(&mut clients, &subject).await;
        grant(&mut clients, &other).await;
        until_cached(&checker, &other).await;
        until_cached(&checker, &subject).await;
        let address = server.address.clone();
        let since = withdraw(&mut clients, &subject).await;
        server.kill();
        dead = dead.max(allows_for(&checker, &subject, since).await);
        dead = dead.max(allows_for(&checker, &other, since).await);
        assert!(has_no_answer(&checker.check(&may_i(&other)).await));
        server = Server::start_at(dir.path(), &address);
        clients = server.clients().await;
        until_cached(&checker, &other).await;
        assert!(!checker.check(&may_i(&subject)).await.is_allowed());
    }
    // With a live server, the event ends the answer well before the bound does.
    assert!(alive < BOUND / 2, "{alive:?}");
    println!(
        "longest from an acknowledged withdrawal to the cache's last ALLOW, bound {BOUND:?}: \
         alive {alive:?}, paused {paused:?}, dead {dead:?}"
    );
    assert!(checker.interruptions() >= u64::from(ROUNDS));
}

/// A diverged copy of the ledger: the same address and at least as many entries, but no entry that
/// changes the cached answers.
#[tokio::test(flavor = "multi_thread")]
async fn another_copy_of_the_ledger_ends_all_cached_answers() {
    let (dir, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (server, _) = serve(dir.path()).await;
    let address = server.address.clone();
    server.kill();
    support::copy_tree(dir.path(), copy.path());
    // The copy has more entries than the original will ever have.
    let other = Server::start(copy.path());
    let mut clients = other.clients().await;
    for number in 0..10 {
        grant(&mut clients, &format!("user:copy-{number}")).await;
    }
    other.kill();

    let server = Server::start_at(dir.path(), &address);
    let mut clients = server.clients().await;
    let checker = client(&address).cached_checker(options()).unwrap();
    grant(&mut clients, "user:1").await;
    until_cached(&checker, "user:1").await;
    server.kill();
    let _other = Server::start_at(copy.path(), &address);
    until_cached(&checker, "user:copy-0").await;
    let answer = checker.check(&may_i("user:1")).await;
    assert!(!answer.is_allowed(), "the copy knows of no grant: {answer:?}");
    assert!(checker.interruptions() > 0 && checker.last_error().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn delayed_messages_do_not_make_the_cache_fresh() {
    let dir = tempfile::tempdir().unwrap();
    let (server, mut clients) = serve(dir.path()).await;
    let proxy = Proxy::start(server.address.clone()).await;
    let checker = client(&proxy.address).cached_checker(options()).unwrap();
    let mut longest = Duration::ZERO;
    for number in 0..3 {
        let subject = format!("user:{number}");
        grant(&mut clients, &subject).await;
        until_cached(&checker, &subject).await;
        // The server reports progress without events; then an event follows, and only the first
        // half of its bytes gets through.
        proxy.hold(true);
        tokio::time::sleep(BOUND / 2).await;
        let since = withdraw(&mut clients, &subject).await;
        longest = longest.max(allows_for(&checker, &subject, since).await);
        assert!(!checker.is_fresh());
        proxy.hold(false);
        until_denied(&checker, &subject).await;
    }
    println!("held back: {longest:?}, bound {BOUND:?}");
}

/// Waits until the cache answers again, and answers DENY.
async fn until_denied(checker: &CachedChecker, subject: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = checker.check(&may_i(subject)).await;
        assert!(!answer.is_allowed(), "{answer:?}");
        if matches!(answer, Answer::Cached(_)) {
            return;
        }
        assert!(Instant::now() < deadline, "{answer:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn links_and_expiries_change_cached_answers() {
    let dir = tempfile::tempdir().unwrap();
    let (server, mut clients) = serve(dir.path()).await;
    let checker = client(&server.address).cached_checker(options()).unwrap();

    // A stop reaches the linked subjects, when the link is made and while it lasts.
    grant(&mut clients, "user:1").await;
    until_cached(&checker, "user:1").await;
    withdraw(&mut clients, "email:jo@x.example").await;
    until_cached(&checker, "user:1").await;
    clients.link("user:1", "email:jo@x.example", LinkConfidence::Verified).await;
    allows_for(&checker, "user:1", Instant::now()).await;
    until_denied(&checker, "user:1").await;
    clients.unlink("user:1", "email:jo@x.example").await;
    until_cached(&checker, "user:1").await;

    // A grant expires by the server's clock, without an event.
    let ends_at = support::now_ms() + 1_500;
    let mut change = support::change(Action::Grant, "ads", "email");
    change.expires_at = Some(support::timestamp(ends_at));
    clients.record(support::act("user:2", vec![change])).await;
    until_cached(&checker, "user:2").await;
    loop {
        let cached = checker.cached(&may_i("user:2"));
        let now = support::now_ms();
        match cached {
            Some(answer) if answer.effect() == proto::Effect::Allow => {
                // One millisecond of tolerance for the two readings of the clock.
                assert!(now <= ends_at + 1, "allowed {} ms after the end", now - ends_at);
            }
            _ if now > ends_at => break,
            _ => {}
        }
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
    assert!(!checker.check(&may_i("user:2")).await.is_allowed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retired_purpose_ends_its_cached_answers() {
    let dir = tempfile::tempdir().unwrap();
    let (server, mut clients) = serve(dir.path()).await;
    let checker = client(&server.address).cached_checker(options()).unwrap();
    for subject in ["user:1", "user:2"] {
        grant(&mut clients, subject).await;
        until_cached(&checker, subject).await;
    }
    let purpose = proto::Purpose { retired: true, ..support::consent_purpose("ads") };
    clients.put_purpose(purpose).await;
    let since = Instant::now();
    for subject in ["user:1", "user:2"] {
        allows_for(&checker, subject, since).await;
        until_denied(&checker, subject).await;
    }
    assert!(checker.is_fresh() && checker.interruptions() == 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reconsent_version_ends_cached_answers_of_its_purpose_only() {
    let dir = tempfile::tempdir().unwrap();
    let (server, mut clients) = serve(dir.path()).await;
    clients.put_catalog(&["news"], &[]).await;
    let checker = client(&server.address).cached_checker(options()).unwrap();
    let changes = ["ads", "news"].map(|purpose| support::change(Action::Grant, purpose, "email"));
    clients.record(support::act("user:1", changes.into())).await;
    let news = Question::new("user:1", "news", "email");
    until_cached(&checker, "user:1").await;
    while checker.cached(&news).is_none() {
        checker.check(&news).await;
    }
    let ads = support::consent_purpose("ads");
    let purpose = Some(proto::Purpose { title: "ads, and more".into(), ..ads });
    let request =
        proto::PutPurposeRequest { purpose, requires_reconsent: true, ..Default::default() };
    clients.catalog.put_purpose(request).await.unwrap();
    // Whether the other purpose's answer stays cached depends on the machine too: it is not given
    // while the cache is older than its bound.
    allows_for(&checker, "user:1", Instant::now()).await;
    until_denied(&checker, "user:1").await;
    assert!(checker.check(&news).await.is_allowed());
    assert_eq!(checker.interruptions(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_cache_denies_if_configured() {
    let dir = tempfile::tempdir().unwrap();
    let (server, mut clients) = serve(dir.path()).await;
    let on_stale = CacheOptions { on_stale: OnStale::Deny, ..options() };
    let checker = client(&server.address).cached_checker(on_stale).unwrap();
    grant(&mut clients, "user:1").await;
    until_cached(&checker, "user:1").await;
    server.kill();
    allows_for(&checker, "user:1", Instant::now()).await;
    let start = Instant::now();
    let answer = checker.check(&may_i("user:1")).await;
    assert!(matches!(answer, Answer::Unanswered(Unanswered::Stale)), "{answer:?}");
    assert!(start.elapsed() < options().deadline, "no request was sent");

    let client = client("127.0.0.1:1");
    let with = |options| client.cached_checker(options).unwrap_err();
    let short = Duration::from_millis(399);
    let refused = with(CacheOptions { bound: short, ..options() });
    assert_eq!(refused, CacheOptionsError::Bound(short));
    let refused = with(CacheOptions { answers_max: 0, ..options() });
    assert_eq!(refused, CacheOptionsError::Answers(0));
    for deadline in [Duration::ZERO, Duration::MAX] {
        let refused = with(CacheOptions { deadline, ..options() });
        assert_eq!(refused, CacheOptionsError::Deadline(deadline));
    }
}
