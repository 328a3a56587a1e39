//! The messages from and to consumers of durable subscriptions.

use std::time::Duration;

use crate::{
    domain::{Millis, OWNER_BYTES_MAX},
    messages::{snapshot_end, snapshot_subject},
    node::{Acknowledged, CREDITS_MAX, Consumer, Consuming, Delivery},
    proto::{self, consume_request::Message as Request, consume_response::Message as Response},
};

use super::{
    Invalid, PROGRESS_MS_DEFAULT, PROGRESS_MS_MAX, PROGRESS_MS_MIN, Problem, delivery,
    scalar::{at_most, key, line_within, span_ms_within, std_duration},
    subscription, timestamp,
};

/// The shortest redelivery timeout, in milliseconds.
pub const REDELIVERY_MS_MIN: i64 = 1_000;
/// The longest redelivery timeout, in milliseconds.
pub const REDELIVERY_MS_MAX: i64 = 3_600_000;
/// The default redelivery timeout, in milliseconds.
pub const REDELIVERY_MS_DEFAULT: i64 = 30_000;
/// The greatest number of single indexes in one acknowledgement.
pub const ACK_INDEXES_MAX: usize = 10_000;

/// A request of a consumer after the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConsumerRequest {
    /// The consumer takes this many more messages.
    Credit(u32),
    /// The consumer has processed messages.
    Acknowledged(Acknowledged),
}

/// What a consumer wants, and the interval of progress messages on an idle stream.
///
/// # Errors
/// The message does not start a stream, or the first field that is wrong.
pub fn consuming(message: Option<proto::ConsumeRequest>) -> Result<(Consuming, Duration), Invalid> {
    match message.and_then(|request| request.message) {
        Some(Request::Start(start)) => {
            parse_start(start).map_err(|invalid| invalid.within("start"))
        }
        Some(Request::Credit(_) | Request::Ack(_)) | None => Err(Problem::Required.at("start")),
    }
}

fn parse_start(start: proto::ConsumeStart) -> Result<(Consuming, Duration), Invalid> {
    let ms_within = |span: Option<_>, field, limits, default| {
        span.map_or(Ok(default), |span| span_ms_within(span, field, limits))
    };
    let redelivery_ms = ms_within(
        start.redelivery_timeout,
        "redelivery_timeout",
        (REDELIVERY_MS_MIN, REDELIVERY_MS_MAX),
        REDELIVERY_MS_DEFAULT,
    )?;
    let progress_ms = ms_within(
        start.progress_interval,
        "progress_interval",
        (PROGRESS_MS_MIN, PROGRESS_MS_MAX),
        PROGRESS_MS_DEFAULT,
    )?;
    line_within(&start.consumer, OWNER_BYTES_MAX, "consumer")?;
    let consuming = Consuming {
        subscription: key(&start.subscription, "subscription")?,
        shard: start.shard,
        credits: credits(start.credits)?,
        redeliver_after: Some(std_duration(redelivery_ms)),
        snapshot_token: start.snapshot_token,
        consumer: start.consumer,
        is_webhook: false,
    };
    Ok((consuming, std_duration(progress_ms)))
}

/// A request of a consumer after the first.
///
/// # Errors
/// The first field that is wrong.
pub fn consumer_request(message: proto::ConsumeRequest) -> Result<ConsumerRequest, Invalid> {
    match message.message {
        None => Err(Problem::Required.at("message")),
        Some(Request::Start(_)) => Err(Problem::OnlyFirst.at("start")),
        Some(Request::Credit(more)) => credits(more.credits)
            .map(ConsumerRequest::Credit)
            .map_err(|invalid| invalid.within("credit")),
        Some(Request::Ack(ack)) => acknowledged(ack)
            .map(ConsumerRequest::Acknowledged)
            .map_err(|invalid| invalid.within("ack")),
    }
}

fn acknowledged(ack: proto::ConsumeAck) -> Result<Acknowledged, Invalid> {
    at_most(ack.indexes.len(), ACK_INDEXES_MAX, "indexes")?;
    if ack.next_index.is_none() && ack.indexes.is_empty() {
        return Err(Problem::Required.at("next_index"));
    }
    let proto::ConsumeAck { next_index, indexes, whole_entries } = ack;
    Ok(Acknowledged { next_index, indexes, whole_entries, snapshot: false })
}

fn credits(credits: u32) -> Result<u32, Invalid> {
    at_most(credits as usize, CREDITS_MAX as usize, "credits")?;
    Ok(credits)
}

/// The first message to a consumer.
#[must_use]
pub fn consume_started(consumer: &Consumer) -> proto::ConsumeResponse {
    to_consumer(Response::Started(proto::ConsumeStarted {
        subscription: Some(subscription(consumer.subscription())),
        next_index: consumer.next_index(),
        took_over: consumer.took_over(),
    }))
}

/// The messages of a delivery to a consumer: several for an entry with several events, none for progress,
/// which is sent at its own interval.
#[must_use]
pub fn consume_delivery(delivered: &Delivery) -> Vec<proto::ConsumeResponse> {
    match delivered {
        Delivery::Event { event, passing, attempt } => {
            let parts = event.parts(passing).into_iter();
            parts.map(|(event, passing)| delivery(&event, &passing, *attempt)).collect()
        }
        Delivery::Snapshot(subject) => {
            vec![to_consumer(Response::Snapshot(snapshot_subject(subject)))]
        }
        Delivery::SnapshotEnd { revision, subjects } => {
            vec![to_consumer(Response::SnapshotEnd(snapshot_end(*revision, *subjects)))]
        }
        Delivery::CaughtUp { .. } => Vec::new(),
    }
}

/// How far a consumer's stream has come.
#[must_use]
pub fn consume_progress(next_index: u64, as_of: Millis) -> proto::ConsumeResponse {
    to_consumer(Response::Progress(proto::Progress { next_index, as_of: Some(timestamp(as_of)) }))
}

fn to_consumer(message: Response) -> proto::ConsumeResponse {
    proto::ConsumeResponse { message: Some(message), attempt: 0 }
}

#[cfg(test)]
mod tests {
    use prost_types::Duration as Span;

    use super::*;

    fn start() -> proto::ConsumeStart {
        proto::ConsumeStart {
            subscription: "crm".into(),
            credits: 10,
            consumer: "host-1".into(),
            ..proto::ConsumeStart::default()
        }
    }

    fn first(message: Request) -> Result<(Consuming, Duration), Invalid> {
        consuming(Some(proto::ConsumeRequest { message: Some(message) }))
    }

    fn later(message: Request) -> Result<ConsumerRequest, Invalid> {
        consumer_request(proto::ConsumeRequest { message: Some(message) })
    }

    fn ack(next_index: Option<u64>, indexes: usize) -> Request {
        let indexes = vec![7; indexes];
        Request::Ack(proto::ConsumeAck { next_index, indexes, whole_entries: false })
    }

    fn credit(credits: u32) -> Request {
        Request::Credit(proto::ConsumeCredit { credits })
    }

    #[test]
    fn missing_fields_have_defaults() {
        let (consuming, progress_interval) = first(Request::Start(start())).unwrap();
        assert_eq!(consuming.redeliver_after, Some(Duration::from_secs(30)));
        assert_eq!(progress_interval, Duration::from_secs(10));
        assert!(!consuming.is_webhook);
    }

    type Spoil = fn(&mut proto::ConsumeStart, Option<Span>);

    #[test]
    fn every_way_in_which_a_start_can_be_wrong_is_named() {
        let seconds = |seconds| Some(Span { seconds, nanos: 0 });
        let millis = |millis: i32| Some(Span { seconds: 0, nanos: millis * 1_000_000 });
        let cases: [(Spoil, Option<Span>, &str, bool); 9] = [
            (|start, _| start.subscription.clear(), None, "start.subscription", false),
            (|start, _| start.subscription = "*".into(), None, "start.subscription", false),
            (|start, _| start.credits = 10_001, None, "start.credits", true),
            (|start, _| start.consumer = "x".repeat(257), None, "start.consumer", true),
            (|start, _| start.consumer = "a\nb".into(), None, "start.consumer", false),
            (
                |start, span| start.redelivery_timeout = span,
                millis(999),
                "start.redelivery_timeout",
                true,
            ),
            (
                |start, span| start.redelivery_timeout = span,
                seconds(3_601),
                "start.redelivery_timeout",
                true,
            ),
            (
                |start, span| start.progress_interval = span,
                millis(99),
                "start.progress_interval",
                true,
            ),
            (
                |start, span| start.progress_interval = span,
                seconds(3_601),
                "start.progress_interval",
                true,
            ),
        ];
        for (spoil, span, field, is_limit) in cases {
            let mut start = start();
            spoil(&mut start, span);
            let invalid = first(Request::Start(start)).unwrap_err();
            assert_eq!(invalid.field, field);
            assert_eq!(invalid.problem.limit().is_some(), is_limit, "{invalid}");
        }
    }

    #[test]
    fn a_stream_starts_once_with_its_first_message() {
        let required = Problem::Required.at("start");
        assert_eq!(consuming(None).unwrap_err(), required);
        let empty = proto::ConsumeRequest { message: None };
        assert_eq!(consuming(Some(empty.clone())).unwrap_err(), required);
        assert_eq!(first(credit(1)).unwrap_err(), required);
        assert_eq!(first(ack(Some(1), 0)).unwrap_err(), required);
        assert_eq!(later(Request::Start(start())).unwrap_err(), Problem::OnlyFirst.at("start"));
        assert_eq!(consumer_request(empty).unwrap_err(), Problem::Required.at("message"));
    }

    #[test]
    fn credits_and_acknowledgements_are_bounded_and_say_something() {
        let too_many = Problem::TooMany { limit: 10_000, got: 10_001 };
        assert_eq!(later(credit(10_001)).unwrap_err(), too_many.clone().at("credit.credits"));
        assert_eq!(later(ack(Some(1), 10_001)).unwrap_err(), too_many.at("ack.indexes"));
        assert_eq!(later(ack(None, 0)).unwrap_err(), Problem::Required.at("ack.next_index"));
        assert_eq!(later(credit(10_000)), Ok(ConsumerRequest::Credit(10_000)));
        let Ok(ConsumerRequest::Acknowledged(acknowledged)) = later(ack(Some(0), 10_000)) else {
            panic!("within the limits")
        };
        let Acknowledged { next_index, indexes, snapshot, .. } = acknowledged;
        assert_eq!((next_index, indexes.len(), snapshot), (Some(0), 10_000, false));
    }
}
