//! `verify-receipt`: verifies a receipt, offline.

use std::{path::PathBuf, slice};

use base64::Engine as _;
use clap::Args;
use serde::Serialize;

use super::{
    Context, Exit, act_text,
    error::CliError,
    output::Tone,
    trust::{Cosigned, Trust, TrustArgs, print_cosigned, read_text},
    words::{self, rfc3339_ms, word},
};
use crate::{
    domain::spells,
    json,
    messages::change_result,
    proto::{self, ChangeResult, Outcome},
    receipt::{self, Format, Receipt, ReceiptError},
    tlog::{BASE64, key::VerifierKey, policy::Policy},
};

const AFTER_HELP: &str = "\
Needs no server: a receipt holds the entry, its proof and the checkpoint. It is good if the ledger
signed it, if its proof shows that the entry is under a checkpoint that the ledger signed and
enough of the given witnesses cosigned, and if every field agrees with the entry. A receipt shows
what was recorded, not the current state: ask the ledger for that.

With --subject, an address, a domain or an id may be spelled in any way that names the same
person; a phone number needs its country code, as the default region is known to the ledger alone.

Exit codes: 0 good, 1 not good, 2 wrong usage.

Examples:
  consent-ledger verify-receipt receipt.jws --key @ledger.vkey
  consent-ledger verify-receipt - --policy policy.txt --subject user:42 --json < receipt.jws";

/// Options of `verify-receipt`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct VerifyReceiptArgs {
    /// File with the receipt, or - for standard input
    #[arg(value_name = "FILE")]
    receipt: PathBuf,
    /// Data subject that the receipt must be about, in the canonical form that `check` and `receipt`
    /// print
    #[arg(long, value_name = "NAMESPACE:ID")]
    subject: Option<String>,
    /// Trusted keys.
    #[command(flatten)]
    trust: TrustArgs,
}

/// A receipt that verified, as JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ReceiptVerified {
    good: bool,
    receipt_id: String,
    format: &'static str,
    ledger: String,
    subject: String,
    index: u64,
    #[serde(serialize_with = "words::serialize_name")]
    actor: proto::Actor,
    effective_at: String,
    recorded_at: String,
    issued_at: String,
    #[serde(serialize_with = "json::serialize_list")]
    changes: Vec<ChangeResult>,
    #[serde(serialize_with = "json::serialize")]
    evidence: proto::Evidence,
    controllers: Vec<String>,
    tree_size: u64,
    root_hash: String,
    cosigned: Vec<Cosigned>,
}

pub(super) fn run(args: &VerifyReceiptArgs, context: &mut Context) -> Result<Exit, CliError> {
    let trust = args.trust.required()?;
    let text = read_text(&args.receipt)?;
    let receipt =
        receipt::verify_any(text.trim(), &trust.keys, &trust.policy).map_err(|error| {
            let is_by = |key: &VerifierKey| {
                receipt::verify_any(text.trim(), slice::from_ref(key), &Policy::none()).is_ok()
            };
            let error = CliError::from(error);
            match trust.signer_in_past(is_by) {
                Some(past) => error.with_hint(past.to_string()),
                None => error,
            }
        })?;
    let is_of = |form: &str| form == receipt.statement.subject;
    if args.subject.as_ref().is_some_and(|text| !spells(text, is_of)) {
        return Err(ReceiptError::Subject.into());
    }
    print(&verified(&receipt, &trust), context)?;
    Ok(Exit::Success)
}

fn verified(receipt: &Receipt, trust: &Trust) -> ReceiptVerified {
    let statement = &receipt.statement;
    let checkpoint = &statement.proof.checkpoint;
    ReceiptVerified {
        good: true,
        receipt_id: receipt.id.clone(),
        format: match receipt.format {
            Format::ConsentReceipt => "consent-receipt",
            Format::Dpv => "dpv",
        },
        ledger: checkpoint.checkpoint.origin.clone(),
        subject: statement.subject.clone(),
        index: receipt.index,
        actor: receipt.actor.into(),
        effective_at: rfc3339_ms(receipt.effective_at.0),
        recorded_at: rfc3339_ms(receipt.recorded_at.0),
        issued_at: rfc3339_ms(statement.issued_at.0),
        changes: receipt.changes.iter().map(change_result).collect(),
        evidence: receipt.evidence.clone().into(),
        controllers: statement.parties.controller_names().into_iter().map(str::to_owned).collect(),
        tree_size: receipt.tree_size(),
        root_hash: BASE64.encode(checkpoint.checkpoint.root),
        cosigned: trust.cosigned(checkpoint),
    }
}

fn print(verified: &ReceiptVerified, context: &mut Context) -> Result<(), CliError> {
    let out = &mut context.out;
    if out.json {
        return out.object(verified);
    }
    let verdict = out.paint(Tone::Good, "good");
    out.line(verdict)?;
    out.line(format!("subject     {}", verified.subject))?;
    let actor = act_text::actor(verified.actor.into(), Some(&verified.evidence));
    out.line(format!("act         #{} by {actor}", verified.index))?;
    out.line(format!("effective   {}", verified.effective_at))?;
    out.line(format!("recorded    {}", verified.recorded_at))?;
    for change in &verified.changes {
        let action = word::<proto::Action>(change.action);
        out.line(format!("{action:<11} {}", change_text(change)))?;
    }
    let evidence = act_text::evidence(&verified.evidence);
    if !evidence.is_empty() {
        out.line(format!("evidence    {}", evidence.join(", ")))?;
    }
    if !verified.controllers.is_empty() {
        let names = verified.controllers.join(", ");
        out.line(format!("controller  {names}, as of {}", verified.recorded_at))?;
    }
    out.line(format!("ledger      {}", verified.ledger))?;
    out.line(format!("checkpoint  {} entries, root {}", verified.tree_size, verified.root_hash))?;
    print_cosigned(&verified.cosigned, out)?;
    out.line(format!("receipt     {} of {}", verified.receipt_id, verified.issued_at))
}

fn change_text(change: &ChangeResult) -> String {
    let mut text = words::scope_text(change.scope.as_ref());
    for detail in act_text::change(change) {
        text.push_str(&format!(" {detail}"));
    }
    if change.outcome() != Outcome::Applied {
        text.push_str(&format!(" ({}", word::<Outcome>(change.outcome)));
        if let Some(index) = change.cause_index {
            text.push_str(&format!(" #{index}"));
        }
        text.push(')');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::{
        cli::testing::Capture,
        tlog::key::{Algorithm, SignerKey},
    };

    /// The seed of its key is 7.
    const GOLDEN: &str = include_str!("../../tests/fixtures/receipt_v3.jws");

    fn args(text: &str, seed: u8, subject: Option<&str>) -> (VerifyReceiptArgs, impl Sized) {
        let key =
            SignerKey::from_seed("consent.example.org/eu", Algorithm::Note, &[seed; 32]).unwrap();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let trust = TrustArgs { key: vec![key.verifier().to_string()], ..TrustArgs::default() };
        let receipt = file.path().to_owned();
        let subject = subject.map(str::to_owned);
        (VerifyReceiptArgs { receipt, subject, trust }, file)
    }

    #[test]
    fn people_read_what_was_done() {
        let (mut context, capture) = Capture::context(false);
        let (args, _file) = args(GOLDEN, 7, Some("user:42"));
        assert_eq!(run(&args, &mut context).unwrap(), Exit::Success);
        let text = capture.text(context);
        for line in [
            "good\n",
            "\nsubject     user:42\n",
            "\nact         #5 by agent staff:114 (call-centre)\n",
            "\neffective   2026-10-26T06:13:20.250Z\n",
            "\ngrant       marketing.newsletter:sms version 2 until 2026-10-27T06:13:20.250Z\n",
            "\nwithdraw    marketing.newsletter:post\n",
            "\nevidence    onboarding, checkbox, privacy-notice@2026-05, de-DE, notice hash abab",
            ", from 192.0.2.7, with Browser/1, screen=2\n",
            "\ncontroller  Example AG, as of 2026-10-26T06:13:21.250Z\n",
            "\ncosigned    by none of the given witnesses\n",
            "\ncheckpoint  11 entries, root ",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }

    #[test]
    fn scripts_read_the_same() {
        let (mut context, capture) = Capture::context(true);
        let (args, _file) = args(GOLDEN, 7, None);
        run(&args, &mut context).unwrap();
        let object: serde_json::Value = serde_json::from_str(&capture.text(context)).unwrap();
        assert_eq!((&object["good"], &object["index"]), (&true.into(), &5.into()));
        assert_eq!(object["actor"], "ACTOR_AGENT");
        assert_eq!(object["changes"][2]["action"], "ACTION_WITHDRAW");
        assert_eq!(object["evidence"]["noticeId"], "privacy-notice");
    }

    #[test]
    fn what_is_not_good_has_a_name() {
        let refused = |text: &str, seed, subject| {
            let (args, _file) = args(text, seed, subject);
            run(&args, &mut Capture::context(true).0).unwrap_err()
        };
        let reason = |error: &CliError| error.to_json()["error"]["reason"].clone();
        let error = refused(GOLDEN, 8, None);
        assert_eq!((error.exit_code(), reason(&error)), (1, "UNKNOWN_KEY".into()));
        assert_eq!(reason(&refused("a.b.c", 7, None)), "MALFORMED");
        let (good, _file) = args(GOLDEN, 7, Some("User: 42"));
        assert!(run(&good, &mut Capture::context(true).0).is_ok());
        let other = refused(GOLDEN, 7, Some("user:43"));
        assert!(other.to_string().contains("another data subject"), "{other}");
        assert_eq!(reason(&other), "WRONG_SUBJECT");
    }
}
