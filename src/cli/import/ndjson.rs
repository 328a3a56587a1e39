//! Rows as NDJSON: each line is an `ImportRow` in ProtoJSON without its `line`. An act in the format of
//! `replay` is a row, too; its default `rowKey` is its `idempotencyKey`.

use std::{
    collections::BTreeMap,
    io::{self, BufRead as _},
};

use serde::de::Error as _;
use serde_json::{Map, Value};

use super::input::{self, Compiled, Item, Place, ROW_BYTES_MAX, Source};
use crate::{
    cli::error::CliError,
    domain::keep_unreadable,
    json,
    proto::{Action, Change, ImportReject, ImportRow, ImportWarning},
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

    /// The bytes of the next line, and whether it was cut at the maximum length; none at the end. A line
    /// ends with LF, CRLF or CR: JSON has neither within a text.
    fn line(&mut self) -> io::Result<Option<(Vec<u8>, bool)>> {
        let (mut line, mut is_cut) = (Vec::new(), false);
        loop {
            let bytes = self.source.fill_buf()?;
            if bytes.is_empty() {
                return Ok((!line.is_empty()).then_some((line, is_cut)));
            }
            let end = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
            let read = end.map_or(bytes.len(), |end| end + 1);
            let is_carriage_return = end.is_some_and(|end| bytes.get(end) == Some(&b'\r'));
            let room = ROW_BYTES_MAX.saturating_sub(line.len());
            line.extend(bytes.iter().take(read.min(room)));
            is_cut |= read > room;
            self.pass(read);
            if is_carriage_return && self.source.fill_buf()?.first() == Some(&b'\n') {
                self.place.offset += 1;
                self.source.consume(1);
            }
            if end.is_some() {
                self.place.line += 1;
                return Ok(Some((line, is_cut)));
            }
        }
    }

    fn pass(&mut self, length: usize) {
        self.place.offset += u64::try_from(length).unwrap_or(u64::MAX);
        self.source.consume(length);
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
                let compiled = if is_cut {
                    not_a_row(start.line, format!("longer than {ROW_BYTES_MAX} bytes")).into()
                } else {
                    compile(bytes, start.line)
                };
                return Some(Ok(Item { compiled, end: self.place }));
            }
        }
    }
}

fn compile(bytes: &[u8], line: u64) -> Compiled {
    let fields: Map<String, Value> = match serde_json::from_slice(bytes) {
        Ok(fields) => fields,
        Err(error) => return not_a_row(line, error.to_string()).into(),
    };
    match read(fields.clone()) {
        Ok(row) => ImportRow { line, ..row }.into(),
        Err(error) => {
            let stops = readable_stops(fields, line);
            stops.unwrap_or_else(|| not_a_row(line, error.to_string()).into())
        }
    }
}

fn read(mut fields: Map<String, Value>) -> serde_json::Result<ImportRow> {
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

/// The stops of a row of which some fields can not be read; none if its stops are not clear. The fields that
/// can not be read are warnings, the changes are rejects; the grants of the row are not imported.
fn readable_stops(fields: Map<String, Value>, line: u64) -> Option<Compiled> {
    let mut compiled = Compiled::default();
    let (mut readable, mut unreadable) = (Map::new(), BTreeMap::new());
    let mut changes = Vec::new();
    for (name, value) in fields {
        match value {
            Value::Array(items) if name == "changes" => changes = items,
            value => match read(Map::from_iter([(name.clone(), value.clone())])) {
                Ok(_) => drop(readable.insert(name, value)),
                Err(error) => {
                    keep_unreadable(&mut unreadable, &name, &value.to_string());
                    compiled.warnings.push(left_out(line, name, &error));
                }
            },
        }
    }
    let mut row = read(readable).ok()?;
    for (position, change) in changes.into_iter().enumerate() {
        let fields = Map::from_iter([("changes".to_owned(), Value::Array(vec![change]))]);
        let field = format!("changes[{position}]");
        match read(fields) {
            Ok(read) => {
                let is_grant = |change: &Change| change.action() == Action::Grant;
                let (grants, stops): (Vec<_>, Vec<_>) =
                    read.changes.into_iter().partition(is_grant);
                row.changes.extend(stops);
                compiled.rejects.extend(grants.iter().map(|_| {
                    let message = "is a grant of a row that can not be read as a whole".to_owned();
                    ImportReject { field: field.clone(), ..not_a_row(line, message) }
                }));
            }
            Err(error) => {
                compiled.rejects.push(ImportReject { field, ..not_a_row(line, error.to_string()) });
            }
        }
    }
    if row.subject.is_empty() || row.changes.is_empty() {
        return None;
    }
    if !unreadable.is_empty() {
        row.evidence.get_or_insert_default().unreadable.append(&mut unreadable);
    }
    compiled.rows.push(ImportRow { line, ..row });
    Some(compiled)
}

fn left_out(line: u64, field: String, error: &serde_json::Error) -> ImportWarning {
    let message = format!(
        "{error}; the stops of the row are imported without it, and no grant of the row is imported"
    );
    ImportWarning { line, field, reason: "not_a_row".to_owned(), message }
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
        let rows: Vec<_> = items.iter().map(|item| &item.compiled.rows[0]).collect();
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
        let rejects: Vec<_> = items.iter().map(|item| &item.compiled.rejects[0]).collect();
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
        assert_eq!(item.compiled.rows[0].line, 2);
        assert_eq!(item.end.offset, u64::try_from(text.len()).unwrap());
        assert!(lines.next().is_none());
    }
}
