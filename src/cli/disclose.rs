//! `audit disclose`: opens the records of some data subjects, or of all, for somebody without keys.
//!
//! The server encrypts the file. It appears under its name once it is complete; before, and after an error,
//! there is no part of it.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, BufWriter, Read, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use indicatif::{HumanBytes, ProgressBar};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;
use tonic::Streaming;

use super::{
    Context, Exit, client,
    error::CliError,
    output::Tone,
    progress,
    stream::stop_signals,
    words::{Bytes, hex},
};
use crate::{
    node::{DISCLOSED_SUBJECTS_MAX, RECIPIENTS_MAX},
    proto::{
        DiscloseRequest, DiscloseResponse, DisclosureBegun,
        audit_service_client::AuditServiceClient, disclose_response::Message,
    },
};

/// The subcommands of `audit`.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Write a disclosure: what opens all records of some data subjects, encrypted for an auditor
    Disclose(DiscloseArgs),
}

const AFTER_HELP: &str = "\
A disclosure opens all records of the data subjects up to now, and proves that none is left out.
The auditor needs it, the ledger's files or a server, and the age identity of the recipient:
`verify-decisions --disclosure FILE --identity KEY-FILE` recomputes every decision and outcome.
The auditor needs neither the vault nor the key-encryption key. The evidence of acts is not
opened: see `receipt`.

Data subjects that verified links connect with those of --subjects are disclosed, too. Those that
are only asserted to be the same persons are left out and counted: decisions that may depend on
them can not be recomputed.

The server encrypts the file to the recipients and records the disclosure in the ledger, with the
recipients and the file's SHA-256, before it sends the first byte. So a disclosure that fails
while it is received is on record all the same. Other writes wait while the server records the
data subjects.

--open-ended has no end: it adds the keys of uses, subscriptions, deliveries and disclosures, for
each 2^20 entries. They open entries of these kinds that are recorded later, too, up to the next
multiple of 2^20. The addresses of webhooks are never disclosed.

Make a key pair with `age-keygen -o auditor.key`; it prints the recipient.

Exit codes: 0 done, 1 failed, for example if a data subject has no records, 2 wrong usage, for
example if the file exists.

Examples:
  consent-ledger audit disclose --subjects subjects.txt --to age1… --output case-17.age
  echo user:42 | consent-ledger audit disclose --subjects - --to age1… --output user-42.age
  consent-ledger audit disclose --all --with-identities --to age1… --to age1… --output all.age";

/// Options of `audit disclose`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct DiscloseArgs {
    #[command(flatten)]
    whose: WhoseArgs,
    /// Recipient of age, `age1…`; may be given several times
    #[arg(long = "to", value_name = "RECIPIENT", required = true)]
    to: Vec<String>,
    /// Name the data subjects in the file, and prove the names; else they are numbered
    #[arg(long)]
    with_identities: bool,
    /// Add keys of what names nobody, which open later entries, too
    #[arg(long)]
    open_ended: bool,
    /// File to write; it must not exist
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
}

/// Whose records are disclosed.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct WhoseArgs {
    /// File of data subjects, one on each line; `-` for standard input
    #[arg(long, value_name = "FILE")]
    subjects: Option<PathBuf>,
    /// All data subjects
    #[arg(long)]
    all: bool,
}

/// A disclosure that was written, as JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    /// Number of entries that it covers.
    revision: u64,
    /// Number of data subjects that it opens.
    persons: u64,
    /// Number of data subjects that are only asserted to be the same persons, and are left out.
    asserted_links_left_out: u64,
    /// Whether it has keys that open later entries.
    open_ended: bool,
    /// Index of the entry that records recipients and digest.
    index: u64,
    /// The file.
    output: String,
    /// Its length.
    bytes: u64,
    /// SHA-256 of it.
    digest: Bytes,
}

pub(super) async fn run(command: AuditCommand, context: &mut Context) -> Result<Exit, CliError> {
    let AuditCommand::Disclose(args) = command;
    if args.to.len() > RECIPIENTS_MAX {
        let got = args.to.len();
        return Err(CliError::usage(format!(
            "--to: at most {RECIPIENTS_MAX} recipients, got {got}"
        )));
    }
    if args.output.as_os_str() == "-" {
        return Err(CliError::usage("--output must name a file: a disclosure is not printed"));
    }
    // Nothing is recorded if the file can not be written.
    let file = Partial::create(&args.output)?;
    let subjects = args.whose.subjects.as_deref().map(read_subjects).transpose()?;
    let channel = client::connect(&context.global).await?;
    let request = DiscloseRequest {
        subjects: subjects.unwrap_or_default(),
        all: args.whose.all,
        recipients: args.to,
        with_identities: args.with_identities,
        open_ended: args.open_ended,
    };
    let answers = AuditServiceClient::new(channel).disclose(request).await?.into_inner();
    let mut stop = stop_signals()?;
    let begun = tokio::select! {
        received = receive(answers, file) => received?,
        () = stop.next() => return Err(CliError::failed("interrupted: no file was written")),
    };
    let written = Written {
        revision: begun.revision,
        persons: begun.persons,
        asserted_links_left_out: begun.asserted_links_left_out,
        open_ended: args.open_ended,
        index: begun.index,
        output: args.output.display().to_string(),
        bytes: begun.file_bytes,
        digest: Bytes(begun.digest),
    };
    print(&written, context)?;
    Ok(Exit::Success)
}

/// The data subjects of a list.
fn read_subjects(path: &Path) -> Result<Vec<String>, CliError> {
    let failed = |error| CliError::file(path, error).into_usage();
    let source: Box<dyn Read> = match path == Path::new("-") {
        true => Box::new(std::io::stdin()),
        false => Box::new(File::open(path).map_err(failed)?),
    };
    let mut subjects = Vec::new();
    for line in BufReader::new(source).lines() {
        let line = line.map_err(failed)?;
        let subject = line.trim();
        if subject.is_empty() {
            continue;
        }
        if subjects.len() == DISCLOSED_SUBJECTS_MAX {
            return Err(CliError::usage(format!(
                "--subjects {}: it has more than {DISCLOSED_SUBJECTS_MAX} data subjects",
                path.display()
            ))
            .with_hint("make several disclosures, or one of all with --all"));
        }
        subjects.push(subject.to_owned());
    }
    if subjects.is_empty() {
        let path = path.display();
        return Err(CliError::usage(format!("--subjects {path}: it has no data subject")));
    }
    Ok(subjects)
}

/// A file that gets its name once it is complete. Until then it has another one beside, and goes with the
/// value.
struct Partial {
    path: PathBuf,
    file: NamedTempFile,
}

impl Partial {
    /// # Errors
    /// The path exists, which is wrong usage, or nothing can be written there.
    fn create(path: &Path) -> Result<Self, CliError> {
        if fs::symlink_metadata(path).is_ok() {
            return Err(exists(path));
        }
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        let file = tempfile::Builder::new()
            .prefix(".disclosure-")
            .permissions(fs::Permissions::from_mode(0o600))
            .tempfile_in(dir.unwrap_or(Path::new(".")))
            .map_err(|error| CliError::file(path, error).into_usage())?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// # Errors
    /// The path exists by now, or the disk failed.
    fn finish(self) -> Result<(), CliError> {
        let Self { path, file } = self;
        let failed = |error| CliError::file(&path, error);
        file.as_file().sync_all().map_err(failed)?;
        file.persist_noclobber(&path).map_err(|error| match error.error.kind() {
            std::io::ErrorKind::AlreadyExists => exists(&path),
            _ => failed(error.error),
        })?;
        Ok(())
    }
}

fn exists(path: &Path) -> CliError {
    CliError::usage(format!("--output {}: it exists", path.display()))
        .with_hint("name another file: a disclosure replaces none")
}

/// Writes the content of a disclosure as it comes, and checks that it is the one that was recorded.
async fn receive(
    mut answers: Streaming<DiscloseResponse>,
    partial: Partial,
) -> Result<DisclosureBegun, CliError> {
    let (mut bar, mut begun, mut digest, mut bytes) = (None::<ProgressBar>, None, Sha256::new(), 0);
    let path = partial.path.clone();
    let failed = |error| CliError::file(&path, error);
    let mut writer = BufWriter::new(partial.file.as_file());
    while let Some(answer) = answers.message().await? {
        match answer.message {
            Some(Message::Progress(now)) => {
                let bar = bar.get_or_insert_with(|| progress::bar(Some(now.persons), "disclosing"));
                bar.set_position(now.persons_done);
            }
            Some(Message::Begun(now)) => {
                bar.take().into_iter().for_each(|bar| bar.finish_and_clear());
                bar = Some(progress::bytes(now.file_bytes, "receiving"));
                begun = Some(now);
            }
            Some(Message::Content(content)) => {
                digest.update(&content);
                bytes += content.len() as u64;
                writer.write_all(&content).map_err(failed)?;
                bar.iter().for_each(|bar| bar.set_position(bytes));
            }
            None => {}
        }
    }
    bar.into_iter().for_each(|bar| bar.finish_and_clear());
    writer.flush().map_err(failed)?;
    drop(writer);
    let begun = begun.ok_or_else(|| CliError::failed("the server sent no disclosure"))?;
    let digest = digest.finalize();
    if bytes != begun.file_bytes || digest[..] != begun.digest[..] {
        return Err(CliError::failed(format!(
            "the server recorded a file of {} bytes with the digest {}, and sent {bytes} bytes with {}",
            begun.file_bytes,
            hex(&begun.digest),
            hex(&digest),
        )));
    }
    partial.finish()?;
    Ok(begun)
}

fn print(written: &Written, context: &mut Context) -> Result<(), CliError> {
    let out = &mut context.out;
    if out.json {
        return out.object(written);
    }
    let Written { revision, persons, output, index, bytes, .. } = written;
    let noun = if *persons == 1 { "data subject" } else { "data subjects" };
    out.line(format!("{persons} {noun} up to revision {revision} disclosed in {output}"))?;
    out.line(format!("file        {}, SHA-256 {}", HumanBytes(*bytes), written.digest))?;
    out.line(format!("recorded    #{index}"))?;
    if written.asserted_links_left_out > 0 {
        let left_out = out.paint(Tone::Careful, "left out");
        let count = written.asserted_links_left_out;
        out.line(format!(
            "{left_out}    {count} that are only asserted to be the same persons: decisions that may depend \
             on them can not be recomputed"
        ))?;
    }
    if written.open_ended {
        let heading = out.paint(Tone::Careful, "open-ended");
        out.line(format!("{heading}  its confidential keys open later entries, too"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_its_name_once_it_is_complete() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("all.age");
        let partial = Partial::create(&path).unwrap();
        assert!(!path.exists());
        drop(partial);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left of a part");
        let mut partial = Partial::create(&path).unwrap();
        partial.file.write_all(b"content").unwrap();
        partial.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"content");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let refused = Partial::create(&path).map(|_| ()).unwrap_err();
        assert_eq!(refused.exit_code(), 2, "{refused}");
        let late = dir.path().join("late.age");
        let partial = Partial::create(&late).unwrap();
        fs::write(&late, "mine").unwrap();
        assert_eq!(partial.finish().unwrap_err().exit_code(), 2);
        assert_eq!(fs::read(&late).unwrap(), b"mine");
    }

    #[test]
    fn a_list_of_data_subjects_has_one_at_least_and_not_too_many() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("subjects");
        fs::write(&path, " user:1\n\nuser:2 \r\n").unwrap();
        assert_eq!(read_subjects(&path).unwrap(), ["user:1", "user:2"]);
        fs::write(&path, "\n \n").unwrap();
        assert!(read_subjects(&path).unwrap_err().to_string().contains("no data subject"));
        fs::write(&path, "user:1\n".repeat(DISCLOSED_SUBJECTS_MAX + 1)).unwrap();
        let refused = read_subjects(&path).unwrap_err();
        assert!(refused.to_string().contains("more than 10000"), "{refused}");
        assert_eq!(refused.exit_code(), 2);
    }
}
