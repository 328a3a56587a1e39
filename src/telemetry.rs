//! Logs, traces and metrics.
//!
//! Log lines go to standard error, lower-case, with values as fields, and never hold personal
//! data. Traces go to an OTLP collector if one is configured. The span of a request has level DEBUG, so
//! it costs nothing without traces or logs at that level.

mod listener;
mod metrics;

use std::io::{IsTerminal, stderr};

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::{Resource, propagation::TraceContextPropagator, trace::SdkTracerProvider};
use thiserror::Error;
use tracing::{Level, level_filters::LevelFilter};
use tracing_subscriber::{
    EnvFilter, Layer, filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt,
};

pub use listener::{Observe, Phase, Step, router};
pub use metrics::{
    Histogram, MethodMetrics, Metrics, WebhookOutcome, WitnessMetrics, WitnessOutcome,
};

use crate::setting::heading::TELEMETRY;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// One line for people.
    #[default]
    Pretty,
    /// One JSON object a line.
    Json,
}

/// Where logs and traces go.
#[derive(Debug, Clone, clap::Args)]
pub struct TelemetryConfig {
    /// Format of log lines, which go to standard error
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "pretty")]
    #[arg(help_heading = TELEMETRY)]
    pub log_format: LogFormat,
    /// Which log lines are written, as a `tracing` filter, for example `info` or
    /// `consent_ledger=debug` [default: RUST_LOG, or else `info`]
    #[arg(long, value_name = "FILTER", help_heading = TELEMETRY)]
    pub log_level: Option<String>,
    /// OTLP collector that receives traces, for example `http://127.0.0.1:4317` [default: off]
    #[arg(long, value_name = "URL", help_heading = TELEMETRY)]
    pub otlp_endpoint: Option<String>,
}

/// Why telemetry can not be set up.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// A word of the filter is not a level.
    #[error(
        "`{0}` is no log level: off, error, warn, info, debug or trace; for one module write \
         module=level"
    )]
    Level(String),
    /// The filter can not be parsed.
    #[error("`{filter}` is no log filter (try `info` or `consent_ledger=debug`): {source}")]
    Filter {
        /// The filter as given.
        filter: String,
        /// The parse error.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The trace exporter can not be built.
    #[error("cannot export traces to `{endpoint}`: {source}")]
    Exporter {
        /// The endpoint as given.
        endpoint: String,
        /// The error of the exporter.
        source: opentelemetry_otlp::ExporterBuildError,
    },
    /// Logging was set up before.
    #[error("logging is already set up: {0}")]
    AlreadySetUp(#[from] tracing_subscriber::util::TryInitError),
}

/// Exports traces; dropping it sends the rest.
#[derive(Debug)]
#[must_use = "traces stop when it is dropped"]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(traces) = &self.traces
            && let Err(error) = traces.shutdown()
        {
            tracing::warn!(%error, "last traces were not delivered");
        }
    }
}

/// Sets up logs and traces for the process. Must be called within the runtime, which the exporter uses.
///
/// # Errors
/// See [`TelemetryError`].
pub fn init(config: &TelemetryConfig) -> Result<Telemetry, TelemetryError> {
    let filter = log_filter(config.log_level.as_deref())?;
    let lines = fmt::layer().with_writer(stderr);
    let lines = match config.log_format {
        LogFormat::Pretty => lines.with_ansi(stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let traces = config.otlp_endpoint.as_deref().map(tracer_provider).transpose()?;
    // Only this crate's spans: exporting the spans of the exporter's calls would never end.
    let spans = traces.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("consent-ledger"))
            .with_filter(Targets::new().with_target("consent_ledger", Level::DEBUG))
    });
    tracing_subscriber::registry().with(spans).with(lines.with_filter(filter)).try_init()?;
    if traces.is_some() {
        opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    }
    Ok(Telemetry { traces })
}

fn log_filter(level: Option<&str>) -> Result<EnvFilter, TelemetryError> {
    // The filter takes a single word for a module, so a mistyped level would turn all logs off.
    let words = level.into_iter().flat_map(|level| level.split(','));
    for word in words.map(str::trim).filter(|word| !word.contains(['=', '['])) {
        if word.parse::<LevelFilter>().is_err() {
            return Err(TelemetryError::Level(word.to_owned()));
        }
    }
    let environment = std::env::var("RUST_LOG").ok().filter(|filter| !filter.is_empty());
    let filter = level.map(ToOwned::to_owned).or(environment).unwrap_or_else(|| "info".to_owned());
    EnvFilter::try_new(&filter).map_err(|source| TelemetryError::Filter { filter, source })
}

fn tracer_provider(endpoint: &str) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .map_err(|source| TelemetryError::Exporter { endpoint: endpoint.to_owned(), source })?;
    let resource = Resource::builder().with_service_name("consent-ledger").build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_bad_collector_is_refused_with_its_text() {
        let error = tracer_provider("http://[bad").unwrap_err();
        assert!(error.to_string().starts_with("cannot export traces to `http://[bad`"), "{error}");
        // A collector that is down does not prevent a start.
        assert!(tracer_provider("http://127.0.0.1:9").is_ok());
    }

    #[test]
    fn a_bad_log_filter_is_refused_with_its_text() {
        let error = log_filter(Some("info,=,=")).unwrap_err();
        assert!(error.to_string().starts_with("`info,=,=` is no log filter"), "{error}");
        assert!(log_filter(Some("info,consent_ledger=debug")).is_ok());
        let error = log_filter(Some("verbose")).unwrap_err();
        assert!(error.to_string().starts_with("`verbose` is no log level"), "{error}");
    }
}
