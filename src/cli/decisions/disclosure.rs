//! `verify-decisions --disclosure`: recomputes what a disclosure opens, with no vault and no
//! key-encryption key.
//!
//! The entries are read once, in order: each must continue the hash chain and is a leaf of the Merkle tree,
//! whose root the checkpoint has. The disclosure must be true of them and complete; what its records say of
//! outcomes and times must follow from the entries before.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{BufReader, BufWriter, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use age::{DecryptError, Decryptor, IdentityFile};
use base64::Engine as _;
use serde::Serialize;
use zeroize::Zeroizing;

use super::{
    DecisionsArgs,
    report::{Checkpoint, Statement},
};
use crate::{
    cli::{
        Context, Exit, client,
        entries::Entries,
        error::CliError,
        output::{Output, Table, Tone},
        progress,
        published::Published,
        trust::{Trust, read_text},
        words::{Bytes, hex, rfc3339_ms},
    },
    domain::{Entry, SubjectRef, spells},
    entry::Target,
    fold::{CellDecision, Replay},
    format::{
        canonical,
        disclosure::Verified,
        entry::{Body, Entry as SealedEntry},
    },
    ledger::{
        Tip,
        disclosed::{DisclosedLedger, Opened, subject_of},
    },
    messages::effect,
    proto::{self, audit_service_client::AuditServiceClient, ledger::Disclosure},
    receipt::{self, Receipt},
    tlog::{
        BASE64,
        checkpoint::SignedCheckpoint,
        merkle::{Range, leaf_hash},
    },
};

/// The result, as JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    /// Whether no statement is wrong, and no receipt is missing. What makes the disclosure untrue or incomplete
    /// is an error.
    agrees: bool,
    /// Name of the ledger.
    ledger: String,
    /// Identity of the ledger.
    ledger_id: Bytes,
    /// Number of entries that the disclosure covers.
    revision: u64,
    /// The data subjects, in the order of the disclosure.
    persons: Vec<DisclosedPerson>,
    /// Number of records that were opened.
    records: u64,
    /// Number of decisions that were recomputed.
    decisions: u64,
    /// Number of records whose outcomes and decisions may depend on somebody who is not disclosed.
    not_judgeable: u64,
    /// Number of wrong statements.
    untrue: u64,
    /// The first wrong statements.
    statements: Vec<Statement>,
    /// The receipts that were handed in.
    receipts: Vec<ComparedReceipt>,
    /// Number of data subjects that are only asserted to be the same persons, and are left out.
    asserted_links_left_out: u64,
    /// Whether the disclosure has keys that open later entries.
    open_ended: bool,
    /// Number of confidential items that it opens: subscriptions, deliveries, disclosures.
    confidential_items: u64,
    /// Number of uses of data that it opens, without saying whose data.
    uses: u64,
    /// What was not checked.
    not_checked: Vec<NotChecked>,
    /// The checkpoint whose root the entries have.
    checkpoint: Checkpoint,
}

/// A data subject of a disclosure.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct DisclosedPerson {
    /// Its number, from 1.
    person: usize,
    /// Its name, which its first record commits to; `null` if the disclosure does not say.
    subject: Option<String>,
    /// Number of its records.
    records: u64,
}

/// A receipt that was handed in.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ComparedReceipt {
    /// The file.
    file: String,
    /// Whose act it is of.
    subject: String,
    /// Index of the act.
    index: u64,
    /// Whether the disclosure has the act.
    state: ReceiptState,
    /// The place of the data subject in the disclosure, from 0, if it has the act.
    #[serde(skip)]
    person: Option<usize>,
}

/// Whether a disclosure has the act of a receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum ReceiptState {
    /// It does.
    Disclosed,
    /// It does not, although the data subject is disclosed or may be: the disclosure is not complete.
    Missing,
    /// The act was recorded after the revision of the disclosure.
    Later,
    /// The disclosure names its data subjects, and that of the receipt is none of them.
    OfSomebodyElse,
}

/// Something that was not checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum NotChecked {
    /// Who signed the checkpoint.
    Signatures,
    /// Whose records these are.
    Identities,
    /// Whether a data subject has records under another key, too.
    OtherKeys,
    /// What may depend on somebody who is not disclosed.
    LinkedPersons,
    /// Whether somebody is left out whom a verified link connects.
    VerifiedLinks,
    /// The evidence of acts.
    Evidence,
    /// The answers of the server.
    Answers,
}

impl NotChecked {
    fn text(self) -> &'static str {
        match self {
            Self::Signatures => {
                "who signed the entries: no --key was given, and a forged ledger looks the same"
            }
            Self::Identities => "whose records these are: the disclosure does not name them",
            Self::OtherKeys => {
                "whether persons have more records under another key: --receipt shows that for a person \
                 whose receipt is in the disclosure, and others have none"
            }
            Self::LinkedPersons => {
                "what may depend on persons who are linked to the disclosed ones and not disclosed"
            }
            Self::VerifiedLinks => {
                "whether persons are left out whom verified links connect with the disclosed ones: such \
                 links were recorded, and the records do not tell whether they stand"
            }
            Self::Evidence => "the evidence of acts, which a disclosure does not open",
            Self::Answers => "what the server answered when it was asked",
        }
    }
}

/// A recomputed decision, as a line of JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    index: u64,
    person: usize,
    purpose: &'a str,
    channel: &'a str,
    effect: &'static str,
    reason: &'static str,
    decided_by_index: Option<u64>,
    valid_until: Option<String>,
}

pub(super) async fn run(
    args: &DecisionsArgs,
    disclosure: &Path,
    context: &mut Context,
) -> Result<Exit, CliError> {
    let trust = match (&args.checkpoint, args.receipt.as_slice()) {
        (None, []) => args.trust.trust()?,
        _ => Some(args.trust.required()?),
    };
    let disclosure = read(disclosure, args.identity.as_deref())?;
    let checkpoint = checkpoint(args, &disclosure, trust.as_ref())?;
    let receipts = receipts(&args.receipt, trust.as_ref())?;
    let mut lines = args.decisions.as_deref().map(create).transpose()?;
    let end = checkpoint.checkpoint.size;
    let mut entries = match (&args.raw_file, &args.tiles, &args.data_dir) {
        (Some(path), _, _) => Entries::from_raw(path)?,
        (None, Some(url), _) => Entries::from_tiles(Published::new(url, &context.global)?, end),
        (None, None, Some(dir)) => Entries::from_dir(dir.clone(), 0, Some(end), |_| Ok(())),
        (None, None, None) => {
            let client = AuditServiceClient::new(client::connect(&context.global).await?);
            Entries::from_server(client, 0, end).await?
        }
    };
    let mut audit = Audit::new(&disclosure, args.show)?;
    let bar = progress::bar(Some(end), "recomputing");
    for index in 0..end {
        let missing = || {
            CliError::failed(format!("there is no entry {index}, and the checkpoint has {end}"))
                .with_hint("entries are missing, or this is another ledger")
        };
        let bytes = entries.next().await?.ok_or_else(missing)?;
        audit.read(&bytes, &disclosure, &mut lines)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    if let Some((path, file)) = &mut lines {
        file.flush().map_err(|error| CliError::file(path, error))?;
    }
    let report = audit.report(&disclosure, &checkpoint, trust.is_some(), &receipts)?;
    let printed = print(&report, &mut context.out);
    context.out.finish(printed)?;
    Ok(if report.agrees { Exit::Success } else { Exit::Failed })
}

/// Decrypts a disclosure.
fn read(path: &Path, identity: Option<&Path>) -> Result<Disclosure, CliError> {
    let identity = identity.ok_or_else(|| {
        CliError::usage("--disclosure needs --identity, the age key file of its recipient")
    })?;
    let identities = IdentityFile::from_file(identity.display().to_string())
        .map_err(|error| CliError::file(identity, error).into_usage())?
        .into_identities()
        .map_err(|error| CliError::usage(format!("--identity {}: {error}", identity.display())))?;
    if identities.is_empty() {
        let path = identity.display();
        return Err(CliError::usage(format!("--identity {path}: it holds no key of age")));
    }
    let file = File::open(path).map_err(|error| CliError::file(path, error).into_usage())?;
    let named = |problem: String| CliError::failed(format!("{}: {problem}", path.display()));
    let refused = |error: &DecryptError| match error {
        DecryptError::NoMatchingKeys => {
            named("it is encrypted to other recipients than the key of --identity".to_owned())
        }
        error => named(format!("it is no file of age, or damaged: {error}")),
    };
    let decryptor =
        Decryptor::new_buffered(BufReader::new(file)).map_err(|error| refused(&error))?;
    let identities = identities.iter().map(|identity| &**identity as &dyn age::Identity);
    let mut reader = decryptor.decrypt(identities).map_err(|error| refused(&error))?;
    let mut bytes = Zeroizing::new(Vec::new());
    reader
        .read_to_end(&mut bytes)
        .map_err(|error| named(format!("it is damaged or not complete: {error}")))?;
    canonical::decode(&bytes).map_err(|error| named(format!("it is no disclosure: {error}")))
}

/// The checkpoint that the entries must be under: a kept one, or that of the disclosure.
fn checkpoint(
    args: &DecisionsArgs,
    disclosure: &Disclosure,
    trust: Option<&Trust>,
) -> Result<SignedCheckpoint, CliError> {
    let (name, text) = match &args.checkpoint {
        Some(path) => (path.display().to_string(), read_text(path)?),
        None => ("the checkpoint of the disclosure".to_owned(), disclosure.checkpoint.clone()),
    };
    let named = |error: String| CliError::failed(format!("{name}: {error}"));
    let signed = match trust {
        Some(trust) => trust.open(&text).map_err(|error| named(error.to_string()))?,
        None => SignedCheckpoint::parse(&text).map_err(|error| named(error.to_string()))?,
    };
    let (size, revision) = (signed.checkpoint.size, disclosure.revision);
    if size < revision {
        return Err(named(format!("it is of {size} entries, the disclosure covers {revision}")));
    }
    Ok(signed)
}

/// The receipts that were handed in, verified.
fn receipts(paths: &[PathBuf], trust: Option<&Trust>) -> Result<Vec<(String, Receipt)>, CliError> {
    let Some(trust) = trust else { return Ok(Vec::new()) };
    let read = |path: &PathBuf| {
        let text = read_text(path)?;
        let verified = receipt::verify_any(text.trim(), &trust.keys, &trust.policy);
        let file = path.display().to_string();
        verified
            .map(|receipt| (file.clone(), receipt))
            .map_err(|error| CliError::failed(format!("--receipt {file}: {error}")))
    };
    paths.iter().map(read).collect()
}

/// The file of the recomputed decisions, for its owner alone.
fn create(path: &Path) -> Result<(PathBuf, BufWriter<File>), CliError> {
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let file = file.map_err(|error| CliError::file(path, error).into_usage())?;
    Ok((path.to_owned(), BufWriter::new(file)))
}

/// The file of the recomputed decisions, if it was asked for.
type Lines = Option<(PathBuf, BufWriter<File>)>;

/// State of the audit while it reads the entries.
struct Audit {
    ledger: DisclosedLedger,
    tip: Tip,
    tree: Range,
    origin: Option<String>,
    replay: Replay,
    decisions: u64,
    not_judgeable: u64,
    untrue: u64,
    statements: Vec<Statement>,
    shown_max: usize,
}

impl Audit {
    fn new(disclosure: &Disclosure, shown_max: usize) -> Result<Self, CliError> {
        Ok(Self {
            ledger: DisclosedLedger::new(disclosure).map_err(not_true)?,
            tip: Tip::genesis(),
            tree: Range::empty(0),
            origin: None,
            replay: Replay::default(),
            decisions: 0,
            not_judgeable: 0,
            untrue: 0,
            statements: Vec::new(),
            shown_max,
        })
    }

    fn read(
        &mut self,
        bytes: &[u8],
        disclosure: &Disclosure,
        lines: &mut Lines,
    ) -> Result<(), CliError> {
        let index = self.tip.next_index;
        let (sealed, tip) = self
            .tip
            .follow(bytes)
            .map_err(|error| CliError::failed(format!("entry {index} is damaged: {error}")))?;
        self.tip = tip;
        self.tree.push(leaf_hash(bytes));
        if let Body::Opened(opened) = &sealed.body {
            if opened.ledger_id != disclosure.ledger_id {
                let (entries, disclosed) = (hex(&opened.ledger_id), hex(&disclosure.ledger_id));
                return Err(CliError::failed(format!(
                    "the entries are of the ledger {entries}, the disclosure is of {disclosed}"
                )));
            }
            self.origin = Some(opened.origin.clone());
        }
        if index >= disclosure.revision {
            return Ok(());
        }
        match self.follow(&sealed)? {
            Some(entry) => self.fold(&entry, lines),
            None => Ok(()),
        }
    }

    fn follow(&mut self, sealed: &SealedEntry) -> Result<Option<Entry>, CliError> {
        let followed = self.ledger.follow(sealed, self.replay.catalog());
        followed.map_err(|error| not_true(format!("entry {}: {error}", sealed.index)))
    }

    fn fold(&mut self, entry: &Entry, lines: &mut Lines) -> Result<(), CliError> {
        let fact = entry.fact();
        let Target::Subjects(target) = fact.kind.target() else {
            return self.replay.apply(entry).map(drop).map_err(CliError::failed);
        };
        let subjects = target.named();
        let judged = self.judgeable(&subjects);
        let untrue = self.replay.apply_judging(entry, |subject| judged.contains(&subject));
        let untrue = untrue.map_err(CliError::failed)?;
        self.untrue += untrue.len() as u64;
        let room = self.shown_max.saturating_sub(self.statements.len());
        let statements = untrue.iter().take(room);
        self.statements.extend(statements.map(|untrue| Statement::of(entry.index, untrue)));
        // A link may have led beyond the disclosure.
        let judged = self.judgeable(&subjects);
        self.not_judgeable += (subjects.len() - judged.len()) as u64;
        let decisions = self.replay.answers(entry).map_err(CliError::failed)?;
        let mut decisions = decisions.filter(|decision| judged.contains(&decision.subject));
        let Some((path, file)) = lines else {
            self.decisions += decisions.count() as u64;
            return Ok(());
        };
        decisions.try_for_each(|decision| {
            self.decisions += 1;
            write_line(&decision, file).map_err(|error| CliError::file(path, error))
        })
    }

    /// Those of some data subjects whom no link connects with somebody who is not disclosed.
    fn judgeable(&self, subjects: &[SubjectRef]) -> Vec<SubjectRef> {
        let leads_beyond = |subject: SubjectRef| {
            let mut reached = self.replay.connected(subject).into_iter().chain([subject]);
            reached.any(|subject| self.ledger.is_linked_beyond(subject))
        };
        subjects.iter().copied().filter(|subject| !leads_beyond(*subject)).collect()
    }

    fn report(
        self,
        disclosure: &Disclosure,
        signed: &SignedCheckpoint,
        is_signed: bool,
        receipts: &[(String, Receipt)],
    ) -> Result<Report, CliError> {
        let checkpoint = self.check_root(signed)?;
        let Opened { items, uses } = self.ledger.opened();
        let counts = self.ledger.records().to_vec();
        let records = counts.iter().sum();
        let may_lack_verified = self.ledger.may_lack_verified();
        let verified = self.ledger.finish().map_err(not_true)?;
        let receipts = compare(receipts, disclosure, &verified)?;
        let shown: BTreeSet<usize> = receipts.iter().filter_map(|receipt| receipt.person).collect();
        let is_missing = |it: &ComparedReceipt| it.state == ReceiptState::Missing;
        let names = &verified.identities;
        let is_unnamed = names.iter().any(Option::is_none);
        let left_out = disclosure.asserted_links_left_out;
        let not_checked = [
            (NotChecked::Signatures, !is_signed),
            (NotChecked::Identities, is_unnamed),
            (NotChecked::OtherKeys, shown.len() < counts.len()),
            (NotChecked::LinkedPersons, left_out > 0 || self.not_judgeable > 0),
            (NotChecked::VerifiedLinks, may_lack_verified),
            (NotChecked::Evidence, true),
            (NotChecked::Answers, true),
        ];
        let persons = names.iter().cloned().zip(counts).enumerate();
        let person =
            |(place, (subject, records))| DisclosedPerson { person: place + 1, subject, records };
        Ok(Report {
            agrees: self.untrue == 0 && !receipts.iter().any(is_missing),
            ledger: self.origin.unwrap_or_default(),
            ledger_id: Bytes(disclosure.ledger_id.clone()),
            revision: disclosure.revision,
            persons: persons.map(person).collect(),
            records,
            decisions: self.decisions,
            not_judgeable: self.not_judgeable,
            untrue: self.untrue,
            statements: self.statements,
            receipts,
            asserted_links_left_out: left_out,
            open_ended: disclosure.open_ended,
            confidential_items: items,
            uses,
            not_checked: not_checked.into_iter().filter(|it| it.1).map(|it| it.0).collect(),
            checkpoint,
        })
    }

    /// Checks that the entries are of the checkpoint's ledger and have its root.
    fn check_root(&self, signed: &SignedCheckpoint) -> Result<Checkpoint, CliError> {
        let signed = &signed.checkpoint;
        if self.origin.as_ref().is_some_and(|origin| *origin != signed.origin) {
            let (of_signed, origin) = (&signed.origin, self.origin.as_deref().unwrap_or_default());
            return Err(CliError::failed(format!(
                "the checkpoint is of the ledger `{of_signed}`, the entries are of `{origin}`"
            )));
        }
        match self.tree.root().filter(|root| *root == signed.root) {
            Some(root) => Ok(Checkpoint { size: signed.size, root_hash: BASE64.encode(root) }),
            None => Err(CliError::failed(format!(
                "the first {} entries do not have the root of the checkpoint, {}",
                self.tree.end(),
                BASE64.encode(signed.root)
            ))
            .with_hint("the disclosure is of other entries, or the entries were changed")),
        }
    }
}

/// The error of a disclosure that is not true, or not complete.
#[expect(clippy::needless_pass_by_value, reason = "errors are passed by map_err")]
fn not_true(error: impl ToString) -> CliError {
    CliError::failed(format!("the disclosure is not true of these entries: {}", error.to_string()))
}

/// Compares receipts with what a disclosure lists.
fn compare(
    receipts: &[(String, Receipt)],
    disclosure: &Disclosure,
    verified: &Verified,
) -> Result<Vec<ComparedReceipt>, CliError> {
    let names: Option<Vec<&String>> = verified.identities.iter().map(Option::as_ref).collect();
    let state_of = |receipt: &Receipt, person: Option<usize>| {
        let subject = &receipt.statement.subject;
        let is_named =
            |names: &Vec<&String>| names.iter().any(|name| spells(subject, |it| it == **name));
        if person.is_some() {
            ReceiptState::Disclosed
        } else if names.as_ref().is_some_and(|names| !is_named(names)) {
            ReceiptState::OfSomebodyElse
        } else if receipt.index >= disclosure.revision {
            ReceiptState::Later
        } else {
            ReceiptState::Missing
        }
    };
    let compared = |(file, receipt): &(String, Receipt)| {
        let got = &receipt.statement.ledger_id;
        if got[..] != disclosure.ledger_id[..] {
            let (got, want) = (hex(got), hex(&disclosure.ledger_id));
            return Err(CliError::failed(format!(
                "--receipt {file}: it is of the ledger {got}, the disclosure is of {want}"
            )));
        }
        let person = verified.lists(receipt.index, &receipt.statement.record_key.reference());
        Ok(ComparedReceipt {
            file: file.clone(),
            subject: receipt.statement.subject.clone(),
            index: receipt.index,
            state: state_of(receipt, person),
            person,
        })
    };
    receipts.iter().map(compared).collect()
}

fn write_line(decision: &CellDecision, file: &mut impl std::io::Write) -> std::io::Result<()> {
    let place = u128::from_be_bytes(decision.subject.0);
    debug_assert_eq!(subject_of(usize::try_from(place).unwrap_or_default()), decision.subject);
    let line = Line {
        index: decision.index,
        person: usize::try_from(place).unwrap_or(usize::MAX).saturating_add(1),
        purpose: decision.purpose.as_str(),
        channel: decision.channel.as_str(),
        effect: effect(decision.reason.effect()).as_str_name(),
        reason: proto::Reason::from(decision.reason).as_str_name(),
        decided_by_index: decision.decided_by,
        valid_until: decision.valid_until.map(|at| rfc3339_ms(at.0)),
    };
    serde_json::to_writer(&mut *file, &line)?;
    file.write_all(b"\n")
}

fn print(report: &Report, out: &mut Output) -> Result<(), CliError> {
    if out.json {
        return out.object(report);
    }
    let mut statements = Table::new(&["INDEX", "STATEMENT", "THE ENTRY SAYS", "FROM THE LEDGER"]);
    for statement in &report.statements {
        statements.row(Tone::Bad, statement.cells());
    }
    out.table(&statements)?;
    for receipt in &report.receipts {
        print_receipt(receipt, out)?;
    }
    let (tone, word) = if report.agrees { (Tone::Good, "agrees") } else { (Tone::Bad, "DIFFERS") };
    let word = out.paint(tone, word);
    out.line(word)?;
    for not_checked in &report.not_checked {
        let heading = out.paint(Tone::Careful, "NOT CHECKED");
        out.line(format!("{heading} {}", not_checked.text()))?;
    }
    let Report { records, revision, decisions, not_judgeable, untrue, .. } = report;
    let persons = report.persons.len();
    let noun = if persons == 1 { "data subject" } else { "data subjects" };
    out.line(format!("disclosed   {records} records of {persons} {noun}, up to {revision}"))?;
    out.line("complete    no record of theirs is left out".to_owned())?;
    out.line(format!("decisions   {decisions} recomputed, {not_judgeable} records not judgeable"))?;
    out.line(format!("statements  {untrue} wrong"))?;
    if report.asserted_links_left_out > 0 {
        let left_out = report.asserted_links_left_out;
        out.line(format!("left out    {left_out} who are only asserted to be the same persons"))?;
    }
    if report.open_ended {
        let (items, uses) = (report.confidential_items, report.uses);
        out.line(format!("open-ended  opens {items} confidential items and {uses} uses, too"))?;
    }
    out.line(format!("ledger      {}", report.ledger))?;
    let Checkpoint { size, root_hash } = &report.checkpoint;
    out.line(format!("checkpoint  {size} entries have the root {root_hash}"))
}

fn print_receipt(receipt: &ComparedReceipt, out: &mut Output) -> Result<(), CliError> {
    let ComparedReceipt { file, subject, index, state, .. } = receipt;
    let (tone, text) = match state {
        ReceiptState::Disclosed => (Tone::Good, "is in the disclosure"),
        ReceiptState::Missing => (Tone::Bad, "is MISSING in the disclosure"),
        ReceiptState::Later => (Tone::Careful, "was recorded after the disclosure's revision"),
        ReceiptState::OfSomebodyElse => (Tone::Careful, "is of somebody who is not disclosed"),
    };
    let text = out.paint(tone, text);
    out.line(format!("receipt     {file}: act #{index} of {subject} {text}"))
}
