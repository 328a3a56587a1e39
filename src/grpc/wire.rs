//! `consent.v1.WatchService` on the wire. Two things differ from the generated server: an event that goes
//! to many streams with all of its changes is encoded once for all of them, and a stream starts with
//! small buffers, because there are many streams.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{BufMut, Bytes};
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body::Body;
use prost::Message;
use tonic::{
    Status,
    body::Body as Answer,
    codec::{BufferSettings, Codec, EncodeBuf, Encoder},
    server::{Grpc, NamedService, ServerStreamingService},
};
use tonic_prost::ProstCodec;
use tower::Service;

use super::{
    convert,
    watch::{Outgoing, Watch},
};
use crate::{
    event::{Event, EventDetail},
    proto::{
        self,
        watch_service_server::{SERVICE_NAME, WatchServiceServer},
    },
    status::Fault,
    watch::Post,
};

/// The method that is served here.
const WATCH: &str = "/consent.v1.WatchService/Watch";
/// Initial size of a stream's buffers, in bytes; they grow as needed.
const BUFFER_BYTES: usize = 512;
/// How many bytes of ready messages go into one frame.
const FRAME_BYTES: usize = 32 << 10;

/// The service, over HTTP.
#[derive(Debug, Clone)]
pub struct WatchServer {
    watch: Arc<Watch>,
    rest: WatchServiceServer<Watch>,
    message_bytes_max: usize,
}

impl WatchServer {
    /// The service for requests of at most `message_bytes_max` bytes.
    #[must_use]
    pub fn new(watch: Watch, message_bytes_max: usize) -> Self {
        let watch = Arc::new(watch);
        let rest = WatchServiceServer::from_arc(Arc::clone(&watch));
        let rest = rest.max_decoding_message_size(message_bytes_max);
        Self { watch, rest, message_bytes_max }
    }
}

impl NamedService for WatchServer {
    const NAME: &'static str = SERVICE_NAME;
}

impl<B> Service<Request<B>> for WatchServer
where
    B: Body + Send + 'static,
    B::Error: Into<tonic::codegen::StdError> + Send + 'static,
{
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if request.uri().path() != WATCH {
            return self.rest.call(request);
        }
        let method = WatchMethod(Arc::clone(&self.watch));
        let mut grpc =
            Grpc::new(WatchCodec).apply_max_message_size_config(Some(self.message_bytes_max), None);
        Box::pin(async move { Ok(grpc.server_streaming(method, request).await) })
    }
}

struct WatchMethod(Arc<Watch>);

impl ServerStreamingService<proto::WatchRequest> for WatchMethod {
    type Response = Outgoing;
    type ResponseStream = super::watch::Messages;
    type Future = BoxFuture<'static, Result<tonic::Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: tonic::Request<proto::WatchRequest>) -> Self::Future {
        let watch = Arc::clone(&self.0);
        Box::pin(
            async move { Ok(tonic::Response::new(watch.messages(request.into_inner()).await?)) },
        )
    }
}

/// Protocol Buffers, for messages that may be encoded already.
struct WatchCodec;

impl Codec for WatchCodec {
    type Encode = Outgoing;
    type Decode = proto::WatchRequest;
    type Encoder = OutgoingEncoder;
    type Decoder = <ProstCodec<proto::WatchResponse, proto::WatchRequest> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        OutgoingEncoder
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<proto::WatchResponse, _>::raw_decoder(buffers())
    }
}

fn buffers() -> BufferSettings {
    BufferSettings::new(BUFFER_BYTES, FRAME_BYTES)
}

struct OutgoingEncoder;

impl Encoder for OutgoingEncoder {
    type Item = Outgoing;
    type Error = Status;

    fn encode(&mut self, item: Outgoing, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        write(&item, buf).map_err(|error| Fault::Internal(error.to_string()).into())
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}

fn write(item: &Outgoing, buf: &mut impl BufMut) -> Result<(), prost::EncodeError> {
    match item {
        Outgoing::Message(message) => message.encode(buf),
        Outgoing::Event(post, positions) if positions.len() == change_count(&post.event) => {
            buf.put_slice(encoded(post));
            Ok(())
        }
        Outgoing::Event(post, positions) => convert::event(&post.event, positions).encode(buf),
    }
}

/// The number of changes of an event; 0 for an event that passes or fails a filter as a whole.
fn change_count(event: &Event) -> usize {
    match &event.detail {
        EventDetail::Consent(consent) => consent.changes.len(),
        EventDetail::Ends(ends) => ends.iter().map(|end| end.changes.len()).sum(),
        EventDetail::Link(_) | EventDetail::Catalog(_) | EventDetail::Overdue(_) => 0,
    }
}

/// The encoding of an event with all of its changes.
fn encoded(post: &Post) -> &Bytes {
    post.wire.get_or_init(|| {
        let positions: Vec<usize> = (0..change_count(&post.event)).collect();
        convert::event(&post.event, &positions).encode_to_vec().into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{
            Action, Actor, ChangeRecord, Key, Millis, Outcome, PurposeName, ScopeKeys, Subject,
        },
        event::{CatalogDetail, CatalogEffect, ConsentDetail},
    };

    fn consent() -> EventDetail {
        let change = |action| ChangeRecord {
            action,
            scope: ScopeKeys { purpose: PurposeName::parse("news").ok(), channel: None },
            purpose_version: 0,
            expires_at: None,
            data_categories: Vec::new(),
            outcome: Outcome::Applied,
            linked_subjects: 0,
        };
        EventDetail::Consent(ConsentDetail {
            subject: Subject::parse("user:42").unwrap(),
            actor: Actor::Subject,
            effective_at: Millis(1),
            changes: vec![change(Action::Refuse), change(Action::Withdraw)],
            preferences_changed: true,
            cause: Some(3),
            reason: None,
            linked: vec![Subject::parse("email:jo@example.org").unwrap()],
            part: None,
        })
    }

    fn catalog() -> EventDetail {
        EventDetail::Catalog(CatalogDetail {
            purpose: Key::parse("news").ok(),
            channel: None,
            namespace: None,
            effects: vec![CatalogEffect::Retired],
            version: 1,
            oldest_compatible: 1,
        })
    }

    fn post(detail: EventDetail) -> Arc<Post> {
        Arc::new(Post::new(Arc::new(Event { index: 7, recorded_at: Millis(2), detail })))
    }

    fn bytes(item: &Outgoing) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(item, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn shared_bytes_equal_those_of_a_single_stream() {
        for (detail, all) in [(consent(), vec![0, 1]), (catalog(), vec![])] {
            let post = post(detail);
            let want = convert::event(&post.event, &all).encode_to_vec();
            for _ in 0..2 {
                assert_eq!(bytes(&Outgoing::Event(Arc::clone(&post), all.clone())), want);
            }
            assert_eq!(post.wire.get().map(Bytes::as_ref), Some(&want[..]), "encoded once");
        }
    }

    #[test]
    fn a_part_is_never_sent_as_the_whole() {
        let post = post(consent());
        let whole = bytes(&Outgoing::Event(Arc::clone(&post), vec![0, 1]));
        for part in [vec![], vec![0], vec![1]] {
            let want = convert::event(&post.event, &part).encode_to_vec();
            assert_eq!(bytes(&Outgoing::Event(Arc::clone(&post), part)), want);
            assert_ne!(want, whole);
        }
    }

    #[test]
    fn messages_are_encoded_as_they_are() {
        let progress = convert::progress(7, Millis(1));
        assert_eq!(bytes(&Outgoing::Message(progress.clone())), progress.encode_to_vec());
    }
}
