//! `receipt`: the receipt of an act, for the person or system that it concerns.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{
    Context, Exit, client,
    error::CliError,
    kept::{self, Readers},
    words,
};
use crate::proto::{
    GetReceiptRequest, GetReceiptResponse, ReceiptFormat, audit_service_client::AuditServiceClient,
    get_receipt_request::Act,
};

const AFTER_HELP: &str = "\
A receipt describes a recorded act and proves that it is in the ledger; `verify-receipt` verifies
it with no server. It contains personal data in clear, so only the owner of the file of --output
can read it. The command waits until a checkpoint covers the act. Fields of the standard for which
the catalogue had no value (see `[[parties]]` in examples/catalog.toml) are left out and named on
standard error.

Examples:
  consent-ledger receipt --idempotency-key signup-42 --subject user:42 --output receipt.jws
  consent-ledger receipt --index 17 --format dpv --payload";

/// Options of `receipt`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct ReceiptArgs {
    /// The act.
    #[command(flatten)]
    act: ActArgs,
    /// Data subject; if given, the act must be theirs. Needed with --idempotency-key
    #[arg(long, value_name = "NAMESPACE:ID", default_value = "", hide_default_value = true)]
    subject: String,
    /// Format of the content: JSON with the fields of Kantara Consent Receipt v1.1 and ISO/IEC TS
    /// 27560, or JSON-LD with the W3C Data Privacy Vocabulary
    #[arg(long, default_value = "consent-receipt", value_parser = words::parser::<ReceiptFormat>())]
    format: ReceiptFormat,
    /// Print the content, indented, instead of the signed receipt
    #[arg(long)]
    payload: bool,
    /// Write to this file instead of standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// The act of a receipt.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct ActArgs {
    /// Index of the act
    #[arg(long, value_name = "INDEX")]
    index: Option<u64>,
    /// Idempotency key of the request about --subject that recorded the act
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

pub(super) async fn run(args: ReceiptArgs, context: &mut Context) -> Result<Exit, CliError> {
    let mut client = AuditServiceClient::new(client::connect(&context.global).await?);
    let key = args.act.idempotency_key.map(Act::IdempotencyKey);
    let act = args.act.index.map(Act::Index).or(key);
    let request = GetReceiptRequest { act, subject: args.subject, format: args.format.into() };
    let answer = client.get_receipt(request).await?.into_inner();
    if !answer.missing_fields.is_empty() && !context.out.json {
        eprintln!("warning: not known, and left out: {}", answer.missing_fields.join(", "));
    }
    print(&answer, args.payload, args.output.as_deref(), context)?;
    Ok(Exit::Success)
}

fn print(
    answer: &GetReceiptResponse,
    payload: bool,
    output: Option<&Path>,
    context: &mut Context,
) -> Result<(), CliError> {
    let text = if payload { pretty(&answer.payload) } else { answer.receipt.clone() };
    if let Some(path) = output {
        kept::write(path, &format!("{text}\n"), Readers::Owner)?;
    }
    if context.out.json {
        return context.out.message(answer);
    }
    match output {
        Some(path) => {
            context.out.line(format!("receipt of #{} written to {}", answer.index, path.display()))
        }
        None => context.out.line(text),
    }
}

/// JSON with line breaks and indents. `serde_json::Value` would sort the members.
fn pretty(json: &str) -> String {
    let mut text = String::with_capacity(2 * json.len());
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    let line = |text: &mut String, depth: usize| {
        text.push('\n');
        text.push_str(&"  ".repeat(depth));
    };
    let mut letters = json.chars().peekable();
    while let Some(letter) = letters.next() {
        if in_string {
            in_string = escaped || letter != '"';
            escaped = !escaped && letter == '\\';
            text.push(letter);
            continue;
        }
        match letter {
            '{' | '[' => {
                text.push(letter);
                match letters.next_if(|next| matches!(next, '}' | ']')) {
                    Some(end) => text.push(end),
                    None => {
                        depth += 1;
                        line(&mut text, depth);
                    }
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut text, depth);
                text.push(letter);
            }
            ',' => {
                text.push(letter);
                line(&mut text, depth);
            }
            ':' => text.push_str(": "),
            letter if letter.is_whitespace() => {}
            letter => {
                in_string = letter == '"';
                text.push(letter);
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use serde_json::{Value, json};

    use super::*;
    use crate::cli::testing::Capture;

    fn answer() -> GetReceiptResponse {
        GetReceiptResponse {
            index: 7,
            receipt: "a.b.c".to_owned(),
            payload: r#"{"z":"a,{\"","a":[1,{}],"e":[]}"#.to_owned(),
            missing_fields: vec!["policyUrl".to_owned()],
        }
    }

    #[test]
    fn a_receipt_is_one_line_and_its_content_is_readable() {
        let (mut context, capture) = Capture::context(false);
        print(&answer(), false, None, &mut context).unwrap();
        assert_eq!(capture.text(context), "a.b.c\n");
        let (mut context, capture) = Capture::context(false);
        print(&answer(), true, None, &mut context).unwrap();
        assert_eq!(
            capture.text(context),
            "{\n  \"z\": \"a,{\\\"\",\n  \"a\": [\n    1,\n    {}\n  ],\n  \"e\": []\n}\n"
        );
    }

    #[test]
    fn scripts_read_everything_and_files_take_it() {
        let (mut context, capture) = Capture::context(true);
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o644)).unwrap();
        print(&answer(), false, Some(file.path()), &mut context).unwrap();
        let object: Value = serde_json::from_str(&capture.text(context)).unwrap();
        let payload: Value = serde_json::from_str(object["payload"].as_str().unwrap()).unwrap();
        assert_eq!((&object["index"], &payload["e"]), (&json!("7"), &json!([])));
        assert_eq!(object["missingFields"][0], "policyUrl");
        assert_eq!(fs::read_to_string(file.path()).unwrap(), "a.b.c\n");
        let mode = fs::metadata(file.path()).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "it is personal data");
    }
}
