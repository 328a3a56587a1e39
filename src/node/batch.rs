//! The way of an act, until it lands: each step top to bottom in [`Batch::record`].
//!
//! A batch is what one group commit writes. Acts in it see the effects of those before them, although
//! nothing is durable or visible yet; if the batch does not land, all of it is forgotten.

use std::sync::Arc;

use hashbrown::HashMap;
use tracing::error;

use super::{
    Core,
    act::{Act, CLOCK_SKEW_MS_MAX, Idempotency, Recorded},
    catalog::{PurposeDraft, Put},
    error::{CatalogError, EffectiveAtInFuture, RecordError, WriteError},
};
use crate::{
    domain::{
        Action, Actor, Body, Catalog, Change, ChangeRecord, Channel, ChannelPut, ConsentAct, Entry,
        Evidence, IdempotencyMark, Identity, Key, Mark, Millis, Outcome, Purpose, PurposePut,
        Sealed, Subject, SubjectRef, SubjectState, SubscriptionEntry, SubscriptionId, UnknownKey,
        covers_category,
    },
    entry::{Fact, Kind, Place, encode_evidence},
    event::{self, CatalogTold, Event, Surroundings},
    fold::{After, Effect, Fold, FoldError, Linked, Subscriptions, around, consent, reach, unite},
    ledger::{
        ENTRY_BYTES_MAX,
        chain::{ChainError, Tip},
        envelope,
    },
    vault::{NewSubject, SubjectKey},
};

/// What one group commit writes.
#[derive(Debug)]
pub(super) struct Batch<'a> {
    core: &'a Core,
    now: Millis,
    /// The end of the chain, were the batch to land.
    pub tip: Tip,
    /// The entries' bytes.
    pub frames: Vec<Vec<u8>>,
    bytes: usize,
    /// Their effects on the view.
    pub effects: Vec<Effect>,
    /// What watchers hear of them.
    pub events: Vec<Arc<Event>>,
    /// Subjects that the vault must hold before the entries are written.
    pub new_subjects: Vec<NewSubject>,
    /// The catalogue and the subscriptions, with what the batch did to them.
    fold: Fold,
    /// The states that the batch changed.
    states: HashMap<SubjectRef, Arc<SubjectState>>,
    /// The new subjects by identity, with their keys.
    subjects: HashMap<Subject, (SubjectRef, SubjectKey)>,
    /// The entries with an idempotency key, by its hash.
    answers: HashMap<[u8; 32], u64>,
    /// The acts that were confirmed, with the index of the confirmation.
    pub(super) confirmed: HashMap<u64, u64>,
}

/// A subject of an act, and the key that its evidence is sealed with.
pub(super) struct Sealer {
    pub subject_ref: SubjectRef,
    pub key: Option<SubjectKey>,
    new: Option<NewSubject>,
}

/// An entry that is about to be written, folded in.
pub(super) struct Folded {
    /// Where the entry after it is folded in.
    fold: Fold,
    /// What it leaves behind.
    pub after: After,
}

/// An act that is ready to be judged.
pub(super) struct Prepared {
    subject: Subject,
    sealer: Sealer,
    pub before: Arc<SubjectState>,
    pub recorded_at: Millis,
    pub body: ConsentAct,
}

impl<'a> Batch<'a> {
    /// An empty batch that continues the chain at `tip`.
    pub(super) fn new(core: &'a Core, tip: Tip, now: Millis) -> Self {
        Self {
            core,
            now,
            tip,
            frames: Vec::new(),
            bytes: 0,
            effects: Vec::new(),
            events: Vec::new(),
            new_subjects: Vec::new(),
            fold: core.view.fold(),
            states: HashMap::new(),
            subjects: HashMap::new(),
            answers: HashMap::new(),
            confirmed: HashMap::new(),
        }
    }

    /// Whether there is nothing to write.
    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Size of the entries, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What all writes share.
    pub(super) fn core(&self) -> &'a Core {
        self.core
    }

    /// The catalogue, with what the batch did to it.
    pub(super) fn catalog(&self) -> &Catalog {
        &self.fold.catalog.catalog
    }

    /// One more than the index of the catalogue's last entry.
    pub(super) fn catalog_revision(&self) -> u64 {
        self.fold.catalog.revision
    }

    /// When the next entry is recorded.
    pub(super) fn recorded_at(&self) -> Millis {
        self.tip.clock(self.now)
    }

    /// Whether writes are still taken.
    pub(super) fn check_writable(&self) -> Result<(), WriteError> {
        self.core.check_writable()
    }

    /// Adds an act. If it is refused, the batch is as it was.
    pub(super) fn record(&mut self, act: Act) -> Result<Recorded, RecordError> {
        // The decoder of entries refuses such an act.
        if act.changes.is_empty() && act.contact.is_empty() {
            return Err(RecordError::Empty);
        }
        let mark = act.idempotency.as_ref().map(|idempotency| self.mark(idempotency));
        if let Some(entry) = self.written_before(mark.as_ref())? {
            return Ok(self.core.recorded(entry)?);
        }
        let validity_ms = act.confirmation_validity_ms;
        let mut prepared = self.prepare(act, mark)?;
        let folded = self.judge(&mut prepared)?;
        let recorded_at = prepared.recorded_at;
        let confirmation = self.core.offer(&self.tip, recorded_at, &mut prepared.body, validity_ms);
        let recorded = self.commit(prepared, folded)?;
        Ok(Recorded { confirmation, ..recorded })
    }

    /// What an act comes to, before it is judged: whose, when, and what exactly changes.
    pub(super) fn prepare(
        &self,
        act: Act,
        mark: Option<IdempotencyMark>,
    ) -> Result<Prepared, RecordError> {
        let sealer = self.sealer(&act.subject, act.evidence != Evidence::default())?;
        let before = self.state(sealer.subject_ref)?;
        let recorded_at = self.recorded_at();
        let is_stop = act.changes.iter().any(|change| change.action != Action::Grant);
        let claimed = claimed(act.effective_at, recorded_at)?;
        let subject = (sealer.subject_ref, &*before);
        let effective_at = self.effective_at(claimed, is_stop, recorded_at, subject)?;
        let authority_ends_at = authority_end(&act, effective_at)?;
        let body = ConsentAct {
            subject_ref: sealer.subject_ref,
            actor: act.actor,
            effective_at,
            changes: self.resolve(&act.changes, effective_at)?,
            evidence: self.seal(&sealer, &act.evidence, mark.as_ref()),
            idempotency: mark,
            authority_ends_at,
            confirmation: None,
            contact: act.contact,
        };
        Ok(Prepared { subject: act.subject, sealer, before, recorded_at, body })
    }

    /// Adds an act that was judged.
    pub(super) fn commit(
        &mut self,
        prepared: Prepared,
        folded: Folded,
    ) -> Result<Recorded, WriteError> {
        let Prepared { subject, sealer, recorded_at, body, .. } = prepared;
        let (effective_at, changes) = (body.effective_at, body.changes.clone());
        let named = [(sealer.subject_ref, &subject)];
        let index = self.write_folded(recorded_at, Body::Act(body), folded, &named)?;
        self.keep(sealer, &subject);
        let (replayed, confirmation) = (false, None);
        Ok(Recorded { index, recorded_at, effective_at, changes, replayed, confirmation })
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

    /// Sets the outcomes of changes that lead from one state of a subject to another.
    #[expect(clippy::too_many_arguments, reason = "one caller each for acts and confirmations")]
    pub(super) fn outcomes(
        &self,
        subject: SubjectRef,
        before: &SubjectState,
        after: &SubjectState,
        mark: Mark,
        actor: Actor,
        is_confirmation: bool,
        changes: &mut [ChangeRecord],
    ) -> Result<(), WriteError> {
        let linked = self.linked(subject, before)?;
        let (whole_before, whole_after);
        let (before, after) = if linked.is_empty() {
            (before, after)
        } else {
            (whole_before, whole_after) = (unite(before, &linked), unite(after, &linked));
            (&whole_before, &whole_after)
        };
        let catalog = self.catalog();
        let now = self.recorded_at();
        let judge = consent::Judge { catalog, before, after, mark, actor, now, is_confirmation };
        let index = self.tip.next_index;
        judge.outcomes(changes).map_err(|problem| FoldError::UnknownKey { index, problem })?;
        Ok(())
    }

    /// What the next entry says, were it recorded then.
    pub(super) fn fact<'k>(&self, recorded_at: Millis, kind: &'k dyn Kind) -> Fact<'k> {
        Fact { place: Place { index: self.tip.next_index, recorded_at }, kind }
    }

    /// Folds in what the next entry says. The batch is as it was.
    pub(super) fn fold(
        &self,
        fact: Fact<'_>,
        state_of: impl FnMut(SubjectRef) -> Result<Arc<SubjectState>, WriteError>,
    ) -> Result<Folded, WriteError> {
        let mut fold = self.fold.clone();
        let after = fold.apply(fact, state_of)?;
        Ok(Folded { fold, after })
    }

    /// Adds an entry. Those of its subjects that may be new are `named`. If it fails, the batch is as
    /// it was.
    pub(super) fn write(
        &mut self,
        recorded_at: Millis,
        body: Body,
        named: &[(SubjectRef, &Subject)],
    ) -> Result<u64, WriteError> {
        let fact = self.fact(recorded_at, body.kind());
        let folded = self.fold(fact, |subject| self.state(subject))?;
        self.write_folded(recorded_at, body, folded, named)
    }

    /// As [`Self::write`], for an entry that was folded in already.
    pub(super) fn write_folded(
        &mut self,
        recorded_at: Millis,
        body: Body,
        Folded { fold, after }: Folded,
        named: &[(SubjectRef, &Subject)],
    ) -> Result<u64, WriteError> {
        let surroundings = Writing { batch: self, after: &after, named };
        let event = event::of(self.fact(recorded_at, body.kind()), &surroundings)?;
        let entry = self.link(recorded_at, body)?;
        if let After::Subjects(states) = &after {
            self.states.extend(states.iter().cloned());
        }
        self.fold = fold;
        self.effects.push(after.into_effect(entry.fact()));
        self.events.extend(event.map(Arc::new));
        if let Some(mark) = entry.body.kind().idempotency() {
            self.answers.insert(mark.key_hash, entry.index);
        }
        Ok(entry.index)
    }

    /// Remembers a subject that is new.
    pub(super) fn keep(&mut self, sealer: Sealer, subject: &Subject) {
        if let Some(new) = sealer.new {
            self.subjects.insert(subject.clone(), (new.subject_ref, new.key.clone()));
            self.new_subjects.push(new);
        }
    }

    /// Who a subject is, be it new in this batch.
    pub(super) fn identity(&self, subject: SubjectRef) -> Result<Identity, WriteError> {
        match self.subjects.iter().find(|(_, (new, _))| *new == subject) {
            Some((name, _)) => Ok(Identity::Known(name.clone())),
            None => Ok(self.core.vault.identity(subject)?),
        }
    }

    /// Adds a purpose, or a new version of it, unless nothing differs.
    pub(super) fn put_purpose(
        &mut self,
        draft: PurposeDraft,
    ) -> Result<Put<Purpose>, CatalogError> {
        let put = match purpose_put(self.catalog(), draft) {
            Ok(put) => put,
            Err(own) => return Ok(Put { revision: own.index + 1, value: own, changed: false }),
        };
        check_put(&put)?;
        let key = put.key.clone();
        self.write(self.recorded_at(), Body::PurposePut(put), &[])?;
        let value = self.purpose(key.as_str()).cloned();
        let value = value.ok_or_else(|| WriteError::StateUnreadable(format!("purpose {key}")))?;
        Ok(Put { revision: self.catalog_revision(), value, changed: true })
    }

    /// Adds or changes a channel, unless nothing differs.
    pub(super) fn put_channel(&mut self, put: ChannelPut) -> Result<Put<Channel>, CatalogError> {
        let value =
            Channel { key: put.key.clone(), title: put.title.clone(), retired: put.retired };
        let catalog = self.catalog();
        let channel = catalog.channel_id(put.key.as_str()).and_then(|id| catalog.channel(id));
        if channel == Some(&value) {
            return Ok(Put { revision: self.catalog_revision(), value, changed: false });
        }
        self.write(self.recorded_at(), Body::ChannelPut(put), &[])?;
        Ok(Put { revision: self.catalog_revision(), value, changed: true })
    }

    /// The subscriptions, with what the batch did to them.
    pub(super) fn subscriptions(&self) -> &Subscriptions {
        &self.fold.subscriptions
    }

    /// Adds an entry about a subscription that is there.
    pub(super) fn put_subscription(&mut self, about: SubscriptionEntry) -> Result<u64, WriteError> {
        self.write(self.recorded_at(), Body::Subscription(about), &[])
    }

    fn purpose(&self, key: &str) -> Option<&Purpose> {
        let catalog = self.catalog();
        catalog.purpose_id(key).and_then(|id| catalog.purpose(id))
    }

    /// The entry that would come next, its bytes, and the end of the chain then.
    pub(super) fn next_entry(
        &self,
        recorded_at: Millis,
        body: Body,
    ) -> Result<(Entry, Vec<u8>, Tip), WriteError> {
        self.tip.link(recorded_at, body).map_err(|error| match error {
            ChainError::TooLarge(bytes) => {
                WriteError::EntryTooLarge { bytes, limit: ENTRY_BYTES_MAX }
            }
            other => WriteError::StateUnreadable(other.to_string()),
        })
    }

    fn link(&mut self, recorded_at: Millis, body: Body) -> Result<Entry, WriteError> {
        let (entry, frame, tip) = self.next_entry(recorded_at, body)?;
        self.bytes += frame.len();
        self.frames.push(frame);
        self.tip = tip;
        Ok(entry)
    }

    /// An entry of the ledger, or of this batch.
    pub(super) fn entry(&self, index: u64) -> Result<Entry, WriteError> {
        let first = self.tip.next_index - self.frames.len() as u64;
        let position = index.checked_sub(first).and_then(|n| usize::try_from(n).ok());
        match position.and_then(|position| self.frames.get(position)) {
            Some(frame) => envelope::decode(frame)
                .map_err(|error| WriteError::StateUnreadable(error.to_string())),
            None => Ok(self.core.entry(index)?),
        }
    }

    pub(super) fn mark(&self, idempotency: &Idempotency) -> IdempotencyMark {
        IdempotencyMark {
            key_hash: self.core.vault.idempotency_key_hash(&idempotency.key),
            request_digest: self.core.vault.request_digest(&idempotency.request),
        }
    }

    /// The entry that an earlier request with the same idempotency key wrote, if there was one.
    pub(super) fn written_before(
        &self,
        mark: Option<&IdempotencyMark>,
    ) -> Result<Option<Entry>, WriteError> {
        let Some(mark) = mark else { return Ok(None) };
        let index = match self.answers.get(&mark.key_hash) {
            Some(index) => Some(*index),
            None => self.core.view.idempotent(&mark.key_hash)?,
        };
        let Some(index) = index else { return Ok(None) };
        let entry = self.entry(index)?;
        let stored = entry.body.kind().idempotency();
        if stored.map(|stored| stored.request_digest) != Some(mark.request_digest) {
            return Err(WriteError::IdempotencyKeyReused { index });
        }
        Ok(Some(entry))
    }

    /// When the act takes effect: as the caller claims (see [`claimed`]), or as it is recorded.
    ///
    /// An act that takes effect as it is recorded comes after all that the subject did before, even
    /// within the same millisecond: otherwise a withdrawal right after a grant would tie with it,
    /// and lose. So it does for all that linked subjects did, however sure the link is: stops reach
    /// over any. For that, and only for that, it may take effect a little after the record.
    pub(super) fn effective_at(
        &self,
        claimed: Millis,
        is_stop: bool,
        recorded_at: Millis,
        (subject, own): (SubjectRef, &SubjectState),
    ) -> Result<Millis, WriteError> {
        if claimed < recorded_at {
            return Ok(claimed);
        }
        let linked = self.linked(subject, own)?;
        let states = std::iter::once(own).chain(linked.iter().map(|linked| &*linked.state));
        let after = states.filter_map(|state| state.first_moment_after(is_stop)).max();
        Ok(recorded_at.max(after.unwrap_or(recorded_at)))
    }

    /// Changes as the ledger keeps them: with versions and expiries filled in from the catalogue.
    fn resolve(
        &self,
        changes: &[Change],
        effective_at: Millis,
    ) -> Result<Vec<ChangeRecord>, RecordError> {
        let resolve = |(position, change)| self.resolve_one(position, change, effective_at);
        changes.iter().enumerate().map(resolve).collect()
    }

    fn resolve_one(
        &self,
        change: usize,
        asked: &Change,
        effective_at: Millis,
    ) -> Result<ChangeRecord, RecordError> {
        let catalog = self.catalog();
        let scope = catalog.resolve(&asked.scope).map_err(|unknown| match unknown {
            UnknownKey::Purpose(key) => RecordError::UnknownPurpose { change, key },
            UnknownKey::Channel(key) => RecordError::UnknownChannel { change, key },
        })?;
        let mut record = ChangeRecord {
            action: asked.action,
            scope: asked.scope.clone(),
            purpose_version: 0,
            expires_at: None,
            data_categories: Vec::new(),
            outcome: Outcome::NoEffect,
        };
        if asked.action != Action::Grant {
            return Ok(record);
        }
        let purpose = scope.purpose.and_then(|id| catalog.purpose(id));
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
        let version = match asked.purpose_version {
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
        record.expires_at = asked.expires_at.or(by_default);
        for (position, category) in asked.data_categories.iter().enumerate() {
            if !content.data_categories.iter().any(|own| covers_category(own, category)) {
                return Err(RecordError::CategoryNotDeclared {
                    change,
                    position,
                    category: category.clone(),
                    key: purpose.key.clone(),
                    version,
                });
            }
        }
        record.data_categories.clone_from(&asked.data_categories);
        if record.expires_at.is_some_and(|at| at <= effective_at) {
            return Err(RecordError::ExpiresBeforeEffective { change });
        }
        Ok(record)
    }

    /// The version of a purpose that was current at a moment: what an act of then, which names none,
    /// can have agreed to. Before the first there is only that.
    fn version_then(&self, purpose: &Purpose, at: Millis) -> Result<u32, WriteError> {
        let mut version = purpose.version();
        while version > 1 && at < self.recorded_at() {
            let position = usize::try_from(version - 1).unwrap_or(usize::MAX);
            let Some(&index) = purpose.version_indices.get(position) else { break };
            if self.entry(index)?.recorded_at <= at {
                break;
            }
            version -= 1;
        }
        Ok(version)
    }

    /// The name of a subject in the ledger, if it has one.
    pub(super) fn known(&self, subject: &Subject) -> Result<Option<SubjectRef>, WriteError> {
        match self.subjects.get(subject) {
            Some((subject_ref, _)) => Ok(Some(*subject_ref)),
            None => Ok(self.core.vault.find(subject)?),
        }
    }

    /// The subject's name in the ledger, and its key if there is evidence to seal.
    pub(super) fn sealer(&self, subject: &Subject, with_key: bool) -> Result<Sealer, WriteError> {
        let vault = &self.core.vault;
        if let Some((subject_ref, key)) = self.subjects.get(subject) {
            return Ok(Sealer { subject_ref: *subject_ref, key: Some(key.clone()), new: None });
        }
        if let Some(subject_ref) = vault.find(subject)? {
            let key = with_key.then(|| vault.key(subject_ref)).transpose()?;
            return Ok(Sealer { subject_ref, key, new: None });
        }
        let new = vault.create(subject);
        Ok(Sealer { subject_ref: new.subject_ref, key: Some(new.key.clone()), new: Some(new) })
    }

    pub(super) fn state(&self, subject: SubjectRef) -> Result<Arc<SubjectState>, WriteError> {
        match self.states.get(&subject) {
            Some(state) => Ok(Arc::clone(state)),
            None => Ok(self.core.view.state(subject)?),
        }
    }

    /// The subjects that are linked to one, with what they contribute.
    pub(super) fn linked(
        &self,
        subject: SubjectRef,
        own: &SubjectState,
    ) -> Result<Vec<Linked>, WriteError> {
        if own.links.is_empty() {
            return Ok(Vec::new());
        }
        reach(subject, own, |other| self.state(other))
    }

    /// A subject's state with all that linked subjects contribute.
    pub(super) fn whole(
        &self,
        subject: SubjectRef,
        own: &Arc<SubjectState>,
    ) -> Result<Arc<SubjectState>, WriteError> {
        let linked = self.linked(subject, own)?;
        Ok(if linked.is_empty() { Arc::clone(own) } else { Arc::new(unite(own, &linked)) })
    }

    pub(super) fn seal(
        &self,
        sealer: &Sealer,
        evidence: &Evidence,
        mark: Option<&IdempotencyMark>,
    ) -> Option<Sealed> {
        let key = sealer.key.as_ref().filter(|_| *evidence != Evidence::default())?;
        Some(self.core.vault.seal_evidence(key, mark, &encode_evidence(evidence)))
    }
}

/// What stands beside an entry that is being written.
struct Writing<'a> {
    batch: &'a Batch<'a>,
    /// What it leaves behind.
    after: &'a After,
    /// Those of its subjects that may be new.
    named: &'a [(SubjectRef, &'a Subject)],
}

impl Surroundings for Writing<'_> {
    type Error = WriteError;

    fn identity(&self, subject: SubjectRef) -> Result<Identity, WriteError> {
        match self.named.iter().find(|(named, _)| *named == subject) {
            Some((_, name)) => Ok(Identity::Known((*name).clone())),
            None => self.batch.identity(subject),
        }
    }

    /// No stop is refused because the name of a linked subject can not be read.
    fn linked(&self, subjects: &[SubjectRef]) -> Result<Vec<Subject>, WriteError> {
        let state_of = |subject| match self.after.state(subject) {
            Some(state) => Ok(Arc::clone(state)),
            None => self.batch.state(subject),
        };
        let name = |subject| {
            let identity = self.batch.identity(subject);
            let identity = identity
                .inspect_err(|error| error!(%error, "a linked subject is not told of"))
                .ok();
            identity.and_then(Identity::known)
        };
        Ok(around(subjects, state_of)?.into_iter().filter_map(name).collect())
    }

    fn catalog(&self, _: u64) -> Result<Option<CatalogTold>, WriteError> {
        Ok(match self.after {
            After::Catalog { told, .. } => told.clone(),
            After::Subjects(_) | After::Subscriptions { .. } | After::Nothing => None,
        })
    }

    fn subscription(&self, id: SubscriptionId) -> Result<Key, WriteError> {
        let subscription = self.batch.subscriptions().get(id);
        let name = subscription.map(|subscription| subscription.spec.name.clone());
        name.ok_or_else(|| WriteError::StateUnreadable(format!("no {id:?}")))
    }
}

/// The entry that makes a purpose as a draft wants it, or the purpose as it is, if nothing differs.
pub(super) fn purpose_put(catalog: &Catalog, draft: PurposeDraft) -> Result<PurposePut, Purpose> {
    let own = catalog.purpose_id(draft.key.as_str()).and_then(|id| catalog.purpose(id));
    let (version, oldest_compatible) = match own {
        None => (1, 1),
        Some(own) => {
            let is_new = *own.current() != draft.content;
            (own.version() + u32::from(is_new), own.oldest_compatible)
        }
    };
    let oldest_compatible = match draft.oldest_compatible {
        _ if draft.requires_reconsent => version,
        asked => asked.unwrap_or(oldest_compatible),
    };
    if let Some(own) = own
        && version == own.version()
        && oldest_compatible == own.oldest_compatible
        && draft.retired == own.retired
    {
        return Err(own.clone());
    }
    let PurposeDraft { key, content, retired, .. } = draft;
    Ok(PurposePut { key, version, content, oldest_compatible, retired })
}

/// Whether a purpose may be written as it is.
pub(super) fn check_put(put: &PurposePut) -> Result<(), CatalogError> {
    if put.oldest_compatible > put.version {
        return Err(CatalogError::OldestCompatibleBeyondVersion {
            got: put.oldest_compatible,
            version: put.version,
        });
    }
    Ok(())
}

/// The caller's claim of when something took effect, within the skew, but never after its record.
pub(super) fn claimed(
    claimed: Option<Millis>,
    recorded_at: Millis,
) -> Result<Millis, EffectiveAtInFuture> {
    let claimed = claimed.unwrap_or(recorded_at);
    let ahead_ms = claimed.0.saturating_sub(recorded_at.0);
    if ahead_ms > CLOCK_SKEW_MS_MAX {
        return Err(EffectiveAtInFuture { ahead_ms });
    }
    Ok(claimed.min(recorded_at))
}

/// The end of a guardian's authority, as decisions look at it.
fn authority_end(act: &Act, effective_at: Millis) -> Result<Option<Millis>, RecordError> {
    let ends_at = act.evidence.authority.as_ref().and_then(|authority| authority.ends_at);
    let ends_at = ends_at.filter(|_| act.actor == Actor::Guardian);
    let grants = act.changes.iter().any(|change| change.action == Action::Grant);
    if grants && ends_at.is_some_and(|at| at <= effective_at) {
        return Err(RecordError::AuthorityEnded);
    }
    Ok(ends_at)
}

impl Core {
    /// The answer that an act on record was given.
    pub(super) fn recorded(&self, entry: Entry) -> Result<Recorded, WriteError> {
        let Entry { index, prev_hash, recorded_at, body } = entry;
        let Body::Act(act) = body else {
            return Err(WriteError::IdempotencyKeyReused { index });
        };
        let confirmation =
            act.confirmation.map(|offer| self.confirmation(index, &prev_hash, offer.expires_at));
        Ok(Recorded {
            index,
            recorded_at,
            effective_at: act.effective_at,
            changes: act.changes,
            replayed: true,
            confirmation,
        })
    }
}
