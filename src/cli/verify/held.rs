//! Checkpoints from files, the data directory and servers, compared with a ledger's entries.

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

/// The source of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    /// A file of `--checkpoint`.
    File,
    /// The data directory.
    #[serde(rename = "own")]
    DataDir,
    /// The server of `--against`.
    Against,
    /// None: the key belongs to another ledger.
    Key,
}

/// A checkpoint before it is compared.
pub struct Held {
    /// The source.
    pub source: Source,
    /// Name of the file or address.
    pub name: String,
    /// The checkpoint, or why it is not valid.
    pub checkpoint: Result<SignedCheckpoint, String>,
    /// Whether its signature was verified with a trusted key.
    pub signed: bool,
    /// Whether the ledger has released it. A server must publish at least the released entries, but not
    /// those that are only signed.
    pub released: bool,
    /// Its verified cosignatures.
    pub cosigned: Vec<Cosigned>,
}

/// The outcome of comparing a checkpoint with the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Compared {
    /// The source.
    pub source: Source,
    /// Name of the file or address.
    pub name: String,
    /// Number of entries under it.
    pub size: Option<u64>,
    /// The root in the checkpoint.
    pub root_hash: Option<String>,
    /// Whether its signature was verified with a key from the auditor. Without a key, the writer of the
    /// files can have written the checkpoint, too.
    pub signed: bool,
    /// The witnesses whose cosignatures were verified.
    pub cosigned: Vec<Cosigned>,
    /// Whether it agrees with the ledger.
    pub agrees: bool,
    /// The difference from the ledger.
    #[serde(rename = "what")]
    pub difference: Option<String>,
}

impl Held {
    fn new(
        source: Source,
        name: String,
        checkpoint: Result<SignedCheckpoint, String>,
        released: bool,
        trust: Option<&Trust>,
    ) -> Self {
        let signed = trust.is_some() && checkpoint.is_ok();
        let cosigned = match (&checkpoint, trust) {
            (Ok(signed), Some(trust)) => trust.cosigned(signed),
            _ => Vec::new(),
        };
        Self { source, name, checkpoint, signed, released, cosigned }
    }

    /// A checkpoint from outside: valid only with the signature of a trusted key.
    pub fn outside(source: Source, name: String, text: &str, trust: &Trust) -> Self {
        let checkpoint = trust.open(text).map_err(|error| error.to_string());
        Self::new(source, name, checkpoint, true, Some(trust))
    }

    /// A checkpoint in a file.
    ///
    /// # Errors
    /// The file can not be read.
    pub fn file(path: &Path, trust: &Trust) -> Result<Self, CliError> {
        let text = read_text(path)?;
        Ok(Self::outside(Source::File, path.display().to_string(), &text, trust))
    }

    /// The checkpoints of a data directory: the last signed one, and the last released one, which must
    /// have the cosignatures of the policy.
    ///
    /// # Errors
    /// The file can not be read.
    pub fn of_data_dir(data_dir: &Path, trust: Option<&Trust>) -> Result<Vec<Self>, CliError> {
        let path = data_dir.join(BOOK_FILE);
        if !path.try_exists().map_err(|error| CliError::file(&path, error))? {
            return Ok(Vec::new());
        }
        let text = fs::read_to_string(&path).map_err(|error| CliError::file(&path, error))?;
        let held = |checkpoint, released| {
            Self::new(Source::DataDir, BOOK_FILE.to_owned(), checkpoint, released, trust)
        };
        let file = match CheckpointFile::parse(&text) {
            Ok(file) => file,
            Err(error) => return Ok(vec![held(Err(error.to_string()), false)]),
        };
        let released = file.released.map(|released| released.note);
        let signed = file.signed.map(|signed| signed.note);
        let signed = signed.filter(|note| Some(note) != released.as_ref());
        let notes = [(signed, false), (released, true)];
        let notes = notes.into_iter().filter_map(|(note, released)| Some((note?, released)));
        Ok(notes.map(|(note, released)| held(parse(&note, released, trust), released)).collect())
    }

    /// The difference of a key that belongs to another ledger; none if it belongs to this one.
    pub fn foreign_key(trust: &Trust, good: &Good) -> Option<Compared> {
        let name = trust.key.name();
        let opened = good.opened.as_ref().filter(|opened| opened.origin != name)?;
        let difference =
            format!("the key is of the ledger `{name}`, this one is `{}`", opened.origin);
        Some(Compared {
            source: Source::Key,
            name: name.to_owned(),
            size: None,
            root_hash: None,
            signed: false,
            cosigned: Vec::new(),
            agrees: false,
            difference: Some(difference),
        })
    }

    /// Number of entries under it, if it is valid.
    pub fn size(&self) -> Option<u64> {
        self.checkpoint.as_ref().ok().map(|signed| signed.checkpoint.size)
    }

    /// Number of entries that a server must publish at least because of this checkpoint.
    pub fn published_size_min(&self) -> Option<u64> {
        self.size().filter(|_| self.signed && self.released)
    }

    /// Compares it with the undamaged part of a ledger; `is_whole` if that is all of it.
    pub fn compare(self, good: &Good, is_whole: bool) -> Compared {
        let difference = self.difference(good, is_whole);
        self.compared(difference)
    }

    /// The difference from the undamaged part of a ledger.
    pub fn difference(&self, good: &Good, is_whole: bool) -> Option<String> {
        let checkpoint = match &self.checkpoint {
            Ok(signed) => &signed.checkpoint,
            Err(problem) => return Some(problem.clone()),
        };
        let (size, entries) = (checkpoint.size, good.tip.next_index);
        if let Some(difference) = other_ledger(&checkpoint.origin, good) {
            return Some(difference);
        }
        match good.roots.get(&size) {
            Some(root) if *root == checkpoint.root => None,
            Some(root) => Some(format!(
                "the root of the first {size} entries is {}, another than the checkpoint's: the \
                 ledger was changed since",
                BASE64.encode(root)
            )),
            None if is_whole => Some(format!(
                "the checkpoint is of {size} entries, the ledger has {entries}: it was rolled back \
                 or cut"
            )),
            None => Some(format!(
                "the checkpoint is of {size} entries, only the first {entries} are good"
            )),
        }
    }

    /// The outcome of a comparison.
    pub fn compared(self, difference: Option<String>) -> Compared {
        let checkpoint = self.checkpoint.as_ref().ok().map(|signed| &signed.checkpoint);
        Compared {
            size: checkpoint.map(|checkpoint| checkpoint.size),
            root_hash: checkpoint.map(|checkpoint| BASE64.encode(checkpoint.root)),
            source: self.source,
            name: self.name,
            signed: self.signed,
            cosigned: self.cosigned,
            agrees: difference.is_none(),
            difference,
        }
    }
}

/// Parses a note of the data directory and verifies it with the trusted keys, if there are any.
fn parse(note: &str, released: bool, trust: Option<&Trust>) -> Result<SignedCheckpoint, String> {
    let signed = SignedCheckpoint::parse(note).map_err(|error| error.to_string())?;
    match trust {
        // A checkpoint that is not released may still wait for its witnesses.
        Some(trust) if released => trust.check(&signed).map_err(|error| error.to_string())?,
        Some(trust) => signed.verify(&trust.key).map_err(|error| error.to_string())?,
        None => {}
    }
    Ok(signed)
}

/// The difference if a checkpoint has the origin of another ledger.
pub fn other_ledger(origin: &str, good: &Good) -> Option<String> {
    let opened = good.opened.as_ref().filter(|opened| opened.origin != origin)?;
    Some(format!("the checkpoint is of the ledger `{origin}`, this one is `{}`", opened.origin))
}
