//! The way of an act, until it lands: each step top to bottom in [`Batch::record`].
//!
//! A batch is what one group commit writes. Acts in it see the effects of those before them, although
//! nothing is durable or visible yet; if the batch does not land, all of it is forgotten.

use std::sync::Arc;

use hashbrown::HashMap;

use super::{
    Core,
    act::{Act, CLOCK_SKEW_MS_MAX, Idempotency, Recorded, WriteError},
    question::{PurposeDraft, Put},
};
use crate::{
    domain::{
        Action, Body, Change, ChangeRecord, Channel, ChannelPut, ConsentAct, Entry, Evidence,
        IdempotencyMark, Millis, Outcome, Purpose, PurposePut, Sealed, Subject, SubjectRef,
        SubjectState, UnknownKey,
    },
    ledger::{
        ENTRY_BYTES_MAX,
        chain::{ChainError, Tip},
        entry,
    },
    vault::{NewSubject, SubjectKey, VaultError},
    view::{CatalogAt, Effect, ViewError, fold},
    watch::Event,
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
    catalog: Arc<CatalogAt>,
    states: HashMap<SubjectRef, Arc<SubjectState>>,
    /// The new subjects by identity, with their keys.
    subjects: HashMap<Subject, (SubjectRef, SubjectKey)>,
    answers: HashMap<[u8; 32], ([u8; 32], Recorded)>,
}

/// A subject of an act, and the key that its evidence is sealed with.
struct Sealer {
    subject_ref: SubjectRef,
    key: Option<SubjectKey>,
    new: Option<NewSubject>,
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
            catalog: core.view.catalog(),
            states: HashMap::new(),
            subjects: HashMap::new(),
            answers: HashMap::new(),
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

    /// Adds an act. If it is refused, the batch is as it was.
    pub(super) fn record(&mut self, act: Act) -> Result<Recorded, WriteError> {
        let mark = act.idempotency.as_ref().map(|idempotency| self.mark(idempotency));
        if let Some(mark) = &mark
            && let Some(recorded) = self.recorded_before(mark)?
        {
            return Ok(recorded);
        }
        let sealer = self.sealer(&act.subject, act.evidence != Evidence::default())?;
        let mut state = SubjectState::clone(&*self.state(sealer.subject_ref)?);
        let recorded_at = self.tip.clock(self.now);
        let effective_at = self.effective_at(&act, recorded_at, &state)?;
        let mut changes = self.resolve(&act.changes, effective_at)?;

        let index = self.tip.next_index;
        let catalog = &self.catalog.catalog;
        fold::judge(catalog, &mut state, index, recorded_at, effective_at, act.actor, &mut changes)
            .map_err(|problem| ViewError::UnknownKey { index, problem })?;

        let body = ConsentAct {
            subject_ref: sealer.subject_ref,
            actor: act.actor,
            effective_at,
            changes: changes.clone(),
            evidence: self.seal(&sealer, &act.evidence, mark.as_ref()),
            idempotency: mark,
        };
        self.link(recorded_at, Body::Act(body))?;

        let state = Arc::new(state);
        self.states.insert(sealer.subject_ref, Arc::clone(&state));
        self.effects.push(Effect::Act {
            subject: sealer.subject_ref,
            state,
            idempotency: mark.map(|mark| mark.key_hash),
        });
        if let Some(new) = sealer.new {
            self.subjects.insert(act.subject.clone(), (new.subject_ref, new.key.clone()));
            self.new_subjects.push(new);
        }
        let recorded = Recorded {
            index,
            recorded_at,
            effective_at,
            changes: changes.clone(),
            replayed: false,
        };
        if let Some(mark) = mark {
            self.answers.insert(mark.key_hash, (mark.request_digest, recorded.clone()));
        }
        self.events.push(Arc::new(Event {
            index,
            subject: act.subject,
            actor: act.actor,
            recorded_at,
            effective_at,
            changes,
        }));
        Ok(recorded)
    }

    /// Adds a purpose, or a new version of it, unless nothing differs.
    pub(super) fn put_purpose(&mut self, draft: PurposeDraft) -> Result<Put<Purpose>, WriteError> {
        let put = match self.purpose(draft.key.as_str()) {
            None => PurposePut {
                key: draft.key,
                version: 1,
                content: draft.content,
                oldest_compatible: draft.oldest_compatible.unwrap_or(1),
                retired: draft.retired,
            },
            Some(own) => {
                let same_content = *own.current() == draft.content;
                let oldest_compatible = draft.oldest_compatible.unwrap_or(own.oldest_compatible);
                let same_standing =
                    oldest_compatible == own.oldest_compatible && draft.retired == own.retired;
                if same_content && same_standing {
                    return Ok(Put { revision: own.index + 1, value: own.clone(), changed: false });
                }
                PurposePut {
                    key: draft.key,
                    version: own.version() + u32::from(!same_content),
                    content: draft.content,
                    oldest_compatible,
                    retired: draft.retired,
                }
            }
        };
        if put.oldest_compatible > put.version {
            return Err(WriteError::OldestCompatibleBeyondVersion {
                got: put.oldest_compatible,
                version: put.version,
            });
        }
        let key = put.key.clone();
        self.put_catalog(Body::PurposePut(put))?;
        let value = self.purpose(key.as_str()).cloned();
        let value = value.ok_or_else(|| WriteError::StateUnreadable(format!("purpose {key}")))?;
        Ok(Put { revision: self.catalog.revision, value, changed: true })
    }

    /// Adds or changes a channel, unless nothing differs.
    pub(super) fn put_channel(&mut self, put: ChannelPut) -> Result<Put<Channel>, WriteError> {
        let value =
            Channel { key: put.key.clone(), title: put.title.clone(), retired: put.retired };
        let own = self.catalog.catalog.channel_id(put.key.as_str());
        if own.and_then(|id| self.catalog.catalog.channel(id)) == Some(&value) {
            return Ok(Put { revision: self.catalog.revision, value, changed: false });
        }
        self.put_catalog(Body::ChannelPut(put))?;
        Ok(Put { revision: self.catalog.revision, value, changed: true })
    }

    fn put_catalog(&mut self, body: Body) -> Result<(), WriteError> {
        let mut catalog = CatalogAt::clone(&self.catalog);
        catalog.put(self.tip.next_index, &body);
        self.link(self.tip.clock(self.now), body)?;
        self.catalog = Arc::new(catalog);
        self.effects.push(Effect::Catalog(Arc::clone(&self.catalog)));
        Ok(())
    }

    fn purpose(&self, key: &str) -> Option<&Purpose> {
        let catalog = &self.catalog.catalog;
        catalog.purpose_id(key).and_then(|id| catalog.purpose(id))
    }

    /// Links an entry to the chain.
    fn link(&mut self, recorded_at: Millis, body: Body) -> Result<(), WriteError> {
        let (frame, tip) = self.tip.link(recorded_at, body).map_err(|error| match error {
            ChainError::TooLarge(bytes) => {
                WriteError::EntryTooLarge { bytes, limit: ENTRY_BYTES_MAX }
            }
            other => WriteError::StateUnreadable(other.to_string()),
        })?;
        self.bytes += frame.len();
        self.frames.push(frame);
        self.tip = tip;
        Ok(())
    }

    fn mark(&self, idempotency: &Idempotency) -> IdempotencyMark {
        IdempotencyMark {
            key_hash: self.core.vault.idempotency_key_hash(&idempotency.key),
            request_digest: self.core.vault.request_digest(&idempotency.request),
        }
    }

    /// What an earlier request with the same idempotency key was answered, if there was one.
    fn recorded_before(&self, mark: &IdempotencyMark) -> Result<Option<Recorded>, WriteError> {
        let (digest, recorded) = match self.answers.get(&mark.key_hash) {
            Some(answer) => answer.clone(),
            None => match self.core.view.idempotent(&mark.key_hash)? {
                None => return Ok(None),
                Some(index) => self.core.recorded_at(index)?,
            },
        };
        if digest != mark.request_digest {
            return Err(WriteError::IdempotencyKeyReused { index: recorded.index });
        }
        Ok(Some(Recorded { replayed: true, ..recorded }))
    }

    /// When the act takes effect: the caller's claim, within the skew, but never after the record.
    ///
    /// An act that takes effect as it is recorded comes after all that the subject did before, even
    /// within the same millisecond: otherwise a withdrawal right after a grant would tie with it,
    /// and lose. For that, and only for that, it may take effect a little after the record.
    fn effective_at(
        &self,
        act: &Act,
        recorded_at: Millis,
        state: &SubjectState,
    ) -> Result<Millis, WriteError> {
        let claimed = act.effective_at.unwrap_or(recorded_at);
        if claimed < recorded_at {
            return Ok(claimed);
        }
        let ahead_ms = claimed.0.saturating_sub(recorded_at.0);
        if ahead_ms > CLOCK_SKEW_MS_MAX {
            return Err(WriteError::EffectiveAtInFuture { ahead_ms });
        }
        let is_stop = act.changes.iter().any(|change| change.action != Action::Grant);
        let after = state.first_moment_after(is_stop).unwrap_or(recorded_at);
        Ok(recorded_at.max(after))
    }

    /// Changes as the ledger keeps them: with versions and expiries filled in from the catalogue.
    fn resolve(
        &self,
        changes: &[Change],
        effective_at: Millis,
    ) -> Result<Vec<ChangeRecord>, WriteError> {
        let resolve = |(position, change)| self.resolve_one(position, change, effective_at);
        changes.iter().enumerate().map(resolve).collect()
    }

    fn resolve_one(
        &self,
        change: usize,
        asked: &Change,
        effective_at: Millis,
    ) -> Result<ChangeRecord, WriteError> {
        let catalog = &self.catalog.catalog;
        let scope = catalog.resolve(&asked.scope).map_err(|unknown| match unknown {
            UnknownKey::Purpose(key) => WriteError::UnknownPurpose { change, key },
            UnknownKey::Channel(key) => WriteError::UnknownChannel { change, key },
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
            return Err(WriteError::GrantNotOneCell { change });
        };
        if purpose.retired {
            return Err(WriteError::PurposeRetired { change, key: purpose.key.clone() });
        }
        if channel.retired {
            return Err(WriteError::ChannelRetired { change, key: channel.key.clone() });
        }
        let version = asked.purpose_version.unwrap_or(purpose.version());
        let Some(content) = purpose.at_version(version) else {
            return Err(WriteError::UnknownPurposeVersion {
                change,
                key: purpose.key.clone(),
                version,
                current: purpose.version(),
            });
        };
        let by_default = content.default_validity_ms.map(|span_ms| effective_at.plus_ms(span_ms));
        record.purpose_version = version;
        record.expires_at = asked.expires_at.or(by_default);
        record.data_categories.clone_from(&asked.data_categories);
        if record.expires_at.is_some_and(|at| at <= effective_at) {
            return Err(WriteError::ExpiresBeforeEffective { change });
        }
        Ok(record)
    }

    /// The subject's name in the ledger, and its key if there is evidence to seal.
    fn sealer(&self, subject: &Subject, with_key: bool) -> Result<Sealer, WriteError> {
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

    fn state(&self, subject: SubjectRef) -> Result<Arc<SubjectState>, WriteError> {
        match self.states.get(&subject) {
            Some(state) => Ok(Arc::clone(state)),
            None => Ok(self.core.view.state(subject)?),
        }
    }

    fn seal(
        &self,
        sealer: &Sealer,
        evidence: &Evidence,
        mark: Option<&IdempotencyMark>,
    ) -> Option<Sealed> {
        let key = sealer.key.as_ref().filter(|_| *evidence != Evidence::default())?;
        Some(self.core.vault.seal_evidence(key, mark, &entry::encode_evidence(evidence)))
    }
}

impl Core {
    /// The answer that the act at `index` was given, and the digest of its request.
    fn recorded_at(&self, index: u64) -> Result<([u8; 32], Recorded), WriteError> {
        let unreadable = || WriteError::StateUnreadable(format!("no act at index {index}"));
        let Entry { recorded_at, body, .. } = self.entry(index)?;
        let Body::Act(act) = body else { return Err(unreadable()) };
        let mark = act.idempotency.ok_or_else(unreadable)?;
        let recorded = Recorded {
            index,
            recorded_at,
            effective_at: act.effective_at,
            changes: act.changes,
            replayed: true,
        };
        Ok((mark.request_digest, recorded))
    }
}

impl From<ViewError> for WriteError {
    fn from(error: ViewError) -> Self {
        Self::StateUnreadable(error.to_string())
    }
}

impl From<VaultError> for WriteError {
    fn from(error: VaultError) -> Self {
        Self::StateUnreadable(error.to_string())
    }
}
