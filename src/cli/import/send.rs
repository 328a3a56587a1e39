//! Sends rows, with retries while the server is busy or unavailable. The server recognizes a row that
//! it has recorded, so any stream may be sent again.

use std::{ops::Range, sync::Arc};

use prost::Message as _;
use tonic::{Status, transport::Channel};

use crate::{
    cli::{
        client::MESSAGE_BYTES_MAX,
        error::{CliError, code_name, reason},
        retry::{backoff, is_away},
    },
    proto::{
        ImportConsentsRequest, ImportConsentsResponse, ImportRow, ImportRows, ImportStart,
        consent_service_client::ConsentServiceClient, import_consents_request::Message,
    },
};

/// Maximum number of rows in a message.
const MESSAGE_ROWS_MAX: usize = 500;
/// Maximum size of a message, unless a single row is larger. Servers accept 4 MiB by default.
const MESSAGE_ROW_BYTES_MAX: usize = 1024 * 1024;

/// Sends rows.
pub(super) struct Sender {
    client: ConsentServiceClient<Channel>,
    start: ImportStart,
    retries_max: u32,
}

impl Sender {
    pub(super) fn new(channel: Channel, start: ImportStart, retries_max: u32) -> Self {
        let client =
            ConsentServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        Self { client, start, retries_max }
    }

    /// Sends rows as one stream.
    pub(super) async fn send(
        &mut self,
        rows: Vec<ImportRow>,
    ) -> Result<ImportConsentsResponse, CliError> {
        let rows = Arc::new(rows);
        let mut retries = 0;
        loop {
            let messages = tokio_stream::iter(messages(self.start.clone(), Arc::clone(&rows)));
            let status = match self.client.import_consents(messages).await {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) => status,
            };
            if retries == self.retries_max || !may_retry(&status) {
                return Err(status.into());
            }
            tokio::time::sleep(backoff(retries)).await;
            retries += 1;
        }
    }
}

/// The messages of a stream, each made when it is sent.
fn messages(
    start: ImportStart,
    rows: Arc<Vec<ImportRow>>,
) -> impl Iterator<Item = ImportConsentsRequest> + Send {
    let messages = parts(&rows).into_iter().map(move |part| {
        let rows = rows.get(part).map(<[_]>::to_vec).unwrap_or_default();
        Message::Rows(ImportRows { rows })
    });
    std::iter::once(Message::Start(start))
        .chain(messages)
        .map(|message| ImportConsentsRequest { message: Some(message) })
}

fn parts(rows: &[ImportRow]) -> Vec<Range<usize>> {
    let (mut parts, mut start, mut bytes) = (Vec::new(), 0, 0);
    for (index, row) in rows.iter().enumerate() {
        let row_bytes = row.encoded_len();
        let is_full =
            index - start == MESSAGE_ROWS_MAX || bytes + row_bytes > MESSAGE_ROW_BYTES_MAX;
        if is_full && index > start {
            parts.push(start..index);
            (start, bytes) = (index, 0);
        }
        bytes += row_bytes;
    }
    parts.push(start..rows.len());
    parts
}

fn may_retry(status: &Status) -> bool {
    let reason = reason(status);
    match code_name(status).as_str() {
        "RESOURCE_EXHAUSTED" => matches!(
            reason.as_deref(),
            Some("TOO_MANY_STREAMS" | "TOO_MANY_APPENDS" | "TOO_MANY_REQUESTS")
        ),
        _ => is_away(status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_bounded_by_rows_and_bytes() {
        let row = |bytes: usize| ImportRow { subject: "x".repeat(bytes), ..Default::default() };
        assert_eq!(parts(&vec![row(10); 1_001]), [0..500, 500..1_000, 1_000..1_001]);
        let half = MESSAGE_ROW_BYTES_MAX / 2;
        let rows = [row(half), row(half), row(3 * half), row(1)];
        assert_eq!(parts(&rows), [0..1, 1..2, 2..3, 3..4]);
    }

    #[test]
    fn temporary_failures_are_retried() {
        assert!(may_retry(&Status::unavailable("gone")));
        assert!(may_retry(&Status::cancelled("Timeout expired")));
        assert!(may_retry(&Status::unknown("h2 protocol error: error reading a body")));
        // A message that is too large is exhausted too, and stays too large.
        assert!(!may_retry(&Status::resource_exhausted("too large")));
        assert!(!may_retry(&Status::invalid_argument("no")));
    }
}
