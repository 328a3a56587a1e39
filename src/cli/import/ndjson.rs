//! Rows as NDJSON: each line is an `ImportRow` in ProtoJSON without its `line`. An act in the format of
//! `replay` is a row, too; its default `rowKey` is its `idempotencyKey`.

use serde::de::Error as _;
use serde_json::{Error, Map, Value};

use super::{
    input::{self, Compiled, Item, Place, ROW_BYTES_MAX, Source},
    lines::Lines,
};
use crate::{
    cli::{
        error::CliError,
        json_lines::{self, LineRead, Stops},
    },
    json,
    proto::{ImportReject, ImportRow, ImportWarning},
};

const NOT_A_ROW: &str = "not_a_row";

/// The rows of an NDJSON file.
pub(super) struct NdjsonRows(Lines);

impl NdjsonRows {
    /// Reads from a place on.
    pub(super) fn new(source: Source, place: Place) -> Self {
        Self(Lines::new(source, place))
    }
}

impl Iterator for NdjsonRows {
    type Item = Result<Item, CliError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let before = self.0.place();
            let line = match self.0.next() {
                Ok(line) => line?,
                Err(error) => return Some(Err(input::failed(before, error))),
            };
            if !line.bytes.trim_ascii().is_empty() {
                let number = line.start.line;
                let compiled = if line.is_cut {
                    not_a_row(number, format!("longer than {ROW_BYTES_MAX} bytes")).into()
                } else {
                    compile(&line.bytes, number)
                };
                return Some(Ok(Item { compiled, end: self.0.place() }));
            }
        }
    }
}

fn compile(bytes: &[u8], line: u64) -> Compiled {
    match json_lines::read(bytes, read) {
        Ok(LineRead::Whole(row)) => ImportRow { line, ..row }.into(),
        Ok(LineRead::Stops(stops)) => of_stops(stops, line),
        Err(error) => not_a_row(line, error.to_string()).into(),
    }
}

/// The stops of a row of which something else can not be read: the fields are warnings, the changes rejects.
fn of_stops(stops: Stops<ImportRow>, line: u64) -> Compiled {
    let Stops { message, left_out, refused } = stops;
    let warning =
        |(field, message)| ImportWarning { line, field, reason: NOT_A_ROW.to_owned(), message };
    let reject = |(field, message)| ImportReject { field, ..not_a_row(line, message) };
    Compiled {
        rows: vec![ImportRow { line, ..message }],
        rejects: refused.into_iter().map(reject).collect(),
        warnings: left_out.into_iter().map(warning).collect(),
    }
}

fn read(mut fields: Map<String, Value>) -> serde_json::Result<ImportRow> {
    // An act has this field, under either name; a row does not.
    let key = ["idempotencyKey", "idempotency_key"].iter().find_map(|name| fields.remove(*name));
    let mut row: ImportRow = json::from_object(fields)?;
    if row.line != 0 {
        return Err(Error::custom("`line` is counted by the import"));
    }
    match key {
        None | Some(Value::Null) => {}
        Some(Value::String(key)) if row.row_key.is_empty() => row.row_key = key,
        Some(Value::String(_)) => {}
        Some(_) => return Err(Error::custom("`idempotencyKey` must be a string")),
    }
    Ok(row)
}

fn not_a_row(line: u64, message: String) -> ImportReject {
    ImportReject { line, field: String::new(), reason: NOT_A_ROW.to_owned(), message }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::proto::Actor;

    fn items(text: impl Into<Vec<u8>>) -> Vec<Item> {
        let from = Box::new(Cursor::new(text.into()));
        NdjsonRows::new(from, Place::START).map(|item| item.unwrap()).collect()
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
        let mut lines = NdjsonRows::new(Box::new(Cursor::new(rest)), end);
        let item = lines.next().unwrap().unwrap();
        assert_eq!(item.compiled.rows[0].line, 2);
        assert_eq!(item.end.offset, u64::try_from(text.len()).unwrap());
        assert!(lines.next().is_none());
    }
}
