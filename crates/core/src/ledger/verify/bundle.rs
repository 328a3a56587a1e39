//! Verification of entries in one file: their exact bytes, each after its length as C2SP tlog-tiles has
//! it in entry bundles. The file begins with entry 0.
//!
//! Such a file has no checksums: that an entry was changed shows at the entry after it, which names the
//! hash of the right one. So an entry is good only once the next one follows it, and damage is told of
//! the entry that was changed.

use std::{
    io::{self, Read},
    ops::ControlFlow,
};

use thiserror::Error;

use super::{Audited, Good, OfPersons, Report, VerifyError, Wanted, opened};
use crate::{
    domain::{LedgerOpened, Millis},
    ledger::{ChainError, Claim, Tip, chain},
    storage::{Damage, LogError},
    tlog::merkle::{Hash, Range, empty_root, leaf_hash},
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
    let mut entry = Vec::new();
    let broken = loop {
        match next(source, &mut entry)? {
            ControlFlow::Break(cut) => {
                walk.confirm();
                break cut.map(str::to_owned);
            }
            ControlFlow::Continue(()) => {}
        }
        match walk.take(&entry) {
            Ok(()) => {}
            Err(Problem::Link) if is_followed(source, &entry)? => {
                break Some("it was changed: the entry after it names another hash".to_owned());
            }
            Err(problem) => {
                walk.confirm();
                if let Some(index) = walk.beginning(&entry) {
                    let result = Err(VerifyError::Beginning { name: name.to_owned(), index });
                    return Ok(Audited { good: walk.good, result });
                }
                break Some(problem.to_string());
            }
        }
    };
    Ok(walk.end(name, broken))
}

/// Whether the next entry of the source follows this one, so that this one is as it was written.
fn is_followed(source: &mut dyn Read, entry: &[u8]) -> io::Result<bool> {
    let mut after = Vec::new();
    if next(source, &mut after)?.is_break() {
        return Ok(false);
    }
    Ok(Claim::read(&after).is_some_and(|claim| claim.prev_hash == chain::hash(entry)))
}

/// Why an entry does not continue the chain.
#[derive(Debug, Error)]
enum Problem {
    #[error("prev_hash is not the hash of the entry before: one of the two was changed")]
    Link,
    #[error(transparent)]
    Chain(ChainError),
}

impl From<ChainError> for Problem {
    fn from(error: ChainError) -> Self {
        if error == ChainError::PrevHash { Self::Link } else { Self::Chain(error) }
    }
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
    /// The entries that the next one follows.
    good: Good,
    /// The entry after them.
    last: Option<Last>,
    /// The end of the chain with that entry.
    tip: Tip,
    /// Where the entry begins in the file that comes next after the good ones.
    offset: u64,
    leaves: Range,
    wanted: Wanted<'a>,
}

/// An entry that follows the one before, and that none follows yet.
struct Last {
    leaf: Hash,
    bytes: u64,
    opened: Option<LedgerOpened>,
    of_persons: OfPersons,
}

impl<'a> Walk<'a> {
    fn new(wanted: Wanted<'a>) -> Self {
        let mut good = Good::none();
        good.roots.retain(|size, _| wanted.roots_at.contains(size));
        Self { tip: good.tip, good, last: None, offset: 0, leaves: Range::empty(0), wanted }
    }

    /// Takes the next entry, which confirms the one before.
    fn take(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        let (entry, tip) = self.tip.follow(bytes)?;
        self.confirm();
        self.last = Some(Last {
            leaf: leaf_hash(bytes),
            bytes: bytes.len() as u64,
            opened: opened(&entry),
            of_persons: OfPersons::of(&entry),
        });
        self.tip = tip;
        Ok(())
    }

    /// The index of an entry with which the file begins, if it is no first entry of a ledger.
    fn beginning(&self, bytes: &[u8]) -> Option<u64> {
        let claim = Claim::read(bytes).filter(|_| self.good.tip.next_index == 0)?;
        (claim.index > 0).then_some(claim.index)
    }

    /// Counts the last entry as good.
    fn confirm(&mut self) {
        let Some(Last { leaf, bytes, opened, of_persons }) = self.last.take() else { return };
        let (tip, good) = (self.tip, &mut self.good);
        self.leaves.push(leaf);
        self.offset += LENGTH_BYTES as u64 + bytes;
        good.opened = good.opened.take().or(opened);
        good.of_persons.add(of_persons);
        good.tip = tip;
        good.bytes += bytes;
        if self.wanted.roots_at.contains(&tip.next_index) {
            good.roots.extend(self.leaves.root().map(|root| (tip.next_index, root)));
        }
        if let Some(progress) = &mut self.wanted.progress {
            progress(good.bytes);
        }
    }

    fn end(mut self, name: &str, broken: Option<String>) -> Audited {
        let offset = self.offset;
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
                recorded_at: Millis(good.tip.recorded_at_s.saturating_mul(1_000)),
                torn: None,
            }),
        };
        Audited { good, result }
    }
}
