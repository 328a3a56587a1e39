//! The parts of a mapping: the source of each part of a row, and how it is parsed.

use std::collections::BTreeMap;

use super::{
    super::times::{RawTime, TimeFormat},
    RawActor, RawCell, RawEvidence, RawText,
    fields::{Fields, Invalid, trimmed},
};
use crate::{
    cli::words::{self, Readings},
    proto::{self, Action, Actor},
};

/// A column, by its index in [`Columns`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Column(pub(super) usize);

/// The names of the columns of a mapping.
#[derive(Debug, Default)]
pub(super) struct Columns(pub(super) Vec<String>);

impl Columns {
    pub(super) fn add(&mut self, name: &str) -> Column {
        let known = self.0.iter().position(|known| known == name);
        Column(known.unwrap_or_else(|| {
            self.0.push(name.to_owned());
            self.0.len() - 1
        }))
    }
}

/// A text from a column, or a constant.
#[derive(Debug)]
pub(super) enum Text {
    Column(Column),
    Constant(String),
}

impl Text {
    pub(super) fn new(
        field: &str,
        column: Option<String>,
        constant: Option<String>,
        columns: &mut Columns,
    ) -> Result<Self, String> {
        match (column, constant) {
            (Some(column), None) => Ok(Self::Column(columns.add(&column))),
            (None, Some(constant)) => Ok(Self::Constant(constant)),
            _ => Err(format!("`{field}` needs either `column` or `constant`")),
        }
    }

    pub(super) fn optional(
        field: &str,
        raw: Option<RawText>,
        columns: &mut Columns,
    ) -> Result<Option<Self>, String> {
        raw.map(|raw| Self::new(field, raw.column, raw.constant, columns)).transpose()
    }
}

/// A text with placeholders for columns, such as `user:{id}`.
#[derive(Debug)]
pub(super) struct Template(Vec<Text>);

impl Template {
    pub(super) fn parse(field: &str, text: &str, columns: &mut Columns) -> Result<Self, String> {
        let malformed =
            || format!("`{field}` must be like \"user:{{customer_id}}\", not \"{text}\"");
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (column, after) = after.split_once('}').ok_or_else(malformed)?;
            if column.is_empty() || before.contains('}') {
                return Err(malformed());
            }
            parts.push(Text::Constant(before.to_owned()));
            parts.push(Text::Column(columns.add(column)));
            rest = after;
        }
        if parts.is_empty() || rest.contains('}') {
            return Err(malformed());
        }
        parts.push(Text::Constant(rest.to_owned()));
        Ok(Self(parts))
    }

    pub(super) fn fill(&self, fields: &Fields<'_>) -> Result<String, Invalid> {
        let mut filled = String::new();
        for part in &self.0 {
            filled += match part {
                Text::Constant(text) => text,
                Text::Column(column) => fields.get(*column)?.ok_or_else(|| {
                    fields.invalid(*column, "blank", "must not be blank".to_owned())
                })?,
            };
        }
        Ok(filled)
    }
}

/// The data subjects that a mapping names, each with its text.
#[derive(Debug)]
pub(super) struct Subjects(Vec<(String, Template)>);

impl Subjects {
    /// With that of the row.
    pub(super) fn new(text: &str, columns: &mut Columns) -> Result<Self, String> {
        let template = Template::parse("subject", text, columns)?;
        Ok(Self(vec![(text.to_owned(), template)]))
    }

    /// The index of that of a cell.
    fn add(&mut self, text: Option<String>, columns: &mut Columns) -> Result<usize, String> {
        let Some(text) = text else { return Ok(0) };
        if let Some(known) = self.0.iter().position(|(known, _)| *known == text) {
            return Ok(known);
        }
        let template = Template::parse("cells.subject", &text, columns)?;
        self.0.push((text, template));
        Ok(self.0.len() - 1)
    }

    pub(super) fn into_templates(self) -> Vec<Template> {
        self.0.into_iter().map(|(_, template)| template).collect()
    }
}

#[derive(Debug)]
pub(super) struct Cell {
    column: Column,
    /// Index of the data subject.
    pub(super) person: usize,
    scope: proto::Scope,
    words: CellWords,
    purpose_version: u32,
    data_categories: Vec<String>,
}

impl Cell {
    pub(super) fn new(
        raw: RawCell,
        subjects: &mut Subjects,
        columns: &mut Columns,
    ) -> Result<Self, String> {
        let cell = format!("the cell of column `{}`", raw.column);
        let scope = format!("{}:{}", raw.purpose, raw.channel);
        words::scope(&scope).map_err(|error| format!("{cell}: {error}"))?;
        if !raw.grant.is_empty() {
            words::cell(&scope).map_err(|error| format!("{cell}: {error}"))?;
        }
        if raw.grant.is_empty() && (raw.purpose_version != 0 || !raw.data_categories.is_empty()) {
            return Err(format!(
                "{cell}: `purpose_version` and `data_categories` are only for grants, and the cell \
                 has no `grant`"
            ));
        }
        let words = [
            (Some(Action::Grant), raw.grant),
            (Some(Action::Refuse), raw.refuse),
            (Some(Action::Withdraw), raw.withdraw),
            (Some(Action::Object), raw.object),
            (None, raw.nothing),
        ];
        Ok(Self {
            words: CellWords::new(words).map_err(|error| format!("{cell}: {error}"))?,
            column: columns.add(&raw.column),
            person: subjects.add(raw.subject, columns)?,
            scope: proto::Scope { purpose: raw.purpose, channel: raw.channel },
            purpose_version: raw.purpose_version,
            data_categories: raw.data_categories,
        })
    }

    pub(super) fn change(&self, fields: &Fields<'_>) -> Result<Option<proto::Change>, Invalid> {
        let Some(word) = fields.get(self.column)? else { return Ok(None) };
        let action = self.words.action(word).ok_or_else(|| {
            let known: Vec<_> = self.words.0.keys().map(|word| format!("`{word}`")).collect();
            let message = format!("`{word}` is none of {}", known.join(", "));
            fields.invalid(self.column, "unknown_value", message)
        })?;
        let Some(action) = action else { return Ok(None) };
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

/// The words that a field may hold, with their actions; none for a word that says nothing.
#[derive(Debug)]
struct CellWords(BTreeMap<String, Option<Action>>);

impl CellWords {
    fn new(words: [(Option<Action>, Vec<String>); 5]) -> Result<Self, String> {
        let mut actions = BTreeMap::new();
        for (action, words) in words {
            for word in words {
                // Fields are compared without surrounding spaces.
                if word.is_empty() || trimmed(&word) != word {
                    return Err(format!(
                        "\"{word}\" can not be a value: a blank field changes nothing, and spaces \
                         around a value do not count"
                    ));
                }
                if actions.insert(word.clone(), action).is_some() {
                    return Err(format!("`{word}` is listed twice"));
                }
            }
        }
        if actions.values().all(Option::is_none) {
            return Err("needs values in `grant`, `refuse`, `withdraw` or `object`".to_owned());
        }
        Ok(Self(actions))
    }

    /// What a word says; none if it is unknown. A grant must be the exact word. A stop counts in any
    /// case, and so does a word that says nothing.
    fn action(&self, word: &str) -> Option<Option<Action>> {
        self.0.get(word).copied().or_else(|| {
            let lower = word.to_lowercase();
            let same = self.0.iter().filter(|(known, _)| known.to_lowercase() == lower);
            let actions = same.map(|(_, action)| *action).filter(|it| *it != Some(Action::Grant));
            // A stop, if the same word in another case says nothing.
            actions.max_by_key(Option::is_some)
        })
    }
}

#[derive(Debug)]
pub(super) struct Time {
    column: Column,
    format: TimeFormat,
}

impl Time {
    pub(super) fn new(field: &str, raw: RawTime, columns: &mut Columns) -> Result<Self, String> {
        let column = columns.add(&raw.column);
        let format = TimeFormat::new(raw).map_err(|error| format!("`{field}`: {error}"))?;
        Ok(Self { column, format })
    }

    pub(super) fn read(&self, fields: &Fields<'_>) -> Result<Option<Readings>, Invalid> {
        let Some(text) = fields.get(self.column)? else { return Ok(None) };
        let readings = self.format.read(text).map(Some);
        readings.map_err(|message| fields.invalid(self.column, "not_a_time", message))
    }

    /// The name of the column, and its text, unless it is blank.
    pub(super) fn given(&self, fields: &Fields<'_>) -> Option<(String, String)> {
        fields.given(self.column)
    }
}

/// The actor of a row.
#[derive(Debug)]
pub(super) enum ActorSource {
    Constant(Actor),
    /// A column; its words are those of the map, or else the names of actors.
    Column(Column, Option<BTreeMap<String, Actor>>),
}

impl ActorSource {
    pub(super) fn new(raw: RawActor, columns: &mut Columns) -> Result<Self, String> {
        let parse = |word: &str| words::parse(word).map_err(|error| format!("`actor`: {error}"));
        let text = Text::new("actor", raw.column, raw.constant, columns)?;
        match (text, raw.words) {
            (Text::Constant(word), None) => parse(&word).map(Self::Constant),
            (Text::Constant(_), Some(_)) => {
                Err("`actor`: `words` go with `column`, not with `constant`".to_owned())
            }
            (Text::Column(column), None) => Ok(Self::Column(column, None)),
            (Text::Column(column), Some(words)) => {
                let mut actors = BTreeMap::new();
                for (word, actor) in words {
                    actors.insert(word, parse(&actor)?);
                }
                Ok(Self::Column(column, Some(actors)))
            }
        }
    }

    pub(super) fn read(&self, fields: &Fields<'_>) -> Result<Actor, Invalid> {
        let (column, actors) = match self {
            Self::Constant(actor) => return Ok(*actor),
            Self::Column(column, actors) => (*column, actors),
        };
        let Some(word) = fields.get(column)? else { return Ok(Actor::Unspecified) };
        let actor = match actors {
            Some(actors) => actors.get(word).copied(),
            None => words::parse(word).ok(),
        };
        actor.ok_or_else(|| {
            fields.invalid(column, "unknown_value", format!("`{word}` is not a known actor"))
        })
    }
}

#[derive(Debug)]
pub(super) struct Evidence {
    touchpoint: Option<Text>,
    method: Option<Text>,
    notice_id: Option<Text>,
    notice_version: Option<Text>,
    language: Option<Text>,
}

impl Evidence {
    pub(super) fn new(raw: RawEvidence, columns: &mut Columns) -> Result<Self, String> {
        let mut text = |field, raw| Text::optional(field, raw, columns);
        Ok(Self {
            touchpoint: text("evidence.touchpoint", raw.touchpoint)?,
            method: text("evidence.method", raw.method)?,
            notice_id: text("evidence.notice_id", raw.notice_id)?,
            notice_version: text("evidence.notice_version", raw.notice_version)?,
            language: text("evidence.language", raw.language)?,
        })
    }

    pub(super) fn read(&self, fields: &Fields<'_>, faults: &mut Vec<Invalid>) -> proto::Evidence {
        let mut text = |part: &Option<Text>| fields.side_text(part.as_ref(), faults);
        proto::Evidence {
            touchpoint: text(&self.touchpoint),
            method: text(&self.method),
            notice_id: text(&self.notice_id),
            notice_version: text(&self.notice_version),
            language: text(&self.language),
            ..Default::default()
        }
    }
}
