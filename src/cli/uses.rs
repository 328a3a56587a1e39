//! `use`: records that data was used.

use clap::Args;
use jiff::Timestamp;

use super::{Context, Exit, cell::CellArgs, client, error::CliError, words};
use crate::proto::{Reason, RecordUseRequest, consent_service_client::ConsentServiceClient};

const AFTER_HELP: &str = "\
A use that was not allowed when it happened is recorded too, and flagged as a deviation.

Exit codes: 0 recorded, 3 recorded as a deviation, 1 failed, 2 wrong usage.

Example:
  consent-ledger use --subject user:42 --purpose marketing.newsletter --channel email \\
      --campaign spring-2026";

/// Options of `use`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct UseArgs {
    /// Data subject
    #[arg(long, value_name = "NAMESPACE:ID")]
    subject: String,
    #[command(flatten)]
    cell: CellArgs,
    /// When it was used (RFC 3339) [default: now]
    #[arg(long, value_name = "TIME", value_parser = words::time)]
    used_at: Option<Timestamp>,
    /// Name of the segment; no personal data
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    segment: String,
    /// Name of the campaign; no personal data
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    campaign: String,
    /// Key of your choice for this use: with it, the command can safely be repeated
    #[arg(long, value_name = "KEY", default_value = "", hide_default_value = true)]
    idempotency_key: String,
}

pub(super) async fn run(args: UseArgs, context: &mut Context) -> Result<Exit, CliError> {
    let mut client = ConsentServiceClient::new(client::connect(&context.global).await?);
    let request = RecordUseRequest {
        subject: args.subject,
        purpose: args.cell.purpose,
        channel: args.cell.channel,
        data_categories: args.cell.data_category,
        region: args.cell.region,
        used_at: args.used_at.map(words::wire_time),
        segment: args.segment,
        campaign: args.campaign,
        idempotency_key: args.idempotency_key,
    };
    let used = client.record_use(request).await?.into_inner();
    if context.out.json {
        context.out.message(&used)?;
    } else {
        let verdict = if used.deviation { "deviation" } else { "allowed" };
        let before = if used.replayed { " (recorded before)" } else { "" };
        let reason = words::word::<Reason>(used.reason);
        let line = format!("index {}  {verdict}: {reason}{before}", used.index);
        context.out.line(line)?;
    }
    Ok(if used.deviation { Exit::Denied } else { Exit::Success })
}
