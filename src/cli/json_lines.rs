//! Acts and rows as lines of NDJSON. Where something can not be read, or lost bytes in some encoding, the
//! stops of the line are read all the same, if their data subject and scope are clear.

use std::{borrow::Cow, collections::BTreeMap};

use prost::Name;
use serde::de::Error as _;
use serde_json::{Error, Map, Value};

use crate::{
    domain::keep_unreadable,
    json,
    proto::{Action, Change, Evidence, ImportRow, RecordConsentRequest},
};

/// What is wrong with a text that lost bytes.
const LOST_BYTES: &str = "has bytes that are not UTF-8, or U+FFFD in their place: name the encoding of the \
                          file, for example with --encoding windows-1252";

/// A message that names a data subject and changes.
pub(super) trait HasChanges: Name + Default {
    /// The data subject, the changes and the evidence.
    fn parts(&mut self) -> (&str, &mut Vec<Change>, &mut Option<Evidence>);
}

impl HasChanges for ImportRow {
    fn parts(&mut self) -> (&str, &mut Vec<Change>, &mut Option<Evidence>) {
        (&self.subject, &mut self.changes, &mut self.evidence)
    }
}

impl HasChanges for RecordConsentRequest {
    fn parts(&mut self) -> (&str, &mut Vec<Change>, &mut Option<Evidence>) {
        (&self.subject, &mut self.changes, &mut self.evidence)
    }
}

/// What a line comes to.
pub(super) enum LineRead<M> {
    /// The message that it holds.
    Whole(M),
    /// Something in it can not be read.
    Stops(Stops<M>),
}

/// The stops of a message, and what else was read. The grants are left out.
pub(super) struct Stops<M> {
    pub message: M,
    /// Fields that can not be read, with what is wrong and what is done.
    pub left_out: Vec<(String, String)>,
    /// Changes that are left out, by their place in the line, with why.
    pub refused: Vec<(String, String)>,
}

/// Reads a line; `read` makes a message of an object, or of one of its fields.
///
/// # Errors
/// The line is no such message, and has no stop that is clear.
pub(super) fn read<M: HasChanges>(
    line: &[u8],
    read: fn(Map<String, Value>) -> serde_json::Result<M>,
) -> serde_json::Result<LineRead<M>> {
    let fields = object(line)?;
    let is_whole = !fields.values().any(has_lost_bytes);
    let whole = if is_whole { read(fields.clone()) } else { Err(Error::custom(LOST_BYTES)) };
    whole.map(LineRead::Whole).or_else(|error| {
        let stops = readable_stops(fields, read);
        stops.map(LineRead::Stops).ok_or(error)
    })
}

fn readable_stops<M: HasChanges>(
    fields: Map<String, Value>,
    read: fn(Map<String, Value>) -> serde_json::Result<M>,
) -> Option<Stops<M>> {
    let read_part = |name: &str, value: &Value| match has_lost_bytes(value) {
        true => Err(Error::custom(LOST_BYTES)),
        false => read(Map::from_iter([(name.to_owned(), value.clone())])),
    };
    let (mut readable, mut unreadable) = (Map::new(), BTreeMap::new());
    let (mut changes, mut left_out) = (Vec::new(), Vec::new());
    for (name, value) in fields {
        match value {
            Value::Array(items) if name == "changes" => changes = items,
            value => match read_part(&name, &value) {
                Ok(_) => drop(readable.insert(name, value)),
                Err(error) => {
                    keep_unreadable(&mut unreadable, &name, &value.to_string());
                    let done =
                        "the stops of the row are recorded without it, and no grant of the row is";
                    left_out.push((name, format!("{error}; {done}")));
                }
            },
        }
    }
    let mut message = read(readable).ok()?;
    let (mut stops, mut refused) = (Vec::new(), Vec::new());
    for (position, change) in changes.into_iter().enumerate() {
        let field = format!("changes[{position}]");
        match read_part("changes", &Value::Array(vec![change])) {
            Err(error) => refused.push((field, error.to_string())),
            Ok(mut part) => {
                let (_, changes, _) = part.parts();
                let is_grant = |change: &Change| change.action() == Action::Grant;
                let (grants, clear): (Vec<_>, Vec<_>) = changes.drain(..).partition(is_grant);
                stops.extend(clear);
                let why = "is a grant of a row that can not be read as a whole";
                refused.extend(grants.iter().map(|_| (field.clone(), why.to_owned())));
            }
        }
    }
    let (subject, changes, evidence) = message.parts();
    if subject.is_empty() || stops.is_empty() {
        return None;
    }
    changes.extend(stops);
    if !unreadable.is_empty() {
        evidence.get_or_insert_default().unreadable.append(&mut unreadable);
    }
    Some(Stops { message, left_out, refused })
}

/// Reads the object of a line. Bytes that are no text, and halves of surrogate pairs, become U+FFFD.
///
/// # Errors
/// The line is not a JSON object, or an object of it has a field twice.
fn object(line: &[u8]) -> serde_json::Result<Map<String, Value>> {
    let text = String::from_utf8_lossy(line);
    json::object_from_str(&text).or_else(|error| match without_halves(&text) {
        Cow::Borrowed(_) => Err(error),
        Cow::Owned(text) => json::object_from_str(&text),
    })
}

/// Whether a text of a value lost bytes.
fn has_lost_bytes(value: &Value) -> bool {
    let is_lost = |text: &str| text.contains(char::REPLACEMENT_CHARACTER);
    match value {
        Value::String(text) => is_lost(text),
        Value::Array(items) => items.iter().any(has_lost_bytes),
        Value::Object(fields) => {
            fields.iter().any(|(name, value)| is_lost(name) || has_lost_bytes(value))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// JSON with `\ufffd` for each escape that is one half of a surrogate pair.
fn without_halves(text: &str) -> Cow<'_, str> {
    let (mut whole, mut copied, mut at) = (String::new(), 0, 0);
    while let Some(found) = text.get(at..).and_then(|rest| rest.find('\\')) {
        let escape = at + found;
        at = match (unit(text, escape), unit(text, escape + 6)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => escape + 12,
            (Some(0xd800..=0xdfff), _) => {
                whole += text.get(copied..escape).unwrap_or_default();
                whole += "\\ufffd";
                copied = escape + 6;
                copied
            }
            // The character after the backslash is escaped by it.
            _ => escape + 1 + text.get(escape + 1..).map_or(0, first_length),
        };
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    whole += text.get(copied..).unwrap_or_default();
    Cow::Owned(whole)
}

/// The code unit of an escape such as `\ud83d` at an offset.
fn unit(text: &str, at: usize) -> Option<u16> {
    let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
    u16::from_str_radix(digits, 16).ok()
}

fn first_length(text: &str) -> usize {
    text.chars().next().map_or(0, char::len_utf8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_of_a_text_leaves_the_rest() {
        for (line, text) in [
            (&b"{\"a\":\"caf\xe9\"}"[..], "caf\u{fffd}"),
            (br#"{"a":"x\ud800y"}"#, "x\u{fffd}y"),
            (br#"{"a":"\udc00\ud83d"}"#, "\u{fffd}\u{fffd}"),
            (br#"{"a":"\ud83d\ude00\ud83d"}"#, "\u{1f600}\u{fffd}"),
            (br#"{"a":"\\ud800 \ud800"}"#, "\\ud800 \u{fffd}"),
        ] {
            let object = object(line).unwrap();
            assert_eq!(object["a"], text);
            assert!(has_lost_bytes(&object["a"]));
        }
        let whole = object(br#"{"a":"\\ud800","b":["\ud83d\ude00"]}"#).unwrap();
        assert!(!whole.values().any(has_lost_bytes));
        assert!(object(br#"{"a":"\u12"}"#).is_err());
        assert!(object(br#"["a"]"#).is_err());
    }
}
