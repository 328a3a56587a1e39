//! Rows as NDJSON: each line is an `ImportRow` in ProtoJSON without its `line`. An act in the format of
//! `replay` is a row, too; its default `rowKey` is its `idempotencyKey`.

use std::io::{self, BufRead, Read as _};

use serde::de::Error as _;
use serde_json::{Map, Value};

use super::input::{self, Item, Place, ROW_BYTES_MAX, Source};
use crate::{
    cli::error::CliError,
    json,
    proto::{ImportReject, ImportRow},
};

/// Lines of NDJSON.
pub(super) struct Lines {
    source: Source,
    place: Place,
}

impl Lines {
    /// Reads from a place on.
    pub(super) fn new(source: Source, place: Place) -> Self {
        Self { source, place }
    }

    /// The bytes of the next line, and whether it was cut at the maximum length; none at the end.
    fn line(&mut self) -> io::Result<Option<(Vec<u8>, bool)>> {
        let mut line = Vec::new();
        let bytes_max = u64::try_from(ROW_BYTES_MAX).unwrap_or(u64::MAX);
        (&mut self.source).take(bytes_max).read_until(b'\n', &mut line)?;
        self.place.pass(&line);
        let is_cut = line.len() == ROW_BYTES_MAX && line.last() != Some(&b'\n');
        if is_cut {
            self.skip_line()?;
        }
        Ok((!line.is_empty()).then_some((line, is_cut)))
    }

    fn skip_line(&mut self) -> io::Result<()> {
        loop {
            let bytes = self.source.fill_buf()?;
            let end = bytes.iter().position(|byte| *byte == b'\n').map(|end| end + 1);
            let read = end.unwrap_or(bytes.len());
            self.place.pass(&bytes[..read]);
            self.source.consume(read);
            if end.is_some() || read == 0 {
                return Ok(());
            }
        }
    }
}

impl Iterator for Lines {
    type Item = Result<Item, CliError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let start = self.place;
            let (bytes, is_cut) = match self.line() {
                Ok(line) => line?,
                Err(error) => return Some(Err(input::failed(start, error))),
            };
            let bytes = match start.offset {
                0 => bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes),
                _ => &bytes,
            };
            if !bytes.trim_ascii().is_empty() {
                let row = if is_cut {
                    Err(not_a_row(start.line, format!("longer than {ROW_BYTES_MAX} bytes")))
                } else {
                    row(bytes, start.line)
                };
                return Some(Ok(Item { row, end: self.place }));
            }
        }
    }
}

fn row(bytes: &[u8], line: u64) -> Result<ImportRow, ImportReject> {
    let read = read(bytes).map_err(|error| not_a_row(line, error.to_string()))?;
    Ok(ImportRow { line, ..read })
}

fn read(bytes: &[u8]) -> serde_json::Result<ImportRow> {
    let mut fields: Map<String, Value> = serde_json::from_slice(bytes)?;
    // An act has this field, under either name; a row does not.
    let key = ["idempotencyKey", "idempotency_key"].iter().find_map(|name| fields.remove(*name));
    let mut row: ImportRow = json::deserialize(Value::Object(fields))?;
    if row.line != 0 {
        return Err(serde_json::Error::custom("`line` is counted by the import"));
    }
    match key {
        None | Some(Value::Null) => {}
        Some(Value::String(key)) if row.row_key.is_empty() => row.row_key = key,
        Some(Value::String(_)) => {}
        Some(_) => return Err(serde_json::Error::custom("`idempotencyKey` must be a string")),
    }
    Ok(row)
}

fn not_a_row(line: u64, message: String) -> ImportReject {
    ImportReject { line, field: String::new(), reason: "not_a_row".to_owned(), message }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::proto::Actor;

    fn items(text: impl Into<Vec<u8>>) -> Vec<Item> {
        let from = Box::new(Cursor::new(text.into()));
        Lines::new(from, Place::START).map(|item| item.unwrap()).collect()
    }

    #[test]
    fn a_line_is_a_row_or_an_act() {
        let change = r#"{"action":"ACTION_GRANT","scope":{"purpose":"a","channel":"email"}}"#;
        let items = items(format!(
            "\u{feff}{{\"subject\":\"user:1\",\"changes\":[{change}],\"rowKey\":\"k\",\
             \"idempotencyKey\":\"i\"}}\r\n\
             \n{{\"subject\":\"user:2\",\"actor\":\"ACTOR_SUBJECT\",\"idempotency_key\":\"i\"}}"
        ));
        let rows: Vec<_> = items.iter().map(|item| item.row.as_ref().unwrap()).collect();
        assert_eq!(
            (rows[0].line, rows[0].actor(), &*rows[0].row_key),
            (1, Actor::Unspecified, "k")
        );
        assert_eq!((rows[1].line, rows[1].actor(), &*rows[1].row_key), (3, Actor::Subject, "i"));
        assert_eq!((rows[0].changes.len(), rows[1].changes.len()), (1, 0));
        assert_eq!(items[1].end.line, 3);
    }

    #[test]
    fn what_is_not_a_row_is_a_reject_with_its_line() {
        let long = format!("\n{{\"subject\":\"{}\"}}\n", "x".repeat(2 * ROW_BYTES_MAX));
        let text = ["{\"subject\":\"user:1\",\"sbject\":1}", "\nnot json", &long].concat();
        let more = "{\"line\":\"9\"}\n{\"changes\":[{\"action\":\"grant\"}]}\n\
                    {\"idempotencyKey\":7}\n{\"subject\":\"";
        let items = items([text.as_bytes(), more.as_bytes(), b"\xff\"}\n"].concat());
        let rejects: Vec<_> = items.iter().map(|item| item.row.as_ref().unwrap_err()).collect();
        let lines: Vec<_> = rejects.iter().map(|reject| reject.line).collect();
        assert_eq!(lines, [1, 2, 3, 4, 5, 6, 7]);
        for (at, message) in [
            (0, "unrecognized field name 'sbject'"),
            (2, "longer than"),
            (3, "`line` is counted"),
            (4, "unrecognized enum value 'grant'"),
            (5, "`idempotencyKey` must be a string"),
        ] {
            assert!(rejects[at].message.contains(message), "{rejects:?}");
        }
    }

    #[test]
    fn reading_goes_on_at_any_place() {
        let text = "{\"subject\":\"user:1\"}\n{\"subject\":\"user:2\"}\n";
        let end = items(text)[0].end;
        let rest = text[usize::try_from(end.offset).unwrap()..].to_owned();
        let mut lines = Lines::new(Box::new(Cursor::new(rest)), end);
        let item = lines.next().unwrap().unwrap();
        assert_eq!(item.row.unwrap().line, 2);
        assert_eq!(item.end.offset, u64::try_from(text.len()).unwrap());
        assert!(lines.next().is_none());
    }
}
