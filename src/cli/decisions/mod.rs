//! `verify-decisions`: recomputes decisions from the ledger alone, and compares them with the
//! node's answers.
//!
//! The entries are read once, in order: each must continue the hash chain, is opened with the keys of the
//! vault, folded into states in memory, and is a leaf of the Merkle tree. The node's answers stream in
//! beside them, so only the states take memory.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use clap::Args;
use indicatif::HumanBytes;

use self::{
    answers::Answers,
    compare::Comparison,
    report::{Checkpoint, Report, Statement},
};
use super::{
    Context, Exit, checkpoint, client,
    entries::Entries,
    error::CliError,
    offline,
    output::{Output, Table, Tone},
    progress,
    trust::{Trust, TrustArgs, read_text},
    words::{Bytes, hex},
};
use crate::{
    domain::Entry,
    fold::Replay,
    format::entry::{Body, Entry as SealedEntry},
    grpc::decisions::message,
    ledger::{Tip, sealed::Persons as _},
    opener::Offline,
    proto::{
        GetCheckpointRequest, GetCheckpointResponse, audit_service_client::AuditServiceClient,
        ledger::LedgerOpened,
    },
    tlog::{
        BASE64,
        checkpoint::SignedCheckpoint,
        merkle::{Range, leaf_hash},
    },
    vault,
};

mod answers;
mod compare;
mod disclosure;
mod report;

const AFTER_HELP: &str = "\
Reads every entry before --end, from the server or, with --data-dir, from the files, opens it with
the keys of a vault, and recomputes the decisions for every cell that an entry from --start on
touched, as of that entry. The server must give the same answers: wrong, missing and extra answers
are differences. The results that the entries themselves record are recomputed too: the outcome of
every change, effective times, confirmations, and the ends of grants.

With --key (or --policy), the entries must be those that the ledger signed: under the checkpoint
of --checkpoint, or else under the latest of the server. Without it, the entries are only verified
to be one unbroken chain: the server could present another ledger, and the output says so.

The states of all data subjects are kept in memory: about 800 bytes each for the acts in
examples/onboarding.ndjson.

With --disclosure, nobody's keys are needed: the file of `audit disclose` opens the records of its
data subjects, and must be complete. Outcomes, times and decisions of these records are
recomputed; the entries come from --data-dir, --raw-file, --tiles or the server, and must have the
root of the disclosure's checkpoint, or of that of --checkpoint. With --receipt, an act of a
disclosed data subject that is not in the disclosure is a failure. The output says what was not
checked.

Exit codes: 0 all agree, 1 something differs, an entry is damaged or the disclosure is not
complete, 2 wrong usage.

Examples:
  consent-ledger verify-decisions --data-dir ./data
  consent-ledger verify-decisions --vault ./data/vault --start 1000 --end 2000
  consent-ledger verify-decisions --data-dir ./data --kek-file /etc/consent-ledger/kek \\
      --checkpoint january.checkpoint --key @ledger.vkey
  consent-ledger verify-decisions --disclosure case-17.age --identity auditor.key \\
      --raw-file ledger.raw --key @ledger.vkey --receipt kept.jws";

/// Default number of differences that are shown.
const DIFFERENCES_SHOWN: usize = 20;
/// Comparison stops after this many differences: a faulty node could send answers without end.
const DIFFERENCES_MAX: u64 = 1_000_000;

/// Options of `verify-decisions`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct DecisionsArgs {
    /// First index whose decisions are compared
    #[arg(long, value_name = "INDEX", default_value_t = 0)]
    start: u64,
    /// End of the range, exclusive [default: the size of the checkpoint, without one the head]
    #[arg(long, value_name = "INDEX")]
    end: Option<u64>,
    /// Read the entries from this directory; decisions still come from the server
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Folder of the vault that has the keys [default: `vault` in the data directory]
    #[arg(long, value_name = "DIR", required_unless_present_any = ["data_dir", "disclosure"])]
    vault: Option<PathBuf>,
    /// File of the key-encryption key [default: `kek` beside the folder of the vault]
    #[arg(long, value_name = "FILE")]
    kek_file: Option<PathBuf>,
    /// File with a signed checkpoint that the entries must be under [default: with --key, the latest
    /// of the server]
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// Disclosure that opens the entries, in place of a vault; no answers of the server are compared
    #[arg(long, value_name = "FILE")]
    disclosure: Option<PathBuf>,
    /// Key file of age, with the identity of a recipient of the disclosure
    #[arg(long, value_name = "FILE", requires = "disclosure")]
    identity: Option<PathBuf>,
    /// File with a receipt that a disclosed data subject kept: the disclosure must have its act; may be given
    /// several times
    #[arg(long, value_name = "FILE", requires = "disclosure")]
    receipt: Vec<PathBuf>,
    /// Read the entries from this file of `export --raw`, which begins with entry 0
    #[arg(long, value_name = "FILE", requires = "disclosure")]
    raw_file: Option<PathBuf>,
    /// Read the entries that a server publishes under this URL (C2SP tlog-tiles)
    #[arg(long, value_name = "URL", requires = "disclosure", conflicts_with = "raw_file")]
    tiles: Option<String>,
    /// Write each recomputed decision to this file, as a line of JSON; it must not exist
    #[arg(long, value_name = "FILE", requires = "disclosure")]
    decisions: Option<PathBuf>,
    #[command(flatten)]
    trust: TrustArgs,
    /// Maximum number of differences to show; all are counted
    #[arg(long, value_name = "N", default_value_t = DIFFERENCES_SHOWN)]
    show: usize,
}

pub(super) async fn run(args: DecisionsArgs, context: &mut Context) -> Result<Exit, CliError> {
    if let Some(disclosure) = &args.disclosure {
        return disclosure::run(&args, disclosure, context).await;
    }
    let mut trust = trust(&args)?;
    let mut client = AuditServiceClient::new(client::connect(&context.global).await?);
    let mut node = client.get_checkpoint(GetCheckpointRequest::default()).await?.into_inner();
    checkpoint::follow(trust.as_mut(), &node);
    let checkpoint = match (&args.checkpoint, &trust) {
        (Some(path), Some(trust)) => Some(kept(path, trust)?),
        (None, Some(trust)) => {
            // Acts of the last moment wait for the next checkpoint.
            let request = GetCheckpointRequest { at_least_size: Some(node.size) };
            node = client.get_checkpoint(request).await?.into_inner();
            Some(checkpoint::open(&node.checkpoint, Some(trust))?)
        }
        (_, None) => None,
    };
    let plan = Plan::new(&args, &node, checkpoint)?;
    // After the head is known: the vault has every data subject of the entries before it.
    let opener = opener(&args)?;
    let entries = match &args.data_dir {
        Some(dir) => Entries::from_dir(dir.clone(), 0, Some(plan.read_end()), |_| Ok(())),
        None => Entries::from_server(client, 0, plan.read_end()).await?,
    };
    // A second connection, so that entries and answers do not share one flow-control window.
    let client = AuditServiceClient::new(client::connect(&context.global).await?);
    let answers = Answers::from_server(client, plan.start, plan.end).await?;
    let audit = Audit::new(plan, node, opener, args.show);
    let report = audit.run(entries, answers).await?;
    let printed = print(&report, &mut context.out);
    context.out.finish(printed)?;
    Ok(if report.agrees { Exit::Success } else { Exit::Failed })
}

/// What opens the entries: the keys of a vault.
fn opener(args: &DecisionsArgs) -> Result<Offline, CliError> {
    let in_data_dir = args.data_dir.as_ref().map(|dir| dir.join(vault::DIR));
    let Some(dir) = args.vault.clone().or(in_data_dir) else {
        return Err(CliError::usage("--vault or --data-dir must name the vault"));
    };
    offline::people(&dir, args.kek_file.as_deref()).map(Offline::new)
}

/// The trusted keys, which a checkpoint from outside requires.
fn trust(args: &DecisionsArgs) -> Result<Option<Trust>, CliError> {
    match &args.checkpoint {
        Some(_) => args.trust.required().map(Some),
        None => args.trust.trust(),
    }
}

/// A checkpoint that was kept in a file.
fn kept(path: &Path, trust: &Trust) -> Result<SignedCheckpoint, CliError> {
    let opened = trust.open(&read_text(path)?);
    opened.map_err(|error| CliError::failed(format!("{}: {error}", path.display())))
}

/// The range to read and compare.
struct Plan {
    start: u64,
    end: u64,
    checkpoint: Option<SignedCheckpoint>,
}

impl Plan {
    fn new(
        args: &DecisionsArgs,
        node: &GetCheckpointResponse,
        checkpoint: Option<SignedCheckpoint>,
    ) -> Result<Self, CliError> {
        let head = node.size;
        let signed = checkpoint.as_ref().map(|signed| signed.checkpoint.size);
        if let Some(size) = signed.filter(|size| *size > head) {
            return Err(CliError::failed(format!(
                "the checkpoint is of {size} entries, the ledger has {head}"
            ))
            .with_hint("signed entries are missing, or this is another ledger"));
        }
        let limit = signed.unwrap_or(head);
        let end = args.end.unwrap_or(limit);
        if end > limit {
            let limit_name =
                if signed.is_some() { "the size of the checkpoint" } else { "the head" };
            return Err(CliError::usage(format!(
                "--end {end} must not be greater than {limit_name}, which is {limit}"
            )));
        }
        if args.start > end {
            let start = args.start;
            return Err(CliError::usage(format!("--start {start} must not be greater than {end}")));
        }
        Ok(Self { start: args.start, end, checkpoint })
    }

    /// End of reading: the root of the checkpoint needs all entries under it.
    fn read_end(&self) -> u64 {
        self.checkpoint.as_ref().map_or(self.end, |signed| signed.checkpoint.size)
    }
}

/// State of the audit while it reads the entries.
struct Audit {
    plan: Plan,
    node: GetCheckpointResponse,
    /// Name of the ledger, as its first entry says.
    origin: Option<String>,
    tip: Tip,
    opener: Offline,
    tree: Option<Range>,
    replay: Replay,
    comparison: Comparison,
    statements: Vec<Statement>,
    statements_untrue: u64,
    shown_max: usize,
}

impl Audit {
    fn new(plan: Plan, node: GetCheckpointResponse, opener: Offline, shown_max: usize) -> Self {
        Self {
            tree: plan.checkpoint.as_ref().map(|_| Range::empty(0)),
            plan,
            node,
            origin: None,
            tip: Tip::genesis(),
            opener,
            replay: Replay::default(),
            comparison: Comparison::new(shown_max),
            statements: Vec::new(),
            statements_untrue: 0,
            shown_max,
        }
    }

    async fn run(mut self, mut entries: Entries, mut answers: Answers) -> Result<Report, CliError> {
        let bar = progress::bar(Some(self.plan.read_end()), "recomputing");
        for index in 0..self.plan.read_end() {
            let missing = || CliError::failed(format!("there is no entry {index}"));
            let bytes = entries.next().await?.ok_or_else(missing)?;
            let sealed = self.follow(&bytes)?;
            if index < self.plan.end {
                let opened = self.opener.open(&sealed, self.replay.catalog());
                let opened =
                    opened.map_err(|error| CliError::failed(format!("entry {index}: {error}")))?;
                let entry = opened.entry;
                self.fold(&entry)?;
                if index >= self.plan.start {
                    self.compare(&entry, &mut answers).await?;
                }
            }
            bar.inc(1);
        }
        self.take_extra(&mut answers).await?;
        bar.finish_and_clear();
        let root = self.check_root()?;
        Ok(self.report(root))
    }

    /// Decodes the next entry, which must continue the chain and belong to the node's ledger.
    fn follow(&mut self, bytes: &[u8]) -> Result<SealedEntry, CliError> {
        let index = self.tip.next_index;
        let (entry, tip) = self
            .tip
            .follow(bytes)
            .map_err(|error| CliError::failed(format!("entry {index} is damaged: {error}")))?;
        self.tip = tip;
        if let Some(tree) = &mut self.tree {
            tree.push(leaf_hash(bytes));
        }
        if let Body::Opened(opened) = &entry.body {
            self.check_ledger(opened)?;
            self.origin = Some(opened.origin.clone());
        }
        Ok(entry)
    }

    /// Checks that the entries, the server and the checkpoint are of the same ledger.
    fn check_ledger(&self, opened: &LedgerOpened) -> Result<(), CliError> {
        let vault = self.opener.ledger_id();
        if opened.ledger_id != vault {
            let (entries, vault) = (hex(&opened.ledger_id), hex(&vault));
            return Err(CliError::failed(format!(
                "the entries are of the ledger {entries}, the vault belongs to {vault}"
            )));
        }
        if opened.ledger_id != self.node.ledger_id {
            let (entries, node) = (hex(&opened.ledger_id), hex(&self.node.ledger_id));
            return Err(CliError::failed(format!(
                "the entries are of the ledger {entries}, the server answers for {node}"
            )));
        }
        match self.plan.checkpoint.as_ref().map(|signed| &signed.checkpoint.origin) {
            Some(signed) if *signed != opened.origin => Err(CliError::failed(format!(
                "the checkpoint is of the ledger `{signed}`, the entries are of `{}`",
                opened.origin
            ))),
            _ => Ok(()),
        }
    }

    fn fold(&mut self, entry: &Entry) -> Result<(), CliError> {
        let untrue = self.replay.apply(entry).map_err(CliError::failed)?;
        self.statements_untrue += untrue.len() as u64;
        let room = self.shown_max.saturating_sub(self.statements.len());
        let statements = untrue.iter().take(room);
        self.statements.extend(statements.map(|untrue| Statement::of(entry.index, untrue)));
        Ok(())
    }

    async fn compare(&mut self, entry: &Entry, answers: &mut Answers) -> Result<(), CliError> {
        let decisions = self.replay.answers(entry).map_err(CliError::failed)?;
        let mut recomputed = decisions.map(|decision| message(&decision)).peekable();
        loop {
            // Answers for later entries are compared with those entries.
            let answered = answers.peek().await?.filter(|answer| answer.index <= entry.index);
            let Some(taken) = self.comparison.compare(recomputed.peek(), answered) else {
                return Ok(());
            };
            self.check_limit()?;
            if taken.recomputed {
                recomputed.next();
            }
            if taken.answered {
                answers.take();
            }
        }
    }

    /// Counts the answers after the last entry as differences.
    async fn take_extra(&mut self, answers: &mut Answers) -> Result<(), CliError> {
        while let Some(answer) = answers.peek().await? {
            self.comparison.compare(None, Some(answer));
            answers.take();
            self.check_limit()?;
        }
        Ok(())
    }

    fn check_limit(&self) -> Result<(), CliError> {
        if self.comparison.differ <= DIFFERENCES_MAX {
            return Ok(());
        }
        Err(CliError::failed(format!(
            "more than {DIFFERENCES_MAX} answers differ: the comparison was stopped"
        ))
        .with_hint("compare fewer entries with --end to see the first differences"))
    }

    /// Checks that the entries have the root that was signed.
    fn check_root(&self) -> Result<Option<Checkpoint>, CliError> {
        let (Some(signed), Some(tree)) = (&self.plan.checkpoint, &self.tree) else {
            return Ok(None);
        };
        let signed_root = signed.checkpoint.root;
        match tree.root().filter(|root| *root == signed_root) {
            Some(root) => {
                let size = signed.checkpoint.size;
                Ok(Some(Checkpoint { size, root_hash: BASE64.encode(root) }))
            }
            None => Err(CliError::failed(format!(
                "the first {} entries do not have the root that was signed, {}",
                tree.end(),
                BASE64.encode(signed_root)
            ))
            .with_hint("the checkpoint is of other entries")),
        }
    }

    fn report(self, checkpoint: Option<Checkpoint>) -> Report {
        Report {
            agrees: self.comparison.differ == 0 && self.statements_untrue == 0,
            ledger: self.origin.unwrap_or(self.node.origin),
            start: self.plan.start,
            end: self.plan.end,
            entries: self.plan.end - self.plan.start,
            decisions: self.comparison.decisions,
            differ: self.comparison.differ,
            differences: self.comparison.first,
            untrue: self.statements_untrue,
            statements: self.statements,
            chain_hash: (self.tip.next_index > 0).then(|| Bytes(self.tip.hash.to_vec())),
            not_checked: if checkpoint.is_some() { &[] } else { &["signatures"] },
            checkpoint,
            subjects: self.replay.subjects(),
            state_bytes: self.replay.memory_bytes() as u64,
        }
    }
}

fn print(report: &Report, out: &mut Output) -> Result<(), CliError> {
    if out.json {
        return out.object(report);
    }
    let mut differences =
        Table::new(&["INDEX", "SUBJECT", "CELL", "FROM THE LEDGER", "THE NODE ANSWERS"]);
    for difference in &report.differences {
        differences.row(Tone::Bad, difference.cells());
    }
    out.table(&differences)?;
    let mut statements = Table::new(&["INDEX", "STATEMENT", "THE ENTRY SAYS", "FROM THE LEDGER"]);
    for statement in &report.statements {
        statements.row(Tone::Bad, statement.cells());
    }
    out.table(&statements)?;
    let (tone, word) = if report.agrees { (Tone::Good, "agrees") } else { (Tone::Bad, "DIFFERS") };
    let word = out.paint(tone, word);
    out.line(word)?;
    if !report.not_checked.is_empty() {
        let heading = out.paint(Tone::Careful, "NOT CHECKED");
        out.line(format!(
            "{heading} who signed the entries: no --key was given, and a forged ledger looks the same"
        ))?;
    }
    let Report { entries, decisions, differ, start, end, untrue, .. } = report;
    out.line(format!("decisions   {decisions} decisions over {entries} entries, {differ} differ"))?;
    out.line(format!("entries     {start}..{end} of {}", report.ledger))?;
    out.line(format!("statements  {untrue} wrong in the entries before {end}"))?;
    if let Some(hash) = &report.chain_hash {
        out.line(format!("chain hash  {hash}"))?;
    }
    match &report.checkpoint {
        Some(Checkpoint { size, root_hash }) => {
            out.line(format!("checkpoint  {size} entries have the signed root {root_hash}"))?;
        }
        None => out.line("checkpoint  none: name one with --checkpoint and --key")?,
    }
    let bytes = HumanBytes(report.state_bytes);
    out.line(format!("memory      {} data subjects, {bytes}", report.subjects))
}

#[cfg(test)]
mod tests;
