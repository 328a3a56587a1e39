//! `check`: asks "may I?". The exit code is the answer.

use clap::Args;

use super::{
    Context, Exit,
    as_of::AsOfArgs,
    cell::CellArgs,
    client,
    error::CliError,
    near::{self, Keys},
    output::Tone,
    words,
};
use crate::proto::{
    CheckRequest, CheckResponse, Effect, LegalBasis, Obligation, Reason, Status,
    check_service_client::CheckServiceClient, obligation::Kind,
};

const AFTER_HELP: &str = "\
Exit codes: 0 for ALLOW, 3 for DENY, 4 for NOT NOW, 1 or 2 if there is no answer. Treat a missing
answer as DENY. NOT NOW is an ALLOW whose obligations are not met at this moment: a frequency
limit is used up, or it is within quiet hours.

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
    #[command(flatten)]
    cell: CellArgs,
    /// Answer from at least this revision
    #[arg(long, value_name = "REVISION")]
    at_least_revision: Option<u64>,
    #[command(flatten)]
    as_of: AsOfArgs,
    /// Request a decision token, which can be passed on with the data and verified offline
    #[arg(long)]
    token: bool,
    /// Answer ALLOW where obligations alone make it NOT NOW: for a message that must go out now
    #[arg(long)]
    ignore_obligations: bool,
}

pub(super) async fn run(args: CheckArgs, context: &mut Context) -> Result<Exit, CliError> {
    let mut client = CheckServiceClient::new(client::connect(&context.global).await?);
    let (purpose, channel) = (args.cell.purpose, args.cell.channel);
    let namespace = args.subject.split_once(':').map(|(namespace, _)| namespace.to_owned());
    let given = args.subject.clone();
    let request = CheckRequest {
        subject: args.subject,
        purpose: purpose.clone(),
        channel: channel.clone(),
        data_categories: args.cell.data_category,
        at_least_revision: args.at_least_revision,
        region: args.cell.region,
        as_of: args.as_of.wire(),
        want_token: args.token,
        ignore_obligations: args.ignore_obligations,
    };
    let answer = client.check(request).await?.into_inner();
    let printed = print(&answer, &given, context);
    context.out.finish(printed)?;
    let unknown = Keys::unknown([answer.reason()], &purpose, &channel, namespace.as_deref());
    near::advise(&unknown, context).await;
    Ok(Exit::of(answer.effect()))
}

fn print(answer: &CheckResponse, given: &str, context: &mut Context) -> Result<(), CliError> {
    let out = &mut context.out;
    if out.json {
        return out.message(answer);
    }
    let (tone, effect) = words::verdict(answer.effect());
    let wait = if answer.effect() == Effect::NotNow { waiting(answer) } else { String::new() };
    let effect = out.paint(tone, &format!("{effect}{wait}"));
    out.line(format!("{effect}  {}", words::word::<Reason>(answer.reason)))?;
    if !answer.subject.is_empty() && answer.subject != given {
        out.line(format!("data subject {}", answer.subject))?;
    }
    if answer.obligations_ignored {
        let warning = out.paint(Tone::Careful, "obligations are ignored: without that, NOT NOW");
        out.line(warning)?;
    }
    out.line(format!("status       {}", words::word::<Status>(answer.status)))?;
    if answer.legal_basis != 0 {
        out.line(format!("legal basis  {}", words::word::<LegalBasis>(answer.legal_basis)))?;
    }
    if let Some(index) = answer.decided_by_index {
        out.line(format!("decided by   #{index}"))?;
    }
    out.line(format!("revision     {}", answer.revision))?;
    if let Some(time) = &answer.valid_until {
        out.line(format!("valid until  {}", words::rfc3339(time)))?;
    }
    if !answer.data_categories.is_empty() {
        out.line(format!("only for     {}", answer.data_categories.join(", ")))?;
    }
    if answer.obligations_ignored
        && let Some(time) = &answer.not_before
    {
        out.line(format!("not before   {}", words::rfc3339(time)))?;
    }
    // What an ALLOW permits at this moment has no moment to wait for.
    let is_met = answer.effect() == Effect::Allow && !answer.obligations_ignored;
    for obligation in &answer.obligations {
        let when = if is_met { String::new() } else { when(obligation) };
        out.line(format!("obligation   {}{when}", obligation_text(obligation)))?;
    }
    if !answer.token.is_empty() {
        out.line(format!("token        {}", answer.token))?;
    }
    Ok(())
}

/// How long to wait after NOT NOW.
fn waiting(answer: &CheckResponse) -> String {
    match &answer.not_before {
        Some(time) => format!(", not before {}", words::rfc3339(time)),
        None if answer.obligations.iter().any(|obligation| obligation.leaves_no_moment) => {
            ": the quiet hours leave no moment of any day".to_owned()
        }
        None => ": no moment is known to be right".to_owned(),
    }
}

/// The earliest time at which an obligation allows the use.
fn when(obligation: &Obligation) -> String {
    match &obligation.not_before {
        Some(time) => format!(", so not before {}", words::rfc3339(time)),
        None if obligation.leaves_no_moment => ", which leaves no moment of any day".to_owned(),
        None if obligation.indeterminate => {
            ", and the time zone is too uncertain to tell when: record one with \
             `record --time-zone`, or check with --region"
                .to_owned()
        }
        None => String::new(),
    }
}

/// An obligation as text.
fn obligation_text(obligation: &Obligation) -> String {
    match &obligation.kind {
        Some(Kind::FrequencyLimit(limit)) => words::frequency_limit(limit),
        Some(Kind::QuietHours(hours)) => {
            let (start, end) = (words::clock(hours.start_minute), words::clock(hours.end_minute));
            let zone = if hours.time_zone.is_empty() { "local time" } else { &hours.time_zone };
            format!("not from {start} to {end} ({zone})")
        }
        Some(Kind::PreferredLanguage(preferred)) => {
            format!("in the language {}", preferred.language)
        }
        None => "one that this program does not know".to_owned(),
    }
}
