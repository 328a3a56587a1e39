//! `token`: verifies decision tokens offline, and fetches the key for that from a server.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde::Serialize;

use super::{
    Context, Exit, client,
    error::CliError,
    offline,
    output::Tone,
    trust::text_or_file,
    words::{self, Word as _, rfc3339_ms},
};
use crate::{
    domain::{Key, Millis, Region, Subject, SubjectError},
    format::{self, token::Grounds},
    messages,
    proto::{Effect, GetDecisionKeyRequest, Reason, check_service_client::CheckServiceClient},
    tlog::key::{Algorithm, VerifierKey},
    token::{self, Demand, KeyError, PublicKey, Statement},
};

/// The subcommands of `token`.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Verify a decision token, with no server; exits with 0 for ALLOW, 3 for DENY and 4 for NOT NOW
    Verify(Box<VerifyArgs>),
    /// Print the public key of a server's decision tokens
    #[command(after_help = KEY_HELP)]
    Key,
}

const VERIFY_HELP: &str = "\
A token holds the answer to one check (`consent-ledger check --token`) at the time of that check;
later changes are not in it. It names neither its data subject nor the entry that decided: give
--subject to confirm that the token is about them, and --vault for the entry. An address, a domain
or an id may be spelled in any way that names the same person; a phone number needs its country
code, as the default region is known to the ledger alone.

Give everything that your use depends on. A token is good for another use, too, unless --purpose,
--channel, --region and --data-category say which one it must be about: the answer for US may be
another than that for DE. A demand that the token does not answer fails: a token without region does
not verify for a region, and one without data categories for none.

Exit codes: 0 for a valid token with ALLOW, 3 for a valid token with DENY, 4 for a valid token with
NOT NOW, 1 for an invalid token (expired, of another key, changed, about something else than was
demanded), 2 for wrong usage.

Examples:
  consent-ledger token key > ledger.jwk
  consent-ledger token verify \"$TOKEN\" --key @ledger.jwk --subject user:42 \\
      --purpose marketing.newsletter --channel email --region DE
  consent-ledger token verify \"$TOKEN\" --key @ledger.jwk --at 2026-01-31T12:00:00Z --json";

/// Options of `token verify`.
#[derive(Debug, Args)]
#[command(after_help = VERIFY_HELP)]
pub struct VerifyArgs {
    /// The token
    token: String,
    /// Public key: a JSON Web Key, the ledger's verifier key, 32 bytes in base64, or @FILE that
    /// holds one of them
    #[arg(long, value_name = "KEY")]
    key: String,
    /// Data subject that the token must be about, in the canonical form that `check` answers (`subject`
    /// with --json): without the catalogue, other spellings are not known
    #[arg(long, value_name = "NAMESPACE:ID", value_parser = subject_text)]
    subject: Option<String>,
    /// Purpose that the token must be about
    #[arg(long, value_name = "KEY", value_parser = Key::parse)]
    purpose: Option<Key>,
    /// Channel that the token must be about
    #[arg(long, value_name = "KEY", value_parser = Key::parse)]
    channel: Option<Key>,
    /// Region (ISO 3166) that the token must be about, exactly as it was checked; a token of a check
    /// without region is about none
    #[arg(long, value_name = "REGION", value_parser = Region::parse)]
    region: Option<Region>,
    /// Data category that the token must be about, itself or one above it; may be repeated
    #[arg(long, value_name = "CATEGORY", value_delimiter = ',', value_parser = Key::parse)]
    data_category: Vec<Key>,
    /// Folder of the ledger's vault, to say which entry decided, and at which revision
    #[arg(long, value_name = "DIR")]
    vault: Option<PathBuf>,
    /// File of the key-encryption key [default: `kek` beside the folder of the vault]
    #[arg(long, value_name = "FILE")]
    kek_file: Option<PathBuf>,
    /// Time at which the token must be valid [default: now]
    #[arg(long, value_name = "TIME", value_parser = words::time)]
    at: Option<Timestamp>,
}

const KEY_HELP: &str = "\
The key never changes for a ledger. Fetch it once, from a server that you trust, and keep it where
tokens are verified.

Example:
  consent-ledger token key > ledger.jwk";

/// What a valid token states, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct TokenVerified {
    /// Answer to the check.
    #[serde(serialize_with = "words::serialize_name")]
    effect: Effect,
    /// Reason of the answer.
    #[serde(serialize_with = "words::serialize_name")]
    reason: Reason,
    /// Whether a data subject was given, and the token is about them.
    subject_confirmed: bool,
    /// Purpose key.
    purpose: String,
    /// Channel key.
    channel: String,
    /// Region of the check.
    region: Option<String>,
    /// Data categories that the answer is about; empty: all that the purpose declares.
    data_categories: Vec<String>,
    /// Whether the answer comes with obligations.
    has_obligations: bool,
    /// Whether it is ALLOW only because the check ignored obligations.
    obligations_ignored: bool,
    /// With --vault: index of the entry that decided it.
    decided_by_index: Option<u64>,
    /// With --vault: revision of the answer.
    revision: Option<u64>,
    /// The ledger's origin.
    issuer: String,
    /// When the token was issued.
    issued_at: String,
    /// First moment at which the token is no longer valid.
    expires_at: String,
}

impl TokenVerified {
    fn new(statement: &Statement, subject_confirmed: bool, grounds: Option<Grounds>) -> Self {
        let lifetime = statement.lifetime;
        let time = |seconds: i64| rfc3339_ms(seconds.saturating_mul(1_000));
        Self {
            effect: messages::effect(statement.effect),
            reason: statement.reason.into(),
            subject_confirmed,
            purpose: statement.purpose.clone(),
            channel: statement.channel.clone(),
            region: statement.region.map(|region| region.as_str().to_owned()),
            data_categories: statement.data_categories.clone(),
            has_obligations: statement.has_obligations,
            obligations_ignored: statement.obligations_ignored,
            decided_by_index: grounds.and_then(|grounds| grounds.decided_by),
            revision: grounds.map(|grounds| grounds.revision),
            issuer: statement.issuer.clone(),
            issued_at: time(lifetime.issued_at_s),
            expires_at: time(lifetime.expires_at_s),
        }
    }
}

pub(super) async fn run(command: TokenCommand, context: &mut Context) -> Result<Exit, CliError> {
    match command {
        TokenCommand::Verify(args) => verify(&args, context),
        TokenCommand::Key => key(context).await,
    }
}

async fn key(context: &mut Context) -> Result<Exit, CliError> {
    let mut client = CheckServiceClient::new(client::connect(&context.global).await?);
    let answer = client.get_decision_key(GetDecisionKeyRequest {}).await?.into_inner();
    match context.out.json {
        true => context.out.message(&answer)?,
        false => context.out.line(&answer.jwk)?,
    }
    Ok(Exit::Success)
}

pub(super) fn verify(args: &VerifyArgs, context: &mut Context) -> Result<Exit, CliError> {
    let key = public_key(&args.key)?;
    let now = args.at.map_or_else(Millis::now, |at| Millis(at.as_millisecond()));
    let data_categories: Vec<&str> = args.data_category.iter().map(Key::as_str).collect();
    let demand = Demand {
        subject: args.subject.as_deref(),
        purpose: args.purpose.as_ref().map(Key::as_str),
        channel: args.channel.as_ref().map(Key::as_str),
        region: args.region,
        data_categories: &data_categories,
    };
    let statement = token::verify(args.token.trim(), &key, &demand, now)?;
    let grounds = args.vault.as_deref().map(|dir| grounds(&statement, dir, args)).transpose()?;
    let verified = TokenVerified::new(&statement, args.subject.is_some(), grounds);
    let printed = print(&verified, context);
    context.out.finish(printed)?;
    Ok(Exit::of(verified.effect))
}

/// What a token's decision rests on, read with the keys of the ledger's vault.
fn grounds(statement: &Statement, vault: &Path, args: &VerifyArgs) -> Result<Grounds, CliError> {
    let people = offline::people(vault, args.kek_file.as_deref())?;
    let (key, claims) = (people.secret.tokens(), statement.ungrounded());
    format::token::open(&key, &statement.grounds, &claims).map_err(CliError::failed)
}

/// A text that can be a data subject. Its spelling is not changed: tokens know several.
fn subject_text(text: &str) -> Result<String, SubjectError> {
    Subject::parse(text).map(|_| text.to_owned())
}

fn public_key(text: &str) -> Result<PublicKey, CliError> {
    let text = text_or_file(text)?;
    // A ledger signs tokens with the key that signs its checkpoints. A witness signs no tokens.
    if let Ok(key) = VerifierKey::parse(&text)
        && key.algorithm() == Algorithm::Note
    {
        return PublicKey::from_bytes(&key.public_key()).map_err(|error| wrong_key(&error));
    }
    PublicKey::parse(&text).map_err(|error| wrong_key(&error))
}

fn wrong_key(error: &KeyError) -> CliError {
    CliError::usage(format!("--key {error}"))
        .with_hint("`consent-ledger token key` prints that of a server; @FILE reads a file")
}

fn print(verified: &TokenVerified, context: &mut Context) -> Result<(), CliError> {
    let out = &mut context.out;
    if out.json {
        return out.object(verified);
    }
    let (tone, effect) = words::verdict(verified.effect);
    let effect = out.paint(tone, effect);
    out.line(format!("{effect}  {}", verified.reason.word()))?;
    if verified.obligations_ignored {
        out.line(out.paint(Tone::Careful, "obligations were ignored"))?;
    }
    let subject = if verified.subject_confirmed { "confirmed" } else { "not compared" };
    out.line(format!("subject      {subject}"))?;
    out.line(format!("cell         {}:{}", verified.purpose, verified.channel))?;
    if let Some(region) = &verified.region {
        out.line(format!("region       {region}"))?;
    }
    for category in &verified.data_categories {
        out.line(format!("data         {category}"))?;
    }
    if verified.has_obligations {
        out.line("obligations  some: `check` prints them")?;
    }
    if let Some(index) = verified.decided_by_index {
        out.line(format!("decided by   #{index}"))?;
    }
    if let Some(revision) = verified.revision {
        out.line(format!("revision     {revision}"))?;
    }
    out.line(format!("ledger       {}", verified.issuer))?;
    out.line(format!("issued at    {}", verified.issued_at))?;
    out.line(format!("good until   {}", verified.expires_at))
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, time::Duration};

    use super::*;
    use crate::tlog::key::SignerKey;
    use crate::{
        cli::testing::Capture,
        domain::Reason,
        token::{Lifetime, Signer, SubjectHash},
    };

    /// 2026-10-26T06:13:20Z.
    const DECIDED_AT: Millis = Millis(1_792_995_200_000);

    fn signer() -> Signer {
        Signer::from_seed(&[7; 32])
    }

    fn token(reason: Reason) -> String {
        signer().sign(&Statement {
            issuer: "localhost/consent".to_owned(),
            lifetime: Lifetime::new(DECIDED_AT, None, Duration::from_secs(900)),
            subject: SubjectHash::new("user:42", [1; 16]),
            purpose: "marketing.newsletter".to_owned(),
            channel: "email".to_owned(),
            region: None,
            data_categories: Vec::new(),
            effect: reason.effect(),
            reason,
            grounds: String::new(),
            has_obligations: true,
            obligations_ignored: false,
        })
    }

    fn args(reason: Reason, key: &str, after_s: i64) -> VerifyArgs {
        VerifyArgs {
            purpose: None,
            channel: None,
            region: None,
            data_category: Vec::new(),
            vault: None,
            kek_file: None,
            token: token(reason),
            key: key.to_owned(),
            subject: Some("user:42".to_owned()),
            at: Some(Timestamp::from_second(DECIDED_AT.0 / 1_000 + after_s).unwrap()),
        }
    }

    fn verified(args: &VerifyArgs, json: bool) -> (Result<u8, CliError>, String) {
        let (mut context, capture) = Capture::context(json);
        let exit = verify(args, &mut context).map(Exit::code);
        (exit, capture.text(context))
    }

    #[test]
    fn the_exit_code_is_the_answer() {
        let key = signer().public_key().to_jwk();
        let (exit, text) = verified(&args(Reason::Granted, &key, 1), false);
        assert_eq!(exit.unwrap(), 0);
        assert_eq!(
            text,
            "ALLOW  granted\nsubject      confirmed\ncell         marketing.newsletter:email\n\
             obligations  some: `check` prints them\n\
             ledger       localhost/consent\nissued at    2026-10-26T06:13:20.000Z\n\
             good until   2026-10-26T06:28:20.000Z\n"
        );
        let unnamed = VerifyArgs { subject: None, ..args(Reason::Withdrawn, &key, 1) };
        let (exit, text) = verified(&unnamed, false);
        assert_eq!(exit.unwrap(), 3, "a good token that says no");
        assert!(text.starts_with("DENY  withdrawn\nsubject      not compared\n"), "{text}");
    }

    #[test]
    fn scripts_get_one_object() {
        let key = signer().public_key().to_jwk();
        let (_, text) = verified(&args(Reason::Granted, &key, 1), true);
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let (effect, reason) = (&json["effect"], &json["reason"]);
        assert_eq!((effect, reason), (&"EFFECT_ALLOW".into(), &"REASON_GRANTED".into()));
        assert_eq!(json["subjectConfirmed"], true);
        assert_eq!(json["expiresAt"], "2026-10-26T06:28:20.000Z");
    }

    #[test]
    fn a_bad_token_is_an_error_with_a_name() {
        let key = signer().public_key().to_jwk();
        let other = Signer::from_seed(&[8; 32]).public_key().to_jwk();
        let mut changed = args(Reason::Granted, &key, 1);
        changed.token.insert(50, 'A');
        let another = VerifyArgs { subject: Some("a:b".into()), ..args(Reason::Granted, &key, 1) };
        let granted = || args(Reason::Granted, &key, 1);
        let (key_of, region) = (|text: &str| Key::parse(text).ok(), Region::parse("DE").ok());
        for (args, name) in [
            (VerifyArgs { purpose: key_of("marketing.sms"), ..granted() }, "WRONG_PURPOSE"),
            (VerifyArgs { channel: key_of("sms"), ..granted() }, "WRONG_CHANNEL"),
            (VerifyArgs { region, ..granted() }, "WRONG_REGION"),
            (
                VerifyArgs { data_category: vec![Key::parse("a").unwrap()], ..granted() },
                "WRONG_DATA_CATEGORY",
            ),
            (args(Reason::Granted, &key, 900), "EXPIRED"),
            (args(Reason::Granted, &key, -61), "NOT_YET_VALID"),
            (args(Reason::Granted, &other, 1), "UNKNOWN_KEY"),
            (another, "WRONG_SUBJECT"),
            (changed, "MALFORMED"),
        ] {
            let (error, text) = verified(&args, true);
            let error = error.unwrap_err();
            assert_eq!((error.exit_code(), text.as_str()), (1, ""), "{name}");
            assert_eq!(error.to_json()["error"]["kind"], "token");
            assert_eq!(error.to_json()["error"]["reason"], name);
        }
    }

    #[test]
    fn keys_come_as_text_and_as_files() {
        let jwk = signer().public_key().to_jwk();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "{jwk}").unwrap();
        let at_file = format!("@{}", file.path().display());
        assert_eq!(public_key(&jwk).unwrap(), public_key(&at_file).unwrap());
        let verifier =
            |algorithm| SignerKey::from_seed("localhost/consent", algorithm, &[7; 32]).unwrap();
        let log = verifier(Algorithm::Note).verifier().clone();
        assert_eq!(public_key(&log.to_string()).unwrap().to_bytes(), log.public_key());
        let witness = verifier(Algorithm::Cosignature).verifier().to_string();
        assert_eq!(public_key(&witness).unwrap_err().exit_code(), 2);
        assert_eq!(public_key("nonsense").unwrap_err().exit_code(), 2);
        assert_eq!(public_key("@/no/such/file").unwrap_err().exit_code(), 2);
    }
}
