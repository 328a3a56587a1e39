//! Verification of a vault's files, with no node and no index, also while a server runs.
//!
//! Without the key-encryption key: checksums, the order and form of the frames, the ledger that they
//! belong to, and that no data subject has two frames. With it, everything: each key and identity opens,
//! and the look-up of each frame is the one of its identity.

use std::{ops::ControlFlow, path::Path};

use hashbrown::HashSet;

use super::{
    FRAME_BYTES_MAX, LOG_KIND, Opened, Secrets, SubjectFrame, VaultError, decode, frame::Frame,
};
use crate::{
    domain::SubjectRef,
    storage::{LogError, TornTail, disk::Disk, scan},
    vault::Kek,
};

/// The facts about an intact vault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspected {
    /// The ledger that the vault belongs to.
    pub ledger_id: [u8; 16],
    /// Number of data subjects.
    pub subjects: u64,
    /// An unfinished write at the end.
    pub torn: Option<TornTail>,
}

/// Verifies the segments in `dir`. `visit` gets every data subject.
///
/// # Errors
/// [`VaultError::WrongKey`], or the first damage, named by segment, offset and frame.
pub fn inspect(
    disk: &dyn Disk,
    dir: &Path,
    kek: Option<&Kek>,
    visit: &mut dyn FnMut(SubjectRef),
) -> Result<Inspected, VaultError> {
    let mut walk = Walk::new(kek);
    let mut wrong_key = false;
    let walked = scan(disk, dir, LOG_KIND, FRAME_BYTES_MAX, 0, &mut |frame| match decode(
        frame.index,
        frame.payload,
    )
    .and_then(|decoded| walk.take(frame.index, decoded))
    {
        Ok(subject) => {
            subject.into_iter().for_each(&mut *visit);
            ControlFlow::Continue(())
        }
        Err(problem) => {
            wrong_key = matches!(problem, VaultError::WrongKey);
            ControlFlow::Break(problem.to_string())
        }
    });
    let end = match walked {
        Err(_) if wrong_key => return Err(VaultError::WrongKey),
        walked => walked?,
    };
    let Some((opened, _)) = walk.opened else { return Err(LogError::NoSegment(dir.into()).into()) };
    // The sums of the frames contain the id of the segments.
    if opened.ledger_id != end.id {
        let problem = "its first frame opens the vault of another ledger".to_owned();
        return Err(LogError::Foreign { path: dir.to_owned(), problem }.into());
    }
    let subjects = end.frames.saturating_sub(1);
    Ok(Inspected { ledger_id: opened.ledger_id, subjects, torn: end.torn })
}

struct Walk<'a> {
    kek: Option<&'a Kek>,
    opened: Option<(Opened, Option<Secrets>)>,
    subjects: HashSet<SubjectRef>,
    /// The first half of each look-up.
    lookups: HashSet<[u8; 16]>,
}

impl<'a> Walk<'a> {
    fn new(kek: Option<&'a Kek>) -> Self {
        Self { kek, opened: None, subjects: HashSet::new(), lookups: HashSet::new() }
    }

    /// Takes the next frame, and returns its data subject.
    fn take(&mut self, number: u64, frame: Frame) -> Result<Option<SubjectRef>, VaultError> {
        match (frame, &self.opened) {
            (Frame::Opened(opened), None) => {
                let secrets = self.kek.map(|kek| opened.unlock(kek)).transpose()?;
                self.opened = Some((opened, secrets));
                Ok(None)
            }
            (Frame::Subject(frame), Some((opened, secrets))) => {
                if let (Some(kek), Some(secrets)) = (self.kek, secrets) {
                    check_sealed(&frame, opened, secrets, kek)?;
                }
                let (lookup, _) = frame.lookup.as_chunks::<16>();
                let is_new = self.subjects.insert(frame.subject_ref);
                if !is_new || !lookup.first().is_some_and(|half| self.lookups.insert(*half)) {
                    return Err(VaultError::Twice(number));
                }
                Ok(Some(frame.subject_ref))
            }
            _ => Err(VaultError::Order(number)),
        }
    }
}

/// Checks that a frame's key and identity open, and that its look-up is the one of its identity.
fn check_sealed(
    frame: &SubjectFrame,
    opened: &Opened,
    secrets: &Secrets,
    kek: &Kek,
) -> Result<(), VaultError> {
    let key = frame.open_key(&opened.ledger_id, kek)?;
    let identity = frame.open_identity(&opened.ledger_id, &key)?;
    if secrets.lookup_of(&identity) == frame.lookup {
        return Ok(());
    }
    Err(VaultError::LookUp(frame.subject_ref))
}
