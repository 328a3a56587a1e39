//! The fields of a record, converted to rows by the mapping.
//!
//! A stop counts whenever its subject and its cell are clear. Something else that is wrong in the record
//! is then a warning, or, for a value that the mapping does not know, a reject of its column; the grants
//! of such a record are not imported. In a record a stop wins over a grant of the same cell.

use super::{
    super::{
        csv::{Record, Shape},
        doubt::Doubt,
        input::Compiled,
    },
    Mapping,
    parts::{Column, Text},
};
use crate::{
    cli::words::{Readings, wire_time},
    domain::{PurposeName, keep_unreadable},
    proto::{self, Action, Actor, ImportReject, ImportRow, ImportWarning},
};

/// What is appended to the key of a row for its grants, if they took effect at another moment than its
/// stops.
const GRANTS_KEY: &str = "#grants";

/// A mapping with the positions of its columns.
#[derive(Debug)]
pub(in crate::cli::import) struct Bound {
    pub(super) mapping: Mapping,
    /// For each column of the mapping, the index of its field.
    pub(super) positions: Vec<usize>,
    pub(super) width: usize,
}

/// Why a record or a field of it is rejected.
#[derive(Debug)]
pub(super) struct Invalid {
    pub(super) field: String,
    pub(super) reason: &'static str,
    pub(super) message: String,
    /// The field as text.
    pub(super) text: String,
}

impl Invalid {
    fn reject(self, line: u64) -> ImportReject {
        let Self { field, reason, message, .. } = self;
        ImportReject { line, field, reason: reason.to_owned(), message }
    }

    fn warning(&self, line: u64) -> ImportWarning {
        ImportWarning {
            line,
            field: self.field.clone(),
            reason: self.reason.to_owned(),
            message: format!("{}; the stops of the row are imported all the same", self.message),
        }
    }
}

impl Bound {
    fn fields<'a>(&'a self, record: &'a Record, person: usize) -> Fields<'a> {
        Fields { bound: self, record, person }
    }

    fn subject(&self, record: &Record, person: usize) -> Option<String> {
        self.fields(record, person).subject().ok()
    }

    /// Whether the data subject of a record can be one. Several words are a text, unless they hold an
    /// address or a number, or other data subjects have several words, too.
    fn may_name(&self, record: &Record, like: &Record, person: usize) -> bool {
        let has_space = |subject: &str| subject.contains(char::is_whitespace);
        let Some(subject) = self.subject(record, person) else { return false };
        let is_text = has_space(&subject) && !subject.contains('@') && !is_number(id_of(&subject));
        !is_text || self.subject(like, person).is_some_and(|like| has_space(&like))
    }

    /// Converts a record to rows.
    pub(in crate::cli::import) fn compile(&self, record: &Record) -> Compiled {
        let persons = 0..self.mapping.subjects.len();
        let mut compiled = Compiled::default();
        for part in persons.map(|person| self.compile_for(record, person)) {
            compiled.rows.extend(part.rows);
            compiled.warnings.extend(part.warnings);
            // What is wrong with the record as a whole is said once.
            let news = |reject: &ImportReject| !compiled.rejects.contains(reject);
            let rejects: Vec<_> = part.rejects.into_iter().filter(news).collect();
            compiled.rejects.extend(rejects);
        }
        compiled
    }

    fn compile_for(&self, record: &Record, person: usize) -> Compiled {
        let compiled = self.fields(record, person).compile();
        compiled.unwrap_or_else(|invalid| invalid.reject(record.line).into())
    }
}

impl Shape for Bound {
    fn fits(&self, record: &Record) -> bool {
        self.fields(record, 0).check_width().is_ok()
    }

    fn changes_something(&self, record: &Record, like: &Record) -> bool {
        let has_changes = |person: &usize| {
            let Changes { stops, grants, .. } = self.fields(record, *person).changes();
            !stops.is_empty() || !grants.is_empty()
        };
        let mut persons = 0..self.mapping.subjects.len();
        self.fits(record)
            && persons.any(|person| has_changes(&person) && self.may_name(record, like, person))
    }

    fn are_alike(&self, record: &Record, other: &Record) -> bool {
        let subjects = self.subject(record, 0).zip(self.subject(other, 0));
        subjects.is_none_or(|(subject, other)| has_form_of(&subject, &other))
    }
}

/// Whether a data subject is named in the form of another: both by a number or not, both by an address or
/// not, and with a space only if the other has one.
fn has_form_of(subject: &str, other: &str) -> bool {
    let (id, other) = (id_of(subject), id_of(other));
    let is_address = |id: &str| id.contains('@');
    let has_space = |id: &str| id.contains(char::is_whitespace);
    is_number(id) == is_number(other)
        && is_address(id) == is_address(other)
        && (has_space(other) || !has_space(id))
}

fn id_of(subject: &str) -> &str {
    subject.split_once(':').map_or(subject, |(_, id)| id)
}

fn is_number(id: &str) -> bool {
    !id.contains(char::is_alphabetic)
}

/// The fields of one record, as they concern one of its data subjects.
pub(super) struct Fields<'a> {
    bound: &'a Bound,
    record: &'a Record,
    /// Index of the data subject in the mapping.
    person: usize,
}

/// The changes of a record.
#[derive(Default)]
struct Changes {
    stops: Vec<proto::Change>,
    grants: Vec<proto::Change>,
    /// Fields of cells whose value is unknown.
    unknown: Vec<Invalid>,
    /// The cells of grants that a stop of the record covers.
    stopped: Vec<proto::Scope>,
}

impl Changes {
    fn is_empty(&self) -> bool {
        self.stops.is_empty() && self.grants.is_empty() && self.unknown.is_empty()
    }
}

/// What a record holds beside its changes.
struct Rest {
    subject: String,
    actor: Actor,
    effective_at: Option<Readings>,
    expires_at: Option<Readings>,
    evidence: proto::Evidence,
    preferences: Option<proto::ContactPreferences>,
    row_key: String,
}

impl<'a> Fields<'a> {
    fn compile(&self) -> Result<Compiled, Invalid> {
        let mut changes = self.changes();
        if self.person > 0 && changes.is_empty() {
            return Ok(Compiled::default());
        }
        if let Err(invalid) = self.check_width() {
            let is_short = self.record.width() < self.bound.width;
            // Some systems leave out blank fields at the end of a row.
            return if is_short { self.stops_alone(changes, invalid) } else { Err(invalid) };
        }
        if let Some(doubt) = self.record.doubt
            && (!changes.grants.is_empty() || matches!(doubt, Doubt::HoldsRow(_)))
        {
            let message = doubt.message(self.record.line);
            let (field, text) = (String::new(), String::new());
            return self
                .stops_alone(changes, Invalid { field, reason: "in_quotes", message, text });
        }
        let mut faults = Vec::new();
        let subject = match self.subject() {
            Ok(subject) => subject,
            Err(_) if changes.is_empty() && self.preferences(&mut faults).is_none() => {
                return Ok(Compiled::default());
            }
            Err(invalid) => return Err(invalid),
        };
        let rest = self.rest(subject, &mut faults);
        if changes.stops.is_empty() {
            return self.compile_without_stops(changes, rest, faults);
        }
        let line = self.record.line;
        let mut warnings: Vec<_> = faults.iter().map(|fault| fault.warning(line)).collect();
        warnings.extend(changes.stopped.iter().map(|cell| stopped_warning(line, cell)));
        let mut rest = rest;
        keep_texts(&mut rest.evidence, &faults);
        if changes.grants.is_empty() {
            warnings.extend(self.expiry_warning(&mut rest));
        }
        let mut rejects: Vec<_> =
            std::mem::take(&mut changes.unknown).into_iter().map(|it| it.reject(line)).collect();
        if (!rejects.is_empty() || !faults.is_empty()) && !changes.grants.is_empty() {
            changes.grants.clear();
            rejects.extend(faults.into_iter().next().map(|fault| fault.reject(line)));
            let reject = rejects.first_mut().map(|reject| &mut reject.message);
            reject.into_iter().for_each(|it| *it += "; the grants of the row are not imported");
        }
        let rows = self.rows(changes, rest);
        Ok(Compiled { rows, rejects, warnings })
    }

    /// The stops of a row with a fault as a whole; its grants and preferences are not imported.
    fn stops_alone(&self, mut changes: Changes, mut invalid: Invalid) -> Result<Compiled, Invalid> {
        let Some(subject) = self.subject().ok().filter(|_| !changes.stops.is_empty()) else {
            return Err(invalid);
        };
        let has_grants = !std::mem::take(&mut changes.grants).is_empty();
        let mut faults = Vec::new();
        let mut rest = self.rest(subject, &mut faults);
        rest.preferences = None;
        keep_texts(&mut rest.evidence, &faults);
        let line = self.record.line;
        let mut warnings: Vec<_> = faults.iter().map(|fault| fault.warning(line)).collect();
        let mut rejects = Vec::new();
        if self.record.doubt.is_some() {
            rejects.push(invalid.reject(line));
        } else if has_grants {
            invalid.message += "; its stops are imported, and no grant";
            rejects.push(invalid.reject(line));
        } else {
            warnings.push(invalid.warning(line));
        }
        Ok(Compiled { rows: self.rows(changes, rest), rejects, warnings })
    }

    fn compile_without_stops(
        &self,
        changes: Changes,
        rest: Rest,
        faults: Vec<Invalid>,
    ) -> Result<Compiled, Invalid> {
        match changes.unknown.into_iter().chain(faults).next() {
            Some(invalid) => Err(invalid),
            None => {
                let (grants, stops) = (changes.grants, Vec::new());
                let changes = Changes { grants, stops, ..Changes::default() };
                Ok(Compiled { rows: self.rows(changes, rest), ..Compiled::default() })
            }
        }
    }

    /// The stops and the grants as one row; as two if they took effect at different moments.
    fn rows(&self, changes: Changes, rest: Rest) -> Vec<ImportRow> {
        let Changes { stops, mut grants, .. } = changes;
        for grant in &mut grants {
            grant.expires_at = rest.expires_at.map(|it| wire_time(it.earlier));
        }
        let (earlier, later) = (
            rest.effective_at.map(|it| wire_time(it.earlier)),
            rest.effective_at.map(|it| wire_time(it.later)),
        );
        let row = ImportRow {
            line: self.record.line,
            subject: rest.subject,
            actor: rest.actor.into(),
            changes: Vec::new(),
            effective_at: later,
            evidence: Some(rest.evidence).filter(|it| *it != proto::Evidence::default()),
            preferences: rest.preferences,
            row_key: rest.row_key,
        };
        if stops.is_empty() {
            return vec![ImportRow { changes: grants, effective_at: earlier, ..row }];
        }
        if grants.is_empty() || earlier == later {
            let changes = stops.into_iter().chain(grants).collect();
            return vec![ImportRow { changes, ..row }];
        }
        let granted = ImportRow {
            changes: grants,
            effective_at: earlier,
            preferences: None,
            row_key: match row.row_key.as_str() {
                "" => String::new(),
                key => format!("{key}{GRANTS_KEY}"),
            },
            ..row.clone()
        };
        vec![granted, ImportRow { changes: stops, ..row }]
    }

    fn check_width(&self) -> Result<(), Invalid> {
        let (width, expected) = (self.record.width(), self.bound.width);
        // Some systems end every row with blank fields that the heading does not have.
        let is_blank = |index| trimmed_bytes(self.record.field(index)).is_empty();
        if width == expected || (width > expected && (expected..width).all(is_blank)) {
            return Ok(());
        }
        let message = format!("has {width} fields, and the heading {expected}");
        let (field, text) = (String::new(), String::new());
        Err(Invalid { field, reason: "not_a_row", message, text })
    }

    fn changes(&self) -> Changes {
        let mut changes = Changes::default();
        let cells = self.bound.mapping.cells.iter();
        for cell in cells.filter(|cell| cell.person == self.person) {
            match cell.change(self) {
                Ok(None) => {}
                Ok(Some(change)) if change.action() == Action::Grant => changes.grants.push(change),
                Ok(Some(change)) => changes.stops.push(change),
                Err(invalid) => changes.unknown.push(invalid),
            }
        }
        let stops = &changes.stops;
        let is_stopped = |grant: &proto::Change| stops.iter().any(|stop| covers(stop, grant));
        let (stopped, grants) = changes.grants.into_iter().partition(is_stopped);
        changes.grants = grants;
        let stopped: Vec<proto::Change> = stopped;
        changes.stopped = stopped.into_iter().filter_map(|grant| grant.scope).collect();
        changes
    }

    fn rest(&self, subject: String, faults: &mut Vec<Invalid>) -> Rest {
        let mapping = &self.bound.mapping;
        let actor = mapping.actor.as_ref().map(|actor| actor.read(self));
        let expires_at = mapping.expires_at.as_ref().map(|time| time.read(self));
        let effective_at = mapping.effective_at.as_ref().map(|time| time.read(self));
        Rest {
            subject,
            actor: side(actor, faults).unwrap_or(Actor::Unspecified),
            expires_at: side(expires_at, faults).flatten(),
            effective_at: side(effective_at, faults).flatten(),
            evidence: mapping.evidence.read(self, faults),
            preferences: self.preferences(faults),
            row_key: self.row_key(faults),
        }
    }

    /// The key of the row; of another data subject than the first, with its number.
    fn row_key(&self, faults: &mut Vec<Invalid>) -> String {
        let template = self.bound.mapping.row_key.as_ref();
        let key = side(template.map(|key| key.fill(self)), faults);
        match (key, self.person) {
            (None, _) => String::new(),
            (Some(key), 0) => key,
            (Some(key), person) => format!("{key}#{person}"),
        }
    }

    /// The data subject.
    fn subject(&self) -> Result<String, Invalid> {
        let template = self.bound.mapping.subjects.get(self.person);
        template.map_or_else(|| Ok(String::new()), |template| template.fill(self))
    }

    /// The contact preferences, which are those of the first data subject.
    fn preferences(&self, faults: &mut Vec<Invalid>) -> Option<proto::ContactPreferences> {
        let mapping = &self.bound.mapping;
        if self.person > 0 {
            return None;
        }
        let zone = self.side_text(mapping.time_zone.as_ref(), faults);
        let preferences = proto::ContactPreferences {
            language: self.side_text(mapping.language.as_ref(), faults),
            time_zones: Some(zone).filter(|zone| !zone.is_empty()).into_iter().collect(),
            ..Default::default()
        };
        (preferences != proto::ContactPreferences::default()).then_some(preferences)
    }

    /// A warning for an expiry that no grant of the record takes: a stop does not end.
    fn expiry_warning(&self, rest: &mut Rest) -> Option<ImportWarning> {
        rest.expires_at.take()?;
        let (field, text) = self.bound.mapping.expires_at.as_ref()?.given(self)?;
        let message = format!("`{text}` is an end, and stops do not end: only grants do");
        let fault = Invalid { field, reason: "only_for_grants", message, text };
        keep_texts(&mut rest.evidence, std::slice::from_ref(&fault));
        Some(fault.warning(self.record.line))
    }

    /// A text that is no part of a change; blank if it can not be read.
    pub(super) fn side_text(&self, text: Option<&Text>, faults: &mut Vec<Invalid>) -> String {
        match text {
            None => String::new(),
            Some(Text::Constant(text)) => text.clone(),
            Some(Text::Column(column)) => {
                side(Some(self.get(*column)), faults).flatten().unwrap_or_default().to_owned()
            }
        }
    }

    /// A field without surrounding spaces; none if it is blank.
    pub(super) fn get(&self, column: Column) -> Result<Option<&'a str>, Invalid> {
        let text = std::str::from_utf8(self.bytes(column)).map_err(|_| {
            let message = "is not UTF-8; give --encoding, for example --encoding windows-1252";
            self.invalid(column, "not_utf8", message.to_owned())
        })?;
        if text.contains(char::REPLACEMENT_CHARACTER) {
            let message = "has U+FFFD: some bytes of it were lost when the file was decoded";
            return Err(self.invalid(column, "not_utf8", message.to_owned()));
        }
        Ok(Some(trimmed(text)).filter(|text| !text.is_empty()))
    }

    /// The name of a column, and its text in this record, unless it is blank.
    pub(super) fn given(&self, column: Column) -> Option<(String, String)> {
        let text = self.get(column).ok().flatten()?;
        Some((self.name(column), text.to_owned()))
    }

    fn bytes(&self, column: Column) -> &'a [u8] {
        let position = self.bound.positions.get(column.0).copied();
        position.map(|position| self.record.field(position)).unwrap_or_default()
    }

    fn name(&self, column: Column) -> String {
        self.bound.mapping.columns.0.get(column.0).cloned().unwrap_or_default()
    }

    pub(super) fn invalid(&self, column: Column, reason: &'static str, message: String) -> Invalid {
        let text = String::from_utf8_lossy(self.bytes(column)).into_owned();
        Invalid { field: self.name(column), reason, message, text }
    }
}

/// A value beside the changes; none if it is absent or wrong.
fn side<T>(value: Option<Result<T, Invalid>>, faults: &mut Vec<Invalid>) -> Option<T> {
    value?.map_err(|invalid| faults.push(invalid)).ok()
}

fn stopped_warning(line: u64, cell: &proto::Scope) -> ImportWarning {
    let cell = format!("{}:{}", cell.purpose, cell.channel);
    ImportWarning {
        line,
        field: String::new(),
        reason: "stopped_in_row".to_owned(),
        message: format!("the grant of {cell} is not imported: a stop of the same row covers it"),
    }
}

/// Whether a stop covers the cell of a grant.
fn covers(stop: &proto::Change, grant: &proto::Change) -> bool {
    let (Some(stop), Some(cell)) = (&stop.scope, &grant.scope) else { return false };
    let names = |text: &str| PurposeName::parse(text).ok();
    let purposes = names(&stop.purpose).zip(names(&cell.purpose));
    let covers_purpose =
        stop.purpose == "*" || purposes.is_some_and(|(stop, cell)| stop.contains(&cell));
    covers_purpose && (stop.channel == "*" || stop.channel == cell.channel)
}

/// Keeps fields that could not be read in the evidence.
fn keep_texts(evidence: &mut proto::Evidence, faults: &[Invalid]) {
    for fault in faults {
        keep_unreadable(&mut evidence.unreadable, &fault.field, &fault.text);
    }
}

/// A text without what is invisible at its edges: white space, also of Unicode, byte order marks, zero
/// width spaces and NUL.
pub(super) fn trimmed(text: &str) -> &str {
    let is_invisible = |character: char| {
        character.is_whitespace()
            || matches!(character, '\0' | '\u{1a}' | '\u{feff}' | '\u{200b}'..='\u{200d}')
    };
    text.trim_matches(is_invisible)
}

fn trimmed_bytes(bytes: &[u8]) -> &[u8] {
    std::str::from_utf8(bytes).map_or(bytes, |text| trimmed(text).as_bytes())
}
