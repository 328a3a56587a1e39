//! `record`: records one act.

use std::{collections::BTreeSet, time::Duration};

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use jiff::Timestamp;

use super::{
    Context, Exit, act_text, client,
    error::CliError,
    output::{Table, Tone},
    words,
};
use crate::proto::{
    Action, Actor, Authority, Change, ChangeResult, ContactPreferences, Evidence, Outcome,
    QuietHours, RecordConsentRequest, RecordConsentResponse, Scope,
    consent_service_client::ConsentServiceClient,
};

const AFTER_HELP: &str = "\
Scopes are PURPOSE:CHANNEL. Refusals, withdrawals and objections may also cover a whole purpose
(PURPOSE:*), a class of purposes (marketing.*:CHANNEL, marketing.*:*), a whole channel (*:CHANNEL)
or everything (*:*); a grant is always exactly one cell.

Examples:
  consent-ledger record --subject user:42 --grant marketing.newsletter:email \\
      --actor subject --touchpoint onboarding
  consent-ledger record --subject user:43 --grant marketing.newsletter:email --actor guardian \\
      --relationship parent --authority-ends-at 2031-05-04T00:00:00Z
  consent-ledger record --subject user:42 --preferred-language de-AT --time-zone Europe/Vienna \\
      --quiet-hours 21:00-08:00
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
    #[arg(long, default_value = "subject", value_parser = words::parser::<Actor>())]
    actor: Actor,
    /// Where it happened, for example onboarding or preference-centre
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    touchpoint: String,
    /// Id of the notice that was shown
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
    /// When it took effect (RFC 3339) [default: now]. Of an hour that the clocks of a zone in brackets repeat
    /// or skip, stops take the later reading, and grants the earlier
    #[arg(long, value_name = "TIME", value_parser = words::readings)]
    effective_at: Option<words::Readings>,
    /// The act is reported after the fact: a stop takes effect at --effective-at, although the data
    /// subject may have done something since
    #[arg(long, requires = "effective_at")]
    reported_late: bool,
    /// When the grants expire (RFC 3339) [default: as the purpose says]
    #[arg(long, value_name = "TIME", value_parser = words::time)]
    expires_at: Option<Timestamp>,
    /// Version of the purpose that was shown, for the grants [default: the current one]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    purpose_version: Option<u32>,
    /// Data category that the grants are narrowed to; may be given many times [default: all]
    #[arg(long, value_name = "CATEGORY", value_delimiter = ',')]
    data_category: Vec<String>,
    /// Validity of the confirmation token [default: --confirmation-validity of the server]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    confirmation_validity: Option<Duration>,
    /// Wait until a signed checkpoint covers the act, and print the checkpoint
    #[arg(long)]
    wait_for_checkpoint: bool,
    /// Record the act only if it says something that does not stand already: for signals that come with
    /// every page view
    #[arg(long)]
    only_news: bool,
    /// Key of your choice for this act: with it, the command can safely be repeated
    #[arg(long, value_name = "KEY", default_value = "", hide_default_value = true)]
    idempotency_key: String,
    // Last, because their headings apply to all options that follow.
    #[command(flatten)]
    authority: AuthorityArgs,
    #[command(flatten)]
    contact: ContactArgs,
}

/// Authority of a guardian or agent.
#[derive(Debug, Args)]
#[command(next_help_heading = "Guardians and agents")]
struct AuthorityArgs {
    /// Relation of the guardian or agent to the data subject, for example parent or call-centre
    #[arg(long, value_name = "TEXT")]
    relationship: Option<String>,
    /// Who the guardian or agent is, for example user:7 or staff:114
    #[arg(
        long,
        value_name = "WHO",
        default_value = "",
        hide_default_value = true,
        requires = "relationship"
    )]
    representative: String,
    /// How the authority was established, for example a document's reference
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true,
        requires = "relationship"
    )]
    authority_proof: String,
    /// When the authority ends (RFC 3339), for example the coming of age
    #[arg(long, value_name = "TIME", value_parser = words::time, requires = "relationship")]
    authority_ends_at: Option<Timestamp>,
}

impl AuthorityArgs {
    fn wire(self) -> Option<Authority> {
        Some(Authority {
            relationship: self.relationship?,
            representative: self.representative,
            proof: self.authority_proof,
            ends_at: self.authority_ends_at.map(words::wire_time),
        })
    }
}

/// Contact preferences of the data subject.
#[derive(Debug, Args)]
#[command(next_help_heading = "Contact preferences")]
struct ContactArgs {
    /// IANA time zone that is plausible for the data subject; may be given many times
    #[arg(long, value_name = "ZONE", value_delimiter = ',')]
    time_zone: Vec<String>,
    /// Language that the data subject wants to be addressed in (BCP 47)
    #[arg(long, value_name = "TAG", default_value = "", hide_default_value = true)]
    preferred_language: String,
    /// Hours without messages, in the data subject's local time
    #[arg(long, value_name = "HH:MM-HH:MM", value_parser = quiet_hours)]
    quiet_hours: Option<QuietHours>,
    /// Preference to remove: `time_zones`, `language`, `quiet_hours` or `frequency_limit`
    #[arg(long, value_name = "FIELD", value_delimiter = ',')]
    clear_preference: Vec<String>,
}

impl ContactArgs {
    fn wire(self) -> Option<ContactPreferences> {
        let preferences = ContactPreferences {
            time_zones: self.time_zone,
            language: self.preferred_language,
            quiet_hours: self.quiet_hours,
            frequency_limit: None,
            clear: self.clear_preference,
        };
        (preferences != ContactPreferences::default()).then_some(preferences)
    }
}

fn quiet_hours(text: &str) -> Result<QuietHours, String> {
    let minute = |clock: &str| {
        let (hours, minutes) = clock.split_once(':')?;
        let (hours, minutes): (u32, u32) = (hours.parse().ok()?, minutes.parse().ok()?);
        (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)
    };
    let span = text.split_once('-').and_then(|(from, to)| Some((minute(from)?, minute(to)?)));
    let (start_minute, end_minute) =
        span.ok_or("must be HH:MM-HH:MM, for example 21:00-08:00".to_owned())?;
    Ok(QuietHours { start_minute, end_minute, time_zone: String::new() })
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
            let positions = matches.indices_of(name).into_iter().flatten();
            // Values of the environment or the file have no position: they come last.
            let positions = positions.chain(std::iter::repeat(usize::MAX));
            let changes = positions.zip(scopes);
            found.extend(changes.map(|(position, scope)| (position, (action, scope.clone()))));
        }
        found.sort_by_key(|(position, _)| *position);
        Ok(Self(found.into_iter().map(|(_, change)| change).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

pub(super) async fn run(args: RecordArgs, context: &mut Context) -> Result<Exit, CliError> {
    check_fields_of_grants(&args)?;
    check_attributes(&args)?;
    let given = args.subject.clone();
    let request = request(args)?;
    let has_hours_of_no_zone = request.preferences.as_ref().is_some_and(|preferences| {
        preferences.quiet_hours.is_some() && preferences.time_zones.is_empty()
    });
    if request.changes.is_empty() && request.preferences.is_none() {
        return Err(CliError::usage("nothing to record").with_hint(
            "give at least one of --grant, --refuse, --withdraw, --object, or a preference",
        ));
    }
    let mut client = ConsentServiceClient::new(client::connect(&context.global).await?);
    let answer = client.record_consent(request).await?.into_inner();
    print(&answer, &given, context)?;
    if has_hours_of_no_zone && !context.out.json {
        eprintln!(
            "hint: quiet hours need a time zone: give --time-zone, unless one is on record; without one, \
             checks are NOT NOW unless they name a --region"
        );
    }
    let is_refused = |result: &ChangeResult| result.outcome() == Outcome::NotRecorded;
    Ok(if answer.results.iter().any(is_refused) { Exit::Failed } else { Exit::Success })
}

/// An option of grants without a grant is a mistake: a stop does not end, and is never narrowed.
fn check_fields_of_grants(args: &RecordArgs) -> Result<(), CliError> {
    if args.changes.0.iter().any(|(action, _)| *action == Action::Grant) {
        return Ok(());
    }
    let given = [
        ("--expires-at", args.expires_at.is_some()),
        ("--purpose-version", args.purpose_version.is_some()),
        ("--data-category", !args.data_category.is_empty()),
        ("--confirmation-validity", args.confirmation_validity.is_some()),
    ];
    match given.into_iter().find(|(_, is_given)| *is_given) {
        None => Ok(()),
        Some((name, _)) => {
            let message = format!("{name} is only for grants: a stop has no end and no exception");
            Err(CliError::usage(message).with_hint(format!("leave {name} out, or add --grant")))
        }
    }
}

/// Evidence holds one value of an attribute: a second one would replace the first.
fn check_attributes(args: &RecordArgs) -> Result<(), CliError> {
    let mut keys = BTreeSet::new();
    match args.attribute.iter().find(|(key, _)| !keys.insert(key)) {
        None => Ok(()),
        Some((key, _)) => Err(CliError::usage(format!(
            "--attribute {key} is given twice, and can have one value"
        ))),
    }
}

/// The moment of an act at a time that its clocks may repeat or skip: the later for stops, the earlier for
/// grants.
fn moment(changes: &[(Action, Scope)], at: words::Readings) -> Result<Timestamp, CliError> {
    let grants = changes.iter().filter(|(action, _)| *action == Action::Grant).count();
    if grants == 0 {
        return Ok(at.later);
    }
    if grants == changes.len() || at.earlier == at.later {
        return Ok(at.earlier);
    }
    let message = "the clocks of the zone of --effective-at repeat or skip this hour, and grants take another \
                   reading of it than stops";
    Err(CliError::usage(message).with_hint("write its offset from UTC, or record two acts"))
}

fn request(args: RecordArgs) -> Result<RecordConsentRequest, CliError> {
    let effective_at = args.effective_at.map(|at| moment(&args.changes.0, at)).transpose()?;
    let confirmation_validity = args.confirmation_validity.map(words::wire_span).transpose()?;
    let change = |(action, scope): (Action, Scope)| {
        let grant = action == Action::Grant;
        Change {
            action: action.into(),
            scope: Some(scope),
            purpose_version: args.purpose_version.filter(|_| grant).unwrap_or(0),
            expires_at: args.expires_at.filter(|_| grant).map(words::wire_time),
            data_categories: if grant { args.data_category.clone() } else { Vec::new() },
        }
    };
    Ok(RecordConsentRequest {
        subject: args.subject,
        actor: args.actor.into(),
        changes: args.changes.0.into_iter().map(change).collect(),
        effective_at: effective_at.map(words::wire_time),
        reported_late: args.reported_late,
        evidence: Some(Evidence {
            touchpoint: args.touchpoint,
            notice_id: args.notice_id,
            notice_version: args.notice_version,
            language: args.language,
            method: args.method,
            attributes: args.attribute.into_iter().collect(),
            authority: args.authority.wire(),
            ..Evidence::default()
        }),
        idempotency_key: args.idempotency_key,
        preferences: args.contact.wire(),
        confirmation_validity,
        wait_for_checkpoint: args.wait_for_checkpoint,
        record_only_news: args.only_news,
    })
}

fn print(
    answer: &RecordConsentResponse,
    given: &str,
    context: &mut Context,
) -> Result<(), CliError> {
    if context.out.json {
        return context.out.message(answer);
    }
    let before = if answer.replayed { " (recorded before)" } else { "" };
    if answer.nothing_recorded {
        context.out.line(format!("nothing recorded: entry {} says it already", answer.index))?;
    } else {
        context
            .out
            .line(format!("index {}  revision {}{before}", answer.index, answer.revision))?;
    }
    if let Some(confirmation) = &answer.confirmation {
        let until = words::rfc3339_or_empty(confirmation.expires_at.as_ref());
        context.out.line(format!("confirm with {}  until {until}", confirmation.token))?;
    }
    if !answer.subject.is_empty() && answer.subject != given {
        context.out.line(format!("data subject {}", answer.subject))?;
    }
    context.out.table(&results_table(&answer.results))?;
    for text in answer.results.iter().filter_map(stop_without_effect) {
        let text = context.out.paint(Tone::Careful, &text);
        context.out.line(text)?;
    }
    for warning in &answer.warnings {
        let text = format!("warning: {}", warning.message);
        let text = context.out.paint(Tone::Careful, &text);
        context.out.line(text)?;
    }
    match answer.checkpoint.as_str() {
        "" => Ok(()),
        checkpoint => context.out.line(format!("\n{}", checkpoint.trim_end())),
    }
}

/// What a stop means that changed nothing: the word of its outcome does not say whether it stands.
fn stop_without_effect(result: &ChangeResult) -> Option<String> {
    if result.action() == Action::Grant {
        return None;
    }
    let scope = words::scope_text(result.scope.as_ref());
    match result.outcome() {
        Outcome::SupersededByLater => Some(format!(
            "the stop of {scope} is on record and changes nothing: a later act of the data subject \
             counts. Where that is a grant, they stay in"
        )),
        Outcome::NoEffect => Some(format!("{scope} stays stopped: there was nothing to end")),
        _ => None,
    }
}

/// Outcomes of changes.
pub(super) fn results_table(results: &[ChangeResult]) -> Table {
    let mut table = Table::new(&["OUTCOME", "ACTION", "SCOPE", "CAUSE", "EXPIRES"]);
    for result in results {
        table.row(
            tone(result.outcome()),
            [
                act_text::outcome(result),
                words::word::<Action>(result.action),
                words::scope_text(result.scope.as_ref()),
                result.cause_index.map(|index| format!("#{index}")).unwrap_or_default(),
                words::rfc3339_or_empty(result.expires_at.as_ref()),
            ],
        );
    }
    table
}

/// Colour of an outcome: a blocked grant must not look like an applied one.
pub(super) fn tone(outcome: Outcome) -> Tone {
    match outcome {
        Outcome::Applied => Tone::Good,
        Outcome::BlockedByStop | Outcome::NotRecorded => Tone::Bad,
        _ => Tone::Careful,
    }
}
