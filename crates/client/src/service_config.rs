//! Deadlines and retries for each method, in the form of gRPC's service config
//! (<https://github.com/grpc/grpc/blob/master/doc/service_config.md>, retries as in gRFC A6).
//!
//! Supported are `methodConfig` with `name`, `timeout` and `retryPolicy`, and `retryThrottling`.
//! Other keys are ignored, as the standard asks, except `hedgingPolicy`, which is refused: a caller
//! that relies on it must not lose it in silence.

use std::time::Duration;

use serde::Deserialize;
use thiserror::Error;

use crate::proto::{CODE_NAMES, Method};

/// The most attempts of a call, the first among them. A policy that asks for more gets this many.
pub const ATTEMPTS_MAX: u32 = 5;
/// The longest deadline: a year.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(366 * 24 * 3_600);
/// The most tokens of [`RetryThrottling`].
pub const TOKENS_MAX: u32 = 1_000;

/// The JSON of [`ServiceConfig::default`].
///
/// It is generated from the protocol, from each method's `idempotency_level` and `pace`. Retried
/// are reads, and acts with an idempotency key (the client checks each request). Streaming methods
/// are not included: they last as long as the caller wants, and
/// [`Client::watch`](super::Client::watch) and [`Client::consume`](super::Client::consume) go on by
/// themselves.
pub const DEFAULT_JSON: &str = include_str!("generated/service_config.json");

/// Why a service config can not be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ServiceConfigError {
    /// It is not JSON, or not of the right form.
    #[error("the service config does not parse: {0}")]
    Json(#[from] serde_json::Error),
    /// A value is not valid.
    #[error("the service config's {field} {problem}")]
    Value {
        /// Which.
        field: &'static str,
        /// Why it is not valid.
        problem: String,
    },
    /// Two entries are for the same methods.
    #[error("the service config names `{name}` twice")]
    Twice {
        /// `service/method`.
        name: String,
    },
}

/// How calls are made, a method at a time.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceConfig {
    /// Settings by method.
    pub methods: Vec<MethodConfig>,
    /// When retries pause for all methods together.
    pub throttling: Option<RetryThrottling>,
}

/// The settings of some methods.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MethodConfig {
    /// Which methods.
    pub names: Vec<MethodName>,
    /// How long a call may take with all its attempts, up to [`TIMEOUT_MAX`]; a longer one means no
    /// deadline. A shorter deadline of the caller has priority. It applies to a streaming method
    /// only if `names` has that very method, and then limits the whole stream.
    pub timeout: Option<Duration>,
    /// Whether and how a call is retried.
    pub retry: Option<RetryPolicy>,
}

/// A pattern of method names. An empty method means every method of the service, an empty service
/// all services.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub struct MethodName {
    /// `package.Service`.
    #[serde(default)]
    pub service: String,
    /// The method's own name.
    #[serde(default)]
    pub method: String,
}

/// When and how a call is retried.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// Attempts in all: 2 to [`ATTEMPTS_MAX`].
    pub max_attempts: u32,
    /// The wait before the second attempt, with a jitter of a fifth.
    pub initial_backoff: Duration,
    /// The longest wait.
    pub max_backoff: Duration,
    /// How much longer each wait is than the one before.
    pub backoff_multiplier: f64,
    /// Status codes, by number, after which a call is retried.
    pub retryable_status_codes: Vec<i32>,
}

/// Stops retries while most calls fail, so that they do not keep a server down. Each failure takes
/// a token, each success gives `token_ratio` back; with half of `max_tokens` or less nothing is
/// tried again.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RetryThrottling {
    /// How many tokens there are at first, and at most.
    pub max_tokens: u32,
    /// The tokens that a success gives back.
    pub token_ratio: f64,
}

impl Default for ServiceConfig {
    /// [`DEFAULT_JSON`].
    fn default() -> Self {
        Self::from_json(DEFAULT_JSON).expect("a test parses it")
    }
}

impl ServiceConfig {
    /// No deadlines and no retries.
    #[must_use]
    pub fn none() -> Self {
        Self { methods: Vec::new(), throttling: None }
    }

    /// Reads the standard JSON form.
    ///
    /// # Errors
    /// See [`ServiceConfigError`].
    pub fn from_json(json: &str) -> Result<Self, ServiceConfigError> {
        let raw: RawConfig = serde_json::from_str(json)?;
        let methods = raw.method_config.into_iter().map(RawMethod::parse);
        let methods = methods.collect::<Result<Vec<_>, _>>()?;
        refuse_twice(&methods)?;
        let throttling = raw.retry_throttling.map(RetryThrottling::checked).transpose()?;
        Ok(Self { methods, throttling })
    }

    /// The settings for a call to `/package.Service/Method`: those of the most specific name.
    #[must_use]
    pub fn of_path(&self, path: &str) -> Option<&MethodConfig> {
        let (service, method) = path.strip_prefix('/')?.split_once('/')?;
        let by_name = |service: &str, method: &str| {
            self.methods.iter().find(|config| {
                config.names.iter().any(|name| name.service == service && name.method == method)
            })
        };
        by_name(service, method).or_else(|| by_name(service, "")).or_else(|| by_name("", ""))
    }
}

impl MethodConfig {
    /// The deadline of a call to `/package.Service/Method`, to which these settings apply.
    pub(super) fn timeout_of(&self, path: &str) -> Option<Duration> {
        let (service, method) = path.strip_prefix('/')?.split_once('/')?;
        let is_named =
            || self.names.iter().any(|name| name.service == service && name.method == method);
        // A timeout for all methods is meant for unary calls, and would cut streams off.
        let timeout = self.timeout.filter(|timeout| *timeout <= TIMEOUT_MAX)?;
        let streams = Method::of_path(path).is_some_and(Method::is_streaming);
        (!streams || is_named()).then_some(timeout)
    }
}

fn refuse_twice(methods: &[MethodConfig]) -> Result<(), ServiceConfigError> {
    let mut seen: Vec<&MethodName> = Vec::new();
    for name in methods.iter().flat_map(|config| &config.names) {
        if seen.contains(&name) {
            let name = format!("{}/{}", name.service, name.method);
            return Err(ServiceConfigError::Twice { name });
        }
        seen.push(name);
    }
    Ok(())
}

fn wrong<T>(field: &'static str, problem: impl Into<String>) -> Result<T, ServiceConfigError> {
    Err(ServiceConfigError::Value { field, problem: problem.into() })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawConfig {
    #[serde(default)]
    method_config: Vec<RawMethod>,
    retry_throttling: Option<RetryThrottling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawMethod {
    name: Vec<MethodName>,
    timeout: Option<String>,
    retry_policy: Option<RawPolicy>,
    hedging_policy: Option<serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPolicy {
    max_attempts: u32,
    initial_backoff: String,
    max_backoff: String,
    backoff_multiplier: f64,
    retryable_status_codes: Vec<RawCode>,
}

/// A code by name or by number: the standard takes both.
#[derive(Deserialize)]
#[serde(untagged)]
enum RawCode {
    Number(i32),
    Name(String),
}

impl RawMethod {
    fn parse(self) -> Result<MethodConfig, ServiceConfigError> {
        if self.hedging_policy.is_some() {
            return wrong("hedgingPolicy", "is not supported");
        }
        if self.name.iter().any(|name| name.service.is_empty() && !name.method.is_empty()) {
            return wrong("name", "has a method without a service");
        }
        let timeout = self.timeout.map(|text| duration("timeout", &text)).transpose()?;
        if timeout.is_some_and(|timeout| timeout.is_zero() || timeout > TIMEOUT_MAX) {
            return wrong("timeout", "must be more than 0s and at most a year");
        }
        Ok(MethodConfig {
            names: self.name,
            timeout,
            retry: self.retry_policy.map(RawPolicy::parse).transpose()?,
        })
    }
}

impl RawPolicy {
    fn parse(self) -> Result<RetryPolicy, ServiceConfigError> {
        if self.max_attempts < 2 {
            return wrong("maxAttempts", "must be at least 2");
        }
        if !self.backoff_multiplier.is_finite() || self.backoff_multiplier <= 0.0 {
            return wrong("backoffMultiplier", "must be more than 0");
        }
        let initial_backoff = duration("initialBackoff", &self.initial_backoff)?;
        let max_backoff = duration("maxBackoff", &self.max_backoff)?;
        if initial_backoff.is_zero() || max_backoff.is_zero() {
            return wrong("initialBackoff and maxBackoff", "must be more than 0");
        }
        if self.retryable_status_codes.is_empty() {
            return wrong("retryableStatusCodes", "must not be empty");
        }
        Ok(RetryPolicy {
            max_attempts: self.max_attempts.min(ATTEMPTS_MAX),
            initial_backoff,
            max_backoff,
            backoff_multiplier: self.backoff_multiplier,
            retryable_status_codes: self
                .retryable_status_codes
                .into_iter()
                .map(RawCode::parse)
                .collect::<Result<_, _>>()?,
        })
    }
}

impl RawCode {
    fn parse(self) -> Result<i32, ServiceConfigError> {
        let known = match &self {
            Self::Number(number) => (0..).zip(CODE_NAMES).find(|(known, _)| known == number),
            Self::Name(name) => (0..).zip(CODE_NAMES).find(|(_, known)| known == name),
        };
        match (known, self) {
            (Some((number, _)), _) => Ok(number),
            (None, Self::Number(number)) => {
                wrong("retryableStatusCodes", format!("has no code {number}"))
            }
            (None, Self::Name(name)) => wrong("retryableStatusCodes", format!("has no `{name}`")),
        }
    }
}

impl RetryThrottling {
    fn checked(self) -> Result<Self, ServiceConfigError> {
        if !(1..=TOKENS_MAX).contains(&self.max_tokens) {
            return wrong("maxTokens", format!("must be 1 to {TOKENS_MAX}"));
        }
        if !self.token_ratio.is_finite() || self.token_ratio <= 0.0 {
            return wrong("tokenRatio", "must be more than 0");
        }
        Ok(self)
    }
}

/// A duration as protobuf's JSON has it, for example `1.5s`.
fn duration(field: &'static str, text: &str) -> Result<Duration, ServiceConfigError> {
    let plain = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    text.strip_suffix('s')
        .filter(|digits| plain(digits))
        .and_then(|digits| digits.parse::<f64>().ok())
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .map_or_else(|| wrong(field, format!("`{text}` is not a duration such as 1.5s")), Ok)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::METHODS;

    fn policy(json: &str) -> Result<ServiceConfig, ServiceConfigError> {
        ServiceConfig::from_json(&format!(
            r#"{{"methodConfig": [{{"name": [{{}}], "retryPolicy": {json}}}]}}"#
        ))
    }

    #[test]
    fn the_default_parses_and_retries_only_what_may_be_said_twice() {
        let config = ServiceConfig::default();
        let retry = |path| config.of_path(path).and_then(|config| config.retry.as_ref());
        assert_eq!(retry("/consent.v1.CheckService/Check").unwrap().max_attempts, 3);
        for once in [
            "/consent.v1.ConsentService/ImportConsents",
            "/consent.v1.PrivacyService/LinkSubjects",
            "/consent.v1.WatchService/DeleteSubscription",
            "/consent.v1.WatchService/Consume",
            "/consent.v1.WatchService/Watch",
        ] {
            assert!(retry(once).is_none(), "{once}");
        }
    }

    #[test]
    fn the_closest_name_wins() {
        let config = ServiceConfig::from_json(
            r#"{"loadBalancingConfig": [{"round_robin": {}}], "methodConfig": [
                {"name": [{}], "timeout": "1s"},
                {"name": [{"service": "a.B"}], "timeout": "2s"},
                {"name": [{"service": "a.B", "method": "C"}], "timeout": "0.25s"}]}"#,
        )
        .unwrap();
        let timeout = |path| config.of_path(path).unwrap().timeout.unwrap();
        assert_eq!(timeout("/a.B/C"), Duration::from_millis(250));
        assert_eq!(timeout("/a.B/D"), Duration::from_secs(2));
        assert_eq!(timeout("/x.Y/C"), Duration::from_secs(1));
    }

    #[test]
    fn every_call_has_a_deadline_and_no_stream_has_one_unless_it_is_named() {
        let wildcard = r#"{"methodConfig": [{"name": [{}], "timeout": "1s"}]}"#;
        let wildcard = ServiceConfig::from_json(wildcard).unwrap();
        let named = r#"{"methodConfig": [{"name": [
            {"service": "consent.v1.WatchService", "method": "Watch"}], "timeout": "1s"}]}"#;
        let named = ServiceConfig::from_json(named).unwrap();
        let timeout = |config: &ServiceConfig, path: &str| {
            config.of_path(path).and_then(|config| config.timeout_of(path))
        };
        for method in METHODS {
            for config in [&ServiceConfig::default(), &wildcard] {
                let has_deadline = timeout(config, method.path).is_some();
                assert_eq!(has_deadline, !method.is_streaming(), "{}", method.path);
            }
        }
        assert!(timeout(&named, "/consent.v1.WatchService/Watch").is_some());
    }

    #[test]
    fn a_policy_is_read_with_names_and_numbers_and_at_most_five_attempts() {
        let config = policy(
            r#"{"maxAttempts": 9, "initialBackoff": "0.5s", "maxBackoff": "3s",
                "backoffMultiplier": 1.5, "retryableStatusCodes": ["UNAVAILABLE", 10]}"#,
        )
        .unwrap();
        let retry = config.methods[0].retry.as_ref().unwrap();
        assert_eq!(retry.max_attempts, ATTEMPTS_MAX);
        assert_eq!(retry.initial_backoff, Duration::from_millis(500));
        assert_eq!(retry.retryable_status_codes, [14, 10]);
    }

    #[test]
    fn what_can_not_be_kept_is_refused() {
        let good = r#"{"maxAttempts": 2, "initialBackoff": "1s", "maxBackoff": "1s",
            "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}"#;
        assert!(policy(good).is_ok());
        for (from, to) in [
            ("\"maxAttempts\": 2", "\"maxAttempts\": 1"),
            ("\"1s\"", "\"0s\""),
            ("\"1s\"", "\"1m\""),
            ("\"1s\"", "\"-1s\""),
            ("\"1s\"", "\"infs\""),
            ("\"backoffMultiplier\": 2", "\"backoffMultiplier\": 0"),
            ("[\"UNAVAILABLE\"]", "[]"),
            ("UNAVAILABLE", "unavailable"),
            ("[\"UNAVAILABLE\"]", "[17]"),
        ] {
            assert!(policy(&good.replace(from, to)).is_err(), "{to}");
        }
        for bad in [
            "",
            r#"{"methodConfig": [{"name": [{}], "hedgingPolicy": {}}]}"#,
            r#"{"methodConfig": [{"name": [{"method": "C"}]}]}"#,
            r#"{"methodConfig": [{"name": [{}, {}]}]}"#,
            r#"{"methodConfig": [{"name": [{}], "timeout": "0s"}]}"#,
            r#"{"methodConfig": [{"name": [{}], "timeout": "99999999999999s"}]}"#,
            r#"{"retryThrottling": {"maxTokens": 0, "tokenRatio": 1}}"#,
            r#"{"retryThrottling": {"maxTokens": 10, "tokenRatio": 0}}"#,
        ] {
            assert!(ServiceConfig::from_json(bad).is_err(), "{bad}");
        }
    }
}
