//! The metrics of the service, for Prometheus.
//!
//! Every metric of a request is created before the first request, so counting is an atomic addition
//! without lock or look-up. Labels come from fixed lists and the configuration, never from a caller, so
//! the number of series is bounded and no label holds personal data.

use std::{
    array, fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, text},
    metrics::{MetricType, TypedMetric, counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use crate::{domain::Reason, proto::CODE_NAMES};

/// A gauge.
pub type Level = Gauge<u64, AtomicU64>;

/// Nanoseconds: 50 µs to 10 s.
const LATENCY_BOUNDS: &[u64] = &[
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];
const BATCH_BOUNDS: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 2_048, 4_096];
const NANOS_PER_SECOND: f64 = 1e9;

type Labels<const N: usize> = [(&'static str, &'static str); N];
/// Labels whose values come from the configuration.
type NamedLabels<const N: usize> = [(&'static str, String); N];

/// All metrics. Shared as one `Arc`.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<Labels<2>, Counter>,
    request_seconds: Family<Labels<1>, Histogram, fn() -> Histogram>,
    /// Unary requests in flight. The request layer counts and limits them.
    pub requests_in_flight: Level,
    /// Open streams. The request layer counts and limits them.
    pub streams_open: Level,
    decisions: [Counter; Reason::ALL.len()],
    append_batch_entries: Histogram,
    fsync_seconds: Histogram,
    append_seconds: Histogram,
    /// Number of entries in the ledger.
    pub ledger_entries: Level,
    /// Size of all segment files.
    pub ledger_bytes: Level,
    /// Rows of the view that are readable but not yet on disk.
    pub view_lag_rows: Level,
    /// Entries that the current or last rebuild of the view has applied.
    pub rebuild_entries: Level,
    /// Entries that the current or last rebuild of the view applies in total.
    pub rebuild_target_entries: Level,
    /// Every entry before this index was verified again since the start.
    pub scrub_verified_index: Level,
    /// Torn tails that were set aside at a start.
    pub torn_tails: Counter,
    /// Uses that no decision allowed.
    pub deviations: Counter,
    /// 1 if the ledger takes no more writes until restart.
    pub writes_stopped: Level,
    /// 1 while the clock is not trusted.
    pub clock_in_doubt: Level,
    /// Entries in the tree.
    pub tree_entries: Level,
    /// Entries under the latest checkpoint that was signed.
    pub checkpoint_signed_entries: Level,
    /// Entries under the latest checkpoint that was released.
    pub checkpoint_released_entries: Level,
    /// Checkpoints that were signed.
    pub checkpoints: Counter,
    /// Checkpoints that were released although too few witnesses had seen them.
    pub checkpoints_unwitnessed: Counter,
    /// 1 if no more checkpoints are signed.
    pub signing_stopped: Level,
    /// Watchers that are connected.
    pub watchers: Level,
    /// Events that were sent to watchers.
    pub watch_events: Counter,
    /// Consumers of durable subscriptions that are connected.
    pub consumers: Level,
    /// Events that were delivered to consumers for the first time.
    pub deliveries: Counter,
    /// Events that were delivered again, because they were not acknowledged in time.
    pub redeliveries: Counter,
    /// Events that consumers acknowledged.
    pub acknowledged_events: Counter,
    /// Durable subscriptions.
    pub subscriptions: Level,
    /// Durable subscriptions whose deadline has passed with an event unacknowledged.
    pub subscriptions_overdue: Level,
    /// Age of the oldest event that a durable subscription has not acknowledged, in seconds.
    pub delivery_pending_seconds: Level,
    /// Entries with acknowledgements of subscribers.
    pub delivery_receipts: Counter,
    /// Deliveries that were given up.
    pub deliveries_failed: Counter,
    /// Times that a subscription became overdue.
    pub deliveries_overdue: Counter,
    webhook_tries: [Counter; WEBHOOK_OUTCOMES.len()],
    /// Webhook requests in flight.
    pub webhook_in_flight: Level,
    /// Undelivered webhook messages, waiting or in flight.
    pub webhook_waiting: Level,
    /// Events that became dead letters since the start.
    pub webhook_given_up: Counter,
    /// Memory that hot state holds.
    pub hot_bytes: Level,
    /// Data subjects in hot state.
    pub hot_entries: Level,
    /// Look-ups that went on to the files of the view.
    pub hot_misses: Counter,
    /// Data subjects that the vault knows.
    pub vault_subjects: Level,
    witness_requests: Family<NamedLabels<2>, Counter>,
    witness_entries: Family<NamedLabels<1>, Level>,
    /// Responses of witnesses that report a rollback or a fork of this ledger.
    pub witness_conflicts: Counter,
    /// Entries under the latest checkpoint with enough cosignatures since the start.
    pub checkpoint_witnessed_entries: Level,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All metrics at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut registrar = Registrar(Registry::with_prefix("consent_ledger"));
        let decisions = Family::<Labels<2>, Counter>::default();
        let webhook_tries = Family::<Labels<1>, Counter>::default();
        let metrics = Self {
            requests: registrar.metric("requests", "Requests that were answered, by status code"),
            request_seconds: registrar.register(
                "request_duration",
                "Time from a request's headers to the end of its answer",
                Some(Unit::Seconds),
                Family::new_with_constructor(Histogram::of_seconds),
            ),
            requests_in_flight: registrar.metric("requests_in_flight", "Unary requests in flight"),
            streams_open: registrar.metric("streams_open", "Open streams"),
            decisions: array::from_fn(|position| {
                let reason = Reason::ALL[position];
                let labels = [("effect", reason.effect().name()), ("reason", reason.name())];
                decisions.get_or_create_owned(&labels)
            }),
            append_batch_entries: registrar.register(
                "append_batch_entries",
                "Entries in a group commit",
                None,
                Histogram::new(BATCH_BOUNDS, 1.0),
            ),
            fsync_seconds: registrar.register(
                "fsync_duration",
                "Time of a group commit's fdatasync",
                Some(Unit::Seconds),
                Histogram::of_seconds(),
            ),
            append_seconds: registrar.register(
                "append_duration",
                "Duration of a group commit, from its start to its answers",
                Some(Unit::Seconds),
                Histogram::of_seconds(),
            ),
            ledger_entries: registrar.metric("ledger_entries", "Entries in the ledger"),
            ledger_bytes: registrar.level("ledger_size", "Size of all segment files", Unit::Bytes),
            view_lag_rows: registrar
                .metric("view_lag_rows", "Rows of the view that are not yet on disk"),
            rebuild_entries: registrar
                .metric("view_rebuild_entries", "Entries applied by a rebuild"),
            rebuild_target_entries: registrar
                .metric("view_rebuild_target_entries", "Entries that a rebuild applies in total"),
            scrub_verified_index: registrar.metric(
                "scrub_verified_index",
                "Every entry before this index was verified again since the start",
            ),
            tree_entries: registrar.metric("tree_entries", "Entries in the tree"),
            checkpoint_signed_entries: registrar.metric(
                "checkpoint_signed_entries",
                "Entries under the latest checkpoint that was signed",
            ),
            checkpoint_released_entries: registrar.metric(
                "checkpoint_released_entries",
                "Entries under the latest checkpoint that was released",
            ),
            checkpoints: registrar.metric("checkpoints", "Checkpoints that were signed"),
            checkpoints_unwitnessed: registrar.metric(
                "checkpoints_unwitnessed",
                "Checkpoints that were released although too few witnesses had seen them",
            ),
            signing_stopped: registrar
                .metric("signing_stopped", "1 if no more checkpoints are signed"),
            torn_tails: registrar.metric("torn_tails", "Torn tails that were set aside at a start"),
            deviations: registrar.metric("deviations", "Uses that no decision allowed"),
            writes_stopped: registrar
                .metric("writes_stopped", "1 if the ledger takes no more writes until restart"),
            clock_in_doubt: registrar.metric(
                "clock_in_doubt",
                "1 while the clock is not trusted, and no grants are taken",
            ),
            watchers: registrar.metric("watchers", "Watchers that are connected"),
            watch_events: registrar
                .metric("watch_events_sent", "Events that were sent to watchers"),
            consumers: registrar
                .metric("consumers", "Consumers of durable subscriptions that are connected"),
            deliveries: registrar
                .metric("deliveries", "Events that were delivered to consumers, first deliveries"),
            redeliveries: registrar
                .metric("redeliveries", "Events that were delivered again after a timeout"),
            acknowledged_events: registrar
                .metric("acknowledged_events", "Events that consumers acknowledged"),
            subscriptions: registrar.metric("subscriptions", "Durable subscriptions"),
            subscriptions_overdue: registrar.metric(
                "subscriptions_overdue",
                "Durable subscriptions whose deadline has passed with an event unacknowledged",
            ),
            delivery_pending_seconds: registrar.level(
                "delivery_pending",
                "Age of the oldest event that a durable subscription has not acknowledged",
                Unit::Seconds,
            ),
            delivery_receipts: registrar
                .metric("delivery_receipts", "Entries with acknowledgements of subscribers"),
            deliveries_failed: registrar
                .metric("deliveries_failed", "Deliveries that were given up"),
            deliveries_overdue: registrar
                .metric("deliveries_overdue", "Times that a subscription became overdue"),
            webhook_tries: array::from_fn(|position| {
                webhook_tries.get_or_create_owned(&[("outcome", WEBHOOK_OUTCOMES[position])])
            }),
            webhook_in_flight: registrar.metric("webhook_in_flight", "Webhook requests in flight"),
            webhook_waiting: registrar
                .metric("webhook_waiting", "Undelivered webhook messages, waiting or in flight"),
            webhook_given_up: registrar
                .metric("webhook_given_up", "Events of webhooks that became dead letters"),
            hot_bytes: registrar.level(
                "hot_state_size",
                "Memory that hot state holds",
                Unit::Bytes,
            ),
            hot_entries: registrar.metric("hot_state_entries", "Data subjects in hot state"),
            hot_misses: registrar.metric(
                "hot_state_misses",
                "Look-ups of a state that went on to the files of the view",
            ),
            vault_subjects: registrar
                .metric("vault_subjects", "Data subjects that the vault knows"),
            witness_requests: registrar
                .metric("witness_requests", "Checkpoints submitted to witnesses, by outcome"),
            witness_entries: registrar.metric(
                "witness_entries",
                "Entries under the latest checkpoint that a witness has cosigned since the start",
            ),
            witness_conflicts: registrar.metric(
                "witness_conflicts",
                "Responses of witnesses that report a rollback or fork of this ledger",
            ),
            checkpoint_witnessed_entries: registrar.metric(
                "checkpoint_witnessed_entries",
                "Entries under the latest checkpoint with enough cosignatures since the start",
            ),
            registry: Registry::default(),
        };
        registrar.register("decisions", "Decisions, by effect and reason", None, decisions);
        registrar.register(
            "webhook_tries",
            "Attempts of webhooks, by outcome",
            None,
            webhook_tries,
        );
        Self { registry: registrar.0, ..metrics }
    }

    /// Counts a decision.
    pub fn decision(&self, reason: Reason) {
        self.decisions[reason as usize].inc();
    }

    /// Counts a group commit.
    pub fn append_batch(&self, entries: usize, fsync: Duration) {
        self.append_batch_entries.observe(u64::try_from(entries).unwrap_or(u64::MAX));
        self.fsync_seconds.observe_duration(fsync);
    }

    /// Counts the duration of a successful group commit.
    pub fn append(&self, took: Duration) {
        self.append_seconds.observe_duration(took);
    }

    /// The counters of one gRPC method.
    #[must_use]
    pub fn method(&self, method: &'static str) -> MethodMetrics {
        MethodMetrics {
            method,
            requests: self.requests.clone(),
            codes: array::from_fn(|_| OnceLock::new()),
            seconds: self.request_seconds.get_or_create_owned(&[("method", method)]),
        }
    }

    /// The counters of one witness. `name` comes from the configuration.
    #[must_use]
    pub fn witness(&self, name: &str) -> WitnessMetrics {
        let labels =
            |outcome: &str| [("witness", name.to_owned()), ("outcome", outcome.to_owned())];
        WitnessMetrics {
            requests: WITNESS_OUTCOMES
                .map(|outcome| self.witness_requests.get_or_create_owned(&labels(outcome))),
            entries: self.witness_entries.get_or_create_owned(&[("witness", name.to_owned())]),
        }
    }

    /// Counts an attempt of a webhook.
    pub fn webhook_try(&self, outcome: WebhookOutcome) {
        self.webhook_tries[outcome as usize].inc();
    }

    /// All metrics in the OpenMetrics text format.
    ///
    /// # Errors
    /// None in practice: writing to a `String` does not fail.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut out = String::new();
        text::encode(&mut out, &self.registry)?;
        Ok(out)
    }
}

/// The counters of one gRPC method.
#[derive(Debug)]
pub struct MethodMetrics {
    method: &'static str,
    requests: Family<Labels<2>, Counter>,
    // Created on first use, so that unused series are not exported.
    codes: [OnceLock<Counter>; CODE_NAMES.len()],
    seconds: Histogram,
}

impl MethodMetrics {
    /// Counts a request that ended with this status code.
    pub fn ended(&self, code: usize, took: Duration) {
        let code = if code < CODE_NAMES.len() { code } else { 2 };
        let labels = || [("method", self.method), ("code", CODE_NAMES[code])];
        self.codes[code].get_or_init(|| self.requests.get_or_create_owned(&labels())).inc();
        self.seconds.observe_duration(took);
    }
}

/// Label values of [`WitnessOutcome`], in its order.
const WITNESS_OUTCOMES: [&str; 7] =
    ["cosigned", "outdated", "rolled_back", "inconsistent", "refused", "bad_answer", "unreachable"];

/// Label values of [`WebhookOutcome`], in its order.
const WEBHOOK_OUTCOMES: [&str; 5] = ["delivered", "refused", "timed_out", "unreachable", "blocked"];

/// The outcome of an attempt of a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WebhookOutcome {
    /// Status 2xx.
    Delivered,
    /// Any other status.
    Refused,
    /// No response in time.
    TimedOut,
    /// The connection failed.
    Unreachable,
    /// The address is not allowed.
    Blocked,
}

/// The outcome of submitting a checkpoint to a witness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WitnessOutcome {
    /// The witness cosigned it.
    Cosigned,
    /// The witness has seen another size than expected; the checkpoint is submitted again.
    Outdated,
    /// The witness has seen more entries than the ledger has.
    RolledBack,
    /// The checkpoint is not consistent with the one that the witness has seen.
    Inconsistent,
    /// The witness refused the checkpoint with another status.
    Refused,
    /// The response was malformed.
    BadAnswer,
    /// No response.
    Unreachable,
}

/// The counters of one witness.
#[derive(Debug)]
pub struct WitnessMetrics {
    requests: [Counter; WITNESS_OUTCOMES.len()],
    /// Entries under the latest checkpoint that it has cosigned since the start.
    pub entries: Level,
}

impl WitnessMetrics {
    /// Counts a request.
    pub fn ended(&self, outcome: WitnessOutcome) {
        self.requests[outcome as usize].inc();
    }
}

struct Registrar(Registry);

impl Registrar {
    fn register<M>(&mut self, name: &str, help: &str, unit: Option<Unit>, metric: M) -> M
    where
        M: prometheus_client::registry::Metric + Clone,
    {
        match unit {
            Some(unit) => self.0.register_with_unit(name, help, unit, metric.clone()),
            None => self.0.register(name, help, metric.clone()),
        }
        metric
    }

    fn metric<M>(&mut self, name: &str, help: &str) -> M
    where
        M: prometheus_client::registry::Metric + Clone + Default,
    {
        self.register(name, help, None, M::default())
    }

    fn level(&mut self, name: &str, help: &str, unit: Unit) -> Level {
        self.register(name, help, Some(unit), Level::default())
    }
}

/// A histogram with two atomic additions an observation. (The one of `prometheus_client` takes a lock,
/// which all checks of a node would share.)
#[derive(Clone)]
pub struct Histogram(Arc<HistogramInner>);

struct HistogramInner {
    /// Upper bounds, inclusive, in the observed unit.
    bounds: &'static [u64],
    /// Number of observed units in one exported unit.
    units: f64,
    /// One count for each bound, and one for values above all bounds.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Histogram").finish_non_exhaustive()
    }
}

impl Histogram {
    fn new(bounds: &'static [u64], units: f64) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(HistogramInner { bounds, units, counts, sum: AtomicU64::new(0) }))
    }

    fn of_seconds() -> Self {
        Self::new(LATENCY_BOUNDS, NANOS_PER_SECOND)
    }

    /// Counts a value, in the unit of the bounds.
    pub fn observe(&self, value: u64) {
        let bucket = self.0.bounds.partition_point(|bound| *bound < value);
        self.0.counts[bucket].fetch_add(1, Relaxed);
        self.0.sum.fetch_add(value, Relaxed);
    }

    /// Counts a duration, in nanoseconds.
    pub fn observe_duration(&self, took: Duration) {
        self.observe(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }
}

impl TypedMetric for Histogram {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let inner = &*self.0;
        // A sum beyond 2^53 loses its last digits, which do not matter.
        #[allow(clippy::cast_precision_loss, reason = "see above")]
        let exported = |units: u64| units as f64 / inner.units;
        let bounds = inner.bounds.iter().map(|bound| exported(*bound));
        let counts = inner.counts.iter().map(|count| count.load(Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.chain([f64::INFINITY]).zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = exported(inner.sum.load(Relaxed));
        encoder.encode_histogram::<Labels<0>>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_it_is_told() {
        let metrics = Metrics::new();
        let check = metrics.method("consent.v1.CheckService/Check");
        check.ended(0, Duration::from_micros(60));
        check.ended(0, Duration::from_secs(60));
        check.ended(99, Duration::ZERO);
        metrics.decision(Reason::Granted);
        metrics.append_batch(3, Duration::from_millis(1));
        metrics.append(Duration::from_millis(2));
        metrics.ledger_bytes.set(4_096);
        metrics.hot_misses.inc();
        metrics.writes_stopped.set(1);
        metrics.witness("w.example").ended(WitnessOutcome::RolledBack);
        let text = metrics.encode().unwrap();
        let method = r#"method="consent.v1.CheckService/Check""#;
        for line in [
            &format!("consent_ledger_requests_total{{{method},code=\"OK\"}} 2"),
            &format!("consent_ledger_requests_total{{{method},code=\"UNKNOWN\"}} 1"),
            &format!("consent_ledger_request_duration_seconds_count{{{method}}} 3"),
            &format!("consent_ledger_request_duration_seconds_bucket{{le=\"0.00005\",{method}}} 1"),
            &format!("consent_ledger_request_duration_seconds_bucket{{le=\"0.0001\",{method}}} 2"),
            &format!("consent_ledger_request_duration_seconds_bucket{{le=\"10.0\",{method}}} 2"),
            &format!("consent_ledger_request_duration_seconds_bucket{{le=\"+Inf\",{method}}} 3"),
            r#"consent_ledger_decisions_total{effect="ALLOW",reason="GRANTED"} 1"#,
            r#"consent_ledger_decisions_total{effect="DENY",reason="NO_RECORD"} 0"#,
            r#"consent_ledger_append_batch_entries_bucket{le="2.0"} 0"#,
            r#"consent_ledger_append_batch_entries_bucket{le="4.0"} 1"#,
            "consent_ledger_fsync_duration_seconds_sum 0.001",
            "consent_ledger_append_duration_seconds_sum 0.002",
            "consent_ledger_ledger_size_bytes 4096",
            "consent_ledger_hot_state_misses_total 1",
            "consent_ledger_writes_stopped 1",
            r#"consent_ledger_witness_requests_total{witness="w.example",outcome="rolled_back"} 1"#,
            r#"consent_ledger_witness_requests_total{witness="w.example",outcome="cosigned"} 0"#,
        ] {
            assert!(text.lines().any(|printed| printed == line), "no line `{line}` in\n{text}");
        }
        assert!(!text.contains("CANCELLED"), "series without a count are not exported");
    }
}
