//! Whom an auditor trusts: the ledger's key, and the witnesses that must have seen a checkpoint.
//!
//! These come from the command line alone, never from the server or the files that are audited: a
//! key that comes with what it signs proves nothing.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use clap::Args;
use serde::Serialize;
use thiserror::Error;

use super::{error::CliError, words::rfc3339_ms};
use crate::tlog::{
    checkpoint::{CheckpointError, SignedCheckpoint},
    key::{Algorithm, VerifierKey},
    policy::{Policy, Unmet, Witness},
};

/// The largest key, policy, checkpoint, proof or receipt that is read from a file.
pub const TEXT_BYTES_MAX: u64 = 1 << 20;

/// Options that say whom to trust.
#[derive(Debug, Clone, Default, Args)]
pub struct TrustArgs {
    /// Verifier key of the ledger, NAME+ID+KEY, or @FILE with it [default: the log of --policy]
    #[arg(long, value_name = "VKEY", help_heading = "Trust")]
    pub key: Option<String>,
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

/// Whom an auditor trusts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    /// The key of the ledger. Its name is the origin.
    pub key: VerifierKey,
    /// Which cosignatures a checkpoint must carry.
    pub policy: Policy,
}

/// Why a checkpoint does not count.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Distrust {
    /// Not a checkpoint, or not signed with the key.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Too few cosignatures, or false ones.
    #[error(transparent)]
    Policy(#[from] Unmet),
}

/// A witness that has cosigned a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cosigned {
    /// Name of its key.
    pub witness: String,
    /// When it says that it did.
    pub at: String,
}

impl TrustArgs {
    /// Whom to trust; none if no option says so.
    ///
    /// # Errors
    /// An option that is no key or policy, or that misses another one.
    pub fn trust(&self) -> Result<Option<Trust>, CliError> {
        let policy = self.policy()?;
        let key = match (&self.key, policy.logs()) {
            (Some(text), logs) => Some(among(log_key(text)?, logs)?),
            (None, [log]) => Some(log.clone()),
            (None, []) if !policy.asks_for_witnesses() && policy.witnesses().is_empty() => None,
            (None, logs) => return Err(which_log(logs.len())),
        };
        Ok(key.map(|key| Trust { key, policy }))
    }

    /// Whom to trust, where nothing can be said without.
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
            None => self.any_of(),
        }
    }

    fn any_of(&self) -> Result<Policy, CliError> {
        let witnesses: Result<Vec<Witness>, CliError> =
            self.witness.iter().map(|text| witness(text)).collect();
        let witnesses = witnesses?;
        let threshold = self.witness_quorum.unwrap_or(witnesses.len());
        Policy::any_of(threshold, witnesses)
            .map_err(|error| CliError::usage(format!("--witness-quorum: {}", error.problem)))
    }
}

impl Trust {
    /// Takes the text of a checkpoint that counts: signed by the ledger, and cosigned as the policy
    /// asks.
    ///
    /// # Errors
    /// See [`Distrust`].
    pub fn open(&self, note: &str) -> Result<SignedCheckpoint, Distrust> {
        let checkpoint = SignedCheckpoint::parse(note)?;
        self.check(&checkpoint)?;
        Ok(checkpoint)
    }

    /// Whether a checkpoint counts.
    ///
    /// # Errors
    /// See [`Distrust`].
    pub fn check(&self, checkpoint: &SignedCheckpoint) -> Result<(), Distrust> {
        checkpoint.verify(&self.key)?;
        self.policy.verify(&checkpoint.note)?;
        Ok(())
    }

    /// The known witnesses that have cosigned a checkpoint.
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

/// Takes a verifier key, as text or as @FILE.
///
/// # Errors
/// It is none, or the file can not be read.
pub fn verifier_key(option: &str, text: &str) -> Result<VerifierKey, CliError> {
    let text = text_or_file(text)?;
    VerifierKey::parse(&text).map_err(|error| {
        CliError::usage(format!("{option} {error}"))
            .with_hint("`consent-ledger checkpoint --verifier-key` prints that of a server")
    })
}

/// The text, or, if it is @FILE, what the file holds.
///
/// # Errors
/// The file can not be read.
pub fn text_or_file(text: &str) -> Result<String, CliError> {
    text.strip_prefix('@').map_or_else(|| Ok(text.to_owned()), |path| read_option(Path::new(path)))
}

/// Reads the value of an option: whatever is wrong with it is wrong usage.
fn read_option(path: &Path) -> Result<String, CliError> {
    read_text(path).map_err(CliError::into_usage)
}

/// Reads a small file that the command line names, or, for `-`, standard input.
///
/// # Errors
/// It can not be read, which is wrong usage; or it is no text, or is larger than [`TEXT_BYTES_MAX`].
pub fn read_text(path: &Path) -> Result<String, CliError> {
    String::from_utf8(read_bytes(path)?)
        .map_err(|_| CliError::failed(format!("{}: it is no text", path.display())))
}

/// As [`read_text`], for bytes.
///
/// # Errors
/// It can not be read, or is larger than [`TEXT_BYTES_MAX`].
pub fn read_bytes(path: &Path) -> Result<Vec<u8>, CliError> {
    let failed = |error| CliError::file(path, error).into_usage();
    let source: Box<dyn Read> = match path == Path::new("-") {
        true => Box::new(io::stdin()),
        false => Box::new(File::open(path).map_err(failed)?),
    };
    let mut bytes = Vec::new();
    source.take(TEXT_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > TEXT_BYTES_MAX {
        let what = format!("{}: it is larger than {TEXT_BYTES_MAX} bytes", path.display());
        return Err(CliError::failed(what));
    }
    Ok(bytes)
}

fn log_key(text: &str) -> Result<VerifierKey, CliError> {
    let key = verifier_key("--key", text)?;
    match key.algorithm() {
        Algorithm::Note => Ok(key),
        Algorithm::Cosignature => Err(CliError::usage("--key is a witness's key, not a ledger's")
            .with_hint("give witnesses with --witness or --policy")),
    }
}

fn among(key: VerifierKey, logs: &[VerifierKey]) -> Result<VerifierKey, CliError> {
    if logs.is_empty() || logs.contains(&key) {
        return Ok(key);
    }
    Err(CliError::usage(format!("--key {} is not among the logs of --policy", key.name())))
}

fn which_log(count: usize) -> CliError {
    let message = match count {
        0 => "--key is missing: witnesses cosign for a ledger, and nothing names its key",
        _ => "--key is missing: --policy names several logs",
    };
    CliError::usage(message).with_hint("give the ledger's verifier key with --key")
}

fn witness(text: &str) -> Result<Witness, CliError> {
    // As `serve` takes it, an address may follow: the environment names witnesses for both.
    let text = match text.split_once(' ') {
        Some((key, _)) if !text.starts_with('@') => key,
        _ => text,
    };
    let key = verifier_key("--witness", text)?;
    Ok(Witness { name: key.name().to_owned(), key, url: None })
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::tlog::{checkpoint::Checkpoint, key::SignerKey};

    /// A key with this name and seed.
    pub fn signer(name: &str, algorithm: Algorithm, seed: u8) -> SignerKey {
        SignerKey::from_seed(name, algorithm, &[seed; 32]).unwrap()
    }

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
        TrustArgs { key: Some(log().verifier().to_string()), ..TrustArgs::default() }
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    #[test]
    fn a_witness_may_be_written_as_for_a_server() {
        let flag = format!("{} http://127.0.0.1:7080", witness_key(2).verifier());
        let own = TrustArgs { witness: vec![flag], ..args() }.required().unwrap();
        assert_eq!(own.policy.witnesses()[0].key, *witness_key(2).verifier());
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
            let unreadable = TrustArgs { key: Some(key), policy, ..TrustArgs::default() };
            assert_eq!(unreadable.trust().unwrap_err().exit_code(), 2);
        }
        let unreadable = TrustArgs { policy: Some("/nonexistent".into()), ..args() };
        assert_eq!(unreadable.trust().unwrap_err().exit_code(), 2);
        assert_eq!(read_text(Path::new("/nonexistent")).unwrap_err().exit_code(), 2);
        let at = file(&format!("{}\n", log().verifier()));
        let by_file =
            TrustArgs { key: Some(format!("@{}", at.path().display())), ..TrustArgs::default() };
        assert_eq!(by_file.required().unwrap(), trust);
        let other = signer("ledger.example", Algorithm::Note, 9).verifier().to_string();
        let other = TrustArgs { key: Some(other), ..TrustArgs::default() }.required().unwrap();
        assert!(matches!(other.open(&signed(&[])), Err(Distrust::Checkpoint(_))));
        let cosigner = Some(witness_key(2).verifier().to_string());
        let cosigner = TrustArgs { key: cosigner, ..TrustArgs::default() };
        assert_eq!(cosigner.trust().unwrap_err().exit_code(), 2);
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
        let own = TrustArgs { policy: policy(&named), ..TrustArgs::default() };
        let trust = own.required().unwrap();
        assert_eq!(&trust.key, log().verifier());
        assert!(trust.open(&signed(&[])).is_err());
        assert!(trust.open(&signed(&[2])).is_ok());
        let keyless = TrustArgs { policy: policy(&unnamed), ..TrustArgs::default() };
        assert_eq!(keyless.required().unwrap_err().exit_code(), 2);
        assert!(TrustArgs { policy: policy(&unnamed), ..args() }.required().is_ok());
        let other = signer("other.example", Algorithm::Note, 5).verifier().to_string();
        let other = TrustArgs { key: Some(other), ..own.clone() };
        assert_eq!(other.required().unwrap_err().exit_code(), 2);
        let twice = TrustArgs { witness: vec![witness.verifier().to_string()], ..own };
        assert_eq!(twice.required().unwrap_err().exit_code(), 2);
    }
}
