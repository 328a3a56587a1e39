//! Group commit: builds the entries of one batch. [`Batch::record`] shows every step of an act.
//!
//! Each write in a batch sees the effects of the writes before it, although nothing is durable or
//! visible yet. If the batch does not reach the disk, all of it is dropped.

use std::sync::Arc;

use hashbrown::HashMap;
use tracing::error;

use super::{
    Core,
    act::{Act, Idempotency, Recorded, Refused},
    catalog::{NamespaceDraft, PurposeDraft, Put},
    confirm::confirmation,
    effective::Moved,
    error::{CatalogError, ClockNotTrusted, RecordError, WriteError},
    names::NamespaceUse,
    news,
    parties::check_parties,
    stops::UnclearStop,
};
use crate::{
    clock::Reading,
    domain::{
        Action, Actor, Body, Catalog, Change, ChangeRecord, Channel, ChannelPut, ConsentAct, Door,
        Entry, Evidence, GrantExpired, IdempotencyMark, Identity, Key, Mark, Millis, Namespace,
        NamespacePut, Outcome, Purpose, PurposePut, Subject, SubjectRef, SubjectState,
        SubscriptionEntry, SubscriptionId, UnknownKey, covers_category, recorded_end,
    },
    entry::{EntryError, Fact, Kind, Names, Place},
    event::{self, CatalogDetail, Event, Surroundings},
    fold::{
        Acted, After, Effect, Fold, FoldError, Lead, Linked, Subscriptions, UseCell, around,
        corrected, reach, unite,
    },
    format::{
        LedgerId, Reference, Tag,
        entry::{Entry as SealedEntry, EntryError as FormError},
        error::BuildError,
        keys::{ledger::ConfidentialRoot, person::IdempotencyKey},
        slot::bytes_among_several,
    },
    ledger::{
        ChainError, ENTRY_BYTES_MAX, Tip,
        sealed::{self, Lane, LookupError, Named, Person, Persons, Slots, Whose, Writing as At},
    },
    opener::remember,
    vault::NewSubject,
};

/// The end of the ledger that a batch continues.
#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    pub tip: Tip,
    /// When the last entry was recorded.
    pub recorded_at: Millis,
}

/// The entries of one group commit.
#[derive(Debug)]
pub(super) struct Batch<'a> {
    core: &'a Core,
    /// The clock as the batch began.
    clock: Reading,
    /// The end of the chain once the batch is written.
    pub tip: Tip,
    /// When the last entry was recorded once the batch is written.
    pub last_recorded_at: Millis,
    /// The encoded entries.
    pub frames: Vec<Vec<u8>>,
    /// Total size of the encoded entries.
    pub bytes: usize,
    /// Effects of the entries on the view.
    pub effects: Vec<Effect>,
    /// Events of the entries, for watchers.
    pub events: Vec<Arc<Event>>,
    /// Subjects that the vault must hold before the entries are written.
    pub new_subjects: Vec<Arc<NewSubject>>,
    /// The catalogue and the subscriptions after the batch.
    fold: Fold,
    /// The states that the batch changed.
    states: HashMap<SubjectRef, Arc<SubjectState>>,
    /// The new subjects by identity, with their keys.
    subjects: HashMap<Subject, Arc<Person>>,
    /// The same by reference.
    persons: HashMap<SubjectRef, Arc<Person>>,
    /// How many tags the subjects of the batch have in each lane.
    landed: HashMap<(SubjectRef, Lane), u64>,
    /// Whose the tags of the batch are, and those that are expected next.
    tags: HashMap<Tag, Whose>,
    /// The entries of the batch by the references of their records.
    references: HashMap<Reference, u64>,
    /// Indexes of the entries with an idempotency key, by what stands for the key.
    indexes_by_key: HashMap<[u8; 16], u64>,
    /// When data was used, by data subject and cell.
    pub uses: HashMap<(SubjectRef, UseCell), Vec<Millis>>,
    /// Indexes of the confirmations, by the index of the confirmed act.
    pub confirmed: HashMap<u64, u64>,
}

/// The subject of a write, and the keys that seal what the entry says of it.
#[derive(Debug, Clone)]
pub(super) struct Sealer {
    pub person: Arc<Person>,
    /// Set if the vault does not hold the subject yet.
    new: Option<Arc<NewSubject>>,
}

impl Sealer {
    pub(super) fn subject_ref(&self) -> SubjectRef {
        self.person.subject_ref
    }
}

/// The result of folding in an entry that is not written yet.
pub(super) struct Folded {
    fold: Fold,
    pub after: After,
}

/// A validated act whose outcomes are not set yet.
pub(super) struct Prepared {
    sealer: Sealer,
    pub evidence: Evidence,
    pub before: Arc<SubjectState>,
    pub recorded_at: Millis,
    /// Why it takes effect at another time than claimed, if it does.
    pub moved: Option<Moved>,
    pub body: ConsentAct,
}

impl<'a> Batch<'a> {
    /// An empty batch that continues the chain at `tip`.
    pub(super) fn new(core: &'a Core, end: End, clock: Reading) -> Self {
        Self {
            core,
            clock,
            tip: end.tip,
            last_recorded_at: end.recorded_at,
            frames: Vec::new(),
            bytes: 0,
            effects: Vec::new(),
            events: Vec::new(),
            new_subjects: Vec::new(),
            fold: core.view.fold(),
            states: HashMap::new(),
            subjects: HashMap::new(),
            persons: HashMap::new(),
            landed: HashMap::new(),
            tags: HashMap::new(),
            references: HashMap::new(),
            indexes_by_key: HashMap::new(),
            uses: HashMap::new(),
            confirmed: HashMap::new(),
        }
    }

    pub(super) fn core(&self) -> &'a Core {
        self.core
    }

    /// The catalogue after the batch.
    pub(super) fn catalog(&self) -> &Catalog {
        &self.fold.catalog.catalog
    }

    /// One more than the index of the catalogue's last entry.
    pub(super) fn catalog_revision(&self) -> u64 {
        self.fold.catalog.revision
    }

    /// When the next entry is recorded.
    pub(super) fn recorded_at(&self) -> Millis {
        self.clock.sane.max(self.last_recorded_at)
    }

    /// When the next entry is recorded, if it is in clear: these have whole seconds.
    pub(super) fn recorded_second(&self) -> Millis {
        self.recorded_at().second()
    }

    /// The sane time, which may lie before the last entry.
    pub(super) fn clock_now(&self) -> Millis {
        self.clock.sane
    }

    /// Whether the clock is trusted.
    ///
    /// # Errors
    /// It is not.
    pub(super) fn check_clock(&self) -> Result<(), ClockNotTrusted> {
        match self.clock.is_trusted {
            true => Ok(()),
            false => Err(ClockNotTrusted { ahead_ms: self.clock.ahead_ms() }),
        }
    }

    /// Adds an act. On error the batch is unchanged.
    pub(super) fn record(&mut self, act: Act) -> Result<Recorded, RecordError> {
        // The decoder of entries refuses such an act.
        if act.changes.is_empty() && act.contact.is_empty() {
            return Err(RecordError::Empty);
        }
        let sealer = self.sealer(&act.subject)?;
        let mark = act.idempotency.as_ref().map(|idempotency| mark(&sealer.person, idempotency));
        if let Some(entry) = self.written_before(mark.as_ref())? {
            let claimed = act.effective_at;
            let earlier = recorded(entry, &sealer.person)?;
            let Recorded { effective_at, recorded_at, .. } = earlier;
            let moved = Moved::between(claimed, effective_at, recorded_at, self.earliest());
            return Ok(Recorded { moved, ..earlier });
        }
        let validity_ms = act.confirmation_validity_ms;
        let asked = news::Asked::of(&act);
        let (mut prepared, refused) =
            self.prepare_stops_at_least(act, &sealer, mark, UnclearStop::RefusesAct)?;
        let folded = self.judge(&mut prepared)?;
        if let Some(asked) = asked.filter(|_| refused == Refused::default())
            && let Some(standing) = self.stands_already(&asked, &prepared)?
        {
            return Ok(standing);
        }
        let recorded_at = prepared.recorded_at;
        let person = &sealer.person;
        let confirmation = self.core.offer(person, recorded_at, &mut prepared.body, validity_ms);
        let recorded = self.commit(prepared, folded)?;
        Ok(Recorded { confirmation, refused, ..recorded })
    }

    /// Validates an act: finds its subject and its time, and resolves its changes against the
    /// catalogue.
    pub(super) fn prepare(
        &self,
        mut act: Act,
        sealer: &Sealer,
        mark: Option<IdempotencyMark>,
    ) -> Result<Prepared, RecordError> {
        let before = self.state(sealer.subject_ref())?;
        let recorded_at = self.recorded_at();
        let effective_at = self.effective_at(&act, recorded_at, sealer.subject_ref(), &before)?;
        let claimed = act.effective_at;
        let moved = Moved::between(claimed, effective_at, recorded_at, self.earliest());
        act.evidence.effective_at_given = claimed.filter(|_| moved.is_some());
        if let Some(authority) = &mut act.evidence.authority {
            authority.ends_at = authority.ends_at.map(|at| recorded_end(effective_at, at));
        }
        let authority_ends_at = authority_end(&act, effective_at)?;
        let resolve = |(position, change)| self.resolve(position, change, effective_at);
        let changes = act.changes.iter().enumerate().map(resolve).collect::<Result<_, _>>()?;
        let body = ConsentAct {
            subject_ref: sealer.subject_ref(),
            actor: act.actor,
            effective_at,
            changes,
            door: Door::Call,
            import: None,
            idempotency: mark,
            authority_ends_at,
            confirmation: None,
            contact: act.contact,
        };
        let (sealer, evidence) = (sealer.clone(), act.evidence);
        Ok(Prepared { sealer, evidence, before, recorded_at, moved, body })
    }

    /// Adds an act whose outcomes are set.
    pub(super) fn commit(
        &mut self,
        prepared: Prepared,
        folded: Folded,
    ) -> Result<Recorded, WriteError> {
        let Prepared { sealer, evidence, recorded_at, moved, body, .. } = prepared;
        let (effective_at, changes) = (body.effective_at, body.changes.clone());
        let (named, evidence) = ([&sealer], Some(&evidence));
        let index = self.write_folded(recorded_at, Body::Act(body), folded, &named, evidence)?;
        self.keep(sealer);
        Ok(Recorded { moved, ..Recorded::new(index, recorded_at, effective_at, changes) })
    }

    /// Folds an act in, and sets the outcome of each of its changes.
    pub(super) fn judge(&self, prepared: &mut Prepared) -> Result<Folded, WriteError> {
        let Prepared { before, recorded_at, body, .. } = prepared;
        let folded = self.fold(self.fact(*recorded_at, body), |_| Ok(Arc::clone(before)))?;
        let subject = body.subject_ref;
        let after = folded.after.state(subject).unwrap_or(before);
        let mark = Mark { effective_at: body.effective_at, index: self.tip.next_index };
        self.outcomes(subject, before, after, mark, body.actor, false, &mut body.changes)?;
        Ok(folded)
    }

    /// Sets the outcomes of the changes between two states of a subject.
    #[expect(clippy::too_many_arguments, reason = "one caller each for acts and confirmations")]
    pub(super) fn outcomes(
        &self,
        subject: SubjectRef,
        before: &Arc<SubjectState>,
        after: &Arc<SubjectState>,
        mark: Mark,
        actor: Actor,
        is_confirmation: bool,
        changes: &mut [ChangeRecord],
    ) -> Result<(), WriteError> {
        let linked = &self.linked(subject, before)?;
        let (catalog, now, index) = (self.catalog(), self.recorded_at(), self.tip.next_index);
        let acted =
            Acted { catalog, subject, before, after, linked, mark, actor, now, is_confirmation };
        acted.outcomes(changes).map_err(|problem| FoldError::UnknownKey { index, problem })?;
        Ok(())
    }

    /// The fact of the next entry.
    pub(super) fn fact<'k>(&self, recorded_at: Millis, kind: &'k dyn Kind) -> Fact<'k> {
        Fact { place: Place { index: self.tip.next_index, recorded_at }, kind }
    }

    /// Folds in the fact of the next entry, without changing the batch.
    pub(super) fn fold(
        &self,
        fact: Fact<'_>,
        state_of: impl FnMut(SubjectRef) -> Result<Arc<SubjectState>, WriteError>,
    ) -> Result<Folded, WriteError> {
        let mut fold = self.fold.clone();
        let after = fold.apply(fact, state_of)?;
        Ok(Folded { fold, after })
    }

    /// Adds an entry, and answers its index. `named` lists the subjects of the entry that may be new.
    /// On error the batch is unchanged.
    pub(super) fn write(
        &mut self,
        recorded_at: Millis,
        body: Body,
        named: &[&Sealer],
    ) -> Result<u64, WriteError> {
        let fact = self.fact(recorded_at, body.kind());
        let folded = self.fold(fact, |subject| self.state(subject))?;
        self.write_folded(recorded_at, body, folded, named, None)
    }

    /// As [`Self::write`], for an entry that is folded in already, and with its evidence.
    pub(super) fn write_folded(
        &mut self,
        recorded_at: Millis,
        body: Body,
        Folded { fold, after }: Folded,
        named: &[&Sealer],
        evidence: Option<&Evidence>,
    ) -> Result<u64, WriteError> {
        let surroundings = Writing { batch: self, after: &after, named };
        let event = event::of(self.fact(recorded_at, body.kind()), &surroundings)?;
        let linked = self.next_entry(recorded_at, body, named, evidence)?;
        let NextEntry { entry, frame, tip, slots } = linked;
        self.bytes += frame.len();
        self.frames.push(frame);
        self.tip = tip;
        // An entry in clear has the beginning of its second. Only a correction of the clock goes back.
        self.last_recorded_at = match entry.body {
            Body::ClockCorrected(_) => recorded_at,
            _ => self.last_recorded_at.max(recorded_at),
        };
        if let After::Subjects(states) = &after {
            self.states.extend(states.iter().cloned());
        }
        self.fold = fold;
        let mut effect = after.into_effect(entry.fact());
        for slot in &slots {
            self.landed.insert((slot.subject, slot.lane), slot.number + 1);
        }
        remember(&slots, entry.index, &mut self.tags, &mut self.references);
        effect.leads.extend(slots.into_iter().map(Lead::Slot));
        self.effects.push(effect);
        self.events.extend(event.map(Arc::new));
        if let Some(mark) = entry.body.kind().idempotency() {
            self.indexes_by_key.insert(mark.key_hash, entry.index);
        }
        Ok(entry.index)
    }

    /// Keeps the subject if it is new.
    pub(super) fn keep(&mut self, Sealer { person, new }: Sealer) {
        if let Some(new) = new {
            self.persons.insert(person.subject_ref, Arc::clone(&person));
            self.subjects.insert(person.identity.clone(), person);
            self.new_subjects.push(new);
        }
    }

    /// A subject with its keys, which may be new in this batch, or in the next entry with its `named`
    /// subjects.
    fn person(&self, subject: SubjectRef, named: &[&Sealer]) -> Result<Arc<Person>, WriteError> {
        match self.new_person(subject, named) {
            Some(person) => Ok(Arc::clone(person)),
            None => Ok(self.core.vault.person(subject)?),
        }
    }

    fn new_person<'b>(
        &'b self,
        subject: SubjectRef,
        named: &[&'b Sealer],
    ) -> Option<&'b Arc<Person>> {
        let mut named = named.iter().map(|named| &named.person);
        let named = named.find(|person| person.subject_ref == subject);
        named.or_else(|| self.persons.get(&subject))
    }

    /// How many tags a subject has in a lane.
    pub(super) fn landed(&self, subject: SubjectRef, lane: Lane) -> Result<u64, WriteError> {
        match self.landed.get(&(subject, lane)) {
            Some(landed) => Ok(*landed),
            None => Ok(self.core.view.landed(subject, lane)?),
        }
    }

    /// The identity of a subject, which may be new in this batch, or in the next entry with its `named`
    /// subjects.
    pub(super) fn identity(
        &self,
        subject: SubjectRef,
        named: &[&Sealer],
    ) -> Result<Identity, WriteError> {
        match self.new_person(subject, named) {
            Some(person) => Ok(Identity::Known(person.identity.clone())),
            None => Ok(self.core.vault.identity(subject)?),
        }
    }

    /// Adds a purpose or a new version of it, unless the catalogue has it already.
    pub(super) fn put_purpose(
        &mut self,
        draft: PurposeDraft,
    ) -> Result<Put<Purpose>, CatalogError> {
        let key = draft.key.clone();
        let put = purpose_put(self.catalog(), draft)?;
        let changed = put.is_some();
        if let Some(put) = put {
            self.write(self.recorded_second(), Body::PurposePut(put), &[])?;
        }
        let catalog = self.catalog();
        let value = catalog.purpose_id(key.as_str()).and_then(|id| catalog.purpose(id)).cloned();
        let value = value.ok_or_else(|| WriteError::StateUnreadable(format!("purpose {key}")))?;
        Ok(Put { revision: value.index + 1, value, changed })
    }

    /// Adds or changes a channel, unless the catalogue has it already.
    pub(super) fn put_channel(&mut self, put: ChannelPut) -> Result<Put<Channel>, CatalogError> {
        let value = Channel::from(put.clone());
        let catalog = self.catalog();
        let channel = catalog.channel_id(put.key.as_str()).and_then(|id| catalog.channel(id));
        let changed = channel != Some(&value);
        if changed {
            self.write(self.recorded_second(), Body::ChannelPut(put), &[])?;
        }
        Ok(Put { revision: self.catalog_revision(), value, changed })
    }

    /// Adds or changes a namespace, unless the catalogue has it already.
    ///
    /// # Errors
    /// [`CatalogError::NamespaceInUse`]: its ids would be read in another way, and some are on record.
    pub(super) fn put_namespace(
        &mut self,
        draft: NamespaceDraft,
        known_use: NamespaceUse,
    ) -> Result<Put<Namespace>, CatalogError> {
        let existing = self.catalog().namespace(draft.key.as_str());
        draft.check_use(existing, || match known_use.is_used {
            true => Ok(true),
            false => self.has_persons_since(&draft.key, known_use.searched),
        })?;
        let value = Namespace::from(draft);
        let changed = existing != Some(&value);
        if changed {
            let put = Body::NamespacePut(NamespacePut(value.clone()));
            self.write(self.recorded_second(), put, &[])?;
        }
        Ok(Put { revision: self.catalog_revision(), value, changed })
    }

    /// Whether a namespace has a person who is new since the vault had `searched` data subjects.
    fn has_persons_since(&self, namespace: &Key, searched: u64) -> Result<bool, WriteError> {
        let is_of = |subject: &Subject| subject.namespace() == namespace.as_str();
        let in_batch = self.subjects.keys().any(is_of);
        Ok(in_batch || self.core.vault.has_person_since(searched, is_of)?)
    }

    /// The subscriptions after the batch.
    pub(super) fn subscriptions(&self) -> &Subscriptions {
        &self.fold.subscriptions
    }

    /// Adds an entry about a subscription, and answers its index.
    pub(super) fn put_subscription(&mut self, entry: SubscriptionEntry) -> Result<u64, WriteError> {
        self.write(self.recorded_at(), Body::Subscription(entry), &[])
    }

    /// The next entry, sealed and linked to the chain.
    pub(super) fn next_entry(
        &self,
        recorded_at: Millis,
        body: Body,
        named: &[&Sealer],
        evidence: Option<&Evidence>,
    ) -> Result<NextEntry, WriteError> {
        let kind = body.kind();
        let reference_of = |subject, index| self.reference_of(subject, index);
        let index = self.tip.next_index;
        let names = Names { index, catalog: self.catalog(), reference_of: &reference_of };
        let content = kind.content(&names)?;
        let lane = if matches!(body, Body::Use(_)) { Lane::Uses } else { Lane::Records };
        let mut of_entry = Vec::new();
        for subject in kind.named() {
            let number = self.landed(subject, lane)?;
            of_entry.push(Named { person: self.person(subject, named)?, number });
        }
        let vault = &self.core.vault;
        let at = At {
            ledger_id: vault.ledger_id(),
            confidential: vault.confidential(),
            index,
            recorded_at,
        };
        let too_large = |bytes| WriteError::EntryTooLarge { bytes, limit: ENTRY_BYTES_MAX };
        let sealed = sealed::seal(content, &at, &of_entry, evidence);
        let (sealed_body, slots) = sealed.map_err(|error| match error {
            BuildError::TooLong { problem, .. } => too_large(problem.got),
            other => WriteError::StateUnreadable(other.to_string()),
        })?;
        let (second, _) = sealed::second_and_ms(recorded_at);
        let linked = self.tip.link(second, sealed_body, &vault.confidential().clear);
        let (sealed, frame, tip) = linked.map_err(|error| match error {
            ChainError::Entry(FormError::TooLarge(bytes)) => too_large(bytes),
            other => WriteError::StateUnreadable(other.to_string()),
        })?;
        let (index, prev_hash) = (sealed.index, sealed.prev_hash);
        Ok(NextEntry { entry: Entry { index, prev_hash, recorded_at, body }, frame, tip, slots })
    }

    /// The tag of a subject's next record.
    pub(super) fn next_tag(&self, subject: SubjectRef) -> Result<Tag, WriteError> {
        let number = self.landed(subject, Lane::Records)?;
        Ok(self.person(subject, &[])?.keys.tags().tag(number))
    }

    /// How many bytes of an entry an end takes.
    pub(super) fn bytes_of_end(&self, end: &GrantExpired) -> Result<usize, WriteError> {
        let reference_of = |subject, index| self.reference_of(subject, index);
        let index = self.tip.next_index;
        let names = Names { index, catalog: self.catalog(), reference_of: &reference_of };
        let too_large =
            || WriteError::EntryTooLarge { bytes: ENTRY_BYTES_MAX + 1, limit: ENTRY_BYTES_MAX };
        bytes_among_several(&end.record(&names)?).ok_or_else(too_large)
    }

    /// The bytes of an entry of the ledger, or of this batch.
    fn entry_bytes(&self, index: u64) -> Result<Vec<u8>, WriteError> {
        let first = self.tip.next_index - self.frames.len() as u64;
        let position = index.checked_sub(first).and_then(|n| usize::try_from(n).ok());
        match position.and_then(|position| self.frames.get(position)) {
            Some(frame) => Ok(frame.clone()),
            None => Ok(self.core.entry_bytes(index)?),
        }
    }

    /// An entry of the ledger, or of this batch.
    pub(super) fn entry(&self, index: u64) -> Result<Entry, WriteError> {
        let entry = SealedEntry::decode(&self.entry_bytes(index)?).map_err(EntryError::from)?;
        Ok(sealed::open(&entry, self, self.catalog())?.entry)
    }

    /// The evidence of a subject's record in an entry of the ledger, or of this batch.
    pub(super) fn evidence(&self, index: u64, subject: SubjectRef) -> Result<Evidence, WriteError> {
        let entry = SealedEntry::decode(&self.entry_bytes(index)?).map_err(EntryError::from)?;
        Ok(sealed::evidence(&entry, subject, self)?)
    }

    /// The reference of a subject's record in an entry of the ledger, or of this batch.
    fn reference_of(&self, subject: SubjectRef, index: u64) -> Result<Reference, LookupError> {
        let unreadable = |error: &dyn std::fmt::Display| LookupError(error.to_string());
        let bytes = self.entry_bytes(index).map_err(|error| unreadable(&error))?;
        let entry = SealedEntry::decode(&bytes).map_err(|error| unreadable(&error))?;
        sealed::reference(&entry, subject, self).map_err(|error| unreadable(&error))
    }

    /// The entry that an earlier request with the same idempotency key wrote.
    pub(super) fn written_before(
        &self,
        mark: Option<&IdempotencyMark>,
    ) -> Result<Option<Entry>, WriteError> {
        let Some(mark) = mark else { return Ok(None) };
        let index = match self.indexes_by_key.get(&mark.key_hash) {
            Some(index) => Some(*index),
            None => self.core.view.idempotent(&mark.key_hash)?,
        };
        let Some(index) = index else { return Ok(None) };
        let entry = self.entry(index)?;
        let written = entry.body.kind().idempotency();
        if written.map(|written| written.request_digest) != Some(mark.request_digest) {
            return Err(WriteError::IdempotencyKeyReused { index });
        }
        Ok(Some(entry))
    }

    /// A change as the ledger keeps it: with version and expiry filled in from the catalogue.
    /// `change` is its position in the act.
    fn resolve(
        &self,
        change: usize,
        requested: &Change,
        effective_at: Millis,
    ) -> Result<ChangeRecord, RecordError> {
        let catalog = self.catalog();
        let scope = catalog.resolve(&requested.scope).map_err(|unknown| match unknown {
            UnknownKey::Purpose(key) => RecordError::UnknownPurpose { change, key },
            UnknownKey::Channel(key) => RecordError::UnknownChannel { change, key },
        })?;
        let mut record = ChangeRecord {
            action: requested.action,
            scope: requested.scope.clone(),
            purpose_version: 0,
            expires_at: None,
            data_categories: Vec::new(),
            outcome: Outcome::NoEffect,
            linked_subjects: 0,
        };
        if requested.action != Action::Grant {
            return Ok(record);
        }
        let purpose = scope.as_purpose().and_then(|id| catalog.purpose(id));
        let channel = scope.channel.and_then(|id| catalog.channel(id));
        let (Some(purpose), Some(channel)) = (purpose, channel) else {
            return Err(RecordError::GrantNotOneCell { change });
        };
        if purpose.retired {
            return Err(RecordError::PurposeRetired { change, key: purpose.key.clone() });
        }
        if channel.retired {
            return Err(RecordError::ChannelRetired { change, key: channel.key.clone() });
        }
        let version = match requested.purpose_version {
            Some(version) => version,
            None => self.version_then(purpose, effective_at)?,
        };
        let Some(content) = purpose.at_version(version) else {
            return Err(RecordError::UnknownPurposeVersion {
                change,
                key: purpose.key.clone(),
                version,
                current: purpose.version(),
            });
        };
        let by_default = content.default_validity_ms.map(|span_ms| effective_at.plus_ms(span_ms));
        record.purpose_version = version;
        let ends_at = requested.expires_at.or(by_default);
        record.expires_at = ends_at.map(|at| recorded_end(effective_at, at));
        for (position, category) in requested.data_categories.iter().enumerate() {
            if !content.data_categories.iter().any(|declared| covers_category(declared, category)) {
                return Err(RecordError::CategoryNotDeclared {
                    change,
                    position,
                    category: category.clone(),
                    key: purpose.key.clone(),
                    version,
                });
            }
        }
        record.data_categories.clone_from(&requested.data_categories);
        if record.expires_at.is_some_and(|at| at <= effective_at) {
            return Err(RecordError::ExpiresBeforeEffective { change });
        }
        Ok(record)
    }

    /// The version of a purpose that was current at a moment: an act of that moment that names no
    /// version agreed to this one. Before the first version it is the first.
    fn version_then(&self, purpose: &Purpose, at: Millis) -> Result<u32, WriteError> {
        let mut version = purpose.version();
        while version > 1 && at < self.recorded_at() {
            let position = usize::try_from(version - 1).unwrap_or(usize::MAX);
            let Some(&index) = purpose.version_indices.get(position) else { break };
            let recorded_at = self.entry(index)?.recorded_at;
            // Its milliseconds are not known: before the end of its second, the version before may have been
            // shown.
            if self.catalog().recorded_by(index, recorded_at).plus_ms(999) <= at {
                break;
            }
            version -= 1;
        }
        Ok(version)
    }

    /// The reference of a subject, if it is known.
    pub(super) fn known(&self, subject: &Subject) -> Result<Option<SubjectRef>, WriteError> {
        match self.subjects.get(subject) {
            Some(person) => Ok(Some(person.subject_ref)),
            None => Ok(self.core.vault.find(subject)?),
        }
    }

    /// The subject with its keys, which may be new.
    pub(super) fn sealer(&self, subject: &Subject) -> Result<Sealer, WriteError> {
        let vault = &self.core.vault;
        if let Some(person) = self.subjects.get(subject) {
            return Ok(Sealer { person: Arc::clone(person), new: None });
        }
        if let Some(subject_ref) = vault.find(subject)? {
            return Ok(Sealer { person: vault.person(subject_ref)?, new: None });
        }
        // The form was made before the write: the catalogue may have changed on the way.
        if !self.catalog().is_canonical(subject) {
            let namespace = subject.namespace().to_owned();
            return Err(WriteError::NamespaceChanged { namespace });
        }
        let new = vault.create(subject);
        Ok(Sealer { person: Arc::clone(&new.person), new: Some(Arc::new(new)) })
    }

    pub(super) fn state(&self, subject: SubjectRef) -> Result<Arc<SubjectState>, WriteError> {
        let state = match self.states.get(&subject) {
            Some(state) => Arc::clone(state),
            None => self.core.view.state(subject)?,
        };
        Ok(corrected(self.catalog(), state, u64::MAX))
    }

    /// The subjects that are linked to `subject`, with their states.
    pub(super) fn linked(
        &self,
        subject: SubjectRef,
        state: &SubjectState,
    ) -> Result<Vec<Linked>, WriteError> {
        if state.links.is_empty() {
            return Ok(Vec::new());
        }
        reach(subject, state, |other| self.state(other))
    }

    /// A subject's state, united with the states of linked subjects.
    pub(super) fn whole(
        &self,
        subject: SubjectRef,
        state: &Arc<SubjectState>,
    ) -> Result<Arc<SubjectState>, WriteError> {
        let linked = self.linked(subject, state)?;
        Ok(if linked.is_empty() { Arc::clone(state) } else { Arc::new(unite(state, &linked)) })
    }
}

/// The next entry of a batch.
pub(super) struct NextEntry {
    pub entry: Entry,
    frame: Vec<u8>,
    tip: Tip,
    slots: Slots,
}

/// Caller of every call, until callers have names.
const CALLER: &str = "";

/// What stands for an idempotency key and its request, under the keys of the person that the call is about.
pub(super) fn mark(person: &Person, idempotency: &Idempotency) -> IdempotencyMark {
    let key: IdempotencyKey = person.keys.idempotency();
    IdempotencyMark {
        key_hash: key.mark(CALLER, &idempotency.key),
        request_digest: key.digest(&idempotency.request),
    }
}

/// What stands for an idempotency key of a person.
pub(super) fn key_hash(person: &Person, key: &str) -> [u8; 16] {
    person.keys.idempotency().mark(CALLER, key)
}

impl Persons for Batch<'_> {
    fn ledger_id(&self) -> LedgerId {
        self.core.vault.ledger_id()
    }

    fn confidential(&self) -> &ConfidentialRoot {
        self.core.vault.confidential()
    }

    fn whose(&self, tag: &Tag) -> Result<Option<Whose>, LookupError> {
        match self.tags.get(tag) {
            Some(whose) => Ok(Some(*whose)),
            None => self.core.opener.whose(tag),
        }
    }

    fn person(&self, subject: SubjectRef) -> Result<Arc<Person>, LookupError> {
        Self::person(self, subject, &[]).map_err(|error| LookupError(error.to_string()))
    }

    fn index_of(&self, reference: &Reference) -> Result<Option<u64>, LookupError> {
        match self.references.get(reference) {
            Some(index) => Ok(Some(*index)),
            None => self.core.opener.index_of(reference),
        }
    }
}

/// The surroundings of an entry that is being written.
struct Writing<'a> {
    batch: &'a Batch<'a>,
    after: &'a After,
    /// The subjects of the entry that may be new.
    named: &'a [&'a Sealer],
}

impl Surroundings for Writing<'_> {
    type Error = WriteError;

    fn identity(&self, subject: SubjectRef) -> Result<Identity, WriteError> {
        self.batch.identity(subject, self.named)
    }

    /// Leaves out linked subjects whose identity can not be read: a stop must not fail for that.
    fn linked(&self, subjects: &[SubjectRef]) -> Result<Vec<Subject>, WriteError> {
        let state_of = |subject| match self.after.state(subject) {
            Some(state) => Ok(Arc::clone(state)),
            None => self.batch.state(subject),
        };
        let name = |subject| {
            let identity = self.batch.identity(subject, &[]);
            let identity = identity
                .inspect_err(|error| error!(%error, "a linked subject is left out of an event"))
                .ok();
            identity.and_then(Identity::known)
        };
        Ok(around(subjects, state_of)?.into_iter().filter_map(name).collect())
    }

    fn catalog(&self, _: u64) -> Result<Option<CatalogDetail>, WriteError> {
        Ok(match self.after {
            After::Catalog { detail, .. } => detail.clone(),
            After::Subjects(_) | After::Subscriptions { .. } | After::Nothing => None,
        })
    }

    fn subscription(&self, id: SubscriptionId) -> Result<Key, WriteError> {
        let subscription = self.batch.subscriptions().get(id);
        let name = subscription.map(|subscription| subscription.spec.name.clone());
        name.ok_or_else(|| WriteError::StateUnreadable(format!("no {id:?}")))
    }
}

/// The entry that changes a purpose to a draft; none if nothing differs.
pub(super) fn purpose_put(
    catalog: &Catalog,
    draft: PurposeDraft,
) -> Result<Option<PurposePut>, CatalogError> {
    check_parties(catalog, &draft.content)?;
    let existing = catalog.purpose_id(draft.key.as_str()).and_then(|id| catalog.purpose(id));
    let (version, oldest_compatible) = match existing {
        None => (1, 1),
        Some(existing) => {
            let is_new = *existing.current() != draft.content;
            (existing.version() + u32::from(is_new), existing.oldest_compatible)
        }
    };
    let oldest_compatible = match draft.oldest_compatible {
        _ if draft.requires_reconsent => version,
        requested => requested.unwrap_or(oldest_compatible),
    };
    if oldest_compatible > version {
        return Err(CatalogError::OldestCompatibleBeyondVersion {
            got: oldest_compatible,
            version,
        });
    }
    let is_unchanged = existing.is_some_and(|existing| {
        version == existing.version()
            && oldest_compatible == existing.oldest_compatible
            && draft.retired == existing.retired
    });
    let PurposeDraft { key, content, retired, .. } = draft;
    let put = PurposePut { key, version, content, oldest_compatible, retired };
    Ok((!is_unchanged).then_some(put))
}

/// The end of a guardian's authority, as decisions use it.
fn authority_end(act: &Act, effective_at: Millis) -> Result<Option<Millis>, RecordError> {
    let ends_at = act.evidence.authority.as_ref().and_then(|authority| authority.ends_at);
    let ends_at = ends_at.filter(|_| act.actor == Actor::Guardian);
    let grants = act.changes.iter().any(|change| change.action == Action::Grant);
    if grants && ends_at.is_some_and(|at| at <= effective_at) {
        return Err(RecordError::AuthorityEnded);
    }
    Ok(ends_at)
}

/// The answer to an act of a person that is recorded already.
pub(super) fn recorded(entry: Entry, person: &Person) -> Result<Recorded, WriteError> {
    let Entry { index, recorded_at, body, .. } = entry;
    let Body::Act(act) = body else {
        return Err(WriteError::IdempotencyKeyReused { index });
    };
    Ok(Recorded {
        index,
        recorded_at,
        effective_at: act.effective_at,
        changes: act.changes,
        replayed: true,
        nothing_recorded: false,
        confirmation: act.confirmation.map(|offer| confirmation(person, &offer)),
        moved: None,
        refused: Refused::default(),
    })
}
