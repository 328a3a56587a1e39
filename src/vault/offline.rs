//! All subjects of a vault, read from its files without an index, also while a server runs on them.

use std::{ops::ControlFlow, path::Path, sync::Arc};

use super::{
    FRAME_BYTES_MAX, Kek, LOG_KIND, Secrets, VaultError, decode,
    frame::{Frame, Opened},
    open_person,
};
use crate::{
    format::keys::ledger::{ConfidentialRoot, LedgerSecret},
    ledger::sealed::Person,
    storage::{FrameAt, LogError, disk::Disk, scan},
};

/// The subjects of a vault.
#[derive(Debug)]
pub struct People {
    /// The ledger that the vault belongs to.
    pub ledger_id: [u8; 16],
    /// The ledger's secret.
    pub secret: LedgerSecret,
    /// The keys of what is confidential and names nobody.
    pub confidential: ConfidentialRoot,
    /// In the order in which they came.
    pub persons: Vec<Arc<Person>>,
}

impl People {
    /// Reads the vault in `dir`. Changes nothing.
    ///
    /// # Errors
    /// The files can not be read or are damaged, or the key is another one.
    pub fn read(disk: &dyn Disk, dir: &Path, kek: &Kek) -> Result<Self, VaultError> {
        let (mut opened, mut persons, mut problem) = (None, Vec::new(), None);
        let walked = scan(disk, dir, LOG_KIND, FRAME_BYTES_MAX, 0, &mut |frame| match take(
            &frame,
            kek,
            &mut opened,
            &mut persons,
        ) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                problem = Some(error);
                ControlFlow::Break(String::new())
            }
        });
        match (problem, walked) {
            (Some(problem), _) => return Err(problem),
            (None, Err(error)) => return Err(error.into()),
            (None, Ok(_)) => {}
        }
        let (opened, secrets): (Opened, Secrets) =
            opened.ok_or_else(|| LogError::NoSegment(dir.to_owned()))?;
        let Secrets { ledger: secret, confidential, .. } = secrets;
        Ok(Self { ledger_id: opened.ledger_id, secret, confidential, persons })
    }
}

fn take(
    frame: &FrameAt<'_>,
    kek: &Kek,
    opened: &mut Option<(Opened, Secrets)>,
    persons: &mut Vec<Arc<Person>>,
) -> Result<(), VaultError> {
    match (decode(frame.index, frame.payload)?, &opened) {
        (Frame::Opened(found), None) => {
            let secrets = Secrets::derive(&found.master(kek)?)?;
            *opened = Some((found, secrets));
        }
        (Frame::Subject(subject), Some((opened, _))) => {
            persons.push(Arc::new(open_person(&opened.ledger_id, kek, &subject)?));
        }
        _ => return Err(VaultError::Order(frame.index)),
    }
    Ok(())
}
