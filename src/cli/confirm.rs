//! `confirm`: completes a double opt-in.

use clap::Args;

use super::{Context, Exit, client, error::CliError, record::results_table, words};
use crate::proto::{ConfirmConsentRequest, Evidence, consent_service_client::ConsentServiceClient};

const AFTER_HELP: &str = "\
`record` prints the token for grants with the outcome pending_confirmation. A token works once.

Examples:
  consent-ledger confirm --token 5DkLb2vdXnGgRz0qNqYkYw3W1v7mIuWm0Zq8yT4cB1s
  consent-ledger confirm --token \"$TOKEN\" --touchpoint confirmation-mail --method link";

/// Options of `confirm`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct ConfirmArgs {
    /// Confirmation token
    #[arg(long, value_name = "TOKEN")]
    token: String,
    /// Data subject; if given, the token must be theirs
    #[arg(long, value_name = "NAMESPACE:ID", default_value = "", hide_default_value = true)]
    subject: String,
    /// Where it was confirmed, for example confirmation-mail
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    touchpoint: String,
    /// How it was confirmed, for example link
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    method: String,
    /// When it took effect (RFC 3339) [default: now]
    #[arg(long, value_name = "TIME", value_parser = words::readings)]
    effective_at: Option<words::Readings>,
    /// Key of your choice for this confirmation: with it, the command can safely be repeated
    #[arg(long, value_name = "KEY", default_value = "", hide_default_value = true)]
    idempotency_key: String,
}

pub(super) async fn run(args: ConfirmArgs, context: &mut Context) -> Result<Exit, CliError> {
    let mut client = ConsentServiceClient::new(client::connect(&context.global).await?);
    let evidence =
        Evidence { touchpoint: args.touchpoint, method: args.method, ..Evidence::default() };
    let request = ConfirmConsentRequest {
        token: args.token,
        subject: args.subject,
        effective_at: args.effective_at.map(|at| words::wire_time(at.earlier)),
        evidence: Some(evidence),
        idempotency_key: args.idempotency_key,
    };
    let answer = client.confirm_consent(request).await?.into_inner();
    if context.out.json {
        context.out.message(&answer)?;
        return Ok(Exit::Success);
    }
    let before = if answer.replayed { " (recorded before)" } else { "" };
    context.out.line(format!(
        "index {}  revision {}  confirms #{}{before}",
        answer.index, answer.revision, answer.request_index
    ))?;
    context.out.table(&results_table(&answer.results))?;
    Ok(Exit::Success)
}
