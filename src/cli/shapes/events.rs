//! What streams tell, as JSON.

use serde::Serialize;

use super::{Cell, Change, Stop};
use crate::{
    cli::words::{rfc3339, word},
    proto,
};

/// A line of `watch`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Watched {
    /// An act with the changes that pass the filter.
    Consent(Event),
    /// How far the stream has come.
    Progress(Progress),
    /// Two data subjects were linked or unlinked.
    Link(LinkTold),
    /// The catalogue changed.
    Catalog(CatalogTold),
    /// A subscription is overdue.
    Overdue(OverdueTold),
    /// Of a snapshot: one data subject.
    Snapshot(SnapshotSubject),
    /// The snapshot is complete.
    SnapshotEnd(SnapshotEnd),
}

/// Two data subjects that were linked or unlinked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LinkTold {
    /// Index of the entry.
    pub index: u64,
    /// Data subject.
    pub subject: String,
    /// The other one.
    pub other_subject: String,
    /// `verified` or `asserted`; null if they were unlinked.
    pub confidence: Option<String>,
    /// When the ledger recorded it.
    pub recorded_at: Option<String>,
    /// Who else is linked to one of the two.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub linked_subjects: Vec<String>,
}

impl From<&proto::LinkEvent> for LinkTold {
    fn from(link: &proto::LinkEvent) -> Self {
        let is_linked = link.confidence() != proto::LinkConfidence::Unspecified;
        Self {
            index: link.index,
            subject: link.subject.clone(),
            other_subject: link.other_subject.clone(),
            confidence: is_linked.then(|| word::<proto::LinkConfidence>(link.confidence)),
            recorded_at: link.recorded_at.as_ref().map(rfc3339),
            linked_subjects: link.linked_subjects.clone(),
        }
    }
}

/// An act as watchers hear it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Event {
    /// Index of the entry.
    pub index: u64,
    /// Data subject.
    pub subject: String,
    /// Who acted.
    pub actor: String,
    /// When the ledger recorded it.
    pub recorded_at: Option<String>,
    /// When it took effect.
    pub effective_at: Option<String>,
    /// The changes that pass the filter.
    pub changes: Vec<Change>,
    /// Who is linked to the data subject.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub linked_subjects: Vec<String>,
    /// Whether the data subject changed how it wants to be contacted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub preferences_changed: bool,
}

impl From<&proto::ConsentEvent> for Event {
    fn from(event: &proto::ConsentEvent) -> Self {
        Self {
            index: event.index,
            subject: event.subject.clone(),
            actor: word::<proto::Actor>(event.actor),
            recorded_at: event.recorded_at.as_ref().map(rfc3339),
            effective_at: event.effective_at.as_ref().map(rfc3339),
            changes: event.changes.iter().map(Into::into).collect(),
            linked_subjects: event.linked_subjects.clone(),
            preferences_changed: event.preferences_changed,
        }
    }
}

/// How far a stream has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// The index to resume from.
    pub next_index: u64,
    /// The server's time.
    pub as_of: Option<String>,
}

impl From<&proto::Progress> for Progress {
    fn from(progress: &proto::Progress) -> Self {
        Self { next_index: progress.next_index, as_of: progress.as_of.as_ref().map(rfc3339) }
    }
}

/// A change of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CatalogTold {
    /// Index of the entry.
    pub index: u64,
    /// Key of the purpose; null if a channel changed.
    pub purpose: Option<String>,
    /// Key of the channel; null if a purpose changed.
    pub channel: Option<String>,
    /// What the change can do to answers: `retired`, `reconsent_required`, …
    pub effects: Vec<String>,
    /// When the ledger recorded it.
    pub recorded_at: Option<String>,
    /// For a purpose: its version now.
    pub version: Option<u32>,
    /// For a purpose: the oldest version whose grants count now.
    pub oldest_compatible_version: Option<u32>,
}

impl From<&proto::CatalogEvent> for CatalogTold {
    fn from(event: &proto::CatalogEvent) -> Self {
        let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        let version = |number: u32| Some(number).filter(|_| !event.purpose.is_empty());
        Self {
            index: event.index,
            purpose: given(&event.purpose),
            channel: given(&event.channel),
            effects: event.effects.iter().map(|own| word::<proto::CatalogEffect>(*own)).collect(),
            recorded_at: event.recorded_at.as_ref().map(rfc3339),
            version: version(event.version),
            oldest_compatible_version: version(event.oldest_compatible_version),
        }
    }
}

/// A subscription that is overdue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OverdueTold {
    /// Index of the entry.
    pub index: u64,
    /// Name of the subscription.
    pub subscription: String,
    /// The shard that is behind.
    pub shard: u32,
    /// The oldest event that it has not acknowledged.
    pub event_index: u64,
    /// When that was recorded.
    pub pending_since: Option<String>,
    /// When the ledger recorded that it is overdue.
    pub recorded_at: Option<String>,
}

impl From<&proto::OverdueEvent> for OverdueTold {
    fn from(event: &proto::OverdueEvent) -> Self {
        Self {
            index: event.index,
            subscription: event.subscription.clone(),
            shard: event.shard,
            event_index: event.event_index,
            pending_since: event.pending_since.as_ref().map(rfc3339),
            recorded_at: event.recorded_at.as_ref().map(rfc3339),
        }
    }
}

/// Of a snapshot: what is known of one data subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SnapshotSubject {
    /// Data subject.
    pub subject: String,
    /// The cells that acts have named.
    pub cells: Vec<Cell>,
    /// The stops that stand.
    pub stops: Vec<Stop>,
    /// Number of entries that the snapshot takes into account.
    pub revision: u64,
    /// Who is linked to the data subject.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub linked_subjects: Vec<String>,
}

impl From<&proto::SnapshotSubject> for SnapshotSubject {
    fn from(own: &proto::SnapshotSubject) -> Self {
        Self {
            subject: own.subject.clone(),
            cells: own.cells.iter().map(Into::into).collect(),
            stops: own.stops.iter().map(Into::into).collect(),
            revision: own.revision,
            linked_subjects: own.linked_subjects.clone(),
        }
    }
}

/// The end of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SnapshotEnd {
    /// Number of entries that the snapshot takes into account.
    pub revision: u64,
    /// Number of data subjects that were told of.
    pub subjects: u64,
}

impl From<&proto::SnapshotEnd> for SnapshotEnd {
    fn from(end: &proto::SnapshotEnd) -> Self {
        Self { revision: end.revision, subjects: end.subjects }
    }
}
