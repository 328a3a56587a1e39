//! What concerns a data subject as a whole, coming in and going out.

use crate::{
    domain::{Reason, Subject},
    messages::effect,
    node::{CELL_CHANGES_MAX, CellChange, LinkOutcome, Linking},
    proto,
};

use super::{
    ASSERTED_BY_BYTES_MAX, Invalid, Problem,
    scalar::{link_confidence, subject, text_within, without_control},
};

/// The link that a request asks for.
///
/// # Errors
/// The first field that is wrong.
pub fn link(request: proto::LinkSubjectsRequest) -> Result<Linking, Invalid> {
    Ok(Linking {
        subject: subject(&request.subject)?,
        other: other_subject(&request.other_subject)?,
        confidence: Some(link_confidence(request.confidence, "confidence")?),
        asserted_by: asserted_by(request.asserted_by)?,
        dry_run: request.dry_run,
    })
}

/// The link that a request takes back.
///
/// # Errors
/// The first field that is wrong.
pub fn unlink(request: proto::UnlinkSubjectsRequest) -> Result<Linking, Invalid> {
    Ok(Linking {
        subject: subject(&request.subject)?,
        other: other_subject(&request.other_subject)?,
        confidence: None,
        asserted_by: asserted_by(request.asserted_by)?,
        dry_run: request.dry_run,
    })
}

fn other_subject(text: &str) -> Result<Subject, Invalid> {
    Subject::parse(text).map_err(|error| Problem::from(error).at("other_subject"))
}

fn asserted_by(text: String) -> Result<String, Invalid> {
    if text.is_empty() {
        return Err(Problem::Required.at("asserted_by"));
    }
    text_within(&text, ASSERTED_BY_BYTES_MAX, "asserted_by")?;
    without_control(&text, "asserted_by")?;
    Ok(text)
}

/// What became of a link.
#[must_use]
pub fn linked(outcome: &LinkOutcome) -> proto::LinkSubjectsResponse {
    proto::LinkSubjectsResponse {
        index: outcome.index,
        revision: outcome.revision,
        changed: outcome.changed,
        cells: outcome.cells.iter().take(CELL_CHANGES_MAX).map(cell_change).collect(),
        cells_truncated: outcome.cells.len() > CELL_CHANGES_MAX,
    }
}

/// What became of the end of a link.
#[must_use]
pub fn unlinked(outcome: &LinkOutcome) -> proto::UnlinkSubjectsResponse {
    proto::UnlinkSubjectsResponse {
        index: outcome.index,
        revision: outcome.revision,
        cells: outcome.cells.iter().take(CELL_CHANGES_MAX).map(cell_change).collect(),
        cells_truncated: outcome.cells.len() > CELL_CHANGES_MAX,
    }
}

fn cell_change(cell: &CellChange) -> proto::CellChange {
    let effect_of = |reason: Reason| effect(reason.effect()).into();
    let reason = |reason: Reason| proto::Reason::from(reason).into();
    proto::CellChange {
        subject: cell.subject.as_str().to_owned(),
        purpose: cell.purpose.to_string(),
        channel: cell.channel.to_string(),
        effect_before: effect_of(cell.before),
        reason_before: reason(cell.before),
        effect_after: effect_of(cell.after),
        reason_after: reason(cell.after),
    }
}
