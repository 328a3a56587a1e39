//! What can go wrong on the command line, and how an error is reported.
//!
//! An error says what happened and, where possible, what to do. With `--json` it is one object on
//! standard error: `{"error": {"kind", "message", "hint", …}}`.

use std::{
    fmt::Write as _,
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use anstyle::{AnsiColor, Style};
use serde_json::{Value, json};
use thiserror::Error;
use tonic::Status;
use tonic_types::StatusExt;

use super::{
    output::{Printing, color_on},
    words::rfc3339_ms,
};
use crate::{
    jws::JwsError, proto::CODE_NAMES, receipt::ReceiptError, token::TokenError,
    webhook::signature::SignatureError,
};

/// Why a command failed.
#[derive(Debug, Error)]
pub enum CliError {
    /// The arguments do not parse, or help was requested.
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
    /// Any other failure.
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
        /// Address of the server.
        addr: String,
        /// Why the connection failed.
        cause: String,
    },
    /// The server returned an error.
    #[error("{}", .0.message())]
    Server(Box<Status>),
    /// The server has no event at an index.
    #[error("{}", .0.message())]
    NoEvent(Box<Status>),
    /// A token, a receipt or a webhook delivery does not verify.
    #[error("{message}")]
    Unverified {
        /// `token`, `receipt` or `signature`.
        kind: &'static str,
        /// Name of the cause, for scripts.
        reason: &'static str,
        /// The cause.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
    /// A file or stream failed.
    #[error("{context}: {source}")]
    Io {
        /// The file or the operation that failed.
        context: String,
        /// The system's error.
        source: io::Error,
    },
    /// The reader of standard output closed it. Not reported.
    #[error("standard output was closed")]
    StdoutClosed,
}

impl CliError {
    /// A failure without a hint, from a message or an error.
    #[expect(clippy::needless_pass_by_value, reason = "errors are passed by map_err")]
    pub fn failed(message: impl ToString) -> Self {
        Self::Failed { message: message.to_string(), hint: None }
    }

    /// Wrong usage without a hint, from a message or an error.
    #[expect(clippy::needless_pass_by_value, reason = "errors are passed by map_err")]
    pub fn usage(message: impl ToString) -> Self {
        Self::Usage { message: message.to_string(), hint: None }
    }

    /// The same error with a hint, if its kind has one.
    #[must_use]
    pub fn with_hint(mut self, text: impl Into<String>) -> Self {
        if let Self::Usage { hint, .. }
        | Self::Failed { hint, .. }
        | Self::Unverified { hint, .. } = &mut self
        {
            *hint = Some(text.into());
        }
        self
    }

    /// The same failure as wrong usage: exit code 2.
    #[must_use]
    pub fn into_usage(self) -> Self {
        match self {
            Self::Failed { message, hint } => Self::Usage { message, hint },
            Self::Io { .. } => Self::usage(self),
            other => other,
        }
    }

    /// A system error, with the file or operation that failed.
    pub fn io(context: impl Into<String>, source: io::Error) -> Self {
        Self::Io { context: context.into(), source }
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

    /// The exit code for scripts.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Arguments(error) => u8::try_from(error.exit_code()).unwrap_or(2),
            Self::Usage { .. } => 2,
            Self::StdoutClosed => 0,
            Self::NoEvent(_) => 5,
            Self::Failed { .. }
            | Self::Unreachable { .. }
            | Self::Server(_)
            | Self::Unverified { .. }
            | Self::Io { .. } => 1,
        }
    }

    /// Prints the error on standard error, and returns the exit code.
    pub fn report(&self, printing: Printing) -> ExitCode {
        // If standard error fails too, the exit code still tells of the error.
        let _ = self.write(printing);
        ExitCode::from(self.exit_code())
    }

    fn write(&self, printing: Printing) -> io::Result<()> {
        let mut stderr = io::stderr();
        match self {
            Self::StdoutClosed => Ok(()),
            Self::Arguments(error) if !printing.json || !error.use_stderr() => error.print(),
            error if printing.json => writeln!(stderr, "{}", error.to_json()),
            error => {
                let text = error.to_text(color_on(printing.color, &stderr));
                stderr.write_all(text.as_bytes())
            }
        }
    }

    fn to_text(&self, color: bool) -> String {
        let paint = |style: Style, text: &str| {
            if color { format!("{style}{text}{style:#}") } else { text.to_owned() }
        };
        let error = paint(AnsiColor::Red.on_default().bold(), "error:");
        let mut text = format!("{error} {self}\n");
        if let Self::Server(status) | Self::NoEvent(status) = self {
            let details = status.get_error_details();
            for violation in details.bad_request().into_iter().flat_map(|bad| &bad.field_violations)
            {
                let (field, rule) = (&violation.field, &violation.description);
                // A rule that the message already contains is not repeated.
                let _ = match status.message().contains(rule) {
                    true => writeln!(text, "  field: {field}"),
                    false => writeln!(text, "  {field}: {rule}"),
                };
            }
            let code = code_name(status);
            let _ = match details.error_info() {
                Some(info) => writeln!(text, "  ({code} / {})", info.reason),
                None => writeln!(text, "  ({code})"),
            };
        }
        if let Some(hint) = self.hint() {
            let word = paint(AnsiColor::Cyan.on_default().bold(), "hint:");
            let _ = writeln!(text, "{word} {hint}");
        }
        text
    }

    /// The error as JSON.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut error = json!({
            "kind": self.kind(),
            "message": self.message(),
            "hint": self.hint(),
        });
        match self {
            Self::Server(status) | Self::NoEvent(status) => {
                let details = status.get_error_details();
                let (info, bad_request) = (details.error_info(), details.bad_request());
                error["code"] = json!(code_name(status));
                error["reason"] = json!(info.map(|info| &info.reason));
                error["metadata"] =
                    json!(info.map(|info| &info.metadata).cloned().unwrap_or_default());
                error["fieldViolations"] = bad_request
                    .into_iter()
                    .flat_map(|bad| &bad.field_violations)
                    .map(|found| json!({"field": found.field, "description": found.description}))
                    .collect();
            }
            Self::Unverified { reason, .. } => error["reason"] = json!(reason),
            _ => {}
        }
        json!({ "error": error })
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Arguments(_) | Self::Usage { .. } => "usage",
            Self::Failed { .. } => "failed",
            Self::Unreachable { .. } => "unreachable",
            Self::Server(_) | Self::NoEvent(_) => "server",
            Self::Unverified { kind, .. } => kind,
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
            Self::Usage { hint, .. }
            | Self::Failed { hint, .. }
            | Self::Unverified { hint, .. } => hint.clone(),
            Self::Unreachable { .. } => Some(
                "start one with `consent-ledger serve`, or point to one with --addr or \
                 CONSENT_LEDGER_ADDR"
                    .to_owned(),
            ),
            Self::Server(status) | Self::NoEvent(status) => server_hint(status).map(str::to_owned),
            Self::Arguments(_) | Self::Io { .. } | Self::StdoutClosed => None,
        }
    }
}

impl From<Status> for CliError {
    fn from(status: Status) -> Self {
        Self::Server(Box::new(status))
    }
}

impl From<TokenError> for CliError {
    fn from(error: TokenError) -> Self {
        let hint = match &error {
            TokenError::Expired { since } => Some(format!(
                "it expired at {}; ask again with `consent-ledger check --token`",
                rfc3339_ms(since.0)
            )),
            TokenError::NotYetValid { from } => Some(format!(
                "it was issued at {}; is this machine's clock right?",
                rfc3339_ms(from.0)
            )),
            TokenError::Jws(JwsError::Key { .. }) => Some(
                "is it of another ledger? `consent-ledger token key` prints a server's key"
                    .to_owned(),
            ),
            _ => None,
        };
        Self::Unverified { kind: "token", reason: error.name(), message: error.to_string(), hint }
    }
}

impl From<ReceiptError> for CliError {
    fn from(error: ReceiptError) -> Self {
        let reason = error.name();
        let hint = match reason {
            "UNKNOWN_KEY" => Some("is the receipt, or the key in --key, of another ledger?"),
            "TOO_FEW_WITNESSES" => {
                Some("ask for the receipt again: a later checkpoint may have more cosignatures")
            }
            "UNKNOWN_VERSION" => Some("a newer version of this program may know it"),
            _ => None,
        };
        let hint = hint.map(str::to_owned);
        Self::Unverified { kind: "receipt", reason, message: error.to_string(), hint }
    }
}

impl From<SignatureError> for CliError {
    fn from(error: SignatureError) -> Self {
        let (reason, hint) = match &error {
            SignatureError::Secret => ("NO_SECRET", None),
            SignatureError::Missing => (
                "NO_SIGNATURE",
                Some("--signature takes the whole webhook-signature header, `v1,` and base64"),
            ),
            SignatureError::Wrong => (
                "WRONG_SIGNATURE",
                Some(
                    "is it the secret of this subscription? the body must be the exact bytes that \
                     arrived, before any parsing",
                ),
            ),
            SignatureError::Timestamp => ("NO_TIMESTAMP", None),
            SignatureError::TooFar(_) => (
                "TOO_FAR",
                Some(
                    "the signature is good: set the time of arrival with --at, or allow a larger \
                     difference with --tolerance",
                ),
            ),
        };
        let hint = hint.map(str::to_owned);
        Self::Unverified { kind: "signature", reason, message: error.to_string(), hint }
    }
}

/// The reason in the server's `google.rpc.ErrorInfo`; none if the error does not come from the
/// server itself.
#[must_use]
pub fn reason(status: &Status) -> Option<String> {
    status.get_details_error_info().map(|info| info.reason)
}

/// Name of a status code as gRPC writes it, for example `INVALID_ARGUMENT`.
#[must_use]
pub fn code_name(status: &Status) -> String {
    CODE_NAMES[status.code() as usize].to_owned()
}

fn server_hint(status: &Status) -> Option<&'static str> {
    Some(match reason(status).as_deref() {
        Some("UNKNOWN_PURPOSE" | "UNKNOWN_CHANNEL" | "UNKNOWN_NAMESPACE") => {
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
        Some("CLOCK_NOT_TRUSTED") => {
            "on the server, set the clock and let something synchronise it, or start it again with \
             --trust-clock if the clock is right"
        }
        Some("EFFECTIVE_AT_TOO_OLD") => {
            "is the unit of the time right? `consent-ledger serve --earliest-effective-at` sets the \
             bound"
        }
        Some("SUBSCRIPTION_NOT_FOUND") => "see `consent-ledger subscription list`",
        Some("SUBSCRIPTION_NOT_WEBHOOK") => {
            "only webhook subscriptions have dead letters; `consent-ledger subscription consume` \
             delivers unacknowledged events again"
        }
        Some("REVISION_NOT_REACHED") => "is the revision of this ledger? try again later",
        Some("AUDIENCE_TOO_OLD") => {
            "filter the list in parts, or raise the server's --audience-age-max; data subjects that \
             are printed already must not be filtered again with --record-use"
        }
        Some("INDEX_OUT_OF_RANGE") => {
            "the ledger, or its part under a checkpoint, has fewer entries: ask for a lower index, \
             or try again later; `watch` without --from starts now"
        }
        None if status.message().contains("imeout expired") => "raise --timeout",
        // The transport's message: a server never names the protocol.
        None if status.message().contains("h2 protocol error") => {
            "the connection broke: is the server still running?"
        }
        _ => return None,
    })
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
            TokenError::Jws(JwsError::Signature).into(),
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
