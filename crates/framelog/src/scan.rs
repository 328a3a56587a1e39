//! Reads a log without a lock and without changes, also while a writer runs.

use std::{io, ops::ControlFlow, path::Path, thread, time::Duration};

use super::{
    disk::{Disk, DiskFile},
    error::{Damage, During, LogError, TornTail},
    segment::{
        HEADER_BYTES, HEADER_LEN, HeaderError, Identity, SegmentHeader, parse_segment_name,
        segment_name,
    },
    walk::{Cursor, Walked, walk},
};

/// A torn tail may be a batch that a running writer is writing. So the file is read again this many
/// times, with this pause, before the tail is reported as torn.
const LOOK_AGAIN_MAX: u32 = 5;
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(4);

/// One frame, and where it stands.
#[derive(Debug, Clone, Copy)]
pub struct FrameAt<'a> {
    /// Name of the segment file.
    pub segment: &'a str,
    /// Where the frame begins, in bytes from the start of the file.
    pub offset: u64,
    /// Index of the frame.
    pub index: u64,
    /// The payload.
    pub payload: &'a [u8],
}

/// The end of a scan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanEnd {
    /// The log's id; zeros if a crash came before the first segment had one.
    pub id: [u8; 16],
    /// Index of the next frame, which is the number of frames in the log.
    pub frames: u64,
    /// Size of the segments walked, without a torn tail.
    pub bytes: u64,
    /// The torn tail after the last frame. With a running writer, it may also be a batch that is being
    /// written.
    pub torn: Option<TornTail>,
}

/// Walks frames from the segment that holds `from_segment_of` on (from the last one, if that
/// index is beyond the log), and checks every byte of those segments.
///
/// # Errors
/// The first damage, which a visitor reports by breaking, too; a log of another kind; errors of the
/// disk.
pub fn scan(
    disk: &dyn Disk,
    dir: &Path,
    kind: [u8; 4],
    frame_bytes_max: u32,
    from_segment_of: u64,
    visit: &mut dyn FnMut(FrameAt<'_>) -> ControlFlow<String>,
) -> Result<ScanEnd, LogError> {
    let firsts = list_segments(disk, dir)?;
    if firsts.is_empty() {
        return Err(LogError::NoSegment(dir.to_owned()));
    }
    let start = firsts.partition_point(|&first| first <= from_segment_of).saturating_sub(1);
    let mut scan = Scan { disk, dir, kind, frame_bytes_max, identity: None, before: Before::NONE };
    if let Some(&before) = firsts[..start].last() {
        scan.skip_to_after(before)?;
    }
    let mut end = ScanEnd { id: [0; 16], frames: firsts[start], bytes: 0, torn: None };
    for (nth, &first_index) in firsts.iter().enumerate().skip(start) {
        scan.segment(first_index, firsts.get(nth + 1).copied(), visit, &mut end)?;
    }
    end.id = scan.identity.map_or(end.id, |identity| identity.id);
    Ok(end)
}

/// A scan on its way from segment to segment.
struct Scan<'a> {
    disk: &'a dyn Disk,
    dir: &'a Path,
    kind: [u8; 4],
    frame_bytes_max: u32,
    identity: Option<Identity>,
    before: Before,
}

impl Scan<'_> {
    /// Reads from the skipped segments the values that the header of the next one must have.
    fn skip_to_after(&mut self, first_index: u64) -> Result<(), LogError> {
        let (dir, kind) = (self.dir, self.kind);
        let first = Expected { dir, kind, identity: None, first_index: 0, before: Before::NONE };
        let Some(header) = first.open(self.disk)?.header else {
            return Err(first.without_header());
        };
        let path = dir.join(segment_name(first_index));
        let bytes = self.disk.open_read(&path).and_then(|file| file.len()).during("open", &path)?;
        self.identity = Some(header.identity);
        self.before = Before { first_index, bytes };
        Ok(())
    }

    /// Walks one segment. Only the last, which has no `next`, may be torn, or be just being
    /// written.
    fn segment(
        &mut self,
        first_index: u64,
        next: Option<u64>,
        visit: &mut dyn FnMut(FrameAt<'_>) -> ControlFlow<String>,
        end: &mut ScanEnd,
    ) -> Result<(), LogError> {
        let (dir, kind, before) = (self.dir, self.kind, self.before);
        let identity = self.identity.as_ref();
        let expected = Expected { dir, kind, identity, first_index, before };
        let found = match next {
            Some(_) => expected.open(self.disk)?,
            None => open_patiently(&expected, self.disk)?,
        };
        let segment = segment_name(first_index);
        let torn_at = |offset, bytes, next_index| TornTail {
            segment: segment.clone(),
            offset,
            bytes,
            next_index,
            set_aside: None,
        };
        let Some(header) = found.header else {
            if next.is_some() {
                return Err(expected.without_header());
            }
            end.torn = Some(torn_at(0, found.bytes, first_index));
            return Ok(());
        };
        let (path, frame_bytes_max) = (dir.join(&segment), self.frame_bytes_max);
        let walked = Walked { path, first_index, identity: &header.identity, frame_bytes_max };
        let mut tell = |offset, index, payload: &[u8]| {
            visit(FrameAt { segment: &segment, offset, index, payload })
        };
        let (mut cursor, mut bytes) = (Cursor::start(first_index), found.bytes);
        let mut torn = walk(&*found.file, &walked, &mut cursor, bytes, &mut tell)?;
        if let Some(next) = next {
            check_sealed(&walked, &cursor, torn, next)?;
        }
        while torn.is_some()
            && let Some(longer) = grown(&*found.file, bytes).during("read", &walked.path)?
        {
            bytes = longer;
            torn = walk(&*found.file, &walked, &mut cursor, bytes, &mut tell)?;
        }
        end.torn = torn.map(|_| torn_at(cursor.offset, bytes - cursor.offset, cursor.index));
        end.frames = cursor.index;
        end.bytes += cursor.offset;
        self.before = Before { first_index, bytes };
        self.identity = Some(header.identity);
        Ok(())
    }
}

/// Opens the last segment, which a running writer may be just creating.
fn open_patiently(expected: &Expected<'_>, disk: &dyn Disk) -> Result<Found, LogError> {
    let mut found = expected.open(disk)?;
    for _ in 0..LOOK_AGAIN_MAX {
        if found.header.is_some() {
            break;
        }
        thread::sleep(LOOK_AGAIN_AFTER);
        found = expected.open(disk)?;
    }
    Ok(found)
}

/// The new length of a file, once it is longer than `bytes`; none if it does not grow.
fn grown(file: &dyn DiskFile, bytes: u64) -> io::Result<Option<u64>> {
    for _ in 0..LOOK_AGAIN_MAX {
        thread::sleep(LOOK_AGAIN_AFTER);
        let now = file.len()?;
        if now > bytes {
            return Ok(Some(now));
        }
    }
    Ok(None)
}

/// Whether a directory holds segments of some log, in whatever state.
///
/// # Errors
/// The directory can not be listed.
pub fn holds_segments(disk: &dyn Disk, dir: &Path) -> Result<bool, LogError> {
    let names = disk.list(dir).during("list", dir)?;
    Ok(names.iter().any(|name| parse_segment_name(name).is_some()))
}

/// First indexes of the segments in a directory, ascending; the first is 0.
pub(super) fn list_segments(disk: &dyn Disk, dir: &Path) -> Result<Vec<u64>, LogError> {
    let names = disk.list(dir).during("list", dir)?;
    let mut firsts: Vec<u64> = names.iter().filter_map(|name| parse_segment_name(name)).collect();
    firsts.sort_unstable();
    match firsts.first() {
        Some(&first) if first != 0 => Err(Damage {
            segment: segment_name(0),
            offset: 0,
            index: 0,
            problem: format!("the segment is missing: the log begins with {}", segment_name(first)),
        }
        .into()),
        _ => Ok(firsts),
    }
}

/// The segment before another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Before {
    pub(super) first_index: u64,
    pub(super) bytes: u64,
}

impl Before {
    pub(super) const NONE: Self = Self { first_index: 0, bytes: 0 };
}

/// What the header of a segment must say.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected<'a> {
    pub(super) dir: &'a Path,
    pub(super) kind: [u8; 4],
    /// None for the first segment, which names the log.
    pub(super) identity: Option<&'a Identity>,
    pub(super) first_index: u64,
    pub(super) before: Before,
}

/// A segment file, opened for reading.
pub(super) struct Found {
    pub(super) file: Box<dyn DiskFile>,
    pub(super) bytes: u64,
    /// None if a crash came before the header was durable, and so before any frame.
    pub(super) header: Option<SegmentHeader>,
}

impl Expected<'_> {
    /// Opens a segment and checks its header.
    pub(super) fn open(&self, disk: &dyn Disk) -> Result<Found, LogError> {
        let path = self.dir.join(segment_name(self.first_index));
        let file = disk.open_read(&path).during("open", &path)?;
        let bytes = file.len().during("read", &path)?;
        if bytes < HEADER_BYTES {
            return Ok(Found { file, bytes, header: None });
        }
        let mut header = [0; HEADER_LEN];
        file.read_exact_at(&mut header, 0).during("read", &path)?;
        if bytes == HEADER_BYTES && header.iter().all(|&byte| byte == 0) {
            return Ok(Found { file, bytes, header: None });
        }
        let header = match SegmentHeader::decode(&header) {
            Ok(header) => header,
            Err(HeaderError::Broken(problem)) => return Err(self.damage(problem)),
            Err(HeaderError::Format(format)) => {
                let problem = format!("its format is {format}, which this program does not know");
                return Err(LogError::Foreign { path, problem });
            }
        };
        self.check(&header)?;
        Ok(Found { file, bytes, header: Some(header) })
    }

    fn check(&self, header: &SegmentHeader) -> Result<(), LogError> {
        let foreign = |problem: String| {
            let path = self.dir.join(segment_name(self.first_index));
            Err(LogError::Foreign { path, problem })
        };
        let (identity, kind) = (&header.identity, self.kind);
        if identity.kind != kind {
            let (found, kind) = (identity.kind.escape_ascii(), kind.escape_ascii());
            return foreign(format!("its kind is {found}, not {kind}"));
        }
        if self.identity.is_some_and(|known| known.id != identity.id) {
            return foreign("its log id is another".to_owned());
        }
        if header.first_index != self.first_index {
            let problem = format!("the header is of {}", segment_name(header.first_index));
            return Err(self.damage(problem));
        }
        if header.before_first_index != self.before.first_index {
            let missing = segment_name(header.before_first_index);
            return Err(self.damage(format!("the segment before, {missing}, is missing")));
        }
        if header.before_bytes != self.before.bytes {
            let (written, found) = (header.before_bytes, self.before.bytes);
            return Err(Damage {
                segment: segment_name(self.before.first_index),
                offset: written.min(found),
                index: self.before.first_index,
                problem: format!("the segment has {found} bytes, but {written} were written"),
            }
            .into());
        }
        Ok(())
    }

    /// A crash leaves a segment without header only at the end of a log.
    pub(super) fn without_header(&self) -> LogError {
        self.damage("the segment header is missing")
    }

    fn damage(&self, problem: impl Into<String>) -> LogError {
        let (segment, index) = (segment_name(self.first_index), self.first_index);
        Damage { segment, offset: 0, index, problem: problem.into() }.into()
    }
}

/// A segment with a successor was synced whole: it is not torn, and it ends where that begins.
pub(super) fn check_sealed(
    walked: &Walked<'_>,
    cursor: &Cursor,
    torn: Option<&'static str>,
    next: u64,
) -> Result<(), LogError> {
    if let Some(problem) = torn {
        return Err(walked.damage(cursor.offset, cursor.index, problem));
    }
    if cursor.index != next {
        let problem = format!("the segment ends here, but the next one begins at index {next}");
        return Err(walked.damage(cursor.offset, cursor.index, problem));
    }
    Ok(())
}
