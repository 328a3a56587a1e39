//! The one writer of a log: opening with recovery, and appending.

use std::{
    io,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::{Mutex, RwLock};

use super::{
    disk::{Disk, DiskFile},
    error::{Damage, During, LogError, TornTail},
    frame,
    reader::{Active, LogReader, Sealed, SealedMeta, Shared, State},
    scan::{Before, Expected, check_sealed, list_segments},
    segment::{FrameIndex, HEADER_BYTES, Identity, SegmentHeader, segment_name},
    walk::{CHUNK_BYTES, Cursor, Walked, walk},
};

/// Size above which the buffer of a large batch is freed.
const BUFFER_KEPT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Settings of a log.
#[derive(Debug, Clone)]
pub struct LogSpec {
    /// Directory of the segments, for this log alone.
    pub dir: PathBuf,
    /// What the frames are, for example `LEDG`.
    pub kind: [u8; 4],
    /// The greatest size of a segment, in bytes. A frame that is larger has one for itself.
    pub segment_bytes_max: u64,
    /// The greatest size of a frame's payload, in bytes.
    pub frame_bytes_max: u32,
    /// Number of frames that the caller knows to have been durable. If the log ends before them, it is
    /// damaged and not torn.
    pub frames_min: u64,
}

/// The writer of a log. The caller ensures that there is only one.
#[derive(Debug)]
pub struct FrameLog {
    shared: Arc<Shared>,
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    /// First index of the segment that is appended to.
    first_index: u64,
    /// Its size.
    bytes: u64,
    next_index: u64,
    poisoned: bool,
    /// What a crash left behind the whole frames, until [`Self::settle`] sets it aside.
    torn: Option<Torn>,
    /// The batch, as it is written.
    buffer: Vec<u8>,
    /// Index and offset of each frame of the batch.
    begins: Vec<(u64, u64)>,
}

impl FrameLog {
    /// Opens the log as [`Self::look`], and sets a torn tail aside and reports it.
    ///
    /// # Errors
    /// Damage, a log of another kind, or an error of the disk. The files are unchanged, unless the disk
    /// failed after they were verified.
    pub fn open(
        disk: Arc<dyn Disk>,
        spec: LogSpec,
        new_id: [u8; 16],
    ) -> Result<(Self, Option<TornTail>), LogError> {
        let mut log = Self::look(disk, spec, new_id)?;
        let torn = log.settle()?;
        Ok((log, torn))
    }

    /// Opens the log, or creates it with `new_id` if the directory has no segment. Leaves a torn tail
    /// where it is, so that a caller that refuses the log has changed nothing. Before anything is
    /// appended, [`Self::settle`] must be called.
    ///
    /// Reads the last segment in full and only the headers of the others, so the cost does not
    /// grow with the log. What it found whole is durable when it returns, also if it was never
    /// acknowledged.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn look(disk: Arc<dyn Disk>, spec: LogSpec, new_id: [u8; 16]) -> Result<Self, LogError> {
        let dir = &spec.dir;
        disk.create_dir_all(dir).during("create", dir)?;
        let mut firsts = list_segments(&*disk, dir)?;
        let Some(last) = firsts.pop() else {
            check_not_cut(&spec, 0, 0, 0)?;
            let identity = Identity::new(spec.kind, new_id);
            let tail = create_segment(&*disk, &spec, &identity, 0, Before::NONE)?;
            return Ok(Self::new(disk, spec, identity, Vec::new(), tail, None));
        };
        let (sealed, identity) = read_headers(&*disk, &spec, &firsts)?;
        let before = sealed.last().map_or(Before::NONE, |&SealedMeta { first_index, bytes }| {
            Before { first_index, bytes }
        });
        let kind = spec.kind;
        let expected =
            Expected { dir, kind, identity: identity.as_ref(), first_index: last, before };
        let found = expected.open(&*disk)?;
        if let Some(header) = found.header {
            let identity = header.identity;
            let (tail, torn) =
                recover_segment(&*disk, &spec, &identity, last, &*found.file, found.bytes)?;
            return Ok(Self::new(disk, spec, identity, sealed, tail, torn));
        }
        check_not_cut(&spec, last, 0, last)?;
        if let Some(identity) = &identity {
            check_end(&*disk, &spec, identity, before.first_index, last)?;
        }
        let identity = identity.unwrap_or_else(|| Identity::new(kind, new_id));
        let path = dir.join(segment_name(last));
        let file = disk.open_write(&path).during("open", &path)?.into();
        let index = FrameIndex::default();
        let tail = Tail { file, first_index: last, next_index: last, bytes: 0, index };
        let torn = Torn::Unborn { bytes: found.bytes, before };
        Ok(Self::new(disk, spec, identity, sealed, tail, Some(torn)))
    }

    /// Sets a torn tail aside, durably, and reports it. Without one, changes nothing.
    ///
    /// # Errors
    /// An error of the disk.
    pub fn settle(&mut self) -> Result<Option<TornTail>, LogError> {
        let Some(torn) = self.torn.take() else { return Ok(None) };
        let shared = Arc::clone(&self.shared);
        let (disk, spec) = (&*shared.disk, &shared.spec);
        match torn {
            Torn::Frame { end } => {
                let (file, path) = (&*self.file, &self.path);
                set_rest_aside(disk, spec, file, path, self.tail_at(), end).map(Some)
            }
            Torn::Unborn { bytes, before } => {
                let aside = set_unborn_aside(disk, spec, self.first_index, bytes)?;
                let tail = create_segment(disk, spec, &shared.identity, self.first_index, before)?;
                let mut state = shared.state.write();
                state.active.file = Arc::clone(&tail.file);
                state.active.bytes = tail.bytes;
                drop(state);
                (self.file, self.bytes) = (tail.file, tail.bytes);
                Ok(Some(aside))
            }
        }
    }

    /// Where the whole frames end.
    fn tail_at(&self) -> TailAt {
        TailAt { first_index: self.first_index, offset: self.bytes, next_index: self.next_index }
    }

    fn new(
        disk: Arc<dyn Disk>,
        spec: LogSpec,
        identity: Identity,
        sealed: Vec<SealedMeta>,
        tail: Tail,
        torn: Option<Torn>,
    ) -> Self {
        let Tail { file, first_index, next_index, bytes, index } = tail;
        let path = spec.dir.join(segment_name(first_index));
        let active = Active { first_index, file: Arc::clone(&file), index, bytes };
        let sealed_bytes = sealed.iter().map(|meta| meta.bytes).sum();
        let state = State { sealed, sealed_bytes, active, next_index };
        let shared = Arc::new(Shared {
            disk,
            spec,
            identity,
            first_index_of_last_segment: first_index,
            state: RwLock::new(state),
            open: Mutex::default(),
        });
        Self {
            shared,
            file,
            path,
            first_index,
            bytes,
            next_index,
            poisoned: false,
            torn,
            buffer: Vec::new(),
            begins: Vec::new(),
        }
    }

    /// The log's id.
    #[must_use]
    pub fn id(&self) -> [u8; 16] {
        self.shared.identity.id
    }

    /// Number of durable frames, and so the index of the next.
    #[must_use]
    pub fn next_index(&self) -> u64 {
        self.next_index
    }

    /// A reader of the durable frames.
    #[must_use]
    pub fn reader(&self) -> LogReader {
        LogReader { shared: Arc::clone(&self.shared) }
    }

    /// Appends frames, durable once it returns: one write and one sync, or one of each for every
    /// segment that the frames spread over.
    ///
    /// # Errors
    /// [`LogError::EmptyFrame`] and [`LogError::FrameTooLarge`] before anything is written. The
    /// first failed write or sync poisons the log: this call and all later ones fail, and nothing
    /// is tried again on the file. Of the frames of a failed call, none or the first few may
    /// still be there when the log is opened again.
    pub fn append<F: AsRef<[u8]>>(&mut self, frames: &[F]) -> Result<(), LogError> {
        if self.poisoned {
            return Err(LogError::Poisoned);
        }
        debug_assert!(self.torn.is_none(), "a torn tail is set aside before the first append");
        for frame in frames {
            self.payload_bytes(frame.as_ref())?;
        }
        let mut rest = frames;
        while !rest.is_empty() {
            let taken = self.fill(rest)?;
            let done = if taken == 0 { self.rotate() } else { self.commit() };
            if let Err(error) = done {
                self.poisoned = true;
                return Err(error);
            }
            rest = &rest[taken..];
        }
        Ok(())
    }

    fn payload_bytes(&self, payload: &[u8]) -> Result<u32, LogError> {
        let (bytes, limit) = (payload.len(), self.shared.spec.frame_bytes_max);
        match u32::try_from(bytes) {
            Ok(0) => Err(LogError::EmptyFrame),
            Ok(fits) if fits <= limit => Ok(fits),
            _ => Err(LogError::FrameTooLarge { bytes, limit }),
        }
    }

    /// Encodes the frames that still fit into the segment, and returns their number. An empty segment
    /// takes at least one.
    fn fill<F: AsRef<[u8]>>(&mut self, frames: &[F]) -> Result<usize, LogError> {
        self.buffer.clear();
        self.begins.clear();
        for (place, payload) in (0..u32::MAX).zip(frames.iter().map(AsRef::as_ref)) {
            let payload_bytes = self.payload_bytes(payload)?;
            let index = self.next_index + u64::from(place);
            let offset = self.bytes + self.buffer.len() as u64;
            let end = offset + (payload.len() + frame::OVERHEAD_BYTES) as u64;
            if end > self.shared.spec.segment_bytes_max && offset > HEADER_BYTES {
                break;
            }
            let identity = &self.shared.identity;
            frame::encode(&mut self.buffer, identity, index, place, payload_bytes, payload);
            self.begins.push((index, offset));
        }
        Ok(self.begins.len())
    }

    /// Writes and syncs the encoded frames, then publishes them to readers.
    fn commit(&mut self) -> Result<(), LogError> {
        self.file.write_all_at(&self.buffer, self.bytes).during("write", &self.path)?;
        self.file.sync_data().during("sync", &self.path)?;
        self.bytes += self.buffer.len() as u64;
        self.next_index += self.begins.len() as u64;
        let mut state = self.shared.state.write();
        for &(index, offset) in &self.begins {
            state.active.index.note(index, offset);
        }
        state.active.bytes = self.bytes;
        state.next_index = self.next_index;
        drop(state);
        if self.buffer.capacity() > BUFFER_KEPT_BYTES_MAX {
            self.buffer = Vec::new();
        }
        Ok(())
    }

    /// Continues in a new segment. The old one is already synced by its last commit.
    fn rotate(&mut self) -> Result<(), LogError> {
        let shared = Arc::clone(&self.shared);
        let before = Before { first_index: self.first_index, bytes: self.bytes };
        let tail =
            create_segment(&*shared.disk, &shared.spec, &shared.identity, self.next_index, before)?;
        let meta = SealedMeta { first_index: self.first_index, bytes: self.bytes };
        let end_index = self.next_index;
        let active = Active {
            first_index: end_index,
            file: Arc::clone(&tail.file),
            index: tail.index,
            bytes: tail.bytes,
        };
        let mut state = shared.state.write();
        state.sealed.push(meta);
        state.sealed_bytes += meta.bytes;
        let old = std::mem::replace(&mut state.active, active);
        drop(state);
        shared.write_index(&old.index, meta, end_index);
        shared.keep_open(Arc::new(Sealed {
            first_index: old.first_index,
            bytes: old.bytes,
            file: old.file,
            index: old.index,
            from_file: false,
        }));
        self.path = shared.spec.dir.join(segment_name(end_index));
        (self.file, self.first_index, self.bytes) = (tail.file, end_index, tail.bytes);
        Ok(())
    }
}

/// What stands behind the whole frames of the last segment.
#[derive(Debug)]
enum Torn {
    /// A part of a batch, up to this size of the file.
    Frame { end: u64 },
    /// The segment has no header yet, only so many bytes.
    Unborn { bytes: u64, before: Before },
}

/// The end of the whole frames: segment, offset in it, and index of the next frame.
#[derive(Debug, Clone, Copy)]
struct TailAt {
    first_index: u64,
    offset: u64,
    next_index: u64,
}

/// The segment to append to, verified and durable.
struct Tail {
    file: Arc<dyn DiskFile>,
    first_index: u64,
    next_index: u64,
    bytes: u64,
    index: FrameIndex,
}

/// Checks the headers of all segments but the last, and that no segment is missing.
fn read_headers(
    disk: &dyn Disk,
    spec: &LogSpec,
    firsts: &[u64],
) -> Result<(Vec<SealedMeta>, Option<Identity>), LogError> {
    let (mut sealed, mut identity, mut before) = (Vec::new(), None, Before::NONE);
    for &first_index in firsts {
        let (dir, kind) = (&spec.dir, spec.kind);
        let expected = Expected { dir, kind, identity: identity.as_ref(), first_index, before };
        let found = expected.open(disk)?;
        let Some(header) = found.header else { return Err(expected.without_header()) };
        sealed.push(SealedMeta { first_index, bytes: found.bytes });
        before = Before { first_index, bytes: found.bytes };
        identity = Some(header.identity);
    }
    Ok((sealed, identity))
}

/// Creates a segment whose header and name are durable.
fn create_segment(
    disk: &dyn Disk,
    spec: &LogSpec,
    identity: &Identity,
    first_index: u64,
    before: Before,
) -> Result<Tail, LogError> {
    let path = spec.dir.join(segment_name(first_index));
    let header = SegmentHeader {
        identity: identity.clone(),
        first_index,
        before_first_index: before.first_index,
        before_bytes: before.bytes,
    };
    let file = disk.create(&path).during("create", &path)?;
    file.write_all_at(&header.encode(), 0).during("write", &path)?;
    file.sync_data().during("sync", &path)?;
    disk.sync_dir(&spec.dir).during("sync", &spec.dir)?;
    Ok(Tail {
        file: file.into(),
        first_index,
        next_index: first_index,
        bytes: HEADER_BYTES,
        index: FrameIndex::default(),
    })
}

/// Verifies the last segment, and makes its whole frames durable.
fn recover_segment(
    disk: &dyn Disk,
    spec: &LogSpec,
    identity: &Identity,
    first_index: u64,
    file: &dyn DiskFile,
    bytes: u64,
) -> Result<(Tail, Option<Torn>), LogError> {
    let walked = walked(spec, identity, first_index);
    let path = &walked.path;
    let mut index = FrameIndex::default();
    let mut cursor = Cursor::start(first_index);
    let torn = walk(file, &walked, &mut cursor, bytes, &mut |offset, at, _| {
        index.note(at, offset);
        ControlFlow::Continue(())
    })?;
    check_not_cut(spec, first_index, cursor.offset, cursor.index)?;
    let file = disk.open_write(path).during("open", path)?;
    write_again(&*file, cursor.batch_offset..cursor.offset).during("write", path)?;
    file.sync_data().during("sync", path)?;
    disk.sync_dir(&spec.dir).during("sync", &spec.dir)?;
    let (next_index, offset) = (cursor.index, cursor.offset);
    let torn = torn.map(|_| Torn::Frame { end: bytes });
    Ok((Tail { file: file.into(), first_index, next_index, bytes: offset, index }, torn))
}

/// Moves what follows the whole frames out of the segment.
fn set_rest_aside(
    disk: &dyn Disk,
    spec: &LogSpec,
    file: &dyn DiskFile,
    path: &Path,
    at: TailAt,
    end: u64,
) -> Result<TornTail, LogError> {
    let TailAt { first_index, offset, next_index } = at;
    let segment = segment_name(first_index);
    let aside = free_name(disk, spec, &segment, offset)?;
    keep_aside(disk, file, offset..end, &aside).during("write", &aside)?;
    disk.sync_dir(&spec.dir).during("sync", &spec.dir)?;
    file.set_len(offset).during("cut", path)?;
    file.sync_data().during("sync", path)?;
    let bytes = end - offset;
    Ok(TornTail { segment, offset, bytes, next_index, set_aside: Some(aside) })
}

/// Refuses a log that ends before the known durable frames, before anything is changed.
fn check_not_cut(
    spec: &LogSpec,
    first_index: u64,
    offset: u64,
    next_index: u64,
) -> Result<(), LogError> {
    if next_index >= spec.frames_min {
        return Ok(());
    }
    let problem = format!(
        "the log ends here, before index {next_index}, but {} frames were durable: some were lost",
        spec.frames_min
    );
    let segment = segment_name(first_index);
    Err(Damage { segment, offset, index: next_index, problem }.into())
}

/// Writes the content of a file again. After a failed sync, a system may show data that never reached
/// the disk and count it as clean, so that the next sync does not write it. Only the last batch (or the
/// header) can be such data.
fn write_again(file: &dyn DiskFile, range: std::ops::Range<u64>) -> io::Result<()> {
    each_chunk(file, range, &mut |bytes, offset| file.write_all_at(bytes, offset))
}

/// Copies a part of a segment to a new file, durably but for the file's name.
fn keep_aside(
    disk: &dyn Disk,
    file: &dyn DiskFile,
    range: std::ops::Range<u64>,
    aside: &Path,
) -> io::Result<()> {
    let copy = disk.create(aside)?;
    let start = range.start;
    each_chunk(file, range, &mut |bytes, offset| copy.write_all_at(bytes, offset - start))?;
    copy.sync_data()
}

fn each_chunk(
    file: &dyn DiskFile,
    range: std::ops::Range<u64>,
    take: &mut dyn FnMut(&[u8], u64) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut offset = range.start;
    while offset < range.end {
        let left = usize::try_from(range.end - offset).unwrap_or(usize::MAX);
        let bytes = &mut buffer[..left.min(CHUNK_BYTES)];
        file.read_exact_at(bytes, offset)?;
        take(bytes, offset)?;
        offset += bytes.len() as u64;
    }
    Ok(())
}

/// A segment without a header is the result of a crash at rotation only if the one before it ends where
/// it begins.
fn check_end(
    disk: &dyn Disk,
    spec: &LogSpec,
    identity: &Identity,
    first_index: u64,
    next: u64,
) -> Result<(), LogError> {
    let walked = walked(spec, identity, first_index);
    let file = disk.open_read(&walked.path).during("open", &walked.path)?;
    let bytes = file.len().during("read", &walked.path)?;
    let mut cursor = Cursor::start(first_index);
    let torn = walk(&*file, &walked, &mut cursor, bytes, &mut |_, _, _| ControlFlow::Continue(()))?;
    check_sealed(&walked, &cursor, torn, next)
}

/// Moves a segment without header out of the way.
fn set_unborn_aside(
    disk: &dyn Disk,
    spec: &LogSpec,
    first_index: u64,
    bytes: u64,
) -> Result<TornTail, LogError> {
    let segment = segment_name(first_index);
    let aside = free_name(disk, spec, &segment, 0)?;
    let path = spec.dir.join(&segment);
    disk.rename(&path, &aside).during("rename", &path)?;
    disk.sync_dir(&spec.dir).during("sync", &spec.dir)?;
    Ok(TornTail { segment, offset: 0, bytes, next_index: first_index, set_aside: Some(aside) })
}

/// A path for a tail that does not overwrite an earlier one.
fn free_name(
    disk: &dyn Disk,
    spec: &LogSpec,
    segment: &str,
    offset: u64,
) -> Result<PathBuf, LogError> {
    let taken = disk.list(&spec.dir).during("list", &spec.dir)?;
    let mut name = format!("{segment}.{offset}.torn");
    let mut nth = 1;
    while taken.contains(&name) {
        name = format!("{segment}.{offset}.{nth}.torn");
        nth += 1;
    }
    Ok(spec.dir.join(name))
}

fn walked<'a>(spec: &LogSpec, identity: &'a Identity, first_index: u64) -> Walked<'a> {
    Walked {
        path: spec.dir.join(segment_name(first_index)),
        first_index,
        identity,
        frame_bytes_max: spec.frame_bytes_max,
    }
}
