//! C2SP signed-note: a text and the signatures under it.
//!
//! ```text
//! Ognuno sta solo sul cuor della terra
//! trafitto da un raggio di sole:
//!
//! ed è subito sera.
//!
//! — quasimodo.example/salvatore NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5dd…
//! ```
//!
//! Do not trust the text before a signature of a known key was verified.

use std::fmt;

use base64::Engine as _;
use thiserror::Error;

use super::{
    BASE64,
    key::{Algorithm, SignerKey, VerifierKey, is_name},
    policy::POLICY_ITEMS_MAX,
};

/// Maximum size of a note, in bytes.
pub const NOTE_BYTES_MAX: usize = 256 << 10;
/// Maximum number of signatures of a note: more than a policy can have witnesses.
pub const SIGNATURES_MAX: usize = 2 * POLICY_ITEMS_MAX;
const DASH: &str = "— ";

/// A text with unverified signatures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<NoteSignature>,
}

/// A signature line of a note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoteSignature {
    name: String,
    id: [u8; 4],
    signature: Vec<u8>,
}

/// Why a note can not be parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NoteError {
    /// The note is too large.
    #[error("the note is larger than {NOTE_BYTES_MAX} bytes")]
    TooLarge,
    /// The note is not a text, a blank line, and signatures.
    #[error("the note is not a text, an empty line, and signature lines")]
    Form,
    /// A character is not allowed in a note.
    #[error("the note holds a control character")]
    Control,
    /// A signature line is malformed.
    #[error("a signature line of the note is malformed")]
    Line,
    /// There are too many signatures.
    #[error("the note has more than {SIGNATURES_MAX} signatures")]
    TooMany,
}

/// Why a note is not verified by a key.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SignatureError {
    /// There is no signature of the key.
    #[error("the note is not signed by {0}")]
    Missing(String),
    /// A signature names the key but does not verify.
    #[error(
        "the note was changed after {0} signed it, or its signature was: the two do not belong together"
    )]
    Bad(String),
}

impl SignatureError {
    /// The error, if a signature does not verify; none if there only is no signature.
    #[must_use]
    pub fn bad(self) -> Option<Self> {
        matches!(self, Self::Bad(_)).then_some(self)
    }
}

impl Note {
    /// A text without signatures.
    ///
    /// # Errors
    /// [`NoteError::Form`] or [`NoteError::Control`] for a text that can not stand in a note.
    pub fn new(text: String) -> Result<Self, NoteError> {
        if !text.ends_with('\n') {
            return Err(NoteError::Form);
        }
        check_characters(&text)?;
        Ok(Self { text, signatures: Vec::new() })
    }

    /// Parses a note. Its signatures are not verified.
    ///
    /// # Errors
    /// See [`NoteError`].
    pub fn parse(note: &str) -> Result<Self, NoteError> {
        if note.len() > NOTE_BYTES_MAX {
            return Err(NoteError::TooLarge);
        }
        check_characters(note)?;
        let end = note.rfind("\n\n").ok_or(NoteError::Form)?;
        let (text, lines) = (&note[..=end], &note[end + 2..]);
        if lines.is_empty() {
            return Err(NoteError::Form);
        }
        let mut note = Self { text: text.to_owned(), signatures: Vec::new() };
        note.add_lines(lines)?;
        Ok(note)
    }

    /// The text, with its final newline.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// All signatures, of known and unknown keys.
    #[must_use]
    pub fn signatures(&self) -> &[NoteSignature] {
        &self.signatures
    }

    /// Signs the text. `now_s` is the time of a cosignature, in seconds since the Unix epoch; other
    /// signatures have no time.
    pub fn sign(&mut self, key: &SignerKey, now_s: u64) {
        let message = message(key.verifier().algorithm(), &self.text, now_s);
        let mut signature = Vec::new();
        if key.verifier().algorithm() == Algorithm::Cosignature {
            signature.extend(now_s.to_be_bytes());
        }
        signature.extend(key.sign(&message));
        let verifier = key.verifier();
        self.signatures.push(NoteSignature {
            name: verifier.name().to_owned(),
            id: verifier.id(),
            signature,
        });
    }

    /// Adds signature lines of a witness's response. They are parsed, not verified.
    ///
    /// # Errors
    /// [`NoteError::Line`] or [`NoteError::TooMany`].
    pub fn add_lines(&mut self, lines: &str) -> Result<(), NoteError> {
        let lines = lines.strip_suffix('\n').ok_or(NoteError::Line)?;
        for line in lines.split('\n') {
            if self.signatures.len() == SIGNATURES_MAX {
                return Err(NoteError::TooMany);
            }
            self.signatures.push(NoteSignature::parse(line)?);
        }
        Ok(())
    }

    /// Adds a signature.
    pub fn add(&mut self, signature: NoteSignature) {
        self.signatures.push(signature);
    }

    /// The signatures with the name and id of a key, valid or not.
    pub fn by<'a>(&'a self, key: &'a VerifierKey) -> impl Iterator<Item = &'a NoteSignature> {
        self.signatures
            .iter()
            .filter(|signature| signature.name == key.name() && signature.id == key.id())
    }

    /// Verifies that a key has signed the note, and that every signature with its name and id is valid.
    /// Ignores signatures of other keys, also with the same name. Returns the time of a cosignature, in
    /// seconds since the Unix epoch.
    ///
    /// # Errors
    /// See [`SignatureError`].
    pub fn verify(&self, key: &VerifierKey) -> Result<Option<u64>, SignatureError> {
        let mut found = Err(SignatureError::Missing(key.name().to_owned()));
        for signature in self.by(key) {
            let Some(time) = signature.verify(key, &self.text) else {
                return Err(SignatureError::Bad(key.name().to_owned()));
            };
            if found.is_err() {
                found = Ok(time);
            }
        }
        found
    }

    /// Whether a signature line is one of this key that was changed after it was written: it holds a valid
    /// signature under another name or id, or it has the name and all of the id but the end. One changed
    /// character of base64 can touch the last byte of the id and the first of the signature together.
    #[must_use]
    pub fn is_altered(&self, key: &VerifierKey) -> bool {
        let is_altered = |line: &NoteSignature| match (line.name == key.name(), line.id == key.id())
        {
            (true, true) => false,
            (is_name, _) => {
                let is_near = is_name && line.id[..3] == key.id()[..3];
                is_near || line.verify(key, &self.text).is_some()
            }
        };
        self.signatures.iter().any(is_altered)
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.signatures.iter().try_for_each(|signature| writeln!(f, "{signature}"))
    }
}

impl NoteSignature {
    fn parse(line: &str) -> Result<Self, NoteError> {
        let (name, base64) =
            line.strip_prefix(DASH).and_then(|line| line.split_once(' ')).ok_or(NoteError::Line)?;
        if !is_name(name) {
            return Err(NoteError::Line);
        }
        let bytes = BASE64.decode(base64).map_err(|_| NoteError::Line)?;
        let (id, signature) = bytes.split_first_chunk::<4>().ok_or(NoteError::Line)?;
        if signature.is_empty() {
            return Err(NoteError::Line);
        }
        Ok(Self { name: name.to_owned(), id: *id, signature: signature.to_vec() })
    }

    /// The name of its key.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// For a valid signature, the time if it is a cosignature; none for an invalid one.
    #[expect(clippy::option_option, reason = "good or not, and with a time or not")]
    fn verify(&self, key: &VerifierKey, text: &str) -> Option<Option<u64>> {
        let (time, signature) = match key.algorithm() {
            Algorithm::Note => (None, self.signature.as_slice()),
            Algorithm::Cosignature => {
                let (time, signature) = self.signature.split_first_chunk::<8>()?;
                let time = u64::from_be_bytes(*time);
                // C2SP tlog-cosignature: it must not be more.
                (Some(i64::try_from(time).map(|_| time).ok()?), signature)
            }
        };
        let message = message(key.algorithm(), text, time.unwrap_or_default());
        key.verifies(&message, signature.try_into().ok()?).then_some(time)
    }
}

impl fmt::Display for NoteSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [&self.id, self.signature.as_slice()].concat();
        write!(f, "{DASH}{} {}", self.name, BASE64.encode(bytes))
    }
}

/// The signed bytes.
fn message(algorithm: Algorithm, text: &str, time_s: u64) -> Vec<u8> {
    match algorithm {
        Algorithm::Note => text.as_bytes().to_vec(),
        Algorithm::Cosignature => format!("cosignature/v1\ntime {time_s}\n{text}").into_bytes(),
    }
}

fn check_characters(text: &str) -> Result<(), NoteError> {
    let wrong = |byte: u8| byte < 0x20 && byte != b'\n';
    if text.bytes().any(wrong) { Err(NoteError::Control) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
    const NOTE: &str = "This is an example message.\n\n— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";

    fn key(name: &str, algorithm: Algorithm, seed: u8) -> SignerKey {
        SignerKey::from_seed(name, algorithm, &[seed; 32]).unwrap()
    }

    #[test]
    fn the_example_of_the_specification_verifies() {
        let (note, key) = (Note::parse(NOTE).unwrap(), VerifierKey::parse(KEY).unwrap());
        assert_eq!(note.text(), "This is an example message.\n");
        assert_eq!(note.verify(&key), Ok(None));
        assert_eq!(note.to_string(), NOTE);
        let changed = Note::parse(&NOTE.replace("example message", "exbmple message")).unwrap();
        assert_eq!(changed.verify(&key), Err(SignatureError::Bad("example.com/foo".to_owned())));
    }

    #[test]
    fn keys_that_are_not_known_are_ignored_also_of_the_same_name() {
        let signer = key("a.example", Algorithm::Note, 1);
        let other = key("a.example", Algorithm::Note, 2);
        let mut note = Note::new("text\n".to_owned()).unwrap();
        note.sign(&other, 0);
        let missing = SignatureError::Missing("a.example".to_owned());
        assert_eq!(note.verify(signer.verifier()), Err(missing));
        note.sign(&signer, 0);
        assert_eq!(note.verify(signer.verifier()), Ok(None));
        assert_eq!(note.verify(other.verifier()), Ok(None));
    }

    #[test]
    fn one_false_signature_of_a_known_key_spoils_the_note() {
        let signer = key("a.example", Algorithm::Note, 1);
        let mut note = Note::new("text\n".to_owned()).unwrap();
        note.sign(&signer, 0);
        let mut forged = note.signatures[0].clone();
        forged.signature[0] ^= 1;
        note.add(forged);
        assert_eq!(
            note.verify(signer.verifier()),
            Err(SignatureError::Bad("a.example".to_owned()))
        );
    }

    #[test]
    fn a_signature_line_whose_name_or_id_was_changed_is_no_line_of_another_key() {
        let (signer, other) =
            (key("a.example", Algorithm::Note, 1), key("a.example", Algorithm::Note, 2));
        let mut note = Note::new("text\n".to_owned()).unwrap();
        note.sign(&signer, 0);
        let line = note.signatures[0].clone();
        let other_id = NoteSignature { id: [0; 4], ..line.clone() };
        let other_name = NoteSignature { name: "b.example".to_owned(), ..line };
        for line in [other_id, other_name] {
            let changed = Note { signatures: vec![line], ..note.clone() };
            assert!(matches!(changed.verify(signer.verifier()), Err(SignatureError::Missing(_))));
            assert!(changed.is_altered(signer.verifier()));
            assert!(!changed.is_altered(other.verifier()));
        }
        assert!(!note.is_altered(signer.verifier()) && !note.is_altered(other.verifier()));
    }

    #[test]
    fn cosignatures_tell_their_time_and_are_no_signatures_of_the_text() {
        let witness = key("w.example", Algorithm::Cosignature, 3);
        let mut note = Note::new("log.example\n1\nroot\n".to_owned()).unwrap();
        note.sign(&witness, 1_679_315_147);
        let read = Note::parse(&note.to_string()).unwrap();
        assert_eq!(read.verify(witness.verifier()), Ok(Some(1_679_315_147)));
        let as_note = key("w.example", Algorithm::Note, 3);
        assert!(read.verify(as_note.verifier()).is_err());
        let mut later = read.clone();
        later.signatures[0].signature[7] ^= 1;
        assert!(later.verify(witness.verifier()).is_err());
    }

    #[test]
    fn malformed_notes_are_refused() {
        for (note, error) in [
            ("", NoteError::Form),
            ("text\n", NoteError::Form),
            ("text\n\n", NoteError::Form),
            ("text\n\n— a AAAAAAA=", NoteError::Line),
            ("text\n\n- a AAAAAAA=\n", NoteError::Line),
            ("text\n\n— a AAAA\n", NoteError::Line),
            ("text\n\n— a+b AAAAAAA=\n", NoteError::Line),
            ("text\n\n— a AAAAAAA\n", NoteError::Line),
            ("text\n\n—  AAAAAAA=\n", NoteError::Line),
            ("text\n\n— a AAAAAAA=\n\n", NoteError::Form),
            ("te\txt\n\n— a AAAAAAA=\n", NoteError::Control),
        ] {
            assert_eq!(Note::parse(note), Err(error), "{note:?}");
        }
        let many = format!("text\n\n{}", "— a AAAAAAA=\n".repeat(SIGNATURES_MAX + 1));
        assert_eq!(Note::parse(&many), Err(NoteError::TooMany));
        assert_eq!(Note::parse(&"x".repeat(NOTE_BYTES_MAX + 1)), Err(NoteError::TooLarge));
    }

    proptest! {
        #[test]
        fn whatever_is_read_is_written_the_same(note in "[a\n]{0,8}\n\n(— [ab] AAAA[AB]AA=\n){0,3}[—\n ]{0,3}") {
            if let Ok(read) = Note::parse(&note) {
                prop_assert_eq!(read.to_string(), note);
            }
        }

        #[test]
        fn arbitrary_texts_never_panic(note in "(\\PC|\n|— ){0,60}") {
            drop(Note::parse(&note));
        }
    }
}
