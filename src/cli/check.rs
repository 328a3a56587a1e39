//! `check`: asks "may I?". The exit code is the answer.

use clap::Args;

use super::{
    Context, Exit,
    as_of::AsOfArgs,
    client,
    error::CliError,
    output::Tone,
    shapes::{self, DueObligation, Obligation},
    words,
};
use crate::proto::{CheckRequest, CheckResponse, Effect, check_service_client::CheckServiceClient};

const AFTER_HELP: &str = "\
Exit codes: 0 for ALLOW, 3 for DENY, 1 or 2 if there is no answer. No answer means no.

Examples:
  consent-ledger check --subject user:42 --purpose marketing.newsletter --channel email
  consent-ledger check --subject user:42 --purpose marketing.newsletter --channel email && send
  consent-ledger check --subject user:42 --purpose marketing.newsletter --channel email --token";

/// Options of `check`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct CheckArgs {
    /// Data subject
    #[arg(long, value_name = "NAMESPACE:ID")]
    subject: String,
    /// Purpose key
    #[arg(long, value_name = "KEY")]
    purpose: String,
    /// Channel key
    #[arg(long, value_name = "KEY")]
    channel: String,
    /// Data category to be used; may be given many times
    #[arg(long, value_name = "CATEGORY", value_delimiter = ',')]
    data_category: Vec<String>,
    /// Answer from at least this revision
    #[arg(long, value_name = "REVISION")]
    at_least_revision: Option<u64>,
    /// ISO 3166 region of the data subject, for example DE or US-CA
    #[arg(long, value_name = "REGION", default_value = "", hide_default_value = true)]
    region: String,
    #[command(flatten)]
    as_of: AsOfArgs,
    /// Ask for a decision token, which travels with the data and is verified offline
    #[arg(long)]
    token: bool,
}

pub(super) async fn run(args: CheckArgs, context: &mut Context) -> Result<Exit, CliError> {
    let mut client = CheckServiceClient::new(client::connect(&context.global).await?);
    let request = CheckRequest {
        subject: args.subject,
        purpose: args.purpose,
        channel: args.channel,
        data_categories: args.data_category,
        at_least_revision: args.at_least_revision,
        region: args.region,
        as_of: args.as_of.wire(),
        want_token: args.token,
    };
    let answer = client.check(request).await?.into_inner();
    // Whoever closes the output early still reads the exit code, and it must be the answer's.
    match print(&answer, context).and_then(|()| context.out.flush()) {
        Ok(()) | Err(CliError::StdoutClosed) => Ok(exit(answer.effect())),
        Err(error) => Err(error),
    }
}

/// Anything but a plain ALLOW is a DENY.
fn exit(effect: Effect) -> Exit {
    match effect {
        Effect::Allow => Exit::Success,
        Effect::Deny | Effect::Unspecified => Exit::Denied,
    }
}

fn print(answer: &CheckResponse, context: &mut Context) -> Result<(), CliError> {
    let decision = shapes::Decision::from(answer);
    let out = &mut context.out;
    if out.json {
        return out.object(&decision);
    }
    let tone = if answer.effect() == Effect::Allow { Tone::Good } else { Tone::Bad };
    let effect = out.paint(tone, &decision.effect.to_ascii_uppercase());
    out.line(format!("{effect}  {}", decision.reason))?;
    out.line(format!("status       {}", decision.status))?;
    if let Some(basis) = &decision.legal_basis {
        out.line(format!("legal basis  {basis}"))?;
    }
    if let Some(index) = decision.decided_by_index {
        out.line(format!("decided by   #{index}"))?;
    }
    out.line(format!("revision     {}", decision.revision))?;
    if let Some(time) = &decision.valid_until {
        out.line(format!("valid until  {time}"))?;
    }
    if !decision.data_categories.is_empty() {
        out.line(format!("only for     {}", decision.data_categories.join(", ")))?;
    }
    if let Some(time) = &decision.not_before {
        out.line(format!("not before   {time}"))?;
    }
    for due in &decision.obligations {
        out.line(format!("obligation   {}{}", obligation_text(&due.obligation), when(due)))?;
    }
    if let Some(token) = &decision.token {
        out.line(format!("token        {token}"))?;
    }
    Ok(())
}

/// When an obligation lets the use happen.
fn when(due: &DueObligation) -> String {
    match &due.not_before {
        Some(time) => format!(", so not before {time}"),
        None if due.indeterminate => ", and the time zone is not known well enough".to_owned(),
        None => String::new(),
    }
}

/// An obligation for people.
pub(super) fn obligation_text(obligation: &Obligation) -> String {
    let clock = |minute: u32| format!("{:02}:{:02}", minute / 60, minute % 60);
    match obligation {
        Obligation::FrequencyLimit { uses_max, period_ms } => {
            format!("at most {uses_max} in {}", words::span(*period_ms))
        }
        Obligation::QuietHours { start_minute, end_minute, time_zone } => {
            let zone = if time_zone.is_empty() { "local time" } else { time_zone };
            format!("not from {} to {} ({zone})", clock(*start_minute), clock(*end_minute))
        }
        Obligation::PreferredLanguage { language } => format!("in the language {language}"),
        Obligation::Unknown {} => "one that this program does not know".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_allow_is_zero() {
        assert_eq!(exit(Effect::Allow).code(), 0);
        assert_eq!(exit(Effect::Deny).code(), 3);
        assert_eq!(exit(Effect::Unspecified).code(), 3);
    }
}
