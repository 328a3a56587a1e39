//! The fields of a record, read as the mapping says.

use super::{
    super::csv::Record,
    Mapping,
    parts::{Column, Text, Time},
};
use crate::proto::{self, Action, Actor, ImportReject, ImportRow};

/// A mapping whose columns are found.
#[derive(Debug)]
pub(in crate::cli::import) struct Bound {
    pub(super) mapping: Mapping,
    /// For each of the mapping's columns: its field.
    pub(super) positions: Vec<usize>,
    pub(super) width: usize,
}

/// Why a record is no row.
pub(super) struct Wrong {
    pub(super) field: String,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Bound {
    /// A record as a row.
    pub(in crate::cli::import) fn row(&self, record: &Record) -> Result<ImportRow, ImportReject> {
        let fields = Fields { bound: self, record };
        fields.row().map_err(|wrong| ImportReject {
            line: record.line,
            field: wrong.field,
            reason: wrong.reason.to_owned(),
            message: wrong.message,
        })
    }
}

/// The fields of one record.
pub(super) struct Fields<'a> {
    bound: &'a Bound,
    record: &'a Record,
}

impl<'a> Fields<'a> {
    pub(super) fn row(&self) -> Result<ImportRow, Wrong> {
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

    pub(super) fn check_width(&self) -> Result<(), Wrong> {
        let (is, want) = (self.record.width(), self.bound.width);
        if is == want {
            return Ok(());
        }
        let message = format!("has {is} fields, and the heading {want}");
        Err(Wrong { field: String::new(), reason: "not_a_row", message })
    }

    pub(super) fn changes(
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

    pub(super) fn preferences(&self) -> Result<Option<proto::ContactPreferences>, Wrong> {
        let mapping = &self.bound.mapping;
        let zone = self.text(mapping.time_zone.as_ref())?;
        let preferences = proto::ContactPreferences {
            language: self.text(mapping.language.as_ref())?,
            time_zones: Some(zone).filter(|zone| !zone.is_empty()).into_iter().collect(),
            ..Default::default()
        };
        Ok(Some(preferences).filter(|own| *own != proto::ContactPreferences::default()))
    }

    pub(super) fn text(&self, text: Option<&Text>) -> Result<String, Wrong> {
        Ok(match text {
            None => String::new(),
            Some(Text::Constant(text)) => text.clone(),
            Some(Text::Column(column)) => self.some(*column)?.unwrap_or_default().to_owned(),
        })
    }

    /// A field without the spaces around it; none if it is blank.
    pub(super) fn some(&self, column: Column) -> Result<Option<&'a str>, Wrong> {
        let position = self.bound.positions.get(column.0).copied();
        let bytes = position.map(|position| self.record.field(position)).unwrap_or_default();
        let text = std::str::from_utf8(bytes)
            .map_err(|_| self.wrong(column, "not_utf8", "is not UTF-8".to_owned()))?;
        Ok(Some(text.trim()).filter(|text| !text.is_empty()))
    }

    pub(super) fn wrong(&self, column: Column, reason: &'static str, message: String) -> Wrong {
        let name = self.bound.mapping.columns.0.get(column.0);
        Wrong { field: name.cloned().unwrap_or_default(), reason, message }
    }
}
