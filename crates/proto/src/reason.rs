//! Properties of error reasons, from the descriptors: status code, and when a retry may help.

use std::time::Duration;

use super::{ErrorReason, StatusCode};

impl ErrorReason {
    /// The reason as `google.rpc.ErrorInfo` carries it, for example `INVALID_FIELD`.
    #[must_use]
    pub fn reason(self) -> &'static str {
        let name = self.as_str_name();
        name.strip_prefix("ERROR_REASON_").unwrap_or(name)
    }

    /// The delay after which the same request may succeed; none if somebody must act first.
    #[must_use]
    pub fn retry_delay(self) -> Option<Duration> {
        self.retry_delay_ms().map(Duration::from_millis)
    }
}

include!("generated/reasons.rs");
