//! The mapping from the columns of a CSV file to rows, a TOML file.
//!
//! `examples/import-mapping.toml` shows every field. Columns are found by the heading once, before any
//! row is sent. A blank field changes nothing. A value that the mapping does not list is rejected,
//! never guessed. What is wrong in a row never takes a stop of the row with it.

use std::{collections::BTreeMap, fs, path::Path};

use serde::Deserialize;

pub(super) use self::fields::Bound;
use self::fields::trimmed;
use self::parts::{ActorSource, Cell, Columns, Evidence, Subjects, Template, Text, Time};
use super::{csv::Record, resume, times::RawTime};
use crate::cli::error::CliError;

mod fields;
mod parts;

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
    subject: Option<String>,
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
    nothing: Vec<String>,
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

/// A mapping.
#[derive(Debug)]
pub(super) struct Mapping {
    /// Separator of the fields; none if the file says it.
    pub delimiter: Option<u8>,
    /// SHA-256 of the file.
    pub digest: String,
    columns: Columns,
    /// The data subjects of a row: first its own, then those of cells that name another one.
    subjects: Vec<Template>,
    row_key: Option<Template>,
    cells: Vec<Cell>,
    effective_at: Option<Time>,
    expires_at: Option<Time>,
    actor: Option<ActorSource>,
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

    /// Parses the text of a file.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let raw: RawMapping =
            toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        let mut columns = Columns::default();
        let preferences = raw.preferences;
        let mut subjects = Subjects::new(&raw.subject, &mut columns)?;
        let mapping = Self {
            delimiter: raw.delimiter.map(delimiter).transpose()?,
            digest: resume::digest(text.as_bytes()),
            row_key: raw
                .row_key
                .map(|text| Template::parse("row_key", &text, &mut columns))
                .transpose()?,
            cells: raw
                .cells
                .into_iter()
                .map(|cell| Cell::new(cell, &mut subjects, &mut columns))
                .collect::<Result<_, _>>()?,
            subjects: subjects.into_templates(),
            effective_at: raw
                .effective_at
                .map(|raw| Time::new("effective_at", raw, &mut columns))
                .transpose()?,
            expires_at: raw
                .expires_at
                .map(|raw| Time::new("expires_at", raw, &mut columns))
                .transpose()?,
            actor: raw.actor.map(|raw| ActorSource::new(raw, &mut columns)).transpose()?,
            evidence: Evidence::new(raw.evidence, &mut columns)?,
            language: Text::optional("preferences.language", preferences.language, &mut columns)?,
            time_zone: Text::optional(
                "preferences.time_zone",
                preferences.time_zone,
                &mut columns,
            )?,
            columns,
        };
        let maps_something =
            !mapping.cells.is_empty() || mapping.language.is_some() || mapping.time_zone.is_some();
        maps_something.then_some(mapping).ok_or("needs `cells` or `preferences`".to_owned())
    }

    /// Number of columns of the mapping that a heading has.
    pub(super) fn known_columns(&self, heading: &Record) -> usize {
        let names = names(heading);
        self.columns.0.iter().filter(|name| position(name, &names).is_ok()).count()
    }

    /// Finds the columns in a heading.
    pub(super) fn bind(self, heading: &Record) -> Result<Bound, CliError> {
        let names = names(heading);
        let positions = self.columns.0.iter().map(|name| position(name, &names));
        let positions = positions.collect::<Result<_, _>>()?;
        Ok(Bound { positions, width: names.len(), mapping: self })
    }
}

fn names(heading: &Record) -> Vec<String> {
    let name = |index| trimmed(&String::from_utf8_lossy(heading.field(index))).to_owned();
    (0..heading.width()).map(name).collect()
}

fn delimiter(character: char) -> Result<u8, String> {
    u8::try_from(character)
        .ok()
        .filter(|byte| byte.is_ascii() && !matches!(byte, b'"' | b'\r' | b'\n'))
        .ok_or_else(|| "`delimiter` must be one ASCII character, such as \";\"".to_owned())
}

/// The position of a column: the one with exactly its name, or else the one whose name differs in case,
/// white space and quotes alone.
fn position(name: &str, names: &[String]) -> Result<usize, CliError> {
    let only = |is_same: &dyn Fn(&String) -> bool| {
        let mut found = names.iter().enumerate().filter(|(_, known)| is_same(known));
        match (found.next(), found.next()) {
            (None, _) => Ok(None),
            (Some((position, _)), None) => Ok(Some(position)),
            (Some(_), Some(_)) => {
                Err(CliError::failed(format!("the file has the column `{name}` twice")))
            }
        }
    };
    let plain = plain_name(name);
    let exact = only(&|known| known == trimmed(name))?;
    let position = match exact {
        Some(position) => Some(position),
        None => only(&|known| plain_name(known) == plain)?,
    };
    position.ok_or_else(|| {
        let known: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
        let encoding = match names.iter().any(|name| name.contains(char::REPLACEMENT_CHARACTER)) {
            true => "; it is not UTF-8: give --encoding, for example --encoding windows-1252",
            false => "",
        };
        CliError::failed(format!("the file has no column `{name}`"))
            .with_hint(format!("it has {}{encoding}", known.join(", ")))
    })
}

/// A name in lower case, without quotes around it, and with single spaces.
fn plain_name(name: &str) -> String {
    let is_quote = |character| matches!(character, '"' | '\'' | '`' | '\u{201c}'..='\u{201f}');
    let name = trimmed(trimmed(name).trim_matches(is_quote)).to_lowercase();
    name.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
