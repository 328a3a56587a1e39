//! `record`: records one act.

use clap::{
    Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches,
    builder::{PossibleValuesParser, TypedValueParser},
};
use jiff::Timestamp;

use super::{
    Context, Exit, client,
    error::CliError,
    output::{Table, Tone},
    shapes, words,
};
use crate::proto::{
    Action, Actor, Change, Evidence, Outcome, RecordConsentRequest, RecordConsentResponse, Scope,
    consent_service_client::ConsentServiceClient,
};

const AFTER_HELP: &str = "\
Scopes are PURPOSE:CHANNEL. Refusals, withdrawals and objections may also cover a whole purpose
(PURPOSE:*), a whole channel (*:CHANNEL) or everything (*:*); a grant is always exactly one cell.

Examples:
  consent-ledger record --subject user:42 --grant marketing.newsletter:email \\
      --actor subject --touchpoint onboarding
  consent-ledger record --subject user:42 --withdraw '*:sms' --idempotency-key call-7781";

/// Options of `record`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct RecordArgs {
    /// Data subject
    #[arg(long, value_name = "NAMESPACE:ID")]
    subject: String,
    #[command(flatten)]
    changes: Changes,
    /// Who acts
    #[arg(long, default_value = "subject", value_parser = actor())]
    actor: Actor,
    /// Where it happened, for example onboarding or preference-centre
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    touchpoint: String,
    /// Notice that was shown
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    notice_id: String,
    /// Version of the notice
    #[arg(long, value_name = "VERSION", default_value = "", hide_default_value = true)]
    notice_version: String,
    /// Language of the notice (BCP 47)
    #[arg(long, value_name = "TAG", default_value = "", hide_default_value = true)]
    language: String,
    /// How the choice was expressed, for example checkbox or voice
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    method: String,
    /// Free attribute of the evidence; may be given many times
    #[arg(long, value_name = "KEY=VALUE", value_parser = attribute)]
    attribute: Vec<(String, String)>,
    /// When it took effect (RFC 3339) [default: now]
    #[arg(long, value_name = "TIME", value_parser = words::time)]
    effective_at: Option<Timestamp>,
    /// When the grants expire (RFC 3339) [default: as the purpose says]
    #[arg(long, value_name = "TIME", value_parser = words::time)]
    expires_at: Option<Timestamp>,
    /// Version of the purpose that was shown, for the grants [default: the current one]
    #[arg(long, value_name = "N")]
    purpose_version: Option<u32>,
    /// Your key for this act: with it, the command can safely be run again
    #[arg(long, value_name = "KEY", default_value = "", hide_default_value = true)]
    idempotency_key: String,
}

fn actor() -> impl TypedValueParser<Value = Actor> {
    PossibleValuesParser::new(["subject", "guardian", "agent", "operator", "system", "import"])
        .try_map(|word| words::parse::<Actor>(&word))
}

fn attribute(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("must be KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// The changes of an act, in the order in which they were given.
#[derive(Debug, Clone, Default)]
struct Changes(Vec<(Action, Scope)>);

const CHANGE_FLAGS: [(&str, Action, &str); 4] = [
    ("grant", Action::Grant, "Consent is given for one cell"),
    ("refuse", Action::Refuse, "Consent was asked for and not given"),
    ("withdraw", Action::Withdraw, "Consent is taken back"),
    ("object", Action::Object, "Objection (GDPR Art. 21)"),
];

impl Args for Changes {
    fn augment_args(command: Command) -> Command {
        CHANGE_FLAGS.into_iter().fold(command, |command, (name, action, help)| {
            let parser = if action == Action::Grant { words::cell } else { words::scope };
            command.arg(
                Arg::new(name)
                    .long(name)
                    .help(format!("{help}; may be given many times"))
                    .value_name("SCOPE")
                    .value_parser(parser)
                    .value_delimiter(',')
                    .action(ArgAction::Append),
            )
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Changes {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut found = Vec::new();
        for (name, action, _) in CHANGE_FLAGS {
            let scopes = matches.get_many::<Scope>(name).into_iter().flatten();
            let places = matches.indices_of(name).into_iter().flatten();
            // Values of the environment or the file have no place: they come last.
            let places = places.chain(std::iter::repeat(usize::MAX));
            found.extend(places.zip(scopes).map(|(place, scope)| (place, (action, scope.clone()))));
        }
        found.sort_by_key(|(place, _)| *place);
        Ok(Self(found.into_iter().map(|(_, change)| change).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

pub(super) async fn run(args: RecordArgs, context: &mut Context) -> Result<Exit, CliError> {
    if args.changes.0.is_empty() {
        return Err(CliError::usage("nothing to record")
            .with_hint("give at least one of --grant, --refuse, --withdraw, --object"));
    }
    let mut client = ConsentServiceClient::new(client::connect(&context.global).await?);
    let answer = client.record_consent(request(args)).await?.into_inner();
    print(&answer, context)?;
    Ok(Exit::Success)
}

fn request(args: RecordArgs) -> RecordConsentRequest {
    let change = |(action, scope): (Action, Scope)| {
        let grant = action == Action::Grant;
        Change {
            action: action.into(),
            scope: Some(scope),
            purpose_version: args.purpose_version.filter(|_| grant).unwrap_or(0),
            expires_at: args.expires_at.filter(|_| grant).map(words::wire_time),
            ..Change::default()
        }
    };
    RecordConsentRequest {
        subject: args.subject,
        actor: args.actor.into(),
        changes: args.changes.0.into_iter().map(change).collect(),
        effective_at: args.effective_at.map(words::wire_time),
        evidence: Some(Evidence {
            touchpoint: args.touchpoint,
            notice_id: args.notice_id,
            notice_version: args.notice_version,
            language: args.language,
            method: args.method,
            attributes: args.attribute.into_iter().collect(),
            ..Evidence::default()
        }),
        idempotency_key: args.idempotency_key,
        ..RecordConsentRequest::default()
    }
}

fn print(answer: &RecordConsentResponse, context: &mut Context) -> Result<(), CliError> {
    let recorded = shapes::Recorded::from(answer);
    if context.out.json {
        return context.out.object(&recorded);
    }
    let before = if answer.replayed { " (recorded before)" } else { "" };
    context.out.line(format!("index {}  revision {}{before}", answer.index, answer.revision))?;
    let mut table = Table::new(&["OUTCOME", "ACTION", "SCOPE", "CAUSE", "EXPIRES"]);
    for (change, result) in recorded.results.into_iter().zip(&answer.results) {
        table.row(
            tone(result.outcome()),
            [
                change.outcome,
                change.action,
                words::scope_text(result.scope.as_ref()),
                change.cause_index.map(|index| format!("#{index}")).unwrap_or_default(),
                change.expires_at.unwrap_or_default(),
            ],
        );
    }
    context.out.table(&table)
}

/// How an outcome reads: a grant that was stopped must not look like one that counts.
pub(super) fn tone(outcome: Outcome) -> Tone {
    match outcome {
        Outcome::Applied => Tone::Good,
        Outcome::BlockedByStop => Tone::Bad,
        _ => Tone::Careful,
    }
}
