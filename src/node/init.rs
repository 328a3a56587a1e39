//! Making a new ledger: the only way to get one.
//!
//! An empty directory is more often a lost mount than a new ledger, and a new ledger has forgotten every
//! objection. So a ledger is made on purpose, and only where nothing knows one of the same name: not the
//! directory, not the file of the key-encryption key, and not the file of the signing key. Whether a
//! witness knows it is asked by the caller, between [`Init::look`] and [`Init::make`].
//!
//! Until everything is durable, [`UNFINISHED_FILE`] stands in the directory. No server opens such a
//! directory, and the next [`Init::make`] completes it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rand::RngExt;
use thiserror::Error;
use tracing::info;

use super::{
    KEK_FILE, NodeConfig, OpenError,
    config::ORIGIN_DEFAULT,
    open::{DirLock, kek_file, signing_key_file},
    survey::{self, Absence, LedgerId, UNFINISHED_FILE},
};
use crate::{
    backend::{Appended, BackendError, LocalLog, LogBackend as _},
    domain::{LedgerOpened, Millis},
    ledger::{self, LEVEL, Tip, sealed::second_and_ms},
    storage::{
        AtPath as _, FileError,
        disk::{Disk, RealDisk},
    },
    tlog::key::{Algorithm, SignerKey, VerifierKey},
    tree::{self, Book, generate_key, read_key, write_key},
    vault::{self, Kek, KekError, KekFile, LedgerNote, VaultFiles},
};

/// Why no ledger is made. Nothing was changed, except where a file operation failed; then the same call
/// may be made again.
#[derive(Debug, Error)]
pub enum InitError {
    /// There is a ledger already.
    #[error(
        "{dir} already holds a ledger, {id} (`{origin}`): serve it, or choose another --data-dir"
    )]
    LedgerThere {
        /// The data directory.
        dir: PathBuf,
        /// The ledger in it.
        id: LedgerId,
        /// Its name.
        origin: String,
    },
    /// The directory is not empty.
    #[error("{dir}: {absence}. A new ledger needs an empty directory")]
    NotEmpty {
        /// The data directory.
        dir: PathBuf,
        /// What it holds.
        absence: Absence,
    },
    /// The key-encryption key belongs to a ledger of this name.
    #[error(
        "the key-encryption key in {file} belongs to the ledger {id} (`{origin}`). If {dir} should hold \
         that ledger, mount its disk or restore a backup. A new ledger needs another key, or another \
         --origin; if that ledger was given up for good, remove its line from the file"
    )]
    KekKnows {
        /// The file of the key.
        file: PathBuf,
        /// The ledger that was made with it.
        id: LedgerId,
        /// Its name.
        origin: String,
        /// The data directory.
        dir: PathBuf,
    },
    /// The signing key may have signed checkpoints of a ledger of this name.
    #[error(
        "the signing key in {0} may have signed a ledger already. If the data directory should hold that \
         ledger, mount its disk or restore a backup; if nothing was ever signed with this key, say \
         --unused-signing-key"
    )]
    SigningKeyThere(PathBuf),
    /// A lock, a key, a store or a file failed.
    #[error(transparent)]
    Open(#[from] OpenError),
}

macro_rules! from_lower {
    ($($error:ty),*) => {$(
        impl From<$error> for InitError {
            fn from(error: $error) -> Self {
                Self::Open(error.into())
            }
        }
    )*};
}

from_lower!(
    FileError,
    BackendError,
    vault::VaultError,
    KekError,
    tree::BookError,
    tree::SigningKeyError
);

/// A ledger that was made.
#[derive(Debug)]
pub struct NewLedger {
    /// Its identity.
    pub id: LedgerId,
    /// Its name.
    pub origin: String,
    /// The key that verifies its checkpoints.
    pub verifier_key: VerifierKey,
    /// File of its key-encryption key; none if the key came in another way.
    pub kek_file: Option<PathBuf>,
    /// Why that file does not name the ledger, if it does not.
    pub kek_unnoted: Option<FileError>,
    /// File of its signing key.
    pub signing_key_file: PathBuf,
}

/// A ledger that may be made.
#[derive(Debug)]
pub struct Init {
    place: Place,
    key: SignerKey,
}

/// Where a ledger is to be made, and its name.
#[derive(Debug)]
struct Place {
    disk: Arc<dyn Disk>,
    config: NodeConfig,
    origin: String,
}

/// Makes a ledger; [`Init::look`] and [`Init::make`] in one.
///
/// # Errors
/// See [`InitError`].
pub fn init(config: &NodeConfig) -> Result<NewLedger, InitError> {
    Init::look(Arc::new(RealDisk), config)?.make()
}

impl Init {
    /// Finds out whether a ledger may be made. Changes nothing.
    ///
    /// # Errors
    /// See [`InitError`].
    pub fn look(disk: Arc<dyn Disk>, config: &NodeConfig) -> Result<Self, InitError> {
        let origin = config.origin.clone().unwrap_or_else(|| ORIGIN_DEFAULT.to_owned());
        let place = Place { disk, config: config.clone(), origin };
        place.check_directory()?;
        place.check_kek()?;
        let key = place.signing_key()?;
        Ok(Self { place, key })
    }

    /// The key that will sign the ledger, for the name of the ledger.
    #[must_use]
    pub fn signer(&self) -> &SignerKey {
        &self.key
    }

    /// Makes the ledger. It is durable when the call returns. If the call is cut off, the next one
    /// completes the ledger.
    ///
    /// # Errors
    /// See [`InitError`].
    pub fn make(self) -> Result<NewLedger, InitError> {
        let Self { place, key } = self;
        let Place { disk, config, origin } = &place;
        let dir = &config.data_dir;
        // `Disk` syncs the parent, so that the directory survives a power cut.
        disk.create_dir_all(dir).at(dir)?;
        let _lock = DirLock::take(dir)?;
        // Another process may have made a ledger since the look.
        place.check_directory()?;
        place.begin()?;
        let (kek, kek_place) = place.kek()?;
        // The vault is made before the ledger, so the identity in the vault counts.
        let vault_dir = dir.join(vault::DIR);
        let vault = VaultFiles::create(disk.clone(), vault_dir, &kek, rand::rng().random())?;
        let id = LedgerId(vault.ledger_id());
        place.make_book(id)?;
        place.write_first_entry(id)?;
        let note = LedgerNote { id: id.0, origin: origin.clone() };
        let (kek_file, kek_unnoted) = match kek_place {
            Some((path, file)) => {
                let unnoted = file.note(&path, note).err();
                (Some(path), unnoted)
            }
            None => (None, None),
        };
        let signing_key_file = signing_key_file(config);
        write_key(&signing_key_file, &key)?;
        place.end()?;
        info!(%id, origin, "a new ledger was made");
        Ok(NewLedger {
            id,
            origin: origin.clone(),
            verifier_key: key.verifier().clone(),
            kek_file,
            kek_unnoted,
            signing_key_file,
        })
    }
}

impl Place {
    /// The key that will sign the ledger: the one in its file, or a new one, which is not stored.
    fn signing_key(&self) -> Result<SignerKey, InitError> {
        let file = signing_key_file(&self.config);
        match read_key(&file, &self.origin, Algorithm::Note)? {
            None => Ok(generate_key(&self.origin, Algorithm::Note)?),
            Some(key) if self.config.unused_signing_key || self.has_own_key()? => Ok(key),
            Some(_) => Err(InitError::SigningKeyThere(file)),
        }
    }

    /// Marks the directory until [`Self::end`].
    fn begin(&self) -> Result<(), InitError> {
        let (disk, dir) = (&*self.disk, &self.config.data_dir);
        let unfinished = dir.join(UNFINISHED_FILE);
        if !survey::is_unfinished(dir, disk)? {
            disk.create(&unfinished).and_then(|file| file.sync_data()).at(&unfinished)?;
            disk.sync_dir(dir).at(dir)?;
        }
        Ok(())
    }

    /// Makes the book of checkpoints. It is there before the key: a key without a book means that the book
    /// is lost.
    fn make_book(&self, id: LedgerId) -> Result<(), InitError> {
        let (disk, config, dir) = (&*self.disk, &self.config, &self.config.data_dir);
        if Book::read(disk, dir, &config.witness_policy)?.is_none() {
            Book::of_ledger(id.0).write(disk, dir)?;
        }
        Ok(())
    }

    /// Lets servers open the directory.
    fn end(&self) -> Result<(), InitError> {
        let (disk, dir) = (&*self.disk, &self.config.data_dir);
        let unfinished = dir.join(UNFINISHED_FILE);
        Ok(disk.remove(&unfinished).and_then(|()| disk.sync_dir(dir)).at(&unfinished)?)
    }

    /// The key-encryption key, and its file if it comes from one. The file is made if nothing was sealed
    /// with it yet.
    fn kek(&self) -> Result<(Kek, Option<(PathBuf, KekFile)>), InitError> {
        if let Some(kek) = &self.config.kek {
            return Ok((kek.clone(), None));
        }
        let path = kek_file(&self.config);
        let file = match self.begun_id()? {
            Some(_) => KekFile::read(&path)?.ok_or_else(|| KekError::Missing(path.clone()))?,
            None => KekFile::read_or_create(&path)?,
        };
        Ok((file.kek.clone(), Some((path, file))))
    }

    /// The directory is empty but for keys, or an earlier call was cut off in it.
    fn check_directory(&self) -> Result<(), InitError> {
        let (dir, any) = (&self.config.data_dir, self.any_ledger());
        let absence = match survey::survey(&any, &*self.disk) {
            Ok(opened) => {
                let (id, origin) = (LedgerId(opened.ledger_id), opened.origin);
                return Err(InitError::LedgerThere { dir: dir.clone(), id, origin });
            }
            Err(OpenError::NoLedger { absence, .. }) => absence,
            Err(error) => return Err(error.into()),
        };
        let absence = match absence {
            Absence::NoDirectory | Absence::Empty | Absence::Unfinished => return Ok(()),
            // Keys may be made before the ledger.
            Absence::Remains(_) => {
                let mut names = survey::names(dir)?.unwrap_or_default();
                names.retain(|name| ![KEK_FILE, tree::KEY_FILE].contains(&name.as_str()));
                survey::without_stores(names)
            }
            absence @ Absence::Others(_) => absence,
        };
        match absence {
            Absence::Empty => Ok(()),
            absence => Err(InitError::NotEmpty { dir: dir.clone(), absence }),
        }
    }

    /// The configuration, with any ledger in the directory.
    fn any_ledger(&self) -> NodeConfig {
        NodeConfig { expect_ledger: None, origin: None, ..self.config.clone() }
    }

    /// The key-encryption key has no ledger of this name, except one that an earlier call began here.
    fn check_kek(&self) -> Result<(), InitError> {
        if self.config.kek.is_some() {
            return Ok(());
        }
        let file = kek_file(&self.config);
        let Some(found) = KekFile::read(&file)? else { return Ok(()) };
        let Some(known) = found.ledger_of(&self.origin) else { return Ok(()) };
        if self.begun_id()? == Some(known.id) {
            return Ok(());
        }
        let (id, origin) = (LedgerId(known.id), known.origin.clone());
        Err(InitError::KekKnows { file, id, origin, dir: self.config.data_dir.clone() })
    }

    /// Whether an earlier call, which was cut off, has accepted or made the signing key.
    fn has_own_key(&self) -> Result<bool, InitError> {
        let (config, disk) = (&self.config, &*self.disk);
        Ok(survey::is_unfinished(&config.data_dir, disk)?
            && Book::read(disk, &config.data_dir, &config.witness_policy)?.is_some())
    }

    /// Identity of the ledger that an earlier call has begun to make, if it was cut off.
    fn begun_id(&self) -> Result<Option<[u8; 16]>, InitError> {
        let dir = &self.config.data_dir;
        if !survey::is_unfinished(dir, &*self.disk)? {
            return Ok(None);
        }
        Ok(vault::id_of(&*self.disk, &dir.join(vault::DIR))?)
    }

    /// Writes entry 0, unless an earlier call has.
    fn write_first_entry(&self, id: LedgerId) -> Result<(), InitError> {
        let (dir, segment_bytes_max) = (&self.config.data_dir, self.config.segment_bytes_max);
        let ledger_dir = dir.join(ledger::DIR);
        let (log, opened) =
            LocalLog::open(self.disk.clone(), ledger_dir.clone(), segment_bytes_max, id.0, 0)?;
        log.settle()?;
        if opened.log_id != id.0 {
            let vault = dir.join(vault::DIR);
            return Err(OpenError::Foreign { ledger: ledger_dir, vault }.into());
        }
        if log.head() > 0 {
            return self.check_origin(&ledger_dir);
        }
        let now = Millis::now();
        let opened = LedgerOpened {
            ledger_id: id.0,
            origin: self.origin.clone(),
            format_version: ledger::FORMAT_VERSION,
            created_at: now,
            feature_level: LEVEL,
        };
        let linked = Tip::open(second_and_ms(now).0, opened.message());
        let (_, bytes, _) = linked.map_err(|problem| BackendError::Chain { index: 0, problem })?;
        match log.append(0, &[bytes])? {
            Appended::Landed => Ok(()),
            Appended::Lost { .. } => unreachable!("the directory is locked"),
        }
    }

    /// The ledger that an earlier call has begun has the name that is asked for.
    fn check_origin(&self, ledger_dir: &Path) -> Result<(), InitError> {
        let found = survey::first_entry(&*self.disk, ledger_dir)?.origin;
        if found == self.origin {
            return Ok(());
        }
        let (dir, expected) = (self.config.data_dir.clone(), self.origin.clone());
        Err(OpenError::OtherOrigin { dir, found, expected }.into())
    }
}
