//! When a call may be tried again, and how long to wait before.

use std::time::Duration;

use tonic::Status;

use super::error::{code_name, reason};

const BACKOFF_FIRST: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// How long to wait after so many retries.
pub(super) fn backoff(retries: u32) -> Duration {
    BACKOFF_FIRST.saturating_mul(1 << retries.min(16)).min(BACKOFF_MAX)
}

/// Whether the server is not there, or may be gone in the middle of the call.
pub(super) fn is_away(status: &Status) -> bool {
    let reason = reason(status);
    match code_name(status).as_str() {
        // Lasts until an operator restarts the server, too long to wait for.
        "UNAVAILABLE" => reason.as_deref() != Some("WRITES_STOPPED"),
        "DEADLINE_EXCEEDED" | "CANCELLED" => true,
        // Messages of the transport for a connection that broke.
        _ => {
            let message = status.message();
            reason.is_none()
                && ["h2 protocol error", "transport error"]
                    .iter()
                    .any(|text| message.contains(text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound() {
        assert_eq!(backoff(0), BACKOFF_FIRST);
        assert_eq!(backoff(1), BACKOFF_FIRST * 2);
        assert_eq!(backoff(40), BACKOFF_MAX);
    }
}
