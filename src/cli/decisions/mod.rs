//! `verify-decisions`: recomputes decisions from the ledger alone, and compares them with what the
//! node answers.
//!
//! The entries are read once, from the first on, in order: each must continue the hash chain, is
//! folded into states that are kept in memory, and is a leaf of the Merkle tree. What the node
//! answers is taken beside them as it comes, so a range takes no more memory than the states.

use std::path::PathBuf;

use base64::Engine as _;
use clap::Args;
use indicatif::HumanBytes;

use self::{
    compare::Comparison,
    entries::{Answered, Entries},
    report::{Checkpoint, Report, Statement},
};
use super::{
    Context, Exit, client,
    error::CliError,
    output::{Output, Table, Tone},
    progress,
    trust::{TrustArgs, read_text},
    words::{Bytes, hex},
};
use crate::{
    domain::{Entry, LedgerOpened},
    fold::Replay,
    grpc::decisions::message,
    ledger::chain::Tip,
    proto::{
        GetCheckpointRequest, GetCheckpointResponse, audit_service_client::AuditServiceClient,
    },
    tlog::{
        BASE64,
        checkpoint::SignedCheckpoint,
        merkle::{Range, leaf_hash},
    },
};

mod compare;
mod entries;
mod report;

const AFTER_HELP: &str = "\
Reads every entry before --end, from the server or, with --data-dir, from the files; folds them in
order; and asks the server what it answers for every cell that an entry from --start on touched, as
of that entry. An answer that the entries do not give, one that is missing and one that is too many
are differences. What entries before --end say of themselves is recomputed too: the outcome of every
change, when acts took effect, confirmations, and the ends of grants.

With --checkpoint and --key the entries must be those that were signed. Without, they are only known
to be one unbroken chain, and whoever gives them out could have made another.

States of data subjects are kept in memory, all of them: about 800 bytes each for the acts of
examples/onboarding.ndjson.

Exit codes: 0 all agree, 1 something differs or an entry is damaged, 2 wrong usage.

Examples:
  consent-ledger verify-decisions
  consent-ledger verify-decisions --start 1000 --end 2000 --data-dir ./data
  consent-ledger verify-decisions --checkpoint january.checkpoint --key @ledger.vkey";

/// How many differences are shown, unless it is said.
const DIFFERENCES_SHOWN: usize = 20;
/// The greatest number of differences that are counted. A node that never ends is no reason not to.
const DIFFERENCES_MAX: u64 = 1_000_000;

/// Options of `verify-decisions`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct DecisionsArgs {
    /// First index whose decisions are compared
    #[arg(long, value_name = "INDEX", default_value_t = 0)]
    start: u64,
    /// End of the range, exclusive [default: the size of the checkpoint, else the head]
    #[arg(long, value_name = "INDEX")]
    end: Option<u64>,
    /// Read the entries from this directory; decisions still come from the server
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// File with a signed checkpoint that the entries must be under
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    #[command(flatten)]
    trust: TrustArgs,
    /// Maximum number of differences that are shown; all are counted
    #[arg(long, value_name = "N", default_value_t = DIFFERENCES_SHOWN)]
    show: usize,
}

pub(super) async fn run(args: DecisionsArgs, context: &mut Context) -> Result<Exit, CliError> {
    let checkpoint = signed_checkpoint(&args)?;
    let mut client = AuditServiceClient::new(client::connect(&context.global).await?);
    let node = client.get_checkpoint(GetCheckpointRequest::default()).await?.into_inner();
    let plan = Plan::new(&args, &node, checkpoint)?;
    let entries = match &args.data_dir {
        Some(dir) => Entries::from_dir(dir.clone(), plan.read_end()),
        None => Entries::from_server(client, plan.read_end()).await?,
    };
    // A connection of its own: entries and answers never wait for each other's flow control.
    let client = AuditServiceClient::new(client::connect(&context.global).await?);
    let answered = Answered::from_server(client, plan.start, plan.end).await?;
    let audit = Audit::new(plan, node, args.show);
    let report = audit.over(entries, answered).await?;
    // A reader that went away does not turn a difference into a success.
    match print(&report, &mut context.out).and_then(|()| context.out.flush()) {
        Ok(()) | Err(CliError::StdoutClosed) => {}
        Err(error) => return Err(error),
    }
    Ok(if report.agrees { Exit::Success } else { Exit::Failed })
}

fn signed_checkpoint(args: &DecisionsArgs) -> Result<Option<SignedCheckpoint>, CliError> {
    let Some(path) = &args.checkpoint else {
        // A key that the environment names for other commands is no reason to refuse; the report says
        // that there was no checkpoint.
        args.trust.trust()?;
        return Ok(None);
    };
    let opened = args.trust.required()?.open(&read_text(path)?);
    opened.map(Some).map_err(|error| CliError::failed(format!("{}: {error}", path.display())))
}

/// What is to be read and compared.
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
            .with_hint("entries that were signed are gone, or the ledger is another one"));
        }
        let limit = signed.unwrap_or(head);
        let end = args.end.unwrap_or(limit);
        if end > limit {
            let of = if signed.is_some() { "the size of the checkpoint" } else { "the head" };
            return Err(CliError::usage(format!(
                "--end {end} must not be greater than {of}, which is {limit}"
            )));
        }
        if args.start > end {
            let start = args.start;
            return Err(CliError::usage(format!("--start {start} must not be greater than {end}")));
        }
        Ok(Self { start: args.start, end, checkpoint })
    }

    /// Where reading ends: a tree has its root only over all of its leaves.
    fn read_end(&self) -> u64 {
        self.checkpoint.as_ref().map_or(self.end, |signed| signed.checkpoint.size)
    }
}

/// The way along the entries.
struct Audit {
    plan: Plan,
    node: GetCheckpointResponse,
    /// Name of the ledger, as its first entry says.
    origin: Option<String>,
    tip: Tip,
    tree: Option<Range>,
    replay: Replay,
    comparison: Comparison,
    statements: Vec<Statement>,
    statements_untrue: u64,
    shown_max: usize,
}

impl Audit {
    fn new(plan: Plan, node: GetCheckpointResponse, shown_max: usize) -> Self {
        Self {
            tree: plan.checkpoint.as_ref().map(|_| Range::empty(0)),
            plan,
            node,
            origin: None,
            tip: Tip::genesis(),
            replay: Replay::default(),
            comparison: Comparison::new(shown_max),
            statements: Vec::new(),
            statements_untrue: 0,
            shown_max,
        }
    }

    async fn over(
        mut self,
        mut entries: Entries,
        mut answered: Answered,
    ) -> Result<Report, CliError> {
        let bar = progress::bar(Some(self.plan.read_end()), "recomputing");
        for index in 0..self.plan.read_end() {
            let bytes = entries.next(index).await?;
            let entry = self.follow(&bytes)?;
            if index < self.plan.end {
                self.fold(&entry)?;
            }
            if (self.plan.start..self.plan.end).contains(&index) {
                self.compare(&entry, &mut answered).await?;
            }
            bar.inc(1);
        }
        self.too_many(&mut answered).await?;
        bar.finish_and_clear();
        let root = self.check_root()?;
        Ok(self.report(root))
    }

    /// Takes the next entry, if it continues the chain and the ledger is the node's.
    fn follow(&mut self, bytes: &[u8]) -> Result<Entry, CliError> {
        let index = self.tip.next_index;
        let (entry, tip) = self
            .tip
            .follow(bytes)
            .map_err(|error| CliError::failed(format!("entry {index} is damaged: {error}")))?;
        self.tip = tip;
        if let Some(tree) = &mut self.tree {
            tree.push(leaf_hash(bytes));
        }
        if let Some(opened) = entry.body.opened() {
            self.check_ledger(opened)?;
            self.origin = Some(opened.origin.clone());
        }
        Ok(entry)
    }

    /// The ledger must be the one that the server answers for, and the one that was signed.
    fn check_ledger(&self, opened: &LedgerOpened) -> Result<(), CliError> {
        if opened.ledger_id.as_slice() != self.node.ledger_id {
            let (own, other) = (hex(&opened.ledger_id), hex(&self.node.ledger_id));
            return Err(CliError::failed(format!(
                "the entries are of the ledger {own}, the server answers for {other}"
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
        let untrue =
            self.replay.apply(entry).map_err(|error| CliError::failed(error.to_string()))?;
        self.statements_untrue += untrue.len() as u64;
        let room = self.shown_max.saturating_sub(self.statements.len());
        let statements = untrue.iter().take(room);
        self.statements.extend(statements.map(|untrue| Statement::of(entry.index, untrue)));
        Ok(())
    }

    async fn compare(&mut self, entry: &Entry, answered: &mut Answered) -> Result<(), CliError> {
        let answers =
            self.replay.answers(entry).map_err(|error| CliError::failed(error.to_string()))?;
        let mut recomputed = answers.map(|decision| message(&decision)).peekable();
        loop {
            // What is of a later entry is compared there.
            let given = answered.peek().await?.filter(|given| given.index <= entry.index);
            let Some(taken) = self.comparison.compare(recomputed.peek(), given) else {
                return Ok(());
            };
            self.enough()?;
            if taken.recomputed {
                recomputed.next();
            }
            if taken.answered {
                answered.take();
            }
        }
    }

    /// Answers for what was not asked.
    async fn too_many(&mut self, answered: &mut Answered) -> Result<(), CliError> {
        while let Some(given) = answered.peek().await? {
            self.comparison.compare(None, Some(given));
            answered.take();
            self.enough()?;
        }
        Ok(())
    }

    fn enough(&self) -> Result<(), CliError> {
        if self.comparison.differ <= DIFFERENCES_MAX {
            return Ok(());
        }
        Err(CliError::failed(format!(
            "more than {DIFFERENCES_MAX} answers differ, no more are compared"
        ))
        .with_hint("compare fewer entries, with --end, to see the first of them"))
    }

    /// The entries must be those that were signed.
    fn check_root(&self) -> Result<Option<Checkpoint>, CliError> {
        let (Some(signed), Some(tree)) = (&self.plan.checkpoint, &self.tree) else {
            return Ok(None);
        };
        let wanted = signed.checkpoint.root;
        match tree.root().filter(|root| *root == wanted) {
            Some(root) => {
                let size = signed.checkpoint.size;
                Ok(Some(Checkpoint { size, root_hash: BASE64.encode(root) }))
            }
            None => Err(CliError::failed(format!(
                "the first {} entries do not have the root that was signed, {}",
                tree.end(),
                BASE64.encode(wanted)
            ))
            .with_hint("these are not the entries that the checkpoint is of")),
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
    let mut statements = Table::new(&["INDEX", "WHAT", "THE ENTRY SAYS", "FROM THE LEDGER"]);
    for statement in &report.statements {
        statements.row(Tone::Bad, statement.cells());
    }
    out.table(&statements)?;
    let (tone, word) = if report.agrees { (Tone::Good, "agrees") } else { (Tone::Bad, "DIFFERS") };
    let word = out.paint(tone, word);
    out.line(word)?;
    let Report { entries, decisions, differ, start, end, untrue, .. } = report;
    out.line(format!("decisions   {decisions} decisions over {entries} entries, {differ} differ"))?;
    out.line(format!("entries     {start}..{end} of {}", report.ledger))?;
    out.line(format!("own words   {untrue} untrue in the entries before {end}"))?;
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
