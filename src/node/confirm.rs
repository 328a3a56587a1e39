//! Double opt-in: the answer to an act carries a token, and the token confirms the act.
//!
//! A token is derived from the person's key and a random nonce in the act's record. So a repeated request gets
//! the same token, although only its hash is looked up, and a restored ledger never makes it again.

use std::sync::Arc;

use rand::RngExt as _;

use super::{
    Core, Node,
    act::{Confirm, Confirmation, Confirmed},
    batch::{Batch, Folded, mark},
    effective::{EffectiveAtImpossible, claimed},
    error::{ConfirmError, WriteError},
};
use crate::{
    domain::{
        Body, ConfirmationOffer, ConsentAct, ConsentConfirmed, Entry, Evidence, Identity, Millis,
        Outcome, SubjectState,
    },
    format::keys::person::token_hash,
    ledger::sealed::Person,
};

impl Node {
    /// Completes a double opt-in.
    ///
    /// # Errors
    /// See [`ConfirmError`]. On error nothing is recorded.
    pub async fn confirm(&self, confirm: Confirm) -> Result<Confirmed, ConfirmError> {
        self.write(move |batch| batch.confirm(&confirm)).await
    }
}

impl Core {
    /// Adds a confirmation offer to an act that is about to be written, if some change waits for one.
    pub(super) fn offer(
        &self,
        person: &Person,
        recorded_at: Millis,
        act: &mut ConsentAct,
        validity_ms: Option<i64>,
    ) -> Option<Confirmation> {
        let waits = act.changes.iter().any(|c| c.outcome == Outcome::PendingConfirmation);
        if !waits {
            return None;
        }
        let expires_at =
            recorded_at.plus_ms(validity_ms.unwrap_or(self.limits.confirmation_validity_ms));
        let nonce: [u8; 16] = rand::rng().random();
        let token_hash = token_hash(&person.keys.confirmations().token(&nonce));
        let offer = ConfirmationOffer { nonce, token_hash, expires_at };
        act.confirmation = Some(offer);
        Some(confirmation(person, &offer))
    }
}

/// What a person gets to complete a double opt-in.
pub(super) fn confirmation(person: &Person, offer: &ConfirmationOffer) -> Confirmation {
    let token = person.keys.confirmations().token(&offer.nonce);
    Confirmation { token, expires_at: offer.expires_at }
}

impl Batch<'_> {
    /// Adds a confirmation. On error the batch is unchanged.
    pub(super) fn confirm(&mut self, confirm: &Confirm) -> Result<Confirmed, ConfirmError> {
        let (request_index, requested_at, act) = self.act_of_token(confirm)?;
        // The act of an erased data subject can not be confirmed.
        let Identity::Known(subject) = self.core().vault.identity(act.subject_ref)? else {
            return Err(ConfirmError::TokenUnknown);
        };
        let sealer = self.sealer(&subject)?;
        let mark = confirm.idempotency.as_ref().map(|it| mark(&sealer.person, it));
        if let Some(entry) = self.written_before(mark.as_ref())? {
            return Ok(confirmed_before(entry)?);
        }
        self.check_clock()?;
        self.check_offer(request_index, requested_at, &act)?;
        let evidence = self.with_authority_of(request_index, &act, &confirm.evidence)?;
        let before = self.state(act.subject_ref)?;
        let recorded_at = self.recorded_at();
        let effective_at = claimed(confirm.effective_at, recorded_at, self.earliest())
            .map_err(EffectiveAtImpossible)?
            .max(act.effective_at);
        let waiting = act.changes.iter().filter(|c| c.outcome == Outcome::PendingConfirmation);
        let mut body = ConsentConfirmed {
            subject_ref: act.subject_ref,
            request_index,
            requested_by: act.actor,
            requested_at: act.effective_at,
            authority_ends_at: act.authority_ends_at,
            effective_at,
            grants: waiting.cloned().collect(),
            idempotency: mark,
        };
        let folded = self.judge_confirmation(recorded_at, &before, &mut body)?;

        let grants = body.grants.clone();
        let (named, evidence) = ([&sealer], Some(&evidence));
        let body = Body::Confirmed(body);
        let index = self.write_folded(recorded_at, body, folded, &named, evidence)?;
        self.confirmed.insert(request_index, index);
        Ok(Confirmed { index, recorded_at, effective_at, request_index, grants, replayed: false })
    }

    /// The evidence of a confirmation, with the authority by which the act was requested: the confirmed
    /// grants are the requester's.
    fn with_authority_of(
        &self,
        index: u64,
        act: &ConsentAct,
        evidence: &Evidence,
    ) -> Result<Evidence, WriteError> {
        let authority = self.evidence(index, act.subject_ref)?.authority;
        Ok(Evidence { authority, ..evidence.clone() })
    }

    /// The act of a token, with its index and when it was recorded.
    fn act_of_token(&self, confirm: &Confirm) -> Result<(u64, Millis, ConsentAct), ConfirmError> {
        let index = self.core().view.confirmation(&token_hash(&confirm.token))?;
        let index = index.ok_or(ConfirmError::TokenUnknown)?;
        let entry = self.entry(index)?;
        let Body::Act(act) = entry.body else {
            return Err(WriteError::StateUnreadable(format!("no act at index {index}")).into());
        };
        if let Some(subject) = &confirm.subject
            && self.core().vault.find(subject)? != Some(act.subject_ref)
        {
            return Err(ConfirmError::TokenUnknown);
        }
        Ok((index, entry.recorded_at, act))
    }

    /// Whether an act can still be confirmed.
    fn check_offer(
        &self,
        index: u64,
        recorded_at: Millis,
        act: &ConsentAct,
    ) -> Result<(), ConfirmError> {
        let confirmed = match self.confirmed.get(&index) {
            Some(index) => Some(*index),
            None => self.core().view.confirmed(index)?,
        };
        if let Some(index) = confirmed {
            return Err(ConfirmError::TokenUsed { index });
        }
        let expires_at = act.confirmation.map(|offer| {
            // Not longer than by a right clock.
            self.catalog().end_of_span(index, recorded_at, offer.expires_at)
        });
        if expires_at.is_none_or(|at| at <= self.recorded_at()) {
            return Err(ConfirmError::TokenExpired);
        }
        Ok(())
    }

    /// Folds a confirmation in, and sets the outcome of each of its grants.
    fn judge_confirmation(
        &self,
        recorded_at: Millis,
        before: &Arc<SubjectState>,
        confirmed: &mut ConsentConfirmed,
    ) -> Result<Folded, WriteError> {
        let folded = self.fold(self.fact(recorded_at, confirmed), |_| Ok(Arc::clone(before)))?;
        let (subject, mark) = (confirmed.subject_ref, confirmed.mark());
        let after = folded.after.state(subject).unwrap_or(before);
        let (actor, grants) = (confirmed.requested_by, &mut confirmed.grants);
        self.outcomes(subject, before, after, mark, actor, true, grants)?;
        Ok(folded)
    }
}

/// The answer to a confirmation that is recorded already.
fn confirmed_before(entry: Entry) -> Result<Confirmed, WriteError> {
    let Entry { index, recorded_at, body, .. } = entry;
    let Body::Confirmed(confirmed) = body else {
        return Err(WriteError::IdempotencyKeyReused { index });
    };
    Ok(Confirmed {
        index,
        recorded_at,
        effective_at: confirmed.effective_at,
        request_index: confirmed.request_index,
        grants: confirmed.grants,
        replayed: true,
    })
}
