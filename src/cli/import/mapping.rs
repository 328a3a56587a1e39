//! What the columns of a CSV file mean: a TOML file.
//!
//! `examples/import-mapping.toml` shows every field. Names of columns are resolved against the
//! heading once, before anything is sent. A field that is blank says nothing, and so changes
//! nothing; a field that the mapping does not know is a reject, never a guess.

use std::{collections::BTreeMap, fs, path::Path};

use serde::Deserialize;

use super::{
    csv::Record,
    rejects::Reject,
    resume,
    times::{RawTime, TimeFormat},
};
use crate::{
    cli::{error::CliError, words},
    domain::Key,
    proto::{self, Action, Actor, ImportRow},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMapping {
    subject: String,
    delimiter: Option<char>,
    row_key: Option<String>,
    #[serde(default)]
    cells: Vec<RawCell>,
    effective_at: Option<RawTime>,
    expires_at: Option<RawTime>,
    actor: Option<RawActor>,
    #[serde(default)]
    evidence: RawEvidence,
    #[serde(default)]
    preferences: RawPreferences,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCell {
    column: String,
    purpose: String,
    channel: String,
    #[serde(default)]
    grant: Vec<String>,
    #[serde(default)]
    refuse: Vec<String>,
    #[serde(default)]
    withdraw: Vec<String>,
    #[serde(default)]
    object: Vec<String>,
    #[serde(default)]
    purpose_version: u32,
    #[serde(default)]
    data_categories: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawActor {
    column: Option<String>,
    constant: Option<String>,
    words: Option<BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEvidence {
    touchpoint: Option<RawText>,
    method: Option<RawText>,
    notice_id: Option<RawText>,
    notice_version: Option<RawText>,
    language: Option<RawText>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPreferences {
    language: Option<RawText>,
    time_zone: Option<RawText>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawText {
    column: Option<String>,
    constant: Option<String>,
}

/// A column, by its place in [`Columns`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Column(usize);

/// The names of columns that a mapping uses.
#[derive(Debug, Default)]
struct Columns(Vec<String>);

impl Columns {
    fn add(&mut self, name: &str) -> Column {
        let known = self.0.iter().position(|known| known == name);
        Column(known.unwrap_or_else(|| {
            self.0.push(name.to_owned());
            self.0.len() - 1
        }))
    }
}

/// A text from a column, or the same for all rows.
#[derive(Debug)]
enum Text {
    Column(Column),
    Constant(String),
}

impl Text {
    fn new(
        what: &str,
        column: Option<String>,
        constant: Option<String>,
        columns: &mut Columns,
    ) -> Result<Self, String> {
        match (column, constant) {
            (Some(column), None) => Ok(Self::Column(columns.add(&column))),
            (None, Some(constant)) => Ok(Self::Constant(constant)),
            _ => Err(format!("`{what}` needs either `column` or `constant`")),
        }
    }

    fn some(
        what: &str,
        raw: Option<RawText>,
        columns: &mut Columns,
    ) -> Result<Option<Self>, String> {
        raw.map(|raw| Self::new(what, raw.column, raw.constant, columns)).transpose()
    }
}

/// Text with columns in it, such as `user:{id}`.
#[derive(Debug)]
struct Template(Vec<Text>);

impl Template {
    fn parse(what: &str, text: &str, columns: &mut Columns) -> Result<Self, String> {
        let wrong = || format!("`{what}` must be like \"user:{{customer_id}}\", not \"{text}\"");
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (column, after) = after.split_once('}').ok_or_else(wrong)?;
            if column.is_empty() || before.contains('}') {
                return Err(wrong());
            }
            parts.push(Text::Constant(before.to_owned()));
            parts.push(Text::Column(columns.add(column)));
            rest = after;
        }
        if parts.is_empty() || rest.contains('}') {
            return Err(wrong());
        }
        parts.push(Text::Constant(rest.to_owned()));
        Ok(Self(parts))
    }

    fn fill(&self, fields: &Fields<'_>) -> Result<String, Wrong> {
        let mut filled = String::new();
        for part in &self.0 {
            filled += match part {
                Text::Constant(text) => text,
                Text::Column(column) => fields.some(*column)?.ok_or_else(|| {
                    fields.wrong(*column, "blank", "must not be blank".to_owned())
                })?,
            };
        }
        Ok(filled)
    }
}

#[derive(Debug)]
struct Cell {
    column: Column,
    scope: proto::Scope,
    words: BTreeMap<String, Action>,
    purpose_version: u32,
    data_categories: Vec<String>,
}

impl Cell {
    fn new(raw: RawCell, columns: &mut Columns) -> Result<Self, String> {
        let at = format!("the cell of column `{}`", raw.column);
        for (what, key) in [("purpose", &raw.purpose), ("channel", &raw.channel)] {
            if key != "*" {
                Key::parse(key).map_err(|error| format!("{at}: the {what} {error}"))?;
            } else if !raw.grant.is_empty() {
                return Err(format!("{at}: a grant covers exactly one cell, never `*`"));
            }
        }
        let given = [
            (Action::Grant, raw.grant),
            (Action::Refuse, raw.refuse),
            (Action::Withdraw, raw.withdraw),
            (Action::Object, raw.object),
        ];
        Ok(Self {
            words: cell_words(given).map_err(|error| format!("{at}: {error}"))?,
            column: columns.add(&raw.column),
            scope: proto::Scope { purpose: raw.purpose, channel: raw.channel },
            purpose_version: raw.purpose_version,
            data_categories: raw.data_categories,
        })
    }

    fn change(&self, fields: &Fields<'_>) -> Result<Option<proto::Change>, Wrong> {
        let Some(word) = fields.some(self.column)? else { return Ok(None) };
        let action = *self.words.get(word).ok_or_else(|| {
            let known: Vec<_> = self.words.keys().map(|word| format!("`{word}`")).collect();
            let message = format!("`{word}` is none of {}", known.join(", "));
            fields.wrong(self.column, "unknown_value", message)
        })?;
        let mut change = proto::Change {
            action: action.into(),
            scope: Some(self.scope.clone()),
            ..Default::default()
        };
        if action == Action::Grant {
            change.purpose_version = self.purpose_version;
            change.data_categories.clone_from(&self.data_categories);
        }
        Ok(Some(change))
    }
}

fn cell_words(given: [(Action, Vec<String>); 4]) -> Result<BTreeMap<String, Action>, String> {
    let mut words = BTreeMap::new();
    for (action, own) in given {
        for word in own {
            // Fields are compared without the spaces around them.
            if word.is_empty() || word.trim() != word {
                return Err(format!(
                    "\"{word}\" can not be a value: a blank field changes nothing, and spaces \
                     around a value do not count"
                ));
            }
            if words.insert(word.clone(), action).is_some() {
                return Err(format!("`{word}` stands there twice"));
            }
        }
    }
    if words.is_empty() {
        return Err("needs values in `grant`, `refuse`, `withdraw` or `object`".to_owned());
    }
    Ok(words)
}

#[derive(Debug)]
struct Time {
    column: Column,
    format: TimeFormat,
}

impl Time {
    fn new(what: &str, raw: RawTime, columns: &mut Columns) -> Result<Self, String> {
        let column = columns.add(&raw.column);
        let format = TimeFormat::new(raw).map_err(|error| format!("`{what}`: {error}"))?;
        Ok(Self { column, format })
    }

    fn read(&self, fields: &Fields<'_>) -> Result<Option<prost_types::Timestamp>, Wrong> {
        let Some(text) = fields.some(self.column)? else { return Ok(None) };
        let time = self.format.read(text);
        time.map(|time| Some(words::wire_time(time)))
            .map_err(|message| fields.wrong(self.column, "not_a_time", message))
    }
}

#[derive(Debug)]
enum Who {
    Constant(Actor),
    Column(Column, Option<BTreeMap<String, Actor>>),
}

impl Who {
    fn new(raw: RawActor, columns: &mut Columns) -> Result<Self, String> {
        let parse = |word: &str| words::parse(word).map_err(|error| format!("`actor`: {error}"));
        let text = Text::new("actor", raw.column, raw.constant, columns)?;
        match (text, raw.words) {
            (Text::Constant(word), None) => parse(&word).map(Self::Constant),
            (Text::Constant(_), Some(_)) => {
                Err("`actor`: `words` go with `column`, not with `constant`".to_owned())
            }
            (Text::Column(column), own) => {
                let own = own.map(|own| {
                    own.into_iter().map(|(from, to)| parse(&to).map(|to| (from, to))).collect()
                });
                Ok(Self::Column(column, own.transpose()?))
            }
        }
    }

    fn read(&self, fields: &Fields<'_>) -> Result<Actor, Wrong> {
        let (column, own) = match self {
            Self::Constant(actor) => return Ok(*actor),
            Self::Column(column, own) => (*column, own),
        };
        let Some(word) = fields.some(column)? else { return Ok(Actor::Unspecified) };
        let actor = match own {
            Some(own) => own.get(word).copied(),
            None => words::parse(word).ok(),
        };
        actor.ok_or_else(|| {
            fields.wrong(column, "unknown_value", format!("`{word}` is not a known actor"))
        })
    }
}

#[derive(Debug)]
struct Evidence {
    touchpoint: Option<Text>,
    method: Option<Text>,
    notice_id: Option<Text>,
    notice_version: Option<Text>,
    language: Option<Text>,
}

impl Evidence {
    fn new(raw: RawEvidence, columns: &mut Columns) -> Result<Self, String> {
        let mut text = |what, raw| Text::some(what, raw, columns);
        Ok(Self {
            touchpoint: text("evidence.touchpoint", raw.touchpoint)?,
            method: text("evidence.method", raw.method)?,
            notice_id: text("evidence.notice_id", raw.notice_id)?,
            notice_version: text("evidence.notice_version", raw.notice_version)?,
            language: text("evidence.language", raw.language)?,
        })
    }

    fn read(&self, fields: &Fields<'_>) -> Result<Option<proto::Evidence>, Wrong> {
        let evidence = proto::Evidence {
            touchpoint: fields.text(self.touchpoint.as_ref())?,
            method: fields.text(self.method.as_ref())?,
            notice_id: fields.text(self.notice_id.as_ref())?,
            notice_version: fields.text(self.notice_version.as_ref())?,
            language: fields.text(self.language.as_ref())?,
            ..Default::default()
        };
        Ok(Some(evidence).filter(|evidence| *evidence != proto::Evidence::default()))
    }
}

/// A mapping.
#[derive(Debug)]
pub(super) struct Mapping {
    /// What stands between two fields.
    pub delimiter: u8,
    /// SHA-256 of the file.
    pub digest: String,
    columns: Columns,
    subject: Template,
    row_key: Option<Template>,
    cells: Vec<Cell>,
    effective_at: Option<Time>,
    expires_at: Option<Time>,
    actor: Option<Who>,
    evidence: Evidence,
    language: Option<Text>,
    time_zone: Option<Text>,
}

impl Mapping {
    /// Reads a file.
    pub(super) fn read(path: &Path) -> Result<Self, CliError> {
        let text = fs::read_to_string(path).map_err(|error| CliError::file(path, error))?;
        Self::parse(&text).map_err(|error| {
            CliError::failed(format!("{}: {error}", path.display()))
                .with_hint("examples/import-mapping.toml shows every field")
        })
    }

    /// Takes the text of a file.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let raw: RawMapping =
            toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        let mut columns = Columns::default();
        let own = &mut columns;
        let template = |what, text: String, own: &mut Columns| Template::parse(what, &text, own);
        let mapping = Self {
            delimiter: delimiter(raw.delimiter)?,
            digest: resume::digest(text.as_bytes()),
            subject: template("subject", raw.subject, own)?,
            row_key: raw.row_key.map(|text| template("row_key", text, own)).transpose()?,
            cells: raw
                .cells
                .into_iter()
                .map(|cell| Cell::new(cell, own))
                .collect::<Result<_, _>>()?,
            effective_at: raw
                .effective_at
                .map(|raw| Time::new("effective_at", raw, own))
                .transpose()?,
            expires_at: raw.expires_at.map(|raw| Time::new("expires_at", raw, own)).transpose()?,
            actor: raw.actor.map(|actor| Who::new(actor, own)).transpose()?,
            evidence: Evidence::new(raw.evidence, own)?,
            language: Text::some("preferences.language", raw.preferences.language, own)?,
            time_zone: Text::some("preferences.time_zone", raw.preferences.time_zone, own)?,
            columns,
        };
        let says_something =
            !mapping.cells.is_empty() || mapping.language.is_some() || mapping.time_zone.is_some();
        says_something.then_some(mapping).ok_or("needs `cells` or `preferences`".to_owned())
    }

    /// Finds the columns in a heading.
    pub(super) fn bind(self, heading: &Record) -> Result<Bound, CliError> {
        let names: Vec<_> = (0..heading.width())
            .map(|index| String::from_utf8_lossy(heading.field(index)).trim().to_owned())
            .collect();
        let positions = self.columns.0.iter().map(|name| position(name, &names));
        let positions = positions.collect::<Result<_, _>>()?;
        Ok(Bound { positions, width: names.len(), mapping: self })
    }
}

fn delimiter(own: Option<char>) -> Result<u8, String> {
    let delimiter = u8::try_from(own.unwrap_or(',')).ok();
    delimiter
        .filter(|byte| byte.is_ascii() && !matches!(byte, b'"' | b'\r' | b'\n'))
        .ok_or_else(|| "`delimiter` must be one ASCII character, such as \";\"".to_owned())
}

fn position(name: &str, names: &[String]) -> Result<usize, CliError> {
    let mut found = names.iter().enumerate().filter(|(_, known)| *known == name);
    match (found.next(), found.next()) {
        (Some((position, _)), None) => Ok(position),
        (Some(_), Some(_)) => {
            Err(CliError::failed(format!("the file has the column `{name}` twice")))
        }
        (None, _) => {
            let known: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
            Err(CliError::failed(format!("the file has no column `{name}`"))
                .with_hint(format!("it has {}", known.join(", "))))
        }
    }
}

/// A mapping whose columns are found.
#[derive(Debug)]
pub(super) struct Bound {
    mapping: Mapping,
    /// For each of the mapping's columns: its field.
    positions: Vec<usize>,
    width: usize,
}

/// Why a record is no row.
struct Wrong {
    field: String,
    reason: &'static str,
    message: String,
}

impl Bound {
    /// A record as a row.
    pub(super) fn row(&self, record: &Record) -> Result<ImportRow, Reject> {
        let fields = Fields { bound: self, record };
        fields.row().map_err(|wrong| Reject {
            line: record.line,
            field: wrong.field,
            reason: wrong.reason.to_owned(),
            message: wrong.message,
        })
    }
}

/// The fields of one record.
struct Fields<'a> {
    bound: &'a Bound,
    record: &'a Record,
}

impl<'a> Fields<'a> {
    fn row(&self) -> Result<ImportRow, Wrong> {
        self.check_width()?;
        let mapping = &self.bound.mapping;
        let time = |time: &Option<Time>| time.as_ref().map_or(Ok(None), |time| time.read(self));
        Ok(ImportRow {
            line: self.record.line,
            subject: mapping.subject.fill(self)?,
            actor: mapping
                .actor
                .as_ref()
                .map_or(Ok(Actor::Unspecified), |who| who.read(self))?
                .into(),
            changes: self.changes(time(&mapping.expires_at)?)?,
            effective_at: time(&mapping.effective_at)?,
            evidence: mapping.evidence.read(self)?,
            preferences: self.preferences()?,
            row_key: mapping.row_key.as_ref().map_or(Ok(String::new()), |key| key.fill(self))?,
        })
    }

    fn check_width(&self) -> Result<(), Wrong> {
        let (is, want) = (self.record.width(), self.bound.width);
        if is == want {
            return Ok(());
        }
        let message = format!("has {is} fields, and the heading {want}");
        Err(Wrong { field: String::new(), reason: "not_a_row", message })
    }

    fn changes(
        &self,
        expires_at: Option<prost_types::Timestamp>,
    ) -> Result<Vec<proto::Change>, Wrong> {
        let changes =
            self.bound.mapping.cells.iter().filter_map(|cell| cell.change(self).transpose());
        let with_expiry = |mut change: proto::Change| {
            if change.action() == Action::Grant {
                change.expires_at = expires_at;
            }
            change
        };
        changes.map(|change| change.map(with_expiry)).collect()
    }

    fn preferences(&self) -> Result<Option<proto::ContactPreferences>, Wrong> {
        let mapping = &self.bound.mapping;
        let zone = self.text(mapping.time_zone.as_ref())?;
        let preferences = proto::ContactPreferences {
            language: self.text(mapping.language.as_ref())?,
            time_zones: Some(zone).filter(|zone| !zone.is_empty()).into_iter().collect(),
            ..Default::default()
        };
        Ok(Some(preferences).filter(|own| *own != proto::ContactPreferences::default()))
    }

    fn text(&self, text: Option<&Text>) -> Result<String, Wrong> {
        Ok(match text {
            None => String::new(),
            Some(Text::Constant(text)) => text.clone(),
            Some(Text::Column(column)) => self.some(*column)?.unwrap_or_default().to_owned(),
        })
    }

    /// A field without the spaces around it; none if it is blank.
    fn some(&self, column: Column) -> Result<Option<&'a str>, Wrong> {
        let position = self.bound.positions.get(column.0).copied();
        let bytes = position.map(|position| self.record.field(position)).unwrap_or_default();
        let text = std::str::from_utf8(bytes)
            .map_err(|_| self.wrong(column, "not_utf8", "is not UTF-8".to_owned()))?;
        Ok(Some(text.trim()).filter(|text| !text.is_empty()))
    }

    fn wrong(&self, column: Column, reason: &'static str, message: String) -> Wrong {
        let name = self.bound.mapping.columns.0.get(column.0);
        Wrong { field: name.cloned().unwrap_or_default(), reason, message }
    }
}

#[cfg(test)]
mod tests;
