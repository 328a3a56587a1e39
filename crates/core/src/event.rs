//! Events: the notifications that watchers receive for entries.
//!
//! A kind of entry gives the content of its event ([`EventOutline`]), with references instead of names.
//! Only [`of`] makes the event: the writer calls it for entries that it is about to write, the
//! reader of the past for entries of the ledger. Each of them provides the context
//! ([`Surroundings`]): the names of data subjects, who is linked to them, and the catalogue and
//! subscriptions at that entry.
//!
//! # Data subjects that were erased
//! Every subscriber receives the event of an erasure while the name is still known. Once a data
//! subject is erased, its entries have no events: an event without a name could not be matched to
//! any record, and has neither namespace nor shard to filter by. So an entry has no event if one of
//! its data subjects is erased, and erased data subjects are left out of the linked ones. Streams
//! go on with the next entry.
//!
//! # Entries with several events
//! An entry that ends the grants of several data subjects has one [`Event`] here, so that a position in a
//! stream is always the index of an entry. [`Event::parts`] makes one event of it for each data subject,
//! where it leaves the service. They come one after the other, and a stream that breaks off between
//! them resumes at the entry, with all of them.

use std::{ops::Range, slice, sync::Arc};

use crate::{
    domain::{
        Actor, ChangeRecord, EventKind, Filter, Identity, Key, LinkConfidence, Millis, PurposeName,
        Reason, Subject, SubjectRef, SubscriptionId,
    },
    entry::{DeliveryOverdue, Fact, GrantExpired, LinkChange, Place},
    format::keys::ledger::LedgerSecret,
};

/// A notification for watchers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Index of its entry.
    pub index: u64,
    /// When the ledger recorded it.
    pub recorded_at: Millis,
    /// What happened.
    pub detail: EventDetail,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventDetail {
    /// An act, a confirmation, or the end of grants.
    Consent(ConsentDetail),
    /// The ends of grants of several data subjects. Each is told as an event of its own.
    Ends(Vec<ConsentDetail>),
    /// Two data subjects were linked or unlinked.
    Link(LinkDetail),
    /// The catalogue changed.
    Catalog(CatalogDetail),
    /// A subscription is overdue.
    Overdue(OverdueDetail),
}

/// An act, a confirmation, or the end of grants, as watchers receive it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsentDetail {
    /// Whose consent it is.
    pub subject: Subject,
    /// Who acted.
    pub actor: Actor,
    /// When it took effect.
    pub effective_at: Millis,
    /// What changed, in the order of the act.
    pub changes: Vec<ChangeRecord>,
    /// Whether the data subject changed how it wants to be contacted.
    pub preferences_changed: bool,
    /// For confirmations and expiries: index of the act that is confirmed, or whose grants ended.
    pub cause: Option<u64>,
    /// For expiries: why the grants ended.
    pub reason: Option<Reason>,
    /// Data subjects that are linked to it, directly or through others. Their decisions may have
    /// changed, too.
    pub linked: Vec<Subject>,
    /// Set if the entry has an event for each of several data subjects.
    pub part: Option<Part>,
}

/// Which of the events of an entry it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Place of the data subject in the entry, from 0.
    pub place: u32,
    /// Whether events of the same entry follow for the same receiver.
    pub more: bool,
}

/// A link, or its end, as watchers receive it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkDetail {
    /// One data subject.
    pub subject: Subject,
    /// The other.
    pub other: Subject,
    /// How sure the link is; none if the two were unlinked.
    pub confidence: Option<LinkConfidence>,
    /// Data subjects that are linked to one of the two, directly or through others.
    pub linked: Vec<Subject>,
}

/// A change of the catalogue, as watchers receive it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogDetail {
    /// The purpose; none if something else changed.
    pub purpose: Option<Key>,
    /// The channel; none if something else changed.
    pub channel: Option<Key>,
    /// The namespace; none if something else changed.
    pub namespace: Option<Key>,
    /// Its effects on decisions; never empty in an event.
    pub effects: Vec<CatalogEffect>,
    /// For a purpose: its version now.
    pub version: u32,
    /// For a purpose: the oldest version whose grants count now.
    pub oldest_compatible: u32,
}

/// An effect of a change of the catalogue on decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CatalogEffect {
    /// A purpose or channel is new.
    Added,
    /// It was retired.
    Retired,
    /// It is no longer retired.
    Reinstated,
    /// Grants of older versions no longer count.
    ReconsentRequired,
    /// Grants of older versions count again.
    ReconsentLifted,
    /// Its legal basis changed, somewhere.
    BasisChanged,
    /// Its data categories, obligations or defaults changed.
    ContentChanged,
    /// The times of some entries were corrected.
    ClockCorrected,
}

/// A subscription that is overdue, as watchers receive it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverdueDetail {
    /// Name of the subscription.
    pub subscription: Key,
    /// The shard that is behind.
    pub shard: u32,
    /// The oldest event that it has not acknowledged.
    pub event_index: u64,
    /// When that was recorded.
    pub pending_since: Millis,
}

/// The content of an entry's event, with references instead of names.
#[derive(Debug, Clone, Copy)]
pub enum EventOutline<'a> {
    /// An act, a confirmation, or the end of grants.
    Consent(ConsentOutline<'a>),
    /// The ends of grants of several data subjects.
    Ends(&'a [GrantExpired]),
    /// Two data subjects were linked or unlinked.
    Link(&'a LinkChange),
    /// The catalogue changed; the fold gives the effects on decisions.
    Catalog,
    /// A subscription is overdue.
    Overdue(&'a DeliveryOverdue),
    /// No event.
    Nothing,
}

/// The content of the event of an act, a confirmation, or the end of grants.
#[derive(Debug, Clone, Copy)]
pub struct ConsentOutline<'a> {
    /// Whose consent it is.
    pub subject: SubjectRef,
    /// Who acted.
    pub actor: Actor,
    /// When it took effect.
    pub effective_at: Millis,
    /// What changed.
    pub changes: &'a [ChangeRecord],
    /// Whether the data subject changed how it wants to be contacted.
    pub preferences_changed: bool,
    /// Index of the act that is confirmed, or whose grants ended.
    pub cause: Option<u64>,
    /// Why grants ended.
    pub reason: Option<Reason>,
}

impl EventOutline<'_> {
    /// Whether its event may pass a filter. False only if no name could make it pass.
    #[must_use]
    pub fn may_pass(&self, filter: &Filter) -> bool {
        match self {
            Self::Consent(consent) => {
                consent.changes.iter().any(|change| filter.passes(change))
                    || consent.preferences_changed && filter.wants(EventKind::Preferences)
            }
            Self::Ends(ends) => {
                let changes = ends.iter().flat_map(|end| &end.changes);
                changes.into_iter().any(|change| filter.passes(change))
            }
            Self::Link(_) => filter.wants(EventKind::Link),
            Self::Catalog => filter.wants(EventKind::Catalog),
            Self::Overdue(_) => filter.wants(EventKind::Overdue),
            Self::Nothing => false,
        }
    }
}

/// The context of an entry, as of just after it.
pub trait Surroundings {
    /// Why a lookup failed.
    type Error;

    /// The identity of a data subject.
    ///
    /// # Errors
    /// The lookup failed.
    fn identity(&self, subject: SubjectRef) -> Result<Identity, Self::Error>;

    /// The data subjects that are linked to some others, in the order of [`crate::fold::around`].
    /// Erased ones are left out.
    ///
    /// # Errors
    /// The lookup failed.
    fn linked(&self, subjects: &[SubjectRef]) -> Result<Vec<Subject>, Self::Error>;

    /// The change that the catalogue entry at an index made; none if no decision can have changed.
    ///
    /// # Errors
    /// The lookup failed.
    fn catalog(&self, index: u64) -> Result<Option<CatalogDetail>, Self::Error>;

    /// The name of a subscription.
    ///
    /// # Errors
    /// There is no such subscription, or the lookup failed.
    fn subscription(&self, id: SubscriptionId) -> Result<Key, Self::Error>;
}

/// The event of an entry, if it has one.
///
/// # Errors
/// Those of `surroundings`.
pub fn of<S: Surroundings>(fact: Fact<'_>, surroundings: &S) -> Result<Option<Event>, S::Error> {
    let detail = match fact.kind.outline() {
        EventOutline::Consent(consent) => {
            consent_detail(&consent, surroundings)?.map(EventDetail::Consent)
        }
        EventOutline::Ends(ends) => ends_detail(ends, surroundings)?.map(EventDetail::Ends),
        EventOutline::Link(link) => link_detail(link, surroundings)?.map(EventDetail::Link),
        EventOutline::Catalog => surroundings.catalog(fact.place.index)?.map(EventDetail::Catalog),
        EventOutline::Overdue(overdue) => Some(EventDetail::Overdue(OverdueDetail {
            subscription: surroundings.subscription(overdue.subscription)?,
            shard: overdue.shard,
            event_index: overdue.event_index,
            pending_since: overdue.pending_since,
        })),
        EventOutline::Nothing => None,
    };
    let Place { index, recorded_at } = fact.place;
    Ok(detail.map(|detail| Event { index, recorded_at, detail }))
}

fn consent_detail<S: Surroundings>(
    consent: &ConsentOutline<'_>,
    surroundings: &S,
) -> Result<Option<ConsentDetail>, S::Error> {
    let subject = match surroundings.identity(consent.subject)? {
        Identity::Known(subject) => subject,
        Identity::Erased => return Ok(None),
    };
    Ok(Some(ConsentDetail {
        subject,
        actor: consent.actor,
        effective_at: consent.effective_at,
        changes: consent.changes.to_vec(),
        preferences_changed: consent.preferences_changed,
        cause: consent.cause,
        reason: consent.reason,
        linked: surroundings.linked(&[consent.subject])?,
        part: None,
    }))
}

/// Those of the data subjects that are not erased.
fn ends_detail<S: Surroundings>(
    ends: &[GrantExpired],
    surroundings: &S,
) -> Result<Option<Vec<ConsentDetail>>, S::Error> {
    let mut details = Vec::with_capacity(ends.len());
    for (place, end) in (0..).zip(ends) {
        let detail = consent_detail(&end.outline(), surroundings)?;
        let part = Some(Part { place, more: false });
        details.extend(detail.map(|detail| ConsentDetail { part, ..detail }));
    }
    Ok((!details.is_empty()).then_some(details))
}

fn link_detail<S: Surroundings>(
    link: &LinkChange,
    surroundings: &S,
) -> Result<Option<LinkDetail>, S::Error> {
    let sides = [link.subject_ref, link.other_ref];
    let names = (surroundings.identity(sides[0])?, surroundings.identity(sides[1])?);
    let (Identity::Known(subject), Identity::Known(other)) = names else { return Ok(None) };
    let linked = surroundings.linked(&sides)?;
    Ok(Some(LinkDetail { subject, other, confidence: link.confidence, linked }))
}

impl Event {
    /// The data subjects that it concerns: its own, both of a link, and those linked to them. Empty
    /// if it concerns all data subjects.
    pub fn subjects(&self) -> impl Iterator<Item = &Subject> {
        let links = self.link().into_iter();
        let of_link =
            links.flat_map(|link| [&link.subject, &link.other].into_iter().chain(&link.linked));
        self.consents().iter().flat_map(ConsentDetail::subjects).chain(of_link)
    }

    /// The data subjects of its entry: two for a link; none if it concerns all data subjects.
    pub fn own_subjects(&self) -> impl Iterator<Item = &Subject> {
        let of_link = self.link().into_iter().flat_map(|link| [&link.subject, &link.other]);
        self.consents().iter().map(|consent| &consent.subject).chain(of_link)
    }

    fn consents(&self) -> &[ConsentDetail] {
        match &self.detail {
            EventDetail::Consent(consent) => slice::from_ref(consent),
            EventDetail::Ends(ends) => ends,
            EventDetail::Link(_) | EventDetail::Catalog(_) | EventDetail::Overdue(_) => &[],
        }
    }

    fn link(&self) -> Option<&LinkDetail> {
        if let EventDetail::Link(link) = &self.detail { Some(link) } else { None }
    }

    /// How many events [`Self::parts`] makes.
    #[must_use]
    pub fn part_count(&self, positions: &[usize]) -> usize {
        let EventDetail::Ends(ends) = &self.detail else { return 1 };
        spans(ends).filter(|(span, _)| !in_span(positions, span).is_empty()).count()
    }

    /// The events of its entry for one receiver, with the positions of their changes: one for each data
    /// subject with changes at the given positions, or else the event itself.
    #[must_use]
    pub fn parts(self: &Arc<Self>, positions: &[usize]) -> Vec<(Arc<Self>, Vec<usize>)> {
        let EventDetail::Ends(ends) = &self.detail else {
            return vec![(Arc::clone(self), positions.to_vec())];
        };
        let of_each = spans(ends).map(|(span, end)| (end, within(positions, &span)));
        let told: Vec<_> = of_each.filter(|(_, positions)| !positions.is_empty()).collect();
        let last = told.len().saturating_sub(1);
        let part = |(number, (end, positions)): (usize, (&ConsentDetail, Vec<usize>))| {
            let part = end.part.map(|part| Part { more: number < last, ..part });
            let detail = EventDetail::Consent(ConsentDetail { part, ..end.clone() });
            (Arc::new(Self { index: self.index, recorded_at: self.recorded_at, detail }), positions)
        };
        told.into_iter().enumerate().map(part).collect()
    }

    /// Whether it goes to a shard, if there are so many: the shards of its own data subjects, or
    /// every shard if it concerns all data subjects.
    #[must_use]
    pub fn is_of_shard(&self, (shard, shards): (u32, u32), secret: &LedgerSecret) -> bool {
        let mut subjects = self.own_subjects().peekable();
        shards <= 1
            || subjects.peek().is_none()
            || subjects.any(|subject| secret.shard(subject.as_str(), shards) == shard)
    }

    /// As [`Self::passing`], for one shard, if there are so many: of the ends of several data subjects those
    /// of the shard.
    #[must_use]
    pub fn passing_in(
        &self,
        filter: &Filter,
        (shard, shards): (u32, u32),
        secret: &LedgerSecret,
    ) -> Option<Vec<usize>> {
        let passing = self.passing(filter)?;
        if !self.is_of_shard((shard, shards), secret) {
            return None;
        }
        let EventDetail::Ends(ends) = &self.detail else { return Some(passing) };
        let is_of_shard = |end: &ConsentDetail| {
            shards <= 1 || secret.shard(end.subject.as_str(), shards) == shard
        };
        let of_shard = spans(ends).filter(|(_, end)| is_of_shard(end));
        let passing: Vec<usize> =
            of_shard.flat_map(|(span, _)| in_span(&passing, &span).to_vec()).collect();
        (!passing.is_empty()).then_some(passing)
    }

    /// Whether it passes a filter and, for consents, the positions of the changes that do. A consent
    /// may pass for a change of preferences alone, with no position.
    #[must_use]
    pub fn passing(&self, filter: &Filter) -> Option<Vec<usize>> {
        if !self.is_about(filter) {
            return None;
        }
        match &self.detail {
            EventDetail::Consent(consent) => {
                let changes = consent.changes.iter().enumerate();
                let passing: Vec<usize> = changes
                    .filter(|(_, change)| filter.passes(change))
                    .map(|(position, _)| position)
                    .collect();
                let preferences =
                    consent.preferences_changed && filter.wants(EventKind::Preferences);
                (!passing.is_empty() || preferences).then_some(passing)
            }
            EventDetail::Ends(ends) => {
                let about = spans(ends).filter(|(_, end)| end.is_about(filter));
                let passing = about.flat_map(|(span, end)| {
                    let changes = span.zip(&end.changes);
                    changes
                        .filter(|(_, change)| filter.passes(change))
                        .map(|(position, _)| position)
                });
                let passing: Vec<usize> = passing.collect();
                (!passing.is_empty()).then_some(passing)
            }
            EventDetail::Link(_) => filter.wants(EventKind::Link).then(Vec::new),
            EventDetail::Catalog(change) => change.passes(filter).then(Vec::new),
            EventDetail::Overdue(_) => filter.wants(EventKind::Overdue).then(Vec::new),
        }
    }

    /// Whether decisions about a data subject in one of the namespaces may have changed.
    fn is_about(&self, filter: &Filter) -> bool {
        let mut subjects = self.subjects().peekable();
        subjects.peek().is_none()
            || subjects.any(|subject| filter.covers_namespace(subject.namespace()))
    }
}

impl ConsentDetail {
    /// The data subject, and those linked to it.
    pub fn subjects(&self) -> impl Iterator<Item = &Subject> {
        std::iter::once(&self.subject).chain(&self.linked)
    }

    fn is_about(&self, filter: &Filter) -> bool {
        self.subjects().any(|subject| filter.covers_namespace(subject.namespace()))
    }
}

/// The positions of the changes of each data subject, if the changes of all are counted.
fn spans(ends: &[ConsentDetail]) -> impl Iterator<Item = (Range<usize>, &ConsentDetail)> {
    ends.iter().scan(0, |first, end| {
        let span = *first..*first + end.changes.len();
        *first = span.end;
        Some((span, end))
    })
}

/// Those of ascending positions that lie in a span.
fn in_span<'p>(positions: &'p [usize], span: &Range<usize>) -> &'p [usize] {
    let place = |bound: usize| positions.partition_point(|position| *position < bound);
    &positions[place(span.start)..place(span.end)]
}

/// As [`in_span`], counted from its start.
fn within(positions: &[usize], span: &Range<usize>) -> Vec<usize> {
    in_span(positions, span).iter().map(|position| position - span.start).collect()
}

impl CatalogDetail {
    fn passes(&self, filter: &Filter) -> bool {
        filter.wants(EventKind::Catalog)
            && filter.covers_purpose(self.purpose.clone().map(PurposeName::One).as_ref())
            && filter.covers_channel(self.channel.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{
        domain::{Action, Outcome, ScopeKeys},
        format::secret::Key as SecretKey,
    };

    fn event(changes: &[(Action, &str, &str)]) -> Event {
        let key = |text: &str| (text != "*").then(|| Key::parse(text).unwrap());
        let change = |&(action, purpose, channel): &(Action, &str, &str)| ChangeRecord {
            action,
            scope: ScopeKeys { purpose: key(purpose).map(Into::into), channel: key(channel) },
            purpose_version: 1,
            expires_at: None,
            data_categories: Vec::new(),
            outcome: Outcome::Applied,
            linked_subjects: 0,
        };
        let consent = ConsentDetail {
            subject: Subject::parse("user:42").unwrap(),
            actor: Actor::Subject,
            effective_at: Millis(0),
            changes: changes.iter().map(change).collect(),
            preferences_changed: false,
            cause: None,
            reason: None,
            linked: Vec::new(),
            part: None,
        };
        Event { index: 7, recorded_at: Millis(0), detail: EventDetail::Consent(consent) }
    }

    fn names(texts: &[&str]) -> BTreeSet<PurposeName> {
        texts.iter().map(|text| PurposeName::parse(text).unwrap()).collect()
    }

    fn keys(texts: &[&str]) -> BTreeSet<Key> {
        texts.iter().map(|text| Key::parse(text).unwrap()).collect()
    }

    fn of_namespace(namespace: &str) -> Filter {
        Filter { namespaces: BTreeSet::from([namespace.to_owned()]), ..Filter::default() }
    }

    #[test]
    fn stops_pass_by_default_and_grants_on_request() {
        let event = event(&[
            (Action::Grant, "news", "email"),
            (Action::Refuse, "news", "sms"),
            (Action::Withdraw, "ads", "email"),
            (Action::Object, "*", "*"),
        ]);
        assert_eq!(event.passing(&Filter::default()), Some(vec![1, 2, 3]));
        let kinds = BTreeSet::from([EventKind::Grant, EventKind::Object]);
        assert_eq!(event.passing(&Filter { kinds, ..Filter::default() }), Some(vec![0, 3]));
    }

    #[test]
    fn a_wide_stop_passes_every_list() {
        let event = event(&[
            (Action::Withdraw, "news", "email"),
            (Action::Withdraw, "ads", "*"),
            (Action::Withdraw, "*", "sms"),
            (Action::Withdraw, "*", "*"),
        ]);
        let filter = Filter { purposes: names(&["news"]), ..Filter::default() };
        assert_eq!(event.passing(&filter), Some(vec![0, 2, 3]));
        let filter = Filter { channels: keys(&["sms"]), ..Filter::default() };
        assert_eq!(event.passing(&filter), Some(vec![1, 2, 3]));
        let filter =
            Filter { purposes: names(&["ads"]), channels: keys(&["email"]), ..Filter::default() };
        assert_eq!(event.passing(&filter), Some(vec![1, 3]));
    }

    #[test]
    fn other_namespaces_are_left_out() {
        let event = event(&[(Action::Withdraw, "news", "email")]);
        assert_eq!(event.passing(&of_namespace("user")), Some(vec![0]));
        assert_eq!(event.passing(&of_namespace("email")), None);
    }

    #[test]
    fn a_stop_passes_for_whom_it_reaches_through_a_link() {
        let mut event = event(&[(Action::Withdraw, "news", "email")]);
        let EventDetail::Consent(consent) = &mut event.detail else { unreachable!("a consent") };
        consent.linked = vec![Subject::parse("email:jo").unwrap()];
        assert_eq!(event.passing(&of_namespace("user")), Some(vec![0]));
        assert_eq!(event.passing(&of_namespace("email")), Some(vec![0]));
        assert_eq!(event.passing(&of_namespace("device")), None);
    }

    #[test]
    fn an_event_goes_to_the_shard_of_its_data_subject() {
        let secret = LedgerSecret::new(SecretKey::new([7; 32]));
        let event = event(&[(Action::Withdraw, "*", "*")]);
        let is_of = |shard: &u32| event.is_of_shard((*shard, 64), &secret);
        let shards: Vec<u32> = (0..64).filter(is_of).collect();
        assert_eq!(shards, [secret.shard("user:42", 64)]);
        assert!(event.is_of_shard((0, 1), &secret));
    }

    #[test]
    fn preferences_pass_on_request_alone() {
        let mut event = event(&[]);
        let EventDetail::Consent(consent) = &mut event.detail else { unreachable!("a consent") };
        consent.preferences_changed = true;
        assert_eq!(event.passing(&Filter::default()), None);
        let kinds = BTreeSet::from([EventKind::Preferences]);
        assert_eq!(event.passing(&Filter { kinds, ..Filter::default() }), Some(Vec::new()));
    }

    #[test]
    fn the_catalogue_passes_by_its_key_and_for_every_namespace() {
        let change = CatalogDetail {
            purpose: Some(Key::parse("news").unwrap()),
            channel: None,
            namespace: None,
            effects: vec![CatalogEffect::Retired],
            version: 1,
            oldest_compatible: 1,
        };
        let event =
            Event { index: 7, recorded_at: Millis(0), detail: EventDetail::Catalog(change) };
        assert_eq!(event.passing(&of_namespace("email")), Some(Vec::new()));
        let of_purpose = |purpose| Filter { purposes: names(&[purpose]), ..Filter::default() };
        assert_eq!(event.passing(&of_purpose("news")), Some(Vec::new()));
        assert_eq!(event.passing(&of_purpose("ads")), None);
        let channels = Filter { channels: keys(&["sms"]), ..Filter::default() };
        assert_eq!(event.passing(&channels), Some(Vec::new()), "a purpose is on every channel");
    }

    fn ends(of: &[(&str, &[&str])]) -> Event {
        let end = |(place, (subject, purposes)): (u32, &(&str, &[&str]))| {
            let changes: Vec<_> =
                purposes.iter().map(|purpose| (Action::Expire, *purpose, "email")).collect();
            let EventDetail::Consent(consent) = event(&changes).detail else { unreachable!() };
            let subject = Subject::parse(subject).unwrap();
            ConsentDetail { subject, part: Some(Part { place, more: false }), ..consent }
        };
        let detail = EventDetail::Ends((0..).zip(of).map(end).collect());
        Event { index: 7, recorded_at: Millis(0), detail }
    }

    fn told(event: Event, filter: &Filter) -> Vec<(String, Part, Vec<usize>)> {
        let passing = event.passing(filter).unwrap_or_default();
        let part = |(event, positions): (Arc<Event>, Vec<usize>)| {
            let EventDetail::Consent(consent) = &event.detail else { panic!("{event:?}") };
            (consent.subject.as_str().to_owned(), consent.part.unwrap(), positions)
        };
        Arc::new(event).parts(&passing).into_iter().map(part).collect()
    }

    #[test]
    fn each_data_subject_hears_of_its_own_ends() {
        let all =
            ends(&[("user:1", &["ads", "news"]), ("email:2", &["ads"]), ("user:3", &["news"])]);
        let part = |place, more| Part { place, more };
        assert_eq!(
            told(all.clone(), &Filter::default()),
            [
                ("user:1".to_owned(), part(0, true), vec![0, 1]),
                ("email:2".to_owned(), part(1, true), vec![0]),
                ("user:3".to_owned(), part(2, false), vec![0]),
            ]
        );
        let news = Filter { purposes: names(&["news"]), ..Filter::default() };
        assert_eq!(
            told(all.clone(), &news),
            [
                ("user:1".to_owned(), part(0, true), vec![1]),
                ("user:3".to_owned(), part(2, false), vec![0]),
            ]
        );
        assert_eq!(
            told(all.clone(), &of_namespace("email")),
            [("email:2".to_owned(), part(1, false), vec![0])]
        );
        assert_eq!(all.passing(&of_namespace("device")), None);
        assert_eq!(all.own_subjects().count(), 3);
    }

    #[test]
    fn the_ends_of_an_entry_are_divided_among_the_shards() {
        let secret = LedgerSecret::new(SecretKey::new([7; 32]));
        let names: Vec<String> = (0..40).map(|n| format!("user:{n}")).collect();
        let of: Vec<(&str, &[&str])> = names.iter().map(|name| (&**name, &["news"][..])).collect();
        let all = ends(&of);
        let mut told = Vec::new();
        for shard in 0..8 {
            let passing = all.passing_in(&Filter::default(), (shard, 8), &secret);
            for position in passing.iter().flatten() {
                assert_eq!(secret.shard(&names[*position], 8), shard);
            }
            told.extend(passing.into_iter().flatten());
        }
        told.sort_unstable();
        assert_eq!(told, (0..40).collect::<Vec<_>>());
        assert_eq!(all.passing_in(&Filter::default(), (0, 1), &secret).unwrap().len(), 40);
    }
}
