//! [`CachedChecker`]: "may I?" answered in process, never stale beyond a stated bound.
//!
//! **The guarantee.** Once the server has acknowledged a withdrawal (or any other act that changes
//! a decision), no cached answer from before it is returned later than [`CacheOptions::bound`]
//! after the acknowledgement, whatever the state of server and network: alive, paused, unreachable,
//! dead. If the cache can not answer, the server is asked, under a deadline, or the answer is DENY
//! ([`OnStale`]). An error is DENY.
//!
//! **How it works.** A Watch stream of every kind of event removes the cached answers that an event
//! may change (`store`). The freshness of the cache can not be derived from when messages arrive,
//! because a paused server, a slow link or a full buffer can delay messages. Nor can it be derived
//! from the server's clock, which may be changed. It is derived from round trips, on this machine's
//! clock alone (`freshness`):
//!
//! 1. At the local moment `q` a check is sent to the server (on a cache miss, and as a probe every
//!    quarter of the bound). The response names the revision `R` that it was read at.
//! 2. Every act that was acknowledged before `q` is in that revision, because a check on the node
//!    sees all acknowledged acts: its index is below `R`.
//! 3. Once the stream has delivered every event below `R`, and the affected answers have been
//!    removed, the cache is as fresh as of `q`, the moment of sending, not of the response.
//!
//! A cached answer is returned only while the latest such `q` is at most `bound` ago. Suppose that
//! a withdrawal is acknowledged at `T`, and a cached answer from before it is returned at `t`. If
//! `q` were after `T`, then by 2 and 3 the answer would have been removed; so `q <= T`, and
//! `t <= q + bound <= T + bound`. An age is the longer of those by the monotonic clock and by the wall
//! clock, because the first stops while a machine sleeps.
//!
//! Probes and the stream share one connection, and so one node. (A proxy that spreads the calls of
//! one connection over several nodes takes this promise away.)
//!
//! A broken stream is never resumed. The next server may be another copy of the ledger, for example
//! a restored one, in which the same indexes are other entries. So when a stream breaks, the cache
//! is emptied, responses on their way are not cached, and the next stream begins at "now".
//!
//! **Not cached** are answers with obligations, ALLOW and NOT_NOW, which hold only at their moment,
//! and an answer read at a revision after which an event about its data subject was received or may
//! have been missed. An answer ends at its `valid_until` by the latest possible reading of the
//! server's clock: the first progress message of a connection was written after the stream was
//! requested.

mod freshness;
mod store;

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use freshness::{Asked, Freshness, Now};
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use store::{About, Store};
use thiserror::Error;
use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tonic::Status;

use super::{
    BackoffPolicy, Calls, Client,
    backoff::Backoff,
    fault,
    watch::{Heard, WatchOptions},
};
use crate::proto::{
    CatalogEvent, CheckRequest, CheckResponse, Effect, EventKind, WatchFilter,
    check_service_client::CheckServiceClient, watch_response::Message,
};

/// The shortest bound: a quarter of it is the protocol's shortest interval of progress messages.
pub const BOUND_MIN: Duration = Duration::from_millis(400);
/// The longest bound.
pub const BOUND_MAX: Duration = Duration::from_secs(3_600);
/// The longest that a question may wait for the server.
pub const DEADLINE_MAX: Duration = Duration::from_secs(3_600);
/// The most answers that a cache may hold.
pub const ANSWERS_MAX: usize = 100_000_000;

/// The data subject of a probe, which does not exist. Only the revision of the response counts.
const PROBE: &str = "probe:cached-checker";
const PROBE_KEY: &str = "probe";

/// What to do if the cache can not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnStale {
    /// Ask the server; no response within the deadline is DENY.
    #[default]
    AskServer,
    /// While the cache is fresh, ask the server; while it is not, DENY at once.
    Deny,
}

/// How to cache.
#[derive(Debug, Clone, PartialEq)]
pub struct CacheOptions {
    /// An outdated answer is returned at most this long after the act that changed it was
    /// acknowledged:
    /// [`BOUND_MIN`] to [`BOUND_MAX`].
    pub bound: Duration,
    /// What to do if the cache can not answer.
    pub on_stale: OnStale,
    /// How long the server may take to respond, with all attempts.
    pub deadline: Duration,
    /// How many answers are cached at most: 1 to [`ANSWERS_MAX`]. Those of the data subjects that
    /// are asked about least go first. With keys of usual length an answer takes about half a
    /// kilobyte, so 200,000 take about 100 MB.
    pub answers_max: usize,
    /// The waits before the stream tries again.
    pub backoff: BackoffPolicy,
}

impl Default for CacheOptions {
    /// Two seconds, then the server, for at most a second; 200,000 answers.
    fn default() -> Self {
        Self {
            bound: Duration::from_secs(2),
            on_stale: OnStale::AskServer,
            deadline: Duration::from_secs(1),
            answers_max: 200_000,
            backoff: BackoffPolicy { max: Duration::from_secs(1), ..BackoffPolicy::default() },
        }
    }
}

/// Why a cache can not be created.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CacheOptionsError {
    /// The bound is out of range.
    #[error("the bound must be from {BOUND_MIN:?} to {BOUND_MAX:?}, not {0:?}")]
    Bound(Duration),
    /// The number of answers is out of range.
    #[error("the number of answers must be from 1 to {ANSWERS_MAX}, not {0}")]
    Answers(usize),
    /// The deadline is out of range.
    #[error("the deadline must be more than zero and at most {DEADLINE_MAX:?}, not {0:?}")]
    Deadline(Duration),
}

/// A question to the checker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question<'a> {
    /// Data subject as `namespace:id`.
    pub subject: &'a str,
    /// Purpose key.
    pub purpose: &'a str,
    /// Channel key.
    pub channel: &'a str,
    /// Data categories that are to be used.
    pub data_categories: &'a [String],
    /// ISO 3166 region of the data subject; empty: not known.
    pub region: &'a str,
}

impl<'a> Question<'a> {
    /// Whether the data of a subject may be used for a purpose over a channel.
    #[must_use]
    pub fn new(subject: &'a str, purpose: &'a str, channel: &'a str) -> Self {
        Self { subject, purpose, channel, data_categories: &[], region: "" }
    }

    fn request(&self) -> CheckRequest {
        CheckRequest {
            subject: self.subject.to_owned(),
            purpose: self.purpose.to_owned(),
            channel: self.channel.to_owned(),
            data_categories: self.data_categories.to_vec(),
            region: self.region.to_owned(),
            ..CheckRequest::default()
        }
    }
}

/// An answer of the checker.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Answer {
    /// From the cache.
    Cached(Arc<CheckResponse>),
    /// From the server, just now.
    Server(Arc<CheckResponse>),
    /// No decision is known, which means DENY.
    Unanswered(Unanswered),
}

/// Why no decision is known.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum Unanswered {
    /// The cache is older than its bound, and is not to ask ([`OnStale::Deny`]).
    #[error("the cache is older than its bound")]
    Stale,
    /// The server did not answer.
    #[error("the server did not answer: {0}")]
    Server(Status),
}

impl Answer {
    /// Whether the data may be used, now: every obligation is met at the moment of the answer. That
    /// ends with the response's `valid_until` ([`Self::response`]), and with a use that uses a frequency
    /// limit up. NOT_NOW is no.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.response().is_some_and(|response| response.effect() == Effect::Allow)
    }

    /// The server's response, if there is one.
    #[must_use]
    pub fn response(&self) -> Option<&CheckResponse> {
        match self {
            Self::Cached(response) | Self::Server(response) => Some(response),
            Self::Unanswered(_) => None,
        }
    }
}

/// Answers "may I?" from a local cache. Cheap to clone; all clones share one cache and one stream,
/// which ends with the last of them.
#[derive(Debug, Clone)]
pub struct CachedChecker {
    shared: Arc<Shared>,
    _listener: Arc<Listener>,
}

#[derive(Debug)]
struct Shared {
    options: CacheOptions,
    checks: CheckServiceClient<Calls>,
    store: Store,
    freshness: Freshness,
    /// The stream is open.
    connected: Notify,
    /// How often the stream broke off, and why the last time.
    interruptions: AtomicU64,
    last_error: Mutex<Option<Status>>,
}

/// The task that listens; it goes with the last checker.
#[derive(Debug)]
struct Listener(JoinHandle<()>);

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl CachedChecker {
    pub(super) fn new(client: &Client, options: CacheOptions) -> Result<Self, CacheOptionsError> {
        if !(BOUND_MIN..=BOUND_MAX).contains(&options.bound) {
            return Err(CacheOptionsError::Bound(options.bound));
        }
        if !(1..=ANSWERS_MAX).contains(&options.answers_max) {
            return Err(CacheOptionsError::Answers(options.answers_max));
        }
        if options.deadline.is_zero() || options.deadline > DEADLINE_MAX {
            return Err(CacheOptionsError::Deadline(options.deadline));
        }
        let shared = Arc::new(Shared {
            store: Store::new(options.answers_max),
            freshness: Freshness::new(Now::read()),
            checks: client.checks(),
            connected: Notify::new(),
            interruptions: AtomicU64::new(0),
            last_error: Mutex::new(None),
            options,
        });
        let listener = tokio::spawn(listen(Arc::clone(&shared), client.clone()));
        Ok(Self { shared, _listener: Arc::new(Listener(listener)) })
    }

    /// Answers from the cache if it is fresh enough, otherwise by [`CacheOptions::on_stale`].
    pub async fn check(&self, question: &Question<'_>) -> Answer {
        match self.cached(question) {
            Some(response) => Answer::Cached(response),
            None => self.ask(question).await,
        }
    }

    /// The answer of the cache alone; none if it has none that is fresh enough.
    #[must_use]
    pub fn cached(&self, question: &Question<'_>) -> Option<Arc<CheckResponse>> {
        let shared = &*self.shared;
        // The order matters: the entry is at least as fresh as the mark that was read before it,
        // and its age is compared with the bound after both.
        let mark = shared.freshness.mark()?;
        let entry = shared.store.find(question)?;
        if let Some(valid_until_ms) = entry.valid_until_ms
            && shared.freshness.server_ms_max(Now::read()).is_none_or(|now| now >= valid_until_ms)
        {
            return None;
        }
        (shared.freshness.age_of(mark, Now::read()) <= shared.options.bound)
            .then_some(entry.response)
    }

    /// How old the cache's knowledge is at most; none before it has any.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        let freshness = &self.shared.freshness;
        freshness.mark().map(|mark| freshness.age_of(mark, Now::read()))
    }

    /// Whether cached answers are given now.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.age().is_some_and(|age| age <= self.shared.options.bound)
    }

    /// How often the stream was interrupted or could not be opened. While this grows and the cache is not
    /// fresh, [`Self::last_error`] has the cause.
    #[must_use]
    pub fn interruptions(&self) -> u64 {
        self.shared.interruptions.load(Ordering::Relaxed)
    }

    /// Why the stream was interrupted the last time, if it ever was. It is kept when the stream
    /// reconnects.
    #[must_use]
    pub fn last_error(&self) -> Option<Status> {
        self.shared.last_error.lock().clone()
    }

    async fn ask(&self, question: &Question<'_>) -> Answer {
        let shared = &*self.shared;
        if shared.options.on_stale == OnStale::Deny && !self.is_fresh() {
            return Answer::Unanswered(Unanswered::Stale);
        }
        let asked = shared.freshness.ask(Now::read());
        let mut checks = shared.checks.clone();
        let mut request = tonic::Request::new(question.request());
        request.set_timeout(shared.options.deadline);
        // The deadline is kept here, too: a connection that hangs does not know of it.
        let response = match timeout(shared.options.deadline, checks.check(request)).await {
            Ok(Ok(response)) => Arc::new(response.into_inner()),
            Ok(Err(status)) => return Answer::Unanswered(Unanswered::Server(status)),
            Err(_) => {
                let status = Status::deadline_exceeded("the server did not answer in time");
                return Answer::Unanswered(Unanswered::Server(status));
            }
        };
        shared.answered(asked, response.revision);
        shared.store.insert(question, &response, asked.epoch);
        Answer::Server(response)
    }
}

impl Shared {
    /// A question was answered at a revision.
    fn answered(&self, asked: Asked, revision: u64) {
        if self.freshness.answered(asked, revision).is_err() {
            // The ledger has fewer entries than it had: it is another one, or an older copy.
            // The listener begins anew with its next message; until then nothing is fresh.
            self.store.forget(asked.epoch);
        }
    }

    /// Empties the cache, and rejects responses that are still on their way.
    fn forget(&self) {
        let epoch = self.freshness.forget();
        self.store.forget(epoch);
    }

    /// The stream was interrupted.
    fn interrupted(&self, status: Status) {
        self.interruptions.fetch_add(1, Ordering::Relaxed);
        *self.last_error.lock() = Some(status);
    }
}

/// Follows one stream after the other, for ever, and probes at the same time.
async fn listen(shared: Arc<Shared>, client: Client) {
    let mut backoff = Backoff::new(shared.options.backoff);
    loop {
        let broken = tokio::select! {
            broken = follow(&shared, &client, &mut backoff) => broken,
            never = probe(&shared) => match never {},
        };
        // The next server may be another copy of the ledger, in which the same indexes are other
        // entries, and the protocol can not tell the two apart. So a stream is never resumed, and
        // the cache is emptied.
        shared.forget();
        let wait = backoff.next(fault::stay_away(&broken));
        shared.interrupted(broken);
        sleep(wait).await;
    }
}

/// Follows one stream from now on, until it breaks or the ledger is another; answers why.
async fn follow(shared: &Shared, client: &Client, backoff: &mut Backoff) -> Status {
    let mut watch = client.watch(WatchOptions {
        filter: WatchFilter { kinds: every_kind(), ..WatchFilter::default() },
        progress_interval: Some(shared.options.bound / 4),
        ..WatchOptions::default()
    });
    loop {
        match watch.next().await {
            Some(Ok(Heard::Message(message))) => {
                backoff.reset();
                hear(shared, &message);
            }
            Some(Ok(Heard::Connected { asked_at })) => {
                // Earlier requests may have gone to another server.
                shared.forget();
                shared.freshness.connected(asked_at);
                shared.connected.notify_one();
            }
            Some(Ok(Heard::Interrupted { status, .. }) | Err(status)) => return status,
            None => return Status::unavailable("the stream ended"),
        }
        if shared.freshness.is_contradicted() {
            return Status::data_loss("the ledger has fewer entries than it had");
        }
    }
}

fn hear(shared: &Shared, message: &Message) {
    let mut reached = 1;
    let (index, about) = match message {
        Message::Consent(event) => {
            reached = u64::from(!event.more_in_entry);
            (event.index, About::of([&event.subject], &event.linked_subjects))
        }
        Message::Link(event) => {
            let both = [&event.subject, &event.other_subject];
            (event.index, About::of(both, &event.linked_subjects))
        }
        // One event can change the decisions of every data subject, but only those of its purpose
        // or channel.
        Message::Catalog(event) => (event.index, about_catalog(event)),
        Message::Progress(progress) => {
            shared.store.reached(progress.next_index);
            shared.freshness.progress(progress.next_index, progress.as_of.as_ref(), Now::read());
            return;
        }
        // Neither was asked for.
        Message::Overdue(_) | Message::Snapshot(_) | Message::SnapshotEnd(_) => return,
    };
    // First remove the answers, then advance the freshness.
    shared.store.invalidate(index, about);
    shared.freshness.reached(index.saturating_add(reached));
}

fn about_catalog(event: &CatalogEvent) -> About<'_> {
    match (&*event.purpose, &*event.channel) {
        ("", "") => About::Everything,
        ("", channel) => About::Channel(channel),
        (purpose, "") => About::Purpose(purpose),
        _ => About::Everything,
    }
}

/// Every kind of event that can change a decision.
fn every_kind() -> Vec<i32> {
    let kinds = [
        EventKind::Grant,
        EventKind::Refuse,
        EventKind::Withdraw,
        EventKind::Object,
        EventKind::Expire,
        EventKind::Link,
        EventKind::Catalog,
        EventKind::Preferences,
    ];
    kinds.into_iter().map(Into::into).collect()
}

/// Asks the server for its revision, again and again, once the stream is open.
async fn probe(shared: &Shared) -> Infallible {
    // Responses to earlier requests do not count.
    shared.connected.notified().await;
    let every = shared.options.bound / 4;
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let asked = shared.freshness.ask(Now::read());
        let mut checks = shared.checks.clone();
        let question = Question::new(PROBE, PROBE_KEY, PROBE_KEY);
        // A response that takes longer than the bound is of no use.
        let answer = timeout(shared.options.bound, checks.check(question.request())).await;
        if let Ok(Ok(answer)) = answer {
            shared.answered(asked, answer.into_inner().revision);
        }
    }
}
