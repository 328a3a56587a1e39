//! The mapping from the columns of a CSV file to rows, a TOML file.
//!
//! `examples/import-mapping.toml` shows every field. Columns are found by the heading once, before any
//! row is sent. A blank field changes nothing. A value that the mapping does not list is rejected,
//! never guessed.

use std::{collections::BTreeMap, fs, path::Path};

use serde::Deserialize;

pub(super) use self::fields::Bound;
use self::parts::{ActorSource, Cell, Columns, Evidence, Template, Text, Time};
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

/// A mapping.
#[derive(Debug)]
pub(super) struct Mapping {
    /// Separator of the fields.
    pub delimiter: u8,
    /// SHA-256 of the file.
    pub digest: String,
    columns: Columns,
    subject: Template,
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
        let mapping = Self {
            delimiter: delimiter(raw.delimiter)?,
            digest: resume::digest(text.as_bytes()),
            subject: Template::parse("subject", &raw.subject, &mut columns)?,
            row_key: raw
                .row_key
                .map(|text| Template::parse("row_key", &text, &mut columns))
                .transpose()?,
            cells: raw
                .cells
                .into_iter()
                .map(|cell| Cell::new(cell, &mut columns))
                .collect::<Result<_, _>>()?,
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

fn delimiter(character: Option<char>) -> Result<u8, String> {
    u8::try_from(character.unwrap_or(','))
        .ok()
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

#[cfg(test)]
mod tests;
