//! `export`: entries as NDJSON, decoded, or their exact bytes. What they say of data subjects stays sealed,
//! unless a key-encryption key is given.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use clap::{ArgMatches, Args, parser::ValueSource};
use indicatif::ProgressBar;
use serde::Serialize;
use serde_json::json;

use super::{
    Context, Exit, client,
    entries::Entries,
    error::CliError,
    offline,
    opened::{Opened, Opener, Pass},
    output::Output,
    progress,
    words::Bytes,
};
use crate::{
    format::{
        canonical::{self, CanonicalError},
        entry::Entry as SealedEntry,
    },
    json,
    ledger::chain,
    proto::{GetCheckpointRequest, audit_service_client::AuditServiceClient, ledger::Entry},
    tlog::tile,
    vault,
};

const AFTER_HELP: &str = "\
Reads from the server, or, with --data-dir, straight from the files, with no server and no keys.
Prints one JSON object a line, with or without --json: `entry`, and the `hash` of the bytes that
the ledger stores. The catalogue is in clear. What entries say of data subjects, uses and
subscriptions is sealed and stays so.

With --data-dir and --kek-file, each line also has what the entry says that is not in clear, under
`opened`: `records` with subject, record and evidence, `use`, `items`. The vault of the directory
has the keys. Such an export is personal data in clear: a file that it makes is readable by its
owner alone. For an auditor, make a disclosure instead: `consent-ledger audit disclose`.

With --raw it writes those bytes themselves, each entry after its length in two bytes, big endian,
as in the entry bundles of C2SP tlog-tiles. A file that begins with entry 0 can be compared with a
checkpoint offline: `consent-ledger verify --raw-file F --checkpoint C --key K`. docs/format.md
shows how to do it without this program.

Examples:
  consent-ledger export --start 100 --end 200
  consent-ledger export --data-dir ./data --output entries.ndjson
  consent-ledger export --data-dir ./data --kek-file ./data/kek --start 100
  consent-ledger export --raw --output ledger.raw";

/// Options of `export`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct ExportArgs {
    /// Read this directory instead of asking a server
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// First index
    #[arg(long, value_name = "INDEX", default_value_t = 0)]
    start: u64,
    /// End of the range, exclusive [default: the head of the ledger]
    #[arg(long, value_name = "INDEX")]
    end: Option<u64>,
    /// Write the exact bytes of the entries, each after its length, instead of JSON
    #[arg(long)]
    raw: bool,
    /// Also open what is sealed, with the vault of --data-dir and the key-encryption key in this file
    #[arg(long, value_name = "FILE", conflicts_with = "raw")]
    kek_file: Option<PathBuf>,
    /// Write to this file instead of standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Whether `export` or `prove` reads a directory. A server given by flag takes precedence over a
/// directory from the environment or the file, which other commands use too.
pub(super) fn is_offline(matches: &ArgMatches) -> Result<bool, CliError> {
    let Some(("export" | "prove", matches)) = matches.subcommand() else { return Ok(false) };
    let by_flag = |id| matches.value_source(id) == Some(ValueSource::CommandLine);
    match (by_flag("data_dir"), by_flag("addr")) {
        (true, true) => Err(CliError::usage("--data-dir and --addr exclude each other")
            .with_hint("read the files of a directory, or ask a server")),
        (true, false) => Ok(true),
        (false, true) => Ok(false),
        (false, false) => Ok(matches.contains_id("data_dir")),
    }
}

pub(super) async fn run(
    args: ExportArgs,
    offline: bool,
    context: &mut Context,
) -> Result<Exit, CliError> {
    if args.end.is_some_and(|end| end < args.start) {
        return Err(CliError::usage("--end must not be less than --start"));
    }
    let data_dir = args.data_dir.filter(|_| offline);
    let opener = opener(data_dir.as_deref(), args.kek_file.as_deref())?;
    // What an entry says is opened after all entries before it.
    let first = if opener.is_some() { 0 } else { args.start };
    let (entries, total) = match data_dir {
        Some(dir) => {
            let total = args.end.map(|end| end - first);
            // How many entries a directory has is known once they are read.
            let (start, end) = (args.start, args.end);
            let check = move |head| check_range(start, end, head);
            (Entries::from_dir(dir, first, end, check), total)
        }
        None => {
            let mut client = AuditServiceClient::new(client::connect(&context.global).await?);
            let checkpoint = client.get_checkpoint(GetCheckpointRequest::default()).await?;
            let size = checkpoint.into_inner().size;
            let end = args.end.unwrap_or(size);
            check_range(args.start, args.end, size)?;
            let total = end.saturating_sub(args.start);
            (Entries::from_server(client, args.start, end).await?, Some(total))
        }
    };
    let form = match &opener {
        _ if args.raw => Form::Raw,
        None => Form::Decoded,
        Some(opener) => Form::Opened(Box::new(opener.pass()?)),
    };
    let mut file = args.output.as_deref().map(|path| open(path, &form)).transpose()?;
    let out = file.as_mut().unwrap_or(&mut context.out);
    let bar = progress::bar(total, "exporting");
    let written = write(entries, first, args.start, form, out, &bar).await;
    bar.finish_and_clear();
    // Entries before a damaged one are still written.
    let flushed = out.flush();
    let count = written?;
    flushed?;
    if let Some(path) = &args.output {
        let output = path.display().to_string();
        match context.out.json {
            true => context.out.object(&json!({"entries": count, "output": output}))?,
            false => context.out.line(format!("{count} entries written to {output}"))?,
        }
    }
    Ok(Exit::Success)
}

/// Refuses a range beyond the head of the ledger, which has `head` entries: less would be exported than was
/// asked for.
fn check_range(start: u64, end: Option<u64>, head: u64) -> Result<(), CliError> {
    let (name, index) = if start > head { ("--start", Some(start)) } else { ("--end", end) };
    match index.filter(|index| *index > head) {
        None => Ok(()),
        Some(index) => Err(CliError::usage(format!(
            "{name} {index} lies beyond the head of the ledger, which is {head}"
        ))),
    }
}

/// The keys that open what is sealed, if a key-encryption key is given.
fn opener(data_dir: Option<&Path>, kek_file: Option<&Path>) -> Result<Option<Opener>, CliError> {
    let Some(kek_file) = kek_file else { return Ok(None) };
    let Some(dir) = data_dir else {
        return Err(CliError::usage("--kek-file opens the vault of --data-dir, which is missing")
            .with_hint("a server opens nothing: run it where the files are"));
    };
    offline::people(&dir.join(vault::DIR), Some(kek_file)).map(|people| Some(Opener::new(people)))
}

/// How an entry is written.
enum Form<'a> {
    /// Its bytes.
    Raw,
    /// Decoded; what is sealed stays so.
    Decoded,
    /// Decoded and opened.
    Opened(Box<Pass<'a>>),
}

/// Writes the entries from `start` on, and returns their number. Those before are only read.
async fn write(
    mut entries: Entries,
    first: u64,
    start: u64,
    mut form: Form<'_>,
    out: &mut Output,
    bar: &ProgressBar,
) -> Result<u64, CliError> {
    let mut index = first;
    while let Some(bytes) = entries.next().await? {
        match &mut form {
            Form::Raw => raw(index, &bytes, out)?,
            Form::Decoded => out.object(&decoded(index, &bytes)?)?,
            Form::Opened(pass) => {
                let opened = pass.open(&sealed(index, &bytes)?)?;
                if index >= start {
                    out.object(&OpenedEntry { entry: decoded(index, &bytes)?, opened })?;
                }
            }
        }
        bar.inc(1);
        index += 1;
    }
    Ok(index.saturating_sub(start))
}

fn decoded(index: u64, bytes: &[u8]) -> Result<HashedEntry, CliError> {
    HashedEntry::decode(bytes).map_err(|error| does_not_decode(index, &error))
}

fn sealed(index: u64, bytes: &[u8]) -> Result<SealedEntry, CliError> {
    SealedEntry::decode(bytes).map_err(|error| does_not_decode(index, &error))
}

fn does_not_decode(index: u64, error: &dyn fmt::Display) -> CliError {
    CliError::failed(format!("entry {index} does not decode: {error}"))
}

fn raw(index: u64, bytes: &[u8], out: &mut Output) -> Result<(), CliError> {
    let too_long =
        || CliError::failed(format!("entry {index} has {} bytes, too many", bytes.len()));
    out.bytes(&tile::bundle(std::slice::from_ref(&bytes)).ok_or_else(too_long)?)
}

fn open(path: &Path, form: &Form<'_>) -> Result<Output, CliError> {
    let file = match form {
        Form::Raw | Form::Decoded => File::create(path),
        Form::Opened(_) => private(path),
    };
    let file = file.map_err(|error| CliError::file(path, error))?;
    Ok(Output::new(Box::new(file), true, false))
}

/// A new file that its owner alone can read. One that is there is not taken: it may be open to others.
fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// An entry with its hash, and with what it says.
#[derive(Debug, Serialize)]
struct OpenedEntry {
    #[serde(flatten)]
    entry: HashedEntry,
    opened: Opened,
}

/// An entry with its hash.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct HashedEntry {
    /// Hash of the stored bytes.
    hash: Bytes,
    /// The decoded entry.
    #[serde(serialize_with = "json::serialize")]
    pub(super) entry: Entry,
}

impl HashedEntry {
    /// Decodes the bytes of an entry.
    ///
    /// # Errors
    /// The bytes are not an entry.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, CanonicalError> {
        Ok(Self { hash: Bytes(chain::hash(bytes).to_vec()), entry: canonical::decode(bytes)? })
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use serde_json::to_value;

    use super::*;
    use crate::proto::ledger;

    #[test]
    fn an_entry_of_the_ledger_is_decoded_whole() {
        let slot = ledger::Slot {
            tag: vec![1; 3],
            salt: vec![2],
            record: vec![3],
            record_commit: vec![4],
            ..ledger::Slot::default()
        };
        let persons = ledger::Persons { slots: vec![slot], shared: None };
        let entry = Entry {
            index: 7,
            prev_hash: vec![0xab; 3],
            recorded_at_s: 1_000,
            mac: Vec::new(),
            body: Some(ledger::entry::Body::Persons(persons)),
        };
        let bytes = entry.encode_to_vec();
        let hash = Bytes(blake3::derive_key("consent-ledger v2 chain", &bytes).to_vec());
        assert_eq!(
            to_value(HashedEntry::decode(&bytes).unwrap()).unwrap(),
            json!({
                "hash": hash,
                "entry": {
                    "index": "7",
                    "prevHash": "q6ur",
                    "recordedAtS": "1000",
                    "mac": "",
                    "persons": {
                        "slots": [{
                            "tag": "AQEB",
                            "salt": "Ag==",
                            "record": "Aw==",
                            "recordCommit": "BA==",
                            "evidence": "",
                            "evidenceCommit": "",
                        }],
                    },
                },
            })
        );
    }

    #[test]
    fn bytes_that_are_no_entry_are_an_error() {
        assert!(HashedEntry::decode(&[0xff; 8]).is_err());
    }
}
