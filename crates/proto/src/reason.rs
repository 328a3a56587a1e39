//! What the descriptors say of error reasons: status code, and when another try is worth it.

use std::time::Duration;

use super::{ErrorReason, StatusCode};

impl ErrorReason {
    /// The reason as `google.rpc.ErrorInfo` carries it, for example `INVALID_FIELD`.
    #[must_use]
    pub fn reason(self) -> &'static str {
        let name = self.as_str_name();
        name.strip_prefix("ERROR_REASON_").unwrap_or(name)
    }

    /// When the same request may be worth another try; none where it is not, before somebody acts.
    #[must_use]
    pub fn retry_delay(self) -> Option<Duration> {
        self.retry_delay_ms().map(Duration::from_millis)
    }
}

include!("generated/reasons.rs");
