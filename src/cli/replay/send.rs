//! Sends one act, and retries where that is safe.

use tonic::{Status, transport::Channel};

use super::Reject;
use crate::{
    cli::{
        error::{code_name, reason},
        retry::{backoff, is_away},
    },
    proto::{
        ListNamespacesRequest, RecordConsentRequest, RecordConsentResponse,
        catalog_service_client::CatalogServiceClient, consent_service_client::ConsentServiceClient,
    },
};

/// Sends acts.
#[derive(Clone)]
pub(super) struct Sender {
    client: ConsentServiceClient<Channel>,
    retries_max: u32,
}

/// Result of sending an act.
pub(super) struct Sent {
    /// Line of the act.
    pub line: u64,
    /// Number of retries.
    pub retries: u32,
    /// The answer.
    pub result: Result<RecordConsentResponse, Reject>,
}

impl Sender {
    pub(super) fn new(channel: Channel, retries_max: u32) -> Self {
        Self { client: ConsentServiceClient::new(channel), retries_max }
    }

    /// Waits until the server answers, with as many retries as for an act.
    pub(super) async fn wait_for(&self, channel: Channel) {
        let mut catalog = CatalogServiceClient::new(channel);
        for retries in 0..self.retries_max {
            match catalog.list_namespaces(ListNamespacesRequest::default()).await {
                Err(status) if is_away(&status) => tokio::time::sleep(backoff(retries)).await,
                _ => return,
            }
        }
    }

    pub(super) async fn send(&mut self, line: u64, request: RecordConsentRequest) -> Sent {
        let mut retries = 0;
        let result = loop {
            let status = match self.client.record_consent(request.clone()).await {
                Ok(answer) => break Ok(answer.into_inner()),
                Err(status) => status,
            };
            if retries == self.retries_max || !may_retry(&status, &request) {
                break Err(Reject {
                    line,
                    reason: reason(&status).unwrap_or_else(|| code_name(&status)),
                    message: status.message().to_owned(),
                });
            }
            tokio::time::sleep(backoff(retries)).await;
            retries += 1;
        };
        Sent { line, retries, result }
    }
}

/// An act that was refused for lack of capacity was not recorded. After other errors it may have
/// been, so a retry is safe only with an idempotency key.
fn may_retry(status: &Status, request: &RecordConsentRequest) -> bool {
    match code_name(status).as_str() {
        "RESOURCE_EXHAUSTED" => {
            matches!(reason(status).as_deref(), Some("TOO_MANY_APPENDS" | "TOO_MANY_REQUESTS"))
        }
        "UNAVAILABLE" if reason(status).as_deref() == Some("OPENING") => true,
        _ => is_away(status) && !request.idempotency_key.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Fault;

    #[test]
    fn an_act_that_may_be_on_record_is_tried_again_only_with_a_key() {
        let plain = RecordConsentRequest::default();
        let keyed = RecordConsentRequest { idempotency_key: "a".into(), ..plain.clone() };
        let away = Status::unavailable("gone");
        assert!(may_retry(&away, &keyed));
        assert!(!may_retry(&away, &plain));
        let opening = Status::from(Fault::Opening(None));
        assert!(may_retry(&opening, &plain), "nothing was recorded");
        let broken = Status::unknown("transport error");
        assert!(may_retry(&broken, &keyed) && !may_retry(&broken, &plain));
        assert!(!may_retry(&Status::invalid_argument("no"), &keyed));
        // A message that is too large is exhausted too, and stays too large.
        assert!(!may_retry(&Status::resource_exhausted("too large"), &keyed));
    }
}
