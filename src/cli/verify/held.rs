//! Checkpoints from files, the data directory and servers, compared with a ledger's entries.

use std::path::Path;

use base64::Engine as _;
use serde::Serialize;

use crate::{
    cli::{
        error::CliError,
        offline,
        trust::{Cosigned, Trust, read_text},
    },
    ledger::verify::Good,
    tlog::{BASE64, checkpoint::SignedCheckpoint, hex},
    tree::{self, BOOK_FILE, KEY_FILE},
    vault,
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
    /// None: the finding is about the keys.
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
    /// A checkpoint that none of the trusted keys has signed.
    unsigned: Option<SignedCheckpoint>,
    /// Whether its signature was verified with a trusted key.
    pub signed: bool,
    /// Whether everything that is trusted vouches for it: a key, and as many witnesses as are asked for.
    pub trusted: bool,
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
    /// Whether enough of the given witnesses have cosigned it, too.
    pub trusted: bool,
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
        let trusted = match (&checkpoint, trust) {
            (Ok(signed), Some(trust)) => trust.check(signed).is_ok(),
            _ => false,
        };
        let cosigned = match (&checkpoint, trust) {
            (Ok(signed), Some(trust)) => trust.cosigned(signed),
            _ => Vec::new(),
        };
        Self { source, name, checkpoint, unsigned: None, signed, trusted, released, cosigned }
    }

    /// Keeps a checkpoint that is not trusted, for [`Self::explain`].
    fn with_unsigned(self, note: &SignedCheckpoint) -> Self {
        let unsigned = self.checkpoint.is_err().then(|| note.clone());
        Self { unsigned, ..self }
    }

    /// Says once more why the checkpoint is not trusted, when more keys of the ledger are known.
    pub fn explain(&mut self, trust: &Trust) {
        if let Some(unsigned) = &self.unsigned
            && let Err(error) = trust.verify_signature(unsigned)
        {
            self.checkpoint = Err(error.to_string());
        }
    }

    /// A checkpoint from outside: valid only with the signature of a trusted key.
    pub fn outside(source: Source, name: String, text: &str, trust: &Trust) -> Self {
        let parsed = SignedCheckpoint::parse(text).map_err(|error| error.to_string());
        let checkpoint = parsed.clone().and_then(|parsed| {
            trust.check(&parsed).map(|()| parsed).map_err(|error| error.to_string())
        });
        let held = Self::new(source, name, checkpoint, true, Some(trust));
        match &parsed {
            Ok(parsed) => held.with_unsigned(parsed),
            Err(_) => held,
        }
    }

    /// The finding that the book of a data directory is older than a checkpoint of the ledger, if it is:
    /// every checkpoint is durable in the book before anybody sees it. `signed` entries are under the book's.
    pub fn older_book(data_dir: &Path, file: &Self, signed: u64) -> Option<Self> {
        let size = file.size().filter(|size| *size > signed)?;
        let is_there = data_dir.join(BOOK_FILE).exists();
        is_there.then(|| {
            let problem = format!(
                "it is of {signed} signed entries, and {} is of {size}: it is older than what this \
                 ledger has signed",
                file.name
            );
            Self::new(Source::DataDir, BOOK_FILE.to_owned(), Err(problem), false, None)
        })
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
    /// have the cosignatures of the policy. A server refuses a directory that has signed and lost them.
    ///
    /// # Errors
    /// The file can not be read.
    pub fn of_data_dir(
        data_dir: &Path,
        is_whole: bool,
        trust: Option<&Trust>,
    ) -> Result<Vec<Self>, CliError> {
        let held = |checkpoint, released| {
            Self::new(Source::DataDir, BOOK_FILE.to_owned(), checkpoint, released, trust)
        };
        let book = match offline::book(data_dir)? {
            Ok(Some(book)) => book,
            Ok(None) if has_signed(data_dir, is_whole)? => {
                return Ok(vec![held(Err(MISSING.to_owned()), false)]);
            }
            Ok(None) => return Ok(Vec::new()),
            Err(problem) => return Ok(vec![held(Err(problem), false)]),
        };
        let signed = book.signed.filter(|signed| Some(signed) != book.released.as_ref());
        let both = [(signed, false), (book.released, true)];
        let both = both.into_iter().filter_map(|(signed, released)| Some((signed?, released)));
        let mut all: Vec<Self> = both
            .map(|(signed, released)| {
                let checkpoint = &signed.checkpoint;
                held(checked(checkpoint, released, trust), released).with_unsigned(checkpoint)
            })
            .collect();
        // The entries must be those of every change, too. Both keys have signed it.
        all.extend(book.key_changes.into_iter().map(|change| {
            let name = format!("{BOOK_FILE}, change of the key in entry {}", change.proof.index);
            Self::new(Source::DataDir, name, Ok(change.proof.checkpoint), false, None)
        }));
        Ok(all)
    }

    /// The finding that no checkpoint shows that this ledger is the one of the trusted keys, if none
    /// does. Without keys there is nothing to show.
    pub fn unproven(trust: &Trust, signed_entries: u64) -> Option<Compared> {
        (signed_entries == 0).then(|| {
            let witnesses = match trust.policy.asks_for_witnesses() {
                true => " and enough of the given witnesses",
                false => "",
            };
            Compared::of_keys(
                trust,
                format!(
                    "there is no checkpoint of these entries that the key{witnesses} signed: nothing \
                     shows that this is the ledger of the key"
                ),
            )
        })
    }

    /// The difference of a key that belongs to another ledger; none if it belongs to this one.
    pub fn foreign_key(trust: &Trust, good: &Good) -> Option<Compared> {
        let is_of = |origin: &str| trust.keys.iter().any(|key| key.name() == origin);
        let opened = good.opened.as_ref().filter(|opened| !is_of(&opened.origin))?;
        let (names, origin) = (trust.names(), &opened.origin);
        let difference = format!("the key is of the ledger `{names}`, this one is `{origin}`");
        Some(Compared::of_keys(trust, difference))
    }

    /// The difference of a book that says that it belongs to another ledger.
    pub fn foreign_book(ledger_id: Option<[u8; 16]>, good: &Good) -> Option<Compared> {
        let (found, opened) = (ledger_id?, good.opened.as_ref()?);
        (found != opened.ledger_id).then(|| {
            let (found, wanted) = (hex(&found), hex(&opened.ledger_id));
            let difference = format!("it is of the ledger {found}, the entries are of {wanted}");
            let none = Err(String::new());
            Self::new(Source::DataDir, BOOK_FILE.to_owned(), none, false, None)
                .compared(Some(difference))
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
                 or cut, or it is another ledger"
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
            trusted: self.trusted,
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

impl Compared {
    /// A finding about the trusted keys.
    fn of_keys(trust: &Trust, difference: String) -> Self {
        Self {
            source: Source::Key,
            name: trust.names(),
            size: None,
            root_hash: None,
            signed: false,
            trusted: false,
            cosigned: Vec::new(),
            agrees: false,
            difference: Some(difference),
        }
    }

    /// Number of entries under it, if it agrees with them.
    pub fn covered_entries(&self, entries: u64) -> u64 {
        self.size.filter(|_| self.agrees).map_or(0, |size| size.min(entries))
    }

    /// Number of entries of which everything that is trusted says that they are the ledger's.
    pub fn signed_entries(&self, entries: u64) -> u64 {
        let vouches = self.trusted && self.agrees;
        self.size.filter(|_| vouches).map_or(0, |size| size.min(entries))
    }
}

/// The finding about a directory without checkpoints.
const MISSING: &str =
    "it is missing, and it says what this ledger has signed: a server refuses to start";

/// Whether a data directory is one that a server used, and not a copy for an auditor: then it has had a
/// book from the beginning. `is_whole` if it is said to have a vault.
fn has_signed(data_dir: &Path, is_whole: bool) -> Result<bool, CliError> {
    let exists = |name| {
        let path = data_dir.join(name);
        path.try_exists().map_err(|error| CliError::file(&path, error))
    };
    Ok(exists(KEY_FILE)? || exists(tree::DIR)? || (is_whole && exists(vault::DIR)?))
}

/// A checkpoint of the data directory, verified with the trusted keys, if there are any.
fn checked(
    signed: &SignedCheckpoint,
    released: bool,
    trust: Option<&Trust>,
) -> Result<SignedCheckpoint, String> {
    match trust {
        // A checkpoint that is not released may still wait for its witnesses.
        Some(trust) if released => trust.check(signed).map_err(|error| error.to_string())?,
        Some(trust) => trust.verify_signature(signed).map_err(|error| error.to_string())?,
        None => {}
    }
    Ok(signed.clone())
}

/// The difference if a checkpoint has the origin of another ledger.
pub fn other_ledger(origin: &str, good: &Good) -> Option<String> {
    let opened = good.opened.as_ref().filter(|opened| opened.origin != origin)?;
    Some(format!("the checkpoint is of the ledger `{origin}`, this one is `{}`", opened.origin))
}
