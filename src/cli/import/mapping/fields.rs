//! The fields of a record, converted to a row by the mapping.

use super::{
    super::csv::Record,
    Mapping,
    parts::{Column, Text, Time},
};
use crate::proto::{self, Action, Actor, ImportReject, ImportRow};

/// A mapping with the positions of its columns.
#[derive(Debug)]
pub(in crate::cli::import) struct Bound {
    pub(super) mapping: Mapping,
    /// For each column of the mapping, the index of its field.
    pub(super) positions: Vec<usize>,
    pub(super) width: usize,
}

/// Why a record is rejected.
pub(super) struct Invalid {
    pub(super) field: String,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Bound {
    /// Converts a record to a row.
    pub(in crate::cli::import) fn row(&self, record: &Record) -> Result<ImportRow, ImportReject> {
        let fields = Fields { bound: self, record };
        fields.row().map_err(|invalid| ImportReject {
            line: record.line,
            field: invalid.field,
            reason: invalid.reason.to_owned(),
            message: invalid.message,
        })
    }
}

/// The fields of one record.
pub(super) struct Fields<'a> {
    bound: &'a Bound,
    record: &'a Record,
}

impl<'a> Fields<'a> {
    pub(super) fn row(&self) -> Result<ImportRow, Invalid> {
        self.check_width()?;
        let mapping = &self.bound.mapping;
        let time = |time: &Option<Time>| time.as_ref().map_or(Ok(None), |time| time.read(self));
        Ok(ImportRow {
            line: self.record.line,
            subject: mapping.subject.fill(self)?,
            actor: mapping
                .actor
                .as_ref()
                .map_or(Ok(Actor::Unspecified), |actor| actor.read(self))?
                .into(),
            changes: self.changes(time(&mapping.expires_at)?)?,
            effective_at: time(&mapping.effective_at)?,
            evidence: mapping.evidence.read(self)?,
            preferences: self.preferences()?,
            row_key: mapping.row_key.as_ref().map_or(Ok(String::new()), |key| key.fill(self))?,
        })
    }

    pub(super) fn check_width(&self) -> Result<(), Invalid> {
        let (width, expected) = (self.record.width(), self.bound.width);
        if width == expected {
            return Ok(());
        }
        let message = format!("has {width} fields, and the heading {expected}");
        Err(Invalid { field: String::new(), reason: "not_a_row", message })
    }

    pub(super) fn changes(
        &self,
        expires_at: Option<prost_types::Timestamp>,
    ) -> Result<Vec<proto::Change>, Invalid> {
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

    pub(super) fn preferences(&self) -> Result<Option<proto::ContactPreferences>, Invalid> {
        let mapping = &self.bound.mapping;
        let zone = self.text(mapping.time_zone.as_ref())?;
        let preferences = proto::ContactPreferences {
            language: self.text(mapping.language.as_ref())?,
            time_zones: Some(zone).filter(|zone| !zone.is_empty()).into_iter().collect(),
            ..Default::default()
        };
        Ok((preferences != proto::ContactPreferences::default()).then_some(preferences))
    }

    pub(super) fn text(&self, text: Option<&Text>) -> Result<String, Invalid> {
        Ok(match text {
            None => String::new(),
            Some(Text::Constant(text)) => text.clone(),
            Some(Text::Column(column)) => self.get(*column)?.unwrap_or_default().to_owned(),
        })
    }

    /// A field without surrounding spaces; none if it is blank.
    pub(super) fn get(&self, column: Column) -> Result<Option<&'a str>, Invalid> {
        let position = self.bound.positions.get(column.0).copied();
        let bytes = position.map(|position| self.record.field(position)).unwrap_or_default();
        let text = std::str::from_utf8(bytes)
            .map_err(|_| self.invalid(column, "not_utf8", "is not UTF-8".to_owned()))?;
        Ok(Some(text.trim()).filter(|text| !text.is_empty()))
    }

    pub(super) fn invalid(&self, column: Column, reason: &'static str, message: String) -> Invalid {
        let name = self.bound.mapping.columns.0.get(column.0);
        Invalid { field: name.cloned().unwrap_or_default(), reason, message }
    }
}
