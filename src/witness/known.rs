//! Asks witnesses, before a ledger is made, whether they know a ledger of its name.
//!
//! C2SP tlog-witness has no question for that. So each witness gets the checkpoint of the empty tree,
//! signed with the key of the new ledger. A witness that has cosigned a longer ledger with that key answers
//! with its size (409), and one that knows the name with another key refuses the signature (403). A
//! witness that does not follow the name (404), or has cosigned nothing of it, knows no ledger. The empty
//! tree is the beginning of every ledger, so a cosignature of it binds nobody.

use thiserror::Error;

use super::client::{ANSWER_BYTES_MAX, seen};
use crate::{
    tlog::{
        checkpoint::{Checkpoint, SignedCheckpoint},
        key::SignerKey,
        merkle::empty_root,
        note::NoteError,
        policy::{Policy, Witness},
        witness::AddCheckpoint,
    },
    web::{WebClient, WebError},
};

/// Why a ledger must not be made, as far as witnesses know.
#[derive(Debug, Error)]
pub enum KnownError {
    /// The witness has cosigned entries of a ledger with this name and key.
    #[error(
        "the witness {witness} has cosigned {entries} entries of a ledger named `{origin}`: restore that \
         ledger"
    )]
    Entries {
        /// The witness.
        witness: String,
        /// Name of the ledger.
        origin: String,
        /// Number of entries that it has seen.
        entries: u64,
    },
    /// The witness follows the name with another key.
    #[error(
        "the witness {witness} follows a ledger named `{origin}` that signs with another key: restore \
         that ledger and its signing key. If it never had an entry, give that key with \
         --signing-key-file and --unused-signing-key, or have the witness forget it"
    )]
    OtherKey {
        /// The witness.
        witness: String,
        /// Name of the ledger.
        origin: String,
    },
    /// The witness does not answer.
    #[error(
        "the witness {witness} can not be asked whether it knows a ledger named `{origin}`: {problem}"
    )]
    Unreachable {
        /// The witness.
        witness: String,
        /// Name of the ledger.
        origin: String,
        /// Why not.
        problem: WebError,
    },
    /// The answer of the witness does not say whether it knows the ledger.
    #[error(
        "the witness {witness} does not say whether it knows a ledger named `{origin}`: it answers with \
         status {status}"
    )]
    Unclear {
        /// The witness.
        witness: String,
        /// Name of the ledger.
        origin: String,
        /// The HTTP status.
        status: u16,
    },
    /// The question can not be signed.
    #[error(transparent)]
    Question(#[from] NoteError),
}

/// Asks every witness of a policy that has a URL, one after the other. `signer` is the key of the ledger
/// that is to be made, and has its name.
///
/// # Errors
/// The first witness that knows such a ledger, or does not say.
pub async fn ask(policy: &Policy, signer: &SignerKey, web: &WebClient) -> Result<(), KnownError> {
    let checkpoint = Checkpoint {
        origin: signer.verifier().name().to_owned(),
        size: 0,
        root: empty_root(),
        extensions: String::new(),
    };
    let checkpoint = SignedCheckpoint::sign(checkpoint, signer)?;
    let question = AddCheckpoint { old_size: 0, proof: Vec::new(), checkpoint }.to_string();
    for Witness { name, url, .. } in policy.witnesses() {
        let Some(url) = url else { continue };
        let (witness, origin) = (name.clone(), signer.verifier().name().to_owned());
        let url = format!("{}/add-checkpoint", url.trim_end_matches('/'));
        let answer = match web.post(&url, question.clone(), ANSWER_BYTES_MAX).await {
            Ok(answer) => answer,
            Err(problem) => return Err(KnownError::Unreachable { witness, origin, problem }),
        };
        let text = String::from_utf8_lossy(&answer.body);
        match (answer.status, seen(&answer.content_type, &text)) {
            (200 | 404, _) => {}
            (403, _) => return Err(KnownError::OtherKey { witness, origin }),
            (409, Some(entries)) => {
                return Err(KnownError::Entries { witness, origin, entries });
            }
            (status, _) => return Err(KnownError::Unclear { witness, origin, status }),
        }
    }
    Ok(())
}
