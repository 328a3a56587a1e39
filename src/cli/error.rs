//! What can go wrong on the command line, and how people and scripts are told.
//!
//! An error says what happened and, where there is one, what to do. With `--json` it is one object
//! on standard error: `{"error": {"kind", "message", "hint", …}}`.

use std::{
    env,
    ffi::OsString,
    fmt::Write as _,
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use anstyle::{AnsiColor, Style as Ansi};
use serde_json::{Value, json};
use thiserror::Error;
use tonic::Status;
use tonic_types::StatusExt;

use super::{
    layers,
    output::{ColorWhen, Printing, color_on},
    words,
};
use crate::{
    domain::Millis, jws::JwsError, receipt::ReceiptError, token::TokenError,
    webhook::signature::SignatureError,
};

/// Why a command did not do what it was asked.
#[derive(Debug, Error)]
pub enum CliError {
    /// The arguments do not parse, or help was asked for.
    #[error(transparent)]
    Arguments(#[from] clap::Error),
    /// Wrong usage that the parser can not see.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
    /// Anything else that failed.
    #[error("{message}")]
    Failed {
        /// What failed.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
    /// No server answers.
    #[error("no server answers at {addr}: {cause}")]
    Unreachable {
        /// Where it was expected.
        addr: String,
        /// Why it does not.
        cause: String,
    },
    /// The server refused.
    #[error("{}", .0.message())]
    Server(Box<Status>),
    /// A decision token is worth nothing.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// A receipt is worth nothing.
    #[error(transparent)]
    Receipt(Box<ReceiptError>),
    /// A delivery of a webhook is not from whom it says, or not of now.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// A file or stream failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// What the system says.
        source: io::Error,
    },
    /// Nobody reads standard output any more. Not worth a word.
    #[error("standard output was closed")]
    StdoutClosed,
}

impl CliError {
    /// A failure without a hint.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::Failed { message: message.into(), hint: None }
    }

    /// Wrong usage without a hint.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), hint: None }
    }

    /// The same error with a hint, if it is of a kind that has room for one.
    #[must_use]
    pub fn with_hint(mut self, text: impl Into<String>) -> Self {
        if let Self::Usage { hint, .. } | Self::Failed { hint, .. } = &mut self {
            *hint = Some(text.into());
        }
        self
    }

    /// A failure that is the caller's: exit code 2.
    #[must_use]
    pub fn into_usage(self) -> Self {
        match self {
            Self::Failed { message, hint } => Self::Usage { message, hint },
            Self::Io { what, source } => Self::usage(format!("{what}: {source}")),
            other => other,
        }
    }

    /// A system error, with what was being done.
    pub fn io(what: impl Into<String>, source: io::Error) -> Self {
        Self::Io { what: what.into(), source }
    }

    /// A system error on a file.
    #[must_use]
    pub fn file(path: &Path, source: io::Error) -> Self {
        Self::io(path.display().to_string(), source)
    }

    /// A failed write to standard output.
    #[must_use]
    pub fn stdout(source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::BrokenPipe => Self::StdoutClosed,
            _ => Self::io("standard output", source),
        }
    }

    /// The code that scripts see.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Arguments(error) => u8::try_from(error.exit_code()).unwrap_or(2),
            Self::Usage { .. } => 2,
            Self::StdoutClosed => 0,
            Self::Failed { .. }
            | Self::Unreachable { .. }
            | Self::Server(_)
            | Self::Token(_)
            | Self::Receipt(_)
            | Self::Signature(_)
            | Self::Io { .. } => 1,
        }
    }

    /// Tells the error, and answers the exit code.
    pub fn report(&self, style: Style) -> ExitCode {
        // Standard error is the last resort: if it fails, the exit code still speaks.
        let _ = self.write(style);
        ExitCode::from(self.exit_code())
    }

    fn write(&self, style: Style) -> io::Result<()> {
        match self {
            Self::StdoutClosed => Ok(()),
            Self::Arguments(error) if !style.json || !error.use_stderr() => error.print(),
            error if style.json => writeln!(io::stderr(), "{}", error.to_json()),
            error => io::stderr().write_all(error.to_text(style.color).as_bytes()),
        }
    }

    fn to_text(&self, color: bool) -> String {
        let paint = |style: Ansi, text: &str| {
            if color { format!("{style}{text}{style:#}") } else { text.to_owned() }
        };
        let error = paint(AnsiColor::Red.on_default().bold(), "error:");
        let mut text = format!("{error} {self}\n");
        if let Self::Server(status) = self {
            let details = Details::of(status);
            for (field, rule) in &details.violations {
                // What the message says already is not said again.
                let _ = match status.message().contains(rule) {
                    true => writeln!(text, "  field: {field}"),
                    false => writeln!(text, "  {field}: {rule}"),
                };
            }
            let _ = writeln!(text, "  ({})", details.name(status));
        }
        if let Some(hint) = self.hint() {
            let word = paint(AnsiColor::Cyan.on_default().bold(), "hint:");
            let _ = writeln!(text, "{word} {hint}");
        }
        text
    }

    /// The error as scripts read it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut error = json!({
            "kind": self.kind(),
            "message": self.message(),
            "hint": self.hint(),
        });
        if let Self::Server(status) = self {
            let details = Details::of(status);
            error["code"] = json!(code_name(status));
            error["reason"] = json!(details.reason);
            error["metadata"] = json!(details.metadata);
            error["fieldViolations"] = details
                .violations
                .iter()
                .map(|(field, description)| json!({"field": field, "description": description}))
                .collect();
        }
        if let Self::Token(token) = self {
            error["reason"] = json!(token.name());
        }
        if let Self::Receipt(receipt) = self {
            error["reason"] = json!(receipt.name());
        }
        if let Self::Signature(signature) = self {
            error["reason"] = json!(signature_reason(signature));
        }
        json!({ "error": error })
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Arguments(_) | Self::Usage { .. } => "usage",
            Self::Failed { .. } => "failed",
            Self::Unreachable { .. } => "unreachable",
            Self::Server(_) => "server",
            Self::Token(_) => "token",
            Self::Receipt(_) => "receipt",
            Self::Signature(_) => "signature",
            Self::Io { .. } | Self::StdoutClosed => "io",
        }
    }

    fn message(&self) -> String {
        let text = self.to_string();
        match self {
            Self::Arguments(_) => text.trim_start_matches("error: ").trim_end().to_owned(),
            _ => text,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Usage { hint, .. } | Self::Failed { hint, .. } => hint.clone(),
            Self::Unreachable { .. } => Some(
                "start one with `consent-ledger serve`, or point to one with --addr or \
                 CONSENT_LEDGER_ADDR"
                    .to_owned(),
            ),
            Self::Server(status) => server_hint(status),
            Self::Token(error) => token_hint(error),
            Self::Receipt(error) => receipt_hint(error),
            Self::Signature(error) => signature_hint(error).map(str::to_owned),
            Self::Arguments(_) | Self::Io { .. } | Self::StdoutClosed => None,
        }
    }
}

impl From<ReceiptError> for CliError {
    fn from(error: ReceiptError) -> Self {
        Self::Receipt(Box::new(error))
    }
}

impl From<Status> for CliError {
    fn from(status: Status) -> Self {
        Self::Server(Box::new(status))
    }
}

/// The reason that the server gave (`google.rpc.ErrorInfo`); none if the error is not its own.
#[must_use]
pub fn reason(status: &Status) -> Option<String> {
    status.get_details_error_info().map(|info| info.reason)
}

/// Name of a status code as gRPC writes it, for example `INVALID_ARGUMENT`.
#[must_use]
pub fn code_name(status: &Status) -> String {
    let mut name = String::new();
    for letter in format!("{:?}", status.code()).chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

fn server_hint(status: &Status) -> Option<String> {
    let hint = match reason(status).as_deref() {
        Some("UNKNOWN_PURPOSE" | "UNKNOWN_CHANNEL") => {
            "see `consent-ledger catalog list`, and add what is missing with `consent-ledger \
             catalog apply FILE`"
        }
        Some("PURPOSE_RETIRED" | "CHANNEL_RETIRED") => {
            "see `consent-ledger catalog list --retired`"
        }
        Some("IDEMPOTENCY_KEY_REUSED") => "use a new --idempotency-key for another act",
        Some("TOO_MANY_APPENDS" | "TOO_MANY_REQUESTS" | "TOO_MANY_STREAMS") => "try again later",
        Some("WRITES_STOPPED") => {
            "the server must be restarted; then try again with the same --idempotency-key"
        }
        Some("SUBSCRIPTION_NOT_FOUND") => "see `consent-ledger subscription list`",
        Some("SUBSCRIPTION_NOT_WEBHOOK") => {
            "only what is delivered by HTTP has dead letters; `consent-ledger subscription consume` \
             brings again what was not acknowledged"
        }
        Some("REVISION_NOT_REACHED") => "is the revision of this ledger? try again later",
        Some("INDEX_OUT_OF_RANGE") => {
            "the ledger, or what of it is under a checkpoint, has fewer entries: ask for less, or \
             later; `watch` without --from begins with now"
        }
        None if status.message().contains("imeout expired") => "raise --timeout",
        // The transport's own words: no server speaks of the protocol under it.
        None if status.message().contains("h2 protocol error") => {
            "the connection broke: is the server still there?"
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

fn receipt_hint(error: &ReceiptError) -> Option<String> {
    let hint = match error.name() {
        "UNKNOWN_KEY" => "is it of another ledger, or was --key given the key of another?",
        "TOO_FEW_WITNESSES" => {
            "ask for the receipt again: a later checkpoint may have more cosignatures"
        }
        "UNKNOWN_VERSION" => "a newer version of this program may know it",
        _ => return None,
    };
    Some(hint.to_owned())
}

fn signature_reason(error: &SignatureError) -> &'static str {
    match error {
        SignatureError::Secret => "NO_SECRET",
        SignatureError::Missing => "NO_SIGNATURE",
        SignatureError::Wrong => "WRONG_SIGNATURE",
        SignatureError::Timestamp => "NO_TIMESTAMP",
        SignatureError::TooFar(_) => "TOO_FAR",
    }
}

fn signature_hint(error: &SignatureError) -> Option<&'static str> {
    match error {
        SignatureError::Wrong => Some(
            "is it the secret of this subscription? the body must be every byte that came, before \
             anything parsed it",
        ),
        SignatureError::Missing => {
            Some("--signature takes the whole webhook-signature header, `v1,` and base64")
        }
        SignatureError::TooFar(_) => Some(
            "its signature is good: --at says when it came, --tolerance how far away it may be",
        ),
        SignatureError::Secret | SignatureError::Timestamp => None,
    }
}

fn token_hint(error: &TokenError) -> Option<String> {
    let time = |time: &Millis| words::rfc3339_ms(time.0);
    Some(match error {
        TokenError::Expired { since } => {
            format!("it ended at {}; ask again with `consent-ledger check --token`", time(since))
        }
        TokenError::NotYetValid { from } => {
            format!("it was issued at {}; is this machine's clock right?", time(from))
        }
        TokenError::Jws(JwsError::Key { .. }) => {
            "is it of another ledger? `consent-ledger token key` prints a server's key".to_owned()
        }
        _ => return None,
    })
}

/// What `google.rpc.Status` carries beyond code and message.
struct Details {
    reason: Option<String>,
    metadata: std::collections::BTreeMap<String, String>,
    violations: Vec<(String, String)>,
}

impl Details {
    fn of(status: &Status) -> Self {
        let info = status.get_details_error_info();
        let violations = status.get_details_bad_request().map(|bad| bad.field_violations);
        Self {
            metadata: info.iter().flat_map(|info| info.metadata.clone()).collect(),
            reason: info.map(|info| info.reason),
            violations: violations
                .into_iter()
                .flatten()
                .map(|violation| (violation.field, violation.description))
                .collect(),
        }
    }

    fn name(&self, status: &Status) -> String {
        match &self.reason {
            Some(reason) => format!("{} / {reason}", code_name(status)),
            None => code_name(status),
        }
    }
}

/// How errors are told.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    json: bool,
    color: bool,
}

impl Style {
    /// As the options say.
    #[must_use]
    pub fn new(printing: Printing) -> Self {
        Self { json: printing.json, color: color_on(printing.color, &io::stderr()) }
    }

    /// As the options seem to say, before they are parsed: an error of parsing has a style too.
    #[must_use]
    pub fn guess(args: &[OsString]) -> Self {
        let json = args.iter().any(|arg| arg == "--json" || arg == "--json=true")
            || env::var("CONSENT_LEDGER_JSON").is_ok_and(|v| v == "1" || v == "true");
        let when = match layers::early(args, "color").as_deref().and_then(|v| v.to_str()) {
            Some("never") => ColorWhen::Never,
            Some("always") => ColorWhen::Always,
            _ => ColorWhen::Auto,
        };
        Self { json, color: color_on(when, &io::stderr()) }
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::{ErrorDetails, FieldViolation};

    use super::*;

    fn refused() -> CliError {
        let mut details = ErrorDetails::new();
        details
            .set_error_info("INVALID_FIELD", "consent.v1", [])
            .set_bad_request(vec![FieldViolation::new("changes[0].scope", "must be one cell")]);
        // The same status as a server's, with no code written out: 3 is INVALID_ARGUMENT.
        Status::with_error_details(3.into(), "the act is not valid", details).into()
    }

    #[test]
    fn a_refusal_is_told_with_reason_and_fields() {
        assert_eq!(
            refused().to_text(false),
            "error: the act is not valid\n  changes[0].scope: must be one cell\n  \
             (INVALID_ARGUMENT / INVALID_FIELD)\n"
        );
        let json = refused().to_json();
        assert_eq!(json["error"]["kind"], "server");
        assert_eq!(json["error"]["code"], "INVALID_ARGUMENT");
        assert_eq!(json["error"]["reason"], "INVALID_FIELD");
        assert_eq!(json["error"]["fieldViolations"][0]["field"], "changes[0].scope");
    }

    #[test]
    fn an_index_beyond_the_end_gets_a_hint_that_fits_every_command() {
        let mut details = ErrorDetails::new();
        details.set_error_info("INDEX_OUT_OF_RANGE", "consent.v1", []);
        let error: CliError = Status::with_error_details(11.into(), "beyond", details).into();
        let hint = error.to_json()["error"]["hint"].as_str().unwrap().to_owned();
        assert!(hint.contains("has fewer entries") && !hint.contains("leave out"), "{hint}");
    }

    #[test]
    fn no_error_is_taken_for_an_answer_of_check() {
        let io = || io::Error::other("full");
        for error in [
            refused(),
            CliError::usage("no"),
            CliError::failed("no"),
            CliError::Token(TokenError::Jws(JwsError::Signature)),
            CliError::stdout(io()),
            CliError::io("x", io()),
            CliError::Unreachable { addr: "a".into(), cause: "b".into() },
        ] {
            assert!(![0, 3].contains(&error.exit_code()), "{error:?}");
        }
    }

    #[test]
    fn an_absent_server_comes_with_what_to_do() {
        let error = CliError::Unreachable { addr: "http://x".into(), cause: "refused".into() };
        let text = error.to_text(false);
        assert!(text.starts_with("error: no server answers at http://x: refused\nhint: start one"));
    }
}
