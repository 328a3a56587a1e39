//! `webhooks`: lists and replays dead letters, and verifies a delivery offline.

use std::{
    collections::BTreeSet,
    env,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde::Serialize;
use zeroize::Zeroizing;

use super::{
    Context, Exit, client,
    error::CliError,
    output::{Table, Tone},
    trust::{read_bytes, read_text},
    words,
};
use crate::{
    proto::{DeadLetter, ListDeadLettersRequest, ReplayDeadLettersRequest},
    webhook::signature::{Secret, SignatureError},
};

/// Text below the help of `webhooks`.
pub(super) const AFTER_HELP: &str = "\
A subscription with a URL is delivered by HTTP. An event that the endpoint refuses until all
retries are used up becomes a dead letter. Dead letters are recorded, and `propagation` shows
them.

Examples:
  consent-ledger webhooks dead-letters crm
  consent-ledger webhooks replay crm --all";

/// The subcommands of `webhooks`.
#[derive(Debug, Subcommand)]
pub enum WebhooksCommand {
    /// List the events that could not be delivered
    DeadLetters(DeadLettersArgs),
    /// Deliver dead letters again
    Replay(ReplayArgs),
    /// Verify the signature of a delivery, with no server; exits with 1 if it is not good
    Verify(Box<VerifyArgs>),
}

const DEAD_LETTERS_HELP: &str = "\
FAILED is the index of the entry that records the dead letter. STATUS is the HTTP status of the
last response; it is empty if there was none.

Examples:
  consent-ledger webhooks dead-letters crm
  consent-ledger webhooks dead-letters crm --json";

/// Options of `webhooks dead-letters`.
#[derive(Debug, Args)]
#[command(after_help = DEAD_LETTERS_HELP)]
pub struct DeadLettersArgs {
    /// Name of the subscription
    #[arg(value_name = "NAME")]
    name: String,
}

const REPLAY_HELP: &str = "\
Each dead letter is tried once. It is removed from the list if the delivery succeeds.

Examples:
  consent-ledger webhooks replay crm 4711 4712
  consent-ledger webhooks replay crm --all";

/// Options of `webhooks replay`.
#[derive(Debug, Args)]
#[command(after_help = REPLAY_HELP)]
pub struct ReplayArgs {
    /// Name of the subscription
    #[arg(value_name = "NAME")]
    name: String,
    /// Ledger indexes of the events, as `webhooks dead-letters` prints them
    #[arg(value_name = "INDEX", required_unless_present = "all", conflicts_with = "all")]
    indexes: Vec<u64>,
    /// All dead letters of the subscription
    #[arg(long)]
    all: bool,
}

const VERIFY_HELP: &str = "\
Helps a receiver to find out whether a delivery is wrong or the code that refuses it. Give the
three headers and the exact bytes of the body. A delivery is good if one of its signatures was
made with the secret over id, timestamp and body, and if its timestamp is close to the current
time.

The secret comes from an environment variable or a file: every user of the machine can read the
command line.

Exit codes: 0 good, 1 not good, 2 wrong usage.

Examples:
  consent-ledger webhooks verify body.json --secret-file secret.txt --id \"$ID\" \\
      --timestamp 1764339600 --signature \"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=\"
  consent-ledger webhooks verify --secret-env SECRET --id \"$ID\" --timestamp \"$TIMESTAMP\" \\
      --signature \"$SIGNATURE\" --at 2026-01-31T12:00:00Z --json < body.json";

/// Options of `webhooks verify`.
#[derive(Debug, Args)]
#[command(after_help = VERIFY_HELP)]
pub struct VerifyArgs {
    /// File with the body, or - for standard input
    #[arg(value_name = "FILE", default_value = "-")]
    body: PathBuf,
    /// Environment variable with the secret (`whsec_…`)
    #[arg(long, value_name = "VARIABLE")]
    secret_env: Option<String>,
    /// File with the secret
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Header webhook-id
    #[arg(long, value_name = "ID")]
    id: String,
    /// Header webhook-timestamp, in seconds since the Unix epoch
    #[arg(long, value_name = "SECONDS", allow_hyphen_values = true)]
    timestamp: String,
    /// Header webhook-signature
    #[arg(long, value_name = "SIGNATURES")]
    signature: String,
    /// Maximum difference between the timestamp and the time of arrival, in either direction
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "5m",
        value_parser = humantime::parse_duration
    )]
    tolerance: Duration,
    /// When the delivery arrived [default: now]
    #[arg(long, value_name = "TIME", value_parser = words::time)]
    at: Option<Timestamp>,
}

pub(super) async fn run(command: WebhooksCommand, context: &mut Context) -> Result<Exit, CliError> {
    match command {
        WebhooksCommand::DeadLetters(args) => dead_letters(args, context).await,
        WebhooksCommand::Replay(args) => replay(args, context).await,
        WebhooksCommand::Verify(args) => verify(&args, context),
    }
}

async fn dead_letters(args: DeadLettersArgs, context: &mut Context) -> Result<Exit, CliError> {
    let mut client = client::watch_service(&context.global).await?;
    let dead_letters = client::all_pages(async |page_token| {
        let (subscription, page_size) = (args.name.clone(), client::PAGE_SIZE);
        let request = ListDeadLettersRequest { subscription, page_size, page_token };
        let page = client.list_dead_letters(request).await?.into_inner();
        Ok((page.dead_letters, page.next_page_token))
    })
    .await?;
    let out = &mut context.out;
    if out.json {
        dead_letters.iter().try_for_each(|dead_letter| out.message(dead_letter))?;
    } else if dead_letters.is_empty() {
        out.line("there are no dead letters")?;
    } else {
        out.table(&table(&dead_letters))?;
    }
    Ok(Exit::Success)
}

fn table(dead_letters: &[DeadLetter]) -> Table {
    let mut table = Table::new(&["INDEX", "SHARD", "GIVEN UP", "ATTEMPTS", "STATUS", "FAILED"]);
    for dead_letter in dead_letters {
        let http_status = match dead_letter.http_status {
            0 => String::new(),
            status => status.to_string(),
        };
        table.row(
            Tone::Bad,
            [
                dead_letter.index.to_string(),
                dead_letter.shard.to_string(),
                words::rfc3339_or_empty(dead_letter.failed_at.as_ref()),
                dead_letter.attempts.to_string(),
                http_status,
                dead_letter.failed_index.to_string(),
            ],
        );
    }
    table
}

async fn replay(args: ReplayArgs, context: &mut Context) -> Result<Exit, CliError> {
    // The server takes no indexes as all: only --all may mean that.
    if args.all != args.indexes.is_empty() {
        return Err(CliError::usage("give indexes, or --all"));
    }
    let asked = args.indexes.iter().collect::<BTreeSet<_>>().len() as u64;
    let request = ReplayDeadLettersRequest { subscription: args.name, indexes: args.indexes };
    let mut client = client::watch_service(&context.global).await?;
    let answer = client.replay_dead_letters(request).await?.into_inner();
    let out = &mut context.out;
    match (out.json, answer.replayed) {
        (true, _) => out.message(&answer)?,
        (false, 1) => out.line("1 is on its way")?,
        (false, count) => out.line(format!("{count} are on their way"))?,
    }
    let replayed = answer.replayed;
    if replayed < asked {
        let others = asked - replayed;
        return Err(CliError::failed(format!(
            "{others} of the {asked} indexes are no dead letters"
        ))
        .with_hint("see `consent-ledger webhooks dead-letters NAME`"));
    }
    Ok(Exit::Success)
}

fn verify(args: &VerifyArgs, context: &mut Context) -> Result<Exit, CliError> {
    let secret = secret(args)?;
    let body = read_bytes(&args.body)?;
    let now_s = args.at.unwrap_or_else(Timestamp::now).as_second();
    let bounds = Some((now_s, args.tolerance.as_secs()));
    secret.verify(&args.id, &args.timestamp, &args.signature, &body, bounds)?;
    let sent_at_s: i64 = args.timestamp.trim().parse().map_err(|_| SignatureError::Timestamp)?;
    let verified = DeliveryVerified {
        good: true,
        id: args.id.clone(),
        sent_at: words::rfc3339_ms(sent_at_s.saturating_mul(1_000)),
        bytes: body.len() as u64,
    };
    print(&verified, context)?;
    Ok(Exit::Success)
}

/// A delivery that verified, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct DeliveryVerified {
    /// Always true: a delivery that is not good is an error.
    good: bool,
    /// Id of the message.
    id: String,
    /// When it was sent.
    sent_at: String,
    /// Length of the body.
    bytes: u64,
}

/// Reads the secret from the source that the options name.
fn secret(args: &VerifyArgs) -> Result<Secret, CliError> {
    let text = match (&args.secret_env, &args.secret_file) {
        (Some(name), None) => from_environment(name)?,
        (None, Some(path)) if path == Path::new("-") && path == &args.body => {
            return Err(CliError::usage(
                "standard input can hold the body or the secret, not both",
            ));
        }
        (None, Some(path)) => read_text(path).map_err(CliError::into_usage)?,
        _ => return Err(CliError::usage("give either --secret-env or --secret-file")),
    };
    Secret::parse(&Zeroizing::new(text)).map_err(|error| {
        CliError::usage(error.to_string())
            .with_hint("`consent-ledger subscription create` with the same options prints it again")
    })
}

fn from_environment(name: &str) -> Result<String, CliError> {
    // Neither error repeats the value.
    env::var(name).map_err(|error| match error {
        env::VarError::NotPresent => CliError::usage(format!("`{name}` is not set")),
        env::VarError::NotUnicode(_) => CliError::usage(format!("`{name}` is not UTF-8")),
    })
}

fn print(verified: &DeliveryVerified, context: &mut Context) -> Result<(), CliError> {
    let out = &mut context.out;
    if out.json {
        return out.object(verified);
    }
    let word = out.paint(Tone::Good, "good");
    out.line(word)?;
    out.line(format!("id       {}", verified.id))?;
    out.line(format!("sent at  {}", verified.sent_at))?;
    out.line(format!("bytes    {}", verified.bytes))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::cli::{Cli, Command, parse_with, testing::Capture};

    // The example that the specification's own libraries test themselves with.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const TIMESTAMP: &str = "1614265330";
    const SENT_AT: &str = "2021-02-25T15:02:10Z";
    const BODY: &str = r#"{"test": 2432232314}"#;
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    struct Delivery {
        secret: &'static str,
        id: &'static str,
        timestamp: &'static str,
        signature: &'static str,
        body: &'static str,
        more: &'static [&'static str],
    }

    const GOOD: Delivery = Delivery {
        secret: SECRET,
        id: ID,
        timestamp: TIMESTAMP,
        signature: SIGNATURE,
        body: BODY,
        more: &["--at", SENT_AT],
    };

    fn parse(words: &[&str]) -> Result<Cli, CliError> {
        let words = ["consent-ledger", "webhooks", "verify"].iter().chain(words);
        let args: Vec<std::ffi::OsString> = words.map(Into::into).collect();
        parse_with(&args, None)
    }

    fn run_verify(words: &[&str], json: bool) -> Result<String, CliError> {
        let Command::Webhooks(WebhooksCommand::Verify(args)) = parse(words)?.command else {
            panic!("it is this command");
        };
        let (mut context, capture) = Capture::context(json);
        assert_eq!(verify(&args, &mut context)?, Exit::Success);
        Ok(capture.text(context))
    }

    fn verified(delivery: &Delivery, json: bool) -> Result<String, CliError> {
        let dir = tempfile::tempdir().unwrap();
        let (secret, body) = (dir.path().join("secret"), dir.path().join("body"));
        fs::write(&secret, format!("{}\n", delivery.secret)).unwrap();
        fs::write(&body, delivery.body).unwrap();
        let words = [
            &[body.to_str().unwrap(), "--secret-file", secret.to_str().unwrap()][..],
            &["--id", delivery.id, "--timestamp", delivery.timestamp],
            &["--signature", delivery.signature],
            delivery.more,
        ];
        run_verify(&words.concat(), json)
    }

    #[test]
    fn the_example_of_the_specification_is_good() {
        let text = verified(&GOOD, false).unwrap();
        let want = format!("good\nid       {ID}\nsent at  2021-02-25T15:02:10.000Z\nbytes    20\n");
        assert_eq!(text, want);
        let printed: serde_json::Value =
            serde_json::from_str(&verified(&GOOD, true).unwrap()).unwrap();
        let want = serde_json::json!({
            "good": true, "id": ID, "sentAt": "2021-02-25T15:02:10.000Z", "bytes": 20
        });
        assert_eq!(printed, want);
        let one_of_many = Delivery {
            signature: "v1a,AAAA v1,AAAA v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
            ..GOOD
        };
        assert!(verified(&one_of_many, false).is_ok());
    }

    #[test]
    fn what_is_not_good_says_why() {
        for (reason, delivery) in [
            ("WRONG_SIGNATURE", Delivery { id: "msg_other", ..GOOD }),
            ("WRONG_SIGNATURE", Delivery { timestamp: "1614265331", ..GOOD }),
            ("WRONG_SIGNATURE", Delivery { body: r#"{"test":2432232314}"#, ..GOOD }),
            ("WRONG_SIGNATURE", Delivery { body: "{\"test\": 2432232314}\n", ..GOOD }),
            ("WRONG_SIGNATURE", Delivery { body: "", ..GOOD }),
            (
                "WRONG_SIGNATURE",
                Delivery { secret: "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", ..GOOD },
            ),
            ("WRONG_SIGNATURE", Delivery { signature: "v1,g0hM", ..GOOD }),
            ("NO_SIGNATURE", Delivery { signature: "", ..GOOD }),
            ("NO_SIGNATURE", Delivery { signature: "v1a,g0hM", ..GOOD }),
            ("NO_TIMESTAMP", Delivery { timestamp: SENT_AT, ..GOOD }),
            ("NO_TIMESTAMP", Delivery { timestamp: "", ..GOOD }),
            ("TOO_FAR", Delivery { more: &[], ..GOOD }),
            ("TOO_FAR", Delivery { more: &["--at", "2021-02-25T15:07:11Z"], ..GOOD }),
            ("TOO_FAR", Delivery { more: &["--at", "2021-02-25T14:57:09Z"], ..GOOD }),
            (
                "TOO_FAR",
                Delivery { more: &["--at", "2021-02-25T15:02:11Z", "--tolerance", "0s"], ..GOOD },
            ),
        ] {
            let error = verified(&delivery, false).unwrap_err();
            assert_eq!(error.exit_code(), 1, "{error}");
            assert_eq!(error.to_json()["error"]["reason"], reason, "{error}");
            assert_eq!(error.to_json()["error"]["kind"], "signature");
        }
        for at in ["2021-02-25T15:07:10Z", "2021-02-25T14:57:10Z"] {
            let more: &'static [&'static str] = Box::leak(Box::new(["--at", at]));
            assert!(verified(&Delivery { more, ..GOOD }, false).is_ok(), "{at}");
        }
    }

    #[test]
    fn the_secret_is_in_one_place_and_is_never_repeated() {
        let rest = ["--id", ID, "--timestamp", TIMESTAMP, "--signature", SIGNATURE];
        let wrong = |more: &[&str]| {
            let error = run_verify(&[&rest[..], more].concat(), false).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{error}");
            error.to_string()
        };
        let one = "give either --secret-env or --secret-file";
        assert_eq!(wrong(&[]), one);
        assert_eq!(wrong(&["--secret-env", "X", "--secret-file", "x"]), one);
        let both = wrong(&["--secret-file", "-"]);
        assert!(both.contains("not both"), "{both}");
        let unset = wrong(&["--secret-env", "CONSENT_NO_SUCH_VARIABLE"]);
        assert_eq!(unset, "`CONSENT_NO_SUCH_VARIABLE` is not set");
        assert!(wrong(&["--secret-file", "/absent/secret"]).contains("/absent/secret"));
        for none in ["whsec_c2hvcnQ=", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", ""] {
            let error = verified(&Delivery { secret: none, ..GOOD }, false).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            let text = error.to_json().to_string();
            assert!(none.is_empty() || !text.contains(none), "{text}");
        }
    }
}
