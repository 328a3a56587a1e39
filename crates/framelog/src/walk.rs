//! Reads the frames of one segment, and distinguishes torn from damaged.
//!
//! A crash can leave a *torn tail*: the last batch, not yet acknowledged, of which only parts
//! reached the disk. Every other difference from the written bytes is *damage*. The rules assume this
//! of the medium:
//!
//! * A sector of [`SECTOR_BYTES`] is written whole or not at all, also when it is written again
//!   with more data behind what it held (as the last sector of a growing file is).
//! * Where the file system extended a file without writing the data, it reads as zeros.
//! * What a returned sync covered stays, and a later write does not touch its bytes.
//!
//! So a tail of the last segment is torn if its first frame runs past the end of the file, or if
//! a sector under that frame reads as zeros from the frame on, and if no later batch was begun
//! behind it. A frame that is complete and fails its checks without such a hole is damage, and so
//! is any trouble in a segment that has a successor.
//!
//! These cases can not be distinguished: a last batch that the disk lost after it acknowledged it, cut at
//! the end or zeroed by whole sectors, looks like a torn one; and a payload that rightly holds
//! an aligned sector of zeros looks torn, when a bit elsewhere in it flips and it is in the last
//! batch. A file system that shows old blocks in place of data never written (ext4 with
//! `data=writeback`) leaves garbage after a power cut: that is reported as damage.

use std::{io, ops::ControlFlow, path::PathBuf};

use super::{
    disk::DiskFile,
    error::{Damage, During, LogError},
    frame::{self, Header},
    segment::{HEADER_BYTES, Identity, segment_name},
};

/// The unit that a disk writes whole or not at all.
pub(super) const SECTOR_BYTES: u64 = 512;

/// How much a walk reads at once.
pub(super) const CHUNK_BYTES: usize = 256 * 1024;

/// A part of a file in memory that moves on as it is read.
pub(super) struct Window<'a> {
    file: &'a dyn DiskFile,
    /// Nothing is read from here on.
    end: u64,
    start: u64,
    bytes: Vec<u8>,
    chunk_bytes: usize,
}

impl<'a> Window<'a> {
    pub(super) fn new(file: &'a dyn DiskFile, end: u64, chunk_bytes: usize) -> Self {
        Self { file, end, start: 0, bytes: Vec::new(), chunk_bytes }
    }

    /// How many bytes lie between `offset` and the end, but at most `max`.
    fn left(&self, offset: u64, max: usize) -> usize {
        usize::try_from(self.end.saturating_sub(offset)).map_or(max, |left| left.min(max))
    }

    /// The bytes from `offset` on. The caller knows that they lie before the end.
    pub(super) fn get(&mut self, offset: u64, len: usize) -> io::Result<&[u8]> {
        let inside = offset.checked_sub(self.start).and_then(|skip| usize::try_from(skip).ok());
        if let Some(skip) = inside
            && skip.checked_add(len).is_some_and(|end| end <= self.bytes.len())
        {
            return Ok(&self.bytes[skip..skip + len]);
        }
        let take = self.left(offset, self.chunk_bytes.max(len)).max(len);
        self.start = offset;
        self.bytes.resize(take, 0);
        if let Err(error) = self.file.read_exact_at(&mut self.bytes, offset) {
            self.bytes.clear();
            return Err(error);
        }
        Ok(&self.bytes[..len])
    }
}

/// Which segment is walked, and what its frames are checked against.
#[derive(Debug, Clone)]
pub(super) struct Walked<'a> {
    pub(super) path: PathBuf,
    pub(super) first_index: u64,
    pub(super) identity: &'a Identity,
    pub(super) frame_bytes_max: u32,
}

impl Walked<'_> {
    pub(super) fn damage(&self, offset: u64, index: u64, problem: impl Into<String>) -> LogError {
        let segment = segment_name(self.first_index);
        Damage { segment, offset, index, problem: problem.into() }.into()
    }
}

/// A position between two frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) index: u64,
    pub(super) offset: u64,
    /// Place of the next frame in its batch, if it does not begin one.
    place: u32,
    /// Where the last batch begins; before the first, the segment's header.
    pub(super) batch_offset: u64,
}

impl Cursor {
    /// Before the first frame of a segment.
    pub(super) fn start(first_index: u64) -> Self {
        Self { index: first_index, offset: HEADER_BYTES, place: 0, batch_offset: 0 }
    }

    fn step_over(&mut self, header: &Header) {
        if header.place == 0 {
            self.batch_offset = self.offset;
        }
        self.place = header.place.saturating_add(1);
        self.index += 1;
        self.offset += header.frame_bytes() as u64;
    }
}

/// Why no frame stands where one should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// A crash can have left this, if nothing acknowledged comes after.
    Torn(&'static str),
    /// No crash leaves this.
    Broken(String),
}

impl Trouble {
    pub(super) fn into_text(self) -> String {
        match self {
            Self::Torn(problem) => problem.to_owned(),
            Self::Broken(problem) => problem,
        }
    }
}

const CUT: &str = "the file ends inside a frame";
const HOLE: &str = "a sector under the frame was never written";

/// Reads and checks the header of the frame at `offset`, of which something lies before the end.
pub(super) fn header_at(
    window: &mut Window<'_>,
    walked: &Walked<'_>,
    offset: u64,
    index: u64,
) -> io::Result<Result<Header, Trouble>> {
    if window.left(offset, frame::HEADER_BYTES) < frame::HEADER_BYTES {
        return Ok(Err(Trouble::Torn(CUT)));
    }
    let bytes = window.get(offset, frame::HEADER_BYTES)?;
    let Some(header) = Header::decode(walked.identity, bytes) else {
        if has_hole(window, offset, frame::HEADER_BYTES)? {
            return Ok(Err(Trouble::Torn(HOLE)));
        }
        let problem = "the checksum of the frame header does not match";
        return Ok(Err(Trouble::Broken(problem.to_owned())));
    };
    if header.index != index {
        let problem = format!("the frame that stands here has index {}", header.index);
        return Ok(Err(Trouble::Broken(problem)));
    }
    if header.payload_bytes > walked.frame_bytes_max {
        let (bytes, limit) = (header.payload_bytes, walked.frame_bytes_max);
        let problem = format!("the frame has {bytes} bytes, more than the limit of {limit}");
        return Ok(Err(Trouble::Broken(problem)));
    }
    if window.left(offset, header.frame_bytes()) < header.frame_bytes() {
        return Ok(Err(Trouble::Torn(CUT)));
    }
    Ok(Ok(header))
}

/// Reads and checks the payload under a header that [`header_at`] accepted.
pub(super) fn payload_at<'w>(
    window: &'w mut Window<'_>,
    walked: &Walked<'_>,
    offset: u64,
    header: &Header,
) -> io::Result<Result<&'w [u8], Trouble>> {
    let frame = window.get(offset, header.frame_bytes())?;
    if let Err(problem) = header.payload(walked.identity, frame) {
        let torn = has_hole(window, offset, header.frame_bytes())?;
        let trouble = if torn { Trouble::Torn(HOLE) } else { Trouble::Broken(problem.to_owned()) };
        return Ok(Err(trouble));
    }
    let frame = window.get(offset, header.frame_bytes())?;
    Ok(Ok(&frame[frame::HEADER_BYTES..frame.len() - 1]))
}

/// Whether some sector under these bytes reads as zeros from `offset` on, to its own end or the
/// file's. The bytes before `offset` in its sector are durable and say nothing.
fn has_hole(window: &mut Window<'_>, offset: u64, len: usize) -> io::Result<bool> {
    let end = offset + len as u64;
    let mut sector = offset - offset % SECTOR_BYTES;
    while sector < end {
        let start = sector.max(offset);
        let stop = (sector + SECTOR_BYTES).min(window.end);
        // At most one sector, so it fits.
        let bytes = window.left(start, usize::try_from(stop - start).unwrap_or(usize::MAX));
        if window.get(start, bytes)?.iter().all(|&byte| byte == 0) {
            return Ok(true);
        }
        sector += SECTOR_BYTES;
    }
    Ok(false)
}

/// Where a frame proves that frame `index` was durable once: it is that frame itself, in another
/// place, or its batch began later.
fn find_later_batch(
    window: &mut Window<'_>,
    identity: &Identity,
    after: u64,
    index: u64,
) -> io::Result<Option<u64>> {
    let mut at = after;
    loop {
        let len = window.left(at, CHUNK_BYTES);
        if len < frame::HEADER_BYTES {
            return Ok(None);
        }
        let bytes = window.get(at, len)?;
        for skip in 0..=len - frame::HEADER_BYTES {
            if bytes[skip] != frame::MARK {
                continue;
            }
            let proves = |header: Header| header.index == index || header.batch_start() > index;
            if Header::decode(identity, &bytes[skip..]).is_some_and(proves) {
                return Ok(Some(at + skip as u64));
            }
        }
        at += (len - frame::HEADER_BYTES + 1) as u64;
    }
}

/// The arguments for each frame: its offset, its index, its payload.
pub(super) type Visit<'v> = dyn FnMut(u64, u64, &[u8]) -> ControlFlow<String> + 'v;

/// Walks from `cursor` to `end`, and leaves the cursor behind the last frame that is whole.
/// Returns why the rest is torn, if it is.
///
/// # Errors
/// Damage, trouble that the visitor finds, or the disk's.
pub(super) fn walk(
    file: &dyn DiskFile,
    walked: &Walked<'_>,
    cursor: &mut Cursor,
    end: u64,
    visit: &mut Visit<'_>,
) -> Result<Option<&'static str>, LogError> {
    let mut window = Window::new(file, end, CHUNK_BYTES);
    while cursor.offset < end {
        let (offset, index) = (cursor.offset, cursor.index);
        match step(&mut window, walked, cursor, visit).during("read", &walked.path)? {
            Ok(()) => {}
            Err(Trouble::Broken(problem)) => return Err(walked.damage(offset, index, problem)),
            Err(Trouble::Torn(problem)) => {
                let later = find_later_batch(&mut window, walked.identity, offset + 1, index)
                    .during("read", &walked.path)?;
                return match later {
                    None => Ok(Some(problem)),
                    Some(at) => {
                        let problem =
                            format!("{problem}, and a frame written later stands at byte {at}");
                        Err(walked.damage(offset, index, problem))
                    }
                };
            }
        }
    }
    Ok(None)
}

fn step(
    window: &mut Window<'_>,
    walked: &Walked<'_>,
    cursor: &mut Cursor,
    visit: &mut Visit<'_>,
) -> io::Result<Result<(), Trouble>> {
    let (offset, index) = (cursor.offset, cursor.index);
    let header = match header_at(window, walked, offset, index)? {
        Ok(header) => header,
        Err(trouble) => return Ok(Err(trouble)),
    };
    if header.place != 0 && header.place != cursor.place {
        let problem = "the frame does not continue the batch of the one before";
        return Ok(Err(Trouble::Broken(problem.to_owned())));
    }
    let payload = match payload_at(window, walked, offset, &header)? {
        Ok(payload) => payload,
        Err(trouble) => return Ok(Err(trouble)),
    };
    if let ControlFlow::Break(problem) = visit(offset, index, payload) {
        return Ok(Err(Trouble::Broken(problem)));
    }
    cursor.step_over(&header);
    Ok(Ok(()))
}
