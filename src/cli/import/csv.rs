//! Records of CSV (RFC 4180), each with its exact place, so that an import can resume after it.
//!
//! A quote that is opened and not closed must not swallow the rows after it, and a text in quotes must not
//! bring rows in. A record that spans lines is compared with the [`Shape`] of a row:
//!
//! - If it is no row, or its quote is never closed, it is broken, and reading goes on at the next line that
//!   has the shape of a row.
//! - If it is a row, and its first line and a line inside it are rows by themselves, nobody can tell which
//!   reading is right. Its stops count under both, its grants under neither.
//!
//! A row on a line that such a quote may hold brings its stops, and never a grant.
//!
//! The [mapping](super::mapping) gives the fields a meaning.

use super::{
    doubt::{Doubt, Guard},
    input::{self, Item, Place, ROW_BYTES_MAX, Source, line_ends},
    lines::END_MARK,
    mapping::Bound,
};
use crate::{cli::error::CliError, proto::ImportReject};

/// Delimiters that are tried on a heading.
const DELIMITERS: [u8; 4] = [b',', b';', b'\t', b'|'];
/// Number of consumed bytes after which the buffer is moved.
const CONSUMED_BYTES_MAX: usize = 64 * 1024;

/// One record.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// Line on which it begins.
    pub line: u64,
    /// Why its grants are not imported, if they are not.
    pub doubt: Option<Doubt>,
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

/// Offsets of the lines of a text after the first.
fn line_starts(text: &[u8]) -> Vec<usize> {
    let is_start = |at: &usize| {
        let before = at.checked_sub(1).and_then(|before| text.get(before));
        match before {
            Some(b'\n') => true,
            Some(b'\r') => text.get(*at) != Some(&b'\n'),
            _ => false,
        }
    };
    (1..text.len()).filter(is_start).collect()
}

/// What the rows of a file look like.
pub(super) trait Shape {
    /// Whether a record has the right number of fields.
    fn fits(&self, record: &Record) -> bool;
    /// Whether a record fits, names a data subject as another record may do, and changes something.
    fn changes_something(&self, record: &Record, like: &Record) -> bool;
    /// Whether two records name their data subjects in the same form, for example both by a number.
    fn are_alike(&self, record: &Record, other: &Record) -> bool;
}

/// A record, or the lines that hold none.
#[derive(Debug)]
pub(super) enum Read {
    Record(Record),
    /// A record that spans lines, and its first line as a record by itself.
    Doubtful(Record, Record),
    Broken(Broken),
}

/// Lines that hold no record, because a quote was opened and not closed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Broken {
    /// Line on which the record begins.
    pub line: u64,
    /// Line on which the quote opens; none if the line has none.
    pub quote_line: Option<u64>,
    /// Last line that is left out.
    pub last_line: u64,
    /// Whether the record is longer than the maximum.
    pub is_too_long: bool,
}

impl Broken {
    fn reject(&self) -> ImportReject {
        let Self { line, quote_line, last_line, is_too_long } = *self;
        let problem = match quote_line {
            Some(quote) if is_too_long => format!(
                "a quote that opens on line {quote} is not closed within {ROW_BYTES_MAX} bytes"
            ),
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
    /// Whether the maximum length was reached.
    is_too_long: bool,
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
            let Some(scan) = self.scan()? else { return Ok(None) };
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
        self.skip_held_lines(shape)?;
        let Some(scan) = self.scan()? else { return Ok(None) };
        let is_row = scan.fault.is_none() && shape.fits(&scan.record);
        let fault = match scan.spanning {
            Some(quote) if !is_row => Some(scan.fault.unwrap_or(quote)),
            _ => scan.fault,
        };
        if let Some(fault) = fault {
            let end = scan.length;
            return self.skip_broken(fault, end, shape).map(|broken| Some(Read::Broken(broken)));
        }
        if scan.spanning.is_some()
            && let Some(held) = self.held_row(&scan, shape)?
        {
            return Ok(Some(self.take_doubtful(scan, held)));
        }
        Ok(Some(Read::Record(self.take(scan))))
    }

    fn take(&mut self, scan: Scan) -> Record {
        let doubt = self.place.guard.map(|guard| guard.doubt);
        let record = Record { line: self.place.line, doubt, ..scan.record };
        self.consume(scan.length);
        record
    }

    /// Skips blank lines and, among the lines of a row that is in doubt, those that are no row.
    fn skip_held_lines(&mut self, shape: &dyn Shape) -> Result<(), CliError> {
        loop {
            self.skip_line_ends()?;
            self.place.guard = self.place.guard.filter(|guard| self.place.offset < guard.end);
            if !matches!(self.place.guard, Some(Guard { doubt: Doubt::IsHeld(_), .. })) {
                return Ok(());
            }
            let Some(scan) = self.scan()? else { return Ok(()) };
            let length = self.line_length(0)?;
            let plain = Record::plain(self.bytes(0, length), self.delimiter);
            let is_row = scan.fault.is_none() && shape.fits(&scan.record);
            if is_row || shape.fits(&plain) {
                return Ok(());
            }
            self.consume(length);
        }
    }

    /// The offset of the first line within a row that spans lines, from which on it may be another row; none
    /// if the row is one row.
    fn held_row(&mut self, scan: &Scan, shape: &dyn Shape) -> Result<Option<usize>, CliError> {
        let text = without_line_end(self.bytes(0, scan.length)).to_vec();
        let mut starts = line_starts(&text);
        let first_end = starts.first().copied().unwrap_or(text.len());
        let first = text.get(..first_end).unwrap_or_default();
        let last = starts.pop();
        // A row whose quote is not closed is a row up to the end of its line. A first field that is blank or
        // spans lines names nobody.
        let named = scan.record.field(0).trim_ascii();
        let names_nobody = named.is_empty() || named.iter().any(|byte| is_line_end(*byte));
        if names_nobody || shape.fits(&Record::plain(first, self.delimiter)) {
            for start in starts.into_iter().chain(last) {
                let rows = self.rows_at(start, &text)?;
                if rows.iter().any(|row| shape.changes_something(row, &scan.record)) {
                    return Ok(Some(start));
                }
            }
            return Ok(None);
        }
        // Otherwise it is two rows only if it spans lines itself.
        let Some(start) = last else { return Ok(None) };
        let is_row = |row: &Record| {
            shape.changes_something(row, &scan.record) && shape.are_alike(row, &scan.record)
        };
        Ok(self.rows_at(start, &text)?.iter().any(is_row).then_some(start))
    }

    /// The records that may begin at an offset: the line without quotes, the line with quotes, and what
    /// begins there and spans lines.
    fn rows_at(&mut self, start: usize, text: &[u8]) -> Result<Vec<Record>, CliError> {
        let rest = text.get(start..).unwrap_or_default();
        let line = rest.split(|byte| is_line_end(*byte)).next().unwrap_or_default();
        let mut rows = vec![Record::plain(line, self.delimiter)];
        rows.extend(strict(line, self.delimiter));
        if rest.len() == line.len() {
            self.consumed += start;
            let spanning = self.scan();
            self.consumed -= start;
            rows.extend(spanning?.filter(|scan| scan.fault.is_none()).map(|scan| scan.record));
        }
        Ok(rows)
    }

    /// A row that may be two: the whole, and its first line. Reading goes on at the line that may be a row.
    fn take_doubtful(&mut self, scan: Scan, held: usize) -> Read {
        let line = self.place.line;
        let doubt = Some(Doubt::HoldsRow(line + line_ends(self.bytes(0, held))));
        let first_end = line_starts(self.bytes(0, scan.length)).first().copied();
        let first = Record::plain(self.bytes(0, first_end.unwrap_or(0)), self.delimiter);
        self.doubt_until(scan.length, Doubt::IsHeld(line));
        self.consume(held);
        Read::Doubtful(Record { line, doubt, ..scan.record }, Record { line, doubt, ..first })
    }

    /// Skips the line of an open quote, and all lines after it that do not have the shape of a row. What
    /// the quote may hold ends at an offset.
    fn skip_broken(
        &mut self,
        fault: Unclosed,
        end: usize,
        shape: &dyn Shape,
    ) -> Result<Broken, CliError> {
        let line = self.place.line;
        let before = fault.quote.unwrap_or(0);
        let quote_line = fault.quote.map(|quote| line + line_ends(self.bytes(0, quote)));
        if let Some(quote) = quote_line {
            self.doubt_until(end, Doubt::BehindQuote(quote));
        }
        let length = self.line_length(before)?;
        self.consume(before + length);
        let mut last_line = quote_line.unwrap_or(line);
        loop {
            self.skip_line_ends()?;
            let Some(scan) = self.scan()? else { break };
            let length = self.line_length(0)?;
            let plain = Record::plain(self.bytes(0, length), self.delimiter);
            if (scan.fault.is_none() && shape.fits(&scan.record)) || shape.fits(&plain) {
                break;
            }
            last_line = self.place.line;
            self.consume(length);
        }
        Ok(Broken { line, quote_line, last_line, is_too_long: fault.is_too_long })
    }

    /// Doubts the rows that begin before an offset from the place.
    fn doubt_until(&mut self, length: usize, doubt: Doubt) {
        let end = self.place.offset.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
        let longer = self.place.guard.filter(|guard| guard.end >= end);
        self.place.guard = longer.or(Some(Guard { end, doubt }));
    }

    /// Scans a record; none at the end.
    fn scan(&mut self) -> Result<Option<Scan>, CliError> {
        if self.byte(0)?.is_none() {
            return Ok(None);
        }
        let (record, length) = (Record::default(), 0);
        let mut scan = Scan { record, length, fault: None, spanning: None };
        loop {
            if self.byte(scan.length)? == Some(b'"') {
                self.scan_quoted(&mut scan)?;
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
                scan.fault = Some(Unclosed { quote, is_too_long: true });
                return Ok(true);
            }
        }
        scan.record.end_field();
        Ok(true)
    }

    /// Scans a field in quotes, up to the closing one.
    fn scan_quoted(&mut self, scan: &mut Scan) -> Result<(), CliError> {
        let quote = scan.length;
        let unclosed = Unclosed { quote: Some(quote), is_too_long: false };
        let mut spans_lines = false;
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
            }
            if scan.length > ROW_BYTES_MAX {
                let open = scan.spanning.unwrap_or(unclosed);
                scan.fault = Some(Unclosed { is_too_long: true, ..open });
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
        if self.byte(0)? == Some(END_MARK) && self.byte(1)?.is_none() {
            self.consume(1);
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
    let scan = Records::new(source, delimiter, Place::START).scan().ok()??;
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
                Read::Doubtful(whole, first) => {
                    let whole = self.mapping.compile(&whole);
                    whole.with_rows_of(self.mapping.compile(&first))
                }
                Read::Broken(broken) => broken.reject().into(),
            };
            Item { compiled, end }
        }))
    }
}

#[cfg(test)]
mod tests;
