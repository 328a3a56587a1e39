//! Reads durable frames while the writer appends.

use std::{io, sync::Arc};

use parking_lot::{Mutex, RwLock};

use super::{
    disk::{Disk, DiskFile},
    error::{During, LogError},
    log::LogSpec,
    segment::{FrameIndex, HEADER_BYTES, Identity, IndexOf, index_name, segment_name},
    walk::{CHUNK_BYTES, Trouble, Walked, Window, header_at, payload_at},
};

/// Maximum number of open full segments, with their index in memory.
const SEALED_OPEN_MAX: usize = 16;
/// Maximum size of a read, unless a single frame is larger.
const READ_BYTES_MAX: usize = 1024 * 1024;
/// Maximum size of an index file; a larger one is ignored.
const INDEX_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Shared by the writer and its readers.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) spec: LogSpec,
    pub(super) identity: Identity,
    pub(super) first_index_of_last_segment: u64,
    pub(super) state: RwLock<State>,
    pub(super) open: Mutex<Vec<Arc<Sealed>>>,
}

/// The durable part of the log. Changes only after a sync returned.
#[derive(Debug)]
pub(super) struct State {
    /// Full segments, oldest first.
    pub(super) sealed: Vec<SealedMeta>,
    pub(super) sealed_bytes: u64,
    pub(super) active: Active,
    pub(super) next_index: u64,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct SealedMeta {
    pub(super) first_index: u64,
    pub(super) bytes: u64,
}

/// The segment that is appended to.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) first_index: u64,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) index: FrameIndex,
    pub(super) bytes: u64,
}

/// A full segment, open.
#[derive(Debug)]
pub(super) struct Sealed {
    pub(super) first_index: u64,
    pub(super) bytes: u64,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) index: FrameIndex,
    /// The index was read from its own file, so it may be wrong.
    pub(super) from_file: bool,
}

/// Frames to be read from one segment.
struct Part {
    file: Arc<dyn DiskFile>,
    first_index: u64,
    /// The index after the last frame.
    end_index: u64,
    /// A frame at or before the first one wanted.
    from: (u64, u64),
    /// A frame behind the last one wanted begins here, or the segment ends.
    stop_offset: u64,
    bytes: u64,
    from_file: bool,
}

/// Reads frames that are durable, from any thread.
#[derive(Debug, Clone)]
pub struct LogReader {
    pub(super) shared: Arc<Shared>,
}

impl LogReader {
    /// Number of durable frames.
    #[must_use]
    pub fn next_index(&self) -> u64 {
        self.shared.state.read().next_index
    }

    /// Size of all segments in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        let state = self.shared.state.read();
        state.sealed_bytes + state.active.bytes
    }

    /// Where the last segment began when the log was opened: from here on, every frame was
    /// verified then.
    #[must_use]
    pub fn first_index_of_last_segment(&self) -> u64 {
        self.shared.first_index_of_last_segment
    }

    /// Reads one frame and checks it.
    ///
    /// # Errors
    /// [`LogError::OutOfRange`], damage, or the disk's.
    pub fn read(&self, index: u64) -> Result<Vec<u8>, LogError> {
        let out_of_range = || LogError::OutOfRange { index, next_index: self.next_index() };
        let end = index.checked_add(1).ok_or_else(out_of_range)?;
        self.read_range(index, end, 0)?.pop().ok_or_else(out_of_range)
    }

    /// Reads frames from `start` to before `end`, in order: as many as have `bytes_max` bytes
    /// together, and at least one if `start < end`.
    ///
    /// # Errors
    /// [`LogError::OutOfRange`] if `end` is beyond the last durable frame, damage, or the disk's.
    pub fn read_range(
        &self,
        start: u64,
        end: u64,
        bytes_max: usize,
    ) -> Result<Vec<Vec<u8>>, LogError> {
        let next_index = self.next_index();
        if start < end && end > next_index {
            return Err(LogError::OutOfRange { index: start.max(next_index), next_index });
        }
        let mut frames = Frames { frames: Vec::new(), bytes: 0, bytes_max, full: false };
        let mut index = start;
        while index < end && !frames.full {
            index = self.read_part(index, end, &mut frames)?;
        }
        Ok(frames.frames)
    }

    /// Reads the part of a range in one segment. Returns the next index to read.
    fn read_part(&self, start: u64, end: u64, frames: &mut Frames) -> Result<u64, LogError> {
        let part = self.part(start, end, false)?;
        let (kept, bytes) = (frames.frames.len(), frames.bytes);
        match self.read_from(&part, start, frames) {
            // The damage may be in the index file and not in the segment.
            Err(LogError::Damaged(_)) if part.from_file => {
                frames.frames.truncate(kept);
                (frames.bytes, frames.full) = (bytes, false);
                self.read_from(&self.part(start, end, true)?, start, frames)
            }
            other => other,
        }
    }

    fn read_from(&self, part: &Part, start: u64, frames: &mut Frames) -> Result<u64, LogError> {
        let walked = self.shared.walked(part.first_index);
        let (mut index, mut offset) = part.from;
        let span = usize::try_from(part.stop_offset.saturating_sub(offset)).unwrap_or(usize::MAX);
        let useful = frames.bytes_max.saturating_add(CHUNK_BYTES / 4).min(READ_BYTES_MAX);
        let mut window = Window::new(&*part.file, part.bytes, span.min(useful));
        while index < part.end_index {
            let header = header_at(&mut window, &walked, offset, index)
                .during("read", &walked.path)?
                .map_err(|trouble| walked.damage(offset, index, trouble.into_text()))?;
            if index >= start {
                if !frames.has_room(header.payload_bytes as usize) {
                    return Ok(index);
                }
                let payload = payload_at(&mut window, &walked, offset, &header)
                    .during("read", &walked.path)?
                    .map_err(|trouble| walked.damage(offset, index, trouble.into_text()))?;
                frames.push(payload);
            }
            index += 1;
            offset += header.frame_bytes() as u64;
        }
        Ok(index)
    }

    /// Finds the segment that holds `start`.
    fn part(&self, start: u64, end: u64, rebuild: bool) -> Result<Part, LogError> {
        let (meta, sealed_end) = {
            let state = self.shared.state.read();
            let active = &state.active;
            if start >= active.first_index {
                let end_index = end.min(state.next_index);
                return Ok(Part {
                    file: Arc::clone(&active.file),
                    first_index: active.first_index,
                    end_index,
                    from: active.index.at_or_before(start).unwrap_or((start, active.bytes)),
                    stop_offset: active.index.at_or_after(end_index).unwrap_or(active.bytes),
                    bytes: active.bytes,
                    from_file: false,
                });
            }
            // The first segment begins at 0, so there is one before.
            let next = state.sealed.partition_point(|meta| meta.first_index <= start);
            let sealed_end = state.sealed.get(next).map_or(active.first_index, |m| m.first_index);
            (state.sealed[next - 1], sealed_end)
        };
        let sealed = self.shared.sealed(meta, sealed_end, rebuild)?;
        let end_index = end.min(sealed_end);
        Ok(Part {
            file: Arc::clone(&sealed.file),
            first_index: meta.first_index,
            end_index,
            from: sealed.index.at_or_before(start).unwrap_or((meta.first_index, HEADER_BYTES)),
            stop_offset: sealed.index.at_or_after(end_index).unwrap_or(sealed.bytes),
            bytes: sealed.bytes,
            from_file: sealed.from_file,
        })
    }
}

/// The frames of a read so far.
struct Frames {
    frames: Vec<Vec<u8>>,
    bytes: usize,
    bytes_max: usize,
    full: bool,
}

impl Frames {
    fn has_room(&mut self, bytes: usize) -> bool {
        let together = self.bytes.saturating_add(bytes);
        self.full = !self.frames.is_empty() && together > self.bytes_max;
        !self.full
    }

    fn push(&mut self, payload: &[u8]) {
        self.bytes = self.bytes.saturating_add(payload.len());
        self.frames.push(payload.to_vec());
    }
}

impl Shared {
    pub(super) fn walked(&self, first_index: u64) -> Walked<'_> {
        Walked {
            path: self.spec.dir.join(segment_name(first_index)),
            first_index,
            identity: &self.identity,
            frame_bytes_max: self.spec.frame_bytes_max,
        }
    }

    /// A full segment, from those that are open or newly opened.
    fn sealed(
        &self,
        meta: SealedMeta,
        end_index: u64,
        rebuild: bool,
    ) -> Result<Arc<Sealed>, LogError> {
        if !rebuild {
            let mut open = self.open.lock();
            if let Some(at) = open.iter().position(|one| one.first_index == meta.first_index) {
                let sealed = open.remove(at);
                open.push(Arc::clone(&sealed));
                return Ok(sealed);
            }
        }
        // Without the lock, so that other reads continue; opening a segment twice is harmless.
        let sealed = Arc::new(self.open_sealed(meta, end_index, rebuild)?);
        self.keep_open(Arc::clone(&sealed));
        Ok(sealed)
    }

    /// Keeps a segment open in place of the least recently used one.
    pub(super) fn keep_open(&self, sealed: Arc<Sealed>) {
        let mut open = self.open.lock();
        open.retain(|one| one.first_index != sealed.first_index);
        if open.len() >= SEALED_OPEN_MAX {
            open.remove(0);
        }
        open.push(sealed);
    }

    fn open_sealed(
        &self,
        meta: SealedMeta,
        end_index: u64,
        rebuild: bool,
    ) -> Result<Sealed, LogError> {
        let first_index = meta.first_index;
        let path = self.spec.dir.join(segment_name(first_index));
        let file: Arc<dyn DiskFile> = self.disk.open_read(&path).during("open", &path)?.into();
        let known = if rebuild { None } else { self.read_index(meta, end_index) };
        let from_file = known.is_some();
        let index = match known {
            Some(index) => index,
            None => self.rebuild_index(&*file, meta, end_index).during("read", &path)?,
        };
        // Missing bytes at the end of the file are found when a frame there is read.
        let bytes = meta.bytes.min(file.len().during("read", &path)?);
        Ok(Sealed { first_index, bytes, file, index, from_file })
    }

    fn read_index(&self, meta: SealedMeta, end_index: u64) -> Option<FrameIndex> {
        let path = self.spec.dir.join(index_name(meta.first_index));
        let file = self.disk.open_read(&path).ok()?;
        let len = file.len().ok().filter(|&len| len <= INDEX_BYTES_MAX)?;
        let mut bytes = vec![0; usize::try_from(len).ok()?];
        file.read_exact_at(&mut bytes, 0).ok()?;
        FrameIndex::decode(&bytes, self.index_of(meta, end_index))
    }

    /// Finds the frames of a segment by their headers, as far as these are intact.
    fn rebuild_index(
        &self,
        file: &dyn DiskFile,
        meta: SealedMeta,
        end_index: u64,
    ) -> io::Result<FrameIndex> {
        let walked = self.walked(meta.first_index);
        let bytes = meta.bytes.min(file.len()?);
        let mut window = Window::new(file, bytes, CHUNK_BYTES);
        let mut index = FrameIndex::default();
        let (mut at, mut offset) = (meta.first_index, HEADER_BYTES);
        while at < end_index && offset < bytes {
            let header: Result<_, Trouble> = header_at(&mut window, &walked, offset, at)?;
            let Ok(header) = header else { return Ok(index) };
            index.note(at, offset);
            at += 1;
            offset += header.frame_bytes() as u64;
        }
        if at == end_index && offset == meta.bytes {
            self.write_index(&index, meta, end_index);
        }
        Ok(index)
    }

    /// Writes the index beside a segment. It may fail: then it is rebuilt when it is needed.
    pub(super) fn write_index(&self, index: &FrameIndex, meta: SealedMeta, end_index: u64) {
        let path = self.spec.dir.join(index_name(meta.first_index));
        let _ = self.disk.remove(&path);
        let bytes = index.encode(self.index_of(meta, end_index));
        let written = self.disk.create(&path).and_then(|file| file.write_all_at(&bytes, 0));
        if let Err(error) = written {
            tracing::warn!(path = %path.display(), %error, "cannot write the index of a segment");
        }
    }

    fn index_of(&self, meta: SealedMeta, end_index: u64) -> IndexOf<'_> {
        IndexOf {
            identity: &self.identity,
            first_index: meta.first_index,
            end_index,
            segment_bytes: meta.bytes,
        }
    }
}
