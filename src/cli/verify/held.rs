//! Checkpoints that somebody holds, compared with what the files of a ledger hold.

use std::{fs, path::Path};

use base64::Engine as _;
use serde::Serialize;

use crate::{
    cli::{
        error::CliError,
        offline::CheckpointFile,
        trust::{Cosigned, Trust, read_text},
    },
    ledger::verify::Good,
    tlog::{BASE64, checkpoint::SignedCheckpoint},
    tree::BOOK_FILE,
};

/// Where a checkpoint comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    /// A file of the auditor.
    File,
    /// The data directory itself.
    Own,
    /// What a server publishes.
    Against,
    /// The key alone, where it is of another ledger.
    Key,
}

/// A checkpoint before it is compared.
pub struct Held {
    /// Where it comes from.
    pub source: Source,
    /// Name of the file or address.
    pub name: String,
    /// The checkpoint, or why it does not count.
    pub checkpoint: Result<SignedCheckpoint, String>,
    /// Whether a key that is trusted has signed it.
    pub signed: bool,
    /// Whether somebody outside has it: a server that publishes less went back behind its word. What a
    /// ledger has signed and not released yet, it need not publish.
    pub released: bool,
    /// Who has cosigned it.
    pub cosigned: Vec<Cosigned>,
}

/// A checkpoint beside the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Compared {
    /// Where it comes from.
    pub source: Source,
    /// Name of the file or address.
    pub name: String,
    /// Number of entries under it.
    pub size: Option<u64>,
    /// Root over them, as the checkpoint says.
    pub root_hash: Option<String>,
    /// Whether its signature was verified with a key that the auditor gave. False says that none was
    /// given, and so that whoever wrote the files can have written this, too.
    pub signed: bool,
    /// The witnesses whose cosignatures were verified.
    pub cosigned: Vec<Cosigned>,
    /// Whether the ledger is what it says.
    pub agrees: bool,
    /// What differs.
    pub what: Option<String>,
}

impl Held {
    /// A checkpoint from outside: it counts under a key that is trusted, or not at all.
    pub fn outside(source: Source, name: String, text: &str, trust: &Trust) -> Self {
        let checkpoint = trust.open(text).map_err(|error| error.to_string());
        let cosigned = checkpoint.as_ref().map_or_else(|_| Vec::new(), |own| trust.cosigned(own));
        let signed = checkpoint.is_ok();
        Self { source, name, signed, released: true, cosigned, checkpoint }
    }

    /// A checkpoint in a file.
    ///
    /// # Errors
    /// The file can not be read.
    pub fn file(path: &Path, trust: &Trust) -> Result<Self, CliError> {
        let text = read_text(path)?;
        Ok(Self::outside(Source::File, path.display().to_string(), &text, trust))
    }

    /// The checkpoints of a data directory: the one that was signed last, and the one that was
    /// released last, which must be cosigned as the policy asks.
    ///
    /// # Errors
    /// The file can not be read.
    pub fn own(data_dir: &Path, trust: Option<&Trust>) -> Result<Vec<Self>, CliError> {
        let path = data_dir.join(BOOK_FILE);
        if !path.try_exists().map_err(|error| CliError::file(&path, error))? {
            return Ok(Vec::new());
        }
        let text = fs::read_to_string(&path).map_err(|error| CliError::file(&path, error))?;
        let own = match CheckpointFile::parse(&text) {
            Ok(own) => own,
            Err(error) => return Ok(vec![Self::own_note(Err(error.to_string()), false, trust)]),
        };
        let (signed, released) = (own.signed.map(|own| own.note), own.released.map(|own| own.note));
        let signed = signed.filter(|note| Some(note) != released.as_ref());
        let notes = [(signed, false), (released, true)];
        let held = |(note, released): (Option<String>, bool)| {
            Some(Self::own_note(Ok(note?), released, trust))
        };
        Ok(notes.into_iter().filter_map(held).collect())
    }

    fn own_note(note: Result<String, String>, released: bool, trust: Option<&Trust>) -> Self {
        let checkpoint = note.and_then(|note| {
            let own = SignedCheckpoint::parse(&note).map_err(|error| error.to_string())?;
            match trust {
                // One that is not released yet may still wait for its witnesses.
                Some(trust) if released => trust.check(&own).map_err(|error| error.to_string())?,
                Some(trust) => own.verify(&trust.key).map_err(|error| error.to_string())?,
                None => {}
            }
            Ok(own)
        });
        let signed = trust.is_some() && checkpoint.is_ok();
        let cosigned = match (&checkpoint, trust) {
            (Ok(own), Some(trust)) => trust.cosigned(own),
            _ => Vec::new(),
        };
        let name = BOOK_FILE.to_owned();
        Self { source: Source::Own, name, checkpoint, signed, released, cosigned }
    }

    /// What stands for a key of another ledger; none if it is this one's.
    pub fn foreign_key(trust: &Trust, good: &Good) -> Option<Compared> {
        let name = trust.key.name();
        let own = good.opened.as_ref().filter(|opened| opened.origin != name)?;
        let what = format!("the key is of the ledger `{name}`, this one is `{}`", own.origin);
        Some(Compared {
            source: Source::Key,
            name: name.to_owned(),
            size: None,
            root_hash: None,
            signed: false,
            cosigned: Vec::new(),
            agrees: false,
            what: Some(what),
        })
    }

    /// Number of entries under it, if it counts.
    pub fn size(&self) -> Option<u64> {
        self.checkpoint.as_ref().ok().map(|own| own.checkpoint.size)
    }

    /// Number of entries that a server which has vouched for it must publish at least.
    pub fn vouched(&self) -> Option<u64> {
        self.size().filter(|_| self.signed && self.released)
    }

    /// Compares it with what is good of a ledger. `is_whole` says that nothing is damaged.
    pub fn compare(self, good: &Good, is_whole: bool) -> Compared {
        let what = self.differs(good, is_whole);
        self.compared(what)
    }

    /// What differs from what is good of a ledger.
    pub fn differs(&self, good: &Good, is_whole: bool) -> Option<String> {
        differs(&self.checkpoint, good, is_whole)
    }

    /// The outcome of a comparison.
    pub fn compared(self, what: Option<String>) -> Compared {
        let own = self.checkpoint.as_ref().ok().map(|own| &own.checkpoint);
        Compared {
            size: own.map(|own| own.size),
            root_hash: own.map(|own| BASE64.encode(own.root)),
            source: self.source,
            name: self.name,
            signed: self.signed,
            cosigned: self.cosigned,
            agrees: what.is_none(),
            what,
        }
    }
}

fn differs(
    checkpoint: &Result<SignedCheckpoint, String>,
    good: &Good,
    is_whole: bool,
) -> Option<String> {
    let own = match checkpoint {
        Ok(own) => &own.checkpoint,
        Err(what) => return Some(what.clone()),
    };
    let (size, entries) = (own.size, good.tip.next_index);
    if let Some(other) = other_ledger(&own.origin, good) {
        return Some(other);
    }
    match good.roots.get(&size) {
        Some(root) if *root == own.root => None,
        Some(root) => Some(format!(
            "the root of the first {size} entries is {}, another than the checkpoint's: the \
             ledger was changed since",
            BASE64.encode(root)
        )),
        None if is_whole => Some(format!(
            "the checkpoint is of {size} entries, the ledger has {entries}: it was rolled back or \
             cut"
        )),
        None => {
            Some(format!("the checkpoint is of {size} entries, only the first {entries} are good"))
        }
    }
}

/// What to say of an origin that is not the ledger's.
pub fn other_ledger(origin: &str, good: &Good) -> Option<String> {
    let own =
        good.opened.as_ref().map(|opened| opened.origin.as_str()).filter(|own| *own != origin);
    own.map(|own| format!("the checkpoint is of the ledger `{origin}`, this one is `{own}`"))
}
