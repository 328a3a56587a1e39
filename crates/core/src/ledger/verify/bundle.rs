//! Verification of entries in one file: their exact bytes, each after its length as C2SP tlog-tiles has
//! it in entry bundles. The file begins with entry 0.

use std::{
    io::{self, Read},
    ops::ControlFlow,
};

use super::{Audited, Good, Names, Report, VerifyError, Wanted};
use crate::{
    ledger::chain::Tip,
    storage::{Damage, LogError},
    tlog::merkle::{Range, empty_root, leaf_hash},
};

/// Bytes of the length before an entry.
const LENGTH_BYTES: usize = 2;

/// Verifies the entries of a bundle that begins with entry 0. `name` stands for the file in the report of
/// damage. Takes everything but hashes of the tree from `wanted`.
///
/// # Errors
/// The source can not be read.
pub fn audit_bundle(source: &mut dyn Read, name: &str, wanted: Wanted<'_>) -> io::Result<Audited> {
    let mut walk = Walk::new(wanted);
    let mut offset = 0;
    let mut entry = Vec::new();
    let broken = loop {
        match next(source, &mut entry)? {
            ControlFlow::Break(cut) => break cut.map(str::to_owned),
            ControlFlow::Continue(()) => {
                if let Err(problem) = walk.take(&entry) {
                    break Some(problem);
                }
            }
        }
        offset += (LENGTH_BYTES + entry.len()) as u64;
    };
    Ok(walk.end(name, offset, broken))
}

/// Reads the next entry. Breaks at the end, with the problem if the end is inside an entry.
fn next(
    source: &mut dyn Read,
    entry: &mut Vec<u8>,
) -> io::Result<ControlFlow<Option<&'static str>>> {
    const CUT: &str = "the file ends inside an entry";
    entry.clear();
    source.take(LENGTH_BYTES as u64).read_to_end(entry)?;
    let length = match *entry.as_slice() {
        [] => return Ok(ControlFlow::Break(None)),
        [high, low] => u16::from_be_bytes([high, low]),
        _ => return Ok(ControlFlow::Break(Some(CUT))),
    };
    entry.clear();
    source.take(u64::from(length)).read_to_end(entry)?;
    let is_whole = entry.len() == usize::from(length);
    Ok(if is_whole { ControlFlow::Continue(()) } else { ControlFlow::Break(Some(CUT)) })
}

struct Walk<'a> {
    good: Good,
    leaves: Range,
    names: Names,
    wanted: Wanted<'a>,
}

impl<'a> Walk<'a> {
    fn new(wanted: Wanted<'a>) -> Self {
        let root = empty_root();
        let zero = wanted.roots_at.contains(&0).then_some((0, root));
        let roots = zero.into_iter().collect();
        let good = Good { tip: Tip::genesis(), bytes: 0, root, opened: None, roots };
        Self { good, leaves: Range::empty(0), names: Names::default(), wanted }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), String> {
        let (entry, tip) = self.good.tip.follow(bytes).map_err(|problem| problem.to_string())?;
        self.names.take(entry.fact()).map_err(|problem| problem.to_string())?;
        if let Some(take) = &mut self.wanted.subjects {
            entry.body.kind().named().into_iter().for_each(|subject| take(subject, entry.index));
        }
        self.leaves.push(leaf_hash(bytes));
        let good = &mut self.good;
        good.opened = good.opened.take().or_else(|| entry.body.opened().cloned());
        good.tip = tip;
        good.bytes += bytes.len() as u64;
        if self.wanted.roots_at.contains(&tip.next_index) {
            good.roots.extend(self.leaves.root().map(|root| (tip.next_index, root)));
        }
        if let Some(progress) = &mut self.wanted.progress {
            progress(good.bytes);
        }
        Ok(())
    }

    fn end(mut self, name: &str, offset: u64, broken: Option<String>) -> Audited {
        self.good.root = self.leaves.root().unwrap_or_else(empty_root);
        let good = self.good;
        let result = match (broken, good.opened.clone()) {
            (Some(problem), _) => {
                let index = good.tip.next_index;
                Err(LogError::from(Damage { segment: name.to_owned(), offset, index, problem })
                    .into())
            }
            (None, None) => Err(VerifyError::NoLedger(name.into())),
            (None, Some(opened)) => Ok(Report {
                origin: opened.origin,
                ledger_id: opened.ledger_id,
                entries: good.tip.next_index,
                bytes: offset,
                chain_hash: good.tip.hash,
                recorded_at: good.tip.recorded_at,
                torn: None,
            }),
        };
        Audited { good, result }
    }
}
