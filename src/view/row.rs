//! A subject's state as the value of an index row, and back.
//!
//! The message is protobuf, but the view's own: rows are disposable, and a row of an older format is
//! rebuilt, never read.

use std::sync::Arc;

use prost::Message;
use thiserror::Error;

use crate::domain::{
    Actor, CellState, ChannelId, ClassId, Contact, Exception, Field, FrequencyCap, Grant, Grants,
    Link, LinkConfidence, Mark, Millis, PurposeId, PurposeScope, QuietSpan, Scope, Stop, StopKind,
    SubjectRef, SubjectState,
};

/// The bytes of a row are not a state.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("a state row is malformed")]
pub struct RowError;

#[derive(Clone, PartialEq, Message)]
struct StateMessage {
    #[prost(message, repeated, tag = "1")]
    stops: Vec<StopMessage>,
    #[prost(message, repeated, tag = "2")]
    cells: Vec<CellMessage>,
    #[prost(uint64, optional, tag = "3")]
    erased_by: Option<u64>,
    #[prost(uint64, tag = "4")]
    revision: u64,
    #[prost(message, optional, tag = "5")]
    contact: Option<ContactMessage>,
    #[prost(message, repeated, tag = "6")]
    links: Vec<LinkMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct ContactMessage {
    #[prost(message, optional, tag = "1")]
    time_zones: Option<MarkMessage>,
    #[prost(message, optional, tag = "2")]
    time_zones_value: Option<CategoriesMessage>,
    #[prost(message, optional, tag = "3")]
    language: Option<MarkMessage>,
    #[prost(string, optional, tag = "4")]
    language_value: Option<String>,
    #[prost(message, optional, tag = "5")]
    quiet_hours: Option<MarkMessage>,
    #[prost(message, optional, tag = "6")]
    quiet_hours_value: Option<QuietMessage>,
    #[prost(message, optional, tag = "7")]
    frequency_limit: Option<MarkMessage>,
    #[prost(message, optional, tag = "8")]
    frequency_limit_value: Option<FrequencyMessage>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct QuietMessage {
    #[prost(uint32, tag = "1")]
    start_minute: u32,
    #[prost(uint32, tag = "2")]
    end_minute: u32,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct FrequencyMessage {
    #[prost(uint32, tag = "1")]
    uses_max: u32,
    #[prost(int64, tag = "2")]
    period_ms: i64,
}

#[derive(Clone, PartialEq, Message)]
struct LinkMessage {
    #[prost(bytes = "vec", tag = "1")]
    other: Vec<u8>,
    #[prost(bool, tag = "2")]
    is_verified: bool,
    #[prost(uint64, tag = "3")]
    index: u64,
}

/// Purpose, class and channel are one more than the ordinal. Neither purpose nor class: all purposes; no
/// channel: all channels.
#[derive(Clone, Copy, PartialEq, Message)]
struct StopMessage {
    #[prost(uint64, tag = "1")]
    purpose: u64,
    #[prost(uint64, tag = "2")]
    channel: u64,
    #[prost(uint32, tag = "3")]
    kind: u32,
    #[prost(message, required, tag = "4")]
    mark: MarkMessage,
    #[prost(bool, tag = "5")]
    is_subjects: bool,
    #[prost(uint64, tag = "6")]
    first_index: u64,
    #[prost(uint64, tag = "7")]
    class: u64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct ExceptionMessage {
    #[prost(message, required, tag = "1")]
    mark: MarkMessage,
    #[prost(bool, tag = "2")]
    lifts: bool,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct MarkMessage {
    #[prost(int64, tag = "1")]
    effective_at: i64,
    #[prost(uint64, tag = "2")]
    index: u64,
}

#[derive(Clone, PartialEq, Message)]
struct CellMessage {
    #[prost(uint32, tag = "1")]
    purpose: u32,
    #[prost(uint32, tag = "2")]
    channel: u32,
    #[prost(message, required, tag = "3")]
    own: GrantsMessage,
    #[prost(message, optional, tag = "4")]
    lifted: Option<MarkMessage>,
    #[prost(message, optional, tag = "5")]
    others: Option<GrantsMessage>,
    #[prost(message, optional, tag = "6")]
    exception: Option<ExceptionMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct GrantsMessage {
    #[prost(message, optional, tag = "1")]
    given: Option<GrantMessage>,
    #[prost(message, optional, tag = "2")]
    pending: Option<GrantMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct GrantMessage {
    #[prost(message, required, tag = "1")]
    mark: MarkMessage,
    #[prost(uint32, tag = "2")]
    actor: u32,
    #[prost(uint32, tag = "3")]
    purpose_version: u32,
    #[prost(int64, optional, tag = "4")]
    expires_at: Option<i64>,
    /// Absent: all categories of the version.
    #[prost(message, optional, tag = "5")]
    data_categories: Option<CategoriesMessage>,
    #[prost(int64, optional, tag = "6")]
    authority_ends_at: Option<i64>,
    #[prost(uint64, optional, tag = "7")]
    confirmed_by: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct CategoriesMessage {
    #[prost(string, repeated, tag = "1")]
    names: Vec<String>,
}

const STOP_KINDS: [StopKind; 4] =
    [StopKind::Refused, StopKind::Withdrawn, StopKind::Revoked, StopKind::Objected];
const ACTORS: [Actor; 6] =
    [Actor::Subject, Actor::Guardian, Actor::Agent, Actor::Operator, Actor::System, Actor::Import];

/// The bytes of a state.
#[must_use]
pub fn encode(state: &SubjectState) -> Vec<u8> {
    let message = StateMessage {
        stops: state.stops().iter().map(stop_message).collect(),
        cells: state.cells().iter().map(cell_message).collect(),
        erased_by: state.erased_by,
        revision: state.revision,
        contact: state.contact.as_deref().map(contact_message),
        links: state.links.iter().map(link_message).collect(),
    };
    message.encode_to_vec()
}

/// Reads a state.
///
/// # Errors
/// [`RowError`].
pub fn decode(bytes: &[u8]) -> Result<SubjectState, RowError> {
    let message = StateMessage::decode(bytes).map_err(|_| RowError)?;
    let stops = message.stops.iter().map(stop).collect::<Option<_>>().ok_or(RowError)?;
    let cells = message.cells.into_iter().map(cell).collect::<Option<_>>().ok_or(RowError)?;
    let links = message.links.iter().map(link).collect::<Option<_>>().ok_or(RowError)?;
    let mut state = SubjectState::from_parts(stops, cells, message.erased_by, message.revision);
    state.contact = message.contact.map(|message| Box::new(contact(message)));
    state.links = links;
    Ok(state)
}

fn contact_message(contact: &Contact) -> ContactMessage {
    fn at<T>(field: Option<&Field<T>>) -> Option<MarkMessage> {
        field.map(|field| mark_message(field.mark))
    }
    let names = |names: &Arc<[String]>| CategoriesMessage { names: names.to_vec() };
    ContactMessage {
        time_zones: at(contact.time_zones.as_ref()),
        time_zones_value: contact
            .time_zones
            .as_ref()
            .and_then(|field| field.value.as_ref().map(names)),
        language: at(contact.language.as_ref()),
        language_value: contact.language().map(str::to_owned),
        quiet_hours: at(contact.quiet_hours.as_ref()),
        quiet_hours_value: contact.quiet_hours().map(|span| QuietMessage {
            start_minute: span.start_minute,
            end_minute: span.end_minute,
        }),
        frequency_limit: at(contact.frequency_limit.as_ref()),
        frequency_limit_value: contact
            .frequency_limit()
            .map(|cap| FrequencyMessage { uses_max: cap.uses_max, period_ms: cap.period_ms }),
    }
}

fn contact(message: ContactMessage) -> Contact {
    fn field<T>(at: Option<MarkMessage>, value: Option<T>) -> Option<Field<T>> {
        Some(Field { mark: mark(at?), value })
    }
    let zones = message.time_zones_value.map(|zones| zones.names.into());
    let span = message
        .quiet_hours_value
        .map(|span| QuietSpan { start_minute: span.start_minute, end_minute: span.end_minute });
    let cap = message
        .frequency_limit_value
        .map(|cap| FrequencyCap { uses_max: cap.uses_max, period_ms: cap.period_ms });
    Contact {
        time_zones: field(message.time_zones, zones),
        language: field(message.language, message.language_value.map(Into::into)),
        quiet_hours: field(message.quiet_hours, span),
        frequency_limit: field(message.frequency_limit, cap),
    }
}

fn link_message(link: &Link) -> LinkMessage {
    LinkMessage {
        other: link.other.0.to_vec(),
        is_verified: link.confidence == LinkConfidence::Verified,
        index: link.index,
    }
}

fn link(message: &LinkMessage) -> Option<Link> {
    let confidence =
        if message.is_verified { LinkConfidence::Verified } else { LinkConfidence::Asserted };
    let other = SubjectRef(message.other.as_slice().try_into().ok()?);
    Some(Link { other, confidence, index: message.index })
}

fn stop_message(stop: &Stop) -> StopMessage {
    let (purpose, class) = match stop.scope.purpose {
        None => (0, 0),
        Some(PurposeScope::One(id)) => (u64::from(id.0) + 1, 0),
        Some(PurposeScope::Class(id)) => (0, u64::from(id.0) + 1),
    };
    StopMessage {
        purpose,
        class,
        channel: stop.scope.channel.map_or(0, |id| u64::from(id.0) + 1),
        kind: position(&STOP_KINDS, &stop.kind),
        mark: mark_message(stop.mark),
        is_subjects: stop.is_subjects,
        first_index: stop.first_index,
    }
}

fn stop(message: &StopMessage) -> Option<Stop> {
    let ordinal = |stored: u64| stored.checked_sub(1).map(u32::try_from).transpose().ok();
    let purpose = match (ordinal(message.purpose)?, ordinal(message.class)?) {
        (None, None) => None,
        (Some(id), None) => Some(PurposeScope::One(PurposeId(id))),
        (None, Some(id)) => Some(PurposeScope::Class(ClassId(id))),
        (Some(_), Some(_)) => return None,
    };
    Some(Stop {
        scope: Scope { purpose, channel: ordinal(message.channel)?.map(ChannelId) },
        kind: *STOP_KINDS.get(usize::try_from(message.kind).ok()?)?,
        is_subjects: message.is_subjects,
        mark: mark(message.mark),
        first_index: message.first_index,
    })
}

fn mark_message(mark: Mark) -> MarkMessage {
    MarkMessage { effective_at: mark.effective_at.0, index: mark.index }
}

fn mark(message: MarkMessage) -> Mark {
    Mark { effective_at: Millis(message.effective_at), index: message.index }
}

fn cell_message(cell: &CellState) -> CellMessage {
    CellMessage {
        purpose: cell.purpose.0,
        channel: cell.channel.0,
        own: grants_message(&cell.own),
        lifted: cell.lifted.map(mark_message),
        others: cell.others.as_deref().map(grants_message),
        exception: cell.exception.as_deref().map(|exception| ExceptionMessage {
            mark: mark_message(exception.mark),
            lifts: exception.lifts,
        }),
    }
}

fn grants_message(grants: &Grants) -> GrantsMessage {
    GrantsMessage {
        given: grants.given.as_ref().map(grant_message),
        pending: grants.pending.as_deref().map(grant_message),
    }
}

fn grants(message: GrantsMessage) -> Option<Grants> {
    let read =
        |message: Option<GrantMessage>| message.map(grant).map_or(Some(None), |it| it.map(Some));
    Some(Grants { given: read(message.given)?, pending: read(message.pending)?.map(Box::new) })
}

fn cell(message: CellMessage) -> Option<CellState> {
    Some(CellState {
        purpose: PurposeId(message.purpose),
        channel: ChannelId(message.channel),
        own: grants(message.own)?,
        lifted: message.lifted.map(mark),
        others: match message.others {
            Some(message) => Some(Box::new(grants(message)?)),
            None => None,
        },
        exception: message.exception.map(|exception| {
            Box::new(Exception { mark: mark(exception.mark), lifts: exception.lifts })
        }),
    })
}

fn grant_message(grant: &Grant) -> GrantMessage {
    GrantMessage {
        mark: mark_message(grant.mark),
        actor: position(&ACTORS, &grant.actor),
        purpose_version: grant.purpose_version,
        expires_at: grant.expires_at.map(|at| at.0),
        data_categories: grant
            .data_categories
            .as_ref()
            .map(|names| CategoriesMessage { names: names.to_vec() }),
        authority_ends_at: grant.authority_ends_at.map(|at| at.0),
        confirmed_by: grant.confirmed_by,
    }
}

fn grant(message: GrantMessage) -> Option<Grant> {
    Some(Grant {
        mark: mark(message.mark),
        actor: *ACTORS.get(usize::try_from(message.actor).ok()?)?,
        purpose_version: message.purpose_version,
        expires_at: message.expires_at.map(Millis),
        data_categories: message.data_categories.map(|categories| categories.names.into()),
        authority_ends_at: message.authority_ends_at.map(Millis),
        confirmed_by: message.confirmed_by,
    })
}

/// Where a value stands in a table that has all values of its type.
fn position<T: PartialEq>(table: &[T], value: &T) -> u32 {
    let position = table.iter().position(|entry| entry == value);
    position.and_then(|position| u32::try_from(position).ok()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*, sample::select};

    use super::*;

    fn any_mark() -> impl Strategy<Value = Mark> {
        any::<(i64, u64)>().prop_map(|(at, index)| Mark { effective_at: Millis(at), index })
    }

    fn any_stop() -> impl Strategy<Value = Stop> {
        let purpose = option::of((any::<u32>(), any::<bool>()).prop_map(|(id, is_class)| {
            if is_class {
                PurposeScope::Class(ClassId(id))
            } else {
                PurposeScope::One(PurposeId(id))
            }
        }));
        let scope = (purpose, any::<Option<u32>>())
            .prop_map(|(purpose, channel)| Scope { purpose, channel: channel.map(ChannelId) });
        (scope, select(STOP_KINDS.to_vec()), any_mark(), any::<(bool, u64)>()).prop_map(
            |(scope, kind, mark, (is_subjects, first_index))| Stop {
                scope,
                kind,
                is_subjects,
                mark,
                first_index,
            },
        )
    }

    fn any_grant() -> impl Strategy<Value = Grant> {
        let rest = (any::<u32>(), any::<Option<i64>>(), option::of(vec("[a-z.]{1,9}", 0..3)));
        let by = any::<(Option<i64>, Option<u64>)>();
        (any_mark(), select(ACTORS.to_vec()), rest, by).prop_map(
            |(mark, actor, (purpose_version, expires_at, categories), (ends_at, confirmed_by))| {
                Grant {
                    mark,
                    actor,
                    purpose_version,
                    expires_at: expires_at.map(Millis),
                    data_categories: categories.map(Into::into),
                    authority_ends_at: ends_at.map(Millis),
                    confirmed_by,
                }
            },
        )
    }

    fn any_field<T: Clone + std::fmt::Debug>(
        value: impl Strategy<Value = T>,
    ) -> impl Strategy<Value = Option<Field<T>>> {
        let field = (any_mark(), option::of(value));
        option::of(field.prop_map(|(mark, value)| Field { mark, value }))
    }

    fn any_contact() -> impl Strategy<Value = Contact> {
        let zones = vec("[A-Z][a-z]{1,5}", 1..3).prop_map(Arc::from);
        let span = any::<(u32, u32)>()
            .prop_map(|(start_minute, end_minute)| QuietSpan { start_minute, end_minute });
        let cap = any::<(u32, i64)>()
            .prop_map(|(uses_max, period_ms)| FrequencyCap { uses_max, period_ms });
        let language = "[a-z]{2}".prop_map(Arc::from);
        (any_field(zones), any_field(language), any_field(span), any_field(cap)).prop_map(
            |(time_zones, language, quiet_hours, frequency_limit)| Contact {
                time_zones,
                language,
                quiet_hours,
                frequency_limit,
            },
        )
    }

    fn any_link() -> impl Strategy<Value = Link> {
        let confidence = select(vec![LinkConfidence::Verified, LinkConfidence::Asserted]);
        (any::<[u8; 16]>(), confidence, any::<u64>()).prop_map(|(other, confidence, index)| Link {
            other: SubjectRef(other),
            confidence,
            index,
        })
    }

    fn any_state() -> impl Strategy<Value = SubjectState> {
        let exception = option::of((any_mark(), any::<bool>()));
        let grants = || {
            (option::of(any_grant()), option::of(any_grant()))
                .prop_map(|(given, pending)| Grants { given, pending: pending.map(Box::new) })
        };
        let grants = (grants(), option::of(any_mark()), option::of(grants()), exception);
        let cell = (any::<u32>(), any::<u32>(), grants).prop_map(
            |(purpose, channel, (own, lifted, others, exception))| CellState {
                purpose: PurposeId(purpose),
                channel: ChannelId(channel),
                own,
                lifted,
                others: others.map(Box::new),
                exception: exception.map(|(mark, lifts)| Box::new(Exception { mark, lifts })),
            },
        );
        let rest = (option::of(any_contact()), vec(any_link(), 0..3), any::<(Option<u64>, u64)>());
        (vec(any_stop(), 0..4), vec(cell, 0..4), rest).prop_map(
            |(stops, cells, (contact, links, (erased_by, revision)))| {
                let mut state = SubjectState::from_parts(stops, cells, erased_by, revision);
                state.contact = contact.map(Box::new);
                state.links = links;
                state
            },
        )
    }

    proptest! {
        #[test]
        fn every_state_reads_back(state in any_state()) {
            prop_assert_eq!(decode(&encode(&state)), Ok(state));
        }

        #[test]
        fn a_cut_row_is_never_read_as_the_whole(state in any_state(), cut: prop::sample::Index) {
            let bytes = encode(&state);
            prop_assume!(!bytes.is_empty());
            prop_assert_ne!(decode(&bytes[..cut.index(bytes.len())]), Ok(state));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn ordinals_out_of_range_are_malformed() {
        let stop = StopMessage { purpose: u64::MAX, ..StopMessage::default() };
        let state = StateMessage { stops: vec![stop], ..StateMessage::default() };
        assert_eq!(decode(&state.encode_to_vec()), Err(RowError));
        let stop = StopMessage { purpose: 1, kind: 9, ..StopMessage::default() };
        let state = StateMessage { stops: vec![stop], ..StateMessage::default() };
        assert_eq!(decode(&state.encode_to_vec()), Err(RowError));
    }
}
