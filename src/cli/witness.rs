//! `witness`: runs a witness of other ledgers' checkpoints.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};
use tokio_util::sync::CancellationToken;

use super::{Context, Exit, error::CliError, stream::stop_signals};
use crate::{
    config::check_exposure,
    domain::Millis,
    listener,
    telemetry::{self, LogFormat, TelemetryConfig},
    tlog::{
        key::VerifierKey,
        origin::{OriginError, check_origin},
        policy::Policy,
    },
    witness::{
        open::{self, Files, OpenError},
        server,
        state::StateError,
    },
};

const AFTER_HELP: &str = "\
A witness cosigns a log's checkpoint if it extends the one that it cosigned last (C2SP
tlog-witness). Another party than the ledger's operator must run it, on another machine. A witness
sees no data of the ledger and no personal data.

The key is created on the first start, together with the state. Keep the state on durable storage,
and never restore an old copy of it. If it is lost, give the witness a new key and a new name.

Ledgers post to `http://ADDRESS/add-checkpoint`; monitors read
`http://ADDRESS/SHA256-OF-ORIGIN/checkpoint`. After the start, `listening on ADDRESS` and
`verifier key KEY` are printed: give the key to ledgers and auditors.

Exit codes: 0 stopped by SIGTERM or SIGINT, 1 failed, 2 wrong usage, for example a key with
another name.

Example:
  consent-ledger witness --name witness.example/w1 --listen 127.0.0.1:7080 \\
      --key-file w1.key --state-file w1.state --log \"$LEDGER_VERIFIER_KEY\"
  consent-ledger serve --witness \"$WITNESS_VERIFIER_KEY http://127.0.0.1:7080\"";

/// Options of `witness`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct WitnessArgs {
    /// Address to listen on; port 0 picks a free port, which is printed
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7080")]
    listen: SocketAddr,
    /// Verifier key of a log to follow; may be repeated
    #[arg(long, value_name = "KEY", value_parser = log_key, value_delimiter = ',')]
    log: Vec<VerifierKey>,
    /// File with a policy (C2SP tlog-policy) whose `log` lines name the logs, instead of --log
    #[arg(long, value_name = "FILE", conflicts_with = "log")]
    policy: Option<PathBuf>,
    /// File that records the cosigned checkpoints; never restore an old copy of it
    #[arg(long, value_name = "FILE")]
    state_file: PathBuf,
    /// File of the secret key; created on the first start
    #[arg(long, value_name = "FILE")]
    key_file: PathBuf,
    /// Name of the witness, a URL without scheme, for example `witness.example/w1`
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    name: String,
    /// Start with an empty state although the key exists and the state file does not
    #[arg(long)]
    new_state: bool,
    /// Allow an address that other machines can reach
    #[arg(long)]
    insecure: bool,
    /// PEM file of the witness's certificate chain
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// PEM file of the witness's private key
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Format of log lines, which go to standard error
    #[arg(long, value_enum, default_value = "pretty")]
    log_format: LogFormat,
    /// Which log lines are written [default: RUST_LOG, or else `info`]
    #[arg(long, value_name = "FILTER")]
    log_level: Option<String>,
}

pub(super) async fn run(args: WitnessArgs, context: &mut Context) -> Result<Exit, CliError> {
    check_listen(&args)?;
    let logs = logs(&args)?;
    let tls = tls(&args)?;
    let telemetry = TelemetryConfig {
        log_format: args.log_format,
        log_level: args.log_level,
        otlp_endpoint: None,
    };
    let _telemetry = telemetry::init(&telemetry).map_err(CliError::usage)?;
    let files = Files { state: args.state_file, key: args.key_file, new_state: args.new_state };
    let name = args.name;
    let opened = tokio::task::spawn_blocking(move || open::open(&files, &name, logs)).await;
    let state = Arc::new(opened.map_err(CliError::failed)?.map_err(|error| open_error(&error))?);

    let mut stop = stop_signals()?;
    let listen = |error| CliError::io(format!("listening on {}", args.listen), error);
    let listener = TcpListener::bind(args.listen).await.map_err(listen)?;
    let address = listener.local_addr().map_err(listen)?.to_string();
    let verifier_key = state.verifier_key().to_string();
    for origin in state.origins() {
        tracing::info!(origin, "following");
    }
    let ended = CancellationToken::new();
    let router = server::router(state, now_s);
    let serving = tokio::spawn(listener::serve(
        listener,
        tls,
        router,
        server::CONNECTIONS_MAX,
        ended.clone(),
    ));
    let out = &mut context.out;
    if out.json {
        out.object(&json!({"address": address, "verifierKey": verifier_key}))?;
    } else {
        out.line(format!("listening on {address}"))?;
        out.line(format!("verifier key {verifier_key}"))?;
    }
    out.flush()?;
    stop.next().await;
    tracing::info!("draining");
    ended.cancel();
    serving.await.map_err(CliError::failed)?;
    Ok(Exit::Success)
}

fn now_s() -> u64 {
    // The time of a cosignature must not be 0.
    u64::try_from(Millis::now().0 / 1_000).unwrap_or_default().max(1)
}

fn parse_name(text: &str) -> Result<String, OriginError> {
    check_origin(text).map(|()| text.to_owned())
}

fn log_key(text: &str) -> Result<VerifierKey, String> {
    VerifierKey::parse(text).map_err(|error| format!("the key {error}"))
}

fn check_listen(args: &WitnessArgs) -> Result<(), CliError> {
    check_exposure(args.listen, args.tls_cert.is_some(), args.insecure).map_err(|error| {
        CliError::usage(error).with_hint(
            "a witness answers every request with a checkpoint of its logs; put a proxy with rate \
             limits before it",
        )
    })
}

fn logs(args: &WitnessArgs) -> Result<Vec<VerifierKey>, CliError> {
    let logs = match &args.policy {
        None => args.log.clone(),
        Some(path) => {
            let text = fs::read_to_string(path).map_err(|error| CliError::file(path, error))?;
            let policy = Policy::parse(&text).map_err(|error| {
                CliError::usage(format!("--policy: {}: {error}", path.display()))
            })?;
            policy.logs().to_vec()
        }
    };
    if logs.is_empty() {
        return Err(CliError::usage("there is no log to follow")
            .with_hint("--log gives a log's verifier key; --policy a file with `log` lines"));
    }
    Ok(logs)
}

fn tls(args: &WitnessArgs) -> Result<Option<TlsAcceptor>, CliError> {
    let (Some(cert), Some(key)) = (&args.tls_cert, &args.tls_key) else { return Ok(None) };
    let wrong = |path: &Path, error: &dyn std::fmt::Display| {
        CliError::usage(format!("{}: {error}", path.display()))
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(cert).and_then(Iterator::collect);
    let chain = chain.map_err(|error| wrong(cert, &error))?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong(key, &error))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|config| config.with_no_client_auth().with_single_cert(chain, secret));
    let mut config = config.map_err(|error| wrong(cert, &error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
}

fn open_error(error: &OpenError) -> CliError {
    let usage = matches!(
        error,
        OpenError::Name(_)
            | OpenError::OtherName { .. }
            | OpenError::StateThere(_)
            | OpenError::State(StateError::NotALog(_) | StateError::TooManyLogs)
    );
    let cli_error = if usage { CliError::usage(error) } else { CliError::failed(error) };
    match error.hint() {
        Some(hint) => cli_error.with_hint(hint),
        None => cli_error,
    }
}
