//! The file of the signing key: made by `init`, readable only by its owner.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rand::RngExt;
use thiserror::Error;
use tracing::info;
use zeroize::Zeroizing;

use crate::{
    storage::{AtPath as _, FileError, if_exists, secret},
    tlog::key::{Algorithm, KeyError, SignerKey, VerifierKey},
};

/// Default name of the file in a data directory.
pub const KEY_FILE: &str = "signing-key";

/// Why there is no usable signing key.
#[derive(Debug, Error)]
pub enum SigningKeyError {
    /// The file does not hold a key.
    #[error("{path} holds no signing key: {problem}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The problem.
        problem: Unkeyed,
    },
    /// The key has another name.
    #[error("the key in {path} signs as `{found}`, which is not `{wanted}`")]
    Name {
        /// The file.
        path: PathBuf,
        /// The name that it signs as.
        found: String,
        /// The name that is needed.
        wanted: String,
    },
    /// The name is not allowed in a note.
    #[error("`{0}` can not be the name of a key")]
    BadName(String),
    /// The key has another signature type: of a log instead of a witness, or the reverse.
    #[error("the key in {0} is of another signature type than is needed here")]
    Algorithm(PathBuf),
    /// The file can not be read or created.
    #[error("the file of a signing key can not be read or written: {0}")]
    File(#[from] FileError),
}

/// Why the content of a file is no signing key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Unkeyed {
    /// Something else.
    #[error("it must hold PRIVATE+KEY+NAME+ID+KEY, and nothing else")]
    Form,
    /// A verifier key.
    #[error("it holds a verifier key, which is the public half")]
    Public,
    /// A key that was changed.
    #[error("its parts do not belong together, so it was changed or cut. Restore the file")]
    Damaged,
    /// Another problem.
    #[error("the key {0}")]
    Key(KeyError),
}

impl Unkeyed {
    fn of(text: &str, error: KeyError) -> Self {
        match error {
            KeyError::Form if VerifierKey::parse(text).is_ok() => Self::Public,
            KeyError::Form => Self::Form,
            KeyError::Id => Self::Damaged,
            error => Self::Key(error),
        }
    }
}

/// Reads the key that signs as `name` from a file; none if there is no such file.
///
/// # Errors
/// See [`SigningKeyError`].
pub fn read(
    path: &Path,
    name: &str,
    algorithm: Algorithm,
) -> Result<Option<SignerKey>, SigningKeyError> {
    let Some(key) = read_any(path)? else { return Ok(None) };
    secret::warn_if_open_to_others(path, "the signing key");
    check(path, key, name, algorithm).map(Some)
}

/// A new random key that signs as `name`. Stores nothing.
///
/// # Errors
/// [`SigningKeyError::BadName`].
pub fn generate(name: &str, algorithm: Algorithm) -> Result<SignerKey, SigningKeyError> {
    let seed: Zeroizing<[u8; 32]> = Zeroizing::new(rand::rng().random());
    SignerKey::from_seed(name, algorithm, &seed)
        .map_err(|_| SigningKeyError::BadName(name.to_owned()))
}

/// Writes a key to a new file. An existing file stays as it is.
///
/// # Errors
/// [`SigningKeyError::File`].
pub fn write(path: &Path, key: &SignerKey) -> Result<(), SigningKeyError> {
    if secret::write_once(path, &key.to_secret_text()).at(path)? {
        info!(file = %path.display(), verifier_key = %key.verifier(), "a new signing key was made");
    }
    Ok(())
}

fn check(
    path: &Path,
    key: SignerKey,
    name: &str,
    algorithm: Algorithm,
) -> Result<SignerKey, SigningKeyError> {
    if key.verifier().algorithm() != algorithm {
        return Err(SigningKeyError::Algorithm(path.to_owned()));
    }
    if key.verifier().name() != name {
        let (found, wanted) = (key.verifier().name().to_owned(), name.to_owned());
        return Err(SigningKeyError::Name { path: path.to_owned(), found, wanted });
    }
    Ok(key)
}

fn read_any(path: &Path) -> Result<Option<SignerKey>, SigningKeyError> {
    let malformed = |problem| SigningKeyError::Malformed { path: path.to_owned(), problem };
    let text = match if_exists(fs::read_to_string(path).map(Zeroizing::new)) {
        // Not UTF-8.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(malformed(Unkeyed::Form));
        }
        text => text.at(path)?,
    };
    let key = text
        .map(|text| SignerKey::parse(&text).map_err(|error| malformed(Unkeyed::of(&text, error))));
    key.transpose()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_file_is_made_once_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(KEY_FILE);
        let made = generate("ledger.example/eu", Algorithm::Note).unwrap();
        write(&path, &made).unwrap();
        write(&path, &generate("ledger.example/eu", Algorithm::Note).unwrap()).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        let again = read(&path, "ledger.example/eu", Algorithm::Note).unwrap().unwrap();
        assert_eq!(made.verifier(), again.verifier());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn keys_of_others_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(KEY_FILE);
        write(&path, &generate("ledger.example/eu", Algorithm::Note).unwrap()).unwrap();
        let refused = |name, algorithm| read(&path, name, algorithm).unwrap_err();
        let named = refused("ledger.example/us", Algorithm::Note);
        assert!(matches!(named, SigningKeyError::Name { .. }), "{named}");
        let kind = refused("ledger.example/eu", Algorithm::Cosignature);
        assert!(matches!(kind, SigningKeyError::Algorithm(_)), "{kind}");
    }

    #[test]
    fn a_file_without_a_key_is_told_as_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(KEY_FILE);
        let key = generate("ledger.example/eu", Algorithm::Note).unwrap();
        let (secret, public) = (key.to_secret_text(), key.verifier().to_string());
        let end = &secret[secret.len() - 8..];
        let flipped = secret.replace(end, &end.chars().rev().collect::<String>());
        for (content, want) in [
            (&b"PRIVATE+KEY+secret"[..], "it must hold PRIVATE+KEY+NAME+ID+KEY, and nothing else"),
            (b"", "it must hold PRIVATE+KEY+NAME+ID+KEY, and nothing else"),
            (b"\xff\xfe", "it must hold PRIVATE+KEY+NAME+ID+KEY, and nothing else"),
            (public.as_bytes(), "it holds a verifier key, which is the public half"),
            (flipped.as_bytes(), "it was changed or cut. Restore the file"),
        ] {
            fs::write(&path, content).unwrap();
            let error = read(&path, "ledger.example/eu", Algorithm::Note).unwrap_err();
            assert!(matches!(error, SigningKeyError::Malformed { .. }), "{error}");
            assert!(error.to_string().ends_with(want), "{error}");
            assert!(!error.to_string().contains(end) && !error.to_string().contains("secret"));
        }
    }
}
