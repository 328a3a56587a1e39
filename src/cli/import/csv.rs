//! Records of CSV (RFC 4180), each with its exact place, so that an import can resume after it.
//!
//! The [mapping](super::mapping) gives the fields a meaning.

use std::io::BufRead as _;

use csv_core::{ReadRecordResult, Reader, ReaderBuilder};

use super::{
    input::{self, Item, Place, ROW_BYTES_MAX, Source},
    mapping::Bound,
};
use crate::cli::error::CliError;

/// One record.
#[derive(Debug)]
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
}

/// Reads records.
pub(super) struct Records {
    source: Source,
    core: Box<Reader>,
    place: Place,
}

impl Records {
    /// Reads from a place on.
    pub(super) fn new(source: Source, delimiter: u8, place: Place) -> Self {
        let core = Box::new(ReaderBuilder::new().delimiter(delimiter).build());
        Self { source, core, place }
    }

    /// The place after the last record.
    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// The next record; none at the end.
    pub(super) fn next(&mut self) -> Result<Option<Record>, CliError> {
        self.skip_line_ends()?;
        let start = self.place;
        let mut record = Record { line: start.line, bytes: vec![0; 1_024], ends: vec![0; 64] };
        let (mut written, mut ended) = (0, 0);
        loop {
            let bytes = self.source.fill_buf().map_err(|error| input::failed(start, error))?;
            let (result, read, wrote, ends) = self.core.read_record(
                bytes,
                &mut record.bytes[written..],
                &mut record.ends[ended..],
            );
            self.place.pass(&bytes[..read]);
            self.source.consume(read);
            written += wrote;
            ended += ends;
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull => record.bytes.resize(longer(written, start)?, 0),
                ReadRecordResult::OutputEndsFull => record.ends.resize(longer(ended, start)?, 0),
                ReadRecordResult::End => return Ok(None),
                ReadRecordResult::Record => break,
            }
        }
        record.bytes.truncate(written);
        record.ends.truncate(ended);
        Ok(Some(record))
    }

    /// Skips empty lines and the rest of a CRLF.
    fn skip_line_ends(&mut self) -> Result<(), CliError> {
        loop {
            let bytes = self.source.fill_buf().map_err(|error| input::failed(self.place, error))?;
            let ends = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            let is_all = ends == bytes.len() && ends > 0;
            self.place.pass(&bytes[..ends]);
            self.source.consume(ends);
            if !is_all {
                return Ok(());
            }
        }
    }
}

/// An endless record stops the import: rejecting it would lose all rows after it.
fn longer(length: usize, start: Place) -> Result<usize, CliError> {
    if length >= ROW_BYTES_MAX {
        let message = format!(
            "the record that begins on line {} is longer than {ROW_BYTES_MAX} bytes",
            start.line
        );
        return Err(CliError::failed(message).with_hint("is a quote left open there?"));
    }
    Ok((2 * length).clamp(1_024, ROW_BYTES_MAX))
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
        let record = self.records.next().transpose()?;
        let end = self.records.place();
        Some(record.map(|record| Item { row: self.mapping.row(&record), end }))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn records(text: &str, place: Place) -> Records {
        let rest = text[usize::try_from(place.offset).unwrap()..].to_owned();
        Records::new(Box::new(Cursor::new(rest)), b',', place)
    }

    fn fields(record: &Record) -> Vec<String> {
        (0..record.width())
            .map(|index| String::from_utf8(record.field(index).to_vec()).unwrap())
            .collect()
    }

    const TEXT: &str = "\u{feff}id,text\n1,\"a \"\"b\"\"\nc\"\n\n\n2,d\n3\n4,,\n5,";

    #[test]
    fn records_have_their_lines_with_either_line_end() {
        for text in [TEXT.to_owned(), TEXT.replace('\n', "\r\n")] {
            let mut records = records(&text, Place::START);
            let mut found = Vec::new();
            while let Some(record) = records.next().unwrap() {
                found.push((record.line, fields(&record).join("|").replace('\r', "")));
            }
            let want =
                [(1, "id|text"), (2, "1|a \"b\"\nc"), (6, "2|d"), (7, "3"), (8, "4||"), (9, "5|")];
            assert_eq!(found, want.map(|(line, text)| (line, text.to_owned())));
            assert_eq!(records.place().offset, u64::try_from(text.len()).unwrap());
        }
    }

    #[test]
    fn reading_goes_on_after_any_record() {
        for text in [TEXT.to_owned(), TEXT.replace('\n', "\r\n")] {
            let mut first = records(&text, Place::START);
            while first.next().unwrap().is_some() {
                let mut rest = records(&text, first.place());
                let mut same = records(&text, Place::START);
                while same.place() != first.place() {
                    same.next().unwrap();
                }
                while let Some(record) = same.next().unwrap() {
                    let other = rest.next().unwrap().unwrap();
                    assert_eq!((record.line, fields(&record)), (other.line, fields(&other)));
                }
                assert!(rest.next().unwrap().is_none());
            }
        }
    }

    #[test]
    fn wide_and_long_records_are_read_and_endless_ones_are_not() {
        let wide = format!("{}\n{}\n", "x,".repeat(500), "y".repeat(100_000));
        let mut wide = records(&wide, Place::START);
        assert_eq!(wide.next().unwrap().unwrap().width(), 501);
        assert_eq!(wide.next().unwrap().unwrap().field(0).len(), 100_000);
        let open = format!("a\n\"b\n{}", "c\n".repeat(ROW_BYTES_MAX));
        let mut open = records(&open, Place::START);
        open.next().unwrap();
        assert!(open.next().unwrap_err().to_string().contains("begins on line 2"));
    }
}
