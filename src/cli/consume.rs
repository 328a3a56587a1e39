//! `subscription consume`: prints the messages of a durable subscription, and acknowledges them.

use std::time::Duration;

use clap::{Args, ValueEnum};
use futures_util::StreamExt as _;
use tonic::Status;

use super::{
    Context, Exit, client,
    error::CliError,
    stream::{print_consumed, stop_signals},
    watch::{report_interrupted, report_reconnected},
};
use crate::{
    client::{
        Client, ConsumeOptions, Consumer, Delivery, ServiceConfig,
        consume::{CREDITS_MAX, Consumed},
    },
    proto::{ConsumeResponse, consume_response::Message},
    setting::Within as _,
};

const AFTER_HELP: &str = "\
A message is acknowledged once it is printed, and the ledger records that. A program that reads
the output and may fail should store what it has read. When the connection breaks, the command
reconnects and resumes; --once ends it instead.

Examples:
  consent-ledger subscription consume mailer
  consent-ledger subscription consume mailer --shard 1 --json
  consent-ledger subscription consume mailer --ack none --count 10";

/// Options of `subscription consume`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct ConsumeArgs {
    /// Name of the subscription
    #[arg(value_name = "NAME")]
    name: String,
    /// Number of the shard, from 0
    #[arg(long, value_name = "N", default_value_t = 0)]
    shard: u32,
    /// Maximum number of messages in flight
    #[arg(long, value_name = "N", within = 1..=CREDITS_MAX, default_value_t = 256)]
    credits: u32,
    /// Whether to acknowledge printed messages
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = AckWhen::Auto)]
    ack: AckWhen,
    /// End after this many events
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Name of this consumer, for example a host name
    #[arg(long, value_name = "NAME", default_value = "")]
    consumer: String,
    /// How long an event may stay unacknowledged before it is delivered again [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    redelivery_timeout: Option<Duration>,
    /// End when the connection breaks
    #[arg(long)]
    once: bool,
    /// Also print the progress of the stream
    #[arg(long)]
    progress: bool,
}

/// When to acknowledge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum AckWhen {
    /// After printing.
    Auto,
    /// Never: every message will be delivered again.
    None,
}

pub(super) async fn run(args: ConsumeArgs, context: &mut Context) -> Result<Exit, CliError> {
    // A server that does not answer at the start is an error, not a broken connection.
    let channel = client::connect(&context.global).await?;
    let options = ConsumeOptions {
        shard: args.shard,
        credits: args.credits,
        redelivery_timeout: args.redelivery_timeout,
        consumer: args.consumer.clone(),
        ..ConsumeOptions::new(&args.name)
    };
    let mut consumer = Client::over(channel, ServiceConfig::none()).consume(options);
    let mut follower = Follower { left: args.count, args, interrupted: false };
    let ended = follower.follow(&mut consumer, context).await;
    // Sends the acknowledgements of what was printed, also after an error.
    consumer.close().await;
    ended.map(|()| Exit::Success)
}

struct Follower {
    args: ConsumeArgs,
    left: Option<u64>,
    interrupted: bool,
}

impl Follower {
    async fn follow(
        &mut self,
        consumer: &mut Consumer,
        context: &mut Context,
    ) -> Result<(), CliError> {
        let mut stop = stop_signals()?;
        while self.left != Some(0) {
            let consumed = tokio::select! {
                consumed = consumer.next() => consumed,
                () = stop.next() => return Ok(()),
            };
            match consumed {
                Some(Ok(consumed)) => self.handle(consumed, context)?,
                Some(Err(status)) => return Err(status.into()),
                None => return Err(CliError::failed("the server ended the stream")),
            }
        }
        Ok(())
    }

    fn handle(&mut self, consumed: Consumed, context: &mut Context) -> Result<(), CliError> {
        match consumed {
            Consumed::Delivery(delivery) => self.deliver(delivery, context),
            Consumed::Progress(progress) if self.args.progress => {
                let message = Some(Message::Progress(progress));
                print_consumed(&ConsumeResponse { message, attempt: 0 }, &mut context.out)
            }
            Consumed::Progress(_) => Ok(()),
            Consumed::Connected(started) => {
                if std::mem::take(&mut self.interrupted) {
                    report_reconnected(Some(started.next_index), context.out.json);
                }
                Ok(())
            }
            Consumed::Interrupted { status, retry_in } => self.interrupt(status, retry_in, context),
            _ => Ok(()),
        }
    }

    fn deliver(&mut self, delivery: Delivery, context: &mut Context) -> Result<(), CliError> {
        let message = Some(delivery.message().clone());
        let response = ConsumeResponse { message, attempt: delivery.attempt() };
        print_consumed(&response, &mut context.out)?;
        if delivery.index().is_some() {
            self.left = self.left.map(|left| left.saturating_sub(1));
        }
        // The message is printed and flushed: now it can be acknowledged.
        if self.args.ack == AckWhen::Auto {
            delivery.ack();
        }
        Ok(())
    }

    fn interrupt(
        &mut self,
        status: Status,
        retry_in: Duration,
        context: &Context,
    ) -> Result<(), CliError> {
        if self.args.once {
            return Err(status.into());
        }
        self.interrupted = true;
        report_interrupted(&status, retry_in, context.out.json);
        Ok(())
    }
}
