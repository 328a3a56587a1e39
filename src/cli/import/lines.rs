//! Lines of a file, as any system writes them: they end with LF, CRLF or CR, and a byte order mark or the
//! end mark of old systems is none of their text.

use std::io::{self, BufRead as _};

use super::input::{Place, ROW_BYTES_MAX, Source};

/// The end mark of old systems, Ctrl-Z.
pub(super) const END_MARK: u8 = 0x1a;

/// Lines with their places.
pub(in crate::cli) struct Lines {
    source: Source,
    place: Place,
}

/// One line, without its end.
#[derive(Debug)]
pub(in crate::cli) struct RawLine {
    /// The place of its first byte.
    pub start: Place,
    /// Its bytes, at most [`ROW_BYTES_MAX`].
    pub bytes: Vec<u8>,
    /// Whether it is longer.
    pub is_cut: bool,
}

impl Lines {
    /// Reads from a place on.
    pub(in crate::cli) fn new(source: Source, place: Place) -> Self {
        Self { source, place }
    }

    /// The place after the last line.
    pub(in crate::cli) fn place(&self) -> Place {
        self.place
    }

    /// The next line; none at the end.
    pub(in crate::cli) fn next(&mut self) -> io::Result<Option<RawLine>> {
        let (start, mut bytes, mut is_cut) = (self.place, Vec::new(), false);
        loop {
            let read = self.source.fill_buf()?;
            if read.is_empty() {
                if bytes.last() == Some(&END_MARK) {
                    bytes.pop();
                }
                let is_line = !bytes.is_empty();
                return Ok(is_line.then(|| RawLine {
                    start,
                    bytes: unmarked(bytes, start),
                    is_cut,
                }));
            }
            let end = read.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
            let text_length = end.unwrap_or(read.len());
            let is_carriage_return = end.is_some_and(|end| read.get(end) == Some(&b'\r'));
            let room = ROW_BYTES_MAX.saturating_sub(bytes.len());
            bytes.extend(read.iter().take(text_length.min(room)));
            is_cut |= text_length > room;
            self.pass(text_length + usize::from(end.is_some()));
            if is_carriage_return && self.source.fill_buf()?.first() == Some(&b'\n') {
                self.pass(1);
            }
            if end.is_some() {
                self.place.line += 1;
                return Ok(Some(RawLine { start, bytes: unmarked(bytes, start), is_cut }));
            }
        }
    }

    fn pass(&mut self, length: usize) {
        self.place.offset += u64::try_from(length).unwrap_or(u64::MAX);
        self.source.consume(length);
    }
}

/// Without a byte order mark at the beginning of the input.
fn unmarked(bytes: Vec<u8>, start: Place) -> Vec<u8> {
    match bytes.strip_prefix(b"\xef\xbb\xbf") {
        Some(rest) if start.offset == 0 => rest.to_vec(),
        _ => bytes,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn lines_are_the_same_with_every_end_and_mark() {
        for text in ["\u{feff}a\nb\n\nc", "a\r\nb\r\n\r\nc\r\n", "a\rb\r\rc\r", "a\nb\n\nc\n\u{1a}"]
        {
            let source: Source = Box::new(Cursor::new(text.to_owned()));
            let mut lines = Lines::new(source, Place::START);
            let mut found = Vec::new();
            while let Some(line) = lines.next().unwrap() {
                found.push((line.start.line, String::from_utf8(line.bytes).unwrap()));
            }
            let want = [(1, "a"), (2, "b"), (3, ""), (4, "c")];
            assert_eq!(found, want.map(|(line, text)| (line, text.to_owned())), "{text:?}");
            assert_eq!(lines.place().offset, u64::try_from(text.len()).unwrap());
        }
    }
}
