//! Disclosures: what opens all records of some data subjects up to one revision, encrypted to somebody.
//!
//! A disclosure is made in four steps, and each leaves less to lose than the one before:
//!
//! 1. **The tags after the last.** The file must name the tag after each data subject's last record, to prove
//!    that none is left out. So that this tag leads to nothing, the ledger uses it up: it writes a record
//!    that says only that there was a disclosure. No other entry comes between the revision and these
//!    records ([`Node::write_series`]), or that entry's tag would be named.
//! 2. **The file**, encrypted to the recipients as it is written, in a file of the data directory that has
//!    no name: a crash leaves nothing of it. Nothing in clear is written. It is read data subject by data
//!    subject, so that memory does not grow with their number.
//! 3. **The item** with recipients and digest, durable before step 4.
//! 4. The bytes leave the node.
//!
//! Records of step 1 without an item are of a disclosure that was broken off. Nobody has received it.

use std::{
    collections::{HashSet, VecDeque},
    fmt,
    fs::File,
    io::{self, Seek, SeekFrom, Write},
    sync::Arc,
};

use age::{Encryptor, x25519};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use super::{Core, DiscloseError, Node, ReadError, WriteError, batch::Batch};
use crate::{
    domain::{
        Body, DisclosureMade, Identity, LinkConfidence, Subject, SubjectRef, SubjectsDisclosed,
    },
    entry::EntryError,
    fold::reach,
    format::{
        confidential::Kind,
        disclosure::{ConfidentialDisclosure, PersonDisclosure},
        entry::{Body as SealedBody, Entry as SealedEntry},
        vault::Person,
    },
    ledger::sealed::Lane,
    proto::ledger::{DisclosedPerson, Disclosure},
    tree::Signed,
};

/// The greatest number of data subjects that a call names.
pub const DISCLOSED_SUBJECTS_MAX: usize = 10_000;
/// The greatest number of recipients of a file.
pub const RECIPIENTS_MAX: usize = 20;

/// How many slots without evidence fit into an entry.
const SLOTS_MAX: usize = 200;
/// The size at which a batch of records takes no more entries.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// How many data subjects, and how many of one's entries, are looked up at once.
const STEP: usize = 256;

/// Whose records are disclosed.
#[derive(Debug, Clone)]
pub enum Disclosed {
    /// Those of all data subjects.
    All,
    /// Those of these data subjects, and of all that verified links connect with them.
    Named(Vec<Subject>),
}

/// A disclosure to make.
#[derive(Clone)]
pub struct Disclosing {
    /// Whose records.
    pub whose: Disclosed,
    /// Who can read the file; at least one.
    pub recipients: Vec<x25519::Recipient>,
    /// Whether it names the data subjects.
    pub with_identities: bool,
    /// Whether it has the keys of what is confidential and names nobody.
    pub open_ended: bool,
}

impl fmt::Debug for Disclosing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disclosing").finish_non_exhaustive()
    }
}

/// What a disclosure opens, once the tags after the last records are used up.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// The number of entries that it covers.
    pub revision: u64,
    /// How many data subjects it opens.
    pub persons: u64,
    /// How many data subjects are only asserted to be the same persons, and left out.
    pub asserted_left_out: u64,
    /// The data subjects; none if it opens all.
    named: Option<Arc<[SubjectRef]>>,
}

/// A disclosure in a file, encrypted.
#[derive(Debug)]
pub struct Spool {
    /// The file, at its beginning.
    pub file: File,
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of it.
    pub digest: [u8; 32],
}

impl Node {
    /// Uses up the tags after the last records of the data subjects. The revision of the answer is the one
    /// before.
    ///
    /// # Errors
    /// [`DiscloseError::Unknown`]: a data subject has no records. Nothing is recorded then.
    pub async fn bound_disclosure(&self, whose: Disclosed) -> Result<Bounds, DiscloseError> {
        let mut bounding = Bounding { whose, begun: None };
        self.write_series(move |batch| bounding.step(batch)).await
    }

    /// Writes the file of a disclosure, under a checkpoint that covers its revision. Blocking. `progress`
    /// gets the number of data subjects that are done, and ends the work by answering false.
    ///
    /// # Errors
    /// The ledger can not be read, the file not be written, or `progress` ended the work.
    pub fn spool_disclosure(
        &self,
        disclosing: &Disclosing,
        bounds: &Bounds,
        checkpoint: &Signed,
        progress: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Spool, DiscloseError> {
        let file = tempfile::tempfile_in(&self.core.data_dir).map_err(not_written)?;
        let recipients = disclosing.recipients.iter().map(|to| to as &dyn age::Recipient);
        let encryptor = Encryptor::with_recipients(recipients)
            .map_err(|error| DiscloseError::NotWritten(error.to_string()))?;
        let digested = Digested { file: io::BufWriter::new(file), digest: Sha256::new(), bytes: 0 };
        let mut writer = encryptor.wrap_output(digested).map_err(not_written)?;
        let content = Contents { core: &self.core, disclosing, bounds };
        content.write(checkpoint, &mut writer, progress)?;
        let Digested { file, digest, bytes } = writer.finish().map_err(not_written)?;
        let mut file = file.into_inner().map_err(|error| not_written(error.into_error()))?;
        file.seek(SeekFrom::Start(0)).map_err(not_written)?;
        Ok(Spool { file, bytes, digest: digest.finalize().into() })
    }

    /// Records that a disclosure goes to its recipients, and answers the index of the entry.
    ///
    /// # Errors
    /// See [`WriteError`]. The disclosure must not be handed out then.
    pub async fn record_disclosure(
        &self,
        disclosing: &Disclosing,
        bounds: &Bounds,
        spool: &Spool,
    ) -> Result<u64, WriteError> {
        let recipients = disclosing.recipients.iter().map(ToString::to_string);
        let made = DisclosureMade {
            recipient: recipients.collect::<Vec<_>>().join(" "),
            digest: spool.digest,
            revision: bounds.revision,
            persons: bounds.persons,
            open_ended: disclosing.open_ended,
        };
        self.write(move |batch| batch.write(batch.recorded_at(), Body::DisclosureMade(made), &[]))
            .await
    }
}

/// The records that use up tags, batch by batch.
struct Bounding {
    whose: Disclosed,
    begun: Option<Begun>,
}

/// The work after the first batch began.
struct Begun {
    bounds: Bounds,
    /// Named data subjects that have no record of the disclosure yet.
    left: VecDeque<SubjectRef>,
    /// Of all data subjects, the last that was looked up.
    after: Option<SubjectRef>,
}

impl Bounding {
    /// Adds the records of the next batch. Answers with the last one.
    fn step(&mut self, batch: &mut Batch<'_>) -> Result<Option<Bounds>, DiscloseError> {
        let begun = match &mut self.begun {
            Some(begun) => begun,
            None => self.begun.insert(Begun::new(&self.whose, batch)?),
        };
        while batch.bytes < BATCH_BYTES_MAX {
            let subject_refs = begun.next(batch)?;
            if subject_refs.is_empty() {
                return Ok(Some(begun.bounds.clone()));
            }
            begun.bounds.persons += subject_refs.len() as u64;
            let body = Body::Disclosed(SubjectsDisclosed { subject_refs });
            batch.write(batch.recorded_at(), body, &[])?;
        }
        Ok(None)
    }
}

impl Begun {
    fn new(whose: &Disclosed, batch: &Batch<'_>) -> Result<Self, DiscloseError> {
        let named = match whose {
            Disclosed::All => None,
            Disclosed::Named(subjects) => Some(Reached::of(subjects, batch)?),
        };
        let (named, asserted_left_out) = named.map_or((None, 0), |reached| {
            (Some(Arc::from(reached.same)), reached.asserted.len() as u64)
        });
        let left = named.iter().flat_map(|all: &Arc<[SubjectRef]>| all.iter().copied()).collect();
        let revision = batch.tip.next_index;
        let bounds = Bounds { revision, persons: 0, asserted_left_out, named };
        Ok(Self { bounds, left, after: None })
    }

    /// The data subjects of the next entry; none at the end.
    fn next(&mut self, batch: &Batch<'_>) -> Result<Vec<SubjectRef>, WriteError> {
        if self.bounds.named.is_some() {
            return Ok(self.left.drain(..self.left.len().min(SLOTS_MAX)).collect());
        }
        let core = batch.core();
        loop {
            let found = core.view.subjects(self.after, SLOTS_MAX)?;
            let Some(last) = found.last() else { return Ok(found) };
            self.after = Some(*last);
            let mut living = Vec::with_capacity(found.len());
            for subject in found {
                if is_living(batch, subject)? && batch.landed(subject, Lane::Records)? > 0 {
                    living.push(subject);
                }
            }
            if !living.is_empty() {
                return Ok(living);
            }
        }
    }
}

fn is_living(batch: &Batch<'_>, subject: SubjectRef) -> Result<bool, WriteError> {
    Ok(batch.core().vault.identity(subject)? != Identity::Erased)
}

/// The data subjects that some others lead to.
struct Reached {
    /// Themselves, and those that verified links connect with them.
    same: Vec<SubjectRef>,
    /// The others that links connect with them.
    asserted: HashSet<SubjectRef>,
}

impl Reached {
    fn of(subjects: &[Subject], batch: &Batch<'_>) -> Result<Self, DiscloseError> {
        let (mut same, mut known) = (Vec::new(), HashSet::new());
        let mut asserted = HashSet::new();
        for (position, subject) in subjects.iter().enumerate() {
            let found = batch.known(subject)?;
            let landed = found.map_or(Ok(0), |found| batch.landed(found, Lane::Records))?;
            let found = found.filter(|_| landed > 0);
            let found = found.ok_or(DiscloseError::Unknown { position })?;
            let state = batch.state(found)?;
            let linked = reach(found, &state, |other| batch.state(other))?;
            let is_same = |confidence| confidence == LinkConfidence::Verified;
            let linked = linked.iter().map(|it| (it.subject, is_same(it.confidence)));
            for (subject, is_same) in [(found, true)].into_iter().chain(linked) {
                if !is_same {
                    asserted.insert(subject);
                } else if is_living(batch, subject)? && known.insert(subject) {
                    same.push(subject);
                }
            }
        }
        asserted.retain(|subject| !known.contains(subject));
        Ok(Self { same, asserted })
    }
}

/// What the file of a disclosure holds.
struct Contents<'a> {
    core: &'a Core,
    disclosing: &'a Disclosing,
    bounds: &'a Bounds,
}

impl Contents<'_> {
    /// Writes the message field by field: the bytes are those of the whole message.
    fn write(
        &self,
        checkpoint: &Signed,
        to: &mut impl Write,
        progress: &mut dyn FnMut(u64) -> bool,
    ) -> Result<(), DiscloseError> {
        let Bounds { revision, persons, .. } = *self.bounds;
        let ledger_id = self.core.vault.ledger_id().to_vec();
        let checkpoint = checkpoint.checkpoint.to_string();
        put(&Disclosure { ledger_id, revision, checkpoint, ..Disclosure::default() }, to)?;
        let mut done = 0;
        self.each_person(&mut |subject| {
            let Some(person) = self.person(subject)? else { return Ok(()) };
            put(&Disclosure { persons: vec![person], ..Disclosure::default() }, to)?;
            done += 1;
            if progress(done) { Ok(()) } else { Err(DiscloseError::BrokenOff) }
        })?;
        if done != persons {
            let problem = format!("{done} of {persons} data subjects could be disclosed");
            return Err(ReadError::StateUnreadable(problem).into());
        }
        let mut end = Disclosure {
            asserted_links_left_out: self.bounds.asserted_left_out,
            ..Disclosure::default()
        };
        if self.disclosing.open_ended {
            let root = self.core.vault.confidential();
            let ledger_id = self.core.vault.ledger_id();
            let kinds: Vec<Kind> =
                Kind::OF_ITEMS.into_iter().chain([Kind::Use, Kind::Erasure]).collect();
            ConfidentialDisclosure::new(root, ledger_id, revision, &kinds)
                .finish_open_ended(&mut end);
        }
        put(&end, to)
    }

    fn each_person(
        &self,
        each: &mut dyn FnMut(SubjectRef) -> Result<(), DiscloseError>,
    ) -> Result<(), DiscloseError> {
        if let Some(named) = &self.bounds.named {
            return named.iter().try_for_each(|subject| each(*subject));
        }
        let mut after = None;
        loop {
            let found = self.core.view.subjects(after, STEP).map_err(ReadError::from)?;
            let Some(last) = found.last() else { return Ok(()) };
            after = Some(*last);
            found.into_iter().try_for_each(&mut *each)?;
        }
    }

    /// The records of a data subject; none if there are none before the revision, or it is erased.
    fn person(&self, subject: SubjectRef) -> Result<Option<DisclosedPerson>, DiscloseError> {
        let core = self.core;
        if core.vault.identity(subject).map_err(ReadError::from)? == Identity::Erased {
            return Ok(None);
        }
        let person = core.vault.person(subject).map_err(ReadError::from)?;
        let identity = person.identity.as_str().to_owned();
        let person = Person { keys: person.keys.clone(), identity };
        let mut disclosed = PersonDisclosure::new(core.vault.ledger_id(), &person);
        let (mut start, mut number) = (0, 0);
        loop {
            let indexes = core.view.history(subject, start, STEP).map_err(ReadError::from)?;
            for index in &indexes {
                if *index >= self.bounds.revision {
                    break;
                }
                let bytes = core.entry_bytes(*index)?;
                let entry = SealedEntry::decode(&bytes).map_err(EntryError::from);
                let entry = entry.map_err(ReadError::from)?;
                let unreadable = || {
                    let problem =
                        format!("entry {index} has no record of a data subject whose it is");
                    ReadError::StateUnreadable(problem)
                };
                let SealedBody::Persons(persons) = &entry.body else {
                    return Err(unreadable().into());
                };
                let tag = person.keys.tags().tag(number);
                let (place, _) = persons.slot_of(&tag).ok_or_else(unreadable)?;
                let added = disclosed.add(*index, persons, place);
                added.map_err(|error| ReadError::StateUnreadable(error.to_string()))?;
                number += 1;
            }
            match indexes.last() {
                Some(last) if *last < self.bounds.revision && indexes.len() == STEP => {
                    start = last + 1;
                }
                _ => break,
            }
        }
        Ok((number > 0).then(|| disclosed.finish(self.disclosing.with_identities)))
    }
}

fn put(part: &Disclosure, to: &mut impl Write) -> Result<(), DiscloseError> {
    to.write_all(&part.encode_to_vec()).map_err(not_written)
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn not_written(error: io::Error) -> DiscloseError {
    DiscloseError::NotWritten(error.to_string())
}

/// Hashes and counts what it writes.
struct Digested<W> {
    file: W,
    digest: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Digested<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.digest.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
