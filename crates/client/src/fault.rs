//! The meaning of a status for retries: whether one may help, and when.

use std::time::Duration;

use tonic::Status;
use tonic_types::StatusExt as _;

use crate::proto::StatusCode;

/// Domain of the server's own errors.
const ERROR_DOMAIN: &str = "consent.v1";
/// In trailers: how long to wait before the next try, in milliseconds; negative means never (gRFC
/// A6).
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// Codes after which a retry is useless if they come from the server itself: it refuses the
/// request.
const FINAL_CODES: [StatusCode; 10] = [
    StatusCode::InvalidArgument,
    StatusCode::NotFound,
    StatusCode::AlreadyExists,
    StatusCode::PermissionDenied,
    StatusCode::FailedPrecondition,
    StatusCode::Aborted,
    StatusCode::OutOfRange,
    StatusCode::Unimplemented,
    StatusCode::DataLoss,
    StatusCode::Unauthenticated,
];

/// The server's advice about a retry of the same request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Advice {
    /// No advice.
    None,
    /// Retry after this time.
    After(Duration),
    /// Do not retry.
    Never,
}

/// The documented reason of an error (`google.rpc.ErrorInfo`), if it is the server's own.
#[must_use]
pub fn reason(status: &Status) -> Option<String> {
    let info = status.get_details_error_info()?;
    (info.domain == ERROR_DOMAIN).then_some(info.reason)
}

/// The server's advice about a retry. Its own errors have a delay if a retry may help, and none if
/// not.
pub(super) fn advice(status: &Status) -> Advice {
    if let Some(value) = status.metadata().get(PUSHBACK) {
        let ms = value.to_str().ok().and_then(|text| text.parse::<u64>().ok());
        return ms.map_or(Advice::Never, |ms| Advice::After(Duration::from_millis(ms)));
    }
    let delay = status.get_details_retry_info().and_then(|info| info.retry_delay);
    match (delay, reason(status)) {
        (Some(delay), _) => Advice::After(delay),
        (None, Some(_)) => Advice::Never,
        (None, None) => Advice::None,
    }
}

/// Whether a stream that ended with this status may resume with the same request. Only the server's
/// own errors are final: a proxy that can not reach the server uses the same codes.
pub(super) fn heals(status: &Status) -> bool {
    let code = StatusCode::try_from(i32::from(status.code()));
    !code.is_ok_and(|code| FINAL_CODES.contains(&code)) || reason(status).is_none()
}

/// How long the server asks a stream to wait before it reconnects.
pub(super) fn stay_away(status: &Status) -> Option<Duration> {
    match advice(status) {
        Advice::After(delay) => Some(delay),
        Advice::None | Advice::Never => None,
    }
}

/// Whether the server refuses this field of the request.
pub(super) fn refuses_field(status: &Status, field: &str) -> bool {
    let refused = status.get_details_bad_request().map(|bad| bad.field_violations);
    refused.into_iter().flatten().any(|violation| violation.field == field)
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    fn ours(code: i32, reason: &str, delay: Option<Duration>) -> Status {
        let mut details = ErrorDetails::new();
        details.set_error_info(reason, ERROR_DOMAIN, []);
        if let Some(delay) = delay {
            details.set_retry_info(Some(delay));
        }
        Status::with_error_details(code.into(), "no", details)
    }

    #[test]
    fn the_servers_word_about_another_try_is_heard() {
        let second = Duration::from_secs(1);
        let away = ours(14, "SHUTTING_DOWN", Some(second));
        assert_eq!(advice(&away), Advice::After(second));
        assert_eq!(advice(&ours(14, "WRITES_STOPPED", None)), Advice::Never);
        assert_eq!(advice(&Status::unavailable("tcp connect error")), Advice::None);
        let mut pushed = Status::unavailable("later");
        pushed.metadata_mut().insert(PUSHBACK, "250".parse().unwrap());
        assert_eq!(advice(&pushed), Advice::After(Duration::from_millis(250)));
        pushed.metadata_mut().insert(PUSHBACK, "-1".parse().unwrap());
        assert_eq!(advice(&pushed), Advice::Never);
    }

    #[test]
    fn streams_end_only_on_what_can_not_heal() {
        for healing in [
            ours(14, "SHUTTING_DOWN", None),
            ours(8, "TOO_MANY_STREAMS", None),
            ours(13, "STATE_UNREADABLE", None),
            Status::unavailable("connection refused"),
            Status::unknown("h2 protocol error"),
            Status::internal("h2 protocol error"),
            Status::deadline_exceeded("Timeout expired"),
            Status::aborted("a proxy"),
            Status::unauthenticated("a proxy"),
            Status::permission_denied("a proxy"),
            Status::unimplemented("a proxy"),
            Status::not_found("a proxy"),
        ] {
            assert!(heals(&healing), "{healing:?}");
        }
        for last in [
            ours(10, "SUBSCRIPTION_TAKEN_OVER", None),
            ours(10, "SUBSCRIPTION_DELETED", None),
            ours(3, "INVALID_FIELD", None),
            ours(5, "SUBSCRIPTION_NOT_FOUND", None),
            ours(11, "INDEX_OUT_OF_RANGE", None),
            ours(16, "TOKEN_EXPIRED", None),
            ours(7, "NOT_ALLOWED", None),
        ] {
            assert!(!heals(&last), "{last:?}");
        }
    }
}
