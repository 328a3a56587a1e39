//! The log as a whole. The invariant is always the same: what was acknowledged is there, and what
//! is there is a beginning of what was appended.

use std::{
    io,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use proptest::prelude::*;

use super::{
    disk::{Disk, DiskFile, RealDisk},
    frame, segment,
    segment::{index_name, segment_name},
    sim::{Fault, Keep, SimDisk},
    *,
};

const KIND: [u8; 4] = *b"TEST";
const ID: [u8; 16] = *b"the log's own id";
const FRAME_BYTES_MAX: u32 = 4_096;
const HEADER_BYTES: usize = 60;

fn spec(segment_bytes_max: u64) -> LogSpec {
    let dir = PathBuf::from("/log");
    LogSpec { dir, kind: KIND, segment_bytes_max, frame_bytes_max: FRAME_BYTES_MAX, frames_min: 0 }
}

fn path(first_index: u64) -> PathBuf {
    Path::new("/log").join(segment_name(first_index))
}

fn open(disk: &SimDisk, segment_bytes_max: u64) -> Result<(FrameLog, Option<TornTail>), LogError> {
    FrameLog::open(Arc::new(disk.clone()), spec(segment_bytes_max), ID)
}

fn open_clean(disk: &SimDisk, segment_bytes_max: u64) -> FrameLog {
    let (log, torn) = open(disk, segment_bytes_max).unwrap();
    assert_eq!(torn, None);
    log
}

fn all(log: &FrameLog) -> Vec<Vec<u8>> {
    log.reader().read_range(0, log.next_index(), usize::MAX).unwrap()
}

fn scan_from(disk: &dyn Disk, dir: &Path, from: u64) -> Result<(ScanEnd, Vec<Vec<u8>>), LogError> {
    let mut frames = Vec::new();
    let end = scan(disk, dir, KIND, FRAME_BYTES_MAX, from, &mut |frame| {
        frames.push(frame.payload.to_vec());
        ControlFlow::Continue(())
    })?;
    Ok((end, frames))
}

fn scan_all(disk: &SimDisk) -> Result<(ScanEnd, Vec<Vec<u8>>), LogError> {
    scan_from(disk, Path::new("/log"), 0)
}

fn damage<T: std::fmt::Debug>(result: Result<T, LogError>) -> Damage {
    match result {
        Err(LogError::Damaged(damage)) => damage,
        other => panic!("not damage: {other:?}"),
    }
}

/// A payload that tells its index, of a length that varies, with some zeros.
fn payload(index: u64) -> Vec<u8> {
    let len = 8 + (index * 7_919) % 700;
    let mut bytes = index.to_le_bytes().to_vec();
    bytes.extend((8..len).map(|at| ((at * (index + 1)) % 251) as u8));
    bytes
}

fn payloads(range: std::ops::Range<u64>) -> Vec<Vec<u8>> {
    range.map(payload).collect()
}

/// A log of 12 small frames in three segments and its disk.
fn small_log() -> (SimDisk, Vec<Vec<u8>>) {
    let disk = SimDisk::new();
    let frames: Vec<Vec<u8>> = (0..12_u8).map(|n| vec![n; 3 + usize::from(n)]).collect();
    let mut log = open_clean(&disk, 220);
    log.append(&frames[..3]).unwrap();
    log.append(&frames[3..10]).unwrap();
    log.append(&frames[10..11]).unwrap();
    log.append(&frames[11..]).unwrap();
    assert_eq!(segments(&disk).len(), 3);
    (disk, frames)
}

fn segments(disk: &SimDisk) -> Vec<PathBuf> {
    let files = disk.files().into_keys();
    files.filter(|path| path.extension().is_some_and(|extension| extension == "seg")).collect()
}

#[test]
fn a_new_log_is_empty_and_keeps_its_id() {
    let disk = SimDisk::new();
    let log = open_clean(&disk, 1_000);
    assert_eq!((log.id(), log.next_index(), log.reader().size_bytes()), (ID, 0, 60));
    let (again, _) = FrameLog::open(Arc::new(disk.clone()), spec(1_000), [9; 16]).unwrap();
    assert_eq!(again.id(), ID);
    assert_eq!(scan_all(&disk).unwrap().0.frames, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_appended_is_read(
        segment_bytes_max in 60_u64..6_000,
        batches in prop::collection::vec(
            prop::collection::vec(prop::collection::vec(any::<u8>(), 1..600), 0..12), 0..12),
        bytes_max in 0_usize..3_000,
    ) {
        let disk = SimDisk::new();
        let mut log = open_clean(&disk, segment_bytes_max);
        let mut appended = Vec::new();
        for (nth, batch) in batches.iter().enumerate() {
            if nth % 4 == 3 {
                log = open_clean(&disk, segment_bytes_max);
            }
            log.append(batch).unwrap();
            appended.extend(batch.iter().cloned());
        }
        for log in [&log, &open_clean(&disk, segment_bytes_max)] {
            prop_assert_eq!(&all(log), &appended);
            let reader = log.reader();
            for (index, frame) in appended.iter().enumerate() {
                prop_assert_eq!(&reader.read(index as u64).unwrap(), frame);
            }
            let next = log.next_index();
            let mut at = 0;
            while at < next {
                let page = reader.read_range(at, next, bytes_max).unwrap();
                let bytes: usize = page.iter().map(Vec::len).sum();
                prop_assert!(page.len() == 1 || (!page.is_empty() && bytes <= bytes_max));
                let start = usize::try_from(at).unwrap();
                prop_assert_eq!(&page[..], &appended[start..start + page.len()]);
                at += page.len() as u64;
            }
        }
        let (end, scanned) = scan_all(&disk).unwrap();
        prop_assert_eq!(&scanned, &appended);
        prop_assert_eq!((end.id, end.frames, end.torn), (ID, appended.len() as u64, None));
        prop_assert_eq!(end.bytes, log.reader().size_bytes());
        let on_disk: usize = segments(&disk).iter().map(|p| disk.content(p).unwrap().len()).sum();
        prop_assert_eq!(end.bytes, on_disk as u64);
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..900),
        at in 0_usize..400,
        keep_header: bool,
    ) {
        let (disk, frames) = small_log();
        let last = segments(&disk).pop().unwrap();
        let mut content = disk.content(&last).unwrap();
        let at = if keep_header { at.max(HEADER_BYTES) } else { at }.min(content.len());
        content.splice(at.., bytes);
        disk.put(&last, content);
        if let Ok((log, _)) = open(&disk, 220) {
            prop_assert!(frames.starts_with(&all(&log)));
        }
    }
}

#[test]
fn a_batch_is_one_write_and_one_sync() {
    let disk = SimDisk::new();
    let mut log = open_clean(&disk, 1 << 20);
    let before = disk.operations();
    log.append(&payloads(0..500)).unwrap();
    assert_eq!(disk.operations() - before, 2);
    log.append::<&[u8]>(&[]).unwrap();
    assert_eq!(disk.operations() - before, 2);
}

#[test]
fn a_frame_out_of_bounds_is_refused_before_anything_is_written() {
    let disk = SimDisk::new();
    let mut log = open_clean(&disk, 1_000);
    let before = disk.files();
    let largest = vec![1; FRAME_BYTES_MAX as usize];
    let larger = vec![1; FRAME_BYTES_MAX as usize + 1];
    assert!(matches!(
        log.append(&[&largest, &larger]),
        Err(LogError::FrameTooLarge { bytes: 4_097, limit: 4_096 })
    ));
    assert!(matches!(log.append(&[b"x".as_slice(), b""]), Err(LogError::EmptyFrame)));
    assert_eq!(disk.files(), before);
    log.append(&[&largest]).unwrap();
    assert_eq!(all(&log), [largest]);
}

#[test]
fn reads_beyond_the_last_frame_are_out_of_range() {
    let (disk, _) = small_log();
    let reader = open_clean(&disk, 220).reader();
    for (start, end) in [(0, 13), (12, 13), (40, 41)] {
        let error = reader.read_range(start, end, 10).unwrap_err();
        assert!(matches!(error, LogError::OutOfRange { next_index: 12, .. }), "{error}");
    }
    for index in [12, u64::MAX] {
        assert!(matches!(reader.read(index), Err(LogError::OutOfRange { .. })));
    }
    assert_eq!(reader.read_range(12, 12, 10).unwrap(), Vec::<Vec<u8>>::new());
}

#[test]
fn opening_reads_headers_and_the_last_segment_only() {
    let disk = SimDisk::new();
    let mut log = open_clean(&disk, 50_000);
    log.append(&payloads(0..1_000)).unwrap();
    let number = segments(&disk).len() as u64;
    assert!(number > 5);
    let last = disk.content(&segments(&disk)[segments(&disk).len() - 1]).unwrap().len() as u64;
    let before = disk.bytes_read();
    let log = open_clean(&disk, 50_000);
    // The last batch is read once more, to be written again.
    assert!(disk.bytes_read() - before <= number * 60 + 2 * last);
    let first = log.reader().first_index_of_last_segment();
    assert_eq!(disk.content(&path(first)).unwrap().len() as u64, last);
}

#[test]
fn a_read_of_one_frame_reads_little() {
    let disk = SimDisk::new();
    let mut log = open_clean(&disk, 500_000);
    log.append(&payloads(0..3_000)).unwrap();
    let reader = open_clean(&disk, 500_000).reader();
    for index in [3, 2_999] {
        reader.read(index).unwrap();
        let before = disk.bytes_read();
        assert_eq!(reader.read(index).unwrap(), payload(index));
        assert!(disk.bytes_read() - before < 6_000);
    }
}

mod torn {
    use super::*;

    /// Opens a torn log, and checks that it goes on.
    fn recovers(disk: &SimDisk, frames: &[Vec<u8>], tail: &[u8]) -> TornTail {
        let (end, scanned) = scan_all(disk).unwrap();
        assert_eq!(scanned, frames);
        let before = disk.files();
        let looked = FrameLog::look(Arc::new(disk.clone()), spec(220), ID).unwrap();
        assert_eq!(all(&looked), frames);
        assert_eq!(disk.files(), before, "a look leaves everything where it is");
        let (mut log, torn) = open(disk, 220).unwrap();
        let torn = torn.expect("the tail is torn");
        assert_eq!(torn.next_index, frames.len() as u64);
        assert_eq!(torn.bytes, tail.len() as u64);
        assert_eq!(end.torn, Some(TornTail { set_aside: None, ..torn.clone() }));
        assert_eq!(disk.content(torn.set_aside.as_ref().unwrap()).unwrap(), tail);
        assert_eq!(all(&log), frames);
        log.append(&[b"after the crash"]).unwrap();
        let log = open_clean(disk, 220);
        assert_eq!(log.reader().read(frames.len() as u64).unwrap(), b"after the crash");
        assert_eq!(scan_all(disk).unwrap().0.torn, None);
        torn
    }

    #[test]
    fn a_last_frame_cut_at_any_byte_is_set_aside() {
        let (disk, frames) = small_log();
        let last = segments(&disk).pop().unwrap();
        let whole = disk.content(&last).unwrap();
        let start = whole.len() - frames[11].len() - frame::OVERHEAD_BYTES;
        for len in start + 1..whole.len() {
            let disk = disk.power_cut(Keep::Everything);
            disk.put(&last, whole[..len].to_vec());
            let torn = recovers(&disk, &frames[..11], &whole[start..len]);
            assert_eq!(torn.offset, start as u64);
        }
        disk.put(&last, whole[..start].to_vec());
        assert_eq!(all(&open_clean(&disk, 220)), frames[..11]);
    }

    #[test]
    fn a_segment_cut_inside_its_header_is_set_aside() {
        let (disk, frames) = small_log();
        let last = segments(&disk).pop().unwrap();
        let header = disk.content(&last).unwrap()[..HEADER_BYTES].to_vec();
        let first: u64 = last.file_stem().unwrap().to_str().unwrap().parse().unwrap();
        let before = &frames[..usize::try_from(first).unwrap()];
        let cut = (0..HEADER_BYTES).map(|len| header[..len].to_vec());
        for content in cut.chain([vec![0; 20], vec![0; HEADER_BYTES]]) {
            let disk = disk.power_cut(Keep::Everything);
            disk.put(&last, content.clone());
            assert_eq!(recovers(&disk, before, &content).offset, 0);
        }
        // With something behind it, it held frames once.
        disk.put(&last, vec![0; HEADER_BYTES + 1]);
        assert_eq!(damage(open(&disk, 220)), damage(scan_all(&disk)));
    }

    #[test]
    fn the_first_segment_may_be_torn_too() {
        let disk = SimDisk::new();
        disk.put(&path(0), b"FRAME".to_vec());
        recovers(&disk, &[], b"FRAME");
    }

    #[test]
    fn an_empty_segment_that_does_not_continue_the_log_is_damage() {
        let (disk, _) = small_log();
        disk.put(&path(99), Vec::new());
        let before = disk.files();
        let found = damage(open(&disk, 220));
        assert_eq!(found.problem, "the segment ends here, but the next one begins at index 99");
        assert_eq!(found.index, 12);
        assert_eq!(disk.files(), before);
        assert_eq!(damage(scan_all(&disk)), found);
    }

    #[test]
    fn zeros_or_scraps_behind_the_last_frame_are_set_aside() {
        let (disk, frames) = small_log();
        let last = segments(&disk).pop().unwrap();
        let whole = disk.content(&last).unwrap();
        for tail in [vec![0], vec![0; 300], vec![0; 5_000], b"scraps".to_vec()] {
            let disk = disk.power_cut(Keep::Everything);
            disk.put(&last, [whole.clone(), tail.clone()].concat());
            recovers(&disk, &frames, &tail);
        }
    }

    #[test]
    fn an_earlier_tail_is_never_written_over() {
        let (disk, frames) = small_log();
        let last = segments(&disk).pop().unwrap();
        let whole = disk.content(&last).unwrap();
        let mut kept = Vec::new();
        for tail in [b"one", b"two", b"six"] {
            disk.put(&last, [whole.as_slice(), tail].concat());
            kept.push(open(&disk, 220).unwrap().1.unwrap().set_aside.unwrap());
        }
        let contents: Vec<_> = kept.iter().map(|path| disk.content(path).unwrap()).collect();
        assert_eq!(contents, [b"one", b"two", b"six"]);
        assert_eq!(all(&open_clean(&disk, 220)), frames);
    }

    /// One segment with batches of 4, 4 and 1 frames, each frame larger than a sector.
    fn sectors() -> (SimDisk, Vec<u8>, Vec<usize>) {
        let disk = SimDisk::new();
        let mut log = open_clean(&disk, 1 << 20);
        let frames: Vec<Vec<u8>> = (1..10).map(|n| vec![n; 1_000]).collect();
        log.append(&frames[..4]).unwrap();
        log.append(&frames[4..8]).unwrap();
        let begins = (0..10).map(|n| HEADER_BYTES + n * (1_000 + frame::OVERHEAD_BYTES)).collect();
        let two = disk.content(&path(0)).unwrap();
        log.append(&frames[8..]).unwrap();
        let three = disk.content(&path(0)).unwrap();
        disk.put(&path(0), two);
        (disk, three, begins)
    }

    fn lose_sector(content: &mut [u8], sector: usize, durable: usize) {
        content[(sector * 512).max(durable)..(sector + 1) * 512].fill(0);
    }

    #[test]
    fn a_sector_missing_in_the_last_batch_is_torn() {
        let (disk, _, begins) = sectors();
        let whole = disk.content(&path(0)).unwrap();
        // The batch begins with frame 4.
        for sector in begins[4] / 512..whole.len() / 512 {
            let disk = disk.power_cut(Keep::Everything);
            let mut content = whole.clone();
            lose_sector(&mut content, sector, begins[4]);
            disk.put(&path(0), content);
            let (log, torn) = open(&disk, 1 << 20).unwrap();
            let torn = torn.unwrap();
            let lost = begins.iter().rposition(|&b| b < (sector + 1) * 512).unwrap();
            let first = begins.iter().rposition(|&b| b <= (sector * 512).max(begins[4])).unwrap();
            assert!((first..=lost).contains(&usize::try_from(torn.next_index).unwrap()));
            assert_eq!(log.next_index(), torn.next_index);
        }
    }

    #[test]
    fn a_sector_missing_before_a_later_batch_is_damage() {
        let (disk, whole, begins) = sectors();
        for sector in 1..begins[8] / 512 {
            let mut content = whole.clone();
            lose_sector(&mut content, sector, HEADER_BYTES);
            disk.put(&path(0), content);
            let found = damage(open(&disk, 1 << 20));
            assert!(found.problem.contains("a frame written later stands at byte"), "{found}");
            assert_eq!(found.offset, begins[usize::try_from(found.index).unwrap()] as u64);
        }
    }
}

mod damaged {
    use super::*;

    #[test]
    fn every_flipped_bit_is_found_and_changes_nothing() {
        let (disk, frames) = small_log();
        let last = segments(&disk).pop().unwrap();
        for segment in segments(&disk) {
            let whole = disk.content(&segment).unwrap();
            for (at, bit) in (0..whole.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
                let mut broken = whole.clone();
                broken[at] ^= 1 << bit;
                disk.put(&segment, broken);
                let name = segment.file_name().unwrap().to_str().unwrap();
                let found = damage(scan_all(&disk));
                assert_eq!(found.segment, name, "byte {at}, bit {bit}");
                assert!(found.offset <= at as u64);
                let before = disk.files();
                if segment == last || at < HEADER_BYTES {
                    assert_eq!(damage(open(&disk, 220)), found, "byte {at}, bit {bit}");
                    assert_eq!(disk.files(), before);
                } else {
                    // Opening does not look there, but reading does.
                    let reader = open_clean(&disk, 220).reader();
                    assert_eq!(damage(reader.read(found.index)), found, "byte {at}, bit {bit}");
                    assert_eq!(reader.read(11).unwrap(), frames[11]);
                }
            }
            disk.put(&segment, whole);
        }
    }

    #[test]
    fn damage_says_where_it_is() {
        let (disk, _) = small_log();
        let mut content = disk.content(&path(0)).unwrap();
        content[HEADER_BYTES + 29 + 25] ^= 1;
        disk.put(&path(0), content);
        assert_eq!(
            damage(scan_all(&disk)).to_string(),
            "segment 00000000000000000000.seg is damaged at byte 89, index 1: \
             the checksum of the payload does not match"
        );
    }

    #[test]
    fn a_missing_segment_is_found() {
        let (disk, _) = small_log();
        let all = segments(&disk);
        for missing in &all[..2] {
            let disk = disk.power_cut(Keep::Everything);
            disk.remove(missing).unwrap();
            let before = disk.files();
            assert!(damage(open(&disk, 220)).problem.contains("missing"));
            assert_eq!(disk.files(), before);
            damage(scan_all(&disk));
        }
    }

    #[test]
    fn a_full_segment_that_is_shorter_or_longer_is_found() {
        let (disk, _) = small_log();
        let middle = &segments(&disk)[1];
        let whole = disk.content(middle).unwrap();
        let cut = (0..whole.len()).map(|len| whole[..len].to_vec());
        let longer = [vec![0], vec![0; 600], b"scraps".to_vec(), whole[60..].to_vec()]
            .map(|tail| [whole.clone(), tail].concat());
        for content in cut.chain(longer) {
            let bytes = content.len();
            disk.put(middle, content);
            assert!(open(&disk, 220).is_err(), "{bytes}");
            let found = damage(scan_all(&disk));
            assert_eq!(Some(found.segment.as_str()), middle.file_name().unwrap().to_str());
            let between = found.problem.starts_with("the segment ends here");
            assert!(!between || bytes < whole.len(), "{found}");
        }
    }

    #[test]
    fn segments_of_another_log_do_not_pass() {
        let (disk, _) = small_log();
        let (other, _) = {
            let other = SimDisk::new();
            let (mut log, torn) =
                FrameLog::open(Arc::new(other.clone()), spec(220), [9; 16]).unwrap();
            log.append(&(0..12_u8).map(|n| vec![n; 3 + usize::from(n)]).collect::<Vec<_>>())
                .unwrap();
            (other, torn)
        };
        let last = segments(&disk).pop().unwrap();
        disk.put(&last, other.content(&segments(&other)[1]).unwrap());
        assert!(open(&disk, 220).is_err());
        assert!(scan_all(&disk).is_err());
        let kind = *b"ELSE";
        let foreign =
            FrameLog::open(Arc::new(other.clone()), LogSpec { kind, ..spec(220) }, ID).unwrap_err();
        assert!(foreign.to_string().ends_with("its kind is TEST, not ELSE"), "{foreign}");
    }

    #[test]
    fn frames_in_each_others_place_do_not_pass() {
        let disk = SimDisk::new();
        let mut log = open_clean(&disk, 1_000);
        for frame in [b"one", b"two"] {
            log.append(&[frame]).unwrap();
        }
        let mut content = disk.content(&path(0)).unwrap();
        let frame_bytes = 3 + frame::OVERHEAD_BYTES;
        content[HEADER_BYTES..].rotate_left(frame_bytes);
        disk.put(&path(0), content);
        assert_eq!(damage(open(&disk, 1_000)).problem, "the frame that stands here has index 1");
    }

    #[test]
    fn a_frame_must_continue_its_batch() {
        let disk = SimDisk::new();
        let mut log = open_clean(&disk, 1_000);
        log.append(&["one", "two"]).unwrap();
        let whole = disk.content(&path(0)).unwrap();
        let identity = segment::Identity::new(KIND, ID);
        for (place, continues) in [(0, true), (1, false), (2, true), (3, false)] {
            let mut content = whole.clone();
            frame::encode(&mut content, &identity, 2, place, 5, b"three");
            disk.put(&path(0), content);
            let problem = "the frame does not continue the batch of the one before";
            match open(&disk, 1_000) {
                Ok((log, torn)) => assert!(continues && torn.is_none() && log.next_index() == 3),
                other => assert!(!continues && damage(other).problem == problem, "{place}"),
            }
        }
    }

    #[test]
    fn a_header_that_rightly_ends_with_zeros_in_the_next_sector_is_not_torn() {
        let identity = segment::Identity::new(KIND, ID);
        let disk = SimDisk::new();
        let mut log = open_clean(&disk, 10_000);
        // The next header has its last byte, and only that, in the second sector.
        log.append(&[vec![1; 512 - 24 - HEADER_BYTES - frame::OVERHEAD_BYTES]]).unwrap();
        let whole = disk.content(&path(0)).unwrap();
        let candidates = (0..10_000_u32).map(|n| {
            let mut content = whole.clone();
            frame::encode(&mut content, &identity, 1, 0, 4, &n.to_be_bytes());
            content
        });
        let mut content = candidates.into_iter().find(|content| content[512] == 0).unwrap();
        disk.put(&path(0), content.clone());
        assert_eq!(open_clean(&disk, 10_000).next_index(), 2);
        content[490] ^= 1;
        disk.put(&path(0), content);
        let problem = "the checksum of the frame header does not match";
        assert_eq!(damage(open(&disk, 10_000)).problem, problem);
    }

    #[test]
    fn other_files_are_ignored() {
        let (disk, frames) = small_log();
        for name in ["LOCK", "5.seg", "00000000000000000001.seg.tmp", "x.torn"] {
            disk.put(&Path::new("/log").join(name), b"anything".to_vec());
        }
        assert_eq!(all(&open_clean(&disk, 220)), frames);
        assert_eq!(scan_all(&disk).unwrap().1, frames);
    }
}

mod scanning {
    use super::*;

    #[test]
    fn a_scan_starts_with_the_segment_that_holds_an_index() {
        let (disk, frames) = small_log();
        let firsts: Vec<usize> = segments(&disk)
            .iter()
            .map(|path| path.file_stem().unwrap().to_str().unwrap().parse().unwrap())
            .collect();
        for from in 0..14 {
            let (end, scanned) = scan_from(&disk, Path::new("/log"), from).unwrap();
            let first = firsts.iter().rfind(|&&first| first as u64 <= from).unwrap();
            assert_eq!(scanned, frames[*first..]);
            assert_eq!((end.id, end.frames, end.torn), (ID, 12, None));
        }
    }

    #[test]
    fn a_visitor_that_breaks_is_damage_at_that_frame() {
        let (disk, _) = small_log();
        let mut seen = None;
        let stopped = scan(&disk, Path::new("/log"), KIND, FRAME_BYTES_MAX, 0, &mut |frame| {
            if frame.index < 7 {
                return ControlFlow::Continue(());
            }
            seen = Some((frame.segment.to_owned(), frame.offset, frame.index));
            ControlFlow::Break("the chain is broken".to_owned())
        });
        let found = damage(stopped);
        assert_eq!(seen, Some((found.segment.clone(), found.offset, found.index)));
        assert_eq!((found.index, found.problem.as_str()), (7, "the chain is broken"));
    }

    /// A disk on which a file is short when its length is first asked for, and whole after that.
    /// Whoever changes anything on it panics.
    #[derive(Debug)]
    struct Growing {
        disk: SimDisk,
        path: PathBuf,
        bytes: Arc<AtomicU64>,
    }

    #[derive(Debug)]
    struct GrowingFile {
        file: Box<dyn DiskFile>,
        bytes: Arc<AtomicU64>,
    }

    impl Disk for Growing {
        fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
            self.disk.list(dir)
        }
        fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
            let file = self.disk.open_read(path)?;
            if path != self.path {
                return Ok(file);
            }
            Ok(Box::new(GrowingFile { file, bytes: Arc::clone(&self.bytes) }))
        }
        fn create_dir_all(&self, _: &Path) -> io::Result<()> {
            unreachable!()
        }
        fn create(&self, _: &Path) -> io::Result<Box<dyn DiskFile>> {
            unreachable!()
        }
        fn open_write(&self, _: &Path) -> io::Result<Box<dyn DiskFile>> {
            unreachable!()
        }
        fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
            unreachable!()
        }
        fn remove(&self, _: &Path) -> io::Result<()> {
            unreachable!()
        }
        fn sync_dir(&self, _: &Path) -> io::Result<()> {
            unreachable!()
        }
    }

    impl DiskFile for GrowingFile {
        fn len(&self) -> io::Result<u64> {
            Ok(self.bytes.swap(self.file.len()?, Ordering::Relaxed))
        }
        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
            self.file.read_exact_at(buf, offset)
        }
        fn write_all_at(&self, _: &[u8], _: u64) -> io::Result<()> {
            unreachable!()
        }
        fn set_len(&self, _: u64) -> io::Result<()> {
            unreachable!()
        }
        fn sync_data(&self) -> io::Result<()> {
            unreachable!()
        }
    }

    #[test]
    fn a_batch_that_is_just_being_written_is_not_torn() {
        let (disk, frames) = small_log();
        let path = segments(&disk).pop().unwrap();
        let whole = disk.content(&path).unwrap().len() as u64;
        for bytes in 0..=whole {
            let growing = Growing {
                disk: disk.clone(),
                path: path.clone(),
                bytes: Arc::new(AtomicU64::new(bytes)),
            };
            let (end, scanned) = scan_from(&growing, Path::new("/log"), 0).unwrap();
            assert_eq!(end.torn, None, "{bytes}");
            assert!(frames.starts_with(&scanned) && scanned.len() as u64 == end.frames);
        }
    }

    #[test]
    fn an_empty_directory_holds_no_log() {
        let none = scan_all(&SimDisk::new()).unwrap_err();
        assert_eq!(none.to_string(), "no segment in /log");
    }
}

mod indexes {
    use super::*;

    fn long_log() -> SimDisk {
        let disk = SimDisk::new();
        open_clean(&disk, 20_000).append(&payloads(0..300)).unwrap();
        disk
    }

    fn reads_all(disk: &SimDisk) {
        let log = open_clean(disk, 20_000);
        for index in (0..300).rev() {
            assert_eq!(log.reader().read(index).unwrap(), payload(index));
        }
        assert_eq!(all(&log), payloads(0..300));
    }

    #[test]
    fn a_missing_index_is_rebuilt() {
        let disk = long_log();
        let index = Path::new("/log").join(index_name(0));
        let written = disk.content(&index).unwrap();
        disk.remove(&index).unwrap();
        reads_all(&disk);
        assert_eq!(disk.content(&index).unwrap(), written);
    }

    #[test]
    fn a_broken_index_is_rebuilt() {
        let disk = long_log();
        let index = Path::new("/log").join(index_name(0));
        let written = disk.content(&index).unwrap();
        for broken in [Vec::new(), vec![0; written.len()], written[..80].to_vec()] {
            disk.put(&index, broken);
            reads_all(&disk);
            assert_eq!(disk.content(&index).unwrap(), written);
        }
    }

    #[test]
    fn an_index_that_lies_is_rebuilt() {
        let disk = long_log();
        let index = Path::new("/log").join(index_name(0));
        let written = disk.content(&index).unwrap();
        // Another log of the same shape, but with frames of other lengths.
        let other = SimDisk::new();
        let mut log = open_clean(&other, 20_000);
        let frames = payloads(0..300);
        let next = segments(&disk)[1].file_stem().unwrap().to_str().unwrap().parse().unwrap();
        let mut lying: Vec<_> = frames[..next].to_vec();
        lying.reverse();
        log.append(&lying).unwrap();
        log.append(&frames[next..]).unwrap();
        let lie = other.content(&index).unwrap();
        assert_ne!(lie, written);
        assert_eq!(lie.len(), written.len());
        disk.put(&index, lie);
        reads_all(&disk);
        assert_eq!(disk.content(&index).unwrap(), written);
    }
}

mod faults {
    use super::*;

    const SEGMENT_BYTES_MAX: u64 = 3_000;

    /// Appends until something fails; answers how many frames were acknowledged and attempted.
    fn run(disk: &SimDisk) -> (u64, u64) {
        let (mut acknowledged, mut attempted) = (0, 0);
        let mut log: Option<FrameLog> = None;
        for (nth, batch) in [1, 3, 1, 8, 2, 20, 1, 1, 5].into_iter().enumerate() {
            if nth % 4 == 0 {
                match open(disk, SEGMENT_BYTES_MAX) {
                    Ok((opened, _)) => log = Some(opened),
                    Err(_) => return (acknowledged, attempted),
                }
            }
            let log = log.as_mut().unwrap();
            attempted = acknowledged + batch;
            if log.append(&payloads(acknowledged..attempted)).is_err() {
                let before = disk.operations();
                assert!(matches!(log.append(&[b"more"]), Err(LogError::Poisoned)));
                assert_eq!(disk.operations(), before);
                let reader = log.reader();
                assert!((acknowledged..=attempted).contains(&reader.next_index()));
                return (acknowledged, attempted);
            }
            acknowledged = attempted;
            assert_eq!(log.reader().next_index(), acknowledged);
        }
        (acknowledged, attempted)
    }

    /// The invariant, on a disk that came back.
    fn check(disk: &SimDisk, acknowledged: u64, attempted: u64, context: &str) {
        let (mut log, _) = open(disk, SEGMENT_BYTES_MAX)
            .unwrap_or_else(|error| panic!("{context}: does not open: {error}"));
        let there = log.next_index();
        assert!((acknowledged..=attempted).contains(&there), "{context}: {there} are there");
        assert_eq!(all(&log), payloads(0..there), "{context}");
        // What it answers from now on is durable.
        let cut = disk.power_cut(Keep::SyncedOnly);
        assert_eq!(all(&open_clean(&cut, SEGMENT_BYTES_MAX)), payloads(0..there), "{context}");
        log.append(&payloads(there..there + 1)).unwrap();
        let cut = disk.power_cut(Keep::SyncedOnly);
        let again = open_clean(&cut, SEGMENT_BYTES_MAX);
        assert_eq!(all(&again), payloads(0..there + 1), "{context}");
        log.append(&payloads(there + 1..there + 9)).unwrap();
        let cut = disk.power_cut(Keep::SyncedOnly);
        let again = open_clean(&cut, SEGMENT_BYTES_MAX);
        assert_eq!(all(&again), payloads(0..there + 9), "{context}");
        let (end, _) = scan_all(&cut).unwrap();
        assert_eq!((end.frames, end.torn), (there + 9, None), "{context}");
    }

    fn keeps(seeds: std::ops::Range<u64>) -> impl Iterator<Item = Keep> {
        [Keep::SyncedOnly, Keep::Everything]
            .into_iter()
            .chain(seeds.map(|seed| Keep::Torn { seed }))
    }

    const FAULTS: [Fault; 6] = [
        Fault::Lost,
        Fault::Persisted,
        Fault::Partial(1),
        Fault::Partial(30),
        Fault::Partial(512),
        Fault::Partial(1_500),
    ];

    #[test]
    fn no_fault_at_any_operation_loses_what_was_acknowledged() {
        let whole = SimDisk::new();
        assert_eq!(run(&whole), (42, 42));
        let operations = whole.operations();
        assert!(operations > 60, "{operations}");
        for n in 0..operations {
            for fault in FAULTS {
                let disk = SimDisk::new();
                disk.freeze_at(n, fault);
                let (acknowledged, attempted) = run(&disk);
                for keep in keeps(0..6) {
                    let context = format!("operation {n}, {fault:?}, {keep:?}");
                    check(&disk.power_cut(keep), acknowledged, attempted, &context);
                }
                // The process is restarted, the machine is not.
                disk.thaw();
                let context = format!("operation {n}, {fault:?}, restart");
                check(&disk, acknowledged, attempted, &context);
            }
        }
    }

    #[test]
    fn a_fault_after_which_the_disk_works_again_loses_nothing() {
        let whole = SimDisk::new();
        run(&whole);
        for n in 0..whole.operations() {
            for fault in FAULTS {
                let disk = SimDisk::new();
                disk.fail_at(n, fault);
                let (acknowledged, attempted) = run(&disk);
                for keep in keeps(0..2) {
                    let context = format!("operation {n}, {fault:?}, {keep:?}");
                    check(&disk.power_cut(keep), acknowledged, attempted, &context);
                }
                let context = format!("operation {n}, {fault:?}, restart");
                check(&disk, acknowledged, attempted, &context);
            }
        }
    }

    #[test]
    fn a_power_cut_during_recovery_loses_nothing() {
        for seed in 0..12 {
            let disk = SimDisk::new();
            let mut log = open_clean(&disk, SEGMENT_BYTES_MAX);
            log.append(&payloads(0..5)).unwrap();
            // The write happens and the sync is never begun, so that the tail can be torn.
            disk.freeze_at(disk.operations(), Fault::Persisted);
            log.append(&payloads(5..9)).unwrap_err();
            let torn = disk.power_cut(Keep::Torn { seed });
            let rehearsal = torn.power_cut(Keep::Everything);
            let there = open(&rehearsal, SEGMENT_BYTES_MAX).unwrap().0.next_index();
            for n in 0..rehearsal.operations() {
                for fault in FAULTS {
                    let disk = torn.power_cut(Keep::Everything);
                    disk.freeze_at(n, fault);
                    open(&disk, SEGMENT_BYTES_MAX).unwrap_err();
                    for keep in keeps(0..4) {
                        let context = format!("seed {seed}, operation {n}, {fault:?}, {keep:?}");
                        check(&disk.power_cut(keep), 5, there, &context);
                    }
                    disk.thaw();
                    check(&disk, 5, there, &format!("seed {seed}, operation {n}, restart"));
                }
            }
        }
    }

    #[test]
    fn no_torn_write_loses_what_was_acknowledged() {
        let mut torn = 0;
        for seed in 0..1_500 {
            let disk = SimDisk::new();
            let mut log = open_clean(&disk, 1 << 20);
            let (acknowledged, attempted) = (seed % 7, seed % 7 + 1 + seed % 20);
            log.append(&payloads(0..acknowledged)).unwrap();
            disk.freeze_at(disk.operations(), Fault::Persisted);
            log.append(&payloads(acknowledged..attempted)).unwrap_err();
            let after = disk.power_cut(Keep::Torn { seed });
            let rehearsal = after.power_cut(Keep::Everything);
            torn += u64::from(open(&rehearsal, SEGMENT_BYTES_MAX).unwrap().1.is_some());
            check(&after, acknowledged, attempted, &format!("seed {seed}"));
        }
        assert!(torn > 500, "only {torn} of the power cuts left a torn tail");
    }

    #[test]
    fn a_failed_sync_poisons_the_log_for_good() {
        let disk = SimDisk::new();
        let mut log = open_clean(&disk, SEGMENT_BYTES_MAX);
        log.append(&payloads(0..3)).unwrap();
        let reader = log.reader();
        disk.fail_at(disk.operations() + 1, Fault::Lost);
        let failed = log.append(&payloads(3..5)).unwrap_err();
        assert!(matches!(failed, LogError::Io { operation: "sync", .. }), "{failed}");
        for _ in 0..3 {
            assert!(matches!(log.append(&payloads(3..5)), Err(LogError::Poisoned)));
        }
        // Readers go on, and do not see what may not be durable.
        assert_eq!(reader.next_index(), 3);
        assert_eq!(reader.read(2).unwrap(), payload(2));
        assert!(matches!(reader.read(3), Err(LogError::OutOfRange { .. })));
    }
}

#[test]
fn readers_and_scans_go_on_while_the_writer_appends() {
    const FRAMES: u64 = 2_000;
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    let real_spec = LogSpec { dir: dir.clone(), ..spec(40_000) };
    let (mut log, _) = FrameLog::open(Arc::new(RealDisk), real_spec.clone(), ID).unwrap();
    let reader = log.reader();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for start in [1_u64, 2] {
            let (reader, done) = (reader.clone(), &done);
            scope.spawn(move || {
                let (mut seen, mut at) = (0, start);
                loop {
                    let last_round = done.load(Ordering::Acquire);
                    let next = reader.next_index();
                    assert!(next >= seen);
                    seen = next;
                    if next > 0 {
                        at = (at * 6_364_136_223 + 1) % next;
                        assert_eq!(reader.read(at).unwrap(), payload(at));
                        let page = reader.read_range(at, next, 20_000).unwrap();
                        assert_eq!(page, payloads(at..at + page.len() as u64));
                    }
                    if last_round {
                        break;
                    }
                }
                assert_eq!(seen, FRAMES);
            });
        }
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                let before = reader.next_index();
                let (end, frames) = scan_from(&RealDisk, &dir, 0).unwrap();
                assert!(end.frames >= before);
                assert_eq!(frames, payloads(0..end.frames));
            }
        });
        let mut next = 0;
        while next < FRAMES {
            let end = (next + 1 + next % 40).min(FRAMES);
            log.append(&payloads(next..end)).unwrap();
            next = end;
        }
        done.store(true, Ordering::Release);
    });
    let (log, torn) = FrameLog::open(Arc::new(RealDisk), real_spec, ID).unwrap();
    assert_eq!((all(&log), torn), (payloads(0..FRAMES), None));
}

#[test]
fn the_format_is_the_one_in_the_fixture() {
    let disk = SimDisk::new();
    let mut log = open_clean(&disk, 120);
    log.append(&["one", "two"]).unwrap();
    log.append(&["three"]).unwrap();
    let golden: Vec<Vec<u8>> = include_str!("../../../tests/fixtures/frame_log_v1.hex")
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let digits: String = line.split_whitespace().collect();
            (0..digits.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
                .collect()
        })
        .collect();
    let files: Vec<Vec<u8>> = disk.files().into_values().collect();
    assert_eq!(files.len(), 3);
    assert_eq!(files, golden);
}
