//! Records of CSV (RFC 4180), each with its exact place, so that an import can resume after it.
//!
//! A quote that is opened and not closed must not swallow the rows after it: a record that spans lines is
//! compared with the [`Shape`] of a row. If a line inside it is a row by itself, the record is broken:
//! reading goes on at the next line that has the shape of a row.
//!
//! The [mapping](super::mapping) gives the fields a meaning.

use super::{
    input::{self, Item, Place, ROW_BYTES_MAX, Source, line_ends},
    mapping::Bound,
};
use crate::{cli::error::CliError, proto::ImportReject};

/// Maximum length of a field in quotes, in bytes.
const QUOTED_BYTES_MAX: usize = 256 * 1024;
/// Delimiters that are tried on a heading.
const DELIMITERS: [u8; 4] = [b',', b';', b'\t', b'|'];
/// Number of consumed bytes after which the buffer is moved.
const CONSUMED_BYTES_MAX: usize = 64 * 1024;

/// One record.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// Line on which it begins.
    pub line: u64,
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Record {
    /// Number of fields.
    pub(super) fn width(&self) -> usize {
        self.ends.len()
    }

    /// A field; empty if the record has fewer.
    pub(super) fn field(&self, index: usize) -> &[u8] {
        let start = index.checked_sub(1).map_or(Some(0), |before| self.ends.get(before).copied());
        let end = self.ends.get(index).copied();
        start.zip(end).and_then(|(start, end)| self.bytes.get(start..end)).unwrap_or_default()
    }

    fn end_field(&mut self) {
        self.ends.push(self.bytes.len());
    }

    /// A line whose quotes mean nothing, except around a whole field.
    fn plain(line: &[u8], delimiter: u8) -> Self {
        let mut record = Self::default();
        for field in without_line_end(line).split(|byte| *byte == delimiter) {
            let field = field.strip_prefix(b"\"").unwrap_or(field);
            record.bytes.extend(field.strip_suffix(b"\"").unwrap_or(field));
            record.end_field();
        }
        record
    }
}

fn without_line_end(line: &[u8]) -> &[u8] {
    let end = line.iter().rposition(|byte| !is_line_end(*byte)).map_or(0, |last| last + 1);
    line.get(..end).unwrap_or_default()
}

fn is_line_end(byte: u8) -> bool {
    matches!(byte, b'\r' | b'\n')
}

/// What the rows of a file look like.
pub(super) trait Shape {
    /// Whether a record has the right number of fields.
    fn fits(&self, record: &Record) -> bool;
    /// Whether a record fits, and each of its cells has a known value or is blank.
    fn is_known(&self, record: &Record) -> bool;
    /// Whether a record fits, names a data subject in the form in which another record does, as far as that
    /// one is read, and changes something.
    fn changes_something(&self, record: &Record, like: &Record) -> bool;
}

/// A record, or the lines that hold none.
#[derive(Debug)]
pub(super) enum Read {
    Record(Record),
    Broken(Broken),
}

/// Lines that hold no record, because a quote was opened and not closed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Broken {
    /// Line on which the record begins.
    pub line: u64,
    /// Line on which the quote opens; none if the line is too long.
    pub quote_line: Option<u64>,
    /// Last line that is left out.
    pub last_line: u64,
}

impl Broken {
    fn reject(&self) -> ImportReject {
        let Self { line, quote_line, last_line } = *self;
        let problem = match quote_line {
            Some(quote) => format!("a quote that opens on line {quote} is not closed"),
            None => format!("is longer than {ROW_BYTES_MAX} bytes"),
        };
        let rest = match last_line {
            last if last > line => format!("; lines {line} to {last} are left out"),
            _ => String::new(),
        };
        ImportReject {
            line,
            field: String::new(),
            reason: "not_a_row".to_owned(),
            message: problem + &rest,
        }
    }
}

/// The end of a scan, which consumes nothing.
struct Scan {
    record: Record,
    /// Number of bytes, with the line end.
    length: usize,
    /// Set if the record is broken.
    fault: Option<Unclosed>,
    /// First field in quotes that spans lines.
    spanning: Option<Unclosed>,
}

/// A quote that is not closed, or an endless line.
#[derive(Clone, Copy)]
struct Unclosed {
    /// Offset of the quote.
    quote: Option<usize>,
}

/// Reads records.
pub(super) struct Records {
    source: Source,
    /// Bytes of the source; those before `consumed` are consumed.
    buffer: Vec<u8>,
    consumed: usize,
    delimiter: u8,
    place: Place,
}

impl Records {
    /// Reads from a place on.
    pub(super) fn new(source: Source, delimiter: u8, place: Place) -> Self {
        Self { source, buffer: Vec::new(), consumed: 0, delimiter, place }
    }

    /// The place after the last record.
    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// The delimiter.
    pub(super) fn delimiter(&self) -> u8 {
        self.delimiter
    }

    /// The heading; none if the input is empty. Without a given delimiter, the file says it in a first line
    /// such as `sep=;`, or else it is the one with which the heading has most of the columns.
    pub(super) fn heading(
        &mut self,
        delimiter: Option<u8>,
        known_columns: impl Fn(&Record) -> usize,
    ) -> Result<Option<Record>, CliError> {
        self.skip_byte_order_mark()?;
        self.skip_line_ends()?;
        let declared = self.declared_delimiter()?;
        let candidates = delimiter.or(declared).map_or(DELIMITERS.to_vec(), |it| vec![it]);
        let mut best: Option<(usize, Scan, u8)> = None;
        for candidate in candidates {
            self.delimiter = candidate;
            let Some(scan) = self.scan(None)? else { return Ok(None) };
            let known = known_columns(&scan.record);
            let score = |known: usize, scan: &Scan| (known, scan.record.width());
            if best.as_ref().is_none_or(|(most, of, _)| score(known, &scan) > score(*most, of)) {
                best = Some((known, scan, candidate));
            }
        }
        let Some((_, scan, delimiter)) = best else { return Ok(None) };
        self.delimiter = delimiter;
        Ok(Some(self.take(scan)))
    }

    /// Skips a first line such as `sep=;`, and answers its delimiter.
    fn declared_delimiter(&mut self) -> Result<Option<u8>, CliError> {
        let length = self.line_length(0)?;
        let line = without_line_end(self.bytes(0, length));
        let line = line.strip_prefix(b"\"").and_then(|it| it.strip_suffix(b"\"")).unwrap_or(line);
        let declared = match line {
            [b's' | b'S', b'e' | b'E', b'p' | b'P', b'=', delimiter] => *delimiter,
            _ => return Ok(None),
        };
        self.consume(length);
        self.skip_line_ends()?;
        Ok(Some(declared))
    }

    /// The next record; none at the end.
    pub(super) fn next(&mut self, shape: &dyn Shape) -> Result<Option<Read>, CliError> {
        self.skip_line_ends()?;
        let Some(scan) = self.scan(Some(shape))? else { return Ok(None) };
        let fault = match scan.spanning {
            Some(quote) if scan.fault.is_none() && !self.is_whole(&scan, shape)? => Some(quote),
            _ => scan.fault,
        };
        match fault {
            None => Ok(Some(Read::Record(self.take(scan)))),
            Some(fault) => self.skip_broken(fault, shape).map(|it| Some(Read::Broken(it))),
        }
    }

    fn take(&mut self, scan: Scan) -> Record {
        let record = Record { line: self.place.line, ..scan.record };
        self.consume(scan.length);
        record
    }

    /// Whether a record that spans lines is one record, and not a row that swallowed the next.
    fn is_whole(&mut self, scan: &Scan, shape: &dyn Shape) -> Result<bool, CliError> {
        if !shape.fits(&scan.record) {
            return Ok(false);
        }
        let text = without_line_end(self.bytes(0, scan.length));
        let mut lines = text.split(|byte| is_line_end(*byte));
        let first = lines.next().unwrap_or_default();
        if !shape.is_known(&Record::plain(first, self.delimiter)) {
            return Ok(true);
        }
        // A line may begin in one field and end in another.
        if lines.any(|line| self.is_row(line, &scan.record, shape)) {
            return Ok(false);
        }
        let last = text.rsplit(|byte| is_line_end(*byte)).next().unwrap_or_default();
        // The last line may begin a row that spans lines, too.
        let last_start = text.len() - last.len();
        self.consumed += last_start;
        let from_last = self.scan(Some(shape));
        self.consumed -= last_start;
        let is_row = |it: &Scan| shape.changes_something(&it.record, &scan.record);
        Ok(!from_last?.is_some_and(|it| it.fault.is_none() && is_row(&it)))
    }

    /// Whether a line within a record is a row by itself.
    fn is_row(&self, line: &[u8], within: &Record, shape: &dyn Shape) -> bool {
        let is_row = |record: &Record| shape.changes_something(record, within);
        is_row(&Record::plain(line, self.delimiter))
            || strict(line, self.delimiter).is_some_and(|record| is_row(&record))
    }

    /// Skips the line of an open quote, and all lines after it that do not have the shape of a row.
    fn skip_broken(&mut self, fault: Unclosed, shape: &dyn Shape) -> Result<Broken, CliError> {
        let line = self.place.line;
        let before = fault.quote.unwrap_or(0);
        let quote_line = fault.quote.map(|quote| line + line_ends(self.bytes(0, quote)));
        let length = self.line_length(before)?;
        self.consume(before + length);
        let mut last_line = quote_line.unwrap_or(line);
        loop {
            self.skip_line_ends()?;
            let Some(scan) = self.scan(Some(shape))? else { break };
            let length = self.line_length(0)?;
            let plain = Record::plain(self.bytes(0, length), self.delimiter);
            if (scan.fault.is_none() && shape.fits(&scan.record)) || shape.fits(&plain) {
                break;
            }
            last_line = self.place.line;
            self.consume(length);
        }
        Ok(Broken { line, quote_line, last_line })
    }

    /// Scans a record; none at the end. With a shape, a line inside quotes that is a row ends the scan.
    fn scan(&mut self, shape: Option<&dyn Shape>) -> Result<Option<Scan>, CliError> {
        if self.byte(0)?.is_none() {
            return Ok(None);
        }
        let (record, length) = (Record::default(), 0);
        let mut scan = Scan { record, length, fault: None, spanning: None };
        loop {
            if self.byte(scan.length)? == Some(b'"') {
                self.scan_quoted(&mut scan, shape)?;
            }
            if scan.fault.is_some() {
                return Ok(Some(scan));
            }
            if self.scan_plain(&mut scan)? {
                return Ok(Some(scan));
            }
        }
    }

    /// Scans the rest of a field after its closing quote, or a field without quotes, and answers whether the
    /// record ends there.
    fn scan_plain(&mut self, scan: &mut Scan) -> Result<bool, CliError> {
        loop {
            let byte = self.byte(scan.length)?;
            scan.length += usize::from(byte.is_some());
            match byte {
                Some(byte) if byte == self.delimiter => {
                    scan.record.end_field();
                    return Ok(false);
                }
                None | Some(b'\n') => break,
                Some(b'\r') => {
                    scan.length += usize::from(self.byte(scan.length)? == Some(b'\n'));
                    break;
                }
                Some(byte) => scan.record.bytes.push(byte),
            }
            if scan.length > ROW_BYTES_MAX {
                let quote = scan.spanning.and_then(|spanning| spanning.quote);
                scan.fault = Some(Unclosed { quote });
                return Ok(true);
            }
        }
        scan.record.end_field();
        Ok(true)
    }

    /// Scans a field in quotes, up to the closing one.
    fn scan_quoted(&mut self, scan: &mut Scan, shape: Option<&dyn Shape>) -> Result<(), CliError> {
        let quote = scan.length;
        let unclosed = Unclosed { quote: Some(quote) };
        let (mut spans_lines, mut line_start) = (false, None);
        scan.length += 1;
        loop {
            let Some(byte) = self.byte(scan.length)? else {
                scan.fault = Some(scan.spanning.unwrap_or(unclosed));
                return Ok(());
            };
            scan.length += 1;
            match byte {
                b'"' if self.byte(scan.length)? == Some(b'"') => scan.length += 1,
                b'"' => break,
                _ => {}
            }
            scan.record.bytes.push(byte);
            if is_line_end(byte) {
                spans_lines = true;
                scan.spanning.get_or_insert(unclosed);
                let end = scan.length;
                let is_row = |start: usize, shape: &dyn Shape| {
                    self.is_row(self.bytes(start, end), &scan.record, shape)
                };
                if line_start.zip(shape).is_some_and(|(start, shape)| is_row(start, shape)) {
                    scan.fault = scan.spanning;
                    return Ok(());
                }
                line_start = Some(end);
            }
            if scan.length - quote > QUOTED_BYTES_MAX {
                scan.fault = scan.spanning.or(Some(unclosed));
                return Ok(());
            }
        }
        // Text after a closing quote is common on one line. Over several, the quote closes another field.
        let mut after = scan.length;
        while matches!(self.byte(after)?, Some(b' ' | b'\t')) && self.delimiter != b'\t' {
            after += 1;
        }
        let is_end = self.byte(after)?.is_none_or(|it| it == self.delimiter || is_line_end(it));
        if spans_lines && !is_end {
            scan.fault = scan.spanning;
        }
        Ok(())
    }

    /// Length of the line at an offset, with its end.
    fn line_length(&mut self, offset: usize) -> Result<usize, CliError> {
        let mut length = 0;
        loop {
            match self.byte(offset + length)? {
                None => return Ok(length),
                Some(b'\n') => return Ok(length + 1),
                Some(b'\r') => {
                    let is_pair = self.byte(offset + length + 1)? == Some(b'\n');
                    return Ok(length + 1 + usize::from(is_pair));
                }
                Some(_) => length += 1,
            }
        }
    }

    fn skip_byte_order_mark(&mut self) -> Result<(), CliError> {
        if self.place.offset == 0 && self.byte(2)?.is_some() && self.bytes(0, 3) == b"\xef\xbb\xbf"
        {
            self.consume(3);
        }
        Ok(())
    }

    fn skip_line_ends(&mut self) -> Result<(), CliError> {
        while self.byte(0)?.is_some_and(is_line_end) {
            let length = self.line_length(0)?;
            self.consume(length);
        }
        Ok(())
    }

    /// The byte at an offset from the place; none at the end.
    fn byte(&mut self, offset: usize) -> Result<Option<u8>, CliError> {
        loop {
            if let Some(byte) = self.buffer.get(self.consumed + offset) {
                return Ok(Some(*byte));
            }
            let read = self.source.fill_buf().map_err(|error| input::failed(self.place, error))?;
            if read.is_empty() {
                return Ok(None);
            }
            self.buffer.extend(read);
            let length = read.len();
            self.source.consume(length);
        }
    }

    /// Bytes that are read, between two offsets from the place.
    fn bytes(&self, start: usize, end: usize) -> &[u8] {
        self.buffer.get(self.consumed + start..self.consumed + end).unwrap_or_default()
    }

    /// Moves the place past bytes that are read.
    fn consume(&mut self, length: usize) {
        let bytes = self.buffer.get(self.consumed..self.consumed + length).unwrap_or_default();
        self.place.pass(bytes);
        self.consumed += length;
        if self.consumed > CONSUMED_BYTES_MAX {
            self.buffer.drain(..self.consumed);
            self.consumed = 0;
        }
    }
}

/// One line as a record with quotes; none if a quote stays open.
fn strict(line: &[u8], delimiter: u8) -> Option<Record> {
    let source: Source = Box::new(std::io::Cursor::new(line.to_vec()));
    let scan = Records::new(source, delimiter, Place::START).scan(None).ok()??;
    scan.fault.is_none().then_some(scan.record)
}

/// The rows of a CSV file.
pub(super) struct CsvRows {
    /// Records after the heading.
    pub records: Records,
    /// The mapping from their fields to rows.
    pub mapping: Bound,
}

impl Iterator for CsvRows {
    type Item = Result<Item, CliError>;

    fn next(&mut self) -> Option<Self::Item> {
        let read = self.records.next(&self.mapping).transpose()?;
        let end = self.records.place();
        Some(read.map(|read| {
            let compiled = match read {
                Read::Record(record) => self.mapping.compile(&record),
                Read::Broken(broken) => broken.reject().into(),
            };
            Item { compiled, end }
        }))
    }
}

#[cfg(test)]
mod tests;
