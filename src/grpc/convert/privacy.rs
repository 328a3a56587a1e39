//! Links between data subjects.

use crate::{
    domain::{Catalog, Reason},
    messages::effect,
    node::{CELL_CHANGES_MAX, CellChange, LinkOutcome, Linking},
    proto,
};

use super::{
    ASSERTED_BY_BYTES_MAX, Invalid, Problem,
    scalar::{line_within, link_confidence, subject},
};

/// The link that a request asks for.
///
/// # Errors
/// The first field that is wrong.
pub fn link(catalog: &Catalog, request: proto::LinkSubjectsRequest) -> Result<Linking, Invalid> {
    Ok(Linking {
        subject: subject(catalog, &request.subject, "subject")?,
        other: subject(catalog, &request.other_subject, "other_subject")?,
        confidence: Some(link_confidence(request.confidence, "confidence")?),
        asserted_by: asserted_by(request.asserted_by)?,
        dry_run: request.dry_run,
    })
}

/// The link that a request takes back.
///
/// # Errors
/// The first field that is wrong.
pub fn unlink(
    catalog: &Catalog,
    request: proto::UnlinkSubjectsRequest,
) -> Result<Linking, Invalid> {
    Ok(Linking {
        subject: subject(catalog, &request.subject, "subject")?,
        other: subject(catalog, &request.other_subject, "other_subject")?,
        confidence: None,
        asserted_by: asserted_by(request.asserted_by)?,
        dry_run: request.dry_run,
    })
}

fn asserted_by(text: String) -> Result<String, Invalid> {
    if text.is_empty() {
        return Err(Problem::Required.at("asserted_by"));
    }
    line_within(&text, ASSERTED_BY_BYTES_MAX, "asserted_by")?;
    Ok(text)
}

/// The outcome of a link.
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

/// The outcome of the end of a link.
#[must_use]
pub fn unlinked(outcome: &LinkOutcome) -> proto::UnlinkSubjectsResponse {
    let proto::LinkSubjectsResponse { index, revision, cells, cells_truncated, .. } =
        linked(outcome);
    proto::UnlinkSubjectsResponse { index, revision, cells, cells_truncated }
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
