//! The keys that an auditor trusts: the ledger's, and those of the witnesses that must have
//! cosigned a checkpoint.
//!
//! They come from the command line alone, never from the audited server or files: whoever forges a
//! checkpoint can also forge a key beside it.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use clap::Args;
use serde::Serialize;
use thiserror::Error;

use super::{error::CliError, output::Output, words::rfc3339_ms};
use crate::{
    ledger::key_change::{self, KeyChange, Recorded},
    tlog::{
        checkpoint::{CheckpointError, SignedCheckpoint},
        key::{Algorithm, VerifierKey},
        note::SignatureError,
        policy::{Policy, Unmet, Witness},
    },
};

/// Maximum size of a key, policy, checkpoint, proof or receipt in a file.
pub const TEXT_BYTES_MAX: u64 = 1 << 20;

/// Options that name the trusted keys.
#[derive(Debug, Clone, Default, Args)]
pub struct TrustArgs {
    /// Verifier key of the ledger, NAME+ID+KEY, or @FILE with it; may be given several times, then
    /// each of them counts [default: the logs of --policy]
    #[arg(long, value_name = "VKEY", help_heading = "Trust")]
    pub key: Vec<String>,
    /// File with the proof of a change of the ledger's key, as `checkpoint --key-changes` prints it; the
    /// key that it leads to counts, too; may be given several times
    #[arg(long, value_name = "FILE", help_heading = "Trust")]
    pub key_change: Vec<PathBuf>,
    /// File with a C2SP tlog-policy: the witnesses that must have cosigned
    #[arg(long, value_name = "FILE", help_heading = "Trust")]
    pub policy: Option<PathBuf>,
    /// Verifier key of a witness, or @FILE with it; may be given several times
    #[arg(long, value_name = "VKEY", help_heading = "Trust")]
    pub witness: Vec<String>,
    /// Number of witnesses that must have cosigned [default: all of them]
    #[arg(long, value_name = "N", help_heading = "Trust")]
    pub witness_quorum: Option<usize>,
}

/// The keys that an auditor trusts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    /// The keys of the ledger, at least one. The name of each is an origin. A checkpoint counts if one of
    /// them has signed it.
    pub keys: Vec<VerifierKey>,
    /// The cosignatures that a checkpoint must carry.
    pub policy: Policy,
    /// Keys that the ledger has used, whether they are trusted or not: they explain why a note does not
    /// count.
    past: Vec<PastKey>,
}

/// A key that an entry of the ledger names.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PastKey {
    key: VerifierKey,
    /// The entry.
    index: u64,
    /// What the entry did to it.
    turn: Turn,
}

/// What an entry did to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Brought,
    Retired,
}

impl Turn {
    fn text(self) -> &'static str {
        match self {
            Self::Brought => "brought into use",
            Self::Retired => "took out of use",
        }
    }
}

/// Why a checkpoint is not trusted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Distrust {
    /// Not a checkpoint, or not signed with the key.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Too few cosignatures, or false ones.
    #[error(transparent)]
    Policy(#[from] Unmet),
    /// Signed with another key of the same ledger.
    #[error(
        "none of the given keys has signed the note, but {key}, which entry {index} of this ledger {turn}: \
         give it by --key if you trust it"
    )]
    PastKey {
        /// The key that has signed.
        key: String,
        /// The entry that names it.
        index: u64,
        /// What the entry did to it.
        turn: &'static str,
    },
}

/// A witness that has cosigned a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cosigned {
    /// Name of its key.
    pub witness: String,
    /// Time of the cosignature.
    pub at: String,
}

impl TrustArgs {
    /// The trusted keys; none if no option names one.
    ///
    /// # Errors
    /// An option is not a key or policy, or needs another option.
    pub fn trust(&self) -> Result<Option<Trust>, CliError> {
        let policy = self.policy()?;
        let is_empty =
            self.policy.is_none() && self.witness.is_empty() && self.key_change.is_empty();
        let mut keys = match (self.key.as_slice(), policy.logs()) {
            ([], []) if is_empty => return Ok(None),
            ([], []) => return Err(no_key()),
            ([], logs) => logs.to_vec(),
            (texts, logs) => log_keys(texts, logs)?,
        };
        let changes = self.key_changes()?;
        key_change::follow(&mut keys, &changes).map_err(|error| {
            CliError::usage(format!("--key-change {error}")).with_hint(
                "give the key before it with --key, or the changes that lead to that one",
            )
        })?;
        let mut trust = Trust::new(keys, policy);
        trust.know_changes(&changes);
        Ok(Some(trust))
    }

    /// The trusted keys, for commands that can not verify anything without them.
    ///
    /// # Errors
    /// As [`Self::trust`]; or no option names a key.
    pub fn required(&self) -> Result<Trust, CliError> {
        self.trust()?.ok_or_else(|| {
            CliError::usage("--key is missing: a checkpoint counts only under a key that you trust")
                .with_hint(
                    "give the verifier key that the ledger's operator published; \
                     `consent-ledger checkpoint --verifier-key` shows that of a server",
                )
        })
    }

    fn key_changes(&self) -> Result<Vec<KeyChange>, CliError> {
        let mut changes = Vec::new();
        for path in &self.key_change {
            let read = KeyChange::parse_all(&read_option(path)?).map_err(|error| {
                CliError::usage(format!("--key-change {}: {error}", path.display()))
            })?;
            changes.extend(read);
        }
        Ok(changes)
    }

    fn policy(&self) -> Result<Policy, CliError> {
        match &self.policy {
            Some(_) if !self.witness.is_empty() || self.witness_quorum.is_some() => {
                Err(CliError::usage("--policy excludes --witness and --witness-quorum")
                    .with_hint("name the witnesses in the policy"))
            }
            Some(path) => Policy::parse(&read_option(path)?).map_err(|error| {
                CliError::usage(format!("--policy {}: {error}", path.display()))
                    .with_hint("write it as C2SP tlog-policy asks: log, witness, group, quorum")
            }),
            None if self.witness.is_empty() && self.witness_quorum.is_some() => {
                Err(CliError::usage("--witness-quorum needs --witness"))
            }
            None => {
                let witnesses = self.witness.iter().map(|text| witness(text));
                let witnesses: Vec<Witness> = witnesses.collect::<Result<_, _>>()?;
                let threshold = self.witness_quorum.unwrap_or(witnesses.len());
                Policy::any_of(threshold, witnesses).map_err(|error| {
                    CliError::usage(format!("--witness-quorum: {}", error.problem))
                })
            }
        }
    }
}

impl Trust {
    /// Trusts these keys, with the cosignatures of a policy.
    #[must_use]
    pub fn new(keys: Vec<VerifierKey>, policy: Policy) -> Self {
        Self { keys, policy, past: Vec::new() }
    }

    /// Parses a checkpoint that must be signed by the ledger, and cosigned as the policy requires.
    ///
    /// # Errors
    /// See [`Distrust`].
    pub fn open(&self, note: &str) -> Result<SignedCheckpoint, Distrust> {
        let checkpoint = SignedCheckpoint::parse(note)?;
        self.check(&checkpoint)?;
        Ok(checkpoint)
    }

    /// Verifies the signatures of a checkpoint: of one of the keys, and of the witnesses.
    ///
    /// # Errors
    /// See [`Distrust`].
    pub fn check(&self, checkpoint: &SignedCheckpoint) -> Result<(), Distrust> {
        self.verify_signature(checkpoint)?;
        self.policy.verify(&checkpoint.note)?;
        Ok(())
    }

    /// Verifies the signature of one of the keys alone.
    ///
    /// # Errors
    /// See [`Distrust`].
    pub fn verify_signature(&self, checkpoint: &SignedCheckpoint) -> Result<(), Distrust> {
        match checkpoint.verify_any(&self.keys) {
            Ok(_) => Ok(()),
            Err(error @ CheckpointError::Signature(SignatureError::Missing(_))) => {
                let past = self.signer_in_past(|key| checkpoint.verify(key).is_ok());
                Err(past.unwrap_or(Distrust::Checkpoint(error)))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// That a statement was signed with another key of the ledger, if it was. `is_by` says whether a key
    /// has signed it.
    pub fn signer_in_past(&self, is_by: impl Fn(&VerifierKey) -> bool) -> Option<Distrust> {
        let past = self.past.iter().filter(|past| !self.keys.contains(&past.key));
        let PastKey { key, index, turn } = past.into_iter().find(|past| is_by(&past.key))?;
        Some(Distrust::PastKey { key: key.to_string(), index: *index, turn: turn.text() })
    }

    /// Knows the keys that the entries of a ledger name, without trusting them.
    pub fn know(&mut self, recorded: &Recorded) {
        for key in recorded.keys() {
            let retired = recorded.retired(key).map(|index| (index, Turn::Retired));
            let brought = recorded.brought(key).map(|index| (index, Turn::Brought));
            if let Some((index, turn)) = retired.or(brought) {
                self.past.push(PastKey { key: key.clone(), index, turn });
            }
        }
    }

    fn know_changes(&mut self, changes: &[KeyChange]) {
        for change in changes {
            let index = change.proof.index;
            let keys = [(&change.previous, Turn::Retired), (&change.next, Turn::Brought)];
            self.past.extend(keys.map(|(key, turn)| PastKey { key: key.clone(), index, turn }));
        }
    }

    /// Trusts the keys that changes of the ledger's key lead to, as far as they lead from a trusted one.
    /// Answers the indexes of their entries.
    pub fn follow(&mut self, changes: &[KeyChange]) -> Vec<u64> {
        self.know_changes(changes);
        // Changes of other keys are not for this auditor.
        key_change::follow(&mut self.keys, changes).unwrap_or_default()
    }

    /// Names of the keys, for people.
    #[must_use]
    pub fn names(&self) -> String {
        let mut names: Vec<&str> = self.keys.iter().map(VerifierKey::name).collect();
        names.dedup();
        names.join(", ")
    }

    /// The witnesses of the policy that have cosigned a checkpoint.
    #[must_use]
    pub fn cosigned(&self, checkpoint: &SignedCheckpoint) -> Vec<Cosigned> {
        let cosigned = self.policy.cosigned(&checkpoint.note).unwrap_or_default();
        let named = |(witness, time_s): (&Witness, u64)| {
            let time_ms = i64::try_from(time_s.saturating_mul(1_000)).unwrap_or(i64::MAX);
            Cosigned { witness: witness.key.name().to_owned(), at: rfc3339_ms(time_ms) }
        };
        cosigned.into_iter().map(named).collect()
    }
}

/// Prints the witnesses that have cosigned a checkpoint, one in a line.
///
/// # Errors
/// The write to standard output failed.
pub fn print_cosigned(cosigned: &[Cosigned], out: &mut Output) -> Result<(), CliError> {
    for Cosigned { witness, at } in cosigned {
        out.line(format!("cosigned    by {witness} at {at}"))?;
    }
    if cosigned.is_empty() {
        out.line("cosigned    by none of the given witnesses")?;
    }
    Ok(())
}

/// Parses a verifier key, given as text or as @FILE.
fn verifier_key(option: &str, text: &str) -> Result<VerifierKey, CliError> {
    let text = text_or_file(text)?;
    VerifierKey::parse(&text).map_err(|error| {
        CliError::usage(format!("{option} {error}"))
            .with_hint("`consent-ledger checkpoint --verifier-key` prints that of a server")
    })
}

/// The text, or the content of the file if it is @FILE.
///
/// # Errors
/// The file can not be read.
pub fn text_or_file(text: &str) -> Result<String, CliError> {
    text.strip_prefix('@').map_or_else(|| Ok(text.to_owned()), |path| read_option(Path::new(path)))
}

/// Reads a file that holds the value of an option. Every error is wrong usage.
fn read_option(path: &Path) -> Result<String, CliError> {
    read_text(path).map_err(CliError::into_usage)
}

/// Reads a small file that the command line names, or standard input for `-`.
///
/// # Errors
/// The file can not be read, which is wrong usage; or it is not UTF-8, or larger than
/// [`TEXT_BYTES_MAX`].
pub fn read_text(path: &Path) -> Result<String, CliError> {
    String::from_utf8(read_bytes(path)?)
        .map_err(|_| CliError::failed(format!("{}: it is not UTF-8", path.display())))
}

/// As [`read_text`], for bytes.
///
/// # Errors
/// The file can not be read, or is larger than [`TEXT_BYTES_MAX`].
pub fn read_bytes(path: &Path) -> Result<Vec<u8>, CliError> {
    let failed = |error| CliError::file(path, error).into_usage();
    let source: Box<dyn Read> = match path == Path::new("-") {
        true => Box::new(io::stdin()),
        false => Box::new(File::open(path).map_err(failed)?),
    };
    let mut bytes = Vec::new();
    source.take(TEXT_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > TEXT_BYTES_MAX {
        let path = path.display();
        return Err(CliError::failed(format!("{path}: it is larger than {TEXT_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

/// The keys of --key, which must be among the logs if the policy names any.
fn log_keys(texts: &[String], logs: &[VerifierKey]) -> Result<Vec<VerifierKey>, CliError> {
    let mut keys = Vec::new();
    for text in texts {
        let key = log_key(text, logs)?;
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    Ok(keys)
}

fn log_key(text: &str, logs: &[VerifierKey]) -> Result<VerifierKey, CliError> {
    let key = verifier_key("--key", text)?;
    if key.algorithm() == Algorithm::Cosignature {
        return Err(CliError::usage("--key is a witness's key, not a ledger's")
            .with_hint("give witnesses with --witness or --policy"));
    }
    if !logs.is_empty() && !logs.contains(&key) {
        let message = format!("--key {} is not among the logs of --policy", key.name());
        return Err(CliError::usage(message));
    }
    Ok(key)
}

fn no_key() -> CliError {
    CliError::usage(
        "--key is missing: a policy, witnesses or changes are given, but no key of the ledger",
    )
    .with_hint("give the ledger's verifier key with --key")
}

fn witness(text: &str) -> Result<Witness, CliError> {
    // An address may follow, as for `serve`: one environment variable serves both commands.
    let text = match text.split_once(' ') {
        Some((key, _)) if !text.starts_with('@') => key,
        _ => text,
    };
    let key = verifier_key("--witness", text)?;
    Ok(Witness { name: key.name().to_owned(), key, url: None })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::{
        cli::testing::signer,
        tlog::{checkpoint::Checkpoint, key::SignerKey},
    };

    fn log() -> SignerKey {
        signer("ledger.example", Algorithm::Note, 1)
    }

    fn witness_key(seed: u8) -> SignerKey {
        signer(&format!("w{seed}.example"), Algorithm::Cosignature, seed)
    }

    fn signed(witnesses: &[u8]) -> String {
        let checkpoint = Checkpoint {
            origin: "ledger.example".to_owned(),
            size: 3,
            root: [7; 32],
            extensions: String::new(),
        };
        let mut signed = SignedCheckpoint::sign(checkpoint, &log()).unwrap();
        witnesses.iter().for_each(|seed| signed.note.sign(&witness_key(*seed), 1_700_000_000));
        signed.to_string()
    }

    fn args() -> TrustArgs {
        TrustArgs { key: vec![log().verifier().to_string()], ..TrustArgs::default() }
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    #[test]
    fn a_witness_may_be_written_as_for_a_server() {
        let flag = format!("{} http://127.0.0.1:7080", witness_key(2).verifier());
        let trust = TrustArgs { witness: vec![flag], ..args() }.required().unwrap();
        assert_eq!(trust.policy.witnesses()[0].key, *witness_key(2).verifier());
    }

    #[test]
    fn nothing_counts_without_a_key() {
        assert_eq!(TrustArgs::default().trust().unwrap(), None);
        let error = TrustArgs::default().required().unwrap_err();
        assert_eq!((error.exit_code(), error.to_string().contains("--key")), (2, true));
        let witnesses = TrustArgs {
            witness: vec![witness_key(2).verifier().to_string()],
            ..TrustArgs::default()
        };
        assert_eq!(witnesses.trust().unwrap_err().exit_code(), 2);
    }

    #[test]
    fn the_key_decides_and_comes_as_text_or_file() {
        let trust = args().required().unwrap();
        assert!(trust.open(&signed(&[])).is_ok());
        for (key, policy) in [("@/nonexistent", None), ("@/", None), ("@bytes", None)] {
            let mut bytes = tempfile::NamedTempFile::new().unwrap();
            bytes.write_all(&[0xff, 0xfe]).unwrap();
            let key = key.replace("bytes", &bytes.path().display().to_string());
            let unreadable = TrustArgs { key: vec![key], policy, ..TrustArgs::default() };
            assert_eq!(unreadable.trust().unwrap_err().exit_code(), 2);
        }
        let unreadable = TrustArgs { policy: Some("/nonexistent".into()), ..args() };
        assert_eq!(unreadable.trust().unwrap_err().exit_code(), 2);
        assert_eq!(read_text(Path::new("/nonexistent")).unwrap_err().exit_code(), 2);
        let at = file(&format!("{}\n", log().verifier()));
        let by_file =
            TrustArgs { key: vec![format!("@{}", at.path().display())], ..TrustArgs::default() };
        assert_eq!(by_file.required().unwrap(), trust);
        let other = signer("ledger.example", Algorithm::Note, 9).verifier().to_string();
        let other = TrustArgs { key: vec![other], ..TrustArgs::default() }.required().unwrap();
        assert!(matches!(other.open(&signed(&[])), Err(Distrust::Checkpoint(_))));
        let cosigner = vec![witness_key(2).verifier().to_string()];
        let cosigner = TrustArgs { key: cosigner, ..TrustArgs::default() };
        assert_eq!(cosigner.trust().unwrap_err().exit_code(), 2);
    }

    #[test]
    fn each_of_several_keys_counts() {
        let before = signer("ledger.example", Algorithm::Note, 9);
        let key = [&before, &log()].map(|key| key.verifier().to_string());
        let both = TrustArgs { key: key.to_vec(), ..TrustArgs::default() };
        assert!(both.required().unwrap().open(&signed(&[])).is_ok());
        let [old, new] = &key;
        let policy = file(&format!("log {old}\nlog {new}\nquorum none\n"));
        let policy = TrustArgs { policy: Some(policy.path().to_owned()), ..TrustArgs::default() };
        assert!(policy.required().unwrap().open(&signed(&[])).is_ok(), "every listed log counts");
        let narrowed = TrustArgs { key: vec![old.clone()], ..policy };
        assert!(narrowed.required().unwrap().open(&signed(&[])).is_err());
    }

    #[test]
    fn all_named_witnesses_are_needed_unless_a_quorum_is_given() {
        let witness = [2, 3].map(|seed| witness_key(seed).verifier().to_string()).to_vec();
        let all = TrustArgs { witness, ..args() };
        let trust = all.required().unwrap();
        assert!(matches!(trust.open(&signed(&[2])), Err(Distrust::Policy(_))));
        let both = trust.open(&signed(&[2, 3])).unwrap();
        let first = &trust.cosigned(&both)[0];
        assert_eq!((first.witness.as_str(), &first.at[..4]), ("w2.example", "2023"));
        let one = TrustArgs { witness_quorum: Some(1), ..all.clone() };
        assert!(one.required().unwrap().open(&signed(&[3])).is_ok());
        let three = TrustArgs { witness_quorum: Some(3), ..all };
        assert_eq!(three.required().unwrap_err().exit_code(), 2);
        let none = TrustArgs { witness_quorum: Some(1), ..args() };
        assert_eq!(none.required().unwrap_err().exit_code(), 2);
    }

    #[test]
    fn a_policy_names_witnesses_and_may_name_the_log() {
        let witness = witness_key(2);
        let lines = format!("witness W {}\nquorum W\n", witness.verifier());
        let unnamed = file(&lines);
        let named = file(&format!("log {}\n{lines}", log().verifier()));
        let policy = |file: &tempfile::NamedTempFile| Some(file.path().to_owned());
        let by_policy = TrustArgs { policy: policy(&named), ..TrustArgs::default() };
        let trust = by_policy.required().unwrap();
        assert_eq!(trust.keys, [log().verifier().clone()]);
        assert!(trust.open(&signed(&[])).is_err());
        assert!(trust.open(&signed(&[2])).is_ok());
        let keyless = TrustArgs { policy: policy(&unnamed), ..TrustArgs::default() };
        assert_eq!(keyless.required().unwrap_err().exit_code(), 2);
        assert!(TrustArgs { policy: policy(&unnamed), ..args() }.required().is_ok());
        let nothing = file("quorum none\n");
        let nothing = TrustArgs { policy: policy(&nothing), ..TrustArgs::default() };
        assert_eq!(nothing.trust().unwrap_err().exit_code(), 2, "it would vouch for nothing");
        let other = signer("other.example", Algorithm::Note, 5).verifier().to_string();
        let other = TrustArgs { key: vec![other], ..by_policy.clone() };
        assert_eq!(other.required().unwrap_err().exit_code(), 2);
        let twice = TrustArgs { witness: vec![witness.verifier().to_string()], ..by_policy };
        assert_eq!(twice.required().unwrap_err().exit_code(), 2);
    }
}
