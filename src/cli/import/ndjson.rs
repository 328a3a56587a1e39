//! Rows as NDJSON: the form of [`act`](crate::cli::act), with two differences. `actor` may be left
//! out and is then `import`, and `row_key` is the row's own key in its source; without it, an
//! `idempotency_key` serves.

use std::io::{self, BufRead, Read as _};

use jiff::Timestamp;
use serde::{Deserialize, Deserializer};

use super::{
    input::{self, Item, Place, ROW_BYTES_MAX, Source},
    rejects::Reject,
};
use crate::{
    cli::{
        act::{Change, Evidence, Preferences},
        error::CliError,
        words,
    },
    proto::{Actor, ImportRow},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRow {
    subject: String,
    #[serde(default, deserialize_with = "some_actor")]
    actor: Option<Actor>,
    #[serde(default)]
    changes: Vec<Change>,
    effective_at: Option<Timestamp>,
    evidence: Option<Evidence>,
    preferences: Option<Preferences>,
    #[serde(default)]
    idempotency_key: String,
    #[serde(default)]
    row_key: String,
}

fn some_actor<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Actor>, D::Error> {
    words::deserialize(from).map(Some)
}

impl RawRow {
    fn at(self, line: u64) -> ImportRow {
        let own_key = Some(self.row_key).filter(|key| !key.is_empty());
        ImportRow {
            line,
            subject: self.subject,
            actor: self.actor.unwrap_or(Actor::Unspecified).into(),
            changes: self.changes.into_iter().map(Into::into).collect(),
            effective_at: self.effective_at.map(words::wire_time),
            evidence: self.evidence.map(Into::into),
            preferences: self.preferences.map(Into::into),
            row_key: own_key.unwrap_or(self.idempotency_key),
        }
    }
}

/// Lines of NDJSON.
pub(super) struct Lines {
    from: Source,
    place: Place,
}

impl Lines {
    /// Reads from a place on.
    pub(super) fn new(from: Source, place: Place) -> Self {
        Self { from, place }
    }

    /// The bytes of the next line, and whether it is longer than may be; none at the end.
    fn line(&mut self) -> io::Result<Option<(Vec<u8>, bool)>> {
        let mut line = Vec::new();
        let most = u64::try_from(ROW_BYTES_MAX).unwrap_or(u64::MAX);
        (&mut self.from).take(most).read_until(b'\n', &mut line)?;
        self.place.pass(&line);
        let is_cut = line.len() == ROW_BYTES_MAX && line.last() != Some(&b'\n');
        if is_cut {
            self.skip_line()?;
        }
        Ok((!line.is_empty()).then_some((line, is_cut)))
    }

    fn skip_line(&mut self) -> io::Result<()> {
        loop {
            let bytes = self.from.fill_buf()?;
            let end = bytes.iter().position(|byte| *byte == b'\n').map(|end| end + 1);
            let read = end.unwrap_or(bytes.len());
            self.place.pass(&bytes[..read]);
            self.from.consume(read);
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
                let row = if is_cut { Err(too_long(start.line)) } else { row(bytes, start.line) };
                return Some(Ok(Item { row, end: self.place }));
            }
        }
    }
}

fn row(bytes: &[u8], line: u64) -> Result<ImportRow, Reject> {
    let raw: Result<RawRow, _> = serde_json::from_slice(bytes);
    raw.map(|raw| raw.at(line)).map_err(|error| not_a_row(line, error.to_string()))
}

fn too_long(line: u64) -> Reject {
    not_a_row(line, format!("longer than {ROW_BYTES_MAX} bytes"))
}

fn not_a_row(line: u64, message: String) -> Reject {
    Reject { line, field: String::new(), reason: "not_a_row".to_owned(), message }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn read(text: impl Into<Vec<u8>>) -> Vec<Item> {
        let from = Box::new(Cursor::new(text.into()));
        Lines::new(from, Place::START).map(|item| item.unwrap()).collect()
    }

    #[test]
    fn a_line_is_an_act_with_an_optional_actor_and_key() {
        let act = r#""changes":[{"action":"grant","scope":{"purpose":"a","channel":"email"}}]"#;
        let items = read(format!(
            "\u{feff}{{\"subject\":\"user:1\",{act},\"row_key\":\"k\",\"idempotency_key\":\"i\"}}\r\n\
             \n{{\"subject\":\"user:2\",\"actor\":\"subject\",\"idempotency_key\":\"i\"}}"
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
        let text = ["{\"subject\":\"user:1\",\"sbject\":1}", "\nnot json", &long, "{}"].concat();
        let items = read([text.as_bytes(), b"\n{\"subject\":\"\xff\"}\n"].concat());
        let rejects: Vec<_> = items.iter().map(|item| item.row.as_ref().unwrap_err()).collect();
        let lines: Vec<_> = rejects.iter().map(|reject| reject.line).collect();
        assert_eq!(lines, [1, 2, 3, 4, 5]);
        assert!(rejects[0].message.contains("unknown field `sbject`"), "{rejects:?}");
        assert!(rejects[2].message.contains("longer than"));
        assert!(rejects[3].message.contains("missing field `subject`"));
    }

    #[test]
    fn reading_goes_on_at_any_place() {
        let text = "{\"subject\":\"user:1\"}\n{\"subject\":\"user:2\"}\n";
        let end = read(text)[0].end;
        let rest = text[usize::try_from(end.offset).unwrap()..].to_owned();
        let mut lines = Lines::new(Box::new(Cursor::new(rest)), end);
        let item = lines.next().unwrap().unwrap();
        assert_eq!(item.row.unwrap().line, 2);
        assert_eq!(item.end.offset, u64::try_from(text.len()).unwrap());
        assert!(lines.next().is_none());
    }
}
